"""Which evaluators a dataset gets: a table from the ``evaluator_type`` of its metadata."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)
from detectron2.utils import comm
from pycocotools.coco import COCO

from ..config import is_maskformer
from .boundary_instance import BoundaryCOCOEvaluator
from .boundary_semantic import BoundarySemSegEvaluator
from .instance import ThingInstanceEvaluator
from .packages import prepare_package
from .panoptic import PanopticEvaluator

logger = logging.getLogger(__name__)

CITYSCAPES = "cityscapesscripts.evaluation"

Factory = Callable[[CfgNode, str, str], DatasetEvaluator]


def _semantic(cfg: CfgNode, name: str, output_dir: str) -> DatasetEvaluator:
    return SemSegEvaluator(name, output_dir=output_dir)


def _panoptic(cfg: CfgNode, name: str, output_dir: str) -> DatasetEvaluator:
    return PanopticEvaluator(name, output_dir=output_dir, boundary_dilation_ratio=_boundary_dilation_ratio(cfg))


def _instance(cfg: CfgNode, name: str, output_dir: str) -> DatasetEvaluator:
    ids = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
    numbered_from_zero = ids is None or [ids[number] for number in sorted(ids)] == list(range(len(ids)))
    dilation_ratio = _boundary_dilation_ratio(cfg)
    if numbered_from_zero and dilation_ratio is None:
        evaluator: COCOEvaluator = COCOEvaluator(name, tasks=_coco_tasks(cfg), output_dir=output_dir)
    else:
        kind = BoundaryCOCOEvaluator if numbered_from_zero else ThingInstanceEvaluator
        evaluator = kind(name, _coco_tasks(cfg), output_dir, boundary_dilation_ratio=dilation_ratio)
    _number_annotations_from_one(evaluator._coco_api)
    return evaluator


def _number_annotations_from_one(truth: COCO) -> None:
    """Renumber the annotations of a file that has the id 0, which COCO's evaluation takes for "no match"."""
    if 0 not in truth.anns:
        return
    for number, annotation in enumerate(truth.dataset["annotations"], start=1):
        annotation["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()


def _boundary_dilation_ratio(cfg: CfgNode) -> float | None:
    return cfg.TEST.BOUNDARY.DILATION_RATIO if cfg.TEST.BOUNDARY.ENABLED else None


def _boundary_semantic(cfg: CfgNode, name: str, output_dir: str) -> DatasetEvaluator:
    return BoundarySemSegEvaluator(name, dilation_ratio=cfg.TEST.BOUNDARY.DILATION_RATIO)


def _coco_tasks(cfg: CfgNode) -> tuple[str, ...] | None:
    """Name the tasks where the config tells them; otherwise (None) Detectron2 looks at the predictions.

    Looking at predictions drops segm from the results when there are none, and expectations on it with it.
    """
    if is_maskformer(cfg):
        return ("bbox", "segm")
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        optional = {"segm": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
        return ("bbox", *(task for task, enabled in optional.items() if enabled))
    return None


def _lvis(cfg: CfgNode, name: str, output_dir: str) -> DatasetEvaluator:
    prepare_package("lvis.eval", "lvis", name)
    return LVISEvaluator(name, tasks=_coco_tasks(cfg), output_dir=output_dir)


def _pascal_voc(cfg: CfgNode, name: str, output_dir: str) -> DatasetEvaluator:
    return PascalVOCDetectionEvaluator(name)


def _cityscapes_semantic(cfg: CfgNode, name: str, output_dir: str) -> DatasetEvaluator:
    prepare_package(f"{CITYSCAPES}.evalPixelLevelSemanticLabeling", "cityscapesscripts", name)
    return CityscapesSemSegEvaluator(name)


def _cityscapes_instance(cfg: CfgNode, name: str, output_dir: str) -> DatasetEvaluator:
    prepare_package(f"{CITYSCAPES}.evalInstanceLevelSemanticLabeling", "cityscapesscripts", name)
    return CityscapesInstanceEvaluator(name)


# Detectron2's evaluators that write predictions to a temporary folder, for the first process to read.
ON_ONE_MACHINE = frozenset({_cityscapes_semantic, _cityscapes_instance})
# Those that TEST.BOUNDARY adds nothing to.
WITHOUT_BOUNDARIES = frozenset({_lvis, _pascal_voc, _cityscapes_instance})


class Row(NamedTuple):
    """One evaluator of an evaluator type.

    Attributes:
        output: what of the model's output it evaluates: "semantic", "instance" or "panoptic".
        factory: what makes it from (config, dataset name, output folder).
        always: the dataset is about it: a model without that output is warned about.
    """

    output: str
    factory: Factory
    always: bool = False


_COCO_LIKE = (Row("panoptic", _panoptic), Row("instance", _instance), Row("semantic", _semantic))

EVALUATORS: dict[str, tuple[Row, ...]] = {
    "sem_seg": (Row("semantic", _semantic, always=True),),
    "coco": (Row("instance", _instance, always=True),),
    "lvis": (Row("instance", _lvis, always=True),),
    "pascal_voc": (Row("instance", _pascal_voc, always=True),),
    "coco_panoptic_seg": _COCO_LIKE,
    "ade20k_panoptic_seg": (
        Row("semantic", _semantic, always=True),
        Row("panoptic", _panoptic),
        Row("instance", _instance),
    ),
    "mapillary_vistas_panoptic_seg": _COCO_LIKE,
    "cityscapes_sem_seg": (Row("semantic", _cityscapes_semantic, always=True),),
    "cityscapes_instance": (Row("instance", _cityscapes_instance, always=True),),
    "cityscapes_panoptic_seg": (
        Row("panoptic", _panoptic),
        Row("instance", _cityscapes_instance),
        Row("semantic", _cityscapes_semantic),
    ),
}

# Detectron2's meta-architectures that lack some of the outputs; the others (PanopticFPN, say) count as having all.
OUTPUTS = {
    "GeneralizedRCNN": {"instance"},
    "ProposalNetwork": {"instance"},
    "RetinaNet": {"instance"},
    "FCOS": {"instance"},
    "SemanticSegmentor": {"semantic"},
}


def model_outputs(cfg: CfgNode) -> set[str]:
    """Tell which of "semantic", "instance" and "panoptic" the config's model returns when it evaluates."""
    if is_maskformer(cfg):
        test = cfg.MODEL.MASK_FORMER.TEST
        enabled = {"semantic": test.SEMANTIC_ON, "instance": test.INSTANCE_ON, "panoptic": test.PANOPTIC_ON}
        return {output for output, on in enabled.items() if on}
    return OUTPUTS.get(cfg.MODEL.META_ARCHITECTURE, {"semantic", "instance", "panoptic"})


def evaluator_factories(cfg: CfgNode, dataset_name: str) -> list[Factory]:
    """Choose what makes the dataset's evaluators, without reading its files.

    Raises:
        ValueError: the evaluator type is none of :data:`EVALUATORS`, the model has no output to evaluate, the evaluator
            does not work on several machines, of which there are several, or TEST.BOUNDARY.DILATION_RATIO is not
            above 0.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in EVALUATORS:
        raise ValueError(
            f"dataset '{dataset_name}' has evaluator_type {evaluator_type!r} in its metadata; known are "
            f"{', '.join(EVALUATORS)}. Set it with MetadataCatalog.get('{dataset_name}').set(evaluator_type=...)."
        )
    outputs = model_outputs(cfg)
    rows = EVALUATORS[evaluator_type]
    chosen = [row for row in rows if row.always or row.output in outputs]
    missing = [row.output for row in chosen if row.output not in outputs]
    if not chosen or missing:
        wanted = ", ".join(missing or [row.output for row in rows])
        problem = (
            f"dataset '{dataset_name}' ({evaluator_type}) evaluates {wanted} segmentation, but "
            f"{cfg.MODEL.META_ARCHITECTURE} as configured returns only: {', '.join(sorted(outputs)) or 'nothing'}. "
            "For MaskFormer see MODEL.MASK_FORMER.TEST.{PANOPTIC,INSTANCE,SEMANTIC}_ON."
        )
        if not chosen:
            raise ValueError(problem)
        logger.warning(problem)
        # Detectron2's SemSegEvaluator fails without its output, and would take the other evaluators with it.
        chosen = [row for row in chosen if row.output in outputs] or chosen
    factories = [row.factory for row in chosen]
    if comm.get_world_size() > comm.get_local_size() and not ON_ONE_MACHINE.isdisjoint(factories):
        raise ValueError(
            f"dataset '{dataset_name}' ({evaluator_type}) can only be evaluated on one machine: Cityscapes' evaluation "
            "reads the predictions of all processes from one temporary folder. Append DATASETS.TEST '()' here, and "
            "evaluate checkpoints by --eval-only without --num-machines."
        )
    return factories + _boundary_factories(cfg, dataset_name, chosen)


def _boundary_factories(cfg: CfgNode, dataset_name: str, rows: Sequence[Row]) -> list[Factory]:
    """Further factories for ``TEST.BOUNDARY``: boundary mIoU; boundary AP and PQ come from the evaluators there are."""
    if not cfg.TEST.BOUNDARY.ENABLED:
        return []
    if not cfg.TEST.BOUNDARY.DILATION_RATIO > 0:
        raise ValueError(
            f"TEST.BOUNDARY.DILATION_RATIO is {cfg.TEST.BOUNDARY.DILATION_RATIO}, but must be above 0: it is the width "
            "of boundaries as a share of the image's diagonal (0.02 in the paper)."
        )
    without = [row.output for row in rows if row.factory in WITHOUT_BOUNDARIES]
    if without:
        logger.warning(
            "TEST.BOUNDARY has no effect on the %s evaluation of dataset '%s'.", " and ".join(without), dataset_name
        )
    return [_boundary_semantic for row in rows if row.output == "semantic"]


def build_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str | None = None) -> DatasetEvaluator:
    """Build the evaluator of a dataset by the ``evaluator_type`` of its metadata.

    Args:
        cfg: config of the model that will be evaluated.
        dataset_name: a registered dataset.
        output_dir: where results are written; default is ``OUTPUT_DIR/inference``, with a folder for each dataset in it
            when ``DATASETS.TEST`` has several.

    Returns:
        One evaluator, or a :class:`DatasetEvaluators` of several.

    Raises:
        ValueError: see :func:`evaluator_factories`.
    """
    factories = evaluator_factories(cfg, dataset_name)
    if output_dir is None:
        output_dir = os.path.join(cfg.OUTPUT_DIR, "inference")
        if len(cfg.DATASETS.TEST) > 1:
            output_dir = os.path.join(output_dir, dataset_name)
    evaluators = [factory(cfg, dataset_name, output_dir) for factory in factories]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)
