"""Dataset cards: read, written, moved, registered by the config that names them."""

import json
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former_ext.config import load_config
from mask2former_ext.own_data.cards import DatasetCard, register_card, with_colors

CATEGORIES = [
    {"id": 4, "name": "bar", "isthing": 1, "color": [1, 2, 3]},
    {"id": 7, "name": "ground", "isthing": 0, "color": [4, 5, 6]},
    {"id": 9, "name": "square", "isthing": 1, "color": [7, 8, 9]},
]


def card(name: str, task: str, data: dict, **changes) -> DatasetCard:
    content = {
        "name": name,
        "task": task,
        "images": data["images"],
        "annotations": data[task],
        "labels": None if task == "instance" else data[task].with_suffix(""),
        "categories": CATEGORIES if task == "panoptic" else [c for c in CATEGORIES if c["isthing"]],
    }
    return DatasetCard(**content | changes)


def test_files_below_the_card_move_with_it_and_others_stay(tmp_path, data):
    lists = tmp_path / "run" / "lists.json"
    written = card("moved", "instance", data, annotations=lists)
    written.write(tmp_path / "run" / "card.json")
    assert DatasetCard.read(tmp_path / "run" / "card.json") == written
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    moved = DatasetCard.read(tmp_path / "elsewhere" / "card.json")
    assert moved.annotations == tmp_path / "elsewhere" / "lists.json"
    assert moved.images == data["images"]


def test_instances_are_registered_with_their_metadata(tmp_path, data):
    card("own_instances", "instance", data).write(tmp_path / "card.json")
    assert register_card(tmp_path / "card.json") == "own_instances"
    metadata = MetadataCatalog.get("own_instances")
    assert metadata.thing_classes == ["bar", "square"]
    assert metadata.thing_colors == [[1, 2, 3], [7, 8, 9]]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 9: 1}
    assert metadata.evaluator_type == "coco"
    records = DatasetCatalog.get("own_instances")
    assert len(records) == 10
    assert [annotation["category_id"] for annotation in records[0]["annotations"]] == [1, 0]


def test_panoptic_segments_are_registered_with_their_metadata(tmp_path, data):
    card("own_panoptic", "panoptic", data).write(tmp_path / "card.json")
    register_card(tmp_path / "card.json")
    metadata = MetadataCatalog.get("own_panoptic")
    assert metadata.stuff_classes == ["bar", "ground", "square"]
    assert metadata.stuff_colors == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 9: 2}
    assert metadata.evaluator_type == "coco_panoptic_seg"
    segments = DatasetCatalog.get("own_panoptic")[3]["segments_info"]
    assert [(segment["category_id"], segment["isthing"]) for segment in segments] == [(1, False), (2, True), (0, True)]


def test_label_images_are_registered_with_their_metadata(tmp_path, data):
    lists = tmp_path / "lists.json"
    lists.write_text(json.dumps({"images": [{"file_name": "3.png", "sem_seg_file_name": "3.png"}]}))
    written = card("own_labels", "semantic", data, annotations=lists, labels=data["semantic"], ignore_label=9)
    written.write(tmp_path / "card.json")
    register_card(tmp_path / "card.json")
    metadata = MetadataCatalog.get("own_labels")
    assert (metadata.stuff_classes, metadata.ignore_label) == (["bar", "square"], 9)
    assert metadata.stuff_colors == [[1, 2, 3], [7, 8, 9]]
    assert metadata.evaluator_type == "sem_seg"
    (record,) = DatasetCatalog.get("own_labels")
    assert record["file_name"] == str(data["images"] / "3.png")
    assert record["sem_seg_file_name"] == str(data["semantic"] / "3.png")


def test_categories_without_a_colour_get_one_of_their_own():
    colored = with_colors([{"id": 1, "name": "a"}, {"id": 2, "name": "b", "color": [9, 9, 9]}, {"id": 3, "name": "c"}])
    assert colored[1]["color"] == [9, 9, 9]
    assert colored[0]["color"] != colored[2]["color"]
    assert all(0 <= value <= 255 for category in colored for value in category["color"])


