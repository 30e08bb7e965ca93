"""``r``, ``rm``, ``~*``, ``Nk``, ``.frame /c``, ``kd``: registers of contexts and processors."""

from __future__ import annotations

import re
import struct

import pytest

from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.options import Options
from volatility3_kdump.target import Target


@pytest.mark.parametrize("name", ["cr0", "cr2", "cr3", "cr4", "cr8"])
def test_control_registers_are_those_of_the_control_block(session: Session, name: str) -> None:
    """As the kernel's own structure has them, read through another part of the product."""
    typed = answer(session, f"?? @$pcrb->ProcessorState.SpecialRegisters.{name.capitalize()}")
    number = int(typed[0].split()[-1].replace("`", ""), 16)
    assert answer(session, f"r {name}") == [f"{name}={number:016x}"]
    assert answer(session, f"? @{name}")[0].endswith(f"{number:016x}"[8:])


def test_descriptor_registers_as_in_published_sessions(session: Session) -> None:
    """``gdtl=007f``, ``tr=0040``, several on one line: kd> r cs, rip, gdtr."""
    shown = answer(session, "r gdtr, gdtl; r idtr,idtl; r tr; r cs, rip, ldtr")
    assert re.fullmatch(r"gdtr=[0-9a-f]{16} gdtl=[0-9a-f]{4}", shown[0])
    assert re.fullmatch(r"idtr=[0-9a-f]{16} idtl=0fff", shown[1])
    assert shown[2:] == ["tr=0040", "cs=0010 rip=fffff800629f71c0 ldtr=0000"]
    pcr = answer(session, "?? @$pcr->GdtBase")[0].split()[-1].replace("`", "")
    assert shown[0].startswith(f"gdtr={pcr.removeprefix('0x')}")


def test_vectors_by_element(session: Session) -> None:
    """xmm0=deadbeefdeadbeef deadbeefdeadbeef: the highest element first (a published session)."""
    context = session.target.header_context
    assert context is not None
    numbers = (0x3FF0000000000000, 0xFEDCBA9876543210)
    value = int.from_bytes(struct.pack("<QQ", numbers[1], numbers[0]), "little")
    session.state.context = context.replace("made", xmm=(value, *[None] * 15))
    assert answer(session, "r xmm0:uq") == ["xmm0=3ff0000000000000 fedcba9876543210"]
    assert answer(session, "r xmm0:16ub") == ["xmm0=3f f0 00 00 00 00 00 00 fe dc ba 98 76 54 32 10"]
    assert answer(session, "r xmm0:2id") == ["xmm0=-19088744 1985229328"]
    assert answer(session, "r xmm0:d")[0] == "xmm0=1 -1.23133e+303"
    assert answer(session, "r xmm1") == ["xmm1 is not known: made does not hold it"]
    assert answer(session, "r xmm0:q") == ["xmm0:q: elements are ib ub iw uw id ud iq uq f d"]
    assert answer(session, "rX")[1] == "xmm1=?"
    assert answer(session, "r rip:ud") == ["rip=fffff800 629f71c0"]


def test_masks(session: Session) -> None:
    """ "rm (Register Mask)": the documented answer."""
    assert answer(session, "rm 0x00a; rm") == [
        "Register output mask is a:",
        "       2 - Integer state (64-bit)",
        "       8 - Segment registers",
    ]
    whole = answer(session, "rM a")
    assert answer(session, "r") == whole
    assert whole[:6] == answer(session, "rm 2; r")[:6] and len(answer(session, "r")) == len(whole) - 1
    assert answer(session, "rM 180")[0].startswith("cr0=0000000080050033 cr2=")
    assert answer(session, "rM 20")[1].startswith("dr3=")
    # The example of "rm": bits that the machine has no registers for are ignored, and that is said.
    assert answer(session, "rm 100a; rm") == [
        "Ignored invalid bits 1000",
        "Register output mask is a:",
        "       2 - Integer state (64-bit)",
        "       8 - Segment registers",
    ]
    assert answer(session, "rM 1000")[0].startswith("no registers for mask bits 1000")
    assert answer(session, "r ymm0")[0].startswith("ymm0 is not known: dump header holds no extended state: ")
    assert answer(session, "r zmm0")[0].startswith("zmm0 is not known: contexts of crash dumps hold no ZMM")


def test_registers_of_the_current_instruction(session: Session) -> None:
    """ "r (Registers)": ebp=0006ffc0  esp=0006ff7c."""
    assert answer(session, "r.") == ["rcx=000000000000000a  rsp=ffffd48f77af9698"]


