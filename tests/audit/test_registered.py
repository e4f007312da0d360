"""Datasets that are registered with Detectron2: read from their files, or as their loader gives them."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from mask2former_ext.audit import audit_registered
from mask2former_ext.data.datasets import (
    register_instance_dataset,
    register_panoptic_dataset,
    register_semantic_dataset,
)


@pytest.fixture
def name():
    name = "audited"
    yield name
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)


def test_registered_panoptic(name, make):
    dataset = make("panoptic")
    dataset.annotation(21)["category_id"] = 99  # which the loader of the dataset refuses
    dataset.write()
    paths = {"image_root": str(dataset.images), "panoptic_root": str(dataset.pngs)}
    categories = dataset.content["categories"]
    register_panoptic_dataset(name, panoptic_json=str(dataset.annotations), categories=categories, **paths)
    report = audit_registered(name, num_queries=2)
    assert [finding.kind for finding in report.faults] == ["category-unknown"]
    assert {finding.kind for finding in report.warnings} == {"too-many-objects"}
    assert (report.source.name, report.source.task) == (name, "panoptic")


def test_registered_instances(name, make):
    dataset = make("instance")
    dataset.annotation(21)["id"] = 11  # which Detectron2 refuses
    dataset.write()
    paths = {"image_root": str(dataset.images), "json_file": str(dataset.annotations)}
    register_instance_dataset(name, categories=dataset.content["categories"], **paths)
    assert [finding.kind for finding in audit_registered(name).findings] == ["annotation-id-repeated"]


def test_registered_labels(name, make):
    dataset = make("semantic")
    paths = {"image_root": str(dataset.images), "sem_seg_root": str(dataset.pngs)}
    register_semantic_dataset(name, metadata={"stuff_classes": ["grass", "cat"]}, **paths)
    report = audit_registered(name)
    assert [finding.kind for finding in report.findings] == ["label-outside-range"] * 3
    assert report.statistics["class_histogram"] == {"grass": 3, "cat": 3}


def test_datasets_of_ones_own_loader(name, make):
    """Detectron2's standard format: bitmaps, boxes by their corners, no ids of annotations."""
    dataset = make("instance")
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[10:20, 30:50] = 1
    box = {"bbox": np.array([30.0, 10.0, 50.0, 20.0]), "bbox_mode": BoxMode.XYXY_ABS}
    annotations = [
        {"category_id": 0, "segmentation": mask, **box},
        {"category_id": 0, "segmentation": mask[:, ::-1], **box},
        {"category_id": 1, "segmentation": mask[:40], **box},
        {"category_id": 1, "segmentation": [np.array([30, 10, 50, 10, 50, 20])], **box},
    ]
    record = {"file_name": str(dataset.image(1)), "image_id": "a", "height": 48, "width": 64}
    DatasetCatalog.register(name, lambda: [record | {"annotations": annotations}])
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog"])
    found = [(finding.kind, finding.image_id, finding.annotation_id) for finding in audit_registered(name).findings]
    assert found == [("rle-invalid", "a", 2), ("box-differs", "a", 1)]
    with pytest.raises(ValueError, match="no annotations for the task semantic; it has: instance"):
        audit_registered(name, "semantic")


@pytest.mark.parametrize(("mode", "kinds"), [(BoxMode.XYWH_REL, []), (BoxMode.XYXY_ABS, ["box-invalid"])])
def test_boxes_of_ones_own_loader(mode, kinds, name, make):
    annotation = {"category_id": 0, "segmentation": [[30, 10, 50, 10, 50, 20]], "bbox": [0.1, 0.1], "bbox_mode": mode}
    record = {"file_name": str(make("instance").image(1)), "height": 48, "width": 64, "annotations": [annotation]}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(thing_classes=["cat"])
    assert [finding.kind for finding in audit_registered(name).findings] == kinds


