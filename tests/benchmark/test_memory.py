import subprocess
import sys

import pytest
import torch

from mask2former_ext.benchmark import memory
from mask2former_ext.benchmark.memory import available, peak_growth

CPU = torch.device("cpu")
MEGABYTE = 10**6


def keeps_account():
    """Whether this system does, by its own files."""
    try:
        memory.CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return "VmHWM" in memory.STATUS.read_text()


MEASURE = """
import torch
from mask2former_ext.benchmark.memory import peak_growth, return_large_blocks_at_once

return_large_blocks_at_once()

def ones(megabytes):
    return torch.ones(megabytes * 10**6 // 4)

for call in (
    lambda: ones(40),
    lambda: ones(40).sum(),
    lambda: ones(20) + ones(20),
    lambda: (ones(40).sum(), ones(40).sum()),
    lambda: None,
):
    # a kernel that is late in taking freed memory off its account makes a peak too high, never too low
    growths = [peak_growth(call, torch.device("cpu")) for _ in range(3)]
    print(None if None in growths else min(growths))
"""


def test_the_highest_of_what_is_held_at_one_time():
    """In a new process, whose heap has no holes that a tensor could go to."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    if keeps_account():
        found = [int(growth) / MEGABYTE for growth in done.stdout.split()]
        assert found == pytest.approx([40, 40, 60, 40, 0], abs=2)
    else:
        assert done.stdout.split() == ["None"] * 5


def test_memory_that_was_free_in_the_process_counts():
    small = [torch.ones(25_000) for _ in range(400)]  # 100 kB each: of the heap, not mapped one by one
    del small[:-1]
    growths = [peak_growth(lambda: [torch.ones(25_000) for _ in range(300)], CPU) for _ in range(3)]
    if keeps_account():
        assert min(growths) == pytest.approx(30 * MEGABYTE, abs=3 * MEGABYTE)
    else:
        assert growths == [None] * 3


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
