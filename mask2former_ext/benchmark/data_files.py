"""Photographs with annotations like COCO's, made up: for benchmarks where no data set is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode, polygons_to_bitmask
from PIL import Image

from ..data.reading import DatasetDict, id_to_rgb

HEIGHT, WIDTH = 480, 640
CORNERS = (12, 60)
REACH = (15.0, 140.0)
STUFF_BANDS = 4


def make_dataset(
    folder: Path, *, images: int, objects: tuple[int, int], classes: int, seed: int = 0
) -> list[DatasetDict]:
    """Write photographs and annotations that every mapper can read.

    An object is a jagged polygon, one in five in two parts; in panoptic images and label maps objects lie upon bands
    of stuff, and what is hidden below another object is gone.

    Args:
        folder: where the files go; it exists.
        images: how many, of 480×640 pixels.
        objects: fewest and most in an image.
        classes: labels are 0 … ``classes`` - 1.
        seed: of all that is drawn; the same one gives the same files.

    Returns:
        Dataset dicts in Detectron2's standard format with all of ``annotations``, ``pan_seg_file_name`` with
        ``segments_info``, and ``sem_seg_file_name``.
    """
    rng = np.random.default_rng(seed)
    return [
        _make_image(folder, number, int(rng.integers(*objects, endpoint=True)), classes, rng)
        for number in range(images)
    ]


def _make_image(folder: Path, number: int, objects: int, classes: int, rng: np.random.Generator) -> DatasetDict:
    file_name = folder / f"{number:06}.jpg"
    Image.fromarray(_photograph(rng)).save(file_name, quality=90)
    annotations = [_annotation(k, classes, rng) for k in range(objects)]

    ids = np.repeat(1 + np.arange(HEIGHT) * STUFF_BANDS // HEIGHT, WIDTH).reshape(HEIGHT, WIDTH)
    labels = {int(band): int(rng.integers(classes)) for band in np.unique(ids)}
    for annotation in annotations:
        segment_id = 1000 * (len(labels) + 1)
        labels[segment_id] = annotation["category_id"]
        ids[polygons_to_bitmask(annotation["segmentation"], HEIGHT, WIDTH)] = segment_id
    seen, positions = np.unique(ids, return_inverse=True)

    panoptic, semantic = folder / f"{number:06}_panoptic.png", folder / f"{number:06}_semantic.png"
    Image.fromarray(id_to_rgb(ids)).save(panoptic)
    table = np.array([labels[segment_id] for segment_id in seen.tolist()], dtype=np.uint8)
    Image.fromarray(table[positions].reshape(HEIGHT, WIDTH)).save(semantic)
    return {
        "file_name": str(file_name),
        "image_id": number,
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": annotations,
        "pan_seg_file_name": str(panoptic),
        "segments_info": [{"id": k, "category_id": labels[k], "iscrowd": 0} for k in seen.tolist()],
        "sem_seg_file_name": str(semantic),
    }


def _photograph(rng: np.random.Generator) -> np.ndarray:
    """Soft patches of colour with noise: about as hard to decode as a photograph."""
    patches = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(patches.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def _annotation(number: int, classes: int, rng: np.random.Generator) -> dict[str, Any]:
    polygons = [_polygon(rng) for _ in range(2 if number % 5 == 4 else 1)]
    points = np.concatenate(polygons).reshape(-1, 2)
    return {
        "category_id": int(rng.integers(classes)),
        "iscrowd": 0,
        "bbox": [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()],
        "bbox_mode": BoxMode.XYXY_ABS,
        "segmentation": [polygon.tolist() for polygon in polygons],
    }


def _polygon(rng: np.random.Generator) -> np.ndarray:
    """Corners x0, y0, x1, y1, … around a center, given to hundredths of a pixel as COCO's are."""
    corners, reach = int(rng.integers(*CORNERS)), rng.uniform(*REACH)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = reach * rng.uniform(0.7, 1.0, corners)
    x = rng.uniform(0, WIDTH) + radii * np.cos(angles)
    y = rng.uniform(0, HEIGHT) + radii * np.sin(angles)
    return np.stack([x.clip(0, WIDTH), y.clip(0, HEIGHT)], axis=1).round(2).reshape(-1)
