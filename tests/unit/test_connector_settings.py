"""Settings: which source wins, how each is read, what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from underpass.connector.settings import SettingError, Settings, Source, resolve
from underpass.connector.settings_table import SETTINGS, Value


def settings(
    *levels: Mapping[str, Value],
    env: Mapping[str, str] | None = None,
    config: Mapping[str, Value] | None = None,
) -> Settings:
    return resolve(levels, env or {}, config or {})


class TestPrecedence:
    @pytest.mark.parametrize(
        ("levels", "env", "config", "value", "source"),
        [
            ([{"loglevel": "a"}, {"loglevel": "b"}], {}, "d", "a", "COMMAND_LINE"),
            ([{}, {"loglevel": "b"}], {"TUNNEL_LOGLEVEL": "c"}, "d", "b", "COMMAND_LINE"),
            ([{}, {}], {"TUNNEL_LOGLEVEL": "c"}, "d", "c", "ENVIRONMENT"),
            ([{}, {}], {}, "d", "d", "CONFIG"),
            ([{}, {}], {}, None, "info", "DEFAULT"),
        ],
    )  # fmt: skip
    def test_command_line_then_environment_then_file_then_default(
        self,
        levels: Sequence[Mapping[str, Value]],
        env: Mapping[str, str],
        config: str | None,
        value: str,
        source: str,
    ) -> None:
        found = settings(*levels, env=env, config={"loglevel": config} if config else {})
        assert found.text("loglevel") == value
        assert found.source("loglevel") is Source[source]
        assert found.is_set("loglevel") is (source != "DEFAULT")

    def test_an_empty_variable_hides_the_file(self) -> None:
        found = settings(env={"TUNNEL_RETRIES": ""}, config={"retries": 9})
        assert found.integer("retries") == 5
        found = settings(env={"TUNNEL_URL": ""}, config={"url": "http://x"})
        assert found.text("url") == ""
        assert found.is_set("url")

    def test_the_first_of_two_variables_counts(self) -> None:
        env = {"TUNNEL_LOG_OUTPUT": "json", "TUNNEL_MANAGEMENT_OUTPUT": "default"}
        assert settings(env=env).text("output") == "default"


class TestEnvironment:
    def test_values_are_read_by_kind(self) -> None:
        env = {
            "TUNNEL_GRACE_PERIOD": "1m",
            "TUNNEL_RETRIES": "7",
            "NO_TLS_VERIFY": "T",
            "TUNNEL_EDGE": "a:1, b:2,,",
        }
        found = settings(env=env)
        assert found.seconds("grace-period") == 60.0
        assert found.integer("retries") == 7
        assert found.boolean("no-tls-verify") is True
        assert found.list("edge") == ("a:1", "b:2")

    @pytest.mark.parametrize(
        "env", [{"TUNNEL_GRACE_PERIOD": "30"}, {"TUNNEL_RETRIES": "x"}, {"NO_TLS_VERIFY": "yes"}]
    )
    def test_a_variable_that_cannot_be_read_is_named(self, env: dict[str, str]) -> None:
        with pytest.raises(SettingError, match=f"environment variable {next(iter(env))}: "):
            settings(env=env)


def test_what_would_silently_do_less_than_asked_is_refused() -> None:
    with pytest.raises(SettingError, match=r"post-quantum \(command line\): links cannot"):
        settings({"post-quantum": True})
    assert settings({"post-quantum": False}).boolean("post-quantum") is False


def test_secrets_are_not_shown() -> None:
    found = settings({"token": "secret", "edge": ("a:1", "b:2"), "grace-period": 90.0})
    assert found.shown() == {"token": "*****", "edge": "[a:1 b:2]", "grace-period": "1m30s"}


def test_no_spelling_belongs_to_two_settings() -> None:
    spellings = [name for each in SETTINGS.values() for name in (each.name, *each.aliases)]
    assert len(spellings) == len(set(spellings))
    variables = [name for each in SETTINGS.values() for name in each.environment]
    assert len(variables) == len(set(variables))


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_every_default_has_the_kind_of_its_setting(setting: object) -> None:
    found = settings()
    readers = {
        "text": found.text,
        "integer": found.integer,
        "count": found.count,
        "boolean": found.boolean,
        "duration": found.seconds,
        "list": found.list,
    }
    name, kind = getattr(setting, "name", ""), getattr(setting, "kind", "")
    assert readers[kind](name) == getattr(setting, "default", None)


def test_a_count_is_a_number_or_auto() -> None:
    assert settings(env={"TUNNEL_WORKERS": "3"}).count("workers") == 3
    assert settings(env={"TUNNEL_WORKERS": "auto"}).count("workers") is None
    with pytest.raises(SettingError, match="'some' is not a whole number or auto"):
        settings(env={"TUNNEL_WORKERS": "some"})


def test_settings_that_differ_are_named() -> None:
    one = settings(config={"retries": 9, "workers": 1})
    assert one.differing(settings(config={"grace-period": 7.0})) == ("retries", "grace-period")
    assert one.differing(settings(env={"TUNNEL_RETRIES": "9"})) == ()
