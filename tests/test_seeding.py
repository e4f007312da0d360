import hashlib
import random

import numpy as np
import torch

from mask2former_ext.seeding import derive_seed, seeded


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_seeds_differ_with_every_part_and_their_order():
    seeds = [derive_seed(*parts) for parts in [(0,), (0, 0), (0, 1), (1, 0), (0, 1, 0), (2**62, 1)]]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_in_every_run():
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)
    assert derive_seed() == int.from_bytes(hashlib.blake2b(b"", digest_size=8).digest(), "little") >> 1


def test_seeded_numbers_are_those_of_the_seed_and_leave_the_others_alone():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw(), draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = draw()
    with seeded(2**62 + 5):
        first = draw()
    with seeded(2**62 + 5):
        assert draw() == first
    with seeded(2**62 + 6):
        assert all(one != other for one, other in zip(draw(), first))
    assert (before, draw()) == expected
