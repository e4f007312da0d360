"""COCO-Stuff 10k's images and label images from a tiny copy of its archive."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from scipy.io import savemat

from mask2former_ext.data import datasets
from mask2former_ext.data.datasets import coco_stuff_preparation
from mask2former_ext.data.datasets.coco_stuff_preparation import stuff_labels
from mask2former_ext.data.datasets.loading import datasets_root

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_coco_stuff_10k.py"
NAMES = [f"COCO_train2014_00000000000{k}" for k in (1, 2, 3)]
ANNOTATION = np.array([[0, 1, 13], [90, 92, 182]], dtype=np.uint16)


@pytest.fixture
def stuff_10k(tmp_path):
    """The archive with three images of 2×3, all in test; lists may end in a line break or not."""
    stuff_10k = tmp_path / "coco" / "coco_stuff_10k"
    for folder in ("images", "annotations", "imageLists"):
        (stuff_10k / folder).mkdir(parents=True)
    for name in NAMES:
        Image.fromarray(np.full((2, 3, 3), 90, np.uint8)).save(stuff_10k / "images" / f"{name}.jpg")
        write_annotation(stuff_10k, name, ANNOTATION)
    (stuff_10k / "imageLists" / "test.txt").write_text("\n".join(reversed(NAMES)) + "\r\n")
    datasets.register_all(str(tmp_path))
    yield stuff_10k
    datasets.register_all(datasets_root())


def write_annotation(stuff_10k, name, annotation):
    captions = np.array(["two captions", "and three"], dtype=object)
    path = stuff_10k / "annotations" / f"{name}.mat"
    savemat(path, {"S": annotation, "captions": captions}, do_compression=True)
    return path


def run(stuff_10k, *options):
    main = runpy.run_path(str(SCRIPT))["main"]
    return main(["--root", str(stuff_10k.parents[1]), "--splits", "test", "--workers", "1", *options])


def made(stuff_10k):
    folders = stuff_10k / "images_detectron2" / "test", stuff_10k / "annotations_detectron2" / "test"
    return [sorted(path.name for path in folder.iterdir()) for folder in folders]


def test_images_and_labels(stuff_10k, capsys):
    assert run(stuff_10k, "--workers", "2") == 0
    assert "test: 3 images and their label images are there." in capsys.readouterr().out
    assert made(stuff_10k) == [[f"{name}.jpg" for name in NAMES], [f"{name}.png" for name in NAMES]]
    records = DatasetCatalog.get("coco_2017_test_stuff_10k_sem_seg")
    assert [Path(record["file_name"]).stem for record in records] == NAMES
    table = MetadataCatalog.get("coco_2017_test_stuff_10k_sem_seg").stuff_dataset_id_to_contiguous_id
    for record, name in zip(records, NAMES):
        labels = np.asarray(Image.open(record["sem_seg_file_name"]))
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, [[255, 0, table[13]], [table[90], table[92], 170]])
        assert Path(record["file_name"]).read_bytes() == (stuff_10k / "images" / f"{name}.jpg").read_bytes()
    assert (table[13], table[90], table[92]) == (11, 79, 80)


def test_numbers_of_matlab_are_floats_too():
    np.testing.assert_array_equal(stuff_labels(np.array([[0.0, 3.0]]), [1, 3], ""), [[255, 1]])


def test_the_first_by_name_and_going_on(stuff_10k, monkeypatch):
    assert run(stuff_10k, "--limit", "2") == 0
    assert made(stuff_10k) == [[f"{name}.jpg" for name in NAMES[:2]], [f"{name}.png" for name in NAMES[:2]]]
    (stuff_10k / "images_detectron2" / "test" / f"{NAMES[0]}.jpg").unlink()
    asked = []
    original = coco_stuff_preparation.read_annotation
    monkeypatch.setattr(coco_stuff_preparation, "read_annotation", lambda path: asked.append(path) or original(path))
    assert run(stuff_10k) == 0
    assert [path.stem for path in asked] == [NAMES[0], NAMES[2]]
    assert made(stuff_10k) == [[f"{name}.jpg" for name in NAMES], [f"{name}.png" for name in NAMES]]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (ANNOTATION * 0 + 12, r"unknown values \[12\]"),  # an id that version 1.1 does not use
        (ANNOTATION * 0 + 183, r"unknown values \[183\]"),
        (ANNOTATION + 0.5, r"unknown values \[0\.5, "),
        (ANNOTATION[:, :2], r"2×3 pixels .* has 2×2"),
        (np.zeros((2, 3, 3)), r"shape \(2, 3, 3\)"),
    ],
)
def test_annotations_that_are_not_as_published(annotation, message, stuff_10k, capsys):
    write_annotation(stuff_10k, NAMES[1], annotation)
    assert run(stuff_10k) == 1
    said = capsys.readouterr().err.replace("\n", " ")
    assert NAMES[1] in said and "cocostuff-10k-v1.1.zip" in said
    assert re.search(message, said)
    assert made(stuff_10k) == [[f"{NAMES[0]}.jpg"], [f"{NAMES[0]}.png"]]


@pytest.mark.parametrize("length", [0, 60, 132, 160])
def test_broken_files(length, stuff_10k, capsys):
    broken = stuff_10k / "annotations" / f"{NAMES[1]}.mat"
    broken.write_bytes(broken.read_bytes()[:length])
    assert run(stuff_10k) == 1
    assert f"{broken}: the label map S cannot be read" in capsys.readouterr().err


def test_broken_images(stuff_10k, capsys):
    broken = stuff_10k / "images" / f"{NAMES[1]}.jpg"
    broken.write_bytes(b"no image")
    assert run(stuff_10k) == 1
    assert str(broken) in capsys.readouterr().err


@pytest.mark.parametrize(
    "missing", ["images", "annotations", "imageLists/test.txt", f"images/{NAMES[2]}.jpg", f"annotations/{NAMES[2]}.mat"]
)
def test_what_is_not_there(missing, stuff_10k, capsys):
    (stuff_10k / missing).rename(stuff_10k / "elsewhere")
    assert run(stuff_10k) == 1
    said = capsys.readouterr().err
    assert str(stuff_10k / missing) in said and "cocostuff-10k-v1.1.zip" in said


def test_an_empty_list(stuff_10k, capsys):
    (stuff_10k / "imageLists" / "test.txt").write_text("\n")
    assert run(stuff_10k) == 1
    assert "test.txt: it lists no image" in capsys.readouterr().err
