"""Mapillary Vistas (version 1.2): semantic and panoptic, 65 classes.

The table has the 66 labels of the label images in their order; the last, unlabeled, is no class but the ignore_label.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from .loading import load_panoptic
from .registration import category_metadata, read_categories, register, register_semantic_dataset

SPLITS = {"train": "training", "val": "validation"}
IGNORE_LABEL = 65
HOW_TO_GET = (
    "Mapillary Vistas (v1.2) comes from https://www.mapillary.com/dataset/vistas; datasets/README.md shows the folders"
    " that are expected."
)


def register_mapillary_vistas(root: str) -> None:
    """Register mapillary_vistas_{sem_seg,panoptic}_{train,val} under ``root``."""
    categories = [category for category in read_categories("mapillary_vistas.json") if category["evaluate"]]
    metadata = category_metadata(categories)
    vistas = os.path.join(root, "mapillary_vistas")
    for split, folder in SPLITS.items():
        image_root = os.path.join(vistas, folder, "images")
        sem_seg_root = os.path.join(vistas, folder, "labels")
        register_semantic_dataset(
            f"mapillary_vistas_sem_seg_{split}",
            image_root=image_root,
            sem_seg_root=sem_seg_root,
            metadata={key: metadata[key] for key in ("stuff_classes", "stuff_colors")},
            ignore_label=IGNORE_LABEL,
            how_to_get=HOW_TO_GET,
            replace=True,
        )
        panoptic_root = os.path.join(vistas, folder, "panoptic")
        _register_panoptic(f"mapillary_vistas_panoptic_{split}", image_root, panoptic_root, sem_seg_root, metadata)


def _register_panoptic(
    name: str, image_root: str, panoptic_root: str, sem_seg_root: str, categories: dict[str, Any]
) -> None:
    panoptic_json = os.path.join(panoptic_root, "panoptic_2018.json")
    files = {
        "image_root": image_root,
        "panoptic_root": panoptic_root,
        "panoptic_json": panoptic_json,
        "evaluator_type": "mapillary_vistas_panoptic_seg",
        "ignore_label": IGNORE_LABEL,
        "label_divisor": 1000,
    }
    loader = partial(
        load_panoptic,
        panoptic_json,
        image_root,
        panoptic_root,
        sem_seg_root=sem_seg_root,
        thing_ids=categories["thing_dataset_id_to_contiguous_id"],
        all_ids=categories["stuff_dataset_id_to_contiguous_id"],
        how_to_get=HOW_TO_GET,
    )
    register(name, loader, files | categories, replace=True)
