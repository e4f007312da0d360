"""The thresholds of the panoptic rule that give the best PQ on a dataset, found without running the network again."""

from .grid import PanopticGrid
from .predictions import PRECISIONS, PredictionFolder, RawPrediction, predict
from .runner import tune_thresholds
from .selection import Thresholds, TuningResult, choose_thresholds, format_result

__all__ = [
    "PRECISIONS",
    "PanopticGrid",
    "PredictionFolder",
    "RawPrediction",
    "Thresholds",
    "TuningResult",
    "choose_thresholds",
    "format_result",
    "predict",
    "tune_thresholds",
]
