"""The audit as a whole: statistics, print, JSON, input that is no dataset, two splits."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from mask2former_ext.audit import (
    audit_dataset,
    draw_contact_sheet,
    find_shared_images,
    format_report,
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


def test_pixels_of_classes_of_one_name_are_counted_together(make):
    dataset = make("panoptic")
    dataset.content["categories"].insert(0, {"id": 8, "name": "cat", "isthing": 1})
    assert dataset.audit().statistics["class_pixel_share"]["cat"] == 16 * 20 / (48 * 59)
    dataset.content["categories"].append(dataset.content["categories"].pop(0))
    assert dataset.audit().statistics["class_pixel_share"]["cat"] == 16 * 20 / (48 * 59)


def test_models_without_queries(make):
    report = make("instance").audit(num_queries=None)
    objects = report.statistics["instances_per_image"]
    assert (report.findings, objects["num_queries"], objects["images_above"]) == ([], None, 0)
    assert "median 2\npixels" in format_report(report)


# --- print and JSON


def test_what_is_not_utf_8_is_printed_as_escapes(make):
    dataset = make("instance")
    (dataset.images / "4\udce9.jpg").write_bytes(b"")  # of a Windows archive, for example
    dataset.content["categories"].append({"id": 8, "name": "\ud800"})
    report = dataset.audit()
    assert "4\\udce9.jpg: No entry" in format_report(report)
    assert "have no annotation: \\ud800" in format_report(report)
    assert "\\udce9.jpg" in json.dumps(report.to_json(), ensure_ascii=False).encode().decode()
    assert draw_contact_sheet(report).size == (3 * 336, 380)
    assert [str(finding).encode() for finding in report.findings]


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
        ("{", "this is no JSON"),
        ("[]", "not annotations in COCO's format"),
        ('{"images": [], "annotations": []}', "there is no list categories"),
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
    with pytest.raises(FileNotFoundError, match=r"no\.json: there is no such file"):
        audit(dataset.images, tmp_path / "no.json")
    with pytest.raises(FileNotFoundError, match=r"annotations: this folder of panoptic PNGs does not exist"):
        audit(dataset.images, dataset.annotations)
    dataset.pngs.rename(dataset.root / "annotations")
    assert audit(dataset.images, dataset.annotations).faults == []


def test_unused_images_of_the_working_folder(make, monkeypatch):
    dataset = make("instance")
    dataset.image(4).write_bytes(b"")
    (dataset.images / "folder.jpg").mkdir()
    dataset.write()
    monkeypatch.chdir(dataset.images)
    (found,) = audit_dataset(".", dataset.annotations, "instance").findings
    assert (found.kind, found.file) == ("image-unused", "4.jpg")


def test_labels_may_lie_among_the_images(make, monkeypatch):
    dataset = make("semantic")
    (dataset.images / "folder.jpg").mkdir()
    (dataset.pngs / "folder.png").mkdir()
    labels = dataset.pngs.rename(dataset.images / "labels")
    options = {"task": "semantic", "class_names": ["grass", "cat", "dog"]}
    monkeypatch.chdir(dataset.images.parent)
    for images in (dataset.images, "images"):
        report = audit_dataset(images, labels, **options)
        assert (report.findings, report.statistics["images"]) == ([], 3)
    images = dataset.images.rename(labels.parent.parent / "elsewhere")
    labels = (images / "labels").rename(dataset.images)
    images = images.rename(labels / "images")
    report = audit_dataset(images, labels, **options)
    assert (report.findings, report.statistics["images"]) == ([], 3)


def test_linked_folders_are_looked_into(make):
    dataset = make("semantic")
    for folder in (dataset.images, dataset.pngs):
        (folder.parent / "disk" / folder.name).parent.mkdir(exist_ok=True)
        moved = folder.rename(folder.parent / "disk" / folder.name)
        folder.mkdir()
        (folder / "linked").symlink_to(moved)
        (folder / "loop").symlink_to(folder)
    report = dataset.audit()
    assert (report.findings, report.statistics["images"]) == ([], 3)


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
