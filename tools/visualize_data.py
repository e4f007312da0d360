#!/usr/bin/env python
"""Show what the dataset mapper feeds a model: images before and after the augmentations, with their targets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

import mask2former_ext  # noqa: F401  (registers models and datasets)
from mask2former_ext.arguments import whole_number
from mask2former_ext.config import load_config
from mask2former_ext.files import whole_file
from mask2former_ext.visualization.sample_pictures import describe_sample, sample_sheet
from mask2former_ext.visualization.training_samples import SPLITS, SampleReader

EPILOG = """
Each sample is shown four times, as far as its mapper gives it: the image file, the image as the model gets it, the
objects to learn on it, and the semantic map. Padding has black stripes; void and crowds, which are no target, have red
ones. Datasets are those of DATASETS.TRAIN and DATASETS.TEST; where they have fewer images than --count, these come
again, augmented anew. They are the first samples of training on one GPU with SEED S. With --split test the image is
that of evaluation, and there are no targets.

example: python tools/visualize_data.py --config-file configs/quickstart/maskformer2_R18_coins.yaml \\
             --count 6 --output output/samples.png
         python tools/visualize_data.py --config-file configs/quickstart/mask_rcnn_R18_FPN_coins.yaml \\
             --output output/samples INPUT.RANDOM_FLIP none
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a YAML config, of any model")
    parser.add_argument("--split", choices=SPLITS, default="train", help="training or evaluation (default: train)")
    parser.add_argument("--count", type=whole_number, default=4, metavar="N", help="samples to show (default: 4)")
    parser.add_argument("--seed", type=whole_number, default=0, metavar="S", help="SEED of training (default: 0)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output/samples.png"),
        metavar="DIR|FILE.png",
        help="one PNG with all samples, or a folder with a PNG for each (default: %(default)s)",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    options = parser.parse_args(arguments)
    if options.count == 0:
        parser.error("--count is 0: nothing to show")
    if options.output.suffix not in ("", ".png"):
        parser.error(f"--output {options.output} is neither a .png file nor a folder")
    return options


def save(picture: Image.Image, path: Path) -> None:
    with whole_file(path) as unfinished:
        picture.save(unfinished)
    print(path)


def run(options: argparse.Namespace) -> None:
    reader = SampleReader(load_config(options.config_file, options.opts), options.split)
    title = f"{options.config_file}, {options.split}, seed {options.seed}"
    shown = []
    for index, sample in enumerate(
        tqdm(reader.samples(options.count, options.seed), total=options.count, disable=None)
    ):
        tqdm.write(describe_sample(sample))
        if options.output.suffix:
            shown.append(sample)
        else:
            name = f"{index:03d}_{Path(sample.file_name).stem}.png"
            save(sample_sheet([sample], title=title), options.output / name)
    if shown:
        save(sample_sheet(shown, title=title), options.output)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except (OSError, ValueError) as error:
        print(f"visualize_data.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
