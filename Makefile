# Two commands, each complete on a bare machine (Python 3.11 with venv, git, make; apt as root or with sudo):
#   make demo    handwritten digits from training to verified firmware on both chips
#   make test    the test suite
# Others: make setup (environment only), make lint, make clean

PYTHON ?= python3
VENV   ?= .venv
OUT    ?= demo
RUN    := $(VENV)/bin/python

.PHONY: demo test setup compilers lint clean

demo: $(VENV)/.ready compilers
	$(RUN) -m ai8x.cli.demo --out $(OUT)

# One thread a process: two processes share two cores.
test: $(VENV)/.ready-dev compilers
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile

setup: $(VENV)/.ready

lint: $(VENV)/.ready-dev
	$(RUN) -m ruff check .
	$(RUN) -m mypy ai8x

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# Cross compilers turn the generated C into machine code for the virtual boards. Where they may not be
# installed, the rest still runs and says what it had to skip.
compilers:
	@sh scripts/install-compilers.sh

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
