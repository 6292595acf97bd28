#!/bin/sh
# Run the core's tests under ThreadSanitizer: tools/sanitize.sh [ARGUMENT OF CARGO TEST…]
# It needs no nightly Rust, but the source of the standard library, which is compiled with the sanitizer too: the
# sanitizer would not see what the library's locks and channels order, and would report races that are none.
set -eu
command -v cargo >/dev/null || { echo "missing: Rust (https://rustup.rs)"; exit 1; }
cd "$(dirname "$0")/.."
if ! [ -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library" ]; then
    command -v rustup >/dev/null || { echo "missing: rust-src, the source of Rust's library, or rustup to fetch it"; exit 1; }
    rustup -q component add rust-src
fi
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=thread CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/sanitized"
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=line-tables-only
[ -d "$CARGO_TARGET_DIR" ] || echo "Compiling the core, its tests and Rust's library: some minutes, the first time"
# A program of which the sanitizer reported anything ends with 66, and so fails.
cargo test -q --locked --no-default-features --tests -Zbuild-std --target "$host" "$@"
