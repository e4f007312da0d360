"""Windows, the mask of shifted ones, and attention in them, against a formulation that rolls nothing."""

import pytest
import torch

from mask2former_ext.modeling.backbone.swin import SwinBlock
from mask2former_ext.modeling.backbone.window_attention import (
    WindowAttention,
    join_windows,
    pad_to_multiple,
    relative_position_index,
    shifted_window_mask,
    split_windows,
)

CPU = torch.device("cpu")


def block(shift, dim=8, heads=2, window=4, **changes):
    args = {"mlp_ratio": 2.0, "dropout": 0.0, "drop_path": 0.0, "qkv_bias": True, "qk_scale": None, "attn_dropout": 0.0}
    module = SwinBlock(dim, window, shift, num_heads=heads, **(args | changes)).eval()
    torch.nn.init.normal_(module.attn.relative_position_bias_table)
    torch.nn.init.normal_(module.attn.qkv.bias)
    return module


def test_relative_position_index_by_hand():
    # rows: query pixels (0,0), (0,1), (1,0), (1,1); the table's row is 3·(Δy + 1) + (Δx + 1), query minus key
    assert relative_position_index(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_position_index(7).unique().tolist() == list(range(169))


def test_windows_are_cut_row_by_row_and_joined_again():
    x = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    windows = split_windows(x, 2)
    assert windows.shape == (2, 6, 4, 1)
    assert windows[0, :, :, 0].tolist()[:4] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19]]
    assert torch.equal(join_windows(windows, 2, 4, 6), x)


def test_maps_are_padded_at_the_end_of_rows_and_columns():
    x = torch.ones(2, 4, 5, 3)
    padded = pad_to_multiple(x, 3)
    assert padded.shape == (2, 6, 6, 3)
    assert torch.equal(padded[:, :4, :5], x) and padded.sum() == x.sum()
    assert pad_to_multiple(padded, 3) is padded


def test_shifted_window_mask_by_hand():
    blocked = shifted_window_mask(4, 4, 2, 1, CPU)
    left_right = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]).bool()
    top_bottom = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]).bool()
    assert torch.equal(blocked, torch.stack([torch.zeros(4, 4).bool(), left_right, top_bottom, ~torch.eye(4).bool()]))


def attend_pixel_by_pixel(module, x):
    """Attention of a 1×H×W×C map without windows that wrap: those of a shifted block are cut off at the borders."""
    attention, size, shift = module.attn, module.window_size, module.shift
    height, width = x.shape[1:3]
    q, k, v = attention.qkv(x[0]).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 1, 3, 4)
    pixels = [(y, x) for y in range(height) for x in range(width)]
    output = torch.zeros_like(x[0])
    for y, x in pixels:
        window = [(i, j) for i, j in pixels if (i - shift) // size == (y - shift) // size]
        window = [(i, j) for i, j in window if (j - shift) // size == (x - shift) // size]
        rows = [(y - i + size - 1) * (2 * size - 1) + x - j + size - 1 for i, j in window]
        keys = torch.stack([k[i, j] for i, j in window], 1)
        values = torch.stack([v[i, j] for i, j in window], 1)
        logits = (keys @ q[y, x, :, :, None])[..., 0] / q.shape[-1] ** 0.5
        weights = (logits + attention.relative_position_bias_table[rows].T).softmax(-1)
        output[y, x] = (weights[:, None] @ values).flatten()
    return attention.proj(output)[None]


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (4, 4), (7, 9)])
def test_attention_of_a_block_is_that_of_its_formula(shift, height, width):
    module = block(shift)
    x = torch.randn(1, height, width, 8)
    padded = torch.zeros(1, -(-height // 4) * 4, -(-width // 4) * 4, 8)
    padded[:, :height, :width] = x
    with torch.no_grad():
        expected = attend_pixel_by_pixel(module, padded)[:, :height, :width]
        blocked = shifted_window_mask(*padded.shape[1:3], 4, 2, CPU)
        torch.testing.assert_close(module._attend(x, blocked), expected, rtol=1e-4, atol=1e-5)


def test_block_is_residual_and_normalises_first():
    module = block(0)
    x = torch.randn(2, 4, 4, 8)
    with torch.no_grad():
        attended = x + module._attend(module.norm1(x), None)
        expected = attended + module.mlp(module.norm2(attended))
        torch.testing.assert_close(module(x, None), expected)


def test_pixels_on_two_sides_of_a_seam_do_not_influence_each_other():
    module = block(2)
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    module._attend(x, shifted_window_mask(8, 8, 4, 2, CPU))[0, 7, 7].sum().backward()
    reached = x.grad[0].abs().sum(-1) > 0
    assert reached[6:, 6:].all() and reached.sum() == 4


def test_scale_and_dropout_of_attention():
    x = torch.randn(1, 2, 16, 8)
    args = {"qkv_bias": False, "dropout": 0.0}
    attention = WindowAttention(8, 4, 2, qk_scale=None, attn_dropout=0.5, **args)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))
    default = attention(x)
    attention.qk_scale = 0.5  # the default of 4 channels a head
    torch.testing.assert_close(attention(x), default)
    attention.qk_scale = 50.0
    assert not torch.allclose(attention(x), default)


def test_mask_met_in_inference_mode_serves_training():
    module = block(2)
    with torch.inference_mode():
        module(torch.randn(1, 20, 24, 8), shifted_window_mask(20, 24, 4, 2, CPU))
    module(torch.randn(1, 20, 24, 8), shifted_window_mask(20, 24, 4, 2, CPU)).sum().backward()
    assert module.attn.qkv.weight.grad.abs().sum() > 0


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match=r"NUM_HEADS: 3 heads do not divide the 8 channels"):
        block(0, heads=3)
