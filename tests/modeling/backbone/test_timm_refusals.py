"""What build_timm_backbone says before it needs timm, and where timm is missing."""

import sys

import pytest
from detectron2.modeling import build_backbone


@pytest.fixture
def timm_cfg(tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    tiny_cfg.MODEL.TIMM.NAME = "resnet18"
    return tiny_cfg


def test_missing_timm_is_named_with_the_way_to_install_it(timm_cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        build_backbone(timm_cfg)


@pytest.mark.parametrize("names", [["res1"], ["res2", "res2"], []])
def test_features_that_have_no_meaning_are_refused(timm_cfg, names):
    timm_cfg.MODEL.TIMM.OUT_FEATURES = names
    with pytest.raises(ValueError, match=r"MODEL.TIMM.OUT_FEATURES .* must be some of \['res2'"):
        build_backbone(timm_cfg)


@pytest.mark.parametrize("argument", ["out_indices", "features_only"])
def test_arguments_that_features_decide_are_refused(timm_cfg, argument):
    timm_cfg.MODEL.TIMM.KWARGS[argument] = (1, 2)
    with pytest.raises(ValueError, match="KWARGS cannot set out_indices or features_only"):
        build_backbone(timm_cfg)
