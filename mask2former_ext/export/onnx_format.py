"""ONNX files, written by torch's exporter and run by ONNX Runtime."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .capture import capture, reason_of
from .description import Description, to_strings
from .runner import ExportedModel, Outputs

# GridSample came with 16; torch's exporter writes 18 and converts from there.
DEFAULT_OPSET = 20
SMALLEST_OPSET = 16
AXES = {0: "batch", 2: "height", 3: "width"}


def save_onnx(
    module: nn.Module, example: Tensor, path: Path, description: Description, *, static: bool, opset: int | None
) -> None:
    """Write ``path``, and where weights take more than a file may hold, ``path`` with ``.data`` added beside it.

    The description goes into the metadata properties, a string for each of its fields.

    Raises:
        ImportError: ``onnx`` or ``onnxscript`` is not installed.
        ValueError: the module cannot be exported, or not to that operator set.
    """
    for name in ("onnx", "onnxscript"):
        import_package(name)
    opset = DEFAULT_OPSET if opset is None else opset
    if opset < SMALLEST_OPSET:
        raise ValueError(f"opset {opset} has no GridSample, which the model needs; take {SMALLEST_OPSET} or newer.")
    program = capture(module, example, static=static)
    try:
        converted = torch.onnx.export(
            program,
            input_names=["images"],
            output_names=list(description.outputs),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"torch.onnx does not export this model: {reason_of(error)}") from error
    assert converted is not None  # as it is without a path to write
    if not static:
        shape = converted.model.graph.inputs[0].shape
        assert shape is not None
        converted.rename_axes({str(shape[axis]): name for axis, name in AXES.items()})
    converted.model.metadata_props.update(to_strings(asdict(description)))
    converted.save(path)


def load_onnx(path: Path) -> ExportedModel:
    """Load for ONNX Runtime, on the CPU.

    Raises:
        ImportError: ``onnxruntime`` is not installed.
    """
    runtime = import_package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> Outputs:
        values = session.run(names, {"images": images.cpu().numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return ExportedModel(run, dict(session.get_modelmeta().custom_metadata_map))


def import_package(name: str) -> Any:
    """Import one of the packages that ONNX needs.

    Raises:
        ImportError: it is not installed; says how to.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"--format onnx needs the package {name}, which cannot be imported ({error}). Install what it needs: "
            "pip install onnx onnxscript onnxruntime"
        ) from error
