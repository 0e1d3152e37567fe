# The parts of the test command. Sourced by tests/run.sh.
#
# part NAME WHEN NEEDS ABOUT declares one; the function part_NAME runs it. WHEN is everyday, all or bench.

declare -a PARTS=()
declare -A WHEN NEEDS ABOUT

part() {
    PARTS+=("$1")
    WHEN[$1]=$2 NEEDS[$1]=$3 ABOUT[$1]=$4
}

# What to install for each thing that a part may need.
declare -rA INSTALL=(
    [cargo]="Rust 1.95 or later, by rustup"
    [rustfmt]="the component: rustup component add rustfmt"
    [clippy]="the component: rustup component add clippy"
    [go]="Go 1.25 or later: grpcurl, buf and a client are built from source"
    [node]="Node.js 20 or later"
    [npm]="npm 10 or later"
    [python3]="Python 3.10 or later"
    [pip]="pip for that python3"
    [strace]="strace (as root on Debian it is installed for you)"
    [nginx]="nginx (as root on Debian it is installed for you)"
    [taskset]="util-linux"
    [script]="util-linux, or bsdutils on Debian"
    [c++]="a C++ compiler (g++): the fuzzer brings C++ of its own"
    [cc]="a C compiler (gcc and libc6-dev): the crash suite compiles a library that records writes"
)

# The oldest version that INSTALL names, and how the tool says its own.
declare -rA OLDEST=([cargo]=1.95 [go]=1.25 [node]=20 [npm]=10 [python3]=3.10)
version_of() {
    case $1 in
        go) go version ;;
        *) "$1" --version ;;
    esac 2>/dev/null | grep -oE '[0-9]+(\.[0-9]+)*' | head -n 1
}

# is_at_least VERSION OLDEST: by its numbers, one after the other.
is_at_least() {
    local -a has wants
    IFS=. read -ra has <<<"$1"
    IFS=. read -ra wants <<<"$2"
    local at
    for at in "${!wants[@]}"; do
        if ((${has[at]:-0} != wants[at])); then ((${has[at]:-0} > wants[at])); return; fi
    done
}

has_tool() {
    case $1 in
        cargo | go | node | npm | python3)
            command -v "$1" >/dev/null && is_at_least "$(version_of "$1")" "${OLDEST[$1]}"
            ;;
        rustfmt) cargo fmt --version >/dev/null 2>&1 ;;
        clippy) cargo clippy --version >/dev/null 2>&1 ;;
        strace | nginx) command -v "$1" >/dev/null || can_apt ;;
        pip) python3 -m pip --version >/dev/null 2>&1 ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# some_tests COMMAND…: the tests pass, and there are some: a filter that matches nothing is a mistake, not a success.
some_tests() {
    local log
    log=$(mktemp)
    "$@" | tee "$log"
    if ! grep -qE '^test result: ok\. [1-9]' "$log"; then
        echo "no test was run by: $*" >&2
        rm "$log"
        return 1
    fi
    rm "$log"
}

