"""Jobs of a cluster, by submitit's executor for this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from worker_processes import environment

submitit = pytest.importorskip("submitit")

from mask2former_ext.engine.cluster_job import TrainingJob, worker_variables  # noqa: E402

ROOT = Path(__file__).parents[2]
SCRIPT = """
    import json, os, signal, sys, time
    from pathlib import Path

    folder = Path(sys.argv[-1])
    resumed = "--resume" in sys.argv
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

    def end(number, frame):
        (folder / f"checkpoint_{os.environ['RANK']}").touch()
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)
    found = {name: os.environ[name] for name in names} | {"resumed": resumed, "task": os.getppid()}
    (folder / f"task_{os.environ['RANK']}{'_resumed' * resumed}.json").write_text(json.dumps(found))
    if "wait" in sys.argv and not resumed:
        time.sleep(120)
    sys.exit(int("fail" in sys.argv))
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def submit(tmp_path, job, tasks=1):
    executor = submitit.AutoExecutor(folder=tmp_path / "logs", cluster="local")
    executor.update_parameters(tasks_per_node=tasks, timeout_min=5)
    return executor.submit(job)


def wait_for(path):
    for _ in range(600):
        if path.exists() and path.stat().st_size:
            return json.loads(path.read_text())
        time.sleep(0.1)
    raise AssertionError(f"there is no {path.name}")


def test_every_task_is_a_worker(tmp_path, script):
    submit(tmp_path, TrainingJob(script, [str(tmp_path)]), tasks=2).results()
    workers = [wait_for(tmp_path / f"task_{rank}.json") for rank in range(2)]
    for rank, worker in enumerate(workers):
        assert worker["RANK"] == worker["LOCAL_RANK"] == str(rank)
        assert worker["WORLD_SIZE"] == worker["LOCAL_WORLD_SIZE"] == "2"
        assert worker["MASTER_ADDR"] == "127.0.0.1" and not worker["resumed"]
    assert workers[0]["MASTER_PORT"] == workers[1]["MASTER_PORT"]
    assert 20000 <= int(workers[0]["MASTER_PORT"]) < 40000


def test_a_script_that_fails_fails_the_job(tmp_path, script):
    job = submit(tmp_path, TrainingJob(script, ["fail", str(tmp_path)]))
    with pytest.raises(submitit.core.utils.FailedJobError, match="ended with status 1"):
        job.result()


def test_a_preempted_job_writes_a_checkpoint_and_resumes(tmp_path, script):
    job = submit(tmp_path, TrainingJob(script, ["wait", str(tmp_path)]))
    os.kill(wait_for(tmp_path / "task_0.json")["task"], signal.SIGUSR2)  # as Slurm does for submitit
    assert wait_for(tmp_path / "task_0_resumed.json")["resumed"]
    assert (tmp_path / "checkpoint_0").exists()
    job.results()


def test_a_job_resumes_once_however_often_it_is_preempted():
    job = TrainingJob("script.py", ["--config-file", "a.yaml"])
    for _ in range(2):
        job = job.checkpoint().function
        assert job.arguments == ["--resume", "--config-file", "a.yaml"]


def test_several_machines_meet_at_the_first():
    of_slurm = SimpleNamespace(
        global_rank=11, num_tasks=16, local_rank=3, num_nodes=2, hostnames=["node7", "node9"], job_id="4711_2"
    )
    found = worker_variables(of_slurm)
    assert found["MASTER_ADDR"] == "node7"
    assert (found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"], found["LOCAL_WORLD_SIZE"]) == (
        "11",
        "3",
        "16",
        "8",
    )


def test_the_command_trains_by_the_local_executor(workplace, tmp_path):
    """train_net.py in two workers that a job starts."""
    command = [sys.executable, str(ROOT / "tools" / "submit_slurm.py"), "--cluster", "local", "--tasks-per-node", "2"]
    command += ["--wait", "--logs", str(tmp_path / "logs"), "--", "--config-file", str(workplace / "config.yaml")]
    command += ["OUTPUT_DIR", str(tmp_path / "output"), "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(workplace), timeout=300)
    logs = "".join(path.read_text() for path in (tmp_path / "logs").rglob("*.err"))
    assert done.returncode == 0, done.stderr + logs
    assert (tmp_path / "output" / "model_final.pth").exists()
    assert os.path.exists(tmp_path / "output" / "log.txt.rank1")
