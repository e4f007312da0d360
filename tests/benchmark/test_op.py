"""The benchmark of the operator on tiny sizes."""

import json
import sys
import types
from dataclasses import replace

import pytest
import torch

from mask2former_ext.benchmark import op, op_peers
from mask2former_ext.benchmark.op import OpOptions, OpRow, failures, format_report, run_op_benchmark
from mask2former_ext.benchmark.op_cases import OpSize, make_inputs
from mask2former_ext.benchmark.op_peers import Implementation, find_implementations
from mask2former_ext.ops.extension import Extension
from mask2former_ext.ops.reference import ms_deform_attn_reference

CPU = torch.device("cpu")
TINY = OpSize("tiny", levels=((2, 3), (4, 6)), batch=2, heads=2, width=8, points=2)
OPTIONS = OpOptions(sizes=[TINY], dtypes=["fp32"], offsets=["trained"], repeats=2)


@pytest.fixture(autouse=True)
def _no_other_packages(monkeypatch):
    """Whatever is installed here."""
    transformers = ("transformers", "transformers.models.mask2former.modeling_mask2former")
    for name in ("deformops", "deformops.registry", *transformers, "mmcv", "mmcv.ops"):
        monkeypatch.setitem(sys.modules, name, None)


def by_name(report):
    return {(row["direction"], row["implementation"]): row for row in report["results"]}


def test_report_can_be_written_as_json_and_holds_every_combination():
    options = replace(OPTIONS, dtypes=["fp32", "bf16"], offsets=["initialised", "trained"])
    report = run_op_benchmark(options)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["benchmark"] == "op"
    assert report["environment"]["threads"] == 1
    assert set(report["not_installed"]) == {"deformops", "transformers", "mmcv"}
    found = [
        tuple(row[key] for key in ("dtype", "offsets", "direction", "implementation")) for row in report["results"]
    ]
    assert found == [
        (dtype, offsets, direction, implementation)
        for dtype in ("fp32", "bf16")
        for offsets in ("initialised", "trained")
        for direction in ("forward", "backward")
        for implementation in ("compiled", "reference")
    ]
    assert failures(report) == []


def test_figures_follow_from_one_another():
    rows = by_name(run_op_benchmark(OPTIONS))
    for (direction, _), row in rows.items():
        reference = rows[direction, "reference"]
        assert row["queries"] == 30 and row["size"] == "tiny" and row["runs"] == 2 and row["problem"] == ""
        assert 0 < row["lowest_ms"] <= row["median_ms"] <= row["highest_ms"]
        assert row["ratio_to_reference"] == pytest.approx(reference["median_ms"] / row["median_ms"])
        assert row["bandwidth_gb_s"] == pytest.approx(row["bytes_moved"] / row["median_ms"] / 1e6)
        assert 0 <= row["error"] < 1e-5
        if row["peak_bytes"] is not None:
            assert row["peak_over_operands"] == row["peak_bytes"] / row["operand_bytes"]
    inputs = make_inputs(TINY, "trained", torch.float32, CPU)
    assert rows["forward", "compiled"]["bytes_moved"] == inputs.bytes_forward()
    assert rows["forward", "compiled"]["operand_bytes"] == inputs.bytes_forward()
    assert rows["backward", "compiled"]["bytes_moved"] == inputs.bytes_backward()
    assert rows["backward", "compiled"]["operand_bytes"] == 2 * inputs.bytes_forward()


def test_the_compiled_operator_needs_no_memory_beside_its_operands():
    size = OpSize.parse("256x2")  # 8.6 MB
    rows = by_name(run_op_benchmark(replace(OPTIONS, sizes=[size], repeats=1)))
    compiled, reference = rows["forward", "compiled"], rows["forward", "reference"]
    if compiled["peak_over_operands"] is not None:
        assert 0.9 < compiled["peak_over_operands"] < 1.2
        assert reference["peak_over_operands"] > 2
        assert 0.95 < rows["backward", "compiled"]["peak_over_operands"] < 1.2


