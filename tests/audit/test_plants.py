"""Broken copies of a dataset: the audit names what was planted, where, and nothing else."""

import json
import time

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from PIL import Image

from mask2former_ext.audit import KINDS

BIG = 10**9


def named(report):
    return [(finding.kind, finding.image_id, finding.annotation_id) for finding in report.findings]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_nothing_is_found_in_what_is_whole(task, workers, make):
    report = make(task).audit(workers=workers)
    assert named(report) == []
    assert (report.faults, report.warnings, report.infos) == ([], [], [])


# --- image files, in all formats


def remove_image(dataset):
    dataset.image(2).unlink()


def truncate_image(dataset):
    path = dataset.image(2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])


def truncate_progressive_image(dataset):
    with Image.open(dataset.image(2)) as image:
        image.load()
    image.save(dataset.image(2), progressive=True)
    truncate_image(dataset)


def replace_image_by_text(dataset):
    dataset.image(2).write_text("<html>404</html>")


def deepen_image(dataset):
    deep = np.full((48, 64), 40_000, dtype=np.uint16)
    Image.fromarray(deep).save(dataset.image(2), format="PNG")


def image_of_real_numbers(dataset):
    Image.fromarray(np.full((48, 64), 0.5, dtype=np.float32)).save(dataset.image(2), format="TIFF")


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (remove_image, "image-missing"),
        (truncate_image, "image-unreadable"),
        (truncate_progressive_image, "image-unreadable"),
        (replace_image_by_text, "image-unreadable"),
        (deepen_image, "image-deep"),
        (image_of_real_numbers, "image-mode"),
    ],
)
def test_image_files(task, plant, kind, make):
    dataset = make(task)
    plant(dataset)
    if task == "semantic" and kind == "image-missing":
        (found,) = dataset.audit().findings
        assert (found.kind, found.file) == (kind, str(dataset.png(2)))
        return
    (found,) = dataset.audit().findings
    assert (found.kind, found.file) == (kind, str(dataset.image(2)))
    assert found.image_id == (None if task == "semantic" else 2)


def resize_image(dataset):
    with Image.open(dataset.image(2)) as image:
        smaller = image.resize((32, 24))
    smaller.save(dataset.image(2))


def turn_image(dataset):
    with Image.open(dataset.image(2)) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(dataset.image(2), exif=exif)


@pytest.mark.parametrize("plant", [resize_image, turn_image])
def test_images_of_another_size(plant, make):
    instances = make("instance")
    plant(instances)
    assert named(instances.audit()) == [("image-size-differs", 2, None)]
    panoptic = make("panoptic")
    plant(panoptic)
    assert named(panoptic.audit()) == [("image-size-differs", 2, None), ("png-size-differs", 2, None)]
    semantic = make("semantic")
    plant(semantic)
    (found,) = semantic.audit().findings
    assert (found.kind, found.file) == ("png-size-differs", str(semantic.png(2)))


# --- instances


def remove_mask(dataset):
    del dataset.annotation(21)["segmentation"]


def two_points(dataset):
    dataset.annotation(21)["segmentation"] = [[6, 4, 26, 20]]


def flat_polygon(dataset):
    dataset.annotation(21)["segmentation"] = dataset.annotation(21)["segmentation"][0]


def odd_polygon(dataset):
    dataset.annotation(21)["segmentation"][0].append(5)


def nan_polygon(dataset):
    dataset.annotation(21)["segmentation"][0][3] = float("nan")


def move_polygon(dataset):
    polygon = dataset.annotation(21)["segmentation"][0]
    dataset.annotation(21)["segmentation"] = [[number + 100 for number in polygon]]


def nested_polygon(dataset):
    points = dataset.annotation(21)["segmentation"][0]
    dataset.annotation(21)["segmentation"] = [[[x, y] for x, y in zip(points[::2], points[1::2], strict=True)]]


def far_polygon(dataset):
    dataset.annotation(21)["segmentation"] = [[6, 4, BIG, 4, BIG, 20, 6, 20]]


def wide_polygon(dataset):
    dataset.annotation(21)["segmentation"] = [[6, 4, 90, 4, 90, 20, 6, 20]]
    dataset.annotation(21)["bbox"] = [6, 4, 84, 16]
    dataset.annotation(21)["area"] = 58 * 16


def other_code(dataset):
    dataset.annotation(22)["segmentation"]["size"] = [64, 48]


def cut_code(dataset):
    code = dataset.annotation(22)["segmentation"]
    code["counts"] = code["counts"][:-4]


