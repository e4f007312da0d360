"""Several processes on this machine, which train and evaluate together."""

from __future__ import annotations

import pytest
from worker_processes import make_workplace, start


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder with a config, and with its dataset in ``datasets``."""
    folder = tmp_path_factory.mktemp("workers")
    make_workplace(folder)
    return folder


@pytest.fixture
def start_workers(workplace):
    """Starts processes of helpers/worker.py; those that still run at the end are killed."""
    started = []

    def start_in_workplace(action, processes):
        started.extend(start(workplace, action, processes))
        return started[-processes:]

    yield start_in_workplace
    for process in started:
        process.kill()
        process.communicate()
