# Run "make help" for the targets. Every target creates the environment in .venv if it does not exist.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= runs/demo
SITE   ?= site
DEVICE ?= cuda

TUNE   := $(BIN)/knbench tune --tasks capital,det-noun-agreement --limit 4

# Boards define models, tasks and cases. The methods of the second model, and those that claim to protect a sequence:
SECOND := none,logit-bias,destroyed,in-context,memory-prompt,ft,ft-l,lora,rome,memit,grace,ultraedit
DRIFT  := perplexity,anaphor-gender,subject-verb-agreement
STABLE := none,rome,memit,memit-seq,alphaedit,blue,encore,memit+prune-view,locft,ultraedit,stableedit,crispedit,grace,memory-prompt

.PHONY: help install demo test-fast test test-long lint bench gpu site results verify findings paper tune task-hashes docs lock clean

help:
	@echo "make demo         install, run none, ft and rome on two tasks, build the site (4 minutes after the install)"
	@echo "make install      create the environment in .venv with all dependencies"
	@echo "make test-fast    run ruff, mypy and the tests without the real model"
	@echo "make test         run ruff, mypy and all tests"
	@echo "make test-long    run the tests that take many minutes (an hour)"
	@echo "make lint         run ruff and mypy"
	@echo "make site         build the leaderboard in ./site from ./results"
	@echo "make docs         build the documentation in ./site-docs, without the network"
	@echo "make bench        compare fast and reference implementations"
	@echo "make gpu          compare every editor on a GPU with the CPU (DEVICE=cpu tries the script)"
	@echo "make paper        run the experiments of Niu et al. 2024 (needs the hub, a GPU, DATA=ParaRel file)"
	@echo "make findings     compute the tables and figures of docs/findings from the stored results (a minute)"
	@echo "make tune         search the hyper-parameters of docs/tuning.md (two hours)"
	@echo "make results      run the missing results of the leaderboard (hours)"
	@echo "make verify       measure three drawn cases of every stored result again (hours)"
	@echo "make task-hashes  update the pinned task hashes after a change of task content"
	@echo "make lock         update constraints.txt (needs uv)"
	@echo "make clean        delete .venv, runs and site"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@
	@echo "activate the environment with: . $(BIN)/activate"

demo: install
	$(BIN)/knbench run --model smollm2-135m --editors none,ft,rome --tasks capital,det-noun-agreement \
	  --limit 10 --known-only --output $(DEMO)
	$(BIN)/knbench site build $(DEMO) --output $(SITE)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n auto -m "not slow and not browser"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not alone and not long"
	$(BIN)/python -m pytest -m "(alone or browser) and not long"

test-long: install  # whole tasks and the controls on the real model; about an hour
	$(BIN)/python -m pytest -m long

test-fast: lint
	$(BIN)/python -m pytest -n auto -m "not slow and not browser"

bench: install
	$(BIN)/python -m tests.performance.bench

gpu: install  # needs a GPU, except with DEVICE=cpu
	$(BIN)/python -m tests.performance.gpu --device $(DEVICE)

tune: install  # one search per method; resumes after an interruption
	$(TUNE) --measure success --editor memit --grid 'layers=4|5|6|7|8' --grid ridge=150,1500,15000
	$(TUNE) --measure success --editor alphaedit --grid 'layers=4|5|6|7|8' --grid threshold=5e-3,2e-2
	$(TUNE) --measure success --editor ft --grid layer=5,14,22 --grid learning_rate=5e-4
	$(TUNE) --measure success --editor ft-l --grid layer=5,14,22 --grid epsilon=2e-3,5e-3
	$(TUNE) --measure success --editor lora --grid learning_rate=1e-3,5e-3
	$(TUNE) --editor ft-m --grid layer=14,22,26 --grid learning_rate=5e-4,1e-3,2e-3
	$(TUNE) --editor locft --grid layer=6,20,22,26 --grid learning_rate=5e-4,1e-3,2e-3
	$(TUNE) --editor ultraedit --grid learning_rate=7e-6,1.4e-5,3e-5,6e-5
	$(TUNE) --editor stableedit --grid learning_rate=2e-4,4.5e-4,9e-4,2e-3
	$(TUNE) --editor crispedit --grid energy=0.5,0.8,0.9 --grid learning_rate=5e-4,1e-3
	$(TUNE) --editor encore --grid norm_weight=0.15,1.5
	$(TUNE) --editor pmet --grid ridge=15,60,240
	$(TUNE) --editor bird --grid alpha=2e-4,1e-3,1e-2
	$(TUNE) --editor wise --grid learning_rate=0.3,1
	$(TUNE) --editor memoir --grid layer=20,25 --grid learning_rate=0.3,1
	$(TUNE) --model gemma3-270m --editor memit --grid 'layers=1|2|3|4|5' --grid ridge=150,1500

paper: install  # resumes after an interruption; PAPER="--limit 2 --causal toy-gpt2 --masked toy-bert" for a trial
	@test -f "$(DATA)" || { echo "paper: give the filled ParaRel: make paper DATA=data_all_allbags.json"; exit 2; }
	$(BIN)/python -m tools.paper --pararel "$(DATA)" $(PAPER)

findings: install  # needs no model
	$(BIN)/python -m tools.findings results

results: install  # unpacks stored results first; they are not run again, and an interrupted run continues
	mkdir -p results && { ! ls results/*/*/*/*.json >/dev/null 2>&1 || $(BIN)/knbench unpack results --output runs/results; }
	$(BIN)/knbench run --board knbench-lite --editors all --output runs/results/smollm2-135m.lite
	$(BIN)/knbench run --board knbench-lite --editors all --batch-edits 20 \
	  --output runs/results/smollm2-135m.lite.batch-20
	$(BIN)/knbench run --board knbench-lite --editors all --sequential 20 --drift $(DRIFT) \
	  --output runs/results/smollm2-135m.lite.sequential-20
	$(BIN)/knbench run --board knbench-lite --editors $(STABLE) --sequential 100 --drift $(DRIFT) \
	  --output runs/results/smollm2-135m.sequential-100
	$(BIN)/knbench run --board knbench-lite-2 --editors $(SECOND) \
	  --output runs/results/gemma3-270m.lite.limit-16
	$(BIN)/knbench submit runs/results --results results
	$(BIN)/knbench validate results --mark

verify: install  # marks each result in results/status.json; skips those that are marked, and resumes
	$(BIN)/knbench verify results --cases 3 --mark --resume

site: install
	$(BIN)/knbench site build results docs/analyses --output $(SITE) --check-controls

docs: install  # every link is checked; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open site-docs/index.html, or for the search: python3 -m http.server --directory site-docs"

task-hashes: install  # raise the version of a task when its content changes
	$(BIN)/python -c "import json; from knbench.benchmark.core import registry; \
	  print(json.dumps({f'{t.name} v{t.version}': t.content_hash() for t in registry.tasks().values()}, indent=1))" \
	  > tests/unit/tasks/task_hashes.json

lock:  # one set of versions for all supported Python versions
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 \
	  --no-annotate --no-header --no-emit-index-url --output-file constraints.txt

clean:
	rm -rf $(VENV) runs site site-docs
