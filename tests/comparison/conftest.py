"""A dataset of four images of 32×48 in the COCO panoptic format, and comparisons that are made up on it."""

import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask2former_ext.benchmark.reports import environment
from mask2former_ext.comparison.costs import Costs
from mask2former_ext.comparison.curves import TrainingCurves
from mask2former_ext.comparison.evaluate import Evaluation, ModelSpec
from mask2former_ext.comparison.models import Comparison, ModelResult, score_images
from mask2former_ext.comparison.regions import STUFF, THINGS, Region, read_truth
from mask2former_ext.data.datasets import register_panoptic_dataset

NAME = "comparison_test_streets"
DEVICE = torch.device("cpu")
SIZE = HEIGHT, WIDTH = 32, 48
CATEGORIES = [
    {"id": 11, "name": "car", "isthing": 1},
    {"id": 12, "name": "dog & <b>cat</b>", "isthing": 1},
    {"id": 20, "name": "road", "isthing": 0},
    {"id": 21, "name": "sky", "isthing": 0},
]
# id → category; columns of the image, rows
SEGMENTS = {1: (11, (4, 14), (8, 24)), 2: (12, (20, 32), (8, 24)), 3: (20, (0, WIDTH), (24, HEIGHT))}


def segment_map(shift: int) -> np.ndarray:
    """Ids of an image whose things lie ``shift`` columns further to the right; above them is void."""
    ids = np.zeros(SIZE, np.uint8)
    for id_, (category, (left, right), (top, bottom)) in SEGMENTS.items():
        moved = shift if category < 20 else 0
        ids[top:bottom, left + moved : right + moved] = id_
    return ids


def write_dataset(root, count: int = 4) -> dict[str, str]:
    """Write the images with all kinds of annotations; returns the arguments of the registration."""
    for folder in ("images", "panoptic", "semantic"):
        (root / folder).mkdir()
    images, panoptic, instances = [], [], []
    for k in range(count):
        ids = segment_map(shift=3 * k)
        photo = np.full((*SIZE, 3), 60 + 20 * k, np.uint8)
        photo[ids == 1], photo[ids == 2] = (200, 60, 60), (60, 60, 200)
        Image.fromarray(photo).save(root / "images" / f"{k}.png")
        Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=2)).save(root / "panoptic" / f"{k}.png")
        labels = np.choose(ids, [255, 0, 1, 2]).astype(np.uint8)
        Image.fromarray(labels).save(root / "semantic" / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "height": HEIGHT, "width": WIDTH})
        segments = [{"id": id_, "category_id": of[0], "iscrowd": 0} for id_, of in SEGMENTS.items()]
        panoptic.append({"image_id": k, "file_name": f"{k}.png", "segments_info": segments})
        for id_ in (1, 2):
            rows, columns = np.nonzero(ids == id_)
            left, top, right, bottom = (int(x) for x in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            annotation = {"id": 10 * k + id_, "image_id": k, "category_id": SEGMENTS[id_][0], "iscrowd": 0}
            annotation |= {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            annotation["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
            instances.append(annotation)
    shared = {"images": images, "categories": CATEGORIES}
    (root / "panoptic.json").write_text(json.dumps(shared | {"annotations": panoptic}))
    things = {"info": {}, "images": images, "categories": CATEGORIES[:2], "annotations": instances}
    (root / "instances.json").write_text(json.dumps(things))
    return {
        "image_root": str(root / "images"),
        "panoptic_root": str(root / "panoptic"),
        "panoptic_json": str(root / "panoptic.json"),
        "instances_json": str(root / "instances.json"),
        "sem_seg_root": str(root / "semantic"),
    }


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> list[dict[str, Any]]:
    """The registered dataset; its dataset dicts."""
    root = tmp_path_factory.mktemp("streets")
    register_panoptic_dataset(NAME, **write_dataset(root), categories=CATEGORIES)
    yield DatasetCatalog.get(NAME)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


class MadeUp(NamedTuple):
    """A model that is made up: what it found, as the truth moved down by some rows in each image, and its results."""

    name: str
    moved: tuple[int, ...]
    results: dict[str, dict[str, float]]
    kinds: frozenset[str] = frozenset({THINGS, STUFF})
    precision: dict[str, Any] = {}
    training: TrainingCurves | None = None
    costs: Costs = Costs(16_128_387, (32, 48), 3_333_455_648, 0.1075, 25 * 2**20)


def moved(region: Region, rows: int) -> Region:
    return Region.of(np.roll(region.mask(), rows, axis=0), region.category, region.kind, 0.9)


@pytest.fixture(scope="module")
def made_up() -> type[MadeUp]:
    """Makes a model up."""
    return MadeUp


@pytest.fixture(scope="module")
def make_comparison(streets):
    """Makes a comparison of models that are made up."""

    def make(*models: MadeUp, opts: tuple[str, ...] = ()) -> Comparison:
        results = []
        for model in models:
            found = {
                record["file_name"]: [
                    moved(region, rows) for region in read_truth(record, 255).regions if region.kind in model.kinds
                ]
                for record, rows in zip(streets, model.moved, strict=True)
            }
            evaluation = Evaluation(model.results, model.precision, found, model.kinds, [])
            spec = ModelSpec(model.name, f"configs/{model.name}.yaml", f"output/{model.name}.pth")
            results.append(ModelResult(spec, evaluation, model.costs, model.training))
        kinds, scores = score_images(streets, [result.evaluation for result in results], ignore_label=255)
        return Comparison(NAME, streets, results, kinds, scores, environment(DEVICE), opts)

    return make
