#!/usr/bin/env python
"""Make Mapillary Vistas' instance annotations in COCO format from its panoptic annotations (version 1.2).

Semantic and panoptic segmentation use Mapillary Vistas as it is unpacked; instance segmentation, and AP of panoptic
models, need mapillary_vistas_instance_*.json. Images, segments and crowds are those of the panoptic annotations. A run
that was stopped is continued by the next.
example: python datasets/prepare_mapillary_vistas_ins_seg.py --root /data --splits val --limit 100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mask2former_ext.data.datasets.panoptic_preparation import prepare_mapillary_instance
from mask2former_ext.data.datasets.preparation import parse_options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arguments)
    for split in options.splits:
        try:
            count = prepare_mapillary_instance(options.root, split, workers=options.workers, limit=options.limit)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{split}: instance annotations of {count} images are there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
