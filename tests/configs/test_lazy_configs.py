"""Each YAML config has a LazyConfig of the same name that gives the same model, training, data and evaluation."""

import dataclasses
import inspect
from pathlib import Path

import omegaconf
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetMapper, Metadata
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    SemSegEvaluator,
)
from detectron2.modeling import build_model
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.solver import LRMultiplier
from omegaconf import OmegaConf
from pycocotools.coco import COCO
from torch import nn

from mask2former_ext.config import load_config
from mask2former_ext.data import build_dataset_mapper
from mask2former_ext.evaluation import PanopticEvaluator, evaluator_factories
from mask2former_ext.evaluation.instance import ThingInstanceEvaluator
from mask2former_ext.solver import build_optimizer

CONFIGS = Path(__file__).parents[2] / "configs"
LAZY = CONFIGS / "lazy"
NAMES = sorted(str(path.relative_to(LAZY).with_suffix("")) for path in LAZY.rglob("maskformer*.py"))
# Models take long to build: every base and every backbone is among these.
BUILT = [name for name in NAMES if "R50" in name or "R101_bs16_90k" in name or name.startswith("coco/panoptic")]
EVALUATORS = (
    *(COCOEvaluator, ThingInstanceEvaluator, SemSegEvaluator, PanopticEvaluator),
    *(CityscapesInstanceEvaluator, CityscapesSemSegEvaluator),
)
PLAIN = (int, float, str, bool, type(None))


def plain(value):
    """Numbers, strings and containers of them, in one form; None for anything else."""
    if isinstance(value, (list, tuple, omegaconf.ListConfig)):
        return [plain(item) for item in value]
    if isinstance(value, (dict, omegaconf.DictConfig)):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return plain(vars(value))
    if isinstance(value, Metadata):
        return value.get("name")
    return value if isinstance(value, PLAIN) else type(value).__name__


def settings(module: nn.Module):
    """Class and attributes of all modules, without tensors and submodules."""
    return {
        name: (type(child).__name__, {key: plain(value) for key, value in vars(child).items() if key[0] != "_"})
        for name, child in module.named_modules()
    }


def groups(optimizer, model):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: {key: plain(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def augmentations(mapper):
    return [
        (repr(type(x)), {key: described(value) for key, value in vars(x).items()}) for x in mapper.augmentations.augs
    ]


def described(value):
    return described_transform(value) if hasattr(value, "apply_image") else plain(value)


def described_transform(transform):
    return type(transform).__name__, {key: plain(value) for key, value in vars(transform).items()}


def load(name):
    cfg = load_config(str(CONFIGS / f"{name}.yaml"), ["MODEL.DEVICE", "meta"])
    return cfg, LazyConfig.load(str(LAZY / f"{name}.py"))


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    return load(request.param)


def test_there_is_one_for_each_yaml():
    yaml = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("maskformer*.yaml")}
    assert {str(path.with_suffix("")) for path in yaml if path.parts[0] != "quickstart"} == set(NAMES)
    assert len(NAMES) == 47


def test_same_sizes(pair):
    cfg, lazy = pair
    assert lazy.model.num_queries == cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES
    assert lazy.model.sem_seg_head.num_classes == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    backbone, swin = lazy.model.backbone, cfg.MODEL.SWIN
    if cfg.MODEL.BACKBONE.NAME == "D2SwinTransformer":
        width = swin.EMBED_DIM
        assert (backbone.embed_dim, backbone.depths, backbone.num_heads) == (width, swin.DEPTHS, swin.NUM_HEADS)
    else:
        width = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
        assert (backbone.stages.depth, backbone.stages.norm) == (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM)
    assert lazy.model.sem_seg_head.input_shape.res2.channels == width


@pytest.mark.parametrize("name", BUILT)
def test_same_model_and_optimizer(name):
    cfg, lazy = load(name)
    with torch.device("meta"):  # shapes need no memory and no random numbers
        expected, model = build_model(cfg), instantiate(lazy.model)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in expected.state_dict().items()}
    assert settings(model) == settings(expected)
    assert model.training == expected.training

    lazy.optimizer.params.model = model
    optimizer, reference = instantiate(lazy.optimizer), build_optimizer(cfg, expected)
    assert groups(optimizer, model) == groups(reference, expected)
    step, reference_step = (
        inspect.getclosurevars(inspect.unwrap(type(x).step)).nonlocals for x in (optimizer, reference)
    )
    assert step.keys() == reference_step.keys() >= {"max_norm", "norm_type"}
    assert {k: plain(v) for k, v in step.items()} == {k: plain(v) for k, v in reference_step.items()}


