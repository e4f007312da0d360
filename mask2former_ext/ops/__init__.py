"""Operators: multi-scale deformable attention."""

from .functional import ms_deform_attn
from .module import MSDeformAttn

__all__ = ["MSDeformAttn", "ms_deform_attn"]
