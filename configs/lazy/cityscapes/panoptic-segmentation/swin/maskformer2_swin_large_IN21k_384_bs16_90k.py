from ....common.backbones import swin_large_IN21k
from ..base import dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

swin_large_IN21k(model, train)
model.num_queries = 200
