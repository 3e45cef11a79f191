# `make demo` and `make test` set up all they need in .venv, on a fresh machine too.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	test -e out/demo/model/model_index.json || $(BIN)/idejax random-model --out out/demo/model --family sd21-base
	$(BIN)/idejax sample --model out/demo/model --prompt "a photo of a woman with red hair" \
	  --prompt "a sketch of a man on the beach" --num 4 --steps 10 --sampler dpmpp_2m --out out/demo/pictures
	@echo "The model's weights are random, so out/demo/pictures/sheet.png shows coloured noise."

test: $(VENV)/.tested
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.tested
	$(BIN)/ruff check .
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
