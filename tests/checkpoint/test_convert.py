"""Converted ImageNet weights: they load, and the network computes with them what the original one does."""

import logging
import pickle
import sys

import numpy as np
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from mask2former_ext.checkpoint import Checkpointer, convert, loader
from mask2former_ext.checkpoint.convert import (
    convert_file,
    convert_swin,
    convert_torchvision_resnet,
    read_state_dict,
    save_backbone,
)


class Model(nn.Module):
    """Holds a backbone under the name that it has in every model."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def detectron2_resnet(depth, norm):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT", 0),
            *("MODEL.RESNETS.DEPTH", depth, "MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.RESNETS.NORM", norm),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64 if depth < 50 else 256),
        ]
    )
    return Model(build_backbone(cfg)).eval()


def torchvision_resnet(depth):
    """Random weights, with statistics that differ from channel to channel."""
    network = getattr(torchvision.models, f"resnet{depth}")().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.6)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def torchvision_features(network, image):
    x = network.maxpool(network.relu(network.bn1(network.conv1(image))))
    features = {}
    for stage in range(1, 5):
        x = features[f"res{stage + 1}"] = getattr(network, f"layer{stage}")(x)
    return features


@pytest.mark.parametrize(
    ("depth", "norm", "checkpointer"),
    [(50, "BN", Checkpointer), (50, "FrozenBN", DetectionCheckpointer), (18, "BN", Checkpointer)],
)
def test_resnet_gives_torchvision_features(tmp_path, depth, norm, checkpointer):
    theirs = torchvision_resnet(depth)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    convert_file(tmp_path / "theirs.pth", tmp_path / "ours.pkl", convert_torchvision_resnet)
    ours = detectron2_resnet(depth, norm)
    checkpointer(ours).load(str(tmp_path / "ours.pkl"))
    image = torch.randn(2, 3, 65, 96)
    with torch.no_grad():
        actual, expected = ours.backbone(image), torchvision_features(theirs, image)
    assert list(actual) == ["res2", "res3", "res4", "res5"]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def swin_cfg(tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.NAME = "D2SwinTransformer"
    tiny_cfg.MODEL.SWIN.update(EMBED_DIM=8, DEPTHS=[2, 2, 2, 2], NUM_HEADS=[1, 2, 4, 8], WINDOW_SIZE=4)
    return tiny_cfg


@pytest.mark.parametrize("converted", [True, False])
def test_swin_classification_weights_fill_the_backbone(swin_cfg, tmp_path, caplog, monkeypatch, converted):
    """Also where the file was only wrapped: its "norm.weight" must not end up in the head, whose width it has."""
    monkeypatch.setattr(logging.getLogger("mask2former_ext"), "propagate", True)
    caplog.set_level(logging.INFO, logger=loader.__name__)
    source, model = build_model(swin_cfg), build_model(swin_cfg)
    for parameter in source.parameters():
        nn.init.normal_(parameter, std=0.02)
    feature_norms = {f"norm{i}.{name}" for i in range(4) for name in ("weight", "bias")}
    weights = {key: value for key, value in source.backbone.state_dict().items() if key not in feature_norms}
    extra = {"norm.weight": torch.ones(32), "head.bias": torch.ones(9), "layers.0.blocks.1.attn_mask": torch.ones(4)}
    torch.save({"model": weights | extra}, tmp_path / "swin.pth")
    head = {key: value.clone() for key, value in model.sem_seg_head.state_dict().items()}
    if converted:
        convert_file(tmp_path / "swin.pth", tmp_path / "swin.pkl", convert_swin)
    else:
        content = {"model": weights | extra, "__author__": "third_party", "matching_heuristics": True}
        (tmp_path / "swin.pkl").write_bytes(pickle.dumps(content))
    Checkpointer(model).load(str(tmp_path / "swin.pkl"))
    loaded = model.backbone.state_dict()
    torch.testing.assert_close({key: loaded[key] for key in weights}, weights, rtol=0, atol=0)
    torch.testing.assert_close(dict(model.sem_seg_head.state_dict()), head, rtol=0, atol=0)
    assert f"backbone {len(weights)} of {len(loaded)}; the rest 0 of" in caplog.text
    assert ("not used: head.bias" in caplog.text) is not converted


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_swin_of_timm_gives_its_features(swin_cfg, tmp_path, suffix):
    """timm merges patches at the start of a stage, its authors at the end of the one before."""
    theirs = SwinTransformer(
        img_size=256, patch_size=4, embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4
    ).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    save = torch.save if suffix == ".pth" else save_file
    save(theirs.state_dict(), tmp_path / f"theirs{suffix}")
    convert_file(tmp_path / f"theirs{suffix}", tmp_path / "ours.pkl", convert_swin)
    ours = build_model(swin_cfg).eval()
    Checkpointer(ours).load(str(tmp_path / "ours.pkl"))
    image = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        features = theirs.forward_intermediates(image, intermediates_only=True)
        actual = ours.backbone(image)
    expected = [nn.functional.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1) for x in features]
    torch.testing.assert_close(list(actual.values()), expected, rtol=1e-4, atol=1e-4)


def test_safetensors_files_that_cannot_be_read_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged, or no checkpoint at all"):
        read_state_dict(path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ValueError, match=r"a\.safetensors needs the package safetensors: pip install safetensors"):
        read_state_dict(path)


@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: {"model": x}, lambda x: {"state_dict": x, "epoch": 90}])
def test_weights_are_found_in_their_file(tmp_path, wrapped):
    torch.save(wrapped({"module.conv1.weight": torch.ones(2)}), tmp_path / "a.pth")
    weights = read_state_dict(tmp_path / "a.pth")
    assert list(weights) == ["conv1.weight"] and weights["conv1.weight"].tolist() == [1, 1]


@pytest.mark.parametrize("content", [{"model": {"a": 1}}, [torch.ones(1)], {"model": nn.Linear(1, 1)}])
def test_files_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth (holds no state_dict|is damaged, or holds more than)"):
        read_state_dict(tmp_path / "a.pth")


def test_text_is_refused(tmp_path):
    (tmp_path / "a.pth").write_text("not found")
    with pytest.raises(ValueError, match=r"a\.pth is damaged"):
        read_state_dict(tmp_path / "a.pth")


def test_resnet_names():
    keys = ["conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer4.2.bn3.running_var", "fc.bias"]
    keys += ["layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_mean", "bn1.num_batches_tracked"]
    assert list(convert_torchvision_resnet(dict.fromkeys(keys, torch.zeros(1)))) == [
        "stem.conv1.weight",
        "stem.conv1.norm.bias",
        "res2.0.conv1.weight",
        "res5.2.conv3.norm.running_var",
        "res3.0.shortcut.weight",
        "res3.0.shortcut.norm.running_mean",
    ]


def test_swin_keeps_the_backbone():
    kept = {
        "patch_embed.proj.weight": torch.ones(1),
        "patch_embed.norm.weight": torch.ones(1),
        "layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(1),
        "layers.0.blocks.0.attn.relative_position_index": torch.ones(1),
        "layers.0.downsample.norm.bias": torch.ones(1),
    }
    dropped = ["norm.weight", "norm.bias", "head.weight", "head.bias", "layers.0.blocks.1.attn_mask", "head.fc.weight"]
    assert convert_swin(kept | dict.fromkeys(dropped, torch.ones(1))) == kept


@pytest.mark.parametrize("convert", [convert_swin, convert_torchvision_resnet])
def test_weights_of_another_network_are_refused(convert):
    with pytest.raises(ValueError, match=r"not the weights of a .*but: blocks\.0\.attn\.qkv\.weight"):
        convert({"blocks.0.attn.qkv.weight": torch.ones(1)})


def test_unknown_resnet_parameters_are_refused():
    weights = dict.fromkeys(["conv1.weight", "layer1.0.conv1.weight", "layer1.0.se.fc1.weight"], torch.ones(1))
    with pytest.raises(ValueError, match=r"layer1\.0\.se\.fc1\.weight"):
        convert_torchvision_resnet(weights)


def test_parameters_and_bfloat16_become_arrays(tmp_path):
    """Older files of torchvision hold parameters."""
    save_backbone({"a": nn.Parameter(torch.ones(1)), "b": torch.ones(1, dtype=torch.bfloat16)}, tmp_path / "a.pkl")
    weights = pickle.loads((tmp_path / "a.pkl").read_bytes())["model"]
    assert {key: (value.dtype.name, value.item()) for key, value in weights.items()} == {
        "a": ("float32", 1.0),
        "b": ("float32", 1.0),
    }


def test_file_is_detectron2s_and_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "a.pkl"
    save_backbone({"stem.conv1.weight": torch.arange(3.0)}, target)
    content = pickle.loads(target.read_bytes())
    assert content["matching_heuristics"] is True and content["__author__"] == "third_party"
    assert isinstance(content["model"]["stem.conv1.weight"], np.ndarray)

    before = target.read_bytes()
    with pytest.raises(ValueError, match=r"ending \.pkl"):
        save_backbone({}, tmp_path / "a.pth")

    def fail(content, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(convert.pickle, "dump", fail)
    with pytest.raises(OSError, match="no space"):
        save_backbone({"stem.conv1.weight": torch.arange(3.0)}, target)
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]
