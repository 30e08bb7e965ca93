"""``kdump analyze DUMP...``: verdicts for build pipelines, and an exit status that says what matters there.

* :mod:`analysed` - dumps, one after the other, each with its document or its error.
* :mod:`conditions` - ``--fail-on``: which verdicts fail the pipeline.
* :mod:`lines` - a line for each dump, JSON, GitHub's workflow commands; :mod:`markdown`, :mod:`junit`, :mod:`sarif`.
"""
