"""Which implementation is chosen, and what is said about it."""

import logging

import pytest
import torch

from mask2former_ext.ops import extension
from mask2former_ext.ops.extension import Extension, choose, serves_capability

CPU_ONLY = Extension(loaded=True, torch="2.15.0", compiler="12")
HOPPER = Extension(loaded=True, torch="2.15.0", compiler="12", cuda="13.0", cuda_architectures=("8.0", "9.0"))


@pytest.mark.parametrize(
    ("architectures", "capability", "served"),
    [
        (("8.0",), (8, 0), True),
        (("8.0",), (8, 9), True),
        (("8.6",), (8, 0), False),
        (("8.0",), (9, 0), False),
        (("8.0+PTX",), (9, 0), True),
        (("9.0+PTX",), (8, 0), False),
        (("9.0a",), (9, 0), True),
        (("7.5", "10.0"), (10, 0), True),
        ((), (9, 0), False),
    ],
)
def test_architectures_and_capabilities(architectures, capability, served):
    assert serves_capability(architectures, capability) == served


def test_the_cpu_gets_the_compiled_operators_where_there_are_any():
    assert choose(torch.device("cpu"), CPU_ONLY).compiled
    choice = choose(torch.device("cpu"), Extension(loaded=False, problem="No module named _C"))
    assert not choice.compiled and "No module named _C" in choice.reason and "--no-build-isolation" in choice.reason


def test_devices_that_nothing_was_compiled_for_get_the_reference():
    choice = choose(torch.device("cuda"), CPU_ONLY)
    assert not choice.compiled and "FORCE_CUDA=1" in choice.reason
    assert "xpu" in choose(torch.device("xpu"), HOPPER).reason


@pytest.mark.parametrize("capability", [(8, 6), (9, 0)])
def test_a_gpu_that_was_compiled_for(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose(torch.device("cuda"), HOPPER).compiled


def test_a_gpu_of_another_architecture_raises_the_line_that_builds_for_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    with pytest.raises(
        RuntimeError, match=r"8\.0 9\.0, but Some GPU has 12\.0.*TORCH_CUDA_ARCH_LIST=12\.0 pip install"
    ):
        choose(torch.device("cuda"), HOPPER)


def test_the_choice_is_logged_once(monkeypatch, caplog):
    extension._choose_and_log.cache_clear()
    with caplog.at_level(logging.INFO, logger=extension.__name__):
        assert extension.uses_compiled("cpu", None) and extension.uses_compiled("cpu", None)
    assert caplog.text.count("Multi-scale deformable attention on cpu: compiled") == 1


def test_a_library_that_does_not_load_is_no_error(monkeypatch):
    def fail(name):
        raise ImportError("undefined symbol: something")

    monkeypatch.setattr(extension.importlib, "import_module", fail)
    found = extension.load_extension.__wrapped__()
    assert not found.loaded and "undefined symbol" in found.problem


def test_a_library_of_older_sources_is_left_out(monkeypatch):
    monkeypatch.setattr(extension, "OPERATORS", (*extension.OPERATORS, "of_a_later_version"))
    found = extension.load_extension.__wrapped__()
    assert not found.loaded and "older than these sources: no of_a_later_version" in found.problem


def test_a_library_of_another_python_is_named(monkeypatch, tmp_path):
    def fail(name):
        raise ModuleNotFoundError("No module named 'mask2former_ext._C'")

    (tmp_path / "ops").mkdir()
    (tmp_path / "_C.cpython-27-x86_64-linux-gnu.so").touch()
    monkeypatch.setattr(extension.importlib, "import_module", fail)
    monkeypatch.setattr(extension, "__file__", str(tmp_path / "ops" / "extension.py"))
    problem = extension.load_extension.__wrapped__().problem
    assert problem.endswith("; there is one of another Python: _C.cpython-27-x86_64-linux-gnu.so")


def test_a_variable_leaves_the_library_out(monkeypatch):
    monkeypatch.setenv(extension.REFERENCE_SWITCH, "1")
    found = extension.load_extension.__wrapped__()
    assert not found.loaded and extension.REFERENCE_SWITCH in found.problem
    monkeypatch.setenv(extension.REFERENCE_SWITCH, "0")
    assert extension.load_extension.__wrapped__().loaded
