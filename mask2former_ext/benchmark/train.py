"""Benchmark of training steps: this package's models against each other and others.

What the stages are: data is normalising and padding images and bringing annotations into the form that losses take,
from what a mapper returns (:mod:`~mask2former_ext.benchmark.data` measures mappers); loss is without matching; the
optimizer's step comes with clipping. Its learning rate is 0, so that every step does the same work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .model_measure import (
    Job,
    ModelOptions,
    ModelRow,
    build_subjects,
    logit_differences,
    time_jobs,
    timed_row,
    with_memory,
    with_ratios,
)
from .model_reports import model_report, model_tables
from .model_variants import OWN, STRAIGHTFORWARD, Variant, variants_of
from .models import Subject
from .stages import BACKWARD, OPTIMIZER
from .timing import cpu_threads

STEP = "training step"
# Of the straightforward losses at the same random points; rounding may decide between masks that cost about the same.
LOSS_LIMIT = 1e-2


def train_job(subject: Subject) -> Job:
    """One step: losses, gradients, update. It returns the loss."""
    subject.model.train()
    optimizer = subject.optimizer()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    scaler = torch.amp.GradScaler(subject.work.device.type, enabled=subject.work.precision == "float16")

    def run() -> Tensor:
        with subject.work.autocast():
            loss = subject.loss()
        with subject.stages.stage(BACKWARD):
            scaler.scale(loss).backward()
        with subject.stages.stage(OPTIMIZER):
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return loss.detach()

    return run


def measure_training(options: ModelOptions) -> tuple[list[ModelRow], dict[str, str]]:
    """Time steps of all models in turn, check that they agree, and measure their memory.

    Returns:
        A row for every model, and for each peer that is not here why.

    Raises:
        FileNotFoundError, ValueError: a config cannot be used.
    """
    effort = options.effort
    variants = variants_of(options.configs, options.peers, options.work)
    with cpu_threads(effort.threads):
        subjects, absent = build_subjects(variants, options.work)
        differences = logit_differences(subjects)
        jobs = {variant: (subject, train_job(subject)) for variant, subject in subjects.items()}
        losses = {variant: _first_loss(subject, job) for variant, (subject, job) in jobs.items()}
        rows = []
        for variant, (timing, stages) in time_jobs(jobs, effort).items():
            row = ModelRow(variant.name, variant.config, variant.implementation, STEP)
            loss = losses[variant] if math.isfinite(losses[variant]) else None
            row = replace(row, difference=differences.get(variant), loss=loss, wrong=_wrong_loss(variant, losses))
            rows.append(timed_row(row, timing, stages))
    if effort.memory:
        rows = with_memory(rows, jobs, options.work, train_job, effort.threads)
    return with_ratios(rows), absent


def _first_loss(subject: Subject, job: Job) -> float:
    torch.manual_seed(subject.work.seed)
    loss: Any = job()
    return float(loss)


def _wrong_loss(variant: Variant, losses: Mapping[Variant, float]) -> tuple[str, ...]:
    """What is wrong with a loss: it is not finite, or straightforward and yet another one."""
    loss = losses[variant]
    if not math.isfinite(loss):
        return (f"the loss is {loss}",)
    own = losses.get(Variant(variant.config, OWN))
    if variant.implementation == STRAIGHTFORWARD and own is not None and abs(loss - own) > LOSS_LIMIT * abs(own):
        return (f"the loss is {loss:.6g} instead of {own:.6g}",)
    return ()


def run_train_benchmark(options: ModelOptions) -> dict[str, Any]:
    """:func:`measure_training` as a report, see :func:`~mask2former_ext.benchmark.model_reports.model_report`."""
    rows, absent = measure_training(options)
    return model_report("train", options, rows, absent, masks=options.work.masks)


def format_report(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    work = report["work"]
    what = (
        f"Training step: {work['batch']} image(s) of {work['size']} with {work['masks']} masks each, "
        f"{work['precision']}; weights random."
    )
    return model_tables(report, what)
