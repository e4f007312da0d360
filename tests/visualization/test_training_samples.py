"""What samples say of the mapper's work, on one image that the augmentations only pad."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask2former_ext.data import build_training_loader
from mask2former_ext.visualization.training_samples import SampleReader

PANOPTIC_MAPPERS = ["mask_former_panoptic", "coco_panoptic_lsj"]
INSTANCE_MAPPERS = ["mask_former_instance", "coco_instance_lsj"]


def only_sample(cfg, split="train"):
    (sample,) = SampleReader(cfg, split).samples(1)
    return sample


def padded(mask):
    """24×32 to 32×32."""
    return np.pad(mask, ((0, 8), (0, 0)))


def by_label(segments):
    assert len({segment.label for segment in segments}) == len(segments)
    return {segment.label: segment for segment in segments}


@pytest.mark.parametrize("mapper", [*PANOPTIC_MAPPERS, *INSTANCE_MAPPERS, "mask_former_semantic"])
def test_image_before_and_after_and_its_padding(mapper, sample_cfg, dataset):
    sample = only_sample(sample_cfg(mapper))
    (record,) = DatasetCatalog.get(dataset)
    photo = np.asarray(Image.open(record["file_name"]))
    assert sample.file_name == record["file_name"]
    assert (sample.before == photo).all()
    assert (sample.image[:24] == photo).all() and (sample.image[24:] == 128).all()
    assert (sample.padding == padded(np.zeros((24, 32), dtype=bool)) + (np.arange(32) >= 24)[:, None]).all()


@pytest.mark.parametrize("mapper", ["mask_former_panoptic", "coco_instance_lsj"])
def test_pictures_are_rgb_whatever_the_format(mapper, sample_cfg):
    rgb, bgr = (only_sample(sample_cfg(mapper, "INPUT.FORMAT", name)) for name in ("RGB", "BGR"))
    assert (rgb.image == bgr.image).all() and (rgb.before == bgr.before).all()
    assert (rgb.image[:24, :, 2] == 200).all()


@pytest.mark.parametrize("mapper", PANOPTIC_MAPPERS)
def test_panoptic_targets_crowds_and_void(mapper, sample_cfg, segment_ids):
    sample = only_sample(sample_cfg(mapper))
    targets = by_label(sample.targets)
    assert targets.keys() == {"cat", "sky"}
    assert (targets["cat"].mask == padded(segment_ids == 5)).all() and targets["cat"].is_thing
    assert (targets["sky"].mask == padded(segment_ids == 70000)).all() and not targets["sky"].is_thing
    (crowd,) = sample.crowds
    assert crowd.label == "dog" and (crowd.mask == padded(segment_ids == 300)).all()
    assert (sample.void == padded(segment_ids == 0)).all()


@pytest.mark.parametrize("mapper", INSTANCE_MAPPERS)
def test_instance_targets_leave_background(mapper, sample_cfg, segment_ids):
    sample = only_sample(sample_cfg(mapper, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2))
    (cat,) = sample.targets
    assert cat.label == "cat" and cat.is_thing and (cat.mask == padded(segment_ids == 5)).all()
    (crowd,) = sample.crowds
    assert crowd.label == "dog" and (crowd.mask == padded(segment_ids == 300)).all()
    assert sample.void is None and sample.semantic is None and sample.ignored is None


def test_instances_have_the_names_of_things(sample_cfg, dataset):
    """Stuff may have labels of its own, of which there may be as many."""
    metadata = MetadataCatalog.get(dataset)
    del metadata.stuff_classes
    metadata.stuff_classes = ["things", "sky"]
    sample = only_sample(sample_cfg("mask_former_instance", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2))
    assert [segment.label for segment in [*sample.targets, *sample.crowds]] == ["cat", "dog"]


def test_semantic_targets_are_one_a_class(sample_cfg, segment_ids):
    sample = only_sample(sample_cfg("mask_former_semantic"))
    targets = by_label(sample.targets)
    assert targets.keys() == {"cat", "dog", "sky"}
    assert not any(target.is_thing for target in targets.values())
    assert sample.crowds == [] and (sample.void == padded(segment_ids == 0)).all()


@pytest.mark.parametrize("mapper", ["mask_former_panoptic", "mask_former_semantic"])
def test_semantic_map_without_its_padding(mapper, sample_cfg, segment_ids):
    sample = only_sample(sample_cfg(mapper))
    semantic = by_label(sample.semantic)
    for label, segment_id in (("cat", 5), ("dog", 300), ("sky", 70000)):
        assert (semantic[label].mask == padded(segment_ids == segment_id)).all()
    assert (sample.ignored == padded(segment_ids == 0)).all()


def test_everything_moves_with_the_augmentations(sample_cfg, segment_ids):
    """Twice as large, of which a corner is left, flipped: what lies where is read from the image itself."""
    cfg = sample_cfg("mask_former_panoptic", "INPUT.RANDOM_FLIP", "horizontal", "INPUT.MIN_SIZE_TRAIN", (48,))
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", (40, 30)
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    for sample in SampleReader(cfg).samples(4, seed=3):
        assert sample.image.shape == (64, 32, 3)
        inside = ~sample.padding
        assert inside.sum() == 40 * 30
        # the photograph's red and green are 7 times the column and 10 times the row
        rows = (sample.image[..., 1][inside] / 10).round().clip(0, 23).astype(int)
        columns = (sample.image[..., 0][inside] / 7).round().clip(0, 31).astype(int)
        ids = segment_ids[rows, columns]
        regions = {5: "cat", 70000: "sky"}
        for target in sample.targets:
            (segment_id,) = (key for key, name in regions.items() if name == target.label)
            assert (target.mask[inside] == (ids == segment_id)).mean() > 0.9
        assert (sample.void[inside] == (ids == 0)).mean() > 0.9
        crowd = np.logical_or.reduce([np.zeros_like(inside), *(crowd.mask for crowd in sample.crowds)])
        assert (crowd[inside] == (ids == 300)).mean() > 0.9


def test_samples_are_seeded_and_do_not_depend_on_the_count(sample_cfg):
    cfg = sample_cfg("coco_panoptic_lsj", "INPUT.MIN_SCALE", 0.3, "INPUT.MAX_SCALE", 2.0)
    three = [sample.image for sample in SampleReader(cfg).samples(3, seed=5)]
    again = [sample.image for sample in SampleReader(cfg).samples(2, seed=5)]
    other = [sample.image for sample in SampleReader(cfg).samples(2, seed=7)]
    assert all((a == b).all() for a, b in zip(three, again, strict=False))
    assert (three[0] != three[1]).any() and (three[0] != other[0]).any()


def test_samples_are_those_of_training_with_that_seed(sample_cfg):
    cfg = sample_cfg("coco_panoptic_lsj", "INPUT.MIN_SCALE", 0.3, "INPUT.MAX_SCALE", 2.0, "SEED", 5)
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 3, 0
    batch = next(iter(build_training_loader(cfg)))
    state = np.random.get_state()[1].copy()
    for sample, mapped in zip(SampleReader(cfg).samples(3, seed=5), batch, strict=True):
        assert (sample.image == mapped["image"].permute(1, 2, 0).numpy()).all()
        masks = [target.mask for target in sample.targets]
        assert (np.array(masks) == mapped["instances"].gt_masks.tensor.numpy()).all()
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_mask_rcnn_has_the_mapper_of_detectron2(mask_format, sample_cfg, segment_ids):
    cfg = sample_cfg("mask_former_instance")
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "GeneralizedRCNN", True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.INPUT.MASK_FORMAT = mask_format
    sample = only_sample(cfg)
    (cat,) = sample.targets
    assert cat.label == "cat" and (cat.mask == (segment_ids == 5)).all()
    (crowd,) = sample.crowds
    assert crowd.label == "dog" and (crowd.mask == (segment_ids == 300)).all()
    assert not sample.padding.any() and sample.void is None
    assert (sample.ignored == (segment_ids == 0)).all()  # the dict has a label image too


@pytest.mark.parametrize("mapper", INSTANCE_MAPPERS)
def test_a_crowd_of_a_class_that_the_model_lacks_is_shown_all_the_same(mapper, sample_cfg):
    (crowd,) = only_sample(sample_cfg(mapper, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 1)).crowds
    assert crowd.label == "class 1"


def test_labels_that_the_mapper_of_detectron2_lets_pass_are_said(sample_cfg, dataset):
    DatasetCatalog.get(dataset)[0]["annotations"][0]["category_id"] = 1
    cfg = sample_cfg("mask_former_instance")
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "GeneralizedRCNN", 1
    with pytest.raises(ValueError, match=r"photo\.png.*: label 1 does not fit MODEL\.ROI_HEADS\.NUM_CLASSES = 1"):
        only_sample(cfg)


def test_objects_without_masks_are_shown_as_boxes(sample_cfg, segment_ids):
    cfg = sample_cfg("mask_former_instance")
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    (cat,) = only_sample(cfg).targets
    assert (cat.mask == (segment_ids == 5)).all()


def test_evaluation_has_no_targets(sample_cfg):
    sample = only_sample(sample_cfg("coco_instance_lsj"), split="test")
    assert sample.targets is None and sample.crowds == [] and sample.void is None
    assert sample.image.shape == (24, 32, 3) and not sample.padding.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("DATASETS.TRAIN", ()), "DATASETS.TRAIN is empty"),
        (("DATASETS.TRAIN", ("nobody",)), "DATASETS.TRAIN: Dataset 'nobody' is not registered"),
        (("INPUT.DATASET_MAPPER_NAME", "nothing"), "INPUT.DATASET_MAPPER_NAME is 'nothing'; known are"),
    ],
)
def test_mistakes_are_said(options, message, sample_cfg):
    with pytest.raises(ValueError, match=message):
        SampleReader(sample_cfg("coco_instance_lsj", *options))
