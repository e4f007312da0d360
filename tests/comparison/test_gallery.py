"""Which images the gallery has, and its pictures."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from mask2former_ext.comparison.gallery import Canvas, Exhibit, Panel, choose_images, make_gallery
from mask2former_ext.comparison.regions import STUFF, THINGS, Region


def chosen(comparison, per_group):
    groups = choose_images(comparison, per_group)
    return {title: [Path(name).stem for name in names] for title, _, names in groups}


@pytest.fixture(scope="module")
def four_images(make_comparison, made_up):
    """Scores fall from image to image, but for the last, of which the second model finds nothing."""
    return make_comparison(made_up("First", (0, 2, 8, 0), {}), made_up("Second", (0, 2, 8, 16), {}))


def test_best_worst_and_most_different(four_images):
    scores = list(four_images.scores.values())
    assert scores[0] == [100, 100] and scores[3][0] == 100
    assert chosen(four_images, 1) == {"Best images": ["0"], "Worst images": ["2"], "Most different images": ["3"]}


def test_no_image_is_shown_twice(make_comparison, made_up):
    comparison = make_comparison(made_up("First", (0, 4, 6, 8), {}), made_up("Second", (3, 4, 6, 8), {}))
    assert chosen(comparison, 1) == {"Best images": ["0"], "Worst images": ["3"], "Most different images": ["1"]}


def test_of_one_model_nothing_is_different(make_comparison, made_up):
    comparison = make_comparison(made_up("One", (3, 0, 4, 1), {}))
    assert chosen(comparison, 1) == {"Best images": ["1"], "Worst images": ["2"]}


def test_small_datasets_are_shown_whole(four_images):
    assert chosen(four_images, 2) == {"All 4 images, the worst first": ["2", "3", "1", "0"]}


def test_without_scores_the_first_images(make_comparison, made_up):
    kinds = frozenset({THINGS}), frozenset({STUFF})
    models = [made_up(str(k), (0, 0, 0, 0), {}, kinds=of) for k, of in enumerate(kinds)]
    comparison = make_comparison(*models)
    assert comparison.scores == {} and comparison.kinds == frozenset()
    assert chosen(comparison, 3) == {"First images": ["0", "1", "2"]}
    panels = make_gallery(comparison, 1)[0].exhibits[0].panels
    assert [panel.score for panel in panels] == [None] * 4


def decode(panel):
    prefix, data = panel.picture.split(",")
    assert prefix == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.fixture(scope="module")
def rooms(four_images):
    return make_gallery(four_images, 1)


def test_pictures_beside_each_other(rooms):
    assert [room.title for room in rooms] == ["Best images", "Worst images", "Most different images"]
    (exhibit,) = rooms[2].exhibits
    photo, _, first, second = exhibit.panels
    assert [panel.caption for panel in exhibit.panels] == ["photograph", "truth", "First", "Second"]
    assert (first.model, first.score, first.best) == (0, 100, True)
    assert second.model == 1 and second.score < 40 and not second.best
    assert exhibit.name == "3.png"
    pictures = [decode(panel) for panel in exhibit.panels]
    assert {picture.shape for picture in pictures} == {(32 * 13, 48 * 13, 3)}  # 13 · 48 are just below 640
    assert (photo.width, photo.height) == (48 * 13, 32 * 13)
    assert exhibit.wide and exhibit.columns == 2
    apart = [np.abs(picture.astype(int) - pictures[1]).mean() for picture in pictures]
    assert apart[0] > 10 and apart[3] > 10  # the truth is drawn; what is elsewhere looks different
    assert apart[2] < 5  # the same regions but for the confidence


def test_scores_that_are_alike_have_no_best(rooms):
    (exhibit,) = rooms[0].exhibits
    assert [panel.best for panel in exhibit.panels] == [False] * 4


def region(mask, kind=THINGS, confidence=None):
    return Region.of(mask, 0, kind, confidence)


def test_large_photographs_are_shrunk_and_confident_regions_come_first():
    canvas = Canvas(np.zeros((1000, 1920, 3), np.uint8), MetadataCatalog.get("comparison_test_no_classes"))
    mask = np.zeros((1000, 1920), bool)
    mask[:500, :960] = True
    sure, unsure = canvas.segments([region(mask, confidence=0.51), region(mask, confidence=0.987)])
    assert (sure.label, unsure.label) == ("class 0 99%", "class 0 51%")
    assert sure.mask.shape == (333, 640) and sure.mask.dtype == bool
    assert sure.mask.mean() == pytest.approx(0.25, abs=0.002)
    panel = canvas.panel("photograph", [])
    assert (panel.width, panel.height) == (640, 333)


@pytest.mark.parametrize(
    ("size", "panels", "columns"), [((90, 60), 4, 4), ((90, 60), 7, 4), ((60, 90), 4, 2), ((60, 90), 5, 3)]
)
def test_landscapes_are_shown_larger(size, panels, columns):
    height, width = size
    panel = Panel("", None, None, False, "", width, height)
    assert Exhibit("a.png", [panel] * panels).columns == columns


@pytest.mark.parametrize(("stuff", "coloured"), [(["thing", "background"], False), (["thing", "sky", "road"], True)])
def test_stuff_is_coloured_where_there_are_several_classes_of_it(stuff, coloured):
    metadata = MetadataCatalog.get(f"comparison_test_{len(stuff)}_classes")
    metadata.set(stuff_classes=stuff, thing_dataset_id_to_contiguous_id={1: 0})
    canvas = Canvas(np.zeros((8, 8, 3), np.uint8), metadata)
    (segment,) = canvas.segments([region(np.ones((8, 8), bool), STUFF)])
    assert segment.is_thing == coloured
