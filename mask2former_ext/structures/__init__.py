"""Data structures that Detectron2 takes for its own."""

from .packed_bit_masks import PackedBitMasks

__all__ = ["PackedBitMasks"]
