"""What Detectron2 0.6 needs to run on today's Python packages, as a table of source edits.

The edits are made on an unpacked source distribution, before it is built. Each one states how often its pattern occurs
in the file; any other count means that the source is not the one the table was written for, and raises
:class:`AdaptationError` before anything is built.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path


class AdaptationError(RuntimeError):
    """The source differs from what the table describes."""


@dataclass(frozen=True)
class Edit:
    """One replacement in one file.

    Attributes:
        file: path below the source root.
        pattern: regular expression to find.
        replacement: what takes its place (``re.sub`` syntax).
        count: how often the pattern occurs in the file.
        reason: what would fail without the edit.
    """

    file: str
    pattern: str
    replacement: str
    count: int
    reason: str


_ALIAS = r"(?<![\w.])np\.(bool|int|float|object|str)\b"
_ALIAS_REASON = "NumPy removed its aliases of the built-in types"

_PANOPTICAPI = r"from panopticapi\.utils import rgb2id"
_PANOPTICAPI_REASON = "panopticapi is not on the package index"
_AMP_REASON = "torch deprecates torch.cuda.amp"
_MESHGRID_REASON = "torch will require the argument indexing"


def _alias(file: str, count: int) -> Edit:
    return Edit(file, _ALIAS, r"\1", count, _ALIAS_REASON)


EDITS: tuple[Edit, ...] = (
    _alias("detectron2/data/build.py", 2),
    _alias("detectron2/data/datasets/pascal_voc.py", 1),
    _alias("detectron2/evaluation/pascal_voc_evaluation.py", 2),
    _alias("detectron2/evaluation/sem_seg_evaluation.py", 7),
    _alias("detectron2/structures/masks.py", 3),
    _alias("detectron2/utils/video_visualizer.py", 1),
    _alias("detectron2/utils/visualizer.py", 3),
    Edit(
        "detectron2/data/transforms/transform.py",
        r"Image\.LINEAR\b",
        "Image.BILINEAR",
        1,
        "Pillow removed Image.LINEAR, an alias of BILINEAR",
    ),
    Edit(
        "detectron2/model_zoo/model_zoo.py",
        r"^import pkg_resources\n",
        "",
        1,
        "setuptools removed pkg_resources",
    ),
    Edit(
        "detectron2/model_zoo/model_zoo.py",
        r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo", os\.path\.join\("configs", config_path\)\s*\)',
        'os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)',
        1,
        "setuptools removed pkg_resources",
    ),
    Edit(
        "detectron2/layers/nms.py",
        r"return torch\.ops\.detectron2\.nms_rotated\(",
        "from detectron2 import _C\n\n    return _C.nms_rotated(",
        1,
        "without the compiled operators the namespace torch.ops.detectron2 is empty; the stand-in says what is missing",
    ),
    Edit(
        "detectron2/utils/visualizer.py",
        r"^( +)return modified_color$",
        r"\1return tuple(min(channel, 1.0) for channel in modified_color)",
        1,
        "the lighter of a light colour may be a rounding error above 1, which Matplotlib refuses",
    ),
    Edit(
        "detectron2/utils/visualizer.py",
        _PANOPTICAPI,
        "from detectron2.utils.panoptic_id import rgb2id",
        1,
        _PANOPTICAPI_REASON,
    ),
    Edit(
        "projects/Panoptic-DeepLab/panoptic_deeplab/dataset_mapper.py",
        _PANOPTICAPI,
        "from detectron2.utils.panoptic_id import rgb2id",
        1,
        _PANOPTICAPI_REASON,
    ),
    Edit(
        "detectron2/modeling/anchor_generator.py",
        r"torch\.meshgrid\(shifts_y, shifts_x\)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        1,
        _MESHGRID_REASON,
    ),
    Edit(
        "projects/Panoptic-DeepLab/panoptic_deeplab/post_processing.py",
        r"(torch\.meshgrid\(\s*torch\.arange\([^\n]*\n\s*torch\.arange\([^\n]*\),)\n",
        r'\1\n        indexing="ij",\n',
        1,
        _MESHGRID_REASON,
    ),
    Edit(
        "detectron2/engine/train_loop.py",
        r"from torch\.cuda\.amp import (GradScaler|autocast)\n",
        r"from torch.amp import \1\n",
        2,
        _AMP_REASON,
    ),
    Edit(
        "detectron2/engine/train_loop.py",
        r"\b(GradScaler|autocast)\(\)",
        r'\1("cuda")',
        2,
        _AMP_REASON,
    ),
    Edit(
        "detectron2/utils/comm.py",
        r"storage = torch\.ByteStorage\.from_buffer\(buffer\)\n    tensor = torch\.ByteTensor\(storage\)",
        "tensor = torch.frombuffer(bytearray(buffer), dtype=torch.uint8)",
        1,
        "torch deprecates its typed storages",
    ),
    Edit(
        "detectron2/evaluation/fast_eval_api.py",
        r"\Z",
        "\n\nif not _C.COMPILED:\n    COCOeval_opt = COCOeval  # the official implementation, in Python\n",
        1,
        "COCO evaluation uses the compiled implementation by default",
    ),
    Edit(
        "detectron2/evaluation/coco_evaluation.py",
        r"from detectron2\.evaluation\.fast_eval_api import COCOeval_opt\n",
        "from detectron2 import _C\nfrom detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        1,
        "the log says which implementation evaluates",
    ),
    Edit(
        "detectron2/evaluation/coco_evaluation.py",
        r"self\._use_fast_impl = use_fast_impl\n",
        "self._use_fast_impl = use_fast_impl and _C.COMPILED\n",
        1,
        "the log says which implementation evaluates",
    ),
)

# Source folders that belong below detectron2/projects/ in an installation.
PROJECTS: dict[str, str] = {
    "point_rend": "projects/PointRend/point_rend",
    "deeplab": "projects/DeepLab/deeplab",
    "panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}

# What the Python files import, with the bounds that the 0.6 release states; torch and torchvision stay the user's.
REQUIREMENTS: tuple[str, ...] = (
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7,<0.1.10",
    "pydot",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
)

STAND_IN = '''"""Stand-in for Detectron2's compiled operators, which this installation does not have.

