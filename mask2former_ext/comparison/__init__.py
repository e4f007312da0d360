"""Models side by side on one dataset, as a page with tables, charts and pictures."""

from .evaluate import ModelSpec
from .models import Comparison, ModelResult, compare
from .page import write_report

__all__ = ["Comparison", "ModelResult", "ModelSpec", "compare", "write_report"]
