# Headings, times and the table at the end. Sourced by tests/run.sh.

declare -A outcome seconds
declare -a ran=()

# run_part NAME: runs part_NAME in a shell of its own that ends at the first failure.
run_part() {
    local name=$1 started=$SECONDS status=0
    printf '\n=== %s: %s\n' "$name" "${ABOUT[$name]}"
    # Not `if …` nor `… ||`: bash would ignore `set -e` inside.
    set +e
    (
        set -euo pipefail
        "part_$name"
    )
    status=$?
    set -e
    ran+=("$name")
    seconds[$name]=$((SECONDS - started))
    if [[ $status -eq 0 ]]; then outcome[$name]=passed; else outcome[$name]="FAILED (exit $status)"; fi
    printf '=== %s: %s, %d s\n' "$name" "${outcome[$name]}" "${seconds[$name]}"
}

# summary: the table and the closing line; fails if a part failed or none ran.
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
    [[ $failed -eq 0 && $passed -gt 0 ]]
}
