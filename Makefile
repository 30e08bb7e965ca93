# make demo          install into .venv, write a sample dump, analyse it with plain `vol`, and write build/report.html
# make test          run the tests, each on one kernel, without those that take long (.venv)
# make test-all      run every test on every kernel
# make test-oldest   run the tests of `make test` on the oldest host that is supported (.venv-oldest)
# make fuzz          feed damaged input to every parser for MINUTES=60; FIRST=n begins with other cases than the last time
# make lint          ruff, mypy, import-linter, and pip-audit where it has data
# make bench         compare with other readers
# make clean         remove everything that the above made
# PYTHON=python3.13 chooses the interpreter of a new .venv; PYTEST_ARGS adds options of pytest.

PYTHON ?= python3
PYTEST_ARGS ?=
MINUTES ?= 60
FIRST ?= 0
OLDEST_HOST := volatility3==2.11.0

VENV := .venv
OLDEST := .venv-oldest
PIP_INSTALL := -m pip --disable-pip-version-check install --quiet
PYTEST := -m pytest -n auto --dist loadgroup
METADATA := setup.cfg pyproject.toml volatility3_kdump/version.py
SOURCES := $(METADATA) $(shell find volatility3_kdump kdump_sample plugins symbols -type f -not -name '*.pyc')
# setuptools packs whatever an earlier build left there.
FRESH_BUILD := rm -rf build/lib build/bdist.* *.egg-info

# Tests start hundreds of interpreters: what they compile is kept.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL:
.PHONY: demo test test-all test-oldest fuzz lint bench clean

demo: build/MEMORY.DMP
	$(VENV)/bin/vol -q -f build/MEMORY.DMP kdump.analyze
	@$(VENV)/bin/kdump report build/MEMORY.DMP -o build/report.html >/dev/null
	@echo "The same as a page: build/report.html"

build/MEMORY.DMP: $(VENV)/installed
	mkdir -p build
	$(VENV)/bin/kdump sample $@

test: $(VENV)/ready-test
	$(VENV)/bin/python $(PYTEST) $(PYTEST_ARGS)

test-all: $(VENV)/ready-test
	$(VENV)/bin/python $(PYTEST) --thorough $(PYTEST_ARGS)

test-oldest: $(OLDEST)/ready-test
	$(OLDEST)/bin/python $(PYTEST) $(PYTEST_ARGS)

fuzz: $(VENV)/ready-test
	KDUMP_FUZZ_MINUTES=$(MINUTES) KDUMP_FUZZ_FIRST=$(FIRST) $(VENV)/bin/python $(PYTEST) tests/fuzz $(PYTEST_ARGS)

lint: $(VENV)/ready-lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python .ci/audit

bench: $(VENV)/ready-bench $(VENV)/installed
	$(VENV)/bin/python benchmarks/run.py

clean:
	rm -rf build dist *.egg-info .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg $(OLDEST)/pyvenv.cfg:
	$(PYTHON) -m venv $(@D)

# The package itself, reinstalled when a source file changes.
$(VENV)/installed: $(SOURCES) | $(VENV)/pyvenv.cfg
	$(FRESH_BUILD)
	$(VENV)/bin/python $(PIP_INSTALL) '.[report]'
	@touch $@

# What tests, linters and benchmarks need; they import the checkout, so only new requirements matter.
$(VENV)/ready-%: $(METADATA) | $(VENV)/pyvenv.cfg
	$(FRESH_BUILD)
	$(VENV)/bin/python $(PIP_INSTALL) '.[$*]'
	@touch $@

$(OLDEST)/ready-%: $(METADATA) Makefile | $(OLDEST)/pyvenv.cfg
	$(FRESH_BUILD)
	$(OLDEST)/bin/python $(PIP_INSTALL) '$(OLDEST_HOST)' '.[$*]'
	@touch $@
