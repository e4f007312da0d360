from mask2former_ext.data.targets import InstanceTargets

from ...common.data import instances, large_scale_jitter, loaders
from ...common.model import model
from ...common.training import multi_step, optimizer, train  # noqa: F401

model.update(semantic_on=False, panoptic_on=False)
model.sem_seg_head.num_classes = 80
dataloader = loaders(
    "coco_2017_train",
    "coco_2017_val",
    targets=InstanceTargets,
    augmentations=large_scale_jitter(),
    test_size=(800, 1333),
    evaluators=[instances()],
)
train.max_iter = 368750
lr_multiplier = multi_step(327778, 355092, max_iter=train.max_iter)
