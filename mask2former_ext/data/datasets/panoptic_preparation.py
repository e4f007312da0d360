"""From COCO panoptic annotations to what else their datasets need: COCO's label images, Mapillary Vistas' instances.

A record is a dataset dict of ``load_panoptic``. Shape legend: H, W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ..reading import check_segment_ids, read_image_file, rgb_to_id
from . import coco, mapillary
from .coco_format import image_entry, instance_annotation, instance_file
from .loading import DatasetDict, load_panoptic
from .preparation import make_annotations, make_files, save_png
from .registration import category_metadata

VOID = 255


def label_image(record: DatasetDict) -> np.ndarray:
    """Contiguous id of the category at each pixel, uint8 [H, W], crowds too, and 255 where there is none.

    Raises:
        FileNotFoundError, ValueError: the panoptic PNG is missing, broken, or contradicts the JSON.
    """
    ids = _segment_map(record)
    label_of_id = {segment["id"]: segment["category_id"] for segment in record["segments_info"]}
    png_ids = np.unique(ids)
    table = np.array([label_of_id.get(segment_id, VOID) for segment_id in png_ids.tolist()], dtype=np.uint8)
    return table[np.searchsorted(png_ids, ids)]


def instance_record(record: DatasetDict, category_of_label: Mapping[int, int], how_to_get: str) -> dict[str, Any]:
    """The things of an image as instances in COCO's format, with the ids of the panoptic annotations.

    Args:
        category_of_label: contiguous id → category id, of the things.

    Returns:
        ``image`` and ``annotations``, see ``instance_file``.

    Raises:
        OSError, ValueError: image or panoptic PNG are missing or broken, or contradict each other or the JSON.
    """
    ids = np.asfortranarray(_segment_map(record))  # for the codes, see instance_annotation
    annotations = [
        instance_annotation(ids == segment["id"], category_of_label[segment["category_id"]], segment.get("iscrowd", 0))
        for segment in record["segments_info"]
        if segment["category_id"] in category_of_label
    ]
    image = image_entry(record["image_id"], Path(record["file_name"]), ids.shape, how_to_get)
    return {"image": image, "annotations": annotations}


def _segment_map(record: DatasetDict) -> np.ndarray:
    """Id of the segment at each pixel, int32 [H, W]; it has the segments of the record, and 0 where there is none."""
    path = record["pan_seg_file_name"]
    ids = rgb_to_id(read_image_file(path, "RGB", "panoptic image"))
    check_segment_ids(np.unique(ids), record["segments_info"], path, record)
    return ids


def _load(
    paths: Mapping[str, str], categories: Sequence[dict[str, Any]], limit: int | None, how_to_get: str
) -> dict[str, DatasetDict]:
    """Records by the names (without suffix) of their panoptic PNGs, sorted, of which the first ``limit``."""
    of_categories = category_metadata(categories)
    records = load_panoptic(
        paths["panoptic_json"],
        paths["image_root"],
        paths["panoptic_root"],
        sem_seg_root=None,
        thing_ids=of_categories["thing_dataset_id_to_contiguous_id"],
        all_ids=of_categories["stuff_dataset_id_to_contiguous_id"],
        how_to_get=how_to_get,
    )
    by_name = {Path(record["pan_seg_file_name"]).stem: record for record in records}
    return {name: by_name[name] for name in sorted(by_name)[:limit]}


def _convert_label_image(record: DatasetDict, folder: Path) -> None:
    save_png(folder / Path(record["pan_seg_file_name"]).name, label_image(record))


def prepare_coco_semantic(root: str, split: str, *, workers: int, limit: int | None = None) -> int:
    """Write the label images of coco_2017_*_panoptic_with_sem_seg; files that are there stay.

    Args:
        root: folder of all datasets.
        split: "train" or "val".
        workers: number of processes.
        limit: only so many images.

    Returns:
        The number of images.

    Raises:
        OSError: something that was published is not there, or the disk is full.
        ValueError: an annotation is not as it was published.
    """
    paths = coco.coco_panoptic_paths(root, split)
    records = _load(paths, COCO_CATEGORIES, limit, coco.HOW_TO_GET)
    folder = Path(paths["sem_seg_root"])
    folder.mkdir(exist_ok=True)
    make_files(
        partial(_convert_label_image, folder=folder),
        records,
        lambda name: [folder / f"{name}.png"],
        workers=workers,
        description=f"COCO semantic, {split}",
    )
    return len(records)


def prepare_mapillary_instance(root: str, split: str, *, workers: int, limit: int | None = None) -> int:
    """Write the annotations of mapillary_vistas_instance_*; see ``prepare_coco_semantic``."""
    paths = mapillary.mapillary_vistas_paths(root, split)
    categories = mapillary.mapillary_vistas_categories()
    records = _load(paths, categories, limit, mapillary.HOW_TO_GET)
    things = [category for category in categories if category["isthing"]]
    category_of_label = {k: category["id"] for k, category in enumerate(categories) if category["isthing"]}
    make_annotations(
        partial(instance_record, category_of_label=category_of_label, how_to_get=mapillary.HOW_TO_GET),
        records,
        Path(paths["json_file"]),
        partial(instance_file, categories=things),
        workers=workers,
        description=f"Mapillary Vistas instances, {split}",
    )
    return len(records)
