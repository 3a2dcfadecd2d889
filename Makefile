# install, demo, test: what each needs is made first. Nothing is installed outside .venv.
PYTHON ?= python3.11
BIN := .venv/bin
# One thread an operation: two under load burn three times the CPU.
export OMP_NUM_THREADS := 1

.PHONY: install wheelhouse demo demo-al poc audit test test-slow clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# For a machine without internet: everything that `pip install --no-index` needs, in one folder.
wheelhouse: install
	$(BIN)/python -m pip download --quiet --constraint constraints.txt --dest wheelhouse 'setuptools>=77' wheel .

demo: install
	$(BIN)/sonofed simulate configs/demo.toml --resume

demo-al: install
	$(BIN)/sonofed simulate configs/demo_al.toml --resume

# The demo on a consortium of real processes: nginx, SuperLink, three gates, three SuperNodes.
poc: install
	$(BIN)/sonofed poc run configs/demo.toml

# The privacy reviewer's experiment; what this machine cannot do is skipped by name. See docs/privacy.md.
audit: install
	$(BIN)/sonofed audit prove --quick --out audit

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

test-slow: install
	$(BIN)/pytest -m slow

clean:
	rm -rf .venv runs
