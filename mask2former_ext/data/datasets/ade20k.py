"""ADE20K: the 150 classes of scene parsing (semantic, panoptic, and instances of the 100 things), and all 847 classes.

One table serves the three tasks: label k of the label images is category k + 1 of the published annotations, the things
are the 100 categories of the published instance annotations in their order, and ``instance_name`` is their name there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from .loading import DatasetDict, load_semantic
from .registration import (
    read_categories,
    register,
    register_instance_dataset,
    register_panoptic_dataset,
    register_semantic_dataset,
)

SPLITS = {"train": "training", "val": "validation"}
HOW_TO_GET = (
    "ADE20K (ADEChallengeData2016) comes from http://sceneparsing.csail.mit.edu; what is expected beside its own files"
    " is made from them. datasets/README.md says how, and shows the folders."
)
HOW_TO_GET_FULL = (
    "The full ADE20K (ADE20K_2021_17_01) comes from https://groups.csail.mit.edu/vision/datasets/ADE20K; the folders"
    " that are expected are made from it. datasets/README.md shows them."
)


def ade20k_paths(root: str, split: str) -> dict[str, str]:
    """Where the files of a split ("train" or "val") lie under the folder of all datasets, keyed as in the metadata."""
    ade20k = os.path.join(root, "ADEChallengeData2016")
    return {
        "image_root": os.path.join(ade20k, "images", SPLITS[split]),
        "sem_seg_root": os.path.join(ade20k, "annotations_detectron2", SPLITS[split]),
        "panoptic_root": os.path.join(ade20k, f"ade20k_panoptic_{split}"),
        "panoptic_json": os.path.join(ade20k, f"ade20k_panoptic_{split}.json"),
        "json_file": os.path.join(ade20k, f"ade20k_instance_{split}.json"),
    }


def register_ade20k(root: str) -> None:
    """Register ade20k_{sem_seg,panoptic,instance}_{train,val} under ``root``; of the first, Detectron2's give way."""
    categories = read_categories("ade20k_150.json")
    for split in SPLITS:
        paths = ade20k_paths(root, split)
        _register_semantic(f"ade20k_sem_seg_{split}", paths, categories)
        _register_panoptic(f"ade20k_panoptic_{split}", paths, categories)
        _register_instance(f"ade20k_instance_{split}", paths, categories)


def register_ade20k_full(root: str) -> None:
    """Register ade20k_full_sem_seg_{train,val} under ``root``: 847 classes, in label images of 16 bits (.tif)."""
    stuff_classes = [category["name"] for category in read_categories("ade20k_full_847.json")]
    full = os.path.join(root, "ADE20K_2021_17_01")
    for split, folder in SPLITS.items():
        image_root = os.path.join(full, "images_detectron2", folder)
        sem_seg_root = os.path.join(full, "annotations_detectron2", folder)
        metadata = {
            "stuff_classes": stuff_classes,
            "image_root": image_root,
            "sem_seg_root": sem_seg_root,
            "evaluator_type": "sem_seg",
            "ignore_label": 65535,
        }
        register(f"ade20k_full_sem_seg_{split}", partial(load_full, image_root, sem_seg_root), metadata, replace=True)


def _register_semantic(name: str, paths: Mapping[str, str], categories: list[dict[str, Any]]) -> None:
    register_semantic_dataset(
        name,
        image_root=paths["image_root"],
        sem_seg_root=paths["sem_seg_root"],
        metadata={
            "stuff_classes": [category["name"] for category in categories],
            "stuff_colors": [category["color"] for category in categories],
        },
        how_to_get=HOW_TO_GET,
        replace=True,
    )


def _register_panoptic(name: str, paths: Mapping[str, str], categories: list[dict[str, Any]]) -> None:
    things = [category for category in categories if category["isthing"]]
    register_panoptic_dataset(
        name,
        image_root=paths["image_root"],
        panoptic_root=paths["panoptic_root"],
        panoptic_json=paths["panoptic_json"],
        instances_json=paths["json_file"],
        sem_seg_root=paths["sem_seg_root"],
        categories=categories,
        # The things alone, in their own order, though their contiguous ids are among the 150: as people know this name.
        metadata={
            "thing_classes": [category["name"] for category in things],
            "thing_colors": [category["color"] for category in things],
        },
        evaluator_type="ade20k_panoptic_seg",
        how_to_get=HOW_TO_GET,
        replace=True,
    )


def _register_instance(name: str, paths: Mapping[str, str], categories: list[dict[str, Any]]) -> None:
    register_instance_dataset(
        name,
        image_root=paths["image_root"],
        json_file=paths["json_file"],
        categories=instance_categories(categories),
        how_to_get=HOW_TO_GET,
        replace=True,
    )


def instance_categories(categories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The things of the table, with their ids and the names they have as instances."""
    return [{"id": category["id"], "name": category["instance_name"]} for category in categories if category["isthing"]]


def load_full(image_root: str, sem_seg_root: str) -> list[DatasetDict]:
    """Load images (.jpg) and 16-bit label images (.tif) of the same names by Detectron2's ``load_sem_seg``.

    Raises:
        FileNotFoundError: one of the folders is not there.
    """
    return load_semantic(image_root, sem_seg_root, how_to_get=HOW_TO_GET_FULL, label_extension="tif")
