"""tools/check_dataset.py: its command line, output, files and exit status."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
COINS = str(ROOT / "configs" / "quickstart" / "maskformer2_R18_coins.yaml")


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("check_dataset_tool", ROOT / "tools" / "check_dataset.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def labels(tmp_path):
    """The options of a folder of images and one of label PNGs, of two classes."""
    for seed, name in enumerate(("a", "b")):
        noise = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        for folder, pixels, suffix in (("images", noise, "jpg"), ("labels", noise[..., 0] // 128, "png")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.{suffix}")
    files = ["--images", str(tmp_path / "images"), "--annotations", str(tmp_path / "labels")]
    return ["--task", "semantic", "--workers", "1", *files]


@pytest.fixture
def instances(tmp_path):
    """The options of an image with 30 instances."""
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    boxes = [[10 * (k % 6), 10 * (k // 6), 8, 8] for k in range(30)]
    annotations = [
        {
            **{"id": k, "image_id": 0, "category_id": 1, "iscrowd": 0, "area": 64, "bbox": [x, y, w, h]},
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for k, (x, y, w, h) in enumerate(boxes)
    ]
    content = {
        "images": [{"id": 0, "file_name": "black.png", "height": 64, "width": 64}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": annotations,
    }
    path = tmp_path / "squares.json"
    path.write_text(json.dumps(content))
    return ["--workers", "1", "--images", str(tmp_path), "--annotations", str(path)]


def test_a_whole_dataset(tool, labels, tmp_path, capsys):
    json_file, sheet = tmp_path / "new" / "found.json", tmp_path / "new" / "sheet.png"
    assert tool.main([*labels, "--num-classes", "2", "--json", str(json_file), "--contact-sheet", str(sheet)]) == 0
    assert "\n0 faults, 0 warnings.\n" in capsys.readouterr().out
    report = json.loads(json_file.read_text())
    assert report["task"] == "semantic" and report["findings"] == [] and "validation" not in report
    assert report["statistics"]["class_histogram"] == {"0": 2, "1": 2}
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.size == (672, 380)


def test_faults_make_the_exit_status_1(tool, labels, capsys):
    assert tool.main([*labels, "--num-classes", "1"]) == 1
    out = capsys.readouterr().out
    assert "FAULT    label-outside-range (2)" in out and out.endswith("\n2 faults, 0 warnings.\n")


def test_warnings_do_so_when_strict(tool, labels, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("dark\nlight\nunseen\n")
    assert tool.main([*labels, "--classes", str(names)]) == 0
    assert "1 of 3 classes have no annotation: unseen." in capsys.readouterr().out
    assert tool.main([*labels, "--classes", str(names), "--strict"]) == 1


def test_the_ignore_label(tool, labels, capsys):
    assert tool.main([*labels, "--num-classes", "1", "--ignore-label", "1"]) == 1
    out = capsys.readouterr().out
    assert "one-class-with-ignore (1)" in out and "label-outside-range" not in out


def test_queries_of_a_number_or_of_a_config(tool, instances, capsys):
    assert tool.main([*instances, "--strict"]) == 0
    for queries in (["--num-queries", "20"], ["--config-file", COINS]):
        assert tool.main([*instances, *queries, "--strict"]) == 1
        assert "The image has 30 objects, the model 20 queries." in capsys.readouterr().out


def test_training_and_validation_data(tool, labels, tmp_path, capsys):
    val = tmp_path / "val"
    val.mkdir()
    (val / "c.jpg").write_bytes((tmp_path / "images" / "b.jpg").read_bytes())
    (tmp_path / "val_labels").mkdir()
    Image.new("L", (32, 24), 9).save(tmp_path / "val_labels" / "c.png")
    options = ["--num-classes", "2", "--val-images", str(val), "--val", str(tmp_path / "val_labels")]
    path = tmp_path / "found.json"
    assert tool.main([*labels, *options, "--json", str(path)]) == 1
    assert f"The file is the same as {tmp_path / 'images' / 'b.jpg'}." in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert report["findings"] == []
    kinds = {finding["kind"] for finding in report["validation"]["findings"]}
    assert kinds == {"label-outside-range", "class-without-annotations", "image-in-both"}


def test_a_registered_dataset(tool, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tool.main(["--dataset", "coco_2017_val_panoptic"]) == 1
    error = capsys.readouterr().err
    assert "check_dataset.py: " in error and "val2017: this does not exist" in error and "Traceback" not in error


def test_errors_are_said(tool, labels, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    broken = [*labels[:-1], str(tmp_path / "nowhere"), "--contact-sheet", str(sheet)]
    assert tool.main(broken) == 1
    assert "check_dataset.py: " in capsys.readouterr().err
    assert not sheet.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --dataset, or both --images and --annotations"),
        (["--images", "a"], "give --dataset, or both"),
        (["--dataset", "x", "--images", "a", "--annotations", "b"], "give --dataset, or both"),
        (["--images", "a", "--annotations", "b", "--val-images", "c"], "go together"),
        (["--dataset", "x", "--contact-sheet", "sheet.jpg"], "does not end in .png"),
        (["--dataset", "x", "--workers", "0"], "not a whole number above 0"),
    ],
)
def test_wrong_command_lines(arguments, said, tool, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main(arguments)
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_help_has_examples(tool, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main(["--help"])
    assert exit_.value.code == 0
    assert "python tools/check_dataset.py --images photos --annotations train.json" in capsys.readouterr().out
