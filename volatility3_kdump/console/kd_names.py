"""KD's commands that are not there: what to type instead, or why there is nothing.

Names are those of Microsoft's documentation of the debugger (MicrosoftDocs/windows-driver-docs, debuggercmds), and of
the extensions that people type most. A command of the table that is built later takes its name from it by itself: the
registry is asked first.
"""

from __future__ import annotations

import re
from functools import lru_cache

_BUILT_IN = "extensions are built in here: nothing is loaded, and .help lists all commands"
_LIVE = "needs a machine that runs: a dump cannot run or change"
_HARDWARE = "shows hardware, whose state is not in a dump"
_PRIVATE = "needs types that public symbols do not have"
_USER = "is for programs in user mode; !peb, !teb and !dlls show what a kernel dump holds of them"
_WINDOWS = "belongs to the debugger's window"
_SOURCE = "source files are not read; .lines shows which lines the symbols name, in k and ln"
_DEBUGGER = "steers the debugger itself, and has nothing to do here"
_REMOTE = "no other debugger connects to this prompt"
_MANAGED = "managed code is not read: SOS needs the runtime's own library"

#: What to say of names that are in one line here.
_WORDS: dict[str, str] = {
    ".load .loadby .unload .unloadall .chain .extpath .setdll !extension": _BUILT_IN,
    ".extmatch .cmdtree": ".help lists the commands, Tab completes them",
    ".scriptload .scriptunload .scriptrun .scriptlist .scriptproviders .scriptdebug": "JavaScript is not run: vol's "
    "plugins and Python take its place, $$>a< runs command files",
    ".nvload .nvlist .nvunload .nvunloadall": "visualizers are not read: dt and dx show types",
    # what has another name
    "!ver !lmver !modinfo": "lmvm MODULE shows versions",
    "!modules !ml !imggp !imgreloc !showmodules": "lm lists modules, !dh shows an image's headers",
    "!bugcheck !analyzebugcheck !bc": ".bugcheck shows the code, !analyze -v the analysis",
    "!crashinfo !dumpinfo !dump": ".dumpdebug shows the dump's header, vertarget the system",
    "!ps !processes !plist !p": "!process 0 0 lists processes",
    "!thread_list !threads !threadlist": "!process 0 2 or !stacks lists threads, !running what processors run",
    "!resource !erw": "!locks ADDRESS shows a resource",
    "!sharedinfo": "!kuser shows the shared page, dt nt!_KUSER_SHARED_DATA fffff78000000000 all of it",
    "!uptime !systime !time": ".time shows when it crashed, and how long it had been up",
    "!memlist !memstat !pfnlist !mem": "!vm and !memusage show memory",
    "!pagefile !pf": "!vm shows page files and limits, !process 0 0 processes",
    "!defwrites !wsle !wdmaud": "!vm shows page files and limits, !process 0 0 processes",
    "!poolleak !pooltag !gpool !poolinfo !ptag": "!poolused 2 shows pool by tag, !pool ADDRESS a block",
    "!frag !lookasidelist !rtllookaside !searchpool": "!poolused and !poolfind show pool",
    "!ptov !pte2va !pfntova": "!vtop translates in the other direction; vol -f DUMP kdump.pte",
    "!dcp !dqp !ddp !search !sp !s": "!db, !dd, !dq show physical memory, s searches virtual memory",
    "!eb !ed !ew !eq !fill !ecb !ecd !ecw !ed2": _LIVE,
    "!regs !registers !context !r": "r shows registers, .trap, .cxr and .thread choose whose",
    "!stack !kstack !dumpstack !k !callstack !dps_stack !rawstack": "k shows the stack, dps @rsp its words",
    "!ntstatus !gle_text !status !err !decode !lerror !win32err": "!error VALUE names codes",
    "!driver !drv !drvlist !driverlist": "lm lists drivers, !drvobj NAME shows one",
    "!device !dev !devext !devinst !devobj_list": "!devobj, !devstack and !devnode show devices",
    "!pnpevent !pnptriage !pnptree !devtree !dn": "!devnode 0 1 shows the tree of devices",
    "!popolicy !pocaps !poreqlist !po !powerirps !pirp !whattime2": "!poaction and !powertriage show power",
    "!fltmc !filters !ioctl !irps !iolist !iostack !irpwalk": "!irp ADDRESS shows a request, !irpfind lists them",
    "!handles !htrace !openfiles !fileobjs !files": "!handle 0 3 lists handles, !object ADDRESS shows one",
    "!obj !objdir !objtrace !winobj !objs": "!object \\PATH shows objects and directories",
    "!priv !privileges !groups": "!token shows user, groups and privileges",
    "!waits !wait !waitchain !lockcheck !blocked !hang !deadlocks !blockers": "!locks shows who waits for whom; "
    "!analyze -hang all waits",
    "!runaway !cpuusage !threadtimes !ttime": "!process 0 2 has the threads' times, !running what runs",
    "!cpuid !processor !processors !smt !numa_hal !cpu": "!cpuinfo shows processors, !prcb N a control block",
    "!irq !interrupts !ioapic !apic !pic !ldt !apicerr !pciir !lapic !msr !rdmsr !wrmsr": _HARDWARE,
    "!dg": "descriptor tables: r gdtr idtr tr shows where they are, dq their words",
    "rdmsr wrmsr ib id iw ob od ow !ib !id !iw !ob !od !ow !iobench": _HARDWARE,
    "!cmci !mce !cper !cmc !mcelog": "!errrec ADDRESS shows a hardware error record",
    "!pci !pcm !pcr_pci !pciresources !pcilist !pcicfg": _HARDWARE + "; !devnode 0 1 shows devices",
    "!acpiinf !acpicache !acpiirqarb !amli !nsobj !acpiresconflict !rsdt !fadt !mapic !facs !dsdt !nhlt": _HARDWARE,
    "!blackboxusb !blackboxhal": ".enumtag lists the data that components added",
    "!arbiter !arbinst !ioresdes !ioreslist !ecs !rlist !range !cmreslist !dpa": "devices' resources: " + _PRIVATE,
    "!regkey !hivelist": "!reg hivelist, querykey and openkeys show the registry",
    "!openkeys !hiveaddr !registry": "!reg hivelist, querykey and openkeys show the registry",
    "!lpc !port !lpcport": "!alpc shows ports and messages, !locks follows waits for them",
    "!sessionlist": "!process /s SESSION 0 0 lists a session's processes",
    "!silo !container !server_silo": "!job shows a job",
    "!ktimer !timers !callback !callouts !dpcqueue": "!dpcs shows DPCs, !timer timers",
    "!atom !dd_atoms !desktop !winsta !winstation !hwnd !gdi !win32k": "of win32k: " + _PRIVATE,
    "!wmitrace !stracedump !etw !logdump !strdump !logger !wmi !searchpath !tracelog": "trace buffers are not decoded: "
    ".enumtag lists what the dump has",
    "!rcdrkd !wpp !tmf !rcdrlogdump": "recorded traces are not decoded: .enumtag lists what the dump has",
    "!bushnd !blockeddrv !ahcache !bcb !openmaps": _PRIVATE,
    "!callback_list !psnotify !notify !pscallbacks !cmcallbacks": "vol -f DUMP windows.callbacks lists callbacks",
    "!ssdt !syscalls !dumpssdt": "vol -f DUMP windows.ssdt lists system services",
    "!logonsession !lsa !kerberos !mimikatz !credentials": "secrets are not looked for here",
    "!heap !htrace_user !avrf !gflags !uext !slwait !cs !critsec": _USER,
    "!locks_user !ntsdexts !exts !vprot !vprotect !findxmldata !igrep !mui !rebase": _USER,
    "!exploitable !msec": "!analyze -v has the finding; nothing here rates whether it can be exploited",
    "!clrstack !dumpheap !dumpobj !sos !eestack !eeheap !pe !gcroot !clrthreads !dumpmt": _MANAGED,
    "!ntprocessor !kdext !kdexts !help !ext": ".help lists the commands, .help COMMAND says more of one",
    # sources, windows, remote
    "lsa ls lsf lsc lsp l+ l-": _SOURCE,
    ".srcpath .lsrcpath .srcfix .srcnoisy .open .lsrcfix !lines .jdinfo !srcpath": _SOURCE,
    ".settings .prefer_dml .wtitle .cls .beep .sleep .ofilter .browse .ocommand .write_cmd_hist .outmask": _WINDOWS,
    ".tabs .lines_of .fontsize .quit_lock .first": _WINDOWS,
    ".prompt_allow .holdmem .load_ui !dml_proc .dml_start .dml_flow": _WINDOWS,
    ".server .servers .remote .remote_exit .clients .endsrv .endpsrv .send_file .wake_debugger .noversion": _REMOTE,
    ".echotime .echotimestamps .echocpunum": _DEBUGGER,
    ".enable_unicode .enable_long_status .force_tb .force_radix_output": _DEBUGGER,
    ".allow_exec_cmds .allow_image_mapping .bpsync .cache .childdbg .cordll .copysym .dvalloc .dvfree": _DEBUGGER,
    ".event_code .event_format .eventlog .eventstr .exptr .fixup .ignore_missing_pages .imgscan .inline": _DEBUGGER,
    ".kdtrans .kdfiles .lsrcfix .netuse .noshell .nvpath .pcmd .process_prompt .pop .push .record_branches": _DEBUGGER,
    ".secure .sound_notify .step_filter .suspend_ui .typeopt .symopt .tlist_all .ttime .ttp": _DEBUGGER,
    ".asm .fnret .apply_dbp .bpcmds .call .abandon .breakin2 .closehandle .ocom": "u shows code, "
    "k stacks and .frame /r registers",
    ".dump": "nothing is written here: kdump slice writes a smaller dump, kdump dump one of another type",
    "sx sxd sxe sxi sxn sxr sx- sq ss so .prompt_on_event": _LIVE,
    "ld": "symbols load by themselves when they are needed; .reload /f MODULE loads one now",
    "c": "memory is not compared: s searches it, d shows it",
    "dv x_local !locals !for_each_local": "local variables need private symbols; kv, .frame /r and !for_each_frame "
    "show what is there",
    "ux ur": "real mode code of a BIOS is in no dump; u and up show code",
    "!pool2chunk !heapchunk": "!pool ADDRESS names the block and its segment, !pool ADDRESS 2 the block alone",
    "ds_dlist dbr": "dl shows lists",
    ".dumpcab .dump_cab": "no cabinet is written: kdump slice writes smaller dumps",
    ".jit .attach_kernel .restart_target .tlist_remote .createdir": _LIVE,
    ".excr .exception .exceptions": ".ecxr and .exr -1 show the exception",
    ".enumtags .tags": ".enumtag lists the data that components added",
    ".dumplist .dumps": "|| lists the dumps",
    ".lastcmd .history": "Up and Ctrl-R find earlier commands",
    ".info .dumpdebug_full": ".dumpdebug shows the dump's header",
    ".exit .quit quit exit bye": "q ends the session",
    "help man h": ".help lists the commands",
    "bt backtrace where": "k shows the stack",
    "ps tasks": "!process 0 0 lists processes",
    "vad maps": "!vad shows an address space",
    "info": "vertarget shows the system, lm the modules",
    "l": _SOURCE,
    "|": "!process 0 0 lists processes, || the dumps",
    # what has no data
    "!std !dstr": "dt nt!_UNICODE_STRING ADDRESS, dS, dl and !list show them",
    "!ustring !dls !dlists": "dt nt!_UNICODE_STRING ADDRESS, dS, dl and !list show them",
    "!kdmp !triager !triage !autoexec !bucket": "!analyze -v is the analysis",
    "!dskheap !spoolsum !spoolused !spoolfind !xpool !sesspool": "session pool: " + _PRIVATE,
    "!kb !kv !kd !kp": "k, kb and kv show the stack",
    "!vpdd !ptree !pagetables !pxe !ppe !pde !dtb": "!pte ADDRESS shows every level of a translation",
    "!trueref !obtrace !tp !fpo !fnseh !frameworks": _PRIVATE,
    "!perfctr !pmc !pmssa !pmpicr !psp !pars !pnpenum !cbreg !cxr !exca !msft": _HARDWARE,
    "!ataport !sataport !scsiport !srb !portcls !mcerr !isainfo !flushlog": _PRIVATE,
    "!umproc !umdf !urb": "named by an extension: " + _PRIVATE,
    "!writemem !readmem": ".writemem writes memory to a file",
    # typed at published prompts, of extensions or by mistake
    "!gdtr !idtr !ldtr !tr !cr": "r gdtr, r idtr, r tr and r cr3 show these registers, !idt and dg what they lead to",
    "!w !dx_w": "dw shows words of memory",
    "!cn !graph": "of MEX or a script of its own: not there; .foreach and dx go through data",
    "!crash !crashdump !ci": ".bugcheck shows the code, !analyze -v the analysis",
    "!grep !findstr !egrep !fgrep": "output is not searched: --paging finds a text with /, and the shell "
    "pipes kdump -z DUMP -q -c COMMAND to grep",
    "!load !unload !setdll": _BUILT_IN,
    "!wdflogdump !wdfdevext !wdfdevice !wdfqueue !wdfldr !wdfkd !wdfhandle !wdfdriverinfo !wdfdevicequeues !wdfrequest "
    "!wdfcrashdump !wdfobject !wdftmffile !wdfspinlock !wdfiotarget !wdfverifier !wdfpoolusage": "drivers of KMDF: "
    "their log and objects are in Wdf01000's memory, and not decoded; !drvobj, !devstack and !irp show them",
    "!umirp !umirps !umdevstacks !umdevstack !wudfext !wudfdevice !wudfdumpobjects !umprocesses": "hosts of user-mode "
    "drivers: "
    "user memory is rarely in a dump; !process 0 7 WUDFHost.exe shows them",
    "!usb_tree !usb2tree !usbtree !usb3 !hub_info !device_info !usbhcdlist !usbdstatus": "USB: " + _PRIVATE + "; "
    "!devnode 0 1 shows the devices",
    "!xhci_dumpall !xhci_info !xhci_capability !xhci_deviceslots !xhci_commandring !xhci_eventring": _HARDWARE,
    "!hidpdo !hidfdo !hidtree": "input devices: " + _PRIVATE + "; !devobj and !devstack show them",
    "!findhandle !handlefind": "handles are not searched by their object: !handle 0 3 0 TYPE lists those of a type",
    "!devices !devlist": "!devnode 0 1 shows the tree of devices, !object \\Device their names",
    "!wrfastmutex": "is a wait reason: !stacks and !thread show what threads wait for",
    "!stl": "containers of C++: " + _PRIVATE + "; dt and dx show what there are types of",
    "!fileext": "extensions of file objects: " + _PRIVATE + "; !fileobj shows a file",
    "!pcitree": "types of pci.pdb are needed, and not public; !devnode 0 1 shows the devices",
    "!isr !idtentry !isrs": "!idt shows interrupt vectors and their service routines",
    # documented, and in no other line
    "!exr !trap !dt !version": "without the exclamation mark: .exr, .trap, .cxr, dt, kb, kv, version",
    "!std_map !hstring !hstring2 !slist !rtlavl !gentable": "dx and dt show structures, dl and !list follow lists",
    "!obja": "dt nt!_OBJECT_ATTRIBUTES ADDRESS shows it",
    "!winrterr !cppexr": "!error names codes, .exr shows an exception record",
    "!tls !envvar !exchain !dreg !threadtoken !vadump !mapped_file !gatom !icpleak !dumpfa": _USER,
    "!filetime !whattime !whatperftime !tz !tzinfo": ".time shows times, dt nt!_LARGE_INTEGER a value",
    "!findthreads !processirps": "!stacks 2 finds threads by a function, !irpfind requests by process or thread",
    "!processfields !threadfields !tokenfields": "dt nt!_EPROCESS, dt nt!_ETHREAD and dt nt!_TOKEN show the fields",
    "!pcrs": "!pcr N shows a control region",
    "!cchelp !filelock !findfilelockowner": "the cache manager's and locks' structures: "
    + _PRIVATE
    + "; !filecache lists cached files, !fileobj and !ca show one",
    "!devhandles": "!handle 0 3 0 File lists the handles to files and devices",
    "!rellist": "lists of devices that go together: " + _PRIVATE + "; !devobj, !devnode and !podev show devices",
    "!iovirp": "!irp ADDRESS shows a request, !verifier the counters",
    "!irpzone": "kernels have had no zone of requests since Windows XP: !irpfind finds requests in pool",
    "!pplookaside": "!lookaside shows lookaside lists",
    "!lockedpages !searchpte !finddata !fpsearch": "!pfn, !pte and s show page frames, entries and memory",
    "!regkcb": "!reg kcb shows a key control block",
    "!vad_reload": "!vad ADDRESS 1 has the .reload of a region",
    "!sel": "dg shows descriptors",
    "!ppmidle !ppmidleaccounting !ppmidlepolicy !ppmlpscenarios !ppmperf !ppmperfpolicy !ppmsettings !ppmstate": (
        "power management of processors: " + _PRIVATE
    ),
    "!fwver !loadermemorylist !mps !ivt !gbl": "the firmware's tables are not in a dump; !sysinfo smbios has what is",
    "!mtrr !npx !pat !dcr !dcs !btb !ate !chklowmem !alignmentfaults !ih !ihs !dma": _HARDWARE,
    "!bth !hidppd !fxdevice !scm !swd !calldata": "of drivers and services: " + _PRIVATE,
    "!driveinfo !asd !gs !diskspace !homedir !net_send !bpid !can_write_kdump !bitcount": _DEBUGGER,
    "!owner": "!analyze -v names the driver that is blamed",
    "!symsrv": "!sym noisy tells every place that is asked for symbols",
    "!ubc !ubd !ube !ubl !ubp": _LIVE,
    ".context .fiber": ".process ADDRESS chooses an address space, .thread ADDRESS a thread",
    ".readmem .idle_cmd .rrestart .urestart .wake .kdtargetmac .exdicmd .fiximports": _LIVE,
    ".dbgdbg .flash_on_break .locale .fpo .hideinjectedcode .scroll_prefs .show_read_failures": _DEBUGGER,
    ".netsyms": "--offline asks no symbol server",
    ".show_sym_failures": "!sym noisy tells why a symbol was not found",
}

