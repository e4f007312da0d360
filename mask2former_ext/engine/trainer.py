"""The trainer: Detectron2's, with this package's data, optimizer, schedules and evaluators."""

from __future__ import annotations

import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, create_ddp_model
from detectron2.engine.hooks import EvalHook
from detectron2.engine.train_loop import HookBase, TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ..checkpoint import build_checkpointer
from ..config import is_maskformer
from ..data import TrainingLoader, build_dataset_mapper, build_training_loader
from ..evaluation import build_evaluator
from ..modeling.test_time_augmentation import MaskFormerWithTTA, SemanticSegmentorWithTTA
from ..solver import build_optimizer
from .checks import check_dataset_mapper, check_datasets, check_device, check_solver, for_this_machine
from .ema import CHECKPOINT_KEY, WeightAverage, WeightAverageHook, evaluate_average
from .interruption import Interrupted, Interruption, InterruptionHook, save_iteration
from .model_options import apply_model_options
from .precision import autocast_dtype
from .replay import SavedStep
from .results import verify_expected_results
from .step import StepTrainer

logger = logging.getLogger(__name__)

# Meta-architecture -> what wraps a model of it for test-time augmentation
TEST_TIME_AUGMENTATION = {
    "GeneralizedRCNN": GeneralizedRCNNWithTTA,
    "MaskFormer": MaskFormerWithTTA,
    "SemanticSegmentor": SemanticSegmentorWithTTA,
}

SCHEDULE_POSITION = {"base_lrs", "last_epoch", "_step_count", "_last_lr"}


def test_time_augmentation(cfg: CfgNode) -> Callable[[CfgNode, nn.Module], nn.Module]:
    """Return what wraps a model for test-time augmentation; ValueError if the meta-architecture has none."""
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in TEST_TIME_AUGMENTATION:
        raise ValueError(
            f"TEST.AUG.ENABLED is set, but there is no test-time augmentation for {name}; there is for "
            f"{', '.join(TEST_TIME_AUGMENTATION)}. Append: TEST.AUG.ENABLED False"
        )
    return TEST_TIME_AUGMENTATION[name]


