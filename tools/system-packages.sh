#!/bin/sh
# Install the Debian packages named as arguments that are missing, when root; say what is missing otherwise.
set -eu
missing=""
for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "missing:$missing"
    echo "install them (Debian: sudo apt-get install$missing) and run this again"
    exit 1
fi
echo "installing:$missing"
# Services are not started: the tests start their own.
printf '#!/bin/sh\nexit 101\n' > /tmp/policy-rc.d.$$
[ -e /usr/sbin/policy-rc.d ] || { install -m 755 /tmp/policy-rc.d.$$ /usr/sbin/policy-rc.d; placed=1; }
rm -f /tmp/policy-rc.d.$$
trap '[ -z "${placed:-}" ] || rm -f /usr/sbin/policy-rc.d' EXIT
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
