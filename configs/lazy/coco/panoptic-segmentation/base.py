from detectron2.evaluation import SemSegEvaluator

from mask2former_ext.data.targets import PanopticTargets
from mask2former_ext.evaluation import PanopticEvaluator

from ...common.data import instances, large_scale_jitter, loaders, writing
from ...common.model import model  # noqa: F401
from ...common.training import multi_step, optimizer, train  # noqa: F401

dataloader = loaders(
    "coco_2017_train_panoptic",
    "coco_2017_val_panoptic_with_sem_seg",
    targets=PanopticTargets,
    augmentations=large_scale_jitter(),
    test_size=(800, 1333),
    evaluators=[writing(PanopticEvaluator), instances(), writing(SemSegEvaluator)],
)
train.max_iter = 368750
lr_multiplier = multi_step(327778, 355092, max_iter=train.max_iter)
