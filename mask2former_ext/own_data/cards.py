"""Dataset cards: small JSON files that say all there is to know to register a dataset, named by a config.

``DATASETS.OWN`` lists cards; ``load_config`` registers what they describe, under the names that ``DATASETS.TRAIN`` and
``DATASETS.TEST`` use. A config file, its cards and its weights can thus be moved together, and used in any process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.colormap import colormap

from ..data.datasets.annotation_files import entries_by, read_json
from ..data.datasets.loading import DatasetDict, require_path
from ..data.datasets.registration import register, register_instance_dataset, register_panoptic_dataset
from ..files import write_json

REGISTERED_BY = "dataset_card"
"""Metadata key with the path of the card that a dataset was registered from."""


@dataclass(frozen=True)
class DatasetCard:
    """What there is to know about a dataset.

    Attributes:
        name: under which it is registered.
        task: "instance", "panoptic" or "semantic": the format of the annotations, and what is evaluated on them.
        images: folder of the images.
        annotations: JSON file of COCO's instances or COCO's panoptic segments; for semantic segmentation of
            ``{"images": [{"file_name", "sem_seg_file_name"}, …]}``.
        labels: folder of the panoptic PNGs, or of the label PNGs; None for instances.
        categories: dicts with ``id``, ``name``, ``isthing`` (0 or 1; for panoptic), ``color`` [R, G, B]; a card that
            is read is given the colours that it lacks. Their order gives the contiguous ids; for semantic segmentation
            it is that of the labels.
        ignore_label: of pixels without a label in label images.
    """

    name: str
    task: str
    images: Path
    annotations: Path
    labels: Path | None
    categories: list[dict[str, Any]]
    ignore_label: int = 255

    def write(self, path: Path) -> None:
        """Write the card; files below its own folder are named relative to it, so that they can be moved with it."""
        content = vars(self) | {key: _name_from(path.parent, getattr(self, key)) for key in PATHS}
        write_json(path, content, indent=1)

    @classmethod
    def read(cls, path: Path) -> DatasetCard:
        """Read a card.

        Raises:
            FileNotFoundError: there is none at ``path``.
            ValueError: the file is no card.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: this dataset card does not exist. DATASETS.OWN of the config names it, relative to the file "
                "that the key stands in; cards have to be moved along with it."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            paths = {key: content[key] and path.parent / content[key] for key in PATHS}
            card = cls(**content | paths | {"categories": with_colors(content["categories"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path}: not a dataset card ({error!r}): a JSON object with {', '.join(cls.__annotations__)}."
            ) from error
        if card.task not in list(REGISTER):
            raise ValueError(f'{path}: "task" is {card.task!r}; it must be one of {", ".join(REGISTER)}.')
        if card.task != "instance" and card.labels is None:
            raise ValueError(f'{path}: "labels" must name the folder of PNGs, because the task is {card.task}.')
        keys = ("id", "name", "isthing") if card.task == "panoptic" else ("id", "name")
        if not card.categories or not all(key in category for category in card.categories for key in keys):
            raise ValueError(f'{path}: "categories" must be a list of one or more, each with {", ".join(keys)}.')
        return card


PATHS = ("images", "annotations", "labels")
"""Attributes of a card that are paths."""


def _name_from(folder: Path, path: Path | None) -> str | None:
    if path is None:
        return None
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def with_colors(categories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every category a ``color`` [R, G, B]: its own, where it has one of this form, or one of a palette."""
    palette = colormap(rgb=True).astype(int).tolist()
    return [
        category | {"color": category["color"] if _is_color(category.get("color")) else palette[k % len(palette)]}
        for k, category in enumerate(categories)
    ]


def _is_color(value: Any) -> bool:
    """Whether this is [R, G, B]; some tools export "#ff0000" instead."""
    return isinstance(value, list) and len(value) == 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in value)


def _register_instances(card: DatasetCard, how_to_get: str) -> None:
    register_instance_dataset(
        card.name,
        image_root=str(card.images),
        json_file=str(card.annotations),
        categories=card.categories,
        how_to_get=how_to_get,
        replace=True,
    )
    MetadataCatalog.get(card.name).set(thing_colors=[category["color"] for category in card.categories])


def _register_panoptic(card: DatasetCard, how_to_get: str) -> None:
    register_panoptic_dataset(
        card.name,
        image_root=str(card.images),
        panoptic_root=str(card.labels),
        panoptic_json=str(card.annotations),
        categories=card.categories,
        ignore_label=card.ignore_label,
        how_to_get=how_to_get,
        replace=True,
    )


def _register_semantic(card: DatasetCard, how_to_get: str) -> None:
    metadata = {
        "image_root": str(card.images),
        "sem_seg_root": str(card.labels),
        "evaluator_type": "sem_seg",
        "ignore_label": card.ignore_label,
        "stuff_classes": [category["name"] for category in card.categories],
        "stuff_colors": [category["color"] for category in card.categories],
    }
    register(card.name, partial(load_label_images, card, how_to_get), metadata, replace=True)


REGISTER: Mapping[str, Callable[[DatasetCard, str], None]] = {
    "instance": _register_instances,
    "panoptic": _register_panoptic,
    "semantic": _register_semantic,
}


def load_label_images(card: DatasetCard, how_to_get: str) -> list[DatasetDict]:
    """Dataset dicts of a card of label images: file_name, sem_seg_file_name, image_id.

    Raises:
        FileNotFoundError: the list of images, or one of the two folders, is not there.
        ValueError: the list is not what :class:`DatasetCard` describes.
    """
    assert card.labels is not None
    require_path(str(card.annotations), "list of images", how_to_get)
    require_path(str(card.images), "folder of images", how_to_get)
    require_path(str(card.labels), "folder of label images", how_to_get)
    if card.annotations.is_dir():
        raise ValueError(
            f'{card.annotations}: this is a folder, but "annotations" of the dataset card is a JSON file that lists '
            '{"images": [{"file_name": …, "sem_seg_file_name": …}, …]}.'
        )
    images = read_json(str(card.annotations), ["images"])["images"]
    keys = ("file_name", "sem_seg_file_name")
    return [
        {
            "file_name": str(card.images / image["file_name"]),
            "sem_seg_file_name": str(card.labels / image["sem_seg_file_name"]),
            "image_id": name,
        }
        for name, image in entries_by("file_name", images, keys, f"{card.annotations}, images").items()
    ]


def register_card(path: Path) -> str:
    """Register the dataset that a card describes, in place of one that a card described before.

    No other file is looked at.

    Returns:
        The dataset's name.

    Raises:
        FileNotFoundError, ValueError: see :meth:`DatasetCard.read`; or the name is taken by something else than a card.
    """
    card = DatasetCard.read(path)
    if card.name in DatasetCatalog.list() and MetadataCatalog.get(card.name).get(REGISTERED_BY) is None:
        raise ValueError(f'{path}: a dataset "{card.name}" is registered already. Choose another "name" in the card.')
    REGISTER[card.task](card, f"The dataset card {path} names it: correct the path there.")
    MetadataCatalog.get(card.name).set(**{REGISTERED_BY: str(path)})
    return card.name


def register_own_datasets(cfg: CfgNode) -> None:
    """Register every dataset of ``DATASETS.OWN``, a list of cards; doing it again is harmless."""
    for path in cfg.DATASETS.OWN:
        register_card(Path(path))
