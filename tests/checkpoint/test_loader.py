"""What the checkpointer loads, what it says, and what it refuses: through real files, with a tiny model."""

import argparse
import logging
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from safetensors.torch import save_file

from mask2former_ext.checkpoint import Checkpointer, build_checkpointer, loader
from mask2former_ext.checkpoint.writing import SafeCheckpointer

BIAS = "backbone.res2.0.conv1.norm.bias"


@pytest.fixture
def model(tiny_cfg):
    return build_model(tiny_cfg)


@pytest.fixture
def trained(tiny_cfg):
    """A model other than a fresh one in all of its parameters."""
    torch.manual_seed(1)
    model = build_model(tiny_cfg)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model


@pytest.fixture
def said(caplog, monkeypatch):
    """A function that returns the lines that the loader logged, and whatever any logger warned of."""
    for name in ("detectron2", "fvcore", "mask2former_ext"):  # Detectron2's set-up of loggers cuts them off
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    caplog.set_level(logging.INFO)
    return lambda: [r.getMessage() for r in caplog.records if r.name == loader.__name__ or r.levelno > logging.INFO]


def whole(model):
    return dict(model.state_dict())


def backbone_only(model, prefix=""):
    """As published: no prefix, a classifier, no counters."""
    weights = {
        key.replace("backbone.", prefix): value
        for key, value in model.backbone.state_dict(prefix="backbone.").items()
        if not key.endswith("num_batches_tracked")
    }
    return weights | {"stem.fc.weight": torch.ones(1000, 8)}


def write_pth(path, weights, **extra):
    torch.save({"model": weights, **extra}, path)
    return str(path)


def write_pkl(path, weights, author="third_party", **extra):
    arrays = {key: value.numpy() for key, value in weights.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": author, **extra}))
    return str(path)


def assert_equal_weights(model, expected):
    torch.testing.assert_close(dict(model.state_dict()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("heuristics", [False, True])
def test_whole_models_as_pkl(model, trained, tmp_path, said, heuristics):
    path = write_pkl(tmp_path / "a.pkl", whole(trained), matching_heuristics=heuristics)
    Checkpointer(model).load(path)
    assert_equal_weights(model, whole(trained))
    total = len(model.state_dict())
    backbone = len(model.backbone.state_dict())
    rest = total - backbone
    assert said() == [
        f"{path}: {total} of {total} keys loaded; backbone {backbone} of {backbone}; the rest {rest} of {rest}"
    ]


@pytest.mark.parametrize("kind", [whole, backbone_only])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"model": weights, "matching_heuristics": True},
        lambda weights: {"model": weights},
        lambda weights: weights,
    ],
)
def test_pkl_without_an_author(model, trained, tmp_path, said, kind, wrap):
    """Detectron2 would take it for Caffe2's: load nothing, or a backbone without its statistics."""
    weights = kind(trained, "backbone.") if kind is backbone_only else kind(trained)
    content = wrap({key: value.numpy() for key, value in weights.items()})
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    Checkpointer(model).load(str(tmp_path / "a.pkl"))
    loaded = weights.keys() & model.state_dict().keys()
    assert {key.split(".")[0] for key in weights.keys() - loaded} <= {"stem"}  # the classifier
    for key in loaded:
        torch.testing.assert_close(model.state_dict()[key], trained.state_dict()[key], rtol=0, atol=0)
    assert f"a.pkl: {len(loaded)} of {len(model.state_dict())} keys loaded" in said()[0]


@pytest.mark.parametrize("write", [write_pth, write_pkl])
@pytest.mark.parametrize("length", [0, 1000])
def test_a_file_that_is_cut_short(model, trained, tmp_path, write, length):
    path = tmp_path / f"a.{write.__name__[-3:]}"
    path.write_bytes(Path(write(path, whole(trained))).read_bytes()[:length])
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged")):
        Checkpointer(model).load(str(path))


@pytest.mark.parametrize("wrap", [lambda weights: {"model": weights, "iteration": 7}, lambda weights: weights])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_whole_models_as_pth(model, trained, tmp_path, said, wrap, prefix):
    torch.save(wrap({prefix + key: value for key, value in whole(trained).items()}), tmp_path / "a.pth")
    Checkpointer(model).load(str(tmp_path / "a.pth"))
    assert_equal_weights(model, whole(trained))
    total = len(model.state_dict())
    assert len(said()) == 1 and f"a.pth: {total} of {total} keys loaded" in said()[0]


