"""Models side by side on one dataset: everything that the report shows, before it is laid out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from ..benchmark.reports import environment
from ..config import load_config
from .charts import MAX_MODELS
from .costs import Costs, count_costs, device_of, measure_memory, time_models
from .curves import TrainingCurves, read_training_curves
from .evaluate import Candidate, Evaluation, ModelSpec, build_candidate, evaluate
from .regions import read_truth
from .scores import image_score

logger = logging.getLogger(__name__)

CURVED_METRICS = {"panoptic_seg": "PQ", "segm": "AP", "sem_seg": "mIoU"}
"""Task → the metric to follow over trainings."""


@dataclass(frozen=True)
class ModelResult:
    """One model of a comparison.

    Attributes:
        spec: the model, with the weights that were used.
        evaluation: on the dataset.
        costs: of an image of the dataset.
        training: curves, if there is a file of them.
    """

    spec: ModelSpec
    evaluation: Evaluation
    costs: Costs
    training: TrainingCurves | None


@dataclass(frozen=True)
class Comparison:
    """What the report shows.

    Attributes:
        dataset_name: that all were evaluated on.
        records: its dataset dicts.
        models: in the order in which they were named.
        kinds: of regions that all models look for and the dataset knows: those that images are scored by.
        scores: file name of an image → a score in percent for each model; empty where no kind is common to all.
        environment: date, device, versions.
        opts: overrides of all configs.
    """

    dataset_name: str
    records: list[dict[str, Any]]
    models: list[ModelResult]
    kinds: frozenset[str]
    scores: dict[str, list[float]]
    environment: dict[str, Any]
    opts: tuple[str, ...]


def compare(specs: Sequence[ModelSpec], dataset_name: str, opts: Sequence[str] = ()) -> Comparison:
    """Evaluate models one after another in this process, then time them in turn.

    Args:
        specs: the models, at least one, of different names.
        dataset_name: a registered dataset.
        opts: alternating config keys and values, for all configs.

    Raises:
        OSError, ValueError: a config, weights, or the dataset cannot be used; the message names the config.
    """
    _check_names(specs)
    for spec in specs:
        with _naming(spec):
            load_config(spec.config_file, opts)  # registers the datasets of the configs, one of which it may be
    records = _records(dataset_name)
    candidates, trainings = [], []
    for spec in specs:
        with _naming(spec):
            candidates.append(build_candidate(spec, dataset_name, opts))
            trainings.append(_training_curves(candidates[-1].spec, dataset_name))
    device = _common_device(candidates)
    evaluations = []
    for number, candidate in enumerate(candidates, start=1):
        where = f"{candidate.spec.name} ({number} of {len(candidates)})"
        logger.info("%s: evaluating on %s, images: %d", where, dataset_name, len(records))
        with _naming(candidate.spec):
            evaluations.append(evaluate(candidate, records))
    costs = _measure_costs(candidates, evaluations, opts)
    specs = [candidate.spec for candidate in candidates]
    models = [ModelResult(*of_model) for of_model in zip(specs, evaluations, costs, trainings, strict=True)]
    logger.info("scoring the images")
    kinds, scores = score_images(records, evaluations, MetadataCatalog.get(dataset_name).get("ignore_label"))
    return Comparison(dataset_name, records, models, kinds, scores, environment(device), tuple(opts))


def _check_names(specs: Sequence[ModelSpec]) -> None:
    names = [spec.name for spec in specs]
    if not 1 <= len(names) <= MAX_MODELS:
        raise ValueError(f"{len(names)} models cannot be compared, but 1 to {MAX_MODELS} at a time.")
    if len(set(names)) < len(names):
        raise ValueError(
            f"models need different names, but are called {', '.join(names)}. Give each a name of its own."
        )


def _records(dataset_name: str) -> list[dict[str, Any]]:
    """Dataset dicts, at least one."""
    if dataset_name not in DatasetCatalog.list():
        raise ValueError(
            f"dataset '{dataset_name}' is not registered; registered are: {', '.join(sorted(DatasetCatalog.list()))}"
        )
    records = DatasetCatalog.get(dataset_name)
    if not records:
        raise ValueError(f"dataset '{dataset_name}' has no images. Check the files that it was registered with.")
    return records


@contextmanager
def _naming(spec: ModelSpec) -> Iterator[None]:
    """Let errors that people can cause begin with the config that they are about."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"{spec.name} ({spec.config_file}): {error}") from error


def _common_device(candidates: Sequence[Candidate]) -> torch.device:
    devices = {device_of(candidate.model) for candidate in candidates}
    if len(devices) > 1:
        raise ValueError(
            f"the configs name different devices, {', '.join(sorted(map(str, devices)))}, so that times could not be "
            "compared. Append one for all: MODEL.DEVICE cpu"
        )
    return devices.pop()


def _measure_costs(
    candidates: Sequence[Candidate], evaluations: Sequence[Evaluation], opts: Sequence[str]
) -> list[Costs]:
    logger.info("timing %s in turn", " and ".join(candidate.spec.name for candidate in candidates))
    inputs = [evaluation.inputs for evaluation in evaluations]
    jobs = {c.spec.name: (c.model, images) for c, images in zip(candidates, inputs, strict=True)}
    seconds = time_models(jobs)
    costs = []
    for candidate, images in zip(candidates, inputs, strict=True):
        spec, (_, height, width) = candidate.spec, images[0]["image"].shape
        logger.info("%s: memory and multiply-adds", spec.name)
        peak = measure_memory(candidate.model, images)
        parameters, multiply_adds = count_costs(spec.config_file, opts, (height, width))
        costs.append(Costs(parameters, (height, width), multiply_adds, seconds[spec.name], peak))
    return costs


def _training_curves(spec: ModelSpec, dataset_name: str) -> TrainingCurves | None:
    beside = Path(spec.weights).parent / "metrics.json"
    if spec.metrics_file is None and not beside.is_file():
        return None
    return read_training_curves(spec.metrics_file or beside, dataset_name, CURVED_METRICS)


def score_images(
    records: Sequence[Mapping[str, Any]], evaluations: Sequence[Evaluation], ignore_label: int | None
) -> tuple[frozenset[str], dict[str, list[float]]]:
    """Score every image for every model, by what all of them look for.

    Args:
        records: dataset dicts.
        evaluations: of the models on these.
        ignore_label: of label images.

    Returns:
        The kinds of regions that counted, and file name → scores. Images without a truth have none.
    """
    common = frozenset.intersection(*(evaluation.kinds for evaluation in evaluations))
    scores: dict[str, list[float]] = {}
    counted: frozenset[str] = frozenset()
    for record in tqdm(records, desc="scores", unit=" images", disable=None):
        truth = read_truth(record, ignore_label)
        kinds = common & truth.kinds if truth is not None else frozenset()
        if truth is not None and kinds:
            name = record["file_name"]
            scores[name] = [image_score(truth, evaluation.found[name], kinds) for evaluation in evaluations]
            counted |= kinds
    return counted, scores
