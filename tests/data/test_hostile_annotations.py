"""Annotation files as they come: loaded right, or refused by file, entry and way out."""

import json
import logging
import resource
import time

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from detectron2.data.datasets import load_coco_json
from PIL import Image

from mask2former_ext.data import build_dataset_mapper
from mask2former_ext.data.datasets.loading import load_instances, load_panoptic, load_semantic
from mask2former_ext.data.reading import id_to_rgb

SQUARE = [[0, 0, 4, 0, 4, 4, 0, 4]]
BOX = [0, 0, 4, 4]


def image(number, **changes):
    return {"id": number, "file_name": f"{number}.png", "height": 6, "width": 8} | changes


def annotation(number, image_id, **changes):
    return {
        "id": number, "image_id": image_id, "category_id": 30, "iscrowd": 0, "bbox": BOX, "segmentation": SQUARE
    } | changes  # fmt: skip


@pytest.fixture
def load(tmp_path, png):
    """Writes content (or text) as instance annotations and loads them; images 1 and 2 exist."""
    for number in (1, 2):
        png(f"{number}.png", np.full((6, 8, 3), number, dtype=np.uint8))

    def through(content, loader=load_instances, **arguments):
        path = tmp_path / "instances.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return loader(str(path), str(tmp_path), {3: 0, 30: 1, 300: 2}, how_to_get="Make it.", **arguments)

    return through


@pytest.fixture
def warned(caplog, monkeypatch):
    for name in ("detectron2", "mask2former_ext"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("mask2former_ext")]


def content(*annotations, images=(1, 2)):
    return {"images": [image(number) for number in images], "annotations": list(annotations)}


