"""Pixel decoders without deformable attention: a feature pyramid, alone or above a transformer encoder (MaskFormer,
section 3.4 and appendix; Mask2Former, table 4e).

Shapes: B images, C channels (CONVS_DIM), H, W of the padded batch, S pixels of the lowest resolution.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn
from torch.nn import functional as F

from .pixel_decoder import NUM_DECODER_LEVELS, pyramid_conv
from .position_encoding import PositionEmbeddingSine


def _by_stride(input_shape: dict[str, ShapeSpec]) -> list[str]:
    """Names of the features, from high to low resolution."""
    return sorted(input_shape, key=lambda name: input_shape[name].stride)


@SEM_SEG_HEADS_REGISTRY.register()
class BasePixelDecoder(nn.Module):
    """A feature pyramid from the lowest resolution to the highest, with nearest-neighbour upsampling."""

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], *, conv_dim: int, mask_dim: int, norm: str) -> None:
        """
        Args:
            input_shape: channels and stride of each backbone feature to use.
            conv_dim: channels C of all inner features.
            mask_dim: channels of the mask features.
            norm: normalisation of the convolutions, by Detectron2's names; "" for none.

        Raises:
            ValueError: there are fewer features than the transformer decoder has scales.
        """
        super().__init__()
        names = _by_stride(input_shape)
        if len(names) < NUM_DECODER_LEVELS:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES {names}: the transformer decoder needs {NUM_DECODER_LEVELS} scales."
            )
        *self.pyramid_features, self.lowest_feature = names
        for index, name in enumerate(self.pyramid_features, start=1):
            self.add_module(f"adapter_{index}", pyramid_conv(input_shape[name].channels, conv_dim, 1, norm))
            self.add_module(f"layer_{index}", pyramid_conv(conv_dim, conv_dim, 3, norm, F.relu))
        lowest_channels = input_shape[self.lowest_feature].channels
        self.add_module(f"layer_{len(names)}", pyramid_conv(lowest_channels, conv_dim, 3, norm, F.relu))
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=3, padding=1)
        c2_xavier_fill(self.mask_features)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {name: input_shape[name] for name in head.IN_FEATURES},
            "conv_dim": head.CONVS_DIM,
            "mask_dim": head.MASK_DIM,
            "norm": head.NORM,
        }

    def forward_features(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Decode.

        Args:
            features: name → B×C'×h×w backbone feature, as ``input_shape`` says.

        Returns:
            mask features B×MASK_DIM×h×w of the highest resolution; the encoder's feature, None where there is no
            encoder; the transformer decoder's scales, from low to high resolution (1/32, 1/16, 1/8), B×C×h×w each.
        """
        mask_features, scales = self._pyramid(features, features[self.lowest_feature])
        return mask_features, None, scales

    def _pyramid(self, features: dict[str, Tensor], lowest: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mask features and scales, where ``lowest`` is what the pyramid starts from."""
        count = len(self.pyramid_features)
        outputs = [self.get_submodule(f"layer_{count + 1}")(lowest)]
        for index in range(count, 0, -1):
            lateral = self.get_submodule(f"adapter_{index}")(features[self.pyramid_features[index - 1]])
            top_down = F.interpolate(outputs[-1], size=lateral.shape[-2:], mode="nearest")
            outputs.append(self.get_submodule(f"layer_{index}")(lateral + top_down))
        return self.mask_features(outputs[-1]), outputs[:NUM_DECODER_LEVELS]


class TransformerEncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network; layer norm after each, or before (DETR, appendix A.3)."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.dropout1 = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.dropout2 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """B×S×C to B×S×C; ``position`` is 1×S×C."""
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), position)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + self._attend(x, position))
        return self.norm2(x + self._feed_forward(x))

    def _attend(self, x: Tensor, position: Tensor) -> Tensor:
        query = x + position
        return self.dropout1(self.self_attn(query, query, x, need_weights=False)[0])

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(F.relu(self.linear1(x)))))


class TransformerEncoder(nn.Module):
    """A stack of encoder layers, closed by a layer norm where the layers themselves normalise first."""

    def __init__(self, num_layers: int, *, dim: int, pre_norm: bool, **layer_args: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(dim, pre_norm=pre_norm, **layer_args) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """B×S×C to B×S×C; ``position`` is 1×S×C."""
        for layer in self.layers:
            x = layer(x, position)
        return self.norm(x)


class EncoderTransformer(nn.Module):
    """Flattens a map and runs the encoder over its pixels."""

    def __init__(self, num_layers: int, **encoder_args: Any) -> None:
        super().__init__()
        self.encoder = TransformerEncoder(num_layers, **encoder_args)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """B×C×h×w to B×C×h×w; ``position`` is 1×C×h×w."""
        pixels = self.encoder(x.flatten(2).transpose(1, 2), position.flatten(2).transpose(1, 2))
        return pixels.transpose(1, 2).unflatten(2, x.shape[-2:])


@SEM_SEG_HEADS_REGISTRY.register()
class TransformerEncoderPixelDecoder(BasePixelDecoder):
    """The same feature pyramid, with a transformer encoder over the feature of the lowest resolution below it."""

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        transformer_enc_layers: int,
        transformer_nheads: int,
        transformer_dim_feedforward: int,
        transformer_dropout: float,
        transformer_pre_norm: bool,
        conv_dim: int,
        mask_dim: int,
        norm: str,
    ) -> None:
        """
        Args:
            input_shape, conv_dim, mask_dim, norm: see :class:`BasePixelDecoder`.
            transformer_enc_layers: encoder layers.
            transformer_nheads: attention heads.
            transformer_dim_feedforward: hidden width of the feed-forward networks.
            transformer_dropout: dropout of the encoder, in [0, 1).
            transformer_pre_norm: layer norm before instead of after each block.
        """
        lowest = _by_stride(input_shape)[-1]
        encoded = ShapeSpec(channels=conv_dim, stride=input_shape[lowest].stride)
        super().__init__({**input_shape, lowest: encoded}, conv_dim=conv_dim, mask_dim=mask_dim, norm=norm)
        self.input_proj = Conv2d(input_shape[lowest].channels, conv_dim, kernel_size=1)
        c2_xavier_fill(self.input_proj)
        self.pe_layer = PositionEmbeddingSine(conv_dim // 2)
        self.transformer = EncoderTransformer(
            transformer_enc_layers,
            dim=conv_dim,
            num_heads=transformer_nheads,
            feedforward_dim=transformer_dim_feedforward,
            dropout=transformer_dropout,
            pre_norm=transformer_pre_norm,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        node = cfg.MODEL.MASK_FORMER
        return {
            **super().from_config(cfg, input_shape),
            "transformer_enc_layers": cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS,
            "transformer_nheads": node.NHEADS,
            "transformer_dim_feedforward": node.DIM_FEEDFORWARD,
            "transformer_dropout": node.DROPOUT,
            "transformer_pre_norm": node.PRE_NORM,
        }

    def forward_features(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Decode; see :meth:`BasePixelDecoder.forward_features`. The encoder's feature is B×C×H/32×W/32."""
        projected = self.input_proj(features[self.lowest_feature])
        encoded = self.transformer(projected, self.pe_layer(projected))
        mask_features, scales = self._pyramid(features, encoded)
        return mask_features, encoded, scales
