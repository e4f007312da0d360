# make demo · make test · make lint · make sanitize    each sets up what it needs, once, in $(VENV).
#
#   PYTHON       the interpreter to start from (3.10 or newer)    make demo PYTHON=python3.12
#   VENV         where the environment lives                      make test VENV=/somewhere/venv
#   FORCE_CUDA   0 compiles the operators for the CPU alone, 1    make test FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=8.0
#                for CUDA too, whatever it takes. Not set, CUDA
#                is compiled where a GPU and a toolkit are found,
#                because it takes minutes.
#
# Every step of the set-up leaves a stamp when it is complete: a step that was interrupted is done again by the next
# make, a step whose requirements or sources have changed too, and nothing else is repeated.

PYTHON ?= python3
VENV ?= .venv
PYTEST_FLAGS ?=
DEMO_FLAGS ?=
ifndef FORCE_CUDA
FORCE_CUDA := $(if $(shell nvidia-smi -L > /dev/null 2>&1 && echo visible),,0)
endif
export FORCE_CUDA

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
# Two stamps, so that FORCE_CUDA=1 compiles what was compiled for the CPU alone before; what has CUDA has the CPU too.
PACKAGE := $(STAMPS)/package$(if $(filter 1,$(FORCE_CUDA)),-cuda)
OPERATORS := $(wildcard $(addprefix mask2former_ext/ops/csrc/,*.cpp *.h */*.cpp */*.h */*.cu */*.cuh))
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --no-input
# Without a terminal pip's bars are noise: there it names the downloads of the longest step and is quiet otherwise.
ifeq ($(shell [ -t 2 ] && echo terminal),terminal)
QUIET :=
NO_BARS :=
else
QUIET := --quiet
NO_BARS := --progress-bar off
endif

.PHONY: help setup demo test lint sanitize

help:
	@echo "make demo       train and evaluate Mask2Former and Mask R-CNN on a real photograph, with pictures"
	@echo "make test       lint, then the test suite"
	@echo "make lint       ruff (rules and formatting) and mypy"
	@echo "make sanitize   the C++ tests of the operators under the address and undefined-behaviour sanitizers"
	@echo "make setup      only the set-up that each of these does by itself, in $(VENV)"

setup: $(PACKAGE)

demo: setup
	$(BIN)/python datasets/prepare_coins.py
	$(BIN)/python tools/quickstart.py $(DEMO_FLAGS)

test: lint
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sanitize: setup
	$(BIN)/python tests/ops/cpp/run.py --sanitize

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

$(STAMPS)/requirements: requirements/base.txt requirements/dev.txt requirements/without_dependencies.txt $(STAMPS)/torch
	@echo "== set-up 3/5: the packages of requirements/"
	$(PIP_INSTALL) $(QUIET) -r requirements/base.txt -r requirements/dev.txt
	$(PIP_INSTALL) $(QUIET) --no-deps -r requirements/without_dependencies.txt
	@touch "$@"

$(STAMPS)/detectron2: tools/install_detectron2.py tools/detectron2_adaptation.py $(STAMPS)/requirements
	@echo "== set-up 4/5: Detectron2"
	$(BIN)/python tools/install_detectron2.py
	@touch "$@"

$(PACKAGE): setup.py pyproject.toml mask2former_ext/__init__.py $(OPERATORS) $(STAMPS)/detectron2
	@echo "== set-up 5/5: mask2former_ext, editable, and its operators compiled: a minute or two"
	$(PIP_INSTALL) $(QUIET) --no-build-isolation --no-deps -e .
	@$(BIN)/python -c "from mask2former_ext.ops.extension import load_extension; print(load_extension())"
	@rm -f "$(STAMPS)/package-cuda"
	@touch "$(STAMPS)/package" "$@"
