"""A few images of rectangles, annotated in each of the formats, and a tiny model to start from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 48, 60
CATEGORIES = [
    {"id": 9, "name": "square", "isthing": 1},
    {"id": 4, "name": "bar", "isthing": 1, "color": [1, 2, 3]},
    {"id": 7, "name": "ground", "isthing": 0},
]
BOXES = {9: (6, 8, 20, 20), 4: (32, 4, 12, 36)}  # category: x, y, width, height


def write_pictures(folder: Path, count: int) -> list[dict]:
    """Write pictures 0.png, 1.png, … of a square and a bar, and return their entries in COCO's format."""
    folder.mkdir(parents=True)
    entries = []
    for number in range(count):
        picture = np.full((HEIGHT, WIDTH, 3), 30 + number, dtype=np.uint8)
        for x, y, width, height in BOXES.values():
            picture[y : y + height, x : x + width] = 220
        Image.fromarray(picture).save(folder / f"{number}.png")
        entries.append({"id": 100 + number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
    return entries


def rectangle(x: int, y: int, width: int, height: int) -> list[int]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def write_instances(path: Path, images: list[dict]) -> Path:
    annotations = [
        {
            "image_id": image["id"],
            "category_id": category,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
            "segmentation": [rectangle(*box)],
        }
        for image in images
        for category, box in BOXES.items()
    ]
    annotations = [{"id": k} | annotation for k, annotation in enumerate(annotations, start=1)]
    categories = [{"id": c["id"], "name": c["name"]} for c in CATEGORIES if c["isthing"]]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def label_map(ground: int, labels: dict[int, int]) -> np.ndarray:
    """The picture's map of labels: of the ground, and of the category of each rectangle."""
    labelled = np.full((HEIGHT, WIDTH), ground, dtype=np.uint8)
    for category, (x, y, width, height) in BOXES.items():
        labelled[y : y + height, x : x + width] = labels[category]
    return labelled


def write_panoptic(path: Path, images: list[dict]) -> Path:
    root = path.with_suffix("")
    root.mkdir()
    ids = label_map(7, {9: 9, 4: 4})
    annotations = []
    for image in images:
        Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=-1)).save(root / image["file_name"])
        segments = [
            {"id": k, "category_id": k, "area": int((ids == k).sum()), "bbox": [*BOXES.get(k, (0, 0, WIDTH, HEIGHT))]}
            | {"iscrowd": 0}
            for k in (7, 9, 4)
        ]
        annotations.append({"image_id": image["id"], "file_name": image["file_name"], "segments_info": segments})
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return path


def write_label_images(folder: Path, images: list[dict]) -> Path:
    folder.mkdir()
    for image in images:
        labels = label_map(0, {9: 1, 4: 2})
        labels[0] = 255
        Image.fromarray(labels).save(folder / image["file_name"])
    return folder


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    """The images' folder under "images", and the annotations of ten images by task."""
    images = write_pictures(tmp_path / "images", 10)
    return {
        "images": tmp_path / "images",
        "instance": write_instances(tmp_path / "instances.json", images),
        "panoptic": write_panoptic(tmp_path / "panoptic.json", images),
        "semantic": write_label_images(tmp_path / "labels", images),
    }


@pytest.fixture
def base(tmp_path: Path, tiny_cfg) -> str:
    """A config file of a tiny Mask2Former, of one batch of 4 images in 40 iterations of training."""
    tiny_cfg.merge_from_list(
        [
            # few weights: checkpoints are quick to write
            *("MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM", 16, "MODEL.SWIN.DEPTHS", [1] * 4),
            *("MODEL.SWIN.NUM_HEADS", [1, 1, 2, 2], "MODEL.SWIN.WINDOW_SIZE", 4, "MODEL.SWIN.DROP_PATH_RATE", 0.0),
            *("INPUT.DATASET_MAPPER_NAME", "mask_former_semantic", "INPUT.MIN_SIZE_TRAIN", (48,)),
            *("INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TRAIN", 96, "DATALOADER.NUM_WORKERS", 0),
            *("SOLVER.IMS_PER_BATCH", 4, "SOLVER.BASE_LR", 0.001, "SOLVER.MAX_ITER", 40, "SOLVER.STEPS", (20, 36)),
            *("SOLVER.WARMUP_ITERS", 3, "SEED", 1),
        ]
    )
    path = tmp_path / "base.yaml"
    path.write_text(tiny_cfg.dump())
    return str(path)
