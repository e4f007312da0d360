"""Learning rate and weight decay of every parameter, clipping, schedules."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.projects.deeplab import build_lr_scheduler
from torch import nn

from mask2former_ext.config import get_cfg_defaults, load_config
from mask2former_ext.solver import build_optimizer, parameter_groups, with_full_model_clipping

CONFIGS = Path(__file__).parents[2] / "configs"

# What the reference implementation gives each of the 345 parameters of its COCO panoptic R50 model: those of the
# backbone a tenth of the learning rate, and to these names no weight decay.
WITHOUT_DECAY = re.compile(
    r"(norm\d?|input_proj\.\d\.1)\.(weight|bias)$|predictor\.(query_feat|query_embed|level_embed)\.weight$"
)
COUNTS = {(1e-5, 0.05): 53, (1e-4, 0.05): 199, (1e-4, 0.0): 93}


@pytest.fixture
def cfg():
    cfg = get_cfg_defaults()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.WEIGHT_DECAY = 0.05
    return cfg


def settings_by_name(optimizer, model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_every_parameter_of_the_coco_r50_model():
    path = CONFIGS / "coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml"
    cfg = load_config(str(path), ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    expected = {
        name: (1e-5 if name.startswith("backbone.") else 1e-4, 0.0 if WITHOUT_DECAY.search(name) else 0.05)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    actual = settings_by_name(optimizer, model)
    assert actual == {name: pytest.approx(values) for name, values in expected.items()}
    values = list(expected.values())
    assert {value: values.count(value) for value in values} == COUNTS
    assert type(optimizer).__name__ == "FullModelGradientClippingOptimizer"
    assert isinstance(optimizer, torch.optim.AdamW)
    # one multi-tensor update for each pair of values
    assert len(optimizer.param_groups) == len(COUNTS)


class Block(nn.Module):
    """A module that holds a position table beside layers, as Swin's attention does."""

    def __init__(self):
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros(3))
        self.qkv = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)


class Swin(nn.Module):
    def __init__(self):
        super().__init__()
        self.absolute_pos_embed = nn.Parameter(torch.zeros(3))
        self.block = Block()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Swin()
        self.head = nn.Conv2d(2, 2, 1)
        self.norm = nn.GroupNorm(1, 2)
        self.queries = nn.Embedding(2, 2)
        self.level_embed = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = nn.Embedding(2, 2)
        self.tied.weight = self.backbone.block.qkv.weight  # the rule of where it comes first holds


def test_rule_of_each_kind_of_parameter(cfg):
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.01
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.02
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.5
    model = Model()
    assert settings_by_name(build_optimizer(cfg, model), model) == {
        "backbone.absolute_pos_embed": (5e-5, 0.0),
        "backbone.block.relative_position_bias_table": (5e-5, 0.0),
        "backbone.block.qkv.weight": (5e-5, 0.05),
        "backbone.block.qkv.bias": (5e-5, 0.05),
        "backbone.block.norm.weight": (5e-5, 0.01),
        "backbone.block.norm.bias": (5e-5, 0.01),
        "head.weight": (1e-4, 0.05),
        "head.bias": (1e-4, 0.05),
        "norm.weight": (1e-4, 0.01),
        "norm.bias": (1e-4, 0.01),
        "queries.weight": (1e-4, 0.02),
        "level_embed": (1e-4, 0.05),
    }


def test_each_parameter_is_in_one_group(cfg):
    parameters = [parameter for group in parameter_groups(cfg, Model()) for parameter in group["params"]]
    assert len(parameters) == len({id(parameter) for parameter in parameters})


def test_sgd(cfg):
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.MOMENTUM = 0.8
    cfg.SOLVER.NESTEROV = True
    optimizer = build_optimizer(cfg, Model())
    assert type(optimizer) is torch.optim.SGD
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.8, True)


def test_other_architectures_get_detectron2s_optimizer(cfg):
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    model = Model()
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is torch.optim.SGD
    assert {rate for rate, _ in settings_by_name(optimizer, model).values()} == {1e-4}


