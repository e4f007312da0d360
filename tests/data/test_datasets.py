"""Registered names and metadata, loading of panoptic annotations, registration of people's own datasets."""

import importlib
import json
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json
from PIL import Image

import mask2former_ext
from mask2former_ext.data import build_dataset_mapper, datasets
from mask2former_ext.data.datasets.registration import register

ROOT = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def coco_panoptic(split):
    return {
        "name": f"coco_2017_{split}_panoptic_with_sem_seg",
        "sem_seg_root": f"{ROOT}/coco/panoptic_semseg_{split}2017",
        "panoptic_root": f"{ROOT}/coco/panoptic_{split}2017",
        "image_root": f"{ROOT}/coco/{split}2017",
        "panoptic_json": f"{ROOT}/coco/annotations/panoptic_{split}2017.json",
        "json_file": f"{ROOT}/coco/annotations/instances_{split}2017.json",
        "evaluator_type": "coco_panoptic_seg",
        "ignore_label": 255,
        "label_divisor": 1000,
        "thing_classes": 80,
        "thing_colors": 80,
        "stuff_classes": 133,
        "stuff_colors": 133,
        "thing_dataset_id_to_contiguous_id": 80,
        "stuff_dataset_id_to_contiguous_id": 133,
    }


def coco_stuff_10k(split):
    return {
        "name": f"coco_2017_{split}_stuff_10k_sem_seg",
        "image_root": f"{ROOT}/coco/coco_stuff_10k/images_detectron2/{split}",
        "sem_seg_root": f"{ROOT}/coco/coco_stuff_10k/annotations_detectron2/{split}",
        "evaluator_type": "sem_seg",
        "ignore_label": 255,
        "stuff_dataset_id_to_contiguous_id": 171,
        "stuff_classes": 171,
    }


def coins(split):
    return {
        "name": f"coins_{split}",
        "image_root": f"{ROOT}/coins/{split}",
        "panoptic_root": f"{ROOT}/coins/panoptic_{split}",
        "panoptic_json": f"{ROOT}/coins/annotations/panoptic_{split}.json",
        "json_file": f"{ROOT}/coins/annotations/instances_{split}.json",
        "sem_seg_root": f"{ROOT}/coins/panoptic_semseg_{split}",
        "evaluator_type": "coco_panoptic_seg",
        "ignore_label": 255,
        "label_divisor": 1000,
        "thing_classes": ["coin"],
        "thing_colors": 1,
        "stuff_classes": ["coin", "background"],
        "stuff_colors": 2,
        "thing_dataset_id_to_contiguous_id": {1: 0},
        "stuff_dataset_id_to_contiguous_id": {1: 0, 2: 1},
    }


EXPECTED = [
    *(coco_panoptic("train"), coco_panoptic("val")),
    *(coco_stuff_10k("train"), coco_stuff_10k("test")),
    *(coins("train"), coins("val")),
]


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda entry: entry["name"])
def test_names_and_metadata(expected):
    assert expected["name"] in DatasetCatalog.list()
    metadata = MetadataCatalog.get(expected["name"]).as_dict()
    # A number stands for a table of that many entries.
    tables = {
        key for key, value in expected.items() if isinstance(value, int) and isinstance(metadata.get(key), (list, dict))
    }
    assert {key: len(value) if key in tables else value for key, value in metadata.items()} == expected


def test_contiguous_ids_and_names_of_coco():
    panoptic = MetadataCatalog.get("coco_2017_val_panoptic_with_sem_seg")
    things, everything = panoptic.thing_dataset_id_to_contiguous_id, panoptic.stuff_dataset_id_to_contiguous_id
    assert list(things.values()) == list(range(80)) and list(everything.values()) == list(range(133))
    assert (things[1], things[90], everything[92], everything[200]) == (0, 79, 80, 132)
    assert panoptic.thing_classes[0] == panoptic.stuff_classes[0] == "person"
    assert panoptic.thing_classes[79] == "toothbrush" and panoptic.stuff_classes[132] == "rug-merged"
    stuff_10k = MetadataCatalog.get("coco_2017_train_stuff_10k_sem_seg")
    assert stuff_10k.stuff_classes[0] == "person" and stuff_10k.stuff_classes[-1] == "wood"
    assert list(stuff_10k.stuff_dataset_id_to_contiguous_id.values()) == list(range(171))
    assert stuff_10k.stuff_dataset_id_to_contiguous_id[182] == 170


def test_importing_twice_is_harmless_and_looks_at_no_file(monkeypatch):
    before = {name: MetadataCatalog.get(name).as_dict() for name in DatasetCatalog.list()}
    monkeypatch.setattr("iopath.common.file_io.PathManager.open", lambda *_, **__: pytest.fail("opened a file"))
    importlib.reload(datasets)
    importlib.reload(mask2former_ext)
    assert {name: MetadataCatalog.get(name).as_dict() for name in DatasetCatalog.list()} == before


