"""Datasets that Detectron2 registers and the configs use: where they are missing, say how to get them.

Names, loaders and metadata stay Detectron2's; only its errors ("No such file", an assertion) give way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from .coco import HOW_TO_GET as HOW_TO_GET_COCO
from .loading import DatasetDict, require_path
from .registration import Loader

HOW_TO_GET_CITYSCAPES = (
    "Cityscapes (leftImg8bit and gtFine) comes from https://www.cityscapes-dataset.com; what is expected beside its own"
    " files is made by the commands of cityscapesscripts. datasets/README.md shows them and the folders."
)
HOW_TO_GET_LVIS = (
    "LVIS comes from https://www.lvisdataset.org, its images from https://cocodataset.org; datasets/README.md shows the"
    " folders."
)


class Builtin(NamedTuple):
    """Some of Detectron2's datasets.

    Attributes:
        names: as they are registered.
        paths: metadata keys of what their loaders read.
        how_to_get: a sentence for errors about missing files.
    """

    names: Sequence[str]
    paths: Sequence[str]
    how_to_get: str


BUILTIN = (
    Builtin(("coco_2017_train", "coco_2017_val"), ("json_file", "image_root"), HOW_TO_GET_COCO),
    Builtin(
        ("coco_2017_train_panoptic", "coco_2017_val_panoptic"),
        ("panoptic_json", "panoptic_root", "image_root"),
        HOW_TO_GET_COCO,
    ),
    Builtin(
        tuple(f"cityscapes_fine_{task}_{split}" for task in ("instance_seg", "sem_seg") for split in ("train", "val")),
        ("image_dir", "gt_dir"),
        HOW_TO_GET_CITYSCAPES,
    ),
    Builtin(
        ("cityscapes_fine_panoptic_train", "cityscapes_fine_panoptic_val"),
        ("image_root", "gt_dir", "panoptic_json", "panoptic_root"),
        HOW_TO_GET_CITYSCAPES,
    ),
    Builtin(("lvis_v1_train", "lvis_v1_val"), ("json_file", "image_root"), HOW_TO_GET_LVIS),
)


def explain_missing_builtin_datasets() -> None:
    """Make the loaders of :data:`BUILTIN` check first that their files are there. Doing it again is harmless."""
    for datasets in BUILTIN:
        for name in set(datasets.names) & set(DatasetCatalog.list()):
            present = DatasetCatalog[name]
            original = getattr(present, "__wrapped__", present)
            DatasetCatalog[name] = _checked(original, name, datasets)


def _checked(loader: Loader, name: str, datasets: Builtin) -> Loader:
    @wraps(loader)
    def checked() -> list[DatasetDict]:
        metadata = MetadataCatalog.get(name).as_dict()
        for key in (key for key in datasets.paths if key in metadata):
            require_path(metadata[key], f"{key} of {name}", datasets.how_to_get)
        return loader()

    return checked
