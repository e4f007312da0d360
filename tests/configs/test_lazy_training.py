"""A LazyConfig trains, evaluates, saves and resumes through the steps of Detectron2's lazyconfig trainer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import SimpleTrainer, create_ddp_model, default_writers, hooks
from detectron2.evaluation import inference_on_dataset
from fvcore.nn.precise_bn import get_bn_modules
from PIL import Image

CONFIG = Path(__file__).parents[2] / "configs/lazy/coco/instance-segmentation/maskformer2_R50_bs16_50ep.py"
DATASET = "two_squares"
OVERRIDES = [
    *(f"dataloader.{split}.dataset.names={DATASET}" for split in ("train", "test")),
    *(f"dataloader.{split}.num_workers=0" for split in ("train", "test")),
    "dataloader.train.total_batch_size=2",
    "dataloader.train.mapper.augmentations.1.target_height=64",
    "dataloader.train.mapper.augmentations.1.target_width=64",
    "dataloader.train.mapper.augmentations.2.crop_size=[64,64]",
    "dataloader.train.mapper.augmentations.3.size=64",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "model.sem_seg_head.num_classes=2",
    "model.sem_seg_head.pixel_decoder.transformer_enc_layers=1",
    "model.sem_seg_head.predictor.dec_layers=1",
    "model.num_queries=5",
    "model.criterion.num_points=32",
    *("train.device=cpu", "train.amp.enabled=False", "train.init_checkpoint=''", "train.max_iter=2"),
    *("train.eval_period=2", "train.checkpointer.period=2"),
]


@pytest.fixture
def dataset(tmp_path):
    """Two images with a square each, of class 0 and of class 1."""
    images, annotations = [], []
    for index in (1, 2):
        pixels = np.zeros((48, 64, 3), dtype=np.uint8)
        pixels[8:24, 16:32, index] = 255
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "height": 48, "width": 64})
        square = {"bbox": [16, 8, 16, 16], "area": 256, "segmentation": [[16, 8, 32, 8, 32, 24, 16, 24]]}
        annotations.append({"id": index, "image_id": index, "category_id": index, "iscrowd": 0, **square})
    categories = [{"id": 1, "name": "green"}, {"id": 2, "name": "blue"}]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    register_coco_instances(DATASET, {}, str(path), str(tmp_path))
    yield DATASET
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


def do_test(cfg, model):
    return inference_on_dataset(model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator))


def do_train(cfg, resume):
    """What tools/lazyconfig_train_net.py of Detectron2 does, which is no part of its package."""
    model = instantiate(cfg.model)
    model.to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    model = create_ddp_model(model, **cfg.train.ddp)
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.EvalHook(cfg.train.eval_period, lambda: do_test(cfg, model)),
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter), period=1),
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    trainer.train(trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0, cfg.train.max_iter)
    return trainer


def load(tmp_path, *overrides):
    folder = f"train.output_dir={tmp_path / 'output'}"
    return LazyConfig.apply_overrides(LazyConfig.load(str(CONFIG)), [*OVERRIDES, folder, *overrides])


def test_training_evaluation_and_resuming(dataset, tmp_path):
    cfg = load(tmp_path)
    (tmp_path / "output").mkdir()
    trainer = do_train(cfg, resume=False)
    metrics = [json.loads(line) for line in (tmp_path / "output" / "metrics.json").read_text().splitlines()]
    assert {"loss_ce", "loss_mask_0", "loss_dice", "segm/AP", "bbox/AP"} <= set().union(*metrics)
    assert metrics[0]["lr"] == pytest.approx(1e-5)  # of the largest group, the backbone's
    assert trainer.model.metadata.thing_classes == ["green", "blue"]
    assert (tmp_path / "output" / "inference" / "coco_instances_results.json").is_file()
    assert not get_bn_modules(trainer.model)  # the backbone's are frozen

    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    resumed = do_train(load(tmp_path, "train.max_iter=3"), resume=True)
    assert resumed.iter == 3
    moved = [key for key, value in resumed.model.state_dict().items() if not torch.equal(value, before[key])]
    assert any("backbone" in key for key in moved)
    # one step with all gradients clipped to a norm of 0.01 moves no weight by more than Adam's bound of the rate
    largest = max((resumed.model.state_dict()[key] - before[key]).abs().max().item() for key in moved)
    assert largest < 5e-4
