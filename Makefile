# Two commands: `make demo` and `make test`. Each sets up .venv first and re-uses it next time.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo


.PHONY: demo starter test test-all measurements clean

# -- the demo: the whole path on generated images, 4 to 6 minutes on 2 cores; DEMO_OPTIONS="--recipe cpu_b0", ... ---------
demo: .venv/run
	$(BIN)/hpa-tf demo --out "$(DEMO)" $(DEMO_OPTIONS)

# -- the starter network: generate, train, pack into hpa_tf/starter; half an hour to an hour, continues where it was stopped --------
starter: .venv/run
	$(BIN)/hpa-tf make-starter --out starter-build $(STARTER_OPTIONS)

# -- set-up: remade when the requirements change ----------------------------------------------------------------------
.venv/run: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("Python 3.11, 3.12 or 3.13 is needed, as TensorFlow is made for: make PYTHON=python3.12 ...")'
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
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --junitxml=.test-results/fast.xml

# after `make test`: the slow tests, every extra in an environment of its own, the built wheel: 25 to 35 minutes
test-all: .venv/test
	$(BIN)/python tests/all_environments.py

# -- docs/measurements.md: every benchmark in short, about a quarter of an hour; TABLES="loader demo" for some of them ----
measurements: .venv/test
	$(BIN)/python benchmarks/measurements.py $(TABLES)

clean:
	rm -rf "$(DEMO)"
