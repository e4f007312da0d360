"""python -m mask2former_ext.collect_env: what it says, and that its self-test notices what is broken."""

import re
import subprocess
import sys

import pytest
import torch

import mask2former_ext
from mask2former_ext import collect_env
from mask2former_ext.ops.extension import Extension, load_extension

CPU = torch.device("cpu")
HOPPER = Extension(loaded=True, torch="2.15.0", compiler="12", cuda="13.0", cuda_architectures=("8.0", "9.0"))


def test_as_a_command():
    command = [sys.executable, "-m", "mask2former_ext.collect_env"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    shown = dict(line.split("  ", maxsplit=1) for line in lines if "  " in line)
    assert shown["mask2former_ext"].strip() == mask2former_ext.__version__
    assert shown["torch"].strip() == torch.__version__
    for name in ("Python", "torchvision", "detectron2", "numpy", "PIL", "cv2", "CUDA of torch", "compiler"):
        assert shown[name].strip()
    assert shown["deformable attention, cpu"].strip().startswith("compiled: ")
    assert lines[-1] == "self-test: all 5 passed" or torch.cuda.is_available()


def test_full_adds_detectron2s_report(monkeypatch, capsys):
    monkeypatch.setattr("detectron2.utils.collect_env.collect_env_info", lambda: "DETECTRON2'S REPORT")
    monkeypatch.setattr(collect_env, "devices", lambda: [CPU])
    assert collect_env.main([]) == 0
    assert "DETECTRON2'S REPORT" not in capsys.readouterr().out
    assert collect_env.main(["--full"]) == 0
    assert "DETECTRON2'S REPORT" in capsys.readouterr().out


def test_a_missing_module_is_named():
    assert collect_env.module_version("no_such_module").startswith("not importable: No module named")
    assert collect_env.module_version("pycocotools") > "2"  # says it only in its metadata


def test_operators_that_do_not_load(monkeypatch):
    missing = Extension(loaded=False, problem="No module named 'mask2former_ext._C'")
    monkeypatch.setattr(collect_env, "load_extension", lambda: missing)
    text = collect_env.environment_text()
    assert "not loaded: No module named 'mask2former_ext._C'" in text
    assert "reference (plain PyTorch): there are no compiled operators" in text
    assert "--no-build-isolation" in text


def show_a_gpu(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(collect_env, "load_extension", lambda: HOPPER)


def test_a_gpu_and_the_architectures_compiled_for(monkeypatch):
    show_a_gpu(monkeypatch, (9, 0))
    text = collect_env.environment_text()
    assert re.search(r"^compiled architectures +8\.0 9\.0$", text, flags=re.MULTILINE)
    assert "Some GPU (compute capability 9.0)" in text
    assert "deformable attention, cuda:0  compiled: compiled for CUDA 13.0" in text


def test_a_gpu_that_nothing_was_compiled_for_shows_the_line_that_does(monkeypatch):
    show_a_gpu(monkeypatch, (12, 0))
    text = collect_env.environment_text()
    assert "deformable attention, cuda:0  NOTHING: " in text
    assert "TORCH_CUDA_ARCH_LIST=12.0 pip install" in text


def run_with(monkeypatch, capsys, operator):
    """The exit status and the output with ``operator`` in the place of multi-scale deformable attention."""
    monkeypatch.setattr(collect_env, "devices", lambda: [CPU])
    monkeypatch.setattr(collect_env, "ms_deform_attn", operator)
    return collect_env.main([]), capsys.readouterr().out


def test_a_wrong_forward_fails(monkeypatch, capsys):
    right = collect_env.ms_deform_attn
    status, shown = run_with(monkeypatch, capsys, lambda *inputs: 1.1 * right(*inputs))
    assert status == 1
    assert "cpu: operator in float64: FAILED: error against float64 above 1e-09 (error forward 1.0e-01" in shown
    assert shown.endswith("self-test: 4 of 5 FAILED\n")


def test_a_wrong_backward_fails(monkeypatch, capsys):
    right = collect_env.ms_deform_attn

    def operator(value, shapes, starts, locations, weights):
        # the same output, but weights get the gradient of twice the output
        output = right(value, shapes, starts, locations, weights)
        return output + right(value.detach(), shapes, starts, locations.detach(), weights) - output.detach()

    status, shown = run_with(monkeypatch, capsys, operator)
    assert status == 1
    assert "cpu: operator in float32: FAILED" in shown


def test_results_that_are_not_finite_fail(monkeypatch, capsys):
    right = collect_env.ms_deform_attn
    status, shown = run_with(monkeypatch, capsys, lambda *inputs: right(*inputs) * float("nan"))
    assert status == 1 and "forward inf" in shown


def test_an_operator_that_raises_fails_with_its_words(monkeypatch, capsys):
    def operator(*inputs):
        raise RuntimeError("Build it again with: TORCH_CUDA_ARCH_LIST=12.0")

    status, shown = run_with(monkeypatch, capsys, operator)
    assert status == 1
    assert "operator in float32: FAILED: RuntimeError: Build it again with: TORCH_CUDA_ARCH_LIST=12.0" in shown


def test_a_module_that_does_not_learn_fails(monkeypatch):
    monkeypatch.setattr(collect_env, "STEP_SIZE", -0.1)
    checks = {check.name: check.problem for check in collect_env.self_test([CPU])}
    assert checks.pop("training step") == "the loss does not fall"
    assert set(checks.values()) == {""}


def test_what_time_did_not_suffice_for_is_no_success():
    checks = collect_env.self_test([CPU], seconds=0)
    assert {check.problem for check in checks} == {"not run: 0 seconds were over"}
    assert "self-test: 5 of 5 FAILED" in collect_env.self_test_text(checks)


@pytest.mark.parametrize("dtype", collect_env.ERROR_LIMITS)
def test_limits_leave_room_for_rounding(dtype):
    assert load_extension().loaded
    problem, detail = collect_env.check_operator(CPU, dtype)
    assert problem == "" and detail.startswith("error forward")
