"""The subcommand op of tools/benchmark.py."""

from __future__ import annotations

import argparse
import os

from .command_line import Report, Subcommands, add_subcommand, device, repeats
from .op import DEFAULT_SIZES, DTYPES, QUICK_SIZES, SWEEP, OpOptions, failures, format_report, run_op_benchmark
from .op_cases import OFFSETS, OpSize

DESCRIPTION = f"""\
Time, bandwidth, peak memory and error of multi-scale deformable attention, forward and backward.

A size is an image's side, which gives levels at strides 32, 16 and 8 and a query for each of their pixels; then
optionally x and the batch, q and the number of queries. The sweep is {" ".join(SWEEP)}.
"""


def add_op_command(commands: Subcommands) -> None:
    parser = add_subcommand(
        commands,
        "op",
        description=DESCRIPTION,
        example="--threads 2 --sizes 1024 512x8 1024q300 --dtypes fp32 bf16",
        threads=os.cpu_count() or 1,
        seconds=30.0,
        run=run,
        show=format_report,
        wrong=failures,
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:1 (default: %(default)s)")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--sizes", type=_size, nargs="+", help=f"(default: {' '.join(DEFAULT_SIZES)})")
    sizes.add_argument("--sweep", action="store_true", help="many sizes; on a CPU this takes long")
    parser.add_argument(
        "--dtypes", choices=DTYPES, nargs="+", default=["fp32", "bf16", "fp16"], help="(default: fp32 bf16 fp16)"
    )
    parser.add_argument("--offsets", choices=OFFSETS, nargs="+", default=list(OFFSETS), help="(default: both)")


def run(options: argparse.Namespace) -> Report:
    names = SWEEP if options.sweep else QUICK_SIZES if options.quick else DEFAULT_SIZES
    return run_op_benchmark(
        OpOptions(
            sizes=options.sizes or [OpSize.parse(name) for name in names],
            dtypes=options.dtypes,
            offsets=options.offsets,
            device=options.device,
            threads=options.threads,
            repeats=repeats(options),
            seconds=options.seconds,
        )
    )


def _size(text: str) -> OpSize:
    try:
        return OpSize.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}") from error
