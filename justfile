# Short names for the scripts, which also run without `just`.

# Lists the recipes.
default:
    @just --list

# Starts the service with a simulated fleet: `just demo --devices 100 --duration 30`.
demo *arguments:
    ./demo {{arguments}}

# Renders the dashboard screenshot of the documentation.
picture:
    dashboard/picture

# Installs the tools for the tests and runs all tests, or some: `just test --test command_line`.
test *arguments:
    ./test {{arguments}}

# Runs the benchmarks of single parts, or one: `just bench --bench store`.
bench *arguments:
    cargo bench --locked {{arguments}}

# Counts the instructions of single operations and compares them with the baseline; `just instructions --save` writes that.
instructions *arguments:
    ./bench-instructions {{arguments}}

# Mutates src/shadow/ and src/wire/ and lists the mutants that no unit test catches; fails below 95 %. Some of them:
# `just mutants --file src/wire/aws.rs`, `just mutants --shard 0/8`.
mutants *arguments:
    tests/mutants/run {{arguments}}

# Plays histories of three stores that are one cluster, and schedules of its log, with faults that follow a seed; as many and as long as
# wanted, or one again that has failed: `just cluster-histories 1 4711`.
cluster-histories count="100000" seed=`shuf -i 1-1000000000 -n 1`:
    UMBRA_TEST_CLUSTER_HISTORIES={{count}} UMBRA_TEST_LOG_SCHEDULES={{count}} UMBRA_TEST_CLUSTER_SEED={{seed}} \
        cargo test --locked --workspace --lib --config profile.dev.package.umbrad.opt-level=2 -- --nocapture \
        store::tests::cluster_histories::nodes_agree store::tests::log_schedules

# Runs all checks that a change must pass.
ci:
    .ci/run

# Runs all fuzz targets, or one: `just fuzz codec 10000000`.
fuzz *arguments:
    ./fuzz/run {{arguments}}

# Checks licences, sources and advisories of the dependencies.
deny:
    .ci/deny

# Formats the code.
format:
    cargo fmt --all
    cargo fmt --manifest-path fuzz/Cargo.toml

# Lints the code.
lint:
    cargo clippy --locked --workspace --all-targets -- -D warnings
