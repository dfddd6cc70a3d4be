"""What is told of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from underpass.ops import system_information as module
from underpass.ops.system_information import collect_system_information, read_df
from underpass.version import VERSION


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_everything_is_told_on_linux() -> None:
    answer = collect_system_information()
    assert answer["errors"] == {}
    info = answer["info"]
    assert 0 < info["memoryCurrent"] < info["memoryMaximum"]
    assert 0 < info["fileDescriptorCurrent"] < info["fileDescriptorMaximum"]
    assert info["osSystem"] == "Linux"
    assert info["hostName"] == platform.node()
    assert info["cloudflaredVersion"] == VERSION
    assert info["goVersion"] == f"python{platform.python_version()}"
    assert info["goArch"] == info["architecture"] == platform.machine()
    assert info["disk"]
    assert set(info["disk"][0]) == {"name", "sizeMaximum", "sizeCurrent"}


def test_what_cannot_be_found_out_is_an_error_and_the_rest_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hangs(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("df", module.COMMAND_SECONDS)

    monkeypatch.setattr(subprocess, "run", hangs)
    answer = collect_system_information()
    error = answer["errors"]["diskVolumeInformationError"]
    assert "timed out" in error["error"]
    assert error["rawInfo"] == ""
    assert "disk" not in answer["info"]
    assert answer["info"]["hostName"]


def test_df_in_another_form_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_output", lambda *_: "Filesystem\nsomething else\n")
    error = collect_system_information()["errors"]["diskVolumeInformationError"]
    assert error == {"error": "df -k has another form", "rawInfo": "Filesystem\nsomething else\n"}


def test_df_is_read() -> None:
    text = (
        "Filesystem     1K-blocks   Used Available Use% Mounted on\n"
        "/dev/vda       264212084 100 249999999   7% /\n"
    )
    assert read_df(text) == [{"name": "/dev/vda", "sizeMaximum": 264212084, "sizeCurrent": 100}]
