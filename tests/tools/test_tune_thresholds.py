"""tools/tune_thresholds.py on a tiny model, whose own results at some thresholds are the ground truth."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from mask2former_ext.config import load_config
from mask2former_ext.data.datasets import register_panoptic_dataset
from mask2former_ext.data.reading import id_to_rgb
from mask2former_ext.engine import Trainer
from mask2former_ext.threshold_tuning import runner

TOOLS = Path(__file__).parents[2] / "tools"
NAME = "tiny_panoptic_to_tune_on"
CATEGORIES = [{"id": 11, "name": "cat", "isthing": 1}, {"id": 12, "name": "dog", "isthing": 1}]
CATEGORIES.append({"id": 13, "name": "tree", "isthing": 0})
IMAGES = (1, 2, 3)
TRUE_THRESHOLDS, OWN_THRESHOLDS = (0.7, 0.2), (0.52, 0.4)


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_tool", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool():
    return load("tune_thresholds")


def make_model(cfg):
    """Random weights of a size at which queries differ in what they find."""
    torch.manual_seed(3)
    model = build_model(cfg).eval()
    predictor = model.sem_seg_head.predictor
    for parameter, deviation in (
        (predictor.query_feat.weight, 6),
        (predictor.class_embed.weight, 0.4),
        (predictor.mask_embed.layers[-1].weight, 1.5),
    ):
        torch.nn.init.normal_(parameter, std=deviation)
    return model


def write_truth(folder, model, loader):
    """The model's own panoptic results as a dataset."""
    annotations = []
    model.object_mask_threshold, model.overlap_threshold = TRUE_THRESHOLDS
    for (record,) in loader:
        with torch.no_grad():
            ids, segments = model([record])[0]["panoptic_seg"]
        Image.fromarray(id_to_rgb(ids.numpy())).save(folder / f"{record['image_id']}.png")
        annotations.append(
            {
                "image_id": record["image_id"],
                "file_name": f"{record['image_id']}.png",
                "segments_info": [
                    {"id": s["id"], "category_id": CATEGORIES[s["category_id"]]["id"], "iscrowd": 0} for s in segments
                ],
            }
        )
    return annotations


