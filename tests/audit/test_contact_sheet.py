"""The contact sheet: which images it shows, how they are marked, and annotations that cannot be drawn."""

import numpy as np
import pytest
from PIL import Image

from mask2former_ext.audit import contact_sheet, draw_contact_sheet

RED, ORANGE = (0xC6, 0x28, 0x28), (0xD9, 0x82, 0x00)
TILE, STEP_X, STEP_Y = 320, 336, 380


def frames(sheet, columns, count):
    """The colour just outside of each tile."""
    pixels = np.asarray(sheet)
    corners = [(5 + place // columns * STEP_Y, 5 + place % columns * STEP_X) for place in range(count)]
    return [tuple(pixels[row, column].tolist()) for row, column in corners]


def tile(sheet, row, column):
    y, x = row * STEP_Y + 8, column * STEP_X + 8
    return np.asarray(sheet)[y : y + TILE, x : x + TILE]


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_images_with_findings_come_first_and_are_framed(task, make):
    dataset = make(task)
    clean = draw_contact_sheet(dataset.audit(), columns=2)
    assert clean.size == (2 * STEP_X, 2 * STEP_Y)
    assert frames(clean, 2, 3) == [(255, 255, 255)] * 3
    if task == "semantic":
        labels = dataset.pixels(3)
        labels[0, 0] = 7
        dataset.repaint(3, labels)
    else:
        dataset.annotation(31)["category_id"] = 99
    broken = draw_contact_sheet(dataset.audit(), columns=2)
    assert frames(broken, 2, 3) == [RED, (255, 255, 255), (255, 255, 255)]
    assert np.array_equal(tile(broken, 0, 1), tile(clean, 0, 0))


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_annotations_are_drawn_where_they_are(task, make):
    dataset = make(task)
    for number in (1, 2, 3):
        Image.new("RGB", (64, 48), (128, 128, 128)).save(dataset.image(number), format="PNG")
    drawn = tile(draw_contact_sheet(dataset.audit(), columns=3), 0, 0)[40:280].astype(int)  # enlarged five times
    void, cat = drawn[5 * 2, 5 * 2], drawn[5 * 6, 5 * 24]
    assert np.ptp(void) <= 2  # grey as the photograph is
    assert np.ptp(cat) > 40


def test_one_image_for_each_kind_comes_before_the_rest(make):
    dataset = make("instance")
    dataset.annotation(11)["bbox"][0] += 20
    dataset.annotation(21)["bbox"][0] += 20
    del dataset.annotation(32)["segmentation"]
    report = dataset.audit()
    assert frames(draw_contact_sheet(report, columns=3), 3, 3) == [ORANGE, RED, ORANGE]
    assert draw_contact_sheet(report, limit=2).size == (2 * STEP_X, STEP_Y)


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_what_cannot_be_drawn_is_left_out(task, make):
    dataset = make(task)
    dataset.image(1).write_bytes(b"")
    if task == "instance":
        dataset.annotation(21)["segmentation"] = [[1, 2]]
        dataset.annotation(31)["segmentation"] = None
        dataset.annotation(22)["segmentation"] = {"size": [1, 1], "counts": "x"}
    else:
        dataset.png(2).unlink()
        dataset.png(3).write_bytes(b"")
    sheet = draw_contact_sheet(dataset.audit(), columns=3)
    assert sheet.size == (3 * STEP_X, STEP_Y)
    assert (tile(sheet, 0, 0)[:300] == 0x99).all()


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_of_many_segments_the_largest_are_drawn(task, make, monkeypatch):
    drawn = []
    draw = contact_sheet.draw_segments
    monkeypatch.setattr(
        contact_sheet, "draw_segments", lambda photo, segments, scale: drawn.append(segments) or draw(photo, [])
    )
    dataset = make(task)
    if task == "semantic":
        labels = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
        labels[40:] = 7
        dataset.repaint(1, labels)
        dataset.options = {}
    else:
        small = dataset.annotation(11) | {"segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]]}
        dataset.content["annotations"] = [small | {"id": 100 + k} for k in range(150)] + [dataset.annotation(11)]
    draw_contact_sheet(dataset.audit())
    most = max(drawn, key=len)
    assert len(most) == 100 and most[0].mask.sum() > 300


def test_large_images_are_made_smaller(make):
    dataset = make("instance")
    for number in (1, 2, 3):
        with Image.open(dataset.image(number)) as image:
            image.resize((640, 480)).save(dataset.image(number), format="PNG")
        dataset.content["images"][number - 1].update(width=640, height=480)
    sheet = draw_contact_sheet(dataset.audit(), columns=3)
    rows = np.flatnonzero((tile(sheet, 0, 0) != 0xDD).any(axis=(1, 2)))
    assert (rows.min(), rows.max()) == (40, 279)
