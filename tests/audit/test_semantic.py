"""Labels of semantic annotations, and their classes."""

import time

import numpy as np
import pytest
from PIL import Image


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


PLANTS = [
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


@pytest.mark.parametrize(("plant", "kind"), PLANTS)
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
