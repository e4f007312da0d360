#!/usr/bin/env python3
"""Install Detectron2 from the Python package index, for machines that can reach nothing else.

Detectron2 publishes no package of its own name there. The Python files of its release 0.6 are in the source
distribution ``pb1-detectron2``, without the C++ sources; this script downloads it with pip, checks it, adapts it to
current packages (``detectron2_adaptation.py``) and installs it as ``detectron2`` 0.6. Torch and torchvision must be
there.

An importable Detectron2 >= 0.6 is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from detectron2_adaptation import REQUIREMENTS, AdaptationError, adapt

VERSION = "0.6"
SDIST_NAME = "pb1-detectron2"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
UPSTREAM_HELP = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"


class InstallError(RuntimeError):
    """Something a person can put right; the message says how."""


def say(message: str) -> None:
    print(f"[install_detectron2] {message}", flush=True)


def version_tuple(version: str) -> tuple[int, ...]:
    """Return the leading numbers of ``version``: ``"0.6+cu113"`` gives ``(0, 6)``."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def installed_detectron2() -> tuple[str, str] | None:
    """Return (version, folder) of the Detectron2 that can be imported here, or None.

    Raises:
        InstallError: a Detectron2 is there, but broken or older than 0.6.
    """
    if importlib.util.find_spec("detectron2") is None:
        return None
    try:
        module = importlib.import_module("detectron2")
        version, folder = str(module.__version__), str(Path(str(module.__file__)).parent)
    except (ImportError, AttributeError) as error:
        raise InstallError(
            f"A detectron2 is installed, but importing it fails: {error}. "
            f"Repair it or remove it ({sys.executable} -m pip uninstall detectron2), then run this again."
        ) from error
    if version_tuple(version) < version_tuple(VERSION):
        raise InstallError(
            f"Detectron2 {version} in {folder} is older than {VERSION}. Upgrade it ({UPSTREAM_HELP}) or remove it "
            f"({sys.executable} -m pip uninstall detectron2), then run this again."
        )
    return version, folder


def check_prerequisites() -> None:
    """Raise InstallError unless pip, setuptools, torch and torchvision are in this environment."""
    for name in ("pip", "setuptools", "torch", "torchvision"):
        if importlib.util.find_spec(name) is None:
            raise InstallError(f"{name} is not installed for {sys.executable}; install it first, then run this again.")


def run_pip(*arguments: str) -> None:
    """Run pip of this interpreter; on failure raise InstallError with the end of what it said."""
    command = [sys.executable, "-m", "pip", *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        tail = "\n".join(result.stdout.splitlines()[-30:])
        raise InstallError(f"{' '.join(command)} failed with exit status {result.returncode}:\n{tail}")


def download(folder: Path) -> Path:
    """Download the source distribution into ``folder`` and return its path."""
    folder.mkdir()
    # pip asks the sdist's setup.py for metadata even here, and that imports torch: hence no build isolation.
    run_pip(
        *("download", f"{SDIST_NAME}=={VERSION}", "--no-deps", "--no-build-isolation"),
        *("--no-binary", SDIST_NAME, "--dest", str(folder)),
    )
    archives = list(folder.iterdir())
    if len(archives) != 1:
        raise InstallError(f"pip download was expected to leave one file, but left: {[p.name for p in archives]}")
    return archives[0]


def verify(archive: Path, expected: str = SDIST_SHA256) -> None:
    """Raise InstallError unless the SHA-256 of ``archive`` is ``expected``."""
    if not archive.is_file():
        raise InstallError(f"{archive}: no such file. Leave --sdist out to download it.")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != expected:
        raise InstallError(
            f"{archive.name} is not the file this script was written for.\n  expected sha256 {expected}\n"
            f"  found    sha256 {found}\nNothing was installed. Remove the file (or run '{sys.executable} -m pip cache "
            f"purge') and try again, or install Detectron2 from its repository: {UPSTREAM_HELP}"
        )


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack ``archive`` into ``folder`` and return the one folder that it holds."""
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="data")
        else:  # Python 3.10 and 3.11 before the filters; the checksum has been verified
            tar.extractall(folder)
    (root,) = folder.iterdir()
    return root


def build_and_install(root: Path, folder: Path) -> None:
    """Build a wheel of ``root`` into ``folder`` and install it with what it depends on."""
    run_pip(*("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(root)))
    say("installing what Detectron2 depends on (what is there already stays)")
    run_pip("install", *REQUIREMENTS)
    # By name from the folder, not by path: pip would record the temporary path as the origin.
    run_pip(*("install", "--no-deps", "--no-index", "--find-links", str(folder), f"detectron2=={VERSION}"))


def install(sdist: Path | None) -> None:
    """Install Detectron2 0.6 from ``sdist``, or from the package index when that is None."""
    check_prerequisites()
    work = Path(tempfile.mkdtemp(prefix="install_detectron2_"))
    try:
        if sdist is None:
            say(f"downloading {SDIST_NAME} {VERSION} from the package index")
            sdist = download(work / "download")
        verify(sdist)
        say("adapting it to current packages")
        root = unpack(sdist, work / "source")
        adapt(root, VERSION)
        say("building and installing it as detectron2")
        build_and_install(root, work / "wheel")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/install_detectron2.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sdist", type=Path, help=f"use this {SDIST_NAME}-{VERSION}.tar.gz instead of downloading it")
    arguments = parser.parse_args()
    try:
        found = installed_detectron2()
        if found is not None:
            say(f"Detectron2 {found[0]} is installed in {found[1]}: nothing to do")
            return 0
        install(arguments.sdist)
        importlib.invalidate_caches()
        found = installed_detectron2()
        assert found is not None, "pip installed detectron2, but it cannot be found"
    except (InstallError, AdaptationError) as error:
        say(f"error: {error}")
        return 1
    say(f"Detectron2 {found[0]} is installed in {found[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
