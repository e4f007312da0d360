"""Which modules of a backbone are its blocks, by the names that Detectron2, timm and this package give them."""

from __future__ import annotations

import re

# layers.0.blocks.1 (Swin here), res3.2 (Detectron2's ResNet); of timm model.blocks.11 (Vision Transformers),
# stages_1.blocks.0 (ConvNeXt), layer2.1 (ResNet), blocks.3.0 (EfficientNet)
BLOCK = re.compile(r"(?:.*?\.)?(?:blocks|layer\d+|res\d+)[._]\d+(?:\.\d+)*(?=\.|$)")


def block_of(name: str) -> str | None:
    """Return the name of the block that a parameter or module is in, or is; None outside all of them."""
    match = BLOCK.match(name)
    return None if match is None else match.group()