BROKEN = {
    "empty file": (b"", "this is no JSON"),
    "cut short": (b'{"images": [', "this is no JSON"),
    "no UTF-8": (b'{"images": ["\xff\xfe"]}', "this is no JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "this is no JSON"),
    "nested without end": (b"[" * 200_000, "this is no JSON"),
    "a list": ([], "there is no list images, annotations"),
    "empty object": ({}, "there is no list images, annotations"),
    "annotations are an object": ({"images": [], "annotations": {}}, "there is no list annotations"),
    "empty lists": ({"images": [], "annotations": []}, "its list of images is empty"),
    "image without size": (
        {"images": [{"id": 1, "file_name": "1.png"}], "annotations": []},
        "images, entry 0: it lacks height, width",
    ),
    "image is a number": ({"images": [5], "annotations": []}, "images, entry 0: it lacks id, file_name"),
    "file name is a number": ({"images": [image(1, file_name=5)], "annotations": []}, "file_name is 5"),
    "image id is a list": ({"images": [image(1, id=[1])], "annotations": []}, "id is [1]"),
    "ids of two kinds": (content(images=(1, "2")), "some have a number as id, others a name"),
    "same image twice": (content(images=(1, 2, 1)), "images: id 1 occurs twice"),
    "same annotation twice": (content(annotation(5, 1), annotation(5, 2)), "annotations: id 5 occurs twice"),
    "annotation without id": (content({"image_id": 1, "category_id": 30}), "annotations, entry 0: it lacks id"),
    "annotation without image": (content({"id": 1, "category_id": 30}), "annotations, entry 0: it lacks image_id"),
    "image_id is a list": (
        content(annotation(5, [1])),
        "image_id [1]: its category_id is 30; ids must",
    ),
    "category is text": (
        content(annotation(5, 1, category_id="cat")),
        "of image_id 1: its category_id is",
    ),
    "category in a gap": (content(annotation(5, 1, category_id=31)), "image_id 1: category_id 31 is not registered"),
    "NaN in box": (
        content(annotation(5, 1, bbox=[0, float("nan"), 1, 1])),
        "5 of image_id 1: bbox is [0, nan",
    ),
    "negative box": (
        content(annotation(5, 1, bbox=[0, 0, -1, 1])),
        "5 of image_id 1: bbox is [0, 0, -1, 1]",
    ),
    "infinite box": (content(annotation(5, 1, bbox=[0, 0, float("inf"), 1])), "bbox is [0, 0, inf, 1]"),
    "empty box": (content(annotation(5, 1, bbox=[])), "bbox is []"),
    "box of text": (content(annotation(5, 1, bbox=["a", 0, 1, 1])), "bbox is ['a', 0, 1, 1]"),
    "one flat polygon": (
        content(annotation(5, 1, segmentation=SQUARE[0])),
        "5 of image_id 1: segmentation is",
    ),
    "segmentation is text": (
        content(annotation(5, 1, segmentation="abc")),
        "5 of image_id 1: segmentation is",
    ),
    "code without size": (content(annotation(5, 1, segmentation={"counts": [48]})), "a run-length code has size"),
    "code of negatives": (
        content(annotation(5, 1, segmentation={"size": [6, 8], "counts": [50, -2]})),
        "annotation 5 of image_id 1: a run-length code has size [height, width] and counts, which are",
    ),
    "ignore": (content(annotation(5, 1, ignore=1)), '"ignore" is not COCO'),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_instance_files(case, load):
    written, said = BROKEN[case]
    with pytest.raises(ValueError, match=r"instances\.json") as caught:
        load(written)
    assert said in str(caught.value)


def test_what_is_whole_is_what_detectron2_makes_of_it(load, tmp_path):
    """Category gaps, crowds alone, images without annotations, run-length codes of both forms."""
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[1:3, 2:5] = 1
    code = coco_mask.encode(np.asfortranarray(mask))
    whole = content(
        annotation(1, 1, category_id=300),
        annotation(2, 1, category_id=3, segmentation={"size": [6, 8], "counts": code["counts"].decode()}),
        annotation(3, 1, category_id=30, iscrowd=1, segmentation={"size": [6, 8], "counts": [0, 48]}),
        annotation(4, 1, bbox=[-2.5, -1, 3, 3]),
    )
    records = load(whole)
    assert [len(record["annotations"]) for record in records] == [4, 0]
    assert [entry["category_id"] for entry in records[0]["annotations"]] == [2, 0, 1, 1]
    expected = load_coco_json(str(tmp_path / "instances.json"), str(tmp_path))
    for record in expected:
        for entry in record["annotations"]:
            entry["category_id"] = {3: 0, 30: 1, 300: 2}[entry["category_id"]]
    assert records == expected


def test_what_is_left_out_is_warned_of(load, warned):
    line = [1, 1, 5, 5]
    records = load(
        content(
            annotation(1, 1),
            annotation(2, 1, segmentation=[*SQUARE, line]),
            annotation(3, 1, segmentation=[line]),
            annotation(4, 2, segmentation=[[1, 1, 5, 5, 1, 5, 3]]),
            annotation(5, 99),
        )
    )
    assert [len(record["annotations"]) for record in records] == [2, 0]
    assert records[0]["annotations"][1]["segmentation"] == SQUARE
    strays, no_area = warned()
    assert "instances.json: left out 1 of 5 annotations, of images that it does not list; the first has id 5" in strays
    assert "left out 3 of 5 annotations, in part, or whole: polygons" in no_area and "first has id 2" in no_area


@pytest.mark.parametrize("mapper", ["mask_former_instance", "coco_instance_lsj"])
def test_crowds_alone_and_nothing_at_all_are_trained_on(mapper, load, mapper_cfg):
    records = load(content(annotation(1, 1, iscrowd=1, segmentation={"size": [6, 8], "counts": [0, 48]})))
    for record in records:
        output = build_dataset_mapper(mapper_cfg(mapper))(record)
        assert len(output["instances"]) == 0 and output["instances"].gt_masks.tensor.shape[0] == 0


def test_annotations_that_only_the_mapper_sees_are_refused_there(load, mapper_cfg):
    """So that DATALOADER.MAX_BAD_IMAGES can pass them over: the code's size is not the image's."""
    code = {"size": [8, 6], "counts": [0, 48]}
    nan = [[0, 0, float("nan"), 0, 4, 4]]
    boxes_alone = annotation(7, 1)
    del boxes_alone["segmentation"]
    for entry in (annotation(5, 1, segmentation=code), annotation(6, 1, segmentation=nan), boxes_alone):
        record = load(content(entry))[0]
        with pytest.raises(ValueError, match=r"1\.png \(image_id 1\), annotation 0"):
            build_dataset_mapper(mapper_cfg("coco_instance_lsj"))(record)


def test_huge_files_take_bounded_time_and_memory(load, tmp_path):
    """200,000 annotations of 20,000 images: the peak of memory grows with the file's size, not faster."""
    before, _, after = json.dumps(annotation(0, 1)).partition("0")
    entries = ",".join(f"{before}{number}{after}" for number in range(200_000))
    images = json.dumps([image(number) for number in range(1, 20_001)])
    text = f'{{"images": {images}, "annotations": [{entries}]}}'.encode()
    before, start = peak_mebibytes(), time.process_time()
    records = load(text)
    seconds, grown = time.process_time() - start, peak_mebibytes() - before
    assert len(records) == 20_000 and len(records[0]["annotations"]) == 200_000
    assert seconds < 60 and grown < 30 * len(text) / 2**20


def peak_mebibytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


SEGMENTS = [{"id": 21, "category_id": 3}, {"id": 22, "category_id": 30}]


def panoptic(**changes):
    return {
        "images": [image(1), image(2)],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": SEGMENTS}],
    } | changes


@pytest.fixture
def load_pan(load, tmp_path):
    (tmp_path / "panoptic").mkdir()
    ids = np.zeros((6, 8), dtype=np.int64)
    ids[:3], ids[3:5] = 21, 22
    Image.fromarray(id_to_rgb(ids)).save(tmp_path / "panoptic" / "1.png")

    def through(written):
        def loader(path, root, ids, how_to_get):
            arguments = {"thing_ids": {3: 0}, "all_ids": ids, "how_to_get": how_to_get}
            return load_panoptic(path, root, str(tmp_path / "panoptic"), sem_seg_root=None, **arguments)

        return load(written, loader)

    return through


def with_segments(*segments):
    return panoptic(annotations=[{"image_id": 1, "file_name": "1.png", "segments_info": list(segments)}])


ENTRY = panoptic()["annotations"][0]
BROKEN_PANOPTIC = {
    "empty file": (b"", "this is no JSON"),
    "a list": ([], "there is no list annotations"),
    "no annotation": (panoptic(annotations=[]), "not COCO panoptic annotations"),
    "annotation is a number": (panoptic(annotations=[3]), "not COCO panoptic annotations"),
    "segments are a number": (panoptic(annotations=[ENTRY | {"segments_info": 3}]), "not COCO panoptic annotations"),
    "no file name": (panoptic(annotations=[{"image_id": 1, "segments_info": []}]), "entry 0: it lacks file_name"),
    "no image id": (panoptic(annotations=[{"file_name": "1.png", "segments_info": []}]), "entry 0: it lacks image_id"),
    "same image twice": (panoptic(annotations=[ENTRY, ENTRY]), "annotations: image_id 1 occurs twice"),
    "same image listed twice": (panoptic(images=[image(1), image(1)]), "images: id 1 occurs twice"),
    "unlisted image": (panoptic(images=[image(2)]), "there is an annotation for image_id 1, which is not among"),
    "image without id": (panoptic(images=[{"file_name": "1.png"}]), "images, entry 0: it lacks id"),
    "segment without id": (with_segments({"category_id": 3}), "image_id 1: a segment lacks id or category_id"),
    "segment without category": (with_segments({"id": 3}), "image_id 1: a segment lacks id or category_id"),
    "segment is a number": (with_segments(3), "image_id 1: a segment lacks id or category_id"),
    "id is text": (with_segments({"id": "x", "category_id": 3}), "image_id 1: a segment lacks id or category_id"),
    "category in a gap": (with_segments({"id": 21, "category_id": 4}), "segment 21 has category_id 4, which is not"),
}


@pytest.mark.parametrize("case", BROKEN_PANOPTIC)
def test_broken_panoptic_files(case, load_pan):
    written, said = BROKEN_PANOPTIC[case]
    with pytest.raises(ValueError, match=r"instances\.json") as caught:
        load_pan(written)
    assert said in str(caught.value)


@pytest.mark.parametrize("mapper", ["mask_former_panoptic", "coco_panoptic_lsj"])
@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((8, 6, 3), np.uint8), "8×6 pixels"),
        (np.full((6, 8), 21, np.uint8), "ids 21, 22 are in segments_info but not in the PNG"),  # grayscale
        (np.full((6, 8), 21, np.uint16), "ids 21, 22 are in segments_info but not in the PNG"),
    ],
)
def test_panoptic_pngs_that_are_none(mapper, pixels, said, load_pan, mapper_cfg, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "panoptic" / "1.png")
    (record,) = load_pan(panoptic())
    with pytest.raises(ValueError, match=r"panoptic/1\.png: .*image_id 1") as caught:
        build_dataset_mapper(mapper_cfg(mapper))(record)
    assert said in str(caught.value)


