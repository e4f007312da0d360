"""One optimizer step after the other: precision, accumulation of gradients, update."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.training_loader import Batches
from ..modeling.criterion import SetCriterion
from ..seeding import derive_seed
from .accumulation import averaged_over, split_batch
from .faults import NonFiniteError, first_non_finite_tensor, gradient_fault, kept_buffers, loss_fault, on_any_process
from .precision import build_grad_scaler

logger = logging.getLogger(__name__)

SaveStep = Callable[[Sequence[dict[str, Any]], str], str]

# What random numbers of a step are for; samples of the data have seeds of another form, see data/training_loader.py.
MODEL, POINTS = range(2)
# A loss scale below this makes losses smaller than they are: gradients that overflow then have another cause.
SMALLEST_SCALE = 1.0
# Settings of an optimizer's groups: by which kernels it updates, and what schedules add.
KERNELS = ("foreach", "fused")
OF_SCHEDULE = "initial_lr"


class StepTrainer(SimpleTrainer):
    """Detectron2's inner training loop, with mixed precision on any device and with gradient accumulation."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        precision: torch.dtype | None = None,
        accumulation_steps: int = 1,
        seed: int | None = None,
        max_non_finite_steps: int = 0,
        save_step: SaveStep | None = None,
    ) -> None:
        """
        Args:
            model: gives a dict of losses, or one loss, for a batch. DistributedDataParallel may be around it.
            data_loader: gives batches, each of a whole optimizer step.
            optimizer: of the model's parameters.
            precision: what the forward pass computes in where autocast says that it may; None for float32. With
                float16 losses are scaled.
            accumulation_steps: so many parts of a batch go through the model one after the other.
            seed: random numbers of a step depend on it, on the iteration and on the process, and on nothing else; None
                leaves them to PyTorch's global generator.
            max_non_finite_steps: so many steps whose losses or gradients are not finite are left out; the next ends
                training.
            save_step: keeps the batch of such a step, with a report, and returns the path of the file.
        """
        super().__init__(model, data_loader, optimizer)
        self.precision = precision
        self.accumulation_steps = accumulation_steps
        self.seed = seed
        self.max_non_finite_steps = max_non_finite_steps
        self.non_finite_steps = 0
        self._save_step = save_step
        self.device_type = next(model.parameters()).device.type
        self.grad_scaler = build_grad_scaler(self.device_type, precision)
        self._bare_model = getattr(model, "module", model)
        self._criterion = getattr(self._bare_model, "criterion", None)
        if isinstance(self._criterion, SetCriterion):
            self._criterion.matcher.strict = False  # run_step looks for its fault

    def run_step(self) -> None:
        """Take a batch, compute its gradients, log its losses, update the parameters.

        Raises:
            NonFiniteError: a loss or a gradient is not finite, and no more such steps may be left out.
        """
        assert self.model.training, "the model was changed to evaluation mode"
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self._seed_step()
        self.optimizer.zero_grad()
        with kept_buffers(self._bare_model if self.max_non_finite_steps else nn.Module()) as buffers:
            try:
                losses = self._backward(batch)
                fault = on_any_process(self._fault(losses))
            except FloatingPointError as error:  # some of Detectron2's models look at their outputs themselves
                if comm.get_world_size() > 1:
                    raise  # the others are in the middle of their step
                fault = str(error)
            if fault is None:
                buffers.clear()
        if fault is not None:
            self._leave_out(batch, fault)
            return
        self._count_bad_images()
        # before the update, so that a problem met there stops training with parameters that still are
        self._write_metrics(losses, data_time)
        self._update()

    def end_loading(self) -> None:
        """End the processes that load batches, which live as long as the trainer otherwise. A step starts them anew."""
        if isinstance(self._data_loader_iter, Batches):
            self._data_loader_iter.close()

    def _fault(self, losses: Mapping[str, Tensor]) -> str | None:
        """Say what is not finite. With a scaler gradients may be so: it lowers the scale, see :meth:`_update`."""
        own = self._criterion.matcher.fault if isinstance(self._criterion, SetCriterion) else None
        fault = own or loss_fault(losses)
        return fault if fault or self.grad_scaler.is_enabled() else gradient_fault(self._bare_model)

    def _leave_out(self, batch: Sequence[dict[str, Any]], fault: str) -> None:
        """Report a step that is not finite; raise NonFiniteError when there were too many."""
        self.non_finite_steps += 1
        self.optimizer.zero_grad()
        self._seed_step()
        with torch.autocast(self.device_type, dtype=self.precision, enabled=self.precision is not None):
            origin = first_non_finite_tensor(self._bare_model, batch)
        images = ", ".join(str(image.get("file_name", "without a name")) for image in batch)
        rates = ", ".join(f"{rate:g}" for rate in sorted({group["lr"] for group in self.optimizer.param_groups}))
        report = (
            f"iteration {self.iter}: {fault.rstrip('.')}. First not finite: {origin}. Learning rates: {rates}. Images "
            f"of this process: {images}."
        )
        last = self.non_finite_steps > self.max_non_finite_steps
        if self._save_step is not None and (last or self.non_finite_steps == 1):
            report += _kept(self._save_step, batch, report)
        if last:
            raise NonFiniteError(
                f"{report} What helps most often: a lower SOLVER.BASE_LR, SOLVER.CLIP_GRADIENTS, float32 or bfloat16 "
                f"for float16. SOLVER.MAX_NON_FINITE_STEPS (now {self.max_non_finite_steps}) leaves out such steps."
            )
        logger.error("Step %d of at most %d left out. %s", self.non_finite_steps, self.max_non_finite_steps, report)
        get_event_storage().put_scalar("non_finite_steps", self.non_finite_steps, smoothing_hint=False)

    def _update(self) -> None:
        """Update the parameters. With a scaler, gradients that overflowed lower the scale instead, as they should."""
        before = self.grad_scaler.get_scale() if self.grad_scaler.is_enabled() else 0.0
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        scale = self.grad_scaler.get_scale() if self.grad_scaler.is_enabled() else 0.0
        if scale < before:
            logger.info(
                "Iteration %d: float16 gradients overflowed, so the scale of the losses is lowered to %g and this step "
                "has no effect. That is normal at the start and now and then.",
                *(self.iter, scale),
            )
            if scale < SMALLEST_SCALE:
                raise NonFiniteError(
                    f"iteration {self.iter}: float16 gradients overflow even with losses scaled by {scale:g}, so that "
                    "no step has an effect any more. Train with SOLVER.AMP.PRECISION bfloat16, or in float32."
                )

    def _count_bad_images(self) -> None:
        count = getattr(self.data_loader, "num_bad_images", 0)
        if count:
            get_event_storage().put_scalar("bad_images", count, smoothing_hint=False)

    def _seed_step(self) -> None:
        """Give this iteration random numbers of its own: a resumed run has them without any state being saved."""
        if self.seed is not None:
            seed_step(self._bare_model, self.seed, self.iter, comm.get_rank())

    def _backward(self, batch: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Add the gradients of all losses of ``batch`` to the parameters; returns the losses."""
        if self.accumulation_steps == 1:
            return self._backward_part(batch, 1.0)
        losses: dict[str, Tensor] = {}
        parts = split_batch(batch, self.accumulation_steps)
        with averaged_over(self.model, batch) as factor:
            for part in parts:
                with nullcontext() if part is parts[-1] else self._without_synchronisation():
                    own = self._backward_part(part, factor(part))
                losses = {name: losses[name] + loss if name in losses else loss for name, loss in own.items()}
        return losses

    def _backward_part(self, part: Sequence[dict[str, Any]], factor: float) -> dict[str, Tensor]:
        with torch.autocast(self.device_type, dtype=self.precision, enabled=self.precision is not None):
            losses = self.model(part)
        if isinstance(losses, Tensor):
            losses = {"total_loss": losses}
        if factor != 1.0:
            losses = {name: loss * factor for name, loss in losses.items()}
        self.grad_scaler.scale(sum(losses.values())).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _without_synchronisation(self) -> AbstractContextManager[None]:
        """Within, workers keep their gradients to themselves: those of the last part bring the sums together."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state, and with float16 the scaler's."""
        state = super().state_dict()
        return state | {"grad_scaler": self.grad_scaler.state_dict()} if self.grad_scaler.is_enabled() else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume; the scaler's state may be absent, as it is after training in another precision.

        By which kernels the optimizer updates is no state: it goes on by those that it was built for.

        Raises:
            ValueError: the state is of another optimizer, or of other groups of parameters.
        """
        own = self.optimizer.state_dict()["param_groups"]
        saved = state_dict["optimizer"]
        _require_same_optimizer(saved["param_groups"], own)
        groups = [
            group | {key: built[key] for key in KERNELS if key in built}
            for group, built in zip(saved["param_groups"], own, strict=True)
        ]
        super().load_state_dict(state_dict | {"optimizer": saved | {"param_groups": groups}})
        if self.grad_scaler.is_enabled() and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _kept(save_step: SaveStep, batch: Sequence[dict[str, Any]], report: str) -> str:
    """Keep a step, and return a sentence on how to repeat it, or on why it could not be kept."""
    try:
        return f" To repeat this step: python tools/replay_batch.py {save_step(batch, report)} ."
    except OSError as error:  # of a full disk, say, which is not what training ends by
        return f" The step could not be kept: {error}."


def _require_same_optimizer(saved: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError if ``saved`` groups are not of the optimizer that has its ``own``.

    Versions of PyTorch may add settings, or have some no more; another optimizer has others instead.
    """
    sizes = [[len(group["params"]) for group in groups] for groups in (saved, own)]
    lost, new = (
        {key for group in some for key in group} - {key for group in others for key in group} - {*KERNELS, OF_SCHEDULE}
        for some, others in ((saved, own), (own, saved))
    )
    if sizes[0] == sizes[1] and not (lost and new):
        return
    settings = [", ".join(sorted(keys)) or "the same settings" for keys in (lost, new)]
    raise ValueError(
        "the checkpoint holds the state of another optimizer than the config describes: groups of "
        f"{_shortened(sizes[0])} parameters with {settings[0]}, not of {_shortened(sizes[1])} with {settings[1]}. "
        "Resume with the SOLVER and the frozen parts that it was trained with; or start anew from its weights, by "
        "MODEL.WEIGHTS and without --resume."
    )


def _shortened(sizes: Sequence[int], limit: int = 8) -> str:
    rest = f" … ({len(sizes)} groups)" if len(sizes) > limit else ""
    return ", ".join(map(str, sizes[:limit])) + rest


def seed_step(model: nn.Module, seed: int, iteration: int, rank: int) -> None:
    """Seed what a training step draws: PyTorch's global generators (dropout), and that of the criterion's points."""
    torch.manual_seed(derive_seed(seed, iteration, rank, MODEL))
    criterion = getattr(model, "criterion", None)
    if isinstance(criterion, SetCriterion):
        criterion.seed_points(derive_seed(seed, iteration, rank, POINTS))
