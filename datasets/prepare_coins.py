#!/usr/bin/env python
"""Make the quickstart dataset from the photograph of 24 coins that scikit-image ships (skimage.data.coins).

A block of six coins, the right third of the three upper rows, is held out; the rest, in two images, is for training.
Written as an ordinary COCO dataset: images, panoptic PNG and JSON, instance JSON, and label PNG (0 coin, 1 background).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import data, filters, segmentation

from mask2former_ext.data.datasets.coco_format import instance_annotation
from mask2former_ext.data.datasets.coins import CATEGORIES, SPLITS, coins_paths
from mask2former_ext.data.datasets.loading import datasets_root
from mask2former_ext.data.reading import id_to_rgb

NUM_COINS = 24


class Part(NamedTuple):
    """A rectangle of the photograph that becomes an image of the dataset; its borders cut no coin."""

    name: str
    image_id: int
    rows: slice
    columns: slice


# In the upper rows the coins left of the border end at column 239, those right of it begin at 245.
PARTS = {
    "train": (
        Part("upper_left", 1, slice(0, 225), slice(0, 242)),
        Part("bottom_row", 2, slice(225, 303), slice(0, 384)),
    ),
    "val": (Part("upper_right", 3, slice(0, 225), slice(242, 384)),),
}
COIN, BACKGROUND = (category["id"] for category in CATEGORIES)
SEGMENT_KEYS = ("id", "category_id", "area", "bbox", "iscrowd")  # of an annotation, in a panoptic JSON


def label_coins(photograph: np.ndarray) -> np.ndarray:
    """Label the coins by the region-based recipe of scikit-image's documentation.

    It is the one of the example "Comparing edge-based and region-based segmentation".

    Args:
        photograph: uint8 H×W.

    Returns:
        int32 H×W: 0 background, 1 … 24 coins.

    Raises:
        RuntimeError: the recipe does not find 24 coins.
    """
    markers = np.zeros(photograph.shape, dtype=np.int32)
    markers[photograph < 30] = 1
    markers[photograph > 150] = 2
    regions = segmentation.watershed(filters.sobel(photograph), markers)
    labels, _ = ndimage.label(ndimage.binary_fill_holes(regions - 1))
    areas = np.bincount(labels.ravel())
    coins = [label for label in range(1, len(areas)) if areas[label] > 20]  # a speck of 2 pixels is no coin
    if len(coins) != NUM_COINS:
        raise RuntimeError(
            f"Found {len(coins)} coins instead of {NUM_COINS}: another photograph? Install the pinned scikit-image."
        )
    table = np.zeros(len(areas), dtype=np.int32)
    table[coins] = np.arange(1, NUM_COINS + 1)
    return table[labels]


def split_contents(photograph: np.ndarray, labels: np.ndarray, split: str) -> dict[str, Any]:
    """Everything there is to write for a split: path relative to the folder of all datasets → array or JSON value."""
    paths = coins_paths("", split)
    contents: dict[str, Any] = {}
    images, panoptic, instances = [], [], []
    for part in PARTS[split]:
        file_name = f"{part.name}.png"
        part_labels = labels[part.rows, part.columns]
        # The background's id comes after those of all coins, so that an id means the same in all images.
        ids = np.where(part_labels > 0, part_labels, NUM_COINS + 1)
        annotations = describe_segments(ids, part.image_id)
        height, width = ids.shape
        images.append({"id": part.image_id, "file_name": file_name, "height": height, "width": width})
        panoptic.append(
            {
                "image_id": part.image_id,
                "file_name": file_name,
                "segments_info": [{key: segment[key] for key in SEGMENT_KEYS} for segment in annotations],
            }
        )
        instances += [annotation for annotation in annotations if annotation["category_id"] == COIN]
        contents |= {
            os.path.join(paths["image_root"], file_name): np.stack([photograph[part.rows, part.columns]] * 3, axis=2),
            os.path.join(paths["panoptic_root"], file_name): id_to_rgb(ids),
            os.path.join(paths["sem_seg_root"], file_name): (part_labels == 0).astype(np.uint8),
        }
    header = {"info": {"description": "rectangles of skimage.data.coins"}, "images": images}
    things = [category for category in CATEGORIES if category["isthing"]]
    return contents | {
        paths["panoptic_json"]: header | {"annotations": panoptic, "categories": CATEGORIES},
        paths["json_file"]: header | {"annotations": instances, "categories": things},
    }


def describe_segments(ids: np.ndarray, image_id: int) -> list[dict[str, Any]]:
    """COCO annotations of all segments of an H×W map of ids."""
    return [
        instance_annotation(ids == segment_id, COIN if segment_id <= NUM_COINS else BACKGROUND)
        | {"id": segment_id, "image_id": image_id}
        for segment_id in np.unique(ids).tolist()
    ]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        Image.fromarray(content).save(path)
    else:
        path.write_text(json.dumps(content), encoding="utf-8")


def holds(path: Path, content: Any) -> bool:
    """Whether the file at `path` is there and holds `content`."""
    try:
        if isinstance(content, np.ndarray):
            with Image.open(path) as image:
                return np.array_equal(np.asarray(image), content)
        return json.loads(path.read_text(encoding="utf-8")) == content
    except (OSError, ValueError, SyntaxError):
        return False


def prepare(root: Path) -> bool:
    """Write the dataset to `root`/coins, whole or not at all. An existing one is compared with what would be written.

    Returns:
        Whether anything was written.

    Raises:
        RuntimeError: there is a folder `root`/coins that holds something else.
    """
    photograph = data.coins()
    labels = label_coins(photograph)
    contents = {
        path: content for split in SPLITS for path, content in split_contents(photograph, labels, split).items()
    }
    target = root / "coins"
    if target.exists():
        wrong = [path for path, content in contents.items() if not holds(root / path, content)]
        if wrong:
            raise RuntimeError(
                f"{target} is there, but {', '.join(wrong)} is missing or differs. Remove the folder and run again."
            )
        return False
    # Written beside the target, because a rename within one folder is atomic.
    unfinished = root / f".coins-{os.getpid()}"
    try:
        for path, content in contents.items():
            write(unfinished / path, content)
        (unfinished / "coins").rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python datasets/prepare_coins.py --root /data",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(datasets_root()),
        help="folder of all datasets (default: $DETECTRON2_DATASETS, else ./datasets; now %(default)s)",
    )
    root = parser.parse_args(arguments).root
    try:
        written = prepare(root)
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{root / 'coins'}: {'written' if written else 'already there'}, {NUM_COINS} coins.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
