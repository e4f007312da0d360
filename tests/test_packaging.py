"""setup.py, the pinned requirements and the Makefile."""

import importlib.metadata
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools

import mask2former_ext

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("venv", "torch", "requirements", "detectron2", "package")


@pytest.fixture
def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py calls setuptools.setup with."""
    return run_setup(monkeypatch)


def run_setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", arguments.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return arguments


def test_the_version_is_stated_once(setup_arguments):
    assert setup_arguments["version"] == mask2former_ext.__version__
    assert importlib.metadata.version("mask2former_ext") == mask2former_ext.__version__


def test_requirements_leave_what_is_installed(setup_arguments):
    requirements = setup_arguments["install_requires"]
    names = [re.match(r"[\w.-]+", requirement).group() for requirement in requirements]
    assert {"torch", "torchvision"} <= set(names)
    assert "detectron2" not in names
    assert not any(re.search(r"==|<|~=", requirement) for requirement in requirements)
    assert setup_arguments["python_requires"] == ">=3.10"
    assert {"dev", "tools"} <= set(setup_arguments["extras_require"])


def test_any_opencv_satisfies(setup_arguments, monkeypatch):
    assert not any("opencv" in requirement for requirement in setup_arguments["install_requires"])
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "cv2" else found(name, *rest))
    without_cv2 = run_setup(monkeypatch)["install_requires"]
    assert [r for r in without_cv2 if "opencv" in r] == ["opencv-python-headless>=4.5"]


def test_all_code_and_tables_are_packaged(setup_arguments):
    package = ROOT / "mask2former_ext"
    folders = {path.parent.relative_to(ROOT) for path in package.rglob("*.py")}
    assert {str(folder).replace(os.sep, ".") for folder in folders} == set(setup_arguments["packages"])
    globs = setup_arguments["package_data"]["mask2former_ext"]
    packaged = {path for glob in globs for path in package.glob(glob)}
    unpackaged = {p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")} - packaged
    assert not unpackaged


def test_every_requirement_is_pinned():
    lines = [line for file in (ROOT / "requirements").glob("*.txt") for line in file.read_text().splitlines()]
    requirements = [line for line in lines if line and not line.startswith("#")]
    assert len(requirements) > 20
    for requirement in requirements:
        assert re.fullmatch(r'[\w-]+==[\w.]+(; python_version (<|>=) "3\.11")?', requirement), requirement


def test_without_detectron2_the_import_names_the_command():
    code = "import sys; sys.modules['detectron2'] = None; import mask2former_ext"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "ImportError" in result.stderr
    assert "tools/install_detectron2.py" in result.stderr


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    # A make that runs this test must not pass its own flags and variables on.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "VENV")}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the set-up depends on, and a virtual environment whose python notes what it is asked."""
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name in ("tools/install_detectron2.py", "tools/detectron2_adaptation.py", "mask2former_ext/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$*" >> asked.txt\ncase "$*" in *install_detectron2*) exit ${FAILS:-0};; esac\n')
    python.chmod(0o755)
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "python3").chmod(0o755)
    return tmp_path


def test_an_interrupted_set_up_goes_on_where_it_stopped(checkout, monkeypatch):
    monkeypatch.setenv("FAILS", "1")
    failed = make(checkout, "setup", "PYTHON=./python3")
    assert failed.returncode != 0
    assert sorted(path.name for path in (checkout / ".venv" / "stamps").iterdir()) == ["requirements", "torch", "venv"]

    (checkout / "asked.txt").unlink()
    monkeypatch.setenv("FAILS", "0")
    assert make(checkout, "setup", "PYTHON=./python3").returncode == 0
    asked = (checkout / "asked.txt").read_text().splitlines()
    assert len(asked) == 2
    assert asked[0] == "tools/install_detectron2.py"
    assert asked[1].endswith("-e .")

    (checkout / "asked.txt").unlink()
    assert make(checkout, "setup", "PYTHON=./python3").returncode == 0
    assert not (checkout / "asked.txt").exists()


def test_changed_requirements_are_installed(checkout):
    assert make(checkout, "setup", "PYTHON=./python3").returncode == 0
    (checkout / "asked.txt").unlink()
    later = (checkout / ".venv" / "stamps" / "package").stat().st_mtime + 10
    os.utime(checkout / "requirements" / "dev.txt", (later, later))
    assert make(checkout, "setup", "PYTHON=./python3").returncode == 0
    asked = (checkout / "asked.txt").read_text()
    assert "requirements/dev.txt" in asked
    assert "requirements/torch.txt" not in asked


def test_a_missing_python_is_named(checkout):
    result = make(checkout, "setup", "PYTHON=no-such-python")
    assert result.returncode != 0
    assert "there is no 'no-such-python' here" in result.stderr
    assert not (checkout / ".venv" / "stamps").exists()


def test_an_old_python_is_refused(checkout):
    (checkout / "python3").write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.2 && exit 0\nexit 1\n')
    result = make(checkout, "setup", "PYTHON=./python3")
    assert result.returncode != 0
    assert "is Python 3.8.2, and this project needs Python 3.10 or newer" in result.stderr
    assert not (checkout / ".venv" / "stamps").exists()
