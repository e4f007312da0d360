"""What the scripts that prepare datasets share: options, several processes, whole files only, going on after a stop."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from .loading import datasets_root

Item = TypeVar("Item")
Result = TypeVar("Result")


def parse_options(description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options of a preparation script: root, splits, workers, limit."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root",
        default=datasets_root(),
        help="folder of all datasets (default: $DETECTRON2_DATASETS, else ./datasets; now %(default)s)",
    )
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=("train", "val"))
    parser.add_argument("--workers", type=_positive, default=os.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument("--limit", type=_positive, help="only so many images of each split, the first by name")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file beside ``path`` that takes its place when the block ends without an error."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def save_png(path: Path, array: np.ndarray) -> None:
    """Write a uint8 image [H, W] or [H, W, 3] as PNG, whole or not at all.

    Raises:
        OSError: it could not be written, or what was written reads otherwise.
    """
    with whole_file(path) as unfinished:
        Image.fromarray(array).save(unfinished, format="PNG")
        with Image.open(unfinished) as image:
            if not np.array_equal(np.asarray(image), array):
                raise OSError(f"{path}: what was written reads otherwise. Check the disk.")


def save_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content), encoding="utf-8")


def process(
    work: Callable[[Item], Result], items: Sequence[Item], *, workers: int, description: str
) -> Iterator[Result]:
    """Yield ``work(item)`` of each item, in their order, with a progress bar on stderr.

    Args:
        work: a function that can be pickled; it runs in another process, unless there is one worker.
        workers: number of processes.
        description: stands before the bar.
    """
    if workers == 1:
        yield from tqdm(map(work, items), total=len(items), desc=description)
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            yield from tqdm(pool.map(work, items, chunksize=8), total=len(items), desc=description)
        finally:
            # after an error in one, what has not begun is not begun
            pool.shutdown(wait=False, cancel_futures=True)


def process_with_journal(
    work: Callable[[str], dict[str, Any]],
    names: Sequence[str],
    journal: Path,
    *,
    is_there: Callable[[str], bool],
    workers: int,
    description: str,
) -> list[dict[str, Any]]:
    """Make a record (JSON) of each name; an interrupted run is continued by the next.

    Args:
        work: makes the record of a name, and perhaps files; see ``process``.
        names: what there is to do, without repetition.
        journal: a file with a line for each finished record. The caller removes it when all is done.
        is_there: whether the files of a name, beside its record, exist; if not it is done again.

    Returns:
        Records in the order of ``names``.
    """
    records = {name: record for name, record in _read_journal(journal) if is_there(name)}
    remaining = [name for name in names if name not in records]
    with whole_file(journal) as unfinished:
        unfinished.write_text("".join(json.dumps(entry) + "\n" for entry in records.items()), encoding="utf-8")
    with journal.open("a", encoding="utf-8") as file:
        results = process(work, remaining, workers=workers, description=description)
        for name, record in zip(remaining, results, strict=True):
            file.write(json.dumps([name, record]) + "\n")
            file.flush()
            records[name] = record
    return [records[name] for name in names]


def _read_journal(journal: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    if not journal.exists():
        return
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            name, record = json.loads(line)
        except ValueError:
            return  # the end of a run that was stopped while writing
        yield name, record
