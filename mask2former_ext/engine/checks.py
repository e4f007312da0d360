"""Checks of a config before training starts: what would otherwise fail late, or train something else."""

from __future__ import annotations

import logging
import os

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ..classes import thing_labels
from ..config import is_maskformer
from ..data import DATASET_MAPPERS
from ..data.datasets import check_panoptic_metadata
from ..evaluation import evaluator_factories
from .precision import autocast_dtype

logger = logging.getLogger(__name__)


def check_device(cfg: CfgNode) -> None:
    """Raise ValueError when ``MODEL.DEVICE`` is no device, or a GPU and there is none."""
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE is '{cfg.MODEL.DEVICE}': {str(error).splitlines()[0]}") from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE is '{cfg.MODEL.DEVICE}', but PyTorch {torch.__version__} finds no CUDA device. "
            "To run on the CPU, append: MODEL.DEVICE cpu"
        )


def check_datasets(cfg: CfgNode) -> None:
    """Raise ValueError for datasets that are not registered, or whose metadata does not do for what the config wants.

    Checked are the panoptic metadata of panoptic datasets, and the evaluators of ``DATASETS.TEST``.
    """
    registered = set(DatasetCatalog.list())
    for key in ("TRAIN", "TEST"):
        unknown = [name for name in cfg.DATASETS[key] if name not in registered]
        if unknown:
            raise ValueError(
                f"DATASETS.{key} names {unknown}, which are not registered. Register datasets of your own before "
                f"the trainer is made; registered are: {', '.join(sorted(registered))}"
            )
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if is_maskformer(cfg) and str(MetadataCatalog.get(name).get("evaluator_type")).endswith("panoptic_seg"):
            check_panoptic_metadata(name)
    for name in cfg.DATASETS.TEST:
        evaluator_factories(cfg, name)
    _warn_of_other_things(cfg)


def _warn_of_other_things(cfg: CfgNode) -> None:
    """Say so when a test set counts other classes as things than the training set, which the model goes by."""
    if not is_maskformer(cfg) or not cfg.DATASETS.TRAIN:
        return
    trained = thing_labels(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]))
    for name in cfg.DATASETS.TEST:
        if thing_labels(MetadataCatalog.get(name)) != trained:
            logger.warning(
                "Test set %s has other thing classes than %s: the model tells things from stuff as the latter does.",
                name,
                cfg.DATASETS.TRAIN[0],
            )


def check_dataset_mapper(cfg: CfgNode) -> None:
    """Raise ValueError when a MaskFormer would be trained with a mapper that does not prepare its targets."""
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if is_maskformer(cfg) and name not in DATASET_MAPPERS:
        raise ValueError(
            f"INPUT.DATASET_MAPPER_NAME is '{name}'; known are {', '.join(DATASET_MAPPERS)}. To train with a "
            "mapper of your own, override build_train_loader in a subclass of mask2former_ext.engine.Trainer."
        )


def check_solver(cfg: CfgNode) -> None:
    """Raise ValueError for an unknown SOLVER.AMP.PRECISION, or more SOLVER.ACCUMULATION_STEPS than images a worker."""
    autocast_dtype(cfg)
    steps = cfg.SOLVER.ACCUMULATION_STEPS
    workers = cfg.SOLVER.REFERENCE_WORLD_SIZE or comm.get_world_size()  # by the former, Detectron2 scales the batch
    images = cfg.SOLVER.IMS_PER_BATCH // workers
    if not 1 <= steps <= max(images, 1):
        raise ValueError(
            f"SOLVER.ACCUMULATION_STEPS is {steps}, but must be from 1 to the number of images that a worker has in an "
            f"optimizer step, {images} (SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} for {workers} workers)."
        )


def for_this_machine(cfg: CfgNode) -> CfgNode:
    """Return the config without what this machine cannot do or does badly; the log says what changed.

    Mixed precision with float16 (``SOLVER.AMP``) needs a GPU. More loading processes than cores only cost memory
    (``DATALOADER.NUM_WORKERS``, which each process that trains has of its own).
    """
    changes = {}
    if autocast_dtype(cfg) is torch.float16 and cfg.MODEL.DEVICE.startswith("cpu"):
        logger.info(
            "SOLVER.AMP.ENABLED has no effect on the CPU with float16: training in float32. For mixed precision there, "
            "append: SOLVER.AMP.PRECISION bfloat16"
        )
        changes["SOLVER.AMP.ENABLED"] = False
    workers = max(1, len(os.sched_getaffinity(0)) // comm.get_local_size())
    if workers < cfg.DATALOADER.NUM_WORKERS:
        logger.info(
            "DATALOADER.NUM_WORKERS %d is more than this machine has cores: using %d.",
            cfg.DATALOADER.NUM_WORKERS,
            workers,
        )
        changes["DATALOADER.NUM_WORKERS"] = workers
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([item for change in changes.items() for item in change])
    cfg.freeze()
    return cfg


def batch_size_advice(cfg: CfgNode, recipe: CfgNode) -> str | None:
    """Advise on the learning rate when overrides change the batch size and nothing else of a recipe.

    Args:
        cfg: the config that will be trained.
        recipe: the same config file without overrides.

    Returns:
        The linear scaling rule ("Accurate, Large Minibatch SGD", Goyal et al., 2017) applied to the recipe. None when
        the batch is the recipe's, the learning rate was changed too, or Detectron2 scales both by REFERENCE_WORLD_SIZE.
    """
    batch, reference = cfg.SOLVER.IMS_PER_BATCH, recipe.SOLVER.IMS_PER_BATCH
    if batch == reference or cfg.SOLVER.BASE_LR != recipe.SOLVER.BASE_LR or cfg.SOLVER.REFERENCE_WORLD_SIZE:
        return None
    scale = batch / reference
    rate, iterations = recipe.SOLVER.BASE_LR, recipe.SOLVER.MAX_ITER
    return (
        f"SOLVER.IMS_PER_BATCH is {batch}, the config file's is {reference}, with SOLVER.BASE_LR {rate:g} and "
        f"SOLVER.MAX_ITER {iterations}. By the linear scaling rule, SOLVER.BASE_LR {rate * scale:g} and "
        f"SOLVER.MAX_ITER {round(iterations / scale)} (SOLVER.STEPS likewise) train alike."
    )
