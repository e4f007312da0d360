"""Raw predictions: which queries they hold, and the folder that keeps them."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.modeling import build_model

from mask2former_ext.threshold_tuning import PredictionFolder, RawPrediction, predict

IDENTITY = {"dataset": "some_val", "weights": "abc"}
SIZES = (32, 32), (30, 20), (60, 40)


def prediction():
    class_logits = torch.tensor([[4.0, 0.0, 1.0], [0.0, 1.0, 4.0], [0.0, 2.0, 1.0]])
    return RawPrediction.of(class_logits, torch.randn(3, 8, 8), *SIZES)


def test_queries_without_an_object_are_left_out():
    class_logits, masks = torch.tensor([[4.0, 0.0, 1.0], [0.0, 1.0, 4.0], [0.0, 2.0, 1.0]]), torch.randn(3, 8, 8)
    chosen = RawPrediction.of(class_logits.half(), masks, *SIZES)
    assert torch.equal(chosen.class_logits, class_logits[[0, 2]])
    assert torch.equal(chosen.mask_logits, masks[[0, 2]])
    assert (chosen.padded_size, chosen.image_size, chosen.output_size) == SIZES


def test_the_network_alone(tiny_cfg):
    model = build_model(tiny_cfg).eval()
    inputs = [{"image": torch.rand(3, 40, 50) * 255, "height": 80, "width": 100}]
    (raw,) = predict(model, inputs)
    assert (raw.padded_size, raw.image_size, raw.output_size) == ((64, 64), (40, 50), (80, 100))
    assert raw.mask_logits.shape[1:] == (16, 16)
    with torch.no_grad():
        assert "panoptic_seg" in model(inputs)[0]  # the model itself is as it was


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_what_is_saved_is_loaded(tmp_path, precision):
    made = prediction()
    folder = PredictionFolder(tmp_path / "new" / "folder", IDENTITY, precision)
    assert not folder.has("city/1")
    returned = folder.save("city/1", made)
    again = PredictionFolder(tmp_path / "new" / "folder", IDENTITY, precision)
    assert again.has("city/1")
    loaded = again.load("city/1")
    assert loaded.mask_logits.dtype == torch.float32
    for name, value in vars(loaded).items():
        saved = getattr(returned, name)
        assert torch.equal(value, saved) if isinstance(value, torch.Tensor) else value == saved, name
    assert torch.equal(loaded.class_logits, made.class_logits)
    assert torch.equal(loaded.mask_logits, made.mask_logits) == (precision == "float32")
    assert torch.equal(loaded.mask_logits, made.mask_logits.to(getattr(torch, precision)).float())
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["city%2F1.pt", "predictions.json"]


def test_predictions_of_other_weights_are_not_taken(tmp_path):
    PredictionFolder(tmp_path, IDENTITY)
    with pytest.raises(ValueError, match=r"other settings \(weights\)"):
        PredictionFolder(tmp_path, IDENTITY | {"weights": "abd"})
    with pytest.raises(ValueError, match=r"other settings \(precision\)"):
        PredictionFolder(tmp_path, IDENTITY, "float32")
    PredictionFolder(tmp_path, IDENTITY)


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "diary.txt").write_text("")
    with pytest.raises(ValueError, match="not empty"):
        PredictionFolder(tmp_path, IDENTITY)
    with pytest.raises(ValueError, match=r"diary\.txt is no folder"):
        PredictionFolder(tmp_path / "diary.txt", IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_damaged_files_are_named(tmp_path):
    folder = PredictionFolder(tmp_path, IDENTITY)
    folder.save(1, prediction())
    path = tmp_path / "1.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"1\.pt is damaged .*Delete it"):
        folder.load(1)
    (tmp_path / "predictions.json").write_text("{")
    with pytest.raises(ValueError, match=r"predictions\.json is damaged"):
        PredictionFolder(tmp_path, IDENTITY)


def test_a_failed_write_leaves_no_file(tmp_path, monkeypatch):
    folder = PredictionFolder(tmp_path, IDENTITY)

    def fail(content, path):
        path.write_bytes(b"begun")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        folder.save(1, prediction())
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]
    assert json.loads((tmp_path / "predictions.json").read_text())["dataset"] == "some_val"
