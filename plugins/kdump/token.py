"""Access tokens."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address, parse_id
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.tokens import token_grid
from volatility3_kdump.windows.listing.handles import process_named
from volatility3_kdump.windows.listing.tokens import token_of
from volatility3_kdump.windows.processes.crashed import crash_process, crash_thread
from volatility3_kdump.windows.processes.tokens import read_token


class Token(KdumpPlugin):
    """Shows user, groups and privileges of an access token (KD: !token).

    By default it is the token of the thread that crashed, or of its process.
    """

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="address", description="A token's address", optional=True),
            requirements.StringRequirement(name="pid", description="Process id, decimal or 0x...", optional=True),
        ]

    def grid(self, target):
        if self.option("address"):
            return token_grid(target, read_token(target, parse_address(self.option("address"), target)))
        if self.option("pid"):
            return token_grid(target, token_of(target, process_named(target, parse_id(self.option("pid")))).token)
        process, thread = crash_process(target), crash_thread(target)
        if process is None:
            raise KdumpError(f"{target.name}: the dump does not say which process crashed: use --pid or --address")
        return token_grid(target, token_of(target, process.address, thread.address if thread else None).token)
