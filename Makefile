# `make run` and `make test` do all on a fresh machine with Python 3.11 or newer; `make help` lists the rest.
PYTHON ?= python3
PORT ?= 7860
HOST ?= 127.0.0.1
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TRAIN_STAMP := $(VENV)/.installed-train

.PHONY: help run setup setup-train check test test-only browser screenshots peers audit clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

run: setup  ## the app, on http://127.0.0.1:7860 (PORT= and HOST= change it)
	$(BIN)/python app.py --host $(HOST) --port $(PORT)

setup: $(STAMP)  ## the environment in .venv, with `marco` in .venv/bin

# The stamp is newer than what decides the environment, or pip runs again.
$(STAMP): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Marco needs Python 3.11 or newer; PYTHON= names one.")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt -c constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	@touch $@

setup-train: $(TRAIN_STAMP)  ## what fine-tuning needs, too

$(TRAIN_STAMP): $(STAMP) requirements-train.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-train.txt
	@touch $@

audit: setup  ## known weaknesses of the locked packages (needs the network)
	.ci/audit

check: setup  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

browser: setup  ## a browser for the tests: one that is there, Playwright's, or the system's package
	$(BIN)/python tests/get_browser.py

test: check setup-train browser test-only  ## lint, types and every test

test-only:
	$(BIN)/python -m pytest -n 2 --dist loadfile

screenshots: setup browser  ## the pictures of the README, from the running app
	$(BIN)/python docs/take_screenshots.py

# The peers ask for other versions of what Marco uses: their code alone goes into an environment of their own.
peers: setup  ## what benchmarks/peers needs, in .venv-peers
	test -x .venv-peers/bin/python || $(BIN)/python -m venv .venv-peers
	.venv-peers/bin/python -m pip install --disable-pip-version-check --quiet -r requirements.txt joblib ulid-py tqdm
	.venv-peers/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --editable . -r benchmarks/peers/requirements.txt

clean:  ## remove the environment
	rm -rf $(VENV) .venv-peers
