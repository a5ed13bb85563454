"""Tests of the verifier: logs written here from the format document, and for each rule one that breaks it.

    python3 client/python/test_verify.py
"""
import contextlib
import datetime
import glob
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import arbiter_rules  # noqa: E402
import arbiter_verify  # noqa: E402

PROTOCOL = os.path.join(HERE, os.pardir, "protocol")
GOLDEN = os.path.join(PROTOCOL, "golden", "log")
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

    def policy(self, *rules, **more):
        return self.add("policy", {"policy": {"sessions_max": 10, "in_flight_max": 4, "lease_ms_max": 86400000,
                                              "rules": list(rules)}}, **more)

    def open(self, asked=LEASE, lease=LEASE, change=None, in_flight=4, **more):
        key_hash = hashlib.sha256(b"%d" % self.index).hexdigest()
        both = dict({"key_hash": key_hash, "label": "ci-12", "principal": "anonymous", "principal_by": "nobody"}, **more)
        event = dict(both, lease_ms=lease, in_flight_max=in_flight)
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


class Good(Case):
    def test_the_examples_of_the_document(self):
        with open(os.path.join(PROTOCOL, "log.md"), encoding="utf-8") as file:
            found = re.findall("```json\n([^\n]*)\n```\n([0-9]+) bytes, SHA-256 `([0-9a-f]{64})`", file.read())
        self.assertEqual(len(found), 4)
        self.log.lines, self.log.index = [], 3
        for line, size, digest in found:
            self.log.lines.append(line.encode("utf-8") + b"\n")
            self.assertEqual((len(self.log.lines[-1]) - 1, hashlib.sha256(line.encode("utf-8")).hexdigest()), (int(size), digest))
        report = self.good()
        self.assertEqual(report["tip"], {"index": 3, "hash": found[3][2]})
        self.assertEqual(report["live"], {"sessions": 1, "waiting": 0, "held": 1, "delayed": 0})

    def test_every_kind(self):
        log = self.log
        log.policy({"pattern": "d*", "lock_delay_ms": 500, "capacity": 3}, {"pattern": "x", "allow": ["uid:1"]}, {"pattern": "h", "hold_max_ms": 50})
        a, b = log.open(), log.open(fail_fast_ms=1000, reply_to="direct.1")
        one = log.grant(a, 1)
        log.queue(b, 1, wait_ms=100, reason="v42 – Müller", owner=[a, 1])
        log.refuse(b, 2, "held")
        log.release(a, one)
        two = log.advance(b, 1, wait_ms=100, reason="v42 – Müller", owner=[a, 1])
        log.suspend(b, 1, two)
        log.attach(b, 1)
        log.advance(b, 1, wait_ms=100, reason="v42 – Müller", owner=[a, 1])
        log.queue(a, 2, wait_ms=20, priority=9)
        log.tick(ended(a, 2, "wait_limit"), ms=log.ms + 20)
        log.add({"cancel": {"session": a, "seq": 3}}, ended(a, 3, "cancelled"))
        log.gone(b, 1, {"unreachable": {"session": b, "n": 1}}, ms=log.ms + LEASE)
        log.add("barrier", renewed=[[a, 1], [99, 1]])
        log.tick(session_ended(b, "fail_fast"), ms=log.ms + 1000)
        log.pause()
        log.add({"resume": {"reason": "", "by": "uid:0"}}, {"resumed": {"by": "uid:0", "reason": ""}})
        d = log.grant(a, 4, [claim("d1", "permits", 2)], capacity=3)
        log.force(d, released(d, "forced", by="uid:0"), delayed("d1", log.ms + 10 + 500), resource="d1", now=True)
        log.queue(a, 5, [claim("d1", "shared")])
        log.activate()
        log.add("barrier", ms=log.ms + 500)
        log.advance(a, 5, [claim("d1", "shared")], capacity=3)
        h = log.grant(a, 6, [claim("h")], hold_max_ms=50)
        log.tick(revoking(h, log.ms + 50 + LEASE), ms=log.ms + 50)
        log.add({"tick": {"at": at_text(log.ms)}})
        log.release(a, h, "hold_limit")
        log.add("checkpoint", {"checkpoint": {"of": log.index, "hash": "ab" * 32}})
        log.add({"close": {"session": a}}, session_ended(a, "closed"))
        c = log.open()
        log.gone(c, 0, session_ended(c, "connection_closed"), cause="closed")
        log.add("finish", {"closed": {}})
        report = self.good(splits=[5, 9])
        self.assertEqual(report["live"], {"sessions": 0, "waiting": 0, "held": 0, "delayed": 0})
        self.assertEqual((report["records"], report["epochs"], report["notes"]), (log.index + 1, 2, []))

    def test_white_space_escapes_and_order_of_fields_do_not_matter(self):
        record = {"command": "barrier", "at": at_text(100), "epoch": 1, "prev": self.log.hash, "index": 2}
        self.log.index = 2
        self.log.raw(json.dumps(record).replace("barrier", "b\\u0061rrier").encode())
        self.good()

    def test_goes_on_from_another_log(self):
        self.good(Log(first=7, after=[{"log_id": ID, "index": 6, "hash": ZERO}]))

    def test_partition_table_of_the_document(self):
        for name, four, sixteen in (("db/migrate", 3, 11), ("{order-7}/stock", 2, 10), ("{}x", 2, 6), ("a{b", 0, 12),
                                    ("x{}y{z}", 0, 4), ("a}b{c}d", 3, 15)):
            self.assertEqual((arbiter_rules.partition_of(name, 4), arbiter_rules.partition_of(name, 16)), (four, sixteen), name)

    def test_patterns(self):
        for pattern, name, expected in (("*", "", True), ("a*", "a", True), ("a*a", "a", False), ("a*b*c", "axbxbc", True),
                                        ("*ab*", "xaab", True), ("a", "ab", False), ("**", "x", True), ("*.log", "a.log", True),
                                        ("a*b*b", "ab", False), ("[a]?", "[a]?", True), ("[a]?", "aa", False)):
            self.assertEqual(arbiter_rules.matches(pattern.split("*"), name), expected, (pattern, name))

    def test_delayed_once_for_two_losses(self):
        for answers in (2, 1):
            log = Log()
            log.policy({"pattern": "*", "lock_delay_ms": 100})
            a, b = log.open(), log.open()
            first = log.grant(a, 1, [claim(mode="shared")])
            log.grant(b, 1, [claim(mode="shared")], floor=first)
            now = log.ms + LEASE
            log.tick(session_ended(a, "lease_expired"), session_ended(b, "lease_expired"), *[delayed("r", now + 100)] * answers, ms=now)
            self.good(log) if answers == 1 else self.bad("Delay", log=log)

    def test_a_delay_that_ends_later_is_left_as_it_is(self):
        for again in (True, False):
            log = Log()
            log.policy({"pattern": "*", "lock_delay_ms": 1000})
            a, b = log.open(), log.open()
            one = log.grant(a, 1, [claim(mode="shared")])
            two = log.grant(b, 1, [claim(mode="shared")], floor=one)
            log.force(one, released(one, "forced", by="uid:0"), delayed("r", log.ms + 1010), now=True)
            log.policy({"pattern": "*", "lock_delay_ms": 100})
            log.force(two, released(two, "forced", by="uid:0"), *[delayed("r", log.ms + 110)] * again, now=True)
            self.bad("Delay", log=log) if again else self.good(log)


