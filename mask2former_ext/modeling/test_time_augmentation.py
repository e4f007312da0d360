"""Test-time augmentation: a model sees an image in several sizes and mirrored, and its answers are averaged.

Shapes: C channels, H, W of an image or result, Q queries, K classes, h, w of a grid of masks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import HFlipTransform, NoOpTransform, ResizeTransform, TransformList
from detectron2.modeling import DatasetMapperTTA
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .maskformer import MaskFormer
from .view_merging import Frame, ViewMerger

TTAMapper = Callable[[dict[str, Any]], list[dict[str, Any]]]


class View(NamedTuple):
    """A view of an image: the model's input, with ``height`` and ``width`` of the result; and whether it is flipped."""

    inputs: dict[str, Any]
    flipped: bool

    @property
    def image_height(self) -> int:
        return self.inputs["image"].shape[-2]

    def upright(self, scores: Tensor) -> Tensor:
        """Mirror the scores of this view, K×H×W, back if it is mirrored."""
        return scores.flip(-1) if self.flipped else scores


def is_flipped(transforms: TransformList) -> bool:
    """Tell whether transforms of an image mirror it from left to right.

    Raises:
        ValueError: they do something that averaging could not undo.
    """
    undone = (HFlipTransform, NoOpTransform, ResizeTransform)
    unknown = {type(transform).__name__ for transform in transforms if not isinstance(transform, undone)}
    if unknown:
        raise ValueError(
            f"test-time augmentation by {', '.join(sorted(unknown))} cannot be undone here: let the tta_mapper resize, "
            "and flip from left to right, alone."
        )
    return sum(isinstance(transform, HFlipTransform) for transform in transforms) % 2 == 1


class SemanticSegmentorWithTTA(nn.Module):
    """Semantic segmentation whose scores are averaged over views of the image; for models that return ``sem_seg``.

    Views are those of ``TEST.AUG``: one of each of MIN_SIZES (length of the shorter edge, in pixels; the longer is
    MAX_SIZE at most), and with FLIP also its mirror image. The model sees one view at a time; scores are mirrored back
    and summed up at the size of the result. So it takes the time of all views, and beside the model's memory for the
    largest one that of K×H×W float32. Inputs and outputs are those of the model in evaluation mode.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, tta_mapper: TTAMapper | None = None) -> None:
        """
        Args:
            cfg: ``TEST.AUG`` is read.
            model: may be wrapped in DistributedDataParallel.
            tta_mapper: gives the views of an input, as inputs with ``transforms``; default is Detectron2's
                ``DatasetMapperTTA``.

        Raises:
            ValueError: ``TEST.AUG.MIN_SIZES`` is empty.
        """
        super().__init__()
        if tta_mapper is None and not cfg.TEST.AUG.MIN_SIZES:
            raise ValueError("TEST.AUG.MIN_SIZES is empty: name sizes, or append: TEST.AUG.ENABLED False")
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.tta_mapper = tta_mapper or DatasetMapperTTA(cfg)

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return a result for each image; see :func:`is_flipped` for errors."""
        return [self._infer_image(self._views(inputs)) for inputs in batched_inputs]

    def _views(self, inputs: dict[str, Any]) -> list[View]:
        """All views of an image; first the one that is nearest to it: not mirrored, and then of like size."""
        height, width = inputs["image"].shape[-2:]
        mapped = self.tta_mapper({"height": height, "width": width} | inputs)
        views = [View(view, is_flipped(view.pop("transforms"))) for view in mapped]
        return sorted(views, key=lambda view: (view.flipped, abs(math.log(view.image_height / height))))

    def _infer_image(self, views: list[View]) -> dict[str, Any]:
        total: Tensor | float = 0.0
        for view in views:
            total += view.upright(self.model([view.inputs])[0]["sem_seg"])
        return {"sem_seg": total / len(views)}


class MaskFormerWithTTA(SemanticSegmentorWithTTA):
    """A MaskFormer whose semantic, panoptic and instance results are those of all views of the image together.

    Semantic scores are averaged, as by :class:`SemanticSegmentorWithTTA`. Panoptic and instance results come from one
    set of queries, whose class and mask probabilities :class:`ViewMerger` averages over the views, on a grid as fine
    as that of the largest; the reference is the view that is nearest to the input. A single view that is not mirrored
    gives the model's own result, to the bit.

    The model runs once a view, for all results together. Merging assigns Q queries to Q for each view but the first,
    and holds two Q×h×w float32, h and w being those of the largest view's masks.
    """

    model: MaskFormer

    def _infer_image(self, views: list[View]) -> dict[str, Any]:
        if len(views) == 1 and not views[0].flipped:
            return self.model([views[0].inputs])[0]
        segments_on = self.model.panoptic_on or self.model.instance_on
        merger: ViewMerger | None = None
        total: Tensor | float = 0.0
        for view in views:
            prediction = self._predict(view)
            if self.model.semantic_on:
                total += view.upright(self._infer(view, prediction, semantic=True)["sem_seg"])
            if merger:
                merger.add(*prediction)
            elif segments_on:
                merger = ViewMerger(*prediction, enlarge=_finest(views))
        result = {"sem_seg": total / len(views)} if self.model.semantic_on else {}
        if merger:
            result |= self._infer(views[0], merger.merged(), semantic=False)
        return result

    def _predict(self, view: View) -> tuple[Tensor, Tensor, Frame]:
        """Q×(K+1) class logits, Q×h×w mask logits, and where those lie."""
        images = self.model._preprocess([view.inputs])
        outputs = self.model._predict(images)
        frame = Frame(tuple(images.image_sizes[0]), tuple(images.tensor.shape[-2:]), view.flipped)
        return outputs["pred_logits"][0], outputs["pred_masks"][0], frame

    def _infer(self, view: View, prediction: tuple[Tensor, Tensor, Frame], *, semantic: bool) -> dict[str, Any]:
        """The model's results of a prediction: semantic ones, or those of the other tasks that are on."""
        model = copy.copy(self.model)  # with the same parameters and buffers
        model.semantic_on = semantic
        model.panoptic_on = model.panoptic_on and not semantic
        model.instance_on = model.instance_on and not semantic
        class_logits, mask_logits, frame = prediction
        output_size = view.inputs["height"], view.inputs["width"]
        return model.infer_image(class_logits, mask_logits, frame.padded_size, frame.image_size, output_size)


def _finest(views: list[View]) -> float:
    """How many times larger than the first view the largest is."""
    return max(view.image_height for view in views) / views[0].image_height
