"""A folder in which the pages' commands run: tiny data and models under the names that the pages use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from doc_pages import ROOT
from PIL import Image
from tiny_coins import COMMON, MASK_FORMER, MASK_RCNN, merged, write_split

COINS = {1: [(30, 6, 60, 40)], **{number: [(5 + number, 10, 30, 35), (40, 20, 60, 50)] for number in range(2, 7)}}
SWIN = {  # few weights: checkpoints are quick to write
    "MODEL": {
        "BACKBONE": {"NAME": "D2SwinTransformer"},
        "SWIN": {"EMBED_DIM": 16, "DEPTHS": [1] * 4, "NUM_HEADS": [1, 1, 2, 2], "WINDOW_SIZE": 4},
    },
    "TEST": {"EVAL_PERIOD": 2},
}
PANOPTIC = merged(merged(COMMON, MASK_FORMER), SWIN)
INSTANCE = merged(PANOPTIC, {"INPUT": {"DATASET_MAPPER_NAME": "coco_instance_lsj"}})
SEMANTIC = merged(
    PANOPTIC,
    {
        "INPUT": {"DATASET_MAPPER_NAME": "mask_former_semantic", "MIN_SIZE_TRAIN": [64]},
        "MODEL": {"MASK_FORMER": {"TEST": {"PANOPTIC_ON": False, "INSTANCE_ON": False}}},
    },
)
CONFIGS = {
    "coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml": PANOPTIC,
    "coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml": INSTANCE,
    "coco/instance-segmentation/mask_rcnn_R50_FPN_bs16_160k.yaml": merged(COMMON, MASK_RCNN),
    "ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml": SEMANTIC,
    "quickstart/maskformer2_R18_coins.yaml": PANOPTIC,
    "quickstart/mask_rcnn_R18_FPN_coins.yaml": merged(COMMON, MASK_RCNN),
}
WEIGHTS = """
import torch
from detectron2.modeling import build_model
from mask2former_ext.config import load_config

for config, names in {
    "coco/panoptic-segmentation/maskformer2_R50_bs16_50ep": [
        "model_final.pth", "output/quickstart/maskformer2_R18_coins/model_final.pth"
    ],
    "quickstart/mask_rcnn_R18_FPN_coins": ["output/quickstart/mask_rcnn_R18_FPN_coins/model_final.pth"],
}.items():
    torch.manual_seed(0)
    weights = build_model(load_config(f"configs/{config}.yaml")).state_dict()
    if "sem_seg_head.predictor.class_embed.bias" in weights:
        weights["sem_seg_head.predictor.class_embed.bias"][-1] = -9  # so that something is found
    for name in names:
        torch.save({"model": weights}, name)
"""


class Runner:
    """A process that runs commands and code in forks of its own, see helpers/run_pages.py."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "DETECTRON2_DATASETS"}
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "helpers" / "run_pages.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )

    def __call__(self, kind, folder, variables=None, **request):
        """Return (exit status, output)."""
        request |= {"kind": kind, "folder": str(folder), "variables": variables or {}}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return answer["status"], answer["output"]

    def close(self) -> None:
        # not by the end of the pipe alone: loading processes of other tests may hold it open
        print("null", file=self._process.stdin, flush=True)
        self._process.stdin.close()
        self._process.wait(timeout=60)


@pytest.fixture(scope="session")
def runner():
    started = Runner()
    yield started
    started.close()


@pytest.fixture(scope="session")
def template(tmp_path_factory, runner):
    """What every page finds: see :func:`folder`."""
    folder = tmp_path_factory.mktemp("pages") / "template"
    coins = folder / "datasets" / "coins"
    for split in ("train", "val"):
        write_split(coins / ".", split, COINS)
    shutil.copytree(coins / "train", folder / "photos")
    shutil.copytree(coins / "panoptic_semseg_train", folder / "labels")
    shutil.copytree(coins / "panoptic_train", folder / "panoptic")
    shutil.copy(coins / "annotations" / "instances_train.json", folder / "instances.json")
    shutil.copy(coins / "annotations" / "panoptic_train.json", folder / "panoptic.json")
    (folder / "names.txt").write_text("coin\nbackground\n")
    Image.open(coins / "train" / "2.png").save(folder / "photo.jpg")
    video = cv2.VideoWriter(str(folder / "street.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (64, 48))
    for brightness in (0, 100, 200):
        video.write(np.full((48, 64, 3), brightness, np.uint8))
    video.release()

    (folder / "tools").symlink_to(ROOT / "tools")
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("lazy"))
    for name, content in CONFIGS.items():
        (folder / "configs" / name).write_text(yaml.safe_dump(content))
    for name in ("maskformer2_R18_coins", "mask_rcnn_R18_FPN_coins"):
        (folder / "output" / "quickstart" / name).mkdir(parents=True)
    status, output = runner("python", folder, before="", place="weights", code=WEIGHTS)
    assert status == 0, output
    return folder


@pytest.fixture
def folder(template, tmp_path):
    """A copy of the prepared folder, for one page: photos, annotations of them, configs, weights."""
    copy = tmp_path / "folder"
    shutil.copytree(template, copy, symlinks=True, copy_function=os.link)  # nothing writes into files that there are
    return copy
