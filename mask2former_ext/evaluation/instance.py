"""COCO's average precision where the labels of things are not 0, 1, 2, … ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from ..data.datasets.loading import require_path
from .boundary_instance import BoundaryCOCOEvaluator


class ThingInstanceEvaluator(BoundaryCOCOEvaluator):
    """COCO AP of a model whose label space holds things and stuff in any order (ADE20K, Mapillary Vistas panoptic).

    Detectron2's evaluator wants the things' contiguous ids to be 0 … T - 1. This one renumbers them, in the order of
    the dataset's ids, and leaves out instances whose class is no thing.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        output_dir: str | None = None,
        *,
        boundary_dilation_ratio: float | None = None,
    ) -> None:
        """See :class:`BoundaryCOCOEvaluator`."""
        json_file = MetadataCatalog.get(dataset_name).get("json_file")
        if json_file is not None:
            require_path(
                json_file, f"instance annotations of {dataset_name}", "datasets/README.md says how to make it."
            )
        super().__init__(dataset_name, tasks, output_dir, boundary_dilation_ratio=boundary_dilation_ratio)
        contiguous_ids = MetadataCatalog.get(dataset_name).thing_dataset_id_to_contiguous_id
        dataset_ids = sorted(contiguous_ids)
        categories = self._coco_api.loadCats(sorted(self._coco_api.getCatIds()))
        # The catalogue's own metadata stays as it is: a model and other evaluators read it too.
        renumbered = self._metadata.as_dict()
        renumbered["thing_dataset_id_to_contiguous_id"] = {dataset_id: i for i, dataset_id in enumerate(dataset_ids)}
        renumbered["thing_classes"] = [category["name"] for category in categories]
        self._metadata = Metadata(**renumbered)
        labels = [contiguous_ids[dataset_id] for dataset_id in dataset_ids]
        self._thing_of_label = torch.full((max(labels) + 1,), -1)
        self._thing_of_label[labels] = torch.arange(len(labels))

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """See :meth:`detectron2.evaluation.COCOEvaluator.process`; ``outputs`` stay as they are."""
        super().process(inputs, [{"instances": self._things(output["instances"])} for output in outputs])

    def _things(self, instances: Any) -> Any:
        instances = instances.to(self._cpu_device)
        labels = instances.pred_classes
        instances = instances[labels < len(self._thing_of_label)]
        instances.pred_classes = self._thing_of_label[instances.pred_classes]
        return instances[instances.pred_classes >= 0]
