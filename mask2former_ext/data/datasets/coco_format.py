"""Pieces of COCO's annotation files: entries of images, instances with run-length codes, whole instance files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


def image_entry(image_id: int | str, path: Path, size: tuple[int, ...], how_to_get: str) -> dict[str, Any]:
    """The entry of an image, with the ``size`` (H, W) of its annotation.

    Raises:
        OSError: the image cannot be read.
        ValueError: the image has another size than its annotation.
    """
    with Image.open(path) as image:
        width, height = image.size
    if size != (height, width):
        raise ValueError(
            f"{path}: {height}×{width} pixels (height × width), but its annotation has {size[0]}×{size[1]}."
            f" {how_to_get}"
        )
    return {"id": image_id, "file_name": path.name, "height": height, "width": width}


def instance_annotation(mask: np.ndarray, category_id: int, iscrowd: int = 0) -> dict[str, Any]:
    """An instance, still without its id and that of its image.

    Args:
        mask: bool [H, W], not empty; fastest when columns lie in one piece (Fortran order), as in COCO's codes.
    """
    code = coco_mask.encode(np.asfortranarray(mask).view(np.uint8))
    return {
        "category_id": category_id,
        "segmentation": {"size": list(mask.shape), "counts": code["counts"].decode("ascii")},
        "area": int(coco_mask.area(code)),
        "bbox": [int(number) for number in coco_mask.toBbox(code)],
        "iscrowd": iscrowd,
    }


def instance_file(records: Sequence[dict[str, Any]], categories: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The content of an instance file.

    Args:
        records: per image, ``image`` (see ``image_entry``) and ``annotations`` (see ``instance_annotation``).
        categories: ``id`` and ``name`` of all categories, whether they occur or not.
    """
    annotations = [
        annotation | {"image_id": record["image"]["id"]} for record in records for annotation in record["annotations"]
    ]
    return {
        "info": {},
        "images": [record["image"] for record in records],
        "annotations": [annotation | {"id": k} for k, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": category["id"], "name": category["name"]} for category in categories],
    }
