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
