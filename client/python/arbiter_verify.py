#!/usr/bin/env python3
"""Verifies a grant log from its format document (log.md) alone.

    python3 arbiter_verify.py FOLDER [--json] [--quiet]

FOLDER is one partition's log folder, or a data folder with one folder for each partition (`0`, `1`, ...).
Exit: 0 clean, 1 violation, 2 usage, 65 unreadable or cannot check. Lines are read one after the other; memory is what
is live in the log, not its length.

This file has the folder (section 1), the chain (section 3) and the report; arbiter_record has the lines (2, 4, 5),
arbiter_rules the state and its rules (6, 7).
"""
import argparse
import hashlib
import json
import os
import re
import sys
import time

from arbiter_record import HASH, INT, LINE_MAX, BadLine, fields, parse, read_json
from arbiter_rules import CannotCheck, State, Wrong, check_alone

CLEAN, VIOLATION, USAGE, UNREADABLE = 0, 1, 2, 65
ZERO = "0" * 64
MARK_BYTES = 128
SEGMENT = re.compile("[0-9]{20}[.]log")
MANIFEST = re.compile("checkpoint-([0-9]{20})[.]manifest")
PARTITION = re.compile("0|[1-9][0-9]*")
PLACE = fields(segment=INT, offset=INT)
MANIFEST_FIELDS = fields(of=INT, of_hash=HASH, after=PLACE, index=INT, hash=HASH, position=PLACE, body_hash=HASH)


class Unknown(Exception):
    """A format or decision rules that this verifier does not know begin at an index."""

    def __init__(self, index, message):
        Exception.__init__(self, message)
        self.index = index


class Damage(Exception):
    """The first index at which the log is damaged or wrong, where, and which rule."""

    def __init__(self, index, rule, message, file=None, line=None):
        Exception.__init__(self, message)
        self.found = {"index": index, "file": file, "line": line, "rule": rule, "message": message}


# ---- Section 1: the folder -----------------------------------------------------------------------------------------

def segment_names(folder):
    return sorted(name for name in os.listdir(folder) if SEGMENT.fullmatch(name))


def read_mark(folder):
    """The durable mark: (index, hash), (None, None) before any record is durable, or a text that says what is wrong."""
    for attempt in range(3):  # an arbiter at work overwrites it in place
        try:
            with open(os.path.join(folder, "durable"), "rb") as file:
                data = file.read(MARK_BYTES + 1)
        except FileNotFoundError:
            return "durable is missing"
        try:
            value = read_json(data)
            if value != {"index": None, "hash": None}:
                fields(index=INT, hash=HASH)(value)
            body = json.dumps({"index": value["index"], "hash": value["hash"]}, separators=(",", ":")).encode()
            if data != body.ljust(MARK_BYTES - 1) + b"\n":
                raise BadLine("not the 128 bytes that say this")
            return value["index"], value["hash"]
        except BadLine as error:
            problem = "durable is not as described: %s" % error
        time.sleep(0.02)
    return problem


def read_manifests(folder, notes):
    """Checkpoints: the manifests that can be read, by the index of their `checkpoint` record."""
    found = {}
    for name in sorted(os.listdir(folder)):
        match = MANIFEST.fullmatch(name)
        if match:
            try:
                with open(os.path.join(folder, name), "rb") as file:
                    data = file.read(65536)
                if data[-1:] != b"\n" or b"\n" in data[:-1]:
                    raise BadLine("not one line")
                manifest = read_json(data[:-1])
                MANIFEST_FIELDS(manifest)
                if manifest["of"] != int(match.group(1)):
                    raise BadLine("not the `of` of its name")
                found[manifest["index"]] = manifest
            except FileNotFoundError:
                pass  # the newest two are kept: it was replaced
            except BadLine as error:
                notes.append("%s cannot be used: %s" % (name, error))
    return found


