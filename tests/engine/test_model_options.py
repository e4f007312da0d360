"""Options of the config that change how a model computes, not what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mask2former_ext.engine import Trainer
from mask2former_ext.engine.model_options import apply_model_options


@pytest.fixture
def _arithmetic():
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions


def predict(model):
    with torch.no_grad():
        return model.sem_seg_head(model.backbone(torch.linspace(-2, 2, 3 * 64 * 64).view(1, 3, 64, 64)))["pred_masks"]


@pytest.mark.usefixtures("_arithmetic")
def test_options_leave_the_predictions(tiny_cfg):
    torch.manual_seed(0)
    plain = Trainer.build_model(tiny_cfg).eval()
    tiny_cfg.MODEL.ACTIVATION_CHECKPOINTING.update(BACKBONE=True, PIXEL_DECODER=True)
    tiny_cfg.MODEL.update(CHANNELS_LAST=True, TF32=True)
    torch.manual_seed(0)
    model = Trainer.build_model(tiny_cfg).eval()
    torch.testing.assert_close(predict(model), predict(plain), rtol=1e-4, atol=1e-4)
    assert model.state_dict().keys() == plain.state_dict().keys()
    features = model.backbone(torch.rand(1, 3, 64, 64))
    assert features["res2"].is_contiguous(memory_format=torch.channels_last)
    assert torch.get_float32_matmul_precision() == "high"


def test_defaults_leave_the_arithmetic(tiny_cfg):
    before = torch.get_float32_matmul_precision()
    Trainer.build_model(tiny_cfg)
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("part", ["BACKBONE", "PIXEL_DECODER"])
def test_compiled_models_are_not_checkpointed(tiny_cfg, part):
    tiny_cfg.MODEL.COMPILE = True
    apply_model_options(tiny_cfg, nn.Linear(1, 1))
    tiny_cfg.MODEL.ACTIVATION_CHECKPOINTING[part] = True
    with pytest.raises(ValueError, match=r"MODEL\.COMPILE and MODEL\.ACTIVATION_CHECKPOINTING do not go together"):
        apply_model_options(tiny_cfg, nn.Linear(1, 1))


@pytest.mark.parametrize("part", ["BACKBONE", "PIXEL_DECODER"])
def test_models_without_such_a_part_are_refused(tiny_cfg, part):
    tiny_cfg.MODEL.ACTIVATION_CHECKPOINTING[part] = True
    with pytest.raises(ValueError, match=rf"ACTIVATION_CHECKPOINTING\.{part} is set, but"):
        apply_model_options(tiny_cfg, nn.Linear(1, 1))
