"""One command's work: audit data of one's own, adapt a config, train, keep the best, write a config for later use."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..audit import audit_dataset, find_shared_images, format_report, read_class_names
from ..audit.sources import Task
from ..checkpoint.writing import LAST
from ..config import is_maskformer, load_config
from ..files import write_json, write_text
from .best import BEST_FIGURES, BEST_MODEL, OwnDataTrainer
from .cards import DatasetCard
from .settings import own_config
from .sources import Source, check_same_categories, read_source, split

logger = logging.getLogger(__name__)

TRAINING_CONFIG = "training.yaml"
READY_CONFIG = "trained.yaml"
FINAL_MODEL = "model_final.pth"
CARDS = "dataset"
"""Folder in the output folder with the dataset cards, and with lists of images that were made here."""
MOST_AUDITORS = 8


@dataclass(frozen=True)
class Request:
    """What is to be trained on what.

    Attributes:
        task: "instance", "panoptic" or "semantic".
        base: path of the config to start from.
        images, annotations, panoptic_root: see :func:`read_source`.
        val, val_images, val_panoptic_root: the same of validation data; the images are those of training by default.
        val_fraction: share of the training images that is set aside where there is no ``val``.
        classes: file of class names: of label PNGs, or those that the categories of a JSON file must be among.
        ignore_label: of label PNGs.
        weights: what training starts from; None for what the base names.
        output: folder of everything that is written.
        epochs: see :func:`own_config`.
        ignore_faults: train whatever the audit finds.
        processes: how many train together.
        overrides: alternating config keys and values.
    """

    task: Task
    base: str
    images: Path
    annotations: Path
    output: Path
    panoptic_root: Path | None = None
    val: Path | None = None
    val_images: Path | None = None
    val_panoptic_root: Path | None = None
    val_fraction: float = 0.1
    classes: Path | None = None
    ignore_label: int = 255
    weights: str | None = None
    epochs: float | None = None
    ignore_faults: bool = False
    processes: int = 1
    overrides: Sequence[str] = ()


def prepare(request: Request) -> None:
    """Audit the data, write their cards, and the config ``training.yaml`` that :func:`train` trains.

    Raises:
        FileNotFoundError: something that was named is not there.
        ValueError: the data have faults or are not what the task needs, the base does not suit, or the output folder
            holds a run already.
    """
    output = Path(os.path.abspath(request.output))
    if (output / LAST).exists():
        raise ValueError(
            f"{request.output} holds a run already. Go on with it by --resume, or choose another --output."
        )
    setup_logger(str(output), name="mask2former_ext")
    train, val = _read(request)
    cfg = own_config(
        request.base,
        request.overrides,
        train,
        weights=request.weights,
        epochs=request.epochs,
        processes=request.processes,
    )
    num_queries = cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES if is_maskformer(cfg) else None
    _audit(request, train.class_names, num_queries)
    names = [_write_card(source, part, output) for part, source in (("train", train), ("val", val))]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = names[:1], names[1:]
    cfg.DATASETS.OWN = [f"{CARDS}/train.json", f"{CARDS}/val.json"]
    cfg.OUTPUT_DIR = str(output)
    write_text(output / TRAINING_CONFIG, cfg.dump())
    logger.info(
        "%d images to train on, %d to evaluate on, %d classes: %s",
        *(len(train.image_files), len(val.image_files), len(train.categories)),
        ", ".join(train.class_names),
    )


def _read(request: Request) -> tuple[Source, Source]:
    """Training and validation data."""
    names = None if request.classes is None else read_class_names(request.classes)
    train = read_source(
        request.task,
        request.images,
        request.annotations,
        panoptic_root=request.panoptic_root,
        class_names=names,
        ignore_label=request.ignore_label,
    )
    if request.val is None:
        if request.val_images or request.val_panoptic_root:
            raise ValueError(
                "--val-images and --val-panoptic-root belong to --val, which names the annotations. Add it."
            )
        return split(train, request.val_fraction)
    val = read_source(
        request.task,
        request.val_images or request.images,
        request.val,
        panoptic_root=request.val_panoptic_root,
        class_names=train.class_names,
        ignore_label=request.ignore_label,
    )
    check_same_categories(train, val)
    return train, val


def _audit(request: Request, class_names: Sequence[str], num_queries: int | None) -> None:
    """Log what the audit finds.

    Args:
        request: says what is audited, and whether faults are to be ignored.
        class_names: of the training data, which those of the validation data must be.
        num_queries: of the model, None where it has none.

    Raises:
        ValueError: there are faults.
    """
    audit = partial(
        audit_dataset,
        task=request.task,
        ignore_label=request.ignore_label,
        num_queries=num_queries,
        workers=min(os.cpu_count() or 1, MOST_AUDITORS),
    )
    names = None if request.classes is None else read_class_names(request.classes)
    reports = [audit(request.images, request.annotations, panoptic_root=request.panoptic_root, class_names=names)]
    if request.val is not None:
        images, panoptic_root = request.val_images or request.images, request.val_panoptic_root
        reports.append(audit(images, request.val, panoptic_root=panoptic_root, class_names=class_names))
        reports[1].findings += find_shared_images(*reports)
    for report in reports:
        logger.info("Audit:\n%s", format_report(report))
    faults = sum(len(report.faults) for report in reports)
    if faults and not request.ignore_faults:
        raise ValueError(
            f"the audit found {faults} faults in the data, see the report above. Correct them, or train all the same "
            "with --ignore-faults."
        )


def _write_card(source: Source, part: str, output: Path) -> str:
    """Write the card of a dataset, and its list of images and annotations where that is new; return its name."""
    folder = output / CARDS
    annotations = source.annotations
    if source.is_part or annotations.is_dir():
        annotations = folder / f"annotations_{part}.json"
        write_json(annotations, source.content)
    card = DatasetCard(
        name="",
        task=source.task,
        images=source.image_root.absolute(),
        annotations=annotations.absolute(),
        labels=source.labels and source.labels.absolute(),
        categories=source.categories,
        ignore_label=source.ignore_label,
    )
    # a name never stands for two datasets, also where several configs are used together
    digest = sha256(repr(card).encode()).hexdigest()[:8]
    card = replace(card, name="_".join([*re.findall(r"\w+", output.name), part, digest]))
    card.write(folder / f"{part}.json")
    return card.name


def train(output: str, overrides: Sequence[str], resume: bool) -> None:
    """Train what :func:`prepare` wrote, and write the config ``trained.yaml`` of the best model. In every process.

    Args:
        output: folder of the run.
        overrides: alternating config keys and values.
        resume: go on from the last checkpoint.

    Raises:
        FileNotFoundError, ValueError: see ``Trainer``; or the weights to start from cannot be loaded.
    """
    config_file = os.path.join(output, TRAINING_CONFIG)
    cfg = load_config(config_file, [*overrides, "OUTPUT_DIR", os.path.abspath(output)])
    cfg.freeze()
    default_setup(cfg, argparse.Namespace(output=output, overrides=list(overrides), resume=resume))
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="mask2former_ext")
    trainer = OwnDataTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    try:
        trainer.train()
    finally:  # also of a run that was interrupted
        if comm.is_main_process():
            _write_ready_config(cfg)


def _write_ready_config(cfg: CfgNode) -> None:
    """Write the config of the best model, or the last where none could be compared; of no model, write nothing."""
    output = Path(cfg.OUTPUT_DIR)
    weights = BEST_MODEL if (output / BEST_FIGURES).is_file() else FINAL_MODEL
    if not (output / weights).is_file():
        return
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    cfg.MODEL_EMA.ENABLED = False  # the file has the weights that were evaluated
    cfg.DATASETS.OWN = [os.path.relpath(card, output) for card in cfg.DATASETS.OWN]
    comment = (
        "# Written after training. MODEL.WEIGHTS and DATASETS.OWN are relative to this file: move them together.\n"
    )
    write_text(output / READY_CONFIG, comment + cfg.dump())


def summary(output: Path) -> str:
    """What a finished run achieved, and what can be done with its config, for people."""
    config = output / READY_CONFIG
    record = output / BEST_FIGURES
    best = "No evaluation gave a figure to compare models by: the last model is used."
    if record.is_file():
        figures = json.loads(record.read_text(encoding="utf-8"))
        best = (
            f"Best model: {output / BEST_MODEL}, {figures['metric']} {figures['value']:.2f} "
            f"after {figures['iterations']} iterations"
        )
    return (
        f"{best}\nIts config: {config}\n"
        f"  evaluate it:  python tools/train_net.py --eval-only --config-file {config}\n"
        f"  look at it:   python tools/demo.py --config-file {config} --input IMAGE"
    )
