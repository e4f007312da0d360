"""torch.export of a module for one size of images, or for any."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as shape_settings

# torch's own ONNX exporter captures with it too: sizes of 1 are no case of their own, nor are layouts in memory
SETTING = "backed_size_oblivious"
LONGEST_REASON = 500  # letters


def capture(module: nn.Module, example: Tensor, *, static: bool) -> ExportedProgram:
    """Capture ``module`` as a graph.

    Args:
        module: images, B×C×H×W, to a dict of tensors.
        example: images. Unless ``static``, of more than one, and of sides longer than the model's size divisibility.
        static: hold the graph to the size of the example; otherwise batch, height and width are free.

    Raises:
        ImportError: torch is too old for sizes that are free.
        ValueError: the module cannot be captured; says the way out.
    """
    shapes = None if static else {"images": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    if not hasattr(shape_settings, SETTING):
        raise ImportError(f"exporting needs torch 2.9 or newer, this is {torch.__version__}.")
    try:
        with torch.no_grad(), shape_settings.patch(**{SETTING: True}):  # type: ignore[attr-defined]
            return torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
    except (RuntimeError, AssertionError, TypeError) as error:
        way_out = "" if static else " For a model that takes one size only there is --static."
        raise ValueError(f"torch.export does not take this model: {reason_of(error)}{way_out}") from error


def reason_of(error: Exception) -> str:
    """What an exporter or a runtime says, which may be pages, in a line."""
    return " ".join(str(error).split())[:LONGEST_REASON]
