from __future__ import annotations

import json
import lzma
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.amounts import step
from volatility3_kdump.symbols.pdb.undecorate import undecorate, undecorate_cpp


@pytest.mark.parametrize(
    ("decorated", "shown"),
    [
        ("KeBugCheckEx", "KeBugCheckEx"),
        ("__C_specific_handler", "_C_specific_handler"),
        ("_guard_dispatch_icall", "guard_dispatch_icall"),
        ("__imp_ExAllocatePool2", "_imp_ExAllocatePool2"),
        ("name@12", "name@12"),  # x64 has one calling convention: this belongs to the name
        ("\x7fHAL_NULL_THUNK_DATA", "HAL_NULL_THUNK_DATA"),
        ("_", "_"),
        ("", ""),
    ],
)
def test_c_names_of_64_bit_images(decorated: str, shown: str) -> None:
    assert undecorate(decorated, 8) == shown


@pytest.mark.parametrize(
    ("decorated", "shown"),
    [
        ("_KeBugCheckEx@20", "KeBugCheckEx"),
        ("@KiFastCallEntry@8", "KiFastCallEntry"),
        ("vector@@16", "vector"),
        ("_cdecl_name", "cdecl_name"),
        ("__except_handler3", "_except_handler3"),
        ("plain", "plain"),
    ],
)
def test_c_names_of_32_bit_images(decorated: str, shown: str) -> None:
    assert undecorate(decorated, 4) == shown


