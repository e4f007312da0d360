"""The benchmark of inference on tiny models."""

import json
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mask2former_ext.benchmark import model_measure, model_peers, straightforward
from mask2former_ext.benchmark.infer import (
    InferOptions,
    format_report,
    infer_job,
    measure_inference,
    run_infer_benchmark,
)
from mask2former_ext.benchmark.model_measure import Effort, measure_peaks, peaks_in_own_process
from mask2former_ext.benchmark.model_reports import wrong_rows
from mask2former_ext.benchmark.model_variants import OWN, TORCHVISION, Variant, build_subject, variants_of
from mask2former_ext.benchmark.models import Work

MEGABYTE = 10**6
WORK = Work(size=(50, 70), output_size=(30, 40), kept=4)
QUICK = Effort(repeats=2, memory=False)


@pytest.fixture
def options(tiny_config):
    return InferOptions([tiny_config], WORK, peers=["straightforward", "transformers"], effort=QUICK)


def test_every_peer_does_the_same_and_has_its_figures(options, tiny_config, tiny_mask_rcnn):
    report = run_infer_benchmark(replace(options, configs=[tiny_config, tiny_mask_rcnn]))
    assert json.loads(json.dumps(report, allow_nan=False))["results"] == [
        {**row, "wrong": []} for row in report["results"]
    ]
    assert wrong_rows(report) == [] and report["not_measured"] == {}
    own, plain, transformers, mask_rcnn = report["results"]
    assert own["model"] == tiny_config and plain["model"] == f"{tiny_config}, straightforward"
    assert [row["implementation"] for row in (own, plain, transformers, mask_rcnn)] == [
        *("this package", "straightforward", "transformers", "this package")
    ]
    assert {row["task"] for row in (own, plain, transformers)} == {"semantic + panoptic + instance"}
    assert mask_rcnn["task"] == "instance"
    assert plain["difference"] < 1e-9 and transformers["difference"] < 1e-5 and own["difference"] is None
    for row in (own, plain, transformers):
        assert set(row["stages_ms"]) == {*("data", "backbone", "pixel decoder", "decoder", "post-processing", "rest")}
        assert row["runs"] == 2 and 0 < row["lowest_ms"] <= row["median_ms"] <= row["highest_ms"]
        assert row["ratio_to_first"] == pytest.approx(own["median_ms"] / row["median_ms"])
        assert row["times_own"] == pytest.approx(row["median_ms"] / own["median_ms"])
        assert 0.5 * row["median_ms"] < sum(row["stages_ms"].values()) < 2 * row["median_ms"]
    assert set(mask_rcnn["stages_ms"]) == {
        *("data", "backbone", "proposals", "box and mask heads", "post-processing", "rest")
    }
    assert mask_rcnn["times_own"] == 1.0
    tables = format_report(report)
    assert "1 image(s) of 50×70, results of 30×40, float32" in tables
    assert "Peak memory" not in tables
    assert "| difference |" in tables and "torchvision 0" in tables


def test_post_processing_alone_is_measured_task_by_task(options):
    report = run_infer_benchmark(replace(options, part="postprocess"))
    tasks = ["semantic", "panoptic", "instance", "semantic + panoptic + instance"]
    assert [row["task"] for row in report["results"]] == [task for task in tasks for _ in range(3)]
    assert all(set(row["stages_ms"]) == {"post-processing", "rest"} for row in report["results"])
    assert wrong_rows(report) == []
    # each task has a first row of its own
    assert [row["ratio_to_first"] for row in report["results"][::3]] == [1.0] * 4


