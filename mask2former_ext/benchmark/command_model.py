"""The subcommands infer and train of tools/benchmark.py."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..arguments import positive
from ..files import write_text
from . import infer, train
from .command_line import Report, Subcommands, add_subcommand, device, repeats
from .infer import PARTS, InferOptions, run_infer_benchmark
from .model_measure import Effort, ModelOptions
from .model_reports import wrong_rows
from .model_variants import PEERS
from .models import PRECISIONS, TASKS, Work
from .train import run_train_benchmark

COCO = "configs/coco"
R50_PANOPTIC = f"{COCO}/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml"
R50_INSTANCE = f"{COCO}/instance-segmentation/maskformer2_R50_bs16_50ep.yaml"
MASK_RCNN = f"{COCO}/instance-segmentation/mask_rcnn_R50_FPN_bs16_160k.yaml"
QUICK_SIZE = [128, 160]

INFER = """\
Time and peak memory of inference, stage by stage, on made-up images.

Configs may be of this package or of Detectron2's Mask R-CNN; weights are random. Peers are measured beside every config
of this package: transformers with the same weights; straightforward, the same network and rules without any shortcut,
whose results must be the same; and torchvision's Mask R-CNN.
"""
TRAIN = """\
Time and peak memory of a training step, stage by stage, on made-up images and masks.

Configs may be of this package or of Detectron2's Mask R-CNN; weights are random. Peers are as those of infer.
"""


def add_infer_command(commands: Subcommands) -> None:
    parser = add_subcommand(
        commands,
        "infer",
        description=INFER,
        example=f"--configs {R50_PANOPTIC} --size 800 1088 --output-size 480 640 --peers straightforward --threads 2",
        threads=1,
        seconds=600.0,
        run=run_infer,
        show=infer.format_report,
        wrong=wrong_rows,
    )
    _add_model_options(parser, size=[800, 1088], batch=1)
    parser.add_argument(
        "--output-size", type=positive, nargs=2, metavar=("H", "W"), help="of results (default: that of the images)"
    )
    parser.add_argument("--tasks", choices=TASKS, nargs="+", help="(default: those that are on in each config)")
    parser.add_argument(
        "--stage",
        choices=PARTS,
        default=PARTS[0],
        help="the network and post-processing, only the one, or only the other, task by task (default: %(default)s)",
    )
    parser.add_argument(
        "--kept", type=positive, default=20, help="queries of an image that are sure of a class (default: %(default)s)"
    )


def add_train_command(commands: Subcommands) -> None:
    parser = add_subcommand(
        commands,
        "train",
        description=TRAIN,
        example=f"--configs {R50_INSTANCE} {MASK_RCNN} --size 512 512 --batch 2 --masks 20 --threads 2",
        threads=1,
        seconds=600.0,
        run=run_train,
        show=train.format_report,
        wrong=wrong_rows,
    )
    _add_model_options(parser, size=[512, 512], batch=2)
    parser.add_argument("--masks", type=positive, default=20, help="of an image (default: %(default)s)")


def _add_model_options(parser: argparse.ArgumentParser, *, size: list[int], batch: int) -> None:
    shown = " ".join(str(side) for side in size)
    parser.add_argument("--configs", nargs="+", required=True, metavar="FILE", help="configs to compare")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides for all configs")
    parser.add_argument("--peers", choices=PEERS, nargs="+", default=[], help="to measure beside them (default: none)")
    parser.add_argument(
        "--size", type=positive, nargs=2, metavar=("H", "W"), help=f"of images, in pixels (default: {shown})"
    )
    parser.add_argument("--batch", type=positive, default=batch, help="images (default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="(default: %(default)s)")
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:1 (default: %(default)s)")
    parser.add_argument("--no-memory", action="store_true", help="measure time alone, which takes a third of the time")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    parser.set_defaults(default_size=size)


def _size(options: argparse.Namespace) -> tuple[int, int]:
    height, width = options.size or (QUICK_SIZE if options.quick else options.default_size)
    return height, width


def _effort(options: argparse.Namespace) -> Effort:
    return Effort(options.threads, repeats(options), options.seconds, memory=not options.no_memory)


def run_infer(options: argparse.Namespace) -> Report:
    size = _size(options)
    work = Work(
        size=size,
        output_size=tuple(options.output_size or size),
        batch=options.batch,
        kept=options.kept,
        tasks=tuple(options.tasks) if options.tasks else None,
        precision=options.precision,
        device=options.device,
        opts=tuple(options.opts),
    )
    report = run_infer_benchmark(
        InferOptions(options.configs, work, peers=options.peers, part=options.stage, effort=_effort(options))
    )
    return _written(options, report, infer.format_report(report))


def run_train(options: argparse.Namespace) -> Report:
    size = _size(options)
    work = Work(
        size=size,
        output_size=size,
        batch=options.batch,
        masks=options.masks,
        precision=options.precision,
        device=options.device,
        opts=tuple(options.opts),
    )
    report = run_train_benchmark(ModelOptions(options.configs, work, peers=options.peers, effort=_effort(options)))
    return _written(options, report, train.format_report(report))


def _written(options: argparse.Namespace, report: Report, tables: str) -> Report:
    if options.markdown:
        write_text(options.markdown, tables)
    return report
