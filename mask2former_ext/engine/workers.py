"""Several processes that train together: those of Detectron2's launcher, of torchrun, or of a cluster's job.

torchrun and job schedulers start the processes and tell them about each other by environment variables; Detectron2's
launcher starts one for each GPU by itself.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2.engine import launch as launch_per_gpu
from detectron2.utils import comm

logger = logging.getLogger(__name__)

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# How long a process waits for the others: as long as Detectron2's, because evaluation can take one of them that long.
TIMEOUT = datetime.timedelta(minutes=30)


def is_worker() -> bool:
    """Tell whether torchrun, or what sets the same :data:`VARIABLES`, started this process as one of several."""
    return all(name in os.environ for name in VARIABLES)


def launch(main: Callable[[argparse.Namespace], None], arguments: argparse.Namespace, *, device: str) -> None:
    """Run ``main(arguments)`` in all processes that the command line or the environment asks for.

    Args:
        main: what each process does.
        arguments: with those of Detectron2's ``default_argument_parser``: ``num_gpus``, ``num_machines``,
            ``machine_rank``, ``dist_url``. Started by torchrun, only the environment counts.
        device: ``MODEL.DEVICE``: processes on GPUs talk by NCCL, others by Gloo.

    Raises:
        ValueError: a process for each of several GPUs is asked for, and there are fewer.
    """
    if is_worker():
        join(device)
        main(arguments)
        dist.destroy_process_group()  # not after an error: the others may never come
        return
    processes = arguments.num_gpus * arguments.num_machines
    if processes > 1 and (device.startswith("cpu") or torch.cuda.device_count() < arguments.num_gpus):
        raise ValueError(
            f"--num-gpus {arguments.num_gpus} starts a process for each GPU, and MODEL.DEVICE is '{device}' on a "
            f"machine with {torch.cuda.device_count()} GPUs. Several processes without GPUs: torchrun --nproc-per-node "
            f"{arguments.num_gpus} tools/train_net.py ... MODEL.DEVICE cpu"
        )
    launch_per_gpu(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )


def join(device: str) -> None:
    """Make this process one of the :data:`VARIABLES`' workers, for torch.distributed and for Detectron2."""
    on_gpus = not device.startswith("cpu")
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if on_gpus:
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"worker {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}. Start as many "
                "workers as there are GPUs, or append: MODEL.DEVICE cpu"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=TIMEOUT)
    _tell_detectron2_of_this_machine(local_size)
    comm.synchronize()
    logger.info("Worker %d of %d.", comm.get_rank(), comm.get_world_size())


def _tell_detectron2_of_this_machine(local_size: int) -> None:
    """Make the group of this machine's workers known; workers of a machine have consecutive ranks."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    for first in range(0, dist.get_world_size(), local_size):  # Detectron2 0.6 has it in its launcher alone
        group = dist.new_group(list(range(first, first + local_size)))
        if first <= dist.get_rank() < first + local_size:
            comm._LOCAL_PROCESS_GROUP = group
