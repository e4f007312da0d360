"""From a config, weights and a dataset to the best thresholds."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, Metadata, MetadataCatalog, build_detection_test_loader
from detectron2.utils.file_io import PathManager
from tqdm import tqdm

from ..classes import thing_labels
from ..config import is_maskformer
from ..engine import check_datasets, check_device
from ..evaluation.panoptic_truth import PanopticTruth
from ..predictor import load_trained_model
from .grid import PanopticGrid
from .predictions import PredictionFolder, RawPrediction, predict
from .selection import Thresholds, TuningResult, choose_thresholds

logger = logging.getLogger(__name__)

HASH_CHUNK = 2**20
VALUES = tuple(number / 20 for number in range(20))  # 0, 0.05, … 0.95


def tune_thresholds(
    cfg: CfgNode,
    *,
    dataset_name: str = "",
    folder: str | Path | None = None,
    precision: str = "float16",
    values: Sequence[float] = VALUES,
) -> TuningResult:
    """Find the object-mask and overlap thresholds with the highest PQ on a dataset.

    The network runs once an image, in this process. At the config's thresholds the figures are those of
    ``train_net.py --eval-only``, but for the rounding of saved predictions, and of the last digit of resized masks,
    which depends on how many are resized at a time.

    Args:
        cfg: a MaskFormer with panoptic results; ``MODEL.WEIGHTS`` is what it loads.
        dataset_name: a panoptic dataset; empty for that of ``DATASETS.TEST``.
        folder: where raw predictions are kept; those that are there already are not made again. None keeps nothing.
        precision: of the masks in files, see :class:`PredictionFolder`.
        values: to try for either threshold, beside the config's own.

    Raises:
        OSError: the weights, or a file of the dataset, are missing.
        ValueError: config, dataset, weights and folder do not fit each other, or PQ is not defined.
    """
    cfg = _for_dataset(cfg, dataset_name)
    check_device(cfg)
    check_datasets(cfg)
    (name,) = cfg.DATASETS.TEST
    truth = PanopticTruth(name)
    test = cfg.MODEL.MASK_FORMER.TEST
    own = Thresholds(float(test.OBJECT_MASK_THRESHOLD), float(test.OVERLAP_THRESHOLD))
    # the model tells things from stuff as the set that it was trained on does, see MaskFormer.from_config
    things = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else Metadata()
    grid = PanopticGrid(
        [*values, own.object_mask],
        [*values, own.overlap],
        num_categories=len(truth.is_thing),
        thing_labels=thing_labels(things),
        category_index=truth.category_index,
    )
    saved = PredictionFolder(folder, identity_of(cfg), precision) if folder else None
    for image_id, prediction in raw_predictions(cfg, saved):
        grid.add(prediction, truth.load(image_id))
    return choose_thresholds(grid, truth.is_thing, own)


def _for_dataset(cfg: CfgNode, dataset_name: str) -> CfgNode:
    """The config with one dataset in ``DATASETS.TEST``; ValueError if it is not for panoptic results."""
    cfg = cfg.clone()
    cfg.defrost()
    if dataset_name:
        cfg.DATASETS.TEST = (dataset_name,)
    if len(cfg.DATASETS.TEST) != 1:
        raise ValueError(f"DATASETS.TEST names {len(cfg.DATASETS.TEST)} datasets; choose one by --dataset.")
    if not (is_maskformer(cfg) and cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON):
        raise ValueError(
            "the thresholds are those of MaskFormer's panoptic results, which this config does not have. Append: "
            "MODEL.MASK_FORMER.TEST.PANOPTIC_ON True"
        )
    cfg.freeze()
    return cfg


def identity_of(cfg: CfgNode) -> dict[str, str]:
    """What the raw predictions depend on: the model, its weights by their SHA-256, the dataset and the input's size."""
    model = cfg.MODEL.clone()
    model.defrost()
    del model.MASK_FORMER["TEST"], model["DEVICE"], model["WEIGHTS"]
    digest = hashlib.sha256()
    if cfg.MODEL.WEIGHTS:
        with PathManager.open(cfg.MODEL.WEIGHTS, "rb") as file:
            while chunk := file.read(HASH_CHUNK):
                digest.update(chunk)
    return {
        "dataset": cfg.DATASETS.TEST[0],
        "weights": digest.hexdigest(),
        "averaged weights": str(cfg.MODEL_EMA.ENABLED),
        "input": f"{cfg.INPUT.FORMAT} {cfg.INPUT.MIN_SIZE_TEST} {cfg.INPUT.MAX_SIZE_TEST}",
        "model": model.dump(),
    }


def raw_predictions(cfg: CfgNode, saved: PredictionFolder | None) -> Iterator[tuple[int | str, RawPrediction]]:
    """Image id and prediction of every image of ``DATASETS.TEST[0]``, in the dataset's order, with a progress bar.

    Args:
        cfg: of a MaskFormer.
        saved: where predictions are taken from, and those that are missing are put.
    """
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    missing = [record for record in records if saved is None or not saved.has(record["image_id"])]
    if saved is not None and len(missing) < len(records):
        logger.info("%d of %d predictions are there already.", len(records) - len(missing), len(records))
    made = _predictions_of_network(cfg, missing) if missing else iter(())
    missing_ids = {record["image_id"] for record in missing}
    for record in tqdm(records, desc="Images", unit="image"):
        image_id = record["image_id"]
        if image_id not in missing_ids:
            assert saved is not None
            yield image_id, saved.load(image_id, cfg.MODEL.DEVICE)
            continue
        prediction = next(made)
        yield image_id, saved.save(image_id, prediction) if saved else prediction


def _predictions_of_network(cfg: CfgNode, records: list[dict[str, Any]]) -> Iterator[RawPrediction]:
    model = load_trained_model(cfg)  # now, not at the first image
    return (prediction for inputs in build_test_loader(cfg, records) for prediction in predict(model, inputs))


def build_test_loader(cfg: CfgNode, records: list[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """Load some dataset dicts, one at a time, as an evaluation does."""
    return build_detection_test_loader(
        records, mapper=DatasetMapper(cfg, is_train=False), num_workers=cfg.DATALOADER.NUM_WORKERS
    )
