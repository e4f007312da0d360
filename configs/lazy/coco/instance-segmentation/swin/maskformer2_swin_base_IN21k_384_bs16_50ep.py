from ....common.backbones import swin_base_IN21k
from ..base import dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

swin_base_IN21k(model, train)
