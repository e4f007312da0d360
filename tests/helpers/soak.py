"""Trains or predicts for long, and writes what the process takes: python soak.py train|predict FOLDER.

FOLDER has a config.yaml; footprint.json gets a list of [iteration or image, resident bytes, open files].
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.modeling import build_model

from mask2former_ext.config import load_config
from mask2former_ext.engine import Trainer

PAGE = os.sysconf("SC_PAGE_SIZE")


def footprint(step):
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    return [step, resident, len(os.listdir("/proc/self/fd"))]


class Watch(HookBase):
    def __init__(self, period):
        self.period, self.footprints = period, []

    def after_step(self):
        if (self.trainer.iter + 1) % self.period == 0:
            self.footprints.append(footprint(self.trainer.iter + 1))


def train(cfg):
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer, watch = Trainer(cfg), Watch(50)
    trainer.register_hooks([watch])
    trainer.train()
    return watch.footprints


def predict(cfg):
    model = build_model(cfg).eval()
    sizes = torch.Generator().manual_seed(0)
    footprints = []
    for index in range(1, 501):
        height, width = torch.randint(33, 257, (2,), generator=sizes).tolist()
        with torch.no_grad():
            model([{"image": torch.rand(3, height, width) * 255, "height": 2 * height, "width": 2 * width}])
        footprints.append(footprint(index))
    return footprints


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[2])
    result = {"train": train, "predict": predict}[sys.argv[1]](load_config(str(folder / "config.yaml")))
    (folder / "footprint.json").write_text(json.dumps(result))