def test_whole_models_as_safetensors(model, trained, tmp_path, said):
    path = str(tmp_path / "a.safetensors")
    save_file(whole(trained), path)
    Checkpointer(model).load(path)
    assert_equal_weights(model, whole(trained))
    assert any(f"{path}: {len(whole(trained))} of {len(whole(trained))} keys loaded" in line for line in said())


@pytest.mark.parametrize("write", [write_pth, write_pkl])
@pytest.mark.parametrize("heuristics", [False, True])
def test_keys_of_older_checkpoints(model, trained, tmp_path, said, write, heuristics):
    new = whole(trained)
    old = {
        key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace("query_feat", "static_query"): value
        for key, value in new.items()
    }
    assert "sem_seg_head.predictor.static_query.weight" in old and len(old.keys() - new.keys()) > 20
    Checkpointer(model).load(write(tmp_path / f"a.{write.__name__[-3:]}", old, matching_heuristics=heuristics))
    assert_equal_weights(model, new)
    total = len(new)
    assert len(said()) == 1 and f"{total} of {total} keys loaded" in said()[0]


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_imagenet_weights(model, trained, tmp_path, said, prefix):
    before = {key: value.clone() for key, value in whole(model).items()}
    path = write_pkl(tmp_path / "R-18.pkl", backbone_only(trained, prefix), matching_heuristics=True)
    Checkpointer(model).load(path)
    expected = before | {key: value for key, value in whole(trained).items() if key.startswith("backbone.")}
    assert_equal_weights(model, expected)
    counters = sum(key.endswith("num_batches_tracked") for key in before)
    backbone = len(model.backbone.state_dict())
    loaded = backbone - counters
    assert said() == [
        f"{path}: {loaded} of {len(before)} keys loaded; backbone {loaded} of {backbone}; "
        f"the rest 0 of {len(before) - backbone}; {counters} of the backbone need not be in a file; "
        "not used: stem.fc.weight"
    ]


def test_caffe2_weights_have_no_statistics(model, trained, tmp_path):
    """Scale and offset stand for all of the batch norm; one statistic among them would be a broken file."""
    weights = {
        re.sub(r"^stem\.conv1\.norm", "res.conv1.norm", key.removeprefix("stem.") if "norm" not in key else key)
        .replace(".norm.weight", ".bn.s")
        .replace(".norm.bias", ".bn.b")
        .replace(".weight", ".w")
        .replace(".", "_"): value.numpy()
        for key, value in backbone_only(trained).items()
        if "running" not in key and "fc" not in key
    }
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_conv1_bn_b"} <= weights.keys()
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(weights))
    Checkpointer(model).load(str(tmp_path / "R-18.pkl"))
    torch.testing.assert_close(model.backbone.res2[0].conv1.norm.bias, trained.backbone.res2[0].conv1.norm.bias)
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(weights | {"res2_0_conv1_bn_rm": np.zeros(64, np.float32)}))
    with pytest.raises(ValueError, match="running_var"):
        Checkpointer(model).load(str(tmp_path / "R-18.pkl"))


@pytest.mark.parametrize("statistic", ["bias", "running_mean"])
@pytest.mark.parametrize("kind", [whole, backbone_only])
@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_one_renamed_key_of_the_backbone_is_refused(tiny_cfg, tmp_path, kind, statistic, norm):
    tiny_cfg.MODEL.RESNETS.NORM = norm  # frozen batch norm fills gaps silently
    model = build_model(tiny_cfg)
    before = {key: value.clone() for key, value in whole(model).items()}
    weights = {key: value + 1 for key, value in kind(model).items()}
    key = next(key for key in weights if key.endswith(f"res2.0.conv1.norm.{statistic}"))
    weights[f"{key}_old"] = weights.pop(key)
    path = write_pkl(tmp_path / "a.pkl", weights, matching_heuristics=True)
    with pytest.raises(ValueError, match=re.escape(f"{path} does not fit the backbone: 1 of its ")) as error:
        Checkpointer(model).load(path)
    lines = str(error.value).splitlines()
    assert lines[1] == f"  backbone.res2.0.conv1.norm.{statistic} (64,)"
    assert f"  {key}_old (64,)" in lines[3:]
    assert "convert_torchvision_to_d2.py" in lines[-1]
    assert_equal_weights(model, before)


