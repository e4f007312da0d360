from ....common.backbones import swin_base
from ..base import dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

swin_base(model, train)