def test_unknown_optimizer_is_refused(cfg):
    cfg.SOLVER.OPTIMIZER = "LION"
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER is 'LION'; known are ADAMW, SGD, LAMB"):
        build_optimizer(cfg, Model())


def test_unknown_clip_type_is_refused(cfg):
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "all"
    with pytest.raises(ValueError, match=r"CLIP_TYPE is 'all'; known are full_model, value, norm"):
        build_optimizer(cfg, Model())


def test_unknown_implementation_is_refused(cfg):
    cfg.SOLVER.OPTIMIZER_IMPLEMENTATION = "fastest"
    with pytest.raises(ValueError, match="OPTIMIZER_IMPLEMENTATION is 'fastest'; known are auto, for-loop, foreach, f"):
        build_optimizer(cfg, Model())


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
def test_implementations_update_alike(cfg, name):
    cfg.SOLVER.update(OPTIMIZER=name, BASE_LR=0.1)
    cfg.SOLVER.CLIP_GRADIENTS.update(ENABLED=True, CLIP_TYPE="full_model", CLIP_VALUE=0.5)
    results = {}
    for implementation in ("auto", "for-loop", "foreach", "fused"):
        cfg.SOLVER.OPTIMIZER_IMPLEMENTATION = implementation
        torch.manual_seed(0)
        model = Model()
        optimizer = build_optimizer(cfg, model)
        for group in optimizer.param_groups:
            assert bool(group["foreach"]) == (implementation == "foreach")
            assert bool(group["fused"]) == (implementation == "fused")
        for _ in range(3):
            optimizer.zero_grad()
            (model.head.weight.square().sum() + (model.backbone.block.qkv.weight - 1).square().sum()).backward()
            optimizer.step()
        results[implementation] = model.state_dict()
    for result in results.values():
        torch.testing.assert_close(result, results["auto"])


def test_lamb_scales_each_update_by_the_norm_of_the_weights(cfg):
    cfg.SOLVER.update(OPTIMIZER="LAMB", BASE_LR=0.1, WEIGHT_DECAY=0.5)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    model = nn.ParameterList([nn.Parameter(torch.tensor([3.0, 4.0]))])
    optimizer = build_optimizer(cfg, model)
    model[0].grad = torch.tensor([20.0, 20.0])
    optimizer.step()
    # Adam's first update is (1, 1), whatever the gradient; the decay adds half the weights: (2.5, 3), whose norm
    # becomes that of the weights, 5
    update = torch.tensor([2.5, 3.0])
    expected = torch.tensor([3.0, 4.0]) - 0.1 * update * 5 / update.norm()
    torch.testing.assert_close(model[0].data, expected)


