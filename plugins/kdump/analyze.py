"""The analysis of the crash."""

from pathlib import Path

from volatility3.framework.configuration import requirements

from volatility3_kdump.analysis.owners import OwnerRules
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.analyze import analyze_grid


class Analyze(KdumpPlugin):
    """Analyses a crash: what happened, where, who most probably did it, and how sure that is (KD: !analyze -v).

    The plain words come first, then the verdict with the rule that chose it, then every value with its place.
    """

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(
                name="report", description="Write the analysis to this file as one JSON document", optional=True
            ),
            requirements.StringRequirement(
                name="report-html",
                description="Write the analysis to this file as one HTML page (needs jinja2, extra `report`)",
                optional=True,
            ),
            requirements.StringRequirement(
                name="triage-ini",
                description="Rules of yours for choosing the culprit, in triage.ini syntax (module!function=owner)",
                optional=True,
            ),
        ]

    def grid(self, target):
        report, page = self.option("report"), self.option("report-html")
        return analyze_grid(
            target,
            OwnerRules.load(self.option("triage-ini")),
            Path(report) if report else None,
            self._page_writer(target, Path(page)) if page else None,
        )

    def _page_writer(self, target, path):
        # The templates cost what other runs need not pay.
        from volatility3_kdump.pages import rendering
        from volatility3_kdump.pages.crash import crash_page

        rendering.require()
        rendering.refuse_other_files("--report-html", path)
        return lambda crash: rendering.write_page("--report-html", path, crash_page(target, crash))
