"""COCO's label images from its panoptic annotations."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from mask2former_ext.data import datasets
from mask2former_ext.data.datasets.loading import datasets_root

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_coco_semantic.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("prepare_coco_semantic", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def coco(tmp_path, monkeypatch, script):
    """COCO val with one image of 2×4: person (id 1), void, a crowd of cars (id 70000), rug (id 300)."""

    class InThisProcess:
        """Stands in for the pool: as many workers as a test needs."""

        def __init__(self, workers):
            assert workers == 2

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def map(self, function, items, chunksize):
            return map(function, items)

    monkeypatch.setattr(script, "ProcessPoolExecutor", InThisProcess)
    coco = tmp_path / "coco"
    for folder in ("val2017", "panoptic_val2017", "annotations"):
        (coco / folder).mkdir(parents=True)
    ids = np.array([[1, 1, 0, 70000], [300, 300, 300, 70000]])
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(coco / "val2017" / "9.jpg")
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    Image.fromarray(rgb).save(coco / "panoptic_val2017" / "9.png")
    segments = [
        {"id": 1, "category_id": 1, "iscrowd": 0},
        {"id": 70000, "category_id": 3, "iscrowd": 1},
        {"id": 300, "category_id": 200, "iscrowd": 0},
    ]
    content = {"annotations": [{"image_id": 9, "file_name": "9.png", "segments_info": segments}]}
    (coco / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))
    yield tmp_path
    datasets.register_all(datasets_root())


def run(script, root):
    return script.main(["--root", str(root), "--splits", "val", "--workers", "2"])


def test_labels_are_contiguous_ids_and_void_is_ignored(script, coco, capsys):
    assert run(script, coco) == 0
    assert "1 images" in capsys.readouterr().out
    path = coco / "coco" / "panoptic_semseg_val2017" / "9.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), [[0, 0, 255, 2], [132, 132, 132, 2]])
    assert [entry.name for entry in path.parent.iterdir()] == ["9.png"]
    (record,) = DatasetCatalog.get("coco_2017_val_panoptic_with_sem_seg")
    assert record["sem_seg_file_name"] == str(path)


def test_files_that_are_there_stay(script, coco):
    target = coco / "coco" / "panoptic_semseg_val2017" / "9.png"
    target.parent.mkdir()
    target.write_bytes(b"of another run")
    assert run(script, coco) == 0
    assert target.read_bytes() == b"of another run"


def test_annotations_that_contradict_each_other(script, coco, capsys):
    Image.fromarray(np.full((2, 4, 3), 1, np.uint8)).save(coco / "coco" / "panoptic_val2017" / "9.png")
    assert run(script, coco) == 1
    assert "not in the PNG" in capsys.readouterr().err
    assert list((coco / "coco" / "panoptic_semseg_val2017").iterdir()) == []


def test_missing_annotations(script, tmp_path, capsys):
    try:
        assert run(script, tmp_path) == 1
    finally:
        datasets.register_all(datasets_root())
    said = capsys.readouterr().err
    assert "panoptic_val2017.json" in said and "cocodataset.org" in said