class Lines(Case):
    """Section 2: what makes a line no record."""

    def line(self, make):
        self.log.add("barrier")
        line = make(self.log.lines[-1])
        self.log.lines[-1] = line
        self.bad_line()

    def test_strictness(self):
        changes = [(b'"command"', b'"more":1,"command"'), (b'"index":2', b'"index":2,"index":2'), (b'"epoch":1,', b""),
                   (b'"epoch":1', b'"epoch":1.0'), (b'"epoch":1', b'"epoch":1e0'), (b'"epoch":1', b'"epoch":"1"'),
                   (b'"epoch":1', b'"epoch":true'), (b'"epoch":1', b'"epoch":9007199254740992'), (b'"index":2', b'"index":-0'),
                   (b'"barrier"', b'"barriers"'), (b'"barrier"', b'{"barrier":{}}'), (b'"barrier"', b'"tick"'),
                   (b'"barrier"', b'"barrier","renewed":[]'), (b'"barrier"', b'"barrier","events":[]'),
                   (b'"barrier"', b'"barrier","upto":null'), (b'"barrier"', b'"barrier","renewed":[[1]]'),
                   (b'"barrier"', b'"barrier","events":["closed"]'), (b'"barrier"', b'"barrier","events":[{"other":{}}]'),
                   (b'"barrier"', b'"barrier","upto":NaN'), (b"2026-11-22", b"2026-02-30"), (b"T14", b"T24"), (b"000Z", b"Z"),
                   (b"2026", b"1969"), (b":00.", b":60."), (b'"barrier"', b'"barrier\xff"'), (b"\n", b"\r\n"), (b"}\n", b"}}\n"),
                   (b'"barrier"', b'"barrier"' + b" " * 1048576), (b'"barrier"', b"[" * 100000)]
        for old, new in changes:
            with self.subTest(new=new[:40]):
                self.log = Log()
                self.line(lambda line: line.replace(old, new, 1))

    def test_empty_line_zeros_inside_and_byte_order_mark(self):
        for make in (lambda line: b"\n", lambda line: b"\0" + line, lambda line: b"\xef\xbb\xbf" + line, lambda line: line[:-1]):
            self.log = Log()
            self.line(make)

    def test_values(self):
        def acquire(claims, **more):
            session = self.log.open()
            self.log.add({"acquire": dict({"session": session, "seq": 1, "claims": claims}, **more)},
                         {"refused": {"session": session, "seq": 1, "reason": "busy"}})
        wrong = [dict(claims=[]), dict(claims=[claim(), claim()]), dict(claims=[claim(mode="permits")]), dict(claims=[claim(permits=1)]),
                 dict(claims=[claim(str(n)) for n in range(65)]), dict(claims=[claim("")]), dict(claims=[claim("ü" * 129)]),
                 dict(claims=[claim("a\x7f")]), dict(claims=[claim("a\x9f")]), dict(claims=[claim("r", "permits", 0)]),
                 dict(claims=[claim("r", "permits", 1000001)]), dict(claims=[claim("r", "other")]), dict(claims=[claim()], priority=0),
                 dict(claims=[claim()], priority=10), dict(claims=[claim()], wait_ms=31622400001), dict(claims=[claim()], reason="x" * 1025),
                 dict(claims=[claim()], value="x" * 4097), dict(claims=[claim()], owner=[1]), dict(claims=[claim()], reason=None)]
        for values in wrong:
            with self.subTest(values=str(values)[:60]):
                self.log = Log()
                acquire(**values)
                self.bad_line()
        self.log = Log()
        acquire([claim("ü" * 128)], reason="–" * 341, priority=9)
        self.good()
        self.log.open(lease=99)
        self.bad_line()
        self.log = Log()
        self.log.lines.append(self.log.lines[-1])  # a doubled line is damage in a folder
        self.log.index += 1
        self.bad_line()

    def test_half_a_surrogate_pair(self):
        self.log.open(label="XX")
        self.log.lines[-1] = self.log.lines[-1].replace(b"XX", b"\\ud800")
        self.bad_line()


