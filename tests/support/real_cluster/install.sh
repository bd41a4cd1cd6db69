#!/bin/sh
# Debian packages that the end-to-end tests need; does nothing where they are installed.
set -eu
missing=
for package in buildah catatonit conntrack containerd containernetworking-plugins debootstrap ipset iproute2 iptables \
  prometheus runc; do
  dpkg-query --show --showformat='${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "Installing$missing …" >&2
[ "$(id -u)" = 0 ] || { echo "The end-to-end tests need root, for namespaces, containers and mounts." >&2; exit 1; }
# Installed, and not started: the tests start what they need themselves.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
fi
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing > /dev/null
