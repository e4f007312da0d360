"""Keys, shapes and parameter counts of the models equal the reference implementation's, so its checkpoints load.

``state_dicts.json.xz`` holds per config file {"parameters": count, "state_dict": {key: shape}}, each network once.
"""

import json
import lzma
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from mask2former_ext.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
EXPECTED = json.loads(lzma.decompress((Path(__file__).parent / "state_dicts.json.xz").read_bytes()))

# Configs whose network is that of another: as many classes and queries, or the same backbone, pretrained otherwise.
SAME_NETWORK = {
    "ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml": (
        "ade20k/panoptic-segmentation/maskformer2_R50_bs16_160k.yaml"
    ),
    "ade20k/semantic-segmentation/swin/maskformer2_swin_base_IN21k_384_bs16_160k_res640.yaml": (
        "ade20k/semantic-segmentation/swin/maskformer2_swin_base_384_bs16_160k_res640.yaml"
    ),
    "mapillary-vistas/semantic-segmentation/maskformer2_R50_bs16_300k.yaml": (
        "mapillary-vistas/panoptic-segmentation/maskformer_R50_bs16_300k.yaml"
    ),
}
SAME_NETWORK |= {
    f"cityscapes/semantic-segmentation/{name}_bs16_90k.yaml": f"cityscapes/panoptic-segmentation/{name}_bs16_90k.yaml"
    for name in (
        *("maskformer2_R50", "maskformer2_R101", "swin/maskformer2_swin_tiny", "swin/maskformer2_swin_small"),
        "swin/maskformer2_swin_base_IN21k_384",
    )
}
SAME_NETWORK |= {
    f"coco/{task}-segmentation/swin/maskformer2_swin_base_IN21k_384_bs16_50ep.yaml": (
        f"coco/{task}-segmentation/swin/maskformer2_swin_base_384_bs16_50ep.yaml"
    )
    for task in ("instance", "panoptic")
}

# Millions of parameters of the published COCO panoptic models.
PUBLISHED = {
    "maskformer2_R50_bs16_50ep": 44,
    "maskformer2_R101_bs16_50ep": 63,
    "swin/maskformer2_swin_tiny_bs16_50ep": 47,
    "swin/maskformer2_swin_small_bs16_50ep": 69,
    "swin/maskformer2_swin_base_384_bs16_50ep": 107,
    "swin/maskformer2_swin_large_IN21k_384_bs16_100ep": 216,
}


def test_every_config_has_an_expected_network():
    leaves = {
        str(path.relative_to(CONFIGS))
        for path in CONFIGS.rglob("maskformer*.yaml")
        if path.relative_to(CONFIGS).parts[0] != "quickstart"
    }
    assert EXPECTED.keys() | SAME_NETWORK.keys() == leaves


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() | SAME_NETWORK.keys()))
def test_state_dict(name):
    cfg = load_config(str(CONFIGS / name), ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])
    expected = EXPECTED[SAME_NETWORK.get(name, name)]
    with torch.device("meta"):  # shapes need no memory and no random numbers
        model = build_model(cfg)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == expected["state_dict"]
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["parameters"]


@pytest.mark.parametrize(("name", "millions"), PUBLISHED.items())
def test_published_parameter_counts(name, millions):
    parameters = EXPECTED[f"coco/panoptic-segmentation/{name}.yaml"]["parameters"]
    assert round(parameters / 1e6) == millions
