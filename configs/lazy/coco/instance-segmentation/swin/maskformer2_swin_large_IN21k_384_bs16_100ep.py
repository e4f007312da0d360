from ....common.backbones import swin_large_IN21k
from ..base import dataloader, model, multi_step, optimizer, train  # noqa: F401

swin_large_IN21k(model, train)
model.num_queries = 200
train.max_iter = 737500
lr_multiplier = multi_step(655556, 710184, max_iter=train.max_iter)
