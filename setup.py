"""Build and installation of mask2former_ext.

Detectron2 is no requirement here because the package index has none of that name: importing mask2former_ext without
it says which command installs it. Where torch and Detectron2 are there already, install with
``pip install --no-build-isolation -e .``; nothing of theirs is replaced.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
CSRC = Path("mask2former_ext") / "ops" / "csrc"

# Where no GPU is visible and TORCH_CUDA_ARCH_LIST is not set: machine code for two, and PTX for what comes after.
DEFAULT_CUDA_ARCHITECTURES = "8.0;9.0+PTX"

INSTALL_REQUIRES = [
    "torch>=2.4",
    "torchvision>=0.19",
    "numpy>=1.23",
    "scipy>=1.9",
    "pillow>=9.1",
    "pycocotools>=2.0.6",
    "fvcore>=0.1.5",
    "matplotlib>=3.6",
    "tabulate",
]

EXTRAS_REQUIRE = {
    "tools": ["scikit-image>=0.20"],
    "dev": ["pytest>=7.0", "ruff>=0.9", "mypy>=1.10", "scikit-image>=0.20"],
}


def read_version() -> str:
    source = (ROOT / "mask2former_ext" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('mask2former_ext/__init__.py has no line of the form: __version__ = "1.2.3"')
    return match.group(1)


def opencv_requirement() -> list[str]:
    """Any distribution that provides cv2 will do. Where none is, the one that needs no display libraries."""
    return [] if importlib.util.find_spec("cv2") else ["opencv-python-headless>=4.5"]


def say(message: str) -> None:
    print(f"mask2former_ext: {message}", file=sys.stderr, flush=True)


def find_cuda_home() -> Path | None:
    """Return the prefix of the CUDA toolkit: CUDA_HOME, or what nvcc reports, because a wrapper may lie elsewhere."""
    if os.environ.get("CUDA_HOME"):
        return Path(os.environ["CUDA_HOME"])
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    report = subprocess.run([nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True, check=False).stderr
    top = re.search(r"^#\$ TOP=(.+)$", report, flags=re.MULTILINE)
    return Path(top.group(1)).resolve() if top else Path(nvcc).resolve().parents[1]


def cuda_problem(cuda_home: Path | None) -> str | None:
    """Say what speaks against compiling the CUDA sources; None if nothing does."""
    import torch

    if cuda_home is None:
        return "no CUDA toolkit was found (nvcc is not on PATH, CUDA_HOME is not set)"
    nvcc = cuda_home / "bin" / "nvcc"
    if not nvcc.is_file():
        return f"{nvcc} does not exist (CUDA_HOME)"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    toolkit = re.search(r"release (\d+)", subprocess.check_output([nvcc, "--version"], text=True))
    if toolkit and toolkit.group(1) != torch.version.cuda.split(".")[0]:
        return f"the CUDA toolkit in {cuda_home} is {toolkit.group(1)}.x, but torch was built with {torch.version.cuda}"
    return None


def extension_modules() -> dict[str, Any]:
    """Return the arguments of ``setup`` that compile the operators: C++ always, CUDA where it can be, or FORCE_CUDA=1.

    Without torch or a C++ compiler there are none, and the package uses its plain PyTorch implementation.
    """
    if importlib.util.find_spec("torch") is None:
        say("torch is not importable here, so no operators are compiled (pip needs --no-build-isolation for that)")
        return {}
    if shutil.which(os.environ.get("CXX", "c++").split()[0]) is None:
        say("no C++ compiler was found (c++, or CXX), so no operators are compiled; plain PyTorch will be used")
        return {}
    from torch.utils import cpp_extension

    flags = ["-O3", "-fno-math-errno", "-Wno-psabi"]
    if sys.platform == "linux":
        flags.append("-fopenmp")
    # sources are named relative to this file: setuptools refuses absolute paths
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / CSRC).rglob("*.cpp"))
    arguments: dict[str, Any] = {"extra_compile_args": {"cxx": flags}, "extra_link_args": flags[3:]}
    kind: Any = cpp_extension.CppExtension

    cuda_home = find_cuda_home()
    problem = cuda_problem(cuda_home)
    if problem is None:
        kind = cpp_extension.CUDAExtension
        sources += sorted(str(path.relative_to(ROOT)) for path in (ROOT / CSRC).rglob("*.cu"))
        arguments.update(cuda_arguments(cuda_home, flags))
    elif os.environ.get("FORCE_CUDA") == "1":
        raise RuntimeError(f"FORCE_CUDA=1, but the CUDA sources cannot be compiled: {problem}.")
    else:
        say(f"compiling the operators for the CPU only: {problem}")
    return {
        "ext_modules": [kind("mask2former_ext._C", sources, **arguments)],
        "cmdclass": {"build_ext": cpp_extension.BuildExtension},
    }


def cuda_arguments(cuda_home: Path | None, flags: list[str]) -> dict[str, Any]:
    """Return compile arguments for C++ and CUDA; settles toolkit and architectures for torch's build helpers."""
    import torch
    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = str(cuda_home)
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        found = ";".join(f"{major}.{minor}" for major, minor in sorted(capabilities))
        os.environ["TORCH_CUDA_ARCH_LIST"] = found or DEFAULT_CUDA_ARCHITECTURES
    architectures = os.environ["TORCH_CUDA_ARCH_LIST"]
    say(f"compiling the operators for the CPU and CUDA, with {cuda_home}, for {architectures} (TORCH_CUDA_ARCH_LIST)")
    macros = [
        ("MASK2FORMER_EXT_CUDA_VERSION", f'"{torch.version.cuda}"'),
        ("MASK2FORMER_EXT_CUDA_ARCHITECTURES", f'"{architectures}"'),
    ]
    # the wheels' own CUDA headers, after the toolkit's: they fill in libraries that a toolkit may lack
    fallback = [
        part
        for folder in sorted(Path(torch.__file__).parents[1].glob("nvidia/cu*/include"))
        for part in ("-Xcompiler", f"-idirafter,{folder}")
    ]
    nvcc_flags = ["-O3", "--expt-relaxed-constexpr", "--expt-extended-lambda", *fallback]
    return {"define_macros": macros, "extra_compile_args": {"cxx": flags, "nvcc": nvcc_flags}}


setup(
    name="mask2former_ext",
    version=read_version(),
    description="Mask2Former for Detectron2: semantic, instance and panoptic segmentation by one architecture",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE", "NOTICE"],
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["mask2former_ext", "mask2former_ext.*"]),
    package_data={"mask2former_ext": ["**/*.json"]},
    install_requires=INSTALL_REQUIRES + opencv_requirement(),
    extras_require=EXTRAS_REQUIRE,
    zip_safe=False,
    **extension_modules(),
)
