"""Files of one library to files of the other, whole or not at all, and a report that says how well they agree."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from ...config import get_cfg_defaults, load_config
from ..loader import COMPUTED, HEAD, Checkpointer, shortened
from .config import architecture_keys, class_names_of, plain, read_key, recorded_keys, set_keys, to_hf_config
from .convert import UNREAD, from_hf, hf_model, load_hf_model, on_device, to_hf
from .library import import_transformers
from .parity import TOLERANCE, Parity, compare
from .preprocessing import is_bgr, to_processor

logger = logging.getLogger(__name__)

CLASS_NAMES = "class_names"  # in checkpoints, beside "model"
HEADER = "# Converted from transformers.\n"  # of configs that are written here


def convert_to_hf(cfg: CfgNode, weights: str | Path, folder: str | Path) -> str:
    """Write ``config.json``, ``model.safetensors`` and ``preprocessor_config.json`` for a checkpoint.

    Args:
        cfg: of the model.
        weights: a ``.pth`` or ``.pkl`` file in any form that :class:`Checkpointer` takes.
        folder: to be made; it may exist if it is empty.

    Returns:
        a report of some lines.

    Raises:
        FileNotFoundError: there is no such file of weights.
        FileExistsError: the folder holds something.
        ImportError: transformers is not installed.
        ValueError: the model cannot be converted, the weights are not all in the file, or the predictions of both
            models differ by more than `TOLERANCE`. Then nothing is left under the name of the folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"'{folder}' exists and is not an empty folder; name another one.")
    to_hf_config(cfg)  # refuses other architectures before any is built
    model, state_dict, names = load_whole_model(cfg, weights)
    config, renamed = to_hf(cfg, state_dict, names)
    processor = import_transformers().Mask2FormerImageProcessor(**to_processor(cfg))
    with _unfinished(folder) as unfinished:
        hf_model(config, renamed).save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        peer, written = load_hf_model(unfinished)
        parity = _checked(compare(model, peer, bgr=is_bgr(cfg), processor=written))
        if folder.exists():
            folder.rmdir()
        unfinished.replace(folder)
    lines = [f"{weights}: all {len(state_dict)} tensors, which are {len(renamed)} in {folder}."]
    if is_bgr(cfg):
        lines.append("INPUT.FORMAT is BGR: the first convolution's channels are reversed, for RGB.")
    return "\n".join([*lines, *_training_notes(cfg), f"Parity: {parity}."])


def convert_to_d2(
    source: str | Path,
    target: str | Path,
    config_file: str = "",
    opts: Sequence[str] = (),
    configs: str | Path | None = None,
) -> str:
    """Write a checkpoint, and a YAML config beside it, for a model of transformers.

    Args:
        source: a folder of transformers, or a name on the Hub.
        target: a ``.pth`` file; the config gets its name with the ending ``.yaml``.
        config_file: a config to start from; the written one names it as its base. By default the one file in
            ``configs`` that describes the model, or else none.
        opts: alternating keys and values, set last.
        configs: folder in which to look for a config of the model.

    Returns:
        a report of some lines.

    Raises:
        FileExistsError: where the config would go is one that this did not write, or the one to start from.
        FileNotFoundError: there is no such source or config.
        ImportError: transformers is not installed.
        ValueError: the model cannot be converted, or the predictions of both models differ by more than `TOLERANCE`.
            Then nothing is left under the names of the files.
    """
    target = Path(target)
    if target.suffix != ".pth":
        raise ValueError(f"The output is '{target}', but Detectron2 knows its checkpoints by the ending .pth.")
    load_config("", opts)  # refuses unknown keys before any work
    config_target = target.with_suffix(".yaml")
    _refuse_to_replace(config_target, config_file)
    peer, processor = load_hf_model(source)
    base = load_config(config_file) if config_file else None
    notes: list[str] = []
    if base is None and configs is not None:
        config_file, base, notes = _fitting_base(peer.config, configs)
        _refuse_to_replace(config_target, config_file)
    cfg, weights = from_hf(peer.config, peer.state_dict(), base=base, processor=processor)
    cfg.merge_from_list(list(opts))
    cfg.MODEL.WEIGHTS = str(target.resolve())
    with _unfinished(target) as folder:
        checkpoint, config = folder / target.name, folder / config_target.name
        torch.save({"model": weights, CLASS_NAMES: class_names_of(peer.config)}, checkpoint)
        config.write_text(_yaml(cfg, config_file, folder))
        model, _, _ = load_whole_model(load_config(str(config)), checkpoint)
        parity = _checked(compare(model, peer, bgr=is_bgr(cfg), processor=processor))
        config.write_text(_yaml(cfg, config_file, target.parent))  # its base is named relative to where it will be
        config.replace(config_target)
        checkpoint.replace(target)
    based = f" (over {config_file})" if config_file else ""
    count = len(peer.state_dict())
    lines = [f"{source}: all {count} tensors, which are {len(weights)} in {target}; config {config_target}{based}."]
    return "\n".join([*lines, *notes, _task_line(cfg), f"Parity: {parity}."])


