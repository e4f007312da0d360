"""Merging the predictions for several views (sizes, mirror images) of one image into a single prediction.

A model answers each view with its queries in another order, so that the n-th queries of two views have nothing in
common. Each view's queries are therefore matched one to one with those of the first view, the reference, and
probabilities are averaged over the queries that show the same thing.

Shapes: Q queries, K classes, H, W of a view without padding, h, w of a grid of masks, which covers the padded view.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

# Soft dice from which on two masks are taken for the same segment, in [0, 1].
SAME_SEGMENT = 0.5


class Frame(NamedTuple):
    """Where in the scene the pixels of a view lie.

    Attributes:
        image_size: (H, W) of the view, which shows the whole scene.
        padded_size: height and width after padding at the bottom and on the right.
        flipped: the view is mirrored, left to right.
    """

    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    flipped: bool = False


def resample_masks(mask_logits: Tensor, source: Frame, target: Frame, size: tuple[int, int]) -> Tensor:
    """Look up, bilinearly, what masks of one view are at the cells of another view's grid.

    Args:
        mask_logits: Q×h×w float, a grid over the padded `source`.
        source, target: views of the same scene.
        size: height and width of the grid over the padded `target` that is wanted.

    Returns:
        Q×size; the very same numbers where both grids coincide. Cells beyond the scene repeat its border.
    """
    if source == target and tuple(mask_logits.shape[-2:]) == tuple(size):
        return mask_logits
    scale_y, scale_x = (
        (target.padded_size[axis] * source.image_size[axis]) / (target.image_size[axis] * source.padded_size[axis])
        for axis in (0, 1)
    )
    row, column = [0.0, scale_y, scale_y - 1], [scale_x, 0.0, scale_x - 1]
    if source.flipped != target.flipped:
        column = [-scale_x, 0.0, 2 * source.image_size[1] / source.padded_size[1] - 1 - scale_x]
    theta = torch.tensor([[column, row]], dtype=mask_logits.dtype, device=mask_logits.device)
    cells = F.affine_grid(theta, [1, 1, *size], align_corners=False)
    return F.grid_sample(mask_logits[None], cells, mode="bilinear", padding_mode="border", align_corners=False)[0]


def soft_dice(masks: Tensor, other: Tensor) -> Tensor:
    """Similarity of every pair of Q×N and R×N probabilities: Q×R, in [0, 1]; 1 for equal masks alone, unless empty."""
    squares = masks.square().sum(1)[:, None] + other.square().sum(1)[None]
    return 2 * masks @ other.T / squares.clamp(min=torch.finfo(masks.dtype).tiny)


def match_queries(
    class_logits: Tensor, masks: Tensor, other_class_logits: Tensor, other_masks: Tensor
) -> tuple[Tensor, Tensor]:
    """Assign to each query the one of another view that resembles it, each once, best in sum.

    Resemblance is the Bhattacharyya coefficient of the class distributions plus the soft dice of the masks: both are in
    [0, 1], and 1 for equals alone, so that a reordered copy is recognised. As no-object is a class like others, a
    query that shows an object goes before one of the same mask that was suppressed.

    Args:
        class_logits, other_class_logits: Q×(K+1).
        masks, other_masks: Q×N mask probabilities on the same grid.

    Returns:
        The index of the other query, Q int64; and whether both masks are of the same segment, Q bool.
    """
    roots, other_roots = (0.5 * logits.log_softmax(-1) for logits in (class_logits, other_class_logits))
    dice = soft_dice(masks, other_masks)
    _, columns = linear_sum_assignment((roots.exp() @ other_roots.exp().T + dice).cpu().numpy(), maximize=True)
    index = torch.as_tensor(columns, device=masks.device)
    return index, dice.gather(1, index[:, None])[:, 0] >= SAME_SEGMENT


class ViewMerger:
    """Averages class and mask probabilities of the queries of several views.

    A query of the reference is averaged with those queries of other views that :func:`match_queries` finds to show the
    same segment; views that do not show it have no say. Segments that the reference misses stay missed. The result
    depends on which view is the reference, and on the order of the others not at all.

    What is held: two sums of Q×h×w, as float32, and the reference's masks; a view is forgotten once it is added.
    Probabilities are summed as logarithms, since the logit of a mean of float32 probabilities would be coarse where
    they are near 0 or 1, and infinite at the ends.
    """

    def __init__(self, class_logits: Tensor, mask_logits: Tensor, frame: Frame, *, enlarge: float = 1.0) -> None:
        """Begin with the reference.

        Args:
            class_logits: Q×(K+1); the last class is no-object.
            mask_logits: Q×h×w over the padded view.
            frame: the view. Results are not mirrored even if it is.
            enlarge: how many times finer than the reference's the grid is on which masks are merged, at least 1:
                larger views show more detail.
        """
        height, width = mask_logits.shape[-2:]
        self._target = frame._replace(flipped=False)
        self._reference_size = (height, width)
        finest = frame.padded_size  # results are made at this size, from whatever grid
        self._size = (min(math.ceil(height * enlarge), finest[0]), min(math.ceil(width * enlarge), finest[1]))
        self._class_logits = class_logits.float()
        self._masks = self._comparable(mask_logits.float(), frame)
        self._totals = self._parts(self._class_logits, mask_logits.float(), frame)

    def add(self, class_logits: Tensor, mask_logits: Tensor, frame: Frame) -> None:
        """Add another view, with as many queries as the reference."""
        class_logits, mask_logits = class_logits.float(), mask_logits.float()
        index, same = match_queries(self._class_logits, self._masks, class_logits, self._comparable(mask_logits, frame))
        index = index[same]
        parts = self._parts(class_logits[index], mask_logits[index], frame)
        for total, part in zip(self._totals, parts, strict=True):
            total[same] = torch.logaddexp(total[same], part)

    def merged(self) -> tuple[Tensor, Tensor, Frame]:
        """Logits of the mean probabilities, Q×(K+1) and Q×h×w, and the frame of these masks: the upright reference."""
        classes, inside, outside = self._totals
        return classes.log_softmax(-1), inside - outside, self._target

    def _parts(self, class_logits: Tensor, mask_logits: Tensor, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
        """What is summed: logarithms of the probabilities of classes, of being inside the mask, and outside."""
        masks = resample_masks(mask_logits, frame, self._target, self._size)
        return class_logits.log_softmax(-1), F.logsigmoid(masks), F.logsigmoid(-masks)

    def _comparable(self, mask_logits: Tensor, frame: Frame) -> Tensor:
        """Q×N mask probabilities on the reference's own grid, without the padding, of which nothing is known."""
        aligned = resample_masks(mask_logits, frame, self._target, self._reference_size)
        sizes = zip(self._reference_size, self._target.image_size, self._target.padded_size, strict=True)
        rows, columns = (math.ceil(cells * image / padded) for cells, image, padded in sizes)
        return aligned[:, :rows, :columns].sigmoid().flatten(1)
