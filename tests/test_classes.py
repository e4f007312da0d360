"""Names and colours by label, of the data sets that people know and of some made for a case."""

import pytest
from detectron2.data import Metadata, MetadataCatalog

import mask2former_ext  # noqa: F401  (registers the data sets)
from mask2former_ext.classes import class_name, class_names, listed_colours, listed_names, thing_labels

ALL, THINGS = ["coin", "shadow", "background"], ["coin", "shadow"]


@pytest.mark.parametrize(
    ("dataset", "num_classes", "names"),
    [
        ("ade20k_panoptic_val", 150, {0: "wall", 7: "bed", 149: "flag"}),
        ("ade20k_sem_seg_val", 150, {0: "wall", 7: "bed", 149: "flag"}),
        ("ade20k_instance_val", 100, {0: "bed", 99: "flag"}),
        ("coco_2017_val_panoptic", 133, {0: "person", 79: "toothbrush", 80: "banner", 132: "rug-merged"}),
        ("coco_2017_val_panoptic_with_sem_seg", 133, {0: "person", 79: "toothbrush", 132: "rug-merged"}),
        ("coco_2017_val_panoptic_with_sem_seg", 80, {0: "person", 79: "toothbrush"}),
        ("coco_2017_val", 80, {0: "person", 79: "toothbrush"}),
        ("cityscapes_fine_panoptic_val", 19, {0: "road", 11: "person", 18: "bicycle"}),
        ("cityscapes_fine_sem_seg_val", 19, {0: "road", 11: "person", 18: "bicycle"}),
        ("cityscapes_fine_instance_seg_val", 8, {0: "person", 7: "bicycle"}),
        ("mapillary_vistas_panoptic_val", 65, {0: "Bird", 64: "Ego Vehicle"}),
        ("coco_2017_val_100_panoptic_stuffonly", 54, {0: "things", 1: "banner"}),
    ],
)
@pytest.mark.parametrize("of_things", [False, True])
def test_names_of_a_models_labels(dataset, num_classes, names, of_things):
    found = class_names(MetadataCatalog.get(dataset), num_classes, of_things=of_things)
    assert len(found) == num_classes
    assert {label: found[label].strip() for label in names} == names


@pytest.mark.parametrize(
    ("dataset", "thing", "stuff"),
    [
        ("ade20k_panoptic_val", (7, "bed"), (0, "wall")),
        ("ade20k_instance_val", (0, "bed"), None),
        ("coco_2017_val_panoptic", (79, "toothbrush"), (132, "rug-merged")),
        ("coco_2017_val", (79, "toothbrush"), None),
        ("cityscapes_fine_panoptic_val", (11, "person"), (0, "road")),
        ("cityscapes_fine_instance_seg_val", (0, "person"), (0, "road")),
        ("coco_2017_val_100_panoptic_separated", (1, "bicycle"), (1, "banner")),
    ],
)
def test_names_of_annotations_whose_classes_nobody_counts(dataset, thing, stuff):
    metadata = MetadataCatalog.get(dataset)
    assert listed_names(metadata, of_things=True)[thing[0]].strip() == thing[1]
    if stuff is not None:
        assert listed_names(metadata)[stuff[0]].strip() == stuff[1]


def test_the_list_of_that_length_goes_by_the_labels():
    metadata = Metadata(stuff_classes=ALL, thing_classes=THINGS)
    assert class_names(metadata, 3) == class_names(metadata, 3, of_things=True) == ALL
    assert class_names(metadata, 2) == THINGS
    assert class_names(metadata, 1) == ["coin"]


@pytest.mark.parametrize(("label", "expected"), [(0, ["bed"]), (1, ["wall", "bed"])])
def test_a_single_thing_is_numbered_anew_where_its_label_is_not_the_first(label, expected):
    ids = {"thing_dataset_id_to_contiguous_id": {8: label}}
    metadata = Metadata(stuff_classes=["wall", "bed"], thing_classes=["bed"], **ids)
    assert listed_names(metadata, of_things=True) == expected


def test_labels_without_a_name_are_called_by_their_number():
    metadata = Metadata(stuff_classes=ALL, thing_classes=THINGS)
    assert class_names(metadata, 4) == class_names(metadata, 4, of_things=True) == [*ALL, "class 3"]
    assert class_names(Metadata(thing_classes=THINGS), 3) == [*THINGS, "class 2"]
    assert class_names(Metadata(), 1) == ["class 0"]
    assert listed_names(Metadata(stuff_classes=None)) == []
    assert [class_name(THINGS, label) for label in (1, 2, -1)] == ["shadow", "class 2", "class -1"]


def test_either_list_may_spell_names_in_its_own_way():
    metadata = Metadata(stuff_classes=["chat", "chien"], thing_classes=["cat", "dog"])
    assert class_names(metadata, 2) == ["chat", "chien"]
    assert class_names(metadata, 2, of_things=True) == ["cat", "dog"]


def test_colours_are_of_the_list_that_names_come_from():
    ade20k = MetadataCatalog.get("ade20k_panoptic_val")
    assert listed_colours(ade20k, 150) == listed_colours(ade20k, 150, of_things=True) == ade20k.stuff_colors
    assert listed_colours(ade20k, 100) == ade20k.thing_colors
    coco = MetadataCatalog.get("coco_2017_val")
    assert listed_colours(coco, 80) == coco.thing_colors
    assert listed_colours(coco, 81) == []
    assert listed_colours(MetadataCatalog.get("ade20k_instance_val"), 100) == []


def test_things():
    assert thing_labels(MetadataCatalog.get("cityscapes_fine_panoptic_val")) == set(range(11, 19))
    assert len(thing_labels(MetadataCatalog.get("ade20k_panoptic_val"))) == 100
    assert thing_labels(Metadata()) == thing_labels(Metadata(thing_dataset_id_to_contiguous_id=None)) == set()
