"""Mask2Former the straightforward way: what every shortcut of this package is held to, in results and in speed.

Deformable attention composed of PyTorch's operators, all masks resized to the padded image and on to the result at
once, a loop over queries that asks the device for a number at every turn, and a loop over predictions and images in
matching and losses. The weights, the random points and everything else of the network are the model's own.

Shapes: B images, Q queries, K classes, N masks of an image, H, W of the result, h, w of the predicted masks, P points.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling.criterion import SetCriterion
from ..modeling.maskformer import MaskFormer
from ..modeling.targets import Target
from ..ops import MSDeformAttn
from ..ops.module import sampling_locations
from ..ops.reference import ms_deform_attn_reference

Size = tuple[int, int]

# Sums of floating-point numbers may be taken in another order.
SCORE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Settings:
    """What results depend on beside the predictions; names and meanings are :class:`MaskFormer`'s."""

    semantic_on: bool
    panoptic_on: bool
    instance_on: bool
    thing_classes: Collection[int]
    object_mask_threshold: float
    overlap_threshold: float
    max_detections: int
    resize_masks_first: bool

    @classmethod
    def of(cls, model: MaskFormer) -> Settings:
        """The settings of a model."""
        return cls(
            semantic_on=model.semantic_on,
            panoptic_on=model.panoptic_on,
            instance_on=model.instance_on,
            thing_classes=model.thing_classes,
            object_mask_threshold=model.object_mask_threshold,
            overlap_threshold=model.overlap_threshold,
            max_detections=model.test_topk_per_image,
            resize_masks_first=model.sem_seg_postprocess_before_inference,
        )


def infer_image(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    settings: Settings,
) -> dict[str, Any]:
    """What :meth:`MaskFormer.infer_image` returns for Q×(K+1) ``class_logits`` and Q×h×w ``mask_logits``."""
    masks = _resize(mask_logits.float(), padded_size)
    if settings.resize_masks_first:
        masks = _resize(masks[:, : image_size[0], : image_size[1]], output_size)
    class_logits = class_logits.float()
    result: dict[str, Any] = {}
    if settings.semantic_on:
        scores = semantic(class_logits, masks)
        if not settings.resize_masks_first:
            scores = _resize(scores[:, : image_size[0], : image_size[1]], output_size)
        result["sem_seg"] = scores
    if settings.panoptic_on:
        result["panoptic_seg"] = panoptic(
            class_logits,
            masks,
            thing_classes=settings.thing_classes,
            object_mask_threshold=settings.object_mask_threshold,
            overlap_threshold=settings.overlap_threshold,
        )
    if settings.instance_on:
        thing_classes = settings.thing_classes if settings.panoptic_on else None
        result["instances"] = instances(class_logits, masks, settings.max_detections, thing_classes)
    return result


