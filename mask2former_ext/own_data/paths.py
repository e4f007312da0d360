"""Paths in config files that mean files beside them: dataset cards, and the weights of a trained model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from fvcore.common.config import BASE_KEY


def resolve_paths(cfg: CfgNode, config_file: str) -> None:
    """Make relative paths that ``config_file`` sets independent of the working folder, in place.

    Cards of ``DATASETS.OWN`` are relative to the file that names them: ``config_file`` or one of its bases. So is
    ``MODEL.WEIGHTS`` when there is such a file, and none of that name in the working folder.
    """
    folder = _folder_that_sets(config_file, "DATASETS", "OWN")
    if folder is not None:
        cfg.DATASETS.OWN = [os.path.join(folder, card) for card in cfg.DATASETS.OWN]
    folder = _folder_that_sets(config_file, "MODEL", "WEIGHTS")
    if folder is not None and cfg.MODEL.WEIGHTS and not os.path.exists(cfg.MODEL.WEIGHTS):
        beside = os.path.join(folder, cfg.MODEL.WEIGHTS)
        if os.path.isfile(beside):
            cfg.MODEL.WEIGHTS = beside


def _folder_that_sets(config_file: str, group: str, key: str) -> str | None:
    """The folder, absolute, of the file whose ``group.key`` stands: the file itself, or the last base that has it."""
    content = yaml.safe_load(Path(config_file).read_text(encoding="utf-8")) or {}
    folder = os.path.dirname(os.path.abspath(config_file))
    if key in (content.get(group) or {}):
        return folder
    for base in reversed(_bases(content)):
        path = os.path.join(folder, os.path.expanduser(base))
        found = _folder_that_sets(path, group, key) if os.path.isfile(path) else None
        if found is not None:
            return found
    return None


def _bases(content: dict[str, Any]) -> list[str]:
    named = content.get(BASE_KEY, [])
    return [named] if isinstance(named, str) else named
