#!/usr/bin/env python
"""Train a small Mask2Former and a small Mask R-CNN on the coins photograph, and compare them on its held-out part.

Ends with a table, a picture for each model, and a page that shows both side by side. The exit status is 1 when a result
misses what the configs in configs/quickstart ask for (TEST.EXPECTED_RESULTS).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

import torch

from mask2former_ext.quickstart import format_table, run_model, write_comparison

ROOT = Path(__file__).resolve().parents[1]
MODELS = {
    "Mask2Former": ROOT / "configs" / "quickstart" / "maskformer2_R18_coins.yaml",
    "Mask R-CNN": ROOT / "configs" / "quickstart" / "mask_rcnn_R18_FPN_coins.yaml",
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python datasets/prepare_coins.py && python tools/quickstart.py --seed 2 --output output/seed2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default: %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output") / "quickstart",
        help="folder for models, logs and pictures (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> list[str]:
    """Train, compare and print; returns what was missed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    overrides = ["SEED", str(options.seed), "MODEL.DEVICE", device]
    script = ROOT / "tools" / "train_net.py"
    start = time.perf_counter()
    outcomes = [run_model(name, config, script, options.output, overrides) for name, config in MODELS.items()]
    minutes = (time.perf_counter() - start) / 60
    print(f"\nOn the part of the photograph that neither was trained on ({device}, {minutes:.1f} minutes in all):\n")
    print(format_table([outcome.report for outcome in outcomes]))
    print("\nPictures of it, the truth, and what each model found:")
    for outcome in outcomes:
        print(f"  {os.path.relpath(outcome.picture)}")
    page = write_comparison(MODELS, options.output, overrides)
    print(f"Both side by side, with charts and pictures, on a page for the browser:\n  {os.path.relpath(page)}")
    return [f"{outcome.report.name}: {failure}" for outcome in outcomes for failure in outcome.failures]


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    for package in ("quickstart", "comparison"):
        logging.getLogger(f"mask2former_ext.{package}").setLevel(logging.INFO)
    try:
        failures = run(options)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        print(f"quickstart.py: {error}", file=sys.stderr)
        return 1
    for failure in failures:
        print(f"MISSED  {failure}", file=sys.stderr)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
