"""What ``tools/demo.py`` runs: results of a trained model on images, videos and cameras, to look at and as files."""

from .inputs import Frames, find_images
from .outputs import Window, picture_paths, video_file, video_path
from .results import ResultFiles
from .runner import Demo, run_images, run_video
from .tasks import TASKS, choose_task, configure

__all__ = [
    "TASKS",
    "Demo",
    "Frames",
    "ResultFiles",
    "Window",
    "choose_task",
    "configure",
    "find_images",
    "picture_paths",
    "run_images",
    "run_video",
    "video_file",
    "video_path",
]
