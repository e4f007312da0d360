"""A dataset without any fault, in each of the three formats, to be broken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former_ext.audit import AuditReport, audit_dataset
from mask2former_ext.data.datasets.coco_format import instance_annotation
from mask2former_ext.data.reading import id_to_rgb

HEIGHT, WIDTH = 48, 64
IDS = (1, 2, 3)
CAT, DOG, GRASS = 3, 7, 20


class Made:
    """A dataset in a folder, whose JSON file is written when it is audited.

    Image k holds a cat (segment 10 · k + 1) and a dog (10 · k + 2), the third a crowd of dogs too (33). In panoptic
    PNGs there is grass around them (10 · k + 3, in the third 34), and some void.
    """

    def __init__(self, root: Path, task: str) -> None:
        self.root, self.task = root, task
        self.images, self.pngs = root / "images", root / "pngs"
        self.images.mkdir(parents=True)
        self.pngs.mkdir()
        self.content: dict[str, Any] = {}
        self.options: dict[str, Any] = {}

    @property
    def annotations(self) -> Path:
        return self.pngs if self.task == "semantic" else self.root / "annotations.json"

    def image(self, number: int) -> Path:
        return self.images / f"{number}.jpg"

    def png(self, number: int) -> Path:
        return self.pngs / f"{number}.png"

    def pixels(self, number: int) -> np.ndarray:
        with Image.open(self.png(number)) as image:
            return np.array(image)

    def repaint(self, number: int, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(self.png(number))

    def annotation(self, number: int) -> dict[str, Any]:
        """The instance, or the panoptic segment, of this id."""
        entries = self.content["annotations"]
        if self.task == "panoptic":
            entries = [segment for entry in entries for segment in entry["segments_info"]]
        return next(entry for entry in entries if entry["id"] == number)

    def write(self) -> None:
        if self.content:
            self.annotations.write_text(json.dumps(self.content))

    def audit(self, **options: Any) -> AuditReport:
        self.write()
        return audit_dataset(self.images, self.annotations, self.task, **(self.options | options))

    def named(self, **options: Any) -> list[tuple[str, int | str | None, int | str | None]]:
        """What an audit finds: the kind of each finding, its image and its annotation."""
        return [(found.kind, found.image_id, found.annotation_id) for found in self.audit(**options).findings]


def mask_of(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[rows, columns] = True
    return mask


CAT_MASK = mask_of(slice(4, 20), slice(6, 26))
DOG_MASK = mask_of(slice(24, 40), slice(30, 60))
CROWD_MASK = mask_of(slice(2, 12), slice(40, 62))


@pytest.fixture
def make(tmp_path) -> Callable[[str], Made]:
    """Writes the images and PNGs of a task."""

    def made(task: str) -> Made:
        dataset = Made(tmp_path / task, task)
        noise = np.random.default_rng(0)
        for number in IDS:
            photo = noise.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(photo).save(dataset.image(number))
        {"instance": _instances, "panoptic": _panoptic, "semantic": _semantic}[task](dataset)
        return dataset

    return made


def _instances(dataset: Made) -> None:
    annotations = []
    for number in IDS:
        cat = instance_annotation(CAT_MASK, CAT) | {"segmentation": [[6, 4, 26, 4, 26, 20, 6, 20]]}
        dog = instance_annotation(DOG_MASK, DOG)
        annotations += [
            cat | {"id": 10 * number + 1, "image_id": number},
            dog | {"id": 10 * number + 2, "image_id": number},
        ]
    crowd = instance_annotation(CROWD_MASK, DOG, iscrowd=1)
    runs = np.flatnonzero(np.diff(CROWD_MASK.T.reshape(-1), prepend=False, append=True))
    counts = np.diff(runs, prepend=0).tolist()
    crowd["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    annotations.append(crowd | {"id": 33, "image_id": 3})
    dataset.content = _header([{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}]) | {"annotations": annotations}


def _panoptic(dataset: Made) -> None:
    annotations = []
    for number in IDS:
        masks = {10 * number + 1: (CAT_MASK, CAT, 0), 10 * number + 2: (DOG_MASK, DOG, 0)}
        if number == 3:
            masks[33] = (CROWD_MASK, DOG, 1)
        rest = ~np.any([mask for mask, _, _ in masks.values()], axis=0)
        rest[:, :5] = False
        masks[30 + 4 if number == 3 else 10 * number + 3] = (rest, GRASS, 0)
        segments = []
        ids = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
        for segment_id, (mask, category, iscrowd) in masks.items():
            ids[mask] = segment_id
            entry = instance_annotation(mask, category, iscrowd) | {"id": segment_id}
            del entry["segmentation"]
            segments.append(entry)
        dataset.repaint(number, id_to_rgb(ids))
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    categories = [
        {"id": CAT, "name": "cat", "isthing": 1},
        {"id": DOG, "name": "dog", "isthing": 1},
        {"id": GRASS, "name": "grass", "isthing": 0},
    ]
    dataset.content = _header(categories) | {"annotations": annotations}
    dataset.options = {"panoptic_root": dataset.pngs}


def _semantic(dataset: Made) -> None:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[CAT_MASK], labels[DOG_MASK], labels[:, :5] = 1, 2, 255
    for number in IDS:
        dataset.repaint(number, labels)
    dataset.options = {"class_names": ["grass", "cat", "dog"]}


def _header(categories: list[dict[str, Any]]) -> dict[str, Any]:
    images = [{"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH} for number in IDS]
    return {"info": {}, "images": images, "categories": categories}
