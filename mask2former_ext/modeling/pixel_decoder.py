"""Pixel decoder: multi-scale deformable attention over the low-resolution features, a feature pyramid above them
(Mask2Former, section 3.2.1 and appendix; Deformable DETR, section 4).

Shapes: B images, C channels (CONVS_DIM), H, W of the padded batch, L levels of the encoder, S pixels of all L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import MSDeformAttn
from ..ops.linear import Linear
from .parts import in_parts
from .position_encoding import ENCODINGS_KEPT, PositionEmbeddingSine, remember

# The encoder's hidden width is this in every published model, whatever MASK_FORMER.DIM_FEEDFORWARD says.
ENCODER_FEEDFORWARD_DIM = 1024
# Scales that the transformer decoder looks at: 1/32, 1/16 and 1/8.
NUM_DECODER_LEVELS = 3
# L×2, or (height, width) of each level
LevelShapes = Tensor | Sequence[tuple[int, int]]


class MSDeformAttnEncoderLayer(nn.Module):
    """Deformable self-attention over all levels, then a feed-forward network; layer norm after each."""

    def __init__(self, dim: int, feedforward_dim: int, dropout: float, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.self_attn = MSDeformAttn(dim, levels, heads, points)
        self.dropout1 = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, feedforward_dim)
        self.dropout2 = nn.Dropout(dropout)
        self.linear2 = Linear(feedforward_dim, dim)
        self.dropout3 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self, x: Tensor, position: Tensor, reference_points: Tensor, spatial_shapes: LevelShapes, level_starts: Tensor
    ) -> Tensor:
        """B×S×C to B×S×C; ``position`` is 1×S×C, ``reference_points`` B×S×L×2."""
        attended = self.self_attn(x + position, reference_points, x, spatial_shapes, level_starts)
        x = self.norm1(x + self.dropout1(attended))
        batch, pixels, _ = x.shape
        return in_parts(lambda some: self._feed_forward(x[:, some]), pixels, batch * self.linear1.out_features, x, 1)

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner = self.dropout2(F.relu(self.linear1(x), inplace=True))
        return self.norm2(x + self.dropout3(self.linear2(inner)))


class MSDeformAttnEncoder(nn.Module):
    """A stack of encoder layers."""

    def __init__(self, num_layers: int, **layer_args: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MSDeformAttnEncoderLayer(**layer_args) for _ in range(num_layers))

    def forward(
        self, x: Tensor, position: Tensor, reference_points: Tensor, spatial_shapes: LevelShapes, level_starts: Tensor
    ) -> Tensor:
        """B×S×C to B×S×C; see :class:`MSDeformAttnEncoderLayer`."""
        for layer in self.layers:
            x = layer(x, position, reference_points, spatial_shapes, level_starts)
        return x


@remember(ENCODINGS_KEPT)
def pixel_centers(level_shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """1×S×L×2: every pixel's center as (x, y) in [0, 1], repeated for the L levels that it looks at; not to be changed
    in place."""
    centers = []
    for height, width in level_shapes:
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        centers.append(torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1))
    return torch.cat(centers)[None, :, None].expand(-1, -1, len(level_shapes), -1)


class MSDeformAttnTransformer(nn.Module):
    """Flattens the levels, tells them apart by learned embeddings, and runs the encoder over all of them."""

    def __init__(self, dim: int, levels: int, num_layers: int, **layer_args: Any) -> None:
        super().__init__()
        # plain PyTorch in place of the compiled operator, in a form that can be exported for images of any size
        self.plain_operator = False
        self.encoder = MSDeformAttnEncoder(num_layers, dim=dim, levels=levels, **layer_args)
        self.level_embed = nn.Parameter(torch.empty(levels, dim))
        nn.init.normal_(self.level_embed)

    def forward(self, features: Sequence[Tensor], positions: Sequence[Tensor]) -> list[Tensor]:
        """L maps B×C×h×w, with encodings 1×C×h×w, to L maps of the same shapes."""
        shapes = [(f.shape[-2], f.shape[-1]) for f in features]
        sizes = [h * w for h, w in shapes]
        x = torch.cat([f.flatten(2) for f in features], dim=2).transpose(1, 2)
        position = torch.cat(
            [p.flatten(2).transpose(1, 2) + embed for p, embed in zip(positions, self.level_embed, strict=True)], dim=1
        )
        # on the CPU, where reading them makes no GPU wait
        spatial_shapes = shapes if self.plain_operator else torch.tensor(shapes, dtype=torch.int64)
        level_starts = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))], dtype=torch.int64)
        reference_points = pixel_centers(tuple(shapes), x.device).expand(x.shape[0], -1, -1, -1)
        x = self.encoder(x, position, reference_points, spatial_shapes, level_starts)
        levels = x.transpose(1, 2).split(sizes, dim=2)
        return [level.unflatten(2, shape) for level, shape in zip(levels, shapes, strict=True)]


@SEM_SEG_HEADS_REGISTRY.register()
class MSDeformAttnPixelDecoder(nn.Module):
    """Backbone features to per-pixel mask features and the three scales that the transformer decoder attends to."""

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        transformer_in_features: Sequence[str],
        transformer_enc_layers: int,
        transformer_nheads: int,
        transformer_npoints: int,
        transformer_dropout: float,
        conv_dim: int,
        mask_dim: int,
        norm: str,
        common_stride: int,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of each backbone feature to use.
            transformer_in_features: names of the features that go through the encoder.
            transformer_enc_layers: encoder layers.
            transformer_nheads, transformer_npoints: heads, and points a head and level, of the encoder's attention.
            transformer_dropout: dropout of the encoder, in [0, 1).
            conv_dim: channels C of all inner features.
            mask_dim: channels of the mask features.
            norm: normalisation of the feature pyramid's convolutions, by Detectron2's names; "" for none.
            common_stride: stride of the mask features, in pixels.

        Raises:
            ValueError: a feature named for the encoder is not among the inputs, or there are too few scales.
        """
        super().__init__()
        names = sorted(input_shape, key=lambda name: input_shape[name].stride)
        encoded = [name for name in names if name in transformer_in_features]
        missing = sorted(set(transformer_in_features) - set(encoded))
        if missing or not encoded:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES {list(transformer_in_features)} must "
                f"be among "
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES {names}; missing: {missing or 'all'}."
            )
        self.encoded_features = encoded[::-1]  # from the lowest resolution, as the encoder orders its levels
        self.input_proj = nn.ModuleList(_projection(input_shape[n].channels, conv_dim) for n in self.encoded_features)
        self.pe_layer = PositionEmbeddingSine(conv_dim // 2)
        self.transformer = MSDeformAttnTransformer(
            conv_dim,
            len(encoded),
            transformer_enc_layers,
            feedforward_dim=ENCODER_FEEDFORWARD_DIM,
            dropout=transformer_dropout,
            heads=transformer_nheads,
            points=transformer_npoints,
        )
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=1)
        c2_xavier_fill(self.mask_features)
        pyramid = [n for n in names if common_stride <= input_shape[n].stride < input_shape[encoded[0]].stride]
        self.pyramid_features = pyramid[::-1]
        for index, name in enumerate(pyramid, start=1):
            self.add_module(f"adapter_{index}", pyramid_conv(input_shape[name].channels, conv_dim, 1, norm))
            self.add_module(f"layer_{index}", pyramid_conv(conv_dim, conv_dim, 3, norm, F.relu))
        if len(encoded) + len(pyramid) < NUM_DECODER_LEVELS:
            raise ValueError(f"the transformer decoder needs {NUM_DECODER_LEVELS} scales, got features {names}.")

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {name: input_shape[name] for name in head.IN_FEATURES},
            "transformer_in_features": head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
            "transformer_enc_layers": head.TRANSFORMER_ENC_LAYERS,
            "transformer_nheads": _encoder_heads(cfg),
            "transformer_npoints": head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
            "transformer_dropout": cfg.MODEL.MASK_FORMER.DROPOUT,
            "conv_dim": head.CONVS_DIM,
            "mask_dim": head.MASK_DIM,
            "norm": head.NORM,
            "common_stride": head.COMMON_STRIDE,
        }

    def forward_features(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Decode.

        Args:
            features: name → B×C'×h×w backbone feature, as ``input_shape`` says.

        Returns:
            mask features B×MASK_DIM×H/4×W/4; the feature of the lowest resolution B×C×H/32×W/32; the transformer
            decoder's scales, from low to high resolution (1/32, 1/16, 1/8), B×C×h×w each.
        """
        inputs = [features[name] for name in self.encoded_features]
        projected = [projection(x) for projection, x in zip(self.input_proj, inputs, strict=True)]
        outputs = self.transformer(projected, [self.pe_layer(x) for x in projected])
        for index, name in zip(range(len(self.pyramid_features), 0, -1), self.pyramid_features, strict=True):
            lateral = self.get_submodule(f"adapter_{index}")(features[name])
            size = lateral.shape[-2:]
            # the encoder's levels are channels last; laid out as the lateral ones they spare convolutions a copy
            top_down = F.interpolate(outputs[-1].contiguous(), size=size, mode="bilinear", align_corners=False)
            outputs.append(self.get_submodule(f"layer_{index}")(lateral + top_down))
        return self.mask_features(outputs[-1]), outputs[0], outputs[:NUM_DECODER_LEVELS]


def _projection(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.GroupNorm(32, out_channels))


def pyramid_conv(in_channels: int, out_channels: int, kernel_size: int, norm: str, activation: Any = None) -> Conv2d:
    """A normalised convolution of the feature pyramid, without bias where it has a norm; sizes stay."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
        activation=activation,
    )
    c2_xavier_fill(conv)
    return conv


def _encoder_heads(cfg: CfgNode) -> int:
    """Heads by MASK_FORMER.NHEADS, as in published configs, unless the encoder's own key is changed."""
    heads = cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS
    return heads if heads != 8 else cfg.MODEL.MASK_FORMER.NHEADS
