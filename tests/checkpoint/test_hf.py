"""Conversion of models to transformers and back: the same bytes, the same predictions, refusals."""

import importlib
import sys

import numpy as np
import pytest
import timm
import torch
import transformers
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image
from transformers import (
    AutoConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    ResNetConfig,
    SwinConfig,
)

from mask2former_ext.checkpoint.hf import build_hf_peer, compare, from_hf, to_hf
from mask2former_ext.checkpoint.hf.keys import rename_to_d2
from mask2former_ext.checkpoint.hf.preprocessing import processor_keys, to_processor

KEEPS_PROJECTIONS = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (5, 21)
BOTTLENECKS = [
    *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.STRIDE_IN_1X1", True, "MODEL.RESNETS.NORM", "FrozenBN"),
]
SWIN = [
    *("MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM", 8, "MODEL.SWIN.DEPTHS", [2, 2, 2, 2]),
    *("MODEL.SWIN.NUM_HEADS", [1, 2, 4, 8], "MODEL.SWIN.WINDOW_SIZE", 4, "INPUT.FORMAT", "RGB"),
]
VARIANTS = {
    "basic blocks, BN, RGB": ["INPUT.FORMAT", "RGB"],
    "bottlenecks, FrozenBN, BGR": [*BOTTLENECKS, "INPUT.FORMAT", "BGR"],
    "partly frozen": ["MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.RESNETS.NORM", "SyncBN"],
    "Swin": SWIN,
    "Swin, BGR": [*SWIN, "INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0]],
    "pre-norm, projections": [*SWIN, "MODEL.MASK_FORMER.PRE_NORM", True, "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ", True],
    "other widths": [*SWIN, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 64, "MODEL.SWIN.QKV_BIAS", False],
    "timm": ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "resnet10t", "INPUT.FORMAT", "RGB"],
}


def randomise(module):
    """Give every number of the state a value of its own, so that none can be mistaken for another."""
    for key, value in module.state_dict().items():
        if not value.is_floating_point() or key.endswith("empty_weight"):
            continue
        noise = torch.randn(value.shape)
        if key.endswith("running_var"):
            value.copy_(0.75 + 0.2 * noise.abs())
        elif value.dim() == 1:
            value.copy_(0.2 * noise + float(key.endswith("weight")))
        else:
            value.copy_(noise / value[0].numel() ** 0.5 if value.dim() > 2 else 0.3 * noise)
    return module.eval()


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert actual[key].dtype == value.dtype and torch.equal(actual[key], value), key


@pytest.mark.parametrize("opts", VARIANTS.values(), ids=VARIANTS)
def test_same_predictions_and_same_bytes_on_the_way_back(tiny_cfg, opts):
    tiny_cfg.merge_from_list(opts)
    model = randomise(build_model(tiny_cfg))
    if len(model.sem_seg_head.predictor.input_proj[0].state_dict()) and not KEEPS_PROJECTIONS:
        with pytest.raises(ValueError, match=r"projects its inputs.* transformers 5\.\d+\.\d+ keeps no .*5\.21"):
            build_hf_peer(tiny_cfg, model)
        return
    peer = build_hf_peer(tiny_cfg, model)
    assert not peer.training
    bgr = tiny_cfg.INPUT.FORMAT == "BGR"
    assert compare(model, peer, bgr=bgr, size=(45, 70), processor=to_processor(tiny_cfg)).relative < 2e-5

    config, weights = to_hf(tiny_cfg, model.state_dict())
    cfg, back = from_hf(Mask2FormerConfig.from_dict(config.to_dict()), weights)
    assert_same(back, model.state_dict())
    tiny_cfg.MODEL.DEVICE = cfg.MODEL.DEVICE
    if tiny_cfg.MODEL.BACKBONE.NAME != "build_resnet_backbone":
        tiny_cfg.MODEL.RESNETS.update(cfg.MODEL.RESNETS)
    for group in ("MODEL", "INPUT", "DATASETS", "TEST"):
        assert cfg[group] == tiny_cfg[group]


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_models_of_transformers_there_and_back(backbone):
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbones = {
        "swin": SwinConfig(embed_dim=8, num_heads=[1, 2, 4, 8], window_size=4, out_features=stages),
        "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[16, 32, 64, 128], out_features=stages),
    }
    sizes = {"feature_size": 32, "hidden_dim": 32, "mask_feature_size": 16, "dim_feedforward": 64, "num_queries": 7}
    config = Mask2FormerConfig(
        backbone_config=backbones[backbone], num_labels=5, encoder_layers=1, decoder_layers=3, num_attention_heads=4,
        train_num_points=9, **sizes,
    )  # fmt: skip
    peer = randomise(Mask2FormerForUniversalSegmentation(config))
    for key, value in peer.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value.fill_(7)
    cfg, weights = from_hf(config, peer.state_dict())
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    unused = model.load_state_dict(weights, strict=False)
    norm = ["backbone.norm.weight", "backbone.norm.bias"]  # no result depends on it
    assert unused.missing_keys == [] and unused.unexpected_keys == (norm if backbone == "swin" else [])
    assert compare(model, peer, size=(45, 70)).relative < 2e-6
    converted, back = to_hf(cfg, weights)
    assert_same(back, dict(peer.state_dict()))
    assert converted.num_labels == 5 and converted.train_num_points == 9 and converted.decoder_layers == 3
    norm = cfg.MODEL.RESNETS.NORM  # what counts batches was not frozen
    assert norm == ("BN" if backbone == "resnet" else "FrozenBN")


