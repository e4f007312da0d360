"""Mixed precision: which number format the forward pass computes in (``SOLVER.AMP``)."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

# SOLVER.AMP.PRECISION -> what autocast computes in
PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Return the format of ``SOLVER.AMP.PRECISION``, or None where ``SOLVER.AMP.ENABLED`` is not set.

    Raises:
        ValueError: the format is unknown; lists the known.
    """
    name = cfg.SOLVER.AMP.PRECISION
    if name not in PRECISIONS:
        raise ValueError(f"SOLVER.AMP.PRECISION is '{name}'; known are {', '.join(PRECISIONS)}")
    return PRECISIONS[name] if cfg.SOLVER.AMP.ENABLED else None


def build_grad_scaler(device_type: str, dtype: torch.dtype | None) -> torch.amp.GradScaler:
    """Return the scaler of losses for float16, whose small gradients would vanish; for others one that does nothing."""
    return torch.amp.GradScaler(device_type, enabled=dtype is torch.float16)
