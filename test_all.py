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

    def serving(self, host='127.0.0.1', greeting=b''):
        """A target that accepts again and again: without accept() the queue fills up."""
        listener = self.listener(host)

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    with contextlib.suppress(OSError), peer:
                        peer.sendall(greeting)
        threading.Thread(target=serve, daemon=True).start()
        self.case.addCleanup(listener.shutdown, socket.SHUT_RDWR)   # ends accept()
        return listener.getsockname()

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
    """Takes nothing, fails never."""
    failed = ''

    def look(self):
        pass


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
        self.assertEqual([entry[2] for entry in engine.waiting], [bad])

    def test_too_many_waiting(self):
        with patched(cscan, PARKED_MAX=50, CONNECT=lambda s, to: errno.EPERM):
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
            self.assertEqual(self.run_engine([('127.0.0.1', 9)] * 3).answers, {errno.ETIMEDOUT: 3})
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
        engine.conntrack.carries = lambda: 600.0
        with patched(cscan, LOCAL_WAIT_S=0.05):
            engine.run(self.crew, StubSink(), self.console, engine.progress)
        self.assertEqual((engine.lost, engine.sent, engine.timeouts), (3, 6, 3))
        self.assertEqual(len([n for n in self.console.notes if 'conntrack table full' in n]), 1)
        self.assertEqual(engine.bucket.rate, 500)       # halved, and no room since

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


# ==== Cli ===============================================================================

def start(name, *args, **keywords):
    """Start one of our files -> Popen with pipes."""
    keywords.setdefault('stdout', subprocess.PIPE)
    return subprocess.Popen(tool(name, *args), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            **keywords)


def low_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def read_text(path):
    with open(path) as file:
        return file.read()


def read_cba(path, module=''):
    with open(path, 'rb') as file:
        return list(cba_reader.CBA(file).entries(module))


