"""The coins dataset with generated images, and configs of tiny models for it."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 60, 76  # not divisible by 32
COINS = {1: [], 2: [(8, 8, 24, 24)], 3: [(5, 10, 30, 35), (40, 20, 60, 50)]}  # x0, y0, x1, y1 in each image

MASK_FORMER = {
    "MODEL": {
        "META_ARCHITECTURE": "MaskFormer",
        "BACKBONE": {"FREEZE_AT": 0},
        "RESNETS": {
            "DEPTH": 18,
            "RES2_OUT_CHANNELS": 64,
            "NORM": "BN",
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        },
        "SEM_SEG_HEAD": {
            "NAME": "MaskFormerHead",
            "PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
            "IN_FEATURES": ["res2", "res3", "res4", "res5"],
            "NUM_CLASSES": 2,
            "CONVS_DIM": 32,
            "MASK_DIM": 16,
            "TRANSFORMER_ENC_LAYERS": 1,
        },
        "MASK_FORMER": {
            "TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
            "HIDDEN_DIM": 32,
            "NHEADS": 4,
            "DIM_FEEDFORWARD": 64,
            "DEC_LAYERS": 3,
            "NUM_OBJECT_QUERIES": 8,
            "TRAIN_NUM_POINTS": 64,
            "TEST": {"SEMANTIC_ON": True, "INSTANCE_ON": True, "PANOPTIC_ON": True},
        },
    },
    "INPUT": {"DATASET_MAPPER_NAME": "coco_panoptic_lsj", "IMAGE_SIZE": 64},
    "SOLVER": {
        "BASE_LR": 0.0001,
        "AMP": {"ENABLED": True},  # has no effect on the CPU
        "CLIP_GRADIENTS": {"ENABLED": True, "CLIP_TYPE": "full_model", "CLIP_VALUE": 0.01},
    },
}

MASK_RCNN = {
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": True,
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
        "RESNETS": {
            "DEPTH": 18,
            "RES2_OUT_CHANNELS": 64,
            "NORM": "BN",
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        },
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[16], [32], [64], [128], [256]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "PRE_NMS_TOPK_TRAIN": 50,
            "PRE_NMS_TOPK_TEST": 20,
            "POST_NMS_TOPK_TEST": 10,
        },
        "ROI_HEADS": {
            "NAME": "StandardROIHeads",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "NUM_CLASSES": 1,
            "BATCH_SIZE_PER_IMAGE": 8,
        },
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 16, "POOLER_RESOLUTION": 7},
        "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 16, "POOLER_RESOLUTION": 7},
    },
    "INPUT": {"MIN_SIZE_TRAIN": [64]},
    "SOLVER": {"BASE_LR": 0.001},
}

COMMON = {
    "VERSION": 2,
    "MODEL": {"DEVICE": "cpu", "WEIGHTS": ""},
    "DATASETS": {"TRAIN": ["coins_train"], "TEST": ["coins_val"]},
    "DATALOADER": {"NUM_WORKERS": 0, "FILTER_EMPTY_ANNOTATIONS": False},
    "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 2, "STEPS": [], "CHECKPOINT_PERIOD": 2},
    "INPUT": {"MIN_SIZE_TEST": 64},
    "SEED": 1,
}


def merged(one, other):
    """Merge nested dicts; the second wins."""
    both = {key: merged(one[key], other[key]) for key in one.keys() & other.keys() if isinstance(one[key], dict)}
    return one | other | both


def write_split(folder, split, coins=COINS):
    """Write images of bright rectangles on dark ground in the layout of the coins dataset.

    ``coins`` are the rectangles, x0, y0, x1, y1, of every image by its id; None stands for an image without labels.
    """
    images, instances, panoptic = [], [], []
    for name in (split, f"panoptic_{split}", f"panoptic_semseg_{split}"):
        (folder / name).mkdir(parents=True)
    for image_id, boxes in coins.items():
        image = np.full((HEIGHT, WIDTH, 3), 40, dtype=np.uint8)
        ground = 0 if boxes is None else 1
        ids = np.ones((HEIGHT, WIDTH, 3), dtype=np.uint8) * [ground, 0, 0]
        segments = [{"id": 1, "category_id": 2, "iscrowd": 0}] * ground
        for number, (x0, y0, x1, y1) in enumerate(boxes or [], start=2):
            image[y0:y1, x0:x1] = 200
            ids[y0:y1, x0:x1] = [number, 0, 0]
            segments.append({"id": number, "category_id": 1, "iscrowd": 0})
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                }
            )
        for segment in segments:
            segment["area"] = int((ids[..., 0] == segment["id"]).sum())
        Image.fromarray(image).save(folder / split / f"{image_id}.png")
        Image.fromarray(ids.astype(np.uint8)).save(folder / f"panoptic_{split}" / f"{image_id}.png")
        semantic = np.array([255, 1, *[0] * 254], dtype=np.uint8)[ids[..., 0]]
        Image.fromarray(semantic).save(folder / f"panoptic_semseg_{split}" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": HEIGHT, "width": WIDTH})
        panoptic.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
    categories = [{"id": 1, "name": "coin", "isthing": 1}, {"id": 2, "name": "background", "isthing": 0}]
    (folder / "annotations").mkdir(exist_ok=True)
    for kind, annotated, listed in (("instances", instances, 1), ("panoptic", panoptic, 2)):
        content = {"info": {}, "images": images, "annotations": annotated, "categories": categories[:listed]}
        (folder / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))
