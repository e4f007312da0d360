import logging

import pytest

from mask2former_ext.quickstart.training import shorten_progress, train

PROGRESS = (
    "[11/21 22:08:00 d2.utils.events]:  eta: 0:02:23  iter: 19  total_loss: 2.889  loss_cls: 0.4968  time: 0.5053  "
    "data_time: 0.0358  lr: 0.012  "
)


def test_progress_line_is_shortened():
    assert shorten_progress(PROGRESS) == "iteration 20, loss 2.89, time left 0:02:23"
    assert shorten_progress(PROGRESS.replace("0:02:23", "2 days, 1:00:00")).endswith("time left 2 days, 1:00:00")
    assert shorten_progress("[11/21 22:08:16 d2.evaluation.testing]: copypaste: Task: bbox") is None


def stand_in(tmp_path, body):
    """A script in the place of train_net.py; its last argument is the output folder."""
    script = tmp_path / "train_net.py"
    script.write_text(f"import pathlib, sys\noutput = pathlib.Path(sys.argv[-1])\noutput.mkdir(exist_ok=True)\n{body}")
    return script


def test_command_line_and_progress(tmp_path, caplog):
    script = stand_in(
        tmp_path,
        f"(output / 'arguments').write_text(' '.join(sys.argv[1:]))\nprint({PROGRESS!r})\nprint('chatter')\n"
        "(output / 'model_final.pth').touch()",
    )
    output = tmp_path / "output"
    with caplog.at_level(logging.INFO):
        train(script, tmp_path / "a.yaml", output, ["SEED", "3"])
    assert (output / "arguments").read_text() == f"--config-file {tmp_path}/a.yaml SEED 3 OUTPUT_DIR {output}"
    assert [record.getMessage().strip() for record in caplog.records] == ["iteration 20, loss 2.89, time left 0:02:23"]


def test_missed_expectation_at_the_end_is_no_failure(tmp_path):
    script = stand_in(tmp_path, "(output / 'model_final.pth').touch()\nsys.exit(1)")
    train(script, tmp_path / "a.yaml", tmp_path / "output")


def test_failure_says_what_the_script_said_and_an_earlier_run_does_not_hide_it(tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    (output / "model_final.pth").touch()
    (output / "metrics.json").write_text("{}\n")
    script = stand_in(tmp_path, "sys.exit('train_net.py: no such config')")
    with pytest.raises(RuntimeError, match=r"(?s)status 1 before a model was trained.*train_net\.py: no such config"):
        train(script, tmp_path / "a.yaml", output)
    assert not (output / "metrics.json").exists()
