"""Pieces of the audit: regions of maps of ids, boxes, names of classes."""

import numpy as np
import pytest

from mask2former_ext.audit import read_class_names
from mask2former_ext.audit.files import regions
from mask2former_ext.audit.image_checks import boxes_differ, is_box


def test_regions_by_hand():
    ids, areas, boxes = regions(np.array([[7, 7, 0, 7], [7, 5, 5, 0], [0, 5, 5, 0]]))
    assert ids.tolist() == [0, 5, 7]
    assert areas.tolist() == [4, 4, 4]
    assert boxes.tolist() == [[0, 0, 4, 3], [1, 1, 2, 2], [0, 0, 4, 2]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (13, 17)])
def test_regions_of_noise(shape):
    pixels = np.random.default_rng(0).integers(0, 4, shape)
    ids, areas, boxes = regions(pixels.T.copy().T)
    for number, area, (x, y, width, height) in zip(ids, areas, boxes, strict=True):
        rows, columns = np.nonzero(pixels == number)
        assert area == len(rows)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
    assert areas.sum() == pixels.size


def test_regions_of_bits():
    ids, areas, _ = regions(np.eye(3, dtype=bool))
    assert ids.tolist() == [False, True] and areas.tolist() == [6, 3]


def test_boxes_may_differ_by_rounding_alone():
    actual = [10, 10, 20, 100]
    assert not boxes_differ([8.1, 10, 23, 100], actual, (200, 100))
    assert boxes_differ([7.9, 10, 22.1, 100], actual, (200, 100))
    assert not boxes_differ([10, 5.1, 20, 104.9], actual, (200, 100))  # 5 % of the height
    assert boxes_differ([10, 4.9, 20, 105.1], actual, (200, 100))
    assert not boxes_differ([10, 10, 20, 900], actual, (110, 100))  # both end at the border
    assert boxes_differ([10, 15.1, 20, 900], [10, 10, 20, 900], (110, 100))  # where the 5 % are taken too


@pytest.mark.parametrize(
    "box",
    [
        None,
        "1234",
        [1, 2, 3],
        [1, 2, 0, 4],
        [1, 2, 3, float("inf")],
        [1, 2, "3", 4],
        5,
        [float("nan"), 2, 3, 4],
        [10**400, 2, 3, 4],
    ],
)
def test_what_is_no_box(box):
    assert not is_box(box)
    assert is_box([1, 2.5, 3, 4])


def test_names_of_classes(tmp_path):
    text, json = tmp_path / "names.txt", tmp_path / "names.json"
    text.write_text("sky\n traffic light \n\n")
    json.write_text('["sky", "traffic light"]')
    assert read_class_names(text) == read_class_names(json) == ["sky", "traffic light"]


def test_names_of_classes_from_windows(tmp_path):
    text, json = tmp_path / "NAMES.TXT", tmp_path / "NAMES.JSON"
    text.write_bytes(b"\xef\xbb\xbfsky\r\ncaf\xc3\xa9\r\n")
    json.write_bytes(b'\xef\xbb\xbf["sky",\r\n "caf\xc3\xa9"]')
    assert read_class_names(text) == read_class_names(json) == ["sky", "café"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("names.json", '{"sky": 0}', "no list of names"),
        ("names.json", "[", "cannot be read"),
        ("names.txt", "sky\n\nroad\n", "every class needs a name"),
        ("names.txt", "sky\nsky\n", r"wrong are \['sky'\]"),
        ("names.txt", "\n", "there is none"),
    ],
)
def test_wrong_names_of_classes(name, content, said, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        read_class_names(path)
    assert str(path) in str(error.value)


def test_no_file_of_names(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt: this file does not exist"):
        read_class_names(tmp_path / "nowhere.txt")
