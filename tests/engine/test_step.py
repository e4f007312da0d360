"""One optimizer step: precision, scaling of losses, accumulation of gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from worker import same_points_for_every_mask

from mask2former_ext.engine.accumulation import split_batch
from mask2former_ext.engine.step import StepTrainer
from mask2former_ext.modeling.points import RandomCoords

SIDE = 64


class Quadratic(nn.Module):
    """The loss of a batch is the average of (weight · x)² over its images."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.linear.weight, 3.0)
        self.formats = []

    def forward(self, batch):
        output = self.linear(torch.tensor([[image["x"]] for image in batch]))
        self.formats.append(output.dtype)
        return {"loss": output.float().square().mean()}


def run(model, batches, optimizer=None, **options):
    trainer = StepTrainer(model, batches, optimizer or torch.optim.SGD(model.parameters(), lr=0.01), **options)
    with EventStorage() as storage:
        for _ in batches:
            trainer.run_step()
    return trainer, storage


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_precisions(precision):
    model = Quadratic()
    trainer, storage = run(model, [[{"x": 1 / 16}, {"x": 2 / 16}]], precision=precision)
    assert model.formats == [precision or torch.float32]
    # the loss is 3² (1 + 4) / 2 / 16², its derivative 2 · 3 (1 + 4) / 2 / 16²; exact in each format
    assert storage.latest()["total_loss"][0] == 22.5 / 256
    torch.testing.assert_close(model.linear.weight.data, torch.tensor([[3.0 - 0.01 * 15.0 / 256]]))
    assert trainer.grad_scaler.is_enabled() == (precision is torch.float16)


def test_float16_skips_a_step_whose_gradients_overflow_and_halves_the_scale():
    model = Quadratic()
    trainer, _ = run(model, [[{"x": 100.0}]], precision=torch.float16)
    assert model.linear.weight.item() == 3.0
    assert trainer.grad_scaler.get_scale() == 2.0**15


def test_the_scale_is_resumed_where_both_runs_have_one():
    first, _ = run(Quadratic(), [[{"x": 100.0}]], precision=torch.float16)
    second = StepTrainer(Quadratic(), [], torch.optim.SGD([torch.zeros(1)], lr=0.01), precision=torch.float16)
    state = first.state_dict() | {"optimizer": second.optimizer.state_dict()}
    second.load_state_dict(state)
    assert second.grad_scaler.get_scale() == 2.0**15
    without = StepTrainer(Quadratic(), [], torch.optim.SGD([torch.zeros(1)], lr=0.01), precision=torch.bfloat16)
    without.load_state_dict(state)
    assert "grad_scaler" not in without.state_dict()
    second.load_state_dict(without.state_dict())
    assert second.grad_scaler.get_scale() == 2.0**15


def test_a_step_has_random_numbers_of_its_own():
    """They depend on seed and iteration, not on what was drawn before."""

    class Noisy(Quadratic):
        def forward(self, batch):
            self.drawn = torch.rand(1).item()
            return super().forward(batch)

    def drawn(seed, iteration):
        model = Noisy()
        trainer = StepTrainer(model, [[{"x": 1.0}]], torch.optim.SGD(model.parameters(), lr=0.01), seed=seed)
        trainer.iter = iteration
        with EventStorage():
            trainer.run_step()
        return model.drawn

    first = drawn(3, 7)
    torch.rand(5)
    assert drawn(3, 7) == first
    assert len({first, drawn(3, 8), drawn(4, 7)}) == 3
    assert drawn(None, 7) != drawn(None, 7)


def test_points_come_from_a_generator_of_their_own(model, monkeypatch):
    """Dropout, say, draws from another: it does not change which points losses are computed at."""
    drawn = []
    draw = RandomCoords.draw.__func__

    def record(cls, *args):
        drawn.append(draw(cls, *args))
        return drawn[-1]

    def draw_something_else(module, images):
        torch.rand(3)

    monkeypatch.setattr(RandomCoords, "draw", classmethod(record))
    model.train()
    batch = [image(2), image(1)]
    for _ in range(2):
        run(model, [batch], torch.optim.SGD(model.parameters(), lr=0.0), seed=1)
        model.register_forward_pre_hook(draw_something_else)
    once, twice = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    for one, other in zip(once, twice, strict=True):
        assert torch.equal(one.matching, other.matching) and torch.equal(one.candidates, other.candidates)
    assert not torch.equal(once[0].matching, once[1].matching)


