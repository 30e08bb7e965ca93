"""Kernels and drivers made by clang and lld-link: images and PDB files in which our own writers have no part.

The functions of a scene (:mod:`kdump_sample`) become assembly, from which the assembler makes code and unwind data;
the types of a symbol table become C, from which the compiler makes type records; the linker makes image and PDB.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pefile
import pytest

from kdump_sample.code import Allocate, FramePointer, Function, MachineFrame, Operation, Pointer, Push, Save
from kdump_sample.containers import write
from kdump_sample.contents import make_contents
from kdump_sample.images import Module
from kdump_sample.machine import Machine
from kdump_sample.pe import Codeview
from kdump_sample.scene import Driver, Scene
from volatility3_kdump.symbols.isf import load_table_file

CLANG, LINK = "clang", "lld-link"
PAGE = 0x1000
#: So that the distances between the variables are those of no kernel in the world.
SHIFT = 0x3000
#: Bytes of the kernel's text section, in which all its symbols lie.
_TEXT = 0xE10000
SOURCE = "C:\\\\src\\\\made.c"


def require_tools() -> None:
    for tool in (CLANG, LINK):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def run(command: list[str], directory: Path) -> None:
    finished = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, f"{command}: {finished.stderr[-2000:]}"


@dataclasses.dataclass(frozen=True)
class Linked:
    """An image file and its PDB, as their own headers (read by pefile) name them."""

    image: Path
    pdb: Path
    timestamp: int
    size: int
    guid: str
    age: int

    @classmethod
    def of(cls, image: Path) -> Linked:
        pe = pefile.PE(str(image), fast_load=True)
        pe.parse_data_directories([pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY_DEBUG"]])
        record = next(entry.entry for entry in pe.DIRECTORY_ENTRY_DEBUG if entry.struct.Type == 2)
        guid = struct.pack(">IHH", record.Signature_Data1, record.Signature_Data2, record.Signature_Data3)
        guid += bytes([record.Signature_Data4, record.Signature_Data5]) + record.Signature_Data6
        stamp, size = pe.FILE_HEADER.TimeDateStamp, pe.OPTIONAL_HEADER.SizeOfImage
        name = record.PdbFileName.rstrip(b"\0").decode()
        return cls(image, image.with_name(name), stamp, size, guid.hex().upper(), record.Age)

    @property
    def image_url(self) -> str:
        return f"/{self.image.name}/{self.timestamp:08X}{self.size:x}/{self.image.name}"

    @property
    def pdb_url(self) -> str:
        return f"/{self.pdb.name}/{self.guid}{self.age:x}/{self.pdb.name}"

    def loaded(self) -> bytes:
        """The image as it lies in memory, before its imports are bound."""
        data: bytes = pefile.PE(str(self.image), fast_load=True).get_memory_mapped_image()
        return data.ljust(self.size, b"\0")


# code -----------------------------------------------------------------------------------------------------------------


def quoted(name: str) -> str:
    return f'"{name}"'


def bytes_of(data: bytes) -> str:
    return ".byte " + ",".join(map(str, data))


def operation_lines(operation: Operation, pointer: int | None) -> Iterator[str]:
    """One step of a prologue: the instruction, and the directive that describes it to the unwinder."""
    if isinstance(operation, MachineFrame):
        yield ".seh_pushframe @code" if operation.error_code else ".seh_pushframe"
    elif isinstance(operation, Push):
        yield from (f"push {operation.register}", f".seh_pushreg {operation.register}")
    elif isinstance(operation, Allocate):
        yield from (f"sub rsp,{operation.size}", f".seh_stackalloc {operation.size}")
    elif isinstance(operation, FramePointer):
        yield f"lea {operation.register},[rsp+{operation.offset}]"
        yield f".seh_setframe {operation.register},{operation.offset}"
    elif isinstance(operation, Pointer):
        yield f"lea rax,[rsp+{operation.offset}]"
    else:
        assert isinstance(operation, Save)
        near = pointer is not None and -0x80 <= operation.offset - pointer < 0x80  # shorter instructions
        place = f"[rax+{operation.offset - (pointer or 0)}]" if near else f"[rsp+{operation.offset}]"
        xmm = operation.register.startswith("xmm")
        yield f"{'movaps' if xmm else 'mov'} {place},{operation.register}"
        yield f".seh_save{'xmm' if xmm else 'reg'} {operation.register},{operation.offset}"


def function_lines(function: Function, sites: Mapping[int, str], number: int) -> Iterator[str]:
    """A function from its label on; ``sites`` maps offsets behind calls to the instructions.

    Its source lines, in the order of the code: the prologue is 100, each call site ten more.
    """
    name = quoted(function.name)
    yield from (f".cv_func_id {number}", f".cv_loc {number} 1 100 0 is_stmt 1", f".seh_proc {name}")
    if function.entry:
        yield bytes_of(function.entry)
    pointer = None
    for operation in function.prologue:
        yield from operation_lines(operation, pointer)
        if isinstance(operation, Pointer):
            pointer = operation.offset
    yield ".seh_endprologue"
    if function.below:
        yield f"sub rsp,{function.below}"
    pieces = {offset: bytes_of(data) for offset, data in function.body.items()}
    length = {offset: len(data) for offset, data in function.body.items()}
    for end, instruction in sites.items():
        size = 6 if "rip" in instruction else 5 if instruction.startswith("call") else instruction.count(",") + 1
        pieces[end - size], length[end - size] = instruction, size
    if function.leaf_stop is not None:
        pieces.setdefault(function.leaf_stop - 2, "sti\nhlt")
    for line, (offset, text) in enumerate(sorted(pieces.items()), 11):
        yield f".cv_loc {number} 1 {10 * line} 0 is_stmt 1"
        yield f".org {name}+{offset},0x90"
        yield text
    yield f".cv_loc {number} 1 999 0 is_stmt 1"
    if not function.returns or any(isinstance(step, (MachineFrame, FramePointer)) for step in function.prologue):
        yield "int3"
    else:
        for operation in reversed(function.prologue):
            if isinstance(operation, Push):
                yield f"pop {operation.register}"
            elif isinstance(operation, Allocate):
                yield f"add rsp,{operation.size}"
        yield "ret"
    yield from (f'"{function.name}$end":', ".seh_endproc")


def source_of(module: Module, symbols: Mapping[str, int], resolve: Callable[[str], str], size: int, pad: int) -> str:
    """The assembly of a module whose text section is ``size`` bytes from RVA 1000h on, and ``pad`` bytes at its end.

    ``symbols`` are its names with their RVAs; ``resolve`` gives the instruction that calls a target.
    """
    lines = [".intel_syntax noprefix", ".text", f'.cv_file 1 "{SOURCE}"', '"$start":']
    functions = sorted(module.functions.values(), key=lambda placed: placed.rva)
    for number, placed in enumerate(functions):
        function = placed.function
        lines += [f'.org "$start"+{placed.rva - PAGE},0xCC', f".globl {quoted(function.name)}"]
        lines.append(f"{quoted(function.name)}:")
        sites = zip(function.calls, placed.returns, strict=True)
        lines += function_lines(function, {end - placed.rva: resolve(call.target) for call, end in sites}, number)
    lines += [f'.org "$start"+{size},0xCC', "ret"]
    names = {placed.function.name for placed in functions}
    for name, rva in symbols.items():
        if name not in names and PAGE <= rva < PAGE + size:
            lines += [f".globl {quoted(name)}", f'.set {quoted(name)},"$start"+{rva - PAGE}']
    lines += ['.section .pad,"bw"', f".zero {pad}", '.section .debug$S,"dr"', ".p2align 2", ".long 4"]
    lines += [
        f'.cv_linetable {number},{quoted(placed.function.name)},"{placed.function.name}$end"'
        for number, placed in enumerate(functions)
    ]
    return "\n".join([*lines, ".cv_filechecksums", ".cv_stringtable", ""])


# types ----------------------------------------------------------------------------------------------------------------

_BASES = {
    "void": "void",
    "HRESULT": "HRESULT",
    "char": "char",
    "wchar": "wchar_t",
    "unsigned char": "unsigned char",
    "short": "short",
    "unsigned short": "unsigned short",
    "long": "long",
    "unsigned long": "unsigned long",
    "int": "int",
    "unsigned int": "unsigned int",
    "long long": "long long",
    "unsigned long long": "unsigned long long",
    "f32": "float",
    "double": "double",
}


def declaration(type_: Mapping[str, Any], name: str) -> str:
    """A C declaration of ``name`` with a type of an ISF table."""
    kind = type_["kind"]
    if kind == "pointer":
        return declaration(type_["subtype"], f"(*{name})")
    if kind == "array":
        return declaration(type_["subtype"], f"{name}[{type_['count']}]")
    if kind == "function":
        return f"void {name}(void)"
    if kind == "base":
        return f"{_BASES[type_['name']]} {name}"
    return f"{kind if kind != 'class' else 'struct'} {type_['name']} {name}"


def needed(type_: Mapping[str, Any]) -> Iterator[str]:
    """The structures and enumerations that must be complete before a field of this type."""
    kind = type_["kind"]
    if kind in ("array", "bitfield"):
        yield from needed(type_["subtype" if kind == "array" else "type"])
    elif kind in ("struct", "union", "enum"):
        yield type_["name"]


def types_source(table: Mapping[str, Any]) -> str:
    """C that has every structure and enumeration of an ISF table where the table has it.

    Each field stands in an anonymous structure of its own behind as many bytes as it is from the start; the compiler
    writes the fields of anonymous structures as those of what they are in.
    """
    types, enums = table["user_types"], table["enums"]
    lines = ["typedef long HRESULT;", "typedef unsigned short wchar_t;", "#pragma pack(push,1)"]
    taken: set[str] = set()
    for name, enum in enums.items():
        # Constants of C share one scope: the few that stand in two enumerations are left out of the second.
        own = {key: value for key, value in enum["constants"].items() if key not in taken}
        taken |= set(own)
        values = ",".join(f"{key}={value}" for key, value in own.items())
        lines.append(f"enum {name} {{{values or name + '__none'}}};")
    lines += [f"{type_['kind']} {name};" for name, type_ in types.items()]
    done: set[str] = set(enums)

    def define(name: str) -> None:
        if name in done or name not in types:
            return
        done.add(name)
        fields = types[name]["fields"]
        for field in fields.values():
            for other in needed(field["type"]):
                define(other)
        members = [f"char _size[{types[name]['size']}];"]
        for number, (label, field) in enumerate(fields.items()):
            before = f"char _{number}[{field['offset']}];" if field["offset"] else ""
            type_ = field["type"]
            if type_["kind"] == "bitfield":
                skip = declaration(type_["type"], "") + f":{type_['bit_position']};" if type_["bit_position"] else ""
                own = declaration(type_["type"], label) + f":{type_['bit_length']};"
            else:
                skip, own = "", declaration(type_, label) + ";"
            members.append(f"struct {{{before}{skip}{own}}};")
        body = "".join(members)
        lines.append(
            f"struct {name} {{union {{{body}}};}};" if types[name]["kind"] == "struct" else f"union {name} {{{body}}};"
        )

    for name in types:
        define(name)
    lines.append("union _Everything {")
    lines += [f"{type_['kind']} {name} _{number};" for number, (name, type_) in enumerate(types.items())]
    lines += [f"enum {name} _e{number};" for number, name in enumerate(enums)]
    return "\n".join(
        [*lines, "};", "#pragma pack(pop)", "union _Everything *everything(union _Everything *x) { return x + 1; }", ""]
    )


# linking --------------------------------------------------------------------------------------------------------------


def compile_source(text: str, name: str, directory: Path, target: str = "x86_64", *options: str) -> str:
    """Compile C, C++ or assembly, by the suffix of the name; gives the name of the object."""
    (directory / name).write_text(text)
    command = [CLANG, f"--target={target}-pc-windows-msvc", "-w", *options, "-c", name, "-o", f"{name}.obj"]
    run(command, directory)
    return f"{name}.obj"


def link(directory: Path, name: str, objects: Iterable[str], timestamp: int, *options: str) -> Linked:
    """Link a driver with a PDB beside it, whose name alone the image names."""
    stem = "ntkrnlmp" if name == "ntoskrnl.exe" else name.rpartition(".")[0]
    command = [LINK, "/driver", "/nologo", "/subsystem:native", "/nodefaultlib", "/debug", f"/timestamp:{timestamp}"]
    command += [f"/out:{name}", f"/pdb:{stem}.pdb", f"/pdbaltpath:{stem}.pdb", *options, *objects]
    run(command, directory)
    return Linked.of(directory / name)


@dataclasses.dataclass(frozen=True)
class MadeMachine:
    """A small memory dump of a kernel and drivers that were linked here; ``table`` has the kernel's symbols."""

    dump: Path
    kernel: Linked
    drivers: Mapping[str, Linked]
    table: Mapping[str, Any]
    scene: Scene


