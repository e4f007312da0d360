"""Exponential moving average of a model's weights (``MODEL_EMA``): kept in training, evaluated, saved, resumed."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..files import whole_file

logger = logging.getLogger(__name__)

# Entry of checkpoint files, beside Detectron2's "model" and "trainer".
CHECKPOINT_KEY = "ema"
FINAL_MODEL = "model_final_ema.pth"
SUFFIX = "_EMA"


class WeightAverage:
    """Average of a model's parameters and floating-point buffers over the steps of its training.

    After n steps the newest weights enter with the share 1 - min(decay, (1 + n) / (10 + n)): the average of a run that
    has just started is not held back by where it started from.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: whose weights to average; DistributedDataParallel may be around it.
            decay: share of the average that a step leaves, in [0, 1).

        Raises:
            ValueError: ``decay`` is out of range.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"MODEL_EMA.DECAY is {decay}, but must be at least 0 and below 1.")
        self.model = getattr(model, "module", model)
        self.decay = decay
        self.num_updates = 0
        self.weights = {name: tensor.clone() for name, tensor in self._current().items()}

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> WeightAverage | None:
        """Return the average that ``cfg.MODEL_EMA`` asks for, or None."""
        return cls(model, cfg.MODEL_EMA.DECAY) if cfg.MODEL_EMA.ENABLED else None

    def _current(self) -> dict[str, Tensor]:
        """What is averaged, as it is in the model now; the same memory."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if tensor.is_floating_point()}

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew, from the model's weights."""
        self.num_updates = 0
        for name, tensor in self._current().items():
            self.weights[name].copy_(tensor)

    def update(self) -> None:
        """Take in the model's weights after one more step."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = self._current()
        newest = [current[name] for name in self.weights]
        get_ema_multi_avg_fn(decay)(list(self.weights.values()), newest, self.num_updates)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model has the averaged weights; after that exactly its own again."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        # one tensor after the other, because memory may not suffice for a third set of weights
        names: dict[tuple[int, torch.Size], str] = {}
        for name, tensor in self._current().items():
            first = names.setdefault((tensor.data_ptr(), tensor.shape), name)
            if first != name:  # a parameter that modules share, which is exchanged already
                self.weights[name].copy_(self.weights[first])
                continue
            averaged = self.weights[name].clone()
            self.weights[name].copy_(tensor)
            tensor.copy_(averaged)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds: ``weights``, under the model's names, and ``num_updates``."""
        return {"num_updates": self.num_updates, "weights": self.weights}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`; ValueError when it is of a model with other names or shapes."""
        own, saved = (
            {name: tensor.shape for name, tensor in weights.items()}
            for weights in (self.weights, state_dict["weights"])
        )
        different = sorted({name for name, _ in own.items() ^ saved.items()})
        if different:
            raise ValueError(
                f"the averaged weights of the checkpoint are of another model: {len(different)} names are in one of "
                f"the two only, or of other shapes, among them {different[:3]}. To do without them, append: "
                "MODEL_EMA.ENABLED False"
            )
        self.num_updates = state_dict["num_updates"]
        for name, tensor in state_dict["weights"].items():
            self.weights[name].copy_(tensor)


class WeightAverageHook(HookBase):
    """Updates the average after every step; at the end of training writes a model file with it, ``FINAL_MODEL``."""

    def __init__(self, average: WeightAverage, output_dir: str) -> None:
        """``average`` is of the trainer's model; ``output_dir`` gets the file."""
        self.average = average
        self.output_dir = output_dir

    def before_train(self) -> None:
        if not self.average.num_updates:  # weights were loaded since the average was made
            self.average.restart()

    def after_step(self) -> None:
        self.average.update()

    def after_train(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter or not comm.is_main_process():
            return
        path = os.path.join(self.output_dir, FINAL_MODEL)
        with whole_file(path) as unfinished:
            torch.save({"model": self.average.model.state_dict() | self.average.weights}, unfinished)
        logger.info("The averaged weights alone, as a model of their own, are in %s", path)


def load_average(cfg: CfgNode, model: nn.Module, checkpoint: Mapping[str, Any]) -> WeightAverage | None:
    """Return the average that a loaded checkpoint holds beside the model.

    Args:
        cfg: None is returned unless ``MODEL_EMA.ENABLED`` is set.
        model: that the checkpoint was loaded into.
        checkpoint: what else the file holds, as a checkpointer's ``load`` returns it.
    """
    if not cfg.MODEL_EMA.ENABLED:
        return None
    if CHECKPOINT_KEY not in checkpoint:
        logger.warning(
            "MODEL_EMA.ENABLED is set, but the checkpoint holds no averaged weights: its only ones are used."
        )
        return None
    average = WeightAverage(model, cfg.MODEL_EMA.DECAY)
    average.load_state_dict(checkpoint[CHECKPOINT_KEY])
    return average


def evaluate_average(
    test: Callable[[], Mapping[str, Any]], average: WeightAverage | None, *, both: bool
) -> OrderedDict[str, Any]:
    """Evaluate a model with its averaged weights.

    Args:
        test: evaluates the model as it is.
        average: of the model's weights; with None its own weights are evaluated, and nothing else.
        both: evaluate its own weights too (``MODEL_EMA.EVALUATE_BOTH``).

    Returns:
        Results as ``test`` gives them; with ``both`` those of the average are added, with ``SUFFIX`` at the outermost
        keys.
    """
    if average is None:
        return OrderedDict(test())
    own = OrderedDict(test()) if both else OrderedDict()
    with average.applied():
        averaged = test()
    own.update({f"{key}{SUFFIX}" if both else key: figures for key, figures in averaged.items()})
    return own
