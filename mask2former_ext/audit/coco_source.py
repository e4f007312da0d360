"""COCO's JSON files, instance and panoptic, as a ``Source``; entries that contradict each other become findings."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.datasets.annotation_files import read_json
from .findings import Finding
from .sources import Category, Item, Source

Entry = Mapping[str, Any]
Form = Mapping[str, type | tuple[type, ...]]
"""Keys that an entry must have, with the types of their values."""

LONGEST_SIDE = 2**17
"""Pixels; masks of the size that is stated must fit into memory, before it is known to be wrong."""
_ID = (int, str)
_SIZE: Form = {"height": int, "width": int}
IMAGE: Form = {"id": _ID, "file_name": str}
_INSTANCE: Form = {"id": _ID, "image_id": _ID, "category_id": int}
_EVALUATED: Form = {"area": (int, float), "bbox": list, "iscrowd": int}  # COCO's evaluation ends without these
_PANOPTIC: Form = {"image_id": _ID, "file_name": str, "segments_info": list}
_SEGMENT: Form = {"id": int, "category_id": int}
CATEGORY: Form = {"id": int, "name": str}


def instance_source(images: Path, annotations: Path, class_names: Sequence[str] | None) -> Source:
    """Read COCO instance annotations.

    Args:
        images: folder of the images.
        annotations: the JSON file.
        class_names: the classes that it may have, None for those that it lists.

    Raises:
        FileNotFoundError: folder or file do not exist.
        ValueError: the file holds no COCO instance annotations.
    """
    content = _read(images, annotations)
    if any("segments_info" in entry for entry in content["annotations"][:1] if isinstance(entry, dict)):
        raise ValueError(f"{annotations}: these are panoptic annotations, not instances. Ask for the panoptic task.")
    findings: list[Finding] = []
    categories = _categories(content["categories"], annotations, class_names, findings)
    entries = _images(content["images"], annotations, findings, sized=True)
    of_image = defaultdict(list)
    ids = []
    for annotation in _with_known_image(content["annotations"], _INSTANCE, entries, annotations, findings):
        missing = [key for key in _EVALUATED if not fits(annotation, {key: _EVALUATED[key]})]
        if missing:
            cause = f"COCO's evaluation needs {' and '.join(missing)}: the annotation lacks it, or has another type."
            findings.append(_at(annotation, "entry-malformed", cause, annotations))
        of_image[annotation["image_id"]].append(annotation)
        ids.append(annotation["id"])
    findings += _mixed_ids(ids, "annotations", annotations)
    findings += _repeated_annotation_ids(of_image, annotations)
    items = [_item(images, entry, of_image.get(image_id, ())) for image_id, entry in entries.items()]
    findings += _unused(images, content["images"])
    return Source(str(annotations), "instance", categories, items, findings)


def panoptic_source(
    images: Path, annotations: Path, panoptic_root: Path | None, class_names: Sequence[str] | None
) -> Source:
    """Read COCO panoptic annotations.

    Args:
        images: folder of the images.
        annotations: the JSON file.
        panoptic_root: folder of the PNGs, None for the one that is named as the file without ".json".
        class_names: the classes that it may have, None for those that it lists.

    Raises:
        FileNotFoundError: a folder or the file do not exist.
        ValueError: the file holds no COCO panoptic annotations.
    """
    content = _read(images, annotations)
    if not all("segments_info" in entry for entry in content["annotations"][:1] if isinstance(entry, dict)):
        raise ValueError(f"{annotations}: these are no panoptic annotations, segments_info is missing.")
    root = annotations.with_suffix("") if panoptic_root is None else panoptic_root
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: this folder of panoptic PNGs does not exist. Name it (panoptic_root).")
    findings: list[Finding] = []
    categories = _categories(content["categories"], annotations, class_names, findings, panoptic=True)
    entries = _images(content["images"], annotations, findings, sized=False)
    of_image: dict[Any, Entry] = {}
    for annotation in _with_known_image(content["annotations"], _PANOPTIC, entries, annotations, findings):
        if annotation["image_id"] in of_image:
            cause = f"The image has a second annotation, {annotation['file_name']}."
            findings.append(_at(annotation, "image-annotated-twice", cause, annotations))
            continue
        of_image[annotation["image_id"]] = annotation
    items = []
    for image_id, entry in entries.items():
        annotation = of_image.get(image_id, {"segments_info": ()})
        segments = [segment for segment in annotation["segments_info"] if fits(segment, _SEGMENT)]
        if len(segments) < len(annotation["segments_info"]):
            cause = f"An entry of its segments_info {_lacks(_SEGMENT)}."
            findings.append(_at(annotation, "entry-malformed", cause, annotations))
        png = os.path.join(root, annotation["file_name"]) if "file_name" in annotation else None
        items.append(_item(images, entry, segments, png))
    findings += _unused(images, content["images"])
    return Source(str(annotations), "panoptic", categories, items, findings)


def fits(entry: Any, form: Form) -> bool:
    """Whether an entry is an object with all keys of ``form``, each of its type."""
    return isinstance(entry, dict) and all(key in entry and isinstance(entry[key], form[key]) for key in form)


def require_folder(folder: Path, what: str) -> None:
    """Raise FileNotFoundError unless ``folder`` is one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: this folder does not exist (the {what}).")


def _read(images: Path, annotations: Path) -> dict[str, list[Any]]:
    require_folder(images, "folder of images")
    if not annotations.is_file():
        raise FileNotFoundError(f"{annotations}: there is no such file (the annotations).")
    return read_json(str(annotations), ("images", "annotations", "categories"))


