from ....common.backbones import swin_small
from ..base import dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

swin_small(model, train)