class Folder(Case):
    """Section 1."""

    def three(self):
        for _ in range(3):
            self.log.add("barrier")

    def test_torn_tail_after_the_mark(self):
        self.three()
        for tail in (b"{", b"{}\n", self.log.lines[0], b"{\0\0", b"\0x", b"\n" * 9):
            report = self.good(tail=tail)
            self.assertEqual((report["torn_tail"]["index"], report["torn_tail"]["line"], report["torn_tail"]["bytes"]), (5, 6, len(tail)))
        self.assertEqual(self.good(tail=self.log.lines[0][:9], mark=2)["torn_tail"]["bytes"], 9)
        self.log.lines[3] = self.log.lines[3].replace(b"barrier", b"barrieR")
        rest = sum(map(len, self.log.lines[3:]))
        self.assertEqual(self.good(mark=2, tail=b"x" * 5)["torn_tail"]["bytes"], rest + 5)
        self.bad("Bad line (1)", 3, mark=3)

    def test_torn_in_an_earlier_segment(self):
        self.three()
        self.log.lines[3] = self.log.lines[3][:-1] + b"\0\n"
        self.bad("Bad line (1)", 3, splits=[4], mark="null")

    def test_zeros_at_the_end(self):
        self.three()
        self.assertIsNone(self.good(tail=b"\0" * 5000)["torn_tail"])
        self.assertIsNone(self.good(tail=b"\0" * 3000000)["torn_tail"])
        self.log.lines[2] += b"\0" * 20
        self.bad("Bad line (1)", 3, splits=[3])

    def test_all_torn_before_anything_is_durable(self):
        for data in (b"{", b"", b"\0" * 100):
            with open(os.path.join(self.folder, "%020d.log" % 0), "wb") as file:
                file.write(data)
            write_mark(self.folder, "null")
            code, report = self.verify()
            self.assertEqual((code, report["tip"], bool(report["torn_tail"])), (0, None, data == b"{"))
        write_mark(self.folder, 0)
        self.found("Durable mark (1)", 0)

    def test_mark(self):
        self.three()
        self.good(mark="null")
        self.good(mark=2)
        self.bad("Durable mark (1)", 5, mark=5)
        write_mark(self.folder, 3, digest="ab" * 32)
        self.found("Durable mark (1)", 3)
        good = b'{"index":null,"hash":null}'
        for data in (b"", good + b"\n", good.ljust(128), good.ljust(126) + b"\n\n", b'{"index": null,"hash":null}'.ljust(127) + b"\n",
                     b'{"index":1,"hash":null}'.ljust(127) + b"\n", good.ljust(128) + b"\n", b'{"index":null}'.ljust(127) + b"\n"):
            write_mark(self.folder, None, data=data)
            self.found("Durable mark (1)", None)
        os.remove(os.path.join(self.folder, "durable"))
        self.found("Durable mark (1)", None)

    def test_without_a_mark_a_bad_line_is_damage(self):
        self.log.write(self.folder, mark=None, tail=b"{")
        self.found("Bad line (1)", 2)

    def test_mark_behind_the_last_segment(self):
        self.three()
        self.good(splits=[4], mark=3)
        self.bad("Durable mark (1)", 3, splits=[4], mark=2)
        self.bad("Durable mark (1)", 3, splits=[4], mark="null")

    def test_segments(self):
        self.three()
        self.good(splits=[2, 5])
        self.log.write(self.folder, splits=[2])
        os.rename(os.path.join(self.folder, "%020d.log" % 2), os.path.join(self.folder, "%020d.log" % 3))
        self.found("Segments (1)", 2)

    def test_empty_segment(self):
        self.three()
        open(os.path.join(self.folder, "%020d.log" % 5), "wb").close()
        self.good()
        open(os.path.join(self.folder, "%020d.log" % 6), "wb").close()
        self.found("Segments (1)", 5)

    def test_segment_is_missing(self):
        self.three()
        self.log.write(self.folder, splits=[2, 4])
        os.remove(os.path.join(self.folder, "%020d.log" % 2))
        self.found("Segments (1)", 2)

    def test_first_segment_has_another_name(self):
        self.log.write(self.folder)
        os.rename(os.path.join(self.folder, "%020d.log" % 0), os.path.join(self.folder, "%020d.log" % 1))
        self.found("Segments (1)", 0)

    def test_names(self):
        for name in ("lock", "readme", "1.log.tmp"):
            open(os.path.join(self.folder, name), "wb").close()
        self.good()
        open(os.path.join(self.folder, "1.log"), "wb").close()
        self.found("Folder (1)", None)

    def test_data_folder(self):
        for partition in (0, 1):
            os.mkdir(os.path.join(self.folder, str(partition)))
            Log(2, partition).write(os.path.join(self.folder, str(partition)))
        self.assertEqual(self.main(self.folder)[0], 0)
        Log(2, 0).write(os.path.join(self.folder, "1"))
        code, out = self.main(self.folder, "--json")
        self.assertEqual(code, 1)
        self.assertEqual([log["verdict"] for log in json.loads(out)["logs"]], ["clean", "violation"])

    def main(self, *arguments):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = arbiter_verify.main(list(arguments))
        return code, out.getvalue()

    def test_exit_codes(self):
        self.assertEqual(self.main(self.folder)[0], 65)
        self.assertEqual(self.main(os.path.join(self.folder, "none"))[0], 65)
        with self.assertRaises(SystemExit) as stop, contextlib.redirect_stderr(io.StringIO()):
            arbiter_verify.main([])
        self.assertEqual(stop.exception.code, 2)
        self.log.activate(rules=2)
        self.log.raw(b"{}")
        self.log.write(self.folder)
        code, out = self.main(self.folder)
        self.assertEqual((code, "cannot check from index 2" in out), (65, True), out)
        self.log = Log()
        self.log.add("barrier")
        self.log.write(self.folder)
        self.assertEqual((self.main(self.folder, "--quiet")), (0, ""))

    def test_chain_check(self):
        def run():
            return subprocess.run([sys.executable, os.path.join(HERE, "chain_check.py"), self.folder], stderr=subprocess.PIPE,
                                  stdout=subprocess.PIPE, universal_newlines=True)
        self.three()
        self.log.write(self.folder, splits=[3], tail=b"\0" * 99)
        self.assertEqual(run().returncode, 0)
        self.log.write(self.folder, splits=[3], tail=b"{}\n")
        self.assertIn("torn tail from %020d.log:3" % 3, run().stdout)
        self.log.lines[3] = self.log.lines[3].replace(b"barrier", b"finishh")
        self.log.write(self.folder, splits=[3], mark=5)
        self.assertIn("damage at index 4", run().stderr)


class Checkpoints(Case):
    def prepare(self, of=4, body=b'{"state":1}\n'):
        for _ in range(4):
            self.log.add("barrier")
        self.record = self.log.add("checkpoint", {"checkpoint": {"of": of, "hash": hashlib.sha256(body).hexdigest()}})
        self.log.add("barrier")
        with open(os.path.join(self.folder, "checkpoint-%020d.jsonl" % of), "wb") as file:
            file.write(body)
        offset = sum(map(len, self.log.lines[4:self.record]))
        manifest = {"of": of, "of_hash": self.log.hash_of(of), "after": {"segment": 4, "offset": len(self.log.lines[4])},
                    "index": self.record, "hash": self.log.hash_of(self.record), "position": {"segment": 4, "offset": offset},
                    "body_hash": hashlib.sha256(body).hexdigest()}
        self.manifest = os.path.join(self.folder, "checkpoint-%020d.manifest" % of)
        with open(self.manifest, "w") as file:
            file.write(json.dumps(manifest) + "\n")

    def remove_first(self):
        os.remove(os.path.join(self.folder, "%020d.log" % 0))

    def test_start_at_a_checkpoint(self):
        self.prepare()
        self.assertEqual(self.good(splits=[4])["notes"], [])
        self.remove_first()
        code, report = self.verify()
        self.assertEqual((code, report["records"], report["live"]), (0, 4, None), report)
        self.assertIn("starts at index 4", report["notes"][0])
        os.remove(self.manifest)
        self.found("Chain", 4)

    def test_rules_without_state_after_a_start(self):
        self.prepare()
        self.log.add("barrier", {"closed": {}})
        self.log.write(self.folder, splits=[4])
        self.remove_first()
        self.found("Commands and events", 8)

    def test_body(self):
        self.prepare()
        with open(os.path.join(self.folder, "checkpoint-%020d.jsonl" % 4), "ab") as file:
            file.write(b"x")
        self.bad("Checkpoint", self.record, splits=[4])
        self.remove_first()
        self.found("Chain", 4)

    def test_mark_below_the_manifest(self):
        self.prepare()
        self.bad("Durable mark (1)", self.record, splits=[4], mark=5)

    def test_of(self):
        self.log.add("checkpoint", {"checkpoint": {"of": 2, "hash": ZERO}})
        self.bad("Checkpoint")
        self.log = Log(first=5)
        self.log.add("checkpoint", {"checkpoint": {"of": 4, "hash": ZERO}})
        self.bad("Checkpoint")


