#!/usr/bin/env python3
"""How the Python module starts a program, with a script in the program's place and a package called torch."""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

sys.dont_write_bytecode = True
sys.path.insert(0, "python")
import refine_defense
from refine_defense import _program


class ProgramTest(unittest.TestCase):
    def setUp(self):
        work = tempfile.TemporaryDirectory()
        self.addCleanup(work.cleanup)
        self.folder = pathlib.Path(work.name)
        self.torch("2.13.0+cpu")
        (self.folder / "build.json").write_text('{"refine": "0.1.0", "torch": "2.13.0"}')
        (self.folder / "bin").mkdir()
        self.script('echo "{}"')
        for change in [mock.patch.object(_program, "FOLDER", self.folder),
                       mock.patch.object(sys, "path", [str(self.folder)] + sys.path)]:
            change.start()
            self.addCleanup(change.stop)

    def torch(self, version):
        package = self.folder / "torch"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        (package / "version.py").write_text(f"__all__ = []\n__version__ = '{version}'\n")

    def script(self, text):
        file = self.folder / "bin" / "refine"
        file.write_text("#!/bin/sh\n" + text)
        file.chmod(0o755)

    def run_program(self, *arguments, **keywords):
        """Returns the results, and what was shown meanwhile."""
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown):
            return _program.run(*arguments, **keywords), shown.getvalue()

    def test_Arguments_Values_AreWrittenAsOptions(self):
        self.assertEqual(_program.arguments({"epoch": 10, "mean": (0.5, 0.25), "no_scan": True, "out": "-x", "bgr": False,
                                             "seed": 0, "limit": None}),
                         ["--epoch=10", "--mean=0.5,0.25", "--no_scan", "--out=-x", "--seed=0"])

    def test_Arguments_Switches_AreOnOrOff(self):
        self.assertEqual(_program.arguments({"flip": False, "sync_batch_norm": True}), ["--flip=off", "--sync_batch_norm=on"])
        self.assertEqual(_program.arguments({"flip": None, "no_probe": False}), [])
        self.assertEqual(_program.arguments({"flip": "off"}), ["--flip=off"])

    def test_Defend_FilesOfAnInterruptedCall_AreKept(self):
        inputs = self.folder / "d.report" / "inputs"
        (inputs / "images").mkdir(parents=True)
        (inputs / "model.pt2").write_bytes(b"x")
        (inputs / "images" / "1.pnm").write_bytes(b"x")
        self.script(f'ls {inputs}/images >&2; exit 2')
        with self.assertRaisesRegex(refine_defense.Error, "1.pnm"):  # the program could read them
            refine_defense.defend(inputs / "model.pt2", inputs / "images", out=self.folder / "d.pt2", resume=True)
        self.assertTrue((inputs / "model.pt2").exists() and (inputs / "images" / "1.pnm").exists())
        # The folder itself, and an option in it, too.
        for images, options in ((inputs, {}), (self.folder, {"extra": inputs / "images"})):
            with self.assertRaises(refine_defense.Error):
                refine_defense.defend(self.folder / "m.pt2", images, out=self.folder / "d.pt2", **options)
            self.assertTrue((inputs / "images" / "1.pnm").exists(), images)
        with self.assertRaisesRegex(refine_defense.Error, "contains .*inputs"):
            refine_defense.defend(self.folder / "m.pt2", self.folder / "d.report", out=self.folder / "d.pt2")
        self.assertTrue((inputs / "images" / "1.pnm").exists())

    def test_Run_Call_HasCommandFilesOptionsAndLibraries(self):
        self.script('printf \'{"call": "%s", "libraries": "%s"}\' "$*" "$LD_LIBRARY_PATH"')
        with mock.patch.dict(os.environ, LD_LIBRARY_PATH="/other"):
            result, _ = self.run_program("inspect", pathlib.Path("a.pt"), options={"code": True})
        self.assertEqual(result["call"], "inspect --json a.pt --code")
        self.assertEqual(result["libraries"], f"{self.folder}/torch/lib:/other")

    def test_Run_Notes_AreShownInOrder(self):
        self.script('echo one >&2; echo "warning: two" >&2; echo "{}"')
        self.assertEqual(self.run_program("defend"), ({}, "one\nwarning: two\n"))

    def test_Run_SomethingToLookAt_HasResults(self):
        self.script('echo \'{"decision": "improve"}\'; exit 1')
        self.assertEqual(self.run_program("defend")[0], {"decision": "improve"})

    def test_Run_ErrorOfTheProgram_IsRaisedAndNotShown(self):
        self.script('echo note >&2; echo "error: a.pt: cannot be read" >&2; exit 2')
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown), self.assertRaises(refine_defense.Error) as raised:
            _program.run("inspect", "a.pt")
        self.assertEqual(str(raised.exception), "a.pt: cannot be read")
        self.assertEqual(shown.getvalue(), "note\n")

    def test_Run_ProgramThatCannotStart_IsAnErrorWithTheLoadersLine(self):
        self.script('echo "refine: libc.so.6: version GLIBC_2.99 not found" >&2; exit 1')
        with self.assertRaisesRegex(refine_defense.Error, "GLIBC_2.99"):
            self.run_program("inspect", "a.pt")

    def test_Run_KilledProgram_IsAnErrorWithTheSignal(self):
        self.script("echo 'defense 10%' >&2; kill -9 $$")
        with self.assertRaisesRegex(refine_defense.Error, "refine defend.*signal 9.*memory"):
            self.run_program("defend")

    def test_Run_ErrorBeforeOtherLines_IsTheReason(self):
        self.script("echo 'error: cannot write a.pt: No space left' >&2; echo 'go on with: refine defend' >&2; exit 2")
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown), self.assertRaisesRegex(refine_defense.Error, "^cannot write a.pt: No space left$"):
            _program.run("defend")
        self.assertEqual(shown.getvalue(), "go on with: refine defend\n")

    def test_Run_Interrupt_EndsTheProgramOnceAndWaits(self):
        log = self.folder / "signals"
        self.script(f"trap 'echo TERM >>{log}; echo stopped >&2; exit 143' TERM; trap 'echo INT >>{log}' INT; echo started >&2; "
                    "while :; do sleep 0.05; done")

        class Interrupted(io.StringIO):
            def write(self, text):
                if text == "started\n":
                    raise KeyboardInterrupt
                return super().write(text)

        shown = Interrupted()
        with contextlib.redirect_stderr(shown), self.assertRaises(KeyboardInterrupt):
            _program.run("defend")
        self.assertEqual(log.read_text(), "TERM\n")
        self.assertEqual(shown.getvalue(), "stopped\n")

    def test_Torch_OtherVersion_IsRefusedByBoth(self):
        self.torch("2.14.1")
        with self.assertRaisesRegex(refine_defense.Error, r"got 2\.14\.1, expected 2\.13\.0.*pip install torch==2\.13\.0"):
            self.run_program("defend")

    def test_Torch_None_IsRefusedWithACommand(self):
        with mock.patch.object(_program.importlib.util, "find_spec", return_value=None):
            with self.assertRaisesRegex(refine_defense.Error, r"not installed.*pip install torch==2\.13\.0"):
                self.run_program("defend")

    def test_Module_WithoutProgram_NamesTheWheel(self):
        (self.folder / "build.json").unlink()
        with self.assertRaisesRegex(refine_defense.Error, "tools/package wheel"):
            self.run_program("defend")

    def test_Main_Error_IsOneLineWithStatus(self):
        self.torch("2.4.0")
        with self.assertRaises(SystemExit) as ended:
            _program.main()
        self.assertRegex(str(ended.exception), "^error: torch: wrong version")

    def test_Load_OtherKinds_AreRefusedWithAHint(self):
        for found, text in [({"kind": "ONNX", "accepted": True}, "ONNX Runtime"), ({"kind": "weights"}, "got weights"),
                            ({"files": []}, "got a folder"),
                            ({"kind": "TorchScript", "accepted": False, "objections": ["aten::save"]}, "aten::save")]:
            self.script(f"echo '{json.dumps(found)}'")
            with self.assertRaisesRegex(refine_defense.Error, text):
                refine_defense.load("a.pt")

    def test_Defend_UnknownKindOfFile_IsRefused(self):
        for out in ["a.onnx", "a"]:
            with self.assertRaisesRegex(ValueError, "export"):
                refine_defense.defend("a.pt", "images", out=out)

    def test_Defend_Failure_LeavesNoFolder(self):
        self.script('echo "error: no" >&2; exit 2')
        with self.assertRaises(refine_defense.Error):
            refine_defense.defend("a.pt", "images", out=self.folder / "a.pt2", class_names=["cat", "dog"])
        self.assertFalse((self.folder / "a.report").exists())

    def test_Defend_FailureWithACheckpoint_KeepsWhatResumingReads(self):
        report = self.folder / "a.report"
        self.script(f"mkdir -p {report}/checkpoints; touch {report}/checkpoints/0000000001.safetensors; exit 2")
        with self.assertRaises(refine_defense.Error):
            refine_defense.defend("a.pt", "images", out=self.folder / "a.pt2", class_names=["cat", "dog"])
        self.assertEqual((report / "inputs" / "class_names.txt").read_text(), "cat\ndog\n")

    def test_Defend_FileInTheWay_IsAnError(self):
        self.script("exit 2")
        (self.folder / "a.report").write_text("")
        with self.assertRaisesRegex(refine_defense.Error, "cannot write .*a.report"):
            refine_defense.defend("a.pt", "images", out=self.folder / "a.pt2")

    def test_Defend_SecondProcess_IsRefused(self):
        self.script("echo started >&2; sleep 1; exit 2")
        (self.folder / "a.report").mkdir()
        lock = os.open(self.folder / "a.report", os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with self.assertRaisesRegex(refine_defense.Error, "another process"):
            refine_defense.defend("a.pt", "images", out=self.folder / "a.pt2")
        os.close(lock)

    def test_Defend_ClassNames_BecomeAFile(self):
        self.script('for word; do case $word in --class_names=*) cat "${word#*=}" >&2; esac; done; exit 2')
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown), self.assertRaises(refine_defense.Error):
            refine_defense.defend("a.pt", "images", out=self.folder / "a.pt2", class_names=["cat", "dog"])
        self.assertEqual(shown.getvalue(), "cat\ndog\n")


if __name__ == "__main__":
    unittest.main()
