# make demo: run the whole experiment on a laptop.   make test: run the test suite.   Both build .venv first.
PYTHON ?= python3.11
PYTHON312 ?= python3.12
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
# One thread per job, with jobs in parallel; no access to the Hugging Face hub.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
SNAKEMAKE := $(BIN)/snakemake --quiet rules --cores $(CORES)

ifneq (1,$(words $(CURDIR)))
$(error Snakemake cannot start scripts with a Python whose path has a space in it; move the checkout out of "$(CURDIR)")
endif

.PHONY: help demo test test-kills test-slurm test-uma test-torch-sim test-envs lint format training-table envs rulegraph resources clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed; $(PYTHON) is another version or missing. Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

# Run the demo, then print both tables and the path of the report.
demo: $(VENV)/installed
	$(SNAKEMAKE) --configfile experiments/demo.yaml
	@test results/demo/report.html -nt results/demo/tables/table1.md || \
		$(SNAKEMAKE) --configfile experiments/demo.yaml --report results/demo/report.html
	@$(BIN)/python workflow_scripts/print_results.py results/demo

# Run test files in parallel, the slowest first; the tests of a file share their results.
test: $(VENV)/installed
	$(BIN)/python -m pytest tests/integration tests/golden tests/unit -n 2 --dist loadfile --no-loadscope-reorder --durations=10

# Run the whole experiment while killing every rule once.
test-kills: $(VENV)/installed
	$(BIN)/python -m pytest tests/kills --durations=5

# Run the experiment, with injected faults, on a local Slurm from Debian's packages; needs root (docs/reliability.md).
test-slurm: $(VENV)/installed
	$(BIN)/python -m pytest tests/slurm --durations=20

# Test UMA with a tiny random checkpoint. A separate environment, since fairchem-core installs gigabytes.
.venv-uma/installed: requirements-uma.lock
	@started=$$(date +%s) && $(PYTHON) -m venv .venv-uma && \
		.venv-uma/bin/pip install --quiet --disable-pip-version-check -r requirements-uma.lock && \
		echo "built .venv-uma in $$(( $$(date +%s) - started )) s" && touch $@

test-uma: .venv-uma/installed
	.venv-uma/bin/python -m pytest tests/uma --durations=5

# Test the engine torch_sim on the CPU. It needs Python 3.12, for which PyPI's torch installs CUDA (7 GB).
.venv-torch-sim/installed: requirements-torch-sim.lock
	@started=$$(date +%s) && $(PYTHON312) -m venv .venv-torch-sim && \
		.venv-torch-sim/bin/pip install --quiet --disable-pip-version-check -r requirements-torch-sim.lock && \
		echo "built .venv-torch-sim in $$(( $$(date +%s) - started )) s" && touch $@

test-torch-sim: .venv-torch-sim/installed
	.venv-torch-sim/bin/python -m pytest tests/torch_sim --durations=5

# Test every conda environment, with a replacement for conda that is installed in .venv-conda.
.venv-conda/installed: tests/envs/requirements.txt
	$(PYTHON) -m venv .venv-conda
	.venv-conda/bin/pip install --quiet --disable-pip-version-check -r tests/envs/requirements.txt
	touch $@

test-envs: $(VENV)/installed .venv-conda/installed
	$(BIN)/python -m pytest tests/envs --durations=10

lint: $(VENV)/installed
	$(BIN)/ruff check workflow_scripts tests envs bench docs
	$(BIN)/ruff format --check workflow_scripts tests envs bench docs
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint --configfile experiments/demo.yaml

format: $(VENV)/installed
	$(BIN)/ruff check --fix workflow_scripts tests envs bench docs
	$(BIN)/ruff format workflow_scripts tests envs bench docs
	$(BIN)/snakefmt Snakefile rules

# Update the table in docs/training_at_scale.md after a change of the estimate of memory and time.
training-table: $(VENV)/installed
	cd workflow_scripts && ../$(BIN)/python -m hullseeker.language_model.settings_that_fit ../docs/training_at_scale.md

# Update the pins in envs/*.yaml after a change of a lock file or of a script's imports.
envs: $(VENV)/installed
	$(BIN)/python envs/pin.py

# Update the drawing of the rules in docs/ after a change of the rules.
rulegraph: $(VENV)/installed
	$(BIN)/python docs/draw_rulegraph.py

# Make the embedded resources again, in results/resources (about three hours on two cores).
resources: $(VENV)/installed
	$(SNAKEMAKE) make_resources --configfile experiments/demo.yaml

clean:
	rm -rf results/demo results/test logs benchmarks
