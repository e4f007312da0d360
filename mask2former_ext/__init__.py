"""Mask2Former for Detectron2: importing the package registers its models, datasets and their metadata."""

import warnings

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "mask2former_ext extends Detectron2, and Detectron2 cannot be imported. Install it from its own repository, "
        "or run "
        "'python tools/install_detectron2.py' from a checkout of this project, then import mask2former_ext again."
    ) from error

with warnings.catch_warnings():
    # Detectron2 and fvcore use it on import, which is nothing that people who import this package could change.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
    from . import modeling
from .config import add_maskformer2_config
from .data import datasets
from .modeling import SemanticSegmentorWithTTA
from .predictor import Predictor

__version__ = "0.1.0"

__all__ = ["Predictor", "SemanticSegmentorWithTTA", "__version__", "add_maskformer2_config", "datasets", "modeling"]
