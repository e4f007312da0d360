"""Parameters, multiply-adds and activations of a model, module by module, counted by fvcore.

The convention is that of the published figures, such as the 71G of Mask2Former with ResNet-50 at 512×512:

* one multiply-add counts as one;
* one image goes through the whole model in evaluation mode, from pixels to results of its own size: mask
  classification of every pixel is part of it (3.9G of those 71G, which no module below the model has), the losses are
  not;
* convolutions, linear layers and products of matrices count as fvcore has them, attention as its two products; layer
  and group norms count 5 an element, frozen batch norm 2, bilinear resizing 4; windows of a Swin Transformer count with
  their padding;
* element-wise operators, softmax and pooling count nothing.

Multi-scale deformable attention counts 5 a sample and channel: 4 pixels of the bilinear sample, and the attention
weight. That is 5 · B·Q·M·L·P·D, without the softmax and the sampling locations. Without the compiled operators the
samples are fvcore's ``grid_sampler`` of 4 each, and the weights are not counted.

What has no count of its own is reported by name, see :class:`Counts`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from detectron2.structures import Boxes, ImageList, Instances
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, parameter_count
from fvcore.nn.jit_handles import addmm_flop_jit
from torch import Tensor, nn

from ..benchmark.reports import markdown_table

Handle = Callable[[list[Any], list[Any]], int]

TASKS = ("parameter", "flop", "activation")
TITLES = {"parameter": "parameters", "flop": "multiply-adds", "activation": "activations"}
DEFORMABLE_ATTENTION = ("mask2former_ext::ms_deform_attn", "mask2former_ext::ms_deform_attn_fused")
ATTENTION = "aten::scaled_dot_product_attention"
# The image goes under this name in the module that is traced.
ROOT = "model"


@dataclass(frozen=True)
class Counts:
    """One statistic of a model.

    Attributes:
        total: of the whole model.
        modules: module name → count of all that runs in it; the model itself is "".
        operators: operator → count.
        not_counted: operator that has no count → how many times it ran.
    """

    total: int
    modules: dict[str, int]
    operators: dict[str, int] = field(default_factory=dict)
    not_counted: dict[str, int] = field(default_factory=dict)


class ImageToResults(nn.Module):
    """A Detectron2 model as a function from an image to tensors, which is what can be traced."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> list[Tensor]:
        """C×H×W, in the units of the model's pixel mean, to all tensors of the results."""
        return tensors_of(self.model([{"image": image, "height": image.shape[1], "width": image.shape[2]}]))


def tensors_of(results: Any) -> list[Tensor]:
    """Collect the tensors in dicts, sequences and Detectron2's structures, in their order."""
    if isinstance(results, Tensor):
        return [results]
    if isinstance(results, Instances):
        return tensors_of(results.get_fields())
    if isinstance(results, (Boxes, ImageList)):
        return [results.tensor]
    if isinstance(results, Mapping):
        return tensors_of(list(results.values()))
    if isinstance(results, (list, tuple)):
        return [tensor for item in results for tensor in tensors_of(item)]
    return []


def _shape(value: Any) -> list[int]:
    return value.type().sizes()


def _attention_multiply_adds(inputs: list[Any], outputs: list[Any]) -> int:
    """Queries by keys, and weights by values."""
    query, key, value = (_shape(x) for x in inputs[:3])
    return math.prod(query) * key[-2] + math.prod(query[:-1]) * math.prod(value[-2:])


def _deformable_multiply_adds(inputs: list[Any], outputs: list[Any]) -> int:
    """B×Q×M×L×P weights come last in both operators, B×S×M×D values first."""
    return 5 * math.prod(_shape(inputs[-1])) * _shape(inputs[0])[-1]


def _number_of_outputs(inputs: list[Any], outputs: list[Any]) -> int:
    return math.prod(_shape(outputs[0]))


FLOP_HANDLES: dict[str, Handle | None] = {
    ATTENTION: _attention_multiply_adds,
    **dict.fromkeys(DEFORMABLE_ATTENTION, _deformable_multiply_adds),
    "aten::addmm_": addmm_flop_jit,
    # views, which fvcore's list of operators without arithmetic lacks
    **dict.fromkeys(("aten::unflatten", "aten::repeat", "aten::repeat_interleave", "aten::alias", "aten::clone"), None),
    **dict.fromkeys(("aten::resolve_conj", "aten::resolve_neg", "aten::expand_as", "aten::pad", "aten::lift_fresh")),
}
ACTIVATION_HANDLES: dict[str, Handle | None] = dict.fromkeys((ATTENTION, *DEFORMABLE_ATTENTION), _number_of_outputs)


