"""The folder (log.md section 1): segments, the durable mark, checkpoints; and the command."""
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import unittest
import unittest.mock

from log_writer import HERE, ZERO, Case, Log, write_mark

import arbiter_verify

class Folder(Case):
    """Section 1."""

    def three(self):
        for _ in range(3):
            self.log.add("barrier")

    def test_torn_tail_after_the_mark(self):
        self.three()
        for tail in (b"{", b"{}\n", self.log.lines[0], b"{\0\0", b"\0x", b"\n" * 9):
            report = self.good(tail=tail)
            self.assertEqual((report["torn_tail"]["index"], report["torn_tail"]["line"], report["torn_tail"]["bytes"]), (5, 6, len(tail)))
        self.assertEqual(self.good(tail=self.log.lines[0][:9], mark=2)["torn_tail"]["bytes"], 9)
        self.log.lines[3] = self.log.lines[3].replace(b"barrier", b"barrieR")
        rest = sum(map(len, self.log.lines[3:]))
        self.assertEqual(self.good(mark=2, tail=b"x" * 5)["torn_tail"]["bytes"], rest + 5)
        self.bad("Bad line (1)", 3, mark=3)

    def test_torn_in_an_earlier_segment(self):
        self.three()
        self.log.lines[3] = self.log.lines[3][:-1] + b"\0\n"
        self.bad("Bad line (1)", 3, splits=[4], mark="null")

    def test_zeros_at_the_end(self):
        self.three()
        self.assertIsNone(self.good(tail=b"\0" * 5000)["torn_tail"])
        self.assertIsNone(self.good(tail=b"\0" * 3000000)["torn_tail"])
        self.log.lines[2] += b"\0" * 20
        self.bad("Bad line (1)", 3, splits=[3])

    def test_all_torn_before_anything_is_durable(self):
        for data in (b"{", b"", b"\0" * 100):
            with open(os.path.join(self.folder, "%020d.log" % 0), "wb") as file:
                file.write(data)
            write_mark(self.folder, "null")
            code, report = self.verify()
            self.assertEqual((code, report["tip"], bool(report["torn_tail"])), (0, None, data == b"{"))
        write_mark(self.folder, 0)
        self.found("Durable mark (1)", 0)

    def test_mark(self):
        self.three()
        self.good(mark="null")
        self.good(mark=2)
        self.bad("Durable mark (1)", 5, mark=5)
        write_mark(self.folder, 3, digest="ab" * 32)
        self.found("Durable mark (1)", 3)
        good = b'{"index":null,"hash":null}'
        for data in (b"", good + b"\n", good.ljust(128), good.ljust(126) + b"\n\n", b'{"index": null,"hash":null}'.ljust(127) + b"\n",
                     b'{"index":1,"hash":null}'.ljust(127) + b"\n", good.ljust(128) + b"\n", b'{"index":null}'.ljust(127) + b"\n"):
            write_mark(self.folder, None, data=data)
            self.found("Durable mark (1)", 5)
        os.remove(os.path.join(self.folder, "durable"))
        self.found("Durable mark (1)", 5)

    def test_a_mark_being_overwritten_is_read_again(self):
        """The first look finds it half written."""
        self.log.write(self.folder)
        with open(os.path.join(self.folder, "durable"), "rb") as file:
            whole = file.read()
        write_mark(self.folder, None, data=whole[:9] + b"x" * 119)

        def sleep(_):
            write_mark(self.folder, None, data=whole)
        with unittest.mock.patch("time.sleep", sleep):
            self.assertEqual(self.verify()[0], 0)

    def test_a_log_that_grows_meanwhile(self):
        """The mark is read before the records, and after the names of what it may not be behind."""
        self.three()
        self.log.write(self.folder, splits=[4], mark=3)
        read_mark = arbiter_verify.read_mark

        def grow(folder):
            mark = read_mark(folder)
            self.three()
            self.log.write(folder, splits=[4, 7], mark=8)
            return mark
        with unittest.mock.patch("arbiter_verify.read_mark", grow):
            code, report = self.verify()
        self.assertEqual((code, report["tip"]["index"], report["durable"]), (0, 7, 3), report)

    def test_no_segment(self):
        write_mark(self.folder, "null")
        self.assertEqual(self.verify()[0], 0)
        write_mark(self.folder, 4)
        self.found("Durable mark (1)", 0)

    def test_without_a_mark_a_bad_line_is_damage(self):
        self.log.write(self.folder, mark=None, tail=b"{")
        self.found("Bad line (1)", 2)

    def test_mark_behind_the_last_segment(self):
        self.three()
        self.good(splits=[4], mark=3)
        self.bad("Durable mark (1)", 3, splits=[4], mark=2)
        self.bad("Durable mark (1)", 3, splits=[4], mark="null")

    def test_segments(self):
        self.three()
        self.good(splits=[2, 5])
        self.log.write(self.folder, splits=[2])
        os.rename(os.path.join(self.folder, "%020d.log" % 2), os.path.join(self.folder, "%020d.log" % 3))
        self.found("Segments (1)", 2)

    def test_empty_segment(self):
        self.three()
        open(os.path.join(self.folder, "%020d.log" % 5), "wb").close()
        self.good()
        open(os.path.join(self.folder, "%020d.log" % 6), "wb").close()
        self.found("Segments (1)", 5)

    def test_segment_is_missing(self):
        self.three()
        self.log.write(self.folder, splits=[2, 4])
        os.remove(os.path.join(self.folder, "%020d.log" % 2))
        self.found("Segments (1)", 2)

    def test_first_segment_has_another_name(self):
        self.log.write(self.folder)
        os.rename(os.path.join(self.folder, "%020d.log" % 0), os.path.join(self.folder, "%020d.log" % 1))
        self.found("Segments (1)", 1)

    def test_the_first_line_is_not_the_genesis(self):
        """The index is that of the segment's name: the record that should stand there."""
        self.three()
        del self.log.lines[0]
        self.log.write(self.folder)
        self.found("Segments (1)", 0)
        self.log.first = 1
        self.log.write(self.folder)
        self.found("Chain", 1)

    def test_names(self):
        for name in ("lock", "readme", "1.log.tmp"):
            open(os.path.join(self.folder, name), "wb").close()
        self.good()
        open(os.path.join(self.folder, "1.log"), "wb").close()
        self.found("Folder (1)", 2)

    def test_data_folder(self):
        for partition in (0, 1):
            os.mkdir(os.path.join(self.folder, str(partition)))
            Log(2, partition).write(os.path.join(self.folder, str(partition)))
        self.assertEqual(self.main(self.folder)[0], 0)
        Log(2, 0).write(os.path.join(self.folder, "1"))
        code, out = self.main(self.folder, "--json")
        self.assertEqual(code, 1)
        self.assertEqual([log["verdict"] for log in json.loads(out)["logs"]], ["clean", "violation"])

    def main(self, *arguments):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = arbiter_verify.main(list(arguments))
        return code, out.getvalue()

    def test_exit_codes(self):
        self.assertEqual(self.main(self.folder)[0], 65)
        self.assertEqual(self.main(os.path.join(self.folder, "none"))[0], 65)
        with self.assertRaises(SystemExit) as stop, contextlib.redirect_stderr(io.StringIO()):
            arbiter_verify.main([])
        self.assertEqual(stop.exception.code, 2)
        self.log.activate(rules=2)
        self.log.raw(b"{}")
        self.log.write(self.folder)
        code, out = self.main(self.folder)
        self.assertEqual((code, "cannot check from index 2" in out), (65, True), out)
        self.log = Log()
        self.log.add("barrier")
        self.log.write(self.folder)
        self.assertEqual((self.main(self.folder, "--quiet")), (0, ""))

    def test_chain_check(self):
        def run():
            return subprocess.run([sys.executable, os.path.join(HERE, "chain_check.py"), self.folder], stderr=subprocess.PIPE,
                                  stdout=subprocess.PIPE, universal_newlines=True)
        self.three()
        self.log.write(self.folder, splits=[3], tail=b"\0" * 99)
        self.assertEqual(run().returncode, 0)
        self.log.write(self.folder, splits=[3], tail=b"{}\n")
        self.assertIn("torn tail from %020d.log:3" % 3, run().stdout)
        self.log.lines[3] = self.log.lines[3].replace(b"barrier", b"finishh")
        self.log.write(self.folder, splits=[3], mark=5)
        self.assertIn("damage at index 4", run().stderr)


