"""Names of classes from a file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path


def read_class_names(path: Path) -> list[str]:
    """Read names of classes, in the order of their labels.

    Args:
        path: a .json file that holds a list of names, or else text with a name in each line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else, no name, or a name twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors begin files with a mark
        names = json.loads(text) if path.suffix.lower() == ".json" else [line.strip() for line in text.splitlines()]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: this file does not exist (the names of classes).") from error
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read: {error}. Give a JSON list of names, or text in UTF-8.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: this is no list of names, as in {json.dumps(['road', 'sky'])}.")
    while names and not names[-1]:
        names.pop()
    wrong = sorted(name for name, times in Counter(names).items() if not name or times > 1)
    if wrong or not names:
        raise ValueError(f"{path}: every class needs a name of its own; wrong are {wrong or 'all, there is none'}.")
    return names