def test_comparison_notices_what_is_wrong(tiny_cfg):
    tiny_cfg.merge_from_list(SWIN)
    model = randomise(build_model(tiny_cfg))
    peer = build_hf_peer(tiny_cfg, model)
    assert compare(model, peer, bgr=True, size=(64, 64)).relative > 1e-2
    processor = {**to_processor(tiny_cfg), "image_mean": [0.5, 0.5, 0.5]}
    assert compare(model, peer, processor=processor, size=(64, 64)).relative > 1e-2
    key = "model.pixel_level_module.encoder.swin.encoder.layers.1.blocks.1.attention.q_proj.weight"
    peer.get_parameter(key).data.neg_()
    different = compare(model, peer, size=(64, 64))
    assert different.relative > 1e-3 and f"{different.mask_relative:.2g}" in str(different)
    assert torch.equal(model.backbone.layers[1].blocks[1].attn.qkv.weight[:16], -peer.get_parameter(key))


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_image_processor_normalises_as_the_model_does(tiny_cfg, order):
    tiny_cfg.INPUT.FORMAT = order
    tiny_cfg.INPUT.MIN_SIZE_TEST = 0
    tiny_cfg.MODEL.PIXEL_MEAN, tiny_cfg.MODEL.PIXEL_STD = [103.53, 116.28, 123.675], [1.0, 2.0, 57.375]
    arguments = to_processor(tiny_cfg)
    image = np.random.randint(0, 256, (40, 50, 3), np.uint8)
    actual = Mask2FormerImageProcessor(**arguments)(Image.fromarray(image), return_tensors="pt").pixel_values[0]
    channels = torch.from_numpy(image if order == "RGB" else image[..., ::-1].copy()).permute(2, 0, 1)
    model = build_model(tiny_cfg)
    expected = (channels - model.pixel_mean) / model.pixel_std
    torch.testing.assert_close(actual, expected if order == "RGB" else expected.flip(0), rtol=1e-4, atol=1e-4)
    keys = processor_keys(arguments, bgr=order == "BGR")
    assert keys == {
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [1.0, 2.0, 57.375],
        "INPUT.MIN_SIZE_TEST": 0,
    }


def test_sizes_of_images():
    assert processor_keys({"size": {"shortest_edge": 512, "longest_edge": 2048}, "do_rescale": False}, False) == {
        "MODEL.PIXEL_MEAN": [0.485, 0.456, 0.406],
        "MODEL.PIXEL_STD": [0.229, 0.224, 0.225],
        "INPUT.MIN_SIZE_TEST": 512,
        "INPUT.MAX_SIZE_TEST": 2048,
    }
    old = processor_keys({"size": 800, "max_size": 1333}, True)
    assert old["INPUT.MIN_SIZE_TEST"] == 800 and old["INPUT.MAX_SIZE_TEST"] == 1333
    assert old["MODEL.PIXEL_MEAN"] == [103.53, 116.28, 123.675]
    raw = processor_keys({"size": {"height": 384, "width": 384}, "do_normalize": False}, False)
    assert raw == {"MODEL.PIXEL_MEAN": [0.0] * 3, "MODEL.PIXEL_STD": [255.0] * 3}


