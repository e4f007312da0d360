"""Mapillary Vistas' instance annotations from a tiny copy of its panoptic annotations."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from mask2former_ext.config import load_config
from mask2former_ext.data import build_dataset_mapper, datasets
from mask2former_ext.data.datasets import panoptic_preparation
from mask2former_ext.data.datasets.loading import datasets_root
from mask2former_ext.data.reading import id_to_rgb
from mask2former_ext.evaluation import build_evaluator

REPOSITORY = Path(__file__).parents[2]
NAMES = ["-a0", "Xq_7", "zK"]

# A bird (category 1) in two pieces, a curb (3), two persons (20) of which one is a crowd, void in the corner.
IDS = np.array([[1, 1, 300, 300, 0], [1, 70000, 70000, 2, 1]])
SEGMENTS = [
    {"id": 70000, "category_id": 20, "iscrowd": 0, "area": 2, "bbox": [1, 1, 2, 1]},
    {"id": 1, "category_id": 1, "iscrowd": 0, "area": 4, "bbox": [0, 0, 5, 2]},
    {"id": 300, "category_id": 3, "iscrowd": 0, "area": 2, "bbox": [2, 0, 2, 1]},
    {"id": 2, "category_id": 20, "iscrowd": 1, "area": 1, "bbox": [3, 1, 1, 1]},
]


@pytest.fixture
def vistas(tmp_path):
    """Mapillary Vistas as it is unpacked, with three images of 2×5 in validation; the annotations are not in order."""
    vistas = tmp_path / "mapillary_vistas"
    folder = vistas / "validation"
    for name in ("images", "labels", "panoptic"):
        (folder / name).mkdir(parents=True)
    for name in NAMES:
        Image.fromarray(np.full((2, 5, 3), 90, np.uint8)).save(folder / "images" / f"{name}.jpg")
        Image.fromarray(np.full((2, 5), 65, np.uint8)).save(folder / "labels" / f"{name}.png")
        Image.fromarray(id_to_rgb(IDS)).save(folder / "panoptic" / f"{name}.png")
    write_annotations(vistas, SEGMENTS)
    datasets.register_all(str(tmp_path))
    yield vistas
    datasets.register_all(datasets_root())


def write_annotations(vistas, segments):
    content = {
        "images": [{"id": name, "file_name": f"{name}.jpg", "height": 2, "width": 5} for name in NAMES],
        "annotations": [
            {"image_id": name, "file_name": f"{name}.png", "segments_info": segments} for name in reversed(NAMES)
        ],
        "categories": [{"id": category, "name": str(category), "isthing": 1} for category in (1, 3, 20)],
    }
    (vistas / "validation" / "panoptic" / "panoptic_2018.json").write_text(json.dumps(content))


def run(vistas, *options):
    main = runpy.run_path(str(REPOSITORY / "datasets" / "prepare_mapillary_vistas_ins_seg.py"))["main"]
    return main(["--root", str(vistas.parent), "--splits", "val", "--workers", "1", *options])


def read(vistas):
    return json.loads((vistas / "mapillary_vistas_instance_val.json").read_text())


def in_this_process(monkeypatch, stop_at=None):
    """Count the images whose instances are made; at one of them the run is stopped by the keyboard."""
    asked = []
    original = panoptic_preparation._segment_map

    def counting(record):
        if record["image_id"] == stop_at:
            raise KeyboardInterrupt
        asked.append(record["image_id"])
        return original(record)

    monkeypatch.setattr(panoptic_preparation, "_segment_map", counting)
    return asked


def test_instances(vistas, capsys):
    assert run(vistas, "--workers", "2") == 0
    assert "val: instance annotations of 3 images are there." in capsys.readouterr().out
    content = read(vistas)
    assert content["images"] == [{"id": name, "file_name": f"{name}.jpg", "height": 2, "width": 5} for name in NAMES]
    assert len(content["categories"]) == 37
    assert content["categories"][0] == {"id": 1, "name": "Bird"}
    assert {"id": 20, "name": "Person"} in content["categories"]
    assert [annotation["id"] for annotation in content["annotations"]] == list(range(1, 10))
    assert [annotation["image_id"] for annotation in content["annotations"]] == np.repeat(NAMES, 3).tolist()
    for k in (0, 3, 6):
        annotations = content["annotations"][k : k + 3]
        for annotation, segment in zip(annotations, [SEGMENTS[0], SEGMENTS[1], SEGMENTS[3]], strict=True):
            assert {key: annotation[key] for key in segment.keys() - {"id"}} == {
                key: value for key, value in segment.items() if key != "id"
            }
            np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]), segment["id"] == IDS)
    assert [path.name for path in vistas.iterdir() if path.is_file()] == ["mapillary_vistas_instance_val.json"]


def test_training_reads_them(vistas):
    assert run(vistas) == 0
    cfg = load_config(str(REPOSITORY / "configs/ade20k/instance-segmentation/maskformer2_R50_bs16_160k.yaml"))
    cfg.DATASETS.TRAIN = ("mapillary_vistas_instance_val",)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 37
    cfg.INPUT.update(MIN_SIZE_TRAIN=(2,), RANDOM_FLIP="none", SIZE_DIVISIBILITY=5, COLOR_AUG_SSD=False)
    cfg.INPUT.CROP.ENABLED = False
    records = DatasetCatalog.get("mapillary_vistas_instance_val")
    assert [record["image_id"] for record in records] == NAMES
    person = MetadataCatalog.get("mapillary_vistas_instance_val").thing_classes.index("Person")
    instances = build_dataset_mapper(cfg)(records[0])["instances"]
    gt_masks = getattr(instances.gt_masks, "tensor", instances.gt_masks)
    found = {label: mask[:2].numpy() for label, mask in zip(instances.gt_classes.tolist(), gt_masks, strict=True)}
    assert found.keys() == {0, person}  # the crowd is not trained on
    np.testing.assert_array_equal(found[0], IDS == 1)
    np.testing.assert_array_equal(found[person], IDS == 70000)


def test_ap_of_panoptic_models_says_what_is_missing(vistas, tmp_path):
    cfg = load_config(str(REPOSITORY / "configs/mapillary-vistas/panoptic-segmentation/maskformer_R50_bs16_300k.yaml"))
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = True
    with pytest.raises(FileNotFoundError) as caught:
        build_evaluator(cfg, "mapillary_vistas_panoptic_val", str(tmp_path))
    said = str(caught.value)
    assert str(vistas / "mapillary_vistas_instance_val.json") in said and "datasets/README.md" in said
    assert run(vistas) == 0
    build_evaluator(cfg, "mapillary_vistas_panoptic_val", str(tmp_path))


def test_a_run_that_was_stopped_is_continued(vistas, monkeypatch):
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        in_this_process(context, stop_at=NAMES[2])
        run(vistas)
    assert not (vistas / "mapillary_vistas_instance_val.json").exists()

    asked = in_this_process(monkeypatch)
    assert run(vistas) == 0
    assert asked == NAMES[2:]
    assert [image["id"] for image in read(vistas)["images"]] == NAMES
    assert not list(vistas.glob("*.unfinished"))

    assert run(vistas) == 0
    assert asked == NAMES[2:]  # nothing more


def test_the_first_by_name_and_the_others_after_them(vistas, capsys):
    assert run(vistas, "--limit", "2") == 0
    assert "2 images" in capsys.readouterr().out
    assert [image["id"] for image in read(vistas)["images"]] == NAMES[:2]
    assert run(vistas) == 0
    assert [image["id"] for image in read(vistas)["images"]] == NAMES
    assert run(vistas, "--limit", "2") == 0
    assert [image["id"] for image in read(vistas)["images"]] == NAMES


def test_images_without_things(vistas):
    for name in NAMES:
        Image.fromarray(id_to_rgb(np.full((2, 5), 300))).save(vistas / "validation" / "panoptic" / f"{name}.png")
    write_annotations(vistas, SEGMENTS[2:3])
    assert run(vistas) == 0
    assert read(vistas)["annotations"] == []
    assert all(record["annotations"] == [] for record in DatasetCatalog.get("mapillary_vistas_instance_val"))


@pytest.mark.parametrize(
    ("folder", "suffix", "message"),
    [("panoptic", "png", "cannot be read"), ("images", "jpg", "cannot identify image file")],
)
def test_broken_files(folder, suffix, message, vistas, capsys):
    broken = vistas / "validation" / folder / f"{NAMES[1]}.{suffix}"
    broken.write_bytes(broken.read_bytes()[:20])
    assert run(vistas) == 1
    said = capsys.readouterr().err
    assert str(broken) in said and message in said
    assert not (vistas / "mapillary_vistas_instance_val.json").exists()


def test_annotations_that_contradict_each_other(vistas, capsys):
    png = vistas / "validation" / "panoptic" / f"{NAMES[1]}.png"
    Image.fromarray(id_to_rgb(IDS[:, :4])).save(png)
    assert run(vistas) == 1
    said = capsys.readouterr().err
    assert f"{NAMES[1]}.jpg: 2×5 pixels" in said and "2×4" in said
    Image.fromarray(id_to_rgb(IDS + 5)).save(png)
    assert run(vistas) == 1
    said = capsys.readouterr().err
    assert str(png) in said and "ids 5, 6, 7, 305, 70005 are in the PNG but not in segments_info" in said


def test_a_category_that_there_is_not(vistas, capsys):
    write_annotations(vistas, [SEGMENTS[0] | {"category_id": 66}, *SEGMENTS[1:]])
    assert run(vistas) == 1
    assert "category_id 66, which is not registered" in capsys.readouterr().err


def test_what_is_not_there(vistas, capsys):
    (vistas / "validation").rename(vistas / "elsewhere")
    assert run(vistas) == 1
    said = capsys.readouterr().err
    assert str(vistas / "validation" / "panoptic" / "panoptic_2018.json") in said and "mapillary.com" in said
