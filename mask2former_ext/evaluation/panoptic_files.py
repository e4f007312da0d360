"""Files of the COCO panoptic format: PNGs that hold segment ids as colours, and the JSON that describes them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.utils import comm
from PIL import Image

from ..data.reading import id_to_rgb
from ..files import write_json


class PredictionWriter:
    """Writes predictions in the COCO panoptic format: ``predictions.json``, and PNGs in ``predictions/`` beside it.

    The PNGs wait in ``predictions.partial/`` until :meth:`publish`, so that an evaluation that fails leaves the files
    of the one before as they were. Each worker writes, and publishes, the images that it evaluated.
    """

    def __init__(self, output_dir: str) -> None:
        self._json_file = os.path.join(output_dir, "predictions.json")
        self._folder = os.path.join(output_dir, "predictions")
        self._partial_folder = self._folder + ".partial"
        self._annotations: list[dict[str, Any]] = []

    def reset(self) -> None:
        self._annotations = []

    def add(self, image_id: int | str, gt_file_name: str, id_map: np.ndarray, segments: list[dict[str, Any]]) -> None:
        """Write the PNG of one image.

        Args:
            image_id: the image's id in the dataset.
            gt_file_name: path of its ground truth below the dataset's panoptic folder; names the PNG.
            id_map: integer array H x W of segment ids, 0 for void.
            segments: ``id`` and ``category_id`` (the dataset's, not contiguous) of each segment.
        """
        os.makedirs(self._partial_folder, exist_ok=True)
        file_name = os.path.splitext(gt_file_name.replace("/", "_"))[0] + ".png"
        Image.fromarray(id_to_rgb(id_map)).save(os.path.join(self._partial_folder, file_name))
        self._annotations.append({"image_id": image_id, "file_name": file_name, "segments_info": segments})

    def publish(self, description: Mapping[str, Sequence[Any]]) -> None:
        """Move the PNGs to their place, then write the JSON; all workers call it.

        Args:
            description: what the JSON holds beside the annotations: ``images`` and ``categories``.
        """
        os.makedirs(self._folder, exist_ok=True)
        for annotation in self._annotations:
            name = annotation["file_name"]
            os.replace(os.path.join(self._partial_folder, name), os.path.join(self._folder, name))
        gathered = comm.gather(self._annotations)
        if not comm.is_main_process():
            return
        shutil.rmtree(self._partial_folder, ignore_errors=True)
        content = {**description, "annotations": [annotation for part in gathered for annotation in part]}
        write_json(self._json_file, content)
