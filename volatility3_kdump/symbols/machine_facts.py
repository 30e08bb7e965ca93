"""The facts of a machine in a memory image that the kernel's variables give, beside those that its opening found.

The variables are located by the kernel's symbols, else by the shipped index of kernels.
"""

from __future__ import annotations

from collections.abc import Callable

from volatility3_kdump.cpu.state import context_record
from volatility3_kdump.dump import CrashDump, Fact, MachineFacts
from volatility3_kdump.memory import Memory
from volatility3_kdump.symbols.kdbg import DebuggerData, read_encoded_data
from volatility3_kdump.symbols.kernel import Kernel, indexed_variables

_LISTS = {
    "ps_loaded_module_list": "PsLoadedModuleList",
    "ps_active_process_head": "PsActiveProcessHead",
    "pfn_database": "MmPfnDatabase",
    "kd_debugger_data_block": "KdDebuggerDataBlock",
}
#: What stands in the top half-byte of NtBuildNumber, and in a dump header's MajorVersion.
_KINDS = (0xC, 0xF)
_SYMBOLS, _INDEX = "kernel symbols", "shipped index of kernels"


def machine_facts(
    dump: CrashDump,
    facts: MachineFacts,
    kernel: Kernel | None,
    memory: Memory,
    symbol: Callable[[str], int | None],
    debugger: DebuggerData | None,
) -> MachineFacts:
    """The facts of an image, completed.

    ``symbol`` gives the address of a kernel variable by its symbols, ``debugger`` is what can be had without them.
    """
    variables: dict[str, Fact] = {}
    index = indexed_variables(kernel.identity) if kernel is not None and kernel.identity is not None else {}
    for name, variable in _LISTS.items():
        address = symbol(variable)
        if address is None and kernel is not None and variable in index:
            variables[name] = Fact(kernel.base + index[variable], _INDEX)
        else:
            variables[name] = Fact(address, _SYMBOLS)
    number = symbol("NtBuildNumber")
    build = memory.unsigned(number, 4) if number is not None else None
    if build is not None and build >> 28 in _KINDS:
        variables["major_version"] = Fact(build >> 28, "nt!NtBuildNumber")
        variables["build_number"] = Fact(build & 0xFFFF, "nt!NtBuildNumber")
    facts = facts.completed(variables)
    reported = symbol("KiBugCheckData") or _recorded(memory, symbol, "KiBugCheckData")
    if reported is None and debugger is not None:
        reported = debugger["KiBugCheckData"]
    facts = facts.completed(_bug_check(memory, reported))
    if facts.has_crashed is not True and dump.processors:
        # What a debugger shows that stops a machine: the first processor.
        state = dump.processors[0]
        facts = facts.completed({"context_record": Fact(context_record(state.context), state.source)})
    return facts


def _recorded(memory: Memory, symbol: Callable[[str], int | None], name: str) -> int | None:
    """What KDDEBUGGER_DATA64 has."""
    data = read_encoded_data(memory.read, None, symbol)
    return data[name] if data is not None else None


def _bug_check(memory: Memory, address: int | None) -> dict[str, Fact]:
    """nt!KiBugCheckData: the code and four arguments; a code of zero as long as nothing has happened."""
    width, source = memory.pointer_size, "nt!KiBugCheckData"
    data = memory.read(address, 5 * width) if address else None
    if data is None:
        return {}
    code, *parameters = (int.from_bytes(data[place : place + width], "little") for place in range(0, 5 * width, width))
    if code == 0:
        return {"has_crashed": Fact(False, source)}
    return {
        "has_crashed": Fact(True, source),
        "bug_check_code": Fact(code & 0xFFFFFFFF, source),
        "bug_check_parameters": Fact(tuple(parameters), source),
    }
