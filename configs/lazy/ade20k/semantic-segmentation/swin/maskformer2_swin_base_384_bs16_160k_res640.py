from ....common.backbones import swin_base
from ..base import dataloader_at, lr_multiplier, model, optimizer, train  # noqa: F401

swin_base(model, train)
dataloader = dataloader_at(640)
