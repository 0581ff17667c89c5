#!/usr/bin/env python3
"""CRI-O's calls of a shim, as its runtime type "vm" makes them (internal/oci/runtime_vm.go): no event publisher, task API v2,
runtime options or none, streams as FIFOs, one shim for a container.

    crio_vm.py SHIM BUNDLE ID STEP

The bundle is complete. Prints what CRI-O would go by; process numbers and times are left out. STEP is life, terminal, exec,
restart or fail.
"""
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading

TASK = "containerd.task.v2.Task"
STATUS = {1: "created", 2: "running", 3: "stopped", 4: "paused", 5: "pausing"}
SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/"


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def message(**fields):
    """A protobuf message of fields named f1, f2, ...: numbers and truth values, texts and bytes."""
    out = b""
    for name, value in fields.items():
        number = int(name[1:])
        if isinstance(value, (bool, int)):
            out += varint(number << 3) + varint(int(value)) if value else b""
        elif value:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def fields(data):
    """The fields of a protobuf message, the last of each number."""
    out, at = {}, 0

    def read():
        nonlocal at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number
    while at < len(data):
        key = read()
        if key & 7 == 0:
            out[key >> 3] = read()
        elif key & 7 == 2:
            length = read()
            out[key >> 3] = data[at:at + length]
            at += length
        else:
            raise ValueError(f"wire type {key & 7}")
    return out


class Refused(Exception):
    """The shim has answered with an error."""


class Client:
    """A ttrpc connection, one call at a time."""

    def __init__(self, address):
        self.stream = -1
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(120)
        self.socket.connect(address.removeprefix("unix://"))

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise EOFError("the shim has closed the connection")
            data += part
        return data

    def call(self, method, payload=b""):
        self.stream += 2
        request = message(f1=TASK, f2=method, f3=payload)
        self.socket.sendall(struct.pack(">IIBB", len(request), self.stream, 1, 0) + request)
        length, stream, kind, _ = struct.unpack(">IIBB", self.exactly(10))
        assert (stream, kind) == (self.stream, 2), (stream, kind)
        answer = fields(self.exactly(length))
        status = fields(answer.get(1, b""))
        if status.get(1, 0) != 0:
            raise Refused(f"code {status[1]}: {status.get(2, b'').decode()}")
        return fields(answer.get(2, b""))


class Stream(threading.Thread):
    """Reads a FIFO to its end, as CRI-O does for the log and for attached clients. Opened both ways until the shim has it."""

    def __init__(self, path):
        super().__init__(daemon=True)
        os.mkfifo(path)
        self.path, self.text, self.end = path, b"", threading.Event()
        self.reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.keeper = os.open(path, os.O_WRONLY)
        self.start()

    def run(self):
        while True:
            select.select([self.reader], [], [])
            data = os.read(self.reader, 4096)
            if not data:
                return
            self.text += data

    def finish(self):
        """What was written, after the last writer has gone."""
        os.close(self.keeper)
        self.join(120)
        return self.text.decode().replace("\r", "")

    def until(self, word):
        """Waits until that was written."""
        for _ in range(2400):
            if word in self.text:
                return True
            self.end.wait(0.05)
        return False


