"""Masks of objects through the augmentations, against the plain way: each one alone, whole, and as bools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, polygons_to_bitmask
from fvcore.transforms.transform import CropTransform, HFlipTransform, PadTransform, Transform, TransformList

from mask2former_ext.data import build_dataset_mapper
from mask2former_ext.data.index_maps import transform_index_map
from mask2former_ext.data.masks import transform_masks
from mask2former_ext.data.targets import PanopticTargets, SemanticTargets

HEIGHT, WIDTH = 60, 75
STAR = [20.0, 2, 26, 40, 1, 14, 39, 14, 14, 40]  # its sides cross


def plain_masks(shapes: list[Any], transforms: Transform, image_size: tuple[int, int]) -> np.ndarray:
    """One after the other: Detectron2's polygons, cut and rasterised over the whole image; bitmaps as bytes."""
    masks = np.zeros((len(shapes), *image_size), dtype=bool)
    for mask, shape in zip(masks, shapes, strict=True):
        if isinstance(shape, list):
            moved = transforms.apply_polygons([polygon.copy() for polygon in shape])
            mask[:] = polygons_to_bitmask([polygon.reshape(-1) for polygon in moved], *image_size)
        else:
            mask[:] = transforms.apply_segmentation(shape) == 1
    return masks


def random_polygon(rng: np.random.Generator) -> np.ndarray:
    """Some with corners on the pixels' corners, some with sides that cross, some at the image's border."""
    corners = int(rng.integers(3, 25))
    if rng.random() < 0.2:
        points = rng.uniform(0, 1, (corners, 2)) * (WIDTH, HEIGHT)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.5, 1, (corners, 1))
        points = rng.uniform(0, 1, 2) * (WIDTH, HEIGHT) + ring * rng.uniform(1, 40)
    return points.clip(0, (WIDTH, HEIGHT)).round(int(rng.integers(0, 3)))


def random_shapes(rng: np.random.Generator) -> list[Any]:
    shapes: list[Any] = []
    for _ in range(rng.integers(0, 25)):
        if rng.random() < 0.5:
            shapes.append([random_polygon(rng) for _ in range(rng.integers(0, 4))])
        else:
            shapes.append((rng.random((HEIGHT, WIDTH)) < 0.1).astype(np.uint8))
    return shapes


def random_transforms(rng: np.random.Generator) -> tuple[Transform, tuple[int, int]]:
    """Flip, resize, crop, pad, as large-scale jittering has it; and the size they lead to."""
    height, width = (int(side * rng.uniform(0.3, 2)) for side in (HEIGHT, WIDTH))
    crop_height, crop_width = (int(rng.integers(1, side + 1)) for side in (height, width))
    top, left = int(rng.integers(height - crop_height + 1)), int(rng.integers(width - crop_width + 1))
    bottom, right = (int(side) for side in rng.integers(0, 20, 2))
    steps = [
        T.ResizeTransform(HEIGHT, WIDTH, height, width),
        CropTransform(left, top, crop_width, crop_height, width, height),
        PadTransform(0, 0, right, bottom, crop_width, crop_height, pad_value=128, seg_pad_value=0),
    ]
    if rng.random() < 0.5:
        steps.insert(0, HFlipTransform(WIDTH))
    return TransformList(steps), (crop_height + bottom, crop_width + right)


