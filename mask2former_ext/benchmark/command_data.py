"""The subcommand data of tools/benchmark.py."""

from __future__ import annotations

import argparse

from ..arguments import positive
from .command_line import Report, Subcommands, add_subcommand, repeats
from .data import DataOptions, format_report, run_data_benchmark

DESCRIPTION = """\
Images per second that one worker of the data loader prepares for training, and the bytes that it sends.

Configs may be of this package or Detectron2's own, of Mask R-CNN say. Each maps images of the first data set of its
DATASETS.TRAIN; where that is not on this machine, photographs and annotations like COCO's are made up.
"""


def add_data_command(commands: Subcommands) -> None:
    parser = add_subcommand(
        commands,
        "data",
        description=DESCRIPTION,
        example="--configs configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml --json output/data.json",
        threads=1,
        seconds=60.0,
        run=run,
        show=format_report,
        wrong=lambda report: [],
    )
    parser.add_argument("--configs", nargs="+", required=True, metavar="FILE", help="configs to compare")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides for all configs")
    parser.add_argument("--images", type=positive, help="in a run (default: 16, with --quick 2)")
    parser.add_argument("--generated", action="store_true", help="make files up even where the data set is")


def run(options: argparse.Namespace) -> Report:
    return run_data_benchmark(
        DataOptions(
            configs=options.configs,
            opts=options.opts,
            images=options.images or (2 if options.quick else 16),
            generated=options.generated,
            threads=options.threads,
            repeats=repeats(options),
            seconds=options.seconds,
        )
    )
