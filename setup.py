"""Build and installation of mask2former_ext.

Detectron2 is no requirement here because the package index has none of that name: importing mask2former_ext without
it says which command installs it. Where torch and Detectron2 are there already, install with
``pip install --no-build-isolation -e .``; nothing of theirs is replaced.
"""

import importlib.util
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

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
)
