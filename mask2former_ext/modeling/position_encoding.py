"""Sine position encoding of images (DETR, appendix A.4), and the memory for such constants."""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

# Of the encodings made last; images of one size need three.
ENCODINGS_KEPT = 6


def remember(maxsize: int) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Keep the last ``maxsize`` results of a function that makes a constant tensor of hashable arguments.

    Results are shared: nobody may write into them. While the model is compiled, exported, traced or run on fake
    tensors nothing is kept, because what is made then belongs to the graph.
    """

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        kept: OrderedDict[tuple[Hashable, ...], Tensor] = OrderedDict()
        lock = threading.Lock()  # models in several threads share it

        def recall(*args: Hashable) -> Tensor:
            with lock:
                if args not in kept:
                    # a tensor that was made in inference mode could not be used in training later
                    with torch.inference_mode(False), torch.no_grad():
                        kept[args] = function(*args)
                    if len(kept) > maxsize:
                        kept.popitem(last=False)
                kept.move_to_end(args)
                return kept[args]

        @functools.wraps(function)
        def wrapper(*args: Hashable) -> Tensor:
            if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(torch.empty(0)) is not Tensor:
                return function(*args)
            # apart, because torch 2.6 compiles anew when a variable of an enclosing function changes, used or not
            return recall(*args)

        return wrapper

    return decorate


class PositionEmbeddingSine(nn.Module):
    """Encode each pixel's row in the first half of the channels and its column in the second half."""

    def __init__(self, num_pos_feats: int, temperature: float = 10000.0) -> None:
        """
        Args:
            num_pos_feats: channels for each of row and column; the encoding has twice as many. Must be even.
            temperature: the longest wave is this many times the shortest.
        """
        super().__init__()
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Return the 1×(2·num_pos_feats)×H×W float32 encoding for a feature map ``x`` of size …×H×W; not to be changed
        in place."""
        return _encode_map(x.shape[-2], x.shape[-1], self.num_pos_feats, self.temperature, x.device)


@remember(ENCODINGS_KEPT)
def _encode_map(height: int, width: int, num_pos_feats: int, temperature: float, device: torch.device) -> Tensor:
    rows = _encode(height, num_pos_feats, temperature, device)[:, :, None].expand(-1, -1, width)
    columns = _encode(width, num_pos_feats, temperature, device)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])[None]


def _encode(length: int, num_pos_feats: int, temperature: float, device: torch.device) -> Tensor:
    """num_pos_feats×length: sines on even and cosines on odd channels of positions normalised to (0, 2π]."""
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    position = position / (length + 1e-6) * (2 * math.pi)
    exponent = torch.arange(0, num_pos_feats, 2, dtype=torch.float32, device=device) / num_pos_feats
    phase = position / temperature ** exponent[:, None]
    return torch.stack([phase.sin(), phase.cos()], dim=1).flatten(0, 1)
