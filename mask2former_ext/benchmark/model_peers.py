"""Other packages' models in benchmarks: transformers' Mask2Former with the same weights, torchvision's Mask R-CNN."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..checkpoint.hf import build_hf_peer
from ..checkpoint.hf.preprocessing import is_bgr
from .model_inputs import make_images, make_truths
from .models import TASKS, TORCHVISION_CLASSES, MaskFormerSubject, Subject, Work
from .stages import BACKBONE, DATA, DECODER, HEADS, LOSS, MATCHING, PIXEL_DECODER, POSTPROCESSING, PROPOSALS
from .straightforward import Settings


class TransformersSubject(Subject):
    """transformers' Mask2Former, with the weights, images and annotations of :class:`MaskFormerSubject`.

    It gets images that are normalised and padded as this package's model does it, and annotations as float masks, as
    its image processor makes them. Post-processing is the processor's, which resizes masks to 384×384 pixels before it
    takes sizes of results into account.
    """

    model: Any

    def __init__(self, cfg: CfgNode, work: Work) -> None:
        super().__init__(work)
        own = MaskFormerSubject(cfg, work)
        self.settings = Settings.of(own.model)
        self._tasks = own.tasks
        self._made_up, self.divisor = own.made_up(), own.model.size_divisibility
        self.mean, self.std = own.model.pixel_mean.clone(), own.model.pixel_std.clone()
        self.bgr = is_bgr(cfg)
        self.model = build_hf_peer(cfg, own.model).to(work.device)
        library: Any = importlib.import_module("transformers")
        self.processor = library.Mask2FormerImageProcessor()
        self.images, self.cfg = own.images, cfg
        self._frozen_norms = cfg.MODEL.RESNETS.NORM == "FrozenBN"
        self._annotations: tuple[list[Tensor], list[Tensor]] | None = None
        self._instrument()

    def _instrument(self) -> None:
        level, instrument = self.model.model.pixel_level_module, self.stages.instrument
        instrument(level.encoder, "forward", BACKBONE)
        instrument(level.decoder, "forward", PIXEL_DECODER)
        instrument(self.model.model.transformer_module, "forward", DECODER)
        instrument(self.model.class_predictor, "forward", DECODER)
        instrument(self.model.criterion, "forward", LOSS)
        instrument(self.model.criterion.matcher, "forward", MATCHING)

    @property
    def tasks(self) -> tuple[str, ...]:
        return self._tasks

    def select(self, tasks: Collection[str]) -> None:
        self._tasks = tuple(task for task in TASKS if task in tasks)

    def _pixels(self) -> dict[str, Tensor]:
        with self.stages.stage(DATA):
            dtype = self.model.dtype
            mean, std = self.mean.to(dtype), self.std.to(dtype)
            images = [(image.to(self.work.device, dtype) - mean) / std for image in self.images]
            padded = ImageList.from_tensors(images, self.divisor).tensor
            mask = torch.zeros(len(images), *padded.shape[-2:], dtype=torch.int64, device=padded.device)
            mask[:, : self.work.size[0], : self.work.size[1]] = 1
            return {"pixel_values": padded.flip(1) if self.bgr else padded, "pixel_mask": mask}

    def predict(self) -> Any:
        return self.model(**self._pixels())

    def predicted(self) -> Any:
        return None

    def finish(self, predicted: Any) -> Any:
        outputs = SimpleNamespace(
            class_queries_logits=self._made_up.class_logits, masks_queries_logits=self._made_up.mask_logits
        )
        sizes = [self.work.output_size] * self.work.batch
        classes = range(self._made_up.class_logits.shape[-1] - 1)
        limits = {
            "threshold": self.settings.object_mask_threshold,
            "overlap_mask_area_threshold": self.settings.overlap_threshold,
        }
        results = {}
        with self.stages.stage(POSTPROCESSING):
            if "semantic" in self._tasks:
                results["semantic"] = self.processor.post_process_semantic_segmentation(outputs, sizes)
            if "panoptic" in self._tasks:
                stuff = set(classes) - set(self.settings.thing_classes)
                results["panoptic"] = self.processor.post_process_panoptic_segmentation(
                    outputs, target_sizes=sizes, label_ids_to_fuse=stuff, **limits
                )
            if "instance" in self._tasks:
                results["instance"] = self.processor.post_process_instance_segmentation(
                    outputs, target_sizes=sizes, threshold=0.0, return_binary_maps=True
                )
        return results

    def loss(self) -> Tensor:
        if self._annotations is None:
            work = self.work
            classes = self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
            truths = make_truths(work.batch, work.masks, work.size, classes, work.seed)
            height, width = self._pixels()["pixel_values"].shape[-2:]
            padding = (0, width - work.size[1], 0, height - work.size[0])
            masks = [nn.functional.pad(truth.masks.float(), padding) for truth in truths]
            self._annotations = (masks, [truth.labels for truth in truths])
        if self._frozen_norms:
            freeze_norms(self.model.model.pixel_level_module.encoder)
        with self.stages.stage(DATA):
            masks, labels = ([x.to(self.work.device) for x in values] for values in self._annotations)
        return self.model(**self._pixels(), mask_labels=masks, class_labels=labels).loss.sum()

    def optimizer(self) -> torch.optim.Optimizer:
        return _ClippedAdamW(self.model.parameters(), lr=self.cfg.SOLVER.BASE_LR)

    def logits(self) -> tuple[Tensor, Tensor]:
        outputs = self.predict()
        return outputs.class_queries_logits, outputs.masks_queries_logits


class _ClippedAdamW(torch.optim.AdamW):
    """As this package's configs have it: gradients are clipped to a norm over all parameters."""

    MAX_NORM = 0.01

    def step(self, closure: Any = None) -> Any:
        nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], self.MAX_NORM)
        return super().step(closure)