class Chain(Case):
    """Sections 3 and 7."""

    def test_prev_and_index(self):
        for change in ({"prev": ZERO}, {"index": 3}, {"index": 1}):
            self.log = Log()
            self.log.add("barrier", **change)
            self.bad_line()

    def test_genesis(self):
        self.bad("Chain", 0, Log(epoch=False, format=2))
        self.bad("Chain", 0, Log(epoch=False, partition=1))
        self.bad("Chain", 7, Log(first=7, epoch=False, after=[{"log_id": ID, "index": 7, "hash": ZERO}]))
        self.bad("Bad line (1)", 0, Log(epoch=False, first_index=1))
        self.log.add("create", {"genesis": {"format": 1, "log_id": ID, "partition": 0, "partitions": 1, "first_index": 2, "after": []}})
        self.bad("Chain")
        log = Log(epoch=False)
        log.lines[0] = log.lines[0].replace(b'"epoch":0', b'"epoch":1')
        self.bad("Chain", 0, log)
        log.lines[0] = log.lines[0].replace(b'"create"', b'"barrier"')
        self.bad("Chain", 0, log)

    def test_epochs(self):
        log = Log(epoch=False)
        log.add("barrier")
        self.bad("Chain", log=log)
        for change in (dict(epoch=2), dict(epoch=0)):
            self.log = Log()
            self.log.add("barrier", **change)
            self.bad("Chain")
        self.log = Log()
        self.log.epoch = 2
        self.log.activate()
        self.bad("Chain")
        self.log = Log()
        self.log.epoch = 2
        self.log.add("activate", {"epoch_started": {"epoch": 2, "incarnation": "%032x" % 1, "rules": 1}})
        self.bad("Chain")
        self.log = Log()
        self.log.epoch = 2
        self.log.add("activate", {"epoch_started": {"epoch": 2, "incarnation": ID, "rules": 0}})
        self.bad("Chain")
        self.log = Log()
        self.log.add("activate", {"epoch_started": {"epoch": 3, "incarnation": ID, "rules": 1}}, epoch=2)
        self.bad("Chain")

    def test_time(self):
        self.log.add("barrier", ms=self.log.ms)
        self.good()
        self.log.add("barrier", ms=self.log.ms - 1)
        self.bad("Chain")

    def test_closed(self):
        self.log.add("finish", {"closed": {"next": ID}})
        self.good(tail=b"\0\0")
        self.log.add("barrier")
        self.bad("Chain")


