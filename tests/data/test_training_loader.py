"""Which batches training sees: by the seed alone, from any of them on."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import TrainingSampler
from PIL import Image

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.data import TrainingLoader, build_training_loader
from mask2former_ext.data import training_loader as module

WIDE = {"width": 3, "height": 2}
HIGH = {"width": 2, "height": 3}


def records(sizes):
    return [{"file_name": f"{index}.jpg", "image_id": index, **size} for index, size in enumerate(sizes)]


def mapper(record):
    """Adds what the random numbers of all three libraries are."""
    return record | {"drawn": (random.random(), np.random.rand(), torch.rand(1).item())}


def make(sizes=(WIDE,) * 7, mapper=mapper, **options):
    options = {
        "seed": 3,
        "batch_size": 2,
        "aspect_ratio_grouping": False,
        "num_workers": 0,
        "max_bad_images": 0,
    } | options
    made = records(sizes)
    return TrainingLoader(made, mapper, lambda seed: TrainingSampler(len(made), seed=seed), **options)


def first(loader, count):
    return list(itertools.islice(loader, count))


def test_all_images_come_once_before_any_comes_twice():
    ids = [record["image_id"] for batch in first(make(), 7) for record in batch]
    assert sorted(ids[:7]) == list(range(7)) == sorted(ids[7:])
    assert ids[:7] != ids[7:]


def test_random_numbers_differ_between_samples_and_depend_on_the_seed():
    drawn = [record["drawn"] for batch in first(make(), 7) for record in batch]
    assert len(set(drawn)) == 14
    assert drawn == [record["drawn"] for batch in first(make(), 7) for record in batch]
    assert drawn != [record["drawn"] for batch in first(make(seed=4), 7) for record in batch]


def test_the_seed_may_change_until_the_first_batch():
    loader = make(seed=4)
    loader.seed = 3
    assert first(loader, 3) == first(make(), 3)


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_the_middle_are_those_of_the_whole(grouping, workers):
    sizes = [WIDE, HIGH, HIGH, WIDE, HIGH]
    whole = first(make(sizes, aspect_ratio_grouping=grouping), 11)
    loader = make(sizes, aspect_ratio_grouping=grouping, num_workers=workers)
    loader.start_at(4)
    assert first(loader, 7) == whole[4:]


def test_processes_share_the_stream(monkeypatch):
    """Two processes with two images each see the samples, and their augmentations, of one process with four."""
    together = first(make(batch_size=4), 5)
    monkeypatch.setattr(module.comm, "get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(module.comm, "get_rank", lambda rank=rank: rank)
        shares.append(first(make(), 5))
    for whole, mine, others in zip(together, *shares, strict=True):
        assert whole == [mine[0], others[0], mine[1], others[1]]


def test_nothing_is_read_before_the_first_batch_is_asked_for():
    def fail(record):
        raise AssertionError

    iterator = iter(make(mapper=fail))
    with pytest.raises(AssertionError):
        next(iterator)


def test_images_of_one_orientation_are_batched_together():
    for batch in first(make([WIDE, HIGH, HIGH, WIDE, HIGH], aspect_ratio_grouping=True), 10):
        assert len({record["width"] > record["height"] for record in batch}) == 1


@pytest.mark.parametrize(("orientation", "wide"), [(1, True), (3, True), (6, False), (8, False)])
def test_without_sizes_files_tell_the_orientation(tmp_path, orientation, wide):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image.jpg"
    Image.new("RGB", (6, 4)).save(path, exif=exif)
    assert module._is_wide_file(str(path)) is wide
    path.write_bytes(b"no image")
    assert module._is_wide_file(str(path)) is False


@pytest.mark.parametrize("kind", [2, 7])  # text, bytes of any meaning
def test_an_orientation_that_is_no_number_turns_nothing(tmp_path, kind):
    entry = struct.pack(">HHHL", 1, 0x0112, kind, 4) + b"6666" + bytes(4)
    Image.new("RGB", (6, 4)).save(tmp_path / "image.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08" + entry)
    assert module._is_wide_file(str(tmp_path / "image.jpg")) is True


def refuse(*bad):
    def mapper(record):
        if record["image_id"] in bad:
            raise ValueError("cannot be read")
        return record

    return mapper


def test_a_bad_image_ends_training_unless_told_otherwise():
    with pytest.raises(ValueError, match="cannot be read"):
        first(make(mapper=refuse(5)), 7)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_images_are_replaced_counted_and_named(workers, caplog):
    loader = make(mapper=refuse(5, 6), max_bad_images=2, num_workers=workers)
    batches = first(loader, 14)
    ids = [record["image_id"] for batch in batches for record in batch]
    assert len(ids) == 28 and not {5, 6} & set(ids)
    whole = [record["image_id"] for batch in first(make(), 14) for record in batch]
    assert [one for one, other in zip(ids, whole) if other < 5] == [one for one in whole if one < 5]
    assert loader.num_bad_images == 2  # however often they come
    messages = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message.split(" (DATALOADER")[0] for message in messages] == [f"Bad image {n} of at most 2" for n in (1, 2)]
    assert sorted(message.split(": ", 1)[1] for message in messages) == [
        f"image {n}.jpg (image_id {n}): cannot be read" for n in (5, 6)
    ]
    assert batches == first(make(mapper=refuse(5, 6), max_bad_images=2), 14)


def test_more_bad_images_than_allowed_end_training():
    with pytest.raises(ValueError, match=r"2 bad images, more than DATALOADER.MAX_BAD_IMAGES 1; the last: .*[56]\.jpg"):
        first(make(mapper=refuse(5, 6), max_bad_images=1), 20)


def test_when_nothing_can_be_read_it_ends_too():
    with pytest.raises(ValueError, match="takes none of the 7 images"):
        first(make(mapper=refuse(*range(7)), max_bad_images=20), 1)
    with pytest.raises(ValueError, match="takes none of the 7 images"):
        first(make(mapper=lambda record: None), 1)


def test_samples_that_the_mapper_does_not_want_are_replaced_without_counting():
    loader = make(mapper=lambda record: record if record["image_id"] != 5 else None)
    assert 5 not in [record["image_id"] for batch in first(loader, 7) for record in batch]
    assert loader.num_bad_images == 0


def test_loading_processes_outlive_the_signals_of_a_job():
    def mapper(record):
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        return record | {"seconds_left": signal.alarm(0)}

    batch = first(make(mapper=mapper, num_workers=1), 1)[0]
    assert 0 < batch[0]["seconds_left"] <= module.GRACE


def test_loading_processes_do_not_keep_the_program_from_ending(tmp_path):
    """Python ends child processes by SIGTERM when it exits, and waits for them."""
    code = """
    from detectron2.data.samplers import TrainingSampler
    from mask2former_ext.data import TrainingLoader

    loader = TrainingLoader(
        [{"file_name": "1.jpg"}] * 3, dict, lambda seed: TrainingSampler(3, seed=seed), seed=1, batch_size=1,
        aspect_ratio_grouping=False, num_workers=2, max_bad_images=0,
    )
    batches = iter(loader)
    next(batches)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=100, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_abandoned_batches_end_their_processes():
    """Also in a circle of references, which the garbage collector takes apart in an order of its own."""
    before = set(multiprocessing.active_children())
    batches = iter(make(num_workers=2))
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == 2
    circle = [batches]
    circle.append(circle)
    del batches, circle
    start = time.monotonic()
    gc.collect()
    assert not set(multiprocessing.active_children()) - before
    assert time.monotonic() - start < 5  # after which PyTorch gives up waiting


