"""The recipes: crop by category area, colours, large-scale jittering, padding."""

import random

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from mask2former_ext.data import build_dataset_mapper
from mask2former_ext.data.augmentations import PadToMultiple, large_scale_jitter, resize_crop_flip
from mask2former_ext.data.index_maps import IndexMapInput, transform_index_map

CROP = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [4, 16])


@pytest.fixture
def striped(record, png):
    """16×64 pixels: columns 0 to 23 are of class 0, 24 to 39 of class 1, the others ignored."""
    labels = np.zeros((16, 64), dtype=np.uint8)
    labels[:, 24:40] = 1
    labels[:, 40:] = 255
    ids = np.select([labels == 0, labels == 1], [5, 6], 0).astype(np.uint8)
    return record | {
        "file_name": png("wide.png", np.zeros((16, 64, 3), np.uint8)),
        "height": 16,
        "width": 64,
        "sem_seg_file_name": png("labels.png", labels),
        "pan_seg_file_name": png("panoptic.png", np.stack([ids, 0 * ids, 0 * ids], axis=2)),
        "segments_info": [{"id": 5, "category_id": 0}, {"id": 6, "category_id": 1}],
    }


def share_of_good_crops(mapper, dataset_dict, count=60):
    """Share of crops in which two classes are seen, and neither fills 0.75 or more of what is labelled."""
    good = 0
    for _ in range(count):
        sem_seg = mapper(dataset_dict)["sem_seg"]
        areas = np.array([(sem_seg == 0).sum(), (sem_seg == 1).sum()])
        good += bool((areas > 0).all() and areas.max() < 0.75 * areas.sum())
    return good / count


@pytest.mark.parametrize("name", ["mask_former_semantic", "mask_former_panoptic"])
def test_crops_in_which_one_category_fills_too_much_are_drawn_again(name, mapper_cfg, striped):
    options = (*CROP, "INPUT.MIN_SIZE_TRAIN", (16,), "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA")
    free = share_of_good_crops(build_dataset_mapper(mapper_cfg(name, *options, 1.0)), striped)
    limited = share_of_good_crops(build_dataset_mapper(mapper_cfg(name, *options, 0.75)), striped)
    # A crop is 16 columns wide. It is good when 5 to 11 of them are of class 1: 7 of its 49 positions, 0.14. Among ten
    # tries there is such a position with a probability of 1 - (42/49)^10 = 0.79.
    assert free < 0.3
    assert limited > 0.6


