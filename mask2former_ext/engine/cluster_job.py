"""Training as a job of a Slurm cluster, through submitit: each task of the job is a worker of the training script.

When the cluster is about to end the job, for its time is up or for a job of higher priority, training writes a
checkpoint, and the job goes back to the queue, to resume from it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import submitit

logger = logging.getLogger(__name__)

# From where jobs, which may share a machine, choose a port by their id.
FIRST_PORT, NUM_PORTS = 20000, 20000
# Seconds for the iteration that is under way, and for its checkpoint.
GRACE = 300


class TrainingJob:
    """One task of a job; submitit calls it on the cluster, and asks for its continuation before the job ends."""

    def __init__(self, script: str | Path, arguments: Sequence[str]) -> None:
        """
        Args:
            script: ``tools/train_net.py``, or one that takes the same arguments.
            arguments: of the script.
        """
        self.script = str(script)
        self.arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run the script as the worker that this task is; RuntimeError when it fails."""
        variables = worker_variables(submitit.JobEnvironment())
        self._process = subprocess.Popen(
            [sys.executable, self.script, *self.arguments], env={**os.environ, **variables}
        )
        status = self._process.wait()
        if status:
            raise RuntimeError(f"{self.script} ended with status {status}; what it said is in this task's log.")

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Let training write its checkpoint, and return the job that goes on from there."""
        if self._process is not None:
            logger.info("Ending training with a checkpoint, then to the queue again.")
            self._process.send_signal(signal.SIGTERM)
            if not _ends_within(self._process.pid, GRACE):
                logger.warning("No checkpoint within %d seconds: the last one will do.", GRACE)
                self._process.kill()
        resume = [] if "--resume" in self.arguments else ["--resume"]
        return submitit.helpers.DelayedSubmission(TrainingJob(self.script, [*resume, *self.arguments]))

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_process": None}


def _ends_within(child: int, seconds: float) -> bool:
    """Wait for a child process, as a signal handler may: what it interrupts is waiting for that child too."""
    deadline = time.monotonic() + seconds
    try:
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
    except ChildProcessError:  # it has ended, and somebody has taken note
        pass
    return True


def worker_variables(environment: submitit.JobEnvironment) -> dict[str, str]:
    """Return the variables that torchrun would set, for a task of a job."""
    hosts = environment.hostnames
    numbers = {
        "RANK": environment.global_rank,
        "WORLD_SIZE": environment.num_tasks,
        "LOCAL_RANK": environment.local_rank,
        "LOCAL_WORLD_SIZE": environment.num_tasks // environment.num_nodes,
        "MASTER_PORT": FIRST_PORT + zlib.crc32(environment.job_id.encode()) % NUM_PORTS,
    }
    address = hosts[0] if environment.num_nodes > 1 else "127.0.0.1"
    return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": address}
