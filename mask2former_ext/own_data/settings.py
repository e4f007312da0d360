"""From the config of a published dataset to one for data of one's own: classes, task, image sizes, schedule.

Every function here returns config keys with their new values; what stands on the command line is not among them.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ..config import is_maskformer, load_config
from ..data import DATASET_MAPPERS
from .sources import Source

logger = logging.getLogger(__name__)

Settings = dict[str, Any]

DEFAULT_EPOCHS = 50
FEWEST_ITERATIONS = 2000
"""Unless the base has fewer: small data are gone through more often than DEFAULT_EPOCHS times."""
IMAGES_PER_PROCESS = 2
"""As the published recipes have it: 16 images on 8 GPUs."""
EVALUATIONS = 10
LARGEST_ENLARGEMENT = 2.0
"""Of the images in evaluation; where the base enlarges more, all of its sizes shrink."""
STRIDE = 32
"""Sizes of crops and padding are multiples of it, as the backbone's largest stride wants it."""

MASK_FORMER_TESTS = {"instance": "INSTANCE_ON", "panoptic": "PANOPTIC_ON", "semantic": "SEMANTIC_ON"}
LARGE_SCALE_JITTER = {"instance": "coco_instance_lsj", "panoptic": "coco_panoptic_lsj"}
RESIZE_CROP_FLIP = {task: f"mask_former_{task}" for task in MASK_FORMER_TESTS}


def own_config(
    base: str,
    overrides: Sequence[str],
    train: Source,
    *,
    weights: str | None,
    epochs: float | None,
    processes: int,
) -> CfgNode:
    """Adapt a config to data of one's own; the datasets themselves are not named in it yet.

    Args:
        base: path of the config file to start from.
        overrides: alternating config keys and values, which stand whatever would be set here.
        train: the training data.
        weights: what training starts from; None for the base's MODEL.WEIGHTS.
        epochs: how often to go through the training data; None for DEFAULT_EPOCHS, or more for small data.
        processes: how many train together.

    Raises:
        FileNotFoundError: the base, or the weights, are no file that there is.
        ValueError: the base does not suit the task, or the batch not the number of processes.
    """
    recipe = load_config(base)
    cfg = load_config(base, overrides)
    check_suits(cfg, train.task, base)
    fixed = set(overrides[0::2])
    settings = _task_settings(cfg, train)
    settings |= _size_settings(cfg, settings, train.shorter_side())
    settings |= _device_settings(cfg)
    settings |= _schedule_settings(cfg, recipe, fixed, len(set(train.image_files)), epochs, processes)
    settings = {key: value for key, value in settings.items() if key not in fixed}
    settings["MODEL.WEIGHTS"] = _weights(cfg.MODEL.WEIGHTS if "MODEL.WEIGHTS" in fixed or weights is None else weights)
    for key, value in settings.items():
        before = _get(cfg, key)
        if before != value:
            logger.info("%s: %s (base: %s)", key, value, before)
    cfg.merge_from_list([item for setting in settings.items() for item in setting])
    return cfg


