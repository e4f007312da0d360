from detectron2.evaluation import CityscapesSemSegEvaluator

from mask2former_ext.data.targets import SemanticTargets

from ...common.data import cityscapes, loaders, resize_crop_flip
from ...common.model import model, semantic_only
from ...common.training import optimizer, polynomial, train  # noqa: F401

semantic_only(model)
model.backbone.stem.norm = "SyncBN"
model.sem_seg_head.num_classes = 19
dataloader = loaders(
    "cityscapes_fine_sem_seg_train",
    "cityscapes_fine_sem_seg_val",
    targets=SemanticTargets,
    augmentations=resize_crop_flip(1024, (512, 1024), by_category=True, pad=False),
    test_size=(1024, 2048),
    evaluators=[cityscapes(CityscapesSemSegEvaluator)],
    ignore_label=255,
)
train.max_iter = 90000
lr_multiplier = polynomial()
