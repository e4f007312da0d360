"""One model of a comparison: from its config and weights to results, curves and what it found on each image."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset
from torch import nn
from tqdm import tqdm

from ..classes import listed_names
from ..config import is_maskformer, load_config
from ..engine import Trainer, check_datasets, check_device, for_this_machine
from ..predictor import load_trained_model
from .costs import TIMED_IMAGES, Inputs
from .curves import Points, keep_precision
from .regions import Region, RegionKeeper

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, float]]
"""Task → metric → value, as the evaluators return them."""


@dataclass(frozen=True)
class ModelSpec:
    """A model to compare.

    Attributes:
        name: for people.
        config_file: a YAML config.
        weights: a checkpoint; if empty, ``MODEL.WEIGHTS`` of the config.
        metrics_file: the training's ``metrics.json``; None for the one beside the weights, if there is one.
    """

    name: str
    config_file: str
    weights: str = ""
    metrics_file: Path | None = None


@dataclass(frozen=True)
class Candidate:
    """A model that is ready to be evaluated.

    Attributes:
        spec: with the weights that were loaded.
        cfg: its config, for the dataset of the comparison.
        model: in evaluation mode, with averaged weights where the config wants these.
    """

    spec: ModelSpec
    cfg: CfgNode
    model: nn.Module


@dataclass(frozen=True)
class Evaluation:
    """What came of a model on a dataset.

    Attributes:
        results: of the evaluators.
        precision: task → name of the curve → (recall, precision).
        found: file name of an image → regions that the model found there.
        kinds: of regions that the model looks for.
        inputs: the first images as the network gets them.
    """

    results: Results
    precision: dict[str, dict[str, Points]]
    found: dict[str, list[Region]]
    kinds: frozenset[str]
    inputs: Inputs


def build_candidate(spec: ModelSpec, dataset_name: str, opts: Sequence[str] = ()) -> Candidate:
    """Read a model's config, with boundary metrics on, and load its weights.

    Args:
        spec: of the model.
        dataset_name: a registered dataset that it will be evaluated on.
        opts: alternating config keys and values.

    Raises:
        OSError, ValueError: config or weights cannot be used, or the model does not fit the dataset.
    """
    cfg = load_config(spec.config_file, opts)
    cfg.DATASETS.TEST = (dataset_name,)
    cfg.TEST.BOUNDARY.ENABLED = True
    weights = spec.weights or cfg.MODEL.WEIGHTS
    if not weights:
        raise ValueError("there are no weights: name a checkpoint, or set MODEL.WEIGHTS in the config.")
    check_device(cfg)
    check_datasets(cfg)
    _check_classes(cfg, dataset_name)
    cfg.MODEL.WEIGHTS = weights
    cfg = for_this_machine(cfg)
    return Candidate(replace(spec, weights=weights), cfg, load_trained_model(cfg))


def _check_classes(cfg: CfgNode, dataset_name: str) -> None:
    """Raise ValueError where the model has other labels than the evaluators will look up."""
    metadata = MetadataCatalog.get(dataset_name)
    if is_maskformer(cfg):
        key, num_classes = "MODEL.SEM_SEG_HEAD.NUM_CLASSES", cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        names = listed_names(metadata, of_things=not metadata.evaluator_type.endswith(("panoptic_seg", "sem_seg")))
    elif cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        key, num_classes = "MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES
        names = listed_names(metadata, of_things=True)
    else:
        return
    if names and len(names) != num_classes:
        raise ValueError(
            f"{key} is {num_classes}, but the labels of dataset '{dataset_name}' are those of {len(names)} classes. "
            "The model must have been trained on the dataset's classes."
        )


def evaluate(candidate: Candidate, records: Sequence[dict[str, Any]]) -> Evaluation:
    """Evaluate a model on the dataset of its config.

    What evaluators write beside their results goes to a temporary folder. A bar shows the progress on a terminal.

    Args:
        candidate: the model.
        records: dataset dicts of the dataset.

    Raises:
        OSError, ValueError: the evaluators cannot be built, or do not understand what the model returns.
    """
    cfg, model = candidate.cfg, candidate.model
    (dataset_name,) = cfg.DATASETS.TEST
    keeper = RegionKeeper(records, kept_inputs=TIMED_IMAGES)
    precision: dict[str, dict[str, Points]] = {}

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        evaluator = Trainer.build_evaluator(cfg, dataset_name, folder)
        keep_precision(evaluator, precision)
        loader = Trainer.build_test_loader(cfg, dataset_name)
        bar = tqdm(loader, desc=candidate.spec.name, unit=" images", disable=None)
        results = inference_on_dataset(model, bar, DatasetEvaluators([evaluator, keeper]))
    figures = {
        task: {metric: float(value) for metric, value in metrics.items()}
        for task, metrics in results.items()
        if metrics
    }
    return Evaluation(figures, precision, keeper.found, keeper.kinds, keeper.inputs)
