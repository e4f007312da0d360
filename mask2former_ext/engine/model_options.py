"""What the config asks of a model for the sake of memory and speed, whatever its architecture."""

from __future__ import annotations

import os

import torch
from detectron2.config import CfgNode
from torch import nn

from ..modeling.backbone.checkpointing import checkpoint_blocks, checkpoint_encoder


def apply_model_options(cfg: CfgNode, model: nn.Module) -> None:
    """Switch on, in place, activation checkpointing, the memory format and the arithmetic that ``cfg.MODEL`` asks for.

    Args:
        cfg: ``MODEL.ACTIVATION_CHECKPOINTING``, ``MODEL.CHANNELS_LAST``, ``MODEL.TF32`` and ``MODEL.DETERMINISTIC``
            are read. The last two are settings of the whole process.
        model: any of Detectron2's.

    Raises:
        ValueError: the model has nothing that could be checkpointed as asked, or is to be compiled too.
    """
    node = cfg.MODEL.ACTIVATION_CHECKPOINTING
    if cfg.MODEL.COMPILE and (node.BACKBONE or node.PIXEL_DECODER):
        raise ValueError(
            "MODEL.COMPILE and MODEL.ACTIVATION_CHECKPOINTING do not go together: compiled code has no blocks, and "
            "chooses by itself what to compute again. Append: MODEL.COMPILE False"
        )
    if node.BACKBONE and not checkpoint_blocks(_part(model, "backbone")):
        raise ValueError(
            f"MODEL.ACTIVATION_CHECKPOINTING.BACKBONE is set, but no blocks are known in {cfg.MODEL.BACKBONE.NAME}. "
            "Append: MODEL.ACTIVATION_CHECKPOINTING.BACKBONE False"
        )
    if node.PIXEL_DECODER and not checkpoint_encoder(_part(model, "sem_seg_head.pixel_decoder")):
        raise ValueError(
            "MODEL.ACTIVATION_CHECKPOINTING.PIXEL_DECODER is set, but the model has no pixel decoder with a "
            "transformer encoder. Append: MODEL.ACTIVATION_CHECKPOINTING.PIXEL_DECODER False"
        )
    if cfg.MODEL.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
    if cfg.MODEL.TF32:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    if cfg.MODEL.DETERMINISTIC:
        # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def _part(model: nn.Module, name: str) -> nn.Module:
    """The submodule of that name, or an empty one."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        return nn.Module()
