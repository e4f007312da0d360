"""Annotations as people have them: a COCO JSON file, instance or panoptic, or a folder of label PNGs."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..audit.coco_source import CATEGORY, IMAGE, Form, fits
from ..audit.files import DAMAGED
from ..audit.findings import printable
from ..audit.other_sources import semantic_source
from ..audit.sources import Task
from ..data.datasets.annotation_files import read_json
from ..data.reading import read_image_file
from .cards import with_colors

LARGEST_SAMPLE = 200
"""So many image files at most are opened to learn how large images are."""
LARGEST_LABEL = 65534
"""Of label PNGs: 16 bits, less a value for pixels that belong to nothing."""
_REQUIRED: dict[str, Form] = {
    "images": IMAGE,
    "annotations": {"image_id": (int, str)},
    "categories": CATEGORY,
}


@dataclass(frozen=True)
class Source:
    """A dataset as it was given, its list of images and annotations read.

    Attributes:
        task: "instance", "panoptic" or "semantic".
        image_root: folder of the images.
        annotations: the JSON file, or the folder of label PNGs.
        labels: folder of the panoptic PNGs or of the label PNGs; None for instances.
        content: of the JSON file; for label PNGs what :class:`DatasetCard` describes.
        categories: see :class:`DatasetCard`.
        ignore_label: of label PNGs.
        is_part: ``content`` is not all that ``annotations`` has.
    """

    task: Task
    image_root: Path
    annotations: Path
    labels: Path | None
    content: dict[str, Any]
    categories: list[dict[str, Any]]
    ignore_label: int = 255
    is_part: bool = False

    @property
    def image_files(self) -> list[str]:
        """Names of the images' files, in the order of the dataset."""
        return [image["file_name"] for image in self.content["images"]]

    @property
    def class_names(self) -> list[str]:
        """In the order of the contiguous ids."""
        return [category["name"] for category in self.categories]

    def subset(self, file_names: Iterable[str]) -> Source:
        """The images of these files, with their annotations."""
        chosen = set(file_names)
        images = [image for image in self.content["images"] if image["file_name"] in chosen]
        content = self.content | {"images": images}
        if "annotations" in content:
            ids = {image["id"] for image in images}
            content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
        return replace(self, content=content, is_part=True)

    def shorter_side(self) -> int:
        """Median of the images' shorter sides in pixels; a sample of them is looked at.

        Raises:
            ValueError: none of the sample can be read.
        """
        images = self.content["images"]
        sides = []
        for image in images[:: len(images) // LARGEST_SAMPLE + 1]:
            try:
                with Image.open(self.image_root / image["file_name"]) as file:
                    sides.append(min(file.size))
            except DAMAGED:
                continue  # the audit names it
        if not sides:
            raise ValueError(f"{self.image_root}: of {len(images)} images that are annotated none can be read there.")
        return round(statistics.median(sides))


def read_source(
    task: Task,
    image_root: Path,
    annotations: Path,
    *,
    panoptic_root: Path | None = None,
    class_names: Sequence[str] | None = None,
    ignore_label: int = 255,
) -> Source:
    """Read what there is to train or to evaluate on.

    Args:
        task: "instance", "panoptic" or "semantic".
        image_root: folder of the images.
        annotations: COCO JSON file, instance or panoptic; for semantic segmentation the folder of label PNGs.
        panoptic_root: folder of the panoptic PNGs; by default it is named as the JSON file, without ".json".
        class_names: of semantic segmentation; by default as many as the PNGs have labels, named by their numbers.
        ignore_label: of pixels without a label, in semantic segmentation.

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: the annotations are not of the task's kind.
    """
    if not image_root.is_dir():
        raise FileNotFoundError(f"{image_root}: this folder of images does not exist.")
    if not annotations.exists():
        raise FileNotFoundError(f"{annotations}: these annotations do not exist.")
    if task == "semantic":
        return _read_label_images(image_root, annotations, class_names, ignore_label)
    content = _read_json(task, annotations)
    labels = None
    if task == "panoptic":
        labels = panoptic_root or annotations.with_suffix("")
        if not labels.is_dir():
            raise FileNotFoundError(f"{labels}: this folder of panoptic PNGs does not exist; see --panoptic-root.")
    categories = sorted(content["categories"], key=lambda category: category["id"])
    keys = {"isthing": 1} if task == "instance" else {}
    described = [
        {key: category[key] for key in ("id", "name", "isthing", "color") if key in category} | keys
        for category in categories
    ]
    return Source(task, image_root, annotations, labels, content, with_colors(described))


def _read_json(task: str, annotations: Path) -> dict[str, Any]:
    if annotations.is_dir():
        raise ValueError(
            f"{annotations} is a folder, but --task {task} is trained on a COCO JSON file. For a folder of label PNGs "
            "use --task semantic."
        )
    content = read_json(str(annotations), _REQUIRED)
    for group, form in _REQUIRED.items():
        if not content[group]:
            raise ValueError(f"{annotations}: the file lists no {group}, so there is nothing to train on.")
        wrong = [entry for entry in content[group] if not fits(entry, form)]
        if wrong:
            lacking = next(key for key in form if not fits(wrong[0], {key: form[key]}))
            shown = json.dumps(wrong[0])[:100]
            raise ValueError(f"{annotations}: an entry of {group} has no {lacking}, or one of another type: {shown}")
    _check_kind(task, content, annotations)
    for category in content["categories"] if task == "panoptic" else ():
        if "isthing" not in category:
            raise ValueError(f'{annotations}: category {category["id"]} lacks "isthing": 1 for things, 0 for stuff.')
    return content


def _check_kind(task: str, content: Mapping[str, Any], annotations: Path) -> None:
    """Raise ValueError when instances were given for another task, or panoptic segments for that of instances."""
    panoptic = "segments_info" in content["annotations"][0]
    if panoptic and task == "instance":
        raise ValueError(
            f"{annotations} holds COCO panoptic annotations, which --task instance does not read. Use --task panoptic; "
            "or export the same objects as COCO instances."
        )
    if not panoptic and task == "panoptic":
        raise ValueError(
            f"{annotations} holds COCO instance annotations, in which most pixels have no class; --task panoptic needs "
            "a COCO panoptic JSON file and its folder of PNGs. Use --task instance for these annotations."
        )


def _read_label_images(image_root: Path, labels: Path, class_names: Sequence[str] | None, ignore_label: int) -> Source:
    if not labels.is_dir():
        raise ValueError(
            f"{labels} is a file, but --task semantic is trained on a folder of label PNGs, one for each image and of "
            "its name, which give every pixel a class. For a COCO JSON file of instances use --task instance, for a "
            "panoptic one --task panoptic."
        )
    pairs = [(Path(item.image), Path(item.png or "")) for item in semantic_source(image_root, labels, (), 0).items]
    pairs = [(image, png) for image, png in pairs if png.is_file()]
    if not pairs:
        raise ValueError(f"{labels}: no label PNG has the name of an image of {image_root}.")
    _require_utf8(str(image) for image, _ in pairs)
    if class_names is None:
        names = [str(label) for label in range(_count_labels([png for _, png in pairs], ignore_label))]
    else:
        names = list(class_names)
    categories = [{"id": k, "name": name, "isthing": 0} for k, name in enumerate(names)]
    images = [
        {"file_name": str(image.relative_to(image_root)), "sem_seg_file_name": str(png.relative_to(labels))}
        for image, png in pairs
    ]
    return Source("semantic", image_root, labels, labels, {"images": images}, with_colors(categories), ignore_label)


def _count_labels(files: Sequence[Path], ignore_label: int) -> int:
    """One more than the largest label of the files.

    Raises:
        ValueError: a file cannot be read or holds no labels, or all of them are ignored.
    """
    largest = -1
    for path in tqdm(files, desc="counting classes"):
        labels = read_image_file(str(path), None, "label image")
        is_labels = labels.ndim == 2 and labels.dtype.kind in "bui"
        counted = labels[labels != ignore_label]
        largest = max(largest, int(counted.max())) if is_labels and counted.size else largest
        if not is_labels or largest > LARGEST_LABEL:
            raise ValueError(
                f"{path}: a label PNG has one channel of labels in 0…{LARGEST_LABEL}, this one has shape {labels.shape}"
                f" and {labels.dtype} values {labels.min()}…{labels.max()}. Write contiguous ids of classes."
            )
    if largest < 0:
        raise ValueError(f"{files[0].parent}: the label PNGs hold nothing but {ignore_label}, the ignore label.")
    return largest + 1


def check_same_categories(train: Source, val: Source) -> None:
    """Raise ValueError unless training and validation data list the same categories, as things or stuff alike."""
    of_train, of_val = (
        {(category["id"], category["name"], bool(category["isthing"])) for category in source.categories}
        for source in (train, val)
    )
    differing = sorted(of_train ^ of_val)
    if differing:
        shown = ", ".join(f"{number} {name!r}" for number, name, _ in differing[:5])
        raise ValueError(
            f"{train.annotations} and {val.annotations} list different categories, among them {shown}. Both files must "
            "list all categories, whether they occur or not, with the same ids, names and isthing."
        )


def split(source: Source, fraction: float) -> tuple[Source, Source]:
    """Set images aside for validation.

    Which ones depends on their file names alone: the same in every run, and mostly the same when images are added.

    Args:
        source: all images, two files at least.
        fraction: share of the images that is set aside, in (0, 1); at least one is, and at least one is not.

    Returns:
        What is left for training, and what is set aside.

    Raises:
        ValueError: ``fraction`` is out of range, there is one image only, or the name of a file is not in UTF-8.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"--val-fraction is {fraction}; it must be above 0 and below 1.")
    _require_utf8(source.image_files)
    names = sorted(set(source.image_files), key=_digest)
    if len(names) < 2:
        raise ValueError(f"{source.annotations}: one image cannot be split. Name validation data by --val.")
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    return source.subset(names[count:]), source.subset(names[:count])


def _require_utf8(names: Iterable[str]) -> None:
    """Raise ValueError when a name cannot be written into a list of images."""
    for name in names:
        if printable(name) != name:
            raise ValueError(f"{printable(name)}: the name of this file is not in UTF-8. Rename it.")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
