#!/bin/sh
# Build the extension for Windows, and run there (under Wine) the tests that need neither Unix nor other servers.
# Arguments: the virtual environment; the directory of python.org's "Windows embeddable package" of Python 3.11.
set -eu
venv=$(realpath "$1")
python=${2:+$(realpath "$2")}
if [ ! -e "$python/python311.dll" ]; then
    echo "missing: the unpacked \"Windows embeddable package (64-bit)\" of Python 3.11, as WINDOWS_PYTHON=directory"
    exit 1
fi
command -v rustup >/dev/null || { echo "missing: rustup (https://rustup.rs), for Rust's library for Windows"; exit 1; }

target=x86_64-pc-windows-gnu
work=target/windows
export PYO3_CROSS_PYTHON_VERSION=3.11
export WINEPREFIX="$PWD/$work/wine" WINEARCH=win64 WINEDEBUG=-all
rustup -q target add $target
cargo clippy -q --target $target -- -D warnings
rm -rf $work/site $work/python $work/dist
mkdir -p $work
"$venv/bin/maturin" build -q --release --target $target -i python3.11 -o $work/dist

# What the tests need, in the versions they have here.
"$venv/bin/python" -m pip freeze -q | grep -iE "^($(
    printf '%s|' annotated-doc annotated-types anyio certifi click fastapi h11 h2 hpack httpcore httptools httpx \
        httpx-sse hypercorn hyperframe hypothesis idna iniconfig opentelemetry-api packaging pluggy priority psutil \
        pydantic pydantic_core pygments pytest pytest-asyncio pytest-timeout redis sortedcontainers sse-starlette \
        sseclient-py starlette typing-inspection typing_extensions uvicorn
)wsproto)==" > $work/requirements.txt
echo colorama >> $work/requirements.txt
"$venv/bin/python" -m pip install -q --no-deps --target $work/site --only-binary=:all: --platform win_amd64 \
    --python-version 3.11 -r $work/requirements.txt
unzip -qo $work/dist/*.whl -d $work/site

cp -r "$python" $work/python
printf 'python311.zip\n.\n..\\site\n..\\..\\..\\tests\\support\nimport site\n' > $work/python/python311._pth
# Rust draws random numbers with a function that Wine before 9 does not have.
if ! find /usr/lib /opt -path '*windows/bcryptprimitives.dll' 2>/dev/null | grep -q .; then
    cat > $work/random.c <<'C'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length) {
    return SystemFunction036(data, (ULONG)length);
}
C
    x86_64-w64-mingw32-gcc -shared -o $work/python/bcryptprimitives.dll $work/random.c -ladvapi32
fi

cd $work
tests=""
for name in api/heartbeat api/initial api/lifecycle api/overflow api/publish api/refusals api/replay \
    api/subscription api/topics api/encoding api/json api/package api/storm_api api/testing asgi/event_source_response \
    asgi/event_source_response_apps asgi/event_source_response_arguments asgi/event_source_response_pings asgi/hub_response; do
    tests="$tests ../../tests/${name%/*}/test_${name#*/}.py"
done
# Its output through a pipe: Wine's Python cannot write to a file as its terminal.
# shellcheck disable=SC2086
{ wine python/python.exe -X utf8 -m pytest -p no:cacheprovider --rootdir ../.. -c ../../pyproject.toml \
    -o pythonpath= $tests 2>&1 </dev/null; echo $? > status; } | cat
exit "$(cat status)"
