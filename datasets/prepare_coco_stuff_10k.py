#!/usr/bin/env python
"""Make COCO-Stuff 10k's images and label images (*_detectron2) from its archive (version 1.1).

Labels are 0 … 170, and 255 where a pixel is unlabeled. Images become links to the published ones, or copies where the
file system has no links. A run that was stopped is continued by the next.
example: python datasets/prepare_coco_stuff_10k.py --root /data --splits test --limit 100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mask2former_ext.data.datasets.coco import STUFF_10K_SPLITS
from mask2former_ext.data.datasets.coco_stuff_preparation import prepare_coco_stuff_10k
from mask2former_ext.data.datasets.preparation import parse_options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arguments, splits=STUFF_10K_SPLITS)
    for split in options.splits:
        try:
            count = prepare_coco_stuff_10k(options.root, split, workers=options.workers, limit=options.limit)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{split}: {count} images and their label images are there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
