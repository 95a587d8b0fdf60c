# Two commands: `make demo` and `make test`. Each sets up .venv first and re-uses it next time.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo


.PHONY: demo test test-all measurements clean

# -- the demo: the whole path on generated images, 7 to 8 minutes on 2 cores -----------------------------------------
UM_PER_PX := 0.32
DEMO_RECIPE := --recipe cpu_b0

demo: .venv/run
	$(BIN)/python -m hpa_tf.synthetic --out $(DEMO)/train --num-images 240 --size 512 --seed 1 --balance 1
	$(BIN)/python -m hpa_tf.synthetic --out $(DEMO)/test --num-images 48 --size 512 --seed 2 --balance 1
	$(BIN)/python -m tfrecords_builder build --images $(DEMO)/train/images --labels $(DEMO)/train/train.csv \
		--masks $(DEMO)/train/masks --um-per-px $(UM_PER_PX) --out $(DEMO)/shards
	$(BIN)/python train.py --strategy one --data $(DEMO)/shards --out $(DEMO)/run $(DEMO_RECIPE)
	$(BIN)/python predict.py --run $(DEMO)/run --images $(DEMO)/test/images --masks $(DEMO)/test/masks \
		--um-per-px $(UM_PER_PX) --out $(DEMO)/predictions
	$(BIN)/python -m hpa_tf.evaluation score --truth-masks $(DEMO)/test/masks --truth-labels $(DEMO)/test/truth.parquet \
		--image-labels $(DEMO)/test/train.csv --submission $(DEMO)/predictions/submission.csv --out $(DEMO)/scores
	$(BIN)/python -m hpa_tf.evaluation page --run-folder $(DEMO)/run --predictions $(DEMO)/predictions \
		--scores $(DEMO)/scores --images $(DEMO)/test/images --masks $(DEMO)/test/masks \
		--truth-labels $(DEMO)/test/truth.parquet --um-per-px $(UM_PER_PX) --out $(DEMO)/report.html

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
	$(BIN)/python -m pytest -n 2 --dist loadfile --junitxml=.test-results/fast.xml

# the slow tests, every extra in an environment of its own, a real browser, the built wheel: about half an hour
test-all: .venv/test
	$(BIN)/python tests/all_environments.py

# -- docs/measurements.md: every benchmark, an hour or more -----------------------------------------------------------
measurements: .venv/test
	$(BIN)/python benchmarks/measurements.py

clean:
	rm -rf $(DEMO)
