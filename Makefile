# Two commands for a fresh machine with Python 3.11 or newer:
#   make demo    set up, train World Models on CarRacing-v3, watch it drive and dream
#   make test    set up, check, test
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup lint types pytest slow clean

demo: .venv/.done
	$(BIN)/dreamlab demo

test: .venv/.done lint types pytest

setup: .venv/.done

# Made again when what is to be installed changes. torch first and alone: the pin decides which build is taken.
.venv/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "dreamlab needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1); try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
	  || { rm -rf .venv; echo "could not make .venv; on Debian and Ubuntu type: apt install python3-venv"; exit 1; }
	@echo "installing into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

lint: .venv/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.done
	$(BIN)/mypy

pytest: .venv/.done
	$(BIN)/pytest -n 2 --dist worksteal

slow: .venv/.done
	$(BIN)/pytest -m slow --timeout 3600

clean:
	rm -rf .venv build dist src/*.egg-info
