#!/usr/bin/env python
"""Convert ImageNet weights of a ResNet of torchvision to a file for MODEL.WEIGHTS."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mask2former_ext.checkpoint.convert import convert_file, convert_torchvision_resnet

EPILOG = """
The config that uses them needs what torchvision's networks were trained with; configs of Mask2Former have it:
INPUT.FORMAT RGB, MODEL.RESNETS.STRIDE_IN_1X1 False, MODEL.PIXEL_MEAN [123.675, 116.280, 103.530],
MODEL.PIXEL_STD [58.395, 57.120, 57.375].

example: python tools/convert_torchvision_to_d2.py resnet101-63fe2227.pth R-101.pkl
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "input", metavar="INPUT", type=Path, help="a .pth file of torchvision: a ResNet, Wide ResNet or ResNeXt"
    )
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="the .pkl file to write, for MODEL.WEIGHTS")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        print(convert_file(options.input, options.output, convert_torchvision_resnet))
    except (OSError, ValueError) as error:
        print(f"convert_torchvision_to_d2.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
