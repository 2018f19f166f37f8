# Every target first installs what it needs into .venv. ARGS="..." is passed on.
#   make demo    an app, Kafka, a worker and MLflow on this machine, with traffic
#   make test    the tests, on real Kafka, PostgreSQL, MariaDB and MLflow
#   make check   format, lint, types, layers, lock
#   make bench   what a traced request pays, against MLflow and others (ARGS="--full --peers": all of it)
#   make bench-serving  what a served app pays, with Kafka healthy, slow and dead (ARGS=--quick)
#   make chaos   50,000 traces while brokers, workers, PostgreSQL and apps die (ARGS="--faults 24 --seed 1")
#   make lock    write requirements.lock anew (ARGS=--upgrade: newest versions)
#   make clean   delete everything that these made
.PHONY: help demo test check bench bench-serving chaos lock clean
RUN := .venv/bin
# Programs are started by the hundred: without bytecode each compiles all of MLflow before it begins.
unexport PYTHONDONTWRITEBYTECODE
COMPILE := $(RUN)/uv pip compile --quiet pyproject.toml --all-extras --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-package spanferry --output-file

help:
	@sed -n 's/^# *//p' Makefile
.venv/.ready: requirements.lock pyproject.toml tools/bootstrap
	tools/bootstrap

demo test check bench bench-serving chaos lock: .venv/.ready
demo:
	$(RUN)/spanferry demo $(ARGS)
test:
	$(RUN)/pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(ARGS)
bench: MODULE = benchmarks.overhead
bench-serving: MODULE = benchmarks.serving
chaos: MODULE = tests.chaos
bench bench-serving chaos:
	$(RUN)/python -m $(MODULE) $(ARGS)
check:
	$(RUN)/ruff format --check && $(RUN)/ruff check
	$(RUN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(RUN)/pyright
	$(RUN)/lint-imports
	@mkdir -p .cache && cp requirements.lock .cache/requirements.lock && $(COMPILE) .cache/requirements.lock
	diff requirements.lock .cache/requirements.lock || { echo "run: make lock"; exit 1; }
lock:
	$(COMPILE) requirements.lock $(ARGS)
clean:
	rm -rf .venv .tools .cache dist *.egg-info .*_cache .hypothesis .coverage spanferry-demo spanferry-dev
