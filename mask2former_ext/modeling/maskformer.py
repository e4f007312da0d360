"""Meta-architecture: images in, losses or results out (Mask2Former, section 3).

Shapes: B images, C channels, H, W of the padded batch, Q queries, K classes, N masks of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import Metadata, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, build_sem_seg_head
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..classes import thing_labels
from .compilation import compile_parts
from .criterion import SetCriterion
from .inference import resize_masks, run_rules
from .inference_rules import InstanceRule, PanopticRule, Rule, SemanticRule, Size
from .targets import Target, prepare_target


@META_ARCH_REGISTRY.register()
class MaskFormer(nn.Module):
    """Segmentation by mask classification: semantic, instance and panoptic results of the same predictions."""

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        criterion: SetCriterion,
        num_queries: int,
        object_mask_threshold: float,
        overlap_threshold: float,
        metadata: Metadata,
        size_divisibility: int,
        sem_seg_postprocess_before_inference: bool,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        semantic_on: bool,
        panoptic_on: bool,
        instance_on: bool,
        test_topk_per_image: int,
        max_memory_mb: float = 64,
        compile: bool = False,
    ) -> None:
        """
        Args:
            backbone: gives a dict of feature maps.
            sem_seg_head: gives class and mask predictions, see :class:`MaskFormerHead`.
            criterion: gives weighted losses.
            num_queries: queries Q.
            object_mask_threshold, overlap_threshold: see :func:`panoptic_inference`.
            metadata: of the dataset; ``thing_dataset_id_to_contiguous_id`` tells things from stuff.
            size_divisibility: images are padded so that this divides height and width; if negative, the backbone's
                own value does.
            sem_seg_postprocess_before_inference: resize mask logits, not semantic scores, to the output size.
            pixel_mean, pixel_std: per channel, in the units of the images.
            semantic_on, panoptic_on, instance_on: which results to return.
            test_topk_per_image: instances per image at most.
            max_memory_mb: about this much memory, in MiB, may hold full-size masks beside the results; fewer queries
                are taken at a time where images are larger, one at least.
            compile: run the network's parts through torch.compile, see :func:`compile_parts`.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.num_queries = num_queries
        self.object_mask_threshold = object_mask_threshold
        self.overlap_threshold = overlap_threshold
        self.metadata = metadata
        self.size_divisibility = backbone.size_divisibility if size_divisibility < 0 else size_divisibility
        self.sem_seg_postprocess_before_inference = sem_seg_postprocess_before_inference
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).float().view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).float().view(-1, 1, 1), persistent=False)
        self.semantic_on, self.panoptic_on, self.instance_on = semantic_on, panoptic_on, instance_on
        self.test_topk_per_image = test_topk_per_image
        self.max_memory_mb = max_memory_mb
        if compile:
            compile_parts(backbone, sem_seg_head)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        test = cfg.MODEL.MASK_FORMER.TEST
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "criterion": SetCriterion.from_config(cfg),
            "num_queries": cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES,
            "object_mask_threshold": test.OBJECT_MASK_THRESHOLD,
            "overlap_threshold": test.OVERLAP_THRESHOLD,
            "metadata": MetadataCatalog.get(cfg.DATASETS.TRAIN[0]) if len(cfg.DATASETS.TRAIN) else Metadata(),
            "size_divisibility": cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
            "sem_seg_postprocess_before_inference": (
                test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE or test.PANOPTIC_ON or test.INSTANCE_ON
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "semantic_on": test.SEMANTIC_ON,
            "panoptic_on": test.PANOPTIC_ON,
            "instance_on": test.INSTANCE_ON,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "max_memory_mb": test.MAX_MEMORY_MB,
            "compile": cfg.MODEL.COMPILE,
        }

    @property
    def device(self) -> torch.device:
        """Where images are processed."""
        return self.pixel_mean.device

    @property
    def thing_classes(self) -> set[int]:
        """Indices of the classes that are things, by ``metadata``."""
        return thing_labels(self.metadata)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Compute losses in training mode, results in evaluation mode.

        Args:
            batched_inputs: a dict per image: ``image`` C×H×W, in the units of PIXEL_MEAN; ``height``, ``width`` of the
                wanted result (default: the image's own); in training ``instances`` with ``gt_classes`` N int64 and
                ``gt_masks`` N×H×W or BitMasks.

        Returns:
            In training: a dict of weighted losses, see :class:`SetCriterion`. In evaluation a list with a dict per
            image: as enabled, ``sem_seg`` K×H×W float, ``panoptic_seg`` (int32 H×W, list of segments), ``instances``.

        Raises:
            ValueError: in training, where labels or masks cannot be used; the message names the image. Also where the
                model was converted to half precision.
        """
        images = self._preprocess(batched_inputs)
        if not self.training:
            outputs = self._predict(images)
            outputs.pop("aux_outputs", None)  # full-size masks that nobody needs now
            return self._postprocess(outputs, images, batched_inputs)
        targets = self._prepare_targets(batched_inputs, (images.tensor.shape[-2], images.tensor.shape[-1]))
        return self.criterion(self._predict(images), targets)

    def _predict(self, images: ImageList) -> dict[str, Any]:
        return self.sem_seg_head(self.backbone(images.tensor))

    def _preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise, then pad with zeros, the mean colour, to a common size."""
        if self.pixel_mean.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"MaskFormer was converted to {self.pixel_mean.dtype}, but position encodings, sampling locations and "
                "matching need float32. Call model.float(), and run it within torch.autocast instead."
            )
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        return ImageList.from_tensors(images, self.size_divisibility)

    def _prepare_targets(self, batched_inputs: list[dict[str, Any]], size: tuple[int, int]) -> list[Target]:
        num_classes = self.criterion.num_classes
        targets = []
        for index, x in enumerate(batched_inputs):
            name = str(x.get("file_name", x.get("image_id", f"number {index} of the batch")))
            targets.append(prepare_target(x["instances"], size, num_classes, self.device, name))
        return targets

    def _postprocess(
        self, outputs: dict[str, Any], images: ImageList, batched_inputs: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        results = []
        for class_logits, mask_logits, x, image_size in zip(
            outputs["pred_logits"], outputs["pred_masks"], batched_inputs, images.image_sizes, strict=True
        ):
            output_size = (x.get("height", image_size[0]), x.get("width", image_size[1]))
            results.append(self.infer_image(class_logits, mask_logits, padded_size, image_size, output_size))
        return results

    def infer_image(
        self, class_logits: Tensor, mask_logits: Tensor, padded_size: Size, image_size: Size, output_size: Size
    ) -> dict[str, Any]:
        """Results of one image, for the tasks that are on.

        Args:
            class_logits: Q×(K+1); the last class is no-object.
            mask_logits: Q×h×w, over the padded image.
            padded_size: (height, width) of the padded image, in pixels.
            image_size: what of it is the image, from its top left corner.
            output_size: (height, width) of the results.

        Returns:
            As :meth:`forward` gives it for an image, in evaluation mode.
        """
        class_logits, mask_logits = class_logits.float(), mask_logits.float()
        # semantic scores alone may be resized instead of the masks: K maps for Q
        resize_scores = not self.sem_seg_postprocess_before_inference
        mask_size = padded_size if resize_scores else output_size

        def resize(logits: Tensor) -> Tensor:
            return resize_masks(logits, padded_size, padded_size if resize_scores else image_size, mask_size)

        chunk_size, summed_at_once = self._queries_at_once(padded_size, mask_size)
        rules = self._rules(class_logits, mask_size, summed_at_once)
        result = dict(zip(rules, run_rules(list(rules.values()), mask_logits, resize, chunk_size), strict=True))
        if resize_scores and "sem_seg" in result:
            result["sem_seg"] = sem_seg_postprocess(result["sem_seg"], image_size, *output_size)
        return result

    def _rules(self, class_logits: Tensor, size: Size, summed_at_once: int) -> dict[str, Rule]:
        """Key of the result → how to compute it, for the tasks that are on."""
        things = self.thing_classes
        rules: dict[str, Rule] = {}
        if self.semantic_on:
            rules["sem_seg"] = SemanticRule(class_logits, size, summed_at_once)
        if self.panoptic_on:
            rules["panoptic_seg"] = PanopticRule(
                class_logits,
                size,
                thing_classes=things,
                object_mask_threshold=self.object_mask_threshold,
                overlap_threshold=self.overlap_threshold,
            )
        if self.instance_on:
            rules["instances"] = InstanceRule(
                class_logits,
                size,
                max_detections=self.test_topk_per_image,
                thing_classes=things if self.panoptic_on else None,
            )
        return rules

    def _queries_at_once(self, padded_size: Size, mask_size: Size) -> tuple[int, int]:
        """How many queries' masks are resized at once, and summed at once, by MODEL.MASK_FORMER.TEST.MAX_MEMORY_MB."""
        # logits on the padded image, then at the size of the result logits, probabilities and what the rules make of
        # them: about two maps more; all of four bytes a pixel
        map_bytes = 4 * math.prod(mask_size)
        memory = self.max_memory_mb * 2**20 / (2 if self.semantic_on else 1)
        resized = int(memory / (4 * math.prod(padded_size) + 4 * map_bytes))
        summed = int(memory / map_bytes) if self.semantic_on else 1
        return max(resized, 1), max(summed, 1)
