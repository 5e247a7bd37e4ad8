# Two commands for a newcomer: `make demo` runs the main job, `make test` passes the tests.
# Each sets up .venv by itself when needed.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DOCS_STAMP := .venv/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help setup setup-locked lock docs demo test test-slow test-oldest test-newest test-sdist test-gpu gpu-check lint api-check format bench \
	bench-compare wheel dist clean

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

# The very versions that the tests were last seen to pass with, for development and CI.
setup-locked:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint requirements-dev.lock -e ".[dev]"
	touch $(STAMP)

# From the versions in .venv, once the tests pass with them; holds for Python 3.11 to 3.13 and every system.
lock: $(STAMP)
	$(BIN)/python -m pip install --quiet uv
	mkdir -p build && $(BIN)/python -m pip freeze --exclude-editable | sed 's/+.*//' > build/installed.txt
	$(BIN)/uv pip compile --quiet --universal --no-emit-index-url --no-annotate --python-version 3.11 --extra dev \
		--constraint build/installed.txt --custom-compile-command "make lock" --output-file requirements-dev.lock pyproject.toml

demo: $(STAMP)
	$(BIN)/acutance run mnist --out runs/mnist

# pytest rewrites test files for its messages: half of what collecting them takes, where nothing may be kept of it.
test test-slow: export PYTHONDONTWRITEBYTECODE :=

# A worker that dies fails its test and ends the tests: the plugin would wait for ever for the tests that it held.
test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart=0

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart=0

# Statistics, checkpoints, models and some measures, with the lowest versions that pyproject.toml allows, and with the newest.
BOUNDED = tests/analysis tests/core tests/io tests/model tests/study tests/measures/test_curvature.py tests/measures/test_sharpness.py \
	tests/text/test_transformers_pool.py
TOOLS = pytest pytest-timeout pytest-xdist pytest-benchmark hypothesis jsonschema

define BOUNDED_TESTS
	$(PYTHON) -m venv .venv-$(1)
	.venv-$(1)/bin/python -m pip install --quiet uv
	.venv-$(1)/bin/uv pip install --quiet --python .venv-$(1)/bin/python $(2) -e ".[demo,http,parquet]"
	.venv-$(1)/bin/uv pip install --quiet --python .venv-$(1)/bin/python $(TOOLS)
	.venv-$(1)/bin/python -m pytest -q -n auto --dist loadfile -W ignore::DeprecationWarning $(BOUNDED)
endef

test-oldest:
	$(call BOUNDED_TESTS,oldest,--resolution lowest-direct)

test-newest:
	$(call BOUNDED_TESTS,newest,--upgrade)

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -q -m gpu

# All that only a GPU can show, in less than eight minutes: tests, then what is timed, recorded for this machine.
gpu-check: $(STAMP)
	$(BIN)/python benchmarks/gpu_check.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy registry plugins

# Whether the frozen API is that of the sources; python tests/golden_api.py --write freezes it anew.
api-check: $(STAMP)
	PYTHONPATH=registry:plugins $(BIN)/python tests/golden_api.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@

# Nothing is fetched, neither now nor by who reads it; pages with code are executed.
docs: $(DOCS_STAMP)
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
	@echo "docs/_build/html/index.html"

BENCH = $(BIN)/python -m pytest benchmarks/perf -q -o addopts="--import-mode=importlib" --benchmark-only

bench: $(STAMP)
	$(BENCH) --benchmark-autosave --record $(ARGS)

bench-compare: $(STAMP)
	$(BENCH) --compare $(ARGS)

wheel: $(STAMP)
	$(BIN)/python -m build --wheel

dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build

# What lies in the archive of the sources is all that its tests need.
test-sdist: dist
	rm -rf build/sdist && mkdir -p build/sdist && tar -xzf dist/acutance-*.tar.gz -C build/sdist --strip-components 1
	cd build/sdist && PYTHONPATH=$$PWD/registry:$$PWD/plugins $(CURDIR)/$(BIN)/python -m pytest -q -n auto --dist loadfile \
		-p no:cacheprovider tests/test_packaging.py tests/test_dependencies.py tests/test_layout.py tests/test_readme.py tests/analysis tests/core

clean:
	rm -rf dist build .venv-oldest .venv-newest docs/_build docs/root docs/reference .pytest_cache .mypy_cache .ruff_cache
