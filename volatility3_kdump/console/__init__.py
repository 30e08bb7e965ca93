"""KD's own command line: ``kdump -z DUMP`` opens dumps and answers KD's commands.

* :mod:`session` - the opened dumps and what commands leave behind for those that follow.
* :mod:`commands` - the registry of commands, KD's grammar of command lines, and the commands themselves: each a thin
  view of what the plugins compute.
* :mod:`application` - options, banner, prompt.
"""
