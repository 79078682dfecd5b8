"""Keeps servers: `python -m benchmarks.processes.keeper`. A line on its standard input is the words of a command, the variables of its
environment and the file for its output, as a literal of Python; it starts that and answers with the pid. When its standard input ends,
however that comes about, it ends all of them."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from typing import List

from .peers import ROOT

# Seconds that a server may take to leave.
_PATIENCE = 10.0


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _end(servers: List[subprocess.Popen[bytes]]) -> None:
    for server in servers:
        server.terminate()
    for server in servers:
        try:
            server.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def main() -> None:
    signal.signal(signal.SIGTERM, _leave)
    servers: List[subprocess.Popen[bytes]] = []
    try:
        print("ready", flush=True)
        for line in sys.stdin:
            words, environment, path = ast.literal_eval(line)
            with open(path, "wb") as log:
                server = subprocess.Popen(words, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            servers.append(server)
            print(server.pid, flush=True)
    except KeyboardInterrupt:
        pass  # the servers have had it too
    finally:
        _end(servers)


if __name__ == "__main__":
    main()
