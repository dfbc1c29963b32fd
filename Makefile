# make demo: install, then train, evaluate and predict on an embedded data set, on the CPU.
# make test: install what the tests need, and run them all.
# Needs Python 3.11 or later, make, and a package index that pip can reach. VENV=DIR puts the environment elsewhere.
VENV ?= .venv
PYTHON ?= python3
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
SOURCES := pyproject.toml $(shell find src -name '*.py')

.PHONY: demo test lint
.DEFAULT_GOAL := demo

demo: $(VENV)/.rcnn-installed
	@$(VENV)/bin/rcnn demo --output demo

# one thread a test process: two processes on two cores, each as fast as it can be
test: lint
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

lint: $(VENV)/.rcnn-developed
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/pyrefly check --python-interpreter-path $(VENV)/bin/python --summary=none

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"rcnn needs Python 3.11 or later, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.rcnn-installed: $(SOURCES) | $(VENV)/bin/python
	@echo "installing rcnn into $(VENV) (PyTorch is large: this takes minutes the first time)"
	@$(PIP) .
	@touch $@

$(VENV)/.rcnn-developed: pyproject.toml | $(VENV)/bin/python
	@echo "installing rcnn and what its tests need into $(VENV) (PyTorch is large: this takes minutes the first time)"
	@$(PIP) --editable '.[dev,plot]'
	@touch $@
