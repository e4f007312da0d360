"""COCO's JSON files, instance and panoptic, as a ``Source``; entries that contradict each other become findings."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .findings import Finding
from .sources import Category, Item, Source

Entry = Mapping[str, Any]
EVALUATED_KEYS = ("area", "iscrowd")  # without these COCO's evaluation ends in a KeyError


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
    entries = _images(content["images"], ("id", "file_name", "height", "width"), annotations, findings)
    of_image = defaultdict(list)
    for annotation in _with_known_image(content["annotations"], ("id", "category_id"), entries, annotations, findings):
        missing = [key for key in EVALUATED_KEYS if key not in annotation]
        if missing:
            cause = f"The annotation lacks {' and '.join(missing)}, which COCO's evaluation reads."
            findings.append(_at(annotation, "entry-malformed", cause, annotations))
        of_image[annotation["image_id"]].append(annotation)
    findings += _repeated_annotation_ids(of_image, annotations)
    items = [_item(images, entry, of_image.get(image_id, ())) for image_id, entry in entries.items()]
    return Source(str(annotations), "instance", categories, items, findings + _unused(images, items))


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
    entries = _images(content["images"], ("id", "file_name"), annotations, findings)
    of_image: dict[Any, Entry] = {}
    keys = ("file_name", "segments_info")
    for annotation in _with_known_image(content["annotations"], keys, entries, annotations, findings):
        if annotation["image_id"] in of_image:
            cause = f"The image has a second annotation, {annotation['file_name']}."
            findings.append(_at(annotation, "image-annotated-twice", cause, annotations))
            continue
        of_image[annotation["image_id"]] = annotation
    items = []
    for image_id, entry in entries.items():
        annotation = of_image.get(image_id, {"segments_info": ()})
        segments = [_checked(segment, ("id", "category_id")) for segment in annotation["segments_info"]]
        if not all(segments):
            cause = "An entry of its segments_info lacks id or category_id."
            findings.append(_at(annotation, "entry-malformed", cause, annotations))
        png = os.path.join(root, annotation["file_name"]) if "file_name" in annotation else None
        items.append(_item(images, entry, [segment for segment in segments if segment], png))
    return Source(str(annotations), "panoptic", categories, items, findings + _unused(images, items))


def require_folder(folder: Path, what: str) -> None:
    """Raise FileNotFoundError unless ``folder`` is one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: this folder does not exist (the {what}).")


def _read(images: Path, annotations: Path) -> dict[str, list[Any]]:
    require_folder(images, "folder of images")
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{annotations}: this file does not exist (the annotations).") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{annotations}: cannot be read as JSON: {error}. Export the annotations again.") from error
    keys = ("images", "annotations", "categories")
    wrong = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if wrong:
        raise ValueError(
            f"{annotations}: this is no annotation file of COCO's format, which has lists of images, annotations and"
            f" categories; it lacks {', '.join(wrong)}."
        )
    return content


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
        if not _checked(entry, ("id", "name")):
            findings.append(Finding("entry-malformed", f"The category {_short(entry)} lacks id or name.", str(file)))
            continue
        number, name = entry["id"], str(entry["name"])
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


def _images(entries: Iterable[Any], keys: Sequence[str], file: Path, findings: list[Finding]) -> dict[Any, Entry]:
    """Entries of images by their ids, the first of each; all have ``keys``."""
    images: dict[Any, Entry] = {}
    id_of_name: dict[str, Any] = {}
    for entry in entries:
        if not _checked(entry, keys):
            findings.append(Finding("entry-malformed", f"The image {_short(entry)} {_lacks(keys)}.", str(file)))
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
    return images


def _with_known_image(
    annotations: Iterable[Any], keys: Sequence[str], images: Collection[Any], file: Path, findings: list[Finding]
) -> Iterator[Entry]:
    """Yield the annotations of images that there are; the others become findings."""
    for annotation in annotations:
        if not _checked(annotation, ("image_id", *keys)):
            cause = f"The annotation {_short(annotation)} {_lacks(('image_id', *keys))}."
            findings.append(Finding("entry-malformed", cause, str(file)))
        elif annotation["image_id"] not in images:
            cause = f"No image has the id {annotation['image_id']}."
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


def _item(folder: Path, entry: Entry, annotations: Iterable[Entry], png: str | None = None) -> Item:
    size = (entry["height"], entry["width"]) if _checked(entry, ("height", "width")) else None
    return Item(os.path.join(folder, entry["file_name"]), entry["id"], size, tuple(annotations), png)


def _unused(folder: Path, items: Sequence[Item]) -> list[Finding]:
    """A finding for each image file of the folder, at any depth of those used, that is none of ``items``."""
    used = {os.path.normpath(item.image) for item in items}
    suffixes = {os.path.splitext(path)[1] for path in used}
    folders = {os.path.dirname(path) for path in used} or {str(folder)}
    present = (entry.path for folder in folders if os.path.isdir(folder) for entry in os.scandir(folder))
    unused = sorted(path for path in present if os.path.splitext(path)[1] in suffixes and path not in used)
    return [Finding("image-unused", "No entry of the annotations names this file.", path) for path in unused]


_TYPES: dict[str, type | tuple[type, ...]] = {
    "id": (int, str),
    "image_id": (int, str),
    "category_id": int,
    "file_name": str,
    "height": int,
    "width": int,
    "segments_info": list,
}


def _checked(entry: Any, keys: Iterable[str]) -> Entry | None:
    """The entry if it has all ``keys``, each of its type."""
    whole = isinstance(entry, dict) and all(
        key in entry and isinstance(entry[key], _TYPES.get(key, object)) for key in keys
    )
    return entry if whole else None


def _lacks(keys: Sequence[str]) -> str:
    return f"lacks {', '.join(keys[:-1])} or {keys[-1]}, or has it of another type"


def _at(annotation: Entry, kind: str, cause: str, file: Path) -> Finding:
    return Finding(kind, cause, str(file), annotation.get("image_id"), annotation.get("id"))


def _short(entry: Any) -> str:
    text = json.dumps(entry)
    return text if len(text) <= 80 else f"{text[:77]}..."
