"""Datasets that are not there: one error, which says where it looked and how to get them."""

import ast
import importlib
import os
from pathlib import Path

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former_ext.data import datasets
from mask2former_ext.data.datasets.builtin import BUILTIN, explain_missing_builtin_datasets
from mask2former_ext.data.datasets.loading import datasets_root

ADE20K, VISTAS = "sceneparsing.csail.mit.edu", "mapillary.com"
SPLITS = (("train", "training"), ("val", "validation"))

# Name → what is looked for first, and what the error must name as the way out.
EXPECTED = {
    f"coco_2017_{split}_panoptic_with_sem_seg": (f"coco/annotations/panoptic_{split}2017.json", "cocodataset.org")
    for split in ("train", "val")
}
EXPECTED |= {
    f"coco_2017_{split}_stuff_10k_sem_seg": (
        f"coco/coco_stuff_10k/images_detectron2/{split}",
        "datasets/prepare_coco_stuff_10k.py",
    )
    for split in ("train", "test")
}
for split, folder in SPLITS:
    ade20k, vistas = "ADEChallengeData2016", f"mapillary_vistas/{folder}"
    EXPECTED |= {
        f"coins_{split}": (f"coins/annotations/panoptic_{split}.json", "python datasets/prepare_coins.py"),
        f"ade20k_sem_seg_{split}": (f"{ade20k}/images/{folder}", ADE20K),
        f"ade20k_instance_{split}": (f"{ade20k}/ade20k_instance_{split}.json", ADE20K),
        f"ade20k_panoptic_{split}": (f"{ade20k}/ade20k_panoptic_{split}.json", ADE20K),
        f"ade20k_full_sem_seg_{split}": (f"ADE20K_2021_17_01/images_detectron2/{folder}", "groups.csail.mit.edu"),
        f"mapillary_vistas_sem_seg_{split}": (f"{vistas}/images", VISTAS),
        f"mapillary_vistas_panoptic_{split}": (f"{vistas}/panoptic/panoptic_2018.json", VISTAS),
        f"mapillary_vistas_instance_{split}": (
            f"mapillary_vistas/mapillary_vistas_instance_{split}.json",
            "datasets/prepare_mapillary_vistas_ins_seg.py",
        ),
    }


@pytest.fixture
def elsewhere(tmp_path):
    """An empty folder of all datasets, under which this package's are registered."""
    datasets.register_all(str(tmp_path))
    yield tmp_path
    datasets.register_all(datasets_root())


def test_every_name_of_this_package_is_expected(elsewhere):
    """What is registered under the folder is what this package registers."""
    paths = {name: MetadataCatalog.get(name).get("image_root", "") for name in DatasetCatalog.list()}
    assert {name for name, path in paths.items() if path.startswith(str(elsewhere))} == EXPECTED.keys()


@pytest.mark.parametrize("variable", [None, "/somewhere"])
@pytest.mark.parametrize("name", EXPECTED)
def test_missing_datasets(name, variable, elsewhere, monkeypatch):
    path, way_out = EXPECTED[name]
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    if variable:
        monkeypatch.setenv("DETECTRON2_DATASETS", variable)
    with pytest.raises(FileNotFoundError) as caught:
        DatasetCatalog.get(name)
    said = str(caught.value)
    assert said.startswith(f"{elsewhere / path}: ") and way_out in said
    assert (f'DETECTRON2_DATASETS is "{variable}"' if variable else "DETECTRON2_DATASETS is not set") in said
    assert "datasets/" in said  # where more is said, or the script that makes it


def test_the_folder_of_all_datasets_may_be_below_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    assert datasets_root() == "/home/somebody/data"


def test_the_folder_of_all_datasets_is_that_of_the_environment(tmp_path, monkeypatch):
    before = os.environ.get("DETECTRON2_DATASETS")
    try:
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        importlib.reload(datasets)
        for name in EXPECTED:
            assert MetadataCatalog.get(name).image_root.startswith(f"{tmp_path}/"), name
    finally:
        monkeypatch.undo()
        importlib.reload(datasets)
    assert os.environ.get("DETECTRON2_DATASETS") == before
    assert MetadataCatalog.get("coins_val").image_root == os.path.join(datasets_root(), "coins", "val")


WAYS_OUT = {"coco": "cocodataset.org", "cityscapes": "cityscapes-dataset.com", "lvis": "lvisdataset.org"}


@pytest.mark.parametrize("name", [name for some in BUILTIN for name in some.names])
def test_missing_datasets_that_detectron2_registers(name, tmp_path, monkeypatch):
    """Each of the paths; when all are there, Detectron2's own loader has the word."""
    (keys,) = (some.paths for some in BUILTIN if name in some.names)
    metadata = MetadataCatalog.get(name)
    paths = {key for key, value in metadata.as_dict().items() if str(value).startswith(datasets_root())}
    assert set(keys) == paths - ({"json_file"} if "panoptic" in name else set())  # this one is for AP alone
    present = {key: str(tmp_path / key) for key in keys}
    monkeypatch.setattr(type(metadata), "as_dict", lambda self: present)
    for key in keys:
        with pytest.raises(FileNotFoundError) as caught:
            DatasetCatalog.get(name)
        said = str(caught.value)
        assert said.startswith(f"{present[key]}: ") and f"{key} of {name}" in said
        assert WAYS_OUT[name.split("_")[0]] in said and "datasets/README.md" in said
        (tmp_path / key).mkdir()
    with pytest.raises((FileNotFoundError, AssertionError)) as caught:
        DatasetCatalog.get(name)
    assert "datasets/README.md" not in str(caught.value)


def test_explaining_twice_is_harmless():
    loader = DatasetCatalog["coco_2017_val"].__wrapped__
    explain_missing_builtin_datasets()
    assert DatasetCatalog["coco_2017_val"].__wrapped__ is loader
    assert not hasattr(loader, "__wrapped__")


def test_all_datasets_of_the_configs_are_explained():
    """Every name that a config of this repository trains or tests on."""
    used = set()
    for path in (Path(__file__).parents[2] / "configs").rglob("*.yaml"):
        names = yaml.safe_load(path.read_text()).get("DATASETS", {})
        for value in names.values():
            used |= set(ast.literal_eval(value) if isinstance(value, str) else value)
    assert len(used) >= 16
    assert used <= {*EXPECTED, *(name for some in BUILTIN for name in some.names)}
