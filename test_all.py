#!/usr/bin/env python3
"""Tests of everything: python3 -m unittest test_all, or python3 test_all.py Engine.test_traps.

Standard library only.  Classes stand in the order of the layers.  Loopback addresses serve as
hosts; what needs root and `ip` makes network namespaces of its own (class Live), and is skipped
otherwise; LIVE=required turns a skip into a failure.  TEST_ALL=1 adds the long ones.
SEED=N repeats the random ones.
"""

import collections
import contextlib
import errno
import fcntl
import itertools
import os
import pty
import random
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

import cba_reader           # noqa: E402 - the three stand beside this file
import compile_targets      # noqa: E402
import cscan                # noqa: E402

SEED = int(os.environ.get('SEED') or random.SystemRandom().getrandbits(32))
TEST_ALL = os.environ.get('TEST_ALL') == '1'
REQUIRED = os.environ.get('LIVE') == 'required'
LINGER_NONE = struct.pack('ii', 1, 0)


def setUpModule():
    sys.stderr.write('SEED=%d\n' % SEED)


# ==== Helpers ===========================================================================

def tool(name, *args):
    """argv that runs one of our files with the interpreter under test."""
    return [sys.executable, os.path.join(HERE, name)] + [str(arg) for arg in args]


def run(name, *args, stdin=b'', timeout=60, **keywords):
    """Run one of our files to its end -> (status, stdout, stderr) as text."""
    process = subprocess.Popen(tool(name, *args), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, **keywords)
    try:
        out, err = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out.decode('utf-8', 'replace'), err.decode('utf-8', 'replace')


