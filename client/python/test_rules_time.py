"""Section 7, rule by rule: time, revocation, suspension, delay, partition. Each test ends with the record that is refused."""
import unittest

from log_writer import LEASE, Log, RulesCase, claim, delayed, ended, released, revoking, session_ended

class Time(RulesCase):
    """Time, Revocation, Suspension, Delay, Partition."""

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
        self.bad("Revocation")
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

    def test_a_revocation_is_not_replaced(self):
        token = self.log.grant(self.a, 1, hold_max_ms=50)
        self.log.tick(revoking(token, self.log.ms + 50 + LEASE), ms=self.log.ms + 50)
        self.log.revoke(token)
        self.bad("Revocation")
        token = self.again().grant(self.a, 1)
        self.log.revoke(token)
        self.log.force(token, released(token, "forced", by="uid:0"), now=True)
        self.good()

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
        self.bad("Suspension")
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
        epoch = self.log.ms - 20
        for ms, right in ((epoch + LEASE - 1, False), (epoch + LEASE, True)):
            self.again().gone(self.a, 0, away, ms=ms)
            self.good() if right else self.bad("Suspension")
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

    def test_delays_as_far_as_there_is_room(self):
        """Each takes 80 bytes and twice its name: 1328 of the longest names, and one of 88 bytes has room beside them."""
        for count, last, told, right in ((1328, 88, 1, True), (1328, 88, 0, False), (1328, 89, 0, True), (1328, 89, 1, False),
                                         (1327, 88, 1, False), (1329, 88, 0, False)):
            self.log = Log()
            self.log.policy({"pattern": "*", "lock_delay_ms": 1000}, in_flight=64)
            a = self.log.open()
            names = ["%0256d" % number for number in range(1340)]
            for seq in range(21):
                part = names[seq * 64:seq * 64 + 64]
                self.log.grant(a, seq, [claim(name) for name in part])
            self.log.grant(a, 21, [claim("z" * last)])
            lost = [delayed(name, LEASE * 2 + 1000) for name in names[:count]] + [delayed("z" * last, LEASE * 2 + 1000)] * told
            self.log.tick(session_ended(a, "lease_expired"), *lost, ms=LEASE * 2)
            self.good() if right else self.bad("Delay")

    def test_the_later_end_of_a_delay_and_its_greater_length_stay(self):
        for length, grant, right in ((100, 999, False), (100, 1000, True), (3000, 3019, False), (3000, 3020, True)):
            self.again({"pattern": "*", "lock_delay_ms": 1000})
            one = self.log.grant(self.a, 1, [claim(mode="shared")])
            two = self.log.grant(self.b, 1, [claim(mode="shared")], floor=one)
            self.log.force(one, released(one, "forced", by="uid:0"), delayed("r", self.log.ms + 1010), now=True)
            begun = self.log.ms
            self.log.policy({"pattern": "*", "lock_delay_ms": length})
            self.log.force(two, released(two, "forced", by="uid:0"), delayed("r", self.log.ms + 10 + length), now=True)
            self.log.grant(self.b, 2, ms=begun + grant)
            self.good() if right else self.bad("Admission")
        for wait, right in ((999, False), (1000, True)):  # an epoch begins the greater length anew
            self.again({"pattern": "*", "lock_delay_ms": 1000})
            one = self.log.grant(self.a, 1, [claim(mode="shared")])
            two = self.log.grant(self.b, 1, [claim(mode="shared")], floor=one)
            self.log.force(one, released(one, "forced", by="uid:0"), delayed("r", self.log.ms + 1010), now=True)
            self.log.policy({"pattern": "*", "lock_delay_ms": 900})
            self.log.add("barrier", ms=self.log.ms + 500)
            self.log.force(two, released(two, "forced", by="uid:0"), delayed("r", self.log.ms + 910), now=True)
            self.log.activate()
            self.log.grant(self.b, 2, ms=self.log.ms + wait)
            self.good() if right else self.bad("Admission")

    def test_partition(self):
        for partition in range(4):
            self.log = Log(4, partition)
            self.a = self.log.open()
            self.log.grant(self.a, 1, [claim("{order-7}/stock")])
            self.good() if partition == 2 else self.bad("Partition")
            self.log = Log(4, partition)
            self.log.queue(self.log.open(), 1, [claim("a{b")])
            self.good() if partition == 0 else self.bad("Partition")


if __name__ == "__main__":
    unittest.main()
