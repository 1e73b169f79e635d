# Sourced by demo, test and check: makes the environment that the three share, .venv in the project's root.
#   setup EXTRAS      installs the project with these extras, where that has not been done yet
#   optional EXTRA    likewise, where that is possible
#   debian PACKAGE…   installs Debian packages where that is possible; else names those that are missing
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

setup() {
    local python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        echo "edge needs Python 3.10 or newer, and '$python' is not; install one, or name it: PYTHON=python3.12 $0" >&2
        exit 1
    fi
    if [ ! -x .venv/bin/python ]; then
        rm -rf .venv
        "$python" -m venv .venv >/dev/null 2>&1 || { debian python3-venv && "$python" -m venv --clear .venv; } || exit 1
    fi
    local wanted done_before
    wanted=$(stamp "$1")
    done_before=$(cat .venv/installed 2>/dev/null)
    # What check and test install holds all that the demo needs.
    case "$done_before" in
        "$wanted" | "cpu,demo,dev ${wanted#* }") return ;;
    esac
    echo "Setting up .venv (once; a minute or so) …" >&2
    install_extras "$1" || {
        echo "The packages could not be installed; see pip's message above, and whether this machine reaches PyPI." >&2
        exit 1
    }
    echo "$wanted" > .venv/installed
}

install_extras() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$1]" --constraint constraints-dev.txt >&2
}

# What an installation of these extras follows from: where it is still the same, nothing is installed again.
stamp() {
    echo "$1 $(cat pyproject.toml constraints-dev.txt | sha256sum | cut -c1-64)"
}

# For what not every machine can have: an extra whose wheels are missing is told, and what needs it skips itself.
optional() {
    local wanted
    wanted=$(stamp "$1")
    [ "$(cat ".venv/installed-$1" 2>/dev/null)" = "$wanted" ] && return
    if install_extras "$1"; then
        echo "$wanted" > ".venv/installed-$1"
    else
        echo "The extra '$1' cannot be installed here; what needs it is skipped." >&2
    fi
}

debian() {
    local missing=()
    for package in "$@"; do
        dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "Installing ${missing[*]} …" >&2
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
            >/dev/null 2>&1 && return 0
    fi
    echo "Not installed here, and needed for everything to run: ${missing[*]} (sudo apt-get install ${missing[*]})" >&2
    return 1
}
