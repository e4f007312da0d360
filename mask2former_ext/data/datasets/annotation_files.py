"""Reading of COCO's annotation files: what is wrong in one is said by its path, its entry, and the way out."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)

NUMBER = (int, float)
Entries = dict[int | str, dict[str, Any]]


def read_json(path: str, lists: Iterable[str]) -> dict[str, Any]:
    """Read an annotation file.

    Args:
        path: the file.
        lists: keys under which it must have lists.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or lacks a list.
    """
    try:
        with PathManager.open(path, "rb") as file:
            content = json.loads(file.read().decode())
    except (ValueError, RecursionError) as error:  # the first also where text is not UTF-8
        raise ValueError(f"{path}: this is no JSON ({error}). Get or make the file again.") from error
    lacking = [key for key in lists if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if lacking:
        raise ValueError(
            f"{path}: not annotations in COCO's format, which are an object with lists; there is no list "
            f"{', '.join(lacking)}. Convert the annotations to COCO's format."
        )
    return content


def entries_by(
    key: str, entries: Sequence[Any], required: Sequence[str], where: str
) -> dict[int | str, dict[str, Any]]:
    """Index entries by ``key``.

    Args:
        required: keys that each must have.
        where: file and kind of the entries, for errors.

    Raises:
        ValueError: an entry lacks something, or two have the same key.
    """
    found: Entries = {}
    for k, entry in enumerate(entries):
        lacking = [name for name in required if not isinstance(entry, Mapping) or name not in entry]
        if lacking:
            raise ValueError(f"{where}, entry {k}: it lacks {', '.join(lacking)}. Complete the file.")
        if not isinstance(entry.get("file_name", ""), str):
            raise ValueError(f"{where}, entry {k}: file_name is {entry['file_name']!r}, not text.")
        identity = entry[key]
        if not isinstance(identity, (int, str)):
            raise ValueError(f"{where}, entry {k}: {key} is {identity!r}, which is neither a number nor a name.")
        if identity in found:
            raise ValueError(f"{where}: {key} {identity!r} occurs twice. Each must have its own; remove or rename one.")
        found[identity] = entry
    if len({type(identity) for identity in found}) > 1:
        raise ValueError(f"{where}: some have a number as {key}, others a name. Use one of them.")
    return found


def check_instances(content: Mapping[str, Any], path: str) -> None:
    """Check what Detectron2's ``load_coco_json`` would trip over, or pass over in silence.

    What it leaves out, annotations of images that are not listed and polygons that have no area, is warned of.

    Raises:
        ValueError: something is missing, contradictory, or not of COCO's format.
    """
    images = entries_by("id", content["images"], ("id", "file_name", "height", "width"), f"{path}, images")
    required = ("id", "image_id", "category_id")
    annotations = entries_by("id", content["annotations"], required, f"{path}, annotations")
    strays, no_area = [], []
    for identity, annotation in annotations.items():
        where = f"{path}, annotation {identity} of image_id {annotation['image_id']}"
        if not isinstance(annotation["image_id"], (int, str)) or not isinstance(annotation["category_id"], int):
            raise ValueError(f"{where}: its category_id is {annotation['category_id']}; ids must be whole numbers.")
        if annotation["image_id"] not in images:
            strays.append(identity)
        if annotation.get("ignore", 0) != 0:  # Detectron2 refuses null, too
            raise ValueError(f'{where}: "ignore" is not COCO\'s. Mark regions to ignore with "iscrowd": 1.')
        _check_box(annotation.get("bbox", [0, 0, 0, 0]), where)
        if not _has_area(annotation.get("segmentation"), where):
            no_area.append(identity)
    _warn_of(strays, len(annotations), path, "of images that it does not list")
    _warn_of(no_area, len(annotations), path, "in part, or whole: polygons that are no x and y of at least 3 points")


def _warn_of(found: Sequence[int | str], total: int, path: str, why: str) -> None:
    if found:
        text = "%s: left out %d of %d annotations, %s; the first has id %s."
        logger.warning(text, path, len(found), total, why, found[0])


def _check_box(box: Any, where: str) -> None:
    is_box = isinstance(box, list) and len(box) == 4 and all(isinstance(number, NUMBER) for number in box)
    if not is_box or not math.isfinite(sum(box)) or box[2] < 0 or box[3] < 0:
        raise ValueError(
            f"{where}: bbox is {box}; it must be [x, y, width, height] in pixels, finite and not negative. Correct or "
            "remove it: training takes the box of the mask then, and only AP of boxes needs one here."
        )


def _has_area(segmentation: Any, where: str) -> bool:
    """Tell whether no polygon is degenerate; ValueError if these are no polygons and no run-length code."""
    if not segmentation:  # a box alone, which is refused where a mask is needed
        return True
    if isinstance(segmentation, dict):
        _check_code(segmentation, where)
        return True
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        raise ValueError(
            f"{where}: segmentation is neither a list of polygons [[x, y, x, y, …], …] nor a run-length code. A single "
            "polygon stands in a list, too."
        )
    return all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation)


def _check_code(code: Mapping[str, Any], where: str) -> None:
    size, counts = code.get("size"), code.get("counts")
    sized = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
    counted = isinstance(counts, str) or (
        isinstance(counts, list) and all(isinstance(run, int) and 0 <= run < 2**32 for run in counts)
    )
    if not sized or not counted:
        raise ValueError(
            f"{where}: a run-length code has size [height, width] and counts, which are text or whole numbers that are "
            "not negative. Encode the mask again."
        )