def wait_until(true, seconds=20):
    """Wait for a condition; returns its value, fails after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = true()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError('waited %s s for %s' % (seconds, true))


@contextlib.contextmanager
def patched(thing, **values):
    """Attributes of a module or object, changed for a while."""
    before = {name: getattr(thing, name) for name in values}
    for name, value in values.items():
        setattr(thing, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(thing, name, value)


class Folder(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder, True)

    def path(self, name, data=None):
        path = os.path.join(self.folder, name)
        if data is not None:
            with open(path, 'wb') as file:
                file.write(data)
        return path


class Hosts:
    """Loopback sockets that play the hosts of a net."""

    def __init__(self, case):
        self.case = case

    def keep(self, sock):
        self.case.addCleanup(sock.close)
        return sock

    def listener(self, host='127.0.0.1', port=0, backlog=100):
        sock = self.keep(socket.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(backlog)
        return sock

    def open(self, host='127.0.0.1', port=0):
        """A target that accepts."""
        return self.listener(host, port).getsockname()

    def closed(self, host='127.0.0.1'):
        """A target that refuses: bound, so that nobody else takes it, and not listening."""
        sock = self.keep(socket.socket())
        sock.bind((host, 0))
        return sock.getsockname()

    def silent(self, host='127.0.0.1'):
        """A target that does not answer: Linux drops SYNs to a listener whose queue is full."""
        address = self.listener(host, backlog=0).getsockname()
        for _ in range(3):
            sock = self.keep(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
        probe = self.keep(socket.socket())
        probe.setblocking(False)
        probe.connect_ex(address)
        assert probe.connect_ex(address) == errno.EALREADY, 'a full listener answers here'
        return address


class StubCrew:
    """Takes results; says that it is full when told."""

    def __init__(self):
        self.results, self.held, self.enough = [], False, False

    def put(self, host, port):
        self.results.append((host, port))

    def full(self):
        return self.held


class StubConsole:
    """Keeps notes."""
    gone, failed, tty, quiet = False, '', False, True

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    progress = note

    def status(self, text):
        self.notes.append(text)

    def clear(self):
        pass


class StubSink:
    failed = ''


# ==== Engine ============================================================================

FREE_PORT = itertools.count(20000 + os.getpid() % 9000)    # source ports of tests, below ephemeral


class Engine(unittest.TestCase):
    """Connects, answers, deadlines, local errors: against real sockets of this kernel."""

    def setUp(self):
        self.hosts = Hosts(self)
        self.crew, self.console = StubCrew(), StubConsole()

    def engine(self, targets, timeout_s=0.2, window=8, rate=None, syns=1, port=None, **options):
        """An engine over a list of targets, ready for its methods or run()."""
        pace = cscan.Pace(timeout_s, window, rate, syns)
        engine = cscan.Engine(iter([tuple(target) for target in targets]), pace,
                              port=next(FREE_PORT) if port is None else port, **options)
        engine.bind_first(50)
        self.addCleanup(self.close, engine)
        engine.crew, engine.console, engine.sink = self.crew, self.console, StubSink()
        engine.progress = cscan.Progress(self.console, 1 << 40, None, None)
        return engine

    def close(self, engine):
        for sock in engine.socks.values():
            sock.close()
        engine.epoll.close()

    def run_engine(self, targets, **options):
        engine = self.engine(targets, **options)
        engine.run(self.crew, StubSink(), self.console, engine.progress)
        self.assertEqual(engine.attempts, {})
        return engine

    def pass_deadline(self, engine):
        """Make everything under way overdue, without a look at the events."""
        engine.now += engine.pace.timeout_s + 0.001

    def accept_and_reset(self, listener, half_close=False):
        peer, _ = listener.accept()
        if half_close:
            peer.shutdown(socket.SHUT_WR)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        peer.close()

    def test_tells_apart(self):
        opened = [self.hosts.open() for _ in range(5)]
        closed = [self.hosts.closed() for _ in range(5)]
        silent = [self.hosts.silent() for _ in range(3)]
        for port in (None, 0):
            for window in (1, 3, 100):
                with self.subTest(port=port, window=window):
                    self.crew.results = []
                    targets = opened + silent + closed
                    engine = self.run_engine(targets, port=port, window=window, timeout_s=0.05)
                    self.assertEqual(sorted(self.crew.results), sorted(opened))
                    self.assertEqual(engine.answers, {errno.ECONNREFUSED: 5})
                    self.assertEqual((engine.timeouts, engine.sent), (3, 13))

    def test_result_comes_from_its_target(self):
        """Many targets over few sockets: exactly the open ones, each once."""
        opened = {self.hosts.open('127.0.%d.%d' % (i, i)) for i in range(1, 40)}
        rng = random.Random(SEED)
        targets = list(opened) + [('127.9.%d.%d' % (i >> 8, i & 255), 9) for i in range(3000)]
        rng.shuffle(targets)
        engine = self.run_engine(targets, window=7, timeout_s=2)
        self.assertEqual(sorted(self.crew.results), sorted(opened))
        self.assertEqual(engine.answers, {errno.ECONNREFUSED: 3000})
        self.assertLessEqual(len(engine.socks), 7)

    def test_refused_at_the_deadline(self):
        """shutdown() gives ENOTCONN and the socket is dead: the answer counts, it is replaced."""
        engine = self.engine([self.hosts.closed(), self.hosts.open()], window=1)
        engine.launch(1)
        before = list(engine.socks.values())
        self.pass_deadline(engine)
        self.assertEqual(engine.turn_over(1), 0)
        self.assertEqual(engine.answers, {errno.ECONNREFUSED: 1})
        self.assertNotEqual(list(engine.socks.values()), before)
        self.assertEqual((engine.timeouts, engine.attempts), (0, {}))
        engine.launch(1)
        engine.collect(engine.epoll.poll(1))
        self.assertEqual(len(self.crew.results), 1)

    def test_open_at_the_deadline(self):
        """Established before shutdown(), seen by no event: reported, and of the old target."""
        for credit, after in ((1, 'turn_over with a new target'), (0, 'no new target')):
            with self.subTest(after=after):
                self.crew.results = []
                old, new = self.hosts.open(), self.hosts.silent()
                engine = self.engine([old, new], window=1)
                engine.launch(1)
                self.pass_deadline(engine)
                engine.turn_over(credit)
                self.assertEqual(self.crew.results, [old])
                self.assertEqual((engine.timeouts, engine.attempts), (0, {}))
                engine.launch(1)            # the new target has lost nothing but time
                self.assertEqual(list(engine.attempts.values()), [new])
                self.assertEqual(engine.sent, 2)

    def test_accepted_and_reset_is_open(self):
        """ECONNRESET and EPIPE mean a completed handshake, at an event and at the deadline."""
        for half_close in (False, True):
            for overdue in (False, True):
                with self.subTest(half_close=half_close, overdue=overdue):
                    self.crew.results = []
                    listener = self.hosts.listener()
                    target = listener.getsockname()
                    engine = self.engine([target])
                    engine.launch(1)
                    self.accept_and_reset(listener, half_close)
                    if overdue:
                        self.pass_deadline(engine)
                        engine.turn_over(0)
                    else:
                        engine.collect(engine.epoll.poll(1))
                    self.assertEqual(self.crew.results, [target])
                    self.assertEqual((engine.timeouts, engine.answers), (0, {}))
                    self.assertEqual(len(engine.free), 1)

    def test_socket_connected_to_itself(self):
        engine = self.engine([])
        engine.source = iter([('127.0.0.1', engine.port)])
        for overdue in (False, True):
            with self.subTest(overdue=overdue):
                engine.wait_for(('127.0.0.1', engine.port), 0)
                engine.launch(1)
                if overdue:
                    self.pass_deadline(engine)
                    engine.turn_over(0)
                else:
                    engine.collect(engine.epoll.poll(1))
                self.assertEqual(self.crew.results, [])
                self.assertEqual(engine.selfs, 1 + overdue)

    def test_stray_event_of_shutdown(self):
        """shutdown() leaves one HUP behind: it belongs to nobody."""
        engine = self.engine([self.hosts.silent()])
        engine.launch(1)
        self.pass_deadline(engine)
        engine.turn_over(0)
        events = engine.epoll.poll(0)
        self.assertEqual([flags & select.EPOLLHUP for _, flags in events], [select.EPOLLHUP])
        engine.collect(events)
        self.assertEqual((engine.timeouts, engine.answers, self.crew.results), (1, {}, []))

    def test_late_event_of_an_earlier_attempt(self):
        """Events fetched before a descriptor got its next target are not that target's."""
        silent = self.hosts.silent()
        for name, old in (('silent', self.hosts.silent()), ('open', self.hosts.open()),
                          ('refused', self.hosts.closed())):
            with self.subTest(old=name):
                self.crew.results = []
                engine = self.engine([old, silent], window=1)
                engine.launch(1)
                fd = next(iter(engine.attempts)).fileno()
                late = engine.epoll.poll(0.05) or [(fd, select.EPOLLOUT | select.EPOLLHUP)]
                self.pass_deadline(engine)
                engine.turn_over(1)
                engine.launch(1 - len(engine.attempts))
                self.assertEqual(list(engine.attempts.values()), [silent])
                self.assertEqual(next(iter(engine.attempts)).fileno(), fd)
                engine.collect(late)        # forced: the old attempt's event comes now
                self.assertEqual(list(engine.attempts.values()), [silent])
                self.assertEqual(self.crew.results, [old] if name == 'open' else [])

    def test_local_errors_lose_nothing(self):
        """The target waits and is tried again, the error is counted, the window shrinks, grows."""
        targets = [self.hosts.open() for _ in range(6)]
        for code in sorted(cscan.LOCAL):
            with self.subTest(errno.errorcode[code]):
                self.crew.results = []
                left = iter([code] * 4)
                connect = cscan.CONNECT
                with patched(cscan, CONNECT=lambda sock, to: next(left, None) or connect(sock, to),
                             LOCAL_WAIT_S=0.01):
                    engine = self.engine(targets)
                    engine.launch(3)
                    self.assertEqual(engine.locals, {code: 3})
                    self.assertLess(engine.window, engine.pace.window)
                    self.assertEqual(engine.credit(), 0)
                    engine.run(self.crew, StubSink(), self.console, engine.progress)
                self.assertEqual(sorted(self.crew.results), sorted(targets))
                self.assertEqual((engine.locals, engine.sent), ({code: 4}, 6))
                self.assertTrue([n for n in self.console.notes if errno.errorcode[code] in n])
                engine.now = engine.shrunk + 2
                for _ in range(20):
                    engine.tick()
                self.assertEqual(engine.window, engine.pace.window)

    def test_no_descriptors(self):
        """socket() says EMFILE: fewer sockets do the work."""
        targets = [self.hosts.open() for _ in range(6)]
        engine = self.engine(targets)
        new_socket = engine.new_socket

        def few():
            if len(engine.socks) >= 2:
                raise OSError(errno.EMFILE, 'Too many open files')
            new_socket()
        engine.new_socket = few
        engine.run(self.crew, StubSink(), self.console, engine.progress)
        self.assertEqual(sorted(self.crew.results), sorted(targets))
        self.assertGreater(engine.locals[errno.EMFILE], 0)

    def test_local_error_for_ever(self):
        """The rest is done first; then the scan ends and says what to change."""
        good, bad = [self.hosts.open() for _ in range(4)], ('127.0.0.9', 9)
        connect = cscan.CONNECT
        with patched(cscan, GIVE_UP_S={True: 0.3, False: 0.3},
                     CONNECT=lambda s, to: errno.EPERM if to == bad else connect(s, to)):
            engine = self.run_engine([bad] + good)
        self.assertEqual(sorted(self.crew.results), sorted(good))
        self.assertIn('EPERM', engine.error)
        self.assertIn('firewall', engine.error)
        self.assertEqual([target for _, _, target in engine.waiting], [bad])

    def test_too_many_waiting(self):
        with patched(cscan, WAITING_MAX=50, CONNECT=lambda s, to: errno.EPERM):
            engine = self.run_engine([('127.0.0.1', port) for port in range(1, 1000)])
        self.assertIn('51 targets wait', engine.error)

    def test_clash(self):
        """Source port and target in use: --once tries again, draws take another; same window."""
        target, other = self.hosts.silent(), self.hosts.open()
        for once in (True, False):
            with self.subTest(once=once), patched(cscan, CLASH_WAIT_S=0.05):
                self.crew.results = []
                engine = self.run_engine([target, target, other], once=once, timeout_s=0.1,
                                         quota=2 if not once else None)
                self.assertGreater(engine.clashes, 0)
                self.assertEqual(engine.sent, 3 if once else 2)
                self.assertEqual(engine.timeouts, 2 if once else 1)
                self.assertEqual(self.crew.results, [other])
                self.assertEqual((engine.locals, engine.window), ({}, 8))

    def test_answers_of_the_net(self):
        """Counted by kind, whether connect() gives them at once or later; no local errors."""
        connect = cscan.CONNECT
        for code in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.ECONNREFUSED):
            with self.subTest(errno.errorcode[code]):
                with patched(cscan, CONNECT=lambda s, to: code):
                    engine = self.run_engine([('127.0.0.1', 9)] * 3)
                self.assertEqual((engine.answers, engine.locals), ({code: 3}, {}))
        with patched(cscan, CONNECT=lambda s, to: errno.ETIMEDOUT):
            self.assertEqual(self.run_engine([('127.0.0.1', 9)] * 3).timeouts, 3)
        engine = self.engine([self.hosts.silent()])     # later: as if the kernel gave up
        engine.launch(1)
        fd = next(iter(engine.attempts)).fileno()
        with patched(cscan, CONNECT=lambda s, to: errno.EHOSTUNREACH):
            engine.collect([(fd, select.EPOLLERR | select.EPOLLHUP)])
        self.assertEqual((engine.answers, engine.attempts), ({errno.EHOSTUNREACH: 1}, {}))
        self.assertIs(cscan.CONNECT, connect)

    def test_retries(self):
        """A silent target is tried N times more, spaced; an answer ends that."""
        times = []
        connect = cscan.CONNECT

        def note(sock, to):
            if to == silent:
                times.append(time.monotonic())
            return connect(sock, to)
        silent, closed = self.hosts.silent(), self.hosts.closed()
        engine = self.engine([silent, closed], timeout_s=0.02, retries=2)
        wait_for = engine.wait_for
        spaces = []
        engine.wait_for = lambda to, s: (spaces.append(s), wait_for(to, s / 50))
        with patched(cscan, CONNECT=note):
            engine.run(self.crew, StubSink(), self.console, engine.progress)
        self.assertEqual((len(times), engine.repeats, engine.timeouts), (3, 2, 1))
        self.assertEqual(spaces, [1.0, 2.0])
        self.assertEqual(engine.answers, {errno.ECONNREFUSED: 1})
        self.assertEqual(engine.tries, {})

    def test_modules_behind(self):
        """A full queue: nothing is sent, answers are collected, no deadline is charged."""
        opened, silent = self.hosts.open(), self.hosts.silent()
        engine = self.engine([silent, opened, opened], timeout_s=0.1, window=2)
        engine.clock()
        engine.launch(2)
        self.crew.held = True
        end = time.monotonic() + 0.3
        while time.monotonic() < end:       # the loop of run(), for thrice the timeout
            engine.collect(engine.events())
            engine.clock()
            self.assertEqual(engine.credit(), 0)
            engine.turn_over(0)
        self.assertEqual(self.crew.results, [opened])
        self.assertEqual((list(engine.attempts.values()), engine.sent), ([silent], 2))
        self.crew.held = False
        engine.run(self.crew, StubSink(), self.console, engine.progress)
        self.assertEqual((self.crew.results, engine.timeouts), ([opened, opened], 1))

    def test_quota(self):
        """-n: exactly so many are sent, then the scan ends."""
        targets = [('127.0.1.%d' % i, 9) for i in range(200)]
        for quota in (1, 8, 9, 200, 300):
            with self.subTest(quota=quota):
                self.assertEqual(self.run_engine(targets, quota=quota).sent, min(quota, 200))

    def test_runtime(self):
        engine = self.run_engine([('127.0.0.1', 9)] * 10**6, runtime=0.2, rate=1000.0)
        self.assertEqual(engine.stopping, '--max-runtime')
        self.assertLess(engine.sent, 1000)

    def test_conntrack_full(self):
        """Drops: said once, slower, and what was in flight is sent again, not called silent."""
        silent = [self.hosts.silent() for _ in range(3)]
        engine = self.engine(silent, timeout_s=0.3, rate=1000.0)
        drops = iter([0, 7])
        engine.conntrack = cscan.Conntrack()
        engine.conntrack.look = lambda: next(drops, 0)
        engine.conntrack.count = engine.conntrack.limit = 99
        with patched(cscan, LOCAL_WAIT_S=0.05):
            engine.run(self.crew, StubSink(), self.console, engine.progress)
        self.assertEqual((engine.lost, engine.sent, engine.timeouts), (3, 6, 3))
        self.assertEqual(len([n for n in self.console.notes if 'conntrack table full' in n]), 1)
        self.assertLess(engine.bucket.rate, 1000)

    def test_conntrack_files(self):
        """The drop column is found by its name, hex, all processors; missing files are no news."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        paths = {}
        for name, text in (('STAT', 'entries drop new\n10 0000000a 1\n10 00000001 1\n'),
                           ('COUNT', '100\n'), ('LIMIT', '100\n')):
            paths[name] = os.path.join(folder, name)
            with open(paths[name], 'w') as file:
                file.write(text)
        with patched(cscan.Conntrack, **paths):
            watch = cscan.Conntrack()
            self.assertEqual(watch.look(), 0)
            with open(paths['STAT'], 'w') as file:
                file.write('entries drop new\n10 0000000f 1\n10 00000011 1\n')
            self.assertEqual((watch.look(), watch.look()), (21, 0))
            os.unlink(paths['STAT'])
            self.assertEqual(watch.look(), 0)

    def test_forgets_stale_pairs(self):
        """Answered attempts do not fill the memory until their deadline."""
        engine = self.engine([])
        sock = engine.take(1)[0]
        live = ('127.0.0.1', 1)
        engine.attempts[sock] = live
        for _ in range(400):
            engine.cohorts.append((1e9, [sock] * 256, [('127.0.0.1', 9)] * 256))
        engine.cohorts.append((1e9, [sock], [live]))
        engine.tick()
        self.assertEqual([targets for _, _, targets in engine.cohorts], [[live]])

    def test_source_port_taken(self):
        """One of the next -bt ports is used; with none left, one line says so."""
        taken = self.hosts.listener('0.0.0.0').getsockname()[1]
        engine = self.engine([self.hosts.closed()], port=taken)
        self.assertNotEqual(engine.port, taken)
        with self.assertRaisesRegex(cscan.UserError, 'argument -b: ports %d to %d' % (taken, taken)):
            cscan.Engine(iter([]), engine.pace, port=taken).bind_first(0)

    def test_canary(self):
        """Timed out and refused are told apart, open is silent, none is a result."""
        for state, address in (('open', self.hosts.open()), ('not open', self.hosts.closed()),
                               ('timed out', self.hosts.silent())):
            with self.subTest(state=state):
                self.console.notes = []
                canary = cscan.Canary(*address, after=2, source='')
                engine = self.run_engine([('127.0.0.1', 9)] * 5, canary=canary)
                self.assertEqual((canary.state, self.crew.results), (state, []))
                told = [note for note in self.console.notes if 'canary' in note]
                self.assertEqual(told, [] if state == 'open' else
                                 ['canary %s:%d: %s' % (address + (state,))])
                self.assertEqual(engine.sent, 5)


class Pace(unittest.TestCase):
    """The arithmetic of rates, and the bucket that keeps them."""

    # -r, -t, -m, -a, -ct -> window, rate, SYNs (tcp_syn_linear_timeouts 4)
    PLANS = [
        ((520, 800, None, 90, None), (416, 520.0, 1)),
        ((520, 800, 1000, 90, None), (1000, 1250.0, 1)),
        ((520, 800, 10, 90, None), (10, 12.5, 1)),
        ((1, 800, None, 90, None), (1, 1.0, 1)),
        ((0.5, 800, None, 90, None), (1, 0.5, 1)),
        ((520, 801, None, 90, None), (417, 520.0, 1)),
        ((520, 800, None, 200, None), (416, 260.0, 1)),
        ((520, 800, None, 90, 0), (416, None, 1)),
        ((520, 800, None, 90, 100), (416, 10000.0, 1)),
        ((520, 1000, None, 90, None), (520, 520.0, 1)),
        ((520, 1001, None, 90, None), (521, 520.0, 2)),
        ((520, 3000, None, 90, None), (1560, 520.0, 3)),
        ((520, 60000, None, 90, None), (31200, 520.0, 6)),
    ]

    def test_plans(self):
        for (rate, timeout, pending, percent, interval), expected in self.PLANS:
            with self.subTest(r=rate, t=timeout, m=pending, a=percent, ct=interval):
                pace = cscan.plan_pace(rate, timeout, pending, percent, interval, 4)
                self.assertEqual((pace.window, pace.rate, pace.syns), expected)
                self.assertEqual(pace.timeout_s, timeout / 1000)

    def test_syns(self):
        """Kernels before 6.5 double the interval: one repeat in 3 s."""
        for timeout, linear, count in ((800, 0, 1), (1000, 0, 1), (2999, 0, 2), (9000, 0, 2),
                                       (3000, 4, 3), (3001, 4, 4)):
            with self.subTest(timeout=timeout, linear=linear):
                self.assertEqual(cscan.syns_per_connect(timeout, linear), count)

    def test_bucket(self):
        """No second has more SYNs than the rate and one burst, whatever the naps."""
        for trial in range(60):
            rng = random.Random(SEED + trial)
            rate, cost = rng.choice([0.5, 7, 100, 520, 5000.0]), rng.choice([1, 1, 3])
            now, sent = 0.0, []
            bucket = cscan.Bucket(rate, cost, now)
            while now < 8:
                count = min(bucket.credit(now), rng.choice([0, 1, 50, 10**6]))
                bucket.spend(count)
                if count:
                    sent.append((now, count * cost))
                now += rng.choice([rng.random() / rate, 0.0001, 0.01, 0.06, rng.random() * 2])
            most = rate + max(cost, rate / 20) + 1e-6
            window, total = collections.deque(), 0
            for when, syns in sent:
                window.append((when, syns))
                total += syns
                while window[0][0] <= when - 1:
                    total -= window.popleft()[1]
                self.assertLessEqual(total, most, 'SEED=%d rate %g' % (SEED, rate))

    def test_bucket_reaches_the_rate(self):
        bucket, now, sent = cscan.Bucket(520.0, 1, 0.0), 0.0, 0
        while now < 10:
            count = bucket.credit(now)
            bucket.spend(count)
            sent += count
            now += max(0.001, bucket.wait(now))
        self.assertAlmostEqual(sent, 5200, delta=30)

    def test_limits(self):
        """The window is made to fit, and a line says what to change."""
        limits = cscan.Limits(1024, 262144, 120, 100000, (32768, 60999), 4, 20)
        pace = cscan.Pace(0.8, 5000, 6250.0, 1)
        rows = [
            (pace, limits, 1000, 748, 'ulimit -n'),
            (pace, limits, 0, 1004, 'ulimit -n'),
            (pace._replace(window=416), limits, 1000, 416, None),
            (pace._replace(window=416), limits._replace(max_open_files=64), 1000, 28, 'ulimit -n'),
            (pace, limits._replace(max_open_files=10**6, max_user_watches=300), 1000, 300,
             'fs.epoll.max_user_watches'),
        ]
        for pace, limits, reserve, window, word in rows:
            with self.subTest(window=window):
                notes = []
                self.assertEqual(cscan.fit_pace(pace, limits, reserve, notes.append).window, window)
                self.assertEqual(len(notes), 1 if word else 0)
                self.assertIn(word or '', ''.join(notes))

    def test_warnings(self):
        limits = cscan.Limits(1024, 12000, 120, 100000, (32768, 60999), 4, 20)
        pace = cscan.Pace(0.8, 416, 520.0, 1)
        rows = [    # pace, source port, pairs, total, once -> word of the warning
            (pace, 32005, 10**9, None, False, 'carries 100/s'),
            (pace, 32005, 10**9, 10000, False, None),
            (pace._replace(rate=90.0), 32005, 10**9, None, False, None),
            (pace._replace(window=30000, rate=90.0), 0, 1, None, False, 'ip_local_port_range'),
            (pace._replace(window=30000, rate=90.0), 0, 2, None, False, None),
            (pace._replace(window=30000, rate=90.0), 0, 1, None, True, None),
        ]
        for pace, port, pairs, total, once, word in rows:
            with self.subTest(word=word, pairs=pairs):
                notes = []
                cscan.warn_pace(pace, limits, port, pairs, total, once, notes.append)
                self.assertEqual(len(notes), 1 if word else 0)
                self.assertIn(word or '', ''.join(notes))


if __name__ == '__main__':
    unittest.main()
