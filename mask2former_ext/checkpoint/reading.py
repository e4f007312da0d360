"""Reading of checkpoint files without running what is in them: tensors, arrays and plain values, or an error.

A pickle is a program. What ``torch.save`` wrote is read by PyTorch's own restricted reader (``weights_only``); the
``.pkl`` files of model zoos, which Detectron2 gives to ``pickle.load``, by an unpickler that finds only the few names
of which published files are made.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

CONTAINERS = frozenset({"set", "frozenset", "bytes", "bytearray", "complex", "slice", "range"})
NAMES = {
    "builtins": CONTAINERS,
    "__builtin__": CONTAINERS,  # Python 2, of which Caffe2's files are
    "collections": frozenset({"OrderedDict", "defaultdict"}),
    "_codecs": frozenset({"encode"}),  # bytes, in old protocols
    "numpy": frozenset({"ndarray", "dtype"}),
    **{f"numpy.{core}.multiarray": frozenset({"_reconstruct", "scalar"}) for core in ("core", "_core")},
    **{f"numpy.{core}.numeric": frozenset({"_frombuffer"}) for core in ("core", "_core")},
    "torch": frozenset({"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))}),
    "torch._utils": frozenset({"_rebuild_tensor_v2", "_rebuild_parameter"}),
}
"""What a ``.pkl`` may be made of, by module, beside lists, dicts, tuples, numbers and text, which need no names."""

REFUSED_BY_TORCH = re.compile(r"GLOBAL ([\w.]+)")


class _RefusedError(pickle.UnpicklingError):
    """A pickle needs a name that is not among ``NAMES``."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage  # PyTorch's own would unpickle anything that is in the bytes
        if name not in NAMES.get(module, ()):
            raise _RefusedError(f"{module}.{name}")
        return super().find_class(module, name)


def _load_storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def read_checkpoint(path: str, name: str = "") -> dict[str, Any]:
    """Read a ``.pkl``, ``.pyth`` or ``.pth`` file in the layouts that Detectron2 knows, or a ``.safetensors`` file of
    weights by their names; nothing in it is run.

    Args:
        path: a local file.
        name: what errors call it, where that is not the path.

    Returns:
        Weights as ``model``, and what else the file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, has another layout, or holds more than tensors, arrays and plain values.
    """
    content = read_content(path, name)
    name = name or path
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} holds a {type(content).__name__}, not a dict of weights; it is no checkpoint.")
    content = dict(content)
    if path.endswith(".pkl"):
        return _of_model_zoo(content)
    if path.endswith(".pyth"):
        return _of_pycls(content, name)
    return content if "model" in content else {"model": content}


def read_content(path: str, name: str = "") -> Any:
    """Read what ``torch.save``, into a ``.pkl`` ``pickle.dump``, into a ``.safetensors`` that library wrote; see
    :func:`read_checkpoint`."""
    load_safetensors = _find_safetensors(name or path) if path.endswith(".safetensors") else None
    try:
        if load_safetensors:
            return load_safetensors(path)
        if path.endswith(".pkl"):
            with open(path, "rb") as file:
                return _RestrictedUnpickler(file, encoding="latin1").load()
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the bytes of a damaged file may mean anything, and so may the error
        raise ValueError(_explain(name or path, error)) from error


def _find_safetensors(name: str) -> Callable[[str], dict[str, Tensor]]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(f"Reading {name} needs the package safetensors: pip install safetensors") from error
    return load_file


def require_weights(weights: Any, name: str) -> None:
    """Raise ValueError unless ``weights`` are tensors or arrays of numbers by their names."""
    if not isinstance(weights, Mapping):
        raise ValueError(f"{name} holds a {type(weights).__name__} as its model, not a dict of weights.")
    for key, value in weights.items():
        numbers = isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biufc")
        if not isinstance(key, str) or not numbers:
            raise ValueError(
                f"{name} is no checkpoint of this model: its entry {key!r} is a {type(value).__name__}, not a tensor. "
                "Weights stand in the file by their names, alone or under 'model'."
            )


def _of_model_zoo(content: dict[str, Any]) -> dict[str, Any]:
    """What Detectron2 makes of a ``.pkl``: where no author is named, it is Caffe2's, and perhaps in training."""
    if "model" in content and "__author__" in content:
        return content
    weights = content.get("blobs", content)
    weights = {key: value for key, value in weights.items() if not str(key).endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _of_pycls(content: dict[str, Any], name: str) -> dict[str, Any]:
    """What Detectron2 makes of a ``.pyth``."""
    require_weights(content.get("model_state"), name)
    weights = {key: value for key, value in content["model_state"].items() if not key.endswith("num_batches_tracked")}
    return {"model": weights, "__author__": "pycls", "matching_heuristics": True}


def _explain(name: str, error: Exception) -> str:
    of_torch = REFUSED_BY_TORCH.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    refused = str(error) if isinstance(error, _RefusedError) else of_torch and of_torch[1]
    if not refused:
        return f"{name} is damaged, or no checkpoint at all ({_first_line(error)}). Get or write it again."
    return (
        f"{name} is damaged, or holds more than tensors and plain values: {refused}. It is not read, because it could "
        "run code. If you trust its origin, keep only its weights: torch.save({'model': torch.load(FILE, "
        "weights_only=False)['model']}, NEW_FILE), or for a .pkl the same with pickle.load."
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
