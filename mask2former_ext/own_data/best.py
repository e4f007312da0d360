"""Keeping the best of the models that were evaluated in training."""

from __future__ import annotations

import json
import logging
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine.hooks import BestCheckpointer, EvalHook, PeriodicCheckpointer
from detectron2.engine.train_loop import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ..engine import Trainer
from ..files import whole_file, write_json

logger = logging.getLogger(__name__)

BEST_MODEL = "model_best.pth"
BEST_FIGURES = "best.json"
HEADLINES = {"coco": "segm/AP", "coco_panoptic_seg": "panoptic_seg/PQ", "sem_seg": "sem_seg/mIoU"}
"""Type of evaluator → the metric by which models are compared; more is better."""


class _WeightsFile:
    """What ``BestCheckpointer`` saves through: weights alone, whole or not at all.

    Detectron2's checkpointers would note the file as the last checkpoint, which resuming begins from.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = weakref.proxy(trainer)  # which holds, by its hooks, this

    def save(self, name: str, iteration: int) -> None:
        """Write the weights that were evaluated: the average (``MODEL_EMA``), where that is what gets evaluated."""
        trainer = self._trainer
        weights = getattr(trainer.model, "module", trainer.model).state_dict()
        if trainer.average is not None and not trainer.cfg.MODEL_EMA.EVALUATE_BOTH:
            weights = weights | trainer.average.weights
        with whole_file(Path(trainer.cfg.OUTPUT_DIR) / f"{name}.pth") as unfinished:
            torch.save({"model": weights, "iteration": iteration}, unfinished)


class KeepBest(BestCheckpointer):
    """Detectron2's hook, with a record of the best figures beside the model, from which a resumed run knows them."""

    def __init__(self, trainer: Trainer, metric: str) -> None:
        """
        Args:
            trainer: whose model is kept; its hooks hold a hook that evaluates, before this one.
            metric: compared; task/name.
        """
        self._folder = Path(trainer.cfg.OUTPUT_DIR)
        self._metric = metric
        super().__init__(trainer.cfg.TEST.EVAL_PERIOD, _WeightsFile(trainer), metric)

    def before_train(self) -> None:
        """Take up the best figure of the run that is resumed; a run that begins anew forgets it."""
        record = self._folder / BEST_FIGURES
        if self.trainer.start_iter == 0:
            record.unlink(missing_ok=True)
        elif record.is_file() and (self._folder / BEST_MODEL).is_file():
            best = json.loads(record.read_text(encoding="utf-8"))
            self.best_metric, self.best_iter = best["value"], best["iterations"] - 1
            logger.info(
                "The best model so far, after %d iterations: %s %.2f", best["iterations"], self._metric, best["value"]
            )

    def after_step(self) -> None:
        self._note_if_better(super().after_step)

    def after_train(self) -> None:
        self._note_if_better(super().after_train)

    def _note_if_better(self, check: Callable[[], None]) -> None:
        before = self.best_iter
        check()
        if self.best_iter == before:
            return
        results = flatten_results_dict(self.trainer.last_results)
        content = {
            "metric": self._metric,
            "value": self.best_metric,
            "iterations": min(self.trainer.iter + 1, self.trainer.max_iter),
            "results": {key: value for key, value in results.items() if math.isfinite(value)},
        }
        write_json(self._folder / BEST_FIGURES, content, indent=1)


class OwnDataTrainer(Trainer):
    """Keeps the best model and, of the checkpoints to resume from, the newest."""

    @property
    def last_results(self) -> dict[str, Any]:
        """Results of the last evaluation, task → metric → figure."""
        return self._last_eval_results

    def build_hooks(self) -> list[HookBase | None]:
        built = super().build_hooks()
        if not comm.is_main_process():
            return built
        for hook in built:
            if isinstance(hook, PeriodicCheckpointer):
                hook.max_to_keep = 2  # should the last be damaged
        types = [MetadataCatalog.get(name).get("evaluator_type") for name in self.cfg.DATASETS.TEST[:1]]
        metric = HEADLINES.get(types[0]) if types else None
        if metric is None:
            logger.warning("DATASETS.TEST is %s, by which models are not compared.", list(self.cfg.DATASETS.TEST))
            return built
        position = next(index for index, hook in enumerate(built) if isinstance(hook, EvalHook))
        built.insert(position + 1, KeepBest(self, metric))
        return built
