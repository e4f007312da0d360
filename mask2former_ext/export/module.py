"""The model as a function from images to tensors, which is what can be exported.

Shapes: B images of one size H×W, C channels, Q queries, K classes, N = min(TEST.DETECTIONS_PER_IMAGE, Q·K) instances,
h, w of the mask predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling import MaskFormer
from ..modeling.backbone.window_attention import to_multiple
from ..modeling.pixel_decoder import MSDeformAttnTransformer
from .postprocessing import best_pairs, instances, panoptic_segments, select_queries, semantic_scores

# Output → what it is, by task; in the order that the exported model gives them in.
OUTPUTS = {
    "raw": {
        "pred_logits": "B×Q×(K+1) float32 class logits; the last class is no-object",
        "pred_masks": "B×Q×h×w float32 mask logits of the padded image, at a quarter of its size",
    },
    "semantic": {"sem_seg": "B×K×H×W float32 scores; the class of a pixel is the one of the largest"},
    "instance": {
        "instance_scores": "B×N float32 scores, in the order of class probabilities",
        "instance_classes": "B×N int64 class indices",
        "instance_queries": "B×N int64 indices of the queries that the masks are from",
        "instance_boxes": "B×N×4 float32 boxes (x1, y1, x2, y2) in pixels, tight around the masks",
        "instance_masks": "B×N×H×W bool",
        "instance_valid": "B×N bool: False for rows to leave out, which are of no thing class",
    },
    "panoptic": {
        "panoptic_seg": "B×H×W int32 segment ids; 0 is no segment, the segment of id i is in row i - 1",
        "segment_classes": "B×Q int64 class indices, -1 where the row is empty",
        "segment_scores": "B×Q float32 class probabilities, 0 where the row is empty",
        "segment_queries": "B×Q int64 indices of the segments' first queries, -1 where the row is empty",
        "segment_valid": "B×Q bool: whether the row holds a segment",
    },
}
TASKS = tuple(OUTPUTS)


class ExportableModel(nn.Module):
    """Images to the outputs of the chosen tasks; normalisation and padding are part of it."""

    pixel_mean: Tensor
    pixel_std: Tensor
    is_thing: Tensor

    def __init__(self, model: MaskFormer, tasks: Sequence[str]) -> None:
        """
        Args:
            model: whose weights are shared; in evaluation mode.
            tasks: some of :data:`TASKS`.

        Raises:
            ValueError: a task is unknown, there is none, or the model is in training mode.
        """
        super().__init__()
        unknown = [task for task in tasks if task not in TASKS]
        if unknown or not tasks:
            raise ValueError(f"tasks to export must be among {list(TASKS)}, got {list(tasks)}.")
        if model.training:
            raise ValueError("the model to export is in training mode: call model.eval() first.")
        self.backbone = model.backbone
        self.sem_seg_head = model.sem_seg_head
        self.tasks = [task for task in TASKS if task in tasks]
        self.size_divisibility = max(model.size_divisibility, 1)
        self.max_detections = model.test_topk_per_image
        self.things_only = model.panoptic_on
        self.thresholds = {
            "object_mask_threshold": model.object_mask_threshold,
            "overlap_threshold": model.overlap_threshold,
        }
        num_classes = model.criterion.num_classes
        is_thing = torch.zeros(num_classes, dtype=torch.bool, device=model.device)
        # a dataset may have more classes than a model that was trained on others
        is_thing[[label for label in model.thing_classes if label < num_classes]] = True
        self.register_buffer("is_thing", is_thing, persistent=False)
        self.register_buffer("pixel_mean", model.pixel_mean, persistent=False)
        self.register_buffer("pixel_std", model.pixel_std, persistent=False)
        self.eval()

    @property
    def outputs(self) -> dict[str, str]:
        """Name of each output, in order, and what it is."""
        return {name: text for task in self.tasks for name, text in OUTPUTS[task].items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """B×C×H×W float32 images, in the units of MODEL.PIXEL_MEAN, to the tensors of :data:`OUTPUTS`."""
        height, width = images.shape[-2:]
        padding = (0, to_multiple(width, self.size_divisibility), 0, to_multiple(height, self.size_divisibility))
        padded = F.pad((images - self.pixel_mean) / self.pixel_std, padding)
        predictions = self.sem_seg_head(self.backbone(padded))
        class_logits, mask_logits = predictions["pred_logits"], predictions["pred_masks"]

        def resize(masks: Tensor) -> Tensor:
            masks = F.interpolate(masks, size=padded.shape[-2:], mode="bilinear", align_corners=False)
            # a copy: whether its layout is that of the whole would be one more thing to assume of the size
            return masks[:, :, :height, :width].clone(memory_format=torch.contiguous_format)

        results: dict[str, Tensor] = {}
        if "raw" in self.tasks:
            results |= {"pred_logits": class_logits, "pred_masks": mask_logits}
        if "instance" in self.tasks:
            scores, queries, classes = best_pairs(class_logits, self.max_detections)
            masks, mask_scores, boxes = instances(resize(select_queries(mask_logits, queries)))
            valid = self.is_thing[classes] if self.things_only else torch.ones_like(classes, dtype=torch.bool)
            values = (scores * mask_scores, classes, queries, boxes, masks, valid)
            results |= dict(zip(OUTPUTS["instance"], values, strict=True))
        if "semantic" in self.tasks or "panoptic" in self.tasks:
            results |= self._dense(class_logits, resize(mask_logits))
        return {name: results[name] for name in self.outputs}

    def _dense(self, class_logits: Tensor, mask_logits: Tensor) -> dict[str, Tensor]:
        """Results that every query's mask at full size, B×Q×H×W, takes part in."""
        results: dict[str, Tensor] = {}
        if "semantic" in self.tasks:
            results["sem_seg"] = semantic_scores(class_logits, mask_logits)
        if "panoptic" in self.tasks:
            results |= panoptic_segments(class_logits, mask_logits, self.is_thing, **self.thresholds)
        return results


@contextmanager
def plain_operator(module: nn.Module) -> Iterator[Any]:
    """Within the block multi-scale deformable attention is plain PyTorch, in a form that can be exported."""
    transformers = [part for part in module.modules() if isinstance(part, MSDeformAttnTransformer)]
    before = [part.plain_operator for part in transformers]
    for part in transformers:
        part.plain_operator = True
    try:
        yield module
    finally:
        for part, value in zip(transformers, before, strict=True):
            part.plain_operator = value
