"""What models get in benchmarks: seeded images, masks and predictions, made up but shaped like real ones.

Shapes: B images, N masks of an image, Q queries, K classes, H, W of an image, h, w of predicted masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import MSDeformAttn

Size = tuple[int, int]

# Steepness of predicted masks: logits from about -CONFIDENCE far outside to CONFIDENCE well inside.
CONFIDENCE = 12.0
# Axes of masks in proportion to the shorter side of the image.
SMALLEST, LARGEST = 0.03, 0.3
# Standard deviation of the sampling offsets of deformable attention, in pixels, beside those that the module starts
# with; and of the logits of its weights.
OFFSETS_SPREAD, WEIGHTS_SPREAD = 2.0, 1.0


@dataclass(frozen=True)
class Truth:
    """An image's annotations: ``labels`` N int64 and ``masks`` N×H×W bool."""

    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Predictions:
    """Of a batch: ``class_logits`` B×Q×(K+1) and ``mask_logits`` B×Q×h×w."""

    class_logits: Tensor
    mask_logits: Tensor


def make_images(batch: int, size: Size, seed: int = 0) -> list[Tensor]:
    """B uint8 images 3×H×W: smooth structures with noise on them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, max(size[0] // 32, 2), max(size[1] // 32, 2), generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    noisy = 255 * smooth + 12 * torch.randn(batch, 3, *size, generator=generator)
    return list(noisy.clamp(0, 255).to(torch.uint8))


def make_truths(batch: int, masks: int, size: Size, num_classes: int, seed: int = 0) -> list[Truth]:
    """Annotations of B images, ellipses of many sizes that may overlap."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Truth(
            torch.randint(num_classes, (masks,), generator=generator),
            torch.stack([_ellipse(size, generator) < 1 for _ in range(masks)]),
        )
        for _ in range(batch)
    ]


def make_predictions(batch: int, queries: int, num_classes: int, size: Size, kept: int, seed: int = 0) -> Predictions:
    """What a trained model may predict: ``kept`` queries sure of a class, the rest of there being no object.

    Masks are ellipses whose logits fall from the center; ``size`` is (h, w).
    """
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(batch, queries, num_classes + 1, generator=generator)
    masks = torch.empty(batch, queries, *size)
    for image in range(batch):
        sure = torch.randperm(queries, generator=generator)[:kept]
        class_logits[image, :, num_classes] += CONFIDENCE
        class_logits[image, sure, num_classes] -= CONFIDENCE
        classes = torch.randint(num_classes, (len(sure),), generator=generator)
        class_logits[image, sure, classes] += CONFIDENCE
        for query in range(queries):
            masks[image, query] = (CONFIDENCE * (1 - _ellipse(size, generator))).clamp_min(-CONFIDENCE)
    masks += 0.1 * torch.randn(masks.shape, generator=generator)
    return Predictions(class_logits, masks)


def _ellipse(size: Size, generator: torch.Generator) -> Tensor:
    """H×W distances from a random center, in units of the radius there: below 1 is inside."""
    height, width = size
    place = torch.rand(4, generator=generator)
    axes = min(size) * (SMALLEST + (LARGEST - SMALLEST) * place[2:] ** 2)
    y = (torch.arange(height) + 0.5 - place[0] * height) / axes[0].clamp_min(1.0)
    x = (torch.arange(width) + 0.5 - place[1] * width) / axes[1].clamp_min(1.0)
    return (y[:, None] ** 2 + x[None, :] ** 2).sqrt()


@torch.no_grad()
def spread_samples(model: torch.nn.Module, seed: int = 0) -> None:
    """Let deformable attention look where training makes it look, not only where it starts.

    A fresh :class:`MSDeformAttn` samples at the same offsets for every query; weights of zero would make caches look
    better than they are.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, MSDeformAttn):
            for weight, spread in (
                (module.sampling_offsets.weight, OFFSETS_SPREAD),
                (module.attention_weights.weight, WEIGHTS_SPREAD),
            ):
                # queries are normalised: each channel is about 1 large
                values = torch.randn(weight.shape, generator=generator) * (spread / module.d_model**0.5)
                weight.copy_(values)
