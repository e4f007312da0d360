"""Set criterion: which loss falls on which layer, and with which weight (Mask2Former, sections 3.3 and 4.1).

All predictions are matched, sampled and scored together, image by image.

Shapes: J predictions, B images, Q queries, K classes, N masks of an image (those matched: min(Q, N)), P points, h, w of
the mask features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F

from .losses import dice_loss, sigmoid_ce_loss
from .matcher import HungarianMatcher
from .points import PointSampling, RandomCoords, choose_points, sample_points
from .targets import Target


class SetCriterion(nn.Module):
    """Match every prediction with the ground truth; weigh class, mask and dice losses of all of them."""

    empty_weight: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        deep_supervision: bool,
    ) -> None:
        """
        Args:
            num_classes: K, without no-object.
            matcher: assigns queries to masks.
            class_weight, mask_weight, dice_weight: factors of ``loss_ce``, ``loss_mask`` and ``loss_dice``.
            no_object_weight: weight of the no-object class in the cross entropy.
            num_points, oversample_ratio, importance_sample_ratio: at which points a mask's losses are computed, see
                :class:`PointSampling`.
            deep_supervision: whether the earlier predictions have losses too.
        """
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weights = {"loss_ce": class_weight, "loss_mask": mask_weight, "loss_dice": dice_weight}
        self.point_sampling = PointSampling(num_points, oversample_ratio, importance_sample_ratio)
        self.deep_supervision = deep_supervision
        self._batch_counts: list[int] | None = None
        self._point_generator: torch.Generator | None = None
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SetCriterion:
        """Build criterion and matcher from ``cfg.MODEL.MASK_FORMER``."""
        node = cfg.MODEL.MASK_FORMER
        weights = {"class_weight": node.CLASS_WEIGHT, "mask_weight": node.MASK_WEIGHT, "dice_weight": node.DICE_WEIGHT}
        return cls(
            num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            matcher=HungarianMatcher(**weights),
            no_object_weight=node.NO_OBJECT_WEIGHT,
            num_points=node.TRAIN_NUM_POINTS,
            oversample_ratio=node.OVERSAMPLE_RATIO,
            importance_sample_ratio=node.IMPORTANCE_SAMPLE_RATIO,
            deep_supervision=node.DEEP_SUPERVISION,
            **weights,
        )

    def seed_points(self, seed: int) -> None:
        """Draw points from a generator of their own, which starts from ``seed``, rather than from PyTorch's global one.

        What else draws random numbers then has no influence on the points, nor they on it.
        """
        self._point_generator = torch.Generator(self.empty_weight.device)
        self._point_generator.manual_seed(seed)

    @contextmanager
    def part_of_batch(self, counts: Sequence[int]) -> Iterator[None]:
        """Within, average losses over a larger batch, of which each call sees a part.

        The losses of all parts then add up to those of the batch, so that gradients accumulated over them are its
        gradients. Both denominators are known before any matching: the number of masks, and the classes' weights.

        Args:
            counts: how many masks each image of the whole batch (of this worker) has.
        """
        self._batch_counts = list(counts)
        try:
            yield
        finally:
            self._batch_counts = None

    def forward(self, outputs: dict[str, Any], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return weighted scalar losses, averaged over these images, or over those of :meth:`part_of_batch`.

        Args:
            outputs: ``pred_logits`` B×Q×(K+1), ``pred_masks`` B×Q×h×w and ``aux_outputs``, a list of the same for the
                earlier predictions. Where there are ``mask_features`` B×C×h×w, and ``mask_embeddings`` B×Q×C beside
                each ``pred_masks``, whose product the masks are, gradients take the short way through those.
            targets: B targets.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last prediction, and ``…_i`` of the i-th earlier one.
        """
        earlier = outputs["aux_outputs"] if self.deep_supervision else []
        predictions = [outputs, *earlier]
        suffixes = ["", *(f"_{i}" for i in range(len(earlier)))]
        num_queries, device = outputs["pred_logits"].shape[1], outputs["pred_logits"].device
        counts = [min(len(target), num_queries) for target in targets]
        coords = [RandomCoords.draw(self.point_sampling, counts, device, self._point_generator) for _ in predictions]
        names = [suffix.lstrip("_") or "last" for suffix in suffixes]
        assignments = self.matcher(predictions, targets, [own.matching for own in coords], names)

        matched = self._matched_masks(predictions, outputs, assignments, coords)
        del coords  # many candidates, of which a few have been chosen
        loss_mask, loss_dice = self._mask_losses(predictions, outputs, matched, assignments, targets)
        batch_counts = [len(target) for target in targets] if self._batch_counts is None else self._batch_counts
        num_masks, class_weight = self._denominators(batch_counts, num_queries, device)
        losses = {
            "loss_ce": self._class_losses(predictions, assignments, targets) / class_weight,
            "loss_mask": loss_mask / num_masks,
            "loss_dice": loss_dice / num_masks,
        }
        # without a matching there is nothing to learn, and whoever looks at the losses shall see it
        valid = math.nan if self.matcher.fault else 1.0
        return {
            name + suffix: value * (self.weights[name] * valid)
            for name, values in losses.items()
            for suffix, value in zip(suffixes, values.unbind(), strict=True)
        }

    def _class_losses(
        self, predictions: Sequence[dict[str, Tensor]], assignments: Sequence[Tensor], targets: Sequence[Target]
    ) -> Tensor:
        """J sums over all queries of weighted cross entropies; unmatched ones should say no-object."""
        logits = torch.stack([prediction["pred_logits"].float() for prediction in predictions])
        classes = torch.full(logits.shape[:3], self.num_classes, dtype=torch.int64, device=logits.device)
        for image, ((queries, masks), target) in enumerate(zip(assignments, targets, strict=True)):
            classes[:, image].scatter_(1, queries, target.labels[masks])
        # of two axes: PyTorch has no deterministic loss of more on CUDA
        terms = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), self.empty_weight.float(), reduction="none")
        return terms.view(len(predictions), -1).sum(1)

    def _denominators(
        self, counts: Sequence[int], num_queries: int, device: torch.device
    ) -> tuple[float | Tensor, float | Tensor]:
        """What losses of images with ``counts`` masks are divided by: number of masks, sum of the queries' weights.

        Both are averages over workers, so that the workers' gradients, averaged, are those of all images together. The
        first is at least 1. In the second, queries that are matched have weight 1, others that of no-object.
        """
        matched = sum(min(count, num_queries) for count in counts)
        unmatched = len(counts) * num_queries - matched
        num_masks, matched_weight, rest = average_over_workers([sum(counts), matched, unmatched], device)
        at_least_one = num_masks.clamp(min=1.0) if isinstance(num_masks, Tensor) else max(num_masks, 1.0)
        return at_least_one, matched_weight + rest * self.empty_weight[-1]

    def _matched_masks(
        self,
        predictions: Sequence[dict[str, Tensor]],
        outputs: dict[str, Any],
        assignments: Sequence[Tensor],
        coords: Sequence[RandomCoords],
    ) -> list[tuple[Tensor, Tensor]]:
        """Per image (J·N)×1×h×w logits of the matched masks, and (J·N)×P×2 mostly uncertain points of theirs."""
        matched = []
        first = 0
        for image, (queries, _) in enumerate(assignments):
            masks = slice(first, first + queries.shape[1])
            first = masks.stop
            logits = _masks_of_queries(predictions, outputs, image, queries)[:, None].float()
            # one prediction at a time: candidates are many, and these temporaries then stay small
            points = torch.cat(
                [
                    choose_points(
                        own_logits, own.candidates[masks], own.uniform[masks], self.point_sampling.num_uncertain
                    )
                    for own_logits, own in zip(logits.unflatten(0, queries.shape), coords, strict=True)
                ]
            )
            matched.append((logits, points))
        return matched

    def _mask_losses(
        self,
        predictions: Sequence[dict[str, Tensor]],
        outputs: dict[str, Any],
        matched: Sequence[tuple[Tensor, Tensor]],
        assignments: Sequence[Tensor],
        targets: Sequence[Target],
    ) -> tuple[Tensor, Tensor]:
        """J sums over masks of binary cross entropy and of dice.

        Zero, yet attached to the predictions, without any mask.
        """
        bce = dice = torch.zeros(len(predictions), device=outputs["pred_logits"].device)
        if not any(len(logits) for logits, _ in matched):
            bce = dice = bce + _attached_zeros(predictions, outputs)
        for (logits, points), (queries, masks), target in zip(matched, assignments, targets, strict=True):
            if not len(logits):
                continue
            predicted = sample_points(logits, points).squeeze(1)
            truth = target.masks[masks.flatten()].sample(points, target.padded_size)
            bce = bce + sigmoid_ce_loss(predicted, truth).view(queries.shape).sum(1)
            dice = dice + dice_loss(predicted, truth).view(queries.shape).sum(1)
        return bce, dice


