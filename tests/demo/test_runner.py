"""What is done with every image, with a rule in the place of a model: bright pixels are of class 1."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from PIL import Image

from mask2former_ext.demo import Demo, Frames, ResultFiles, run_images, run_video, video_file

METADATA = Metadata(
    thing_classes=["dark", "bright"],
    stuff_classes=["dark", "bright"],
    stuff_colors=[[0, 0, 0], [255, 0, 0]],
)


class BrightnessPredictor:
    metadata = METADATA

    def __call__(self, image):
        bright = torch.from_numpy(image.mean(axis=2) / 255).float()
        return {"sem_seg": torch.stack([1 - bright, bright])}


def demo(threshold=None, results=None):
    return Demo(BrightnessPredictor(), "semantic", threshold=threshold, results=results)


def half_bright(shift=0):
    image = np.full((48, 64, 3), 40, dtype=np.uint8)
    image[:, 32 + shift :] = 220
    return image


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / "in" / name for name in ("a.png", "broken.png", "b.png")]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(half_bright()).save(path)
    paths[1].write_text("no image")
    return paths


def read(path):
    return np.asarray(Image.open(path))


def test_an_unreadable_image_is_named_and_the_rest_is_done(photos, tmp_path, caplog):
    targets = [tmp_path / "out" / path.name for path in photos]
    results = ResultFiles("semantic", tmp_path / "maps", METADATA)
    failures = run_images(demo(results=results), photos, pictures=targets)
    assert len(failures) == 1 and "broken.png" in failures[0] and failures[0] in caplog.text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    picture = read(targets[2])
    assert picture[40, 60].tolist() == [238, 110, 110]  # half 220, half the class's red
    images = json.loads((tmp_path / "maps" / "semantic.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a.png", "b.png"]
    assert np.array_equal(read(tmp_path / "maps" / "semantic" / "b.png"), half_bright()[:, :, 0] > 128)


def test_results_alone_draw_nothing(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Demo, "picture", None)
    results = ResultFiles("semantic", tmp_path / "maps", METADATA)
    assert run_images(demo(results=results), photos[:1]) == []
    assert (tmp_path / "maps" / "semantic" / "a.png").exists()


@pytest.mark.parametrize("json_name", ["in.json", "out.json"])
def test_results_take_no_image_place(photos, tmp_path, json_name):
    """Their PNGs lie in a folder named as the JSON, which may be the photographs' or the pictures'."""
    before = photos[0].read_bytes()
    results = ResultFiles("semantic", tmp_path / json_name, METADATA)
    with pytest.raises(
        ValueError, match=rf"{json_name}': .*a\.png would take the place of a photograph or its picture"
    ):
        run_images(demo(results=results), photos, pictures=[tmp_path / "out" / path.name for path in photos])
    assert photos[0].read_bytes() == before and not (tmp_path / "out").exists()
    results = ResultFiles("instance", tmp_path / json_name, METADATA)  # which has no PNGs
    results.check(["a"], photos)


@pytest.mark.parametrize(("threshold", "shown"), [(0, (True, True)), (0.85, (False, True)), (1, (False, False))])
def test_thresholds(photos, tmp_path, threshold, shown):
    # dark pixels score 1 - 40/255 = 0.843, bright ones 220/255 = 0.863
    target = tmp_path / "a.png"
    run_images(demo(threshold), photos[:1], pictures=[target])
    picture = read(target)
    changed = [picture[40, 5].tolist() != [40] * 3, picture[40, 60].tolist() != [220] * 3]
    assert changed == list(shown)


class Window:
    def __init__(self, answers):
        self.answers, self.waits, self.pictures = iter(answers), [], []

    def show(self, picture, *, wait=False):
        self.pictures.append(picture)
        self.waits.append(wait)
        return next(self.answers)


def test_a_window_waits_for_each_image_until_the_user_ends(photos):
    window = Window([True, False])
    run_images(demo(), [photos[0], photos[2], photos[0]], window=window)
    assert window.waits == [True, True]


@pytest.fixture
def clip(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (64, 48))
    for number in range(8):
        writer.write(half_bright(2 * number))
    writer.release()
    return tmp_path / "clip.avi"


def test_every_frame_of_a_video_is_drawn_on(clip, tmp_path):
    path = tmp_path / "out.mp4"
    results = ResultFiles("semantic", tmp_path / "maps", METADATA)
    with Frames(clip) as frames, video_file(path, frames.rate, frames.size) as video:
        assert run_video(demo(results=results), frames, video) == 8
    with Frames(path) as drawn:
        assert (drawn.rate, drawn.size, drawn.count) == (12.5, (48, 64), 8)
        pictures = list(drawn)
    assert len(pictures) == 8
    for number, picture in enumerate(pictures):
        red = picture[44, :, 0].astype(int) - picture[44, :, 1] > 60
        assert abs(int(red.sum()) - (32 - 2 * number)) <= 2
    images = json.loads((tmp_path / "maps" / "semantic.json").read_text())["images"]
    assert [image["id"] for image in images] == [f"clip_{number:06d}" for number in range(8)]
    assert len(list((tmp_path / "maps" / "semantic").iterdir())) == 8


def test_things_keep_their_numbers_through_a_video_and_images_begin_anew(clip, photos, tmp_path):
    given = []

    class Numbers(Demo):
        def picture(self, image, shown, numbers):
            given.append(numbers)
            return image

    with Frames(clip) as frames:
        run_video(Numbers(BrightnessPredictor(), "semantic"), frames, Window([True] * 8))
    assert len(given) == 8 and len(set(map(id, given))) == 1
    given.clear()
    run_images(Numbers(BrightnessPredictor(), "semantic"), [photos[0], photos[2]], pictures=[tmp_path / "a.png"] * 2)
    assert len(set(map(id, given))) == 2


def test_a_video_ends_when_the_window_is_closed(clip):
    window = Window([True, True, False])
    with Frames(clip) as frames:
        assert run_video(demo(), frames, window) == 3
    assert window.waits == [False] * 3


@pytest.mark.parametrize("is_camera", [True, False])
def test_interrupting_ends_a_camera_and_breaks_off_a_video(clip, is_camera):
    class Impatient:
        def show(self, picture):
            raise KeyboardInterrupt

    with Frames(clip) as frames:
        frames.is_camera = is_camera
        if is_camera:
            assert run_video(demo(), frames, Impatient()) == 1
        else:
            with pytest.raises(KeyboardInterrupt):
                run_video(demo(), frames, Impatient())
