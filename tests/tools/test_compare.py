"""tools/compare.py: its command line, output and exit status."""

import importlib.util
from pathlib import Path

import pytest

from mask2former_ext.comparison import ModelSpec

TOOL = Path(__file__).parents[2] / "tools" / "compare.py"
TWO = ["--configs", "configs/a.yaml", "configs/b.yaml", "--dataset", "coins_val"]


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("compare_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def asked(tool, monkeypatch):
    """Puts notes in the place of the work: what was compared, and what was written."""
    notes = {}

    def compare(specs, dataset, opts):
        notes.update(specs=specs, dataset=dataset, opts=opts)
        return "a comparison"

    def write_report(comparison, page, json_file, images):
        notes.update(comparison=comparison, page=page, json=json_file, images=images)

    monkeypatch.setattr(tool, "compare", compare)
    monkeypatch.setattr(tool, "write_report", write_report)
    return notes


def test_everything_is_passed_on(tool, asked, tmp_path, capsys):
    page = tmp_path / "p.html"
    arguments = ["--weights", "a.pth", "b.pth", "--names", "A", "B", "--metrics", "a.json", "b.json"]
    arguments += ["--output", str(page), "--json", str(tmp_path / "j.json"), "--images", "5"]
    assert tool.main([*TWO, *arguments, "--", "MODEL.DEVICE", "cpu"]) == 0
    assert asked["specs"] == [
        ModelSpec("A", "configs/a.yaml", "a.pth", Path("a.json")),
        ModelSpec("B", "configs/b.yaml", "b.pth", Path("b.json")),
    ]
    assert (asked["dataset"], asked["opts"]) == ("coins_val", ["MODEL.DEVICE", "cpu"])
    assert (asked["comparison"], asked["page"], asked["json"], asked["images"]) == (
        *("a comparison", page, tmp_path / "j.json", 5),
    )
    assert [Path(line).resolve() for line in capsys.readouterr().out.split()] == [page, tmp_path / "j.json"]


def test_defaults(tool, asked, tmp_path):
    assert tool.main([*TWO, "--output", str(tmp_path)]) == 0
    assert asked["specs"] == [ModelSpec("a", "configs/a.yaml"), ModelSpec("b", "configs/b.yaml")]
    assert (asked["page"], asked["json"]) == (tmp_path / "comparison.html", tmp_path / "report.json")
    assert (asked["opts"], asked["images"]) == ([], 3)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--weights", "a.pth"], "--weights: 1 are given for 2 configs"),
        (
            ["--names", "A", "B", "MODEL.DEVICE", "cpu"],
            r"--names: 4 are given for 2 configs.*\(overrides follow a --\)",
        ),
        (["--images", "0"], "--images 0: at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tool, tmp_path, capsys, arguments, problem):
    with pytest.raises(SystemExit) as end:
        tool.main([*TWO, "--output", str(tmp_path), *arguments])
    assert end.value.code == 2
    assert problem.replace("\\", "").partition(".*")[0] in capsys.readouterr().err


def test_errors_are_a_line_and_leave_nothing_behind(tool, tmp_path, capsys):
    assert tool.main([*TWO, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("compare.py: a (configs/a.yaml): config file 'configs/a.yaml' does not exist")
    assert not (tmp_path / "out").exists()


def test_help_has_an_example(tool, capsys):
    with pytest.raises(SystemExit) as end:
        tool.main(["--help"])
    assert end.value.code == 0
    assert "python tools/compare.py --dataset coins_val" in capsys.readouterr().out
