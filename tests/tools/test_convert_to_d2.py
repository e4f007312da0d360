"""tools/convert_swin_to_d2.py and tools/convert_torchvision_to_d2.py on their command lines."""

import importlib.util
import pickle
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools"
SWIN = {
    "patch_embed.proj.weight": torch.ones(2),
    "layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(2),
    "head.weight": torch.ones(2),
}
RESNET = {"conv1.weight": torch.ones(2), "layer1.0.conv1.weight": torch.ones(2), "fc.bias": torch.ones(2)}
CASES = {
    "convert_swin_to_d2.py": (
        {"model": SWIN},
        ["patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table"],
    ),
    "convert_torchvision_to_d2.py": (RESNET, ["stem.conv1.weight", "res2.0.conv1.weight"]),
}


def main_of(tool):
    spec = importlib.util.spec_from_file_location(tool.removesuffix(".py"), TOOLS / tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.parametrize("tool", CASES)
def test_conversion_and_refusal(tool, tmp_path, capsys):
    content, expected = CASES[tool]
    source, target = tmp_path / "in.pth", tmp_path / "out.pkl"
    torch.save(content, source)
    assert main_of(tool)([str(source), str(target)]) == 0
    assert f"{target}: 2 tensors of the 3 in {source}" in capsys.readouterr().out
    assert list(pickle.loads(target.read_bytes())["model"]) == expected

    torch.save({"model": {"other.weight": torch.ones(2)}}, source)
    target.unlink()
    assert main_of(tool)([str(source), str(target)]) == 1
    assert f"{tool}: These are not the weights of a" in capsys.readouterr().err
    assert main_of(tool)([str(tmp_path / "nowhere.pth"), str(target)]) == 1
    assert "nowhere.pth" in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize("tool", CASES)
def test_help_has_an_example(tool, capsys):
    with pytest.raises(SystemExit, match="0"):
        main_of(tool)(["--help"])
    shown = capsys.readouterr().out
    assert "INPUT OUTPUT" in shown and f"example: python tools/{tool} " in shown
