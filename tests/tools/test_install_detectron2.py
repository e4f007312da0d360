"""tools/install_detectron2.py and its table of edits, without a network and without installing anything."""

import hashlib
import importlib
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def adaptation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("detectron2_adaptation")


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch, adaptation: ModuleType) -> ModuleType:
    return importlib.import_module("install_detectron2")


def run_with_fake_detectron2(folder: Path, source: str) -> subprocess.CompletedProcess:
    (folder / "detectron2").mkdir()
    (folder / "detectron2" / "__init__.py").write_text(source)
    # Were pip called all the same, it would find no index and fail.
    environment = {**os.environ, "PYTHONPATH": str(folder), "PIP_NO_INDEX": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(TOOLS / "install_detectron2.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", ["0.6", "0.6+cu113", "0.10", "1.0"])
def test_an_importable_detectron2_stays_as_it_is(tmp_path, version):
    result = run_with_fake_detectron2(tmp_path, f'__version__ = "{version}"\n')
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines() == [
        f"[install_detectron2] Detectron2 {version} is installed in {tmp_path / 'detectron2'}: nothing to do"
    ]
    assert [path.name for path in tmp_path.rglob("*")] == ["detectron2", "__init__.py"]


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ('__version__ = "0.5"\n', "Detectron2 0.5 in .* is older than 0.6"),
        ("import a_module_that_is_not_there\n", "importing it fails: No module named 'a_module_that_is_not_there'"),
        ("", "importing it fails: .*__version__"),
    ],
)
def test_an_unusable_detectron2_is_named_with_the_way_out(tmp_path, source, cause):
    result = run_with_fake_detectron2(tmp_path, source)
    assert result.returncode == 1
    assert re.search(cause, result.stdout), result.stdout
    assert "pip uninstall detectron2" in result.stdout


def test_help_has_an_example(monkeypatch, capsys, installer):
    monkeypatch.setattr(sys, "argv", ["install_detectron2.py", "--help"])
    with pytest.raises(SystemExit) as exit_:
        installer.main()
    assert exit_.value.code == 0
    assert "example: python tools/install_detectron2.py" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Setuptools is replacing distutils")  # a search for pip sets it off
def test_another_file_than_the_known_sdist_is_refused(tmp_path, monkeypatch, capsys, installer):
    archive = tmp_path / "pb1-detectron2-0.6.tar.gz"
    archive.write_bytes(b"something else")
    monkeypatch.setattr(installer, "installed_detectron2", lambda: None)
    monkeypatch.setattr(installer, "run_pip", lambda *arguments: pytest.fail(f"pip was called: {arguments}"))
    monkeypatch.setattr(sys, "argv", ["install_detectron2.py", "--sdist", str(archive)])

    assert installer.main() == 1

    message = capsys.readouterr().out
    assert installer.SDIST_SHA256 in message
    assert hashlib.sha256(b"something else").hexdigest() in message
    assert "Nothing was installed" in message
    assert installer.UPSTREAM_HELP in message


def test_a_missing_sdist_is_named(tmp_path, installer):
    with pytest.raises(installer.InstallError, match=r"nowhere\.tar\.gz: no such file"):
        installer.verify(tmp_path / "nowhere.tar.gz")


def test_a_failing_pip_is_quoted(installer):
    with pytest.raises(installer.InstallError, match=r"(?s)exit status .*no-such-command"):
        installer.run_pip("no-such-command")


def test_the_working_folder_goes_even_after_an_error(tmp_path, monkeypatch, installer):
    monkeypatch.setattr(installer.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "work"))
    monkeypatch.setattr(installer, "verify", lambda archive: None)
    archive = tmp_path / "empty.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(
            TOOLS, arcname="pb1-detectron2-0.6", filter=lambda info: info if info.isdir() else None, recursive=False
        )
    with pytest.raises(RuntimeError, match="no such file"):
        installer.install(archive)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("version", "expected"), [("0.6", (0, 6)), ("0.6+cu113", (0, 6)), ("1.0.2rc1", (1, 0, 2)), ("unknown", ())]
)
def test_version_tuple(installer, version, expected):
    assert installer.version_tuple(version) == expected


def edit_for(adaptation: ModuleType, file: str, source_contains: str = ""):
    (edit,) = [e for e in adaptation.EDITS if e.file.endswith(file) and source_contains in e.pattern]
    return edit