def test_same_schedule(pair):
    cfg, lazy = pair
    optimizer, reference = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5) for _ in range(2))
    iterations = lazy.train.max_iter
    assert iterations == cfg.SOLVER.MAX_ITER
    schedule = LRMultiplier(optimizer, multiplier=instantiate(lazy.lr_multiplier), max_iter=iterations)
    reference_schedule = build_lr_scheduler(cfg, reference)
    steps = [step for milestone in cfg.SOLVER.STEPS for step in (milestone - 1, milestone, milestone + 1)]
    for iteration in (0, 1, 9, 10, 11, *steps, iterations // 2, iterations - 1):
        schedule.last_epoch = reference_schedule.last_epoch = iteration
        assert schedule.get_lr() == pytest.approx(reference_schedule.get_lr(), rel=1e-9), iteration


def test_same_data(pair):
    cfg, lazy = pair
    train, test = lazy.dataloader.train, lazy.dataloader.test
    assert ((train.dataset.names,), (test.dataset.names,)) == (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert test.dataset.filter_empty is False
    assert train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert train.num_workers == test.num_workers == cfg.DATALOADER.NUM_WORKERS
    mapper, expected = instantiate(train.mapper), build_dataset_mapper(cfg)
    assert augmentations(mapper) == augmentations(expected)
    rest = vars(mapper) | {"augmentations": None}
    assert rest == vars(expected) | {"augmentations": None}
    mapper, expected = instantiate(test.mapper), DatasetMapper(cfg, is_train=False)
    assert augmentations(mapper) == augmentations(expected)
    for key in ("is_train", "image_format"):
        assert getattr(mapper, key) == getattr(expected, key)


def test_same_evaluators(pair, monkeypatch):
    cfg, lazy = pair
    made = []

    def init(self, dataset_name, tasks=None, output_dir=None, *, boundary_dilation_ratio=None):
        assert boundary_dilation_ratio is None  # TEST.BOUNDARY is off
        made.append((type(self).__name__, dataset_name, plain(tasks), output_dir))
        self._coco_api = COCO()  # of no annotations

    for evaluator in EVALUATORS:
        monkeypatch.setattr(evaluator, "__init__", init)
    instantiate(lazy.dataloader.evaluator)
    lazily, made[:] = sorted(made), []
    [name] = cfg.DATASETS.TEST
    for factory in evaluator_factories(cfg, name):
        factory(cfg, name, "./output/inference")
    assert len(lazily) == len(lazy.dataloader.evaluator)
    assert lazily == sorted(made)


def test_same_training_settings(pair):
    cfg, lazy = pair
    train = lazy.train
    assert train.init_checkpoint == cfg.MODEL.WEIGHTS
    assert train.amp.enabled == cfg.SOLVER.AMP.ENABLED
    assert train.eval_period == cfg.TEST.EVAL_PERIOD
    assert train.checkpointer.period == cfg.SOLVER.CHECKPOINT_PERIOD
    assert train.output_dir == cfg.OUTPUT_DIR


def test_a_saved_config_is_the_same(tmp_path):
    lazy = LazyConfig.load(str(LAZY / "coco/instance-segmentation/maskformer2_R50_bs16_50ep.py"))
    LazyConfig.save(lazy, str(tmp_path / "config.yaml"))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    saved = LazyConfig.load(str(tmp_path / "config.yaml"))
    with torch.device("meta"):
        expected, model = instantiate(lazy.model), instantiate(saved.model)
    assert settings(model) == settings(expected)
    for config, of_model in ((lazy, expected), (saved, model)):
        config.optimizer.params.model = of_model
    assert groups(instantiate(saved.optimizer), model) == groups(instantiate(lazy.optimizer), expected)
    assert augmentations(instantiate(saved.dataloader.train.mapper)) == augmentations(
        instantiate(lazy.dataloader.train.mapper)
    )


def test_loading_one_leaves_no_trace_in_the_next():
    name = "cityscapes/panoptic-segmentation/maskformer2_R101_bs16_90k"
    LazyConfig.load(str(LAZY / f"{name}.py"))
    other = LazyConfig.load(str(LAZY / "ade20k/panoptic-segmentation/maskformer2_R50_bs16_160k.py"))
    assert other.model.backbone.stages.depth == 50
    assert other.model.backbone.stages.norm == "FrozenBN"
    assert OmegaConf.to_container(other.train)["max_iter"] == 160000
