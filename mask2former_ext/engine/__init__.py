"""Training: the trainer, checks before it starts, and what is done with results."""

from .checks import batch_size_advice, check_datasets, check_device, for_this_machine
from .ema import evaluate_average, load_average
from .results import summary_line, verify_expected_results
from .trainer import Trainer

__all__ = [
    "Trainer",
    "batch_size_advice",
    "check_datasets",
    "check_device",
    "evaluate_average",
    "for_this_machine",
    "load_average",
    "summary_line",
    "verify_expected_results",
]