def _traced_counts(analysis: Any, handles: Mapping[str, Handle | None]) -> Counts:
    analysis.set_op_handle(**handles)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    modules = {name: int(count) for name, count in analysis.by_module().items()}
    return Counts(
        total=int(analysis.total()),
        modules={name.removeprefix(ROOT).removeprefix("."): count for name, count in modules.items() if name},
        operators={name: int(count) for name, count in analysis.by_operator().most_common()},
        not_counted=dict(Counter(analysis.unsupported_ops()).most_common()),
    )


def count_parameters(model: nn.Module) -> Counts:
    """Count trainable and frozen parameters; those that modules share count once a module, and once in all."""
    modules = {name: int(count) for name, count in parameter_count(model).items()}
    return Counts(total=modules[""], modules=modules)


def analyze_model(
    model: nn.Module, size: tuple[int, int], tasks: Collection[str] = TASKS, channels: int = 3
) -> dict[str, Counts]:
    """Count what one image costs.

    Args:
        model: a Detectron2 model, on the CPU or a GPU; on the meta device parameters can be counted. Its mode is left
            as it is found.
        size: (height, width) of the image, which is noise: what depends on it, such as the proposals of Mask R-CNN,
            varies.
        tasks: some of :data:`TASKS`: "parameter"; "flop", multiply-adds; "activation", elements that convolutions,
            linear layers and products give.
        channels: of the image.

    Returns:
        task → its counts.

    Raises:
        ValueError: a task is unknown, or the size is not positive.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or min(size) < 1:
        raise ValueError(f"tasks {list(tasks)} must be among {list(TASKS)}, and size {size} positive.")
    counts = {}
    if "parameter" in tasks:
        counts["parameter"] = count_parameters(model)
    if "flop" not in tasks and "activation" not in tasks:
        return counts
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (channels, *size), generator=generator).float()
    inputs = (image.to(next(model.parameters()).device),)
    was_training = model.training
    wrapped = ImageToResults(model.eval())
    try:
        with torch.no_grad():
            if "flop" in tasks:
                counts["flop"] = _traced_counts(FlopCountAnalysis(wrapped, inputs), FLOP_HANDLES)
            if "activation" in tasks:
                counts["activation"] = _traced_counts(ActivationCountAnalysis(wrapped, inputs), ACTIVATION_HANDLES)
    finally:
        model.train(was_training)
    return counts


def format_statistics(counts: Mapping[str, Counts], depth: int = 2) -> str:
    """Write a Markdown table, a row a module, and below it what the figures consist of and leave out.

    Args:
        counts: what :func:`analyze_model` gives.
        depth: modules to show: 0 for the model alone, 1 for its children too, and so on.
    """
    names = list(dict.fromkeys(name for count in counts.values() for name in count.modules))
    shown = [
        name
        for name in names
        if len(name.split(".") if name else ()) <= depth and any(count.modules.get(name) for count in counts.values())
    ]
    rows = [[name or "(all)", *(_cell(count, name) for count in counts.values())] for name in shown]
    parts = [markdown_table(["module", *(TITLES[task] for task in counts)], rows)]
    for task, count in counts.items():
        if count.operators:
            operators = ", ".join(f"{name} {in_short(number)}" for name, number in count.operators.items())
            parts.append(f"{TITLES[task]} by operator: {operators}")
    if "flop" in counts:
        left_out = ", ".join(f"{name} ×{times}" for name, times in counts["flop"].not_counted.items())
        parts.append(f"operators whose arithmetic is not counted, and how often they ran: {left_out or 'none'}")
    return "\n\n".join(parts) + "\n"


def _cell(count: Counts, module: str) -> str:
    return in_short(count.modules[module]) if module in count.modules else ""


def in_short(count: int) -> str:
    """A count with its first figures and the usual letter: 71.26G."""
    for letter, unit in (("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= unit:
            return f"{count / unit:.2f}{letter}"
    return str(count)


def report_of(counts: Mapping[str, Counts]) -> dict[str, Any]:
    """The counts as JSON has them."""
    return {task: asdict(count) for task, count in counts.items()}
