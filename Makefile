PYTHON ?= python3
BIN := .venv/bin
FLOATS := tests/toy_models tests/probes tests/models tests/lenses tests/behaviour tests/hypotheses/test_evidence.py \
	tests/hypotheses/test_quantities.py $(filter-out tests/learning/test_variants.py,$(wildcard tests/learning/test_*.py)) \
	tests/runs/test_adapted_tokens.py tests/report/test_explorer.py

.PHONY: demo demo-pythia test page-types pictures notebooks studies results-doc benchmarks campaign dist docs

# Train the small integer-set recipe and three controls over twelve seeds, analyse it, write runs/demo/report.html.
demo:
	@$(PYTHON) tools/install.py
	@$(BIN)/mechocl demo --out runs/demo

# The same in text: pretrain a very small Pythia on an invented world, fine-tune eight seeds and their control, open them, write
# runs/demo-pythia/report.html.
demo-pythia:
	@$(PYTHON) tools/install.py pythia
	@$(BIN)/mechocl pretrain miniature --out runs/miniature
	@$(BIN)/mechocl controls closed-book/miniature --only unasked --seeds 8 --out runs/demo-pythia
	@$(BIN)/mechocl report runs/demo-pythia

# Every check: format, lint, types, import contracts, tests, which execute the notebooks; and once more with torch's smallest kernels what
# compares floats, since another processor rounds otherwise.
test:
	@$(PYTHON) tools/install.py dev notebooks cluster pythia facts docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 tests
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -n 2 $(FLOATS)

# Check the types that the explorer's scripts declare. Needs npm, which fetches the compiler.
page-types:
	npx --yes --package typescript@5.9.3 tsc -p mechocl/report/explorer/jsconfig.json

# docs/images/, from the run that `make demo` makes. Needs a Chromium.
pictures:
	@$(PYTHON) tools/install.py dev
	$(BIN)/python -m docs.write.pictures --run runs/demo

# Execute the notebooks and keep their outputs, with a picture of each figure; needs a Chromium.
notebooks:
	@$(PYTHON) tools/install.py dev notebooks
	$(BIN)/python tools/notebooks.py

# Train what the map in docs/results.md is made from (long); continues where it was stopped.
studies:
	@$(PYTHON) tools/install.py
	$(BIN)/python -m docs.write.studies run

# docs/results.md, its figures and the tables of the demo, from the run that `make demo` makes and the saved studies.
results-doc:
	@$(PYTHON) tools/install.py dev
	$(BIN)/python -m docs.write.results --run runs/demo

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
	$(BIN)/python benchmarks/gradients.py --threads 1 --record
	$(BIN)/python benchmarks/features.py --threads 2 --record
	$(BIN)/python benchmarks/demo.py --fast --record
	$(BIN)/python benchmarks/demo.py --record
	$(BIN)/python -m docs.write.benchmarks

# Kill commands, damage files, give wrong inputs (hours; CAMPAIGN="--minutes 60" tries of every kind what it can in an hour);
# continues where it was stopped; writes docs/reliability.md.
campaign:
	@$(PYTHON) tools/install.py dev cluster pythia facts
	PYTHONPATH=tests:tests/support $(BIN)/python -m campaign --write $(CAMPAIGN)

# The sdist and the wheel, in dist/.
dist:
	@$(PYTHON) tools/install.py dev
	$(BIN)/python -m build --no-isolation

# The documentation as a site, in site/: open site/index.html from disk, it needs no network.
docs:
	@$(PYTHON) tools/install.py docs
	$(BIN)/python -m mkdocs build --strict
