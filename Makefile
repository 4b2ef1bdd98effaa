# From input to output: environment, data, weights, figures, verdicts.  `make help` lists the targets.
#   PROFILE=quick    little work, results in build/quick (what CI runs)
#   PYTHON=python    use a Python that has the packages already (conda, say) instead of .venv
# What runs notebooks is one program, `python -m rpa.companion`, which takes NB, P, ID, ... from the environment.

VENV := .venv
PYTHON := $(VENV)/bin/python
ENV := $(VENV)/.installed
# A Python named on the command line is used as it is: there is nothing to install then.
ifeq ($(origin PYTHON),command line)
ENV :=
endif
BUILD := $(or $(RPA_BUILD),build)
# Make splits names at spaces: `make clean` would delete other folders.
$(if $(word 2,$(BUILD)),$(error RPA_BUILD: expected a path without spaces, got $(BUILD)))
JOBS_OF_TESTS := $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -lt 4 ] && echo $$n || echo 4)
COMPANION = $(PYTHON) -m rpa.companion

export PYTHONPATH := $(CURDIR)

RESULTS := figures claim run sweep robustness
COMMANDS := compare accept verify runs
.PHONY: help env data weights references $(RESULTS) quick reproduce report bundle $(COMMANDS) bench lint test test-slow lab app clean
.DEFAULT_GOAL := help

help:
	@echo 'Set-up'
	@echo '  make env        create $(VENV) and install requirements.lock'
	@echo '  make data       fetch and check the data sets (or say which stand-ins are used)'
	@echo '                  (DATA=imagenet: photographs, AlexNet and SqueezeNet too, 400 MB)'
	@echo '  make weights    train the small networks of data/weights again, from their seeds'
	@echo '  make references sample the Monte Carlo references that data/references lacks (an hour and a half for all, on 2 cores)'
	@echo 'Results'
	@echo '  make figures    run every notebook whose code, data or parameters changed, into build/full; then verdicts and'
	@echo '                  agreement with the committed results (JOBS=1: one notebook at a time)'
	@echo '  make quick      the same with little work, into build/quick'
	@echo '  make accept     replace the committed figures, records and RESULTS.md by those of build/full'
	@echo '  make reproduce  make figures, then every number beside the committed one; fails when one is off'
	@echo '  make compare    the comparison alone'
	@echo '  make claim      the list of claims; make claim ID=p1.alg2 runs what that claim needs and shows its evidence'
	@echo '  make robustness the quick profile with five seeds: does any verdict depend on the seed?'
	@echo '  make verify     the claims beside the committed numbers; fails when a finished claim fails'
	@echo '  make report     a site of figures, executed notebooks, verdicts and the API: build/report/index.html'
	@echo '  make bundle     one archive of the committed files and the executed notebooks, in build/'
	@echo 'Changes'
	@echo '  make run        one notebook with other parameters, into build/runs: make run NB=01_moons_noise P="seed=1"'
	@echo '  make runs       the list of these runs (CLEAN=1 deletes them)'
	@echo '  make sweep      a grid of such runs: make sweep NB=01_moons_noise GRID=grid.yaml (SCHEDULER=tcp://... for a dask'
	@echo '                  cluster); rpa/companion/sweep.py shows a grid'
	@echo 'Checks'
	@echo '  make lint       ruff (check and format), mypy, import-linter and deptry'
	@echo '  make test       lint, then the tests, the quick profile of every notebook among them'
	@echo '  make test-slow  the tests at full size'
	@echo '  make bench      our speed and accuracy beside other packages, in one run (TOPIC=planar for one topic)'
	@echo 'Work'
	@echo '  make lab        JupyterLab on this environment; notebooks run there write to build/lab'
	@echo '  make app        notebook 99 as a page without code: a network and its random input, to be dragged with the mouse'
	@echo '  make clean      delete build/'

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

# The list of the data sets that are there: results made with another list are out of date.
data: $(ENV)
	@$(if $(filter imagenet,$(DATA)),$(PYTHON) -m rpa.subjects.imagenet)
	@mkdir -p $(BUILD) && $(PYTHON) -m rpa.subjects.datasets > $(BUILD)/data.new && mv $(BUILD)/data.new $(BUILD)/data.txt && cat $(BUILD)/data.txt

$(BUILD)/data.txt: | $(ENV)
	@$(MAKE) --no-print-directory data

$(RESULTS) quick: $(BUILD)/data.txt
$(RESULTS) $(COMMANDS): $(ENV)
	@$(if $(filter runs,$@),$(if $(CLEAN),rm -rf $(BUILD)/runs))
	@$(COMPANION) $@

quick: $(ENV)
	@$(COMPANION) figures --profile quick

reproduce: figures
	@$(COMPANION) compare

report: figures
	@rm -rf $(BUILD)/report $(BUILD)/report-source && mkdir -p $(BUILD)/report-source
	@$(PYTHON) -m sphinx -q -E -c docs $(BUILD)/report-source $(BUILD)/report && echo $(BUILD)/report/index.html

bundle: figures
	@name=$(BUILD)/rpa-$$(git rev-parse --short=12 HEAD).zip && git archive --format=zip --output=$$name --prefix=executed/ \
	  $(foreach path,$(wildcard notebooks/[0-9]*.ipynb),--add-file=$(BUILD)/full/$(notdir $(path))) --prefix= HEAD && ls -sh $$name

weights: $(ENV)
	$(PYTHON) -m rpa.subjects.train

references: $(ENV)
	$(PYTHON) -m rpa.subjects.referees

lint: $(ENV)
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	$(PYTHON) -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	$(PYTHON) -m deptry rpa

test: lint
	$(PYTHON) -m pytest -n $(JOBS_OF_TESTS) --dist worksteal

test-slow: $(ENV)
	$(PYTHON) -m pytest -m slow --durations=15

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
	rm -rf $(BUILD)
