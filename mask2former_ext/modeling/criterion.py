"""Set criterion: which loss falls on which layer, and with which weight (Mask2Former, sections 3.3 and 4.1).

Shapes: B images, Q queries, K classes, N matched masks of a batch, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F

from .losses import dice_loss, sigmoid_ce_loss
from .matcher import Assignment, HungarianMatcher
from .points import sample_points, sample_uncertain_coords
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
            num_points: points P at which a mask's losses are computed.
            oversample_ratio: candidates for uncertain points, as a multiple of P; at least 1.
            importance_sample_ratio: share of uncertain points, in [0, 1].
            deep_supervision: whether the earlier predictions have losses too.
        """
        super().__init__()
        if oversample_ratio < 1 or not 0 <= importance_sample_ratio <= 1:
            raise ValueError(
                f"MODEL.MASK_FORMER.OVERSAMPLE_RATIO must be at least 1 and IMPORTANCE_SAMPLE_RATIO in [0, 1], got "
                f"{oversample_ratio} and {importance_sample_ratio}."
            )
        self.num_classes = num_classes
        self.matcher = matcher
        self.weights = {"loss_ce": class_weight, "loss_mask": mask_weight, "loss_dice": dice_weight}
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.deep_supervision = deep_supervision
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
            matcher=HungarianMatcher(num_points=node.TRAIN_NUM_POINTS, **weights),
            no_object_weight=node.NO_OBJECT_WEIGHT,
            num_points=node.TRAIN_NUM_POINTS,
            oversample_ratio=node.OVERSAMPLE_RATIO,
            importance_sample_ratio=node.IMPORTANCE_SAMPLE_RATIO,
            deep_supervision=node.DEEP_SUPERVISION,
            **weights,
        )

    def forward(self, outputs: dict[str, Any], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return weighted scalar losses.

        Args:
            outputs: ``pred_logits`` B×Q×(K+1), ``pred_masks`` B×Q×h×w and ``aux_outputs``, a list of the same for the
                earlier predictions.
            targets: B targets.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last prediction, and ``…_i`` of the i-th earlier one.
        """
        predictions = {"": outputs}
        if self.deep_supervision:
            predictions.update({f"_{i}": earlier for i, earlier in enumerate(outputs["aux_outputs"])})
        num_masks = average_num_masks(targets)
        losses = {}
        for suffix, prediction in predictions.items():
            logits, masks = prediction["pred_logits"], prediction["pred_masks"]
            assignment = self.matcher(logits, masks, targets, layer=suffix.lstrip("_") or "last")
            loss_mask, loss_dice = self._mask_losses(masks, assignment, targets, num_masks)
            loss = {
                "loss_ce": self._class_loss(logits, assignment, targets),
                "loss_mask": loss_mask,
                "loss_dice": loss_dice,
            }
            losses.update({name + suffix: value * self.weights[name] for name, value in loss.items()})
        return losses

    def _class_loss(self, logits: Tensor, assignment: Sequence[Assignment], targets: Sequence[Target]) -> Tensor:
        """Weighted cross entropy over all queries; unmatched ones should say no-object."""
        classes = torch.full(logits.shape[:2], self.num_classes, dtype=torch.int64, device=logits.device)
        for row, (queries, masks), target in zip(classes, assignment, targets, strict=True):
            row[queries.to(row.device)] = target.labels[masks.to(row.device)]
        return F.cross_entropy(logits.float().transpose(1, 2), classes, self.empty_weight)

    def _mask_losses(
        self, pred_masks: Tensor, assignment: Sequence[Assignment], targets: Sequence[Target], num_masks: float
    ) -> tuple[Tensor, Tensor]:
        """Binary cross entropy and dice at mostly uncertain points; zero, yet attached, without any mask."""
        pairs = list(zip(pred_masks, assignment, targets, strict=True))
        logits = torch.cat([masks[queries.to(masks.device)] for masks, (queries, _), _ in pairs])[:, None].float()
        truth = torch.cat([t.masks[chosen.to(t.masks.device)] for _, (_, chosen), t in pairs])[:, None].float()
        coords = sample_uncertain_coords(logits, self.num_points, self.oversample_ratio, self.importance_sample_ratio)
        points = sample_points(logits, coords).squeeze(1)
        with torch.no_grad():
            truth_points = sample_points(truth, coords).squeeze(1)
        bce = sigmoid_ce_loss(points, truth_points).sum() / num_masks
        dice = dice_loss(points, truth_points).sum() / num_masks
        return bce, dice


def average_num_masks(targets: Sequence[Target]) -> float:
    """Ground-truth masks of the batch, averaged over workers; at least 1."""
    count = float(sum(len(target.labels) for target in targets))
    workers = comm.get_world_size()
    if workers > 1:
        total = torch.tensor([count], device=targets[0].labels.device)
        torch.distributed.all_reduce(total)
        count = total.item()
    return max(count / workers, 1.0)
