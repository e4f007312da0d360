from detectron2.evaluation import CityscapesInstanceEvaluator

from mask2former_ext.data.targets import InstanceTargets

from ...common.data import cityscapes, loaders, resize_crop_flip
from ...common.model import model
from ...common.training import optimizer, polynomial, train  # noqa: F401

model.update(semantic_on=False, panoptic_on=False)
model.backbone.stem.norm = "SyncBN"
model.sem_seg_head.num_classes = 8
dataloader = loaders(
    "cityscapes_fine_instance_seg_train",
    "cityscapes_fine_instance_seg_val",
    targets=InstanceTargets,
    augmentations=resize_crop_flip(1024, (512, 1024), by_category=False, pad=False),
    test_size=(1024, 2048),
    evaluators=[cityscapes(CityscapesInstanceEvaluator)],
)
train.max_iter = 90000
lr_multiplier = polynomial()
