"""Checkpoints after interruptions and damage."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from mask2former_ext.checkpoint import writing
from mask2former_ext.checkpoint.writing import SafeCheckpointer, damage_of


@pytest.fixture
def model():
    model = nn.Linear(64, 64)
    nn.init.zeros_(model.weight)
    return model


@pytest.fixture
def checkpointer(model, tmp_path):
    """With checkpoints of iterations 1, 2 and 3, whose weights are 1, 2 and 3."""
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    for iteration in (1, 2, 3):
        nn.init.constant_(model.weight, iteration)
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        os.utime(tmp_path / f"model_{iteration:07d}.pth", (iteration, iteration))
    return checkpointer


def resumed(checkpointer):
    content = checkpointer.resume_or_load("", resume=True)
    assert (checkpointer.model.weight == content["iteration"]).all()
    return content["iteration"]


def test_the_last_one_is_resumed(checkpointer, tmp_path):
    assert sorted(os.listdir(tmp_path)) == [
        "last_checkpoint",
        *(f"model_000000{iteration}.pth" for iteration in (1, 2, 3)),
    ]
    assert resumed(checkpointer) == 3


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def change_a_byte_of_a_weight(path):
    content = bytearray(path.read_bytes())
    where = content.index(torch.full((8,), 3.0).numpy().tobytes())
    content[where] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut_short, change_a_byte_of_a_weight, empty, remove])
def test_a_damaged_one_is_passed_over_loudly(checkpointer, tmp_path, damage, caplog):
    damage(tmp_path / "model_0000003.pth")
    assert resumed(checkpointer) == 2
    assert [record.levelname for record in caplog.records if record.name == writing.__name__] == ["ERROR", "ERROR"]
    assert "model_0000003.pth cannot be used" in caplog.text
    assert "older checkpoint than the last" in caplog.text and "model_0000002.pth" in caplog.text


def test_torch_would_load_a_changed_byte(checkpointer, tmp_path):
    """Why files are checked: without that, training would go on with a wrong weight."""
    path = tmp_path / "model_0000003.pth"
    change_a_byte_of_a_weight(path)
    assert not (torch.load(path)["model"]["weight"] == 3).all()
    assert "was changed" in damage_of(str(path))


def test_nothing_that_can_be_read_is_an_error_not_a_fresh_start(checkpointer, tmp_path):
    for path in tmp_path.glob("*.pth"):
        cut_short(path)
    with pytest.raises(ValueError, match=r"none of the checkpoints .* can be read: .*0000003.*0000002.*0000001"):
        checkpointer.resume_or_load("", resume=True)


@pytest.mark.parametrize("note", [None, "", "model_0000009.pth"])
def test_a_note_that_is_lost_or_wrong_does_not_lose_the_run(checkpointer, tmp_path, note):
    (tmp_path / "last_checkpoint").unlink()
    if note is not None:
        (tmp_path / "last_checkpoint").write_text(note)
    assert checkpointer.has_checkpoint()
    assert resumed(checkpointer) == 3


def test_what_the_note_names_comes_before_newer_files(checkpointer, tmp_path):
    checkpointer.tag_last_checkpoint("model_0000001.pth")
    assert resumed(checkpointer) == 1


def test_files_of_other_names_are_not_resumed(model, tmp_path):
    torch.save({"model": model.state_dict()}, tmp_path / "model_best.pth")
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    assert not checkpointer.has_checkpoint()
    assert checkpointer.get_checkpoint_file() == ""
    assert checkpointer.resume_or_load("", resume=True) == {}


def test_a_write_that_fails_leaves_the_last_one(checkpointer, tmp_path, monkeypatch):
    def fail(content, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(writing.torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        checkpointer.save("model_0000003", iteration=30)
    assert damage_of(str(tmp_path / "model_0000003.pth")) == ""
    assert resumed(checkpointer) == 3
    assert len(os.listdir(tmp_path)) == 4


def test_what_a_killed_process_left_is_removed(checkpointer, tmp_path):
    (tmp_path / ".model_0000004.4711.tmp.pth").write_bytes(b"half")
    (tmp_path / ".last_checkpoint.4711.tmp").write_bytes(b"")
    (tmp_path / ".hidden").write_text("of somebody else")
    assert resumed(checkpointer) == 3
    assert {name for name in os.listdir(tmp_path) if name.startswith(".")} == {".hidden"}


def test_processes_that_do_not_save_write_nothing(model, tmp_path):
    SafeCheckpointer(model, str(tmp_path), save_to_disk=False).save("model_0000001")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("elsewhere", ["", "model_0000002.pth"])
def test_processes_that_find_different_checkpoints_are_refused(checkpointer, monkeypatch, elsewhere):
    """As on machines that share no file system: each would train a model of its own, from another iteration on."""
    monkeypatch.setattr(writing.comm, "all_gather", lambda found: [found, elsewhere])
    with pytest.raises(ValueError, match=rf"by their rank, \['model_0000003\.pth', '{elsewhere}'\]\. OUTPUT_DIR has"):
        checkpointer.resume_or_load("", resume=True)


def test_a_process_without_checkpoints_asks_the_others(model, tmp_path, monkeypatch):
    monkeypatch.setattr(writing.comm, "all_gather", lambda found: ["model_0000003.pth", found])
    with pytest.raises(ValueError, match=r"by their rank, \['model_0000003\.pth', ''\]"):
        SafeCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
