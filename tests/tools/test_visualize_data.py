"""tools/visualize_data.py: its command line, files and exit status."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
COINS = str(ROOT / "configs" / "quickstart" / "maskformer2_R18_coins.yaml")
COINS_MASK_RCNN = str(ROOT / "configs" / "quickstart" / "mask_rcnn_R18_FPN_coins.yaml")


def load_script(folder, name):
    spec = importlib.util.spec_from_file_location(f"{name}_for_visualize_data", ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool():
    return load_script("tools", "visualize_data")


@pytest.fixture
def coins(tmp_path):
    """The coins, registered under a folder of this test."""
    from mask2former_ext.data.datasets.coins import register_coins
    from mask2former_ext.data.datasets.loading import datasets_root

    load_script("datasets", "prepare_coins").prepare(tmp_path)
    register_coins(str(tmp_path))
    yield tmp_path
    register_coins(datasets_root())


def test_one_sheet_of_training_samples(tool, coins, capsys):
    path = coins / "new" / "samples.png"
    arguments = ["--config-file", COINS, "--count", "3", "--output", str(path)]
    assert tool.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("targets: coin") == 3 and out.count("semantic map with") == 3
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[1] > 4 * 400 and len(list(path.parent.iterdir())) == 1
    assert tool.main([*arguments, "--seed", "9"]) == 0
    other = np.asarray(Image.open(path))
    assert other.shape != sheet.shape or (other != sheet).any()


def test_a_folder_with_a_file_for_each_and_overrides(tool, coins, capsys):
    folder = coins / "samples"
    arguments = ["--config-file", COINS_MASK_RCNN, "--count", "2", "--output", str(folder)]
    assert tool.main([*arguments, "INPUT.CROP.ENABLED", "False", "INPUT.MIN_SIZE_TRAIN", "(78,)"]) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert [name[:4] for name in names] == ["000_", "001_"] and {name[4:] for name in names} == {
        "bottom_row.png",
        "upper_left.png",
    }
    out = capsys.readouterr().out
    assert "bottom_row.png: 384×78 pixels to 384×78 pixels, no padding; 6 targets: coin 6" in out
    assert "upper_left.png: 242×225 pixels to 84×78 pixels, no padding; 12 targets: coin 12" in out


def test_evaluation_has_the_image_alone(tool, coins, capsys):
    path = coins / "test.png"
    assert tool.main(["--config-file", COINS, "--split", "test", "--count", "1", "--output", str(path)]) == 0
    out = capsys.readouterr().out
    assert "upper_right.png: 142×225 pixels to 128×203 pixels" in out and "targets" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "nowhere.yaml"], "visualize_data.py: config file 'nowhere.yaml' does not exist"),
        (["--config-file", COINS, "DATASETS.TRAIN", "('none',)"], "visualize_data.py: DATASETS.TRAIN: Dataset 'none'"),
        (["--config-file", COINS, "INPUT.NOTHING", "1"], "INPUT.NOTHING"),
    ],
)
def test_mistakes_end_with_a_line_and_no_file(tool, arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tool.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_broken_image_leaves_no_file(tool, coins, capsys):
    for image in (coins / "coins" / "train").iterdir():
        image.write_bytes(b"nothing")
    assert tool.main(["--config-file", COINS, "--output", str(coins / "samples.png")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert not (coins / "samples.png").exists()


@pytest.mark.parametrize("wrong", [["--count", "0"], ["--count", "x"], ["--output", "a.jpg"], ["--split", "val"]])
def test_wrong_options_are_refused(tool, wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main(["--config-file", COINS, *wrong])
    assert exit_.value.code == 2 and wrong[0] in capsys.readouterr().err


def test_help_has_an_example(tool, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main(["--help"])
    assert exit_.value.code == 0
    assert "example: python tools/visualize_data.py --config-file" in capsys.readouterr().out
