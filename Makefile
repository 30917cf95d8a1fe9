# make demo, make test: everything from a fresh machine with Python 3.10 to 3.13 and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PROFILE ?= standard
JOBS   ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
SWEEP  := hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS)

.PHONY: help install demo test lint format reproduce-all figures bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(READY)  ## make .venv and install the project with its pinned requirements

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 14) else "indattn needs Python 3.10 to 3.13; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## train indirect and standard attention at two noise levels, draw the figure (3 to 5 minutes on 2 cores)
	$(BIN)/indattn train experiment=demo $(SWEEP) results_dir=results/demo progress=true
	@$(BIN)/indattn show results_dir=results/demo
	@$(BIN)/indattn plot noise curves results_dir=results/demo > /dev/null
	@echo "the curves:  results/demo/figures/curves-synthetic.png"
	@echo "the figure:  results/demo/figures/noise-synthetic.png"

test: $(READY)  ## all tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check indattn tests scripts examples
	$(BIN)/mypy

format: $(READY)  ## let ruff format the code
	$(BIN)/ruff format indattn tests scripts examples

reproduce-all: $(READY)  ## runs, tables, figures and costs, resumable; PROFILE=standard (at most 6 hours on 2 cores), full (days) or quick (10 minutes)
	$(BIN)/indattn reproduce all profile=$(PROFILE)

figures: $(READY)  ## figures and tables of the runs there are
	-$(BIN)/indattn plot noise curves task=synthetic
	-$(BIN)/indattn theory training task=synthetic
	-$(BIN)/indattn plot figure2
	-$(BIN)/indattn plot readings task=[sorting,sequence_retrieval] seed=[0,1,2,3,4,5,6,7,8,9]
	-$(BIN)/indattn plot ablations task=synthetic noise=0.5
	-$(BIN)/indattn plot ablations task=cross_modal_retrieval noise=0.2
	-$(BIN)/indattn plot retrieval retrieved task=cross_modal_retrieval seed=[0,1,2,3,4]
	-$(BIN)/indattn plot centres task=cross_modal_retrieval model=indirect noise=[0,0.4] seed=0
	-$(BIN)/indattn plot alignment task=speech_text_alignment
	-$(BIN)/indattn plot figure3 task=sequence_retrieval seed=0
	-$(BIN)/indattn plot figure3 attention task=synthetic model=indirect noise=0.5 seed=0

bench: $(READY)  ## what attentions, training steps and commands cost here: about 15 minutes, with nothing else running
	$(BIN)/indattn bench attention rounds=5 attention.lengths=[128,512,2048,4096]
	$(BIN)/indattn bench step profile startup

clean:  ## remove the environment and caches (results stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
