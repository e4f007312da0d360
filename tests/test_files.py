import json
import os

import pytest

from mask2former_ext.files import whole_file, write_json, write_text


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "new" / "clip.mp4"
    with whole_file(path) as unfinished:
        assert unfinished.suffix == ".mp4" and unfinished.parent == path.parent
        unfinished.write_bytes(b"frames")
        assert not path.exists()
    assert path.read_bytes() == b"frames" and names(path.parent) == ["clip.mp4"]


def test_what_there_was_stays_when_writing_fails(tmp_path):
    path = tmp_path / "report.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="disk"), whole_file(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError("disk")
    assert path.read_text() == "before" and names(tmp_path) == ["report.txt"]


def test_two_files_that_differ_by_suffix_do_not_meet(tmp_path):
    with whole_file(tmp_path / "a.png") as first, whole_file(tmp_path / "a.json") as second:
        assert first != second
        first.touch()
        second.touch()
    assert names(tmp_path) == ["a.json", "a.png"]


def test_text_is_utf8_and_readable_for_all(tmp_path):
    umask = os.umask(0o022)
    try:
        write_text(tmp_path / "über.txt", "Münze")
    finally:
        os.umask(umask)
    assert (tmp_path / "über.txt").read_bytes() == "Münze".encode()
    assert (tmp_path / "über.txt").stat().st_mode & 0o777 == 0o644


def test_json(tmp_path):
    path = tmp_path / "new" / "report.json"
    write_json(path, {"a": [1, None], "名": "é"}, indent=2)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, None], "名": "é"}
    assert "名" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("broken", [{"a": object()}, {"a": float("nan")}])
def test_json_that_cannot_be_written_leaves_what_there_was(tmp_path, broken):
    path = tmp_path / "report.json"
    path.write_text("before")
    with pytest.raises((TypeError, ValueError)):
        write_json(path, broken)
    assert path.read_text() == "before" and names(tmp_path) == ["report.json"]
