"""Models in benchmarks: this package's, Detectron2's Mask R-CNN, and the straightforward shape of this package's work.

A :class:`Subject` is a model with its inputs, whose work is told apart by stages. Weights are drawn from a seed, so
that every process builds the same; predictions for post-processing are made up (those of random weights would leave
nothing to do), except for Mask R-CNN, which instead returns as many boxes as it may.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..modeling.maskformer import MaskFormer
from ..solver import build_optimizer
from ..structures import PackedBitMasks
from . import straightforward
from .model_inputs import Predictions, Size, make_images, make_predictions, make_truths, spread_samples
from .stages import (
    BACKBONE,
    DATA,
    DECODER,
    HEADS,
    LOSS,
    MATCHING,
    PIXEL_DECODER,
    POSTPROCESSING,
    PROPOSALS,
    Stages,
)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TASKS = ("semantic", "panoptic", "instance")
TORCHVISION_CLASSES = 91


@dataclass(frozen=True)
class Work:
    """What models are to do; the same for all that are compared.

    Attributes:
        size: (height, width) of the images that the network gets, in pixels.
        output_size: (height, width) of results.
        batch: images.
        masks: of an image, in training.
        kept: queries of an image that are sure of a class, in the predictions made up for post-processing.
        tasks: names in ``TASKS`` to switch on; None leaves that to the config.
        precision: a name in ``PRECISIONS``; all but float32 are autocast.
        device: where.
        seed: of weights, inputs and random points.
        opts: overrides for all configs, keys and values in turn.
    """

    size: Size
    output_size: Size
    batch: int = 1
    masks: int = 20
    kept: int = 20
    tasks: tuple[str, ...] | None = None
    precision: str = "float32"
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)
    seed: int = 0
    opts: tuple[str, ...] = ()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision as a context."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, PRECISIONS[self.precision])


class Subject(ABC):
    """A model with its inputs.

    Attributes:
        model: the network.
        stages: which of its stages runs.
        work: what it does.
        possible: names of ``TASKS`` that it can do.
    """

    model: nn.Module
    possible: tuple[str, ...] = TASKS

    def __init__(self, work: Work) -> None:
        self.stages = Stages()
        self.work = work

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of ``TASKS`` that :meth:`finish` does, some of those that are possible."""
        return self.possible

    def select(self, tasks: Collection[str]) -> None:  # noqa: B027  (a model of one task has no choice)
        """Let :meth:`finish` do these tasks, those of them that it can."""

    @abstractmethod
    def predict(self) -> Any:
        """From the images to what the network itself predicts."""

    def predicted(self) -> Any:
        """What :meth:`finish` takes, at the least effort."""
        return self.predict()

    @abstractmethod
    def finish(self, predicted: Any) -> Any:
        """From what :meth:`predict` returned to results."""

    @abstractmethod
    def loss(self) -> Tensor:
        """The sum of all losses for the images and their annotations."""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """A new optimizer of the model."""

    def logits(self) -> tuple[Tensor, Tensor] | None:
        """Class logits B×Q×(K+1) and mask logits B×Q×h×w; None for a model that makes no such predictions."""
        return None


class Detectron2Subject(Subject):
    """What MaskFormer and Mask R-CNN have in common."""

    def __init__(self, cfg: CfgNode, work: Work) -> None:
        super().__init__(work)
        self.cfg = cfg
        torch.manual_seed(work.seed)
        self.model: Any = build_model(cfg)
        height, width = work.output_size
        self.images = make_images(work.batch, work.size, work.seed)
        self.batched = [{"image": image, "height": height, "width": width} for image in self.images]
        self.stages.instrument(self.model.backbone, "forward", BACKBONE)

    def optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer(self.cfg, self.model)

    def _annotated(self, num_classes: int, packed: bool) -> list[dict[str, Any]]:
        work = self.work
        truths = make_truths(work.batch, work.masks, work.size, num_classes, work.seed)
        batch = []
        for image, truth in zip(self.images, truths, strict=True):
            instances = Instances(work.size)
            instances.gt_classes = truth.labels
            masks = BitMasks(truth.masks)
            instances.gt_boxes = masks.get_bounding_boxes()
            instances.gt_masks = PackedBitMasks.from_masks(truth.masks) if packed else masks
            batch.append({"image": image, "instances": instances})
        return batch


