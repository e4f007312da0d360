"""Commands and Python code of the pages do what they say: on tiny data, with tiny models.

A command below a line "# needs …" is not run; its arguments must be ones that the tool takes.
"""

from __future__ import annotations

import re

import pytest
from doc_pages import PAGES, ROOT, Block, blocks, commands, commands_of

MAKE_TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
# What sets an environment up is not run.
SETTING_UP = ("make", "pip")
# Names that code of a page takes from the text around it.
BEFORE = {
    "docs/op.md": """
import torch
value = torch.rand(1, 20 + 6, 2, 4)
spatial_shapes, level_start_index = torch.tensor([[4, 5], [2, 3]]), torch.tensor([0, 20])
sampling_locations, attention_weights = torch.rand(1, 7, 2, 2, 3, 2), torch.rand(1, 7, 2, 2, 3)
""",
    # files of little models, with the names of the input and its axes: exporting a real one takes a minute
    "docs/export.md": """
import onnx
import torch
class Model(torch.nn.Module):
    def forward(self, images):
        return {"panoptic_seg": images.mean(1)}
sizes = {"images": {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}}
program = torch.export.export(Model(), (torch.rand(1, 3, 64, 96),), dynamic_shapes=sizes)
torch.export.save(program, "output/mask2former.pt2")
make = onnx.helper.make_tensor_value_info
graph = onnx.helper.make_graph(
    [onnx.helper.make_node("ReduceMax", ["images", "axes"], ["panoptic_seg"], keepdims=0)],
    "model",
    [make("images", onnx.TensorProto.FLOAT, ["batch", 3, "height", "width"])],
    [make("panoptic_seg", onnx.TensorProto.FLOAT, ["batch", "height", "width"])],
    [onnx.numpy_helper.from_array(__import__("numpy").array([1]), "axes")],
)
model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
onnx.save(model, "output/mask2former.onnx")
""",
    "docs/transformers.md": """
from detectron2.modeling import build_model
from mask2former_ext.checkpoint import hf
from mask2former_ext.config import load_config
cfg = load_config("configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml")
model = build_model(cfg)
hf_peer = hf.build_hf_peer(cfg, model)
hf_peer.save_pretrained("FOLDER")
""",
}
IDS = {page: str(page.relative_to(ROOT)) for page in PAGES}
WITH_COMMANDS = [page for page in PAGES if commands_of(page)]
WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


def tool_of(words: list[str]) -> list[str] | None:
    """The words from the script on, or from ``-m`` on; None for a command that is none of Python's."""
    if words[0] == "python":
        return words[1:]
    return words if words[0].startswith("tools/") else None


def check_arguments(runner, words: list[str]) -> None:
    """The command exists, and takes these arguments."""
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(words[1:])
        words = [options.training_script, *options.training_script_args]
    if words[0] == "compute-sanitizer":
        words = words[words.index("python") :]
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert targets and set(targets) <= MAKE_TARGETS
        return
    if words[0] in ("export", "pip"):
        return
    tool = tool_of(words)
    assert tool is not None, f"{words[0]} is no command that this test knows"
    if tool[0] == "-m":
        assert tool[1] == "pytest" or (ROOT / tool[1].replace(".", "/")).with_suffix(".py").exists()
        return
    status, output = runner("parse", ROOT, words=tool)
    assert status == 0, output


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=IDS.get)
def test_tools_take_the_arguments(page, runner):
    for command in commands_of(page):
        try:
            check_arguments(runner, command.words)
        except AssertionError as error:
            raise AssertionError(f"{command}\n{error}") from None


@pytest.mark.parametrize(
    "page", [page for page in WITH_COMMANDS if not all(command.needs for command in commands_of(page))], ids=IDS.get
)
def test_commands_run(page, runner, folder):
    """In their order, in one folder."""
    variables = {}
    for command in commands_of(page):
        if command.needs or command.words[0] in SETTING_UP:
            continue
        if command.words[0] == "export":
            variables |= dict(word.split("=", 1) for word in command.words[1:])
            continue
        tool = tool_of(command.words)
        assert tool is not None, f'{command}: only Python is run; put a line "# needs …" above other commands'
        status, output = runner("run", folder, variables | command.variables, words=tool)
        assert status == 0, f"{command}\n{output}"


@pytest.mark.parametrize("page", WITH_PYTHON, ids=IDS.get)
def test_python_runs(page, runner, folder):
    """The blocks of a page one after another, as one program."""
    parts = [block for block in blocks(page) if block.language == "python"]
    code = "\n".join(block.text for block in parts)
    status, output = runner("python", folder, before=BEFORE.get(IDS[page], ""), place=IDS[page], code=code)
    assert status == 0, output


def test_commands_of_a_block():
    text = """export NAME=value  # a remark
tools/one.py --a 1 \\
    --b '2 3'
# needs a GPU
X=1 python tools/two.py
python tools/three.py

python tools/four.py
"""
    found = commands(Block(ROOT / "README.md", 10, "bash", text))
    assert [(command.words, command.variables, command.needs) for command in found] == [
        (["export", "NAME=value"], {}, ""),
        (["tools/one.py", "--a", "1", "--b", "2 3"], {}, ""),
        (["python", "tools/two.py"], {"X": "1"}, "a GPU"),
        (["python", "tools/three.py"], {}, "a GPU"),
        (["python", "tools/four.py"], {}, ""),
    ]
    assert found[-1].place == "README.md:17"


WRONG = {
    "an option": "tools/demo.py --config-file configs/quickstart/maskformer2_R18_coins.yaml --inputs photo.jpg",
    "a config": "tools/demo.py --config-file configs/none.yaml --input photo.jpg",
    "a key": "tools/train_net.py --config-file configs/quickstart/maskformer2_R18_coins.yaml SOLVER.NONE 1",
    "a key of a job": "tools/submit_slurm.py -- --config-file configs/none.yaml",
    "a tool": "tools/none.py --help",
    "a target": "make none",
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_are_found(what, runner):
    with pytest.raises(AssertionError):
        check_arguments(runner, WRONG[what].split())


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(3)", 3), ("1 / 0", 1), ("", 0)])
def test_what_fails_is_noticed(code, status, runner, tmp_path):
    assert runner("python", tmp_path, before="", place="here", code=code)[0] == status
