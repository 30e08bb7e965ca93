"""``kdump doctor``, ``link`` and ``unlink``: whether plain ``vol`` finds the plugins, and how it comes to."""

from __future__ import annotations

import argparse

from volatility3_kdump.cli.command import Command


def doctor(arguments: argparse.Namespace) -> int:
    """``kdump doctor``: print every check; 0 only if none failed."""
    from volatility3_kdump import installation

    checks = installation.examine()
    for check in checks:
        print(check)
    failed = sum(check.passed is False for check in checks)
    print("plain vol finds everything" if not failed else f"{failed} of {len(checks)} checks failed")
    return 1 if failed else 0


def link(arguments: argparse.Namespace) -> int:
    """``kdump link``."""
    from volatility3_kdump import installation

    if installation.installed_distribution() is None:
        # The plugins that a link leads to would fail to import this package.
        raise installation.InstallationError(f"{installation.DISTRIBUTION} is not installed here: pip install it first")
    done = installation.link(installation.find_places())
    print("\n".join(done or ["nothing to do: vol finds the plugins"]))
    return 0


def unlink(arguments: argparse.Namespace) -> int:
    """``kdump unlink``."""
    from volatility3_kdump import installation

    done = installation.unlink(installation.find_places())
    print("\n".join(done or ["nothing to do: there is no link of ours"]))
    return 0


DOCTOR = Command("doctor", "tell whether plain `vol` finds the plugins; exit status 0 if it does", doctor)
LINK = Command("link", "make plain `vol` find the plugins of an editable install", link)
UNLINK = Command("unlink", "undo `link`", unlink)
