"""The same with a plain manager: three lines make a complete probe script. Takes the address of the application."""

import sys

from xpc_instrument import Manager

manager = Manager(address=sys.argv[1])
manager.connect()
manager.register("before:http.server:SimpleHTTPRequestHandler.do_GET", lambda handler: print("seed probe: GET", handler.path, flush=True))

print("seed probe: hooked; a line on standard input ends it", flush=True)
sys.stdin.readline()
manager.shutdown()
