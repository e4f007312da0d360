from ....common.backbones import swin_tiny
from ..base import dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

swin_tiny(model, train)
