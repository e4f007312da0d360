"""Optimizer, schedules and the settings of Detectron2's lazyconfig trainer."""

import torch
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler, PolynomialDecayParamScheduler

from mask2former_ext.solver import parameter_groups, with_full_model_clipping

train = model_zoo.get_config("common/train.py").train
train.amp.enabled = True
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"

clipped_adamw = L(with_full_model_clipping)(optimizer_class=torch.optim.AdamW, max_norm=0.01, norm_type=2.0)
optimizer = L(clipped_adamw)(
    # the trainer sets params.model
    params=L(parameter_groups)(
        base_lr="${..lr}",
        backbone_multiplier=0.1,
        weight_decay=0.05,
        weight_decay_norm=0.0,
        weight_decay_embed=0.0,
    ),
    lr=1e-4,
)


def multi_step(*milestones, max_iter):
    """A tenth of the learning rate from each milestone on, after ten iterations of (ineffective) warm-up."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**i for i in range(len(milestones) + 1)], milestones=milestones, num_updates=max_iter
        ),
        warmup_factor=1.0,
        warmup_length=10 / max_iter,
        warmup_method="linear",
    )


def polynomial():
    """From the learning rate to 0, along the power of 0.9."""
    return L(PolynomialDecayParamScheduler)(base_value=1.0, power=0.9)
