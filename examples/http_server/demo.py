"""Plays the whole story with real processes: the standard library's web server, a probe script, and real requests.

python examples/http_server/demo.py
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from xpc_instrument import find_free_port

HERE = Path(__file__).resolve().parent
# `xpc-instrument`, wherever this interpreter has it.
COMMAND = (sys.executable, "-m", "xpc_instrument.cli")


def say(text):
    print(f"\n--- {text}", flush=True)


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            status, body = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.reason
        error.close()
    print(f"GET {path} -> {status} {body.splitlines()[0] if body else ''}", flush=True)


def wait_for_line(process, words):
    for line in process.stdout:
        if words in line:
            return
    raise SystemExit(f"the process ended before it said {words!r}")


def start(*words, **options):
    print("$", " ".join(Path(word).name if os.sep in word else word for word in words), flush=True)
    return subprocess.Popen(words, text=True, **options)


def main():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "hello.txt").write_text("hello from the folder\n")
        port = find_free_port("127.0.0.1")

        say("the application: python -m http.server, unmodified, with the agent in it")
        server = start(
            *COMMAND, "run", "--config", str(HERE / "xpc-instrument.toml"), "--",
            sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", str(port),
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for_line(server, "Serving HTTP")
        subprocess.run([*COMMAND, "ls", "files"], check=True)
        get(port, "/hello.txt")
        get(port, "/hidden")

        say("a probe script in another process: logs before, times after, answers /hidden instead")
        probe = start(sys.executable, "-u", str(HERE / "probe.py"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_for_line(probe, "Ctrl-C ends it")
        get(port, "/hello.txt")
        get(port, "/hidden")

        say("Ctrl-C on the probe script: the server answers as before")
        probe.send_signal(signal.SIGINT)
        print(probe.communicate(timeout=10)[0], end="", flush=True)
        get(port, "/hidden")

        say("a plain Manager hooks it too: it joins and registers callbacks named like the target")
        running = json.loads(subprocess.run([*COMMAND, "ps", "--json"], stdout=subprocess.PIPE, text=True, check=True).stdout)
        address = next(process["address"] for process in running if process["pid"] == server.pid)
        seed = start(sys.executable, "-u", str(HERE / "seed_probe.py"), address, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        wait_for_line(seed, "hooked")
        get(port, "/hidden")
        print(seed.communicate("\n", timeout=10)[0], end="", flush=True)
        get(port, "/hello.txt")

        say("the end")
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=10)
        print(f"the server ended with status {server.returncode}")


if __name__ == "__main__":
    main()
