"""Peak memory of a call.

On a GPU PyTorch's allocator knows it. On the CPU it is the growth of this process's resident memory at its highest,
which the kernel of Linux keeps account of, and forgets on request (proc(5), clear_refs): unlike PyTorch's own profiler
this sees everything, also what kernels and libraries allocate by themselves. Free memory that the C library holds back
would be taken without the process growing, so it is handed back to the system first (malloc_trim of glibc). A call
made before leaves caches and threads that later calls share. What remains is exact to about a hundred kilobytes.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
MEMINFO = Path("/proc/meminfo")
FORGET_PEAK = "5"
# mallopt(3): a parameter's number in malloc.h, and its value in bytes
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 2**18


def _bytes(file: Path, field: str) -> int:
    """A size in a file of the kernel's, which are in kB."""
    match = re.search(rf"^{field}:\s+(\d+) kB$", file.read_text(encoding="ascii"), flags=re.MULTILINE)
    if match is None:
        raise OSError(f"{file} has no {field}")
    return int(match.group(1)) * 1024


def _trim_heap() -> None:
    """Hand free memory back to the system; raises AttributeError where the C library is not glibc."""
    ctypes.CDLL(None).malloc_trim(0)


def return_large_blocks_at_once() -> None:
    """From now on let the C library give freed blocks of ``LARGE_BLOCK`` bytes back to the system at once.

    By default it keeps blocks of up to 32 MB, those that fit nowhere else again as well, and peaks depend on the order
    in which they came. For a process that measures memory: allocating takes longer.

    Raises:
        AttributeError: the C library is not glibc.
    """
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


class PeakMemory:
    """Follows the highest memory from one moment to the next, beyond what there was when it was made."""

    def __init__(self, device: torch.device) -> None:
        """
        Args:
            device: whose memory; of the CPU this process's.

        Raises:
            OSError, AttributeError: the system keeps no account.
        """
        self._device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            _trim_heap()
            self._before = _bytes(STATUS, "VmRSS")
        self.restart()

    def restart(self) -> None:
        """Forget the peak; from now on there may be a lower one."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            CLEAR_REFS.write_text(FORGET_PEAK, encoding="ascii")

    def growth(self) -> int:
        """Bytes of the peak since the last restart."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return _bytes(STATUS, "VmHWM") - self._before


def peak_growth(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that ``call`` needs at its highest, its result included, beyond what there is before it.

    Calls twice: the first time is not measured.

    Returns:
        The bytes; None where the system keeps no account (other systems than Linux with glibc).
    """
    call()
    try:
        memory = PeakMemory(device)
    except (OSError, AttributeError):
        return None
    call()
    return memory.growth()


def available(device: torch.device) -> int | None:
    """Bytes that can still be allocated on ``device``; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return _bytes(MEMINFO, "MemAvailable")
    except OSError:
        return None