def test_the_largest_share_ignores_ignored_pixels(mapper_cfg, monkeypatch):
    cfg = mapper_cfg("mask_former_semantic", *CROP, "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.6)
    crop = resize_crop_flip(cfg, by_category=True)[1]
    # Any crop is the whole image. 12 of 16 pixels are ignored; of the others, two and two are of one class each.
    index_map = np.zeros((4, 4), dtype=np.uint8)
    index_map[0] = [1, 1, 2, 2]
    calls = []
    monkeypatch.setattr(np.random, "randint", lambda *limits: calls.append(limits) or 0)
    crop.get_transform(np.zeros((4, 4, 3), np.uint8), index_map)
    assert len(calls) == 2  # one try, two coordinates
    index_map[0] = [1, 1, 1, 2]  # 3 of 4 is more than 0.6
    crop.get_transform(np.zeros((4, 4, 3), np.uint8), index_map)
    assert len(calls) == 2 + 20  # ten tries more


def test_instance_crops_look_at_no_categories(mapper_cfg):
    cfg = mapper_cfg("mask_former_instance", *CROP, "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.5)
    assert type(resize_crop_flip(cfg, by_category=False)[1]) is T.RandomCrop


def test_ssd_colours_change_the_image_alone(mapper_cfg, record):
    record["annotations"] = [{"category_id": 0, "segmentation": [[0, 0, 4, 0, 4, 3, 0, 3]]}]
    plain = build_dataset_mapper(mapper_cfg("mask_former_instance"))(record)
    mapper = build_dataset_mapper(mapper_cfg("mask_former_instance", "INPUT.COLOR_AUG_SSD", True))
    random.seed(0)
    outputs = [mapper(record) for _ in range(6)]
    assert any(not torch.equal(output["image"], plain["image"]) for output in outputs)
    for output in outputs:
        assert output["image"].dtype == torch.uint8 and output["image"].shape == (3, 6, 8)
        assert torch.equal(output["instances"].gt_masks.bits, plain["instances"].gt_masks.bits)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_ssd_colours_know_the_order_of_channels(image_format, mapper_cfg):
    options = ("INPUT.COLOR_AUG_SSD", True, "INPUT.FORMAT", image_format)
    transform = resize_crop_flip(mapper_cfg("mask_former_instance", *options), by_category=False)[1]
    assert transform.is_rgb == (image_format == "RGB")


def test_an_unknown_flip_names_the_key(mapper_cfg):
    with pytest.raises(ValueError, match=r"INPUT\.RANDOM_FLIP.*diagonal"):
        build_dataset_mapper(mapper_cfg("coco_instance_lsj", "INPUT.RANDOM_FLIP", "diagonal"))


@pytest.mark.parametrize(
    ("shape", "padded"), [((5, 7), (8, 8)), ((8, 8), (8, 8)), ((9, 16), (16, 16)), ((1, 17), (8, 24))]
)
def test_padding_goes_to_the_next_multiple_on_the_right_and_below(shape, padded):
    image = np.full((*shape, 3), 7, dtype=np.uint8)
    augmented = IndexMapInput(image, sem_seg=np.full(shape, 300, dtype=np.uint16))
    PadToMultiple(8)(augmented)
    assert augmented.image.shape == (*padded, 3) and augmented.image.dtype == np.uint8
    assert augmented.sem_seg.shape == padded and augmented.sem_seg.dtype == np.uint16
    inside = np.zeros(padded, dtype=bool)
    inside[: shape[0], : shape[1]] = True
    assert (augmented.image[inside] == 7).all() and (augmented.image[~inside] == 128).all()
    assert (augmented.sem_seg[inside] == 300).all() and (augmented.sem_seg[~inside] == 0).all()


@pytest.mark.parametrize("scale", [0.25, 1.0, 2.0])
def test_large_scale_jittering_always_gives_the_square(scale, mapper_cfg):
    cfg = mapper_cfg("coco_instance_lsj", "INPUT.IMAGE_SIZE", 32, "INPUT.MIN_SCALE", scale, "INPUT.MAX_SCALE", scale)
    image = np.full((20, 40, 3), 50, dtype=np.uint8)
    augmented = IndexMapInput(image, sem_seg=np.ones((20, 40), dtype=np.uint8))
    T.AugmentationList(large_scale_jitter(cfg, by_category=False))(augmented)
    # 20×40 fits into the square times the scale: 4×8, 16×32, and 32×64 cut to 32×32.
    height, width = {0.25: (4, 8), 1.0: (16, 32), 2.0: (32, 32)}[scale]
    assert augmented.image.shape == (32, 32, 3)
    assert (augmented.image == 50).all(axis=2).sum() == height * width
    np.testing.assert_array_equal((augmented.image == 50).all(axis=2), augmented.sem_seg == 1)
    assert ((augmented.image == 128).all(axis=2) == (augmented.sem_seg == 0)).all()


def test_polygons_bitmaps_and_the_image_stay_aligned_under_jittering(mapper_cfg, record, png):
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[8:28, 12:44] = 255
    bitmap = image[..., 0] > 0
    record |= {"file_name": png("object.png", image), "height": 40, "width": 60}
    record["annotations"] = [
        {"category_id": 0, "segmentation": [[12, 8, 44, 8, 44, 28, 12, 28]]},
        {"category_id": 1, "segmentation": bitmap},
    ]
    options = (
        "INPUT.IMAGE_SIZE",
        64,
        "INPUT.MIN_SCALE",
        0.5,
        "INPUT.MAX_SCALE",
        2.0,
        "INPUT.RANDOM_FLIP",
        "horizontal",
    )
    mapper = build_dataset_mapper(mapper_cfg("coco_instance_lsj", *options))
    for _ in range(20):
        output = mapper(record)
        # At half size a row of pixels at the edge of the object, 8 of 16 × 10, may fall to either side.
        seen = output["image"][0] > 190
        for mask in output["instances"].gt_masks:
            union = (mask | seen).sum().item()
            assert (mask & seen).sum().item() / union > 0.85


def test_wide_index_maps_are_resized_as_bytes_are():
    narrow = np.random.randint(0, 200, (9, 13), dtype=np.uint8)
    resize = T.ResizeTransform(9, 13, 21, 17)
    wide = transform_index_map(resize, narrow.astype(np.uint16) * 300)
    np.testing.assert_array_equal(wide, transform_index_map(resize, narrow).astype(np.uint16) * 300)