class Rules(Case):
    """Section 7, rule by rule. Each test ends with the record that is refused."""

    def setUp(self):
        Case.setUp(self)
        self.a, self.b = self.log.open(), self.log.open()

    def again(self, *rules):
        self.log = Log()
        if rules:
            self.log.policy(*rules)
        self.a, self.b = self.log.open(), self.log.open()
        return self.log

    FIT = "Commands and events"

    def test_events_that_the_command_does_not_allow(self):
        closed, paused = {"closed": {}}, {"paused": {"by": "", "reason": ""}}
        for command, events in (("barrier", [closed]), ("finish", []), ("finish", [closed, closed]), ("policy", []), ("advance", []),
                                ("checkpoint", [closed]), ({"pause": {"reason": "", "by": ""}}, [paused, paused]),
                                ({"resume": {"reason": "", "by": ""}}, [paused]), ({"tick": {"at": at_text(0)}}, [closed]),
                                ({"close": {"session": 2}}, [session_ended(2, "lease_expired")]),
                                ({"acquire": {"session": 2, "seq": 1, "claims": [claim()]}}, []),
                                ({"cancel": {"session": 2, "seq": 1}}, [ended(2, 1, "policy")]),
                                ({"force_release": {"resource": "r", "token": 1, "reason": "", "by": ""}}, [released(1, "forced", by="")]),
                                ({"force_release": {"resource": "r", "token": 1, "reason": "", "by": "", "now": True}}, [revoking(1, 0, "forced", by="")]),
                                ({"gone": {"session": 2, "n": 0, "cause": "closed"}}, [{"unreachable": {"session": 2, "n": 0}}])):
            with self.subTest(command=command):
                self.again().add(command, *events)
                self.bad(self.FIT)

    def test_commands_without_effect(self):
        for command in ({"close": {"session": 99}}, {"release": {"session": 99, "token": 1}}, {"tick": {"at": at_text(20)}},
                        {"gone": {"session": 9, "n": 0, "cause": "closed"}}, {"cancel": {"session": 9, "seq": 1}}):
            self.log.add(command)
        self.good()

    def test_command_and_event_speak_of_the_same(self):
        for change in (dict(key_hash=ZERO), dict(label="x"), dict(principal="x"), dict(principal_by="unix_peer"), dict(fail_fast_ms=100),
                       dict(reply_to="x"), dict(lease_ms=LEASE + 1)):
            self.again().open(change=change)
            self.bad(self.FIT)
        for change in (dict(session=self.b), dict(seq=2), dict(claims=[claim("s")]), dict(priority=1), dict(hold_max_ms=1), dict(wait_ms=1), dict(reason="x"), dict(value="x")):
            self.again().queue(self.a, 1, change=change)
            self.bad(self.FIT)
        self.again().queue(self.a, 1, [claim("x"), claim("y")], change=dict(claims=[claim("y"), claim("x")]))
        self.bad(self.FIT)
        self.again().grant(self.a, 1, hold_max_ms=50, change=dict(hold_max_ms=51))
        self.bad(self.FIT)
        self.again().add({"attach": {"session": self.a, "n": 1}}, {"attached": {"session": self.a, "n": 2}})
        self.bad(self.FIT)
        self.again().add({"close": {"session": self.a}}, session_ended(self.b, "closed"))
        self.bad(self.FIT)
        self.again().add({"pause": {"reason": "", "by": "x"}}, {"paused": {"by": "y", "reason": ""}})
        self.bad(self.FIT)
        self.again().add({"cancel": {"session": self.a, "seq": 1}}, ended(self.a, 2, "cancelled"))
        self.bad(self.FIT)

    def test_release_is_the_sessions(self):
        token = self.log.grant(self.a, 1)
        self.log.release(self.b, token)
        self.bad(self.FIT)
        token = self.again().grant(self.a, 1)
        self.log.add({"cancel": {"session": self.a, "seq": 2}}, released(token, "cancelled"))
        self.bad(self.FIT)
        token = self.again().grant(self.a, 1)
        self.log.release(self.a, token, "cancelled")
        self.bad(self.FIT)

    def test_sessions(self):
        self.log.grant(99, 1)
        self.bad("Sessions")
        self.again().add({"close": {"session": self.a}}, session_ended(self.a, "closed"))
        self.log.queue(self.a, 1)
        self.bad("Sessions")
        self.again().attach(self.a, 1)
        self.log.attach(self.a, 1)
        self.bad("Sessions")
        self.again().attach(self.a, 0)
        self.bad("Sessions")

    def test_opened(self):
        self.log.open(key_hash=json.loads(self.log.lines[self.a].decode())["command"]["open"]["key_hash"])
        self.bad("Sessions")
        for lease in (100, 101):
            self.log = Log()
            self.log.add("policy", {"policy": {"sessions_max": 1, "in_flight_max": 1, "lease_ms_max": 50, "rules": []}})
            self.log.open(lease=lease)
            self.good() if lease == 100 else self.bad("Sessions")

    def test_resumed_only_while_paused(self):
        self.log.add({"resume": {"reason": "", "by": ""}}, {"resumed": {"by": "", "reason": ""}})
        self.bad(self.FIT)

    def test_hold_max_is_the_smallest(self):
        rules = {"pattern": "x", "hold_max_ms": 70}, {"pattern": "y", "hold_max_ms": 60}
        for hold, right in ((60, True), (70, False), (80, False), (50, False), (None, False)):
            self.again(*rules).grant(self.a, 1, [claim("x"), claim("y")], change=hold and {"hold_max_ms": hold})
            self.good() if right else self.bad(self.FIT)
        self.again(*rules).grant(self.a, 1, [claim("x")], hold_max_ms=70)
        self.log.queue(self.b, 1, [claim("x")], hold_max_ms=90)
        self.log.release(self.a, self.log.index - 1)
        self.log.advance(self.b, 1, [claim("x")], hold_max_ms=90)
        self.bad(self.FIT)

    def test_tokens(self):
        token = self.log.grant(self.a, 1)
        self.log.release(self.a, token)
        self.log.release(self.a, token)
        self.bad("Tokens")
        self.again().revoke(3)
        self.bad("Tokens")
        self.again().suspend(self.a, 1, 3)
        self.bad("Tokens")

    def test_once(self):
        self.log.refuse(self.a, 7)
        self.log.refuse(self.a, 4)
        self.log.refuse(self.a, 5)
        self.log.refuse(self.a, 4)
        self.bad("Once")
        self.again().refuse(self.a, 7)
        self.log.refuse(self.a, 3)
        self.bad("Once")
        self.again().grant(self.a, 1)
        self.log.add({"cancel": {"session": self.a, "seq": 1}}, ended(self.a, 1, "cancelled"))
        self.bad("Once")
        for seq in range(40):
            self.again().refuse(self.a, 50 + seq) if not seq else self.log.refuse(self.a, 50 + seq)
        self.log.refuse(self.a, 88)
        self.bad("Once")

    def test_in_flight(self):
        for seq in range(4):
            self.log.grant(self.a, seq, [claim(str(seq))])
        self.log.queue(self.a, 4, [claim("0")])
        self.bad("Once")

    def test_advance_grants_what_waits(self):
        self.log.advance(self.a, 1)
        self.bad("Once")
        token = self.again().grant(self.a, 1)
        self.log.queue(self.b, 1, reason="x")
        self.log.release(self.a, token)
        self.log.advance(self.b, 1)
        self.bad(self.FIT)
        token = self.again().grant(self.a, 1)
        self.log.queue(self.b, 1)
        self.log.release(self.a, token)
        self.log.advance(self.b, 1, [claim(mode="shared")])
        self.bad(self.FIT)

    def test_exclusion(self):
        for first, second in (("exclusive", "exclusive"), ("exclusive", "shared"), ("shared", "exclusive"), ("shared", "permits"),
                              ("permits", "permits"), ("permits", "shared"), ("permits", "exclusive")):
            self.again()
            token = self.log.grant(self.a, 1, [claim("r", first, 1 if first == "permits" else None)])
            self.log.grant(self.b, 1, [claim("r", second, 1 if second == "permits" else None)], floor=token)
            self.bad("Exclusion")
        self.again({"pattern": "r", "capacity": 3})
        token = self.log.grant(self.a, 1, [claim("r", "permits", 2)], capacity=3)
        self.log.grant(self.b, 1, [claim("r", "permits", 1)], capacity=3, floor=token)
        self.log.grant(self.b, 2, [claim("r", "permits", 1)], capacity=3, floor=token)
        self.bad("Exclusion")

    def test_a_revoked_grant_still_excludes(self):
        token = self.log.grant(self.a, 1)
        self.log.revoke(token)
        self.log.grant(self.b, 1, floor=token)
        self.bad("Exclusion")

    def test_capacity_and_floor(self):
        self.log.grant(self.a, 1, capacity=2)
        self.bad("Exclusion")
        token = self.again().grant(self.a, 1, [claim(mode="shared")])
        self.log.grant(self.b, 1, [claim(mode="shared")])
        self.bad("Exclusion")
        token = self.again().grant(self.a, 1, [claim(mode="shared")])
        other = self.log.grant(self.b, 1, [claim(mode="shared")], floor=token)
        self.log.release(self.a, token)
        self.log.grant(self.a, 2, [claim(mode="shared")], floor=other)
        self.good()

    def test_admission_passes_nobody_by(self):
        token = self.log.grant(self.a, 1, [claim(mode="shared")])
        self.log.queue(self.b, 1)
        self.log.grant(self.a, 2, [claim(mode="shared")], floor=token)
        self.bad("Admission")
        token = self.again().grant(self.a, 1, [claim(mode="shared")])
        self.log.queue(self.b, 1)
        self.log.grant(self.a, 2, [claim(mode="shared")], floor=token, priority=1)
        self.good()
        self.again().grant(self.a, 1)  # a waiter on two resources counts on the free one, too
        self.log.queue(self.b, 1, [claim("s"), claim("r")])
        self.log.grant(self.a, 2, [claim("s")])
        self.bad("Admission")

    def test_admission_order(self):
        token = self.log.grant(self.a, 1)
        self.log.queue(self.b, 1)
        self.log.queue(self.b, 2, priority=5)
        self.log.release(self.a, token)
        self.log.advance(self.b, 1)
        self.bad("Admission")
        token = self.again().grant(self.a, 1, [claim("x"), claim("y")])
        self.log.queue(self.b, 1, [claim("x")])
        self.log.queue(self.b, 2, [claim("y")])
        self.log.release(self.a, token)
        self.log.advance(self.b, 2, [claim("y")])
        self.bad("Admission")

    def test_admission_of_the_suspended_and_the_paused(self):
        token = self.log.grant(self.a, 1)
        self.log.suspend(self.a, 1, token)
        self.log.advance(self.a, 1)
        self.bad("Admission")
        self.again().pause()
        self.log.grant(self.a, 1)
        self.bad("Admission")
        token = self.again().grant(self.a, 1)
        self.log.suspend(self.a, 1, token)
        self.log.grant(self.b, 1)  # the suspended does not count
        self.good()

    def test_suspended_in_its_old_place(self):
        self.log.grant(self.a, 1)
        self.log.suspend(self.a, 1, self.log.index)
        token = self.log.grant(self.b, 1)
        self.log.queue(self.b, 2)
        self.log.attach(self.a, 1)
        self.log.release(self.b, token)
        self.log.advance(self.b, 2)
        self.bad("Admission")

    def test_admission_allowed(self):
        self.again({"pattern": "r", "allow": ["uid:1"]}).grant(self.a, 1)
        self.bad("Admission")

    def delay(self):
        self.again({"pattern": "r", "lock_delay_ms": 1000})
        token = self.log.grant(self.a, 1)
        self.log.force(token, released(token, "forced", by="uid:0"), delayed("r", self.log.ms + 1010), now=True)

    def test_admission_delayed(self):
        self.delay()
        self.log.grant(self.b, 1, ms=self.log.ms + 999)
        self.bad("Admission")
        self.delay()
        self.log.grant(self.b, 1, ms=self.log.ms + 1000)
        self.good()
        self.delay()
        self.log.queue(self.b, 1)
        self.log.advance(self.b, 1, ms=self.log.ms + 990)
        self.good()
        self.delay()
        self.log.activate(ms=self.log.ms + 2000)  # an epoch begins the delay anew
        self.log.grant(self.b, 1, ms=self.log.ms + 999)
        self.bad("Admission")

    def test_advance(self):
        for command in ("barrier", "policy", "epoch, then barrier"):
            token = self.again().grant(self.a, 1)
            self.log.queue(self.b, 1)
            self.log.release(self.a, token)
            if command == "policy":
                self.log.policy()
            elif command == "barrier":
                self.log.add("barrier")
            else:
                self.log.activate()
                self.log.add("barrier")
            self.bad("Advance")
        self.again().queue(self.a, 1)
        self.log.add("barrier")
        self.bad("Advance")
        self.again().pause()
        self.log.queue(self.a, 1)
        self.log.add({"resume": {"reason": "", "by": ""}}, {"resumed": {"by": "", "reason": ""}})
        self.log.add("barrier")
        self.bad("Advance")
        self.again({"pattern": "r", "allow": []}).queue(self.a, 1)
        self.log.policy()
        self.log.add("barrier")
        self.bad("Advance")

    def test_ended_by_policy(self):
        self.log.queue(self.a, 1, [claim("r", "permits", 2)])
        self.log.queue(self.b, 1, [claim("s"), claim("r")])
        self.log.add("advance", ended(self.b, 1, "policy"))
        self.bad("Advance")
        self.again({"pattern": "s", "allow": []}).queue(self.a, 1, [claim("r", "permits", 2)])
        self.log.queue(self.b, 1, [claim("s"), claim("r")])
        self.log.add("advance", ended(self.a, 1, "policy"))
        self.log.add("advance", ended(self.b, 1, "policy"))
        self.good()
        self.log.add("advance", ended(self.a, 2, "policy"))
        self.bad("Advance")
        self.again({"pattern": "s", "allow": []}).grant(self.a, 1)
        self.log.queue(self.b, 1, [claim("s"), claim("r")])
        self.log.add("advance", ended(self.b, 1, "policy"))  # r is held: it is not its turn
        self.bad("Advance")
        token = self.again().grant(self.a, 1)
        self.log.queue(self.b, 1)
        self.log.release(self.a, token)
        self.log.add("advance", ended(self.b, 1, "policy"))
        self.bad("Advance")
        self.again().pause()
        self.log.queue(self.b, 1, [claim("r", "permits", 2)])
        self.log.add("advance", ended(self.b, 1, "policy"))
        self.bad("Advance")

    def test_time_of_a_tick(self):
        self.log.tick(asked=self.log.ms + 11)
        self.bad("Time")
        self.again().activate()
        self.log.tick(asked=self.log.ms - 1)
        self.bad("Time")
        self.again()
        due = self.log.ms + LEASE  # of b; that of a is 10 ms before
        self.log.add("barrier", renewed=[[self.a, 1]])
        self.log.tick(session_ended(self.b, "lease_expired"), ms=due)
        self.good()
        self.log.tick(session_ended(self.a, "lease_expired"), ms=due + 9)
        self.bad("Time")
        self.again().tick(session_ended(self.b, "lease_expired"), ms=due + 99, asked=due - 1)
        self.bad("Time")
        self.again().tick(session_ended(self.b, "fail_fast"), ms=due + 99)
        self.bad("Time")
        self.again().grant(self.a, 1)
        self.log.queue(self.b, 1)
        self.log.tick(ended(self.b, 1, "wait_limit"), ms=self.log.ms + 9999)
        self.bad("Time")
        self.again().grant(self.a, 1)
        self.log.queue(self.b, 1, wait_ms=50)
        self.log.tick(ended(self.b, 1, "wait_limit"), ms=self.log.ms + 49)
        self.bad("Time")

    def test_an_epoch_moves_deadlines(self):
        for early in (0, 1):
            self.again().grant(self.a, 1)
            self.log.queue(self.b, 1, wait_ms=500)
            due = self.log.ms + 500 + 3000
            self.log.activate(ms=self.log.ms + 3000)
            self.log.tick(ended(self.b, 1, "wait_limit"), ms=due - early)
            self.bad("Time") if early else self.good()

    def test_hold_limit(self):
        for early in (1, 0):
            token = self.again().grant(self.a, 1, hold_max_ms=50)
            self.log.tick(revoking(token, self.log.ms + 50 - early + LEASE), ms=self.log.ms + 50 - early)
            self.bad("Time") if early else self.good()
        self.log.tick(revoking(token, self.log.ms + 10 + LEASE))
        self.bad("Time")
        token = self.again().grant(self.a, 1, hold_max_ms=50)
        self.log.tick(revoking(token, self.log.ms + 50 + LEASE), ms=self.log.ms + 50)
        self.log.add("barrier", ms=self.log.ms + 100, renewed=[[self.a, 1]])
        self.log.tick(released(token, "hold_limit"), ms=self.log.ms + LEASE - 101)
        self.bad("Time")

    def test_tick_releases_only_the_revoked(self):
        token = self.log.grant(self.a, 1)
        self.log.tick(released(token, "forced", by="uid:0"))
        self.bad("Time")

    def test_order_of_a_tick(self):
        self.log.grant(self.a, 1)
        self.log.queue(self.a, 2, wait_ms=1)
        self.log.tick(ended(self.a, 2, "wait_limit"), session_ended(self.b, "lease_expired"), ms=LEASE * 2)
        self.bad("Time")

    def test_at_most_256(self):
        for count in (256, 257):
            self.again()
            sessions = [self.log.open() for _ in range(257)]
            self.log.tick(*[session_ended(number, "lease_expired") for number in sessions[:count]], ms=LEASE * 2)
            self.good() if count == 256 else self.bad("Time")

    def test_revocation(self):
        for more in (dict(until=1), dict(by="uid:1"), dict(reason="hold_limit")):
            token = self.again().grant(self.a, 1)
            self.log.revoke(token, **more)
            self.bad(self.FIT if "until" not in more else "Revocation")
        token = self.again().grant(self.a, 1)
        self.log.force(token, revoking(token, self.log.ms + 10 + LEASE, "forced", by="uid:0"), resource="s")
        self.bad("Revocation")
        token = self.again().grant(self.a, 1)
        self.log.force(token, released(token, "forced", by="uid:0"), resource="s", now=True)
        self.bad("Revocation")
        for reason, by in (("released", {}), ("hold_limit", {}), ("forced", {"by": "uid:1"}), ("forced", {}), ("forced", {"by": "uid:0"})):
            token = self.again().grant(self.a, 1)
            self.log.revoke(token)
            self.log.release(self.a, token, reason, **by)
            self.good() if by == {"by": "uid:0"} else self.bad("Revocation")

    def test_by_goes_with_forced(self):
        token = self.log.grant(self.a, 1, hold_max_ms=50)
        self.log.tick(revoking(token, self.log.ms + 50 + LEASE, by="uid:0"), ms=self.log.ms + 50)
        self.bad("Revocation")
        token = self.again().grant(self.a, 1)
        self.log.force(token, released(token, "forced"), now=True)
        self.bad("Revocation")

    def test_revocation_by_tick(self):
        token = self.log.grant(self.a, 1)
        self.log.revoke(token)
        until = self.log.ms + LEASE
        self.log.add("barrier", ms=until - 5, renewed=[[self.a, 1], [self.b, 1]])
        self.log.tick(released(token, "forced", by="uid:0"), ms=until)
        self.good()
        self.log.lines[-1] = self.log.lines[-1].replace(b'"forced","by":"uid:0"', b'"hold_limit"')
        self.bad("Revocation", self.log.index)

    def test_suspension(self):
        token = self.log.grant(self.a, 1)
        self.log.suspend(self.b, 1, token)
        self.bad("Suspension")
        token = self.again().grant(self.a, 1)
        self.log.suspend(self.a, 1, token, n=1)
        self.bad("Suspension")
        token = self.again().grant(self.a, 1)
        self.log.gone(self.a, 0, {"suspended": {"session": self.a, "seq": 1, "token": token}})
        self.bad("Suspension")
        token = self.again().grant(self.a, 1)
        self.log.gone(self.a, 0, {"unreachable": {"session": self.a, "n": 0}}, seq=1, ms=LEASE * 2)
        self.bad("Suspension")
        token = self.again().grant(self.a, 1)
        self.log.activate()
        self.log.suspend(self.a, 1, token)
        self.bad("Suspension")
        token = self.again().grant(self.a, 1)
        self.log.revoke(token)
        self.log.gone(self.a, 0, {"unreachable": {"session": self.a, "n": 0}}, seq=1, ms=LEASE * 2)
        self.good()
        token = self.again().grant(self.a, 1)
        self.log.revoke(token)
        self.log.suspend(self.a, 1, token)
        self.bad("Suspension")
        self.again().grant(self.a, 1)
        token = self.log.grant(self.a, 2, [claim("s")])
        self.log.gone(self.a, 0, {"suspended": {"session": self.a, "seq": 2, "token": token}}, seq=1)
        self.bad("Suspension")
        self.again().gone(self.a, 1, session_ended(self.a, "connection_closed"), cause="closed")
        self.bad("Suspension")

    def test_unreachable(self):
        away = {"unreachable": {"session": self.a, "n": 0}}
        self.log.gone(self.a, 0, away, ms=LEASE + 9)  # the epoch began at 10 ms or later
        self.bad("Suspension")
        for between in ("nothing", "renewed", "attach", "epoch"):
            self.again().gone(self.a, 0, away, ms=LEASE * 2)
            if between == "renewed":
                self.log.add("barrier", renewed=[[self.a, 1]])
            elif between == "attach":
                self.log.attach(self.a, 1)
            elif between == "epoch":
                self.log.activate()
                self.log.add("barrier", ms=self.log.ms + LEASE)
            n = 1 if between == "attach" else 0
            self.log.gone(self.a, n, {"unreachable": {"session": self.a, "n": n}})
            self.bad("Suspension") if between == "nothing" else self.good()
        self.again().gone(self.a, 3, {"unreachable": {"session": self.a, "n": 3}}, ms=LEASE * 2)
        self.bad("Suspension")

    def test_delay(self):
        rule = {"pattern": "r", "lock_delay_ms": 1000}
        for extra in ([], [delayed("r", 5)], [delayed("s", LEASE * 2 + 1000)], [delayed("r", LEASE * 2 + 1000)] * 2):
            self.again(rule).grant(self.a, 1)
            self.log.tick(session_ended(self.a, "lease_expired"), *extra, ms=LEASE * 2)
            self.bad("Delay")
        self.again(rule).grant(self.a, 1)
        self.log.tick(delayed("r", LEASE * 2 + 1000), session_ended(self.a, "lease_expired"), ms=LEASE * 2)
        self.bad("Delay")
        token = self.again(rule).grant(self.a, 1)
        self.log.release(self.a, token)
        self.log.add({"close": {"session": self.a}}, session_ended(self.a, "closed"))
        self.good()

    def test_at_most_1024_delayed(self):
        for count, right in ((1023, False), (1024, True), (1025, False)):
            self.again({"pattern": "*", "lock_delay_ms": 1000})
            a = self.log.open(in_flight=20)
            names = [str(number) for number in range(17 * 64)]
            for seq in range(17):
                self.log.grant(a, seq, [claim(name) for name in names[seq * 64:seq * 64 + 64]])
            self.log.tick(session_ended(a, "lease_expired"), *[delayed(n, LEASE * 2 + 1000) for n in names[:count]], ms=LEASE * 2)
            self.good() if right else self.bad("Delay")

    def test_partition(self):
        for partition in range(4):
            self.log = Log(4, partition)
            self.a = self.log.open()
            self.log.grant(self.a, 1, [claim("{order-7}/stock")])
            self.good() if partition == 2 else self.bad("Partition")
            self.log = Log(4, partition)
            self.log.queue(self.log.open(), 1, [claim("a{b")])
            self.good() if partition == 0 else self.bad("Partition")


