"""setup.py, the pinned requirements and the Makefile."""

import importlib.metadata
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import setuptools
import torch
from torch.utils import cpp_extension

import mask2former_ext

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "mask2former_ext" / "ops" / "csrc"
BUILD_VARIABLES = ("FORCE_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CXX", "MAX_JOBS")


@pytest.fixture
def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py calls setuptools.setup with."""
    return run_setup(monkeypatch, FORCE_CUDA="0")


def run_setup(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", arguments.update)
    for name in BUILD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    # setup.py sets these: here too, so that they are put back
    for name, value in {"PATH": os.environ["PATH"], "TORCH_CUDA_ARCH_LIST": "", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    monkeypatch.chdir(ROOT)
    arguments["names"] = runpy.run_path("setup.py")
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
    without_cv2 = run_setup(monkeypatch, FORCE_CUDA="0")["install_requires"]
    assert [r for r in without_cv2 if "opencv" in r] == ["opencv-python-headless>=4.5.4"]


def test_all_code_and_tables_are_packaged(setup_arguments):
    package = ROOT / "mask2former_ext"
    folders = {path.parent.relative_to(ROOT) for path in package.rglob("*.py")}
    assert {str(folder).replace(os.sep, ".") for folder in folders} == set(setup_arguments["packages"])
    globs = setup_arguments["package_data"]["mask2former_ext"]
    packaged = {path for glob in globs for path in package.glob(glob)}
    unpackaged = {path for path in package.rglob("*") if path.is_file() and CSRC not in path.parents} - packaged
    assert not {path for path in unpackaged if path.suffix not in (".py", ".pyc", ".so")}


def sources_of(arguments: dict[str, Any]) -> set[Path]:
    (extension,) = arguments["ext_modules"]
    assert extension.name == "mask2former_ext._C"
    return {ROOT / source for source in extension.sources}


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CUDA toolkit 13.1 that compiles nothing, fit for this torch, and a wrapper of its nvcc in another place."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    answers = '--version) echo "release 13.1, V13.1.9";; --dryrun) echo "#\\$ TOP=$TOP/bin/.." >&2;;'
    report = f'#!/bin/sh\ncase "$1" in {answers} esac\n'
    for folder in ("toolkit/bin", "wrapper/bin"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "nvcc").write_text(report.replace("$TOP", str(tmp_path / "toolkit")))
        (tmp_path / folder / "nvcc").chmod(0o755)
    return tmp_path / "toolkit"


def test_cpp_is_compiled_always_and_cuda_with_a_toolkit(monkeypatch, capsys, toolkit):
    cpp, cuda = set(CSRC.rglob("*.cpp")), set(CSRC.rglob("*.cu"))
    assert cpp and cuda
    assert sources_of(run_setup(monkeypatch, CUDA_HOME=f"{toolkit}")) == cpp | cuda
    assert f"CUDA, with {toolkit}, for 8.0;9.0+PTX" in capsys.readouterr().err
    assert sources_of(run_setup(monkeypatch, CUDA_HOME=f"{toolkit}", FORCE_CUDA="0")) == cpp
    assert sources_of(run_setup(monkeypatch, CUDA_HOME="/nonexistent")) == cpp
    assert "CPU only: /nonexistent/bin/nvcc does not exist" in capsys.readouterr().err


def test_a_library_with_cuda_knows_toolkit_and_architectures(monkeypatch, toolkit):
    arguments = run_setup(monkeypatch, CUDA_HOME=f"{toolkit}", TORCH_CUDA_ARCH_LIST="7.5 9.0a+PTX")
    macros = dict(arguments["ext_modules"][0].define_macros)
    assert macros["MASK2FORMER_EXT_CUDA_VERSION"] == '"13.1"'
    assert macros["MASK2FORMER_EXT_CUDA_ARCHITECTURES"] == '"7.5 9.0a+PTX"'
    with pytest.raises(SystemExit, match=r"TORCH_CUDA_ARCH_LIST=9\.0;Hopper names 'Hopper'"):
        run_setup(monkeypatch, CUDA_HOME=f"{toolkit}", TORCH_CUDA_ARCH_LIST="9.0;Hopper")


def test_the_toolkit_is_found_behind_a_wrapper_of_nvcc(setup_arguments, monkeypatch, toolkit):
    monkeypatch.setenv("PATH", f"{toolkit.parent / 'wrapper' / 'bin'}:{os.environ['PATH']}")
    assert setup_arguments["names"]["find_cuda_home"]() == toolkit


def test_without_a_compiler_nothing_is_compiled(monkeypatch, capsys):
    assert "ext_modules" not in run_setup(monkeypatch, CXX="/nonexistent/c++ -m64")
    assert "plain PyTorch will take their place: there is no C++ compiler (/nonexistent/c++" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("CUDA_HOME", "/nonexistent", "/nonexistent/bin/nvcc does not exist"),
        ("CXX", "/nonexistent", "there is no C\\+\\+ compiler"),
    ],
)
def test_forcing_cuda_without_a_compiler_is_an_error(monkeypatch, variable, value, reason):
    with pytest.raises(SystemExit, match=f"FORCE_CUDA=1, but the CUDA sources cannot be compiled: {reason}"):
        run_setup(monkeypatch, FORCE_CUDA="1", **{variable: value})


def test_forcing_cuda_with_a_toolkit_of_another_cuda_is_an_error(monkeypatch, toolkit):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(SystemExit, match=r"is 13.1, but torch was built with 12.8"):
        run_setup(monkeypatch, FORCE_CUDA="1", CUDA_HOME=f"{toolkit}")


def unwanted(folder: str, names: list[str]) -> set[str]:
    """What a fresh checkout would not have."""
    pattern = re.compile(r"^\.|^(build|dist|output.*|__pycache__)$|\.(egg-info|so)$")
    left_behind = {name for name in names if pattern.search(name)}
    data = {name for name in names if Path(folder) == ROOT / "datasets" and (ROOT / "datasets" / name).is_dir()}
    return left_behind | data


def test_distributions_built_without_torch(tmp_path):
    """As ``python -m build`` does in its isolated environment: sources in the sdist, no compiled code in the wheel."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=unwanted)
    files = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    code = (
        "import sys; sys.modules['torch'] = None; from setuptools import build_meta as build; "
        "build.build_sdist('dist'); build.build_wheel('dist')"
    )
    environment = {name: value for name, value in os.environ.items() if name not in BUILD_VARIABLES}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "no operators are compiled, plain PyTorch will take their place: torch cannot be imported" in result.stderr

    name = f"mask2former_ext-{mask2former_ext.__version__}"
    with tarfile.open(checkout / "dist" / f"{name}.tar.gz") as sdist:
        assert files <= {member.partition("/")[2] for member in sdist.getnames()}
    with zipfile.ZipFile(checkout / "dist" / f"{name}-py3-none-any.whl") as wheel:
        packaged = {member for member in wheel.namelist() if ".dist-info/" not in member}
    code_and_tables = {file for file in files if file.startswith("mask2former_ext/") and "/csrc/" not in file}
    assert packaged == code_and_tables


