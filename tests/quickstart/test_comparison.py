"""The demonstration's page: what it asks the comparison for."""

import os

from mask2former_ext.comparison import ModelSpec
from mask2former_ext.quickstart import comparison, write_comparison


def test_both_models_are_compared_on_the_test_set_of_the_first(monkeypatch, tmp_path, tiny_cfg):
    asked = {}

    def write_report(result, page, json_file):
        asked.update(result=result, page=page, json=json_file)

    monkeypatch.setattr(comparison, "compare", lambda *arguments: arguments)
    monkeypatch.setattr(comparison, "write_report", write_report)
    configs = {}
    for name in ("a", "b"):
        tiny_cfg.DATASETS.TEST = (f"coins_{name}",)
        configs[name.upper()] = tmp_path / f"{name}.yaml"
        configs[name.upper()].write_text(tiny_cfg.dump())
    output = tmp_path / "output"
    assert write_comparison(configs, output, ["SEED", "3"]) == output / "comparison.html" == asked["page"]
    assert asked["json"] == output / "report.json"
    specs, dataset, overrides = asked["result"]
    assert specs == [
        ModelSpec("A", os.path.relpath(configs["A"]), str(output / "a" / "model_final.pth")),
        ModelSpec("B", os.path.relpath(configs["B"]), str(output / "b" / "model_final.pth")),
    ]
    assert (dataset, overrides) == ("coins_a", ["SEED", "3"])
