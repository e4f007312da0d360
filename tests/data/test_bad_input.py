"""Bad annotations: each error names the cause, the file or image, and the way out."""

from unittest.mock import Mock

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import SizeMismatchError
from PIL.Image import DecompressionBombError

from mask2former_ext.data import DATASET_MAPPERS, build_dataset_mapper

SQUARE = [[0, 0, 4, 0, 4, 4, 0, 4]]


@pytest.fixture
def complete(record, png):
    """A dataset dict that every mapper accepts."""
    ids = np.zeros((6, 8, 3), dtype=np.uint8)
    ids[:3, :, 0] = 21
    ids[3:5, :, 0] = 22
    return record | {
        "annotations": [{"category_id": 0, "segmentation": SQUARE}],
        "sem_seg_file_name": png("labels.png", np.zeros((6, 8), np.uint8)),
        "pan_seg_file_name": png("panoptic.png", ids),
        "segments_info": [{"id": 21, "category_id": 0}, {"id": 22, "category_id": 3}],
    }


@pytest.fixture
def message(mapper_cfg):
    """Maps a dataset dict that must fail, returns what the error says."""

    def fail(name, dataset_dict, error=ValueError):
        mapper = build_dataset_mapper(mapper_cfg(name))
        with pytest.raises(error) as caught:
            mapper(dataset_dict)
        return str(caught.value)

    return fail


@pytest.mark.parametrize("name", DATASET_MAPPERS)
def test_the_complete_dict_is_accepted(name, mapper_cfg, complete):
    assert len(build_dataset_mapper(mapper_cfg(name))(complete)["instances"]) > 0


@pytest.mark.parametrize("name", DATASET_MAPPERS)
def test_missing_image(name, message, complete):
    complete["file_name"] += ".missing"
    text = message(name, complete, FileNotFoundError)
    assert complete["file_name"] in text and "image_id 7" in text and "datasets/README.md" in text


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\nbroken"])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("coco_instance_lsj", "file_name"),
        ("mask_former_semantic", "sem_seg_file_name"),
        ("mask_former_panoptic", "pan_seg_file_name"),
    ],
)
def test_unreadable_files(name, key, content, message, complete):
    with open(complete[key], "wb") as file:
        file.write(content)
    text = message(name, complete)
    assert complete[key] in text and "image_id 7" in text and "cannot be read" in text


def test_truncated_image(message, complete, png):
    noise = np.random.randint(0, 255, (6, 8, 3), dtype=np.uint8)
    path = png("image.png", noise)
    with open(path, "r+b") as file:
        file.truncate(100)
    assert path in message("coco_instance_lsj", complete)


@pytest.mark.parametrize("raised", [SyntaxError("broken PNG file"), DecompressionBombError("too many pixels")])
def test_whatever_pillow_raises(raised, message, complete, monkeypatch):
    monkeypatch.setattr("mask2former_ext.data.reading.read_image", Mock(side_effect=raised))
    text = message("coco_instance_lsj", complete)
    assert complete["file_name"] in text and str(raised) in text


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("mask_former_semantic", "sem_seg_file_name"),
        ("mask_former_panoptic", "pan_seg_file_name"),
        ("coco_panoptic_lsj", "pan_seg_file_name"),
    ],
)
def test_missing_annotation_files(name, key, message, complete):
    complete[key] += ".missing"
    text = message(name, complete, FileNotFoundError)
    assert complete[key] in text and complete["file_name"] in text and "image_id 7" in text


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("mask_former_semantic", "sem_seg_file_name"),
        ("mask_former_panoptic", "pan_seg_file_name"),
        ("coco_panoptic_lsj", "segments_info"),
        ("mask_former_instance", "annotations"),
        ("coco_instance_lsj", "annotations"),
    ],
)
def test_missing_keys(name, key, message, complete):
    del complete[key]
    text = message(name, complete)
    assert f"lacks {key}" in text and "image_id 7" in text and "INPUT.DATASET_MAPPER_NAME" in text


@pytest.mark.parametrize("label", [4, 254])
def test_semantic_label_beyond_the_classes(label, message, complete, png):
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[5, 7] = label
    complete["sem_seg_file_name"] = png("bad_labels.png", labels)
    text = message("mask_former_semantic", complete)
    assert f"label {label} " in text and "bad_labels.png" in text and "image_id 7" in text
    assert "NUM_CLASSES = 4" in text and "contiguous ids 0…3" in text and "ignore_label 255" in text


@pytest.mark.parametrize("label", [-1, 4])
@pytest.mark.parametrize(
    "name", ["mask_former_panoptic", "coco_panoptic_lsj", "mask_former_instance", "coco_instance_lsj"]
)
def test_category_beyond_the_classes(name, label, message, complete):
    complete["segments_info"] = [{"id": 21, "category_id": 0}, {"id": 22, "category_id": label}]
    complete["annotations"] = [{"category_id": label, "segmentation": SQUARE}]
    text = message(name, complete)
    assert f"label {label} " in text and complete["file_name"] in text and "image_id 7" in text
    assert "NUM_CLASSES = 4" in text