def test_lamb_clips_by_the_config_alone(cfg):
    cfg.SOLVER.OPTIMIZER = "LAMB"
    cfg.SOLVER.CLIP_GRADIENTS.update(ENABLED=True, CLIP_TYPE="full_model", CLIP_VALUE=0.5)
    model = nn.ParameterList([nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))])
    optimizer = build_optimizer(cfg, model)
    model[0].grad, model[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    torch.testing.assert_close(torch.cat([p.grad for p in model]), torch.tensor([0.3, 0.4]))
    assert optimizer.defaults["max_grad_norm"] is None


def test_lamb_leaves_the_settings_of_torch_alone():
    """In a process that has not imported timm.optim: it lets torch.compile compile anew a million times."""
    program = """
import torch._dynamo, torch.backends.opt_einsum
settings = lambda: (torch._dynamo.config.cache_size_limit, torch.backends.opt_einsum.strategy)
before = settings()
from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.solver import build_optimizer
cfg = get_cfg_defaults()
cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
cfg.SOLVER.OPTIMIZER = "LAMB"
build_optimizer(cfg, torch.nn.Linear(2, 2))
import sys
assert "timm.optim" in sys.modules
assert settings() == before, (settings(), before)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_lamb_has_one_implementation(cfg):
    cfg.SOLVER.update(OPTIMIZER="LAMB", OPTIMIZER_IMPLEMENTATION="fused")
    with pytest.raises(ValueError, match="LAMB has one implementation only"):
        build_optimizer(cfg, Model())


@pytest.mark.parametrize(
    ("clip_type", "expected"),
    [
        # gradients (3) and (4, 0): their common norm is 5, so everything is divided by 5 / 0.5
        ("full_model", ([0.3], [0.4, 0.0])),
        # each to a norm of at most 0.5
        ("norm", ([0.5], [0.5, 0.0])),
        ("value", ([0.5], [0.5, 0.0])),
    ],
)
def test_clip_types(cfg, clip_type, expected):
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.MOMENTUM = 0.0
    cfg.SOLVER.BASE_LR = 1.0
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    cfg.SOLVER.CLIP_GRADIENTS.update(ENABLED=True, CLIP_TYPE=clip_type, CLIP_VALUE=0.5)
    model = nn.ParameterList([nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(1))])
    model[2].requires_grad_(False)
    optimizer = build_optimizer(cfg, model)
    model[0].grad, model[1].grad = torch.tensor([3.0]), torch.tensor([4.0, 0.0])
    optimizer.step()
    for parameter, step in zip(model, expected, strict=False):
        torch.testing.assert_close(-parameter.data, torch.tensor(step))


def test_small_gradients_are_not_scaled_up():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = with_full_model_clipping(torch.optim.SGD, 10.0, 2.0)([parameter], lr=1.0)
    parameter.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    torch.testing.assert_close(-parameter.data, torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_sees_unscaled_gradients_in_mixed_precision(fused):
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = with_full_model_clipping(torch.optim.SGD, 2.5, 2.0)([parameter], lr=1.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((parameter * torch.tensor([3.0, 4.0])).sum()).backward()
    torch.testing.assert_close(parameter.grad, torch.tensor([3072.0, 4096.0]))
    scaler.step(optimizer)
    torch.testing.assert_close(-parameter.data, torch.tensor([1.5, 2.0]))


def test_mixed_precision_skips_a_step_with_infinite_gradients():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = with_full_model_clipping(torch.optim.SGD, 2.5, 2.0)([parameter], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((parameter * torch.inf).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert parameter.item() == 0
    assert scaler.get_scale() == 512


def test_state_survives_saving(cfg):
    cfg.SOLVER.CLIP_GRADIENTS.update(ENABLED=True, CLIP_TYPE="full_model", CLIP_VALUE=0.01)
    model = Model()
    optimizer = build_optimizer(cfg, model)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    optimizer.step()
    other = build_optimizer(cfg, model)
    other.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(other.state[model.head.weight], optimizer.state[model.head.weight])


# Learning rates of the reference implementation, at iterations of its configs (for the second, of ADE20K semantic).
MULTI_STEP = {0: 1e-4, 9: 1e-4, 11: 1e-4, 184375: 1e-4, 327777: 1e-4, 327779: 1e-5, 368749: 1e-6}
POLY = {0: 1e-4, 1: 9.999943749982423e-05, 1000: 9.943732381459104e-05, 80000: 5.358867312681466e-05}
POLY |= {159999: 2.0715337608331462e-09}
COSINE = {0: 1e-4, 500: 0.5e-4, 750: 0.5e-4 * (1 - 2**-0.5)}


@pytest.mark.parametrize(
    ("name", "max_iter", "steps", "expected"),
    [
        ("WarmupMultiStepLR", 368750, (327778, 355092), MULTI_STEP),
        ("WarmupPolyLR", 160000, (), POLY),
        ("WarmupCosineLR", 1000, (), COSINE),
    ],
)
def test_schedules(cfg, name, max_iter, steps, expected):
    cfg.SOLVER.update(LR_SCHEDULER_NAME=name, MAX_ITER=max_iter, STEPS=steps, WARMUP_FACTOR=1.0, WARMUP_ITERS=10)
    model = Model()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    optimizer.step()
    for iteration, rate in expected.items():
        scheduler.last_epoch = iteration - 1
        scheduler.step()
        rates = settings_by_name(optimizer, model)
        assert rates["head.weight"][0] == pytest.approx(rate, rel=1e-6)
        assert rates["backbone.block.qkv.weight"][0] == pytest.approx(rate / 10, rel=1e-6)
