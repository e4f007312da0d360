"""Masked-attention transformer decoder (Mask2Former, section 3.2).

Shapes: B images, Q queries, K classes, C channels (HIDDEN_DIM), h, w of the mask features, S pixels of one scale.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from detectron2.utils.logger import log_first_n
from detectron2.utils.registry import Registry
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import MLP, CrossAttentionLayer, FFNLayer, SelfAttentionLayer
from .pixel_decoder import NUM_DECODER_LEVELS
from .position_encoding import PositionEmbeddingSine

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_MODULE")
TRANSFORMER_DECODER_REGISTRY.__doc__ = """
Transformer decoders, named by MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME. They are called with the pixel decoder's
scales and mask features, and return ``pred_logits``, ``pred_masks`` and ``aux_outputs``.
"""


def build_transformer_decoder(cfg: CfgNode, in_channels: int, mask_classification: bool = True) -> nn.Module:
    """Build the decoder that ``cfg`` names.

    Raises:
        ValueError: no decoder of that name is registered.
    """
    name = cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME
    if name not in TRANSFORMER_DECODER_REGISTRY:
        known = sorted(known_name for known_name, _ in TRANSFORMER_DECODER_REGISTRY)
        raise ValueError(
            f"MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME is '{name}', but only {known} are registered: this config "
            f"is written "
            "for another package, or the module that registers its decoder has not been imported."
        )
    return TRANSFORMER_DECODER_REGISTRY.get(name)(cfg, in_channels, mask_classification)


@TRANSFORMER_DECODER_REGISTRY.register()
class MultiScaleMaskedTransformerDecoder(nn.Module):
    """Queries attend to one scale after another, each only within the mask that it last predicted."""

    @configurable
    def __init__(
        self,
        in_channels: int,
        mask_classification: bool = True,
        *,
        num_classes: int,
        hidden_dim: int,
        num_queries: int,
        nheads: int,
        dim_feedforward: int,
        dec_layers: int,
        pre_norm: bool,
        mask_dim: int,
        enforce_input_project: bool,
        resize_mask_features: bool = False,
    ) -> None:
        """
        Args:
            in_channels: channels of the scales attended to.
            mask_classification: must be True; per-pixel classification is another model.
            num_classes: K, without no-object.
            hidden_dim: channels C of queries.
            num_queries: queries Q.
            nheads: attention heads.
            dim_feedforward: hidden width of the feed-forward networks.
            dec_layers: layers; there is one prediction more, that of the raw queries.
            pre_norm: layer norm before instead of after each block.
            mask_dim: channels of the mask features.
            enforce_input_project: project the scales even where ``in_channels`` equals ``hidden_dim``.
            resize_mask_features: in evaluation, take attention masks from mask features that are resized once to each
                scale instead of from resized masks. Resizing is linear, so that both are the same but for rounding,
                and the full-size masks of all predictions but the last need not be made.
        """
        super().__init__()
        if not mask_classification:
            raise ValueError(
                "MultiScaleMaskedTransformerDecoder predicts masks with classes; it has no per-pixel mode."
            )
        self.num_queries = num_queries
        self.resize_mask_features = resize_mask_features
        self.pe_layer = PositionEmbeddingSine(hidden_dim // 2)
        layers = range(dec_layers)
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, nheads, pre_norm) for _ in layers
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, nheads, pre_norm) for _ in layers
        )
        self.transformer_ffn_layers = nn.ModuleList(FFNLayer(hidden_dim, dim_feedforward, pre_norm) for _ in layers)
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(NUM_DECODER_LEVELS, hidden_dim)
        project = in_channels != hidden_dim or enforce_input_project
        self.input_proj = nn.ModuleList(
            _projection(in_channels, hidden_dim) if project else nn.Sequential() for _ in range(NUM_DECODER_LEVELS)
        )
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)
        self.register_load_state_dict_pre_hook(_rename_static_query)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int, mask_classification: bool = True) -> dict[str, Any]:
        node = cfg.MODEL.MASK_FORMER
        if node.DEC_LAYERS < 1:
            raise ValueError(
                f"MODEL.MASK_FORMER.DEC_LAYERS counts predictions and must be at least 1, got {node.DEC_LAYERS}."
            )
        if node.ENC_LAYERS:
            log_first_n(
                logging.WARNING,
                f"MODEL.MASK_FORMER.ENC_LAYERS is {node.ENC_LAYERS} and has no effect: the encoder is the pixel "
                f"decoder's, "
                "sized by MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS.",
            )
        return {
            "in_channels": in_channels,
            "mask_classification": mask_classification,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "hidden_dim": node.HIDDEN_DIM,
            "num_queries": node.NUM_OBJECT_QUERIES,
            "nheads": node.NHEADS,
            "dim_feedforward": node.DIM_FEEDFORWARD,
            "dec_layers": node.DEC_LAYERS - 1,
            "pre_norm": node.PRE_NORM,
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            "enforce_input_project": node.ENFORCE_INPUT_PROJ,
            "resize_mask_features": node.RESIZE_MASK_FEATURES,
        }

    def forward(self, scales: Sequence[Tensor], mask_features: Tensor) -> dict[str, Any]:
        """Predict masks and their classes.

        Args:
            scales: three maps B×in_channels×h'×w', from low to high resolution.
            mask_features: B×MASK_DIM×h×w.

        Returns:
            ``pred_logits`` B×Q×(K+1), ``pred_masks`` B×Q×h×w logits, and ``aux_outputs``: a list of dicts of the
            same, one for each earlier prediction. In training also what the masks are the product of:
            ``mask_features``, and beside each ``pred_masks`` ``mask_embeddings`` B×Q×MASK_DIM. In evaluation with
            ``resize_mask_features`` there are no earlier predictions: ``aux_outputs`` is empty.
        """
        batch = mask_features.shape[0]
        memories, positions = self._flatten_scales(scales)
        sizes = [scale.shape[-2:] for scale in scales]
        query_position = self.query_embed.weight.expand(batch, -1, -1)
        queries = self.query_feat.weight.expand(batch, -1, -1)
        from_resized_features = self.resize_mask_features and not self.training
        if from_resized_features:
            resized_features = [_resize(mask_features, size) for size in sizes]
        earlier = []
        blocks = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for index, (cross_attention, self_attention, ffn) in enumerate(blocks):
            level = index % NUM_DECODER_LEVELS
            if from_resized_features:
                masks = self._predict(queries, resized_features[level])["pred_masks"]
            else:
                earlier.append(self._predict(queries, mask_features))
                masks = earlier[-1]["pred_masks"]
            allowed = attention_mask(masks, sizes[level])
            queries = cross_attention(queries, memories[level], query_position, positions[level], allowed)
            queries = ffn(self_attention(queries, query_position))
        outputs: dict[str, Any] = {**self._predict(queries, mask_features), "aux_outputs": earlier}
        if self.training:
            outputs["mask_features"] = mask_features
        return outputs

    def _flatten_scales(self, scales: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per scale: B×S×C pixels with the scale's embedding added, and 1×S×C position encodings."""
        memories, positions = [], []
        for scale, projection, embed in zip(scales, self.input_proj, self.level_embed.weight, strict=True):
            memories.append(projection(scale).flatten(2).transpose(1, 2) + embed)
            positions.append(self.pe_layer(scale).flatten(2).transpose(1, 2))
        return memories, positions

    def _predict(self, queries: Tensor, mask_features: Tensor) -> dict[str, Tensor]:
        queries = self.decoder_norm(queries)
        embeddings = self.mask_embed(queries)
        masks = torch.einsum("bqc,bchw->bqhw", embeddings, mask_features)
        prediction = {"pred_logits": self.class_embed(queries), "pred_masks": masks}
        if self.training:
            prediction["mask_embeddings"] = embeddings
        return prediction


def attention_mask(mask_logits: Tensor, size: Sequence[int]) -> Tensor:
    """Where each query may look: inside its predicted mask, or everywhere if that is empty (equations 2 and 3).

    Args:
        mask_logits: B×Q×h×w.
        size: (height, width) of the scale attended to.

    Returns:
        B×Q×(height·width) bool; carries no gradient.
    """
    blocked = _resize(mask_logits.detach(), size).flatten(2).sigmoid() < 0.5
    return ~blocked | blocked.all(-1, keepdim=True)


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _projection(in_channels: int, out_channels: int) -> Conv2d:
    conv = Conv2d(in_channels, out_channels, kernel_size=1)
    c2_xavier_fill(conv)
    return conv


def _rename_static_query(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Checkpoints of the first public version call the query features ``static_query``."""
    old = f"{prefix}static_query.weight"
    if old in state_dict:
        state_dict[f"{prefix}query_feat.weight"] = state_dict.pop(old)
