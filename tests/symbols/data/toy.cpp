// A driver in C++: what its PDB, or its DWARF, says of names, types and lines is held against LLVM's readers.
extern "C" int _fltused = 0;
typedef unsigned long ULONG;

namespace toy {
struct Request {
    ULONG Code;
    Request *Next;
};

template <typename T, void (*Free)(T *)> struct Owner {
    T *Held;
    __attribute__((noinline)) ULONG Release()
    {
        ULONG code = Held->Code;
        Free(Held);
        return code;
    }
};

__attribute__((noinline)) void Forget(Request *request)
{
    static Request *Forgotten;
    request->Next = Forgotten;
    Forgotten = request;
}

template <typename T> __attribute__((noinline)) T Larger(T left, T right)
{
    return left < right ? right : left;
}

template <int (*Compare)(int, int)> __attribute__((noinline)) int Sorted(int left, int right)
{
    static int Compared;
    return Compare(left, right) + ++Compared;
}

__attribute__((noinline)) int Difference(int left, int right)
{
    return left - right;
}
}  // namespace toy

static toy::Request Pending = {0x22, nullptr};

static __attribute__((noinline)) int Dispatch(int code)
{
    toy::Owner<toy::Request, toy::Forget> owner = {&Pending};
    int total = toy::Larger(code, (int)owner.Release());
    return total + toy::Sorted<toy::Difference>(total, code);
}

extern "C" int DriverEntry(void *object, void *path)
{
    Pending.Code = (ULONG)(unsigned long long)object;
    return Dispatch(path != nullptr);
}
