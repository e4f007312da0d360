"""Each family from its folders to its figures: registration, loader, training mapper, evaluators of perfect results.

The image is 24×32 pixels, in columns: 0–7 and 8–15 a thing each (ids 1 and 300), 16–27 stuff (id 70000), 28–31 void.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from scipy.io import savemat

from mask2former_ext.config import load_config
from mask2former_ext.data import build_dataset_mapper, datasets
from mask2former_ext.data.datasets.coco_stuff_preparation import prepare_coco_stuff_10k
from mask2former_ext.data.datasets.loading import datasets_root
from mask2former_ext.data.datasets.panoptic_preparation import prepare_coco_semantic, prepare_mapillary_instance
from mask2former_ext.evaluation import build_evaluator

CONFIGS = Path(__file__).parents[2] / "configs"
SIZE = HEIGHT, WIDTH = 24, 32
THINGS, STUFF = ((0, 8), (8, 16)), (16, 28)
SEGMENT_IDS = (1, 300, 70000)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def save_image(path):
    save(path, np.full((*SIZE, 3), 90, np.uint8))


def label_map(thing, stuff, ignored, dtype=np.uint8):
    labels = np.full(SIZE, ignored, dtype)
    labels[:, : THINGS[1][1]] = thing
    labels[:, slice(*STUFF)] = stuff
    return labels


def segment_map():
    ids = np.zeros(SIZE, np.int64)
    for segment_id, columns in zip(SEGMENT_IDS, (*THINGS, STUFF)):
        ids[:, slice(*columns)] = segment_id
    return ids


def save_panoptic(json_file, folder, image_id, thing, stuff):
    ids = segment_map()
    save(folder / f"{image_id}.png", np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8))
    segments = [
        {"id": segment_id, "category_id": category, "iscrowd": 0}
        for segment_id, category in zip(SEGMENT_IDS, (thing, thing, stuff))
    ]
    content = {
        "images": [{"id": image_id, "file_name": f"{image_id}.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}],
        "categories": [
            {"id": thing, "name": "a thing", "isthing": 1},
            {"id": stuff, "name": "some stuff", "isthing": 0},
        ],
    }
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(content))


def save_instances(json_file, image_id, things, thing):
    """Annotations of the two things, in a file that lists all `things` as its categories."""
    annotations = [
        {
            "id": k + 1,
            "image_id": image_id,
            "category_id": thing,
            "iscrowd": 0,
            "bbox": [left, 0, right - left, HEIGHT],
            "area": (right - left) * HEIGHT,
            "segmentation": [[left, 0, right, 0, right, HEIGHT, left, HEIGHT]],
        }
        for k, (left, right) in enumerate(THINGS)
    ]
    content = {
        "info": {},
        "images": [{"id": image_id, "file_name": f"{image_id}.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": annotations,
        "categories": [{"id": category, "name": str(category)} for category in things],
    }
    json_file.write_text(json.dumps(content))


def make_ade20k(root):
    ade20k = root / "ADEChallengeData2016"
    things = list(MetadataCatalog.get("ade20k_instance_val").thing_dataset_id_to_contiguous_id)
    for split, folder, image_id in (
        ("train", "training", "ADE_train_00000001"),
        ("val", "validation", "ADE_val_00000001"),
    ):
        save_image(ade20k / "images" / folder / f"{image_id}.jpg")
        save(ade20k / "annotations_detectron2" / folder / f"{image_id}.png", label_map(7, 0, 255))
        save_instances(ade20k / f"ade20k_instance_{split}.json", image_id, things, thing=7)
        panoptic = ade20k / f"ade20k_panoptic_{split}"
        save_panoptic(panoptic.with_suffix(".json"), panoptic, image_id, thing=7, stuff=0)


def make_ade20k_full(root):
    for folder in ("training", "validation"):
        full = root / "ADE20K_2021_17_01"
        save_image(full / "images_detectron2" / folder / "ADE_00000001.jpg")
        labels = label_map(846, 300, 65535, np.uint16)
        save(full / "annotations_detectron2" / folder / "ADE_00000001.tif", labels)


def make_mapillary(root):
    for folder in ("training", "validation"):
        vistas = root / "mapillary_vistas" / folder
        save_image(vistas / "images" / "Xq.jpg")
        labels = Image.fromarray(label_map(0, 2, 65))
        labels.putpalette([0] * (3 * 256))  # as published: labels are indices, and the colours are for looking at
        (vistas / "labels").mkdir()
        labels.save(vistas / "labels" / "Xq.png")
        (vistas / "panoptic").mkdir()
        save_panoptic(vistas / "panoptic" / "panoptic_2018.json", vistas / "panoptic", "Xq", thing=1, stuff=3)
    for split in ("train", "val"):
        prepare_mapillary_instance(str(root), split, workers=1)


def make_coco(root):
    things = list(MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id)
    for split in ("train", "val"):
        coco, annotations = root / "coco", root / "coco" / "annotations"
        save_image(coco / f"{split}2017" / "000000000009.jpg")
        json_file = annotations / f"panoptic_{split}2017.json"
        save_panoptic(json_file, coco / f"panoptic_{split}2017", "000000000009", thing=1, stuff=200)
        save_instances(annotations / f"instances_{split}2017.json", "000000000009", things, thing=1)
        prepare_coco_semantic(str(root), split, workers=1)


def make_coco_stuff_10k(root):
    stuff_10k = root / "coco" / "coco_stuff_10k"
    (stuff_10k / "annotations").mkdir(parents=True)
    (stuff_10k / "imageLists").mkdir()
    for split in ("train", "test"):
        name = f"COCO_train2014_{split}"
        save_image(stuff_10k / "images" / f"{name}.jpg")
        savemat(stuff_10k / "annotations" / f"{name}.mat", {"S": label_map(1, 182, 0, np.uint16)})
        (stuff_10k / "imageLists" / f"{split}.txt").write_text(f"{name}\n")
        prepare_coco_stuff_10k(str(root), split, workers=1)


@pytest.fixture(scope="module", autouse=True)
def _all_layouts(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    for make in (make_ade20k, make_ade20k_full, make_mapillary, make_coco, make_coco_stuff_10k):
        make(root)
    datasets.register_all(str(root))
    yield
    datasets.register_all(datasets_root())


class Family(NamedTuple):
    """A family's config, and what is expected with it.

    Attributes:
        config: path below configs.
        masks: class and area of each training mask.
        thing, stuff: their labels in the model's output; without stuff there are instances alone.
        figures: result → the figure that is 100 for perfect predictions.
        options: what is set otherwise than in the config.
        names: training and test set, {} is the family; those of the config, unless there are options for them.
    """

    config: str
    masks: list[tuple[int, int]]
    thing: int
    stuff: int | None
    figures: dict[str, str]
    options: tuple[Any, ...] = ()
    names: tuple[str, str] = ("{}_train", "{}_val")

    @classmethod
    def without_config(cls, names, num_classes, **arguments):
        """A family without a published config: ADE20K's, with another number of classes."""
        options = ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", num_classes)
        options += ("DATASETS.TRAIN", (names[0],), "DATASETS.TEST", (names[1],))
        return cls(**arguments, options=options, names=names)


