PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test studies results-doc benchmarks

# Train the small integer-set recipe over eight seeds, analyse it, write runs/demo/report.html.
demo:
	@$(PYTHON) tools/install.py
	@$(BIN)/mechocl demo --out runs/demo

# Every check: format, lint, types, import contracts, tests, notebooks.
test:
	@$(PYTHON) tools/install.py dev notebooks cluster
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify notebooks/*.ipynb
	$(BIN)/python -m pytest -n 2 --nbmake --nbmake-timeout=1200 tests notebooks

# Train what the map in docs/results.md is made from (long); continues where it was stopped.
studies:
	@$(PYTHON) tools/install.py
	$(BIN)/python docs/studies.py run

# docs/results.md, its figures and the tables of the demo, from the run that `make demo` makes and the saved studies.
results-doc:
	@$(PYTHON) tools/install.py dev
	$(BIN)/python docs/results_doc.py --run runs/demo

# Measure everything in benchmarks/ and write docs/benchmarks.md.
benchmarks:
	@$(PYTHON) tools/install.py
	$(BIN)/python benchmarks/training.py --device cpu --threads 1 --record
	$(BIN)/python benchmarks/training.py --device cpu --threads 2 --record
	$(BIN)/python benchmarks/training.py --scaling --record
	$(BIN)/python benchmarks/training.py --whole --record
	$(BIN)/python benchmarks/task_building.py --record
	$(BIN)/python benchmarks/patching.py --threads 2 --record
	$(BIN)/python benchmarks/probing.py --threads 2 --record
	$(BIN)/python benchmarks/features.py --threads 2 --record
	$(BIN)/python benchmarks/demo.py --fast --record
	$(BIN)/python benchmarks/demo.py --record
	$(BIN)/python benchmarks/write_docs.py
