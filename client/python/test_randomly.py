"""Long logs of a plain arbiter, as they are and with bits flipped."""
import hashlib
import random
import unittest

from log_writer import Case, Log, claim, delayed, ended, released, write_mark

class Arbiter:
    """A plain arbiter on the definitions of section 6, recomputing everything at each step. Small and slow."""

    def __init__(self, seed):
        self.random, self.log = random.Random(seed), Log()
        self.rules = [{"pattern": "p*", "capacity": 3}, {"pattern": "d*", "lock_delay_ms": 40, "allow": ["anonymous"]}]
        self.log.policy(*self.rules, in_flight=6)
        self.sessions = [self.log.open() for _ in range(5)]
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


if __name__ == "__main__":
    unittest.main()