def names_of(family):
    return [name.format(family) for name in FAMILIES[family].names]


ONE_THING, BOTH_THINGS, ALL_STUFF = 8 * HEIGHT, 16 * HEIGHT, 12 * HEIGHT
SEMANTIC, PANOPTIC, INSTANCE = {"sem_seg": "mIoU"}, {"panoptic_seg": "PQ"}, {"segm": "AP", "bbox": "AP"}
ADE20K = "ade20k/{}-segmentation/maskformer2_R50_bs16_160k.yaml"
VISTAS_SEMANTIC = "mapillary-vistas/semantic-segmentation/maskformer2_R50_bs16_300k.yaml"
VISTAS_PANOPTIC = "mapillary-vistas/panoptic-segmentation/maskformer_R50_bs16_300k.yaml"
FAMILIES = {
    "ade20k_sem_seg": Family(ADE20K.format("semantic"), [(0, ALL_STUFF), (7, BOTH_THINGS)], 7, 0, SEMANTIC),
    "ade20k_instance": Family(ADE20K.format("instance"), [(0, ONE_THING), (0, ONE_THING)], 0, None, INSTANCE),
    "ade20k_panoptic": Family(
        ADE20K.format("panoptic"),
        [(0, ALL_STUFF), (7, ONE_THING), (7, ONE_THING)],
        *(7, 0, SEMANTIC | PANOPTIC | INSTANCE),
    ),
    "mapillary_vistas_sem_seg": Family(VISTAS_SEMANTIC, [(0, BOTH_THINGS), (2, ALL_STUFF)], 0, 2, SEMANTIC),
    "mapillary_vistas_panoptic": Family(
        VISTAS_PANOPTIC,
        [(0, ONE_THING), (0, ONE_THING), (2, ALL_STUFF)],
        *(0, 2, SEMANTIC | PANOPTIC | INSTANCE),
        options=("MODEL.MASK_FORMER.TEST.INSTANCE_ON", True),
    ),
    "mapillary_vistas_instance": Family.without_config(
        ("mapillary_vistas_instance_train", "mapillary_vistas_instance_val"),
        num_classes=37,
        config=ADE20K.format("instance"),
        masks=[(0, ONE_THING), (0, ONE_THING)],
        thing=0,
        stuff=None,
        figures=INSTANCE,
    ),
    "coco_panoptic": Family(
        "coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml",
        [(0, ONE_THING), (0, ONE_THING), (132, ALL_STUFF)],
        *(0, 132, SEMANTIC | PANOPTIC | INSTANCE),
        options=("DATASETS.TRAIN", ("coco_2017_train_panoptic_with_sem_seg",)),
        names=("coco_2017_train_panoptic_with_sem_seg", "coco_2017_val_panoptic_with_sem_seg"),
    ),
    "coco_stuff_10k": Family.without_config(
        ("coco_2017_train_stuff_10k_sem_seg", "coco_2017_test_stuff_10k_sem_seg"),
        num_classes=171,
        config=ADE20K.format("semantic"),
        masks=[(0, BOTH_THINGS), (170, ALL_STUFF)],
        thing=0,
        stuff=170,
        figures=SEMANTIC,
    ),
    "ade20k_full_sem_seg": Family.without_config(
        ("ade20k_full_sem_seg_train", "ade20k_full_sem_seg_val"),
        num_classes=847,
        config=ADE20K.format("semantic"),
        masks=[(300, ALL_STUFF), (846, BOTH_THINGS)],
        thing=846,
        stuff=300,
        figures=SEMANTIC,
    ),
}


