"""What people have: read, split, and refused with a way out."""

import json

import numpy as np
import pytest
from PIL import Image

from mask2former_ext.own_data.cards import with_colors
from mask2former_ext.own_data.sources import check_same_categories, read_source, split


def rewrite(path, change):
    """Apply a function to the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_categories_are_sorted_by_id_and_coloured(data):
    source = read_source("instance", data["images"], data["instance"])
    assert [(c["id"], c["name"], c["isthing"]) for c in source.categories] == [(4, "bar", 1), (9, "square", 1)]
    assert all(len(c["color"]) == 3 for c in source.categories)
    panoptic = read_source("panoptic", data["images"], data["panoptic"])
    assert [(c["id"], c["isthing"]) for c in panoptic.categories] == [(4, 1), (7, 0), (9, 1)]
    assert panoptic.categories[0]["color"] == [1, 2, 3]
    assert panoptic.labels == data["panoptic"].with_suffix("")


@pytest.mark.parametrize("color", ["#ff0000", None, [1, 2], [1, 2, 300], [0.5, 0.5, 0.5]])
def test_colours_of_another_form_are_replaced(data, color):
    rewrite(data["instance"], lambda content: content["categories"][0].update(color=color))
    source = read_source("instance", data["images"], data["instance"])
    assert source.categories[1]["color"] == with_colors([{}, {}])[1]["color"] != color


def test_classes_of_label_images_are_counted_or_named(data, tmp_path):
    assert read_source("semantic", data["images"], data["semantic"]).class_names == ["0", "1", "2"]
    named = read_source("semantic", data["images"], data["semantic"], class_names=["ground", "square", "bar", "hole"])
    assert named.class_names == ["ground", "square", "bar", "hole"]
    assert read_source("semantic", data["images"], data["semantic"], ignore_label=2).class_names[-1] == "255"


def test_label_images_are_paired_by_name_whatever_the_suffix(data):
    for path in data["images"].glob("*.png"):
        Image.open(path).save(path.with_suffix(".jpeg"))
        path.unlink()
    (data["semantic"] / "3.png").unlink()
    images = read_source("semantic", data["images"], data["semantic"]).content["images"]
    assert images[0] == {"file_name": "0.jpeg", "sem_seg_file_name": "0.png"}
    assert len(images) == 9


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_a_split_parts_the_images_and_their_annotations(data, task):
    source = read_source(task, data["images"], data[task])
    train, val = split(source, 0.3)
    assert (len(train.image_files), len(val.image_files)) == (7, 3)
    assert sorted(train.image_files + val.image_files) == sorted(source.image_files)
    if task != "semantic":
        for part in (train, val):
            ids = {image["id"] for image in part.content["images"]}
            assert {annotation["image_id"] for annotation in part.content["annotations"]} == ids
        assert sum(len(part.content["annotations"]) for part in (train, val)) == len(source.content["annotations"])


def test_a_split_depends_on_names_alone(data):
    source = read_source("instance", data["images"], data["instance"])
    chosen = set(split(source, 0.3)[1].image_files)
    rewrite(data["instance"], lambda content: content["images"].reverse())
    assert set(split(read_source("instance", data["images"], data["instance"]), 0.3)[1].image_files) == chosen


def test_a_file_that_is_listed_twice_stays_on_one_side(data):
    def list_all_twice(content):
        content["images"] += [image | {"id": image["id"] + 1000} for image in content["images"]]

    rewrite(data["instance"], list_all_twice)
    source = read_source("instance", data["images"], data["instance"])
    for fraction in (0.1, 0.3, 0.5):
        train, val = split(source, fraction)
        assert not set(train.image_files) & set(val.image_files)


def test_both_sides_of_a_split_have_an_image(data):
    source = read_source("instance", data["images"], data["instance"])
    assert len(split(source, 0.001)[1].image_files) == 1
    assert len(split(source, 0.999)[0].image_files) == 1
    for fraction in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="must be above 0 and below 1"):
            split(source, fraction)
    with pytest.raises(ValueError, match="one image cannot be split"):
        split(source.subset(["3.png"]), 0.5)


def test_the_shorter_side_is_the_median(data, monkeypatch):
    source = read_source("instance", data["images"], data["instance"])
    assert source.shorter_side() == 48
    Image.fromarray(np.zeros((500, 20, 3), dtype=np.uint8)).save(data["images"] / "0.png")
    assert source.subset(["0.png", "1.png"]).shorter_side() == 34
    (data["images"] / "0.png").write_bytes(b"no image")
    assert source.shorter_side() == 48
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="images: of 10 images that are annotated none can be read there"):
        source.shorter_side()


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        (
            "semantic",
            "instance",
            "is a file, but --task semantic is trained on a folder of label PNGs.*--task instance",
        ),
        ("panoptic", "instance", "holds COCO instance annotations.*Use --task instance"),
        ("instance", "panoptic", "holds COCO panoptic annotations.*Use --task panoptic"),
        ("semantic", "panoptic", "is a file, but --task semantic is trained on a folder"),
        ("instance", "semantic", "is a folder, but --task instance is trained on a COCO JSON.*use --task semantic"),
    ],
)
def test_annotations_for_another_task_are_refused_with_the_way_out(data, task, given, message):
    with pytest.raises(ValueError, match=message):
        read_source(task, data["images"], data[given])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("categories"), "instances.json: not annotations in COCO's format"),
        (lambda content: content["images"].clear(), "instances.json: the file lists no images"),
        (lambda content: content["annotations"].clear(), "instances.json: the file lists no annotations"),
        (lambda content: content["images"][3].pop("file_name"), "an entry of images has no file_name"),
        (lambda content: content["images"][3].update(file_name=3), "has no file_name, or one of another type: {"),
        (lambda content: content["images"].append(5), "an entry of images has no id, or one of another type: 5"),
        (lambda content: content["annotations"].insert(0, None), "an entry of annotations has no image_id"),
        (lambda content: content["annotations"][3].update(image_id=[1]), "an entry of annotations has no image_id"),
        (lambda content: content["categories"][0].update(id="9"), "an entry of categories has no id"),
        (lambda content: content["categories"][0].update(name=9), "an entry of categories has no name"),
    ],
)
def test_files_that_are_no_annotations_are_refused(data, change, message):
    rewrite(data["instance"], change)
    with pytest.raises(ValueError, match=message):
        read_source("instance", data["images"], data["instance"])


def test_panoptic_categories_say_whether_they_are_things(data):
    rewrite(data["panoptic"], lambda content: content["categories"][0].pop("isthing"))
    with pytest.raises(ValueError, match=r'panoptic\.json: category 9 lacks "isthing"'):
        read_source("panoptic", data["images"], data["panoptic"])


@pytest.mark.parametrize(
    "labels",
    [
        np.full((48, 60), 0.5, dtype=np.float32),
        np.full((48, 60), 2**24, dtype=np.int32),
        np.full((48, 60), 65535, dtype=np.uint16),
        np.full((48, 60, 3), 7, dtype=np.uint8),
    ],
    ids=["real", "large", "one too large", "coloured"],
)
def test_label_images_without_labels_are_refused(data, labels):
    (data["semantic"] / "4.png").unlink()
    Image.fromarray(labels).save(data["semantic"] / "4.tif")
    with pytest.raises(
        ValueError, match=r"4\.tif: a label PNG has one channel of labels in 0…65534, this one has shape"
    ):
        read_source("semantic", data["images"], data["semantic"])


def test_label_images_of_one_bit(data):
    for path in data["semantic"].iterdir():
        Image.fromarray(np.eye(48, 60, dtype=bool)).save(path)
    assert read_source("semantic", data["images"], data["semantic"]).class_names == ["0", "1"]


def test_label_images_below_the_images(data):
    labels = data["semantic"].rename(data["images"] / "labels")
    images = read_source("semantic", data["images"], labels).content["images"]
    assert len(images) == 10 and images[0] == {"file_name": "0.png", "sem_seg_file_name": "0.png"}


def test_names_that_no_list_can_have_are_refused(data):
    for folder in (data["images"], data["semantic"]):
        (folder / "3.png").rename(folder / "caf\udce9.png")
    with pytest.raises(ValueError, match=r"caf\\udce9\.png: the name of this file is not in UTF-8\. Rename it\."):
        read_source("semantic", data["images"], data["semantic"])
    rewrite(data["instance"], lambda content: content["images"][3].update(file_name="caf\udce9.png"))
    source = read_source("instance", data["images"], data["instance"])
    with pytest.raises(ValueError, match=r"caf\\udce9\.png: the name of this file is not in UTF-8"):
        split(source, 0.3)


def test_what_is_missing_is_named(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: this folder of images"):
        read_source("instance", tmp_path / "nowhere", data["instance"])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json: these annotations"):
        read_source("instance", data["images"], tmp_path / "nowhere.json")
    with pytest.raises(FileNotFoundError, match=r"nowhere: this folder of panoptic PNGs.*--panoptic-root"):
        read_source("panoptic", data["images"], data["panoptic"], panoptic_root=tmp_path / "nowhere")


def test_validation_data_must_list_the_same_categories(data, tmp_path):
    train = read_source("instance", data["images"], data["instance"])
    check_same_categories(train, train)
    other = tmp_path / "val.json"
    other.write_text(data["instance"].read_text())
    rewrite(other, lambda content: content["categories"].pop())
    with pytest.raises(ValueError, match=r"instances\.json and .*val\.json list different categories.*4 'bar'"):
        check_same_categories(train, read_source("instance", data["images"], other))


def test_what_is_a_thing_in_training_is_one_in_validation(data):
    train = read_source("panoptic", data["images"], data["panoptic"])
    rewrite(data["panoptic"], lambda content: content["categories"][0].update(isthing=0))
    with pytest.raises(ValueError, match="list different categories, among them 9 'square'"):
        check_same_categories(train, read_source("panoptic", data["images"], data["panoptic"]))
