"""Loading configs: what is accepted, and what is refused with a way out."""

import pytest
from detectron2.config import get_cfg

from mask2former_ext import add_maskformer2_config
from mask2former_ext.config import get_cfg_defaults, is_maskformer, load_config

DEFAULTS = {
    "INPUT.DATASET_MAPPER_NAME": "mask_former_semantic",
    "INPUT.MAX_SCALE": 2.0,
    "DATALOADER.MAX_BAD_IMAGES": 0,
    "DATASETS.OWN": [],
    "SOLVER.MAX_NON_FINITE_STEPS": 0,
    "MODEL.DETERMINISTIC": False,
    "TEST.BOUNDARY.ENABLED": False,
    "TEST.BOUNDARY.DILATION_RATIO": 0.02,
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.AMP.PRECISION": "float16",
    "SOLVER.ACCUMULATION_STEPS": 1,
    "SOLVER.LAYER_DECAY": 1.0,
    "SOLVER.OPTIMIZER_IMPLEMENTATION": "auto",
    "MODEL_EMA.ENABLED": False,
    "MODEL.ACTIVATION_CHECKPOINTING.BACKBONE": False,
    "MODEL.CHANNELS_LAST": False,
    "MODEL.TF32": False,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 12544,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 20.0,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.0,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.SWIN.QK_SCALE": None,
}


def read(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def test_keys_are_added_with_their_defaults():
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    assert {key: read(cfg, key) for key in DEFAULTS} == DEFAULTS


def test_defaults_build_no_maskformer():
    assert not is_maskformer(get_cfg_defaults())


def test_overrides_are_applied_after_the_file(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\nMODEL: {META_ARCHITECTURE: MaskFormer}\n")
    (tmp_path / "child.yaml").write_text("_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.25}\n")
    cfg = load_config(str(tmp_path / "child.yaml"), ["SOLVER.MAX_ITER", "9"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.25, 9)
    assert is_maskformer(cfg)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {MASK_FORMER: {NO_SUCH_KEY: 1}}\n", "bad.yaml.*NO_SUCH_KEY"),
        ("SOLVER: {BASE_LR: [1, 2]}\n", "bad.yaml.*BASE_LR"),
        ("MODEL: [unclosed\n", "bad.yaml"),
        ('INPUT: {MIN_SIZE_TRAIN: !!python/object/apply:eval ["[1]"]}\n', "bad.yaml"),
    ],
)
def test_files_not_for_this_package_are_refused_by_name(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(str(tmp_path / "bad.yaml"))


def test_missing_files_and_bases_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_config(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "child.yaml").write_text("_BASE_: gone.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"child\.yaml.*_BASE_.*gone\.yaml"):
        load_config(str(tmp_path / "child.yaml"))


def test_lazy_configs_are_told_apart(tmp_path):
    (tmp_path / "lazy.py").write_text("")
    with pytest.raises(ValueError, match="LazyConfig"):
        load_config(str(tmp_path / "lazy.py"))


@pytest.mark.parametrize("opts", [["SOLVER.NO_SUCH", "1"], ["SOLVER.BASE_LR"], ["SOLVER.BASE_LR", "fast"]])
def test_bad_overrides_are_shown(opts):
    with pytest.raises(ValueError, match="command-line overrides"):
        load_config("", opts)
