# Two commands for a newcomer: `make demo` runs the main job, `make test` passes the tests.
# Each sets up .venv by itself when needed.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DOCS_STAMP := .venv/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help setup docs demo test test-slow test-gpu gpu-check lint format bench bench-compare wheel clean

help:
	@echo "make demo   set up, then train small networks, measure 12 sharpness definitions, correlate, report"
	@echo "make test   set up, then run the tests"
	@echo "make lint   ruff and mypy --strict"
	@echo "make gpu-check   tests and timings that need a GPU, in less than eight minutes"
	@echo "make docs   the site of the documentation in docs/_build/html, with warnings as errors"
	@echo "make bench  speed as ratios to bare passes, recorded for this machine; make bench-compare fails on a worse one"

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "acutance needs Python 3.11 or newer"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/acutance run mnist --out runs/mnist

# pytest rewrites test files for its messages: half of what collecting them takes, where nothing may be kept of it.
test test-slow: export PYTHONDONTWRITEBYTECODE :=

# A worker that dies fails its test and ends the tests: the plugin would wait for ever for the tests that it held.
test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart=0

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart=0

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -q -m gpu

# All that only a GPU can show, in less than eight minutes: tests, then what is timed, recorded for this machine.
gpu-check: $(STAMP)
	$(BIN)/python benchmarks/gpu_check.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy registry plugins

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@

# Nothing is fetched, neither now nor by who reads it; pages with code are executed.
docs: $(DOCS_STAMP)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

BENCH = $(BIN)/python -m pytest benchmarks/perf -q -o addopts="--import-mode=importlib" --benchmark-only

bench: $(STAMP)
	$(BENCH) --benchmark-autosave --record $(ARGS)

bench-compare: $(STAMP)
	$(BENCH) --compare $(ARGS)

wheel: $(STAMP)
	$(BIN)/python -m build --wheel

clean:
	rm -rf dist build docs/_build docs/root docs/reference .pytest_cache .mypy_cache .ruff_cache
