"""Build and installation of mask2former_ext.

Detectron2 is no requirement here because the package index has none of that name: importing mask2former_ext without
it says which command installs it. Where torch and Detectron2 are there already, install with
``pip install --no-build-isolation -e .``; nothing of theirs is replaced.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
CSRC = Path("mask2former_ext") / "ops" / "csrc"

# Where no GPU is visible and TORCH_CUDA_ARCH_LIST is not set: machine code for two, and PTX for what comes after.
DEFAULT_CUDA_ARCHITECTURES = "8.0;9.0+PTX"

# The lower bounds are what `make test-oldest` runs with (requirements/oldest.txt).
INSTALL_REQUIRES = [
    "torch>=2.6",
    "torchvision>=0.21",
    "numpy>=1.23.5",
    "scipy>=1.9.3",
    "pillow>=10.1",
    "pycocotools>=2.0.7",
    "fvcore>=0.1.5.post20221221",
    "matplotlib>=3.6.3",
    "jinja2>=3.0.3",
    "tabulate",
    "tqdm",
]

EXTRAS_REQUIRE = {
    "tools": ["scikit-image>=0.20"],
    "timm": ["timm>=1.0.26"],
    "transformers": ["transformers>=5.20", "safetensors>=0.8"],
    "evaluation": ["cityscapesscripts>=2.3", "lvis>=0.5.3"],
}
EXTRAS_REQUIRE["dev"] = [
    *("pytest>=7.3", "ruff>=0.9", "mypy>=1.10"),
    *(requirement for optional in EXTRAS_REQUIRE.values() for requirement in optional),
]


def read_version() -> str:
    source = (ROOT / "mask2former_ext" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('mask2former_ext/__init__.py has no line of the form: __version__ = "1.2.3"')
    return match.group(1)


def opencv_requirement() -> list[str]:
    """Any distribution that provides cv2 will do. Where none is, the one that needs no display libraries."""
    return [] if importlib.util.find_spec("cv2") else ["opencv-python-headless>=4.5.4"]


def say(message: str) -> None:
    print(f"mask2former_ext: {message}", file=sys.stderr, flush=True)


def require_wheels() -> None:
    """Say what to do where setuptools cannot make a wheel; pip shows nothing but an invalid command otherwise."""
    import setuptools

    old = tuple(int(part) for part in setuptools.__version__.split(".")[:2]) < (70, 1)
    making_wheel = {"dist_info", "bdist_wheel", "editable_wheel"} & set(sys.argv)
    if making_wheel and old and importlib.util.find_spec("wheel") is None:
        raise SystemExit(
            f"mask2former_ext: setuptools {setuptools.__version__} makes no wheels by itself. "
            "Do first: pip install --upgrade setuptools"
        )


def cxx_problem() -> str | None:
    """Say what speaks against compiling the C++ sources; None if nothing does."""
    if importlib.util.find_spec("torch") is None:
        return "torch cannot be imported here (pip needs --no-build-isolation for that)"
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(shlex.split(compiler)[0]) is None:
        return f"there is no C++ compiler ({compiler}; CXX names another)"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return f"{header} does not exist (on Debian and Ubuntu it comes with python3-dev)"
    return None


def find_cuda_home() -> Path | None:
    """Return the prefix of the CUDA toolkit: CUDA_HOME, or what nvcc reports, because a wrapper may lie elsewhere."""
    if os.environ.get("CUDA_HOME"):
        return Path(os.environ["CUDA_HOME"])
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        default = Path("/usr/local/cuda")
        return default if (default / "bin" / "nvcc").is_file() else None
    report = subprocess.run([nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True, check=False).stderr
    top = re.search(r"^#\$ TOP=(.+)$", report, flags=re.MULTILINE)
    return Path(top.group(1)).resolve() if top else Path(nvcc).resolve().parents[1]


def read_toolkit_version(cuda_home: Path) -> str:
    """Return the toolkit's version, such as 13.0; empty where nvcc does not tell."""
    report = subprocess.run([cuda_home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=False)
    release = re.search(r"release (\d+\.\d+)", report.stdout)
    return release.group(1) if release else ""


def cuda_problem(cuda_home: Path | None) -> str | None:
    """Say what speaks against compiling the CUDA sources; None if nothing does."""
    import torch

    if os.environ.get("FORCE_CUDA") == "0":
        return "FORCE_CUDA=0"
    if cuda_home is None:
        return "no CUDA toolkit was found (nvcc is not on PATH, CUDA_HOME is not set)"
    if not (cuda_home / "bin" / "nvcc").is_file():
        return f"{cuda_home / 'bin' / 'nvcc'} does not exist (CUDA_HOME)"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    toolkit = read_toolkit_version(cuda_home)
    if not toolkit:
        return f"{cuda_home / 'bin' / 'nvcc'} --version names no release"
    if toolkit.split(".")[0] != torch.version.cuda.split(".")[0]:
        return f"the CUDA toolkit in {cuda_home} is {toolkit}, but torch was built with {torch.version.cuda}"
    return None


def find_sources(suffix: str) -> list[str]:
    # relative to this file, because setuptools refuses absolute paths
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / CSRC).rglob(f"*{suffix}"))