def test_panoptic_pngs_of_a_palette_are_read(load_pan, mapper_cfg, tmp_path):
    """Programs that shrink PNGs write them."""
    path = tmp_path / "panoptic" / "1.png"
    Image.open(path).quantize(3, dither=Image.Dither.NONE).save(path)
    assert Image.open(path).mode == "P"
    (record,) = load_pan(panoptic())
    output = build_dataset_mapper(mapper_cfg("mask_former_panoptic"))(record)
    assert output["instances"].gt_masks.tensor.sum((1, 2)).tolist() == [24, 16]


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "im ägen").mkdir()
    (tmp_path / "labels").mkdir()

    def write(images, labels, suffix=".jpg"):
        for name in images:
            Image.new("RGB", (8, 6)).save(tmp_path / "im ägen" / (name + suffix))
        for name in labels:
            Image.new("L", (8, 6)).save(tmp_path / "labels" / f"{name}.png")
        return {
            "image_root": str(tmp_path / "im ägen"), "sem_seg_root": str(tmp_path / "labels"), "how_to_get": "Make it."
        }  # fmt: skip

    return write


def test_label_images_of_other_names_are_not_paired_by_their_order(folders):
    with pytest.raises(ValueError, match=r"b\.jpg: the label image that comes in its place is .*c\.png"):
        load_semantic(**folders("ab", "ac"))


