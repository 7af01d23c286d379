# Every target sets itself up: `make demo` and `make test` are complete on a fresh machine that has only
# Python >= 3.11 with its venv module, git and make. The README shows the same lines without make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/uv

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-engines lint docs lock clean

help:
	@echo "make setup      a virtual environment in $(VENV), from requirements.lock"
	@echo "make demo       set up, then fit the 1,797 real digits and ask every question"
	@echo "make test       set up, then run the tests (the fast lane)"
	@echo "make test-slow  set up, then run every test"
	@echo "make test-engines  set up with Ray and Spark, then run the tests with them (needs Java)"
	@echo "make lint       ruff check, ruff format --check, mypy"
	@echo "make docs       build the documentation into site/"
	@echo "make lock       resolve requirements.lock again"
	@echo "make clean      remove $(VENV) and what tools leave behind"
	@echo "PYTHON=...      the Python to use (now: $(PYTHON))"

setup: $(READY)

# Done again only when what is to be installed has changed.
$(READY): pyproject.toml requirements.lock
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: no '$(PYTHON)' on the PATH: install Python 3.11 or later, or name one: make setup PYTHON=/path/to/python3"; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: '$(PYTHON)' is $$($(PYTHON) --version 2>&1): Thalweg needs Python 3.11 or later." \
	       "Name one: make setup PYTHON=python3.12"; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' has no venv module: on Debian and Ubuntu, apt install python3-venv"; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: setup
	$(BIN)/thalweg demo

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -n auto --dist loadfile --slow

test-engines: setup
	$(UV) pip install --quiet --python $(BIN)/python -e ".[ray,spark]"
	$(BIN)/python -m pytest --slow tests/engines

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict

lock: setup
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev pyproject.toml \
	  -o requirements.lock --no-header --no-annotate
	@! grep -n "://" requirements.lock || { echo "error: requirements.lock names a host"; exit 1; }

clean:
	rm -rf $(VENV) site dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
