"""The three forms of datasets, brought to one: a list of images, each with its annotations as they are in the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .findings import Finding

Task = Literal["instance", "panoptic", "semantic"]


@dataclass(frozen=True, slots=True)
class Category:
    """A class: its name, and whether it is a thing."""

    name: str
    is_thing: bool = True


@dataclass(frozen=True, slots=True)
class Item:
    """An image and its annotations.

    Attributes:
        image: path of the image.
        image_id: its id, None where the dataset has none.
        size: (height, width) by the annotations, None where they do not say.
        annotations: entries of objects (instance) or of segments (panoptic), as they are in the file.
        png: path of the panoptic or semantic PNG.
    """

    image: str
    image_id: int | str | None = None
    size: tuple[int, int] | None = None
    annotations: tuple[Mapping[str, Any], ...] = ()
    png: str | None = None


@dataclass
class Source:
    """A dataset before its images are looked at.

    Attributes:
        name: what reports call it.
        task: selects the checks of images.
        categories: id as in the annotations → class; empty where semantic labels are taken as they come.
        items: all images.
        findings: what the annotation file and the folders showed.
        ignore_label: label of pixels without one (semantic).
    """

    name: str
    task: Task
    categories: dict[int, Category]
    items: list[Item]
    findings: list[Finding] = field(default_factory=list)
    ignore_label: int = 255
