"""Boundary PQ and boundary mIoU: by hand, from files, of several workers; and the keys of TEST.BOUNDARY."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators, SemSegEvaluator
from PIL import Image

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.data.datasets import register_panoptic_dataset
from mask2former_ext.data.reading import id_to_rgb
from mask2former_ext.evaluation import PanopticEvaluator, boundary_semantic, build, build_evaluator, panoptic

NAME = "tiny_panoptic_with_boundaries"
SIZE = (100, 100)  # boundaries are 3 pixels wide
CATEGORIES = [{"id": 10, "name": "cat", "isthing": 1}, {"id": 50, "name": "tree", "isthing": 0}]
VOID, CAT, TREE = 255, 0, 1  # labels; segments have the ids 1 and 2


def labels(cat, void=None):
    """A cat, (rows, columns), in front of a tree that fills the image, except for a void rectangle."""
    label_map = np.full(SIZE, TREE)
    for box, label in ((cat, CAT), (void, VOID)):
        if box:
            label_map[slice(*box[0]), slice(*box[1])] = label
    return label_map


TRUTH = {1: labels(((20, 30), (40, 50))), 2: labels(((20, 30), (40, 50)), void=((20, 30), (50, 60)))}


@pytest.fixture
def dataset(tmp_path):
    """Two images, both with a cat of 10×10 pixels; void is to the right of the second one's."""
    annotations = []
    for image_id, label_map in TRUTH.items():
        ids = np.where(label_map == VOID, 0, label_map + 1)
        Image.fromarray(id_to_rgb(ids)).save(tmp_path / f"{image_id}.png")
        Image.fromarray(label_map.astype(np.uint8)).save(tmp_path / f"{image_id}_labels.png")
        segments = [
            {"id": label + 1, "category_id": category["id"], "area": int((label_map == label).sum()), "iscrowd": 0}
            for label, category in enumerate(CATEGORIES)
        ]
        annotations.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
    content = {"images": [{"id": i} for i in TRUTH], "annotations": annotations, "categories": CATEGORIES}
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    register_panoptic_dataset(
        NAME,
        image_root=str(tmp_path),
        panoptic_root=str(tmp_path),
        panoptic_json=str(tmp_path / "panoptic.json"),
        categories=CATEGORIES,
    )
    MetadataCatalog.get(NAME).set(ignore_label=VOID)
    DatasetCatalog.remove(NAME)
    records = [{"file_name": f"{i}.jpg", "sem_seg_file_name": str(tmp_path / f"{i}_labels.png")} for i in TRUTH]
    DatasetCatalog.register(NAME, lambda: records)
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def config(tmp_path, **settings):
    cfg = get_cfg_defaults()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = True
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.DATASETS.TEST = (NAME,)
    cfg.TEST.BOUNDARY.ENABLED = True
    cfg.merge_from_list([item for setting in settings.items() for item in setting])
    return cfg


def process(evaluator, predictions):
    """Predictions: image id → label map; every label is a segment."""
    for image_id, label_map in predictions.items():
        segments = [
            {"id": int(label) + 1, "category_id": int(label), "isthing": label == CAT} for label in np.unique(label_map)
        ]
        label_map = torch.from_numpy(label_map)
        scores = torch.nn.functional.one_hot(label_map, 2).permute(2, 0, 1).float()
        output = {"panoptic_seg": (label_map.int() + 1, segments), "sem_seg": scores}
        evaluator.process([{"image_id": image_id, "file_name": f"{image_id}.jpg"}], [output])


def evaluate(evaluator, predictions):
    evaluator.reset()
    process(evaluator, predictions)
    return evaluator.evaluate()


# what ground truth ignores is predicted as cat or tree, as models do
PERFECT = {1: TRUTH[1], 2: labels(((20, 30), (40, 55)))}
# the cat of the first image is a column too wide
WIDER = {1: labels(((20, 30), (40, 51))), 2: PERFECT[2]}


