"""The packages of data sets' own evaluation code: what to do when one is missing, or older than NumPy."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np


class NumpyOfOld:
    """NumPy as the evaluation packages know it: what they use of it and NumPy has changed since is as it was."""

    float = float  # removed in 1.24

    @staticmethod
    def count_nonzero(array: Any) -> int:
        """Count what is not zero, as an int that JSON knows (a NumPy scalar since 2.4)."""
        return int(np.count_nonzero(array))

    @staticmethod
    def in1d(array: Any, values: Any) -> np.ndarray:
        """Tell, flat, which items of an array are among some values (removed in 2.4)."""
        return np.isin(array, values).ravel()

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def prepare_package(module_name: str, distribution: str, dataset_name: str) -> None:
    """Import a module of an evaluation package, and make it work with the NumPy that is installed.

    The last releases of ``lvis`` (0.5.3) and ``cityscapesscripts`` (2.3.0) fail with NumPy 2.4. The module gets a NumPy
    of its own, see :class:`NumpyOfOld`; NumPy itself stays as it is for all others.

    Args:
        module_name: the module that uses NumPy under the name ``np``.
        distribution: what to install to have it.
        dataset_name: the dataset that is evaluated, for the error.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ImportError(
            f"evaluating dataset '{dataset_name}' needs the package {distribution}, which cannot be imported "
            f"({error}). Install it: pip install {distribution}"
        ) from error
    module.np = NumpyOfOld()  # type: ignore[attr-defined]
