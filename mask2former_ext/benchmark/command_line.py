"""What the subcommands of tools/benchmark.py have in common."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..arguments import positive

# A subcommand sets ``run`` (options → report), ``show`` (report → Markdown) and ``wrong`` (report → wrong answers).
Subcommands = Any  # argparse's class of subparsers is private
Report = dict[str, Any]


def device(text: str) -> torch.device:
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is neither cpu nor cuda")
    chosen = torch.device(text)
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if chosen.type == "cuda" and seen <= int(match.group(1) or 0):
        raise argparse.ArgumentTypeError(
            f"{text} was asked for, but torch sees {f'only {seen}' if seen else 'no GPU'} here"
        )
    return chosen


def add_subcommand(
    commands: Subcommands,
    name: str,
    *,
    description: str,
    example: str,
    threads: int,
    seconds: float,
    run: Callable[[argparse.Namespace], Report],
    show: Callable[[Report], str],
    wrong: Callable[[Report], list[str]],
) -> argparse.ArgumentParser:
    """Add a subcommand with the options that all have.

    Args:
        commands: what ``add_subparsers`` returned.
        name: the subcommand.
        description: in its help; the first line also in the tool's.
        example: of its arguments.
        threads, seconds: defaults of these options.
        run: measures.
        show: says it in Markdown.
        wrong: says what is wrong with the answers that were measured; the exit status is 1 then.
    """
    parser = commands.add_parser(
        name,
        help=description.partition("\n")[0],
        description=description,
        epilog=f"example: python tools/benchmark.py {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=positive, default=threads, help="of the CPU (default: %(default)s)")
    parser.add_argument("--repeats", type=positive, help="runs that count (default: 15, with --quick 3)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        help="for the runs that are made in turn; three are made anyway (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--quick", action="store_true", help="something small and three runs, to see that it works")
    parser.set_defaults(run=run, show=show, wrong=wrong)
    return parser


def repeats(options: argparse.Namespace) -> int:
    """Runs that count."""
    return options.repeats or (3 if options.quick else 15)
