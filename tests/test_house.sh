#!/bin/sh
# The house rules that a script can check: who includes whom, which names a library shows, lengths, comments.
#
#     sh tests/test_house.sh BUILD
#
# BUILD is a built folder. One line a check, `N passed, N failed` at the end.

build=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
CC=${CC:-cc}
CXX=${CXX:-c++}
passed=0
failed=0

# check NAME COMMAND...: it succeeds and says nothing.
check() {
    name=$1
    shift
    if "$@" >"$work/log" 2>&1 && [ ! -s "$work/log" ]; then
        passed=$((passed + 1))
        echo "ok   $name"
    else
        failed=$((failed + 1))
        echo "FAIL $name"
        head -n 20 "$work/log"
    fi
}

# --- public headers, each alone ---

for header in include/quant/*.h; do
    check "$header as C11" $CC -std=c11 -pedantic-errors -Wall -Wextra -Werror -Iinclude -fsyntax-only -x c "$header"
    check "$header as C++11" $CXX -std=c++11 -pedantic-errors -Wall -Wextra -Werror -Iinclude -fsyntax-only -x c++ "$header"
done

# --- the top level ---

# Of what is under version control; outside a repository there is nothing to ask.
top_level() {
    git ls-files 2>/dev/null | cut -d/ -f1 | sort -u |
        grep -vxE '\..*|include|src|tests|bench|examples|CMakeLists\.txt|CMakePresets\.json|README\.md|LICENSE'
    true
}
check "nothing else at the top level" top_level

# --- arrows: a room may include itself and the rooms of the lines above it ---

arrows() {
    cat >"$work/order" <<'ORDER'
base
file linalg
calib grid unit
transform solve
qlinear
pack kernels
method
methods
container
text
checkpoint
nn export
eval
sweep
ORDER
    grep -rHo '^#include "[a-z_]*/[^"]*"' src | sed 's/#include //; s/"//g' >"$work/includes"
    awk -F: -v order="$work/order" '
        BEGIN {
            while ((getline line < order) > 0) {
                n = split(line, rooms, " ")
                for (i = 1; i <= n; i++)
                    rank[rooms[i]] = NR_order
                NR_order++
            }
            model = rank["container"]
        }
        {
            split($1, from, "/"); split($2, to, "/")
            a = from[2]; b = to[1]
            if (a == "cli" && b != "cli")
                print $1 ": the tool sees public headers only, not " $2
            else if (a != "cli" && (!(a in rank) || !(b in rank)))
                print $1 ": no room for " a " or " b
            else if (a != b && a != "cli" && rank[b] >= rank[a])
                print $1 ": " a " must not see " b
            else if (rank[a] >= model && (b == "methods" || b == "solve"))
                print $1 ": the model level must not see " b
            else if (a == "methods" && b == "methods" && $2 != "methods/refine.h" && base($1) != base($2))
                print $1 ": methods do not include each other (" $2 ")"
        }
        function base(path) { sub(/.*\//, "", path); sub(/\.[ch]$/, "", path); return path }
    ' "$work/includes"
    for room in base file linalg calib grid unit transform solve qlinear method methods pack kernels; do
        grep -rl '<quant/model.h>' "src/$room" | sed 's/$/: the layer level must not see model.h/'
    done
    return 0
}
check "arrows between rooms" arrows

# --- names ---

# Global names of an object, one a line.
names() {
    nm -g --defined-only "$@" 2>/dev/null | awk 'NF == 3 { print $3 }' | sort -u
}

prefixes() {
    names "$1" | grep -v '^qnti\{0,1\}_'
    return 0
}

exported() {
    names -D "$1" >"$work/names"
    grep -v '^qnt_' "$work/names"
    sort -u tests/exported.txt >"$work/wanted"
    if grep -q '^QUANT_MODEL:BOOL=ON' "$build/CMakeCache.txt"; then
        diff "$work/wanted" "$work/names"
    else
        comm -13 "$work/wanted" "$work/names"
    fi
}

if [ -f "$build/libquant.a" ]; then
    check "global names begin with qnt_ or qnti_" prefixes "$build/libquant.a"
    check "link a shared library" $CC -shared -o "$work/libquant.so" -Wl,--whole-archive "$build/libquant.a" \
        -Wl,--no-whole-archive
    shared=$work/libquant.so
else
    shared=$build/libquant.so
fi
check "exported names are those of tests/exported.txt" exported "$shared"

# --- sources ---

# Nothing printed, ended or kept in the library; cli is no part of it.
calls() {
    grep -rnE '(^|[^a-zA-Z0-9_])(printf|fprintf|vprintf|puts|putchar|exit|_exit|abort|assert|signal)\(' src \
        --include='*.[ch]' | grep -v '^src/cli/'
    return 0
}
check "no printing, no exit, no abort" calls

state() {
    grep -rnE '^(static )?[a-z][a-zA-Z0-9_ ]*[ *][a-z_]+(\[[^]]*\])*( = .*|;)$' src --include='*.c' |
        grep -vE '(const|extern|typedef|struct [a-z_]+;|enum |_Thread_local)' | grep -v '^src/cli/'
    return 0
}
check "no mutable state" state

memory() {
    grep -rnE '(^|[^a-zA-Z0-9_])(malloc|calloc|realloc|strdup|strndup|alloca)\(' src --include='*.[ch]' |
        grep -v '^src/cli/'
    return 0
}
check "memory comes from the context" memory

long_files() {
    find src include -name '*.[ch]' | xargs wc -l | awk '$2 != "total" && $1 > 600 { print $2 ": " $1 " lines" }'
}
check "no file above 600 lines" long_files

long_functions() {
    find src -name '*.[ch]' ! -path 'src/kernels/*' | xargs awk '
        FNR == 1 { start = 0 }
        /^{$/ { start = FNR }
        /^}/ && start { if (FNR - start + 1 > 80) print FILENAME ":" start ": " FNR - start + 1 " lines"; start = 0 }'
}
check "no function above 80 lines" long_functions

long_lines() {
    find src include tests -name '*.[ch]' | xargs awk '
        length($0) > 120 { print FILENAME ":" FNR ": " length($0) " columns" }
        /\t/ { print FILENAME ":" FNR ": a tab" }
        /[ \t]$/ { print FILENAME ":" FNR ": a space at the end" }'
}
check "no line above 120 columns, no tab" long_lines

openings() {
    for file in $(find src include tests -name '*.[ch]'); do
        [ "$(head -c 2 "$file")" = "/*" ] || echo "$file does not open with a comment"
    done
}
check "files say what they are" openings

# A public function stands in a paragraph with a comment.
comments() {
    awk '
        /^$/ { commented = 0 }
        /\/\*/ { commented = 1 }
        /^QNT_API/ && !commented { print FILENAME ":" FNR ": " $0 }' include/quant/*.h
}
check "public functions have comments" comments

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
