#!/bin/sh
# Install the cross compilers from Debian or Ubuntu packages where that is allowed, else say what is missing.
# Never fails: without compilers the firmware checks are skipped with a notice.
packages=""
command -v arm-none-eabi-gcc >/dev/null 2>&1 || packages="gcc-arm-none-eabi libnewlib-arm-none-eabi"
command -v riscv64-unknown-elf-gcc >/dev/null 2>&1 ||
    packages="$packages gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf"
[ -n "$packages" ] || exit 0

manual() {
    echo "notice: cross compilers are missing ($1); the firmware checks will be skipped."
    echo "        To have them: apt-get install $packages"
    exit 0
}

command -v apt-get >/dev/null 2>&1 || manual "no apt-get here"
if [ "$(id -u)" = 0 ]; then
    root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    root="sudo"
else
    manual "installing needs root or sudo without a password"
fi
log=$(mktemp)
echo "installing $packages"
# shellcheck disable=SC2086  # a list of package names
if $root apt-get update >"$log" 2>&1 &&
    DEBIAN_FRONTEND=noninteractive $root apt-get install -y --no-install-recommends $packages >>"$log" 2>&1; then
    rm -f "$log"
else
    tail -n 3 "$log"
    manual "apt-get failed, see $log"
fi
