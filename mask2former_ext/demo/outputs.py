"""Where the pictures of a demonstration go: image files, a video file, or a window."""

from __future__ import annotations

import logging
import mimetypes
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from PIL import Image

from ..files import whole_file

logger = logging.getLogger(__name__)

# Pictures of photographs with other endings become PNG.
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
JPEG_QUALITY = 95
# By the ending of a video, in the order in which they are tried. What OpenCV's own builds have comes first: they lack
# H.264 (avc1, X264), and would say so at length.
CODECS = {
    ".mp4": ("mp4v", "avc1"),
    ".m4v": ("mp4v", "avc1"),
    ".mov": ("mp4v", "MJPG", "avc1"),
    ".avi": ("XVID", "MJPG"),
    ".mkv": ("mp4v", "MJPG", "X264"),
    ".webm": ("VP80", "VP90"),
}
WINDOW_TITLE = "mask2former_ext (q or Esc ends)"
KEYS_TO_END = (ord("q"), 27)
POLL_MILLISECONDS = 50


def picture_paths(images: Sequence[Path], output: Path) -> list[Path]:
    """Where the picture of each image goes.

    Args:
        images: the photographs.
        output: a file, by its ending, if there is one photograph; else a folder, in which pictures are called like the
            photographs, with a number after names that occur twice.

    Raises:
        ValueError: a file for several pictures, or of another kind, or a picture would take the place of a photograph.
    """
    if output.suffix.lower() in PICTURE_SUFFIXES and not output.is_dir():
        if len(images) > 1:
            raise ValueError(f"output '{output}' is one file, but there are {len(images)} images: name a folder")
        paths = [output]
    elif _is_media(output):
        raise ValueError(f"output '{output}': pictures are written as {', '.join(PICTURE_SUFFIXES)}, or name a folder")
    else:
        suffixes = [path.suffix if path.suffix.lower() in PICTURE_SUFFIXES else ".png" for path in images]
        paths = [output / f"{stem}{suffix}" for stem, suffix in zip(unique_stems(images), suffixes, strict=True)]
    refuse_to_replace(images, paths, f"output '{output}'", "a photograph")
    return paths


def refuse_to_replace(kept: Iterable[Path], paths: Iterable[Path], option: str, what: str) -> None:
    """Raise ValueError when one of ``paths``, to be written by ``option``, is one of the files ``kept``: ``what``."""
    places = {path.resolve() for path in kept}
    for path in paths:
        if path.resolve() in places:
            raise ValueError(f"{option}: {path} would take the place of {what}: name another folder")


