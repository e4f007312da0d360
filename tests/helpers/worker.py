"""One of several processes that train and evaluate: python worker.py FOLDER ACTION, with torchrun's variables set.

FOLDER has a config.yaml; what comes of the action is written there by the first process, as results_N.pth for N
processes.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.structures import BitMasks, Instances
from detectron2.utils import comm
from PIL import Image
from torch import nn

from mask2former_ext.config import load_config
from mask2former_ext.engine import Trainer
from mask2former_ext.engine.workers import is_worker, join
from mask2former_ext.modeling.points import RandomCoords
from mask2former_ext.seeding import seeded


def same_points_for_every_mask(sampling, counts, device, generator=None):
    """Stands in for random points, which each process draws for the masks that it has."""
    generator = torch.Generator().manual_seed(5)
    candidates = torch.rand(sampling.num_candidates, 2, generator=generator)
    uniform = torch.rand(sampling.num_points - sampling.num_uncertain, 2, generator=generator)
    return RandomCoords(
        candidates[: sampling.num_points].expand(len(counts), -1, -1),
        candidates.expand(sum(counts), -1, -1),
        uniform.expand(sum(counts), -1, -1),
    )


class Recorder(HookBase):
    """Losses of every iteration, and how many masks each process had."""

    def __init__(self):
        self.losses, self.masks = [], []

    def after_step(self):
        self.masks.append(comm.all_gather(self.trainer.masks))
        if comm.is_main_process():
            self.losses.append({k: v[0] for k, v in self.trainer.storage.latest().items() if "loss" in k})


class RecordingTrainer(Trainer):
    @classmethod
    def build_model(cls, cfg):
        # Attention masks are cut at zero: a logit that float32 rounds to the other side would change all that follows.
        model = super().build_model(cfg).double()
        model.register_forward_pre_hook(cls._count)
        return model

    @classmethod
    def _count(cls, model, arguments):
        if model.training:
            cls.masks = sum(len(image["instances"]) for image in arguments[0])


def train(cfg, folder):
    RandomCoords.draw = same_points_for_every_mask
    cfg.OUTPUT_DIR = str(folder / f"train_{comm.get_world_size()}")
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer, recorder = RecordingTrainer(cfg), Recorder()
    trainer.register_hooks([recorder])
    trainer.train()
    model = getattr(trainer.model, "module", trainer.model)
    return {"losses": recorder.losses, "masks": recorder.masks, "weights": model.state_dict()}


class NearTruth(nn.Module):
    """Results that are the truth with mistakes: other ones for every image, the same in every run."""

    def __init__(self, dataset):
        super().__init__()
        self.records = {record["image_id"]: record for record in DatasetCatalog.get(dataset)}

    def forward(self, batch):
        return [self.of_image(self.records[image["image_id"]]) for image in batch]

    def of_image(self, record):
        ids = np.roll(np.asarray(Image.open(record["pan_seg_file_name"]))[..., 0], record["image_id"], axis=1)
        ids = torch.from_numpy(ids.astype(np.int32))
        with seeded(record["image_id"]):
            infos = [
                {"id": info["id"], "category_id": info["category_id"], "isthing": info["isthing"]}
                for info in record["segments_info"]
            ]
            instances = Instances(tuple(ids.shape))
            things = [info for info in infos if info["isthing"]]
            instances.pred_masks = torch.stack([ids == info["id"] for info in things] or [ids < 0])
            instances.pred_classes = torch.zeros(len(instances.pred_masks), dtype=torch.int64)
            instances.scores = torch.rand(len(instances.pred_masks))
            instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
            semantic = torch.stack([(ids > 1).float(), (ids == 1).float()]) + 0.8 * torch.rand(2, *ids.shape)
        return {"panoptic_seg": (ids, infos), "instances": instances, "sem_seg": semantic}


def evaluate(cfg, folder):
    cfg.OUTPUT_DIR = str(folder / f"evaluate_{comm.get_world_size()}")
    return Trainer.test(cfg, NearTruth(cfg.DATASETS.TEST[0]).eval())


class Death(HookBase):
    """Ends process 1 in the middle of training."""

    def __init__(self, how):
        self.how = how

    def before_step(self):
        if self.trainer.iter == 1 and comm.get_rank() == 1:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("this worker died")


def die(cfg, folder, how):
    cfg.SOLVER.MAX_ITER = 1000
    cfg.OUTPUT_DIR = str(folder / f"die_{how}")
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.register_hooks([Death(how)])
    trainer.train()


def main(folder, action):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cfg = load_config(str(folder / "config.yaml"))
    if is_worker():
        join(cfg.MODEL.DEVICE)
    actions = {
        "train": train,
        "evaluate": evaluate,
        "killed": lambda cfg, folder: die(cfg, folder, "killed"),
        "raising": lambda cfg, folder: die(cfg, folder, "raising"),
    }
    results = {name: actions[name](cfg.clone(), folder) for name in action.split("+")}
    if comm.is_main_process():
        torch.save(results, folder / f"results_{comm.get_world_size()}.pth")
    if is_worker():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
