"""What the records of a grant log say, and whether they may say it (log.md sections 4, 6 and 7).

`check_alone(record)` holds for a record by itself. `State.take(record)` folds the record into the state of section 6
and checks the rules of section 7 against it. Both raise Wrong. Memory is what is live: sessions, waiters, grants,
delays, and the request numbers of each session within its in_flight_max.
"""
import bisect
import hashlib
import zlib

from arbiter_record import micros

TIME_MAX = micros("9999-12-31T23:59:59.999999Z")
DUE_MAX = 256  # due things in one tick
DELAYED_BYTES_MAX = 786432  # `delayed` in one record, as delayed_bytes counts


class Wrong(Exception):
    """A rule is broken; `rule` is the heading in section 7 (or the section)."""

    def __init__(self, rule, message):
        Exception.__init__(self, message)
        self.rule = rule


class CannotCheck(Exception):
    """A format or decision rules that this verifier does not know."""


def need(condition, rule, message, *values):
    if not condition:
        raise Wrong(rule, message % values if values else message)


def delayed_bytes(name):
    return 2 * len(name.encode("utf-8")) + 80


def later(time, ms):
    """Section 2: a time plus milliseconds saturates."""
    return min(time + ms * 1000, TIME_MAX)


# ---- Commands and events fit (sections 4 and 7) --------------------------------------------------------------------

FIT = "Commands and events"
EXACTLY_ONE = {  # "exactly", or "exactly one of"
    "create": {"genesis"}, "activate": {"epoch_started"}, "policy": {"policy"}, "checkpoint": {"checkpoint"},
    "finish": {"closed"}, "acquire": {"granted", "queued", "refused"}, "advance": {"granted", "ended"},
}
AT_MOST_ONE = {
    "open": {"opened"}, "attach": {"attached"}, "release": {"released"}, "cancel": {"ended", "released"},
    "close": {"session_ended"}, "pause": {"paused"}, "resume": {"resumed"},
}
TICK_ORDER = {  # (event, reason) -> its turn (Time)
    ("session_ended", "lease_expired"): 0, ("session_ended", "fail_fast"): 0, ("ended", "wait_limit"): 1,
    ("revoking", "hold_limit"): 2, ("released", "hold_limit"): 3, ("released", "forced"): 3,
}
REASONS = {  # (command, event) -> reasons; a revoked grant's `released` is judged with its grant
    ("close", "session_ended"): {"closed"}, ("gone", "session_ended"): {"connection_closed"},
    ("cancel", "ended"): {"cancelled"}, ("advance", "ended"): {"policy"},
    ("force_release", "revoking"): {"forced"}, ("force_release", "released"): {"forced"},
    ("release", "released"): {"released", "hold_limit", "forced"},
    ("cancel", "released"): {"cancelled", "hold_limit", "forced"},
}
SAME = {  # command -> the fields that are equal in its event, or absent from both
    "open": ("key_hash", "label", "principal", "principal_by", "fail_fast_ms", "reply_to"),
    "attach": ("session", "n", "reply_to"), "close": ("session",), "pause": ("by", "reason"), "resume": ("by", "reason"),
    "acquire": ("session", "seq"), "gone": ("session", "n"), "cancel": ("session", "seq"),
    "release": ("token",), "force_release": ("token", "by"),
}


def check_alone(record):
    """All that needs nothing but the record."""
    command, asked, events = record.command, record.asked, record.events
    names = [name for name, _ in events]
    check_kinds(command, asked, names)
    for name, event in events:
        if name == "epoch_started" and event["rules"] != 1:
            raise CannotCheck("decision rules %d" % event["rules"])
        reasons = REASONS.get((command, name))
        need(reasons is None or event["reason"] in reasons, FIT, "%s under %s with reason %s", name, command,
             event.get("reason"))
        if name in ("released", "revoking"):
            need(("by" in event) == (event["reason"] == "forced"), "Revocation", "by goes with forced, and only with it")
        if name == "delayed":
            continue
        for field in SAME.get(command, ()):
            if field in event or name not in ("released", "suspended", "unreachable", "session_ended"):
                need(asked.get(field) == event.get(field), FIT, "%s is not the same in %s and %s", field, command, name)
        if command == "acquire" and name != "refused":
            check_acquire(asked, name, event)
        if name == "checkpoint":
            need(event["of"] < record.index, "Checkpoint", "of is not below the record's own index")
    if command == "tick":
        check_tick(record)


