# make demo: see it work.   make test: lint, types, SQL lint, every test.   make ui: the web UI and the daemon.
# make crash-test, make soak-test: minutes to an hour of killing and of use; see docs/reliability.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Where it is set, each of the many processes of a night compiles our modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test types lint crash-test soak-test ui clean

demo: $(STAMP)
	$(BIN)/nightshelf demo

test: $(STAMP)
	$(MAKE) --no-print-directory -j 2 types lint
	$(BIN)/pytest -n 2

types: $(STAMP)
	$(BIN)/mypy

# dg loads the instance of the home, and would leave one behind where `make demo` wants to put its own.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	cd dbt && ../$(BIN)/sqlfluff lint --disable-progress-bar .
	NIGHTSHELF_HOME=$(VENV)/home $(BIN)/dg check defs

# The long forms of what docs/reliability.md promises; `make test` holds a sample of each.
crash-test: $(STAMP)
	$(BIN)/pytest -m crash --timeout 7200

soak-test: $(STAMP)
	$(BIN)/pytest -m soak --timeout 7200

ui: $(STAMP)
	$(BIN)/nightshelf ui

# Data in home/ is left alone: remove that folder yourself.
clean:
	rm -rf $(VENV) build *.egg-info dbt/target dbt/logs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Nightshelf needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
