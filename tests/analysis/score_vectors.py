"""How many published verdicts ours equal: ``python tests/analysis/score_vectors.py`` prints the score.

``analyze_vectors.json`` holds kernel stacks with what the debugger made of them. The arguments of their bug checks were
not published with them; those that the published bucket itself shows are put in here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.conftest import data_directory
from volatility3_kdump.analysis.buckets import FailureFacts
from volatility3_kdump.analysis.bugcheck import describe
from volatility3_kdump.analysis.owners import OwnerRules
from volatility3_kdump.analysis.reasoning import Reasoning
from volatility3_kdump.analysis.verdict import StackEntry, Verdict, decide

VECTORS = data_directory().parent / "spec" / "analyze_vectors.json"

_IP = 0xFFFFF80011112222
_ROUTINE = 0xFFFFF80033334444
#: Arguments that the published bucket shows, by that bucket.
ARGUMENTS: dict[str, tuple[int, ...]] = {
    "0x19_22_Driver!unknown_function": (0x22,),
    "0x13a_12_Driver!CreateRandomFile": (0x12,),
    "0x139_1d_INVALID_BALANCED_TREE_Driver!unknown_function": (0x1D,),
    # A write; of argument 4 the bucket only shows that it is not the one that has a word.
    "AV_W_(null)_Driver!unknown_function": (0xFFFF800000001000, 2, _IP, 0),
    "AV_EvilDriver!unknown_function": (0xC0000005,),
    "0x20_NULLAPC_KAPC_NEGATIVE_nt!PspExitThread": (0, 0xFFFF),
    "0x39_nt!IopLoadUnloadDriver": (_ROUTINE,),
    # The instruction's own address was what could not be read.
    "AV_CODE_AV_PAGED_IP_TestDriver!AccessPageableMemory": (_IP, 2, 8, _IP),
    "0x153_KERNEL_LOCK_ENTRY_LEAKED_ON_THREAD_TERMINATION_LOCK_POINTER_NOT_NULL_nt!KeCleanupThreadState": (1, 2, 1),
    "0xCA_13_nt!PiDmaGuardProcessPreStart": (0x13,),
    "0x133_DPC_gwdrv!unknown_function": (0,),
}
#: Verdicts that are not to be equalled, by their bucket, with the reason: none so far.
MISTAKES: dict[str, str] = {}


def entry_of(text: str, images: dict[str, str] | None = None) -> StackEntry:
    """A frame from ``module!function+0xoffset``, ``module+0xoffset`` or an address."""
    if text.startswith("0x"):
        return StackEntry(None, None, 0, None, int(text.replace("`", ""), 16), True)
    name, _, offset = text.partition("+0x")
    module, has_symbol, symbol = name.partition("!")
    image = (images or {}).get(module, "ntoskrnl.exe" if module == "nt" else f"{module}.sys")
    return StackEntry(module, symbol if has_symbol else None, int(offset or "0", 16), image, 0, True)


def vectors() -> list[dict]:
    return json.loads(VECTORS.read_text(encoding="utf-8"))


def verdict_of(vector: dict, rules: OwnerRules | None = None) -> Verdict:
    """Our verdict on a published stack."""
    arguments = ARGUMENTS.get(vector["bucket"], ())
    return decide(
        describe(int(vector["code"], 16), arguments),
        FailureFacts(in_module=True) if _IP in arguments else None,
        [entry_of(frame) for frame in vector["frames"]],
        Reasoning(),
        rules or OwnerRules.load(),
        {_ROUTINE: entry_of("nt!IopLoadUnloadDriver")}.get,
    )


def differences(vector: dict, verdict: Verdict) -> list[str]:
    """What of a verdict differs from the published one; an image that was not published is not compared."""
    pairs = [
        ("symbol", vector["symbol"], verdict.symbol_name),
        ("image", vector["image"], verdict.image_name if vector["image"] else None),
        ("offset", vector["func_offset"], None if verdict.function_offset is None else f"{verdict.function_offset:x}"),
        ("bucket", vector["bucket"], verdict.bucket),
        ("hash", vector["hash"], verdict.bucket_hash),
    ]
    return [f"{name} {theirs} against ours {ours}" for name, theirs, ours in pairs if theirs != ours]


def score() -> tuple[int, list[str]]:
    """The number of equal verdicts, and a line for each."""
    equal, lines = 0, []
    for vector in vectors():
        verdict = verdict_of(vector)
        found = differences(vector, verdict)
        equal += not found
        lines.append(f"{'equal ' if not found else 'DIFFER'} {verdict.confidence:6} {vector['bucket']}")
        lines += [f"       {line}" for line in found]
        if verdict.runner_up:
            lines.append(f"       second: {verdict.runner_up}")
    return equal, lines


if __name__ == "__main__":
    count, text = score()
    print("\n".join(text))
    print(f"{count} of {len(vectors())} verdicts equal the published ones")
