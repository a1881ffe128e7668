# make demo: the whole experiment on a laptop.   make test: the whole test suite.   Both make their own .venv.
PYTHON ?= python3.11
PYTHON312 ?= python3.12
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
# One thread per job, jobs side by side; no package may call home.
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

# The demo ends by printing both tables and the path of the report.
demo: $(VENV)/installed
	$(SNAKEMAKE) --configfile experiments/demo.yaml
	@test results/demo/report.html -nt results/demo/tables/table1.md || \
		$(SNAKEMAKE) --configfile experiments/demo.yaml --report results/demo/report.html
	@$(BIN)/python workflow_scripts/print_results.py results/demo

# Files side by side, the longest first; tests of a file share what they have made.
test: $(VENV)/installed
	$(BIN)/python -m pytest tests/integration tests/golden tests/unit -n 2 --dist loadfile --no-loadscope-reorder --durations=10

# The whole experiment again, killed once in every rule, on this machine.
test-kills: $(VENV)/installed
	$(BIN)/python -m pytest tests/kills --durations=5

# The whole experiment and its faults on a real Slurm on this machine: Debian's packages, as root (docs/reliability.md).
test-slurm: $(VENV)/installed
	$(BIN)/python -m pytest tests/slurm --durations=20

# UMA on a tiny random checkpoint, in an environment of its own: fairchem-core brings gigabytes.
.venv-uma/installed: requirements-uma.lock
	@started=$$(date +%s) && $(PYTHON) -m venv .venv-uma && \
		.venv-uma/bin/pip install --quiet --disable-pip-version-check -r requirements-uma.lock && \
		echo "built .venv-uma in $$(( $$(date +%s) - started )) s" && touch $@

test-uma: .venv-uma/installed
	.venv-uma/bin/python -m pytest tests/uma --durations=5

# The engine torch_sim, on the CPU: torch-sim needs Python 3.12, for which PyPI's torch brings CUDA (7 GB).
.venv-torch-sim/installed: requirements-torch-sim.lock
	@started=$$(date +%s) && $(PYTHON312) -m venv .venv-torch-sim && \
		.venv-torch-sim/bin/pip install --quiet --disable-pip-version-check -r requirements-torch-sim.lock && \
		echo "built .venv-torch-sim in $$(( $$(date +%s) - started )) s" && touch $@

test-torch-sim: .venv-torch-sim/installed
	.venv-torch-sim/bin/python -m pytest tests/torch_sim --durations=5

# Every conda environment, with a stand-in for conda that has an environment of its own.
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

# After a change of the estimate of memory and time: the table of docs/training_at_scale.md.
training-table: $(VENV)/installed
	cd workflow_scripts && ../$(BIN)/python -m hullseeker.language_model.settings_that_fit ../docs/training_at_scale.md

# After a change of a lock, or of what a script imports.
envs: $(VENV)/installed
	$(BIN)/python envs/pin.py

# After a change of the rules.
rulegraph: $(VENV)/installed
	$(BIN)/python docs/draw_rulegraph.py

# Makes the embedded resources again, under results/resources (about three hours on two cores).
resources: $(VENV)/installed
	$(SNAKEMAKE) make_resources --configfile experiments/demo.yaml

clean:
	rm -rf results/demo results/test logs benchmarks
