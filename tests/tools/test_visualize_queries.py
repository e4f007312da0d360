"""tools/visualize_queries.py: its command line, files and exit status, with a tiny model and the coins."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from mask2former_ext.config import load_config
from mask2former_ext.data.datasets.coins import register_coins
from mask2former_ext.data.datasets.loading import datasets_root

ROOT = Path(__file__).parents[2]
COINS = str(ROOT / "configs" / "quickstart" / "maskformer2_R18_coins.yaml")
COINS_MASK_RCNN = str(ROOT / "configs" / "quickstart" / "mask_rcnn_R18_FPN_coins.yaml")
TINY = [
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.MASK_DIM", "16"),
    *("MODEL.MASK_FORMER.HIDDEN_DIM", "32", "MODEL.MASK_FORMER.DIM_FEEDFORWARD", "64"),
    *("MODEL.MASK_FORMER.DEC_LAYERS", "3", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "64"),
]


def load_script(folder, name):
    spec = importlib.util.spec_from_file_location(f"{name}_for_visualize_queries", ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool():
    return load_script("tools", "visualize_queries")


@pytest.fixture(scope="module")
def coins(tmp_path_factory):
    """The coins, registered under a folder of these tests, and weights of a tiny model beside them."""
    folder = tmp_path_factory.mktemp("coins")
    load_script("datasets", "prepare_coins").prepare(folder)
    register_coins(str(folder))
    torch.manual_seed(0)
    model = build_model(load_config(COINS, ["MODEL.DEVICE", "cpu", *TINY]))
    torch.save({"model": model.state_dict()}, folder / "tiny.pth")
    yield folder
    register_coins(datasets_root())


@pytest.fixture
def run(tool, coins, capsys):
    """Runs the tool on the tiny model; gives exit status, output and errors."""

    def main(*arguments, config=COINS, overrides=TINY):
        weights = ["--weights", str(coins / "tiny.pth")]
        status = tool.main(["--config-file", config, *weights, *arguments, *overrides])
        return status, *capsys.readouterr()

    return main


def test_queries_of_a_dataset_are_matched(run, coins, tmp_path):
    path = tmp_path / "new" / "queries.png"
    status, out, _ = run("--dataset", "coins_val", "--index", "0", "--top", "2", "--output", str(path))
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 3 and lines[2] == str(path)
    assert all(line.startswith("query ") and line.count(" | ") == 2 for line in lines[:2])
    assert out.count("IoU") + out.count("not matched") == 6
    assert [entry.name for entry in path.parent.iterdir()] == ["queries.png"]
    again = tmp_path / "again.png"
    assert run("--dataset", "coins_val", "--top", "2", "--output", str(again))[:2] == (
        0,
        out.replace(str(path), str(again)),
    )
    assert (np.asarray(Image.open(again)) == np.asarray(Image.open(path))).all()


def test_chosen_queries_of_an_image(run, coins, tmp_path):
    path = tmp_path / "queries.png"
    photo = str(coins / "coins" / "train" / "bottom_row.png")
    status, out, _ = run("--input", photo, "--queries", "7", "0", "12", "--output", str(path))
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines()[:3]] == ["query 7", "query 0", "query 12"]
    assert "matched" not in out and "IoU" not in out
    three = Image.open(path).height
    assert run("--input", photo, "--queries", "7", "--output", str(path))[0] == 0
    assert Image.open(path).height < three


def test_mistakes_end_with_a_line_and_no_file(run, tmp_path):
    path = tmp_path / "queries.png"
    of_coins = ["--dataset", "coins_val", "--output", str(path)]
    for status, _, error, message in (
        (*run("--queries", "20", *of_coins), "--queries 20: the model has the queries 0…19"),
        (*run("--index", "1", *of_coins), "--index is 1, but coins_val has the images 0…0"),
        (*run("--dataset", "none", "--output", str(path)), "--dataset: Dataset 'none' is not registered"),
        (*run("--input", "none.jpg", "--output", str(path)), "none.jpg: this file does not exist"),
        (*run(*of_coins, config="none.yaml"), "config file 'none.yaml' does not exist"),
        (*run(*of_coins, config=COINS_MASK_RCNN, overrides=[]), "GeneralizedRCNN, which has no queries"),
        (*run(*of_coins, overrides=[*TINY, "MODEL.MASK_FORMER.DEC_LAYERS", "1"]), "no predictions of earlier layers"),
    ):
        assert status == 1 and message in error
        assert error.splitlines()[-1].startswith("visualize_queries.py: ")
    assert list(tmp_path.iterdir()) == []


def test_predictions_that_are_not_finite_are_named(tool, coins, tmp_path, capsys):
    weights = torch.load(coins / "tiny.pth")
    weights["model"]["sem_seg_head.predictor.mask_embed.layers.2.bias"].fill_(float("nan"))
    torch.save(weights, tmp_path / "broken.pth")
    arguments = ["--config-file", COINS, "--weights", str(tmp_path / "broken.pth"), "--dataset", "coins_val"]
    assert tool.main([*arguments, "--output", str(tmp_path / "queries.png"), *TINY]) == 1
    assert "matching cost is not finite" in capsys.readouterr().err
    assert not (tmp_path / "queries.png").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--input", "a.jpg", "--dataset", "b"],
        [],
        ["--input", "a.jpg", "--queries", "1", "--top", "2"],
        ["--input", "a.jpg", "--top", "0"],
        ["--input", "a.jpg", "--output", "a.jpg"],
    ],
)
def test_wrong_options_are_refused(tool, wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main(["--config-file", COINS, "--weights", "w.pth", "--output", "q.png", *wrong])
    assert exit_.value.code == 2 and "error: " in capsys.readouterr().err


def test_help_has_an_example(tool, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main(["--help"])
    assert exit_.value.code == 0
    assert "example: python tools/visualize_queries.py --config-file" in capsys.readouterr().out