def test_cards_written_by_hand_need_no_colours(tmp_path, data):
    categories = [{"id": 4, "name": "bar"}, {"id": 9, "name": "square", "color": "#123456"}]
    content = {"name": "by_hand", "task": "instance", "images": "images", "annotations": "instances.json"}
    (tmp_path / "card.json").write_text(json.dumps(content | {"labels": None, "categories": categories}))
    register_card(tmp_path / "card.json")
    colors = MetadataCatalog.get("by_hand").thing_colors
    assert colors == [category["color"] for category in with_colors([{}, {}])]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ("labels", 'labels: this is a folder, but "annotations" of the dataset card is a JSON file that lists'),
        ("instances.json", r"instances\.json, images, entry 0: it lacks sem_seg_file_name"),
    ],
)
def test_lists_of_label_images_that_are_none_are_refused(tmp_path, data, annotations, message):
    written = card("no_list", "semantic", data, annotations=tmp_path / annotations, labels=data["semantic"])
    written.write(tmp_path / "card.json")
    register_card(tmp_path / "card.json")
    with pytest.raises(ValueError, match=message):
        DatasetCatalog.get("no_list")


def test_registering_again_takes_the_card_as_it_is_now(tmp_path, data):
    for color in ([1, 2, 3], [3, 2, 1]):
        categories = [{"id": 4, "name": "bar", "isthing": 1, "color": color}]
        card("again", "instance", data, categories=categories).write(tmp_path / "card.json")
        register_card(tmp_path / "card.json")
        assert MetadataCatalog.get("again").thing_colors == [color]


def test_a_config_registers_its_cards_from_wherever_it_is(tmp_path, data, monkeypatch):
    run = tmp_path / "run"
    card("of_a_config", "instance", data).write(run / "cards" / "train.json")
    (run / "base.yaml").write_text("DATASETS: {OWN: [cards/train.json], TRAIN: [of_a_config]}\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "child.yaml").write_text("_BASE_: ../moved/base.yaml\nSOLVER: {MAX_ITER: 7}\n")
    shutil.move(run, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "other")
    for config in ("../moved/base.yaml", "child.yaml"):
        cfg = load_config(config)
        assert [Path(name).resolve() for name in cfg.DATASETS.OWN] == [tmp_path / "moved" / "cards" / "train.json"]
        assert MetadataCatalog.get("of_a_config").thing_classes == ["bar", "square"]
        DatasetCatalog.remove("of_a_config")
        MetadataCatalog.remove("of_a_config")


def test_weights_beside_a_config_are_found_unless_the_working_folder_has_them(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.pth").touch()
    (tmp_path / "run" / "config.yaml").write_text("MODEL: {WEIGHTS: model.pth}\n")
    monkeypatch.chdir(tmp_path)
    assert Path(load_config("run/config.yaml").MODEL.WEIGHTS) == tmp_path / "run" / "model.pth"
    (tmp_path / "model.pth").touch()
    assert load_config("run/config.yaml").MODEL.WEIGHTS == "model.pth"
    (tmp_path / "run" / "config.yaml").write_text("MODEL: {WEIGHTS: nowhere.pth}\n")
    assert load_config("run/config.yaml").MODEL.WEIGHTS == "nowhere.pth"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "boxes"}, r'card\.json: "task" is \'boxes\'; it must be one of instance, panoptic, semantic'),
        ({"name": "coins_train"}, r'card\.json: a dataset "coins_train" is registered already'),
        ({"surprise": 1}, r"card\.json: not a dataset card"),
        ({"task": []}, r'card\.json: "task" is \[\]; it must be one of'),
        ({"task": "panoptic"}, r'card\.json: "labels" must name the folder of PNGs, because the task is panoptic'),
        ({"categories": []}, r'card\.json: "categories" must be a list of one or more'),
        ({"categories": [5]}, r"card\.json: not a dataset card"),
        ({"categories": [{"name": "bar"}]}, r"card\.json: .* each with id, name\."),
        (
            {"task": "panoptic", "labels": "panoptic", "categories": [{"id": 4, "name": "bar"}]},
            r"card\.json: .* each with id, name, isthing\.",
        ),
    ],
)
def test_cards_that_are_none_are_refused(tmp_path, data, change, message):
    path = tmp_path / "card.json"
    card("refused", "instance", data).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        register_card(path)


def test_missing_cards_are_named(tmp_path):
    (tmp_path / "config.yaml").write_text("DATASETS: {OWN: [gone.json]}\n")
    with pytest.raises(FileNotFoundError, match=r"gone\.json: this dataset card does not exist"):
        load_config(str(tmp_path / "config.yaml"))
