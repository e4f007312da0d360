"""The benchmark of the mappers on a few tiny images."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former_ext.benchmark import data, data_files
from mask2former_ext.benchmark.data import DataOptions, _registered, format_report, run_data_benchmark
from mask2former_ext.benchmark.data_files import make_dataset
from mask2former_ext.config import load_config

DATASET = "benchmark_of_mappers"
SIZES = ("INPUT.IMAGE_SIZE", 64, "INPUT.MIN_SIZE_TRAIN", (48,), "INPUT.CROP.ENABLED", False, "INPUT.FORMAT", "RGB")
OPTIONS = DataOptions(configs=[], opts=SIZES, images=2, generated=True, repeats=2)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(data_files, "HEIGHT", 60)
    monkeypatch.setattr(data_files, "WIDTH", 80)
    monkeypatch.setattr(data_files, "REACH", (5.0, 30.0))
    monkeypatch.setattr(data, "GENERATED_OBJECTS", (3, 3))
    MetadataCatalog.get(DATASET).set(ignore_label=255)
    yield
    MetadataCatalog.remove(DATASET)


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(name: str, text: str) -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"DATASETS: {{TRAIN: ['{DATASET}']}}\n{text}")
        return str(path)

    return write


def maskformer(mapper: str, classes: int = 5) -> str:
    return (
        f"INPUT: {{DATASET_MAPPER_NAME: {mapper}}}\n"
        f"MODEL: {{META_ARCHITECTURE: MaskFormer, SEM_SEG_HEAD: {{NUM_CLASSES: {classes}}}}}\n"
    )


MASK_RCNN = "MODEL: {META_ARCHITECTURE: GeneralizedRCNN, MASK_ON: true}\n"


def test_every_kind_of_mapper_in_one_report(config: Any) -> None:
    names = ["coco_instance_lsj", "coco_panoptic_lsj", "mask_former_semantic"]
    configs = [config(name, maskformer(name)) for name in names] + [config("mask_rcnn", MASK_RCNN)]
    report = run_data_benchmark(replace(OPTIONS, configs=configs))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["benchmark"] == "data" and report["environment"]["threads"] == 1
    rows = report["results"]
    assert [row["config"] for row in rows] == configs
    assert [row["mapper"] for row in rows] == [*names, "Detectron2"]
    for row in rows:
        assert (row["data"], row["images"], row["runs"]) == ("generated", 2, 2)
        assert 0 < row["slowest"] <= row["images_per_second"] <= row["fastest"]
        ratio = row["images_per_second"] / rows[0]["images_per_second"]
        assert row["ratio_to_first"] == pytest.approx(ratio)
        assert 0 < row["objects"] <= 7
        parts = [row[f"{stage}_ms"] for stage in ("annotations", "augment", "targets", "rest")]
        assert (parts[0] is None) == (parts[2] is None) == (row["mapper"] == "Detectron2")
        assert all(part > 0 for part in parts if part is not None)
        # the parts are means, and add up to an image's time
        total = sum(part or 0 for part in parts)
        assert 1000 / row["fastest"] <= total * 1.001 and total <= 1.001 * 1000 / row["slowest"]
    assert rows[0]["bytes_per_image"] > 3 * 64 * 64
    # Detectron2's mapper was not given the label map, which it would send at eight bytes a pixel
    assert rows[-1]["bytes_per_image"] < 8 * 48 * 64
    table = format_report(report)
    assert "| Detectron2 " in table and "annotations that were made up" in table


def test_registered_data_is_taken_where_it_is(config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = make_dataset(tmp_path, images=5, objects=(2, 2), classes=3)
    path = config("instance", maskformer("coco_instance_lsj"))
    DatasetCatalog.register(DATASET, lambda: records)
    try:
        report = run_data_benchmark(replace(OPTIONS, configs=[path], generated=False))
        made_up = run_data_benchmark(replace(OPTIONS, configs=[path]))
        chosen = _registered(load_config(path), 2)
    finally:
        DatasetCatalog.remove(DATASET)
    assert report["results"][0]["data"] == DATASET
    assert "made up" not in format_report(report)
    assert made_up["results"][0]["data"] == "generated"
    assert [record["image_id"] for record in chosen] == [0, 2]
    with caplog.at_level(logging.WARNING, logger="mask2former_ext.benchmark"):
        absent = run_data_benchmark(replace(OPTIONS, configs=[path], generated=False))
    assert f"data set {DATASET} is not here" in caplog.text
    assert absent["results"][0]["data"] == "generated"


def test_bytes_are_those_of_a_pickled_sample(config: Any) -> None:
    path = config("instance", maskformer("coco_instance_lsj"))
    [small] = run_data_benchmark(replace(OPTIONS, configs=[path]))["results"]
    opts = [*SIZES, "INPUT.IMAGE_SIZE", 128]
    [large] = run_data_benchmark(replace(OPTIONS, configs=[path], opts=opts))["results"]
    grown = large["bytes_per_image"] - small["bytes_per_image"]
    # pixels of the image, and an eighth of a byte for each of a mask's
    assert grown == pytest.approx((3 + small["objects"] / 8) * (128**2 - 64**2), rel=0.1)
    assert len(pickle.dumps(np.zeros((3, 64, 64), np.uint8))) < small["bytes_per_image"]


def test_labels_fit_the_config_with_fewest_classes(config: Any) -> None:
    configs = [config(f"of_{k}", maskformer("coco_panoptic_lsj", k)) for k in (7, 2)]
    rows = run_data_benchmark(replace(OPTIONS, configs=configs))["results"]
    assert len(rows) == 2


def test_a_config_twice(config: Any) -> None:
    path = config("instance", maskformer("coco_instance_lsj"))
    with pytest.raises(ValueError, match="name each once"):
        run_data_benchmark(replace(OPTIONS, configs=[path, path]))
