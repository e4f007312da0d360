"""ADE20K and Mapillary Vistas: tables of categories, registered names and metadata, datasets that are not there."""

import json
import os
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former_ext.data import datasets
from mask2former_ext.data.datasets.loading import load_instances
from mask2former_ext.data.datasets.registration import read_categories

ROOT = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
TABLES = Path(datasets.__file__).parent


# Entries, ids in order (None: as published, without gaps to speak of), things, first and last name.
EXPECTED_TABLES = {
    "ade20k_150.json": (150, range(150), 100, "wall", "flag"),
    "ade20k_full_847.json": (847, None, None, "wall", "adding machine, totalizer, totaliser"),
    "coco_stuff_10k.json": (171, None, None, "person", "wood"),
    "mapillary_vistas.json": (66, range(1, 67), 37, "Bird", "Unlabeled"),
}


def test_each_table_is_there_once():
    assert {path.name for path in TABLES.glob("*.json")} == EXPECTED_TABLES.keys()


@pytest.mark.parametrize("name", EXPECTED_TABLES)
def test_tables(name):
    length, expected_ids, things, first, last = EXPECTED_TABLES[name]
    table = read_categories(name)
    ids = [category["id"] for category in table]
    assert len(table) == len(set(ids)) == len({category["name"] for category in table}) == length
    assert expected_ids is None or ids == list(expected_ids)
    assert (table[0]["name"], table[-1]["name"]) == (first, last)
    if things is not None:
        assert sum(category["isthing"] for category in table) == things
        assert {category["isthing"] for category in table} == {0, 1}
        assert all(len(category["color"]) == 3 and min(category["color"]) >= 0 for category in table)
        assert max(max(category["color"]) for category in table) <= 255


def test_ids_of_the_full_ade20k():
    table = read_categories("ade20k_full_847.json")
    assert [category["id"] for category in table[:4]] == [2978, 312, 2420, 2855]
    assert table[-1]["id"] == 3148


def ade20k(split, folder):
    image_root = f"{ROOT}/ADEChallengeData2016/images/{folder}"
    json_file = f"{ROOT}/ADEChallengeData2016/ade20k_instance_{split}.json"
    yield {
        "name": f"ade20k_sem_seg_{split}",
        "image_root": image_root,
        "sem_seg_root": f"{ROOT}/ADEChallengeData2016/annotations_detectron2/{folder}",
        "evaluator_type": "sem_seg",
        "ignore_label": 255,
        "stuff_classes": 150,
        "stuff_colors": 150,
    }
    yield {
        "name": f"ade20k_instance_{split}",
        "image_root": image_root,
        "json_file": json_file,
        "evaluator_type": "coco",
        "thing_dataset_id_to_contiguous_id": 100,
        "thing_classes": 100,
    }
    yield {
        "name": f"ade20k_panoptic_{split}",
        "image_root": image_root,
        "panoptic_root": f"{ROOT}/ADEChallengeData2016/ade20k_panoptic_{split}",
        "panoptic_json": f"{ROOT}/ADEChallengeData2016/ade20k_panoptic_{split}.json",
        "json_file": json_file,
        "sem_seg_root": f"{ROOT}/ADEChallengeData2016/annotations_detectron2/{folder}",
        "evaluator_type": "ade20k_panoptic_seg",
        "ignore_label": 255,
        "label_divisor": 1000,
        "thing_classes": 100,
        "thing_colors": 100,
        "stuff_classes": 150,
        "stuff_colors": 150,
        "thing_dataset_id_to_contiguous_id": 100,
        "stuff_dataset_id_to_contiguous_id": 150,
    }
    yield {
        "name": f"ade20k_full_sem_seg_{split}",
        "image_root": f"{ROOT}/ADE20K_2021_17_01/images_detectron2/{folder}",
        "sem_seg_root": f"{ROOT}/ADE20K_2021_17_01/annotations_detectron2/{folder}",
        "evaluator_type": "sem_seg",
        "ignore_label": 65535,
        "stuff_classes": 847,
    }


def mapillary(split, folder):
    vistas = f"{ROOT}/mapillary_vistas/{folder}"
    json_file = f"{ROOT}/mapillary_vistas/mapillary_vistas_instance_{split}.json"
    common = {"image_root": f"{vistas}/images", "sem_seg_root": f"{vistas}/labels", "ignore_label": 65}
    common |= {"stuff_classes": 65, "stuff_colors": 65}
    yield common | {
        "name": f"mapillary_vistas_sem_seg_{split}",
        "evaluator_type": "sem_seg",
    }
    yield common | {
        "name": f"mapillary_vistas_panoptic_{split}",
        "panoptic_root": f"{vistas}/panoptic",
        "panoptic_json": f"{vistas}/panoptic/panoptic_2018.json",
        "json_file": json_file,
        "evaluator_type": "mapillary_vistas_panoptic_seg",
        "label_divisor": 1000,
        "thing_classes": 65,
        "thing_colors": 65,
        "thing_dataset_id_to_contiguous_id": 37,
        "stuff_dataset_id_to_contiguous_id": 65,
    }
    yield {
        "name": f"mapillary_vistas_instance_{split}",
        "image_root": f"{vistas}/images",
        "json_file": json_file,
        "evaluator_type": "coco",
        "thing_dataset_id_to_contiguous_id": 37,
        "thing_classes": 37,
    }


