"""The Swin backbone under the whole network returns what the reference implementation did for seeded numbers."""

from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList

from mask2former_ext.config import load_config

CONFIG = Path(__file__).parents[2] / "configs/ade20k/semantic-segmentation/swin/maskformer2_swin_tiny_bs16_160k.yaml"


def assert_close(actual, expected, name):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=2e-3 * scale, err_msg=name)


def test_forward_of_the_whole_network_of_an_odd_sized_image(fill_seeded, seeded_image, golden):
    expected = golden("forward_swin_t_ade20k_semantic")
    model = fill_seeded(build_model(load_config(str(CONFIG), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]))).eval()
    images = ImageList.from_tensors([(seeded_image(2, 130, 97) - model.pixel_mean) / model.pixel_std], 32)
    with torch.no_grad():
        outputs = model.sem_seg_head(model.backbone(images.tensor))
    assert_close(outputs["pred_logits"], expected["pred_logits"], "pred_logits")
    assert_close(outputs["pred_masks"][:, :, ::4, ::4], expected["pred_masks"], "pred_masks")
    assert len(outputs["aux_outputs"]) == 9
    for i, earlier in enumerate(outputs["aux_outputs"]):
        assert_close(earlier["pred_logits"][:, ::5], expected[f"aux{i}_logits"], f"aux{i}_logits")
        assert_close(earlier["pred_masks"].mean((2, 3)), expected[f"aux{i}_masks_mean"], f"aux{i}_masks_mean")
