"""Fixtures that every test may use.

``shared_data``       directory of the test data (``dumps/``, ``isf/``, ``pe/``); skips where it is absent
``isf_paths``         the kernel symbol tables in it, sorted by name
``isf_path``          one of them: a test that asks for it runs with one table, with ``--thorough`` once for each
``some_kernels``      ``some_kernels(key)``, for loops: one table for each key, with ``--thorough`` all of them
``sample``            ``sample(dump_type=6, isf=None, scene="myfault")`` -> path of a made dump, written once
``image``             ``image(kind, running=False, scene="myfault")`` -> path of a made memory image, written once
``layouts``           the layouts of the kernel whose symbol table the package ships
``plain``             the demonstration, opened; tests must not change it
``run_plugin``        ``run_plugin(*arguments)`` -> what ``vol`` printed for a plugin of ours, run in this process
``run_vol``           ``run_vol(*arguments)`` -> finished process of ``vol`` with the checkout's plugins and symbols

The modules of the checkout are the ones under test, whether or not the package is installed as well.
"""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.target import Target

CHECKOUT = Path(__file__).resolve().parents[1]

# No test asks a server of the world; those that ask one on loopback take this back.
os.environ["KDUMP_OFFLINE"] = "1"
# The host makes its cache directory when it is first imported: keep the user's own out of the tests.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="kdump-tests-cache-")

import volatility3.plugins  # noqa: E402
import volatility3.symbols  # noqa: E402
from volatility3 import schemas  # noqa: E402
from volatility3.framework import constants  # noqa: E402

from tests import amounts  # noqa: E402
from tests.cpu_times import CpuTimes  # noqa: E402
from tests.vol_here import VolHere  # noqa: E402
from tests.vol_server import VolServer  # noqa: E402
from volatility3_kdump.analysis import reasoning  # noqa: E402
from volatility3_kdump.symbols import isf  # noqa: E402

volatility3.plugins.__path__.insert(0, str(CHECKOUT / "plugins"))
volatility3.symbols.__path__.insert(0, str(CHECKOUT / "symbols"))


# A mistake in a rule fails the test that meets it; users only lose that rule's findings.
reasoning.MISTAKES = ()


def _keeping_tables(parse: Callable[..., Layouts]) -> Callable[..., Layouts]:
    """Tests go through all kernels again and again: keep the tables of all of them, not of the last two only.

    What a table consists of is never garbage, and looking through it takes half a second of every full collection.
    """

    @functools.lru_cache(maxsize=20)
    def kept(*arguments: Any) -> Layouts:
        table = parse(*arguments)
        gc.freeze()
        return table

    return kept


# Looking for garbage every seven hundred objects was a fourteenth of all processor time of the tests.
gc.set_threshold(20_000, 50, 100)

isf._parsed_file = _keeping_tables(isf._parsed_file.__wrapped__)

# Where jsonschema is installed, the host holds each symbol table that it reads against a schema, for ten seconds.
schemas.valid = lambda *_, **__: True


#: Whether the host is older than the one whose plugins serve as oracles.
OLD_HOST = tuple(map(int, constants.PACKAGE_VERSION.split(".")[:2])) < (2, 28)


#: What every ``vol`` is told before anything else.
VOL_OPTIONS = ("-p", str(CHECKOUT / "plugins"), "-s", str(CHECKOUT / "symbols"), "--offline")

#: ``vol`` with arguments, and what it printed.
RunVol = Callable[..., subprocess.CompletedProcess[str]]


