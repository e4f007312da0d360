#!/usr/bin/env python
"""Show what single queries of a MaskFormer do, layer by layer: masks, attention masks and the matched truth."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

import mask2former_ext  # noqa: F401  (registers models and datasets)
from mask2former_ext.arguments import whole_number
from mask2former_ext.classes import class_names
from mask2former_ext.config import load_config
from mask2former_ext.files import whole_file
from mask2former_ext.predictor import class_metadata
from mask2former_ext.visualization.queries import QueryTrace, trace_queries
from mask2former_ext.visualization.query_inputs import dataset_input, image_input, load_query_model
from mask2former_ext.visualization.query_pictures import describe_query, draw_queries

EPILOG = """
Rows are queries, columns are predictions: of the raw queries first, then one a decoder layer. Each has the mask, the
class with its score, and below it where the next layer lets the query look. With --dataset, each layer's predictions
are matched with the truth as training matches them. It runs on the CPU, unless MODEL.DEVICE is among the overrides.

example: python tools/visualize_queries.py --config-file configs/quickstart/maskformer2_R18_coins.yaml \\
             --weights output/quickstart/maskformer2_R18_coins/model_final.pth --dataset coins_val --index 0 \\
             --top 4 --output output/queries.png
         python tools/visualize_queries.py --config-file CONFIG --weights FILE --input photo.jpg --queries 3 7 12 \\
             --output output/queries.png
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a YAML config of a MaskFormer")
    parser.add_argument("--weights", required=True, metavar="FILE", help="its checkpoint, .pth or .pkl")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", metavar="IMAGE", help="an image file")
    source.add_argument("--dataset", metavar="NAME", help="a registered dataset, whose truth is shown too")
    parser.add_argument("--index", type=whole_number, default=0, metavar="I", help="of its image (default: 0)")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--queries", type=whole_number, nargs="+", metavar="Q", help="which queries, from 0 on")
    chosen.add_argument(
        "--top", type=whole_number, default=5, metavar="N", help="those that are surest of a class (default: 5)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.png", help="the picture to write")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    options = parser.parse_args(arguments)
    if options.output.suffix != ".png":
        parser.error(f"--output {options.output} is no .png file")
    if options.top == 0:
        parser.error("--top is 0: nothing to show")
    return options


def choose_queries(options: argparse.Namespace, trace: QueryTrace) -> list[int]:
    if options.queries is None:
        return trace.most_confident(options.top)
    unknown = [query for query in options.queries if query >= trace.num_queries]
    if unknown:
        raise ValueError(f"--queries {unknown[0]}: the model has the queries 0…{trace.num_queries - 1}.")
    return options.queries


def names_of(options: argparse.Namespace, cfg: CfgNode) -> list[str]:
    if options.dataset is None:
        return class_metadata(cfg).stuff_classes
    return class_names(MetadataCatalog.get(options.dataset), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)


def run(options: argparse.Namespace) -> None:
    cfg = load_config(options.config_file, ["MODEL.DEVICE", "cpu", *options.opts])
    model = load_query_model(cfg, options.weights)
    inputs = image_input(cfg, options.input) if options.input else dataset_input(cfg, options.dataset, options.index)
    trace = trace_queries(model, inputs, cfg.INPUT.FORMAT)
    queries, names = choose_queries(options, trace), names_of(options, cfg)
    title = " · ".join(Path(path).name for path in (options.config_file, options.weights, inputs["file_name"]))
    picture = draw_queries(trace, queries, names, title=title)
    with whole_file(options.output) as unfinished:
        picture.save(unfinished)
    for query in queries:
        print(describe_query(trace, query, names))
    print(options.output)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"visualize_queries.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
