"""Registering datasets: names, loaders that run when asked, and every metadata key that models and evaluators read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .loading import load_instances, load_panoptic, load_semantic

Loader = Callable[[], list[dict[str, Any]]]

PANOPTIC_METADATA_KEYS = (
    "evaluator_type",
    "image_root",
    "panoptic_root",
    "panoptic_json",
    "ignore_label",
    "label_divisor",
    "thing_classes",
    "stuff_classes",
    "thing_dataset_id_to_contiguous_id",
    "stuff_dataset_id_to_contiguous_id",
)
"""Metadata without which panoptic training, inference or evaluation fails somewhere on the way."""


def read_categories(file_name: str) -> list[dict[str, Any]]:
    """Read a table of categories that lies beside this module."""
    return json.loads(Path(__file__).with_name(file_name).read_text(encoding="utf-8"))


def category_metadata(categories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Metadata of a table of things and stuff, whose order gives the contiguous ids 0, 1, ….

    Args:
        categories: dicts with `id` (as in the annotation files), `name`, `isthing` (0 or 1), perhaps `color` [R, G, B].

    Returns:
        thing_classes, stuff_classes, thing_dataset_id_to_contiguous_id, stuff_dataset_id_to_contiguous_id, and
        thing_colors, stuff_colors when every category has one. The "stuff" entries cover all categories. So do
        thing_classes and thing_colors, which are looked up by contiguous id, unless all things come first.
    """
    things = [category for category in categories if category["isthing"]]
    listed_things = things if list(categories[: len(things)]) == things else categories
    metadata: dict[str, Any] = {
        "thing_classes": [category["name"] for category in listed_things],
        "stuff_classes": [category["name"] for category in categories],
        "thing_dataset_id_to_contiguous_id": {c["id"]: k for k, c in enumerate(categories) if c["isthing"]},
        "stuff_dataset_id_to_contiguous_id": {category["id"]: k for k, category in enumerate(categories)},
    }
    if all("color" in category for category in categories):
        metadata["thing_colors"] = [category["color"] for category in listed_things]
        metadata["stuff_colors"] = [category["color"] for category in categories]
    return metadata


def register(name: str, loader: Loader, metadata: dict[str, Any], *, replace: bool = False) -> None:
    """Register a dataset with Detectron2, with all of its metadata.

    Registering the same name with the same metadata again is harmless.

    Args:
        name: as used in DATASETS.TRAIN and DATASETS.TEST.
        loader: returns the dataset dicts; called when the dataset is used, not now.
        metadata: None stands for "does not have it".
        replace: an entry of this name gives way. Without it, other metadata under this name is an error.

    Raises:
        ValueError: the name is taken by a dataset with other metadata.
    """
    metadata = {key: value for key, value in metadata.items() if value is not None}
    if name in DatasetCatalog.list() and not replace:
        present = MetadataCatalog.get(name).as_dict()
        differing = sorted(key for key, value in metadata.items() if present.get(key) != value)
        if differing:
            raise ValueError(
                f'Dataset "{name}" is already registered, with other metadata ({", ".join(differing)}). Choose another'
                " name, or remove it from DatasetCatalog and MetadataCatalog first."
            )
        return
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)
    DatasetCatalog.register(name, loader)
    MetadataCatalog.get(name).set(**metadata)