def check_kinds(command, asked, names):
    """Section 4: a record has no event that its command does not allow."""
    if command in EXACTLY_ONE:
        need(len(names) == 1 and names[0] in EXACTLY_ONE[command], FIT, "%s has events %s", command, names)
    elif command in AT_MOST_ONE:
        need(len(names) <= 1 and AT_MOST_ONE[command].issuperset(names), FIT, "%s has events %s", command, names)
    elif command == "barrier":
        need(not names, FIT, "barrier has events %s", names)
    elif command in ("gone", "force_release") and names:
        first, rest = names[0], set(names[1:])
        if command == "gone" and asked["cause"] == "returned":  # Suspension
            need(names == ["suspended" if "seq" in asked else "unreachable"], "Suspension", "gone has events %s", names)
        elif command == "gone":
            need(first == "session_ended" and rest <= {"delayed"}, FIT, "gone has events %s", names)
        elif "now" in asked:
            need(first == "released" and rest <= {"delayed"}, FIT, "force_release now has events %s", names)
        else:
            need(names == ["revoking"], FIT, "force_release has events %s", names)


def check_acquire(asked, name, event):
    """Commands and events: `granted` and `queued` repeat what was asked. Whose owner it is, is not checked."""
    need("owner" in asked or "owner" not in event, FIT, "an owner that was not asked for")
    need(claim_dict(asked["claims"], ordered=True) == claim_dict(event["claims"], ordered=True), FIT,
         "the claims are not those that were asked")
    need(asked.get("priority", 0) == event.get("priority", 0), FIT, "the priority is not what was asked")
    for field in ("wait_ms", "reason", "value"):
        need(asked.get(field) == event.get(field), FIT, "%s is not what was asked", field)
    if name == "queued":
        need(asked.get("wait_ms") != 0, FIT, "a request that would not wait is queued")
        need(asked.get("hold_max_ms") == event.get("hold_max_ms"), FIT, "hold_max_ms is not what was asked")
    elif "hold_max_ms" in asked:
        need(event.get("hold_max_ms", TIME_MAX) <= asked["hold_max_ms"], FIT, "hold_max_ms is above what was asked")


def check_tick(record):
    """Time: the tick's own time, the order, at most 256."""
    need(micros(record.asked["at"]) <= record.at, "Time", "the tick's time is above the record's")
    turn = due = 0
    for name, event in record.events:
        if name == "delayed":
            continue
        key = (name, event.get("reason"))
        need(key in TICK_ORDER, FIT, "%s %s under tick", *key)
        need(TICK_ORDER[key] >= turn, "Time", "%s out of the order of a tick", name)
        turn, due = TICK_ORDER[key], due + 1
    need(due <= DUE_MAX, "Time", "%d due things in one tick", due)


def claim_dict(claims, ordered=False):
    found = {claim["resource"]: (claim["mode"], claim.get("permits", 0)) for claim in claims}
    return list(found.items()) if ordered else found


# ---- Policy (section 5) and partition (section 7) ------------------------------------------------------------------

def matches(parts, name):
    """`parts` is the pattern split at its `*`; what stands between two is found as far left as it can be."""
    if len(parts) == 1:
        return parts[0] == name
    if len(name) < len(parts[0]) + len(parts[-1]) or not (name.startswith(parts[0]) and name.endswith(parts[-1])):
        return False
    at, end = len(parts[0]), len(name) - len(parts[-1])
    for part in parts[1:-1]:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


class Policy:
    def __init__(self, rules=(), lease_ms_max=86400000, in_flight_max=64):
        self.lease_ms_max, self.in_flight_max = lease_ms_max, in_flight_max
        self.rules = [(rule["pattern"].split("*"), rule) for rule in rules]
        self.known = {}

    def rule(self, resource):
        if resource not in self.known:
            if len(self.known) >= 10000:
                self.known.clear()
            self.known[resource] = next((rule for parts, rule in self.rules if matches(parts, resource)), {})
        return self.known[resource]

    def capacity(self, resource):
        return self.rule(resource).get("capacity", 1)

    def hold_max_ms(self, request):
        """Section 6: the smallest of what was asked and what the rules of the resources say, or None."""
        limits = [self.rule(resource).get("hold_max_ms") for resource in request.claims] + [request.hold_asked]
        return min((limit for limit in limits if limit is not None), default=None)

    def allows(self, resource, principal):
        allow = self.rule(resource).get("allow")
        return allow is None or principal in allow


