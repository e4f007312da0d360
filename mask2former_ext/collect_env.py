"""Versions, what the compiled operators were built for, what runs where, and a self-test of some seconds.

    python -m mask2former_ext.collect_env

The exit status is 1 when the self-test fails.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

import mask2former_ext

from .benchmark.op import ERROR_LIMITS, errors, results_of
from .benchmark.op_cases import OpInputs, OpSize, exact_results, make_inputs
from .benchmark.reports import device_name
from .ops import MSDeformAttn, ms_deform_attn
from .ops.extension import Extension, choose, load_extension

MODULES = ("torch", "torchvision", "detectron2", "numpy", "scipy", "PIL", "cv2", "pycocotools")

TEST_SECONDS = 10.0
TEST_SIZE = OpSize("self-test", levels=((6, 9), (12, 18)), batch=2, queries=100)
STEP_SIZE = 0.1


@dataclass(frozen=True)
class Check:
    """One part of the self-test.

    Attributes:
        device: where.
        name: of what was tested.
        problem: what is wrong; empty where nothing is.
        detail: what was found.
    """

    device: torch.device
    name: str
    problem: str
    detail: str = ""


def devices() -> list[torch.device]:
    """The CPU and every visible GPU."""
    return [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]


def module_version(name: str) -> str:
    """The version of an importable module, or why it is not importable."""
    try:
        module = importlib.import_module(name)
        return str(getattr(module, "__version__", None) or importlib.metadata.version(name))
    except ImportError as error:
        return f"not importable: {error}"


def versions() -> list[tuple[str, str]]:
    """Names and versions of everything that matters for how this package runs."""
    rows = [("Python", platform.python_version()), ("platform", platform.platform())]
    rows.append(("mask2former_ext", mask2former_ext.__version__))
    rows += [(name, module_version(name)) for name in MODULES]
    rows.append(("CUDA of torch", torch.version.cuda or "none: torch was built for the CPU only"))
    return rows


def built_with(extension: Extension) -> list[tuple[str, str]]:
    """What is known of the compiled operators."""
    if not extension.loaded:
        return [("compiled operators", f"not loaded: {extension.problem}")]
    return [
        ("compiled operators", f"loaded, built with torch {extension.torch}"),
        ("compiler", extension.compiler or "unknown"),
        ("compiled for CUDA", extension.cuda or "no"),
        ("compiled architectures", " ".join(extension.cuda_architectures) or "none"),
    ]


def serving(device: torch.device, extension: Extension) -> str:
    """Which implementation serves ``device``, and why."""
    try:
        choice = choose(device, extension)
    except RuntimeError as error:
        return f"NOTHING: {error}"
    return f"{'compiled' if choice.compiled else 'reference (plain PyTorch)'}: {choice.reason}"


def environment_text() -> str:
    """Versions, devices, and which implementation of multi-scale deformable attention serves each."""
    extension = load_extension()
    found = devices()
    rows = [*versions(), *built_with(extension), ("CPU threads", str(torch.get_num_threads()))]
    rows += [(str(device), device_name(device)) for device in found]
    if len(found) == 1:
        rows.append(("cuda", "no GPU is visible to torch"))
    rows += [(f"deformable attention, {device}", serving(device, extension)) for device in found]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def check_operator(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Compare what serves ``device``, forward and backward, with the reference in float64 on the CPU.

    Returns:
        What is wrong, empty where nothing is; and what was found.
    """

    def call(inputs: OpInputs) -> torch.Tensor:
        return ms_deform_attn(
            inputs.value, inputs.spatial_shapes, inputs.level_starts, inputs.locations, inputs.weights
        )

    exact = exact_results(make_inputs(TEST_SIZE, "trained", dtype, torch.device("cpu")))
    found = results_of(call, make_inputs(TEST_SIZE, "trained", dtype, device))
    by_direction = errors(found.cpu(), exact)
    detail = ", ".join(f"{direction} {error:.1e}" for direction, error in by_direction.items())
    limit = ERROR_LIMITS[dtype]
    problem = "" if max(by_direction.values()) <= limit else f"error against float64 above {limit:.0e}"
    return problem, f"error {detail}"


def check_module(device: torch.device) -> tuple[str, str]:
    """Take one step of gradient descent with a small module: its loss must fall. Returns as the other check does."""
    levels = torch.tensor([[4, 6], [2, 3]])
    starts = torch.tensor([0, 24])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = MSDeformAttn(d_model=32, n_levels=2, n_heads=4, n_points=2).to(device)
        query, pixels, points = torch.randn(2, 5, 32), torch.randn(2, 30, 32), torch.rand(2, 5, 2, 2)

    def loss() -> torch.Tensor:
        return module(query.to(device), points.to(device), pixels.to(device), levels, starts).square().mean()

    before = loss()
    before.backward()
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad, alpha=STEP_SIZE)
        after = loss().item()
    detail = f"loss {before.item():.4f} before, {after:.4f} after"
    return "" if after < before.item() else "the loss does not fall", detail


def self_test(found: Sequence[torch.device], seconds: float = TEST_SECONDS) -> list[Check]:
    """Test every device; begins nothing more after so many seconds, which counts as a failure."""
    start = time.perf_counter()
    checks = []
    for device in found:
        tests: dict[str, Callable[[], tuple[str, str]]] = {"training step": partial(check_module, device)}
        for dtype in ERROR_LIMITS:
            tests[f"operator in {dtype}".replace("torch.", "")] = partial(check_operator, device, dtype)
        for name, test in tests.items():
            if time.perf_counter() - start > seconds:
                checks.append(Check(device, name, f"not run: {seconds:.0f} seconds were over"))
                continue
            try:
                checks.append(Check(device, name, *test()))
            except (RuntimeError, ValueError) as error:
                checks.append(Check(device, name, f"{type(error).__name__}: {error}"))
    return checks


def self_test_text(checks: Sequence[Check]) -> str:
    """One line a check, and the verdict."""
    lines = []
    for check in checks:
        verdict = f"FAILED: {check.problem}" if check.problem else "ok"
        detail = f" ({check.detail})" if check.detail else ""
        lines.append(f"{check.device}: {check.name}: {verdict}{detail}")
    failed = sum(bool(check.problem) for check in checks)
    lines.append(f"self-test: {failed} of {len(checks)} FAILED" if failed else f"self-test: all {len(checks)} passed")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mask2former_ext.collect_env",
        description="Versions, what was compiled, what runs where, and a self-test of at most ten seconds.",
        epilog="example: python -m mask2former_ext.collect_env --full > environment.txt",
    )
    parser.add_argument("--full", action="store_true", help="add Detectron2's own report, with drivers and paths")
    options = parser.parse_args(arguments)
    sys.stdout.write(f"{environment_text()}\n\n")
    if options.full:
        from detectron2.utils.collect_env import collect_env_info

        sys.stdout.write(f"{collect_env_info()}\n\n")
    checks = self_test(devices())
    sys.stdout.write(f"{self_test_text(checks)}\n")
    return int(any(check.problem for check in checks))


if __name__ == "__main__":
    sys.exit(main())