def register_panoptic_dataset(
    name: str,
    *,
    image_root: str,
    panoptic_root: str,
    panoptic_json: str,
    instances_json: str | None = None,
    sem_seg_root: str | None = None,
    categories: Sequence[dict[str, Any]],
    metadata: Mapping[str, Any] | None = None,
    ignore_label: int = 255,
    label_divisor: int = 1000,
    evaluator_type: str = "coco_panoptic_seg",
    how_to_get: str = "Check the paths it was registered with.",
    replace: bool = False,
) -> None:
    """Register a dataset in COCO panoptic format under `name`, with every metadata key filled in.

    Args:
        image_root: folder of the images.
        panoptic_root: folder of the panoptic PNGs.
        panoptic_json: COCO panoptic annotations.
        instances_json: COCO instance annotations of the same images; instance AP is computed against them.
        sem_seg_root: folder of label PNGs (contiguous ids, `ignore_label` where there is none), named as the panoptic
            PNGs; mIoU is computed against them.
        categories: see `category_metadata`.
        metadata: what else to set, or otherwise than `categories` and the other arguments say.
        ignore_label: label of pixels without one in label images.
        label_divisor: category · label_divisor + instance is how Detectron2's tools number segments.
        evaluator_type: selects the evaluators.
        how_to_get: a sentence for errors about missing files.
        replace: see `register`.

    Raises:
        ValueError: the name is taken by a dataset with other metadata.
    """
    of_categories = category_metadata(categories)
    loader = partial(
        load_panoptic,
        panoptic_json,
        image_root,
        panoptic_root,
        sem_seg_root=sem_seg_root,
        thing_ids=of_categories["thing_dataset_id_to_contiguous_id"],
        all_ids=of_categories["stuff_dataset_id_to_contiguous_id"],
        how_to_get=how_to_get,
    )
    files = {
        "image_root": image_root,
        "panoptic_root": panoptic_root,
        "panoptic_json": panoptic_json,
        "json_file": instances_json,
        "sem_seg_root": sem_seg_root,
        "evaluator_type": evaluator_type,
        "ignore_label": ignore_label,
        "label_divisor": label_divisor,
    }
    register(name, loader, files | of_categories | dict(metadata or {}), replace=replace)


def register_instance_dataset(
    name: str,
    *,
    image_root: str,
    json_file: str,
    categories: Sequence[dict[str, Any]],
    how_to_get: str = "Check the paths it was registered with.",
    replace: bool = False,
) -> None:
    """Register a dataset of instances in COCO's format.

    Args:
        image_root: folder of the images.
        json_file: the annotations.
        categories: dicts with `id` (as in the annotations) and `name`; their order gives the contiguous ids 0, 1, ….
        how_to_get: a sentence for errors about missing files.
        replace: see `register`.

    Raises:
        ValueError: the name is taken by a dataset with other metadata.
    """
    thing_ids = {category["id"]: k for k, category in enumerate(categories)}
    metadata = {
        "json_file": json_file,
        "image_root": image_root,
        "evaluator_type": "coco",
        "thing_dataset_id_to_contiguous_id": thing_ids,
        "thing_classes": [category["name"] for category in categories],
    }
    loader = partial(load_instances, json_file, image_root, thing_ids, how_to_get=how_to_get)
    register(name, loader, metadata, replace=replace)


def register_semantic_dataset(
    name: str,
    *,
    image_root: str,
    sem_seg_root: str,
    metadata: dict[str, Any],
    ignore_label: int = 255,
    how_to_get: str = "Check the paths it was registered with.",
    replace: bool = False,
) -> None:
    """Register images (.jpg) and label images (.png) with the same names in two folders.

    Args:
        image_root: folder of the images.
        sem_seg_root: folder of the label images: contiguous ids, `ignore_label` where there is none.
        metadata: what else to set: stuff_classes, at least.
        ignore_label: label of pixels without one.
        how_to_get: a sentence for errors about missing files.
        replace: see `register`.

    Raises:
        ValueError: the name is taken by a dataset with other metadata.
    """
    files = {
        "image_root": image_root,
        "sem_seg_root": sem_seg_root,
        "evaluator_type": "sem_seg",
        "ignore_label": ignore_label,
    }
    loader = partial(load_semantic, image_root, sem_seg_root, how_to_get=how_to_get)
    register(name, loader, files | metadata, replace=replace)


def check_panoptic_metadata(name: str) -> None:
    """Check that a dataset has the metadata that panoptic training and evaluation need.

    Raises:
        ValueError: keys are missing; the message lists them.
    """
    metadata = MetadataCatalog.get(name)
    missing = [key for key in PANOPTIC_METADATA_KEYS if metadata.get(key) is None]
    if missing:
        raise ValueError(
            f'Dataset "{name}": its metadata lacks {", ".join(missing)}. Register it by'
            " mask2former_ext.data.datasets.register_panoptic_dataset, which fills in every key, or set them by"
            f' MetadataCatalog.get("{name}").set(…).'
        )
