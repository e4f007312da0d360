"""Data: the dataset mappers, and (in `datasets`) the registered datasets."""

from .mapper import DATASET_MAPPERS, MaskFormerDatasetMapper, build_dataset_mapper

__all__ = ["DATASET_MAPPERS", "MaskFormerDatasetMapper", "build_dataset_mapper"]
