"""Section 7, rule by rule: commands and events, sessions, tokens, once. Each test ends with the record that is refused."""
import json
import unittest

from log_writer import LEASE, ZERO, Log, RulesCase, at_text, claim, ended, released, revoking, session_ended

class Requests(RulesCase):
    """Commands and events, Sessions, Tokens, Once."""

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
                       dict(reply_to="x")):
            self.again().open(change=change)
            self.bad(self.FIT)
        for change in (dict(session=self.b), dict(seq=2), dict(claims=[claim("s")]), dict(priority=1), dict(hold_max_ms=1), dict(wait_ms=1), dict(reason="x"), dict(value="x"), dict(owner=[2, 1])):
            self.again().queue(self.a, 1, change=change)
            self.bad(self.FIT)
        self.again().queue(self.a, 1, wait_ms=0)
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
        for asked, lease, right in ((LEASE, 200, True), (LEASE, 201, False), (LEASE, 199, False), (150, 150, True), (150, 151, False)):
            self.log = Log()
            self.log.policy(lease=200)
            self.log.open(asked=asked, lease=lease)
            self.good() if right else self.bad("Sessions")
        for change in (dict(in_flight_max=63), dict(in_flight_max=65), dict(lease_ms=LEASE + 1)):
            self.again().open(change=change)
            self.bad("Sessions")

    def test_paused_only_while_not(self):
        self.log.pause()
        self.log.pause()
        self.bad(self.FIT)

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

    def test_a_hold_limit_outlives_its_rule(self):
        """An undone grant waits with the limit that it had; the rules may make it shorter, never longer."""
        for hold, right in ((60, True), (70, False), (None, False)):
            token = self.again({"pattern": "r", "hold_max_ms": 60}).grant(self.a, 1, change={"hold_max_ms": 60})
            self.log.suspend(self.a, 1, token)
            self.log.policy({"pattern": "r", "hold_max_ms": 70})
            self.log.attach(self.a, 1)
            self.log.advance(self.a, 1, **({"hold_max_ms": hold} if hold else {}))
            self.good() if right else self.bad(self.FIT)

    def test_once(self):
        self.again({"pattern": "*"})
        self.log.refuse(self.a, 7)
        self.log.refuse(self.a, 4)
        self.log.refuse(self.a, 5)
        self.log.refuse(self.a, 4)
        self.bad("Once")
        self.again({"pattern": "*"}).refuse(self.a, 7)
        self.log.refuse(self.a, 3)
        self.bad("Once")
        self.again().grant(self.a, 1)
        self.log.add({"cancel": {"session": self.a, "seq": 1}}, ended(self.a, 1, "cancelled"))
        self.bad("Once")
        for seq in range(40):
            self.again({"pattern": "*"}).refuse(self.a, 50 + seq) if not seq else self.log.refuse(self.a, 50 + seq)
        self.log.refuse(self.a, 88)
        self.bad("Once")

    def test_in_flight(self):
        self.again({"pattern": "*"})
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


if __name__ == "__main__":
    unittest.main()