def test_peers_that_are_not_there():
    found, absent = find_implementations(CPU)
    assert [implementation.name for implementation in found] == ["compiled", "reference"]
    assert set(absent) == {"deformops", "transformers", "mmcv"} and all(absent.values())


def test_without_compiled_operators_the_reference_stands_alone(monkeypatch):
    monkeypatch.setattr(op_peers, "load_extension", lambda: Extension(loaded=False, problem="No module named _C"))
    report = run_op_benchmark(OPTIONS)
    assert {row["implementation"] for row in report["results"]} == {"reference"}
    assert "No module named _C" in report["not_installed"]["compiled"]
    assert "not measured: compiled (there are no compiled operators (No module named _C)" in format_report(report)


def install(monkeypatch, name, version, **contents):
    """Put a package into the place of one that is not installed."""
    parent = name.split(".")[0]
    for path in [".".join(name.split(".")[: i + 1]) for i in range(name.count(".") + 1)]:
        monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
    vars(sys.modules[name]).update(contents)
    original = op_peers.importlib.metadata.version
    monkeypatch.setattr(
        op_peers.importlib.metadata, "version", lambda package: version if package == parent else original(package)
    )


def test_peers_that_are_there_get_what_they_take(monkeypatch):
    taken = {}

    def transformers_function(value, value_spatial_shapes, sampling_locations, attention_weights):
        taken["transformers"] = (value.dtype, sampling_locations.dtype, attention_weights.dtype)
        return ms_deform_attn_reference(value, value_spatial_shapes, sampling_locations, attention_weights)

    def deformops_function(value, shapes, starts, locations, weights, /):
        assert starts.tolist() == [0, 6]
        taken["deformops"] = (value.dtype, locations.dtype, weights.dtype)
        return ms_deform_attn_reference(value, shapes.tolist(), locations, weights)

    def mmcv_function(value, value_spatial_shapes, sampling_locations, attention_weights):
        taken["mmcv"] = (value.dtype, sampling_locations.dtype, attention_weights.dtype)
        return ms_deform_attn_reference(value, value_spatial_shapes.tolist(), sampling_locations, attention_weights)

    install(
        monkeypatch,
        "transformers.models.mask2former.modeling_mask2former",
        "5.0",
        multi_scale_deformable_attention=transformers_function,
    )
    install(monkeypatch, "deformops.registry", "3.0", msda=deformops_function)
    install(
        monkeypatch,
        "mmcv.ops.multi_scale_deform_attn",
        "2.2",
        multi_scale_deformable_attn_pytorch=mmcv_function,
        MultiScaleDeformableAttnFunction=torch.autograd.Function,
    )
    report = run_op_benchmark(replace(OPTIONS, dtypes=["bf16"]))
    rows = by_name(report)
    assert {name for _, name in rows} == {"compiled", "reference", "deformops 3.0", "transformers 5.0", "mmcv 2.2"}
    assert all(row["ratio_to_reference"] > 0 for row in rows.values())
    low, wide = torch.bfloat16, torch.float32
    assert taken == {
        "transformers": (low, low, low),
        "deformops": (low, wide, low),
        "mmcv": (low, low, low),
    }
    assert rows["forward", "deformops 3.0"]["error"] < 2e-2
    assert report["not_installed"] == {}


def test_a_peer_that_cannot_even_be_imported_is_absent(monkeypatch):
    def fail(device):
        raise AssertionError("ms_deform_attn_forward miss in module _ext")

    monkeypatch.setitem(op_peers.FINDERS, "mmcv", fail)
    assert find_implementations(CPU)[1]["mmcv"] == "ms_deform_attn_forward miss in module _ext"


