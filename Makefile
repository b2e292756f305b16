# Every target makes its environment by itself; nothing but make, git and a Python is needed
# beforehand.
#
#   PYTHON=python3.13   the interpreter for .venv and .venv-bench
#   ARGS="..."          passed on, e.g. make test ARGS="-k outbox -x"
#   ONLY=publish        of the benchmarks this one, or several with commas
#   WORKERS=4           so many processes run the tests; two more than there are cores by default
#   EVENTS_INSTALL=0    install nothing from Debian's packages; say what is missing instead

PYTHON ?=
ARGS ?=
ONLY ?=
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)
BIN := .venv/bin

# A file tree is named like a target here, and .venv must be looked at each time.
.PHONY: help demo demo-rabbitmq demo-dashboard chat test test-confidence coverage test-pythons test-newest test-lowest lint docs bench bench-faults \
	bench-guard soak-brokers test-loaded format requirements build clean venv venv-demo
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

demo: venv-demo ## run the example: a user registers, mails are sent, nothing is lost
	@.venv-demo/bin/python -m examples.user_registration $(ARGS)

demo-rabbitmq: venv-demo ## the same as three processes on RabbitMQ, two of which are killed meanwhile
	@.venv-demo/bin/python -m examples.user_registration.demo_rabbitmq $(ARGS)

demo-dashboard: venv-demo ## serve the dashboard at http://127.0.0.1:8010/, with a switch that breaks the mails
	@.venv-demo/bin/python -m examples.user_registration.demo_dashboard $(ARGS)

chat: venv-demo ## run the chat at http://127.0.0.1:8000/; REDIS_URL=... for several servers of one chat
	@.venv-demo/bin/python -m examples.online_chat $(ARGS)

# The files of the suite are spread over processes: most tests wait for a server most of the time.
# They begin in the order of their names, so with those of acceptance, which take the longest.
SPREAD := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
SERVERS := rabbitmq redis nats postgresql mariadb chromium openssl prometheus

test: venv ## run the tests, but those of test-confidence; ARGS="..." go to pytest, in one process
	@./scripts/servers $(SERVERS)
	$(BIN)/python -m pytest $(if $(strip $(ARGS)),$(ARGS),$(SPREAD))

test-confidence: venv ## run what repeats tests for confidence: for longer, with more drivers
	@./scripts/servers $(SERVERS)
	$(BIN)/python -m pytest -m confidence $(or $(ARGS),$(SPREAD))

# Apart from `test`, as measuring takes half as much time again.
coverage: venv ## run the tests of `test` with branch coverage of src, which must be 95 %
	@./scripts/servers $(SERVERS)
	$(BIN)/python -m pytest $(SPREAD) --cov --cov-report=term:skip-covered $(ARGS)

test-pythons: venv ## run the units and the memory contracts on every other Python from 3.11 that is here
	@./scripts/pythons all $(SPREAD) $(ARGS)

test-newest: venv ## the same on the newest of these Pythons alone
	@./scripts/pythons newest $(SPREAD) $(ARGS)

# A contract for each driver and each broker: what a driver lacks shows there, and the rest is ours.
LOWEST := $(patsubst %,tests/contracts/test_%.py,memory_bus sqlite_bus sqlite_inbox rabbitmq_bus \
	nats_bus redis_streams_bus redis_pubsub_bus sqlalchemy_sessions)

test-lowest: ## run units and some contracts with the oldest dependencies that pyproject.toml allows
	@PYTHON="$(PYTHON)" ./scripts/bootstrap lowest
	@./scripts/servers rabbitmq redis nats postgresql mariadb
	@.venv-lowest/bin/python -m pytest -q $(SPREAD) $(or $(ARGS),tests/unit \
		$(LOWEST) --ignore=tests/unit/testing --ignore=tests/unit/test_check_site.py \
		--ignore=tests/unit/test_documentation_extensions.py)

lint: venv ## ruff, mypy, pyright and the import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	@! git ls-files --cached --ignored --exclude-standard | grep . # is ignored, and yet committed

docs: venv ## build the documentation into build/docs, and check its links
	rm -rf build/docs
	$(BIN)/python -m sphinx -q -E -W --keep-going -d build/doctrees -b html docs build/docs
	$(BIN)/python scripts/check_site.py build/docs tests/public_api.txt

bench: ## measure against drivers and peers; ONLY=publish,relay for some, ARGS="--short"
	@PYTHON="$(PYTHON)" ./scripts/bootstrap bench
	@./scripts/servers rabbitmq redis nats postgresql mariadb
	@.venv-bench/bin/python -m benchmarks $(ONLY) $(ARGS)

bench-guard: venv ## count the instructions of dispatch and serialization, under valgrind
	@./scripts/servers valgrind
	@$(BIN)/python -m benchmarks.guard $(ARGS)

bench-faults: venv ## put ours and FastStream to the same crashes, half an hour
	@PYTHON="$(PYTHON)" ./scripts/bootstrap bench
	@./scripts/servers rabbitmq redis nats
	@$(BIN)/python -m benchmarks.faults $(ARGS)

soak-brokers: venv ## the buses' tests five times, on cores kept busy; ARGS="--rounds 2 redis"
	@./scripts/servers rabbitmq redis nats openssl
	@$(BIN)/python -m tests.soak $(ARGS)

test-loaded: venv ## run the tests of `test` three times in a row, on cores kept busy
	@./scripts/servers $(SERVERS)
	@$(BIN)/python -m tests.soak --rounds 3 --pytest="$(SPREAD)" all $(ARGS)

format: venv ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements: ## compile requirements/*.in to requirements/*.txt (needs uv on PATH)
	for each in dev demo test bench lowest; do \
		uv pip compile --no-config --universal --python-version 3.11 --generate-hashes \
			--no-emit-index-url --no-emit-find-links --no-header --annotation-style line \
			$$(case $$each in demo | test) echo -c requirements/dev.txt ;; esac) \
			$(ARGS) -o requirements/$$each.txt requirements/$$each.in || exit 1; \
	done

build: venv ## build the sdist and the wheel into dist/
	$(BIN)/python -m build --no-isolation

clean: ## remove .venv, dist and every cache
	rm -rf .venv .venv-bench .venv-demo .venv-lowest .venv-3.* dist build .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

venv:
	@PYTHON="$(PYTHON)" ./scripts/bootstrap

venv-demo:
	@PYTHON="$(PYTHON)" ./scripts/bootstrap demo
