#!/usr/bin/env python
"""Export a Mask2Former to ONNX, torch.export or TorchScript, and check the file against the model."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings

from mask2former_ext.arguments import positive
from mask2former_ext.export import FORMATS, TASKS, TOLERANCE, ExportReport, export_model
from mask2former_ext.export.loading import load_for_export

EPILOG = """
Input: "images", B×C×H×W float32 in the order of INPUT.FORMAT, values as in image files (0 to 255). Normalisation, and
padding to multiples of MODEL.MASK_FORMER.SIZE_DIVISIBILITY, are inside. Batch, height and width are free, height and
width above that number; with --static they are not. The images of a batch have one size; results have it too.

Tasks, of which a file may hold several (names and shapes of the outputs are in its metadata):
  raw       class and mask logits of the last layer
  semantic  a score for each class and pixel
  instance  the best TEST.DETECTIONS_PER_IMAGE instances: scores, classes, boxes, masks
  panoptic  a map of segment ids, and a table of as many rows as queries: classes, scores, which rows hold a segment

Formats: onnx (.onnx; weights of more than 1.5 GB go into FILE.data beside it) needs onnx, onnxscript and onnxruntime,
and deformable attention is GridSample. torch_export (.pt2) keeps the compiled operator, so that mask2former_ext has to
be imported before torch.export.load; --reference-op makes it plain PyTorch. torchscript (.pt, .ts) is a trace;
TorchScript is deprecated since torch 2.15.

The file is run at its own size, and if that is free at three others, before it gets its name. Differences are shares:
of the largest number, or of the ids, classes and mask pixels that are others. Above --tolerance nothing is kept.

example: python tools/export.py --config-file configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml \\
             --weights model_final.pth --format onnx --task panoptic --output mask2former.onnx
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the model's .yaml config")
    parser.add_argument("--weights", required=True, metavar="FILE", help="its checkpoint; '' leaves weights random")
    parser.add_argument("--format", required=True, choices=list(FORMATS))
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=["raw"], help="(default: raw)")
    parser.add_argument(
        "--size", type=positive, nargs=2, metavar=("H", "W"), help="of the example images (default: 256 320)"
    )
    parser.add_argument("--static", action="store_true", help="for one image of --size alone")
    parser.add_argument("--opset", type=positive, metavar="N", help="operator set of ONNX, 16 or newer (default: 20)")
    parser.add_argument("--reference-op", action="store_true", help="torch_export: no operator of mask2former_ext")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help=f"(default: {TOLERANCE})")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config, after a --")
    return parser.parse_args(arguments)


def show(report: ExportReport, tolerance: float) -> None:
    print(f"{'batch×height×width':>20}  largest difference of each output")
    for size in dict.fromkeys(difference.size for difference in report.differences):
        parts = [f"{each.output} {each.value:.1e}" for each in report.differences if each.size == size]
        print(f"{'×'.join(map(str, size)):>20}  {', '.join(parts)}")
    largest = report.largest
    print(f"largest difference: {largest.value:.1e} ({largest.output}); tolerance {tolerance:.1e}")
    for path, size in report.files.items():
        print(f"{path}: {size / 2**20:.1f} MiB, exported in {report.seconds:.0f} s")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mask2former_ext").setLevel(logging.INFO)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"torch\.|copyreg|onnxscript")  # of exporters, about their own insides
    try:
        model, input_format = load_for_export(options.config_file, options.weights, options.opts)
        report = export_model(
            model,
            options.output,
            format=options.format,
            tasks=options.task,
            size=tuple(options.size) if options.size else None,
            static=options.static,
            opset=options.opset,
            reference_op=options.reference_op,
            tolerance=options.tolerance,
            input_format=input_format,
        )
    except (ImportError, OSError, ValueError) as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 1
    show(report, options.tolerance)
    return 0


if __name__ == "__main__":
    sys.exit(main())
