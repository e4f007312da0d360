#!/usr/bin/env python
"""Convert Mask2Former models between this package and transformers, and compare both models' predictions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mask2former_ext.checkpoint.hf import convert_to_d2, convert_to_hf
from mask2former_ext.config import load_config

CONFIGS = Path(__file__).parents[1] / "configs"

TO_D2 = """
FOLDER holds config.json and model.safetensors (or its shards), or is the name of a model on the Hub. Beside OUT.pth
comes OUT.yaml, a config that builds the model; without --config-file over the one in configs/ that fits, if there is
one.

example: python tools/convert_hf.py to-d2 mask2former-swin-tiny-coco-panoptic swin_tiny.pth
"""
TO_HF = """
FILE is a checkpoint of tools/train_net.py or a published one. OUT_FOLDER gets config.json, model.safetensors and
preprocessor_config.json.

example: python tools/convert_hf.py to-hf --weights output/model_final.pth mask2former-r50 \\
             --config-file configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/convert_hf.py to-d2 --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter}

    to_d2 = commands.add_parser("to-d2", help="from transformers to a checkpoint and a config", epilog=TO_D2, **layout)
    to_d2.add_argument("source", metavar="FOLDER", help="a folder of transformers, or a name on the Hub")
    to_d2.add_argument("output", metavar="OUT.pth", type=Path, help="the checkpoint to write")
    to_d2.add_argument("--config-file", default="", help="a config to start from, for data sets and results")

    to_hf = commands.add_parser("to-hf", help="from a checkpoint to a folder of transformers", epilog=TO_HF, **layout)
    to_hf.add_argument("--config-file", required=True, help="the config of the model")
    to_hf.add_argument("--weights", required=True, metavar="FILE", help="its checkpoint, .pth or .pkl")
    to_hf.add_argument("output", metavar="OUT_FOLDER", type=Path, help="the folder to make")

    for command in (to_d2, to_hf):
        command.add_argument("--opts", nargs="+", metavar="KEY VALUE", default=[], help="changes of the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        if options.command == "to-d2":
            print(convert_to_d2(options.source, options.output, options.config_file, options.opts, CONFIGS))
        else:
            cfg = load_config(options.config_file, options.opts)
            print(convert_to_hf(cfg, options.weights, options.output))
    except (ImportError, OSError, ValueError) as error:
        print(f"convert_hf.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
