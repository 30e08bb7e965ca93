"""A crash, or a batch of them, as one HTML file that needs no script and asks nobody for anything.

* :mod:`facts` - what a page says beyond the document of the analysis.
* :mod:`drawing` - where the parts of its pictures lie.
* :mod:`rendering` - templates to text, the policy that the page states, writing the file.
* :mod:`crash` and :mod:`batch` - the two pages.
"""
