# make study | test | lint | faults | demo | lab | paper | notebooks | bench | rehearsal   PROFILE=, DATA=, NAME=, MINUTES=, SET= and PEERS= change what is run

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PROFILE ?=
SET ?=
BIN := .venv/bin

asked = $(if $(PROFILE),--profile "$(PROFILE)") $(if $(MINUTES),--minutes "$(MINUTES)") $(if $(DATA),--data "$(DATA)") $(if $(NAME),--name "$(NAME)") $(foreach pair,$(SET),--set '$(pair)')

.PHONY: study test lint faults demo lab paper notebooks bench peer rehearsal setup

study: setup
	@$(BIN)/flowers102-study run $(asked)

setup: .venv/installed

.venv/installed: constraints.txt settings.ini setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	@echo 'setting up .venv: two or three minutes, and silent'
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

test: setup
	@$(BIN)/python -m pytest

lint: setup
	@$(BIN)/python -m ruff check --no-cache

# what goes wrong on purpose, and what holds: a line a row, in half an hour
faults: setup
	@$(BIN)/python -m pytest tests/faults --table --dist load

# a finished run in the browser: NAME=
demo: setup
	@$(BIN)/flowers102-study demo $(if $(NAME),--name "$(NAME)")

lab: setup
	@JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab --notebook-dir=nbs --LabApp.default_url=/lab/tree/index.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

paper: setup
	@$(BIN)/flowers102-study publish $(if $(NAME),--name "$(NAME)")

notebooks: setup
	$(BIN)/flowers102-study run
	$(BIN)/flowers102-study publish
	$(BIN)/flowers102-study notebooks
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/flowers102-study readme

# lmms-eval, to check against: an environment of its own, since it wants torchvision and a CUDA build of torch
peer:
	$(PYTHON) -m venv .peer
	.peer/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 transformers==5.23.0 lmms-eval==0.7.3 qwen-vl-utils decord filelock==3.18.0

# with PEERS=1 beside lmms-eval and transformers' own Trainer, too
bench: setup $(if $(PEERS),peer)
	@for script in benchmarks/*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

# a profile for published models, on this machine: a Hub of its own, real small files, weights that are random and few
rehearsal: setup
	@PYTHONPATH=tests:tests/helpers $(BIN)/python -m tests.rehearsal $(if $(PROFILE),--profile "$(PROFILE)")
