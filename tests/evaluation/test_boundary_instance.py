"""Boundary AP: by hand on two images, and equal to mask AP where boundaries are whole masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as rle_masks

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.evaluation import build_evaluator

NAME = "tiny_instances_with_boundaries"
SIZE = (100, 100)
TRUE, DILATED = ((20, 30), (40, 50)), ((19, 31), (39, 51))


def rectangle(rows, columns):
    mask = np.zeros(SIZE, dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def encode(mask):
    rle = rle_masks.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@pytest.fixture
def dataset(tmp_path):
    """A function that registers a dataset from (image id, category id, mask, is crowd), with categories 7 and 9."""

    def register(annotations, things=None):
        content = {
            "info": {},
            "images": [{"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 100} for i in (1, 2, 3)],
            "annotations": [
                {
                    "id": number,
                    "image_id": image_id,
                    "category_id": category,
                    "iscrowd": int(crowd),
                    "segmentation": encode(mask),
                    "area": int(mask.sum()),
                    "bbox": rle_masks.toBbox(encode(mask)).tolist(),
                }
                for number, (image_id, category, mask, crowd) in enumerate(annotations, start=1)
            ],
            "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        }
        (tmp_path / "instances.json").write_text(json.dumps(content))
        DatasetCatalog.register(NAME, list)
        MetadataCatalog.get(NAME).set(
            evaluator_type="coco",
            json_file=str(tmp_path / "instances.json"),
            thing_classes=["cat", "dog"],
            thing_dataset_id_to_contiguous_id=things or {7: 0, 9: 1},
        )

    yield register
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def evaluator(tmp_path, architecture="MaskFormer", ratio=0.02, **settings):
    cfg = get_cfg_defaults()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = True
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.TEST = (NAME,)
    cfg.TEST.BOUNDARY.ENABLED = True
    cfg.TEST.BOUNDARY.DILATION_RATIO = ratio
    cfg.merge_from_list([item for setting in settings.items() for item in setting])
    return build_evaluator(cfg, NAME)


def evaluate(evaluator, predictions, *limits):
    """Predictions: image id → list of (label, score, mask); ``limits``: ids of the images that count."""
    evaluator.reset()
    for image_id, found in predictions.items():
        masks = torch.from_numpy(np.stack([mask for _, _, mask in found])) if found else torch.zeros(0, *SIZE)
        instances = Instances(
            SIZE,
            pred_masks=masks.bool(),
            pred_boxes=Boxes(torch.zeros(len(found), 4)),
            scores=torch.tensor([score for _, score, _ in found]),
            pred_classes=torch.tensor([label for label, _, _ in found], dtype=torch.int64),
        )
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate(*limits)


TWO_IMAGES = [(1, 7, rectangle(*TRUE), False), (2, 7, rectangle(*TRUE), False)]


@pytest.mark.parametrize("architecture", ["MaskFormer", "GeneralizedRCNN"])
def test_two_images_by_hand(dataset, tmp_path, architecture):
    """A perfect detection, and a less confident one with mask IoU 100 / 144 and Boundary IoU 64 / 128."""
    dataset(TWO_IMAGES)
    results = evaluate(
        evaluator(tmp_path, architecture), {1: [(0, 0.9, rectangle(*TRUE))], 2: [(0, 0.8, rectangle(*DILATED))], 3: []}
    )
    half = 51 / 101  # precision 1 up to recall 0.5, of 101 points
    assert results["segm"]["AP"] == pytest.approx(100 * (4 + 6 * half) / 10)
    figures = results["boundary_segm"]
    assert figures.keys() == results["segm"].keys()
    assert figures["AP50"] == pytest.approx(100)
    assert figures["AP75"] == pytest.approx(100 * half)
    assert figures["AP"] == figures["APs"] == figures["AP-cat"] == pytest.approx(100 * (1 + 9 * half) / 10)
    assert np.isnan([figures["APm"], figures["APl"], figures["AP-dog"]]).all()


def test_identical_predictions_are_perfect(dataset, tmp_path):
    big = rectangle((2, 98), (0, 100))
    dataset([*TWO_IMAGES, (3, 9, big, False)])
    figures = evaluate(
        evaluator(tmp_path), {1: [(0, 0.9, rectangle(*TRUE))], 2: [(0, 0.8, rectangle(*TRUE))], 3: [(1, 0.3, big)]}
    )["boundary_segm"]
    measured = {name: value for name, value in figures.items() if name != "APm"}  # nothing is of medium size
    assert measured == pytest.approx(dict.fromkeys(measured, 100.0))


def test_mask_iou_counts_where_it_is_the_smaller(dataset, tmp_path):
    """A hole takes 42² of 60² pixels, and adds 48² - 42² to a boundary of 60² - 54²."""
    whole, hole = rectangle((20, 80), (20, 80)), rectangle((29, 71), (29, 71))
    assert (60**2 - 42**2) / 60**2 < 0.55 < (60**2 - 54**2) / (60**2 - 54**2 + 48**2 - 42**2)
    dataset([(1, 7, whole, False)])
    results = evaluate(evaluator(tmp_path), {1: [(0, 0.9, whole & ~hole)]})
    assert results["boundary_segm"]["AP"] == results["segm"]["AP"] == pytest.approx(10)


def test_contiguous_ids_that_do_not_count_from_zero(dataset, tmp_path):
    """Another evaluator, which numbers the labels anew."""
    dataset(TWO_IMAGES, things={7: 5, 9: 2})
    found = {1: [(5, 0.9, rectangle(*TRUE)), (0, 0.9, rectangle(*TRUE))], 2: [(5, 0.8, rectangle(*TRUE))]}
    assert evaluate(evaluator(tmp_path), found)["boundary_segm"]["AP"] == pytest.approx(100)


def random_scene(generator):
    """Rectangles of two categories in three images, one in six a crowd; detections shifted by some pixels."""
    annotations, predictions = [], {1: [], 2: [], 3: []}
    for image_id in (1, 2, 3):
        for _ in range(8):
            top, left = generator.integers(0, 60, 2)
            height, width = generator.integers(5, 40, 2)
            category, crowd = generator.choice([7, 9]), generator.random() < 1 / 6
            annotations.append((image_id, int(category), rectangle((top, top + height), (left, left + width)), crowd))
            for _ in range(generator.integers(0, 3)):
                y, x = np.maximum([top, left] + generator.integers(-3, 4, 2), 0)
                mask = rectangle((y, y + height), (x, x + width))
                predictions[image_id].append((int(category == 9), float(generator.random()), mask))
    return annotations, predictions


def test_boundaries_as_wide_as_masks_give_mask_ap(dataset, tmp_path):
    annotations, predictions = random_scene(np.random.default_rng(5))
    dataset(annotations)
    whole = evaluate(evaluator(tmp_path, ratio=1.0), predictions)
    assert 20 < whole["segm"]["AP"] < 90
    assert whole["boundary_segm"] == pytest.approx(whole["segm"], nan_ok=True)
    narrow = evaluate(evaluator(tmp_path, ratio=0.02), predictions)
    assert narrow["segm"] == pytest.approx(whole["segm"], nan_ok=True)
    assert narrow["boundary_segm"]["AP"] < narrow["segm"]["AP"] - 5


def test_a_detection_on_a_crowd_is_ignored_as_far_as_its_boundary_is_the_crowds(dataset, tmp_path):
    crowd = rectangle((0, 8), (0, 60))  # of which rows 3 and 4 are interior
    inside, on_the_contour = rectangle((2, 6), (20, 26)), rectangle((0, 3), (20, 40))
    dataset([*TWO_IMAGES, (1, 7, crowd, True)])
    perfect = {1: [(0, 0.5, rectangle(*TRUE))], 2: [(0, 0.4, rectangle(*TRUE))]}
    found = perfect | {1: [*perfect[1], (0, 0.9, on_the_contour)]}
    assert evaluate(evaluator(tmp_path), found)["boundary_segm"]["AP"] == pytest.approx(100)
    # 12 of the boundary's 24 pixels are the crowd's: ignored at IoU 0.5 alone
    found = perfect | {1: [*perfect[1], (0, 0.9, inside)]}
    results = evaluate(evaluator(tmp_path), found)
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["boundary_segm"]["AP50"] == pytest.approx(100)
    assert results["boundary_segm"]["AP75"] == pytest.approx(100 * 2 / 3)


def test_some_of_the_images(dataset, tmp_path):
    dataset(TWO_IMAGES)
    results = evaluate(evaluator(tmp_path), {1: [(0, 0.9, rectangle(*TRUE))], 2: []}, [1])
    assert results["boundary_segm"]["AP"] == results["segm"]["AP"] == pytest.approx(100)


def test_no_detections(dataset, tmp_path):
    dataset(TWO_IMAGES)
    figures = evaluate(evaluator(tmp_path), {1: [], 2: []})["boundary_segm"]
    assert set(figures) == {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    assert np.isnan(list(figures.values())).all()


def test_a_model_without_masks_has_no_boundaries(dataset, tmp_path):
    dataset(TWO_IMAGES)
    without = evaluator(tmp_path, "GeneralizedRCNN", **{"MODEL.MASK_ON": False})
    assert set(evaluate(without, {1: [(0, 0.9, rectangle(*TRUE))]})) == {"bbox"}