def pytest_configure(config: pytest.Config) -> None:
    """The same examples in every run, and how many; how long one takes depends on what else the machine does."""
    amounts.thorough = config.getoption("--thorough")
    hypothesis.settings.register_profile(
        "same",
        derandomize=True,
        deadline=None,
        max_examples=amounts.part(100),
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("same")
    if config.getoption("--cpu-times"):
        config.pluginmanager.register(CpuTimes())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="every kernel instead of one for each test, and the tests marked `thorough` (make test-all)",
    )
    parser.addoption("--cpu-times", action="store_true", help="show which tests took the most processor time")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Let every second worker collect from the end.

    Each finds the rewritten files of the other from the middle on: in a fresh clone rewriting is half of collecting.
    """
    report = yield
    if isinstance(collector, pytest.Dir) and _from_the_end():
        report.result.reverse()
    return report


def _from_the_end() -> bool:
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2 == 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``thorough`` or ``newest_host``, where that is not wanted."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        # The workers must agree on the order, whatever they collected first.
        items.sort(key=lambda item: item.path)
    skipped = {}
    if OLD_HOST:
        reason = f"the plugins of volatility3 {constants.PACKAGE_VERSION} answer in another form"
        skipped["newest_host"] = pytest.mark.skip(reason=reason)
    if not config.getoption("--thorough"):
        skipped["thorough"] = pytest.mark.skip(reason="takes long: make test-all")
    for item in items:
        for name, mark in skipped.items():
            if item.get_closest_marker(name):
                item.add_marker(mark)


def pytest_collection_finish() -> None:
    """What is imported by now is never garbage: do not look through it in every full collection."""
    gc.collect()
    gc.freeze()


def data_directory() -> Path:
    """Where the test data is looked for: ``KDUMP_TEST_DATA``, else ``shared/data`` beside the checkout."""
    chosen = os.environ.get("KDUMP_TEST_DATA")
    return Path(chosen) if chosen else CHECKOUT.parent / "shared" / "data"


def kernel_tables() -> list[Path]:
    return sorted((data_directory() / "isf" / "windows" / "ntkrnlmp.pdb").glob("*.json.xz"))


def pytest_report_header() -> str:
    return f"host: volatility3 {constants.PACKAGE_VERSION} in {Path(constants.__file__).parents[2]}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for ``isf_path`` with one kernel symbol table, or once for each."""
    if "isf_path" not in metafunc.fixturenames:
        return
    missing = pytest.mark.skip(reason=f"no kernel symbol tables under {data_directory()}")
    metafunc.parametrize(
        "isf_path",
        [pytest.param(path, id=path.name[:8]) for path in _chosen(metafunc.config, metafunc.definition.nodeid)]
        or [pytest.param(None, marks=missing, id="absent")],
    )


def _chosen(config: pytest.Config, key: str) -> list[Path]:
    """One kernel symbol table, always the same for a key and of all over the keys; with ``--thorough`` every one."""
    tables = kernel_tables()
    if config.getoption("--thorough") or not tables:
        return tables
    return [tables[zlib.crc32(key.encode()) % len(tables)]]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Directory with ``dumps/``, ``isf/`` and ``pe/``."""
    directory = data_directory()
    if not directory.is_dir():
        pytest.skip(f"no test data at {directory} (KDUMP_TEST_DATA names another directory)")
    return directory


@pytest.fixture(scope="session")
def isf_paths(shared_data: Path) -> list[Path]:
    """Real kernel symbol tables, one for each layout of _EPROCESS from Windows 7 to 11."""
    tables = kernel_tables()
    if not tables:
        pytest.skip(f"no kernel symbol tables under {shared_data}")
    return tables


@pytest.fixture(scope="session")
def some_kernels(request: pytest.FixtureRequest, isf_paths: list[Path]) -> Callable[[str], list[Path]]:
    """``some_kernels(key)``: one kernel symbol table, which depends on the key; with ``--thorough`` all of them."""
    return lambda key: _chosen(request.config, key)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``sample(dump_type=6, isf=None, scene="myfault")``: path of the sample dump of that type, from that symbol table.

    Each combination is written once for all workers of a run; tests must not change the file.
    """
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "samples"
    directory.mkdir(exist_ok=True)

    def make(dump_type: int = 6, isf: str | Path | None = None, scene: str = "myfault") -> Path:
        from kdump_sample import write_sample

        kernel = "" if isf is None else f"-{zlib.crc32(str(isf).encode()):08x}"
        path = directory / f"{scene}-type{dump_type}{kernel}.dmp"
        if not path.exists():
            # Two workers may write the same bytes at the same time; a file appears when it is whole.
            part = path.with_suffix(f".{os.getpid()}")
            write_sample(part, dump_type, isf, scene)
            part.replace(path)
        return path

    return make


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory, layouts: Layouts) -> Callable[..., Path]:
    """``image(kind, running=False, scene="myfault")``: path of the made machine as a memory image of that kind.

    The kind ``dump`` is a crash dump of the same machine. Tests must not change the file.
    """
    directory = tmp_path_factory.mktemp("images")

    def make(kind: str, running: bool = False, scene: str = "myfault") -> Path:
        from kdump_sample.memory_images import write_image

        path = directory / f"{scene}-{'running' if running else 'crashed'}.{kind}"
        if not path.exists():
            write_image(path, kind, layouts, scene, running)
        return path

    return make


