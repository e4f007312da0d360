#!/usr/bin/env python
"""Make ADE20K's instance annotations in COCO format (ade20k_instance_*.json) from its instance PNGs.

Categories have the ids of the label images of scene parsing. A run that was stopped is continued by the next.
example: python datasets/prepare_ade20k_ins_seg.py --root /data --splits val --limit 100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mask2former_ext.data.datasets.ade20k_preparation import prepare_instance
from mask2former_ext.data.datasets.preparation import parse_options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arguments)
    for split in options.splits:
        try:
            count = prepare_instance(options.root, split, workers=options.workers, limit=options.limit)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{split}: instance annotations of {count} images are there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
