"""The page that shows the demonstration's models side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..comparison import ModelSpec, compare, write_report
from ..config import load_config

PAGE, FIGURES = "comparison.html", "report.json"


def write_comparison(config_files: Mapping[str, Path], output_dir: Path, overrides: Sequence[str] = ()) -> Path:
    """Evaluate the models that :func:`run_model` trained once more, and write what the comparison report shows.

    Args:
        config_files: name of a model → its YAML config. All are compared on the test set of the first.
        output_dir: that they were trained in; gets the page.
        overrides: alternating config keys and values.

    Returns:
        The page.

    Raises:
        OSError, ValueError: a model, or the test set, cannot be read.
    """
    specs = [
        ModelSpec(name, os.path.relpath(config_file), str(output_dir / config_file.stem / "model_final.pth"))
        for name, config_file in config_files.items()
    ]
    cfg = load_config(specs[0].config_file, overrides)
    page = output_dir / PAGE
    write_report(compare(specs, cfg.DATASETS.TEST[0], overrides), page, output_dir / FIGURES)
    return page
