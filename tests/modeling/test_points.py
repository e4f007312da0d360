"""Point sampling: where pixels lie, and which points are chosen."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mask2former_ext.modeling.points import (
    PointSampling,
    RandomCoords,
    choose_points,
    gather_points,
    sample_points,
)


def test_pixel_centers_give_pixels_and_between_them_their_mean():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    coords = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]])
    torch.testing.assert_close(sample_points(maps, coords), torch.tensor([[[1.0, 2.0, 3.0, 2.5]]]))


def test_beyond_the_border_is_zero():
    maps = torch.ones(1, 1, 2, 2)
    coords = torch.tensor([[[0.0, 0.5], [0.0, 0.0], [2.0, 0.5]]])
    torch.testing.assert_close(sample_points(maps, coords), torch.tensor([[[0.5, 0.25, 0.0]]]))


def test_no_masks_stay_attached_to_the_graph():
    maps = torch.zeros(0, 1, 4, 4, requires_grad=True)
    points = sample_points(maps, torch.rand(0, 5, 2))
    assert points.shape == (0, 1, 5) and points.requires_grad


def test_gathering_gives_the_same_points_and_gradients():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 2, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    coords = torch.rand(3, 50, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.randn(3, 2, 50, generator=generator, dtype=torch.float64)
    results = [function(maps, coords) for function in (sample_points, gather_points)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad((result * weights).sum(), maps)[0] for result in results))


class Recorder(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_gradients_on_gpus_are_those_of_gathering(monkeypatch, deterministic):
    """PyTorch's gradient of grid_sample raises there."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        with Recorder() as recorder:
            sample_points(torch.zeros(2, 1, 6, 6, requires_grad=True), torch.zeros(2, 9, 2))
    finally:
        torch.use_deterministic_algorithms(before)
    assert recorder.names & {"grid_sampler_2d", "gather"} == {"gather" if deterministic else "grid_sampler_2d"}


def choose(logits, *sampling):
    """Points of each mask of one image, by the rule's three numbers."""
    sampling = PointSampling(*sampling)
    coords = RandomCoords.draw(sampling, [len(logits)], logits.device)
    return choose_points(logits, coords.candidates, coords.uniform, sampling.num_uncertain)


def test_uncertain_points_lie_where_logits_are_near_zero():
    logits = torch.full((1, 1, 16, 16), 9.0)
    logits[..., 8:] = 0.1
    coords = choose(logits, 40, 8.0, 1.0)
    assert coords.shape == (1, 40, 2)
    assert (coords[..., 0] > 0.45).all()


@pytest.mark.parametrize(("ratio", "share"), [(0.0, 0.5), (0.75, 0.875)])
def test_importance_ratio_is_the_share_of_uncertain_points(ratio, share):
    logits = torch.full((1, 1, 16, 16), 9.0)
    logits[..., 8:] = -0.1
    coords = choose(logits, 4000, 4.0, ratio)
    assert (coords[..., 0] > 0.5).float().mean() == pytest.approx(share, abs=0.03)


def test_sampling_needs_no_masks():
    assert choose(torch.zeros(0, 1, 8, 8), 12, 3.0, 0.75).shape == (0, 12, 2)


def test_coordinates_are_drawn_image_by_image_then_for_all_masks():
    torch.manual_seed(3)
    coords = RandomCoords.draw(PointSampling(8, 2.0, 0.5), [2, 0, 1], torch.device("cpu"))
    torch.manual_seed(3)
    assert torch.equal(coords.matching, torch.cat([torch.rand(1, 8, 2) for _ in range(3)]))
    assert torch.equal(coords.candidates, torch.rand(3, 16, 2))
    assert torch.equal(coords.uniform, torch.rand(3, 4, 2))