Everything that needs none of them works: rotated boxes and deformable convolution are what does not.
"""

COMPILED = False


def get_compiler_version():
    return "none: this Detectron2 was installed without its compiled operators"


def get_cuda_version():
    return "not available"


def has_cuda():
    return False


def _missing(name):
    def operator(*args, **kwargs):
        raise NotImplementedError(
            f"detectron2._C.{name} is a compiled operator of Detectron2, and this Detectron2 was installed from its "
            "Python files alone. Rotated boxes and deformable convolution need a Detectron2 built from its repository: "
            "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
        )

    operator.__name__ = name
    return operator


box_iou_rotated = _missing("box_iou_rotated")
nms_rotated = _missing("nms_rotated")
roi_align_rotated_forward = _missing("roi_align_rotated_forward")
roi_align_rotated_backward = _missing("roi_align_rotated_backward")
deform_conv_forward = _missing("deform_conv_forward")
deform_conv_backward_input = _missing("deform_conv_backward_input")
deform_conv_backward_filter = _missing("deform_conv_backward_filter")
modulated_deform_conv_forward = _missing("modulated_deform_conv_forward")
modulated_deform_conv_backward = _missing("modulated_deform_conv_backward")
InstanceAnnotation = _missing("InstanceAnnotation")
COCOevalEvaluateImages = _missing("COCOevalEvaluateImages")
COCOevalAccumulate = _missing("COCOevalAccumulate")
'''

PANOPTIC_ID = '''"""The number that a colour of a COCO panoptic PNG stands for: R + 256 G + 256^2 B."""

import numpy as np


def rgb2id(color):
    """Map an H x W x 3 array to an H x W array of int32, or three numbers to an int."""
    if isinstance(color, np.ndarray) and color.ndim == 3:
        color = color.astype(np.int32)
        return color[:, :, 0] + 256 * color[:, :, 1] + 256 * 256 * color[:, :, 2]
    return int(color[0] + 256 * color[1] + 256 * 256 * color[2])
'''

ADDED_FILES: dict[str, str] = {
    "detectron2/_C.py": STAND_IN,
    "detectron2/utils/panoptic_id.py": PANOPTIC_ID,
}

_NOTICE = "# Changed after release 0.6 to run on current versions of the packages it imports.\n"

_PYPROJECT = """[build-system]
requires = ["setuptools>=64"]
build-backend = "setuptools.build_meta"

[project]
name = "detectron2"
version = "{version}"
description = "Detectron2 {version}, adapted to current torch, NumPy and Pillow, without compiled operators"
requires-python = ">=3.10"
license = {{text = "Apache-2.0"}}
urls = {{Homepage = "https://github.com/facebookresearch/detectron2"}}
dependencies = [
{dependencies}
]

[tool.setuptools.packages.find]
include = ["detectron2", "detectron2.*"]

[tool.setuptools.package-data]
"detectron2.model_zoo" = ["configs/**/*.yaml", "configs/**/*.py"]
"""


def edit_source(source: str, edit: Edit) -> str:
    """Return ``source`` with ``edit`` made.

    Raises:
        AdaptationError: the pattern does not occur exactly ``edit.count`` times.
    """
    result, found = re.subn(edit.pattern, edit.replacement, source, flags=re.MULTILINE)
    if found != edit.count:
        raise AdaptationError(
            f"{edit.file}: expected {edit.count} occurrence(s) of {edit.pattern!r}, found {found} "
            f"({edit.reason}). The source is not the Detectron2 0.6 that this table was written for."
        )
    return result


def apply_edits(root: Path, edits: tuple[Edit, ...] = EDITS) -> None:
    """Make all ``edits`` below ``root`` and mark each changed file, as the Apache licence asks."""
    sources: dict[str, str] = {}
    for edit in edits:
        if edit.file not in sources:
            path = root / edit.file
            if not path.is_file():
                raise AdaptationError(f"{edit.file}: no such file in {root} ({edit.reason})")
            sources[edit.file] = path.read_text(encoding="utf-8")
        sources[edit.file] = edit_source(sources[edit.file], edit)
    for file, source in sources.items():
        (root / file).write_text(_NOTICE + source, encoding="utf-8")


def place_projects(root: Path) -> None:
    """Move the three projects to where an installed Detectron2 has them."""
    for name, source in PROJECTS.items():
        if not (root / source / "__init__.py").is_file():
            raise AdaptationError(f"{source}: no such package in {root}; Detectron2 0.6 has it there")
        shutil.move(root / source, root / "detectron2" / "projects" / name)


def adapt(root: Path, version: str) -> None:
    """Turn the unpacked source distribution at ``root`` into one that builds as ``detectron2`` without a compiler."""
    apply_edits(root)
    place_projects(root)
    for file, content in ADDED_FILES.items():
        (root / file).write_text(content, encoding="utf-8")
    dependencies = "\n".join(f'    "{requirement}",' for requirement in REQUIREMENTS)
    (root / "pyproject.toml").write_text(
        _PYPROJECT.format(version=version, dependencies=dependencies), encoding="utf-8"
    )
    for leftover in ("setup.py", "setup.cfg"):
        (root / leftover).unlink(missing_ok=True)
