"""Curves from COCO's evaluation and from the log of a training."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators

from mask2former_ext.comparison.curves import keep_precision, precision_recall, read_training_curves

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def coco_eval(precision):
    """A COCOeval that has accumulated: thresholds × 3 recalls × classes, in the first range and last limit."""
    full = np.full((10, 3, precision.shape[2], 4, 3), 0.123)
    full[:, :, :, 0, 2] = precision
    params = SimpleNamespace(iouThrs=THRESHOLDS, recThrs=np.array([0.0, 0.5, 1.0]))
    return SimpleNamespace(eval={"precision": full}, params=params)


def test_mean_over_classes_that_occur():
    precision = np.zeros((10, 3, 3))
    precision[0] = [[1.0, 0.5, -1], [0.8, 0.4, -1], [0.6, 0.2, -1]]
    precision[5] = [[0.4, 0.2, -1], [0.2, 0.0, -1], [0.0, 0.0, -1]]
    precision[:, :, 2] = -1
    curves = precision_recall(coco_eval(precision))
    expected = {
        "IoU 0.50": [(0.0, 0.75), (0.5, 0.6), (1.0, 0.4)],
        "IoU 0.75": [(0.0, 0.3), (0.5, 0.1), (1.0, 0.0)],
        "mean of IoU 0.50 to 0.95": [(0.0, 0.105), (0.5, 0.07), (1.0, 0.04)],
    }
    assert list(curves) == list(expected)
    for name, points in expected.items():
        np.testing.assert_allclose(curves[name], points)
    assert precision_recall(coco_eval(np.full((10, 3, 2), -1.0))) == {}


def test_coco_evaluators_keep_their_curves_and_results_stay():
    evaluator = COCOEvaluator.__new__(COCOEvaluator)
    evaluator._derive_coco_results = lambda coco_eval, iou_type, class_names=None: {"AP": iou_type, "of": class_names}
    kept = {}
    keep_precision(DatasetEvaluators([DatasetEvaluator(), evaluator]), kept)
    precision = np.ones((10, 3, 1))
    assert evaluator._derive_coco_results(coco_eval(precision), "segm", class_names=["a"]) == {
        "AP": "segm",
        "of": ["a"],
    }
    assert evaluator._derive_coco_results(None, "bbox") == {"AP": "bbox", "of": None}
    assert list(kept) == ["segm"]
    assert kept["segm"]["IoU 0.75"] == [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0)]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_training_curves(tmp_path):
    lines = [
        {"iteration": 39, "total_loss": 7.0, "segm/AP": 3.0},
        {"iteration": 19, "total_loss": 9.0, "data_time": 1.0},
        {"iteration": 39, "total_loss": 6.0, "other/segm/AP": 99.0},  # after a resumption
        {"iteration": 59, "total_loss": float("nan"), "coins_val/segm/AP": 5.0, "panoptic_seg/PQ": float("nan")},
        {"total_loss": 1.0},
    ]
    curves = read_training_curves(write(tmp_path / "m.json", lines), "coins_val", {"segm": "AP", "panoptic_seg": "PQ"})
    assert curves.loss == [(19, 9.0), (39, 6.0)]
    assert curves.metrics == {("segm", "AP"): [(39, 3.0), (59, 5.0)]}


def test_a_broken_log_is_named(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1}\n{"iterat\n')
    with pytest.raises(ValueError, match=r"metrics\.json, line 2 is not JSON"):
        read_training_curves(path, "coins_val", {})
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"metrics\.json, line 1 is no JSON object"):
        read_training_curves(path, "coins_val", {})


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1, "total_loss": 2.5}\n{"iteration": 2, "total_l')
    assert read_training_curves(path, "coins_val", {}).loss == [(1, 2.5)]
    path.write_text("")
    assert read_training_curves(path, "coins_val", {}).loss == []
