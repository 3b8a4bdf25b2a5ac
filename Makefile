# Everything runs in .venv, which the first target makes. PYTHON is 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TASK ?= maze2d-umaze-v1
EPISODES ?= 50
WORKERS ?= 2
DEMO := runs/demo

.PHONY: setup test fast demo clean
.DEFAULT_GOAL := test

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
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

# Record, train, plan, evaluate: from nothing to a guided planner with its pictures.
demo: setup
	$(BIN)/pgdiff collect task=$(TASK) out=$(DEMO)/$(TASK).hdf5 overwrite=true
	$(BIN)/pgdiff train recipe=strided task=$(TASK) data=$(DEMO)/$(TASK).hdf5 out=$(DEMO)/run overwrite=true
	$(BIN)/pgdiff plan run=$(DEMO)/run seed=10003 out=$(DEMO)/plan overwrite=true
	$(BIN)/pgdiff evaluate run=$(DEMO)/run episodes=$(EPISODES) ablation=true out=$(DEMO)/evaluation overwrite=true
	$(BIN)/pgdiff evaluate run=$(DEMO)/run episodes=1 out=$(DEMO)/episode overwrite=true

# Caches and build products; data, runs and .venv stay.
clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find pgdiff envs tests -name __pycache__ -type d -prune -exec rm -rf {} +
