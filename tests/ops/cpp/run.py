"""Build the C++ tests of the CPU kernels and run them.

With ``--sanitize`` they and the kernels are compiled with the address and undefined-behaviour sanitizers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CSRC = ROOT / "mask2former_ext" / "ops" / "csrc"
SOURCES = (*sorted(HERE.glob("*.cpp")), CSRC / "problem.cpp", *sorted((CSRC / "cpu").glob("*.cpp")))

PLAIN = ("-O1", "-Wno-psabi")
# float-cast-overflow is no part of "undefined": what a location beyond all integers must not be cast to.
# maybe-uninitialized: at -O1 GCC does not see that a vector is written in two halves. unknown-pragmas: CUDA's unroll.
SANITIZE = (
    *("-O1", "-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-maybe-uninitialized"),
    "-Wno-unknown-pragmas",
)
THREADS = ("-fopenmp",) if sys.platform == "linux" else ()
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def build(folder: Path, sanitize: bool) -> Path:
    """Compile into ``folder`` what has changed there, and return the program."""
    # ninja of this environment, be it activated or not
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    from torch.utils import cpp_extension

    folder.mkdir(parents=True, exist_ok=True)
    flags = [*(SANITIZE if sanitize else PLAIN), *THREADS]
    program = cpp_extension.load(
        "cpp_tests",
        [str(source) for source in SOURCES],
        extra_cflags=flags,
        extra_ldflags=list(flags),
        build_directory=str(folder),
        is_python_module=False,
        is_standalone=True,
    )
    return Path(program)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sanitize", action="store_true", help="compile with sanitizers")
    parser.add_argument("--folder", type=Path, help="where to build (default: build/cpp_tests or build/sanitize)")
    arguments = parser.parse_args()
    folder = arguments.folder or ROOT / "build" / ("sanitize" if arguments.sanitize else "cpp_tests")
    program = build(folder.resolve(), arguments.sanitize)
    environment = {**(SANITIZER_OPTIONS if arguments.sanitize else {}), **os.environ}
    return subprocess.run([program], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
