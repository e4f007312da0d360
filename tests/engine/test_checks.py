"""Mistakes in a config that are found before training starts."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.data import DATASET_MAPPERS
from mask2former_ext.engine import batch_size_advice, check_datasets, check_device, checks, for_this_machine
from mask2former_ext.engine.checks import check_dataset_mapper, check_solver

NAME = "dataset_that_is_checked"


@pytest.fixture
def cfg():
    cfg = get_cfg_defaults()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.DEVICE = "cpu"
    return cfg


@pytest.fixture
def dataset():
    """Metadata of a registered dataset that has only its evaluator type."""
    DatasetCatalog.register(NAME, list)
    yield MetadataCatalog.get(NAME)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_gpu_that_is_not_there(cfg, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device(cfg)
    cfg.MODEL.DEVICE = "cuda"
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'cuda'.*append: MODEL\.DEVICE cpu"):
        check_device(cfg)


def test_a_device_that_is_none(cfg):
    cfg.MODEL.DEVICE = "nonsense"
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'nonsense': "):
        check_device(cfg)


def test_unknown_dataset_mapper(cfg):
    for name in DATASET_MAPPERS:
        cfg.INPUT.DATASET_MAPPER_NAME = name
        check_dataset_mapper(cfg)
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_lsj"
    with pytest.raises(ValueError, match=rf"'coco_lsj'; known are {', '.join(DATASET_MAPPERS)}"):
        check_dataset_mapper(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    check_dataset_mapper(cfg)


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_dataset_that_is_not_registered(cfg, key):
    cfg.DATASETS[key] = ("coins_val", "coins_vla")
    with pytest.raises(ValueError, match=rf"DATASETS\.{key} names \['coins_vla'\].*coins_train"):
        check_datasets(cfg)


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_panoptic_dataset_without_its_metadata(cfg, dataset, key):
    dataset.evaluator_type = "coco_panoptic_seg"
    cfg.DATASETS[key] = (NAME,)
    with pytest.raises(ValueError, match=rf'"{NAME}".*panoptic_json.*stuff_dataset_id_to_contiguous_id'):
        check_datasets(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    check_datasets(cfg)


def test_test_set_with_other_things_than_the_training_set(cfg, dataset, caplog):
    dataset.set(evaluator_type="sem_seg", thing_dataset_id_to_contiguous_id={7: 3})
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coins_train",), ("coins_val",)
    with caplog.at_level(logging.WARNING, logger=checks.__name__):
        check_datasets(cfg)
        assert not caplog.text
        cfg.DATASETS.TEST = (NAME,)
        check_datasets(cfg)
    assert f"Test set {NAME} has other thing classes than coins_train" in caplog.text


def test_test_dataset_that_nothing_evaluates(cfg, dataset):
    dataset.evaluator_type = "depth"
    cfg.DATASETS.TRAIN = (NAME,)
    check_datasets(cfg)
    cfg.DATASETS.TEST = (NAME,)
    with pytest.raises(ValueError, match=rf"'{NAME}' has evaluator_type 'depth'"):
        check_datasets(cfg)


def test_float16_is_off_on_the_cpu(cfg, caplog):
    cfg.SOLVER.AMP.ENABLED = True
    cfg.DATALOADER.NUM_WORKERS = 0
    with caplog.at_level(logging.INFO, logger=checks.__name__):
        assert not for_this_machine(cfg).SOLVER.AMP.ENABLED
    assert "float32" in caplog.text
    assert cfg.SOLVER.AMP.ENABLED  # the caller's config stays
    cfg.SOLVER.AMP.PRECISION = "bfloat16"
    assert for_this_machine(cfg).SOLVER.AMP.ENABLED
    cfg.SOLVER.AMP.PRECISION = "float16"
    cfg.MODEL.DEVICE = "cuda"
    assert for_this_machine(cfg).SOLVER.AMP.ENABLED


def test_unknown_precision(cfg):
    cfg.SOLVER.AMP.PRECISION = "float8"
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.PRECISION is 'float8'; known are float16, bfloat16"):
        check_solver(cfg)


@pytest.mark.parametrize("steps", [0, 3])
def test_more_parts_of_a_batch_than_a_worker_has_images(cfg, monkeypatch, steps):
    monkeypatch.setattr(checks.comm, "get_world_size", lambda: 2)
    cfg.SOLVER.update(IMS_PER_BATCH=4, ACCUMULATION_STEPS=2)
    check_solver(cfg)
    cfg.SOLVER.ACCUMULATION_STEPS = steps
    with pytest.raises(ValueError, match=rf"ACCUMULATION_STEPS is {steps}.* optimizer step, 2 .*for 2 workers"):
        check_solver(cfg)
    cfg.SOLVER.update(ACCUMULATION_STEPS=2, REFERENCE_WORLD_SIZE=4)
    with pytest.raises(ValueError, match=r"optimizer step, 1 .*for 4 workers"):
        check_solver(cfg)


def test_loading_processes_are_at_most_the_cores(cfg, monkeypatch):
    monkeypatch.setattr(checks.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5})
    for workers, used in ((0, 0), (6, 6), (8, 6)):
        cfg.DATALOADER.NUM_WORKERS = workers
        assert used == for_this_machine(cfg).DATALOADER.NUM_WORKERS
    monkeypatch.setattr(checks.comm, "get_local_size", lambda: 2)
    assert for_this_machine(cfg).DATALOADER.NUM_WORKERS == 3


def test_advice_when_only_the_batch_changes(cfg):
    recipe = cfg.clone()
    recipe.SOLVER.update(IMS_PER_BATCH=16, BASE_LR=1e-4, MAX_ITER=1000)
    cfg = recipe.clone()
    assert batch_size_advice(cfg, recipe) is None
    cfg.SOLVER.IMS_PER_BATCH = 4
    assert "SOLVER.BASE_LR 2.5e-05 and SOLVER.MAX_ITER 4000" in batch_size_advice(cfg, recipe)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    assert batch_size_advice(cfg, recipe) is None
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    cfg.SOLVER.BASE_LR = 2e-5
    assert batch_size_advice(cfg, recipe) is None
