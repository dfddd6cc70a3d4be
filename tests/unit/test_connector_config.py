"""The configuration file: where it is found and what it may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from underpass.connector.config import Config, find_config, load_config, read_config
from underpass.ops.directories import config_directories
from underpass.ops.document import ConfigError, parse_yaml


def read(text: str) -> Config:
    return read_config(parse_yaml(text, "config.yml"), Path("/somewhere/config.yml"))


class TestSearch:
    def test_our_own_directory_comes_first_and_cloudflareds_follow(self) -> None:
        home = Path("/home/someone")
        assert config_directories(home, windows=False) == (
            home / ".underpass",
            home / ".cloudflared",
            home / ".cloudflare-warp",
            home / "cloudflare-warp",
            Path("/etc/cloudflared"),
            Path("/usr/local/etc/cloudflared"),
        )
        assert len(config_directories(home, windows=True)) == 4

    def test_yml_is_preferred_to_yaml_and_earlier_directories_to_later(
        self, tmp_path: Path
    ) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        assert find_config([one, two]) is None
        (two / "config.yml").write_text("loglevel: debug\n")
        assert find_config([one, two]) == two / "config.yml"
        (one / "config.yaml").write_text("")
        assert find_config([one, two]) == one / "config.yaml"
        (one / "config.yml").write_text("")
        assert find_config([one, two]) == one / "config.yml"

    def test_without_a_file_the_configuration_is_empty(self, tmp_path: Path) -> None:
        assert load_config(None, [tmp_path]) == Config()

    def test_a_file_that_was_asked_for_must_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot read .*absent.yml: No such file"):
            load_config(tmp_path / "absent.yml", [])

    def test_an_empty_file_is_remarked_on(self, tmp_path: Path) -> None:
        path = tmp_path / "config.yml"
        path.write_text("# nothing\n")
        assert load_config(path, []).remarks == (f"{path} is empty",)


class TestKeys:
    def test_flags_structures_and_rules(self) -> None:
        config = read(
            "tunnel: 6ff42ae2-765d-4adf-8112-31c55c1551ef\n"
            "credentials-file: /x.json\n"
            "edge: [a:1, b:2]\n"
            "grace-period: 10s\n"
            "ha-connections: 2\n"
            "no-tls-verify: true\n"
            "warp-routing: {connectTimeout: 5s}\n"
            "ingress:\n- service: http_status:404\n"
        )
        assert config.tunnel == "6ff42ae2-765d-4adf-8112-31c55c1551ef"
        assert config.settings == {
            "credentials-file": "/x.json",
            "edge": ("a:1", "b:2"),
            "grace-period": 10.0,
            "ha-connections": 2,
            "no-tls-verify": True,
        }
        assert config.ingress is not None
        assert len(config.ingress.rules) == 1
        assert config.remarks == ()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("\ningres: []\n", "config.yml, line 2: ingres: unknown key; did you mean 'ingress'?"),
            (
                "cred-file: x\n",
                "line 1: cred-file: is a name of the flag only; write 'credentials-file'",
            ),
            ("config: x\n", "line 1: config: can be given as a flag or in the environment only"),
            ("edge-ip-version: 4\n", 'expected a string, found the number 4; write "4"'),
            ("label: true\n", 'expected a string, found the boolean true; write "true"'),
            ("ha-connections: '4'\n", "found the string '4'; write 4 without quotes"),
            ("ha-connections: four\n", "expected a whole number, found the string 'four'"),
            ("ha-connections: 4.5\n", "expected a whole number, found the number 4.5"),
            ("no-tls-verify: yes\n", "expected true or false, found the string 'yes'; write true"),
            ("no-tls-verify: 'false'\n", "found the string 'false'; write false"),
            ("no-tls-verify: 1\n", "found the number 1; write true"),
            ("no-tls-verify: maybe\n", "expected true or false, found the string 'maybe'"),
            ("grace-period: 30\n", "such as 30s or 1m30s, found the number 30; write 30s"),
            ("grace-period: soon\n", "'soon' is not a duration"),
            (
                "edge: a:1\n",
                """expected a list of strings, found the string 'a:1'; write ["a:1"]""",
            ),
            (
                "edge: [a:1, 7844]\n",
                'edge[1]: expected a string, found the number 7844; write "7844"',
            ),
            ("edge: {a: 1}\n", "expected a list of strings, found a mapping"),
            ("warp-routing: {timeout: 5s}\n", "warp-routing.timeout: unknown key"),
            ("warp-routing: {maxActiveFlows: -1}\n", "cannot be negative"),
            ("originRequest: {noTLSverify: true}\n", "did you mean 'noTLSVerify'"),
            ("ingress:\n- service: x\n", "line 2: ingress[0].service: rule #1"),
        ],
    )
    def test_what_is_wrong_is_said_with_its_place(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            read(text)
        assert message in str(caught.value)

    def test_values_that_count_as_not_given_are_remarked_on(self) -> None:
        config = read("grace-period: 0s\nretries: 0\nurl: ''\nno-tls-verify: false\n")
        assert config.settings == {}
        assert {remark.partition(" is ignored")[0] for remark in config.remarks} == {
            "config.yml, line 1: grace-period:",
            "config.yml, line 2: retries:",
        }

    def test_keys_of_cloudflareds_service_mode_are_left_alone(self) -> None:
        text = "forwarders: [{url: x}]\nlogDirectory: /var/log\nresolver: {enabled: true}\n"
        assert read(text).settings == {}

    def test_a_path_key_is_relative_to_the_file(self) -> None:
        assert read("host-key-path: keys\n").settings == {"host-key-path": "/somewhere/keys"}


def test_workers_are_a_number_or_auto() -> None:
    assert read("workers: 2\n").settings["workers"] == 2
    assert read("workers: auto\n").settings["workers"] == "auto"
    assert "workers" not in read("workers: 0\n").settings
    for wrong in ("many", "1.5", "[2]"):
        with pytest.raises(ConfigError, match=r"line 1: workers: "):
            read(f"workers: {wrong}\n")
