"""Swin Transformer (Liu et al., 2021, section 3).

Shapes: B images, H, W of a feature map, C its channels; maps are B×H×W×C until they are returned. G windows a map, N
pixels a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...ops.linear import Linear
from .window_attention import (
    WindowAttention,
    join_windows,
    pad_to_multiple,
    shifted_window_mask,
    split_windows,
    to_multiple,
)

# Standard deviation of the truncated normal distribution that linear layers and position tables start from.
INIT_STD = 0.02


class DropPath(nn.Module):
    """Leave a residual branch out, for each image of the batch by itself (Huang et al., 2016, stochastic depth)."""

    def __init__(self, rate: float) -> None:
        """``rate`` in [0, 1) is the probability of leaving out; what is kept is scaled to keep the expectation."""
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """B×… to B×…; in evaluation mode the identity."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * (kept / (1 - self.rate))


class MLP(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """…×C to …×C."""
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(x)))))


class SwinBlock(nn.Module):
    """Attention within windows, regular or shifted, then a multilayer perceptron; layer norm before each."""

    def __init__(
        self,
        dim: int,
        window_size: int,
        shift: int,
        *,
        num_heads: int,
        mlp_ratio: float,
        dropout: float,
        drop_path: float,
        **attention_args: Any,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window_size, num_heads, dropout=dropout, **attention_args)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio), dropout)

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """B×H×W×C to B×H×W×C; ``blocked`` is the G×N×N mask of the padded map, for a shifted block."""
        x = x + self.drop_path(self._attend(self.norm1(x), blocked))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, blocked: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        # as published, what pads the normalised pixels takes part in attention
        x = pad_to_multiple(x, self.window_size)
        padded_height, padded_width = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        windows = self.attn(split_windows(x, self.window_size), blocked if self.shift else None)
        x = join_windows(windows, self.window_size, padded_height, padded_width)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """Halve the resolution and double the channels: each 2×2 pixels become one (section 3.1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """B×H×W×C to B×⌈H/2⌉×⌈W/2⌉×2C."""
        x = pad_to_multiple(x, 2)
        # the four pixels column by column, the order that published weights are in
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class SwinStage(nn.Module):
    """Blocks at one resolution, regular and shifted windows in turn, then patch merging where a stage follows."""

    def __init__(
        self,
        dim: int,
        drop_path: Sequence[float],
        window_size: int,
        *,
        downsample: bool,
        use_checkpoint: bool,
        **block_args: Any,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = window_size // 2
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(
            SwinBlock(dim, window_size, self.shift * (index % 2), drop_path=rate, **block_args)
            for index, rate in enumerate(drop_path)
        )
        self.downsample = PatchMerging(dim) if downsample else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """B×H×W×C to the map of this stage, of the same shape, and the input of the next."""
        height, width = (length + to_multiple(length, self.window_size) for length in x.shape[1:3])
        blocked = shifted_window_mask(height, width, self.window_size, self.shift, x.device)
        for block in self.blocks:
            if self.use_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, blocked, use_reentrant=False)
            else:
                x = block(x, blocked)
        return x, self.downsample(x)


class PatchEmbed(nn.Module):
    """Cut images into patches and embed each (section 3.1)."""

    def __init__(self, in_channels: int, dim: int, patch_size: int, norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """B×in_channels×H×W to B×⌈H/patch⌉×⌈W/patch⌉×C."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


