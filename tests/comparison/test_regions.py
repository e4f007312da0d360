"""What is read of annotations, and what is taken of a model's outputs."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from PIL import Image

from mask2former_ext.comparison.regions import (
    STUFF,
    THINGS,
    Region,
    RegionKeeper,
    encode,
    found_regions,
    read_truth,
    region_name,
)

SIZE = (6, 8)


def block(top, left, height=2, width=3):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def described(regions):
    return [(region.category, region.kind, int(coco_mask.area(region.rle))) for region in regions]


def test_panoptic_truth_has_crowds_and_void_apart(tmp_path):
    ids = np.zeros(SIZE, np.uint8)
    ids[block(0, 0)], ids[block(0, 4)], ids[4:] = 1, 2, 3
    Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=2)).save(tmp_path / "ids.png")
    segments = [
        {"id": 1, "category_id": 5, "isthing": True},
        {"id": 2, "category_id": 5, "isthing": True, "iscrowd": 1},
        {"id": 3, "category_id": 9, "isthing": False},
    ]
    record = {"file_name": "photo.png", "pan_seg_file_name": str(tmp_path / "ids.png"), "segments_info": segments}
    truth = read_truth(record, None)
    assert described(truth.regions) == [(5, THINGS, 6), (9, STUFF, 16)]
    assert (truth.regions[0].mask() == block(0, 0)).all()
    assert (coco_mask.decode(truth.ignored).astype(bool) == ~(block(0, 0) | (ids == 3))).all()
    assert truth.kinds == {THINGS, STUFF}


def test_instance_truth_reads_every_form_of_mask():
    rle = encode(block(4, 0))
    annotations = [
        {"category_id": 0, "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]]},
        {"category_id": 1, "segmentation": {**rle, "counts": rle["counts"].decode()}},
        {"category_id": 0, "segmentation": block(0, 5).astype(np.uint8)},
        {"category_id": 1, "segmentation": block(4, 5).astype(np.uint8), "iscrowd": 1},
    ]
    truth = read_truth({"file_name": "a.png", "height": 6, "width": 8, "annotations": annotations}, None)
    assert described(truth.regions) == [(0, THINGS, 6), (1, THINGS, 6), (0, THINGS, 6)]
    assert (coco_mask.decode(truth.ignored) == block(4, 5)).all()
    assert truth.kinds == {THINGS}
    with pytest.raises(ValueError, match=r"image a\.png: segmentation is a NoneType"):
        read_truth({"file_name": "a.png", "height": 6, "width": 8, "annotations": [{"category_id": 0}]}, None)


def test_semantic_truth_ignores_its_label(tmp_path):
    labels = np.full(SIZE, 255, np.uint8)
    labels[block(0, 0)], labels[block(3, 3)] = 0, 7
    Image.fromarray(labels).save(tmp_path / "labels.png")
    truth = read_truth({"file_name": "a.png", "sem_seg_file_name": str(tmp_path / "labels.png")}, 255)
    assert described(truth.regions) == [(0, STUFF, 6), (7, STUFF, 6)]
    assert int(coco_mask.area(truth.ignored)) == 48 - 12
    assert read_truth({"file_name": "a.png"}, 255) is None


@pytest.fixture
def output():
    """A model's output that has all three forms."""
    masks = torch.from_numpy(np.stack([block(0, 0), block(0, 4)]))
    instances = Instances(SIZE, pred_masks=masks, scores=torch.tensor([0.5, 0.49]), pred_classes=torch.tensor([3, 3]))
    panoptic = torch.from_numpy(np.where(block(0, 0), 1, 2).astype(np.int32))
    segments = [{"id": 1, "category_id": 0, "isthing": True}, {"id": 2, "category_id": 4, "isthing": False}]
    sem_seg = torch.stack([panoptic == 1, panoptic == 2]).float()
    return {"instances": instances, "panoptic_seg": (panoptic, segments), "sem_seg": sem_seg}


@pytest.mark.parametrize(
    ("form", "outputs", "expected", "kinds"),
    [
        ("panoptic", ("panoptic_seg", "instances", "sem_seg"), [(0, THINGS, 6), (4, STUFF, 42)], {THINGS, STUFF}),
        ("panoptic", ("instances",), [(3, THINGS, 6)], {THINGS}),
        ("instances", ("panoptic_seg", "instances"), [(3, THINGS, 6)], {THINGS}),
        ("semantic", ("panoptic_seg", "instances", "sem_seg"), [(0, STUFF, 6), (1, STUFF, 42)], {STUFF}),
        ("instances", ("sem_seg",), [], set()),
    ],
)
def test_the_output_that_suits_the_truth_is_taken(output, form, outputs, expected, kinds):
    regions, looked_for = found_regions({key: output[key] for key in outputs}, form)
    assert described(regions) == expected
    assert looked_for == kinds


def test_boxes_alone_and_labels_without_segments_are_no_regions(output):
    boxes = Instances(SIZE, scores=torch.tensor([0.9]), pred_classes=torch.tensor([0]))
    assert found_regions({"instances": boxes}, "instances") == ([], frozenset())
    assert found_regions({"panoptic_seg": (output["panoptic_seg"][0], None)}, "panoptic") == ([], frozenset())


def test_keeper_keeps_regions_of_all_images_and_some_inputs(output):
    records = [{"file_name": str(k), "annotations": []} for k in range(3)]
    keeper = RegionKeeper(records, kept_inputs=2)
    for record in records:
        keeper.process([record], [{"instances": output["instances"]}])
    assert described(keeper.found["2"]) == [(3, THINGS, 6)]
    assert [input_["file_name"] for input_ in keeper.inputs] == ["0", "1"]
    assert keeper.kinds == {THINGS}
    assert keeper.evaluate() is None
    keeper.reset()
    assert keeper.found == {} and keeper.inputs == []


def test_names_of_classes():
    metadata = Metadata(thing_classes=["car"], stuff_classes=["car", "sky"])
    named = [Region.of(block(0, 0), category, kind) for category, kind in ((0, THINGS), (1, STUFF), (7, THINGS))]
    assert [region_name(region, metadata) for region in named] == ["car", "sky", "class 7"]


def test_things_that_their_list_numbers_anew_have_the_names_of_their_labels():
    """As ADE20K's panoptic classes."""
    metadata = MetadataCatalog.get("ade20k_panoptic_val")
    named = [Region.of(block(0, 0), label, THINGS) for label in (7, 149, 150)]
    assert [region_name(region, metadata) for region in named] == ["bed", "flag", "class 150"]