@pytest.mark.parametrize(("images", "labels"), [("ab", ""), ("", "ab"), ("abc", "de"), ("", "")])
def test_nothing_to_pair(images, labels, folders):
    with pytest.raises(FileNotFoundError, match=r"im ägen: no image .* in .*labels\. Make it"):
        load_semantic(**folders(images, labels))


def test_images_of_another_format(folders):
    with pytest.raises(FileNotFoundError, match=r"no image \(\.jpg\)"):
        load_semantic(**folders("ab", "ab", ".png"))


def test_what_pairs_is_loaded(folders):
    records = load_semantic(**folders(["日本", "b c"], ["日本", "b c"]))
    assert [record["file_name"].split("/")[-1] for record in records] == ["b c.jpg", "日本.jpg"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.full((6, 8), 9, np.uint8), "label 9 does not fit"),
        (np.full((6, 8), 300, np.uint16), "label 300 does not fit"),
        (np.full((6, 8), -1, np.int32), "int32 values -1…-1"),
        (np.full((6, 8), 70000, np.int32), "int32 values 70000…70000"),
        (np.full((6, 8), 0.5, np.float32), "float32 values 0.5…0.5"),
        (np.full((6, 8), np.nan, np.float32), "float32 values nan…nan"),
        (np.zeros((6, 8, 2), np.uint8), "shape (6, 8, 2)"),
    ],
)
def test_label_images_with_what_is_no_label(labels, said, record, mapper_cfg, tmp_path):
    path = tmp_path / ("labels.png" if labels.dtype == np.uint8 else "labels.tif")
    Image.fromarray(labels).save(path)
    with pytest.raises(ValueError, match=r"labels\.(png|tif).*image_id 7") as caught:
        build_dataset_mapper(mapper_cfg("mask_former_semantic"))(record | {"sem_seg_file_name": str(path)})
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["16 bits", "palette", "one bit"])
def test_label_images_of_other_depths_are_read(kind, record, mapper_cfg, tmp_path):
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[2:] = 1
    picture = Image.fromarray(labels.astype({"16 bits": np.uint16, "one bit": bool}.get(kind, np.uint8)))
    if kind == "palette":
        picture = Image.fromarray(labels, "P")
        picture.putpalette([9, 9, 9, 7, 7, 7])
    picture.save(tmp_path / "labels.png")
    record["sem_seg_file_name"] = str(tmp_path / "labels.png")
    output = build_dataset_mapper(mapper_cfg("mask_former_semantic"))(record)
    np.testing.assert_array_equal(output["sem_seg"].numpy(), labels)
