"""Model: meta-architecture, head, decoders; importing registers them with Detectron2."""

from .backbone import D2SwinTransformer, build_timm_backbone
from .criterion import SetCriterion
from .head import MaskFormerHead
from .maskformer import MaskFormer
from .matcher import HungarianMatcher, NonFiniteCostError
from .pixel_decoder import MSDeformAttnPixelDecoder
from .plain_pixel_decoder import BasePixelDecoder, TransformerEncoderPixelDecoder
from .test_time_augmentation import MaskFormerWithTTA, SemanticSegmentorWithTTA
from .transformer_decoder import (
    TRANSFORMER_DECODER_REGISTRY,
    MultiScaleMaskedTransformerDecoder,
    build_transformer_decoder,
)

__all__ = [
    "TRANSFORMER_DECODER_REGISTRY",
    "BasePixelDecoder",
    "D2SwinTransformer",
    "HungarianMatcher",
    "MSDeformAttnPixelDecoder",
    "MaskFormer",
    "MaskFormerHead",
    "MaskFormerWithTTA",
    "MultiScaleMaskedTransformerDecoder",
    "NonFiniteCostError",
    "SemanticSegmentorWithTTA",
    "SetCriterion",
    "TransformerEncoderPixelDecoder",
    "build_timm_backbone",
    "build_transformer_decoder",
]
