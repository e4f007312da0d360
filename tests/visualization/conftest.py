"""A registered dataset of one image, small enough to be checked by hand."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.data.reading import id_to_rgb

DATASET = "hand_made_for_pictures"
NAMES = ["cat", "dog", "sky"]
THING_IDS = {11: 0, 12: 1}
HEIGHT, WIDTH = 24, 32
IDS = {"cat": 5, "crowd": 300, "sky": 70000}


@pytest.fixture
def segment_ids():
    """24×32 ids: a cat on the left, a crowd of dogs beside it, sky below; the upper right quarter is void."""
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    ids[:12, :8] = IDS["cat"]
    ids[:12, 8:16] = IDS["crowd"]
    ids[12:] = IDS["sky"]
    return ids


@pytest.fixture
def dataset(tmp_path, segment_ids):
    """The name of a registered dataset whose dicts serve all mappers."""
    ids = segment_ids
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x * 7, y * 10, np.full_like(x, 200)], axis=2).astype(np.uint8)
    labels = np.full(ids.shape, 255, dtype=np.uint8)
    for name, label in (("cat", 0), ("crowd", 1), ("sky", 2)):
        labels[ids == IDS[name]] = label
    paths = {name: str(tmp_path / f"{name}.png") for name in ("photo", "panoptic", "semantic")}
    for name, content in (("photo", pixels), ("panoptic", id_to_rgb(ids)), ("semantic", labels)):
        Image.fromarray(content).save(paths[name])
    crowd = coco_mask.encode(np.asfortranarray(ids == IDS["crowd"]))
    record = {
        "file_name": paths["photo"],
        "image_id": 1,
        "height": HEIGHT,
        "width": WIDTH,
        "pan_seg_file_name": paths["panoptic"],
        "sem_seg_file_name": paths["semantic"],
        "segments_info": [
            {"id": IDS["cat"], "category_id": 0, "iscrowd": 0, "isthing": True},
            {"id": IDS["crowd"], "category_id": 1, "iscrowd": 1, "isthing": True},
            {"id": IDS["sky"], "category_id": 2, "iscrowd": 0, "isthing": False},
        ],
        "annotations": [
            {
                **{"category_id": 0, "iscrowd": 0, "bbox": [0, 0, 8, 12], "bbox_mode": 0},
                "segmentation": [[0, 0, 8, 0, 8, 12, 0, 12]],
            },
            {"category_id": 1, "iscrowd": 1, "bbox": [8, 0, 16, 12], "bbox_mode": 0, "segmentation": crowd},
        ],
    }
    DatasetCatalog.register(DATASET, lambda: [record])
    MetadataCatalog.get(DATASET).set(
        thing_classes=NAMES[:2], stuff_classes=NAMES, thing_dataset_id_to_contiguous_id=THING_IDS, ignore_label=255
    )
    yield DATASET
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


@pytest.fixture
def sample_cfg(dataset):
    """A config of the dataset's mapper, whose augmentations only pad to 32×32 unless options say otherwise."""

    def make(mapper, *options):
        cfg = get_cfg_defaults()
        cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
        cfg.INPUT.DATASET_MAPPER_NAME = mapper
        cfg.INPUT.FORMAT = "RGB"
        cfg.INPUT.RANDOM_FLIP = "none"
        cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
        cfg.INPUT.MIN_SIZE_TEST = HEIGHT
        cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
        cfg.INPUT.SIZE_DIVISIBILITY = cfg.INPUT.IMAGE_SIZE = 32
        cfg.INPUT.MIN_SCALE = cfg.INPUT.MAX_SCALE = 1.0
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (dataset,)
        cfg.merge_from_list(list(options))
        return cfg

    return make