def test_numpy_aliases_become_builtin_types(adaptation):
    edit = edit_for(adaptation, "structures/masks.py")
    source = "a.astype(np.bool)\nnp.zeros(3, dtype=np.int)\nnp.asarray(x, np.float), np.bool_, np.int64, np.float32\n"
    expected = "a.astype(bool)\nnp.zeros(3, dtype=int)\nnp.asarray(x, float), np.bool_, np.int64, np.float32\n"
    assert adaptation.edit_source(source, edit) == expected


def test_model_zoo_finds_its_configs_without_pkg_resources(adaptation):
    source = (
        "import os\nimport pkg_resources\nimport torch\n"
        "cfg_file = pkg_resources.resource_filename(\n"
        '    "detectron2.model_zoo", os.path.join("configs", config_path)\n)\n'
    )
    for edit in adaptation.EDITS:
        if edit.file.endswith("model_zoo.py"):
            source = adaptation.edit_source(source, edit)
    assert source == (
        "import os\nimport torch\n"
        'cfg_file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)\n'
    )


def test_the_official_coco_evaluation_takes_the_place_of_the_compiled_one(adaptation):
    source = adaptation.edit_source(
        "from types import SimpleNamespace\n_C = SimpleNamespace(COMPILED=False)\nclass COCOeval: pass\n"
        "class COCOeval_opt(COCOeval): pass\n",
        edit_for(adaptation, "fast_eval_api.py"),
    )
    names: dict = {}
    exec(source, names)
    assert names["COCOeval_opt"] is names["COCOeval"]


@pytest.mark.parametrize("source", ["nothing to replace\n", "np.bool\n", "np.bool, np.int, np.float, np.str\n"])
def test_another_count_of_occurrences_raises(adaptation, source):
    edit = edit_for(adaptation, "structures/masks.py")  # expects three
    with pytest.raises(adaptation.AdaptationError, match=r"structures/masks\.py: expected 3 occurrence.*found"):
        adaptation.edit_source(source, edit)


def test_edits_are_written_together_or_not_at_all(tmp_path, adaptation):
    (tmp_path / "a.py").write_text("old\n")
    (tmp_path / "b.py").write_text("other\n")
    good = adaptation.Edit("a.py", "old", "new", 1, "for the test")
    bad = adaptation.Edit("b.py", "old", "new", 1, "for the test")
    with pytest.raises(adaptation.AdaptationError, match=r"b\.py: expected 1"):
        adaptation.apply_edits(tmp_path, (good, bad))
    assert (tmp_path / "a.py").read_text() == "old\n"

    adaptation.apply_edits(tmp_path, (good,))
    notice, rest = (tmp_path / "a.py").read_text().split("\n", maxsplit=1)
    assert notice.startswith("# Changed")
    assert rest == "new\n"


def test_a_missing_file_raises(tmp_path, adaptation):
    with pytest.raises(adaptation.AdaptationError, match=r"detectron2/data/build\.py: no such file"):
        adaptation.apply_edits(tmp_path)


def test_projects_move_into_the_package(tmp_path, adaptation):
    (tmp_path / "detectron2" / "projects").mkdir(parents=True)
    with pytest.raises(adaptation.AdaptationError, match="point_rend: no such package"):
        adaptation.place_projects(tmp_path)
    for source in adaptation.PROJECTS.values():
        (tmp_path / source).mkdir(parents=True)
        (tmp_path / source / "__init__.py").touch()
    adaptation.place_projects(tmp_path)
    for name in ("point_rend", "deeplab", "panoptic_deeplab"):
        assert (tmp_path / "detectron2" / "projects" / name / "__init__.py").is_file()


def test_the_stand_in_names_the_missing_operator(adaptation):
    stand_in: dict = {}
    exec(adaptation.STAND_IN, stand_in)
    assert stand_in["COMPILED"] is False
    assert stand_in["get_compiler_version"]().startswith("none")
    with pytest.raises(NotImplementedError, match=r"detectron2\._C\.box_iou_rotated is a compiled operator"):
        stand_in["box_iou_rotated"](None, None)


def test_colours_become_panoptic_ids(adaptation):
    module: dict = {}
    exec(adaptation.PANOPTIC_ID, module)
    image = np.array([[[1, 2, 3], [255, 255, 255]]], dtype=np.uint8)
    ids = module["rgb2id"](image)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[1 + 2 * 256 + 3 * 65536, 2**24 - 1]]
    assert module["rgb2id"]([1, 2, 3]) == 197121
