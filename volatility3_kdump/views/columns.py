"""Columns that several tables have: one name, one type, one meaning in all of them."""

from __future__ import annotations

from volatility3_kdump.views import table as kinds
from volatility3_kdump.views.table import Key

# who ------------------------------------------------------------------------------------------------------------------
PROCESS = Key("Process", kinds.POINTER, "the EPROCESS")
PID = Key("Pid", kinds.NUMBER, "process id, UniqueProcessId")
IMAGE = Key("Image", kinds.TEXT, "file name of the image, of the process or else of the module")
THREAD = Key("Thread", kinds.POINTER, "the ETHREAD")
TID = Key("Tid", kinds.NUMBER, "thread id, ETHREAD.Cid.UniqueThread")
PROCESSOR = Key("Processor", kinds.NUMBER, "number of the processor")
ROLE = Key("Role", kinds.TEXT, "the part that the thread has in the row")
MODULE = Key("Module", kinds.TEXT, "the debugger's name of the module")
DRIVER = Key("Driver", kinds.TEXT, "name of the driver object")
TOKEN = Key("Token", kinds.POINTER, "the access token")
DRIVER_OBJECT = Key("DriverObject", kinds.POINTER, "the DRIVER_OBJECT")
DEVICE = Key("Device", kinds.TEXT, "name of the device object")
DEVICE_OBJECT = Key("DeviceObject", kinds.POINTER, "the DEVICE_OBJECT")
FILE_OBJECT = Key("FileObject", kinds.POINTER, "the FILE_OBJECT")

# what -----------------------------------------------------------------------------------------------------------------
KIND = Key("Kind", kinds.TEXT, "what the row is")
NAME = Key("Name", kinds.TEXT, "name of what the row is about")
TYPE_NAME = Key("Type", kinds.TEXT, "name of the type")
STATE = Key("State", kinds.TEXT, "state of what the row is about")
SYMBOL = Key("Symbol", kinds.TEXT, "name of the address, module!symbol+offset")
SECTION = Key("Section", kinds.TEXT, "section of the image")
SOURCE_FILE = Key("SourceFile", kinds.TEXT, "the source file of the code, where its symbols have lines")
SOURCE_LINE = Key("SourceLine", kinds.NUMBER, "number of the line in it; of a return address that of the call")
SOURCE = Key("Source", kinds.TEXT, "where the value was read")
NOTES = Key("Notes", kinds.LINES, "contradictions, gaps and explanations, separated by semicolons")
FLAGS = Key("Flags", kinds.HEX, "its flags")
STATUS = Key("Status", kinds.HEX, "an NTSTATUS")

SEVERITY = Key("Severity", kinds.TEXT, "`success`, `informational`, `warning`, `error`: the two top bits of the code")
FACILITY = Key("Facility", kinds.NUMBER, "bits 16 to 27 of the code")
FACILITY_NAME = Key("FacilityName", kinds.TEXT, "its name, only where the code is Microsoft's")

# where ----------------------------------------------------------------------------------------------------------------
ADDRESS = Key("Address", kinds.ADDRESS, "the virtual address that the row is about")
START = Key("Start", kinds.ADDRESS, "its first address")
END = Key("End", kinds.ADDRESS, "the first address behind it")
OFFSET = Key("Offset", kinds.HEX, "bytes from the start of what holds it")
SIZE = Key("Size", kinds.BYTES, "its size")
CODE = Key("Code", kinds.BYTES, "bytes of code")
ENTRY = Key("Entry", kinds.ADDRESS, "the entry of the list or table that it comes from")
OBJECT = Key("Object", kinds.POINTER, "the object itself, behind its header")

