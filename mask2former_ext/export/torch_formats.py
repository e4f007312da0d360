"""Files of torch: torch.export's (.pt2) and TorchScript's."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import TracerWarning

from .capture import capture
from .description import METADATA_FILE, Description, to_strings
from .runner import ExportedModel, Outputs


def save_torch_export(
    module: nn.Module, example: Tensor, path: Path, description: Description, *, static: bool
) -> None:
    """Write what ``torch.export.load`` reads; the description goes into its extra file ``metadata.json``.

    Raises:
        ValueError: the module cannot be exported.
    """
    torch.export.save(capture(module, example, static=static), path, extra_files={METADATA_FILE: description.to_json()})


def load_torch_export(path: Path) -> ExportedModel:
    """Load a file of torch.export; sizes that it was not made for raise an error when it is run."""
    files: dict[str, Any] = {METADATA_FILE: ""}
    program = torch.export.load(path, extra_files=files)
    return ExportedModel(_without_gradients(program.module()), _strings(files[METADATA_FILE]))


def save_torchscript(module: nn.Module, example: Tensor, path: Path, description: Description) -> None:
    """Write a trace, which ``torch.jit.load`` reads; the description goes into its extra file ``metadata.json``.

    TorchScript is deprecated since torch 2.15 and may be gone in later releases.
    """
    with _deprecated(), torch.no_grad():
        # sizes that became constants show when the file is run at others
        warnings.filterwarnings("ignore", category=TracerWarning)
        traced = torch.jit.trace(module, (example,), strict=False, check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={METADATA_FILE: description.to_json()})


def load_torchscript(path: Path) -> ExportedModel:
    """Load a TorchScript file."""
    files: dict[str, Any] = {METADATA_FILE: ""}
    with _deprecated():
        module = torch.jit.load(str(path), _extra_files=files)
    return ExportedModel(_without_gradients(module), _strings(files[METADATA_FILE]))


@contextmanager
def _deprecated() -> Iterator[None]:
    """Within the block nothing is said of TorchScript's deprecation, and other filters of warnings end with it."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", message=r"`?torch\.jit", category=category)
        yield


def _without_gradients(module: nn.Module) -> Any:
    def run(images: Tensor) -> Outputs:
        with torch.no_grad():
            return module(images)

    return run


def _strings(content: str | bytes) -> dict[str, str]:
    return to_strings(json.loads(content))