def test_names_of_classes(tiny_cfg):
    assert to_hf(tiny_cfg, build_model(tiny_cfg).state_dict())[0].id2label[2] == "LABEL_2"
    metadata = MetadataCatalog.get("dataset_of_bridge_tests")
    metadata.set(thing_classes=["cat"], stuff_classes=["cat", "sky", "sea"])
    try:
        tiny_cfg.DATASETS.TRAIN = ("dataset_of_bridge_tests",)
        weights = build_model(tiny_cfg).state_dict()
        config, _ = to_hf(tiny_cfg, weights)
        assert config.id2label == {0: "cat", 1: "sky", 2: "sea"} and config.label2id["sea"] == 2
        assert to_hf(tiny_cfg, weights, ["a", "b", "c"])[0].id2label == {0: "a", 1: "b", 2: "c"}
        with pytest.raises(ValueError, match="2 class names for a model of 3 classes"):
            to_hf(tiny_cfg, weights, ["a", "b"])
    finally:
        MetadataCatalog.remove("dataset_of_bridge_tests")


def test_renamed_and_missing_keys_are_listed(tiny_cfg):
    weights = dict(build_model(tiny_cfg).state_dict())
    config, converted = to_hf(tiny_cfg, weights)
    moved = weights.pop("backbone.res3.0.conv1.weight")
    with pytest.raises(ValueError, match=r"missing: model\..*stages\.1\.layers\.0\.layer\.0\.convolution\.weight"):
        to_hf(tiny_cfg, weights)
    with pytest.raises(ValueError, match=r"1 keys are not those(.|\n)*backbone\.res3\.0\.kernel"):
        to_hf(tiny_cfg, {**weights, "backbone.res3.0.kernel": moved})
    with pytest.raises(ValueError, match=r"shape \(1,\), not \(64, 64, 3, 3\)"):
        to_hf(tiny_cfg, {**weights, "backbone.res2.0.conv1.weight": torch.ones(1)})
    lost = converted.pop("class_predictor.bias")
    with pytest.raises(ValueError, match=r"missing: sem_seg_head\.predictor\.class_embed\.bias \(4,\)"):
        from_hf(config, converted)
    query = "model.transformer_module.decoder.layers.0.self_attn.q_proj.weight"
    with pytest.raises(ValueError, match=r"no use without .*k_proj\.weight and .*v_proj\.weight"):
        rename_to_d2({query: lost})


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], "META_ARCHITECTURE is 'GeneralizedRCNN'"),
        (["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder"], "PIXEL_DECODER_NAME is 'BasePixelDecoder'"),
        (["MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS", 8], "ENCODER_N_POINTS is 8"),
        (["MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS", 2], "N_HEADS is 2"),
        (["MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 8], "COMMON_STRIDE is 8"),
        (["MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone"], "'build_resnet_deeplab_backbone'; those of D2Swin"),
        (["MODEL.RESNETS.NORM", "GN"], "NORM is 'GN'"),
        ([*BOTTLENECKS, "MODEL.RESNETS.NUM_GROUPS", 2], "NUM_GROUPS is 2"),
        ([*BOTTLENECKS, "MODEL.RESNETS.WIDTH_PER_GROUP", 16], "WIDTH_PER_GROUP is 16"),
        ([*SWIN, "MODEL.SWIN.APE", True], "SWIN.APE is True"),
        ([*SWIN, "MODEL.SWIN.DEPTHS", [2, 2, 2, 2, 2]], "needs four stages"),
        (["INPUT.FORMAT", "YUV-BT.601"], "INPUT.FORMAT is 'YUV"),
    ],
)
def test_what_transformers_cannot_hold_is_refused_by_name(tiny_cfg, opts, message):
    tiny_cfg.merge_from_list(opts)
    with pytest.raises(ValueError, match=message):
        to_hf(tiny_cfg, {})


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("model", {"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ("model", {"encoder_feedforward_dim": 2048}, "encoder_feedforward_dim is 2048"),
        ("model", {"common_stride": 8}, "common_stride is 8"),
        ("swin", {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
        ("swin", {"use_absolute_embeddings": True}, "use_absolute_embeddings is True"),
        ("swin", {"out_features": ["stage4"]}, "out_features is"),
        ("resnet", {"depths": [1, 2, 3, 4]}, "ResNet of bottleneck blocks"),
        ("resnet", {"hidden_sizes": [64, 64, 64, 64]}, "hidden_sizes is"),
        ("dinov2", {}, "type 'dinov2'; those of swin, resnet, timm_backbone"),
    ],
)
def test_what_this_package_cannot_hold_is_refused_by_name(part, values, message):
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    kind = "swin" if part == "model" else part
    backbone = AutoConfig.for_model(kind, **({**stages, **values} if part != "model" else stages))
    config = Mask2FormerConfig(backbone_config=backbone, **(values if part == "model" else {}))
    with pytest.raises(ValueError, match=message):
        from_hf(config, {})


@pytest.mark.parametrize("path", ["facebook/{}", "/data/panoptic/models/{}", "hub/models--facebook--{}/snapshots/5e1f"])
@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_task_comes_from_the_record_else_from_the_name(tiny_cfg, task, path):
    config, weights = to_hf(tiny_cfg, build_model(tiny_cfg).state_dict())
    assert from_hf(config, weights)[0].MODEL.MASK_FORMER.TEST == tiny_cfg.MODEL.MASK_FORMER.TEST
    del config.detectron2
    config._name_or_path = path.format(f"mask2former-swin-small-coco-{task}")
    test = from_hf(config, weights)[0].MODEL.MASK_FORMER.TEST
    results = (test.SEMANTIC_ON, test.INSTANCE_ON, test.PANOPTIC_ON)
    tasks = {(True, False, False): "semantic", (False, True, False): "instance", (True, True, True): "panoptic"}
    assert tasks[results] == task
    assert test.OVERLAP_THRESHOLD == test.OBJECT_MASK_THRESHOLD == 0.8


def test_a_base_decides_on_everything_but_the_architecture(tiny_cfg):
    config, weights = to_hf(tiny_cfg, build_model(tiny_cfg).state_dict())
    base = tiny_cfg.clone()
    base.merge_from_list(["SOLVER.BASE_LR", 7.0, "MODEL.MASK_FORMER.DEC_LAYERS", 9, "INPUT.FORMAT", "BGR"])
    base.freeze()
    cfg, _ = from_hf(config, weights, base=base)
    assert cfg.SOLVER.BASE_LR == 7.0 and cfg.MODEL.MASK_FORMER.DEC_LAYERS == 3 == tiny_cfg.MODEL.MASK_FORMER.DEC_LAYERS
    assert base.MODEL.MASK_FORMER.DEC_LAYERS == 9


def test_transformers_is_imported_only_when_used(tiny_cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    for name in [name for name in sys.modules if name.startswith("mask2former_ext.checkpoint.hf")]:
        monkeypatch.delitem(sys.modules, name)
    bridge = importlib.import_module("mask2former_ext.checkpoint.hf")
    with pytest.raises(ImportError, match="pip install 'transformers"):
        bridge.to_hf(tiny_cfg, {})
    with pytest.raises(ImportError, match="pip install 'transformers"):
        bridge.load_hf_model("anywhere")


def test_no_weights_are_fetched(tiny_cfg, monkeypatch):
    create = timm.create_model

    def create_offline(name, *, pretrained, **arguments):
        assert not pretrained
        return create(name, **arguments)

    monkeypatch.setattr(timm, "create_model", create_offline)
    tiny_cfg.INPUT.FORMAT = "RGB"
    tiny_cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    tiny_cfg.MODEL.TIMM.update(NAME="resnet10t", PRETRAINED=True)
    assert not build_hf_peer(tiny_cfg).training
