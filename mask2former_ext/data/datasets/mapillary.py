"""Mapillary Vistas (version 1.2): semantic, panoptic and instance, 65 classes of which 37 are things.

The table has the 66 labels of the label images in their order; the last, unlabeled, is no class but the ignore_label.
"""

from __future__ import annotations

import os
from typing import Any

from .registration import (
    read_categories,
    register_instance_dataset,
    register_panoptic_dataset,
    register_semantic_dataset,
)

SPLITS = {"train": "training", "val": "validation"}
IGNORE_LABEL = 65
HOW_TO_GET = (
    "Mapillary Vistas (v1.2) comes from https://www.mapillary.com/dataset/vistas; the instance annotations are made by"
    " datasets/prepare_mapillary_vistas_ins_seg.py. datasets/README.md shows the folders that are expected."
)


def mapillary_vistas_paths(root: str, split: str) -> dict[str, str]:
    """Where the files of a split ("train" or "val") lie under the folder of all datasets, keyed as in the metadata."""
    vistas = os.path.join(root, "mapillary_vistas")
    folder = os.path.join(vistas, SPLITS[split])
    return {
        "image_root": os.path.join(folder, "images"),
        "sem_seg_root": os.path.join(folder, "labels"),
        "panoptic_root": os.path.join(folder, "panoptic"),
        "panoptic_json": os.path.join(folder, "panoptic", "panoptic_2018.json"),
        "json_file": os.path.join(vistas, f"mapillary_vistas_instance_{split}.json"),
    }


def mapillary_vistas_categories() -> list[dict[str, Any]]:
    """The 65 categories, in the order of their labels."""
    return [category for category in read_categories("mapillary_vistas.json") if category["evaluate"]]


def register_mapillary_vistas(root: str) -> None:
    """Register mapillary_vistas_{sem_seg,panoptic,instance}_{train,val} under ``root``."""
    categories = mapillary_vistas_categories()
    common: dict[str, Any] = {"how_to_get": HOW_TO_GET, "replace": True}
    for split in SPLITS:
        paths = mapillary_vistas_paths(root, split)
        register_semantic_dataset(
            f"mapillary_vistas_sem_seg_{split}",
            image_root=paths["image_root"],
            sem_seg_root=paths["sem_seg_root"],
            metadata={
                "stuff_classes": [category["name"] for category in categories],
                "stuff_colors": [category["color"] for category in categories],
            },
            ignore_label=IGNORE_LABEL,
            **common,
        )
        register_panoptic_dataset(
            f"mapillary_vistas_panoptic_{split}",
            image_root=paths["image_root"],
            panoptic_root=paths["panoptic_root"],
            panoptic_json=paths["panoptic_json"],
            instances_json=paths["json_file"],
            sem_seg_root=paths["sem_seg_root"],
            categories=categories,
            ignore_label=IGNORE_LABEL,
            evaluator_type="mapillary_vistas_panoptic_seg",
            **common,
        )
        register_instance_dataset(
            f"mapillary_vistas_instance_{split}",
            image_root=paths["image_root"],
            json_file=paths["json_file"],
            categories=[category for category in categories if category["isthing"]],
            **common,
        )
