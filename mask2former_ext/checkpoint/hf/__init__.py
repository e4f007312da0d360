"""A bridge to transformers' Mask2Former, both ways: configs, weights, files. Needs transformers only when used."""

from .convert import build_hf_peer, from_hf, load_hf_model, to_hf
from .files import convert_to_d2, convert_to_hf
from .parity import Parity, compare

__all__ = [
    "Parity",
    "build_hf_peer",
    "compare",
    "convert_to_d2",
    "convert_to_hf",
    "from_hf",
    "load_hf_model",
    "to_hf",
]
