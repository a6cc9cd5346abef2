# Everything is built into $(VENV); nothing outside this folder is touched.
#
#   make demo [ONCE=1]    make test [SLOW=1]    make check    make bench [QUICK=1]    make loadtest [SECONDS=60]
#   make rebalance-check    make chaos [SECONDS=60] [SEED=7]    make zoo [LIBRARY=NAME] [TABLE=FILE]
#   make tensorflow-tests    make proto

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Modules are compiled on all cores afterwards: pip does it on one, which is half of an installation's time.
INSTALL := $(PIP) install --no-compile
COMPILE = $(BIN)/python -m compileall -qq -j 0 -x '/(tests|rllib|llm|tune|train)/' $(VENV)/lib/*/site-packages || :
ONCE ?=
SLOW ?=
QUICK ?=
SECONDS ?= 60
SEED ?= 7
USERS ?= 8
WORKERS ?= 0
MODEL ?=
TABLE ?=

INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_BENCH := $(VENV)/.installed-bench
INSTALLED_LOADTEST := $(VENV)/.installed-loadtest
ZOO := $(VENV)/zoo
INSTALLED_ZOO := $(ZOO)/.installed
TENSORFLOW := $(VENV)/tensorflow
INSTALLED_TENSORFLOW := $(TENSORFLOW)/.installed
PROTOC := $(VENV)/protoc
CODE := ringpull/*.py ps router inference deploy loadtest examples tests

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint types bench loadtest rebalance-check chaos zoo tensorflow-tests proto clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Train, export, serve on 4 shards, predict, compare; ONCE=1 stops it all at the end
	$(BIN)/python -m examples.movielens.demo $(if $(filter-out 0,$(ONCE)),--once)

# In one process more than there are cores, since those that wait for a cluster need none. More than eight gain nothing:
# each imports torch and numba for itself. In the order of collection (tests/conftest.py): what takes longest comes first.
PYTEST := $(BIN)/python -m pytest -q -n "$$(( $$(nproc) < 8 ? $$(nproc) + 1 : 8 ))" --no-loadscope-reorder

test: $(INSTALLED_DEV) ## Lint, types and tests; SLOW=1 adds those of minutes and gigabytes, and all cases of long ones
	@exec 3>&1; $(call side_by_side,--output-sync lint types tests SHOWN='>&3')

check: $(INSTALLED_DEV) ## Lint, types and the fast tests, in under a minute: before every commit
	@$(call side_by_side,--output-sync lint types fast-tests)

# Make these targets at the same time, and say how long that took; $@ is who asked. With --output-sync each one's output
# comes in one piece, at its end. Tests take minutes: they pass by that on descriptor 3, and show their progress.
side_by_side = begin=$$(date +%s); $(MAKE) --no-print-directory --jobs $(1); status=$$?; \
	echo "make $@: $$(($$(date +%s) - begin)) s"; exit $$status

.PHONY: tests fast-tests kernels
tests: kernels
	$(PYTEST) $(if $(filter-out 0,$(SLOW)),,-m "not slow" --one-in 3) $(SHOWN)

fast-tests: kernels
	$(PYTEST) -m "not (medium or ray or readme or slow or wheel)"

# Compiled once, while types are checked: in a fresh checkout each process of the tests would compile them for itself,
# and our modules, where Python may not write what it compiled.
kernels: $(INSTALLED_DEV)
	@$(BIN)/python -m compileall -qq $(CODE)
	@$(BIN)/python -m ringpull.deploy.cluster.kernels

lint: $(INSTALLED_DEV) ## Format and style, checked only
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

types: $(INSTALLED_DEV) ## mypy, strict
	$(BIN)/mypy -p ringpull -p examples

bench: $(INSTALLED_BENCH) ## Every bench beside what people use today, some 45 minutes; QUICK=1 takes a few
	QUICK=$(QUICK) $(BIN)/python -m ringpull.loadtest.bench.all

loadtest: $(INSTALLED_LOADTEST) ## Locust against a cluster of its own; SECONDS, USERS, WORKERS=2 (distributed), MODEL=folder
	$(BIN)/python -m ringpull.loadtest.local --seconds $(SECONDS) --users $(USERS) --workers $(WORKERS) $(if $(MODEL),--model $(MODEL))

rebalance-check: $(INSTALLED) ## Shards, copies and versions change under load; every prediction is checked. About a minute
	$(BIN)/python -m ringpull.loadtest.chaos.rebalance_check

chaos: $(INSTALLED_LOADTEST) ## Processes die, stall and change under load, rows are pushed; every prediction is checked. SECONDS, SEED
	$(BIN)/python -m ringpull.loadtest.chaos --seconds $(SECONDS) --seed $(SEED)

zoo: $(INSTALLED_ZOO) ## Models of public libraries, exported as those build them, served and compared; LIBRARY, TABLE. All: 5 minutes after installing
	$(ZOO)/bin/python -m tests.zoo_libraries $(if $(LIBRARY),--library $(LIBRARY)) $(if $(TABLE),--table $(TABLE))

# By a TensorFlow of its own, and so no part of `make test`.
tensorflow-tests: $(INSTALLED_TENSORFLOW) $(INSTALLED_DEV) ## Tests of what imports SavedModels, against TensorFlow in an environment of its own. A few minutes
	RINGPULL_TENSORFLOW=$(abspath $(TENSORFLOW)/bin/python) $(BIN)/python -m pytest -q tests/inference/importers/savedmodel tests/examples/test_savedmodel_way.py

# Protocols of ours become modules; those of others become descriptor sets, for pools of their own (own_pool.py).
PROTOS := ringpull operations writer
PROTOS_OF_OTHERS := tensorflow_serving open_inference onnx
protoc := $(PROTOC)/bin/python -m grpc_tools.protoc -I inference/proto

proto: $(PROTOC)/bin/python ## Generate inference/proto/*_pb2 and *.binpb from the .proto files
	$(protoc) --python_out=inference/proto --pyi_out=inference/proto $(PROTOS:%=inference/proto/%.proto)
	sed -i 's/^import ringpull_pb2 as /from ringpull.inference.proto import ringpull_pb2 as /' inference/proto/writer_pb2.py*
	for name in $(PROTOS_OF_OTHERS); do $(protoc) --include_imports --descriptor_set_out=inference/proto/$$name.binpb inference/proto/$$name.proto || exit; done

clean: ## Remove the environment and every cache; a served cluster is not stopped
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find ringpull $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[server,export]'
	@$(COMPILE)
	@touch $@

# All that $(INSTALLED) has, and more, in one go.
$(INSTALLED_DEV): pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[server,export,dev]'
	@$(COMPILE)
	@touch $(INSTALLED) $@

$(INSTALLED_BENCH): pyproject.toml | $(INSTALLED)
	$(INSTALL) -e '.[server,export,bench]'
	@$(COMPILE)
	@touch $@

$(INSTALLED_LOADTEST): pyproject.toml | $(INSTALLED)
	$(INSTALL) -e '.[server,export,loadtest]'
	@$(COMPILE)
	@touch $@

# In an environment of its own, which sees the packages of the main one behind its own: what the libraries pin stays out
# of that.
$(INSTALLED_ZOO): tests/zoo_libraries/requirements.txt | $(INSTALLED)
	$(PYTHON) -m venv $(ZOO)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" > \
		$$($(ZOO)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/behind.pth
	$(ZOO)/bin/python -m pip --disable-pip-version-check install --no-deps -r $<
	@touch $@

# What `ringpull[savedmodel]` asks for, without ringpull: a process of its own runs it.
$(INSTALLED_TENSORFLOW): pyproject.toml
	$(PYTHON) -m venv $(TENSORFLOW)
	$(TENSORFLOW)/bin/python -c 'import tomllib; print(*tomllib.load(open("$<", "rb"))["project"]["optional-dependencies"]["savedmodel"], sep="\n")' > \
		$(TENSORFLOW)/requirements.txt
	$(TENSORFLOW)/bin/python -m pip --disable-pip-version-check install -r $(TENSORFLOW)/requirements.txt
	@touch $@

# In an environment of its own: what a generator of 6.31 writes is read by every protobuf from 6.31.1 on, below 8.
$(PROTOC)/bin/python:
	$(PYTHON) -m venv $(PROTOC)
	$@ -m pip --disable-pip-version-check install 'grpcio-tools<1.76' 'setuptools<81'
