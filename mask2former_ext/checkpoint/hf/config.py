"""Configs of this package and of transformers: tables of what is called how, for both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ...config import get_cfg_defaults
from ...modeling.pixel_decoder import ENCODER_FEEDFORWARD_DIM
from .backbones import backbone_keys, to_hf_backbone
from .library import import_transformers

if TYPE_CHECKING:
    from transformers import Mask2FormerConfig

# Key here: attribute of Mask2FormerConfig.
SHARED = {
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": "ignore_value",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": "feature_size",
    "MODEL.SEM_SEG_HEAD.MASK_DIM": "mask_feature_size",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": "encoder_layers",
    "MODEL.MASK_FORMER.HIDDEN_DIM": "hidden_dim",
    "MODEL.MASK_FORMER.NHEADS": "num_attention_heads",
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": "dim_feedforward",
    "MODEL.MASK_FORMER.DEC_LAYERS": "decoder_layers",
    "MODEL.MASK_FORMER.PRE_NORM": "pre_norm",
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": "enforce_input_projection",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": "num_queries",
    "MODEL.MASK_FORMER.DROPOUT": "dropout",
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": "no_object_weight",
    "MODEL.MASK_FORMER.CLASS_WEIGHT": "class_weight",
    "MODEL.MASK_FORMER.MASK_WEIGHT": "mask_weight",
    "MODEL.MASK_FORMER.DICE_WEIGHT": "dice_weight",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": "train_num_points",
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": "oversample_ratio",
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": "importance_sample_ratio",
}
# Transformers' Mask2Former is always so; the config has no say in it.
ALWAYS = {
    "MODEL.META_ARCHITECTURE": "MaskFormer",
    "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
}
# This package's Mask2Former is always so.
HF_ALWAYS = {
    "activation_function": "relu",
    "encoder_feedforward_dim": ENCODER_FEEDFORWARD_DIM,
    "common_stride": 4,
    "feature_strides": [4, 8, 16, 32],
}
# Kept for the way back in an attribute of transformers' config that nothing there reads.
RECORD = "detectron2"
RECORDED = (
    "INPUT.FORMAT",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.RESNETS.NORM",
    "MODEL.MASK_FORMER.DEEP_SUPERVISION",
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY",
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON",
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON",
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON",
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD",
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD",
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE",
    "TEST.DETECTIONS_PER_IMAGE",
)
# What published configs set, for models that come without a record.
PUBLISHED = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.8,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.8,
}
# Results that make sense for a model whose name tells its task.
TASKS = {
    "panoptic": {"SEMANTIC_ON": True, "INSTANCE_ON": True, "PANOPTIC_ON": True},
    "instance": {"SEMANTIC_ON": False, "INSTANCE_ON": True, "PANOPTIC_ON": False},
    "semantic": {"SEMANTIC_ON": True, "INSTANCE_ON": False, "PANOPTIC_ON": False},
}


def to_hf_config(cfg: CfgNode, class_names: Sequence[str] | None = None) -> Mask2FormerConfig:
    """Convert a config of this package.

    Args:
        cfg: of a MaskFormer with the deformable pixel decoder.
        class_names: a name for each class; by default those of the dataset, where they are registered.

    Raises:
        ImportError: transformers is not installed.
        ValueError: transformers' Mask2Former cannot be so; the message names the key.
    """
    refuse_others(cfg, ALWAYS)
    heads = cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS
    if heads not in (8, cfg.MODEL.MASK_FORMER.NHEADS):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS is {heads}, but transformers' encoder has as "
            f"many heads as its decoder: MODEL.MASK_FORMER.NHEADS, {cfg.MODEL.MASK_FORMER.NHEADS}."
        )
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    names = list(class_names or registered_class_names(cfg) or [f"LABEL_{i}" for i in range(num_classes)])
    if len(names) != num_classes:
        raise ValueError(f"{len(names)} class names for a model of {num_classes} classes (SEM_SEG_HEAD.NUM_CLASSES).")
    return import_transformers().Mask2FormerConfig(
        backbone_config=to_hf_backbone(cfg),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        **{attribute: read_key(cfg, key) for key, attribute in SHARED.items()},
        **HF_ALWAYS,
        **{RECORD: {key: plain(read_key(cfg, key)) for key in RECORDED}},
    )


def from_hf_config(config: Mask2FormerConfig, base: CfgNode | None = None) -> CfgNode:
    """Convert a config of transformers.

    Args:
        config: of Mask2Former.
        base: a config to start from, such as that of the data set, in place of the defaults with what published
            configs set. What transformers' config determines is changed in a copy.

    Raises:
        ValueError: this package's Mask2Former cannot be so; the message names the attribute.
    """
    architecture = architecture_keys(config)
    cfg = base.clone() if base is not None else get_cfg_defaults()
    cfg.defrost()
    if base is None:
        set_keys(cfg, {**PUBLISHED, **_task_keys(config), **recorded_keys(config)})
    set_keys(cfg, architecture)
    return cfg


def architecture_keys(config: Mask2FormerConfig) -> dict[str, Any]:
    """Every key, with dots, that transformers' config determines.

    Raises:
        ValueError: this package's Mask2Former cannot be so; the message names the attribute.
    """
    for attribute, value in HF_ALWAYS.items():
        actual = plain(getattr(config, attribute))
        if actual != value:
            raise ValueError(f"{attribute} is {actual!r}, but it is always {value!r} in this package's Mask2Former.")
    return {
        **ALWAYS,
        # as many as NHEADS
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 8,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": config.num_labels,
        **{key: plain(getattr(config, attribute)) for key, attribute in SHARED.items()},
        **backbone_keys(config.backbone_config),
    }


def recorded_keys(config: Mask2FormerConfig) -> dict[str, Any]:
    """Keys, with dots, that :func:`to_hf_config` kept beside what transformers has a place for; else empty."""
    record = getattr(config, RECORD, None) or {}
    return {key: value for key, value in record.items() if key in RECORDED}


def class_names_of(config: Mask2FormerConfig) -> list[str]:
    """The names of the classes, in their order."""
    names: Mapping[Any, str] = config.id2label or {}
    return [names[index] for index in sorted(names)]


def registered_class_names(cfg: CfgNode) -> list[str] | None:
    """Names of the classes from the metadata of the config's data sets, None where none has as many."""
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if dataset not in MetadataCatalog.list():
            continue
        metadata = MetadataCatalog.get(dataset)
        for attribute in ("stuff_classes", "thing_classes"):
            names = getattr(metadata, attribute, ())
            if len(names) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
                return list(names)
    return None


