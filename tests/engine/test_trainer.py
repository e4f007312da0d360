"""What the trainer builds, what it refuses, and what a checkpoint of it holds."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing

import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.modeling import GeneralizedRCNNWithTTA
from torch import nn

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.data import MaskFormerDatasetMapper, TrainingLoader
from mask2former_ext.engine import Trainer, trainer
from mask2former_ext.modeling.test_time_augmentation import MaskFormerWithTTA, SemanticSegmentorWithTTA

NAME = "dataset_that_is_trained_on"


class TinyModel(nn.Module):
    """Learns one number; its loss is that number."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 1, bias=False)

    def forward(self, batch):
        return {"loss": self.head.weight.sum()}


@pytest.fixture
def cfg(tmp_path):
    DatasetCatalog.register(NAME, lambda: [{"file_name": "1.jpg", "sem_seg_file_name": "1.png", "image_id": 1}])
    MetadataCatalog.get(NAME).set(stuff_classes=["a"], ignore_label=255, evaluator_type="sem_seg")
    cfg = get_cfg_defaults()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.DEVICE = "cpu"
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.DATASETS.TEST = ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.update(IMS_PER_BATCH=1, MAX_ITER=3, WARMUP_ITERS=0, STEPS=())
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


class TinyTrainer(Trainer):
    @classmethod
    def build_model(cls, cfg):
        return TinyModel()

    @classmethod
    def build_train_loader(cls, cfg):
        return [[{}]] * 100


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["INPUT.DATASET_MAPPER_NAME", "coco_lsj"], "DATASET_MAPPER_NAME is 'coco_lsj'"),
        (["SOLVER.OPTIMIZER", "ADAM"], r"SOLVER\.OPTIMIZER is 'ADAM'"),
        (["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"], "CLIP_TYPE is 'all'"),
        (["DATASETS.TEST", ("no_such_dataset",)], "no_such_dataset"),
        (
            ["TEST.AUG.ENABLED", True, "MODEL.META_ARCHITECTURE", "PanopticFPN"],
            "no test-time augmentation for PanopticFPN; there is for GeneralizedRCNN, MaskFormer, SemanticSegmentor",
        ),
    ],
)
def test_refusals(cfg, overrides, message):
    cfg.merge_from_list(overrides)
    with pytest.raises(ValueError, match=message):
        TinyTrainer(cfg)


@pytest.mark.parametrize(
    ("architecture", "expected"), [("MaskFormer", MaskFormerDatasetMapper), ("GeneralizedRCNN", DatasetMapper)]
)
def test_mapper_by_architecture(cfg, architecture, expected, monkeypatch):
    built = []
    monkeypatch.setattr(
        "mask2former_ext.data.training_loader.TrainingLoader",
        lambda records, mapper, *args, **options: built.append(type(mapper)),
    )
    cfg.MODEL.META_ARCHITECTURE = architecture
    Trainer.build_train_loader(cfg)
    assert built == [expected]


@pytest.mark.parametrize("schedule", ["WarmupMultiStepLR", "WarmupPolyLR", "WarmupCosineLR"])
def test_checkpoint_resumes_optimizer_and_schedule(cfg, schedule):
    cfg.SOLVER.LR_SCHEDULER_NAME = schedule
    first = TinyTrainer(cfg)
    first.train()
    cfg.SOLVER.MAX_ITER = 5
    second = TinyTrainer(cfg)
    second.resume_or_load(resume=True)
    assert second.start_iter == 3
    torch.testing.assert_close(second.optimizer.state_dict(), first.optimizer.state_dict())
    assert second.scheduler.last_epoch == first.scheduler.last_epoch == 3
    second.train()
    assert [int(state["step"]) for state in second.optimizer.state.values()] == [5]


class StrictModel(TinyModel):
    """Does not learn from image 6."""

    def forward(self, batch):
        if batch[0]["image_id"] == 6:
            raise RuntimeError("not this one")
        return super().forward(batch)


class LoadingTrainer(TinyTrainer):
    """Loads in two processes."""

    @classmethod
    def build_model(cls, cfg):
        return StrictModel()

    @classmethod
    def build_train_loader(cls, cfg):
        return TrainingLoader(
            [{"image_id": i} for i in range(10)], dict, lambda seed: range(10),
            seed=1, batch_size=1, aspect_ratio_grouping=False, num_workers=2, max_bad_images=0,
        )  # fmt: skip


@pytest.mark.parametrize("iterations", [3, 9])
def test_the_processes_that_load_end_with_training(cfg, iterations):
    before = set(multiprocessing.active_children())
    cfg.SOLVER.MAX_ITER = iterations
    trainer = LoadingTrainer(cfg)
    with pytest.raises(RuntimeError, match="not this one") if iterations > 6 else contextlib.nullcontext():
        trainer.train()
    assert set(multiprocessing.active_children()) == before


@pytest.mark.filterwarnings("error:.*GradScaler")
def test_precision_and_accumulation_reach_the_training_loop(cfg):
    cfg.SOLVER.AMP.update(ENABLED=True, PRECISION="bfloat16")
    cfg.SOLVER.update(IMS_PER_BATCH=2, ACCUMULATION_STEPS=2)
    loop = TinyTrainer(cfg)._trainer
    assert (loop.precision, loop.accumulation_steps) == (torch.bfloat16, 2)
    cfg.SOLVER.AMP.ENABLED = False
    assert TinyTrainer(cfg)._trainer.precision is None