def test_parts_of_a_batch_follow_each_other_and_are_about_equal():
    assert split_batch([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4, 5]]
    assert split_batch([1, 2, 3], 3) == [[1], [2], [3]]
    with pytest.raises(ValueError, match="ACCUMULATION_STEPS is 3, but a worker's batch has 2"):
        split_batch([1, 2], 3)


def test_losses_that_are_averages_over_images_are_weighed_by_the_share_of_the_images():
    whole, parts = Quadratic(), Quadratic()
    batch = [{"x": 1.0}, {"x": 2.0}, {"x": 4.0}]
    _, storage = run(whole, [batch])
    _, storage_of_parts = run(parts, [batch], accumulation_steps=2)
    torch.testing.assert_close(parts.linear.weight, whole.linear.weight)
    assert storage_of_parts.latest()["total_loss"][0] == pytest.approx(storage.latest()["total_loss"][0])
    assert len(parts.formats) == 2


def test_workers_meet_at_the_last_part_only(tmp_path, monkeypatch):
    alone, unsynchronised, no_sync = Quadratic(), [], DistributedDataParallel.no_sync
    batch = [{"x": 1.0}, {"x": 2.0}, {"x": 4.0}]
    run(alone, [batch], accumulation_steps=3)
    monkeypatch.setattr(DistributedDataParallel, "no_sync", lambda self: unsynchronised.append(1) or no_sync(self))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = Quadratic()
        run(DistributedDataParallel(model), [batch], accumulation_steps=3)
    finally:
        torch.distributed.destroy_process_group()
    assert len(unsynchronised) == 2
    torch.testing.assert_close(model.linear.weight, alone.linear.weight)


@pytest.fixture
def model(tiny_cfg):
    # images of a batch do not see each other
    tiny_cfg.MODEL.RESNETS.NORM = "FrozenBN"
    return build_model(tiny_cfg)


def image(count):
    instances = Instances((SIDE, SIDE))
    instances.gt_classes = torch.randint(0, 3, (count,))
    instances.gt_masks = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    instances.gt_masks[:, SIDE // 4 : SIDE // 2, SIDE // 4 :] = True
    return {"image": torch.randint(0, 256, (3, SIDE, SIDE)).float(), "instances": instances}


# the last with more masks than the model has queries, and an image without any
@pytest.mark.parametrize("counts", [(2, 2, 2, 2), (5, 1, 3, 0), (12, 0, 1, 1)])
def test_two_times_two_images_are_a_batch_of_four(model, counts, monkeypatch):
    monkeypatch.setattr(RandomCoords, "draw", same_points_for_every_mask)
    batch = [image(count) for count in counts]
    gradients, losses = [], []
    for steps in (1, 2):
        learner = copy.deepcopy(model)
        trainer = StepTrainer(learner, [batch], torch.optim.SGD(learner.parameters(), lr=0.0), accumulation_steps=steps)
        with EventStorage() as storage:
            trainer.run_step()
        gradients.append({name: parameter.grad for name, parameter in learner.named_parameters()})
        losses.append({name: value for name, (value, _) in storage.latest().items() if "loss" in name})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, expected in gradients[0].items():
        error = (gradients[1][name] - expected).norm() / expected.norm().clamp(min=1e-3)
        assert error < 1e-5, name


def test_bfloat16_learns_on_the_cpu(model):
    batch = [image(2), image(3)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    _, storage = run(model, [batch] * 8, optimizer, precision=torch.bfloat16, accumulation_steps=2)
    losses = [value for value, _ in storage.history("total_loss").values()]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
