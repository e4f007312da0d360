"""Time and memory of the stages of a model, which follow one another and may lie inside one another.

A stage's figures are its own: what an inner stage takes is not counted in the outer one too.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from .memory import PeakMemory
from .timing import Clock, host_clock

DATA, BACKBONE, PIXEL_DECODER, DECODER = "data", "backbone", "pixel decoder", "decoder"
PROPOSALS, HEADS = "proposals", "box and mask heads"  # of Mask R-CNN
MATCHING, LOSS, BACKWARD, OPTIMIZER = "matching", "loss", "backward", "optimizer"
POSTPROCESSING = "post-processing"
REST = "rest"
# As reports order them.
STAGES = (
    *(DATA, BACKBONE, PIXEL_DECODER, DECODER, PROPOSALS, HEADS),
    *(MATCHING, LOSS, BACKWARD, OPTIMIZER, POSTPROCESSING, REST),
)


class Meter(Protocol):
    """Measures from border to border."""

    def border(self, stage: str) -> None:
        """The stage before ends here, and ``stage`` begins."""


class Stages:
    """Knows in which stage a model is, and tells a meter of every border."""

    def __init__(self) -> None:
        self._stack = [REST]
        self._meter: Meter | None = None

    @contextmanager
    def measured(self, meter: Meter) -> Iterator[None]:
        """Tell ``meter``, from a first border to a last one."""
        self._stack, self._meter = [REST], meter
        meter.border(REST)
        try:
            yield
        finally:
            self._meter = None
            meter.border(REST)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs inside belongs to the stage ``name``, except for stages inside of it."""
        self._stack.append(name)
        self._report()
        try:
            yield
        finally:
            self._stack.pop()
            self._report()

    def instrument(self, owner: Any, method: str, name: str) -> None:
        """Make every call of ``owner``'s ``method`` a stage ``name``, for good."""
        inner = getattr(owner, method)

        @functools.wraps(inner)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return inner(*args, **kwargs)

        setattr(owner, method, call)

    def _report(self) -> None:
        if self._meter is not None:
            self._meter.border(self._stack[-1])


class StageClock:
    """Seconds of each stage of one run.

    On a GPU borders are events of its current stream, which nothing waits for: what the device does for a stage counts,
    and for how long it stands still meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._borders: list[tuple[str, Any]] = []

    def border(self, stage: str) -> None:
        if self._device.type != "cuda":
            self._borders.append((stage, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._borders.append((stage, event))

    def seconds(self) -> dict[str, float]:
        """By stage; waits for the device."""
        taken: dict[str, float] = defaultdict(float)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        for (stage, start), (_, end) in zip(self._borders, self._borders[1:]):
            taken[stage] += start.elapsed_time(end) / 1000 if self._device.type == "cuda" else end - start
        return dict(taken)


class StageMemory:
    """Peak memory of each stage of one run, in bytes beyond what there was before the run.

    Attributes:
        peaks: by stage.
    """

    def __init__(self, device: torch.device) -> None:
        """Raises as :class:`PeakMemory` does where the system keeps no account."""
        self.peaks: dict[str, int] = {}
        self._stage = REST
        self._memory = PeakMemory(device)

    def border(self, stage: str) -> None:
        self.peaks[self._stage] = max(self.peaks.get(self._stage, 0), self._memory.growth())
        self._memory.restart()
        self._stage = stage


def synchronised_clock(device: torch.device) -> Clock:
    """A clock that starts and ends with an idle device.

    Other than :class:`~mask2former_ext.benchmark.timing.DeviceClock` it counts the host's time too: a model waits for
    its host here and there.
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def clock(call: Callable[[], object]) -> float:
        def call_and_wait() -> object:
            result = call()
            wait()
            return result

        wait()
        return host_clock(call_and_wait)

    return clock
