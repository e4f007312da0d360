"""Files of a dataset that are not there, broken, or of another kind or size than they should be."""

import numpy as np
import pytest
from PIL import Image


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_nothing_is_found_in_what_is_whole(task, workers, make):
    report = make(task).audit(workers=workers)
    assert report.findings == []
    assert (report.faults, report.warnings, report.infos) == ([], [], [])


def remove_image(dataset):
    dataset.image(2).unlink()


def truncate_image(dataset):
    path = dataset.image(2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])


def truncate_progressive_image(dataset):
    with Image.open(dataset.image(2)) as image:
        image.load()
    image.save(dataset.image(2), progressive=True)
    truncate_image(dataset)


def replace_image_by_text(dataset):
    dataset.image(2).write_text("<html>404</html>")


def deepen_image(dataset):
    deep = np.full((48, 64), 40_000, dtype=np.uint16)
    Image.fromarray(deep).save(dataset.image(2), format="PNG")


def image_of_real_numbers(dataset):
    Image.fromarray(np.full((48, 64), 0.5, dtype=np.float32)).save(dataset.image(2), format="TIFF")


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (remove_image, "image-missing"),
        (truncate_image, "image-unreadable"),
        (truncate_progressive_image, "image-unreadable"),
        (replace_image_by_text, "image-unreadable"),
        (deepen_image, "image-deep"),
        (image_of_real_numbers, "image-mode"),
    ],
)
def test_image_files(task, plant, kind, make):
    dataset = make(task)
    plant(dataset)
    if task == "semantic" and kind == "image-missing":
        (found,) = dataset.audit().findings
        assert (found.kind, found.file) == (kind, str(dataset.png(2)))
        return
    (found,) = dataset.audit().findings
    assert (found.kind, found.file) == (kind, str(dataset.image(2)))
    assert found.image_id == (None if task == "semantic" else 2)


def resize_image(dataset):
    with Image.open(dataset.image(2)) as image:
        smaller = image.resize((32, 24))
    smaller.save(dataset.image(2))


def turn_image(dataset):
    with Image.open(dataset.image(2)) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(dataset.image(2), exif=exif)


@pytest.mark.parametrize("plant", [resize_image, turn_image])
def test_images_of_another_size(plant, make):
    instances = make("instance")
    plant(instances)
    assert instances.named() == [("image-size-differs", 2, None)]
    panoptic = make("panoptic")
    plant(panoptic)
    assert panoptic.named() == [("image-size-differs", 2, None), ("png-size-differs", 2, None)]
    semantic = make("semantic")
    plant(semantic)
    (found,) = semantic.audit().findings
    assert (found.kind, found.file) == ("png-size-differs", str(semantic.png(2)))


def remove_png(dataset):
    dataset.png(2).unlink()


def truncate_png(dataset):
    path = dataset.png(2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resize_png(dataset):
    dataset.repaint(2, dataset.pixels(2).repeat(2, axis=0).repeat(2, axis=1))
    for segment in dataset.content["annotations"][1]["segments_info"] if dataset.content else ():
        segment["area"] *= 4
        segment["bbox"] = [2 * side for side in segment["bbox"]]


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
@pytest.mark.parametrize(
    ("plant", "kind"),
    [(remove_png, "png-missing"), (truncate_png, "png-unreadable"), (resize_png, "png-size-differs")],
)
def test_annotation_pngs(task, plant, kind, make):
    dataset = make(task)
    plant(dataset)
    assert dataset.named() == [(kind, None if task == "semantic" else 2, None)]
