"""What the arguments of a pasted bug check say: the words and culprits that the rules of a dump read from memory."""

from __future__ import annotations

import re

from volatility3_kdump.analysis import buckets
from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.analysis.faults import exception_words
from volatility3_kdump.analysis.pasted.frames import number
from volatility3_kdump.analysis.pasted.places import Places
from volatility3_kdump.analysis.pasted.report import Report, field_of
from volatility3_kdump.analysis.reasoning import Culprit, Reasoning
from volatility3_kdump.analysis.rules.hardware import hardware_words, hypervisor_reasoning, nmi_reasoning
from volatility3_kdump.analysis.rules.pool import single_bit
from volatility3_kdump.analysis.rules.processes import critical_process_words
from volatility3_kdump.cpu.exception import IN_PAGE_ERROR
from volatility3_kdump.windows.machine import machine_check

_VENDORS = ("GenuineIntel", "AuthenticAMD", "CentaurHauls", "HygonGenuine")
_DISPLAY_DRIVERS = frozenset(
    {
        *("nvlddmkm", "amdkmdag", "atikmdag", "atikmpag", "igdkmd32", "igdkmd64", "igdkmdn64", "igdkmdnd64"),
        *("igdkmdnp64", "qcdxkm8380", "qcdxkm8280", "qcdxkm8180", "vm3dmp", "vboxwddm", "prl_kmdd"),
    }
)
#: Kinds (argument 1) of the codes that report a block that is freed twice.
_FREED_AGAIN = {0x13A: (0x11,), 0xC2: (0x6, 0x7)}
_CHKIMG = re.compile(r"(?P<count>\d{1,9}) errors? : !?(?P<module>\S{1,64})")
_CHKIMG_BYTES = re.compile(r"\[ (?P<held>[0-9a-f]{2}(?: [0-9a-f]{2})*):(?P<stored>[0-9a-f]{2}(?: [0-9a-f]{2})*) \]")
#: BUGCHECK_STR: a code or a name, with words behind it.
_FIRST_WORDS = re.compile(r"(?:0x[0-9A-Fa-f]{1,8}|[A-Z][A-Z0-9_]{1,60})(?:_[\w.!:$-]{1,64})?")
_IRP_CURRENT = re.compile(r"\s*>\s*\[")
_DRIVER_NAME = re.compile(r"\\(?:Driver|FileSystem)\\(?P<name>[\w.$-]{1,64})")
_VERDICT_LINES = (
    *("SYMBOL_NAME", "MODULE_NAME", "IMAGE_NAME", "FAILURE_BUCKET_ID", "BUCKET_ID", "FAILURE_ID_HASH", "Value:"),
    *("PRIMARY_PROBLEM_CLASS", "Probably caused"),
)


