"""Predictor: one call from an image to results, on a tiny Mask2Former and a small Mask R-CNN of random weights."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.utils.visualizer import Visualizer
from PIL import ExifTags, Image

import mask2former_ext
from mask2former_ext.config import load_config
from mask2former_ext.data.reading import read_image_file
from mask2former_ext.predictor import Predictor, as_rgb, class_metadata

MASK_RCNN = Path(__file__).parents[1] / "configs" / "quickstart" / "mask_rcnn_R18_FPN_coins.yaml"
SMALLER_MASK_RCNN = ["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16]


@pytest.fixture
def cfg(tiny_cfg, tmp_path):
    """The tiny model's config, with a checkpoint of random weights."""
    tiny_cfg.INPUT.MIN_SIZE_TEST = 64
    torch.save({"model": build_model(tiny_cfg).state_dict()}, tmp_path / "weights.pth")
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    return tiny_cfg


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (50, 81, 3), dtype=np.uint8)


def same(one, other):
    assert one.keys() == other.keys() == {"sem_seg", "panoptic_seg", "instances"}
    assert torch.equal(one["sem_seg"], other["sem_seg"])
    assert torch.equal(one["panoptic_seg"][0], other["panoptic_seg"][0])
    assert one["panoptic_seg"][1] == other["panoptic_seg"][1]
    for field in ("scores", "pred_masks", "pred_classes"):
        assert torch.equal(one["instances"].get(field), other["instances"].get(field))
    return True


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_equals_detectron2s_predictor(cfg, photo, order):
    cfg.INPUT.FORMAT = order
    predictor = Predictor(cfg, device="cpu")
    results = predictor(photo)
    assert same(results, DefaultPredictor(cfg)(photo[:, :, ::-1]))
    assert results["sem_seg"].shape == (3, 50, 81)
    assert not predictor.model.training and results["sem_seg"].is_inference()


def test_every_form_of_an_image(cfg, photo, tmp_path):
    predictor = Predictor(cfg, device="cpu")
    Image.fromarray(photo).save(tmp_path / "photo.png")
    expected = predictor(photo)
    for image in (str(tmp_path / "photo.png"), tmp_path / "photo.png", Image.fromarray(photo)):
        assert same(predictor(image), expected)
    assert same(predictor(photo[:, :, ::-1], channels="BGR"), expected)
    assert not torch.equal(predictor(photo[:, :, ::-1])["sem_seg"], expected["sem_seg"])
    with pytest.raises(ValueError, match="channels is 'HSV'"):
        predictor(photo, channels="HSV")


def test_grey_images_have_three_equal_channels(photo):
    grey = photo[:, :, 0]
    expected = np.stack([grey, grey, grey], axis=2)
    for image in (grey, grey[:, :, None], Image.fromarray(grey)):
        assert np.array_equal(as_rgb(image), expected)


def test_exif_orientation_is_honoured(photo, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: clockwise by 90° to be upright
    path = tmp_path / "turned.png"
    Image.fromarray(photo).save(path, exif=exif)
    upright = np.rot90(photo, -1)
    assert np.array_equal(as_rgb(path), upright)
    with Image.open(path) as opened:
        assert np.array_equal(as_rgb(opened), upright)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 0, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="must be uint8, height × width × 3"):
        as_rgb(image)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        as_rgb(tmp_path / "nowhere.jpg")
    broken = tmp_path / "broken.png"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(broken)
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"broken\.png' cannot be read"):
        as_rgb(broken)
    deep = tmp_path / "deep.tif"
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(deep)
    with pytest.raises(ValueError, match=r"deep\.tif' cannot be read: 32 bits per pixel"):
        as_rgb(deep)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_of_16_bits_the_higher_8_count_as_in_training(tmp_path, ending):
    path = tmp_path / f"deep.{ending}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3  # upside down
    Image.fromarray(np.array([[0, 255, 256], [4000, 2**15, 2**16 - 1]], np.uint16)).save(path, exif=exif)
    expected = np.array([[255, 128, 15], [1, 0, 0]])
    assert np.array_equal(as_rgb(path), np.repeat(expected[:, :, None], 3, axis=2))
    assert np.array_equal(as_rgb(path), read_image_file(str(path), "RGB", "image"))
    with Image.open(path) as opened:
        assert np.array_equal(as_rgb(opened), as_rgb(path))


