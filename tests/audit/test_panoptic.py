"""Segments and PNGs of panoptic annotations."""

import numpy as np
import pytest
from PIL import Image


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


PLANTS = [
    (grey_png, [("png-mode", 2, None)]),
    (repaint_a_segment, [("segment-without-pixels", 2, 22), ("pixels-without-segment", 2, None)]),
    (unlist_a_segment, [("pixels-without-segment", 2, None)]),
    (list_a_segment, [("segment-without-pixels", 2, 1025)]),
    (list_void, [("segment-without-pixels", 2, 0)]),
    (repeat_a_segment, [("segment-id-repeated", 2, 21)]),
    (nameless_segment, [("entry-malformed", 2, None)]),
    (segment_ids_of_text, [("entry-malformed", 2, None)]),
    (height_of_text, [("entry-malformed", None, None)]),
    (thing_of_stuff, [("isthing-differs", 2, 23)]),
    (no_isthing, [("isthing-missing", None, None)]),
    (two_segments_of_stuff, [("stuff-repeated", 2, None)]),
    (stated_area, [("area-wrong", 2, 21)]),
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
    assert dataset.named() == []


@pytest.mark.parametrize(("plant", "expected"), PLANTS)
def test_panoptic(plant, expected, make):
    dataset = make("panoptic")
    plant(dataset)
    assert dataset.named() == expected
