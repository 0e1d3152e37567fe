# Headings, times and the table at the end. Sourced by tests/run.sh.

declare -A outcome seconds
declare -a ran=() not_run=()

# say_again [NAME: ]: every line of standard input that says NOT RUN, once, so that nobody has to find it.
say_again() { grep -F 'NOT RUN' | sort -u | sed "s/^/!!! ${1:-}/" || true; }

# run_part NAME: runs part_NAME in a shell of its own that ends at the first failure. What it says was NOT RUN is its last
# word, and the summary's.
run_part() {
    local name=$1 started=$SECONDS status=0 said
    said=$(mktemp)
    printf '\n=== %s: %s\n' "$name" "${ABOUT[$name]}"
    # Not `if …` nor `… ||`: bash would ignore `set -e` inside.
    set +e
    (
        set -euo pipefail
        "part_$name"
    ) | tee "$said"
    status=${PIPESTATUS[0]}
    set -e
    ran+=("$name")
    seconds[$name]=$((SECONDS - started))
    if [[ $status -eq 0 ]]; then outcome[$name]=passed; else outcome[$name]="FAILED (exit $status)"; fi
    printf '=== %s: %s, %d s\n' "$name" "${outcome[$name]}" "${seconds[$name]}"
    say_again <"$said"
    mapfile -t -O "${#not_run[@]}" not_run < <(say_again "$name: " <"$said")
    rm "$said"
}

# summary: the table, the closing line and what was not run; fails if a part failed or none ran.
summary() {
    local name passed=0 failed=0 total=0
    printf '\n%-10s %8s  %s\n' part seconds outcome
    for name in "${ran[@]}"; do
        printf '%-10s %8d  %s\n' "$name" "${seconds[$name]}" "${outcome[$name]}"
        total=$((total + seconds[$name]))
        if [[ ${outcome[$name]} == passed ]]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    done
    printf '%-10s %8d\n\n' total "$total"
    echo "$passed passed, $failed failed"
    if ((${#not_run[@]} > 0)); then printf '%s\n' "${not_run[@]}"; fi
    [[ $failed -eq 0 && $passed -gt 0 ]]
}
