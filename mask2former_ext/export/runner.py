"""An exported model, loaded again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class ExportedModel:
    """What a file holds.

    Attributes:
        run: B×C×H×W float32 images to the outputs by name.
        metadata: see :class:`Description`; what is no text is written as JSON.
    """

    run: Callable[[Tensor], Outputs]
    metadata: dict[str, str]
