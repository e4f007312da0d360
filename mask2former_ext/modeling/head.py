"""Mask2Former's head: pixel decoder, then transformer decoder (Mask2Former, figure 2)."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .transformer_decoder import build_transformer_decoder


def build_pixel_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the pixel decoder that MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME names.

    Raises:
        ValueError: there is none of that name, or it is a head without ``forward_features``.
    """
    name = cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME
    if name not in SEM_SEG_HEADS_REGISTRY:
        raise ValueError(f"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME is '{name}', which no imported module registers.")
    decoder = SEM_SEG_HEADS_REGISTRY.get(name)(cfg, input_shape)
    if not callable(getattr(decoder, "forward_features", None)):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME is '{name}', which is no pixel decoder (no forward_features)."
        )
    return decoder


@SEM_SEG_HEADS_REGISTRY.register()
class MaskFormerHead(nn.Module):
    """From backbone features to class and mask predictions of every decoder layer."""

    pixel_decoder: Any  # a module whose forward_features nn.Module's type does not tell of

    @configurable
    def __init__(
        self, input_shape: dict[str, ShapeSpec], *, num_classes: int, pixel_decoder: nn.Module, predictor: nn.Module
    ) -> None:
        """
        Args:
            input_shape: channels and stride of each backbone feature.
            num_classes: K, without no-object.
            pixel_decoder: has ``forward_features``, see :class:`MSDeformAttnPixelDecoder`.
            predictor: the transformer decoder.
        """
        super().__init__()
        self.in_features = list(input_shape)
        self.num_classes = num_classes
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.register_load_state_dict_pre_hook(_insert_pixel_decoder_prefix)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        source = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
        if source != "multi_scale_pixel_decoder":
            raise ValueError(
                f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is '{source}'; the decoders here attend to "
                "'multi_scale_pixel_decoder'. Other values belong to the older MaskFormer."
            )
        return {
            "input_shape": {name: input_shape[name] for name in head.IN_FEATURES},
            "num_classes": head.NUM_CLASSES,
            "pixel_decoder": build_pixel_decoder(cfg, input_shape),
            "predictor": build_transformer_decoder(cfg, head.CONVS_DIM, mask_classification=True),
        }

    def forward(self, features: dict[str, Tensor]) -> dict[str, Any]:
        """Predict from backbone features (name → B×C×h×w).

        Returns:
            ``pred_logits`` B×Q×(K+1), ``pred_masks`` B×Q×H/4×W/4 logits, ``aux_outputs``: a list of dicts of the same.
        """
        mask_features, _, scales = self.pixel_decoder.forward_features(features)
        return self.predictor(scales, mask_features)


def _insert_pixel_decoder_prefix(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Old checkpoints keep the pixel decoder's parameters directly under the head."""
    current = (f"{prefix}pixel_decoder.", f"{prefix}predictor.")
    for key in [k for k in state_dict if k.startswith(prefix) and not k.startswith(current)]:
        state_dict[f"{prefix}pixel_decoder.{key.removeprefix(prefix)}"] = state_dict.pop(key)
