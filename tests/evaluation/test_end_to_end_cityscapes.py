"""Cityscapes from its folders to its figures, on the CPU in one process: Detectron2's evaluators, cityscapesscripts.

An image is 64×128 pixels: sky above, road below, two cars, a person and a group of cars; the last 8 rows are void.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import id2label
from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_cityscapes, register_all_cityscapes_panoptic
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from mask2former_ext.data.datasets.loading import datasets_root
from mask2former_ext.engine import Trainer
from mask2former_ext.evaluation import build_evaluator, evaluator_factories

SIZE = HEIGHT, WIDTH = 64, 128
IMAGES = ("frankfurt_000000_000294", "lindau_000001_000019")
ROAD, SKY, PERSON, CAR, VOID = 7, 23, 24, 26, 1
# what the pixels of instanceIds.png are: a class, or class · 1000 + number; a thing's class alone is a group
REGIONS = (
    (SKY, slice(0, 32), slice(0, WIDTH)),
    (ROAD, slice(32, 56), slice(0, WIDTH)),
    (CAR * 1000, slice(20, 44), slice(8, 40)),
    (CAR * 1000 + 1, slice(24, 50), slice(48, 72)),
    (PERSON * 1000, slice(16, 52), slice(80, 92)),
    (CAR, slice(26, 40), slice(100, 124)),
    (VOID, slice(56, 64), slice(0, WIDTH)),
)
SETS = {
    "instance": "cityscapes_fine_instance_seg_{}",
    "semantic": "cityscapes_fine_sem_seg_{}",
    "panoptic": "cityscapes_fine_panoptic_{}",
}
SEMANTIC = {"IoU", "iIoU", "IoU_sup", "iIoU_sup"}
PANOPTIC = {name + suffix for suffix in ("", "_th", "_st") for name in ("PQ", "SQ", "RQ")}


def instance_ids():
    ids = np.zeros(SIZE, np.int32)
    for value, rows, columns in REGIONS:
        ids[rows, columns] = value
    return ids


def class_ids():
    ids = instance_ids()
    return np.where(ids >= 1000, ids // 1000, ids)


def train_ids():
    return np.vectorize(lambda value: id2label[value].trainId)(class_ids())


def write_image(root, split, name):
    """All files of an image as they are in leftImg8bit_trainvaltest and gtFine_trainvaltest."""
    city = name.split("_")[0]
    image, truth = (root / folder / split / city for folder in ("leftImg8bit", "gtFine"))
    for folder in (image, truth):
        folder.mkdir(parents=True)
    pixels = np.random.randint(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image / f"{name}_leftImg8bit.png")
    Image.fromarray(instance_ids().astype(np.uint16)).save(truth / f"{name}_gtFine_instanceIds.png")
    Image.fromarray(class_ids().astype(np.uint8)).save(truth / f"{name}_gtFine_labelIds.png")
    Image.fromarray(train_ids().astype(np.uint8)).save(truth / f"{name}_gtFine_labelTrainIds.png")
    objects = []
    for value, rows, columns in REGIONS:
        label = id2label[value // 1000 if value >= 1000 else value].name + ("group" if value == CAR else "")
        left, right, top, bottom = columns.start, columns.stop - 1, rows.start, rows.stop - 1
        objects.append({"label": label, "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]]})
    content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
    (truth / f"{name}_gtFine_polygons.json").write_text(json.dumps(content))


def register(root):
    """Have Detectron2 register its Cityscapes under another root."""
    for template in SETS.values():
        for split in ("train", "val", "test"):
            if template.format(split) in DatasetCatalog.list():
                DatasetCatalog.remove(template.format(split))
                MetadataCatalog.remove(template.format(split))
    register_all_cityscapes(root)
    register_all_cityscapes_panoptic(root)


@pytest.fixture(scope="module", autouse=True)
def _cityscapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    for split in ("train", "val"):
        for name in IMAGES:
            write_image(root / "cityscapes", split, name)
    convert2panoptic(str(root / "cityscapes" / "gtFine"), setNames=["train", "val"])
    register(str(root))
    yield
    register(datasets_root())


@pytest.fixture
def cfg(tiny_cfg, tmp_path, monkeypatch):
    """A function that makes the config of a tiny model for a kind of dataset."""
    monkeypatch.chdir(tmp_path)  # cityscapesscripts writes its matches.json wherever it is
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    monkeypatch.delenv("CITYSCAPES_RESULTS", raising=False)

    def make(kind, outputs):
        for output in ("SEMANTIC", "INSTANCE", "PANOPTIC"):
            tiny_cfg.MODEL.MASK_FORMER.TEST[f"{output}_ON"] = output.lower() in outputs
        tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 8 if kind == "instance" else 19
        tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = ((SETS[kind].format(split),) for split in ("train", "val"))
        tiny_cfg.INPUT.MIN_SIZE_TEST = HEIGHT
        tiny_cfg.TEST.DETECTIONS_PER_IMAGE = 10
        tiny_cfg.DATALOADER.NUM_WORKERS = 0
        tiny_cfg.OUTPUT_DIR = str(tmp_path)
        return tiny_cfg

    return make


class Case(NamedTuple):
    """A kind of dataset, what the model returns, and the figures of each result that perfect predictions make 100."""

    kind: str
    outputs: str
    figures: dict[str, set[str]]


CASES = [
    Case("instance", "instance", {"segm": {"AP", "AP50"}}),
    Case("semantic", "semantic", {"sem_seg": SEMANTIC}),
    Case("panoptic", "panoptic", {"panoptic_seg": PANOPTIC}),
    Case(
        "panoptic",
        "panoptic instance semantic",
        {"panoptic_seg": PANOPTIC, "segm": {"AP", "AP50"}, "sem_seg": SEMANTIC},
    ),
]


@pytest.mark.parametrize("case", CASES)
def test_a_tiny_model_is_evaluated(cfg, case):
    config = cfg(case.kind, case.outputs)
    results = Trainer.test(config, build_model(config))
    assert {task: set(figures) for task, figures in results.items()} == case.figures


def perfect_output(name):
    """Everything a model that has learnt the images returns; classes are those of the dataset's metadata."""
    ids, things = instance_ids(), MetadataCatalog.get(name).thing_classes
    numbers = [value for value, _, _ in REGIONS if value >= 1000]
    masks = torch.from_numpy(np.stack([ids == number for number in numbers]))
    instances = Instances(
        SIZE,
        pred_masks=masks,
        pred_boxes=Boxes(torch.zeros(len(numbers), 4)),
        scores=torch.linspace(0.9, 0.5, len(numbers)),
        pred_classes=torch.tensor([things.index(id2label[number // 1000].name) for number in numbers]),
    )
    # void takes the class road: no ground truth says otherwise
    labels = torch.from_numpy(np.where(train_ids() == 255, 0, train_ids()))
    segments = [
        {"id": value, "category_id": id2label[value // 1000 or value].trainId, "isthing": value >= 1000}
        for value, _, _ in REGIONS
        if value not in (CAR, VOID)
    ]
    panoptic = np.where(np.isin(ids, [segment["id"] for segment in segments]), ids, 0)
    return {
        "instances": instances,
        "sem_seg": nn.functional.one_hot(labels, 19).permute(2, 0, 1).float(),
        "panoptic_seg": (torch.from_numpy(panoptic), segments),
    }


class PerfectModel(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.output = perfect_output(name)

    def forward(self, batch):
        return [self.output for _ in batch]


@pytest.mark.parametrize("case", CASES)
def test_figures_of_perfect_predictions(cfg, case):
    config = cfg(case.kind, case.outputs)
    (name,) = config.DATASETS.TEST
    loader = Trainer.build_test_loader(config, name)
    results = inference_on_dataset(PerfectModel(name), loader, build_evaluator(config, name))
    found = {task: set(figures) for task, figures in results.items()}
    assert found == case.figures
    for task, figures in results.items():
        assert figures == pytest.approx(dict.fromkeys(figures, 100.0)), task


def test_semantic_figures_by_hand(cfg):
    """Everything is road: one class of four is found, in its share of all labelled pixels."""
    config = cfg("semantic", "semantic")
    (name,) = config.DATASETS.TEST
    model = PerfectModel(name)
    scores = torch.zeros(19, *SIZE)
    scores[0] = 1
    model.output = {"sem_seg": scores}
    results = inference_on_dataset(model, Trainer.build_test_loader(config, name), build_evaluator(config, name))
    labels = train_ids()
    assert results["sem_seg"]["IoU"] == pytest.approx(100 * (labels == 0).sum() / (labels != 255).sum() / 4)


def test_several_machines_are_refused(cfg, monkeypatch):
    """Predictions pass through a temporary folder, which machines do not share; panoptic quality needs none."""
    config = cfg("panoptic", "panoptic instance")
    (name,) = config.DATASETS.TEST
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.utils.comm.get_local_size", lambda: 1)
    with pytest.raises(ValueError, match=rf"'{name}' .* can only be evaluated on one machine.*--eval-only"):
        build_evaluator(config, name)
    assert len(evaluator_factories(cfg("panoptic", "panoptic"), name)) == 1
    monkeypatch.setattr("detectron2.utils.comm.get_local_size", lambda: 2)
    assert len(evaluator_factories(cfg("panoptic", "panoptic instance"), name)) == 2