class Checkpoints(Case):
    def prepare(self, of=4, body=b'{"state":1}\n'):
        for _ in range(4):
            self.log.add("barrier")
        self.record = self.log.add("checkpoint", {"checkpoint": {"of": of, "hash": hashlib.sha256(body).hexdigest()}})
        self.log.add("barrier")
        with open(os.path.join(self.folder, "checkpoint-%020d.jsonl" % of), "wb") as file:
            file.write(body)
        offset = sum(map(len, self.log.lines[4:self.record]))
        manifest = {"of": of, "of_hash": self.log.hash_of(of), "after": {"segment": 4, "offset": len(self.log.lines[4])},
                    "index": self.record, "hash": self.log.hash_of(self.record), "position": {"segment": 4, "offset": offset},
                    "body_hash": hashlib.sha256(body).hexdigest()}
        self.manifest = os.path.join(self.folder, "checkpoint-%020d.manifest" % of)
        with open(self.manifest, "w") as file:
            file.write(json.dumps(manifest) + "\n")

    def remove_first(self):
        os.remove(os.path.join(self.folder, "%020d.log" % 0))

    def test_start_at_a_checkpoint(self):
        self.prepare()
        self.assertEqual(self.good(splits=[4])["notes"], [])
        self.remove_first()
        code, report = self.verify()
        self.assertEqual((code, report["records"], report["live"]), (0, 4, None), report)
        self.assertIn("starts at index 4", report["notes"][0])
        os.remove(self.manifest)
        self.found("Chain", 4)

    def test_rules_without_state_after_a_start(self):
        self.prepare()
        self.log.add("barrier", {"closed": {}})
        self.log.write(self.folder, splits=[4])
        self.remove_first()
        self.found("Commands and events", 8)

    def test_body(self):
        self.prepare()
        with open(os.path.join(self.folder, "checkpoint-%020d.jsonl" % 4), "ab") as file:
            file.write(b"x")
        self.bad("Checkpoint", self.record, splits=[4])
        self.remove_first()
        self.found("Chain", 4)

    def test_mark_below_the_manifest(self):
        self.prepare()
        self.bad("Durable mark (1)", self.record, splits=[4], mark=5)

    def test_of(self):
        self.log.add("checkpoint", {"checkpoint": {"of": 2, "hash": ZERO}})
        self.bad("Checkpoint")
        self.log = Log(first=5)
        self.log.add("checkpoint", {"checkpoint": {"of": 4, "hash": ZERO}})
        self.bad("Checkpoint")


if __name__ == "__main__":
    unittest.main()
