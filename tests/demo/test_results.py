import json

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mask2former_ext.data.reading import rgb_to_id
from mask2former_ext.demo.results import ResultFiles

METADATA = Metadata(
    thing_classes=["cat", "dog", "sky"],
    stuff_classes=["cat", "dog", "sky"],
    thing_dataset_id_to_contiguous_id={17: 0, 18: 1},
    stuff_dataset_id_to_contiguous_id={17: 0, 18: 1, 187: 2},
)


def mask_of(rows, columns, size=(4, 6)):
    mask = np.zeros(size, dtype=bool)
    mask[rows, columns] = True
    return mask


@pytest.fixture
def instances():
    masks = torch.from_numpy(np.stack([mask_of(slice(1, 3), slice(2, 5)), mask_of(0, 0)]))
    return Instances(
        (4, 6),
        pred_masks=masks,
        pred_boxes=Boxes(torch.tensor([[2.0, 1.0, 5.0, 3.0], [0.0, 0.0, 1.0, 1.0]])),
        scores=torch.tensor([0.75, 0.5]),
        pred_classes=torch.tensor([1, 0]),
    )


def test_instances_are_results_that_pycocotools_reads(tmp_path, instances):
    results = ResultFiles("instance", tmp_path / "found.json", METADATA)
    results.add("000000000139", "000000000139.jpg", (4, 6), instances)
    results.add("photo", "photo.jpg", (4, 6), instances[:0])
    results.write()
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(entry["image_id"], entry["category_id"], entry["score"], entry["bbox"]) for entry in found] == [
        (139, 18, 0.75, [2, 1, 3, 2]),
        (139, 17, 0.5, [0, 0, 1, 1]),
    ]
    assert np.array_equal(coco_mask.decode(found[0]["segmentation"]), mask_of(slice(1, 3), slice(2, 5)))
    truth = COCO()
    truth.dataset = {"images": [{"id": 139}], "annotations": [], "categories": [{"id": 17}, {"id": 18}]}
    truth.createIndex()
    assert [a["area"] for a in truth.loadRes(str(tmp_path / "found.json")).dataset["annotations"]] == [6, 1]


def test_names_that_are_the_same_number_have_ids_of_their_own(tmp_path, instances):
    results = ResultFiles("instance", tmp_path / "found.json", METADATA)
    for stem in ("1", "01", "001", "2"):
        results.add(stem, f"{stem}.jpg", (4, 6), instances[:1])
    results.write()
    found = json.loads((tmp_path / "found.json").read_text())
    assert [entry["image_id"] for entry in found] == [1, "01", "001", 2]


def test_where_nothing_can_be_written_is_said_at_the_start(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OSError, match="file"):
        ResultFiles("instance", tmp_path / "file" / "found.json", METADATA)
    with pytest.raises(OSError, match=r"folder\.json' is a folder"):
        ResultFiles("instance", tmp_path / "folder.json", METADATA)
    ResultFiles("instance", tmp_path / "new" / "found.json", METADATA)
    assert not list((tmp_path / "new").iterdir())


def test_panoptic_files(tmp_path):
    ids = np.zeros((4, 6), dtype=np.int32)
    ids[:2], ids[3, 1:4] = 1, 300
    segments = [{"id": 1, "isthing": False, "category_id": 2}, {"id": 300, "isthing": True, "category_id": 0}]
    results = ResultFiles("panoptic", tmp_path / "new", METADATA)
    results.add("photo", "photo.jpg", (4, 6), (ids, segments))
    results.write()
    content = json.loads((tmp_path / "new" / "panoptic.json").read_text())
    assert content == {
        "images": [{"id": "photo", "file_name": "photo.jpg", "height": 4, "width": 6}],
        "categories": [
            {"id": 17, "name": "cat", "isthing": 1},
            {"id": 18, "name": "dog", "isthing": 1},
            {"id": 187, "name": "sky", "isthing": 0},
        ],
        "annotations": [
            {
                "image_id": "photo",
                "file_name": "photo.png",
                "segments_info": [
                    {"id": 1, "category_id": 187, "area": 12, "bbox": [0, 0, 6, 2], "iscrowd": 0},
                    {"id": 300, "category_id": 17, "area": 3, "bbox": [1, 3, 3, 1], "iscrowd": 0},
                ],
            }
        ],
    }
    assert np.array_equal(rgb_to_id(np.asarray(Image.open(tmp_path / "new" / "panoptic" / "photo.png"))), ids)


def test_semantic_files(tmp_path):
    labels = np.array([[0, 2, -1], [1, 1, 0]])
    results = ResultFiles("semantic", tmp_path / "maps.json", METADATA)
    results.add("photo", "photo.jpg", (2, 3), labels)
    results.write()
    content = json.loads((tmp_path / "maps.json").read_text())
    assert content["images"][0]["label_file"] == "photo.png"
    assert content["no_label"] == 255
    assert content["categories"][2] == {"id": 2, "name": "sky"}
    assert np.asarray(Image.open(tmp_path / "maps" / "photo.png")).tolist() == [[0, 2, 255], [1, 1, 0]]


def test_many_classes_take_16_bits(tmp_path):
    metadata = Metadata(thing_classes=[], stuff_classes=[f"class {index}" for index in range(847)])
    results = ResultFiles("semantic", tmp_path, metadata)
    results.add("photo", "photo.jpg", (1, 3), np.array([[846, 255, -1]]))
    results.write()
    assert np.asarray(Image.open(tmp_path / "semantic" / "photo.png")).tolist() == [[846, 255, 65535]]
