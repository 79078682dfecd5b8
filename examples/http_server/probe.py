"""A probe script: logs each request before it is handled, times it after, and answers /hidden instead of the original."""

import logging

import xpc_instrument

DO_GET = "http.server:SimpleHTTPRequestHandler.do_GET"

app = xpc_instrument.connect("files", timeout=10)


@app.before(DO_GET)
def log(call):
    print(f"probe: GET {call.instance.path} is about to be handled by pid {call.pid}", flush=True)


@app.after(DO_GET)
def timing(call):
    print(f"probe: it took {call.duration * 1000:.1f} ms", flush=True)


@app.around(DO_GET)
def hidden(call):
    handler = call.instance
    if handler.path != "/hidden":
        return call.proceed()
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"written by the probe script, from another process\n")


logging.basicConfig(level=logging.INFO, format="probe: %(message)s")
app.run()
