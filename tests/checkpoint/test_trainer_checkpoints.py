"""The checkpointer in its places: the trainer, fine-tuning, and Detectron2's predictor on what the trainer wrote."""

import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor, hooks
from torch import nn

from mask2former_ext.checkpoint import Checkpointer, loader
from mask2former_ext.checkpoint.writing import SafeCheckpointer
from mask2former_ext.engine import Trainer

NAME = "dataset_of_checkpoint_tests"


class TrainerWithoutData(Trainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return [[{}]] * 10


@pytest.fixture
def cfg(tiny_cfg, tmp_path):
    DatasetCatalog.register(NAME, lambda: [{"file_name": "1.jpg", "sem_seg_file_name": "1.png", "image_id": 1}])
    MetadataCatalog.get(NAME).set(stuff_classes=["a", "b", "c"], ignore_label=255, evaluator_type="sem_seg")
    tiny_cfg.OUTPUT_DIR = str(tmp_path)
    tiny_cfg.DATASETS.TRAIN = (NAME,)
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.update(IMS_PER_BATCH=1, MAX_ITER=3, WARMUP_ITERS=0, STEPS=())
    yield tiny_cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def checkpointer_of_hooks(trainer):
    return next(hook.checkpointer for hook in trainer._hooks if isinstance(hook, hooks.PeriodicCheckpointer))


def test_trainer_loads_and_saves_with_one_checkpointer(cfg):
    trainer = TrainerWithoutData(cfg)
    assert type(trainer.checkpointer) is Checkpointer
    assert checkpointer_of_hooks(trainer) is trainer.checkpointer
    assert trainer.checkpointer.checkpointables.keys() == {"trainer"}


def test_trainer_of_other_architectures(cfg, monkeypatch):
    monkeypatch.setattr(TrainerWithoutData, "build_model", classmethod(lambda cls, cfg: nn.Linear(1, 1)))
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    trainer = TrainerWithoutData(cfg)
    assert type(trainer.checkpointer) is SafeCheckpointer
    assert checkpointer_of_hooks(trainer) is trainer.checkpointer


def test_predictor_and_fine_tuning_from_a_checkpoint_of_the_trainer(cfg, tmp_path, caplog, monkeypatch):
    for name in ("detectron2", "fvcore", "mask2former_ext"):  # Detectron2's set-up of loggers cuts them off
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    trainer = TrainerWithoutData(cfg)
    trainer.iter = 2
    trainer.checkpointer.save("model_final", iteration=2)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")

    caplog.clear()
    cfg.INPUT.MIN_SIZE_TEST = 64
    predictor = DefaultPredictor(cfg)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    torch.testing.assert_close(dict(predictor.model.state_dict()), dict(trainer.model.state_dict()), rtol=0, atol=0)
    assert predictor(np.zeros((40, 60, 3), np.uint8))["sem_seg"].shape == (3, 40, 60)

    resumed = TrainerWithoutData(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3

    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    tuned = TrainerWithoutData(cfg)
    with pytest.raises(ValueError, match="is for 3 classes, the model for 5"):
        tuned.resume_or_load(resume=True)
    caplog.clear()
    tuned.resume_or_load(resume=False)
    warnings = [record for record in caplog.records if record.levelno > logging.INFO]
    assert [record.name for record in warnings] == [loader.__name__]
    assert tuned.start_iter == 0
    key = "sem_seg_head.predictor.mask_embed.layers.0.weight"
    torch.testing.assert_close(tuned.model.state_dict()[key], trainer.model.state_dict()[key], rtol=0, atol=0)