@pytest.mark.parametrize(
    ("decorated", "shown"),
    [
        ("?SmFirstTimeInit@?$SMKM_STORE_MGR@USM_TRAITS@@@@SAXXZ", "SMKM_STORE_MGR<SM_TRAITS>::SmFirstTimeInit"),
        (
            "?BTreeDelete@?$B_TREE@KU_ST_REGION_ENTRY@?$ST_STORE@USM_TRAITS@@@@$0BAAA@UNP_CONTEXT@@"
            "UST_REGION_ENTRY_COMPARATOR@2@@@SAJPEAU1@PEAUSEARCH_RESULT@1@@Z",
            "B_TREE<unsigned long,ST_STORE<SM_TRAITS>::_ST_REGION_ENTRY,4096,NP_CONTEXT,"
            "ST_STORE<SM_TRAITS>::ST_REGION_ENTRY_COMPARATOR>::BTreeDelete",
        ),
        ("?Get@?$A@V?$B@H@@@@QEAAHXZ", "A<B<int> >::Get"),
        ("??0SC_DISK@@QEAA@XZ", "SC_DISK::SC_DISK"),
        ("??1SC_DEVICE@@UEAA@XZ", "SC_DEVICE::~SC_DEVICE"),
        ("??3SC_ENV_ALLOCATOR@@SAXPEAX@Z", "SC_ENV_ALLOCATOR::operator delete"),
        ("??_7NT_DISK@@6B@", "NT_DISK::`vftable'"),
        ("??_GNT_DISK@@UEAAPEAXI@Z", "NT_DISK::`scalar deleting destructor'"),
        ("?Twice@Twice@0@SAXXZ", "Twice::Twice::Twice"),
        ("?Negative@?$T@$0?0@@SAXXZ", "T<-1>::Negative"),
        ("?One@?$T@$00@@SAXXZ", "T<1>::One"),
        ("??_C@_0BA@JFNIOLAK@string?5too?5long?$AA@", "`string'"),
        # As listings of the debugger have it: nt! ?? ::FNODOBFM::`string'+0x2935c.
        ("??_C@_00CNPNBAHC@@FNODOBFM@", " ?? ::FNODOBFM::`string'"),
        ("??_C@_1DA@HOOFFHMM@?$AAK?$AAe?$AAr?$AAn@PBOPGDP@", " ?? ::PBOPGDP::`string'"),
        ("??_C@_0BA@JFNIOLAK@cut?5off", "`string'"),
        ("??R<lambda_0e8a8c4f0e1a3f1a1f>@@QEBA@HH@Z", "<lambda_0e8a8c4f0e1a3f1a1f>::operator()"),
        ("?<lambda_invoker_cdecl>@<lambda_1>@@CA@HH@Z", "<lambda_1>::<lambda_invoker_cdecl>"),
        ("?f@?$T@V<lambda_1>@@@@SAXXZ", "T<<lambda_1> >::f"),
        ("??_DS@@QEAAXXZ", "S::`vbase destructor'"),
        ("??$?0H@?$A@D@@QEAA@H@Z", "A<char>::A<char><int>"),
        ("??_R0?AVexception@@@8", "exception `RTTI Type Descriptor'"),
        ("??_R0?AUBase@N@@@8", "N::Base `RTTI Type Descriptor'"),
        ("??_R0H@8", "int `RTTI Type Descriptor'"),
        # As llvm-undname has them, but for the blanks between numbers.
        ("??_R1A@?0A@EA@exception@@8", "exception::`RTTI Base Class Descriptor at (0,-1,0,64)'"),
        ("??_R17A@3EA@Base@@8", "Base::`RTTI Base Class Descriptor at (8,0,4,64)'"),
        ("??_R2exception@@8", "exception::`RTTI Base Class Array'"),
        ("??_R3exception@std@@8", "std::exception::`RTTI Class Hierarchy Descriptor'"),
        ("??_R4exception@@6B@", "exception::`RTTI Complete Object Locator'"),
        ("?x@?A0x12345678@@3HA", "`anonymous namespace'::x"),
        ("?f@?A0xabcdef01@N@@YAXXZ", "N::`anonymous namespace'::f"),
        ("?ClassKeyPrefix@?1??_CmDeleteKey@@9@9", "`_CmDeleteKey'::`2'::ClassKeyPrefix"),
        ("?x@?BA@??F@@9@4HA", "`F'::`16'::x"),
        ("?f@?$T@$1?g@@9@@SAXXZ", "T<&g>::f"),
        ("?f@?$T@PEAPEAX@@SAXXZ", "T<void **>::f"),
        ("?f@?$T@$1?g@@YAXHZZ@@SAXXZ", "T<&void __cdecl g(int,...)>::f"),
        ("?f@?$T@P6AHPEBDPEAPEAXAEAH@Z@@SAXXZ", "T<int (__cdecl*)(char const *,void **,int &)>::f"),
        (
            "?Release@?$Owner@URequest@toy@@$1?Forget@2@YAXPEAU12@@Z@toy@@QEAAKXZ",
            "toy::Owner<toy::Request,&void __cdecl toy::Forget(toy::Request *)>::Release",
        ),
        (
            "?reset@?$unique_storage@U?$resource_policy@PEAXP6AXPEAX@Z$1?CloseHandle@details@wil@@YAX0@Z"
            "U?$integral_constant@_K$0A@@wistd@@PEAXPEAX$0A@$$T@details@wil@@@details@wil@@QEAAXPEAX@Z",
            "wil::details::unique_storage<wil::details::resource_policy<void *,void (__cdecl*)(void *),"
            "&void __cdecl wil::details::CloseHandle(void *),wistd::integral_constant<unsigned __int64,0>,void *,"
            "void *,0,std::nullptr_t> >::reset",
        ),
    ],
)
def test_cpp_names(decorated: str, shown: str) -> None:
    assert undecorate_cpp(decorated) == shown
    assert undecorate(decorated, 8) == shown


