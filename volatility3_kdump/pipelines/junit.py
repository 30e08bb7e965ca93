"""JUnit's XML, as Jenkins, GitLab and others read it: a dump is a test that fails, could not run, or passes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from xml.etree import ElementTree

from volatility3_kdump.pipelines.analysed import Analysed

_SUITE = "kdump"


def junit(dumps: Sequence[Analysed]) -> str:
    """The document, in UTF-8."""
    failures = sum(bool(dump.matched) for dump in dumps)
    errors = sum(dump.error is not None and not dump.matched for dump in dumps)
    counts = {
        "tests": str(len(dumps)),
        "failures": str(failures),
        "errors": str(errors),
        "time": f"{sum(dump.seconds for dump in dumps):.3f}",
    }
    suites = ElementTree.Element("testsuites", {"name": _SUITE, **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": _SUITE, **counts, "skipped": "0"})
    for dump in dumps:
        place, name = os.path.split(dump.path)
        group = f"{_SUITE}.{place}" if place else _SUITE
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {
                "classname": group,
                "name": name or dump.path,
                "time": f"{dump.seconds:.3f}",
            },
        )
        if dump.matched:
            failure = {"message": dump.sentence, "type": dump.bug_check}
            ElementTree.SubElement(case, "failure", failure).text = _details(dump)
        elif dump.error is not None:
            ElementTree.SubElement(case, "error", {"message": dump.error, "type": "not analysed"}).text = dump.error
        else:
            ElementTree.SubElement(case, "system-out").text = _details(dump)
    ElementTree.indent(suites)
    body: str = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _details(dump: Analysed) -> str:
    """What stands below a failure: the sentences, and the stack."""
    document = dump.document
    if document is None:
        return dump.error or ""
    frames = [f"{frame['number']:02x} {frame['call_site']}" for frame in document["stack"]["frames"]]
    met = [f"fails: {condition}" for condition in dump.matched]
    return "\n".join([dump.sentence, *met, "", *document["summary"], "", *frames])