# values ---------------------------------------------------------------------------------------------------------------
VALUE = Key("Value", kinds.HEX, "the value as an unsigned number")
TEXT = Key("Text", kinds.TEXT, "the value in words")
MEANING = Key("Meaning", kinds.TEXT, "what it means")
BYTES = Key("Bytes", kinds.TEXT, "the bytes in hexadecimal; `??` where one is not in the dump")
TOPIC = Key("Topic", kinds.TEXT, "what a group of rows is about")
FIELD = Key("Field", kinds.TEXT, "name of the field")
COUNT = Key("Count", kinds.NUMBER, "how many there are")
PAGES = Key("Pages", kinds.PAGES, "pages of 4 KB")
KILOBYTES = Key("Kilobytes", kinds.NUMBER, "the same in kilobytes")
COMMIT_PAGES = Key("CommitPages", kinds.PAGES, "CommitCharge")
CONTROL_AREA = Key("ControlArea", kinds.POINTER, "the CONTROL_AREA")
LOCKED_PAGES = Key("LockedPages", kinds.PAGES, "pages that are locked in memory")

# threads and stacks ---------------------------------------------------------------------------------------------------
THREAD_STATE = Key("ThreadState", kinds.TEXT, "name in KTHREAD_STATE")
THREADS = Key("Threads", kinds.NUMBER, "number of threads")
PRIORITY = Key("Priority", kinds.NUMBER, "KTHREAD.Priority")
WAIT_TIME = Key("WaitTime", kinds.SECONDS, "since the thread began to wait, last time")
WAITS_FOR = Key("WaitsFor", kinds.TEXT, "kind of what is waited for: mutant, thread, process, resource, ALPC")
DEADLOCK = Key("Deadlock", kinds.NUMBER, "waits of one circle have the same number; null outside circles")
FRAME = Key("Frame", kinds.NUMBER, "number of the frame, 0 is the innermost; null in a last row that says why it ends")
CHILD_SP = Key("ChildSp", kinds.ADDRESS, "the stack pointer in the frame, KD's Child-SP")
RETURN_ADDRESS = Key("RetAddr", kinds.ADDRESS, "the return address, KD's RetAddr")
CALL_SITE = Key("CallSite", kinds.TEXT, "module!symbol+offset; in a last row why the backtrace ends early")
TRUST = Key(
    "Trust",
    kinds.TEXT,
    "how the frame is known: `context`, `unwind`, `trap frame`, `stack switch`, `frame pointer`, `scan`; or `end`",
)
ARGUMENTS = tuple(Key(f"Arg{number}", kinds.HEX, f"argument {number}") for number in range(1, 5))

# requests -------------------------------------------------------------------------------------------------------------
IRP = Key("Irp", kinds.ADDRESS, "the IRP")
MAJOR = Key("Major", kinds.TEXT, "name of the major function, IRP_MJ_...")
MINOR = Key("Minor", kinds.TEXT, "name of the minor function; its number where it has no name, null for 0")
LOCATION = Key("Location", kinds.NUMBER, "number of the stack location, 1 is the lowest")
HELD_BY = Key("HeldBy", kinds.TEXT, "the driver that has the request now")

# processors ---
IRQL = Key("Irql", kinds.NUMBER, "KPRCB.DebuggerSavedIRQL")
PRCB = Key("Prcb", kinds.ADDRESS, "the KPRCB")

# pool -----------------------------------------------------------------------------------------------------------------
TAG = Key("Tag", kinds.TEXT, "the tag as text")
TAG_VALUE = Key("Key", kinds.HEX, "the tag as it is stored, the bit of protected blocks taken off")
POOL = Key("Pool", kinds.TEXT, "kind of pool")
BINARY = Key("Binary", kinds.TEXT, "the file that the tag list names; null without a list")
DESCRIPTION = Key("Description", kinds.TEXT, "what the tag list says; null without a list")
CANDIDATES = Key("Candidates", kinds.TEXT, "drivers whose code has the tag in it, with how often; null for none")
REGION = Key("Region", kinds.TEXT, "the region of the address space that it lies in")
PATH = Key("Path", kinds.TEXT, "the full NT path")
IN_DUMP = Key("InDump", kinds.TEXT, "`yes`, or why not")
KNOWN_BY = Key("KnownBy", kinds.TEXT, "what says all this")
