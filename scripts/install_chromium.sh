#!/usr/bin/env bash
# Chromium for the browser tests: nothing to do if there is one, else from Debian's or Ubuntu's packages (as root).
#   CHROMIUM   a browser elsewhere
# Exit status 1 with a warning if there is none at the end.
set -euo pipefail
find_browser() {
    local name
    for name in ${CHROMIUM:+"$CHROMIUM"} chromium chromium-browser google-chrome google-chrome-stable chrome microsoft-edge; do
        command -v "$name" && return 0
    done
    return 1
}

warn() {
    printf '\n*** WARNING: %s\n*** The browser tests cannot run here. %s\n\n' "$1" \
        "Install Chromium (Debian, as root: apt-get install chromium), or set CHROMIUM to where one is." >&2
    exit 1
}

if found=$(find_browser); then
    echo "browser: $found"
    exit 0
fi
command -v apt-get > /dev/null || warn "no Chromium is found, and there is no apt-get to install it with"
[ "$(id -u)" -eq 0 ] || warn "no Chromium is found, and only root can install it"
export DEBIAN_FRONTEND=noninteractive
options=(-q -y -o Acquire::Retries=3 -o Acquire::http::Timeout=60 -o DPkg::Lock::Timeout=300)
for try in 1 2 3; do
    apt-get "${options[@]}" update || true  # what is known of old may do
    apt-get "${options[@]}" install --no-install-recommends chromium && break
    [ "$try" -eq 3 ] || sleep 5
done
found=$(find_browser) || warn "apt-get could not install Chromium"
echo "browser: $found"
