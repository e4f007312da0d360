"""Benchmark of multi-scale deformable attention: time, bandwidth, peak memory and error of every implementation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .memory import available, peak_growth
from .op_cases import OFFSETS, OpInputs, OpResults, OpSize, exact_results, largest_error, make_inputs
from .op_peers import COMPILED, REFERENCE, Implementation, find_implementations
from .reports import environment, markdown_table
from .timing import Clock, Preparation, Timing, clock_for, cpu_threads, time_in_turn

logger = logging.getLogger(__name__)

DEFAULT_SIZES = ("1024",)
SWEEP = ("512", "512x8", "1024", "1024x8", "2048", "2048x8", "1024q100", "1024x8q300")
QUICK_SIZES = ("256",)

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}
# Of an answer that is right: what rounding alone explains, with room.
ERROR_LIMITS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}

FORWARD, BACKWARD = "forward", "backward"


@dataclass(frozen=True)
class OpOptions:
    """What to measure.

    Attributes:
        sizes: of the inputs.
        dtypes: names in ``DTYPES``.
        offsets: names in ``OFFSETS``.
        device: where.
        threads: of the CPU.
        repeats: runs that count, of each implementation.
        seconds: for the runs of one row of sizes, dtypes, offsets and direction, after which three are enough.
    """

    sizes: Sequence[OpSize]
    dtypes: Sequence[str] = ("fp32", "bf16", "fp16")
    offsets: Sequence[str] = OFFSETS
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)
    threads: int = 1
    repeats: int = 15
    seconds: float = 30.0


@dataclass(frozen=True)
class OpRow:
    """One implementation's figures for one size, dtype, offsets and direction.

    Attributes:
        size, queries, dtype, offsets, direction, implementation: what was measured.
        runs: how many were timed.
        median_ms, lowest_ms, highest_ms: of them.
        ratio_to_reference: the reference's median over this one; above 1 is faster.
        bytes_moved: that must move at least, every operand once.
        bandwidth_gb_s: ``bytes_moved`` over the median, 10⁹ bytes a second.
        operand_bytes: inputs and output; for backward also the output's and the inputs' gradients.
        peak_bytes: inputs and all that was allocated beside them at the highest, of the forward; for backward, of
            forward and backward together with what is saved between them.
        peak_over_operands: ``peak_bytes`` over ``operand_bytes``.
        error: against the reference in float64, of the first image; see :func:`largest_error`.
        problem: why figures are missing, or what else is wrong.
    """

    size: str
    queries: int
    dtype: str
    offsets: str
    direction: str
    implementation: str
    runs: int = 0
    median_ms: float | None = None
    lowest_ms: float | None = None
    highest_ms: float | None = None
    ratio_to_reference: float | None = None
    bytes_moved: int = 0
    bandwidth_gb_s: float | None = None
    operand_bytes: int = 0
    peak_bytes: int | None = None
    peak_over_operands: float | None = None
    error: float | None = None
    problem: str = ""


def _forward(call: Callable[[OpInputs], Tensor], inputs: OpInputs) -> Preparation:
    @torch.no_grad()
    def run() -> Tensor:
        return call(inputs)

    return lambda: run


def _backward(call: Callable[[OpInputs], Tensor], inputs: OpInputs) -> Preparation:
    """Each run's graph is made before it: none is kept for longer than its run."""

    def prepare() -> Callable[[], object]:
        leaves = inputs.require_grad()
        output = call(leaves)
        return lambda: torch.autograd.grad(output, leaves.differentiable, leaves.grad_output)

    return prepare


def results_of(call: Callable[[OpInputs], Tensor], inputs: OpInputs) -> OpResults:
    """Output and gradients."""
    leaves = inputs.require_grad()
    output = call(leaves)
    return OpResults(output.detach(), torch.autograd.grad(output, leaves.differentiable, leaves.grad_output))


def errors(found: OpResults, exact: OpResults) -> dict[str, float]:
    """The errors of forward and backward."""
    return {
        FORWARD: largest_error([found.output], [exact.output]),
        BACKWARD: largest_error(found.gradients, exact.gradients),
    }


def _too_large(implementation: Implementation, size: OpSize, device: torch.device) -> str:
    """Why a composed implementation is not tried: it would take more memory than there is; empty if it would not."""
    free = available(device)
    needed = size.samples_bytes * (2 * len(size.levels) + 3)  # samples and weighted samples saved, gradients passing
    if not implementation.composed or free is None or needed < free:
        return ""
    return f"not run: needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"


