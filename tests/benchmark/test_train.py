"""The benchmark of training steps on tiny models."""

import json
from dataclasses import replace

import pytest
import torch

from mask2former_ext.benchmark import straightforward
from mask2former_ext.benchmark.model_measure import Effort, ModelOptions, measure_peaks
from mask2former_ext.benchmark.model_reports import wrong_rows
from mask2former_ext.benchmark.model_variants import OWN, STRAIGHTFORWARD, TRANSFORMERS, Variant, build_subject
from mask2former_ext.benchmark.models import Work
from mask2former_ext.benchmark.train import format_report, run_train_benchmark, train_job

WORK = Work(size=(50, 70), output_size=(50, 70), batch=2, masks=3)
QUICK = Effort(repeats=2, memory=False)
STAGES = {"data", "backbone", "pixel decoder", "decoder", "matching", "loss", "backward", "optimizer", "rest"}


def test_every_peer_does_the_same_and_has_its_figures(tiny_config, tiny_mask_rcnn):
    peers = ["straightforward", "transformers"]
    report = run_train_benchmark(ModelOptions([tiny_config, tiny_mask_rcnn], WORK, peers, QUICK))
    json.dumps(report, allow_nan=False)
    assert wrong_rows(report) == [] and report["not_measured"] == {}
    assert (report["benchmark"], report["work"]["masks"]) == ("train", 3)
    own, plain, transformers, mask_rcnn = report["results"]
    assert own["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    assert own["loss"] == pytest.approx(transformers["loss"], rel=0.2)  # at other points
    for row in (own, plain, transformers):
        assert set(row["stages_ms"]) == STAGES and row["task"] == "training step"
        assert row["times_own"] == pytest.approx(row["median_ms"] / own["median_ms"])
    assert set(mask_rcnn["stages_ms"]) == {
        *("data", "backbone", "proposals", "box and mask heads", "backward", "optimizer", "rest")
    }
    tables = format_report(report)
    assert "2 image(s) of 50×70 with 3 masks each" in tables
    assert "| loss" in tables and "| matching |" in tables


@pytest.mark.parametrize("implementation", [OWN, STRAIGHTFORWARD, TRANSFORMERS])
def test_a_step_changes_no_weights_and_leaves_no_gradients(tiny_config, implementation):
    subject = build_subject(Variant(tiny_config, implementation), WORK)
    before = {name: p.detach().clone() for name, p in subject.model.named_parameters()}
    loss = train_job(subject)()
    assert loss > 0 and not loss.requires_grad and subject.model.training
    for name, p in subject.model.named_parameters():
        assert torch.equal(p, before[name]) and p.grad is None


def test_frozen_norms_of_the_peer_stay_frozen(tiny_config):
    """Where this package's are: the peer then does the same work."""
    for norm, frozen in (("FrozenBN", True), ("BN", False)):
        work = replace(WORK, opts=("MODEL.RESNETS.NORM", norm))
        subject = build_subject(Variant(tiny_config, TRANSFORMERS), work)
        train_job(subject)()
        norms = [
            m for m in subject.model.model.pixel_level_module.encoder.modules() if type(m).__name__ == "BatchNorm2d"
        ]
        assert norms and all(m.training != frozen and m.weight.requires_grad != frozen for m in norms)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision(tiny_config, precision):
    subject = build_subject(Variant(tiny_config, OWN), replace(WORK, precision=precision))
    expected = build_subject(Variant(tiny_config, OWN), WORK)
    losses = []
    for either in (subject, expected):
        torch.manual_seed(0)
        losses.append(float(train_job(either)()))
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize(("factor", "text"), [(1.1, "instead of"), (float("nan"), "the loss is nan")])
def test_losses_that_differ_or_are_not_finite_are_wrong(tiny_config, monkeypatch, factor, text):
    original = straightforward.losses

    def changed(*args):
        # what the value is changed by has no gradient: the weights stay finite
        return {name: value + (factor - 1) * value.detach() for name, value in original(*args).items()}

    monkeypatch.setattr(straightforward, "losses", changed)
    report = run_train_benchmark(ModelOptions([tiny_config], WORK, ["straightforward"], QUICK))
    json.dumps(report, allow_nan=False)
    (failed,) = wrong_rows(report)
    assert "straightforward, training step: the loss is" in failed and text in failed


def test_peak_memory_by_stage(tiny_config):
    peaks = measure_peaks(Variant(tiny_config, OWN), WORK, train_job, threads=1)
    assert set(peaks) == STAGES and max(peaks.values()) > 10**6
    # what backward needs was kept by the stages before
    assert peaks["backward"] >= 0.5 * max(peaks.values())