def test_another_backbone_is_refused_with_a_list_that_can_be_read(model, tmp_path):
    path = write_pth(tmp_path / "a.pth", {"patch_embed.proj.weight": torch.ones(3, 2)})
    expected = len(list(model.backbone.parameters()))
    with pytest.raises(ValueError, match=f"{expected} of its .* keys are not in the file") as error:
        Checkpointer(model).load(path)
    assert f"\nand {expected - loader.MAX_LISTED} more\n" in str(error.value)
    assert "Keys of the file that the model has no use for: 1\n  patch_embed.proj.weight (3, 2)\n" in str(error.value)


def test_what_the_model_computes_may_be_missing(model, trained, tmp_path, said):
    weights = {k: v for k, v in whole(trained).items() if not k.endswith(("num_batches_tracked", "empty_weight"))}
    Checkpointer(model).load(write_pth(tmp_path / "a.pth", weights))
    assert len(said()) == 1 and f": {len(weights)} of {len(model.state_dict())} keys loaded" in said()[0]


def test_swin_feature_norms_are_new_only_for_imagenet_weights():
    imagenet, whole_model = {"layers.0.x": 0}, {"backbone.layers.0.x": 0, "sem_seg_head.x": 0}
    for key, expected in (
        ("backbone.norm0.weight", (True, False)),
        ("backbone.layers.0.blocks.0.attn.relative_position_index", (True, True)),
        ("backbone.layers.0.blocks.0.norm1.weight", (False, False)),
    ):
        assert tuple(loader._may_be_missing(key, weights) for weights in (imagenet, whole_model)) == expected


def test_a_head_in_part_is_loaded_with_a_warning(model, trained, tmp_path, said):
    weights = whole(trained)
    weights["sem_seg_head.predictor.unknown.weight"] = weights.pop("sem_seg_head.predictor.query_embed.weight")
    Checkpointer(model).load(write_pth(tmp_path / "a.pth", weights))
    total = len(model.state_dict())
    line, missing, unexpected = said()
    assert f"{total - 1} of {total} keys loaded" in line and "not used: sem_seg_head.predictor.unknown.weight" in line
    assert "sem_seg_head.predictor.query_embed.weight" in missing and "predictor.unknown" in unexpected
    assert missing.count("\n") == unexpected.count("\n") == 1  # nothing else


def other_classes(tiny_cfg, number=8):
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = number
    return build_model(tiny_cfg)


@pytest.mark.parametrize("heuristics", [False, True])
def test_other_classes_keep_only_a_fresh_class_head(tiny_cfg, trained, tmp_path, said, heuristics):
    model = other_classes(tiny_cfg)
    before = {key: value.clone() for key, value in whole(model).items()}
    path = write_pkl(tmp_path / "a.pkl", whole(trained), matching_heuristics=heuristics)
    Checkpointer(model).load(path)
    fresh = {key: before[key] for key in loader.CLASS_HEAD}
    assert_equal_weights(model, whole(trained) | fresh)
    total = len(before)
    assert [line.split("; ")[0] for line in said()] == [
        f"{path} is for 3 classes, the model for 8: re-initialised, and nothing else: {', '.join(loader.CLASS_HEAD)}",
        f"{path}: {total - 3} of {total} keys loaded",
    ]


