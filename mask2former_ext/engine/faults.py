"""Numbers that are not finite, in losses and gradients: found before they reach the parameters, traced, kept.

A fault is met in one of two ways: it ends training with an error that says where it began, and with a file from which
``tools/replay_batch.py`` repeats it; or, up to a limit, the step is left out and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class NonFiniteError(FloatingPointError):
    """A loss or a gradient of a training step is not finite."""


def loss_fault(losses: Mapping[str, Tensor]) -> str | None:
    """Name the losses that are not finite; None if all are."""
    values = torch.stack([loss.detach().float().sum() for loss in losses.values()]).tolist()
    bad = [f"{name} {value}" for name, value in zip(losses, values, strict=True) if not is_finite(value)]
    return f"losses that are not finite: {', '.join(bad)}" if bad else None


def is_finite(value: float) -> bool:
    return value - value == 0.0


def gradient_fault(model: nn.Module) -> str | None:
    """Name the parameters whose gradient is not finite; None if all are. One number is copied to the host."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    if not gradients:
        return None
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(gradients.values()))])
    if is_finite(norms.sum().item()):
        return None
    bad = [name for name, norm in zip(gradients, norms.tolist(), strict=True) if not is_finite(norm)]
    if not bad:  # each is finite, their sum is not: as good as infinite
        bad = list(gradients)
    shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    return f"gradients that are not finite, though all losses are: {shown}"


@torch.no_grad()
def first_non_finite_tensor(model: nn.Module, batch: Sequence[Mapping[str, Any]]) -> str:
    """Tell where numbers stop being finite: in the images, in the parameters, or behind which module.

    The batch goes through the model once more, in all processes that train together; the model stays as it was.
    """
    found = [
        f"the pixels of image {image.get('file_name', 'without a name')}"
        for image in batch
        if "image" in image and not torch.isfinite(image["image"].float()).all()
    ]
    found += [
        f"the {kind} {name}, which an earlier step must have ruined"
        for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers()))
        for name, tensor in tensors
        if not torch.isfinite(tensor).all()
    ]
    names = {module: name for name, module in model.named_modules()}

    def watch(module: nn.Module, arguments: Any, output: Any) -> None:
        if not found and any(not torch.isfinite(tensor).all() for tensor in _tensors(output)):
            found.append(f"the output of {names[module] or 'the model'} ({type(module).__name__})")

    handles = [module.register_forward_hook(watch) for module in names]
    try:
        with kept_buffers(model):
            model(batch)
    except FloatingPointError as error:  # some of Detectron2's models check by themselves
        found.append(str(error))
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the backward pass: all outputs are finite"


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested lists, tuples and dicts."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """After that, buffers (the statistics of batch normalisation, say) are what they were before.

    Yields:
        (buffer, its value before); what is removed from the list stays as it has become.
    """
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield before
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def on_any_process(fault: str | None) -> str | None:
    """Return the fault of this process, else that of another one; all processes call it."""
    if comm.get_world_size() == 1:
        return fault
    faults = comm.all_gather(fault)
    others = [f"{other} (in process {rank})" for rank, other in enumerate(faults) if other]
    return fault or (others[0] if others else None)
