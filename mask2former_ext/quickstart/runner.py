"""One model of the demonstration from its config to its row of the table and its picture."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor

from ..config import load_config
from ..engine.results import failed_expectations
from .pictures import draw_result
from .results import ModelReport, read_training_log
from .training import train

logger = logging.getLogger(__name__)

_TIMED_RUNS = 5


@dataclass(frozen=True)
class Outcome:
    """What came of one model.

    Attributes:
        report: its row of the table.
        picture: the PNG with photograph, truth and result.
        failures: a sentence for each entry of ``TEST.EXPECTED_RESULTS`` that was missed.
    """

    report: ModelReport
    picture: Path
    failures: list[str]


def run_model(name: str, config_file: Path, script: Path, output_dir: Path, overrides: Sequence[str] = ()) -> Outcome:
    """Train a model, evaluate it, measure it, and draw what it finds on the first test image.

    Args:
        name: of the model, for people.
        config_file: its YAML config; the file's name also names the output.
        script: path of ``tools/train_net.py``.
        output_dir: gets a folder for the training and a picture.
        overrides: alternating config keys and values.

    Raises:
        ValueError, FileNotFoundError: the config or the test set cannot be read.
        RuntimeError: see :func:`train`.
    """
    training_dir = output_dir / config_file.stem
    cfg = load_config(str(config_file), [*overrides, "MODEL.WEIGHTS", str(training_dir / "model_final.pth")])
    dataset_name = cfg.DATASETS.TEST[0]
    record = DatasetCatalog.get(dataset_name)[0]
    logger.info("%s: %d iterations of %s", name, cfg.SOLVER.MAX_ITER, config_file)
    train(script, config_file, training_dir, overrides)
    results, seconds_per_iteration = read_training_log(training_dir / "metrics.json")

    predictor = DefaultPredictor(cfg)
    image = read_image(record["file_name"], format="BGR")
    picture = output_dir / f"{config_file.stem}.png"
    draw_result(record, predictor(image), dataset_name, name, picture)
    report = ModelReport(
        name=name,
        results=results,
        seconds_per_iteration=seconds_per_iteration,
        seconds_per_image=seconds_per_image(predictor, image),
        parameters=sum(parameter.numel() for parameter in predictor.model.parameters()),
    )
    return Outcome(report, picture, failed_expectations(cfg, results))


def seconds_per_image(predictor: DefaultPredictor, image: np.ndarray) -> float:
    """Median seconds that a predictor, which has run before, takes for an image (uint8 H x W x 3)."""
    seconds = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        predictor(image)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