@pytest.mark.parametrize(
    "name",
    [
        "?",
        "??",
        "?x",
        "?x@",
        "?x@y",
        "?x@@",  # what follows the name is cut off
        "?5@@YAXXZ",  # refers back to nothing
        "??0@QEAA@XZ",
        "?x@?1??Function@@YAXX@4HA",  # the type of the function is cut
        "?x@?1???BS@@QEAAHXZ@4HA",
        "?x@?1??f@@$4PPPPPPPM@A@EAAXXZ@4HA",
        "?x@?1??Function@@",
        "?x@?$T@$1?f@@YAX0@Z@@SAXXZ",  # refers back to no type
        "?x@?$T@$1?f@@YZXXZ@@SAXXZ",
        "?x@?$T@" + "PEA" * 400 + "X@@SAXXZ",
        "?" + "a@" * 3000,
        "?x" + "@?$T@U" * 40,
        "?x@?A0x1234567g@@YAXXZ",
        "??_R5exception@@8",
        "??_R4@@6B@",
        "??_R0",
        "?<lambda_1@@YAXXZ",
        "?<>@@YAXXZ",
        "??BS@@QEBAHX"[:9],  # cut within what it gives
        "??BS@@QEBA",
        "??BS@@ZZHXZ",
        "??$?0H@@QEAA@H@Z",  # of no class
        "??$?_7H@S@@6B@",
        "??$?BH@S@@QEAAHXZ",  # how the debugger writes it is not known
    ],
)
def test_what_is_not_understood_stays(name: str) -> None:
    assert undecorate_cpp(name) == name


@pytest.mark.parametrize(
    ("decorated", "by_llvm"),
    [
        ("?$TSS0@?1??sm@S@N@@SAHPEAD@Z@4HA", "int `public: static int __cdecl N::S::sm(char *)'::`2'::$TSS0"),
        ("?counter@?1??m@S@N@@QEAAHH@Z@4HA", "int `public: int __cdecl N::S::m(int)'::`2'::counter"),
        ("?gone@?1???1S@N@@QEAA@XZ@4HA", "int `public: __cdecl N::S::~S(void)'::`2'::gone"),
        ("?h@?1??hidden@N@@YAHPEAK@Z@4HA", "int `int __cdecl N::hidden(unsigned long *)'::`2'::h"),
        ("?hits@?1??at@?$Arr@D$04@@QEAAAEADH@Z@4HA", "int `public: char & __cdecl Arr<char, 5>::at(int)'::`2'::hits"),
        ("?inner@?1??m@S@N@@QEAAHH@Z@4HA", "int `public: int __cdecl N::S::m(int)'::`2'::inner"),
        ("?k@?1??f@W@@UEAAHXZ@4HB", "int const `public: virtual int __cdecl W::f(void)'::`2'::k"),
        ("?kept@?1???$t@H@S@N@@QEAAHH@Z@4HA", "int `public: int __cdecl N::S::t<int>(int)'::`2'::kept"),
        (
            "?kept@?1???$t@_J@S@N@@QEAA_J_J@Z@4_JA",
            "__int64 `public: __int64 __cdecl N::S::t<__int64>(__int64)'::`2'::kept",
        ),
        (
            "?last@?1??en@@YAHW4E@@AEDH$$QEAY02H@Z@4W42@A",
            "enum E `int __cdecl en(enum E, int const volatile &, int (&&)[3])'::`2'::last",
        ),
        ("?made@?1???0S@N@@QEAA@XZ@4HA", "int `public: __cdecl N::S::S(void)'::`2'::made"),
        ("?names@?1??m@S@N@@QEAAHH@Z@4PAPEBDA", "char const **`public: int __cdecl N::S::m(int)'::`2'::names"),
        ("?one@?1??f@V@@UEAAHXZ@4PEAU2@EA", "struct V *`public: virtual int __cdecl V::f(void)'::`2'::one"),
        ("?p@?1??f@W@@UEAAHXZ@4PEBHEB", "int const *`public: virtual int __cdecl W::f(void)'::`2'::p"),
        ("?s@?1??sm@S@N@@SAHPEAD@Z@4U23@A", "struct N::S `public: static int __cdecl N::S::sm(char *)'::`2'::s"),
        (
            "?saved@?1??free_fn@@YAHP6AXH@ZPEB_W@Z@4P6AXH@ZEA",
            "void (__cdecl *`int __cdecl free_fn(void (__cdecl *)(int), wchar_t const *)'::`2'::saved)(int)",
        ),
        (
            "?times@?1??go@?$Call@$1?target@@YAXH@Z@@QEAAXXZ@4HA",
            "int `public: void __cdecl Call<&void __cdecl target(int)>::go(void)'::`2'::times",
        ),
    ],
)
def test_statics_of_functions_of_cpp(decorated: str, by_llvm: str) -> None:
    """What llvm-undname says of names that clang made; the debugger's short form has no types."""
    function, block, variable = undecorate_cpp(decorated).rsplit("::", 2)
    assert f"::{block}::{variable}" in by_llvm
    named = f"{function.removeprefix('`').removesuffix(chr(39))}("
    assert re.search(rf"[` ]{re.escape(named)}", by_llvm.replace(", ", ","))