def partition_of(resource, partitions):
    begin = resource.find("{")
    end = resource.find("}", begin + 1) if begin >= 0 else -1
    hashed = resource[begin + 1:end] if end > begin + 1 else resource
    return zlib.crc32(hashed.encode("utf-8")) % partitions


# ---- The state (section 6) -----------------------------------------------------------------------------------------

class Session:
    def __init__(self, event, at):
        self.key_hash = event["key_hash"]
        self.lease_ms, self.fail_fast_ms = event["lease_ms"], event.get("fail_fast_ms")
        self.in_flight_max, self.principal = event["in_flight_max"], event["principal"]
        self.n, self.attached, self.renewed_at, self.unreachable_since = 0, 0, at, None
        self.seen, self.highest = set(), None
        self.requests = {}  # seq -> Request that waits or holds


class Request:
    """A waiter (token None) or a grant."""

    def __init__(self, event, place, at):
        self.session, self.seq, self.place = event["session"], event["seq"], place
        self.claims = claim_dict(event["claims"])
        self.order = (-event.get("priority", 0), place)
        self.wait_deadline = later(at, event["wait_ms"]) if "wait_ms" in event else None
        self.hold_asked, self.repeats = None, repeats(event)
        self.token = self.hold_deadline = self.revoking = self.epoch = None  # revoking: [reason, until, by]
        self.suspended, self.allowed, self.fitting = False, True, 0


def repeats(event):
    """What a `granted` must repeat of its request, short enough to keep."""
    values = [event.get(field) for field in ("owner", "wait_ms", "reason", "value")] + [event.get("priority", 0)]
    return hashlib.sha256(repr(values).encode("utf-8")).digest()


class Others:
    """A tally of claims on one resource."""

    def __init__(self, other=None):
        self.exclusive, self.shared, self.permits, self.sum = \
            (other.exclusive, other.shared, other.permits, other.sum) if other else (0, 0, 0, 0)

    def add(self, claim, sign=1):
        mode, permits = claim
        setattr(self, mode, getattr(self, mode) + sign)
        self.sum += sign * permits

    def admit(self, claim, capacity):
        """Fits, for one claim (section 6)."""
        mode, permits = claim
        if self.exclusive or (self.permits if mode == "shared" else self.shared):
            return False
        return mode == "shared" or (not self.permits if mode == "exclusive" else self.sum + permits <= capacity)


class Resource:
    def __init__(self):
        self.held, self.tokens = Others(), []  # the grants in force; their tokens, rising
        self.queue = []  # eligible waiters: (order, Request), sorted
        self.fit = {}  # place -> Request: the waiters whose claim here fits. Always a beginning of the queue


