from ....common.backbones import swin_base_IN21k
from ..base import dataloader_at, lr_multiplier, model, optimizer, train  # noqa: F401

swin_base_IN21k(model, train)
dataloader = dataloader_at(640)