class Container:
    """A container of one shim."""

    def __init__(self, shim, bundle, name):
        self.shim, self.bundle, self.name = shim, bundle, name
        self.streams = {}

    def start_shim(self):
        # Without a publisher of events: TTRPC_ADDRESS is empty, and so is -address.
        words = [self.shim, "-namespace", "default", "-address", "", "-publish-binary", "crio", "-id", self.name, "start"]
        environment = {**os.environ, "TTRPC_ADDRESS": "", "MAX_SHIM_VERSION": "2", "GOMAXPROCS": "2"}
        os.mkfifo(f"{self.bundle}/log")
        self.log = os.open(f"{self.bundle}/log", os.O_RDONLY | os.O_NONBLOCK)
        done = subprocess.run(words, cwd=self.bundle, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        text = done.stdout.decode().strip()
        if done.returncode:
            sys.exit(f"start: {done.returncode}: {done.stderr.decode()}")
        if text.startswith("{"):
            answer = json.loads(text)
            assert answer["version"] <= 2 and answer["protocol"] == "ttrpc", answer
            text = answer["address"]
        self.client = Client(text)
        print("address:", text.startswith("unix:///"), "file:", os.path.exists(f"{self.bundle}/address"))

    def paths(self, name, terminal):
        """stdin, stdout and stderr of a process: a terminal has no third."""
        stdin = f"{self.bundle}/{name}-stdin"
        os.mkfifo(stdin)
        self.streams[name] = [Stream(f"{self.bundle}/{name}-{end}") for end in (["stdout"] if terminal else ["stdout", "stderr"])]
        self.streams[name, "in"] = os.open(stdin, os.O_RDWR)
        return [stdin] + [stream.path for stream in self.streams[name]] + ([""] if terminal else [])

    def create(self, terminal=False):
        stdin, stdout, stderr = self.paths("init", terminal)
        payload = message(f1=self.name, f2=self.bundle, f4=terminal, f5=stdin, f6=stdout, f7=stderr)
        print("create:", self.client.call("Create", payload)[1] > 1)

    def call(self, method, **more):
        return self.client.call(method, message(f1=self.name, **more))

    def state(self, name=""):
        return STATUS[self.call("State", f2=name)[4]]

    def refused(self, method, **more):
        try:
            self.call(method, **more)
            print(f"{method}: done")
        except Refused as error:
            code = str(error).split(":", maxsplit=1)[0]
            # CRI-O goes by the code, and hands these words on to the kubelet.
            known = [words for words in ("already finished", "executable file not found in $PATH") if words in str(error)]
            print(f"{method}: {code}", *known)

    def exec(self, name, args, terminal=False):
        stdin, stdout, stderr = self.paths(name, terminal)
        spec = json.dumps({"terminal": terminal, "user": {"uid": 1000, "gid": 1000}, "args": args, "env": ["PATH=/bin"], "cwd": "/"})
        any_spec = message(f1=SPEC_TYPE + "Process", f2=spec)
        self.call("Exec", f2=name, f3=terminal, f4=stdin, f5=stdout, f6=stderr, f7=any_spec)

    def output(self, name):
        return [stream.finish() for stream in self.streams[name]]

    def shutdown(self):
        try:
            self.call("Shutdown")
        except EOFError:
            pass
        print("shut down:", self.client.socket.recv(1) == b"")


def life(box):
    box.create()
    print(box.state())
    box.call("Start")
    # Signal 0 is how CRI-O asks whether a container lives.
    box.call("Kill", f3=0)
    os.write(box.streams["init", "in"], b"line\n")
    print("output:", box.streams["init"][0].until(b"got line"))
    box.call("Pause")
    print(box.state())
    box.call("Resume")
    print(box.state())
    resources = json.dumps({"memory": {"limit": 33554432}, "cpu": {"shares": 512}})
    box.call("Update", f2=message(f1=SPEC_TYPE + "LinuxResources", f2=resources))
    stats = fields(box.call("Stats")[1])
    print("stats:", stats[1].decode().rsplit("/", maxsplit=1)[-1])
    box.call("CloseIO", f3=True)
    box.call("Kill", f3=15)
    print("exit:", box.call("Wait").get(1, 0))
    print(box.state())
    box.refused("Kill", f3=15)
    box.refused("Kill", f3=0)
    print("delete:", box.call("Delete").get(2, 0))
    print("out and err:", box.output("init"))
    box.refused("State")
    box.shutdown()


def terminal(box):
    box.create(terminal=True)
    box.call("Start")
    box.call("ResizePty", f3=101, f4=33)
    os.write(box.streams["init", "in"], b"typed\n")
    print("exit:", box.call("Wait").get(1, 0))
    box.call("Delete")
    print([line for line in box.output("init")[0].splitlines() if line != "typed"])
    box.shutdown()


def exec_(box):
    box.create()
    box.call("Start")
    box.exec("one", ["sh", "-c", "echo out; echo err >&2; id -u; exit 5"])
    box.refused("Exec", f2="one", f7=message(f1=SPEC_TYPE + "Process", f2="{}"))
    box.call("Start", f2="one")
    print("exec:", box.call("Wait", f2="one").get(1, 0), box.state("one"))
    box.call("Delete", f2="one")
    print(box.output("one"))
    # One that takes longer than its client waits: killed, and nothing of it stays.
    box.exec("slow", ["sh", "-c", "sleep 300 & wait"])
    box.call("Start", f2="slow")
    box.call("Kill", f2="slow", f3=9)
    print("timed out:", box.call("Wait", f2="slow").get(1, 0))
    box.call("Delete", f2="slow")
    box.exec("missing", ["nosuch"])
    box.refused("Start", f2="missing")
    box.exec("tty", ["sh", "-c", "read x; tty; echo got $x; exit 3"], terminal=True)
    box.call("Start", f2="tty")
    os.write(box.streams["tty", "in"], b"typed\n")
    print("exec on a terminal:", box.call("Wait", f2="tty").get(1, 0))
    box.call("Delete", f2="tty")
    print([line for line in box.output("tty")[0].splitlines() if line != "typed"])
    box.call("Kill", f3=9, f4=True)
    print("exit:", box.call("Wait").get(1, 0))
    box.call("Delete")
    box.shutdown()


def restart(box):
    """CRI-O comes up again and finds its containers by the file `address` of the bundle."""
    box.create()
    box.call("Start")
    box.client.socket.close()
    with open(f"{box.bundle}/address", encoding="utf-8") as file:
        box.client = Client(file.read().strip())
    print(box.state(), box.call("Connect")[2] > 1)
    box.call("Kill", f3=9)
    print("exit:", box.call("Wait").get(1, 0))
    box.call("Delete")
    box.shutdown()


def fail(box):
    box.refused("Create", f2=box.bundle)
    box.refused("State")
    box.shutdown()


def main():
    shim, bundle, name, step = sys.argv[1:]
    box = Container(shim, bundle, name)
    box.start_shim()
    {"life": life, "terminal": terminal, "exec": exec_, "restart": restart, "fail": fail}[step](box)


main()
