#!/usr/bin/env bash
# The one test command. Sets up what it needs, runs the parts, and says at the end what each of them did.
#
#   tests/run.sh                  the everyday parts
#   tests/run.sh --all            every part but the benchmark: what CI runs
#   tests/run.sh --only NAME      that part; may be repeated
#   tests/run.sh --torture [--release] [--engine E] [--profile P] [--rounds N] [--seed S] [--only F]
#                                 the torture kit alone, as long as it is told to
#   tests/run.sh --bench          the load benchmark (not a test: it asserts no time)
#   tests/run.sh --help           lists the parts
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

. tests/lib/tools.sh
. tests/lib/parts.sh
. tests/lib/report.sh

usage() {
    cat <<END
usage: tests/run.sh [--all | --only NAME … | --bench]
       tests/run.sh --torture [--release] [--engine E] [--profile P] [--rounds N] [--seed S] [--only F]

parts, in the order they run; the first ones are the everyday parts:
END
    local part
    for part in "${PARTS[@]}"; do
        printf '  %-8s  %-9s %s\n' "$part" "${WHEN[$part]}" "${ABOUT[$part]}"
    done
    cat <<END

Tools that a part needs and cargo does not bring are installed into
$TOOLS
END
}

# missing_tools PART…: prints what is missing on this machine, what to install, and which parts cannot run without it;
# fails if there is anything.
missing_tools() {
    local part tool
    local -A wanted_by=()
    for part in "$@"; do
        for tool in ${NEEDS[$part]}; do
            if ! has_tool "$tool"; then wanted_by[$tool]+=" $part"; fi
        done
    done
    for tool in "${!wanted_by[@]}"; do
        printf '%s is missing or too old: install %s\n    cannot run without it:%s\n' "$tool" "${INSTALL[$tool]}" "${wanted_by[$tool]}"
    done
    [[ ${#wanted_by[@]} -eq 0 ]]
}

chosen=()
choose() {
    local part
    for part in "${PARTS[@]}"; do
        if [[ " $* " == *" ${WHEN[$part]} "* ]]; then chosen+=("$part"); fi
    done
}

if [[ $# -eq 0 ]]; then choose everyday; fi
while [[ $# -gt 0 ]]; do
    case $1 in
        --all) choose everyday all ;;
        --bench) choose bench ;;
        --torture)
            shift
            missing_tools torture || exit 1
            said=$(mktemp)
            set +e
            (
                set -euo pipefail
                torture "$@"
            ) | tee "$said"
            status=${PIPESTATUS[0]}
            set -e
            say_again <"$said"
            rm "$said"
            exit "$status"
            ;;
        --only)
            if [[ -z ${2:-} || -z ${WHEN[${2:-}]:-} ]]; then
                echo "--only wants one of: ${PARTS[*]}" >&2
                exit 64
            fi
            chosen+=("$2")
            shift
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        *)
            echo "unknown argument: $1 (tests/run.sh --help lists what there is)" >&2
            exit 64
            ;;
    esac
    shift
done

if ! missing_tools "${chosen[@]}"; then
    echo "nothing was run"
    exit 1
fi

for part in "${chosen[@]}"; do
    run_part "$part"
done
summary
