"""What the preparation scripts share: options, whole files, several processes, going on after a stop."""

import json
import multiprocessing
import os
import runpy
import select
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mask2former_ext.data.datasets.coco_format import instance_annotation
from mask2former_ext.data.datasets.preparation import (
    link_or_copy,
    make_annotations,
    make_files,
    parse_options,
    process,
    process_with_journal,
    save_png,
)

SCRIPTS = sorted((Path(__file__).parents[2] / "datasets").glob("prepare_*.py"))
HERE = {"workers": 1, "description": ""}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_shows_an_example(script, capsys):
    main = runpy.run_path(str(script))["main"]
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert f"example: python datasets/{script.name} --root /data" in capsys.readouterr().out


def test_scripts_take_the_folder_of_the_environment(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/of/the/environment")
    options = parse_options(None, [])
    assert options.root == "/of/the/environment"
    assert (options.splits, options.limit) == (("train", "val"), None)


@pytest.mark.parametrize(
    "arguments", [["--limit", "0"], ["--workers", "0"], ["--workers", "some"], ["--splits", "val"]], ids=" ".join
)
def test_options_that_make_no_sense(arguments):
    with pytest.raises(SystemExit) as caught:
        parse_options(None, arguments, splits=("train", "test"))
    assert caught.value.code == 2


def test_a_line_that_was_cut_off_is_done_again(tmp_path):
    journal = tmp_path / "journal"
    journal.write_text('["a", {"of": "before"}]\n["b", {"of')
    items = {"a": "a", "b": "b"}
    records = process_with_journal(lambda name: {"of": "now"}, items, journal, is_there=lambda name: True, **HERE)
    assert records == [{"of": "before"}, {"of": "now"}]
    assert [json.loads(line)[0] for line in journal.read_text().splitlines()] == ["a", "b"]


def test_a_record_without_its_files_is_done_again(tmp_path):
    journal = tmp_path / "journal"
    journal.write_text('["a", {"of": "before"}]\n')
    records = process_with_journal(lambda name: {"of": "now"}, {"a": "a"}, journal, is_there=lambda name: False, **HERE)
    assert records == [{"of": "now"}]


@pytest.mark.parametrize(
    "present",
    ['{"images": [{"file_name": "a.jpg"}]}', '{"images": [{"file_na', "[1]", '{"annotations": []}'],
    ids=["fewer images", "cut off", "a list", "no images"],
)
def test_annotations_that_lack_images_are_made_again(present, tmp_path):
    target = tmp_path / "annotations.json"
    target.write_text(present)
    items = {"a": 1, "b": 2}

    def compose(records):
        return {"images": records}

    make_annotations(lambda item: {"file_name": f"{'_ab'[item]}.jpg"}, items, target, compose, **HERE)
    assert json.loads(target.read_text()) == {"images": [{"file_name": "a.jpg"}, {"file_name": "b.jpg"}]}
    before = target.stat()
    make_annotations(lambda item: pytest.fail("made again"), items, target, compose, **HERE)
    assert target.stat() == before
    assert list(tmp_path.iterdir()) == [target]


def test_an_item_is_done_again_when_one_of_its_files_is_missing(tmp_path):
    (tmp_path / "a1").touch()
    (tmp_path / "b1").touch()
    (tmp_path / "b2").touch()
    made = []
    targets = {name: [tmp_path / f"{name}1", tmp_path / f"{name}2"] for name in "ab"}
    make_files(made.append, {"a": "item a", "b": "item b"}, targets.get, **HERE)
    assert made == ["item a"]


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda image, path, format: path.write_bytes(b"half a f"))
    with pytest.raises(OSError, match="cannot identify image file"):
        save_png(tmp_path / "labels.png", np.zeros((2, 2), np.uint8))
    assert not list(tmp_path.iterdir())


def test_what_was_written_is_read_again(tmp_path, monkeypatch):
    original = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda image, *a, **b: original(image.point(lambda p: p + 1), *a, **b))
    with pytest.raises(OSError, match=r"labels\.png: what was written reads otherwise"):
        save_png(tmp_path / "labels.png", np.zeros((2, 2), np.uint8))
    assert not list(tmp_path.iterdir())


def test_links_and_copies(tmp_path, monkeypatch):
    (tmp_path / "published").write_bytes(b"image")
    (tmp_path / "elsewhere").symlink_to("published")
    (tmp_path / "sub").mkdir()
    link_or_copy(tmp_path / "elsewhere", tmp_path / "sub" / "linked")
    assert (tmp_path / "sub" / "linked").samefile(tmp_path / "published")
    assert not (tmp_path / "sub" / "linked").is_symlink()

    def no_links(*_):
        raise OSError("the file system has no links")

    monkeypatch.setattr(os, "link", no_links)
    link_or_copy(tmp_path / "elsewhere", tmp_path / "sub" / "copied")
    assert not (tmp_path / "sub" / "copied").samefile(tmp_path / "published")
    assert (tmp_path / "sub" / "copied").read_bytes() == b"image"
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["copied", "linked"]


def die(item, last):
    if item == last:
        os._exit(9)  # as a process that is killed for want of memory


def test_a_process_that_dies():
    with pytest.raises(OSError, match=r"Vistas: a process died.*fewer --workers"):
        list(process(partial(die, last=3), range(4), workers=2, description="Vistas"))


def say_and_sleep(item, pipe):
    os.write(pipe, b"x")
    time.sleep(60)


def sleep_in_two_processes(pipe):
    list(process(partial(say_and_sleep, pipe=pipe), range(4), workers=2, description=""))


def test_processes_end_with_the_one_that_started_them():
    """All of them hold the pipe's end for writing; when they are gone, there is nothing more to read."""
    reading, writing = os.pipe()
    parent = multiprocessing.get_context("fork").Process(target=sleep_in_two_processes, args=(writing,))
    parent.start()
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    assert os.read(reading, 1) == b"x"
    parent.kill()
    ready, _, _ = select.select([reading], [], [], 20)
    assert ready and os.read(reading, 1) == b""
    os.close(reading)
    parent.join()


def raise_of(item):
    if item == 2:
        raise ValueError(f"file {item} is broken")
    return item


def test_errors_of_other_processes_come_through():
    with pytest.raises(ValueError, match="file 2 is broken"):
        list(process(raise_of, range(4), workers=2, description=""))


@pytest.mark.parametrize("order", ["C", "F"])
def test_instance_annotations(order):
    mask = np.zeros((4, 6), dtype=bool, order=order)
    mask[1:3, 2:5] = True
    mask[1, 2] = False
    annotation = instance_annotation(mask, 7, iscrowd=1)
    code = annotation.pop("segmentation")
    assert annotation == {"category_id": 7, "area": 5, "bbox": [2, 1, 3, 2], "iscrowd": 1}
    assert json.loads(json.dumps(code)) == code and code["size"] == [4, 6]
    np.testing.assert_array_equal(coco_mask.decode(code), mask)