def _categories(
    entries: Iterable[Any],
    file: Path,
    class_names: Sequence[str] | None,
    findings: list[Finding],
    *,
    panoptic: bool = False,
) -> dict[int, Category]:
    categories: dict[int, Category] = {}
    for entry in entries:
        if not fits(entry, CATEGORY):
            cause = f"The category {_short(entry)} {_lacks(CATEGORY)}."
            findings.append(Finding("entry-malformed", cause, str(file)))
            continue
        number, name = entry["id"], entry["name"]
        if number in categories:
            cause = f'The category id {number} stands for both "{categories[number].name}" and "{name}".'
            findings.append(Finding("category-id-repeated", cause, str(file)))
            continue
        if panoptic and "isthing" not in entry:
            findings.append(Finding("isthing-missing", f'The category {number} ("{name}") lacks isthing.', str(file)))
        if class_names is not None and name not in class_names:
            cause = f'The category {number} ("{name}") is none of the {len(class_names)} class names.'
            findings.append(Finding("class-names-differ", cause, str(file)))
        categories[number] = Category(name, bool(entry.get("isthing", 1)))
    for name, count in Counter(category.name for category in categories.values()).items():
        if count > 1:
            findings.append(Finding("category-name-repeated", f'{count} categories are called "{name}".', str(file)))
    return categories


def _images(entries: Iterable[Any], file: Path, findings: list[Finding], *, sized: bool) -> dict[Any, Entry]:
    """Entries of images by their ids, the first of each; with ``sized``, all have a height and a width."""
    images: dict[Any, Entry] = {}
    id_of_name: dict[str, Any] = {}
    for entry in entries:
        sides = {key: _SIZE[key] for key in _SIZE if sized or (isinstance(entry, dict) and key in entry)}
        form = {**IMAGE, **sides}
        if not fits(entry, form):
            findings.append(Finding("entry-malformed", f"The image {_short(entry)} {_lacks(form)}.", str(file)))
            continue
        if any(not 0 < entry[side] <= LONGEST_SIDE for side in sides):
            cause = f"The image {_short(entry)} has a height or width that is not in 1…{LONGEST_SIDE}."
            findings.append(Finding("entry-malformed", cause, str(file)))
            continue
        number, name = entry["id"], entry["file_name"]
        if number in images:
            cause = f"The image id {number} stands for both {images[number]['file_name']} and {name}."
            findings.append(Finding("image-id-repeated", cause, str(file), number))
            continue
        if name in id_of_name:
            cause = f"{name} is listed as image {id_of_name[name]} and as image {number}."
            findings.append(Finding("image-listed-twice", cause, str(file), number))
        images[number] = entry
        id_of_name.setdefault(name, number)
    findings += _mixed_ids(images, "images", file)
    return images


def _with_known_image(
    annotations: Iterable[Any], form: Form, images: Collection[Any], file: Path, findings: list[Finding]
) -> Iterator[Entry]:
    """Yield the annotations of images that there are; the others become findings."""
    for annotation in annotations:
        if not fits(annotation, form):
            cause = f"The annotation {_short(annotation)} {_lacks(form)}."
            findings.append(Finding("entry-malformed", cause, str(file)))
        elif annotation["image_id"] not in images:
            cause = f"No image that can be used has the id {annotation['image_id']!r}."
            findings.append(_at(annotation, "annotation-without-image", cause, file))
        else:
            yield annotation


def _repeated_annotation_ids(of_image: Mapping[Any, Iterable[Entry]], file: Path) -> Iterator[Finding]:
    first: dict[Any, Any] = {}
    for image_id, entries in of_image.items():
        for annotation in entries:
            if annotation["id"] in first:
                cause = f"Image {first[annotation['id']]} has an annotation of this id too."
                yield Finding("annotation-id-repeated", cause, str(file), image_id, annotation["id"])
            first.setdefault(annotation["id"], image_id)


def _mixed_ids(ids: Iterable[int | str], what: str, file: Path) -> Iterator[Finding]:
    if len({type(number) for number in ids}) > 1:
        cause = f"Some {what} have a number as id, others text; training refuses that."
        yield Finding("entry-malformed", cause, str(file))


def _item(folder: Path, entry: Entry, annotations: Iterable[Entry], png: str | None = None) -> Item:
    size = (entry["height"], entry["width"]) if fits(entry, _SIZE) else None
    return Item(os.path.join(folder, entry["file_name"]), entry["id"], size, tuple(annotations), png)


def _unused(folder: Path, entries: Iterable[Any]) -> list[Finding]:
    """A finding for each file that no entry names, beside those that are named and with the suffix of one of them."""
    names = [entry["file_name"] for entry in entries if fits(entry, {"file_name": str})]
    used = {os.path.normpath(os.path.join(folder, name)) for name in names}
    suffixes = {_suffix(path) for path in used}
    folders = {os.path.dirname(path) or os.curdir for path in used}
    present = (entry for each in folders if os.path.isdir(each) for entry in os.scandir(each) if entry.is_file())
    paths = {os.path.normpath(entry.path) for entry in present if _suffix(entry.path) in suffixes}
    cause = "No entry of the annotations names this file."
    return [Finding("image-unused", cause, path) for path in sorted(paths - used)]


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _lacks(form: Form) -> str:
    *keys, last = form
    return f"lacks {', '.join(keys)} or {last}, or has it of another type"


def _at(annotation: Entry, kind: str, cause: str, file: Path) -> Finding:
    return Finding(kind, cause, str(file), annotation.get("image_id"), annotation.get("id"))


def _short(entry: Any) -> str:
    text = json.dumps(entry, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
