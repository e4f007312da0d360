"""A plain Detectron2 script works after ``import mask2former_ext``: random weights, a small image, the CPU."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.projects.deeplab import add_deeplab_config

import mask2former_ext

CONFIGS = Path(__file__).parents[2] / "configs" / "coco"


def plain_cfg(name, *overrides):
    cfg = get_cfg()
    add_deeplab_config(cfg)
    mask2former_ext.add_maskformer2_config(cfg)
    cfg.merge_from_file(str(CONFIGS / name))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *overrides])
    return cfg


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (70, 101, 3), dtype=np.uint8)


def test_mask2former(photo, tmp_path):
    cfg = plain_cfg("panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml", "INPUT.MIN_SIZE_TEST", 64)
    DetectionCheckpointer(build_model(cfg), save_dir=str(tmp_path)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    outputs = DefaultPredictor(cfg)(photo)
    assert outputs["sem_seg"].shape == (133, 70, 101)
    segments, segments_info = outputs["panoptic_seg"]
    assert segments.shape == (70, 101)
    assert {int(i) for i in segments.unique() if i} == {info["id"] for info in segments_info}
    assert outputs["instances"].pred_masks.shape[1:] == (70, 101)
    assert len(outputs["instances"]) <= cfg.TEST.DETECTIONS_PER_IMAGE


def test_mask_rcnn(photo):
    cfg = plain_cfg("instance-segmentation/mask_rcnn_R50_FPN_bs16_160k.yaml", "INPUT.MIN_SIZE_TEST", 64)
    instances = DefaultPredictor(cfg)(photo)["instances"]
    assert instances.image_size == (70, 101)
    assert instances.has("pred_masks")
