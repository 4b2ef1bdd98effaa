# From input to output: environment, data, weights, figures, verdicts.  `make help` lists the targets.
#   PROFILE=quick    small work, results under build/quick (what CI runs)
#   PYTHON=python    use a Python that has the packages already (conda, say) instead of .venv

PROFILE ?= full
VENV := .venv
PYTHON := $(VENV)/bin/python
ENV := $(VENV)/.installed
# A Python named on the command line is used as it is: there is nothing to install then.
ifeq ($(origin PYTHON),command line)
ENV :=
endif

ifeq ($(filter full quick,$(PROFILE)),)
$(error PROFILE: expected full or quick, got '$(PROFILE)')
endif
# Where executed notebooks go (BUILD), and figures and records (OUT): a rerun touches nothing that is committed.
BUILD := $(if $(RERUN),build/rerun,build/$(PROFILE))
OUT := $(if $(RERUN)$(filter quick,$(PROFILE)),$(BUILD)/)

NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))
# What Make waits for: the executed copy of every notebook, and the figure and the records of those that write any.
EXECUTED := $(NOTEBOOKS:notebooks/%=$(BUILD)/%)
FIGURES := $(patsubst notebooks/%.ipynb,$(OUT)figures/%.png,$(shell grep -l 'save_figure' $(NOTEBOOKS) /dev/null))
RECORDS := $(patsubst notebooks/%.ipynb,$(OUT)data/results/%.json,$(shell grep -l 'report[.]record' $(NOTEBOOKS) /dev/null))
MODULES := $(shell find rpa -name '*.py*' -not -path '*/__pycache__/*')
WEIGHTS := $(wildcard data/weights/*)
# The longest run first, so that none of them runs alone at the end.
LONGEST_full := 04 07 08 03 13 09 05 12 22
LONGEST_quick := 22 13 21 10 11
LONGEST := $(foreach n,$(LONGEST_$(PROFILE)),$(filter $(BUILD)/$(n)_%,$(EXECUTED)))

# Notebooks at a time: one per core up to four (each takes up to 2 GB), unless make -jN says otherwise.
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
JOBS := $(shell [ $(CORES) -lt 4 ] && echo $(CORES) || echo 4)
PARALLEL = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(JOBS))

# What runs many notebooks: its kernels are forks of one process that has imported the packages.
WARM := $(PYTHON) -m rpa.companion.kernels

export PYTHONPATH := $(CURDIR)
# Processes among which a notebook shares its images: the cores that are left when as many notebooks run as may, all of
# them for one notebook alone. Elsewhere (references, sweeps, robustness) work is spread over all cores at once.
results: export RPA_WORKERS ?= $(shell expr $(CORES) / $(JOBS))
run claim: export RPA_WORKERS ?= $(CORES)

.PHONY: help env data weights references figures quick results reproduce compare claim verify run runs sweep robustness report bundle bench lint test test-slow lab app clean
.DEFAULT_GOAL := help
# A run that is stopped keeps the results of the last good one.
.PRECIOUS: $(BUILD)/%.ipynb $(OUT)figures/%.png $(OUT)data/results/%.json

help:
	@echo 'Set-up'
	@echo '  make env        create $(VENV) and install requirements.lock'
	@echo '  make data       fetch and check the data sets (or say which stand-ins are used)'
	@echo '                  (DATA=imagenet: photographs, AlexNet and SqueezeNet too, 400 MB)'
	@echo '  make weights    train the small networks of data/weights again, from their seeds'
	@echo '  make references sample the Monte Carlo references that data/references lacks (an hour and a half for all, on 2 cores)'
	@echo 'Results'
	@echo '  make figures    run every notebook whose inputs changed; write figures/, data/results/, the table in README.md'
	@echo '                  (as many at a time as there are cores, at most 4; make -j1 figures: one by one)'
	@echo '  make quick      the same with little work, into build/quick'
	@echo '  make results    either, without the table: make results PROFILE=quick'
	@echo '  make reproduce  run every notebook into build/rerun and judge every number against the committed one'
	@echo '  make compare    the judgement alone'
	@echo '  make claim      the list of claims; make claim ID=p1.alg2 reruns what that claim needs and shows its evidence'
	@echo '  make robustness the quick profile with five seeds, one thread and two: does any verdict hang on them?'
	@echo '  make verify     claims of the papers beside our numbers; fails when a finished claim fails'
	@echo '  make report     a site of figures, executed notebooks, verdicts and the API: build/report/index.html'
	@echo '  make bundle     one archive of everything, with a description (RO-Crate) and checksums, in build/'
	@echo 'Changes'
	@echo '  make run        one notebook with other parameters, into build/runs: make run NB=01_moons_noise P="seed=1"'
	@echo '  make runs       the list of what make run has made'
	@echo '  make sweep      a grid of such runs: make sweep NB=01_moons_noise GRID=grid.yaml (SCHEDULER=tcp://... for a dask'
	@echo '                  cluster, PLOT="record against parameter"); rpa/companion/sweep.py shows a grid'
	@echo 'Checks'
	@echo '  make lint       ruff (check and format) and mypy'
	@echo '  make test       lint, then the tests, the quick profile of every notebook among them'
	@echo '  make test-slow  the tests at full size'
	@echo '  make bench      our speed and accuracy beside other packages, in one run (TOPIC=planar for one topic)'
	@echo 'Work'
	@echo '  make lab        JupyterLab on this environment'
	@echo '  make app        notebook 99 as a page without code: a network and its random input, to be dragged with the mouse'
	@echo '  make clean      delete build/ (figures and records stay)'

env: $(ENV)

$(VENV)/.installed: requirements.lock
	@for python in python3.11 python3 python3.12 python3.13 python; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; done; \
	  if [ -z "$$found" ]; then echo 'Python 3.11 or newer is needed and was not found' >&2; exit 1; fi; \
	  echo "installing requirements.lock into $(VENV) (a few minutes, once)"; \
	  $(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $$found -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements.lock
	@echo '$(CURDIR)' > "$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/rpa.pth"
	@touch $@

# The list of what was found changes only when the data do, and only then are the figures out of date.
FIND_DATA = mkdir -p build && $(PYTHON) -m rpa.subjects.datasets > build/data.$$$$ && cat build/data.$$$$
data: $(ENV)
	@$(if $(filter imagenet,$(DATA)),$(PYTHON) -m rpa.subjects.downloads)
	@$(FIND_DATA) && { cmp -s build/data.$$$$ build/data.txt && rm build/data.$$$$ || mv build/data.$$$$ build/data.txt; }

build/data.txt: | $(ENV)
	@$(FIND_DATA) && mv build/data.$$$$ $@

weights: $(ENV)
	$(PYTHON) -m rpa.subjects.train

references: $(ENV)
	$(PYTHON) -m rpa.subjects.referees

# One pattern rule with three targets: one run of the notebook makes them all. They depend on the version of its code, of
# which the file changes only when what Python runs does; versions are found again when a module or a notebook changed.
$(BUILD)/%.ipynb $(OUT)figures/%.png $(OUT)data/results/%.json: \
		build/code/%.txt $(WEIGHTS) figures/rpa.mplstyle build/data.txt $(ENV)
	@$(PYTHON) -m rpa.companion.run notebooks/$*.ipynb --profile $(PROFILE) $(if $(RERUN),--out $(BUILD))

ifneq ($(filter results build/% figures/% data/%,$(MAKECMDGOALS)),)
$(shell mkdir -p $(BUILD) $(OUT)figures $(OUT)data/results)
include build/code/versions.mk
endif
build/code/versions.mk: $(NOTEBOOKS) $(MODULES) | $(ENV)
	@$(PYTHON) -m rpa.companion.provenance

results: $(LONGEST) $(EXECUTED) $(FIGURES) $(RECORDS)

figures: $(ENV)
	@$(WARM) $(MAKE) --no-print-directory $(PARALLEL) results
ifeq ($(PROFILE),full)
	@$(PYTHON) -m rpa.companion.verdicts readme
endif
	@$(PYTHON) -m rpa.companion.verdicts show --profile $(PROFILE)

quick:
	@$(MAKE) --no-print-directory figures PROFILE=quick

# A rerun goes on where an earlier one was stopped, unless that had the other profile.
reproduce: $(ENV)
	@[ "$$(cat build/rerun/profile 2>/dev/null)" = $(PROFILE) ] || { rm -rf build/rerun; mkdir -p build/rerun; echo $(PROFILE) > build/rerun/profile; }
	@$(WARM) $(MAKE) --no-print-directory $(PARALLEL) results RERUN=1
	@$(PYTHON) -m rpa.companion.comparison

compare: $(ENV)
	@$(PYTHON) -m rpa.companion.comparison

claim: $(ENV)
	@$(PYTHON) -m rpa.companion.claim $(ID) --profile $(PROFILE)

verify: $(ENV)
	@$(PYTHON) -m rpa.companion.verdicts verify --profile $(PROFILE)

report: $(ENV)
	@$(WARM) $(MAKE) --no-print-directory $(PARALLEL) results
	@$(PYTHON) -m rpa.companion.site --profile $(PROFILE)

run: $(ENV)
	@$(PYTHON) -m rpa.companion.variant $(or $(NB),$(error NB: expected a notebook, as in make run NB=01_moons_noise)) "$(P)" --profile $(PROFILE)

sweep: $(ENV)
	@$(WARM) $(PYTHON) -m rpa.companion.sweep $(or $(NB),$(error NB: expected a notebook, as in make sweep NB=01_moons_noise)) \
	  $(or $(GRID),$(error GRID: expected a YAML file, as in make sweep GRID=grid.yaml)) --profile $(PROFILE) \
	  $(if $(SCHEDULER),--scheduler $(SCHEDULER)) $(if $(PLOT),--plot '$(PLOT)')

runs: $(ENV)
	@$(PYTHON) -m rpa.companion.variant

robustness: $(ENV)
	@$(WARM) $(PYTHON) -m rpa.companion.robustness

bundle: $(ENV)
	@$(PYTHON) -m rpa.companion.bundle

lint: $(ENV)
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

test: lint
	$(WARM) $(PYTHON) -m pytest -n $(JOBS) --dist worksteal

test-slow: $(ENV)
	$(WARM) $(PYTHON) -m pytest -m slow --durations=15

# Other packages to measure against, which nothing else needs.
PEERS := $(ENV:installed=peers)
$(VENV)/.peers: requirements-peers.lock $(ENV)
	@$(PYTHON) -m pip install --disable-pip-version-check -c requirements.lock -r $<
	@touch $@

bench: $(PEERS)
	@$(PYTHON) tests/bench.py $(TOPIC)

app: $(ENV)
	$(PYTHON) -m voila notebooks/99_explore.ipynb

lab: $(ENV)
	$(PYTHON) -m jupyterlab

clean:
	rm -rf build
