"""Folders of semantic PNGs, and datasets that are registered with Detectron2, as a ``Source``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.datasets.loading import require_path
from .coco_source import instance_source, panoptic_source, require_folder
from .findings import Finding
from .sources import Category, Item, Source, Task

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")
_TASK_OF_KEY: dict[str, Task] = {
    "pan_seg_file_name": "panoptic",
    "annotations": "instance",
    "sem_seg_file_name": "semantic",
}
_NO_IDS: Mapping[int, int] = {}


def semantic_source(images: Path, labels: Path, class_names: Sequence[str] | None, ignore_label: int) -> Source:
    """Pair the files of a folder of images with those of a folder of label PNGs, by their paths without suffix.

    Args:
        images, labels: the folders; files may lie in folders of theirs.
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
    image_of = _by_name(images, IMAGE_SUFFIXES, findings)
    label_of = _by_name(labels, LABEL_SUFFIXES, findings)
    if not image_of or not label_of:
        empty, suffixes = (images, IMAGE_SUFFIXES) if not image_of else (labels, LABEL_SUFFIXES)
        raise ValueError(f"{empty}: there is no file in this folder that ends in {', '.join(suffixes)}.")
    if class_names is None:
        findings.append(Finding("classes-inferred", "The classes are the labels that occur.", str(labels)))
    for name in sorted(label_of.keys() - image_of.keys()):
        findings.append(Finding("image-missing", f"There is no image {images / name}.* for it.", str(label_of[name])))
    items = [
        Item(str(image), png=str(label_of.get(name, (labels / name).with_name(f"{Path(name).name}.png"))))
        for name, image in image_of.items()
    ]
    categories = {label: Category(name) for label, name in enumerate(class_names or ())}
    return Source(str(labels), "semantic", categories, items, findings, ignore_label)


def _by_name(folder: Path, suffixes: Sequence[str], findings: list[Finding]) -> dict[str, Path]:
    """Files with one of ``suffixes`` by their path in the folder without suffix, the first of each name."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes:
            continue
        name = str(path.relative_to(folder).with_suffix(""))
        if name in files:
            cause = f"Without suffix it has the name of {files[name].name}, so that it stays unused."
            findings.append(Finding("image-unused", cause, str(path)))
        files.setdefault(name, path)
    return files


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
    if evaluator == "coco_panoptic_seg" and task in (None, "panoptic") and metadata.get("panoptic_root"):
        images, file, root = (Path(metadata[key]) for key in ("image_root", "panoptic_json", "panoptic_root"))
        source = panoptic_source(images, file, root, None)
    elif evaluator == "coco" and task in (None, "instance"):
        source = instance_source(Path(metadata["image_root"]), Path(metadata["json_file"]), None)
    else:
        return _loaded_source(name, task, metadata)
    source.name = name
    return source


def _loaded_source(name: str, task: Task | None, metadata: Mapping[str, Any]) -> Source:
    """A dataset as its loader gives it, in Detectron2's standard format."""
    try:
        dicts = DatasetCatalog.get(name)
        metadata = MetadataCatalog.get(name).as_dict()  # some loaders write into it
    except (AssertionError, KeyError) as error:
        raise ValueError(f'The loader of "{name}" failed: {error!r}. Check its files.') from error
    found = [of_key for key, of_key in _TASK_OF_KEY.items() if dicts and key in dicts[0]]
    chosen = task or (found[0] if found else None)
    if chosen is None or chosen not in found:
        kinds = ", ".join(found) or "none"
        raise ValueError(f'"{name}" has no annotations for the task {chosen}; it has: {kinds}.')
    items = list(_loaded_items(dicts, chosen))
    categories = _loaded_categories(chosen, metadata)
    return Source(name, chosen, categories, items, [], metadata.get("ignore_label") or 255)


def _loaded_items(dicts: Sequence[Mapping[str, Any]], task: Task) -> Iterator[Item]:
    annotations, png = {
        "panoptic": ("segments_info", "pan_seg_file_name"),
        "instance": ("annotations", ""),
        "semantic": ("", "sem_seg_file_name"),
    }[task]
    for record in dicts:
        size = (record["height"], record["width"]) if "height" in record else None
        yield Item(
            record["file_name"], record.get("image_id"), size, tuple(record.get(annotations, ())), record.get(png)
        )


def _loaded_categories(task: Task, metadata: Mapping[str, Any]) -> dict[int, Category]:
    """Classes by contiguous id: of things alone where there are instances, else all, which "stuff" entries list."""
    thing_ids = set((metadata.get("thing_dataset_id_to_contiguous_id") or _NO_IDS).values())
    things, stuff = metadata.get("thing_classes") or [], metadata.get("stuff_classes") or []
    if task == "instance":
        return {k: Category(name) for k, name in enumerate(things) if not thing_ids or k in thing_ids}
    return {k: Category(name, k in thing_ids) for k, name in enumerate(stuff)}
