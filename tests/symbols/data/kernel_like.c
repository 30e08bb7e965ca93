/* Types of every kind that a kernel or a driver in C has. kernel_like.pdb was made of this by LLVM 14:
 *
 *   clang --target=x86_64-windows-msvc -g -gcodeview -O0 -fms-extensions -ffile-compilation-dir=. -c kernel_like.c
 *   lld-link /nodefaultlib /entry:DriverEntry /subsystem:native /driver /debug /pdbaltpath:kernel_like.pdb
 *       /pdbsourcepath:. /out:kernel_like.sys kernel_like.o
 *
 * and kernel_like32.pdb with --target=i686-windows-msvc and /safeseh:no.
 */
typedef unsigned char UCHAR;
typedef unsigned short USHORT;
typedef unsigned long ULONG;
typedef unsigned long long ULONGLONG;
typedef void *PVOID;

typedef struct _LIST_ENTRY { struct _LIST_ENTRY *Flink, *Blink; } LIST_ENTRY;
typedef enum _KIND { KindNone, KindSmall = 7, KindLarge = 0x7fffffff, KindNegative = -3 } KIND;
enum _WIDE { WideFirst = 0xffffffff };

typedef union _LARGE_INTEGER {
    struct { ULONG LowPart; long HighPart; };
    struct { ULONG LowPart; long HighPart; } u;
    long long QuadPart;
} LARGE_INTEGER;

struct _FORWARD_ONLY;

typedef struct _KTHREAD_LIKE {
    LIST_ENTRY Links;
    UCHAR Name[15];
    USHORT Matrix[3][5];
    LIST_ENTRY Heads[4];
    struct _KTHREAD_LIKE *Next;
    struct _FORWARD_ONLY *Opaque;
    void (*Routine)(struct _KTHREAD_LIKE *, PVOID);
    struct {
        ULONG Alertable : 1;
        ULONG Wait : 3;
        ULONG Reserved : 28;
    } Flags;
    ULONGLONG Frame : 36;
    ULONGLONG Rest : 28;
    KIND Kind;
    enum _WIDE Wide;
    LARGE_INTEGER Time;
    volatile long Count;
    const char *const Text;
    PVOID *Pointers[2];
    float Single;
    double Double;
    signed char Signed;
    unsigned short Wchar;
    _Bool Flag;
    long long Big;
    union { ULONG Value; struct { USHORT Low, High; } Parts; } Mixed;
    UCHAR Last[0x12345];
} KTHREAD_LIKE;

KTHREAD_LIKE GlobalThread;
static ULONG LocalCounter;
KIND GlobalKind = KindSmall;

__declspec(noinline) static ULONG LocalRoutine(KTHREAD_LIKE *thread) { return thread->Flags.Wait + LocalCounter++; }
__declspec(noinline) ULONG GlobalRoutine(KTHREAD_LIKE *thread) { return LocalRoutine(thread) + GlobalThread.Count; }

long DriverEntry(PVOID driver, PVOID path)
{
    LARGE_INTEGER time;
    time.QuadPart = (long long)driver;
    GlobalThread.Time = time;
    return (long)(GlobalRoutine(&GlobalThread) + GlobalKind + (path != 0));
}
