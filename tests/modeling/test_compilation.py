"""MODEL.COMPILE: the same results and gradients, few compilations, the same state, and a loud way back."""

import copy
import logging
import pickle

import pytest
import torch
import torch._inductor.config
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from mask2former_ext import add_maskformer2_config
from mask2former_ext.modeling import compilation
from mask2former_ext.modeling.pixel_decoder import MSDeformAttnEncoderLayer


@pytest.fixture
def backend(monkeypatch):
    """Set the compiler's backend for code of this test alone; what is returned counts graphs."""

    def use(name):
        counter = CompileCounterWithBackend(name)
        monkeypatch.setattr(compilation, "BACKEND", counter)
        return counter

    torch._dynamo.reset()
    compilation._compile.cache_clear()
    yield use
    compilation._compile.cache_clear()
    torch._dynamo.reset()


@pytest.fixture
def models(tiny_cfg, fill_seeded):
    """Two of the same weights: as it is, and compiled."""
    tiny_cfg.MODEL.MASK_FORMER.DEC_LAYERS = 2
    eager = fill_seeded(build_model(tiny_cfg))
    tiny_cfg.MODEL.COMPILE = True
    compiled = build_model(tiny_cfg)
    compiled.load_state_dict(eager.state_dict())
    return eager, compiled


def network(model, height, width):
    images = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(height)) * 4 - 2
    return model.sem_seg_head(model.backbone(images))


def compiled_methods(model):
    return [value for m in model.modules() for value in vars(m).values() if type(value).__name__ == "CompiledMethod"]


def errors(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def test_it_is_off_by_default(tiny_cfg):
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    assert cfg.MODEL.COMPILE is False
    assert not compiled_methods(build_model(tiny_cfg))


@torch.no_grad()
def test_many_sizes_need_few_graphs_and_copies_none(models, backend):
    counter = backend("eager")
    eager, compiled = (model.eval() for model in models)
    for size in [(160, 224), (96, 128), (224, 96), (128, 128)]:
        torch.testing.assert_close(network(compiled, *size), network(eager, *size), atol=1e-5, rtol=1e-5)
    graphs = counter.frame_count
    assert graphs == 3

    other = copy.deepcopy(compiled)
    for parameter in other.parameters():
        parameter.mul_(1.1)
    eager.load_state_dict(other.state_dict())
    torch.testing.assert_close(network(other, 96, 128), network(eager, 96, 128), atol=1e-5, rtol=1e-5)
    assert counter.frame_count == graphs


def test_training_gives_the_same_losses_and_gradients(models, backend):
    counter = backend("eager")
    batch = [training_sample(64, 96), training_sample(50, 77)]
    results = []
    for model in models:
        torch.manual_seed(3)
        losses = model.train()(batch)
        sum(losses.values()).backward()
        results.append((losses, {name: p.grad for name, p in model.named_parameters()}, dict(model.named_buffers())))
    assert counter.frame_count == 3
    expected, compiled = results
    for actual, wanted in zip(compiled, expected, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=1e-5)


def training_sample(height, width):
    truth = Instances((height, width))
    truth.gt_classes = torch.tensor([0, 2])
    truth.gt_masks = torch.zeros(2, height, width, dtype=torch.bool)
    truth.gt_masks[0, 10:30, 10:40] = truth.gt_masks[1, 25:45, 5:60] = True
    generator = torch.Generator().manual_seed(height)
    return {"image": torch.randint(0, 256, (3, height, width), generator=generator), "instances": truth}


@pytest.mark.usefixtures("backend")
@torch._inductor.config.patch(compile_threads=1)
def test_the_real_compiler_gives_the_same_results_and_gradients():
    """Of one layer, with the deformable attention: all parts would take minutes."""
    layer = MSDeformAttnEncoderLayer(dim=16, feedforward_dim=32, dropout=0.0, levels=2, heads=2, points=2)
    nn.init.normal_(layer.self_attn.sampling_offsets.weight)
    nn.init.normal_(layer.self_attn.attention_weights.weight)
    compiled = copy.deepcopy(layer)
    compiled.forward = compilation.CompiledMethod(compiled, "forward", "layer")
    x, places = torch.randn(3, 96, 16), torch.rand(3, 96, 2, 2)
    shapes, starts = torch.tensor([[8, 6]] * 2), torch.tensor([0, 48])
    results = []
    for module in (layer, compiled):
        result = module(x, x, places, shapes, starts)
        results.append((result, torch.autograd.grad(result.square().sum(), list(module.parameters()))))
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-4)
    assert not compiled.forward.failed