def load_whole_model(cfg: CfgNode, weights: str | Path) -> tuple[nn.Module, dict[str, Tensor], list[str] | None]:
    """Build the model on the CPU and load every one of its parameters.

    Returns:
        the model in evaluation mode; its state_dict, with what of the file only transformers' model has; and the names
        of the classes if the file has them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has other parameters than the model.
    """
    if "://" not in str(weights) and not Path(weights).is_file():
        raise FileNotFoundError(f"There is no file '{weights}' of weights.")
    model = build_model(on_device(cfg, "cpu")).eval()
    checkpointer = _WholeCheckpointer(model, new_classes=False)
    rest = checkpointer.load(str(weights))
    return model, {**model.state_dict(), **checkpointer.unread}, rest.get(CLASS_NAMES)


class _WholeCheckpointer(Checkpointer):
    """Refuses a file unless it has all parameters of the model, and no others."""

    unread: Mapping[str, Tensor] = {}  # those that only transformers' models have

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        weights = checkpoint["model"]
        incompatible = super()._load_model(checkpoint)
        if not any(key.startswith(HEAD) for key in weights):
            raise ValueError(f"{self._path} is of a backbone alone, and has no key below {HEAD}")
        self.unread = {key: weights[key] for key in UNREAD if key in weights}
        unused = [key for key in incompatible.unexpected_keys if not key.endswith(COMPUTED) and key not in UNREAD]
        lines = [f"  missing: {key}" for key in incompatible.missing_keys] + [f"  not used: {key}" for key in unused]
        if lines:
            raise ValueError(
                f"{self._path} does not hold the model that the config describes:\n{shortened(lines)}\n"
                "Use the config that it was trained with."
            )
        return incompatible


def fitting_configs(architecture: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """The config files below ``folder`` in which all of these keys, with dots, have these values."""
    fitting = []
    for path in sorted(Path(folder).rglob("*.yaml")):
        if path.name == "base.yaml" or "_BASE_" not in path.read_text():  # a part of configs
            continue
        candidate = load_config(str(path))
        if all(plain(read_key(candidate, key)) == value for key, value in architecture.items()):
            fitting.append(path)
    return fitting


def _refuse_to_replace(config: Path, base: str) -> None:
    """Raise FileExistsError if ``config`` is there, unless it was written here, and not to be its own base."""
    if not config.exists():
        return
    its_own_base = base and config.resolve() == Path(base).resolve()
    if its_own_base or not config.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
        raise FileExistsError(
            f"'{config}', where the converted config would go, is there already and would be lost. Name another output."
        )


def _fitting_base(config: Any, configs: str | Path) -> tuple[str, CfgNode | None, list[str]]:
    """The one file that describes the model, and its config with what was recorded; else a note on several files."""
    fitting = fitting_configs(architecture_keys(config), configs)
    if len(fitting) == 1:
        base = load_config(str(fitting[0]))
        set_keys(base, recorded_keys(config))
        return str(fitting[0]), base, []
    notes = ["These configs describe the model; choose with --config-file:", *(f"  {path}" for path in fitting)]
    return "", None, notes if fitting else []


def _yaml(cfg: CfgNode, base: str, folder: Path) -> str:
    """The keys in which ``cfg`` differs from its base, or from the defaults."""
    reference = load_config(base) if base else get_cfg_defaults()
    content: dict[str, Any] = {"_BASE_": os.path.relpath(base, folder)} if base else {}
    content |= _changes(cfg, reference)
    return HEADER + CfgNode(content).dump(sort_keys=False, default_flow_style=None, width=120)


def _changes(cfg: CfgNode, reference: CfgNode) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            inner = _changes(value, reference[key]) if key in reference else value
            if inner:
                changes[key] = inner
        elif key not in reference or value != reference[key]:
            changes[key] = list(value) if isinstance(value, tuple) else value
    return changes


def _checked(parity: Parity) -> Parity:
    if not parity.relative <= TOLERANCE:  # also if it is not a number
        raise ValueError(
            f"The conversion is wrong, and nothing was written: {parity}; at most {TOLERANCE:g} of the largest is due "
            "to rounding."
        )
    return parity


def _training_notes(cfg: CfgNode) -> list[str]:
    """What differs in training only."""
    node = cfg.MODEL.MASK_FORMER
    notes = []
    if node.DROPOUT:
        notes.append("MODEL.MASK_FORMER.DROPOUT: transformers drops in its decoder too, and whole layers, in training.")
    if not node.DEEP_SUPERVISION:
        notes.append("MODEL.MASK_FORMER.DEEP_SUPERVISION is off: transformers always has losses on every layer.")
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone" and cfg.MODEL.RESNETS.NORM == "FrozenBN":
        notes.append("MODEL.RESNETS.NORM is FrozenBN: transformers updates the statistics in training.")
    return notes


def _task_line(cfg: CfgNode) -> str:
    node = cfg.MODEL.MASK_FORMER.TEST
    tasks = [name for name in ("SEMANTIC_ON", "INSTANCE_ON", "PANOPTIC_ON") if node[name]]
    return (
        f"Results by MODEL.MASK_FORMER.TEST: {', '.join(tasks)}; set others with --opts KEY VALUE. Things "
        f"are told from stuff by DATASETS.TRAIN, which is {tuple(cfg.DATASETS.TRAIN)}."
    )


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that is gone at the end, unless it was moved."""
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder '{target.absolute().parent}' to write '{target.name}' to.")
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.absolute().parent))
    folder.chmod(0o755)  # mkdtemp's is closed to others, which the final folder should not be
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
