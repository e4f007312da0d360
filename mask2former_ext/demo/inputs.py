"""What a demonstration takes: image files by name, folder or pattern, frames of a video file or of a camera."""

from __future__ import annotations

import glob
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

USUAL_FRAME_RATE = 25.0
# Files without a rate state the ticks of their clock instead, 90,000 a second.
LARGEST_FRAME_RATE = 1000.0
# Pillow tells these by their first bytes, and leaves reading them to others.
NOT_DECODED = ("BUFR", "GRIB", "HDF5", "MPEG")


def image_suffixes() -> frozenset[str]:
    """Endings of the image files that Pillow reads, in lower case, with the dot."""
    Image.init()
    decoded = Image.OPEN.keys() - NOT_DECODED
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in decoded)


def find_images(patterns: Sequence[str]) -> list[Path]:
    """The image files that are meant, each once: in the order of ``patterns``, within one by name.

    Args:
        patterns: files, whatever they are called; folders, of which the images directly in them are taken; or patterns
            such as ``photos/**/*.jpg``, in which ``**`` stands for any folders.

    Raises:
        FileNotFoundError: a pattern stands for nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        found.update(dict.fromkeys(_matches(pattern)))
    return list(found)


def _matches(pattern: str) -> list[Path]:
    path = Path(os.path.expanduser(pattern))  # Path.expanduser raises an error for a file called ~photo.jpg
    if path.is_file():
        return [path]
    suffixes = image_suffixes()
    entries = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    files = sorted(
        entry
        for entry in entries
        if entry.is_file() and entry.suffix.lower() in suffixes and not entry.name.startswith(".")
    )
    if not files:
        kind = "the folder has no image in it" if path.is_dir() else "there is no such image, folder or match"
        hint = " (overrides of the config follow a --)" if pattern.isupper() else ""
        raise FileNotFoundError(f"input '{pattern}': {kind}{hint}")
    return files


class Frames(AbstractContextManager["Frames"]):
    """Frames of a video file or a camera, RGB, in order; to be used in a ``with`` statement.

    Attributes:
        name: what it is called in file names.
        is_camera: a camera has no end.
        size: height and width of each frame, in pixels.
        rate: frames per second; ``USUAL_FRAME_RATE`` where the source states none that can be.
        count: how many frames the file says it has; None for a camera, and where the file does not say.
    """

    def __init__(self, source: Path | int) -> None:
        """Open it.

        Args:
            source: a file, or the number of a camera.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no video that can be read, or no such camera.
        """
        self.is_camera = isinstance(source, int)
        self.name = f"camera{source}" if isinstance(source, int) else source.stem
        if isinstance(source, Path) and not source.is_file():
            raise FileNotFoundError(f"video '{source}' does not exist")
        self._what = f"camera {source}" if self.is_camera else f"video '{source}'"
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        self._first = self._read()
        if self._first is None:
            self._capture.release()
            raise ValueError(f"{self._what} cannot be read: it is not there, in use, or in a format unknown to OpenCV")
        self.size = (self._first.shape[0], self._first.shape[1])
        rate = self._stated(cv2.CAP_PROP_FPS)
        self.rate = rate if rate is not None and rate <= LARGEST_FRAME_RATE else USUAL_FRAME_RATE
        count = self._stated(cv2.CAP_PROP_FRAME_COUNT)
        self.count = None if self.is_camera or count is None else round(count)

    def _stated(self, key: int) -> float | None:
        value = self._capture.get(key)
        return value if math.isfinite(value) and value > 0 else None

    def _read(self) -> np.ndarray | None:
        there, frame = self._capture.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if there else None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Give uint8 H×W×3 frames; a video that ends before its stated count is warned of."""
        number, frame = 0, self._first
        while frame is not None:
            yield frame
            number += 1
            frame = self._read()
        if self.count is not None and number < self.count:
            logger.warning("%s: %d frames could be read of the %d that it states.", self._what, number, self.count)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()