def _is_media(path: Path) -> bool:
    """Whether a name that is no folder's yet ends like a picture's or a video's: nobody means a folder by that."""
    return not path.is_dir() and (mimetypes.guess_type(path.name)[0] or "").startswith(("image/", "video/"))


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """The files' names without their endings; ``_2``, ``_3``, … tells equal ones apart, on any file system."""
    numbers: dict[str, int] = {}  # of each name taken, the last number after it
    stems = []
    for path in paths:
        stem, name = path.stem, path.stem.lower()
        while stem.lower() in numbers:
            numbers[name] += 1
            stem = f"{path.stem}_{numbers[name]}"
        numbers[stem.lower()] = 1
        stems.append(stem)
    return stems


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write uint8 H×W×3 RGB, or H×W, in the format that the ending says.

    Raises:
        OSError: it cannot be written there.
    """
    with whole_file(path) as unfinished:
        Image.fromarray(picture).save(unfinished, quality=JPEG_QUALITY)


def video_path(name: str, source: Path | None, output: Path) -> Path:
    """Where a video goes: ``output`` where that ends like a video, else a file of that name in the folder ``output``.

    Args:
        name: of what is shown.
        source: the video file it comes from, if any: its format is kept where it can be, and it is not overwritten.
        output: a file or a folder.

    Raises:
        ValueError: a file of another kind, or the video would take the place of its source.
    """
    if output.suffix.lower() in CODECS and not output.is_dir():
        path = output
    elif _is_media(output):
        raise ValueError(f"output '{output}': videos are written as {', '.join(CODECS)}, or name a folder")
    else:
        suffix = source.suffix if source is not None and source.suffix.lower() in CODECS else ".mp4"
        path = output / f"{name}{suffix}"
    if source is not None and path.resolve() == source.resolve():
        raise ValueError(f"output '{output}': {path} would take the place of the video: name another")
    return path


class VideoFile:
    """A video file that is being written; :func:`video_file` makes it."""

    def __init__(self, writer: cv2.VideoWriter, size: tuple[int, int]) -> None:
        self._writer, self.size = writer, size
        self.count = 0

    def show(self, picture: np.ndarray) -> bool:
        """Append uint8 H×W×3 RGB; always True, as nobody can close a file."""
        assert picture.shape[:2] == self.size, "OpenCV drops frames of another size without a word"
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self.count += 1
        return True


@contextmanager
def video_file(path: Path, rate: float, size: tuple[int, int]) -> Iterator[VideoFile]:
    """A video to append frames to; it is at ``path`` when the block has ended without an error.

    Args:
        path: its ending says the format, see ``CODECS``.
        rate: frames per second.
        size: height and width of the frames, in pixels. OpenCV cuts odd ones down by one.

    Raises:
        ValueError: OpenCV has no codec for that format, or there was no frame.
        OSError: not all frames arrived in the file.
    """
    if size[0] % 2 or size[1] % 2:
        logger.warning("%s: OpenCV writes even sizes only: the last row or column of %d×%d is cut off.", path, *size)
    with whole_file(path) as unfinished:
        writer = _open_writer(unfinished, path, rate, size)
        video = VideoFile(writer, size)
        try:
            yield video
        finally:
            writer.release()
        if not video.count:
            raise ValueError(f"video '{path}' is not written: it ended before its first frame")
        _check_length(unfinished, path, video.count)


def _open_writer(unfinished: Path, path: Path, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    tried = CODECS[path.suffix.lower()]
    for codec in tried:
        code = cv2.VideoWriter.fourcc(*codec)
        writer = cv2.VideoWriter(str(unfinished), cv2.CAP_FFMPEG, code, rate, (size[1], size[0]))
        if writer.isOpened():
            return writer
        writer.release()
    raise ValueError(
        f"video '{path}' cannot be written: OpenCV has none of the codecs {', '.join(tried)}, or the folder is not "
        f"writable. Other endings: {', '.join(CODECS)}"
    )


def _check_length(unfinished: Path, path: Path, count: int) -> None:
    """OpenCV says nothing of frames that it could not write; on a full disk, for example."""
    capture = cv2.VideoCapture(str(unfinished))
    written = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    # some formats state their length in time, from which the count may come out one less
    if written < max(count - 1, 1):
        raise OSError(f"video '{path}': {written} of {count} frames were written; is the disk full?")


class Window:
    """A window on the screen, for pictures one after the other."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            ValueError: there is no screen, or OpenCV came without windows.
        """
        way_out = "Give --output to write files instead."
        # without a display, OpenCV's Qt ends the whole process
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ValueError(f"no window can be opened: there is no display (DISPLAY is not set). {way_out}")
        try:
            cv2.namedWindow(WINDOW_TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise ValueError(
                f"no window can be opened: this OpenCV is built without ({error.err}). {way_out} Or install "
                "opencv-python in the place of opencv-python-headless."
            ) from error

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cv2.destroyAllWindows()

    def show(self, picture: np.ndarray, *, wait: bool = False) -> bool:
        """Show uint8 H×W×3 RGB.

        Args:
            picture: replaces the one before.
            wait: until a key is pressed; else it goes on at once.

        Returns:
            False when the user wants to end: by q, Esc, or by closing the window.
        """
        cv2.imshow(WINDOW_TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        while True:
            key = cv2.waitKey(POLL_MILLISECONDS if wait else 1)
            if key in KEYS_TO_END or cv2.getWindowProperty(WINDOW_TITLE, cv2.WND_PROP_VISIBLE) < 1:
                return False
            if not wait or key != -1:
                return True
