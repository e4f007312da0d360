"""The pages of the documentation: their links, and the commands and Python code in their fenced blocks."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "datasets" / "README.md", *(ROOT / "docs").glob("*.md")]
)
# A block of another language would be checked by nothing; text is what commands print, and pictures of folders.
LANGUAGES = ("bash", "python", "text", "yaml")
FENCE = re.compile(r"^```(\w*)[ \t]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*=")
NEEDS = "# needs "
INDENTED = re.compile(r"^    (python .+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its first line."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a block of bash: environment variables, words, and what it says that it needs ("" if nothing)."""

    place: str
    variables: dict[str, str]
    words: list[str]
    needs: str

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(page, text[: found.start(2)].count("\n") + 1, found[1], found[2]) for found in FENCE.finditer(text)]


def commands(block: Block) -> list[Command]:
    """The commands of a block; those after a line "# needs …", until an empty line, say that they need something."""
    found, needs, number = [], "", block.line
    lines = iter(block.text.splitlines())
    for line in lines:
        place = f"{block.page.relative_to(ROOT)}:{number}"
        number += 1
        while line.endswith("\\"):
            line = line[:-1] + next(lines).strip()
            number += 1
        if line.startswith(NEEDS):
            needs = line.removeprefix(NEEDS)
        elif not line.strip():
            needs = ""
        words = shlex.split(line, comments=True)
        variables = {}
        while words and VARIABLE.match(words[0]):
            name, value = words.pop(0).split("=", 1)
            variables[name] = value
        if words:
            found.append(Command(place, variables, words, needs))
    return found


def commands_of(page: Path) -> list[Command]:
    """The commands of all blocks of bash. Indented ones, of datasets/README.md, need the published files."""
    fenced = [command for block in blocks(page) if block.language == "bash" for command in commands(block)]
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    place = str(page.relative_to(ROOT))
    return fenced + [Command(place, {}, shlex.split(line), "published files") for line in INDENTED.findall(prose)]


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def links(page: Path) -> list[str]:
    return LINK.findall(without_code(page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them: small letters, hyphens for blanks, no punctuation."""
    headings = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