#: What to say of every command of an extension; the name ends before the point.
_EXTENSIONS: dict[str, str] = {
    "ndiskd": "adapters and packets of NDIS: types of ndis.pdb are needed, and not read yet; !irp and dt show "
    "structures",
    "wdfkd": "drivers of KMDF: their log is in Wdf01000's memory, and not decoded; !drvobj, !devstack and !irp "
    "show them",
    "umdf": "hosts of user-mode drivers: user memory is rarely in a dump; !process 0 7 WUDFHost.exe shows them",
    "fltkd": "filters: they are structures of fltmgr.pdb, which dx fltmgr!FltGlobals shows where that is at hand; "
    "!devstack shows who is attached to a volume",
    "rpcexts": "calls of RPC are in user mode: " + _PRIVATE,
    "storagekd": "storage classes and ports: " + _PRIVATE + "; !devnode, !devstack and !irp show the devices",
    "scsikd": "SCSI requests: " + _PRIVATE + "; !devstack and !irp show the devices",
    "usb3kd": "USB 3: " + _PRIVATE + "; !devnode 0 1 shows the devices",
    "usbkd": "USB: " + _PRIVATE + "; !devnode 0 1 shows the devices",
    "hidkd": "input devices: " + _PRIVATE,
    "bthkd": "Bluetooth: " + _PRIVATE,
    "ks": "kernel streaming: " + _PRIVATE,
    "acpikd": _HARDWARE,
    "amli": "AML of the firmware is not in a dump",
    "gpiokd": _HARDWARE,
    "spbkd": _HARDWARE,
    "sercxkd": _HARDWARE,
    "rcdrkd": "recorded traces are not decoded: .enumtag lists what the dump has",
    "wmitrace": "trace buffers are not decoded: .enumtag lists what the dump has",
    "sos": _MANAGED,
    "clr": _MANAGED,
    "psscor4": _MANAGED,
    "netext": _MANAGED,
    "mex": "of MEX there are those on threads, stacks and processes: !us, !tl, !t, !di, !lt, !ddt, !running",
    "exts": _USER,
    "uext": _USER,
    "ntsdexts": _USER,
    "logexts": _USER,
    "dx": "dx evaluates expressions",
    "pde": "is an extension of its own; !analyze -v and !thread show most of it",
    "swishdbgext": "is an extension of its own; vol's plugins look for what was tampered with",
    "pykd": "Python is beside the prompt: import volatility3_kdump",
    "py": "Python is beside the prompt: import volatility3_kdump",
    "pci": _HARDWARE,
    "minipkd": _PRIVATE,
    "dbgkit": "is an extension of its own; dx and dt show structures",
}
#: Libraries whose commands are of all kinds.
_OF_ANY_SUBJECT = frozenset({"mex", "exts", "uext", "ntsdexts", "kdexts", "ext", "kext"})
_NAME = re.compile(r"[.!]?[A-Za-z_$][\w+-]*|[^\w\s]+")
_OF_EXTENSION = re.compile(r"!([A-Za-z]\w*)\.([\w?]+)")


