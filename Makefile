# The targets of a user: setup, demo, test, build. `make help` lists all.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

MODULES := core contracttests contracttests/selftest $(wildcard adapters/*) apps e2e tools
RACE    := core contracttests contracttests/selftest adapters/docker adapters/gvisor adapters/memory apps tools
TOOL    := bash tools/setup.sh tool

include tools/engine.mk

.PHONY: help build test lives race bench lint vuln standalone demo

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the binaries, into bin/
	@cd apps && CGO_ENABLED=0 go build -trimpath -o ../bin/ ./cmd/...

test: build ## every test against all engines that are present, a table of the contract suite, and whether anything is left on the engines
	@eval "$$(bash tools/engine.sh env)"; status=0; \
	for module in $(MODULES); do (cd $$module && go test -count=1 -timeout 30m -json ./...) || true; done | (cd tools && go run ./summary) || status=1; \
	bash tools/leftovers.sh || status=1; exit $$status

lives: ## a thousand containers whose only line arrives
	@eval "$$(bash tools/engine.sh env)"; cd e2e && MOAT_E2E_LIVES=$${MOAT_E2E_LIVES:-1000} go test -count=1 -timeout 30m -run TestStreamsShortLives .

race: ## the tests that need no engine, under the race detector
	@for module in $(RACE); do (cd $$module && go test -count=1 -timeout 30m -race ./...); done

bench: build ## Moat beside the raw Engine API and beside docker, against the gates of docs/performance.md
	@eval "$$(bash tools/engine.sh env)"; cd tools && go run ./bench $(BENCH)

lint: ## golangci-lint on every module
	@linter=$$($(TOOL) golangci-lint); \
	for module in $(MODULES); do (cd $$module && "$$linter" run --allow-parallel-runners --config $(CURDIR)/.golangci.yml ./...); done

vuln: ## govulncheck on every module, where its database can be had
	@bash tools/vuln.sh "$$($(TOOL) govulncheck)" $(MODULES)

standalone: ## each module builds, and is tidy, without the workspace
	@for module in $(MODULES); do (cd $$module && GOWORK=off go build ./... && GOWORK=off go mod tidy -diff); done

demo: ## an untrusted script in the sandbox, on the engine that is there
	@bash tools/demo.sh
