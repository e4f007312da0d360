"""Backbones beside Detectron2's own; importing registers them."""

from .swin import D2SwinTransformer
from .timm import build_timm_backbone

__all__ = ["D2SwinTransformer", "build_timm_backbone"]
