"""Steps that are not finite: where they are traced to, what is kept of them, and what is left out."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from mask2former_ext.config import load_config
from mask2former_ext.engine.faults import (
    NonFiniteError,
    first_non_finite_tensor,
    gradient_fault,
    kept_buffers,
    loss_fault,
)
from mask2former_ext.engine.replay import SavedStep, replay
from mask2former_ext.engine.step import StepTrainer
from mask2former_ext.modeling.matcher import NonFiniteCostError
from mask2former_ext.structures import PackedBitMasks

ROOT = Path(__file__).parents[2]
SIDE = 64


class Product(nn.Module):
    """Its loss is the sum of weight · x; the statistics of the batch are kept in a buffer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1, bias=False)
        self.norm = nn.BatchNorm1d(1, affine=False, momentum=0.5)
        nn.init.constant_(self.scale.weight, 2.0)

    def forward(self, batch):
        x = torch.tensor([[record["image"].sum().item()] for record in batch])
        self.norm(torch.cat([x, x]))
        return {"loss_a": self.scale(x).sum(), "loss_b": self.scale.weight.sum() * 0}


def record(value, name="1.jpg"):
    return {"image": torch.tensor([float(value)]), "file_name": name}


def trainer_of(model, batches, **options):
    trainer = StepTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.5), seed=1, **options)
    return trainer


def run(trainer, steps):
    with EventStorage() as storage:
        for trainer.iter in range(steps):
            trainer.run_step()
    return storage


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, None), (math.inf, "loss_b inf"), (-math.inf, "loss_b -inf"), (math.nan, "loss_b nan"), (3e38, None)],
)
def test_losses_that_are_not_finite_are_named(value, expected):
    found = loss_fault({"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(value)})
    assert found == (expected and f"losses that are not finite: {expected}")


def test_gradients_that_are_not_finite_are_named():
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(6)))
    assert gradient_fault(model) is None  # there are no gradients
    for layer in model:
        layer.weight.grad = torch.ones(1, 1)
    assert gradient_fault(model) is None
    model[2].weight.grad[:] = math.nan
    assert gradient_fault(model).endswith("losses are: 2.weight")
    for layer in model[1:]:
        layer.weight.grad[:] = math.inf
    assert gradient_fault(model).endswith("1.weight, 2.weight, 3.weight and 2 more")


def test_training_ends_with_what_is_known():
    model = Product()
    trainer = trainer_of(model, [[record(1)], [record(2, "2.jpg"), record(math.inf, "3.jpg")]])
    with pytest.raises(NonFiniteError) as error:
        run(trainer, 2)
    message = str(error.value)
    assert message.startswith("iteration 1: losses that are not finite: loss_a inf. First not finite: ")
    assert "the pixels of image 3.jpg" in message
    assert "Learning rates: 0.5. Images of this process: 2.jpg, 3.jpg." in message
    assert "SOLVER.MAX_NON_FINITE_STEPS (now 0)" in message
    assert model.scale.weight.item() == 1.5  # of the first step; the second has not touched it


def test_steps_are_left_out_up_to_a_limit(caplog):
    model = Product()
    bad = [record(math.nan)]
    trainer = trainer_of(model, [[record(1)], bad, [record(1)], bad, bad], max_non_finite_steps=2)
    with EventStorage() as storage:
        for trainer.iter in range(4):
            trainer.run_step()
        assert model.scale.weight.item() == 1.0
        # momentum 0.5 from 0 by two steps of mean 1; those that were left out have no part in it
        assert model.norm.running_mean.item() == 0.75 and model.norm.num_batches_tracked == 2
        assert storage.latest()["non_finite_steps"][0] == 2
        trainer.iter = 4
        with pytest.raises(NonFiniteError, match="iteration 4: "):
            trainer.run_step()
    messages = [entry.message for entry in caplog.records if entry.levelname == "ERROR"]
    assert [message.split(" left")[0] for message in messages] == ["Step 1 of at most 2", "Step 2 of at most 2"]


def test_a_full_disk_does_not_hide_what_went_wrong():
    def save(batch, report):
        raise OSError("no space left")

    trainer = trainer_of(Product(), [[record(math.nan)]], save_step=save)
    with EventStorage(), pytest.raises(NonFiniteError, match=r"iteration 0: .* could not be kept: no space left\."):
        trainer.run_step()


