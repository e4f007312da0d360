"""From data to a trained model: every task, the best model, going on after a stop, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog

from mask2former_ext.config import load_config
from mask2former_ext.own_data.best import OwnDataTrainer
from mask2former_ext.own_data.run import Request, prepare, summary, train

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def request_for(data, base, tmp_path):
    """A function: task, and what else differs → a request with the output folder "run"."""

    def make(task, **changes):
        paths = {"images": data["images"], "annotations": data[task], "output": tmp_path / "run"}
        return Request(**{"task": task, "base": base, "val_fraction": 0.3, "epochs": 1} | paths | changes)

    return make


@pytest.fixture
def figures(monkeypatch):
    """Evaluations give these figures of segm AP in turn; the weights that were evaluated are kept beside them."""
    planned, evaluated = [], []

    def test(cls, cfg, model, evaluators=None):
        evaluated.append(model.state_dict()["sem_seg_head.predictor.query_feat.weight"].clone())
        return {"segm": {"AP": planned.pop(0), "AP-bar": float("nan")}}

    monkeypatch.setattr(OwnDataTrainer, "test", classmethod(test))
    return planned, evaluated


def best_weights(output):
    return torch.load(output / "model_best.pth")["model"]["sem_seg_head.predictor.query_feat.weight"]


def best_figures(output):
    return json.loads((output / "best.json").read_text())


@pytest.mark.parametrize(
    ("task", "metric", "classes"),
    [
        ("panoptic", "panoptic_seg/PQ", ["bar", "ground", "square"]),
        ("semantic", "sem_seg/mIoU", ["0", "1", "2"]),
    ],
)
def test_a_task_is_trained_and_its_config_registers_the_data(request_for, tmp_path, task, metric, classes):
    prepare(request_for(task, overrides=("SOLVER.MAX_ITER", "2")))
    train(str(tmp_path / "run"), (), resume=False)
    assert best_figures(tmp_path / "run")["metric"] == metric
    cfg = load_config(str(tmp_path / "run" / "trained.yaml"))
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    assert metadata.stuff_classes == classes
    assert len(metadata.stuff_colors) == 3
    assert str(tmp_path / "run" / "model_best.pth") == cfg.MODEL.WEIGHTS
    assert metric in summary(tmp_path / "run")


def test_the_split_is_written_and_does_not_overlap(request_for, tmp_path):
    prepare(request_for("instance"))
    folder = tmp_path / "run" / "dataset"
    train_images, val_images = (
        {image["file_name"] for image in json.loads((folder / f"annotations_{part}.json").read_text())["images"]}
        for part in ("train", "val")
    )
    assert (len(train_images), len(val_images)) == (7, 3)
    assert not train_images & val_images
    own = yaml.safe_load((tmp_path / "run" / "training.yaml").read_text())["DATASETS"]["OWN"]
    assert own == ["dataset/train.json", "dataset/val.json"]


def test_annotations_that_are_used_whole_stay_where_they_are(request_for, data, tmp_path):
    prepare(request_for("instance", val=data["instance"]))
    for part in ("train", "val"):
        card = json.loads((tmp_path / "run" / "dataset" / f"{part}.json").read_text())
        assert (card["annotations"], card["images"]) == (str(data["instance"]), str(data["images"]))
    assert len(list((tmp_path / "run" / "dataset").iterdir())) == 2


def test_the_best_model_is_kept_and_survives_resuming(request_for, figures, tmp_path):
    planned, evaluated = figures
    output = tmp_path / "run"
    prepare(request_for("instance", overrides=("SOLVER.MAX_ITER", "3")))
    planned += [10.0, 30.0, 20.0]
    train(str(output), (), resume=False)
    assert torch.equal(best_weights(output), evaluated[1])
    assert not torch.equal(evaluated[1], evaluated[2])
    assert best_figures(output) == {"metric": "segm/AP", "value": 30.0, "iterations": 2, "results": {"segm/AP": 30.0}}
    assert len(list(output.glob("model_00*.pth"))) == 2  # to resume from

    planned += [25.0]
    train(str(output), ("SOLVER.MAX_ITER", "4"), resume=True)
    assert torch.equal(best_weights(output), evaluated[1])
    planned += [40.0]
    train(str(output), ("SOLVER.MAX_ITER", "5"), resume=True)
    assert torch.equal(best_weights(output), evaluated[4])
    assert best_figures(output)["iterations"] == 5


def test_averaged_weights_are_kept_where_they_are_evaluated(request_for, figures, tmp_path):
    planned, evaluated = figures
    planned += [10.0, 5.0]
    output = tmp_path / "run"
    prepare(request_for("instance", overrides=("SOLVER.MAX_ITER", "2", "MODEL_EMA.ENABLED", "True")))
    train(str(output), (), resume=False)
    assert torch.equal(best_weights(output), evaluated[0])
    assert not load_config(str(output / "trained.yaml")).MODEL_EMA.ENABLED


def test_without_figures_the_last_model_is_used(request_for, figures, tmp_path):
    figures[0].append(float("nan"))
    prepare(request_for("instance", overrides=("SOLVER.MAX_ITER", "1")))
    train(str(tmp_path / "run"), (), resume=False)
    assert load_config(str(tmp_path / "run" / "trained.yaml")).MODEL.WEIGHTS.endswith("model_final.pth")
    assert "No evaluation gave a figure" in summary(tmp_path / "run")


def test_faults_stop_the_run_unless_they_are_ignored(request_for, data, tmp_path):
    (data["images"] / "3.png").unlink()
    with pytest.raises(ValueError, match=r"the audit found 1 faults in the data.*--ignore-faults"):
        prepare(request_for("instance"))
    assert not (tmp_path / "run" / "training.yaml").exists()
    prepare(request_for("instance", ignore_faults=True))
    assert (tmp_path / "run" / "training.yaml").exists()


def test_validation_data_have_faults_too(request_for, data, tmp_path):
    content = json.loads(data["instance"].read_text())
    content["images"][2]["file_name"] = "gone.png"
    (tmp_path / "val.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the audit found 1 faults"):
        prepare(request_for("instance", val=tmp_path / "val.json"))


def test_class_names_of_instances_are_those_of_their_file(request_for, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("bar\ncircle\n")
    with pytest.raises(ValueError, match="the audit found 1 faults"):
        prepare(request_for("instance", classes=tmp_path / "names.txt"))
    assert 'The category 9 ("square") is none of the 2 class names' in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("given", ["val_images", "val_panoptic_root"])
def test_validation_images_without_annotations_are_refused(request_for, data, given):
    with pytest.raises(ValueError, match="belong to --val, which names the annotations"):
        prepare(request_for("instance", **{given: data["images"]}))


def test_the_report_lists_images_that_are_in_both(request_for, data, tmp_path):
    prepare(request_for("instance", val=data["instance"]))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("image-in-both") == 1 and "image-in-both (10)" in log


def test_mask_rcnn_has_no_queries_to_exceed(request_for, data, tmp_path):
    content = json.loads(data["instance"].read_text())
    first = content["annotations"][0]
    content["annotations"] += [first | {"id": 1000 + k} for k in range(100)]
    data["instance"].write_text(json.dumps(content))
    for base, number in (("mask_rcnn_R50_FPN_bs16_160k", 0), ("maskformer2_R50_bs16_50ep", 1)):
        file = CONFIGS / "coco" / "instance-segmentation" / f"{base}.yaml"
        weights = ("MODEL.WEIGHTS", "")
        prepare(request_for("instance", base=str(file), output=tmp_path / base, overrides=weights))
        log = (tmp_path / base / "log.txt").read_text()
        assert log.count("WARNING  too-many-objects (1)") == number


def test_evaluation_that_compares_no_models_keeps_the_last(request_for, figures, tmp_path):
    figures[0].append(50.0)
    prepare(request_for("instance", overrides=("SOLVER.MAX_ITER", "1")))
    train(str(tmp_path / "run"), ("DATASETS.TEST", "('lvis_v1_val',)"), resume=False)
    assert not (tmp_path / "run" / "best.json").exists()
    assert load_config(str(tmp_path / "run" / "trained.yaml")).MODEL.WEIGHTS.endswith("model_final.pth")


def test_a_folder_with_a_run_is_not_written_over(request_for, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000004.pth")
    with pytest.raises(ValueError, match=r"run holds a run already\. Go on with it by --resume"):
        prepare(request_for("instance"))


def test_names_differ_where_data_differ(request_for, data, tmp_path):
    names = []
    for parent in ("one", "two"):
        output = tmp_path / parent / "run"
        prepare(request_for("instance", output=output))
        names += load_config(str(output / "training.yaml")).DATASETS.TRAIN
    assert len(set(names)) == 2
    assert all(name.startswith("run_train_") for name in names)
