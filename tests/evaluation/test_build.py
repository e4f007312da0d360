"""Which evaluators each kind of dataset gets, for which model."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)
from detectron2.structures import Boxes, Instances

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.evaluation import EVALUATORS, PanopticEvaluator, build, build_evaluator, evaluator_factories

NAME = "tiny_dataset_of_some_type"
SIZE = 20


@pytest.fixture
def dataset(tmp_path):
    """A function that registers an empty-handed dataset of an evaluator type; its labels can be those of ADE20K."""
    annotation = {"id": 1, "image_id": 1, "category_id": 30, "bbox": [0, 0, 10, SIZE], "area": 10 * SIZE, "iscrowd": 0}
    annotation["segmentation"] = [[0, 0, 10, 0, 10, SIZE, 0, SIZE]]
    categories = [{"id": id_, "name": str(id_), "isthing": id_ != 10} for id_ in (10, 20, 30)]
    image = {"id": 1, "file_name": "1.jpg", "height": SIZE, "width": SIZE}
    instances = {"info": {}, "images": [image], "annotations": [annotation], "categories": categories[1:]}
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    panoptic = {"images": [image], "annotations": [], "categories": categories}
    (tmp_path / "panoptic.json").write_text(json.dumps(panoptic))

    def register(evaluator_type, things=None):
        DatasetCatalog.register(NAME, list)
        MetadataCatalog.get(NAME).set(
            evaluator_type=evaluator_type,
            image_root=str(tmp_path),
            json_file=str(tmp_path / "instances.json"),
            panoptic_json=str(tmp_path / "panoptic.json"),
            panoptic_root=str(tmp_path),
            thing_classes=["20", "30"],
            stuff_classes=["10", "20", "30"],
            thing_dataset_id_to_contiguous_id=things or {20: 0, 30: 1},
            stuff_dataset_id_to_contiguous_id={10: 2, 20: 0, 30: 1},
            ignore_label=255,
            label_divisor=1000,
        )

    yield register
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def config(tmp_path, outputs="semantic instance panoptic", architecture="MaskFormer"):
    cfg = get_cfg_defaults()
    cfg.MODEL.META_ARCHITECTURE = architecture
    for output in ("semantic", "instance", "panoptic"):
        cfg.MODEL.MASK_FORMER.TEST[f"{output.upper()}_ON"] = output in outputs
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.DATASETS.TEST = (NAME,)
    return cfg


def kinds(evaluator):
    evaluators = evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]
    return [type(part) for part in evaluators]


@pytest.mark.parametrize(
    ("evaluator_type", "outputs", "expected"),
    [
        ("sem_seg", "semantic", [SemSegEvaluator]),
        ("coco", "instance", [COCOEvaluator]),
        ("coco_panoptic_seg", "panoptic", [PanopticEvaluator]),
        ("coco_panoptic_seg", "instance", [COCOEvaluator]),
        ("coco_panoptic_seg", "semantic", [SemSegEvaluator]),
        ("coco_panoptic_seg", "semantic instance panoptic", [PanopticEvaluator, COCOEvaluator, SemSegEvaluator]),
        ("ade20k_panoptic_seg", "semantic", [SemSegEvaluator]),
        ("ade20k_panoptic_seg", "semantic instance panoptic", [SemSegEvaluator, PanopticEvaluator, COCOEvaluator]),
        ("mapillary_vistas_panoptic_seg", "panoptic", [PanopticEvaluator]),
        ("mapillary_vistas_panoptic_seg", "semantic instance", [COCOEvaluator, SemSegEvaluator]),
    ],
)
def test_evaluators_of_a_mask_former(dataset, tmp_path, evaluator_type, outputs, expected):
    dataset(evaluator_type)
    assert kinds(build_evaluator(config(tmp_path, outputs), NAME)) == expected


@pytest.mark.parametrize(
    ("evaluator_type", "expected"),
    [
        ("cityscapes_instance", ["_cityscapes_instance"]),
        ("cityscapes_sem_seg", ["_cityscapes_semantic"]),
        ("cityscapes_panoptic_seg", ["_panoptic", "_cityscapes_instance", "_cityscapes_semantic"]),
        ("lvis", ["_lvis"]),
        ("pascal_voc", ["_pascal_voc"]),
    ],
)
def test_evaluators_that_need_packages_of_their_own(dataset, tmp_path, evaluator_type, expected):
    dataset(evaluator_type)
    assert [factory.__name__ for factory in evaluator_factories(config(tmp_path), NAME)] == expected


def test_cityscapes_evaluators_are_detectron2s(dataset, tmp_path):
    dataset("cityscapes_panoptic_seg")
    evaluator = build_evaluator(config(tmp_path), NAME)
    assert kinds(evaluator) == [PanopticEvaluator, CityscapesInstanceEvaluator, CityscapesSemSegEvaluator]


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("GeneralizedRCNN", [COCOEvaluator]),
        ("SemanticSegmentor", [SemSegEvaluator]),
        ("PanopticFPN", [PanopticEvaluator, COCOEvaluator, SemSegEvaluator]),
    ],
)
def test_other_architectures_are_evaluated_for_what_they_return(dataset, tmp_path, architecture, expected):
    dataset("coco_panoptic_seg")
    # the flags of MaskFormer say nothing about other models
    assert kinds(build_evaluator(config(tmp_path, "", architecture), NAME)) == expected


def test_coco_tasks_do_not_depend_on_predictions(dataset, tmp_path):
    dataset("coco")
    cfg = config(tmp_path, architecture="GeneralizedRCNN")
    assert build_evaluator(cfg, NAME)._tasks == ("bbox",)
    cfg.MODEL.MASK_ON = True
    assert build_evaluator(cfg, NAME)._tasks == ("bbox", "segm")
    assert build_evaluator(config(tmp_path), NAME)._tasks == ("bbox", "segm")


def test_output_folders(dataset, tmp_path):
    dataset("coco")
    cfg = config(tmp_path)
    inference = tmp_path / "output" / "inference"
    assert build_evaluator(cfg, NAME)._output_dir == str(inference)
    assert build_evaluator(cfg, NAME, "elsewhere")._output_dir == "elsewhere"
    cfg.DATASETS.TEST = (NAME, "another")
    assert build_evaluator(cfg, NAME)._output_dir == str(inference / NAME)


@pytest.mark.parametrize("evaluator_type", ["coco_panoptic", None])
def test_unknown_type_is_refused(dataset, tmp_path, evaluator_type):
    dataset(evaluator_type)
    with pytest.raises(ValueError, match=rf"'{NAME}'.*{evaluator_type!r}.*{', '.join(EVALUATORS)}"):
        build_evaluator(config(tmp_path), NAME)


def test_model_without_the_outputs_is_refused(dataset, tmp_path):
    dataset("coco_panoptic_seg")
    with pytest.raises(ValueError, match=rf"'{NAME}'.*returns only: nothing.*PANOPTIC"):
        build_evaluator(config(tmp_path, ""), NAME)


def test_evaluator_that_is_always_used_warns_when_its_output_is_off(dataset, tmp_path, caplog):
    dataset("coco")
    with caplog.at_level(logging.WARNING, logger=build.__name__):
        assert kinds(build_evaluator(config(tmp_path, "semantic"), NAME)) == [COCOEvaluator]
    assert "INSTANCE" in caplog.text


def test_evaluator_without_its_output_leaves_the_others_alone(dataset, tmp_path, caplog):
    dataset("ade20k_panoptic_seg")
    with caplog.at_level(logging.WARNING, logger=build.__name__):
        assert kinds(build_evaluator(config(tmp_path, "instance panoptic"), NAME)) == [PanopticEvaluator, COCOEvaluator]
    assert "evaluates semantic segmentation" in caplog.text


def instances(label):
    """One instance, exactly the annotated one."""
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    mask[:, :, :10] = True
    boxes = Boxes(torch.tensor([[0.0, 0.0, 10.0, SIZE]]))
    return Instances(
        (SIZE, SIZE), pred_masks=mask, pred_boxes=boxes, scores=torch.ones(1), pred_classes=torch.tensor([label])
    )


@pytest.mark.parametrize(("things", "label"), [({20: 0, 30: 1}, 1), ({20: 4, 30: 2}, 2)])
def test_average_precision_whatever_labels_things_have(dataset, tmp_path, things, label):
    """In ADE20K's label space of 150 the 100 things lie anywhere; classes that are stuff are left out."""
    dataset("coco_panoptic_seg", things)
    evaluator = build_evaluator(config(tmp_path, "instance"), NAME)
    predictions = [instances(label)]
    if label == 2:
        predictions += [instances(stuff) for stuff in (0, 3, 149)]
    predictions = Instances.cat(predictions)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": predictions}])
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert np.isnan(results["segm"]["AP-20"])
    assert results["segm"]["AP-30"] == pytest.approx(100)
    assert predictions.pred_classes[0] == label
    assert MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id == things


def test_no_predictions_still_give_both_tasks(dataset, tmp_path):
    dataset("coco")
    evaluator = build_evaluator(config(tmp_path), NAME)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": instances(1)[:0]}])
    assert set(evaluator.evaluate()) == {"bbox", "segm"}