def test_another_root_takes_the_place_of_the_first(tmp_path):
    try:
        datasets.register_all(str(tmp_path))
        assert MetadataCatalog.get("coins_val").image_root == str(tmp_path / "coins" / "val")
        with pytest.raises(FileNotFoundError, match=r"panoptic_val2017\.json") as caught:
            DatasetCatalog.get("coco_2017_val_panoptic_with_sem_seg")
        assert str(tmp_path) in str(caught.value)
    finally:
        datasets.register_all(ROOT)


CATEGORIES = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 8, "name": "grass", "isthing": 0}]


@pytest.fixture
def tiny_coco(tmp_path):
    """A COCO panoptic dataset of one image of 4×6: the left half is a cat (id 1), the right half grass (id 2)."""
    for folder in ("images", "panoptic", "labels"):
        (tmp_path / folder).mkdir()
    ids = np.ones((4, 6), dtype=np.uint8)
    ids[:, 3:] = 2
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(tmp_path / "images" / "000.jpg")
    Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=2)).save(tmp_path / "panoptic" / "000.png")
    Image.fromarray(ids - 1).save(tmp_path / "labels" / "000.png")
    segments = [{"id": 1, "category_id": 3, "iscrowd": 0}, {"id": 2, "category_id": 8, "iscrowd": 0}]
    content = {"annotations": [{"image_id": 5, "file_name": "000.png", "segments_info": segments}]}
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def paths(tiny_coco):
    return {
        "image_root": str(tiny_coco / "images"),
        "panoptic_root": str(tiny_coco / "panoptic"),
        "panoptic_json": str(tiny_coco / "panoptic.json"),
    }


@pytest.fixture
def name():
    """A name that is not registered, neither before nor after."""
    yield "of_ones_own"
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "of_ones_own" in catalog.list():
            catalog.remove("of_ones_own")


def test_a_dataset_of_ones_own(name, paths, tiny_coco):
    sem_seg_root = str(tiny_coco / "labels")
    datasets.register_panoptic_dataset(name, **paths, sem_seg_root=sem_seg_root, categories=CATEGORIES)
    datasets.check_panoptic_metadata(name)
    assert DatasetCatalog.get(name) == [
        {
            "file_name": str(tiny_coco / "images" / "000.jpg"),
            "image_id": 5,
            "pan_seg_file_name": str(tiny_coco / "panoptic" / "000.png"),
            "sem_seg_file_name": str(tiny_coco / "labels" / "000.png"),
            "segments_info": [
                {"id": 1, "category_id": 0, "iscrowd": 0, "isthing": True},
                {"id": 2, "category_id": 1, "iscrowd": 0, "isthing": False},
            ],
        }
    ]
    assert MetadataCatalog.get(name).as_dict() == paths | {
        "name": name,
        "sem_seg_root": sem_seg_root,
        "evaluator_type": "coco_panoptic_seg",
        "ignore_label": 255,
        "label_divisor": 1000,
        "thing_classes": ["cat"],
        "stuff_classes": ["cat", "grass"],
        "thing_dataset_id_to_contiguous_id": {3: 0},
        "stuff_dataset_id_to_contiguous_id": {3: 0, 8: 1},
    }


def test_images_of_the_json_give_names_and_sizes(name, paths, tiny_coco):
    os.rename(tiny_coco / "images" / "000.jpg", tiny_coco / "images" / "photo.png")
    content = json.loads((tiny_coco / "panoptic.json").read_text())
    content["images"] = [{"id": 5, "file_name": "photo.png", "height": 4, "width": 6}]
    (tiny_coco / "panoptic.json").write_text(json.dumps(content))
    datasets.register_panoptic_dataset(name, **paths, categories=CATEGORIES)
    (record,) = DatasetCatalog.get(name)
    assert record["file_name"] == str(tiny_coco / "images" / "photo.png")
    assert (record["height"], record["width"]) == (4, 6)
    assert "sem_seg_file_name" not in record


def test_thing_classes_can_be_looked_up_by_contiguous_id_when_stuff_comes_first(name, paths):
    datasets.register_panoptic_dataset(name, **paths, categories=CATEGORIES[::-1])
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 1}
    assert metadata.thing_classes[1] == "cat"


def test_names_that_are_taken(name, paths):
    datasets.register_panoptic_dataset(name, **paths, categories=CATEGORIES)
    datasets.register_panoptic_dataset(name, **paths, categories=CATEGORIES)
    with pytest.raises(ValueError, match=r"of_ones_own.*already registered.*ignore_label"):
        datasets.register_panoptic_dataset(name, **paths, categories=CATEGORIES, ignore_label=0)
    assert MetadataCatalog.get(name).ignore_label == 255


@pytest.mark.parametrize("missing", ["images/000.jpg", "panoptic/000.png", "labels/000.png", "panoptic.json"])
def test_missing_files_of_a_dataset_of_ones_own(missing, name, paths, tiny_coco):
    sem_seg_root = str(tiny_coco / "labels")
    datasets.register_panoptic_dataset(name, **paths, sem_seg_root=sem_seg_root, categories=CATEGORIES)
    (tiny_coco / missing).unlink()
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS") as caught:
        DatasetCatalog.get(name)
    assert str(tiny_coco / missing) in str(caught.value)


