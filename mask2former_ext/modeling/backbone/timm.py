"""Any feature backbone of timm, the PyTorch Image Models library, by its name there.

Shapes: B images, H, W of the padded batch, C channels of a feature map.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from .simple_pyramid import SimpleFeaturePyramid

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class TimmBackbone(Backbone):
    """A timm model with several scales: ResNets, ConvNeXts, Swin Transformers and their like."""

    def __init__(self, body: nn.Module, out_features: Sequence[str]) -> None:
        """
        Args:
            body: made by ``timm.create_model(…, features_only=True)``, with one map for each feature.
            out_features: names to return, of res2 to res5, from high to low resolution.
        """
        super().__init__()
        self.body = body
        self.channels_last = str(getattr(body, "output_fmt", "")).endswith("NHWC")
        self._out_features = list(out_features)
        self._out_feature_strides = {name: STRIDES[name] for name in out_features}
        self._out_feature_channels = dict(zip(out_features, _feature_info(body).channels(), strict=True))

    @property
    def size_divisibility(self) -> int:
        """Stride of the last feature."""
        return max(self._out_feature_strides.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """B×in_channels×H×W normalised images to name → B×C×H/stride×W/stride."""
        maps = _run(self.body, images)
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return dict(zip(self._out_features, maps, strict=True))


class TimmPlainBackbone(Backbone):
    """A timm model of one scale, such as a Vision Transformer, under a simple feature pyramid."""

    def __init__(self, body: nn.Module, out_features: Sequence[str]) -> None:
        """Arguments as those of :class:`TimmBackbone`, but ``body`` has one map only."""
        super().__init__()
        self.body = body
        self.patch_size = int(_feature_info(body).reduction()[0])
        # 14 counts as 16: images are resized, so that strides are powers of two and features lie over their pixels
        self.stride = 2 ** math.ceil(math.log2(self.patch_size))
        self._out_features = list(out_features)
        strides = [STRIDES[name] for name in out_features]
        self.pyramid = SimpleFeaturePyramid(_feature_info(body).channels()[0], self.stride, strides)
        self._out_feature_strides = dict(zip(out_features, strides, strict=True))
        self._out_feature_channels = dict(zip(out_features, self.pyramid.out_channels, strict=True))

    @property
    def size_divisibility(self) -> int:
        """Patches, and pixels of the last feature, tile images of such sizes; others are padded to them."""
        return max(self.stride, *self._out_feature_strides.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """B×in_channels×H×W normalised images to name → B×C×H/stride×W/stride, for H and W as they are padded."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.size_divisibility, 0, -height % self.size_divisibility))
        if self.patch_size != self.stride:
            size = [length // self.stride * self.patch_size for length in images.shape[-2:]]
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        return dict(zip(self._out_features, self.pyramid(_run(self.body, images)[0]), strict=True))


def _run(body: nn.Module, images: Tensor) -> list[Tensor]:
    try:
        return body(images)
    except (AssertionError, RuntimeError) as error:
        # timm's way to say that a model was made for images of another size, or what becomes of it where timm does not
        if isinstance(error, RuntimeError) and "must match the size of tensor" not in str(error):
            raise
        raise ValueError(
            f"The timm model of MODEL.TIMM.NAME does not take images of {images.shape[-2]}×{images.shape[-1]} pixels: "
            f"{error} Choose a model that takes any size, or give its size and images of that size alone: "
            "MODEL: {TIMM: {KWARGS: {img_size: …}}} in a YAML file."
        ) from error


def _feature_info(body: nn.Module) -> Any:
    """What timm tells of the maps: ``channels()``, ``reduction()`` (strides), one for each, and ``out_indices``."""
    return body.feature_info


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build the backbone that MODEL.TIMM describes.

    NAME is a model name of timm, with or without a tag of weights ("convnext_tiny.fb_in22k"). PRETRAINED fetches the
    weights by way of timm; MODEL.PIXEL_MEAN, PIXEL_STD and INPUT.FORMAT are to be those of the weights. KWARGS are
    passed to ``timm.create_model``, for example ``{drop_path_rate: 0.1}``, or ``{img_size: 512}`` for models that work
    at one image size. A model of a single scale gets a simple feature pyramid.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm knows no such model, cannot take features out of it, or it lacks a feature of OUT_FEATURES.
    """
    node = cfg.MODEL.TIMM
    names = [name for name in STRIDES if name in node.OUT_FEATURES]
    if not names or len(names) < len(node.OUT_FEATURES):
        raise ValueError(f"MODEL.TIMM.OUT_FEATURES {list(node.OUT_FEATURES)} must be some of {list(STRIDES)}.")
    if "out_indices" in node.KWARGS or "features_only" in node.KWARGS:
        raise ValueError("MODEL.TIMM.KWARGS cannot set out_indices or features_only: MODEL.TIMM.OUT_FEATURES does.")
    in_channels = input_shape.channels
    with torch.device("meta"):  # costs nothing, and tells which maps there are
        sketch = _create_body(cfg, in_channels, pretrained=False)
    indices = _feature_info(sketch).out_indices
    strides = list(_feature_info(sketch).reduction())
    if len(set(strides)) == 1:
        # the sizes of images are not those that a Vision Transformer was trained on
        flexible = {"dynamic_img_size": True} if hasattr(sketch.model, "dynamic_img_size") else {}
        body = _create_body(cfg, in_channels, pretrained=node.PRETRAINED, out_indices=indices[-1:], **flexible)
        return TimmPlainBackbone(body, names)
    missing = [name for name in names if STRIDES[name] not in strides]
    if missing:
        raise ValueError(
            f"MODEL.TIMM.OUT_FEATURES names {missing}, but the maps of '{node.NAME}' have strides {strides}; "
            f"names stand for strides {STRIDES}."
        )
    deepest = dict(zip(strides, indices, strict=True))
    chosen = tuple(deepest[STRIDES[name]] for name in names)
    flexible = {"strict_img_size": False} if _takes(cfg, in_channels, strict_img_size=False) else {}
    return TimmBackbone(
        _create_body(cfg, in_channels, pretrained=node.PRETRAINED, out_indices=chosen, **flexible), names
    )


def _takes(cfg: CfgNode, in_channels: int, **arguments: Any) -> bool:
    """Whether the model has such arguments, as Swin Transformers have one to take images of any size."""
    try:
        with torch.device("meta"):
            _create_body(cfg, in_channels, pretrained=False, **arguments)
    except ValueError:
        return False
    return True


def _create_body(cfg: CfgNode, in_channels: int, **arguments: Any) -> nn.Module:
    node = cfg.MODEL.TIMM
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise ImportError(
            "MODEL.BACKBONE.NAME is 'build_timm_backbone', which needs timm, and timm cannot be imported. Install it "
            "by 'pip install timm'."
        ) from error
    if ":" not in node.NAME and not timm.is_model(node.NAME):  # with a colon it names a place to load from
        similar = difflib.get_close_matches(node.NAME, timm.list_models(), n=5)
        raise ValueError(f"MODEL.TIMM.NAME is '{node.NAME}', no model of timm {timm.__version__}; similar: {similar}.")
    try:
        return timm.create_model(node.NAME, features_only=True, in_chans=in_channels, **{**arguments, **node.KWARGS})
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"MODEL.TIMM.NAME is '{node.NAME}', from which timm makes no feature backbone with MODEL.TIMM.KWARGS "
            f"{dict(node.KWARGS)}: {error}"
        ) from error
