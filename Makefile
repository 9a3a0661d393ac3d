# edgeres. Everything installs itself into .venv on first use.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
READY := $(VENV)/.ready
MODEL ?= resnet18
TARGET ?= jetson
JOBS ?= 2
WAY ?=

# What stands for other processors: the widest instructions that ATen and oneDNN may use, and the number of threads.
# Whatever the tests start inherits the variables; tests/test_processor.py holds that they are in force.
way-aten-default := ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1
way-aten-avx2 := ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=2
way-onednn-avx2 := ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1
way-two-threads := OMP_NUM_THREADS=2
WAYS := aten-default aten-avx2 onednn-avx2 two-threads
$(if $(WAY),$(if $(filter $(WAY),$(WAYS)),,$(error WAY=$(WAY) is none of: $(WAYS))))

.DEFAULT_GOAL := help
.PHONY: help setup quantize gate test test-portable ways lint types bench bench-quantization report clean

help: ## list what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv from constraints.txt

# torch comes first and alone: where an index offers the CPU build, this is how pip finds it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[arrow,executorch,litert,openvino,tensorrt-rtx,dev]'
	@touch $(READY)

quantize: $(READY) ## the main job: edgeres compile resnet18 --target jetson
	$(BIN)/edgeres compile $(MODEL) --target $(TARGET)

gate: quantize ## judge the accuracy of the main job: 0 PASS, 3 FAIL, 5 too few images to tell
	$(BIN)/edgeres gate build/$(MODEL)-$(TARGET)

# A file's tests stay in one process: they share what their fixtures made.
test: $(READY) lint ## ruff, mypy --strict, import layers, unused code, pytest; WAY=aten-default: as on another processor
	$(if $(WAY),env $(way-$(WAY))) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-portable: ## pytest four times, as on four processors
	@failed=; for way in $(WAYS); do echo "WAY=$$way"; $(MAKE) --no-print-directory test WAY=$$way || failed=1; done; test -z "$$failed"

ways: ## name what WAY may be
	@echo $(WAYS)

lint: $(READY) ## ruff, mypy --strict, import layers, unused code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture

bench: $(READY) ## regenerate README's numbers (needs ../shared)
	$(BIN)/python -m benchmarks.sample --write README.md
	$(BIN)/python -m benchmarks.imagenette --write README.md

bench-quantization: $(PEERS)/.ready ## set edgeres' defaults and techniques beside their peers (hours; goes on where it was; needs ../shared)
	$(PEERS)/bin/python -m benchmarks.quantizers --networks resnet18-imagenette resnet20-cifar10 resnet32-cifar10 \
	  --seeds 5 --keep build/bench-quantization --write docs/quantization.md --brief README.md

# The peers have a venv of their own: some of them pin older packages than edgeres runs with.
$(PEERS)/.ready: pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement benchmarks/peers.txt
	@touch $@

report: $(READY) ## draw the last report again
	$(BIN)/edgeres report build/$(MODEL)-$(TARGET)

clean: ## remove what was built, keep .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
