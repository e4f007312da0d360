"""Point sampling on masks (PointRend, section 3.1; Mask2Former, section 3.3).

Shapes: N masks, C channels, H, W size, P points. Coordinates are (x, y) in [0, 1] of width and height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_points(maps: Tensor, coords: Tensor) -> Tensor:
    """Read N×C×H×W floating-point ``maps`` bilinearly at N×P×2 ``coords``; returns N×C×P.

    Pixel (row i, column j) has its center at ((j + 0.5) / W, (i + 0.5) / H); beyond the border the map is zero.
    """
    if maps.shape[0] == 0:
        # grid_sample refuses empty batches on some devices; the product keeps the result attached to the graph
        return maps.new_zeros(0, maps.shape[1], coords.shape[1]) * maps.sum()
    if maps.is_cuda and maps.requires_grad and torch.are_deterministic_algorithms_enabled():
        return gather_points(maps, coords)
    return F.grid_sample(maps, 2.0 * coords[:, :, None] - 1.0, mode="bilinear", align_corners=False).squeeze(3)


def gather_points(maps: Tensor, coords: Tensor) -> Tensor:
    """What :func:`sample_points` returns, slower, by operations whose gradients are deterministic on CUDA too."""
    height, width = maps.shape[2:]
    x, y = coords[..., 0] * width - 0.5, coords[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    pixels = maps.flatten(2)
    result = maps.new_zeros(*maps.shape[:2], coords.shape[1])
    for column, x_share in ((left, left + 1 - x), (left + 1, x - left)):
        for row, y_share in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = torch.where(inside, row.long() * width + column.long(), 0)
            values = pixels.gather(2, index[:, None].expand(-1, pixels.shape[1], -1))
            result = result + (x_share * y_share * inside)[:, None] * values
    return result


@dataclass(frozen=True)
class PointSampling:
    """How many points the losses of a mask are computed at, and where these may lie (PointRend, section 3.1).

    Attributes:
        num_points: points P of each mask.
        oversample_ratio: this many times P candidates are drawn uniformly; at least 1.
        importance_sample_ratio: share of P taken from the most uncertain candidates, in [0, 1]; the rest is uniform.
    """

    num_points: int
    oversample_ratio: float
    importance_sample_ratio: float

    def __post_init__(self) -> None:
        if self.oversample_ratio < 1 or not 0 <= self.importance_sample_ratio <= 1:
            raise ValueError(
                "MODEL.MASK_FORMER.OVERSAMPLE_RATIO must be at least 1 and IMPORTANCE_SAMPLE_RATIO in [0, 1], got "
                f"{self.oversample_ratio} and {self.importance_sample_ratio}."
            )

    @property
    def num_candidates(self) -> int:
        """Candidates of each mask."""
        return int(self.num_points * self.oversample_ratio)

    @property
    def num_uncertain(self) -> int:
        """Candidates of each mask that are taken."""
        return int(self.importance_sample_ratio * self.num_points)


@dataclass(frozen=True)
class RandomCoords:
    """All random coordinates of one prediction's losses, N masks of B images in the order of the images.

    Attributes:
        matching: B×P×2, of every image the points for matching.
        candidates: N×M×2, see :class:`PointSampling`.
        uniform: N×U×2, taken whatever the mask.
    """

    matching: Tensor
    candidates: Tensor
    uniform: Tensor

    @classmethod
    def draw(
        cls,
        sampling: PointSampling,
        counts: Sequence[int],
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> RandomCoords:
        """Draw for images with ``counts`` masks; the same numbers, in the same order, as image by image.

        ``generator`` is of ``device``; without one PyTorch's global generator is drawn from.
        """
        masks, points = sum(counts), sampling.num_points

        def uniform(number: int, each: int) -> Tensor:
            return torch.rand(number, each, 2, device=device, generator=generator)

        return cls(
            torch.cat([uniform(1, points) for _ in counts]),
            uniform(masks, sampling.num_candidates),
            uniform(masks, points - sampling.num_uncertain),
        )


@torch.no_grad()
def choose_points(logits: Tensor, candidates: Tensor, uniform: Tensor, num_uncertain: int) -> Tensor:
    """Choose, for each of N masks, points where its logit is near zero, and some anywhere.

    Args:
        logits: N×1×H×W mask logits.
        candidates: N×M×2 coordinates to choose from.
        uniform: N×U×2 coordinates to take besides.
        num_uncertain: candidates to take, at most M.

    Returns:
        N×(num_uncertain + U)×2 coordinates.
    """
    certainty = sample_points(logits, candidates).squeeze(1).abs()
    chosen = certainty.topk(num_uncertain, dim=1, largest=False, sorted=False).indices
    uncertain = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat([uncertain, uniform], dim=1)
