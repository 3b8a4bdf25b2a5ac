# Everything runs in .venv, which the first target makes. PYTHON is 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TASK ?= maze2d-umaze-v1
EPISODES ?= 50
# Training steps of the demo's model; `make demo STEPS=` uses the task's own number.
STEPS ?= 2000
WORKERS ?= 2
DEMO := runs/demo
# What is installed, and what builds it; older versions of pip take the first variable for both.
PINS := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
INSTALL := -m pip install --quiet --disable-pip-version-check

.PHONY: setup test fast demo lock test-newest test-oldest clean
.DEFAULT_GOAL := test

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PINS) $(BIN)/python $(INSTALL) -e ".[dev]"
	touch $@

# What CI runs. Processes of one thread each: on networks as small as the tests' a second thread only
# gets in the way. A file stays together, for what its tests share is made once.
test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov=pgdiff --cov-report=term --cov-fail-under=90 --durations=10

fast: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

# Record, train, plan, evaluate: from nothing to a guided planner with its pictures. With one thread:
# a second one slows it down where another process is busy, and changes the last bits of the results.
demo: export OMP_NUM_THREADS ?= 1
demo: setup
	$(BIN)/pgdiff collect task=$(TASK) out=$(DEMO)/$(TASK).hdf5 overwrite=true
	$(BIN)/pgdiff train recipe=strided task=$(TASK) data=$(DEMO)/$(TASK).hdf5 out=$(DEMO)/run overwrite=true $(if $(STEPS),task.training_steps=$(STEPS))
	$(BIN)/pgdiff plan run=$(DEMO)/run seed=10003 out=$(DEMO)/plan overwrite=true
	$(BIN)/pgdiff evaluate run=$(DEMO)/run episodes=$(EPISODES) ablation=true out=$(DEMO)/evaluation overwrite=true
	$(BIN)/pgdiff evaluate run=$(DEMO)/run episodes=1 out=$(DEMO)/episode overwrite=true

# Pin every package of the environment for every Python and system that pyproject.toml allows, in
# constraints.txt. What is pinned stays so while it is allowed: UPGRADE=--upgrade renews everything,
# UPGRADE="--upgrade-package numpy" one package.
lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate \
		--custom-compile-command "make lock" $(UPGRADE) --quiet --output-file constraints.txt

# The tests with the newest and with the oldest versions that pyproject.toml allows, each in an
# environment of its own. Another version's own warnings are no failures. TESTS=tests/data is a part.
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

# Caches and build products; data, runs and environments stay.
clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find pgdiff envs tests -name __pycache__ -type d -prune -exec rm -rf {} +
