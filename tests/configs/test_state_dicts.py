"""Keys, shapes and parameter counts of the models equal the reference implementation's, so its checkpoints load.

``state_dicts.json.gz`` holds per config file {"parameters": count, "state_dict": {key: shape}}.
"""

import gzip
import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from mask2former_ext.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
EXPECTED = json.loads(gzip.decompress((Path(__file__).parent / "state_dicts.json.gz").read_bytes()))
# 19 classes and 100 queries serve both tasks with one and the same network.
SAME_NETWORK = {
    f"cityscapes/semantic-segmentation/maskformer2_{backbone}_bs16_90k.yaml": (
        f"cityscapes/panoptic-segmentation/maskformer2_{backbone}_bs16_90k.yaml"
    )
    for backbone in ("R50", "R101")
}


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() | SAME_NETWORK.keys()))
def test_state_dict(name):
    cfg = load_config(str(CONFIGS / name), ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])
    expected = EXPECTED[SAME_NETWORK.get(name, name)]
    with torch.device("meta"):  # shapes need no memory and no random numbers
        model = build_model(cfg)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == expected["state_dict"]
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["parameters"]