def test_other_processors(session: Session) -> None:
    """ "Multiprocessor Syntax": 2r, 1k."""
    assert answer(session, "1k") == answer(session, "~1 k")
    assert answer(session, "1kv 2") == answer(session, "~1 kv 2")
    assert answer(session, "2r") == answer(session, "r")
    shown = answer(session, "~*kc 1")
    assert [line for line in shown if line.startswith("Processor")] == ["Processor 0:", "Processor 1:", "Processor 2:"]
    assert shown[-1] == "00 nt!KeBugCheckEx"
    assert answer(session, "9k") == ["processor 9 has no control block in the dump"]


def test_the_words_of_the_stack(session: Session) -> None:
    """ "k, kb, kc, kd ...": kd displays the raw stack data."""
    assert answer(session, "kd 3") == answer(session, "dps @rsp L3")
    assert len(answer(session, "kd")) == 0x20
    assert answer(session, "kd x") == ["Couldn't resolve error at 'x'"]


def test_a_frame_becomes_the_context(session: Session) -> None:
    """ ".frame /c": the nonvolatile registers of any function in the call stack."""
    behind = answer(session, "kn")[4:]
    shown = answer(session, ".frame /c 3")
    assert len(shown) == 1
    assert answer(session, "r rip, rbx") == ["rip=fffff80060da1981 rbx=ffffd8024aaa8010"]
    assert [line[3:] for line in answer(session, "kn")[2:]] == [line[3:] for line in behind]
    answer(session, ".cxr")
    assert answer(session, "r rip") == ["rip=fffff800629f71c0"]


def test_minus_one(session: Session) -> None:
    """ ".exr -1" writes no offset of zero; ".cxr -1" is ".ecxr"."""
    assert answer(session, ".exr -1")[0] == "ExceptionAddress: fffff800629f71c0 (nt!KeBugCheckEx)"
    assert answer(session, ".cxr -1") == answer(session, ".ecxr")


def test_vectors_of_arm64_have_their_names(shared_data) -> None:
    path = shared_data / "dumps" / "triage_arm64_22000.dmp"
    fresh = session_on(Target.open(path, Options(offline=True)))
    context = fresh.target.header_context
    assert context is not None and context.xmm is not None and context.xmm[4] is not None
    assert answer(fresh, "r v4:uq") == [f"v4={context.xmm[4] >> 64:016x} {context.xmm[4] & (1 << 64) - 1:016x}"]
    assert len([line for line in answer(fresh, "rX") if re.match(r"v\d+=", line)]) == 32
    assert answer(fresh, "r xmm0")[0].startswith("Bad register error")
    assert answer(fresh, "r cr3")[0].startswith("cr3 is not known")


@pytest.mark.parametrize("dump_type", [4, 5])
def test_other_types_of_dump(sample, dump_type: int) -> None:
    """A small memory dump copies the control block of the processor that crashed."""
    fresh = session_on(Target.open(sample(dump_type)))
    assert answer(fresh, "r cr3, tr") == ["cr3=00000001f3a2a000 tr=0040"]


def test_every_kernel(isf_path, sample) -> None:
    target = Target.open(sample(6, isf_path), Options(isf_file=isf_path, offline=True))
    fresh = session_on(target)
    assert answer(fresh, "r cr3, tr")[0].endswith(" tr=0040")
    assert answer(fresh, "? @$pcr == poi(@$pcr+@@(#FIELD_OFFSET(nt!_KPCR, Self)))")[0].endswith("00000001")


def test_floating_point_registers(session: Session) -> None:
    """``rF`` of published sessions: FPCW is 27F, all is empty."""
    assert answer(session, "rF")[:6] == [
        "fpcw=027F: rn 53 puozdi  fpsw=0000: top=0 cc=0000 --------  fptw=0000",
        "fopcode=0000  fpip=0000:00000000  fpdp=0000:00000000",
        "st0= 0.000000000000000000000e+0000  st1= 0.000000000000000000000e+0000",
        "st2= 0.000000000000000000000e+0000  st3= 0.000000000000000000000e+0000",
        "st4= 0.000000000000000000000e+0000  st5= 0.000000000000000000000e+0000",
        "st6= 0.000000000000000000000e+0000  st7= 0.000000000000000000000e+0000",
    ]
    assert answer(session, "rM 4") == answer(session, "rF")
    assert answer(session, "rM 10")[0] == "mm0=0000000000000000  mm1=0000000000000000"
    assert answer(session, "r mm7, st0") == [
        "mm7=0000000000000000 st0= 0.000000000000000000000e+0000 (0000:00000000:00000000)"
    ]
