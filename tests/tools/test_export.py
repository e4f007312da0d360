"""tools/export.py: its command line, output and exit status."""

import importlib.util
from pathlib import Path

import pytest
import torch

from mask2former_ext.export import load_torchscript
from mask2former_ext.export.loading import load_for_export

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "quickstart"
COINS = str(CONFIGS / "maskformer2_R18_coins.yaml")
COINS_MASK_RCNN = str(CONFIGS / "mask_rcnn_R18_FPN_coins.yaml")
TINY = [
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.MASK_DIM", "16", "MODEL.MASK_FORMER.HIDDEN_DIM", "32"),
    *("MODEL.MASK_FORMER.DEC_LAYERS", "2", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1"),
]


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("export_tool", ROOT / "tools" / "export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(output, *more, config=COINS, weights=""):
    common = ["--config-file", config, "--weights", weights, "--format", "torchscript", "--output", str(output)]
    return [*common, "--size", "64", "96", *more, "--", *(TINY if config == COINS else ())]


def test_an_export_of_a_checkpoint(tool, tmp_path, capsys):
    model, input_format = load_for_export(COINS, "", TINY)
    assert not model.training and input_format == "RGB"
    weights = tmp_path / "weights.pth"
    torch.save({"model": model.state_dict()}, weights)
    output = tmp_path / "model.pt"
    assert tool.main(arguments(output, "--task", "raw", "instance", weights=str(weights))) == 0
    out = capsys.readouterr().out
    assert "2×64×96  pred_logits" in out and "instance_masks 0.0e+00" in out and "tolerance 1.0e-03" in out
    images = torch.rand(1, 3, 80, 70) * 255
    with torch.no_grad():
        expected = model.sem_seg_head(model.backbone(model._preprocess([{"image": images[0]}]).tensor))["pred_masks"]
    torch.testing.assert_close(load_torchscript(output).run(images)["pred_masks"], expected, rtol=1e-3, atol=1e-3)


def test_what_is_exported_is_what_is_evaluated(tmp_path):
    own = load_for_export(COINS, "", TINY)[0].state_dict()
    average = {key: torch.full_like(value, 0.25) for key, value in own.items() if value.is_floating_point()}
    whole, backbone = str(tmp_path / "whole.pth"), str(tmp_path / "backbone.pth")
    torch.save({"model": own, "ema": {"num_updates": 3, "weights": average}}, whole)
    torch.save({"model": {key: value for key, value in own.items() if key.startswith("backbone.")}}, backbone)
    key = "sem_seg_head.predictor.class_embed.bias"
    assert torch.equal(load_for_export(COINS, whole, TINY)[0].state_dict()[key], own[key])
    averaged = load_for_export(COINS, whole, [*TINY, "MODEL_EMA.ENABLED", "True"])[0]
    assert averaged.state_dict()[key].eq(0.25).all()
    with pytest.raises(ValueError, match="does not hold the whole model"):
        load_for_export(COINS, backbone, TINY)


def test_failures_leave_no_file_and_one_line(tool, tmp_path, capsys):
    def refused(*args, **kwargs):
        assert tool.main(arguments(*args, **kwargs)) == 1
        assert not list(tmp_path.iterdir())
        error = capsys.readouterr().err
        assert error.startswith("export.py: ") and error.count("\n") == 1
        return error

    output = tmp_path / "model.pt"
    assert "differs too much" in refused(output, "--tolerance", "0")
    mask_rcnn = refused(output, config=COINS_MASK_RCNN)
    assert "GeneralizedRCNN" in mask_rcnn and "tools/deploy/export_model.py" in mask_rcnn
    assert "'nowhere.yaml' does not exist" in refused(output, config="nowhere.yaml")
    assert "no.pth' does not exist" in refused(output, weights=str(tmp_path / "no.pth"))
    assert "must end in .pt or .ts" in refused(tmp_path / "model.onnx")


def test_help_has_an_example(tool, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main(["--help"])
    assert exit_.value.code == 0
    assert "example: python tools/export.py --config-file" in capsys.readouterr().out