def test_the_origin_is_the_first_module_with_such_an_output():
    class Model(nn.Sequential):
        def forward(self, batch):
            return {"loss": super().forward(torch.stack([record["image"] for record in batch])).sum()}

    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    model = Model(nn.Identity(), Root(), nn.Identity())
    assert first_non_finite_tensor(model, [record(-1)]) == "the output of 1 (Root)"
    assert first_non_finite_tensor(model, [record(1)]) == "the backward pass: all outputs are finite"
    model = Product()
    model.scale.weight.data[:] = math.nan
    assert first_non_finite_tensor(model, [record(1)]).startswith("the parameter scale.weight, which an earlier step")
    model = Product()
    model.norm.running_var[:] = math.inf
    assert first_non_finite_tensor(model, [record(1)]).startswith("the buffer norm.running_var, which an earlier step")


def test_float16_overflow_is_told_apart(caplog):
    class Large(Product):
        def forward(self, batch):
            super().forward(batch)
            return {"loss_a": (self.scale.weight * 100).half().float().sum()}

    caplog.set_level(logging.INFO, "mask2former_ext")
    trainer = trainer_of(Large(), [[record(1)]], precision=torch.float16)
    run(trainer, 1)
    assert [entry.levelname for entry in caplog.records if "overflowed" in entry.message] == ["INFO"]
    assert trainer.non_finite_steps == 0 and trainer.model.scale.weight.item() == 2.0
    trainer = trainer_of(Product(), [[record(math.inf)]], precision=torch.float16)
    with pytest.raises(NonFiniteError, match="loss_a inf"):
        run(trainer, 1)


def test_gradients_that_overflow_at_any_scale_end_training():
    class Broken(Product):
        def forward(self, batch):
            return {"loss_a": (self.scale.weight * 0).sqrt().sum()}  # its derivative is infinite

    trainer = trainer_of(Broken(), [[record(1)]] * 20, precision=torch.float16)
    with pytest.raises(NonFiniteError, match=r"overflow even with losses scaled by 0\.5"):
        run(trainer, 20)
    with pytest.raises(NonFiniteError, match=r"though all losses are: scale\.weight"):
        run(trainer_of(Broken(), [[record(1)]]), 1)


def test_a_fault_of_another_process_counts_here(monkeypatch):
    monkeypatch.setattr("mask2former_ext.engine.faults.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("mask2former_ext.engine.faults.comm.all_gather", lambda fault: [fault, "matching cost"])
    trainer = trainer_of(Product(), [[record(1)]])
    with pytest.raises(NonFiniteError, match=r"matching cost \(in process 1\)"):
        run(trainer, 1)


def test_buffers_come_back_after_an_error():
    model = Product()
    with pytest.raises(KeyError), kept_buffers(model):
        model([record(1)])
        raise KeyError
    assert model.norm.running_mean.item() == 0 and model.norm.num_batches_tracked == 0


@pytest.fixture
def model(tiny_cfg):
    return build_model(tiny_cfg).train()


@pytest.fixture
def batch():
    instances = Instances((SIDE, SIDE))
    instances.gt_classes = torch.tensor([0, 2])
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, :20] = masks[1, 30:, 10:] = True
    instances.gt_masks = PackedBitMasks.from_masks(masks)
    return [{"image": torch.randint(0, 256, (3, SIDE, SIDE)), "instances": instances, "file_name": "münze 1.jpg"}]


def ruin(model):
    model.sem_seg_head.predictor.mask_embed.layers[0].weight.data *= 1e30
    model.sem_seg_head.predictor.mask_embed.layers[1].weight.data *= 1e30


def test_a_cost_that_is_not_finite_spoils_the_losses_of_a_lenient_matcher(model, batch):
    ruin(model)
    with pytest.raises(NonFiniteCostError, match=r"decoder prediction last, image münze 1\.jpg"):
        model(batch)
    model.criterion.matcher.strict = False
    assert all(loss.isnan() for loss in model(batch).values())


