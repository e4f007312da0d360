# make demo · make test · make lint    each sets up what it needs, once, in $(VENV).
#
#   PYTHON   the interpreter to start from (3.10 or newer)        make demo PYTHON=python3.12
#   VENV     where the environment lives                          make test VENV=/somewhere/venv
#
# Every step of the set-up leaves a stamp when it is complete: a step that was interrupted is done again by the next
# make, a step whose requirements have changed too, and nothing else is repeated.

PYTHON ?= python3
VENV ?= .venv
PYTEST_FLAGS ?=
DEMO_FLAGS ?=

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --no-input
# Without a terminal pip's bars are noise: there it names the downloads of the longest step and is quiet otherwise.
ifeq ($(shell [ -t 2 ] && echo terminal),terminal)
QUIET :=
NO_BARS :=
else
QUIET := --quiet
NO_BARS := --progress-bar off
endif

.PHONY: help setup demo test lint

help:
	@echo "make demo    train and evaluate Mask2Former and Mask R-CNN on a real photograph, with pictures"
	@echo "make test    lint, then the test suite"
	@echo "make lint    ruff (rules and formatting) and mypy"
	@echo "make setup   only the set-up that each of these does by itself, in $(VENV)"

setup: $(STAMPS)/package

demo: setup
	$(BIN)/python datasets/prepare_coins.py
	$(BIN)/python tools/quickstart.py $(DEMO_FLAGS)

test: lint
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMPS)/venv:
	@command -v "$(PYTHON)" > /dev/null || { \
	    echo "error: there is no '$(PYTHON)' here. Name a Python 3.10 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "error: '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1), and this project needs Python 3.10 or newer." \
	         "Name another one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "== set-up 1/5: $(VENV) from $$("$(PYTHON)" --version)"
	"$(PYTHON)" -m venv "$(VENV)"
	@mkdir -p "$(STAMPS)" && touch "$@"

$(STAMPS)/torch: requirements/torch.txt | $(STAMPS)/venv
	@echo "== set-up 2/5: torch and torchvision, with the CUDA packages they bring about 5 GB: some minutes"
	$(PIP_INSTALL) $(NO_BARS) -r requirements/torch.txt -c requirements/base.txt
	@touch "$@"

$(STAMPS)/requirements: requirements/base.txt requirements/dev.txt $(STAMPS)/torch
	@echo "== set-up 3/5: the packages of requirements/base.txt and dev.txt"
	$(PIP_INSTALL) $(QUIET) -r requirements/base.txt -r requirements/dev.txt
	@touch "$@"

$(STAMPS)/detectron2: tools/install_detectron2.py tools/detectron2_adaptation.py $(STAMPS)/requirements
	@echo "== set-up 4/5: Detectron2"
	$(BIN)/python tools/install_detectron2.py
	@touch "$@"

$(STAMPS)/package: setup.py pyproject.toml mask2former_ext/__init__.py $(STAMPS)/detectron2
	@echo "== set-up 5/5: mask2former_ext, editable"
	$(PIP_INSTALL) $(QUIET) --no-build-isolation --no-deps -e .
	@touch "$@"
