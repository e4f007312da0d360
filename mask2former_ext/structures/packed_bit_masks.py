"""Masks at one bit a pixel.

Shapes: N masks of H×W pixels, P points; R = ceil(W / 8) bytes hold a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes
from torch import Tensor
from torch.nn import functional as F

# Points that are read at a time on the CPU: a few temporaries of so many numbers stay in its cache.
_POINTS_AT_ONCE = 2**16


class PackedBitMasks(BitMasks):
    """``BitMasks`` in an eighth of the memory: pixels are bits, unpacked where somebody looks at :attr:`tensor`.

    Pixel (row y, column x) is bit ``x % 8``, counted from the lowest, of byte ``x // 8`` of its row; that is
    ``numpy.packbits(..., bitorder="little")``. The bits that fill up a row's last byte are 0.

    Attributes:
        bits: uint8 N×H×R.
        image_size: (H, W) in pixels.
    """

    def __init__(self, bits: Tensor, image_size: tuple[int, int]) -> None:
        """
        Args:
            bits: uint8 N×H×R, as the class describes them; kept, not copied. :meth:`from_masks` makes them.
            image_size: (H, W).
        """
        height, width = image_size
        if bits.dtype != torch.uint8 or bits.dim() != 3 or bits.shape[1:] != (height, row_bytes(width)):
            raise ValueError(
                f"bits are {bits.dtype} of shape {tuple(bits.shape)}; masks of {height}×{width} pixels are uint8 of "
                f"shape (N, {height}, {row_bytes(width)}). PackedBitMasks.from_masks packs masks."
            )
        self.bits = bits
        self.image_size = (height, width)

    @classmethod
    def from_masks(cls, masks: Tensor | np.ndarray) -> PackedBitMasks:
        """Pack N×H×W ``masks``, bool or uint8 (anything but 0 is inside); on the device they are on."""
        if isinstance(masks, np.ndarray):
            masks = torch.from_numpy(masks)
        if masks.dim() != 3 or masks.dtype not in (torch.bool, torch.uint8):
            raise ValueError(f"masks are {masks.dtype} of shape {tuple(masks.shape)}; give bool or uint8 N×H×W.")
        return cls(_pack(masks), (masks.shape[1], masks.shape[2]))

    @classmethod
    def from_each(cls, masks: Iterable[np.ndarray], image_size: tuple[int, int]) -> PackedBitMasks:
        """Pack masks, H×W of bool or uint8, one by one: a generator's are never there all at once."""
        rows = [pack_rows(mask) for mask in masks]
        height, width = image_size
        bits = np.stack(rows) if rows else np.zeros((0, height, row_bytes(width)), dtype=np.uint8)
        return cls(torch.from_numpy(bits), (height, width))

    @property
    def tensor(self) -> Tensor:
        """The masks unpacked: bool N×H×W. A new tensor each time; what is written into it is lost."""
        return _unpack(self.bits, self.image_size[1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W)."""
        return (len(self), *self.image_size)

    @property
    def device(self) -> torch.device:
        return self.bits.device

    def to(self, *args: Any, **kwargs: Any) -> PackedBitMasks:
        """As ``Tensor.to``; masks have no other dtype, so one that is asked for makes no difference."""
        kwargs.pop("dtype", None)
        places = [value for value in args if not isinstance(value, torch.dtype)]
        return PackedBitMasks(self.bits.to(*places, **kwargs), self.image_size)

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, item: int | slice | Sequence[int] | Tensor) -> PackedBitMasks:
        """The masks that ``item`` chooses: a number, a slice, numbers, or N bools."""
        bits = self.bits[item : item + 1 or None] if isinstance(item, int) else self.bits[item]
        if isinstance(item, int) and len(bits) == 0:
            raise IndexError(f"mask {item} of {len(self)}")
        return PackedBitMasks(bits, self.image_size)

    def __iter__(self) -> Iterator[Tensor]:
        """Each mask as bool H×W."""
        for bits in self.bits:
            yield _unpack(bits, self.image_size[1])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)}, image_size={self.image_size})"

    @staticmethod
    def cat(bitmasks_list: Sequence[PackedBitMasks]) -> PackedBitMasks:
        """All masks of a list that is not empty, which are of one size and on one device."""
        first = bitmasks_list[0]
        sizes = sorted({masks.image_size for masks in bitmasks_list})
        if len(sizes) > 1:
            raise ValueError(f"masks are of the sizes {sizes} (height, width); only masks of one size go together.")
        return PackedBitMasks(torch.cat([masks.bits for masks in bitmasks_list]), first.image_size)

    def nonempty(self) -> Tensor:
        """N bools: whether the mask has a pixel."""
        if self.bits.numel() == 0:
            return torch.zeros(len(self), dtype=torch.bool, device=self.device)
        return self.bits.amax(dim=(1, 2)) != 0

    def area(self) -> Tensor:
        """N int64: pixels of each mask."""
        # Sums of 2, 4 and 8 neighbouring bits, side by side within their byte.
        counts = self.bits - (self.bits >> 1 & 0x55)
        counts = (counts & 0x33) + (counts >> 2 & 0x33)
        counts = counts + (counts >> 4) & 0x0F
        return counts.flatten(1).sum(dim=1, dtype=torch.int64)

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes in pixels, float32 N×4 (x0, y0, x1, y1); all 0 for an empty mask."""
        if self.bits.numel() == 0:
            return Boxes(torch.zeros(len(self), 4, device=self.device))
        rows = self.bits.amax(dim=2) != 0  # many times faster than any()
        x0, x1 = _extent(_unpack(_any_row(self.bits), self.image_size[1]))
        y0, y1 = _extent(rows)
        return Boxes(torch.stack([x0, y0, x1, y1], dim=1).float())

    @torch.no_grad()
    def sample(self, coords: Tensor, padded_size: tuple[int, int] | None = None) -> Tensor:
        """Read the masks bilinearly at points, without unpacking them: memory is that of the answer, a few times.

        The answer is that of ``mask2former_ext.modeling.points.sample_points`` for the masks as float32: to the last
        bit where the processor multiplies and adds in one instruction, as all do since 2013; else within the rounding
        of the coordinates, which is 1e-7 of the padded size.

        Args:
            coords: P×2 for all masks alike or N×P×2, floating point, (x, y) in [0, 1] of width and height, on the
                masks' device.
            padded_size: (H', W') that the coordinates refer to: what exceeds H and W, at the bottom and on the right,
                is outside of every mask. Default (H, W).

        Returns:
            N×P float32 in [0, 1].
        """
        coords = coords.float()
        if coords.dim() == 2:
            coords = coords[None]
        masks, height, per_row = self.bits.shape
        points = coords.shape[1]
        if self.bits.numel() == 0 or points == 0:
            return torch.zeros(masks, points, device=self.device)
        sizes = (self.image_size, padded_size or self.image_size)
        starts = torch.arange(masks, device=self.device)[:, None] * (height * per_row)
        if self.device.type != "cpu":
            return _sample(torch, self.bits.flatten(), starts, coords, *sizes)
        # NumPy's single operations cost a fraction of PyTorch's at this size.
        bits, values = self.bits.flatten().numpy(), torch.empty(masks, points)
        at_once = max(1, _POINTS_AT_ONCE // points)
        for start in range(0, masks, at_once):
            some = slice(start, start + at_once)
            own = coords[some] if len(coords) > 1 else coords
            values.numpy()[some] = _sample(np, bits, starts[some].numpy(), own.numpy(), *sizes)
        return values


def row_bytes(width: int) -> int:
    """R, the bytes of a row of ``width`` pixels."""
    return -(-width // 8)


def pack_rows(masks: np.ndarray) -> np.ndarray:
    """Pack bool or uint8 …×W (anything but 0 is inside) as :class:`PackedBitMasks` has it; returns uint8 …×R."""
    return np.packbits(masks, axis=-1, bitorder="little")


def _pack(masks: Tensor) -> Tensor:
    if masks.device.type == "cpu":
        return torch.from_numpy(pack_rows(masks.numpy()))
    return _pack_on_device(masks)


def _pack_on_device(masks: Tensor) -> Tensor:
    width = masks.shape[-1]
    pixels = F.pad(masks != 0, (0, -width % 8)).unflatten(-1, (row_bytes(width), 8))
    return (pixels.to(torch.uint8) << _bit_numbers(masks.device)).sum(dim=-1, dtype=torch.uint8)


def _unpack(bits: Tensor, width: int) -> Tensor:
    if bits.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1, count=width, bitorder="little").view(np.bool_))
    return _unpack_on_device(bits, width)


def _unpack_on_device(bits: Tensor, width: int) -> Tensor:
    pixels = bits[..., None] >> _bit_numbers(bits.device) & 1
    return pixels.flatten(-2)[..., :width].bool()


def _bit_numbers(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)


def _any_row(bits: Tensor) -> Tensor:
    """N×H×R → N×R: the union of all rows. H is at least 1."""
    while (height := bits.shape[1]) > 1:
        half = (height + 1) // 2  # an odd row in the middle meets itself
        bits = bits[:, :half] | bits[:, height - half :]
    return bits[:, 0]


def _extent(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Of N×L bools the first that is true and the one after the last; 0 and 0 where none is. L is at least 1."""
    inside = inside.to(torch.uint8)
    found = inside.amax(dim=1)
    return inside.argmax(dim=1), (inside.shape[1] - inside.flip(1).argmax(dim=1)) * found


# The two functions below take arrays of NumPy or of PyTorch on any device, whichever module ``xp`` is: what they call
# has one name and meaning in both.


def _sample(
    xp: ModuleType, bits: Any, starts: Any, coords: Any, size: tuple[int, int], padded_size: tuple[int, int]
) -> Any:
    """Read masks at N×P×2 or 1×P×2 ``coords``; ``starts``, int64 N×1, are their first bytes in the flat ``bits``."""
    left, right = _neighbours(xp, coords[..., 0], size[1], padded_size[1])
    columns = [(share, x >> 3, xp.asarray(x & 7, dtype=xp.uint8)) for share, x in (left, right)]
    per_row = row_bytes(size[1])
    values: Any = None
    # The order and the products are grid_sample's, so that its rounding is, too.
    for y_share, y in _neighbours(xp, coords[..., 1], size[0], padded_size[0]):
        rows = xp.asarray(y, dtype=xp.int64) * per_row + starts
        for x_share, byte, bit in columns:
            found = xp.take(bits, rows + byte)
            found >>= bit
            found &= 1
            value = x_share * y_share * found
            values = value if values is None else xp.add(values, value, out=values)
    return values


def _neighbours(xp: ModuleType, coords: Any, size: int, padded_size: int) -> list[tuple[Any, Any]]:
    """Along one axis the two pixels around each of ``coords``: their share of the value, 0 beyond ``size``, and index.

    An index beyond ``size`` is replaced by the nearest within.
    """
    places = 2.0 * coords - 1.0
    places += 1.0
    # Exact in float64 and then rounded once: grid_sample's compiled code multiplies and subtracts in one instruction.
    places = xp.asarray(places, dtype=xp.float64)
    places *= padded_size / 2
    places -= 0.5
    places = xp.asarray(places, dtype=xp.float32)
    before = xp.floor(places)
    places -= before
    before = xp.asarray(before, dtype=xp.int32)
    neighbours = []
    for share, index in ((1.0 - places, before), (places, before + 1)):
        share *= (index >= 0) & (index < size)
        neighbours.append((share, xp.clip(index, 0, size - 1)))
    return neighbours