def do_without(part: str, problem: str) -> None:
    """Say that a part is not compiled, and why; an error if FORCE_CUDA=1 asks for all of them."""
    if os.environ.get("FORCE_CUDA") == "1":
        raise SystemExit(f"mask2former_ext: FORCE_CUDA=1, but the CUDA sources cannot be compiled: {problem}.")
    say(f"{part}: {problem}")


def extension_modules() -> dict[str, Any]:
    """Return the arguments of ``setup`` that compile the operators: C++ always, CUDA where a toolkit is found.

    FORCE_CUDA=1 makes the lack of a toolkit an error, FORCE_CUDA=0 leaves CUDA out. Without torch or a C++ compiler
    there are no such arguments, and the package uses its plain PyTorch implementation.
    """
    problem = cxx_problem()
    if problem is not None:
        do_without("no operators are compiled, plain PyTorch will take their place", problem)
        return {}
    # ninja of this environment, be it activated or not: without one, files are compiled one after another, and all anew
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    from torch.utils import cpp_extension

    threads = ["-fopenmp"] if sys.platform == "linux" else []
    flags = ["-O3", "-Wall", "-fno-math-errno", "-Wno-psabi", *threads]
    sources = find_sources(".cpp")
    arguments: dict[str, Any] = {"extra_compile_args": {"cxx": flags}, "extra_link_args": threads}
    kind: Any = cpp_extension.CppExtension

    cuda_home = find_cuda_home()
    problem = cuda_problem(cuda_home)
    if problem is None:
        kind = cpp_extension.CUDAExtension
        sources += find_sources(".cu")
        arguments.update(cuda_arguments(cuda_home, flags))
    else:
        do_without("compiling the operators for the CPU only", problem)
    return {
        "ext_modules": [kind("mask2former_ext._C", sources, **arguments)],
        "cmdclass": {"build_ext": cpp_extension.BuildExtension},
        # ninja knows what has changed; setuptools looks at no header and no flag
        "options": {"build_ext": {"force": True}},
    }


def cuda_arguments(cuda_home: Path, flags: list[str]) -> dict[str, Any]:
    """Return compile arguments for C++ and CUDA; settles toolkit and architectures for torch's build helpers."""
    import torch
    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = str(cuda_home)
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        found = ";".join(f"{major}.{minor}" for major, minor in sorted(capabilities))
        os.environ["TORCH_CUDA_ARCH_LIST"] = found or DEFAULT_CUDA_ARCHITECTURES
    architectures = os.environ["TORCH_CUDA_ARCH_LIST"]
    for architecture in re.split(r"[;\s]+", architectures):
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", architecture):
            raise SystemExit(
                f"mask2former_ext: TORCH_CUDA_ARCH_LIST={architectures} names {architecture!r}; "
                "write compute capabilities, such as 8.0;9.0+PTX."
            )
    say(f"compiling the operators for the CPU and CUDA, with {cuda_home}, for {architectures} (TORCH_CUDA_ARCH_LIST)")
    macros = [
        ("MASK2FORMER_EXT_CUDA_VERSION", f'"{read_toolkit_version(cuda_home)}"'),
        ("MASK2FORMER_EXT_CUDA_ARCHITECTURES", f'"{architectures}"'),
    ]
    # the wheels' own CUDA headers, after the toolkit's: they fill in libraries that a toolkit may lack
    fallback = [
        part
        for folder in sorted(Path(torch.__file__).parents[1].glob("nvidia/cu*/include"))
        for part in ("-Xcompiler", f"-idirafter,{folder}")
    ]
    nvcc_flags = ["-O3", "--expt-relaxed-constexpr", "--expt-extended-lambda", "-Xcompiler", "-Wall", *fallback]
    return {"define_macros": macros, "extra_compile_args": {"cxx": flags, "nvcc": nvcc_flags}}


require_wheels()
setup(
    name="mask2former_ext",
    version=read_version(),
    description="Mask2Former for Detectron2: semantic, instance and panoptic segmentation by one architecture",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE", "NOTICE"],
    classifiers=[
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["mask2former_ext", "mask2former_ext.*"]),
    package_data={"mask2former_ext": ["**/*.json", "**/*.html", "**/*.css"]},
    install_requires=INSTALL_REQUIRES + opencv_requirement(),
    extras_require=EXTRAS_REQUIRE,
    zip_safe=False,
    **extension_modules(),
)