def test_every_requirement_is_pinned():
    lines = [line for file in (ROOT / "requirements").glob("*.txt") for line in file.read_text().splitlines()]
    requirements = [line for line in lines if line and not line.startswith("#")]
    assert len(requirements) > 20
    for requirement in requirements:
        assert re.fullmatch(r'[\w-]+==[\w.]+(; python_version (<|>=) "3\.11")?', requirement), requirement


def test_the_oldest_that_setup_admits_is_what_test_oldest_installs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)  # no OpenCV: its line is there too
    arguments = run_setup(monkeypatch, FORCE_CUDA="0")
    extras = [line for name, lines in arguments["extras_require"].items() if name != "dev" for line in lines]
    files = [ROOT / "requirements" / name for name in ("oldest.txt", "without_dependencies.txt")]
    pins = dict(line.split("==") for file in files for line in file.read_text().lower().splitlines() if "==" in line)
    lines = [line.split(">=") for line in (*arguments["install_requires"], *extras)]
    bounds = {name: bound[0] for name, *bound in lines if bound}
    assert len(bounds) > 12 and "torch" in bounds
    for name, bound in bounds.items():
        assert f"{pins[name]}.".startswith(f"{bound}."), name


def test_without_detectron2_the_import_names_the_command():
    code = "import sys; sys.modules['detectron2'] = None; import mask2former_ext"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "ImportError" in result.stderr
    assert "tools/install_detectron2.py" in result.stderr


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    # A make that runs this test must not pass its own flags and variables on.
    own = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "VENV", "TORCH", "REQUIREMENTS", "PYTHON", *BUILD_VARIABLES)
    environment = {name: value for name, value in os.environ.items() if name not in own}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the set-up depends on, and a virtual environment whose python notes what it is asked."""
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name in (
        "tools/install_detectron2.py",
        "tools/detectron2_adaptation.py",
        "mask2former_ext/__init__.py",
        "mask2former_ext/ops/csrc/cpu/kernels.h",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
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
    assert len(asked) == 3
    assert asked[0] == "tools/install_detectron2.py"
    assert asked[1].endswith("-e .")
    assert "load_extension" in asked[2]

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


def test_changed_operators_are_compiled(checkout):
    assert make(checkout, "setup", "PYTHON=./python3").returncode == 0
    (checkout / "asked.txt").unlink()
    later = (checkout / ".venv" / "stamps" / "package").stat().st_mtime + 10
    os.utime(checkout / "mask2former_ext" / "ops" / "csrc" / "cpu" / "kernels.h", (later, later))
    assert make(checkout, "setup", "PYTHON=./python3").returncode == 0
    assert "-e ." in (checkout / "asked.txt").read_text()


def test_forcing_cuda_compiles_once_more(checkout):
    installed = []
    for settings in (["FORCE_CUDA=0"], ["FORCE_CUDA=1"], ["FORCE_CUDA=1"], []):
        (checkout / "asked.txt").write_text("")
        assert make(checkout, "setup", "PYTHON=./python3", *settings).returncode == 0
        installed.append("-e ." in (checkout / "asked.txt").read_text())
    assert installed == [True, True, False, False]


def test_operators_compiled_for_another_environment_are_compiled_again(checkout):
    assert make(checkout, "setup", "PYTHON=./python3").returncode == 0
    (checkout / "asked.txt").unlink()
    library = checkout / "mask2former_ext" / "_C.cpython-310-x86_64-linux-gnu.so"
    library.touch()
    later = (checkout / ".venv" / "stamps" / "package").stat().st_mtime + 10
    os.utime(library, (later, later))
    assert make(checkout, "setup", "PYTHON=./python3").returncode == 0
    assert "-e ." in (checkout / "asked.txt").read_text()


@pytest.mark.parametrize(
    ("target", "torch_step", "repeated"),
    [
        (
            "oldest",
            "install .*-r requirements/oldest.txt -c requirements/oldest.txt",
            ["-m pytest --ignore=tests/soak -k matcher"],
        ),
        ("newest", "install .*--upgrade setuptools torch torchvision -c requirements/base.txt", None),
    ],
)
def test_the_suite_with_another_torch_has_an_environment_of_its_own(checkout, target, torch_step, repeated):
    (checkout / ".venv").rename(checkout / f".venv-{target}")
    arguments = (f"test-{target}", "PYTHON=./python3", "PYTEST_FLAGS=-k matcher")
    assert make(checkout, *arguments).returncode == 0
    asked = (checkout / "asked.txt").read_text().splitlines()
    assert re.search(torch_step, asked[0]) and asked[-1] == "-m pytest --ignore=tests/soak -k matcher"
    assert any(line.endswith("-e .") for line in asked) and not (checkout / ".venv").exists()

    # a newer torch may be there: asked again, and compiled for it
    (checkout / "asked.txt").unlink()
    assert make(checkout, *arguments).returncode == 0
    assert (checkout / "asked.txt").read_text().splitlines() == (repeated or asked)


def test_the_oldest_torch_is_tested_with_the_oldest_python(checkout):
    result = make(checkout, "--dry-run", "test-oldest")
    assert '"python3.10" -m venv ".venv-oldest"' in result.stdout


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
