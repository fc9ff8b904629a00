# Two commands do all set-up:  make demo   and   make test
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= runs/demo
SITE   ?= site

TUNE   := $(BIN)/knbench tune --tasks capital,det-noun-agreement --limit 4

# What the board shows: twenty known cases of each task, drawn once for all.
FACTS     := capital,mother-tongue,religion
PHENOMENA := anaphor-gender,det-noun-agreement,subject-verb-agreement
LITE      := --subset lite --known-only

.PHONY: help install demo test test-fast lint bench tune finding sequential results site task-hashes lock clean

help:
	@echo "make demo       install, fetch the default model, run none, ft and rome, build the site"
	@echo "make test       ruff, mypy and all tests, those on the real model too"
	@echo "make test-fast  the same without the real model"
	@echo "make bench      fast implementations against slow ones, as ratios"
	@echo "make tune       choose hyper-parameters on held-out cases (half an hour; see docs/tuning.md)"
	@echo "make site       the board in ./site from the results in ./results"
	@echo "make results    run what the board shows and is not in ./results yet (hours; goes on where it stopped)"
	@echo "make finding    the tables of docs/finding.md"
	@echo "make sequential the figure of docs/sequential.md"
	@echo "make clean      remove the environment, runs and site of this checkout"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: install
	$(BIN)/knbench run --model smollm2-135m --editors none,ft,rome --tasks capital,det-noun-agreement \
	  --limit 12 --known-only --output $(DEMO)
	$(BIN)/knbench site build $(DEMO) --output $(SITE)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n auto -m "not slow and not browser"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not alone"
	$(BIN)/python -m pytest -m "alone or browser"

test-fast: lint
	$(BIN)/python -m pytest -n auto -m "not slow and not browser"

bench: install
	$(BIN)/python -m tests.performance.bench

tune: install  # one knbench tune per method; goes on where it stopped
	$(TUNE) --editor memit --grid 'layers=4|5|6|7|8' --grid ridge=150,1500,15000
	$(TUNE) --editor alphaedit --grid 'layers=4|5|6|7|8' --grid threshold=5e-3,2e-2
	$(TUNE) --editor ft --grid layer=5,14,22 --grid learning_rate=5e-4
	$(TUNE) --editor ft-l --grid layer=5,14,22 --grid epsilon=2e-3,5e-3
	$(TUNE) --editor lora --grid learning_rate=1e-3,5e-3

finding: install  # the tables of docs/finding.md (40 minutes); goes on where it stopped
	$(BIN)/knbench run --editors none,in-context,ft-l,rome,memit --tasks capital,det-noun-agreement,anaphor-gender \
	  --limit 30 --known-only --output runs/finding
	$(BIN)/knbench score runs/finding --markdown
	$(BIN)/knbench score runs/finding --markdown --protocol paper

sequential: install  # the figure of docs/sequential.md (an hour); goes on where it stopped
	$(BIN)/knbench run --editors rome,memit --tasks capital --known-only --sequential 100 --checkpoints 1,10,25,50,75 \
	  --drift perplexity,anaphor-gender,subject-verb-agreement --output runs/sequential
	$(BIN)/knbench plot runs/sequential --output runs/sequential/retention.svg

results: install  # what is stored is laid out first and not run again
	mkdir -p results && { ! ls results/*/*/*/*.json >/dev/null 2>&1 || $(BIN)/knbench unpack results --output runs/results; }
	$(BIN)/knbench run --model smollm2-135m --editors all --tasks $(FACTS),$(PHENOMENA) $(LITE) \
	  --output runs/results/smollm2-135m.lite
	$(BIN)/knbench run --model gemma3-270m --editors none,in-context,ft-l,rome,memit --tasks capital,det-noun-agreement \
	  $(LITE) --output runs/results/gemma3-270m.lite
	$(BIN)/knbench run --model smollm2-135m --editors none,ft-l,rome,memit,alphaedit --tasks capital $(LITE) \
	  --sequential 20 --drift perplexity --output runs/results/smollm2-135m.lite.sequential-20
	$(BIN)/knbench submit runs/results --results results
	$(BIN)/knbench validate results --mark

site: install
	$(BIN)/knbench site build results docs/analyses --output $(SITE)

task-hashes: install  # after a change to a task's content and version
	$(BIN)/python -c "import json; from knbench.benchmark.core import registry; \
	  print(json.dumps({f'{t.name} v{t.version}': t.content_hash() for t in registry.tasks().values()}, indent=1))" \
	  > tests/unit/tasks/task_hashes.json

lock:  # needs uv; one set of versions for every supported Python
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 \
	  --no-annotate --no-header --no-emit-index-url --output-file constraints.txt

clean:
	rm -rf $(VENV) runs site
