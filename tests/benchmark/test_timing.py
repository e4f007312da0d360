import contextlib
import itertools

import pytest
import torch

from mask2former_ext.benchmark import timing
from mask2former_ext.benchmark.timing import Timing, clock_for, cpu_threads, host_clock, time_in_turn


def recorded(order, name):
    """A preparation that notes when it and its run are called."""

    def prepare():
        order.append(f"prepare {name}")
        return lambda: order.append(f"run {name}")

    return prepare


def counting_clock():
    """Runs the call; the first run took 1 second, the second 2, and so on."""
    seconds = itertools.count(1)

    def clock(call):
        call()
        return float(next(seconds))

    return clock


def test_alternatives_run_in_turn_and_warm_up_does_not_count():
    order = []
    alternatives = {"a": recorded(order, "a"), "b": recorded(order, "b")}
    timings = time_in_turn(alternatives, counting_clock(), repeats=2)
    assert order == ["prepare a", "run a", "prepare b", "run b"] * 3
    assert timings == {"a": Timing((3.0, 5.0)), "b": Timing((4.0, 6.0))}


def test_the_median_is_of_all_runs():
    assert Timing((9.0, 1.0, 2.0)).median == 2.0
    assert Timing((1.0, 2.0, 4.0, 9.0)).median == 3.0


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, 3), (1e9, 7)])
def test_time_limits_rounds_but_three_count(seconds, runs):
    timings = time_in_turn({"a": recorded([], "a")}, counting_clock(), repeats=7, seconds=seconds)
    assert len(timings["a"].seconds) == runs


def test_preparing_is_not_timed_and_running_is(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    def prepare():
        advance(10.0)
        return lambda: advance(0.5)

    assert time_in_turn({"a": prepare}, host_clock, repeats=1)["a"].seconds == (0.5,)


def test_the_cpu_is_timed_by_the_host():
    assert clock_for(torch.device("cpu")) is host_clock


def test_threads_are_set_and_set_back():
    assert torch.get_num_threads() == 1
    with pytest.raises(ZeroDivisionError), cpu_threads(2):
        assert torch.get_num_threads() == 2
        raise ZeroDivisionError
    assert torch.get_num_threads() == 1


def test_a_gpu_is_busy_before_the_clock_starts_and_the_host_waits_for_its_end(monkeypatch):
    order = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            self.number = len([entry for entry in order if entry == "event"])
            order.append("event")

        def record(self):
            order.append(f"record {self.number}")

        def synchronize(self):
            order.append(f"wait for {self.number}")

        def elapsed_time(self, end):
            assert (self.number, end.number) == (0, 1)
            return 250.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: order.append("sleep"))
    clock = timing.DeviceClock(torch.device("cpu"))
    assert clock(lambda: order.append("run")) == 0.25
    assert order == ["event", "event", "sleep", "record 0", "run", "record 1", "wait for 1"]