@BACKBONE_REGISTRY.register()
class D2SwinTransformer(Backbone):
    """Swin Transformer with feature maps res2 to res5, at strides 4, 8, 16 and 32 for patches of 4 pixels."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        pretrain_img_size: int,
        patch_size: int,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        mlp_ratio: float,
        qkv_bias: bool,
        qk_scale: float | None,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        ape: bool,
        patch_norm: bool,
        out_features: Sequence[str],
        use_checkpoint: bool,
    ) -> None:
        """
        Args:
            in_channels: channels of the images.
            pretrain_img_size: side, in pixels, of the images that the absolute position embedding is for.
            patch_size: side of a patch, in pixels; the stride of res2.
            embed_dim: channels of res2; each stage has twice as many as the one before.
            depths, num_heads: blocks, and attention heads, of each stage.
            window_size: side M of attention windows, in pixels of a feature map.
            mlp_ratio: hidden width of the multilayer perceptrons, in channels of their stage.
            qkv_bias: whether query, key and value projections have biases.
            qk_scale: factor of the attention logits; None for 1/√(channels a head).
            drop_rate, attn_drop_rate: dropout of activations, and of attention weights.
            drop_path_rate: probability of leaving out the last block's branches; grows linearly from 0.
            ape: add a learned absolute position embedding to the patches.
            patch_norm: normalise the patches' embeddings.
            out_features: names to return, of res2, res3, …; stages after the last of them are not built.
            use_checkpoint: recompute activations in the backward pass rather than keep them.

        Raises:
            ValueError: sizes of the stages do not fit each other, or a feature is asked for that no stage gives.
        """
        super().__init__()
        if len(depths) != len(num_heads):
            raise ValueError(f"MODEL.SWIN.DEPTHS {list(depths)} and NUM_HEADS {list(num_heads)} differ in length.")
        names = [f"res{index + 2}" for index in range(len(depths))]
        if not out_features or not set(out_features) <= set(names):
            raise ValueError(f"MODEL.SWIN.OUT_FEATURES {list(out_features)} must be some of {names}.")
        self.names = names[: max(map(names.index, out_features)) + 1]
        self._out_features = [name for name in self.names if name in out_features]
        self._out_feature_strides = {name: patch_size * 2**index for index, name in enumerate(names)}
        self._out_feature_channels = {name: embed_dim * 2**index for index, name in enumerate(names)}
        self._size_divisibility = patch_size * 2 ** (len(names) - 1)

        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size, patch_norm)
        self.absolute_pos_embed: nn.Parameter | None = None
        if ape:
            side = pretrain_img_size // patch_size
            self.absolute_pos_embed = nn.Parameter(torch.empty(1, embed_dim, side, side))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=INIT_STD)
        self.dropout = nn.Dropout(drop_rate)
        drop_path = np.split(np.linspace(0, drop_path_rate, sum(depths)), np.cumsum(depths))
        self.layers = nn.ModuleList(
            SwinStage(
                self._out_feature_channels[name],
                drop_path[index].tolist(),
                window_size,
                downsample=name != self.names[-1],
                use_checkpoint=use_checkpoint,
                num_heads=num_heads[index],
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                dropout=drop_rate,
                attn_dropout=attn_drop_rate,
            )
            for index, name in enumerate(self.names)
        )
        for index, name in enumerate(names):
            if name in out_features:
                self.add_module(f"norm{index}", nn.LayerNorm(self._out_feature_channels[name]))
        self.apply(_init_linear)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.SWIN
        return {"in_channels": input_shape.channels, **{key.lower(): value for key, value in node.items()}}

    @property
    def size_divisibility(self) -> int:
        """Stride of the last stage. Other sizes work too, but their features are of rounded-up sizes."""
        return self._size_divisibility

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """B×in_channels×H×W normalised images to name → B×C×⌈H/stride⌉×⌈W/stride⌉."""
        x = self.patch_embed(images)
        if self.absolute_pos_embed is not None:
            position = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic", align_corners=False)
            x = x + position.permute(0, 2, 3, 1)
        x = self.dropout(x)
        features = {}
        for index, (name, stage) in enumerate(zip(self.names, self.layers, strict=True)):
            feature, x = stage(x)
            if name in self._out_features:
                features[name] = self.get_submodule(f"norm{index}")(feature).permute(0, 3, 1, 2).contiguous()
        return features


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
