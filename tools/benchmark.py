#!/usr/bin/env python
"""Measure this package against its own reference and against other packages that are installed.

Alternatives run in turn in this one process, on the same inputs, and their answers are checked. The exit status is 1
when an answer of this package is wrong.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch

from mask2former_ext.benchmark.op import (
    DEFAULT_SIZES,
    DTYPES,
    QUICK_SIZES,
    SWEEP,
    OpOptions,
    failures,
    format_report,
    run_op_benchmark,
)
from mask2former_ext.benchmark.op_cases import OFFSETS, OpSize
from mask2former_ext.benchmark.reports import write_json

OP_HELP = f"""\
Time, bandwidth, peak memory and error of multi-scale deformable attention, forward and backward.

A size is an image's side, which gives levels at strides 32, 16 and 8 and a query for each of their pixels; then
optionally x and the batch, q and the number of queries. The sweep is {" ".join(SWEEP)}.
"""


def device(text: str) -> torch.device:
    chosen = torch.device(text)
    if chosen.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text} is neither cpu nor cuda")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(f"{text} was asked for, but torch sees no GPU here")
    return chosen


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def size(text: str) -> OpSize:
    try:
        return OpSize.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}") from error


def add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:1 (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="of the CPU (default: %(default)s)")
    parser.add_argument("--repeats", type=positive, default=15, help="runs that count (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--quick", action="store_true", help="a small size and three runs, to see that it works")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/benchmark.py op --threads 2 --json output/op.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    op = commands.add_parser(
        "op",
        help="multi-scale deformable attention",
        description=OP_HELP,
        epilog="example: python tools/benchmark.py op --threads 2 --sizes 1024 512x8 1024q300 --dtypes fp32 bf16",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_options(op)
    sizes = op.add_mutually_exclusive_group()
    sizes.add_argument("--sizes", type=size, nargs="+", help=f"(default: {' '.join(DEFAULT_SIZES)})")
    sizes.add_argument("--sweep", action="store_true", help="many sizes; on a CPU this takes long")
    op.add_argument(
        "--dtypes", choices=DTYPES, nargs="+", default=["fp32", "bf16", "fp16"], help="(default: fp32 bf16 fp16)"
    )
    op.add_argument("--offsets", choices=OFFSETS, nargs="+", default=list(OFFSETS), help="(default: both)")
    op.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help="for the runs of one size, dtype, offsets and direction; three are made anyway (default: %(default)s)",
    )
    op.set_defaults(run=run_op)
    return parser.parse_args(arguments)


def run_op(options: argparse.Namespace) -> int:
    names = SWEEP if options.sweep else QUICK_SIZES if options.quick else DEFAULT_SIZES
    report: dict[str, Any] = run_op_benchmark(
        OpOptions(
            sizes=options.sizes or [OpSize.parse(name) for name in names],
            dtypes=options.dtypes,
            offsets=options.offsets,
            device=options.device,
            threads=options.threads,
            repeats=3 if options.quick else options.repeats,
            seconds=options.seconds,
        )
    )
    print(format_report(report), end="")
    if options.json:
        write_json(options.json, report)
    wrong = failures(report)
    for failure in wrong:
        print(f"WRONG  {failure}", file=sys.stderr)
    return int(bool(wrong))


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mask2former_ext.benchmark").setLevel(logging.INFO)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
