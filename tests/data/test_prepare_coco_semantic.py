"""COCO's label images from its panoptic annotations, on a tiny copy of those."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from mask2former_ext.data import datasets
from mask2former_ext.data.datasets import panoptic_preparation
from mask2former_ext.data.datasets.loading import datasets_root
from mask2former_ext.data.reading import id_to_rgb

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_coco_semantic.py"
NAMES = ["000000000008", "000000000009", "000000000010"]


@pytest.fixture
def coco(tmp_path):
    """COCO val with images of 2×4: person (id 1), void, a crowd of cars (id 70000), rug (id 300); not in order."""
    coco = tmp_path / "coco"
    for folder in ("val2017", "panoptic_val2017", "annotations"):
        (coco / folder).mkdir(parents=True)
    ids = np.array([[1, 1, 0, 70000], [300, 300, 300, 70000]])
    segments = [
        {"id": 1, "category_id": 1, "iscrowd": 0},
        {"id": 70000, "category_id": 3, "iscrowd": 1},
        {"id": 300, "category_id": 200, "iscrowd": 0},
    ]
    annotations = []
    for name in reversed(NAMES):
        Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(coco / "val2017" / f"{name}.jpg")
        Image.fromarray(id_to_rgb(ids)).save(coco / "panoptic_val2017" / f"{name}.png")
        annotations.append({"image_id": int(name), "file_name": f"{name}.png", "segments_info": segments})
    (coco / "annotations" / "panoptic_val2017.json").write_text(json.dumps({"annotations": annotations}))
    datasets.register_all(str(tmp_path))
    yield coco
    datasets.register_all(datasets_root())


def run(coco, *options):
    main = runpy.run_path(str(SCRIPT))["main"]
    return main(["--root", str(coco.parent), "--splits", "val", "--workers", "1", *options])


def made(coco):
    return sorted(path.name for path in (coco / "panoptic_semseg_val2017").iterdir())


def test_labels_are_contiguous_ids_and_void_is_ignored(coco, capsys):
    assert run(coco, "--workers", "2") == 0
    assert "val: label images of 3 images are there." in capsys.readouterr().out
    assert made(coco) == [f"{name}.png" for name in NAMES]
    records = DatasetCatalog.get("coco_2017_val_panoptic_with_sem_seg")
    for record in records:
        labels = np.asarray(Image.open(record["sem_seg_file_name"]))
        np.testing.assert_array_equal(labels, [[0, 0, 255, 2], [132, 132, 132, 2]])
        assert labels.dtype == np.uint8
    assert len(records) == 3


def test_the_first_by_name(coco, capsys):
    assert run(coco, "--limit", "2") == 0
    assert "2 images" in capsys.readouterr().out
    assert made(coco) == [f"{name}.png" for name in NAMES[:2]]


def test_files_that_are_there_stay(coco, monkeypatch):
    assert run(coco, "--limit", "1") == 0
    target = coco / "panoptic_semseg_val2017" / f"{NAMES[0]}.png"
    target.write_bytes(b"of another run")
    asked = []
    original = panoptic_preparation.label_image
    monkeypatch.setattr(panoptic_preparation, "label_image", lambda record: asked.append(record) or original(record))
    assert run(coco) == 0
    assert target.read_bytes() == b"of another run"
    assert [record["image_id"] for record in asked] == [9, 10]


def test_annotations_that_contradict_each_other(coco, capsys):
    Image.fromarray(np.full((2, 4, 3), 1, np.uint8)).save(coco / "panoptic_val2017" / f"{NAMES[1]}.png")
    assert run(coco) == 1
    said = capsys.readouterr().err
    assert f"{NAMES[1]}.png" in said and "not in the PNG" in said
    assert made(coco) == [f"{NAMES[0]}.png"]


def test_a_broken_file(coco, capsys):
    broken = coco / "panoptic_val2017" / f"{NAMES[1]}.png"
    broken.write_bytes(broken.read_bytes()[:40])
    assert run(coco) == 1
    said = capsys.readouterr().err
    assert str(broken) in said and "cannot be read" in said


def test_missing_annotations(tmp_path, capsys):
    assert run(tmp_path / "coco") == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "coco" / "annotations" / "panoptic_val2017.json") in said and "cocodataset.org" in said