class Arbiter:
    """A plain arbiter on the definitions of section 6, recomputing everything at each step. Small and slow."""

    def __init__(self, seed):
        self.random, self.log = random.Random(seed), Log()
        self.rules = [{"pattern": "p*", "capacity": 3}, {"pattern": "d*", "lock_delay_ms": 40, "allow": ["anonymous"]}]
        self.log.policy(*self.rules)
        self.sessions = [self.log.open(in_flight=6) for _ in range(5)]
        self.seq = {session: 0 for session in self.sessions}
        self.attached = dict(self.seq)
        self.held, self.waiting, self.delays = [], [], {}  # requests as dicts
        self.paused = False

    def capacity(self, resource):
        return 3 if resource[0] == "p" else 1

    def fits(self, request, now):
        for one in request["claims"]:
            others = [c for other in self.held + [w for w in self.waiting if not w["suspended"] and w["order"] < request["order"]]
                      for c in other["claims"] if c["resource"] == one["resource"]]
            modes = {c["mode"] for c in others}
            if self.delays.get(one["resource"], -1) > now:
                return False
            if one["mode"] == "exclusive" and others or one["mode"] != "exclusive" and not modes <= {one["mode"]}:
                return False
            if one["mode"] == "permits" and sum(c["permits"] for c in others) + one["permits"] > self.capacity(one["resource"]):
                return False
        return not self.paused

    def give(self, request):
        token = self.log.index + 1
        result = []
        for one in request["claims"]:
            floor = min([h["token"] for h in self.held for c in h["claims"] if c["resource"] == one["resource"]] + [token])
            result.append(dict(one, capacity=self.capacity(one["resource"]), floor=floor))
        request["token"] = token
        self.held.append(request)
        return {"granted": dict({"session": request["session"], "seq": request["seq"], "claims": result}, **request["more"])}

    def step(self):
        log, rnd = self.log, self.random
        now = log.ms + rnd.choice((0, 1, 10, 25))
        able = sorted((w for w in self.waiting if not w["suspended"] and self.fits(w, log.ms)), key=lambda w: w["order"])
        if able:
            first = min((w for w in self.waiting if not w["suspended"] and self.fits(w, now)), key=lambda w: w["order"])
            self.waiting.remove(first)
            log.add("advance", self.give(first), ms=now)
            return
        session, what = rnd.choice(self.sessions), rnd.random()
        mine = [h for h in self.held if h["session"] == session]
        if what < 0.5 and len([r for r in self.held + self.waiting if r["session"] == session]) < 6:
            self.seq[session] += 1
            claims = []
            for resource in rnd.sample(("r1", "r2", "p1", "p2", "d1"), rnd.randint(1, 3)):
                mode = rnd.choice(("permits", "shared") if resource[0] == "p" else ("exclusive", "shared"))
                claims.append(claim(resource, mode, rnd.randint(1, 3) if mode == "permits" else None))
            priority = rnd.choice((0, 0, 0, 4))
            request = {"session": session, "seq": self.seq[session], "claims": claims, "suspended": False,
                       "order": (-priority, log.index + 1), "more": {"priority": priority} if priority else {}}
            asked = dict({"session": session, "seq": request["seq"], "claims": claims}, **request["more"])
            if self.fits(request, now):
                log.add({"acquire": asked}, self.give(request), ms=now)
            else:
                self.waiting.append(request)
                log.add({"acquire": asked}, {"queued": dict(asked, priority=priority)}, ms=now)
        elif what < 0.7 and mine:
            grant = rnd.choice(mine)
            self.held.remove(grant)
            log.ms = now - 10
            log.release(session, grant["token"])
        elif what < 0.8 and mine:
            grant = rnd.choice(mine)
            self.held.remove(grant)
            names = [c["resource"] for c in grant["claims"]]
            if "d1" in names:
                self.delays["d1"] = now + 40
            log.force(grant["token"], released(grant["token"], "forced", by="uid:0"),
                      *[delayed("d1", now + 40)] * ("d1" in names), resource=names[0], ms=now, now=True)
        elif what < 0.87 and mine:
            grant = rnd.choice(mine)
            self.held.remove(grant)
            grant["suspended"] = True
            self.waiting.append(grant)
            log.ms = now - 10
            log.suspend(session, grant["seq"], grant["token"], self.attached[session])
        elif what < 0.93:
            for request in self.waiting:
                request["suspended"] = request["suspended"] and request["session"] != session
            self.attached[session] += 1
            log.ms = now - 10
            log.attach(session, self.attached[session])
        elif what < 0.96:
            word = "resume" if self.paused else "pause"
            self.paused = not self.paused
            log.add({word: {"reason": "", "by": ""}}, {word + "d": {"by": "", "reason": ""}}, ms=now)
        else:
            waits = [w for w in self.waiting if w["session"] == session]
            if waits:
                self.waiting.remove(waits[0])
                log.add({"cancel": {"session": session, "seq": waits[0]["seq"]}}, ended(session, waits[0]["seq"], "cancelled"), ms=now)


