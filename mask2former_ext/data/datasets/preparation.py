"""What the scripts that prepare datasets share: options, several processes, going on after a stop."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...files import whole_file, write_json
from .loading import datasets_root

Item = TypeVar("Item")
Result = TypeVar("Result")


def parse_options(
    description: str | None, arguments: Sequence[str] | None, splits: Sequence[str] = ("train", "val")
) -> argparse.Namespace:
    """Parse the options of a preparation script: root, splits (of those that there are), workers, limit."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root",
        default=datasets_root(),
        help="folder of all datasets (default: $DETECTRON2_DATASETS, else ./datasets; now %(default)s)",
    )
    parser.add_argument("--splits", nargs="+", choices=splits, default=splits, help="default: all of them")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument("--limit", type=_positive, help="only so many images of each split, the first by name")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


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


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no such links, copy it, whole or not at all."""
    with whole_file(target) as unfinished:
        try:
            os.link(source.resolve(), unfinished)
        except OSError:
            shutil.copyfile(source, unfinished)


def process(
    work: Callable[[Item], Result], items: Sequence[Item], *, workers: int, description: str
) -> Iterator[Result]:
    """Yield ``work(item)`` of each item, in their order, with a progress bar on stderr.

    Args:
        work: a function that can be pickled; it runs in another process, unless there is one worker.
        workers: number of processes.
        description: stands before the bar.

    Raises:
        OSError: a process died.
        Exception: whatever ``work`` raised first; what has not begun then is not begun.
    """
    if workers == 1:
        yield from tqdm(map(work, items), total=len(items), desc=description)
        return
    with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
        try:
            yield from tqdm(pool.map(work, items), total=len(items), desc=description)
        except BrokenProcessPool as error:
            raise OSError(
                f"{description}: a process died, for want of memory or of a broken file. Run this again, with fewer"
                " --workers for the first, and with --workers 1 to see which file it is."
            ) from error
        except BaseException:  # also where the caller takes no more results
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """End this process with the one that started it: a pool's processes outlive a parent that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def make_files(
    work: Callable[[Item], None],
    items: Mapping[str, Item],
    targets: Callable[[str], Sequence[Path]],
    *,
    workers: int,
    description: str,
) -> None:
    """Make the files of each item; those of an item that are all there stay as they are.

    Args:
        work: makes the files of an item, each whole or not at all; see ``process``.
        items: what there is to do, by names.
        targets: name → the files that ``work`` makes.
    """
    remaining = [item for name, item in items.items() if not all(target.exists() for target in targets(name))]
    for _ in process(work, remaining, workers=workers, description=description):
        pass


def make_annotations(
    work: Callable[[Item], dict[str, Any]],
    items: Mapping[str, Item],
    target: Path,
    compose: Callable[[list[dict[str, Any]]], dict[str, Any]],
    *,
    is_there: Callable[[str], bool] = lambda name: True,
    workers: int,
    description: str,
) -> None:
    """Make a JSON file in COCO's format, to which each image gives a record; an interrupted run is continued.

    A file that is there, and has all of these images, stays as it is.

    Args:
        work: makes the record of an item (a JSON value), and perhaps files; see ``process``.
        items: what there is to do, by the names of the images without suffix.
        target: the JSON file.
        compose: the file's content, from the records in the order of ``items``. Its "images" have a file_name.
        is_there: whether the files of a name, beside its record, exist; if not it is done again.
    """
    if _named_images(target) >= items.keys() and all(map(is_there, items)):
        return
    journal = target.with_suffix(".unfinished")
    records = process_with_journal(work, items, journal, is_there=is_there, workers=workers, description=description)
    write_json(target, compose(records))
    journal.unlink()


def _named_images(annotations: Path) -> set[str]:
    """The names, without suffix, of the images in a JSON file in COCO's format; none of a file that is not such."""
    if not annotations.exists():
        return set()
    try:
        return {
            Path(image["file_name"]).stem for image in json.loads(annotations.read_text(encoding="utf-8"))["images"]
        }
    except (ValueError, TypeError, KeyError):
        return set()


def process_with_journal(
    work: Callable[[Item], dict[str, Any]],
    items: Mapping[str, Item],
    journal: Path,
    *,
    is_there: Callable[[str], bool],
    workers: int,
    description: str,
) -> list[dict[str, Any]]:
    """Make a record of each item; an interrupted run is continued by the next.

    Args:
        journal: a file with a line for each finished record. The caller removes it when all is done.
        work, items, is_there: see ``make_annotations``.

    Returns:
        Records in the order of ``items``.
    """
    records = {name: record for name, record in _read_journal(journal) if is_there(name)}
    remaining = [name for name in items if name not in records]
    with whole_file(journal) as unfinished:
        unfinished.write_text("".join(json.dumps(entry) + "\n" for entry in records.items()), encoding="utf-8")
    with journal.open("a", encoding="utf-8") as file:
        results = process(work, [items[name] for name in remaining], workers=workers, description=description)
        for name, record in zip(remaining, results, strict=True):
            file.write(json.dumps([name, record]) + "\n")
            file.flush()
            records[name] = record
    return [records[name] for name in items]


def _read_journal(journal: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    if not journal.exists():
        return
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            name, record = json.loads(line)
        except ValueError:
            return  # the end of a run that was stopped while writing
        yield name, record
