import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from mask2former_ext.config import is_maskformer, load_config
from mask2former_ext.quickstart import ModelReport, Outcome

TOOL = Path(__file__).parents[2] / "tools" / "quickstart.py"


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("quickstart_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcomes(monkeypatch, tool, tmp_path, failures):
    """Put made-up outcomes in the place of the trainings and the page; returns what the tool asked for."""
    calls = []

    def run_model(name, config_file, script, output_dir, overrides):
        calls.append((name, config_file, script, output_dir, overrides))
        report = ModelReport(name, {"segm": {"AP50": 99.0}}, 0.5, 0.1, 1_000_000)
        return Outcome(report, tmp_path / f"{config_file.stem}.png", failures.get(name, []))

    def write_comparison(config_files, output_dir, overrides):
        calls.append((config_files, output_dir, overrides))
        return output_dir / "comparison.html"

    monkeypatch.setattr(tool, "run_model", run_model)
    monkeypatch.setattr(tool, "write_comparison", write_comparison)
    return calls


def test_trains_both_models_with_the_seed_and_shows_table_pictures_and_page(monkeypatch, tool, tmp_path, capsys):
    calls = outcomes(monkeypatch, tool, tmp_path, {})
    assert tool.main(["--seed", "7", "--output", str(tmp_path)]) == 0
    *trained, compared = calls
    assert [name for name, *_ in trained] == ["Mask2Former", "Mask R-CNN"]
    assert compared == (tool.MODELS, tmp_path, trained[0][-1])
    for _, config_file, script, output_dir, overrides in trained:
        assert config_file.is_file()
        assert script.name == "train_net.py" and script.is_file()
        assert output_dir == tmp_path
        assert overrides[:2] == ["SEED", "7"]
    shown = capsys.readouterr()
    for text in ("PQ things", "99.0", "maskformer2_R18_coins.png", "mask_rcnn_R18_FPN_coins.png", "comparison.html"):
        assert text in shown.out
    assert shown.err == ""


def test_missed_bar_fails_and_is_named_after_the_table(monkeypatch, tool, tmp_path, capsys):
    missed = {"Mask R-CNN": ["coins_val: segm/AP50 should be 100.0 ± 15.0, but is 60.0"]}
    outcomes(monkeypatch, tool, tmp_path, missed)
    assert tool.main(["--output", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "PQ things" in shown.out
    assert shown.err == "MISSED  Mask R-CNN: coins_val: segm/AP50 should be 100.0 ± 15.0, but is 60.0\n"


def test_missing_data_fails_with_the_way_out(monkeypatch, tool, tmp_path, capsys):
    def run_model(*arguments):
        raise FileNotFoundError("coins are missing. Make it by: python datasets/prepare_coins.py")

    monkeypatch.setattr(tool, "run_model", run_model)
    assert tool.main(["--output", str(tmp_path)]) == 1
    assert "python datasets/prepare_coins.py" in capsys.readouterr().err


def test_help_has_an_example(tool, capsys):
    with pytest.raises(SystemExit) as end:
        tool.main(["--help"])
    assert end.value.code == 0
    assert "example: python datasets/prepare_coins.py && python tools/quickstart.py" in capsys.readouterr().out


def bars(config_file):
    expected = load_config(str(config_file)).TEST.EXPECTED_RESULTS
    # A bar without an upper end: the expected value is the best possible one.
    assert all(value == 100.0 for _, _, value, _ in expected)
    return {f"{task}/{metric}": value - tolerance for task, metric, value, tolerance in expected}


def test_configs_ask_for_what_the_demonstration_promises(tool):
    assert bars(tool.MODELS["Mask2Former"]) == {"panoptic_seg/PQ": 85.0, "segm/AP50": 90.0}
    assert bars(tool.MODELS["Mask R-CNN"]) == {"segm/AP50": 85.0}


def test_mask2former_does_all_three_tasks(tool):
    cfg = load_config(str(tool.MODELS["Mask2Former"]))
    assert is_maskformer(cfg)
    tasks = cfg.MODEL.MASK_FORMER.TEST
    assert tasks.PANOPTIC_ON and tasks.INSTANCE_ON and tasks.SEMANTIC_ON
    assert not is_maskformer(load_config(str(tool.MODELS["Mask R-CNN"])))


def test_both_start_from_scratch_on_the_same_data(tool):
    for config_file in tool.MODELS.values():
        cfg = load_config(str(config_file))
        assert cfg.MODEL.WEIGHTS == ""
        assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
        assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("coins_train",), ("coins_val",))


def test_both_build(tool):
    for config_file in tool.MODELS.values():
        cfg = load_config(str(config_file), ["MODEL.DEVICE", "meta"])
        with torch.device("meta"):
            model = build_model(cfg)
        assert 10e6 < sum(parameter.numel() for parameter in model.parameters()) < 20e6
