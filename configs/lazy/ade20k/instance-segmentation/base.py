from mask2former_ext.data.targets import InstanceTargets

from ...common.data import instances, loaders, resize_crop_flip
from ...common.model import model
from ...common.training import optimizer, polynomial, train  # noqa: F401

model.sem_seg_head.num_classes = 100
dataloader = loaders(
    "ade20k_instance_train",
    "ade20k_instance_val",
    targets=InstanceTargets,
    augmentations=resize_crop_flip(640, (640, 640), by_category=False, pad=True),
    test_size=(640, 2560),
    evaluators=[instances()],
)
train.max_iter = 160000
lr_multiplier = polynomial()
