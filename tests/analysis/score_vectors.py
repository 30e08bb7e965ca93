"""How many published verdicts ours equal: ``python tests/analysis/score_vectors.py`` prints the score.

``published_verdicts.jsonl`` holds stacks, facts and what the debugger made of them, each with its source. They are
written as the text that people paste, and read as ``kdump verdict`` reads it. A field that was not published is
``null`` and not compared.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.analysis.pasted_text import pasted, vectors
from volatility3_kdump.analysis.owners import OwnerRules
from volatility3_kdump.analysis.pasted.evidence import judge
from volatility3_kdump.analysis.pasted.report import read_report
from volatility3_kdump.analysis.pasted.source import lines_of
from volatility3_kdump.analysis.stack_entries import StackEntry
from volatility3_kdump.analysis.verdict import Verdict

#: Field of a vector to that of a verdict.
FIELDS = {
    "symbol": "symbol_name",
    "module": "module_name",
    "image": "image_name",
    "bucket": "bucket",
    "hash": "bucket_hash",
}


def entry_of(text: str, images: dict[str, str] | None = None) -> StackEntry:
    """A frame from ``module!function+0xoffset``, ``module+0xoffset`` or an address."""
    if text.startswith("0x"):
        return StackEntry(None, None, 0, None, int(text.replace("`", ""), 16), True)
    name, _, offset = text.partition("+0x")
    module, has_symbol, symbol = name.partition("!")
    image = (images or {}).get(module, "ntoskrnl.exe" if module == "nt" else f"{module}.sys")
    return StackEntry(module, symbol if has_symbol else None, int(offset or "0", 16), image, 0, True)


def verdict_of(vector: dict, rules: OwnerRules | None = None) -> Verdict:
    """Our verdict on a published stack."""
    return judge(read_report(lines_of(pasted(vector)), vector["id"]), rules).verdict


def differences(vector: dict, verdict: Verdict) -> dict[str, str]:
    """What of a verdict differs from the published one, by field."""
    found = {}
    for field, ours in FIELDS.items():
        theirs, mine = vector[field], getattr(verdict, ours)
        if theirs is not None and theirs.lower() != (mine or "").lower():
            found[field] = f"{field} {theirs} against ours {mine}"
    return found


def score() -> tuple[int, list[str], Counter[str]]:
    """The number of equal verdicts, a line for each, and the number of equal values by field."""
    equal, lines, fields = 0, [], Counter()
    for vector in vectors():
        verdict = verdict_of(vector)
        found = differences(vector, verdict)
        equal += not found
        fields.update(field for field in FIELDS if vector[field] is not None and field not in found)
        state = "equal " if not found else "excuse" if vector.get("excuse") else "DIFFER"
        lines.append(f"{state} {verdict.confidence:6} {vector['id']} {vector['bucket']}")
        lines += [f"       {line}" for line in found.values()]
    return equal, lines, fields


if __name__ == "__main__":
    count, text, by_field = score()
    published = Counter(field for vector in vectors() for field in FIELDS if vector[field] is not None)
    print("\n".join(text))
    print(f"{count} of {len(vectors())} verdicts equal the published ones")
    print(", ".join(f"{field} {by_field[field]} of {published[field]}" for field in FIELDS))
