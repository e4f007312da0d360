#!/usr/bin/env python
"""Convert ImageNet weights of a Swin Transformer to a file for MODEL.WEIGHTS."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mask2former_ext.checkpoint.convert import convert_file, convert_swin

EPILOG = """
The input is a .pth file of the authors of Swin Transformer (version 1), or timm's of that model, which may be a
.safetensors file too. The configs in configs/*/*/swin expect the output in the working directory, under the name of
the input with the ending .pkl.

example: python tools/convert_swin_to_d2.py swin_tiny_patch4_window7_224.pth swin_tiny_patch4_window7_224.pkl
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="INPUT", type=Path, help="a .pth or .safetensors file of a classifier")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="the .pkl file to write, for MODEL.WEIGHTS")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        print(convert_file(options.input, options.output, convert_swin))
    except (OSError, ValueError) as error:
        print(f"convert_swin_to_d2.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
