# Sourced by install and uninstall: what is put where.
PROGRAM=/opt/edge
COMMAND=/usr/local/bin/edge
CONFIGURATION=/etc/edge
STATE=/var/lib/edge
UNITS=/etc/systemd/system
USER_NAME=edge
# In $PROGRAM: the folders that the installer made, and which wheel is in it.
MADE=made-folders
SUM=installed-wheel

fail() {
    echo "edge: $1" >&2
    exit "${2:-1}"
}

# sd_booted(3)
systemd_runs() {
    [ -d /run/systemd/system ]
}
