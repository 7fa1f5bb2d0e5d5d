# `make demo` and `make test` each work as the first command on a machine with Python 3.10+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all quick mutants lint format docs tutorials browser fresh dist bench clean help

help:
	@echo "make demo       set up, train a flow on a cow and a model on bodies (runs/demo/)"
	@echo "make test       set up, run the tests, on all cores"
	@echo "make test-all   the same, and what repeats them with more seeds, sizes or time"
	@echo "make quick      the tests without the slow ones"
	@echo "make mutants    break the package in many places, one at a time: do the tests notice?"
	@echo "make lint       ruff and mypy"
	@echo "make docs       build the site into site/"
	@echo "make tutorials  run again, in full, the tutorials whose code has changed, and write their pages"
	@echo "make browser    install Chromium for the tests of the site (Debian, as root)"
	@echo "make fresh      try each command and block of code of the README as a new user would"
	@echo "make dist       build wheel and sdist into dist/"
	@echo "make bench      rerun the tables of the documentation (hours); MESHES=folder CLOUDS=body.npz OTHERS=chair.npz"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist worksteal

# An empty expression takes back the one of pyproject.toml.
test-all: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist worksteal -m ''

quick: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow and not exhaustive'

mutants: $(STAMP)
	$(BIN)/python -m tests.mutate --jobs 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

tutorials: $(STAMP)
	$(BIN)/python -m tutorials.build

browser:
	command -v chromedriver || { apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver; }

fresh:
	$(PYTHON) tests/fresh_clone.py

dist: $(STAMP)
	$(BIN)/python -m build --outdir dist .

bench: $(STAMP)
	@test -n "$(MESHES)" && test -n "$(CLOUDS)" && test -n "$(OTHERS)" || \
		{ echo "say which: make bench MESHES=folder CLOUDS=body.npz OTHERS=chair.npz"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.conditioning $(CLOUDS)
	$(BIN)/python -m benchmarks.density $(MESHES)
	$(BIN)/python -m benchmarks.calibration
	$(BIN)/python -m benchmarks.robust $(MESHES)
	$(BIN)/python -m benchmarks.pairwise $(CLOUDS)
	$(BIN)/python -m benchmarks.separation $(CLOUDS) $(OTHERS) --turn x,z,-y
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.families $(CLOUDS) $(OTHERS) --seconds 40 --draws 2 --scored-points 512 \
		--models default realnvp rivals

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache
