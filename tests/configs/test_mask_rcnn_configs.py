"""Mask R-CNN configs hold the values of the paper (He et al., 2017, section 3.1) and build Detectron2's networks."""

from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model

from mask2former_ext.config import is_maskformer, load_config

FOLDER = Path(__file__).parents[2] / "configs" / "coco" / "instance-segmentation"
R50_FPN, R101_FPN, R50_C4, X101_FPN = NAMES = [
    "mask_rcnn_R50_FPN_bs16_160k.yaml",
    "mask_rcnn_R101_FPN_bs16_160k.yaml",
    "mask_rcnn_R50_C4_bs16_160k.yaml",
    "mask_rcnn_X101_FPN_bs8_160k.yaml",
]


def load(name):
    return load_config(str(FOLDER / name), ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])


def test_these_are_all_mask_rcnn_configs():
    assert sorted(path.name for path in FOLDER.glob("mask_rcnn*.yaml")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_published_recipe(name):
    cfg = load(name)
    assert not is_maskformer(cfg)
    assert cfg.INPUT.MIN_SIZE_TRAIN == (800,)
    assert cfg.INPUT.MIN_SIZE_TEST == 800
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.STEPS, solver.GAMMA) == (160000, (120000,), 0.1)
    assert (solver.WEIGHT_DECAY, solver.MOMENTUM) == (0.0001, 0.9)
    images, learning_rate = (8, 0.01) if name == X101_FPN else (16, 0.02)
    assert images == solver.IMS_PER_BATCH
    assert learning_rate == solver.BASE_LR
    assert cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION == 0.25
    assert cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS == [0.5]
    sampled_rois, proposals = (64, 300) if name == R50_C4 else (512, 1000)
    assert sampled_rois == cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    assert proposals == cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 100
    assert [size for level in cfg.MODEL.ANCHOR_GENERATOR.SIZES for size in level] == [32, 64, 128, 256, 512]
    assert cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS == [[0.5, 1.0, 2.0]]


def test_one_file_says_that_it_follows_the_paper_to_the_letter():
    assert "to the letter" in (FOLDER / R50_FPN).read_text()


def shapes(cfg):
    with torch.device("meta"):  # shapes need no memory and no random numbers
        model = build_model(cfg)
    assert type(model).__name__ == "GeneralizedRCNN"
    return {key: value.shape for key, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "model_zoo_name"),
    [(R50_FPN, "R_50_FPN"), (R101_FPN, "R_101_FPN"), (R50_C4, "R_50_C4"), (X101_FPN, "X_101_32x8d_FPN")],
)
def test_builds_the_network_of_the_model_zoo(name, model_zoo_name):
    zoo = model_zoo.get_config(f"COCO-InstanceSegmentation/mask_rcnn_{model_zoo_name}_3x.yaml")
    zoo.MODEL.DEVICE = "meta"
    expected = shapes(zoo)
    assert any("mask_head" in key for key in expected)
    assert shapes(load(name)) == expected