class Trainer(DefaultTrainer):
    """Trains and evaluates MaskFormer, and any other model that a Detectron2 config describes.

    MaskFormer configs get the mapper of ``INPUT.DATASET_MAPPER_NAME`` and the optimizer rule of this package; other
    configs get Detectron2's own. Logs, TensorBoard, periodic evaluation and the layout of checkpoints are Detectron2's.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Build everything that training needs.

        Raises:
            ValueError: the config asks for a mapper, optimizer, dataset, evaluator, device or precision that does not
                exist, or for more parts of a batch than it has images.
        """
        check_device(cfg)
        check_dataset_mapper(cfg)
        check_datasets(cfg)
        check_solver(cfg)
        if cfg.TEST.AUG.ENABLED:
            test_time_augmentation(cfg)
        # Not DefaultTrainer's: that takes processes for GPUs, and has a step, checkpointer and scaler of its own.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        self.cfg = cfg = DefaultTrainer.auto_scale_workers(for_this_machine(cfg), comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        devices = {"device_ids": None} if cfg.MODEL.DEVICE.startswith("cpu") else {}
        self._trainer = StepTrainer(
            create_ddp_model(model, broadcast_buffers=False, **devices),
            loader,
            optimizer,
            precision=autocast_dtype(cfg),
            accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
            seed=loader.seed if isinstance(loader, TrainingLoader) else None,
            max_non_finite_steps=cfg.SOLVER.MAX_NON_FINITE_STEPS,
            save_step=self._save_step,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.interruption = Interruption()
        self.average = WeightAverage.from_config(cfg, self.model)
        saved = {"trainer": weakref.proxy(self)} | ({CHECKPOINT_KEY: self.average} if self.average else {})
        self.checkpointer = build_checkpointer(cfg, self.model, new_classes=True, **saved)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase | None]:
        """Build Detectron2's hooks, and more.

        Those are for signals, for :meth:`test_with_tta` at the end of training (``TEST.AUG.ENABLED``), and for the
        moving average of the weights (``MODEL_EMA.ENABLED``).
        """
        cfg = self.cfg
        built = super().build_hooks()
        position = next(index for index, hook in enumerate(built) if isinstance(hook, EvalHook))
        built[position] = EvalHook(cfg.TEST.EVAL_PERIOD, self._test)
        if cfg.TEST.AUG.ENABLED:
            # right after the evaluation, and before results are written
            built.insert(position + 1, EvalHook(0, self._test_with_tta))
        built.insert(position, InterruptionHook(self.interruption, self.checkpointer))
        if self.average is not None:
            # before the hook that writes checkpoints
            built.insert(0, WeightAverageHook(self.average, cfg.OUTPUT_DIR))
        return built

    def _save_step(self, batch: Sequence[dict[str, Any]], report: str) -> str:
        path = os.path.join(self.cfg.OUTPUT_DIR, f"non_finite_{self.iter:07d}_{comm.get_rank()}.pth")
        step = SavedStep(self.cfg, self.model, batch, report, self.iter, self._trainer.seed, comm.get_rank())
        step.save(path)
        return path

    def _test(self) -> dict[str, Any]:
        self._last_eval_results = self._evaluate(self.test)
        return self._last_eval_results

    def _test_with_tta(self) -> dict[str, Any]:
        self._last_tta_results = self._evaluate(self.test_with_tta)
        return self._last_tta_results

    def _evaluate(self, test: Callable[[CfgNode, nn.Module], dict[str, Any]]) -> dict[str, Any]:
        def test_at_once() -> dict[str, Any]:
            with self.interruption.at_once():  # not while weights are exchanged: half of them would be saved
                return test(self.cfg, self.model)

        try:
            return evaluate_average(test_at_once, self.average, both=self.cfg.MODEL_EMA.EVALUATE_BOTH)
        except Interrupted:
            if self.iter < self.max_iter:
                save_iteration(self.checkpointer, self.iter)
            raise

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build Detectron2's model of ``MODEL.META_ARCHITECTURE``; see :func:`apply_model_options`."""
        model = super().build_model(cfg)
        apply_model_options(cfg, model)
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Return the iterable of training batches; see :func:`mask2former_ext.data.build_training_loader`."""
        return build_training_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Return the iterable of batches to evaluate on: lists of one mapped dataset dict."""
        if not is_maskformer(cfg):
            return super().build_test_loader(cfg, dataset_name)
        return build_detection_test_loader(cfg, dataset_name, mapper=build_dataset_mapper(cfg, is_train=False))

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See :func:`mask2former_ext.solver.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Build the schedule: DeepLab's ``WarmupPolyLR``, or one of Detectron2's."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_dir: str | None = None) -> DatasetEvaluator:
        """See :func:`mask2former_ext.evaluation.build_evaluator`."""
        return build_evaluator(cfg, dataset_name, output_dir)

    @classmethod
    def test_with_tta(cls, cfg: CfgNode, model: nn.Module) -> OrderedDict[str, Any]:
        """Evaluate with test-time augmentation (``TEST.AUG``).

        Predictions are written to ``OUTPUT_DIR/inference_TTA``, with a folder for each dataset in it when there are
        several.

        Returns:
            Results as those of ``test``, with ``_TTA`` added to the outermost keys.
        """
        output_dir = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        names = cfg.DATASETS.TEST
        evaluators = [
            cls.build_evaluator(cfg, name, os.path.join(output_dir, name) if len(names) > 1 else output_dir)
            for name in names
        ]
        results = cls.test(cfg, test_time_augmentation(cfg)(cfg, model), evaluators)
        return OrderedDict((f"{task}_TTA", figures) for task, figures in results.items())

    def train(self) -> dict[str, Any] | None:
        """Train from ``start_iter`` to ``SOLVER.MAX_ITER``.

        Returns:
            The results of the last evaluation, with and without test-time augmentation, on the main process and when
            ``DATASETS.TEST`` names any dataset.

        Ends the process with status 1 when the last results are not those of ``TEST.EXPECTED_RESULTS``. On SIGTERM and
        SIGINT it finishes the iteration, writes a checkpoint and ends the process with status 128 + the signal.
        """
        loader = self._trainer.data_loader
        if isinstance(loader, TrainingLoader):
            loader.start_at(self.start_iter)
        try:
            with self.interruption.handled():
                TrainerBase.train(self, self.start_iter, self.max_iter)
        finally:
            self._trainer.end_loading()
        if not comm.is_main_process():
            return None
        results = getattr(self, "_last_eval_results", {}) | getattr(self, "_last_tta_results", {})
        verify_expected_results(self.cfg, results)
        return results

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the model.

        Detectron2 0.6 leaves the optimizer (and the scale of mixed precision) out, so that resumed training starts with
        empty moments; later versions keep it under the key that is used here.
        """
        return super().state_dict() | {"_trainer": self._trainer.state_dict(), "seed": self._trainer.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from :meth:`state_dict`; a checkpoint may lack the optimizer, or the scale of mixed precision.

        From the schedule's state only the position is taken. The state of DeepLab's ``WarmupPolyLR`` has its settings
        too, among them the number of iterations, with which a run that goes on for longer would fail at its end.
        """
        hooks = dict(state_dict.get("hooks", {}))
        if "LRScheduler" in hooks:
            hooks["LRScheduler"] = {
                key: hooks["LRScheduler"][key] for key in SCHEDULE_POSITION & hooks["LRScheduler"].keys()
            }
        TrainerBase.load_state_dict(self, state_dict | {"hooks": hooks})
        self._go_on_with_seed(state_dict.get("seed"))
        if "_trainer" not in state_dict:
            logger.warning("The checkpoint has no state of the optimizer: resuming with the moments of a fresh one.")
        self._trainer.load_state_dict(self._trainer.state_dict() | state_dict.get("_trainer", {}))

    def _go_on_with_seed(self, seed: int | None) -> None:
        """Take the seed of the run that is resumed, unless the config has one."""
        loader = self._trainer.data_loader
        if seed is not None and self.cfg.SEED < 0 and isinstance(loader, TrainingLoader):
            self._trainer.seed = loader.seed = seed
