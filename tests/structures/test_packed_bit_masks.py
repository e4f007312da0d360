from __future__ import annotations

import pickle

import pytest
import torch
from detectron2.structures import BitMasks, Instances

from mask2former_ext.modeling.points import sample_points
from mask2former_ext.structures import PackedBitMasks
from mask2former_ext.structures.packed_bit_masks import _pack_on_device, _sample, _unpack_on_device

SIZES = [(5, 8), (7, 13), (1, 1), (16, 31)]


def random_masks(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed)) < 0.3


def test_bits_are_written_low_to_high_and_the_last_byte_is_filled_with_zeros() -> None:
    mask = torch.tensor([[[1, 0, 0, 0, 0, 0, 0, 1, 0, 1], [0, 1, 1, 0, 0, 0, 0, 0, 1, 0]]], dtype=torch.uint8)
    packed = PackedBitMasks.from_masks(mask)
    assert packed.bits.tolist() == [[[0b10000001, 0b10], [0b110, 0b1]]]
    assert packed.image_size == (2, 10)
    assert packed.shape == (1, 2, 10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("as_numpy", [False, True])
def test_unpacks_to_what_was_packed(size: tuple[int, int], as_numpy: bool) -> None:
    masks = random_masks(3, *size)
    packed = PackedBitMasks.from_masks(masks.numpy() if as_numpy else masks)
    assert packed.tensor.dtype == torch.bool
    assert torch.equal(packed.tensor, masks)
    assert [mask.tolist() for mask in packed] == masks.tolist()


@pytest.mark.parametrize("size", SIZES)
def test_packing_one_by_one_is_the_same(size: tuple[int, int]) -> None:
    masks = random_masks(3, *size)
    one_by_one = PackedBitMasks.from_each((mask.numpy() for mask in masks), size)
    assert torch.equal(one_by_one.bits, PackedBitMasks.from_masks(masks).bits)
    assert PackedBitMasks.from_each([], size).shape == (0, *size)


def test_other_strides_and_values_pack_alike() -> None:
    masks = random_masks(3, 7, 13)
    transposed = masks.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(PackedBitMasks.from_masks(transposed).bits, PackedBitMasks.from_masks(masks).bits)
    assert torch.equal(PackedBitMasks.from_masks(masks.byte() * 255).tensor, masks)


def test_refuses_what_is_no_mask() -> None:
    with pytest.raises(ValueError, match=r"torch.float32 of shape \(1, 2, 3\); give bool or uint8"):
        PackedBitMasks.from_masks(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        PackedBitMasks.from_masks(torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"5×9 pixels are uint8 of shape \(N, 5, 2\)"):
        PackedBitMasks(torch.zeros(1, 5, 1, dtype=torch.uint8), (5, 9))


def test_choosing_masks() -> None:
    masks = random_masks(4, 6, 11)
    packed = PackedBitMasks.from_masks(masks)
    for chosen in (slice(1, 3), torch.tensor([True, False, True, False]), torch.tensor([3, 0]), [2, 2]):
        assert torch.equal(packed[chosen].tensor, masks[chosen])
    for number in (0, 3, -1, -4):
        assert torch.equal(packed[number].tensor, masks[number][None])
    with pytest.raises(IndexError, match="mask 4 of 4"):
        packed[4]


def test_together_again() -> None:
    masks = random_masks(4, 6, 11)
    packed = PackedBitMasks.from_masks(masks)
    assert torch.equal(PackedBitMasks.cat([packed[:1], packed[1:]]).tensor, masks)
    with pytest.raises(ValueError, match=r"\[\(6, 11\), \(6, 12\)\]"):
        PackedBitMasks.cat([packed, PackedBitMasks.from_masks(random_masks(1, 6, 12))])


@pytest.mark.parametrize("size", SIZES)
def test_boxes_areas_and_emptiness_are_those_of_bit_masks(size: tuple[int, int]) -> None:
    masks = random_masks(6, *size)
    masks[1] = False
    masks[2] = True
    masks[3] = False
    masks[3, -1, -1] = True
    packed, plain = PackedBitMasks.from_masks(masks), BitMasks(masks)
    assert torch.equal(packed.get_bounding_boxes().tensor, plain.get_bounding_boxes().tensor)
    assert packed.get_bounding_boxes().tensor.dtype == torch.float32
    assert torch.equal(packed.nonempty(), plain.nonempty())
    assert packed.nonempty().dtype == torch.bool
    assert packed.area().tolist() == masks.sum(dim=(1, 2)).tolist()


def test_without_masks() -> None:
    packed = PackedBitMasks.from_masks(torch.zeros(0, 4, 9, dtype=torch.bool))
    assert len(packed) == 0
    assert packed.tensor.shape == (0, 4, 9)
    assert packed.get_bounding_boxes().tensor.shape == (0, 4)
    assert packed.nonempty().shape == (0,)
    assert packed.area().shape == (0,)
    assert packed.sample(torch.rand(5, 2)).shape == (0, 5)


def test_works_where_bit_masks_do() -> None:
    masks = random_masks(3, 9, 10)
    instances = Instances((9, 10), gt_masks=PackedBitMasks.from_masks(masks), gt_classes=torch.arange(3))
    chosen = Instances.cat([instances[instances.gt_classes != 1], instances[:1]]).to("cpu")
    assert isinstance(chosen.gt_masks, BitMasks)
    assert torch.equal(chosen.gt_masks.tensor, masks[[0, 2, 0]])
    boxes = BitMasks(masks).get_bounding_boxes().tensor
    cropped = PackedBitMasks.from_masks(masks).crop_and_resize(boxes, 14)
    assert torch.equal(cropped, BitMasks(masks).crop_and_resize(boxes, 14))


def test_moving_keeps_bits() -> None:
    packed = PackedBitMasks.from_masks(random_masks(2, 4, 9))
    for moved in (packed.to("cpu", torch.float32), packed.to(dtype=torch.bool, device="cpu", copy=True)):
        assert torch.equal(moved.tensor, packed.tensor)
    assert packed.to("meta").device.type == "meta"


def test_pickle_holds_the_bits_and_little_else() -> None:
    packed = PackedBitMasks.from_masks(random_masks(4, 128, 128))
    pickled = pickle.dumps(packed)
    assert len(pickled) < 4 * 128 * 128 / 8 + 1000
    loaded = pickle.loads(pickled)
    assert torch.equal(loaded.tensor, packed.tensor)
    assert loaded.image_size == (128, 128)


def test_sample_by_hand() -> None:
    packed = PackedBitMasks.from_masks(torch.tensor([[[1, 0], [1, 1]]], dtype=torch.bool))
    # the center of the first pixel, the middle of all four, a quarter of a pixel off a border, the corner
    coords = torch.tensor([[0.25, 0.25], [0.5, 0.5], [0.125, 0.25], [0.0, 0.0]])
    assert packed.sample(coords).tolist() == [[1.0, 0.75, 0.75, 0.25]]
    # padded to 4×4: the corner of the masks lies in the middle
    assert packed.sample(torch.tensor([[0.5, 0.5], [0.9, 0.1]]), (4, 4)).tolist() == [[0.25, 0.0]]


def reference(masks: torch.Tensor, coords: torch.Tensor, padded_size: tuple[int, int]) -> torch.Tensor:
    padded = torch.zeros(len(masks), 1, *padded_size)
    padded[:, 0, : masks.shape[1], : masks.shape[2]] = masks
    return sample_points(padded, coords.expand(len(masks), -1, 2)).squeeze(1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padding", [None, (0, 0), (3, 17)])
@pytest.mark.parametrize("shared", [True, False])
def test_sample_is_grid_sample_of_the_padded_masks(
    size: tuple[int, int], padding: tuple[int, int] | None, shared: bool
) -> None:
    masks = random_masks(4, *size)
    coords = torch.rand((500, 2) if shared else (4, 500, 2), generator=torch.Generator().manual_seed(1)) * 1.2 - 0.1
    padded_size = (size[0] + padding[0], size[1] + padding[1]) if padding else None
    sampled = PackedBitMasks.from_masks(masks).sample(coords, padded_size)
    assert sampled.dtype == torch.float32
    torch.testing.assert_close(sampled, reference(masks, coords, padded_size or size), rtol=0, atol=1e-6)


def test_sample_is_exact_where_coordinates_are() -> None:
    # at powers of two no processor rounds the products of the coordinates
    masks, coords = random_masks(4, 13, 50), torch.rand(4, 500, 2, generator=torch.Generator().manual_seed(1))
    sampled = PackedBitMasks.from_masks(masks).sample(coords, (16, 64))
    assert torch.equal(sampled, reference(masks, coords, (16, 64)))


def test_sample_in_several_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, coords = random_masks(5, 16, 31), torch.rand(5, 10, 2, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("mask2former_ext.structures.packed_bit_masks._POINTS_AT_ONCE", 20)
    sampled = PackedBitMasks.from_masks(masks).sample(coords)
    torch.testing.assert_close(sampled, reference(masks, coords, (16, 31)), rtol=0, atol=1e-6)


def test_sample_takes_other_floats_and_strides_and_no_gradient() -> None:
    packed = PackedBitMasks.from_masks(random_masks(4, 16, 31))[1:]
    coords = torch.rand(2, 50, dtype=torch.float64, requires_grad=True).t()
    sampled = packed.sample(coords)
    assert torch.equal(sampled, packed.sample(coords.detach().float().contiguous()))
    assert not sampled.requires_grad
    assert packed.sample(torch.rand(3, 0, 2)).shape == (3, 0)


@pytest.mark.parametrize("shared", [True, False])
def test_what_runs_on_other_devices_is_the_same(shared: bool) -> None:
    masks = random_masks(4, 7, 13)
    packed = PackedBitMasks.from_masks(masks)
    coords = torch.rand(1 if shared else 4, 100, 2, generator=torch.Generator().manual_seed(1))
    starts = torch.arange(4)[:, None] * 7 * 2
    sampled = _sample(torch, packed.bits.flatten(), starts, coords, (7, 13), (9, 20))
    assert torch.equal(sampled, packed.sample(coords, (9, 20)))


@pytest.mark.parametrize("size", SIZES)
def test_what_packs_on_other_devices_is_the_same(size: tuple[int, int]) -> None:
    packed = PackedBitMasks.from_masks(random_masks(4, *size))
    assert torch.equal(_pack_on_device(packed.tensor), packed.bits)
    assert torch.equal(_unpack_on_device(packed.bits, size[1]), packed.tensor)
