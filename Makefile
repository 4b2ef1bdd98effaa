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

ifeq ($(PROFILE),full)
OUT :=
else ifeq ($(PROFILE),quick)
OUT := build/quick/
else
$(error PROFILE: expected full or quick, got '$(PROFILE)')
endif

NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))
# What Make waits for: the executed copy of every notebook, and the figure and the records of those that write any.
EXECUTED := $(NOTEBOOKS:notebooks/%=build/$(PROFILE)/%)
FIGURES := $(patsubst notebooks/%.ipynb,$(OUT)figures/%.png,$(shell grep -l 'save_figure' $(NOTEBOOKS) /dev/null))
RECORDS := $(patsubst notebooks/%.ipynb,$(OUT)data/results/%.json,$(shell grep -l 'report[.]record' $(NOTEBOOKS) /dev/null))
CODE := $(wildcard rpa/*.py)
WEIGHTS := $(wildcard data/weights/*)

export PYTHONPATH := $(CURDIR)

.PHONY: help env data weights references figures quick verify report bench test test-slow lab clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@echo 'Set-up'
	@echo '  make env        create $(VENV) and install requirements.lock'
	@echo '  make data       fetch and check the data sets (or say which stand-ins are used)'
	@echo '  make weights    train the small networks of data/weights again, from their seeds'
	@echo '  make references sample the Monte Carlo references of data/references again (minutes on 2 cores)'
	@echo 'Results'
	@echo '  make figures    run every notebook whose inputs changed; write figures/, data/results/, the table in README.md'
	@echo '  make quick      the same with little work, into build/quick'
	@echo '  make verify     claims of the papers beside our numbers; fails when a finished claim fails'
	@echo '  make report     the executed notebooks as web pages, in build/report'
	@echo 'Checks'
	@echo '  make test       the tests, the quick profile of every notebook among them'
	@echo '  make test-slow  the tests at full size'
	@echo '  make bench      our speed and accuracy beside other packages, in one run (TOPIC=planar for one topic)'
	@echo 'Work'
	@echo '  make lab        JupyterLab on this environment'
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
data: $(ENV)
	@mkdir -p build && $(PYTHON) -m rpa.datasets > build/data.new && cat build/data.new
	@cmp -s build/data.new build/data.txt && rm build/data.new || mv build/data.new build/data.txt

build/data.txt: | $(ENV)
	@mkdir -p build && $(PYTHON) -m rpa.datasets > build/data.new && cat build/data.new
	@mv build/data.new $@

weights: $(ENV)
	$(PYTHON) -m rpa.train

references: $(ENV)
	rm -f data/references/*.npz build/references/*.npz
	$(PYTHON) -m rpa.run notebooks/08_alexnet_topk.ipynb --profile full

# One pattern rule with three targets: one run of the notebook makes them all.
build/$(PROFILE)/%.ipynb $(OUT)figures/%.png $(OUT)data/results/%.json: \
		notebooks/%.ipynb $(CODE) $(WEIGHTS) figures/rpa.mplstyle build/data.txt $(ENV)
	@$(PYTHON) -m rpa.run $< --profile $(PROFILE)

figures: $(ENV) $(EXECUTED) $(FIGURES) $(RECORDS)
ifeq ($(PROFILE),full)
	@$(PYTHON) -m rpa.report readme
endif
	@$(PYTHON) -m rpa.report show --profile $(PROFILE)

quick:
	@$(MAKE) --no-print-directory figures PROFILE=quick

verify: $(ENV)
	@$(PYTHON) -m rpa.report verify --profile $(PROFILE)

report: $(EXECUTED)
	$(PYTHON) -m nbconvert --to html --output-dir build/report $(EXECUTED)

test: $(ENV)
	$(PYTHON) -m pytest

test-slow: $(ENV)
	$(PYTHON) -m pytest -m slow --durations=15

bench: $(ENV)
	@$(PYTHON) tests/bench.py $(TOPIC)

lab: $(ENV)
	$(PYTHON) -m jupyterlab

clean:
	rm -rf build
