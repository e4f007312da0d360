"""The files that are made up for benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former_ext.benchmark import data_files
from mask2former_ext.benchmark.data_files import make_dataset
from mask2former_ext.data.reading import rgb_to_id


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "HEIGHT", 60)
    monkeypatch.setattr(data_files, "WIDTH", 80)
    monkeypatch.setattr(data_files, "REACH", (5.0, 30.0))


def test_annotations_agree_with_each_other(tmp_path: Path) -> None:
    records = make_dataset(tmp_path, images=3, objects=(4, 6), classes=9)
    assert len(records) == 3
    for record in records:
        assert np.asarray(Image.open(record["file_name"])).shape == (60, 80, 3)
        assert 4 <= len(record["annotations"]) <= 6
        ids = rgb_to_id(np.asarray(Image.open(record["pan_seg_file_name"])))
        semantic = np.asarray(Image.open(record["sem_seg_file_name"]))
        assert {segment["id"] for segment in record["segments_info"]} == set(np.unique(ids).tolist())
        for segment in record["segments_info"]:
            assert set(semantic[ids == segment["id"]].tolist()) == {segment["category_id"]}
            assert 0 <= segment["category_id"] < 9
        # the object that was drawn last is whole
        last = record["annotations"][-1]
        left, top, right, bottom = last["bbox"]
        rows, columns = np.nonzero(ids == ids.max())
        assert semantic[rows[0], columns[0]] == last["category_id"]
        assert columns.min() >= left - 1 and columns.max() <= right + 1
        assert rows.min() >= top - 1 and rows.max() <= bottom + 1


def test_one_seed_makes_the_same_files(tmp_path: Path) -> None:
    def files(name: str, seed: int) -> list[bytes]:
        folder = tmp_path / name
        folder.mkdir()
        make_dataset(folder, images=2, objects=(2, 2), classes=3, seed=seed)
        return [file.read_bytes() for file in sorted(folder.iterdir())]

    first = files("first", 1)
    assert len(first) == 6
    assert files("second", 1) == first
    assert files("third", 2) != first


def test_one_object_in_five_has_two_parts(tmp_path: Path) -> None:
    [record] = make_dataset(tmp_path, images=1, objects=(10, 10), classes=3)
    assert [len(annotation["segmentation"]) for annotation in record["annotations"]] == [1, 1, 1, 1, 2] * 2
