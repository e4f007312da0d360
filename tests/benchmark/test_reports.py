import json

import pytest
import torch

from mask2former_ext.benchmark.reports import device_name, environment, markdown_table, write_json


def test_table_lines_up():
    assert markdown_table(["a", "long"], [["xyz", "1"], ["", "–"]]) == "\n".join(
        ["| a   | long |", "|-----|------|", "| xyz | 1    |", "|     | –    |"]
    )


def test_json_is_written_whole(tmp_path):
    path = tmp_path / "new" / "report.json"
    write_json(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("broken", [{"a": object()}, {"a": float("nan")}])
def test_json_that_cannot_be_written_leaves_what_there_was(tmp_path, broken):
    path = tmp_path / "report.json"
    path.write_text("before")
    with pytest.raises((TypeError, ValueError)):
        write_json(path, broken)
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_environment_says_where_figures_are_from():
    found = environment(torch.device("cpu"))
    assert found["threads"] == 1 and found["torch"] == torch.__version__
    assert torch.backends.cpu.get_cpu_capability() in found["device"]
    assert found["date"].endswith("+00:00")
    assert found["extension"].startswith("C++ ")


def test_name_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    assert device_name(torch.device("cuda")) == "Some GPU (compute capability 9.0)"
