"""Evaluators: panoptic quality in memory, and the choice of evaluators by dataset."""

from .build import EVALUATORS, build_evaluator, evaluator_factories
from .panoptic import PanopticEvaluator

__all__ = ["EVALUATORS", "PanopticEvaluator", "build_evaluator", "evaluator_factories"]
