"""The optional dependency, imported where it is used: nothing else of the package needs transformers."""

from __future__ import annotations

import importlib
from typing import Any


def import_transformers() -> Any:
    """Return the module ``transformers``.

    Raises:
        ImportError: it is not installed, or has no Mask2Former.
    """
    try:
        library = importlib.import_module("transformers")
        _ = library.Mask2FormerForUniversalSegmentation
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"Conversion from and to transformers needs that library, with its Mask2Former: {error}. Install it with: "
            "pip install 'transformers>=5.20' safetensors"
        ) from error
    return library
