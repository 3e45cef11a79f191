# `make demo` and `make test` set up all they need in .venv, on a fresh machine too.
VENV := .venv
# The newest that works here.
PYTHON ?= $(or $(shell .ci/python),python3)
# Constraints for pip, such as `-c FILE`.
PINS ?=
BIN := $(VENV)/bin
# What depends on the versions of Python, jax, flax and their like, and needs no PyTorch.
VERSIONS := tests/test_start.py tests/test_tree.py tests/test_architecture.py tests/nets/test_attention.py \
  tests/nets/test_products.py tests/model/test_tokens.py tests/model/test_backbone.py tests/planning/test_flops.py \
  tests/training/test_step.py tests/training/test_checkpoint.py tests/cli/test_cli.py tests/test_docs.py

.PHONY: demo test slow browser samples versions mutants lint clean

demo: $(VENV)/.installed
	$(BIN)/idejax personalize --out out/demo
	@echo "Look at out/demo/sheet.png: the photo on the left, then that person in new pictures."

# Files in their own order: xdist would start those with many tests first, and the long ones would end alone.
test: $(VENV)/.tested
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 30 -m "not slow"

slow: $(VENV)/.tested
	$(BIN)/python -m pytest -n 2 --dist load --durations 30 -m slow

# The comic's page in a real browser (Debian: apt-get install chromium); a screenshot of every step goes to out/shots.
browser: $(VENV)/.tested
	$(BIN)/pip install --quiet $(PINS) -e ".[app]" playwright
	IDEJAX_SHOTS=out/shots $(BIN)/python -m pytest tests/app/test_comic_board.py tests/app/test_comic_browser.py

# What ships of the comic's two sample people, anew for other weights of the built-in models: some minutes.
samples: $(VENV)/.installed
	$(BIN)/python -m idejax.app.samples miniature miniature-sdxl

# Some minutes: `make VENV=.venv-newest PYTHON=python3.13 versions` asks whether another Python would do.
versions: $(VENV)/.installed
	$(BIN)/pip install --quiet $(PINS) pytest pytest-xdist hypothesis
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10 -m "not slow" $(VERSIONS)

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
	$(BIN)/pip install --quiet $(PINS) -e ".[cpu,test]"
	touch $@

$(VENV)/.installed: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(PINS) -e ".[cpu]"
	touch $@

clean:
	rm -rf .venv .venv-newest out
