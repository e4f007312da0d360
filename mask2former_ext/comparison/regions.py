"""What is on an image, true or found, compressed: regions of all images of a dataset fit into memory.

H, W: height and width of the image in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from detectron2.data.catalog import Metadata
from detectron2.evaluation import DatasetEvaluator

from ..classes import class_name, listed_names
from ..data.masks import decode_segmentation
from ..data.reading import describe, read_image_file, rgb_to_id

THINGS, STUFF = "things", "stuff"
MIN_SCORE = 0.5
"""Instances that a model is less sure of are neither scored image by image nor drawn."""


@dataclass(frozen=True)
class Region:
    """One thing, or all of one class of stuff.

    Attributes:
        rle: its mask, as COCO's run-length code.
        category: contiguous id, of things or of stuff.
        kind: :data:`THINGS` or :data:`STUFF`.
        confidence: of a found instance; None of the truth, and where a model has none.
    """

    rle: dict[str, Any]
    category: int
    kind: str
    confidence: float | None = None

    @classmethod
    def of(cls, mask: np.ndarray, category: int, kind: str, confidence: float | None = None) -> Region:
        """Compress ``mask``, bool H×W."""
        return cls(encode(mask), category, kind, confidence)

    def mask(self) -> np.ndarray:
        """Bool H×W."""
        return coco_mask.decode(self.rle).astype(bool)


@dataclass(frozen=True)
class Truth:
    """What is truly on an image.

    Attributes:
        regions: without crowds.
        ignored: run-length code of the pixels that count for nothing, void and crowds.
        kinds: which of :data:`THINGS` and :data:`STUFF` the annotations tell of.
    """

    regions: list[Region]
    ignored: dict[str, Any]
    kinds: frozenset[str]


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Bool H×W → run-length code."""
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def read_truth(record: Mapping[str, Any], ignore_label: int | None) -> Truth | None:
    """Read the truth of a dataset dict: panoptic where it has that, else instances, else labels of pixels.

    Args:
        record: Detectron2's dataset dict, with ``height`` and ``width`` where it has instances.
        ignore_label: of label images, the label of pixels without one.

    Returns:
        The truth, or None for a record without annotations.

    Raises:
        OSError, ValueError: a file of the record cannot be read, or an annotation has no mask.
    """
    where = describe(dict(record))
    if "pan_seg_file_name" in record:
        png = read_image_file(record["pan_seg_file_name"], "RGB", f"panoptic image of {where}")
        return _panoptic_truth(rgb_to_id(png), record["segments_info"])
    if "annotations" in record:
        return _instance_truth(record["annotations"], (record["height"], record["width"]), where)
    if "sem_seg_file_name" in record:
        labels = read_image_file(record["sem_seg_file_name"], None, f"label image of {where}")
        present = [label for label in np.unique(labels).tolist() if label != ignore_label]
        regions = [Region.of(labels == label, label, STUFF) for label in present]
        return Truth(regions, encode(labels == ignore_label), frozenset({STUFF}))
    return None


def _panoptic_truth(ids: np.ndarray, segments_info: Sequence[Mapping[str, Any]]) -> Truth:
    counted = [info for info in segments_info if not info.get("iscrowd", 0)]
    regions = [
        Region.of(ids == info["id"], info["category_id"], THINGS if info["isthing"] else STUFF) for info in counted
    ]
    ignored = np.isin(ids, [info["id"] for info in counted], invert=True)
    return Truth(regions, encode(ignored), frozenset({THINGS, STUFF}))


def _instance_truth(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int], where: str) -> Truth:
    ignored = np.zeros(size, dtype=bool)
    regions = []
    for annotation in annotations:
        rle = _annotated_rle(annotation, size, where)
        if annotation.get("iscrowd", 0):
            ignored |= coco_mask.decode(rle).astype(bool)
        else:
            regions.append(Region(rle, annotation["category_id"], THINGS))
    return Truth(regions, encode(ignored), frozenset({THINGS}))


