# All commands run in .venv, which the target `setup` creates. PYTHON must be 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TASK ?= maze2d-umaze-v1
EPISODES ?= 50
# Training steps of the demo's model; `make demo STEPS=` uses the number of the task.
STEPS ?= 2000
WORKERS ?= 2
DEMO := runs/demo
# Constraints of the installed packages and of their builds; older pip uses the first for both.
PINS := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
INSTALL := -m pip install --quiet --disable-pip-version-check

.PHONY: setup lint check mathematics test test-all demo lock test-newest test-oldest clean
.DEFAULT_GOAL := test

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PINS) $(BIN)/python $(INSTALL) -e ".[dev]"
	touch $@

# Processes of one thread each, because a second thread slows down the small networks of the tests.
# The tests of a file run in one process, because they share fixtures.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
SHAPES := --jaxtyping-packages=pgdiff.diffusion,pgdiff.denoisers,pgdiff.nn,pgdiff.model,beartype.beartype
MATHEMATICS := tests/diffusion tests/nn tests/denoisers tests/model
UNITS := tests/core tests/data tests/diffusion tests/nn tests/denoisers tests/critics tests/dynamics tests/guides tests/testing tests/packaging

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Before a commit: linters, types, imports and unit tests, without the build of a wheel.
check: lint
	$(PYTEST) -m "not slow" --ignore=tests/packaging/test_wheel.py $(UNITS)

# The tests of CI: all but the slow ones; the mathematics runs with checks of annotated shapes, while
# the linters run.
test: setup
	$(MAKE) --no-print-directory -j 2 -o setup lint mathematics
	$(PYTEST) -m "not slow" --durations=10 $(addprefix --ignore=,$(MATHEMATICS)) tests

mathematics: setup
	$(PYTEST) -m "not slow" $(SHAPES) $(MATHEMATICS)

# All tests, including kills, long trainings and whole notebooks.
test-all: lint
	$(PYTEST) --cov=pgdiff --cov-report=term --cov-fail-under=90 --durations=20 tests

# Record, train, plan and evaluate a guided planner, with pictures. One thread: a second one is slower
# next to a busy process, and changes the last bits of the results.
demo: export OMP_NUM_THREADS ?= 1
demo: setup
	$(BIN)/pgdiff collect task=$(TASK) out=$(DEMO)/$(TASK).hdf5 overwrite=true
	$(BIN)/pgdiff train recipe=strided task=$(TASK) data=$(DEMO)/$(TASK).hdf5 out=$(DEMO)/run overwrite=true $(if $(STEPS),recipe.stages.model.trainer.steps=$(STEPS))
	$(BIN)/pgdiff plan run=$(DEMO)/run seed=10003 out=$(DEMO)/plan overwrite=true
	$(BIN)/pgdiff evaluate run=$(DEMO)/run episodes=$(EPISODES) ablation=true out=$(DEMO)/evaluation overwrite=true
	$(BIN)/pgdiff evaluate run=$(DEMO)/run episodes=1 out=$(DEMO)/episode overwrite=true

# Pin every package of the environment for every Python and system that pyproject.toml allows, in
# constraints.txt. Pinned versions are kept while they are allowed: UPGRADE=--upgrade updates all
# packages, UPGRADE="--upgrade-package numpy" one.
lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate \
		--custom-compile-command "make lock" $(UPGRADE) --quiet --output-file constraints.txt

# The tests with the newest and with the oldest versions that pyproject.toml allows, in separate
# environments. Warnings of these versions are not errors. TESTS=tests/data runs a part.
test-newest:
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python $(INSTALL) --upgrade --upgrade-strategy eager -e ".[test]"
	OMP_NUM_THREADS=1 $(VENV)-newest/bin/python -m pytest -W default $(TESTS)

test-oldest: setup
	$(BIN)/uv pip compile pyproject.toml --extra test --resolution lowest-direct --no-annotate \
		--python $(BIN)/python --quiet --output-file $(VENV)/oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python $(INSTALL) -c $(VENV)/oldest.txt -e ".[test]"
	OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python -m pytest -W default $(TESTS)

# Remove caches and build products; data, runs and environments are kept.
clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find pgdiff envs tests -name __pycache__ -type d -prune -exec rm -rf {} +