def test_perfect_predictions_whatever_they_say_of_void(dataset, tmp_path):
    results = evaluate(build_evaluator(config(tmp_path), NAME), PERFECT)
    for name in ("panoptic_seg", "boundary_panoptic_seg"):
        assert results[name] == dict.fromkeys(results[name], 100.0)
    assert results["boundary_panoptic_seg"].keys() == results["panoptic_seg"].keys()
    assert results["boundary_sem_seg"] == dict.fromkeys(("mIoU", "mIoU_min", "IoU-cat", "IoU-tree"), 100.0)


# 10×10 in 10×11: boundaries of 84 and 90 pixels, which share what is in neither interior
CAT_SHARED, CAT_UNION = 100 - 4 * 5, 84 + 90 - 80
# the tree: along the border of the image, and around the cat up to three pixels away
FRAME = 100 * 100 - 94 * 94
TREE_TRUE, TREE_FOUND = FRAME + 16 * 16 - 100, FRAME + 16 * 17 - 110
TREE_SHARED = FRAME + 16 * 16 - 110
TREE_UNION = TREE_TRUE + TREE_FOUND - TREE_SHARED


def test_panoptic_figures_by_hand(dataset):
    evaluator = PanopticEvaluator(NAME, boundary_dilation_ratio=0.02)
    results = evaluate(evaluator, WIDER)
    assert results["panoptic_seg"]["PQ_th"] == pytest.approx(100 * (100 / 110 + 1) / 2)
    figures = results["boundary_panoptic_seg"]
    assert figures["PQ_th"] == figures["SQ_th"] == pytest.approx(100 * (CAT_SHARED / CAT_UNION + 1) / 2)
    assert figures["PQ_st"] == pytest.approx(100 * (TREE_SHARED / TREE_UNION + 1) / 2)
    assert figures["RQ"] == 100


def test_boundary_iou_of_one_half_is_no_match(dataset):
    """One pixel more all around: mask IoU 100 / 144, Boundary IoU 64 / 128."""
    evaluator = PanopticEvaluator(NAME, boundary_dilation_ratio=0.02)
    results = evaluate(evaluator, PERFECT | {1: labels(((19, 31), (39, 51)))})
    assert results["panoptic_seg"]["RQ_th"] == 100
    assert results["boundary_panoptic_seg"]["RQ_th"] == pytest.approx(100 / (1 + 0.5 + 0.5))
    assert results["boundary_panoptic_seg"]["SQ_th"] == 100


def test_semantic_figures_by_hand(dataset, tmp_path):
    figures = evaluate(build_evaluator(config(tmp_path), NAME), WIDER)["boundary_sem_seg"]
    # the second image is right; the void there is 3 pixels and more away from the border of the image
    tree = FRAME + 16 * 26 - 200
    cat_iou, tree_iou = (CAT_SHARED + 84) / (CAT_UNION + 84), (TREE_SHARED + tree) / (TREE_UNION + tree)
    assert figures["IoU-cat"] == pytest.approx(100 * cat_iou)
    assert figures["IoU-tree"] == pytest.approx(100 * tree_iou)
    assert figures["mIoU"] == pytest.approx(50 * (cat_iou + tree_iou))
    assert figures["mIoU_min"] == pytest.approx(50 * (min(cat_iou, 200 / 210) + tree_iou))


def test_the_smaller_of_both_ious_by_class():
    overlaps = boundary_semantic.ClassOverlaps(*np.array([[8, 3], [10, 4], [5, 9], [10, 10], [7, 9]]))
    assert boundary_semantic.semantic_figures(overlaps) == pytest.approx({"mIoU": 77.5, "mIoU_min": 62.5})


def test_whole_masks_as_boundaries_give_the_plain_figures(dataset, tmp_path):
    results = evaluate(build_evaluator(config(tmp_path, **{"TEST.BOUNDARY.DILATION_RATIO": 1.0}), NAME), WIDER)
    assert results["boundary_panoptic_seg"] == pytest.approx(results["panoptic_seg"])
    assert results["boundary_sem_seg"]["mIoU"] == pytest.approx(results["sem_seg"]["mIoU"])
    assert results["boundary_sem_seg"]["IoU-cat"] == pytest.approx(results["sem_seg"]["IoU-cat"])