def cut_plain_code(dataset):
    dataset.annotation(33)["segmentation"]["counts"].pop()


def no_counts(dataset):
    del dataset.annotation(22)["segmentation"]["counts"]


def empty_mask(dataset):
    dataset.annotation(22)["segmentation"]["counts"] = [48 * 64]


def tiny_mask(dataset):
    dataset.annotation(21).update(segmentation=[[6, 4, 9, 4, 9, 9, 6, 9]], bbox=[6, 4, 3, 5], area=15)


def corners_for_box(dataset):
    dataset.annotation(21)["bbox"] = [6, 4, 26, 20]


def nan_box(dataset):
    dataset.annotation(21)["bbox"][2] = float("nan")


def flat_box(dataset):
    dataset.annotation(21)["bbox"][3] = 0


def short_box(dataset):
    dataset.annotation(21)["bbox"].pop()


def wrong_area(dataset):
    dataset.annotation(21)["area"] *= 2


def unknown_category(dataset):
    dataset.annotation(21)["category_id"] = 4


def repeated_annotation_id(dataset):
    dataset.annotation(21)["id"] = 11


def repeated_annotation(dataset):
    dataset.content["annotations"].append(dataset.annotation(21) | {"id": 29})


def no_image(dataset):
    dataset.content["annotations"].append(dataset.annotation(21) | {"id": 29, "image_id": 99})


def ignore_flag(dataset):
    dataset.annotation(21)["ignore"] = 1


def null_ignore_flag(dataset):
    dataset.annotation(21)["ignore"] = None


def no_area(dataset):
    del dataset.annotation(21)["area"]


def area_in_words(dataset):
    dataset.annotation(21)["area"] = "320"


def no_box(dataset):
    del dataset.annotation(21)["bbox"]


def null_box(dataset):
    dataset.annotation(21)["bbox"] = None


def null_crowd(dataset):
    dataset.annotation(21)["iscrowd"] = None


def ids_of_two_types(dataset):
    dataset.annotation(21)["id"] = "21"


def image_ids_of_two_types(dataset):
    dataset.content["images"][1]["id"] = "b"
    for annotation in dataset.content["annotations"]:
        if annotation["image_id"] == 2:
            annotation["image_id"] = "b"


def no_annotation_id(dataset):
    dataset.content["annotations"].append({"image_id": 2, "category_id": 3})


def no_height(dataset):
    dataset.content["images"].append({"id": 4, "file_name": "4.jpg", "width": 64})


def repeated_image_id(dataset):
    dataset.content["images"].append(dataset.content["images"][0] | {"file_name": "2.jpg"})


def repeated_image(dataset):
    dataset.image(3).write_bytes(dataset.image(1).read_bytes())


def unannotated_image(dataset):
    dataset.content["annotations"] = [entry for entry in dataset.content["annotations"] if entry["image_id"] != 2]


def unlisted_image(dataset):
    (dataset.images / "4.jpg").write_bytes(dataset.image(1).read_bytes())


def unlisted_image_in_capitals(dataset):
    (dataset.images / "4.JPG").write_bytes(dataset.image(1).read_bytes())


def image_listed_twice(dataset):
    dataset.content["images"].append(dataset.content["images"][1] | {"id": 4})
    dataset.content["annotations"].append(dataset.annotation(21) | {"id": 41, "image_id": 4})


def repeated_category_id(dataset):
    dataset.content["categories"].append({"id": 7, "name": "wolf"})


def repeated_category_name(dataset):
    dataset.content["categories"].append({"id": 8, "name": "dog"})
    dataset.annotation(22)["category_id"] = 8


def nameless_category(dataset):
    dataset.content["categories"].append({"id": 8})


def category_id_of_text(dataset):
    dataset.content["categories"].append({"id": "8", "name": "wolf"})


def category_without_text(dataset):
    dataset.content["categories"].append({"id": 8, "name": 8})


def unused_category(dataset):
    dataset.content["categories"].append({"id": 8, "name": "wolf"})


def few_queries(dataset):
    dataset.options["num_queries"] = 2
    dataset.content["annotations"].append(
        dataset.annotation(21) | {"id": 29, "segmentation": [[7, 4, 26, 4, 26, 20, 7, 20]]}
    )


def other_class_names(dataset):
    dataset.options["class_names"] = ["dog", "Cat"]


