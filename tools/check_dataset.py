#!/usr/bin/env python
"""Audit a dataset: files, sizes, ids, labels, masks and boxes of every image, before a training trips over them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import mask2former_ext  # noqa: F401  (registers the datasets)
from mask2former_ext.arguments import positive
from mask2former_ext.audit import (
    AuditReport,
    audit_dataset,
    audit_registered,
    draw_contact_sheet,
    find_shared_images,
    format_report,
    read_class_names,
)
from mask2former_ext.config import is_maskformer, load_config
from mask2former_ext.files import whole_file, write_json

EPILOG = """
The exit status is 1 when there is a fault: what stops a training or an evaluation, or makes annotations mean something
else than was meant; with --strict also when there is a warning.

examples:
  python tools/check_dataset.py --images photos --annotations train.json --contact-sheet sheet.png
  python tools/check_dataset.py --task panoptic --images val2017 --annotations panoptic_val2017.json --workers 8
  python tools/check_dataset.py --task semantic --images photos --annotations labels --num-classes 19
  python tools/check_dataset.py --dataset coco_2017_val_panoptic --config-file \\
      configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml --json findings.json
"""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", metavar="NAME", help="a registered dataset, in place of the files below")
    files = parser.add_argument_group("files")
    files.add_argument("--images", type=Path, metavar="DIR", help="folder of the images")
    files.add_argument(
        "--annotations", type=Path, metavar="PATH", help="COCO's JSON file; for semantic the folder of label PNGs"
    )
    files.add_argument("--panoptic-root", type=Path, metavar="DIR", help="PNGs (default: --annotations without .json)")
    files.add_argument("--val-images", type=Path, metavar="DIR", help="validation data, to audit too")
    files.add_argument("--val", type=Path, metavar="PATH", help="annotations of --val-images")
    files.add_argument("--val-panoptic-root", type=Path, metavar="DIR")
    parser.add_argument(
        "--task", choices=("instance", "panoptic", "semantic"), help="(default: instance, or what --dataset has)"
    )
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument("--num-classes", type=positive, metavar="K", help="semantic labels are 0 … K - 1")
    classes.add_argument(
        "--classes", type=Path, metavar="FILE", help="names of the classes: a line each (.txt), or a list (.json)"
    )
    parser.add_argument("--ignore-label", type=int, default=255, help="of semantic labels (default: %(default)s)")
    queries = parser.add_mutually_exclusive_group()
    queries.add_argument("--num-queries", type=positive, default=100, help="of the model (default: %(default)s)")
    queries.add_argument("--config-file", metavar="FILE", help="take the number of queries from this config")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found there")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE.png", help="draw images and annotations there")
    parser.add_argument("--strict", action="store_true", help="warnings, too, make the exit status 1")
    options = parser.parse_args(arguments)
    if bool(options.dataset) == bool(options.images) or bool(options.images) != bool(options.annotations):
        parser.error("give --dataset, or both --images and --annotations")
    if bool(options.val_images) != bool(options.val) or (options.dataset and options.val_images):
        parser.error("--val-images and --val go together, and with --images")
    if options.contact_sheet and options.contact_sheet.suffix.lower() != ".png":
        parser.error(f"--contact-sheet {options.contact_sheet} does not end in .png")
    return options


def audit(options: argparse.Namespace) -> list[AuditReport]:
    """The reports of what was asked for: of one dataset, or of training and validation data."""
    queries = options.num_queries
    if options.config_file:
        cfg = load_config(options.config_file)
        queries = cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES if is_maskformer(cfg) else None
    if options.dataset:
        return [audit_registered(options.dataset, options.task, num_queries=queries, workers=options.workers)]
    names = [str(label) for label in range(options.num_classes)] if options.num_classes else None
    names = read_class_names(options.classes) if options.classes else names
    files = [(options.images, options.annotations, options.panoptic_root)]
    if options.val_images:
        files.append((options.val_images, options.val, options.val_panoptic_root))
    reports = [
        audit_dataset(
            images,
            annotations,
            options.task or "instance",
            panoptic_root=panoptic_root,
            class_names=names,
            ignore_label=options.ignore_label,
            num_queries=queries,
            workers=options.workers,
        )
        for images, annotations, panoptic_root in files
    ]
    if len(reports) == 2:
        reports[1].findings += find_shared_images(*reports)
    return reports


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        reports = audit(options)
        print("\n".join(map(format_report, reports)), end="")
        if options.json:
            content = reports[0].to_json()
            if len(reports) == 2:
                content["validation"] = reports[1].to_json()
            write_json(options.json, content, indent=2)
        if options.contact_sheet:
            with whole_file(options.contact_sheet) as unfinished:
                draw_contact_sheet(reports[0]).save(unfinished, format="PNG")
    except (OSError, ValueError) as error:
        print(f"check_dataset.py: {error}", file=sys.stderr)
        return 1
    return int(any(report.faults or (options.strict and report.warnings) for report in reports))


if __name__ == "__main__":
    sys.exit(main())
