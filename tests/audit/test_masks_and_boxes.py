"""Masks, boxes and areas of annotations."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest

BIG = 10**9


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


def flat_box(dataset):
    dataset.annotation(21)["bbox"][3] = 0


def short_box(dataset):
    dataset.annotation(21)["bbox"].pop()


def wrong_area(dataset):
    dataset.annotation(21)["area"] *= 2


def repeated_annotation(dataset):
    dataset.content["annotations"].append(dataset.annotation(21) | {"id": 29})


PLANTS = [
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
    (flat_box, "box-invalid", 2, 21),
    (short_box, "box-invalid", 2, 21),
    (wrong_area, "area-differs", 2, 21),
    (repeated_annotation, "annotation-repeated", 2, 29),
]


@pytest.mark.parametrize(("plant", "kind", "image_id", "annotation_id"), PLANTS)
def test_masks_boxes_and_areas(plant, kind, image_id, annotation_id, make):
    dataset = make("instance")
    plant(dataset)
    assert dataset.named() == [(kind, image_id, annotation_id)]


def corners_for_box(dataset):
    dataset.annotation(21)["bbox"] = [6, 4, 26, 20]


def nan_box(dataset):
    dataset.annotation(21)["bbox"][2] = float("nan")


@pytest.mark.parametrize("task", ["instance", "panoptic"])
@pytest.mark.parametrize(("plant", "kind"), [(corners_for_box, "box-differs"), (nan_box, "box-invalid")])
def test_boxes_of_instances_and_of_segments(task, plant, kind, make):
    dataset = make(task)
    plant(dataset)
    assert dataset.named() == [(kind, 2, 21)]


@pytest.mark.parametrize("box", [[6, 4, 49, 17], [6, 4, 36, 17]])
def test_boxes_may_be_around_the_corners_or_around_the_pixels(box, make):
    dataset = make("instance")
    spike = [6, 4, 20, 4, 55, 4.2, 20, 5, 20, 21, 6, 21]  # its pixels end at column 42
    dataset.annotation(21).update(segmentation=[spike], bbox=box, area=250)
    assert dataset.named() == []
    box[2] = 30
    assert dataset.named() == [("box-differs", 2, 21)]


def test_box_modes_are_none_of_cocos(make):
    dataset = make("instance")
    dataset.annotation(21)["bbox_mode"] = "XYWH"
    dataset.annotation(31)["bbox_mode"] = 0
    assert dataset.named() == []


def test_the_same_mask_in_another_form_is_a_copy(make):
    dataset = make("instance")
    mask = np.zeros((48, 64), dtype=np.uint8, order="F")
    mask[4:20, 6:26] = 1
    segmentation = {"size": [48, 64], "counts": coco_mask.encode(mask)["counts"].decode()}
    dataset.content["annotations"].append(dataset.annotation(21) | {"id": 29, "segmentation": segmentation})
    assert dataset.named() == [("annotation-repeated", 2, 29)]