def test_tasks_and_overrides_reach_the_model(options):
    work = replace(WORK, tasks=("panoptic",), opts=("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "7"))
    (variant,) = variants_of(options.configs, [], work)
    subject = build_subject(variant, work)
    assert subject.tasks == ("panoptic",) and subject.model.num_queries == 7
    (result,) = infer_job(subject, "all")()
    assert list(result) == ["panoptic_seg"] and result["panoptic_seg"][0].shape == (30, 40)


def test_results_are_made_of_predictions_that_keep_queries(tiny_config):
    subject = build_subject(Variant(tiny_config, OWN), replace(WORK, kept=6, opts=("MODEL.DEVICE", "cpu")))
    class_logits = subject.made_up().class_logits[0]
    sure = class_logits.softmax(-1)[:, :-1].amax(1)
    assert int((sure > 0.9).sum()) == 6
    assert subject.made_up().mask_logits.shape == (1, 10, 16, 24)  # a quarter of the padded image


def test_two_configs_and_half_precision(options, tiny_config, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(Path(tiny_config).read_text())
    work = replace(WORK, precision="bfloat16", batch=2)
    rows, _ = measure_inference(InferOptions([tiny_config, str(other)], work, effort=QUICK))
    assert [row.model for row in rows] == [tiny_config, str(other)]
    subject = build_subject(Variant(tiny_config, OWN), work)
    outputs, _ = infer_job(subject, "forward")()
    assert outputs["pred_logits"].dtype == torch.bfloat16 and len(outputs["pred_logits"]) == 2


def test_a_config_named_twice(tiny_config):
    with pytest.raises(ValueError, match="name each once"):
        measure_inference(InferOptions([tiny_config, tiny_config], WORK))


def test_a_model_of_another_kind(tiny_config, tmp_path):
    path = tmp_path / "retinanet.yaml"
    path.write_text("MODEL: {META_ARCHITECTURE: RetinaNet}\n")
    with pytest.raises(ValueError, match="builds a RetinaNet"):
        measure_inference(InferOptions([str(path)], WORK))


def test_results_that_differ_are_wrong(options, monkeypatch):
    monkeypatch.setattr(straightforward, "panoptic", lambda logits, masks, **_: (masks[0].int() * 0, []))
    report = run_infer_benchmark(replace(options, peers=["straightforward"]))
    failed = wrong_rows(report)
    assert len(failed) == 2 and "straightforward, semantic + panoptic + instance: panoptic segments differ" in failed[0]


def test_logits_that_differ_are_wrong(options, monkeypatch):
    def build(cfg, model):
        peer = original(cfg, model)
        torch.nn.init.ones_(peer.class_predictor.bias[:1])
        return peer

    original = model_peers.build_hf_peer
    monkeypatch.setattr(model_peers, "build_hf_peer", build)
    report = run_infer_benchmark(replace(options, part="forward", peers=["transformers"]))
    (failed,) = wrong_rows(report)
    assert "transformers, forward: logits differ by" in failed
    assert {row["task"] for row in report["results"]} == {"forward"}
    assert all("post-processing" not in row["stages_ms"] for row in report["results"])


def test_a_peer_that_is_not_installed(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    report = run_infer_benchmark(replace(options, part="forward", peers=["transformers"]))
    assert [row["implementation"] for row in report["results"]] == ["this package"]
    assert "not measured" in format_report(report) and "needs that library" in str(report["not_measured"])


def test_torchvisions_model():
    subject = build_subject(Variant("", TORCHVISION), WORK)
    subject.model.roi_heads.detections_per_img = 3
    (result,) = infer_job(subject, "all")()
    assert result["masks"].shape == (3, 1, 30, 40)
    assert subject.tasks == ("instance",) and torch.isfinite(subject.model.train() and subject.loss())


def test_peak_memory_by_stage(tiny_config):
    size = (256, 256)
    work = replace(WORK, size=size, output_size=size, opts=("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 50))
    make_job = partial(infer_job, part="all")
    peaks = measure_peaks(Variant(tiny_config, OWN), work, make_job, threads=1)
    plain = measure_peaks(Variant(tiny_config, "straightforward"), work, make_job, threads=1)
    results = 256 * 256 * (3 * 4 + 4 + 50)  # bytes of semantic scores, ids, and instances' masks at most
    assert results * 0.5 < peaks["post-processing"] == max(peaks.values())
    assert plain["post-processing"] > 256 * 256 * 50 * 4 * 2


def allocating_job(subject):
    """Two stages, of which the second needs less; of a size that the C library would keep."""

    def run():
        with subject.stages.stage("first"):
            torch.ones(20 * MEGABYTE // 4)
        with subject.stages.stage("second"):
            torch.ones(5 * MEGABYTE // 4)

    return run


def test_memory_is_measured_in_another_process(tiny_config, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where that process finds this module
    peaks = peaks_in_own_process(Variant(tiny_config, OWN), WORK, allocating_job, threads=1)
    found = {stage: peak / MEGABYTE for stage, peak in peaks.items()}
    assert found == pytest.approx({"first": 20, "second": 5, "rest": 0}, abs=2)


def run_with_pool(options, monkeypatch, answer):
    """The report of a benchmark whose other processes give that answer."""

    class Pool:
        def __init__(self, workers, mp_context):
            assert workers == 1 and mp_context.get_start_method() == "spawn"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def submit(self, function, variant, work, make_job, threads):
            assert callable(make_job(build_subject(variant, work))) and threads == 1
            return SimpleNamespace(result=lambda: answer(variant))

    monkeypatch.setattr(model_measure, "ProcessPoolExecutor", Pool)
    return run_infer_benchmark(replace(options, peers=["straightforward"], effort=Effort(repeats=1)))


def test_memory_in_reports(options, monkeypatch):
    def answer(variant):
        return {"decoder": 10**6 if variant.implementation == OWN else 4 * 10**6, "rest": 1000}

    report = run_with_pool(options, monkeypatch, answer)
    assert [row["peak_bytes"] for row in report["results"]] == [10**6, 4 * 10**6]
    assert [row["own_memory_share"] for row in report["results"]] == [1.0, 0.25]
    tables = format_report(report)
    assert "Peak memory in MB" in tables and "| 4.0  | 25%          | 4.0     | 0.0  |" in tables


def test_a_process_that_is_killed(options, monkeypatch):
    def answer(variant):
        raise BrokenProcessPool

    report = run_with_pool(options, monkeypatch, answer)
    assert report["results"][0]["peak_bytes"] is None
    assert "memory not measured: " in format_report(report) and "was killed" in format_report(report)