def test_label_images_in_colour(message, complete, png):
    complete["sem_seg_file_name"] = png("colours.png", np.zeros((6, 8, 3), np.uint8))
    text = message("mask_former_semantic", complete)
    assert "colours.png" in text and "one channel" in text


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("mask_former_semantic", "sem_seg_file_name", (8, 6)),
        ("mask_former_panoptic", "pan_seg_file_name", (8, 6, 3)),
        ("coco_panoptic_lsj", "pan_seg_file_name", (3, 4, 3)),
    ],
)
def test_annotations_of_another_size(name, key, shape, message, complete, png):
    complete[key] = png("other_size.png", np.zeros(shape, np.uint8))
    text = message(name, complete)
    assert "other_size.png" in text and f"{shape[0]}×{shape[1]}" in text and "6×8" in text and "image_id 7" in text


def test_image_of_another_size_than_the_dict_says(message, complete):
    complete["height"] = 60
    assert complete["file_name"] in message("coco_instance_lsj", complete, SizeMismatchError)


@pytest.mark.parametrize("name", ["mask_former_panoptic", "coco_panoptic_lsj"])
class TestSegmentIds:
    def test_in_the_json_but_not_in_the_png(self, name, message, complete):
        complete["segments_info"] = [*complete["segments_info"], {"id": 99, "category_id": 1}]
        text = message(name, complete)
        assert "99 are in segments_info but not in the PNG" in text and complete["pan_seg_file_name"] in text
        assert "image_id 7" in text and "22" not in text

    def test_in_the_png_but_not_in_the_json(self, name, message, complete):
        complete["segments_info"] = complete["segments_info"][:1]
        text = message(name, complete)
        assert "22 are in the PNG but not in segments_info" in text and complete["pan_seg_file_name"] in text

    def test_twice_in_the_json(self, name, message, complete):
        complete["segments_info"] = [*complete["segments_info"], {"id": 21, "category_id": 1}]
        assert "21 are listed more than once" in message(name, complete)

    def test_many_are_counted(self, name, message, complete):
        complete["segments_info"] = [{"id": k, "category_id": 0} for k in range(100, 130)]
        assert "and 20 more" in message(name, complete)


MASK = coco_mask.encode(np.asfortranarray(np.ones((6, 8), dtype=np.uint8)))


@pytest.mark.parametrize("name", ["mask_former_instance", "coco_instance_lsj"])
@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        (MASK | {"size": [8, 6]}, "the run-length code has size [8, 6] (height, width), but the image [6, 8]"),
        ({"size": [6, 8], "counts": [10, 10]}, "sum to 20, but the image has 6×8 = 48"),
        ({"size": [6, 8], "counts": b"!!!"}, "cannot be decoded"),
        ({"counts": MASK["counts"]}, "lacks size"),
        ({"size": [6, 8]}, "lacks counts"),
        (np.ones((5, 8), dtype=np.uint8), "the bitmap has size [5, 8]"),
        (np.ones((6, 8, 3), dtype=np.uint8), "a ndarray"),
        (np.ones((6, 8)), "a ndarray"),
        ("polygon", "a str"),
        ([[0, 0, 4, 4]], "a polygon of 4 numbers"),
        ([[0, 0, 4, 4, 2, 1, 3]], "a polygon of 7 numbers"),
    ],
)
def test_malformed_segmentations(name, segmentation, said, message, complete):
    complete["annotations"] = [
        {"category_id": 0, "segmentation": SQUARE},
        {"category_id": 0, "segmentation": segmentation},
    ]
    text = message(name, complete)
    assert said in text and complete["file_name"] in text and "image_id 7" in text and "annotation 1" in text


def test_boxes_without_masks(message, complete):
    complete["annotations"] = [{"category_id": 0, "bbox": [0, 0, 2, 2], "bbox_mode": 0}]
    text = message("coco_instance_lsj", complete)
    assert "annotation 0" in text and "no segmentation" in text


def test_crowds_are_not_looked_at(mapper_cfg, complete):
    complete["annotations"] = [{"category_id": 99, "iscrowd": 1}]
    assert len(build_dataset_mapper(mapper_cfg("coco_instance_lsj"))(complete)["instances"]) == 0


@pytest.mark.parametrize("name", ["mask_former_semantic", "mask_former_panoptic"])
@pytest.mark.parametrize("train", [(), ("without_an_ignore_label",)])
def test_the_ignore_label_must_be_known(name, train, mapper_cfg):
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN is .*ignore_label") as caught:
        build_dataset_mapper(mapper_cfg(name, "DATASETS.TRAIN", train))
    assert name in str(caught.value) and str(train) in str(caught.value)
    assert "ignore_label" not in MetadataCatalog.get("without_an_ignore_label").as_dict()


def test_training_sets_must_ignore_the_same_label(mapper_cfg):
    """Else what one of them ignores would be trained as a class, where the model has so many."""
    MetadataCatalog.get("ignores_3").set(ignore_label=3)
    train = (*mapper_cfg("mask_former_semantic").DATASETS.TRAIN, "ignores_3")
    with pytest.raises(ValueError, match=r"different ignore_label: .*'ignores_3': 3"):
        build_dataset_mapper(mapper_cfg("mask_former_semantic", "DATASETS.TRAIN", train))
    build_dataset_mapper(mapper_cfg("mask_former_semantic", "DATASETS.TRAIN", (*train[:1], "without_an_ignore_label")))
    MetadataCatalog.remove("ignores_3")


def test_images_without_an_id_are_named_by_their_file(message, complete):
    del complete["image_id"]
    complete["annotations"] = [{"category_id": 9, "segmentation": SQUARE}]
    assert message("coco_instance_lsj", complete).startswith(f"image {complete['file_name']}: label 9")
