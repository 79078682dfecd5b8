"""Much the same with a plain manager: it joins, and registers callbacks named like the target. Takes the address of the application."""

import sys

from xpc_instrument import Manager

DO_GET = "http.server:SimpleHTTPRequestHandler.do_GET"


def answer(handler):
    handler.send_error(410, "Gone", f"{handler.path} is answered by a plain manager, from another process")


manager = Manager(address=sys.argv[1])
manager.connect()
manager.register(f"before:{DO_GET}", lambda handler: print("seed probe: GET", handler.path, "is about to be handled", flush=True))
manager.register(f"after:{DO_GET}", lambda handler: print("seed probe: it has been handled", flush=True))
manager.register(DO_GET, answer)

print("seed probe: hooked; a line on standard input ends it", flush=True)
sys.stdin.readline()
manager.shutdown()
