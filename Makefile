# `make` lists the targets. Needs python3 (3.11 or later), make and git; all else goes into .venv.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed-train-serve-dev-bench

# The committed gRPC stubs refuse runtimes older than the tools that made them, so those are the oldest supported ones,
# in an environment of their own.
STUB_TOOLS := grpcio-tools==1.76.0 mypy-protobuf==5.1.0
STUB_VENV := $(VENV)/stubs
STUB_TOOLS_INSTALLED := $(STUB_VENV)/.installed

# onnxruntime-training installs the same module as onnxruntime, so it too has an environment of its own.
TRAINING_VENV := $(VENV)/ort-training
TRAINING_INSTALLED := $(TRAINING_VENV)/.installed

RAY_INSTALLED := $(VENV)/.installed-ray

.DEFAULT_GOAL := help
.PHONY: help demo test test-ort-training test-ray lint format protos bench-train bench-train-memory bench-padding bench-decode bench-stop-rules bench-leaving-rows bench-past bench-shortlist bench-serve bench-classify bench-gpu bench-communication bench-batching bench-queue bench-startup bench-exporting bench-allocator bench-spinning bench-batches bench-embedded bench-multi30k docker clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## the whole road on embedded data, from text to a server's answer: some minutes, no download
	@$(PY) scripts/demo.py --output demo

test: $(INSTALLED) ## run the test suite, on all CPUs
	@$(PY) -m pytest -n auto --dist worksteal

test-ort-training: $(TRAINING_INSTALLED) ## run the tests of training graphs with onnxruntime-training (Python 3.11 or 3.12)
	@$(TRAINING_VENV)/bin/python -m pytest tests/training/graph/test_environment.py tests/training/graph/test_gradient_builder.py tests/training/test_engine_parity.py

test-ray: $(RAY_INSTALLED) ## run the tests that start a Ray cluster: about a minute
	@$(PY) -m pytest -m ray tests/corpus tests/serving

lint: $(INSTALLED) ## check style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: $(INSTALLED) ## mend what ruff can mend
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

protos: $(STUB_TOOLS_INSTALLED) ## write the gRPC stubs of protos/
	@$(STUB_VENV)/bin/python scripts/make_protos.py

bench-train: $(INSTALLED) ## speed and memory of training steps, engine ort beside torch (ARGS=--quick: 3 minutes)
	@$(PY) benchmarks/train_engines.py $(ARGS)

bench-train-memory: $(INSTALLED) ## memory of engine ort over 2000 steps of any shape
	@$(PY) benchmarks/train_engines.py --memory

bench-padding: $(INSTALLED) ## what it brings that a training graph leaves padding out
	@$(PY) benchmarks/padding.py

bench-decode: $(INSTALLED) ## decoding beside CTranslate2 (ARGS=--quick: 3 minutes)
	@$(PY) benchmarks/decode_vs_ctranslate2.py $(ARGS)

bench-stop-rules: $(INSTALLED) ## what early stopping saves and costs (ARGS="--bundle … --source … --target …")
	@$(PY) benchmarks/stop_rules.py $(ARGS)

bench-leaving-rows: $(INSTALLED) ## what it gives that decided sentences leave the batch (ARGS="--bundle … --source …")
	@$(PY) benchmarks/leaving_rows.py $(ARGS)

bench-past: $(INSTALLED) ## what it gives that steps copy only the newest of their caches
	@$(PY) benchmarks/past_apart.py $(ARGS)

bench-shortlist: $(INSTALLED) ## what a shortlist gives, beside CTranslate2 with the same one (ARGS="--run RUN")
	@$(PY) benchmarks/shortlist.py $(ARGS)

bench-serve: $(INSTALLED) ## the server beside others, and all its gates: half an hour (ARGS=--quick: 3 minutes)
	@$(PY) benchmarks/serving.py $(ARGS)

bench-classify: $(INSTALLED) ## Iris, digits and SST-2 from nothing to a server's answers (ARGS="--sst2 FOLDER"): 6 minutes
	@$(PY) benchmarks/classify.py $(ARGS)

bench-gpu: $(INSTALLED) ## what wants a CUDA GPU: tests, engines, Multi30k (see benchmarks/gpu/README.md)
	@$(PY) benchmarks/gpu/run.py $(ARGS)

bench-communication: $(INSTALLED) ## what several training processes pay for talking
	@$(PY) benchmarks/communication.py

bench-batching: $(INSTALLED) ## tokens per second of the data pipeline
	@$(PY) benchmarks/batching.py

bench-queue: $(INSTALLED) ## what the queue of a server costs its event loop
	@$(PY) benchmarks/batch_queue.py

bench-exporting: $(INSTALLED) ## what it gives that exports keep what every search has in common: two minutes
	@$(PY) benchmarks/exporting.py

bench-startup: $(INSTALLED) ## how long the command line and the server take to start
	@$(PY) benchmarks/startup.py

bench-allocator: $(INSTALLED) ## what keeping freed memory is worth to training on a CPU
	@$(PY) benchmarks/allocator.py

bench-spinning: $(INSTALLED) ## what threads that stay awake bring to a search, and cost on shared CPUs
	@$(PY) benchmarks/spinning.py

bench-batches: $(INSTALLED) ## what two searches at once do more than one (ARGS="--bundle … --input …")
	@$(PY) benchmarks/batches_at_once.py $(ARGS)

bench-embedded: $(INSTALLED) ## BLEU and minutes on the embedded data
	@$(PY) benchmarks/embedded.py

bench-multi30k: $(INSTALLED) ## train, evaluate and serve Multi30k: an hour
	@$(PY) benchmarks/multi30k.py

docker: ## build the images t2tdeploy:train and t2tdeploy:serve
	docker build --target train --tag t2tdeploy:train .
	docker build --target serve --tag t2tdeploy:serve .

clean: ## remove caches, build output and the demo; .venv, data, runs and bundles stay
	rm -rf build dist demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("t2tdeploy needs Python 3.11 or later: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	@echo "installing into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q -c constraints.txt -e '.[train,serve,dev,bench]'
	@touch $@

$(RAY_INSTALLED): $(INSTALLED)
	@$(PY) -m pip install -q -c constraints.txt -e '.[ray]'
	@touch $@

$(STUB_TOOLS_INSTALLED): Makefile
	@$(PYTHON) -m venv $(STUB_VENV)
	@$(STUB_VENV)/bin/python -m pip install -q $(STUB_TOOLS)
	@touch $@

$(TRAINING_INSTALLED): pyproject.toml constraints.txt constraints-ort-training.txt
	@$(PYTHON) -c 'import sys; sys.exit("onnxruntime-training needs Python 3.11 or 3.12: make PYTHON=python3.12 …" if not (3, 11) <= sys.version_info[:2] <= (3, 12) else 0)'
	@$(PYTHON) -m venv $(TRAINING_VENV)
	@$(TRAINING_VENV)/bin/python -m pip install -q -c constraints-ort-training.txt -e '.[ort-training]' pytest pytest-timeout hypothesis
	@touch $@
