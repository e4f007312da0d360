"""Model: meta-architecture, head, decoders; importing registers them with Detectron2."""

from .criterion import SetCriterion
from .head import MaskFormerHead
from .maskformer import MaskFormer
from .matcher import HungarianMatcher, NonFiniteCostError
from .pixel_decoder import MSDeformAttnPixelDecoder
from .transformer_decoder import (
    TRANSFORMER_DECODER_REGISTRY,
    MultiScaleMaskedTransformerDecoder,
    build_transformer_decoder,
)

__all__ = [
    "TRANSFORMER_DECODER_REGISTRY",
    "HungarianMatcher",
    "MSDeformAttnPixelDecoder",
    "MaskFormer",
    "MaskFormerHead",
    "MultiScaleMaskedTransformerDecoder",
    "NonFiniteCostError",
    "SetCriterion",
    "build_transformer_decoder",
]
