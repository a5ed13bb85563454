"""The chain, epochs and time (log.md sections 3 and 7)."""
import unittest

from log_writer import ID, ZERO, Case, Log

class Chain(Case):
    """Sections 3 and 7."""

    def test_prev_and_index(self):
        for change in ({"prev": ZERO}, {"index": 3}, {"index": 1}):
            self.log = Log()
            self.log.add("barrier", **change)
            self.bad_line()

    def test_genesis(self):
        Log(epoch=False, format=2).write(self.folder)
        code, report = self.verify()
        self.assertEqual((code, report["unknown_from"]), (65, 0), report)
        self.bad("Chain", 0, Log(epoch=False, partition=1))
        self.bad("Chain", 7, Log(first=7, epoch=False, after=[{"log_id": ID, "index": 7, "hash": ZERO}]))
        self.bad("Bad line (1)", 0, Log(epoch=False, first_index=1))
        self.log.add("create", {"genesis": {"format": 1, "log_id": ID, "partition": 0, "partitions": 1, "first_index": 2, "after": []}})
        self.bad("Chain")
        log = Log(epoch=False)
        log.lines[0] = log.lines[0].replace(b'"epoch":0', b'"epoch":1')
        self.bad("Chain", 0, log)
        log.lines[0] = log.lines[0].replace(b'"create"', b'"barrier"')
        self.bad("Chain", 0, log)

    def test_epochs(self):
        log = Log(epoch=False)
        log.add("barrier")
        self.bad("Chain", log=log)
        for change in (dict(epoch=2), dict(epoch=0)):
            self.log = Log()
            self.log.add("barrier", **change)
            self.bad("Chain")
        self.log = Log()
        self.log.epoch = 2
        self.log.activate()
        self.bad("Chain")
        self.log = Log()
        self.log.epoch = 2
        self.log.add("activate", {"epoch_started": {"epoch": 2, "incarnation": "%032x" % 1, "rules": 1}})
        self.bad("Chain")
        self.log = Log()
        self.log.epoch = 2
        self.log.add("activate", {"epoch_started": {"epoch": 2, "incarnation": ID, "rules": 0}})
        self.log.write(self.folder)
        code, report = self.verify()
        self.assertEqual((code, report["unknown_from"]), (65, 2), report)
        self.log = Log()
        self.log.add("activate", {"epoch_started": {"epoch": 3, "incarnation": ID, "rules": 1}}, epoch=2)
        self.bad("Chain")

    def test_time(self):
        self.log.add("barrier", ms=self.log.ms)
        self.good()
        self.log.add("barrier", ms=self.log.ms - 1)
        self.bad("Chain")

    def test_closed(self):
        self.log.add("finish", {"closed": {"next": ID}})
        self.good(tail=b"\0\0")
        self.log.add("barrier")
        self.bad("Chain")


if __name__ == "__main__":
    unittest.main()
