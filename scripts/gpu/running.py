# SPDX-License-Identifier: Apache-2.0
"""Commands with limits, checks that are counted, results that are on the disk after every stage."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

OUTLASTED = 124  # exit status of a command that was ended for its time
ABSENT = 127
KEPT = 4 << 20  # bytes of a command's output


class Done:
    """`whole`: it had all the time that was meant for it."""

    def __init__(self, status, out, err, seconds, limit, whole=True):
        self.status, self.out, self.err, self.seconds, self.limit, self.whole = status, out, err, seconds, limit, whole

    @property
    def text(self):
        """All that it said; of one that a signal ended, which."""
        end = f"\nended by signal {-self.status} ({signal.Signals(-self.status).name})" if self.status < 0 else ""
        return self.out + self.err + end

    @property
    def outlasted(self):
        return self.status == OUTLASTED


class Running:
    """One run of gpu_check: its folders, its time, what was found. `seconds`: all that it may take."""

    def __init__(self, out, seconds):
        self.out, self.seconds, self.start = out, seconds, time.monotonic()
        os.makedirs(out, exist_ok=True)
        self.work = tempfile.mkdtemp(prefix="gpu_check.")
        self.log = open(os.path.join(out, "gpu.log"), "w", encoding="utf-8")
        self.result = {"stages": {}, "tests": {"passed": 0, "failed": 0, "skipped": [], "failures": []}}
        self.stage_end = self.start + seconds
        self.busy, self.asked = False, None

    def stop(self, number, _):
        """The handler of signals that end the run; not between a child's start and the moment from which it is ended with the run, nor while
        a child is being ended."""
        self.asked = number
        if not self.busy:
            self.leave_if_asked()

    def leave_if_asked(self):
        if self.asked is not None:
            number, self.asked = self.asked, None
            raise SystemExit(128 + number)

    def say(self, text):
        print(text, flush=True)
        self.note(text)

    def left(self):
        return self.start + self.seconds - time.monotonic()

    def stage_left(self):
        return min(self.left(), self.stage_end - time.monotonic())

    def note(self, text):
        """For the log alone."""
        self.log.write(text + "\n")
        self.log.flush()

    def path(self, name):
        return os.path.join(self.work, name)

    def command(self, arguments, limit, environment=None):
        """Runs it in a process group of its own, all of which is ended after `limit` seconds or with the stage's or the run's time. Output
        goes to files, so that nothing that holds a pipe open is waited for; nor is a process that a driver does not let go."""
        self.leave_if_asked()
        whole = limit <= self.stage_left()
        limit = min(limit, self.stage_left())
        if limit < 0.5:
            return Done(OUTLASTED, "", "", 0, 0, False)
        begin = time.monotonic()
        with tempfile.TemporaryFile(dir=self.work) as out, tempfile.TemporaryFile(dir=self.work) as err:
            self.busy = True
            try:
                child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, start_new_session=True)
            except OSError as error:
                self.busy = False
                return Done(ABSENT, "", str(error), 0, limit)
            try:
                self.busy = False
                self.leave_if_asked()
                status = child.wait(limit)
            except subprocess.TimeoutExpired:
                status = OUTLASTED
            finally:
                self.busy = True
                end(child)
                self.busy = False
            self.leave_if_asked()
            return Done(status, tail_of(out), tail_of(err), time.monotonic() - begin, limit, whole)

    def count(self, name, good, text):
        tests = self.result["tests"]
        tests["passed" if good else "failed"] += 1
        lines = text.strip().splitlines()
        if not good:
            tests["failures"].append(f"{name}: {text.strip()[-2000:]}")
            for line in lines[-12:-1]:
                self.say("     " + line[:200])
        self.say(f"{'ok  ' if good else 'FAIL'} {name}: {lines[-1][:300] if lines else ''}")

    def skip(self, name, why):
        self.result["tests"]["skipped"].append(f"{name}: {why}")
        self.say(f"skip {name}: {why}")

    def count_run(self, name, done, good=None, text=None, hangs=False):
        """Counts what a command said. One that outlasted its time is skipped, unless it had failed by then, or `hangs`: it has many times
        the time that it needs, and what does not end is a fault."""
        good = done.status == 0 if good is None else good
        if done.outlasted and "FAIL" not in done.text and not (hangs and done.whole):
            self.skip(name, self.why_outlasted(done))
        elif done.outlasted:
            self.count(name, False, done.text + "\n" + self.why_outlasted(done))
        else:
            self.count(name, good, done.text if text is None else text)

    def why_outlasted(self, done):
        if self.left() < 0.5:
            return f"the {self.seconds:.0f} s of this check are over"
        return f"outlasted its {done.limit:.0f} s" if done.whole else "the time of its stage is over"

    def save(self):
        """Whole or not at all, and on the disk."""
        path = os.path.join(self.out, "gpu.json")
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(self.result, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".part", path)


def end(child):
    """What is left of its group, too."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        print(f"process {child.pid} cannot be ended", file=sys.stderr)


def tail_of(file):
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - KEPT))
    return file.read().decode(errors="replace")