class MaskFormerSubject(Detectron2Subject):
    """A MaskFormer of this package."""

    model: MaskFormer

    def __init__(self, cfg: CfgNode, work: Work) -> None:
        super().__init__(cfg, work)
        spread_samples(self.model, work.seed)
        head = self.model.sem_seg_head
        self.stages.instrument(head.pixel_decoder, "forward_features", PIXEL_DECODER)
        self.stages.instrument(head.predictor, "forward", DECODER)
        self.stages.instrument(self.model, "_preprocess", DATA)
        self.stages.instrument(self.model, "_prepare_targets", DATA)
        self.stages.instrument(self.model.criterion, "forward", LOSS)
        self.stages.instrument(self.model.criterion.matcher, "forward", MATCHING)
        self._made_up: Predictions | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task for task in TASKS if getattr(self.model, f"{task}_on"))

    def select(self, tasks: Collection[str]) -> None:
        for task in TASKS:
            setattr(self.model, f"{task}_on", task in tasks)

    def predict(self) -> Any:
        images = self.model._preprocess(self.batched)
        return self.model._predict(images), images

    def made_up(self) -> Predictions:
        """The predictions that results are made of, in the shapes of the model's own."""
        if self._made_up is None:
            work = self.work
            divisor = max(self.model.size_divisibility, 1)
            height, width = (-(-side // divisor) * divisor for side in work.size)
            stride = self.cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
            found = make_predictions(
                work.batch,
                self.model.num_queries,
                self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
                (height // stride, width // stride),
                work.kept,
                work.seed,
            )
            device = work.device
            self._made_up = Predictions(found.class_logits.to(device), found.mask_logits.to(device))
        return self._made_up

    def predicted(self) -> Any:
        return None, self.model._preprocess(self.batched)

    def finish(self, predicted: Any) -> Any:
        _, images = predicted
        return self._results(self.made_up(), images)

    def _results(self, predictions: Predictions, images: ImageList) -> list[dict[str, Any]]:
        outputs = {"pred_logits": predictions.class_logits, "pred_masks": predictions.mask_logits}
        with self.stages.stage(POSTPROCESSING):
            return self.model._postprocess(outputs, images, self.batched)

    @cached_property
    def _training_batch(self) -> list[dict[str, Any]]:
        return self._annotated(self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, packed=True)

    def loss(self) -> Tensor:
        return sum(self.model(self._training_batch).values(), torch.zeros((), device=self.work.device))

    def logits(self) -> tuple[Tensor, Tensor]:
        outputs, _ = self.predict()
        return outputs["pred_logits"], outputs["pred_masks"]


class StraightforwardSubject(MaskFormerSubject):
    """The same network, with the work done as :mod:`~mask2former_ext.benchmark.straightforward` does it."""

    def __init__(self, cfg: CfgNode, work: Work) -> None:
        super().__init__(cfg, work)
        straightforward.use_reference_attention(self.model)

    def _results(self, predictions: Predictions, images: ImageList) -> list[dict[str, Any]]:
        padded = (images.tensor.shape[-2], images.tensor.shape[-1])
        settings = straightforward.Settings.of(self.model)
        with self.stages.stage(POSTPROCESSING):
            return [
                straightforward.infer_image(logits, masks, padded, size, self.work.output_size, settings)
                for logits, masks, size in zip(
                    predictions.class_logits, predictions.mask_logits, images.image_sizes, strict=True
                )
            ]

    def loss(self) -> Tensor:
        model = self.model
        images = model._preprocess(self._training_batch)
        outputs = model._predict(images)
        targets = model._prepare_targets(self._training_batch, (images.tensor.shape[-2], images.tensor.shape[-1]))
        with self.stages.stage(LOSS):
            found = straightforward.losses(model.criterion, outputs, targets, self._staged_match)
        return sum(found.values(), torch.zeros((), device=self.work.device))

    def _staged_match(self, *args: Any) -> tuple[Tensor, Tensor]:
        with self.stages.stage(MATCHING):
            return straightforward.match(*args)


class MaskRCNNSubject(Detectron2Subject):
    """A Mask R-CNN of Detectron2, or another model of its GeneralizedRCNN."""

    possible = ("instance",)

    def __init__(self, cfg: CfgNode, work: Work) -> None:
        super().__init__(cfg, work)
        self.stages.instrument(self.model, "preprocess_image", DATA)
        self.stages.instrument(self.model.proposal_generator, "forward", PROPOSALS)
        self.stages.instrument(self.model.roi_heads, "forward", HEADS)

    def predict(self) -> Any:
        return self.model.inference(self.batched, do_postprocess=False)

    def finish(self, predicted: Any) -> Any:
        with self.stages.stage(POSTPROCESSING):
            return self.model._postprocess(predicted, self.batched, [self.work.size] * self.work.batch)

    @cached_property
    def _training_batch(self) -> list[dict[str, Any]]:
        return self._annotated(self.cfg.MODEL.ROI_HEADS.NUM_CLASSES, packed=False)

    def loss(self) -> Tensor:
        on_device = [{**x, "instances": x["instances"].to(self.work.device)} for x in self._training_batch]
        with EventStorage():
            return sum(self.model(on_device).values(), torch.zeros((), device=self.work.device))
