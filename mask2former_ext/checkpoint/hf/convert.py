"""Whole models to transformers and back: config and weights, checked against both libraries' own models."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from ...modeling.backbone.window_attention import relative_position_index
from ..loader import shortened
from .config import from_hf_config, recorded_keys, set_keys, to_hf_config
from .keys import HF_BACKBONE, rename_to_d2, rename_to_hf
from .library import import_transformers
from .preprocessing import is_bgr, processor_keys

if TYPE_CHECKING:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

logger = logging.getLogger(__name__)

TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"
BATCHES = "num_batches_tracked"
# First convolutions, whose input channels are in the order of INPUT.FORMAT.
STEMS = ("backbone.stem.conv1.weight", "backbone.patch_embed.proj.weight")
# Norms of Swin whose output nothing takes; of transformers only, and not in files of its older versions.
UNREAD = ("backbone.norm.weight", "backbone.norm.bias")
HF_UNREAD = tuple(f"{HF_BACKBONE}.swin.layernorm.{leaf}" for leaf in ("weight", "bias"))
# In the state_dict of transformers 5.21 and newer, and before that in none.
HF_PROJECTIONS = ".transformer_module.input_projections."
PROCESSOR_FILE = "preprocessor_config.json"


def to_hf(
    cfg: CfgNode, state_dict: Mapping[str, Tensor], class_names: Sequence[str] | None = None
) -> tuple[Mask2FormerConfig, dict[str, Tensor]]:
    """Convert config and weights of this package to those of transformers.

    A network that takes BGR (INPUT.FORMAT) gets the input channels of its first convolution reversed, since
    transformers gives RGB.

    Args:
        cfg: of a MaskFormer.
        state_dict: of the model that it builds, whole. Not changed, and no memory is shared with the result.
        class_names: a name for each class; by default those of the config's data sets, where they are registered.

    Returns:
        a ``Mask2FormerConfig`` and a state_dict of ``Mask2FormerForUniversalSegmentation``.

    Raises:
        ImportError: transformers is not installed.
        ValueError: transformers has no such model, or the weights are not those of the config; keys are listed.
    """
    config = to_hf_config(cfg, class_names)
    weights = {key: value for key, value in state_dict.items() if not key.endswith(INDEX)}
    renamed = rename_to_hf(_swap_stem(weights, cfg))
    expected = _sketch(lambda: import_transformers().Mask2FormerForUniversalSegmentation(config))
    for key, value in expected.items():
        if key not in renamed and key.endswith((BATCHES, *HF_UNREAD)):
            renamed[key] = torch.full(value.shape, 1 if key.endswith("weight") else 0, dtype=value.dtype)
    if any(HF_PROJECTIONS in key for key in set(renamed) - set(expected)):
        raise ValueError(
            "The transformer decoder projects its inputs (MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ, or another width), and "
            f"transformers {import_transformers().__version__} keeps no weights of that. 5.21 and newer do."
        )
    _check(renamed, expected, "transformers' Mask2FormerForUniversalSegmentation")
    return config, renamed


def from_hf(
    config: Mask2FormerConfig,
    state_dict: Mapping[str, Tensor],
    *,
    base: CfgNode | None = None,
    processor: Mapping[str, Any] | None = None,
) -> tuple[CfgNode, dict[str, Tensor]]:
    """Convert config and weights of transformers to those of this package; the inverse of :func:`to_hf`.

    Args:
        config: of Mask2Former.
        state_dict: of the ``Mask2FormerForUniversalSegmentation`` that it describes, whole, in the names of the
            installed version; :func:`load_hf_model` gives that for files of older ones. Not changed.
        base: a config to start from, such as a file of configs/; by default Detectron2's, with what published models
            have in common. The architecture is always that of ``config``.
        processor: what ``preprocessor_config.json`` holds, for size and normalisation of images.

    Returns:
        a config, whose MODEL.WEIGHTS is empty, and the state_dict of the model that it builds. A Swin Transformer's
        last norm, which no result depends on, is kept as ``backbone.norm`` if it is not the identity.

    Raises:
        ImportError: transformers is not installed.
        ValueError: this package has no such model, or the weights are not those of the config; keys are listed.
    """
    cfg = from_hf_config(config, base)
    batches = [value for key, value in state_dict.items() if key.endswith(BATCHES)]
    if base is None and "MODEL.RESNETS.NORM" not in recorded_keys(config) and any(value > 0 for value in batches):
        cfg.MODEL.RESNETS.NORM = "BN"  # statistics that were not frozen
    if processor is not None:
        set_keys(cfg, processor_keys(processor, is_bgr(cfg)))
    cfg.MODEL.WEIGHTS = ""
    weights = {key: value for key, value in state_dict.items() if not key.endswith(INDEX)}
    renamed = _swap_stem(rename_to_d2(weights), cfg)
    expected = _sketch(lambda: build_model(on_device(cfg, "meta")))
    for key in [key for key in renamed if key.endswith(BATCHES) and key not in expected]:
        del renamed[key]
    for key in [key for key in renamed if key.endswith(TABLE)]:
        window = (int(renamed[key].shape[0] ** 0.5) + 1) // 2
        renamed[key.replace(TABLE, INDEX)] = relative_position_index(window)
    unread = {key: renamed.pop(key) for key in UNREAD if key in renamed}
    _check(renamed, expected, "the model that the converted config builds")
    if any(not bool((value == (1 if key.endswith("weight") else 0)).all()) for key, value in unread.items()):
        renamed |= unread
    return cfg, {key: renamed[key] for key in (*expected, *UNREAD) if key in renamed}


def build_hf_peer(
    cfg: CfgNode, weights: nn.Module | Mapping[str, Tensor] | None = None
) -> Mask2FormerForUniversalSegmentation:
    """Build transformers' model with the same weights, in evaluation mode, on the CPU; nothing is fetched.

    Args:
        cfg: of a MaskFormer.
        weights: the model that ``cfg`` built, or its state_dict; by default those of a fresh one. The peer has its
            own copy.

    Raises:
        ImportError: transformers is not installed.
        ValueError: transformers has no such model, or the weights are not those of the config.
    """
    if weights is None:
        weights = build_model(on_device(cfg, "cpu"))
    state_dict = weights.state_dict() if isinstance(weights, nn.Module) else weights
    config, renamed = to_hf(cfg, {key: value.cpu() for key, value in state_dict.items()})
    return hf_model(config, renamed)


def hf_model(config: Mask2FormerConfig, weights: dict[str, Tensor]) -> Mask2FormerForUniversalSegmentation:
    """Build transformers' model with ``weights``, all that it has, in evaluation mode."""
    # A model of from_pretrained would be saved under the names that it was loaded by, which older versions do not know.
    model = import_transformers().Mask2FormerForUniversalSegmentation(copy.deepcopy(config))
    model.load_state_dict(weights)
    return model.eval()


