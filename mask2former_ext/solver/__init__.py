"""Optimizers: the learning rate and weight decay of each parameter, and gradient clipping.

The schedules (``WarmupMultiStepLR``, ``WarmupCosineLR``, ``WarmupPolyLR``) are Detectron2's and its DeepLab project's.
"""

from .build import build_optimizer
from .clipping import with_full_model_clipping
from .groups import parameter_groups

__all__ = ["build_optimizer", "parameter_groups", "with_full_model_clipping"]