class _Case:
    """All implementations on one size, dtype and offsets."""

    def __init__(self, size: OpSize, dtype: str, offsets: str, options: OpOptions) -> None:
        self.size, self.dtype, self.offsets, self.options = size, dtype, offsets, options
        self.inputs = make_inputs(size, offsets, DTYPES[dtype], options.device)
        self.problems: dict[str, str] = {}
        self.errors: dict[str, dict[str, float]] = {}

    def measure(self, implementations: Sequence[Implementation], clock: Clock) -> list[OpRow]:
        runnable = self._check(implementations)
        rows = []
        for direction, preparation_of in ((FORWARD, _forward), (BACKWARD, _backward)):
            preparations = {x.name: preparation_of(x.call, x.adapt(self.inputs)) for x in runnable}
            timings = time_in_turn(preparations, clock, repeats=self.options.repeats, seconds=self.options.seconds)
            rows += [self._row(implementation, direction, timings) for implementation in implementations]
        return rows

    def _row(self, implementation: Implementation, direction: str, timings: dict[str, Timing]) -> OpRow:
        inputs = implementation.adapt(self.inputs)
        forward_bytes = inputs.bytes_forward()
        row = OpRow(
            size=self.size.name,
            queries=inputs.locations.shape[1],
            dtype=self.dtype,
            offsets=self.offsets,
            direction=direction,
            implementation=implementation.name,
            bytes_moved=forward_bytes if direction == FORWARD else inputs.bytes_backward(),
            operand_bytes=forward_bytes if direction == FORWARD else 2 * forward_bytes,
            problem=self.problems.get(implementation.name, ""),
        )
        if implementation.name not in timings:
            return row
        timing = timings[implementation.name]
        reference = timings.get(REFERENCE)
        peak = self._peak_bytes(implementation, inputs, direction)
        error = self.errors[implementation.name][direction]
        return replace(
            row,
            runs=len(timing.seconds),
            median_ms=timing.median * 1e3,
            lowest_ms=min(timing.seconds) * 1e3,
            highest_ms=max(timing.seconds) * 1e3,
            ratio_to_reference=None if reference is None else reference.median / timing.median,
            bandwidth_gb_s=row.bytes_moved / timing.median / 1e9,
            peak_bytes=peak,
            peak_over_operands=None if peak is None else peak / row.operand_bytes,
            error=error if math.isfinite(error) else None,
            problem="" if math.isfinite(error) else "results are not finite",
        )

    def _check(self, implementations: Sequence[Implementation]) -> list[Implementation]:
        """Which implementations can be timed; notes errors of those, and problems of the others."""
        first = self.inputs.first_image()
        exact = exact_results(first)
        runnable = []
        for implementation in implementations:
            problem = _too_large(implementation, self.size, self.options.device)
            if not problem:
                try:
                    found = results_of(implementation.call, implementation.adapt(first))
                    if self.size.batch > 1:  # what fails for the whole batch alone must not end the benchmark, either
                        results_of(implementation.call, implementation.adapt(self.inputs))
                except Exception as error:  # whatever another package's code raises is its row's problem, not ours
                    problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if problem:
                self.problems[implementation.name] = problem
                continue
            self.errors[implementation.name] = errors(found, exact)
            runnable.append(implementation)
        return runnable

    def _peak_bytes(self, implementation: Implementation, inputs: OpInputs, direction: str) -> int | None:
        given = sum(x.nbytes for x in inputs.differentiable)
        if direction == FORWARD:
            run: Callable[[], object] = _forward(implementation.call, inputs)()
        else:
            given += inputs.grad_output.nbytes
            run = partial(results_of, implementation.call, inputs)
        growth = peak_growth(run, self.options.device)
        return None if growth is None else given + growth


def run_op_benchmark(options: OpOptions) -> dict[str, Any]:
    """Measure every implementation that is there.

    Returns:
        ``benchmark``, ``environment``, ``not_installed`` (why, by name) and ``results``, a list of :class:`OpRow` as
        dictionaries. All of it can be written as JSON.
    """
    with cpu_threads(options.threads):
        implementations, absent = find_implementations(options.device)
        clock = clock_for(options.device)
        rows: list[OpRow] = []
        for size in options.sizes:
            for dtype in options.dtypes:
                for offsets in options.offsets:
                    logger.info("size %s, %s, offsets as %s", size.name, dtype, offsets)
                    rows += _Case(size, dtype, offsets, options).measure(implementations, clock)
        return {
            "benchmark": "op",
            "environment": environment(options.device),
            "not_installed": absent,
            "results": [asdict(row) for row in rows],
        }


def failures(report: dict[str, Any]) -> list[str]:
    """What is wrong with the package's own implementations, in words: those that failed, and wrong answers."""
    found = []
    for row in report["results"]:
        if row["implementation"] not in (COMPILED, REFERENCE):
            continue
        where = f"{row['implementation']}, {row['direction']}, size {row['size']}, {row['dtype']}, {row['offsets']}"
        limit = ERROR_LIMITS[DTYPES[row["dtype"]]]
        if row["problem"] and not row["problem"].startswith("not run"):
            found.append(f"{where}: {row['problem']}")
        elif row["error"] is not None and row["error"] > limit:
            found.append(f"{where}: the error against float64 is {row['error']:.1e}, more than {limit:.0e}")
    return found


def _figures(row: dict[str, Any]) -> Iterable[str]:
    def show(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    yield f"{row['size']} ({row['queries']:,} queries)"
    yield from (row["dtype"], row["offsets"], row["direction"], row["implementation"])
    yield show(row["median_ms"], ".3f" if (row["median_ms"] or 0) < 10 else ".1f")
    yield show(row["ratio_to_reference"], ".2f")
    yield show(row["bandwidth_gb_s"], ".1f")
    yield show(None if row["peak_bytes"] is None else row["peak_bytes"] / 1e6, ".1f")
    yield show(row["peak_over_operands"], ".2f")
    yield row["problem"] or show(row["error"], ".1e")


def format_report(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    ran = report["environment"]
    header = ["size", "dtype", "offsets", "direction", "implementation", "median ms", "× reference", "GB/s"]
    header += ["peak MB", "peak / operands", "error"]
    lines = [
        f"{ran['device']}, {ran['threads']} threads, torch {ran['torch']}, {ran['date']}",
        "",
        markdown_table(header, [list(_figures(row)) for row in report["results"]]),
        "",
        *(f"not measured: {name} ({why})" for name, why in report["not_installed"].items()),
    ]
    return "\n".join(lines).rstrip() + "\n"