@pytest.mark.parametrize("workers", [0, 2])
def test_closed_batches_end_their_processes_and_begin_anew(workers):
    before = set(multiprocessing.active_children())
    loader = make(num_workers=workers)
    batches = iter(loader)
    expected = [next(batches) for _ in range(3)]
    batches.close()
    assert not set(multiprocessing.active_children()) - before
    loader.start_at(1)
    assert [next(batches) for _ in range(2)] == expected[1:]
    batches.close()


NAME = "dataset_of_the_training_loader"


@pytest.fixture
def cfg():
    annotated = [record | {"annotations": [{"category_id": 0, "iscrowd": 0}]} for record in records([WIDE] * 4)]
    annotated[1]["annotations"] = [{"category_id": 1, "iscrowd": 0}]
    annotated[2]["annotations"] = []
    DatasetCatalog.register(NAME, lambda: annotated)
    MetadataCatalog.get(NAME).set(thing_classes=["often", "rare"])
    cfg = get_cfg_defaults()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_instance_lsj"
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SEED = 5
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def places(loader, count):
    return [[place.image for place in batch] for batch in itertools.islice(loader._places(), count)]


@pytest.mark.parametrize("empty_ones", [True, False])
def test_images_without_annotations_as_the_config_says(cfg, empty_ones):
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = not empty_ones
    seen = {index for batch in places(build_training_loader(cfg), 4) for index in batch}
    assert len(seen) == 3 + empty_ones


def test_samplers(cfg):
    orders = {}
    for name in ("TrainingSampler", "RandomSubsetTrainingSampler", "RepeatFactorTrainingSampler"):
        cfg.DATALOADER.SAMPLER_TRAIN = name
        cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.67
        cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
        orders[name] = [index for batch in places(build_training_loader(cfg), 60) for index in batch]
        assert orders[name] == [index for batch in places(build_training_loader(cfg), 60) for index in batch]
    assert set(orders["TrainingSampler"]) == {0, 1, 2}
    assert len(set(orders["RandomSubsetTrainingSampler"])) == 2
    # of three images one has the rare class, which its repeat factor (1 / (1 / 3))^½ brings closer to the other
    assert orders["RepeatFactorTrainingSampler"].count(1) > 42


def test_an_unknown_sampler_is_named(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "Sampler"
    with pytest.raises(ValueError, match="SAMPLER_TRAIN is 'Sampler'; known are TrainingSampler, "):
        build_training_loader(cfg)


def test_categories_are_not_counted_where_there_are_none(cfg, monkeypatch):
    monkeypatch.setattr(module, "get_detection_dataset_dicts", lambda *args, **options: records([WIDE]))
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    with pytest.raises(ValueError, match=r"by the categories of their annotations; .* has images without\. Use"):
        build_training_loader(cfg)


def test_a_batch_that_cannot_be_divided_is_refused(cfg, monkeypatch):
    monkeypatch.setattr(module.comm, "get_world_size", lambda: 4)
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 2, which cannot be divided among 4 processes"):
        build_training_loader(cfg)


def test_without_a_seed_two_runs_differ(cfg):
    cfg.SEED = -1
    seeds = {build_training_loader(cfg).seed for _ in range(3)}
    assert len(seeds) == 3


def test_datasets_of_pytorch_come_by_detectron2s_loader(cfg, caplog):
    class Own(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return records([WIDE, WIDE])[index]

    own = Own()
    DatasetCatalog.register("own_dataset_of_pytorch", lambda: own)
    cfg.DATASETS.TRAIN = ("own_dataset_of_pytorch",)
    try:
        assert not isinstance(build_training_loader(cfg), TrainingLoader)
    finally:
        DatasetCatalog.remove("own_dataset_of_pytorch")
    assert "resumed training sees others" in caplog.text
