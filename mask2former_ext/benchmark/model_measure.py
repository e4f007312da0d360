"""Time and peak memory of whole models, compared: what inference and training have in common."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from .memory import return_large_blocks_at_once
from .model_variants import OWN, Variant, build_subject
from .models import Subject, Work
from .stages import StageClock, StageMemory, synchronised_clock
from .timing import Preparation, Timing, cpu_threads, time_in_turn

logger = logging.getLogger(__name__)

# One run of a model's work.
Job = Callable[[], object]

# Of logits in float64, in proportion to the largest.
DIFFERENCE_LIMIT = 1e-3


@dataclass(frozen=True)
class Effort:
    """How to measure.

    Attributes:
        threads: of the CPU.
        repeats: runs that count, of each model.
        seconds: for the runs of all, after which three are enough.
        memory: whether to measure peak memory, each model in a process of its own.
    """

    threads: int = 1
    repeats: int = 5
    seconds: float = float("inf")
    memory: bool = True


@dataclass(frozen=True)
class ModelOptions:
    """What to measure.

    Attributes:
        configs: paths of configs, of MaskFormer or Detectron2's Mask R-CNN.
        work: what models do.
        peers: names in :data:`~mask2former_ext.benchmark.model_variants.PEERS` to measure beside each config.
        effort: how to measure.
    """

    configs: Sequence[str]
    work: Work
    peers: Sequence[str] = ()
    effort: Effort = Effort()


@dataclass(frozen=True)
class ModelRow:
    """One model's figures.

    Attributes:
        model, config, implementation: what was measured.
        task: what it did.
        runs: how many were timed.
        median_ms, lowest_ms, highest_ms: of them.
        stages_ms: the median of each stage; a stage inside another one is not counted in that.
        ratio_to_first: the first model's median over this one; above 1 is faster.
        times_own: this median over that of this package with the same config: so many times as fast is this package.
            None for torchvision's model.
        peak_bytes: at the highest, beyond what there was before the run, such as weights.
        stages_peak_bytes: the same while each stage ran.
        own_memory_share: the peak of this package with the same config over this one.
        difference: of the logits from those of this package, in float64 and in proportion to the largest.
        loss: of a training step.
        wrong: results that differ from those of this package, in words.
        problem: why memory is missing.
    """

    model: str
    config: str
    implementation: str
    task: str
    runs: int = 0
    median_ms: float | None = None
    lowest_ms: float | None = None
    highest_ms: float | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)
    ratio_to_first: float | None = None
    times_own: float | None = None
    peak_bytes: int | None = None
    stages_peak_bytes: dict[str, int] = field(default_factory=dict)
    own_memory_share: float | None = None
    difference: float | None = None
    loss: float | None = None
    wrong: tuple[str, ...] = ()
    problem: str = ""


def build_subjects(variants: Sequence[Variant], work: Work) -> tuple[dict[Variant, Subject], dict[str, str]]:
    """Build every model.

    Returns:
        Those that could be built, and of each other model why not: it is another package's, which is not installed or
        has no such model.

    Raises:
        FileNotFoundError, ValueError: a model of this package or of Detectron2 cannot be built.
    """
    found, absent = {}, {}
    for variant in variants:
        logger.info("building %s", variant.name)
        try:
            found[variant] = build_subject(variant, work)
        except (ImportError, ValueError) as error:
            if variant.implementation == OWN:
                raise
            absent[variant.name] = " ".join(str(error).split())
    return found, absent


def time_jobs(
    jobs: Mapping[Variant, tuple[Subject, Job]], effort: Effort
) -> dict[Variant, tuple[Timing, dict[str, float]]]:
    """Run all in turn; returns each one's timing and the median seconds of its stages.

    In every round random numbers start from the same seed for all.
    """
    clocks: dict[str, list[StageClock]] = {variant.name: [] for variant in jobs}
    alternatives = {
        variant.name: _preparation(subject, job, clocks[variant.name]) for variant, (subject, job) in jobs.items()
    }
    device = next(iter(jobs.values()))[0].work.device
    timings = time_in_turn(alternatives, synchronised_clock(device), repeats=effort.repeats, seconds=effort.seconds)
    found = {}
    for variant in jobs:
        timing = timings[variant.name]
        runs = [clock.seconds() for clock in clocks[variant.name][-len(timing.seconds) :]]
        stages = {name: statistics.median(run.get(name, 0.0) for run in runs) for run in runs for name in run}
        found[variant] = (timing, stages)
    return found


def _preparation(subject: Subject, job: Job, clocks: list[StageClock]) -> Preparation:
    def prepare() -> Job:
        torch.manual_seed(subject.work.seed + len(clocks))
        clocks.append(StageClock(subject.work.device))
        return lambda: _measured(subject, job, clocks[-1])

    return prepare


def _measured(subject: Subject, job: Job, meter: StageClock | StageMemory) -> object:
    with subject.stages.measured(meter):
        return job()


def peaks_in_own_process(
    variant: Variant, work: Work, make_job: Callable[[Subject], Job], threads: int
) -> dict[str, int]:
    """Peak memory of each stage, measured in a new process, which has the memory of no other model.

    Args:
        variant, work: what to build.
        make_job: what it runs; a function of a module, which another process can import.
        threads: of the CPU.

    Returns:
        Bytes by stage; empty where the system keeps no account.

    Raises:
        MemoryError: the process was killed.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_peaks_of_this_process, variant, work, make_job, threads).result()
        except BrokenProcessPool as error:
            raise MemoryError(f"{variant.name}: its process was killed while memory was measured") from error


