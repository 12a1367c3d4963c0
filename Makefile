# `make demo` plays the whole story on sample data; `make test` runs every test. Both first install what is missing.

CARGO ?= cargo
# KEEP=1 leaves the demo's daemon running and prints commands to try by hand.
DEMO_OPTIONS := $(if $(filter 1,$(KEEP)),--keep)

.PHONY: demo test check

demo:
	@scripts/install-needs
	@$(CARGO) run --locked -- demo $(DEMO_OPTIONS)

test:
	@scripts/install-needs --tests
	@$(CARGO) test --locked --features failpoints

# What continuous integration checks, tests included.
check:
	@.ci/run
