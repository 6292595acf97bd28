#!/bin/sh
# Look at the extension's code for ARM64, macOS and Windows, with zig as the compiler of what is C. Argument: zig.
set -eu
zig=$(realpath "$1")
command -v rustup >/dev/null || { echo "missing: rustup (https://rustup.rs), for Rust's libraries for other systems"; exit 1; }
work=target/elsewhere
mkdir -p $work
export PYO3_CROSS_PYTHON_VERSION=3.11

# cc writes a compiler that knows its target by itself: zig does not understand what the crate `cc` says about it.
cc() {
    cat > "$work/$1-cc" <<X
#!/bin/sh
for arg; do
    shift
    case "\$arg" in --target=* | -arch | arm64 | -mmacosx-version-min=*) ;; *) set -- "\$@" "\$arg" ;; esac
done
exec "$zig" cc -target $1 "\$@"
X
    chmod +x "$work/$1-cc"
    realpath "$work/$1-cc"
}
printf '#!/bin/sh\nexec "%s" ar "$@"\n' "$zig" > $work/ar
chmod +x $work/ar
AR=$(realpath $work/ar)

rustup -q target add aarch64-unknown-linux-gnu aarch64-apple-darwin x86_64-pc-windows-gnu
CC_aarch64_unknown_linux_gnu=$(cc aarch64-linux-gnu) AR_aarch64_unknown_linux_gnu=$AR \
    cargo clippy -q --target-dir $work --target aarch64-unknown-linux-gnu -- -D warnings
CC_aarch64_apple_darwin=$(cc aarch64-macos) AR_aarch64_apple_darwin=$AR \
    cargo clippy -q --target-dir $work --target aarch64-apple-darwin -- -D warnings
CC_x86_64_pc_windows_gnu=$(cc x86_64-windows-gnu) AR_x86_64_pc_windows_gnu=$AR \
    cargo clippy -q --target-dir $work --target x86_64-pc-windows-gnu -- -D warnings