class Cli(Folder):
    """The scanner as its users meet it: options, streams, signals, exit status."""

    def setUp(self):
        super().setUp()
        self.hosts = Hosts(self)
        self.base = ['-b', next(FREE_PORT), '-bt', 50]

    def scan(self, *args, **keywords):
        """cscan.py with a source port of its own, quiet."""
        return run('cscan.py', '-q', *self.base, *args, **keywords)

    def lines(self, *args, **keywords):
        """Sorted lines of a scan that must end well without a word."""
        status, out, err = self.scan(*args, **keywords)
        self.assertEqual((status, err), (0, ''))
        return sorted(out.split())

    # name, arguments, status, what the one line must have
    MISTAKES = [
        ('no such file', ['-f', 'foo'], 1, "-f: 'foo': neither a file nor ranges"),
        ('length', ['-f', '10.0.0.0/33'], 1, "'10.0.0.0/33': the length is 0 to 32"),
        ('octet', ['-f', '10.0.0.300'], 1, "'10.0.0.300': not an address"),
        ('folder', ['-f', '/'], 1, "-f: '/': Is a directory"),
        ('no targets', ['-f', '/dev/null'], 1, "-f: '/dev/null': no ranges"),
        ('multicast only', ['-q', '-f', '224.0.0.0/8'], 1, 'no addresses are left'),
        ('all excluded', ['-q', '-f', '127.0.0.1', '-xf', '127.0.0.0/8'], 1, 'no addresses are left'),
        ('exclude list missing', ['-f', '127.0.0.1', '-xf', 'gone.txt'], 1, "-xf: 'gone.txt'"),
        ('port 0', ['-f', '127.0.0.1', '-p', '0'], 1, "ports '0'"),
        ('weight 0', ['-f', '127.0.0.1', '-p', '80:0'], 1, "'80:0'"),
        ('no csp', ['-f', '127.0.0.1', '-pf', os.path.join(HERE, 'LICENSE')], 1, 'no .csw or .csp'),
        ('p and pf', ['-f', '127.0.0.1', '-p', '1', '-pf', 'x'], 2, '-p 1 and -pf x: one of them'),
        ('rate', ['-f', '127.0.0.1', '-r', 'fast'], 2, "-r: 'fast': a number"),
        ('rate 0', ['-f', '127.0.0.1', '-r', '0'], 2, "-r: '0': a number from"),
        ('nan', ['-f', '127.0.0.1', '-r', 'nan'], 2, "-r: 'nan': a number from"),
        ('source port', ['-f', '127.0.0.1', '-b', '70000'], 2, "-b: '70000'"),
        ('source address', ['-f', '127.0.0.1', '-bi', '1.2.3'], 2, "-bi: '1.2.3'"),
        ('not ours', ['-f', '127.0.0.1', '-bi', '192.0.2.1'], 1, 'source 192.0.2.1'),
        ('positional', ['127.0.0.1'], 2, "'127.0.0.1': belongs to no option; targets are named with -f"),
        ('abbreviated', ['-f', '127.0.0.1', '--onc'], 2, "'--onc': no such option"),
        ('argument missing', ['-f'], 2, '-f: expected one argument'),
        ('l and x', ['-l', '-x'], 2, '-l and -x: one of them'),
        ('daemon', ['-f', '127.0.0.1', '-d'], 2, '-d: the results would be lost'),
        ('stdin twice', ['-f', '-', '-xf', '-'], 2, 'standard input can be read once'),
        ('no module', ['-f', '127.0.0.1', '-mod', 'nope'], 1, "module 'nope': not one of print"),
        ('no module file', ['-f', '127.0.0.1', '-mod', './nope.py'], 1, "'./nope.py': No such file"),
        ('setting', ['-f', '127.0.0.1', '-mcfg', 'x'], 1, "-mcfg: 'x': module.option=value"),
        ('setting unknown', ['-f', '127.0.0.1', '-mcfg', 'print.x=1'], 1, 'module print has no options'),
        ('output folder', ['-f', '127.0.0.1', '-o', '/nonexistent/x'], 1, "-o: '/nonexistent/x': No such"),
        ('output no CBA', ['-f', '127.0.0.1', '-o', os.path.join(HERE, 'LICENSE')], 1, 'not a CBA file'),
        ('log', ['-f', '127.0.0.1', '--log', '/nonexistent/x'], 1, "--log: '/nonexistent/x': No such"),
    ]

    def test_mistakes(self):
        """One line that names the value and what was expected, no traceback, nothing started."""
        rows = list(self.MISTAKES)
        processes = [start('cscan.py', *args) for _, args, _, _ in rows]    # side by side: faster
        for (name, _, expected, words), process in zip(rows, processes):
            out, err = (text.decode() for text in process.communicate(timeout=60))
            with self.subTest(name):
                status = process.returncode
                err = '\n'.join(line for line in err.splitlines() if 'sockets' not in line)
                self.assertEqual((status, out, err.count('\n')), (expected, '', 0), err)
                self.assertIn(words, err)
                self.assertRegex(err, '^cscan: ')

    def test_failed_start_leaves_no_trace(self):
        old = self.path('old.cba', b'L\0\0\0\0\1\3\0ab')     # cut short: a start would repair it
        for args in (['-bi', '192.0.2.1'], ['-p', '0'], ['-mod', 'nope'], ['--log', '/']):
            run('cscan.py', '-f', '127.0.0.1', '-o', old, *args)
            run('cscan.py', '-f', '127.0.0.1', '-o', self.path('new.cba'), *args)
        with open(old, 'rb') as file:
            self.assertEqual(file.read(), b'L\0\0\0\0\1\3\0ab')
        self.assertEqual(os.listdir(self.folder), ['old.cba'])

    def test_no_targets_no_packet(self):
        """Without -f: what the built-in targets are, the command that would scan them, status 2."""
        with open('/proc/net/snmp') as file:
            before = re.findall(r'^Tcp: .*', file.read(), re.M)[1].split()[5]
        status, out, err = run('cscan.py', '-p', '22', '-r', '1000')
        with open('/proc/net/snmp') as file:
            after = re.findall(r'^Tcp: .*', file.read(), re.M)[1].split()[5]
        self.assertEqual((status, out), (2, ''))
        self.assertIn('3358325504 addresses, port 22', err)
        self.assertRegex(err, r'cscan\.py -p 22 -r 1000 -f default\n$')
        self.assertLess(int(after) - int(before), 50)       # ActiveOpens of the whole machine

    def test_everything_open_is_found(self):
        """65,536 addresses x 2 ports, seven open: exactly those, each once; also with 64 descriptors."""
        a, b = self.hosts.open()[1], self.hosts.open('127.0.77.9')[1]
        expected = {'127.0.0.1:%d' % a, '127.0.77.9:%d' % b}
        for host, port in (('127.0.0.0', a), ('127.0.255.255', b), ('127.0.3.4', a),
                           ('127.0.128.0', b), ('127.0.200.200', a)):
            self.hosts.open(host, port)
            expected.add('%s:%d' % (host, port))
        args = ['-f', '127.0.0.0/16', '-p', '%d,%d' % (a, b), '--once', '-ct', 0]
        self.assertEqual(self.lines(*args), sorted(expected))
        status, out, err = self.scan(*args, preexec_fn=low_descriptors)
        self.assertEqual((status, sorted(out.split())), (0, sorted(expected)))
        self.assertIn('64 descriptors', err)

    def test_orders(self):
        """-l: --once is each pair once, --seed repeats, -n ends, and what -xf names is never there."""
        once = self.lines('-l', '-f', '10.1.0.0/24', '-p', '1-3', '--once')
        self.assertEqual(once, sorted('10.1.0.%d:%d' % pair for pair in itertools.product(
            range(256), (1, 2, 3))))
        args = ['-l', '-f', '10.0.0.0/8', '-xf', '10.0.0.0/9', '-n', 500, '-p', '80:2,8000-8003']
        _, first, _ = self.scan(*args, '--seed', 7)
        self.assertEqual(self.scan(*args, '--seed', 7)[1], first)
        self.assertNotEqual(self.scan(*args, '--seed', 8)[1], first)
        self.assertEqual(len(first.split()), 500)
        self.assertFalse([line for line in first.split() if int(line.split('.')[1]) < 128])
        self.assertEqual(len(self.lines('-l', '-f', 'private', '--once', '-n', 77)), 77)
        self.assertEqual(len(self.lines('-l', '-n', 5)), 5)         # the built-in targets

    def test_notes(self):
        _, _, err = run('cscan.py', '-l', '-n', 1, '-f', 'public-all', '-p', '80:2,81', '--once')
        self.assertIn('268435456 multicast addresses skipped', err)
        self.assertIn('weights of ports do not apply', err)
        target = '%s:%d' % self.hosts.open()
        _, _, err = run('cscan.py', '-f', '127.0.0.1', '-p', target[10:], '--once', '-t', 3000,
                        '-c', '127.0.0.1', *self.base)
        self.assertIn('up to 3 SYNs a target', err)
        self.assertIn('the canary is due after 5600 packets (-ca), the scan has 1', err)
        self.assertRegex(err, r'1 socket, 3000 ms timeout, 520 packets/s, 31200 bytes/s')
        self.assertRegex(err, r'1 packet in [0-9.]+ s: 1 open, 0 without answer')

    def test_target_files(self):
        host, port = self.hosts.open('127.4.0.9')
        found = ['127.4.0.9:%d' % port]
        text = self.path('ranges.txt', b'\xef\xbb\xbf# mine\r\n127.4.0.0/28  # lab\r\n\r\n')
        with open(self.path('ranges.csw'), 'wb') as file:
            file.write(cscan.pack_csw([(0x7f040000, 0x7f04000f)], 'x'))
        with open(self.path('ports.csp'), 'wb') as file:
            file.write(cscan.pack_table([(port, 2), (1, 1)], 'x'))
        for args, stdin in ((['-f', text], b''), (['-f', self.path('ranges.csw')], b''),
                            (['-f', '-'], b'127.4.0.0-127.4.0.15\n'),
                            (['-f', '127.4.0.0/29,127.4.0.9'], b''),
                            (['-f', '127.4.0.0/29', '-f', '127.4.0.9'], b'')):
            with self.subTest(args=args):
                self.assertEqual(self.lines(*args, '-p', port, '--once', stdin=stdin), found)
        for option in ('-pf', '-fp'):
            self.assertEqual(self.lines('-f', text, option, self.path('ports.csp'), '--once'), found)
        self.assertEqual(self.lines('-f', text, '-xf', '127.4.0.8/29', '-p', port, '--once'), [])
        self.assertEqual(self.lines('-f', text, '--exclude', '-', '-p', port, '--once',
                                    stdin=b'127.4.0.9\n'), [])

    def test_ends(self):
        """-n, --max-results and --max-runtime end random draws; results are exact."""
        port = self.hosts.open('127.5.0.1')[1]
        for i in range(2, 60):
            self.hosts.open('127.5.0.%d' % i, port)         # none is found 100 times
        args = ['-f', '127.5.0.1-127.5.0.59', '-p', port]
        for count in (1, 7, 20):
            self.assertEqual(len(self.lines(*args, '-ct', 0, '--max-results', count)), count)
        self.assertEqual(len(self.lines(*args, '-ct', 0, '-n', 33)), 33)
        begin = time.monotonic()
        self.lines(*args, '-r', 50, '--max-runtime', 0.5)
        self.assertLess(time.monotonic() - begin, 10)

    def test_reader_leaves(self):
        """| head: quietly, status 0, while results come and when none do."""
        port = self.hosts.serving()[1]
        for args in (['-f', '127.0.0.1', '-p', port], ['-f', '127.0.0.2', '-p', port],
                     ['-l', '-f', 'private']):
            with self.subTest(args=args):
                process = start('cscan.py', '-q', *self.base, *args)
                if args[1] != '127.0.0.2':
                    process.stdout.readline()
                process.stdout.close()
                self.assertEqual(process.wait(20), 0)
                self.assertEqual(process.stderr.read(), b'')
                process.stderr.close()

    def test_signals(self):
        """The first lets what is pending finish and drains; status 130 and 143; the second ends."""
        silent, port = self.hosts.silent(), self.hosts.serving()[1]
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(number=number):
                path = self.path('%d.cba' % number)
                process = start('cscan.py', *self.base, '-f', '127.0.0.1', '-p', port, '-o', path)
                wait_until(lambda: os.path.exists(path) and read_cba(path))
                process.send_signal(number)
                _, err = process.communicate(timeout=20)
                self.assertEqual(process.returncode, status)
                self.assertRegex(err.decode(), r'\(interrupted\): [0-9]+ open')
                with open(path, 'rb') as file:
                    cba = cba_reader.CBA(file)
                    found = len(list(cba.entries('')))
                self.assertEqual(cba.cut, '')
                self.assertIn(' %d open' % found, err.decode())
        process = start('cscan.py', *self.base, '-f', '127.0.0.1', '-p', silent[1], '-t', 60000, '--once')
        process.stderr.readline()
        time.sleep(0.3)                 # until the scan has begun: it tells nothing more
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(5), 130)
        process.communicate()

    def test_signal_without_scan(self):
        process = start('cscan.py', '-l', '-f', 'private', stdout=subprocess.DEVNULL)
        time.sleep(0.5)                 # it lists for ever
        process.send_signal(signal.SIGINT)
        self.assertEqual((process.wait(5), process.communicate()[1]), (130, b''))

    def test_kill(self):
        """kill -9: the file reads up to the last second; the next run repairs and goes on."""
        path = self.path('scan.cba')
        port = self.hosts.serving()[1]
        args = ['-q', *self.base, '-f', '127.0.0.1', '-p', port, '-r', 200, '-o', path]
        total = 0
        for _ in range(10 if TEST_ALL else 2):
            process = start('cscan.py', *args)
            begin = time.monotonic()
            wait_until(lambda: os.path.exists(path) and len(read_cba(path)) > total)
            time.sleep(1.2 if TEST_ALL else 0.7)
            process.kill()
            running = time.monotonic() - begin
            process.communicate()
            before, total = total, len(read_cba(path))
            self.assertGreater(total - before, 0)
            self.assertLess(total - before, 200 * running + 20)
        status, _, err = self.scan('-f', '127.0.0.1', '-p', port, '-n', 5, '-o', path)
        self.assertEqual((status, len(read_cba(path))), (0, total + 5))

    def test_disk_full(self):
        """Results go to stderr as well, the scan stops, status 1: stdout and -o."""
        port = self.hosts.serving()[1]
        args = ['-q', *self.base, '-f', '127.0.0.1', '-p', port]
        with open('/dev/full', 'wb') as full:
            process = start('cscan.py', *args, stdout=full)
            _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 1)
        self.assertIn('127.0.0.1:%d\n' % port, err.decode())
        self.assertIn('cscan: standard output: No space left on device', err.decode())

        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        path = self.path('full.cba')
        status, out, err = run('cscan.py', *args, '-r', 100, '-o', path, preexec_fn=small_files)
        self.assertEqual((status, out), (1, ''))
        self.assertIn('127.0.0.1:%d\n' % port, err)
        self.assertIn('full.cba: File too large', err)
        with open(path, 'rb') as file:
            cba = cba_reader.CBA(file)
            self.assertTrue(list(cba.entries('')))
            self.assertEqual(cba.cut, '')

    def test_output_vanishes(self):
        port = self.hosts.serving()[1]
        path = self.path('gone.cba')
        process = start('cscan.py', '-q', *self.base, '-f', '127.0.0.1', '-p', port, '-o', path)
        wait_until(lambda: os.path.exists(path) and read_cba(path))
        os.unlink(path)
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 1)
        self.assertIn('127.0.0.1:%d\n' % port, err.decode())
        self.assertIn('gone.cba: No such file or directory', err.decode())

    def test_closed_streams(self):
        """A closed stdout is an error, not a descriptor for sockets; a closed stderr is silence."""
        port = self.hosts.open()[1]
        args = ['-q', *self.base, '-f', '127.0.0.1', '-p', port, '--once']
        status, _, err = run('cscan.py', *args, preexec_fn=lambda: os.close(1))
        self.assertEqual(status, 1)
        self.assertIn('standard output: Bad file descriptor', err)
        status, out, _ = run('cscan.py', *args, preexec_fn=lambda: os.close(2))
        self.assertEqual((status, out), (0, '127.0.0.1:%d\n' % port))

    def test_daemon(self):
        """-d comes back at once; results, statistics and messages are in the files."""
        port = self.hosts.open()[1]
        log, path = self.path('log'), self.path('d.cba')
        args = [*self.base, '-f', '127.0.0.1', '-p', port, '-n', 3, '-d']
        self.assertEqual(run('cscan.py', *args, '-o', path, '--log', log)[0], 0)
        wait_until(lambda: '3 packets in' in read_text(log))
        self.assertEqual(len(read_cba(path)), 3)
        os.unlink(log)
        self.assertEqual(run('cscan.py', *args, '--log', log)[0], 0)
        wait_until(lambda: '3 packets in' in read_text(log))
        self.assertEqual(read_text(log).count('127.0.0.1:%d\n' % port), 3)

    def test_statistics(self):
        """-st lines on stderr, and in the CBA as the original writes them."""
        args = ['-f', '127.0.0.0/24', '-p', '9', '--once', '-ct', 0, '-st', 100, *self.base]
        _, _, err = run('cscan.py', *args)
        self.assertRegex(err, r'cscan: [0-9]+ packets, 0 results, [0-9]+ new events\n')
        run('cscan.py', *args, '-o', self.path('s.cba'))
        entry, = read_cba(self.path('s.cba'), 'cscan')
        kinds = [(kind, code) for kind, code, _ in entry.events]
        self.assertEqual(entry.events[0], (cba_reader.CBA_INT32, 10, 100))
        self.assertEqual(kinds[1:4], [(cba_reader.CBA_INT64, 11), (cba_reader.CBA_INT32, 0),
                                      (cba_reader.CBA_INT32, 0)])
        self.assertAlmostEqual(entry.dict[11], time.time(), delta=60)

    def test_terminal(self):
        """A status line on a terminal; result lines do not run into it."""
        port = self.hosts.open()[1]
        args = ['-f', '127.0.0.0/24', '-p', '%d,9' % port, '--once', '-r', 250, *self.base]
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(sys.executable, tool('cscan.py', *args))
        shown = b''
        with contextlib.suppress(OSError):      # EIO is a terminal's end of file
            for piece in iter(lambda: os.read(terminal, 4096), b''):
                shown += piece
        os.close(terminal)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        shown = shown.decode()
        self.assertRegex(shown, r'\r[0-9]+/s, [0-9]+ sent \([0-9.]+%\), [0-9.]+ s left, [01] open, '
                                r'[0-9]+ pending\x1b\[K')
        self.assertRegex(shown, r'(\n|\x1b\[K)127\.0\.0\.1:%d\r\n' % port)
        self.assertRegex(shown, r'\x1b\[Kcscan: 512 packets in [0-9.]+ s: 1 open, 511 refused')

    def test_x(self):
        """-x: three forms of lines; others are told; comments pass."""
        status, out, err = run('cscan.py', '-x', stdin=b'1.2.3.4:5\n1.2.3.4 6\n1.2.3.4,7\n# x\n\n')
        self.assertEqual((status, sorted(out.split()), err),
                         (0, ['1.2.3.4:5', '1.2.3.4:6', '1.2.3.4:7'], ''))
        status, out, err = run('cscan.py', '-x', stdin=b'1.2.3.4:5\nrubbish\n1.2.3.4:0\n\xff\n')
        self.assertEqual((status, out), (1, '1.2.3.4:5\n'))
        self.assertIn("standard input:2: 'rubbish': ip:port was expected", err)
        self.assertEqual(err.count('\n'), 3)
        many = b''.join(b'10.0.%d.%d:80\n' % pair for pair in itertools.product(range(8), range(256)))
        for options in ([], ['-mt', 1], ['-mt', 20, '-pr', 1]):
            status, out, err = run('cscan.py', '-x', *options, stdin=many)
            self.assertEqual((status, sorted(out.split())), (0, sorted(many.decode().split())))
        self.assertEqual(len(run('cscan.py', '-x', '--max-results', 7, stdin=many)[1].split()), 7)

    def test_help(self):
        status, out, err = run('cscan.py', '-h')
        self.assertEqual((status, err), (0, ''))
        for word in ('(default: 520)', 'max_open_files (hard)', 'conntrack_max', 'conntrack_span (s)',
                     'max_user_watches', 'local_port_range', 'print', 'examples:'):
            self.assertIn(word, out)

    def test_canary_in_the_file(self):
        """Bits 21 and 22 of the original."""
        opened, closed, silent = self.hosts.open()[1], self.hosts.closed()[1], self.hosts.silent()[1]
        for port, code in ((closed, 22), (silent, 21), (opened, None)):
            with self.subTest(code=code):
                path = self.path('%s.cba' % code)
                status, _, err = self.scan('-f', '127.0.0.0/24', '-p', 9, '--once', '-ct', 0, '-t', 300,
                                           '-c', '127.0.0.1', '-cp', port, '-ca', 10, '-o', path)
                self.assertEqual(status, 0)
                entry, = read_cba(path, 'cscan')
                self.assertEqual([c for c in (21, 22) if c in entry.dict], [code] if code else [])
                self.assertEqual('canary' in err, bool(code))


