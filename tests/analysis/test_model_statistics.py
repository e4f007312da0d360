"""Counts by hand for small modules, and the published figures for whole models."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn
from torch.nn import functional as F

from mask2former_ext.analysis import analyze_model, format_statistics, input_size, report_of
from mask2former_ext.analysis.model_statistics import in_short
from mask2former_ext.config import load_config
from mask2former_ext.ops import MSDeformAttn
from mask2former_ext.ops.extension import uses_fused

CONFIGS = Path(__file__).parents[2] / "configs"
ADE20K = "ade20k/semantic-segmentation"
R50 = f"{ADE20K}/maskformer2_R50_bs16_160k.yaml"
SWIN_TINY = f"{ADE20K}/swin/maskformer2_swin_tiny_bs16_160k.yaml"

PUBLISHED_PARAMETERS = {  # in millions, of the models of COCO panoptic
    "maskformer2_R50_bs16_50ep": 44,
    "maskformer2_R101_bs16_50ep": 63,
    "swin/maskformer2_swin_tiny_bs16_50ep": 47,
    "swin/maskformer2_swin_small_bs16_50ep": 69,
    "swin/maskformer2_swin_base_384_bs16_50ep": 107,
    "swin/maskformer2_swin_large_IN21k_384_bs16_100ep": 216,
}
PUBLISHED_MULTIPLY_ADDS = {R50: 71e9, SWIN_TINY: 74e9}


def load(name, device="cpu"):
    return load_config(str(CONFIGS / name), ["MODEL.DEVICE", device, "MODEL.WEIGHTS", ""])


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel_size=3, padding=1)

    def forward(self, batched_inputs):
        assert not self.training
        x = self.conv(batched_inputs[0]["image"][None])
        return [{"scores": x.sigmoid()}]


class Attention(nn.Module):
    """Four channels, two heads; a query a pixel."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, batched_inputs):
        x = (batched_inputs[0]["image"] * self.scale).flatten(1).t().view(1, -1, 2, 2).transpose(1, 2)  # 1×2×48×2
        return [F.scaled_dot_product_attention(x[:, :, :10], x, x)]


class DeformableAttention(nn.Module):
    """One level of 8×6 pixels, 16 channels, two heads, three points."""

    def __init__(self):
        super().__init__()
        self.attention = MSDeformAttn(16, n_levels=1, n_heads=2, n_points=3)

    def forward(self, batched_inputs):
        x = batched_inputs[0]["image"].flatten(1).t()[None]
        reference = torch.full((1, 48, 1, 2), 0.5)
        return [self.attention(x, reference, x, torch.tensor([[8, 6]]), torch.tensor([0]))]


def test_a_convolution():
    model = Convolution().train()
    counts = analyze_model(model, (8, 6))
    assert model.training
    assert counts["parameter"].total == counts["parameter"].modules["conv"] == 4 * 3 * 9 + 4
    assert counts["flop"].total == counts["flop"].modules["conv"] == 4 * 3 * 9 * 48
    assert counts["activation"].total == 4 * 48
    assert counts["flop"].not_counted == {"aten::sigmoid": 1}


def test_attention_counts_its_two_products():
    counts = analyze_model(Attention(), (8, 6), channels=4)
    assert counts["flop"].operators == {"scaled_dot_product_attention": 2 * 2 * 10 * 48 * 2}
    assert counts["activation"].total == 2 * 10 * 2


def test_deformable_attention_counts_five_a_sample_and_channel():
    flops = analyze_model(DeformableAttention(), (8, 6), ["flop"], channels=16)["flop"]
    assert flops.operators["linear"] == 48 * 16 * (16 + 12 + 6 + 16)
    samples = 48 * 2 * 1 * 3 * 8
    expected = 5 * samples if uses_fused("cpu", None) else 4 * samples
    assert flops.total - flops.operators["linear"] == expected


def test_unfused_operator_counts_the_same(monkeypatch):
    if not uses_fused("cpu", None):
        pytest.fail("the compiled operators are needed to compare them")
    fused = analyze_model(DeformableAttention(), (8, 6), ["flop"], channels=16)["flop"]
    monkeypatch.setattr("mask2former_ext.ops.module.uses_fused", lambda *device: False)
    apart = analyze_model(DeformableAttention(), (8, 6), ["flop"], channels=16)["flop"]
    assert apart.total == fused.total
    assert apart.operators.keys() == {"linear", "ms_deform_attn"}


@pytest.mark.parametrize(("tasks", "size"), [(["flops"], (8, 8)), (["flop"], (0, 8))])
def test_what_cannot_be_counted(tasks, size):
    with pytest.raises(ValueError, match="must be among"):
        analyze_model(Convolution(), size, tasks)


def test_table_and_report():
    counts = analyze_model(Convolution(), (8, 6))
    assert format_statistics(counts, depth=1).splitlines()[:6] == [
        "| module | parameters | multiply-adds | activations |",
        "|--------|------------|---------------|-------------|",
        "| (all)  | 112        | 5.18K         | 192         |",
        "| conv   | 112        | 5.18K         | 192         |",
        "",
        "multiply-adds by operator: conv 5.18K",
    ]
    assert "conv   |" not in format_statistics(counts, depth=0)
    assert "how often they ran: aten::sigmoid ×1" in format_statistics(counts)
    assert report_of(counts)["flop"]["modules"] == {"": 5184, "conv": 5184}


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999"), (1000, "1.00K"), (43_988_000, "43.99M"), (71_264_000_000, "71.26G")]
)
def test_in_short(count, text):
    assert in_short(count) == text


@pytest.mark.parametrize(("name", "millions"), PUBLISHED_PARAMETERS.items())
def test_published_parameters(name, millions):
    with torch.device("meta"):
        model = build_model(load(f"coco/panoptic-segmentation/{name}.yaml", "meta"))
    counts = analyze_model(model, (512, 512), ["parameter"])
    assert round(counts["parameter"].total / 1e6) == millions


@pytest.mark.parametrize(("name", "published"), PUBLISHED_MULTIPLY_ADDS.items())
def test_published_multiply_adds(name, published):
    cfg = load(name)
    assert input_size(cfg) == (512, 512)
    flops = analyze_model(build_model(cfg), input_size(cfg), ["flop"])["flop"]
    assert flops.total == pytest.approx(published, rel=0.01)
    # what is not of the network: 100 masks of 150 classes at each pixel, and resizing, where the size changes or not
    network = flops.modules["backbone"] + flops.modules["sem_seg_head"]
    classification, resizing = 100 * 150 * 512**2, 4 * (100 + 150) * 512**2
    assert classification < flops.total - network <= 1.001 * (classification + resizing)
