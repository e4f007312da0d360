"""Whatever a dataset dict holds, it is mapped right, or refused by ValueError that names its image: nothing else."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from detectron2.data import MetadataCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.data import build_dataset_mapper
from mask2former_ext.data.masks import decode_segmentation
from mask2former_ext.data.reading import id_to_rgb

HEIGHT, WIDTH = 6, 8
INSTANCES = ["mask_former_instance", "coco_instance_lsj"]
PANOPTIC = ["mask_former_panoptic", "coco_panoptic_lsj"]
FEW = settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.floats(-4, 12),
    st.sampled_from([float("nan"), float("inf"), 1e300, -1e9, 2**40, None, "a", True]),
)
POLYGON = st.one_of(
    st.lists(st.floats(-4, 12), min_size=6, max_size=12).filter(lambda numbers: len(numbers) % 2 == 0),
    st.lists(NUMBERS, max_size=12),
)
CODE = st.fixed_dictionaries(
    {},
    optional={
        "size": st.sampled_from([[6, 8], (6, 8), [8, 6], [6], [6, 8, 1], [-6, -8], "6", None, ["6", "8"], [6.0, 8.0]]),
        "counts": st.one_of(
            st.lists(st.integers(-50, 60), max_size=5),
            st.lists(st.integers(0, 48), min_size=1, max_size=5).map(lambda runs: [*runs, 48 - sum(runs)]),
            st.lists(st.sampled_from([2**31, 2**62, 2**63, 2**64 + 48, 48]), max_size=5),
            st.sampled_from([None, 48, 4.5, [None], ["a"], [1.5, 46.5], [[48]]]),
            st.text(max_size=6),
            st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=8),
            st.binary(max_size=6),
        ),
    },
)
SEGMENTATION = st.one_of(
    st.lists(POLYGON, max_size=3),
    CODE,
    st.sampled_from(["a", 5, None, np.ones((6, 8), bool), np.ones((8, 6), np.uint8), np.ones((6, 8)), [5], [None]]),
)
ANNOTATION = st.fixed_dictionaries(
    {},
    optional={
        "category_id": st.one_of(st.integers(-1, 4), st.sampled_from([0, 1, None, "a", 1.5, float("nan")])),
        "segmentation": SEGMENTATION,
        "iscrowd": st.integers(0, 1),
        "bbox": st.sampled_from([[0, 0, 1, 1], [float("nan")] * 4, [3, 3, -1, -1], [], "box"]),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("properties")
    Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)).save(folder / "image.png")
    return folder


@pytest.fixture(scope="module")
def mappers():
    """With the random parts of each recipe on."""
    MetadataCatalog.get("for_properties").set(ignore_label=255)
    cfg = get_cfg_defaults()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.DATASETS.TRAIN = ("for_properties",)
    sizes = ["INPUT.MIN_SIZE_TRAIN", (4, 6, 13), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice", "INPUT.IMAGE_SIZE", 16]
    crop = ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", (5, 5)]
    cfg.merge_from_list([*sizes, *crop, "INPUT.SIZE_DIVISIBILITY", 8])

    def make(name):
        cfg.INPUT.DATASET_MAPPER_NAME = name
        return build_dataset_mapper(cfg)

    return {name: make(name) for name in (*INSTANCES, *PANOPTIC, "mask_former_semantic")}


def map_or_refuse(mapper, record):
    """What the mapper makes of the record, after checks of what always holds; None if it refused."""
    try:
        output = mapper(record)
    except ValueError as error:
        assert record["file_name"] in str(error) and "image_id 7" in str(error)
        return None
    instances = output["instances"]
    size = tuple(output["image"].shape[1:])
    assert instances.image_size == size and instances.gt_masks.shape == (len(instances), *size)
    assert instances.gt_masks.nonempty().all() and instances.gt_boxes.tensor.isfinite().all()
    assert ((instances.gt_classes >= 0) & (instances.gt_classes < 4)).all()
    return output


@pytest.mark.parametrize("name", INSTANCES)
@FEW
@given(annotations=st.lists(ANNOTATION, max_size=3))
def test_instances(name, annotations, mappers, folder):
    map_or_refuse(mappers[name], {"file_name": str(folder / "image.png"), "image_id": 7, "annotations": annotations})


@pytest.mark.parametrize("name", INSTANCES)
@FEW
@given(polygons=st.lists(st.lists(st.floats(-80, 80), min_size=6, max_size=6), min_size=1, max_size=4))
def test_polygons_that_reach_outside_are_mapped(name, polygons, mappers, folder):
    annotations = [{"category_id": 1, "segmentation": polygons}]
    record = {"file_name": str(folder / "image.png"), "image_id": 7, "annotations": annotations}
    assert map_or_refuse(mappers[name], record) is not None


@FEW
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 40), width=st.integers(1, 40), share=st.floats(0, 1))
def test_run_length_codes_of_all_masks_are_decoded(seed, height, width, share):
    mask = np.asfortranarray(np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    code = coco_mask.encode(mask)
    runs = np.diff(np.flatnonzero(np.diff(mask.T.reshape(-1), prepend=0, append=2)), prepend=0)
    forms = [code, code | {"counts": code["counts"].decode()}, {"size": [height, width], "counts": runs.tolist()}]
    for form in forms:
        np.testing.assert_array_equal(decode_segmentation(form, (height, width), "here"), mask)


@FEW
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20)), counts=st.binary(max_size=8))
def test_run_length_codes_that_do_not_fill_the_mask_are_refused(size, counts):
    """Either all pixels are of the code, or none is read: pycocotools leaves the rest as memory was."""
    text = bytes(48 + byte % 64 for byte in counts)
    code = {"size": list(size), "counts": text}
    try:
        mask = decode_segmentation(code, size, "here")
    except ValueError as error:
        assert str(error).startswith("here: the ")
    else:
        assert mask.max(initial=0) <= 1 and coco_mask.encode(np.asfortranarray(mask))["size"] == list(size)
        assert int(coco_mask.area(code)) == mask.sum()


SEGMENT = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from([21, 21, 22, 0, -1, "21", None, 2.5]),
        "category_id": st.sampled_from([0, 1, 3, 4, -1, None, "1", float("nan")]),
        "iscrowd": st.integers(0, 1),
    },
)


@pytest.mark.parametrize("name", PANOPTIC)
@FEW
@given(segments=st.lists(SEGMENT, max_size=3), ids=st.lists(st.sampled_from([0, 21, 22]), min_size=48, max_size=48))
def test_panoptic(name, segments, ids, mappers, folder):
    ids = np.array(ids).reshape(HEIGHT, WIDTH)
    Image.fromarray(id_to_rgb(ids)).save(folder / "ids.png")
    record = {
        "file_name": str(folder / "image.png"),
        "image_id": 7,
        "pan_seg_file_name": str(folder / "ids.png"),
        "segments_info": segments,
    }
    output = map_or_refuse(mappers[name], record)
    if output is not None:
        assert {segment["id"] for segment in segments} == set(ids.reshape(-1).tolist()) - {0}
        assert len(output["instances"]) <= sum(not segment.get("iscrowd", 0) for segment in segments)


@FEW
@given(
    labels=st.lists(st.sampled_from([0, 1, 3, 255, 4, 256, 65535]), min_size=1, max_size=3),
    size=st.sampled_from([(HEIGHT, WIDTH), (HEIGHT, WIDTH), (WIDTH, HEIGHT), (1, 1)]),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, bool]),
)
def test_semantic(labels, size, dtype, mappers, folder):
    label_map = np.resize(np.array(labels), size).astype(dtype)
    Image.fromarray(label_map).save(folder / "labels.tif")
    record = {
        "file_name": str(folder / "image.png"), "image_id": 7, "sem_seg_file_name": str(folder / "labels.tif")
    }  # fmt: skip
    output = map_or_refuse(mappers["mask_former_semantic"], record)
    fits = size == (HEIGHT, WIDTH) and dtype != np.float32 and set(label_map.reshape(-1).tolist()) <= {0, 1, 2, 3, 255}
    assert (output is not None) == fits
    if fits:
        assert set(output["sem_seg"].unique().tolist()) <= {*label_map.astype(int).reshape(-1).tolist(), 255}
