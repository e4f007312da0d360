"""Each config file resolves to exactly the values that the reference implementation's file of that name does.

``resolved.json`` holds, per file, every value that differs from the defaults: ``every`` for what all files share,
``each`` for the rest. Sequences are compared without telling lists from tuples, which YAML does not do either.
"""

import json
import os
from pathlib import Path

import pytest
import yaml

from mask2former_ext.config import get_cfg_defaults, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
RESOLVED = json.loads((Path(__file__).parent / "resolved.json").read_text())
LEAVES = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob("maskformer*.yaml")
    if not {"_base_", "quickstart"} & set(path.relative_to(CONFIGS).parts)
)


def flatten(node, prefix=""):
    values = {}
    for key, value in node.items():
        if isinstance(value, dict):
            values.update(flatten(value, f"{prefix}{key}."))
        else:
            values[prefix + key] = list(value) if isinstance(value, tuple) else value
    return values


def bases(path):
    """The files that a config names in _BASE_, and those that they name."""
    named = yaml.safe_load(path.read_text()).get("_BASE_", [])
    for name in [named] if isinstance(named, str) else named:
        base = Path(os.path.normpath(path.parent / name))
        yield base
        yield from bases(base)


def test_every_config_file_has_expected_values():
    assert sorted(RESOLVED["each"]) == LEAVES
    assert len(LEAVES) == 47


def test_every_other_file_is_a_base_of_one_with_a_purpose():
    configs = {CONFIGS / name for name in LEAVES}
    configs |= {*CONFIGS.glob("quickstart/*.yaml"), *CONFIGS.glob("coco/instance-segmentation/mask_rcnn_*.yaml")}
    used = configs.union(*map(bases, configs))
    assert set(CONFIGS.rglob("*.yaml")) == used


@pytest.mark.parametrize("name", LEAVES)
def test_config_resolves(name):
    defaults = flatten(get_cfg_defaults())
    resolved = flatten(load_config(str(CONFIGS / name)))
    assert resolved.keys() == defaults.keys()
    differing = {key: value for key, value in resolved.items() if value != defaults[key]}
    assert differing == RESOLVED["every"] | RESOLVED["each"][name]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_config_is_safe_yaml_and_states_its_version(path):
    yaml.safe_load(path.read_text())
    cfg = load_config(str(path))
    assert cfg.VERSION == 2


def test_leaf_files_hold_only_what_differs():
    lengths = sorted(len((CONFIGS / name).read_text().splitlines()) for name in LEAVES)
    assert lengths[len(lengths) // 2] <= 11
