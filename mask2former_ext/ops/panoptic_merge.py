"""One step of the panoptic merge (MaskFormer, section 3.4): every pixel goes to the mask that is its best so far."""

from __future__ import annotations

import torch
from torch import Tensor

from .extension import uses_compiled


def panoptic_merge(probability: Tensor, best: Tensor, owner: Tensor, score: Tensor, rank: int) -> Tensor:
    """Offer one mask to every pixel.

    A pixel is taken where class × mask probability is larger than what ``best`` holds. The compiled operator does all
    in one pass, on the CPU and for float32; plain PyTorch does it elsewhere, with the same bits.

    Args:
        probability: H×W mask probability of floating point, without gradient.
        best: H×W of the same dtype, largest product so far; updated in place.
        owner: H×W int32, the rank of the mask that it is from; updated in place.
        score: probability of the mask's class, no dimension, in (0, 1].
        rank: number of the mask.

    Returns:
        int64 without dimensions: pixels inside the mask, those of ``probability`` at least 0.5.
    """
    if probability.device.type == "cpu" and probability.dtype == torch.float32 and uses_compiled("cpu", None):
        return torch.ops.mask2former_ext.panoptic_merge(probability, best, owner, score, rank)
    product = probability * score
    owner.masked_fill_(product > best, rank)
    torch.maximum(best, product, out=best)
    return is_inside(product, score).count_nonzero()


def is_inside(product: Tensor, score: Tensor) -> Tensor:
    """Whether mask probabilities are at least 0.5, told from their ``product`` with ``score``.

    That is exact in spite of rounding: half a score is a floating-point number, and the largest number below 0.5 falls
    short of 0.5 by so much that its product is more than half a unit in the last place smaller.
    """
    return product >= 0.5 * score
