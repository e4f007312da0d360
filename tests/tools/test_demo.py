"""tools/demo.py from its command line to files, on a tiny Mask2Former and a small Mask R-CNN of random weights."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from pycocotools import mask as coco_mask

from mask2former_ext.config import load_config

ROOT = Path(__file__).parents[2]
MASK_RCNN = ROOT / "configs" / "quickstart" / "mask_rcnn_R18_FPN_coins.yaml"
SMALLER_MASK_RCNN = [
    *("MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16")
]
TASKS = ("panoptic", "instance", "semantic")


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("demo_tool", ROOT / "tools" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tiny_cfg, tmp_path):
    """Arguments that name the tiny model. Whatever is not hidden counts as a segment in it."""
    tiny_cfg.INPUT.MIN_SIZE_TEST = 64
    weights = build_model(tiny_cfg).state_dict()
    weights["sem_seg_head.predictor.class_embed.bias"][-1] = -9  # no-object is nothing's best class
    torch.save({"model": weights}, tmp_path / "weights.pth")
    (tmp_path / "config.yaml").write_text(tiny_cfg.dump())
    return ["--config-file", str(tmp_path / "config.yaml"), "--weights", str(tmp_path / "weights.pth")]


def photo(seed=0, size=(60, 90)):
    small = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray(photo(index)).save(folder / name)
    return folder


def read(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("task", TASKS)
def test_threshold_0_shows_everything_and_1_nothing(tool, model, photos, tmp_path, task):
    common = [*model, "--task", task, "--input", str(photos / "a.png"), "--", "MODEL.DEVICE", "cpu"]
    for threshold in ("0", "1"):
        paths = ["--output", str(tmp_path / f"{threshold}.png"), "--json", str(tmp_path / threshold)]
        assert tool.main([*paths, "--confidence-threshold", threshold, *common]) == 0
    everything, nothing = (json.loads((tmp_path / name / f"{task}.json").read_text()) for name in ("0", "1"))
    assert np.array_equal(read(tmp_path / "1.png"), photo())
    if task == "semantic":
        assert read(tmp_path / "0" / "semantic" / "a.png").max() < 3
        assert (read(tmp_path / "1" / "semantic" / "a.png") == 255).all()
        assert (read(tmp_path / "0.png") != photo()).any(axis=2).mean() > 0.95
        return
    if task == "panoptic":
        drawn = read(tmp_path / "0" / "panoptic" / "a.png")[:, :, 0] > 0
        assert everything["annotations"][0]["segments_info"] and not nothing["annotations"][0]["segments_info"]
        assert not read(tmp_path / "1" / "panoptic" / "a.png").any()
    else:
        # 10 queries of two things each; stuff is no instance
        assert len(everything) == 20 and {entry["category_id"] for entry in everything} == {11, 12}
        assert nothing == []
        drawn = np.any([coco_mask.decode(entry["segmentation"]) for entry in everything], axis=0)
    changed = (read(tmp_path / "0.png") != photo()).any(axis=2)
    assert drawn.any() and (changed | ~drawn).mean() > 0.95


def test_a_folder_with_an_unreadable_image(tool, model, photos, tmp_path, capsys, caplog):
    (photos / "b.png").write_text("no image")
    output = tmp_path / "pictures"
    assert tool.main([*model, "--input", str(photos), "--output", str(output)]) == 1
    assert sorted(path.name for path in output.iterdir()) == ["a.png", "c.png"]
    assert read(output / "c.png").shape == (60, 90, 3)
    assert "b.png' cannot be read" in caplog.text
    captured = capsys.readouterr()
    assert "1 of 3 images could not be read" in captured.err and str(output) in captured.out


def test_a_video_has_every_frame(tool, model, tmp_path, capsys):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (96, 64))
    for number in range(6):
        writer.write(photo(number, (64, 96)))
    writer.release()
    arguments = [*model, "--video", str(tmp_path / "clip.avi"), "--output", str(tmp_path / "out"), "--task", "instance"]
    assert tool.main([*arguments, "--confidence-threshold", "0", "MODEL.DEVICE", "cpu"]) == 0
    path = tmp_path / "out" / "clip.avi"
    assert f"6 frames, written to {path}" in capsys.readouterr().out
    capture, count = cv2.VideoCapture(str(path)), 0
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5
    while True:
        there, frame = capture.read()
        if not there:
            break
        assert frame.shape == (64, 96, 3)
        assert np.abs(frame.astype(int) - photo(count, (64, 96))).mean() > 10  # drawn on
        count += 1
    assert count == 6 and len(list(path.parent.iterdir())) == 1


def test_mask_rcnn(tool, photos, tmp_path, capsys):
    cfg = load_config(str(MASK_RCNN), [*SMALLER_MASK_RCNN, "MODEL.DEVICE", "cpu"])
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "weights.pth")
    model = ["--config-file", str(MASK_RCNN), "--weights", str(tmp_path / "weights.pth"), "--input", str(photos)]
    end = ["--", "MODEL.DEVICE", "cpu", *SMALLER_MASK_RCNN]
    found = tmp_path / "found.json"
    for threshold, at_least, at_most in (("0", 1, 300), ("1", 0, 0)):
        assert tool.main(["--json", str(found), "--confidence-threshold", threshold, *model, *end]) == 0
        assert at_least <= len(json.loads(found.read_text())) <= at_most
    assert tool.main(["--output", str(tmp_path), "--task", "panoptic", *model, *end]) == 1
    assert "task panoptic is possible for a MaskFormer alone" in capsys.readouterr().err


def test_user_errors_are_one_line(tool, model, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    output = ["--output", str(tmp_path / "out")]
    cases = [
        ([*model, "--input", str(photos)], "no window can be opened"),
        ([*model, "--input", "nowhere.png", *output], "input 'nowhere.png': there is no such image"),
        ([*model, "--input", str(photos), "MODEL.DEVICE", "cpu"], "(overrides of the config follow a --)"),
        ([*model, "--input", str(photos), "--output", str(photos)], "would take the place of a photograph"),
        ([*model, "--video", str(photos / "no.mp4"), *output], "no.mp4' does not exist"),
        (["--config-file", "no.yaml", "--input", str(photos), *output], "'no.yaml' does not exist"),
        ([*model[:2], "--weights", "no.pth", "--input", str(photos), *output], "'no.pth' does not exist"),
        ([*model, "--input", str(photos), *output, "MODEL.NO_SUCH_KEY", "1"], "NO_SUCH_KEY"),
    ]
    for arguments, said in cases:
        assert tool.main(arguments) == 1
        error = capsys.readouterr().err
        assert said in error and error.splitlines()[-1].startswith("demo.py: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("threshold", ["1.5", "-0.1", "nan", "half"])
def test_thresholds_are_shares(tool, model, threshold, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main([*model, "--input", "a.png", "--confidence-threshold", threshold])
    assert exit_.value.code == 2 and "is not a number from 0 to 1" in capsys.readouterr().err


def test_help_has_an_example(tool, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main(["--help"])
    assert exit_.value.code == 0
    assert "python tools/demo.py --config-file" in capsys.readouterr().out
