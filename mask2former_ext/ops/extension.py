"""The compiled operators: whether they are there, what they were built for, and which devices they serve."""

from __future__ import annotations

import functools
import importlib
import logging
import os
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

REFERENCE_SWITCH = "MASK2FORMER_EXT_REFERENCE_OPS"
OPERATORS = (
    *("ms_deform_attn", "ms_deform_attn_backward", "ms_deform_attn_fused", "ms_deform_attn_fused_backward"),
    *("panoptic_merge", "build_info"),
)
REBUILD = "pip install --no-build-isolation -e . (from a checkout of mask2former_ext)"


@dataclass(frozen=True)
class Extension:
    """The compiled library ``mask2former_ext._C``, or why there is none.

    Attributes:
        loaded: whether its operators are registered.
        problem: what keeps it from loading; empty where it is loaded.
        torch: version of torch that it was built with.
        compiler: version of the C++ compiler.
        cuda: version of the CUDA toolkit, empty where CUDA was left out.
        cuda_architectures: as in TORCH_CUDA_ARCH_LIST, such as ("8.0", "9.0+PTX").
    """

    loaded: bool
    problem: str = ""
    torch: str = ""
    compiler: str = ""
    cuda: str = ""
    cuda_architectures: tuple[str, ...] = ()


@functools.cache
def load_extension() -> Extension:
    """Load the compiled library, once a process; a missing, unfitting or outdated one is no error.

    The environment variable MASK2FORMER_EXT_REFERENCE_OPS=1 leaves it out, to compare with plain PyTorch.
    """
    if os.environ.get(REFERENCE_SWITCH) == "1":
        return Extension(loaded=False, problem=f"{REFERENCE_SWITCH} is set")
    try:
        importlib.import_module("mask2former_ext._C")
    except ImportError as error:
        return Extension(loaded=False, problem=f"{error}{_of_other_pythons()}")
    # An editable installation whose sources were updated keeps the library that was compiled before.
    missing = [name for name in OPERATORS if not hasattr(torch.ops.mask2former_ext, name)]
    if missing:
        return Extension(loaded=False, problem=f"the compiled library is older than these sources: no {missing[0]}")
    lines = torch.ops.mask2former_ext.build_info().splitlines()
    info = dict(line.split("=", maxsplit=1) for line in lines)
    architectures = tuple(info.pop("cuda_architectures", "").replace(";", " ").split())
    return Extension(loaded=True, cuda_architectures=architectures, **info)


def _of_other_pythons() -> str:
    """Which compiled libraries lie in the package that this Python does not load; empty where there are none."""
    names = sorted(path.name for path in Path(__file__).parents[1].glob("_C.*.so"))
    others = [name for name in names if name.removeprefix("_C") not in EXTENSION_SUFFIXES]
    return f"; there is one of another Python: {', '.join(others)}" if others else ""


def serves_capability(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether code for ``architectures`` runs on a GPU of ``capability`` (major, minor).

    Machine code runs on the same major version from its minor version on; PTX on everything from its version on.
    """
    for architecture in architectures:
        version, _, ptx = architecture.partition("+")
        major, minor = (int(part.rstrip("af")) for part in version.split("."))
        if (major == capability[0] and minor <= capability[1]) or (ptx and (major, minor) <= capability):
            return True
    return False


@dataclass(frozen=True)
class Choice:
    """Which implementation serves a device, and why."""

    compiled: bool
    reason: str


def choose(device: torch.device, extension: Extension) -> Choice:
    """Choose the implementation for tensors on ``device``: compiled where it can be had, else the reference.

    Raises:
        RuntimeError: the library has CUDA code, but none for this GPU; says how to build it.
    """
    if not extension.loaded:
        return Choice(False, f"there are no compiled operators ({extension.problem}); build them with: {REBUILD}")
    if device.type in ("cpu", "meta"):
        return Choice(True, f"compiled for torch {extension.torch}")
    if device.type != "cuda":
        return Choice(False, f"no operator is compiled for {device.type} devices")
    if not extension.cuda:
        return Choice(False, f"the operators were compiled without CUDA; build them again with: FORCE_CUDA=1 {REBUILD}")
    capability = torch.cuda.get_device_capability(device)
    if serves_capability(extension.cuda_architectures, capability):
        return Choice(True, f"compiled for CUDA {extension.cuda}, {' '.join(extension.cuda_architectures)}")
    wanted = f"{capability[0]}.{capability[1]}"
    raise RuntimeError(
        f"mask2former_ext was compiled for GPUs of compute capability {' '.join(extension.cuda_architectures)}, but "
        f"{torch.cuda.get_device_name(device)} has {wanted}. Build it again with: "
        f"TORCH_CUDA_ARCH_LIST={wanted} {REBUILD}"
    )


@functools.cache
def _choose_and_log(device_type: str, device_index: int | None) -> Choice:
    device = torch.device(device_type) if device_index is None else torch.device(device_type, device_index)
    choice = choose(device, load_extension())
    name = "compiled" if choice.compiled else "reference (plain PyTorch)"
    logger.info("Multi-scale deformable attention on %s: %s; %s.", device, name, choice.reason)
    return choice


@torch.compiler.assume_constant_result
def uses_compiled(device_type: str, device_index: int | None) -> bool:
    """:func:`choose` for this process's library, remembered; the first answer for a device is logged.

    Tracing (torch.compile, torch.export) takes the answer as a constant.
    """
    return _choose_and_log(device_type, device_index).compiled


@torch.compiler.assume_constant_result
def uses_fused(device_type: str, device_index: int | None) -> bool:
    """Whether the operator does softmax and location arithmetic too: on the CPU, where that was measured faster."""
    return device_type == "cpu" and uses_compiled(device_type, device_index)
