"""Registered datasets, under $DETECTRON2_DATASETS ("datasets" when it is not set). One short file a family.

Importing this registers names and metadata, and looks at no dataset file.
"""

from .coco import register_coco_panoptic, register_coco_stuff_10k
from .coins import register_coins
from .loading import datasets_root
from .registration import check_panoptic_metadata, register_panoptic_dataset, register_semantic_dataset

__all__ = ["check_panoptic_metadata", "register_all", "register_panoptic_dataset", "register_semantic_dataset"]

FAMILIES = (register_coco_panoptic, register_coco_stuff_10k, register_coins)


def register_all(root: str) -> None:
    """Register every dataset of this package under the folder `root`, in place of those registered before."""
    for register_family in FAMILIES:
        register_family(root)


register_all(datasets_root())
