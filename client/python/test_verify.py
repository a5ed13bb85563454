"""Tests of the verifier: logs written here from the format document, and for each rule one that breaks it.

    python3 client/python/test_verify.py

runs all of them; those in this file are about good logs. The others are in the files `test_*.py` beside it.
"""
import glob
import hashlib
import json
import os
import re
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from log_writer import (ID, LEASE, PROTOCOL, ZERO, Case, Log, at_text, claim, delayed, ended, released,  # noqa: E402
                        revoking, session_ended)

import arbiter_rules  # noqa: E402
import arbiter_verify  # noqa: E402

GOLDEN = os.path.join(PROTOCOL, "golden", "log")


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

    def test_a_delay_is_said_though_an_earlier_one_ends_later(self):
        for again in (True, False):
            log = Log()
            log.policy({"pattern": "*", "lock_delay_ms": 1000})
            a, b = log.open(), log.open()
            one = log.grant(a, 1, [claim(mode="shared")])
            two = log.grant(b, 1, [claim(mode="shared")], floor=one)
            log.force(one, released(one, "forced", by="uid:0"), delayed("r", log.ms + 1010), now=True)
            log.policy({"pattern": "*", "lock_delay_ms": 100})
            log.force(two, released(two, "forced", by="uid:0"), *[delayed("r", log.ms + 110)] * again, now=True)
            self.good(log) if again else self.bad("Delay", log=log)


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
    unittest.main(module=None, argv=[sys.argv[0], "discover", "-s", HERE] + sys.argv[1:])