@pytest.fixture(scope="session")
def layouts() -> Layouts:
    """The layouts of the kernel whose symbol table the package ships."""
    from volatility3_kdump.tables import kernel_table_path

    return isf.load_table_file(kernel_table_path())


@pytest.fixture(scope="session")
def plain(sample: Callable[..., Path]) -> Target:
    """The demonstration, opened; tests must not change it."""
    import volatility3_kdump

    return volatility3_kdump.open(sample())


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home directory of every ``vol``, and where it writes files."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def vol_environment(home: Path) -> dict[str, str]:
    """The environment of every ``vol``.

    The home and cache directories are of the session, so that neither the user's ``vol.json`` nor an earlier run has a
    say.
    """
    return {
        **os.environ,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "APPDATA": str(home),
        "PYTHONPATH": str(CHECKOUT),
    }


@pytest.fixture(scope="session")
def here(vol_environment: dict[str, str]) -> VolHere:
    """``vol`` in this process. Tests ask for ``run_plugin``."""
    return VolHere(vol_environment)


@pytest.fixture(scope="session")
def run_plugin(request: pytest.FixtureRequest, home: Path) -> RunVol:
    """``run_plugin("-q", "-f", dump, "kdump.info")``: what ``vol`` would print, run in this process.

    It takes and gives what ``run_vol`` does, at a tenth of the cost, for plugins of ours (:mod:`tests.vol_here`). With
    ``--thorough`` it is ``run_vol``: every such test holds for the true command line as well.
    """
    if request.config.getoption("--thorough"):
        thorough: RunVol = request.getfixturevalue("run_vol")
        return thorough
    here: VolHere = request.getfixturevalue("here")

    def run(*arguments: str | Path, cwd: Path = home) -> subprocess.CompletedProcess[str]:
        # The checkout's plugins and symbols are this process's own already.
        return here.run(["--offline", *map(str, arguments)], cwd)

    return run


@pytest.fixture(scope="session")
def run_vol(request: pytest.FixtureRequest, home: Path, vol_environment: dict[str, str]) -> RunVol:
    """``run_vol("-q", "-f", dump, "kdump.info")``: run ``vol`` offline on the checkout's plugins and symbols.

    Each run is a fork of a process that has imported the host and the plugins, where there is such a thing
    (:mod:`tests.vol_server`), else a process of its own. Keyword arguments: ``timeout`` (seconds) and ``cwd`` (where
    output files go; by default a directory of the session). Output is text; the exit status is not checked.
    """
    if VolServer.possible() and not OLD_HOST:
        server = VolServer(CHECKOUT / "plugins", vol_environment)
        request.addfinalizer(server.close)

        def run_forked(
            *arguments: str | Path, timeout: float = 120, cwd: Path = home
        ) -> subprocess.CompletedProcess[str]:
            return server.run([*VOL_OPTIONS, *map(str, arguments)], cwd, timeout)

        return run_forked

    command = [
        # The host parses the program's name with the rest of the command line, and would take "-c" for an option.
        *(sys.executable, "-c", "import sys; sys.argv[0] = 'vol'; from volatility3.cli import main; main()"),
        *VOL_OPTIONS,
    ]

    # Hosts before 2.28 learn of our renderer only through our own command.
    through_kdump = [sys.executable, "-m", "volatility3_kdump", "vol", *command[3:]]

    def run(*arguments: str | Path, timeout: float = 120, cwd: Path = home) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*(through_kdump if OLD_HOST and "windbg" in arguments else command), *map(str, arguments)],
            cwd=cwd,
            env=vol_environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Target]:
    """``scene(name, dump_type=6, isf=None)``: a scene's dump, written and opened once in a session."""
    import volatility3_kdump
    from kdump_sample import write_sample

    directory = tmp_path_factory.mktemp("scenes")
    opened: dict[tuple[str, int, Path | None], Target] = {}

    def open_(name: str, dump_type: int = 6, isf: Path | None = None) -> Target:
        key = (name, dump_type, isf)
        if key not in opened:
            path = directory / f"{name}-{dump_type}-{len(opened)}.dmp"
            write_sample(path, dump_type, isf, name)
            opened[key] = volatility3_kdump.open(path, isf_file=isf)
        return opened[key]

    return open_
