"""Point sampling on masks (PointRend, section 3.1; Mask2Former, section 3.3).

Shapes: N masks, C channels, H, W size, P points. Coordinates are (x, y) in [0, 1] of width and height.
"""

from __future__ import annotations

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
    return F.grid_sample(maps, 2.0 * coords[:, :, None] - 1.0, mode="bilinear", align_corners=False).squeeze(3)


@torch.no_grad()
def sample_uncertain_coords(
    logits: Tensor, num_points: int, oversample_ratio: float, importance_sample_ratio: float
) -> Tensor:
    """Choose, for each of N masks, points where its logit is near zero, and some anywhere.

    Args:
        logits: N×1×H×W mask logits.
        num_points: points P to return for each mask.
        oversample_ratio: this many times P candidates are drawn uniformly; at least 1.
        importance_sample_ratio: share of P taken from the most uncertain candidates, in [0, 1]; the rest is uniform.

    Returns:
        N×P×2 coordinates.
    """
    masks = logits.shape[0]
    candidates = torch.rand(masks, int(num_points * oversample_ratio), 2, device=logits.device)
    uncertainty = -sample_points(logits, candidates).squeeze(1).abs()
    num_uncertain = int(importance_sample_ratio * num_points)
    chosen = uncertainty.topk(num_uncertain, dim=1).indices
    uncertain = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    uniform = torch.rand(masks, num_points - num_uncertain, 2, device=logits.device)
    return torch.cat([uncertain, uniform], dim=1)
