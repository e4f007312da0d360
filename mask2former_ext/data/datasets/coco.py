"""COCO: panoptic with label images, and COCO-Stuff 10k.

Detectron2 itself registers coco_2017_{train,val} (instances) and coco_2017_{train,val}_panoptic (without label images).
"""

from __future__ import annotations

import os

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from .registration import read_categories, register_panoptic_dataset, register_semantic_dataset

STUFF_10K_SPLITS = ("train", "test")
HOW_TO_GET = (
    "COCO comes from https://cocodataset.org; its label images (panoptic_semseg_*) are made by"
    " datasets/prepare_coco_semantic.py. datasets/README.md shows the folders that are expected."
)
HOW_TO_GET_STUFF_10K = (
    "COCO-Stuff 10k (v1.1) comes from https://github.com/nightrome/cocostuff10k; images_detectron2 and"
    " annotations_detectron2 are made by datasets/prepare_coco_stuff_10k.py. datasets/README.md shows the folders that"
    " are expected."
)


def coco_panoptic_paths(root: str, split: str) -> dict[str, str]:
    """Where the files of a split ("train" or "val") lie under the folder of all datasets, keyed as in the metadata."""
    coco = os.path.join(root, "coco")
    return {
        "image_root": os.path.join(coco, f"{split}2017"),
        "panoptic_root": os.path.join(coco, f"panoptic_{split}2017"),
        "panoptic_json": os.path.join(coco, "annotations", f"panoptic_{split}2017.json"),
        "json_file": os.path.join(coco, "annotations", f"instances_{split}2017.json"),
        "sem_seg_root": os.path.join(coco, f"panoptic_semseg_{split}2017"),
    }


def coco_stuff_10k_paths(root: str, split: str) -> dict[str, str]:
    """Where the files of a split ("train" or "test") lie under the folder of all datasets, keyed as in the metadata."""
    stuff_10k = os.path.join(root, "coco", "coco_stuff_10k")
    return {
        "image_root": os.path.join(stuff_10k, "images_detectron2", split),
        "sem_seg_root": os.path.join(stuff_10k, "annotations_detectron2", split),
    }


def register_coco_panoptic(root: str) -> None:
    """Register coco_2017_{train,val}_panoptic_with_sem_seg under `root`."""
    for split in ("train", "val"):
        paths = coco_panoptic_paths(root, split)
        register_panoptic_dataset(
            f"coco_2017_{split}_panoptic_with_sem_seg",
            image_root=paths["image_root"],
            panoptic_root=paths["panoptic_root"],
            panoptic_json=paths["panoptic_json"],
            instances_json=paths["json_file"],
            sem_seg_root=paths["sem_seg_root"],
            categories=COCO_CATEGORIES,
            how_to_get=HOW_TO_GET,
            replace=True,
        )


def register_coco_stuff_10k(root: str) -> None:
    """Register coco_2017_{train,test}_stuff_10k_sem_seg under `root`."""
    categories = read_categories("coco_stuff_10k.json")
    for split in STUFF_10K_SPLITS:
        paths = coco_stuff_10k_paths(root, split)
        register_semantic_dataset(
            f"coco_2017_{split}_stuff_10k_sem_seg",
            image_root=paths["image_root"],
            sem_seg_root=paths["sem_seg_root"],
            metadata={
                "stuff_classes": [category["name"] for category in categories],
                "stuff_dataset_id_to_contiguous_id": {category["id"]: k for k, category in enumerate(categories)},
            },
            how_to_get=HOW_TO_GET_STUFF_10K,
            replace=True,
        )
