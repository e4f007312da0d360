"""COCO: panoptic with label images, and COCO-Stuff 10k.

Detectron2 itself registers coco_2017_{train,val} (instances) and coco_2017_{train,val}_panoptic (without label images).
"""

from __future__ import annotations

import os

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from .registration import read_categories, register_panoptic_dataset, register_semantic_dataset

HOW_TO_GET = "COCO comes from https://cocodataset.org; datasets/README.md shows the folders that are expected."


def register_coco_panoptic(root: str) -> None:
    """Register coco_2017_{train,val}_panoptic_with_sem_seg under `root`."""
    coco = os.path.join(root, "coco")
    for split in ("train", "val"):
        register_panoptic_dataset(
            f"coco_2017_{split}_panoptic_with_sem_seg",
            image_root=os.path.join(coco, f"{split}2017"),
            panoptic_root=os.path.join(coco, f"panoptic_{split}2017"),
            panoptic_json=os.path.join(coco, "annotations", f"panoptic_{split}2017.json"),
            instances_json=os.path.join(coco, "annotations", f"instances_{split}2017.json"),
            sem_seg_root=os.path.join(coco, f"panoptic_semseg_{split}2017"),
            categories=COCO_CATEGORIES,
            how_to_get=HOW_TO_GET,
            replace=True,
        )


def register_coco_stuff_10k(root: str) -> None:
    """Register coco_2017_{train,test}_stuff_10k_sem_seg under `root`."""
    categories = read_categories("coco_stuff_10k.json")
    stuff_10k = os.path.join(root, "coco", "coco_stuff_10k")
    for split in ("train", "test"):
        register_semantic_dataset(
            f"coco_2017_{split}_stuff_10k_sem_seg",
            image_root=os.path.join(stuff_10k, "images_detectron2", split),
            sem_seg_root=os.path.join(stuff_10k, "annotations_detectron2", split),
            metadata={
                "stuff_classes": [category["name"] for category in categories],
                "stuff_dataset_id_to_contiguous_id": {category["id"]: k for k, category in enumerate(categories)},
            },
            how_to_get=HOW_TO_GET,
            replace=True,
        )