def crowds_everywhere(dataset):
    for annotation in dataset.content["annotations"]:
        if annotation["id"] in (12, 22, 32):
            annotation.update(segmentation=[[0, 0, 64, 0, 64, 40, 0, 40]], bbox=[0, 0, 64, 40], area=64 * 40, iscrowd=1)
    dataset.annotation(11)["category_id"] = 7


INSTANCE_PLANTS = [
    (remove_mask, "segmentation-missing", 2, 21),
    (two_points, "polygon-invalid", 2, 21),
    (flat_polygon, "polygon-invalid", 2, 21),
    (odd_polygon, "polygon-invalid", 2, 21),
    (nan_polygon, "polygon-invalid", 2, 21),
    (move_polygon, "polygon-outside", 2, 21),
    (nested_polygon, "polygon-invalid", 2, 21),
    (far_polygon, "polygon-invalid", 2, 21),
    (wide_polygon, "polygon-beyond-border", 2, 21),
    (other_code, "rle-invalid", 2, 22),
    (cut_code, "rle-invalid", 2, 22),
    (cut_plain_code, "rle-invalid", 3, 33),
    (no_counts, "rle-invalid", 2, 22),
    (empty_mask, "mask-empty", 2, 22),
    (tiny_mask, "mask-tiny", 2, 21),
    (corners_for_box, "box-differs", 2, 21),
    (nan_box, "box-invalid", 2, 21),
    (flat_box, "box-invalid", 2, 21),
    (short_box, "box-invalid", 2, 21),
    (wrong_area, "area-differs", 2, 21),
    (unknown_category, "category-unknown", 2, 21),
    (repeated_annotation_id, "annotation-id-repeated", 2, 11),
    (repeated_annotation, "annotation-repeated", 2, 29),
    (no_image, "annotation-without-image", 99, 29),
    (ignore_flag, "annotation-ignore-flag", 2, 21),
    (null_ignore_flag, "annotation-ignore-flag", 2, 21),
    (no_area, "entry-malformed", 2, 21),
    (area_in_words, "entry-malformed", 2, 21),
    (no_box, "entry-malformed", 2, 21),
    (null_box, "entry-malformed", 2, 21),
    (null_crowd, "entry-malformed", 2, 21),
    (ids_of_two_types, "entry-malformed", None, None),
    (image_ids_of_two_types, "entry-malformed", None, None),
    (no_annotation_id, "entry-malformed", None, None),
    (no_height, "entry-malformed", None, None),
    (repeated_image_id, "image-id-repeated", 1, None),
    (repeated_image, "image-repeated", 3, None),
    (unannotated_image, "image-without-annotations", 2, None),
    (unlisted_image, "image-unused", None, None),
    (unlisted_image_in_capitals, "image-unused", None, None),
    (image_listed_twice, "image-listed-twice", 4, None),
    (repeated_category_id, "category-id-repeated", None, None),
    (repeated_category_name, "category-name-repeated", None, None),
    (nameless_category, "entry-malformed", None, None),
    (category_id_of_text, "entry-malformed", None, None),
    (category_without_text, "entry-malformed", None, None),
    (unused_category, "class-without-annotations", None, None),
    (few_queries, "too-many-objects", 2, None),
    (other_class_names, "class-names-differ", None, None),
    (crowds_everywhere, "crowd-share-high", None, None),
]


@pytest.mark.parametrize("box", [[6, 4, 49, 17], [6, 4, 36, 17]])
def test_boxes_may_be_around_the_corners_or_around_the_pixels(box, make):
    dataset = make("instance")
    spike = [6, 4, 20, 4, 55, 4.2, 20, 5, 20, 21, 6, 21]  # its pixels end at column 42
    dataset.annotation(21).update(segmentation=[spike], bbox=box, area=250)
    assert named(dataset.audit()) == []
    box[2] = 30
    assert named(dataset.audit()) == [("box-differs", 2, 21)]


@pytest.mark.parametrize(("plant", "kind", "image_id", "annotation_id"), INSTANCE_PLANTS)
def test_instances(plant, kind, image_id, annotation_id, make):
    dataset = make("instance")
    plant(dataset)
    assert named(dataset.audit()) == [(kind, image_id, annotation_id)]


@pytest.mark.parametrize("side", [0, -48, 10**10, 48.0, "48"])
def test_images_without_a_possible_size(side, make):
    dataset = make("instance")
    dataset.content["images"][1]["height"] = side
    entry, *of_the_image = dataset.audit().findings
    assert entry.kind == "entry-malformed" and entry.cause.startswith('The image {"id": 2, "file_name": "2.jpg"')
    assert [(f.kind, f.annotation_id) for f in of_the_image] == [("annotation-without-image", k) for k in (21, 22)]


