"""Stages: what is counted where, of time and of memory."""

import time
from types import SimpleNamespace

import pytest
import torch

from mask2former_ext.benchmark.stages import REST, StageClock, StageMemory, Stages, synchronised_clock

CPU = torch.device("cpu")


class Borders:
    def __init__(self):
        self.seen = []

    def border(self, stage):
        self.seen.append(stage)


def run(stages):
    with stages.stage("outer"), stages.stage("inner"):
        pass
    with stages.stage("other"):
        pass


def test_every_border_is_told_and_inner_stages_return_to_outer_ones():
    stages, borders = Stages(), Borders()
    with stages.measured(borders):
        run(stages)
    assert borders.seen == [REST, "outer", "inner", "outer", REST, "other", REST, REST]
    run(stages)  # nobody measures any more
    assert len(borders.seen) == 8


def test_a_stage_that_fails_ends_too():
    stages, borders = Stages(), Borders()
    with pytest.raises(KeyError), stages.measured(borders), stages.stage("outer"):
        raise KeyError
    assert borders.seen == [REST, "outer", REST, REST]


def test_instrumented_methods_are_stages_and_return_what_they_did():
    stages, borders = Stages(), Borders()
    owner = SimpleNamespace(double=lambda x, plus=0: 2 * x + plus)
    stages.instrument(owner, "double", "doubling")
    with stages.measured(borders):
        assert owner.double(3, plus=1) == 7
    assert borders.seen == [REST, "doubling", REST, REST]


def test_time_of_an_inner_stage_is_not_the_outer_ones():
    stages, clock = Stages(), StageClock(CPU)

    def work():
        with stages.measured(clock), stages.stage("outer"):
            time.sleep(0.02)
            with stages.stage("inner"):
                time.sleep(0.05)
            time.sleep(0.02)

    whole = synchronised_clock(CPU)(work)
    seconds = clock.seconds()
    assert 0.04 <= seconds["outer"] < seconds["inner"] + 0.04 and seconds["inner"] >= 0.05
    assert sum(seconds.values()) == pytest.approx(whole, abs=0.01)
    assert set(seconds) == {REST, "outer", "inner"}


def test_each_stage_has_its_own_peak(monkeypatch):
    class Memory:
        """Gives peaks one after the other."""

        restarts = 0

        def __init__(self, device):
            self.growths = iter([0, 40, 160, 90, 70, 30])

        def growth(self):
            return next(self.growths)

        def restart(self):
            Memory.restarts += 1

    monkeypatch.setattr("mask2former_ext.benchmark.stages.PeakMemory", Memory)
    stages, meter = Stages(), StageMemory(CPU)
    with stages.measured(meter), stages.stage("outer"), stages.stage("inner"):
        pass
    # rest until measuring starts and until outer starts, outer, inner, outer again, rest
    assert meter.peaks == {REST: 40, "outer": 160, "inner": 90}
    assert Memory.restarts == 6
