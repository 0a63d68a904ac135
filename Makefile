# `make` alone lists the targets. Each installs what it needs into .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo-output
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint types format gpu-check bench-l2 bench-intervals bench-extract bench-probe bench-evaluate stress-kill stress-damage \
	stress-full-disk stress-long bench-rules bench-demo-model demo-model clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## Install hiprobe with all extras into .venv

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hiprobe needs Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[extract,quantised,dev]'
	@touch $@

demo: install ## Run the whole path on generated clips; ends with AUC, AP and a report
	$(BIN)/hiprobe demo $(OUT)

test: install ## Run all tests, in two processes (WORKERS=…)
	$(BIN)/python -m pytest -n $(WORKERS)

check: lint types test ## Lint, types and tests

lint: install ## Check style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The stages' folders lie at the top level; mypy needs to see them below one folder `hiprobe`.
types: install ## Check types with mypy
	@mkdir -p build/types/hiprobe
	@for stage in manifest store extract probe evaluate sweep demo cli; do ln -sfn $(CURDIR)/$$stage build/types/hiprobe/$$stage; done
	cd build/types && MYPYPATH=. $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --namespace-packages --explicit-package-bases hiprobe

format: install ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-rules: install ## Which layers to read: nine rules on few-shot draws; writes docs/layer-rules.md
	$(BIN)/python -m benchmarks.rules

bench-l2: install ## Held-out AUC of the scorer's L2 strengths on the demo's store
	$(BIN)/python benchmarks/l2_strength.py $(OUT)/features.zarr

bench-intervals: install ## How often the intervals of AUC and AP hold the truth
	$(BIN)/python benchmarks/interval_coverage.py

bench-extract: install ## Extraction against bare forward passes and the usual loops
	$(BIN)/python benchmarks/extract_speed.py

bench-probe: install ## Layer reads, DLSP and sweeps against the obvious ways
	$(BIN)/python benchmarks/probe_speed.py

bench-evaluate: install ## Exact metrics from segments against expanded frames and scikit-learn
	$(BIN)/python benchmarks/evaluate_speed.py

gpu-check: install ## What only a GPU can show, on the four published shapes; at most ten minutes
	$(BIN)/python -m benchmarks.gpu_check

stress-kill: install ## Kill an extraction with two workers at 100 random instants
	$(BIN)/python benchmarks/kill_extract.py

stress-damage: install ## Damage files in 10,000 ways; who reads wrong numbers without a word?
	$(BIN)/python -m benchmarks.stress_damage

stress-full-disk: install ## Every command on a disk that is full; then with space again
	$(BIN)/python -m benchmarks.stress_full_disk

stress-long: install ## Memory, threads and files over 1,500 videos; a plan of 100,000
	$(BIN)/python -m benchmarks.stress_long

bench-demo-model: install ## Trained against random weights and pixel statistics; writes docs/demo-model.md
	$(BIN)/python -m benchmarks.demo_model

demo-model: install ## Train the demo's model again (some 25 minutes on two cores)
	$(BIN)/python -m hiprobe.demo.train

clean: ## Remove everything that make built
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
