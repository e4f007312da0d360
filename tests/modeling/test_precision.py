"""Autocast: what runs in half precision, what in float32, and how near results are; and when a GPU is waited for."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch.utils._python_dispatch import TorchDispatchMode

from mask2former_ext.modeling import criterion as criterion_module
from mask2former_ext.modeling import matcher as matcher_module

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
# Of bfloat16: float16 has eight times finer steps.
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 2e-2 / 8}
# Reading values on the host: each of these would wait for a GPU. (What numpy() and the like need, a copy, is there.)
READS = ("cpu", "item", "tolist", "__bool__", "__float__", "__int__", "__index__")
# Operators that wait to know the size of their result.
SIZED_BY_VALUES = ("aten::nonzero", "aten::bincount", "aten::masked_select")


@pytest.fixture
def model(tiny_cfg, fill_seeded):
    return fill_seeded(build_model(tiny_cfg))


@pytest.fixture
def batch():
    return [training_sample(64, 96), training_sample(50, 77)]


def training_sample(height, width):
    truth = Instances((height, width))
    truth.gt_classes = torch.tensor([0, 2])
    truth.gt_masks = torch.zeros(2, height, width, dtype=torch.bool)
    truth.gt_masks[0, 10:30, 10:40] = truth.gt_masks[1, 25:45, 5:60] = True
    generator = torch.Generator().manual_seed(height)
    return {"image": torch.randint(0, 256, (3, height, width), generator=generator), "instances": truth}


class AttentionCalls(TorchDispatchMode):
    """Dtypes of values, and of all other floating-point arguments, that the attention's kernels get."""

    def __init__(self):
        super().__init__()
        self.values, self.others = {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "mask2former_ext":
            backward = func._opname.endswith("backward")
            start = 1 if backward else 0
            self.values.setdefault("backward" if backward else "forward", []).append(args[start].dtype)
            self.others |= {x.dtype for x in args[start + 1 :] if isinstance(x, torch.Tensor) and x.is_floating_point()}
        return func(*args, **(kwargs or {}))


def training_step(model, batch):
    torch.manual_seed(3)
    model.zero_grad()
    return model.train()(batch)


@HALVES
def test_training_step(model, batch, dtype):
    expected = training_step(model, batch)
    with AttentionCalls() as calls:
        with torch.autocast("cpu", dtype=dtype):
            losses = training_step(model, batch)
        sum(losses.values()).backward()
    assert calls.values == {"forward": [dtype], "backward": [dtype]}  # one encoder layer
    assert calls.others == {torch.float32}
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    # the first prediction; later ones look where an earlier mask is positive, which untrained weights decide by chance
    for name in ("loss_ce_0", "loss_mask_0", "loss_dice_0"):
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=TOLERANCE[dtype])
    for name, parameter in model.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name


@HALVES
@torch.no_grad()
def test_features_are_near_those_of_float32(model, batch, dtype):
    def decode():
        images = model.eval()._preprocess(batch).tensor
        mask_features, _, scales = model.sem_seg_head.pixel_decoder.forward_features(model.backbone(images))
        return [mask_features, *scales]

    expected = decode()
    with torch.autocast("cpu", dtype=dtype):
        actual = decode()
    assert actual[0].dtype == dtype
    for a, e in zip(actual, expected, strict=True):
        assert 0 < (a - e).norm() < TOLERANCE[dtype] * e.norm()


@HALVES
def test_costs_and_losses_are_computed_in_float32(model, batch, monkeypatch, dtype):
    called = []

    def spy(module, name, without_autocast):
        original = getattr(module, name)

        def wrapper(*args, **kwargs):
            result = original(*args, **kwargs)
            tensors = [x for x in (*args, *kwargs.values(), result) if isinstance(x, torch.Tensor)]
            assert {x.dtype for x in tensors if x.is_floating_point()} == {torch.float32}, name
            assert not (without_autocast and torch.is_autocast_enabled("cpu")), name
            called.append(name)
            return result

        monkeypatch.setattr(module, name, wrapper)

    for name in ("pairwise_sigmoid_ce_cost", "pairwise_dice_cost"):
        spy(matcher_module, name, without_autocast=True)
    for name in ("sigmoid_ce_loss", "dice_loss", "choose_points", "sample_points"):
        spy(criterion_module, name, without_autocast=False)
    spy(matcher_module, "sample_points", without_autocast=False)
    spy(torch.nn.functional, "cross_entropy", without_autocast=False)
    predicted = []
    model.sem_seg_head.register_forward_hook(lambda module, inputs, outputs: predicted.append(outputs))
    with torch.autocast("cpu", dtype=dtype):
        training_step(model, batch)
    assert len(set(called)) == 7
    # what they are computed from is not
    assert predicted[0]["pred_masks"].dtype == predicted[0]["pred_logits"].dtype == dtype


@HALVES
@torch.no_grad()
def test_results_have_the_types_of_float32(model, batch, dtype):
    expected = model.eval()(batch)
    with torch.autocast("cpu", dtype=dtype):
        results = model(batch)
    for result, wanted in zip(results, expected, strict=True):
        assert types(result) == types(wanted)
        assert result["sem_seg"].dtype == result["instances"].scores.dtype == torch.float32
        assert result["instances"].pred_masks.dtype == torch.bool
        difference = (result["sem_seg"] - wanted["sem_seg"]).abs().mean()
        assert 0 < difference < 0.1 * wanted["sem_seg"].abs().mean()


def types(result):
    fields = {name: getattr(x, "tensor", x).dtype for name, x in result["instances"].get_fields().items()}
    return {**fields, "sem_seg": result["sem_seg"].dtype, "panoptic_seg": result["panoptic_seg"][0].dtype}


@HALVES
def test_converted_weights_are_refused(model, batch, dtype):
    with pytest.raises(ValueError, match=rf"converted to {dtype}.* torch.autocast instead"):
        model.to(dtype).eval()(batch)


@torch.no_grad()
def test_double_precision_predicts(model, batch):
    assert all(result["sem_seg"].isfinite().all() for result in model.double().eval()(batch))


class Waits(TorchDispatchMode):
    """Operators that would wait for a GPU, by name."""

    def __init__(self, names):
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name == "aten::index" and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.names.append("index by bools")
        elif name in SIZED_BY_VALUES or (name == "aten::_local_scalar_dense" and args[0].is_floating_point()):
            self.names.append(name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch):
    """A list that grows with every wait."""
    names = []
    for name in READS:
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *args, n=name, f=original, **kw: names.append(n) or f(self, *args, **kw)
        )
    with Waits(names):
        yield names


def test_a_training_step_waits_for_the_device_once(model, batch, waits):
    model.train()(batch)
    # labels are checked image by image, where the data loader has them: on the CPU
    assert waits == ["index by bools"] * len(batch) + ["cpu"]


@torch.no_grad()
def test_inference_waits_for_the_device_five_times_an_image(model, batch, waits):
    model.eval()(batch[:1])
    # which queries panoptic keeps; which instances are things, and whose; areas of segments
    assert sorted(waits) == ["bincount", "nonzero", "tolist", "tolist", "tolist"]
