"""Published sizes: every key and shape of both libraries has its place in the other, without any memory for weights."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from transformers import Mask2FormerForUniversalSegmentation, SwinConfig

from mask2former_ext.checkpoint.hf import from_hf, to_hf
from mask2former_ext.checkpoint.hf.config import architecture_keys
from mask2former_ext.checkpoint.hf.files import fitting_configs
from mask2former_ext.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
PANOPTIC = CONFIGS / "coco/panoptic-segmentation"
# tensors here and there; transformers' Swin has a norm that nothing reads, its batch norms count batches
SIZES = {
    "swin/maskformer2_swin_tiny_bs16_50ep.yaml": (482, 556),
    "swin/maskformer2_swin_base_384_bs16_50ep.yaml": (650, 760),
    "maskformer2_R50_bs16_50ep.yaml": (558, 647),
}


def shapes(weights):
    return {key: tuple(value.shape) for key, value in weights.items()}


@pytest.mark.parametrize("name", SIZES)
def test_every_key_and_shape(name):
    cfg = load_config(str(PANOPTIC / name), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        weights = build_model(cfg).state_dict()
    config, converted = to_hf(cfg, weights)
    with torch.device("meta"):
        expected = Mask2FormerForUniversalSegmentation(config).state_dict()
    assert shapes(converted) == shapes(expected)
    assert (len(weights), len(converted)) == SIZES[name]
    back_cfg, back = from_hf(config, converted)
    assert shapes(back) == shapes(weights) and list(back) == list(weights)
    assert back_cfg.MODEL.MASK_FORMER == cfg.MODEL.MASK_FORMER
    assert config.id2label[0] == "person" and config.num_labels == 133
    assert config.backbone_config.model_type == ("swin" if "swin" in name else "resnet")


def test_sizes_of_swin_base():
    config, _ = to_hf(*_sketch("swin/maskformer2_swin_base_384_bs16_50ep.yaml"))
    expected = SwinConfig(
        image_size=384, embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=12,
        drop_path_rate=0.3, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    assert config.backbone_config.to_dict() == expected.to_dict()
    assert (config.class_weight, config.mask_weight, config.dice_weight, config.no_object_weight) == (
        2.0,
        5.0,
        5.0,
        0.1,
    )


def test_configs_of_a_model_are_found():
    config, _ = to_hf(*_sketch("maskformer2_R50_bs16_50ep.yaml"))
    assert fitting_configs(architecture_keys(config), CONFIGS / "coco") == [PANOPTIC / "maskformer2_R50_bs16_50ep.yaml"]


def _sketch(name):
    cfg = load_config(str(PANOPTIC / name), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        return cfg, build_model(cfg).state_dict()
