"""What happens to images before the network: keys under INPUT and PIXEL_*, and transformers' image processor.

Detectron2 hands 0 to 255 in the order of INPUT.FORMAT to the model, which normalises; transformers' processor takes
RGB, scales it to 0 to 1 and normalises.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

FORMATS = ("RGB", "BGR")
SCALE = 1 / 255
# Means and deviations of published configs have three decimals; those of processors are rounded in other digits.
DECIMALS = 6


def is_bgr(cfg: CfgNode) -> bool:
    """Tell whether the network takes its channels in the order blue, green, red.

    Raises:
        ValueError: INPUT.FORMAT is neither of the two orders.
    """
    if cfg.INPUT.FORMAT not in FORMATS:
        raise ValueError(f"INPUT.FORMAT is '{cfg.INPUT.FORMAT}'; transformers' image processor only gives RGB.")
    return bool(cfg.INPUT.FORMAT == "BGR")


def to_processor(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of transformers' ``Mask2FormerImageProcessor`` for what ``cfg`` does to images in evaluation.

    Images are resized so that 32 divides their sides, where Detectron2 pads them: the processor knows no other way.

    Raises:
        ValueError: the config has another number of channels than three, or another order than RGB or BGR.
    """
    order = slice(None, None, -1) if is_bgr(cfg) else slice(None)
    if len(cfg.MODEL.PIXEL_MEAN) != len(FORMATS[0]):
        raise ValueError(f"MODEL.PIXEL_MEAN is {cfg.MODEL.PIXEL_MEAN}; transformers' image processor has 3 channels.")
    return {
        "do_resize": cfg.INPUT.MIN_SIZE_TEST > 0,
        "size": {"shortest_edge": cfg.INPUT.MIN_SIZE_TEST or 800, "longest_edge": cfg.INPUT.MAX_SIZE_TEST},
        "size_divisor": max(cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY, 0) or 32,
        "do_rescale": True,
        "rescale_factor": SCALE,
        "do_normalize": True,
        "image_mean": [value * SCALE for value in cfg.MODEL.PIXEL_MEAN][order],
        "image_std": [value * SCALE for value in cfg.MODEL.PIXEL_STD][order],
        "ignore_index": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        "do_reduce_labels": False,
        "num_labels": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
    }


def normalisation(processor: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and deviation of red, green, blue, in units of 0 to 255, of a processor as its JSON file holds it."""
    factor = processor.get("rescale_factor", SCALE) if processor.get("do_rescale", True) else 1.0
    if not processor.get("do_normalize", True):
        return [0.0] * 3, [1 / factor] * 3
    mean = processor.get("image_mean", [0.485, 0.456, 0.406])
    std = processor.get("image_std", [0.229, 0.224, 0.225])
    return [value / factor for value in mean], [value / factor for value in std]


def processor_keys(processor: Mapping[str, Any], bgr: bool) -> dict[str, Any]:
    """The keys of this package's config for a processor, which is given as its JSON file holds it.

    Args:
        processor: what it lacks is as ``Mask2FormerImageProcessor`` has it by default, for ImageNet.
        bgr: whether the network takes BGR.
    """
    mean, std = normalisation(processor)
    order = slice(None, None, -1) if bgr else slice(None)
    keys: dict[str, Any] = {
        "MODEL.PIXEL_MEAN": [round(value, DECIMALS) for value in mean][order],
        "MODEL.PIXEL_STD": [round(value, DECIMALS) for value in std][order],
    }
    size = processor.get("size")
    if isinstance(size, int):  # as older versions wrote it
        size = {"shortest_edge": size, "longest_edge": processor.get("max_size")}
    if not processor.get("do_resize", True):
        keys["INPUT.MIN_SIZE_TEST"] = 0
    elif isinstance(size, Mapping) and size.get("shortest_edge") and size.get("longest_edge"):
        keys |= {"INPUT.MIN_SIZE_TEST": size["shortest_edge"], "INPUT.MAX_SIZE_TEST": size["longest_edge"]}
    else:
        logger.warning(
            "The image processor resizes to %s, which keeps no proportions; Detectron2 resizes by INPUT.MIN_SIZE_TEST "
            "and MAX_SIZE_TEST, which stay as they are in the config.",
            size,
        )
    return keys