def test_other_classes_are_refused_in_evaluation_and_resumption(tiny_cfg, trained, tmp_path):
    tiny_cfg.OUTPUT_DIR = str(tmp_path)
    optimizer = torch.optim.SGD(trained.parameters(), 0.1)
    build_checkpointer(tiny_cfg, trained, new_classes=True, optimizer=optimizer).save("model_0")
    model = other_classes(tiny_cfg)
    message = r"model_0\.pth is for 3 classes, the model for 8.*NUM_CLASSES 3"
    with pytest.raises(ValueError, match=message):
        build_checkpointer(tiny_cfg, model, new_classes=False).load(str(tmp_path / "model_0.pth"))
    checkpointer = build_checkpointer(tiny_cfg, model, new_classes=True, optimizer=optimizer)
    with pytest.raises(ValueError, match=message):
        checkpointer.resume_or_load("", resume=True)
    checkpointer.resume_or_load(str(tmp_path / "model_0.pth"), resume=False)  # fine-tuning


@pytest.mark.parametrize("old_name", [False, True])
def test_other_shapes_are_refused(tiny_cfg, trained, tmp_path, old_name):
    tiny_cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 12
    model = other_classes(tiny_cfg)
    weights = whole(trained)
    shapes = r"{}: \(10, 32\) in the file, \(12, 32\) in the model"
    if old_name:
        weights["sem_seg_head.predictor.static_query.weight"] = weights.pop("sem_seg_head.predictor.query_feat.weight")
        del weights["sem_seg_head.predictor.query_embed.weight"]
        shapes = r"{}: copying .*\[10, 32\]\) from checkpoint, .*\[12, 32\]"
    with pytest.raises(ValueError, match=shapes.format("predictor.query_feat.weight")) as error:
        Checkpointer(model).load(write_pth(tmp_path / "a.pth", weights))
    assert "class_embed" not in str(error.value) and str(tmp_path) in str(error.value)
    assert "NUM_OBJECT_QUERIES" in str(error.value) and "delete these keys" in str(error.value)


def test_other_shapes_of_imagenet_weights_are_refused(model, trained, tmp_path):
    weights = backbone_only(trained) | {"res2.0.conv1.norm.bias": torch.ones(7)}
    with pytest.raises(ValueError, match=rf"{BIAS}: \(7,\) in the file, \(64,\) in the model") as error:
        Checkpointer(model).load(write_pkl(tmp_path / "R-18.pkl", weights, matching_heuristics=True))
    assert str(error.value).count("in the file") == 1


def test_class_head_of_another_width_is_refused(model, trained, tmp_path):
    weights = whole(trained) | {"sem_seg_head.predictor.class_embed.weight": torch.ones(4, 16)}
    with pytest.raises(ValueError, match=r"class_embed\.weight: \(4, 16\) in the file, \(4, 32\) in the model"):
        Checkpointer(model).load(write_pth(tmp_path / "a.pth", weights))


def test_detectron2_reads_what_this_writes_and_the_other_way_round(tiny_cfg, model, trained, tmp_path, said):
    tiny_cfg.OUTPUT_DIR = str(tmp_path)
    assert type(build_checkpointer(tiny_cfg, trained, new_classes=True)) is Checkpointer
    build_checkpointer(tiny_cfg, trained, new_classes=True).save("model_1", iteration=1)
    assert DetectionCheckpointer(model).load(str(tmp_path / "model_1.pth"))["iteration"] == 1
    assert_equal_weights(model, whole(trained))
    assert said() == []

    DetectionCheckpointer(trained, str(tmp_path)).save("model_2")
    other = build_model(tiny_cfg)
    build_checkpointer(tiny_cfg, other, new_classes=False).resume_or_load("", resume=True)
    assert_equal_weights(other, whole(trained))


def test_other_architectures_load_as_detectron2_does(tiny_cfg):
    tiny_cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    checkpointer = build_checkpointer(tiny_cfg, torch.nn.Linear(1, 1), new_classes=True)
    assert type(checkpointer) is SafeCheckpointer


def test_code_in_a_file_is_not_run(model, trained, tmp_path):
    path = write_pth(tmp_path / "a.pth", whole(trained), args=argparse.Namespace(lr=1))
    with pytest.raises(ValueError, match=r"a\.pth is damaged, or holds more than tensors"):
        Checkpointer(model).load(path)


def test_a_file_that_is_not_there(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"file '{tmp_path}/no\.pth' does not exist \(looked in"):
        Checkpointer(model).load(f"{tmp_path}/no.pth")


def test_no_file_loads_nothing(model, said):
    assert Checkpointer(model).load("") == {}
    assert said() == []
