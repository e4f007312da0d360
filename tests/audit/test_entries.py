"""Entries of instance annotations: images, categories, ids and flags, and what they amount to together."""

import pytest


def repeated_annotation_id(dataset):
    dataset.annotation(21)["id"] = 11


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


PLANTS = [
    (repeated_annotation_id, "annotation-id-repeated", 2, 11),
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


@pytest.mark.parametrize(("plant", "kind", "image_id", "annotation_id"), PLANTS)
def test_entries(plant, kind, image_id, annotation_id, make):
    dataset = make("instance")
    plant(dataset)
    assert dataset.named() == [(kind, image_id, annotation_id)]


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_a_category_that_there_is_not(task, make):
    dataset = make(task)
    dataset.annotation(21)["category_id"] = 4
    assert dataset.named() == [("category-unknown", 2, 21)]


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
