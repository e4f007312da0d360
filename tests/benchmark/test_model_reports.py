"""What the benchmarks of whole models have in common in their reports."""

import json

import pytest
import torch

from mask2former_ext.benchmark.model_measure import DIFFERENCE_LIMIT, Effort, ModelOptions, ModelRow
from mask2former_ext.benchmark.model_reports import model_report, model_tables, wrong_rows
from mask2former_ext.benchmark.models import Work

WORK = Work(size=(50, 70), output_size=(30, 40), batch=2, opts=("MODEL.MASK_FORMER.NHEADS", 4))
OPTIONS = ModelOptions(["a.yaml"], WORK, effort=Effort(threads=2))


def report_of(*rows, absent=None):
    return model_report("infer", OPTIONS, rows, absent or {}, part="all")


def test_a_report_says_what_ran_where():
    report = report_of(ModelRow("a", "a.yaml", "this package", "instance"))
    json.dumps(report, allow_nan=False)
    assert report["benchmark"] == "infer" and report["results"][0]["model"] == "a"
    assert report["environment"]["threads"] == 2 and torch.get_num_threads() == 1
    assert report["environment"]["device"] and report["work"]["versions"]["torchvision"]
    expected = {"size": "50×70", "output_size": "30×40", "batch": 2, "precision": "float32", "part": "all"}
    assert expected.items() <= report["work"].items()
    assert report["work"]["overrides"] == ["MODEL.MASK_FORMER.NHEADS", "4"]


@pytest.mark.parametrize("factor", [0.5, 1, 2, float("nan")])
def test_logits_beyond_the_limit_are_wrong(factor):
    row = ModelRow("a", "a.yaml", "transformers", "instance", difference=factor * DIFFERENCE_LIMIT, wrong=("scores",))
    assert len(wrong_rows(report_of(row))) == (1 if factor <= 1 else 2)


def test_peers_and_memory_that_were_not_measured_are_named_below_the_tables():
    row = ModelRow("a", "a.yaml", "this package", "instance", median_ms=1234.5, problem="a: its process was killed")
    lines = model_tables(report_of(row, absent={"torchvision": "No module"}), "What was done.").splitlines()
    assert lines[0] == "What was done." and "2 threads" in lines[1]
    assert lines[-2:] == ["not measured: torchvision (No module)", "memory not measured: a: its process was killed"]
    assert any(line.startswith("| a ") and "| 1,234 " in line for line in lines)
    assert not any("Peak memory" in line for line in lines)
