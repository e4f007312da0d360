"""What an exported file says of itself: enough to use it without the config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..classes import class_names
from ..modeling import MaskFormer
from .module import ExportableModel

# Name of the one file that torch.export and TorchScript archives hold beside the model.
METADATA_FILE = "metadata.json"
DYNAMIC = "any"


@dataclass(frozen=True)
class Description:
    """Metadata of an exported model.

    Attributes:
        mask2former_ext, torch: versions that it was exported by.
        needs: what has to be imported before it is loaded; empty for nothing.
        tasks: names of the tasks.
        input: what the one input is.
        input_format: order of the image's channels, as INPUT.FORMAT.
        batch, height, width: of the input, each a number or "any"; pixels.
        size_divisibility: what the model pads height and width to multiples of, inside.
        outputs: output → what it is.
        class_names: by class index.
        thing_classes: indices of the classes that are things.
        thresholds: by which segments were chosen, by name; empty without the panoptic task.
    """

    mask2former_ext: str
    torch: str
    needs: str
    tasks: list[str]
    input: str
    input_format: str
    batch: int | str
    height: int | str
    width: int | str
    size_divisibility: int
    outputs: dict[str, str]
    class_names: list[str]
    thing_classes: list[int]
    thresholds: dict[str, float]

    def to_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=2)


def to_strings(fields: Mapping[str, Any]) -> dict[str, str]:
    """Each field as a string: text as it is, all else as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in fields.items()
    }


def describe(
    model: MaskFormer, module: ExportableModel, example: Tensor, *, static: bool, input_format: str, needs: str
) -> Description:
    """Describe what is exported.

    Args:
        model: that ``module`` is of.
        module: what is exported.
        example: B×C×H×W, what it is exported by.
        static: whether it will take images of that size alone.
        input_format: INPUT.FORMAT.
        needs: what has to be imported before the file is loaded.
    """
    from .. import __version__  # the package imports its parts first

    batch, _, height, width = example.shape
    sizes: Sequence[int | str] = (batch, height, width) if static else (DYNAMIC, DYNAMIC, DYNAMIC)
    return Description(
        mask2former_ext=__version__,
        torch=torch.__version__,
        needs=needs,
        tasks=module.tasks,
        input=f"images: B×{example.shape[1]}×H×W float32, as files have it (0 to 255): not normalised, not padded",
        input_format=input_format,
        batch=sizes[0],
        height=sizes[1],
        width=sizes[2],
        size_divisibility=module.size_divisibility,
        outputs=module.outputs,
        class_names=class_names(model.metadata, model.criterion.num_classes),
        thing_classes=module.is_thing.nonzero().flatten().tolist(),
        thresholds=module.thresholds if "panoptic" in module.tasks else {},
    )