part fmt everyday "cargo rustfmt" "sources are formatted, scripts parse"
part_fmt() {
    cargo fmt --check
    rustfmt --check --edition 2024 tests/fuzz/*.rs
    local script
    for script in tests/run.sh tests/lib/*.sh .ci/run; do bash -n "$script"; done
}

part clippy everyday "cargo clippy" "lints, with every warning an error"
part_clippy() {
    cargo clippy --all-targets -- -D warnings
    cargo clippy --test e2e --test crash -- -D warnings
    cargo clippy --features failpoints --lib --test torture -- -D warnings
}

part test everyday "cargo" "unit and integration tests"
part_test() { cargo test; }

part deny all "cargo" "licences, bans and sources of every dependency"
part_deny() {
    local deny advisories
    deny=$(tool_cargo_deny)
    "$deny" check licenses bans sources
    advisories="$TOOLS/advisories.log"
    if "$deny" fetch db >"$advisories" 2>&1; then
        "$deny" check advisories
    else
        echo "advisories NOT RUN: the advisory database cannot be had from here"
        tail -n 1 "$advisories"
    fi
}

part proto all "go" "the contract by buf: lint STANDARD and COMMENTS, format"
part_proto() {
    local buf
    buf=$(tool_buf)
    "$buf" lint
    "$buf" format --diff --exit-code
}

part crash all "cargo strace cc" "the store of either engine: killed, its power cut, its disk full, failing, damaged"
part_crash() {
    install_strace
    # Each test starts and kills processes of its own, so one for each core.
    some_tests cargo test --test crash -- --nocapture --test-threads=2
}

# torture ARGUMENT…: the kit, with the real binary built for it. With --release that is as optimized as a release, and lies
# apart: no binary with failpoints may ever be found where the release is.
torture() {
    install_strace
    local word
    local -a words=()
    for word in "$@"; do
        if [[ $word == --release ]]; then
            cargo build --release --features failpoints --target-dir target/torture
            export TORTURE_BROKER=$PWD/target/torture/release/token-broker
        else
            words+=("$word")
        fi
    done
    cargo test --features failpoints --test torture -- "${words[@]}"
}

part torture all "cargo strace" "the whole broker killed and failed on purpose, held against what the provider knows: short"
part_torture() {
    torture --profile reusable --profile grace --profile strict --rounds 3
    # The same where old access tokens end when a refresh token rotates.
    torture --profile grace-ends --profile strict-ends --rounds 1
    # What is about files or how long they take, on the other engine.
    local fault
    local -a faults=()
    for fault in control I2 F1 F2 F5 F6 F7 F8-disk F9 F9-disk F9-place F10 F11 beside; do faults+=(--only "$fault"); done
    torture --engine redb --profile grace --profile strict --rounds 1 "${faults[@]}"
    torture --engine redb --rounds 1 --only between
}

# Stable will do: no sanitizer is asked for, since the code is safe Rust. Finds are kept in target/fuzz.
part fuzz all "cargo c++" "noise for the URL, the header fields and the waits of calls: a minute each (FUZZ_SECONDS)"
part_fuzz() {
    local fuzz target corpus
    fuzz=$(tool_cargo_fuzz)
    cp Cargo.lock tests/fuzz/Cargo.lock
    for target in url header throttle; do
        corpus=target/fuzz/corpus/$target
        mkdir -p "$corpus" "target/fuzz/artifacts/$target"
        "$fuzz" run --fuzz-dir tests/fuzz --target-dir target/fuzz --sanitizer none "$target" "$corpus" -- \
            -dict=tests/fuzz/words.dict -artifact_prefix="target/fuzz/artifacts/$target/" -max_len=512 \
            -max_total_time="${FUZZ_SECONDS:-60}" -verbosity=0 -print_final_stats=1
    done
}

part slow all "cargo go script" "tests marked as slow: printed commands, long searches"
part_slow() {
    export GRPCURL
    GRPCURL=$(tool_grpcurl)
    PATH="$(dirname "$GRPCURL"):$PATH" some_tests cargo test --lib --test it -- --ignored
}

part binary all "cargo" "the real binary by itself: starts, stops, and refuses to start"
part_binary() { some_tests cargo test --test e2e -- binary::; }

part oidc all "cargo node npm" "end to end against node-oidc-provider"
part_oidc() {
    export OIDC_PROVIDER_PACKAGES
    OIDC_PROVIDER_PACKAGES=$(tool_npm oidc-provider tests/e2e/oidc-provider)
    some_tests cargo test --test e2e -- oidc::
}

part survival all "cargo node npm python3 pip" "killed while it refreshes, at node-oidc-provider and django-oauth-toolkit"
part_survival() {
    export OIDC_PROVIDER_PACKAGES DJANGO_PACKAGES
    OIDC_PROVIDER_PACKAGES=$(tool_npm oidc-provider tests/e2e/oidc-provider)
    DJANGO_PACKAGES=$(tool_python django tests/e2e/django)
    # Minutes of waiting for the next second: both servers at once.
    some_tests cargo test --test e2e -- survival:: --nocapture --test-threads=2
}

part grpcurl all "cargo go" "the real grpcurl, over TCP and the socket"
part_grpcurl() {
    export GRPCURL
    GRPCURL=$(tool_grpcurl)
    some_tests cargo test --test e2e -- grpcurl::
}

part clients all "cargo node npm python3 pip go" "clients in Python, Node and Go, over TCP and the socket"
part_clients() {
    export NODE_CLIENT_PACKAGES PYTHON_CLIENT_PACKAGES GO_CLIENT_TOOLS
    local buf messages services
    NODE_CLIENT_PACKAGES=$(tool_npm node-client tests/e2e/clients/node)
    PYTHON_CLIENT_PACKAGES=$(tool_python python-client tests/e2e/clients/python)
    buf=$(tool_buf)
    messages=$(tool_protoc_gen_go)
    services=$(tool_protoc_gen_go_grpc)
    GO_CLIENT_TOOLS="$(dirname "$buf"):$(dirname "$messages"):$(dirname "$services")"
    some_tests cargo test --test e2e -- clients::
}

part call all "cargo nginx node python3 pip" "CallProvider at nginx, httpbin and Node"
part_call() {
    install_nginx
    export HTTPBIN_PACKAGES
    HTTPBIN_PACKAGES=$(tool_python httpbin tests/e2e/call/httpbin)
    some_tests cargo test --test e2e -- call:: --nocapture --test-threads=2
}

# The README's commands that build, as they stand there, with a home of their own.
typed_as_printed() (
    home=$(mktemp -d)
    trap 'rm -rf "$home"' EXIT
    export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
    export HOME=$home CARGO_INSTALL_ROOT=$home XDG_RUNTIME_DIR=$home
    grep -qxF '$ cargo run --release -- dev' README.md && grep -qF '`cargo install --locked --path .`' README.md
    cargo install --locked --path .
    "$home/bin/token-broker" --version
    # It has said all when it says how to end it. Cargo became the broker, so the signal goes to it.
    mkfifo "$home/said"
    cargo run --release -- dev >"$home/said" &
    local dev=$! line=
    exec 3<"$home/said"
    until [[ $line == Ctrl-C* ]]; do read -r line <&3; done
    kill -INT "$dev"
    wait "$dev"
)

part release all "cargo" "the release profile builds, and its binary runs"
part_release() {
    cargo build --release
    target/release/token-broker --version
    typed_as_printed
    # What would read a plan of failpoints is not there; a point's mere name may be left by an optimizer for size.
    if grep -aq -e TOKEN_BROKER_FAILPOINT -e TOKEN_BROKER_CLOCK_OFFSET target/release/token-broker; then
        echo "the release has failpoints" >&2
        return 1
    fi
}

part bench bench "cargo taskset" "a hit, a durable write, the real binary beside a stock tonic echo, a call beside a bare proxy"
part_bench() {
    cargo bench --profile dist --bench hit
    cargo bench --profile dist --bench store
    cargo bench --profile dist --bench load
    cargo bench --profile dist --bench call
}
