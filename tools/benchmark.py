#!/usr/bin/env python
"""Measure this package against its own reference and against other packages that are installed.

Alternatives run in turn in this one process, on the same inputs, and their answers are checked. The exit status is 1
when an answer of this package is wrong, or when something is missing or cannot be read.
"""

from __future__ import annotations

import argparse
import logging
import sys

from mask2former_ext.benchmark.command_data import add_data_command
from mask2former_ext.benchmark.command_model import add_infer_command, add_train_command
from mask2former_ext.benchmark.command_op import add_op_command
from mask2former_ext.files import write_json

SUBCOMMANDS = (add_op_command, add_data_command, add_infer_command, add_train_command)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/benchmark.py op --threads 2 --json output/op.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add_command in SUBCOMMANDS:
        add_command(commands)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mask2former_ext.benchmark").setLevel(logging.INFO)
    try:
        report = options.run(options)
        print(options.show(report), end="")
        if options.json:
            write_json(options.json, report, indent=2)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    wrong = options.wrong(report)
    for failure in wrong:
        print(f"WRONG  {failure}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
