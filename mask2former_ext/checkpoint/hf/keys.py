"""Names of parameters here and in transformers, each pair once, for both directions.

A rule is a pair of templates. ``{i}`` and ``{j}`` stand for a number, ``{name}`` and ``{leaf}`` for one part of a name,
``{rest}`` for any number of parts. Where one side keeps query, key and value in one tensor and the other in three, the
latter's template has ``{qkv}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

import torch
from torch import Tensor

from ..loader import shortened

PIXEL_DECODER = "sem_seg_head.pixel_decoder"
PREDICTOR = "sem_seg_head.predictor"
HF_BACKBONE = "model.pixel_level_module.encoder"
HF_PIXEL_DECODER = "model.pixel_level_module.decoder"
HF_TRANSFORMER = "model.transformer_module"
HF_LAYER = f"{HF_TRANSFORMER}.decoder.layers.{{i}}"

Rule = tuple[str, str]  # template here, template in transformers

SWIN_BLOCK = "backbone.layers.{i}.blocks.{j}"
HF_SWIN_BLOCK = f"{HF_BACKBONE}.swin.encoder.layers.{{i}}.blocks.{{j}}"
SWIN_RULES: tuple[Rule, ...] = (
    ("backbone.patch_embed.proj.{leaf}", f"{HF_BACKBONE}.swin.embeddings.patch_embeddings.projection.{{leaf}}"),
    ("backbone.patch_embed.norm.{leaf}", f"{HF_BACKBONE}.swin.embeddings.norm.{{leaf}}"),
    (f"{SWIN_BLOCK}.norm1.{{leaf}}", f"{HF_SWIN_BLOCK}.layernorm_before.{{leaf}}"),
    (f"{SWIN_BLOCK}.norm2.{{leaf}}", f"{HF_SWIN_BLOCK}.layernorm_after.{{leaf}}"),
    (
        f"{SWIN_BLOCK}.attn.relative_position_bias_table",
        f"{HF_SWIN_BLOCK}.attention.relative_position_bias.relative_position_bias_table",
    ),
    (f"{SWIN_BLOCK}.attn.proj.{{leaf}}", f"{HF_SWIN_BLOCK}.attention.o_proj.{{leaf}}"),
    (f"{SWIN_BLOCK}.mlp.{{name}}{{i2}}.{{leaf}}", f"{HF_SWIN_BLOCK}.mlp.{{name}}{{i2}}.{{leaf}}"),
    (
        "backbone.layers.{i}.downsample.{name}.{leaf}",
        f"{HF_BACKBONE}.swin.encoder.layers.{{i}}.downsample.{{name}}.{{leaf}}",
    ),
    *(
        (f"backbone.norm{stage}.{{leaf}}", f"{HF_BACKBONE}.hidden_states_norms.stage{stage + 1}.{{leaf}}")
        for stage in range(4)
    ),
    # No result depends on it; weights of ImageNet classification call it so too.
    ("backbone.norm.{leaf}", f"{HF_BACKBONE}.swin.layernorm.{{leaf}}"),
)


def _resnet_rules() -> list[Rule]:
    places = [("backbone.stem.conv1", f"{HF_BACKBONE}.embedder.embedder")]
    for stage in range(4):
        block, hf_block = f"backbone.res{stage + 2}.{{i}}", f"{HF_BACKBONE}.encoder.stages.{stage}.layers.{{i}}"
        places.append((f"{block}.shortcut", f"{hf_block}.shortcut"))
        places += [(f"{block}.conv{conv + 1}", f"{hf_block}.layer.{conv}") for conv in range(3)]
    weights = [(f"{here}.weight", f"{there}.convolution.weight") for here, there in places]
    return weights + [(f"{here}.norm.{{leaf}}", f"{there}.normalization.{{leaf}}") for here, there in places]


HEAD_RULES: tuple[Rule, ...] = (
    (f"{PIXEL_DECODER}.input_proj.{{i}}.{{j}}.{{leaf}}", f"{HF_PIXEL_DECODER}.input_projections.{{i}}.{{j}}.{{leaf}}"),
    (f"{PIXEL_DECODER}.transformer.level_embed", f"{HF_PIXEL_DECODER}.level_embed"),
    *(
        (
            f"{PIXEL_DECODER}.transformer.encoder.layers.{{i}}.{here}.{{leaf}}",
            f"{HF_PIXEL_DECODER}.encoder.layers.{{i}}.{there}.{{leaf}}",
        )
        for here, there in (
            ("self_attn.{name}", "self_attn.{name}"),
            ("norm1", "self_attn_layer_norm"),
            ("linear1", "fc1"),
            ("linear2", "fc2"),
            ("norm2", "final_layer_norm"),
        )
    ),
    (f"{PIXEL_DECODER}.mask_features.{{leaf}}", f"{HF_PIXEL_DECODER}.mask_projection.{{leaf}}"),
    *(
        rule
        for part in ("adapter", "layer")
        for rule in (
            (f"{PIXEL_DECODER}.{part}_{{i}}.{{leaf}}", f"{HF_PIXEL_DECODER}.{part}_{{i}}.0.{{leaf}}"),
            (f"{PIXEL_DECODER}.{part}_{{i}}.norm.{{leaf}}", f"{HF_PIXEL_DECODER}.{part}_{{i}}.1.{{leaf}}"),
        )
    ),
    *(
        (f"{PREDICTOR}.transformer_{here}.{{leaf}}", f"{HF_LAYER}.{there}.{{leaf}}")
        for here, there in (
            ("cross_attention_layers.{i}.multihead_attn", "cross_attn"),
            ("cross_attention_layers.{i}.multihead_attn.out_proj", "cross_attn.out_proj"),
            ("cross_attention_layers.{i}.norm", "cross_attn_layer_norm"),
            ("self_attention_layers.{i}.self_attn.out_proj", "self_attn.out_proj"),
            ("self_attention_layers.{i}.norm", "self_attn_layer_norm"),
            ("ffn_layers.{i}.linear1", "fc1"),
            ("ffn_layers.{i}.linear2", "fc2"),
            ("ffn_layers.{i}.norm", "final_layer_norm"),
        )
    ),
    (f"{PREDICTOR}.decoder_norm.{{leaf}}", f"{HF_TRANSFORMER}.decoder.layernorm.{{leaf}}"),
    (f"{PREDICTOR}.query_feat.weight", f"{HF_TRANSFORMER}.queries_features.weight"),
    (f"{PREDICTOR}.query_embed.weight", f"{HF_TRANSFORMER}.queries_embedder.weight"),
    (f"{PREDICTOR}.level_embed.weight", f"{HF_TRANSFORMER}.level_embed.weight"),
    (f"{PREDICTOR}.input_proj.{{i}}.{{leaf}}", f"{HF_TRANSFORMER}.input_projections.{{i}}.{{leaf}}"),
    (
        f"{PREDICTOR}.mask_embed.layers.{{i}}.{{leaf}}",
        f"{HF_TRANSFORMER}.decoder.mask_predictor.mask_embedder.{{i}}.0.{{leaf}}",
    ),
    (f"{PREDICTOR}.class_embed.{{leaf}}", "class_predictor.{leaf}"),
    ("criterion.empty_weight", "criterion.empty_weight"),
)
TIMM_RULES: tuple[Rule, ...] = (("backbone.body.{rest}", f"{HF_BACKBONE}._backbone.{{rest}}"),)
RULES: tuple[Rule, ...] = (*HEAD_RULES, *SWIN_RULES, *_resnet_rules(), *TIMM_RULES)

# One tensor here is three there, in this order.
QKV = "qkv"
FUSED_RULES: tuple[Rule, ...] = (
    (f"{SWIN_BLOCK}.attn.qkv.{{leaf}}", f"{HF_SWIN_BLOCK}.attention.{{qkv}}_proj.{{leaf}}"),
    (
        f"{PREDICTOR}.transformer_self_attention_layers.{{i}}.self_attn.in_proj_{{leaf}}",
        f"{HF_LAYER}.self_attn.{{qkv}}_proj.{{leaf}}",
    ),
)

PLACEHOLDERS = {
    "i": r"\d+",
    "i2": r"\d+",
    "j": r"\d+",
    "qkv": "[qkv]",
    "name": "[a-z_]+",
    "leaf": "[a-z_]+",
    "rest": ".+",
}


def rename_to_hf(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename every tensor as transformers names it, and split query, key and value; values share no memory.

    Raises:
        ValueError: there are names that no rule knows; the message lists them.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in weights.items():
        fused = _translate(key, FUSED_RULES, 0)
        if fused is not None:
            parts = {fused.format(qkv=letter): part.clone() for letter, part in zip(QKV, value.chunk(3), strict=True)}
            renamed.update(parts)
            continue
        name = _translate(key, RULES, 0)
        if name is None:
            unknown.append(key)
        else:
            renamed[name] = value.detach().clone(memory_format=torch.contiguous_format)
    _refuse_unknown(unknown, "Mask2Former of this package")
    return renamed


def rename_to_d2(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename every tensor as this package names it, and fuse query, key and value; the inverse of `rename_to_hf`.

    Raises:
        ValueError: there are names that no rule knows, or a query, key or value without the others.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in weights.items():
        fused = _translate(key, FUSED_RULES, 1)
        if fused is not None:
            if fused not in renamed:
                renamed[fused] = torch.cat(_query_key_value(key, weights))
            continue
        name = _translate(key, RULES, 1)
        if name is None:
            unknown.append(key)
        else:
            renamed[name] = value.detach().clone(memory_format=torch.contiguous_format)
    _refuse_unknown(unknown, "transformers' Mask2FormerForUniversalSegmentation")
    return renamed


def _query_key_value(key: str, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """The three tensors that ``key`` is one of."""
    names = [re.sub(r"[qkv]_proj(?=\.\w+$)", f"{letter}_proj", key) for letter in QKV]
    missing = [name for name in names if name not in weights]
    if missing:
        raise ValueError(f"{key} is of no use without {' and '.join(missing)}, which the weights do not have.")
    return [weights[name].detach() for name in names]


def _refuse_unknown(keys: list[str], what: str) -> None:
    if keys:
        raise ValueError(f"{len(keys)} keys are not those of {what}:\n" + shortened([f"  {key}" for key in keys]))


def _translate(key: str, rules: Iterable[Rule], side: int) -> str | None:
    """Translate ``key`` from a side of the rules (0: here, 1: transformers) to the other; ``{qkv}`` is left open."""
    for rule in rules:
        match = _pattern(rule[side]).fullmatch(key)
        if match:
            return rule[1 - side].format(**{QKV: "{qkv}", **match.groupdict()})
    return None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """The regular expression that a template stands for."""
    parts = re.split(r"\{(\w+)\}", template)
    literal = [re.escape(part) for part in parts[::2]]
    groups = [f"(?P<{name}>{PLACEHOLDERS[name]})" for name in parts[1::2]]
    return re.compile("".join(a + b for a, b in zip(literal, [*groups, ""], strict=True)))