def family_cfg(family, tmp_path):
    """The family's config, for images of 24×32 that nothing changes but padding to 32×32."""
    options = ["OUTPUT_DIR", str(tmp_path), *FAMILIES[family].options]
    cfg = load_config(str(CONFIGS / FAMILIES[family].config), options)
    assert names_of(family) == [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    cfg.INPUT.update(MIN_SIZE_TRAIN=(HEIGHT,), RANDOM_FLIP="none", SIZE_DIVISIBILITY=WIDTH, COLOR_AUG_SSD=False)
    cfg.INPUT.update(IMAGE_SIZE=WIDTH, MIN_SCALE=1.0, MAX_SCALE=1.0)
    cfg.INPUT.CROP.ENABLED = False
    return cfg


def mask_tensor(masks):
    """The masks of a training sample, [N, H, W], whatever holds them."""
    return getattr(masks, "tensor", masks)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_samples(family, tmp_path):
    masks = FAMILIES[family].masks
    cfg = family_cfg(family, tmp_path)
    (record,) = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    sample = build_dataset_mapper(cfg)(record)
    assert sample["image"].shape == (3, WIDTH, WIDTH)
    instances = sample["instances"]
    gt_masks = mask_tensor(instances.gt_masks)
    assert sorted(zip(instances.gt_classes.tolist(), gt_masks.sum(dim=(1, 2)).tolist())) == masks
    assert gt_masks.shape[1:] == (WIDTH, WIDTH)
    if cfg.INPUT.DATASET_MAPPER_NAME in ("mask_former_semantic", "mask_former_panoptic"):
        ignored = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).ignore_label
        assert (sample["sem_seg"] == ignored).sum() == WIDTH * WIDTH - sum(area for _, area in masks)


def perfect_output(thing, stuff, num_classes):
    """What a model that has learnt the image returns; without stuff only instances."""
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    for mask, columns in zip(masks, THINGS):
        mask[:, slice(*columns)] = True
    instances = Instances(
        SIZE,
        pred_masks=masks,
        pred_boxes=Boxes(torch.tensor([[left, 0, right, HEIGHT] for left, right in THINGS], dtype=torch.float32)),
        pred_classes=torch.tensor([thing, thing]),
        scores=torch.tensor([0.9, 0.8]),
    )
    if stuff is None:
        return {"instances": instances}
    labels = torch.from_numpy(label_map(thing, stuff, stuff, np.int64))
    segments = [
        {"id": segment_id, "category_id": category, "isthing": isthing}
        for segment_id, category, isthing in zip(SEGMENT_IDS, (thing, thing, stuff), (True, True, False))
    ]
    return {
        "instances": instances,
        "sem_seg": torch.nn.functional.one_hot(labels, num_classes).permute(2, 0, 1).float(),
        "panoptic_seg": (torch.from_numpy(segment_map()), segments),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_figures_of_perfect_predictions(family, tmp_path):
    _, _, thing, stuff, figures, *_ = FAMILIES[family]
    cfg = family_cfg(family, tmp_path)
    (name,) = cfg.DATASETS.TEST
    (record,) = DatasetCatalog.get(name)
    evaluator = build_evaluator(cfg, name, str(tmp_path))
    evaluator.reset()
    evaluator.process([record], [perfect_output(thing, stuff, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)])
    results = evaluator.evaluate()
    assert {key: results[key][figure] for key, figure in figures.items()} == pytest.approx(dict.fromkeys(figures, 100))
    assert results.keys() == figures.keys()
