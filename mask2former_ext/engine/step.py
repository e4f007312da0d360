"""One optimizer step after the other: precision, accumulation of gradients, update."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .accumulation import averaged_over, split_batch
from .precision import build_grad_scaler


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
    ) -> None:
        """
        Args:
            model: gives a dict of losses, or one loss, for a batch. DistributedDataParallel may be around it.
            data_loader: gives batches, each of a whole optimizer step.
            optimizer: of the model's parameters.
            precision: what the forward pass computes in where autocast says that it may; None for float32. With
                float16 losses are scaled.
            accumulation_steps: so many parts of a batch go through the model one after the other.
        """
        super().__init__(model, data_loader, optimizer)
        self.precision = precision
        self.accumulation_steps = accumulation_steps
        self.device_type = next(model.parameters()).device.type
        self.grad_scaler = build_grad_scaler(self.device_type, precision)

    @classmethod
    def taking_over(cls, made: SimpleTrainer, **options: Any) -> StepTrainer:
        """Replace the loop that Detectron2 ``made``, without starting its data loader a second time."""
        iterator = made._data_loader_iter
        trainer = cls(made.model, iterator, made.optimizer, **options)
        assert trainer._data_loader_iter is iterator
        trainer.data_loader = made.data_loader
        return trainer

    def run_step(self) -> None:
        """Take a batch, compute its gradients, log its losses, update the parameters."""
        assert self.model.training, "the model was changed to evaluation mode"
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        losses = self._backward(batch)
        # before the update, so that a loss that is not finite stops training with parameters that still are
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

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
        """
        own = self.optimizer.state_dict()["param_groups"]
        saved = state_dict["optimizer"]
        groups = [
            group | {key: built[key] for key in ("foreach", "fused") if key in built}
            for group, built in zip(saved["param_groups"], own, strict=False)
        ]
        super().load_state_dict(state_dict | {"optimizer": saved | {"param_groups": groups}})
        if self.grad_scaler.is_enabled() and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
