# Two commands do everything on a fresh machine with Python 3.11+: `make repro` and `make test`.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help repro test bench lab readme env lint lock

help:  ## show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

repro: env  ## build every table and figure (about 58 minutes on two cores), then print the summary
	@python -m lib.checks
	@dvc repro || python -m lib.report failure
	@python -m lib.report

test: env  ## all tests, a small pipeline through papermill included (some minutes)
	@python -m pytest

bench: env  ## time localization against the plain loop and the libraries' recipes (after repro; minutes)
	@python -m bench.speed

lab: env  ## open the notebooks in JupyterLab; what you run there is written to data/play only
	@jupyter lab notebooks

readme: env  ## put the current numbers into the README
	@python -m lib.report readme

lint: env  ## style and formatting
	@ruff check . && ruff format --check .

env: .venv/ready  ## make .venv from the lock

.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv --clear .venv
	@echo "installing the pinned packages into .venv (some minutes, once)"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch .venv/ready

lock:  ## resolve pyproject.toml anew into requirements.txt (after changing a pin; with the oldest Python there is, or others cannot install it)
	@rm -rf .lock && $(PYTHON) -m venv .lock && .lock/bin/python -m pip install --quiet -e .
	@(echo "# The full lock of pyproject.toml, made by 'make lock'; torch without a local build tag on purpose."; \
	  .lock/bin/python -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools \
	  | grep -v -iE '^(nvidia-|triton)' | sed 's/+cpu//') > requirements.txt
	@rm -rf .lock
