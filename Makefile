# `make demo` and `make test` set up all they need in .venv, on a fresh machine too.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test slow mutants lint clean

demo: $(VENV)/.installed
	$(BIN)/idejax personalize --out out/demo
	@echo "Look at out/demo/sheet.png: the photo on the left, then that person in new pictures."

# Files in their own order: xdist would start those with many tests first, and the long ones would end alone.
test: $(VENV)/.tested
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 30 -m "not slow"

slow: $(VENV)/.tested
	$(BIN)/python -m pytest -n 2 --dist load --durations 30 -m slow

# Mistakes put into a copy of the code one at a time: does a test notice?
mutants: $(VENV)/.tested
	$(BIN)/python tests/mutants/run.py

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch comes first and pinned: asked for by range it would bring gigabytes of CUDA along.
$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e ".[cpu,test]"
	touch $@

$(VENV)/.installed: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[cpu]"
	touch $@

clean:
	rm -rf $(VENV) out