@pytest.fixture
def scene(tiny_cfg, tmp_path):
    """Command-line arguments for a model, its weights, and a dataset of three images that is registered as NAME."""
    cfg = tiny_cfg
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 20
    test = cfg.MODEL.MASK_FORMER.TEST
    test.INSTANCE_ON = test.SEMANTIC_ON = False
    test.OBJECT_MASK_THRESHOLD, test.OVERLAP_THRESHOLD = OWN_THRESHOLDS
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    generator = np.random.default_rng(0)
    for image_id in IMAGES:
        colours = Image.fromarray(generator.integers(0, 256, (8, 10, 3), dtype=np.uint8))
        colours.resize((60, 48), Image.Resampling.BILINEAR).save(tmp_path / f"{image_id}.jpg")
    (tmp_path / "panoptic.json").write_text("{}")
    roots = {"image_root": str(tmp_path), "panoptic_root": str(tmp_path)}
    register_panoptic_dataset(NAME, **roots, panoptic_json=str(tmp_path / "panoptic.json"), categories=CATEGORIES)
    model = make_model(cfg)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    records = [{"file_name": str(tmp_path / f"{i}.jpg"), "image_id": i, "height": 48, "width": 60} for i in IMAGES]
    annotations = write_truth(tmp_path, model, runner.build_test_loader(cfg, records))
    images = [{"id": i, "height": 48, "width": 60} for i in IMAGES]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    yield ["--config-file", str(tmp_path / "config.yaml"), "--weights", str(tmp_path / "weights.pth")]
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def tune(tool, arguments, tmp_path):
    """Run the command, which must succeed; returns the JSON that it writes."""
    path = tmp_path / "new" / "thresholds.json"
    assert tool.main([*arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def evaluate_only(scene, *thresholds):
    """Figures of train_net.py --eval-only."""
    key = "MODEL.MASK_FORMER.TEST"
    opts = ["MODEL.WEIGHTS", scene[-1]]
    if thresholds:
        opts += [f"{key}.OBJECT_MASK_THRESHOLD", thresholds[0], f"{key}.OVERLAP_THRESHOLD", thresholds[1]]
    cfg = load_config(scene[1], opts)
    cfg.freeze()
    return load("train_net").evaluate(cfg, False)["panoptic_seg"]


def test_figures_are_those_of_train_net_and_the_thresholds_of_the_truth_are_found(tool, scene, tmp_path, capsys):
    result = tune(tool, scene, tmp_path)
    own = evaluate_only(scene)
    assert 10 < own["PQ"] < 90
    assert result["own"] == {"object_mask": 0.52, "overlap": 0.4}
    assert result["own_figures"] == pytest.approx(own, rel=1e-9)
    assert tuple(result["best"].values()) == TRUE_THRESHOLDS
    assert result["best_figures"]["PQ"] == pytest.approx(100)
    assert result["gain"] == pytest.approx(100 - own["PQ"])
    row, column = (result[f"{name}_thresholds"].index(value) for name, value in zip(("object", "overlap"), (0.35, 0.1)))
    assert result["pq"][row][column] == pytest.approx(evaluate_only(scene, 0.35, 0.1)["PQ"], rel=1e-9)
    assert len({pq for values in result["pq"] for pq in values}) > 20

    captured = capsys.readouterr()
    overrides = re.search(r"append:\n(\S+THRESHOLD \S+ \S+THRESHOLD \S+)\n", captured.out)[1]
    assert overrides == result["overrides"]
    cfg = load_config(scene[1], overrides.split())
    test = cfg.MODEL.MASK_FORMER.TEST
    assert list(result["best"].values()) == [test.OBJECT_MASK_THRESHOLD, test.OVERLAP_THRESHOLD]
    assert "3/3" in captured.err  # a progress bar


def test_saved_predictions_take_no_network(tool, scene, tmp_path, monkeypatch):
    exact = tune(tool, scene, tmp_path)
    kept = ["--save-predictions", str(tmp_path / "kept"), "--precision", "float32"]
    made = runner._predictions_of_network
    with monkeypatch.context() as patch:

        def interrupted(cfg, records):
            yield next(made(cfg, records))
            raise OSError("no more power")

        patch.setattr(runner, "_predictions_of_network", interrupted)
        assert tool.main([*scene, *kept]) == 1
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["1.pt", "predictions.json"]

    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(
            runner, "_predictions_of_network", lambda cfg, records: asked.extend(records) or made(cfg, records)
        )
        assert tune(tool, [*scene, *kept], tmp_path) == exact
    assert [record["image_id"] for record in asked] == [2, 3]

    monkeypatch.setattr(Trainer, "build_model", lambda cfg: pytest.fail("the network is not needed"))
    assert tune(tool, [*scene, *kept], tmp_path) == exact
    coarse = tune(tool, [*scene, *kept, "--step", "0.5"], tmp_path)
    assert coarse["object_thresholds"] == [0, 0.5, 0.52] and coarse["overlap_thresholds"] == [0, 0.4, 0.5]
    assert coarse["own_figures"] == exact["own_figures"]


def test_rounded_predictions_are_nearly_as_good(tool, scene, tmp_path):
    exact = tune(tool, scene, tmp_path)
    rounded = tune(tool, [*scene, "--save-predictions", str(tmp_path / "kept")], tmp_path)
    assert rounded["own_figures"]["PQ"] == pytest.approx(exact["own_figures"]["PQ"], abs=0.5)
    assert sum(path.stat().st_size for path in (tmp_path / "kept").glob("*.pt")) < 3 * 30_000


def test_mistakes_end_with_a_message(tool, scene, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    off = ["--", "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"]
    for arguments, message in (
        ([*scene, *off], "PANOPTIC_ON True"),
        ([*scene, "--dataset", "no_such_set"], "no_such_set"),
        ([*scene[:2], "--weights", "no_such.pth"], "no_such.pth"),
        ([*scene, "--save-predictions", str(tmp_path / "photos")], "not empty"),
        ([*scene, "--", "DATASETS.TEST", f"('{NAME}', '{NAME}')"], "2 datasets; choose one by --dataset"),
        (["--config-file", "no_such.yaml", *scene[2:]], "no_such.yaml"),
    ):
        assert tool.main(arguments) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("tune_thresholds.py: ") and message in error, error
        assert error.count("\n") == 1, error
    with pytest.raises(SystemExit) as exit_:
        tool.main([*scene, "--step", "0"])
    assert exit_.value.code == 2


def test_help_has_an_example(tool, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main(["--help"])
    assert exit_.value.code == 0
    assert "example: python tools/tune_thresholds.py --config-file" in capsys.readouterr().out
