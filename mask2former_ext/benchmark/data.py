"""Benchmark of the training mappers: images that one worker of the data loader prepares in a second."""

from __future__ import annotations

import itertools
import logging
import pickle
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper

from ..config import is_maskformer, load_config
from ..data import DATASET_MAPPERS, MaskFormerDatasetMapper, build_dataset_mapper
from ..data.reading import DatasetDict
from .data_files import make_dataset
from .reports import environment, markdown_table
from .timing import Preparation, Timing, cpu_threads, host_clock, time_in_turn

logger = logging.getLogger(__name__)

GENERATED = "generated"
GENERATED_OBJECTS = (8, 20)
GENERATED_CLASSES = 80

ANNOTATIONS, AUGMENT, TARGETS = "annotations", "augment", "targets"


@dataclass(frozen=True)
class DataOptions:
    """What to measure.

    Attributes:
        configs: paths of the configs whose training mappers run.
        opts: overrides for all of them, keys and values in turn.
        images: that one run maps.
        generated: take made-up files, even where the data set of a config is there.
        threads: of the CPU; Detectron2's workers have one.
        repeats: runs that count, of each mapper.
        seconds: for all runs, after which three are enough.
    """

    configs: Sequence[str]
    opts: Sequence[str] = ()
    images: int = 16
    generated: bool = False
    threads: int = 1
    repeats: int = 15
    seconds: float = 60.0


@dataclass(frozen=True)
class DataRow:
    """One config's figures, for one worker.

    Attributes:
        config, mapper, data: what was measured; ``data`` is the data set's name, or ``GENERATED``.
        images, runs: images in a run, and how many runs were timed.
        images_per_second: in the median run.
        slowest, fastest: images a second in the slowest and in the fastest run.
        ratio_to_first: ``images_per_second`` over that of the first config; above 1 is faster.
        annotations_ms: an image's time, as the others here a mean, for reading annotations and label images. None, as
            ``targets_ms``, for Detectron2's own mapper, where both are part of ``rest_ms``.
        augment_ms: for augmenting the image, and the label map that goes along.
        targets_ms: for augmenting the annotations and making masks and boxes of them.
        rest_ms: for everything else, decoding the image most of all.
        bytes_per_image: that travel to the trainer's process, through the pipe or in shared memory.
        objects: mean number in a mapped image.
    """

    config: str
    mapper: str
    data: str
    images: int
    runs: int
    images_per_second: float
    slowest: float
    fastest: float
    ratio_to_first: float
    annotations_ms: float | None
    augment_ms: float
    targets_ms: float | None
    rest_ms: float
    bytes_per_image: int
    objects: float


class _Stages:
    """Seconds that each run spends in named calls."""

    def __init__(self) -> None:
        self.runs: list[dict[str, float]] = []

    def next_run(self) -> None:
        self.runs.append(defaultdict(float))

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any) -> Any:
            start = time.perf_counter()
            result = call(*args)
            self.runs[-1][stage] += time.perf_counter() - start
            return result

        return measured


class _TimedTargets:
    """Stands in for a mapper's class of targets, and has its parts timed."""

    def __init__(self, targets: Any, stages: _Stages) -> None:
        self.SOURCE_KEYS = targets.SOURCE_KEYS
        self._read = stages.timed(ANNOTATIONS, targets.read)
        self._stages = stages

    def read(self, *args: Any) -> Any:
        targets = self._read(*args)
        targets.to_instances = self._stages.timed(TARGETS, targets.to_instances)
        return targets


class _Case:
    """One config with its mapper and dataset dicts."""

    def __init__(self, config: str, cfg: CfgNode, records: Sequence[DatasetDict], data: str) -> None:
        self.config, self.data = config, data
        self.mapper = _build_mapper(cfg)
        self.stages = _Stages()
        self.mapper.augmentations = self.stages.timed(AUGMENT, self.mapper.augmentations)
        keys: Sequence[str] = ("annotations",)
        if isinstance(self.mapper, MaskFormerDatasetMapper):
            keys = self.mapper.targets.SOURCE_KEYS
            self.mapper.targets = _TimedTargets(self.mapper.targets, self.stages)
        self.name = cfg.INPUT.DATASET_MAPPER_NAME if is_maskformer(cfg) else "Detectron2"
        # What a data set for this mapper does not have would be read for nothing.
        others = {key for recipe in DATASET_MAPPERS.values() for key in recipe.targets.SOURCE_KEYS}.difference(keys)
        self.records = [{key: value for key, value in record.items() if key not in others} for record in records]
        self._seeds = itertools.count()

    def prepare(self) -> Callable[[], list[DatasetDict]]:
        """A run over all images; each draws anew, but alike for every config."""
        seed = next(self._seeds)
        np.random.seed(seed)
        random.seed(seed)
        torch.manual_seed(seed)
        self.stages.next_run()
        return lambda: [self.mapper(record) for record in self.records]

    def row(self, timing: Timing, first: Timing) -> DataRow:
        """Figures from the timed runs, and from one more for what a clock does not tell."""
        images, runs = len(self.records), len(timing.seconds)
        timed = self.stages.runs[-runs:]
        stages = {
            stage: 1000 * statistics.mean(run[stage] for run in timed) / images
            for stage in (ANNOTATIONS, AUGMENT, TARGETS)
        }
        whole = isinstance(self.mapper, MaskFormerDatasetMapper)
        outputs = self.prepare()()
        return DataRow(
            config=self.config,
            mapper=self.name,
            data=self.data,
            images=images,
            runs=runs,
            images_per_second=images / timing.median,
            slowest=images / max(timing.seconds),
            fastest=images / min(timing.seconds),
            ratio_to_first=first.median / timing.median,
            annotations_ms=stages[ANNOTATIONS] if whole else None,
            augment_ms=stages[AUGMENT],
            targets_ms=stages[TARGETS] if whole else None,
            rest_ms=1000 * statistics.mean(timing.seconds) / images - sum(stages.values()),
            bytes_per_image=round(statistics.mean(len(pickle.dumps(output)) for output in outputs)),
            objects=statistics.mean(len(output["instances"]) for output in outputs),
        )


