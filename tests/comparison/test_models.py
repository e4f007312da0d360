"""Real models, small and of random weights, through the whole comparison; and what is refused."""

from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from mask2former_ext.analysis import analyze_model, load_model
from mask2former_ext.comparison import ModelSpec, compare
from mask2former_ext.comparison.evaluate import build_candidate
from mask2former_ext.comparison.regions import STUFF, THINGS
from mask2former_ext.config import load_config

NAME = "comparison_test_streets"
MASK_RCNN = Path(__file__).parents[2] / "configs" / "quickstart" / "mask_rcnn_R18_FPN_coins.yaml"
CPU = ("MODEL.DEVICE", "cpu")


def write_model(folder, name, cfg):
    """Write a config and random weights for it, as files; returns both."""
    config_file, weights = folder / f"{name}.yaml", folder / f"{name}.pth"
    config_file.write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    return str(config_file), str(weights)


@pytest.fixture
def mask2former(streets, tiny_cfg, tmp_path):
    """Config file and weights of a Mask2Former for all three tasks."""
    tiny_cfg.DATASETS.TRAIN = (NAME,)
    tiny_cfg.INPUT.MIN_SIZE_TEST = 48
    tiny_cfg.DATALOADER.NUM_WORKERS = 0
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    return write_model(tmp_path, "maskformer", tiny_cfg)


@pytest.fixture
def mask_rcnn(streets, tmp_path):
    options = ["DATASETS.TRAIN", f"('{NAME}',)", "DATASETS.TEST", "()", "MODEL.ROI_HEADS.NUM_CLASSES", "2"]
    options += ["INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0", "TEST.DETECTIONS_PER_IMAGE", "5"]
    options += ["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8"]
    return write_model(tmp_path, "mask_rcnn", load_config(str(MASK_RCNN), [*options, *CPU]))


def test_two_models_of_different_tasks(mask2former, mask_rcnn, streets, tmp_path, monkeypatch):
    monkeypatch.setattr("mask2former_ext.comparison.costs.REPEATS", 1)
    (tmp_path / "metrics.json").write_text('{"iteration": 19, "total_loss": 2.5, "segm/AP": 7.0}\n')
    specs = [ModelSpec("Mask2Former", *mask2former), ModelSpec("Mask R-CNN", *mask_rcnn, tmp_path / "metrics.json")]
    comparison = compare(specs, NAME, CPU)
    first, second = comparison.models
    assert first.spec.weights == mask2former[1]
    tasks = {"panoptic_seg", "segm", "bbox", "sem_seg"}
    boundaries = {"boundary_panoptic_seg", "boundary_segm", "boundary_sem_seg"}
    assert first.evaluation.results.keys() == tasks | boundaries
    assert second.evaluation.results.keys() == {"bbox", "segm", "boundary_segm"}
    assert 0 <= first.evaluation.results["panoptic_seg"]["PQ"] <= 100
    assert 0 <= second.evaluation.results["segm"]["AP"] <= 100
    assert first.evaluation.precision["segm"].keys() == second.evaluation.precision["bbox"].keys()
    assert (first.evaluation.kinds, second.evaluation.kinds) == ({THINGS, STUFF}, {THINGS})
    assert comparison.kinds == {THINGS}
    assert list(comparison.scores) == [record["file_name"] for record in streets]
    assert all(len(scores) == 2 and 0 <= min(scores) <= max(scores) <= 100 for scores in comparison.scores.values())
    assert (first.training.loss, second.training.metrics) == ([(19, 2.5)], {("segm", "AP"): [(19, 7.0)]})
    counts = analyze_model(load_model(mask2former[0], CPU)[0], (48, 72), ("parameter", "flop"))
    assert (first.costs.parameters, first.costs.multiply_adds) == (counts["parameter"].total, counts["flop"].total)
    assert (first.costs.input_size, second.costs.input_size) == ((48, 72), (64, 96))
    for costs in (first.costs, second.costs):
        assert 0 < costs.seconds_per_image < 10
        assert costs.peak_bytes is None or 0 < costs.peak_bytes < 2**30


def test_boundaries_are_evaluated_and_the_average_takes_the_place_of_the_weights(mask2former):
    config_file, weights = mask2former
    saved = torch.load(weights)["model"]
    average = {name: value + 1 for name, value in saved.items() if value.is_floating_point()}
    torch.save({"model": saved, "ema": {"num_updates": 3, "weights": average}}, weights)
    for enabled, expected in ((False, saved), (True, average)):
        opts = [*CPU, "MODEL_EMA.ENABLED", str(enabled)]
        candidate = build_candidate(ModelSpec("M", config_file, weights), NAME, opts)
        assert candidate.cfg.TEST.BOUNDARY.ENABLED
        assert not candidate.model.training
        found = candidate.model.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_weights_of_the_config_are_used_when_no_others_are_named(mask2former):
    options = [*CPU, "MODEL.WEIGHTS", mask2former[1]]
    assert build_candidate(ModelSpec("M", mask2former[0]), NAME, options).spec.weights == mask2former[1]


def refused(message, *specs, dataset=NAME, opts=CPU):
    with pytest.raises(ValueError, match=message):
        compare(specs, dataset, opts)


def test_what_cannot_be_compared_is_named(mask2former, mask_rcnn, tmp_path):
    config_file, weights = mask2former
    good = ModelSpec("Good", config_file, weights)
    refused("different names, but are called Good, Good", good, good)
    refused("0 models cannot be compared")
    refused("dataset 'nowhere' is not registered; registered are: .*coins_val", good, dataset="nowhere")
    refused(
        r"Bad \(none\.yaml\): config file 'none\.yaml' does not exist", good, ModelSpec("Bad", "none.yaml", weights)
    )
    refused(r"Bad \(lazy\.py\): config file", ModelSpec("Bad", "lazy.py", weights))
    refused(rf"Bad \({config_file}\): .*'none\.pth' does not exist", ModelSpec("Bad", config_file, "none.pth"))
    refused(rf"Bad \({config_file}\): there are no weights", ModelSpec("Bad", config_file))
    classes = [*CPU, "MODEL.ROI_HEADS.NUM_CLASSES", "80"]
    refused(
        "NUM_CLASSES is 80, but the labels of dataset .* are those of 2 classes",
        ModelSpec("Bad", *mask_rcnn),
        opts=classes,
    )
    refused("metrics.json", ModelSpec("Bad", config_file, weights, tmp_path / "metrics.json"))


def test_labels_must_be_the_datasets_not_only_as_many_as_it_has_things(mask_rcnn):
    """ADE20K's instances are labelled by 0…99, things of its panoptic annotations by some of 0…149."""
    with pytest.raises(ValueError, match="are those of 150 classes"):
        build_candidate(ModelSpec("M", *mask_rcnn), "ade20k_panoptic_val", [*CPU, "MODEL.ROI_HEADS.NUM_CLASSES", "100"])


def test_weights_that_do_not_fit_are_refused(mask_rcnn):
    config_file, weights = mask_rcnn
    state = torch.load(weights)["model"]
    del state["roi_heads.mask_head.deconv.weight"]
    state["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(9, 9)
    torch.save({"model": state}, weights)
    random = r"2 of its \d+ parameters .* \(roi_heads\.box_predictor\.cls_score\.weight, roi_heads\.mask_head\.deconv"
    refused(f"Bad .*: .* does not hold the whole model: {random}", ModelSpec("Bad", config_file, weights))


def test_a_dataset_without_images_is_refused(mask2former, monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: [])
    refused("has no images", ModelSpec("M", *mask2former))