@pytest.mark.parametrize("seed", range(40))
def test_all_at_once_they_are_those_of_the_plain_way(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = random_shapes(rng)
    transforms, size = random_transforms(rng)
    expected = plain_masks(shapes, transforms, size)
    np.testing.assert_array_equal(transform_masks(shapes, transforms, size).tensor.numpy(), expected)


@pytest.mark.parametrize(
    "crop", [CropTransform(0, 0, 40, 42), CropTransform(10, 5, 20, 30), CropTransform(40, 0, 3, 42)]
)
def test_crossing_sides_are_cut_as_before(crop: CropTransform) -> None:
    shape = [np.array(STAR).reshape(-1, 2)]
    expected = plain_masks([shape], crop, (crop.h, crop.w))
    np.testing.assert_array_equal(transform_masks([shape], crop, (crop.h, crop.w)).tensor.numpy(), expected)


@pytest.mark.parametrize("shift", [(-50, 0), (0, -50), (30, 0), (0, 30), (-50, 30)])
def test_polygons_beside_an_image_that_nothing_crops(shift: tuple[int, int]) -> None:
    shape = [np.array(STAR).reshape(-1, 2) + shift]
    expected = plain_masks([shape], T.NoOpTransform(), (30, 30))
    assert not expected.any()
    np.testing.assert_array_equal(transform_masks([shape], T.NoOpTransform(), (30, 30)).tensor.numpy(), expected)


def test_polygons_out_of_sight_are_neither_cut_nor_rasterised(monkeypatch: pytest.MonkeyPatch) -> None:
    crop = CropTransform(10, 10, 20, 20)
    seen = []
    cut = crop.apply_polygons
    crop.apply_polygons = lambda polygons: seen.append(polygons) or cut(polygons)
    rasterise = coco_mask.frPyObjects
    monkeypatch.setattr(
        "mask2former_ext.data.masks.coco_mask.frPyObjects",
        lambda polygons, height, width: seen.append((height, width)) or rasterise(polygons, height, width),
    )

    def square(left: float, top: float, side: float) -> np.ndarray:
        return np.array([left, top, left + side, top, left + side, top + side, left, top + side]).reshape(-1, 2)

    aside = [square(0, 0, 10), square(30, 12, 5), square(12, 31, 4)]
    assert transform_masks([aside], crop, (20, 20)).area().tolist() == [0]
    assert seen == []
    within = transform_masks([[square(12, 13, 4), *aside]], crop, (20, 20))
    assert within.get_bounding_boxes().tensor.tolist() == [[2, 3, 6, 7]]
    assert seen == [(8, 7)]  # not cut; of the 20×20 pixels only those up to the square's end, and one more


def test_eight_bitmaps_travel_together(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = T.ResizeTransform(4, 4, 8, 8)
    calls = []
    apply = resize.apply_segmentation
    resize.apply_segmentation = lambda raster: calls.append(raster) or apply(raster)
    shapes = [np.eye(4, k=k % 4, dtype=np.uint8) for k in range(9)]
    masks = transform_masks(shapes, resize, (8, 8))
    assert len(calls) == 2
    np.testing.assert_array_equal(masks.tensor.numpy(), [shape.repeat(2, 0).repeat(2, 1) for shape in shapes])


def test_index_maps_never_become_a_stack_of_bools(monkeypatch: pytest.MonkeyPatch) -> None:
    packed_shapes = []

    def pack(mask: np.ndarray) -> np.ndarray:
        packed_shapes.append(mask.shape)
        return np.packbits(mask, axis=-1, bitorder="little")

    monkeypatch.setattr("mask2former_ext.structures.packed_bit_masks.pack_rows", pack)
    index_map = np.arange(9, dtype=np.uint8).reshape(3, 3)
    instances = SemanticTargets(index_map, np.arange(8)).to_instances(T.NoOpTransform(), (3, 3))
    assert packed_shapes == [(3, 3)] * 8
    assert instances.gt_masks.tensor.flatten(1).long().argmax(1).tolist() == list(range(1, 9))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("segments", [7, 300])
def test_masks_of_segments_are_those_of_the_plain_way(seed: int, segments: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(10**6, segments + 1, replace=False))
    positions = rng.integers(0, segments + 1, (HEIGHT // 5, WIDTH // 5)).repeat(5, 0).repeat(5, 1)
    infos = [{"id": int(k), "category_id": int(rng.integers(9)), "iscrowd": int(rng.random() < 0.2)} for k in ids[1:]]
    transforms, size = random_transforms(rng)
    instances = PanopticTargets(ids, positions, infos).to_instances(transforms, size)

    kept = [info for info in infos if not info["iscrowd"]]
    place = {info["id"]: k + 1 for k, info in enumerate(kept)}
    table = np.array([place.get(int(k), 0) for k in ids], dtype=np.uint8 if segments < 200 else np.uint16)
    moved = transform_index_map(transforms, table[positions])
    indices = [k for k in range(1, len(kept) + 1) if (moved == k).any()]
    assert instances.gt_classes.tolist() == [kept[k - 1]["category_id"] for k in indices]
    expected = torch.from_numpy(moved == np.array(indices, dtype=moved.dtype)[:, None, None])
    assert torch.equal(instances.gt_masks.tensor, expected)
    assert torch.equal(instances.gt_boxes.tensor, BitMasks(expected).get_bounding_boxes().tensor)


def test_the_mapper_drops_empty_masks_and_keeps_the_order(
    mapper_cfg: Callable[..., CfgNode], record: dict[str, Any]
) -> None:
    tiny = [2.4, 2.4, 2.45, 2.4, 2.45, 2.45]  # between the centers of pixels
    square = [0.0, 0, 4, 0, 4, 4, 0, 4]
    record["annotations"] = [
        {"category_id": 3, "segmentation": [square]},
        {"category_id": 2, "segmentation": [tiny]},
        {"category_id": 1, "segmentation": np.ones((6, 8), dtype=bool)},
        {"category_id": 0, "segmentation": np.zeros((6, 8), dtype=bool)},
    ]
    instances = build_dataset_mapper(mapper_cfg("mask_former_instance"))(record)["instances"]
    assert instances.gt_classes.tolist() == [3, 1]
    assert instances.gt_masks.area().tolist() == [16, 48]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 4, 4], [0, 0, 8, 6]]