def test_a_peer_that_fails_for_the_whole_batch_alone_has_a_problem(monkeypatch):
    def call(inputs):
        if len(inputs.value) > 1:
            raise RuntimeError("too large a batch")
        return right(inputs)

    right = with_implementations(monkeypatch)
    with_implementations(monkeypatch, peer=call)
    rows = by_name(run_op_benchmark(OPTIONS))
    assert rows["forward", "peer"]["problem"] == "RuntimeError: too large a batch"
    assert rows["backward", "peer"]["median_ms"] is None and rows["forward", "reference"]["median_ms"] > 0


def with_implementations(monkeypatch, **calls):
    reference = op_peers.FINDERS["reference"](CPU)
    implementations = [Implementation(name, call) for name, call in calls.items()]
    monkeypatch.setattr(op, "find_implementations", lambda device: ([*implementations, reference], {}))
    return reference.call


def test_wrong_answers_of_this_package_are_failures(monkeypatch):
    right = with_implementations(monkeypatch)
    with_implementations(monkeypatch, compiled=lambda inputs: 1.1 * right(inputs))
    found = failures(run_op_benchmark(OPTIONS))
    assert len(found) == 2
    assert found[0].startswith("compiled, forward, size tiny, fp32, trained: the error against float64 is 1.0e-01")


def test_results_that_are_not_finite_are_failures(monkeypatch):
    right = with_implementations(monkeypatch)
    with_implementations(monkeypatch, compiled=lambda inputs: right(inputs) + float("inf"))
    report = run_op_benchmark(OPTIONS)
    assert json.dumps(report, allow_nan=False)
    assert failures(report) == ["compiled, forward, size tiny, fp32, trained: results are not finite"]


def test_what_raises_is_reported_and_the_rest_goes_on(monkeypatch):
    def broken(inputs):
        raise NotImplementedError("half precision\nis not supported")

    with_implementations(monkeypatch, compiled=broken, peer=broken)
    report = run_op_benchmark(OPTIONS)
    rows = by_name(report)
    assert rows["forward", "peer"]["problem"] == "NotImplementedError: half precision is not supported"
    assert rows["forward", "peer"]["median_ms"] is None and rows["forward", "peer"]["ratio_to_reference"] is None
    assert rows["backward", "reference"]["median_ms"] > 0
    assert [failure.split(",")[0] for failure in failures(report)] == ["compiled", "compiled"]
    assert "NotImplementedError: half precision is not supported" in format_report(report)


def test_what_would_not_fit_into_memory_is_not_tried(monkeypatch):
    monkeypatch.setattr(op, "available", lambda device: 10)
    report = run_op_benchmark(OPTIONS)
    rows = by_name(report)
    assert rows["forward", "reference"]["problem"].startswith("not run: needs about")
    assert rows["forward", "compiled"]["median_ms"] > 0
    assert rows["forward", "compiled"]["ratio_to_reference"] is None
    assert failures(report) == []


def test_a_single_query():
    rows = by_name(run_op_benchmark(replace(OPTIONS, sizes=[replace(TINY, queries=1)])))
    assert rows["forward", "compiled"]["queries"] == 1


def test_table():
    row = OpRow("1024", 21504, "fp32", "trained", "forward", "compiled")
    row = replace(row, runs=3, median_ms=12.345, ratio_to_reference=10.5, bandwidth_gb_s=5.574, error=3e-7)
    row = replace(row, peak_bytes=69_000_000, peak_over_operands=1.003)
    environment = {"device": "A CPU", "threads": 2, "torch": "2.15.0", "date": "2026-01-01"}
    report = {"environment": environment, "results": [vars(row)], "not_installed": {"mmcv": "No module named 'mmcv'"}}
    lines = format_report(report).splitlines()
    assert lines[0] == "A CPU, 2 threads, torch 2.15.0, 2026-01-01"
    cells = [cell.strip() for cell in lines[4].strip("|").split("|")]
    assert cells[:5] == ["1024 (21,504 queries)", "fp32", "trained", "forward", "compiled"]
    assert cells[5:] == ["12.3", "10.50", "5.6", "69.0", "1.00", "3.0e-07"]
    assert lines[-1] == "not measured: mmcv (No module named 'mmcv')"
