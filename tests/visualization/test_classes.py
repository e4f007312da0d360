"""Names and colours of classes."""

from detectron2.data import Metadata

from mask2former_ext.visualization.classes import class_colours, class_names

STUFF, THINGS = ["coin", "shadow", "background"], ["coin", "shadow"]


def test_the_list_of_that_length_names_the_classes():
    metadata = Metadata(name="names", stuff_classes=STUFF, thing_classes=THINGS)
    assert class_names(metadata, 3) == STUFF
    assert class_names(metadata, 2) == THINGS
    assert class_names(metadata, 1) == ["coin"]
    assert class_names(metadata, 4) == ["class 0", "class 1", "class 2", "class 3"]
    assert class_names(Metadata(name="nothing"), 1) == ["class 0"]


def test_own_colours_or_distinct_ones():
    metadata = Metadata(name="colours", stuff_colors=[[255, 0, 51], [0, 255, 0]])
    assert class_colours(metadata, 2) == [(1.0, 0.0, 0.2), (0.0, 1.0, 0.0)]
    made = class_colours(metadata, 40)
    assert len(made) == 40 and len(set(made[:16])) == 16
    assert all(0 <= value <= 1 for colour in made for value in colour)