def test_ids_that_are_text_are_told_from_numbers(make):
    dataset = make("instance")
    dataset.annotation(21)["image_id"] = "2"
    (found,) = dataset.audit().findings
    assert (found.kind, found.cause) == ("annotation-without-image", "No image that can be used has the id '2'.")


def test_box_modes_are_none_of_cocos(make):
    dataset = make("instance")
    dataset.annotation(21)["bbox_mode"] = "XYWH"
    dataset.annotation(31)["bbox_mode"] = 0
    assert named(dataset.audit()) == []


def test_the_same_mask_in_another_form_is_a_copy(make):
    dataset = make("instance")
    mask = np.zeros((48, 64), dtype=np.uint8, order="F")
    mask[4:20, 6:26] = 1
    segmentation = {"size": [48, 64], "counts": coco_mask.encode(mask)["counts"].decode()}
    dataset.content["annotations"].append(dataset.annotation(21) | {"id": 29, "segmentation": segmentation})
    assert named(dataset.audit()) == [("annotation-repeated", 2, 29)]


# --- panoptic


def remove_png(dataset):
    dataset.png(2).unlink()


def truncate_png(dataset):
    path = dataset.png(2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resize_png(dataset):
    dataset.repaint(2, dataset.pixels(2).repeat(2, axis=0).repeat(2, axis=1))
    for segment in dataset.content["annotations"][1]["segments_info"] if dataset.content else ():
        segment["area"] *= 4
        segment["bbox"] = [2 * side for side in segment["bbox"]]


def grey_png(dataset):
    dataset.repaint(2, dataset.pixels(2)[..., 0])


def palette_png(dataset):
    with Image.open(dataset.png(2)) as image:
        image.load()
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=8).save(dataset.png(2))


def repaint_a_segment(dataset):
    ids = dataset.pixels(2)
    ids[ids[..., 0] == 22] = (0, 1, 0)
    dataset.repaint(2, ids)


def unlist_a_segment(dataset):
    segments = dataset.content["annotations"][1]["segments_info"]
    del segments[1]


def list_a_segment(dataset):
    segments = dataset.content["annotations"][1]["segments_info"]
    segments.append(segments[0] | {"id": 1025})


def list_void(dataset):
    segments = dataset.content["annotations"][1]["segments_info"]
    segments.append({"id": 0, "category_id": 3})


def repeat_a_segment(dataset):
    segments = dataset.content["annotations"][1]["segments_info"]
    segments.append(dict(segments[0]))


def nameless_segment(dataset):
    dataset.content["annotations"][1]["segments_info"].append({"category_id": 3})


def segment_ids_of_text(dataset):
    segments = dataset.content["annotations"][1]["segments_info"]
    segments += [{"id": "500", "category_id": 3}, {"id": "600", "category_id": 3}]


def height_of_text(dataset):
    dataset.content["images"][1]["height"] = "48"
    del dataset.content["annotations"][1]


def thing_of_stuff(dataset):
    dataset.annotation(23)["isthing"] = 1


def no_isthing(dataset):
    del dataset.content["categories"][0]["isthing"]


def two_segments_of_stuff(dataset):
    dataset.annotation(21)["category_id"] = 20


def stated_area(dataset):
    dataset.annotation(21)["area"] += 1


def annotate_twice(dataset):
    dataset.content["annotations"].append(dict(dataset.content["annotations"][1]))


def void_everywhere(dataset):
    for number, annotation in enumerate(dataset.content["annotations"], start=1):
        ids = dataset.pixels(number)
        annotation["segments_info"][-1].update(area=48 * 3 - 2 * 16, bbox=[5, 0, 3, 48])
        grass = (ids[..., 0] % 10 == 3 + (number == 3)) & (np.arange(64) >= 8)
        ids[grass] = 0
        dataset.repaint(number, ids)


def unsegmented_image(dataset):
    del dataset.content["annotations"][1]


def no_segments(dataset):
    dataset.content["annotations"][1]["segments_info"] = []
    dataset.repaint(2, np.zeros((48, 64, 3), dtype=np.uint8))


def orphan(dataset):
    dataset.content["annotations"].append(dataset.content["annotations"][1] | {"image_id": 99})


def few_queries_for_segments(dataset):
    dataset.options["num_queries"] = 2
    dataset.annotation(11)["iscrowd"] = 1
    dataset.annotation(32)["iscrowd"] = 1


