#!/usr/bin/env python
"""Make COCO's label images (panoptic_semseg_*) from its panoptic annotations.

Each pixel gets the contiguous id 0 … 132 of its category, crowds too, and 255 where there is none. These files are what
mIoU on coco_2017_*_panoptic_with_sem_seg is computed against; training does not read them. A run that was stopped is
continued by the next.
example: python datasets/prepare_coco_semantic.py --root /data --splits val --limit 100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mask2former_ext.data.datasets.panoptic_preparation import prepare_coco_semantic
from mask2former_ext.data.datasets.preparation import parse_options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arguments)
    for split in options.splits:
        try:
            count = prepare_coco_semantic(options.root, split, workers=options.workers, limit=options.limit)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{split}: label images of {count} images are there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