def _resize(maps: Tensor, size: Size) -> Tensor:
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def semantic(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """K×H×W: the sum over queries of class probability × mask probability."""
    return torch.einsum("qk,qhw->khw", class_logits.softmax(-1)[:, :-1], mask_logits.sigmoid())


def panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    thing_classes: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Segment ids int32 H×W and segments, from a loop over the queries that are kept."""
    no_object = class_logits.shape[1] - 1
    scores, labels = class_logits.softmax(-1).max(-1)
    keep = (labels != no_object) & (scores > object_mask_threshold)
    probabilities, scores, labels = mask_logits.sigmoid()[keep], scores[keep], labels[keep]
    ids = torch.zeros(mask_logits.shape[1:], dtype=torch.int32, device=mask_logits.device)
    segments: list[dict[str, Any]] = []
    if len(labels) == 0:
        return ids, segments
    owner = (scores[:, None, None] * probabilities).argmax(0)
    stuff: dict[int, int] = {}
    for query in range(len(labels)):
        label = int(labels[query].item())
        own = probabilities[query] >= 0.5
        owned, area = int((owner == query).sum().item()), int(own.sum().item())
        segment = (owner == query) & own
        if area == 0 or segment.sum().item() == 0 or owned / area < overlap_threshold:
            continue
        is_thing = label in thing_classes
        if not is_thing and label in stuff:
            ids[segment] = stuff[label]
            continue
        segments.append({"id": len(segments) + 1, "isthing": is_thing, "category_id": label})
        ids[segment] = len(segments)
        if not is_thing:
            stuff[label] = len(segments)
    return ids, segments


def instances(
    class_logits: Tensor, mask_logits: Tensor, max_detections: int, thing_classes: Collection[int] | None
) -> Instances:
    """The best (query, class) pairs, with a mask and a box made for each of them."""
    classes = class_logits.softmax(-1)[:, :-1]
    scores, index = classes.flatten().topk(min(max_detections, classes.numel()), sorted=False)
    queries, labels = index // classes.shape[1], index % classes.shape[1]
    if thing_classes is not None:
        keep = torch.tensor([label.item() in thing_classes for label in labels], dtype=torch.bool)
        scores, queries, labels = (values[keep.to(values.device)] for values in (scores, queries, labels))
    logits = mask_logits[queries]
    masks = logits > 0
    inside = (logits.sigmoid().flatten(1) * masks.flatten(1)).sum(1)
    result = Instances((mask_logits.shape[1], mask_logits.shape[2]))
    result.pred_masks = masks
    result.scores = scores * inside / (masks.flatten(1).sum(1) + 1e-6)
    result.pred_classes = labels
    result.pred_boxes = Boxes(torch.tensor([_box(mask) for mask in masks]).reshape(-1, 4))
    return result


def _box(mask: Tensor) -> list[float]:
    rows, columns = torch.where(mask)
    if len(rows) == 0:
        return [0.0, 0.0, 0.0, 0.0]
    first = [float(columns.min().item()), float(rows.min().item())]
    return [*first, float(columns.max().item() + 1), float(rows.max().item() + 1)]


def losses(
    criterion: SetCriterion,
    outputs: dict[str, Any],
    targets: Sequence[Target],
    matching: Callable[..., tuple[Tensor, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """What ``criterion`` returns for ``outputs`` and ``targets``, prediction by prediction and image by image.

    Random points are drawn in the order of the criterion, so that with the same seed they are the same. ``matching``
    is what to call for :func:`match`.
    """
    matching = matching or match
    truths = [_full_masks(target) for target in targets]
    earlier = outputs["aux_outputs"] if criterion.deep_supervision else []
    found: dict[str, Tensor] = {}
    for suffix, prediction in (("", outputs), *((f"_{i}", p) for i, p in enumerate(earlier))):
        pairs = [
            matching(criterion, prediction["pred_logits"][image], prediction["pred_masks"][image], target.labels, truth)
            for image, (target, truth) in enumerate(zip(targets, truths, strict=True))
        ]
        values = {
            "loss_ce": _class_loss(criterion, prediction["pred_logits"], pairs, targets),
            **_mask_losses(criterion, prediction["pred_masks"], pairs, truths),
        }
        found |= {name + suffix: value * criterion.weights[name] for name, value in values.items()}
    return found


def _full_masks(target: Target) -> Tensor:
    """N×H×W float32 of the padded image."""
    masks = target.masks.tensor.float()
    height, width = target.padded_size
    return F.pad(masks, (0, width - masks.shape[2], 0, height - masks.shape[1]))


def _read(maps: Tensor, coords: Tensor) -> Tensor:
    """N×P values of N×h×w ``maps`` at N×P×2 points, (x, y) in [0, 1]."""
    return F.grid_sample(maps[:, None], 2 * coords[:, :, None] - 1, align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def match(
    criterion: SetCriterion, class_logits: Tensor, mask_logits: Tensor, labels: Tensor, truth: Tensor
) -> tuple[Tensor, Tensor]:
    """The queries, and the masks of one image that they are matched with, at the least sum of costs.

    Args:
        criterion: has the weights and the number of points.
        class_logits: Q×(K+1).
        mask_logits: Q×h×w.
        labels: N.
        truth: N×H×W float32.
    """
    matcher = criterion.matcher
    coords = torch.rand(1, criterion.point_sampling.num_points, 2, device=mask_logits.device)
    predicted = _read(mask_logits.float(), coords.expand(len(mask_logits), -1, -1))
    wanted = _read(truth, coords.expand(len(truth), -1, -1))
    positive = F.binary_cross_entropy_with_logits(predicted, torch.ones_like(predicted), reduction="none")
    negative = F.binary_cross_entropy_with_logits(predicted, torch.zeros_like(predicted), reduction="none")
    cross_entropy = (positive @ wanted.T + negative @ (1 - wanted).T) / predicted.shape[1]
    probability = predicted.sigmoid()
    overlap = 2 * probability @ wanted.T + 1
    dice = 1 - overlap / (probability.sum(1)[:, None] + wanted.sum(1)[None, :] + 1)
    cost = (
        -matcher.class_weight * class_logits.float().softmax(-1)[:, labels]
        + matcher.mask_weight * cross_entropy
        + matcher.dice_weight * dice
    )
    queries, masks = linear_sum_assignment(cost.cpu().numpy())
    device = mask_logits.device
    return torch.as_tensor(queries, device=device), torch.as_tensor(masks, device=device)


def _class_loss(
    criterion: SetCriterion, class_logits: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], targets: Sequence[Target]
) -> Tensor:
    classes = torch.full(class_logits.shape[:2], criterion.num_classes, device=class_logits.device)
    for row, (queries, masks), target in zip(classes, pairs, targets, strict=True):
        row[queries] = target.labels[masks]
    return F.cross_entropy(class_logits.float().transpose(1, 2), classes, criterion.empty_weight)


def _mask_losses(
    criterion: SetCriterion, mask_logits: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], truths: Sequence[Tensor]
) -> dict[str, Tensor]:
    sampling = criterion.point_sampling
    matched = torch.cat([logits[queries] for logits, (queries, _) in zip(mask_logits, pairs, strict=True)]).float()
    wanted = torch.cat([truth[masks] for truth, (_, masks) in zip(truths, pairs, strict=True)])
    num_masks = max(sum(len(truth) for truth in truths), 1)
    device = mask_logits.device
    candidates = torch.rand(len(matched), sampling.num_candidates, 2, device=device)
    anywhere = torch.rand(len(matched), sampling.num_points - sampling.num_uncertain, 2, device=device)
    if len(matched) == 0:
        nothing = mask_logits.float().sum() * 0.0
        return {"loss_mask": nothing, "loss_dice": nothing}
    with torch.no_grad():
        uncertain = (-_read(matched, candidates).abs()).topk(sampling.num_uncertain, dim=1).indices
        points = torch.cat([candidates.gather(1, uncertain[..., None].expand(-1, -1, 2)), anywhere], dim=1)
        truth_there = _read(wanted, points)
    predicted = _read(matched, points)
    cross_entropy = F.binary_cross_entropy_with_logits(predicted, truth_there, reduction="none").mean(1)
    probability = predicted.sigmoid()
    overlap = 2 * (probability * truth_there).sum(1) + 1
    dice = 1 - overlap / (probability.sum(1) + truth_there.sum(1) + 1)
    return {"loss_mask": cross_entropy.sum() / num_masks, "loss_dice": dice.sum() / num_masks}


def use_reference_attention(model: nn.Module) -> None:
    """Let every :class:`MSDeformAttn` of ``model`` compute with PyTorch's operators alone, for good."""
    for module in model.modules():
        if isinstance(module, MSDeformAttn):
            module.forward = partial(_reference_attention, module)  # type: ignore[method-assign]


def _reference_attention(
    module: MSDeformAttn,
    query: Tensor,
    reference_points: Tensor,
    input_flatten: Tensor,
    input_spatial_shapes: Tensor,
    input_level_start_index: Tensor,
) -> Tensor:
    """As the module's own ``forward``."""
    heads = (module.n_heads, module.n_levels, module.n_points)
    value = module.value_proj(input_flatten).unflatten(-1, (module.n_heads, -1))
    offsets = module.sampling_offsets(query).unflatten(-1, (*heads, 2))
    weights = module.attention_weights(query).unflatten(-1, (module.n_heads, -1)).softmax(-1)
    locations = sampling_locations(reference_points, offsets, input_spatial_shapes)
    shapes = [(int(height), int(width)) for height, width in input_spatial_shapes.tolist()]
    sampled = ms_deform_attn_reference(value, shapes, locations, weights.unflatten(-1, heads[1:]))
    return module.output_proj(sampled)


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """In words, what differs between two results of one image.

    Masks, classes, boxes and segment ids must be the same to the last bit; scores, and semantic maps in proportion to
    their largest value, may differ by ``SCORE_TOLERANCE``.
    """
    wrong = []
    if expected.keys() != found.keys():
        return [f"tasks {sorted(found)} instead of {sorted(expected)}"]
    if "sem_seg" in expected:
        limit = SCORE_TOLERANCE * max(1.0, float(expected["sem_seg"].abs().max()))
        error = float((expected["sem_seg"] - found["sem_seg"]).abs().max())
        if not error <= limit:
            wrong.append(f"semantic scores differ by {error:.2g}")
    if "panoptic_seg" in expected:
        (ids, segments), (other_ids, other_segments) = expected["panoptic_seg"], found["panoptic_seg"]
        if segments != other_segments:
            wrong.append("panoptic segments differ")
        if not torch.equal(ids, other_ids):
            wrong.append(f"panoptic ids differ in {int((ids != other_ids).sum())} pixels")
    if "instances" in expected:
        wrong += _instance_differences(expected["instances"], found["instances"])
    return wrong


def _instance_differences(expected: Instances, found: Instances) -> list[str]:
    if len(expected) != len(found):
        return [f"{len(found)} instances instead of {len(expected)}"]
    wrong = []
    for field in ("pred_classes", "pred_masks", "pred_boxes"):
        values, others = (getattr(x, field) for x in (expected, found))
        if field == "pred_boxes":
            values, others = values.tensor.cpu(), others.tensor.cpu()
        if not torch.equal(values, others):
            wrong.append(f"{field} differ")
    if len(expected) and not float((expected.scores - found.scores).abs().max()) <= SCORE_TOLERANCE:
        wrong.append("scores differ")
    return wrong
