#!/usr/bin/env python3
"""metrics - reports of a metrics file of cscan.py: a summary in text, and a page of charts.

    python3 cscan.py -f 192.0.2.0/24 -p 22,80 --once -mf scan.dat
    python3 metrics.py scan.dat -o report.html

One file, standard library only, CPython 3.6 or newer and PyPy.  Files of the original cscan are
read as well, also those of a machine of the other byte order.

Contents
    1 Formats           records of a metrics file
    2 Decoding          a file of any size -> groups of records
    3 Tally             what is kept of them: counts by time, delays
    4 Summary           rows of text
    5 Charts            inline SVG
    6 Page              one HTML file that needs nothing else
    7 Command line

Theory of operation
    A scan writes many records of one kind at one time.  Such a run is found and counted by slices
    of octets, in C, so most records cost some 20 ns; others are unpacked one by one.
    Nothing grows with the file: there are at most COLUMNS columns of time, which become twice as
    wide whenever the scan outgrows them, and delays from 10 s on are kept to three digits.
"""

import argparse
import collections
import html
import itertools
import math
import operator
import os
import shlex
import struct
import sys
import time

__version__: 'str' = '2.1'          # Python 3.6 or newer is needed: older ones stop at this line


# ==== 1 Formats =======================================================================

class MetricsError(Exception):
    """What the user can mend, in one line: what, the value as repr, what was expected."""


def reason(error: OSError) -> str:
    """The kernel's words, without number and path."""
    return error.strerror or str(error)


# ---- same in cscan.py and metrics.py ----

METRICS_SENT, METRICS_WOKE, METRICS_ANSWER, METRICS_TIMEOUT = 0xe0, 0xe1, 0xe2, 0xe3
METRICS_SENDING, METRICS_EXPIRY = 0xe4, 0xe5
METRICS_TIME = 'BQ'                 # each record begins: tag, monotonic time in ms
METRICS_BODY = {                    # tag: format of what follows
    METRICS_SENT: 'i',              # descriptor, or one of the two below
    METRICS_WOKE: 'ii',             # events that epoll had, ms that it was to wait
    METRICS_ANSWER: 'iB',           # ms since the connect(), kind: bits below
    METRICS_TIMEOUT: 'i',           # ms since the connect()
    METRICS_SENDING: 'ii',          # ms that it took, how many were sent
    METRICS_EXPIRY: 'ii'}           # ms that it took, how many were taken back
METRICS_REFUSED, METRICS_FAILED = -1, -2        # not open at once; a local error, nothing was sent
METRICS_OPEN, METRICS_AT_ONCE = 2, 1            # bits of an answer's kind

# ---- end of same in cscan.py and metrics.py ----


# ==== 2 Decoding ======================================================================

BLOCK = 1 << 20                     # octets that are read at a time
RUN_MAX = 4096                      # records that are looked at together
TIMEOUT_MAX = 3600000               # ms: cscan's -t goes no further
AHEAD_MAX = 31 * 86400000           # ms that may pass between two records, where a scan paused
BACK_MAX = AHEAD_MAX                # and that time may go back: a worker of -w was late to write


