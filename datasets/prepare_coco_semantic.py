#!/usr/bin/env python
"""Make COCO's label images (panoptic_semseg_*) from its panoptic annotations.

Each pixel gets the contiguous id 0 … 132 of its category, crowds too, and 255 where there is none. These files are what
mIoU on coco_2017_*_panoptic_with_sem_seg is computed against; training does not read them.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from PIL import Image

from mask2former_ext.data.datasets import register_all
from mask2former_ext.data.datasets.coco import HOW_TO_GET
from mask2former_ext.data.datasets.loading import datasets_root, load_panoptic
from mask2former_ext.data.reading import check_segment_ids, read_image_file, rgb_to_id


def label_image(record: dict[str, Any], ignore_label: int) -> np.ndarray:
    """The labels of a panoptic dataset dict, uint8 H×W.

    Raises:
        FileNotFoundError, ValueError: the panoptic PNG is missing, broken, or contradicts the JSON.
    """
    path, segments = record["pan_seg_file_name"], record["segments_info"]
    ids = rgb_to_id(read_image_file(path, "RGB", "panoptic image"))
    png_ids = np.unique(ids)
    check_segment_ids(png_ids, segments, path, record)
    label_of_id = {segment["id"]: segment["category_id"] for segment in segments}
    table = np.array([label_of_id.get(segment_id, ignore_label) for segment_id in png_ids.tolist()], dtype=np.uint8)
    return table[np.searchsorted(png_ids, ids)]


def convert(record: dict[str, Any], folder: Path, ignore_label: int) -> None:
    """Write the label image of one record to `folder`, whole or not at all; one that is there stays."""
    target = folder / Path(record["pan_seg_file_name"]).name
    if target.exists():
        return
    unfinished = target.with_suffix(f".{os.getpid()}.tmp")
    Image.fromarray(label_image(record, ignore_label)).save(unfinished, format="PNG")
    unfinished.replace(target)


def prepare(root: str, split: str, workers: int) -> int:
    """Convert a split under `root`, the folder of all datasets; returns the number of images."""
    register_all(root)
    metadata = MetadataCatalog.get(f"coco_2017_{split}_panoptic_with_sem_seg")
    records = load_panoptic(
        metadata.panoptic_json,
        metadata.image_root,
        metadata.panoptic_root,
        sem_seg_root=None,
        thing_ids=metadata.thing_dataset_id_to_contiguous_id,
        all_ids=metadata.stuff_dataset_id_to_contiguous_id,
        how_to_get=HOW_TO_GET,
    )
    folder = Path(metadata.sem_seg_root)
    folder.mkdir(exist_ok=True)
    work = partial(convert, folder=folder, ignore_label=metadata.ignore_label)
    with ProcessPoolExecutor(workers) as pool:
        for _ in pool.map(work, records, chunksize=64):
            pass
    return len(records)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python datasets/prepare_coco_semantic.py --root /data --splits val",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--root",
        default=datasets_root(),
        help="folder of all datasets (default: $DETECTRON2_DATASETS, else ./datasets; now %(default)s)",
    )
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=("train", "val"))
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    options = parser.parse_args(arguments)
    for split in options.splits:
        try:
            count = prepare(options.root, split, options.workers)
        except (FileNotFoundError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{split}: label images of {count} images are there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
