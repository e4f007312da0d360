"""Pictures of samples: what is coloured, striped and written."""

from dataclasses import replace

import numpy as np
import pytest

from mask2former_ext.visualization import Segment
from mask2former_ext.visualization.sample_pictures import describe_sample, sample_sheet, sample_tiles
from mask2former_ext.visualization.training_samples import TrainingSample


def rows(first, last):
    mask = np.zeros((40, 30), dtype=bool)
    mask[first:last] = True
    return mask


@pytest.fixture
def sample():
    """From above: a cat, sky, void, a crowd of dogs, padding; 8 rows each."""
    return TrainingSample(
        file_name="folder/photo.jpg",
        before=np.full((60, 20, 3), 100, dtype=np.uint8),
        image=np.full((40, 30, 3), 100, dtype=np.uint8),
        padding=rows(32, 40),
        targets=[Segment(rows(0, 8), "cat"), Segment(rows(8, 16), "sky", False, (0.0, 1.0, 0.0))],
        crowds=[Segment(rows(24, 32), "dog")],
        void=rows(16, 24),
        semantic=[Segment(rows(0, 24), "cat", False, (0.0, 0.0, 1.0))],
        ignored=rows(24, 32),
    )


def band(picture, number):
    """Rows of a picture whose five parts are 40 pixels high; without its borders."""
    return picture[40 * number + 4 : 40 * number + 36]


def is_red(pixels):
    return (pixels[..., 0] > 150) & (pixels[..., 1] < 60) & (pixels[..., 2] < 80)


def is_black(pixels):
    return (pixels < 30).all(axis=-1)


def test_parts_are_coloured_striped_or_left(sample):
    before, image, targets, semantic = (tile.picture for tile in sample_tiles(sample, side=200))
    assert before.shape == (200, 67, 3) and (before == 100).all()
    assert image.shape == targets.shape == semantic.shape == (200, 150, 3)
    assert (image[:160] == 100).all()
    for picture in (image, targets, semantic):
        assert 0.3 < is_black(band(picture, 4)).mean() < 0.5
    cat, sky, void, crowd, _ = (band(targets, number) for number in range(5))
    corners = [tuple(part[2, -10]) for part in (cat, sky)]
    assert corners[0] != (100, 100, 100) and corners[1][1] > 150 > 100 > corners[1][0]
    assert not is_red(cat).any() and not is_red(sky).any()
    assert 0.3 < is_red(void).mean() < 0.5 and 0.3 < is_red(crowd).mean() < 0.5
    assert is_red(targets[120:122]).all() and is_red(targets[124:156, :2]).all()  # the line around the crowd
    assert band(semantic, 0)[2, 2, 2] > 150 and band(semantic, 2)[2, 2, 2] > 150
    assert 0.3 < is_red(band(semantic, 3)).mean() < 0.5 and not is_red(semantic[:120]).any()


def test_captions(sample):
    assert [tile.caption for tile in sample_tiles(sample, side=100)] == [
        "photo.jpg\n20×60 pixels, before the augmentations",
        "30×40 pixels, 20% padding",
        "2 targets: cat, sky\n25% void, crowd: dog",
        "semantic map: cat\n25% ignored",
    ]
    assert describe_sample(sample) == (
        "folder/photo.jpg: 20×60 pixels to 30×40 pixels, 20% padding; 2 targets: cat, sky, 25% void, crowd: dog; "
        "semantic map with 25% ignored"
    )


@pytest.mark.parametrize(
    ("labels", "caption"), [([], "no target"), (["cat"], "1 target: cat"), (["cat", "cat"], "2 targets: cat 2")]
)
def test_targets_are_counted(sample, labels, caption):
    sample = replace(sample, targets=[Segment(rows(0, 8), label) for label in labels], void=None, crowds=[])
    assert sample_tiles(sample, side=100)[2].caption == caption


def test_only_what_the_mapper_gives_is_shown(sample):
    sample = replace(sample, targets=None, crowds=[], void=None, semantic=None, ignored=None)
    assert len(sample_tiles(sample, side=100)) == 2
    assert describe_sample(sample) == "folder/photo.jpg: 20×60 pixels to 30×40 pixels, 20% padding"


def test_a_sheet_has_a_row_for_each_sample(sample):
    one, three = sample_sheet([sample], side=100), sample_sheet([sample] * 3, side=100)
    assert one.width == three.width and three.height > one.height + 2 * 100
