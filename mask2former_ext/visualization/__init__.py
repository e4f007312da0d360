"""Pictures of ground truth and results; of what the mapper makes of images, and of what single queries do."""

from .panels import Segment, draw_segments, side_by_side
from .segments import segments_from_instances, segments_from_panoptic

__all__ = [
    "Segment",
    "draw_segments",
    "segments_from_instances",
    "segments_from_panoptic",
    "side_by_side",
]
