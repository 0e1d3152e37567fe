# Tools that the tests need and the machine does not have. Each is installed once into the cache, in a folder named
# by tool and version, so that only the first run pays. It is made in a folder beside and renamed into place when it
# is whole: an interrupted install never looks complete.
#
# Sourced by tests/run.sh. A tool_… function prints the path it provides; everything else goes to stderr.

readonly GRPCURL_VERSION=1.9.4
readonly BUF_VERSION=1.73.0
readonly PROTOC_GEN_GO_VERSION=1.36.10
readonly PROTOC_GEN_GO_GRPC_VERSION=1.5.1
readonly CARGO_DENY_VERSION=0.20.2
readonly CARGO_FUZZ_VERSION=0.13.2

readonly TOOLS="${XDG_CACHE_HOME:-$HOME/.cache}/token-broker"

# tool_install NAME COMMAND ARGUMENT…: unless folder NAME is there, runs COMMAND with the folder to fill in $making.
tool_install() {
    local name=$1 making
    shift
    if [[ ! -d $TOOLS/$name ]]; then
        mkdir -p "$TOOLS"
        making=$(mktemp -d "$TOOLS/.making-$name-XXXXXX")
        echo "installing $name into $TOOLS" >&2
        if ! "$@" >&2; then
            rm -rf "$making"
            echo "could not install $name" >&2
            return 1
        fi
        # Another run may have been quicker; its folder is as good.
        mv -T --no-clobber "$making" "$TOOLS/$name" || true
        rm -rf "$making"
    fi
    echo "$TOOLS/$name"
}

install_go() { GOBIN="$making" go install "$1"; }

install_cargo() {
    cargo install --quiet --locked --version "$2" --root "$making" --target-dir "$making/build" "$1" && rm -rf "$making/build"
}

# For PYTHONPATH: a plain folder, unlike a virtual environment, may be renamed.
install_python() {
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --require-hashes --target "$making" -r "$1"
}

install_npm() {
    cp "$1/package.json" "$1/package-lock.json" "$making/" &&
        (cd "$making" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error)
}

# digest FILE…: a short name for the contents, so that a changed lock file is another folder.
digest() { cat "$@" | sha256sum | cut -c1-12; }

tool_go() {
    local folder
    folder=$(tool_install "$1-$2" install_go "$3@v$2") && echo "$folder/$1"
}

tool_grpcurl() { tool_go grpcurl "$GRPCURL_VERSION" github.com/fullstorydev/grpcurl/cmd/grpcurl; }

tool_protoc_gen_go() { tool_go protoc-gen-go "$PROTOC_GEN_GO_VERSION" google.golang.org/protobuf/cmd/protoc-gen-go; }

tool_protoc_gen_go_grpc() {
    tool_go protoc-gen-go-grpc "$PROTOC_GEN_GO_GRPC_VERSION" google.golang.org/grpc/cmd/protoc-gen-go-grpc
}

tool_buf() { tool_go buf "$BUF_VERSION" github.com/bufbuild/buf/cmd/buf; }

tool_cargo_deny() {
    local folder
    folder=$(tool_install "cargo-deny-$CARGO_DENY_VERSION" install_cargo cargo-deny "$CARGO_DENY_VERSION") &&
        echo "$folder/bin/cargo-deny"
}

tool_cargo_fuzz() {
    local folder
    folder=$(tool_install "cargo-fuzz-$CARGO_FUZZ_VERSION" install_cargo cargo-fuzz "$CARGO_FUZZ_VERSION") &&
        echo "$folder/bin/cargo-fuzz"
}

# tool_npm NAME FOLDER: the packages of a committed lock file.
tool_npm() { tool_install "$1-$(digest "$2/package.json" "$2/package-lock.json")" install_npm "$2"; }

# tool_python NAME FOLDER: the same for Python, for the interpreter at hand.
tool_python() {
    local tag
    tag=$(python3 -c 'import sys; print(sys.implementation.cache_tag)') || return
    tool_install "$1-$tag-$(digest "$2/requirements.txt")" install_python "$2/requirements.txt"
}

# Debian's own packages go where Debian puts them, and only root may.
can_apt() { [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; }

# install_debian COMMAND PACKAGE: the package, unless the command is there.
install_debian() {
    if ! command -v "$1" >/dev/null; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$2" >/dev/null
    fi
}

install_strace() { install_debian strace strace; }

install_nginx() { install_debian nginx nginx-light; }
