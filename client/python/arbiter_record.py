"""One line of a grant log, read strictly (log.md sections 2, 4 and 5).

`parse(line)` gives a Record or raises BadLine. It knows shapes and nothing else: whether the record extends the
chain and keeps the rules is for arbiter_verify and arbiter_rules.
"""
import datetime
import json
import re

LINE_MAX = 1048576
INTEGER_MAX = 2 ** 53 - 1
DAYS_366 = 31622400000
DAY = 86400000


class BadLine(Exception):
    """The line is no record, or does not extend the chain."""


# ---- JSON, section 2: no doubled field, no fraction, no exponent, no NaN -------------------------------------------

def _pairs(pairs):
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadLine("a doubled field")
    return fields


def _integer(digits):
    if digits[0] == "-" or len(digits) > 16 or int(digits) > INTEGER_MAX:
        raise BadLine("an integer out of range: " + digits[:24])
    return int(digits)


def _no_number(text):
    raise BadLine("a number that is no integer: " + text[:24])


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_float=_no_number,
                            parse_constant=_no_number)


def read_json(data):
    """Bytes to a value; raises BadLine."""
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadLine("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise BadLine("not JSON: %s" % error) from None


# ---- types, section 2: each takes a value and raises BadLine -------------------------------------------------------

def integer(low=0, high=INTEGER_MAX):
    def check(value):
        if type(value) is not int or not low <= value <= high:
            raise BadLine("not an integer from %d to %d" % (low, high))
    return check


def text(low=0, high=None):
    def check(value):
        if type(value) is not str or _CONTROL.search(value):
            raise BadLine("not a text without control characters")
        try:
            size = len(value.encode("utf-8"))
        except UnicodeEncodeError:
            raise BadLine("half a surrogate pair in a text") from None
        if size < low or (high is not None and size > high):
            raise BadLine("a text of %d bytes" % size)
    return check


def digits(count):
    pattern = re.compile("[0-9a-f]{%d}" % count)

    def check(value):
        if type(value) is not str or not pattern.fullmatch(value):
            raise BadLine("not %d digits 0-9a-f" % count)
    return check


def word(*words):
    def check(value):
        if type(value) is not str or value not in words:
            raise BadLine("not one of " + ", ".join(words))
    return check


def only_true(value):
    if value is not True:
        raise BadLine("not true (false is left out)")


def array(item, low=0, high=None):
    def check(value):
        if type(value) is not list or len(value) < low or (high is not None and len(value) > high):
            raise BadLine("not an array of the right length")
        for entry in value:
            item(entry)
    return check


def pair(value):
    if type(value) is not list or len(value) != 2:
        raise BadLine("not a pair of integers")
    INT(value[0])
    INT(value[1])


def renewals(value):
    array(pair, 1, 1024)(value)
    if any(one[0] >= other[0] for one, other in zip(value, value[1:])):
        raise BadLine("the sessions do not rise")


def fields(**spec):
    """An object with exactly these fields; a name that ends in `_` may be left out."""
    types = {name.rstrip("_"): check for name, check in spec.items()}
    required = [name for name in spec if not name.endswith("_")]

    def check(value):
        if type(value) is not dict:
            raise BadLine("not an object")
        for name in required:
            if name not in value:
                raise BadLine("field %s is missing" % name)
        for name, entry in value.items():
            if name not in types:
                raise BadLine("unknown field " + ascii(name[:40]))
            try:
                types[name](entry)
            except BadLine as error:
                raise BadLine("%s: %s" % (name, error)) from None
    return check


def claims(item):
    every = array(item, 1, 64)

    def check(value):
        every(value)
        for claim in value:
            if (claim["mode"] == "permits") != ("permits" in claim):
                raise BadLine("permits without its mode, or the mode without permits")
        if len({claim["resource"] for claim in value}) != len(value):
            raise BadLine("two claims on one resource")
    return check


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_TIME = re.compile("([0-9]{4})-([0-9]{2})-([0-9]{2})T([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])[.]([0-9]{6})Z")
_DAY_0 = datetime.date(1970, 1, 1).toordinal()


def micros(value):
    """A time as microseconds since 1970; raises BadLine."""
    found = type(value) is str and _TIME.fullmatch(value)
    if not found or value < "1970":
        raise BadLine("not a time")
    year, month, day, hour, minute, second, micro = map(int, found.groups())
    try:
        days = datetime.date(year, month, day).toordinal() - _DAY_0
    except ValueError:
        raise BadLine("not a day that exists") from None
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000000 + micro


INT, HASH, ID, TEXT = integer(), digits(64), digits(32), text()
RESOURCE, LABEL, REASON, REPLY_TO, VALUE = text(1, 256), text(0, 128), text(0, 1024), text(0, 255), text(0, 4096)
BY_WORD = word("nobody", "unix_peer", "in_process", "broker_user")
MODE = word("exclusive", "shared", "permits")
PERMITS, CAPACITY, LIMIT = integer(1, 1000000), integer(1, 1000000), integer(0, DAYS_366)
CLAIMS = claims(fields(resource=RESOURCE, mode=MODE, permits_=PERMITS))
CLAIMS_GRANTED = claims(fields(resource=RESOURCE, mode=MODE, permits_=PERMITS, capacity=CAPACITY, floor=INT))
U32 = integer(0, 2 ** 32 - 1)
IN_FLIGHT, LEASE = integer(1, 4096), integer(100, DAY)
RULE = fields(pattern=RESOURCE, capacity_=CAPACITY, hold_max_ms_=integer(1, DAYS_366), waiters_max_=integer(0, 10000000),
              lock_delay_ms_=LIMIT, allow_=array(TEXT))
_REQUEST = dict(session=INT, seq=INT, owner_=pair, wait_ms_=LIMIT, hold_max_ms_=LIMIT, reason_=REASON, value_=VALUE)
_OPEN = dict(key_hash=HASH, label=LABEL, principal=TEXT, principal_by=BY_WORD, reply_to_=REPLY_TO)

# ---- section 4 and section 5: the tables ---------------------------------------------------------------------------

PLAIN_COMMANDS = {"create", "activate", "policy", "advance", "checkpoint", "barrier", "finish"}

COMMANDS = {
    "open": fields(lease_ms=INT, fail_fast_ms_=INT, **_OPEN),
    "attach": fields(session=INT, n=INT, reply_to_=REPLY_TO),
    "acquire": fields(claims=CLAIMS, priority_=integer(1, 9), **_REQUEST),
    "release": fields(session=INT, token=INT),
    "cancel": fields(session=INT, seq=INT),
    "close": fields(session=INT),
    "tick": fields(at=micros),
    "gone": fields(session=INT, n=INT, seq_=INT, cause=word("returned", "closed")),
    "force_release": fields(resource=RESOURCE, token=INT, reason=REASON, by=TEXT, now_=only_true),
    "pause": fields(reason=REASON, by=TEXT),
    "resume": fields(reason=REASON, by=TEXT),
}

EVENTS = {
    "genesis": fields(format=U32, log_id=ID, partition=U32, partitions=integer(1, 2 ** 32 - 1), first_index=INT,
                      after=array(fields(log_id=ID, index=INT, hash=HASH))),
    "epoch_started": fields(epoch=INT, incarnation=ID, rules=U32),
    "policy": fields(sessions_max=integer(1, 1000000), in_flight_max=IN_FLIGHT, lease_ms_max=LEASE,
                     rules=array(RULE, 0, 1000)),
    "opened": fields(lease_ms=LEASE, fail_fast_ms_=LEASE, in_flight_max=IN_FLIGHT, **_OPEN),
    "attached": fields(session=INT, n=INT, reply_to_=REPLY_TO),
    "unreachable": fields(session=INT, n=INT),
    "session_ended": fields(session=INT, reason=word("closed", "connection_closed", "lease_expired", "fail_fast")),
    "queued": fields(claims=CLAIMS, priority=integer(0, 9), **_REQUEST),
    "granted": fields(claims=CLAIMS_GRANTED, priority_=integer(1, 9), **_REQUEST),
    "refused": fields(session=INT, seq=INT, reason=word("wrong_partition", "not_allowed", "over_capacity", "busy",
                                                        "held", "in_flight_max", "waiters_max")),
    "ended": fields(session=INT, seq=INT, reason=word("cancelled", "wait_limit", "policy")),
    "released": fields(token=INT, reason=word("released", "cancelled", "hold_limit", "forced"), by_=TEXT),
    "revoking": fields(token=INT, reason=word("hold_limit", "forced"), by_=TEXT, until=micros),
    "suspended": fields(session=INT, seq=INT, token=INT),
    "delayed": fields(resource=RESOURCE, until=micros),
    "paused": fields(by=TEXT, reason=REASON),
    "resumed": fields(by=TEXT, reason=REASON),
    "checkpoint": fields(of=INT, hash=HASH),
    "closed": fields(next_=ID),
}


def one_field(value, table):
    """`{"name": {…}}` with a name of the table; gives (name, fields)."""
    if type(value) is not dict or len(value) != 1:
        raise BadLine("not an object with one field")
    (name, inner), = value.items()
    if name not in table:
        raise BadLine("unknown: " + ascii(name[:40]))
    try:
        table[name](inner)
    except BadLine as error:
        raise BadLine("%s: %s" % (name, error)) from None
    return name, inner


def command(value):
    if type(value) is str:
        if value not in PLAIN_COMMANDS:
            raise BadLine("unknown command " + ascii(value[:40]))
    else:
        one_field(value, COMMANDS)


def event(value):
    one_field(value, EVENTS)


RECORD = fields(index=INT, prev=HASH, epoch=INT, at=micros, renewed_=renewals, upto_=INT, command=command,
                events_=array(event, 1))


class Record:
    __slots__ = ("index", "prev", "epoch", "at", "renewed", "command", "asked", "events")

    def __init__(self, value):
        self.index, self.prev, self.epoch = value["index"], value["prev"], value["epoch"]
        self.at = micros(value["at"])
        self.renewed = value.get("renewed", [])
        asked = value["command"]
        self.command, self.asked = (asked, {}) if type(asked) is str else next(iter(asked.items()))
        self.events = [next(iter(entry.items())) for entry in value.get("events", [])]


def parse(line):
    """The bytes of a line without its line feed, to a Record; raises BadLine."""
    if len(line) > LINE_MAX:
        raise BadLine("longer than %d bytes" % LINE_MAX)
    if line[:1] != b"{":
        raise BadLine("it does not begin with {")
    if b"\r" in line:
        raise BadLine("a carriage return")
    value = read_json(line)
    RECORD(value)
    return Record(value)
