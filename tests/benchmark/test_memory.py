import pytest
import torch

from mask2former_ext.benchmark import memory
from mask2former_ext.benchmark.memory import available, peak_growth

CPU = torch.device("cpu")
MEGABYTE = 10**6


def ones(megabytes):
    return torch.ones(megabytes * MEGABYTE // 4)


def keeps_account():
    """Whether this system does, by its own files."""
    try:
        memory.CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return "VmHWM" in memory.STATUS.read_text()


@pytest.mark.parametrize(
    ("call", "megabytes"),
    [
        (lambda: ones(40), 40),
        (lambda: ones(40).sum(), 40),
        (lambda: ones(20) + ones(20), 60),
        (lambda: (ones(40).sum(), ones(40).sum()), 40),
        (lambda: None, 0),
    ],
)
def test_the_highest_of_what_is_held_at_one_time(call, megabytes):
    growth = peak_growth(call, CPU)
    if keeps_account():
        assert growth == pytest.approx(megabytes * MEGABYTE, abs=2 * MEGABYTE)
    else:
        assert growth is None


def test_memory_that_was_free_in_the_process_counts():
    small = [torch.ones(25_000) for _ in range(400)]  # 100 kB each: of the heap, not mapped one by one
    del small[:-1]
    growth = peak_growth(lambda: [torch.ones(25_000) for _ in range(300)], CPU)
    assert growth == pytest.approx(30 * MEGABYTE, abs=3 * MEGABYTE) if keeps_account() else growth is None


def test_a_system_that_keeps_no_account(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    assert peak_growth(lambda: None, CPU) is None
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert available(CPU) is None


def test_another_c_library(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert peak_growth(lambda: None, CPU) is None


def test_available_memory(monkeypatch, tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       1000 kB\nMemAvailable:    300 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    assert available(CPU) == 300 * 1024