def by_llvm(tool: str, names: Sequence[str]) -> dict[str, str]:
    """What llvm-undname says of names, without what the debugger's short form lacks, by name."""
    options = ["calling-convention", "access-specifier", "member-type", "return-type", "variable-type"]
    finished = subprocess.run(
        [tool, *(f"--no-{option}" for option in options)],
        input="\n".join([*names, ""]),
        capture_output=True,
        text=True,
        check=False,
    )
    blocks = [block.strip().splitlines() for block in finished.stdout.split("\n\n")]
    # A name that llvm does not understand stands alone before the next one.
    return {block[-2]: block[-1] for block in blocks if len(block) >= 2}


def as_the_debugger_writes(name: str) -> str:
    """A name of llvm-undname with the blanks and words of Microsoft's."""
    expected = re.sub(r"\b(struct|class|union|enum) ", "", name).replace(", ", ",")
    expected = (
        expected.replace('extern "C" ', "")
        .removeprefix("const ")
        .replace(" dtor'", " destructor'")
        .replace("(__cdecl *)", "(__cdecl*)")
    )
    while ">>" in expected.replace("operator>>", ""):
        expected = re.sub(r"(?<!operator)>>", "> >", expected)
    # Functions in the name: llvm gives them access, type and convention; the one of a lambda has another in its own.
    expected = re.sub(r"`(?:[\w:<>, *&]* )?([\w:<>,~]+)\([^`']*\)'::`", r"`\1'::`", expected)
    lambdas = r"^`(?:[\w:<>, *&]* )?(`.*'::[\w<>:]+(?:\(\))?)\([^()]*\)(?: const)?'::`"
    expected = re.sub(lambdas, r"`\1'::`", expected)
    return expected


def decorated_names(data: Path) -> list[str]:
    names: set[str] = set()
    for path in sorted((data / "isf" / "windows" / "ntkrnlmp.pdb").glob("*.json.xz"))[:: step()]:
        with lzma.open(path) as stream:
            names.update(name for name in json.load(stream)["symbols"] if name.startswith("?"))
    return sorted(name for name in names if not name.startswith("??_C@"))


def test_every_name_of_the_kernels_equals_llvm(shared_data: Path) -> None:
    tool = shutil.which("llvm-undname")
    names = decorated_names(shared_data)
    if tool is None or not names:
        pytest.skip("llvm-undname is not installed" if tool is None else "no kernel symbol tables")
    reference = by_llvm(tool, names)
    understood = 0
    for name in names:
        shown = undecorate_cpp(name)
        if shown == name:
            continue
        understood += 1
        expected = as_the_debugger_writes(reference[name])
        # llvm adds the types of the parameters.
        assert expected == shown or expected.startswith(f"{shown}("), name
    assert understood > 0.97 * len(names)