def _annotated_rle(annotation: Mapping[str, Any], size: tuple[int, int], where: str) -> dict[str, Any]:
    shape = decode_segmentation(annotation.get("segmentation"), size, where)
    if isinstance(shape, list):
        return coco_mask.merge(coco_mask.frPyObjects([polygon.reshape(-1).tolist() for polygon in shape], *size))
    return encode(shape)


def found_regions(output: Mapping[str, Any], truth: str) -> tuple[list[Region], frozenset[str]]:
    """What a model found on an image, in the form that suits the truth.

    Args:
        output: of a Detectron2 model for one image.
        truth: "panoptic", "instances" or "semantic", what the dataset is annotated with.

    Returns:
        The regions, and the kinds that the model looks for: those of :data:`THINGS` and :data:`STUFF` that it would
        have found if they were there.
    """
    for form in _FORMS[truth]:
        if form in output:
            return _READERS[form](output[form])
    return [], frozenset()


def _from_panoptic(output: Any) -> tuple[list[Region], frozenset[str]]:
    panoptic_seg, segments_info = output
    if segments_info is None:  # labels with instances in one number, as Panoptic-DeepLab has them: not known here
        return [], frozenset()
    ids = panoptic_seg.cpu().numpy()
    regions = [
        Region.of(ids == info["id"], info["category_id"], THINGS if info["isthing"] else STUFF)
        for info in segments_info
    ]
    return regions, frozenset({THINGS, STUFF})


def _from_instances(instances: Any) -> tuple[list[Region], frozenset[str]]:
    if not instances.has("pred_masks"):
        return [], frozenset()
    instances = instances[instances.scores >= MIN_SCORE].to("cpu")
    regions = [
        Region.of(mask.numpy(), category, THINGS, score)
        for mask, category, score in zip(
            instances.pred_masks, instances.pred_classes.tolist(), instances.scores.tolist(), strict=True
        )
    ]
    return regions, frozenset({THINGS})


def _from_semantic(sem_seg: Any) -> tuple[list[Region], frozenset[str]]:
    labels = sem_seg.argmax(dim=0).cpu().numpy()
    return [Region.of(labels == label, label, STUFF) for label in np.unique(labels).tolist()], frozenset({STUFF})


_READERS = {"panoptic_seg": _from_panoptic, "instances": _from_instances, "sem_seg": _from_semantic}
_FORMS = {
    "panoptic": ("panoptic_seg", "instances"),
    "instances": ("instances", "panoptic_seg"),
    "semantic": ("sem_seg",),
}


def form_of_truth(record: Mapping[str, Any]) -> str:
    """Which truth :func:`read_truth` takes of a record; "panoptic" where it has none, the fullest to look at."""
    forms = {"pan_seg_file_name": "panoptic", "annotations": "instances", "sem_seg_file_name": "semantic"}
    return next((form for key, form in forms.items() if key in record), "panoptic")


class RegionKeeper(DatasetEvaluator):
    """Keeps what a model finds on each image, and some of the inputs, while evaluators work.

    Attributes:
        found: file name of the image → regions.
        kinds: that the model looks for.
        inputs: the first images as the network gets them.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]], kept_inputs: int) -> None:
        """
        Args:
            records: dataset dicts of the images; what they are annotated with chooses among the model's outputs.
            kept_inputs: how many inputs to keep.
        """
        self._forms = {record["file_name"]: form_of_truth(record) for record in records}
        self._kept_inputs = kept_inputs
        self.reset()

    def reset(self) -> None:
        self.found: dict[str, list[Region]] = {}
        self.kinds: frozenset[str] = frozenset({THINGS, STUFF})
        self.inputs: list[dict[str, Any]] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        for input_, output in zip(inputs, outputs, strict=True):
            regions, kinds = found_regions(output, self._forms[input_["file_name"]])
            self.found[input_["file_name"]] = regions
            self.kinds &= kinds
            if len(self.inputs) < self._kept_inputs:
                self.inputs.append(input_)

    def evaluate(self) -> None:
        """There are no figures."""


def region_name(region: Region, metadata: Metadata) -> str:
    """The name of a region's class, or its number where the metadata has no name for it."""
    return class_name(listed_names(metadata, of_things=region.kind == THINGS), region.category)