def test_a_class_that_the_truth_lacks_counts_as_zero(dataset, tmp_path):
    MetadataCatalog.get(NAME).stuff_classes.append("bird")
    prediction = torch.from_numpy(TRUTH[1].copy())
    prediction[:5, :5] = 2
    evaluator = boundary_semantic.BoundarySemSegEvaluator(NAME, dilation_ratio=0.02)
    evaluator.process([{"file_name": "1.jpg"}], [{"sem_seg": torch.nn.functional.one_hot(prediction).permute(2, 0, 1)}])
    figures = evaluator.evaluate()["boundary_sem_seg"]
    assert np.isnan(figures["IoU-bird"])
    assert figures["mIoU"] == pytest.approx((figures["IoU-cat"] + figures["IoU-tree"]) / 3)


@pytest.mark.parametrize("module", [panoptic, boundary_semantic])
def test_two_workers_merge_to_what_one_finds(dataset, tmp_path, monkeypatch, module):
    def build_one():
        if module is panoptic:
            return PanopticEvaluator(NAME, boundary_dilation_ratio=0.02)
        return boundary_semantic.BoundarySemSegEvaluator(NAME, dilation_ratio=0.02)

    alone = evaluate(build_one(), WIDER)
    gathered = []
    for image_id, label_map in WIDER.items():  # each worker has one image; gather hands its part over
        worker = build_one()
        process(worker, {image_id: label_map})
        with monkeypatch.context() as patch:
            patch.setattr(module.comm, "is_main_process", lambda: False)
            patch.setattr(module.comm, "gather", gathered.append)
            assert worker.evaluate() is None
    monkeypatch.setattr(module.comm, "gather", lambda own: gathered)
    assert build_one().evaluate() == alone


def test_bad_semantic_truth_is_named(dataset):
    evaluator = boundary_semantic.BoundarySemSegEvaluator(NAME, dilation_ratio=0.02)
    with pytest.raises(ValueError, match=r"1_labels\.png.*\(100, 100\).*\(50, 100\)"):
        process(evaluator, {1: TRUTH[1][:50]})
    Image.fromarray(np.full(SIZE, 9, np.uint8)).save(dataset / "1_labels.png")
    with pytest.raises(ValueError, match=r"1_labels\.png: labels \[9\] .* ignore_label, 255"):
        process(evaluator, {1: TRUTH[1]})


def test_off_by_default(dataset, tmp_path):
    cfg = config(tmp_path, **{"TEST.BOUNDARY.ENABLED": False})
    evaluator = build_evaluator(cfg, NAME)
    assert [type(part) for part in evaluator._evaluators] == [PanopticEvaluator, SemSegEvaluator]
    assert set(evaluate(evaluator, PERFECT)) == {"panoptic_seg", "sem_seg"}


def test_evaluators_with_boundaries(dataset, tmp_path):
    evaluator = build_evaluator(config(tmp_path), NAME)
    assert isinstance(evaluator, DatasetEvaluators)
    kinds = [type(part) for part in evaluator._evaluators]
    assert kinds == [PanopticEvaluator, SemSegEvaluator, boundary_semantic.BoundarySemSegEvaluator]


def test_evaluators_without_boundaries_are_warned_of(dataset, tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(build.EVALUATORS, "coco_panoptic_seg", build.EVALUATORS["cityscapes_panoptic_seg"])
    cfg = config(tmp_path, **{"MODEL.MASK_FORMER.TEST.INSTANCE_ON": True})
    with caplog.at_level(logging.WARNING, logger=build.__name__):
        build.evaluator_factories(cfg, NAME)
    assert f"no effect on the instance evaluation of dataset '{NAME}'" in caplog.text


@pytest.mark.parametrize("ratio", [0.0, -0.02, float("nan")])
def test_ratio_must_be_above_zero(dataset, tmp_path, ratio):
    with pytest.raises(ValueError, match=r"TEST\.BOUNDARY\.DILATION_RATIO is .* above 0"):
        build_evaluator(config(tmp_path, **{"TEST.BOUNDARY.DILATION_RATIO": ratio}), NAME)
