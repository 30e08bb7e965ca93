"""A display driver that did not respond: 0x116."""

from __future__ import annotations

import struct

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.scene import Record, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import add
from kdump_sample.scenes.workers import on_worker, third_party
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashed
from volatility3_kdump.layout import Layouts

_CONTEXT = 0xFFFF91894EF60010
_SIGNATURE = 0x52445476
_ENGINE_TIMEOUT = 9
_INSUFFICIENT_RESOURCES = 0xFFFFFFFFC000009A
_DXGKRNL = 0xFFFFF80060EC0000
_NVLDDMKM = 0xFFFFF80060EE0000
_OWNER_TAG = 0x15A4

_PORT = third_party(
    "dxgkrnl.sys",
    _DXGKRNL,
    {
        0x1100: Function(
            "TdrResetFromTimeoutWorkItem", (*pushes("rbx"), Allocate(0x20)), (Call(0x22, "local:TdrResetFromTimeout"),)
        ),
        0x1200: Function(
            "TdrResetFromTimeout", (*pushes("rbx", "rdi"), Allocate(0x28)), (Call(0x1D, "local:TdrBugcheckOnTimeout"),)
        ),
        0x1300: Function(
            "TdrBugcheckOnTimeout", (*pushes("rbx", "rdi"), Allocate(0x28)), (Call(0xFE, "import:KeBugCheckEx"),)
        ),
    },
    ("KeBugCheckEx",),
    exported=True,
)
_MINIPORT = third_party("nvlddmkm.sys", _NVLDDMKM, {0x1580: Function("ResetEngine", (Allocate(0x28),))})


@scene("display-timeout")
def display_timeout(layouts: Layouts) -> Scene:
    """0x116: the graphics processor could not be reset; the second argument lies in nvlddmkm.sys."""
    frames = tuple(
        Frame(f"dxgkrnl!{name}")
        for name in ("TdrResetFromTimeoutWorkItem", "TdrResetFromTimeout", "TdrBugcheckOnTimeout")
    )
    made = on_worker(frames, drivers=(_PORT, _MINIPORT))
    context = struct.pack("<IIQIIQ", _SIGNATURE, 0, 0, _ENGINE_TIMEOUT, 0, 3500).ljust(0x100, b"\0")
    made = add(made, records=(Record(_CONTEXT, context),), blocks=((_CONTEXT, len(context)),))
    return crashed(made, 0x116, (_CONTEXT, _NVLDDMKM + _OWNER_TAG, _INSUFFICIENT_RESOURCES, 4))
