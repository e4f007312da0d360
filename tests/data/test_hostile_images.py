"""Image files as they come: read as what they show, alike in training and evaluation, or refused by name."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from mask2former_ext.data import DATASET_MAPPERS, build_dataset_mapper
from mask2former_ext.data.reading import id_to_rgb, read_image_file

MAPPERS = [*DATASET_MAPPERS, "evaluation"]
BOTH = ["coco_instance_lsj", "evaluation"]  # all mappers of training read images in one place
SIZE = (6, 8)


@pytest.fixture
def build(mapper_cfg):
    """The mapper of a name, or that of evaluation; what it does to a 6×8 image is at most padding."""

    def make(name, *options):
        options = ("INPUT.MIN_SIZE_TEST", 6, *options)
        if name == "evaluation":
            return build_dataset_mapper(mapper_cfg("mask_former_semantic", *options), is_train=False)
        return build_dataset_mapper(mapper_cfg(name, *options))

    return make


@pytest.fixture
def annotate(tmp_path):
    """Annotations of all kinds for an image: its left half is of class 1."""

    def make(path, size=SIZE):
        ids = np.zeros(size, dtype=np.int64)
        ids[:, : max(1, size[1] // 2)] = 21
        Image.fromarray(id_to_rgb(ids)).save(tmp_path / "panoptic.png")
        Image.fromarray(np.where(ids, 1, 255).astype(np.uint8)).save(tmp_path / "labels.png")
        right = max(1, size[1] // 2)
        return {
            "file_name": str(path),
            "image_id": 7,
            "annotations": [{"category_id": 1, "segmentation": [[0, 0, right, 0, right, size[0], 0, size[0]]]}],
            "sem_seg_file_name": str(tmp_path / "labels.png"),
            "pan_seg_file_name": str(tmp_path / "panoptic.png"),
            "segments_info": [{"id": 21, "category_id": 1}],
        }

    return make


def gray_ramp():
    return np.arange(48, dtype=np.uint8).reshape(SIZE) * 5


def colours():
    return np.stack([gray_ramp(), 255 - gray_ramp(), gray_ramp() // 2], axis=2)


def in_colour(gray):
    return np.stack([gray] * 3, axis=2)


def of_palette(colour_image):
    unique, indices = np.unique(colour_image.reshape(-1, 3), axis=0, return_inverse=True)
    image = Image.fromarray(indices.reshape(SIZE).astype(np.uint8), "P")
    image.putpalette(unique.astype(np.uint8).tobytes())
    return image


def with_alpha(array):
    alpha = np.full((*SIZE, 1), 60, dtype=np.uint8)
    return Image.fromarray(np.concatenate([array.reshape(*SIZE, -1), alpha], axis=2))


# File → (what is saved, the colours that must be read).
FILES = {
    "gray.png": lambda: (Image.fromarray(gray_ramp()), in_colour(gray_ramp())),
    "16 bits.png": lambda: (Image.fromarray(gray_ramp().astype(np.uint16) * 256 + 77), in_colour(gray_ramp())),
    "16 bits.tif": lambda: (Image.fromarray(gray_ramp().astype(np.uint16) * 256 + 77), in_colour(gray_ramp())),
    "palette.png": lambda: (of_palette(colours()), colours()),
    "gray and alpha.png": lambda: (with_alpha(gray_ramp()), in_colour(gray_ramp())),
    "alpha.png": lambda: (with_alpha(colours()), colours()),
    "one bit.png": lambda: (Image.fromarray(gray_ramp() > 100), in_colour((gray_ramp() > 100) * np.uint8(255))),
    "CMYK.tif": lambda: (Image.fromarray(colours()).convert("CMYK"), colours()),
    "日本 ü.png": lambda: (Image.fromarray(colours()), colours()),
}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("file", FILES)
def test_channels_of_all_kinds(file, name, build, annotate, tmp_path):
    (tmp_path / "ordner mit ümlaut").mkdir()
    path = tmp_path / "ordner mit ümlaut" / file
    image, expected = FILES[file]()
    image.save(path)
    output = build(name)(annotate(path))
    np.testing.assert_array_equal(output["image"][:, :6, :8].permute(1, 2, 0).numpy(), expected)
    assert (output["height"], output["width"]) == SIZE


def test_16_bits_in_three_channels(build, annotate, tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), colours()[:, :, ::-1].astype(np.uint16) * 256 + 77)
    image = build("evaluation")(annotate(tmp_path / "deep.png"))["image"]
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), colours())


@pytest.mark.parametrize("name", BOTH)
def test_cmyk_jpeg(name, build, annotate, tmp_path):
    red = Image.new("RGB", SIZE[::-1], (220, 30, 10))
    red.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    image = build(name)(annotate(tmp_path / "a.jpg"))["image"][:, :6, :8].float().mean((1, 2))
    torch.testing.assert_close(image, torch.tensor([220.0, 30, 10]), atol=6, rtol=0)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bits_are_refused(dtype, name, build, annotate, tmp_path):
    Image.fromarray(gray_ramp().astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif: cannot be read.*image_id 7.*32 bits per pixel"):
        build(name)(annotate(tmp_path / "a.tif"))


TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: np.rot90(x, 1),
}


def save_turned(path, array, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(array).save(path, exif=exif)


@pytest.mark.parametrize(("name", "deep"), [(name, False) for name in MAPPERS] + [("evaluation", True)])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_turns_the_image_and_annotations_are_of_what_one_sees(
    orientation, deep, name, build, annotate, tmp_path
):
    pixels = gray_ramp().astype(np.uint16) * 256 if deep else colours()
    save_turned(tmp_path / "a.png", pixels, orientation)
    expected = TURNED[orientation](in_colour(gray_ramp()) if deep else colours())
    height, width = size = expected.shape[:2]
    output = build(name, "INPUT.MIN_SIZE_TRAIN", (6,))(annotate(tmp_path / "a.png", size))
    np.testing.assert_array_equal(output["image"][:, :height, :width].permute(1, 2, 0).numpy(), expected)
    assert (output["height"], output["width"]) == size
    if name != "evaluation":
        mask = output["instances"].gt_masks.tensor[0]
        assert mask[:height, : width // 2].all() and mask.sum() == height * (width // 2)


@pytest.mark.parametrize("name", MAPPERS)
def test_annotations_of_the_unturned_image_are_refused_with_the_reason(name, build, annotate, tmp_path):
    save_turned(tmp_path / "a.png", colours(), 6)
    record = annotate(tmp_path / "a.png") | {"height": 6, "width": 8}
    with pytest.raises(ValueError, match=r"a\.png \(image_id 7\): 8×6 .* EXIF orientation 6 .* say 6×8"):
        build(name)(record)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("known", [{"height": 6}, {"width": 8}, {"height": 6.0, "width": 8.0}])
def test_sizes_stated_in_part_or_as_fractions(known, name, build, annotate, tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    output = build(name)(annotate(tmp_path / "a.png") | known)
    assert [(output[key], type(output[key])) for key in ("height", "width")] == [(6, int), (8, int)]


CROPS = ["none", "relative", "relative_range", "absolute", "absolute_range"]
CROPPING = ["mask_former_semantic", "mask_former_instance"]


@pytest.mark.parametrize("size", [(1, 1), (10, 20000), (20000, 3)])
@pytest.mark.parametrize(
    ("name", "crop"),
    [*((name, "none") for name in MAPPERS), *((name, crop) for name in CROPPING for crop in CROPS[1:])],
)
def test_extreme_sizes(name, crop, size, build, annotate, tmp_path):
    Image.new("RGB", size[::-1], (9, 8, 7)).save(tmp_path / "a.png")
    crop_size = [4, 4] if crop.startswith("abs") else [0.1, 0.1]
    options = ["INPUT.MAX_SIZE_TRAIN", 64, "INPUT.MIN_SCALE", 0.1, "INPUT.MAX_SIZE_TEST", 64]
    if crop != "none":
        options += ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", crop, "INPUT.CROP.SIZE", crop_size]
    output = build(name, *options)(annotate(tmp_path / "a.png", size))
    height, width = output["image"].shape[1:]
    assert 1 <= height <= 64 and 1 <= width <= 64
    assert output["image"][:, 0, 0].tolist() == [9, 8, 7]
    assert (output["height"], output["width"]) == size
    if "instances" in output:
        assert output["instances"].gt_masks.image_size == (height, width)


@pytest.mark.parametrize("size", [(1, 1), (3, 20000), (20000, 10)])
def test_inference_on_extreme_sizes(size, tiny_cfg, annotate, tmp_path):
    tiny_cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 32, "INPUT.MAX_SIZE_TEST", 64])
    tiny_cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 64  # a group of one channel has no norm in a map of one pixel
    tiny_cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = True
    MetadataCatalog.get(tiny_cfg.DATASETS.TRAIN[0]).set(ignore_label=255)
    Image.new("RGB", size[::-1], (9, 8, 7)).save(tmp_path / "a.png")
    model = build_model(tiny_cfg).eval()
    inputs = build_dataset_mapper(tiny_cfg, is_train=False)(annotate(tmp_path / "a.png", size))
    with torch.no_grad():
        (output,) = model([inputs])
    assert output["sem_seg"].shape == (3, *size) and output["sem_seg"].isfinite().all()
    assert output["panoptic_seg"][0].shape == size
    assert output["instances"].image_size == size


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    noise = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    files = {}
    for name, image in {
        "a.jpg": Image.fromarray(noise),
        "a.png": Image.fromarray(noise),
        "a.tif": Image.fromarray(noise),
        "deep.png": Image.fromarray(noise[..., 0].astype(np.uint16) * 200),
        "a.gif": Image.fromarray(noise).quantize(16),
        "a.webp": Image.fromarray(noise),
        "a.bmp": Image.fromarray(noise),
    }.items():
        image.save(folder / name, **({"exif": exif} if name[-3:] in ("jpg", "png") else {}))
        files[name] = (folder / name).read_bytes()
    return files


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "deep.png", "a.gif", "a.webp", "a.bmp"])
@settings(derandomize=True, max_examples=25, deadline=None, database=None)
@given(data=st.data())
def test_damaged_files_are_refused_by_name_or_read(name, originals, tmp_path_factory, data):
    content = bytearray(originals[name])
    for _ in range(data.draw(st.integers(0, 4))):
        position = data.draw(st.one_of(st.integers(0, 60), st.integers(0, len(content) - 1)))
        content[position] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        image = read_image_file(str(path), "RGB", "image 7")
    except ValueError as error:
        text = str(error)
        assert text.startswith(f"{path}: cannot be read (the image 7): ") and "Restore the file" in text
    else:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def test_pillows_own_value_errors_name_the_file_too(build, annotate, tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[11] -= 1  # the length of the header
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png: cannot be read .*image_id 7.*Truncated IHDR"):
        build("evaluation")(annotate(tmp_path / "a.png"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_a_truncated_jpeg_is_refused(share, build, annotate, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    for name in MAPPERS:
        with pytest.raises(ValueError, match=r"a\.jpg: cannot be read \(the image .*image_id 7") as caught:
            build(name)(annotate(path, (64, 64)))
        assert type(caught.value) is ValueError


@pytest.mark.parametrize("name", MAPPERS)
def test_paths_that_are_no_image(name, build, annotate, tmp_path):
    for path, error in ((tmp_path, ValueError), ("a\0b.png", ValueError), (tmp_path / "gone.png", FileNotFoundError)):
        with pytest.raises(error, match="image_id 7") as caught:
            build(name)(annotate(path))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", MAPPERS)
def test_a_record_without_a_file_name(name, build, annotate):
    record = annotate("x")
    del record["file_name"]
    with pytest.raises(ValueError, match=r"without file_name \(image_id 7\): its dataset dict lacks file_name"):
        build(name)(record)
