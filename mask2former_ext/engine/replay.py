"""A training step in a file: what it takes to repeat it elsewhere, and the repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks, RotatedBoxes
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..files import whole_file
from ..modeling.criterion import SetCriterion
from ..structures import PackedBitMasks
from .faults import first_non_finite_tensor, gradient_fault, kept_buffers, loss_fault
from .step import seed_step

# What a batch may hold beside tensors and plain values: files with anything else are not read, because they could run
# code.
STRUCTURES = [BitMasks, Boxes, Instances, Keypoints, PackedBitMasks, PolygonMasks, RotatedBoxes]
# What arrays of numbers (the corners of PolygonMasks) and NumPy's numbers are made of in a file.
NUMPY = [
    np.empty(0).__reduce__()[0],
    np.float64(0).__reduce__()[0],
    np.ndarray,
    np.dtype,
    *(type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"),
]


@dataclass(frozen=True)
class SavedStep:
    """One step of training, on one process.

    Attributes:
        cfg: of the run.
        model: with the parameters from before the step; DistributedDataParallel may be around it.
        batch: mapped dataset dicts, what the model is given.
        report: what went wrong.
        iteration, seed, rank: what the step's random numbers depend on; without a seed they cannot be repeated.
    """

    cfg: CfgNode
    model: nn.Module
    batch: Sequence[dict[str, Any]]
    report: str
    iteration: int
    seed: int | None
    rank: int

    def save(self, path: str | Path) -> None:
        """Write the step, whole or not at all."""
        content = {
            "config": self.cfg.dump(),
            "model": getattr(self.model, "module", self.model).state_dict(),
            **{name: getattr(self, name) for name in ("report", "iteration", "seed", "rank")},
            "batch": list(self.batch),
        }
        with whole_file(path) as unfinished:
            torch.save(content, unfinished)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "") -> SavedStep:
        """Read a step and build its model.

        Args:
            path: what :meth:`save` wrote.
            device: for the model; by default the run's, or the CPU where there is no such device.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no saved step.
        """
        try:
            with torch.serialization.safe_globals(STRUCTURES + NUMPY):
                content = torch.load(path, map_location="cpu", weights_only=True)
            cfg = CfgNode.load_cfg(content["config"])
        except FileNotFoundError:
            raise FileNotFoundError(f"'{path}' does not exist. Training names the file when it writes one.") from None
        except Exception as error:  # damaged archives, other pickles, dicts without these keys: many kinds
            raise ValueError(
                f"'{path}' is no step that training has saved (non_finite_*.pth): {type(error).__name__}: {error}"
            ) from error
        on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
        cfg.MODEL.DEVICE = device or ("cpu" if on_gpu and not torch.cuda.is_available() else cfg.MODEL.DEVICE)
        cfg.MODEL.TIMM.PRETRAINED = False  # the weights are in the file, and here may be no network
        model = build_model(cfg)
        model.load_state_dict(content["model"])
        return cls(cfg, model, *(content[name] for name in ("batch", "report", "iteration", "seed", "rank")))


@dataclass(frozen=True)
class Replay:
    """What came of repeating a step.

    Attributes:
        losses: by their names.
        fault: which losses or gradients are not finite; None if all are.
        origin: where numbers stop being finite; None if they do not.
    """

    losses: dict[str, float]
    fault: str | None
    origin: str | None


def replay(step: SavedStep, *, precision: torch.dtype | None = None) -> Replay:
    """Repeat a step's forward and backward pass; parameters stay as they are.

    Args:
        step: to repeat.
        precision: what autocast computes in; None for float32.
    """
    model = step.model.train()
    criterion = getattr(model, "criterion", None)
    if isinstance(criterion, SetCriterion):
        criterion.matcher.strict = False
    device = next(model.parameters()).device.type

    def prepare() -> torch.autocast:
        if step.seed is not None:
            seed_step(model, step.seed, step.iteration, step.rank)
        return torch.autocast(device, dtype=precision, enabled=precision is not None)

    model.zero_grad()
    losses: dict[str, Tensor] = {}
    with kept_buffers(model), EventStorage(step.iteration):  # to which models of Detectron2 write figures of theirs
        try:
            with prepare():
                losses = model(step.batch)
            torch.stack(list(losses.values())).sum().backward()
            fault = loss_fault(losses) or gradient_fault(model)
        except FloatingPointError as error:  # some of Detectron2's models look at their outputs themselves
            fault = str(error)
    origin = None
    if fault:
        with prepare(), EventStorage(step.iteration):
            origin = first_non_finite_tensor(model, step.batch)
    return Replay({name: loss.item() for name, loss in losses.items()}, fault, origin)