def test_yaml_config_weights_opts_and_device(cfg, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    weights, cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = cfg.MODEL.WEIGHTS, "elsewhere.pth", "cuda"
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    predictor = mask2former_ext.Predictor(path, Path(weights), opts=["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"])
    assert predictor.model.device.type == "cpu" and predictor.cfg.is_frozen()
    assert predictor(photo).keys() == {"sem_seg", "instances"}
    assert (cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE) == ("elsewhere.pth", "cuda")
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.pth"):
        Predictor(cfg)
    with pytest.raises(ValueError, match="NO_SUCH_KEY"):
        Predictor(path, opts=["MODEL.NO_SUCH_KEY", "1"])


def test_a_device_in_opts_counts(cfg, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Predictor(cfg, opts=["MODEL.DEVICE", "cpu"]).model.device.type == "cpu"


def test_a_gpu_that_is_not_there_is_named(cfg, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'cuda:0'.* finds no CUDA device"):
        Predictor(cfg, device="cuda:0")


def test_weights_that_leave_something_random_are_refused(cfg, tmp_path):
    whole = torch.load(cfg.MODEL.WEIGHTS)["model"]
    path = tmp_path / "part.pth"
    torch.save({"model": {key: value for key, value in whole.items() if key.startswith("backbone.")}}, path)
    with pytest.raises(ValueError, match=r"part\.pth does not hold the whole model"):
        Predictor(cfg, path, device="cpu")
    lost = "sem_seg_head.predictor.query_feat.weight"
    torch.save({"model": {key: value for key, value in whole.items() if key != lost}}, path)
    with pytest.raises(ValueError, match=rf"1 of its \d+ parameters .*\({lost}\)"):
        Predictor(cfg, path, device="cpu")
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    with pytest.raises(ValueError, match="for 3 classes, the model for 5"):
        Predictor(cfg, device="cpu")


def test_no_weights_at_all_are_warned_of(cfg, photo, caplog):
    predictor = Predictor(cfg, "", device="cpu")
    assert "random weights" in caplog.text
    assert predictor(photo)["sem_seg"].shape == (3, 50, 81)


def test_averaged_weights_are_used_where_the_config_evaluates_them(cfg, tmp_path):
    own = torch.load(cfg.MODEL.WEIGHTS)["model"]
    average = {key: torch.full_like(value, 0.25) for key, value in own.items() if value.is_floating_point()}
    path = tmp_path / "with_average.pth"
    torch.save({"model": own, "ema": {"num_updates": 3, "weights": average}}, path)
    key = "sem_seg_head.predictor.class_embed.bias"
    assert torch.equal(Predictor(cfg, path, device="cpu").model.state_dict()[key], own[key])
    averaged = Predictor(cfg, path, opts=["MODEL_EMA.ENABLED", True], device="cpu").model.state_dict()
    assert averaged[key].eq(0.25).all() and averaged["backbone.stem.conv1.weight"].eq(0.25).all()


def test_memory_format_is_the_configs_and_nothing_is_checkpointed(cfg):
    opts = ["MODEL.CHANNELS_LAST", True, "MODEL.ACTIVATION_CHECKPOINTING.BACKBONE", True, "MODEL.COMPILE", True]
    model = Predictor(cfg, opts=opts, device="cpu").model
    assert model.backbone.stem.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not Predictor(cfg, device="cpu").model.backbone.stem.conv1.weight.is_contiguous(
        memory_format=torch.channels_last
    )


def test_configs_of_detectron2_alone(photo):
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml"))
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 1.0
    cfg.INPUT.MIN_SIZE_TEST = 32
    assert len(Predictor(cfg, device="cpu")(photo)["instances"]) == 0


def test_several_images_at_once(cfg, photo):
    predictor = Predictor(cfg, device="cpu")
    other = 255 - photo
    one, two = predictor.batch([photo, other])
    torch.testing.assert_close(one["sem_seg"], predictor(photo)["sem_seg"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(two["sem_seg"], predictor(other)["sem_seg"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one["sem_seg"], two["sem_seg"])
    assert [r["sem_seg"].shape[1:] for r in predictor.batch(iter([photo, photo[:30]]))] == [(50, 81), (30, 81)]
    assert predictor.batch([]) == []


def test_threads_get_their_own_results(cfg):
    predictor = Predictor(cfg, device="cpu")
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (40 + 9 * k, 60 - 5 * k, 3), dtype=np.uint8) for k in range(4)] * 2
    expected = [predictor(image) for image in images]
    inside, most = 0, 0

    def count(module, inputs):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)

    def leave(module, inputs, outputs):
        nonlocal inside
        inside -= 1

    predictor.model.register_forward_pre_hook(count)
    predictor.model.register_forward_hook(leave)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(predictor, images))
    assert all(same(result, wanted) for result, wanted in zip(results, expected, strict=True))
    assert most == 1


def test_mask_rcnn(photo, tmp_path):
    cfg = load_config(str(MASK_RCNN), [*SMALLER_MASK_RCNN, "MODEL.DEVICE", "cpu"])
    weights = build_model(cfg).state_dict()
    path = tmp_path / "weights.pth"
    torch.save({"model": weights}, path)
    predictor = Predictor(cfg, path, device="cpu", opts=["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0])
    instances = predictor(photo)["instances"]
    assert instances.image_size == (50, 81) and instances.pred_masks.shape[1:] == (50, 81)
    assert predictor.metadata.thing_classes == ["coin"]
    assert predictor.metadata.stuff_classes == ["coin", "background"]
    key = "roi_heads.mask_head.predictor.weight"
    torch.save({"model": weights | {key: torch.zeros(7, 16, 1, 1)}}, path)
    with pytest.raises(ValueError, match=f"would stay random .*{key}"):
        Predictor(cfg, path, device="cpu")


@pytest.fixture
def register():
    """Metadata under a name, for the time of a test."""
    names = []

    def add(name, **fields):
        names.append(name)
        MetadataCatalog.get(name).set(**fields)

    yield add
    for name in names:
        MetadataCatalog.remove(name)


def test_metadata_of_the_test_set_completed(tiny_cfg, register, caplog):
    register("names_of_things", thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={7: 0, 9: 1})
    register("names_of_all", stuff_classes=["chat", "chien", "ciel"], thing_classes=["chat", "chien"])
    tiny_cfg.DATASETS.TEST = ("names_of_all",)
    tiny_cfg.DATASETS.TRAIN = ("names_of_things",)
    metadata = class_metadata(tiny_cfg)
    assert metadata.thing_classes == metadata.stuff_classes == ["chat", "chien", "ciel"]
    assert MetadataCatalog.get("names_of_all").thing_classes == ["chat", "chien"]
    assert not caplog.records
    register("no_names", thing_dataset_id_to_contiguous_id={5: 0})
    tiny_cfg.DATASETS.TEST = ("no_such_names", "no_names")
    metadata = class_metadata(tiny_cfg)
    assert metadata.stuff_classes == ["cat", "dog", "class 2"]
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 9: 1}
    assert "only 2 of the model's 3 classes have names" in caplog.text
    assert "no_such_names" not in MetadataCatalog.list()
    tiny_cfg.DATASETS.TRAIN = ()
    metadata = class_metadata(tiny_cfg)
    assert metadata.thing_classes == ["class 0", "class 1", "class 2"]
    assert metadata.thing_dataset_id_to_contiguous_id == {5: 0}


@pytest.mark.parametrize(
    ("dataset", "num_classes", "label", "name", "coloured"),
    [
        ("ade20k_panoptic_val", 150, 149, "flag", True),
        ("ade20k_instance_val", 100, 99, "flag", False),
        ("coco_2017_val_panoptic", 133, 132, "rug-merged", True),
        ("coco_2017_val_panoptic_with_sem_seg", 133, 132, "rug-merged", True),
        ("coco_2017_val", 80, 79, "toothbrush", True),
        ("cityscapes_fine_panoptic_val", 19, 18, "bicycle", True),
        ("cityscapes_fine_instance_seg_val", 8, 7, "bicycle", False),
        ("cityscapes_fine_sem_seg_val", 19, 18, "bicycle", False),
    ],
)
def test_names_and_colours_go_by_the_models_labels(tiny_cfg, dataset, num_classes, label, name, coloured, caplog):
    tiny_cfg.DATASETS.TEST = (dataset,)
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    metadata = class_metadata(tiny_cfg)
    assert metadata.thing_classes == metadata.stuff_classes
    assert len(metadata.stuff_classes) == num_classes and metadata.stuff_classes[label] == name
    for key in ("thing_colors", "stuff_colors"):
        assert len(metadata.get(key, ())) == (num_classes if coloured else 0)
    assert not caplog.records
    assert Visualizer(np.zeros((8, 8, 3), np.uint8), metadata).draw_panoptic_seg(
        torch.ones(8, 8, dtype=torch.int32), [{"id": 1, "category_id": label, "isthing": True}]
    )


def test_colours_of_other_labels_are_left_out(tiny_cfg, register):
    """As where the model of the instances runs on a data set of all classes."""
    names = {"thing_classes": ["car", "bus"], "stuff_classes": ["road", "car", "bus"]}
    register("streets", **names, stuff_colors=[[128, 64, 128], [0, 0, 142], [0, 60, 100]])
    tiny_cfg.DATASETS.TEST = ("streets",)
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    metadata = class_metadata(tiny_cfg)
    assert metadata.stuff_classes == ["car", "bus"] and metadata.get("stuff_colors") is None


def test_models_with_labels_of_their_own_for_stuff_keep_its_names(caplog):
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"))
    metadata = class_metadata(cfg)
    assert (metadata.thing_classes[0], len(metadata.thing_classes)) == ("person", 80)
    assert (metadata.stuff_classes[1], len(metadata.stuff_classes)) == ("banner", 54)
    assert not caplog.records


def test_unknown_data_sets_make_all_classes_things_by_number(cfg, photo, caplog):
    cfg.DATASETS.TRAIN = ("never_registered",)
    with caplog.at_level(logging.WARNING):
        predictor = Predictor(cfg, device="cpu")
    assert "never_registered: only 0 of the model's 3 classes" in caplog.text
    assert predictor.metadata.thing_classes == ["class 0", "class 1", "class 2"]
    _, segments = predictor(photo)["panoptic_seg"]
    assert segments and all(segment["isthing"] for segment in segments)
