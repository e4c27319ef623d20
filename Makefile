# The two commands: `make run` and `make test`. Both set everything up in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SET_UP := $(VENV)/set-up
ORACLES := $(VENV)/oracles
DOCS := $(VENV)/docs
SITE := build/docs
TORCH := torch==2.13.0
LAB ?= lab

.PHONY: run test quick test-all lint format bench docs docs-check clean

# Train the quick sanity study (a minute of training on two cores), print its table and the path of its report.
run: $(SET_UP)
	$(BIN)/shoal study run sanity --quick --lab $(LAB)

# Lint, check types, run the tests; types are checked beside the first tests, on one core for twenty seconds.
test: $(SET_UP)
	$(MAKE) --no-print-directory --jobs 2 lint quick

quick: $(SET_UP)
	$(BIN)/pytest -n 2 -m "not slow"

# The same with the proofs that take minutes, also those against libraries that nothing else here needs.
test-all: lint $(ORACLES)
	$(BIN)/pytest -n 2

lint: $(SET_UP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(SET_UP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Measure training steps beside the same runs trained by other means, on an otherwise idle machine, into build/bench.
bench: $(SET_UP)
	$(BIN)/python -m benchmarks

# Build the documentation into build/docs/html; a page of the gallery that fails, or a link that leads nowhere, ends it.
docs: $(DOCS)
	rm -rf $(SITE)
	$(BIN)/python docs/site/assemble.py $(SITE)/source
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs/site -d $(SITE)/doctrees $(SITE)/source $(SITE)/html
	@echo "documentation: $(SITE)/html/index.html"

# Open every page of it in Chromium, without a network, at two widths, in light and dark.
docs-check: docs
	$(BIN)/python docs/site/check.py $(SITE)/html

$(SET_UP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "shoal needs Python 3.11 or later; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(ORACLES): $(SET_UP) requirements-oracles.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-oracles.txt -c requirements.txt
	@touch $@

$(DOCS): $(SET_UP) requirements-docs.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt -c requirements.txt
	@touch $@

clean:
	rm -rf $(SITE) $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
