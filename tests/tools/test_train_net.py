"""tools/train_net.py as a user runs it: train, checkpoint, resume, evaluate, fail when results are not as expected."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
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


TEST_TIME_AUGMENTATION = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)"]


def merged(one, other):
    """Merge nested dicts; the second wins."""
    both = {key: merged(one[key], other[key]) for key in one.keys() & other.keys() if isinstance(one[key], dict)}
    return one | other | both


def write_split(folder, split):
    """Write images of bright rectangles on dark ground in the layout of the coins dataset."""
    images, instances, panoptic = [], [], []
    for name in (split, f"panoptic_{split}", f"panoptic_semseg_{split}"):
        (folder / name).mkdir(parents=True)
    for image_id, boxes in COINS.items():
        image = np.full((HEIGHT, WIDTH, 3), 40, dtype=np.uint8)
        ids = np.ones((HEIGHT, WIDTH, 3), dtype=np.uint8) * [1, 0, 0]
        segments = [{"id": 1, "category_id": 2, "iscrowd": 0}]
        for number, (x0, y0, x1, y1) in enumerate(boxes, start=2):
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
        semantic = (ids[..., 0] == 1).astype(np.uint8)
        Image.fromarray(semantic).save(folder / f"panoptic_semseg_{split}" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": HEIGHT, "width": WIDTH})
        panoptic.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
    categories = [{"id": 1, "name": "coin", "isthing": 1}, {"id": 2, "name": "background", "isthing": 0}]
    (folder / "annotations").mkdir(exist_ok=True)
    for kind, annotated, listed in (("instances", instances, 1), ("panoptic", panoptic, 2)):
        content = {"info": {}, "images": images, "annotations": annotated, "categories": categories[:listed]}
        (folder / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The folder for DETECTRON2_DATASETS."""
    folder = tmp_path_factory.mktemp("datasets")
    for split in ("train", "val"):
        write_split(folder / "coins", split)
    return folder


@pytest.fixture
def train_net(datasets, tmp_path):
    """A function that runs the script on a config and returns its exit status and what it said."""

    def run(config, *arguments):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(merged(merged(COMMON, config), {"OUTPUT_DIR": str(tmp_path / "output")})))
        command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", str(path), *arguments]
        environment = os.environ | {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            command, env=environment, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return result.returncode, result.stdout

    return run


def metrics(output):
    """All metrics of metrics.json, the last value of each."""
    lines = (output / "metrics.json").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


def test_mask_former_trains_resumes_and_evaluates(train_net, tmp_path):
    output = tmp_path / "output"
    status, text = train_net(MASK_FORMER)
    assert status == 0, text
    assert "SOLVER.AMP.ENABLED has no effect on the CPU" in text
    assert {"model_final.pth", "config.yaml", "log.txt", "metrics.json", "inference"} <= {
        p.name for p in output.iterdir()
    }
    assert list(output.glob("events.out.tfevents*"))
    written = {"panoptic_seg/PQ", "segm/AP", "bbox/AP", "sem_seg/mIoU", "total_loss", "loss_mask_0", "lr"}
    assert written <= metrics(output).keys()
    first = torch.load(output / "model_final.pth", weights_only=False)
    assert first["iteration"] == 1

    status, text = train_net(MASK_FORMER, "--resume", "SOLVER.MAX_ITER", "3", *TEST_TIME_AUGMENTATION)
    assert status == 0, text
    augmented = {"panoptic_seg_TTA/PQ", "segm_TTA/AP", "bbox_TTA/AP", "sem_seg_TTA/mIoU"}
    assert augmented <= metrics(output).keys()
    assert "Starting training from iteration 2" in text
    second = torch.load(output / "model_final.pth", weights_only=False)
    states = [saved["trainer"]["_trainer"]["optimizer"]["state"].values() for saved in (first, second)]
    assert [{int(moments["step"]) for moments in state} for state in states] == [{2}, {3}]
    predictions = (output / "inference" / "predictions.json").read_bytes()

    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    expected = (
        "[['panoptic_seg', 'RQ', 50.0, 60.0], ['panoptic_seg', 'PQ', 120.0, 5.0], ['segm', 'AQ', 1.0, 1.0], "
        "['segm_TTA', 'AP', 50.0, 60.0], ['panoptic_seg_TTA', 'PQ', 120.0, 5.0]]"
    )
    again = [*weights, *TEST_TIME_AUGMENTATION, "TEST.EXPECTED_RESULTS", expected]
    status, text = train_net(MASK_FORMER, "--eval-only", *again)
    assert status == 1, text
    assert re.search(r"coins_val: panoptic_seg/PQ should be 120\.0 ± 5\.0, but is \d", text)
    assert re.search(r"coins_val: segm/AQ should be 1\.0 ± 1\.0, but was not evaluated \(there are: .*segm/AP50", text)
    assert re.search(r"coins_val: panoptic_seg_TTA/PQ should be 120\.0 ± 5\.0, but is \d", text)
    assert "panoptic_seg/RQ should" not in text and "segm_TTA/AP should" not in text
    assert re.search(r"Results of .*output: coins_val: panoptic_seg PQ [\d.]+, .*sem_seg mIoU [\d.]+", text)
    assert (output / "inference" / "predictions.json").read_bytes() == predictions  # the same weights


def test_mask_rcnn_trains_and_fails_on_a_wrong_expectation(train_net, tmp_path):
    expectation = ["TEST.EXPECTED_RESULTS", "[['segm', 'AP50', 150.0, 1.0]]"]
    status, text = train_net(MASK_RCNN, "TEST.EVAL_PERIOD", "1", *expectation)
    assert status == 1, text
    assert "coins_val: segm/AP50 should be 150.0 ± 1.0, but is" in text
    checkpoint = torch.load(tmp_path / "output" / "model_final.pth", weights_only=False)
    assert checkpoint["iteration"] == 1
    assert "momentum_buffer" in checkpoint["trainer"]["_trainer"]["optimizer"]["state"][0]  # Detectron2's SGD

    status, text = train_net(MASK_RCNN, "--eval-only", "--resume", "TEST.EXPECTED_RESULTS", "[['segm', 'AP', 50, 51]]")
    assert status == 0, text
    assert "model_final.pth" in text
    assert "All 1 expected results are met" in text
    assert "panoptic_seg" not in text.split("Evaluation results")[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SOLVER.NO_SUCH_KEY", "1"], "train_net.py: .*SOLVER.NO_SUCH_KEY"),
        (["--num-gpus", "0", "INPUT.DATASET_MAPPER_NAME", "coco_lsj"], "DATASET_MAPPER_NAME is 'coco_lsj'; known are"),
        (
            ["--eval-only", "TEST.AUG.ENABLED", "True", "MODEL.META_ARCHITECTURE", "PanopticFPN"],
            "train_net.py: TEST.AUG.ENABLED is set, but there is no test-time augmentation for PanopticFPN",
        ),
        (
            ["DATASETS.TRAIN", "('ade20k_panoptic_train',)"],
            "train_net.py: .*: this does not exist .*DETECTRON2_DATASETS",
        ),
        (
            ["--eval-only", "DATASETS.TEST", "('ade20k_panoptic_val',)"],
            "train_net.py: .*: this does not exist .*DETECTRON2_DATASETS",
        ),
    ],
)
def test_mistakes_end_with_a_message(train_net, tmp_path, arguments, message):
    status, text = train_net(MASK_FORMER, *arguments)
    assert status == 1
    assert re.search(message, text) and "Traceback" not in text
    assert not list((tmp_path / "output").glob("*.pth"))