def test_resumed_optimizers_update_as_the_config_says(cfg):
    TinyTrainer(cfg).train()
    cfg.SOLVER.update(MAX_ITER=5, OPTIMIZER_IMPLEMENTATION="fused")
    fused = TinyTrainer(cfg)
    fused.resume_or_load(resume=True)
    assert [group["fused"] for group in fused.optimizer.param_groups] == [True]
    fused.train()
    assert [int(state["step"]) for state in fused.optimizer.state.values()] == [5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"OPTIMIZER": "SGD"},
            r"groups of 1, 2 parameters with amsgrad, betas.*, not of 1, 2 with dampening, mom",
        ),
        ({"OPTIMIZER": "LAMB"}, "with amsgrad, .* with .*grad_averaging"),
        (
            {"WEIGHT_DECAY_NORM": 0.0001},
            r"of 1, 2 parameters with the same settings, not of 3 with the same set",
        ),
    ],
)
def test_another_optimizer_is_not_resumed(cfg, monkeypatch, change, message):
    class Normed(TinyModel):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(1)

        def forward(self, batch):
            return {"loss": self.norm(self.head.weight).sum()}

    monkeypatch.setattr(TinyTrainer, "build_model", classmethod(lambda cls, cfg: Normed()))
    cfg.SOLVER.update(WEIGHT_DECAY=0.0001, WEIGHT_DECAY_NORM=0.3)
    TinyTrainer(cfg).train()
    cfg.SOLVER.update(**change)
    with pytest.raises(ValueError, match=message):
        TinyTrainer(cfg).resume_or_load(resume=True)


def test_groups_of_the_checkpoint_that_are_no_more_are_not_left_out(cfg):
    """The moments of the others may not be those of the parameters that they would be given to."""
    state = TinyTrainer(cfg).state_dict() | {"iteration": 2}
    groups = state["_trainer"]["optimizer"]["param_groups"]
    groups += [groups[0] | {"params": [index]} for index in range(1, 9)]
    with pytest.raises(ValueError, match=r"groups of 1, 1, 1, 1, 1, 1, 1, 1 … \(9 groups\) parameters"):
        TinyTrainer(cfg).load_state_dict(state)


def test_optimizers_of_other_versions_of_pytorch_are_resumed(cfg):
    state = TinyTrainer(cfg).state_dict() | {"iteration": 2}
    groups = state["_trainer"]["optimizer"]["param_groups"]
    groups[:] = [{key: value for key, value in group.items() if key != "capturable"} for group in groups]
    trainer = TinyTrainer(cfg)
    trainer.load_state_dict(state)
    assert trainer.iter == 2


def test_checkpoint_without_optimizer_resumes_with_a_warning(cfg, caplog):
    """Detectron2 0.6 itself writes such checkpoints."""
    state = TinyTrainer(cfg).state_dict()
    del state["_trainer"]
    with caplog.at_level(logging.WARNING, logger=trainer.__name__):
        TinyTrainer(cfg).load_state_dict(state | {"iteration": 2})
    assert "no state of the optimizer" in caplog.text


def test_training_returns_the_last_results_and_checks_them(cfg, monkeypatch):
    cfg.DATASETS.TEST = (NAME,)
    monkeypatch.setattr(TinyTrainer, "test", classmethod(lambda cls, cfg, model: {"sem_seg": {"mIoU": 40.0}}))
    assert TinyTrainer(cfg).train() == {"sem_seg": {"mIoU": 40.0}}
    cfg.TEST.EXPECTED_RESULTS = [["sem_seg", "mIoU", 50.0, 1.0]]
    with pytest.raises(SystemExit):
        TinyTrainer(cfg).train()


@pytest.mark.parametrize("names", [(NAME,), (NAME, f"{NAME}_2")])
def test_test_time_augmentation_evaluates_a_wrapped_model(cfg, tmp_path, monkeypatch, names):
    folders, wrapped = [], []
    cfg.DATASETS.TEST = names

    def evaluate(cls, cfg, model, evaluators):
        wrapped.append(model)
        return {"sem_seg": {"mIoU": 40.0}} if len(names) == 1 else {name: {} for name in names}

    monkeypatch.setattr(
        TinyTrainer, "build_evaluator", classmethod(lambda cls, cfg, name, folder: folders.append(folder))
    )
    monkeypatch.setattr(TinyTrainer, "test", classmethod(evaluate))
    model = TinyModel()
    results = TinyTrainer.test_with_tta(cfg, model)
    assert list(results) == (["sem_seg_TTA"] if len(names) == 1 else [f"{name}_TTA" for name in names])
    assert wrapped[0].model is model and type(wrapped[0]) is MaskFormerWithTTA
    folder = tmp_path / "inference_TTA"
    assert folders == ([str(folder)] if len(names) == 1 else [str(folder / name) for name in names])


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("GeneralizedRCNN", GeneralizedRCNNWithTTA),
        ("MaskFormer", MaskFormerWithTTA),
        ("SemanticSegmentor", SemanticSegmentorWithTTA),
    ],
)
def test_test_time_augmentation_by_architecture(cfg, architecture, expected):
    cfg.MODEL.META_ARCHITECTURE = architecture
    assert trainer.test_time_augmentation(cfg) is expected


def test_loss_that_is_not_finite_stops_training(cfg):
    tiny = TinyTrainer(cfg)
    nn.init.constant_(tiny.model.head.weight, float("nan"))
    with pytest.raises(FloatingPointError, match="iteration 0: losses that are not finite: loss nan"):
        tiny.train()