def run_data_benchmark(options: DataOptions) -> dict[str, Any]:
    """Time every config's training mapper on the first data set of its DATASETS.TRAIN.

    Where that data set is not on this machine, and for all configs when ``options.generated``, files like COCO's are
    made up, the same for all.

    Returns:
        ``benchmark``, ``environment`` and ``results``, a list of :class:`DataRow` as dictionaries. All of it can be
        written as JSON.

    Raises:
        FileNotFoundError: a config, or a file that a data set lists, does not exist.
        ValueError: a config or the data set's annotations cannot be used, or a config is named twice.
    """
    if len(set(options.configs)) < len(options.configs):
        raise ValueError(f"configs {' '.join(options.configs)}: name each once.")
    cfgs = {config: load_config(config, options.opts) for config in options.configs}
    with tempfile.TemporaryDirectory() as folder, cpu_threads(options.threads):
        made: list[DatasetDict] = []
        cases: dict[str, _Case] = {}
        for config, cfg in cfgs.items():
            records = [] if options.generated else _registered(cfg, options.images)
            data = cfg.DATASETS.TRAIN[0] if records else GENERATED
            if not records and not made:
                made = make_dataset(
                    Path(folder),
                    images=options.images,
                    objects=GENERATED_OBJECTS,
                    classes=_fewest_classes(cfgs.values()),
                )
            cases[config] = _Case(config, cfg, records or made, data)
        alternatives: dict[str, Preparation] = {config: case.prepare for config, case in cases.items()}
        logger.info("%d runs of %d images: %s", options.repeats, options.images, ", ".join(cases))
        timings = time_in_turn(alternatives, host_clock, repeats=options.repeats, seconds=options.seconds)
        first = timings[options.configs[0]]
        return {
            "benchmark": "data",
            "environment": environment(torch.device("cpu")),
            "results": [asdict(case.row(timings[config], first)) for config, case in cases.items()],
        }


def _build_mapper(cfg: CfgNode) -> Any:
    return build_dataset_mapper(cfg) if is_maskformer(cfg) else DatasetMapper(cfg, is_train=True)


def _registered(cfg: CfgNode, images: int) -> list[DatasetDict]:
    """Dataset dicts spread evenly over the config's first training set; none when it is not here."""
    names = cfg.DATASETS.TRAIN
    if not names:
        return []
    try:
        records = DatasetCatalog.get(names[0])
    except (KeyError, FileNotFoundError) as error:
        logger.warning("data set %s is not here (%s): files are made up instead", names[0], error)
        return []
    return records[:: max(1, len(records) // images)][:images]


def _fewest_classes(cfgs: Iterable[CfgNode]) -> int:
    """So many that every config has a class for each label."""
    return min((cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES for cfg in cfgs if is_maskformer(cfg)), default=GENERATED_CLASSES)


def _figures(row: dict[str, Any]) -> list[str]:
    stages = [row[f"{stage}_ms"] for stage in (ANNOTATIONS, AUGMENT, TARGETS, "rest")]
    return [
        row["config"],
        row["mapper"],
        row["data"],
        f"{row['objects']:.1f}",
        f"{row['images_per_second']:.1f}",
        f"{row['ratio_to_first']:.2f}",
        *("–" if stage is None else f"{stage:.1f}" for stage in stages),
        f"{row['bytes_per_image'] / 1e6:.2f}",
    ]


def format_report(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    ran, rows = report["environment"], report["results"]
    header = ["config", "mapper", "data", "objects", "images/s a worker", "× first", "annotations ms", "augment ms"]
    header += ["targets ms", "rest ms", "MB an image"]
    lines = [
        f"{ran['device']}, {ran['threads']} threads, torch {ran['torch']}, {ran['date']}",
        "",
        markdown_table(header, [_figures(row) for row in rows]),
    ]
    if any(row["data"] == GENERATED for row in rows):
        lines += ["", f"{GENERATED}: no data set, but photographs of 480×640 pixels and annotations that were made up"]
    return "\n".join(lines) + "\n"
