"""The audit as a whole: statistics, print, JSON, input that is no dataset, registered datasets, two splits."""

import json
from functools import partial

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from mask2former_ext.audit import audit_dataset, audit_registered, find_shared_images, format_report
from mask2former_ext.data.datasets import (
    register_instance_dataset,
    register_panoptic_dataset,
    register_semantic_dataset,
)

PIXELS = 48 * 64


# --- statistics, by hand


def test_figures_of_instances(make):
    figures = make("instance").audit(num_queries=1).statistics
    assert (figures["images"], figures["annotations"], figures["classes"]) == (3, 7, 2)
    assert figures["class_histogram"] == {"cat": 3, "dog": 3}
    assert figures["void_share"] is None and figures["class_pixel_share"] is None
    assert figures["crowd_share"] == 10 * 22 / (3 * PIXELS)
    assert figures["instances_per_image"] == {
        "min": 2, "median": 2.0, "mean": 2.0, "max": 2, "num_queries": 1, "images_above": 3,
    }  # fmt: skip
    assert figures["image_height"] == {"min": 48, "max": 48} and figures["image_width"] == {"min": 64, "max": 64}


def test_figures_of_panoptic(make):
    figures = make("panoptic").audit().statistics
    assert (figures["images"], figures["annotations"], figures["classes"]) == (3, 10, 3)
    assert figures["class_histogram"] == {"cat": 3, "dog": 3, "grass": 3}
    assert figures["void_share"] == 5 / 64
    assert figures["crowd_share"] == 10 * 22 / (3 * PIXELS)
    assert figures["class_pixel_share"]["cat"] == 16 * 20 / (48 * 59)
    assert figures["instances_per_image"]["max"] == 3


def test_figures_of_semantic(make):
    dataset = make("semantic")
    labels = dataset.pixels(2)
    labels[labels == 1] = 0
    dataset.repaint(2, labels)
    figures = dataset.audit().statistics
    assert (figures["images"], figures["annotations"], figures["classes"]) == (3, 8, 3)
    assert figures["class_histogram"] == {"grass": 3, "cat": 2, "dog": 3}
    assert figures["void_share"] == 5 / 64 and figures["crowd_share"] is None
    assert figures["class_pixel_share"]["cat"] == 2 * 16 * 20 / (3 * 48 * 59)
    assert figures["instances_per_image"]["median"] == 3


def test_labels_are_classes_where_none_are_given(make):
    dataset = make("semantic")
    dataset.options = {"ignore_label": 0}
    figures = dataset.audit().statistics
    assert figures["class_histogram"] == {"1": 3, "2": 3, "255": 3}


def test_classes_of_one_name_are_counted_together(make):
    dataset = make("instance")
    dataset.content["categories"][0]["name"] = "dog"
    figures = dataset.audit().statistics
    assert figures["class_histogram"] == {"dog": 6} and figures["classes"] == 2


# --- print and JSON


def test_print(make):
    dataset = make("instance")
    for number in (1, 2, 3):
        dataset.annotation(10 * number + 1)["category_id"] = 99
        dataset.annotation(10 * number + 2)["bbox"][0] += 20
    report = dataset.audit()
    text = format_report(report, examples=2)
    assert "(instance): 3 images of 48 × 64 pixels" in text
    assert "objects an image: 2 to 2, median 2; 100 queries" in text
    assert "  dog         3  " + "█" * 30 in text
    assert "FAULT    category-unknown (3): category ids that are not among the categories\n" in text
    assert f"         - {dataset.image(2)}, image_id 2, annotation 21: There is no category 99.\n" in text
    assert "annotation 31" not in text and text.count("- … and 1 more") == 2
    assert text.index("FAULT") < text.index("WARNING  box-differs (3)")
    assert text.endswith("\n3 faults, 4 warnings.\n")  # nothing is a cat
    whole = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (whole["faults"], whole["warnings"], whole["infos"], len(whole["findings"])) == (3, 4, 0, 7)
    assert {"kind", "severity", "file", "image_id", "annotation_id", "message"} == whole["findings"][0].keys()


def test_of_many_classes_the_most_and_the_least_frequent_are_printed(make):
    dataset = make("instance")
    dataset.content["categories"] += [{"id": 100 + k, "name": f"class {k}"} for k in range(40)]
    text = format_report(dataset.audit())
    assert "… 18 classes between them …" in text
    assert "40 of 42 classes have no annotation: class 0, class 1," in text and "and 32 more" in text


# --- what is no dataset


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no annotation file of COCO's format"),
        ('{"images": [], "annotations": []}', "it lacks categories"),
        ('{"images": [], "annotations": [], "categories": []}', "there is no image in it"),
        ('{"images": [], "annotations": [{"segments_info": []}], "categories": []}', "these are panoptic annotations"),
    ],
)
def test_files_that_are_no_annotations(content, said, make):
    dataset = make("instance")
    dataset.annotations.write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        audit_dataset(dataset.images, dataset.annotations, "instance")
    assert str(dataset.annotations) in str(error.value)


def test_instances_are_no_panoptic_annotations(make):
    dataset = make("instance")
    dataset.write()
    with pytest.raises(ValueError, match="segments_info is missing"):
        audit_dataset(dataset.images, dataset.annotations, "panoptic")
    with pytest.raises(ValueError, match='no task "boxes"'):
        audit_dataset(dataset.images, dataset.annotations, "boxes")


def test_missing_folders_and_files(make, tmp_path):
    dataset = make("panoptic")
    dataset.write()
    audit = partial(audit_dataset, task="panoptic")
    with pytest.raises(FileNotFoundError, match=r"nowhere: this folder does not exist \(the folder of images\)"):
        audit(tmp_path / "nowhere", dataset.annotations)
    with pytest.raises(FileNotFoundError, match=r"no\.json: this file does not exist"):
        audit(dataset.images, tmp_path / "no.json")
    with pytest.raises(FileNotFoundError, match=r"annotations: this folder of panoptic PNGs does not exist"):
        audit(dataset.images, dataset.annotations)
    dataset.pngs.rename(dataset.root / "annotations")
    assert audit(dataset.images, dataset.annotations).faults == []


def test_folders_of_semantic_labels(make, tmp_path):
    dataset = make("semantic")
    (tmp_path / "empty").mkdir()
    audit = partial(audit_dataset, task="semantic")
    with pytest.raises(ValueError, match="lie in one folder"):
        audit(dataset.pngs, dataset.pngs)
    with pytest.raises(ValueError, match="empty: there is no file"):
        audit(dataset.images, tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="the folder of label PNGs"):
        audit(dataset.images, tmp_path / "nowhere")
    for folder, files in ((dataset.images, "*.jpg"), (dataset.pngs, "*.png")):
        (folder / "city").mkdir()
        for path in list(folder.glob(files)):
            path.rename(folder / "city" / path.name)
    assert audit(dataset.images, dataset.pngs).statistics["images"] == 3


# --- two splits


def test_images_in_both_splits(make, tmp_path):
    training = make("instance")
    validation = make("panoptic")
    noise = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for number in (1, 3):
        Image.fromarray(noise + np.uint8(number)).save(validation.image(number))
    (found,) = find_shared_images(training.audit(), validation.audit())
    assert (found.kind, found.severity, found.file) == ("image-in-both", "warning", str(validation.image(2)))
    assert str(training.image(2)) in found.cause


# --- registered datasets


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
