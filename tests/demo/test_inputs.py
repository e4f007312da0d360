import cv2
import numpy as np
import pytest
from PIL import Image

from mask2former_ext.demo.inputs import Frames, find_images


@pytest.fixture
def folder(tmp_path):
    picture = Image.new("RGB", (4, 3))
    for name in ("b.png", "a.JPG", "c.jpeg", ".hidden.png", "deep/d.png", "deep/er/e.webp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_files_folders_and_patterns_each_image_once(folder):
    assert names(find_images([str(folder)])) == ["a.JPG", "b.png", "c.jpeg"]
    assert names(find_images([str(folder / "**" / "*.*")])) == ["a.JPG", "b.png", "c.jpeg", "d.png", "e.webp"]
    assert names(find_images([str(folder / "c.jpeg"), str(folder)])) == ["c.jpeg", "a.JPG", "b.png"]
    assert names(find_images([str(folder / "notes.txt")])) == ["notes.txt"]  # whoever names a file means it


def test_what_pillow_does_not_decode_is_no_image_of_a_folder(folder):
    for name in ("clip.mpg", "data.h5"):
        (folder / name).write_text("no image")
    assert names(find_images([str(folder)])) == ["a.JPG", "b.png", "c.jpeg"]


def test_a_tilde_is_the_home_or_a_part_of_the_name(folder, monkeypatch):
    Image.new("RGB", (4, 3)).save(folder / "~b.png")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "deep"))
    assert names(find_images(["~b.png", "~"])) == ["~b.png", "d.png"]


def test_a_name_with_brackets_is_a_file(folder):
    Image.new("RGB", (4, 3)).save(folder / "x[1].png")
    assert names(find_images([str(folder / "x[1].png")])) == ["x[1].png"]


@pytest.mark.parametrize(
    ("pattern", "said"), [("no.png", "no such"), ("*.gif", "no such"), ("empty", "no image in it")]
)
def test_what_stands_for_nothing_is_named(folder, pattern, said):
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=said) as error:
        find_images([str(folder), str(folder / pattern)])
    assert pattern in str(error.value)


def write_video(path, count, rate=12.5, size=(48, 64)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (size[1], size[0]))
    for number in range(count):
        writer.write(np.full((*size, 3), (10 * number, 0, 200), dtype=np.uint8))  # BGR
    writer.release()


def test_frames_of_a_video_are_rgb_in_order(tmp_path):
    write_video(tmp_path / "clip.avi", 7)
    with Frames(tmp_path / "clip.avi") as frames:
        assert (frames.name, frames.rate, frames.size, frames.count) == ("clip", 12.5, (48, 64), 7)
        pictures = list(frames)
    assert len(pictures) == 7
    for number, picture in enumerate(pictures):
        assert np.abs(picture.mean(axis=(0, 1)) - [200, 0, 10 * number]).max() < 8


@pytest.mark.parametrize(("stated", "rate"), [(0, 25), (float("nan"), 25), (90000, 25), (240, 240)])
def test_a_rate_that_cannot_be_is_the_usual_one(tmp_path, monkeypatch, stated, rate):
    """Files without a rate state the ticks of a clock, at which no video can be written."""
    write_video(tmp_path / "clip.avi", 2)

    class Capture:
        def __init__(self, name):
            capture = real(name)
            self.read, self.release = capture.read, capture.release

        def get(self, key):
            return stated if key == cv2.CAP_PROP_FPS else 2

    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    with Frames(tmp_path / "clip.avi") as frames:
        assert frames.rate == rate


def test_a_video_that_breaks_off_is_warned_of(tmp_path, caplog):
    path = tmp_path / "clip.avi"
    write_video(path, 7)
    content = path.read_bytes()
    with Frames(path) as frames:
        frames.count = 9
        assert len(list(frames)) == 7
    assert "7 frames could be read of the 9 that it states" in caplog.text
    path.write_bytes(content[:100])
    with pytest.raises(ValueError, match=r"clip\.avi' cannot be read"):
        Frames(path)


def test_missing_videos_and_cameras_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"clip\.avi' does not exist"):
        Frames(tmp_path / "clip.avi")
    with pytest.raises(ValueError, match="camera 97 cannot be read"):
        Frames(97)