class Randomly(Case):
    def test_agrees_with_the_plain_arbiter(self):
        for seed in range(12):
            arbiter = Arbiter(seed)
            for _ in range(500):
                arbiter.step()
            with self.subTest(seed=seed):
                report = self.good(arbiter.log)
                self.assertEqual((report["live"]["held"], report["live"]["waiting"]), (len(arbiter.held), len(arbiter.waiting)))

    def test_a_flipped_bit_never_passes(self):
        """Below the durable mark every changed byte is found, at its line or where the next line does not fit."""
        arbiter, rnd = Arbiter(99), random.Random(1)
        for _ in range(30):
            arbiter.step()
        log, lines = arbiter.log, list(arbiter.log.lines)
        for _ in range(150):
            index = rnd.randrange(len(lines))
            line = bytearray(lines[index])
            line[rnd.randrange(len(line))] ^= 1 << rnd.randrange(8)
            log.lines = lines[:index] + [bytes(line)] + lines[index + 1:]
            log.write(self.folder, mark="null")
            write_mark(self.folder, log.index, digest=hashlib.sha256(lines[-1][:-1]).hexdigest())
            code, report = self.verify()
            self.assertEqual(code, 1, report)
            self.assertIn(report["violation"]["index"], (index, index + 1))


class Golden(unittest.TestCase):
    def test_golden_log(self):
        self.assertTrue(os.path.isdir(GOLDEN), "client/protocol/golden/log is missing")
        partitions = sorted(glob.glob(os.path.join(GOLDEN, "[0-9]*")))
        self.assertTrue(partitions)
        for folder in partitions:
            code, report = arbiter_verify.verify(folder, int(os.path.basename(folder)))
            self.assertEqual(code, 0, report)
            self.assertEqual(report["notes"], [])


if __name__ == "__main__":
    unittest.main()