_CALLS = {"rax": bytes.fromhex("ffd0"), "rbx": bytes.fromhex("ffd3"), "r10": bytes.fromhex("41ffd2")}


def call_of(target: str, symbols: Mapping[str, int]) -> str:
    kind, _, name = target.rpartition(":")
    if kind == "register":
        return bytes_of(_CALLS[name])
    if kind == "import":
        return f'call qword ptr [rip+"__imp_{name}"]'
    return f"call {quoted(name)}" if kind or name in symbols else bytes_of(_CALLS["rax"])


def write_machine(directory: Path, table: Mapping[str, Any], scene: Scene, extra: str, extra_base: int) -> MadeMachine:
    """Link the kernel of a table, the driver ``myfault.sys`` of a scene and ``toy.sys`` from C++, and dump the scene.

    The kernel's symbols lie elsewhere than in the table, so that it is no kernel that the package knows.
    """
    symbols = {name: entry["address"] + SHIFT for name, entry in table["symbols"].items() if entry["address"]}
    moved = {**table, "symbols": {name: {"address": address} for name, address in symbols.items()}}
    isf = directory / "made.json"
    isf.write_text(json.dumps(moved))
    layouts = load_table_file(isf)
    parts = Machine(scene, layouts).images
    pad = scene.kernel_size - _TEXT - 0x20000
    source = source_of(parts.kernel, symbols, lambda target: call_of(target, symbols), _TEXT, pad)
    objects = [
        compile_source(source, "kernel.s", directory),
        compile_source(types_source(table), "types.c", directory, "x86_64", "-g", "-gcodeview"),
    ]
    exports = "".join(f"{name}\n" for name in sorted(parts.kernel.image.exports))
    (directory / "ntoskrnl.def").write_text(f"LIBRARY ntoskrnl.exe\nEXPORTS\n{exports}")
    options = ("/def:ntoskrnl.def", "/implib:ntoskrnl.lib", "/entry:everything", "/include:KeBugCheckEx")
    kernel = link(directory, "ntoskrnl.exe", objects, parts.kernel.image.timestamp, *options)
    fault = parts.module("myfault")
    source = source_of(fault, {}, lambda target: call_of(target, symbols), 0x2000, 0x4000)
    objects = [compile_source(source, "myfault.s", directory), "ntoskrnl.lib"]
    drivers = {"myfault": link(directory, "myfault.sys", objects, fault.image.timestamp, "/entry:DeviceControl")}
    objects = [
        compile_source(extra, "toy.cpp", directory, "x86_64", "-g", "-gcodeview", "-O1", "-fno-rtti", "-std=c++17")
    ]
    drivers["toy"] = link(directory, "toy.sys", objects, 0x60112233, "/entry:DriverEntry")
    listed = [_as_linked(driver, drivers) for driver in scene.drivers]
    model = next(driver for driver in listed if driver.stem == "intelppm")
    listed.append(_as_linked(dataclasses.replace(model, name="toy.sys", base=extra_base), drivers))
    scene = dataclasses.replace(scene, kernel_size=kernel.size, drivers=tuple(listed))
    machine = Machine(scene, layouts)
    _overwrite(machine, kernel, drivers)
    dump = directory / "made.dmp"
    write(dump, 4, make_contents(machine))
    return MadeMachine(dump, kernel, drivers, moved, scene)


