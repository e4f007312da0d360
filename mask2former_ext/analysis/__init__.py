"""What a model costs: parameters, multiply-adds and activations of each of its modules."""

from .loading import input_size, load_model
from .model_statistics import TASKS, analyze_model, format_statistics, report_of

__all__ = ["TASKS", "analyze_model", "format_statistics", "input_size", "load_model", "report_of"]
