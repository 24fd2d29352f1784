# Counted steps. Read by tests/run.sh and tests/test_install.sh, which set $work: `. tests/steps.sh`.

passed=0
failed=0

# check NAME COMMAND...: silent where it succeeds; else the end of what it said.
check() {
    name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok   $name"
    else
        failed=$((failed + 1))
        echo "FAIL $name"
        tail -n 40 "$work/log"
        return 1
    fi
}