def refuse_others(cfg: CfgNode, required: Mapping[str, Any]) -> None:
    """Raise ValueError if a key has another value; the order within lists of feature names does not matter."""
    for key, value in required.items():
        actual = plain(read_key(cfg, key))
        same = sorted(actual) == sorted(value) if isinstance(value, list) else actual == value
        if not same:
            raise ValueError(f"{key} is {actual!r}, but transformers' Mask2Former only has {value!r}.")


def read_key(cfg: CfgNode, key: str) -> Any:
    """The value under a dotted key."""
    return reduce(getattr, key.split("."), cfg)


def set_keys(cfg: CfgNode, values: Mapping[str, Any]) -> None:
    """Set dotted keys; numbers take the type that the key has."""
    for key, value in values.items():
        cast = float if isinstance(read_key(cfg, key), float) and isinstance(value, int) else plain
        cfg.merge_from_list([key, cast(value)])


def _task_keys(config: Mask2FormerConfig) -> dict[str, bool]:
    """Which results to return, by the task in the model's name; semantic ones where there is none."""
    parts = PurePath(str(getattr(config, "_name_or_path", "")).lower()).parts
    # the name comes before those of the folders that it is in, as in a cache: models--NAME/snapshots/HASH
    task = next((task for part in reversed(parts) for task in TASKS if task in part), "semantic")
    return {f"MODEL.MASK_FORMER.TEST.{key}": value for key, value in TASKS[task].items()}


def plain(value: Any) -> Any:
    """A tuple as a list, all else as it is."""
    return list(value) if isinstance(value, (list, tuple)) else value
