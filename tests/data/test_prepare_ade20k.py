"""The scripts that make ADE20K's datasets from its published annotations, on tiny copies of those."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from mask2former_ext.config import load_config
from mask2former_ext.data import build_dataset_mapper, datasets
from mask2former_ext.data.datasets import ade20k_preparation
from mask2former_ext.data.datasets.loading import datasets_root

REPOSITORY = Path(__file__).parents[2]
NAMES = [f"ADE_val_0000000{k}" for k in (1, 2, 3)]

# Wall is category 1 (label 0), bed 8 (label 7, the first thing), window 9 (label 8, the second).
ANNOTATION = np.array([[1, 1, 1, 8, 8, 0], [1, 1, 1, 8, 9, 9]], dtype=np.uint8)
CATEGORIES = np.array([[0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 2, 2]], dtype=np.uint8)
NUMBERS = np.array([[0, 0, 4, 4, 0, 0], [0, 0, 4, 4, 9, 9]], dtype=np.uint8)
INSTANCES = np.stack([CATEGORIES, NUMBERS, 0 * NUMBERS], axis=2)


@pytest.fixture
def ade20k(tmp_path):
    """ADEChallengeData2016 as it is published, with three images of 2×6 in val."""
    ade20k = tmp_path / "ADEChallengeData2016"
    for folder in ("images", "annotations", "annotations_instance"):
        (ade20k / folder / "validation").mkdir(parents=True)
    for name in NAMES:
        Image.fromarray(np.zeros((2, 6, 3), np.uint8)).save(ade20k / "images" / "validation" / f"{name}.jpg")
        Image.fromarray(ANNOTATION).save(ade20k / "annotations" / "validation" / f"{name}.png")
        Image.fromarray(INSTANCES).save(ade20k / "annotations_instance" / "validation" / f"{name}.png")
    datasets.register_all(str(tmp_path))
    yield ade20k
    datasets.register_all(datasets_root())


def run(task, ade20k, *options):
    main = runpy.run_path(str(REPOSITORY / "datasets" / f"prepare_ade20k_{task}_seg.py"))["main"]
    return main(["--root", str(ade20k.parent), "--splits", "val", "--workers", "1", *options])


def read(path):
    return np.asarray(Image.open(path))


def in_this_process(monkeypatch, function):
    """Count the names that a conversion is asked for."""
    asked = []
    original = getattr(ade20k_preparation, function)

    def counting(name, **arguments):
        asked.append(name)
        return original(name, **arguments)

    monkeypatch.setattr(ade20k_preparation, function, counting)
    return asked


def test_semantic(ade20k, capsys):
    assert run("sem", ade20k) == 0
    assert "val: label images of 3 images are there." in capsys.readouterr().out
    folder = ade20k / "annotations_detectron2" / "validation"
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.png" for name in NAMES]
    np.testing.assert_array_equal(read(folder / f"{NAMES[0]}.png"), [[0, 0, 0, 7, 7, 255], [0, 0, 0, 7, 8, 8]])
    assert len(DatasetCatalog.get("ade20k_sem_seg_val")) == 3


def test_semantic_goes_on_where_it_stopped(ade20k, monkeypatch):
    assert run("sem", ade20k, "--limit", "2") == 0
    asked = in_this_process(monkeypatch, "_convert_semantic")
    assert run("sem", ade20k) == 0
    assert asked == NAMES[2:]


def test_instances(ade20k, capsys):
    assert run("ins", ade20k, "--limit", "2") == 0
    assert "2 images" in capsys.readouterr().out
    content = json.loads((ade20k / "ade20k_instance_val.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [f"{name}.jpg" for name in NAMES[:2]]
    assert content["images"][0] == {"id": NAMES[0], "file_name": f"{NAMES[0]}.jpg", "height": 2, "width": 6}
    assert len(content["categories"]) == 100 and content["categories"][1] == {"id": 8, "name": "windowpane"}
    bed, window, *_ = content["annotations"]
    assert (bed["category_id"], bed["area"], bed["bbox"], bed["iscrowd"]) == (7, 4, [2, 0, 2, 2], 0)
    assert (window["category_id"], window["area"], window["bbox"]) == (8, 2, [4, 1, 2, 1])
    np.testing.assert_array_equal(coco_mask.decode(bed["segmentation"]), NUMBERS == 4)
    assert [annotation["id"] for annotation in content["annotations"]] == [1, 2, 3, 4]
    assert [annotation["image_id"] for annotation in content["annotations"]] == [NAMES[0]] * 2 + [NAMES[1]] * 2
    record = DatasetCatalog.get("ade20k_instance_val")[0]
    assert [annotation["category_id"] for annotation in record["annotations"]] == [0, 1]


def test_panoptic(ade20k):
    assert run("pan", ade20k) == 0
    content = json.loads((ade20k / "ade20k_panoptic_val.json").read_text())
    (annotation, *_), categories = content["annotations"], content["categories"]
    assert len(categories) == 150 and categories[7] == {"id": 7, "name": "bed", "isthing": 1, "color": [204, 5, 255]}
    # The bed lies over the wall; where a bed is labeled and is no instance (row 0, column 4), there is void.
    png = read(ade20k / "ade20k_panoptic_val" / annotation["file_name"])
    np.testing.assert_array_equal(png[..., 0], [[1, 1, 2, 2, 0, 0], [1, 1, 2, 2, 3, 3]])
    assert not png[..., 1:].any()
    assert annotation["segments_info"] == [
        {"id": 1, "category_id": 0, "area": 4, "bbox": [0, 0, 2, 2], "iscrowd": 0},
        {"id": 2, "category_id": 7, "area": 4, "bbox": [2, 0, 2, 2], "iscrowd": 0},
        {"id": 3, "category_id": 8, "area": 2, "bbox": [4, 1, 2, 1], "iscrowd": 0},
    ]
    assert not list(ade20k.glob("*.unfinished"))


def test_stuff_that_instances_hide_is_no_segment():
    labels = np.array([[0, 5]], dtype=np.uint8)
    ids, segments = ade20k_preparation.panoptic_segments(labels, np.array([[3, 0]], np.uint8), {3: 7}, {7})
    np.testing.assert_array_equal(ids, [[2, 1]])
    assert [segment["category_id"] for segment in segments] == [5, 7]


def test_all_three_together_train_and_evaluate(ade20k):
    """In two processes; the panoptic dataset has label images and instances too."""
    for task in ("sem", "ins", "pan"):
        assert run(task, ade20k, "--workers", "2") == 0
    config = REPOSITORY / "configs/ade20k/panoptic-segmentation/maskformer2_R50_bs16_160k.yaml"
    cfg = load_config(str(config))
    cfg.INPUT.update(MIN_SIZE_TRAIN=(2,), RANDOM_FLIP="none", SIZE_DIVISIBILITY=6)
    cfg.INPUT.CROP.ENABLED = False
    mapper = build_dataset_mapper(cfg)
    records = DatasetCatalog.get("ade20k_panoptic_val")
    assert [record["image_id"] for record in records] == NAMES
    for record in records:
        assert mapper(record)["instances"].gt_classes.tolist() == [0, 7, 8]
        assert Path(record["sem_seg_file_name"]).exists()
    with open(MetadataCatalog.get("ade20k_panoptic_val").json_file) as file:
        assert [image["id"] for image in json.load(file)["images"]] == NAMES


@pytest.mark.parametrize(
    ("task", "function", "target"),
    [
        ("ins", "_convert_instance", "ade20k_instance_val.json"),
        ("pan", "_convert_panoptic", "ade20k_panoptic_val.json"),
    ],
)
def test_a_run_that_was_stopped_is_continued(task, function, target, ade20k, monkeypatch, capsys):
    damaged = ade20k / "annotations_instance" / "validation" / f"{NAMES[2]}.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:40])
    assert run(task, ade20k) == 1
    assert damaged.name in capsys.readouterr().err
    assert not (ade20k / target).exists()

    damaged.write_bytes(whole)
    asked = in_this_process(monkeypatch, function)
    assert run(task, ade20k) == 0
    assert asked == NAMES[2:]
    assert [image["id"] for image in json.loads((ade20k / target).read_text())["images"]] == NAMES
    assert not list(ade20k.glob("*.unfinished"))


@pytest.mark.parametrize(("task", "function"), [("ins", "_convert_instance"), ("pan", "_convert_panoptic")])
def test_what_is_complete_stays(task, function, ade20k, monkeypatch):
    """Also when fewer images are asked for; a PNG that has gone is made again."""
    assert run(task, ade20k) == 0
    (target,) = ade20k.glob("ade20k_*_val.json")
    before = target.stat()
    asked = in_this_process(monkeypatch, function)
    assert run(task, ade20k) == 0
    assert run(task, ade20k, "--limit", "1") == 0
    assert asked == [] and target.stat() == before
    if task == "pan":
        (ade20k / "ade20k_panoptic_val" / f"{NAMES[1]}.png").unlink()
        assert run(task, ade20k) == 0
        assert NAMES[1] in asked and (ade20k / "ade20k_panoptic_val" / f"{NAMES[1]}.png").exists()


def damage(path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path / f"{NAMES[1]}.png")


@pytest.mark.parametrize(
    ("task", "folder", "array", "message"),
    [
        ("sem", "annotations", 151 * np.ones((2, 6)), r"values up to 151"),
        ("sem", "annotations", INSTANCES, r"shape \(2, 6, 3\)"),
        ("sem", "annotations", ANNOTATION[:, :5], r"2×6 pixels .* has 2×5"),
        ("ins", "annotations_instance", INSTANCES * [101, 1, 1], r"instance 4 has categories \[101\]"),
        ("ins", "annotations_instance", np.minimum(INSTANCES, 4), r"instance 4 has categories \[1, 2\]"),
        ("ins", "annotations_instance", INSTANCES[:1], r"2×6 pixels .* has 1×6"),
        ("pan", "annotations_instance", INSTANCES[:1], r"2×6 pixels .* has 1×6"),
    ],
)
def test_annotations_that_are_not_as_published(task, folder, array, message, ade20k, capsys):
    damage(ade20k / folder / "validation", array)
    assert run(task, ade20k) == 1
    said = capsys.readouterr().err.replace("\n", " ")
    assert NAMES[1] in said
    assert re.search(message, said)


@pytest.mark.parametrize(
    ("task", "missing", "way_out"),
    [
        ("sem", "images", "ADEChallengeData2016.zip"),
        ("sem", "annotations", "ADEChallengeData2016.zip"),
        ("ins", "annotations_instance", "annotations_instance.tar"),
        ("pan", "annotations_instance", "annotations_instance.tar"),
    ],
)
def test_what_is_not_there(task, missing, way_out, ade20k, capsys):
    (ade20k / missing).rename(ade20k / "elsewhere")
    assert run(task, ade20k) == 1
    said = capsys.readouterr().err
    assert str(ade20k / missing / "validation") in said and way_out in said