class Records:
    """The records of a metrics file: iterate for (tag, ms, {fields: count}) at one time.

    file      binary, at its first octet
    timeout   ms, with which the file begins
    order     '<' or '>'
    end       offset behind the last whole record
    cut       '' or what is missing at the end of the file, after a kill or a full disk
    damage    '' or where and why the file cannot be read further
    """

    def __init__(self, file, where):
        self.file, self.cut, self.damage = file, '', ''
        self.rest = file.read(BLOCK)            # octets read and not yet decoded
        if len(self.rest) < 4:
            raise MetricsError('%s: not a metrics file, or cut: %d octets, the header alone has 4'
                            % (where, len(self.rest)))
        if len(self.rest) > 4 and self.rest[4] not in METRICS_BODY:
            raise MetricsError(
                '%s: not a metrics file: octet 4 is %#x, a record begins with %#x to %#x'
                % (where, self.rest[4], min(METRICS_BODY), max(METRICS_BODY)))
        self.order = min('<>', key=self.strangeness)
        self.timeout = struct.unpack_from(self.order + 'i', self.rest)[0]
        if not 1 <= self.timeout <= TIMEOUT_MAX:
            raise MetricsError('%s: not a metrics file: a connect timeout of %d ms' % (
                where, self.timeout))
        self.end, self.rest, self.last = 4, self.rest[4:], None
        self.heads = struct.Struct(self.order + METRICS_TIME)
        self.bodies = {tag: struct.Struct('%s%dx%s' % (self.order, self.heads.size, body))
                       for tag, body in METRICS_BODY.items()}

    def strangeness(self, order):
        """How little the beginning of the file looks like this byte order."""
        timeout, = struct.unpack_from(order + 'i', self.rest)
        time = struct.unpack_from(order + 'Q', self.rest, 5)[0] if len(self.rest) >= 13 else 0
        native = '<' if sys.byteorder == 'little' else '>'
        return not 1 <= timeout <= TIMEOUT_MAX, time, order != native

    def __iter__(self):
        while not self.damage:
            at = 0
            data = self.rest
            whole = len(data) - max(body.size for body in self.bodies.values())
            while at <= whole and not self.damage:
                for size, tag, ms, counts in self.run(data, at):
                    yield tag, ms, counts
                    at += size
            self.rest = data[at:]
            more = self.file.read(BLOCK)
            if not more:
                break
            self.rest += more
        yield from self.tail()

    def tail(self):
        """The records of the last octets, which may be cut."""
        data, at = self.rest, 0
        while at < len(data) and not self.damage:
            body = self.bodies.get(data[at])
            if body and at + body.size > len(data):
                self.cut = 'the last record is cut: %d of %d octets' % (len(data) - at, body.size)
                return
            for size, tag, ms, counts in self.run(data, at):
                yield tag, ms, counts
                at += size

    def run(self, data, at):
        """The whole records of one kind that begin there -> (octets, tag, ms, counts) by time."""
        tag = data[at]
        body = self.bodies.get(tag)
        if not body:
            self.damage = 'offset %d: %#x: a record begins with %#x to %#x' % (
                self.end, tag, min(METRICS_BODY), max(METRICS_BODY))
            return
        size = body.size
        mark = data[at:at + 1]
        tags = data[at:at + size * RUN_MAX:size]        # the first octet of each, while it lasts
        count = min(len(tags) - len(tags.lstrip(mark)), (len(data) - at) // size)
        if count > 1:
            data = data[at:at + size * count]
            at = 0
        for first, number in self.times(data, at, size, count):
            ms = self.heads.unpack_from(data, first)[1]
            if not self.follows(ms):
                return
            self.end += size * number
            yield size * number, tag, ms, self.count(tag, body, data, first, number)

    def times(self, data, at, size, count):
        """Records of one size -> (offset, how many have the same time)."""
        if count == 1 or self.is_one_time(data, size, count):
            yield at, count
            return
        stamps = (data[first + 1:first + 9] for first in range(0, size * count, size))
        for _, same in itertools.groupby(stamps):
            number = sum(1 for _ in same)
            yield at, number
            at += size * number

    def is_one_time(self, data, size, count):
        """Do all these records have the first one's time?  By columns: 12 ns a record."""
        columns = range(1, 9) if self.order == '<' else range(8, 0, -1)     # low octets first
        return all(data[at:size * count:size] == data[at:at + 1] * count for at in columns)

    def follows(self, ms):
        """Can a record of this time come next?"""
        if self.last is not None and not -BACK_MAX <= ms - self.last <= AHEAD_MAX:
            self.damage = 'offset %d: a time of %d ms after one of %d ms' % (
                self.end, ms, self.last)
            return False
        self.last = ms
        return True

    def count(self, tag, body, data, at, number):
        """Records of one time -> {fields: how many have them}; descriptors are all the same."""
        if number == 1:
            return {body.unpack_from(data, at): 1}
        octets = data[at:at + body.size * number]
        if tag == METRICS_SENT:
            signs = octets[12 if self.order == '<' else 9::body.size]
            if max(signs) < 0x80:           # no failure among them
                return {(0,): number}
        if octets == octets[:body.size] * number:
            return {body.unpack_from(octets): number}
        return collections.Counter(body.iter_unpack(octets))


# ==== 3 Tally =========================================================================

COLUMNS = 1200                      # of time, at most
SECONDS = 120                       # that are counted at a time: workers write in turn
OVERLAP_MAX = 1000                  # ms of a phase that may lie before the end of another worker's
PAUSE_MIN = 10000                   # ms without a record, and the connect timeout, are a pause
FIRST_WIDTH = 100                   # ms of a column at first
LOAD_BITS = 16                      # of the number of events of a call, at most
EXACT_BELOW = 10000                 # ms; longer delays are kept to three digits
SENT, FAILED, REFUSED, OPEN, CLOSED, UNANSWERED, BUSY, EMPTY, EVENTS, SENDING, EXPIRY = range(11)

Phases = collections.namedtuple('Phases', 'phases ms count')


class Tally:
    """What is kept of the records of a file.

    first, last     ms of the first record and the latest
    columns         {number: counts by SENT ... EXPIRY}; each is `width` ms wide
    """

    def __init__(self, timeout):
        self.timeout = timeout              # ms
        self.first = self.last = None
        self.width, self.columns = FIRST_WIDTH, {}
        self.number, self.column = None, None       # the column last used
        self.records = 0
        self.seconds, self.peak = {}, 0             # packets sent in the last ones, and most
        self.paused = 0                             # ms in which there was no scan
        self.sending = 0                            # ms from the first record to the last packet,
                                                    # without pauses
        self.delays = {True: collections.Counter(), False: collections.Counter()}   # by is open
        self.waits = collections.Counter()          # ms until a target was given up
        self.at_once = {True: 0, False: 0}
        self.loads = collections.Counter()          # bits of the number of events -> calls
        self.phases = {SENDING: Phases(0, 0, 0), EXPIRY: Phases(0, 0, 0)}
        self.ended = {}                             # SENDING, EXPIRY: ms of the latest end
        self.takers = {
            METRICS_SENT: self.take_sent, METRICS_WOKE: self.take_woke,
            METRICS_ANSWER: self.take_answers, METRICS_TIMEOUT: self.take_timeouts,
            METRICS_SENDING: self.take_sending, METRICS_EXPIRY: self.take_expiry}

    def take_all(self, records):
        for tag, ms, counts in records:
            if self.first is None:
                self.first = self.last = ms
            if ms - self.last > PAUSE_MIN + self.timeout:
                self.paused += ms - self.last
            self.last = max(self.last, ms)
            self.takers[tag](ms, self.at(ms), counts)
            self.records += sum(counts.values())
        self.peak = max(self.peak, *self.seconds.values(), 0)

    # ---- time ----

    def at(self, ms):
        """The counts of a time."""
        number = max(0, ms - self.first) // self.width
        if number != self.number:
            while number >= COLUMNS:
                self.widen()
                number //= 2
            self.number = number
            self.column = self.columns.setdefault(number, [0] * (EXPIRY + 1))
        return self.column

    def widen(self):
        """Columns become twice as wide, and half as many."""
        old, self.columns = self.columns, {}
        self.width *= 2
        for number, counts in old.items():
            new = self.columns.setdefault(number // 2, [0] * len(counts))
            new[:] = map(operator.add, new, counts)

    def spread(self, what, begin, ms):
        """Count a phase in all columns that it touched."""
        while begin < ms:
            column = self.at(begin)
            end = min(ms, self.first + ((begin - self.first) // self.width + 1) * self.width)
            column[what] += end - begin
            begin = end

    # ---- records ----

    def take_sent(self, ms, column, counts):
        number = sum(counts.values())
        for (code,), count in counts.items():
            if code == METRICS_REFUSED:
                column[REFUSED] += count
            elif code < 0:
                column[FAILED] += count
                number -= count
        column[SENT] += number
        self.sending = max(self.sending, ms - self.first - self.paused)
        second = (ms - self.first) // 1000
        self.seconds[second] = self.seconds.get(second, 0) + number
        if len(self.seconds) > SECONDS:
            self.peak = max(self.peak, self.seconds.pop(min(self.seconds)))

    def take_woke(self, ms, column, counts):
        for (events, _), count in counts.items():
            events = max(events, 0)             # -1: a signal came
            column[BUSY if events else EMPTY] += count
            column[EVENTS] += count * events
            self.loads[min(events.bit_length(), LOAD_BITS)] += count

    def take_answers(self, ms, column, counts):
        for (delay, kind), count in counts.items():
            is_open = bool(kind & METRICS_OPEN)
            column[OPEN if is_open else CLOSED] += count
            self.delays[is_open][rounded(delay)] += count
            self.at_once[is_open] += count * bool(kind & METRICS_AT_ONCE)

    def take_timeouts(self, ms, column, counts):
        for (delay,), count in counts.items():
            column[UNANSWERED] += count
            self.waits[rounded(delay)] += count

    def take_sending(self, ms, column, counts):
        self.take_phases(SENDING, ms, counts)

    def take_expiry(self, ms, column, counts):
        self.take_phases(EXPIRY, ms, counts)

    def take_phases(self, what, ms, counts):
        for (duration, number), count in counts.items():
            before = self.phases[what]
            duration = max(duration, 0)
            self.phases[what] = Phases(before.phases + count, before.ms + duration * count,
                                       before.count + max(number, 0) * count)
            ended = self.ended.get(what, self.first)
            earliest = max(min(ended, ms - OVERLAP_MAX), self.first)
            self.spread(what, max(ms - duration, earliest), ms)
            self.ended[what] = max(ended, ms)

    # ---- results ----

    def close(self):
        """Where refusals at once have no answer's record, they are answers all the same."""
        if not self.at_once[False]:
            for column in self.columns.values():
                column[CLOSED] += column[REFUSED]
            self.at_once[False] = self.total(REFUSED)
            if self.at_once[False]:
                self.delays[False][0] += self.at_once[False]

    def total(self, what):
        return sum(column[what] for column in self.columns.values())

    def duration(self):
        """Seconds from the first record to the last, at least 1 ms."""
        return max(self.last - self.first, 1) / 1000

    def running(self):
        """The same without pauses."""
        return max(self.last - self.first - self.paused, 1) / 1000

    def sending_s(self):
        """The same without the final wait for answers."""
        return max(self.sending, 1) / 1000

    def series(self, most):
        """At most so many pieces of time: [(begin s, end s, counts)], without a gap."""
        width = self.width
        while self.duration() * 1000 / width > most:
            width += self.width
        pieces = [[number * width / 1000, (number + 1) * width / 1000, [0] * (EXPIRY + 1)]
                  for number in range(int(self.duration() * 1000 / width) + 1)]
        for number, column in self.columns.items():
            counts = pieces[min(number * self.width // width, len(pieces) - 1)][2]
            counts[:] = map(operator.add, counts, column)
        pieces[-1][1] = max(self.duration(), pieces[-1][0], FIRST_WIDTH / 1000)
        if len(pieces) > 1 and pieces[-1][1] - pieces[-1][0] < width / 2000:
            _, end, counts = pieces.pop()       # too short for a rate: to the one before
            pieces[-1][1] = end
            pieces[-1][2] = list(map(operator.add, pieces[-1][2], counts))
        return pieces


def rounded(delay: int) -> int:
    """Delay in ms -> itself, or its first three digits; so there are few different ones."""
    delay = max(delay, 0)
    if delay < EXACT_BELOW:
        return delay
    unit = 10 ** (len(str(delay)) - 3)
    return delay // unit * unit


def percentile(counts, percent):
    """{value: how many have it} -> the smallest value that so many % do not exceed."""
    left = math.ceil(sum(counts.values()) * percent / 100)
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return 0


# ==== 4 Summary =======================================================================

Row = collections.namedtuple('Row', 'name value remark')


def counted(count: int, noun: str) -> str:
    """(2000, 'phase') -> '2,000 phases'."""
    return '{:,} {}{}'.format(count, noun, '' if count == 1 else 's')


def number_text(value: float) -> str:
    """1234.5 -> '1,234'; 1.25 -> '1.25'."""
    return '{:,.0f}'.format(value) if value >= 100 else '%.3g' % value


def share(part, whole) -> str:
    """(1, 3) -> '33.3 %'; never 0 or 100 unless it is."""
    percent = 100 * part / whole if whole else 0
    if 0 < percent < 0.1:
        return '%.1g %%' % percent if percent >= 1e-4 else 'below 0.0001 %'
    if percent > 99.9 and part < whole:
        return 'above 99.9 %'
    return '%d %%' % percent if percent in (0, 100) else '%.1f %%' % percent


def rate(count, seconds) -> str:
    """(1000, 3) -> '333/s'."""
    each = count / seconds
    return '{:,.0f}/s'.format(each) if each >= 10 else '%.2g/s' % each


def mean(count, seconds) -> str:
    """Like rate; of less than a column there is none to speak of."""
    return rate(count, seconds) if seconds * 1000 >= FIRST_WIDTH else '\u2013'


def milliseconds(ms) -> str:
    """8166 -> '8,166 ms'."""
    return '{:,} ms'.format(ms)


def clock(seconds: float) -> str:
    """4000 -> '1 h 6 min'; below 10 s with decimals."""
    if seconds < 10:
        return '%.3g s' % seconds
    seconds = round(seconds)
    units = ((86400, 'd', 3600, 'h'), (3600, 'h', 60, 'min'), (60, 'min', 1, 's'))
    for size, name, small, small_name in units:
        if seconds >= size:
            rest = seconds % size // small
            return '%d %s' % (seconds // size, name) + (
                ' %d %s' % (rest, small_name) if rest else '')
    return '%d s' % seconds


def summary(tally) -> 'list[Row]':
    """Tally -> what a person wants to know after a scan."""
    sent = tally.total(SENT)
    failed = tally.total(FAILED)
    rows = [
        Row('duration', clock(tally.duration()), 'connect timeout %s%s' % (
            milliseconds(tally.timeout),
            '; paused for %s of it' % clock(tally.paused / 1000) if tally.paused else '')),
        Row('packets', '{:,}'.format(sent), ', '.join(packet_words(tally, sent)))]
    if failed:
        rows.append(Row('send failures', '{:,}'.format(failed),
                        'clashes and local errors, nothing was sent'))
    return rows + answer_rows(tally, sent) + epoll_rows(tally) + phase_rows(tally)


def packet_words(tally, sent):
    """What can be said of the rate at which packets were sent."""
    if tally.sending >= FIRST_WIDTH:
        yield 'mean %s while sending' % rate(sent, tally.sending_s())
    if tally.running() > 2:
        yield 'most in a second {:,}'.format(tally.peak)


def answer_rows(tally, sent):
    """What became of the packets."""
    opened, closed, waits = tally.total(OPEN), tally.total(CLOSED), tally.total(UNANSWERED)
    rows = [Row('answers', '{:,}'.format(opened + closed), '%s of packets' % share(
        opened + closed, sent))]
    for name, count, is_open in (('  open', opened, True), ('  not open', closed, False)):
        rows.append(Row(name, '{:,}'.format(count), '%s of answers%s' % (
            share(count, opened + closed),
            ', {:,} at once'.format(tally.at_once[is_open]) if tally.at_once[is_open] else '')))
    delays = tally.delays[True] + tally.delays[False]
    if delays:
        rows.append(Row('delay', milliseconds(percentile(delays, 50)),
                        'median; 90 %% within %s, 99 %% within %s, longest %s' % tuple(
                            milliseconds(percentile(delays, part)) for part in (90, 99, 100))))
    rows.append(Row('timed out', '{:,}'.format(waits), '%s of packets%s' % (
        share(waits, sent), ', after %s (median), at most %s' % (
            milliseconds(percentile(tally.waits, 50)), milliseconds(max(tally.waits)))
        if waits else '')))
    left = sent - opened - closed - waits
    if left > 0:
        rows.append(Row('unknown', '{:,}'.format(left), 'still pending where the file ends, or '
                        'where the scan was killed'))
    return rows


def epoll_rows(tally):
    """How busy epoll was."""
    empty = tally.total(EMPTY)
    calls = tally.total(BUSY) + empty
    remark = '%s; %s events a call; %s had none' % (
        mean(calls, tally.running()), number_text(tally.total(EVENTS) / max(calls, 1)),
        share(empty, calls))
    return [Row('epoll calls', '{:,}'.format(calls), remark if calls else '')]


def phase_rows(tally):
    """How long sending and expiry took."""
    rows = []
    for what, name, noun in ((SENDING, 'sending', 'packet'), (EXPIRY, 'expiry', 'socket')):
        phases, ms, count = tally.phases[what]
        if phases:
            rows.append(Row(name, clock(ms / 1000), '%s of the time; %s of %s ms and %s %ss'
                            % (share(ms / 1000, tally.running()), counted(phases, 'phase'),
                               number_text(ms / phases), number_text(count / phases), noun)))
    return rows


def rows_text(rows) -> str:
    """Rows -> lines in columns."""
    names = max(len(row.name) for row in rows)
    values = max(len(row.value) for row in rows)
    return ''.join('%-*s  %*s  %s\n' % (names, row.name, values, row.value, row.remark)
                   for row in rows)


# ==== 5 Charts ========================================================================
#
# A chart is a Plot (its scales), axes and marks; all are strings of SVG.  Colours are classes,
# so that the page's style can follow the reader's light or dark scheme.

WIDTH, HEIGHT = 1100, 260
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 14, 46
PIECES = 360                        # pieces of time, at most
BARS = 50                           # of a histogram, about

Series = collections.namedtuple('Series', 'name css values')    # values: one a piece


def steps(top: float, about: int) -> float:
    """A round distance of ticks: about so many fit below top."""
    raw = top / about
    unit = 10 ** math.floor(math.log10(raw))
    return next(unit * each for each in (1, 2, 5, 10) if unit * each >= raw * 0.999)


def short(value: float) -> str:
    """Tick label: 250000 -> '250 k'."""
    for size, unit in ((1e9, ' G'), (1e6, ' M'), (1e4, ' k')):
        if abs(value) >= size:
            return '%.4g%s' % (value / (1e3 if unit == ' k' else size), unit)
    return '{:,.0f}'.format(value) if value >= 1000 else '%.4g' % value


class Plot:
    """The scales of a chart: x from 0 to right, y from 0 to a round number above top.

    least   the smallest distance of ticks of y: 1 where things are counted
    """

    def __init__(self, right, top, least=0):
        self.right = right
        self.step = max(steps(top, 4), least) if top > 0 else 1
        self.top = self.step * max(1, math.ceil(top / self.step * 0.999))

    def x(self, value):
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.right

    def y(self, value):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.top

    def y_axis(self, title):
        """Lines across with labels, and what they count."""
        lines = []
        for number in range(round(self.top / self.step) + 1):
            at = self.y(number * self.step)
            lines.append('<path class="grid" d="M%d %.1fH%d"/>' % (LEFT, at, WIDTH - RIGHT))
            lines.append('<text class="tick" x="%d" y="%.1f" text-anchor="end">%s</text>'
                         % (LEFT - 8, at + 4, short(number * self.step)))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        lines.append('<text class="axis" transform="translate(14 %.1f) rotate(-90)" '
                     'text-anchor="middle">%s</text>' % (middle, title))
        return ''.join(lines)

    def x_axis(self, labels, title):
        """(value, text) labels below, and what they count."""
        lines = ['<path class="base" d="M%d %.1fH%d"/>'
                 % (LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT)]
        for value, text in labels:
            at = self.x(value)
            lines.append('<path class="base" d="M%.1f %dv5"/>' % (at, HEIGHT - BOTTOM))
            lines.append('<text class="tick" x="%.1f" y="%d" text-anchor="middle">%s</text>' % (
                at, HEIGHT - BOTTOM + 18, text))
        lines.append('<text class="axis" x="%.1f" y="%d" text-anchor="middle">%s</text>' % (
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, title))
        return ''.join(lines)

    def round_axis(self, scale, title):
        """Round labels below; scale  how much one unit of the labels is."""
        step = steps(self.right / scale, 10)
        count = int(self.right / scale / step * 1.001)
        return self.x_axis([(number * step * scale, '%.6g' % (number * step))
                            for number in range(count + 1)], title)

    def bar(self, left, right, low, high, css):
        """A bar from low to high; nothing where there is nothing."""
        if high <= low:
            return ''
        gap = 1 if self.x(right) - self.x(left) > 4 else 0
        return '<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>' % (
            css, self.x(left) + gap / 2, self.y(high), self.x(right) - self.x(left) - gap,
            max(self.y(low) - self.y(high), 1))

    def hover(self, left, right, text):
        """What the pointer shows over a piece."""
        return ('<rect class="hit" x="%.1f" y="%d" width="%.1f" height="%d"><title>%s</title>'
                '</rect>' % (self.x(left), TOP, self.x(right) - self.x(left),
                             HEIGHT - TOP - BOTTOM, html.escape(text)))

    def marker(self, value, text):
        """A dashed line up, with its name."""
        at = self.x(value)
        left = at > WIDTH - 220
        return ('<path class="marker" d="M%.1f %dV%d"/><text class="note" x="%.1f" y="%d" '
                'text-anchor="%s">%s</text>' % (at, TOP, HEIGHT - BOTTOM, at + (-6 if left else 6),
                                                TOP + 11, 'end' if left else 'start', text))


def outline(plot, edges, values) -> str:
    """Values between edges -> the path of their steps."""
    path = ['M%.1f %.1f' % (plot.x(edges[0]), plot.y(values[0]))]
    height = None
    for end, value in zip(edges[1:], values):
        if value != height:
            path.append('V%.1f' % plot.y(value))
            height = value
        path.append('H%.1f' % plot.x(end))
    return ''.join(path)


def area(plot, edges, low, high, css) -> str:
    """What lies between two rows of steps, with a line above."""
    upper = outline(plot, edges, high)
    lower = outline(plot, edges[::-1], low[::-1])
    return '<path class="fill %s" d="%sL%sZ"/><path class="line %s" d="%s"/>' % (
        css, upper, lower[1:], css, upper)


def time_scale(seconds: float) -> 'tuple[float, str]':
    """Length of the axis -> (seconds of its unit, name of the unit)."""
    for size, unit in ((86400, 'd'), (3600, 'h'), (60, 'min')):
        if seconds >= 3 * size:
            return size, unit
    return 1, 's'


def time_chart(pieces, series, axis, unit, stacked=True) -> str:
    """Series over time -> SVG; unit  for the hover text."""
    edges = [piece[0] for piece in pieces] + [pieces[-1][1]]
    low = [0] * len(pieces)
    tops, marks = [], []
    for each in series:
        high = list(map(operator.add, low, each.values)) if stacked else each.values
        tops.append((list(low), high, each.css))
        low = high if stacked else low
    plot = Plot(max(edges[-1], 1e-3), max(max(high) for _, high, _ in tops))
    for low, high, css in tops:
        if any(map(operator.sub, high, low)):
            marks.append(area(plot, edges, low, high, css))
    for number, (begin, end, _) in enumerate(pieces):
        texts = ['%s %s%s' % (number_text(each.values[number]), each.name, unit)
                 for each in series]
        marks.append(plot.hover(begin, end, '%s to %s: %s' % (
            moment(begin), moment(end), ', '.join(texts))))
    size, name = time_scale(edges[-1])
    return svg(plot.y_axis(axis), marks, plot.round_axis(size, 'time since the start, %s' % name))


def moment(seconds: float) -> str:
    """3725.5 -> '1:02:05.5', a time since the start."""
    minutes, rest = divmod(round(seconds, 1), 60)
    text = '%04.1f' % rest
    text = text[:-2] if text.endswith('.0') else text
    if minutes < 60:
        return '%d:%s' % (minutes, text)
    return '%d:%02d:%s' % (minutes // 60, minutes % 60, text)


def svg(*parts) -> str:
    """Axes and marks -> the element."""
    return '<div class="wide"><svg viewBox="0 0 %d %d" role="img">%s</svg></div>' % (
        WIDTH, HEIGHT, ''.join(itertools.chain.from_iterable(parts)))


def rates(pieces, what):
    """Counts of each piece -> a second."""
    return [counts[what] / max(end - begin, 1e-3) for begin, end, counts in pieces]


def delay_chart(delays) -> str:
    """{is open: {ms: count}} -> histogram."""
    both = delays[True] + delays[False]
    longest = max(both)
    if longest > 4 * percentile(both, 99.5):        # a few stragglers would press all else flat
        longest = percentile(both, 99.5)
    width = max(1, round(steps(max(longest, 1), BARS)))
    count = max(10, longest // width + 1)
    bars = {kind: [0] * count for kind in delays}
    for kind, counts in delays.items():
        for ms, number in counts.items():
            if ms <= longest:
                bars[kind][ms // width] += number
    tallest = max(map(operator.add, bars[True], bars[False]))
    plot = Plot(count * width, 1.15 * tallest, 1)       # with room for the markers' names
    marks = []
    for number, (opened, closed) in enumerate(zip(bars[True], bars[False])):
        left, right = number * width, (number + 1) * width
        marks.append(plot.bar(left, right, 0, opened, 'open'))
        marks.append(plot.bar(left, right, opened, opened + closed, 'closed'))
        marks.append(plot.hover(left, right, '{:,} to {:,} ms: {:,} open, {:,} not open'.format(
            left, right, opened, closed)))
    middle, most = percentile(both, 50), percentile(both, 90)
    marks.append(plot.marker(middle, 'median %s' % milliseconds(middle)))
    if most <= longest and abs(plot.x(most) - plot.x(middle)) > 150:
        marks.append(plot.marker(most, '90 %% within %s' % milliseconds(most)))
    scale, unit = (1000, 's') if count * width >= 10000 else (1, 'ms')
    return svg(plot.y_axis('answers'), marks, plot.round_axis(scale, 'delay, %s' % unit))


def load_chart(loads) -> str:
    """{bits of the number of events: calls} -> bars: none, 1, 2-3, 4-7, ..."""
    bits = range(max(max(loads), 4) + 1)
    names = ['%d\u2013%d' % (1 << bit >> 1, (1 << bit) - 1) for bit in bits]
    names[:2] = 'none', '1'
    names[LOAD_BITS:] = ['%d or more' % (1 << LOAD_BITS - 1)] * (len(names) > LOAD_BITS)
    plot = Plot(len(names), max(loads.values()), 1)
    marks = []
    for bit, name in zip(bits, names):
        marks.append(plot.bar(bit + 0.15, bit + 0.85, 0, loads[bit],
                              'empty' if not bit else 'busy'))
        marks.append(plot.hover(bit, bit + 1, '%s: %s' % (
            'no event' if not bit else name + ' events', counted(loads[bit], 'call'))))
    labels = [(bit + 0.5, name) for bit, name in zip(bits, names)][::1 + (len(names) > 11)]
    return svg(plot.y_axis('calls'), marks, plot.x_axis(labels, 'events that a call of epoll had'))


# ==== 6 Page ==========================================================================

STYLE = '''\
:root { color-scheme: light dark; --paper: #ffffff; --card: #f6f7f9; --ink: #1b1f27;
  --soft: #5d6675; --grid: #dfe3e9; --base: #8b94a3; --hit: #1b1f2714;
  --sent: #2563eb; --failed: #dc2626; --open: #0d8f6f; --closed: #e07b16; --unanswered: #7c5cd6;
  --busy: #2563eb; --empty: #a8b1bf; --sending: #2563eb; --expiry: #d0478f; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12151b; --card: #1b2029; --ink: #e6e9ef; --soft: #9aa4b5; --grid: #2b323e;
    --base: #677286; --hit: #ffffff1a; --sent: #6ea2ff; --failed: #ff7b72; --open: #3ecfa5;
    --closed: #f5a54a; --unanswered: #a994ff; --busy: #6ea2ff; --empty: #5a6475;
    --sending: #6ea2ff; --expiry: #f286bd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 20px 40px; max-width: 1180px; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
h1 { margin: 0; font-size: 25px; overflow-wrap: anywhere; }
h2 { margin: 0; font-size: 17px; }
p { margin: 2px 0 0; color: var(--soft); }
code { font: 13px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.warning { margin-top: 10px; padding: 8px 12px; border-left: 4px solid var(--failed);
  background: var(--card); color: var(--ink); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
  margin: 20px 0; }
.tile, figure { background: var(--card); border-radius: 10px; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 23px; font-weight: 650; white-space: nowrap; }
.tile span { color: var(--soft); font-size: 13px; }
figure { margin: 14px 0; padding: 14px 16px 8px; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 2px 20px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: center; font-size: 14px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; background: currentColor; vertical-align: -1px; }
.legend b { font-weight: 400; color: var(--ink); }
.wide { overflow-x: auto; }
svg { display: block; width: 100%; min-width: 700px; height: auto; margin-top: 6px; }
svg text { font-size: 13px; fill: var(--soft); }
svg .note { fill: var(--ink); paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.grid { stroke: var(--grid); } .base { stroke: var(--base); fill: none; }
.marker { stroke: var(--ink); stroke-dasharray: 4 4; opacity: .7; }
.line { fill: none; stroke-width: 1.5; } .fill { opacity: .28; }
.hit { fill: transparent; } .hit:hover { fill: var(--hit); }
.nothing { padding: 34px 0 40px; text-align: center; }
table { border-collapse: collapse; width: 100%; min-width: 480px; }
td { padding: 5px 14px 5px 0; border-top: 1px solid var(--grid); vertical-align: top; }
tr:first-child td { border-top: 0; }
td:first-child { white-space: nowrap; }
td + td { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td + td + td { text-align: left; white-space: normal; width: 70%; color: var(--soft); }
td.part { padding-left: 18px; }
'''
COLOURS = ('sent', 'failed', 'open', 'closed', 'unanswered', 'busy', 'empty', 'sending', 'expiry')


def colour_style() -> str:
    """A rule for each colour: legend, lines, areas and bars."""
    return ''.join('.{0} {{ color: var(--{0}); }} path.line.{0} {{ stroke: var(--{0}); }} '
                   'path.fill.{0}, rect.{0} {{ fill: var(--{0}); }}\n'.format(name)
                   for name in COLOURS)


def figure(title, remark, legend, chart) -> str:
    """A chart with its title; legend  [(css, name)]; chart  '' = there is nothing to show."""
    marks = ''.join('<span class="%s"><i></i><b>%s</b></span>' % pair for pair in legend)
    return ('<figure><figcaption><div><h2>%s</h2><p>%s</p></div><div class="legend">%s</div>'
            '</figcaption>%s</figure>\n' % (
                title, remark, marks if chart else '',
                chart or '<p class="nothing">There are none in this file.</p>'))


def timed_figure(title, remark, pieces, rows, axis, stacked=True) -> str:
    """A figure over time; rows  (name, css, what is counted)."""
    series = [Series(name, css, rates(pieces, what)) for name, css, what in rows]
    chart = time_chart(pieces, series, axis, '/s', stacked) if any(
        any(each.values) for each in series) else ''
    return figure(title, remark, [(each.css, each.name) for each in series]
                  if len(series) > 1 else [], chart)


def phase_figure(tally, pieces) -> str:
    """Which part of the time went into sending and expiry."""
    series = [Series(name, css, [counts[what] / 10 / max(end - begin, 1e-3)
                                 for begin, end, counts in pieces])
              for name, css, what in (('sending', 'sending', SENDING),
                                      ('expiry', 'expiry', EXPIRY))]
    rows = {row.name: row.remark for row in phase_rows(tally)}
    chart = time_chart(pieces, series, '% of the time', ' %', stacked=False) if any(
        tally.phases[what].phases for what in (SENDING, EXPIRY)) else ''
    remark = '; '.join('%s: %s' % (name, text.partition('; ')[2]) for name, text in rows.items())
    return figure('Send and expiry phases', remark, [(each.css, each.name) for each in series],
                  chart)


def tiles(tally) -> str:
    """The few numbers that matter most."""
    sent = tally.total(SENT)
    answers = tally.total(OPEN) + tally.total(CLOSED)
    delays = tally.delays[True] + tally.delays[False]
    pairs = [(clock(tally.duration()), 'duration'),
             ('{:,}'.format(sent), 'packets'),
             (mean(sent, tally.sending_s()), 'packets, mean while sending'),
             ('{:,}'.format(tally.total(OPEN)), 'open'),
             (share(answers, sent), 'of packets answered'),
             (milliseconds(percentile(delays, 50)) if delays else '\u2013', 'median delay')]
    return '<div class="tiles">%s</div>\n' % ''.join(
        '<div class="tile"><b>%s</b><span>%s</span></div>' % pair for pair in pairs)


def figures(tally) -> 'list[str]':
    """All charts of a file."""
    pieces = tally.series(PIECES)
    each = 'each step is %s' % clock(pieces[0][1] - pieces[0][0])
    packets = [('sent', 'sent', SENT)]
    if tally.total(FAILED):
        packets.append(('local failures', 'failed', FAILED))
    rows = {row.name: row for row in summary(tally)}
    delay = rows.get('delay')
    return [
        timed_figure('Packets', '; '.join(filter(None, (rows['packets'].remark, each))), pieces,
                     packets, 'packets a second', False),
        timed_figure('Answers', rows['answers'].remark, pieces, [('open', 'open', OPEN),
                                               ('not open', 'closed', CLOSED)],
                     'answers a second'),
        figure('Delay of answers', delay.remark.replace('median', 'median ' + delay.value)
               if delay else '',
               [('open', 'open'), ('closed', 'not open')],
               delay_chart(tally.delays) if delay else ''),
        timed_figure('Timeouts', rows['timed out'].remark, pieces,
                     [('timed out', 'unanswered', UNANSWERED)], 'timeouts a second'),
        timed_figure('Calls of epoll', rows['epoll calls'].remark, pieces,
                     [('with events', 'busy', BUSY), ('empty', 'empty', EMPTY)],
                     'calls a second'),
        figure('Load of epoll', 'how many events a call had', [],
               load_chart(tally.loads) if tally.loads else ''),
        phase_figure(tally, pieces)]


def date_text(tally, ended: float) -> str:
    """When the scan began and ended; ended: seconds since 1970."""
    begin, end = (time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))
                  for seconds in (ended - tally.duration(), ended))
    return '%s to %s UTC' % (begin, end)


def page(tally, name, warning, title='', lines=()) -> str:
    """Tally -> the whole HTML file.

    title   of the page, '' = one with the name of the file
    lines   (name, text): what else stands below it
    """
    title = html.escape(title or 'Scan metrics: %s' % name)
    about = ''.join('<p>%s: <code>%s</code></p>\n' % (what, html.escape(text))
                    for what, text in lines)
    table = ''.join('<tr><td%s>%s</td><td>%s</td><td>%s</td></tr>\n' % (
        ' class="part"' if row.name.startswith(' ') else '', row.name.strip(), row.value,
        row.remark) for row in summary(tally))
    return '\n'.join((
        '<!DOCTYPE html>', '<html lang="en">', '<head>', '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<title>%s</title>' % title, '<style>', STYLE + colour_style() + '</style>', '</head>',
        '<body>', '<h1>%s</h1>' % title,
        '<p>{:,} records, connect timeout {}</p>'.format(
            tally.records, milliseconds(tally.timeout)), about,
        '<p class="warning">%s</p>' % html.escape(warning) if warning else '',
        tiles(tally), *figures(tally),
        '<figure><h2>Summary</h2>', '<div class="wide"><table>', table + '</table></div>',
        '</figure>',
        '</body>', '</html>', ''))


# ==== 7 Command line ==================================================================

EXAMPLES = '''\
examples:
  metrics.py scan.dat                       summary
  metrics.py scan.dat -o report.html        and a page of charts
  metrics.py scan.dat -o report.html --title 'Port 443, November' --command 'cscan.py -p 443 ...'
  ssh box cat scan.dat | metrics.py -       of a scan that is still running
'''


class Parser(argparse.ArgumentParser):
    """One line for a mistake."""

    def error(self, message):
        sys.stderr.write('metrics: %s (see -h)\n' % message)
        sys.exit(2)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(
        prog='metrics.py', description="Read a metrics file, written by cscan's -mf.",
        epilog=EXAMPLES, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('file', metavar='FILE', help='metrics file; -: standard input')
    add('-o', metavar='PAGE', help='write a page of charts: one HTML file, needs nothing else')
    add('--title', metavar='TEXT', default='', help='title of the page')
    add('--command', metavar='TEXT', default='',
        help='the command of the scan, which the metrics file does not hold: to stand on the page')
    add('--version', action='version', version='metrics %s' % __version__)
    return parser


def main(argv=None) -> int:
    """Command line -> exit status: 0 read (also cut files), 1 error or damage, 2 usage."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.o == '-':
        parser.error('-o -: the name of a file was expected')
    try:
        return run(args)
    except MetricsError as error:
        sys.stderr.write('metrics: %s\n' % error)
        return 1
    except KeyboardInterrupt:
        return 130


def run(args) -> int:
    """Read, then print and draw -> exit status."""
    if args.o:
        check_page(args)
    records, tally = read(args.file)
    name = 'standard input' if args.file == '-' else ascii(os.path.basename(args.file))[1:-1]
    warning = records.cut or records.damage
    if warning:
        warning = '%s; everything before it was read' % warning
    if tally.records:
        put_text(rows_text(summary(tally)))
        if args.o:
            write_page(args.o, page(tally, name, warning, args.title, page_lines(args, tally)))
    if warning:
        sys.stderr.write('metrics: %s: %s\n' % (name, warning))
    if not tally.records:
        sys.stderr.write('metrics: %s: no records in it\n' % name)
    return 1 if records.damage or not tally.records else 0


def page_lines(args, tally) -> 'list[tuple[str, str]]':
    """What stands below the title: when the scan was, its command, and that of the page.

    The file holds no date: it was written last when the scan ended.
    """
    lines = []
    if args.file != '-':
        lines.append(('scan', date_text(tally, os.stat(args.file).st_mtime)))
    if args.command:
        lines.append(('command', args.command))
    words = ['metrics.py', args.file, '-o', args.o]
    lines.append(('page', '%s, by %s' % (date_of_now(), ' '.join(map(shlex.quote, words)))))
    return lines


def date_of_now() -> str:
    """For the page."""
    return time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())


def read(path) -> 'tuple[Records, Tally]':
    """A file, or - for standard input -> what it held."""
    where = 'standard input' if path == '-' else repr(path)
    try:
        if path == '-':
            if not sys.stdin:
                raise MetricsError('standard input is closed')
            return read_open(sys.stdin.buffer, where)
        with open(path, 'rb') as file:
            return read_open(file, where)
    except OSError as error:
        raise MetricsError('%s: %s' % (where, reason(error))) from None


def read_open(file, where):
    """An open file -> what it held."""
    records = Records(file, where)
    tally = Tally(records.timeout)
    tally.take_all(records)
    tally.close()
    return records, tally


def put_text(text):
    """Text to standard output; a reader that has seen enough is no error."""
    try:
        if not sys.stdout:
            raise MetricsError('standard output is closed')
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)    # what Python would flush at exit
        if not isinstance(error, BrokenPipeError):
            raise MetricsError('standard output: %s' % reason(error)) from None


def check_page(args):
    """What can be said against the page's file before hours of reading."""
    if args.file != '-' and os.path.exists(args.o) and os.path.exists(args.file) and (
            os.path.samefile(args.o, args.file)):
        raise MetricsError('argument -o: %r: that is the metrics file' % args.o)
    folder = os.path.dirname(args.o) or '.'
    for bad, what in ((os.path.isdir(args.o), 'a folder; the name of a file was expected'),
                      (not os.path.isdir(folder), 'no such folder'),
                      (not os.access(folder, os.W_OK | os.X_OK) and not os.path.exists(args.o),
                       'nothing can be written to that folder')):
        if bad:
            raise MetricsError('argument -o: %r: %s' % (args.o, what))


def write_page(path, text):
    """The page into its file."""
    try:
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)
    except OSError as error:
        raise MetricsError('argument -o: %r: %s' % (path, reason(error))) from None


if __name__ == '__main__':
    sys.exit(main())
