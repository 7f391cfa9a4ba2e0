# Each target sets up its own .venv from nothing. PYTHON chooses the interpreter, 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs
DEMO := $(RUNS)/demo

.PHONY: help demo evaluation claim test quick slow flaky soak loggers accelerators \
  accelerators-h100 accelerators-tpu lint format docs wheel clean

help:
	@echo "make demo          pre-trains on built-in data, probes, fills the robustness table"
	@echo "make claim         MoCo against patch negatives, 3 seeds; FULL=1 for all variants, 5 seeds"
	@echo "make test          lints and tests; make quick: a part in 3 minutes"
	@echo "make slow          long tests and drills; also make flaky, make soak, make loggers"
	@echo "make accelerators  compiles every program for H100s and TPUs, without one"
	@echo "make lint, format  ruff and mypy"
	@echo "make docs          the documentation in build/site; SERVE=1 shows it"
	@echo "make wheel         the package in dist"
	@echo "make clean         removes the environments and the demo"
	@echo "PYTHON=python3.12 chooses the interpreter of .venv, RUNS=DIR the folder of demo and claim."

demo: .venv/installed
	$(BIN)/python main.py --config=configs/patch.py:tiny --workdir=$(DEMO)/patch
	@$(MAKE) --no-print-directory evaluation ENCODER=patch PRETRAINED=$(DEMO)/patch
	@$(MAKE) --no-print-directory evaluation ENCODER=untrained PRETRAINED=untrained:$(DEMO)/patch
	$(BIN)/python -m nsneg_jax report $(DEMO)/patch $(DEMO)/*-knn $(DEMO)/*-linear $(DEMO)/*-eval \
	  --out $(DEMO)/table.md --corruptions $(DEMO)/corruptions.png --html $(DEMO)/report.html
	@echo "This table is in $(DEMO)/table.md, accuracy per corruption in $(DEMO)/corruptions.png,"
	@echo "and a page with curves, training views and neighbours is $(DEMO)/report.html."

# kNN, linear probe and robustness of one encoder, for `demo`.
evaluation:
	$(BIN)/python main.py --config=configs/linear.py:tiny --config.job=knn \
	  --config.pretrained=$(PRETRAINED) --workdir=$(DEMO)/$(ENCODER)-knn
	$(BIN)/python main.py --config=configs/linear.py:tiny \
	  --config.pretrained=$(PRETRAINED) --workdir=$(DEMO)/$(ENCODER)-linear
	$(BIN)/python main.py --config=configs/evaluate.py:tiny --config.label=$(ENCODER) \
	  --config.pretrained=$(DEMO)/$(ENCODER)-linear --workdir=$(DEMO)/$(ENCODER)-eval

# MoCo against MoCo with patch negatives, 3 seeds; FULL=1: all variants, 5 seeds.
claim: .venv/installed
	$(BIN)/python -m experiments.claim --workdir=$(RUNS)/claim $(if $(FULL),--full)

# Two processes, each with whole files, because most files share what takes long to make.
FAST := -m "not slow" -n 2 --dist loadscope --no-loadscope-reorder
test: lint
	$(BIN)/python -m pytest $(FAST)

# the method, the networks, the input, the report and the package, without what compiles much
QUICK := methods models input report evaluation data
QUICK += $(addprefix test_,$(addsuffix .py,cli extras face files layers library wheel))
QUICK_NOT := methods/test_parity.py models/test_convolution.py models/test_resnet.py \
  input/sources/test_tfds.py data/test_texture.py
QUICK_BUT := $(addprefix methods/test_moco.py::test_, merged_and_separate_passes_agree \
  bfloat16_keeps_the_state_in_float32 \
  key_encoder_gets_no_gradient_and_negatives_no_place_in_the_queue) \
  methods/test_probe.py::test_every_epoch_of_the_golden_run_from_its_exact_state
quick: lint
	$(BIN)/python -m pytest $(FAST) $(addprefix tests/,$(QUICK)) \
	  $(addprefix --ignore=tests/,$(QUICK_NOT)) $(addprefix --deselect=tests/,$(QUICK_BUT))

# With programs as users have them, also the jobs, which `test` compiles without optimisations.
# NSNEG_DRILLS=0.1 makes a tenth of the random kills and stops.
slow: .venv/installed-dev
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m slow
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m "not slow" tests/jobs

# Runs every test of several processes and of signals N times, beside LOAD busy processes, and says
# which ever fail; K selects others.
N ?= 20
LOAD ?= 0
flaky: .venv/installed-dev
	$(BIN)/python tests/helpers/repeat.py --runs $(N) --load $(LOAD) -- \
	  -k "$(or $(K),process or signal or kill or stop)"

# Logs to W&B, MLflow and Trackio, offline, with their libraries in an environment of their own.
loggers: .venv-loggers/installed
	.venv-loggers/bin/python -m pytest tests/training/test_services.py

# A pre-training of MINUTES with a save every 20 steps; prints how memory and open files grow.
MINUTES ?= 30
soak: .venv/installed-dev
	SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest -q -m slow tests/jobs/test_soak.py

# Compiles every program for absent accelerators, with the compilers of jax[cuda13] and jax[tpu],
# each in its own environment (5 GB and 1 GB). H100_PYTHON and TPU_PYTHON name the interpreters of
# existing environments; K selects tests, as in K="h100 and tiny". The tested budgets belong to the
# compilers of this version.
JAX ?= 0.10.2
accelerators: accelerators-h100 accelerators-tpu

COMPILE = -m pytest tests/planning/test_accelerators.py -k "$(or $(K),test)"

accelerators-h100: $(if $(H100_PYTHON),,.venv-h100/installed)
	$(or $(H100_PYTHON),.venv-h100/bin/python) $(COMPILE)

accelerators-tpu: $(if $(TPU_PYTHON),,.venv-tpu/installed)
	$(or $(TPU_PYTHON),.venv-tpu/bin/python) $(COMPILE)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation in build/site; SERVE=1 shows it at http://127.0.0.1:8000 and follows changes.
docs: .venv/installed-dev
	$(BIN)/mkdocs $(if $(SERVE),serve,build)

wheel: .venv/installed-dev
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf .venv .venv-h100 .venv-tpu .venv-loggers $(DEMO)

%/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $*

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps corrupt-tta==0.1.7
	touch $@

.venv-loggers/installed: pyproject.toml requirements.txt | .venv-loggers/bin/python
	.venv-loggers/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements.txt "pytest>=9" ".[wandb,mlflow,trackio]"
	touch $@

.venv-h100/installed: EXTRA = cuda13
.venv-tpu/installed: EXTRA = tpu
.venv-h100/installed .venv-tpu/installed: .venv-%/installed: requirements.txt | .venv-%/bin/python
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check "jax[$(EXTRA)]==$(JAX)" \
	  -r requirements.txt "pytest>=9"
	touch $@
