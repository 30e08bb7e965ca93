"""Installing and removing the package, and ``doctor``, ``link`` and ``unlink``, in a virtual environment of its own.

The environment gets the host of the version that runs the tests, and the package from a copy of the checkout.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from volatility3_kdump import installation
from volatility3_kdump.installation import InstallationError, Places

CHECKOUT = Path(__file__).resolve().parents[1]

#: What builds, tools and runs leave in a checkout.
LEFT_BY_USE = shutil.ignore_patterns(
    *(".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", "*.pyc", ".*_cache", ".hypothesis")
)

# All tests here share one environment, which takes a minute to make: one worker of xdist runs them (--dist loadgroup).
pytestmark = [pytest.mark.xdist_group("installation"), pytest.mark.thorough]


# a virtual environment ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """A virtual environment, a home directory for what runs in it, and the sources to install."""

    root: Path
    home: Path
    source: Path
    #: The options of ``pip install`` that installed the package; empty while it is not installed.
    state: list[tuple[str, ...]] = field(default_factory=list)

    @functools.cached_property
    def packages(self) -> Path:
        return Path(self.python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())

    @property
    def scripts(self) -> Path:
        return self.root / ("Scripts" if sys.platform == "win32" else "bin")

    def run(
        self, program: str, *arguments: str, check: bool = True, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment as a shell with the environment activated would."""
        variables = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "XDG_CACHE_HOME"}}
        finished = subprocess.run(
            [str(self.scripts / program), *arguments],
            cwd=cwd or self.home,
            env={**variables, "HOME": str(self.home), "PATH": f"{self.scripts}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or finished.returncode == 0, finished.stdout + finished.stderr
        return finished

    def python(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("python", *arguments, check=check)

    def pip(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run pip with the settings and the cache of the user who runs the tests."""
        finished = subprocess.run(
            [str(self.scripts / "python"), "-m", "pip", "--disable-pip-version-check", *arguments],
            cwd=self.home,
            env={name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "XDG_CACHE_HOME"}},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or finished.returncode == 0, finished.stdout + finished.stderr
        return finished

    def install(self, *options: str) -> Environment:
        """Install the package from the sources, unless that is how it was last installed here."""
        if self.state != [options]:
            self.uninstall()
            self.pip("install", "--quiet", *options, str(self.source))
            self.state[:] = [options]
        return self

    def uninstall(self) -> None:
        if self.state:
            self.pip("uninstall", "--quiet", "--yes", "volatility3-kdump")
            self.state.clear()

    def plugins(self) -> list[str]:
        """Our plugins, as plain ``vol`` lists them."""
        return re.findall(r"^    (kdump\.\S+)", self.run("vol", "--help").stdout, re.MULTILINE)

    def doctor(self) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "volatility3_kdump", "doctor", check=False)


def snapshot(directory: Path) -> dict[str, str]:
    """Every file and link below a directory except byte code, with the digest of what it holds."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(directory))] = f"-> {os.readlink(path)}"
        elif path.is_file() and path.suffix != ".pyc":
            found[str(path.relative_to(directory))] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_dir() and path.name != "__pycache__":
            found[str(path.relative_to(directory))] = "directory"
    return found


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout without what builds leave there, as a fresh clone would be."""
    return Path(shutil.copytree(CHECKOUT, tmp_path_factory.mktemp("source") / "checkout", ignore=LEFT_BY_USE))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Environment:
    """The host and the libraries that the package requires, without the package."""
    root, home = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("home")
    subprocess.run([sys.executable, "-m", "venv", str(root)], check=True)
    made = Environment(root, home, source)
    host = f"volatility3=={importlib.metadata.version('volatility3')}"
    libraries = ["pefile", "capstone>=5", "yara-python", "numpy", "setuptools>=64"]
    finished = made.pip("install", "--quiet", host, *libraries, check=False)
    if finished.returncode != 0:
        message = f"the host cannot be installed: {finished.stderr.strip().splitlines()[-1:]}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    made.run("vol", "--help")  # the byte code and cache directories that any use leaves
    return made


@pytest.fixture(scope="session")
def bare(environment: Environment) -> dict[str, str]:
    """The environment before the package was ever installed in it."""
    return snapshot(environment.root)


@pytest.fixture
def installed(environment: Environment, bare: dict[str, str]) -> Environment:
    return environment.install()


@pytest.fixture
def editable(environment: Environment, bare: dict[str, str]) -> Iterator[Environment]:
    yield environment.install("--editable")
    environment.run("kdump", "unlink")


def expected_plugins(source: Path) -> list[str]:
    return sorted(f"kdump.{path.stem}" for path in (source / "plugins" / "kdump").glob("*.py") if path.name[:2] != "__")


def modules_of(names: list[str]) -> list[str]:
    return sorted(name.rpartition(".")[0] for name in names)


# installed by pip ---------------------------------------------------------------------------------------------------


def test_plain_vol_finds_an_installed_package(installed: Environment) -> None:
    assert expected_plugins(installed.source)
    assert modules_of(installed.plugins()) == expected_plugins(installed.source)
    doctor = installed.doctor()
    assert doctor.returncode == 0, doctor.stdout
    assert "FAIL" not in doctor.stdout


def test_everything_in_the_source_directories_is_installed(installed: Environment) -> None:
    for source, target in (
        ("volatility3_kdump", "volatility3_kdump"),
        ("plugins/kdump", "volatility3/plugins/kdump"),
        ("symbols/kdump", "volatility3/symbols/kdump"),
    ):
        assert snapshot(installed.packages / target) == snapshot(installed.source / source)


def test_the_doctor_recognises_the_installation_from_within_the_checkout(installed: Environment) -> None:
    doctor = installed.run("python", "-m", "volatility3_kdump", "doctor", cwd=installed.source, check=False)
    assert f"(this command runs from {installed.source})" in doctor.stdout
    assert doctor.returncode == 0, doctor.stdout


def test_link_leaves_an_installed_package_alone(installed: Environment) -> None:
    before = snapshot(installed.root)
    for command in ("link", "unlink"):
        assert "nothing to do" in installed.run("kdump", command).stdout
    assert snapshot(installed.root) == before


def test_uninstalling_leaves_nothing(installed: Environment, bare: dict[str, str]) -> None:
    assert snapshot(installed.root) != bare
    assert installed.plugins()
    installed.uninstall()
    assert snapshot(installed.root) == bare
    assert installed.plugins() == []
    assert not list(installed.packages.glob("volatility3/*/kdump"))


def test_the_doctor_needs_the_vol_of_path_to_find_the_plugins(installed: Environment, tmp_path: Path) -> None:
    other = tmp_path / "vol"
    other.write_text("#!/bin/sh\necho '    windows.info.Info'\n")
    other.chmod(0o755)
    variables = {**os.environ, "PATH": str(tmp_path), "HOME": str(installed.home)}
    command = [str(installed.scripts / "kdump"), "doctor"]
    finished = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert f"{other} finds none" in finished.stdout


def test_the_doctor_reports_a_copy_that_the_host_meets_first(installed: Environment, tmp_path: Path) -> None:
    old = tmp_path / "plugins" / "kdump"
    old.mkdir(parents=True)
    settings = installed.home / ".config" / "volatility3" / "vol.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"plugin_dirs": str(old.parent)}))
    try:
        finished = installed.doctor()
    finally:
        shutil.rmtree(settings.parents[1])
    assert finished.returncode == 1
    assert f"{old} is another copy" in finished.stdout


def test_the_doctor_reports_a_plugin_that_does_not_load(installed: Environment) -> None:
    broken = installed.packages / "volatility3" / "plugins" / "kdump" / "broken.py"
    broken.write_text("import no_such_module\n")
    try:
        finished = installed.doctor()
    finally:
        broken.unlink()
        for compiled in broken.parent.glob("__pycache__/broken.*"):
            compiled.unlink()
    assert finished.returncode == 1
    assert "volatility3.plugins.kdump.broken does not load" in finished.stdout


# an editable install ------------------------------------------------------------------------------------------------


def test_an_editable_install_needs_the_link(editable: Environment) -> None:
    before = snapshot(editable.root)
    assert editable.plugins() == []
    assert editable.doctor().returncode == 1

    editable.run("kdump", "link")
    assert modules_of(editable.plugins()) == expected_plugins(editable.source)
    doctor = editable.doctor()
    assert doctor.returncode == 0, doctor.stdout
    linked = snapshot(editable.root)
    assert set(linked) - set(before) == {
        str((editable.packages / "volatility3" / kind / "kdump").relative_to(editable.root))
        for kind in ("plugins", "symbols")
    }
    assert "nothing to do" in editable.run("kdump", "link").stdout
    assert snapshot(editable.root) == linked

    editable.run("kdump", "unlink")
    assert snapshot(editable.root) == before
    assert "nothing to do" in editable.run("kdump", "unlink").stdout
    assert editable.doctor().returncode == 1


def test_the_host_honours_entries_in_its_settings(editable: Environment, tmp_path: Path) -> None:
    places = Places(
        host=tmp_path / "unwritable",
        host_version="",
        searched={"plugins": (), "symbols": ()},
        ours={kind: editable.source / kind / "kdump" for kind in ("plugins", "symbols")},
        settings=editable.home / ".config" / "volatility3" / "vol.json",
    )
    assert len(installation.link(places)) == 1
    assert modules_of(editable.plugins()) == expected_plugins(editable.source)
    assert editable.doctor().returncode == 0
    assert "nothing to do" in editable.run("kdump", "link").stdout
    editable.run("kdump", "unlink")
    assert not places.settings.parent.exists()
    assert editable.plugins() == []


def test_a_missing_link_target_is_reported(editable: Environment, tmp_path: Path) -> None:
    dangling = editable.packages / "volatility3" / "plugins" / "kdump"
    dangling.symlink_to(tmp_path / "gone")
    try:
        finished = editable.doctor()
        refused = editable.run("kdump", "link", check=False)
        editable.run("kdump", "unlink")
        assert dangling.is_symlink()
    finally:
        dangling.unlink()
    assert finished.returncode == 1
    assert f"{dangling} is a link to {tmp_path / 'gone'}, which does not exist" in finished.stdout
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"kdump: {dangling}: ")
    assert len(refused.stderr.splitlines()) == 1


# the source distribution --------------------------------------------------------------------------------------------


def test_the_source_distribution_is_complete(environment: Environment, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(environment.source, tmp_path / "checkout", ignore=LEFT_BY_USE))
    wanted = {str(path.relative_to(copied)) for path in copied.rglob("*") if path.is_file()}
    build = (
        "import os, sys; os.chdir(sys.argv[1]); from setuptools import build_meta; build_meta.build_sdist(sys.argv[2])"
    )
    environment.python("-c", build, str(copied), str(tmp_path))
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    assert wanted - packed == set()


# link and unlink, without a host ------------------------------------------------------------------------------------


@pytest.fixture
def make_places(tmp_path: Path) -> Callable[..., Places]:
    """Directories like a host's and like a checkout's; ``writable=False`` makes links in the host impossible."""

    def make(writable: bool = True) -> Places:
        host, source = tmp_path / "host", tmp_path / "source"
        for kind in ("plugins", "symbols"):
            (source / kind / "kdump").mkdir(parents=True)
            if writable:
                (host / kind).mkdir(parents=True)
        return Places(
            host=host,
            host_version="",
            searched={kind: (host / kind,) for kind in ("plugins", "symbols")},
            ours={kind: source / kind / "kdump" for kind in ("plugins", "symbols")},
            settings=tmp_path / "home" / "volatility3" / "vol.json",
        )

    return make


def write_settings(places: Places, text: str) -> None:
    places.settings.parent.mkdir(parents=True, exist_ok=True)
    places.settings.write_text(text)


def test_links_lead_to_our_directories(make_places: Callable[..., Places]) -> None:
    places = make_places()
    assert len(installation.link(places)) == 2
    for kind in ("plugins", "symbols"):
        assert (places.host / kind / "kdump").resolve() == places.ours[kind].resolve()
    assert installation.link(places) == []
    assert len(installation.unlink(places)) == 2
    assert [path for path in places.host.rglob("*") if path.name == "kdump"] == []
    assert installation.unlink(places) == []
    assert not places.settings.exists()


def test_one_missing_link_is_added(make_places: Callable[..., Places]) -> None:
    places = make_places()
    installation.link(places)
    (places.host / "symbols" / "kdump").unlink()
    assert len(installation.link(places)) == 1
    assert (places.host / "symbols" / "kdump").is_symlink()


@pytest.mark.parametrize("blocked", ["plugins", "symbols"])
def test_another_installation_is_never_replaced(
    make_places: Callable[..., Places], tmp_path: Path, blocked: str
) -> None:
    places = make_places()
    (tmp_path / "elsewhere").mkdir()
    (places.host / blocked / "kdump").symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path)
    with pytest.raises(InstallationError, match="not to this installation"):
        installation.link(places)
    assert installation.unlink(places) == []
    assert snapshot(tmp_path) == before


def test_a_real_directory_is_never_replaced(make_places: Callable[..., Places], tmp_path: Path) -> None:
    places = make_places()
    (places.host / "symbols" / "kdump").mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(InstallationError, match="another copy"):
        installation.link(places)
    assert installation.unlink(places) == []
    assert snapshot(tmp_path) == before


def test_settings_take_the_place_of_links(make_places: Callable[..., Places]) -> None:
    places = make_places(writable=False)
    (line,) = installation.link(places)
    assert str(places.settings) in line
    assert json.loads(places.settings.read_text()) == {
        "plugin_dirs": str(places.ours["plugins"].parent),
        "symbol_dirs": str(places.ours["symbols"].parent),
    }
    assert installation.link(places) == []
    assert len(installation.unlink(places)) == 2
    assert not places.settings.parent.exists()


def test_half_a_pair_of_links_is_taken_back(make_places: Callable[..., Places]) -> None:
    places = make_places()
    (places.host / "symbols").rmdir()
    (line,) = installation.link(places)
    assert str(places.settings) in line
    assert not (places.host / "plugins" / "kdump").is_symlink()


def test_other_settings_stay(make_places: Callable[..., Places]) -> None:
    places = make_places(writable=False)
    theirs = {"offline": True, "plugin_dirs": "/their/plugins;/more", "cache_path": "/ä"}
    write_settings(places, json.dumps(theirs))
    places.settings.chmod(0o600)
    installation.link(places)
    linked = json.loads(places.settings.read_text(encoding="utf-8"))
    assert linked["plugin_dirs"] == f"/their/plugins;/more;{places.ours['plugins'].parent}"
    assert linked["symbol_dirs"] == str(places.ours["symbols"].parent)
    assert places.settings.stat().st_mode & 0o777 == 0o600
    installation.unlink(places)
    assert json.loads(places.settings.read_text(encoding="utf-8")) == theirs
    assert [path.name for path in places.settings.parent.iterdir()] == ["vol.json"]


def test_a_settings_file_that_is_a_link_stays_one(make_places: Callable[..., Places], tmp_path: Path) -> None:
    places = make_places(writable=False)
    real = tmp_path / "dotfiles.json"
    real.write_text('{"offline": true}')
    places.settings.parent.mkdir(parents=True)
    places.settings.symlink_to(real)
    installation.link(places)
    assert places.settings.is_symlink()
    assert "plugin_dirs" in json.loads(real.read_text())
    installation.unlink(places)
    assert json.loads(real.read_text()) == {"offline": True}


@pytest.mark.parametrize("text", ["{", "[]", '{"plugin_dirs": ["a"]}', '{"symbol_dirs": null}', "\udcff"])
def test_settings_that_make_no_sense_are_left_alone(make_places: Callable[..., Places], text: str) -> None:
    places = make_places(writable=False)
    write_settings(places, "")
    contents = text.encode("utf-8", "surrogateescape")
    places.settings.write_bytes(contents)
    for change in (installation.link, installation.unlink):
        with pytest.raises(InstallationError, match=r"vol\.json"):
            change(places)
    assert places.settings.read_bytes() == contents


# the help text of vol -----------------------------------------------------------------------------------------------


def test_the_help_text_of_the_host_is_understood() -> None:
    text = """
  -r, --renderer RENDERER
                        Determines how to render the output (quick, none, windbg,
                        csv)

Plugins:
  PLUGIN
    kdump.analyze.Analyze
                        kdump.info.Text in a description
    kdump.info.Info     Shows
    windows.info.Info   Show OS & kernel details

The following plugins could not be loaded (use -vv to see why):
volatility3.plugins.kdump.bugcheck, volatility3.plugins.windows.cachedump
"""
    run = installation.parse_help(text)
    assert run.plugins == ("kdump.analyze.Analyze", "kdump.info.Info")
    assert run.failures == ("volatility3.plugins.kdump.bugcheck",)
    assert run.windbg
    assert not installation.parse_help(text.replace("windbg,", "")).windbg
