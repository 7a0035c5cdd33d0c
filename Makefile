# `make study` runs the default study, `make test` all checks. Both set everything up first, in .venv.

PYTHON ?= python3
VENV ?= .venv
CORES ?= all
CONFIG ?= config.yaml
BIN := $(VENV)/bin
RUN := PATH="$(abspath $(BIN)):$$PATH"

SLURM ?= /tmp/sidewinder-slurm-$(shell id -un)
SLURM_PACKAGES := munge slurmctld slurmd slurm-client slurmdbd mariadb-server

# Hundreds of processes import the same modules, which are quicker compiled: by the first that imports them, because
# compiling all that is installed took more than half of the set-up's time.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --no-compile

.PHONY: study test test-slurm lint schema slurm-up slurm-down slurm-packages clean

study: $(VENV)/.study
	@$(RUN) sidewinder study --config $(CONFIG) --cores $(CORES)

# The longest come first; those of the cluster mostly wait, so one worker more than cores has something to do.
# The others are named one by one, because pytest runs a folder beside one that holds it in the latter's order.
# One thread a process: beside each other, threads that wait for threads took four times as long.
LONGEST := tests/slurm/ tests/workflow/
test: $(VENV)/.test lint slurm-packages
	@OMP_NUM_THREADS=1 $(RUN) python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(LONGEST) $(filter-out $(LONGEST),$(wildcard tests/*/))

test-slurm: $(VENV)/.test slurm-packages
	@$(RUN) python -m pytest -n 2 --dist loadfile tests/slurm

# A cluster of two nodes on this machine: . $(SLURM)/env, then snakemake --profile slurm.
slurm-up: $(VENV)/.study slurm-packages
	@$(RUN) python tests/slurm/real_slurm.py up $(SLURM)

slurm-down: $(VENV)/.study
	@$(RUN) python tests/slurm/real_slurm.py down $(SLURM)

# Where root runs the checks of a change (CI=true), what they need is installed; elsewhere nothing is.
slurm-packages:
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && ! command -v slurmdbd >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SLURM_PACKAGES); \
	fi

lint: $(VENV)/.test
	@$(RUN) ruff check . && $(RUN) ruff format --check .
	@$(RUN) snakefmt --check workflow rules
	@$(RUN) mypy
	@$(RUN) snakemake --lint

schema: $(VENV)/.study
	@$(RUN) sidewinder schema schemas/study.schema.json

clean:
	rm -rf $(VENV) .snakemake

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Sidewinder needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.study: requirements/lock.txt pyproject.toml | $(BIN)/python
	@echo "installing the pinned requirements into $(VENV) (once, a minute or two)"
	$(PIP) -r requirements/lock.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.study
	$(PIP) -r requirements/test.txt
	touch $@
