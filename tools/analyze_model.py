#!/usr/bin/env python
"""Count parameters, multiply-adds and activations of a model, module by module, and show its structure."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from torch.jit import TracerWarning

import mask2former_ext  # noqa: F401  (registers the models)
from mask2former_ext.analysis import TASKS, analyze_model, format_statistics, load_model, report_of
from mask2former_ext.arguments import positive
from mask2former_ext.files import write_json

EPILOG = """
flop counts multiply-adds of one image, each as one, as fvcore does and as published figures are: of the whole model,
from the image to results of its size, without the losses. The rows backbone and sem_seg_head are the network alone;
what they lack of the total is the post-processing. Multi-scale deformable attention counts 5 a sample and channel;
operators that have no count are listed below the table.

Weights are random unless --weights is given. The image is noise, and the mask head of Mask R-CNN, which works on what
was detected, counts for as many boxes as the model may return (TEST.DETECTIONS_PER_IMAGE) where weights are random.

example: python tools/analyze_model.py --config-file \\
    configs/ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml --tasks flop parameter --depth 1
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="a .yaml config or a LazyConfig (.py), of ours or Detectron2's",
    )
    parser.add_argument(
        "--tasks", nargs="+", choices=[*TASKS, "structure"], default=list(TASKS), help="(default: all but structure)"
    )
    parser.add_argument(
        "--size",
        type=positive,
        nargs=2,
        metavar=("H", "W"),
        help="of the image, in pixels (default: a square of INPUT.MIN_SIZE_TEST, which is the published 512×512 or "
        "640×640 for ADE20K)",
    )
    parser.add_argument(
        "--depth", type=positive, default=2, help="modules to show, in steps from the root (default: 2)"
    )
    parser.add_argument("--weights", default="", metavar="FILE", help="weights to load; they cost time, not figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all counts of all modules there")
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="overrides of the config, after a --; of a LazyConfig KEY=VALUE"
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    model, default_size = load_model(options.config_file, options.opts, options.weights)
    size = tuple(options.size or default_size)
    if "structure" in options.tasks:
        print(model)
    tasks = [task for task in TASKS if task in options.tasks]
    counts = analyze_model(model, size, tasks, channels=len(model.pixel_mean))
    if counts:
        print(f"{options.config_file}, an image of {size[0]}×{size[1]} (height × width)\n")
        print(format_statistics(counts, options.depth), end="")
    if options.json:
        write_json(options.json, {"config": options.config_file, "size": size, **report_of(counts)}, indent=2)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    warnings.filterwarnings("ignore", category=TracerWarning)  # one image is all that is counted
    try:
        run(options)
    except (OSError, ValueError) as error:
        print(f"analyze_model.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
