#!/usr/bin/env python
"""Train or evaluate a model that a YAML config describes: Mask2Former, Mask R-CNN, or another of Detectron2's."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

import mask2former_ext  # noqa: F401  (registers models and datasets)
from mask2former_ext.checkpoint import build_checkpointer
from mask2former_ext.config import load_config
from mask2former_ext.engine import (
    Trainer,
    batch_size_advice,
    check_datasets,
    check_device,
    evaluate_average,
    for_this_machine,
    load_average,
    summary_line,
    verify_expected_results,
)
from mask2former_ext.engine.trainer import test_time_augmentation
from mask2former_ext.engine.workers import launch

EPILOG = """
Examples:

Train on one machine with 8 GPUs:
    $ tools/train_net.py --num-gpus 8 --config-file configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml

Go on after an interruption:
    $ tools/train_net.py --num-gpus 8 --config-file CONFIG --resume

Evaluate a checkpoint:
    $ tools/train_net.py --eval-only --config-file CONFIG MODEL.WEIGHTS model_final.pth

The same, also with test-time augmentation:
    $ tools/train_net.py --eval-only --config-file CONFIG MODEL.WEIGHTS model_final.pth TEST.AUG.ENABLED True

Without a GPU, with other settings:
    $ tools/train_net.py --config-file CONFIG MODEL.DEVICE cpu SOLVER.IMS_PER_BATCH 2 OUTPUT_DIR output/try

Started by torchrun, which works without GPUs too:
    $ torchrun --nproc-per-node 2 tools/train_net.py --config-file CONFIG MODEL.DEVICE cpu

On two machines:
    (machine 0)$ tools/train_net.py --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://MACHINE0:PORT ...
    (machine 1)$ tools/train_net.py --num-gpus 8 --num-machines 2 --machine-rank 1 --dist-url tcp://MACHINE0:PORT ...
"""


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config, start the loggers, write the config to its output folder."""
    try:
        cfg = load_config(args.config_file, args.opts)
        check_device(cfg)
        if cfg.TEST.AUG.ENABLED:
            test_time_augmentation(cfg)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"train_net.py: {error}")
    if args.eval_only:
        cfg.MODEL.TIMM.PRETRAINED = False  # a download for weights that the checkpoint replaces
    cfg.freeze()
    default_setup(cfg, args)
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="mask2former_ext")
    advice = None if args.eval_only else batch_size_advice(cfg, load_config(args.config_file))
    if advice:
        logger.warning(advice)
    return for_this_machine(cfg)


def evaluate(cfg: CfgNode, resume: bool) -> dict[str, Any]:
    check_datasets(cfg)
    model = Trainer.build_model(cfg)
    checkpointer = build_checkpointer(cfg, model, new_classes=False)
    average = load_average(cfg, model, checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume))
    both = cfg.MODEL_EMA.EVALUATE_BOTH
    results = evaluate_average(lambda: Trainer.test(cfg, model), average, both=both)
    if cfg.TEST.AUG.ENABLED:
        results |= evaluate_average(lambda: Trainer.test_with_tta(cfg, model), average, both=both)
    return results


def train(cfg: CfgNode, resume: bool) -> dict[str, Any] | None:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


def main(args: argparse.Namespace) -> None:
    cfg = setup(args)
    results = evaluate(cfg, args.resume) if args.eval_only else train(cfg, args.resume)
    if comm.is_main_process():
        logging.getLogger("mask2former_ext").info("Results of %s: %s", cfg.OUTPUT_DIR, summary_line(cfg, results))
        verify_expected_results(cfg, results)


if __name__ == "__main__":
    parser = default_argument_parser(EPILOG)
    arguments = parser.parse_args()
    if not arguments.config_file:
        parser.error("--config-file is missing: it names one of the YAML files in configs/")
    try:
        launch(main, arguments, device=load_config(arguments.config_file, arguments.opts).MODEL.DEVICE)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"train_net.py: {error}")