def check_suits(cfg: CfgNode, task: str, base: str) -> None:
    """Raise ValueError unless a config's model can be trained for the task."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    if is_maskformer(cfg):
        return
    if architecture != "GeneralizedRCNN":
        raise ValueError(
            f"{base}: its model is {architecture}; own data are for MaskFormer and Mask R-CNN. Choose a --base from "
            "configs/."
        )
    if task != "instance" or not cfg.MODEL.MASK_ON:
        reason = f"does no {task} segmentation" if task != "instance" else "has no masks (MODEL.MASK_ON False)"
        raise ValueError(
            f"{base}: its model, GeneralizedRCNN, {reason}. Mask R-CNN configs are for --task instance alone, "
            "Mask2Former's (configs/**/maskformer2_*.yaml) for every task."
        )


def _task_settings(cfg: CfgNode, train: Source) -> Settings:
    """Classes, mapper, and which results to compute."""
    # what the base expects of results is about its own data
    settings: Settings = {"TEST.EXPECTED_RESULTS": [], "SOLVER.REFERENCE_WORLD_SIZE": 0}
    classes = len(train.categories)
    if not is_maskformer(cfg):
        codes = any(isinstance(entry.get("segmentation"), dict) for entry in train.content["annotations"])
        return settings | {"MODEL.ROI_HEADS.NUM_CLASSES": classes} | ({"INPUT.MASK_FORMAT": "bitmask"} if codes else {})
    for task, key in MASK_FORMER_TESTS.items():
        settings[f"MODEL.MASK_FORMER.TEST.{key}"] = task == train.task
    settings["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] = classes
    settings["MODEL.SEM_SEG_HEAD.IGNORE_VALUE"] = train.ignore_label
    jitter = cfg.INPUT.DATASET_MAPPER_NAME in LARGE_SCALE_JITTER.values()
    mappers = LARGE_SCALE_JITTER if jitter and train.task in LARGE_SCALE_JITTER else RESIZE_CROP_FLIP
    settings["INPUT.DATASET_MAPPER_NAME"] = mappers[train.task]
    assert mappers[train.task] in DATASET_MAPPERS
    return settings | (_crop_settings(cfg.INPUT.MIN_SIZE_TEST) if jitter and mappers is RESIZE_CROP_FLIP else {})


def _crop_settings(size: int) -> Settings:
    """Sizes for semantic segmentation where the base has large-scale jittering: 0.5 to 2 times a size, then a crop."""
    side = _to_stride(size)
    return {
        "INPUT.MIN_SIZE_TRAIN": tuple(round(side * tenths / 10) for tenths in range(5, 21)),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
        "INPUT.MAX_SIZE_TRAIN": 4 * side,
        "INPUT.MIN_SIZE_TEST": side,
        "INPUT.MAX_SIZE_TEST": 4 * side,
        "INPUT.CROP.ENABLED": True,
        "INPUT.CROP.TYPE": "absolute",
        "INPUT.CROP.SIZE": (side, side),
        "INPUT.SIZE_DIVISIBILITY": side,
        "INPUT.COLOR_AUG_SSD": True,
    }


def _size_settings(cfg: CfgNode, settings: Settings, shorter_side: int) -> Settings:
    """Shrink all sizes alike where evaluation would enlarge the images more than LARGEST_ENLARGEMENT times.

    Args:
        cfg: the base.
        settings: what is set already, which stands for the base's.
        shorter_side: of the images, in pixels.
    """

    def current(key: str) -> Any:
        return settings.get(key, _get(cfg, key))

    # 0 leaves images as they are
    factor = LARGEST_ENLARGEMENT * shorter_side / max(current("INPUT.MIN_SIZE_TEST"), 1)
    if factor >= 1:
        return {}
    shrunk: Settings = {}
    for key in ("INPUT.MIN_SIZE_TRAIN", "TEST.AUG.MIN_SIZES"):
        shrunk[key] = type(current(key))(max(round(size * factor), STRIDE) for size in current(key))
    for key in ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST", "TEST.AUG.MAX_SIZE"):
        shrunk[key] = max(round(current(key) * factor), STRIDE)
    shrunk["INPUT.IMAGE_SIZE"] = _to_stride(current("INPUT.IMAGE_SIZE") * factor)
    if current("INPUT.SIZE_DIVISIBILITY") > 0:
        shrunk["INPUT.SIZE_DIVISIBILITY"] = _to_stride(current("INPUT.SIZE_DIVISIBILITY") * factor)
    if current("INPUT.CROP.TYPE").startswith("absolute"):
        shrunk["INPUT.CROP.SIZE"] = tuple(_to_stride(size * factor) for size in current("INPUT.CROP.SIZE"))
    return shrunk


def _to_stride(size: float) -> int:
    return max(round(size / STRIDE), 1) * STRIDE


def _device_settings(cfg: CfgNode) -> Settings:
    if torch.cuda.is_available():
        return {}
    logger.warning("PyTorch finds no GPU: training on the CPU.")
    # norms that go over several GPUs do not run there
    return {"MODEL.DEVICE": "cpu"} | ({"MODEL.RESNETS.NORM": "BN"} if cfg.MODEL.RESNETS.NORM == "SyncBN" else {})


def _schedule_settings(
    cfg: CfgNode, recipe: CfgNode, fixed: set[str], images: int, epochs: float | None, processes: int
) -> Settings:
    """Batch, learning rate and how long to train.

    Args:
        cfg: the base with what stands on the command line.
        recipe: the base.
        fixed: keys that stand on the command line.
        images: size of the training data.
        epochs: see :func:`own_config`.
        processes: how many train together.
    """
    batch = cfg.SOLVER.IMS_PER_BATCH
    if "SOLVER.IMS_PER_BATCH" not in fixed:
        batch = max(min(batch, IMAGES_PER_PROCESS * processes) // processes, 1) * processes
    if batch < 1:
        raise ValueError(f"SOLVER.IMS_PER_BATCH is {batch}; it must be 1 or more.")
    if batch % processes:
        raise ValueError(f"SOLVER.IMS_PER_BATCH is {batch}, which {processes} processes cannot share evenly.")
    if epochs is not None and not 0 < epochs < math.inf:
        raise ValueError(f"--epochs is {epochs:g}; it must be above 0, and finite.")
    iterations = cfg.SOLVER.MAX_ITER
    if "SOLVER.MAX_ITER" not in fixed:
        iterations = math.ceil((epochs or DEFAULT_EPOCHS) * images / batch)
        if epochs is None:
            iterations = max(iterations, min(recipe.SOLVER.MAX_ITER, FEWEST_ITERATIONS))
    steps = {round(step / recipe.SOLVER.MAX_ITER * iterations) for step in recipe.SOLVER.STEPS}
    period = max(iterations // EVALUATIONS, 1)
    return {
        "SOLVER.IMS_PER_BATCH": batch,
        # the linear scaling rule ("Accurate, Large Minibatch SGD", Goyal et al., 2017)
        "SOLVER.BASE_LR": recipe.SOLVER.BASE_LR * batch / recipe.SOLVER.IMS_PER_BATCH,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": tuple(sorted(step for step in steps if 0 < step < iterations)),
        "SOLVER.WARMUP_ITERS": min(recipe.SOLVER.WARMUP_ITERS, iterations // 10),
        "SOLVER.CHECKPOINT_PERIOD": period,
        "TEST.EVAL_PERIOD": period,
    }


def _weights(weights: str) -> str:
    """What training starts from, absolute if it is a file; the log says what that is."""
    if not weights:
        logger.warning("Training starts from random weights: the base names none. --weights FILE gives others.")
        return ""
    if "://" in weights:
        logger.info("Training starts from %s: it is downloaded when training begins, unless it was before.", weights)
        return weights
    if not Path(weights).is_file():
        raise FileNotFoundError(
            f"{weights}: these weights, from which training should start, do not exist. Give others by --weights FILE; "
            "to start from random weights, append: MODEL.WEIGHTS ''"
        )
    logger.info("Training starts from %s.", weights)
    return os.path.abspath(weights)


def _get(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg
