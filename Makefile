# Everything a developer does, by name. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
export UV_LINK_MODE ?= copy

.PHONY: help setup demo test test-fast test-k8s check up down bench soak clean locks audit sbom

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the locked packages and the recourse command (needs Python 3.11.4+ only)
	@echo "ready: $(BIN)/recourse"

$(STAMP): pyproject.toml requirements-dev.lock
	@found=; \
	for candidate in "$${PYTHON:-}" python3 python3.13 python3.12 python3.11; do \
	  [ -n "$$candidate" ] || continue; \
	  "$$candidate" -c 'import sys, ensurepip; sys.exit(not (3, 11, 4) <= sys.version_info[:3] < (3, 14))' 2>/dev/null || continue; \
	  found=$$candidate; break; \
	done; \
	[ -n "$$found" ] || { echo "setup: Python 3.11.4 to 3.13 with venv is needed; name one with PYTHON=/path/to/python" >&2; exit 1; }; \
	if ! $(BIN)/python -c '' 2>/dev/null; then \
	  echo "[1/3] virtual environment with $$("$$found" -V)"; rm -rf $(VENV); "$$found" -m venv $(VENV); \
	fi
	@if ! $(BIN)/uv --version 2>/dev/null | grep -qF 'uv $(UV_VERSION)'; then \
	  echo "[2/3] uv $(UV_VERSION)"; $(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)'; \
	fi
	@echo "[3/3] locked packages"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --compile-bytecode --require-hashes -r requirements-dev.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@# Once here, not at each start of each process where Python is told not to keep what it compiles.
	@$(BIN)/python -m compileall -q domain workers
	@touch $(STAMP)

check: $(STAMP) ## Lint, types and the rules of the house
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: check ## Everything a developer needs to trust a change (starts what it needs)
	@$(BIN)/pytest -n 2 --dist loadscope

test-fast: check ## Seconds: lint, types, rules of the house and the pure core
	@$(BIN)/pytest -q tests/domain

test-k8s: $(STAMP) ## The overlays on a real Kubernetes API server (built from its modules the first time, with Go: long)
	@$(BIN)/python -m tests.cluster.control_plane
	@RECOURSE_TEST_CLUSTER=1 $(BIN)/pytest tests/cluster

up: $(STAMP) ## Start the embedded stack in the foreground (Ctrl-C stops it)
	@$(BIN)/recourse up

down: $(STAMP) ## Stop the embedded stack
	@$(BIN)/recourse down

demo: $(STAMP) ## Start the stack and play the golden scenario
	@$(BIN)/recourse up --detach
	@$(BIN)/recourse demo

bench: $(STAMP) ## Measure the ratios of docs/performance.md (minutes)
	@$(BIN)/recourse bench all

soak: $(STAMP) ## Load with faults for SECONDS (an hour), RATE orders a second (1), judged; RECORD=file keeps the verdict
	@$(BIN)/recourse up --detach --light
	@$(BIN)/recourse bench soak --seconds $(or $(SECONDS),3600) --rate $(or $(RATE),1) $(if $(RECORD),--json $(RECORD))

clean: ## Remove what setup and the tests made here (the stack's data stay: recourse down)
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

locks: $(STAMP) ## Write the locks again after a change of the dependencies
	@$(BIN)/uv pip compile -q --generate-hashes --universal --python-version 3.11 --extra dev pyproject.toml -o requirements-dev.lock
	@$(BIN)/uv pip compile -q --generate-hashes --universal --python-version 3.11 -c requirements-dev.lock pyproject.toml -o requirements.lock

audit: $(STAMP) ## Ask the public advisories about every locked package (needs the network)
	@$(BIN)/uv tool run -q --from 'pip-audit==2.10.1' pip-audit --strict --disable-pip --require-hashes --progress-spinner=off -r requirements-dev.lock

sbom: $(STAMP) ## Write build/recourse.cdx.json: what the image is made of, as CycloneDX
	@mkdir -p build
	@$(BIN)/uv tool run -q --from 'cyclonedx-bom==7.5.0' cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON -o build/recourse.cdx.json requirements.lock
	@echo "build/recourse.cdx.json"
