"""Large intermediate results in parts, where that is faster: in inference on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Numbers of the largest intermediate result at a time: 8 MiB of float32. Memory of this size the allocator uses again
# and the processor caches; larger blocks it fetches anew from the system, page by page.
NUMBERS_AT_ONCE = 2**21


def in_parts(function: Callable[[slice], Tensor], length: int, numbers: int, x: Tensor, dim: int) -> Tensor:
    """Compute ``function(slice(0, length))``, in inference on the CPU slice by slice.

    Args:
        function: gives for a slice of the positions 0 … length − 1 what belongs to them; other positions do not matter.
        length: number of positions.
        numbers: how many numbers the largest intermediate result has for one position.
        x: the input; tells the device.
        dim: dimension of the positions in the result.

    Returns:
        The result for all positions.
    """
    whole = slice(0, length)
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return function(whole)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return function(whole)  # a graph is to hold for other sizes too, and shall not be unrolled
    if length * numbers <= NUMBERS_AT_ONCE:
        return function(whole)
    step = max(NUMBERS_AT_ONCE // numbers, 1)
    return torch.cat([function(slice(start, start + step)) for start in range(0, length, step)], dim=dim)
