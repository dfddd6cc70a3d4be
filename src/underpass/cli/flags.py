"""click commands that take the connector's settings as flags, in Go's syntax, with grouped help."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import cache
from typing import Any

import click
from click.core import ParameterSource

from underpass.cli.go_flags import Flag, GoFlagError, normalize
from underpass.connector.settings_table import (
    SETTINGS,
    Group,
    Setting,
    Value,
    parse_boolean,
    spell,
)

__all__ = [
    "GoCommand",
    "GoGroup",
    "GoOption",
    "SettingOption",
    "given_levels",
    "setting_options",
]


class _SettingType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """The type of one setting's values."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.name = setting.kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.setting.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class SettingOption(click.Option):
    """The flag of one setting. Defaults and the environment are left to `settings.resolve`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.flag = Flag(setting.name, is_boolean=setting.kind == "boolean")
        names = [f"--{setting.name}"]
        names += [f"--{alias}" for alias in setting.aliases if len(alias) > 1]
        names += [f"-{alias}" for alias in setting.aliases if len(alias) == 1]
        super().__init__(
            [*names, _parameter_name(setting)],
            type=_SettingType(setting),
            multiple=setting.kind == "list",
            default=None,
            help=_help(setting),
            metavar=_METAVARS[setting.kind],
            hidden=setting.hidden,
        )

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Most settings are not given, and a command has a hundred: for those nothing is done."""
        if self.name not in opts:
            return None, args
        return super().handle_parse_result(ctx, opts, args)


class _BooleanType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    name = "boolean"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse_boolean(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class GoOption(click.Option):
    """A flag of one command that is no setting: text, or a boolean (`--x`, `--x=false`).

    Its value is None when it was not given. `aliases` are separated by spaces; the name of the
    function's parameter is `parameter`, or made from `name`.
    """

    def __init__(
        self,
        name: str,
        aliases: str = "",
        *,
        text: str,
        boolean: bool = False,
        env: str | None = None,
        metavar: str = "TEXT",
        parameter: str = "",
        required: bool = False,
        multiple: bool = False,
        hidden: bool = False,
    ) -> None:
        self.flag = Flag(name, is_boolean=boolean)
        spellings = [name, *aliases.split()]
        super().__init__(
            [
                *(f"--{each}" if len(each) > 1 else f"-{each}" for each in spellings),
                parameter or name.replace("-", "_"),
            ],
            type=_BooleanType() if boolean else str,
            envvar=env,
            help=f"{text} [${env}]" if env else text,
            metavar="" if boolean else metavar,
            required=required,
            multiple=multiple,
            hidden=hidden,
        )


_METAVARS = {
    "text": "TEXT",
    "list": "TEXT",
    "integer": "N",
    "count": "N|auto",
    "duration": "DURATION",
    "boolean": "",
}


def _help(setting: Setting) -> str:
    """The help text with the default and the environment variable."""
    text = setting.help
    if setting.default and setting.kind != "boolean":
        text = f"{text} (default {spell(setting.default)})"
    if setting.environment:
        text = f"{text} [${setting.environment[0]}]"
    return text.strip()


def _parameter_name(setting: Setting) -> str:
    return "setting_" + setting.name.replace("-", "_")


def setting_options(
    names: Iterable[str] | None = None, *, hidden: bool = False
) -> list[click.Parameter]:
    """The flags of the settings named, or of all."""
    options = [_option(name) for name in (SETTINGS if names is None else names)]
    return [_hidden(option) for option in options] if hidden else [*options]


@cache
def _option(name: str) -> SettingOption:
    """The flag of a setting: one for all commands, because making one is slow."""
    return SettingOption(SETTINGS[name])


def _hidden(option: SettingOption) -> SettingOption:
    hidden = copy(option)
    hidden.hidden = True
    return hidden


def given_levels(ctx: click.Context) -> list[Mapping[str, Value]]:
    """What the command lines of `ctx` and of the commands above it give, the nearest first."""
    levels: list[Mapping[str, Value]] = []
    level: click.Context | None = ctx
    while level is not None:
        levels.append(
            {
                option.setting.name: level.params[option.name]
                for option in level.command.params
                if isinstance(option, SettingOption)
                and option.name is not None
                and level.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
            }
        )
        level = level.parent
    return levels


class GoCommand(click.Command):
    """A command whose flags are written as Go's are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _rewritten(self, ctx, args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_options(self, ctx, formatter)


class GoGroup(click.Group):
    """A group of commands, with flags of its own before the command's name.

    `lazy` names commands as `module:attribute`, imported when they are asked for. `aliases` are
    other names of commands, which the help does not show.
    """

    command_class = GoCommand

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, str] | None = None,
        aliases: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})
        self._aliases = dict(aliases or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self._lazy]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = self._aliases.get(cmd_name, cmd_name)
        place = self._lazy.get(cmd_name)
        if place is None:
            root = ctx.find_root()
            if cmd_name == "help" and ctx is not root and isinstance(root.command, click.Group):
                # `underpass tunnel help run` is `underpass help tunnel run`, as in cloudflared.
                return root.command.get_command(root, "help")
            return super().get_command(ctx, cmd_name)
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            # click knows nothing of lazy commands, and its older versions of no hints.
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _rewritten(self, ctx, args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


def _rewritten(command: click.Command, ctx: click.Context, args: Sequence[str]) -> list[str]:
    flags: dict[str, Flag] = {}
    for param in command.get_params(ctx):
        if not isinstance(param, click.Option):
            continue
        names = [name.lstrip("-") for name in param.opts]
        if isinstance(param, (SettingOption, GoOption)):
            flag = param.flag
        else:
            flag = Flag(max(names, key=len), is_bare=param.is_flag)
        flags.update(dict.fromkeys(names, flag))
    try:
        return normalize(args, flags, stop_at_word=not command.allow_interspersed_args)
    except GoFlagError as error:
        raise click.UsageError(str(error), ctx) from None


def _format_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    groups: dict[str, list[tuple[str, str]]] = {group.value: [] for group in Group}
    groups["Options"] = []
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            heading = param.setting.group.value if isinstance(param, SettingOption) else "Options"
            groups[heading].append(record)
    for heading, records in groups.items():
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)
