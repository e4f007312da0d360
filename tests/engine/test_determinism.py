"""A whole Mask2Former trained twice, and trained in two parts: the same weights, bit for bit, on the CPU."""

from __future__ import annotations

import pytest
import torch
import yaml
from tiny_coins import COMMON, MASK_FORMER, merged, write_split

from mask2former_ext.config import load_config
from mask2former_ext.data.datasets.coins import register_coins
from mask2former_ext.data.datasets.loading import datasets_root
from mask2former_ext.engine import Trainer

SETTINGS = {
    # dropout, an average of the weights and loading processes: whatever could make runs differ
    "MODEL": {"DETERMINISTIC": True, "MASK_FORMER": {"DROPOUT": 0.1}},
    "MODEL_EMA": {"ENABLED": True},
    "DATALOADER": {"NUM_WORKERS": 2, "ASPECT_RATIO_GROUPING": True},
    "DATASETS": {"TEST": []},
    "SOLVER": {"MAX_ITER": 4, "CHECKPOINT_PERIOD": 100, "AMP": {"ENABLED": True, "PRECISION": "bfloat16"}},
}


@pytest.fixture
def config_file(tmp_path):
    for split in ("train", "val"):
        write_split(tmp_path / "coins", split)
    register_coins(str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(merged(merged(COMMON, MASK_FORMER), SETTINGS)))
    yield path
    register_coins(datasets_root())
    torch.use_deterministic_algorithms(False)


def make_trainer(config_file, folder, *opts):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)  # of the first weights; training has its own seed
    return Trainer(load_config(str(config_file), ["OUTPUT_DIR", str(folder), *opts]))


def state(trainer):
    """Everything that training goes on from."""
    optimizer = trainer._trainer.optimizer.state_dict()["state"]
    moments = {f"{key}.{name}": value for key, entry in optimizer.items() for name, value in entry.items()}
    average = {f"average.{name}": value for name, value in trainer.average.weights.items()}
    return {**trainer.model.state_dict(), **moments, **average, "rates": torch.tensor(trainer.scheduler.get_last_lr())}


def assert_same(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def test_twice_the_same(config_file, tmp_path):
    states = []
    for folder, processes in (("a", 2), ("b", 0)):
        trainer = make_trainer(config_file, tmp_path / folder, "DATALOADER.NUM_WORKERS", str(processes))
        trainer.train()
        states.append(state(trainer))
    assert_same(*states)


def test_another_seed_differs(config_file, tmp_path):
    first, second = (make_trainer(config_file, tmp_path / seed, "SEED", seed) for seed in ("1", "2"))
    first.train()
    second.train()
    weight = "sem_seg_head.predictor.query_feat.weight"
    assert not torch.equal(first.model.state_dict()[weight], second.model.state_dict()[weight])


def test_two_parts_are_the_whole(config_file, tmp_path):
    whole = make_trainer(config_file, tmp_path / "whole")
    whole.train()
    first = make_trainer(config_file, tmp_path / "parts")
    first.max_iter = 2
    first.train()
    torch.rand(100)  # a new process has other random numbers
    second = make_trainer(config_file, tmp_path / "parts")
    second.resume_or_load(resume=True)
    assert second.start_iter == 2
    second.train()
    assert_same(state(second), state(whole))