def test_instance_annotations_are_no_panoptic_annotations(name, paths, tiny_coco):
    (tiny_coco / "panoptic.json").write_text(json.dumps({"annotations": [{"image_id": 5, "bbox": [0, 0, 1, 1]}]}))
    datasets.register_panoptic_dataset(name, **paths, categories=CATEGORIES)
    with pytest.raises(ValueError, match=r"panoptic\.json: not COCO panoptic annotations"):
        DatasetCatalog.get(name)


def test_unregistered_category(name, paths):
    datasets.register_panoptic_dataset(name, **paths, categories=CATEGORIES[:1])
    with pytest.raises(ValueError, match=r"panoptic\.json, image_id 5: segment 2 has category_id 8"):
        DatasetCatalog.get(name)


@pytest.mark.parametrize("key", ["label_divisor", "ignore_label", "panoptic_json", "thing_dataset_id_to_contiguous_id"])
def test_missing_metadata_is_listed(key, name, paths):
    datasets.register_panoptic_dataset(name, **paths, categories=CATEGORIES)
    delattr(MetadataCatalog.get(name), key)
    with pytest.raises(ValueError, match=rf'"of_ones_own": its metadata lacks {key}\.') as caught:
        datasets.check_panoptic_metadata(name)
    assert "register_panoptic_dataset" in str(caught.value)


def test_metadata_of_an_unknown_dataset_lacks_everything(name):
    with pytest.raises(ValueError, match=r"lacks evaluator_type, image_root, .*stuff_dataset_id_to_contiguous_id"):
        datasets.check_panoptic_metadata(name)


@pytest.mark.parametrize("registered", ["coco_2017_train_panoptic", "cityscapes_fine_panoptic_val", "coins_val"])
def test_registered_panoptic_datasets_have_all_metadata(registered):
    datasets.check_panoptic_metadata(registered)


def test_detectron2s_own_coco_panoptic_trains_with_the_mapper(paths, tiny_coco, mapper_cfg):
    """coco_2017_train_panoptic is Detectron2's registration: its dicts and metadata must do."""
    content = json.loads((tiny_coco / "panoptic.json").read_text())
    content["annotations"][0]["segments_info"][1]["category_id"] = 200  # the last of COCO's 133 categories
    (tiny_coco / "panoptic.json").write_text(json.dumps(content))
    theirs = MetadataCatalog.get("coco_2017_train_panoptic").as_dict()
    (record,) = load_coco_panoptic_json(paths["panoptic_json"], paths["image_root"], paths["panoptic_root"], theirs)
    options = ("DATASETS.TRAIN", ("coco_2017_train_panoptic",), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 133)
    output = build_dataset_mapper(mapper_cfg("coco_panoptic_lsj", *options))(record)
    assert output["instances"].gt_classes.tolist() == [2, 132]
    assert (output["height"], output["width"]) == (4, 6)


def test_semantic_datasets(name, tiny_coco):
    datasets.register_semantic_dataset(
        name,
        image_root=str(tiny_coco / "images"),
        sem_seg_root=str(tiny_coco / "labels"),
        metadata={"stuff_classes": ["cat", "grass"]},
    )
    assert DatasetCatalog.get(name) == [
        {
            "file_name": str(tiny_coco / "images" / "000.jpg"),
            "sem_seg_file_name": str(tiny_coco / "labels" / "000.png"),
        }
    ]
    assert MetadataCatalog.get(name).evaluator_type == "sem_seg"
    assert MetadataCatalog.get(name).ignore_label == 255


def test_instance_datasets(name, tiny_coco):
    content = {
        "images": [{"id": 5, "file_name": "000.jpg", "height": 4, "width": 6}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 8, "iscrowd": 0, "bbox": [0, 0, 3, 4], "area": 12,
             "segmentation": [[0, 0, 3, 0, 3, 4, 0, 4]]},
        ],
        "categories": [{"id": 8, "name": "grass"}],
    }  # fmt: skip
    (tiny_coco / "instances.json").write_text(json.dumps(content))
    datasets.register_instance_dataset(
        name,
        image_root=str(tiny_coco / "images"),
        json_file=str(tiny_coco / "instances.json"),
        categories=CATEGORIES,
    )
    (record,) = DatasetCatalog.get(name)
    assert record["file_name"] == str(tiny_coco / "images" / "000.jpg")
    assert record["annotations"][0]["category_id"] == 1
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["cat", "grass"] and metadata.evaluator_type == "coco"
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 8: 1}


def test_ready_metadata_of_panoptic_datasets(name, paths):
    own = {"thing_classes": ["a cat"], "source": "the garden"}
    datasets.register_panoptic_dataset(name, **paths, categories=CATEGORIES, metadata=own)
    metadata = MetadataCatalog.get(name)
    assert (metadata.thing_classes, metadata.source) == (["a cat"], "the garden")
    assert metadata.stuff_classes == ["cat", "grass"]


def test_metadata_that_is_none_is_not_set(name):
    register(name, list, {"evaluator_type": "coco", "json_file": None})
    assert "json_file" not in MetadataCatalog.get(name).as_dict()
