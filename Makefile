# `make` lists what there is. Everything runs in .venv, which is made anew only when pyproject.toml or constraints.txt
# changed. Another Python: make PYTHON=/path/to/python3.11 …

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# Not compiled: half of the time goes into modules that are never imported.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
KILLS ?= 200
# What draws the diagrams of the documentation, fetched once.
MERMAID_VERSION := 11.17.2
MERMAID := build/docs/mermaid-$(MERMAID_VERSION).min.js
# Examples that each property is tried on: quick, or thorough as in `make test`.
EXAMPLES ?= quick

# The first that runs and is new enough: a name on the path may be a version switcher's that has nothing behind it.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then command -v "$$name"; break; fi; \
	done)

.PHONY: help demo test test-unit test-process test-integration test-chaos test-torch test-runtimes test-cluster test-browser e2e kind chaos bench bench-authoring bench-operator docs lint format constraints clean

help:  ## list the targets
	@awk -F ':.*  ## ' '/^[a-z0-9-]+:.*  ## / { printf "make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## train a real model over simulated phones on this machine
	@$(BIN)/gridnode demo

test: EXAMPLES := thorough
test: lint test-unit test-process test-integration test-chaos test-browser  ## all that must pass: lint, types, imports, tests without Kubernetes and PyTorch

test-unit: $(VENV)/.dev  ## unit tests: no database, no other processes, seconds
	@$(BIN)/python -m pytest tests/unit -m "not process and not torch and not runtimes" --hypothesis-profile=$(EXAMPLES)

test-process: $(VENV)/.dev  ## unit tests that start processes: the sandbox, several workers, the command line
	@$(BIN)/python -m pytest tests/unit -m process --hypothesis-profile=$(EXAMPLES)

test-integration: $(VENV)/.dev  ## tests on a real PostgreSQL, which starts by itself
	@$(BIN)/python -m pytest -m "integration and not chaos"

test-chaos: $(VENV)/.dev  ## the short chaos test, about a minute
	@$(BIN)/python -m pytest -m chaos

chaos: $(VENV)/.dev  ## the long chaos test: KILLS=200 kills of nodes and database
	@$(BIN)/python -m pytest -m chaos --chaos-kills=$(KILLS) --timeout=0 -s

test-cluster: $(VENV)/.dev  ## tests on a real Kubernetes API server; needs Go, which builds it on first use
	@$(BIN)/python -m pytest -m cluster

e2e: $(VENV)/.dev  ## from helm install to finished models on a real kubelet; needs root and Go, or E2E="--kubeconfig … --load-image …"
	@[[ -n "$(E2E)" ]] || sh tests/support/real_cluster/install.sh
	@$(BIN)/python -m pytest tests/e2e -m e2e $(E2E)

kind:  ## GridNode in a kind cluster, with ports 5000 and 5001 here; needs Docker, kind, kubectl and helm
	@examples/kind/up.sh

test-torch: $(VENV)/.torch  ## tests of the SDK and of TorchScript averaging plans; installs PyTorch, some 5 GB
	@$(BIN)/python -m pytest -m "torch and not runtimes"

test-runtimes: $(VENV)/.torch  ## plans in the runtimes of 2020's phones, which it downloads once; needs g++, Node.js, npm and Chromium
	@$(BIN)/python -m pytest -m runtimes

test-browser: $(VENV)/.dev  ## the dashboard in Chromium, which apt installs where it is missing; needs npm; screenshots go to build/
	@if [[ -z "$${CHROMIUM:-}" ]] && ! command -v chromium > /dev/null; then \
		if command -v apt-get > /dev/null && [[ "$$(id -u)" = 0 ]]; then apt-get update -qq && apt-get install -y -qq chromium; \
		else echo "The browser tests need Chromium. On Debian: apt-get install chromium; or name yours: CHROMIUM=/path/to/chromium make test-browser" >&2; exit 1; fi; fi
	@$(BIN)/python -m pytest tests/browser -m browser

bench: $(VENV)/.dev  ## measure sessions per second, latency, CPU and memory
	@$(BIN)/python -m bench.run

bench-operator: $(VENV)/.dev  ## measure the operator with 1000 GridNodes on a real API server
	@$(BIN)/python -m bench.operator

docs: $(VENV)/.docs  ## build the documentation site in build/site
	@[[ -e $(MERMAID) ]] || { mkdir -p build/docs && cd build/docs \
	&& npm pack --silent mermaid@$(MERMAID_VERSION) > /dev/null \
	&& tar -xzf mermaid-$(MERMAID_VERSION).tgz package/dist/mermaid.min.js \
	&& mv package/dist/mermaid.min.js $(notdir $(MERMAID)) && rm -r package mermaid-$(MERMAID_VERSION).tgz; } \
	|| echo "Mermaid could not be fetched by npm: diagrams are shown as their text."
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench-authoring: $(VENV)/.torch  ## measure building plans and training simulated phones; installs PyTorch, some 5 GB
	@$(BIN)/python -m bench.authoring

lint: $(VENV)/.dev  ## style, types, import directions
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev  ## let ruff put the code in order
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

constraints:  ## pin the newest versions of all dependencies in constraints.txt
	@scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	"$(PYTHON)" -m venv "$$scratch/venv"; \
	"$$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[demo,dev,bench]'; \
	{ echo '# Every version that is installed, made by `make constraints`.'; \
	  "$$scratch/venv/bin/python" -m pip freeze --exclude-editable; } > "$$scratch/constraints.txt"; \
	cp "$$scratch/constraints.txt" constraints.txt

clean:  ## remove .venv, caches and build results
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made: pyproject.toml constraints.txt
	@[[ -n "$(PYTHON)" ]] || { echo "GridNode needs Python 3.11 or newer, and none was found. Install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "GridNode needs Python 3.11 or newer; $(PYTHON) is not." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON) …"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made
	@echo "Installing GridNode …"
	@$(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made
	@echo "Installing GridNode with what its tests need …"
	@$(PIP_INSTALL) --editable '.[demo,dev]'
	@touch $(VENV)/.demo $@

$(VENV)/.docs: $(VENV)/.made
	@echo "Installing what builds the documentation …"
	@$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

$(VENV)/.torch: $(VENV)/.dev
	@echo "Installing PyTorch …"
	@$(PIP_INSTALL) --editable '.[torch-dev]'
	@touch $@
