"""What the tests of the verifier share: a writer of logs, made from the format document, and a case that has one."""
import datetime
import glob
import hashlib
import json
import os
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import arbiter_verify  # noqa: E402

PROTOCOL = os.path.join(HERE, os.pardir, "protocol")
ID = "6f1c0e9a5b7d4c3e8a2b1d0f9e8c7b6a"
ZERO = "0" * 64
START = datetime.datetime(2026, 11, 22, 14)
LEASE = 60000


def at_text(ms):
    return (START + datetime.timedelta(milliseconds=ms)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def claim(resource="r", mode="exclusive", permits=None):
    return dict({"resource": resource, "mode": mode}, **({} if permits is None else {"permits": permits}))


class Log:
    """Writes records. Each method appends one, and gives its index."""

    def __init__(self, partitions=1, partition=0, first=0, epoch=True, **genesis):
        self.lines, self.index, self.hash, self.epoch, self.ms, self.first = [], first - 1, ZERO, 0, 0, first
        self.in_flight = 64
        event = {"format": 1, "log_id": ID, "partition": partition, "partitions": partitions, "first_index": first, "after": []}
        self.add("create", {"genesis": dict(event, **genesis)})
        if epoch:
            self.activate()

    def add(self, command, *events, ms=None, renewed=None, **change):
        self.ms = self.ms + 10 if ms is None else ms
        self.index += 1
        record = {"index": self.index, "prev": self.hash, "epoch": self.epoch, "at": at_text(self.ms)}
        if renewed:
            record["renewed"] = renewed
        record["command"] = command
        if events:
            record["events"] = list(events)
        record.update(change)
        return self.raw(json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode("utf-8"))

    def raw(self, line):
        self.lines.append(line + b"\n")
        self.hash = hashlib.sha256(line).hexdigest()
        return self.index

    def activate(self, rules=1, **more):
        self.epoch += 1
        return self.add("activate", {"epoch_started": {"epoch": self.epoch, "incarnation": "%032x" % self.epoch, "rules": rules}}, **more)

    def policy(self, *rules, in_flight=4, lease=86400000, **more):
        self.in_flight = in_flight
        return self.add("policy", {"policy": {"sessions_max": 10, "in_flight_max": in_flight, "lease_ms_max": lease,
                                              "rules": list(rules)}}, **more)

    def open(self, asked=LEASE, lease=LEASE, change=None, **more):
        key_hash = hashlib.sha256(b"%d" % self.index).hexdigest()
        both = dict({"key_hash": key_hash, "label": "ci-12", "principal": "anonymous", "principal_by": "nobody"}, **more)
        event = dict(both, lease_ms=lease, in_flight_max=self.in_flight)
        return self.add({"open": dict(both, lease_ms=asked)}, {"opened": dict(event, **(change or {}))})

    def acquire(self, session, seq, claims, kind, change=None, capacity=1, floor=None, ms=None, **asked):
        command = dict({"session": session, "seq": seq, "claims": claims}, **asked)
        event = dict(command)
        if kind == "granted":
            event["claims"] = self.given(claims, capacity, floor)
        elif kind == "queued":
            event.setdefault("priority", 0)
        return self.add({"acquire": command}, {kind: dict(event, **(change or {}))}, ms=ms)

    def given(self, claims, capacity, floor):
        return [dict(one, capacity=capacity, floor=self.index + 1 if floor is None else floor) for one in claims]

    def grant(self, session, seq, claims=None, **more):
        return self.acquire(session, seq, claims or [claim()], "granted", **more)

    def queue(self, session, seq, claims=None, **more):
        return self.acquire(session, seq, claims or [claim()], "queued", **more)

    def refuse(self, session, seq, reason="busy"):
        return self.add({"acquire": {"session": session, "seq": seq, "claims": [claim()]}},
                        {"refused": {"session": session, "seq": seq, "reason": reason}})

    def advance(self, session, seq, claims=None, capacity=1, floor=None, ms=None, **more):
        event = {"session": session, "seq": seq, "claims": self.given(claims or [claim()], capacity, floor)}
        return self.add("advance", {"granted": dict(event, **more)}, ms=ms)

    def release(self, session, token, reason="released", **more):
        return self.add({"release": {"session": session, "token": token}}, {"released": dict({"token": token, "reason": reason}, **more)})

    def tick(self, *events, ms=None, asked=None):
        ms = self.ms + 10 if ms is None else ms
        return self.add({"tick": {"at": at_text(ms if asked is None else asked)}}, *events, ms=ms)

    def attach(self, session, n):
        return self.add({"attach": {"session": session, "n": n}}, {"attached": {"session": session, "n": n}})

    def gone(self, session, n, *events, ms=None, cause="returned", **seq):
        return self.add({"gone": dict({"session": session, "n": n, "cause": cause}, **seq)}, *events, ms=ms)

    def suspend(self, session, seq, token, n=0):
        return self.gone(session, n, {"suspended": {"session": session, "seq": seq, "token": token}}, seq=seq)

    def force(self, token, *events, resource="r", ms=None, **now):
        return self.add({"force_release": dict({"resource": resource, "token": token, "reason": "", "by": "uid:0"}, **now)},
                        *events, ms=ms)

    def revoke(self, token, until=None, reason="forced", **by):
        until = self.ms + 10 + LEASE if until is None else until
        return self.force(token, {"revoking": dict({"token": token, "reason": reason, "until": at_text(until)}, **(by or {"by": "uid:0"}))})

    def pause(self, word="pause"):
        return self.add({word: {"reason": "", "by": "uid:0"}}, {word + "d": {"by": "uid:0", "reason": ""}})

    def write(self, folder, mark="tip", splits=(), tail=b""):
        """Segments that begin at the indexes in `splits`; the durable mark."""
        for old in glob.glob(os.path.join(folder, "[0-9]*.log")):
            os.remove(old)
        begins = [self.first] + list(splits)
        for begin, end in zip(begins, begins[1:] + [None]):
            part = b"".join(self.lines[begin - self.first:None if end is None else end - self.first])
            with open(os.path.join(folder, "%020d.log" % begin), "wb") as file:
                file.write(part + (tail if end is None else b""))
        if mark is not None:
            write_mark(folder, self.index if mark == "tip" else mark, self)
        return folder

    def hash_of(self, index):
        return hashlib.sha256(self.lines[index - self.first][:-1]).hexdigest()


def write_mark(folder, index, log=None, digest=None, data=None):
    if data is None:
        known = log is not None and 0 <= index - log.first < len(log.lines) if type(index) is int else False
        digest = digest or (log.hash_of(index) if known else None if index == "null" else ZERO)
        body = json.dumps({"index": None if index == "null" else index, "hash": digest}, separators=(",", ":"))
        data = body.encode().ljust(127) + b"\n"
    with open(os.path.join(folder, "durable"), "wb") as file:
        file.write(data)


def released(token, reason, **by):
    return {"released": dict({"token": token, "reason": reason}, **by)}


def session_ended(session, reason):
    return {"session_ended": {"session": session, "reason": reason}}


def ended(session, seq, reason):
    return {"ended": {"session": session, "seq": seq, "reason": reason}}


def revoking(token, until, reason="hold_limit", **by):
    return {"revoking": dict({"token": token, "reason": reason, "until": at_text(until)}, **by)}


def delayed(resource, until):
    return {"delayed": {"resource": resource, "until": at_text(until)}}


class Case(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = holder.name
        self.log = Log()

    def verify(self, folder=None):
        return arbiter_verify.verify(folder or self.folder)

    def good(self, log=None, **how):
        (log or self.log).write(self.folder, **how)
        code, report = self.verify()
        self.assertEqual(code, 0, report)
        return report

    def bad(self, rule, index=None, log=None, **how):
        """The log is wrong at its last record (or at `index`), and all before it is good."""
        log = log or self.log
        with tempfile.TemporaryDirectory() as before:
            last = log.lines.pop()
            log.index -= 1
            if index is None and log.lines:
                code, report = self.verify(log.write(before))
                self.assertEqual(code, 0, report)
            log.lines.append(last)
            log.index += 1
        log.write(self.folder, **how)
        return self.found(rule, log.index if index is None else index)

    def found(self, rule, index):
        code, report = self.verify()
        self.assertEqual(code, 1, report)
        self.assertEqual((report["violation"]["rule"], report["violation"]["index"]), (rule, index), report)
        return report["violation"]

    def bad_line(self, index=None):
        return self.bad("Bad line (1)", index)


class RulesCase(Case):
    """A log with two sessions."""

    FIT = "Commands and events"

    def setUp(self):
        Case.setUp(self)
        self.a, self.b = self.log.open(), self.log.open()

    def again(self, *rules):
        self.log = Log()
        if rules:
            self.log.policy(*rules)
        self.a, self.b = self.log.open(), self.log.open()
        return self.log
