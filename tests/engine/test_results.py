"""Expectations on results, and their summary."""

from __future__ import annotations

import logging

import pytest

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.engine import summary_line, verify_expected_results
from mask2former_ext.engine.results import failed_expectations

RESULTS = {"panoptic_seg": {"PQ": 51.94, "PQ_th": 57.7}, "segm": {"AP": 41.7, "APl": float("nan")}}


def config(*expected, datasets=("val",)):
    cfg = get_cfg_defaults()
    cfg.DATASETS.TEST = datasets
    cfg.TEST.EXPECTED_RESULTS = [list(entry) for entry in expected]
    return cfg


@pytest.mark.parametrize("expected", [52.0, 51.5, 52.4])
def test_tolerance_is_to_both_sides(expected):
    assert failed_expectations(config(("panoptic_seg", "PQ", expected, 0.5)), RESULTS) == []


@pytest.mark.parametrize(
    ("entry", "failure"),
    [
        (("panoptic_seg", "PQ", 52.6, 0.5), "val: panoptic_seg/PQ should be 52.6 ± 0.5, but is 51.9400"),
        (("panoptic_seg", "PQ", 51.4, 0.5), "val: panoptic_seg/PQ should be 51.4 ± 0.5, but is 51.9400"),
        (("segm", "APl", 50, 100), "val: segm/APl should be 50 ± 100, but is nan"),
        (
            ("sem_seg", "mIoU", 50, 1),
            "val: sem_seg/mIoU should be 50 ± 1, but was not evaluated "
            "(there are: panoptic_seg/PQ, panoptic_seg/PQ_th, segm/AP, segm/APl)",
        ),
    ],
)
def test_what_fails_is_said(entry, failure):
    assert failed_expectations(config(("segm", "AP", 41.7, 0), entry), RESULTS) == [failure]


def test_each_dataset_must_meet_the_expectations():
    cfg = config(("segm", "AP", 41, 1), datasets=("val", "test"))
    assert failed_expectations(cfg, {"val": RESULTS, "test": RESULTS}) == []
    failures = failed_expectations(cfg, {"val": RESULTS, "test": {"segm": {"AP": 30.0}}})
    assert failures == ["test: segm/AP should be 41 ± 1, but is 30.0000"]


def test_failure_ends_the_process(caplog):
    with pytest.raises(SystemExit) as exit_, caplog.at_level(logging.ERROR):
        verify_expected_results(config(("segm", "AP", 60, 1)), RESULTS)
    assert exit_.value.code == 1
    assert "val: segm/AP should be 60 ± 1" in caplog.text


def test_without_expectations_anything_passes():
    verify_expected_results(config(), {})


def test_no_results_fail_expectations():
    assert failed_expectations(config(("segm", "AP", 60, 1)), {}) == [
        "val: segm/AP should be 60 ± 1, but was not evaluated (there are: no results)"
    ]


def test_summary():
    assert summary_line(config(), RESULTS) == "val: panoptic_seg PQ 51.94, panoptic_seg PQ_th 57.70, segm AP 41.70"
    two = config(datasets=("val", "test"))
    assert summary_line(two, {"val": {"sem_seg": {"mIoU": 50}}}) == "val: sem_seg mIoU 50.00; test: no results"


def test_figures_with_test_time_augmentation_have_names_of_their_own():
    assert summary_line(config(), {"sem_seg": {"mIoU": 50}, "sem_seg_TTA": {"mIoU": 51}}) == (
        "val: sem_seg mIoU 50.00, sem_seg_TTA mIoU 51.00"
    )
    two = config(("sem_seg_TTA", "mIoU", 51, 0.1), datasets=("val", "test"))
    both = {"sem_seg": {"mIoU": 51}}
    results = {"val": both, "test": both, "val_TTA": both, "test_TTA": {"sem_seg": {"mIoU": 52}}}
    assert failed_expectations(two, results) == ["test: sem_seg_TTA/mIoU should be 51 ± 0.1, but is 52.0000"]
    assert summary_line(two, results).startswith("val: sem_seg mIoU 51.00, sem_seg_TTA mIoU 51.00; test: ")


def test_figures_of_the_average_belong_to_their_dataset():
    """As of one dataset, where they are beside the others."""
    figures = {"sem_seg": {"mIoU": 51}}
    results = {f"{name}{suffix}": figures for name in ("val", "test") for suffix in ("", "_EMA", "_TTA_EMA")}
    two = config(("sem_seg_EMA", "mIoU", 51, 0.1), ("sem_seg_TTA_EMA", "mIoU", 51, 0.1), datasets=("val", "test"))
    assert failed_expectations(two, results) == []
    for cfg, given in ((two, results), (config(), {f"sem_seg{suffix}": {"mIoU": 51} for suffix in ("", "_EMA")})):
        assert summary_line(cfg, given).startswith("val: sem_seg mIoU 51.00, sem_seg_EMA mIoU 51.00")