def load_hf_model(
    source: str | Path,
) -> tuple[Mask2FormerForUniversalSegmentation, dict[str, Any] | None]:
    """Load transformers' Mask2Former, of any version's names, from a folder or, given a name, from the Hub.

    Args:
        source: a folder with ``config.json`` and ``model.safetensors`` (or an index and its shards), from which
            nothing leads to the network; else the name of a model on the Hub, which needs the network or its cache.

    Returns:
        the model in evaluation mode, and the content of its ``preprocessor_config.json`` (None without one).

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: there is no such folder, or a file is not in it.
        ValueError: it holds another model, or weights that are not those of its config; keys are listed.
    """
    library = import_transformers()
    local = Path(source).is_dir()
    if not local and (str(source).count("/") != 1 or Path(source).parent.is_dir()):
        raise FileNotFoundError(f"There is no folder '{source}', and a model of the Hub is named OWNER/NAME.")
    try:
        config = library.AutoConfig.from_pretrained(source, local_files_only=local)
        if config.model_type != "mask2former":
            raise ValueError(f"'{source}' holds a model of the type '{config.model_type}', not 'mask2former'.")
        model, report = library.Mask2FormerForUniversalSegmentation.from_pretrained(
            source, config=config, local_files_only=local, ignore_mismatched_sizes=True, output_loading_info=True
        )
        processor = _read_processor(library, source, local)
    except OSError as error:
        where = "the folder" if local else "there is no such folder, and with a name of the Hub one needs the network"
        raise FileNotFoundError(f"'{source}' cannot be read ({where}): {error}") from error
    _refuse_incomplete(source, report)
    return model.eval(), processor


def on_device(cfg: CfgNode, device: str) -> CfgNode:
    """A copy of ``cfg`` that builds its model on this device, and fetches no weights for it."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    cfg.MODEL.TIMM.PRETRAINED = False
    return cfg


def _read_processor(library: Any, source: str | Path, local: bool) -> dict[str, Any] | None:
    file: Path | None = Path(source) / PROCESSOR_FILE
    if not local:
        file = library.utils.cached_file(str(source), PROCESSOR_FILE, _raise_exceptions_for_missing_entries=False)
    if file is None or not Path(file).is_file():
        logger.warning("'%s' has no %s: images are normalised as in published models.", source, PROCESSOR_FILE)
        return None
    return json.loads(Path(file).read_text())


def _refuse_incomplete(source: str | Path, report: dict[str, Any]) -> None:
    """Raise ValueError if ``from_pretrained`` filled in, or left out, anything that results depend on."""
    missing = [key for key in report["missing_keys"] if not key.endswith((BATCHES, "empty_weight", *HF_UNREAD))]
    lines = [f"  missing: {key}" for key in sorted(missing)]
    lines += [f"  not used: {key}" for key in sorted(report["unexpected_keys"])]
    lines += [
        f"  shape {tuple(file)} in the file, {tuple(model)} by the config: {key}"
        for key, file, model in sorted(report["mismatched_keys"])
    ]
    if lines:
        raise ValueError(f"The weights in '{source}' are not those of its config.json:\n" + shortened(lines))


def _swap_stem(weights: Mapping[str, Tensor], cfg: CfgNode) -> dict[str, Tensor]:
    """Reverse the input channels of the first convolution of a network that takes BGR."""
    swapped = dict(weights)
    if not is_bgr(cfg):
        return swapped
    stems = [key for key in STEMS if key in swapped]
    if not stems:
        raise ValueError(
            f"INPUT.FORMAT is BGR, but the backbone has neither {' nor '.join(STEMS)}, whose channels to reverse."
        )
    logger.info("INPUT.FORMAT is BGR: reversed the input channels of %s, since transformers gives RGB.", stems[0])
    swapped[stems[0]] = swapped[stems[0]].flip(1)
    return swapped


def _sketch(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The state_dict of a model that costs no memory."""
    with torch.device("meta"):
        return build().state_dict()


def _check(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise ValueError unless ``weights`` have the names and shapes that are expected."""
    lines = [f"  missing: {key} {tuple(value.shape)}" for key, value in expected.items() if key not in weights]
    lines += [f"  not used: {key} {tuple(value.shape)}" for key, value in weights.items() if key not in expected]
    lines += [
        f"  shape {tuple(value.shape)}, not {tuple(expected[key].shape)}: {key}"
        for key, value in weights.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if lines:
        raise ValueError(f"The converted weights are not those of {what}:\n" + shortened(lines))
