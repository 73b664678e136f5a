PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test results-doc benchmarks

# Train the small integer-set recipe over four seeds, analyse it, write runs/demo/report.html.
demo:
	@$(PYTHON) tools/install.py
	@$(BIN)/mechocl demo --out runs/demo

# Every check: format, lint, types, import contracts, tests, notebooks.
test:
	@$(PYTHON) tools/install.py dev notebooks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify notebooks/*.ipynb
	$(BIN)/python -m pytest -n 2 --nbmake --nbmake-timeout=1200 tests notebooks

# docs/results.md and its tables, from the run that `make demo` makes.
results-doc:
	@$(PYTHON) tools/install.py
	$(BIN)/python docs/results_doc.py --run runs/demo

# Measure everything in benchmarks/ and write docs/benchmarks.md.
benchmarks:
	@$(PYTHON) tools/install.py
	$(BIN)/python benchmarks/training.py --device cpu --threads 1 --record
	$(BIN)/python benchmarks/training.py --device cpu --threads 2 --record
	$(BIN)/python benchmarks/training.py --scaling --record
	$(BIN)/python benchmarks/training.py --whole --record
	$(BIN)/python benchmarks/task_building.py --record
	$(BIN)/python benchmarks/demo.py --fast --record
	$(BIN)/python benchmarks/demo.py --record
	$(BIN)/python benchmarks/write_docs.py
