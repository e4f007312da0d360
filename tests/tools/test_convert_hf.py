"""tools/convert_hf.py on its command line."""

import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

TOOL = Path(__file__).parents[2] / "tools" / "convert_hf.py"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("convert_hf", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_there_and_back(main, tiny_cfg, tmp_path, capsys):
    config, weights, folder, target = (tmp_path / name for name in ("tiny.yaml", "in.pth", "hf", "out.pth"))
    config.write_text(tiny_cfg.dump())
    torch.save(build_model(tiny_cfg).state_dict(), weights)
    to_hf = ["to-hf", "--config-file", str(config), "--weights", str(weights), str(folder)]
    assert main(to_hf) == 0
    assert f"which are 215 in {folder}" in (shown := capsys.readouterr().out) and "Parity: class logits" in shown
    assert (
        main(["to-d2", str(folder), str(target), "--config-file", str(config), "--opts", "SOLVER.MAX_ITER", "9"]) == 0
    )
    shown = capsys.readouterr().out
    assert f"in {target}; config {tmp_path / 'out.yaml'} (over {config})." in shown and "Parity: class logits" in shown
    assert "MAX_ITER: 9" in (tmp_path / "out.yaml").read_text()

    assert main(to_hf) == 1
    assert "convert_hf.py: " in (shown := capsys.readouterr().err) and "is not an empty folder" in shown
    assert main([*to_hf[:-1], str(tmp_path / "b"), "--opts", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"]) == 1
    assert "is for 3 classes, the model for 4" in capsys.readouterr().err
    assert main(["to-d2", str(folder), str(target), "--opts", "MODEL.NONSENSE", "4"]) == 1
    assert "MODEL.NONSENSE" in capsys.readouterr().err
    assert main(["to-d2", str(tmp_path / "nowhere"), str(target)]) == 1
    assert "There is no folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "in.pth", "out.pth", "out.yaml", "tiny.yaml"]


@pytest.mark.parametrize("command", ["to-d2", "to-hf"])
def test_help_has_an_example(main, capsys, command):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"example: python tools/convert_hf.py {command} " in capsys.readouterr().out
