"""The model to export, from its config and checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import is_maskformer, load_config
from ..modeling import MaskFormer
from ..predictor import class_metadata, load_trained_model


def load_for_export(config_file: str, weights: str, opts: Sequence[str] = ()) -> tuple[MaskFormer, str]:
    """Build the model of a YAML config in evaluation mode, on the CPU unless ``opts`` set MODEL.DEVICE.

    Names of classes, and which of them are things, are those of the training set, or where it has no things, as it is
    not known here, those that :func:`class_metadata` finds.

    Args:
        config_file: of a Mask2Former.
        weights: a checkpoint of the whole model, whose classes must be the config's; its averaged weights where the
            config has MODEL_EMA on. Empty for random weights.
        opts: alternating keys and values.

    Returns:
        The model and INPUT.FORMAT.

    Raises:
        OSError, ValueError: config or weights cannot be read, do not fit each other, or are of another model.
    """
    cfg = load_config(config_file, ["MODEL.DEVICE", "cpu", *opts])
    if not is_maskformer(cfg):
        raise ValueError(
            f"'{config_file}' is of the meta-architecture {cfg.MODEL.META_ARCHITECTURE}, and only Mask2Former is "
            "exported here. Detectron2 exports its own models, Mask R-CNN among them: tools/deploy/export_model.py in "
            "its repository, or detectron2.export.TracingAdapter."
        )
    cfg.MODEL.COMPILE = False  # a graph is made of the plain model
    cfg.MODEL.WEIGHTS = weights
    model = load_trained_model(cfg)
    assert isinstance(model, MaskFormer)
    if not model.thing_classes:
        model.metadata = class_metadata(cfg)  # the training set is not known here, the test set may be
    return model, cfg.INPUT.FORMAT
