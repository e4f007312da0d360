"""What benchmarks report: where they ran, tables for people, JSON for machines."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..ops.extension import load_extension

CPUINFO = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str:
    """The processor's name, and what PyTorch and the compiled operators take it for."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    name = platform.processor() or platform.machine()
    if CPUINFO.is_file():
        fields = (line.partition(":") for line in CPUINFO.read_text(encoding="utf-8").splitlines())
        name = next((value.strip() for key, _, value in fields if key.strip() == "model name"), name)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def environment(device: torch.device) -> dict[str, Any]:
    """Date, device and versions, without which figures say nothing."""
    extension = load_extension()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "extension": f"C++ {extension.compiler}, CUDA {extension.cuda or 'left out'}"
        if extension.loaded
        else f"not loaded: {extension.problem}",
    }


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