def freeze_norms(backbone: nn.Module) -> None:
    """Do no more work than Detectron2's FrozenBN does: statistics and parameters of batch norms stay as they are."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)


class TorchvisionSubject(Subject):
    """torchvision's Mask R-CNN with ResNet-50 and FPN, for 91 classes; images are not resized."""

    model: Any
    possible = ("instance",)

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        detection: Any = importlib.import_module("torchvision.models.detection")
        torch.manual_seed(work.seed)
        self.model = detection.maskrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=TORCHVISION_CLASSES,
            min_size=min(work.size),
            max_size=max(work.size),
            box_score_thresh=0.0,
        ).to(work.device)
        self.images = make_images(work.batch, work.size, work.seed)
        self._truths = make_truths(work.batch, work.masks, work.size, TORCHVISION_CLASSES - 1, work.seed)
        self.stages.instrument(self.model.transform, "forward", DATA)
        self.stages.instrument(self.model.backbone, "forward", BACKBONE)
        self.stages.instrument(self.model.rpn, "forward", PROPOSALS)
        self.stages.instrument(self.model.roi_heads, "forward", HEADS)

    def _on_device(self) -> list[Tensor]:
        with self.stages.stage(DATA):
            return [image.to(self.work.device).float() / 255 for image in self.images]

    def predict(self) -> Any:
        images, _ = self.model.transform(self._on_device())
        features = self.model.backbone(images.tensors)
        proposals, _ = self.model.rpn(images, features)
        detections, _ = self.model.roi_heads(features, proposals, images.image_sizes)
        return detections, images.image_sizes

    def finish(self, predicted: Any) -> Any:
        detections, sizes = predicted
        with self.stages.stage(POSTPROCESSING):
            copies = [dict(detection) for detection in detections]
            return self.model.transform.postprocess(copies, sizes, [self.work.output_size] * self.work.batch)

    def loss(self) -> Tensor:
        with self.stages.stage(DATA):
            targets = [
                {
                    "labels": (truth.labels + 1).to(self.work.device),
                    "masks": truth.masks.to(self.work.device, torch.uint8),
                    "boxes": _boxes(truth.masks).to(self.work.device),
                }
                for truth in self._truths
            ]
        return sum(self.model(self._on_device(), targets).values(), torch.zeros((), device=self.work.device))

    def optimizer(self) -> torch.optim.Optimizer:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=1e-4)


def _boxes(masks: Tensor) -> Tensor:
    """N×4 boxes of masks that each have a pixel."""
    operators: Any = importlib.import_module("torchvision.ops")
    return operators.masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])
