"""tools/train_net.py as a user runs it: train, checkpoint, resume, evaluate, fail when results are not as expected."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_coins import COMMON, MASK_FORMER, MASK_RCNN, merged, write_split

ROOT = Path(__file__).parents[2]
TEST_TIME_AUGMENTATION = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)"]


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
