from detectron2.evaluation import SemSegEvaluator

from mask2former_ext.data.targets import SemanticTargets

from ...common.data import loaders, resize_crop_flip, writing
from ...common.model import model, semantic_only
from ...common.training import optimizer, polynomial, train  # noqa: F401


def dataloader_at(side):
    """Crops and test images of so many pixels."""
    return loaders(
        "ade20k_sem_seg_train",
        "ade20k_sem_seg_val",
        targets=SemanticTargets,
        augmentations=resize_crop_flip(side, (side, side), by_category=True, pad=True),
        test_size=(side, 4 * side),
        evaluators=[writing(SemSegEvaluator)],
        ignore_label=255,
    )


semantic_only(model)
model.sem_seg_head.num_classes = 150
dataloader = dataloader_at(512)
train.max_iter = 160000
lr_multiplier = polynomial()
