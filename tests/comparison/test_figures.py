"""Rows of the table, and figures of classes."""

import math

import pytest

from mask2former_ext.comparison.costs import Costs
from mask2former_ext.comparison.figures import ClassFigures, class_figures, figure_groups, most_different

STILL = (0, 0, 0, 0)


@pytest.fixture
def pair(make_comparison, made_up):
    """Two models of different tasks."""
    everything = {
        "panoptic_seg": {"PQ": 50.0, "SQ": 80.0, "PQ_th": 40.0},
        "segm": {"AP": 30.04, "AP50": 52.0, "APs": math.nan, "AP-car": 61.0, "AP-dog": 20.0},
        "sem_seg": {"mIoU": 70.0, "IoU-road": 90.0, "IoU-sky": math.nan, "ACC-road": 95.0},
        "keypoints": {"AP": 12.0, "odd": math.nan},
    }
    masks = {"segm": {"AP": 29.96, "AP50": 55.5, "APs": math.nan, "AP-car": 41.0, "AP-bird": 3.0}, "bbox": {"AP": 33.0}}
    first = made_up("First", STILL, everything)
    return make_comparison(first, made_up("Second", STILL, masks, costs=Costs(8_000_000, (8, 8), 900, 0.215, None)))


def rows_of(comparison):
    return {group.title: {row.label: row for row in group.rows} for group in figure_groups(comparison)}


def test_tasks_come_in_order_and_unknown_ones_follow(pair):
    titles = [group.title for group in figure_groups(pair)]
    known = ["Instance masks", "Boxes", "Panoptic segmentation", "Semantic segmentation"]
    assert titles == [*known, "keypoints", "Costs"]


def test_rows_leave_out_classes_and_what_nobody_has(pair):
    rows = rows_of(pair)
    assert list(rows["Instance masks"]) == ["AP", "AP at IoU 0.50"]
    assert list(rows["Semantic segmentation"]) == ["mIoU"]
    assert list(rows["keypoints"]) == ["AP"]


def test_the_better_is_marked_by_what_is_shown(pair):
    rows = rows_of(pair)
    shown = rows["Instance masks"]["AP at IoU 0.50"]
    assert (shown.cells, shown.best, shown.difference) == (["52.0", "55.5"], [False, True], "+3.5")
    alike = rows["Instance masks"]["AP"]
    assert (alike.cells, alike.best, alike.difference) == (["30.0", "30.0"], [False, False], "−0.1")
    alone = rows["Panoptic segmentation"]["PQ"]
    assert (alone.cells, alone.best, alone.difference) == (["50.0", "–"], [False, False], "")


def test_costs_are_better_when_lower(pair):
    costs = rows_of(pair)["Costs"]
    assert costs["parameters"].cells == ["16.13 M", "8.00 M"]
    assert costs["parameters"].best == [False, True]
    assert costs["parameters"].difference == "× 0.50"
    assert costs["multiply-adds of an image"].cells == ["3.33 G", "900"]
    assert costs["seconds per image"].cells == ["0.107", "0.215"]
    assert costs["seconds per image"].best == [True, False]
    memory = costs["peak memory of an image, without weights"]
    assert (memory.cells, memory.best, memory.difference) == (["25 MiB", "–"], [False, False], "")


def test_small_seconds_and_large_memory(make_comparison, made_up):
    model = made_up("One", STILL, {}, costs=Costs(1, (1, 1), 1, 0.00123, 3 * 2**30))
    costs = rows_of(make_comparison(model))["Costs"]
    assert costs["seconds per image"].cells == ["0.0012"]
    assert costs["peak memory of an image, without weights"].cells == ["3.00 GiB"]
    assert costs["parameters"].best == [False]


def test_figures_of_classes(pair):
    instance, semantic = class_figures(pair, ["car", "dog", "bird"])
    assert (instance.title, instance.metric) == ("Instance masks", "AP")
    assert instance.values == {"car": [61.0, 41.0], "dog": [20.0, None], "bird": [None, 3.0]}
    assert semantic.values == {"road": [90.0, None]}


def test_the_only_class_has_the_ap_of_all(make_comparison, made_up):
    comparison = make_comparison(made_up("One", STILL, {"segm": {"AP": 42.0}, "bbox": {"AP": 1.0}}))
    (figures,) = class_figures(comparison, ["coin"])
    assert figures.values == {"coin": [42.0]}


def test_of_many_classes_those_that_differ_most():
    values = {"a": [50.0, 51.0], "b": [10.0, 30.0], "c": [90.0, None], "d": [80.0, 70.0]}
    chosen = most_different(ClassFigures("segm", "AP", "", values), 2)
    assert list(chosen.values) == ["d", "b"]
    assert list(most_different(ClassFigures("segm", "AP", "", values), 9).values) == ["c", "d", "a", "b"]
