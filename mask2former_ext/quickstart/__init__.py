"""The demonstration: train models on the coins photograph, compare them in a table, draw what they found."""

from .results import ModelReport, format_table
from .runner import Outcome, run_model

__all__ = ["ModelReport", "Outcome", "format_table", "run_model"]
