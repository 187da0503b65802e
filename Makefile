# Every target below has one line of help; `make` alone prints them.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := UV_NO_PROGRESS=1 $(BIN)/uv
MEMBERS := libs/stdlib libs/idl libs/compiler libs/plugins services/admin services/console services/propeller services/sandbox .
STAMP := $(VENV)/.ready

.PHONY: help setup requirements

help: ## Print what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: $(STAMP) ## Create .venv with everything pinned, and install the members into it (idempotent)

$(STAMP): requirements/dev.txt requirements/tools.txt $(patsubst %,%/pyproject.toml,$(MEMBERS))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Aerodrome needs Python 3.11 or newer; this is $$($(PYTHON) -V). Set PYTHON=/path/to/python3.11." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "This Python cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv), then run make again." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/tools.txt
	@$(UV) pip install -q --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.txt
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation $(patsubst %,-e %,$(MEMBERS))
	@touch $@

requirements: ## Compile requirements/*.in to pinned, hashed *.txt
	$(UV) pip compile -q --no-header --generate-hashes --python-version 3.11 requirements/tools.in -o requirements/tools.txt
	$(UV) pip compile -q --no-header --generate-hashes --python-version 3.11 requirements/runtime.in -o requirements/runtime.txt
	$(UV) pip compile -q --no-header --generate-hashes --python-version 3.11 -c requirements/runtime.txt requirements/dev.in -o requirements/dev.txt
