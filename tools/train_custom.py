#!/usr/bin/env python
"""Train on data of your own: a COCO JSON file (instance or panoptic), or a folder of label PNGs.

Audits the data, adapts a config to them, trains, evaluates, keeps the best model, and writes a config for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import mask2former_ext  # noqa: F401  (registers models and datasets)
from mask2former_ext.audit.sources import Task
from mask2former_ext.config import load_config
from mask2former_ext.engine.workers import is_worker, launch
from mask2former_ext.own_data.run import TRAINING_CONFIG, Request, prepare, summary, train

EPILOG = """
examples:

Instances, a tenth of the images set aside for evaluation, from the weights of a model that was trained on COCO:
    $ tools/train_custom.py --task instance --images photos --annotations instances.json \\
        --base configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml --weights model_final.pkl \\
        --output output/mine

The same with Mask R-CNN: --base configs/coco/instance-segmentation/mask_rcnn_R50_FPN_bs16_160k.yaml

Panoptic, the PNGs in the folders panoptic_train and panoptic_val, on 8 GPUs:
    $ tools/train_custom.py --task panoptic --images photos --annotations panoptic_train.json --val panoptic_val.json \\
        --base configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml --num-gpus 8

Semantic, a folder of label PNGs, without a GPU, with settings of the config overridden:
    $ tools/train_custom.py --task semantic --images photos --annotations labels --classes names.txt \\
        --base configs/ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml --epochs 20 SOLVER.IMS_PER_BATCH 4

Later: --resume --output output/mine goes on after an interruption.
    $ tools/train_net.py --eval-only --config-file output/mine/trained.yaml
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = parser.add_argument_group("data")
    data.add_argument("--task", choices=Task.__args__, help="what the annotations are, and what is trained")
    data.add_argument("--images", type=Path, metavar="DIR", help="folder of the images")
    data.add_argument("--annotations", type=Path, metavar="PATH", help="COCO JSON file; semantic: folder of label PNGs")
    data.add_argument("--panoptic-root", type=Path, metavar="DIR", help="PNGs (default: named as the JSON file)")
    validation = data.add_mutually_exclusive_group()
    validation.add_argument("--val", type=Path, metavar="PATH", help="annotations to evaluate on")
    validation.add_argument(
        "--val-fraction",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="without --val: set aside (default: %(default)s)",
    )
    data.add_argument("--val-images", type=Path, metavar="DIR", help="images of --val (default: those of --images)")
    data.add_argument("--val-panoptic-root", type=Path, metavar="DIR", help="PNGs of --val (default: as above)")
    data.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, one a line (default: semantic: counted, else JSON's)"
    )
    data.add_argument("--ignore-label", type=int, default=255, help="in label PNGs (default: %(default)s)")
    data.add_argument("--ignore-faults", action="store_true", help="train whatever the audit finds")
    model = parser.add_argument_group("training")
    model.add_argument("--base", metavar="CONFIG", help="a config of configs/, or one that this command wrote")
    model.add_argument("--weights", metavar="FILE", help="to start from (default: what the base names)")
    model.add_argument("--epochs", type=float, help="(default: 50, more for small data)")
    model.add_argument(
        "--output", type=Path, default=Path("output/own_data"), metavar="DIR", help="(default: %(default)s)"
    )
    model.add_argument("--resume", action="store_true", help="go on with the run of --output")
    machines = parser.add_argument_group("machines")
    machines.add_argument("--num-gpus", type=int, default=1, help="of each machine (default: %(default)s)")
    machines.add_argument("--num-machines", type=int, default=1, help="(default: %(default)s)")
    machines.add_argument("--machine-rank", type=int, default=0, help="of this machine (default: %(default)s)")
    machines.add_argument("--dist-url", default="auto", help="tcp://MACHINE0:PORT where there are several machines")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="of the config")
    return parser


def run(options: argparse.Namespace, processes: int) -> None:
    if not (options.resume and (options.output / TRAINING_CONFIG).is_file()):
        of_request = {key: value for key, value in vars(options).items() if key in Request.__dataclass_fields__}
        prepare(Request(**of_request, processes=processes))
    device = load_config(str(options.output / TRAINING_CONFIG), options.overrides).MODEL.DEVICE
    launch(work, options, device=device)


def work(options: argparse.Namespace) -> None:
    train(str(options.output), options.overrides, options.resume)


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    missing = [name for name in ("task", "images", "annotations", "base") if getattr(options, name) is None]
    if missing and not (options.resume and (options.output / TRAINING_CONFIG).is_file()):
        parser.error(f"missing: {', '.join(f'--{name}' for name in missing)}")
    if options.num_gpus > max(torch.cuda.device_count(), 1):
        parser.error(f"--num-gpus is {options.num_gpus}, but PyTorch finds {torch.cuda.device_count()} GPUs here")
    if is_worker():
        parser.error("this command starts its processes by itself (--num-gpus); start it without torchrun")
    if options.num_machines > 1 and options.dist_url == "auto":
        parser.error("--num-machines needs --dist-url tcp://MACHINE0:PORT, the same on every machine")
    try:
        run(options, max(options.num_gpus, 1) * options.num_machines)
    except (ValueError, OSError) as error:
        print(f"train_custom.py: {error}", file=sys.stderr)
        return 1
    print(summary(options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
