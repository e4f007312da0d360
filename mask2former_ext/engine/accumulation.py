"""Gradient accumulation: a batch too large for memory goes through the model in parts (SOLVER.ACCUMULATION_STEPS).

Losses of MaskFormer are averages over masks and over queries, of which every part has a different number. So parts are
not averaged: each is divided by what the whole batch has, and their sum is the batch's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..modeling.criterion import SetCriterion


def split_batch(batch: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """Split into consecutive parts whose lengths differ by one at most.

    Raises:
        ValueError: there are fewer images than parts.
    """
    if len(batch) < parts:
        raise ValueError(
            f"SOLVER.ACCUMULATION_STEPS is {parts}, but a worker's batch has {len(batch)} images to split. Lower it, "
            "or raise SOLVER.IMS_PER_BATCH, which counts the images of a whole optimizer step, over all workers."
        )
    return [batch[len(batch) * index // parts : len(batch) * (index + 1) // parts] for index in range(parts)]


@contextmanager
def averaged_over(model: nn.Module, batch: Sequence[dict[str, Any]]) -> Iterator[Callable[[Sequence[Any]], float]]:
    """Within, the model's losses of parts of ``batch`` add up to its losses of the batch.

    Args:
        model: a MaskFormer, or any other of Detectron2's models, or DistributedDataParallel around one.
        batch: all images of the optimizer step on this worker.

    Yields:
        A function that gives the factor which the losses of a part are to be multiplied by: 1 for a MaskFormer, whose
        criterion is told of the whole batch; for others the share of the images, as if losses were averages over them.
    """
    criterion = getattr(getattr(model, "module", model), "criterion", None)
    if isinstance(criterion, SetCriterion):
        with criterion.part_of_batch([len(image["instances"]) for image in batch]):
            yield lambda part: 1.0
    else:
        yield lambda part: len(part) / len(batch)
