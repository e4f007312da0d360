"""COCO's AP does not depend on how a file numbers its annotations and orders its categories."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.data.datasets import register_instance_dataset
from mask2former_ext.evaluation import build_evaluator

SIDE = 32
BOXES = {4: (2, 2, 10, 10), 9: (16, 14, 12, 16)}  # category: x, y, width, height
NAMES = {4: "bar", 9: "square"}


@pytest.fixture
def name():
    yield "numbered"
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "numbered" in catalog.list():
            catalog.remove("numbered")


def write(path, first_id):
    images = [{"id": k, "file_name": f"{k}.png", "height": SIDE, "width": SIDE} for k in (1, 2)]
    annotations = [
        {
            **{"image_id": image["id"], "category_id": category, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0},
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for image in images
        for category, (x, y, w, h) in BOXES.items()
    ]
    annotations = [annotation | {"id": k} for k, annotation in enumerate(annotations, start=first_id)]
    categories = [{"id": number, "name": label} for number, label in NAMES.items()]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def found(categories, order):
    """The rectangles of these categories, predicted without a flaw."""
    masks = torch.zeros(len(categories), SIDE, SIDE, dtype=torch.bool)
    for mask, category in zip(masks, categories, strict=True):
        x, y, w, h = BOXES[category]
        mask[y : y + h, x : x + w] = True
    corners = [[x, y, x + w, y + h] for x, y, w, h in (BOXES[category] for category in categories)]
    return Instances(
        (SIDE, SIDE),
        pred_masks=masks,
        pred_boxes=Boxes(torch.tensor(corners, dtype=torch.float32)),
        pred_classes=torch.tensor([order.index(category) for category in categories]),
        scores=torch.ones(len(categories)),
    )


def average_precision(name, tmp_path, *, order=(4, 9), first_id=1, categories=(4, 9)):
    path = tmp_path / "annotations.json"
    write(path, first_id)
    listed = [{"id": number, "name": NAMES[number]} for number in order]
    register_instance_dataset(name, image_root=str(tmp_path), json_file=str(path), categories=listed)
    cfg = get_cfg_defaults()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = True
    evaluator = build_evaluator(cfg, name, str(tmp_path))
    evaluator.reset()
    for image_id in (1, 2):
        evaluator.process([{"image_id": image_id}], [{"instances": found(categories, list(order))}])
    figures = evaluator.evaluate()["segm"]
    return {key: round(figures[key], 3) for key in ("AP", "AP-bar", "AP-square")}


@pytest.mark.parametrize("first_id", [0, 1])
def test_an_annotation_of_id_zero_can_be_found(name, tmp_path, first_id):
    figures = average_precision(name, tmp_path, first_id=first_id)
    assert figures == {"AP": 100, "AP-bar": 100, "AP-square": 100}


@pytest.mark.parametrize("order", [(4, 9), (9, 4)])
def test_figures_of_classes_have_the_names_of_their_classes(name, tmp_path, order):
    figures = average_precision(name, tmp_path, order=order, categories=(4,))
    assert figures == {"AP": 50, "AP-bar": 100, "AP-square": 0}
