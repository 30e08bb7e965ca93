"""``kdump mcp``: dumps for programs that speak the Model Context Protocol.

* :mod:`server` - tools, resources and prompts, over stdio or over HTTP on loopback.
* :mod:`dumps` - the folders that may be read, the opened dumps, and a process for each of them.
* :mod:`processes` - starting such a process, asking it under a limit of time, ending it.
* :mod:`worker` - what runs in it: one dump and one session of the prompt; :mod:`answers` is what it can be asked.
* :mod:`confinement` - what it may touch, :mod:`folders` and :mod:`reach` - where that is.
* :mod:`paging` - long results, a page at a time.

The process of the server reads no dump: a dump that crashes, fills or stops its reader costs itself only. The two speak
in frames of JSON.
"""
