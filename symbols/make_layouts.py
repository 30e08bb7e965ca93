"""Make the shipped types of each layout generation of the kernel, ``symbols/kdump/layout-*.isf.xz`` and their index.

Run as ``python symbols/make_layouts.py TABLES... GENERATIONS.json`` in the checkout, where TABLES are ISF tables of
kernels named ``LABEL=FILE`` (``19041.804=5278AFF8.json.xz``) and GENERATIONS.json says which members of the structures
differ between the revisions of a build. Each is reduced to the types that the suite reads, without symbols. Tables that
KDDEBUGGER_DATA64 cannot tell apart become one, of what they have in common. Members that lie elsewhere in a revision of
the same sizes, or are missing from it, are left out. The output is deterministic.
"""

from __future__ import annotations

import itertools
import json
import lzma
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from reduce_isf import reduce_table  # type: ignore[import-not-found]  # noqa: E402

from volatility3_kdump.layout import Layouts  # noqa: E402
from volatility3_kdump.symbols.siblings import common, debugger_values, without_dangling  # noqa: E402

_MACHINES = {"x64": 0x8664, "arm64": 0xAA64}
_CHOSEN_BY = {"EPROCESS": "_EPROCESS", "ETHREAD": "_ETHREAD", "KPRCB": "_KPRCB"}
#: Where a list of members is cut, small ones within so many bytes of one that it names are left out as well.
_NEAR = 16
_ANONYMOUS = re.compile(r"__anonymous_|__unnamed|_unnamed|<unnamed|<anonymous")
_MOST_LISTED = 16


def reduced(path: Path) -> dict[str, Any]:
    """The types of a table."""
    with lzma.open(path, "rb") as stream:
        document = json.load(stream)
    document["symbols"] = {}
    table: dict[str, Any] = reduce_table(document)
    return {
        "metadata": {},
        "base_types": table["base_types"],
        "user_types": named_by_place(table["user_types"]),
        "enums": table["enums"],
        "symbols": {},
    }


def named_by_place(types: Mapping[str, Any]) -> dict[str, Any]:
    """Types whose anonymous structures are named by where they are embedded: their numbers differ in every revision."""
    named: dict[str, Any] = {}

    def renamed(type_: Mapping[str, Any], place: str) -> dict[str, Any]:
        for key in ("subtype", "type"):
            if key in type_:
                return {**type_, key: renamed(type_[key], place)}
        name = type_.get("name", "")
        if type_["kind"] in ("struct", "union") and _ANONYMOUS.match(name) and name in types:
            if place not in named:
                named[place] = {}
                named[place] = {**types[name], "fields": fields_of(types[name], place)}
            return {**type_, "name": place}
        return dict(type_)

    def fields_of(description: Mapping[str, Any], place: str) -> dict[str, Any]:
        stem = place if _ANONYMOUS.match(place) else f"__anonymous_{place.strip('_')}"
        return {
            key: {**field, "type": renamed(field["type"], f"{stem}_{key}")}
            for key, field in description["fields"].items()
        }

    for name, description in types.items():
        if not _ANONYMOUS.match(name):
            named[name] = {**description, "fields": fields_of(description, name)}
    return named


def changing(family: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(type, member) of what differs between the revisions of a build that have the sizes of a table."""
    layouts = Layouts(document)
    alike = [
        {
            str(revision)
            for cluster in family["structures"].get(short, [])
            if int(cluster["size"], 16) == layouts.size_of(type_name)
            for revision in cluster["revisions"]
        }
        for short, type_name in _CHOSEN_BY.items()
    ]
    # The revisions that the three sizes do not tell from the table's own.
    revisions = set.intersection(*alike)
    for short, type_name in _CHOSEN_BY.items():
        clusters = family["structures"].get(short, [])
        for before, cluster in itertools.pairwise(clusters):
            if any(revisions.isdisjoint(map(str, one["revisions"])) for one in (before, cluster)):
                continue
            listed: list[str] = []
            near: list[int] = []
            for key in ("moved", "new", "gone", "resized_or_other_bits"):
                entries = cluster.get(key, [])
                for entry in entries:
                    listed.append(entry if isinstance(entry, str) else entry[0])
                    if not isinstance(entry, str) and int(cluster.get(f"{key}_count", 0)) > _MOST_LISTED:
                        near += [int(offset, 16) for offset in entry[1:]]
            for path in listed:
                if path.count(".") < 2:  # else of an embedded structure, which is compared by itself
                    yield owner(document, type_name, path)
            for name in layouts.field_names(type_name):
                field = layouts.field(type_name, name)
                if field.size <= 8 and any(abs(field.offset - offset) <= _NEAR for offset in near):
                    yield type_name, name


def owner(document: Mapping[str, Any], type_name: str, path: str) -> tuple[str, str]:
    """The structure that has the last member of a path, and that member."""
    *steps, last = path.split(".")
    for step in steps:
        field = document["user_types"].get(type_name, {}).get("fields", {}).get(step)
        if field is None or "name" not in field["type"]:
            return "", last
        type_name = field["type"]["name"]
    return type_name, last


def kernels(labels: list[str]) -> str:
    """Whose types they are: one label, or the build and its first and last revision of several."""
    if len(labels) == 1:
        return labels[0]
    revisions = [int(number) for label in labels for number in re.findall(r"\d+", label.partition(".")[2])]
    return f"{labels[0].partition('.')[0]}.{min(revisions)}-{max(revisions)}"


def main(arguments: list[str]) -> int:
    *pairs, generations = arguments
    families = {
        (family["build"], family["machine"]): family for family in json.loads(Path(generations).read_text())["families"]
    }
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for pair in pairs:
        label, _, file = pair.partition("=")
        document = reduced(Path(file))
        values = debugger_values(Layouts(document))
        build = int(re.match(r"\d+", label).group())  # type: ignore[union-attr]
        machine = "arm64" if "arm64" in label.lower() else "x64"
        key = json.dumps([22621 if build == 22631 else build, machine, values], sort_keys=True)
        groups.setdefault(key, []).append((label, document))
    target = Path(__file__).resolve().parent / "kdump"
    for old in target.glob("layout-*.isf.xz"):
        old.unlink()
    records: list[dict[str, Any]] = []
    total = 0
    for key in sorted(groups, key=lambda text: json.loads(text)[:2]):
        build, machine, values = json.loads(key)
        documents = [document for _, document in groups[key]]
        document = documents[0] if len(documents) == 1 else common(documents)
        left_out: set[tuple[str, str]] = set()
        family = families.get((build, machine))
        if family is not None:
            left_out = {pair for pair in changing(family, document) if pair[0]}
        types = {
            name: {**value, "fields": {k: v for k, v in value["fields"].items() if (name, k) not in left_out}}
            for name, value in document["user_types"].items()
        }
        document["user_types"] = without_dangling(types, document["enums"], document["base_types"])
        number = sum(record["build"] == build and record["machine"] == _MACHINES[machine] for record in records)
        name = f"layout-{build}-{machine}{f'-{number + 1}' if number else ''}.isf.xz"
        text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")
        packed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME, check=lzma.CHECK_CRC32)
        (target / name).write_bytes(packed)
        total += len(packed)
        of = kernels([label for label, _ in groups[key]])
        records.append({"table": name, "of": of, "build": build, "machine": _MACHINES[machine], "debugger": values})
        print(f"{name}: {of}, {len(types)} types, {len(left_out)} members left out, {len(packed):,} bytes")
    (target / "layouts.jsonl").write_text("".join(f"{json.dumps(record, sort_keys=True)}\n" for record in records))
    print(f"{len(records)} tables, {total:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
