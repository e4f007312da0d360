"""The demonstration: train models on the coins photograph, compare them in a table and on a page."""

from .comparison import write_comparison
from .results import ModelReport, format_table
from .runner import Outcome, run_model

__all__ = ["ModelReport", "Outcome", "format_table", "run_model", "write_comparison"]
