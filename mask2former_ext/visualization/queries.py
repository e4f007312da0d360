"""What single queries of a MaskFormer do, layer by layer: masks, classes, where they look, and what they are to find.

Shapes: J predictions (of the raw queries first, then one a decoder layer), Q queries, K classes, h, w of the mask
predictions, H, W of the padded image, h', w' of the scale that a layer attends to, N objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..modeling import MaskFormer
from ..modeling.inference import resize_masks
from ..modeling.pixel_decoder import NUM_DECODER_LEVELS
from ..modeling.targets import Target, prepare_target
from ..modeling.transformer_decoder import attention_mask
from .matching import mask_iou, match_layers
from .painting import rgb_picture

Size = tuple[int, int]
INSIDE = 0.5  # the probability from which on a pixel is of the mask, for attention and for results


@dataclass(frozen=True)
class QueryStep:
    """One query at one prediction.

    Attributes:
        label: the class it says, 0 … K-1, no-object left out.
        score: probability of that class.
        no_object: probability of no-object.
        probabilities: float32 H×W, of the mask.
        allowed: bool h'×w', where the next layer lets the query look; None after the last layer.
        matched: the object that it is matched with, None if with none or if there is no truth.
        iou: intersection over union of its mask, where the probability is at least 0.5, with that object's.
    """

    label: int
    score: float
    no_object: float
    probabilities: np.ndarray
    allowed: np.ndarray | None
    matched: int | None
    iou: float | None

    @property
    def is_empty(self) -> bool:
        """Whether the mask has no pixel at the scale attended to, so that the query may look everywhere."""
        everywhere = self.allowed is not None and bool(self.allowed.all())
        return everywhere and bool((self.probabilities >= INSIDE).mean() < 0.5)


@dataclass(frozen=True)
class QueryTrace:
    """All predictions for one image.

    Attributes:
        photo: uint8 H×W×3, RGB: the image as the model sees it, padding included.
        image_size: (height, width) of the image in it, from the top left corner.
        predictions: J dicts with ``pred_logits`` 1×Q×(K+1) and ``pred_masks`` 1×Q×h×w.
        scale_sizes: J - 1 sizes (h', w'), of what the layer after each prediction attends to.
        target: the truth, if it is known.
        matches: J dicts, query → object; empty without truth.
    """

    photo: np.ndarray
    image_size: Size
    predictions: list[dict[str, Tensor]]
    scale_sizes: list[Size]
    target: Target | None
    matches: list[dict[int, int]]

    @property
    def num_queries(self) -> int:
        return self.predictions[0]["pred_logits"].shape[1]

    @property
    def padded_size(self) -> Size:
        return self.photo.shape[0], self.photo.shape[1]

    def most_confident(self, count: int) -> list[int]:
        """The queries that are surest of a class at the end, surest first."""
        scores = self.predictions[-1]["pred_logits"][0].softmax(-1)[:, :-1].amax(-1)
        return scores.argsort(descending=True, stable=True)[:count].tolist()

    def steps(self, query: int) -> list[QueryStep]:
        """What one query does, prediction by prediction."""
        return [self._step(index, query) for index in range(len(self.predictions))]

    def truth(self, index: int) -> np.ndarray:
        """Object ``index`` of the truth, bool H×W."""
        assert self.target is not None
        mask = self.target.masks[index].tensor[0].cpu().numpy()
        height, width = self.padded_size
        return np.pad(mask, ((0, height - mask.shape[0]), (0, width - mask.shape[1])))

    def _step(self, index: int, query: int) -> QueryStep:
        prediction = self.predictions[index]
        *scores, no_object = prediction["pred_logits"][0, query].softmax(-1).tolist()
        score = max(scores)
        logits = prediction["pred_masks"][:, query : query + 1]
        mask = resize_masks(logits[0], self.padded_size, self.padded_size, self.padded_size)[0]
        allowed = None
        if index < len(self.scale_sizes):
            size = self.scale_sizes[index]
            allowed = attention_mask(logits, size)[0, 0].view(*size).cpu().numpy()
        matched = self.matches[index].get(query)
        iou = None
        if matched is not None:
            inside = (mask.sigmoid() >= INSIDE)[: self.image_size[0], : self.image_size[1]].cpu()
            truth = torch.from_numpy(self.truth(matched))[: self.image_size[0], : self.image_size[1]]
            iou = mask_iou(inside, truth)
        probabilities = mask.sigmoid().cpu().numpy()
        return QueryStep(scores.index(score), score, no_object, probabilities, allowed, matched, iou)


@torch.no_grad()
def trace_queries(model: MaskFormer, inputs: Mapping[str, Any], image_format: str = "RGB") -> QueryTrace:
    """Run a model on one image and keep what its queries predicted at every layer.

    Args:
        model: in evaluation mode, of the kind that :func:`load_query_model` builds.
        inputs: ``image`` C×H×W in the values of PIXEL_MEAN; with ``instances``, as training has them, matched with the
            truth.
        image_format: INPUT.FORMAT, to show the image.

    Raises:
        ValueError: the model keeps no earlier predictions, or the truth does not fit it.
    """
    with _recording(model) as record:
        model([{"image": inputs["image"]}])
    outputs = record["outputs"]
    if not outputs["aux_outputs"]:
        raise ValueError(
            "there are no predictions of earlier layers: MODEL.MASK_FORMER.DEC_LAYERS is 1, or RESIZE_MASK_FEATURES is "
            "set, which load_query_model unsets."
        )
    predictions = [*outputs["aux_outputs"], outputs]
    sizes = [record["sizes"][index % NUM_DECODER_LEVELS] for index in range(len(predictions) - 1)]
    images = record["images"]
    padded = (images.shape[-2], images.shape[-1])
    target = None
    if "instances" in inputs:
        name = str(inputs.get("file_name", "image"))
        target = prepare_target(inputs["instances"], padded, model.criterion.num_classes, model.device, name)
    photo = (images[0] * model.pixel_std + model.pixel_mean).permute(1, 2, 0).cpu().numpy()
    return QueryTrace(
        photo=rgb_picture(photo, image_format),
        image_size=(inputs["image"].shape[-2], inputs["image"].shape[-1]),
        predictions=predictions,
        scale_sizes=sizes,
        target=target,
        matches=match_layers(model.criterion, predictions, target) if target else [{} for _ in predictions],
    )


@contextmanager
def _recording(model: MaskFormer) -> Iterator[dict[str, Any]]:
    """Within, note the padded images, the decoder's outputs and the sizes of its scales."""
    record: dict[str, Any] = {}

    def note_images(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        record["images"] = arguments[0]

    def note_predictions(_: nn.Module, arguments: tuple[Any, ...], outputs: dict[str, Any]) -> None:
        record["sizes"] = [tuple(scale.shape[-2:]) for scale in arguments[0]]
        record["outputs"] = dict(outputs)  # the model drops the earlier predictions from its own

    predictor: Any = model.sem_seg_head.predictor
    handles = [
        model.backbone.register_forward_pre_hook(note_images),
        predictor.register_forward_hook(note_predictions),
    ]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
