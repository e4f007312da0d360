from ...common.backbones import resnet101
from .base import dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

resnet101(model, train)
