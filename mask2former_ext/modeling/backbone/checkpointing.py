"""Activation checkpointing: activations are computed again in the backward pass, not kept (Chen et al., 2016)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .blocks import block_of

ENCODER_LAYER = re.compile(r"(.*\.)?encoder\.layers\.\d+")


class CheckpointedForward:
    """Stands in one module for ``forward``, whose inner activations are not kept. Results and gradients stay the same.

    It knows the module alone, so that copies and pickles of the module call with their own weights.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module's own ``forward``; where nothing is to be differentiated, as if this were not here."""
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        return checkpoint(self._forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.module).forward(self.module, *args, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """What the forward pass runs in, and what its repetition does."""
        return nullcontext(), self._statistics_left_alone()

    @contextmanager
    def _statistics_left_alone(self) -> Iterator[None]:
        """The repetition sees the same batch: running statistics have taken it in already."""
        norms = [norm for norm in self.module.modules() if isinstance(norm, _BatchNorm)]
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm, (_, counter) in zip(norms, before, strict=True):
            norm.momentum = 0.0
            norm.num_batches_tracked = None if counter is None else counter.clone()
        try:
            yield
        finally:
            for norm, values in zip(norms, before, strict=True):
                norm.momentum, norm.num_batches_tracked = values


def checkpoint_blocks(backbone: nn.Module) -> int:
    """Have the activations inside each block of a backbone computed again, in place; returns how many blocks it has.

    Names, parameters and state_dict stay as they are.
    """
    names = [name for name, _ in backbone.named_modules() if name and block_of(name) == name]
    # of nested ones, the innermost
    return _checkpoint(backbone, [name for name in names if not any(other.startswith(f"{name}.") for other in names)])


def checkpoint_encoder(pixel_decoder: nn.Module) -> int:
    """The same for the layers of a pixel decoder's transformer encoder."""
    return _checkpoint(
        pixel_decoder, [name for name, _ in pixel_decoder.named_modules() if ENCODER_LAYER.fullmatch(name)]
    )


def _checkpoint(parent: nn.Module, names: list[str]) -> int:
    for name in names:
        module = parent.get_submodule(name)
        module.forward = CheckpointedForward(module)  # type: ignore[method-assign]
    return len(names)
