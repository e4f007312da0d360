"""Fixtures for all tests: one thread, seeded, and a tiny Mask2Former."""

import logging

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from mask2former_ext.config import get_cfg_defaults

TINY_DATASET = "tiny_things_and_stuff"
TINY_MODEL = [
    *("MODEL.META_ARCHITECTURE", "MaskFormer", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""),
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.SEM_SEG_HEAD.NAME", "MaskFormerHead", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3),
    *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"),
    *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.MASK_DIM", 16),
    *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1),
    *("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "multi_scale_pixel_decoder"),
    *("MODEL.MASK_FORMER.HIDDEN_DIM", 32, "MODEL.MASK_FORMER.NHEADS", 4, "MODEL.MASK_FORMER.DIM_FEEDFORWARD", 64),
    *("MODEL.MASK_FORMER.DEC_LAYERS", 3, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 10),
    *("MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 64, "MODEL.MASK_FORMER.DROPOUT", 0.0),
    *("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", True, "MODEL.MASK_FORMER.TEST.INSTANCE_ON", True),
    *("DATASETS.TRAIN", (TINY_DATASET,)),
]


@pytest.fixture(autouse=True)
def _deterministic():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _no_handlers_left_behind():
    """Commands set up logging to the standard output, which in a test is closed with it."""
    loggers = [logging.getLogger(name) for name in ("mask2former_ext", "detectron2", "fvcore")]
    before = [list(logger.handlers) for logger in loggers]
    yield
    for logger, handlers in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()


@pytest.fixture
def tiny_cfg() -> CfgNode:
    """A small Mask2Former of three classes (0 and 1 are things, 2 is stuff), whole in its architecture."""
    MetadataCatalog.get(TINY_DATASET).set(thing_dataset_id_to_contiguous_id={11: 0, 12: 1})
    cfg = get_cfg_defaults()
    cfg.merge_from_list(TINY_MODEL)
    return cfg
