"""The moving average of the weights: values, evaluation, checkpoints, resumption."""

from __future__ import annotations

import logging
import os
import signal

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.engine import Trainer, ema, evaluate_average, load_average
from mask2former_ext.engine.ema import WeightAverage
from mask2former_ext.engine.interruption import Interrupted

NAME = "dataset_for_averages"


class Model(nn.Module):
    """A parameter, a buffer that is averaged too, and one that cannot be."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([8.0]))
        self.register_buffer("statistics", torch.tensor([0.0]))
        self.register_buffer("counter", torch.tensor(0))


class Learner(nn.Module):
    """Its gradients are random, so that a wrong weight anywhere shows."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, batch):
        return {"loss": self.layers(torch.stack(batch)).square().mean()}


class LearnerTrainer(Trainer):
    seen: list

    @classmethod
    def build_model(cls, cfg):
        torch.manual_seed(3)
        return Learner()

    @classmethod
    def build_train_loader(cls, cfg):
        generator = torch.Generator().manual_seed(4)
        return [list(torch.randn(3, 4, generator=generator)) for _ in range(6)]

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        cls.seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"sem_seg": {"mIoU": float(len(cls.seen))}}


@pytest.fixture
def cfg(tmp_path):
    DatasetCatalog.register(NAME, lambda: [])
    MetadataCatalog.get(NAME).set(stuff_classes=["a"], ignore_label=255, evaluator_type="sem_seg")
    LearnerTrainer.seen = []
    cfg = get_cfg_defaults()
    cfg.MODEL.update(META_ARCHITECTURE="MaskFormer", DEVICE="cpu")
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.update(TRAIN=(NAME,), TEST=(NAME,))
    cfg.SOLVER.update(IMS_PER_BATCH=1, MAX_ITER=6, WARMUP_ITERS=0, STEPS=(), BASE_LR=0.1)
    cfg.MODEL_EMA.update(ENABLED=True, DECAY=0.9)
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_values_by_hand():
    model = Model()
    average = WeightAverage(model, decay=0.25)
    with torch.no_grad():
        model.weight.fill_(19.0)
        model.statistics.fill_(11.0)
        model.counter.fill_(7)
    average.update()  # (1 + 1) / (10 + 1) is less than the decay
    assert average.weights["weight"].item() == pytest.approx(8 * 2 / 11 + 19 * 9 / 11)
    assert average.weights["statistics"].item() == pytest.approx(9.0)
    average.update()  # (1 + 2) / (10 + 2)
    assert average.weights["weight"].item() == pytest.approx(17 * 0.25 + 19 * 0.75)
    average.update()
    assert average.weights["weight"].item() == pytest.approx(18.5 * 0.25 + 19 * 0.75)
    assert "counter" not in average.weights


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_refuses_a_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=r"MODEL_EMA\.DECAY"):
        WeightAverage(Model(), decay)


def test_applied_for_a_while_even_if_that_fails():
    model = Model()
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(0.1)
    with pytest.raises(RuntimeError, match="evaluation"), average.applied():
        assert model.weight.item() == 8.0
        raise RuntimeError("evaluation")
    assert model.weight.item() == torch.tensor(0.1).item()
    assert average.weights["weight"].item() == 8.0


def test_training_evaluates_saves_and_exports_the_average(cfg, tmp_path):
    trainer = LearnerTrainer(cfg)
    assert trainer.train() == {"sem_seg": {"mIoU": 1.0}}
    file = torch.load(tmp_path / "model_final.pth")
    exported = torch.load(tmp_path / "model_final_ema.pth")["model"]
    own, averaged = file["model"], file["ema"]["weights"]
    torch.testing.assert_close(trainer.model.state_dict(), own, rtol=0, atol=0)
    torch.testing.assert_close(trainer.seen[0], own | averaged, rtol=0, atol=0)
    torch.testing.assert_close(exported, own | averaged, rtol=0, atol=0)
    assert (own["layers.0.weight"] - averaged["layers.0.weight"]).abs().max() > 1e-3


