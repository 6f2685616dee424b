# Python 3.11 or newer (python3 -m venv) and make are all that is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# one thread per process: the test runner and casemate itself run one process per core
THREADS := OMP_NUM_THREADS=1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: assess test lint types unit docs dist clean

assess: $(VENV)/.installed  ## attack the built-in target, in two to three minutes on two cores
	$(BIN)/casemate assess --preset quick --out out

test: lint types unit  ## everything that CI runs

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pydoclint -q src
	$(BIN)/lint-imports
	$(BIN)/python scripts/readme.py --check

types: $(VENV)/.installed-dev
	$(BIN)/mypy

unit: $(VENV)/.installed-dev
	$(THREADS) $(BIN)/python -m pytest -n auto

docs: $(VENV)/.installed-dev  ## write what is generated
	$(BIN)/python scripts/readme.py

dist: $(VENV)/.installed-dev  ## build the wheel
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

# the constraints also hold for the build backend, which pip installs by itself
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) dist build
