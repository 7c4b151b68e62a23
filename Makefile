# model-runner: everything a developer does, one word each. `make help` lists them.

PYTHON ?= python3
PEERS ?= here
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := tests/clients/node
RUST_SOURCES := Cargo.toml Cargo.lock .cargo/config.toml $(shell find rust -name '*.rs' -o -name Cargo.toml)

.DEFAULT_GOAL := help
.PHONY: help build run test bench lint type clean wheel demo-model

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(VENV)/.built ## Set up .venv with everything, and build the Rust extension into it

run: build demo-model ## Fetch a small model if it is not there, then serve on 127.0.0.1:12434
	@$(BIN)/model-runner serve

test: $(VENV)/.tools $(VENV)/.clients build wheel ## Set everything up and pass all tests
	cargo test --workspace --quiet
	$(BIN)/python -m pytest

bench: $(VENV)/.tools build ## Measure the data plane beside nginx and what else is here; PEERS=all fetches routers, too
	cargo build --release --package model-runner-load
	$(BIN)/python benches/peers/run.py --peers $(PEERS)
	$(BIN)/python benches/transfer/transfer.py

lint: $(VENV)/.tools ## Check the formatting and run the linters
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff format --check
	$(BIN)/ruff check

type: $(VENV)/.tools build ## Check the types, and the stub of the extension against the extension
	$(BIN)/mypy
	cd benches/peers && MYPYPATH=$(abspath python) $(abspath $(BIN))/mypy --strict --python-version 3.10 *.py
	cd benches/store && MYPYPATH=$(abspath python) $(abspath $(BIN))/mypy --strict --python-version 3.10 *.py
	cd benches/state && MYPYPATH=$(abspath python) $(abspath $(BIN))/mypy --strict --python-version 3.10 *.py
	cd benches/transfer && MYPYPATH=$(abspath python):$(abspath benches/peers) $(abspath $(BIN))/mypy --strict --python-version 3.10 *.py
	MYPYPATH=python $(BIN)/python -m mypy.stubtest model_runner._core

wheel: $(VENV)/.wheel ## Build the wheel into dist/

clean: ## Remove all that was built; models stay
	cargo clean --quiet
	rm -rf $(VENV) $(CLIENTS)/node_modules dist .cache .mypy_cache .ruff_cache .pytest_cache python/model_runner/*.so

# Not a user's word: `run` needs it.
demo-model: build
	@$(BIN)/python scripts/demo_model.py

$(VENV)/bin/python:
	@echo 'creating $(VENV) …'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip 'maturin>=1.9,<2'

$(VENV)/.built: $(VENV)/bin/python pyproject.toml $(RUST_SOURCES)
	@command -v cargo >/dev/null || { echo 'cargo is missing: install Rust from https://rustup.rs'; exit 1; }
	@echo 'building the Rust extension and installing what it needs (a minute or two, once) …'
	@PIP_QUIET=1 VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --quiet --extras embedded
	@touch $@

$(VENV)/.tools: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

# The SDKs that tests/clients drives. LiteLLM wants an older huggingface-hub than ours, so it has a directory of its own.
$(VENV)/.clients: $(VENV)/.tools $(CLIENTS)/package.json $(CLIENTS)/package-lock.json
	@echo 'installing the SDKs that the tests drive the server with (a minute, once) …'
	$(BIN)/python -m pip install --quiet --group clients
	@rm -rf .cache/litellm
	$(BIN)/python -m pip install --quiet --no-warn-conflicts --target .cache/litellm --group litellm
	@if command -v npm >/dev/null; then npm ci --prefix $(CLIENTS) --silent --no-audit --no-fund; \
	else echo 'npm is missing: the tests of SDKs for Node are skipped'; fi
	@touch $@

$(VENV)/.wheel: $(VENV)/.built $(shell find python -name '*.py' -o -name '*.pyi')
	rm -rf dist
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin build --release --quiet --out dist
	@touch $@
