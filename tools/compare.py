#!/usr/bin/env python
"""Evaluate models on one dataset, and write a page that shows them side by side: tables, charts and pictures.

The models may be Mask2Former, Mask R-CNN, or others of Detectron2; what one of them does not do stays empty. The page
needs nothing but itself; beside it lies report.json with the same figures.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mask2former_ext.comparison import ModelSpec, compare, write_report

EPILOG = """
example:
  python tools/compare.py --dataset coins_val --output output/comparison \\
      --configs configs/quickstart/maskformer2_R18_coins.yaml configs/quickstart/mask_rcnn_R18_FPN_coins.yaml \\
      --weights output/quickstart/maskformer2_R18_coins/model_final.pth \\
                output/quickstart/mask_rcnn_R18_FPN_coins/model_final.pth \\
      --names Mask2Former "Mask R-CNN" -- MODEL.DEVICE cpu
"""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", nargs="+", required=True, metavar="FILE", help="YAML configs, a model each")
    parser.add_argument(
        "--weights", nargs="+", metavar="FILE", help="their checkpoints (default: MODEL.WEIGHTS of each config)"
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a registered dataset")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="PATH", help="the page (.html), or a folder for comparison.html"
    )
    parser.add_argument("--names", nargs="+", help="of the models, for people (default: those of the configs)")
    parser.add_argument(
        "--metrics",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="metrics.json of each training (default: those beside the checkpoints, where there are any)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures (default: report.json beside the page)")
    parser.add_argument(
        "--images", type=int, default=3, help="to show of the best, the worst, and the most different (default: 3)"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of all configs, after a --")
    options = parser.parse_args(arguments)
    for option in ("weights", "names", "metrics"):
        given = getattr(options, option)
        if given is not None and len(given) != len(options.configs):
            problem = f"{len(given)} are given for {len(options.configs)} configs; name one for each"
            parser.error(f"--{option}: {problem} (overrides follow a --)")
    if options.images < 1:
        parser.error(f"--images {options.images}: at least 1 is shown")
    return options


def specs_of(options: argparse.Namespace) -> list[ModelSpec]:
    count = len(options.configs)
    names = options.names or [Path(config).stem for config in options.configs]
    weights, metrics = options.weights or [""] * count, options.metrics or [None] * count
    return [ModelSpec(*of_model) for of_model in zip(names, options.configs, weights, metrics, strict=True)]


def run(options: argparse.Namespace) -> None:
    page = options.output if options.output.suffix == ".html" else options.output / "comparison.html"
    json_file = options.json or page.with_name("report.json")
    comparison = compare(specs_of(options), options.dataset, options.opts)
    write_report(comparison, page, json_file, options.images)
    print(f"{os.path.relpath(page)}\n{os.path.relpath(json_file)}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mask2former_ext.comparison").setLevel(logging.INFO)
    try:
        run(options)
    except (OSError, ValueError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
