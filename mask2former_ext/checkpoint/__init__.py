"""Checkpoints: loading, and conversion of published backbone weights."""

from .loader import Checkpointer, build_checkpointer

__all__ = ["Checkpointer", "build_checkpointer"]
