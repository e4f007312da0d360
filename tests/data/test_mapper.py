"""Each mapper on hand-made annotations, pixel by pixel."""

import copy

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.structures import Boxes

from mask2former_ext.data import DATASET_MAPPERS, MaskFormerDatasetMapper, build_dataset_mapper
from mask2former_ext.structures import PackedBitMasks

INSTANCE_MAPPERS = ["mask_former_instance", "coco_instance_lsj"]
PANOPTIC_MAPPERS = ["mask_former_panoptic", "coco_panoptic_lsj"]


def id_to_rgb(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)


def rectangle(top, left, bottom, right, shape=(6, 8)):
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def padded(mask, shape):
    return np.pad(mask, [(0, shape[0] - mask.shape[0]), (0, shape[1] - mask.shape[1])])


def polygon(top, left, bottom, right):
    return [[left, top, right, top, right, bottom, left, bottom]]


def compressed(mask):
    return coco_mask.encode(np.asfortranarray(mask))


def as_text(rle):
    return rle | {"counts": rle["counts"].decode()}


def uncompressed(mask):
    """Counts along columns, starting with zeros."""
    column_major = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(column_major)) + 1
    runs = np.diff(np.concatenate([[0], edges, [column_major.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if column_major[0] else runs}


FORMS = {
    "polygon": polygon,
    "compressed RLE, bytes": lambda *box: compressed(rectangle(*box)),
    "compressed RLE, str": lambda *box: as_text(compressed(rectangle(*box))),
    "uncompressed RLE": lambda *box: uncompressed(rectangle(*box)),
    "bitmap, bool": lambda *box: rectangle(*box),
    "bitmap, uint8 0 and 255": lambda *box: rectangle(*box).astype(np.uint8) * 255,
}


def check_types(output, size):
    instances = output["instances"]
    count = len(instances)
    assert instances.image_size == size
    assert instances.gt_classes.dtype == torch.int64 and instances.gt_classes.shape == (count,)
    assert isinstance(instances.gt_masks, PackedBitMasks) and instances.gt_masks.shape == (count, *size)
    assert isinstance(instances.gt_boxes, Boxes) and instances.gt_boxes.tensor.dtype == torch.float32
    assert instances.gt_boxes.tensor.shape == (count, 4)
    assert output["image"].dtype == torch.uint8 and output["image"].shape == (3, *size)
    assert output["image"].is_contiguous()


def size_of(mapper):
    return (8, 8) if mapper.endswith("lsj") else (6, 8)


@pytest.mark.parametrize("mapper", INSTANCE_MAPPERS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_instance_annotation_gives_its_exact_mask(mapper, form, mapper_cfg, record, image):
    box = (1, 2, 4, 7)
    record["annotations"] = [{"category_id": 3, "segmentation": FORMS[form](*box), "bbox": [0, 0, 1, 1]}]
    output = build_dataset_mapper(mapper_cfg(mapper))(record)

    size = size_of(mapper)
    check_types(output, size)
    np.testing.assert_array_equal(output["instances"].gt_masks.tensor[0].numpy(), padded(rectangle(*box), size))
    assert output["instances"].gt_classes.tolist() == [3]
    assert output["instances"].gt_boxes.tensor.tolist() == [[2, 1, 7, 4]]  # of the mask, not the annotation's
    np.testing.assert_array_equal(output["image"].numpy()[:, :6], image.transpose(2, 0, 1))
    assert (output["image"][:, 6:] == 128).all()


@pytest.mark.parametrize("mapper", INSTANCE_MAPPERS)
def test_forms_may_be_mixed_and_crowds_are_dropped(mapper, mapper_cfg, record):
    boxes = [(0, k, 2, k + 2) for k in range(len(FORMS))]
    record["annotations"] = [
        {"category_id": k % 4, "segmentation": form(*box), "iscrowd": 0}
        for k, (form, box) in enumerate(zip(FORMS.values(), boxes, strict=True))
    ]
    record["annotations"].insert(2, {"category_id": 0, "segmentation": compressed(rectangle(0, 0, 6, 8)), "iscrowd": 1})
    output = build_dataset_mapper(mapper_cfg(mapper))(record)

    size = size_of(mapper)
    check_types(output, size)
    assert output["instances"].gt_classes.tolist() == [0, 1, 2, 3, 0, 1]
    for mask, box in zip(output["instances"].gt_masks.tensor.numpy(), boxes, strict=True):
        np.testing.assert_array_equal(mask, padded(rectangle(*box), size))


def test_several_polygons_are_one_object(mapper_cfg, record):
    segmentation = polygon(0, 0, 2, 2) + polygon(3, 4, 6, 8)
    record["annotations"] = [{"category_id": 0, "segmentation": segmentation}]
    masks = build_dataset_mapper(mapper_cfg("mask_former_instance"))(record)["instances"].gt_masks.tensor.numpy()
    np.testing.assert_array_equal(masks, [rectangle(0, 0, 2, 2) | rectangle(3, 4, 6, 8)])


@pytest.mark.parametrize("mapper", INSTANCE_MAPPERS)
@pytest.mark.parametrize("annotations", [[], [{"category_id": 0, "segmentation": polygon(0, 0, 3, 3), "iscrowd": 1}]])
def test_an_image_without_objects_is_no_error(mapper, annotations, mapper_cfg, record):
    record["annotations"] = annotations
    output = build_dataset_mapper(mapper_cfg(mapper))(record)
    check_types(output, size_of(mapper))
    assert len(output["instances"]) == 0


@pytest.mark.parametrize("form", ["polygon", "bitmap, bool", "compressed RLE, bytes"])
def test_objects_outside_the_crop_are_dropped_and_others_cut(form, mapper_cfg, record):
    # A crop of 4×4 may have the first or the last column of the image, or neither.
    record["annotations"] = [
        {"category_id": 0, "segmentation": FORMS[form](0, 0, 6, 1)},
        {"category_id": 1, "segmentation": FORMS[form](0, 7, 6, 8)},
        {"category_id": 2, "segmentation": FORMS[form](0, 0, 6, 8)},
    ]
    cfg = mapper_cfg(
        "mask_former_instance",
        *("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [4, 4]),
    )
    mapper = build_dataset_mapper(cfg)
    seen = set()
    for _ in range(30):
        output = mapper(record)
        check_types(output, (4, 4))
        classes = output["instances"].gt_classes.tolist()
        assert classes in ([2], [0, 2], [1, 2])
        assert output["instances"].gt_masks.tensor[-1].all()
        seen.add(tuple(classes))
    assert seen == {(2,), (0, 2), (1, 2)}


@pytest.fixture
def panoptic_record(record, png):
    """Two things (classes 0 and 1), a crowd (0), stuff (3) and void."""
    ids = np.zeros((6, 8), dtype=np.int64)
    ids[0:2, 0:3] = 10
    ids[2:4, 0:3] = 300
    ids[0:4, 4:6] = 70000
    ids[4:6, :] = 16777214
    segments = [
        {"id": 300, "category_id": 1, "iscrowd": 0, "isthing": True},
        {"id": 10, "category_id": 0, "iscrowd": 0, "isthing": True},
        {"id": 16777214, "category_id": 3, "isthing": False},
        {"id": 70000, "category_id": 0, "iscrowd": 1, "isthing": True},
    ]
    return record | {"pan_seg_file_name": png("panoptic.png", id_to_rgb(ids)), "segments_info": segments}


@pytest.mark.parametrize("mapper", PANOPTIC_MAPPERS)
def test_panoptic_segments_become_masks_and_crowds_do_not(mapper, mapper_cfg, panoptic_record):
    output = build_dataset_mapper(mapper_cfg(mapper))(panoptic_record)
    size = size_of(mapper)
    check_types(output, size)
    assert output["instances"].gt_classes.tolist() == [1, 0, 3]
    expected = [rectangle(2, 0, 4, 3), rectangle(0, 0, 2, 3), rectangle(4, 0, 6, 8)]
    np.testing.assert_array_equal(
        output["instances"].gt_masks.tensor.numpy(), [padded(mask, size) for mask in expected]
    )
    assert output["instances"].gt_boxes.tensor.tolist() == [[0, 2, 3, 4], [0, 0, 3, 2], [0, 4, 8, 6]]


def test_panoptic_sem_seg_has_the_category_of_crowds_and_ignores_void(mapper_cfg, panoptic_record):
    sem_seg = build_dataset_mapper(mapper_cfg("mask_former_panoptic"))(panoptic_record)["sem_seg"]
    expected = np.full((6, 8), 255)
    expected[0:2, 0:3] = 0
    expected[2:4, 0:3] = 1
    expected[0:4, 4:6] = 0
    expected[4:6] = 3
    assert sem_seg.dtype == torch.int64
    np.testing.assert_array_equal(sem_seg.numpy(), expected)


@pytest.mark.parametrize("mapper", PANOPTIC_MAPPERS)
def test_panoptic_void_only_and_crowd_only_images_have_no_objects(mapper, mapper_cfg, record, png):
    mapper = build_dataset_mapper(mapper_cfg(mapper))
    void = record | {"pan_seg_file_name": png("void.png", np.zeros((6, 8, 3), np.uint8)), "segments_info": []}
    crowd = record | {
        "pan_seg_file_name": png("crowd.png", np.full((6, 8, 3), 9, np.uint8)),
        "segments_info": [{"id": 9 * (1 + 256 + 65536), "category_id": 2, "iscrowd": 1}],
    }
    for dataset_dict in (void, crowd):
        output = mapper(dataset_dict)
        check_types(output, output["instances"].image_size)
        assert len(output["instances"]) == 0


def test_more_segments_than_a_byte_counts(mapper_cfg, record, png):
    cfg = mapper_cfg("coco_panoptic_lsj", "INPUT.IMAGE_SIZE", 32)
    ids = np.arange(1, 20 * 20 + 1).reshape(20, 20)
    record |= {
        "file_name": png("large.png", np.zeros((20, 20, 3), np.uint8)),
        "height": 20,
        "width": 20,
        "pan_seg_file_name": png("many.png", id_to_rgb(ids)),
        "segments_info": [{"id": k, "category_id": k % 4} for k in range(1, 401)],
    }
    instances = build_dataset_mapper(cfg)(record)["instances"]  # 20×20 becomes 32×32
    assert len(instances) == 400
    masks = instances.gt_masks.tensor
    assert masks.sum(0).eq(1).all()
    pixel = masks[:, 31, 31].nonzero().item()
    assert pixel == 399 and instances.gt_classes[pixel] == 0


def test_semantic_classes_become_masks(mapper_cfg, record, png):
    labels = np.full((6, 8), 255, dtype=np.uint8)
    labels[0:2] = 3
    labels[2:4, 0:4] = 0
    labels[5, 7] = 3
    record["sem_seg_file_name"] = png("labels.png", labels)
    output = build_dataset_mapper(mapper_cfg("mask_former_semantic"))(record)
    check_types(output, (6, 8))
    assert output["instances"].gt_classes.tolist() == [0, 3]
    np.testing.assert_array_equal(output["instances"].gt_masks.tensor.numpy(), [labels == 0, labels == 3])
    np.testing.assert_array_equal(output["sem_seg"].numpy(), labels)
    assert output["sem_seg"].dtype == torch.int64


def test_semantic_with_everything_ignored(mapper_cfg, record, png):
    record["sem_seg_file_name"] = png("labels.png", np.full((6, 8), 255, dtype=np.uint8))
    output = build_dataset_mapper(mapper_cfg("mask_former_semantic"))(record)
    check_types(output, (6, 8))
    assert len(output["instances"]) == 0


def test_semantic_labels_of_two_bytes(mapper_cfg, record, png):
    labels = np.full((6, 8), 255, dtype=np.uint16)
    labels[:3, :2] = 846
    labels[3:, :2] = 590  # 846 = 590 + 256: both bytes must survive
    record["sem_seg_file_name"] = png("labels.png", labels)
    cfg = mapper_cfg("mask_former_semantic", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 847, "INPUT.MIN_SIZE_TRAIN", (12,))
    output = build_dataset_mapper(cfg)(record)
    check_types(output, (12, 16))
    assert output["instances"].gt_classes.tolist() == [590, 846]
    np.testing.assert_array_equal(output["sem_seg"].numpy(), labels.repeat(2, 0).repeat(2, 1))


def test_fixed_size_pads_with_no_object(mapper_cfg, record, panoptic_record, png):
    size = ("INPUT.SIZE_DIVISIBILITY", 10)
    labels = np.zeros((6, 8), dtype=np.uint8)
    record |= {"annotations": [{"category_id": 2, "segmentation": rectangle(0, 0, 6, 8)}]}
    record |= {"sem_seg_file_name": png("labels.png", labels)}

    semantic = build_dataset_mapper(mapper_cfg("mask_former_semantic", *size))(record)
    instance = build_dataset_mapper(mapper_cfg("mask_former_instance", *size))(record)
    panoptic = build_dataset_mapper(mapper_cfg("mask_former_panoptic", *size))(panoptic_record)
    for output in (semantic, instance, panoptic):
        check_types(output, (10, 10))
        assert (output["image"][:, 6:] == 128).all() and (output["image"][:, :, 8:] == 128).all()
        masks = output["instances"].gt_masks.tensor
        assert not masks[:, 6:].any() and not masks[:, :, 8:].any()
    for output in (semantic, panoptic):
        assert (output["sem_seg"][6:] == 255).all() and (output["sem_seg"][:, 8:] == 255).all()
    assert semantic["instances"].gt_masks.area().sum() == instance["instances"].gt_masks.area().sum() == 48


def test_an_image_larger_than_the_fixed_size_is_not_cut(mapper_cfg, record, png):
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[5, 7] = 1
    record["sem_seg_file_name"] = png("labels.png", labels)
    cfg = mapper_cfg("mask_former_semantic", "INPUT.SIZE_DIVISIBILITY", 5)
    output = build_dataset_mapper(cfg)(record)
    check_types(output, (10, 10))
    np.testing.assert_array_equal(output["sem_seg"][:6, :8].numpy(), labels)


@pytest.mark.parametrize("name", DATASET_MAPPERS)
@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
def test_flips_move_image_and_targets_together(name, flip, mapper_cfg, record, panoptic_record, png, image):
    record |= panoptic_record | {
        "annotations": [{"category_id": 0, "segmentation": polygon(0, 0, 2, 3)}],
        "sem_seg_file_name": png("labels.png", np.where(rectangle(0, 0, 2, 3), 0, 255).astype(np.uint8)),
    }
    mapper = build_dataset_mapper(mapper_cfg(name, "INPUT.RANDOM_FLIP", flip))
    turn = {"none": lambda x: x, "horizontal": lambda x: x[:, ::-1], "vertical": lambda x: x[::-1]}[flip]
    seen = set()
    for _ in range(12):
        output = mapper(record)
        flipped = not np.array_equal(output["image"][:, :6].numpy().transpose(1, 2, 0), image)
        seen.add(flipped)
        arrange = turn if flipped else (lambda x: x)
        np.testing.assert_array_equal(output["image"][:, :6].numpy().transpose(1, 2, 0), arrange(image))
        mask = output["instances"].gt_masks[output["instances"].gt_classes == 0].tensor[0, :6].numpy()
        np.testing.assert_array_equal(mask, arrange(rectangle(0, 0, 2, 3)))
    assert seen == ({False} if flip == "none" else {False, True})


@pytest.mark.parametrize("name", DATASET_MAPPERS)
def test_the_dataset_dict_stays_as_it_is_and_sources_are_not_passed_on(name, mapper_cfg, record, panoptic_record, png):
    record |= panoptic_record | {
        "annotations": [
            {"category_id": 0, "segmentation": polygon(0, 0, 2, 3), "bbox": [0, 0, 3, 2]},
            {"category_id": 1, "segmentation": rectangle(1, 1, 3, 3)},
            {"category_id": 1, "segmentation": [np.array(polygon(1, 1, 3, 3)[0], dtype=np.float64)]},
        ],
        "sem_seg_file_name": png("labels.png", np.zeros((6, 8), np.uint8)),
    }
    del record["height"], record["width"]
    before = copy.deepcopy(record)
    options = ("INPUT.RANDOM_FLIP", "horizontal", "INPUT.MIN_SCALE", 0.5)
    output = build_dataset_mapper(mapper_cfg(name, *options))(record)

    assert record.keys() == before.keys()
    assert record["segments_info"] == before["segments_info"]
    assert record["annotations"][0] == before["annotations"][0]
    for k in (1, 2):
        now, then = (annotated["annotations"][k]["segmentation"] for annotated in (record, before))
        np.testing.assert_array_equal(now, then)
    assert not output.keys() & set(DATASET_MAPPERS[name].targets.SOURCE_KEYS)
    assert (output["height"], output["width"], output["image_id"]) == (6, 8, 7)
    assert output["file_name"] == record["file_name"]


@pytest.mark.parametrize("name", DATASET_MAPPERS)
def test_the_same_seed_gives_the_same_output(name, mapper_cfg, record, panoptic_record, png):
    record |= panoptic_record | {
        "annotations": [{"category_id": 0, "segmentation": polygon(0, 0, 4, 6)}],
        "sem_seg_file_name": png("labels.png", rectangle(0, 0, 3, 5).astype(np.uint8)),
    }
    options = ("INPUT.RANDOM_FLIP", "horizontal", "INPUT.MIN_SCALE", 0.5, "INPUT.MAX_SCALE", 2.0)
    mapper = build_dataset_mapper(mapper_cfg(name, *options, "INPUT.MIN_SIZE_TRAIN", (6, 8, 10, 12)))
    outputs = []
    for _ in range(2):
        np.random.seed(3)
        outputs.append([mapper(record) for _ in range(5)])
    for first, second in zip(*outputs, strict=True):
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["instances"].gt_masks.bits, second["instances"].gt_masks.bits)
    assert any(not torch.equal(outputs[0][0]["image"], other["image"]) for other in outputs[0][1:])


def test_grey_images_in_the_format_of_the_config(mapper_cfg, record):
    record["annotations"] = []
    output = build_dataset_mapper(mapper_cfg("mask_former_instance", "INPUT.FORMAT", "L"))(record)
    assert output["image"].shape == (1, 6, 8)
    output["image"] += 1  # owns its memory


def test_names_and_evaluation(mapper_cfg, caplog):
    assert set(DATASET_MAPPERS) == {
        *("mask_former_semantic", "mask_former_panoptic", "mask_former_instance"),
        *("coco_instance_lsj", "coco_panoptic_lsj"),
    }
    for name in DATASET_MAPPERS:
        assert isinstance(build_dataset_mapper(mapper_cfg(name)), MaskFormerDatasetMapper)
        evaluation = build_dataset_mapper(mapper_cfg(name), is_train=False)
        assert isinstance(evaluation, DatasetMapper) and not evaluation.is_train
    other = build_dataset_mapper(mapper_cfg("of_another_project"))
    assert isinstance(other, DatasetMapper) and other.is_train
    assert "of_another_project" in caplog.text
