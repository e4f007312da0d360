"""The model to export, from its config."""

from pathlib import Path

from mask2former_ext.export import ExportableModel
from mask2former_ext.export.loading import load_for_export

COINS = str(Path(__file__).parents[2] / "configs" / "quickstart" / "maskformer2_R18_coins.yaml")
TINY = [
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.MASK_DIM", "16", "MODEL.MASK_FORMER.HIDDEN_DIM", "32"),
    *("MODEL.MASK_FORMER.DEC_LAYERS", "2", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1"),
]


def things(*options):
    return ExportableModel(load_for_export(COINS, "", [*TINY, *options])[0], ["panoptic"]).is_thing.tolist()


def test_things_are_those_of_the_dataset_and_all_where_it_is_not_known():
    """As where the model is run: with no things at all, no instance would be valid, and all segments of a class one."""
    assert things() == [True, False]
    assert things("DATASETS.TRAIN", "('nowhere_train',)", "DATASETS.TEST", "('nowhere_val',)") == [True, True]
    assert things("DATASETS.TRAIN", "()") == [True, False]  # the set to test on tells
