# make demo · make test · make lint · make sanitize    each sets up what it needs, once, in $(VENV).
# make test-oldest · make test-newest                  the test suite alone, in .venv-oldest and .venv-newest.
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
# What pip is asked to install first, and the files of all the rest.
TORCH ?= -r requirements/torch.txt
REQUIREMENTS ?= requirements/base.txt requirements/dev.txt
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
# Compiled, they lie among the sources, for the environment that did it last.
COMPILED := $(wildcard mask2former_ext/_C.*.so)
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

.PHONY: help setup demo test suite soak test-oldest test-newest lint sanitize

help:
	@echo "make demo       train and evaluate Mask2Former and Mask R-CNN on a real photograph, with pictures"
	@echo "make test       lint, then the test suite"
	@echo "make soak       the tests of long runs: some minutes"
	@echo "make lint       ruff (rules and formatting) and mypy"
	@echo "make test-oldest   the test suite with Python 3.10 and the oldest torch and packages that setup.py admits"
	@echo "make test-newest   the test suite with the newest torch of the package index"
	@echo "make sanitize   the C++ tests of the operators under the address and undefined-behaviour sanitizers"
	@echo "make setup      only the set-up that each of these does by itself, in $(VENV)"

setup: $(PACKAGE)

demo: setup
	$(BIN)/python datasets/prepare_coins.py
	$(BIN)/python tools/quickstart.py $(DEMO_FLAGS)

test: lint suite

suite: setup
	$(BIN)/python -m pytest --ignore=tests/soak $(PYTEST_FLAGS)

soak: setup
	$(BIN)/python -m pytest tests/soak $(PYTEST_FLAGS)

# PYTHON is the interpreter here too where it is given.
test-oldest:
	$(MAKE) suite VENV=.venv-oldest PYTHON="$(if $(filter file,$(origin PYTHON)),python3.10,$(PYTHON))" \
	    TORCH="-r requirements/oldest.txt" REQUIREMENTS=requirements/oldest.txt

# Which torch is the newest is asked every time: its stamp goes, and the operators are compiled for what is found.
test-newest:
	rm -f .venv-newest/stamps/torch
	$(MAKE) suite VENV=.venv-newest TORCH="--upgrade setuptools torch torchvision"

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
	@free=$$(($$(df -Pk "$(VENV)" | awk 'NR == 2 {print $$4}') / 1048576)); [ "$$free" -ge 9 ] || \
	    echo "warning: $$free GiB are free for $(VENV): the set-up takes about 7, and the tests up to 2 besides" >&2
	@mkdir -p "$(STAMPS)" && touch "$@"

$(STAMPS)/torch: $(filter %.txt,$(TORCH)) | $(STAMPS)/venv
	@echo "== set-up 2/5: torch and torchvision, with the CUDA packages they bring about 5 GB: some minutes"
	$(PIP_INSTALL) $(NO_BARS) $(TORCH) $(addprefix -c ,$(REQUIREMENTS))
	@touch "$@"

$(STAMPS)/requirements: $(REQUIREMENTS) requirements/without_dependencies.txt $(STAMPS)/torch
	@echo "== set-up 3/5: the packages of requirements/"
	$(PIP_INSTALL) $(QUIET) $(addprefix -r ,$(REQUIREMENTS))
	$(PIP_INSTALL) $(QUIET) --no-deps -r requirements/without_dependencies.txt
	@touch "$@"

$(STAMPS)/detectron2: tools/install_detectron2.py tools/detectron2_adaptation.py $(STAMPS)/requirements
	@echo "== set-up 4/5: Detectron2"
	$(BIN)/python tools/install_detectron2.py
	@touch "$@"

$(PACKAGE): setup.py pyproject.toml mask2former_ext/__init__.py $(OPERATORS) $(COMPILED) $(STAMPS)/detectron2
	@echo "== set-up 5/5: mask2former_ext, editable, and its operators compiled: a minute or two"
	$(PIP_INSTALL) $(QUIET) --no-build-isolation --no-deps -e .
	@$(BIN)/python -c "from mask2former_ext.ops.extension import load_extension; print(load_extension())"
	@rm -f "$(STAMPS)/package-cuda"
	@touch "$(STAMPS)/package" "$@"
