"""Models and images to look at queries with."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image

from mask2former_ext.visualization.queries import trace_queries
from mask2former_ext.visualization.query_inputs import dataset_input, image_input, load_query_model


@pytest.fixture
def weights(tiny_cfg, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": build_model(tiny_cfg).state_dict()}, path)
    return str(path)


def test_models_keep_all_predictions_whatever_the_config_saves(tiny_cfg, weights):
    tiny_cfg.MODEL.MASK_FORMER.RESIZE_MASK_FEATURES = True
    tiny_cfg.MODEL.COMPILE = True
    tiny_cfg.freeze()
    torch.manual_seed(1)
    model = load_query_model(tiny_cfg, weights)
    trace = trace_queries(model, {"image": torch.zeros(3, 64, 64)})
    assert len(trace.predictions) == 3 and not model.training
    saved = torch.load(weights)["model"]
    assert all((value == saved[key]).all() for key, value in model.state_dict().items())


def test_other_models_and_weights_are_refused(tiny_cfg, weights, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth' does not exist"):
        load_query_model(tiny_cfg, "nowhere.pth")
    own = torch.load(weights)["model"]
    backbone = str(tmp_path / "backbone.pth")
    torch.save({"model": {key: value for key, value in own.items() if key.startswith("backbone.")}}, backbone)
    with pytest.raises(ValueError, match="does not hold the whole model"):
        load_query_model(tiny_cfg, backbone)
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    with pytest.raises(ValueError, match="is for 3 classes, the model for 4"):
        load_query_model(tiny_cfg, weights)
    tiny_cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    with pytest.raises(ValueError, match="GeneralizedRCNN, which has no queries"):
        load_query_model(tiny_cfg, weights)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_images_have_the_size_and_format_of_evaluation(image_format, sample_cfg, dataset):
    cfg = sample_cfg("mask_former_panoptic", "INPUT.FORMAT", image_format, "INPUT.MIN_SIZE_TEST", 48)
    path = DatasetCatalog.get(dataset)[0]["file_name"]
    image = image_input(cfg, path)["image"]
    expected = np.asarray(Image.open(path).resize((64, 48), Image.Resampling.BILINEAR))
    assert image.dtype == torch.uint8 and image.is_contiguous()
    assert (image.permute(1, 2, 0).numpy()[..., :: -1 if image_format == "BGR" else 1] == expected).all()


@pytest.mark.parametrize(
    ("mapper", "labels"),
    [
        ("mask_former_panoptic", [0, 2]),
        ("coco_panoptic_lsj", [0, 2]),
        ("mask_former_instance", [0]),
        ("coco_instance_lsj", [0]),
        ("mask_former_semantic", [0, 1, 2]),
    ],
)
def test_the_truth_has_the_size_of_evaluation_too(mapper, labels, sample_cfg, dataset, segment_ids):
    cfg = sample_cfg(mapper, "INPUT.MIN_SIZE_TEST", 48)
    cfg.DATASETS.TRAIN = ()
    inputs = dataset_input(cfg, dataset, 0)
    alone = image_input(cfg, inputs["file_name"])
    assert (inputs["image"] == alone["image"]).all()
    assert inputs["instances"].gt_classes.tolist() == labels
    cat = inputs["instances"].gt_masks.tensor[0].numpy()
    assert (cat == np.repeat(np.repeat(segment_ids == 5, 2, axis=0), 2, axis=1)).all()


def test_mistakes_are_said(sample_cfg, dataset, tmp_path):
    cfg = sample_cfg("mask_former_panoptic")
    with pytest.raises(ValueError, match="--dataset: Dataset 'nobody' is not registered"):
        dataset_input(cfg, "nobody", 0)
    with pytest.raises(ValueError, match="--index is 1, but hand_made_for_pictures has the images 0…0"):
        dataset_input(cfg, dataset, 1)
    with pytest.raises(FileNotFoundError, match=r"none\.jpg: this file does not exist \(looked in"):
        image_input(cfg, str(tmp_path / "none.jpg"))
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.jpg: cannot be read"):
        image_input(cfg, str(tmp_path / "text.jpg"))