@pytest.mark.parametrize("by", ["function", "command"])
def test_a_step_is_kept_and_can_be_repeated(tiny_cfg, model, batch, tmp_path, by):
    path = tmp_path / "step.pth"
    ruin(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def save(batch, report):
        SavedStep(tiny_cfg, model, batch, report, 7, 1, 0).save(path)
        return str(path)

    trainer = trainer_of(model, [batch], save_step=save)
    trainer.iter = 7
    with EventStorage(7), pytest.raises(NonFiniteError) as error:
        trainer.run_step()
    message = str(error.value)
    assert "iteration 7: matching cost is not finite" in message and "image münze 1.jpg" in message
    assert "First not finite: the output of sem_seg_head.predictor.mask_embed" in message
    assert f"python tools/replay_batch.py {path}" in message
    if by == "command":
        command = [sys.executable, ROOT / "tools" / "replay_batch.py", path, "--precision", "bfloat16"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1, done.stderr
        assert "iteration 7: matching cost" in done.stdout and "loss_mask_1    nan" in done.stdout
        assert "First not finite: the output of sem_seg_head.predictor.mask_embed" in done.stdout
        return
    step = SavedStep.load(path)
    for name, value in step.model.state_dict().items():
        running = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert running or torch.equal(value, before[name]), name
    result = replay(step)
    assert result.fault.startswith("losses that are not finite") and "mask_embed" in result.origin


def test_a_repeated_step_has_the_same_losses(tiny_cfg, model, batch, tmp_path):
    SavedStep(tiny_cfg, model, batch, "", 7, 1, 0).save(tmp_path / "step.pth")
    trainer = trainer_of(model, [batch])
    trainer.iter = 7
    with EventStorage(7) as storage:
        trainer.run_step()
    first = replay(SavedStep.load(tmp_path / "step.pth"))
    assert first.fault is first.origin is None
    for name, loss in first.losses.items():
        assert storage.latest()[name][0] == loss


def test_pretrained_weights_are_not_fetched_for_a_step(tiny_cfg, tmp_path, monkeypatch):
    tiny_cfg.MODEL.BACKBONE.NAME, tiny_cfg.MODEL.TIMM.NAME = "build_timm_backbone", "resnet10t"
    model = build_model(tiny_cfg)
    tiny_cfg.MODEL.TIMM.PRETRAINED = True
    SavedStep(tiny_cfg, model, [], "", 7, 1, 0).save(tmp_path / "step.pth")
    create = timm.create_model

    def create_offline(name, *, pretrained, **arguments):
        assert not pretrained
        return create(name, **arguments)

    monkeypatch.setattr(timm, "create_model", create_offline)
    loaded = SavedStep.load(tmp_path / "step.pth").model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_what_is_no_step_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        SavedStep.load(tmp_path / "none.pth")
    torch.save({"model": {}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="is no step that training has saved"):
        SavedStep.load(tmp_path / "model.pth")


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("/tmp/mask2former_ext_ran_code"),)


def test_a_step_from_elsewhere_runs_no_code(tmp_path):
    Path("/tmp/mask2former_ext_ran_code").unlink(missing_ok=True)
    torch.save({"config": "", "model": {}, "batch": [Malicious()]}, tmp_path / "step.pth")
    with pytest.raises(ValueError, match="is no step"):
        SavedStep.load(tmp_path / "step.pth")
    assert not Path("/tmp/mask2former_ext_ran_code").exists()


def test_steps_of_mask_rcnn_can_be_repeated(tmp_path):
    """Their batches hold polygons and, from some datasets, NumPy's numbers; their model writes figures to the log."""
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    cfg = load_config(str(ROOT / "configs" / "quickstart" / "mask_rcnn_R18_FPN_coins.yaml"), overrides)
    polygon = np.array([1.0, 1.5, 9.0, 1.5, 9.0, 9.0])
    instances = Instances((SIDE, SIDE), gt_masks=PolygonMasks([[polygon]]))
    instances.gt_boxes, instances.gt_classes = instances.gt_masks.get_bounding_boxes(), torch.tensor([0])
    batch = [{"image": torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), "instances": instances, "image_id": np.int64(3)}]
    SavedStep(cfg, build_model(cfg), batch, "", 7, 1, 0).save(tmp_path / "step.pth")
    step = SavedStep.load(tmp_path / "step.pth")
    assert np.array_equal(step.batch[0]["instances"].gt_masks.polygons[0][0], polygon)
    assert step.batch[0]["image_id"] == 3
    first, second = replay(step), replay(step)
    assert first.fault is None and "loss_mask" in first.losses and first == second
    step.model.roi_heads.mask_head.predictor.bias.data.fill_(math.nan)
    assert "mask_head" in replay(step).origin
