"""tools/benchmark.py: its command line and exit status."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"
SMALL = ["op", "--sizes", "32", "--dtypes", "fp32", "--offsets", "trained", "--repeats", "1", "--threads", "1"]


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("benchmark_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prints_a_table_and_writes_json(tool, tmp_path, capsys):
    path = tmp_path / "new" / "op.json"
    assert tool.main([*SMALL, "--json", str(path)]) == 0
    shown = capsys.readouterr()
    assert "| 32 (21 queries) | fp32  | trained | forward   | compiled" in shown.out
    report = json.loads(path.read_text())
    assert {row["direction"] for row in report["results"]} == {"forward", "backward"}
    for row in report["results"]:
        assert row["runs"] == 1 and row["ratio_to_reference"] > 0


def captured(tool, monkeypatch, arguments):
    """The options that the benchmark gets."""
    options = []
    report = {"results": []}
    module = f"mask2former_ext.benchmark.command_{arguments[0]}"
    monkeypatch.setattr(f"{module}.run_{arguments[0]}_benchmark", lambda given: options.append(given) or report)
    monkeypatch.setattr(f"{module}.format_report", lambda given: "")
    assert tool.main(arguments) == 0
    return options[0]


@pytest.mark.parametrize(
    ("arguments", "sizes", "repeats"),
    [
        ([], ["1024"], 15),
        (["--quick"], ["256"], 3),
        (["--quick", "--sizes", "64"], ["64"], 3),
        (["--sizes", "512x8", "1024q100", "--repeats", "4"], ["512x8", "1024q100"], 4),
        (["--sweep"], ["512", "512x8", "1024", "1024x8", "2048", "2048x8", "1024q100", "1024x8q300"], 15),
    ],
)
def test_sizes(tool, monkeypatch, arguments, sizes, repeats):
    options = captured(tool, monkeypatch, ["op", *arguments])
    assert [size.name for size in options.sizes] == sizes
    assert options.repeats == repeats
    assert list(options.dtypes) == ["fp32", "bf16", "fp16"]
    assert list(options.offsets) == ["initialised", "trained"]
    assert options.device == torch.device("cpu")


def test_threads_dtypes_and_seconds(tool, monkeypatch):
    options = captured(tool, monkeypatch, ["op", "--threads", "3", "--dtypes", "fp64", "--seconds", "1.5"])
    assert (options.threads, options.dtypes, options.seconds) == (3, ["fp64"], 1.5)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: command"),
        (["op", "--sizes", "100"], "'100' is no size"),
        (["op", "--threads", "0"], "0 is not a whole number above 0"),
        (["op", "--device", "xpu"], "neither cpu nor cuda"),
        (["op", "--dtypes", "int8"], "invalid choice"),
        (["op", "--sweep", "--sizes", "32"], "not allowed with"),
        (["data"], "required: --configs"),
        (["data", "--configs", "a.yaml", "--images", "0"], "0 is not a whole number above 0"),
        (["infer"], "required: --configs"),
        (["infer", "--configs", "a.yaml", "--size", "800"], "expected 2 arguments"),
        (["infer", "--configs", "a.yaml", "--tasks", "boxes"], "invalid choice"),
        (["infer", "--configs", "a.yaml", "--stage", "decoder"], "invalid choice"),
        (["train", "--configs", "a.yaml", "--peers", "mmdetection"], "invalid choice"),
        (["train", "--configs", "a.yaml", "--masks", "0"], "0 is not a whole number above 0"),
    ],
)
def test_what_cannot_be_done_is_said(tool, capsys, arguments, complaint):
    with pytest.raises(SystemExit) as exit_:
        tool.main(arguments)
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_gpu_that_is_not_there(tool, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        tool.main(["op", "--device", "cuda"])
    assert "torch sees no GPU here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "complaint"), [("tpu", "tpu is neither cpu nor cuda"), ("cuda:9", "sees only 1 here")]
)
def test_devices_that_do_not_exist(tool, monkeypatch, capsys, device, complaint):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SystemExit):
        tool.main(["op", "--device", device])
    assert complaint in capsys.readouterr().err


def test_help_has_an_example(tool, capsys):
    commands = ("op", "data", "infer", "train")
    for command, arguments in (("op", ["--help"]), *((command, [command, "--help"]) for command in commands)):
        with pytest.raises(SystemExit) as exit_:
            tool.main(arguments)
        assert exit_.value.code == 0
        assert f"example: python tools/benchmark.py {command}" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_said(tool, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert tool.main([*SMALL, "--json", str(tmp_path / "file" / "op.json")]) == 1
    assert f"error: [Errno 17] File exists: '{tmp_path / 'file'}'" in capsys.readouterr().err


def test_a_wrong_answer_fails(tool, monkeypatch, capsys):
    monkeypatch.setattr("mask2former_ext.benchmark.op.ERROR_LIMITS", dict.fromkeys([torch.float32], 0.0))
    assert tool.main(SMALL) == 1
    assert "WRONG  compiled, forward, size 32, fp32, trained: the error" in capsys.readouterr().err


DATA_CONFIG = (
    "INPUT: {DATASET_MAPPER_NAME: coco_instance_lsj, IMAGE_SIZE: 64}\nMODEL: {META_ARCHITECTURE: MaskFormer}\n"
)


def test_data_prints_a_table_and_writes_json(tool, tmp_path, capsys):
    config, path = tmp_path / "config.yaml", tmp_path / "data.json"
    config.write_text(DATA_CONFIG)
    arguments = ["data", "--quick", "--images", "1", "--generated", "--configs", str(config), "--json", str(path)]
    assert tool.main(arguments) == 0
    assert f"| {config} | coco_instance_lsj | generated |" in capsys.readouterr().out
    [row] = json.loads(path.read_text())["results"]
    assert (row["images"], row["runs"]) == (1, 3)


def test_data_options(tool, monkeypatch):
    arguments = ["data", "--configs", "a.yaml", "b.yaml"]
    options = captured(tool, monkeypatch, arguments)
    assert (options.configs, options.images, options.repeats, options.threads) == (["a.yaml", "b.yaml"], 16, 15, 1)
    assert not options.generated
    assert captured(tool, monkeypatch, [*arguments, "--quick"]).images == 2
    given = ["--repeats", "4", "--seconds", "1.5", "--images", "3", "--generated", "--threads", "2"]
    options = captured(tool, monkeypatch, [*arguments, "--opts", "INPUT.IMAGE_SIZE", "32", *given])
    assert (options.repeats, options.seconds, options.images, options.threads) == (4, 1.5, 3, 2)
    assert options.generated and options.opts == ["INPUT.IMAGE_SIZE", "32"]


def test_a_config_that_is_not_there(tool, tmp_path, capsys):
    path = tmp_path / "data.json"
    assert tool.main(["data", "--configs", "absent.yaml", "--json", str(path)]) == 1
    assert "error: config file 'absent.yaml' does not exist" in capsys.readouterr().err
    assert not path.exists()


def of_model(tool, monkeypatch, command, *arguments):
    """The options that infer or train gets."""
    options = []
    report = {"results": []}
    module = "mask2former_ext.benchmark.command_model"
    monkeypatch.setattr(f"{module}.run_{command}_benchmark", lambda given: options.append(given) or report)
    monkeypatch.setattr(f"mask2former_ext.benchmark.{command}.format_report", lambda given: "")
    assert tool.main([command, "--configs", "a.yaml", "b.yaml", *arguments]) == 0
    return options[0]


def test_infer_options(tool, monkeypatch):
    options = of_model(tool, monkeypatch, "infer")
    assert (options.configs, options.peers, options.part) == (["a.yaml", "b.yaml"], [], "all")
    work, effort = options.work, options.effort
    assert (work.size, work.output_size, work.batch, work.kept, work.tasks) == ((800, 1088), (800, 1088), 1, 20, None)
    assert (work.precision, work.device, work.opts) == ("float32", torch.device("cpu"), ())
    assert (effort.threads, effort.repeats, effort.seconds, effort.memory) == (1, 15, 600.0, True)
    quick = of_model(tool, monkeypatch, "infer", "--quick")
    assert quick.work.size == quick.work.output_size == (128, 160) and quick.effort.repeats == 3
    given = ["--size", "64", "96", "--output-size", "30", "40", "--batch", "2", "--kept", "5", "--no-memory"]
    given += ["--tasks", "panoptic", "instance", "--stage", "postprocess", "--precision", "bfloat16", "--threads", "2"]
    given += ["--repeats", "4", "--seconds", "9", "--peers", "transformers", "torchvision", "--opts", "A", "1"]
    options = of_model(tool, monkeypatch, "infer", *given)
    work, effort = options.work, options.effort
    assert (work.size, work.output_size, work.batch, work.kept) == ((64, 96), (30, 40), 2, 5)
    assert (work.tasks, work.precision, work.opts) == (("panoptic", "instance"), "bfloat16", ("A", "1"))
    assert (options.part, options.peers) == ("postprocess", ["transformers", "torchvision"])
    assert (effort.threads, effort.repeats, effort.seconds, effort.memory) == (2, 4, 9.0, False)


def test_train_options(tool, monkeypatch):
    work = of_model(tool, monkeypatch, "train").work
    assert (work.size, work.batch, work.masks) == ((512, 512), 2, 20)
    given = [
        "--size",
        "64",
        "96",
        "--batch",
        "3",
        "--masks",
        "7",
        "--peers",
        "straightforward",
        "--precision",
        "float16",
    ]
    options = of_model(tool, monkeypatch, "train", *given)
    work = options.work
    assert (work.size, work.batch, work.masks, work.precision) == ((64, 96), 3, 7, "float16")
    assert options.peers == ["straightforward"] and options.effort.memory


def tiny_file(cfg, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(cfg.dump())
    return str(path)


@pytest.mark.parametrize("command", ["infer", "train"])
def test_models_give_tables_and_json(tool, tiny_cfg, tmp_path, capsys, command):
    config, files = tiny_file(tiny_cfg, tmp_path), [tmp_path / "new" / name for name in ("report.json", "report.md")]
    arguments = [command, "--configs", config, "--size", "50", "60", "--repeats", "1", "--no-memory"]
    arguments += ["--peers", "straightforward", "--json", str(files[0]), "--markdown", str(files[1])]
    assert tool.main(arguments) == 0
    shown = capsys.readouterr().out
    assert f"| {config}, straightforward |" in shown and files[1].read_text() == shown
    report = json.loads(files[0].read_text())
    assert report["benchmark"] == command and [row["runs"] for row in report["results"]] == [1, 1]


def test_predictions_that_differ_fail(tool, tiny_cfg, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mask2former_ext.benchmark.model_reports.DIFFERENCE_LIMIT", -1.0)
    arguments = ["infer", "--configs", tiny_file(tiny_cfg, tmp_path), "--size", "50", "60", "--repeats", "1"]
    assert tool.main([*arguments, "--no-memory", "--stage", "forward", "--peers", "straightforward"]) == 1
    assert "WRONG" in (errors := capsys.readouterr().err) and "forward: logits differ by" in errors
