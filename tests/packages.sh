# Packages of Debian 12 that a script needs. Read by tests/run.sh and examples/quickstart.sh: `. tests/packages.sh`.
#
# A table: kind, what is looked for, the package that has it. "tool": a command; "library": a module of pkg-config;
# "file": a path.

build_needs="
tool cc build-essential
tool make build-essential
tool cmake cmake
tool pkg-config pkg-config
library openblas libopenblas-dev
library lapacke liblapacke-dev
library jansson libjansson-dev
library libpcre2-8 libpcre2-dev
library libutf8proc libutf8proc-dev
library libxxhash libxxhash-dev
library cmocka libcmocka-dev
"

# missing_packages TABLE: those whose tool or library is not there, each once.
missing_packages() {
    echo "$1" | while read -r kind name package; do
        case $kind in
        tool) command -v "$name" >/dev/null 2>&1 || echo "$package" ;;
        library) pkg-config --exists "$name" 2>/dev/null || echo "$package" ;;
        file) [ -e "$name" ] || echo "$package" ;;
        esac
    done | sort -u | tr '\n' ' '
}

# need_packages TABLE: installs what is missing, through sudo where the user is not root, and says so.
need_packages() {
    packages=$(missing_packages "$1")
    [ -n "$packages" ] || return 0
    as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    if ! command -v apt-get >/dev/null 2>&1 || { [ -n "$as_root" ] && ! command -v sudo >/dev/null 2>&1; }; then
        echo "missing: what Debian calls $packages(they cannot be installed from here)" >&2
        return 1
    fi
    echo "installing with apt-get: $packages"
    # shellcheck disable=SC2086
    $as_root apt-get -qq update && $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends $packages >/dev/null || {
        echo "apt-get could not install $packages" >&2
        return 1
    }
}
