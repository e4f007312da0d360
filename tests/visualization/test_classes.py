"""Colours of classes."""

from detectron2.data import Metadata

from mask2former_ext.visualization.classes import class_colours


def test_own_colours_or_distinct_ones():
    metadata = Metadata(name="colours", stuff_colors=[[255, 0, 51], [0, 255, 0]])
    assert class_colours(metadata, 2) == [(1.0, 0.0, 0.2), (0.0, 1.0, 0.0)]
    made = class_colours(metadata, 40)
    assert len(made) == 40 and len(set(made[:16])) == 16
    assert all(0 <= value <= 1 for colour in made for value in colour)
