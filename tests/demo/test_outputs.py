import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mask2former_ext.demo import outputs
from mask2former_ext.demo.outputs import Window, picture_paths, save_picture, unique_stems, video_file, video_path


def test_pictures_are_called_like_the_photographs():
    images = [Path("in/a.jpg"), Path("in/b.PNG"), Path("in/c.tif"), Path("other/A.png"), Path("more/a.jpg")]
    assert picture_paths(images, Path("out")) == [
        Path("out", name) for name in ("a.jpg", "b.PNG", "c.png", "A_2.png", "a_3.jpg")
    ]
    assert picture_paths(images[:1], Path("out/new.png")) == [Path("out/new.png")]
    assert unique_stems([Path("a_2.png"), Path("a.png"), Path("x/a.png")]) == ["a_2", "a", "a_3"]


def test_pictures_take_no_photographs_place(tmp_path):
    with pytest.raises(ValueError, match="would take the place of a photograph"):
        picture_paths([tmp_path / "a.jpg"], tmp_path)
    with pytest.raises(ValueError, match="would take the place of a photograph"):
        picture_paths([tmp_path / "a.jpg"], tmp_path / "x" / ".." / "a.jpg")
    with pytest.raises(ValueError, match="one file, but there are 2 images"):
        picture_paths([Path("a.jpg"), Path("b.jpg")], tmp_path / "out.png")


def test_endings_that_are_not_written_are_no_folders(tmp_path):
    clip = tmp_path / "clip.avi"
    for name in ("found.wmv", "found.png"):
        with pytest.raises(ValueError, match=rf"{name}': videos are written as \.mp4"):
            video_path("clip", clip, tmp_path / name)
    for name in ("found.gif", "found.mp4"):
        with pytest.raises(ValueError, match=rf"{name}': pictures are written as \.jpg"):
            picture_paths([Path("a.jpg")], tmp_path / name)
    assert video_path("clip", clip, tmp_path / "run1.5") == tmp_path / "run1.5" / "clip.avi"
    (tmp_path / "found.wmv").mkdir()
    assert video_path("clip", clip, tmp_path / "found.wmv") == tmp_path / "found.wmv" / "clip.avi"


def test_a_folder_may_be_called_like_a_file(tmp_path):
    (tmp_path / "out.png").mkdir()
    assert picture_paths([Path("a.jpg")], tmp_path / "out.png") == [tmp_path / "out.png" / "a.jpg"]


def test_saved_pictures_are_what_was_given(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    save_picture(tmp_path / "new" / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), picture)


def test_video_names(tmp_path):
    clip = tmp_path / "clip.avi"
    assert video_path("clip", clip, tmp_path / "out") == tmp_path / "out" / "clip.avi"
    assert video_path("clip", tmp_path / "clip.wmv", tmp_path / "out") == tmp_path / "out" / "clip.mp4"
    assert video_path("camera0", None, tmp_path / "out") == tmp_path / "out" / "camera0.mp4"
    assert video_path("clip", clip, tmp_path / "new.webm") == tmp_path / "new.webm"
    with pytest.raises(ValueError, match="would take the place of the video"):
        video_path("clip", clip, tmp_path)


def read_video(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        there, frame = capture.read()
        if not there:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame[:, :, ::-1])


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v"])
def test_a_video_has_every_frame_at_its_size_and_rate(tmp_path, suffix):
    path = tmp_path / "new" / f"video{suffix}"
    with video_file(path, 12.5, (48, 64)) as video:
        for number in range(9):
            video.show(np.full((48, 64, 3), (200, 20 * number, 30), dtype=np.uint8))
        assert not path.exists()
    frames, rate = read_video(path)
    assert len(frames) == 9 and rate == pytest.approx(12.5)
    for number, frame in enumerate(frames):
        assert frame.shape == (48, 64, 3)
        assert np.abs(frame.mean(axis=(0, 1)) - [200, 20 * number, 30]).max() < 12
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_video_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "video.avi"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="model"), video_file(path, 10, (48, 64)) as video:
        video.show(np.zeros((48, 64, 3), np.uint8))
        raise RuntimeError("of the model")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_frames_that_did_not_arrive_are_an_error(tmp_path):
    with (
        pytest.raises(OSError, match="1 of 5 frames were written"),
        video_file(tmp_path / "v.avi", 10, (48, 64)) as video,
    ):
        video.show(np.zeros((48, 64, 3), np.uint8))
        video.count = 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
def test_a_video_without_a_frame_is_not_written(tmp_path, suffix):
    path = tmp_path / f"video{suffix}"
    path.write_text("old")
    with pytest.raises(ValueError, match="ended before its first frame"), video_file(path, 10, (48, 64)):
        pass
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_one_frame_that_did_not_arrive_is_an_error(tmp_path):
    with (
        pytest.raises(OSError, match="0 of 1 frames were written"),
        video_file(tmp_path / "v.avi", 10, (48, 64)) as video,
    ):
        video.count = 1


def test_the_next_codec_is_tried_and_none_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(outputs.CODECS, ".avi", ("zzzz", "MJPG"))
    with video_file(tmp_path / "v.avi", 10, (48, 64)) as video:
        video.show(np.zeros((48, 64, 3), np.uint8))
    assert len(read_video(tmp_path / "v.avi")[0]) == 1
    monkeypatch.setitem(outputs.CODECS, ".avi", ("zzzz",))
    with pytest.raises(ValueError, match="none of the codecs zzzz"), video_file(tmp_path / "w.avi", 10, (48, 64)):
        pass
    assert not (tmp_path / "w.avi").exists()


def test_odd_sizes_are_warned_of(tmp_path, caplog):
    with video_file(tmp_path / "v.avi", 10, (47, 64)) as video:
        video.show(np.zeros((47, 64, 3), np.uint8))
    assert "of 47×64 is cut off" in caplog.text
    assert read_video(tmp_path / "v.avi")[0][0].shape == (46, 64, 3)


def test_no_display_is_said_before_opencv_ends_the_process(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ValueError, match=r"no display.*--output"):
        Window()


class Screen:
    """In the place of OpenCV's windows."""

    def __init__(self, monkeypatch, keys):
        self.shown, self.keys, self.visible = [], iter(keys), 1.0
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
        monkeypatch.setattr(cv2, "imshow", lambda _, picture: self.shown.append(picture))
        monkeypatch.setattr(cv2, "waitKey", lambda _: next(self.keys))
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: self.visible)
        monkeypatch.setattr(cv2, "destroyAllWindows", lambda: self.shown.append("closed"))


def test_window(monkeypatch):
    screen = Screen(monkeypatch, [-1, -1, 32, -1, ord("q"), 27])
    picture = np.full((2, 2, 3), (1, 2, 3), np.uint8)
    with Window() as window:
        assert window.show(picture, wait=True)  # until the space bar
        assert window.show(picture)  # goes on without a key
        assert not window.show(picture)
        assert not window.show(picture, wait=True)
        screen.visible, screen.keys = 0.0, iter([-1])
        assert not window.show(picture, wait=True)
    assert screen.shown[0][0, 0].tolist() == [3, 2, 1] and screen.shown[5:] == ["closed"]


def test_opencv_without_windows_is_said(monkeypatch):
    def refuse(*_):
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(ValueError, match=r"Give --output .* opencv-python in the place of opencv-python-headless"):
        Window()
