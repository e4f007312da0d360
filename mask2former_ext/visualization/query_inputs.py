"""What `queries` works on: a model that keeps all layers' predictions, and images, with their truth if there is one."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation

from ..config import is_maskformer
from ..data import MaskFormerDatasetMapper
from ..data.reading import DatasetDict, read_image_file
from ..engine.checks import check_dataset_mapper
from ..modeling import MaskFormer
from ..predictor import load_trained_model


def load_query_model(cfg: CfgNode, weights: str) -> MaskFormer:
    """Build the MaskFormer of ``cfg``, for evaluation, so that it keeps all layers' predictions; load ``weights``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the config is of another model or asks for a device that is not there; or the weights do not fit.
    """
    if not is_maskformer(cfg):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, which has no queries; this is for MaskFormer."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    cfg.MODEL.COMPILE = False
    cfg.MODEL.MASK_FORMER.RESIZE_MASK_FEATURES = False  # which leaves earlier predictions out
    model = load_trained_model(cfg)
    assert isinstance(model, MaskFormer)
    return model


def image_input(cfg: CfgNode, path: str) -> dict[str, Any]:
    """Read an image file as evaluation does: ``image`` uint8 C×H×W.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is no image.
    """
    if not os.path.isfile(path):  # of which reading would say where to look in a dataset
        raise FileNotFoundError(f"{path}: this file does not exist (looked in '{os.getcwd()}').")
    augmented = T.AugInput(read_image_file(path, cfg.INPUT.FORMAT, "image to look at"))
    T.AugmentationList(build_augmentation(cfg, is_train=False))(augmented)
    return {"file_name": path, "image": torch.from_numpy(np.array(augmented.image.transpose(2, 0, 1), order="C"))}


def dataset_input(cfg: CfgNode, name: str, index: int) -> dict[str, Any]:
    """Read an image of a dataset at the size of evaluation, with its truth: ``image``, ``instances``.

    The truth is read as INPUT.DATASET_MAPPER_NAME says.

    Raises:
        FileNotFoundError: the dataset, or the image, is not there.
        ValueError: there is no such dataset, or no such image in it; or its annotations cannot be used.
    """
    check_dataset_mapper(cfg)
    try:
        records: list[DatasetDict] = DatasetCatalog.get(name)
    except KeyError as error:
        raise ValueError(f"--dataset: {error.args[0]}") from error
    if not 0 <= index < len(records):
        raise ValueError(f"--index is {index}, but {name} has the images 0…{len(records) - 1}.")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = (name,)  # its ignore_label is what label images are read with
    arguments = MaskFormerDatasetMapper.from_config(cfg)
    arguments |= {"augmentations": build_augmentation(cfg, is_train=False), "with_sem_seg": False}
    return MaskFormerDatasetMapper(**arguments)(records[index])
