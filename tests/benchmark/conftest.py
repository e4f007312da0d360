"""Config files of tiny models, for benchmarks of whole models."""

from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg

TINY_MASK_RCNN = [
    *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.MASK_ON", True, "MODEL.WEIGHTS", ""),
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]]),
    *("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"], "MODEL.RPN.POST_NMS_TOPK_TEST", 10),
    *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8),
    *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead", "MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "TEST.DETECTIONS_PER_IMAGE", 5),
]


def write(cfg: CfgNode, path: Path) -> str:
    path.write_text(cfg.dump())
    return str(path)


@pytest.fixture
def tiny_config(tiny_cfg, tmp_path) -> str:
    """Path of a MaskFormer without dropout, so that two of them do the same in training."""
    return write(tiny_cfg, tmp_path / "tiny.yaml")


@pytest.fixture
def tiny_mask_rcnn(tmp_path) -> str:
    """Path of a Mask R-CNN."""
    cfg = get_cfg()
    cfg.merge_from_list(TINY_MASK_RCNN)
    return write(cfg, tmp_path / "mask_rcnn.yaml")
