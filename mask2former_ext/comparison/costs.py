"""What a model costs: parameters, multiply-adds, seconds and memory per image."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.jit import TracerWarning

from ..analysis import analyze_model, load_model
from ..benchmark.memory import peak_growth
from ..benchmark.timing import clock_for, time_in_turn

logger = logging.getLogger(__name__)

TIMED_IMAGES = 3
"""How many images each model is timed with, the first of the dataset."""
REPEATS, MAX_SECONDS = 7, 60.0

Inputs = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Costs:
    """
    Attributes:
        parameters: trainable and frozen ones.
        input_size: (height, width) of the dataset's first image as the network gets it, in pixels.
        multiply_adds: for an image of that size, see :mod:`mask2former_ext.analysis.model_statistics`.
        seconds_per_image: from the decoded and resized image to results.
        peak_bytes: highest memory for one image, its results included and the weights not; None where the system does
            not tell.
    """

    parameters: int
    input_size: tuple[int, int]
    multiply_adds: int
    seconds_per_image: float
    peak_bytes: int | None


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


def count_costs(config_file: str, opts: Sequence[str], size: tuple[int, int]) -> tuple[int, int]:
    """Parameters and multiply-adds of a config's model, as ``tools/analyze_model.py`` counts them.

    The weights are random, from a seed: so Mask R-CNN has all boxes that it may have, whatever is on the image.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _ = load_model(config_file, opts)
    channels = cast(Tensor, model.pixel_mean).shape[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)  # one image is all that is counted
        counts = analyze_model(model, size, ("parameter", "flop"), channels)
    return counts["parameter"].total, counts["flop"].total


def time_models(models: Mapping[str, tuple[nn.Module, Inputs]]) -> dict[str, float]:
    """Seconds per image of models, which run in turn.

    Args:
        models: name → a model in evaluation mode, and images as the network gets them.
    """
    device = device_of(next(iter(models.values()))[0])
    timings = time_in_turn(
        {name: _prepare(model, inputs) for name, (model, inputs) in models.items()},
        clock_for(device),
        repeats=REPEATS,
        seconds=MAX_SECONDS * len(models),
    )
    return {name: timing.median / len(models[name][1]) for name, timing in timings.items()}


def measure_memory(model: nn.Module, inputs: Inputs) -> int | None:
    """The most bytes that one of the images needs beyond the weights."""
    peaks = [peak_growth(_prepare(model, [input_])(), device_of(model)) for input_ in inputs]
    known = [peak for peak in peaks if peak is not None]
    return max(known, default=None)


def _prepare(model: nn.Module, inputs: Inputs) -> Callable[[], Callable[[], object]]:
    @torch.no_grad()
    def run() -> None:
        for input_ in inputs:
            model([input_])

    return lambda: run