def tiny_segment(dataset):
    ids = dataset.pixels(2)
    ids[ids[..., 0] == 21] = (23, 0, 0)
    ids[4:9, 6:9] = (21, 0, 0)
    dataset.repaint(2, ids)
    dataset.annotation(21).update(area=15, bbox=[6, 4, 3, 5])
    dataset.annotation(23)["area"] += 16 * 20 - 15


PANOPTIC_PLANTS = [
    (remove_png, [("png-missing", 2, None)]),
    (truncate_png, [("png-unreadable", 2, None)]),
    (resize_png, [("png-size-differs", 2, None)]),
    (grey_png, [("png-mode", 2, None)]),
    (repaint_a_segment, [("segment-without-pixels", 2, 22), ("pixels-without-segment", 2, None)]),
    (unlist_a_segment, [("pixels-without-segment", 2, None)]),
    (list_a_segment, [("segment-without-pixels", 2, 1025)]),
    (list_void, [("segment-without-pixels", 2, 0)]),
    (repeat_a_segment, [("segment-id-repeated", 2, 21)]),
    (nameless_segment, [("entry-malformed", 2, None)]),
    (segment_ids_of_text, [("entry-malformed", 2, None)]),
    (height_of_text, [("entry-malformed", None, None)]),
    (unknown_category, [("category-unknown", 2, 21)]),
    (thing_of_stuff, [("isthing-differs", 2, 23)]),
    (no_isthing, [("isthing-missing", None, None)]),
    (two_segments_of_stuff, [("stuff-repeated", 2, None)]),
    (stated_area, [("area-wrong", 2, 21)]),
    (corners_for_box, [("box-differs", 2, 21)]),
    (nan_box, [("box-invalid", 2, 21)]),
    (annotate_twice, [("image-annotated-twice", 2, None)]),
    (void_everywhere, [("void-share-high", None, None)]),
    (unsegmented_image, [("image-without-annotations", 2, None)]),
    (no_segments, [("image-without-annotations", 2, None)]),
    (orphan, [("annotation-without-image", 99, None)]),
    (few_queries_for_segments, [("too-many-objects", 2, None)]),
    (tiny_segment, [("mask-tiny", 2, 21)]),
]


def no_size(dataset):
    for image in dataset.content["images"]:
        del image["height"], image["width"]


@pytest.mark.parametrize("plant", [palette_png, no_size])
def test_what_panoptic_training_reads_is_no_fault(plant, make):
    dataset = make("panoptic")
    plant(dataset)
    assert named(dataset.audit()) == []


@pytest.mark.parametrize(("plant", "expected"), PANOPTIC_PLANTS)
def test_panoptic(plant, expected, make):
    dataset = make("panoptic")
    plant(dataset)
    assert named(dataset.audit()) == expected


# --- semantic


def label(number, old, new):
    def plant(dataset):
        labels = dataset.pixels(number)
        labels[labels == old] = new
        dataset.repaint(number, labels)

    return plant


def in_all(*steps):
    def plant(dataset):
        for number in (1, 2, 3):
            for old, new in steps:
                label(number, old, new)(dataset)

    return plant


def colour_png(dataset):
    dataset.repaint(2, dataset.pixels(2)[..., None].repeat(3, axis=2))


def real_labels(dataset):
    Image.fromarray(dataset.pixels(2).astype(np.float32)).save(dataset.pngs / "2.tif")
    dataset.png(2).unlink()


def without_names(dataset):
    dataset.options.clear()


def few_queries_for_classes(dataset):
    dataset.options["num_queries"] = 2
    label(1, 1, 0)(dataset)
    label(3, 1, 0)(dataset)


def second_image(dataset):
    dataset.image(2).with_suffix(".png").write_bytes(dataset.image(1).read_bytes())


def one_class(dataset):
    dataset.options["class_names"] = ["object"]
    in_all((2, 255), (0, 255), (1, 0))(dataset)


def masks_in_black_and_white(dataset):
    in_all((255, 0), (1, 255), (2, 255))(dataset)
    dataset.options["class_names"] = ["background"]


def background_alone(dataset):
    in_all((1, 0), (2, 0), (255, 0))(dataset)
    dataset.options["class_names"] = ["background"]


