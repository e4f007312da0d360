"""Endless training batches that depend on a seed alone, any of which can be the first.

A sample's random augmentations come from the seed and from the sample's place in the stream of all samples, not from
what was drawn before. So a run that is resumed goes on with exactly the batches that it would have had, whatever the
number of loading processes.
"""

from __future__ import annotations

import atexit
import logging
import signal
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.samplers import RandomSubsetTrainingSampler, RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from PIL import ExifTags, Image
from torch.utils.data import DataLoader, Dataset, Sampler

from ..config import is_maskformer
from ..seeding import derive_seed, seeded
from .mapper import build_dataset_mapper
from .reading import DatasetDict, describe

logger = logging.getLogger(__name__)

# Seconds that a loading process lives on after SIGTERM.
GRACE = 300

Mapper = Callable[[DatasetDict], DatasetDict | None]
MakeSampler = Callable[[int], Sampler]
"""Seed → sampler of this process's share of an endless stream of indices."""


class Place(NamedTuple):
    """One sample of the stream: where it stands in it, over all processes, and the index of its image."""

    position: int
    image: int


class Mapped(NamedTuple):
    """What the mapper gave for a sample, and the images that it refused before that, with its reasons."""

    sample: DatasetDict
    refused: dict[int, str]


class TrainingLoader:
    """Iterable of batches, each a list of mapped dataset dicts; nothing is read before the first is asked for.

    Attributes:
        seed: of the order of images and of their augmentations; it may be changed before the first batch.
        num_bad_images: images that were replaced so far, each counted once.
    """

    def __init__(
        self,
        records: Sequence[DatasetDict],
        mapper: Mapper,
        make_sampler: MakeSampler,
        *,
        seed: int,
        batch_size: int,
        aspect_ratio_grouping: bool,
        num_workers: int,
        max_bad_images: int,
    ) -> None:
        """
        Args:
            records: dataset dicts.
            mapper: makes a sample of a record. It raises ValueError or OSError for a bad one, and None stands for a
                sample that is not wanted: another image takes its place.
            make_sampler: makes the sampler, from a seed that is the same in all processes.
            seed: of the order of images and of their augmentations.
            batch_size: images of this process in a batch.
            aspect_ratio_grouping: put images that are wider than high in batches of their own, so that they need less
                padding. Their size is read from the file where the record does not have it.
            num_workers: processes that load; 0 loads in this one.
            max_bad_images: so many images that the mapper raises an error for are replaced by others.
        """
        self.seed = seed
        self._records = DatasetFromList(list(records), copy=False)
        self._mapper = mapper
        self._make_sampler = make_sampler
        self._batch_size = batch_size
        self._wide = [_is_wide(record) for record in records] if aspect_ratio_grouping else None
        self._num_workers = num_workers
        self._max_bad_images = max_bad_images
        self._bad_images: set[int] = set()
        self._first_batch = 0

    @property
    def num_bad_images(self) -> int:
        return len(self._bad_images)

    def start_at(self, batch: int) -> None:
        """Let batch number ``batch`` be the next that iteration begins with."""
        self._first_batch = batch

    def __iter__(self) -> Batches:
        return Batches(self._batches)

    def _batches(self) -> Generator[list[DatasetDict], None, None]:
        samples = _Samples(self._records, self._mapper, self.seed, self._max_bad_images)
        loader = DataLoader(
            samples,
            batch_sampler=islice(self._places(), self._first_batch, None),
            num_workers=self._num_workers,
            collate_fn=list,
            worker_init_fn=_outlive_signals,
        )
        for batch in loader:
            for mapped in batch:
                self._count(mapped.refused)
            yield [mapped.sample for mapped in batch]

    def _places(self) -> Iterator[list[Place]]:
        """The batches of this process, as places in the stream."""
        groups: dict[bool, list[Place]] = {True: [], False: []}
        rank, processes = comm.get_rank(), comm.get_world_size()
        for number, index in enumerate(self._make_sampler(self.seed)):
            group = groups[self._is_wide(index)]
            group.append(Place(rank + number * processes, index))
            if len(group) == self._batch_size:
                yield group[:]
                group.clear()

    def _is_wide(self, index: int) -> bool:
        if self._wide is None:
            return False
        known = self._wide[index]
        if known is None:
            known = self._wide[index] = _is_wide_file(self._records[index]["file_name"])
        return known

    def _count(self, refused: Mapping[int, str]) -> None:
        """Log what was left out; ValueError when it is more than allowed."""
        for index in refused.keys() - self._bad_images:
            self._bad_images.add(index)
            logger.warning(
                "Bad image %d of at most %d (DATALOADER.MAX_BAD_IMAGES), others take its place: %s",
                *(self.num_bad_images, self._max_bad_images, refused[index]),
            )
        if self.num_bad_images > self._max_bad_images:
            raise _too_many(self.num_bad_images, self._max_bad_images, refused[index])