class Reasons:
    """The reasoning for one report. ``notes`` are what was odd."""

    def __init__(
        self, report: Report, bug_check: BugCheck, places: Places, process: str | None, generation: str = buckets.MODERN
    ) -> None:
        self.report = report
        self.generation = generation
        self.bug_check = bug_check
        self.places = places
        self.process = process
        self.notes: list[str] = []

    def reasoning(self) -> Reasoning:
        """What the text says besides the stack."""
        found = self._by_code()
        if found.prefix is None and not found.specifiers:
            return found + Reasoning(prefix=self._told_words())
        return found

    def _told_words(self) -> str | None:
        """The first words of the bucket, which debuggers up to 2019 show before the stack."""
        told = _FIRST_WORDS.fullmatch(self.report.fields.get("BUGCHECK_STR", "").strip())
        if told is None:
            return None
        self.report.use("BUGCHECK_STR")
        return told[0]

    def _by_code(self) -> Reasoning:
        code = self.bug_check.code
        corrupt = self._chkimg() or self._bad_pages()
        if corrupt is not None:
            return corrupt
        if code == 0x1A:
            why = single_bit(self.bug_check)
            if why is not None:
                culprit = Culprit("memory_corruption", "memory_corruption", None, why)
                return Reasoning(prefix="MEMORY_CORRUPTION_ONE_BIT", culprit=culprit)
        steps = {
            **{0x9F: self._power, 0xEF: self._critical_process, 0x124: self._hardware, 0xC4: self._verified},
            **{0x3D: self._exception, 0x154: self._exception, 0x80: self._interrupt, 0x20001: self._hypervisor},
        }
        if code in steps:
            return steps[code]()
        if code in (0x116, 0x117, 0x141):
            return self._display()
        return self._freed_pool() if self._argument(1) in _FREED_AGAIN.get(code, ()) else Reasoning()

    def _freed_pool(self) -> Reasoning:
        """A block that is freed twice: its tag is a word of the bucket."""
        tag = re.match(r"[!-~]{1,4}(?=\s|$)", self.report.fields.get("FREED_POOL_TAG", "").strip())
        if tag is None:
            return Reasoning()
        self.report.use("FREED_POOL_TAG")
        return Reasoning(specifiers=(f"{self._argument(1):x}", tag[0]))

    def _argument(self, index: int) -> int | None:
        return buckets.argument(self.bug_check, index)

    def _chkimg(self) -> Reasoning | None:
        """Code that differs from its file: one bit is the memory's doing, more is told as the debugger does."""
        matched = _CHKIMG.search(self.report.text)
        if not matched or "CHKIMG_EXTENSION" not in self.report.fields:
            return None
        self.report.use("CHKIMG_EXTENSION")
        changes = _CHKIMG_BYTES.findall(self.report.text)
        pairs = [
            (int(a, 16), int(b, 16))
            for held, stored in changes
            for a, b in zip(held.split(), stored.split(), strict=False)
        ]
        single = len(pairs) == 1 and (pairs[0][0] ^ pairs[0][1]).bit_count() == 1
        word = "ONE_BIT" if single else "ONE_BYTE" if matched["count"] == "1" else "LARGE"
        if not single and self.report.fields.get("MEMORY_CORRUPTOR") == "STRIDE":
            self.report.use("MEMORY_CORRUPTOR")
            word = "STRIDE"
        if not single and len(pairs) > 1:
            self.notes.append("the kernel patches code as it loads it, so differences of code alone prove nothing")
        why = f"{matched['count']} bytes of the code of {matched['module']} differ from its file"
        return Reasoning(
            prefix=f"MEMORY_CORRUPTION_{word}",
            culprit=Culprit("memory_corruption", "memory_corruption", None, why),
        )

    def _bad_pages(self) -> Reasoning | None:
        """Pages that should have been zero, counted by the memory manager: no driver is named."""
        count = re.match(r"(?:0x)?([0-9a-fA-F]{1,8})\b", self.report.fields.get("BAD_PAGES_DETECTED", ""))
        if count is None or not int(count[1], 16):
            return None
        self.report.use("BAD_PAGES_DETECTED")
        return Reasoning(prefix="PAGE_NOT_ZERO")

    def _power(self) -> Reasoning:
        """0x9F: the driver that holds the IRP, where the text shows the IRP; the file of the device's own driver."""
        kind = self._argument(1)
        if kind not in (3, 4):
            return Reasoning()
        holder = self._irp_holder() or self._driver_object() if kind == 3 else None
        module = self.report.fields.get("FAULTING_MODULE", "").partition(" ")[2].strip()
        device = self.places.image_of(module, 0) if module else None
        if device is not None:
            self.report.use("FAULTING_MODULE")
        if holder is None and device is None:
            # The debugger shows the thread that has the request where it knows it: the display's own watch of requests.
            waits = kind == 3 and any(row.module == "dxgkrnl" for row in self.report.rows)
            return Reasoning(specifiers=(f"{kind:x}", *(["DXG_POWER_IRP_TIMEOUT"] if waits else [])))
        name = holder or device or ""
        why = (
            f"{name} has the power IRP that was not completed in time" if holder else f"the device belongs to {device}"
        )
        parts = [f"{kind:x}", *([holder] if holder else []), *(["IMAGE", device] if device else [])]
        image = self.places.image_of(name, 0) if holder else device
        return Reasoning(specifiers=tuple(parts), culprit=Culprit(image, None, None, why))

    def _irp_holder(self) -> str | None:
        lines = self.report.text.split("\n")
        for index, line in enumerate(lines):
            if _IRP_CURRENT.match(line):
                for following in lines[index : index + 3]:
                    named = _DRIVER_NAME.search(following)
                    if named:
                        self.report.use("!irp")
                        return named["name"]
        return None

    def _driver_object(self) -> str | None:
        """The driver whose device has the IRP, as our own analysis names it behind its object."""
        named = _DRIVER_NAME.search(self.report.fields.get("DRIVER_OBJECT", ""))
        if named is None:
            return None
        self.report.use("DRIVER_OBJECT")
        return named["name"]

    def _critical_process(self) -> Reasoning:
        report = self.report
        died = field_of(report, ("CRITICAL_PROCESS",)) or field_of(
            report, ("CriticalProcessDied.Process",), report.keys
        )
        name = died or self.process
        code = field_of(report, ("CriticalProcessDied.ExceptionCode",), report.keys)
        if code is None:
            code = field_of(report, ("EXCEPTION_CODE", "ERROR_CODE"))
        if code is None:
            thread = field_of(report, ("FAULTING_THREAD",))
            code = (
                f"{number(thread) & 0xFFFFFFFF:x}" if thread and re.fullmatch(r"[0-9a-fA-F`]{8,17}", thread) else None
            )
        matched = re.search(r"(?:0x)?([0-9a-fA-F]{2,8})\b(?!\))", re.sub(r"\(\w+\)", "", code or ""))
        terminator = self.process if died is not None and self.process is not None else None
        status = int(matched[1], 16) if matched else None
        prefix = "IN_PAGE_ERROR" if status == IN_PAGE_ERROR else None
        return Reasoning(specifiers=critical_process_words(name, terminator, status), prefix=prefix)

    def _exception(self) -> Reasoning:
        """0x3D and 0x154 name no exception themselves; its record tells."""
        code, parameters = self.report.exception_code, self.report.exception_parameters
        if code is None:
            return Reasoning()
        self.report.use("EXCEPTION_RECORD")
        ordered = [parameters[index] for index in range(len(parameters)) if index in parameters]
        return Reasoning(specifiers=exception_words(code, ordered))

    def _interrupt(self) -> Reasoning:
        return nmi_reasoning(self._argument(1), self._vendor())

    def _hypervisor(self) -> Reasoning:
        return hypervisor_reasoning(self._argument(1), self._vendor())

    def _vendor(self) -> str | None:
        """The maker of the processor, where the text says it outside the verdict."""
        report = self.report
        evidence_text = "\n".join(
            line for line in report.text.split("\n") if not line.lstrip().startswith(_VERDICT_LINES)
        )
        vendor = next((name for name in _VENDORS if name in evidence_text), None)
        if vendor is not None:
            report.use(f"the processor's maker ({vendor})")
        return vendor

    def _hardware(self) -> Reasoning:
        vendor = self._vendor()
        source, high, low = self._argument(1), self._argument(3), self._argument(4)
        kind = None
        if source == 0 and high is not None and low is not None and not high >> 32 and not low >> 32 and (high or low):
            kind = machine_check.MachineCheckStatus(high << 32 | low).bucket_word
        modern = self.generation == buckets.MODERN
        parts = hardware_words(source if modern else None, vendor, "PROCESSOR" if source == 0 else None, kind)
        why = "the processor or the platform reported a hardware error; no driver is to blame"
        # Debuggers before today's have no file for the processor, the oldest not even its name.
        maker = None if self.generation == buckets.CLASSIC else vendor
        file = f"{vendor}.sys" if vendor and modern else maker
        culprit = Culprit(file or "hardware", maker or "hardware", None, why)
        return Reasoning(specifiers=parts, culprit=culprit)

    def _verified(self) -> Reasoning:
        """0xC4: the driver that broke the rule, where Driver Verifier knows it; the debugger names it before the
        stack."""
        module = self.report.fields.get("FAULTING_MODULE", "").partition(" ")[2].strip()
        if not module or module.lower() in ("nt", "verifierext"):
            return Reasoning()
        self.report.use("FAULTING_MODULE")
        leaked = self._argument(1) == 0x62
        why = f"{module} {'was unloaded without freeing its pool' if leaked else 'is the driver that broke the rule'}"
        return Reasoning(culprit=Culprit(self.places.image_of(module, 0), module, None, why), by_name=True)

    def _display(self) -> Reasoning:
        """0x116 and its kin name an address inside the display driver; where no list of modules tells whose it is, the
        only display driver that the text speaks of."""
        address = self._argument(2)
        if address and self.places.resolve(address) is not None:
            return Reasoning()
        mentioned = {name for name in _DISPLAY_DRIVERS if name in self.report.files}
        mentioned |= {
            row.module.lower()
            for row in self.report.rows
            if (row.module or "").lower() in _DISPLAY_DRIVERS and row.module
        }
        if len(mentioned) != 1:
            return Reasoning()
        name = mentioned.pop()
        file = self.report.files.get(name, f"{name}.sys")
        self.report.use(f"{file}, the only display driver in the text")
        module = file.rpartition(".")[0]
        return Reasoning(
            culprit=Culprit(file, module, None, f"{file} is the only display driver that the text speaks of")
        )