class Modules(Folder):
    """The registry, module threads, and users' files."""

    def setUp(self):
        super().setUp()
        self.hosts = Hosts(self)
        self.base = ['-q', '-b', next(FREE_PORT), '-bt', 50]

    def module(self, text, *args, name='mine.py', stdin=b'127.0.0.1:1\n'):
        """-x with a module of this text -> (status, stdout, stderr)."""
        path = self.path(name, text.encode())
        return run('cscan.py', '-q', '-x', '-mod', path, *args, stdin=stdin)

    def test_readme_example(self):
        """The module of the README works as written."""
        with open(os.path.join(HERE, 'README.md')) as file:
            code, command = re.search(r'    # greeting\.py\n(.*?)\n    (python3 cscan\.py .*?)\n',
                                      file.read(), re.S).groups()
        code = ''.join(line[4:] + '\n' for line in code.splitlines())
        self.assertLessEqual(len([line for line in code.splitlines() if line]), 10)
        port = str(self.hosts.serving(greeting=b'SSH-2.0-\x1b[31mtest\r\n')[1])
        self.path('greeting.py', code.encode())
        args = command.split()[2:]
        args[args.index('22')] = port
        status, out, err = run('cscan.py', *self.base, *args, cwd=self.folder)
        self.assertEqual((status, err), (0, ''))
        self.assertEqual(out, 'module: greeting\n127.0.0.1:%s SSH-2.0-\\x1b[31mtest\n' % port)

    def test_import_gives_the_running_program(self):
        """Also when the program's file has another name."""
        text = """
import cscan, sys
@cscan.module('mine')
def check(target, out, options):
    out.str(str(cscan is sys.modules['__main__'] and cscan.MODULES['mine'].check is check))
"""
        copy = self.path('other.py')
        shutil.copy(os.path.join(HERE, 'cscan.py'), copy)
        self.path('mine.py', text.encode())
        process = subprocess.Popen([sys.executable, copy, '-x', '-mod', './mine.py'], cwd=self.folder,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.assertEqual(process.communicate(b'1.2.3.4:5\n', 20)[0], b'module: mine\nTrue\n')

    def test_options(self):
        text = """
import cscan
@cscan.module('mine', options={'n': (3, 'a number'), 's': ('x', 'text'), 'f': (1.5, 'real')})
def check(target, out, options):
    out.str('%r %r %r' % (options.n, options.s, options.f))
"""
        for settings, line in (('', "3 'x' 1.5"), ('mine.n=7', "7 'x' 1.5"),
                               ('mine.s=1,2 3,mine.n=4', "4 '1,2,3' 1.5"), ('mine.f=2', "3 'x' 2.0")):
            with self.subTest(settings):
                self.assertIn('\n%s\n' % line, self.module(text, '-mcfg', settings)[1])
        status, _, err = self.module(text, '-mcfg', 'mine.n=abc')
        self.assertEqual((status, err), (1, "cscan: argument -mcfg: mine.n='abc': a whole number was "
                                            "expected\n"))
        self.assertIn('module mine has n, s, f', self.module(text, '-mcfg', 'mine.z=1')[2])

    def test_filters(self):
        """A filter runs first, wherever it stands in -mod, and drops what it returns False for."""
        text = """
import cscan
@cscan.module('even', filter=True)
def check_even(target, out, options):
    if target.port % 2:
        return False
"""
        path = self.path('even.py', text.encode())
        stdin = b''.join(b'10.0.0.1:%d\n' % port for port in range(1, 101))
        for order in ('print,' + path, path + ' print'):
            _, out, _ = run('cscan.py', '-x', '-mod', order, stdin=stdin)
            self.assertEqual(sorted(out.split()), sorted('10.0.0.1:%d' % p for p in range(2, 101, 2)))
        _, out, _ = run('cscan.py', '-x', '-mod', 'print,' + path, '--max-results', 9, stdin=stdin)
        self.assertEqual(len(out.split()), 9)

    def test_raising(self):
        """Counted and named, told once; the scan goes on."""
        text = """
import cscan
@cscan.module('bad')
def check(target, out, options):
    if target.port % 2:
        raise KeyError(target.port)
    raise ConnectionResetError(104, 'Connection reset by peer')
"""
        stdin = b''.join(b'10.0.0.1:%d\n' % port for port in range(1, 11))
        path = self.path('bad.py', text.encode())
        status, out, err = run('cscan.py', '-x', '-mod', path + ',print', stdin=stdin)
        self.assertEqual((status, len(out.split())), (0, 10))
        self.assertEqual(len(re.findall('module bad: KeyError', err)), 1)
        self.assertIn('module bad: raised 5 times', err)
        self.assertIn('module bad: Connection reset by peer: 5 targets', err)

    def test_bad_files(self):
        for text, words in (('def', ': line 1: '), ('1/0', 'ZeroDivisionError'), ('x = 1', 'no module')):
            with self.subTest(text):
                status, out, err = self.module(text)
                self.assertEqual((status, out, err.count('\n')), (1, '', 1))
                self.assertIn(words, err)

    def test_slow_module_pauses_the_scan(self):
        """-pr 1 with a slow module: every target is found, and none counts as silent."""
        text = """
import cscan, time
@cscan.module('slow', entry='')
def check(target, out, options):
    time.sleep(0.05)
    out.str(str(target))
"""
        port = self.hosts.open('127.6.0.1')[1]
        for i in range(2, 21):
            self.hosts.open('127.6.0.%d' % i, port)
        path = self.path('slow.py', text.encode())
        status, out, err = run('cscan.py', *self.base[1:], '-f', '127.6.0.1-127.6.0.20', '-p', port,
                               '--once', '-mod', path, '-mt', 1, '-pr', 1, '-t', 100, '-m', 4)
        self.assertEqual((status, len(set(out.split()))), (0, 20))
        self.assertIn('20 packets in', err)
        self.assertIn('20 open, 0 without answer', err)

    def test_files(self):
        """A module's file: in the CBA with -o, below -of without."""
        text = """
import cscan
@cscan.module('shot')
def check(target, out, options):
    out.later('later')
    if target.port != 9:
        out.file('shots/../%s.png' % target.host, b'x' * 70000, 12)
        out.data(b'abc', 3); out.bit(6); out.int32(-1); out.int64(1 << 40)
"""
        folder, cba = self.path('files'), self.path('s.cba')
        stdin = b'10.0.0.1:80\n10.0.0.2:9\n'
        _, out, _ = self.module(text, '-of', folder, stdin=stdin)
        saved = os.path.join(folder, 'shots', '10.0.0.1.png')
        self.assertEqual(out, 'module: shot\nlater\nsaving file %s\nbinary data of length 3\n'
                              'bit set for code 6\nint32 -1\nint64 1099511627776\n' % saved)
        self.assertEqual(os.path.getsize(saved), 70000)
        self.module(text, '-o', cba, stdin=stdin)
        entry, = read_cba(cba, None)
        self.assertEqual(entry.events, [
            (cba_reader.CBA_STR, 0, 'later'), (cba_reader.CBA_FILE, 12, 'shots/../10.0.0.1.png'),
            (cba_reader.CBA_DATA, 3, b'abc'), (cba_reader.CBA_BIT, 6, True),
            (cba_reader.CBA_INT32, 0, -1), (cba_reader.CBA_INT64, 0, 1 << 40)])

    def test_timed_socket(self):
        """One deadline for the whole talk, however slowly the peer drips."""
        listener = self.hosts.listener()
        host, port = listener.getsockname()

        def drip():
            peer, _ = listener.accept()
            with contextlib.suppress(OSError), peer:
                while True:
                    peer.sendall(b'x')
                    time.sleep(0.05)
        threading.Thread(target=drip, daemon=True).start()
        begin = time.monotonic()
        with cscan.TimedSocket(host, port, 300) as sock:
            self.assertEqual(sock.read_exact(2), b'xx')
            with self.assertRaises(socket.timeout):
                sock.read_exact(1000)
        self.assertLess(time.monotonic() - begin, 2)
        with cscan.TimedSocket(host, port, 2000) as sock:
            peer, _ = listener.accept()
            sock.write_all(b'abc')
            self.assertEqual(peer.recv(10), b'abc')
            peer.sendall(b'12')
            peer.close()
            with self.assertRaisesRegex(ConnectionError, 'after 2 of 3'):
                sock.read_exact(3)


# ==== Live ==============================================================================

SNIFFER = r"""
import socket, struct, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))     # ETH_P_ALL: outgoing, too
sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)            # SO_RCVBUFFORCE
sock.setsockopt(socket.SOL_SOCKET, 35, 1)                   # SO_TIMESTAMPNS
sock.bind((sys.argv[1], 3))
print('ready', flush=True)
while True:
    frame, extra, _, _ = sock.recvmsg(128, 64)
    at = 14 + (frame[14] & 15) * 4
    if frame[12:14] == b'\x08\0' and frame[23] == 6 and frame[at + 13] & 0x12 == 2:       # SYN without ACK
        seconds, nanoseconds = struct.unpack('ll', extra[0][2][:16])
        print('%d.%09d %s %d' % (seconds, nanoseconds, socket.inet_ntoa(frame[30:34]),
                                 struct.unpack_from('!H', frame, at + 2)[0]), flush=True)
"""


def can_make_namespaces():
    if os.geteuid() or not shutil.which('ip'):
        return False
    name = 'cscan-%d-probe' % os.getpid()
    made = subprocess.call(['ip', 'netns', 'add', name], stderr=subprocess.DEVNULL) == 0
    if made:
        subprocess.call(['ip', 'netns', 'del', name])
    return made


class Live(Folder):
    """Against real nets that are silent, unreachable or lossy: namespaces of our own, as root.

    near    where the scanner runs: 10.77.0.1, everything else through 10.77.0.2
    far     answers for 10.64.0.0/16, swallows 10.128.0.0/9
    """

    @classmethod
    def setUpClass(cls):
        if not can_make_namespaces():
            if REQUIRED:
                raise AssertionError('LIVE=required: needs root and `ip netns`')
            raise unittest.SkipTest('needs root and `ip netns`')
        cls.near, cls.far = ('cscan-%d-%s' % (os.getpid(), end) for end in ('near', 'far'))
        for line in """
            netns add NEAR; netns add FAR; -n NEAR link set lo up; -n FAR link set lo up
            -n NEAR link add v0 type veth peer name v1 netns FAR
            -n NEAR addr add 10.77.0.1/24 dev v0; -n FAR addr add 10.77.0.2/24 dev v1
            -n NEAR link set v0 up; -n FAR link set v1 up
            -n NEAR route add 10.64.0.0/10 via 10.77.0.2; -n NEAR route add 10.128.0.0/9 via 10.77.0.2
            -n NEAR route add unreachable 10.1.0.0/16; -n NEAR route add prohibit 10.2.0.0/16
            -n FAR route add local 10.64.0.0/16 dev lo; -n FAR route add blackhole 10.128.0.0/9""".replace('\n', ';').split(';'):
            if line.strip():
                words = line.replace('NEAR', cls.near).replace('FAR', cls.far).split()
                subprocess.check_call(['ip'] + words)

    @classmethod
    def tearDownClass(cls):
        for name in (cls.near, cls.far):
            subprocess.call(['ip', 'netns', 'del', name])

    @staticmethod
    def inside(namespace, *command):
        return subprocess.check_output(['ip', 'netns', 'exec', namespace] + list(command))

    def start(self, *args):
        """cscan.py in the near namespace -> Popen."""
        return subprocess.Popen(['ip', 'netns', 'exec', self.near] + tool('cscan.py', *args),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def scan(self, *args, timeout=60):
        process = self.start(*args)
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out.decode(), err.decode()

    def sniff(self):
        """Start to watch SYNs that leave; call the result for [(time, host, port)] so far."""
        path = self.path('syns')
        with open(path, 'wb') as file:
            process = subprocess.Popen(['ip', 'netns', 'exec', self.near, sys.executable, '-c', SNIFFER,
                                        'v0'], stdout=file)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

        def read():
            with open(path) as lines:
                rows = [line.split() for line in lines]
            return [(float(row[0]), row[1], int(row[2])) for row in rows if len(row) == 3]
        wait_until(lambda: os.path.getsize(path))
        return read

    def most_in_a_second(self, times):
        """The largest number of times within any second."""
        times, first, most = sorted(times), 0, 0
        for index, when in enumerate(times):
            while times[first] <= when - 1:
                first += 1
            most = max(most, index + 1 - first)
        return most

    def server(self, *addresses):
        """Listen on host:port addresses in the far namespace."""
        code = ('import socket, sys, time\nkeep = []\nfor a in sys.argv[1:]:\n'
                ' s = socket.socket(); h, p = a.split(":"); s.bind((h, int(p))); s.listen(99)\n'
                ' keep.append(s)\nprint("ready", flush=True)\ntime.sleep(600)')
        process = subprocess.Popen(['ip', 'netns', 'exec', self.far, sys.executable, '-c', code]
                                   + list(addresses), stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b'ready\n')

    def test_kinds_of_answers(self):
        """Open, refused, three kinds of unreachable, silence: each counted as what it is."""
        self.server('10.64.0.7:80', '10.64.1.9:80')
        status, out, err = self.scan(
            '-f', '10.64.0.0/23,10.1.0.0/28,10.2.0.0/28,192.0.2.0/28,10.128.0.0/28',
            '--once', '-ct', 0, '-t', 500)
        self.assertEqual((status, sorted(out.split())), (0, ['10.64.0.7:80', '10.64.1.9:80']))
        self.assertRegex(err, r'576 packets in [0-9.]+ s: 2 open, 510 refused, .*16 without answer\n$')
        for words in ('16 host unreachable', '16 prohibited', '16 net unreachable'):
            self.assertIn(words, err)

    def test_ceiling(self):
        """No second has more SYNs than -r and one burst, also around a pause of the process."""
        read = self.sniff()
        process = self.start('-q', '-f', '10.128.0.0/16', '-r', 500, '-t', 400, '--max-runtime', 2.3)
        wait_until(lambda: len(read()) > 400)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.6)
        process.send_signal(signal.SIGCONT)
        self.assertEqual(process.wait(20), 0)
        process.communicate()
        times = [when for when, _, _ in read()]
        self.assertLessEqual(self.most_in_a_second(times), 500 + 25 + 1)
        self.assertGreater(len(times), 600)

    def test_kernel_repeats_count(self):
        """-t 1500: the kernel sends each SYN twice, and the rate holds for all of them."""
        read = self.sniff()
        self.scan('-q', '-f', '10.129.0.0/16', '-r', 60, '-t', 1500, '-n', 45)
        syns = read()
        self.assertLessEqual(self.most_in_a_second([when for when, _, _ in syns]), 60 + 3 + 1)
        counts = collections.Counter(host for _, host, _ in syns)
        self.assertEqual(set(counts.values()), {2})

    def test_retries_on_the_wire(self):
        """Each silent target is tried again once, at least a second later."""
        read = self.sniff()
        status, _, err = self.scan('-f', '10.130.0.0/27', '--once', '-t', 200, '-r', 1000, '--retries', 1)
        self.assertIn('64 packets in', err)
        self.assertIn('32 without answer, 32 retries', err)
        times = collections.defaultdict(list)
        for when, host, _ in read():
            times[host].append(when)
        self.assertEqual(len(times), 32)
        for first, second in times.values():
            self.assertGreater(second - first, 1.0)

    def test_kernel_chosen_ports(self):
        """-b 0 and -bi: ports of the local range, the address asked for, nothing lost."""
        self.server('10.64.0.7:80', '10.64.0.200:80')
        self.inside(self.near, 'ip', 'addr', 'add', '10.77.0.55/24', 'dev', 'v0')
        for options in (['-b', 0], ['-b', 0, '-bi', '10.77.0.55'], ['-bi', '10.77.0.55']):
            with self.subTest(options=options):
                status, out, _ = self.scan('-q', '-f', '10.64.0.0/24', '--once', '-ct', 0, *options)
                self.assertEqual((status, sorted(out.split())),
                                 (0, ['10.64.0.200:80', '10.64.0.7:80']))

    def test_two_scans_share_a_source_port(self):
        self.server('10.64.0.7:80', '10.64.0.200:80')
        scans = [self.start('-q', '-f', '10.64.0.0/22', '--once', '-r', 2000, '-t', 500) for _ in range(2)]
        for process in scans:
            out, err = process.communicate(timeout=60)
            self.assertEqual(sorted(out.decode().split()), ['10.64.0.200:80', '10.64.0.7:80'])
            self.assertEqual(process.returncode, 0)

    @unittest.skipUnless(TEST_ALL, 'TEST_ALL=1: lowers a limit of the whole machine for seconds')
    def test_conntrack_table_full(self):
        """SYNs that a full table dropped are sent again, and every open port is found."""
        path = cscan.Conntrack.LIMIT
        if not os.path.exists(path) or not shutil.which('iptables'):
            if REQUIRED:
                self.fail('LIVE=required: needs iptables and nf_conntrack')
            self.skipTest('needs iptables and nf_conntrack')
        self.inside(self.near, 'iptables', '-A', 'OUTPUT', '-m', 'conntrack', '--ctstate', 'INVALID')
        self.inside(self.near, 'sysctl', '-qw', 'net.netfilter.nf_conntrack_tcp_timeout_syn_sent=3')
        self.inside(self.near, 'sysctl', '-qw', 'net.netfilter.nf_conntrack_tcp_timeout_close=1')
        targets = ['10.64.0.%d:80' % i for i in range(10, 250, 10)]
        self.server(*targets)
        with open(path) as file:
            before = file.read()
        try:
            with open(path, 'w') as file:
                file.write('400')
            read = self.sniff()
            status, out, err = self.scan('-f', '10.64.0.0/24,10.131.0.0/22', '--once', '-r', 2000, '-t', 500,
                                         timeout=200)
        finally:
            with open(path, 'w') as file:
                file.write(before)
        self.assertEqual((status, sorted(out.split())), (0, sorted(targets)))
        self.assertIn('conntrack table full', err)
        self.assertIn('sent again (conntrack)', err)
        self.assertEqual(len({host for _, host, _ in read()}), 256 + 1024)


if __name__ == '__main__':
    unittest.main()