def body_hash(folder, manifest):
    """SHA-256 of the checkpoint's body, or None if there is none."""
    total = hashlib.sha256()
    try:
        with open(os.path.join(folder, "checkpoint-%020d.jsonl" % manifest["of"]), "rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                total.update(piece)
    except FileNotFoundError:
        return None
    return total.hexdigest()


def is_start(folder, manifest):
    """Starting at a checkpoint: body, record and place of this manifest are all there."""
    after, position = manifest["after"], manifest["position"]
    if body_hash(folder, manifest) != manifest["body_hash"] or "%020d.log" % after["segment"] not in segment_names(folder):
        return False
    try:
        with open(os.path.join(folder, "%020d.log" % position["segment"]), "rb") as file:
            file.seek(position["offset"])
            line = file.readline(LINE_MAX + 1).rstrip(b"\n")
        if hashlib.sha256(line).hexdigest() != manifest["hash"]:
            return False
        record = parse(line)
    except (FileNotFoundError, BadLine):
        return False
    return (record.index == manifest["index"] and record.command == "checkpoint"
            and record.events == [("checkpoint", {"of": manifest["of"], "hash": manifest["body_hash"]})])


def lines(file):
    """(offset, line with its line feed). A line that is too long or has no end comes as far as it was read."""
    offset = 0
    while True:
        line = file.readline(LINE_MAX + 1)
        if not line:
            return
        yield offset, line
        offset += len(line)


def only_zeros(file, offset):
    """Zeros: nothing but 0x00 from here to the end of the file."""
    file.seek(offset)
    return all(piece.count(0) == len(piece) for piece in iter(lambda: file.read(1 << 20), b""))


# ---- one partition -------------------------------------------------------------------------------------------------

class Verifier:
    def __init__(self, folder, partition=None):
        self.folder, self.partition = folder, partition
        self.notes, self.counts = [], {"records": 0, "epochs": 0, "sessions": 0, "grants": 0}
        self.index, self.hash = None, ZERO  # the tip
        self.started = None  # the last epoch_started
        self.at = self.epoch = self.first = self.state = self.rules_from = self.torn = None
        self.began_with_genesis = self.closed = False
        self.mark, self.manifests, self.of_hashes = "durable was not read", {}, {}
        self.file = self.line = self.last_segment = None
        self.expected = 0  # the index of the record that comes next

    def run(self):
        # The names are listed before the mark is read, for how far it may lag, and after, for how far it may be ahead.
        before = segment_names(self.folder)
        self.manifests = read_manifests(self.folder, self.notes)
        self.of_hashes = {manifest["of"]: None for manifest in self.manifests.values()}
        self.mark = read_mark(self.folder)
        segments = segment_names(self.folder)
        if not segments and type(self.mark) is str:
            raise OSError("no segment, and " + self.mark)
        self.expected = int(segments[0][:20]) if segments else 0
        for name in segments:
            self.last_segment = name == segments[-1]
            self.read_segment(name)
        self.check_folder(before, segments)

    def damage(self, index, rule, message, file=None, line=None):
        raise Damage(index, rule, message, file or self.file, line if file else self.line)

    def read_segment(self, name):
        self.file, self.line = name, 0
        first = int(name[:20])
        if self.index is not None and first != self.index + 1:
            self.damage(self.expected, "Segments (1)", "the segment's name is not the next index")
        with open(os.path.join(self.folder, name), "rb") as file:
            for offset, line in lines(file):
                if line[:1] == b"\0" and self.last_segment and only_zeros(file, offset):
                    break
                self.line += 1
                try:
                    if line[-1:] != b"\n":
                        raise BadLine("longer than a record may be" if len(line) > LINE_MAX else "no line feed")
                    record = parse(line[:-1])
                    self.extends(record)
                except BadLine as error:
                    self.bad_line(first, offset, file.seek(0, 2), error)
                    return
                self.take(record, hashlib.sha256(line[:-1]).hexdigest(), first, offset)
        if not self.line and not self.last_segment:
            self.damage(self.expected, "Segments (1)", "a segment without a line that is not the last")

    def extends(self, record):
        """Section 3, Rule: `prev` is the tip's hash, `index` the tip's index + 1."""
        if self.index is None:
            if record.command != "create":
                return  # a log whose older segments are gone: its `prev` is taken as it stands
            if record.prev != ZERO:
                raise BadLine("a genesis with a prev")
            if record.events and record.events[0][0] == "genesis" and record.events[0][1]["first_index"] != record.index:
                raise BadLine("index is not first_index")
        elif record.prev != self.hash:
            raise BadLine("prev is not the hash of the record before")
        elif record.index != self.index + 1:
            raise BadLine("index %d after %d" % (record.index, self.index))

    def bad_line(self, first, offset, size, error):
        """Section 1: a torn tail after the durable mark in the last segment, else damage."""
        expected = self.expected
        if self.last_segment and type(self.mark) is tuple and (self.mark[0] is None or expected > self.mark[0]):
            self.torn = {"index": expected, "file": self.file, "line": self.line, "bytes": size - offset,
                         "message": str(error)}
        else:
            self.damage(expected, "Bad line (1)", "%s%s" % (error, "" if type(self.mark) is tuple else "; " + self.mark))

    def take(self, record, digest, first, offset):
        """A record that extends the chain: from here on nothing is a torn tail."""
        try:
            if self.index is None:
                self.begin(record, first)
            self.check_chain(record)
            if type(self.mark) is tuple and record.index == self.mark[0] and digest != self.mark[1]:
                raise Wrong("Durable mark (1)", "the record has another hash than the durable mark says")
            if self.rules_from is None or record.index >= self.rules_from:
                check_alone(record)
            if self.state and self.counts["records"]:
                self.state.take(record)
            if record.command == "checkpoint":
                self.check_checkpoint(record, digest, first, offset)
        except Wrong as error:
            self.damage(self.expected, error.rule, str(error))
        except CannotCheck as error:
            raise Unknown(record.index, "cannot check from index %d (%s, line %d): %s"
                          % (record.index, self.file, self.line, error)) from None
        self.index, self.hash, self.at, self.epoch = record.index, digest, record.at, record.epoch
        if record.index in self.of_hashes:
            self.of_hashes[record.index] = digest
        self.expected = self.index + 1
        self.counts["records"] += 1
        for name, _ in record.events:
            counted = {"epoch_started": "epochs", "opened": "sessions", "granted": "grants"}.get(name)
            if counted:
                self.counts[counted] += 1
        self.closed = record.command == "finish"

    def begin(self, record, first):
        """The first record: the genesis (section 3), or a start at a checkpoint (section 7)."""
        self.first = record.index
        if record.index != first:
            raise Wrong("Segments (1)", "the first record has not the index of the segment's name")
        self.began_with_genesis = record.command == "create"
        if self.began_with_genesis:
            if [name for name, _ in record.events] != ["genesis"] or record.epoch != 0 or record.renewed:
                raise Wrong("Chain", "the genesis has an epoch, renewals, or not the one event")
            self.state = State(record)
            if self.partition not in (None, self.state.genesis["partition"]):
                raise Wrong("Folder (1)", "the folder is not named by the genesis' partition")
            return
        usable = [manifest for manifest in self.manifests.values() if is_start(self.folder, manifest)]
        if record.prev == ZERO or not usable:
            raise Wrong("Chain", "the first record is no genesis, and no checkpoint is there to start at")
        newest = max(usable, key=lambda manifest: manifest["of"])
        self.rules_from = newest["of"] + 1
        if type(self.mark) is tuple and self.mark[0] == record.index - 1 and self.mark[1] != record.prev:
            raise Wrong("Durable mark (1)", "prev is not the hash in the durable mark")
        self.notes.append("starts at index %d, not at the genesis; checkpoint of %d. Checked: the chain, and from index %d "
                          "the rules that need no state" % (record.index, newest["of"], self.rules_from))

    def check_chain(self, record):
        """Sections 3 and 7, Chain: genesis once, epochs, time, nothing after `closed`."""
        if self.closed:
            raise Wrong("Chain", "a record after closed")
        if self.index is None:
            return
        if record.command == "create" or any(name == "genesis" for name, _ in record.events):
            raise Wrong("Chain", "a second genesis")
        if record.at < self.at:
            raise Wrong("Chain", "at is lower than that of the record before")
        started = [event for name, event in record.events if name == "epoch_started"]
        if self.began_with_genesis and self.counts["records"] == 1 and not started:
            raise Wrong("Chain", "the record after the genesis is no epoch_started")
        if record.epoch != self.epoch + (1 if started else 0) or any(e["epoch"] != record.epoch for e in started):
            raise Wrong("Chain", "epoch %d after %d" % (record.epoch, self.epoch))
        for event in started:
            if self.started and event["incarnation"] == self.started["incarnation"]:
                raise Wrong("Chain", "the incarnation of the epoch before")
            self.started = event

    def check_checkpoint(self, record, digest, first, offset):
        """Section 7, Checkpoint: `of`, and the body's hash where the body is at hand (a manifest says that it is whole)."""
        event, manifest = record.events[0][1], self.manifests.get(record.index)
        if event["of"] < self.first - (0 if self.began_with_genesis else 1):
            raise Wrong("Checkpoint", "of is below the first record")
        if not manifest:
            return
        if manifest["of"] == event["of"] and body_hash(self.folder, manifest) not in (None, event["hash"]):
            raise Wrong("Checkpoint", "the body has another hash")
        if (manifest["of"], manifest["body_hash"], manifest["hash"], manifest["position"]) != \
                (event["of"], event["hash"], digest, {"segment": first, "offset": offset}) \
                or self.of_hashes.get(event["of"]) not in (None, manifest["of_hash"]):
            self.notes.append("the manifest of %d does not agree with the log: nobody may start there" % manifest["of"])

    def check_folder(self, before, segments):
        """Section 1, at the end: the durable mark against the tip, the segments and the manifests; names."""
        if type(self.mark) is str:
            if segments:
                raise Damage(self.expected, "Durable mark (1)", self.mark, "durable")
            return
        marked, tip = self.mark[0], self.index
        if marked is not None and (marked > tip if tip is not None else True):
            raise Damage(self.expected, "Durable mark (1)",
                         "the log ends before the durable mark, index %d" % marked, self.file, self.line)
        behind = -1 if marked is None else marked
        if len(before) > 1 or (before and self.index is not None and not self.began_with_genesis):
            if behind < int(before[-1][:20]) - 1:
                raise Damage(int(before[-1][:20]) - 1, "Durable mark (1)",
                             "the durable mark is below the record before the last segment's first", "durable", 1)
        for index in sorted(self.manifests):
            if behind < index:
                raise Damage(index, "Durable mark (1)", "the durable mark is below a manifest's index", "durable", 1)
        for name in sorted(os.listdir(self.folder)):
            if name.endswith(".log") and not SEGMENT.fullmatch(name):
                raise Damage(self.expected, "Folder (1)", "a segment's name is not 20 digits", name)

    def report(self):
        live = None
        if self.state:
            live = {"sessions": len(self.state.sessions), "waiting": self.state.waiting,
                    "held": len(self.state.grants), "delayed": len(self.state.delays)}
        marked = self.mark[0] if type(self.mark) is tuple else None
        return dict(self.counts, tip=None if self.index is None else {"index": self.index, "hash": self.hash},
                    durable=marked, live=live, torn_tail=self.torn, notes=self.notes)


def verify(folder, partition=None):
    """A partition's folder to (exit code, report)."""
    verifier = Verifier(folder, partition)
    code, extra = CLEAN, {}
    try:
        verifier.run()
    except Damage as error:
        code, extra = VIOLATION, {"violation": error.found}
    except Unknown as error:
        code, extra = UNREADABLE, {"unreadable": str(error), "unknown_from": error.index}
    except OSError as error:
        code, extra = UNREADABLE, {"unreadable": str(error)}
    verdict = {CLEAN: "clean", VIOLATION: "violation", UNREADABLE: "unreadable"}[code]
    return code, dict({"verdict": verdict}, **dict(verifier.report(), **extra))


# ---- the report ----------------------------------------------------------------------------------------------------

def print_report(name, report):
    print("%s: %s" % (name, report["verdict"]))
    if "violation" in report:
        found = report["violation"]
        where = found["file"] + (":%d" % found["line"] if found["line"] else "")
        print("  first bad: index %d, %s: %s: %s" % (found["index"], where, found["rule"], found["message"]))
    if "unreadable" in report:
        print("  " + report["unreadable"])
    print("  %(records)d records, %(epochs)d epochs, %(sessions)d sessions, %(grants)d grants" % report)
    if report["tip"]:
        print("  tip %(index)d %(hash)s" % report["tip"])
    if report["live"]:
        print("  live at the end: %(sessions)d sessions, %(waiting)d waiting, %(held)d held, %(delayed)d delays"
              % report["live"])
    if report["torn_tail"]:
        print("  torn tail, never acknowledged: %(bytes)d bytes from %(file)s:%(line)d (%(message)s)" % report["torn_tail"])
    for note in report["notes"]:
        print("  note: " + note)


def folders(path):
    """[(name, folder, partition or None)]"""
    names = os.listdir(path)
    if "durable" in names or any(name.endswith(".log") for name in names):
        return [(path, path, None)]
    found = sorted(int(n) for n in names if PARTITION.fullmatch(n) and os.path.isdir(os.path.join(path, n)))
    if not found:
        raise OSError("neither a log nor a data folder: " + path)
    return [("partition %d" % number, os.path.join(path, str(number)), number) for number in found]


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Verifies a grant log, from its format document alone.")
    parser.add_argument("folder", metavar="FOLDER", help="a partition's log folder, or a data folder")
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    parser.add_argument("--quiet", action="store_true", help="nothing but the exit code")
    options = parser.parse_args(arguments)
    try:
        results = [(name,) + verify(folder, partition) for name, folder, partition in folders(options.folder)]
    except OSError as error:
        results = [(options.folder, UNREADABLE, {"verdict": "unreadable", "unreadable": str(error), "records": 0, "epochs": 0,
                                                 "sessions": 0, "grants": 0, "tip": None, "live": None,
                                                 "durable": None, "torn_tail": None, "notes": []})]
    codes = [code for _, code, _ in results]
    worst = VIOLATION if VIOLATION in codes else max(codes)
    if options.json and not options.quiet:
        verdict = {CLEAN: "clean", VIOLATION: "violation", UNREADABLE: "unreadable"}[worst]
        print(json.dumps({"verdict": verdict, "logs": [dict({"log": name}, **report) for name, _, report in results]}))
    elif not options.quiet:
        for name, _, report in results:
            print_report(name, report)
    return worst


if __name__ == "__main__":
    sys.exit(main())
