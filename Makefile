# Every target has one line of help; `make` alone prints them.  Nothing but Python 3.11, make and a shell is needed:
# the tools come from PyPI into .venv, pinned by version and hash.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := UV_NO_PROGRESS=1 $(BIN)/uv
MEMBERS := libs/stdlib libs/idl libs/compiler libs/plugins services/admin services/console services/datacatalog services/notifier services/propeller services/sandbox services/scheduler .
STAMP := $(VENV)/.ready
ARGS ?=

# Importing flytekit takes a second with compiled bytecode and four without.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo up test lint format bench chaos protos requirements

help: ## Print what can be made
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: $(STAMP) ## Create .venv with everything pinned, and install the members into it (idempotent)

demo: $(STAMP) ## Run the examples on a platform of their own with flytekit's tools, and print what came out
	@$(BIN)/python examples/demo.py

up: $(STAMP) ## Start the platform on port 30080 and stay (ARGS="--port 31000 --data-dir DIR" changes that)
	@$(BIN)/aerodrome up $(ARGS)

test: $(STAMP) ## Run every test on two workers (ARGS="libs/compiler -x" goes to pytest)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(STAMP) ## Check format, style, types, the dependency rules, the protos and the pins
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	cd protos && ../$(BIN)/buf lint
	$(BIN)/python protos/breaking.py
	@! grep -nE '(https?|file|git\+[a-z]+)://|--(find-links|(extra-)?index-url)| @ ' requirements/*.txt || { echo "requirements/*.txt must name versions and hashes, never an address" >&2; exit 1; }

format: $(STAMP) ## Format the code and mend what can be mended by itself
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format .

bench: $(STAMP) ## Measure the platform on this machine, and print the figures beside their goals
	@$(BIN)/python tests/bench/run.py $(ARGS)

chaos: $(STAMP) ## Kill, stop and starve running services for hundreds of rounds, and see that nothing is lost
	@CHAOS_ROUNDS=$${CHAOS_ROUNDS:-200} CHAOS_KILLS=$${CHAOS_KILLS:-500} $(BIN)/python -m pytest -m chaos tests/chaos $(ARGS)

protos: $(STAMP) ## Generate the Python of protos/ into libs/idl
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python protos/generate.py

requirements: $(STAMP) ## Compile requirements/*.in to pinned, hashed *.txt
	$(UV) pip compile -q --no-header --generate-hashes --python-version 3.11 requirements/tools.in -o requirements/tools.txt
	$(UV) pip compile -q --no-header --generate-hashes --python-version 3.11 requirements/runtime.in -o requirements/runtime.txt
	$(UV) pip compile -q --no-header --generate-hashes --python-version 3.11 -c requirements/runtime.txt requirements/dev.in -o requirements/dev.txt

$(STAMP): requirements/dev.txt requirements/tools.txt $(patsubst %,%/pyproject.toml,$(MEMBERS))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Aerodrome needs Python 3.11 or newer; this is $$($(PYTHON) -V 2>&1). Set PYTHON=/path/to/python3.11." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "This Python cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv), then run make again." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Setting up $(VENV): a minute or two, once"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/tools.txt
	@$(UV) pip install -q --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.txt
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation $(patsubst %,-e %,$(MEMBERS))
	@$(BIN)/python -m compileall -q libs/*/src services/*/src
	@touch $@
