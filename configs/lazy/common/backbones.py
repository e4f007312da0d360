"""The other backbones: each function puts one, and its ImageNet weights, into a config of ResNet-50."""

from detectron2.config import LazyCall as L

from mask2former_ext.modeling import D2SwinTransformer

from .model import FEATURES, features


def resnet101(model, train):
    model.backbone.stages.depth = 101
    train.init_checkpoint = "R-101.pkl"


def _swin(model, train, weights, **sizes):
    arguments = {
        "in_channels": 3,
        "pretrain_img_size": 224,
        "patch_size": 4,
        "embed_dim": 96,
        "depths": [2, 2, 18, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "qk_scale": None,
        "drop_rate": 0.0,
        "attn_drop_rate": 0.0,
        "drop_path_rate": 0.3,
        "ape": False,
        "patch_norm": True,
        "out_features": FEATURES,
        "use_checkpoint": False,
    } | sizes
    model.backbone = L(D2SwinTransformer)(**arguments)
    model.sem_seg_head.input_shape = features(arguments["embed_dim"])
    train.init_checkpoint = weights


def swin_tiny(model, train):
    _swin(model, train, "swin_tiny_patch4_window7_224.pkl", depths=[2, 2, 6, 2])


def swin_small(model, train):
    _swin(model, train, "swin_small_patch4_window7_224.pkl")


def swin_base(model, train, weights="swin_base_patch4_window12_384.pkl"):
    _swin(model, train, weights, embed_dim=128, num_heads=[4, 8, 16, 32], window_size=12, pretrain_img_size=384)


def swin_base_IN21k(model, train):
    swin_base(model, train, "swin_base_patch4_window12_384_22k.pkl")


def swin_large_IN21k(model, train):
    swin_base(model, train, "swin_large_patch4_window12_384_22k.pkl")
    model.backbone.update(embed_dim=192, num_heads=[6, 12, 24, 48])
    model.sem_seg_head.input_shape = features(192)
