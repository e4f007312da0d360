"""Pictures as arrays, pixel by pixel."""

import numpy as np
import pytest

from mask2former_ext.visualization.painting import (
    fit_size,
    outline,
    resize_mask,
    resize_picture,
    rgb_picture,
    stripe,
    tint,
)

RED = (1.0, 0.0, 0.0)


@pytest.fixture
def grey():
    return np.full((20, 30, 3), 100, dtype=np.uint8)


@pytest.mark.parametrize(("image_format", "pixel"), [("RGB", [1, 2, 3]), ("BGR", [3, 2, 1]), ("L", [7, 7, 7])])
def test_formats_become_rgb(image_format, pixel):
    values = [7] if image_format == "L" else [1, 2, 3]
    picture = rgb_picture(np.full((2, 2, len(values)), values, dtype=np.uint8), image_format)
    assert picture.dtype == np.uint8 and (picture == pixel).all()


def test_yuv_becomes_rgb_within_bounds():
    """The luma of BT.601 in [0, 1], with no chroma, is grey; what is too bright is white."""
    assert (rgb_picture(np.full((1, 1, 3), [0.5, 0.0, 0.0]), "YUV-BT.601") == 128).all()
    assert (rgb_picture(np.full((1, 1, 3), [1.2, 0.0, 0.0]), "YUV-BT.601") == 255).all()


def test_values_that_were_normalised_are_rounded():
    assert (rgb_picture(np.full((1, 1, 3), [99.9999, -0.2, 255.3]), "RGB") == [100, 0, 255]).all()


def test_sizes_keep_the_shape():
    assert fit_size((100, 400), 200) == (50, 200)
    assert fit_size((30, 10), 60) == (60, 20)
    assert fit_size((1, 1000), 100) == (1, 100)


def test_pictures_and_masks_are_resized_alike(grey):
    mask = np.zeros((20, 30), dtype=bool)
    mask[:10] = True
    picture = grey.copy()
    picture[mask] = 200
    for size in ((40, 60), (10, 15)):
        resized = resize_mask(mask, size)
        assert resized.shape == size and (resized == (np.arange(size[0]) < size[0] // 2)[:, None]).all()
        assert ((resize_picture(picture, size)[..., 0] > 150) == resized).all()


def test_tint_mixes_by_weight(grey):
    weight = np.zeros((20, 30))
    weight[0, 0], weight[0, 1] = 1.0, 0.5
    tinted = tint(grey, weight, RED)
    assert tinted[0, :3].tolist() == [[255, 0, 0], [178, 50, 50], [100, 100, 100]]
    assert (tinted[1:] == 100).all()


def test_stripes_stay_in_their_region(grey):
    region = np.zeros((20, 30), dtype=bool)
    region[:, 15:] = True
    changed = (stripe(grey, region, RED) != grey).any(axis=2)
    assert not changed[:, :15].any()
    assert 0.3 < changed[:, 15:].mean() < 0.5
    assert changed[:, 15:].any(axis=0).all() and changed[:, 15:].any(axis=1).all()


def test_outline_is_the_inner_border(grey):
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:15, 5:15] = True
    red = (outline(grey, mask, RED, width=2) == [255, 0, 0]).all(axis=2)
    inner = np.zeros_like(mask)
    inner[7:13, 7:13] = True
    assert (red == (mask & ~inner)).all()
