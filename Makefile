# `make demo` and `make test` each do all that is needed on a fresh clone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slurm lowest docs dist lint format types help-text demo-model clean

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: .venv/.installed  ## install, then run the main job on the embedded drawn world
	$(BIN)/bsap demo

# The many processes that tests start do not compile the same files again.
test: export PYTHONDONTWRITEBYTECODE =
test: .venv/.installed  ## install, then run every test that needs no minutes, no GPU and no cluster
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 15

slurm: .venv/.installed  ## the tests of the job scripts, on a one-node SLURM that they start; needs root and Debian's packages
	$(BIN)/python -m pytest -m slurm tests/slurm

lowest: .venv/.installed  ## a fast part of the tests on the lowest versions promised, in an environment of its own
	.ci/lowest

docs: .venv/.installed  ## build the documentation in site/, strictly; open site/index.html
	$(BIN)/python docs/assets/build.py

dist: .venv/.installed  ## build the sdist and the wheel in dist/ and check them
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.installed  ## mypy --strict on an installed wheel: the mapped packages exist only there
	.ci/types

help-text: .venv/.installed  ## write the stored help of bsap test, predict and fit again, after a change of their options
	$(BIN)/python -m bsap.cli.help_text

demo-model: .venv/.installed  ## train the demo's tiny CLIP from scratch (up to 20 minutes on 2 cores)
	$(BIN)/python -m bsap.demo.train

clean:
	rm -rf .venv .venv-lowest .venv-lowest.cache build dist site *.egg-info