class State:
    def __init__(self, record):
        """Of the genesis (sections 3 and 5)."""
        event = record.events[0][1]
        if event["format"] != 1:
            raise CannotCheck("format %d" % event["format"])
        need(event["partition"] < event["partitions"], "Chain", "partition %d of %d", event["partition"],
             event["partitions"])
        need(all(tip["index"] < event["first_index"] for tip in event["after"]), "Chain",
             "first_index is not above the logs that this one goes on from")
        self.genesis, self.at, self.paused, self.policy = event, record.at, False, Policy()
        self.sessions, self.grants, self.resources, self.delays = {}, {}, {}, {}
        self.waiting, self.epoch_at, self.dirty, self.keys = 0, None, set(), set()
        self.ready = []  # (order, Request) of the waiters that can be granted, apart from the pause; sorted
        self.delay_next = TIME_MAX  # no delay is over before

    def take(self, record):
        pending = bool(self.ready) and not self.paused
        need(not pending or record.command in ("advance", "activate"), "Advance",
             "a waiter can be granted (session %s, seq %s), but this is no advance",
             *((self.ready[0][1].session, self.ready[0][1].seq) if pending else (0, 0)))
        for number, n in record.renewed:
            session = self.sessions.get(number)
            if session and n > session.n:
                session.n, session.renewed_at, session.unreachable_since = n, record.at, None
        self.record, self.gap, self.at = record, record.at - self.at, record.at
        self.lost, self.delayed = set(), set()  # Delay: resources that want a `delayed`, and that have it
        if record.command != "activate":  # the record's own time decides what is delayed
            self.delays_over()
        if record.command == "tick":
            need(micros(record.asked["at"]) >= self.epoch_at, "Time", "the tick's time is before the epoch")
        for name, event in record.events:
            getattr(self, "on_" + name)(event)
        taken = sum(map(delayed_bytes, self.delayed))
        need(taken <= DELAYED_BYTES_MAX, "Delay", "%d bytes of delayed in one record", taken)
        for name in sorted(self.lost - self.delayed):
            need(taken + delayed_bytes(name) > DELAYED_BYTES_MAX, "Delay", "no delayed for %s", ascii(name))
        self.delays_over()

    # -- what can be granted, kept up to date: only resources on which something changed are looked at again

    def resource(self, name):
        if name not in self.resources:
            self.resources[name] = Resource()
        self.dirty.add(name)
        return self.resources[name]

    def delays_over(self):
        """Delays with until <= at are over; then bring `ready` up to date."""
        if self.at >= self.delay_next:
            for name in [name for name, (until, _) in self.delays.items() if until <= self.at]:
                del self.delays[name]
                self.dirty.add(name)
            self.delay_next = min((until for until, _ in self.delays.values()), default=TIME_MAX)
        for name in self.dirty:
            resource = self.resources.get(name)
            if resource:
                self.refit(name, resource)
                if not resource.tokens and not resource.queue:
                    del self.resources[name]
        self.dirty.clear()

    def refit(self, name, resource):
        fit, others = {}, Others(resource.held)
        if name not in self.delays:
            capacity = self.policy.capacity(name)
            for _, waiter in resource.queue:
                if not others.admit(waiter.claims[name], capacity):
                    break  # whatever blocks this one also blocks all behind it
                fit[waiter.place] = waiter
                others.add(waiter.claims[name])
        for place, waiter in resource.fit.items():
            if place not in fit:
                self.set_fitting(waiter, -1)
        for place, waiter in fit.items():
            if place not in resource.fit:
                self.set_fitting(waiter, +1)
        resource.fit = fit

    def set_fitting(self, waiter, change, allowed=None):
        was = waiter.allowed and waiter.fitting == len(waiter.claims)
        waiter.fitting += change
        waiter.allowed = waiter.allowed if allowed is None else allowed
        now = waiter.allowed and waiter.fitting == len(waiter.claims)
        if now and not was:
            bisect.insort(self.ready, (waiter.order, waiter))
        elif was and not now:
            del self.ready[bisect.bisect_left(self.ready, (waiter.order,))]

    def is_allowed(self, request):
        principal = self.sessions[request.session].principal
        return all(self.policy.allows(name, principal) for name in request.claims)

    def line_up(self, waiter):
        """A waiter becomes eligible."""
        waiter.suspended, waiter.fitting, waiter.allowed = False, 0, self.is_allowed(waiter)
        for name in waiter.claims:
            bisect.insort(self.resource(name).queue, (waiter.order, waiter))

    def step_out(self, waiter):
        """An eligible waiter is over, or is granted."""
        for name in waiter.claims:
            resource = self.resource(name)
            del resource.queue[bisect.bisect_left(resource.queue, (waiter.order,))]
            if resource.fit.pop(waiter.place, None):
                self.set_fitting(waiter, -1)

    def hold(self, grant):
        self.grants[grant.token] = grant
        for name, claim in grant.claims.items():
            resource = self.resource(name)
            resource.held.add(claim)
            resource.tokens.append(grant.token)  # tokens rise

    def let_go(self, grant):
        del self.grants[grant.token]
        for name, claim in grant.claims.items():
            resource = self.resource(name)
            resource.held.add(claim, -1)
            del resource.tokens[bisect.bisect_left(resource.tokens, grant.token)]

    def lose(self, grant):
        """Delay: a grant is lost. Each of its resources whose rule has a lock delay wants a `delayed`."""
        self.lost.update(name for name in grant.claims if self.policy.rule(name).get("lock_delay_ms", 0) > 0)

    # -- lookups that are rules

    def session(self, event):
        """Sessions: every event that names a session names a live one."""
        need(event["session"] in self.sessions, "Sessions", "session %d is not live", event["session"])
        return self.sessions[event["session"]]

    def grant(self, event):
        """Tokens: names a grant in force."""
        need(event["token"] in self.grants, "Tokens", "token %d is not in force", event["token"])
        return self.grants[event["token"]]

    def new_number(self, session, seq):
        """Once."""
        high, window = session.highest, session.in_flight_max
        need(seq not in session.seen, "Once", "request number %d was used before", seq)
        need(high is None or seq > high - window, "Once", "request number %d is too far below %s", seq, high)
        session.seen.add(seq)
        session.highest = seq if high is None else max(high, seq)
        if len(session.seen) > 2 * window + 16:
            session.seen = {number for number in session.seen if number > session.highest - window}

    def in_flight(self, session):
        """Once: at most in_flight_max requests wait or hold."""
        need(len(session.requests) <= session.in_flight_max, "Once", "%d requests in flight", len(session.requests))

    def belongs(self, event):
        """Partition."""
        for claim in event["claims"]:
            need(partition_of(claim["resource"], self.genesis["partitions"]) == self.genesis["partition"], "Partition",
                 "%s belongs to another partition", ascii(claim["resource"]))

    # -- the events, in the order of section 5

    def on_genesis(self, event):
        raise Wrong("Chain", "a second genesis")

    def on_epoch_started(self, event):
        self.epoch_at = self.at
        for session in self.sessions.values():
            session.renewed_at, session.unreachable_since = self.at, None
            for request in session.requests.values():
                if request.wait_deadline is not None:
                    request.wait_deadline = min(request.wait_deadline + self.gap, TIME_MAX)
                if request.hold_deadline is not None:
                    request.hold_deadline = min(request.hold_deadline + self.gap, TIME_MAX)
                if request.revoking:
                    request.revoking[1] = min(request.revoking[1] + self.gap, TIME_MAX)
        self.delays = {name: (later(self.at, length), length) for name, (_, length) in self.delays.items()}
        self.delay_next = min((until for until, _ in self.delays.values()), default=TIME_MAX)

    def on_policy(self, event):
        self.policy = Policy(event["rules"], event["lease_ms_max"], event["in_flight_max"])
        self.dirty.update(self.resources)
        for session in self.sessions.values():
            for request in session.requests.values():
                if request.token is None and not request.suspended:
                    self.set_fitting(request, 0, self.is_allowed(request))

    def on_opened(self, event):
        need(event["key_hash"] not in self.keys, "Sessions", "a live session has that key_hash")
        lease_ms = min(self.record.asked["lease_ms"], self.policy.lease_ms_max)
        need(event["lease_ms"] == lease_ms, "Sessions", "lease_ms is not %d", lease_ms)
        need(event["in_flight_max"] == self.policy.in_flight_max, "Sessions", "in_flight_max is not the policy's")
        self.keys.add(event["key_hash"])
        self.sessions[self.record.index] = Session(event, self.at)

    def on_attached(self, event):
        session = self.session(event)
        need(event["n"] > session.attached, "Sessions", "attach %d after %d", event["n"], session.attached)
        session.attached, session.unreachable_since = event["n"], None
        for request in session.requests.values():
            if request.suspended:
                self.line_up(request)

    def on_unreachable(self, event):
        session = self.session(event)
        need(event["n"] == session.attached, "Suspension", "n is not that of the last attach")
        need(session.unreachable_since is None, "Suspension", "unreachable a second time")
        need(self.at >= later(self.epoch_at, session.lease_ms), "Suspension", "unreachable within a lease of the epoch")
        session.unreachable_since = self.at

    def on_session_ended(self, event):
        session, reason = self.session(event), event["reason"]
        if self.record.command == "tick":
            if reason == "lease_expired":
                self.due(later(session.renewed_at, session.lease_ms), reason)
            else:
                need(None not in (session.unreachable_since, session.fail_fast_ms), "Time", "no fail_fast is running")
                self.due(later(session.unreachable_since, session.fail_fast_ms), reason)
        elif self.record.command == "gone":
            need(self.record.asked["n"] == session.attached, "Suspension", "n is not that of the last attach")
        for request in session.requests.values():
            if request.token is not None:
                self.let_go(request)
                if reason != "closed":
                    self.lose(request)
            else:
                self.waiting -= 1
                if not request.suspended:
                    self.step_out(request)
        self.keys.discard(session.key_hash)
        del self.sessions[event["session"]]

    def on_queued(self, event):
        session = self.session(event)
        self.new_number(session, event["seq"])
        self.belongs(event)
        waiter = session.requests[event["seq"]] = Request(event, self.record.index, self.at)
        waiter.hold_asked = event.get("hold_max_ms")
        self.waiting += 1
        self.in_flight(session)
        self.line_up(waiter)

    def on_granted(self, event):
        session, index = self.session(event), self.record.index
        self.belongs(event)
        if self.record.command == "acquire":
            self.new_number(session, event["seq"])
            request = Request(event, index, self.at)
            request.hold_asked = self.record.asked.get("hold_max_ms")
        else:
            request = session.requests.get(event["seq"])
            need(request and request.token is None, "Once", "advance grants what does not wait")
            need(list(request.claims.items()) == claim_dict(event["claims"], ordered=True), FIT,
                 "the claims are not those that wait")
            need(request.repeats == repeats(event), FIT, "priority, wait_ms, reason or value is not the waiter's")
            need(not request.suspended, "Admission", "a suspended waiter is granted")
        self.check_exclusion(event, request)
        self.check_admission(request)
        if self.record.command == "advance":
            need(self.ready and self.ready[0][1] is request, "Admission", "another waiter comes first")
            self.step_out(request)
            self.waiting -= 1
        need(event.get("hold_max_ms") == self.policy.hold_max_ms(request), FIT, "hold_max_ms is not %s",
             self.policy.hold_max_ms(request))
        request.hold_asked = event.get("hold_max_ms")  # if the grant is undone, it waits with this
        request.token, request.epoch = index, self.record.epoch
        request.hold_deadline = later(self.at, event["hold_max_ms"]) if "hold_max_ms" in event else None
        session.requests[event["seq"]] = request
        self.in_flight(session)
        self.hold(request)

    def check_exclusion(self, event, request):
        """Exclusion: fits among the grants; capacity and floor."""
        for claim in event["claims"]:
            name = claim["resource"]
            resource, capacity = self.resource(name), self.policy.capacity(name)
            need(resource.held.admit(request.claims[name], capacity), "Exclusion", "%s is held", ascii(name))
            need(claim["capacity"] == capacity, "Exclusion", "capacity of %s is %d", ascii(name), capacity)
            floor = resource.tokens[0] if resource.tokens else self.record.index
            need(claim["floor"] == floor, "Exclusion", "floor of %s is %d", ascii(name), floor)

    def check_admission(self, request):
        """Admission: fits among the grants and all earlier eligible waiters; delays, pause, who may."""
        need(not self.paused, "Admission", "granted while paused")
        for name, claim in request.claims.items():
            need(name not in self.delays, "Admission", "%s is delayed", ascii(name))
            resource, capacity = self.resources[name], self.policy.capacity(name)
            others = Others(resource.held)
            for order, waiter in resource.queue:
                if order >= request.order or not others.admit(claim, capacity):
                    break
                others.add(waiter.claims[name])
            need(others.admit(claim, capacity), "Admission", "%s: an earlier waiter is passed by", ascii(name))
        need(self.is_allowed(request), "Admission", "the policy does not allow the principal")

    def on_refused(self, event):
        self.new_number(self.session(event), event["seq"])

    def on_ended(self, event):
        session = self.session(event)
        waiter = session.requests.get(event["seq"])
        if waiter is None or waiter.token is not None:
            need(event["reason"] == "cancelled", "Time" if event["reason"] == "wait_limit" else "Advance",
                 "ended %s of a request that does not wait", event["reason"])
            self.new_number(session, event["seq"])
            return
        if event["reason"] == "wait_limit":
            self.due(waiter.wait_deadline, "the wait limit")
        if event["reason"] == "policy":
            over = any(permits > self.policy.capacity(name) for name, (_, permits) in waiter.claims.items())
            need(not waiter.suspended and (over or not waiter.allowed), "Advance", "the policy has nothing against it")
            need(self.is_its_turn(waiter), "Advance", "ended by policy before its turn")
        del session.requests[event["seq"]]
        self.waiting -= 1
        if not waiter.suspended:
            self.step_out(waiter)

    def is_its_turn(self, waiter):
        """Advance: it would be granted if it were allowed and asked for no more permits than there are."""
        if self.paused or (self.ready and self.ready[0][0] < waiter.order):
            return False
        for name, (mode, permits) in waiter.claims.items():
            resource, capacity = self.resources[name], self.policy.capacity(name)
            claim, others = (mode, min(permits, capacity)), Others(resource.held)
            for order, earlier in resource.queue:
                if order >= waiter.order or not others.admit(claim, capacity):
                    break
                others.add(earlier.claims[name])
            if name in self.delays or not others.admit(claim, capacity):
                return False
        return True

    def can_be_undone(self, request):
        """Suspension: a grant in force, of this epoch, not being revoked."""
        return request.token is not None and request.epoch == self.record.epoch and not request.revoking

    def on_released(self, event):
        grant, command, asked = self.grant(event), self.record.command, self.record.asked
        revoked, reason = grant.revoking, event["reason"]
        if command == "release":
            need(grant.session == asked["session"], FIT, "the grant is another session's")
        elif command == "cancel":
            need((grant.session, grant.seq) == (asked["session"], asked["seq"]), FIT, "the grant is another request's")
        elif command == "force_release":
            need(asked["resource"] in grant.claims, "Revocation", "the grant has no claim on the resource")
        else:
            need(revoked, "Time", "released by a tick without a revocation")
            self.due(revoked[1], "the end of the revocation")
        if command != "force_release":  # a revoked grant leaves with the revocation's reason and operator
            own = {"release": "released", "cancel": "cancelled"}.get(command)
            want = (revoked[0], revoked[2]) if revoked else (own, None)
            need((reason, event.get("by")) == want, "Revocation", "released as %s by %s, expected %s by %s", reason,
                 event.get("by"), *want)
        self.let_go(grant)
        del self.sessions[grant.session].requests[grant.seq]
        if command in ("tick", "force_release"):
            self.lose(grant)

    def on_revoking(self, event):
        grant = self.grant(event)
        until = later(self.at, self.sessions[grant.session].lease_ms)
        need(micros(event["until"]) == until, "Revocation", "until is not one lease from now")
        need(not grant.revoking, "Revocation", "the grant is being revoked already")
        if self.record.command == "tick":
            self.due(grant.hold_deadline, "the hold limit")
        else:
            need(self.record.asked["resource"] in grant.claims, "Revocation", "the grant has no claim on the resource")
        grant.revoking = [event["reason"], until, event.get("by")]

    def on_suspended(self, event):
        grant = self.grant(event)
        session = self.session(event)
        need((grant.session, grant.seq) == (event["session"], event["seq"]), "Suspension",
             "the grant is another request's")
        need(event["seq"] == self.record.asked["seq"] and event["session"] == self.record.asked["session"], "Suspension",
             "the request is not the one that gone names")
        need(self.can_be_undone(grant), "Suspension", "the grant is of another epoch, or being revoked")
        need(self.record.asked["n"] == session.attached, "Suspension", "n is not that of the last attach")
        self.let_go(grant)
        grant.token = grant.hold_deadline = grant.revoking = None
        grant.suspended, self.waiting = True, self.waiting + 1

    def on_delayed(self, event):
        name, until = event["resource"], micros(event["until"])
        need(name not in self.delayed, "Delay", "%s is delayed twice", ascii(name))
        need(name in self.lost, "Delay", "%s is delayed and was not lost, or its rule has no delay", ascii(name))
        self.delayed.add(name)
        need(until == later(self.at, self.policy.rule(name)["lock_delay_ms"]), "Delay", "until is not one delay from now")
        earlier = self.delays.get(name, (0, 0))  # of both, the later end and the greater length
        self.delays[name] = (max(until, earlier[0]), max((until - self.at) // 1000, earlier[1]))
        self.delay_next = min(self.delay_next, until)
        self.dirty.add(name)

    def on_paused(self, event):
        need(not self.paused, FIT, "paused and paused already")
        self.paused = True

    def on_resumed(self, event):
        need(self.paused, FIT, "resumed and not paused")
        self.paused = False

    def on_checkpoint(self, event):
        pass  # arbiter_verify looks at its body

    def on_closed(self, event):
        pass

    def due(self, deadline, what):
        """Time: deadline <= the tick's own time."""
        need(deadline is not None, "Time", "%s: there is none", what)
        need(deadline <= micros(self.record.asked["at"]), "Time", "%s is not due", what)
