"""What happens when somebody asks training to end."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from mask2former_ext.checkpoint.writing import SafeCheckpointer
from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.data import TrainingLoader
from mask2former_ext.engine import Trainer
from mask2former_ext.engine.interruption import SIGNALS, Interrupted, Interruption

NAME = "dataset_of_interrupted_training"


class NoisyModel(nn.Module):
    """Its gradients depend on the data and on random numbers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, batch):
        noise = torch.rand(3) + sum(record["drawn"] for record in batch)
        return {"loss": ((self.weight - noise) ** 2).sum()}


def mapper(record):
    return record | {"drawn": torch.rand(3) * record["image_id"]}


class NoisyTrainer(Trainer):
    """Gets the signals of ``signals`` (iteration → signal) in the middle of iterations."""

    signals: dict[int, int] = {}

    @classmethod
    def build_model(cls, cfg):
        return NoisyModel()

    @classmethod
    def build_train_loader(cls, cfg):
        loader = super().build_train_loader(cfg)
        loader._mapper = mapper
        assert isinstance(loader, TrainingLoader)
        return loader

    def run_step(self):
        super().run_step()
        if self.iter in self.signals:
            os.kill(os.getpid(), self.signals[self.iter])


@pytest.fixture
def cfg(tmp_path):
    records = [{"file_name": f"{i}.jpg", "image_id": i, "width": 2 + i % 3, "height": 3} for i in range(7)]
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(ignore_label=255, evaluator_type="sem_seg")
    cfg = get_cfg_defaults()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.DEVICE = "cpu"
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.update(IMS_PER_BATCH=2, MAX_ITER=8, WARMUP_ITERS=0, STEPS=(5,), BASE_LR=0.01)
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def handlers():
    """The handlers from before a test are there after it, too."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def run(cfg, folder, *, resume=False, signals=None):
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(folder)
    trainer = NoisyTrainer(cfg)
    trainer.signals = signals or {}
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_training_after_the_iteration_with_a_checkpoint(cfg, tmp_path, number, handlers, caplog):
    with pytest.raises(Interrupted) as ended:
        run(cfg, tmp_path, signals={2: number})
    assert ended.value.code == 128 + number
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert f"{signal.Signals(number).name}: ending after this iteration" in caplog.text


@pytest.mark.parametrize("seed", [5, -1])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(cfg, tmp_path, seed):
    cfg.SEED = 5
    whole = run(cfg, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(cfg, tmp_path / "parts", signals={2: signal.SIGTERM})
    cfg.SEED = seed  # without one, the run's own is in the checkpoint
    resumed = run(cfg, tmp_path / "parts", resume=True)
    assert resumed.start_iter == 3
    assert torch.equal(resumed.model.weight, whole.model.weight)
    states = resumed.state_dict(), whole.state_dict()
    for one, other in zip(*(state["_trainer"]["optimizer"]["state"].values() for state in states), strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert states[0]["hooks"] == states[1]["hooks"] and states[0]["seed"] == states[1]["seed"] == 5


def test_another_seed_is_another_run(cfg, tmp_path):
    cfg.SEED = 5
    first = run(cfg, tmp_path / "first")
    cfg.SEED = 6
    assert not torch.equal(run(cfg, tmp_path / "second").model.weight, first.model.weight)


@pytest.mark.parametrize(
    ("signals", "ended_by"),
    [
        ([signal.SIGINT, signal.SIGINT], KeyboardInterrupt),
        ([signal.SIGTERM, signal.SIGTERM], Interrupted),
        ([signal.SIGINT, signal.SIGTERM], Interrupted),
    ],
)
def test_a_second_one(cfg, tmp_path, handlers, signals, ended_by):
    class Twice(NoisyTrainer):
        def run_step(self):
            super().run_step()
            for number in signals:
                os.kill(os.getpid(), number)

    with pytest.raises(ended_by):
        Twice(cfg).train()
    assert (tmp_path / "last_checkpoint").exists() == (ended_by is Interrupted)


def test_a_signal_in_the_last_iteration_leaves_the_final_model(cfg, tmp_path, handlers):
    with pytest.raises(Interrupted):
        run(cfg, tmp_path, signals={7: signal.SIGTERM})
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    resumed = run(cfg, tmp_path, resume=True)
    assert resumed.start_iter == 8


@pytest.mark.parametrize("during", [True, False])
def test_an_evaluation_is_broken_off_with_a_checkpoint(cfg, tmp_path, handlers, monkeypatch, during):
    """It can take longer than the grace that a cluster gives."""

    def test(cls, cfg, model, evaluators=None):
        if during:
            os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("this line is not to be reached")

    monkeypatch.setattr(NoisyTrainer, "test", classmethod(test))
    cfg.TEST.EVAL_PERIOD = 3 if during else 100
    with pytest.raises(Interrupted):
        run(cfg, tmp_path, signals={} if during else {7: signal.SIGTERM})
    assert (tmp_path / "last_checkpoint").read_text() == ("model_0000002.pth" if during else "model_final.pth")


def test_all_processes_end_when_one_got_a_signal(cfg, monkeypatch):
    monkeypatch.setattr("mask2former_ext.engine.interruption.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("mask2former_ext.engine.interruption.comm.all_gather", lambda number: [number, signal.SIGTERM])
    assert Interruption().of_all_processes() == signal.SIGTERM


def test_threads_cannot_handle_signals_and_do_without(handlers):
    failures = []

    def work():
        try:
            with Interruption().handled():
                pass
        except ValueError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures


def test_bad_images_are_counted_in_the_log_of_metrics(cfg, tmp_path):
    def refusing(record):
        if record["image_id"] == 3:
            raise ValueError("bad")
        return mapper(record)

    class Refusing(NoisyTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            loader = super().build_train_loader(cfg)
            loader._mapper = refusing
            return loader

    cfg.DATALOADER.MAX_BAD_IMAGES = 3
    trainer = Refusing(cfg)
    trainer.train()
    assert trainer.storage.latest()["bad_images"][0] == trainer._trainer.data_loader.num_bad_images > 0


def test_the_checkpoint_is_of_this_run(cfg, tmp_path):
    """An earlier run in the same folder may have ended in the same iteration."""
    for seed in (5, 6):
        cfg.SEED = seed
        with pytest.raises(Interrupted):
            run(cfg, tmp_path, signals={2: signal.SIGTERM})
        assert torch.load(tmp_path / "model_0000002.pth")["trainer"]["seed"] == seed


def test_a_checkpoint_is_not_written_twice(cfg, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(SafeCheckpointer, "_save_whole", lambda checkpointer, name, **more: saved.append(name))
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    with pytest.raises(Interrupted):
        run(cfg, tmp_path, signals={2: signal.SIGTERM})
    assert saved == ["model_0000002"]


def test_no_process_ends_before_the_checkpoint_is_written(cfg, tmp_path, monkeypatch):
    """Launchers end, and after some seconds kill, all processes when one has ended."""
    waited_for = []
    monkeypatch.setattr(
        "mask2former_ext.engine.interruption.comm.synchronize",
        lambda: waited_for.append((tmp_path / "last_checkpoint").read_text()),
    )
    with pytest.raises(Interrupted):
        run(cfg, tmp_path, signals={2: signal.SIGTERM})
    assert waited_for[-1] == "model_0000002.pth"
