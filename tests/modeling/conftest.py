"""Seeded weights and inputs of the goldens: what the reference implementation returned for the very same numbers."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

GOLDENS = Path(__file__).parent / "goldens"
NOT_FILLED = ("pixel_mean", "pixel_std", "empty_weight", "num_batches_tracked", "relative_position_index")
EMBEDDINGS = ("query_feat", "query_embed", "level_embed")


def _seeded_value(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A parameter's value depends on nothing but its name and shape."""
    noise = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape)
    if key.endswith("running_var"):
        value = 0.75 + 0.1 * np.abs(noise)
    elif key.endswith("running_mean"):
        value = 0.1 * noise
    elif key.endswith("sampling_offsets.bias"):
        value = 1.5 * noise
    elif key.endswith("bias"):
        value = 0.05 * noise
    elif any(name in key for name in EMBEDDINGS):
        value = noise
    elif key.endswith("relative_position_bias_table"):
        value = 0.2 * noise
    elif len(shape) == 1:
        value = 1.0 + 0.1 * noise
    else:
        value = noise / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


@pytest.fixture
def golden():
    """Load a golden by its name, as a dict of arrays."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDENS / f"{name}.npz") as file:
            return dict(file)

    return load


@pytest.fixture
def fill_seeded():
    """Overwrite a model's floating-point state with seeded values."""

    def fill(model: nn.Module) -> nn.Module:
        state = model.state_dict()
        for key, tensor in state.items():
            if tensor.is_floating_point() and not key.endswith(NOT_FILLED):
                state[key] = _seeded_value(key, tuple(tensor.shape))
        model.load_state_dict(state)
        return model

    return fill


@pytest.fixture
def seeded_image():
    """A uint8 3×H×W image of waves and noise."""

    def make(seed: int, height: int, width: int) -> torch.Tensor:
        random = np.random.RandomState(seed)
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        waves = [127 + 90 * np.sin(x / (7 + 3 * c) + y / (11 + 2 * c) + random.rand() * 6) for c in range(3)]
        noisy = np.stack(waves) + 20 * random.standard_normal((3, height, width))
        return torch.from_numpy(np.clip(noisy, 0, 255).astype(np.uint8))

    return make


@pytest.fixture
def seeded_blobs():
    """Class logits Q×(K+1) and mask logits Q×H×W of soft ellipses, a share of them confident of a class."""

    def make(seed: int, queries: int, height: int, width: int, classes: int, confident: float = 0.2):
        random = np.random.RandomState(seed)
        y, x = np.mgrid[0:height, 0:width]
        masks = np.empty((queries, height, width), np.float32)
        logits = random.standard_normal((queries, classes + 1)).astype(np.float32)
        for mask, row in zip(masks, logits, strict=True):
            center_y, center_x = random.rand() * height, random.rand() * width
            radius = 1 + random.rand() * min(height, width) / 4
            distance = np.hypot(y - center_y, (x - center_x) * (0.5 + random.rand()))
            mask[:] = (radius - distance) * (0.3 + random.rand())
            if random.rand() < confident:
                row[random.randint(classes)] += 9 + 4 * random.rand()
            else:
                row[classes] += 6
        return torch.from_numpy(logits), torch.from_numpy(masks)

    return make
