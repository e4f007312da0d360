"""ADE20K: the 150 classes of scene parsing (semantic, panoptic, and instances of the 100 things), and all 847 classes.

One table serves the three tasks: label k of the label images is category k + 1 of the published annotations, the things
are the 100 categories of the published instance annotations in their order, and ``instance_name`` is their name there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from detectron2.data.datasets import load_coco_json, load_sem_seg

from .loading import DatasetDict, load_panoptic, require_path
from .registration import category_metadata, read_categories, register, register_semantic_dataset

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
    metadata = category_metadata(categories) | {
        # The things alone, in their own order, though their contiguous ids are among the 150: as people know this name.
        "thing_classes": [category["name"] for category in things],
        "thing_colors": [category["color"] for category in things],
        "evaluator_type": "ade20k_panoptic_seg",
        "ignore_label": 255,
        "label_divisor": 1000,
    }
    metadata |= {key: paths[key] for key in ("image_root", "panoptic_root", "panoptic_json", "json_file")}
    loader = partial(
        load_panoptic,
        paths["panoptic_json"],
        paths["image_root"],
        paths["panoptic_root"],
        sem_seg_root=paths["sem_seg_root"],
        thing_ids=metadata["thing_dataset_id_to_contiguous_id"],
        all_ids=metadata["stuff_dataset_id_to_contiguous_id"],
        how_to_get=HOW_TO_GET,
    )
    register(name, loader, metadata, replace=True)


def _register_instance(name: str, paths: Mapping[str, str], categories: list[dict[str, Any]]) -> None:
    things = [category for category in categories if category["isthing"]]
    thing_ids = {category["id"]: k for k, category in enumerate(things)}
    metadata = {
        "json_file": paths["json_file"],
        "image_root": paths["image_root"],
        "evaluator_type": "coco",
        "thing_dataset_id_to_contiguous_id": thing_ids,
        "thing_classes": [category["instance_name"] for category in things],
    }
    loader = partial(load_instances, paths["json_file"], paths["image_root"], thing_ids)
    register(name, loader, metadata, replace=True)


def load_instances(json_file: str, image_root: str, thing_ids: Mapping[int, int]) -> list[DatasetDict]:
    """Load instance annotations in COCO format; their categories become contiguous ids.

    Args:
        thing_ids: category id of the file → contiguous id.

    Raises:
        FileNotFoundError: the annotations, or the first image, are not there.
        ValueError: an annotation has a category that is not among ``thing_ids``.
    """
    require_path(json_file, "instance annotations", HOW_TO_GET)
    dicts = load_coco_json(json_file, image_root)
    for record in dicts:
        for annotation in record["annotations"]:
            category = annotation["category_id"]
            if category not in thing_ids:
                raise ValueError(
                    f"{json_file}, image_id {record['image_id']}: category_id {category} is no thing of ADE20K. In this"
                    " file things have their ids of label images (7 … 149), not those of the instance PNGs (1 … 100)."
                )
            annotation["category_id"] = thing_ids[category]
    for record in dicts[:1]:
        require_path(record["file_name"], "first image", HOW_TO_GET)
    return dicts


def load_full(image_root: str, sem_seg_root: str) -> list[DatasetDict]:
    """Load images (.jpg) and 16-bit label images (.tif) of the same names by Detectron2's ``load_sem_seg``.

    Raises:
        FileNotFoundError: one of the folders is not there.
    """
    require_path(image_root, "folder of images", HOW_TO_GET_FULL)
    require_path(sem_seg_root, "folder of label images", HOW_TO_GET_FULL)
    return load_sem_seg(sem_seg_root, image_root, gt_ext="tif")
