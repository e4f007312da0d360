from detectron2.evaluation import SemSegEvaluator

from mask2former_ext.data.targets import PanopticTargets
from mask2former_ext.evaluation import PanopticEvaluator

from ...common.data import loaders, resize_crop_flip, writing
from ...common.model import model
from ...common.training import optimizer, polynomial, train  # noqa: F401

model.update(instance_on=False, object_mask_threshold=0.0)
model.sem_seg_head.num_classes = 65
dataloader = loaders(
    "mapillary_vistas_panoptic_train",
    "mapillary_vistas_panoptic_val",
    targets=PanopticTargets,
    augmentations=resize_crop_flip(2048, (1024, 1024), by_category=True, pad=True),
    test_size=(2048, 2048),
    evaluators=[writing(PanopticEvaluator), writing(SemSegEvaluator)],
    ignore_label=65,
    num_workers=10,
)
train.update(max_iter=300000, eval_period=0)
lr_multiplier = polynomial()
