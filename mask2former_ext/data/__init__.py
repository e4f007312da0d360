"""Data: dataset mappers, training batches, and (in `datasets`) the registered datasets."""

from .mapper import DATASET_MAPPERS, EvaluationMapper, MaskFormerDatasetMapper, build_dataset_mapper
from .training_loader import TrainingLoader, build_training_loader

__all__ = [
    "DATASET_MAPPERS",
    "EvaluationMapper",
    "MaskFormerDatasetMapper",
    "TrainingLoader",
    "build_dataset_mapper",
    "build_training_loader",
]
