"""One model through the demonstration, with a stand-in for the training script that writes what the real one does."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from mask2former_ext.quickstart import run_model

DATASET = "quickstart_runner_test"
METRICS = {"iteration": 2, "panoptic_seg/PQ": 40.0, "segm/AP50": 95.0}
SCRIPT = """
import pathlib, shutil, sys
output = pathlib.Path(sys.argv[-1])
output.mkdir(parents=True)
for name in ("model_final.pth", "metrics.json"):
    shutil.copy(pathlib.Path(__file__).parent / name, output)
"""


@pytest.fixture
def record(tmp_path):
    """Dataset dict of a photograph of 40 × 64 with a thing, and background."""
    ids = np.full((40, 64), 2, dtype=np.uint8)
    ids[10:30, 20:50] = 1
    Image.fromarray(np.stack([ids * 80] * 3, axis=2)).save(tmp_path / "photo.png")
    Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=2)).save(tmp_path / "panoptic.png")
    record = {
        "file_name": str(tmp_path / "photo.png"),
        "pan_seg_file_name": str(tmp_path / "panoptic.png"),
        "segments_info": [
            {"id": 1, "category_id": 0, "isthing": True},
            {"id": 2, "category_id": 2, "isthing": False},
        ],
    }
    DatasetCatalog.register(DATASET, lambda: [record])
    MetadataCatalog.get(DATASET).set(
        thing_classes=["a", "b"],
        stuff_classes=["a", "b", "c"],
        thing_dataset_id_to_contiguous_id={11: 0, 12: 1},
    )
    yield record
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


@pytest.fixture
def trained(tmp_path, tiny_cfg, record):
    """Config file and stand-in script of a trained model."""
    tiny_cfg.DATASETS.TEST = (DATASET,)
    tiny_cfg.INPUT.MIN_SIZE_TEST = 32
    tiny_cfg.TEST.EXPECTED_RESULTS = [["panoptic_seg", "PQ", 100.0, 15.0], ["segm", "AP50", 100.0, 10.0]]
    config_file = tmp_path / "tiny.yaml"
    config_file.write_text(tiny_cfg.dump())
    torch.save({"model": build_model(tiny_cfg).state_dict()}, tmp_path / "model_final.pth")
    lines = [{"iteration": 1, "time": 0.25}, METRICS]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    script = tmp_path / "train_net.py"
    script.write_text(SCRIPT)
    return config_file, script


def test_outcome(tmp_path, trained, record):
    outcome = run_model("Tiny", *trained, tmp_path / "output")
    report = outcome.report
    assert report.name == "Tiny"
    assert report.results == {"panoptic_seg": {"PQ": 40.0}, "segm": {"AP50": 95.0}}
    assert report.seconds_per_iteration == 0.25
    assert 0 < report.seconds_per_image < 60
    state = torch.load(tmp_path / "model_final.pth")["model"]
    assert 0 < report.parameters < sum(value.numel() for value in state.values())  # buffers are none
    with Image.open(outcome.picture) as picture:
        assert picture.width > 3 * 64 and picture.height > 3 * 3 * 40
    assert len(outcome.failures) == 1
    assert "panoptic_seg/PQ" in outcome.failures[0]


def test_missing_config_is_named_before_anything_is_trained(tmp_path, trained):
    with pytest.raises(FileNotFoundError, match=r"missing\.yaml"):
        run_model("Tiny", tmp_path / "missing.yaml", trained[1], tmp_path / "output")
    assert not (tmp_path / "output").exists()
