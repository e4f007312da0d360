"""The tasks that a demonstration can show: what the config must have on, what of a result is shown, and how.

Shapes: H, W of the image, K classes, N instances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.structures import Instances

from ..config import is_maskformer
from ..visualization.overlays import ThingNumbers, class_colour, distinct_colour, varied_colour
from ..visualization.panels import Colour, Segment
from ..visualization.segments import segments_from_instances, segments_from_panoptic

NOT_SHOWN = -1
PanopticShown = tuple[np.ndarray, list[dict[str, Any]]]


@dataclass(frozen=True)
class Task:
    """How one kind of results is shown.

    Attributes:
        switch: the key below MODEL.MASK_FORMER.TEST that turns it on.
        threshold: the confidence from which on something is shown, where nobody says otherwise; None where it is the
            config's.
        select: of a model's results, those above a confidence, on the CPU.
        draw: segments and their colours for what was selected; takes the metadata, and the numbers of things.
    """

    switch: str
    threshold: float | None
    select: Callable[[Mapping[str, Any], float], Any]
    draw: Callable[[Any, Metadata, ThingNumbers], tuple[list[Segment], list[Colour]]]


def choose_task(cfg: CfgNode, wanted: str | None) -> str:
    """The task to show: ``wanted``, or the first of ``TASKS`` that the config has on.

    Raises:
        ValueError: the model cannot do it.
    """
    if is_maskformer(cfg):
        test = cfg.MODEL.MASK_FORMER.TEST
        chosen = wanted or next((name for name, task in TASKS.items() if test[task.switch]), None)
        if chosen is None:
            raise ValueError("the config has no task on (MODEL.MASK_FORMER.TEST.*_ON): name the one to show")
        return chosen
    model = cfg.MODEL.META_ARCHITECTURE
    if wanted not in (None, "instance"):
        raise ValueError(f"task {wanted} is possible for a MaskFormer alone; {model} gives instances only")
    if not cfg.MODEL.MASK_ON:
        raise ValueError(f"{model} without masks (MODEL.MASK_ON) gives nothing to show")
    return "instance"


def configure(cfg: CfgNode, task: str, threshold: float | None) -> CfgNode:
    """A copy of the config that has ``task`` on, and nothing that it does not need.

    Args:
        cfg: of a MaskFormer, or of a model that gives instances.
        task: see :func:`choose_task`.
        threshold: confidence, in [0, 1]; None leaves the config's.
    """
    cfg = cfg.clone()
    cfg.defrost()
    if not is_maskformer(cfg):
        if threshold is not None:
            cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = min(cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, threshold)
        return cfg
    test = cfg.MODEL.MASK_FORMER.TEST
    for name, other in TASKS.items():
        # with the panoptic task on, instances are of things only: so they are to stay
        stays = name == "panoptic" and task == "instance" and test.PANOPTIC_ON
        test[other.switch] = name == task or stays
    if task == "panoptic" and threshold is not None:
        test.OBJECT_MASK_THRESHOLD = threshold
    return cfg


def _is_above(scores: Any, threshold: float) -> Any:
    """Whether each score is shown: all at threshold 0, none at 1, even if a score is 0 or 1."""
    return (scores > threshold) | (threshold <= 0)


def _select_panoptic(results: Mapping[str, Any], _: float) -> PanopticShown:
    """Ids int32 H×W and the list of segments. The threshold has been applied to the queries: :func:`configure`."""
    ids, segments = results["panoptic_seg"]
    return ids.cpu().numpy(), segments


def _select_instances(results: Mapping[str, Any], threshold: float) -> Instances:
    """Those with a score above the threshold, the best first."""
    instances = results["instances"].to("cpu")
    instances = instances[_is_above(instances.scores, threshold)]
    return instances[instances.scores.argsort(descending=True, stable=True)]


def _select_semantic(results: Mapping[str, Any], threshold: float) -> np.ndarray:
    """The best class of each pixel, int64 H×W; ``NOT_SHOWN`` where its score, cut off at 1, is not above the threshold.

    Scores are sums over queries of class × mask probability: close to 1 where one query is sure, close to 0 where
    none says anything, and above 1 where several say the same.
    """
    scores, labels = results["sem_seg"].max(dim=0)
    shown = _is_above(scores.clamp(max=1), threshold)
    return torch.where(shown, labels, NOT_SHOWN).cpu().numpy()


def _draw_panoptic(
    shown: PanopticShown, metadata: Metadata, numbers: ThingNumbers
) -> tuple[list[Segment], list[Colour]]:
    ids, infos = shown
    segments = segments_from_panoptic(torch.from_numpy(ids), infos, metadata.stuff_classes)
    of_things = iter(numbers.of([segment.mask for segment in segments if segment.is_thing]))
    own = _class_colours(metadata)
    colours = []
    for info in infos:
        category = info["category_id"]
        if not info["isthing"]:
            colours.append(class_colour(own, category))
        elif category < len(own):
            colours.append(varied_colour(class_colour(own, category), next(of_things)))
        else:
            colours.append(distinct_colour(next(of_things)))
    return segments, colours


def _draw_instances(shown: Instances, metadata: Metadata, numbers: ThingNumbers) -> tuple[list[Segment], list[Colour]]:
    segments = segments_from_instances(shown, metadata.thing_classes, min_score=0)
    return segments, [distinct_colour(number) for number in numbers.of([segment.mask for segment in segments])]


def _draw_semantic(shown: np.ndarray, metadata: Metadata, _: ThingNumbers) -> tuple[list[Segment], list[Colour]]:
    labels = [int(label) for label in np.unique(shown) if label != NOT_SHOWN]
    segments = [Segment(shown == label, metadata.stuff_classes[label], is_thing=False) for label in labels]
    return segments, [class_colour(_class_colours(metadata), label) for label in labels]


def _class_colours(metadata: Metadata) -> Sequence[Sequence[int]]:
    """By label, as a ``Predictor`` has them; empty where the data set has none for each class."""
    return metadata.get("stuff_colors") or ()


TASKS = {
    "panoptic": Task("PANOPTIC_ON", None, _select_panoptic, _draw_panoptic),
    "instance": Task("INSTANCE_ON", 0.5, _select_instances, _draw_instances),
    "semantic": Task("SEMANTIC_ON", 0.0, _select_semantic, _draw_semantic),
}
"""By name, in the order in which a config's are looked for."""
