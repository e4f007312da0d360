"""Several processes on this machine, which train and evaluate together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import yaml
from tiny_coins import COMMON, MASK_FORMER, merged, write_split

HELPERS = Path(__file__).parents[1] / "helpers"
# Many images without labels, so that some of a step's processes have nothing to learn from.
COINS = {
    1: None,
    2: [(8, 8, 24, 24)],
    3: None,
    4: [(5, 10, 30, 35), (40, 20, 60, 50)],
    5: None,
    6: [(20, 20, 60, 40)],
    7: [(10, 10, 20, 30), (30, 30, 50, 50), (55, 5, 70, 20)],
}
SETTINGS = {
    # Images of a batch must not see each other, nor be put together by their shape; dropout differs between processes.
    "MODEL": {"RESNETS": {"NORM": "FrozenBN"}, "MASK_FORMER": {"DROPOUT": 0.0}},
    "DATALOADER": {"ASPECT_RATIO_GROUPING": False},
    "SOLVER": {"IMS_PER_BATCH": 4, "MAX_ITER": 5, "CHECKPOINT_PERIOD": 100, "BASE_LR": 0.001},
    "TEST": {"EVAL_PERIOD": 0},
}


def make_workplace(folder):
    """Write a config, and its dataset in ``datasets``."""
    for split in ("train", "val"):
        write_split(folder / "datasets" / "coins", split, COINS)
    config = merged(merged(merged(COMMON, MASK_FORMER), SETTINGS), {"SOLVER": {"AMP": {"ENABLED": False}}})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def environment(folder, **variables):
    """Of a process that finds helpers and datasets."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = os.pathsep.join(filter(None, [str(HELPERS), os.environ.get("PYTHONPATH")]))
    own = {"DETECTRON2_DATASETS": str(folder / "datasets"), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return inherited | own | {name: str(value) for name, value in variables.items()}


def start(folder, action, processes):
    """Start so many processes of helpers/worker.py, as a job scheduler would."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    command = [sys.executable, str(HELPERS / "worker.py"), str(folder), action]
    several = {
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(folder, **({"RANK": rank, "LOCAL_RANK": rank} | several if processes > 1 else {})),
        )
        for rank in range(processes)
    ]
