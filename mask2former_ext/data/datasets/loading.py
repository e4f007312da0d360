"""Dataset files → dataset dicts in Detectron2's standard format. Nothing here runs before a dataset is used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from detectron2.data.datasets import load_coco_json, load_sem_seg
from detectron2.utils.file_io import PathManager

from .annotation_files import check_instances, entries_by, read_json

DatasetDict = dict[str, Any]


def datasets_root() -> str:
    """The folder of all datasets: $DETECTRON2_DATASETS, else "datasets"; read when called."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def require_path(path: str, what: str, how_to_get: str) -> None:
    """Raise FileNotFoundError, saying how to get the dataset, unless `path` is a file or folder."""
    if PathManager.exists(path):
        return
    root = os.getenv("DETECTRON2_DATASETS")
    setting = "DETECTRON2_DATASETS is not set" if root is None else f'DETECTRON2_DATASETS is "{root}"'
    raise FileNotFoundError(
        f"{path}: this does not exist (the {what}). {setting}; the working folder is {os.getcwd()}. {how_to_get}"
    )


def load_panoptic(
    panoptic_json: str,
    image_root: str,
    panoptic_root: str,
    *,
    sem_seg_root: str | None,
    thing_ids: Mapping[int, int],
    all_ids: Mapping[int, int],
    how_to_get: str,
) -> list[DatasetDict]:
    """Load COCO panoptic annotations.

    Args:
        panoptic_json, image_root, panoptic_root, sem_seg_root: see `register_panoptic_dataset`.
        thing_ids: category ids of the file that are things (their contiguous ids).
        all_ids: category id of the file → contiguous id.
        how_to_get: a sentence for errors about missing files.

    Returns:
        Per image: file_name, image_id, pan_seg_file_name, segments_info (with contiguous category_id, and isthing),
        sem_seg_file_name when there is a `sem_seg_root`, height and width when the file has them.

    Raises:
        FileNotFoundError: the annotations, or the files of the first image, are not there.
        ValueError: the annotations are not in COCO panoptic format, or use an unknown category.
    """
    require_path(panoptic_json, "panoptic annotations", how_to_get)
    content = read_json(panoptic_json, ["annotations"])
    entries = content["annotations"]
    if not entries or not all(isinstance(x, Mapping) and isinstance(x.get("segments_info"), list) for x in entries):
        raise ValueError(
            f'{panoptic_json}: not COCO panoptic annotations: "annotations" must list, per image, file_name, image_id'
            " and segments_info. Instance annotations must be converted first."
        )
    required = ("image_id", "file_name", "segments_info")
    annotations = entries_by("image_id", entries, required, f"{panoptic_json}, annotations").values()
    images = entries_by("id", content.get("images") or [], ("id",), f"{panoptic_json}, images")
    dicts = []
    for annotation in annotations:
        image = images.get(annotation["image_id"], {})
        if images and not image:
            raise ValueError(
                f"{panoptic_json}: there is an annotation for image_id {annotation['image_id']}, which is not among the"
                " images. List the image, or remove its annotation."
            )
        # COCO's images are .jpg; "images" is what knows about others.
        default = os.path.splitext(annotation["file_name"])[0] + ".jpg"
        record = {
            "file_name": os.path.join(image_root, image.get("file_name", default)),
            "image_id": annotation["image_id"],
            "pan_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]),
            "segments_info": [
                _contiguous(segment, thing_ids, all_ids, f"{panoptic_json}, image_id {annotation['image_id']}")
                for segment in annotation["segments_info"]
            ],
        }
        if sem_seg_root is not None:
            record["sem_seg_file_name"] = os.path.join(sem_seg_root, annotation["file_name"])
        record |= {key: image[key] for key in ("height", "width") if key in image}
        dicts.append(record)
    for key, what in _FIRST_FILES.items():
        if key in dicts[0]:
            require_path(dicts[0][key], what, how_to_get)
    return dicts


_FIRST_FILES = {
    "file_name": "first image",
    "pan_seg_file_name": "first panoptic PNG",
    "sem_seg_file_name": "first label PNG",
}


def _contiguous(
    segment: DatasetDict, thing_ids: Mapping[int, int], all_ids: Mapping[int, int], where: str
) -> DatasetDict:
    ids = [segment.get(key) if isinstance(segment, Mapping) else None for key in ("id", "category_id")]
    if not all(isinstance(number, int) for number in ids):
        raise ValueError(f"{where}: a segment lacks id or category_id, whole numbers: {segment}. Complete the file.")
    category = segment["category_id"]
    if category not in all_ids:
        raise ValueError(
            f"{where}: segment {segment['id']} has category_id {category}, which is not registered."
            " Register the dataset with all of its categories."
        )
    return {**segment, "category_id": all_ids[category], "isthing": category in thing_ids}


def load_instances(
    json_file: str, image_root: str, thing_ids: Mapping[int, int], *, how_to_get: str
) -> list[DatasetDict]:
    """Load instance annotations in COCO format by Detectron2's `load_coco_json`; categories become contiguous ids.

    Args:
        thing_ids: category id of the file → contiguous id.
        how_to_get: a sentence for errors about missing files.

    Raises:
        FileNotFoundError: the annotations, or the first image, are not there.
        ValueError: the file is not in COCO's format, contradicts itself, or an annotation has a category that is not
            among `thing_ids`.
    """
    require_path(json_file, "instance annotations", how_to_get)
    check_instances(read_json(json_file, ["images", "annotations"]), json_file)
    dicts = load_coco_json(json_file, image_root)
    if not dicts:
        raise ValueError(f"{json_file}: its list of images is empty, so there is nothing to load. {how_to_get}")
    for record in dicts:
        for annotation in record["annotations"]:
            category = annotation["category_id"]
            if category not in thing_ids:
                raise ValueError(
                    f"{json_file}, image_id {record['image_id']}: category_id {category} is not registered; registered"
                    f" are {len(thing_ids)} ids, {min(thing_ids)} … {max(thing_ids)}. The annotations must come from"
                    " the same version of the dataset."
                )
            annotation["category_id"] = thing_ids[category]
    for record in dicts[:1]:
        require_path(record["file_name"], "first image", how_to_get)
    return dicts


def load_semantic(
    image_root: str, sem_seg_root: str, *, how_to_get: str, label_extension: str = "png"
) -> list[DatasetDict]:
    """Load a folder of images (.jpg) and one of label images of the same names by Detectron2's `load_sem_seg`.

    Raises:
        FileNotFoundError: one of the folders is not there, or no label image has the name of an image.
        ValueError: there are as many label images as images, but of other names.
    """
    require_path(image_root, "folder of images", how_to_get)
    require_path(sem_seg_root, "folder of label images", how_to_get)
    try:
        dicts = load_sem_seg(sem_seg_root, image_root, gt_ext=label_extension)
    except AssertionError:  # there is no label image
        dicts = []
    if not dicts:
        raise FileNotFoundError(
            f"{image_root}: no image (.jpg) in this folder has a label image (.{label_extension}) of its name in "
            f"{sem_seg_root}. {how_to_get}"
        )
    for record in dicts:  # Detectron2 pairs them by their order
        names = [os.path.splitext(os.path.basename(path))[0] for path in record.values()]
        if names[0] != names[1]:
            raise ValueError(
                f"{record['file_name']}: the label image that comes in its place is {record['sem_seg_file_name']}. "
                "Images and label images must have the same names."
            )
    return dicts
