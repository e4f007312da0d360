"""How far the predictions of a model and of its conversion are apart."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .preprocessing import normalisation

if TYPE_CHECKING:
    from transformers import Mask2FormerForUniversalSegmentation

# Of the image, in pixels; odd, since the networks pad inside, each in its own code.
SIZE = (122, 158)
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Parity:
    """Largest differences of logits. Relative ones are in units of the largest logit, by absolute value."""

    class_absolute: float
    class_relative: float
    mask_absolute: float
    mask_relative: float

    @property
    def relative(self) -> float:
        """The larger of both relative differences; not a number if one of them is none."""
        return max(self.class_relative, self.mask_relative, key=lambda value: (math.isnan(value), value))

    def __str__(self) -> str:
        return (
            f"class logits differ by at most {self.class_absolute:.2g} ({self.class_relative:.2g} of the largest), "
            f"mask logits by {self.mask_absolute:.2g} ({self.mask_relative:.2g})"
        )


def compare(
    model: nn.Module,
    peer: Mask2FormerForUniversalSegmentation,
    *,
    bgr: bool = False,
    processor: Mapping[str, Any] | None = None,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Parity:
    """Compare both models' predictions for a seeded image of noise, each with its own normalisation.

    In float32 a mask logit near 0 may fall on different sides, and with it what a query attends to, which has nothing
    to do with the conversion; hence float64.

    Args:
        model: a MaskFormer. Not changed, as ``peer``.
        peer: transformers' model.
        bgr: whether ``model`` takes BGR.
        processor: arguments of the image processor of ``peer``; by default it normalises as ``model`` does.
        size: height and width of the image, in pixels.
        seed: of the image.
        dtype: to compute in.
    """
    image = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(seed)).to(dtype)
    with torch.no_grad():
        expected = _predict(model, image, bgr, dtype)
        values = _copy(peer, dtype)(pixel_values=_process(image, model, bgr, processor))
    actual = {"pred_logits": values.class_queries_logits, "pred_masks": values.masks_queries_logits}
    differences = [_difference(actual[key], expected[key]) for key in ("pred_logits", "pred_masks")]
    return Parity(*differences[0], *differences[1])


def _predict(model: nn.Module, image: Tensor, bgr: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    copied = _copy(model, dtype)
    ordered = image.flip(1) if bgr else image
    return copied.sem_seg_head(copied.backbone((ordered - copied.pixel_mean) / copied.pixel_std))


def _copy(model: nn.Module, dtype: torch.dtype) -> Any:
    return copy.deepcopy(model).to(device="cpu", dtype=dtype).eval()


def _process(image: Tensor, model: Any, bgr: bool, processor: Mapping[str, Any] | None) -> Tensor:
    """Normalise an RGB image as the processor does."""
    if processor is None:
        mean, std = (buffer.cpu().to(image) for buffer in (model.pixel_mean, model.pixel_std))
        return (image - mean.flip(0)) / std.flip(0) if bgr else (image - mean) / std
    mean, std = (image.new_tensor(values)[:, None, None] for values in normalisation(processor))
    return (image - mean) / std


def _difference(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    absolute = (actual - expected).abs().max().item()
    return absolute, absolute / expected.abs().max().item()
