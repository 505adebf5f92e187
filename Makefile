# portalhook: `make demo` shows it, `make test` proves it. Both install what is missing on Debian and Ubuntu.

CARGO ?= cargo

.PHONY: demo bench test format lint docs tools test-tools

# The main job on a throw-away PostgreSQL: all seven events arriving and verifying.
demo: tools
	$(CARGO) run --quiet -- demo

# The main job as a share of what HTTP and PostgreSQL allow, in one run; fails where a limit is missed.
bench: tools
	$(CARGO) bench --bench portalhook-bench

# Everything: format, lints, documentation, unit, property and integration tests.
test: test-tools format lint docs
	$(CARGO) test --features failpoints

format:
	$(CARGO) fmt --check

# Once as it is released, once with everything.
lint:
	$(CARGO) clippy -- -D warnings
	$(CARGO) clippy --all-targets --features failpoints -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items

tools:
	@sh .ci/install

test-tools:
	@sh .ci/install test