def test_evaluating_both(cfg):
    cfg.MODEL_EMA.EVALUATE_BOTH = True
    trainer = LearnerTrainer(cfg)
    assert trainer.train() == {"sem_seg": {"mIoU": 1.0}, "sem_seg_EMA": {"mIoU": 2.0}}
    torch.testing.assert_close(trainer.seen[0], dict(trainer.model.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(trainer.seen[1]["layers.0.bias"], trainer.average.weights["layers.0.bias"])


def test_resumption_restores_exactly(cfg, tmp_path):
    whole = LearnerTrainer(cfg)
    whole.train()
    cfg.OUTPUT_DIR = str(tmp_path / "in_two")
    (tmp_path / "in_two").mkdir()
    first = LearnerTrainer(cfg)
    first.max_iter = 3
    first.train()
    second = LearnerTrainer(cfg)
    second.resume_or_load(resume=True)
    torch.testing.assert_close(second.average.state_dict(), first.average.state_dict(), rtol=0, atol=0)
    for _ in range(3):  # the loader knows nothing of what was trained on
        next(second._trainer._data_loader_iter)
    second.train()
    torch.testing.assert_close(second.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(second.average.state_dict(), whole.average.state_dict(), rtol=0, atol=0)


def test_a_fresh_average_starts_from_the_weights_that_were_loaded(cfg, tmp_path):
    LearnerTrainer(cfg).train()
    loaded = torch.load(tmp_path / "model_final.pth")["model"]
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    cfg.SOLVER.MAX_ITER = 1
    cfg.SOLVER.BASE_LR = 0.0
    trainer = LearnerTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    for name, _ in trainer.model.named_parameters():
        torch.testing.assert_close(trainer.average.weights[name], loaded[name], rtol=0, atol=0)


def test_other_models_are_refused(cfg):
    state = WeightAverage(Learner(), 0.9).state_dict()
    with pytest.raises(ValueError, match="another model: 10 names"):
        WeightAverage(Model(), 0.9).load_state_dict(state)


def test_average_of_a_checkpoint_is_evaluated(cfg, caplog):
    trained, fresh = Model(), Model()
    average = WeightAverage(trained, 0.9)
    average.weights["weight"].fill_(5.0)
    loaded = load_average(cfg, fresh, {"ema": average.state_dict()})
    assert evaluate_average(lambda: {"w": fresh.weight.item()}, loaded, both=False) == {"w": 5.0}
    assert evaluate_average(lambda: {"w": fresh.weight.item()}, loaded, both=True) == {"w": 8.0, "w_EMA": 5.0}
    with caplog.at_level(logging.WARNING, logger=ema.__name__):
        missing = load_average(cfg, fresh, {})
    assert "no averaged weights" in caplog.text
    assert evaluate_average(lambda: {"w": fresh.weight.item()}, missing, both=True) == {"w": 8.0}
    cfg.MODEL_EMA.ENABLED = False
    assert load_average(cfg, fresh, {"ema": average.state_dict()}) is None


def test_a_signal_while_weights_are_exchanged_waits(cfg, tmp_path, monkeypatch):
    """Else the checkpoint would have some weights of the model and some of the average."""
    current = WeightAverage._current
    exchanging = []

    class Signalling(dict):
        def items(self):
            for index, item in enumerate(super().items()):
                yield item
                if exchanging and index == 1:
                    exchanging.clear()
                    os.kill(os.getpid(), signal.SIGTERM)

    def evaluate(*args, **options):
        own = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        exchanging.append(own)
        try:
            return evaluate_average(*args, **options)
        finally:
            torch.testing.assert_close(dict(trainer.model.state_dict()), own, rtol=0, atol=0)

    monkeypatch.setattr(WeightAverage, "_current", lambda average: Signalling(current(average)))
    monkeypatch.setattr("mask2former_ext.engine.trainer.evaluate_average", evaluate)
    cfg.TEST.EVAL_PERIOD = 2
    trainer = LearnerTrainer(cfg)
    with pytest.raises(Interrupted):
        trainer.train()
    assert trainer.iter == 1 and not trainer.seen
    saved = torch.load(tmp_path / "model_0000001.pth")["model"]
    torch.testing.assert_close(saved, trainer.model.state_dict(), rtol=0, atol=0)


def test_parameters_that_modules_share_are_exchanged_once():
    model = nn.ModuleDict({"one": nn.Linear(1, 1, bias=False)})
    model["other"] = model["one"]
    average = WeightAverage(model, 0.5)
    before = model["one"].weight.item()
    with torch.no_grad():
        model["one"].weight.fill_(9.0)
    with average.applied():
        assert model["one"].weight.item() == before
    assert model["one"].weight.item() == 9.0
    assert [tensor.item() for tensor in average.weights.values()] == [before, before]


def test_other_shapes_are_refused():
    average = WeightAverage(Model(), 0.9)
    weights = average.weights | {"weight": torch.ones(1, 1)}
    with pytest.raises(
        ValueError, match=r"1 names are in one of the two only, or of other shapes, among them \['weight'"
    ):
        average.load_state_dict({"weights": weights, "num_updates": 1})
