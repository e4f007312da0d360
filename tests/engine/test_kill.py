"""A run that is killed, whenever it is, goes on where its last whole checkpoint is, and ends as if nothing had been."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.engine import Trainer

NAME = "dataset_of_killed_training"
KILLS = 20
ITERATIONS = 200
# In floats. So large that most of the time goes into writing checkpoints: that is when a kill could do harm.
SIZE = 500_000


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(SIZE))

    def forward(self, batch):
        target = torch.rand(SIZE) + sum(record["image_id"] for record in batch)
        return {"loss": ((self.weight - target) ** 2).sum()}


class KilledTrainer(Trainer):
    @classmethod
    def build_model(cls, cfg):
        return Model()

    @classmethod
    def build_train_loader(cls, cfg):
        loader = super().build_train_loader(cfg)
        loader._mapper = dict
        return loader


@pytest.fixture
def cfg(tmp_path):
    records = [{"file_name": f"{i}.jpg", "image_id": i, "width": 4, "height": 3} for i in range(7)]
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(ignore_label=255, evaluator_type="sem_seg")
    cfg = get_cfg_defaults()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.DEVICE = "cpu"
    cfg.SEED = 1
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(tmp_path / "killed")
    cfg.SOLVER.update(IMS_PER_BATCH=2, MAX_ITER=ITERATIONS, WARMUP_ITERS=5, STEPS=(100,), BASE_LR=0.01)
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    os.makedirs(cfg.OUTPUT_DIR)
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def train(cfg, started):
    trainer = KilledTrainer(cfg)
    trainer.resume_or_load(resume=True)
    started.value = trainer.start_iter
    trainer.train()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_twenty_kills(cfg, tmp_path, capfd):
    context = multiprocessing.get_context("fork")  # so that Detectron2 is not imported twenty times
    moments = random.Random(0)
    starts = []
    for _ in range(KILLS):
        started = context.Value("l", -1)
        process = context.Process(target=train, args=(cfg, started))
        process.start()
        while started.value < 0 and process.is_alive():
            time.sleep(0.001)
        first = wait_for_a_checkpoint(cfg, process, None)
        begin = time.perf_counter()
        wait_for_a_checkpoint(cfg, process, first)
        time.sleep(moments.uniform(0.0, 2.0) * (time.perf_counter() - begin))  # somewhere in the next two
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0), "it could not be resumed"
        starts.append(started.value)
        keep_only_the_newest(tmp_path / "killed")
    assert starts == sorted(starts) and starts[-1] > starts[0], starts
    final = KilledTrainer(cfg)
    final.resume_or_load(resume=True)
    final.train()

    whole = cfg.clone()
    whole.OUTPUT_DIR = str(tmp_path / "whole")
    whole.SOLVER.CHECKPOINT_PERIOD = ITERATIONS
    os.makedirs(whole.OUTPUT_DIR)
    undisturbed = KilledTrainer(whole)
    undisturbed.train()
    assert torch.equal(final.model.weight, undisturbed.model.weight)
    assert not list((tmp_path / "killed").glob(".*"))


def wait_for_a_checkpoint(cfg, process, before):
    """Wait until another checkpoint than ``before`` is noted; returns its name."""
    note = Path(cfg.OUTPUT_DIR, "last_checkpoint")
    before = before or (note.read_text() if note.exists() else "")
    while process.is_alive() and (not note.exists() or note.read_text() == before):
        time.sleep(0.0005)
    return note.read_text() if note.exists() else before


def keep_only_the_newest(folder):
    """Checkpoints of hundreds of iterations would fill the disk; three are as good as all."""
    for path in sorted(folder.glob("model_0*.pth"))[:-3]:
        path.unlink()
