# One target per CI step. Every target makes .venv itself, with the pinned constraints.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help test lint types clean
help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

test: $(VENV)/.installed  ## Run the tests.
	$(BIN)/python -m pytest

lint: $(VENV)/.installed  ## Check style and docstrings.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed  ## Check types.
	$(BIN)/mypy

clean:  ## Remove the environment and the caches.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
