# Each target sets up its own .venv from nothing. PYTHON chooses the interpreter, 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs
DEMO := $(RUNS)/demo

.PHONY: demo test slow lint format clean

demo: .venv/installed
	$(BIN)/python main.py --config=configs/patch.py:tiny --workdir=$(DEMO)/patch
	for encoder in patch untrained; do \
	  pretrained=$(DEMO)/patch; \
	  if [ $$encoder = untrained ]; then pretrained=untrained:$$pretrained; fi; \
	  for job in knn linear; do \
	    $(BIN)/python main.py --config=configs/linear.py:tiny --config.job=$$job \
	      --config.pretrained=$$pretrained --workdir=$(DEMO)/$$encoder-$$job || exit; \
	  done; \
	done
	$(BIN)/python -m nsneg_jax.report $(DEMO)/*-knn $(DEMO)/*-linear --out $(DEMO)/table.md
	@echo "Look at $(DEMO)/patch/pictures/views.png for what was trained on, and at $(DEMO)/table.md"

test: lint
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv $(DEMO)

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps corrupt-tta==0.1.7
	touch $@
