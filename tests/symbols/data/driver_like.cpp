// Types that only C++ has, in the shape that drivers have them. Built as kernel_like.c is, with
// -std=c++17 -fno-exceptions -fno-rtti.
typedef unsigned long ULONG;
extern "C" int _fltused = 0;
extern "C" int _purecall() { return 0; }
extern "C" int atexit(void (*)()) { return 0; }
void operator delete(void *) noexcept {}

namespace storage {
struct Base {
    ULONG Tag;
    static ULONG Instances;
    enum class State : unsigned char { Stopped, Started = 200 };
    State Current;
    virtual ULONG Size() const { return sizeof(*this); }
    virtual ~Base() {}
};
ULONG Base::Instances;

struct Second { long long Value; int Plain() { return 1; } };

template <typename T, int Count> struct Ring {
    T Items[Count];
    int Head;
    T &Next() { return Items[Head++ % Count]; }
    T Get(int index) { return Items[index]; }
    T Get() { return Items[0]; }
};

class Device final : public Base, private Second {
public:
    Device() : Reference(Slots) {}
    ULONG Size() const override { return sizeof(*this); }
    virtual void Added(int) {}
    bool Ready;
    char16_t Wide;
    Ring<ULONG, 4> Slots;
    Ring<ULONG, 4> &Reference;
    int Second::*Member;
    ULONG (Base::*Method)() const;
    struct { int X; } First;
    struct { char Y[3]; } Other;
    friend struct Ring<Device *, 2>;
};
}  // namespace storage

storage::Device GlobalDevice;
storage::Ring<storage::Device *, 2> GlobalRing;

extern "C" long DriverEntry(void *, void *)
{
    GlobalRing.Next() = &GlobalDevice;
    return (long)(GlobalDevice.Size() + GlobalRing.Get()->Slots.Next() + storage::Base::Instances);
}
