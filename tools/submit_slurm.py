#!/usr/bin/env python
"""Submit training to a Slurm cluster (needs: pip install submitit); a job that is preempted resumes by itself.

Everything after -- goes to tools/train_net.py, on every task of the job.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """
Examples:

Two machines with eight GPUs each, for up to two days:
    $ tools/submit_slurm.py --nodes 2 --gpus-per-node 8 --hours 48 --partition gpu -- \\
        --config-file configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml OUTPUT_DIR /shared/output/r50

The same on this machine, without Slurm and without GPUs, to try it out:
    $ tools/submit_slurm.py --cluster local --tasks-per-node 2 --wait -- --config-file CONFIG MODEL.DEVICE cpu
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1, help="machines (default: %(default)s)")
    parser.add_argument("--gpus-per-node", type=int, default=0, help="GPUs of each, one a task (default: none)")
    parser.add_argument("--tasks-per-node", type=int, help="default: as many as GPUs, else 1")
    parser.add_argument("--cpus-per-task", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--memory", type=int, help="GB of each machine (default: the cluster's)")
    parser.add_argument("--hours", type=float, default=24, help="until the job goes to the queue again")
    parser.add_argument("--partition", help="default: the cluster's")
    parser.add_argument("--name", default="mask2former", help="default: %(default)s")
    parser.add_argument("--logs", type=Path, default=Path("output/slurm"), help="folder (default: %(default)s)")
    parser.add_argument("--cluster", choices=["slurm", "local"], default="slurm", help="default: %(default)s")
    parser.add_argument("--wait", action="store_true", help="until the job ends; fail if it does")
    parser.add_argument("arguments", nargs="+", help="of tools/train_net.py, after --")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        import submitit

        from mask2former_ext.engine.cluster_job import TrainingJob
    except ImportError as error:
        print(f"submit_slurm.py: {error}. Install it: pip install submitit", file=sys.stderr)
        return 1
    executor = submitit.AutoExecutor(folder=options.logs / "%j", cluster=options.cluster)
    settings = {
        "nodes": options.nodes,
        "gpus_per_node": options.gpus_per_node,
        "tasks_per_node": options.tasks_per_node or max(options.gpus_per_node, 1),
        "cpus_per_task": options.cpus_per_task,
        "mem_gb": options.memory,
        "timeout_min": round(60 * options.hours),
        "slurm_partition": options.partition,
        "name": options.name,
    }
    executor.update_parameters(**{name: value for name, value in settings.items() if value is not None})
    script = Path(__file__).resolve().with_name("train_net.py")
    try:
        job = executor.submit(TrainingJob(script, options.arguments))
    except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
        print(f"submit_slurm.py: the job was not submitted: {error}", file=sys.stderr)
        return 1
    print(f"Job {job.job_id}; its logs: {job.paths.folder}", flush=True)
    if not options.wait:
        return 0
    try:
        job.results()
    except (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError) as error:
        print(f"submit_slurm.py: job {job.job_id} failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
