"""Learning rates that fall with depth in the backbone."""

from __future__ import annotations

import pytest
from detectron2.modeling import build_backbone
from timm.models import group_parameters
from torch import nn

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.solver import parameter_groups
from mask2former_ext.solver.groups import layer_factors


def exponents(overrides, prefix="backbone"):
    """Name → how often the factor 1/2 is taken, for the backbone that ``overrides`` describe."""
    cfg = get_cfg_defaults()
    cfg.merge_from_list(["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"], *overrides])
    model = nn.ModuleDict({prefix: build_backbone(cfg)})
    factors = layer_factors([name for name, _ in model.named_parameters()], 0.5)
    assert factors.keys() == {name for name, _ in model.named_parameters()}
    powers = {0.5**power: power for power in range(30)}
    return {name.removeprefix(f"{prefix}."): powers[factor] for name, factor in factors.items()}


def test_swin():
    depths = ["MODEL.SWIN.DEPTHS", [1, 2, 1, 1], "MODEL.SWIN.EMBED_DIM", 24, "MODEL.SWIN.NUM_HEADS", [1, 1, 1, 1]]
    found = exponents(["MODEL.BACKBONE.NAME", "D2SwinTransformer", *depths, "MODEL.SWIN.APE", True])
    expected = {
        "absolute_pos_embed": 6,
        "patch_embed.proj.weight": 6,
        "patch_embed.norm.bias": 6,
        "layers.0.blocks.0.attn.relative_position_bias_table": 5,
        "layers.0.downsample.reduction.weight": 5,
        "norm0.weight": 5,
        "layers.1.blocks.0.mlp.fc1.weight": 4,
        "layers.1.blocks.1.norm1.weight": 3,
        "layers.1.downsample.norm.weight": 3,
        "norm1.bias": 3,
        "layers.2.blocks.0.attn.qkv.bias": 2,
        "norm2.weight": 2,
        "layers.3.blocks.0.norm2.weight": 1,
        "norm3.weight": 1,
    }
    assert {name: found[name] for name in expected} == expected


def test_vision_transformers_have_the_depths_that_timm_gives_them():
    overrides = ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "vit_tiny_patch16_224"]
    cfg = get_cfg_defaults()
    cfg.merge_from_list(overrides)
    vit = build_backbone(cfg).body.model
    depths = group_parameters(vit, vit.group_matcher(), reverse=True)
    found = exponents(overrides)
    assert {name: found[f"body.model.{name}"] for name in depths} == {
        name: 13 - min(depth, 12) for name, depth in depths.items()
    }
    assert {power for name, power in found.items() if name.startswith("pyramid.")} == {0}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.BACKBONE.FREEZE_AT", 0],
            {"stem.conv1.weight": 9, "res2.0.conv1.weight": 8, "res2.1.conv2.weight": 7, "res5.1.conv2.weight": 1},
        ),
        (
            ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "resnet18"],
            {"body.conv1.weight": 9, "body.layer1.0.bn1.weight": 8, "body.layer4.1.conv2.weight": 1},
        ),
        (
            ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "convnext_atto"],
            {
                "body.stem_0.weight": 13,
                "body.stages_0.blocks.0.conv_dw.weight": 12,
                "body.stages_1.downsample.0.weight": 11,
                "body.stages_1.blocks.0.conv_dw.weight": 10,
                "body.stages_3.blocks.1.conv_dw.weight": 1,
            },
        ),
    ],
)
def test_other_backbones(overrides, expected):
    found = exponents(overrides)
    assert {name: found[name] for name in expected} == expected


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Linear(1, 1, bias=False)
        self.blocks = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(2))


def test_rates_of_groups():
    model = nn.ModuleDict({"backbone": Backbone(), "head": nn.Linear(1, 1, bias=False)})
    cfg = get_cfg_defaults()
    cfg.SOLVER.update(BASE_LR=1.0, BACKBONE_MULTIPLIER=0.5, LAYER_DECAY=0.8)
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {names[p]: group["lr"] for group in parameter_groups(cfg, model) for p in group["params"]}
    assert rates == {
        "backbone.patch_embed.weight": pytest.approx(0.5 * 0.8**3),
        "backbone.blocks.0.weight": pytest.approx(0.5 * 0.8**2),
        "backbone.blocks.1.weight": pytest.approx(0.5 * 0.8),
        "head.weight": 1.0,
    }


@pytest.mark.parametrize("decay", [0.0, 1.1])
def test_refuses_decays_out_of_range(decay):
    with pytest.raises(ValueError, match=r"SOLVER\.LAYER_DECAY"):
        layer_factors(["backbone.blocks.0.weight"], decay)


def test_refuses_backbones_without_known_blocks():
    assert layer_factors(["backbone.trunk.weight"], 1.0) == {}
    with pytest.raises(ValueError, match=r"no blocks that are known.*backbone\.trunk\.weight"):
        layer_factors(["backbone.trunk.weight"], 0.9)
