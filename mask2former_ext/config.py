"""Configuration keys of Mask2Former, grouped by the module that reads them, and loading of config files.

Names and defaults are those of the reference implementation, so that its YAML files mean here what they mean there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from .own_data.paths import resolve_paths

META_ARCHITECTURE = "MaskFormer"


def add_maskformer2_config(cfg: CfgNode) -> None:
    """Add every Mask2Former key, with its default, to ``cfg`` in place.

    ``detectron2.projects.deeplab.add_deeplab_config`` is called before this function where the ``WarmupPolyLR``
    schedule or the DeepLab-style ResNet keys (``MODEL.RESNETS.RES5_MULTI_GRID``) are wanted; all published configs
    use it.
    """
    _add_data_keys(cfg)
    _add_own_data_keys(cfg)
    _add_solver_keys(cfg)
    _add_mask_former_keys(cfg)
    _add_pixel_decoder_keys(cfg)
    _add_swin_keys(cfg)
    _add_timm_keys(cfg)
    _add_ema_keys(cfg)
    _add_training_memory_keys(cfg)
    _add_compile_keys(cfg)
    _add_evaluation_keys(cfg)


def _add_data_keys(cfg: CfgNode) -> None:
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"
    cfg.INPUT.COLOR_AUG_SSD = False
    # Pads training images of the mask_former_* mappers to this size, in pixels; -1 leaves them as they are.
    cfg.INPUT.SIZE_DIVISIBILITY = -1
    # Large-scale jittering of the coco_*_lsj mappers.
    cfg.INPUT.IMAGE_SIZE = 1024
    cfg.INPUT.MIN_SCALE = 0.1
    cfg.INPUT.MAX_SCALE = 2.0
    # of this package: in training, so many samples of each process that cannot be read are replaced by others
    cfg.DATALOADER.MAX_BAD_IMAGES = 0


def _add_own_data_keys(cfg: CfgNode) -> None:
    # of this package: dataset cards (JSON files, see own_data/cards.py), relative to the config file that names them;
    # load_config registers the datasets that they describe
    cfg.DATASETS.OWN = []


def _add_solver_keys(cfg: CfgNode) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # of this package: factor of the learning rate from block to block, downwards in the backbone
    cfg.SOLVER.LAYER_DECAY = 1.0
    # of this package: how the optimizer updates: auto (PyTorch's choice), for-loop, foreach or fused
    cfg.SOLVER.OPTIMIZER_IMPLEMENTATION = "auto"
    # of this package: number format of SOLVER.AMP.ENABLED, float16 or bfloat16
    cfg.SOLVER.AMP.PRECISION = "float16"
    # of this package: the batch of a step goes through the model in so many parts, which take less memory
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # of this package: so many steps whose losses or gradients are not finite are left out, before training ends
    cfg.SOLVER.MAX_NON_FINITE_STEPS = 0


def _add_mask_former_keys(cfg: CfgNode) -> None:
    cfg.MODEL.MASK_FORMER = node = CfgNode()
    # criterion and matcher
    node.DEEP_SUPERVISION = True
    node.NO_OBJECT_WEIGHT = 0.1
    node.CLASS_WEIGHT = 1.0
    node.DICE_WEIGHT = 1.0
    node.MASK_WEIGHT = 20.0
    node.TRAIN_NUM_POINTS = 112 * 112
    node.OVERSAMPLE_RATIO = 3.0
    node.IMPORTANCE_SAMPLE_RATIO = 0.75
    # transformer decoder; DROPOUT is the pixel decoder encoder's, the masked decoder has none
    node.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"
    node.TRANSFORMER_IN_FEATURE = "res5"
    node.NHEADS = 8
    node.DROPOUT = 0.1
    node.DIM_FEEDFORWARD = 2048
    node.ENC_LAYERS = 0
    node.DEC_LAYERS = 6
    node.PRE_NORM = False
    node.HIDDEN_DIM = 256
    node.NUM_OBJECT_QUERIES = 100
    node.ENFORCE_INPUT_PROJ = False
    # of this package: cheaper attention masks in inference, the same but for rounding
    node.RESIZE_MASK_FEATURES = False
    # meta-architecture; the backbone's own value is used where this one is negative
    node.SIZE_DIVISIBILITY = 32
    node.TEST = CfgNode()
    node.TEST.SEMANTIC_ON = True
    node.TEST.INSTANCE_ON = False
    node.TEST.PANOPTIC_ON = False
    node.TEST.OBJECT_MASK_THRESHOLD = 0.0
    node.TEST.OVERLAP_THRESHOLD = 0.0
    node.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False
    # of this package: MiB for full-size masks beside the results, in inference
    node.TEST.MAX_MEMORY_MB = 64


def _add_pixel_decoder_keys(cfg: CfgNode) -> None:
    node = cfg.MODEL.SEM_SEG_HEAD
    node.MASK_DIM = 256
    node.TRANSFORMER_ENC_LAYERS = 0
    node.PIXEL_DECODER_NAME = "BasePixelDecoder"
    node.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    node.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4
    node.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = 8


def _add_swin_keys(cfg: CfgNode) -> None:
    cfg.MODEL.SWIN = node = CfgNode()
    node.PRETRAIN_IMG_SIZE = 224
    node.PATCH_SIZE = 4
    node.EMBED_DIM = 96
    node.DEPTHS = [2, 2, 6, 2]
    node.NUM_HEADS = [3, 6, 12, 24]
    node.WINDOW_SIZE = 7
    node.MLP_RATIO = 4.0
    node.QKV_BIAS = True
    node.QK_SCALE = None
    node.DROP_RATE = 0.0
    node.ATTN_DROP_RATE = 0.0
    node.DROP_PATH_RATE = 0.3
    node.APE = False
    node.PATCH_NORM = True
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    node.USE_CHECKPOINT = False


def _add_timm_keys(cfg: CfgNode) -> None:
    cfg.MODEL.TIMM = node = CfgNode()
    node.NAME = ""
    node.PRETRAINED = False
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # further arguments of timm.create_model; YAML files may set any
    node.KWARGS = CfgNode(new_allowed=True)


def _add_ema_keys(cfg: CfgNode) -> None:
    """Exponential moving average of the weights, in training; it is what gets evaluated then."""
    cfg.MODEL_EMA = node = CfgNode()
    node.ENABLED = False
    node.DECAY = 0.999
    # evaluate the weights themselves too; results of the average are then called ..._EMA
    node.EVALUATE_BOTH = False


def _add_training_memory_keys(cfg: CfgNode) -> None:
    # of this package: compute activations again in the backward pass rather than keep them, inside the backbone's
    # blocks and inside the layers of the pixel decoder's encoder; for Swin the same as MODEL.SWIN.USE_CHECKPOINT
    cfg.MODEL.ACTIVATION_CHECKPOINTING = node = CfgNode()
    node.BACKBONE = False
    node.PIXEL_DECODER = False
    # of this package: keep feature maps with their channels last in memory
    cfg.MODEL.CHANNELS_LAST = False
    # of this package: let GPUs multiply float32 numbers with the precision of TF32; False leaves PyTorch's settings
    cfg.MODEL.TF32 = False
    # of this package: PyTorch's deterministic algorithms alone, which on GPUs cost time
    cfg.MODEL.DETERMINISTIC = False


def _add_compile_keys(cfg: CfgNode) -> None:
    # of this package: whether backbone, pixel decoder and transformer decoder go through torch.compile
    cfg.MODEL.COMPILE = False


def _add_evaluation_keys(cfg: CfgNode) -> None:
    # of this package: Boundary AP, PQ and mIoU beside the usual figures; the width of boundaries is a share of the
    # image's diagonal
    cfg.TEST.BOUNDARY = node = CfgNode()
    node.ENABLED = False
    node.DILATION_RATIO = 0.02


def get_cfg_defaults() -> CfgNode:
    """Return Detectron2's defaults with DeepLab's and this package's keys added."""
    cfg = get_cfg()
    add_deeplab_config(cfg)
    add_maskformer2_config(cfg)
    return cfg


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Read a YAML config, and ``KEY VALUE`` overrides, on top of :func:`get_cfg_defaults`.

    Datasets of ``DATASETS.OWN`` are registered.

    Args:
        config_file: path of a Detectron2 YAML config; an empty string gives the defaults alone.
        opts: alternating keys and values, as they stand on a command line.

    Raises:
        FileNotFoundError: the file, or one that it names in ``_BASE_`` or ``DATASETS.OWN``, does not exist.
        ValueError: the file is no YAML config, or it, or an override, sets a key that nothing here knows; or a dataset
            card is not one.
    """
    cfg = get_cfg_defaults()
    if config_file:
        _merge_file(cfg, config_file)
        resolve_paths(cfg, config_file)
    try:
        cfg.merge_from_list(list(opts))
    except (KeyError, AssertionError, ValueError) as error:
        raise ValueError(
            f"command-line overrides {list(opts)}: {_reason(error)}. Overrides are pairs of a config key and a value, "
            "for example: SOLVER.IMS_PER_BATCH 8"
        ) from error
    from .own_data.cards import register_own_datasets  # not above: it needs this module

    register_own_datasets(cfg)
    return cfg


def _merge_file(cfg: CfgNode, config_file: str) -> None:
    if not os.path.isfile(config_file):
        raise FileNotFoundError(f"config file '{config_file}' does not exist (looked in '{os.getcwd()}').")
    if not config_file.endswith((".yaml", ".yml")):
        raise ValueError(
            f"config file '{config_file}' is not a .yaml file; LazyConfig files need Detectron2's lazyconfig trainer."
        )
    try:
        cfg.merge_from_file(config_file, allow_unsafe=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"config file '{config_file}' has a _BASE_ that does not exist: {error}") from error
    except Exception as error:  # yacs, PyYAML and Detectron2 raise many kinds here; all of them mean a bad file
        raise ValueError(
            f"config file '{config_file}' is not a config for this package: {_reason(error)}. Only keys of "
            f"Detectron2, DeepLab "
            "and Mask2Former are known; remove the key, or use the project that the file was written for."
        ) from error


def _reason(error: Exception) -> str:
    # a KeyError quotes its text, so not str(error); PyYAML's errors have several arguments, the first perhaps None
    return " ".join(str(error.args[0] if len(error.args) == 1 else error).split()).rstrip(".")


def is_maskformer(cfg: CfgNode) -> bool:
    """Tell whether ``cfg`` builds this package's meta-architecture (and not, say, Detectron2's Mask R-CNN)."""
    return cfg.MODEL.META_ARCHITECTURE == META_ARCHITECTURE