def test_things_of_ones_own_loader_that_their_list_numbers_anew(name, make):
    """As ADE20K's: label 1 is a thing, and the first in the list of things."""
    annotation = {"category_id": 1, "segmentation": [[30, 10, 50, 10, 50, 20]]}
    record = {"file_name": str(make("instance").image(1)), "height": 48, "width": 64, "annotations": [annotation]}
    DatasetCatalog.register(name, lambda: [record])
    names = {"thing_classes": ["bed", "car"], "stuff_classes": ["wall", "bed", "car"]}
    MetadataCatalog.get(name).set(thing_dataset_id_to_contiguous_id={8: 1, 9: 2}, **names)
    assert audit_registered(name).statistics["class_histogram"] == {"bed": 1, "car": 0}


def test_what_loaders_leave_out(name, make):
    annotation = {"segmentation": [[30, 10, 50, 10, 50, 20]]}
    records = [{"file_name": str(make("instance").image(1)), "annotations": [annotation]}]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["cat"], evaluator_type="coco")  # without json_file
    assert [finding.cause for finding in audit_registered(name).faults] == ["There is no category None."]
    del records[0]["file_name"]
    with pytest.raises(ValueError, match="gives a dataset dict without file_name"):
        audit_registered(name)
    records.clear()
    with pytest.raises(ValueError, match="audited: there is no image in it"):
        audit_registered(name)


def test_zero_may_be_the_label_to_ignore(name, make):
    dataset = make("semantic")
    for number in (1, 2, 3):
        labels = dataset.pixels(number)
        dataset.repaint(number, np.where(labels == 255, 3, labels).astype(np.uint8))
    paths = {"image_root": str(dataset.images), "sem_seg_root": str(dataset.pngs)}
    classes = ["void", "cat", "dog", "border"]
    register_semantic_dataset(name, metadata={"stuff_classes": classes}, ignore_label=0, **paths)
    assert audit_registered(name).statistics["class_histogram"] == {"void": 0, "cat": 3, "dog": 3, "border": 3}


def test_things_and_stuff_of_ones_own_loader(name, make):
    dataset = make("panoptic")
    contiguous = {3: 0, 7: 1, 20: 2}
    records = [
        {
            "file_name": str(dataset.image(entry["image_id"])),
            "pan_seg_file_name": str(dataset.png(entry["image_id"])),
            "segments_info": [s | {"category_id": contiguous[s["category_id"]]} for s in entry["segments_info"]],
        }
        for entry in dataset.content["annotations"]
    ]
    records[1]["segments_info"][2]["isthing"] = True
    DatasetCatalog.register(name, lambda: records)
    things = {"thing_classes": ["cat", "dog"], "thing_dataset_id_to_contiguous_id": {3: 0, 7: 1}}
    MetadataCatalog.get(name).set(stuff_classes=["cat", "dog", "grass"], **things)
    report = audit_registered(name)
    assert [(finding.kind, finding.annotation_id) for finding in report.findings] == [("isthing-differs", 23)]
    assert report.statistics["class_histogram"] == {"cat": 3, "dog": 3, "grass": 3}


def test_what_cannot_be_loaded(name):
    with pytest.raises(ValueError, match=r'No dataset is registered as "coco_2018_val"\. Did you mean coco_2017_val'):
        audit_registered("coco_2018_val")
    with pytest.raises(ValueError, match="lists names"):
        audit_registered("!")

    def fail():
        raise KeyError("polygons")

    DatasetCatalog.register(name, fail)
    with pytest.raises(ValueError, match='The loader of "audited" failed: KeyError'):
        audit_registered(name)


def test_missing_files_of_registered_datasets(name, tmp_path):
    register_semantic_dataset(name, image_root=str(tmp_path / "x"), sem_seg_root=str(tmp_path), metadata={})
    with pytest.raises(FileNotFoundError, match=r"x: this does not exist \(the image_root of audited\)"):
        audit_registered(name)
