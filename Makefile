.DEFAULT_GOAL := help
.PHONY: help demo test check bench bench-foyer sim sim-region fuzz-smoke deps browser

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: deps ## Run a command in a real image before it is downloaded, and add its next version
	@scripts/demo.sh

test: deps browser ## Run all tests (as root: they mount file systems and run containers)
	@scripts/test.sh

check: deps browser ## Format, lints, documentation, tests
	cargo fmt --all --check
	cargo fmt --check --manifest-path region-cache/benches/foyer/Cargo.toml
	cargo clippy --release --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --release --workspace --no-deps --locked
	@scripts/test.sh

bench: deps ## Measure mounts and cold starts of IMAGE (oci:DIR:TAG); adding PULL of a registry beside containerd
	cargo build --release --locked --workspace --bin nacre --bench hot
	@scripts/bench-mounts.sh
	@scripts/bench-cold.sh
	@[ -z "$$PULL" ] || IMAGE=$$PULL scripts/bench-add.sh

bench-foyer: deps ## Measure the tiers of a region member beside the crate foyer (some minutes)
	@scripts/bench-foyer.sh

sim: deps ## Simulate nodes, collection and crashes over a faulty store (NACRE_SIM_SEEDS=0-499)
	NACRE_SIM_SEEDS=$${NACRE_SIM_SEEDS:-0-499} cargo test --release --locked -p nacre-blobstore --lib \
		gc::tests::sim -- --nocapture

sim-region: deps ## Simulate a burst of 8,192 starts on 1,000 nodes in 3 regions (NACRE_SIM_SEEDS=0-3)
	NACRE_SIM_FULL=1 NACRE_SIM_SEEDS=$${NACRE_SIM_SEEDS:-0-3} cargo test --release --locked \
		-p nacre-region-cache --lib client::tests::sim -- --nocapture

fuzz-smoke: deps ## Run each fuzz target for a minute
	@fuzz/run.sh 60

deps:
	@scripts/install-deps.sh

browser:
	@scripts/install-deps.sh chromium
