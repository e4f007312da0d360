"""Implementations of multi-scale deformable attention that can be called here: this package's and others'."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mask2former_ext.ops import ms_deform_attn
from mask2former_ext.ops.extension import choose, load_extension
from mask2former_ext.ops.reference import ms_deform_attn_reference

from .op_cases import OpInputs

COMPILED, REFERENCE = "compiled", "reference"


@dataclass(frozen=True)
class Implementation:
    """One implementation.

    Attributes:
        name: as reports show it.
        call: from inputs to the output.
        composed: whether it is made of PyTorch's operators, which write all samples to memory.
        narrow: those of the inputs ("locations", "weights") that it wants in the dtype of value.
        shapes_on_device: whether it wants level shapes and starts where value is.
    """

    name: str
    call: Callable[[OpInputs], Tensor]
    composed: bool = False
    narrow: tuple[str, ...] = ()
    shapes_on_device: bool = False

    def adapt(self, inputs: OpInputs) -> OpInputs:
        """The inputs as this implementation takes them."""
        changes = {name: getattr(inputs, name).to(inputs.value.dtype) for name in self.narrow}
        if self.shapes_on_device:
            changes["spatial_shapes"] = inputs.spatial_shapes.to(inputs.value.device)
            changes["level_starts"] = inputs.level_starts.to(inputs.value.device)
        return replace(inputs, **changes)


def _compiled(device: torch.device) -> Implementation:
    """Raises RuntimeError where nothing is compiled for the device."""
    choice = choose(device, load_extension())
    if not choice.compiled:
        raise RuntimeError(choice.reason)

    def call(inputs: OpInputs) -> Tensor:
        return ms_deform_attn(
            inputs.value, inputs.spatial_shapes, inputs.level_starts, inputs.locations, inputs.weights
        )

    return Implementation(COMPILED, call)


def _reference(device: torch.device) -> Implementation:
    def call(inputs: OpInputs) -> Tensor:
        return ms_deform_attn_reference(inputs.value, inputs.level_shapes, inputs.locations, inputs.weights)

    return Implementation(REFERENCE, call, composed=True)


def _titled(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def _deformops(device: torch.device) -> Implementation:
    operator: Any = importlib.import_module("deformops.registry").msda

    def call(inputs: OpInputs) -> Tensor:
        return operator(inputs.value, inputs.spatial_shapes, inputs.level_starts, inputs.locations, inputs.weights)

    return Implementation(
        _titled("deformops"), call, composed=device.type == "cpu", narrow=("weights",), shapes_on_device=True
    )


def _transformers(device: torch.device) -> Implementation:
    module = importlib.import_module("transformers.models.mask2former.modeling_mask2former")
    function: Any = module.multi_scale_deformable_attention

    def call(inputs: OpInputs) -> Tensor:
        return function(inputs.value, inputs.level_shapes, inputs.locations, inputs.weights)

    return Implementation(_titled("transformers"), call, composed=True, narrow=("locations", "weights"))


def _mmcv(device: torch.device) -> Implementation:
    module = importlib.import_module("mmcv.ops.multi_scale_deform_attn")
    composed: Any = module.multi_scale_deformable_attn_pytorch
    kernel: Any = module.MultiScaleDeformableAttnFunction.apply

    def call(inputs: OpInputs) -> Tensor:
        if device.type != "cuda":
            return composed(inputs.value, inputs.spatial_shapes, inputs.locations, inputs.weights)
        shapes, starts, batch = inputs.spatial_shapes, inputs.level_starts, inputs.value.shape[0]
        return kernel(inputs.value, shapes, starts, inputs.locations, inputs.weights, batch)

    return Implementation(
        _titled("mmcv"),
        call,
        composed=device.type != "cuda",
        narrow=("locations", "weights"),
        shapes_on_device=True,
    )


FINDERS: dict[str, Callable[[torch.device], Implementation]] = {
    COMPILED: _compiled,
    REFERENCE: _reference,
    "deformops": _deformops,
    "transformers": _transformers,
    "mmcv": _mmcv,
}


def find_implementations(device: torch.device) -> tuple[list[Implementation], dict[str, str]]:
    """Look for every implementation that this module knows.

    Returns:
        Those that can be called on ``device``, and for each other one why it cannot.
    """
    found, absent = [], {}
    for name, find in FINDERS.items():
        try:
            found.append(find(device))
        except Exception as error:  # whatever another package raises when it is imported is no reason to end
            absent[name] = " ".join(f"{error}".split()) or type(error).__name__
    return found, absent
