"""Images, annotations and configs small enough to be checked by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image

from mask2former_ext.config import get_cfg_defaults

DATASET = "hand_made_for_mappers"
IMAGE_ID = 7


@pytest.fixture
def image() -> np.ndarray:
    """RGB image of 6×8 pixels, each of another colour."""
    return np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


@pytest.fixture
def png(tmp_path: Path) -> Callable[..., str]:
    """Writes an array as PNG, returns its path."""

    def write(name: str, array: np.ndarray) -> str:
        path = tmp_path / name
        Image.fromarray(array).save(path)
        return str(path)

    return write


@pytest.fixture
def record(image: np.ndarray, png: Callable[..., str]) -> dict[str, Any]:
    """A dataset dict without annotations."""
    return {"file_name": png("image.png", image), "image_id": IMAGE_ID, "height": 6, "width": 8}


@pytest.fixture
def mapper_cfg() -> Callable[..., CfgNode]:
    """Config of a mapper; without options the augmentations of a 6×8 image change nothing (but lsj pads to 8×8)."""
    MetadataCatalog.get(DATASET).set(ignore_label=255)

    def make(mapper: str, *options: Any) -> CfgNode:
        cfg = get_cfg_defaults()
        cfg.INPUT.DATASET_MAPPER_NAME = mapper
        cfg.INPUT.FORMAT = "RGB"
        cfg.INPUT.RANDOM_FLIP = "none"
        cfg.INPUT.MIN_SIZE_TRAIN = (6,)
        cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
        cfg.INPUT.IMAGE_SIZE = 8
        cfg.INPUT.MIN_SCALE = cfg.INPUT.MAX_SCALE = 1.0
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
        cfg.DATASETS.TRAIN = (DATASET,)
        cfg.merge_from_list(list(options))
        return cfg

    return make
