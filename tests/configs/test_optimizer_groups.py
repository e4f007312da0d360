"""Learning rate and weight decay of every parameter, and the schedule, are those of the reference implementation.

``optimizer_groups.json.xz`` holds per config file {"groups": [{"lr", "weight_decay", "parameters": names}],
"schedule": {iteration: learning rate of parameters outside the backbone}}.
"""

import json
import lzma
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.projects.deeplab import build_lr_scheduler

from mask2former_ext.config import load_config
from mask2former_ext.solver import build_optimizer

CONFIGS = Path(__file__).parents[2] / "configs"
EXPECTED = json.loads(lzma.decompress((Path(__file__).parent / "optimizer_groups.json.xz").read_bytes()))


def test_a_resnet_and_a_swin_are_expected():
    assert [Path(name).stem.split("_")[1] for name in sorted(EXPECTED)] == ["swin", "R50"]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_groups_and_schedule(name):
    cfg = load_config(str(CONFIGS / name), ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])
    with torch.device("meta"):  # names need no memory and no random numbers
        model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    settings = {
        names[id(parameter)]: [group["lr"], group["weight_decay"]]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    expected = {
        parameter: pytest.approx([group["lr"], group["weight_decay"]])
        for group in EXPECTED[name]["groups"]
        for parameter in group["parameters"]
    }
    assert settings == expected

    in_head = next(k for k, group in enumerate(optimizer.param_groups) if group["lr"] == cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    optimizer.step()
    for iteration, learning_rate in EXPECTED[name]["schedule"].items():
        scheduler.last_epoch = int(iteration) - 1
        scheduler.step()
        assert scheduler.get_last_lr()[in_head] == pytest.approx(learning_rate, rel=1e-9), iteration
