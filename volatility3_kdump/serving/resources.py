"""What clients can read without a dump: the tables, the commands, the bug checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from volatility3_kdump.errors import KdumpError

#: Longest key of a resource that is looked at.
_LONGEST = 80


def schemas() -> str:
    """The tables by name, one line each."""
    from volatility3_kdump.views.schemas import tables

    lines = [f"- `{key}`: the rows of `{table.name}` ({len(table.columns)} columns)" for key, table in tables()]
    return "\n".join(["# Tables", "", *sorted(lines)])


def schema(name: str) -> str:
    """The columns of a table by its key, or by what a user types. Raises :class:`KdumpError`."""
    from volatility3_kdump.views.schemas import rendered, tables

    wanted = name.strip()
    chosen = [table for key, table in tables() if wanted in (key, table.name)]
    if not chosen:
        raise KdumpError(f"{name[:_LONGEST]}: no such table; kdump://schemas lists them")
    return "\n\n".join(f"# `{table.name}`\n\n{rendered(table.columns)}" for table in chosen)


def commands() -> str:
    """The commands of the prompt, one line each."""
    from volatility3_kdump.console.commands import registry

    entries = {entry.names[0]: entry for entry in registry().values() if not entry.hidden}
    return "\n".join(f"- `{' '.join(entry.names)}`: {entry.help}" for _, entry in sorted(entries.items()))


def command(name: str) -> str:
    """The help of one command. Raises :class:`KdumpError`."""
    from volatility3_kdump.console.commands import find
    from volatility3_kdump.console.usage import described

    if not name.strip() or len(name) > _LONGEST:
        raise KdumpError("name a command, as kdump://commands lists them")
    entry, _ = find(name.strip())
    return "\n".join(described(entry))


def bug_checks() -> str:
    """Every code with its name."""
    from volatility3_kdump.analysis.bugcheck import known_codes

    return "\n".join(f"- 0x{code:x} {name}" for code, name in sorted(known_codes().items()))


def bug_check(code: str) -> str:
    """One bug check in words: what it means, its arguments, its variants. Raises :class:`KdumpError`."""
    from volatility3_kdump.analysis.bugcheck import describe, known_codes
    from volatility3_kdump.tables import bug_check_record

    name = code.strip()
    by_name = {name.lower(): number for number, name in known_codes().items()}
    try:
        number = by_name[name.lower()] if name.lower() in by_name else int(name[:_LONGEST], 16)
    except ValueError:
        raise KdumpError(f"{name[:_LONGEST]}: no bug check; kdump://bugchecks lists codes and names") from None
    if not 0 <= number < 1 << 32:
        raise KdumpError(f"{name[:_LONGEST]}: a bug check has 32 bits")
    described = describe(number, ())
    if described.name is None:
        raise KdumpError(f"0x{number:x}: not a code that is publicly known; kdump://bugchecks lists them")

    def lines() -> Iterator[str]:
        yield f"# {described.name} (0x{described.code:x})"
        yield ""
        if described.text:
            yield described.text
            yield ""
        for argument in described.arguments:
            yield f"- argument {argument.number}: {argument.meaning or 'not documented'}"
        record = bug_check_record(described.code) or {}
        for variant in record.get("variants", ()):
            if variant.get("text"):
                yield f"- where argument {record.get('key', 1)} is {', '.join(variant['when'])}: {variant['text']}"

    return "\n".join(lines())


#: Address, name, what it is, and what gives its text: those without and those with a key.
PLAIN: tuple[tuple[str, str, str, Callable[[], str]], ...] = (
    ("kdump://schemas", "schemas", "the tables that tools answer with", schemas),
    ("kdump://commands", "commands", "the commands that run_command takes", commands),
    ("kdump://bugchecks", "bugchecks", "bug check codes and their names", bug_checks),
)
KEYED: tuple[tuple[str, str, str, Callable[[str], str]], ...] = (
    ("kdump://schemas/{key}", "schema", "the columns of a table, for instance process.PROCESSES", schema),
    ("kdump://commands/{key}", "command", "the help of a command, for instance !process", command),
    ("kdump://bugchecks/{key}", "bugcheck", "a bug check by its code (hexadecimal) or name", bug_check),
)
