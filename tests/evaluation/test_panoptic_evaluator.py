"""The evaluator on files: categories, sizes, ids, workers, written predictions, and what it refuses."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask2former_ext.data.datasets import register_panoptic_dataset
from mask2former_ext.data.reading import id_to_rgb
from mask2former_ext.evaluation import PanopticEvaluator, panoptic

NAME = "tiny_panoptic_to_evaluate"
# Contiguous ids: tree 0, cat 1, dog 2, so things do not come first.
CATEGORIES = [
    {"id": 50, "name": "tree", "isthing": 0},
    {"id": 10, "name": "cat", "isthing": 1},
    {"id": 20, "name": "dog", "isthing": 1},
]
BIG_ID = 1 + 2 * 256 + 3 * 256**2
MAPS = {1: [[5, 5, BIG_ID, BIG_ID], [5, 5, 0, 0]], 2: [[8, 8, 8, 9]]}
SEGMENTS = {
    1: [
        {"id": 5, "category_id": 10, "area": 4, "iscrowd": 0},
        {"id": BIG_ID, "category_id": 50, "area": 2, "iscrowd": 0},
    ],
    2: [{"id": 8, "category_id": 50, "area": 3, "iscrowd": 0}, {"id": 9, "category_id": 20, "area": 1, "iscrowd": 1}],
}
PERFECT = {
    1: (MAPS[1], [{"id": 5, "isthing": True, "category_id": 1}, {"id": BIG_ID, "isthing": False, "category_id": 0}]),
    2: ([[1, 1, 1, 0]], [{"id": 1, "isthing": False, "category_id": 0}]),
}


def write_png(path, id_map):
    Image.fromarray(id_to_rgb(np.array(id_map))).save(path)


@pytest.fixture
def dataset(tmp_path):
    """The folder of a dataset of two images, registered under NAME."""
    (tmp_path / "png").mkdir()
    for image_id, id_map in MAPS.items():
        write_png(tmp_path / "png" / f"{image_id}.png", id_map)
    annotations = [{"image_id": i, "file_name": f"{i}.png", "segments_info": SEGMENTS[i]} for i in MAPS]
    content = {"images": [{"id": i} for i in MAPS], "annotations": annotations, "categories": CATEGORIES}
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    register_panoptic_dataset(
        NAME,
        image_root=str(tmp_path),
        panoptic_root=str(tmp_path / "png"),
        panoptic_json=str(tmp_path / "panoptic.json"),
        categories=CATEGORIES,
    )
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def process(evaluator, predictions):
    for image_id, (id_map, segments) in predictions.items():
        prediction = (torch.tensor(id_map, dtype=torch.int32), segments)
        evaluator.process([{"image_id": image_id, "file_name": f"{image_id}.jpg"}], [{"panoptic_seg": prediction}])


def edit_json(folder, edit):
    content = json.loads((folder / "panoptic.json").read_text())
    edit({annotation["image_id"]: annotation for annotation in content["annotations"]})
    (folder / "panoptic.json").write_text(json.dumps(content))


def test_perfect_predictions(dataset, caplog):
    evaluator = PanopticEvaluator(NAME)
    process(evaluator, PERFECT)
    with caplog.at_level(logging.INFO):
        results = evaluator.evaluate()
    names = [name + suffix for suffix in ("", "_th", "_st") for name in ("PQ", "SQ", "RQ")]
    assert results == {"panoptic_seg": dict.fromkeys(names, 100.0)}
    assert "#categories" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_figures_by_hand(dataset):
    evaluator = PanopticEvaluator(NAME)
    # image 1: the cat's left 3 of 4 pixels as cat, IoU 3/4; the tree taken for a dog. Image 2: nothing predicted.
    segments = [{"id": 1, "isthing": True, "category_id": 1}, {"id": 2, "isthing": True, "category_id": 2}]
    process(evaluator, {1: ([[1, 1, 2, 2], [1, 0, 0, 0]], segments), 2: ([[0, 0, 0, 0]], [])})
    figures = evaluator.evaluate()["panoptic_seg"]
    # cat: tp 1; dog: fp 1; tree: fn 2
    assert figures["PQ"] == pytest.approx(100 * 0.75 / 3)
    assert figures["RQ"] == pytest.approx(100 / 3)
    assert figures["SQ_th"] == pytest.approx(100 * 0.75 / 2)
    assert figures["PQ_st"] == 0


def test_reset_starts_anew(dataset):
    evaluator = PanopticEvaluator(NAME)
    process(evaluator, {1: (np.zeros((2, 4)), []), 2: ([[0, 0, 0, 0]], [])})
    evaluator.reset()
    process(evaluator, PERFECT)
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100


def test_two_workers_merge_to_what_one_finds(dataset, monkeypatch, caplog):
    predictions = PERFECT | {2: ([[1, 1, 0, 0]], PERFECT[2][1])}
    alone = PanopticEvaluator(NAME)
    process(alone, predictions)
    gathered = []
    for image_id in predictions:  # each worker has one image; gather hands its part over
        worker = PanopticEvaluator(NAME)
        process(worker, {image_id: predictions[image_id]})
        with monkeypatch.context() as patch:
            patch.setattr(panoptic.comm, "is_main_process", lambda: False)
            patch.setattr(panoptic.comm, "gather", gathered.append)
            assert worker.evaluate() is None
    monkeypatch.setattr(panoptic.comm, "gather", lambda own: gathered)
    merged = PanopticEvaluator(NAME).evaluate()
    monkeypatch.undo()
    assert merged == alone.evaluate()
    assert merged["panoptic_seg"]["PQ"] == pytest.approx(100 * (1 + (1 + 2 / 3) / 2) / 2)


def test_map_of_encoded_labels(dataset):
    """Without a list of segments the map holds category * label_divisor + instance, with -1 for void."""
    evaluator = PanopticEvaluator(NAME)
    encoded = {1: ([[1001, 1001, 0, 0], [1001, 1001, -1, -1]], None), 2: ([[0, 0, 0, -1]], None)}
    process(evaluator, encoded)
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100


def test_categories_of_the_dataset_when_isthing_is_left_out(dataset):
    evaluator = PanopticEvaluator(NAME)
    process(evaluator, PERFECT | {2: ([[1, 1, 1, 0]], [{"id": 1, "category_id": 50}])})
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100


def test_written_predictions_evaluate_alike(dataset, tmp_path):
    output = tmp_path / "output"
    evaluator = PanopticEvaluator(NAME, output_dir=str(output))
    process(evaluator, PERFECT)
    assert not (output / "predictions").exists()
    evaluator.evaluate()
    assert sorted(path.name for path in output.iterdir()) == ["predictions", "predictions.json"]
    written = json.loads((output / "predictions.json").read_text())
    assert written["categories"] == CATEGORIES
    assert [annotation["segments_info"] for annotation in written["annotations"]] == [
        [{"id": 5, "category_id": 10}, {"id": BIG_ID, "category_id": 50}],
        [{"id": 1, "category_id": 50}],
    ]
    colours = np.asarray(Image.open(output / "predictions" / written["annotations"][0]["file_name"]))
    assert colours[0].tolist() == [[5, 0, 0], [5, 0, 0], [1, 2, 3], [1, 2, 3]]


def test_evaluation_that_fails_leaves_earlier_predictions(dataset, tmp_path):
    output = tmp_path / "output"
    evaluator = PanopticEvaluator(NAME, output_dir=str(output))
    process(evaluator, PERFECT)
    evaluator.evaluate()
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    (dataset / "png" / "2.png").unlink()
    evaluator.reset()
    with pytest.raises(FileNotFoundError):
        process(evaluator, {1: (np.zeros((2, 4)), []), 2: PERFECT[2]})
    assert {path: path.read_bytes() for path in before} == before


def test_missing_and_broken_png_are_named(dataset):
    evaluator = PanopticEvaluator(NAME)
    (dataset / "png" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"png/1\.png"):
        process(evaluator, PERFECT)
    (dataset / "png" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"png/1\.png"):
        process(evaluator, PERFECT)


def test_ground_truth_that_contradicts_itself_is_refused(dataset):
    edit_json(dataset, lambda annotations: annotations[1]["segments_info"].pop())
    with pytest.raises(ValueError, match=rf"image 1, .*png/1\.png.*ground truth: the map has ids \[{BIG_ID}\]"):
        process(PanopticEvaluator(NAME), PERFECT)
    edit_json(dataset, lambda annotations: annotations[1]["segments_info"].extend([*SEGMENTS[1][1:], SEGMENTS[2][0]]))
    with pytest.raises(ValueError, match=r"image 1, .*list of segments has ids \[8\], which the map lacks"):
        process(PanopticEvaluator(NAME), PERFECT)


def test_unknown_category_in_the_ground_truth_is_refused(dataset):
    edit_json(dataset, lambda annotations: annotations[2]["segments_info"][0].update(category_id=77))
    with pytest.raises(ValueError, match=r"image 2: categories \[77\].*panoptic\.json"):
        process(PanopticEvaluator(NAME), PERFECT)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (([[1, 1, 1, 2]], PERFECT[2][1]), r"prediction: the map has ids \[2\]"),
        (([[0, 0, 0, 0]], PERFECT[2][1]), r"prediction: the list of segments has ids \[1\]"),
        (([[1, 1, 1, 0]], PERFECT[2][1] * 2), r"segment ids must be all different"),
        (([[1, 1, 1, 0]], [{"id": 1, "isthing": True, "category_id": 0}]), "no thing category"),
        (([[1, 1, 1, 0]], [{"id": 1, "isthing": False, "category_id": 3}]), "no stuff category"),
        (([[1, 1, 1, 0]], [{"id": 1, "category_id": 51}]), r"categories \[51\]"),
        (([[1], [1], [1], [0]], PERFECT[2][1]), r"prediction is \(4, 1\).* \(1, 4\)"),
    ],
)
def test_bad_predictions_are_refused(dataset, prediction, message):
    with pytest.raises(ValueError, match=rf"(?s)image 2.*{message}"):
        process(PanopticEvaluator(NAME), {2: prediction})


def test_image_without_ground_truth_is_refused(dataset):
    with pytest.raises(ValueError, match=rf"image 3 .*'{NAME}'.*panoptic\.json"):
        process(PanopticEvaluator(NAME), {3: PERFECT[2]})


def test_missing_metadata_is_named(dataset):
    MetadataCatalog.remove(NAME)
    MetadataCatalog.get(NAME).set(panoptic_root=str(dataset / "png"), evaluator_type="coco_panoptic_seg")
    with pytest.raises(ValueError, match=r"panoptic_json.*thing_dataset_id_to_contiguous_id"):
        PanopticEvaluator(NAME)


def test_images_not_evaluated_and_wrong_areas_are_warned_of(dataset, caplog):
    edit_json(dataset, lambda annotations: annotations[1]["segments_info"][0].update(area=5))
    evaluator = PanopticEvaluator(NAME)
    process(evaluator, {1: PERFECT[1]})
    evaluator.evaluate()
    assert "1 images were evaluated, but" in caplog.text
    assert "1 segments of" in caplog.text
