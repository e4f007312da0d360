"""Links of the pages lead somewhere, and every page can be found from the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import LANGUAGES, PAGES, ROOT, anchors, blocks, links, without_code

# Files and folders that the text names in `code`.
NAMED_FILE = re.compile(r"`((?:mask2former_ext|tools|configs|datasets|docs|tests|requirements)/[\w./*-]*)`")
OF_OTHER_PROJECTS = ("configs/mask2former/", "tools/deploy/")
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_and_tests_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in NAMED_FILE.findall(text):
        if not name.startswith(OF_OTHER_PROJECTS):
            assert (ROOT / name).exists() or any(ROOT.glob(name)), name
    for file, test in NAMED_TEST.findall(text):
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{test}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_blocks_have_a_language_that_is_checked(page):
    for block in blocks(page):
        if page.parent.name != "datasets":  # layouts of folders
            assert block.language in LANGUAGES, f"{block} is '{block.language}'"


def test_every_page_can_be_found():
    found, unread = set(), [ROOT / "README.md"]
    while unread:
        page = unread.pop()
        found.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link}
        unread += [target for target in targets if target.suffix == ".md" and target not in found]
    assert set(PAGES) <= found, [str(page) for page in set(PAGES) - found]


def test_pictures_are_shown_somewhere():
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert set(Path(ROOT / "docs" / "images").iterdir()) <= shown


def test_text_outside_of_code(tmp_path):
    assert without_code("a `[b](c)`\n```\n[d](e)\n```\n[f](g)") == "a \n\n[f](g)"
