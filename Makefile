# Two commands: `make demo` and `make test`. Each sets up .venv first and re-uses it next time.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test test-slow lint clean

# -- set-up: remade when the requirements change ----------------------------------------------------------------------
.venv/run: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

.venv/test: .venv/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

# -- the tests --------------------------------------------------------------------------------------------------------
test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

test-slow: .venv/test
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(DEMO)