class Batches(Iterator[list[DatasetDict]]):
    """Batches of a :class:`TrainingLoader`, and the processes that load them."""

    def __init__(self, start: Callable[[], Generator[list[DatasetDict], None, None]]) -> None:
        """
        Args:
            start: begins to load, and gives the batches.
        """
        self._start = start
        self._running: list[Generator[list[DatasetDict], None, None]] = []
        # What loads hangs on the finalizer, not on this object alone: the garbage collector would take the queues to
        # the processes away before it tells them to end, and wait for them in vain.
        finalizer = weakref.finalize(self, _close, self._running)
        # before multiprocessing ends loading processes by a signal, which they would outlive
        finalizer.atexit = False
        atexit.register(finalizer)

    def __next__(self) -> list[DatasetDict]:
        if not self._running:
            self._running.append(self._start())
        return next(self._running[0])

    def close(self) -> None:
        """End the processes that load. Who asks for another batch begins anew, where ``start_at`` says."""
        _close(self._running)


def _close(running: list[Generator[list[DatasetDict], None, None]]) -> None:
    while running:
        running.pop().close()


class _Samples(Dataset):
    """Maps records, each with the random numbers of its place in the stream."""

    def __init__(self, records: Sequence[DatasetDict], mapper: Mapper, seed: int, max_bad_images: int) -> None:
        self._records = records
        self._mapper = mapper
        self._seed = seed
        self._max_bad_images = max_bad_images

    def __getitem__(self, place: Place) -> Mapped:
        refused: dict[int, str] = {}
        with seeded(derive_seed(self._seed, place.position)):
            for index in self._choices(place.image):
                sample = self._map(index, refused)
                if sample is not None:
                    return Mapped(sample, refused)
                if len(refused) > self._max_bad_images:
                    raise _too_many(len(refused), self._max_bad_images, refused[index])
        raise ValueError(f"the mapper takes none of the {len(self._records)} images.")

    def _choices(self, wanted: int) -> Iterator[int]:
        """The index that is wanted, then all others in random order."""
        yield wanted
        yield from (index for index in np.random.permutation(len(self._records)).tolist() if index != wanted)

    def _map(self, index: int, refused: dict[int, str]) -> DatasetDict | None:
        record = self._records[index]
        try:
            return self._mapper(record)
        except (ValueError, OSError) as error:
            if not self._max_bad_images:
                raise
            refused[index] = f"{describe(record)}: {error}"
            return None


def _too_many(count: int, allowed: int, last: str) -> ValueError:
    return ValueError(f"{count} bad images, more than DATALOADER.MAX_BAD_IMAGES {allowed}; the last: {last}")


def _outlive_signals(worker: int) -> None:
    """Let what asks a whole job to end (Ctrl-C, Slurm) end the main process in its own time, not what it waits for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


def _is_wide(record: DatasetDict) -> bool | None:
    """Whether an image is wider than high; None if its record has no size."""
    return record["width"] > record["height"] if "width" in record and "height" in record else None


def _is_wide_file(path: str) -> bool:
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)  # of no type that one can trust
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return False  # the mapper reads the file, and says what is wrong with it
    return (height > width) if turned else (width > height)


def build_training_loader(cfg: CfgNode) -> Any:
    """Build the training batches of a config: those of ``DATASETS.TRAIN``, by the sampler of ``DATALOADER``.

    Returns:
        A :class:`TrainingLoader`. For datasets that are no lists, but PyTorch datasets of a user's own, the loader of
        Detectron2, which cannot begin in the middle.

    Raises:
        ValueError: the batch cannot be divided among processes, or ``DATALOADER.SAMPLER_TRAIN`` is unknown, or does not
            do for the dataset.
    """
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    mapper = build_dataset_mapper(cfg, is_train=True) if is_maskformer(cfg) else DatasetMapper(cfg, is_train=True)
    if not isinstance(records, list):
        logger.warning(
            "%s is no list of dicts: its batches come from Detectron2's loader, and resumed training sees others than "
            "it would have seen.",
            ", ".join(cfg.DATASETS.TRAIN),
        )
        return build_detection_train_loader(cfg, mapper=mapper, dataset=records)
    processes = comm.get_world_size()
    if processes > cfg.SOLVER.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which cannot be divided among {processes} processes."
        )
    return TrainingLoader(
        records,
        mapper,
        _sampler_from_config(cfg, records),
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        batch_size=cfg.SOLVER.IMS_PER_BATCH // processes,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        max_bad_images=cfg.DATALOADER.MAX_BAD_IMAGES,
    )


def _sampler_from_config(cfg: CfgNode, records: Sequence[DatasetDict]) -> MakeSampler:
    name, node = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER
    logger.info("Using training sampler %s", name)
    if name == "TrainingSampler":
        return lambda seed: TrainingSampler(len(records), seed=seed)
    if name == "RandomSubsetTrainingSampler":
        ratio = node.RANDOM_SUBSET_RATIO
        return lambda seed: RandomSubsetTrainingSampler(len(records), ratio, seed_shuffle=seed, seed_subset=seed)
    if name == "RepeatFactorTrainingSampler":
        if not all("annotations" in record for record in records):
            raise ValueError(
                "DATALOADER.SAMPLER_TRAIN is 'RepeatFactorTrainingSampler', which counts images by the categories of "
                f"their annotations; {', '.join(cfg.DATASETS.TRAIN)} has images without. Use TrainingSampler."
            )
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, node.REPEAT_THRESHOLD)
        return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN is '{name}'; known are TrainingSampler, RandomSubsetTrainingSampler and "
        "RepeatFactorTrainingSampler. To train with a sampler of your own, override build_train_loader in a subclass "
        "of mask2former_ext.engine.Trainer."
    )
