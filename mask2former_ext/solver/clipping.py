"""Gradient clipping (``SOLVER.CLIP_GRADIENTS``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import GradientClipType, maybe_add_gradient_clipping
from torch import nn

FULL_MODEL_CLIP = "full_model"


def with_clipping(cfg: CfgNode, optimizer_class: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Derive the optimizer that clips as ``cfg.SOLVER.CLIP_GRADIENTS`` says; ValueError if it says nothing known."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer_class
    known = [FULL_MODEL_CLIP, *(kind.value for kind in GradientClipType)]
    if clip.CLIP_TYPE not in known:
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{clip.CLIP_TYPE}'; known are {', '.join(known)}")
    if clip.CLIP_TYPE != FULL_MODEL_CLIP:
        return maybe_add_gradient_clipping(cfg, _with_gradients_unscaled_before(optimizer_class))
    if clip.CLIP_VALUE <= 0:  # the published configs use 0.01; 0 has always meant not to clip
        return optimizer_class
    return with_full_model_clipping(optimizer_class, clip.CLIP_VALUE, clip.NORM_TYPE)


def with_full_model_clipping(
    optimizer_class: type[torch.optim.Optimizer], max_norm: float, norm_type: float
) -> type[torch.optim.Optimizer]:
    """Derive an optimizer that, before each step, scales all gradients down together to a norm of at most ``max_norm``.

    Detectron2's own clip types treat each parameter by itself. With mixed precision the gradients are unscaled by then.

    Args:
        optimizer_class: the optimizer to derive from.
        max_norm: upper bound of the norm over all parameters.
        norm_type: p of the p-norm.
    """

    class FullModelGradientClippingOptimizer(_with_gradients_unscaled_before(optimizer_class)):  # type: ignore[misc]
        def step(self, closure: Callable[[], float] | None = None) -> Any:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)
            return super().step(closure)

    return FullModelGradientClippingOptimizer


def _with_gradients_unscaled_before(optimizer_class: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Derive an optimizer whose ``step`` finds gradients that ``GradScaler.step`` has divided by the scale.

    It does so for all but fused optimizers, whose kernels divide: after they were clipped.
    """

    class UnscaledOptimizer(optimizer_class):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._step_supports_amp_scaling = False

    return UnscaledOptimizer
