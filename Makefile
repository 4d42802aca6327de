# Needs GNU make and Python 3.11 or newer; everything else goes into .venv and, for the demo, .venv-demo. `make PYTHON=python3.13 test` picks another one.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The demo needs neither the tests' tools nor the SDKs.
DEMO_STAMP := .venv-demo/.installed
LOWEST_STAMP := .venv-lowest/.installed
PYTEST_ARGS ?=
# More than there are cores: many tests wait for processes that they start. 0 runs all in one process.
TEST_PROCESSES ?= 3
XDIST := -n $(TEST_PROCESSES) --dist worksteal
# For example `make laws LAWS_ARGS='--flows 1 --seed 4711 --shrink 60'`.
LAWS_ARGS ?= --flows 2000 --kills 3

.PHONY: help demo test test-lowest uvloop laws bench lint clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(DEMO_STAMP) ## run, kill, resume, edit and replay the example flow
	@.venv-demo/bin/python examples/demo.py

test: lint ## lint, types, import arrows and every test
	@$(BIN)/python -m pytest -q $(XDIST) $(PYTEST_ARGS)

uvloop: $(STAMP) ## the tests of the engine and of model calls, on uvloop (takes minutes)
	@KITARU_TEST_LOOP=uvloop $(BIN)/python -m pytest -q $(XDIST) tests/adapters tests/runtime tests/faults $(PYTEST_ARGS)

test-lowest: $(LOWEST_STAMP) ## engine, store and commands on the lowest versions of the dependencies (takes minutes)
	@.venv-lowest/bin/python -m pytest -q $(XDIST) tests/store tests/runtime tests/cli $(PYTEST_ARGS)

laws: $(STAMP) ## the promises of the log and of replay over every generated case (takes long)
	@KITARU_LAWS=all $(BIN)/python -m pytest -q $(XDIST) -m 'laws or hypothesis' $(PYTEST_ARGS)
	@$(BIN)/python -W ignore::RuntimeWarning -m tests.runtime.laws.run $(LAWS_ARGS)

bench: $(STAMP) ## the benchmarks: a table, and JSON in benchmarks/results
	@$(BIN)/python -m benchmarks

lint: $(STAMP) ## ruff, mypy --strict, import arrows
	@echo "ruff check";    $(BIN)/ruff check --quiet .
	@echo "ruff format";   $(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff --quiet .; exit 1; }
	@echo "mypy --strict"; $(BIN)/mypy --no-error-summary
	@echo "import arrows"; out=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$out"; exit 1; }

clean: ## remove the environment, caches and build output
	@rm -rf $(VENV) .venv-demo .venv-lowest build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage src/*.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

define venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Kitaru needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(@D)/bin/python || { echo "creating $(@D)"; $(PYTHON) -m venv $(@D); }
endef

# The stamp is newer than what decides the environment's content, so a second run installs nothing.
define install
	$(venv)
	@echo "installing kitaru with its extra '$(1)' into $(@D)"
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check -e '.[$(1)]' -c constraints.txt
	@touch $@
endef

$(STAMP): pyproject.toml constraints.txt
	$(call install,dev)

$(DEMO_STAMP): pyproject.toml constraints.txt
	$(call install,serve)

# Without the SDKs, which need later versions. pip cannot choose the lowest ones.
$(LOWEST_STAMP): pyproject.toml
	$(venv)
	@echo "installing kitaru with the lowest versions of its direct dependencies into $(@D)"
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check 'uv>=0.5'
	@$(@D)/bin/uv pip install -q --python $(@D)/bin/python --resolution lowest-direct -e '.[test]'
	@touch $@
