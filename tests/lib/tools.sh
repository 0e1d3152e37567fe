# Tools that the tests need and the machine does not have: each is installed once into the cache, in a folder named
# by tool and version, so that only the first run pays. An install is made in a folder beside and renamed into
# place when it is whole: an interrupted one never looks complete.
#
# Sourced by tests/run.sh. Every `tool_…` function prints the path it provides, and everything else to stderr.

readonly GRPCURL_VERSION=1.9.4
readonly BUF_VERSION=1.73.0
readonly CARGO_DENY_VERSION=0.20.2

readonly TOOLS="${XDG_CACHE_HOME:-$HOME/.cache}/token-broker"

# tool_install NAME COMMAND…: run COMMAND with the folder to fill as its last argument, unless NAME is there.
tool_install() {
    local name=$1 making
    shift
    if [[ ! -d $TOOLS/$name ]]; then
        mkdir -p "$TOOLS"
        making=$(mktemp -d "$TOOLS/.making-$name-XXXXXX")
        echo "installing $name into $TOOLS" >&2
        if ! "$@" "$making" >&2; then
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

install_go() { GOBIN="$2" GOFLAGS="${GOFLAGS:-} -trimpath" go install "$1"; }

install_cargo() { cargo install --quiet --locked --version "$2" --root "$3" --target-dir "$3/build" "$1" && rm -rf "$3/build"; }

# A virtual environment remembers its own path, so it is told the one it will be renamed to.
install_venv() {
    local requirements=$1 final=$2 making=$3
    python3 -m venv "$making" || return
    "$making/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$requirements" || return
    # Only the interpreter is ever called (`bin/python -m …`), never a script with the old path in its first line.
    find "$making/bin" -type f -exec grep -lI '^#!' {} + | xargs -r rm --
    sed -i "s|$making|$final|g" "$making/pyvenv.cfg"
}

install_npm() {
    cp "$1/package.json" "$1/package-lock.json" "$2/" || return
    (cd "$2" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error)
}

# digest FILE…: a short name for the contents, so that a changed lock file is another folder.
digest() { cat "$@" | sha256sum | cut -c1-12; }

tool_grpcurl() { echo "$(tool_install "grpcurl-$GRPCURL_VERSION" install_go "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$GRPCURL_VERSION")/grpcurl"; }
tool_buf() { echo "$(tool_install "buf-$BUF_VERSION" install_go "github.com/bufbuild/buf/cmd/buf@v$BUF_VERSION")/buf"; }
tool_cargo_deny() { echo "$(tool_install "cargo-deny-$CARGO_DENY_VERSION" install_cargo cargo-deny "$CARGO_DENY_VERSION")/bin/cargo-deny"; }
