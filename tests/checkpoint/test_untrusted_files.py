"""Files of strangers: checkpoints and configs that would run code do not, and are refused by name."""

import ast
import io
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mask2former_ext
from mask2former_ext.checkpoint import Checkpointer
from mask2former_ext.checkpoint.convert import read_state_dict
from mask2former_ext.checkpoint.reading import read_checkpoint, read_content
from mask2former_ext.config import load_config

PACKAGE = Path(mask2former_ext.__file__).parent
SCRIPTS = [PACKAGE.parent / "tools", PACKAGE.parent / "datasets"]


class Malice:
    """When it is unpickled, a file appears."""

    def __init__(self, target, through=os.mkdir):
        self.call = through, (str(target),)

    def __reduce__(self):
        return self.call


@pytest.fixture
def target(tmp_path):
    """What must not appear; that it would is checked with an unpickler that is not careful."""
    pickle.loads(pickle.dumps(Malice(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()
    return tmp_path / "it_ran"


def evil_contents(target):
    arrays = {"a": np.ones(2, dtype=np.float32)}
    hidden = io.BytesIO()
    torch.save(Malice(target), hidden, _use_new_zipfile_serialization=False)
    bomb = Malice(target)
    bomb.call = torch.storage._load_from_bytes, (hidden.getvalue(),)
    objects = np.empty(1, dtype=object)
    objects[0] = Malice(target)
    evaluated = Malice(target)
    evaluated.call = eval, (f"__import__('os').mkdir({str(target)!r})",)
    return {
        "alone": Malice(target),
        "beside weights": {"model": arrays, "__author__": "x", "more": Malice(target)},
        "among weights": {"model": {"a": Malice(target)}},
        "in an array of objects": {"model": {"a": objects}, "__author__": "x"},
        "eval": {"model": evaluated},
        "inside of a torch storage": {"model": {"a": bomb}, "__author__": "x"},
    }


EVIL = list(evil_contents("x"))
HOW = r"(posix\.mkdir|nt\.mkdir|builtins\.eval|__builtin__\.eval).*not read.*could run code.*If you trust its origin"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", EVIL)
def test_pkl_runs_no_code(kind, protocol, target, tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(evil_contents(target)[kind], protocol))
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read_checkpoint(str(path))
    assert not target.exists()
    if kind != "inside of a torch storage":  # PyTorch's own reader refuses that one, and names it in its words
        assert re.search(HOW, str(caught.value))


@pytest.mark.parametrize("name", ["model.pth", "model.pyth"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", EVIL)
def test_what_torch_saved_runs_no_code(kind, zipped, name, target, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what PyTorch before 2.6 does without being asked
    path = tmp_path / name
    torch.save(evil_contents(target)[kind], path, _use_new_zipfile_serialization=zipped)
    for read in (read_checkpoint, read_state_dict):
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read(str(path))
    assert not target.exists()


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_the_checkpointer_refuses_by_name(suffix, target, tmp_path):
    model = nn.Linear(1, 1)
    path = tmp_path / f"model.{suffix}"
    content = {"model": {"weight": torch.ones(1, 1)}, "__author__": "x", "more": Malice(target)}
    path.write_bytes(pickle.dumps(content)) if suffix == "pkl" else torch.save(content, path)
    with pytest.raises(ValueError, match=r"more than tensors and plain values: posix\.mkdir"):
        Checkpointer(model).load(str(path))
    assert not target.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_published_pickles_are_made_of_is_read(protocol, tmp_path):
    weights = OrderedDict(
        array=np.arange(6, dtype=np.float32).reshape(2, 3),
        columns_first=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        halves=np.ones(3, dtype=np.float16),
        nothing=np.zeros((0, 4), dtype=np.int64),
        tensor=torch.arange(3),
        bfloat=torch.ones(2, dtype=torch.bfloat16),
        parameter=nn.Parameter(torch.ones(2)),
        buffers=nn.BatchNorm2d(2).state_dict()["running_var"],
    )
    content = {"model": weights, "__author__": "The zoo", "scalar": np.float32(2), "bytes": b"\xff", "ids": {1, 2}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    read = read_checkpoint(str(tmp_path / "a.pkl"))
    assert read.keys() == content.keys() and read["model"].keys() == weights.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(*(torch.as_tensor(x).detach().float() for x in (read["model"][key], value)))
    assert (read["scalar"], read["bytes"], read["ids"]) == (2, b"\xff", {1, 2})


def test_pickles_of_python_2_are_read(tmp_path):
    """As Python 2 wrote Caffe2's: a float32 array of 2, names of NumPy and modules of that time."""
    written = (
        b"\x80\x02}q\x00(U\x05blobsq\x01}q\x02(U\x07conv1_wq\x03cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\n"
        b"ndarray\nq\x05K\x00\x85U\x01b\x87Rq\x06(K\x01K\x02\x85cnumpy\ndtype\nq\x07U\x02f4K\x00K\x01\x87Rq\x08(K\x03U"
        b"\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tbU\x10conv1_w_momentum"
        b"K\x00uU\x04seenc__builtin__\nset\n]K\x05a\x85Ru."
    )
    (tmp_path / "a.pkl").write_bytes(written)
    content = read_checkpoint(str(tmp_path / "a.pkl"))
    assert content["__author__"] == "Caffe2" and content["matching_heuristics"] is True
    assert list(content["model"]) == ["conv1_w"] and content["model"]["conv1_w"].tolist() == [1.0, 2.0]


def test_pycls_files_are_read_as_detectron2_reads_them(tmp_path):
    weights = {"a.weight": torch.ones(1), "a.num_batches_tracked": torch.tensor(3)}
    torch.save({"model_state": weights, "epoch": 1}, tmp_path / "a.pyth")
    content = read_checkpoint(str(tmp_path / "a.pyth"))
    assert content == {"model": {"a.weight": torch.ones(1)}, "__author__": "pycls", "matching_heuristics": True}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds a list"),
        ({"model": [1], "__author__": "x"}, "holds a list as its model"),
        ({"model": {"a.b": "text"}}, "entry 'a.b' is a str"),
        ({"model": {"a.b": np.array([None])}, "__author__": "x"}, "entry 'a.b' is a ndarray"),
        ({"model": {3: torch.ones(1)}}, "entry 3 is a Tensor"),
        ({"state_dict": {"a.b": torch.ones(1)}}, "entry 'state_dict' is a dict"),
    ],
)
def test_other_things_than_checkpoints(content, said, tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    paths = [tmp_path / "a.pkl"]
    if "ndarray" not in said:
        torch.save(content, tmp_path / "a.pth")
        paths.append(tmp_path / "a.pth")
    for path in paths:
        with pytest.raises(ValueError, match=re.escape(said)) as caught:
            Checkpointer(nn.Linear(1, 1)).load(str(path))
        assert str(path) in str(caught.value)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    arrays = {"model": {"a.weight": np.ones((2, 3), np.float32), "b": np.ones(4)}, "__author__": "x"}
    (folder / "a.pkl").write_bytes(pickle.dumps(arrays))
    torch.save({"model": {"a.weight": torch.ones(2, 3)}, "iteration": 3}, folder / "a.pth")
    return {suffix: (folder / f"a.{suffix}").read_bytes() for suffix in ("pkl", "pth")}


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
@settings(derandomize=True, max_examples=150, deadline=None, database=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused_by_name(suffix, whole_files, tmp_path_factory, data):
    """A changed byte may be in a number, which the format cannot tell; nothing but ValueError may come of it."""
    content = bytearray(whole_files[suffix])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    path.write_bytes(content)
    try:
        read_content(str(path))
    except ValueError as error:
        assert str(error).startswith(f"{path} is damaged, or ")


YAML = {
    "apply": "MODEL: {{WEIGHTS: !!python/object/apply:os.mkdir ['{}']}}\n",
    "new": "MODEL: {{WEIGHTS: !!python/object/new:os.mkdir ['{}']}}\n",
    "eval": "MODEL: {{WEIGHTS: !!python/object/apply:eval [\"__import__('os').mkdir('{}')\"]}}\n",
    "object": "# {}\nMODEL: {{WEIGHTS: !!python/object:mask2former_ext.checkpoint.Checkpointer {{}}}}\n",
}


@pytest.mark.parametrize("as_base", [False, True])
@pytest.mark.parametrize("kind", YAML)
def test_yaml_runs_no_code(kind, as_base, tmp_path):
    target = tmp_path / "it_ran"
    hostile = tmp_path / "hostile.yaml"
    hostile.write_text(YAML[kind].format(target))
    named = hostile
    if as_base:
        named = tmp_path / "child.yaml"
        named.write_text("_BASE_: hostile.yaml\n")
    with pytest.raises(ValueError, match=rf"config file '{re.escape(str(named))}'.*python/object"):
        load_config(str(named))
    assert not target.exists()


@pytest.mark.parametrize("value", ["!!python/object/apply:os.mkdir ['{}']", "__import__('os').mkdir('{}')"])
def test_overrides_run_no_code(value, tmp_path):
    value = value.format(tmp_path / "it_ran")
    assert value == load_config("", ["MODEL.WEIGHTS", value]).MODEL.WEIGHTS
    assert not (tmp_path / "it_ran").exists()


def unsafe_reads(tree):
    """Lines of calls that may run what a file says."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        call, given = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (
            call in ("pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load")
            or (call == "torch.load" and given.get("weights_only") != "True")
            or (call == "np.load" and given.get("allow_pickle", "False") != "False")
            or (call.endswith(".merge_from_file") and given.get("allow_unsafe") != "False")
        ):
            yield node.lineno, call


def test_what_is_unsafe_is_found():
    source = "torch.load(f)\ntorch.load(f, weights_only=True)\ncfg.merge_from_file(f)\npickle.load(f)\nyaml.load(f)"
    assert [line for line, _ in unsafe_reads(ast.parse(source))] == [1, 3, 4, 5]


def test_nothing_reads_files_unsafely():
    files = [path for folder in (PACKAGE, *SCRIPTS) for path in sorted(folder.rglob("*.py"))]
    assert len(files) > 100
    found = {str(path): list(unsafe_reads(ast.parse(path.read_text(encoding="utf-8")))) for path in files}
    assert {path: calls for path, calls in found.items() if calls} == {}
