# Everything sets up what it needs: a fresh clone, Python 3.11 or newer and pip are enough.
PYTHON ?= python3
BIN := .venv/bin
VIDEOS ?=
# Of `make gpu`: a Python that already has PyTorch, named on the command line, is used without an environment of our own.
BARE := $(if $(filter command,$(firstword $(origin PYTHON))),$(PYTHON))
WHEELS ?=
OUT ?= build/gpu
GPU_OPTIONS ?=

help:            ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1  /' | column -t -s '  ' -l 3 2>/dev/null || \
	grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST)

install: .venv/ready  ## make .venv with everything that runs on a CPU

.venv/ready: pyproject.toml setup.cfg setup.py datamodules/clips/scale.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tubelet needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[hf,dev]'
	@touch $@

demo: install    ## videos to shards, pretraining, export, a picture: make demo [VIDEOS=folder]
	$(BIN)/python tools/demo.py $(if $(VIDEOS),--videos '$(VIDEOS)')

assistant: install  ## point at films and ask, in the browser, with a tiny model trained first: make assistant [VIDEOS=folder]
	$(BIN)/pip install --quiet --editable '.[assistant]'
	$(BIN)/python tools/assistant.py --demo demo/assistant $(if $(VIDEOS),--allow '$(VIDEOS)')

test: install    ## all tests that need no GPU, on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not gpu and not slow and not slurm'

slow: install    ## more of what `test` holds, where that takes minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow

slurm: install   ## tests against a real Slurm of one node; as root
	apt-get install -y -qq slurm-wlm munge
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slurm tests/engine/test_slurm.py

kills: install   ## a run killed 50 times at random moments against one left alone; a quarter of an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.helpers.kills --kills 50 --folder $$(mktemp -d)

gpu: $(if $(BARE),,install)  ## tests, benchmark and points of quality on one GPU, ten minutes: make gpu [PYTHON=python3] [WHEELS=folder] [OUT=folder]
	$(if $(WHEELS),$(PYTHON) -m pip install -q --no-index --no-deps --no-compile --upgrade --target build/gpu/site '$(WHEELS)'/*.whl)
	PYTHONPATH="$(if $(WHEELS),build/gpu/site:).:$$PYTHONPATH" $(or $(BARE),$(BIN)/python) tools/gpu.py --out '$(OUT)' $(GPU_OPTIONS)

docs: install    ## the documentation as a site in build/site
	$(BIN)/pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file tools/site/mkdocs.yml

check: install   ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --summary=none --min-severity=error

format: install  ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: help install demo assistant test slow slurm kills gpu docs check format
