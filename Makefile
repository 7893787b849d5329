# Self-contained: both targets need only python3 >= 3.11 and, the first time, a package index.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROMPT ?= a violet swan moving to the left over a lake
OUT    ?= demo.mp4
# Empty takes torch from the default index; one that holds CPU builds only is a much smaller download.
TORCH_INDEX ?=
# Processes that run the tests, a thread of torch each.
WORKERS ?= 2

.PHONY: demo test install lint clean

demo: $(STAMP)
	@$(BIN)/causvid generate "$(PROMPT)" -o $(OUT) --seconds 6 --seed 2
	@echo "The video is $(abspath $(OUT))"
	@echo "To steer one while it plays: $(BIN)/causvid serve, then open http://127.0.0.1:8000"

test: lint
	$(BIN)/pytest -m "not gpu and not slow" -n $(WORKERS) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: causvid needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "       Choose another with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist src/*.egg-info
