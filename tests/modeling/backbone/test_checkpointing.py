"""Activation checkpointing: same results, gradients and statistics, for less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from torch import nn

from mask2former_ext.modeling.backbone.blocks import block_of
from mask2former_ext.modeling.backbone.checkpointing import checkpoint_blocks, checkpoint_encoder

RESNET = ["MODEL.RESNETS.DEPTH", 18]
SWIN = [
    *("MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.DEPTHS", [1, 2, 1, 1], "MODEL.SWIN.EMBED_DIM", 24),
    *("MODEL.SWIN.NUM_HEADS", [1, 2, 2, 2], "MODEL.SWIN.WINDOW_SIZE", 4),
]


def timm(name):
    return ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", name]


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what autograd keeps for the backward pass, beside the inputs of what is computed again."""

    def __init__(self):
        self.count = 0
        super().__init__(self._pack, lambda tensor: tensor)

    def __enter__(self):
        super().__enter__()
        return self

    def _pack(self, tensor):
        self.count += tensor.nbytes
        return tensor


def step(backbone, images):
    """Gradients, buffers and bytes saved after a step; stochastic depth is seeded."""
    torch.manual_seed(1)
    with SavedBytes() as saved:
        features = backbone(images)
    sum((feature * torch.linspace(-1, 1, feature.shape[-1])).sum() for feature in features.values()).backward()
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    return gradients, dict(backbone.named_buffers()), saved.count


@pytest.mark.parametrize(
    ("overrides", "blocks"),
    [(RESNET, 8), (SWIN, 5), (timm("resnet18"), 8), (timm("convnext_atto"), 12), (timm("test_vit"), 6)],
)
def test_backbones(tiny_cfg, overrides, blocks):
    tiny_cfg.merge_from_list(overrides)
    plain = build_backbone(tiny_cfg).train()
    recomputing = copy.deepcopy(plain)
    assert checkpoint_blocks(recomputing) == blocks
    assert recomputing.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 3, 64, 64)
    gradients, buffers, memory = step(plain, images)
    own_gradients, own_buffers, own_memory = step(recomputing, images)
    torch.testing.assert_close(own_gradients, gradients)
    torch.testing.assert_close(own_buffers, buffers)
    assert own_memory < 0.6 * memory


def test_pixel_decoder_encoder(tiny_cfg):
    tiny_cfg.merge_from_list(["MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 2, "MODEL.MASK_FORMER.DROPOUT", 0.1])
    plain = build_model(tiny_cfg).sem_seg_head.pixel_decoder.train()
    recomputing = copy.deepcopy(plain)
    assert checkpoint_encoder(recomputing) == 2
    channels = {"res2": 64, "res3": 128, "res4": 256, "res5": 512}
    features = {name: torch.randn(1, width, 1024 // width, 1024 // width) for name, width in channels.items()}
    results = []
    for decoder in (plain, recomputing):
        torch.manual_seed(1)
        with SavedBytes() as saved:
            mask_features, _, scales = decoder.forward_features(features)
        (mask_features.square().sum() + sum(scale.sum() for scale in scales)).backward()
        results.append(({name: p.grad for name, p in decoder.named_parameters()}, saved.count))
    torch.testing.assert_close(results[1][0], results[0][0])
    assert results[1][1] < 0.8 * results[0][1]


def test_copies_call_with_their_own_weights():
    model = nn.Sequential()
    model.add_module("blocks", nn.ModuleList([nn.Linear(1, 1)]))
    assert checkpoint_blocks(model) == 1
    copied = copy.deepcopy(model)
    nn.init.zeros_(copied.blocks[0].weight)
    nn.init.constant_(copied.blocks[0].bias, 7.0)
    assert copied.blocks[0](torch.ones(1)).item() == 7.0
    with torch.no_grad():
        assert copied.blocks[0](torch.ones(1)).item() == 7.0


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("layers.0.blocks.12.norm1.weight", "layers.0.blocks.12"),
        ("backbone.res4.5", "backbone.res4.5"),
        ("body.stages_1.blocks.0.mlp.fc1.bias", "body.stages_1.blocks.0"),
        ("body.blocks.3.0.conv_pw.weight", "body.blocks.3.0"),
        ("layers.0.downsample.norm.weight", None),
        ("body.stages_1.downsample.0.weight", None),
        ("norm3.weight", None),
    ],
)
def test_names_of_blocks(name, block):
    assert block_of(name) == block
