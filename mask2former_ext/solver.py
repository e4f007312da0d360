"""Optimizers: the learning rate and weight decay of each parameter, and gradient clipping.

The schedules (``WarmupMultiStepLR``, ``WarmupCosineLR``, ``WarmupPolyLR``) are Detectron2's and its DeepLab project's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from detectron2.solver.build import GradientClipType, maybe_add_gradient_clipping, reduce_param_groups
from torch import nn

from .config import is_maskformer

NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)

# Position tables of Swin Transformers, which are parameters of modules that hold other parameters too.
POSITION_PARAMETERS = ("relative_position_bias_table", "absolute_pos_embed")

FULL_MODEL_CLIP = "full_model"


def _adamw(cfg: CfgNode) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    return torch.optim.AdamW, {}


def _sgd(cfg: CfgNode) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    return torch.optim.SGD, {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV}


# SOLVER.OPTIMIZER -> the class and its arguments beside parameters and learning rate
OPTIMIZERS: dict[str, Callable[[CfgNode], tuple[type[torch.optim.Optimizer], dict[str, Any]]]] = {
    "ADAMW": _adamw,
    "SGD": _sgd,
}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a model.

    Args:
        cfg: a MaskFormer config; for others Detectron2's own rule and optimizer are used.
        model: the model whose trainable parameters are optimized.

    Raises:
        ValueError: ``SOLVER.OPTIMIZER`` or ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` has an unknown value; lists the known.
    """
    if not is_maskformer(cfg):
        return build_detectron2_optimizer(cfg, model)
    name = cfg.SOLVER.OPTIMIZER
    if name not in OPTIMIZERS:
        raise ValueError(f"SOLVER.OPTIMIZER is '{name}'; known are {', '.join(OPTIMIZERS)}")
    optimizer_class, arguments = OPTIMIZERS[name](cfg)
    arguments["lr"] = cfg.SOLVER.BASE_LR
    return _with_clipping(cfg, optimizer_class)(parameter_groups(cfg, model), **arguments)


def _parameter_groups_from_config(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    return {
        "model": model,
        "base_lr": cfg.SOLVER.BASE_LR,
        "backbone_multiplier": cfg.SOLVER.BACKBONE_MULTIPLIER,
        "weight_decay": cfg.SOLVER.WEIGHT_DECAY,
        "weight_decay_norm": cfg.SOLVER.WEIGHT_DECAY_NORM,
        "weight_decay_embed": cfg.SOLVER.WEIGHT_DECAY_EMBED,
    }


@configurable(from_config=_parameter_groups_from_config)
def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    backbone_multiplier: float,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_embed: float,
) -> list[dict[str, Any]]:
    """Give each trainable parameter its learning rate and weight decay.

    Called with a config and a model, it takes the numbers from ``cfg.SOLVER``.

    Args:
        model: whose parameters to group.
        base_lr: learning rate.
        backbone_multiplier: factor of the learning rate in modules with ``backbone`` in their name.
        weight_decay: of all that is not named below; 0 for Swin's position tables.
        weight_decay_norm: in normalisation layers.
        weight_decay_embed: in ``nn.Embedding``.

    Returns:
        One group for each pair of the two that occurs: few groups, which the optimizer updates at once.
    """
    groups: list[dict[str, Any]] = []
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        rate = base_lr * (backbone_multiplier if "backbone" in module_name else 1.0)
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            decay = weight_decay
            if isinstance(module, nn.Embedding):
                decay = weight_decay_embed
            elif isinstance(module, NORM_LAYERS):
                decay = weight_decay_norm
            elif any(name in parameter_name for name in POSITION_PARAMETERS):
                decay = 0.0
            groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    return reduce_param_groups(groups)


def _with_clipping(cfg: CfgNode, optimizer_class: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer_class
    known = [FULL_MODEL_CLIP, *(kind.value for kind in GradientClipType)]
    if clip.CLIP_TYPE not in known:
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{clip.CLIP_TYPE}'; known are {', '.join(known)}")
    if clip.CLIP_TYPE != FULL_MODEL_CLIP:
        return maybe_add_gradient_clipping(cfg, optimizer_class)
    if clip.CLIP_VALUE <= 0:  # the published configs use 0.01; 0 has always meant not to clip
        return optimizer_class
    return with_full_model_clipping(optimizer_class, clip.CLIP_VALUE, clip.NORM_TYPE)


def with_full_model_clipping(
    optimizer_class: type[torch.optim.Optimizer], max_norm: float, norm_type: float
) -> type[torch.optim.Optimizer]:
    """Derive an optimizer that, before each step, scales all gradients down together to a norm of at most ``max_norm``.

    Detectron2's own clip types treat each parameter by itself. With mixed precision the gradients are unscaled by then:
    ``GradScaler.step`` divides by the scale before it calls ``step``, except for fused optimizers, which none of
    :data:`OPTIMIZERS` is.

    Args:
        optimizer_class: the optimizer to derive from.
        max_norm: upper bound of the norm over all parameters.
        norm_type: p of the p-norm.
    """

    class FullModelGradientClippingOptimizer(optimizer_class):  # type: ignore[misc, valid-type]
        def step(self, closure: Callable[[], float] | None = None) -> Any:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)
            return super().step(closure)

    return FullModelGradientClippingOptimizer