SEMANTIC_PLANTS = [
    (remove_png, "png-missing"),
    (truncate_png, "png-unreadable"),
    (resize_png, "png-size-differs"),
    (colour_png, "png-mode"),
    (real_labels, "png-mode"),
    (label(2, 2, 3), "label-outside-range"),
    (label(2, 255, 254), "label-outside-range"),
    (in_all((2, 1)), "class-without-annotations"),
    (without_names, "classes-inferred"),
    (few_queries_for_classes, "too-many-objects"),
    (second_image, "image-unused"),
    (one_class, "one-class-with-ignore"),
    (masks_in_black_and_white, "one-class-with-ignore"),
    (background_alone, "one-class-only"),
]


@pytest.mark.parametrize(("plant", "kind"), SEMANTIC_PLANTS)
def test_semantic(plant, kind, make):
    dataset = make("semantic")
    plant(dataset)
    (found,) = dataset.audit().findings
    assert found.kind == kind


def test_maps_of_thousands_of_labels_take_no_time(make):
    dataset = make("semantic")
    Image.new("RGB", (256, 256)).save(dataset.image(2))
    dataset.repaint(2, np.arange(256 * 256, dtype=np.uint16).reshape(256, 256))
    before = time.process_time()
    (found,) = dataset.audit().findings
    assert "The label 3, 4, 5, 6, 7, 8, 9, 10 and 65524 more" in found.cause
    assert time.process_time() - before < 5  # a list that is searched for each label takes eight times as long


def test_images_without_a_label(make):
    dataset = make("semantic")
    dataset.repaint(2, np.full((48, 64), 255, dtype=np.uint8))
    (found,) = dataset.audit().findings
    assert (found.kind, found.file) == ("all-ignored", str(dataset.png(2)))


def test_numbering_from_one_is_recognised(make):
    dataset = make("semantic")
    in_all((2, 3), (1, 2), (0, 1))(dataset)
    findings = dataset.audit().findings
    assert [found.kind for found in findings] == ["label-outside-range"] * 3
    for found in findings:
        assert "label 3 (15.6% of the pixels) is none of 0…2" in found.cause
        assert "subtract 1 from each" in found.cause
    label(1, 1, 0)(dataset)
    assert not any("subtract 1" in found.cause for found in dataset.audit().findings)


def test_a_reduced_ignore_label_is_recognised(make):
    dataset = make("semantic")
    label(2, 255, 254)(dataset)
    (found,) = dataset.audit().findings
    assert "254 is what 255 becomes when all labels are reduced by one" in found.cause


def test_black_and_white_masks_are_recognised(make):
    dataset = make("semantic")
    masks_in_black_and_white(dataset)
    (found,) = dataset.audit().findings
    assert "write the object as 1" in found.cause
    in_all((0, 1))(dataset)
    dataset.options["class_names"] = ["sky", "object"]
    trap, unused = dataset.audit().findings
    assert (trap.kind, unused.kind) == ("one-class-with-ignore", "class-without-annotations")
    assert "write the object as 1" not in trap.cause and "1 of 2 classes have no annotation: sky" in unused.cause


# --- together


def test_several_faults_at_once_are_all_named(make):
    dataset = make("instance")
    remove_image(dataset)
    tiny_mask(dataset)
    cut_code(dataset)
    unknown = dataset.annotation(11)
    unknown["category_id"] = 4
    report = dataset.audit(workers=2)
    assert sorted(named(report)) == sorted(
        [("image-missing", 2, None), ("mask-tiny", 2, 21), ("rle-invalid", 2, 22), ("category-unknown", 1, 11)]
    )
    assert [finding.kind for finding in report.warnings] == ["mask-tiny"] and len(report.faults) == 3


def test_every_kind_is_planted_somewhere():
    planted = {kind for _, kind, _, _ in INSTANCE_PLANTS} | {kind for _, kind in SEMANTIC_PLANTS}
    planted |= {kind for _, expected in PANOPTIC_PLANTS for kind, _, _ in expected}
    planted |= {"image-missing", "image-unreadable", "image-deep", "image-mode", "image-size-differs", "all-ignored"}
    assert KINDS.keys() - planted == {"image-in-both"}


def test_findings_say_cause_and_way_out(make):
    dataset = make("instance")
    corners_for_box(dataset)
    (found,) = dataset.audit().findings
    assert str(found) == (
        f"{dataset.image(2)}, image_id 2, annotation 21: The box is [6.0, 4.0, 26.0, 20.0], that of the mask"
        " [6, 4, 20, 16]. A box is [x, y, width, height] in pixels of the image, around the mask. Compute them from the"
        " masks."
    )
    assert json.loads(json.dumps(found.to_json()))["severity"] == "warning"
