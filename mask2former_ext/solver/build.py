"""Which optimizer ``SOLVER.OPTIMIZER`` names, and by which kernels it updates."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.backends.opt_einsum
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from torch import nn

from ..config import is_maskformer
from .clipping import with_clipping
from .groups import parameter_groups

OptimizerRecipe = tuple[type[torch.optim.Optimizer], dict[str, Any]]

# SOLVER.OPTIMIZER_IMPLEMENTATION -> arguments of PyTorch's optimizers; with neither, PyTorch chooses
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "auto": {},
    "for-loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


def _implementation(cfg: CfgNode) -> dict[str, bool]:
    name = cfg.SOLVER.OPTIMIZER_IMPLEMENTATION
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"SOLVER.OPTIMIZER_IMPLEMENTATION is '{name}'; known are {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name]


def _adamw(cfg: CfgNode) -> OptimizerRecipe:
    return torch.optim.AdamW, dict(_implementation(cfg))


def _sgd(cfg: CfgNode) -> OptimizerRecipe:
    return torch.optim.SGD, {
        "momentum": cfg.SOLVER.MOMENTUM,
        "nesterov": cfg.SOLVER.NESTEROV,
        **_implementation(cfg),
    }


def _lamb(cfg: CfgNode) -> OptimizerRecipe:
    """For large batches ("Large Batch Optimization for Deep Learning", You et al., 2020)."""
    if _implementation(cfg):
        raise ValueError(
            f"SOLVER.OPTIMIZER_IMPLEMENTATION is '{cfg.SOLVER.OPTIMIZER_IMPLEMENTATION}', but LAMB has one "
            "implementation only, timm's. Append: SOLVER.OPTIMIZER_IMPLEMENTATION auto"
        )
    try:
        with _torch_settings_kept():
            timm_optim = importlib.import_module("timm.optim")
    except ImportError as error:
        raise ImportError(
            "SOLVER.OPTIMIZER is 'LAMB', which is timm's, and timm cannot be imported. Install it by "
            "'pip install timm'."
        ) from error
    # gradients are clipped by SOLVER.CLIP_GRADIENTS or not at all
    return timm_optim.Lamb, {"max_grad_norm": None}


@contextmanager
def _torch_settings_kept() -> Iterator[None]:
    """Undo what an import of timm.optim changes for the whole process: with its settings torch.compile would compile
    anew without end, and every einsum look for the best order of its products."""
    settings = (
        (importlib.import_module("torch._dynamo").config, "cache_size_limit"),
        (torch.backends.opt_einsum, "strategy"),
    )
    before = [getattr(owner, name) for owner, name in settings]
    try:
        yield
    finally:
        for (owner, name), value in zip(settings, before, strict=True):
            if getattr(owner, name) != value:
                setattr(owner, name, value)


# SOLVER.OPTIMIZER -> the class and its arguments beside parameters and learning rate
OPTIMIZERS: dict[str, Callable[[CfgNode], OptimizerRecipe]] = {"ADAMW": _adamw, "SGD": _sgd, "LAMB": _lamb}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a model.

    Args:
        cfg: a MaskFormer config; for others Detectron2's own rule and optimizer are used.
        model: the model whose trainable parameters are optimized.

    Raises:
        ValueError: ``SOLVER.OPTIMIZER``, ``SOLVER.OPTIMIZER_IMPLEMENTATION`` or ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE``
            has an unknown value; lists the known.
        ImportError: LAMB is wanted, and timm is not installed.
    """
    if not is_maskformer(cfg):
        return build_detectron2_optimizer(cfg, model)
    name = cfg.SOLVER.OPTIMIZER
    if name not in OPTIMIZERS:
        raise ValueError(f"SOLVER.OPTIMIZER is '{name}'; known are {', '.join(OPTIMIZERS)}")
    optimizer_class, arguments = OPTIMIZERS[name](cfg)
    arguments["lr"] = cfg.SOLVER.BASE_LR
    return with_clipping(cfg, optimizer_class)(parameter_groups(cfg, model), **arguments)
