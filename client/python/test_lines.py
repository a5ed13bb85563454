"""What makes a line no record (log.md section 2)."""
import unittest

from log_writer import Case, Log, claim

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
                   (b'"barrier"', b'"barrier","renewed":null'), (b'"barrier"', b'"barrier","events":null'), (b'{"index"', b' {"index"'),
                   (b'"barrier"', b'"barrier","renewed":[[3,1],[3,2]]'), (b'"barrier"', b'"barrier","renewed":[[4,1],[3,2]]'),
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

    def test_bounds_of_a_policy(self):
        rule = {"pattern": "*", "capacity": 1000000, "hold_max_ms": 31622400000, "waiters_max": 10000000, "lock_delay_ms": 31622400000,
                "allow": []}
        self.log.policy(rule, *[{"pattern": "x", "lock_delay_ms": 0, "waiters_max": 0}] * 999, in_flight=4096, lease=100)
        self.good()
        wrong = [dict(capacity=0), dict(capacity=1000001), dict(hold_max_ms=0), dict(hold_max_ms=31622400001), dict(waiters_max=10000001),
                 dict(lock_delay_ms=31622400001), dict(pattern=""), dict(pattern="x" * 257), dict(allow=None), dict(allow=[1])]
        for change in wrong:
            with self.subTest(change=str(change)[:60]):
                self.log = Log()
                self.log.policy(dict(rule, **change))
                self.bad_line()
        for change in (dict(in_flight=0), dict(in_flight=4097), dict(lease=99), dict(lease=86400001)):
            self.log = Log()
            self.log.policy(**change)
            self.bad_line()
        self.log = Log()
        self.log.policy(*[{"pattern": "x"}] * 1001)
        self.bad_line()

    def test_half_a_surrogate_pair(self):
        self.log.open(label="XX")
        self.log.lines[-1] = self.log.lines[-1].replace(b"XX", b"\\ud800")
        self.bad_line()


if __name__ == "__main__":
    unittest.main()
