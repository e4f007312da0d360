"""Simple feature pyramid: resolutions, channels, and that pixels stay in place."""

import pytest
import torch
from torch import nn

from mask2former_ext.modeling.backbone.simple_pyramid import ChannelNorm, SimpleFeaturePyramid


@pytest.mark.parametrize(
    ("stride", "channels", "sizes"),
    [
        (16, [16, 32, 64, 64], [(16, 24), (8, 12), (4, 6), (2, 3)]),
        (8, [32, 64, 64, 64], [(8, 12), (4, 6), (2, 3), (1, 1)]),
        (32, [8, 16, 32, 64], [(32, 48), (16, 24), (8, 12), (4, 6)]),
    ],
)
def test_scales_of_a_map(stride, channels, sizes):
    pyramid = SimpleFeaturePyramid(64, stride, [4, 8, 16, 32])
    outputs = pyramid(torch.randn(2, 64, 4, 6))
    assert pyramid.out_channels == channels
    assert [tuple(x.shape) for x in outputs] == [(2, c, *size) for c, size in zip(channels, sizes, strict=True)]


def test_own_scale_is_passed_on_and_lower_ones_are_pooled():
    x = torch.randn(1, 4, 4, 4)
    own, pooled = SimpleFeaturePyramid(4, 16, [16, 32])(x)
    assert own is x
    torch.testing.assert_close(pooled, nn.functional.max_pool2d(x, 2))


def test_deconvolutions_alternate_with_norm_and_gelu():
    kinds = [type(layer) for layer in SimpleFeaturePyramid(16, 16, [4]).scales[0]]
    assert kinds == [nn.ConvTranspose2d, ChannelNorm, nn.GELU, nn.ConvTranspose2d]


def test_each_pixel_makes_its_own_four_by_four():
    x = torch.zeros(1, 16, 3, 3)
    pyramid = SimpleFeaturePyramid(16, 16, [4])
    y = x.clone()
    y[:, :, 1, 2] = torch.randn(16)
    changed = (pyramid(x)[0] != pyramid(y)[0]).any(1)[0]
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[4:8, 8:12] = True
    assert torch.equal(changed, expected)


def test_channel_norm_is_layer_norm_of_each_pixel():
    norm, x = ChannelNorm(5), torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(norm(x)[1, :, 2, 3], nn.functional.layer_norm(x[1, :, 2, 3], (5,)))
