"""Loaders, augmentations and evaluators."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator
from detectron2.projects.point_rend import ColorAugSSDTransform
from omegaconf import OmegaConf

from mask2former_ext.data import EvaluationMapper, MaskFormerDatasetMapper
from mask2former_ext.data.augmentations import PadToMultiple
from mask2former_ext.data.index_maps import NOTHING
from mask2former_ext.data.reading import LabelSpace


def large_scale_jitter(size=1024):
    """Flip, resize by 0.1 to 2.0, crop or pad to a square."""
    return [
        L(T.RandomFlip)(horizontal=True, vertical=False),
        L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=size, target_width=size),
        L(T.FixedSizeCrop)(crop_size=(size, size), pad=False),
        L(PadToMultiple)(size=size),
    ]


def resize_crop_flip(side, crop_size, *, by_category, pad):
    """Shorter side of 0.5 to 2.0 times ``side``, random crop, colours, flip; then perhaps pad to squares."""
    if by_category:
        crop = L(T.RandomCrop_CategoryAreaConstraint)(
            crop_type="absolute", crop_size=crop_size, single_category_max_area=1.0, ignored_category=NOTHING
        )
    else:
        crop = L(T.RandomCrop)(crop_type="absolute", crop_size=crop_size)
    sides = [side * tenths // 10 for tenths in range(5, 21)]
    return [
        L(T.ResizeShortestEdge)(short_edge_length=sides, max_size=4 * side, sample_style="choice"),
        crop,
        L(ColorAugSSDTransform)(img_format="RGB"),
        L(T.RandomFlip)(horizontal=True, vertical=False),
        *([L(PadToMultiple)(size=crop_size[0])] if pad else []),
    ]


def loaders(train, test, *, targets, augmentations, test_size, evaluators, ignore_label=None, num_workers=4):
    """All of ``dataloader``: ``test_size`` is the shorter side and the limit of the longer.

    Targets whose label images have an ``ignore_label`` are those whose crops look at the categories.
    """
    dataloader = OmegaConf.create({}, flags={"allow_objects": True})
    dataloader.train = L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names=train),
        mapper=L(MaskFormerDatasetMapper)(
            augmentations=augmentations,
            image_format="RGB",
            targets=targets,
            labels=L(LabelSpace)(num_classes="${model.sem_seg_head.num_classes}", ignore_label=ignore_label),
            with_sem_seg=ignore_label is not None,
        ),
        total_batch_size=16,
        num_workers=num_workers,
    )
    dataloader.test = L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names=test, filter_empty=False),
        mapper=L(EvaluationMapper)(
            is_train=False,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=test_size[0], max_size=test_size[1], sample_style="choice")
            ],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=num_workers,
    )
    dataloader.evaluator = evaluators
    return dataloader


def cityscapes(evaluator):
    """An evaluator of Cityscapes' own."""
    return L(evaluator)(dataset_name="${dataloader.test.dataset.names}")


def writing(evaluator, **arguments):
    """An evaluator that writes its results to files too."""
    return L(evaluator)(
        dataset_name="${dataloader.test.dataset.names}", output_dir="${train.output_dir}/inference", **arguments
    )


def instances(evaluator=COCOEvaluator):
    return writing(evaluator, tasks=("bbox", "segm"))