#: A function of each kind that a driver may have, and what uses it.
_SOURCE = """
struct Bar { int value; };
namespace N { struct Inner { int value; }; }
template <class T> struct Smart {
    T *held;
    operator T *() const { return held; }
    operator bool() const { return held != 0; }
    template <class U> Smart(U *other) : held((T *)other) {}
    Smart() : held(0) {}
    T *operator->() const { return held; }
};
struct Foo {
    int number; Bar bar;
    operator int() const;
    operator unsigned __int64() volatile;
    operator Bar &();
    operator const Bar &() const;
    operator N::Inner() &;
    operator bool() const &&;
    operator const char *() const;
    operator void **();
    operator decltype(nullptr)() const;
    Foo &operator+=(int);
    Foo &operator/=(int);
    Foo &operator%=(int);
    Foo &operator<<=(int);
    Foo &operator>>=(int);
    Foo &operator&=(int);
    Foo &operator|=(int);
    Foo &operator^=(int);
    template <class T> bool operator==(const T &) const;
    template <class T> Foo &operator<<(T);
};
Foo::operator int() const { return number; }
Foo::operator unsigned __int64() volatile { return 1; }
Foo::operator Bar &() { return bar; }
Foo::operator const Bar &() const { return bar; }
Foo::operator N::Inner() & { return {1}; }
Foo::operator bool() const && { return true; }
Foo::operator const char *() const { return ""; }
Foo::operator void **() { return 0; }
Foo::operator decltype(nullptr)() const { return nullptr; }
Foo &Foo::operator+=(int) { return *this; }
Foo &Foo::operator/=(int) { return *this; }
Foo &Foo::operator%=(int) { return *this; }
Foo &Foo::operator<<=(int) { return *this; }
Foo &Foo::operator>>=(int) { return *this; }
Foo &Foo::operator&=(int) { return *this; }
Foo &Foo::operator|=(int) { return *this; }
Foo &Foo::operator^=(int) { return *this; }
template <class T> bool Foo::operator==(const T &) const { return false; }
template <class T> Foo &Foo::operator<<(T) { return *this; }
template bool Foo::operator==<Bar>(const Bar &) const;
template Foo &Foo::operator<< <int>(int);
template <class F> int call(F f) { return f(1); }
int outer(int x) {
    auto captures = [x](int y) { static int kept = y; return x + kept; };
    auto free = [](int y) { return y; };
    int (*pointer)(int) = free;
    return call(captures) + call(free) + pointer(3);
}
struct Maker { int number; Maker(); int run() { return [this](int y) { return number + y; }(1); } };
Maker::Maker() { number = [](int y) { return y; }(2); }
int use(Maker &maker, Bar *bar) {
    Smart<Bar> smart(bar), other((int *)0);
    Bar *raw = smart;
    return maker.run() + (raw == bar) + (smart ? smart->value : 0);
}
"""


def test_lambdas_and_conversion_operators_equal_llvm(tmp_path: Path) -> None:
    tools = {name: shutil.which(name) for name in ("clang", "llvm-nm", "llvm-undname")}
    if None in tools.values():
        pytest.skip(f"not all of {', '.join(tools)} are installed")
    source, object_file = tmp_path / "made.cpp", tmp_path / "made.obj"
    source.write_text(_SOURCE)
    compiler = [str(tools["clang"]), "--target=x86_64-windows-msvc", "-std=c++17", "-O0", "-c", str(source)]
    subprocess.run([*compiler, "-o", str(object_file)], check=True, capture_output=True)
    listed = subprocess.run(
        [str(tools["llvm-nm"]), "-j", "--defined-only", str(object_file)], check=True, capture_output=True, text=True
    )
    names = [name for name in listed.stdout.split() if name.startswith("?") and not name.startswith("??_C@")]
    assert sum("<lambda_" in name for name in names) > 8 and sum(name.startswith("??B") for name in names) > 10
    reference = by_llvm(str(tools["llvm-undname"]), names)
    for name in names:
        expected, shown = as_the_debugger_writes(reference[name]), undecorate_cpp(name)
        assert shown != name, name
        assert expected == shown or expected.startswith(f"{shown}("), (name, shown)
