"""Models to analyse, from YAML configs and from LazyConfigs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.modeling import build_model
from torch import nn

from ..checkpoint import Checkpointer
from ..config import load_config
from ..engine.checks import check_device
from ..modeling import MaskFormer


def input_size(cfg: CfgNode) -> tuple[int, int]:
    """Height and width that a model is analysed at when nobody says otherwise: a square of INPUT.MIN_SIZE_TEST."""
    return cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST


def load_model(config_file: str, opts: Sequence[str] = (), weights: str = "") -> tuple[nn.Module, tuple[int, int]]:
    """Build the model of a config on the CPU.

    Args:
        config_file: a YAML config, or a LazyConfig (.py) with ``model`` and ``dataloader``.
        opts: overrides, KEY VALUE for YAML and KEY=VALUE for LazyConfigs.
        weights: a checkpoint to load. Without it weights are random, and the mask heads of Mask R-CNN get as many boxes
            as the model may return, not the none that random scores would let through.

    Returns:
        The model and its :func:`input_size`.

    Raises:
        OSError, ValueError: the config or the weights cannot be read, or do not fit each other.
    """
    if config_file.endswith(".py"):
        model, size = _load_lazy(config_file, opts)
    else:
        cfg = load_config(config_file, ["MODEL.DEVICE", "cpu", *opts])
        check_device(cfg)
        if not weights:
            cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
        model, size = _build(cfg, config_file), input_size(cfg)
    if weights:
        _load_weights(model, weights)
    return model, size


def _build(cfg: CfgNode, config_file: str) -> nn.Module:
    try:
        return build_model(cfg)
    except KeyError as error:  # of Detectron2's registries
        raise ValueError(f"config file '{config_file}', with its overrides: {error.args[0]}") from error


def _load_weights(model: nn.Module, weights: str) -> None:
    if isinstance(model, MaskFormer):
        Checkpointer(model).load(weights)
        return
    if "://" not in weights and not os.path.isfile(weights):
        raise FileNotFoundError(f"file '{weights}' of weights does not exist (looked in '{os.getcwd()}').")
    try:
        DetectionCheckpointer(model).load(weights)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"file '{weights}' holds no weights, or is damaged: get or write it again.") from error


def _load_lazy(config_file: str, opts: Sequence[str]) -> tuple[nn.Module, tuple[int, int]]:
    if not os.path.isfile(config_file):
        raise FileNotFoundError(f"config file '{config_file}' does not exist (looked in '{os.getcwd()}').")
    try:
        cfg = LazyConfig.apply_overrides(LazyConfig.load(config_file), list(opts))
        side = cfg.dataloader.test.mapper.augmentations[0].short_edge_length
        return instantiate(cfg.model), (side, side)
    except Exception as error:  # Python, OmegaConf and Hydra raise many kinds here; all of them mean a bad file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"LazyConfig '{config_file}' with overrides {list(opts)}: {reason}. It needs model and dataloader, and "
            "overrides are KEY=VALUE, for example: model.num_queries=50"
        ) from error
