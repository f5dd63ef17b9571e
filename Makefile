# `make test` and `make demo` set up all they need in .venv. Needed beforehand: make and Python 3.10+.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup test lint demo data-demo clean

help:
	@echo "make test    check style, run all tests (in ComfyUI and its page too, where it and Chromium are found)"
	@echo "make demo    make films of recipes/demo.txt with the small demo model, under demo/"
	@echo "make data-demo  make a dataset of three films, train on it, make a film, under demo/data"
	@echo "make lint    check style only"
	@echo "make clean   remove .venv, demo/ and caches"
	@echo "COMFYUI_PATH=/path/to/ComfyUI[:/another] chooses the ComfyUI (default: ~/comfy/ComfyUI)"

setup:
	@$(PYTHON) scripts/setup.py

test: lint
	$(BIN)/python -m pytest $(ARGS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

demo: setup
	$(BIN)/python recipes/demo.py $(ARGS)
	$(BIN)/python recipes/comfyui_demo.py

data-demo: setup
	$(BIN)/python recipes/data_demo.py $(ARGS)

clean:
	rm -rf .venv demo .pytest_cache .ruff_cache .hypothesis build *.egg-info
