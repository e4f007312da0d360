"""LVIS from its json to its figures: Detectron2's loader and evaluator, and the lvis package.

An image of 120×160 pixels has a large, a medium and a small object, of a frequent, a common and a rare class; another
has none.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import register_lvis_instances
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from mask2former_ext.data import build_dataset_mapper
from mask2former_ext.engine import Trainer
from mask2former_ext.evaluation import build_evaluator, packages

NAME = "lvis_v1_tiny"
SIZE = HEIGHT, WIDTH = 120, 160
BOXES = {"f": (0, 0, 100, 100), "c": (104, 0, 154, 50), "r": (104, 60, 124, 80)}  # x1, y1, x2, y2
AP = {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"}


def category(frequency):
    """The first category (id from 1) of a frequency."""
    return next(entry["id"] for entry in LVIS_CATEGORIES if entry["frequency"] == frequency)


@pytest.fixture(autouse=True)
def _dataset(tmp_path):
    (tmp_path / "val2017").mkdir()
    images, annotations = [], []
    for image_id in (1, 2):
        Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(tmp_path / "val2017" / f"{image_id}.jpg")
        url = f"http://images.cocodataset.org/val2017/{image_id}.jpg"
        image = {"id": image_id, "coco_url": url, "height": HEIGHT, "width": WIDTH}
        images.append(image | {"neg_category_ids": [], "not_exhaustive_category_ids": []})
    for number, (frequency, (x1, y1, x2, y2)) in enumerate(BOXES.items(), start=1):
        annotation = {"id": number, "image_id": 1, "category_id": category(frequency)}
        annotation |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        annotations.append(annotation | {"segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]})
    content = {"info": {}, "images": images, "annotations": annotations, "categories": LVIS_CATEGORIES}
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    register_lvis_instances(NAME, {}, str(tmp_path / "lvis.json"), f"{tmp_path}/")
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def cfg(tiny_cfg, tmp_path):
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1203
    tiny_cfg.MODEL.MASK_FORMER.TEST.update(SEMANTIC_ON=False, PANOPTIC_ON=False)
    tiny_cfg.DATASETS.TRAIN = tiny_cfg.DATASETS.TEST = (NAME,)
    tiny_cfg.INPUT.update(DATASET_MAPPER_NAME="coco_instance_lsj", IMAGE_SIZE=64, MIN_SIZE_TEST=64)
    tiny_cfg.DATALOADER.NUM_WORKERS = 0
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "output")
    return tiny_cfg


class FixedModel(nn.Module):
    """Finds the objects given by frequency in the image that has them, and nothing in the other."""

    def __init__(self, found):
        super().__init__()
        boxes = torch.tensor([BOXES[frequency] for frequency in found], dtype=torch.float32).reshape(-1, 4)
        masks = torch.zeros(len(found), *SIZE, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
        classes = torch.tensor([category(frequency) - 1 for frequency in found], dtype=torch.int64)
        scores = torch.linspace(0.9, 0.5, len(found))
        fields = {"pred_masks": masks, "pred_boxes": Boxes(boxes), "scores": scores, "pred_classes": classes}
        self.instances = Instances(SIZE, **fields)

    def forward(self, batch):
        return [{"instances": self.instances if x["image_id"] == 1 else self.instances[:0]} for x in batch]


def evaluate(cfg, found):
    return inference_on_dataset(FixedModel(found), Trainer.build_test_loader(cfg, NAME), build_evaluator(cfg, NAME))


def test_a_training_sample(cfg):
    record = next(record for record in DatasetCatalog.get(NAME) if record["image_id"] == 1)
    instances = build_dataset_mapper(cfg)(record)["instances"]
    assert set(instances.gt_classes.tolist()) <= {category(frequency) - 1 for frequency in BOXES}
    assert instances.gt_masks.shape[1:] == (64, 64)


def test_a_tiny_model_is_evaluated(cfg):
    results = Trainer.test(cfg, build_model(cfg))
    assert {task: set(figures) for task, figures in results.items()} == {"bbox": AP, "segm": AP}


def test_figures_of_perfect_predictions(cfg):
    results = evaluate(cfg, "fcr")
    perfect = dict.fromkeys(AP, 100.0)
    assert results["bbox"] == pytest.approx(perfect)
    assert results["segm"] == pytest.approx(perfect)


def test_figures_of_a_missed_class(cfg):
    figures = evaluate(cfg, "fc")["segm"]
    assert figures["AP"] == pytest.approx(200 / 3)
    assert {figures[name] for name in ("APr", "APs")} == {0}
    assert figures["APf"] == pytest.approx(100)


def test_no_predictions_still_give_both_tasks(cfg):
    results = evaluate(cfg, "")
    assert results.keys() == {"bbox", "segm"}
    assert all(math.isnan(value) for value in results["segm"].values())


def test_a_missing_package_is_named(cfg, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(packages.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=rf"'{NAME}' needs the package lvis.*pip install lvis"):
        build_evaluator(cfg, NAME)


def test_numpy_of_old():
    old = packages.NumpyOfOld()
    assert old.in1d(np.array([[1, 2], [3, 4]]), [2, 3]).tolist() == [False, True, True, False]
    assert type(old.count_nonzero(np.array([1, 0, 2]))) is int
    assert old.zeros(2, dtype=old.float).dtype == np.float64