def _attached_zeros(predictions: Sequence[dict[str, Tensor]], outputs: dict[str, Any]) -> Tensor:
    """J zeros through which gradients, of zero, reach whatever makes the masks: workers then agree on what has one."""
    if "mask_features" not in outputs:
        return torch.stack([prediction["pred_masks"].sum() for prediction in predictions]).float() * 0.0
    embeddings = torch.stack([prediction["mask_embeddings"].sum() for prediction in predictions])
    return (embeddings + outputs["mask_features"].sum()).float() * 0.0


def _masks_of_queries(
    predictions: Sequence[dict[str, Tensor]], outputs: dict[str, Any], image: int, queries: Tensor
) -> Tensor:
    """(J·N)×h×w mask logits of one image's matched ``queries``, J×N.

    From embeddings and features their product is taken anew for these queries alone: so the backward pass handles N
    masks for Q, and needs no gradient of the size of all predictions.
    """
    if "mask_features" not in outputs:
        return torch.cat([p["pred_masks"][image][own] for p, own in zip(predictions, queries, strict=True)])
    embeddings = torch.cat([p["mask_embeddings"][image][own] for p, own in zip(predictions, queries, strict=True)])
    return torch.einsum("nc,chw->nhw", embeddings, outputs["mask_features"][image])


def average_over_workers(numbers: Sequence[int], device: torch.device) -> Sequence[float] | Tensor:
    """Average each of ``numbers`` over workers. Nothing waits for the device."""
    workers = comm.get_world_size()
    if workers == 1:
        return [float(number) for number in numbers]
    total = torch.tensor(numbers, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(total)
    return total / workers
