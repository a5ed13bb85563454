"""Section 7, rule by rule: exclusion, admission, advance. Each test ends with the record that is refused."""
import unittest

from log_writer import RulesCase, claim, delayed, ended, released

class Admission(RulesCase):
    """Exclusion, Admission, Advance."""

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

    def test_ended_by_a_lower_capacity(self):
        """More permits than there are count as all of them: while one is held it is not its turn."""
        for holds in (True, False):
            token = self.again({"pattern": "r", "capacity": 3}).grant(self.a, 1, [claim("r", "permits", 1)], capacity=3)
            self.log.queue(self.b, 1, [claim("r", "permits", 3)])
            self.log.policy({"pattern": "r", "capacity": 2})
            if not holds:
                self.log.release(self.a, token)
            self.log.add("advance", ended(self.b, 1, "policy"))
            self.bad("Advance") if holds else self.good()

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


if __name__ == "__main__":
    unittest.main()
