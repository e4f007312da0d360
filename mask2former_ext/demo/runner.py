"""Images and videos through a predictor, to pictures and results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from ..predictor import Predictor, as_rgb
from ..visualization.overlays import ThingNumbers, draw_overlay
from .inputs import Frames
from .outputs import Window, save_picture, unique_stems
from .results import ResultFiles
from .tasks import TASKS

logger = logging.getLogger(__name__)


class Screen(Protocol):
    """What shows the pictures of a video, one after the other."""

    def show(self, picture: np.ndarray) -> bool:
        """Take uint8 H×W×3 RGB; False to end."""


class Demo:
    """One task of a model, shown on images and videos."""

    def __init__(
        self, predictor: Predictor, task: str, *, threshold: float | None = None, results: ResultFiles | None = None
    ) -> None:
        """
        Args:
            predictor: of a config by ``configure(cfg, task, threshold)``.
            task: one of ``TASKS``.
            threshold: confidence in [0, 1] above which something is shown; None stands for the task's own.
            results: takes what is found, if given.
        """
        self.predictor, self.results = predictor, results
        self._task = TASKS[task]
        self._threshold = threshold if threshold is not None else self._task.threshold or 0.0

    def find(self, image: np.ndarray, stem: str, file_name: str) -> Any:
        """What of the results is shown; it goes to ``results`` too, under these names."""
        shown = self._task.select(self.predictor(image), self._threshold)
        if self.results is not None:
            self.results.add(stem, file_name, (image.shape[0], image.shape[1]), shown)
        return shown

    def picture(self, image: np.ndarray, shown: Any, numbers: ThingNumbers) -> np.ndarray:
        """The image, uint8 H×W×3 RGB, with what :meth:`find` gave drawn over it."""
        segments, colours = self._task.draw(shown, self.predictor.metadata, numbers)
        return draw_overlay(image, segments, colours)


def run_images(
    demo: Demo, images: Sequence[Path], *, pictures: Sequence[Path] | None = None, window: Window | None = None
) -> list[str]:
    """Show the task on images, with a progress bar.

    Args:
        demo: the task.
        images: files.
        pictures: where the picture of each is written, if anywhere.
        window: shows each picture until a key is pressed, if given.

    Returns:
        A sentence for each image that could not be read; the others are done.

    Raises:
        OSError: a picture or a result cannot be written.
        ValueError: a result would take the place of an image or of its picture.
    """
    failures = []
    targets = pictures if pictures is not None else [None] * len(images)
    stems = unique_stems(images)
    if demo.results is not None:
        demo.results.check(stems, [*images, *(pictures or ())])
    bar = tqdm(list(zip(images, stems, targets, strict=True)), unit="image")
    for path, stem, target in bar:
        try:
            image = as_rgb(path)
        except (FileNotFoundError, ValueError) as error:
            logger.error("%s", error)
            failures.append(str(error))
            continue
        shown = demo.find(image, stem, path.name)
        if target is None and window is None:
            continue
        picture = demo.picture(image, shown, ThingNumbers())
        if target is not None:
            save_picture(target, picture)
        if window is not None and not window.show(picture, wait=True):
            break
    bar.close()
    if demo.results is not None:
        demo.results.write()
    return failures


def run_video(demo: Demo, frames: Frames, screen: Screen | None = None) -> int:
    """Show the task on every frame of a video, or on a camera's until the user ends it, with a progress bar.

    Args:
        demo: the task.
        frames: the video.
        screen: a video file or a window, if any.

    Returns:
        The number of frames.
    """
    numbers, count = ThingNumbers(), 0
    bar = tqdm(frames, total=frames.count, unit="frame")
    try:
        for image in bar:
            name = f"{frames.name}_{count:06d}"
            shown = demo.find(image, name, name)
            count += 1
            if screen is not None and not screen.show(demo.picture(image, shown, numbers)):
                break
    except KeyboardInterrupt:
        if not frames.is_camera:
            raise
        # with a camera this is how to end, so what was recorded is whole
    bar.close()
    if demo.results is not None:
        demo.results.write()
    return count