def _as_linked(driver: Driver, drivers: Mapping[str, Linked]) -> Driver:
    linked = drivers.get(driver.stem)
    if linked is None:
        return driver
    codeview = Codeview(linked.pdb.name, linked.guid, linked.age)
    return dataclasses.replace(driver, size=linked.size, timestamp=linked.timestamp, codeview=codeview)


def _overwrite(machine: Machine, kernel: Linked, drivers: Mapping[str, Linked]) -> None:
    """Put what was linked in place of what the maker of dumps made: headers and code, and all behind the code."""
    memory, base = machine.work.memory, machine.scene.kernel_base
    image = kernel.loaded()
    memory.write(base, image[:PAGE])
    for function in machine.images.kernel.image.functions:
        memory.write(base + function.begin, image[function.begin : function.end])
    for stem, linked in drivers.items():
        loaded = bytearray(linked.loaded())
        for rva, name in _imports(linked):
            struct.pack_into("<Q", loaded, rva, machine.work.required(name))
        memory.write(machine.images.module(stem).image.base, loaded)


def _imports(linked: Linked) -> Iterator[tuple[int, str]]:
    """(RVA of the slot, name) of what an image imports of the kernel."""
    pe = pefile.PE(str(linked.image), fast_load=True)
    pe.parse_data_directories([pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY_IMPORT"]])
    for imported in getattr(pe, "DIRECTORY_ENTRY_IMPORT", ()):
        for entry in imported.imports:
            yield entry.address - pe.OPTIONAL_HEADER.ImageBase, entry.name.decode()
