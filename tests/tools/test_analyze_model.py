"""tools/analyze_model.py: its command line, output and exit status."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from mask2former_ext.analysis import load_model

ROOT = Path(__file__).parents[2]
COINS = str(ROOT / "configs" / "quickstart" / "maskformer2_R18_coins.yaml")
COINS_MASK_RCNN = str(ROOT / "configs" / "quickstart" / "mask_rcnn_R18_FPN_coins.yaml")


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("analyze_model_tool", ROOT / "tools" / "analyze_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_table_and_json(tool, tmp_path, capsys):
    path = tmp_path / "new" / "counts.json"
    assert tool.main(["--config-file", COINS, "--depth", "1", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "128×128 (height × width)" in out
    assert "| sem_seg_head |" in out and "sem_seg_head.predictor" not in out
    report = json.loads(path.read_text())
    assert report["size"] == [128, 128]
    assert report["parameter"]["modules"]["sem_seg_head.predictor.query_feat"] == 20 * 256
    flops = report["flop"]
    assert flops["total"] == sum(flops["operators"].values()) > flops["modules"]["backbone"] > 0
    assert flops["not_counted"]["aten::softmax"] > 0


def test_mask_head_of_mask_rcnn_counts_for_all_boxes(tool, tmp_path):
    path = tmp_path / "counts.json"
    arguments = ["--config-file", COINS_MASK_RCNN, "--tasks", "flop", "--size", "64", "96", "--json", str(path)]
    assert tool.main([*arguments, "--", "TEST.DETECTIONS_PER_IMAGE", "7"]) == 0
    flops = json.loads(path.read_text())["flop"]
    # two 3×3 convolutions of 96 channels at 14×14, as the pyramid has; deconvolution to 28×28; class masks
    a_box = 14 * 14 * 9 * 96 * (96 + 96) + 14 * 14 * 4 * 96 * 96 + 28 * 28 * 96 * 1
    assert flops["modules"]["roi_heads.mask_head"] == 7 * a_box


def test_a_lazy_config(tool, tmp_path, capsys):
    path = tmp_path / "counts.json"
    config = ROOT / "configs" / "lazy" / "coco" / "instance-segmentation" / "maskformer2_R50_bs16_50ep.py"
    arguments = ["--config-file", str(config), "--tasks", "parameter", "--json", str(path)]
    assert tool.main([*arguments, "--", "model.num_queries=7"]) == 0
    report = json.loads(path.read_text())
    assert report["size"] == [800, 800]
    assert report["parameter"]["modules"]["sem_seg_head.predictor.query_feat"] == 7 * 256
    assert tool.main(["--config-file", "nowhere.py"]) == 1
    assert "config file 'nowhere.py' does not exist" in capsys.readouterr().err


def test_weights_are_loaded_or_refused(tool, tmp_path, capsys):
    model, _ = load_model(COINS)
    key = "backbone.stem.conv1.weight"
    weights = model.state_dict() | {key: torch.full_like(model.backbone.stem.conv1.weight, 0.5)}
    path = tmp_path / "weights.pth"
    torch.save({"model": weights}, path)
    assert load_model(COINS, weights=str(path))[0].backbone.stem.conv1.weight.eq(0.5).all()
    weights["old." + key] = weights.pop(key)
    torch.save({"model": weights}, path)
    for file, said in ((path, "does not fit the backbone: 1 of its"), (tmp_path / "no.pth", "does not exist")):
        assert tool.main(["--config-file", COINS, "--tasks", "parameter", "--weights", str(file)]) == 1
        error = capsys.readouterr().err
        assert str(file) in error and said in error


def test_weights_of_other_models_are_loaded_or_refused(tool, tmp_path, capsys):
    model, _ = load_model(COINS_MASK_RCNN)
    path = tmp_path / "weights.pth"
    model.backbone.bottom_up.stem.conv1.weight.data.fill_(0.5)
    torch.save({"model": model.state_dict()}, path)
    loaded, _ = load_model(COINS_MASK_RCNN, weights=str(path))
    assert loaded.backbone.bottom_up.stem.conv1.weight.eq(0.5).all()
    path.write_bytes(b"nothing")
    for file, said in ((path, "holds no weights"), (tmp_path / "no.pth", "does not exist")):
        assert tool.main(["--config-file", COINS_MASK_RCNN, "--weights", str(file)]) == 1
        error = capsys.readouterr().err
        assert str(file) in error and said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "overrides", "said"),
    [
        ("this is no Python", [], "syntax error"),
        ("model = 1", [], "Missing key dataloader"),
        (None, ["model.nothing=1"], "unexpected keyword argument 'nothing'"),
        (None, ["nothing"], "Error parsing override 'nothing'"),
    ],
)
def test_bad_lazy_configs_are_said(tool, tmp_path, capsys, content, overrides, said):
    path = ROOT / "configs" / "lazy" / "coco" / "instance-segmentation" / "maskformer2_R50_bs16_50ep.py"
    if content is not None:
        path = tmp_path / "config.py"
        path.write_text(content)
    assert tool.main(["--config-file", str(path), "--tasks", "parameter", "--", *overrides]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"analyze_model.py: LazyConfig '{path}'") and said in error and error.count("\n") == 1


def test_names_that_nothing_registers_are_said(tool, capsys):
    for key in ("MODEL.BACKBONE.NAME", "MODEL.META_ARCHITECTURE"):
        assert tool.main(["--config-file", COINS, "--tasks", "parameter", "--", key, "nobody"]) == 1
        assert "No object named 'nobody' found" in capsys.readouterr().err


def test_a_missing_gpu_is_said(tool, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tool.main(["--config-file", COINS, "--tasks", "parameter", "--", "MODEL.DEVICE", "cuda"]) == 1
    assert "finds no CUDA device" in capsys.readouterr().err


def test_structure_alone(tool, capsys):
    assert tool.main(["--config-file", COINS, "--tasks", "structure"]) == 0
    out = capsys.readouterr().out
    assert "(query_feat): Embedding(20, 256)" in out and "multiply-adds" not in out


def test_errors_are_said(tool, capsys):
    assert tool.main(["--config-file", "nowhere.yaml"]) == 1
    assert "analyze_model.py: config file 'nowhere.yaml' does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        tool.main(["--config-file", COINS, "--size", "0", "4"])
    assert exit_.value.code == 2
    with pytest.raises(SystemExit) as exit_:
        tool.main(["--config-file", COINS, "--depth", "-1"])
    assert exit_.value.code == 2


def test_help_has_an_example(tool, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main(["--help"])
    assert exit_.value.code == 0
    assert "example: python tools/analyze_model.py --config-file" in capsys.readouterr().out