@lru_cache(maxsize=1)
def _table() -> dict[str, str]:
    return {name.lower(): advice for names, advice in _WORDS.items() for name in names.split()}


def names() -> list[str]:
    """Every name that something is said of."""
    return sorted(_table())


def extensions() -> list[str]:
    """Every extension library that something is said of."""
    return sorted(_EXTENSIONS)


def pointer(typed: str) -> tuple[str, str] | None:
    """(the command's name, what to type here instead or why there is nothing); ``None`` for what is no name of KD."""
    of_extension = _OF_EXTENSION.match(typed)
    if of_extension is not None:
        library, name = of_extension[1].lower(), of_extension[2].lower()
        shown = f"!{of_extension[1]}.{of_extension[2]}"
        if name == "help":
            return shown, _BUILT_IN
        of_name, of_library = _table().get(f"!{name}"), _EXTENSIONS.get(library)
        # A library of one subject knows better what its commands are; names alone are often those of others too.
        advice = of_name or of_library if library in _OF_ANY_SUBJECT else of_library or of_name
        return None if advice is None else (shown, advice)
    match = _NAME.match(typed)
    advice = _table().get(match[0].lower()) if match else None
    if advice is None and match is not None and match[0].startswith("!"):
        advice = _EXTENSIONS.get(match[0][1:].lower())
    return None if match is None or advice is None else (match[0], advice)
