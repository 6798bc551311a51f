# The set-up of a machine and the private engines of the tests: docs/setup.md.
.PHONY: setup engine-up engine-down engine-status distclean

setup: ## install, build and start what the tests and the demo need
	@bash tools/setup.sh

engine-up: ## start the private engines, or repair them
	@bash tools/engine.sh up

engine-down: ## end the private engines; their images stay
	@bash tools/engine.sh down

engine-status: ## what runs
	@bash tools/engine.sh status

distclean: ## end the private engines, remove their data and all that was built for them
	@bash tools/engine.sh down --purge
	@cache=$${MOAT_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/moat}; rm -rf "$$cache/bin" "$$cache/images"
