from detectron2.evaluation import SemSegEvaluator

from mask2former_ext.data.targets import PanopticTargets
from mask2former_ext.evaluation import PanopticEvaluator
from mask2former_ext.evaluation.instance import ThingInstanceEvaluator

from ...common.data import instances, loaders, resize_crop_flip, writing
from ...common.model import model
from ...common.training import optimizer, polynomial, train  # noqa: F401

model.sem_seg_head.num_classes = 150
dataloader = loaders(
    "ade20k_panoptic_train",
    "ade20k_panoptic_val",
    targets=PanopticTargets,
    augmentations=resize_crop_flip(640, (640, 640), by_category=True, pad=True),
    test_size=(640, 2560),
    evaluators=[writing(SemSegEvaluator), writing(PanopticEvaluator), instances(ThingInstanceEvaluator)],
    ignore_label=255,
)
train.max_iter = 160000
lr_multiplier = polynomial()
