"""Time of alternatives, measured in turn in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

# Prepares one run, which is not timed, and returns what is. The result of the timed call is dropped after the clock
# has stopped.
Preparation = Callable[[], Callable[[], object]]

# Runs what it is given once, and returns how long that took, in seconds.
Clock = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class Timing:
    """Seconds that each run took, in the order of the runs."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def host_clock(call: Callable[[], object]) -> float:
    """The wall clock; for work on the CPU, which is done when the call returns."""
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    del result
    return seconds


class DeviceClock:
    """Events on a GPU's current stream: time of the device alone, with a cold cache.

    Before each run the device is kept busy: by overwriting more memory than its cache holds, so that no alternative
    finds its operands there, and by waiting for long enough that the host has submitted all work of the run before its
    first part starts. So a launch's time on the host is no part of the measurement.
    """

    CACHE_BYTES = 256 * 2**20
    WAIT_CYCLES = 10_000_000  # about 5 ms

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.current_stream(device)
        self.flushed = torch.empty(self.CACHE_BYTES, dtype=torch.uint8, device=device)

    def __call__(self, call: Callable[[], object]) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        with torch.cuda.stream(self.stream):
            self.flushed.zero_()
            torch.cuda._sleep(self.WAIT_CYCLES)
            start.record()
            result = call()
            end.record()
        end.synchronize()
        del result
        return start.elapsed_time(end) / 1000


def clock_for(device: torch.device) -> Clock:
    """The clock for work on ``device``."""
    return DeviceClock(device) if device.type == "cuda" else host_clock


def time_in_turn(
    alternatives: Mapping[str, Preparation],
    clock: Clock,
    *,
    repeats: int,
    seconds: float = float("inf"),
) -> dict[str, Timing]:
    """Run every alternative once a round, so that whatever else the machine does meets them all alike.

    The first round does not count, and comes on top.

    Args:
        alternatives: what to time, by name.
        clock: from :func:`clock_for`.
        repeats: rounds that count.
        seconds: begin no further round when the rounds have taken so long; three rounds count in any case.

    Returns:
        The timings by name, all of equally many runs.
    """
    taken: dict[str, list[float]] = {name: [] for name in alternatives}
    start = time.perf_counter()
    for counted in range(-1, repeats):
        if counted >= 3 and time.perf_counter() - start > seconds:
            break
        for name, prepare in alternatives.items():
            duration = clock(prepare())
            if counted >= 0:
                taken[name].append(duration)
    return {name: Timing(tuple(durations)) for name, durations in taken.items()}


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Let PyTorch use so many CPU threads, then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
