"""The picture that shows what one model found: photograph, truth and result beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image

from ..data.reading import rgb_to_id
from ..visualization import Segment, draw_segments, segments_from_instances, segments_from_panoptic, side_by_side


def draw_result(
    record: Mapping[str, Any], outputs: Mapping[str, Any], dataset_name: str, model_name: str, path: Path
) -> None:
    """Write a PNG with the photograph, the truth, and a model's result on it.

    Args:
        record: Detectron2's dataset dict of the image, with ``pan_seg_file_name`` and ``segments_info``.
        outputs: the model's for this image; ``panoptic_seg`` is drawn where there is one, ``instances`` elsewhere.
        dataset_name: whose metadata name the classes.
        model_name: the caption of the result.
        path: of the PNG; its folder is made.
    """
    photo = read_image(record["file_name"], format="RGB")
    metadata = MetadataCatalog.get(dataset_name)
    truth = _truth(record, metadata.stuff_classes)
    if "panoptic_seg" in outputs:
        panoptic_seg, segments_info = outputs["panoptic_seg"]
        found = segments_from_panoptic(panoptic_seg, segments_info, metadata.stuff_classes)
    else:
        found = segments_from_instances(outputs["instances"], metadata.thing_classes)
    sheet = side_by_side(
        [
            ("photograph, not seen in training", draw_segments(photo, [])),
            ("truth", draw_segments(photo, truth)),
            (model_name, draw_segments(photo, found, like=truth)),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _truth(record: Mapping[str, Any], class_names: list[str]) -> list[Segment]:
    id_map = rgb_to_id(read_image(record["pan_seg_file_name"], format="RGB"))
    return segments_from_panoptic(torch.from_numpy(id_map.astype(np.int64)), record["segments_info"], class_names)
