"""Services on Linux: systemd, OpenRC, or the scripts of System V."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from underpass.operations.service.machine import Machine, ServiceError

__all__ = ["OpenRc", "SystemV", "Systemd", "find_init", "systemd_word"]

TOKEN_FILE: Final = "/etc/underpass/token"  # noqa: S105 - a path
CONFIG_FILE: Final = "/etc/underpass/config.yml"
INIT_SCRIPT: Final = "/etc/init.d/underpass"

_OPENRC: Final = ("/sbin/openrc-run", "/usr/sbin/openrc-run", "/usr/bin/openrc-run")


def find_init(machine: Machine) -> Systemd | OpenRc | SystemV:
    """Which of the three runs this system (docs: command line §9)."""
    if machine.exists("/run/systemd/system"):
        return Systemd()
    if any(machine.exists(place) for place in _OPENRC):
        return OpenRc()
    return SystemV()


class _Linux:
    token_file = TOKEN_FILE
    config_file = CONFIG_FILE

    def protect(self, machine: Machine, token_file: str) -> None:
        """A file's mode is enough."""

    def remarks(self, machine: Machine) -> Sequence[str]:
        return ()


class Systemd(_Linux):
    """A unit of type notify: started means that a link is up."""

    name = "systemd"
    unit = "underpass.service"
    unit_file = f"/etc/systemd/system/{unit}"

    def installed(self, machine: Machine) -> str:
        return self.unit_file if machine.exists(self.unit_file) else ""

    def remarks(self, machine: Machine) -> Sequence[str]:
        if machine.try_to("systemctl", "is-active", "--quiet", "cloudflared.service"):
            return (
                "cloudflared.service is running too; if both run the same tunnel they share its "
                "requests. `systemctl disable --now cloudflared.service` ends the other one",
            )
        return ()

    def install(self, machine: Machine, command: Sequence[str]) -> None:
        machine.on_failure("systemctl", "daemon-reload")
        machine.write(self.unit_file, _unit(command).encode(), 0o644)
        machine.do("systemctl", "daemon-reload")
        machine.on_failure("systemctl", "disable", self.unit)
        machine.do("systemctl", "enable", self.unit)
        # It would go on trying otherwise.
        machine.on_failure("systemctl", "stop", self.unit)
        machine.do("systemctl", "start", self.unit)

    def uninstall(self, machine: Machine) -> None:
        machine.try_to("systemctl", "disable", self.unit)
        machine.try_to("systemctl", "stop", self.unit)
        machine.remove(self.unit_file)
        machine.do("systemctl", "daemon-reload")


def _unit(command: Sequence[str]) -> str:
    return f"""\
[Unit]
Description=Underpass tunnel connector
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
ExecStart={" ".join(map(systemd_word, command))}
ExecReload=/bin/kill -HUP $MAINPID
TimeoutStartSec=60
TimeoutStopSec=200
Restart=on-failure
RestartSec=5s
KillMode=mixed

# It needs to read its files, to reach the sockets of applications, and the network.
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome=read-only
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateDevices=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def systemd_word(word: str) -> str:
    """A word of a command line as systemd reads it (systemd.service(5), "Command lines")."""
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in word):
        raise ServiceError(f"{word!r} has control characters")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = word and not any(char in word for char in " '\"\\;")
    return escaped if plain else f'"{escaped}"'


class OpenRc(_Linux):
    """A script that OpenRC supervises."""

    name = "OpenRC"

    def installed(self, machine: Machine) -> str:
        return INIT_SCRIPT if machine.exists(INIT_SCRIPT) else ""

    def install(self, machine: Machine, command: Sequence[str]) -> None:
        script = _OPENRC_SCRIPT.format(
            program=shlex.quote(command[0]), arguments=shlex.quote(shlex.join(command[1:]))
        )
        machine.write(INIT_SCRIPT, script.encode(), 0o755)
        machine.on_failure("rc-update", "del", "underpass", "default")
        machine.do("rc-update", "add", "underpass", "default")
        machine.on_failure("rc-service", "underpass", "stop")
        machine.do("rc-service", "underpass", "start")

    def uninstall(self, machine: Machine) -> None:
        machine.try_to("rc-service", "underpass", "stop")
        machine.try_to("rc-update", "del", "underpass", "default")
        machine.remove(INIT_SCRIPT)


_OPENRC_SCRIPT: Final = """\
#!/sbin/openrc-run
name="underpass"
description="Underpass tunnel connector"
supervisor="supervise-daemon"
command={program}
command_args={arguments}
pidfile="/run/underpass.pid"
output_log="/var/log/underpass.log"
error_log="/var/log/underpass.err"
respawn_delay=5
respawn_max=0
umask=0077
extra_started_commands="reload"

depend() {{
    need net
    after firewall
}}

reload() {{
    supervise-daemon "$RC_SVCNAME" --signal HUP
}}
"""


class SystemV(_Linux):
    """A script that starts the connector in the background, and links to it."""

    name = "System V init"
    links = (
        *(f"/etc/rc{level}.d/S50underpass" for level in (2, 3, 4, 5)),
        *(f"/etc/rc{level}.d/K02underpass" for level in (0, 1, 6)),
    )

    def installed(self, machine: Machine) -> str:
        return INIT_SCRIPT if machine.exists(INIT_SCRIPT) else ""

    def install(self, machine: Machine, command: Sequence[str]) -> None:
        machine.write(
            INIT_SCRIPT, _SYSTEM_V_SCRIPT.replace("@command@", shlex.join(command)).encode(), 0o755
        )
        for link in self.links:
            machine.link(link, INIT_SCRIPT)
        machine.on_failure("service", "underpass", "stop")
        machine.do("service", "underpass", "start")

    def uninstall(self, machine: Machine) -> None:
        machine.try_to("service", "underpass", "stop")
        for link in self.links:
            machine.remove(link)
        machine.remove(INIT_SCRIPT)


_SYSTEM_V_SCRIPT: Final = """\
#!/bin/sh
# chkconfig: 2345 99 01
# description: Underpass tunnel connector
### BEGIN INIT INFO
# Provides:          underpass
# Required-Start:    $network $remote_fs
# Required-Stop:     $network $remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Underpass tunnel connector
### END INIT INFO
umask 077
pid_file=/var/run/underpass.pid
log=/var/log/underpass.err

is_running() {
    [ -s "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null
}

case "$1" in
    start)
        if is_running; then
            echo "underpass is running already"
        else
            @command@ </dev/null >>"$log" 2>&1 &
            echo $! >"$pid_file"
        fi
        ;;
    stop)
        if is_running; then
            kill "$(cat "$pid_file")"
            waited=0
            while is_running && [ "$waited" -lt 190 ]; do
                sleep 1
                waited=$((waited + 1))
            done
            if is_running; then
                echo "underpass does not stop"
                exit 1
            fi
        fi
        rm -f "$pid_file"
        ;;
    restart)
        "$0" stop && "$0" start
        ;;
    reload)
        is_running && kill -HUP "$(cat "$pid_file")"
        ;;
    status)
        if is_running; then
            echo "underpass is running"
        else
            echo "underpass is not running"
            exit 3
        fi
        ;;
    *)
        echo "usage: $0 {start|stop|restart|reload|status}"
        exit 2
        ;;
esac
"""
