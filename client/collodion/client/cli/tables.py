"""What commands that ask a server have in common: the client, JSON lines and tables."""

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from collodion.client.cli import plain
from collodion.client.cli.foreign import shown
from collodion.client.client import Client

_ELASTIC = ("prompt", "samplers", "takes", "deadline", "where", "detail")  # columns that give way first
_NARROW = 90  # characters; on such a terminal even a job's id does


def client_of(arguments: argparse.Namespace) -> Client:
    """The client that the flags ask for."""
    return Client(arguments.server, tenant=arguments.tenant, timeout_s=arguments.timeout)


def marked(name: str, is_default: bool) -> str:
    """The name, and whether it is what one gets who asks for none."""
    return f"{name} (default)" if is_default else name


def print_lines(values: Any) -> None:
    """A JSON line for each value."""
    for value in values:
        print(plain.line(**plain.fields_of(value)))


def print_table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table on a terminal, else tabs between the cells."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        for row in rows:
            print("\t".join(map(shown, row)))
        return
    table = Table(box=None, pad_edge=False)
    elastic = (*_ELASTIC, "job") if console.width < _NARROW else _ELASTIC
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading not in elastic)
    for row in rows:
        table.add_row(*(_cell(heading, text) for heading, text in zip(headings, row, strict=True)))
    console.print(table)


def print_facts(facts: list[tuple[str, str]]) -> None:
    """The name of each fact and what it is, in two columns on a terminal, else with a tab between them."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        for fact in facts:
            print("\t".join(map(shown, fact)))
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts:
        table.add_row(Text(shown(name), style="bold"), Text(shown(text)))
    console.print(table)


def _cell(heading: str, text: str) -> Text:
    return Text(shown(text), no_wrap=True, overflow="ellipsis") if heading == "prompt" else Text(shown(text))