SPLITS = (("train", "training"), ("val", "validation"))
EXPECTED = [entry for family in (ade20k, mapillary) for split in SPLITS for entry in family(*split)]


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda entry: entry["name"])
def test_names_and_metadata(expected):
    """Exactly these keys; a number beside a table stands for its length."""
    assert expected["name"] in DatasetCatalog.list()
    metadata = MetadataCatalog.get(expected["name"]).as_dict()
    shown = {key: len(value) if isinstance(value, (list, dict)) else value for key, value in metadata.items()}
    assert shown == expected


def test_labels_of_ade20k_panoptic():
    """Things are among the 150 labels; their names are listed alone, and first in no way."""
    metadata = MetadataCatalog.get("ade20k_panoptic_val")
    things = metadata.thing_dataset_id_to_contiguous_id
    assert list(things)[:4] == [7, 8, 10, 12] and list(things)[-1] == 149
    assert all(dataset_id == label for dataset_id, label in things.items())
    assert metadata.thing_classes == [metadata.stuff_classes[label] for label in things.values()]
    assert metadata.thing_colors == [metadata.stuff_colors[label] for label in things.values()]
    assert metadata.stuff_dataset_id_to_contiguous_id == {k: k for k in range(150)}
    assert metadata.stuff_classes == MetadataCatalog.get("ade20k_sem_seg_val").stuff_classes


def test_labels_of_ade20k_instances():
    metadata, panoptic = MetadataCatalog.get("ade20k_instance_val"), MetadataCatalog.get("ade20k_panoptic_val")
    things = metadata.thing_dataset_id_to_contiguous_id
    assert list(things) == list(panoptic.thing_dataset_id_to_contiguous_id)
    assert list(things.values()) == list(range(100))
    assert (metadata.thing_classes[things[8]], metadata.thing_classes[things[149]]) == ("windowpane", "flag")


def test_labels_of_mapillary_vistas():
    metadata = MetadataCatalog.get("mapillary_vistas_panoptic_val")
    assert metadata.stuff_dataset_id_to_contiguous_id == {k + 1: k for k in range(65)}
    assert metadata.thing_classes == metadata.stuff_classes
    things = metadata.thing_dataset_id_to_contiguous_id
    assert all(label == dataset_id - 1 for dataset_id, label in things.items())
    assert {metadata.stuff_classes[things[1]], metadata.stuff_classes[things[20]]} == {"Bird", "Person"}
    assert 65 not in things and metadata.stuff_classes[64] == "Ego Vehicle"
    instances = MetadataCatalog.get("mapillary_vistas_instance_val")
    assert list(instances.thing_dataset_id_to_contiguous_id) == list(things)
    assert list(instances.thing_dataset_id_to_contiguous_id.values()) == list(range(37))
    assert instances.thing_classes == [metadata.stuff_classes[label] for label in things.values()]


def test_registration_looks_at_no_dataset_file(monkeypatch, tmp_path):
    of_iopath = [f"iopath.common.file_io.PathManager.{name}" for name in ("open", "exists", "isfile", "isdir", "ls")]
    with monkeypatch.context() as patch:  # not beyond the call: fixtures tidy up folders
        for operation in (*of_iopath, "os.listdir", "os.scandir"):
            patch.setattr(operation, lambda *_, **__: pytest.fail("looked"))
        datasets.register_all(str(tmp_path))
        datasets.register_all(ROOT)


@pytest.fixture
def instances(tmp_path):
    """Path of instance annotations: one bed (7) on an image of 4×6."""
    content = {
        "images": [{"id": "a", "file_name": "a.jpg", "height": 4, "width": 6}],
        "annotations": [
            {"id": 1, "image_id": "a", "category_id": 7, "iscrowd": 0, "bbox": [0, 0, 2, 2], "area": 4,
             "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
        ],
        "categories": [{"id": 7, "name": "bed"}],
    }  # fmt: skip
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_categories_that_are_no_things_are_refused(instances, tmp_path):
    (tmp_path / "a.jpg").touch()
    (record,) = load_instances(str(instances), str(tmp_path), {7: 0}, how_to_get="Buy it.")
    assert record["annotations"][0]["category_id"] == 0
    with pytest.raises(ValueError, match=r"instances\.json, image_id a: category_id 7 is not .* 2 ids, 8 … 9"):
        load_instances(str(instances), str(tmp_path), {8: 0, 9: 1}, how_to_get="Buy it.")


def test_missing_images_of_instances(instances, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.jpg.*first image.*Buy it"):
        load_instances(str(instances), str(tmp_path), {7: 0}, how_to_get="Buy it.")
