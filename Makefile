# `make demo` plays the whole story on sample data; `make test` runs every test, `make bench` measures against OpenSSH, GnuPG
# and SQL (benches/README.md). Each first installs what is missing.

CARGO ?= cargo
# KEEP=1 leaves the demo's daemon running and prints commands to try by hand.
DEMO_OPTIONS := $(if $(filter 1,$(KEEP)),--keep)

# SIZE=full measures what the goals are about, for hours; BENCH_OPTIONS: `--only NAME`, `--rounds N`, `--dir DIR`.
SIZE ?= small
BENCH_OPTIONS ?=

.PHONY: demo test bench check

demo:
	@scripts/install-needs
	@$(CARGO) run --locked -- demo $(DEMO_OPTIONS)

test:
	@scripts/install-needs --tests
	@$(CARGO) test --locked --features failpoints

bench:
	@scripts/install-needs --benches
	@$(CARGO) bench --locked --bench ratios -- --size $(SIZE) $(BENCH_OPTIONS)

# What continuous integration checks, tests included.
check:
	@.ci/run
