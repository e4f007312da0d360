"""The quickstart dataset: made from the photograph, loaded through Detectron2, consistent with itself."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from detectron2.data import DatasetCatalog, build_detection_train_loader
from PIL import Image
from skimage import data

from mask2former_ext.data import build_dataset_mapper, datasets
from mask2former_ext.data.datasets.loading import datasets_root

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_coins.py"
COINS = {"train": (12, 6), "val": (6,)}  # per image


@pytest.fixture(scope="module")
def prepare_coins():
    spec = importlib.util.spec_from_file_location("prepare_coins", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def root(prepare_coins, tmp_path_factory):
    """A folder of datasets with the coins in it, registered."""
    root = tmp_path_factory.mktemp("datasets")
    assert prepare_coins.prepare(root)
    datasets.register_all(str(root))
    yield root
    datasets.register_all(datasets_root())


def pixels(path):
    return np.asarray(Image.open(path))


def test_exactly_24_coins_and_none_is_cut(prepare_coins):
    labels = prepare_coins.label_coins(data.coins())
    assert sorted(np.unique(labels)) == list(range(25))
    seen = []
    for split, parts in prepare_coins.PARTS.items():
        inside = [set(np.unique(labels[part.rows, part.columns])) - {0} for part in parts]
        assert tuple(map(len, inside)) == COINS[split]
        seen += [coin for coins in inside for coin in coins]
    assert sorted(seen) == list(range(1, 25))  # each coin lies in one part alone


def test_another_photograph_is_refused(prepare_coins):
    with pytest.raises(RuntimeError, match="instead of 24"):
        prepare_coins.label_coins(data.coins()[:200])


def test_the_parts_are_the_photograph(root):
    left, bottom, right = (
        pixels(root / "coins" / path)
        for path in ("train/upper_left.png", "train/bottom_row.png", "val/upper_right.png")
    )
    photograph = np.concatenate([np.concatenate([left, right], axis=1), bottom])
    np.testing.assert_array_equal(photograph, np.stack([data.coins()] * 3, axis=2))


@pytest.mark.parametrize("split", COINS)
def test_panoptic_instance_and_semantic_annotations_agree(split, root):
    annotations = root / "coins" / "annotations"
    panoptic = json.loads((annotations / f"panoptic_{split}.json").read_text())
    instances = json.loads((annotations / f"instances_{split}.json").read_text())
    assert len(panoptic["annotations"]) == len(COINS[split])
    for entry, count in zip(panoptic["annotations"], COINS[split], strict=True):
        ids = pixels(root / "coins" / f"panoptic_{split}" / entry["file_name"]).astype(int) @ [1, 256, 65536]
        labels = pixels(root / "coins" / f"panoptic_semseg_{split}" / entry["file_name"])
        segments = {segment["id"]: segment for segment in entry["segments_info"]}
        assert set(np.unique(ids)) == set(segments)
        coins = {segment_id for segment_id, segment in segments.items() if segment["category_id"] == 1}
        assert len(coins) == count and len(segments) == count + 1
        np.testing.assert_array_equal(labels, np.where(np.isin(ids, list(coins)), 0, 1))

        found = [a for a in instances["annotations"] if a["image_id"] == entry["image_id"]]
        assert {annotation["id"] for annotation in found} == coins
        for annotation in found:
            mask = ids == annotation["id"]
            np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]), mask)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert annotation["area"] == segments[annotation["id"]]["area"] == mask.sum() > 1000
            assert annotation["bbox"] == [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]


@pytest.mark.parametrize("split", COINS)
def test_it_loads_for_every_task(split, root, mapper_cfg):
    records = DatasetCatalog.get(f"coins_{split}")
    options = ("DATASETS.TRAIN", (f"coins_{split}",), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2, "INPUT.IMAGE_SIZE", 128)
    for record, coins in zip(records, COINS[split], strict=True):
        assert {"file_name", "image_id", "height", "width", "pan_seg_file_name", "sem_seg_file_name"} < record.keys()
        assert [annotation["category_id"] for annotation in record["annotations"]] == [0] * coins
        counts = {
            "coco_panoptic_lsj": coins + 1,
            "coco_instance_lsj": coins,
            "mask_former_panoptic": coins + 1,
            "mask_former_instance": coins,
            "mask_former_semantic": 2,
        }
        for name, count in counts.items():
            no_crop = ("INPUT.MIN_SIZE_TRAIN", (100,), "INPUT.MIN_SCALE", 1.0, "INPUT.MAX_SCALE", 1.0)
            mapper = build_dataset_mapper(mapper_cfg(name, *options, *no_crop))
            assert len(mapper(record)["instances"]) == count, name


def test_it_feeds_a_detectron2_loader(root, mapper_cfg):
    options = ("DATASETS.TRAIN", ("coins_train",), "DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2)
    cfg = mapper_cfg("coco_panoptic_lsj", *options, "INPUT.IMAGE_SIZE", 64)
    batch = next(iter(build_detection_train_loader(cfg, mapper=build_dataset_mapper(cfg))))
    assert [item["image"].shape for item in batch] == [(3, 64, 64)] * 2


def test_running_again_verifies(prepare_coins, tmp_path, capsys):
    arguments = ["--root", str(tmp_path)]
    assert prepare_coins.main(arguments) == 0
    assert "written" in capsys.readouterr().out
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert prepare_coins.main(arguments) == 0
    assert "already there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


@pytest.mark.parametrize(
    "file", ["val/upper_right.png", "annotations/panoptic_train.json", "panoptic_semseg_train/bottom_row.png"]
)
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_damage_is_found_and_left_as_it_is(file, content, prepare_coins, tmp_path, capsys):
    prepare_coins.prepare(tmp_path)
    path = tmp_path / "coins" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert prepare_coins.main(["--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"coins/{file}" in said and "Remove the folder" in said
    assert path.exists() == (content is not None)


def test_a_failure_on_the_way_leaves_nothing(prepare_coins, tmp_path, monkeypatch):
    written = []

    def fail_at_the_third(path, content, write=prepare_coins.write):
        if len(written) == 3:
            raise OSError("disk full")
        written.append(write(path, content))

    monkeypatch.setattr(prepare_coins, "write", fail_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        prepare_coins.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(prepare_coins, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert prepare_coins.main(["--root", str(tmp_path / "file")]) == 1
    assert "Not a directory" in capsys.readouterr().err


def test_help_shows_an_example(prepare_coins, capsys):
    with pytest.raises(SystemExit) as stop:
        prepare_coins.main(["--help"])
    assert stop.value.code == 0
    assert "example: python datasets/prepare_coins.py" in capsys.readouterr().out
