"""Backbones that both sides have: Swin Transformer, ResNet, and timm's under their names there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from .library import import_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FEATURES = ["res2", "res3", "res4", "res5"]
STAGES = ["stage1", "stage2", "stage3", "stage4"]

# Name under MODEL.SWIN: attribute of SwinConfig.
SWIN = {
    "PRETRAIN_IMG_SIZE": "image_size",
    "PATCH_SIZE": "patch_size",
    "EMBED_DIM": "embed_dim",
    "DEPTHS": "depths",
    "NUM_HEADS": "num_heads",
    "WINDOW_SIZE": "window_size",
    "MLP_RATIO": "mlp_ratio",
    "QKV_BIAS": "qkv_bias",
    "DROP_RATE": "hidden_dropout_prob",
    "ATTN_DROP_RATE": "attention_probs_dropout_prob",
    "DROP_PATH_RATE": "drop_path_rate",
}
SWIN_ALWAYS = {"PATCH_SIZE": 4, "QK_SCALE": None, "APE": False, "PATCH_NORM": True, "OUT_FEATURES": FEATURES}
HF_SWIN_ALWAYS = {
    "num_channels": 3,
    "patch_size": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "use_absolute_embeddings": False,
    "out_features": STAGES,
}

RESNET_ALWAYS = {
    "NUM_GROUPS": (1,),
    "RES5_DILATION": (1,),
    "DEFORM_ON_PER_STAGE": ([False] * 4,),
    "NORM": ("FrozenBN", "BN", "SyncBN", "nnSyncBN", "naiveSyncBN"),
    "OUT_FEATURES": (FEATURES,),
}
HF_RESNET_ALWAYS = {
    "num_channels": 3,
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "out_features": STAGES,
}
# MODEL.RESNETS.DEPTH: the kind of block, and how many there are in each stage.
RESNET_DEPTHS = {
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
    101: ("bottleneck", [3, 4, 23, 3]),
    152: ("bottleneck", [3, 8, 36, 3]),
}
# Channels in the middle of a bottleneck of transformers: this share of those that leave it.
REDUCTION = 4


def to_hf_backbone(cfg: CfgNode) -> PreTrainedConfig:
    """The backbone's config for transformers.

    Raises:
        ValueError: transformers has no such backbone; the message names the key.
    """
    builders = {
        "D2SwinTransformer": _to_hf_swin,
        "build_resnet_backbone": _to_hf_resnet,
        "build_timm_backbone": _to_hf_timm,
    }
    name = cfg.MODEL.BACKBONE.NAME
    if name not in builders:
        raise ValueError(
            f"MODEL.BACKBONE.NAME is '{name}'; those of {', '.join(builders)} can be converted to transformers."
        )
    return builders[name](cfg)


def backbone_keys(config: Any) -> dict[str, Any]:
    """The keys, with dots, that make this package's backbone what transformers' ``backbone_config`` says.

    Raises:
        ValueError: this package has no such backbone; the message names the attribute.
    """
    readers = {"swin": _swin_keys, "resnet": _resnet_keys, "timm_backbone": _timm_keys}
    if config.model_type not in readers:
        raise ValueError(
            f"backbone_config is of the type '{config.model_type}'; those of {', '.join(readers)} can be converted. "
            "Another backbone has to be registered in BACKBONE_REGISTRY and its weights renamed by its own rules."
        )
    return readers[config.model_type](config)


def _to_hf_swin(cfg: CfgNode) -> PreTrainedConfig:
    node = cfg.MODEL.SWIN
    for key, value in SWIN_ALWAYS.items():
        if node[key] != value:
            raise ValueError(f"MODEL.SWIN.{key} is {node[key]!r}, but transformers' SwinBackbone only has {value!r}.")
    if len(node.DEPTHS) != len(STAGES):
        raise ValueError(f"MODEL.SWIN.DEPTHS is {node.DEPTHS}, but transformers' Mask2Former needs four stages.")
    values = {attribute: node[key] for key, attribute in SWIN.items()}
    return import_transformers().SwinConfig(**values, out_features=list(STAGES))


def _swin_keys(config: PreTrainedConfig) -> dict[str, Any]:
    _refuse_others(config, HF_SWIN_ALWAYS)
    keys = {key: getattr(config, attribute) for key, attribute in SWIN.items()}
    keys |= SWIN_ALWAYS
    if not isinstance(keys["PRETRAIN_IMG_SIZE"], int):
        keys["PRETRAIN_IMG_SIZE"] = max(keys["PRETRAIN_IMG_SIZE"])
    dotted = {f"MODEL.SWIN.{key}": value for key, value in keys.items()}
    return {"MODEL.BACKBONE.NAME": "D2SwinTransformer", **dotted}


def _to_hf_resnet(cfg: CfgNode) -> PreTrainedConfig:
    node = cfg.MODEL.RESNETS
    for key, values in RESNET_ALWAYS.items():
        if node[key] not in values:
            raise ValueError(f"MODEL.RESNETS.{key} is {node[key]!r}, but transformers' ResNet only has {values}.")
    kind, depths = RESNET_DEPTHS[node.DEPTH]
    if kind == "bottleneck" and node.WIDTH_PER_GROUP * REDUCTION != node.RES2_OUT_CHANNELS:
        raise ValueError(
            f"MODEL.RESNETS.WIDTH_PER_GROUP is {node.WIDTH_PER_GROUP}, but bottlenecks of transformers' ResNet have a "
            f"quarter of RES2_OUT_CHANNELS, {node.RES2_OUT_CHANNELS}."
        )
    return import_transformers().ResNetConfig(
        embedding_size=node.STEM_OUT_CHANNELS,
        hidden_sizes=[node.RES2_OUT_CHANNELS * 2**stage for stage in range(len(STAGES))],
        depths=depths,
        layer_type=kind,
        downsample_in_bottleneck=node.STRIDE_IN_1X1,
        out_features=list(STAGES),
    )


def _resnet_keys(config: PreTrainedConfig) -> dict[str, Any]:
    _refuse_others(config, HF_RESNET_ALWAYS)
    layout = (config.layer_type, list(config.depths))
    known = {depth for depth, blocks in RESNET_DEPTHS.items() if blocks == layout}
    if not known:
        raise ValueError(
            f"backbone_config is a ResNet of {layout[0]} blocks {layout[1]}; those of Detectron2, by "
            f"MODEL.RESNETS.DEPTH, are {RESNET_DEPTHS}."
        )
    width = config.hidden_sizes[0]
    if config.hidden_sizes != [width * 2**stage for stage in range(len(STAGES))] or width % REDUCTION:
        raise ValueError(
            f"backbone_config.hidden_sizes is {config.hidden_sizes}, but stages of Detectron2's ResNet double the "
            f"channels of the one before, from a multiple of {REDUCTION}."
        )
    keys = {
        "DEPTH": known.pop(),
        "STEM_OUT_CHANNELS": config.embedding_size,
        "RES2_OUT_CHANNELS": width,
        "NUM_GROUPS": 1,
        "STRIDE_IN_1X1": config.downsample_in_bottleneck,
        "RES5_DILATION": 1,
        "DEFORM_ON_PER_STAGE": [False] * 4,
        "OUT_FEATURES": FEATURES,
    }
    if config.layer_type == "bottleneck":
        keys["WIDTH_PER_GROUP"] = width // REDUCTION
    dotted = {f"MODEL.RESNETS.{key}": value for key, value in keys.items()}
    return {"MODEL.BACKBONE.NAME": "build_resnet_backbone", **dotted}


def _to_hf_timm(cfg: CfgNode) -> PreTrainedConfig:
    node = cfg.MODEL.TIMM
    body = _timm_body(cfg)
    if node.KWARGS or list(node.OUT_FEATURES) != FEATURES:
        raise ValueError(
            f"MODEL.TIMM.KWARGS is {dict(node.KWARGS)} and OUT_FEATURES {node.OUT_FEATURES}, but transformers' "
            f"timm_backbone takes no such arguments, and Mask2Former needs {FEATURES}."
        )
    return import_transformers().TimmBackboneConfig(
        backbone=node.NAME, num_channels=3, features_only=True, out_indices=list(body.feature_info.out_indices)
    )


def _timm_keys(config: PreTrainedConfig) -> dict[str, Any]:
    _refuse_others(config, {"num_channels": 3, "features_only": True, "output_stride": None})
    keys = {"NAME": config.backbone, "PRETRAINED": False, "OUT_FEATURES": FEATURES}
    dotted = {f"MODEL.TIMM.{key}": value for key, value in keys.items()}
    return {"MODEL.BACKBONE.NAME": "build_timm_backbone", **dotted}


def _timm_body(cfg: CfgNode) -> Any:
    """The timm model, without weights."""
    cfg = cfg.clone()
    cfg.MODEL.TIMM.PRETRAINED = False
    with torch.device("meta"):
        backbone = build_backbone(cfg, ShapeSpec(channels=3))
    if hasattr(backbone, "pyramid") or backbone.channels_last:
        raise ValueError(
            f"MODEL.TIMM.NAME is '{cfg.MODEL.TIMM.NAME}', of a single scale or with channels last, from which "
            "transformers' Mask2Former has no pyramid of features."
        )
    return backbone.body


def _refuse_others(config: PreTrainedConfig, required: dict[str, Any]) -> None:
    for attribute, value in required.items():
        actual = getattr(config, attribute)
        actual = list(actual) if isinstance(actual, tuple) else actual
        if actual != value:
            raise ValueError(
                f"backbone_config.{attribute} is {actual!r}, but this package's backbone only has {value!r}."
            )
