"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = re.compile(r"\..+\.\d+\.tmp(\.[^.]*)?")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give the path of a temporary file beside ``path`` that takes its place when the block ends without an error.

    Its name begins with a dot and ends as ``path`` does, because many writers choose a format by that. The folder is
    made when there is none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: str | Path) -> None:
    """Remove what :func:`whole_file` left in ``folder`` when its process was killed; nobody may be writing there."""
    for path in Path(folder).iterdir():
        if UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any, *, indent: int | None = None) -> None:
    """Write ``content`` as JSON, whole or not at all.

    Raises:
        ValueError: there is a number in it that is not finite, for which JSON has no form.
    """
    write_text(path, json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False) + "\n")
