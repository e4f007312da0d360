"""Learning rate and weight decay of each parameter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.solver.build import reduce_param_groups
from torch import nn

from ..modeling.backbone.blocks import block_of

NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)

# Position tables of Swin Transformers, which are parameters of modules that hold other parameters too.
POSITION_PARAMETERS = ("relative_position_bias_table", "absolute_pos_embed")

BACKBONE = "backbone"
# Swin's norms of the feature maps, which come after all stages in the order of parameters.
FEATURE_NORM = re.compile(r"(.*)norm(\d+)\.\w+")
# What a plain Vision Transformer's features go through; no pretrained weights are in it.
PYRAMID = f"{BACKBONE}.pyramid."


def _parameter_groups_from_config(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    return {
        "model": model,
        "base_lr": cfg.SOLVER.BASE_LR,
        "backbone_multiplier": cfg.SOLVER.BACKBONE_MULTIPLIER,
        "weight_decay": cfg.SOLVER.WEIGHT_DECAY,
        "weight_decay_norm": cfg.SOLVER.WEIGHT_DECAY_NORM,
        "weight_decay_embed": cfg.SOLVER.WEIGHT_DECAY_EMBED,
        "layer_decay": cfg.SOLVER.LAYER_DECAY,
    }


@configurable(from_config=_parameter_groups_from_config)
def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    backbone_multiplier: float,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_embed: float,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Give each trainable parameter its learning rate and weight decay.

    Called with a config and a model, it takes the numbers from ``cfg.SOLVER``.

    Args:
        model: whose parameters to group.
        base_lr: learning rate.
        backbone_multiplier: factor of the learning rate in modules with ``backbone`` in their name.
        weight_decay: of all that is not named below; 0 for Swin's position tables.
        weight_decay_norm: in normalisation layers.
        weight_decay_embed: in ``nn.Embedding``.
        layer_decay: further factor of the learning rate in the backbone, once for each block that lies above, see
            :func:`layer_factors`.

    Returns:
        One group for each pair of the two that occurs: few groups, which the optimizer updates at once.

    Raises:
        ValueError: ``layer_decay`` is not in (0, 1], or it is not 1 and the backbone has no blocks that are known.
    """
    factors = layer_factors([name for name, _ in model.named_parameters() if BACKBONE in name], layer_decay)
    groups: list[dict[str, Any]] = []
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        rate = base_lr * (backbone_multiplier if BACKBONE in module_name else 1.0)
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            decay = weight_decay
            if isinstance(module, nn.Embedding):
                decay = weight_decay_embed
            elif isinstance(module, NORM_LAYERS):
                decay = weight_decay_norm
            elif any(name in parameter_name for name in POSITION_PARAMETERS):
                decay = 0.0
            factor = factors.get(f"{module_name}.{parameter_name}", 1.0)
            groups.append({"params": [parameter], "lr": rate * factor, "weight_decay": decay})
    return reduce_param_groups(groups)


def layer_factors(names: Sequence[str], layer_decay: float) -> dict[str, float]:
    """Factors of the learning rate by depth (Bao et al., "BEiT", 2022; Li et al., "ViTDet", 2022).

    With n blocks, the d-th has layer_decay^(n + 1 - d). What precedes the first block (patches, positions, a stem)
    counts as block 0; what follows a block, up to the next one, counts as that block, and so does Swin's norm of a
    stage's feature map. Of layers that are not pretrained, the simple feature pyramid, the factor is 1.

    Args:
        names: of the backbone's parameters, in the order of its layers.
        layer_decay: in (0, 1]; 1 switches it off.

    Returns:
        Name → factor; empty when switched off.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"SOLVER.LAYER_DECAY is {layer_decay}, but must be above 0 and at most 1.")
    if layer_decay == 1:
        return {}
    blocks = list(dict.fromkeys(block for block in map(block_of, names) if block is not None))
    if not blocks:
        raise ValueError(
            f"SOLVER.LAYER_DECAY is {layer_decay}, but the backbone has no blocks that are known, among parameters "
            f"such as {list(names[:3])}. Append: SOLVER.LAYER_DECAY 1.0"
        )
    depths = {block: index + 1 for index, block in enumerate(blocks)}
    factors, depth = {}, 0
    for name in names:
        block = block_of(name)
        depth = depths[block] if block else depth
        norm = None if block else FEATURE_NORM.fullmatch(name)
        if name.startswith(PYRAMID):
            own = len(blocks) + 1
        elif norm:
            own = max([depths[block] for block in blocks if block.startswith(f"{norm[1]}layers.{norm[2]}.")] or [depth])
        else:
            own = depth
        factors[name] = layer_decay ** (len(blocks) + 1 - own)
    return factors
