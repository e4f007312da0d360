"""The best pair of thresholds on a grid, and what it gains on images that it was not chosen on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from ..evaluation.panoptic import quality_figures, quality_groups
from ..evaluation.panoptic_quality import PanopticCounts, average_quality
from .grid import FOLDS, PanopticGrid

FIGURES = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")


@dataclass(frozen=True)
class Thresholds:
    """Of the panoptic rule: MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD and .OVERLAP_THRESHOLD."""

    object_mask: float
    overlap: float

    def overrides(self) -> str:
        """As KEY VALUE, for a command line."""
        key = "MODEL.MASK_FORMER.TEST"
        return f"{key}.OBJECT_MASK_THRESHOLD {self.object_mask:g} {key}.OVERLAP_THRESHOLD {self.overlap:g}"


@dataclass(frozen=True)
class TuningResult:
    """What a grid says.

    Attributes:
        images: how many there are.
        own, best: the config's thresholds, and those with the highest PQ.
        own_figures, best_figures: PQ, SQ, RQ of both, and the same with ``_th`` and ``_st``, in percent.
        held_out_gain: what thresholds gain, in percent of PQ, where each half of the images has those that are best on
            the other half; None when there are no two halves to tell it from.
        object_thresholds, overlap_thresholds: T and O values.
        pq: float64 T×O, in percent.
    """

    images: int
    own: Thresholds
    best: Thresholds
    own_figures: dict[str, float]
    best_figures: dict[str, float]
    held_out_gain: float | None
    object_thresholds: list[float]
    overlap_thresholds: list[float]
    pq: np.ndarray

    @property
    def gain(self) -> float:
        return self.best_figures["PQ"] - self.own_figures["PQ"]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON has it: figures that are not defined, of no things, say, are None."""
        content = asdict(self) | {"gain": self.gain, "pq": self.pq.tolist(), "overrides": self.best.overrides()}
        for name in ("own_figures", "best_figures"):
            figures = getattr(self, name)
            content[name] = {key: value if math.isfinite(value) else None for key, value in figures.items()}
        return content


def choose_thresholds(grid: PanopticGrid, is_thing: np.ndarray, own: Thresholds) -> TuningResult:
    """Choose the thresholds with the highest PQ; of several, those nearest to the config's.

    Args:
        grid: with all images added; has the config's own thresholds among its values.
        is_thing: bool of shape (C,).
        own: the config's thresholds.

    Raises:
        ValueError: there is nothing in images or predictions that PQ could be computed from.
    """
    pq = _quality_of_cells(grid, range(FOLDS))
    if np.isnan(pq).any():
        raise ValueError(
            f"PQ is not defined: {sum(grid.images)} images, whose ground truth has no segments. Choose a dataset with "
            "annotations."
        )
    own_cell = grid.object_thresholds.index(own.object_mask), grid.overlap_thresholds.index(own.overlap)
    best_cell = _best_cell(pq, grid, own)

    def figures(cell: tuple[int, int]) -> dict[str, float]:
        return quality_figures(quality_groups(grid.counts(*cell), is_thing))

    return TuningResult(
        images=sum(grid.images),
        own=own,
        best=_thresholds_of(best_cell, grid),
        own_figures=figures(own_cell),
        best_figures=figures(best_cell),
        held_out_gain=_held_out_gain(grid, own, float(pq[own_cell])),
        object_thresholds=grid.object_thresholds,
        overlap_thresholds=grid.overlap_thresholds,
        pq=pq,
    )


def _quality_of_cells(grid: PanopticGrid, folds: range) -> np.ndarray:
    rows, columns = range(len(grid.object_thresholds)), range(len(grid.overlap_thresholds))
    return 100 * np.array([[average_quality(grid.counts(row, column, folds)).pq for column in columns] for row in rows])


def _best_cell(pq: np.ndarray, grid: PanopticGrid, own: Thresholds) -> tuple[int, int]:
    # sums of the same images in another order differ in the last digits
    best = np.argwhere(pq >= pq.max() - 1e-9)
    distance = [
        abs(grid.object_thresholds[row] - own.object_mask) + abs(grid.overlap_thresholds[column] - own.overlap)
        for row, column in best
    ]
    row, column = best[int(np.argmin(distance))]
    return int(row), int(column)


def _thresholds_of(cell: tuple[int, int], grid: PanopticGrid) -> Thresholds:
    return Thresholds(grid.object_thresholds[cell[0]], grid.overlap_thresholds[cell[1]])


def _held_out_gain(grid: PanopticGrid, own: Thresholds, own_pq: float) -> float | None:
    """Two-fold cross-validation; the halves' sums are put together before PQ, so it is of all images."""
    total = PanopticCounts.zeros(grid.counts(0, 0).tp.size)
    for chosen_on, applied_to in ((0, 1), (1, 0)):
        pq = _quality_of_cells(grid, range(chosen_on, chosen_on + 1))
        if not grid.images[chosen_on] or np.isnan(pq).any():
            return None
        cell = _best_cell(pq, grid, own)
        total += grid.counts(*cell, folds=range(applied_to, applied_to + 1))
    return 100 * average_quality(total).pq - own_pq


def format_result(result: TuningResult) -> str:
    """A table of the figures before and after, what is to be expected elsewhere, and the overrides to append."""
    rows = [
        [name, thresholds.object_mask, thresholds.overlap, *(f"{figures[key]:.3f}" for key in FIGURES)]
        for name, thresholds, figures in (
            ("the config's own", result.own, result.own_figures),
            ("the best", result.best, result.best_figures),
        )
    ]
    headers = ["thresholds", "object", "overlap", *FIGURES]
    table = tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True, stralign="right")
    lines = [
        f"{result.images} images, {result.pq.size} pairs of thresholds",
        "",
        table,
        "",
        f"Gain in PQ: {result.gain:+.3f}",
    ]
    if result.held_out_gain is None:
        lines.append("There are too few images to tell what other images would gain.")
    else:
        lines.append(
            f"Gain where each half of the images has the thresholds that are best on the other: "
            f"{result.held_out_gain:+.3f}"
        )
    if result.best == result.own:
        return "\n".join([*lines, "", "No thresholds of the grid are better than the config's own."])
    advice = "To use the best, append:"
    if result.held_out_gain is None or result.held_out_gain <= 0:
        advice = "That may be chance: other images need not gain by them. To use the best all the same, append:"
    return "\n".join([*lines, "", advice, result.best.overrides()])
