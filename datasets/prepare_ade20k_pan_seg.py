#!/usr/bin/env python
"""Make ADE20K's panoptic PNGs and annotations (ade20k_panoptic_*) from scene parsing and instances.

Instances lie over stuff; a thing without an instance is void. A run that was stopped is continued by the next.
example: python datasets/prepare_ade20k_pan_seg.py --root /data --splits val --limit 100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mask2former_ext.data.datasets.ade20k_preparation import prepare_panoptic
from mask2former_ext.data.datasets.preparation import parse_options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arguments)
    for split in options.splits:
        try:
            count = prepare_panoptic(options.root, split, workers=options.workers, limit=options.limit)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{split}: panoptic annotations of {count} images are there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
