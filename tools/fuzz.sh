#!/bin/sh
# Run each fuzz target for some seconds: tools/fuzz.sh SECONDS [TARGET…]
# It needs neither a nightly Rust nor cargo-fuzz: these are the flags of cargo-fuzz without a sanitizer.
set -eu
seconds=$1
shift
command -v cargo >/dev/null || { echo "missing: Rust (https://rustup.rs)"; exit 1; }
command -v c++ >/dev/null || { echo "missing: a C++ compiler, for libFuzzer (Debian: apt-get install g++)"; exit 1; }
cd "$(dirname "$0")/../fuzz"
host=$(rustc -vV | sed -n 's/^host: //p')
coverage=-Cllvm-args=-sanitizer-coverage
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module $coverage-level=4 $coverage-inline-8bit-counters \
$coverage-pc-table $coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1"
echo "Compiling the fuzz targets: some minutes, the first time"
cargo build -q --locked --release --bins --target "$host"
for path in fuzz_targets/*.rs; do
    target=$(basename "$path" .rs)
    case " ${*:-$target} " in *" $target "*) ;; *) continue ;; esac
    # Inputs that reached something new stay in corpus/, for the next run.
    mkdir -p "corpus/$target" artifacts
    log=artifacts/$target.log
    if ! "target/$host/release/$target" -max_total_time="$seconds" -print_final_stats=1 \
        -artifact_prefix="artifacts/$target-" "corpus/$target" >"$log" 2>&1; then
        grep -vE 'NEW_FUNC|^#[0-9]+|^stat::' "$log" | tail -n 40
        echo "$target failed; repeat it with: fuzz/target/$host/release/$target fuzz/artifacts/$target-…"
        exit 1
    fi
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs in $seconds seconds, no failure"
done
