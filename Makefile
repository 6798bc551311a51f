# The targets of a user: setup, demo, test, build. `make help` lists all.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

MODULES := core contracttests contracttests/selftest $(wildcard adapters/*) $(wildcard adapters/*/contract) apps apps/e2e tools
RACE    := core contracttests contracttests/selftest adapters/docker adapters/egress adapters/gvisor adapters/memory adapters/memory/contract apps tools
TOOL    := bash tools/setup.sh tool
# The suite's own tests take minutes, and apps/e2e is about engines.
UNIT    := $(filter-out contracttests/selftest apps/e2e,$(MODULES))
# `make race` runs the suite's own tests.
TEST    := $(filter-out contracttests/selftest,$(MODULES))
# sudo leaves Go's usual directory out.
export PATH := $(PATH):/usr/local/go/bin

include tools/engine.mk

.PHONY: help build moat proxy unit test lives race bench programs programs-check lint vuln standalone release-check demo

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build moat proxy: export CGO_ENABLED = 0
# The compiler collects its garbage less often: a tenth of the first build's time, for some memory.
build moat proxy: export GOGC = 400
# The proxy is the same from each checkout, so an engine gets it once. The other binaries are
# built so too, to share its packages.
build moat proxy: export GOFLAGS += -trimpath
build: moat proxy ## the binaries, into bin/
	@cd apps && go build -o ../bin/moat-build ./cmd/moat && go build -o ../bin/moat-conform ./cmd/moat-conform

# BuildKit's client is half of what there is to compile and to start: `moat build` starts a
# second program, which has it.
moat:
	@bash tools/need-go.sh
	@# The first time, the standard library is compiled while the modules arrive.
	@cd apps && { go build net/http text/template & go list -deps -tags moat_without_builder ./cmd/moat >/dev/null; wait; }
	@cd apps && go build -tags moat_without_builder -o ../bin/moat ./cmd/moat

# It runs in containers of engines, which are Linux on each host.
proxy: ## bin/moat-proxy alone, the egress proxy of one run, for containers
	@cd apps && GOOS=linux go build -ldflags='-s -w' -o ../bin/moat-proxy ./cmd/moat-proxy

unit: ## the tests that need no engine, which takes a minute or two
	@unset CONTRACT_REQUIRED $${!MOAT_TEST_*}; \
	for module in $(UNIT); do (cd $$module && go test -timeout 10m -json ./...) || true; done | (cd tools && go run ./summary)

test: build ## the tests against all engines that are present, a table of the contract suite, and whether anything is left on the engines
	@eval "$$(bash tools/engine.sh env)"; status=0; \
	for module in $(TEST); do (cd $$module && go test -count=1 -timeout 60m -json ./...) || true; done | (cd tools && go run ./summary) || status=1; \
	bash tools/leftovers.sh || status=1; exit $$status

lives: ## a thousand containers whose only line arrives
	@eval "$$(bash tools/engine.sh env)"; cd apps/e2e && MOAT_E2E_LIVES=$${MOAT_E2E_LIVES:-1000} go test -count=1 -timeout 30m -run TestStreamsShortLives .

race: ## the tests that need no engine, under the race detector
	@for module in $(RACE); do (cd $$module && go test -count=1 -timeout 30m -race ./...); done

bench: build ## Moat beside the raw Engine API and beside docker, against the gates of docs/performance.md
	@eval "$$(bash tools/engine.sh env)"; cd tools && go run ./bench $(BENCH)

programs: ## build the helper programs, whose binaries are committed
	@bash adapters/docker/programs/source/build.sh

programs-check: ## the helper programs' binaries are built from their sources, and the resolver withstands fuzzing
	@bash adapters/docker/programs/source/build.sh check

lint: ## golangci-lint on every module
	@linter=$$($(TOOL) golangci-lint); \
	for module in $(MODULES); do (cd $$module && "$$linter" run --allow-parallel-runners --config $(CURDIR)/.golangci.yml ./...); done

vuln: ## govulncheck on every module, where its database can be had
	@bash tools/vuln.sh "$$($(TOOL) govulncheck)" $(MODULES)

standalone: ## each module builds, and is tidy, without the workspace
	@for module in $(MODULES); do (cd $$module && GOWORK=off go build ./... && GOWORK=off go mod tidy -diff); done

release-check: ## publish the modules into a temporary proxy, then install, embed and test them from there
	@cd tools && go run ./release

demo: ## an untrusted script in the sandbox, on the engine that is there, or on a private one (ENGINE=private)
	@bash tools/demo.sh $(ENGINE)
