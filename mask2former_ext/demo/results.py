"""What a demonstration found, as files that other programs read: COCO's formats, and images of labels."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from ..classes import thing_labels
from ..data.datasets.coco_format import instance_annotation
from ..data.reading import id_to_rgb
from ..files import write_json
from .outputs import refuse_to_replace, save_picture
from .tasks import NOT_SHOWN

# Labels that stand for "none", in images of labels of 8 and of 16 bits.
NO_LABEL = {np.uint8: 255, np.uint16: 65535}


class ResultFiles:
    """Results of one task for several images: a JSON file, and for masks without overlap a PNG for each image.

    An image's ``image_id`` is the number that its name is, as COCO's are; its name without the ending where that is no
    number, or that of an image before.

    =========  ===================================  ======================================================
    task       JSON                                 PNG
    =========  ===================================  ======================================================
    instance   COCO's results: a list of objects    none
               with ``bbox``, ``score``, and
               ``segmentation`` in run-length code
    panoptic   COCO's panoptic format: ``images``,  ids of the segments, R + 256·G + 65536·B, 0 for none
               ``annotations``, ``categories``
    semantic   ``images`` with ``label_file``,      the class of each pixel, 0, 1, …: 8 bits, or 16 for more
               ``categories``, ``no_label``         than 255 classes; ``no_label`` where none is shown
    =========  ===================================  ======================================================

    ``category_id`` is the data set's, where it has its own ids; in images of labels classes are 0, 1, ….
    """

    def __init__(self, task: str, target: Path, metadata: Metadata) -> None:
        """
        Args:
            task: one of ``TASKS``.
            target: the JSON file, by its ending, beside which PNGs lie in a folder of the same name; or a folder, in
                which the JSON is called like the task.
            metadata: of the classes, as a ``Predictor`` has it.

        Raises:
            OSError: the JSON file cannot be written there.
        """
        self.task, self.metadata = task, metadata
        self.json_file = target if target.suffix.lower() == ".json" else target / f"{task}.json"
        self.folder = self.json_file.with_suffix("")
        self._check_place()
        self._image_ids: set[int | str] = set()
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        ids = {
            **(metadata.get("stuff_dataset_id_to_contiguous_id") or {}),
            **(metadata.get("thing_dataset_id_to_contiguous_id") or {}),
        }
        self._dataset_ids = {index: dataset_id for dataset_id, index in ids.items()}
        self._label_type = np.uint8 if len(metadata.stuff_classes) <= NO_LABEL[np.uint8] else np.uint16

    def _check_place(self) -> None:
        """At the start: the JSON file is written after the last image, which may be hours later."""
        if self.json_file.is_dir():
            raise IsADirectoryError(
                f"json '{self.json_file}' is a folder: name a file, or a folder without that ending"
            )
        self.json_file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.json_file.parent):
            pass

    def check(self, stems: Iterable[str], kept: Iterable[Path]) -> None:
        """Raise ValueError when the PNG of one of ``stems`` would be a file of ``kept``, photographs and pictures."""
        if self.task != "instance":
            refuse_to_replace(kept, map(self._png, stems), f"json '{self.json_file}'", "a photograph or its picture")

    def add(self, stem: str, file_name: str, size: tuple[int, int], shown: Any) -> None:
        """Take the results of an image, and write its PNG.

        Args:
            stem: names the image, each another.
            file_name: of the image.
            size: its height and width, in pixels.
            shown: what the task's ``select`` gave.
        """
        image_id = int(stem) if stem.isdecimal() and int(stem) not in self._image_ids else stem
        self._image_ids.add(image_id)
        image = {"id": image_id, "file_name": file_name, "height": size[0], "width": size[1]}
        if self.task == "instance":
            self._annotations += self._instances(image_id, shown)
        elif self.task == "panoptic":
            self._annotations.append(self._panoptic(image_id, stem, *shown))
        else:
            labels = np.where(shown == NOT_SHOWN, NO_LABEL[self._label_type], shown).astype(self._label_type)
            save_picture(self._png(stem), labels)
            image["label_file"] = self._png(stem).name
        self._images.append(image)

    def write(self) -> None:
        """Write the JSON file, at the end."""
        if self.task == "instance":
            write_json(self.json_file, self._annotations)
            return
        content: dict[str, Any] = {"images": self._images, "categories": self._categories()}
        if self.task == "panoptic":
            content["annotations"] = self._annotations
        else:
            content["no_label"] = NO_LABEL[self._label_type]
        write_json(self.json_file, content)

    def _png(self, stem: str) -> Path:
        return self.folder / f"{stem}.png"

    def _instances(self, image_id: int | str, instances: Any) -> list[dict[str, Any]]:
        found = instances_to_coco_json(instances, image_id)
        return [entry | {"category_id": self._dataset_id(entry["category_id"])} for entry in found]

    def _panoptic(
        self, image_id: int | str, stem: str, ids: np.ndarray, segments: list[dict[str, Any]]
    ) -> dict[str, Any]:
        save_picture(self._png(stem), id_to_rgb(ids))
        infos = []
        for segment in segments:
            info = instance_annotation(ids == segment["id"], self._dataset_id(segment["category_id"]))
            del info["segmentation"]
            infos.append({"id": segment["id"]} | info)
        return {"image_id": image_id, "file_name": self._png(stem).name, "segments_info": infos}

    def _categories(self) -> list[dict[str, Any]]:
        if self.task == "semantic":
            return [{"id": index, "name": name} for index, name in enumerate(self.metadata.stuff_classes)]
        things = thing_labels(self.metadata)
        return [
            {"id": self._dataset_id(index), "name": name, "isthing": int(index in things)}
            for index, name in enumerate(self.metadata.stuff_classes)
        ]

    def _dataset_id(self, category: int) -> int:
        return self._dataset_ids.get(category, category)