def _peaks_of_this_process(*args: Any) -> dict[str, int]:
    try:
        return_large_blocks_at_once()
    except AttributeError:
        return {}
    return measure_peaks(*args)


def measure_peaks(variant: Variant, work: Work, make_job: Callable[[Subject], Job], threads: int) -> dict[str, int]:
    """As :func:`peaks_in_own_process`, in this one. Runs once before it measures."""
    with cpu_threads(threads):
        subject = build_subject(variant, work)
        job = make_job(subject)
        torch.manual_seed(work.seed)
        job()
        try:
            meter = StageMemory(work.device)
        except (OSError, AttributeError):
            return {}
        result = _measured(subject, job, meter)
        del result
        return meter.peaks


def exact_logits(subject: Subject) -> tuple[Tensor, Tensor] | None:
    """The predictions in float64; in float32 a mask logit near 0 may fall on either side, and attention with it."""
    subject.model.double()
    try:
        with torch.no_grad():
            return subject.logits()
    finally:
        subject.model.float()


def logit_difference(subject: Subject, expected: tuple[Tensor, Tensor] | None) -> float | None:
    """The largest difference from ``expected``, in proportion to the largest logit; None where there are no logits."""
    found = exact_logits(subject)
    if expected is None or found is None:
        return None
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(found, expected, strict=True))


def logit_differences(subjects: Mapping[Variant, Subject]) -> dict[Variant, float | None]:
    """Of the peers' logits from this package's, config by config.

    Args:
        subjects: of every config this package's model before its peers.
    """
    found: dict[Variant, float | None] = {}
    expected = None
    for variant, subject in subjects.items():
        if variant.implementation == OWN:
            expected = exact_logits(subject)
        else:
            found[variant] = logit_difference(subject, expected)
    return found


def timed_row(row: ModelRow, timing: Timing, stages: Mapping[str, float]) -> ModelRow:
    """``row`` with times, without ratios."""
    return replace(
        row,
        runs=len(timing.seconds),
        median_ms=1e3 * timing.median,
        lowest_ms=1e3 * min(timing.seconds),
        highest_ms=1e3 * max(timing.seconds),
        stages_ms={name: 1e3 * seconds for name, seconds in stages.items()},
    )


def with_memory(
    rows: Sequence[ModelRow], variants: Iterable[Variant], work: Work, make_job: Callable[[Subject], Job], threads: int
) -> list[ModelRow]:
    """``rows`` of these ``variants`` with peaks, without shares."""
    found = []
    for row, variant in zip(rows, variants, strict=True):
        logger.info("memory of %s: %s", row.model, row.task)
        try:
            peaks = peaks_in_own_process(variant, work, make_job, threads)
            row = replace(row, peak_bytes=max(peaks.values(), default=None), stages_peak_bytes=peaks)
        except MemoryError as error:
            row = replace(row, problem=str(error))
        found.append(row)
    return found


def with_ratios(rows: Sequence[ModelRow]) -> list[ModelRow]:
    """Rows of one task, compared with the first and with this package's of the same config."""
    own = {row.config: row for row in rows if row.implementation == OWN}
    first = rows[0].median_ms
    return [
        replace(
            row,
            ratio_to_first=_ratio(first, row.median_ms),
            times_own=_ratio(row.median_ms, own[row.config].median_ms) if row.config in own else None,
            own_memory_share=_ratio(own[row.config].peak_bytes, row.peak_bytes) if row.config in own else None,
        )
        for row in rows
    ]


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below
