# luthier: every task of a developer and of a newcomer. `make help` lists them.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
BIN := $(VENV)/bin
TORCH := torch==2.13.0
REQUIREMENTS ?= requirements/cpu.txt
STAMP := $(VENV)/.installed-$(shell cat $(REQUIREMENTS) requirements/dev.txt pyproject.toml Makefile 2>/dev/null | cksum | cut -d' ' -f1)
ARGS ?=
FAST := not slow and not gpu
# Unit tests share out their work; the others share one Ray cluster. ARGS may leave either without a test.
SHARED := -n auto --maxprocesses 4
OR_NONE = || { [ $$? -eq 5 ] && [ -n "$(ARGS)" ]; }

# Each process would compile torch and transformers anew, which takes twice as long as all else in their import.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all check format bench coverage clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

setup: $(STAMP) ## Make the virtual environment and install everything, pinned

$(STAMP): $(REQUIREMENTS) requirements/dev.txt pyproject.toml
	@echo "==> Python: $(PYTHON)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"luthier needs Python 3.11, 3.12 or 3.13; $(PYTHON) is {v[0]}.{v[1]}. Set PYTHON=/path/to/python3.11")'
	@echo "==> making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "==> installing $(TORCH) with its dependencies"
	@$(BIN)/python -m pip install --quiet --no-compile "$(TORCH)"
	@echo "==> installing $(REQUIREMENTS) and requirements/dev.txt (pinned and complete, hence --no-deps)"
	@$(BIN)/python -m pip install --quiet --no-deps --no-compile -r $(REQUIREMENTS) -r requirements/dev.txt
	@echo "==> installing luthier, editable"
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-*; touch $@
	@echo "==> ready: $(BIN)/luthier --help"

quickstart: setup ## Run the whole life cycle on real data; KEEP=1 leaves the endpoint up
	$(BIN)/luthier run configs/quickstart.yaml $(if $(KEEP),--keep,) $(ARGS)

test: setup ## Run the tests that need no GPU and no patience
	@echo "==> unit tests: $(FAST) (make test-all runs the slow ones too)"
	$(BIN)/python -m pytest -m "unit and $(FAST)" $(SHARED) $(ARGS) $(OR_NONE)
	@echo "==> tests on a Ray cluster: $(FAST)"
	$(BIN)/python -m pytest -m "not unit and $(FAST)" $(ARGS) $(OR_NONE)

test-all: setup ## Run every test that this machine can
	$(BIN)/python -m pytest -m "not gpu" $(ARGS)

check: setup ## Format, lint, types and unit tests: what a commit must pass
	$(BIN)/ruff format --check luthier luthier/trainers luthier/tuning luthier/serving luthier/cluster tests benchmarks
	$(BIN)/ruff check luthier luthier/trainers luthier/tuning luthier/serving luthier/cluster tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m unit $(SHARED) $(ARGS)

format: setup ## Format the code
	$(BIN)/ruff format luthier luthier/trainers luthier/tuning luthier/serving luthier/cluster tests benchmarks
	$(BIN)/ruff check --fix luthier luthier/trainers luthier/tuning luthier/serving luthier/cluster tests benchmarks

bench: setup ## Run one benchmark: make bench NAME=train_throughput
	@test -f "benchmarks/$(NAME).py" || { echo "make bench NAME=...: benchmarks are: $$(ls benchmarks/*.py 2>/dev/null | xargs -n1 basename 2>/dev/null | sed 's/[.]py//' | tr '\n' ' ')"; exit 2; }
	$(BIN)/python benchmarks/$(NAME).py $(ARGS)

coverage: setup ## Tests with coverage of the whole tree
	$(BIN)/python -m pytest -m "$(FAST)" --cov=. $(ARGS)

clean: ## Remove the virtual environment and caches; runs and registry stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
