# Short names for what the scripts do; none of it needs `just`.

# Lists the recipes.
default:
    @just --list

# Starts the service with a simulated fleet: `just demo --devices 100 --duration 30`.
demo *arguments:
    ./demo {{arguments}}

# Makes the picture of the dashboard in the documentation anew.
picture:
    dashboard/picture

# Installs what the tests need and runs them all, or some: `just test --test config`.
test *arguments:
    ./test {{arguments}}

# What must pass before a change lands.
ci:
    .ci/run

# Runs the fuzz targets, or one: `just fuzz codec 10000000`.
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
