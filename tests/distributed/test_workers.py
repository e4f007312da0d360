"""Two processes with two images each are one process with four; what one of them suffers, all do."""

from __future__ import annotations

import time

import pytest
import torch
from worker_processes import start


@pytest.fixture(scope="module")
def results(workplace):
    """Of one process and of two, by their number."""
    for processes in (1, 2):
        running = start(workplace, "train+evaluate", processes)
        for process in running:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
    return {number: torch.load(workplace / f"results_{number}.pth", weights_only=False) for number in (1, 2)}


def test_losses_are_the_same(results):
    one, two = (results[number]["train"]["losses"] for number in (1, 2))
    assert len(one) == len(two) == 5
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_weights_are_the_same(results):
    one, two = (results[number]["train"]["weights"] for number in (1, 2))
    assert one.keys() == two.keys()
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-5, atol=1e-5, msg=name)


def test_some_process_had_no_masks_while_another_had(results):
    """Otherwise the tests above would not tell what such a process does to the others."""
    masks = results[2]["train"]["masks"]
    assert any(min(counts) == 0 < max(counts) for counts in masks)
    assert [sum(counts) for counts in masks] == [sum(counts) for counts in results[1]["train"]["masks"]]


def test_figures_are_exactly_the_same(results):
    """Seven images: four for one process, three for the other."""
    one, two = (results[number]["evaluate"] for number in (1, 2))
    # NaN, for sizes that no instance has, is equal to itself here
    assert str(one) == str(two)
    for task, metric in (("panoptic_seg", "PQ"), ("segm", "AP"), ("sem_seg", "mIoU")):
        assert 5 < one[task][metric] < 95, (task, metric)


@pytest.mark.parametrize(("how", "said"), [("raising", "this worker died"), ("killed", "")])
def test_a_worker_that_dies_ends_the_others_with_an_error(start_workers, how, said):
    first, second = start_workers(how, 2)
    output, _ = second.communicate(timeout=120)
    died = time.monotonic()
    assert second.returncode != 0 and said in output
    output, _ = first.communicate(timeout=60)
    assert first.returncode not in (0, None), output
    assert "Error" in output
    assert time.monotonic() - died < 60