def test_state_names_and_copies_are_as_without(models):
    eager, compiled = models
    assert list(compiled.state_dict()) == list(eager.state_dict())
    assert [name for name, _ in compiled.named_modules()] == [name for name, _ in eager.named_modules()]
    for twin in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        parts = [twin.backbone, twin.sem_seg_head.pixel_decoder, twin.sem_seg_head.predictor]
        assert [method.module for method in compiled_methods(twin)] == parts


class Scale(nn.Module):
    """Small enough to be compiled at once; stands for any part."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x

    def forward_features(self, x):
        return self.factor * x + 1


def compiled_head():
    backbone, head = Scale(2), nn.Module()
    head.pixel_decoder, head.predictor = Scale(3), Scale(5)
    compilation.compile_parts(backbone, head)
    return lambda x: head.predictor(head.pixel_decoder.forward_features(backbone(x)))


def broken(graph, inputs):
    raise OSError("no compiler\nanywhere" + 400 * " x")


def test_a_part_that_cannot_be_compiled_runs_as_it_is_and_says_so_once(backend, caplog):
    backend(broken)
    head = compiled_head()
    assert [head(torch.ones(())).item() for _ in range(3)] == [35] * 3
    for part, message in zip(("backbone", "pixel decoder", "transformer decoder"), errors(caplog), strict=True):
        assert f"MODEL.COMPILE: the {part} runs uncompiled from now on" in message
        assert "no compiler anywhere" in message and "\n" not in message and len(message) < 450


def test_an_unsupported_platform_is_said_too(monkeypatch, backend, caplog):
    def refuse(*args, **kwargs):
        raise RuntimeError("Python 9 not yet supported")

    monkeypatch.setattr(torch, "compile", refuse)
    assert compiled_head()(torch.ones(())).item() == 35
    assert len(errors(caplog)) == 3 and all("Python 9 not yet supported" in message for message in errors(caplog))


class Selective(nn.Module):
    """Refuses some inputs, and compiles anew for every ``steps``."""

    def __init__(self):
        super().__init__()
        self.steps = ""  # a number would be an argument of the compiled code
        self.forward = compilation.CompiledMethod(self, "forward", "selective part")

    def forward(self, x):
        if x.shape[0] == 7:
            raise ValueError("seven is not welcome")
        return (x.reshape(2, -1) + len(self.steps)).sum()


def test_errors_of_the_model_stay_what_they_are(backend, caplog):
    counter = backend("eager")
    model = Selective()
    with pytest.raises(ValueError, match="seven is not welcome"):
        model(torch.ones(7))
    with pytest.raises(RuntimeError, match="shape '\\[2, -1\\]' is invalid for input of size 5"):
        model(torch.ones(5))
    assert not errors(caplog)
    assert model(torch.ones(6)).item() == 6
    assert counter.frame_count == 1


def test_compiling_anew_without_end_is_an_error_in_the_log(backend, caplog):
    counter = backend("eager")
    limit = getattr(torch._dynamo.config, compilation.LIMIT)
    model = Selective()
    for step in range(limit + 3):
        model.steps = "·" * step
        assert model(torch.ones(6)).item() == 6 * (1 + step)
    assert counter.frame_count == limit
    [message] = errors(caplog)
    assert "selective part runs uncompiled" in message and compilation.LIMIT in message
