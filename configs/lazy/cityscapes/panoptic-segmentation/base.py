from detectron2.evaluation import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator

from mask2former_ext.data.targets import PanopticTargets
from mask2former_ext.evaluation import PanopticEvaluator

from ...common.data import cityscapes, loaders, resize_crop_flip, writing
from ...common.model import model
from ...common.training import optimizer, polynomial, train  # noqa: F401

model.backbone.stem.norm = "SyncBN"
model.sem_seg_head.num_classes = 19
dataloader = loaders(
    "cityscapes_fine_panoptic_train",
    "cityscapes_fine_panoptic_val",
    targets=PanopticTargets,
    augmentations=resize_crop_flip(1024, (512, 1024), by_category=True, pad=False),
    test_size=(1024, 2048),
    evaluators=[
        writing(PanopticEvaluator),
        cityscapes(CityscapesInstanceEvaluator),
        cityscapes(CityscapesSemSegEvaluator),
    ],
    ignore_label=255,
)
train.max_iter = 90000
lr_multiplier = polynomial()
