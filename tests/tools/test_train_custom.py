"""tools/train_custom.py as a user runs it: one command from a COCO JSON to a config that works elsewhere."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "train_custom.py"
HEIGHT, WIDTH = 48, 60
BOXES = {5: (6, 8, 20, 20), 2: (32, 4, 12, 36)}  # category: x, y, width, height


@pytest.fixture
def folder(tmp_path: Path, tiny_cfg) -> Path:
    """A folder with ten pictures of a square and a bar, their COCO JSON file, and the config of a tiny model."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for number in range(10):
        picture = np.full((HEIGHT, WIDTH, 3), 30 + number, dtype=np.uint8)
        for category, (x, y, width, height) in BOXES.items():
            picture[y : y + height, x : x + width] = 220
            polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
            common = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "iscrowd": 0}
            annotations.append(
                common | {"bbox": [x, y, width, height], "area": width * height, "segmentation": [polygon]}
            )
        Image.fromarray(picture).save(tmp_path / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
    categories = [{"id": 5, "name": "square"}, {"id": 2, "name": "bar"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    tiny_cfg.merge_from_list(
        [
            # few weights: checkpoints are quick to write
            *("MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM", 16, "MODEL.SWIN.DEPTHS", [1] * 4),
            *("MODEL.SWIN.NUM_HEADS", [1, 1, 2, 2], "MODEL.SWIN.WINDOW_SIZE", 4, "MODEL.SWIN.DROP_PATH_RATE", 0.0),
            *("INPUT.DATASET_MAPPER_NAME", "mask_former_instance", "INPUT.MIN_SIZE_TRAIN", (48,)),
            *("INPUT.MIN_SIZE_TEST", 48, "DATALOADER.NUM_WORKERS", 0, "SEED", 2),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.0005, "SOLVER.STEPS", ()),
        ]
    )
    (tmp_path / "base.yaml").write_text(tiny_cfg.dump())
    return tmp_path


@pytest.fixture
def train_custom(folder, capsys, monkeypatch):
    """A function: the command's arguments, run in the folder → exit status and what it said."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])  # by which argparse names the command

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = runpy.run_path(str(SCRIPT))["main"]([*arguments])
        except SystemExit as error:  # argparse's
            status = error.code
        return status, *capsys.readouterr()

    return run


DATA = ["--images", "images", "--annotations", "instances.json", "--base", "base.yaml"]


def test_one_command_trains_and_its_config_works_elsewhere(folder, train_custom):
    schedule = ["SOLVER.MAX_ITER", "24", "TEST.EVAL_PERIOD", "12"]
    status, text, errors = train_custom("--task", "instance", *DATA, "--output", "run", *schedule)
    assert status == 0, errors
    best = json.loads((folder / "run" / "best.json").read_text())
    assert f"segm/AP {best['value']:.2f} after {best['iterations']} iterations" in text
    assert best["value"] > 0
    log = (folder / "run" / "log.txt").read_text()
    assert "9 images to train on, 1 to evaluate on, 2 classes: bar, square" in log
    assert "Training starts from random weights" in log
    assert not [path for path in (folder / "run").rglob("*") if "tmp" in path.name]

    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.move(folder / "run", elsewhere / "moved")
    expected = [["segm", metric, best["results"][f"segm/{metric}"], 1e-6] for metric in ("AP", "AP50", "AP-bar")]
    result = subprocess.run(
        [
            *(sys.executable, str(ROOT / "tools" / "train_net.py"), "--eval-only"),
            *("--config-file", "moved/trained.yaml", "OUTPUT_DIR", "again", "TEST.EXPECTED_RESULTS", str(expected)),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=elsewhere,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == 0, result.stdout
    assert "All 3 expected results are met" in result.stdout


MISTAKES = {
    "missing: --images, --annotations": ["--task", "instance", "--base", "base.yaml"],
    "nowhere.yaml' does not exist": ["--base", "nowhere.yaml"],
    "nowhere.json: these annotations do not exist": ["--annotations", "nowhere.json"],
    "is a file, but --task semantic": ["--task", "semantic"],
    "--task panoptic needs": ["--task", "panoptic"],
    "nowhere.pth: these weights": ["--weights", "nowhere.pth"],
    "SOLVER.NO_SUCH_KEY": ["SOLVER.NO_SUCH_KEY", "1"],
    "--val-fraction is 2.0": ["--val-fraction", "2"],
    "--num-gpus is 99, but PyTorch finds": ["--num-gpus", "99"],
    "--num-machines needs --dist-url": ["--num-machines", "2"],
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_end_with_one_line(folder, train_custom, message):
    missing = message.startswith("missing")
    status, _, errors = train_custom(*([] if missing else ["--task", "instance", *DATA]), *MISTAKES[message])
    assert status
    last = errors.strip().splitlines()[-1]
    assert last.startswith("train_custom.py: ")
    assert message in last
    assert not list(folder.glob("output/own_data/*.yaml"))


def test_help_has_an_example(train_custom):
    status, text, _ = train_custom("--help")
    assert status == 0
    assert "$ tools/train_custom.py --task instance --images" in text
