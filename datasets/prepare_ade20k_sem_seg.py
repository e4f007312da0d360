#!/usr/bin/env python
"""Make ADE20K's label images (annotations_detectron2) from its scene parsing annotations.

Labels are 0 … 149, and 255 where a pixel is unlabeled. A run that was stopped is continued by the next.
example: python datasets/prepare_ade20k_sem_seg.py --root /data --splits val --limit 100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mask2former_ext.data.datasets.ade20k_preparation import prepare_semantic
from mask2former_ext.data.datasets.preparation import parse_options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arguments)
    for split in options.splits:
        try:
            count = prepare_semantic(options.root, split, workers=options.workers, limit=options.limit)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{split}: label images of {count} images are there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
