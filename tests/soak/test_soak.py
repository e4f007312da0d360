"""Long runs: what they take must not grow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from tiny_coins import COMMON, MASK_FORMER, merged, write_split
from worker_processes import HELPERS, environment

SETTINGS = {
    "MODEL": {"MASK_FORMER": {"TRAIN_NUM_POINTS": 32, "NUM_OBJECT_QUERIES": 5}},
    "DATALOADER": {"ASPECT_RATIO_GROUPING": False},
    "INPUT": {"IMAGE_SIZE": 64, "MIN_SIZE_TEST": 48},
    "SOLVER": {"IMS_PER_BATCH": 1, "MAX_ITER": 2000, "CHECKPOINT_PERIOD": 500},
    "TEST": {"EVAL_PERIOD": 200},
}


@pytest.fixture
def run(tmp_path):
    for split in ("train", "val"):
        write_split(tmp_path / "datasets" / "coins", split)
    config = merged(merged(merged(COMMON, MASK_FORMER), SETTINGS), {"OUTPUT_DIR": str(tmp_path / "output")})
    config["SOLVER"]["AMP"]["ENABLED"] = False
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    def run_helper(what):
        command = [sys.executable, str(HELPERS / "soak.py"), what, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((tmp_path / "footprint.json").read_text())

    return run_helper


def test_two_thousand_iterations_with_ten_evaluations(run):
    footprints = run("train")
    assert footprints[-1][0] == 2000
    # what is taken once, by the first evaluations, is taken by then
    warm = [footprint for footprint in footprints if footprint[0] > 600]
    first, last = warm[: len(warm) // 4], warm[-len(warm) // 4 :]
    growth = max(resident for _, resident, _ in last) / max(resident for _, resident, _ in first)
    assert growth <= 1.02, [resident >> 20 for _, resident, _ in footprints]
    # the least, because TensorBoard's writer opens its file for a moment now and then
    assert min(files for _, _, files in last) <= min(files for _, _, files in first)


def test_five_hundred_images_of_all_sizes(run):
    footprints = run("predict")
    residents = [resident for _, resident, _ in footprints]
    assert max(residents[250:]) <= 1.02 * max(residents[:250]), [resident >> 20 for resident in residents[::25]]
    assert footprints[-1][2] <= footprints[0][2]
