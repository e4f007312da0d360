#!/usr/bin/env python
"""Find the object-mask and overlap thresholds of panoptic results that give a model its highest PQ on a dataset."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from detectron2.utils.logger import setup_logger

from mask2former_ext.config import load_config
from mask2former_ext.files import write_json
from mask2former_ext.threshold_tuning import PRECISIONS, format_result, tune_thresholds

EPILOG = """
The network runs once an image; its queries and masks are then put together with every pair of thresholds on a grid. A
config's own thresholds are on the grid too, and have the PQ that train_net.py --eval-only gives them. What the best
thresholds gain here is more than what they gain on other images; so each half of the images is also given the
thresholds that are best on the other half.

With --save-predictions the network runs only for images that the folder lacks: a run that was interrupted goes on, and
another grid takes no network at all. A file holds the masks of the queries that found something: 3 MB for 30 of them
on an image of COCO. Masks are rounded to float16 there, which may move figures a little; --precision float32 does not,
and takes twice the space.

example: python tools/tune_thresholds.py --config-file configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml
    --weights model_final.pth --save-predictions output/predictions --json output/thresholds.json
without a GPU, on another dataset: ... --dataset coins_val -- MODEL.DEVICE cpu
"""


def step(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.001 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0.001 to 1")
    return value


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a YAML config of a MaskFormer")
    parser.add_argument("--weights", required=True, metavar="FILE", help="its weights")
    parser.add_argument("--dataset", default="", metavar="NAME", help="(default: that of DATASETS.TEST)")
    parser.add_argument("--step", type=step, default=0.05, help="from 0 to below 1, of both thresholds (default: 0.05)")
    parser.add_argument("--save-predictions", metavar="DIR", help="keep raw predictions there, and use what is there")
    parser.add_argument("--precision", choices=PRECISIONS, default="float16", help="of kept masks (default: float16)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config, after a --")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    cfg = load_config(options.config_file, [*options.opts, "MODEL.WEIGHTS", options.weights])
    result = tune_thresholds(
        cfg,
        dataset_name=options.dataset,
        folder=options.save_predictions,
        precision=options.precision,
        values=[round(index * options.step, 6) for index in range(math.ceil(1 / options.step - 1e-9))],
    )
    print(format_result(result))
    if options.json:
        described = {"config": options.config_file, "weights": options.weights, "overrides of the config": options.opts}
        write_json(options.json, {**described, **result.as_json()}, indent=2)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    setup_logger(name="mask2former_ext")
    try:
        run(options)
    except (OSError, ValueError) as error:
        print(f"tune_thresholds.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
