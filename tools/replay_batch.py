#!/usr/bin/env python
"""Repeat a training step that was not finite, from the file that training wrote of it (non_finite_*.pth)."""

from __future__ import annotations

import argparse
import sys

import mask2former_ext  # noqa: F401  (registers models)
from mask2former_ext.engine.precision import PRECISIONS
from mask2former_ext.engine.replay import SavedStep, replay

EPILOG = """
The exit status is 1 when the step is not finite again, 0 when it is this time, 2 when it cannot be repeated.

Examples:
    $ tools/replay_batch.py output/non_finite_0001234_0.pth
    $ tools/replay_batch.py output/non_finite_0001234_0.pth --precision bfloat16 --device cuda
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="what training wrote; its error names it")
    parser.add_argument("--device", default="", help="default: that of the run, or cpu where there is none")
    parser.add_argument("--precision", choices=["float32", *PRECISIONS], help="default: that of the run")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        step = SavedStep.load(options.file, device=options.device)
    except (ValueError, OSError) as error:
        print(f"replay_batch.py: {error}", file=sys.stderr)
        return 2
    amp = step.cfg.SOLVER.AMP
    precision = options.precision or (amp.PRECISION if amp.ENABLED else "float32")
    print(f"Training said:\n  {step.report}\n\nRepeated in {precision} on {step.cfg.MODEL.DEVICE}:")
    result = replay(step, precision=PRECISIONS.get(precision))
    for name, loss in result.losses.items():
        print(f"  {name:<14} {loss:g}")
    if result.fault is None:
        print("All losses and gradients are finite this time.")
        return 0
    print(f"Not finite: {result.fault}\nFirst not finite: {result.origin}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
