"""The quickstart dataset: one photograph of 24 coins, cut into a part to train on and a part to evaluate on.

`datasets/prepare_coins.py` writes it, in the folders that `coins_paths` names.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from detectron2.data.datasets import load_coco_json

from .loading import load_panoptic, require_path
from .registration import category_metadata, register

SPLITS = ("train", "val")
CATEGORIES: list[dict[str, Any]] = [
    {"id": 1, "name": "coin", "isthing": 1, "color": [220, 170, 40]},
    {"id": 2, "name": "background", "isthing": 0, "color": [70, 80, 110]},
]
HOW_TO_GET = "Make it by: python datasets/prepare_coins.py"


def coins_paths(root: str, split: str) -> dict[str, str]:
    """Where the files of a split lie under the folder of all datasets, keyed as in the metadata."""
    coins = os.path.join(root, "coins")
    return {
        "image_root": os.path.join(coins, split),
        "panoptic_root": os.path.join(coins, f"panoptic_{split}"),
        "panoptic_json": os.path.join(coins, "annotations", f"panoptic_{split}.json"),
        "json_file": os.path.join(coins, "annotations", f"instances_{split}.json"),
        "sem_seg_root": os.path.join(coins, f"panoptic_semseg_{split}"),
    }


def register_coins(root: str) -> None:
    """Register coins_{train,val} under `root`; their dicts serve panoptic, instance and semantic training alike."""
    for split in SPLITS:
        paths = coins_paths(root, split)
        metadata = paths | category_metadata(CATEGORIES)
        metadata |= {"evaluator_type": "coco_panoptic_seg", "ignore_label": 255, "label_divisor": 1000}
        register(f"coins_{split}", partial(load_coins, paths), metadata, replace=True)


def load_coins(paths: dict[str, str]) -> list[dict[str, Any]]:
    """Panoptic dataset dicts of a split, each with the instance annotations of its image as well."""
    metadata = category_metadata(CATEGORIES)
    dicts = load_panoptic(
        paths["panoptic_json"],
        paths["image_root"],
        paths["panoptic_root"],
        sem_seg_root=paths["sem_seg_root"],
        thing_ids=metadata["thing_dataset_id_to_contiguous_id"],
        all_ids=metadata["stuff_dataset_id_to_contiguous_id"],
        how_to_get=HOW_TO_GET,
    )
    require_path(paths["json_file"], "instance annotations", HOW_TO_GET)
    thing_ids = metadata["thing_dataset_id_to_contiguous_id"]
    annotations = {}
    for record in load_coco_json(paths["json_file"], paths["image_root"]):
        annotations[record["image_id"]] = [
            annotation | {"category_id": thing_ids[annotation["category_id"]]} for annotation in record["annotations"]
        ]
    return [record | {"annotations": annotations[record["image_id"]]} for record in dicts]
