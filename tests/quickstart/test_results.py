import json

import pytest

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.engine.results import failed_expectations
from mask2former_ext.quickstart import ModelReport, format_table
from mask2former_ext.quickstart.results import read_training_log


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_last_evaluation_and_median_time_are_read(tmp_path):
    lines = [
        {"iteration": 19, "time": 0.5, "total_loss": 9.0},
        {"iteration": 20, "panoptic_seg/PQ": 10.0, "segm/AP": 1.0},
        {"iteration": 39, "time": 0.9, "total_loss": 8.0},
        {"iteration": 59, "time": 0.6, "total_loss": 7.0},
        {"iteration": 60, "panoptic_seg/PQ": 91.5, "panoptic_seg/PQ_th": 84.0, "segm/AP": 70.25, "segm/AP-coin": 70.25},
    ]
    results, seconds = read_training_log(write(tmp_path / "metrics.json", lines))
    assert results == {"panoptic_seg": {"PQ": 91.5, "PQ_th": 84.0}, "segm": {"AP": 70.25, "AP-coin": 70.25}}
    assert seconds == 0.6


def test_log_without_evaluation_is_refused(tmp_path):
    path = write(tmp_path / "metrics.json", [{"iteration": 19, "time": 0.5, "total_loss": 9.0}])
    with pytest.raises(ValueError, match=r"metrics\.json holds no evaluation"):
        read_training_log(path)


def test_table_has_a_row_a_model_and_dashes_for_tasks_that_it_does_not_do():
    every = {
        "panoptic_seg": {"PQ": 92.04, "PQ_th": 87.2},
        "segm": {"AP": 80.0, "AP50": 100.0},
        "sem_seg": {"mIoU": 97.5},
    }
    boxes_and_masks = {"bbox": {"AP": 70.0}, "segm": {"AP": 84.26, "AP50": float("nan")}}
    table = format_table(
        [
            ModelReport("Mask2Former", every, 0.512, 0.1, 12_345_678),
            ModelReport("Mask R-CNN", boxes_and_masks, 1.4, 0.25, 14_000_000),
        ]
    )
    heading, _, first, second = table.splitlines()
    assert heading.split("  ")[0] == "model"
    assert first.split() == ["Mask2Former", "92.0", "87.2", "80.0", "100.0", "97.5", "0.51", "0.10", "12.3", "M"]
    assert second.split() == ["Mask", "R-CNN", "–", "–", "84.3", "–", "–", "1.40", "0.25", "14.0", "M"]
    for column in ("PQ things", "segm AP", "AP50", "mIoU", "s / iteration", "s / image", "parameters"):
        assert column in heading


@pytest.mark.parametrize(("value", "missed"), [(100.0, False), (90.0, False), (89.9, True), (float("nan"), True)])
def test_bars_have_one_side(value, missed):
    cfg = get_cfg_defaults()
    cfg.DATASETS.TEST = ("coins_val",)
    cfg.TEST.EXPECTED_RESULTS = [["segm", "AP50", 100.0, 10.0]]
    assert bool(failed_expectations(cfg, {"segm": {"AP50": value}})) == missed
