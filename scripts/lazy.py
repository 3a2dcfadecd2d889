"""Groups of commands that are imported when one is called: `--help` waits for no training code."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click
import typer
from typer.core import TyperGroup


class Place(NamedTuple):
    """Where a command lies, and its line in the help."""

    module: str
    attribute: str
    help: str


def lazy(text: str, places: Mapping[str, Place], **settings: Any) -> typer.Typer:
    """A group of such commands, functions or groups themselves.

    Args:
        text: Its help.
        places: By name, in the order of the help.
        settings: Typer's.
    """

    class Group(TyperGroup):
        """Shows a command's line without it, and fetches the command when it is called."""

        def __init__(self, **attrs: Any) -> None:
            attrs["commands"] = {
                name: click.Command(name, help=place.help) for name, place in places.items()
            }
            # click suggests itself.
            super().__init__(**{**attrs, "suggest_commands": False})

        def resolve_command(
            self, ctx: click.Context, args: list[str]
        ) -> tuple[str | None, click.Command | None, list[str]]:
            name, command, rest = super().resolve_command(ctx, args)
            return (
                name,
                load(name, places[name]) if name is not None and name in places else command,
                rest,
            )

    app = typer.Typer(cls=Group, help=text, no_args_is_help=True, **settings)

    @app.callback()
    def group() -> None:
        pass

    return app


def load(name: str, place: Place) -> click.Command:
    """The command itself."""
    found = getattr(import_module(place.module), place.attribute)
    around = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    around.callback()(lambda: None)
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name)
    else:
        around.command(name)(found)
    group = typer.main.get_command(around)
    assert isinstance(group, click.Group)
    return group.commands[name]
