# Two commands: `make demo` and `make test`. Both need python3 (with venv), a C++ compiler and make;
# everything else goes into $(VENV).
PYTHON      ?= python3
VENV        ?= .venv
OUT         ?= demo-out
MANUAL      ?= build-docs/html
EXECUTE     ?= cache
CONSTRAINTS ?= requirements/constraints.txt
PYTEST_ARGS ?=
# Processes that share the tests; each has its own worlds and some 2 GB of memory.
JOBS        ?= $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$((n < 8 ? n : 8)))

BIN     := $(VENV)/bin
PYTEST  := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
PIP     := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml setup.py CMakeLists.txt $(CONSTRAINTS) $(shell find csrc cmake -type f 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help demo docs tutorial test lint types unit servers bench cuda clean

help:  ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "uapfast needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv failed (Debian: apt-get install python3-venv)" >&2; exit 1; }

# Without a GPU nobody who only looks waits for CUDA kernels, which compile for many minutes (make test and make cuda do).
CUDA_FOR_DEMO := $(if $(wildcard /dev/nvidia0 /dev/dxg),AUTO,OFF)

# The core, built from csrc/ and installed editable, at the tested versions.
$(VENV)/.core: $(BIN)/python $(SOURCES)
	@echo "Installing into $(VENV): torch and others are fetched, the core is compiled. This takes one to four minutes."
	UAPFAST_CUDA=$${UAPFAST_CUDA:-$(CUDA_FOR_DEMO)} $(PIP) install --quiet -c $(CONSTRAINTS) -e .
	@touch $@

# The same with the tools that lint, type-check and test; one build serves both.
$(VENV)/.dev: $(BIN)/python $(SOURCES)
	@echo "Installing into $(VENV) with the tools of the tests; the core is compiled, with nvcc its CUDA kernels, too."
	$(PIP) install --quiet -c $(CONSTRAINTS) -e '.[dev]'
	@touch $(VENV)/.core $@

demo: $(VENV)/.core  ## train, fingerprint and verify on scikit-learn's digits; report in $(OUT)
	$(BIN)/uapfast demo --out $(OUT)

# The manual's tools are read from pyproject.toml: an install of the extra would build the core once more.
$(VENV)/.docs: $(VENV)/.core
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(VENV)/docs.txt
	$(PIP) install --quiet -r $(VENV)/docs.txt
	@touch $@

$(OUT)/victim.uapref: $(VENV)/.core
	$(BIN)/uapfast demo --out $(OUT)

# EXECUTE=off builds the pages without running what stands in them.
docs: $(VENV)/.docs $(if $(filter off,$(EXECUTE)),,$(OUT)/victim.uapref)  ## the manual in $(MANUAL); its pages are executed
	PATH="$(abspath $(BIN)):$$PATH" UAPFAST_EXECUTE=$(EXECUTE) UAPFAST_DEMO=$(OUT) \
	  $(BIN)/python -m sphinx -q -W --keep-going -b html docs $(MANUAL)
	@echo "$(MANUAL)/index.html"

tutorial: $(VENV)/.docs  ## examples/tutorial.ipynb anew from docs/own_model.md
	$(BIN)/mystnb-to-jupyter --overwrite docs/own_model.md examples/tutorial.ipynb
	sed -i 's|](\([a-z_]*\.md\)|](../docs/\1|g' examples/tutorial.ipynb

lint: $(VENV)/.dev  ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy uapfast

unit: $(VENV)/.dev  ## pytest, without lint and types
	$(PYTEST) $(PYTEST_ARGS)

test: lint types unit  ## ruff, mypy and all CPU tests

servers: $(VENV)/.dev  ## HTTP suspects on real servers, each in a venv of its own
	$(BIN)/python -m tests.servers.make
	UAPFAST_REQUIRE=tritonserver,mlserver,litserve,huggingface-hub $(BIN)/python -m pytest -m servers tests/servers $(PYTEST_ARGS)

bench: $(VENV)/.dev  ## the benchmarks (figures as ratios in one run)
	$(BIN)/python -m pytest benchmarks --benchmark-only

cuda: $(VENV)/.core  ## compile and import the CUDA sources (needs nvcc, no GPU)
	UAPFAST_CUDA=ON $(PIP) install --quiet --no-deps -e .
	$(BIN)/python -c 'import uapfast._cuda'

clean:  ## remove what make made
	rm -rf $(VENV) build build-docs dist *.egg-info $(OUT)
