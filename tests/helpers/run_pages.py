"""Runs commands and Python code of pages, each in a fork of this process, which has imported PyTorch once.

Reads a JSON object a line from standard input, and answers with one: {"status": int, "output": str}; null ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import torch
from detectron2.engine import DefaultTrainer  # noqa: F401  (imported here, it is there in every fork)

from mask2former_ext.config import load_config
from mask2former_ext.engine import Trainer  # noqa: F401  (likewise)
from mask2former_ext.own_data import settings

SECONDS = 120
settings.DEFAULT_EPOCHS = 1  # of train_custom.py: what it learns is tested elsewhere


class Parsed(BaseException):
    """The arguments of a command, when they have been accepted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options


def run_tool(words: list[str]) -> None:
    """``script.py arguments`` or ``-m module arguments``, as Python runs them."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


def parse_tool(words: list[str]) -> None:
    """Let the tool's own parser see the arguments; then the configs and keys that they name must be known."""

    def parse(parser: argparse.ArgumentParser, arguments: list[str] | None = None) -> None:
        options, unknown = parser.parse_known_args(arguments)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        raise Parsed(options)

    argparse.ArgumentParser.parse_args = parse
    try:
        run_tool(words)
    except Parsed as parsed:
        check(vars(parsed.options))
        return
    raise SystemExit(f"{words[0]} parsed no arguments")


def check(options: dict) -> None:
    configs = [options.get("config_file"), options.get("base"), *(options.get("configs") or [])]
    for config in filter(None, configs):
        # what earlier commands of a page write is not here
        known = config if not config.startswith("output/") else ""
        load_config(known, [word for word in options.get("opts") or options.get("overrides") or [] if word != "--"])
    if "arguments" in options:  # of tools/train_net.py, behind those of the tool itself
        parse_tool(["tools/train_net.py", *options["arguments"]])


def run_python(request: dict) -> None:
    names: dict = {"__name__": "__main__"}
    for name, code in (("preparation", request["before"]), (request["place"], request["code"])):
        exec(compile(code, name, "exec"), names)


KINDS = {
    "run": lambda request: run_tool(request["words"]),
    "parse": lambda request: parse_tool(request["words"]),
    "python": run_python,
}


def child(request: dict, output: int) -> int:
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(request["folder"])
    os.environ.update(request["variables"])
    torch.set_num_threads(1)
    signal.alarm(SECONDS)
    try:
        KINDS[request["kind"]](request)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def answer(request: dict) -> dict:
    with tempfile.TemporaryFile() as output:
        process = os.fork()
        if not process:
            status = child(request, output.fileno())
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        output.seek(0)
        return {"status": status, "output": output.read().decode(errors="replace")}


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        if request is None:
            break
        print(json.dumps(answer(request)), flush=True)
