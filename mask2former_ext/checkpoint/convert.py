"""Published ImageNet weights in the layout that ``MODEL.WEIGHTS`` of a Detectron2 config expects.

The result is a ``.pkl`` of Detectron2's model zoo: keys without the prefix of the model's backbone, which Detectron2
finds by their suffix (``matching_heuristics``), NumPy arrays as values, no classifier.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ..files import whole_file
from .reading import read_content

# What holds the weights in files that hold more than them.
WRAPPERS = ("model", "state_dict")

SWIN_SIGNATURE = ("patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table")
SWIN_UNUSED = re.compile(r"(head|norm)\.(fc\.)?(weight|bias)|.*\.attn_mask")  # attn_mask is for one image size
SWIN_DOWNSAMPLE = re.compile(r"layers\.(?P<stage>\d+)\.(?P<rest>downsample\..+)")

RESNET_SIGNATURE = ("conv1.weight", "layer1.0.conv1.weight")
RESNET_UNUSED = re.compile(r"fc\.(weight|bias)|.*num_batches_tracked")
RESNET_KEY = re.compile(
    r"(?:layer(?P<stage>[1-4])\.(?P<block>\d+)\.)?(?P<layer>conv\d|bn\d|downsample\.[01])\.(?P<name>\w+)"
)
DOWNSAMPLE = {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a ``.pth`` or ``.safetensors`` file: alone, or under "model" or "state_dict".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else, or more than tensors and plain values.
    """
    content = read_content(str(path))
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state_dict, neither alone nor under {' or '.join(WRAPPERS)}.")
    weights = dict(content)
    consume_prefix_in_state_dict_if_present(weights, "module.")
    return weights


def convert_swin(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep what ``D2SwinTransformer`` has of a Swin Transformer's classification weights.

    The names are those of its authors; timm's differ in that patches are merged at the start of the next stage.

    Raises:
        ValueError: these are not the weights of a Swin Transformer, or of its second version.
    """
    _check_signature(weights, SWIN_SIGNATURE, "a Swin Transformer (version 1) in the layout of its authors or of timm")
    kept = {key: value for key, value in weights.items() if not SWIN_UNUSED.fullmatch(key)}
    if any(key.startswith("layers.0.downsample.") for key in kept):
        return kept
    return {_downsample_of_stage_before(key): value for key, value in kept.items()}


def convert_torchvision_resnet(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of torchvision's ResNet, Wide ResNet or ResNeXt to those of Detectron2's ResNet.

    Raises:
        ValueError: these are not the weights of such a network.
    """
    _check_signature(weights, RESNET_SIGNATURE, "a ResNet of torchvision")
    return {_resnet_name(key): value for key, value in weights.items() if not RESNET_UNUSED.fullmatch(key)}


def save_backbone(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Write weights to ``path`` for ``MODEL.WEIGHTS``, whole or not at all.

    Raises:
        ValueError: ``path`` does not end in ``.pkl``, by which Detectron2 knows the format.
    """
    path = Path(path)
    if path.suffix != ".pkl":
        raise ValueError(f"The output is '{path}', but Detectron2 knows this format by the ending .pkl.")
    content = {
        "model": {key: _to_numpy(value) for key, value in weights.items()},
        "__author__": "third_party",
        "matching_heuristics": True,
    }
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        pickle.dump(content, file)


def convert_file(source: str | Path, target: str | Path, convert: Callable[..., dict[str, Tensor]]) -> str:
    """Read ``source``, ``convert`` its weights, write ``target``; returns a line that says what was written."""
    weights = read_state_dict(source)
    converted = convert(weights)
    save_backbone(converted, target)
    return f"{target}: {len(converted)} tensors of the {len(weights)} in {source}. Use it with MODEL.WEIGHTS {target}"


def _to_numpy(value: Tensor) -> np.ndarray:
    value = value.detach()  # older files of torchvision hold parameters
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # NumPy has no such numbers


def _downsample_of_stage_before(key: str) -> str:
    match = SWIN_DOWNSAMPLE.fullmatch(key)
    return f"layers.{int(match['stage']) - 1}.{match['rest']}" if match else key


def _resnet_name(key: str) -> str:
    match = RESNET_KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"'{key}' is no parameter of torchvision's ResNet.")
    layer = match["layer"]
    layer = DOWNSAMPLE.get(layer, layer.replace("bn", "conv") + ".norm" * layer.startswith("bn"))
    place = f"res{int(match['stage']) + 1}.{match['block']}" if match["stage"] else "stem"
    return f"{place}.{layer}.{match['name']}"


def _check_signature(weights: Mapping[str, Any], signature: tuple[str, ...], what: str) -> None:
    absent = [key for key in signature if key not in weights]
    if absent:
        first = ", ".join(list(weights)[:5])
        raise ValueError(
            f"These are not the weights of {what}: there is no {' and no '.join(absent)} (but: {first}, …)."
        )
