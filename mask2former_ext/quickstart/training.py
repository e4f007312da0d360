"""Runs the training script on a config as a process of its own, with its progress on the log."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

# A progress line of Detectron2's CommonMetricPrinter.
_PROGRESS = re.compile(r"eta: (?P<eta>(?:\d+ days?, )?[\d:]+).*? iter: (?P<iteration>\d+) .*?total_loss: (?P<loss>\S+)")
_LINES_KEPT_FOR_ERRORS = 30


def train(script: Path, config_file: Path, output_dir: Path, overrides: Sequence[str] = ()) -> None:
    """Train and evaluate a model, and log a short line for each progress report of the script.

    What an earlier run left in ``output_dir/metrics.json`` is removed, because Detectron2 appends to that file.

    Args:
        script: path of ``tools/train_net.py``.
        config_file: the YAML config to train.
        output_dir: becomes ``OUTPUT_DIR``; everything the script logs is in its ``log.txt``.
        overrides: alternating config keys and values.

    Raises:
        RuntimeError: the script failed before the final model was written; the message ends with what it said last.
            That it finds ``TEST.EXPECTED_RESULTS`` missed at its end is no such failure.
    """
    final_model = output_dir / "model_final.pth"
    for stale in (output_dir / "metrics.json", final_model):
        stale.unlink(missing_ok=True)
    command = [
        sys.executable,
        str(script),
        "--config-file",
        str(config_file),
        *overrides,
        "OUTPUT_DIR",
        str(output_dir),
    ]
    last_lines: deque[str] = deque(maxlen=_LINES_KEPT_FOR_ERRORS)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last_lines.append(line)
            progress = shorten_progress(line)
            if progress:
                logger.info("  %s", progress)
    if not final_model.exists():
        raise RuntimeError(
            f"'{' '.join(command)}' ended with status {process.returncode} before a model was trained. "
            f"It said last:\n{''.join(last_lines)}"
        )


def shorten_progress(line: str) -> str | None:
    """Shorten a progress line of Detectron2's to iteration, loss and remaining time; None for any other line."""
    match = _PROGRESS.search(line)
    if match is None:
        return None
    # Detectron2 counts iterations from 0.
    return f"iteration {int(match['iteration']) + 1}, loss {float(match['loss']):.2f}, time left {match['eta']}"
