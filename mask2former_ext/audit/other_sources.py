"""Folders of semantic PNGs, and datasets that are registered with Detectron2, as a ``Source``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode

from ..classes import listed_names, thing_labels
from ..data.datasets.loading import require_path
from .coco_source import instance_source, panoptic_source, require_folder
from .findings import Finding
from .image_checks import is_box
from .sources import Category, Item, Source, Task

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")
_TASK_OF_KEY: dict[str, Task] = {
    "pan_seg_file_name": "panoptic",
    "annotations": "instance",
    "sem_seg_file_name": "semantic",
}
_PANOPTIC_FILES = {"image_root", "panoptic_json", "panoptic_root"}
_INSTANCE_FILES = {"image_root", "json_file"}


def semantic_source(images: Path, labels: Path, class_names: Sequence[str] | None, ignore_label: int) -> Source:
    """Pair the files of a folder of images with those of a folder of label PNGs, by their paths without suffix.

    Args:
        images, labels: the folders; files may lie in folders of theirs, and one of the two in the other.
        class_names: the classes 0, 1, …; None to take the labels as they come.
        ignore_label: label of pixels without one.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: they are the same folder, or one has no files of its kind.
    """
    require_folder(images, "folder of images")
    require_folder(labels, "folder of label PNGs")
    if images.resolve() == labels.resolve():
        raise ValueError(f"{images}: images and label PNGs lie in one folder. Put them into two.")
    findings: list[Finding] = []
    image_of = _by_name(images, IMAGE_SUFFIXES, findings, apart_from=labels)
    label_of = _by_name(labels, LABEL_SUFFIXES, findings, apart_from=images)
    if not image_of or not label_of:
        empty, suffixes = (images, IMAGE_SUFFIXES) if not image_of else (labels, LABEL_SUFFIXES)
        raise ValueError(f"{empty}: there is no file in this folder that ends in {', '.join(suffixes)}.")
    if class_names is None:
        findings.append(Finding("classes-inferred", "The classes are the labels that occur.", str(labels)))
    for name in sorted(label_of.keys() - image_of.keys()):
        findings.append(Finding("image-missing", f"There is no image {images / name}.* for it.", str(label_of[name])))
    items = [Item(str(image), png=str(label_of.get(name, labels / f"{name}.png"))) for name, image in image_of.items()]
    categories = {label: Category(name) for label, name in enumerate(class_names or ())}
    return Source(str(labels), "semantic", categories, items, findings, ignore_label)


def _by_name(folder: Path, suffixes: Sequence[str], findings: list[Finding], *, apart_from: Path) -> dict[str, Path]:
    """Files with one of ``suffixes`` by their path in the folder without suffix, the first of each name."""
    files: dict[str, Path] = {}
    for path in sorted(_files(folder, apart_from)):
        if path.suffix.lower() not in suffixes:
            continue
        name = str(path.relative_to(folder).with_suffix(""))
        if name in files:
            cause = f"Without suffix it has the name of {files[name].name}, so that it stays unused."
            findings.append(Finding("image-unused", cause, str(path)))
        files.setdefault(name, path)
    return files


def _files(folder: Path, apart_from: Path) -> Iterator[Path]:
    """All files in a folder and those below, also by links, without those in ``apart_from`` if that is one of them."""
    left_out = apart_from.resolve()
    for path, folders, names in os.walk(folder, followlinks=True):
        here = Path(path).resolve()
        below = {name: Path(path, name).resolve() for name in folders}
        # a link to a folder that it lies in would be followed forever
        folders[:] = [name for name, real in below.items() if real != left_out and not here.is_relative_to(real)]
        yield from (Path(path, name) for name in names)


def registered_source(name: str, task: Task | None) -> Source:
    """Read a dataset that is registered in Detectron2's ``DatasetCatalog``.

    The annotation file itself is read where the metadata name one in COCO's format, else what the catalogue loads.

    Args:
        name: of the dataset.
        task: which of its annotations; None for the first it has of panoptic, instance, semantic.

    Raises:
        FileNotFoundError: a folder or a file do not exist.
        ValueError: nothing of this name is registered, or it has no annotations for the task.
    """
    if name not in DatasetCatalog.list():
        similar = get_close_matches(name, DatasetCatalog.list())
        hint = f"Did you mean {' or '.join(similar)}?" if similar else "datasets/README.md lists names."
        raise ValueError(f'No dataset is registered as "{name}". {hint}')
    metadata = MetadataCatalog.get(name).as_dict()
    evaluator = metadata.get("evaluator_type")
    for key in ("image_root", "panoptic_root", "sem_seg_root"):
        if metadata.get(key):
            require_path(metadata[key], f"{key} of {name}", "datasets/README.md says which files belong where.")
    paths = {key: Path(metadata[key]) for key in _PANOPTIC_FILES | _INSTANCE_FILES if metadata.get(key)}
    if evaluator == "coco_panoptic_seg" and task in (None, "panoptic") and paths.keys() >= _PANOPTIC_FILES:
        source = panoptic_source(paths["image_root"], paths["panoptic_json"], paths["panoptic_root"], None)
    elif evaluator == "coco" and task in (None, "instance") and paths.keys() >= _INSTANCE_FILES:
        source = instance_source(paths["image_root"], paths["json_file"], None)
    else:
        return _loaded_source(name, task)
    source.name = name
    return source


def _loaded_source(name: str, task: Task | None) -> Source:
    """A dataset as its loader gives it, in Detectron2's standard format."""
    try:
        dicts = DatasetCatalog.get(name)
    except (AssertionError, KeyError) as error:
        raise ValueError(f'The loader of "{name}" failed: {error!r}. Check its files.') from error
    if not dicts:
        raise ValueError(f"{name}: there is no image in it.")
    if not all("file_name" in record for record in dicts):
        raise ValueError(f'The loader of "{name}" gives a dataset dict without file_name, the path of its image.')
    metadata = MetadataCatalog.get(name)  # after the loader, because some write into it
    found = [of_key for key, of_key in _TASK_OF_KEY.items() if key in dicts[0]]
    chosen = task or (found[0] if found else None)
    if chosen is None or chosen not in found:
        kinds = ", ".join(found) or "none"
        raise ValueError(f'"{name}" has no annotations for the task {chosen}; it has: {kinds}.')
    items = list(_loaded_items(dicts, chosen))
    ignore_label = metadata.get("ignore_label")
    categories = _loaded_categories(chosen, metadata)
    return Source(name, chosen, categories, items, [], 255 if ignore_label is None else ignore_label)


