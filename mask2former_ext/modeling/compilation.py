"""torch.compile of the model's parts, which stay the modules they are: MODEL.COMPILE."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

logger = logging.getLogger(__name__)

BACKEND: str | Callable[..., Any] = "inductor"
# What the compiler raises; errors of the model itself, on bad input or for want of memory, are none of these.
COMPILER_ERRORS = (TorchDynamoException, FailOnRecompileLimitHit)
# torch's setting of how often a function is compiled anew; the second is its name in torch 2.6
LIMIT = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
# Characters of a compiler's message in the log; it may go on for pages.
REASON_LENGTH = 300


class CompiledMethod:
    """Stands in one module for a method of its class: compiled at its first call, plain again once that has failed.

    It knows the module and the method's name alone. So copies and pickles of the module call with their own weights,
    and all modules of a class share what was compiled for it.
    """

    def __init__(self, module: nn.Module, method: str, part: str) -> None:
        """
        Args:
            module: has the method.
            method: name of it; takes and returns tensors and containers of tensors.
            part: what to call it in the log.
        """
        self.module, self.method, self.part = module, method, part
        self.failed = False

    def __call__(self, *args: Any) -> Any:
        """Call the method; where the compiler fails, call it uncompiled, from now on, and log why."""
        plain = getattr(type(self.module), self.method)
        if self.failed or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return plain(self.module, *args)
        try:
            return self._compile(plain)(self.module, *args)
        except COMPILER_ERRORS as error:
            reason = _describe(error)
        # the compiler meets errors of the model too: uncompiled they are raised as what they are
        result = plain(self.module, *args)
        self.failed = True
        logger.error("MODEL.COMPILE: the %s runs uncompiled from now on, %s", self.part, reason)
        return result

    def _compile(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return _compile(plain, BACKEND)
        except RuntimeError as error:  # torch.compile's way to refuse a platform or a version of Python
            raise TorchDynamoException(str(error)) from error


@functools.cache
def _compile(function: Callable[..., Any], backend: str | Callable[..., Any]) -> Callable[..., Any]:
    # one graph or an error: after a graph break, part of a failed call would have been run already, and the rest would
    # be left uncompiled without a word
    return torch.compile(function, backend=backend, dynamic=True, fullgraph=True)


def _describe(error: Exception) -> str:
    """Kind and beginning of an error's message, in one line."""
    if isinstance(error, FailOnRecompileLimitHit):  # its own message is about settings of the compiler
        limit = getattr(torch._dynamo.config, LIMIT)
        return f"because more kinds of input need code of their own than torch._dynamo.config.{LIMIT}, {limit}"
    message = " ".join(str(error).split())
    if len(message) > REASON_LENGTH:
        message = f"{message[:REASON_LENGTH]} … (TORCH_LOGS=+dynamo tells more)"
    return f"{type(error).__name__}: {message}"


def compile_parts(backbone: nn.Module, sem_seg_head: nn.Module) -> None:
    """Have backbone, pixel decoder and transformer decoder compiled, in place, when they are first called.

    Names, parameters, hooks and state_dict stay as they are. Height and width are dynamic: few sizes need code of their
    own. Training and evaluation do, as do a batch of one image and larger ones, and mixed precision. A part that cannot
    be compiled runs as if this function had not been called, and an error in the log says so.

    Args:
        backbone: a module.
        sem_seg_head: has ``pixel_decoder``, with a method ``forward_features``, and ``predictor``.
    """
    parts: tuple[tuple[Any, str, str], ...] = (
        (backbone, "forward", "backbone"),
        (sem_seg_head.pixel_decoder, "forward_features", "pixel decoder"),
        (sem_seg_head.predictor, "forward", "transformer decoder"),
    )
    for module, method, part in parts:
        setattr(module, method, CompiledMethod(module, method, part))
    logger.info("MODEL.COMPILE: backbone, pixel decoder and transformer decoder are compiled at their first use.")
