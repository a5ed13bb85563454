#!/usr/bin/env python3
"""The chain of one partition's log folder and nothing else: python3 chain_check.py FOLDER"""
import glob
import hashlib
import json
import os
import sys

folder = sys.argv[1]
with open(os.path.join(folder, "durable"), "rb") as file:  # read first: a live log grows
    durable = json.loads(file.read())
mark = -1 if durable["index"] is None else durable["index"]
segments = sorted(glob.glob(os.path.join(folder, "[0-9]*.log")))
index, tip, token, torn = None, None, -1, ""
for path in segments:
    name = os.path.basename(path)
    if index is not None and int(name[:20]) != index + 1:
        sys.exit("damage at index %d: the name of %s" % (index + 1, name))
    for number, line in enumerate(open(path, "rb"), 1):
        if path == segments[-1] and not line.strip(b"\0"):
            break  # room written ahead
        expected = int(name[:20]) if index is None else index + 1
        try:
            record = json.loads(line.decode("utf-8"))
            good = line.endswith(b"\n") and record["index"] == expected and tip in (None, record["prev"])
            tokens = [expected for event in record.get("events", []) if "granted" in event]
        except (ValueError, KeyError, TypeError, AttributeError):
            good = False
        if not good and path == segments[-1] and expected > mark:
            torn = ", torn tail from %s:%d" % (name, number)  # after the durable mark: never acknowledged
            break
        if not good or len(tokens) > 1 or (tokens and tokens[0] <= token):
            sys.exit("damage at index %d, %s:%d" % (expected, name, number))
        index, tip, token = expected, hashlib.sha256(line[:-1]).hexdigest(), tokens[0] if tokens else token
        if index == mark and tip != durable["hash"]:
            sys.exit("damage at index %d: not the hash of the durable mark" % index)
if mark > (-1 if index is None else index):
    sys.exit("damage: the log ends before the durable mark, index %d" % mark)
print("chain good: tip %s %s%s" % (index, tip, torn))