def _loaded_items(dicts: Sequence[Mapping[str, Any]], task: Task) -> Iterator[Item]:
    annotations, png = {
        "panoptic": ("segments_info", "pan_seg_file_name"),
        "instance": ("annotations", ""),
        "semantic": ("", "sem_seg_file_name"),
    }[task]
    for record in dicts:
        size = (record["height"], record["width"]) if {"height", "width"} <= record.keys() else None
        entries = tuple(_in_coco_form(entry) for entry in record.get(annotations, ()))
        yield Item(record["file_name"], record.get("image_id"), size, entries, record.get(png))


def _in_coco_form(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """An annotation with its box, given by corners, as x, y, width, height; boxes of further modes are left out."""
    mode = entry.get("bbox_mode", BoxMode.XYWH_ABS)
    if mode == BoxMode.XYXY_ABS and is_box(entry.get("bbox")):
        left, top, right, bottom = entry["bbox"]
        return {**entry, "bbox": [left, top, right - left, bottom - top]}
    if mode in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        return entry
    return {key: value for key, value in entry.items() if key != "bbox"}


def _loaded_categories(task: Task, metadata: Metadata) -> dict[int, Category]:
    """Classes by contiguous id: of things alone where there are instances, else all, which "stuff" entries list."""
    things = thing_labels(metadata)
    if task == "instance":
        names = listed_names(metadata, of_things=True)
        return {k: Category(name) for k, name in enumerate(names) if not things or k in things}
    return {k: Category(name, k in things) for k, name in enumerate(metadata.get("stuff_classes") or [])}
