"""Seeds derived from seeds: for every sample, step and process its own random numbers, the same in every run."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """Return a seed in [0, 2⁶³) that depends on all of ``parts``, 64-bit integers, and on their number and order.

    Neighbouring parts give seeds that have nothing in common, which their sum, say, does not. (Neither would NumPy's
    SeedSequence do: it ignores zeros at the end.)
    """
    digest = hashlib.blake2b(struct.pack(f"{len(parts)}q", *parts), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, the global generators of Python, NumPy and PyTorch (on the CPU) start from ``seed``.

    After that they go on as if nothing had been drawn.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
