"""Registered datasets, under $DETECTRON2_DATASETS ("datasets" when it is not set). One short file a family.

Importing this registers names and metadata, and looks at no dataset file.
"""

from .ade20k import register_ade20k, register_ade20k_full
from .builtin import explain_missing_builtin_datasets
from .coco import register_coco_panoptic, register_coco_stuff_10k
from .coins import register_coins
from .loading import datasets_root
from .mapillary import register_mapillary_vistas
from .registration import (
    check_panoptic_metadata,
    register_instance_dataset,
    register_panoptic_dataset,
    register_semantic_dataset,
)

__all__ = [
    "check_panoptic_metadata",
    "register_all",
    "register_instance_dataset",
    "register_panoptic_dataset",
    "register_semantic_dataset",
]

FAMILIES = (
    register_ade20k,
    register_ade20k_full,
    register_coco_panoptic,
    register_coco_stuff_10k,
    register_coins,
    register_mapillary_vistas,
)


def register_all(root: str) -> None:
    """Register every dataset of this package under the folder `root`, in place of those registered before."""
    for register_family in FAMILIES:
        register_family(root)


register_all(datasets_root())
explain_missing_builtin_datasets()
