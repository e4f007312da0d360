import torch

from mask2former_ext.benchmark.reports import device_name, environment, markdown_table


def test_table_lines_up():
    assert markdown_table(["a", "long"], [["xyz", "1"], ["", "–"]]) == "\n".join(
        ["| a   | long |", "|-----|------|", "| xyz | 1    |", "|     | –    |"]
    )


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
