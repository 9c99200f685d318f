#!/usr/bin/env python3
"""cscan - Internet-scale IPv4 TCP scanner that needs no privilege.

    python3 cscan.py -f 192.0.2.0/24 -p 22,80 --once

One file, standard library only, Linux, CPython 3.6 or newer and PyPy.  Results are open
ports, one ip:port a line, or entries of a CBA file (-o).  `-h` lists the options.

Contents
    1 Formats           range text, .csw, .csp, CBA: what stands in files
    2 Targets           built-in lists, addresses x ports, random draws, permutation
    3 Output            console, results as text and in formats, CBA writer
    4 Timed socket      what modules talk through: one deadline a conversation
    5 Module registry   @module, -mod, -mcfg
    6 Modules           what is done with an open port
    7 Connect engine    pool of sockets, pace, local limits
    8 Threads and metrics   module threads, progress, the machine's limits
    9 Command line

Theory of operation
    A probe is one non-blocking connect() on a socket of a pool.  All of them share one source
    port (SO_REUSEPORT) and stand in one edge-triggered epoll set from birth to death.
    A probe ends in one of two ways:
      - an event comes: the same connect() is called again.  The kernel then tells what became
        of this very attempt: 0 open, EALREADY nothing yet (the event was an earlier attempt's),
        ECONNRESET or EPIPE opened and reset since, anything else is the net's answer;
        in all cases but 0 the socket is as new afterwards.
      - its deadline comes: shutdown() takes it back to unconnected, and connect() to the next
        target follows at once.  If the handshake was done in between, shutdown() or that
        connect() fails with the result of the old target (ENOTCONN, EISCONN).
    So no answer can be credited to another target, and none is lost, whatever comes late.
    The path of a target: Space -> Engine.draw -> connect() -> collect or turn_over ->
    Crew (bounded queue) -> module thread -> Out -> stdout or CBA.
"""

import argparse
import array
import base64
import bisect
import collections
import contextlib
import errno
import fcntl
import functools
import gc
import hashlib
import heapq
import io
import itertools
import json
import marshal
import math
import mmap
import operator
import os
import random
import re
import resource
import select
import shlex
import signal
import socket
import stat
import struct
import sys
import textwrap
import threading
import time
import types
import zlib

__version__: 'str' = '2.1'          # Python 3.6 or newer is needed: older ones stop at this line


# ==== 1 Formats =======================================================================

# ---- same in cba_reader.py and compile_targets.py and cscan.py and masscanned.py ----

class UserError(Exception):
    """What the user can mend, in one line: what, the value as repr, what was expected."""


def why(error: Exception) -> str:
    """OSError -> the kernel's words, without number and path; others -> their text."""
    return getattr(error, 'strerror', None) or str(error)

# ---- end of same in cba_reader.py and compile_targets.py and cscan.py and masscanned.py ----


# ---- same in compile_targets.py and cscan.py and masscanned.py ----

ADDRESSES_MAX = 1 << 32
OCTET = r'(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
QUAD = OCTET + r'(?:\.' + OCTET + r'){3}'


def is_ipv6(text: str) -> bool:
    """An address of IPv6, or a block or range of such?"""
    if ':' not in text:
        return False
    try:
        for part in text.split('-', 1):
            address, slash, length = part.partition('/')
            socket.inet_pton(socket.AF_INET6, address.partition('%')[0])
            if slash and not re.fullmatch('[0-9]{1,3}', length):
                return False
    except (OSError, ValueError):
        return False
    return True


def merge_ranges(ranges: 'list[tuple[int, int]]') -> 'list[tuple[int, int]]':
    """Ranges in any order, overlapping or touching -> ascending, disjoint, apart."""
    merged = []
    end = -2
    for pair in sorted(ranges):
        first, last = pair
        if first > end + 1:
            merged.append(pair)
            end = last
        elif last > end:
            merged[-1] = merged[-1][0], last
            end = last
    return merged

# ---- end of same in compile_targets.py and cscan.py and masscanned.py ----


# ---- same in cscan.py and compile_targets.py ----

TABLE = struct.Struct('<III')       # .csw, .csp header: num max_idx mask; then num u32 pairs
PORT_MAX = 65535
RANGE = re.compile(r'(%s)(?:/([0-9]{1,2})|\s*-\s*(%s))?' % (QUAD, QUAD))
SPREAD = re.compile(r'(?:{0}(?:-{0})?|\*)(?:\.(?:{0}(?:-{0})?|\*)){{3}}'.format(OCTET))
SPREAD_MAX = 1 << 16                # ranges that one a.b.*.c-d may stand for
COMMENT = re.compile('[#;]')
# Spaces within one target; they are looked at from their first on: a megabyte of them is quick
SPACED = re.compile(r'(?<!\s)\s+(-)\s*|(-)\s+|(?<!\S)(name:)\s+')
BETWEEN = re.compile(r'[\s,]+')     # separates targets on a line
NAME_MARK = 'name:'                 # before a host by name, in range text
# The last label has a letter: resolvers take 10.1 and 0x7f000001 for addresses
HOST_NAME = re.compile(r'(?:[\w-]{1,63}\.)*(?!0[xX]|[\w-]{64})[\w-]*[^\W\d_][\w-]*\.?')
UTF16_MARKS = b'\xff\xfe', b'\xfe\xff'
LIST_BLOCK = 64                     # lines read in one step if all are addresses
LIST_KEYS = (                       # keys of JSON lists that have prefixes
    'ip_prefix',                    # AWS
    'ipv4Prefix',                   # GCP
    'addressPrefixes',              # Azure
    'ipv4_cidrs',                   # Cloudflare
    'addresses',                    # Fastly
    'cidr')                         # Oracle
QUOTED = 80                         # characters of a mistake that a message shows
BAD_SHOWN = 10                      # bad lines that a message names
PORTS = re.compile(r'(?:([0-9]{1,5})(?:-([0-9]{1,5}))?|(-|[a-z][a-z0-9-]*))(?::([0-9]{1,10}))?')
SERVICES = {                        # name: TCP port, as IANA or habit has it
    'ftp': 21, 'ssh': 22, 'telnet': 23, 'smtp': 25, 'whois': 43, 'tacacs': 49, 'domain': 53,
    'dns': 53, 'gopher': 70, 'finger': 79, 'http': 80, 'kerberos': 88, 'iso-tsap': 102,
    's7': 102, 'pop3': 110, 'sunrpc': 111, 'rpcbind': 111, 'ident': 113, 'nntp': 119,
    'msrpc': 135, 'netbios-ssn': 139, 'imap': 143, 'bgp': 179, 'ldap': 389, 'https': 443,
    'microsoft-ds': 445, 'smb': 445, 'smtps': 465, 'submissions': 465, 'modbus': 502,
    'shell': 514, 'printer': 515, 'rtsp': 554, 'nntps': 563, 'submission': 587, 'ipp': 631,
    'ldaps': 636, 'rsync': 873, 'ftps': 990, 'telnets': 992, 'imaps': 993, 'pop3s': 995,
    'socks': 1080, 'ms-sql-s': 1433, 'mssql': 1433, 'oracle': 1521, 'pptp': 1723, 'mqtt': 1883,
    'rtmp': 1935, 'nfs': 2049, 'zookeeper': 2181, 'docker': 2375, 'iec-104': 2404,
    'http-proxy': 3128, 'squid': 3128, 'mysql': 3306, 'ms-wbt-server': 3389, 'rdp': 3389,
    'svn': 3690, 'epmd': 4369, 'sip': 5060, 'sips': 5061, 'xmpp': 5222, 'postgresql': 5432,
    'postgres': 5432, 'adb': 5555, 'kibana': 5601, 'amqps': 5671, 'amqp': 5672, 'vnc': 5900,
    'couchdb': 5984, 'winrm': 5985, 'winrms': 5986, 'x11': 6000, 'redis': 6379,
    'kubernetes': 6443, 'irc': 6667, 'ircs': 6697, 'cassandra': 9042, 'http-alt': 8080,
    'https-alt': 8443, 'secure-mqtt': 8883, 'mqtts': 8883, 'jetdirect': 9100,
    'elasticsearch': 9200, 'git': 9418, 'memcached': 11211, 'minecraft': 25565,
    'mongodb': 27017, 'bacnet': 47808, 'ethernet-ip': 44818}


def ip_number(text: str) -> int:
    """'10.0.0.1', known to be well-formed -> 167772161."""
    return int.from_bytes(socket.inet_pton(socket.AF_INET, text), 'big')


def ip_text(ip: int) -> str:
    """167772161 -> '10.0.0.1'."""
    return socket.inet_ntoa(ip.to_bytes(4, 'big'))


def quote(text: str) -> str:
    """A mistake, as messages show it: its repr, at most 80 characters."""
    return repr(text[:QUOTED]) + ('...' if len(text) > QUOTED else '')


def parse_range(text: str, where: str) -> 'tuple[int, int]':
    """a.b.c.d, a.b.c.d/len (host bits cleared) or a.b.c.d-e.f.g.h -> (first, last)."""
    match = RANGE.fullmatch(text)
    if not match:
        raise UserError('%s: %s: not an address, a.b.c.d/length, a.b.c.d-e.f.g.h or a.b.*.c-d'
                        % (where, quote(text)))
    low, length, high = match.groups()
    first = last = ip_number(low)
    if length:
        if int(length) > 32:
            raise UserError('%s: %s: the length is 0 to 32' % (where, quote(text)))
        hosts = (1 << 32 - int(length)) - 1
        first, last = first & ~hosts, first | hosts
    elif high:
        last = ip_number(high)
        if last < first:
            raise UserError('%s: %s: the last address is below the first' % (where, quote(text)))
    return first, last


def parse_spread(text: str, where: str) -> 'list[tuple[int, int]]':
    """Four octets, some as c-d or * -> ranges; raises UserError for more than 65,536 of them."""
    octets = []
    for part in text.split('.'):
        begin, _, end = ('0-255' if part == '*' else part).partition('-')
        octets.append((int(begin), int(end or begin)))
    if any(high < low for low, high in octets):
        raise UserError('%s: %s: the last octet is below the first' % (where, quote(text)))
    size = 1                        # addresses that stand together at the end
    while octets and octets[-1] == (0, 255):
        octets.pop()
        size <<= 8
    last_low, last_high = octets.pop() if octets else (0, 0)
    count = 1
    for low, high in octets:
        count *= high - low + 1
    if count > SPREAD_MAX:
        raise UserError('%s: %s: stands for %d ranges: at most %d'
                        % (where, quote(text), count, SPREAD_MAX))
    heads = [0]
    for low, high in octets:
        heads = [head << 8 | octet for head in heads for octet in range(low, high + 1)]
    return [((head << 8 | last_low) * size, ((head << 8 | last_high) + 1) * size - 1)
            for head in heads]


def is_prefix(value) -> bool:
    """A string with an address, / and a length?"""
    return isinstance(value, str) and '/' in value and bool(
        RANGE.fullmatch(value) or is_ipv6(value))


def is_table(data: bytes) -> bool:
    """As long as the header of a .csw or .csp says?"""
    return len(data) >= TABLE.size and len(data) == TABLE.size + 8 * TABLE.unpack_from(data)[0]


def single_ranges(packed: bytes) -> 'list[tuple[int, int]]':
    """Addresses of four octets each, in any order -> merged ranges; in columns, not one by one."""
    columns = array.array('I', packed)
    if sys.byteorder == 'little':
        columns.byteswap()
    ips = sorted(columns)
    inner = [high - low > 1 for low, high in zip(ips, ips[1:])]
    edge = [True] if ips else []    # before the first, behind the last
    return list(zip(itertools.compress(ips, edge + inner), itertools.compress(ips, inner + edge)))


def parse_json(text: str):
    """JSON -> what it says; raises ValueError, RecursionError."""
    return json.loads(text, parse_int=short_int)


def short_int(text: str) -> int:
    """A number of JSON; int() takes minutes for a million digits before Python 3.11."""
    if len(text) > 20:
        raise ValueError('a number of %d digits' % len(text))
    return int(text)


class RangeReader:
    """Lists of targets, as many as are added -> their merged ranges.

    names     gets (host, where it stands) of each host by name; None: a name is a mistake
    resolve   True: a host by name may stand without name:
    packed    addresses that stand alone, four octets each
    ranges    (first, last) of all others
    bad       messages about lines that are no targets, the first ten
    bad_count how many such lines there are
    ipv6      targets of IPv6: passed over
    notes     lines about what was taken in another way than said
    """

    def __init__(self, names=None, resolve=False):
        self.names, self.resolve = names, resolve
        self.packed, self.ranges, self.notes = bytearray(), [], []
        self.bad, self.bad_count, self.ipv6 = [], 0, 0

    def read(self, path, what):
        """Add a file, '-' = standard input; its octets decide: a .csw, JSON or range text."""
        data = read_file(path, what)
        where = 'standard input' if path == '-' else path
        is_wide = data.startswith(UTF16_MARKS) and not is_table(data)
        if b'\0' in data and not is_wide:
            self.ranges += unpack_csw(data, where)
            return
        text = data.decode('utf-16' if is_wide else 'utf-8-sig', 'replace')
        if text.lstrip()[:1] in ('{', '['):
            self.add_json(text, where)
        else:
            text = text.replace('\r\n', '\n').replace('\r', '\n')
            self.add_lines(text.split('\n'), where)        # splitlines() knows other ends as well

    def add_lines(self, lines, where):
        """Add range text; 64 lines are one step as long as each is just an address."""
        for begin in range(0, len(lines), LIST_BLOCK):
            block = lines[begin:begin + LIST_BLOCK]
            try:
                if '\0' in '\n'.join(block):        # where PyPy's inet_pton() stops reading
                    raise ValueError
                self.packed += b''.join(map(
                    socket.inet_pton, itertools.repeat(socket.AF_INET), block))
            except (OSError, ValueError):
                for number, line in enumerate(block, begin + 1):
                    self.add_line(line, '%s:%d' % (where, number))

    def add_line(self, line, where):
        """Add the targets of a line, spaces or commas between; a bad one takes the line along."""
        words = BETWEEN.split(SPACED.sub(r'\1\2\3', COMMENT.split(line, 1)[0]))
        try:
            found = [self.parse(word, where) for word in words if word]
        except UserError as error:
            self.add_bad(str(error))
            return
        for ranges, name in found:
            self.ranges += ranges
            if name:
                self.names.append((name, where))
            elif not ranges:
                self.ipv6 += 1

    def parse(self, word, where):
        """A target -> (its ranges, name of the host); both empty: it is of IPv6."""
        if RANGE.fullmatch(word):
            return [parse_range(word, where)], ''
        if SPREAD.fullmatch(word):
            return parse_spread(word, where), ''
        if is_ipv6(word):
            return [], ''
        marked = word.startswith(NAME_MARK)
        if marked and self.names is None:
            raise UserError('%s: %s: a name has no place here: cscan.py -f resolves it when it '
                            'scans' % (where, quote(word)))
        if marked or (self.resolve and HOST_NAME.fullmatch(word)):
            return [], word[len(NAME_MARK):] if marked else word
        if self.names is not None and HOST_NAME.fullmatch(word):
            raise UserError('%s: %s: not an address; if it is the name of a host, --resolve looks '
                            'such names up, or write name:HOST' % (where, quote(word)))
        return [parse_range(word, where)], ''                   # which names the fault

    def add_bad(self, message):
        self.bad_count += 1
        if len(self.bad) < BAD_SHOWN:
            self.bad.append(message)

    def add_json(self, text, where):
        """Add the prefixes of a cloud's list, by its keys, or of an array of nothing else."""
        try:
            document = parse_json(text)
        except (ValueError, RecursionError) as error:
            raise UserError('%s: not JSON that can be read: %s' % (where, error)) from None
        taken, ipv6 = {}, self.ipv6
        if isinstance(document, list) and document and all(map(is_prefix, document)):
            taken['an array of prefixes'] = self.add_prefixes(document, where)
        waiting = [document]
        while waiting:
            node = waiting.pop()
            pairs = node.items() if isinstance(node, dict) else ()
            waiting += node if isinstance(node, list) else ()
            for key, value in pairs:
                values = value if isinstance(value, list) else [value]
                if key in LIST_KEYS and all(isinstance(each, str) for each in values):
                    count = self.add_prefixes(values, '%s: key %r' % (where, key))
                    taken[key] = taken.get(key, 0) + count
                elif isinstance(value, (dict, list)):
                    waiting.append(value)
        if not taken:
            raise UserError('%s: JSON with none of the keys %s, nor an array of prefixes alone: '
                            'nothing was taken' % (where, ', '.join(LIST_KEYS)))
        self.notes.append('%s: JSON: taken from %s; %d of IPv6 passed over' % (
            where, ', '.join('%s: %d' % each for each in taken.items()), self.ipv6 - ipv6))

    def add_prefixes(self, values, where) -> int:
        """Add strings, each of which must be an address, block or range -> how many of IPv4."""
        count = 0
        for text in values:
            try:
                if is_ipv6(text):
                    self.ipv6 += 1
                else:
                    self.ranges.append(parse_range(text, where))
                    count += 1
            except UserError as error:
                self.add_bad(str(error))
        return count

    def weight(self) -> int:
        """Grows with everything that was added, bad lines too."""
        return (len(self.packed) + len(self.ranges) + len(self.names or ()) + self.ipv6 +
                self.bad_count)

    def check(self, skip_bad=False):
        """Bad lines: raises UserError that names them, or makes a note of how many there are."""
        if self.bad_count and not skip_bad:
            more = [] if self.bad_count == 1 else ['%d bad lines in all' % self.bad_count]
            raise UserError('\n'.join(self.bad + more))
        if self.bad_count:
            self.notes.append('warning: --skip-bad: %d bad line%s left out, the first: %s' % (
                self.bad_count, '' if self.bad_count == 1 else 's', self.bad[0]))
        if self.ipv6:
            self.notes.append('%d target%s of IPv6 passed over' % (
                self.ipv6, '' if self.ipv6 == 1 else 's'))

    def merged(self) -> 'list[tuple[int, int]]':
        """Everything that was added."""
        singles = single_ranges(self.packed)
        return merge_ranges(singles + self.ranges) if self.ranges else singles


def parse_range_lines(lines: 'list[str]', where: str) -> 'list[tuple[int, int]]':
    """Range text, targets on each line, # or ; before a comment -> merged ranges."""
    reader = RangeReader()
    reader.add_lines(lines, where)
    reader.check()
    return reader.merged()


def invert_ranges(ranges: 'list[tuple[int, int]]') -> 'list[tuple[int, int]]':
    """Merged ranges -> what they leave of 0.0.0.0-255.255.255.255."""
    edges = [-1] + [edge for pair in ranges for edge in pair] + [ADDRESSES_MAX]
    return [(low + 1, high - 1) for low, high in zip(edges[::2], edges[1::2]) if high - low > 1]


def count_addresses(ranges: 'list[tuple[int, int]]') -> int:
    """Merged ranges -> how many addresses they hold."""
    return sum([last - first for first, last in ranges]) + len(ranges)


def parse_portspec(text: str, where='argument -p', notes=None) -> 'list[tuple[int, int]]':
    """'80:2,8000-8001,ssh' -> [(80, 2), (8000, 1), (8001, 1), (22, 1)], in this order.

    A lone '-' is 1-65535; notes  list that gets a line if port 0 was left out of a range.
    """
    ports = []
    for part in text.split(','):
        low, high, weight = parse_ports(part.strip().lower())
        if low == 0 < high:
            low = 1
            if notes is not None:
                notes.append('%s: %s: port 0 skipped' % (where, quote(part)))
        if not 1 <= low <= high <= PORT_MAX or not weight:
            raise UserError('%s: %s: %s is not port, port:weight, a-b, a-b:weight, - (all) or '
                            'the name of a service, with ports 1-65535 and weights from 1'
                            % (where, quote(text), quote(part)))
        ports += [(port, weight) for port in range(low, high + 1)]
    total = sum(weight for _, weight in ports)
    if total > ADDRESSES_MAX:
        raise UserError('%s: %s: weights of %d in all: at most %d'
                        % (where, quote(text), total, ADDRESSES_MAX))
    return ports


def parse_ports(part: str) -> 'tuple[int, int, int]':
    """A part of a portspec -> first port, last port, weight; (0, 0, 0): it is none."""
    match = PORTS.fullmatch(part)
    if not match:
        return 0, 0, 0
    low, high, name, weight = match.groups()
    if name == '-':
        low, high = 1, PORT_MAX
    elif name:
        low = SERVICES.get(name, 0)
    return int(low), int(high or low), int(weight or 1)


def read_ports(path: str, what: str, notes=None) -> 'list[tuple[int, int]]':
    """A .csp, or text with ports as -p has them, lines and commas between -> (port, weight)."""
    data = read_file(path, what)
    if b'\0' in data:
        return unpack_csp(data, path)
    ports = []
    for number, line in enumerate(data.decode('utf-8-sig', 'replace').splitlines(), 1):
        text = BETWEEN.sub(',', COMMENT.split(line, 1)[0]).strip(',')
        if text:
            ports += parse_portspec(text, '%s:%d' % (path, number), notes)
    if not 0 < sum(weight for _, weight in ports) <= ADDRESSES_MAX:
        raise UserError('%s: %r: no ports in there, or weights of more than %d'
                        % (what, path, ADDRESSES_MAX))
    return ports


def pack_table(keys: 'list[int]', counts: 'list[int]', where: str) -> bytes:
    """Keys, how many each -> bytes of a .csw (keys: last addresses) or .csp (keys: ports)."""
    total = sum(counts)
    if not 1 <= total <= ADDRESSES_MAX:
        raise UserError('%s: %d in all: from 1 to 4294967296 fit in a table' % (where, total))
    words = array.array('I', itertools.chain.from_iterable(
        zip(keys, (top - 1 for top in itertools.accumulate(counts)))))
    if sys.byteorder == 'big':
        words.byteswap()
    mask = (1 << (total - 1).bit_length()) - 1
    return TABLE.pack(len(keys), total - 1, mask) + words.tobytes()


def unpack_table(data: bytes, where: str) -> 'list[tuple[int, int]]':
    """Bytes of a .csw or .csp -> (key, how many) pairs; all but the keys is verified."""
    if len(data) < TABLE.size:
        raise UserError('%s: no .csw or .csp: %d bytes, the header alone has %d'
                        % (where, len(data), TABLE.size))
    num, top, mask = TABLE.unpack_from(data)
    if len(data) != TABLE.size + 8 * num:
        raise UserError('%s: no .csw or .csp, or cut: %d bytes, its %d pairs take %d'
                        % (where, len(data), num, TABLE.size + 8 * num))
    words = struct.unpack_from('<%dI' % (2 * num), data, TABLE.size)
    sums = [word + 1 for word in words[1::2]]
    counts = [high - low for low, high in zip([0] + sums, sums)]
    if not num or min(counts) < 1:
        raise UserError('%s: pair %d: its running total does not grow'
                        % (where, next((i for i, n in enumerate(counts, 1) if n < 1), 0)))
    if sums[-1] != top + 1 or mask != (1 << top.bit_length()) - 1:
        raise UserError('%s: total %d and mask %#x: %d and %#x were expected'
                        % (where, top, mask, sums[-1] - 1, (1 << (sums[-1] - 1).bit_length()) - 1))
    return list(zip(words[::2], counts))


def pack_csw(ranges: 'list[tuple[int, int]]', where: str) -> bytes:
    """Merged ranges -> bytes of a .csw file."""
    return pack_table([last for _, last in ranges],
                      [last - first + 1 for first, last in ranges], where)


def unpack_csw(data: bytes, where: str) -> 'list[tuple[int, int]]':
    """Bytes of a .csw file -> merged ranges; raises UserError unless every field fits."""
    ranges = [(last - count + 1, last) for last, count in unpack_table(data, where)]
    end = -1
    for number, (first, last) in enumerate(ranges, 1):
        if first <= end:
            raise UserError('%s: range %d: not above the one before it' % (where, number))
        end = last
    return merge_ranges(ranges)


def pack_csp(ports: 'list[tuple[int, int]]', where: str) -> bytes:
    """(port, weight) pairs -> bytes of a .csp file."""
    return pack_table([port for port, _ in ports], [weight for _, weight in ports], where)


def unpack_csp(data: bytes, where: str) -> 'list[tuple[int, int]]':
    """Bytes of a .csp file -> (port, weight) pairs."""
    ports = unpack_table(data, where)
    for port, _ in ports:
        if not 1 <= port <= PORT_MAX:
            raise UserError('%s: port %d: ports are 1-65535' % (where, port))
    return ports


def read_file(path: str, what: str) -> bytes:
    """The bytes of a file, '-' = standard input; what  the option, for the message."""
    try:
        if path == '-':
            if not sys.stdin:
                raise OSError(errno.EBADF, 'standard input is closed')
            return sys.stdin.buffer.read()
        with open(path, 'rb') as file:
            return file.read()
    except OSError as error:
        raise UserError('%s: %r: %s' % (what, path, why(error))) from None

# ---- end of same in cscan.py and compile_targets.py ----


# ---- same in cscan.py and cba_reader.py ----

CBA_HEAD, CBA_STR, CBA_FILE, CBA_DATA, CBA_INT32, CBA_INT64, CBA_BIT = range(7)
CBA_CHUNK = 7                       # ours, never in a file: a piece of the thread's open stream
CBA_CODED = 0x80                    # bit of the type octet: a u32 code follows
CBA_STR_MAX = 32767
CBA_CHUNK_MAX = 32768
CBA_FIELDS = {                      # kind: format of the field that starts its body
    CBA_HEAD: 'B', CBA_STR: 'H', CBA_FILE: 'H', CBA_DATA: '', CBA_INT32: 'i',
    CBA_INT64: 'q', CBA_BIT: '', CBA_CHUNK: 'H'}
CBA_COUNTED = (CBA_HEAD, CBA_STR, CBA_FILE, CBA_CHUNK)      # that field counts the octets after it
CBA_ORDERS = {b'L': '<', b'B': '>'}


class CbaPackets:
    """The packets of a CBA file: iterate for (thread, kind, code, value).

    file    binary, at its first octet; an empty one has no packets
    value   HEAD, STR, FILE (its name), CHUNK (b'' ends the stream): bytes; INT32, INT64: int;
            BIT, DATA: True
    order   '<' or '>', None while the file is empty
    end     offset behind the last whole packet
    open    threads whose stream is open, with CBA_FILE or CBA_DATA
    cut     '' or what ends the packets before the file ends
    torn    True if that is just the end of the file inside a packet (a kill, a full disk)
    """

    def __init__(self, file):
        self.file, self.end, self.open, self.cut, self.torn = file, 0, {}, '', False
        mark = file.read(1)
        self.order = CBA_ORDERS.get(mark)
        if self.order:
            self.end = len(mark)
            self.fields = {kind: struct.Struct(self.order + field)
                           for kind, field in CBA_FIELDS.items()}
            self.code = struct.Struct(self.order + 'I')
        elif mark:
            self.cut = 'first octet %r: L or B was expected' % mark

    def take(self, size):
        """Exactly size octets; EOFError where the file has no more."""
        data = self.file.read(size) if size else b''
        if len(data) < size:
            raise EOFError
        self.at += size
        return data

    def __iter__(self):
        while self.order and not self.cut:
            self.at = self.end
            thread = self.file.read(1)
            if not thread:
                return
            self.at += 1
            try:
                packet = self.packet(thread[0])
            except EOFError:
                self.torn = True
                self.cut = 'offset %d: the file ends inside a packet' % self.end
                return
            except ValueError as error:
                self.cut = 'offset %d: %s' % (self.end, error)
                return
            self.end = self.at
            yield packet

    def packet(self, thread):
        """The packet of this thread that begins at the file's position."""
        kind, code = CBA_CHUNK, 0
        if thread not in self.open:
            octet = self.take(1)[0]
            kind = octet & ~CBA_CODED
            if kind >= CBA_CHUNK:
                raise ValueError('type %d: 0 to 6 was expected' % kind)
            if octet & CBA_CODED:
                code = self.code.unpack(self.take(self.code.size))[0]
        field = self.fields[kind]
        value = field.unpack(self.take(field.size))[0] if field.size else True
        if kind in CBA_COUNTED:
            value = self.take(value)
        if kind in (CBA_FILE, CBA_DATA):
            self.open[thread] = kind
        elif kind == CBA_CHUNK and not value:
            del self.open[thread]
        return thread, kind, code, value


def create_below(folder: str, name: str, taken: 'dict[str, int]', overwrite: bool = False):
    """Open a new file for a name that a stranger chose -> (file, path below folder).

    name    / separates folders, which are made; '', '.', '..' and control characters never pass
    taken   {path given before in this run: number that its name gets next}
    No link is followed on the way, and nothing is overwritten unless asked for: a name that
    exists already gets .1, .2 ... behind it.
    """
    parts = [re.sub(r'[^ -~]', '_', part)[:200] for part in name.split('/')]
    parts = [part for part in parts if part not in ('', '.', '..')][-16:] or ['unnamed']
    os.makedirs(folder, exist_ok=True)
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            try:
                os.mkdir(part, dir_fd=here)
            except FileExistsError:
                pass                # a folder is welcome, a link fails to open below
            there = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = there
        wanted = '/'.join(parts)
        for number in itertools.count(taken.get(wanted, 0)):
            last = parts[-1] + ('.%d' % number if number else '')
            path = '/'.join(parts[:-1] + [last])
            if path in taken:
                continue
            try:
                if overwrite:
                    unlink_quietly(last, here)
                fd = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=here)
            except FileExistsError:
                continue
            taken[path] = 1
            taken[wanted] = number + 1
            return os.fdopen(fd, 'wb'), path
    finally:
        os.close(here)


def unlink_quietly(name: str, folder_fd: int):
    """Remove a file (of a link: the link) if it is there."""
    try:
        os.unlink(name, dir_fd=folder_fd)
    except FileNotFoundError:
        pass                        # nothing to overwrite

# ---- end of same in cscan.py and cba_reader.py ----


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


# ---- same in cba_reader.py and cscan.py and masscanned.py ----

def printable(text: str) -> str:
    """Text that strangers chose, safe on a terminal: control characters become \\x1b and such."""
    if not text.isprintable():
        text = text.replace('\r', r'\r').replace('\n', r'\n')      # most of it is that
    return text if text.isprintable() else NOT_PLAIN.sub(escape_match, text)


NOT_PLAIN = re.compile('[^ -~]')    # few characters of most texts: the others cost 0.3 us each


def escape_match(match) -> str:
    """A character -> the same, or its escape."""
    c = match.group()
    return c if c.isprintable() else c.encode('unicode_escape').decode()

# ---- end of same in cba_reader.py and cscan.py and masscanned.py ----


# ---- same in cba_reader.py and cscan.py ----

EVENT_TYPES = {CBA_STR: 'str', CBA_FILE: 'file', CBA_DATA: 'data', CBA_INT32: 'int32',
               CBA_INT64: 'int64', CBA_BIT: 'bit'}          # in JSON; data is base64
TARGET = re.compile(r'(?:[a-z][a-z0-9+.-]*://)?'
                    r'((?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.?\b){4})'
                    r':([1-9][0-9]{0,4})(?![0-9])')
STATE_MODULE = 'state'              # entries of --show: code 0 ip:port, and these
STATE_CODES = {1: 'STATE', 2: 'REASON'}
STATE_NAME, STATE_REASON = STATE_CODES
STATES = {'refused': 'closed', 'unreachable': 'filtered', 'silent': 'filtered'}     # -> nmap's
SCOPE_MODULE = 'scope'              # entries of what a scan asks, at its start and at its end
SCOPE_CODES = dict(enumerate((
    'TIME',             # int64, Unix seconds
    'TARGETS',          # data, a .csw: addresses without those that are excluded
    'TARGETS_DIGEST',   # str, in place of a long .csw: 64 hexadecimal digits, how many
    'PAIRS',            # data, of --pairs: address << 16 | port, 64 bits each, little-endian
    'PAIRS_DIGEST',
    'PORTS',            # str, more than one if they are long: 22,80-90
    'EXCLUDED',         # data, a .csw; at the end only if there are more than at the start
    'EXCLUDED_DIGEST',
    'ONCE',             # bit: each target is to be asked once, otherwise they are drawn
    'SEED',             # int64
    'SHARD',            # str, I/N
    'TOTAL',            # int64: how many targets are to be asked; there is none without end
    'RESUMED',          # bit: it goes on with a scan that stands further up, or in another file
    'ENDED',            # str: done, or what ended the scan
    'ASKED',            # int64: targets that were asked
    'COMPLETE'), 1))    # bit: each target of the shard was asked
NMAP_STATES = dict(STATES, open='open')
NMAP_REASONS = {                    # reason -> the word that nmap has for it
    '': 'syn-ack', 'refused': 'conn-refused', 'host unreachable': 'host-unreach',
    'net unreachable': 'net-unreach', 'prohibited': 'admin-prohibited',
    'protocol unreachable': 'proto-unreach', 'no answer': 'no-response'}
CSV_FORMULA = re.compile(r'[=+@\0-\x1f\x7f-\x9f-]')       # spreadsheets calculate such cells
TEXT_LENGTH = struct.Struct('<I')   # octets of a text in the file of a HostTable
TEXT_STEP = 16                      # texts begin at multiples, so that a column has 64 GiB
TEXT_PIECE = 1 << 16                # octets that are written at a time
HELD_MAX = 5000000                  # results of a HostTable
HELD_RUN = 1 << 16                  # of them are sorted at a time: boxed numbers take memory
MARSHAL_PLAIN = 2                   # its format without references: equal things, equal octets
REASONS_MAX = 1000                  # of a HostTable: a file of strangers may have any number
BANNER_NAME = 'BANNER'              # of a code: its string is what a server said, as it is
SERVICE_NAMES = re.compile(         # how a banner begins -> the service, by the group's name
    r'(?P<ssh>SSH-)|(?P<http>HTTP/1\.)|(?P<vnc>RFB [0-9]{3}\.)|(?P<telnet>\xff[\xfa-\xfe])|'
    r'(?P<ftp>220[ -][^\n]*FTP)|(?P<smtp>220[ -][^\n]*(?:SMTP|[Mm]ail))|(?P<pop3>\+OK)|'
    r'(?P<imap>\* (?:OK|PREAUTH|BYE))|(?P<nntp>20[01] [^\n]*(?:NNTP|[Nn]ews))|'
    r'(?P<mysql>[\s\S]\0\0\0[\n\xff])|(?P<rsync>@RSYNCD:)|(?P<sip>SIP/2\.)|(?P<rtsp>RTSP/1\.)|'
    r'(?P<ssl>[\x15\x16]\x03[\0-\4])|(?P<amqp>AMQP)')
MASSCAN_PLAIN = re.compile(r'[^ !#-%\'-;=?-\[\]-~]')        # what its banners escape

FACTS = ('SERVICE', 'PRODUCT', 'VERSION', 'DETAILS', 'TITLE', 'LOCATION', 'HTTP_STATUS',
         'HOST_KEY', 'FAVICON', 'TLS_VERSION')      # names of codes: strings on what speaks there

Certificate = collections.namedtuple('Certificate', [
    'subject', 'issuer',    # [(short name of the attribute, text)], in the certificate's order
    'names',        # [text]: host names and addresses that it is for
    'begins', 'ends',       # Unix seconds
    'self_signed'])         # whether the issuer is the subject; the signature is not checked
DER_VERSION = 0xa0                  # RFC 5280 s4.1: [0], may be missing
DER_EXTENSIONS = 0xa3               # the same: [3]
DER_BMP, DER_T61 = 0x1e, 0x14       # X.680 s8.4: strings that are not UTF-8
DER_UTC_TIME = 0x17
OID_ALTERNATIVE = b'\x55\x1d\x11'   # RFC 5280 s4.2.1.6: 2.5.29.17
ATTRIBUTES = {                      # RFC 4519 s2; RFC 2985 s5.2.1
    b'\x55\x04\x03': 'CN', b'\x55\x04\x06': 'C', b'\x55\x04\x07': 'L', b'\x55\x04\x08': 'ST',
    b'\x55\x04\x0a': 'O', b'\x55\x04\x0b': 'OU', b'\x55\x04\x05': 'serialNumber',
    b'\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01': 'emailAddress'}

Record = collections.namedtuple('Record', [
    'path',         # of the file that has the entry; None: the scan that finds it is running
    'module',       # its name, '' = print
    'events',       # [(kind, code, value)], as in an Entry
    'names',        # {code: name} of the module
    'time'])        # Unix seconds at which it was found, or nearly

Place = collections.namedtuple('Place', [
    'host', 'port',
    'hostname',     # names that the user gave the host, with spaces between; '' = none
    'state',        # open, or one of STATES
    'reason'])      # of any other state, '' if it is open

Format = collections.namedtuple('Format', [
    'name', 'help',
    'line',         # (Record, Place) -> its line; '' if the format has no place for it
    'head', 'tail',     # lines before and after all others, '' = none; see FormatWriter.fill
    'between',      # a line between two records, '' = none
    'columns',      # the head names columns: some readers want it, some do not
    'every',        # entries without a target (the Place is None) have a place, too
    'states',       # ports that are not open have a place, too
    'grouped'])     # line is: Host -> pieces of its text, ends of lines among them

FORMATS = {}    # type: dict        # name -> Format, in order of registration
GROUPED = {}    # type: dict        # those that have one line, or element, a host


def output_format(name, help, head='', tail='', between='', columns=False, every=False,
                  states=True, grouped=False):
    """Register the function below, which makes the line of a record, as a format."""
    def register(line):
        (GROUPED if grouped else FORMATS)[name] = Format(
            name, help, line, head, tail, between, columns, every, states, grouped)
        return line
    return register


def formats_text() -> str:
    """The formats and what they are, for -h."""
    return 'formats:\n' + ''.join('  %-14s%s\n' % (each.name, each.help)
                                  for each in FORMATS.values())


def event_text(kind: int, code: int, value, names: 'dict[int, str]', escape=printable) -> str:
    """An event of any module on one line's part: NAME, NAME=value, or the value of code 0."""
    if kind == CBA_DATA:
        value = '%d bytes %s' % (len(value), value[:16].hex())
    text = escape(str(value))
    if kind == CBA_BIT:
        return names.get(code, str(code))
    return '%s=%s' % (names.get(code, code), text) if code else text


def find_target(events) -> 'tuple[str, int, int] | None':
    """Host, port, end of these: where a string of code 0 has [scheme://]ip:port at its begin."""
    for kind, code, value in events:
        match = TARGET.match(value) if (kind, code) == (CBA_STR, 0) else None
        if match and int(match.group(2)) < 1 << 16:
            return match.group(1), int(match.group(2)), match.end()
    return None


def find_state(record: Record) -> 'tuple[str, str]':
    """State and reason of a record's target: ('open', ''), or what an entry of `state` says."""
    if record.module == STATE_MODULE:
        said = {code: value for kind, code, value in record.events if kind == CBA_STR}
        if said.get(STATE_NAME) in STATES:
            return said[STATE_NAME], said.get(STATE_REASON, '')
    return 'open', ''


def record_text(record: Record, escape=printable) -> str:
    """What a record says besides its target, on one line; a banner without its code's name."""
    words, target = [], find_target(record.events)
    for kind, code, value in record.events:
        if target and (kind, code) == (CBA_STR, 0) and TARGET.match(value):
            value, target = value[target[2]:].strip(), None
            if not value:
                continue
        if is_banner(kind, code, record.names):
            code = 0
        words.append(event_text(kind, code, value, record.names, escape))
    return ' '.join(words)


def is_banner(kind: int, code: int, names: 'dict[int, str]') -> bool:
    """Whether an event is what a server said, octet by octet as Latin-1."""
    return kind == CBA_STR and names.get(code) == BANNER_NAME


def banner_of(record: Record) -> 'str | None':
    """What a server said, as it is; None if the record keeps nothing like that."""
    said = [value for kind, code, value in record.events if is_banner(kind, code, record.names)]
    return said[-1] if said else None


def said_text(record: Record, escape=printable) -> str:
    """A banner as it is, and nothing else; without one, what the record says in words."""
    said = banner_of(record)
    return record_text(record, escape) if said is None else escape(said)


def parse_der(data: bytes) -> 'list[tuple[int, bytes]]':
    """DER elements that follow one another -> (tag, contents); raises ValueError if cut."""
    parts, at = [], 0
    while at < len(data):
        tag, size = data[at:at + 2]
        at += 2
        if size & 0x80:                     # X.690 s8.1.3.5: so many octets of length follow
            count = size & 0x7f
            size = int.from_bytes(data[at:at + count], 'big')
            at += count
        if at + size > len(data):
            raise ValueError('cut')
        parts.append((tag, data[at:at + size]))
        at += size
    return parts


def parse_attributes(der: bytes) -> 'list[tuple[str, str]]':
    """A Name (RFC 5280 s4.1.2.4) -> [(short name, text)], without attributes nobody knows."""
    found = []
    for _, several in parse_der(der):
        for _, pair in parse_der(several):
            (_, kind), (tag, value) = parse_der(pair)
            if kind in ATTRIBUTES:
                charset = {DER_BMP: 'utf-16-be', DER_T61: 'latin-1'}.get(tag, 'utf-8')
                found.append((ATTRIBUTES[kind], value.decode(charset, 'backslashreplace')))
    return found


def parse_time(tag: int, value: bytes) -> int:
    """A time of a certificate -> Unix seconds (RFC 5280 s4.1.2.5)."""
    import calendar                         # costs 2 ms, for those who have certificates only
    digits = value.decode('ascii').rstrip('Z')
    if tag == DER_UTC_TIME:
        digits = ('19' if digits[:2] >= '50' else '20') + digits
    numbers = [int(digits[at:at + 2]) for at in range(4, 14, 2)]
    return calendar.timegm((int(digits[:4]), *numbers))


def parse_alternatives(der: bytes) -> 'list[str]':
    """Extensions of a certificate -> host names and addresses that it is for."""
    names = []
    for _, extension in parse_der(parse_der(der)[0][1]):
        parts = parse_der(extension)
        if parts[0][1] != OID_ALTERNATIVE:
            continue
        for tag, value in parse_der(parse_der(parts[-1][1])[0][1]):
            if tag == 0x82:                 # [2] dNSName
                names.append(value.decode('ascii', 'backslashreplace'))
            elif tag == 0x87 and len(value) == 4:           # [7] iPAddress
                names.append('.'.join(map(str, value)))
            elif tag == 0x87 and len(value) == 16:
                names.append(':'.join('%x' % part for part in struct.unpack('!8H', value)))
    return names


def parse_certificate(der: bytes) -> 'Certificate | None':
    """X.509 certificate -> what it says; None: it is none (RFC 5280 s4.1)."""
    try:
        fields = parse_der(parse_der(parse_der(der)[0][1])[0][1])
        fields = fields[fields[0][0] == DER_VERSION:]
        issuer = fields[2][1]
        begins, ends = parse_der(fields[3][1])
        subject = fields[4][1]
        more = dict(fields[6:])
        return Certificate(
            parse_attributes(subject), parse_attributes(issuer),
            parse_alternatives(more[DER_EXTENSIONS]) if DER_EXTENSIONS in more else [],
            parse_time(*begins), parse_time(*ends), issuer == subject)
    except (IndexError, ValueError):        # not what it should be
        return None


def attributes_text(attributes) -> str:
    """Subject or issuer -> one text: CN=example.org, O=Example."""
    return ', '.join('%s=%s' % pair for pair in attributes)


def common_name(certificate) -> str:
    """A Certificate, or None -> common name of its subject, else its first name, else ''."""
    if not certificate:
        return ''
    common = [text for key, text in certificate.subject if key == 'CN']
    return (common[-1:] + certificate.names[:1] + [''])[0]


def certificate_text(certificate) -> str:
    """A Certificate on one line, as csv and scripts of nmap-xml have it."""
    words = ['subject: ' + attributes_text(certificate.subject),
             'names: ' + ', '.join(certificate.names) if certificate.names else '',
             'issuer: ' + ('itself' if certificate.self_signed
                           else attributes_text(certificate.issuer)),
             'ends: ' + utc_text(certificate.ends)]
    return '; '.join(filter(None, words))


def certificate_of(record: Record) -> 'Certificate | None':
    """What a server showed for itself; None: nothing that can be read."""
    for kind, code, value in record.events:
        if kind == CBA_DATA and record.names.get(code) == 'CERTIFICATE':
            return parse_certificate(value)
    return None


def fact_text(value: str) -> str:
    """A string of an entry, octets as Latin-1 -> text."""
    return value.encode('latin-1', 'replace').decode('utf-8', 'backslashreplace')


def service_facts(record: Record) -> 'dict[str, str]':
    """What a record says of the service: {'service': 'http', 'title': ...}.

    keys    FACTS in lower case; one that is not known is not there.  In a CBA file each is a
            string of the code with that name, octets as Latin-1; the certificate is DER
    """
    facts = {}
    for kind, code, value in record.events:
        name = record.names.get(code)
        if kind == CBA_STR and name in FACTS and code:
            facts[name.lower()] = fact_text(value)
    name = service_name(record)
    return dict(facts, service=name) if name else facts


def product_text(facts) -> str:
    """Product and version of service_facts(), '' if there is neither."""
    return ' '.join(filter(None, (facts.get('product'), facts.get('version'))))


def json_facts(record: Record) -> dict:
    """The facts as JSON has them, banner and certificate among them."""
    facts: 'dict' = service_facts(record)
    certificate, banner = certificate_of(record), banner_of(record)
    if banner is not None:
        facts['banner'] = fact_text(banner)
    if certificate:
        facts['certificate'] = {
            'subject': attributes_text(certificate.subject), 'names': certificate.names,
            'issuer': attributes_text(certificate.issuer),
            'begins': certificate.begins, 'ends': certificate.ends,
            'self_signed': certificate.self_signed}
    return facts


def service_name(record: Record) -> str:
    """What speaks there, by its banner, TLS or nothing: '' = the record does not say."""
    for kind, code, value in record.events:
        if kind == CBA_STR and code and record.names.get(code) == 'SERVICE':
            return value
    match = SERVICE_NAMES.match(banner_of(record) or '')
    if match:
        return match.lastgroup or ''
    return 'ssl' if has_tls(record) and banner_of(record) is None else ''


def has_tls(record: Record) -> bool:
    """Whether what was said came through TLS, or a handshake was done."""
    return any(record.names.get(code) == 'TLS_VERSION' for _, code, _ in record.events)


def masscan_text(text: str) -> str:
    """Text -> the ASCII of masscan's banners: \\xNN for all that is not plain in any of them."""
    return MASSCAN_PLAIN.sub(lambda match: ''.join(
        '\\x%02x' % octet for octet in match.group().encode(
            'latin-1' if match.group() < '\u0100' else 'utf-8', 'replace')), text)


def masscan_name(record: Record) -> str:
    """The name of a service, one word: masscan's for a banner, else the record's module."""
    if BANNER_NAME in record.names.values():
        return service_name(record) or 'unknown'
    return masscan_text(record.module).replace(' ', '\\x20')


def xml_text(text: str) -> str:
    """Text -> ASCII for an XML attribute in double quotes; control characters become \\x1b."""
    for plain, entity in ('&', '&amp;'), ('<', '&lt;'), ('>', '&gt;'), ('"', '&quot;'):
        text = text.replace(plain, entity)
    return printable(text).encode('ascii', 'xmlcharrefreplace').decode()


def utc_text(seconds: int, form: str = '%Y-%m-%d %H:%M:%S') -> str:
    """Unix seconds -> text, in UTC."""
    return time.strftime(form, time.gmtime(seconds))


def json_text(value) -> str:
    """Anything JSON can say -> one line of printable ASCII."""
    return json.dumps(value).replace('\x7f', '\\u007f')   # DEL passes dumps()


def json_event(kind: int, code: int, value, names: 'dict[int, str]') -> dict:
    """An event -> an object: type, code, the code's name if it has one, value."""
    event = {'type': EVENT_TYPES[kind], 'code': code}
    if code in names:
        event['name'] = names[code]
    event['value'] = base64.b64encode(value).decode() if kind == CBA_DATA else value
    return event


@output_format('json', 'an object a line, with all events of all modules', every=True)
def json_line(record, at):
    """File, or time of a running scan; module; ip, port and state if it has them; events."""
    line = {'time': record.time} if record.path is None else {
        'file': os.fsencode(record.path).decode('utf-8', 'replace')}
    line['module'] = record.module
    if at:
        line['ip'], line['port'] = at.host, at.port
        if at.hostname:
            line['hostname'] = at.hostname
    line.update(json_facts(record))
    line['events'] = [json_event(*event, record.names) for event in record.events]
    if at:
        line['state'] = at.state
    return json_text(line)


def csv_cell(text: str) -> str:
    """Text that strangers chose -> a cell in quotes, which no spreadsheet takes for a formula."""
    if CSV_FORMULA.match(text):
        text = "'" + text
    return '"%s"' % printable(text).replace('"', '""')


CSV_FACTS = 'service', 'product', 'version', 'banner', 'certificate', 'title'


@output_format('csv', 'a row an entry: time, address, what was said, service, state (RFC 4180)',
               'time,ip,port,module,text,hostname,%s,state' % ','.join(CSV_FACTS), columns=True)
def csv_line(record, at):
    """Quotes around what strangers chose; the text of a port that is not open is the reason."""
    text = record_text(record, str) if at.state == 'open' else at.reason
    facts, certificate = service_facts(record), certificate_of(record)
    facts['banner'] = banner_of(record) or ''
    facts['certificate'] = certificate_text(certificate) if certificate else ''
    cells = [record.module or 'print', text, at.hostname]
    cells += [facts.get(name, '') for name in CSV_FACTS]
    return '%d,%s,%d,%s,%s' % (record.time, at.host, at.port, ','.join(map(csv_cell, cells)),
                               at.state)


def masscan_parts(record: Record) -> 'list[tuple[str, str]]':
    """What a record says, as masscan has it: (name, text) of each banner of the port.

    The names of the first and of title, X509 and http.server are masscan's; where the service
    is not http, what runs it is SERVICE.server.  The hash of a favicon is favicon.
    """
    facts = service_facts(record)
    parts = [(masscan_name(record), masscan_text(said_text(record, str)))]
    if product_text(facts):
        parts.append((parts[0][0] + '.server', masscan_text(product_text(facts))))
    if 'title' in facts:
        parts.append(('title', masscan_text(facts['title'])))
    if 'favicon' in facts:
        parts.append(('favicon', masscan_text(facts['favicon'])))
    for kind, code, value in record.events:
        if kind == CBA_DATA and record.names.get(code) == 'CERTIFICATE':
            parts.append(('X509', base64.b64encode(value).decode()))
    return parts


@output_format('list', 'as masscan -oL', '#masscan', '# end')
def list_line(record, at):
    """open, or banner with the module's name and words; our state behind one that is not open."""
    if at.state != 'open':
        return '%s tcp %d %s %d %s' % (STATES[at.state], at.port, at.host, record.time, at.state)
    if not record.module:
        return 'open tcp %d %s %d' % (at.port, at.host, record.time)
    return '\n'.join('banner tcp %d %s %d %s %s' % (at.port, at.host, record.time, name, said)
                     for name, said in masscan_parts(record))


@output_format('grepable', 'as masscan -oG', '# %(program)s scan initiated %(start_text)s',
               '# %(program)s done at %(end_text)s')
def grepable_line(record, at):
    """Fields with tabs between, as nmap -oG has them, too."""
    host = 'Host: %s (%s)' % (at.host, masscan_text(at.hostname))
    if record.module and at.state == 'open':
        return '\n'.join('%s\tPort: %d\tService: %s\tBanner: %s' % (host, at.port, name, said)
                         for name, said in masscan_parts(record))
    line = 'Timestamp: %d\t%s\tPorts: %d/%s/tcp////' % (
        record.time, host, at.port, NMAP_STATES[at.state])
    return line if at.state == 'open' else '%s\tReason: %s' % (line, masscan_text(at.reason))


def nmap_reason(reason: str) -> str:
    """A reason in nmap's words; one that has none there, as it is."""
    return NMAP_REASONS.get(reason) or xml_text(reason)


@output_format('xml', 'as masscan -oX', '''\
<?xml version="1.0"?>
<nmaprun scanner="masscan" start="%(start)d" version="1.0-BETA" xmloutputversion="1.03">
<scaninfo type="connect" protocol="tcp"/>''', '''\
<runstats>
<finished time="%(end)d" timestr="%(end_text)s" elapsed="%(elapsed)d"/>
<hosts up="%(shown)d" down="0" total="%(shown)d"/>
</runstats>
</nmaprun>''')
def xml_line(record, at):
    """A host element; reason_ttl is 0, as nmap -sT has it: connect() does not tell."""
    services, reason = [''], nmap_reason(at.reason)
    if record.module and at.state == 'open':
        reason = 'response'
        services = ['<service name="%s" banner="%s"/>' % part for part in masscan_parts(record)]
    return '\n'.join(
        '<host endtime="%d"><address addr="%s" addrtype="ipv4"/><ports>'
        '<port protocol="tcp" portid="%d"><state state="%s" reason="%s" reason_ttl="0"/>%s'
        '</port></ports></host>' % (record.time, at.host, at.port, NMAP_STATES[at.state],
                                    reason, service) for service in services)


@output_format('masscan-json', 'as masscan -oJ, but always a valid array', '[', ']', ',')
def masscan_json_line(record, at):
    """ip, timestamp and a list of one port; ttl is 0: connect() does not tell."""
    found = [{'status': NMAP_STATES[at.state], 'reason': NMAP_REASONS.get(at.reason, at.reason),
              'ttl': 0}]
    if record.module and at.state == 'open':
        found = [{'service': {'name': name, 'banner': said}}
                 for name, said in masscan_parts(record)]
    return '\n,\n'.join(json_text({'ip': at.host, 'timestamp': str(record.time),
                                   'ports': [dict(port=at.port, proto='tcp', **each)]})
                        for each in found)


@output_format('zmap', 'as zmap -f saddr,sport: open ports only', 'saddr,sport', columns=True,
               states=False)
def zmap_line(record, at):
    """ip,port"""
    return '' if record.module else '%s,%d' % (at.host, at.port)


@output_format('naabu', 'as naabu -json: open ports only', states=False)
def naabu_line(record, at):
    """An object; a host name if the user gave one, and tls false: nobody asked."""
    line = {'host': at.hostname.split(' ')[0]} if at.hostname else {}
    line.update({'ip': at.host, 'timestamp': utc_text(record.time, '%Y-%m-%dT%H:%M:%SZ'),
                 'port': at.port, 'protocol': 'tcp', 'tls': False})
    return '' if record.module else json_text(line)


# ---- by host ----

HostPort = collections.namedtuple('HostPort', [
    'number', 'state', 'reason',
    'time',         # Unix seconds at which it was found first
    'places'])      # of the texts of its records, in the HostTable


class Host:
    """All that a HostTable has of an address.

    indexes     rows of its results, in order of ports, then of time
    """
    __slots__ = 'table', 'ip', 'hostname', 'indexes'

    def __init__(self, table, ip, hostname, indexes):
        self.table, self.ip, self.hostname = table, ip, hostname
        self.indexes = sorted(indexes, key=lambda index: (table.ports[index], index))

    def times(self) -> 'tuple[int, int]':
        """Unix seconds of its first and its last result."""
        times = [self.table.times[index] for index in self.indexes]
        return min(times), max(times)

    def reason(self) -> 'tuple[bool, str]':
        """Whether it is up, that is: anything is open or refused, and why."""
        table = self.table
        found = {}                  # type: dict[str, str]
        for index in self.indexes:
            found.setdefault(*table.reasons[table.kinds[index]])
        states = 'open', 'refused', 'unreachable', 'silent'
        state = next(each for each in states if each in found)
        return state in ('open', 'refused'), found[state]

    def ports(self):
        """Yield each HostPort; one that was open once is."""
        table = self.table
        for number, rows in itertools.groupby(self.indexes, table.ports.__getitem__):
            rows = list(rows)
            kinds = [table.kinds[row] for row in rows]
            state, reason = table.reasons[0 if 0 in kinds else kinds[-1]]
            yield HostPort(number, state, reason, min(table.times[row] for row in rows),
                           [table.places[row] for row in rows if table.places[row]])

    def records(self, port):
        """Yield the Records of a HostPort but those that say nothing more; equal ones once."""
        seen = set()
        for place in port.places:
            text = self.table.text(place)
            if text not in seen:
                seen.add(text)
                yield self.table.unpack(text, port.time)


class HostTable:
    """Results until they are written by host: 16 octets each, texts in a file without a name.

    names       module -> {code: name}
    ips, ports, kinds, times, places    columns; kinds: index of reasons; places: 0 = no text, or
                where it is, in steps of the file
    reasons     [(state, reason)], the first is ('open', '')
    buffer      octets that come behind those in the file
    failed      '' or why texts do not get into the file: `full` then
    """

    def __init__(self, names):
        self.names, self.file = names, None
        self.reasons, self.numbers = [('open', '')], {('open', ''): 0}
        self.clear()

    def clear(self):
        """Forget all results."""
        self.ips, self.times, self.places = (array.array('I') for _ in range(3))
        self.ports, self.kinds = array.array('H'), array.array('H')
        self.buffer, self.spilled, self.failed = bytearray(TEXT_STEP), 0, ''
        if self.file:
            self.file.close()
            self.file = None

    def add(self, record, at):
        """A record with a target; whatever becomes of the file, it is kept."""
        self.ips.append(int.from_bytes(bytes(map(int, at.host.split('.'))), 'big'))
        self.ports.append(at.port)
        self.kinds.append(self.kind(at.state, at.reason))
        self.times.append(min(max(record.time, 0), 0xffffffff))
        mute = at.state != 'open' or not (record.module or record_text(record))
        self.places.append(0 if mute else self.keep(record))

    def kind(self, state, reason) -> int:
        """The index of a state and its reason."""
        known = self.numbers.get((state, reason))
        if known is not None:
            return known
        if len(self.reasons) > REASONS_MAX and reason != 'other reasons':
            return self.kind(state, 'other reasons')
        self.numbers[state, reason] = len(self.reasons)
        self.reasons.append((state, reason))
        return len(self.reasons) - 1

    def keep(self, record) -> int:
        """The text of a record -> its place."""
        text = marshal.dumps((record.module, record.events), MARSHAL_PLAIN)
        place = (self.spilled + len(self.buffer)) // TEXT_STEP
        self.buffer += TEXT_LENGTH.pack(len(text)) + text
        self.buffer += bytes(-len(self.buffer) - self.spilled & TEXT_STEP - 1)
        if len(self.buffer) >= TEXT_PIECE:
            self.spill()
        return place

    def spill(self):
        """Buffer -> file."""
        import tempfile                     # costs 20 ms, for scans that are grouped only
        try:
            if not self.file:
                self.file = tempfile.TemporaryFile(buffering=0)
            while self.buffer:
                written = os.write(self.file.fileno(), self.buffer)
                self.spilled += written
                del self.buffer[:written]
        except OSError as error:
            self.failed = why(error)

    def octets(self, at, size) -> bytes:
        """Octets of the file and of the buffer behind it."""
        size_there = min(max(self.spilled - at, 0), size)
        data = os.pread(self.file.fileno(), size_there, at) if size_there else b''
        begin = max(at - self.spilled, 0)
        return data + bytes(self.buffer[begin:begin + size - size_there])

    def text(self, place) -> bytes:
        """What keep() has put there."""
        size, = TEXT_LENGTH.unpack(self.octets(place * TEXT_STEP, TEXT_LENGTH.size))
        return self.octets(place * TEXT_STEP + TEXT_LENGTH.size, size)

    def unpack(self, text, time) -> Record:
        """A text -> the Record that it was."""
        module, events = marshal.loads(text)
        return Record(None, module, events, self.names(module), time)

    def full(self) -> str:
        """'' or why what is held should be written before more comes."""
        if len(self.ips) >= HELD_MAX:
            return '%d results are held, and that is as many as can be' % len(self.ips)
        if self.spilled + len(self.buffer) > (TEXT_STEP << 32) - (1 << 30):
            return 'the texts of the results that are held take 63 GiB'
        return self.failed and 'no room for texts of results in the temporary folder: ' + (
            self.failed)

    def hosts(self, hostnames):
        """Yield each Host, in order of addresses; hostnames: {ip: names}."""
        runs = []
        for begin in range(0, len(self.ips), HELD_RUN):
            runs.append(array.array('Q', sorted(
                ip << 32 | index
                for index, ip in enumerate(self.ips[begin:begin + HELD_RUN], begin))))
        for ip, keys in itertools.groupby(heapq.merge(*runs), lambda key: key >> 32):
            host = '.'.join(map(str, ip.to_bytes(4, 'big')))
            yield Host(self, host, hostnames.get(host, ''), [key & 0xffffffff for key in keys])


def gather(pieces, size: int = TEXT_PIECE):
    """Pieces of text -> the same text in few pieces of about this size."""
    held, count = [], 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count >= size:
            yield ''.join(held)
            held, count = [], 0
    if held:
        yield ''.join(held)


@output_format('text', 'a line a host', states=False, grouped=True)
def text_host(host):
    """ADDRESS (NAMES): PORT [what a module says] PORT ..."""
    yield host.ip + (' (%s):' % printable(host.hostname) if host.hostname else ':')
    for port in host.ports():
        yield ' %d' % port.number
        for record in host.records(port):
            yield ' [%s]' % said_text(record)
    yield '\n'


@output_format('json', 'an object a host', grouped=True)
def json_host(host):
    """time, ip, hostname; ports: port, state, time, entries of modules with all events."""
    line = {'time': host.times()[0], 'ip': host.ip}
    if host.hostname:
        line['hostname'] = host.hostname
    yield json_text(line)[:-1] + ', "ports": ['
    comma = ''
    for port in host.ports():
        found = {'port': port.number, 'time': port.time, 'entries': [
            dict(json_facts(record), module=record.module,
                 events=[json_event(*event, record.names) for event in record.events])
            for record in host.records(port)], 'state': port.state}
        if port.reason:
            found['reason'] = port.reason
        yield comma + json_text(found)
        comma = ', '
    yield ']}\n'


@output_format('csv', 'a row a host', 'time,ip,hostname,ports,text', columns=True, grouped=True)
def csv_host(host):
    """Ports with spaces between, as 22 or 81/refused; text as 22: SSH-2.0-... | 80: ..."""
    yield '%d,%s,%s,' % (host.times()[0], host.ip, csv_cell(host.hostname))
    quote = '"'
    for port in host.ports():
        yield quote + str(port.number) + ('' if port.state == 'open' else '/' + port.state)
        quote = ' '
    yield '",'
    quote = '"'
    for port in host.ports():
        for record in host.records(port):
            yield '%s%d: %s' % (quote, port.number, csv_cell(said_text(record, str))[1:-1])
            quote = ' | '
    yield '""\n' if quote == '"' else '"\n'


@output_format('nmap-xml', 'as nmap -oX, by its DTD; what modules say is output of scripts', '''\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE nmaprun>
<nmaprun scanner="nmap" args="%(command)s" start="%(start)d" startstr="%(start_text)s" \
version="%(program)s" xmloutputversion="1.05">
<verbose level="0"/>
<debugging level="0"/>''', '''\
<runstats><finished time="%(end)d" timestr="%(end_text)s" elapsed="%(elapsed)d" exit="success"/>\
<hosts up="%(up)d" down="%(down)d" total="%(shown)d"/></runstats>
</nmaprun>''', grouped=True)
def nmap_host(host):
    """A host element with all its ports."""
    up, reason = host.reason()
    yield '<host starttime="%d" endtime="%d">' % host.times()
    yield '<status state="%s" reason="%s" reason_ttl="0"/>' % (
        'up' if up else 'down', nmap_reason(reason))
    yield '<address addr="%s" addrtype="ipv4"/>' % host.ip
    if host.hostname:
        yield '<hostnames>%s</hostnames>' % ''.join(
            '<hostname name="%s" type="user"/>' % xml_text(name)
            for name in host.hostname.split(' '))
    yield '<ports>\n'
    for port in host.ports():
        yield ('<port protocol="tcp" portid="%d"><state state="%s" reason="%s" reason_ttl="0"/>'
               % (port.number, NMAP_STATES[port.state], nmap_reason(port.reason)))
        yield from nmap_words(list(host.records(port)))
        yield '</port>\n'
    yield '</ports></host>\n'


def nmap_words(records):
    """Records of a port -> its service, if one of them knows it, and the output of scripts."""
    named = [record for record in records if service_name(record)]
    if named:
        facts = service_facts(named[-1])
        words = [' %s="%s"' % (attribute, xml_text(facts[name])) for attribute, name in (
            ('product', 'product'), ('version', 'version'), ('extrainfo', 'details'))
                 if name in facts]
        if has_tls(named[-1]) and facts['service'] != 'ssl':
            words.append(' tunnel="ssl"')
        yield '<service name="%s"%s method="probed" conf="10"/>' % (
            xml_text(facts['service']), ''.join(words))
    for record in records:
        for name, text in nmap_scripts(record):
            yield '<script id="%s" output="%s"/>' % (xml_text(name), xml_text(text))


def nmap_scripts(record) -> 'list[tuple[str, str]]':
    """A record -> (id, output): the module, and scripts of nmap that would say the same."""
    facts, certificate = service_facts(record), certificate_of(record)
    scripts = [(record.module or 'print', said_text(record, str))]
    scripts += [(name, facts[key]) for name, key in (
        ('http-title', 'title'), ('ssh-hostkey', 'host_key'), ('favicon', 'favicon'))
                if key in facts]
    if certificate:
        scripts.append(('ssl-cert', certificate_text(certificate)))
    return scripts


FORMATS['nmap-xml'] = GROUPED['nmap-xml']       # in which nobody wants anything else


class FormatWriter:
    """Records -> the lines of a format: head, records, tail.

    header      False: no line that names columns
    names       module -> {code: name}
    shown       records, or hosts, that were given a line; down: hosts among them that are down
    left_out    records that were not: no target, or no place in this format
    hostnames   {ip: names that the user gave it, with spaces between}
    held        HostTable, if the format wants all of a host together
    """

    def __init__(self, name, program, command, names, header=True, group=False):
        self.format, self.program, self.command = (
            GROUPED if group else FORMATS)[name], program, command
        self.header = header or not self.format.columns
        self.begun, self.start, self.shown, self.left_out = False, 0, 0, 0
        self.down, self.hostnames = 0, {}
        self.held = HostTable(names) if self.format.grouped else None

    def fill(self, text, end):
        """Head or tail with its values, as a list of lines."""
        return [text % {
            'program': xml_text(self.program), 'command': xml_text(self.command),
            'start': self.start, 'start_text': utc_text(self.start), 'end': end,
            'end_text': utc_text(end), 'elapsed': max(end - self.start, 0),
            'shown': self.shown, 'up': self.shown - self.down, 'down': self.down}] if text else []

    def begin(self, start):
        """Unix seconds -> the lines before the first record; none the second time."""
        if self.begun:
            return []
        self.begun, self.start = True, start
        return self.fill(self.format.head, start) if self.header else []

    def place(self, record) -> 'Place | None':
        """Where a record belongs; None: it has no target."""
        target = find_target(record.events)
        if not target:
            return None
        state, reason = find_state(record)
        return Place(target[0], target[1], self.hostnames.get(target[0], ''), state, reason)

    def record(self, record):
        """Its lines, none if it is held until the end; none, and counted, if it has no place."""
        at, line = self.place(record), ''
        if at and not self.format.states and at.state != 'open':
            pass                            # it has no place
        elif at and self.held:
            self.held.add(record, at)
            return []
        elif at or self.format.every:
            line = self.format.line(record, at)
        if not line:
            self.left_out += 1
            return []
        self.shown += 1
        return [self.format.between] * (self.shown > 1 and self.format.between != '') + [line]

    def hosts(self):
        """Yield each Host that is held; they stay until held.clear()."""
        return self.held.hosts(self.hostnames) if self.held else ()

    def host(self, host):
        """A Host -> its text in pieces, ends of lines among them; it is counted."""
        self.count(host, 1)
        return gather(self.format.line(host))

    def count(self, host, number):
        """So many more hosts, all like this one, have been shown."""
        self.shown += number
        self.down += number * (not host.reason()[0])

    def end(self, end):
        """Unix seconds -> the lines after the last record, of an empty document all of them."""
        return self.begin(end) + self.fill(self.format.tail, end)

# ---- end of same in cba_reader.py and cscan.py ----


# ==== 2 Targets =======================================================================

PRESETS = {                         # name -> range text, the same as presets/NAME.txt
    'private': '''\
# Private networks (RFC 1918)
10.0.0.0/8
172.16.0.0/12
192.168.0.0/16
''',
    'public-all': '''\
# All that no RFC 6890 registry entry takes from the public Internet, multicast included
1.0.0.0-9.255.255.255
11.0.0.0-100.63.255.255
100.128.0.0-126.255.255.255
128.0.0.0-169.253.255.255
169.255.0.0-172.15.255.255
172.32.0.0-191.255.255.255
192.0.1.0/24
192.0.3.0-192.88.98.255
192.88.100.0-192.167.255.255
192.169.0.0-198.17.255.255
198.20.0.0-198.51.99.255
198.51.101.0-203.0.112.255
203.0.114.0-239.255.255.255
''',
    'public': '''\
# public-all without some /8 blocks that one holder keeps or leaves dark
1.0.0.0-3.127.255.255
4.0.0.0-5.255.255.255
8.0.0.0-9.255.255.255
12.0.0.0-14.255.255.255
18.0.0.0/8
20.0.0.0/8
23.0.0.0-25.255.255.255
27.0.0.0/8
31.0.0.0-32.255.255.255
34.0.0.0-43.255.255.255
45.0.0.0-47.255.255.255
49.0.0.0-54.255.255.255
57.0.0.0-100.63.255.255
100.128.0.0-126.255.255.255
128.0.0.0-169.253.255.255
169.255.0.0-172.15.255.255
172.32.0.0-191.255.255.255
192.0.1.0/24
192.0.3.0-192.88.98.255
192.88.100.0-192.167.255.255
192.169.0.0-198.17.255.255
198.20.0.0-198.51.99.255
198.51.101.0-203.0.112.255
203.0.114.0-213.255.255.255
216.0.0.0-239.255.255.255
''',
}

# ---- built-in targets ----
# compile_targets.py -c writes these lines anew.  BAKED is False while they are the project's.
BAKED = False
BUILTIN_RANGES = PRESETS['public']
BUILTIN_PORTS = '80'
BUILTIN_MODULES = 'print'
# ---- end of built-in targets ----

MULTICAST = (0xe0000000, 0xefffffff)        # RFC 5771 s3: 224.0.0.0/4, which TCP cannot reach
DRAW_BLOCK = 1 << 12                        # random numbers fetched at a time
TEXT_BLOCK = 1 << 10                        # targets made at a time: not more than caches hold
RESOLVERS = 32                              # names resolved side by side
LAST = [str(octet) for octet in range(256)]
DOTTED = [octet + '.' for octet in LAST]
NO_DIGIT = b'-'                             # in place of a leading zero
DIGITS = [b''.join(b'%3d' % octet for octet in range(256)).replace(b' ', NO_DIGIT)[place::3]
          for place in range(3)]            # hundreds, tens, ones of each octet
ONES = ((1 << 32 * DRAW_BLOCK) - 1) // 0xffffffff       # 1 in each lane of 32 bits
# Ports that are worth a look, in this order by judgement: nobody counted them
TOP_PORTS = [int(port) for port in '''\
80 443 22 21 25 23 8080 3389 53 8443 445 110 143 993 995 587 465 139 135 3306
8000 8888 5900 8081 5432 6379 1433 111 7547 2222 81 5060 1723 554 2082 2083 2086 2087 2095 2096
10000 3000 5000 9000 9090 27017 179 389 636 88 5985 5986 1883 8883 9200 11211 2049 873 515 631
9100 8008 8009 8088 8089 8181 82 83 444 4443 9443 7443 10443 6443 10250 2375 2376 2379 5601 9092
5672 15672 1521 5222 5269 6667 6697 3128 1080 1935 8086 5984 9042 50000 3268 3269 593 464 548 2000
8291 8728 7001 8161 61616 2181 4786 502 102 20000 44818 4840 1911 2404 3050 119 563 113 79 37
'''.split()]
# So many at least are done in columns and lanes; PyPy, whose loops are quicker, does without
COLUMNS_MIN = 64 if sys.implementation.name == 'cpython' else sys.maxsize


class Names:
    """Hosts by name, name:HOST, of -f and -xf: each is resolved once, IPv4 only.

    known   {name: its addresses, none if it was skipped}; a resumed scan begins with the old ones
    plain   True: names without `name:` count as well (--resolve)
    skip_bad  True: lines of -f that are no targets are left out
    told    a line for each name, for the record: its addresses, or why it was skipped
    """

    def __init__(self, known, skip, console, plain=False, skip_bad=False):
        self.known, self.skip, self.console = known, skip, console
        self.plain, self.skip_bad = plain, skip_bad
        self.told, self.errors = [], {}     # errors: {name: why it has no address}

    def ranges(self, found, option) -> 'list[tuple[int, int]]':
        """(name, where it stands) pairs -> its addresses; what fails is an error, or skipped."""
        for name, where in found:
            if len(name) > 253 or not HOST_NAME.fullmatch(name):
                raise UserError('%s: %r: not the name of a host' % (where, NAME_MARK + name))
        new = list(dict.fromkeys(name for name, _ in found if name not in self.known))
        self.resolve_all(new)
        for name, where in found:
            if not self.known[name] and (option != '-f' or not self.skip):
                raise UserError('%s: %r: %s%s' % (where, NAME_MARK + name, self.errors.get(
                    name, 'had no address when the scan began'), (
                    '; --skip-unresolved leaves such names out' if option == '-f' else '')))
        for name in new:
            self.tell(name)
        return [(ip_number(each),) * 2 for name, _ in found for each in self.known[name]]

    def tell(self, name):
        """A line for a name, now and in the results."""
        if self.known[name]:
            self.told.append('name:%s = %s' % (name, ', '.join(self.known[name])))
            self.console.progress(self.told[-1])
        else:
            self.told.append('name:%s: %s: skipped' % (name, self.errors[name]))
            self.console.note('warning: ' + self.told[-1])

    def resolve_all(self, names):
        """Side by side, because one that times out takes many seconds."""
        waiting = collections.deque(names)

        def work():
            while True:
                try:
                    self.resolve(waiting.popleft())
                except IndexError:
                    return
        threads = [threading.Thread(target=work, daemon=True)
                   for _ in range(min(len(names), RESOLVERS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def resolve(self, name):
        """A name -> known, or errors."""
        addresses = set()
        try:
            addresses = {each[4][0] for each in socket.getaddrinfo(
                name, None, socket.AF_INET, socket.SOCK_STREAM)}
        except (OSError, UnicodeError) as error:        # UnicodeError: no name of RFC 3490
            self.errors[name] = why(error)
        self.known[name] = sorted(addresses, key=ip_number)


def is_range_text(spec: str) -> bool:
    """Ranges and names with commas between?"""
    return all(part.strip().startswith(NAME_MARK) or re.fullmatch(r'[0-9./*\s-]*', part)
               or is_ipv6(part.strip()) for part in spec.split(','))


def is_name_text(spec: str) -> bool:
    """The same, hosts by name among them without name:?"""
    return all(HOST_NAME.fullmatch(part.strip()) or is_range_text(part)
               for part in spec.split(','))


def add_spec(reader: RangeReader, spec: str, option: str):
    """What -f and -xf take: a preset's name, -, a file, or ranges with commas between."""
    where = 'argument ' + option
    if spec == 'default':
        reader.add_lines(BUILTIN_RANGES.splitlines(), 'built-in targets')
    elif spec in PRESETS:
        reader.add_lines(PRESETS[spec].splitlines(), spec)
    elif spec == '-' or os.path.exists(spec):
        reader.read(spec, where)
    elif spec and (is_range_text(spec) or (reader.resolve and is_name_text(spec))):
        parts = [part.strip() for part in spec.split(',')]
        if not all(parts):
            raise UserError("%s: %s: '' between commas is no range" % (where, quote(spec)))
        for part in parts:
            reader.add_line(part, where)
    else:
        raise UserError(
            'argument %s: %s: neither a file nor ranges (10.0.0.0/8,192.0.2.1-192.0.2.9) nor one '
            'of %s; a host by name is name:HOST, or with --resolve just HOST'
            % (option, quote(spec), ', '.join(sorted(PRESETS) + ['default'])))


def load_ranges(spec: str, option: str) -> 'list[tuple[int, int]]':
    """A spec of -f or -xf without hosts by name -> merged ranges."""
    reader = RangeReader()
    add_spec(reader, spec, option)
    reader.check()
    return reader.merged()


def load_all(specs: 'list[str]', option: str, names: Names) -> 'list[tuple[int, int]]':
    """Everything that an option named, each time it was given -> merged ranges.

    Only in -f may bad lines be left out: what -xf names must not be probed by mistake.
    """
    reader = RangeReader([], names.plain)
    for spec in specs:
        before = reader.weight()
        add_spec(reader, spec, option)
        if option == '-xf' and reader.weight() == before and spec != os.devnull:
            raise UserError('argument -xf: %r: no ranges in there; where nothing is to be '
                            'excluded, name %s' % (spec, os.devnull))
    reader.check(names.skip_bad and option == '-f')
    for note in reader.notes:
        if note.startswith('warning'):
            names.console.note(note)
        else:
            names.console.progress(note)
    reader.ranges += names.ranges(reader.names, option)
    return reader.merged()


def subtract_ranges(ranges: 'list[tuple[int, int]]', others: 'list[tuple[int, int]]'):
    """Merged ranges without others (in any order); what lies between two others is one step."""
    kept, at = [], 0
    for low, high in invert_ranges(merge_ranges(others)):
        at = bisect.bisect_left(ranges, (low, 0), at)
        if at and ranges[at - 1][1] >= low:             # begins before
            kept.append((low, min(ranges[at - 1][1], high)))
        end = bisect.bisect_right(ranges, (high, ADDRESSES_MAX), at)
        if end > at:
            kept += ranges[at:end]
            kept[-1] = kept[-1][0], min(kept[-1][1], high)
        at = end
    return kept


def is_in(ip: int, ranges: 'list[tuple[int, int]]') -> bool:
    """True if one of these merged ranges has the address."""
    at = bisect.bisect_right(ranges, (ip, ADDRESSES_MAX))
    return at > 0 and ip <= ranges[at - 1][1]


PACKED_MAX = 1 << 24            # octets: two million ranges


class Exclusions:
    """What -xf names: when the scan began, and as it is read again at SIGHUP.

    first   ranges; the space of the scan is without them
    barred  ranges that came since, [] at first: their targets are skipped, one by one
    scanned ranges of the scan, without the first
    """
    scanned = ((0, ADDRESSES_MAX - 1),)

    def __init__(self, specs, names, first=None):
        """first: of a scan that goes on and whose list had changed before."""
        self.specs, self.names = specs, names
        self.now = load_all(specs, '-xf', names)
        self.first = self.now if first is None else first
        self.barred = subtract_ranges(self.now, self.first)

    def reread(self) -> 'list[tuple[int, int]]':
        """-> the ranges that are new; what was excluded once stays excluded."""
        ranges = load_all(self.specs, '-xf', self.names)
        new = subtract_ranges(subtract_ranges(ranges, self.first), self.barred)
        self.now, self.barred = ranges, merge_ranges(self.barred + new)
        return new

    def left(self) -> 'list[tuple[int, int]]':
        """Ranges of the scan that may still be probed."""
        return subtract_ranges(self.scanned, self.barred)

    def bars(self, host: str) -> bool:
        return is_in(ip_number(host), self.barred)

    def pack(self) -> str:
        """The first list, for a state file."""
        octets = array.array('I', itertools.chain.from_iterable(self.first)).tobytes()
        return base64.b64encode(zlib.compress(octets)).decode()

    @staticmethod
    def unpack(text) -> 'list[tuple[int, int]]':
        """Raises ValueError; what unpacks to more than PACKED_MAX octets is none of ours."""
        numbers, stream = array.array('I'), zlib.decompressobj()
        try:
            octets = stream.decompress(base64.b64decode(text), PACKED_MAX)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if not stream.eof:
            raise ValueError('more than %d octets, or cut' % PACKED_MAX)
        numbers.frombytes(octets)
        ranges = list(zip(numbers[::2], numbers[1::2]))
        in_order = all(first <= last for first, last in ranges)
        if len(numbers) % 2 or not in_order or merge_ranges(ranges) != ranges:
            raise ValueError('no merged ranges')
        return ranges


def random_words(seed: 'int | None' = None):
    """Endless arrays of uniform 32-bit integers: the kernel's, or those of a seed."""
    rng = random.Random(seed)
    while True:
        octets = (os.urandom(4 * DRAW_BLOCK) if seed is None else
                  rng.getrandbits(32 * DRAW_BLOCK).to_bytes(4 * DRAW_BLOCK, 'little'))
        words = array.array('I', octets)
        if sys.byteorder == 'big':
            words.byteswap()
        yield words


def in_lanes(operation, words, number):
    """operation(word, number) of each 32-bit word; none may overflow -> array or list.

    Many words are one large number for that, with a lane of 32 bits for each: 0.015 us a word,
    a third of what a loop takes.
    """
    if len(words) < COLUMNS_MIN:
        return [operation(word, number) for word in words]
    lanes = int.from_bytes(array.array('I', words).tobytes(), sys.byteorder)
    lanes = operation(lanes, number * (ONES >> 32 * (DRAW_BLOCK - len(words))))
    return array.array('I', lanes.to_bytes(4 * len(words), sys.byteorder))


def ip_texts(ips) -> 'list[str]':
    """Addresses, a list or an array -> dotted texts.

    Many are made in columns, each digit of all in one step: 0.07 us each, by table look-ups 0.12,
    by inet_ntoa 0.2.  Every text begins as 16 octets; what stands for leading zeros is taken out.
    """
    if len(ips) < COLUMNS_MIN:
        return [DOTTED[ip >> 24] + DOTTED[ip >> 16 & 255] + DOTTED[ip >> 8 & 255] + LAST[ip & 255]
                for ip in ips]
    octets = array.array('I', ips)
    if sys.byteorder == 'little':
        octets.byteswap()
    octets, rows = octets.tobytes(), bytearray(b'000.000.000.000 ') * len(ips)
    for place in range(4):
        column = octets[place::4]
        for digit, table in enumerate(DIGITS):
            rows[4 * place + digit::16] = column.translate(table)
    return rows.translate(None, NO_DIGIT).decode('ascii').split()


def uniform(total: int, words):
    """Endless blocks of uniform integers 0..total-1 (total <= 2**32), by rejection."""
    mask = (1 << (total - 1).bit_length()) - 1
    for block in words:
        masked = in_lanes(operator.and_, block, mask)
        yield masked if total > mask else [word for word in masked if word < total]


def cut(blocks, size: int):
    """Blocks -> the same in pieces of so many at most."""
    for block in blocks:
        for begin in range(0, len(block), size):
            yield block[begin:begin + size]


def permutation(size: int, seed: int, places: 'range | None' = None):
    """A keyed pseudo-random order of 0..size-1: the generator holds no more than its keys.

    places  of the order that are wanted, in this order; None: all of them

    Three rounds of multiply, add, xor-shift, each a bijection of the integers of k bits;
    what falls outside 0..size-1 walks on (cycle-walking), less than twice on average.
    """
    bits = max((size - 1).bit_length(), 1)
    mask = (1 << bits) - 1
    half = (bits + 1) // 2
    rng = random.Random(seed)
    m1, m2, m3 = (rng.getrandbits(bits) | 1 for _ in range(3))     # odd: invertible mod 2**bits
    a1, a2, a3 = (rng.getrandbits(bits) for _ in range(3))
    for x in range(size) if places is None else places:
        while True:
            x = (x * m1 + a1) & mask
            x ^= x >> half
            x = (x * m2 + a2) & mask
            x ^= x >> half
            x = (x * m3 + a3) & mask
            x ^= x >> half
            if x < size:
                break
        yield x


def select_rows(columns, selectors: list) -> list:
    """Columns -> lists of what selectors are true for."""
    return [list(itertools.compress(column, selectors)) for column in columns]


class Columns:
    """Targets in two columns, hosts and ports: take() is for many, an iterator for single ones.

    blocks  iterator of (hosts, ports): lists as long as each other
    """

    def __init__(self, blocks):
        self.blocks = iter(blocks)
        self.hosts, self.ports, self.at = [], [], 0     # a block, and how many of it were taken

    def take(self, count):
        """The next count targets, fewer at the end -> (hosts, ports)."""
        end = self.at + count
        hosts, ports = self.hosts[self.at:end], self.ports[self.at:end]
        self.at += len(hosts)
        while len(hosts) < count:
            self.hosts, self.ports = next(self.blocks, ([], []))
            if not self.hosts:
                self.at = 0
                break
            self.at = min(count - len(hosts), len(self.hosts))
            hosts += self.hosts[:self.at]
            ports += self.ports[:self.at]
        return hosts, ports

    def __iter__(self):
        return self

    def __next__(self):
        hosts, ports = self.take(1)
        if not hosts:
            raise StopIteration
        return hosts[0], ports[0]


class Space:
    """Addresses x ports: everything a scan may probe.

    ranges  merged (first, last) pairs
    ports   (port, weight) pairs; --once takes each port once, draws by weight
    size    how many (address, port) pairs there are
    """

    def __init__(self, ranges, ports):
        sizes = [last - first + 1 for first, last in ranges]
        sizes[0] -= 1                                       # indexes begin with 0
        self.tops = list(itertools.accumulate(sizes))       # last index of each range
        self.shifts = [last - top for (_, last), top in zip(ranges, self.tops)]
        self.weighted = [port for port, _ in ports]
        self.weights = list(itertools.accumulate(weight for _, weight in ports))
        self.ports = list(dict.fromkeys(self.weighted))
        self.addresses = self.tops[-1] + 1
        self.size = self.addresses * len(self.ports)

    def tester(self):
        """-> a test whether a host of its ranges and a port are a target."""
        ports = set(self.ports)
        return lambda host, port: port in ports

    def draws(self, seed=None):
        """Independent random (host, port) for ever."""
        words = random_words(seed)
        indexes = cut(uniform(self.addresses, words), TEXT_BLOCK)
        ports = self.draw_ports(words)
        return Columns((hosts, list(itertools.islice(ports, len(hosts))))
                       for hosts in map(self.hosts, indexes))

    def draw_ports(self, words):
        """Endless ports by weight."""
        if len(self.weighted) == 1:
            return itertools.repeat(self.weighted[0])
        draws = itertools.chain.from_iterable(uniform(self.weights[-1], words))
        if self.weights[-1] == len(self.weighted):          # all weights are 1
            return map(self.weighted.__getitem__, draws)
        return (self.weighted[bisect.bisect_right(self.weights, draw)] for draw in draws)

    def share(self, shard, begin=0) -> range:
        """The places of the order that shard i of n takes, i from 0 on; without the first."""
        index, count = shard
        return range(index, self.size, count)[begin:]

    def text(self) -> str:
        """How large it is, for the start line."""
        return many(self.addresses, 'address') + ' x ' + many(len(self.ports), 'port')

    def digest(self) -> str:
        """The fingerprint of this space, ports in this order: 64 hexadecimal digits."""
        state = hashlib.sha256(repr((self.tops, self.shifts, self.ports)).encode())
        return state.hexdigest()

    def once(self, seed, places=None):
        """Each (host, port) once, in the order of permutation(size, seed)."""
        order = permutation(self.size, seed, places)
        blocks = iter(lambda: list(itertools.islice(order, TEXT_BLOCK)), [])
        return Columns(map(self.pairs, blocks))

    def pairs(self, indexes):
        """Indexes of pairs, a list -> (hosts, ports)."""
        ports, count = self.ports, len(self.ports)
        return (self.hosts([index // count for index in indexes]),
                [ports[index % count] for index in indexes])

    def hosts(self, indexes):
        """Indexes of addresses, a list or an array -> list of dotted texts."""
        shifts = self.shifts
        if len(shifts) == 1:
            return ip_texts(in_lanes(operator.add, indexes, shifts[0]))
        places = map(bisect.bisect_left, itertools.repeat(self.tops), indexes)
        return ip_texts([index + shifts[place] for index, place in zip(indexes, places)])


RESULT_LINE_MAX = 1 << 22           # octets: all ports of a host on a line of nmap -oG have 1.5 MB
RESULT_LINE = re.compile(r'(%s)(?:\s*[:,]\s*|\s+)([0-9]{1,5})' % QUAD)
LIST_LINE = re.compile(r'([a-z]+) (tcp|udp|sctp) ([0-9]{1,5}) (%s)(?: .*)?' % QUAD)
GREPABLE_LINE = re.compile(r'(?:Timestamp: [0-9]+\t)?Host: (%s) \(.*?\)\t(.*)' % QUAD)
GREPABLE_PORT = re.compile(r'([0-9]{1,5})/open/tcp/')
CSV_LINE = re.compile(r'[0-9]+,(%s),([0-9]{1,5}),"(\w*)",.*?(?:",([a-z]+))?' % QUAD)
PAIR_IPV6 = re.compile(r'\[[0-9a-fA-F:.%]+\]:[0-9]{1,5}')
EMPTY_LINES = ('', '[', ']', ',', '{finished: 1}', 'saddr,sport', 'time,ip,port,module,text',
               'time,ip,port,module,text,hostname,state', FORMATS['csv'].head)


def result_lines(file):
    """Lines of a binary file -> their text; None in place of one longer than 4 MB."""
    while True:
        line = file.readline(RESULT_LINE_MAX)
        if not line:
            return
        is_whole = len(line) < RESULT_LINE_MAX or line.endswith(b'\n')
        yield line.decode('utf-8', 'replace').strip('\ufeff \t\r\n') if is_whole else None
        while not is_whole and line and not line.endswith(b'\n'):
            line = file.readline(RESULT_LINE_MAX)


def line_results(text: str) -> 'list[tuple[str, int]] | None':
    """A line of results -> (host, port) of each open TCP port; None: it is no such line.

    Forms: ip:port, ip port, ip,port; masscan -oL, -oJ, -oD; nmap and masscan -oG; naabu -json;
    json and csv of cscan.  Closed ports and banners are no open ports.
    """
    match = RESULT_LINE.fullmatch(text)
    if match:
        return check_results(match.group(1), [match.group(2)])
    if text in EMPTY_LINES or text.startswith('#'):
        return []
    match = LIST_LINE.fullmatch(text)
    if match:
        state, protocol, port, host = match.groups()
        return check_results(host, [port] if (state, protocol) == ('open', 'tcp') else [])
    match = GREPABLE_LINE.fullmatch(text)
    if match:
        host, fields = match.groups()
        ports = [port for field in fields.split('\t') if field.startswith('Ports: ')
                 for port in map(GREPABLE_PORT.match, field[len('Ports: '):].split(', ')) if port]
        return check_results(host, [port.group(1) for port in ports])
    match = CSV_LINE.fullmatch(text)
    if match:
        host, port, module_name, state = match.groups()
        is_port = module_name == 'print' and state in (None, 'open')
        return check_results(host, [port] if is_port else [])
    return json_results(text) if text.startswith('{') else None


def check_results(host, ports) -> 'list[tuple[str, int]] | None':
    """Port numbers, texts or ints, of a host -> pairs; None if one of them is no port."""
    texts = list(map(str, ports))
    if not all(re.fullmatch('[0-9]{1,5}', text) and 1 <= int(text) <= PORT_MAX for text in texts):
        return None
    return [(host, int(text)) for text in texts]


def json_results(text: str) -> 'list[tuple[str, int]] | None':
    """An object of naabu, masscan or cscan on a line -> as line_results()."""
    try:
        found = parse_json(text.rstrip(','))
    except (ValueError, RecursionError):
        return None
    host = str(found.get('ip', found.get('host', '')))
    if not re.fullmatch(QUAD, host):
        return [] if is_ipv6(host) or 'module' in found else None
    ports = found.get('ports', [found])
    if not isinstance(ports, list) or not all(isinstance(each, dict) for each in ports):
        return None
    return check_results(host, [json_port(each) for each in ports if is_open(each)])


def json_port(each: dict):
    """The port of an object; older naabu has an object there."""
    port = each.get('port')
    return port.get('Port') if isinstance(port, dict) else port


def is_open(each: dict) -> bool:
    """Whether an object is an open TCP port, not a banner, a closed or a UDP port."""
    data = each.get('data')
    status = data.get('status') if isinstance(data, dict) else each.get('status', 'open')
    return (status == 'open' == each.get('state', 'open')
            and not each.get('module') and 'service' not in each
            and each.get('protocol', each.get('proto', 'tcp')) == 'tcp')


class PairSpace(Space):
    """Addresses with a port each, 6 octets a pair: what --pairs names.

    ips, ports_of  arrays of the addresses and of their ports, in ascending order, each pair once
    """

    def __init__(self, ips, ports):
        self.ips, self.ports_of = ips, ports
        self.size = len(ips)

    def tester(self):
        def is_pair(host, port):
            low = bisect.bisect_left(self.ips, ip_number(host))
            high = bisect.bisect_right(self.ips, ip_number(host), low)
            at = bisect.bisect_left(self.ports_of, port, low, high)
            return at < high and self.ports_of[at] == port
        return is_pair

    def draws(self, seed=None):
        """Independent random pairs for ever."""
        indexes = cut(uniform(self.size, random_words(seed)), TEXT_BLOCK)
        return Columns(map(self.pairs, indexes))

    def digest(self) -> str:
        """The fingerprint of these pairs: 64 hexadecimal digits."""
        state = hashlib.sha256(b'pairs')
        for column in self.ips, self.ports_of:
            octets = column[:]
            if sys.byteorder == 'big':
                octets.byteswap()
            state.update(octets.tobytes())
        return state.hexdigest()

    def pairs(self, indexes):
        """Indexes of pairs -> (hosts, ports)."""
        return (ip_texts([self.ips[index] for index in indexes]),
                [self.ports_of[index] for index in indexes])

    def text(self) -> str:
        return many(self.size, 'pair')


def read_pairs(path: str, skip_bad: bool, console) -> 'list[int]':
    """A file of results, as -x takes them -> address << 16 | port, ascending, each once."""
    where = 'standard input' if path == '-' else path
    reader, keys = RangeReader(), set()
    lines = result_lines(io.BytesIO(read_file(path, 'argument --pairs')))
    for number, text in enumerate(lines, 1):
        if text and text[0].isdigit():
            text = COMMENT.split(text, 1)[0].strip(' \t,')
        results = None if text is None else line_results(text)
        if results is None and text and PAIR_IPV6.fullmatch(text):
            reader.ipv6 += 1
        elif results is None and not (text or '').startswith(';'):
            reader.add_bad('%s:%d: %s: ip:port was expected' % (where, number, 'a line too long'
                                                                if text is None else quote(text)))
        for host, port in results or ():
            keys.add(ip_number(host) << 16 | port)
    reader.check(skip_bad)
    for note in reader.notes:
        if note.startswith('warning'):
            console.note(note)
        else:
            console.progress(note)
    return sorted(keys)


# ==== 3 Output ========================================================================

# ---- console ----

# ---- same in cscan.py and masscanned.py ----

def write_all(fd: int, data: bytes):
    """Write all of data, also to a pipe that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view):]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def fill_standard_descriptors():
    """A closed 0, 1 or 2 would be given to a socket: hold it, so that writes fail instead."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open('/dev/null', os.O_RDWR if fd == 2 else os.O_WRONLY if fd == 0 else os.O_RDONLY)


def processors() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()

# ---- end of same in cscan.py and masscanned.py ----


def complain(text: str):
    """Text to stderr; if nobody can read that, there is nowhere left to say it."""
    with contextlib.suppress(OSError):
        write_all(2, text.encode('utf-8', 'backslashreplace'))


FILE_ROOM = 1 << 16                 # octets that are written to a file at a time


class Console:
    """The standard streams: results to stdout, notes and the status line to stderr.

    gone    True once the reader of stdout went away: the scan ends, and that is no error
    failed  '' or why stdout cannot be written; results go to stderr from then on
    """

    def __init__(self, quiet=False):
        self.quiet = quiet
        self.gone, self.failed = False, ''
        self.terminals = [fd for fd in (1, 2) if os.isatty(fd)]     # that a SIGHUP may end
        self.log = None                             # --log: a Log, once it has taken the messages
        self.look()
        self.shown = ''                             # status line now on the terminal
        self.held = None                            # octets that results() keeps; None: it writes
        self.out_lock = threading.Lock()            # stdout may block for ever, stderr not
        self.err_lock = threading.RLock()

    def look(self):
        """Learn what the streams are, at start and after they were redirected."""
        self.tty = os.isatty(2)
        self.shared = self.tty and os.isatty(1)     # results would land in the status line

    def err(self, text):
        """Text to stderr; a stderr that nobody reads is no reason to stop a scan."""
        with self.err_lock:
            complain(text)

    def note(self, text):
        """One line on stderr, from `cscan: ` on; in a log the time (UTC) stands before it."""
        stamp = utc_text(int(time.time()), '%Y-%m-%dT%H:%M:%SZ ') if self.log else ''
        with self.err_lock:
            self.clear()
            self.err('%scscan: %s\n' % (stamp, text))

    def progress(self, text):
        """A note that -q silences."""
        if not self.quiet:
            self.note(text)

    def status(self, text):
        """Redraw the status line, on a terminal."""
        if self.tty and not self.quiet:
            try:
                columns = os.get_terminal_size(2).columns or 80         # 0: a pty without size
            except OSError:                         # it was closed
                self.tty = False
                return
            with self.err_lock:
                self.shown = text[:columns - 1]
                self.err('\r' + self.shown + '\x1b[K')

    def clear(self):
        """Take the status line away."""
        if self.shown:
            with self.err_lock:
                self.err('\r\x1b[K')
                self.shown = ''

    def hung_up(self) -> bool:
        """Whether a terminal that results or messages went to was closed (then isatty() fails)."""
        poll = select.poll()
        for fd in self.terminals:
            poll.register(fd, 0)
        return bool(poll.poll(0))

    def follow(self, log):
        """Messages go to a Log from now on; a terminal that closes is no end of them."""
        self.log, self.terminals = log, []
        self.look()

    def look_for_reader(self):
        """Notice that the reader of a pipe left, also while there is nothing to write."""
        poll = select.poll()
        poll.register(1, 0)
        if stat.S_ISFIFO(os.fstat(1).st_mode) and poll.poll(0):
            self.gone = True

    def lines(self, lines):
        """Result lines, at once and together, to stdout."""
        self.results(''.join(line + '\n' for line in lines))

    def results(self, data):
        """Text with whole lines, or pieces of them, to stdout."""
        octets = data.encode('utf-8', 'backslashreplace')
        if self.held is not None:
            self.held.append(octets)
        elif not self.write(octets):
            self.err(data)

    def write(self, octets) -> bool:
        """Octets to stdout, however long it takes -> False if they have to go to stderr."""
        if self.shared:
            self.clear()
        with self.out_lock:
            if self.gone or self.failed:
                return self.gone
            try:
                write_all(1, octets)
            except BrokenPipeError:
                self.gone = True
            except OSError as error:
                self.failed = 'standard output: %s' % why(error)
            return not self.failed

    def room(self) -> int:
        """How many octets of results can be written now without any waiting.

        A pipe that poll(2) calls writable takes PIPE_BUF octets at once (pipe(7)).  Terminals may
        take less, sockets do not say: there a thread writes, and may wait.
        """
        mode = os.fstat(1).st_mode
        if stat.S_ISREG(mode):
            return FILE_ROOM
        if not stat.S_ISFIFO(mode) and (not stat.S_ISCHR(mode) or os.isatty(1)):
            return 0
        poll = select.poll()
        poll.register(1, select.POLLOUT)
        return select.PIPE_BUF if poll.poll(0) else 0

    def write_now(self, octets) -> bytes:
        """Whole lines to stdout -> those of them that would have to wait."""
        while octets and not self.gone:
            room = self.room()
            end = len(octets) if len(octets) <= room else octets.rfind(b'\n', 0, room) + 1
            if not end:
                break
            if not self.write(octets[:end]):
                complain(octets[:end].decode('utf-8', 'replace'))
            octets = octets[end:]
        return octets


def sync_to_disk(fd: int) -> bool:
    """fdatasync(2) -> False on an I/O error; pipes and terminals keep nothing, and are right."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        return error.errno in (errno.EINVAL, errno.EROFS)
    return True


# ---- text ----

def event_lines(kind: int, code: int, value) -> 'list[str]':
    """An event -> the lines it has without an output file."""
    if kind == CBA_HEAD:
        return ['module: ' + value] if value else []
    if kind == CBA_STR:
        return [printable(value)]
    if kind == CBA_BIT:
        return ['bit set for code %d' % code]
    if kind == CBA_DATA:
        return ['binary data of length %d' % len(value)]
    return ['int%d %d' % (32 if kind == CBA_INT32 else 64, value)]


class TextSink:
    """Entries as text lines; files into a folder.

    write   takes the lines of an entry
    """
    failed = ''                     # why entries cannot be kept: the console knows

    def __init__(self, write, folder, look=None):
        self.write_lines, self.folder = write, folder
        self.look = look or self.start      # learns, now and then, whether anybody reads
        self.taken = {}             # paths of files saved by this run, as create_below() has them
        self.entries = {}           # thread -> lines of the entry that it is in the middle of
        self.lock = threading.Lock()

    def write(self, thread, events, packed=b''):
        lines = self.entries.setdefault(thread, [])
        for kind, code, value in events:
            lines += self.save(*value) if kind == CBA_FILE else event_lines(kind, code, value)

    def pack_all(self, thread, events) -> bytes:
        """Lines need no packets."""
        return b''

    def save(self, name, data):
        """Keep a module's file -> the line that says so."""
        try:
            return ['saving file %s' % self.keep(name, data)]
        except OSError as error:
            return ['file %s not saved in %s: %s' % (printable(name), self.folder, why(error))]

    def keep(self, name, data):
        """Keep a module's file -> its path."""
        with self.lock:
            file, path = create_below(self.folder, name, self.taken)
        with file:
            file.write(data)
        return os.path.join(self.folder, path)

    def finish(self, thread):
        """The entry is whole: its lines go out together."""
        lines = self.entries.pop(thread, None)
        if lines:
            self.write_lines(lines)

    def start(self):
        """Nothing is to be started."""

    def flush(self):
        """Lines go out when their entry is finished."""

    def sync(self) -> bool:
        """Force what was written to the disk, if it is one -> whether it can be relied upon."""
        return sync_to_disk(1)

    def gathers(self) -> 'bool | None':
        """True: lines of several entries may be written together; False: each is written at
        once, and nothing can wait; None: an entry may have to wait.
        """
        return True

    def hurry(self):
        """Nothing waits here."""

    def close(self):
        """Nothing waits here."""


# ---- formats ----

class RecordSink(TextSink):
    """Entries as records of a format, --format; files into a folder.

    writer  a FormatWriter: its head goes out with the first record, its tail at the end
    left_out    {module: entries that have no place in the format}
    places      of the last records: (where it begins in the file that stdout is, its text in
                pieces, what takes it out of the writer's counts)
    """

    def __init__(self, writer, console, folder):
        super().__init__(console.lines, folder, console.look_for_reader)
        self.writer, self.console = writer, console
        self.began = int(time.time())
        self.left_out = collections.Counter()
        self.order = threading.RLock()      # one record at a time: what is between them counts;
                                            # a signal's handler may come in the middle of one
        self.ended, self.places = False, collections.deque(maxlen=16)

    def write(self, thread, events, packed=b''):
        entry = self.entries.setdefault(thread, [])
        for kind, code, value in events:
            if kind == CBA_FILE:
                value = self.keep_or_tell(*value)
            entry.append((kind, code, value))

    def keep_or_tell(self, name, data):
        """Keep a module's file -> its path; its name, if that cannot be."""
        try:
            return self.keep(name, data)
        except OSError as error:
            self.console.note('file %s not saved in %s: %s' % (
                printable(name), self.folder, why(error)))
            return name

    def finish(self, thread):
        """The entry is whole: its record goes out."""
        events = self.entries.pop(thread, None)
        if not events:
            return
        module = events.pop(0)[2] if events[0][0] == CBA_HEAD else ''
        with self.order:
            record = Record(None, module, events, code_names(module), int(time.time()))
            left_out = self.writer.left_out
            self.take(record)
            if self.writer.left_out > left_out:
                self.left_out[module] += 1

    def take(self, record):
        """A record -> stdout."""
        head, lines = self.writer.begin(self.began), self.writer.record(record)
        if head and not self.ended:
            self.write_lines(head)
        if lines and not self.ended:
            text = ''.join(line + '\n' for line in lines)
            self.put(text, self.uncount)

    def gathers(self):
        """See TextSink; a document with an end keeps the place of each of its last records."""
        if not (self.writer.held or self.writer.format.tail):
            return True
        return False if stat.S_ISREG(os.fstat(1).st_mode) else None

    def uncount(self):
        """A record does not stand in the document."""
        self.writer.shown -= 1

    def put(self, text, uncount):
        """A record to stdout; where it begins is kept for end_full()."""
        known = self.writer.format.tail and stat.S_ISREG(os.fstat(1).st_mode)
        if known and not self.console.failed:
            self.places.append((os.lseek(1, 0, os.SEEK_CUR), [text], uncount))
        self.console.results(text)
        if self.console.failed:
            uncount()                       # it went to stderr

    def close(self):
        """The end of the document, once; where there were no records, its head first."""
        with self.order:
            self.end()

    def end(self):
        if not self.ended:
            self.ended = True
            self.finish_records()
            if self.console.failed:
                self.end_full()
            else:
                self.write_lines(self.writer.begin(self.began)
                                 + self.writer.end(int(time.time())))
        if self.left_out:
            self.console.note('--format %s has no place for the entries of %s' % (
                self.writer.format.name, ', '.join(
                    '%r (%d)' % entry for entry in sorted(self.left_out.items()))))
            self.left_out.clear()

    def finish_records(self):
        """All of them are written."""

    def end_full(self):
        """The disk is full: the tail takes the place of the last records, which go to stderr.

        Nothing is touched if others write to the same file.
        """
        if not self.places or os.fstat(1).st_size != os.lseek(1, 0, os.SEEK_CUR):
            return
        at, _, _ = self.places.pop()        # the one that failed, which is on stderr
        while True:
            tail = ''.join(line + '\n' for line in self.writer.end(int(time.time())))
            try:
                os.ftruncate(1, os.lseek(1, at, os.SEEK_SET))
                return write_all(1, tail.encode())
            except OSError:
                if not self.places:
                    return                  # not even the tail fits
                at, text, uncount = self.places.pop()
                uncount()
                for piece in text:
                    self.console.err(piece)

    def hurry(self):
        """Last words before the process ends, in a signal handler: never wait for long."""
        if self.order.acquire(timeout=0.2):
            self.end()


class GroupSink(RecordSink):
    """Entries as hosts, which are written at the end, or when there are too many to be held.

    late    a FormatWriter for what comes when the document had to end before
    """

    def __init__(self, writer, console, folder):
        super().__init__(writer, console, folder)
        self.late = FormatWriter('csv', '', '', code_names)

    def take(self, record):
        """A record is held with the others of its host."""
        if self.ended:                      # the disk was full before the end
            return self.console.err(''.join(map('%s\n'.__mod__, self.late.record(record))))
        self.writer.record(record)
        reason = self.writer.held.full()
        if reason:
            self.console.note('warning: %s: hosts found so far are written now, and may come '
                              'again later' % reason)
            self.finish_records()
            if self.console.failed:
                self.ended = True
                self.end_full()
            self.writer.held.clear()

    def finish_records(self):
        """All hosts that are held are written."""
        if not self.console.failed:
            self.write_lines(self.writer.begin(self.began))
        for host in self.writer.hosts():
            self.put_host(host)

    def end(self):
        super().end()
        self.writer.held.clear()

    def put_host(self, host):
        """A host to stdout; one of more than a piece is not kept in memory."""
        pieces = self.writer.host(host)
        first, second = next(pieces), next(pieces, '')
        if second:
            self.put_long(host, itertools.chain([first, second], pieces))
        else:
            self.put(first, lambda: self.writer.count(host, -1))

    def put_long(self, host, pieces):
        """The same of many pieces; if they do not all fit, the host goes to stderr, whole."""
        if not self.console.failed:
            if stat.S_ISREG(os.fstat(1).st_mode):
                self.places.append((os.lseek(1, 0, os.SEEK_CUR), self.writer.format.line(host),
                                    lambda: self.writer.count(host, -1)))
            for piece in pieces:
                self.console.results(piece)
                if self.console.failed:
                    break
            else:
                return
        self.writer.count(host, -1)
        for piece in self.writer.format.line(host):
            self.console.err(piece)


def code_names(module: str) -> 'dict[int, str]':
    """The module of an entry -> names of its codes."""
    if module == STATE_MODULE:
        return STATE_CODES
    if module == SCOPE_MODULE:
        return SCOPE_CODES
    for each in MODULES.values():
        if each.entry == module:
            return each.codes
    return {}


# ---- cba ----

class CbaSink:
    """Entries into a CBA file; flushed every half second by a thread of its own.

    failed  '' or why the file cannot be written; entries go to the rescue sink from then on
    """

    def __init__(self, path, rescue, console):
        self.path, self.rescue, self.console, self.failed = path, rescue, console, ''
        self.lock = threading.RLock()       # a signal's handler may come while it is held
        self.buffer = bytearray()   # whole packets not yet in the file
        self.unsaved = []           # (thread, events, head) of the buffer, for the rescue
        self.heads = {}             # thread -> head: the first events of the entry that it is in
        self.begun = {}             # thread -> head of the entry that the rescue has begun
        self.fd = self.open()
        self.size = os.fstat(self.fd).st_size       # of the file, all of it whole packets
        self.closed = threading.Event()

    def open(self):
        """The descriptor of the file, whole and ready to append to."""
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                         | os.O_NONBLOCK, 0o666)    # a pipe without reader: ENXIO, no waiting
            self.regular = stat.S_ISREG(os.fstat(fd).st_mode)
            if self.regular:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError('argument -o: %r: another program is writing to it'
                            % self.path) from None
        except OSError as error:
            raise UserError('argument -o: %r: %s' % (self.path, why(error))) from None
        self.order = '<'
        try:
            if self.regular and os.fstat(fd).st_size:
                self.repair(fd)
            else:
                write_all(fd, b'L')
        except (OSError, UserError) as error:
            os.close(fd)
            raise UserError('argument -o: %r: %s' % (self.path, why(error))) from None
        self.code = struct.Struct(self.order + 'I')
        self.fields = {kind: struct.Struct(self.order + field)
                       for kind, field in CBA_FIELDS.items()}
        return fd

    def repair(self, fd):
        """Cut a torn packet off, close open streams: what a kill leaves is made readable."""
        with open(self.path, 'rb') as file:
            packets = CbaPackets(file)
            for _ in packets:
                pass
            file.seek(packets.end)
            rest = file.read(2)
        if packets.end == 1 and rest and (
                rest[1] & ~CBA_CODED != CBA_HEAD if len(rest) > 1 else chr(rest[0]).isspace()
                or chr(rest[0]).isprintable()):
            packets.torn, packets.cut = False, 'it does not begin with an entry'    # short text
        if packets.cut and not packets.torn:
            raise UserError('not a CBA file to append to: %s' % packets.cut)
        self.order = packets.order
        if packets.torn:
            self.console.note('%s: %d octets of a torn packet cut off'
                              % (self.path, os.fstat(fd).st_size - packets.end))
            os.ftruncate(fd, packets.end)
        if packets.open:
            self.console.note('%s: %d open streams closed' % (self.path, len(packets.open)))
            write_all(fd, b''.join(bytes([thread, 0, 0]) for thread in packets.open))

    def pack(self, thread, kind, code, value):
        """One event -> its packets."""
        head = bytes([thread, kind | CBA_CODED]) + self.code.pack(code) if code else (
            bytes([thread, kind]))
        if kind in (CBA_INT32, CBA_INT64):
            return head + self.fields[kind].pack(value)
        if kind == CBA_BIT:
            return head
        if kind == CBA_DATA:
            return head + self.pack_stream(thread, value)
        if kind == CBA_FILE:
            return head + self.pack_counted(kind, value[0]) + self.pack_stream(thread, value[1])
        return head + self.pack_counted(kind, value)

    def pack_counted(self, kind, text):
        data = text.encode('latin-1', 'backslashreplace')
        return self.fields[kind].pack(len(data)) + data

    def pack_stream(self, thread, data):
        """Chunks, and the empty one that ends them."""
        pieces = [data[at:at + CBA_CHUNK_MAX] for at in range(0, len(data), CBA_CHUNK_MAX)]
        chunk = self.fields[CBA_CHUNK]
        return b''.join(bytes([thread]) + chunk.pack(len(piece)) + piece
                        for piece in pieces + [b''])

    def pack_all(self, thread, events) -> bytes:
        """Events -> their packets; raises what write() of them would."""
        return b''.join(self.pack(thread, *event) for event in events)

    def write(self, thread, events, packed=b''):
        """Events of an entry; packed: of a whole one, what pack_all() has made of them."""
        packed = packed or self.pack_all(thread, events)
        with self.lock:
            if events[0][0] == CBA_HEAD:
                self.heads[thread] = events
            entry = thread, events, self.heads.get(thread, events)
            if self.failed:
                return self.save(*entry)
            self.buffer += packed
            self.unsaved.append(entry)
            if len(self.buffer) > 1 << 20:
                self.flush_locked()

    def gathers(self):
        """See TextSink; a pipe may have no room."""
        return False if self.regular and not self.failed else None

    def finish(self, thread):
        if self.failed:
            self.rescue.finish(thread)

    def flush(self):
        with self.lock:
            self.flush_locked()

    def flush_locked(self):
        """Buffer -> file; on failure what was in it goes to the rescue sink."""
        if self.failed:
            return
        try:
            self.check_place()
            write_all(self.fd, self.buffer)
            self.size += len(self.buffer)
        except BrokenPipeError:
            self.console.gone = True    # -o to a pipe: the reader has seen enough
        except OSError as error:
            self.fail(why(error))
        self.buffer, self.unsaved = bytearray(), []

    def check_place(self):
        """Raises OSError if the file is not where the user will look for it."""
        if not self.regular:
            return
        here = os.stat(self.path)
        mine = os.fstat(self.fd)
        if (here.st_dev, here.st_ino) != (mine.st_dev, mine.st_ino):
            raise FileNotFoundError(errno.ENOENT, 'another file has taken its place')

    def fail(self, reason):
        """From now on everything goes to the rescue sink; the file ends with a whole packet."""
        self.failed = '%s: %s' % (self.path, reason)
        if self.regular:
            try:
                os.ftruncate(self.fd, self.size)
            except OSError:
                pass                # the next append will cut it
        for entry in self.unsaved:
            self.save(*entry)
        for thread in list(self.begun):
            self.rescue.finish(thread)

    def save(self, thread, events, head):
        """Events to the rescue sink, after the head of their entry; the scanner's own are not."""
        if thread == 0:
            return
        if self.begun.get(thread) is not head:
            self.begun[thread] = head
            self.rescue.finish(thread)
            if events is not head:
                self.rescue.write(thread, head)
        self.rescue.write(thread, events)

    def sync(self) -> bool:
        """Force what was written to the disk -> whether it can be relied upon."""
        return not self.failed and sync_to_disk(self.fd)

    def flush_often(self):
        while not self.closed.wait(0.5):
            self.flush()

    def look(self):
        """The flusher looks."""

    def start(self):
        """Begin to flush; after a fork, which no thread survives."""
        self.flusher = threading.Thread(target=self.flush_often, daemon=True)
        self.flusher.start()

    def close(self):
        self.closed.set()
        self.flush()

    def hurry(self):
        """Last words before the process ends, in a signal handler: never wait for long."""
        if self.regular and self.lock.acquire(timeout=0.2):
            self.flush_locked()


ENTRY_MAX = 1 << 16                  # octets of an entry that a talk has not finished


class Out:
    """What a module writes an entry through; one for each thread.

    The name of the module, and strings said `later`, reach the file only if an event follows.
    """
    __slots__ = 'sink', 'thread', 'deferred'

    def __init__(self, sink, thread):
        self.sink, self.thread = sink, thread
        self.deferred = []          # events that wait for a real one

    def begin(self, module):
        self.deferred = [(CBA_HEAD, 0, module)]

    def later(self, text, code=0):
        """A string that is written only if something else is."""
        self.check(text)
        self.deferred.append((CBA_STR, code, text))

    def event(self, kind, code, value):
        self.sink.write(self.thread, self.deferred + [(kind, code, value)])
        self.deferred = []          # not before: what does not fit raises, and the head stays

    def str(self, text, code=0):
        """text  at most 32,767 characters, Latin-1 (others are written as \\uXXXX)"""
        self.check(text)
        self.event(CBA_STR, code, text)

    def check(self, text):
        """Raises ValueError if a string does not fit."""
        if len(text.encode('latin-1', 'backslashreplace')) > CBA_STR_MAX:
            raise ValueError('a string of %d characters: at most 32767, use data()' % len(text))

    def bit(self, code):
        self.event(CBA_BIT, code, True)

    def int32(self, number, code=0):
        self.event(CBA_INT32, code, number)

    def int64(self, number, code=0):
        self.event(CBA_INT64, code, number)

    def data(self, octets, code=0):
        self.event(CBA_DATA, code, bytes(octets))

    def file(self, name, octets, code=0):
        self.event(CBA_FILE, code, (name, bytes(octets)))

    @property
    def is_text(self):
        """Do entries become lines on the screen, for want of a file?"""
        return type(self.sink) is TextSink

    def line(self, text):
        """The whole entry as one line of text, without the name of the module."""
        self.deferred = []
        self.str(text)

    def finish(self):
        self.sink.finish(self.thread)


def event_size(kind, value) -> int:
    """About how many octets an event keeps."""
    if kind == CBA_FILE:
        return len(value[0]) + len(value[1])
    return len(value) if kind in (CBA_HEAD, CBA_STR, CBA_DATA) else 8


class TalkOut(Out):
    """The same for a coroutine: an entry is kept until it is whole.

    put     takes it: (events, their packets)
    """
    __slots__ = 'put', 'kept', 'packed', 'size'

    def __init__(self, sink, thread, put):
        super().__init__(sink, thread)
        self.put = put
        self.clear()

    def clear(self):
        """No event is kept."""
        self.kept, self.packed, self.size = [], [], 0

    def event(self, kind, code, value):
        events = self.deferred + [(kind, code, value)]
        packed = self.sink.pack_all(self.thread, events)
        size = self.size
        for kind, _, value in events:
            size += event_size(kind, value)
        if size > ENTRY_MAX:
            raise ValueError('an entry of more than %d octets' % ENTRY_MAX)
        self.size = size
        self.kept += events
        self.packed.append(packed)
        self.deferred = []

    def finish(self):
        """The entry is whole."""
        if self.kept:
            self.put((self.kept, b''.join(self.packed)))
            self.clear()


# ---- scope ----
#
# Who compares two scans must tell a port that is closed now from one that was not asked.  An
# entry at the start of a scan says what it is to ask, and is there also after a kill; one at its
# end says what became of that.  Both stand around the entries `cscan` of the same thread.

SCOPE = {name: code for code, name in SCOPE_CODES.items()}
SCOPE_LIST_MAX = 1 << 16            # ranges, or pairs, of which the file gets more than a digest


def begin_scope(out, args, space, exclusions, total, resumed):
    """The entry at the start; total: probes, None = without end."""
    out.begin(SCOPE_MODULE)
    out.int64(int(time.time()), SCOPE['TIME'])
    write_ranges(out, 'TARGETS', exclusions.scanned)
    if args.pairs:
        write_pairs(out, space)
    for text in port_texts(space.ports_of if args.pairs else space.ports):
        out.str(text, SCOPE['PORTS'])
    write_excluded(out, exclusions)
    if args.once:
        out.bit(SCOPE['ONCE'])
        out.int64(args.seed, SCOPE['SEED'])
    if args.shard != (0, 1):
        out.str('%d/%d' % (args.shard[0] + 1, args.shard[1]), SCOPE['SHARD'])
    if total is not None:
        out.int64(total, SCOPE['TOTAL'])
    if resumed:
        out.bit(SCOPE['RESUMED'])
    out.finish()


def end_scope(out, exclusions, ended, asked, complete):
    """The entry at the end: what ended the scan, how many were asked, whether these are all."""
    out.begin(SCOPE_MODULE)
    out.int64(int(time.time()), SCOPE['TIME'])
    out.str(ended[:1000], SCOPE['ENDED'])
    out.int64(asked, SCOPE['ASKED'])
    if complete:
        out.bit(SCOPE['COMPLETE'])
    if exclusions.barred:
        write_excluded(out, exclusions)
    out.finish()


def write_excluded(out, exclusions):
    """What -xf names, and what it named before."""
    excluded = merge_ranges(exclusions.now + exclusions.barred)
    if excluded:
        write_ranges(out, 'EXCLUDED', excluded)


def write_ranges(out, name, ranges):
    """Merged ranges as a .csw; too many: their digest."""
    if len(ranges) <= SCOPE_LIST_MAX:
        out.data(pack_csw(ranges, name), SCOPE[name])
    else:
        out.str(' '.join(digest_list(ranges, count_addresses(ranges), 'address')),
                SCOPE[name + '_DIGEST'])


def write_pairs(out, space):
    """The pairs of --pairs; too many: their digest."""
    if space.size > SCOPE_LIST_MAX:
        return out.str('%s %s' % (space.digest(), space.text()), SCOPE['PAIRS_DIGEST'])
    keys = array.array('Q', [ip << 16 | port for ip, port in zip(space.ips, space.ports_of)])
    if sys.byteorder == 'big':
        keys.byteswap()
    out.data(keys.tobytes(), SCOPE['PAIRS'])


def port_texts(ports) -> 'list[str]':
    """Ports in any order -> 22,80-90, in pieces that fit into a string each."""
    texts = []
    ranges = merge_ranges([(port, port) for port in set(ports)])
    for at in range(0, len(ranges), CBA_STR_MAX // len('65534-65535,')):
        texts.append(','.join(
            str(low) if low == high else '%d-%d' % (low, high)
            for low, high in ranges[at:at + CBA_STR_MAX // len('65534-65535,')]))
    return texts


# ==== 4 Timed socket ==================================================================

LINGER_NONE = struct.pack('ii', 1, 0)       # socket(7) SO_LINGER: close() resets at once
IP_BIND_ADDRESS_NO_PORT = 24        # linux/in.h: the port is chosen by connect(), per target
TLS_PIECE = 16384                   # octets read at once
TLS_MAX = 65536                     # octets that may come before one operation is done
POLL_MAX_S = 1 << 20                # poll(2) takes no more
SPREE_MAX = 16                      # reads of a talk in a row before others have their turn
# Anonymous: text.  A server may choose a finite-field group of 10,000 bits, 1.3 s of CPU: only the
# anonymous suites have finite fields, because many servers know no other anonymous ones.
TLS_CIPHERS = {True: 'aNULL:@SECLEVEL=0', False: 'ALL:!aNULL:!kDHE:!PSK:@SECLEVEL=0'}
TLS_CONTEXTS = {}                   # anonymous -> ssl.SSLContext, built at first use
OP_LEGACY_SERVER_CONNECT = 4        # openssl/ssl.h: servers from before RFC 5746


TLS_CHANGE, TLS_ALERT, TLS_HANDSHAKE = 20, 21, 22       # RFC 8446 s5.1: types of records
TLS_RECORD = struct.Struct('!BHH')      # RFC 8446 s5.1: type version length
TLS_SERVER_HELLO, TLS_KEY_SHARE = 2, 51         # RFC 8446 s4, s4.2
TLS_RETRY = hashlib.sha256(b'HelloRetryRequest').digest()       # RFC 8446 s4.1.3: its random
FFDHE = range(0x0100, 0x0200)           # RFC 7919 s2: groups of finite fields


class Unable(OSError):
    """What this machine cannot do, whatever the target: reported once, then counted."""


class TlsEnd(ConnectionResetError):
    """The peer ended a TLS connection, or the TCP connection below it."""


def tls_library():
    """The module ssl.  Not at the top: 5 to 30 ms of each start, and some Pythons lack it."""
    try:
        import ssl
    except ImportError as error:
        raise Unable('this Python has no TLS: %s' % error) from None
    return ssl


def tls_context(anonymous: bool):
    """The context of start_tls(); it takes whatever certificate comes."""
    if anonymous not in TLS_CONTEXTS:
        ssl = tls_library()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.options |= OP_LEGACY_SERVER_CONNECT
        try:
            context.set_ciphers(TLS_CIPHERS[anonymous])
            if hasattr(ssl, 'TLSVersion'):      # 3.7; the options are deprecated since 3.10
                context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
                if anonymous:                   # TLS 1.3 has no suites without certificate
                    context.maximum_version = ssl.TLSVersion.TLSv1_2
            elif anonymous:
                context.options |= ssl.OP_NO_TLSv1_3
        except (ssl.SSLError, ValueError, AttributeError) as error:
            raise Unable('%s refuses ciphers %s: %s' % (
                ssl.OPENSSL_VERSION, TLS_CIPHERS[anonymous], tls_reason(error))) from None
        TLS_CONTEXTS[anonymous] = context
    return TLS_CONTEXTS[anonymous]


def tls_reason(error: Exception) -> str:
    """An exception of ssl -> OpenSSL's words: 'wrong version number'."""
    reason = getattr(error, 'reason', None)
    return reason.lower().replace('_', ' ') if reason else why(error)


def first_message(records: bytes) -> 'bytes | None':
    """What a peer sent first, TLS records -> its first handshake message; None: not whole yet."""
    message, at = bytearray(), 0
    while len(records) - at >= TLS_RECORD.size:
        kind, _, size = TLS_RECORD.unpack_from(records, at)
        at += TLS_RECORD.size
        if kind == TLS_HANDSHAKE:
            message += records[at:at + size]
        at += size
        end = 4 + int.from_bytes(message[1:4], 'big')
        if len(message) >= max(end, 4):
            return bytes(message[:end])
    return None


def only_alerts(records: bytes) -> bool:
    """Whether TLS records are whole, and none is of a handshake."""
    at = 0
    while at < len(records) and records[at] != TLS_HANDSHAKE:
        at += TLS_RECORD.size + int.from_bytes(records[at + 3:at + TLS_RECORD.size], 'big')
    return at == len(records)


def retry_group(message: bytes) -> int:
    """A handshake message -> the group that a HelloRetryRequest asks for, 0 = it is none.

    source  RFC 8446 s4.1.4, s4.2.8
    """
    if message[:1] != bytes([TLS_SERVER_HELLO]) or message[6:38] != TLS_RETRY:
        return 0
    at = 39 + sum(message[38:39]) + 5       # session, cipher suite, compression, size of the rest
    while at + 4 <= len(message):
        kind, size = struct.unpack_from('!HH', message, at)
        if kind == TLS_KEY_SHARE:
            return int.from_bytes(message[at + 4:at + 6], 'big')
        at += 4 + size
    return 0


@types.coroutine
def socket_ready(socks, mask, until):
    """Wait for one of these sockets: at the bottom of all that a coroutine of ours awaits.

    socks   non-blocking; () = go on soon, others first
    mask    select.POLLIN, POLLOUT: as a hint, since others may wake it, too
    until   on the clock of who drives it; raises socket.timeout then
    """
    yield socks, mask, until


def drive(coroutine):
    """Run a coroutine to its end in this thread, with poll(2) -> what it returns."""
    error = None
    while True:
        try:
            wait = coroutine.throw(error) if error else coroutine.send(None)
        except StopIteration as end:
            return end.value
        error = poll_sockets(*wait)


def poll_sockets(socks, mask, until) -> 'OSError | None':
    """Wait for one of these sockets -> None; a timeout if that lasts until the given time."""
    if not socks:
        return None
    left = until - time.monotonic()
    poll = select.poll()
    for sock in socks:
        poll.register(sock, mask)
    if left > 0 and poll.poll(math.ceil(min(left, POLL_MAX_S) * 1000)):
        return None
    return socket.timeout('timed out')


class ClosedSocket:
    """In the place of a socket that went home: each use is an error, as of a closed one."""

    def close(self):
        """It is."""

    def __getattr__(self, name):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


CLOSED = ClosedSocket()


class TalkSocket:
    """A TCP connection whose reads and writes all share one deadline: coroutines, to be awaited.

    sock        non-blocking, connected or about to be
    timeout_ms  for the connect and the whole conversation after it
    clock       of who drives the coroutines, seconds
    gate        Gate of TLS handshakes; None: there may be any number of them
    home        takes the socket when the connection ends: it is the scan's; None: it is closed
    raises      socket.timeout when the time is up, ConnectionError, OSError
    """
    __slots__ = ('own', 'socks', 'clock', 'gate', 'home', 'deadline', 'rest', 'spree', 'tls',
                 'incoming', 'outgoing', 'piece', 'held')

    def __init__(self, sock, timeout_ms: float, clock=time.monotonic, gate=None, home=None):
        self.own = sock
        self.socks = sock,
        self.clock, self.gate, self.home = clock, gate, home
        self.extend(timeout_ms)
        self.rest = b''                 # octets that came behind a line, and were not asked for
        self.spree = 0                  # reads in a row that had not to wait
        self.tls = None                 # ssl.SSLObject, once TLS is spoken
        self.incoming = self.outgoing = None    # ssl.MemoryBIO: TLS records from and to the peer
        self.piece = b''                # last octets that came for TLS, as they came
        self.held = None                # of them, until the first message of the peer is whole:
                                        # what the library has not seen; None: it sees all

    @property
    def sock(self):
        """The socket.  Who asks for it may change it: the scan does not use it again."""
        if self.home:
            self.home(self.own, False)
            self.home = None
        return self.own

    def extend(self, timeout_ms: float):
        """A new deadline, from now."""
        self.deadline = self.clock() + timeout_ms / 1000

    async def connect(self, address):
        """Connect to (host, port)."""
        code = self.own.connect_ex(address)
        while code in (EINPROGRESS, EALREADY):
            await socket_ready(self.socks, select.POLLOUT, self.deadline)
            code = self.own.connect_ex(address)
        if code not in OPEN:                # reset after accepting: reading reports it
            raise OSError(code, os.strerror(code))

    async def receive(self, limit: int, until: float) -> bytes:
        """What the kernel has; a peer that never rests does not keep others waiting."""
        if self.clock() >= until:
            raise socket.timeout('timed out')
        self.spree += 1
        if self.spree > SPREE_MAX:
            self.spree = 0
            await socket_ready((), 0, until)
        while True:
            try:
                return self.own.recv(limit)
            except BlockingIOError:
                self.spree = 0
                await socket_ready(self.socks, select.POLLIN, until)

    def read_some(self, limit: int, wait_ms: float = math.inf) -> bytes:
        """What there is, 1 to limit octets; b'' after the peer's end.

        wait_ms     how long, if that is sooner than the deadline
        """
        until = self.deadline
        if wait_ms != math.inf:
            until = min(until, self.clock() + wait_ms / 1000)
        if self.rest or self.tls:
            return self.read_kept(limit, until)
        return self.receive(limit, until)       # a coroutine less on the way of most octets

    async def read_kept(self, limit: int, until: float) -> bytes:
        """The same of what came behind a line, or by TLS."""
        if self.rest:
            piece, self.rest = self.rest[:limit], self.rest[limit:]
            return piece
        try:
            return await self.tls_call(until, self.tls.read, limit)
        except TlsEnd:
            return b''

    async def read_line(self, limit: int = 1024) -> bytes:
        """A line with its end; of limit octets, or before the peer's end, without."""
        line = b''
        while b'\n' not in line and len(line) < limit:
            piece = await self.read_some(limit - len(line))
            if not piece:
                return line
            line += piece
        end = line.find(b'\n') + 1 or len(line)
        self.rest = line[end:] + self.rest
        return line[:end]

    async def read_exact(self, count: int) -> bytes:
        """count octets; raises ConnectionError if the peer ends before."""
        data = bytearray()
        while len(data) < count:
            piece = await self.read_some(min(count - len(data), 65536))
            if not piece:
                raise ConnectionResetError('the peer ended too early')
            data += piece
        return bytes(data)

    async def read_most(self, count: int) -> bytes:
        """Up to count octets: what comes before the peer's end or the deadline."""
        data = bytearray()
        with contextlib.suppress(OSError):
            while len(data) < count:
                piece = await self.read_some(count - len(data))
                if not piece:
                    break
                data += piece
        return bytes(data)

    def write_all(self, data: bytes):
        return self.write_tls(data) if self.tls else self.write_raw(data)

    async def write_tls(self, data):
        while data:
            data = data[await self.tls_call(self.deadline, self.tls.write, data):]

    async def write_raw(self, data):
        while data:
            if self.clock() >= self.deadline:
                raise socket.timeout('timed out')
            try:
                data = data[self.own.send(data):]
            except BlockingIOError:
                await socket_ready(self.socks, select.POLLOUT, self.deadline)

    async def start_tls(self, anonymous: bool = False):
        """Speak TLS from now on; nothing that the peer shows is verified.

        anonymous   Diffie-Hellman without certificates, TLS 1.2 at most
        raises      Unable if the local library refuses, ConnectionError 'TLS: ...'
        """
        ssl, context = tls_library(), tls_context(anonymous)
        begun = self.clock()
        if self.gate:
            await self.gate.enter()
            self.deadline += self.clock() - begun
        try:
            self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.held = bytearray()
            tls = context.wrap_bio(self.incoming, self.outgoing)
            await self.tls_call(self.deadline, tls.do_handshake)
            self.tls = tls
        finally:
            if self.gate:
                self.gate.leave()

    async def tls_call(self, until, act, *args):
        """An operation of the TLS library, with the reads and writes that it asks for.

        By memory buffers, so that no peer can keep it busy beyond the deadline or TLS_MAX.
        """
        ssl, taken = tls_library(), 0
        while True:
            try:
                result = act(*args)
                await self.write_raw(self.outgoing.read())
                return result
            except ssl.SSLWantReadError:
                await self.write_raw(self.outgoing.read())
            except ssl.SSLError as error:
                raise ConnectionError('TLS: ' + tls_reason(error)) from None
            if taken > TLS_MAX:
                raise ConnectionError('TLS: %d octets without end' % TLS_MAX)
            self.piece = await self.receive(TLS_PIECE, until)
            if not self.piece:
                raise TlsEnd('TLS: the peer ended')
            taken += len(self.piece)
            self.incoming.write(self.release(self.piece))

    def release(self, piece) -> bytes:
        """Octets of the peer -> those that the library may see now.

        A group that OpenSSL offers by itself, and a server may ask for, costs 192 ms of CPU
        (ffdhe8192): the talk ends before.  raises ConnectionError
        """
        if self.held is None:
            return piece
        self.held += piece
        tls = self.held[0] in (TLS_CHANGE, TLS_ALERT, TLS_HANDSHAKE)
        message = first_message(self.held) if tls else b''
        if message is None and not only_alerts(self.held):
            return b''
        free = bytes(self.held)
        if message is None:                 # the library knows what alerts mean
            self.held.clear()
            return free
        self.held = None
        if retry_group(message) in FFDHE:
            raise ConnectionError('TLS: the server asks for a finite-field group, 0x%04x'
                                  % retry_group(message))
        return free

    def close(self):
        """Reset the connection: no TIME_WAIT is left."""
        if self.home:
            self.home(self.own)
            self.home, self.own = None, CLOSED
            self.socks = CLOSED,
        else:
            self.own.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


async def connect_tcp(host: str, port: int, timeout_ms: float, source: str = '', *more):
    """A new connection -> TalkSocket; more: its clock and gate."""
    sock = new_tcp_socket(source)
    try:
        talk = TalkSocket(sock, timeout_ms, *more)
        await talk.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return talk


def blocking(name: str):
    """A coroutine of TalkSocket -> a method of TimedSocket that waits for its end."""
    def call(self, *args, **named):
        return drive(getattr(self.talk, name)(*args, **named))
    call.__name__, call.__doc__ = name, getattr(TalkSocket, name).__doc__
    return call


class TimedSocket:
    """A TalkSocket for threads: each of its methods waits until it is done."""
    __slots__ = ('talk',)

    def __init__(self, host: str, port: int, timeout_ms: float, source: str = ''):
        self.talk = drive(connect_tcp(host, port, timeout_ms, source))

    read_some, read_line = blocking('read_some'), blocking('read_line')
    read_exact, read_most = blocking('read_exact'), blocking('read_most')
    write_all, start_tls = blocking('write_all'), blocking('start_tls')

    @property
    def deadline(self) -> float:
        """When the time is up, by time.monotonic()."""
        return self.talk.deadline

    @deadline.setter
    def deadline(self, when: float):
        self.talk.deadline = when

    @property
    def tls(self):
        """ssl.SSLObject, once TLS is spoken; else None."""
        return self.talk.tls

    @property
    def piece(self) -> bytes:
        """Last octets that came for TLS, as they came."""
        return self.talk.piece

    @property
    def sock(self):
        """The socket, which does not block."""
        return self.talk.sock

    def extend(self, timeout_ms: float):
        """A new deadline, from now."""
        self.talk.extend(timeout_ms)

    def close(self):
        """Reset the connection: no TIME_WAIT is left."""
        self.talk.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def new_tcp_socket(source: str):
    """A socket that does not block, and whose close() resets.

    source  own address, '' = the kernel's choice
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # RFB in TLS: 40 ms less a talk
        if source:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
    except OSError:
        sock.close()
        raise
    return sock


# ==== 5 Module registry ===============================================================
#
# A module is a function check(target, out, options) under @module.  With `async def` it is a
# coroutine: thousands of them talk at once in the engine's own thread, between its turns.  Without
# `async` it is straight blocking code, and runs on a module thread.
#   target   .host (text), .port, .connect(timeout_ms) -> TalkSocket, to be awaited; without
#            `async`: TimedSocket; '%s' of it is ip:port
#   out      Out: str, bit, int32, int64, data, file, later; an entry of its own is begun already
#   options  the declared options as attributes, set by -mcfg name.option=value
#   returns  a filter: False drops the result, for all modules; others: None, or (kind, word), of
#            which the end prints the most frequent: ('services', 'ssh')
# A coroutine awaits the methods of its sockets and socket_ready(), and nothing else.
# first=True in @module: the first connect() of a coroutine gives the connection by which the scan
# found the port open, if that still stands; the first module of a result that asks gets it.
# waits=False in @module says that it only computes, and never waits: it runs where the result is
# found, without a thread, if all modules of a scan are like that, or coroutines.
# An OSError (timeout, reset) that it lets through is counted by reason, anything else is counted
# and named as a bug; the scan goes on.  Unable is told the first time, too.

Module = collections.namedtuple('Module', [
    'name',         # as in -mod
    'check',        # the function
    'options',      # {name: (default, help)}; the default's type is the option's, or with a third
                    # field (default, help, parse), which may raise ValueError('what is expected')
    'codes',        # {code: name} that it writes to the CBA
    'filter',       # True: runs before the others, may drop the result
    'aliases',      # other names in -mod and -mcfg
    'entry',        # module name in the CBA
    'help',         # first line of the docstring
    'waits',        # False: for nothing, neither the net nor a lock
    'sockets',      # options -> how many sockets it may have at once
    'first'])       # True: its first connection may be the one that the scan opened

MODULES = {}                        # name -> Module, in order of registration
CO_COROUTINE = 0x80                 # inspect(3): flag of the code of an `async def`


def one_socket(options) -> int:
    """Most modules have one connection at a time."""
    return 1


def module(name, options=None, codes=None, filter=False, aliases=(), entry=None, waits=True,
           sockets=one_socket, first=False):
    """Register the function below as a module."""
    def register(check):
        help = (check.__doc__ or '').strip().partition('\n')[0]
        MODULES[name] = Module(name, check, options or {}, codes or {}, filter, aliases,
                               name if entry is None else entry, help, waits, sockets, first)
        return check
    return register


def is_coroutine(each: Module) -> bool:
    """Whether a module is an `async def`."""
    code = getattr(each.check, '__code__', None)
    return code is not None and code.co_flags & CO_COROUTINE != 0


class Target:
    """An open port, as modules on threads see it; no tuple, so that '%s' % target works."""
    __slots__ = 'host', 'port', 'source', 'exclusions'

    def __init__(self, host, port, source, exclusions=None):
        self.host, self.port, self.source, self.exclusions = host, port, source, exclusions

    def __str__(self):
        return '%s:%d' % (self.host, self.port)

    def check(self):
        """Raises ConnectionError if it must not be talked to any more."""
        if self.exclusions and self.exclusions.bars(self.host):
            raise ConnectionAbortedError('excluded meanwhile (-xf)')

    def connect(self, timeout_ms):
        """A new connection to it; see TimedSocket."""
        self.check()
        return TimedSocket(self.host, self.port, timeout_ms, self.source)


class TalkTarget(Target):
    """An open port, as modules that are coroutines see it.

    talks   Talks that drive them; None: a thread does
    sock    the connection that the scan opened, until a module takes it; or None
    home    takes its socket when it is over; None: it is to be closed
    taken   TalkSocket of it, from then on
    first   whether the module that runs may take it
    """
    __slots__ = 'talks', 'sock', 'home', 'taken', 'first'

    def __init__(self, host, port, source, exclusions=None, talks=None, sock=None):
        super().__init__(host, port, source, exclusions)
        self.talks, self.sock, self.first = talks, sock, False
        self.home, self.taken = talks.take_home if sock and talks.scan else None, None

    @property
    def clock(self):
        """-> the time that deadlines of its talk are of, when called."""
        return self.talks.clock if self.talks else time.monotonic

    def blocking(self) -> Target:
        """The same for a module that is no coroutine."""
        return Target(self.host, self.port, self.source, self.exclusions)

    async def may_connect(self):
        """To be awaited before each connection: those of talks count in -r."""
        if self.talks:
            await self.talks.connects.enter()
            self.talks.opened += 1

    async def connect(self, timeout_ms):
        """A connection to it; see TalkSocket."""
        self.check()
        gate = self.talks.handshakes if self.talks else None
        if self.first and self.sock:
            sock, self.sock = self.sock, None
            self.taken = TalkSocket(sock, timeout_ms, self.clock, gate, self.home)
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.talks.taken += 1
                return self.taken
            self.taken.close()              # reset since, and with that what had come is lost
        await self.may_connect()
        return await connect_tcp(self.host, self.port, timeout_ms, self.source, self.clock, gate)

    def close(self):
        """No connection of the scan stays open, whether a module has taken it or not."""
        if self.sock:
            self.taken, self.sock = TalkSocket(self.sock, 0, home=self.home), None
        if self.taken:
            self.taken.close()


def find_module(name: str) -> Module:
    """Name or alias -> Module."""
    for each in MODULES.values():
        if name == each.name or name in each.aliases:
            return each
    raise UserError('module %r: not one of %s, nor a file (./name.py)'
                    % (name, ', '.join(MODULES)))


def distrust(status) -> str:
    """os.stat_result of a file -> '' if only the user or root could have written it; else why."""
    trusted = {os.geteuid(), 0}
    if os.geteuid() == 0 and os.environ.get('SUDO_UID', '').isdigit():
        trusted.add(int(os.environ['SUDO_UID']))
    if status.st_uid not in trusted:
        return 'its owner is user %d' % status.st_uid
    if status.st_mode & stat.S_IWOTH:
        return 'everyone may write to it'
    if status.st_mode & stat.S_IWGRP and status.st_gid != status.st_uid:
        return 'its group may write to it'      # a group with the owner's number is the owner's
    return ''


def read_trusted(path, what) -> bytes:
    """The bytes of a file that is to be run; the very file that is read is examined."""
    try:
        with open(path, 'rb') as file:
            reason = distrust(os.fstat(file.fileno()))
            if not reason:
                return file.read()
    except OSError as error:
        reason = why(error)
    else:
        reason = 'not run: %s (see chown, chmod)' % reason
    raise UserError('%s: %r: %s' % (what, path, reason))


def load_module_file(path: str) -> 'list[Module]':
    """Run a user's file -> the modules that it registered.

    `import cscan` in it gives this running program, whatever the program's file is called.
    """
    sys.modules.setdefault('cscan', sys.modules[__name__])
    source = read_trusted(path, 'argument -mod')
    before = dict(MODULES)
    space = types.ModuleType(os.path.splitext(os.path.basename(path))[0])
    space.__file__ = path
    try:
        exec(compile(source, path, 'exec'), space.__dict__)
    except SyntaxError as error:
        raise UserError('argument -mod: %r: line %s: %s'
                        % (path, error.lineno, printable(str(error.msg)))) from None
    except (Exception, SystemExit, KeyboardInterrupt) as error:     # all the user's to mend
        raise UserError('argument -mod: %r: %s: %s'
                        % (path, type(error).__name__, printable(str(error)))) from None
    found = [each for name, each in MODULES.items() if before.get(name) is not each]
    if not found:
        raise UserError('argument -mod: %r: registers no module with @cscan.module' % path)
    return found


def module_words(text: str) -> 'list[str]':
    """What stands in -mod."""
    return re.split(r'[,\s]+', text.strip(', \t\n'))


def is_module_file(word: str) -> bool:
    """Whether a word of -mod is the user's file."""
    return '/' in word or word.endswith('.py')


def load_modules(text: str) -> 'list[Module]':
    """'print,./mine.py' (commas or spaces) -> Modules, filters first."""
    found = []
    for word in module_words(text):
        for each in load_module_file(word) if is_module_file(word) else [find_module(word)]:
            if each not in found:
                found.append(each)
    return sorted(found, key=lambda each: not each.filter)


def parse_settings(text: str) -> 'dict[tuple[str, str], str]':
    """'a.x=1,2 b.y=3' -> {('a', 'x'): '1,2', ('b', 'y'): '3'}."""
    settings, key = {}, None
    for piece in re.findall(r'[^,\s]+', text):
        name, equals, value = piece.partition('=')
        if equals:
            key = tuple(name.partition('.')[::2])
            settings[key] = value
        elif key:
            settings[key] += ',' + piece
        else:
            raise UserError('argument -mcfg: %r: module.option=value was expected' % piece)
    return settings


def option_value(each: Module, option: str, value):
    """Default, or text of -mcfg -> the option's value."""
    default, _, parse = (each.options[option] + (None,))[:3]
    kind = parse or type(default)
    try:
        return kind(value)
    except ValueError as error:
        expected = str(error) if parse else 'a ' + {int: 'whole number', float: 'number'}.get(
            kind, kind.__name__)
        raise UserError('argument -mcfg: %s.%s=%r: %s was expected'
                        % (each.name, option, value, expected)) from None


def module_options(modules: 'list[Module]', text: str) -> 'dict[str, object]':
    """-mcfg text -> {module name: its options as attributes}."""
    options = {each.name: types.SimpleNamespace(
        **{name: option_value(each, name, each.options[name][0]) for name in each.options})
        for each in modules}
    for (name, option), value in parse_settings(text).items():
        if not option:
            raise UserError('argument -mcfg: %r: module.option=value was expected'
                            % (name + '=' + value))
        each = find_module(name)
        if option not in each.options:
            raise UserError('argument -mcfg: %r: module %s has %s' % (
                name + '.' + option, each.name, ', '.join(each.options) or 'no options'))
        value = option_value(each, option, value)
        if each.name in options:
            setattr(options[each.name], option, value)
    return options


def whole(low: int, high: int):
    """Parser of an option: text -> whole number from low to high."""
    def parse(text):
        value = int(text) if re.fullmatch('[0-9]{1,10}', str(text)) else -1
        if not low <= value <= high:
            raise ValueError('a whole number from %d to %d' % (low, high))
        return value
    return parse


def one_of(*words: str):
    """Parser of an option: text -> the same, one of these words."""
    def parse(text):
        if text not in words:
            raise ValueError('%s or %s' % (', '.join(words[:-1]), words[-1]))
        return text
    return parse


# ==== 6 Modules =======================================================================

# ---- print ----

@module('print', entry='', waits=False)
def check_print(target, out, options):
    """ip:port, one a line, on standard output or in the CBA."""
    out.str(str(target))


MILLISECONDS = whole(1, 3600000)


@contextlib.contextmanager
def noting(out, code):
    """An OSError inside becomes a bit of the entry, and goes on to be counted by its reason."""
    try:
        yield
    except OSError as error:
        if not is_local(error):
            out.bit(code)
        raise


def is_local(error: OSError) -> bool:
    """Want of descriptors, ports and such: it says nothing about the target."""
    return error.errno in LOCAL or error.errno in CLASH


# ---- checkcookie ----

COOKIE_PORTS = '40033,41019,36127,29438'    # nobody listens there, but for who listens everywhere
COOKIE_PORTS_MAX = 16
COOKIE_MEMORY_S = 60                        # how long a host's verdict holds
COOKIE_MEMORY_MAX = 4096                    # hosts
COOKIE_VERDICTS = {}                        # (host, ports asked) -> (answers them, until)


def port_list(text: str) -> 'tuple[int, ...]':
    """Parser of an option: '40033,41019' -> (40033, 41019)."""
    words = re.split(r'[,\s]+', text.strip(', '))
    if not all(re.fullmatch('[0-9]{1,5}', word) and 1 <= int(word) <= PORT_MAX for word in words):
        raise ValueError('ports 1-65535 with commas between')
    if len(words) > COOKIE_PORTS_MAX:
        raise ValueError('at most %d ports' % COOKIE_PORTS_MAX)
    return tuple(map(int, words))


async def any_accepts(target, ports, timeout_ms: float) -> bool:
    """Is one of these ports open?  All are asked at once, so that the host costs one timeout."""
    until, asked = target.clock() + timeout_ms / 1000, {}
    try:
        for port in ports:
            await target.may_connect()
            sock = new_tcp_socket(target.source)
            asked[sock] = target.host, port
            if sock.connect_ex(asked[sock]) != EINPROGRESS:     # others are known: not open
                del asked[sock]
                sock.close()
        while asked:
            await socket_ready(list(asked), select.POLLOUT, until)
            for sock, address in list(asked.items()):
                code = sock.connect_ex(address)
                if code in OPEN and not is_own_name(sock, address):
                    return True
                if code != EALREADY:
                    del asked[sock]
                    sock.close()
    except socket.timeout:
        pass
    finally:
        for sock in asked:
            sock.close()
    return False


async def answers_everything(target, options) -> bool:
    """Is an unlikely port of this host open?  Remembered, for hosts with many open ports."""
    ports = tuple(port for port in options.ports if port != target.port)
    key, now = (target.host, ports), time.monotonic()
    verdict, until = COOKIE_VERDICTS.get(key, (None, now))
    if until <= now:
        verdict = await any_accepts(target, ports, options.timeout)
        if len(COOKIE_VERDICTS) >= COOKIE_MEMORY_MAX:
            COOKIE_VERDICTS.clear()
        COOKIE_VERDICTS[key] = verdict, now + COOKIE_MEMORY_S
    return verdict


@module('checkcookie', filter=True, aliases=('cookie',), options={
    'ports': (COOKIE_PORTS, 'unlikely ports to ask', port_list),
    'timeout': (300, 'ms for all of them to answer', MILLISECONDS),
    'verify_timeout': (1000, 'ms for the open port to open again', MILLISECONDS)},
    sockets=lambda options: len(options.ports))
async def check_checkcookie(target, out, options):
    """Filter: drops hosts that answer on any port (SYN proxies, tar pits)."""
    return not await answers_everything(target, options) and await any_accepts(
        target, [target.port], options.verify_timeout)


# ---- rfb ----

RFB_VERSION = re.compile(rb'RFB ([0-9]{3})\.([0-9]{3})\n')  # RFC 6143 s7.1.1
RFB_U32 = struct.Struct('!I')               # RFC 6143 s7.1.2: length of a reason; type before 3.7
RFB_NONE, RFB_TLS, RFB_VENCRYPT = 1, 18, 19     # RFC 6143 s8.1.2: security types
RFB_REASON_MAX = 511                        # octets kept
RFB_TLS_S = 1.0                             # more time, for who speaks TLS
RFB_CODES = {1: 'CONN_FAIL', 2: 'BANNER_FAIL', 3: 'READ_FAIL', 4: 'WRITE_FAIL', 5: 'REASON',
             6: 'WIN', 7: 'ONLY_TLS', 8: 'TLS_FAIL', 9: 'HAS_VENCRYPT'}
(RFB_CONN_FAIL, RFB_BANNER_FAIL, RFB_READ_FAIL, RFB_WRITE_FAIL, RFB_REASON, RFB_WIN, RFB_ONLY_TLS,
 RFB_TLS_FAIL, RFB_HAS_VENCRYPT) = RFB_CODES


def rfb_version(banner: bytes) -> 'tuple[int, int] | None':
    """Server's version line -> (major, minor) that we answer; None if it is none."""
    match = RFB_VERSION.fullmatch(banner)
    if not match:
        return None
    major, minor = map(int, match.groups())
    if (major, minor) in ((3, 14), (3, 16)):
        return major, minor - 10
    return min((major, minor), (3, 8))


async def read_rfb_reason(sock, out):
    """The server says why not -> REASON, cut at 511 octets."""
    size = RFB_U32.unpack(await sock.read_exact(RFB_U32.size))[0]
    text = await sock.read_most(min(size, RFB_REASON_MAX))
    if size and not text:
        raise ConnectionResetError('the peer ended too early')
    out.str('Error: ' + text.decode('latin-1'), RFB_REASON)


async def read_rfb_types(sock, out) -> 'set[int]':
    """The security types that the server offers, none after a reason (RFC 6143 s7.1.2)."""
    with noting(out, RFB_READ_FAIL):
        count = (await sock.read_exact(1))[0]
        if not count:
            await read_rfb_reason(sock, out)
        return set(await sock.read_exact(count))


async def check_rfb_tls(sock, out):
    """Type 18 is all there is: what does it offer below TLS?"""
    out.bit(RFB_ONLY_TLS)
    with noting(out, RFB_WRITE_FAIL):
        await sock.write_all(bytes([RFB_TLS]))
    sock.deadline += RFB_TLS_S
    with noting(out, RFB_TLS_FAIL):
        await sock.start_tls(anonymous=True)
    if RFB_NONE in await read_rfb_types(sock, out):
        out.bit(RFB_WIN)


async def check_rfb_old(sock, out):
    """Up to version 3.6 the server chooses the security type."""
    with noting(out, RFB_READ_FAIL):
        kind = RFB_U32.unpack(await sock.read_exact(RFB_U32.size))[0]
        if kind == 0:
            await read_rfb_reason(sock, out)
    if kind == RFB_NONE:
        out.bit(RFB_WIN)


@module('rfb', codes=RFB_CODES, first=True, options={
    'conn_timeout': (2000, 'ms to connect', MILLISECONDS),
    'read_timeout': (4500, 'ms for the whole talk', MILLISECONDS)})
async def check_rfb(target, out, options):
    """VNC: does it let in without a password (WIN)?  Never logs in."""
    out.later('vnc://%s' % target)
    with noting(out, RFB_CONN_FAIL):
        sock = await target.connect(options.conn_timeout)
    with sock:
        sock.extend(options.read_timeout)
        banner = await sock.read_most(12)
        if not banner:
            raise ConnectionResetError('no greeting')
        version = rfb_version(banner)
        if not version:
            return out.data(banner, RFB_BANNER_FAIL)
        with noting(out, RFB_WRITE_FAIL):
            await sock.write_all(b'RFB %03d.%03d\n' % version)
        if version[1] <= 6:
            return await check_rfb_old(sock, out)
        types = await read_rfb_types(sock, out)
        for code, kind in ((RFB_WIN, RFB_NONE), (RFB_HAS_VENCRYPT, RFB_VENCRYPT)):
            if kind in types:
                out.bit(code)
        if types == {RFB_TLS}:
            await check_rfb_tls(sock, out)


# ---- x11 ----

X11_SETUP = b'l\0' b'\x0b\0' b'\0\0' b'\0\0\0\0' b'\0\0'    # X11 s8: order, 11.0, no keys
X11_CODES = {1: 'CONN_FAIL', 2: 'READ_FAIL', 3: 'WRITE_FAIL', 4: 'GOOD', 5: 'KINDA_GOOD'}
X11_CONN_FAIL, X11_READ_FAIL, X11_WRITE_FAIL, X11_GOOD, X11_KINDA_GOOD = X11_CODES


@module('x11', codes=X11_CODES, first=True, options={
    'conn_timeout': (2000, 'ms to connect', MILLISECONDS),
    'read_timeout': (4000, 'ms for the whole talk', MILLISECONDS)})
async def check_x11(target, out, options):
    """X servers that let in everybody (GOOD)."""
    out.later('x11://%s' % target)
    with noting(out, X11_CONN_FAIL):
        sock = await target.connect(options.conn_timeout)
    with sock:
        sock.extend(options.read_timeout)
        with noting(out, X11_WRITE_FAIL):
            await sock.write_all(X11_SETUP)
        with noting(out, X11_READ_FAIL):
            accepted = await sock.read_exact(1) == b'\1'
        if accepted:
            rest = await sock.read_most(5)  # unused, major, minor; little-endian, as we asked
            is_x11 = len(rest) == 5 and rest[1] == 11
            out.bit(X11_GOOD if is_x11 else X11_KINDA_GOOD)


# ---- services ----
#
# What speaks there, by its first words: a row is name, product, pattern of those octets as
# Latin-1, with two spaces or more between.  The first that matches wins, so products stand before
# their service.
#   name     with @ behind it: only in answer to the probe of that name
#   product  - if the row does not know it
#   pattern  (<v>...) is the version, (<p>...) the product, (<d>...) what else is worth a line; its
#            first octet must always stand there as it is, or be open (. [ ( \d \S); a line that
#            begins with spaces goes on
# Sources: the specifications (RFC 959, 1939, 2326, 3261, 3501, 3977, 4253, 5321, 6120, 9112 ...),
# documents of the products' protocols, and what our own servers said.

SERVICE_TABLE = r"""
ssh             OpenSSH      SSH-[\d.]+-OpenSSH_(<v>[\w.]+)(?:[- ](<d>[^\r\n]+))?
ssh             Dropbear     SSH-[\d.]+-dropbear(?:_(<v>[\w.]+))?
ssh             libssh       SSH-[\d.]+-libssh[_-](<v>[\w.]+)
ssh             Cisco        SSH-[\d.]+-Cisco-(<v>[\d.]+)
ssh             RouterOS     SSH-[\d.]+-ROSSSH
ssh             -            SSH-[\d.]+-(<p>AsyncSSH|paramiko|Twisted|Go|[A-Za-z]\w*SSHD?)(?:[_-]
                             (<v>[\d.]+))?
ssh             -            SSH-[\d.]+-(<d>[^\r\n]*)
vnc             -            RFB (<d>\d{3}\.\d{3})\n
telnet          RouterOS     (?:\xff..)*[^\xff]*?MikroTik v(<v>[\d.]+)
telnet          Cisco IOS    (?:\xff[\xfb-\xfe].)*\s*User Access Verification
telnet          BusyBox      \xff.*?BusyBox v(<v>[\d.]+)
telnet          -            \xff[\xfa-\xfe].(?:\xff..)*\s*(<d>[^\xff\r\n]*)
dict            dictd        220 [^\r\n]*?dictd (<v>[\d.]+)/
dict            -            220 \S+ [^\r\n]*<[\w.]*> <[^\r\n]*>
svdrp           VDR          220 \S+ SVDRP VideoDiskRecorder (<v>[\d.]+)
ftp             vsFTPd       220[ -]\(?vsFTPd (<v>[\d.]+)
ftp             ProFTPD      220[ -](?:\[?\S+\]? )?ProFTPD (?:(<v>\d[\w.]+) )?Server
ftp             Pure-FTPd    220[ -][^\n]*Pure-FTPd
ftp             FileZilla    220[ -]FileZilla Server (?:version )?(<v>[\d.]+)
ftp             Microsoft    220[ -][^\r\n]*Microsoft FTP Service(?: \(Version (<v>[\d.]+)\))?
ftp             pyftpdlib    220[ -][^\r\n]*pyftpdlib (<v>[\d.]+)
smtp            Postfix      220[ -]\S+ ESMTP Postfix(?: \(?(<v>\d[\w.]*)\)?)?(?: \((<d>[^)]*)\))?
smtp            Exim         220[ -]\S+ ESMTP Exim (<v>[\w.]+)
smtp            Sendmail     220[ -]\S+ ESMTP Sendmail (<v>[\d.]+)
smtp            Exchange     220[ -]\S+ Microsoft ESMTP MAIL Service(?:, Version: (<v>[\d.]+))?
smtp            -            220[ -]\S+ ESMTP (<p>OpenSMTPD|Haraka|hMailServer|MailEnable|aiosmtpd)
smtp            -            (?:220|421|554)[ -][^\r\n]*E?SMTP(?:[^\n]*\n)*
tor-control     Tor          (?:250[ -][^\n]*\n)+?250-VERSION Tor="(<v>[\d.]+)
tor-control     Tor          (?:250-PROTOCOLINFO|514 Authentication required)
smtp            -            [25]\d\d[ -][^\n]*\n(?:[^\n]*\n)*(?:214|250|502|500|503)[ -]2?5?\.?
                             [^\n]*(?:HELO|EHLO|[2-5]\.\d\.\d)
ftp             -            220[ -][^\n]*(?:FTP|[Ff]ile [Tt]ransfer)
ftp             -            220[ -][^\n]*\n(?:[^\n]*\n)*(?:214|530)[ -][^\n]*(?:commands|log ?in
                             |USER)
smtp            -            220[ -][^\n]*[Mm]ail
pop3            Dovecot      \+OK (?:\[[^]]*\] )?Dovecot(?: \((<d>[^)]*)\))?
pop3            Cyrus        \+OK [^\r\n]*Cyrus POP3 v?(<v>[\d.]+)
pop3            Exchange     \+OK (?:The )?Microsoft Exchange
pop3            -            \+OK (?:\[[^]]*\] )?(<p>Courier|Qpopper|Zimbra|Lotus)?
imap            Dovecot      \* (?:OK|PREAUTH) (?:\[[^]]*\] )?Dovecot(?: \((<d>[^)]*)\))?
imap            Cyrus        \* OK [^\r\n]*Cyrus IMAP v?(<v>[\d.]+)
imap            Courier      \* OK [^\r\n]*Courier-IMAP
imap            Exchange     \* OK (?:The )?Microsoft Exchange
imap            -            \* (?:OK|PREAUTH|BYE|BAD)(?:[ \r])
nntp            INN          20[01] [^\r\n]{0,200}InterNetNews[^\r\n]{0,200}INN (<v>[\d.]+)
nntp            -            20[01] [^\r\n]*(?:NNTP|[Nn]ews)
sieve           -            (?:"[A-Z]+"[^\n]*\n){0,20}?"IMPLEMENTATION" "(<p>[^\d"]{0,60}
                             [^\d" v])(?: v?(<v>\d[\w.]{0,20}))?[^"]*"
sieve           -            "(?:STARTTLS|SIEVE|SASL|VERSION)"
http            ClickHouse   HTTP/1\.0 400 Bad Request\r\n\r\nPort \d+ is for clickhouse-client
http            -            HTTP/[\d.]+ \d{3}
http            -            <(?:!DOCTYPE|!doctype|html|HTML|head|HEAD)
smart-install   Cisco        \0\0\0\x04\0\0\0\0\0\0\0\x03\0\0\0\x08
http2           -            \0\0[\0-\x40]\x04\0\0\0\0\0
rtsp            -            RTSP/1\.0 \d+[^\n]*\n(?:[^\n]*\n)*?Server: (<p>[^/\r\n]+)(?:/(<v>
                             [\w.]+))?
rtsp            -            RTSP/[\d.]+ \d+
sip             -            SIP/2\.0 \d+[^\n]*\n(?:[^\n]*\n)*?(?:Server|User-Agent): (<p>
                             [^/\r\n]+)(?:/(<v>[\w.]+))?
sip             -            SIP/2\.0 \d+
icap            -            ICAP/1\.0 \d+[^\n]*\n(?:[^\n]*\n)*?Server: (<p>[^/\r\n]+)(?:/(<v>
                             [\w.]+))?
icap            -            ICAP/1\.0 \d+
irc             InspIRCd     :\S+ .* 004 \S+ \S+ InspIRCd-(<v>\d[\w.]*)
irc             ngIRCd       :\S+ .* 00[24] .*ngircd-(<v>\d[\w.]*)
irc             -            :\S+ (?:NOTICE|020|451|433|421|CAP|464)(?: |\r)
irc             -            ERROR :(<d>[^\r\n]*)
irc             -            NOTICE (?:AUTH|\*) :
rsync           -            @RSYNCD: (<d>[\d.]+)
svn             -            \( success \( \d+ \d+ \(
asterisk        Asterisk Call Manager  Asterisk Call Manager/(<v>[\d.]+)
teamspeak       TeamSpeak 3  TS3\n\r?
check-mk        Checkmk      <<<check_mk>>>\r?\nVersion: (<v>[\w.]+)
pjlink          -            PJLINK [01]
freeswitch      FreeSWITCH   Content-Type: auth/request\n
openvpn-control  OpenVPN     (?:>INFO:OpenVPN Management|ENTER PASSWORD:)
varnish         Varnish      107 \d+ *\n[a-z]{32}\n
mpd             Music Player Daemon  OK MPD (<v>[\d.]+)
munin           Munin node   # munin node at (<d>\S+)
nats            nats-server  INFO \{[^\n]*"version":"(<v>[^"]+)"
nats            -            INFO \{"
gpsd            gpsd         \{"class":"VERSION","release":"(<v>[^"]+)"
hddtemp         hddtemp      \|/dev/(<d>[^\r\n]*)
mysql           MariaDB      .{3}\0\n(?:5\.5\.5-)?(<v>\d+\.[\d.]+)-MariaDB(?:-(<d>[^\0]*))?\0
mysql           MySQL        .{3}\0\n(<v>\d+\.\d[^\0]*)\0
mysql           MariaDB      .{3}\0\xff..(?:#.....)?(<d>[^\0]*MariaDB[^\0]*)
mysql           -            .{3}\0\xff..(?:#.....)?(<d>(?:Host|Too many|Access)[^\0]*)
mysqlx          MySQL        \x05\0\0\0\x0b\x08\x05\x1a\0
tarantool       Tarantool    Tarantool (<v>[\d.]+)
openwire        ActiveMQ     .{4}\x01ActiveMQ.*ProviderVersion\x09\0.(<v>\d[\w.]*)
openwire        ActiveMQ     .{4}\x01ActiveMQ
zeromq          -            \xff.{8}\x7f
ica             Citrix       \x7f\x7fICA\0
nbd             -            NBDMAGIC
ndmp            -            \x80\0\0.\0\0\0.{5}\0\0\0[\0\x01]\0\0\x05\x02
bandwidth-test@  RouterOS     \x01\0\0\0\Z
chargen         -            .{0,2}!"\#\$%&'\(\)\*\+,-\./0123456789:;
gopher          -            [i013][^\t\r\n]*\t[^\t\r\n]*\t[^\t\r\n]*\t\d+\r\n
git             -            [0-9a-f]{4}ERR (<d>[^\n]*)
xmpp            -            (?:<\?xml[^>]*\?>\s*)?<(?:stream:stream|stream:error|open )
redis           Valkey       [$=]\d+\r\n(?:txt:)?\# Server\r\n(?:[^\n]*\n)*?valkey_version:
                             (<v>[\d.]+)
redis           Redis        [$=]\d+\r\n(?:txt:)?\# Server\r\n(?:[^\n]*\n)*?redis_version:
                             (<v>[\d.]+)
redis           Redis        -(?:NOAUTH|DENIED|MISCONF) (<d>[^\r\n]*)
redis           Redis        -ERR (?:unknown command|wrong number of arguments
                             |operation not permitted|unknown RESP)
memcached       memcached    (?:ERROR\r\n)*VERSION (<v>[\d.]+)
memcached       memcached    ERROR\r\n(?:ERROR\r\n|\Z)
beanstalkd      beanstalkd   OK \d+\r\n---\n(?:[^\n]*\n)*?version: "?(<v>[\w.]+)
beanstalkd      beanstalkd   (?:OK \d+\r\n---\n|UNKNOWN_COMMAND\r\n)
clamd           -            (<p>ClamAV|Scanner) (<v>[\d.]+)
clamd           -            (?:PONG\0|UNKNOWN COMMAND)
gearman@        gearmand     OK (<v>[\d.]+)
pjl             -            @PJL INFO ID\r?\n"?(<p>[^"\r\n]+)
zookeeper       ZooKeeper    Zookeeper version: (<v>[\d.]+)
zookeeper       ZooKeeper    (?:srvr|ruok) is not executed
stomp           -            (?:CONNECTED|ERROR)\r?\n(?:[^\n]*\n)*?server:(<p>[A-Za-z-]+)/(<v>
                             [\d.]+)
stomp           -            (?:CONNECTED\r?\n|ERROR\r?\n(?:[^\n]+\n)*?(?:version|message
                             |content-type):)
scpi@           -            (<p>[^,\n]+,[^,\n]+),[^,\n]*,(<v>[^\n,]+)\r?\n
lscp@           -            DESCRIPTION: (<p>[^\r\n]*)\r\nVERSION: (<v>[\w.]+)
rotctl@         -            [^\n]*\n
nut@            Network UPS Tools  Network UPS[^\n]*?(?:upsd (<v>[\d.]+)|server|\n)
apcupsd@        apcupsd      \0.(?:APC|STATUS)\b
finger@         -            (?:Login|finger|[Nn]o (?:one|such)|\r\nWelcome to Linux|Line)
ident@          -            \d+ ?, ?\d+ ?: ?(?:ERROR|USERID) ?:
whois@          -            [^\n]*(?:[Nn]o |%|\#|whois|WHOIS|domain|Domain|\[)
tcpmux@         -            [\w-]+\r\n
daytime@        -            [^\n]*\d\d:\d\d:\d\d[^\n]*\r?\n?\Z
time@           -            .{4}\Z
qotd@           -            [ -~\r\n\t]+\Z
lpd@            -            (?:\0|no entries|[^\n]*(?:queue|printer|lpd))
flash-policy    -            <\?xml[^>]*\?>\s*(?:<!DOCTYPE cross[^>]*>\s*)?<cross-domain-policy
cgminer         -            \{"STATUS":\[.*?"Description":"(<p>[a-z]+miner) (<v>[\d.]+)"
cgminer         -            \{"STATUS":\[
stratum         -            \{"id": ?1,.*"(?:error|result)"
minecraft       -            .{1,6}\{.*?"version":\{"name":"(?:(<p>[A-Z]\w+) )?(<v>\d[\w.]*)"
minecraft       -            .{1,6}\{"(?:description|players|version)"
aerospike       Aerospike    \x02\x01.{6}build\t(<v>[\d.]+)
amqp            -            \x01\0\0.{4}\0\n\0\n.{0,400}?\x07productS.{4}(<p>\w[\w +-]*?)
                             \x08platform.{0,400}?\x07versionS.{4}(<v>[\d.]+)
amqp            -            \x01\0\0.{4}\0\n\0\n.{0,800}?\x07productS\0\0\0.(<p>
                             \w[\w +-]*)\x07versionS\0\0\0.(<v>[\d.]+)
amqp            -            \x01\0\0.{4}\0\n\0\n.*?\x07versionS\0\0\0.(<v>[\d.]+)
amqp            -            (?:\x01\0\0.{4}\0\n\0\n|AMQP[\0-\x03])
cassandra       Apache Cassandra  [\x81-\x85]...?\x06.*\x0bCQL_VERSION\0\x01\0.(<d>[\d.]+)
cassandra       Apache Cassandra  [\x81-\x85]\0..\0\0\0\0.
couchbase       -            \x81[\x0b\x20].{14}.{8}(<v>\d[\w.]*)?
drda            -            ..\xd0[\x02\x03\x42\x43]..\0.\x14\x43
epmd            -            \0\0\x11\x11(<d>(?:name [^\n]*\n)*)
firebird        Firebird     \0\0\0(?:\x03|\x5e|\x62)\0\0
kafka@          -            \0\0..cscn\0
mongodb         MongoDB      .{4}....cscn(?:\xdd\x07|\x01\0)\0\0.*?\x02version\0....(<v>\d[\w.-]*)
                             \0
mongodb         MongoDB      .{4}....cscn(?:\xdd\x07|\x01\0)\0\0
mongodb         MongoDB      HTTP/1\.0 200 OK[^<]*It looks like you are trying to access MongoDB
mqtt            -            \x20\x02[\0\x01]\0.*\$SYS/broker/version(<p>\w+) version (<v>[\d.]+)
mqtt            -            \x20[\x02-\x40][\0\x01][\0-\x05\x80-\x9f]
mssql           Microsoft SQL Server  \x04\x01..\0\0.\0.{0,40}?\0\0.\0\x06
neo4j           Neo4j        \0\0[\0-\x20][\x01-\x06]\Z
oracle          -            \0.\0\0[\x02\x04\x05\x0b]\0\0\0
postgresql      PostgreSQL   N?E\0\0..S[^\0]+\0(?:V[^\0]+\0)?C\w{5}\0M(<d>[^\0]*)
postgresql@     PostgreSQL   [NS]\Z
pulsar          -            \0\0..\0\0..\x08\x03\x1a.\x0a.(<p>[\w ]*?)-? ?(<v>\d[\d.]+)
rethinkdb       RethinkDB    \{(?:[^}]*)"server_version": ?"(<v>[\w.]+)
riak            Riak         \0\0\0.\x08\x0a.(<d>[^\x12]*)\x12.(<v>[\w.-]+)
thrift          -            (?:\0\0\0.)?\x80\x01\0[\x02\x03]\0\0\0\x04cscn
zookeeper-jute  ZooKeeper    \0\0\0[\x24\x25]\0\0\0\0
kerberos        -            \0\0..[\x7e\x6b]
ldap            OpenLDAP     0.{1,5}\x02\x01\x01d.*OpenLDAProotDSE
ldap            Active Directory  0.{1,5}\x02\x01\x01d.*1\.2\.840\.113556\.1\.4\.800
ldap            -            0.{1,5}\x02\x01\x01d.*vendorVersion.{2,6}(<p>[\w -]+)/(<v>[\d.]+)
ldap            -            0(?:[\0-\x7f]|\x81.|\x82..|\x84....)\x02\x01\x01[\x61\x64\x65\x73\x78]
msrpc           -            \x05\0[\x0c\x0d]\x03\x10\0\0\0
smb             -            \0...\xfeSMB
smb             -            \0...\xffSMB
rpc             -            \x80\0\0.cscn\0\0\0\x01
rdp             xrdp         \x03\0\0\x13\x0e\xd0\0\0\x124\0\x02\x01\x08\0[\0\x01]\0\0\0\Z
rdp             -            \x03\0\0[\x0b\x13].\xd0
x11             -            [\0\x02].\x0b\0\0\0..(<d>[ -~]*)
x11             -            \x01\0\x0b\0\0\0..(?:.{32})(<d>[ -~]{4,})
adb             -            (?:CNXN.{20}(<d>[^\0]*)|AUTH|STLS)
jdwp            -            JDWP-Handshake(?:.{27}(<d>[ -~]*))?
java-rmi        -            N\0.[\w.:-]+
ajp13           -            AB\0\x01\x09
rtmp            -            \x03.{1536}
socks5@         -            \x05[\0-\x02\x05\xff]
socks4          -            \0[\x5a-\x5d]\0\0.{4}
pptp            -            \0\x9c\0\x01\x1a\x2b\x3c\x4d\0\x02.{18}(?=(<d>[^\0]{0,63})).{64}
                             (<p>[A-Za-z][ -~]{0,63})?
openvpn         -            \0[\x0e\x1a]\x40.{8}
dns             -            \0.cs[\x80-\x8f].*\x07version\x04bind.{12,20}(<d>\d[\w. -]+)
dns             -            \0.cs[\x80-\x8f]
stun            -            \x01\x01..\x21\x12\xa4\x42
spice           -            REDQ
teamviewer      -            \x17\x24\x11\x04
bitcoin         -            .{4}version\0.{92,101}?/(<p>[^/:]+):(<v>[\d.]+)
bitcoin         -            .{4}(?:version|verack|reject)\0
bittorrent      -            \x13BitTorrent protocol
afp             Netatalk     \x01\x03\0.\0\0\0\0.*?Netatalk(<v>[\d.]+)?
afp             -            \x01\x03\0.\0\0\0\0
giop            -            GIOP\x01[\0-\x03]
iscsi           -            \x23[\x80-\x87].\0.{12}
msmq            -            \x10.\x0b\0LIOR
bgp             -            \xff{16}\0[\x13-\xff][\x01\x03]
diameter        -            \x01\0..[\0-\x3f]\0\x01\x01
dicom           -            [\x02\x03\x07]\0\0\0[\0\x01].
smpp            -            \0\0\0\x10\x80\0\0[\x15\0]\0\0
weblogic        WebLogic     HELO:(<v>\d+(?:\.\d+)*)
zabbix          Zabbix       ZBXD[\x01\x03].{8}(<v>\d[\w.]*)?
nrpe            NRPE         \0[\x02-\x04]\0\x02.{12}NRPE v(<v>[\d.]+)
nrpe            NRPE         \0[\x02-\x04]\0\x02
nje             -            [\xd5\xd6][\xc1\xd7][\xd2\xc5]
distcc          distccd      DONE0000000[1-3]
checkpoint      Check Point  Y\0\0\0\0\0\0.(<d>CN=[^\0]*)?
atg             -            \x01\r\nI\d+\r\n
codesys         CODESYS      (?:\xbb\xbb|\xbb).{60,70}?(<d>[ -~]{3,40})\0.{0,64}?
                             (<p>[A-Z][ -~]{3,30}?)\x20(<v>\d[\w.]{0,20})\0
codesys         CODESYS      \xbb\xbb
crimson         Red Lion     \0.\x01\x2b\x1b\0(<d>[^\0]*)
dnp3            -            \x05\x64.[\0-\x4f]
ethernet-ip     -            c\0.{52}(?:[^A-Za-z].){0,3}.*?(<p>[A-Za-z][ -~]{2,})
ethernet-ip     -            c\0..\0\0
fins            Omron        FINS\0\0\0.
fox             -            fox a .*?app\.name=s:(<p>[^\n]*)\napp\.version=s:(<v>[\w.]+)
fox             -            fox a \d
ge-srtp         GE           \x01\0{7}\x0f\0
hart-ip         -            \x01\x01[\0\x03]\0\0
iec104          -            h\x04[\x83\x0b\x23]\0\0\0
melsec          Mitsubishi   \xd0\0\0\xff\xff\x03\0..\0\0(<d>[ -~]{3,16})?
modbus          -            cs\0\0\0..\x2b\x0e.{4,5}?\0.(<p>[ -~]{1,64})
                             (?:\x01.[ -~]{0,64})?\x02.(<v>[ -~]{1,64})
modbus          -            cs\0\0\0.[\0-\xff][\x2b\xab]
opcua           -            (?:ACKF|ERRF).\0\0\0
pcom            Unitronics   (?:..e\0..)?/A\d\dID(<d>\w+)
pcworx          Phoenix Contact  \x81\x01\0\x14
proconos        ProConOS     \xcc\x01\0.\x40\x42.{7}(<d>[ -~]+)
s7              -            \x03\0\0[\x0b-\x20].\xd0
gh0st           -            Gh0st.\0\0\0
gdb@            -            \+?\$(<d>[^;\#]*)[^\#]*\#[0-9a-f]{2}
ibm-mq          IBM MQ       TSH[ MP]\0\0..[\x01\x02][\x01-\x0f]
ibm-mq          IBM MQ       \xe3\xe2\xc8[\x40\xd4\xd7]\0\0..[\x01\x02][\x01-\x0f]
lcdproc         LCDproc      connect LCDproc (<v>\S+) protocol (<d>\S+)
nsca@           -            .{132}\Z
nsclient@       NSClient++   NSClient\+\+ (<v>[\d.]+)
nsclient@       -            ERROR: (?:Invalid|Wrong) password
radmin@         Radmin       \x01\0\0\0[\x09-\x7f].{4}\x08
rustdesk@       RustDesk     [\x08-\x3c]\xaa\x01
sane@           -            \0\0\0[\0-\x0b]\x01[\0-\x0f]\0[\0-\x0f]
spamd           -            SPAMD/(<d>[\d.]+) \d
tor-or          Tor          \0\0\x07\0[\x02-\x40]\0[\x01-\x0f]
ssl             -            [\x14-\x17]\x03[\0-\x04]\0
"""
HTTP_PRODUCTS = r"""
Jenkins         \nX-Jenkins: (<v>[\d.]+)
InfluxDB        \nX-Influxdb-Version: v?(<v>[\d.]+)
Elasticsearch   "number" : "(<v>[\d.]+)".{0,400}?"lucene_version"
CouchDB         \{"couchdb":"Welcome","version":"(<v>[^"]+)"
Kibana          \nkbn-name:
Proxmox         \nServer: pve-api-daemon/(<v>[\d.]+)
MikroTik        <h1>RouterOS v?(<v>[\d.]+)
CUPS            \nServer: CUPS/(<v>[\d.]+)
-               \nServer: (<p>[^/\r\n(]*[^/\r\n( ])(?:/v?(<v>\d[\w.-]*))?
"""


Service = collections.namedtuple('Service', [
    'name',
    'product', 'version', 'details',    # '' = not known
    'more'])                            # {code of the entry: text}, what only some services have


def table_rows(text: str) -> 'list[list[str]]':
    """Rows of a table above -> their columns; a line that begins with spaces goes on."""
    whole = re.sub('\n +', '', text.strip('\n'))
    return [re.split(' {2,}', line, maxsplit=2) for line in whole.split('\n')]


def compile_row(pattern: str):
    """A pattern of a table, compiled."""
    return re.compile(re.sub(r'\(<([vpd])>', r'(?P<\1>', pattern), re.S)


TOKEN = re.compile(r'\\x..|\\.|\[\^?(?:\\.|[^\]\\])*\]|\((?:\?:|<.>)?|.', re.S)
OCTETS = ''.join(map(chr, range(256)))


def split_group(pattern: str) -> 'tuple[list[str], str]':
    """A pattern that begins with a group -> its alternatives, what follows it."""
    depth, begin, parts = 0, 0, []
    for token in TOKEN.finditer(pattern):
        text = token.group()
        if depth == 1 and text in ('|', ')'):
            parts.append(pattern[begin:token.start()])
        depth += text.startswith('(') - (text == ')')
        if not depth:
            break
        if depth == 1 and (text == '|' or not begin):
            begin = token.end()
    return parts, pattern[token.end():]


def first_octets(pattern: str) -> str:
    """A pattern of a table -> octets that a match may begin with, '' = any."""
    token = TOKEN.match(pattern).group() if pattern else '.'
    parts, rest = split_group(pattern) if token[0] == '(' else ([], pattern[len(token):])
    if rest[:1] in list('*?{') or token in ('.', '^', '$') or token[:2] in ('\\A', '\\b', '\\Z'):
        return ''
    firsts = [first_octets(part) for part in parts] or re.findall(token, OCTETS, re.S)
    return ''.join(firsts) if all(firsts) else ''


@functools.lru_cache(None)
def service_rows() -> dict:
    """{first octet: [(name, only for the probe of that name, product, what matches)]}.

    Those that begin with anything are in each list; '' is for octets that no row begins with.
    Compiled at the first banner: 25 ms, 4 us for each after it.
    """
    rows = []
    for name, product, pattern in table_rows(SERVICE_TABLE):
        rows.append((first_octets(pattern), (name.rstrip('@'), name.endswith('@'),
                                             product.strip('-'), compile_row(pattern).match)))
    return {key: [row for octets, row in rows if not octets or key in octets]
            for key in list(OCTETS) + ['']}


@functools.lru_cache(None)
def http_rows() -> list:
    """[(product, text without which nothing is found, what searches in a response)]."""
    rows = []
    for product, pattern in table_rows(HTTP_PRODUCTS):
        begin = re.match(r'(?:(?:\\n|[\w :"<-])+(?![?*+{]))?', pattern).group()
        rows.append((product.strip('-'), begin.replace('\\n', '\n'), compile_row(pattern).search))
    return rows


@functools.lru_cache(None)
def http_facts() -> list:
    """[(code of the entry, text without which nothing is found, what searches)]."""
    return [(BANNER_TITLE, '<', re.compile(
                r'<title[^>]*>\s*(.*?)\s*(?:</title|\Z)', re.S | re.I).search),
            (BANNER_LOCATION, '\n', re.compile(
                r'[^<]*?\nLocation: *([^\r\n]+)', re.S | re.I).match)]


def matched(name: str, product: str, match, more=()) -> Service:
    """A match of a row -> the Service."""
    groups = match.groupdict('')
    return Service(name, groups.get('p', '').strip() or product, groups.get('v', '').strip(),
                   groups.get('d', '').strip(), dict(more))


def http_service(text: str) -> Service:
    """A response of HTTP -> the Service: status, title, where it sends us, product."""
    status = re.match(r'HTTP/[\d.]+ (\d{3})', text)
    more = {BANNER_STATUS: status.group(1)} if status else {}
    for code, needed, search in http_facts():
        found = needed in text and search(text)
        if found and found.group(1):
            more[code] = ' '.join(found.group(1).split())[:TITLE_MAX]
    for product, needed, search in http_rows():
        match = needed in text and search(text)
        if match:
            return matched('http', product, match, more)
    return Service('http', '', '', '', more)


def mssql_version(octets: bytes) -> str:
    """Answer to a prelogin -> 15.0.2000, '' if it has none ([MS-TDS] s2.2.6.5: the option 0)."""
    at = 8 + int.from_bytes(octets[9:11], 'big')
    version = octets[at:at + 4]
    return '%d.%d.%d' % struct.unpack('!BBH', version) if len(version) == 4 else ''


def oracle_version(octets: bytes) -> str:
    """Answer of a listener -> 19.0.0.0.0, '' if it has none (VSNNUM: 8, 4, 8, 4, 8 bits)."""
    found = re.search(rb'VSNNUM=(\d{1,10})\)', octets)
    if not found:
        return ''
    number = int(found.group(1))
    return '%d.%d.%d.%d.%d' % (number >> 24, number >> 20 & 15, number >> 12 & 255,
                               number >> 8 & 15, number & 255)


def smb_dialect(octets: bytes) -> str:
    """Answer to a negotiation -> 3.1.1, 2.???, or NT LM 0.12 ([MS-SMB2] s2.2.4)."""
    if octets[4:8] == b'\xffSMB':
        return 'dialect 1'
    major, minor = octets[73:74], octets[72:73]
    if minor == b'\xff':
        return 'dialect 2 or newer'
    return 'dialect %d.%d' % (major[0], minor[0] >> 4) if major else ''


def smb_service(found: Service, octets: bytes) -> Service:
    """What stands in an answer to a negotiation besides its name.

    Samba's ServerGuid ([MS-SMB2] s2.2.4) is its NetBIOS name, where others have random octets:
    own captures.
    """
    details = smb_dialect(octets)
    name = octets[76:92].rstrip(b'\0')
    if octets[4:8] != b'\xfeSMB' or not re.match(rb'[\w-]{1,15}\Z', name):
        return found._replace(details=details)
    return found._replace(product='Samba', details='%s, name %s' % (details, name.decode()))


DEEP_VERSIONS = {'mssql': mssql_version, 'oracle': oracle_version}
TITLE_MAX = 200                     # octets that are kept of a title
RECOGNISED_MAX = 4096               # octets that are looked at: 2 ms at the worst


def recognise(octets: bytes, probe: str = '', sent: bytes = b'') -> 'Service | None':
    """First octets of a server -> what speaks there; None: nobody knows.

    probe   name of the row of PROBES that was asked, '' = none
    sent    what was said to it: who repeats that is `echo`
    """
    text = octets[:RECOGNISED_MAX].decode('latin-1')
    rows = service_rows()
    for name, bound, product, matches in rows.get(text[:1], rows['']):
        match = (not bound or probe == name) and matches(text)
        if match and name == 'http' and not product:
            return http_service(text)
        if match:
            found = matched(name, product, match)
            if name in DEEP_VERSIONS:
                found = found._replace(version=DEEP_VERSIONS[name](octets))
            return smb_service(found, octets) if name == 'smb' else found
    is_echo = len(sent) > 4 and octets.startswith(sent)
    return Service('echo', '', '', '', {}) if is_echo else None


def note_banner(events: dict, octets: bytes, probe: str = '', sent: bytes = b''):
    """First octets of a server -> into the events of an entry, with what they say of the service.

    probe, sent     as of recognise()
    """
    events[BANNER_TEXT] = octets.decode('latin-1')
    found = recognise(octets, probe, sent)
    if not found:
        return
    for code, text in zip((BANNER_SERVICE, BANNER_PRODUCT, BANNER_VERSION, BANNER_DETAILS),
                          found):
        if text:
            events[code] = text
    events.update(found.more)


# ---- probes ----
#
# What is said where the protocol waits for the client: name, ports, octets, with two spaces or
# more between; \0{9} is nine of them, HOST the target, and a line that begins with spaces goes on.
# A row without octets only listens: its service says little about itself.  Names are those of rows
# above.  Nothing here logs in as anybody, writes, or starts what others notice.  The + of gdb says
# that its answer has come: gdbserver 13 dies of a client that goes without.

PROBE_TABLE = r"""
http            80,81,591,2375,3000,5000,5601,5984,5985,7001,7070,8000,8008,8080,8081,8086,8088,
                8090,8161,8180,8500,8888,9000,9080,9090,9200,9999,15672,16010,50070  *
tls             443,465,563,636,832,853,981,989,990,992,993,994,995,1311,2083,2087,2096,2376,3269,
                4443,5061,5671,5986,6443,6697,7443,8443,8834,8883,9001,9091,9443,10443  *
tcpmux          1  HELP\r\n
echo            7  cscan\r\n
daytime         13  -
qotd            17  -
time            37  -
whois           43,4321  HOST\r\n
dns             53  \0\x1ecs\0\0\0\x01\0\0\0\0\0\0\x07version\x04bind\0\0\x10\0\x03
gopher          70  \r\n
finger          79  \r\n
kerberos        88  \0\0\0\x86j\x81\x830\x81\x80\xa1\x03\x02\x01\x05\xa2\x03\x02\x01\n\xa4t0r\xa0
                \x07\x03\x05\0\0\0\0\x10\xa2\x0f\x1b\x0dCSCAN.INVALID\xa3"0\x20\xa0\x03\x02\x01
                \x02\xa1\x190\x17\x1b\x06krbtgt\x1b\x0dCSCAN.INVALID\xa5\x11\x18\x0f20380101000000
                Z\xa7\x03\x02\x01\x01\xa8\x1a0\x18\x02\x01\x12\x02\x01\x11\x02\x01\x14\x02\x01\x13
                \x02\x01\x10\x02\x01\x17\x02\x01\x19\x02\x01\x1a
s7              102  \x03\0\0\x16\x11\xe0\0\0\0\x01\0\xc1\x02\x01\0\xc2\x02\x01\x01\xc0\x01\n
dicom           104,11112  \x01\0\0\0\0D\0\x01\0\0ANY\x20{13}CSCAN\x20{11}\0{32}
rpc             111,2049  \x80\0\0(cscn\0\0\0\0\0\0\0\x02\0\x01\x86\xa0\0\0\0\x02\0{20}
ident           113  1,1\r\n
msrpc           135  \x05\0\x0b\x03\x10\0\0\0H\0\0\0\x01\0\0\0\xb8\x10\xb8\x10\0\0\0\0\x01\0\0\0
                \0\0\x01\0
                \x08\x83\xaf\xe1\x1f]\xc9\x11\x91\xa4\x08\0+\x14\xa0\xfa\x03\0\0\0
                \x04]\x88\x8a\xeb\x1c\xc9\x11\x9f\xe8\x08\0+\x10H`\x02\0\0\0
smb             139,445  \0\0\0T\xffSMBr\0\0\0\0\x18C\xc8\0{14}\xfe\xff\0\0\0\0\x001\0
                \x02NT LANMAN 1.0\0\x02NT LM 0.12\0\x02SMB 2.002\0\x02SMB 2.???\0
nje             175  \xd6\xd7\xc5\xd5@@@@\xc3\xe2\xc3\xc1\xd5@@@\0\0\0\0\xc3\xe2\xc3\xc1\xd5@@@
                \0\0\0\0\0
bgp             179  \xff{16}\0\x1d\x01\x04[\xa0\0\xb4\0\0\0\x01\0
irc             194,6660,6665,6666,6667,6668,6669,7000  CAP LS 302\r\nVERSION\r\n
checkpoint      264  Q\0\0\0\0\0\0!\0\0\0\x0bsecuremote\0
ldap            389,3268  0+\x02\x01\x01c&\x04\0\n\x01\0\n\x01\0\x02\x01\0\x02\x01\0\x01\x01\0
                \x87\x0bobjectClass0\x06\x04\x01*\x04\x01+
lpd             515  \x04lp\n
afp             548  \0\x03\0\x01\0{12}
rtsp            554,8554  OPTIONS rtsp://HOST/ RTSP/1.0\r\nCSeq: 1\r\n\r\n
giop            683,2481,2809,3528,3700  GIOP\x01\0\0\x03\0\0\0\x10\0\0\0\x07\0\0\0\0\0\0\0\x04name
spamd           783  PING\x20SPAMC/1.5\r\n\r\n
crimson         789  \0\x04\x01+\x1b\0
flash-policy    843  <policy-file-request/>\0
socks5          1080,9050,9150  \x05\x01\0
java-rmi        1099,1098  JRMI\0\x02K
openvpn         1194  \0\x0e8cscancsc\0\0\0\0\0
icap            1344  OPTIONS icap://HOST/ ICAP/1.0\r\nHost: HOST\r\n\r\n
ibm-mq          1414  TSH\x20\0\0\0P\x01\x01\x30\0{9}\0\0\x01\x11\x033\0\0ID\x20\x20\0{20}
                SYSTEM.DEF.SVRCONN\x20\x20\0{8}
mssql           1433  \x12\x01\0:\0\0\0\0\0\0\x1a\0\x06\x01\0\x20\0\x01\x02\0!\0\x0c\x03\0-\0
                \x04\x04\x001
                \0\x01\xff\x01\x08\0\0\0\0\x02MSSQLServer\0\0\0\0\0\0
oracle          1521,1526  \0Y\0\0\x01\0\0\0\x01>\x01,\0\0\x20\0\xff\xffO\x98\0\0\0\x01\0\x1f\0:
                \0{30}(DESCRIPTION=(CONNECT_DATA=()))
pptp            1723  \0\x9c\0\x01\x1a+<M\0\x01\0\0\x01\0\0\0\0\0\0\x03\0\0\0\x03\0\0\0\x01\0{128}
mqtt            1883  \x10\x0c\0\x04MQTT\x04\x02\0<\0\0\x82\x18\0\x01\0\x13$SYS/broker/version\0
fox             1911  fox a 1 -1 fox hello\n{\nfox.version=s:1.0\nid=i:1\n};;\n
rtmp            1935  \x03\0{1536}
pcworx          1962  \x01\x01\0\x1a\0\0\0\0x\x80\0\x03\0\x0cIBETH01N0_M\0
bandwidth-test  2000  -
zookeeper       2181  srvr
iec104          2404  h\x04C\0\0\0
codesys         2455,1200  \xbb\xbb\x01\0\0\0\x01
smpp            2775  \0\0\0\x10\0\0\0\x15\0\0\0\0\0\0\0\x01
firebird        3050  \0\0\0\x01\0\0\0\x13\0\0\0\x03\0\0\0$\0\0\0\x01x\0\0\0\0\0\0\x01\0\0\0\0
                \0\0\0\n\0\0\0\x01\0\0\0\x02\0\0\0\x05\0\0\0\x02
clamd           3310  nVERSION\n
stratum         3333,4444,14444  {"id":1,"method":"mining.subscribe","params":["cscan"]}\n
rdp             3389  \x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0
stun            3478  \0\x01\0\0!\x12\xa4Bcscancscancs
nut             3493  VER\n
apcupsd         3551  \0\x06status
distcc          3632  DIST00000002ARGC00000000DOTI00000000
diameter        3868  \x01\0\x004\x80\0\x01\x01\0\0\0\0cscncscn\0\0\x01\x08@\0\0\rcscan\0\0\0\0
                \0\x01(@\0\0\x0f
                example\0
cgminer         4028  {"command":"version"}
epmd            4369  \0\x01n
rotctl          4533  _\n
gdb             1234,2159,2345  $qSupported#37+
gearman         4730  version\n
smart-install   4786  \0\0\0\x01\0\0\0\x01\0\0\0\x04\0\0\0\x08\0\0\0\x01\0\0\0\0
opcua           4840  HELF9\0\0\0\0\0\0\0\xff\xff\0\0\xff\xff\0\0\0\0\0\0\0\0\0\0\x19\0\0
                \0opc.tcp://127.0.0.1:4840/
radmin          4899  \x01\0\0\0\x01\0\0\0\x08\x08
jdwp            5005,8000,8787  JDWP-Handshake\0\0\0\x0b\0\0\0\x01\0\x01\x01
melsec          5006,5007  P\0\0\xff\xff\x03\0\x06\0\x10\0\x01\x01\0\0
scpi            5025  *IDN?\n
sip             5060  OPTIONS sip:HOST SIP/2.0\r
                \nVia: SIP/2.0/TCP cscan.invalid;branch=z9hG4bKcscan;rport\r\n
                Max-Forwards: 0\r\nFrom: <sip:cscan@cscan.invalid>;tag=1\r\nTo: <sip:HOST>\r\n
                Call-ID: cscan\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n
hart-ip         5094  \x01\0\0\0\0\x01\0\r\x01\0\0\xea`
xmpp            5222,5269  <stream:stream to='HOST' xmlns='jabber:client'\x20
                xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>
postgresql      5432,5433,6432  \0\0\0\x08\x04\xd2\x16/
adb             5555  CNXN\x01\0\0\x01\0\0\x04\0\x07\0\0\x002\x02\0\0\xbc\xb1\xa7\xb1host::\0
zeromq          5556  \xff\0{7}\x01\x7f\x03\0NULL\0{48}
nrpe            5666  \0\x04\0\x01CV\xe6\x0b\0\0\0\0\0\0\0\x0c_NRPE_CHECK\0
nsca            5667  -
amqp            5672  AMQP\0\0\t\x01
spice           5930  REDQ\x02\0\0\0\x02\0\0\0\x1a\0\0\0\0\0\0\0\x01\0\x01\0\0\0\x01\0\0\0\x12\0
                \0\0\x0b\0\0\0\0\0\0\0
teamviewer      5938  \x17$\x10\x04\0\0\0\0\0
x11             6000,6001,6002  l\0\x0b\0\0\0\0\0\0\0\0\0
redis           6379,6380  *2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n
sane            6566  \0\0\0\0\x01\0\0\x03\0\0\0\x06cscan\0
pulsar          6650  \0\0\0\x11\0\0\0\r\x08\x02\x12\t\n\x05cscan\x20\x0f
bittorrent      6881,51413  \x13BitTorrent protocol\0{8}cscancscancscancscan-XX0001-cscancscancs
weblogic        7001  t3 12.2.1\nAS:255\nHL:19\nMS:10000000\n\n
hddtemp         7634  -
neo4j           7687  ``\xb0\x17\0\x04\x04\x04\0\0\x03\x04\0\0\x01\x04\0\0\0\x03
ajp13           8009  \x124\0\x01\n
riak            8087  \0\0\0\x01\x07
bitcoin         8333,18333  \xf9\xbe\xb4\xd9version\0{5}V\0\0\0\xceY\x9dF\0{86}
lscp            8888  GET SERVER INFO\r\n
cassandra       9042  \x04\0\0\0\x05\0\0\0\0
tor-or          9001  \0\0\x07\0\x06\0\x03\0\x04\0\x05
tor-control     9051,9151  PROTOCOLINFO\r\n
thrift          9083,9090  \0\0\0\x11\x80\x01\0\x01\0\0\0\x04cscn\0\0\0\x01\0
kafka           9092  \0\0\0\x0c\0\x12\0\0cscn\0\x02cs
pjl             9100,9101,9102  \x1b%-12345X@PJL INFO ID\r\n\x1b%-12345X\r\n
git             9418  0021git-upload-pack /\0host=cscan\0
fins            9600  FINS\0\0\0\x0c\0{12}
atg             10001  \x01I20100\n
zabbix          10050,10051  ZBXD\x01\r\0\0\0\0\0\0\0agent.version
memcached       11211  version\r\n
couchbase       11210  \x80\x0b\0{22}
beanstalkd      11300  stats\r\n
nsclient        12489  None&1\n
lcdproc         13666  hello\n
ge-srtp         18245  \0{56}
dnp3            20000  \x05d\x05\xc9\x01\0\0\0\xde\x8e
pcom            20256  \0\x01e\0\x08\0/00IDED\r
rustdesk        21115,21116,21117  \x14\xa2\x01\x02\x08\x01
proconos        20547  \xcc\x01\0\x0b@\x02\0\0G\xee
minecraft       25565  \x0f\0/\x09127.0.0.1c\xdd\x01\x01\0
mongodb         27017,27018  8\0\0\0cscn\0\0\0\0\xdd\x07\0\0\0\0\0\0\0#\0\0\0\x10buildInfo\0\x01
                \0\0\0
                \x02$db\0\x06\0\0\0admin\0\0
rethinkdb       28015  \xc3\xbd\xc24
ethernet-ip     44818  c\0{23}
drda            50000,446  \0\x11\xd0\x01\0\x01\0\x0b\x10A\0\x07\x11^\x81\x97\x97
stomp           61613  CONNECT\naccept-version:1.2\nhost:/\n\n\0
modbus          502  cs\0\0\0\x05\0+\x0e\x01\0
aerospike       3000  \x02\x01\0\0\0\0\0\x06build\n
"""


# ---- host keys ----

# A server of SSH shows its host key in answer to any public value of ours: constants do, and what
# follows of the exchange, for which a secret would be needed, never takes place.
SSH_PACKET = struct.Struct('!IB')       # RFC 4253 s6: length padding
SSH_KEXINIT, SSH_KEX_INIT, SSH_KEX_REPLY = 20, 30, 31     # RFC 4250 s4.1.2; RFC 5656 s7.1
SSH_MAX = 35000                         # RFC 4253 s6.1: octets of a packet
SSH_GENERATOR = (                       # SEC 2 s2.4.2: the base point of P-256, uncompressed
    b'\4' b'\x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2'
    b'\x77\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96'
    b'\x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16'
    b'\x2b\xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5')
SSH_POINT = b'\x09' + bytes(31)        # RFC 7748 s4.1: the base point of Curve25519
SSH_NUMBER = b'\x55' * 64              # of finite fields: below each prime, and no small number
SSH_PUBLIC = {                          # method -> our public value
    b'curve25519-sha256': SSH_POINT, b'curve25519-sha256@libssh.org': SSH_POINT,
    b'ecdh-sha2-nistp256': SSH_GENERATOR, b'diffie-hellman-group14-sha256': SSH_NUMBER,
    b'diffie-hellman-group16-sha512': SSH_NUMBER, b'diffie-hellman-group18-sha512': SSH_NUMBER,
    b'diffie-hellman-group14-sha1': SSH_NUMBER, b'diffie-hellman-group1-sha1': SSH_NUMBER}
SSH_OFFERED = (                           # RFC 4253 s7.1: of our KEXINIT
    b','.join(SSH_PUBLIC),
    b'ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,'
    b'rsa-sha2-256,ssh-rsa,ssh-dss',
    b'aes128-ctr,aes256-ctr,aes128-cbc,3des-cbc,chacha20-poly1305@openssh.com',
    b'aes128-ctr,aes256-ctr,aes128-cbc,3des-cbc,chacha20-poly1305@openssh.com',
    b'hmac-sha2-256,hmac-sha1', b'hmac-sha2-256,hmac-sha1', b'none', b'none', b'', b'')


def ssh_packet_of(message: bytes) -> bytes:
    """A message -> its packet, before any keys are used (RFC 4253 s6)."""
    padding = 4 + (-(SSH_PACKET.size + len(message) + 4)) % 8
    return SSH_PACKET.pack(1 + len(message) + padding, padding) + message + bytes(padding)


def ssh_string(octets: bytes) -> bytes:
    """RFC 4251 s5: string."""
    return struct.pack('!I', len(octets)) + octets


def parse_strings(octets: bytes) -> 'list[bytes]':
    """The strings of RFC 4251 s5 that follow one another, without one that is cut."""
    found, at = [], 0
    while at + 4 <= len(octets):
        end = at + 4 + int.from_bytes(octets[at:at + 4], 'big')
        if end > len(octets):
            break
        found.append(octets[at + 4:end])
        at = end
    return found


async def read_ssh(sock, rest: bytearray) -> bytes:
    """The next message of a server; `rest` has what came already, and keeps what is left.

    raises  ConnectionError, socket.timeout
    """
    async def fill(count):
        while len(rest) < count:
            rest.extend(await sock.read_exact(count - len(rest)))
    await fill(SSH_PACKET.size)
    size, padding = SSH_PACKET.unpack_from(rest)
    if not padding + 2 <= size <= SSH_MAX:
        raise ConnectionError('no packet of SSH')
    await fill(4 + size)
    message = bytes(rest[SSH_PACKET.size:4 + size - padding])
    del rest[:4 + size]
    return message


async def ssh_host_key(sock, heard: bytes, agent: str) -> str:
    """Ask a server that has greeted for its host key -> ssh-ed25519 SHA256:...; '' = none came.

    heard   all that it has said
    source  RFC 4253 s7, s8; RFC 5656 s4; RFC 8731 s3
    """
    begin = re.search(rb'^SSH-[^\n]*\n', heard, re.M)
    if not begin:
        return ''
    rest = bytearray(heard[begin.end():])
    name = re.sub('[^!-~]', '_', agent).encode()
    kexinit = bytes([SSH_KEXINIT]) + bytes(16) + b''.join(map(ssh_string, SSH_OFFERED)) + bytes(5)
    await sock.write_all(b'SSH-2.0-%s\r\n' % name + ssh_packet_of(kexinit))
    theirs = await read_ssh(sock, rest)
    offered = parse_strings(theirs[17:])[:1] if theirs[:1] == bytes([SSH_KEXINIT]) else []
    methods = [each for each in SSH_PUBLIC if offered and each in offered[0].split(b',')]
    if not methods:
        return ''
    await sock.write_all(ssh_packet_of(bytes([SSH_KEX_INIT]) + ssh_string(SSH_PUBLIC[methods[0]])))
    reply = await read_ssh(sock, rest)
    blob = parse_strings(reply[1:])[:1] if reply[:1] == bytes([SSH_KEX_REPLY]) else []
    kind = parse_strings(blob[0])[:1] if blob else []
    return key_fingerprint(kind[0], blob[0]) if kind else ''


def key_fingerprint(kind: bytes, blob: bytes) -> str:
    """A host key -> its kind and hash, as ssh-keygen -l has it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')
    return '%s SHA256:%s' % (kind.decode('latin-1'), digest)


# ---- favicons ----

FAVICON_MAX = 1 << 17               # octets of an icon; what is larger has no hash
FAVICON_HEAD_MAX = 1 << 14          # octets of what stands before it
MURMUR_PIECE = 1 << 13              # octets that are hashed in a turn: 2 ms
MURMUR_1, MURMUR_2 = 0xcc9e2d51, 0x1b873593
UINT32 = 0xffffffff


def murmur3_mix(state: int, octets: bytes) -> int:
    """Blocks of 4 octets into a state of MurmurHash3_x86_32 -> the next state.

    source  A. Appleby, MurmurHash3.cpp, in the public domain
    """
    for block in struct.unpack('<%dI' % (len(octets) // 4), octets):
        block = block * MURMUR_1 & UINT32
        state ^= (block << 15 | block >> 17) * MURMUR_2 & UINT32
        state = ((state << 13 | state >> 19) & UINT32) * 5 + 0xe6546b64 & UINT32
    return state


def murmur3_end(state: int, tail: bytes, size: int) -> int:
    """The last 0 to 3 octets, and how many there were in all -> the hash, signed."""
    block = int.from_bytes(tail, 'little') * MURMUR_1 & UINT32
    state ^= (block << 15 | block >> 17) * MURMUR_2 & UINT32
    state ^= size
    state = (state ^ state >> 16) * 0x85ebca6b & UINT32
    state = (state ^ state >> 13) * 0xc2b2ae35 & UINT32
    state ^= state >> 16
    return state - (state >> 31 << 32)


async def icon_hash(icon: bytes) -> int:
    """An icon -> what Shodan has as http.favicon.hash: of its base64 in lines of 76 letters."""
    text = base64.encodebytes(icon)
    end = len(text) & ~3
    state = 0
    for at in range(0, end, MURMUR_PIECE):
        state = murmur3_mix(state, text[at:min(at + MURMUR_PIECE, end)])
        await socket_ready((), 0, 0)                    # others have their turns
    return murmur3_end(state, text[end:], len(text))


def icon_size(head: bytes) -> int:
    """Head of a response to GET /favicon.ico -> octets of the icon.

    returns  0 = there is none, -1 = all until the end of the connection
    """
    if not re.match(rb'HTTP/1\.[01] 200\b', head) or re.search(
            rb'\n(?:Content-Type: *text/html|Transfer-Encoding:|Content-Encoding:)', head, re.I):
        return 0
    size = re.search(rb'\nContent-Length: *(\d{1,9})\r?\n', head, re.I)
    return int(size.group(1)) if size else -1


async def read_icon(sock) -> bytes:
    """A response to GET /favicon.ico -> the icon, b'' = none, or too large.

    raises  ConnectionError, socket.timeout
    """
    head = line = await sock.read_line()
    while line.strip() and len(head) < FAVICON_HEAD_MAX:
        line = await sock.read_line()
        head += line
    size = 0 if line.strip() else icon_size(head)
    if size >= 0:
        return await sock.read_exact(size) if 0 < size <= FAVICON_MAX else b''
    icon = bytearray()
    while len(icon) <= FAVICON_MAX:
        piece = await sock.read_some(FAVICON_MAX)
        if not piece:
            return bytes(icon)
        icon += piece
    return b''


# ---- banner ----

BANNER_LULL_MS = 200                # what comes within this time belongs together
BANNER_CODES = {1: 'CONN_FAIL', 2: 'BANNER', 3: 'SILENT', 4: 'CLOSED', 5: 'PROBE',
                6: 'TLS_VERSION', 7: 'CERTIFICATE', 8: 'TLS_FAIL', 9: 'SERVICE', 10: 'PRODUCT',
                11: 'VERSION', 12: 'DETAILS', 13: 'TITLE', 14: 'LOCATION', 15: 'HTTP_STATUS',
                16: 'HOST_KEY', 17: 'FAVICON'}
(BANNER_CONN_FAIL, BANNER_TEXT, BANNER_SILENT, BANNER_CLOSED, BANNER_PROBE, BANNER_TLS_VERSION,
 BANNER_CERTIFICATE, BANNER_TLS_FAIL, BANNER_SERVICE, BANNER_PRODUCT, BANNER_VERSION,
 BANNER_DETAILS, BANNER_TITLE, BANNER_LOCATION, BANNER_STATUS, BANNER_HOST_KEY,
 BANNER_FAVICON) = BANNER_CODES
BANNER_FAILURES = ((BANNER_CONN_FAIL, 'unreachable'), (BANNER_SILENT, 'silent'),
                   (BANNER_CLOSED, 'closed'), (BANNER_TLS_FAIL, 'no-tls'))
HTTP_PORTS = 80, 443                # RFC 9110 s4.2: the port is left out of Host


async def hear(sock, wait_ms: float, limit: int) -> 'tuple[bytes, bool]':
    """What the peer says within wait_ms, until a lull -> (octets, did it end the connection?)."""
    data = bytearray()
    while len(data) < limit:
        try:
            piece = await sock.read_some(limit - len(data), BANNER_LULL_MS if data else wait_ms)
        except socket.timeout:
            break
        except OSError:
            piece = b''
        if not piece:
            return bytes(data), True
        data += piece
    return bytes(data), False


def http_request(target, agent: str, path: str = '/') -> bytes:
    """The request of banner.probe=http: of the past, so that the answer comes in one piece."""
    host = target.host if target.port in HTTP_PORTS else target
    return ('GET %s HTTP/1.0\r\nHost: %s\r\nUser-Agent: %s\r\nAccept: */*\r\n\r\n'
            % (path, host, agent)).encode()


async def banner_tls(sock, events, size):
    """Start TLS: version and certificate, or why not, and what the peer said instead."""
    try:
        await sock.start_tls()
    except OSError as error:
        events[BANNER_TLS_FAIL] = why(error)
        if sock.piece and not is_tls_record(sock.piece):
            note_banner(events, sock.piece[:size])
        if isinstance(error, Unable):
            raise
        return
    events[BANNER_TLS_VERSION] = sock.tls.version()
    certificate = sock.tls.getpeercert(True)
    if certificate:
        events[BANNER_CERTIFICATE] = certificate


def is_tls_record(data: bytes) -> bool:
    """RFC 8446 s5.1: content type 20-23, version 3.x."""
    return data[:1] in (b'\x14', b'\x15', b'\x16', b'\x17') and data[1:2] in (b'\3', b'')


async def probe_banner(target, sock, events, options) -> 'tuple[bytes, bool]':
    """Nothing came: say something -> (octets, did the peer end the connection?)."""
    events[BANNER_PROBE] = options.probe
    if options.probe != 'http':
        await banner_tls(sock, events, options.size)
        if BANNER_TLS_FAIL in events:
            return b'', True
    if options.probe == 'tls':
        return await hear(sock, options.wait, options.size)
    try:
        await sock.write_all(http_request(target, options.agent))
    except OSError:
        return b'', True
    return await hear(sock, math.inf, options.size)


async def talk_banner(target, sock, events, options):
    """Listen, probe, listen; into events."""
    octets, ended = await hear(sock, options.wait, options.size)
    if not octets and not ended and options.probe != 'none':
        octets, ended = await probe_banner(target, sock, events, options)
    if octets:
        note_banner(events, octets)
    elif not {BANNER_TLS_FAIL, BANNER_TLS_VERSION} & set(events):
        events[BANNER_CLOSED if ended else BANNER_SILENT] = True


Probe = collections.namedtuple('Probe', 'name sent')        # sent None: see Visit.step

# Ports of these rows are asked nothing else: what does not understand it prints it, or stops
FRAGILE = frozenset((
    'atg', 'codesys', 'crimson', 'dnp3', 'ethernet-ip', 'fins', 'fox', 'ge-srtp', 'hart-ip',
    'iec104', 'lpd', 'melsec', 'modbus', 'nje', 'opcua', 'pcom', 'pcworx', 'pjl', 'proconos',
    's7'))
ANYWHERE = ('redis', 'rdp', 'mongodb', 'postgresql', 'ldap', 'mqtt', 'smb', 'mssql', 'rpc', 'dns',
            'socks5')
# What is said first inside of TLS on these ports; '' = the server is; on others of tls: http
INSIDE_TLS = {465: '', 563: '', 636: 'ldap', 853: 'dns', 989: '', 990: '', 992: '', 993: '',
              994: '', 995: '', 3269: 'ldap', 5061: 'sip', 5671: 'amqp', 6697: 'irc', 8883: 'mqtt',
              9001: 'tor-or'}
# How servers of HTTP say that they want TLS: with a status of 400, or with an alert of TLS
WANTS_TLS = re.compile(r'HTTP/1\.[01] 400 .*(?:to an? HTTPS|SSL-enabled|HTTPS port|TLS)', re.S)


@functools.lru_cache(None)
def probes() -> 'tuple[dict, dict]':
    """({name: octets}, {port: [names of its rows, in order]}) of PROBE_TABLE."""
    octets, ports = {}, {}
    for name, numbers, text in table_rows(PROBE_TABLE):
        text = re.sub(r'(\\x..|\\0)\{(\d+)\}',
                      lambda each: each.group(1) * int(each.group(2)), text)
        octets[name] = {'*': None, '-': b''}.get(
            text, text.encode().decode('unicode_escape').encode('latin-1'))
        for port in map(int, numbers.split(',')):
            ports.setdefault(port, []).append(name)
    return octets, ports


@functools.lru_cache(256)
def plan_steps(port: int) -> 'tuple[str]':
    """Port -> names of what is tried there in turn; '' = listen, then http on the connection."""
    own = tuple(probes()[1].get(port, ()))
    if FRAGILE.intersection(own):
        return own
    more = ('http', 'tls') if own else ('', 'tls')
    return own + tuple(name for name in more + ANYWHERE if name not in own)


def worth(events: dict) -> int:
    """How much events say of the service: 4 inside of TLS ... 0 nothing."""
    if BANNER_TLS_VERSION in events:
        return 4
    if BANNER_SERVICE in events:
        return 2 if events[BANNER_SERVICE] == 'ssl' else 3
    return 1 if BANNER_TEXT in events else 0


class Visit:
    """What banner.probe=auto does with a target: talks until it is known what speaks there.

    target, options     as the module has them
    deadline    of all talks, on the clock of the target; None: none has begun
    tries       connections that may still be made
    sock        the one that is open; None: none
    best        events of the talk that said most
    """

    def __init__(self, target, options):
        self.target, self.options, self.clock = target, options, target.clock
        self.deadline = self.sock = None
        self.tries, self.best = options.tries, {}

    def close(self):
        """No connection is open."""
        if self.sock:
            self.sock.close()
            self.sock = None

    def left_ms(self) -> float:
        """Milliseconds until the deadline of all talks."""
        return (self.deadline - self.clock()) * 1000

    async def open(self):
        """A new connection; raises OSError."""
        self.close()
        self.tries -= 1
        limit = self.options.conn_timeout
        if self.deadline is not None:
            limit = min(limit, self.left_ms())
        self.sock = await self.target.connect(limit)
        if self.deadline is None:
            self.deadline = self.clock() + self.options.read_timeout / 1000

    def share(self):
        """The next step may take half of the time that is left; the last try all of it."""
        now = self.clock()
        left = max(self.deadline - now, 0)
        self.sock.deadline = now + (left / 2 if self.tries else left)

    def heard(self, events, octets, ended, probe='', sent=b''):
        """Octets of a talk -> into its events; the best of all talks is kept."""
        if octets:
            note_banner(events, octets, probe, sent)
        elif BANNER_TLS_VERSION not in events:
            events[BANNER_CLOSED if ended else BANNER_SILENT] = True
        if not self.best or worth(events) > worth(self.best):
            self.best = events

    async def listen(self, events, probe='') -> bool:
        """What the server says first -> whether it waits for us."""
        self.sock.deadline = max(self.deadline, self.clock())
        octets, ended = await hear(self.sock, self.options.wait, self.options.size)
        if not octets and not ended:
            return True
        if octets.startswith(b'220') and not recognise(octets, probe) and not ended:
            octets += await self.reply(b'HELP\r\n')     # FTP and SMTP begin alike
        self.heard(events, octets, ended, probe)
        if events.get(BANNER_SERVICE) == 'ssh' and not ended:
            await self.host_key(events, octets)
        return False

    async def host_key(self, events, octets):
        """A server of SSH has greeted: its host key, if it shows one."""
        self.share()
        with contextlib.suppress(OSError):
            key = await ssh_host_key(self.sock, octets, self.options.agent)
            if key:
                events[BANNER_HOST_KEY] = key

    async def reply(self, sent) -> bytes:
        """Say something -> what comes back, b'' = nothing."""
        try:
            await self.sock.write_all(sent)
        except OSError:
            return b''
        return (await hear(self.sock, self.options.wait, self.options.size))[0]

    async def ask(self, name, events):
        """Say what a row of PROBE_TABLE does, and listen."""
        sent = probes()[0][name]
        if sent == b'':
            if await self.listen(events, name):
                self.heard(events, b'', False)
            return
        events[BANNER_PROBE] = name
        if BANNER_TLS_VERSION in events:
            events[BANNER_PROBE] = 'https' if name == 'http' else 'tls ' + name
        if sent is None:
            sent = http_request(self.target, self.options.agent)
        sent = sent.replace(b'HOST', self.target.host.encode())
        self.share()
        try:
            await self.sock.write_all(sent)
            octets, ended = await hear(self.sock, math.inf, self.options.size)
        except OSError:
            octets, ended = b'', True
        self.heard(events, octets, ended, name, sent)

    async def tls(self):
        """A handshake, and what is said inside."""
        events = {BANNER_PROBE: 'tls'}
        self.share()
        until = self.sock.deadline
        await banner_tls(self.sock, events, self.options.size)
        self.deadline += self.sock.deadline - until     # it had to wait for others
        if BANNER_TLS_FAIL in events:
            if BANNER_TEXT in events:       # it speaks, and that says more than why it is not TLS
                del events[BANNER_TLS_FAIL]
            if not self.best or worth(events) > worth(self.best):
                self.best = events
            return
        name = INSIDE_TLS.get(self.target.port, 'http')
        self.best = events
        if 'tls' not in probes()[1].get(self.target.port, ()):
            name = 'http' if await self.listen(events) else None
        elif not name:
            await self.listen(events)
        if name:
            await self.ask(name, events)

    async def icon(self):
        """A site of HTTP: its favicon's hash.  HTTP/1.0 has ended the connection: on a new one."""
        if self.best.get(BANNER_SERVICE) != 'http' or not self.tries or self.left_ms() <= 0:
            return
        with contextlib.suppress(OSError):
            await self.open()
            self.sock.extend(self.left_ms())
            if BANNER_TLS_VERSION in self.best:
                await self.sock.start_tls()
            await self.sock.write_all(http_request(self.target, self.options.agent,
                                                   '/favicon.ico'))
            icon = await read_icon(self.sock)
            if icon:
                self.best[BANNER_FAVICON] = str(await icon_hash(icon))

    async def step(self, name):
        """One talk of the plan; raises OSError if there is no connection."""
        await self.open()
        if name == 'tls':
            return await self.tls()
        if name:
            return await self.ask(name, {})
        events = {}
        if await self.listen(events):
            await self.ask('http', events)

    def wants_tls(self) -> bool:
        """Whether the best answer is one to somebody who should have begun TLS."""
        return self.best.get(BANNER_SERVICE) == 'ssl' or bool(
            WANTS_TLS.match(self.best.get(BANNER_TEXT, '')))

    def next_steps(self, steps) -> 'list[str]':
        """What is left of a plan after a step."""
        if self.wants_tls() and worth(self.best) < 4:
            return ['tls'] * ('tls' in steps)
        spoke_first = BANNER_TEXT in self.best and BANNER_PROBE not in self.best
        return [] if worth(self.best) > 2 or spoke_first else steps

    async def run(self):
        """All talks; raises OSError if there is not even a first connection."""
        steps = list(plan_steps(self.target.port))
        try:
            while steps and self.tries and (self.deadline is None or self.left_ms() > 0):
                try:
                    await self.step(steps.pop(0))
                except OSError as error:
                    if not self.best or isinstance(error, Unable):
                        raise
                    return
                steps = self.next_steps(steps)
            if self.options.favicon:
                await self.icon()
        finally:
            self.close()


def banner_line(target, events: dict) -> str:
    """The entry as one line: ip:port, how, what."""
    how = events.get(BANNER_PROBE, 'greeting')
    if how not in ('greeting', 'http', 'tls', 'https'):
        how = 'unknown'                     # what was said to it is no name of it
    if BANNER_SERVICE in events:
        how = events[BANNER_SERVICE] + 's' * (BANNER_TLS_VERSION in events)
    for code, word in BANNER_FAILURES:
        if code in events:
            how = word
    words = [str(target), how, events.get(BANNER_TLS_VERSION), events.get(BANNER_TLS_FAIL)]
    if BANNER_CERTIFICATE in events:
        name = common_name(parse_certificate(events[BANNER_CERTIFICATE]))
        words.append(name and 'CN=' + name)
    product, version = events.get(BANNER_PRODUCT), events.get(BANNER_VERSION)
    if product or version:
        words.append('[%s]' % ' '.join(filter(None, (product, version))))
    if BANNER_FAVICON in events:
        words.append('favicon:' + events[BANNER_FAVICON])
    text = events.get(BANNER_TEXT, '').rstrip('\r\n')
    words.append(text.encode('latin-1').decode('utf-8', 'backslashreplace'))
    return ' '.join(filter(None, words))


def write_banner(target, out, events: dict):
    """An entry of the CBA; one line where there is none."""
    if out.is_text:
        return out.line(banner_line(target, events))
    out.later('banner://%s' % target)
    for code, value in events.items():
        if value is True:
            out.bit(code)
        else:
            (out.str if isinstance(value, str) else out.data)(value, code)


@module('banner', codes=BANNER_CODES, first=True, options={
    'conn_timeout': (2000, 'ms to connect', MILLISECONDS),
    'read_timeout': (5000, 'ms for the whole talk', MILLISECONDS),
    'wait': (1000, 'ms for the server to speak first', MILLISECONDS),
    'probe': ('auto', 'what is sent if it does not: http, tls, https or none; auto: what fits',
              one_of('auto', 'http', 'tls', 'https', 'none')),
    'tries': (4, 'connections that auto may make to find out what speaks there', whole(1, 20)),
    'favicon': (0, '1: a connection more to a site of HTTP, for the hash of its /favicon.ico',
                whole(0, 1)),
    'size': (2048, 'first octets that are kept', whole(1, CBA_STR_MAX)),
    'agent': ('cscan/' + __version__, 'User-Agent of the HTTP request: say who you are')})
async def check_banner(target, out, options):
    """What speaks there: service, product, version, first octets, certificate."""
    if options.probe == 'auto':
        return await visit_banner(target, out, options)
    events = {}                             # code: value, in the order of the entry
    try:
        sock = await target.connect(options.conn_timeout)
    except OSError as error:
        if not is_local(error):
            write_banner(target, out, {BANNER_CONN_FAIL: True})
        raise
    try:
        with sock:
            sock.extend(options.read_timeout)
            await talk_banner(target, sock, events, options)
    finally:
        if events:                          # none: a bug, which says nothing about the target
            write_banner(target, out, events)
    return banner_word(events) if events else None


def banner_word(events: dict) -> 'tuple[str, str]':
    """Events of an entry -> what the end counts: a service, or why there is no banner."""
    for code, word in ((BANNER_SILENT, 'silent'), (BANNER_CLOSED, 'closed')):
        if code in events:
            return 'no banner', word
    secure = 's' if BANNER_TLS_VERSION in events else ''
    if BANNER_SERVICE in events:
        return 'services', events[BANNER_SERVICE] + secure
    if BANNER_TEXT in events:
        return 'services', 'unknown'
    return ('services', 'tls') if secure else ('no banner', 'no TLS')


async def visit_banner(target, out, options):
    """The same with all that banner.probe=auto tries."""
    visit = Visit(target, options)
    try:
        await visit.run()
    except OSError as error:
        if visit.deadline is None and not is_local(error):
            visit.best = {BANNER_CONN_FAIL: True}
        raise
    finally:
        if visit.best:
            write_banner(target, out, visit.best)
    return banner_word(visit.best) if visit.best else None


# ==== 7 Connect engine ================================================================

EINPROGRESS, EALREADY, EISCONN = errno.EINPROGRESS, errno.EALREADY, errno.EISCONN
OPEN = {0, EISCONN, errno.ECONNRESET, errno.EPIPE}      # the handshake was completed
LOCAL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EPERM,
         errno.EINVAL}
CLASH = {errno.EADDRINUSE, errno.EADDRNOTAVAIL}         # this source port and target are in use
CONNECT, SHUTDOWN = socket.socket.connect_ex, socket.socket.shutdown
PORT_OF = operator.itemgetter(1)    # of a target
DESCRIPTOR_OF = operator.itemgetter(0)      # of an event
NOWHERE = ('255.255.255.255', 9)    # TCP never sends to a broadcast: connect() only reports
UNKNOWN = errno.EACCES, errno.EPERM # its report where a policy forbids NOWHERE's port
DEAD = UNKNOWN + (errno.EINVAL,)    # the socket is useless now: shutdown() of a simultaneous
                                    # open leaves EINVAL for ever
SOCKET_OPTION, FILENO = socket.socket.getsockopt, socket.socket.fileno
UNSPEC = struct.pack('=H14x', socket.AF_UNSPEC)     # a sockaddr without address
ONLY_UNSPEC, ONLY_SIZE = itertools.repeat(UNSPEC), itertools.repeat(len(UNSPEC))    # for map()
ONLY_SOCKET, ONLY_ERROR = itertools.repeat(socket.SOL_SOCKET), itertools.repeat(socket.SO_ERROR)
REUSES = 64                         # open ports that a socket meets, then another takes its place
BATCH = 256                         # probes between two looks at the events, at most
TICK_S = 0.1
EARLY_S = 0.01                      # a deadline of whole seconds comes before the kernel's repeat
SYN_BYTES = 60                      # IPv4 and TCP header with Linux's options
BURST_S = 1 / 20                    # the bucket holds what the rate gives in this time
LOCAL_HOLD_S = 0.02                 # after a local error nothing is sent for so long
LOCAL_WAIT_S = 0.25                 # a target that met one waits this long, then twice, ...
LOCAL_WAIT_MAX_S = 30               # ... so that the others come to their turn
CLASH_WAIT_S = 1.0
GIVE_UP_S = {True: 75, False: 10}   # clash (TIME_WAIT lasts 60 s), other local errors
GIVE_UP_TRIES = 3                   # at least, however slow the pace
PARKED_MAX = 1000000                # targets that local errors keep waiting; 200 MB
REMEDIES = {
    errno.EMFILE: 'raise the descriptor limit (ulimit -n) or lower -m, -mt',
    errno.ENFILE: 'raise sysctl fs.file-max or lower -m',
    errno.EPERM: 'a local filter (firewall, container policy) forbids these connects: '
                 'allow them or exclude the targets (-xf)',
    errno.EINVAL: 'the source address is gone: name another with -bi, or none',
    errno.EADDRINUSE: 'another program holds the source port: choose another with -b',
    errno.EADDRNOTAVAIL: 'the source port is in use towards these targets: choose another with -b',
}

SHOWN_STATES = {errno.ECONNREFUSED: 'refused', errno.ETIMEDOUT: 'silent'}   # others: unreachable

HUNG_UP, ALL_EXCLUDED = 'the terminal was closed', 'everything is excluded now'

KEPT_COUNTERS = 'sent', 'timeouts', 'opened', 'selfs', 'clashes', 'repeats', 'lost', 'barred'

Totals = collections.namedtuple('Totals', KEPT_COUNTERS + (
    'pending',      # connects under way
    'unsent',       # targets that wait to be tried (again)
    'drawn',        # targets taken from the source
    'limits',       # names of what keeps the scan from being faster
    'canary',       # its line for the user, '' = none
    'answers',      # {errno: answers of the net}
    'locals'))      # {errno: local errors}

Pace = collections.namedtuple('Pace', [
    'timeout_s',    # what a target has to answer
    'window',       # pending connects at most
    'rate',         # SYNs a second at most, None = no ceiling
    'syns'])        # SYNs that the kernel sends in timeout_s for one unanswered connect()


def plan_pace(rate, timeout_ms, pending, percent, interval_us, linear) -> Pace:
    """The arithmetic of -r -t -m -a -ct, fractions kept until the window is counted in sockets.

    linear  sysctl net.ipv4.tcp_syn_linear_timeouts, 0 before Linux 6.5
    """
    if pending:
        rate = 1000 * pending / timeout_ms
    window = pending or rate * timeout_ms / 1000
    if interval_us is None:
        rate = min(rate, 1e6 / (percent * timeout_ms * 10 / window))
    elif interval_us:
        rate = 1e6 / interval_us
    else:
        rate = None
    timeout_s = timeout_ms / 1000 - (0 if timeout_ms % 1000 else EARLY_S)
    return Pace(timeout_s, max(1, math.ceil(window)), rate, syns_per_connect(timeout_ms, linear))


def syns_per_connect(timeout_ms: float, linear: int) -> int:
    """How often the kernel sends the SYN of a connect() that is given up after timeout_ms.

    TCP_SYNCNT 1 still lets it repeat after 1 s, and, where the first `linear` repeats are a
    second apart (ip-sysctl: tcp_syn_linear_timeouts), after each further second.
    """
    return min(max(1, math.ceil(timeout_ms / 1000)), 2 + linear)


def retry_wait(pace: Pace, number: int) -> float:
    """Seconds between a time-out and the retry of this number, 1 the first."""
    return number * max(1.0, 2 * pace.timeout_s)


class Bucket:
    """Token bucket: in no second more than rate plus one burst.

    rate    tokens a second, None = no ceiling
    cost    tokens of one connect(): its SYNs, also those still to come
    """

    def __init__(self, rate, cost, now):
        self.rate, self.cost = rate, cost
        self.level, self.filled = cost, now         # tokens there are, when they were counted

    def credit(self, now):
        """How many connects may start now."""
        if self.rate is None:
            return BATCH
        room = max(self.cost, self.rate * BURST_S)
        self.level = min(room, self.level + (now - self.filled) * self.rate)
        self.filled = now
        return min(BATCH, int((self.level + 1e-9) / self.cost))

    def spend(self, connects):
        """So many connects were started."""
        if self.rate is not None:
            self.level -= connects * self.cost

    def give_way(self, tokens):
        """Others took so many tokens; a burst at most is still missing later.

        More would be what they took while our clock stood still.
        """
        if self.rate is not None:
            least = -max(self.cost, self.rate * BURST_S)
            self.level = max(self.level - tokens, min(least, self.level))

    def set_rate(self, rate, now):
        """A new rate from now on, without debts."""
        self.rate, self.level, self.filled = rate, 0, now

    def wait(self, now):
        """Seconds until one connect may start."""
        if self.rate is None:
            return 0
        return max(0, (self.cost - self.level) / self.rate - (now - self.filled))


AUTO_START = 520            # SYNs a second that -r auto begins with, as without -r
AUTO_LEAST = 200            # its lowest rate
AUTO_MAX = 100000           # its highest rate; -r auto/N names another
AUTO_FEW, AUTO_MANY = 100, 1500     # answers to be expected before it goes on: at first, later
AUTO_SIGMAS, AUTO_DROP = 5, 0.02    # a loss: so much fewer answers than expected
AUTO_LAST_SIGMAS = 2        # at the end: sending some again for nothing costs little
AUTO_UP = 1.1               # steps after the first loss; before it they double
AUTO_MARGIN = 0.8           # after a loss: the next rate, as a share of what came through
AUTO_CAP = 0.9              # and the highest rate for AUTO_HOLD_S, as such a share
AUTO_USED = 0.8             # share of the rate that must be used before a higher one is tried
AUTO_HOLD_S = 60
AUTO_MEMORY = 50000         # probes that the expected number of answers is computed from
AUTO_KEPT = 150000          # silent targets of a level that can be sent again; 30 MB
AUTO_KEPT_STATE = 40000     # and so many with --state, or its slots would be too small
AUTO_FORGIVES = 5           # losses in a row at the lowest rate: the answers have become fewer

AUTO_PATIENCE_S = 6         # with too few answers to judge by it doubles after that, up to ...
AUTO_BLIND = 5000           # ... this rate
AUTO_USUAL = 'start', 'answers hold', 'too few answers to judge by', 'exclude list read again'
AGAIN, HELD = 'again', 'held'   # what becomes of a silent target: sent again now, or perhaps later

Decision = collections.namedtuple('Decision', ['time', 'rate', 'reason'])


class Level:
    """A time of one rate.

    begin   its time; sent: packets of the scan until then
    ended   first tries whose time is over, missed: how many of them had no answer
    silent  targets of those, if they can still be sent again; over: how many did not find room
    lossy   the rate was found to be too high; judged: or to be good, once at least
    """
    __slots__ = 'begin', 'sent', 'rate', 'ended', 'missed', 'silent', 'over', 'lossy', 'judged'

    def __init__(self, begin, sent, rate):
        self.begin, self.sent, self.rate = begin, sent, rate
        self.lossy = self.judged = False
        self.clear()

    def clear(self) -> list:
        """What was counted is judged -> its silent targets."""
        silent = getattr(self, 'silent', [])
        self.ended = self.missed = self.over = 0
        self.silent = []
        return silent


class Judge:
    """-r auto: the rate grows while answers per probe hold, and falls back when they do not.

    Targets come in random order, so the share of them that answers is the same at any time, as
    long as nothing on the way drops packets because of the rate.  It is measured at rates that
    were found to be good; a level whose share is significantly below it (binomial, AUTO_SIGMAS)
    lost packets: what was silent in it is sent again, and the rate becomes AUTO_MARGIN of what
    came through.  Only first tries of targets count.

    levels      those with probes that have not ended; the last is the present one
    good        (first tries, answers) at good rates, the older ones fading
    trial       the same of what was last found good, and its silent targets: good when the next
                is; a small loss at twice the last good rate is not seen at once
    blind       not beyond this rate with too few answers to judge by
    cap, until  not beyond cap before the time until
    decisions   not yet reported
    ended       silent targets of good rates that have been judged
    kept        silent targets of a level for which there is room
    """
    kept = AUTO_KEPT

    def __init__(self, most, share, now):
        """share: of the scan that this engine is, 1 = all of it."""
        self.least, self.most = min(AUTO_LEAST * share, most), most
        self.blind = min(AUTO_BLIND * share, most)
        self.start = min(AUTO_START * share, most)
        self.levels = collections.deque([Level(now, 0, self.start)])
        self.good, self.trial, self.ended = (0, 0), (0, 0, []), []
        self.cap, self.until, self.losses, self.doubling = most, math.inf, 0, True
        self.decisions = [Decision(time.time(), self.start, AUTO_USUAL[0])]
        self.seen = (0, 0, 0)                   # errors at the last look
        self.sigmas = AUTO_SIGMAS

    def level_of(self, sent):
        """The level that something of that time was sent in; what begins one comes after it."""
        return next((level for level in reversed(self.levels) if level.begin < sent),
                    self.levels[0])

    def silent(self, sent, target, retried) -> str:
        """A first try of that time had no answer -> AGAIN, HELD or '': that was it."""
        level = self.level_of(sent)
        level.missed += 1
        if retried:                             # sent again in any case
            return ''
        if level.lossy:
            return AGAIN
        if len(level.silent) >= self.kept:
            level.over += 1
            return ''
        level.silent.append(target)
        return HELD

    def release(self) -> list:
        """Nothing more will be judged -> the silent targets that there are."""
        held, self.ended, self.trial = self.ended + self.trial[2], [], (0, 0, [])
        return held + self.clear_levels()

    def clear_levels(self) -> list:
        return [target for level in self.levels for target in level.clear()]

    def decide(self, rate, reason, now, sent):
        """A new level -> its rate."""
        rate = max(self.least, min(rate, self.most))
        self.levels.append(Level(now, sent, rate))
        self.decisions.append(Decision(time.time(), round(rate, 1), reason))
        return rate

    def look(self, now, timeout_s, sent, errors):
        """Ten times a second -> (new rate or None, targets to be sent again).

        errors  counts of (local errors, canary failures, probes lost to conntrack)
        """
        while len(self.levels) > 1 and self.levels[1].begin + timeout_s + 1 < now:
            self.ended += self.levels.popleft().clear()
        level = self.levels[-1]
        before, self.seen = self.seen, errors
        for then, count, factor, name in zip(before, errors, (0.7, 0.5, 0.5), (
                'local errors', 'canary lost', 'conntrack table full')):
            if count > then and now - level.begin > timeout_s:
                self.doubling, self.cap, self.until = False, level.rate, now + AUTO_HOLD_S
                if level.rate <= self.least:
                    break                       # it cannot go down, and the user knows
                return self.decide(level.rate * factor, name, now, sent), []
        expected = level.ended * self.good[1] / self.good[0] if self.good[0] else 0
        answers = level.ended - level.missed
        if self.is_loss(level.ended, answers, expected):
            return self.back_off(level, answers / expected, now, sent)
        if (expected or answers) >= (AUTO_FEW if self.doubling else AUTO_MANY):
            return self.grow(level, answers, now, sent), []
        if (self.doubling and not level.judged and now - level.begin > AUTO_PATIENCE_S + timeout_s
                and level.rate < self.blind):
            return self.decide(min(level.rate * 2, self.blind), AUTO_USUAL[2], now, sent), []
        return None, []

    def is_loss(self, probes, answers, expected):
        """Whether so few answers are no accident: test of two proportions, pooled."""
        if answers >= (1 - AUTO_DROP) * expected:
            return False
        known, known_answers = self.good
        share = (known_answers + answers) / (known + probes)
        spread = share * (1 - share) * probes * (1 + probes / known)
        return answers < expected - self.sigmas * math.sqrt(max(spread, 1))

    def back_off(self, level, through, now, sent):
        """A loss -> (a part of the rate that came through, silent targets to be sent again)."""
        level.lossy, self.doubling = True, False
        self.losses = self.losses + 1 if level.rate == self.least else 0
        over = ', %d silent targets were too many to keep' % level.over if level.over else ''
        again, self.trial = self.trial[2] + self.clear_levels(), (0, 0, [])
        if self.losses > AUTO_FORGIVES:
            self.good, self.losses, self.doubling = (0, 0), 0, True
            self.cap, self.until = self.most, math.inf
            self.ended += again
            return self.decide(level.rate, 'fewer answers at any rate: that is usual now',
                               now, sent), []
        came = level.rate * through
        self.cap, self.until = came * AUTO_CAP, now + AUTO_HOLD_S
        return self.decide(came * AUTO_MARGIN, '%.0f%% of the answers came at %.0f/s%s' % (
            100 * through, level.rate, over), now, sent), again

    def grow(self, level, answers, now, sent):
        """The level was good -> the next rate, if one more would be used; else None."""
        fade = min(1.0, AUTO_MEMORY / (self.good[0] + 1))
        first = not self.good[0]                # the first rate is good at once
        tried = (level.ended, answers) if first else self.trial
        self.good = tuple(before * fade + count for before, count in zip(self.good, tried))
        self.ended += self.trial[2]
        ended, self.losses, level.judged = level.ended, 0, True
        self.trial = (0, 0, level.clear()) if first else (ended, answers, level.clear())
        if now > self.until:
            self.cap, self.until = self.most, math.inf
        used = (sent - level.sent) / max(now - level.begin, 0.001)
        rate = min(level.rate * (2 if self.doubling else AUTO_UP), self.cap, self.most)
        if used < AUTO_USED * level.rate or rate <= level.rate * 1.001:
            return None
        return self.decide(rate, AUTO_USUAL[1], now, sent)


class Conntrack:
    """The connection tracking table: when it is full, SYNs vanish without an error.

    count, limit    entries now and at most; 0, 0 where the module is not loaded
    """
    COUNT = '/proc/sys/net/netfilter/nf_conntrack_count'
    LIMIT = '/proc/sys/net/netfilter/nf_conntrack_max'
    SPAN = '/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_syn_sent'
    STAT = '/proc/net/stat/nf_conntrack'    # header line, then a line of hex a processor

    def __init__(self):
        self.count = self.limit = 0
        self.drops = self.read_drops()

    def read_drops(self):
        """Packets dropped since boot, all processors; None where this cannot be read."""
        try:
            with open(self.STAT) as file:
                rows = [line.split() for line in file]
            column = rows[0].index('drop')
            return sum(int(row[column], 16) for row in rows[1:])
        except (OSError, ValueError, IndexError):
            return None

    def look(self):
        """How many packets the full table dropped since the last look."""
        drops = self.read_drops()
        if drops is None or self.drops is None:
            return 0
        grown, self.drops = drops - self.drops, drops
        self.count, self.limit = read_sysctl(self.COUNT), read_sysctl(self.LIMIT)
        return grown if not self.has_room() else 0

    def has_room(self):
        return self.count < 0.9 * self.limit

    def carries(self):
        """New unanswered connections a second that the table can hold."""
        return self.limit / max(1, read_sysctl(self.SPAN))


NETLINK_FAMILY = socket.AF_NETLINK          # protocol 0 is NETLINK_ROUTE, rtnetlink(7)
NETLINK = struct.Struct('=IHHII')           # nlmsghdr, linux/netlink.h: length, type, flags,
                                            # sequence, port; every message from a multiple of 4 on
ROUTE = struct.Struct('=8BI')               # rtmsg, linux/rtnetlink.h: family, bits of the
                                            # destination, of the source, TOS, table, protocol,
                                            # scope, type, flags
ATTRIBUTE = struct.Struct('=HH')            # rtattr: length, type; also from a multiple of 4 on
RTM_NEWROUTE, RTM_GETROUTE, NLMSG_DONE = 24, 26, 3
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
RTA_DST, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE, RTA_NH_ID = 1, 6, 9, 15, 30
RTN_THROW, RTM_F_CLONED = 9, 0x200
TABLE_MAIN, TABLE_LOCAL = 254, 255
CHANGES = 0x1 | 0x10 | 0x40 | 0x80          # RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE
ROUTES_MAX = 300                            # more: a router, whose routes never rest
FOLLOWS_S = 60                              # a second change so soon: they do not rest

Route = collections.namedtuple('Route', 'table bits first last metric')


def split_netlink(octets: bytes, begin: int, header: struct.Struct):
    """Messages, or attributes of one, from a place on -> (fields of its header, body) of each."""
    while begin + header.size <= len(octets):
        fields = header.unpack_from(octets, begin)
        size = fields[0]
        if not header.size <= size <= len(octets) - begin:
            raise ValueError('netlink: cut off')
        yield fields, octets[begin + header.size:begin + size]
        begin += -(-size // 4) * 4


def parse_route(body: bytes) -> 'list[Route]':
    """A message of RTM_NEWROUTE -> [Route] or []; ValueError: it does not decide the source."""
    _, bits, from_bits, tos, table, _, _, kind, flags = ROUTE.unpack_from(body)
    if flags & RTM_F_CLONED:
        return []
    found = {kind: value for (_, kind), value in split_netlink(body, ROUTE.size, ATTRIBUTE)}
    table = int.from_bytes(found.get(RTA_TABLE, bytes([table])), sys.byteorder)
    if (table not in (TABLE_MAIN, TABLE_LOCAL) or from_bits or tos or kind == RTN_THROW
            or RTA_MULTIPATH in found or RTA_NH_ID in found):
        raise ValueError('routed by more than the destination')
    first = int.from_bytes(found.get(RTA_DST, b''), 'big')
    return [Route(table, bits, first, first | (1 << 32 - bits) - 1, found.get(RTA_PRIORITY, b''))]


def check_defaults(routes: 'list[Route]') -> 'list[Route]':
    """The same; ValueError: of equal default routes the kernel takes one whose gateway answers."""
    defaults = [route for route in routes if not route.bits]
    if len(set(defaults)) < len(defaults):
        raise ValueError('routed by which neighbour answers')
    return routes


def read_routes() -> 'list[Route]':
    """IPv4 routes: the first that has an address is its own.  OSError, ValueError: who knows."""
    with socket.socket(NETLINK_FAMILY, socket.SOCK_RAW) as sock:
        sock.settimeout(1)
        sock.send(NETLINK.pack(NETLINK.size + ROUTE.size, RTM_GETROUTE,
                               NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
                  + ROUTE.pack(socket.AF_INET, *[0] * 8))
        routes = []
        while len(routes) <= ROUTES_MAX:
            for (_, kind, flags, _, _), body in split_netlink(sock.recv(1 << 17), 0, NETLINK):
                if kind == NLMSG_DONE:      # the table of own addresses is asked before the other
                    return sorted(check_defaults(routes), reverse=True)
                if kind != RTM_NEWROUTE or flags & NLM_F_DUMP_INTR:
                    raise ValueError('netlink: an error, or not of one moment')
                routes += parse_route(body)
        raise ValueError('too many')


class SourceAddress:
    """The address that all targets of a scan are reached from, if it is one.

    Bound to a port alone, a socket gets an address by each connect() and loses it by shutdown();
    the kernel moves it between lists for that, under locks that all processes share
    (inet_bhash2_update_saddr(), Linux 6.1): 5 to 8 % of a probe, 17 with two workers.  So sockets
    are bound to the address that the kernel would choose, as long as routes make it the same.

    ranges  merged (first, last) pairs
    """

    def __init__(self, ranges):
        self.ranges, self.watch = ranges, None

    def find(self) -> str:
        """The present one; '' if it is unknown, or there are several, or none."""
        if is_in(0, self.ranges):           # 0.0.0.0 is loopback, but only from an unbound socket
            return ''
        try:
            routes = read_routes()
        except (OSError, ValueError, struct.error):
            return ''
        found = {TABLE_LOCAL: set(), TABLE_MAIN: set()}
        for number, route in enumerate(routes):
            target = self.sample(route, routes[:number])
            source = '' if target is None else ask_source(target)
            if source:
                found[route.table].add(source)
        sources = found[TABLE_LOCAL]        # own addresses can be reached from each other
        if found[TABLE_MAIN]:
            sources = found[TABLE_MAIN] | sources & {'127.0.0.1'}
        return sources.pop() if len(sources) == 1 else ''

    def sample(self, route, before) -> 'int | None':
        """A target of a route that none before has."""
        at = self.target_from(route.first)
        while at is not None and at <= route.last:
            other = next((each for each in before if each.first <= at <= each.last), None)
            if not other:
                return at
            at = self.target_from(other.last + 1)
        return None

    def target_from(self, ip) -> 'int | None':
        """The first target that is not below an address."""
        if is_in(ip, self.ranges):
            return ip
        place = bisect.bisect_right(self.ranges, (ip, ADDRESSES_MAX))
        return self.ranges[place][0] if place < len(self.ranges) else None

    def open(self) -> str:
        """From now on changed() knows, in this process -> find(); '' if that is not allowed."""
        self.close()
        try:
            self.watch = socket.socket(NETLINK_FAMILY, socket.SOCK_RAW)
            self.watch.setblocking(False)
            self.watch.bind((0, CHANGES))
        except OSError:
            self.close()
        return self.find() if self.watch else ''

    def close(self):
        if self.watch:
            self.watch.close()
            self.watch = None

    def changed(self) -> bool:
        """Have links, addresses, routes or rules changed since the last call?"""
        changed = False
        while self.watch:
            try:
                self.watch.recv(1 << 17)
            except BlockingIOError:
                return changed
            except OSError:                 # ENOBUFS: there were more than it holds
                pass
            changed = True
        return False


def has_address(address: str) -> bool:
    """Whether it is one of this machine; True if that is unknown."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
            if address != '0.0.0.0':        # -bi: each connect() chooses
                sock.connect((address, 9))  # sysctl ip_nonlocal_bind: bind() is content with any
    except OSError as error:
        return error.errno in LOCAL - {errno.EINVAL}        # EMFILE: no socket to try
    return True


def ask_source(target: int) -> str:
    """The address that the kernel would send from, '' if it would not send; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((ip_text(target), 9))
            return sock.getsockname()[0]
    except OSError:
        return ''


def read_sysctl(path: str) -> int:
    """The number in a file of /proc/sys, 0 if there is none."""
    try:
        with open(path) as file:
            return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


class Canary:
    """One connect to a host that is known to answer: if it fails, packets are being lost.

    after   it is due when so many packets are sent; then every so many, 0 = never again
    state   'waiting' for its packet count, 'sent', then 'open', 'timed out' or 'not open'
    """

    def __init__(self, host, port, after, source, every=0):
        self.address, self.after, self.source = (host, port), after, source
        self.every = every
        self.state, self.sock, self.due = 'waiting', None, None
        self.ended = 0              # how many have come to their end
        self.failed = 0             # how many of them failed
        self.row = 0                # failures since the last that did not
        self.last = ''              # state of the last failure, '' = none yet

    def start(self, now, timeout_s):
        """Send it, from a port of its own; OSError of the machine: another time."""
        try:
            self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self.sock.setblocking(False)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            if self.source:
                self.sock.bind((self.source, 0))
        except OSError:
            if self.sock:
                self.sock.close()
            return False
        self.state, self.due = 'sent', now + timeout_s
        self.look(now, self.sock.connect_ex(self.address))
        return True

    def is_due(self, sent):
        """Is another to be sent?  One under way is never doubled: its turn is left out."""
        return self.state != 'sent' and sent >= self.after and (self.every or not self.ended)

    def count(self, sent):
        """It has come to its end -> 'failed', 'failed again', 'open again', '' if all is well."""
        self.ended += 1
        if self.every:
            self.after = max(self.after, sent - sent % self.every) + self.every
        before, self.row = self.row, 0
        if self.state == 'open':
            return 'open again' if before else ''
        again = before and self.state == self.last
        self.failed, self.row, self.last = self.failed + 1, before + 1, self.state
        return 'failed again' if again else 'failed'

    def text(self):
        """'canary 3 of 7 failed, last: timed out', for the status line and the final one."""
        if not self.ended:
            return ''
        if self.failed:
            return 'canary %d of %d failed, last: %s' % (self.failed, self.ended, self.last)
        return 'canary %d of %d open' % (self.ended, self.ended) if self.every else ''

    def look(self, now, code=None):
        """Ask for its result by connect() once more -> whether it has ended."""
        if code is None:
            code = self.sock.connect_ex(self.address)
        if code not in (EINPROGRESS, EALREADY):
            self.state = 'open' if code in OPEN else 'not open'
        elif now >= self.due:
            self.state = 'timed out'
        else:
            return False
        self.sock.close()
        return True


class Brakes:
    """How fast an engine may go: rate, window, and what the machine refuses or loses.

    now     in all methods: the engine's time of deadlines

    bucket      Bucket of the rate
    window      pending connects at most, now: local errors shrink it
    held        nothing is sent before this time
    errors      {errno: local errors}
    blocked     (since, errno, how many) local errors in a row; None: the last connect() went out
    conntrack   Conntrack, looked: when it was last looked at
    slowed      when it last made the pace go down, < 0 = never
    suspects    (from, to): SYNs sent then may be lost
    """

    def __init__(self, pace, now):
        self.pace = pace
        self.bucket = Bucket(pace.rate, pace.syns, now)
        self.window, self.shrunk = pace.window, -1.0        # shrunk: when it last became smaller
        self.held = -1.0
        self.errors, self.blocked = collections.Counter(), None
        self.conntrack, self.looked, self.slowed = Conntrack(), 0.0, -1.0
        self.suspects = collections.deque()

    def credit(self, now):
        """How many connects may start."""
        return 0 if now < self.held else self.bucket.credit(now)

    def wait(self, now):
        """Seconds until one may start."""
        return max(self.bucket.wait(now), self.held - now, 0)

    def hold(self, until):
        """Send nothing before this time."""
        self.held = max(self.held, until)

    def set_rate(self, rate, now):
        """-r auto: another rate from now on."""
        self.pace = self.pace._replace(rate=rate)
        self.bucket.set_rate(rate, now)

    def relax(self, now):
        """Ten times a second: a window that shrank grows again."""
        if now - self.shrunk > 1:
            self.window = min(self.pace.window, self.window + max(1, self.window // 20))

    def binding(self, pending, now) -> 'list[str]':
        """What keeps the scan from being faster, with so many pending connects."""
        bucket = self.bucket
        return [name for name, binds in (
            ('local errors', now < self.held or self.window < self.pace.window),
            ('conntrack', self.yields()),
            ('window', pending >= self.window),
            ('rate', bucket.rate is not None and bucket.level < bucket.cost)) if binds]

    # ---- local errors ----

    def local_error(self, code, sockets, now):
        """The machine, not the net, said no: count it, hold, make the window smaller."""
        self.errors[code] += 1
        self.held = now + LOCAL_HOLD_S
        self.block(code, now)
        if now - self.shrunk >= TICK_S:
            self.shrunk = now
            least = max(1, self.pace.window // 16)
            self.window = max(1, min(max(least, self.window * 3 // 4), sockets))

    def block(self, code, now):
        """Nothing came through since the first of these in a row."""
        since, first, count = self.blocked or (now, code, 0)
        self.blocked = since, first, count + 1

    def none_sent(self, now):
        """Not one of several connects came through: hold; EPERM is a matter of single targets."""
        if self.blocked and self.blocked[1] != errno.EPERM:
            self.hold(now + TICK_S)

    def is_blocked(self, others, now):
        """Whether local errors have let nothing through for long.

        others  EPERM is a matter of single targets: do others still come?
        """
        if not self.blocked:
            return False
        since, code, count = self.blocked
        if code == errno.EPERM and others:
            return False
        return count >= GIVE_UP_TRIES and now - since > GIVE_UP_S[code in CLASH]

    def block_text(self):
        """The local error that blocks, and what to change."""
        code = self.blocked[1] if self.blocked else max(
            self.errors, key=self.errors.get, default=0)
        return '%s (%s): %s' % (errno.errorcode.get(code, code), os.strerror(code),
                                REMEDIES.get(code, 'lower -m and -r'))

    # ---- conntrack ----

    def watch_conntrack(self, average, now) -> str:
        """Drops: what was sent since the last look is suspect, and the pace goes down.

        Expired entries may fill the table for another minute, until the kernel collects them; so
        the pace is halved each second, and back at half of what the table carries with the room.

        average     connects a second up to now
        returns     the first time what happens, for the user; else ''
        """
        dropped = self.conntrack.look()
        looked, self.looked = self.looked, now
        while self.suspects and self.suspects[0][1] < now - self.pace.timeout_s - 5:
            self.suspects.popleft()         # all of them have come to their deadline
        if not dropped:
            self.recover()
            return ''
        first = self.slowed < 0
        self.suspects.append((looked - TICK_S, now))
        if now - self.slowed > 1:
            self.slowed = now
            rate = (self.bucket.rate or average) / 2
            self.bucket.set_rate(max(1.0, min(rate, self.conntrack.carries())), now)
        return '' if not first else (
            'conntrack table full (%d of %d): slowing down, sending again; raise sysctl '
            'net.netfilter.nf_conntrack_max or exempt the scan from tracking'
            % (self.conntrack.count, self.conntrack.limit))

    def recover(self):
        """No drops: a pace that conntrack made go down rises again, if there is room."""
        if self.yields() and self.conntrack.has_room():
            self.bucket.rate = max(self.bucket.rate * 1.02, self.conntrack.carries() / 2)
            if self.bucket.rate >= (self.pace.rate or self.window / self.pace.timeout_s):
                self.bucket.rate = self.pace.rate

    def yields(self) -> bool:
        """Whether the pace is lower than it should be, because of conntrack."""
        return self.slowed >= 0 and self.bucket.rate != self.pace.rate

    def is_suspect(self, sent):
        """Was a SYN of this time perhaps dropped by conntrack?"""
        return any(low <= sent <= high for low, high in self.suspects)


class Queue:
    """Targets that are still to be sent: fresh ones of a source, and those that wait.

    source      Columns of fresh targets
    quota       how many more to take from source, None = all
    exhausted   source is at its end, or the quota
    drawn       targets taken from source; base: before the last draw()
    waiting     heap of (due, serial, target, parked) to be tried (again)
    parked      how many of them a local error sent there
    stuck       {target: its local errors} until it is sent
    tries       {target: how often it timed out}, if it is to be retried
    remembers   whether `again` is kept: a state or a judge needs it
    again       {target that had to wait: True}, until it ends; False: it has ended, but the judge
                may want it again
    known       resumed: targets that waited then; up to the place known_to some of them may
                stand in source
    """

    def __init__(self, source, quota):
        self.source, self.quota, self.exhausted = source, quota, False
        self.drawn = self.base = 0
        self.waiting, self.serial, self.parked = [], itertools.count(), 0
        self.stuck, self.tries = {}, {}
        self.remembers, self.again = False, {}
        self.known, self.known_to = set(), 0

    def draw(self, count, now):
        """Up to count targets, (hosts, ports): those that waited long enough, then fresh ones."""
        hosts, ports, self.base = [], [], self.drawn
        while self.waiting and self.waiting[0][0] <= now and len(hosts) < count:
            _, _, (host, port), parked = heapq.heappop(self.waiting)
            self.parked -= parked
            hosts.append(host)
            ports.append(port)
        more = count - len(hosts)
        if more > 0 and not self.exhausted:
            fresh_hosts, fresh_ports = self.draw_fresh(more)
            hosts += fresh_hosts
            ports += fresh_ports
        return hosts, ports

    def draw_fresh(self, count):
        """Up to count targets of source, those left out that wait already."""
        if self.quota is not None:
            count = min(count, self.quota)
            self.quota -= count
        hosts, ports = self.source.take(count)
        self.exhausted = len(hosts) < count or self.quota == 0
        again = self.drawn < self.known_to      # then source yields them for the second time
        self.drawn += len(hosts)
        if again:
            return select_rows((hosts, ports), [
                target not in self.known for target in zip(hosts, ports)])
        return hosts, ports

    def draw_another(self):
        """In the place of one that could not be sent, if there is a quota."""
        if self.quota is not None:
            self.quota += 1
            self.exhausted = False

    def due(self) -> float:
        """When the next target can be sent: -inf = at once, inf = there is none."""
        if not self.exhausted:
            return -math.inf
        return self.waiting[0][0] if self.waiting else math.inf

    def put(self, target, due, parked=False):
        """A target is to be tried (again); parked: for a local error."""
        heapq.heappush(self.waiting, (due, next(self.serial), target, parked))
        if self.remembers:
            self.again[target] = True
        self.parked += parked

    def count_error(self, target) -> float:
        """A target met a local error -> seconds that it waits: longer each time."""
        count = self.stuck.get(target, 0)
        self.stuck[target] = count + 1
        return min(LOCAL_WAIT_S * 2 ** min(count, 10), LOCAL_WAIT_MAX_S)

    def went_out(self, hosts, ports):
        """The machine let connects to these through."""
        if self.stuck:
            for target in zip(hosts, ports):
                self.stuck.pop(target, None)

    def count_try(self, target, most) -> int:
        """A target had no answer -> the number of its next try, 0 = it had so many."""
        tries = self.tries.get(target, 0)
        if tries >= most:
            return 0
        self.tries[target] = tries + 1
        return tries + 1

    def forget(self, target):
        """It has ended."""
        if self.tries:
            self.tries.pop(target, None)
        if self.again:
            self.again.pop(target, None)

    def rows(self) -> 'list[tuple[str, int, int]]':
        """For a snapshot: (host, port, how often it timed out) of what had to wait."""
        return [(host, port, self.tries.get((host, port), 0)) for host, port in self.again]

    def resume(self, snapshot, now):
        """Go on where a snapshot was taken; source begins at its position."""
        self.drawn = snapshot['position']
        if self.quota is not None:
            self.quota = max(0, self.quota - self.drawn)
        for host, port, tries in snapshot['waiting']:
            if tries:
                self.tries[host, port] = tries
            self.put((host, port), now)
            self.again[host, port] = True
        self.known, self.known_to = set(self.again), snapshot['drawn']


class Runner:
    """What one Engine and a Team of them have in common.

    desk            Desk, from run() on
    stop(reason)    send nothing more; bar(): heed that the exclude list has grown
    """
    desk = None

    def fail(self, error):
        """Stop, and for a reason that the user has to mend."""
        self.error = self.error or error
        self.stop('error')

    def reopen(self):
        """The files of --log and --status by their names."""
        self.desk.reopen()

    def reread(self):
        """SIGHUP, and no terminal was closed: open files again, read the exclude list again."""
        self.hup = False
        self.reopen()
        if not self.exclusions:
            return
        try:
            new = self.exclusions.reread()
        except UserError as error:
            return self.desk.event('SIGHUP: %s; the exclude list before stays'
                                   % str(error).replace('\n', '; '))
        self.bar()
        self.desk.reread(self.exclusions, new)
        if not self.exclusions.left():
            self.stop(ALL_EXCLUDED)


class Pool:
    """The sockets of an engine: bound alike, in one epoll set from birth to death.

    address     of ours, '' = the kernel's choice; port: 0 = the kernel's choice for each target
    local_error called with the errno if a socket cannot be made
    """
    dissolve = None                     # see load_dissolve(): with the first open port

    def __init__(self, address, port, local_error):
        self.address, self.port, self.local_error = address, port, local_error
        self.epoll = select.epoll()
        self.mask = select.EPOLLOUT | select.EPOLLET
        self.socks = {}                 # descriptor -> socket, all there are, but those of talks
        self.lent = {}                  # the same of those that talks have
        self.free = []                  # those that are ready for connect()
        self.uses = {}                  # socket -> how many open ports it met

    def close(self):
        """All of them; the pool is of no use then."""
        self.epoll.close()
        self.lent.clear()
        for sock in self.socks.values():
            sock.close()

    def rebind(self, address):
        """Another address of ours: all sockets, none of which is under way, are made anew.

        Those of talks are when they come home.
        """
        self.address = address
        self.uses.update(dict.fromkeys(self.lent.values(), REUSES))
        self.free.clear()
        for sock in list(self.socks.values()):
            self.renew(sock)

    def add(self):
        """One more free socket, in the epoll set; raises OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
            if self.port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            if self.port or self.address:
                sock.bind((self.address, self.port))
            self.epoll.register(sock, self.mask)
        except OSError:
            sock.close()
            raise
        self.socks[sock.fileno()] = sock
        self.free.append(sock)

    def bind_first(self, tries):
        """Make the first socket; a taken source port gives way to one of the next `tries`."""
        wanted = self.port
        for self.port in range(wanted, min(wanted + (tries if wanted else 0), PORT_MAX) + 1):
            try:
                return self.add()
            except OSError as error:
                if error.errno in LOCAL:
                    raise UserError('no socket can be made: %s: %s' % (
                        why(error), REMEDIES.get(error.errno, 'lower -m'))) from None
                if error.errno != errno.EADDRINUSE:
                    raise UserError('source %s:%d: %s' % (
                        self.address or '0.0.0.0', self.port, why(error))) from None
        raise UserError('argument -b: ports %d to %d are in use: choose another, or more with -bt'
                        % (wanted, self.port))

    def grow(self):
        """One more free socket -> True, or False and a local error."""
        try:
            self.add()
        except OSError as error:
            self.local_error(error.errno)
            return False
        return True

    def take(self, count):
        """Up to count sockets ready for connect()."""
        while len(self.free) < count and self.grow():
            pass
        taken = self.free[-count:] if count else []
        del self.free[len(self.free) - len(taken):]
        return taken

    def renew(self, sock):
        """Close a socket that cannot be used again (with RST, if connected), make another.

        While another process of -w has its copy, close() alone would leave it in the epoll set,
        and its events would come in the name of the next with this descriptor (epoll(7)).
        """
        self.release(sock)
        sock.close()
        self.grow()

    def release(self, sock):
        """It is no longer ours."""
        fd = sock.fileno()
        if not self.lent.pop(fd, None):
            del self.socks[fd]
        self.uses.pop(sock, None)
        self.epoll.unregister(sock)

    def hear(self):
        """From now on there are talks, which wait for octets as well."""
        self.mask |= select.EPOLLIN
        for fd in self.socks:
            self.epoll.modify(fd, self.mask)

    def give(self, socks):
        """Connected sockets leave the pool, as others would have made them, for a talk.

        They stay in the epoll set.
        """
        for sock in socks:
            fd = sock.fileno()
            self.lent[fd] = self.socks.pop(fd)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, -1)       # the system's
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def take_home(self, sock):
        """A talk is over: its socket becomes free, for the scan."""
        fd = sock.fileno()
        self.socks[fd] = self.lent.pop(fd)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        self.reuse([sock])

    def reuse(self, socks):
        """Sockets that are connected, or were just now, become free: RST, and no other word.

        One system call; to close a socket and to make another takes ten.  After it nobody learns
        what address the socket had, and what ICMP said of the former target (SO_ERROR) would end
        the next one: it is read before.  Its buffers, which the kernel lets grow, and its sequence
        numbers, which go on from the last, end with the socket after some uses.
        """
        if not self.dissolve:
            self.dissolve = load_dissolve()
        for _ in map(SOCKET_OPTION, socks, ONLY_SOCKET, ONLY_ERROR):
            pass
        failed = any(list(map(self.dissolve, map(FILENO, socks), ONLY_UNSPEC, ONLY_SIZE)))
        uses = self.uses
        for sock in socks:
            uses[sock] = uses.get(sock, 0) + 1
        worn = [sock for sock in socks if failed or uses[sock] > REUSES]
        if worn:
            socks = [sock for sock in socks if sock not in worn]
            for sock in worn:
                self.renew(sock)
        self.free += socks


class Cohort:
    """Connects that began together, in columns.

    due     when their time is over
    drawn   targets that had been taken from the source before them
    fresh   with a judge: first tries among what was sent then, also what ended at once
    whole   none has ended since; a cohort that stays so until it is due is used for the next
            targets as it is: 0.2 us less of the 3 to 4 that a probe takes
    """
    __slots__ = 'socks', 'hosts', 'ports', 'due', 'drawn', 'fresh', 'whole', 'found'

    def __init__(self, socks):
        self.socks, self.whole = socks, True

    def begin(self, hosts, ports, due, drawn, fresh):
        self.hosts, self.ports, self.found = hosts, ports, None
        self.due, self.drawn, self.fresh = due, drawn, fresh

    def targets(self) -> dict:
        """{socket: (host, port)} of its columns; many of a silent net are never asked."""
        if self.found is None:
            self.found = dict(zip(self.socks, zip(self.hosts, self.ports)))
        return self.found

    def keep(self, selectors):
        """Keep only the rows whose selector is true: all of those wait."""
        self.socks, self.hosts, self.ports = select_rows(
            (self.socks, self.hosts, self.ports), selectors)
        self.whole, self.found = True, None


class Meter:
    """What an engine reports for -mf: this one is for scans without it, and keeps nothing.

    Each method is called once a turn, or once for what is rare in a turn: a silent probe pays
    for none of them.
    """

    def make_pool(self, *args) -> Pool:
        """The pool whose sockets are measured."""
        return Pool(*args)

    def begin(self, desk):
        """The scan begins; desk: for notes of what becomes of the file."""

    def clock(self, real):
        """The engine's clock goes on."""

    def woke(self, count, asked):
        """The nap is over: so many events after at most so many seconds."""

    def ended(self, free, before):
        """Events were looked at: sockets that became free by it stand in free[before:]."""

    def closed(self, sock):
        """A connect ended in an error that only SO_ERROR knew."""

    def opened(self, socks, results=True):
        """Connects were successful; results: False if the socket met itself."""

    def no_answer(self, sock):
        """A connect had no answer."""

    def odd(self, sock, code, old):
        """See Engine.odd()."""

    def taken_back(self, socks, taken):
        """Overdue sockets, and those of them that shutdown() made unconnected."""

    def connected(self, socks, again):
        """Connects of these are under way; again: they were before, and had no answer."""

    def leave_idle(self, attempts):
        """Sockets that are in no attempt may be others from now on."""

    def tick(self):
        """Ten times a second."""

    def mark(self) -> dict:
        """What a snapshot needs to know."""
        return {}

    def sync(self):
        """What was measured before the last snapshot goes to the disk."""


class Engine(Runner):
    """Connects to what source yields, as fast as pace allows, and reports what is open.

    source      Columns of fresh targets
    address     of ours, '' = the kernel's choice; port: 0 = the kernel's choice for each target
    once        True: a target whose source port clashes is tried again; False: another is drawn
    quota       how many targets to take from source, None = all
    retries     how often a target that did not answer is tried again
    runtime     seconds after which nothing more is sent
    meter       Meter, None = one that keeps nothing
    """
    show = frozenset()                  # --show: of STATES; the crew learns which targets end so
    home = None                         # SourceAddress that run() asks for the address, or None

    def __init__(self, source, pace, address='', port=0, once=False, quota=None, retries=0,
                 runtime=math.inf, canary=None, meter=None):
        self.queue, self.pace = Queue(source, quota), pace
        self.meter = meter or Meter()
        self.pool = self.meter.make_pool(address, port, self.local_error)
        self.once, self.retries, self.runtime = once, retries, runtime
        self.canary = canary
        self.followed = -math.inf       # when it last was another
        self.exclusions = None          # what SIGHUP reads again
        self.hup = False                # it has come; a worker: the first process passed it on
        self.barred = 0                 # targets skipped because of it
        self.judge = None               # -r auto
        # Connects between two looks at the events: of few sockets an eighth, so that caches still
        # hold at connect() what shutdown() touched (5 % of a probe, 1,000 pending in a silent net)
        self.most = max(BATCH // 4, min(BATCH, pace.window // 8))
        self.batch = self.most          # overdue ones at a time; with a judge those of one cohort
        self.ending = 0.0               # with a judge: when what is overdue just now was sent
        self.attempts = {}              # socket -> Cohort in which it waits for its target
        self.cohorts = collections.deque()      # in order of due; sockets of them that do not
                                                # wait in them any more are stale
        self.keeper = None              # --state: what keeps the position
        self.talks = None               # Talks in our thread
        self.stopping = ''              # why nothing more is sent
        self.error = ''                 # if that is for the user to mend: what, and how
        self.sent = 0                   # connects that sent a SYN
        self.timeouts = 0               # targets that did not answer
        self.opened = 0
        self.selfs = 0                  # connected to themselves: no result
        self.clashes = 0
        self.repeats = 0                # retries sent
        self.answers = collections.Counter()    # errno -> answers of the net
        self.lost = 0                   # targets sent again, as their SYNs perhaps were lost
        self.real = self.now = time.monotonic()
        self.frozen = 0.0               # seconds that the clock of deadlines stood still
        self.next_tick = self.real
        self.elapsed = 0.0              # seconds that the scan had run before it was resumed
        self.started = self.real
        self.brakes = Brakes(pace, self.now)

    def close(self):
        """The engine is of no use then."""
        self.pool.close()
        if self.home:
            self.home.close()

    # ---- targets ----

    def draw(self, count):
        """Up to count targets, (hosts, ports), of which none is excluded."""
        if self.stopping or count <= 0:
            count = 0
        hosts, ports = self.queue.draw(count, self.now)
        if self.exclusions and self.exclusions.barred:
            return self.without_barred(hosts, ports)
        return hosts, ports

    def without_barred(self, hosts, ports):
        """Those that have not been excluded since the scan began."""
        kept = [not self.exclusions.bars(host) for host in hosts]
        for target in itertools.compress(zip(hosts, ports), map(operator.not_, kept)):
            self.barred += 1
            self.queue.forget(target)
        return select_rows((hosts, ports), kept)

    def bar(self):
        """What is under way to new ranges is taken back."""
        under_way = [sock for sock, cohort in self.attempts.items()
                     if self.exclusions.bars(cohort.targets()[sock][0])]
        for sock in self.take_back(under_way):
            target = self.end_attempt(sock)
            self.barred += 1
            self.queue.forget(target)
            code = CONNECT(sock, NOWHERE)
            if code == EISCONN:
                self.pool.reuse([sock])
            elif code in DEAD:
                self.pool.renew(sock)
            else:
                self.pool.free.append(sock)
        if self.judge and under_way:        # they would count as answers
            self.judge.decide(self.judge.levels[-1].rate, AUTO_USUAL[3], self.now,
                              self.sent * self.pace.syns)
        self.meter.leave_idle(self.attempts)    # what is taken back has no end in the file

    def wait_for(self, target, seconds, parked=False):
        """The target is tried (again) in so many seconds."""
        self.queue.put(target, self.now + seconds, parked)
        if self.queue.parked > PARKED_MAX:
            self.fail('%d targets wait: %s' % (self.queue.parked, self.brakes.block_text()))

    # ---- outcomes ----

    def totals(self) -> Totals:
        """What became of everything up to now."""
        return Totals(*(getattr(self, name) for name in KEPT_COUNTERS), len(self.attempts),
                      len(self.queue.waiting), self.queue.drawn, self.binding(),
                      self.canary.text() if self.canary else '', self.answers,
                      self.brakes.errors)

    def binding(self) -> 'list[str]':
        """What keeps the scan from being faster, just now."""
        limits = self.brakes.binding(len(self.attempts), self.now)
        return ['modules'] + limits if self.desk and self.desk.full() else limits

    def report(self, target, code, sock):
        """Count what became of a target, and report it if it is open."""
        if code in OPEN:
            self.report_open(target, code, sock)
        elif code == errno.ETIMEDOUT:
            self.meter.no_answer(sock)
            return self.given_up(target)
        else:
            self.answers[code] += 1
            if self.show:
                self.show_closed(target, code)
        self.queue.forget(target)

    def show_closed(self, target, code):
        """--show: how a target that is not open has ended, if that is wanted."""
        state = SHOWN_STATES.get(code, 'unreachable')
        if state in self.show:
            self.desk.put_state(*target, state, NAMES.get(code, errno.errorcode.get(
                code, str(code))) if state != 'silent' else 'no answer')

    def report_open(self, target, code, sock):
        """Report an open target, unless the socket has connected to itself."""
        if self.pool.port in (0, target[1]) and code in (0, EISCONN) and is_own_name(sock, target):
            return self.count_self(target, sock)
        self.opened += 1
        self.desk.put(*target)
        self.meter.opened([sock])

    def given_up(self, target):
        """The kernel ended the attempt before its deadline: the target ends, or is tried again."""
        if not self.try_again(target):
            self.answers[errno.ETIMEDOUT] += 1
            if self.show:
                self.show_closed(target, errno.ETIMEDOUT)
            self.queue.forget(target)

    def unanswered(self, target):
        """Its deadline is over: the target ends, or is tried again."""
        fate = self.judge and target not in self.queue.again and self.judge.silent(
            self.ending, target, self.retries)
        if fate == AGAIN:
            return self.lose(target)
        if not self.try_again(target):
            self.timeouts += 1
            if self.show:
                self.show_closed(target, errno.ETIMEDOUT)
            self.queue.forget(target)
            if fate == HELD and self.keeper:
                self.queue.again[target] = False

    def lose(self, target):
        """Its deadline is over, and perhaps its SYN never left: it waits to be sent again."""
        self.lost += 1
        self.wait_for(target, LOCAL_WAIT_S)

    def try_again(self, target):
        """--retries: let a target wait for its next try, after a growing while, if it has one."""
        if not self.retries or (self.stopping and not self.keeper):
            return False
        number = self.queue.count_try(target, self.retries)
        if number:
            self.repeats += 1
            self.wait_for(target, retry_wait(self.pace, number))
        return bool(number)

    def local_error(self, code):
        """The machine, not the net, said no."""
        self.brakes.local_error(code, len(self.pool.socks), self.now)

    def park(self, target):
        """A target that met a local error waits."""
        self.wait_for(target, self.queue.count_error(target), True)

    def odd(self, sock, target, code, old):
        """A connect() that did not just start; old: what the socket waited for before, or None."""
        self.meter.odd(sock, code, old)
        if code == EISCONN:                 # established between deadline and shutdown()
            self.report(old, code, sock)
            self.pool.reuse([sock])
            self.wait_for(target, 0)
            return
        if old:
            self.meter.no_answer(sock)
            self.unanswered(old)
            if code == errno.EINVAL:        # shutdown() of a simultaneous open: dead for ever
                self.pool.renew(sock)
                self.wait_for(target, 0)
                return
        if code == 0:
            self.count_sent(1)
            self.report(target, code, sock)
            self.pool.reuse([sock])
            return
        if old and code in UNKNOWN:
            self.pool.renew(sock)                # nobody knows whether that was established
        else:
            self.pool.free.append(sock)
        if code in CLASH and self.pool.port:
            self.clash(target, code)
        elif code in LOCAL or code in CLASH:
            self.local_error(code)
            self.park(target)
        else:
            self.queue.stuck.pop(target, None)
            self.count_sent(1)
            self.report(target, code, sock)

    def count_sent(self, count):
        self.sent += count
        self.brakes.bucket.spend(count)

    def clash(self, target, code):
        """The target is under way already, or its connection in TIME_WAIT."""
        self.clashes += 1
        self.brakes.hold(self.now + 0.001)      # do not spin where all targets clash
        if self.once:
            self.brakes.block(code, self.now)
            self.wait_for(target, CLASH_WAIT_S, True)
        else:
            self.queue.draw_another()

    # ---- the loop ----

    def collect(self, events):
        """Events -> answers: connect() once more returns the result of an attempt.

        This second connect() ignores its target.  Most answers are refusals: they are counted
        together, and nobody asks for their targets; map() keeps the loop in C.
        """
        attempts, before = self.attempts, len(self.pool.free)
        socks = list(filter(attempts.__contains__,
                            map(self.pool.socks.get, map(DESCRIPTOR_OF, events))))
        if self.talks and len(socks) < len(events):
            self.talks.heed(events)
        codes = list(map(CONNECT, socks, itertools.repeat(NOWHERE)))
        refusal = errno.ECONNREFUSED
        refused = codes.count(refusal)      # not in attempts: stray HUPs of a shutdown()
        if refused < len(codes):
            opened = [sock for sock, code in zip(socks, codes) if not code]
            if opened:
                self.heed_open(opened)
            if len(opened) + refused < len(codes):
                for sock, code in zip(socks, codes):
                    if code and code != refusal:
                        self.heed_answer(sock, code)
            socks = [sock for sock, code in zip(socks, codes) if code == refusal]
        if refused:
            self.answers[refusal] += refused
            self.pool.free += socks
            if self.queue.tries or self.queue.again or self.show:
                for sock in socks:
                    self.end_refused(self.end_attempt(sock))
            else:
                for cohort in set(map(attempts.pop, socks)):
                    cohort.whole = False
        self.meter.ended(self.pool.free, before)

    def heed_open(self, socks):
        """Attempts that were successful: together they cost less than one by one."""
        cohorts = list(map(self.attempts.pop, socks))
        for cohort in set(cohorts):
            cohort.whole = False
            cohort.targets()
        targets = [cohort.found[sock] for sock, cohort in zip(socks, cohorts)]
        given = self.report_all_open(targets, socks)
        if given:
            self.pool.give(given)
            socks = list(set(socks).difference(given))
        self.pool.reuse(socks)

    def report_all_open(self, targets, socks):
        """Count open targets, and report them -> sockets that become connections of talks."""
        port = self.pool.port
        if not port or port in map(PORT_OF, targets):       # it may be connected to itself
            targets, socks = self.without_selfs(targets, socks)
        self.opened += len(targets)
        given = self.desk.put_all(targets, socks)
        self.meter.opened(socks)
        if self.queue.tries or self.queue.again:
            for target in targets:
                self.queue.forget(target)
        return given

    def without_selfs(self, targets, socks):
        """Those that have not connected to themselves; the others are counted."""
        kept = []
        for target, sock in zip(targets, socks):
            if self.pool.port in (0, target[1]) and is_own_name(sock, target):
                self.count_self(target, sock)
            else:
                kept.append((target, sock))
        return [target for target, _ in kept], [sock for _, sock in kept]

    def count_self(self, target, sock):
        """A socket has connected to itself: no result."""
        self.selfs += 1
        self.meter.opened([sock], False)
        self.queue.forget(target)

    def end_refused(self, target):
        """A refusal that somebody asks for, one by one."""
        if self.show:
            self.show_closed(target, errno.ECONNREFUSED)
        self.queue.forget(target)

    def heed_answer(self, sock, code):
        """A result of the second connect() that is no refusal."""
        if code in UNKNOWN:
            code = CONNECT(sock, self.attempts[sock].targets()[sock])
        if code == EALREADY:
            return self.heed_soft_error(sock)
        target = self.end_attempt(sock)
        self.report(target, code, sock)
        if code == 0 or code == EISCONN:
            self.pool.reuse([sock])
        else:
            self.pool.free.append(sock)          # connect() has reset it

    def heed_soft_error(self, sock):
        """The attempt goes on: an event of an attempt before, or ICMP that came inside connect().

        While connect() holds the socket, the kernel only notes an ICMP error, and reports it by
        SO_ERROR and an event.  Hosts of this machine and bridged ones answer so fast.  The note
        outlives shutdown() and connect(): the socket is replaced.
        """
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.report(self.end_attempt(sock), code, sock)
            self.meter.closed(sock)
            self.pool.renew(sock)

    def end_attempt(self, sock):
        """A socket waits no more -> the target that it waited for, None if there was none."""
        cohort = self.attempts.pop(sock, None)
        if not cohort:
            return None
        cohort.whole = False
        return cohort.targets()[sock]

    def heed_judge(self):
        """-r auto: what it has decided."""
        judge = self.judge
        locals_ = self.brakes.errors
        errors = (sum(locals_.values()) - locals_[errno.EPERM],     # EPERM: of single targets
                  self.canary.failed if self.canary else 0, int(self.brakes.yields()))
        rate, again = judge.look(self.now, self.pace.timeout_s, self.sent * self.pace.syns, errors)
        self.timeouts -= len(again)
        for target in again:
            self.lose(target)
        if self.keeper:
            for target in judge.ended:
                self.queue.forget(target)
        judge.ended.clear()
        if rate:
            self.set_rate(rate)
        for decision in judge.decisions:
            self.desk.decide(decision)
        judge.decisions.clear()

    def overdue(self):
        """Cohorts whose time is over, `batch` sockets at most; of suspect ones targets wait again.

        Cohorts, none of which is larger, stay whole: what comes together again and again is
        cheaper.
        """
        cohorts, found, count = self.cohorts, [], 0
        while cohorts and cohorts[0].due <= self.now and count < self.batch:
            cohort = cohorts.popleft()
            self.prune(cohort)
            count += len(cohort.socks)
            if found and count > self.batch:
                cohorts.appendleft(cohort)
                break
            sent = cohort.due - self.pace.timeout_s
            suspect = self.brakes.suspects and self.brakes.is_suspect(sent)
            if self.judge:
                self.ending = sent
                self.judge.level_of(sent).ended += 0 if suspect else cohort.fresh
            if suspect:
                self.give_up(self.take_back(cohort.socks), True)
            else:
                found.append(cohort)
        return found

    def prune(self, cohort):
        """Sockets that do not wait in it any more are dropped from a cohort."""
        if not cohort.whole:
            attempts = self.attempts
            cohort.keep([attempts.get(sock) is cohort for sock in cohort.socks])

    def turn_over(self, credit):
        """Take back overdue sockets, use up to credit of them for the next targets -> used."""
        found = self.overdue()
        cohort = found[0] if len(found) == 1 else None
        socks = self.take_back(cohort.socks if cohort else list(itertools.chain.from_iterable(
            each.socks for each in found)))
        count = min(len(socks), credit, self.brakes.window - len(self.attempts) + len(socks))
        if self.retries or self.queue.again or self.judge or self.show:
            count = 0                       # every old target matters: one by one
        hosts, ports = self.draw(count)
        self.give_up(socks[len(hosts):])
        started = self.connect_all(socks[:len(hosts)], hosts, ports, cohort, True)
        self.timeouts += started            # of their old targets
        return len(hosts)

    def take_back(self, socks):
        """shutdown() overdue sockets -> those that it made unconnected.

        The others were answered just before, and shutdown() on them fails: those are reported
        and replaced.  map() keeps the loop in C: 0.1 us a call less, here and at connect().
        """
        calls = map(SHUTDOWN, socks, itertools.repeat(socket.SHUT_RDWR))
        failed = []
        while len(failed) < len(socks):     # None for each success
            try:
                failed.extend(calls)
            except OSError:
                failed.append(socks[len(failed)])
        if failed.count(None) == len(failed):
            self.meter.taken_back(socks, socks)
            return socks
        for sock in filter(None, failed):   # refused, or opened and reset: SO_ERROR knows
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self.report(self.end_attempt(sock), code or errno.ETIMEDOUT, sock)
            self.pool.renew(sock)
        taken = [sock for sock, odd in zip(socks, failed) if not odd]
        self.meter.taken_back(socks, taken)
        return taken

    def connect_all(self, socks, hosts, ports, cohort=None, again=False):
        """Connect unconnected sockets -> how many are under way: a new cohort.

        After take_back, attempts still hold the old targets; those time out here.
        cohort  what these sockets were, all of them if it is still whole: it is used again
        again   they come from take_back()
        """
        codes = list(map(CONNECT, socks, zip(hosts, ports)))
        odd = []
        if codes.count(EINPROGRESS) < len(codes):
            address = self.pool.address
            if address and errno.ENETUNREACH in codes and not has_address(address):
                # Linux reports the same when our own address is gone; once it was EINVAL
                codes = [errno.EINVAL if code == errno.ENETUNREACH else code for code in codes]
            odd = [(sock, target, code, self.end_attempt(sock)) for sock, target, code in zip(
                socks, zip(hosts, ports), codes) if code != EINPROGRESS]
            socks, hosts, ports = select_rows(
                (socks, hosts, ports), [code == EINPROGRESS for code in codes])
        fresh = self.count_fresh(hosts, ports, odd) if self.judge else 0
        if socks or fresh:
            if not cohort or not cohort.whole:
                cohort = Cohort(socks)
                self.attempts.update(zip(socks, itertools.repeat(cohort)))
            cohort.begin(hosts, ports, self.now + self.pace.timeout_s, self.queue.base,
                         fresh)
            self.cohorts.append(cohort)
            self.count_sent(len(socks))
            self.brakes.blocked = None
            self.queue.went_out(hosts, ports)
        for each in odd:
            self.odd(*each)
        self.meter.connected(socks, again)
        if odd and not socks:
            self.brakes.none_sent(self.now)
        return len(socks)

    def count_fresh(self, hosts, ports, odd):
        """First tries among what was just sent."""
        sent = list(zip(hosts, ports)) + [target for _, target, code, _ in odd
                                          if code not in LOCAL and code not in CLASH]
        again = self.queue.again
        return sum(target not in again for target in sent) if again else len(sent)

    def give_up(self, socks, suspect=False):
        """Sockets taken back that get no new target now: free, their targets unanswered."""
        for sock in socks:
            old = self.end_attempt(sock)
            code = CONNECT(sock, NOWHERE)
            if code == EISCONN:             # established between deadline and shutdown()
                self.report(old, EISCONN, sock)
                self.pool.reuse([sock])
                continue
            if code in DEAD:
                self.pool.renew(sock)
            else:
                self.pool.free.append(sock)
            self.meter.no_answer(sock)
            if suspect:
                self.lose(old)
            else:
                self.unanswered(old)

    def launch(self, credit):
        """Use free and new sockets for up to credit targets, within the window."""
        hosts, ports = self.draw(min(credit, self.brakes.window - len(self.attempts)))
        socks = self.pool.take(len(hosts))
        for target in zip(hosts[len(socks):], ports[len(socks):]):
            self.wait_for(target, LOCAL_WAIT_S, True)
        self.connect_all(socks, hosts[:len(socks)], ports[:len(socks)])

    def clock(self):
        """Time of deadlines; it stands still while the modules are behind (-pr)."""
        real = time.monotonic()
        if self.desk.full():
            self.frozen += real - self.real
        self.real = real
        self.now = real - self.frozen
        self.meter.clock(real)

    def nap(self):
        """Seconds until there is something to do, if no event comes before."""
        if self.desk.full():
            return 0.002
        wake = self.next_tick - self.real
        if len(self.attempts) < self.brakes.window and not self.stopping:
            ready = self.brakes.wait(self.now)
            if ready:
                ready = max(ready, 0.001)       # tokens keep: wake for several
            wake = min(wake, max(ready, self.queue.due() - self.now))
        if self.cohorts:
            wake = min(wake, self.cohorts[0].due - self.now)
        return max(min(wake, self.desk.rest_s()), 0)

    def finished(self):
        """Nothing is under way, and nothing more is wanted or to be had."""
        if self.desk.end():
            return True
        if self.attempts or (self.canary and self.canary.state == 'sent'):
            return False
        if self.stopping or not self.queue.exhausted or self.queue.waiting:
            return bool(self.stopping)
        return not self.judge or self.heed_last()

    def heed_last(self):
        """-r auto: its last word on the targets, all of which have ended -> is that so?"""
        self.judge.sigmas = AUTO_LAST_SIGMAS
        self.heed_judge()
        if self.queue.waiting:
            return False
        for target in self.judge.release():
            self.queue.forget(target)
        return True

    def run(self, desk):
        """Scan until finished; `stopping` and `error` name the reason of an early end."""
        self.desk = desk
        self.meter.begin(desk)
        self.real = self.next_tick = time.monotonic()
        self.started = self.real - self.elapsed
        self.clock()
        self.bind_home()
        self.brakes.bucket.filled = self.now
        while not self.finished():
            self.collect(self.events())
            self.clock()
            credit = self.credit()
            credit -= self.turn_over(credit)
            if credit > 0:
                self.launch(credit)
            desk.turn()
            if self.keeper:
                self.keeper.look(self)
            if self.real >= self.next_tick:
                self.tick()
            if self.sent >= desk.due():
                desk.statistics(self)
        self.tick()

    def events(self):
        """What epoll has, after a nap; it rounds up to milliseconds, which are long here."""
        nap = self.nap()
        if 0 < nap < 0.001:
            time.sleep(nap)
        events = self.pool.epoll.poll(int(nap * 1000) / 1000, 2 * BATCH)
        self.meter.woke(len(events), nap)
        return events

    # ---- talks, which share our thread ----

    def watch(self, talks):
        """Naps end with their events as well -> epoll set of our sockets, those that are lent."""
        self.talks = talks
        self.pool.epoll.register(talks.epoll, select.EPOLLIN)
        self.pool.hear()
        return self.pool.epoll, self.pool.lent

    def take_home(self, sock, again):
        """A talk is over: its socket goes back to the pool, if there is room.

        again   False: the talk goes on, with a socket that is ours no longer
        """
        lent = self.pool.lent.get(sock.fileno()) is sock
        if lent and again and len(self.pool.socks) < self.brakes.window:
            return self.pool.take_home(sock)
        if lent:
            self.pool.release(sock)
        if again:
            sock.close()

    def rate(self):
        """SYNs a second at most, just now; None = no ceiling."""
        return self.brakes.bucket.rate

    def talked(self, count):
        """Talks began so many connections, which count in -r."""
        self.brakes.bucket.give_way(count)

    def credit(self):
        """How many connects may start now."""
        if self.stopping or self.desk.full():
            return 0
        return min(self.most, self.brakes.credit(self.now))

    def stop(self, reason):
        """Send nothing more; what is pending ends by itself."""
        self.stopping = self.stopping or reason

    # ---- state ----

    def position(self) -> int:
        """How many targets of source have ended, counted without a gap; see also Queue.again."""
        for cohort in self.cohorts:
            self.prune(cohort)
            if cohort.socks:
                return cohort.drawn
        return self.queue.drawn

    def snapshot(self) -> dict:
        """Where the scan is, for resume(): position, targets to be tried again, counters.

        Silent targets that the judge still holds are then sent again, and so counted.
        """
        held = list(self.queue.again.values()).count(False) if self.judge else 0
        return {'position': self.position(),
                'drawn': max(self.queue.drawn, self.queue.known_to), 'waiting': self.queue.rows(),
                'answers': list(self.answers.items()), 'locals': list(self.brakes.errors.items()),
                'elapsed': self.real - self.started, **self.meter.mark(),
                **dict({name: getattr(self, name) for name in KEPT_COUNTERS},
                       timeouts=self.timeouts - held, lost=self.lost + held)}

    def adapt(self, most, share):
        """-r auto: let a judge find the rate."""
        self.judge, self.batch = Judge(most, share, self.now), 1
        self.queue.remembers = True
        self.set_rate(self.judge.start)

    def set_rate(self, rate):
        """-r auto: another rate from now on."""
        self.brakes.set_rate(rate, self.now)
        self.pace = self.brakes.pace

    def keep(self, keeper):
        """--state: let it take snapshots."""
        self.keeper, keeper.meter, self.queue.remembers = keeper, self.meter, True
        if self.judge:
            self.judge.kept = AUTO_KEPT_STATE
        keeper.start()

    def finish(self):
        """All results are written: the last snapshot."""
        if self.keeper:
            self.keeper.finish(self)

    def resume(self, snapshot):
        """Go on where a snapshot was taken; source begins at its position."""
        for name in KEPT_COUNTERS:
            setattr(self, name, snapshot[name])
        self.elapsed = snapshot['elapsed']
        self.answers.update(dict(snapshot['answers']))
        self.brakes.errors.update(dict(snapshot['locals']))
        self.queue.resume(snapshot, self.now)

    # ---- ten times a second ----

    def tick(self):
        self.next_tick = self.real + TICK_S
        self.brakes.relax(self.now)
        if len(self.cohorts) > 64:
            self.compact()
        if self.home and self.home.changed():
            self.follow(self.home.find())
        self.watch_conntrack()
        self.watch_blocks()
        if self.judge:
            self.heed_judge()
        if self.canary:
            self.watch_canary()
        if self.hup:
            self.reread()
        if self.real - self.started - self.elapsed > self.runtime:
            self.stop('--max-runtime')
        self.desk.tick(self)
        self.meter.tick()

    def compact(self):
        """Forget stale rows once they are most of the memory (long timeouts, quick answers)."""
        held = sum(len(cohort.socks) for cohort in self.cohorts)
        if held > 65536 + 4 * len(self.attempts):
            for cohort in self.cohorts:
                self.prune(cohort)
            self.cohorts = collections.deque(
                cohort for cohort in self.cohorts if cohort.socks or cohort.fresh)

    def follow(self, address):
        """Another source address: all sockets are made anew; what is under way is sent again.

        Where the address changes again and again, pending targets would be sent again each time
        and never end.  So after the second change the kernel chooses, for good.
        """
        if address != self.pool.address and self.real - self.followed < FOLLOWS_S:
            self.home.close()
            address, self.home = '', None
        if address == self.pool.address:
            return
        pending, self.followed = len(self.attempts), self.real
        self.pool.address = address
        self.give_up(self.take_back(list(self.attempts)), True)
        self.bind_to(address)
        self.desk.event('routes or addresses have changed: the source address is %s now%s' % (
            address or "the kernel's choice",
            ', %s sent again' % many(pending, 'connect') if pending else ''))
        self.meter.leave_idle(self.attempts)    # all sockets may be others now

    def bind_home(self):
        """The scan begins, in a process of its own: the first address, and watch if it stays."""
        if self.home:
            self.bind_to(self.home.open())

    def bind_to(self, address):
        """All sockets, none of which is under way, are made anew."""
        self.cohorts.clear()
        self.pool.rebind(address)

    def watch_conntrack(self):
        """Slow down where the connection tracking table is full."""
        news = self.brakes.watch_conntrack(self.sent / max(self.real - self.started, 1), self.now)
        if news:
            self.desk.event(news)

    def watch_blocks(self):
        """Give up when local errors let nothing through for long; with --once the others first."""
        if not self.attempts and not self.stopping and self.brakes.is_blocked(
                self.once and not self.queue.exhausted, self.now):
            self.fail('nothing can be sent: %s' % self.brakes.block_text())

    def watch_canary(self):
        """Send it when it is due, or ask for its result."""
        canary = self.canary
        if canary.is_due(self.sent) and not self.stopping:
            if not canary.start(self.now, self.pace.timeout_s):
                return
            self.brakes.bucket.spend(1)
        elif canary.state != 'sent' or not canary.look(self.now):
            return
        if canary.state != 'sent':
            self.desk.canary(canary, canary.count(self.sent))


def load_dissolve():
    """-> connect(2), called with a descriptor, a sockaddr and its size: 0, or -1 if it failed.

    The one of `socket` knows no sockaddr of family AF_UNSPEC, which dissolves a connection.
    Where the C library cannot be called, the function always fails.
    PyDLL keeps the interpreter's lock: the call never waits, and to give the lock away is 0.1 us.
    PyPy has no PyDLL.
    """
    try:
        import ctypes                       # late: 10 ms of a start
        connect = getattr(ctypes, 'PyDLL', ctypes.CDLL)(None).connect
    except (ImportError, OSError, AttributeError):
        return lambda fd, address, size: -1
    return connect                          # without argtypes, which would take 0.1 us


def is_own_name(sock, target) -> bool:
    """True if a socket is connected to itself (RFC 9293 s3.5, simultaneous open).

    Not by getpeername(): after shutdown() such a socket has closed with itself and has no peer.
    """
    host, port = sock.getsockname()
    return port == target[1] and target[0] in (host, '0.0.0.0')     # which means loopback


# ==== 8 Threads and metrics ===========================================================

# ---- talks ----

TURN_S = 0.005                  # that talks may take between two turns of the engine
STALL_S = 0.5                   # who drives them was not there for so long: nobody's time runs
HANDSHAKES_MAX = 500            # of TLS at once: 42 kB each
TALKS_EACH = 8                  # at once to one address
TROUBLE = select.EPOLLERR | select.EPOLLHUP | select.EPOLLIN    # ends any wait; the peer's end is
                                                                # an event to read, too
TALKS_SPARE = 16                # descriptors of -e that are not for talks
TALKS_KEPT = 64                 # with -x: descriptors that -e leaves for all else


class Gate:
    """Where coroutines wait, first come first served, while none is free.

    free    how many may enter
    """
    def __init__(self, free):
        self.free, self.waiting = free, collections.deque()

    @types.coroutine
    def enter(self):
        """To be awaited."""
        if self.free > 0 and not self.waiting:
            self.free -= 1
        else:
            yield self

    def leave(self):
        """Room for another."""
        self.free += 1

    def admit(self) -> list:
        """-> those for which there is room now."""
        admitted = []
        while self.waiting and self.free > 0:
            self.free -= 1
            admitted.append(self.waiting.popleft())
        return admitted


class Talk:
    """A coroutine that is under way.

    end     called when it has ended
    until   when its wait is over; None: it waits for no socket
    mask    events that end it: a socket that begins to wait for octets is writable, at once
    due     when the timer looks at it, later than `until` never; None: there is no timer
    sockets descriptors that were registered for it
    """
    __slots__ = 'coroutine', 'end', 'until', 'mask', 'due', 'sockets'

    def __init__(self, coroutine, end):
        self.coroutine, self.end = coroutine, end
        self.until = self.due = None
        self.sockets = ()


class Talks:
    """Coroutines that talk, by thousands in one thread: an event loop of turns.

    One epoll set, edge-triggered, in which a socket stays until it is closed.  Sockets of an
    Engine are in its set, in which ours is as well.  A talk has one timer, which moves only when
    it is due.
    """
    bucket = scan = None                # with a scan: Bucket of new connections; who sends
    outer = None                        # the epoll set of an Engine
    lent = {}                           # descriptor -> socket of ours that is in it

    def __init__(self):
        self.epoll = select.epoll()
        self.rung = False               # it has events, says the outer one
        self.owners = {}                # descriptor -> (its socket, Talk)
        self.timers = []                # heap of (due, serial, Talk)
        self.serial = itertools.count()
        self.ready = collections.deque()    # (Talk, None or an error to be resumed with)
        self.frozen = 0.0               # seconds that the clock of deadlines stood still
        self.looked = time.monotonic()  # when the last turn ended
        self.alarm, self.bell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)     # see wake()
        self.epoll.register(self.alarm, select.EPOLLIN)
        self.connects, self.handshakes = Gate(0), Gate(HANDSHAKES_MAX)
        self.credit = 0                 # connections that -r allows in this turn
        self.written = Gate(0)          # for what has to be in the file first: opened each turn
        self.opened = self.taken = 0    # connections: new ones, and those of the scan

    def close_all(self):
        """It is of no use then."""
        self.epoll.close()
        os.close(self.alarm)
        os.close(self.bell)

    def clock(self) -> float:
        """Time of deadlines: seconds while somebody drives us."""
        return time.monotonic() - self.frozen

    def begin(self, coroutine, end):
        """Start a coroutine; end() is called when it has ended."""
        self.step(Talk(coroutine, end), None)

    def wake(self):
        """From another thread: end the nap of look()."""
        with contextlib.suppress(BlockingIOError):      # it is full, so it rings
            os.write(self.bell, b'.')

    def rest_s(self) -> float:
        """Seconds until there is something to do, if no event comes before."""
        if self.ready:
            return 0.0
        wake = self.timers[0][0] - self.clock() if self.timers else math.inf
        if self.connects.waiting:
            wake = min(wake, 0.001)
        return max(wake, 0.0)

    def join(self, scan):
        """Share the thread of an Engine or a Team: our events end its naps, -r counts for both."""
        self.outer, self.lent = scan.watch(self)
        self.scan, self.bucket = scan, Bucket(scan.rate(), 1, time.monotonic())

    def take_home(self, sock, again=True):
        """A socket of the scan whose connection is over; again: see Engine.take_home."""
        self.owners.pop(sock.fileno(), None)
        self.scan.take_home(sock, again)

    def look(self, wait_s: float = 0):
        """Events, times that are over and gates -> ready; wait_s: for the first of them.

        While an Engine runs, it has looked for us.
        """
        real = time.monotonic()
        if real - self.looked > STALL_S:
            self.frozen += real - self.looked
        if self.outer and wait_s:
            self.heed(self.outer.poll(wait_s, 2 * BATCH))
        if self.rung or not self.outer:
            self.rung = False
            self.heed(self.epoll.poll(0 if self.outer else wait_s, 2 * BATCH))
        if wait_s:
            real = time.monotonic()
        self.looked = real
        self.expire(real - self.frozen)
        self.admit(real)

    def heed(self, events):
        """Those that a talk waits for -> ready; they may be of an Engine, too."""
        owners, own = self.owners, self.epoll.fileno()
        for fd, event in events:
            _, talk = owners.get(fd, (None, None))
            if talk:
                if talk.until is not None and event & talk.mask:
                    talk.until = None
                    self.ready.append((talk, None))
            elif fd == own:
                self.rung = True
            elif fd == self.alarm:
                os.read(self.alarm, 1 << 16)

    def expire(self, now):
        """Waits that have lasted long enough; timers that were early are set anew."""
        timers = self.timers
        while timers and timers[0][0] <= now:
            due, _, talk = heapq.heappop(timers)
            if talk.due != due:
                continue
            talk.due = None
            if talk.until is None:
                continue
            if talk.until <= now:
                talk.until = None
                self.ready.append((talk, socket.timeout('timed out')))
            else:
                self.set_timer(talk)

    def set_timer(self, talk):
        """Look at it when its wait is over."""
        talk.due = talk.until
        heapq.heappush(self.timers, (talk.due, next(self.serial), talk))

    def admit(self, real):
        """Who waits at gates, as far as there is room."""
        if self.scan:
            self.bucket.rate = self.scan.rate()
        self.credit = self.bucket.credit(real) if self.bucket else BATCH
        self.connects.free = self.credit
        for gate in (self.connects, self.handshakes):
            self.resume(gate.admit())

    def resume(self, talks):
        """They go on with the next step."""
        self.ready.extend((talk, None) for talk in talks)

    def step_all(self, end: float):
        """Resume what is ready, until `end` by time.monotonic() at most."""
        ready = self.ready
        while ready:
            self.step(*ready.popleft())
            if time.monotonic() >= end:
                break

    def spend(self):
        """The turn is over: the connections that were begun in it count in -r."""
        begun = self.credit - self.connects.free
        self.credit = self.connects.free
        if begun and self.scan:
            self.bucket.spend(begun)
            self.scan.talked(begun)

    def step(self, talk, error):
        """Resume a talk; what it waits for next."""
        try:
            wait = talk.coroutine.throw(error) if error else talk.coroutine.send(None)
        except StopIteration:
            return self.close(talk)
        if type(wait) is tuple:
            self.hold(talk, *wait)
        elif isinstance(wait, Gate):
            wait.waiting.append(talk)
        else:
            self.ready.append((talk, TypeError('a module may await what is of cscan only')))

    def hold(self, talk, socks, mask, until):
        """A talk waits for sockets."""
        if not socks:
            return self.ready.append((talk, None))
        try:
            for sock in socks:
                self.watch(sock, talk)
        except OSError as error:            # too many for sysctl fs.epoll.max_user_watches
            return self.ready.append((talk, error))
        talk.until, talk.mask = until, mask | TROUBLE
        if talk.due is None or until < talk.due:
            self.set_timer(talk)

    def watch(self, sock, talk):
        """A socket whose events resume a talk; a descriptor may have been another's before."""
        fd = sock.fileno()
        owner = self.owners.get(fd)
        if owner and owner[0] is sock:
            return
        if self.lent.get(fd) is not sock:
            self.epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        self.owners[fd] = sock, talk
        talk.sockets += fd,

    def close(self, talk):
        """It has ended: no socket of it stays open."""
        for fd in talk.sockets:
            sock, owner = self.owners.get(fd, (None, None))
            if owner is talk:
                del self.owners[fd]
                sock.close()
        talk.end()


# ---- crew ----

Lines = collections.namedtuple('Lines', [
    'octets'])      # for stdout

Entries = collections.namedtuple('Entries', [
    'entries'])     # [(events, their packets)] for the sink


class Ledger:
    """Which results are done with, in whatever order.

    settled  how many of the first, without a gap; early: numbers of those behind
    """
    def __init__(self):
        self.settled, self.early = 0, set()

    def end(self, numbers):
        """These are done with."""
        early = self.early
        if isinstance(numbers, range) and not early and numbers.start == self.settled:
            self.settled = numbers.stop
            return
        early.update(numbers)
        while self.settled in early:
            early.remove(self.settled)
            self.settled += 1


class Crew:
    """What runs the modules: at once if none of them waits, else in threads, behind a queue.

    Coroutines among them are driven by the threads; see TalkCrew.

    modules  filters first; options: {module name: namespace}
    limit    results in the queue from which on full() asks the scan to wait (-pr)
    most     results that may pass the filters, None = all; `enough` is True from then on
    """

    def __init__(self, modules, options, sink, console, threads, limit, most=None, source=''):
        self.modules, self.options, self.sink, self.console = modules, options, sink, console
        self.limit, self.most, self.source = limit, most, source
        self.exclusions = None              # with -xf: what must not be talked to any more
        self.ports = False                  # each result gets an entry of print before its modules
        self.found = []                     # results of this turn of the engine
        self.at_once = not any(each.waits for each in modules)
        self.out = Out(sink, 1)             # of the engine's thread, while no other has work
        self.queue = collections.deque()    # (numbers of results, what is to be done): (host,
                                            # port), or (host, port, state, reason) of one that is
                                            # not open, or Lines, or Entries; see TalkCrew, too
        self.put_count = 0                  # results of all turns before this one
        self.ledger = Ledger()              # which results are done with
        self.busy = {}                      # thread -> numbers of the results that it is at
        self.lock = threading.Lock()
        self.ready = threading.Condition(self.lock)     # the queue has grown, or is closed
        self.space = threading.Condition(self.lock)     # the queue has shrunk
        self.closed, self.enough = False, False
        self.passed = 0                     # results that passed the filters
        self.bugs = collections.Counter()   # module name -> exceptions that it let through
        self.failures = collections.Counter()   # (module name, reason) -> talks that OSError ended
        self.drops = collections.Counter()  # filter's name -> results that it dropped
        self.words = {}                     # (module name, kind) -> Counter of words: what they
                                            # return
        self.talks = None                   # Talks that drive the coroutines
        self.most_threads = threads
        self.threads = []                   # none before the first result
        self.failed = ''                    # not one could be started

    def start(self):
        """Begin; with fewer threads where the machine allows no more.

        Not before there is a result: in a process that never had a second thread, Linux and the
        C library do less for each system call, 0.1 us of the 3.2 of a silent probe.
        """
        for number in range(1, self.most_threads + 1):
            thread = threading.Thread(target=self.work, args=(number,), daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self.threads:
                    self.failed = 'module threads: not one can be started'
                    return
                return self.console.note('warning: %d module threads (-mt): no more can be started'
                                         % len(self.threads))
            self.threads.append(thread)

    def put(self, host, port):
        """A result; always taken, see full()."""
        self.found.append((host, port))

    def put_all(self, results, socks=()):
        """Several of them, and their connections -> those of the latter that are kept."""
        self.found += results
        return ()

    def put_state(self, host, port, state, reason):
        """A port that is not open, for --show."""
        self.found.append((host, port, state, reason))

    def turn(self):
        """What was found since the last turn: done at once if nothing can wait, else queued.

        Who calls this is the only one that puts into the queue; so if it is empty and no thread
        is at work, none will be.
        """
        found, numbers = self.take_found()
        if not found:
            return
        if self.at_once and not self.queue and not self.busy:
            gathers = self.sink.gathers()
            if gathers is False:
                return self.pass_now(found, numbers)
            if gathers and self.console.room():
                return self.pass_together(found, numbers)
        self.enqueue(zip(zip(numbers), found))

    def take_found(self):
        """-> results since the last turn, their numbers."""
        found, self.found = self.found, []
        before, self.put_count = self.put_count, self.put_count + len(found)
        return found, range(before, self.put_count)

    def pass_now(self, found, numbers):
        """Results through the modules."""
        for item in found:
            drive(self.pass_on(item, self.out))
        self.settle(numbers)

    def settle(self, numbers):
        """The modules are done with these results."""
        with self.lock:
            self.ledger.end(numbers)

    def pass_together(self, found, numbers):
        """The same, and their lines go out together."""
        self.console.held = []
        try:
            if len(self.modules) == 1 and type(self.sink) is TextSink and not (
                    self.exclusions and self.exclusions.barred):
                self.print_all(found)
            else:
                for item in found:
                    drive(self.pass_on(item, self.out))
        finally:
            self.write_held(numbers)

    def write_held(self, numbers):
        """The lines that the console holds, of these results, go out together."""
        lines, self.console.held = b''.join(self.console.held), None
        rest = self.console.write_now(lines)
        if rest and not self.console.gone:
            self.enqueue([(numbers, Lines(rest))])
        else:
            self.settle(numbers)

    def print_all(self, found):
        """What the module `print` does, in a fifth of the time."""
        if self.most is not None:
            found = found[:max(0, self.most - self.passed)]
            self.enough = self.passed + len(found) >= self.most
        self.passed += len(found)
        self.console.results(''.join(map('%s:%d\n'.__mod__, found)))

    def enqueue(self, items):
        """Work for the threads: (numbers, what is to be done)."""
        if not self.threads:
            self.start()
        with self.lock:
            before = len(self.queue)
            self.queue.extend(items)
            self.ready.notify(len(self.queue) - before)

    def full(self):
        """No more is wanted just now; what nobody will take must not stop the clock."""
        return len(self.queue) >= self.limit and not self.failed

    def rest_s(self) -> float:
        """Seconds until turn() has something to do that no event announces."""
        return math.inf

    def put_wait(self, host, port):
        """A result, when there is space."""
        if not self.threads:
            self.start()
            if self.failed:
                raise UserError(self.failed)
        with self.lock:
            while len(self.queue) >= self.limit:
                self.space.wait()
            self.queue.append(((self.put_count,), (host, port)))
            self.put_count += 1
            self.ready.notify()

    def accepted(self) -> int:
        """How many results were put."""
        return self.put_count + len(self.found)

    def settled(self) -> int:
        """How many results the modules are done with, counted without a gap."""
        return self.ledger.settled

    def close(self, look=bool):
        """Let the threads empty the queue, and end; look() ten times a second meanwhile."""
        self.turn()
        with self.lock:
            self.closed = True
            self.ready.notify_all()
        if not self.threads:                # there is nothing to do, or nobody else to do it
            self.work(1)
        for thread in self.threads:
            while thread.is_alive():
                thread.join(TICK_S)
                look()

    def take(self, thread):
        """The oldest work, for a thread done with its last; None when there will be no more."""
        with self.lock:
            self.ledger.end(self.busy.pop(thread, ()))
            while not self.queue and not self.closed:
                self.ready.wait()
            self.space.notify()
            if not self.queue:
                return None
            self.busy[thread], item = self.queue.popleft()
            return item

    def work(self, number):
        """A module thread."""
        out = Out(self.sink, number)
        for item in iter(lambda: self.take(number), None):
            if isinstance(item, Entries):
                self.write_entries(number, item.entries)
            elif not isinstance(item, Lines):
                drive(self.pass_on(item, out))
            elif not self.console.write(item.octets):
                complain(item.octets.decode('utf-8', 'replace'))

    def write_entries(self, thread, entries):
        """Whole entries: (events, their packets)."""
        for events, packed in entries:
            self.sink.write(thread, events, packed)
            self.sink.finish(thread)

    async def pass_on(self, item, out):
        """A result through the modules, unless nobody wants any more."""
        host, port, *more = item
        target = self.make_target(host, port, *(more if len(more) == 1 else ()))
        try:
            if self.enough or self.console.gone:
                return
            if len(more) > 1:
                self.write_state(target, out, *more)
            else:
                await self.examine(target, out)
        finally:
            target.close()

    def make_target(self, host, port, sock=None) -> TalkTarget:
        """What modules get of a result."""
        return TalkTarget(host, port, self.source, self.exclusions, self.talks, sock)

    def write_state(self, target, out, state, reason):
        """An entry of `state`, which no module talks to."""
        if self.exclusions and self.exclusions.bars(target.host):
            return self.drop('-xf')
        out.begin(STATE_MODULE)
        out.later(str(target))
        out.later(state, STATE_NAME)
        out.str(reason, STATE_REASON)
        out.finish()

    async def examine(self, target, out):
        """One result through the filters and then all modules."""
        if self.exclusions and self.exclusions.bars(target.host):
            return self.drop('-xf')
        for each in self.modules:
            if each.filter and await self.call(each, target, out) is False:
                return self.drop(each.name)
        if not self.count():
            return
        others = [each for each in self.modules if not each.filter]
        if self.ports:
            others = [each for each in others if each.check is not check_print]
            self.keep_port(target, out)
            if others:                      # before modules talk, which a kill may interrupt
                await self.save()
        for each in others:
            self.count_word(each, await self.call(each, target, out))

    def count_word(self, each, found):
        """What a module that is no filter returns."""
        if isinstance(found, tuple):
            kind, word = found
            with self.lock:
                words = self.words.get((each.name, kind))
                if words is None:
                    words = self.words[each.name, kind] = collections.Counter()
                words[word] += 1

    def drop(self, reason):
        """A result ends here."""
        with self.lock:
            self.drops[reason] += 1

    def keep_port(self, target, out):
        """The open port itself."""
        out.begin('')
        out.str(str(target))
        out.finish()

    async def save(self):
        """What was said up to now goes to the file."""
        self.sink.flush()

    def count(self):
        """One more result passed the filters -> may it be shown?"""
        with self.lock:
            if self.enough:
                return False
            self.passed += 1
            self.enough = self.most is not None and self.passed >= self.most
            return True

    async def call(self, each, target, out):
        """Run a module; what it raises is counted, and reported the first time."""
        out.begin(each.entry)
        options = self.options[each.name]
        try:
            if is_coroutine(each):
                target.first = each.first
                return await each.check(target, out, options)
            return each.check(target.blocking(), out, options)
        except GeneratorExit:               # nobody drives it any more
            raise
        except OSError as error:            # timeouts and resets are everyday life
            reason = printable(why(error))
            with self.lock:
                self.failures[each.name, reason] += 1
                first = self.failures[each.name, reason] == 1
            if first and isinstance(error, Unable):
                self.console.note('warning: module %s: %s' % (each.name, reason))
        except BaseException as error:      # a bug, or sys.exit(): neither must end this thread
            with self.lock:
                self.bugs[each.name] += 1
                first = self.bugs[each.name] == 1
            if first:
                self.console.note('module %s: %s: %s (at %s; counted from now on)' % (
                    each.name, type(error).__name__, printable(str(error)), target))
        finally:
            out.finish()


class TalkCrew(Crew):
    """A Crew whose modules are coroutines, or wait for nothing: they talk in the caller's thread.

    talks   at once at most
    """
    LOOP = 2                                # thread number of entries; 1 is the writer's

    def __init__(self, modules, options, *args, talks, **more):
        super().__init__(modules, options, *args, **more)
        self.talks, self.most_talks = Talks(), talks
        self.talking = 0                    # coroutines under way
        self.waiting = collections.deque()  # (number, result): not yet begun; a result may be
                                            # (host, port, its connection)
        self.holding = 0                    # how many such connections wait in it, or are found
        self.first = any(each.first for each in modules)
        self.hosts = {}                     # host -> talks to it
        self.crowded = {}                   # host that has TALKS_EACH -> its (number, result)
        self.parked = 0                     # how many those are
        self.most_threads = 1               # writes what would have to wait, in its order
        self.direct = None                  # in a turn: what the sink's gathers() allows
        self.ended = []                     # numbers whose lines the console holds
        self.driver = None                  # -x: the thread of talks, as standard input may block

    def full(self):
        waiting = len(self.waiting) + self.parked + len(self.queue)
        return waiting >= self.limit and not self.failed

    def put_all(self, results, socks=()):
        room = self.most_talks - self.talking - self.holding if self.first else 0
        if room <= 0 or not socks:
            return super().put_all(results)
        kept = socks[:room]
        self.holding += len(kept)
        self.found += [target + (sock,) for target, sock in zip(results, kept)]
        self.found += results[len(kept):]
        return kept

    def turn(self):
        """What was found since the last turn, and all talks, for TURN_S at most."""
        self.take_in()
        self.talk()

    def take_in(self):
        """Results since the last turn wait for a talk."""
        found, numbers = self.take_found()
        self.waiting.extend(zip(numbers, found))

    def talk(self, wait_s=0):
        """A turn of the talks; wait_s: for the first event."""
        talks = self.talks
        talks.look(wait_s)
        if not (talks.ready or self.waiting):
            return
        end = time.monotonic() + TURN_S
        self.open_output()
        try:
            talks.step_all(end)
            self.begin_talks(end)
            if talks.written.waiting:
                self.sink.flush()
                talks.resume(talks.written.waiting)
                talks.written.waiting.clear()
                talks.step_all(end)
        finally:
            talks.spend()
            self.close_output()

    def open_output(self):
        """Find out how entries can be written without any waiting."""
        self.direct = None
        if not self.queue and not self.busy:
            self.direct = self.sink.gathers()
            if self.direct and not self.console.room():
                self.direct = None
        if self.direct:
            self.console.held = []

    def close_output(self):
        """What was gathered goes out."""
        if self.direct:
            numbers, self.ended = self.ended, []
            self.write_held(numbers)

    def put_entry(self, entry):
        """A whole entry -> the sink, or the thread that may wait."""
        if self.direct is None:
            self.enqueue([((), Entries([entry]))])
        else:
            self.write_entries(self.LOOP, [entry])

    def begin_talks(self, end):
        """Results that wait, as far as there is room."""
        while self.waiting and self.talking < self.most_talks:
            number, item = self.waiting.popleft()
            self.holding -= len(item) == 3
            if self.hosts.get(item[0], 0) < TALKS_EACH:
                self.begin(number, item)
            else:
                self.park(number, item)
            if time.monotonic() >= end:
                break
        if self.driver:
            with self.lock:
                self.space.notify_all()

    def park(self, number, item):
        """Its host has enough talks; no connection is kept for so long."""
        if len(item) == 3:
            self.make_target(*item).close()
            item = item[:2]
        self.crowded.setdefault(item[0], collections.deque()).append((number, item))
        self.parked += 1

    def begin(self, number, item):
        """A result through the modules, in a talk."""
        out = TalkOut(self.sink, self.LOOP, self.put_entry)
        self.talking += 1
        self.hosts[item[0]] = self.hosts.get(item[0], 0) + 1
        self.talks.begin(self.pass_on(item, out), lambda: self.end(number, item[0]))

    def end(self, number, host):
        """A talk has ended: the next one to its host may begin."""
        self.talking -= 1
        self.hosts[host] -= 1
        if not self.hosts[host]:
            del self.hosts[host]
        others = self.crowded.get(host)
        if others:
            self.parked -= 1
            self.waiting.appendleft(others.popleft())
            if not others:
                del self.crowded[host]
        if self.direct is None:
            self.enqueue([((number,), Entries([]))])
        elif self.direct:
            self.ended.append(number)
        else:
            self.settle([number])

    async def save(self):
        await self.talks.written.enter()

    def rest_s(self):
        if self.waiting and self.talking < self.most_talks:
            return 0.0
        return self.talks.rest_s()

    def put_wait(self, host, port):
        if not self.driver:
            self.driver = threading.Thread(target=self.drive_all, daemon=True)
            try:
                self.driver.start()
            except RuntimeError:
                raise UserError('the thread of talks cannot be started') from None
        with self.lock:
            while self.full() and self.driver.is_alive():
                self.space.wait(TICK_S)
            self.waiting.append((self.put_count, (host, port)))
            self.put_count += 1
        self.talks.wake()

    def drive_all(self, look=bool):
        """Until all talks have ended; look() ten times a second meanwhile."""
        looked = time.monotonic()
        while self.talking or self.waiting or not self.closed:
            self.talk(min(self.rest_s(), TICK_S))
            if time.monotonic() - looked >= TICK_S:
                looked = time.monotonic()
                look()

    def close(self, look=bool):
        self.take_in()
        self.closed = True                  # there will be no more results
        if self.driver:
            self.talks.wake()
            while self.driver.is_alive():
                self.driver.join(TICK_S)
                look()
        self.drive_all(look)                # without -x
        super().close(look)

ENOUGH, NOBODY, FAILED = 1, 2, 3    # why a scan ends early: there are as many results as wanted;
                                    # nobody reads them any more; they cannot be written


class Desk:
    """Where an engine hands over what it finds, and learns when it is to end.

    An engine in the first process has this one, and so has a Team of workers; an engine in a
    worker has a Messenger, which hands all of it on to the Team.

    crew        Crew: takes results
    sink        where entries go
    progress    what the user sees
    """

    def __init__(self, crew, sink, console, progress):
        self.crew, self.sink, self.console, self.progress = crew, sink, console, progress
        self.put, self.put_all = crew.put, crew.put_all     # without a call between: often
        self.put_state, self.turn, self.full = crew.put_state, crew.turn, crew.full
        self.rest_s = crew.rest_s

    # ---- results ----

    def accepted(self) -> int:
        """How many results were put."""
        return self.crew.accepted()

    def settled(self) -> int:
        """How many of them the modules are done with, counted without a gap."""
        return self.crew.settled()

    def passed(self) -> int:
        """How many passed the filters."""
        return self.crew.passed

    def flush(self):
        """What is settled leaves this process."""
        self.sink.flush()

    def sync(self) -> bool:
        """It goes to the disk -> whether it did."""
        return self.sink.sync()

    def loses(self) -> bool:
        """Whether results do not arrive where they should: what is settled does not count."""
        return bool(self.failed() or self.console.gone)

    # ---- events and notes ----

    def note(self, text):
        """For the user."""
        self.console.note(text)

    def event(self, text):
        """For the user, and for readers of the results."""
        self.progress.event(text)

    def relay(self, kind, text):
        """See Progress.relay()."""
        self.progress.relay(kind, text)

    def canary(self, canary, change):
        """A canary has ended."""
        self.progress.canary(canary, change)

    def decide(self, decision, worker=None):
        """-r auto has chosen another rate."""
        self.progress.decide(decision, worker)

    def due(self) -> float:
        """After how many packets statistics() is to be called."""
        return self.progress.due

    def statistics(self, engine):
        """So many packets are sent."""
        self.progress.statistics(engine)

    def show(self, engine):
        """The status line, once a second."""
        self.progress.show(engine)

    # ---- orders ----

    def tick(self, engine):
        """Ten times a second."""
        self.sink.look()
        if self.failed():
            engine.fail(self.failed())
        self.show(engine)

    def failed(self) -> str:
        """Why results cannot be written, '' if they can."""
        return self.console.failed or self.sink.failed or self.crew.failed

    def end(self) -> int:
        """NOBODY or ENOUGH: the scan ends at once; else 0."""
        if self.console.gone:
            return NOBODY
        return ENOUGH if self.crew.enough else 0

    def reopen(self):
        """SIGHUP: the files of --log and --status are opened by their names again."""
        self.progress.reopen()

    def reread(self, exclusions, new):
        """The exclude list was read again: new is what it has more."""
        self.progress.reread(exclusions, new)


# ---- state ----
#
# The file of --state holds what --resume needs after any end, in slots: each a header, then JSON.
# Slots are written in pairs, in turn, in mapped memory: when the process is killed in the middle,
# the other one is whole.  The file is: STATE_MAGIC, a pair for the configuration, then for each
# worker a pair of snapshots, and a pair that was written when all results before it had been
# forced to the disk: those count if the machine itself went down since (its boot_id is another).

STATE_MAGIC = b'cscan state 1\n'
STATE_PAGE = 4096               # octets before the first slot
SLOT_HEAD = struct.Struct('<IIQ')       # CRC-32 of all that follows it, octets of JSON, number
CONFIG_SLOT, SNAPSHOT_SLOT = 1 << 20, 1 << 22
STATE_START = STATE_PAGE + 2 * CONFIG_SLOT      # of the first worker's slots
STATE_WORKER = 4 * SNAPSHOT_SLOT                # octets of a worker's slots
SLOT_STEP = 1 << 14             # disk space is taken in such pieces
STATE_WAIT_S = 1.0              # workers of a scan that was killed hold the file a moment longer
BOOT_ID = '/proc/sys/kernel/random/boot_id'
KEEP_S = 0.01                   # at least, between two snapshots
KEEP_SHARE = 20                 # they take at most one part in so many of the time
SYNC_S = 1.0


def read_boot_id() -> str:
    """The number of this boot of the machine; '' where there is none."""
    try:
        with open(BOOT_ID) as file:
            return file.read().strip()
    except OSError:
        return ''


class SlotPair:
    """Two slots in mapped memory: the newer one that is whole counts.

    fd      of the file behind the memory, None = there is none
    number  of the last one written; 0: none yet
    """

    def __init__(self, memory, at, size, fd=None):
        self.memory, self.at, self.size, self.fd, self.number = memory, at, size, fd, 0
        self.reserved = [0, 0]      # octets of each slot that the disk has room for

    def write(self, value) -> str:
        """Anything JSON can say -> '', or why it could not be: then the one before stays."""
        text = json.dumps(value, separators=(',', ':')).encode()
        if SLOT_HEAD.size + len(text) > self.size:
            return '%d octets do not fit into %d' % (len(text), self.size - SLOT_HEAD.size)
        number = self.number + 1
        try:
            self.reserve(number % 2, SLOT_HEAD.size + len(text))
        except OSError as error:
            return why(error)
        self.number = number
        rest = SLOT_HEAD.pack(0, len(text), number)[4:] + text
        at = self.at + number % 2 * self.size
        self.memory[at:at + 4 + len(rest)] = zlib.crc32(rest).to_bytes(4, 'little') + rest
        return ''

    def reserve(self, index, size):
        """Get disk blocks first: a mapped page that finds none ends the process by SIGBUS."""
        if self.fd is None or size <= self.reserved[index]:
            return
        size = min(-(-size // SLOT_STEP) * SLOT_STEP, self.size)
        try:
            os.posix_fallocate(self.fd, self.at + index * self.size, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):     # it does not know how
                raise
        self.reserved[index] = size

    def read(self):
        """The value; None if there is none."""
        found = [each for each in map(self.read_slot, (0, 1)) if each]
        if not found:
            return None
        self.number, text = max(found)
        return json.loads(text.decode(), parse_int=short_int)

    def read_slot(self, index):
        """-> (number, octets); None if it is not whole."""
        at = self.at + index * self.size
        crc, size, number = SLOT_HEAD.unpack_from(self.memory, at)
        rest = self.memory[at + 4:at + SLOT_HEAD.size + size]   # a copy: another may write here
        return (number, rest[SLOT_HEAD.size - 4:]) if zlib.crc32(rest) == crc else None


def is_count(value) -> bool:
    """Whether a value is a whole number from 0 on that 63 bits hold."""
    return type(value) is int and 0 <= value < 1 << 63


def is_seconds(value) -> bool:
    """Whether a value is a finite duration."""
    return type(value) in (int, float) and 0 <= value < 1e12


def is_rows(*columns):
    """-> a test for lists of lists, each value of which its test holds."""
    def test(value):
        return isinstance(value, list) and all(
            isinstance(row, list) and len(row) == len(columns)
            and all(holds(each) for holds, each in zip(columns, row)) for row in value)
    return test


def is_text(value) -> bool:
    """Whether a value is text."""
    return isinstance(value, str)


def is_host(value) -> bool:
    """Whether a value is an IPv4 address as text."""
    return is_text(value) and bool(re.fullmatch(QUAD, value))


def is_list_of(test):
    """-> a test for lists, each value of which the test holds."""
    return lambda value: isinstance(value, list) and all(map(test, value))


def is_names(value) -> bool:
    """Whether a value is what Names knew: name -> addresses."""
    return isinstance(value, dict) and all(map(is_list_of(is_host), value.values()))


LISTS_NAMED = ['-f', '-p', '-xf'], ['--pairs', '-xf']


def is_lists(value) -> bool:
    """Whether a value is what load_space says of the lists."""
    return isinstance(value, dict) and sorted(value) in LISTS_NAMED and all(
        is_list_of(is_text)(each) and len(each) == 2 for each in value.values())


# What a state file must hold: name -> test of the value
CONFIG_SHAPE = {'args': lambda value: isinstance(value, dict) and is_names(value.get('names')),
                'boot_id': is_text, 'lists': is_lists}
CONFIG_MORE = {'excluded': is_text}
SNAPSHOT_SHAPE = dict(
    dict.fromkeys(KEPT_COUNTERS + ('position', 'drawn', 'passed'), is_count), elapsed=is_seconds,
    done=lambda value: isinstance(value, bool), waiting=is_rows(is_host, is_count, is_count),
    answers=is_rows(is_count, is_count), locals=is_rows(is_count, is_count))
SNAPSHOT_MORE = {'metrics': lambda value: is_rows(is_count, is_count, is_seconds)([value])}


def check_shape(value, shape, more):
    """Raises ValueError if value is no dict with these names and maybe more, or one is wrong."""
    if not isinstance(value, dict) or not set(shape) <= set(value) <= set(shape) | set(more):
        raise ValueError('not what a scan keeps')
    for name, each in value.items():
        if not (shape.get(name) or more[name])(each):
            raise ValueError('%s: %.60r' % (name, each))


class StateFile:
    """The slots of a file: config, and for each worker live and synced.

    excluded    the exclude list that the scan began with, if it has changed since; None
    distrust    '' or why somebody else may have written it
    """
    excluded = None

    def __init__(self, path, option, workers=None):
        """workers: of a new file; None: the file is there."""
        self.path, self.option, self.is_new, self.fd = path, option, bool(workers), None
        try:
            self.fd = self.open(workers)
            self.lock()
            size = self.make(workers) if workers else self.check()
            self.memory = mmap.mmap(self.fd, size)
        except (OSError, UserError) as error:
            if self.fd is not None:
                os.close(self.fd)
            raise self.refusal('another scan is using it' if isinstance(error, BlockingIOError)
                               else why(error)) from None
        self.config = SlotPair(self.memory, STATE_PAGE, CONFIG_SLOT, self.fd)
        self.workers = [[SlotPair(self.memory, at, SNAPSHOT_SLOT, self.fd),
                         SlotPair(self.memory, at + STATE_WORKER // 2, SNAPSHOT_SLOT, self.fd)]
                        for at in range(STATE_START, size, STATE_WORKER)]
        self.snapshots = [None] * len(self.workers)

    def open(self, workers) -> int:
        """Its descriptor: no link, no pipe; a new file is the user's alone."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                         | (os.O_CREAT if workers else 0), 0o600)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UserError('a symbolic link: name the file itself') from None
            raise
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise UserError('a file was expected')
        self.distrust = distrust(status)
        return fd

    def refusal(self, reason) -> UserError:
        return UserError('argument %s: %r: %s' % (self.option, self.path, reason))

    def lock(self):
        """For this scan alone; raises BlockingIOError."""
        until = time.monotonic() + STATE_WAIT_S
        while True:
            try:
                return fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.02)

    def make(self, workers) -> int:
        """A new file -> its size; it is sparse: du(1) prints what it takes."""
        if os.fstat(self.fd).st_size:
            raise UserError('is there already: --resume it, or remove it')
        os.fchmod(self.fd, 0o600)
        os.ftruncate(self.fd, STATE_START + workers * STATE_WORKER)
        os.pwrite(self.fd, STATE_MAGIC, 0)
        return STATE_START + workers * STATE_WORKER

    def check(self) -> int:
        """A file that should be such a one -> its size."""
        size = os.fstat(self.fd).st_size
        if os.pread(self.fd, len(STATE_MAGIC), 0) != STATE_MAGIC:
            raise UserError('not a state file of cscan')
        if size <= STATE_START or (size - STATE_START) % STATE_WORKER:
            raise UserError('cut: it has %d octets' % size)
        if size > STATE_START + TEAM_MAX * STATE_WORKER:
            raise UserError('damaged: it has %d octets, %d workers have less' % (size, TEAM_MAX))
        return size

    def load(self) -> dict:
        """The configuration; `snapshots` are the last that hold, one a worker, None at first."""
        try:
            return self.load_slots()
        except (ValueError, RecursionError) as error:       # json, base64, array say the first
            raise self.refusal('damaged: %s: remove it to begin anew' % error) from None

    def load_slots(self) -> dict:
        config = self.config.read()
        if config is None:
            raise self.refusal('no scan has begun with it: remove it')
        check_shape(config, CONFIG_SHAPE, CONFIG_MORE)
        if 'excluded' in config:
            self.excluded = Exclusions.unpack(config['excluded'])
        same_boot = config['boot_id'] == read_boot_id() != ''
        for index, (live, synced) in enumerate(self.workers):
            found = live.read(), synced.read()
            for each in found:
                if each is not None:
                    check_shape(each, SNAPSHOT_SHAPE, SNAPSHOT_MORE)
            self.snapshots[index] = found[0 if same_boot else 1]
        for slot in itertools.chain([self.config], *self.workers):
            if not is_count(slot.number):
                raise ValueError('slot %d' % slot.number)
        return config

    def check_positions(self, args, space, ranges):
        """Raises UserError if a snapshot cannot be of a scan of this space and these ranges."""
        index, count = args.shard
        is_target = space.tester()
        for number, each in enumerate(self.snapshots):
            size = len(space.share((index + count * number, count * args.w)))
            if each and not each['position'] <= each['drawn'] <= size:
                raise self.refusal('damaged: position %d, %d drawn of %s: remove it to begin anew'
                                   % (each['position'], each['drawn'], many(size, 'target')))
            for host, port, _ in each['waiting'] if each else ():
                if not is_in(ip_number(host), ranges) or not is_target(host, port):
                    raise self.refusal('damaged: %s:%d waits and is no target: remove it to begin '
                                       'anew' % (host, port))

    def passed(self) -> int:
        """How many results there were, of all workers: the one that wrote last knows."""
        return max((each['passed'] for each in self.snapshots if each), default=0)

    def begin(self, config):
        """From now on the live snapshots count again."""
        reasons = [live.write(snapshot)
                   for (live, _), snapshot in zip(self.workers, self.snapshots)]
        reasons.append(self.config.write(config))
        if any(reasons):
            if self.is_new:
                os.unlink(self.path)
            raise self.refusal(next(filter(None, reasons)))
        sync_to_disk(self.fd)


class Keeper:
    """Takes snapshots of an engine; each counts once the results before it are written.

    live, synced    SlotPairs
    candidate       (results that must be written, snapshot), not yet written; None
    """

    def __init__(self, live, synced, desk):
        self.live, self.synced, self.desk = live, synced, desk
        self.candidate, self.next = None, 0.0
        self.reason, self.flushed, self.closed = '', 0, threading.Event()
        self.last = self.saved = None       # the snapshots last written: live, synced
        self.meter = Meter()                # of the engine: its records go to the disk before

    def look(self, engine):
        """After each round of the engine."""
        if not self.candidate:
            if engine.real < self.next:
                return
            begun = time.monotonic()
            self.candidate = self.desk.accepted(), dict(engine.snapshot(), done=False)
            self.cost = time.monotonic() - begun
        results, snapshot = self.candidate
        if self.desk.settled() >= results:
            begun = time.monotonic()
            self.write(results, snapshot)
            self.cost += time.monotonic() - begun
            self.candidate, self.next = None, engine.real + max(KEEP_S, KEEP_SHARE * self.cost)

    def write(self, results, snapshot):
        """The live snapshot, if all results before it have arrived where they should."""
        if results > self.flushed:
            self.desk.flush()
            self.flushed = results
        if self.desk.loses():
            return                          # to be found once more
        snapshot['passed'] = self.desk.passed()
        reason = self.live.write(snapshot)
        if not reason:
            self.last = snapshot
        elif reason != self.reason:
            self.reason = reason
            self.desk.note('warning: --state: %s: until that changes, --resume would repeat '
                              'everything from here on' % reason)

    def sync_often(self):
        """A thread: once a second, results to the disk, then the snapshot that needs them."""
        while not self.closed.wait(SYNC_S):
            self.sync()

    def sync(self):
        last = self.last
        if last is not self.saved:
            self.meter.sync()
        if last is not self.saved and self.desk.sync() and not self.synced.write(last):
            self.saved = last
            sync_to_disk(self.synced.fd)    # not memory.flush(): that would stop all threads

    def start(self):
        self.syncer = threading.Thread(target=self.sync_often, daemon=True)
        self.syncer.start()

    def finish(self, engine):
        """The last snapshot: everything is written."""
        self.closed.set()
        self.syncer.join()
        queue = engine.queue
        done = self.desk.end() == ENOUGH or (
            queue.exhausted and not queue.again and not engine.stopping)
        if self.desk.settled() >= self.desk.accepted():
            self.write(self.desk.accepted(), dict(engine.snapshot(), done=done))
        self.sync()


# ---- workers ----
#
# With -w N, each of N processes runs an Engine on a shard of the targets.  The first process runs
# the modules, the output and what the user sees.  A worker reports to it by
#   a pipe      lines: `R host port host port ...` results of a turn, `S host port state reason`
#               a port that --show names, `E text` an event, `N text` a note, `B code` a bit
#               for the CBA, `X text` an error that ends the scan, `.` the last line
#   a page      of shared memory: a SlotPair with the worker's Totals, ten times a second;
#               in front of it the orders of the first process, words that are written at once

ORDERS = 7                          # words:
WRITTEN, PASSED, STOP, REOPEN, REREAD, END, TALKED = range(ORDERS)      # results of this worker
                                    # that are written; results of all that passed the filters;
                                    # send no more; how often to open --log and read -xf again;
                                    # ENOUGH, NOBODY, FAILED or 0; connections of talks that
                                    # count in -r
WORKER_PAGE, PIPE_SIZE = 1 << 16, 1 << 12       # octets; results do not wait in the pipe in masses
F_SETPIPE_SZ = 1031                 # linux/fcntl.h
TEAM_MAX, TEAM_OPEN = 64, 7         # workers; descriptors for each that the first process needs
SIGNALS = signal.SIGINT, signal.SIGTERM


class Worker:
    """One process of a Team, as the first process sees it.

    orders  words in the page, see above
    results of its results that are not yet written, (number of the last among all that the crew
            got, how many up to it)
    totals  its last Totals
    """

    def __init__(self, engine):
        self.engine, self.pid, self.has_ended = engine, 0, False
        self.page = mmap.mmap(-1, WORKER_PAGE)
        self.counters = SlotPair(self.page, WORKER_PAGE // 2, WORKER_PAGE // 4)
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.fcntl(self.writer, F_SETPIPE_SZ, PIPE_SIZE)
        self.rest = b''                     # octets of a line that is not whole yet
        self.orders = memoryview(self.page).cast('Q')[:ORDERS]
        self.results = collections.deque()
        self.totals = engine.totals()

    def read(self):
        """-> whole lines from the pipe; None at its end."""
        try:
            data = os.read(self.reader, PIPE_SIZE)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self.rest = (self.rest + data).split(b'\n')
        return [line.decode('utf-8', 'replace') for line in lines]

    def look(self):
        """Learn its counters."""
        told = self.counters.read()
        if told:
            answers, locals_ = (collections.Counter(dict(each)) for each in told[-2:])
            self.totals = Totals(*told[:-2], answers, locals_)


class Messenger:
    """The Desk of an engine in a worker process: what comes in goes to the first process.

    parent  process that it works for
    log     Log that this process writes to as well; or None
    unsent  octets that the pipe has no room for
    heard   [orders to reopen, orders to reread] up to now
    """
    def __init__(self, worker, parent, sink, log):
        self.worker, self.parent, self.unsent, self.count = worker, parent, b'', 0
        self.found, self.states = [], []        # of this turn
        self.orders, self.sink = worker.orders, sink
        self.log, self.heard = log, [0, 0]
        self.talked = 0                         # connections of talks that count in our rate

    def say(self, text):
        self.unsent += text.replace('\n', ' ').encode('utf-8', 'backslashreplace') + b'\n'
        self.push()

    def push(self):
        """Write what the pipe takes."""
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.worker.writer, self.unsent):]
        except BlockingIOError:
            pass                            # the rest next time
        except BrokenPipeError:
            os._exit(1)                     # killed: nobody hears us any more

    # ---- results ----

    def put(self, host, port):
        self.found.append((host, port))

    def put_all(self, results, socks=()):
        self.found += results
        return ()

    def put_state(self, host, port, state, reason):
        self.states.append((host, port, state, reason))

    def turn(self):
        """What was found since the last turn, together; what talks have sent meanwhile."""
        talked, self.talked = self.talked, self.orders[TALKED]
        if talked != self.talked:
            self.worker.engine.talked(self.talked - talked)
        lines = list(map('S %s %d %s %s'.__mod__, self.states))
        if self.found:
            lines.append('R ' + ' '.join(map('%s %d'.__mod__, self.found)))
        self.count = self.accepted()
        self.found, self.states = [], []
        if lines:
            self.unsent += ('\n'.join(lines) + '\n').encode()
            self.push()

    def accepted(self):
        return self.count + len(self.found) + len(self.states)

    def settled(self):
        return self.orders[WRITTEN]

    def full(self):
        if self.unsent:
            self.push()
        return bool(self.unsent)

    def rest_s(self):
        return math.inf

    def passed(self):
        return self.orders[PASSED]

    def flush(self):
        """What is settled has been written by the first process."""

    def sync(self):
        return self.sink.sync()

    def loses(self):
        return self.orders[END] in (NOBODY, FAILED)

    # ---- events and notes ----

    def note(self, text):
        self.say('N ' + text)

    def event(self, text):
        self.say('E ' + text)

    def canary(self, canary, change):
        for kind, text in canary_messages(canary, change):
            self.say('%s %s' % (kind, text))

    def due(self):
        return math.inf                     # statistics are the first process's matter

    def tick(self, engine):
        """Ten times a second: report the totals, hear the orders."""
        if self.orders[END] == FAILED:
            engine.fail('results cannot be written')
        if os.getppid() != self.parent:
            os._exit(1)
        totals = engine.totals()
        self.worker.counters.write(totals[:-2] + tuple(list(each.items()) for each in totals[-2:]))
        if self.orders[STOP]:
            engine.stop('interrupted')
        self.hear_hangup(engine)

    def hear_hangup(self, engine):
        """What SIGHUP asks for, as the first process passes it on."""
        orders = [self.orders[REOPEN], self.orders[REREAD]]
        reopen, reread = map(operator.ne, orders, self.heard)
        self.heard = orders
        if reopen and self.log:
            with contextlib.suppress(UserError):        # the first process reports it
                self.log.reopen()
        engine.hup = engine.hup or reread

    def reopen(self):
        """The first process opens files, and orders it; see hear_hangup."""

    def reread(self, exclusions, new):
        """The first process reports it."""

    def decide(self, decision):
        self.say('D ' + json.dumps(decision))

    # ---- the end ----

    def end(self):
        """Not FAILED: then what is pending is waited for, see tick()."""
        return self.orders[END] if self.orders[END] in (ENOUGH, NOBODY) else 0

    def close(self, engine):
        """The last words; for the state, all results have to be written before the end."""
        self.tick(engine)
        if engine.error:
            self.say('X ' + engine.error)
        self.say('. ' + engine.stopping)
        while self.unsent and self.orders[END] != NOBODY:
            time.sleep(0.001)
            self.push()
        while engine.keeper and self.settled() < self.count and not self.loses():
            time.sleep(0.001)
            if os.getppid() != self.parent:
                os._exit(1)


class Team(Runner):
    """Workers, each with its engine, and what they find: to be used like one Engine.

    log, status     Log and StatusFile, or None: what workers get copies of when they are born
    """

    def __init__(self, engines, state, sink, log, status):
        self.log, self.status = log, status
        self.stopping, self.error, self.state, self.sink = '', '', state, sink
        self.hup, self.exclusions = False, engines[0].exclusions
        self.taken = 0                      # results given to the crew
        self.workers = [Worker(engine) for engine in engines]
        self.turns = itertools.count()      # of workers, as talks count in their rates
        self.elapsed = max(engine.elapsed for engine in engines)
        for worker in self.workers:
            worker.orders[PASSED] = state.passed() if state else 0
        self.real = self.started = time.monotonic()
        self.fork()
        self.poll, self.speaking = select.poll(), {}        # reader -> its worker, not yet ended
        for worker in self.workers:
            os.close(worker.writer)
            worker.engine.close()
            self.poll.register(worker.reader, select.POLLIN)
            self.speaking[worker.reader] = worker

    def fork(self):
        """Start the processes; a signal meanwhile waits."""
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS + (signal.SIGHUP,))
        try:
            for number, worker in enumerate(self.workers):
                worker.pid = os.fork()
                if not worker.pid:
                    self.be_worker(number, parent)
        except OSError as error:            # those that there are see that we end
            raise UserError('argument -w: process %d of %d: %s'
                            % (number + 1, len(self.workers), why(error))) from None
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS + (signal.SIGHUP,))

    def be_worker(self, number, parent):
        """A worker process, from its birth to its end."""
        status = 1
        try:
            for signum in SIGNALS + (signal.SIGHUP,):
                signal.signal(signum, signal.SIG_IGN)       # the first process passes it on
            if self.status:
                os.close(self.status.fd)    # the first process may open another
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS + (signal.SIGHUP,))
            for index, each in enumerate(self.workers):
                os.close(each.reader)
                if index != number:
                    os.close(each.writer)
                    each.engine.close()
            worker = self.workers[number]
            messenger = Messenger(worker, parent, self.sink, self.log)
            engine = worker.engine
            if self.state:
                engine.keep(Keeper(*self.state.workers[number], messenger))
            engine.run(messenger)
            messenger.close(engine)
            engine.finish()
            status = 0
        except BaseException as error:      # our bug: this process must not go on as the first
            complain('cscan: worker %d: %s: %s\n' % (number + 1, type(error).__name__, (
                NO_MEMORY if isinstance(error, MemoryError) else error)))
        finally:
            os._exit(status)

    def totals(self) -> Totals:
        """The sums of what all workers reported last."""
        told = [worker.totals for worker in self.workers]
        numbers = [sum(each) for each in zip(*(totals[:-4] for totals in told))]
        limits = list(dict.fromkeys(name for totals in told for name in totals.limits))
        counters = [sum((totals[at] for totals in told), collections.Counter()) for at in (-2, -1)]
        return Totals(*numbers, limits, told[0].canary, *counters)

    def run(self, desk):
        """Until all workers have ended."""
        self.desk = desk
        self.real = time.monotonic()
        self.started, next_tick = self.real - self.elapsed, self.real
        while self.speaking:
            if desk.full():
                time.sleep(0.002)
            else:
                nap_ms = min(10 if self.waiting() else 100, desk.rest_s() * 1000)
                for reader, _ in self.poll.poll(nap_ms):
                    if reader in self.speaking:
                        self.hear(self.speaking[reader])
            desk.turn()
            self.confirm()
            self.real = time.monotonic()
            if self.real >= next_tick:
                next_tick = self.real + TICK_S
                self.tick()
        self.tick()

    # ---- talks, which share our thread ----

    def watch(self, talks):
        """Naps end with their events as well; no socket of ours is theirs."""
        self.poll.register(talks.epoll, select.POLLIN)
        return None, {}

    def rate(self):
        """SYNs a second at most of all workers; None = no ceiling."""
        rates = [worker.engine.pace.rate for worker in self.workers]
        return None if None in rates else sum(rates)

    def talked(self, count):
        """Talks began so many connections, which count in -r: each worker in its turn."""
        for _ in range(count):
            worker = self.workers[next(self.turns) % len(self.workers)]
            worker.orders[TALKED] += 1

    def waiting(self):
        """Whether results are not yet written."""
        return any(worker.results for worker in self.workers)

    def hear(self, worker):
        """What a worker says."""
        lines = worker.read()
        if lines is None:
            del self.speaking[worker.reader]
            self.poll.unregister(worker.reader)
            if not worker.has_ended:
                self.fail('worker %d has ended before its work was done'
                          % (self.workers.index(worker) + 1))
            return
        for line in lines:
            kind, _, text = line.partition(' ')
            if kind == 'R':
                words = text.split(' ')
                self.take(worker, zip(words[::2], map(int, words[1::2])))
            elif kind == 'S':
                host, port, state, reason = text.split(' ', 3)
                self.take(worker, [(host, int(port), state, reason)])
            elif kind == 'X':
                self.fail(text)
            elif kind == 'D':
                self.desk.decide(Decision(*json.loads(text)), self.workers.index(worker) + 1)
            elif kind == '.':
                worker.has_ended, self.stopping = True, self.stopping or text
            else:
                self.desk.relay(kind, text)

    def take(self, worker, results):
        """Results of a worker, to be confirmed."""
        before = self.desk.accepted()
        self.desk.put_all(results)
        count = self.desk.accepted() - before
        self.taken += count
        worker.results.append((self.taken, count))

    def confirm(self):
        """Tell the workers which of their results are written."""
        settled, passed = self.desk.settled(), self.desk.passed()
        behind = [worker for worker in self.workers
                  if worker.results and worker.results[0][0] <= settled]
        if behind and self.state:
            self.desk.flush()
        if self.desk.loses():
            return                          # they went elsewhere, or nowhere
        for worker in behind:
            worker.orders[PASSED] = passed
            written = 0
            while worker.results and worker.results[0][0] <= settled:
                written += worker.results.popleft()[1]
            worker.orders[WRITTEN] += written

    def tick(self):
        """Ten times a second."""
        if self.hup:
            self.reread()
        for worker in self.workers:
            worker.look()
        self.desk.tick(self)
        end = FAILED if self.desk.failed() else self.desk.end()
        for worker in self.workers:
            worker.orders[END] = end
        if self.totals().sent >= self.desk.due():
            self.desk.statistics(self)

    def order(self, word):
        """To each worker, once more."""
        for worker in self.workers:
            worker.orders[word] += 1

    def reopen(self):
        super().reopen()
        self.order(REOPEN)

    def bar(self):
        """The workers read the exclude list each for itself: here it had no mistake."""
        self.order(REREAD)

    def stop(self, reason):
        """Let all of them wind up."""
        self.stopping = self.stopping or reason
        for worker in self.workers:
            worker.orders[STOP] = 1

    def kill(self):
        """At once."""
        for worker in self.workers:
            if worker.pid:
                os.kill(worker.pid, signal.SIGKILL)
        self.sink.hurry()

    def finish(self):
        """All have ended: no zombie is left."""
        for number, worker in enumerate(self.workers, 1):
            pid, worker.pid = worker.pid, 0
            if os.waitpid(pid, 0)[1]:
                self.error = self.error or 'worker %d did not end well' % number


def canary_messages(canary, change):
    """A canary's end -> (kind, text) for Progress.relay: what is new about it, each failure."""
    if change == 'open again':
        yield 'E', 'canary %s:%d: open again' % canary.address
    elif change == 'failed':
        yield 'N', 'canary %s:%d: %s' % (canary.address + (canary.state,))
    if change.startswith('failed'):
        timed_out = canary.state == 'timed out'
        yield 'B', str(CSCAN_CANARY_FAIL if timed_out else CSCAN_CANARY_FAIL_RESPONSE)


# ---- progress ----

CSCAN_STATS_EVERY, CSCAN_STAT_TIME, CSCAN_EVENT = 10, 11, 20    # codes of the entry `cscan`
CSCAN_CANARY_FAIL, CSCAN_CANARY_FAIL_RESPONSE = 21, 22
NAMES = {errno.ECONNREFUSED: 'refused', errno.EHOSTUNREACH: 'host unreachable',
         errno.ENETUNREACH: 'net unreachable', errno.EACCES: 'prohibited',
         errno.ETIMEDOUT: 'given up by the kernel', errno.ENOPROTOOPT: 'protocol unreachable'}


class Progress:
    """What the user sees of a running scan, and the scanner's own entry in the CBA.

    every   packets between two statistics lines
    out     Out of thread 0 for the CBA, or None
    total   probes of the whole scan, None = without end
    """

    def __init__(self, console, every, out, total, least_s=0):
        """least_s: between two statistics lines for those without a terminal."""
        self.console, self.every, self.out, self.total = console, every, out, total
        self.least_s, self.spoken = least_s, -math.inf      # spoken: when the last one was written
        self.due = every                # packets at the next statistics line
        self.before = (0, 0)            # events, results at the last one
        self.drawn = time.monotonic()   # when the status line was last drawn
        self.rates = collections.deque([(self.drawn, 0)], maxlen=6)     # (time, sent) each second
        self.reported = set()           # kinds of local errors that the user knows
        self.status_file = None         # --status
        self.keep_config = bool         # does nothing: --state gives another
        self.decisions = collections.deque(maxlen=1000)     # of -r auto, for the next record
        if out:
            out.begin('cscan')
            out.int32(every, CSCAN_STATS_EVERY)

    def event(self, text):
        """Something that readers of the results should know as well as the user."""
        self.console.note(text)
        if self.out:
            self.out.str(text[:1000], CSCAN_EVENT)

    def resume(self, totals):
        """What was reported before is not reported again."""
        self.before, self.due = (count_events(totals), totals.opened), totals.sent + self.every
        self.rates[0] = self.drawn, totals.sent
        text = 'resumed: %d of %d targets were done, %d wait to be tried again' % (
            totals.drawn - totals.unsent, self.total, totals.unsent)
        self.console.progress(text)
        if self.out:
            self.out.str(text, CSCAN_EVENT)

    def canary(self, canary, change):
        """A canary's end."""
        for kind, text in canary_messages(canary, change):
            self.relay(kind, text)

    def reopen(self):
        """SIGHUP: --log and --status go to the files that have their names now."""
        opened = []
        for file in filter(None, (self.console.log, self.status_file)):
            try:
                if file.reopen():
                    opened.append('%s %r' % (file.option, file.path))
            except UserError as error:
                self.console.note('warning: SIGHUP: %s; the file before stays' % error)
        self.console.progress('SIGHUP: the scan goes on' + (
            '; opened again: ' + ', '.join(opened) if opened else ''))

    def reread(self, exclusions, new):
        """The exclude list was read again: keep it in the state, report what is new."""
        reason = self.keep_config()
        if reason:
            self.event('warning: --state: %s: --resume will not know the exclude list' % reason)
        self.event('SIGHUP: exclude list read again: %s more excluded from now on'
                   % many(count_addresses(new), 'address'))

    def decide(self, decision, worker=None):
        """What -r auto has decided: each into --status, losses on the console."""
        self.decisions.append(dict(decision._asdict(), **{'worker': worker} if worker else {}))
        if decision.reason not in AUTO_USUAL:
            self.console.progress('%srate %.0f/s: %s' % (
                ('worker %d: ' % worker if worker else '',) + decision[1:]))

    def relay(self, kind, text):
        """E: an event, N: a note, B: the code of a bit for the CBA."""
        if kind == 'E':
            self.event(text)
        elif kind == 'N':
            self.console.note(text)
        elif self.out:
            self.out.bit(int(text))

    def statistics(self, engine):
        """The line after each `every` packets, for the CBA and for those without a terminal."""
        totals = engine.totals()
        self.due = totals.sent - totals.sent % self.every + self.every
        events = count_events(totals)
        new_events, new_results = events - self.before[0], totals.opened - self.before[1]
        self.before = events, totals.opened
        if self.out:
            self.out.int64(int(time.time()), CSCAN_STAT_TIME)
            self.out.int32(new_events)
            self.out.int32(new_results)
        now = time.monotonic()
        if not self.console.tty and now - self.spoken >= self.least_s:
            self.spoken = now
            self.console.progress(', '.join(
                ['%d packets' % totals.sent, '%d results' % totals.opened,
                 '%d new events' % new_events] + list(filter(None, [totals.canary]))))

    def show(self, engine):
        """Ten times a second: new kinds of local errors; each second the status line."""
        totals = engine.totals()
        for code in set(totals.locals) - self.reported:
            self.reported.add(code)
            self.event('local error %s (%s): slowing down, its targets are tried again'
                       % (errno.errorcode.get(code, code), os.strerror(code)))
        now = time.monotonic()              # engine.real stands still when all is sent
        if now - self.drawn >= 1:
            self.drawn = now
            self.rates.append((now, totals.sent))
            self.console.status(self.status(engine, totals))
            if self.status_file:
                self.write_status(engine, totals, 'stopping' if engine.stopping else
                               'waiting for modules' if self.waits(engine) else 'running')

    def waits(self, engine):
        """Whether modules are what there is to wait for."""
        return engine.desk.full() or engine.desk.crew.closed

    def write_status(self, engine, totals, state):
        """A line of --status; decisions that it has no room for come in the next."""
        record = self.record(engine, totals, state)
        decisions = list(itertools.islice(self.decisions, STATUS_DECISIONS))
        if decisions:
            record['decisions'] = decisions
        if self.status_file.write(record):
            for _ in decisions:
                self.decisions.popleft()

    def reckon(self, engine, totals):
        """-> packets a second, % done and seconds left (None: unknown)."""
        (then, before), (now, sent) = self.rates[0], self.rates[-1]
        rate = (sent - before) / (now - then) if now > then else 0
        if not self.total:
            return rate, None, None
        done = max(totals.sent - totals.repeats - totals.lost + totals.barred, 0)
        left = max(self.total - done, 0) / rate if rate and not engine.stopping else None
        return rate, min(100 * done / self.total, 100), left

    def record(self, engine, totals, state) -> dict:
        """A line of --status."""
        rate, percent, left = self.reckon(engine, totals)
        record = {
            'time': round(time.time(), 3), 'state': state, 'reason': engine.stopping,
            'elapsed_s': round(time.monotonic() - engine.started, 3), 'rate_pps': round(rate, 1),
            'percent': percent and round(percent, 3), 'eta_s': left and round(left, 1),
            'total': self.total, 'sent': totals.sent, 'results': engine.desk.passed(),
            'open': totals.opened, 'without_answer': totals.timeouts,
            'answers': {NAMES.get(code, errno.errorcode.get(code, str(code))): count
                        for code, count in totals.answers.items()},
            'pending': totals.pending, 'waiting': totals.unsent, 'retries': totals.repeats,
            'sent_again': totals.lost, 'clashes': totals.clashes,
            'excluded_meanwhile': totals.barred, 'local_errors': {
                errno.errorcode.get(code, str(code)): count
                for code, count in totals.locals.items()},
            'limits': totals.limits, 'canary': totals.canary or None}
        if state in ('done', 'stopped'):
            record['error'] = self.error(engine) or None
        return record

    def error(self, engine) -> str:
        """What makes the exit status 1, '' if all is well."""
        return engine.error or engine.desk.sink.failed or self.console.failed

    def status(self, engine, totals):
        """open (it stays at 40 columns), rate, sent, % and time left, pending, local errors."""
        rate, percent, left = self.reckon(engine, totals)
        parts = ['%d open' % totals.opened, '%.0f/s' % rate, '%d sent' % totals.sent]
        if percent is not None:
            parts[-1] += ' (%.1f%%)' % percent
        if left is not None:
            parts.append(duration_text(left) + ' left')
        parts.append('%d pending' % totals.pending)
        parts += self.talks(engine.desk.crew)
        if totals.locals:
            parts.append('%d local errors' % sum(totals.locals.values()))
        parts += filter(None, [totals.canary])
        if self.waits(engine):
            parts.append('waiting for modules')
        if engine.stopping:
            parts.append('stopping')
        return ', '.join(parts)

    def talks(self, crew) -> 'list[str]':
        """What the status line has of conversations: under way, and waiting to begin."""
        if not crew.talks:
            return []
        waiting = len(crew.waiting) + crew.parked
        return ['%d talks' % crew.talking + (' (%d wait)' % waiting if waiting else '')]

    def final(self, engine, state='done'):
        """The last line: what became of everything that was sent; state: 'stopped' by a signal."""
        totals = engine.totals()
        if self.status_file:
            self.end_file(engine, totals, state)
        parts = ['%d open' % totals.opened]
        parts += ['%d %s' % (count, NAMES.get(code, errno.errorcode.get(code, str(code))))
                  for code, count in totals.answers.most_common()]
        parts.append('%d without answer' % totals.timeouts)
        for count, name in ((totals.repeats, 'retries'), (totals.lost, 'sent again'),
                            (totals.clashes, 'possible clash'), (totals.selfs, 'self-connected'),
                            (totals.barred, 'excluded meanwhile'),
                            (totals.unsent, 'not sent')):
            if count:
                parts.append('%d %s' % (count, name))
        parts += filter(None, [totals.canary])
        self.console.clear()
        self.console.progress('%s in %s%s: %s' % (
            many(totals.sent, 'packet'), duration_text(engine.real - engine.started),
            ' (%s)' % engine.stopping if engine.stopping else '', ', '.join(parts)))
        if totals.locals:
            self.console.note('local errors: ' + ', '.join(
                '%s %d' % (errno.errorcode.get(code, code), count)
                for code, count in totals.locals.most_common()))

    def end_file(self, engine, totals, state):
        """The last lines of --status; a slow reader gets a little time for them."""
        self.status_file.patience_ms = STATUS_LAST_MS
        while len(self.decisions) > STATUS_DECISIONS and not self.status_file.failed:
            before = len(self.decisions)
            self.write_status(engine, totals, 'stopping')
            if len(self.decisions) == before:
                break                       # nobody takes them
        self.write_status(engine, totals, state)


STATISTICS_S = 5                # at least, between two statistics lines without -st
STATUS_DECISIONS = 16           # in a line: all of it is less than a pipe's 4096
STATUS_LAST_MS = 2000


class StatusFile:
    """--status: one JSON object a line, each second and at the end.

    A reader that is slow or gone loses lines, and does not hold up the scan.

    path    absolute, '' = a descriptor was given
    fd      None: the file is not open yet
    rest    octets of a line that was begun
    """
    option = '--status'

    def __init__(self, spec, console):
        """A descriptor that is given as a number is taken now: our own files get numbers soon."""
        self.spec, self.console, self.failed, self.lost = spec, console, False, 0
        self.patience_ms, self.rest, self.fd = 0, b'', None
        self.path = '' if is_descriptor(spec) else os.path.abspath(spec)
        if is_descriptor(spec):
            try:
                if not fcntl.fcntl(int(spec), fcntl.F_GETFL) & (os.O_WRONLY | os.O_RDWR):
                    raise OSError(errno.EBADF, '')
                self.fd = os.dup(int(spec))
            except (OSError, OverflowError):
                raise UserError('argument --status: %s: no descriptor that can be written: '
                                'open it, as with 3>FILE' % spec) from None

    def open(self):
        """The file, if it is one, to append to."""
        if self.path:
            self.fd = self.open_path()

    def open_path(self) -> int:
        try:
            return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                           | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise UserError('argument --status: %r: %s' % (
                self.spec, 'nobody reads this pipe' if error.errno == errno.ENXIO else
                why(error))) from None

    def reopen(self) -> bool:
        """What has its name now -> whether there is one; a line that was begun is not ended."""
        if not self.path:
            return False
        fd = self.open_path()
        os.close(self.fd)
        self.fd, self.rest, self.failed = fd, b'', False
        return True

    def write(self, record) -> bool:
        """One line, if its reader has room -> whether it went."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        if self.failed or not poll.poll(self.patience_ms):
            self.lost += 1
            return False
        if self.lost:
            record['lost_lines'] = self.lost
        data = self.rest + json.dumps(record, separators=(',', ':')).encode() + b'\n'
        try:
            self.rest = data[os.write(self.fd, data):]
            return True
        except BlockingIOError:
            self.lost += 1
        except OSError as error:
            self.failed = True
            self.console.note('--status %s: %s: nothing more is written there'
                              % (self.spec, why(error)))
        return False


def is_descriptor(spec) -> bool:
    """Whether --status names an open descriptor, not a file."""
    return bool(re.fullmatch('[0-9]+', spec or ''))


def count_events(totals: Totals) -> int:
    """How many connects ended otherwise than open or in silence."""
    return sum(totals.answers.values()) + sum(totals.locals.values()) + totals.clashes


# ---- metrics ----

METRICS_LOOK = 1 << 16          # octets of a file that are read to see whether it is ours


class Metrics:
    """The file of -mf: records gather in memory and are written ten times a second.

    Workers of -w append to one file, each by a descriptor of its own; what one writes at a time
    are whole records.  In such a file time goes back by what they wait for each other.

    before  of a scan that goes on: what mark() returned last; None
    end     of such a file: (offset behind the last whole record, its ms)
    shift   ms from the monotonic clock to times in the file: 0 until a scan goes on
    ended   shared octet, 1 once the file cannot be written: a note, and the scan goes on
    """
    RECORDS = {tag: struct.Struct('=' + METRICS_TIME + body)    # = is the machine's byte order
               for tag, body in METRICS_BODY.items()}
    TIMEOUT = struct.Struct('=i')       # the file begins with -t in ms
    LONGEST = max(record.size for record in RECORDS.values())
    GAP_MAX = 30 * 86400000         # ms that a scan may pause; metrics.py takes more for damage

    def __init__(self, path, timeout_ms, console, before=None):
        self.path, self.console, self.before, self.end = path, console, before, None
        self.head = self.TIMEOUT.pack(max(1, round(timeout_ms)))
        self.records, self.shift, self.ended = [], 0, mmap.mmap(-1, 1)
        try:
            self.fd = self.open()
            self.regular = stat.S_ISREG(os.fstat(self.fd).st_mode)
            self.check()
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError('argument -mf: %r: another program is writing to it' % path) from None
        except OSError as error:
            raise UserError('argument -mf: %r: %s' % (path, why(error))) from None

    def open(self):
        """Its descriptor; a pipe is none: its reader could hold up the scan."""
        if os.path.exists(self.path):
            mode = os.stat(self.path).st_mode
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                raise UserError('argument -mf: %r: a file was expected' % self.path)
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def check(self):
        """What is there already is replaced if it is empty or such a file, or it goes on."""
        size = os.fstat(self.fd).st_size if self.regular else 0
        if self.before and self.regular and not size:
            self.console.note('warning: -mf %r: what it held is gone: it begins anew' % self.path)
        head = os.pread(self.fd, self.TIMEOUT.size, 0) if size else b''
        if self.before and size:
            self.end = head == self.head and self.find_end(*self.before[:2])
            if not self.end:
                raise UserError('argument -mf: %r: not as the scan left it: move it away, then '
                                'another begins' % self.path)
        elif size and not self.is_ours(size):
            raise UserError('argument -mf: %r: not replaced: it holds something else than metrics'
                            % self.path)

    def is_ours(self, size) -> bool:
        """Whether the file begins as one of -mf: a timeout, then records, at least one whole."""
        data = os.pread(self.fd, METRICS_LOOK, 0)
        if size < self.TIMEOUT.size or not 1 <= self.TIMEOUT.unpack_from(data)[0] <= 3600000:
            return False
        at = begin = self.TIMEOUT.size
        while at < len(data):
            record = self.RECORDS.get(data[at])
            if not record:
                return False
            if at + record.size > len(data):
                break                       # cut, or more than is looked at
            at += record.size
        return size == begin or at > begin

    def find_end(self, at, ms):
        """From the end of a record of that time -> (end of the last whole one, latest ms).

        None if there is anything else than a record that was cut, or what a lost disk block holds.
        """
        with mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ) as data:
            if at > len(data):
                return None
            while at < len(data):
                record = self.RECORDS.get(data[at])
                if not record or at + record.size > len(data):
                    break
                latest, at = at, at + record.size
                ms = max(ms, record.unpack_from(data, latest)[1])
            rest = data[at:at + 4096]
        return None if len(rest) >= self.LONGEST and rest.strip(b'\0') else (at, ms)

    def begin(self):
        """The scan begins, or goes on: with a whole record, and at a time that fits."""
        if not self.end:
            if self.regular:
                os.ftruncate(self.fd, 0)
            self.records.append(self.head)
            return self.flush()
        (end, latest), (_, then, wall) = self.end, self.before
        size = os.lseek(self.fd, 0, os.SEEK_END)
        if end < size:
            os.ftruncate(self.fd, os.lseek(self.fd, end, os.SEEK_SET))
            self.console.note('-mf %r: %s of a record that had not been written whole: cut off'
                              % (self.path, many(size - end, 'octet')))
        pause = min(max(0, int((time.time() - wall) * 1000)), self.GAP_MAX)
        self.shift = max(latest, then + pause) - int(time.monotonic() * 1000)

    def twin(self):
        """The same for another worker."""
        twin = Metrics.__new__(Metrics)
        vars(twin).update(vars(self), records=[], fd=self.open())
        if self.regular:
            os.lseek(twin.fd, 0, os.SEEK_END)
        return twin

    def add(self, tag, *fields):
        self.records.append(self.RECORDS[tag].pack(tag, *fields))

    def add_later(self, make, *args):
        """What make(*args) returns, called when all are written: those of many batches at once.

        Between two batches, when the kernel has filled the caches, the same takes thrice as long.
        """
        self.records.append((make, args))

    def flush(self):
        """What has gathered into the file; on failure the file ends with a whole record."""
        rest = memoryview(b''.join([record if isinstance(record, bytes) else record[0](*record[1])
                                    for record in self.records]))
        size = len(rest)
        self.records.clear()
        try:
            while rest and not self.ended[0]:
                rest = rest[os.write(self.fd, rest):]
        except OSError as error:
            self.ended[0] = 1
            self.console.note('-mf %r: %s: metrics end here, the scan goes on'
                              % (self.path, why(error)))
            if self.regular:
                with contextlib.suppress(OSError):      # a torn record is what readers expect
                    self.take_back(size - len(rest))

    def take_back(self, written):
        """The last octets, unless another worker has been there since."""
        end = os.lseek(self.fd, 0, os.SEEK_CUR)
        if end == os.fstat(self.fd).st_size:
            os.ftruncate(self.fd, os.lseek(self.fd, end - written, os.SEEK_SET))

    def mark(self, ms):
        """For the state, after flush() -> [end, ms, seconds since 1970]."""
        return [os.lseek(self.fd, 0, os.SEEK_CUR) if self.regular else 0, ms, time.time()]

    def sync(self):
        """What is written to the disk."""
        with contextlib.suppress(OSError):
            os.fdatasync(self.fd)


class Volley:
    """Sockets that were connected together, and mostly will be again.

    socks   empty once they went different ways
    ms      when; records: a bytearray, as they were written last
    """
    __slots__ = 'socks', 'ms', 'records'

    def __init__(self, socks):
        self.socks, self.ms, self.records = socks, 0, None


def stamp(records: bytearray, size: int, head: bytes) -> bytes:
    """Records of a size, that begin alike, with another head: only octets that differ change."""
    count, old = len(records) // size, records[:len(head)]
    for at in range(len(head)):
        if old[at] != head[at]:
            records[at::size] = head[at:at + 1] * count
    return bytes(records)


def pack_delays(head: bytes, ms: int, kind: bytes, counts) -> bytes:
    """Head of a record, its ms, what stands at its end, {ms of connect(): how many} -> records."""
    pack = FileMeter.FIELD.pack
    return b''.join([(head + pack(ms - since) + kind) * count for since, count in counts.items()])


class NamedPool(Pool):
    """A Pool that has the octets by which records name a socket: those of its descriptor."""
    NAME = struct.Struct('=i')

    def __init__(self, *args):
        super().__init__(*args)
        self.names = {}                 # socket -> octets, all there are

    def add(self):
        super().add()
        sock = self.free[-1]
        self.names[sock] = self.NAME.pack(sock.fileno())

    def release(self, sock):
        del self.names[sock]
        super().release(sock)


class FileMeter(Meter):
    """-mf: a record of all that an engine does.

    A volley that comes again costs 0.1 us a packet of the 3 to 4 that it takes, any other 0.15.
    """
    HEAD = struct.Struct('=' + METRICS_TIME)
    FIELD = NamedPool.NAME
    SENT_SIZE = Metrics.RECORDS[METRICS_SENT].size

    def __init__(self, metrics=None):
        self.metrics = metrics          # to be given before begin()
        self.pool = None                # its NamedPool, from make_pool() on
        self.volleys = {}               # first socket -> Volley that is still together
        self.since = {}                 # socket -> Volley of its last connect(), if it has one
        self.idle = []                  # those of self.volleys that ended together
        self.unrecorded = []            # ms of connects that had no answer, as was found just now
        self.ms = 0                     # time of records
        self.lapped = 0.0               # monotonic time of the last lap
        self.sending = [0.0, 0]         # seconds and packets that have no record yet
        self.expiry = [0.0, 0]          # seconds and sockets

    def make_pool(self, *args):
        self.pool = NamedPool(*args)
        return self.pool

    def begin(self, desk):
        self.metrics.console = desk

    # ---- time ----

    def clock(self, real):
        if self.unrecorded:
            self.settle()
        self.lapped = real
        self.ms = int(real * 1000) + self.metrics.shift

    def woke(self, count, asked):
        if self.unrecorded:
            self.settle()
        self.ms = int(time.monotonic() * 1000) + self.metrics.shift     # of answers among them
        self.metrics.add(METRICS_WOKE, self.ms, count, int(asked * 1000))

    def lap(self, phase, count):
        """What was done since the last lap, or since clock(), belongs to a phase."""
        now = time.monotonic()
        phase[0] += now - self.lapped
        phase[1] += count
        self.lapped = now

    def tick(self):
        """One phase of each kind is what was done since the last tick."""
        for tag, phase in ((METRICS_SENDING, self.sending), (METRICS_EXPIRY, self.expiry)):
            if phase[1]:
                took = int(phase[0] * 1000)
                self.metrics.add(tag, self.ms, took, phase[1])
                phase[:] = phase[0] - took / 1000, 0        # what is less than 1 ms is kept
        self.settle()
        self.metrics.flush()

    def settle(self):
        """Before time goes on: records of what ended one by one."""
        if self.unrecorded:
            self.record_delays(METRICS_TIMEOUT, b'', collections.Counter(self.unrecorded))
            self.unrecorded.clear()

    # ---- connects that begin ----

    def connected(self, socks, again):
        if socks:
            volley = self.volleys.get(socks[0]) if again else None
            if volley and volley.socks == socks:
                self.record_again(volley)
            else:
                if again:
                    self.record_turned_over(socks)
                self.record_sent(socks, again)
        self.lap(self.sending, len(socks))

    def record_again(self, volley):
        """A volley had no answer at all and is under way once more."""
        self.metrics.add_later(self.pack_again, volley.records, volley.ms, self.ms)
        volley.ms = self.ms

    def pack_again(self, records, since, ms):
        counts = {since: len(records) // self.SENT_SIZE}
        return pack_delays(self.HEAD.pack(METRICS_TIMEOUT, ms), ms, b'', counts) + stamp(
            records, self.SENT_SIZE, self.HEAD.pack(METRICS_SENT, ms))

    def record_sent(self, socks, again):
        """Connects of these are under way; again: they were before."""
        volley, head = self.volleys.get(socks[0]), self.HEAD.pack(METRICS_SENT, self.ms)
        if volley and volley.socks == socks:
            self.idle.remove(volley)        # else record_again() would have been called
        else:
            if again:
                self.part(set(map(self.since.get, socks)))
            else:
                self.part(self.idle)
                self.idle.clear()
            self.volleys[socks[0]] = volley = Volley(socks)
            volley.records = bytearray(head + head.join(map(self.pool.names.__getitem__, socks)))
            self.since.update(zip(socks, itertools.repeat(volley)))
        volley.ms = self.ms
        self.metrics.add_later(stamp, volley.records, self.SENT_SIZE, head)

    def record_turned_over(self, socks):
        """They had no answer, and new connects follow.

        Sockets come in the order of their connects: if the first and the last have one time, so
        have all of them.
        """
        oldest = self.since[socks[0]].ms
        if oldest == self.since[socks[-1]].ms:
            return self.record_delays(METRICS_TIMEOUT, b'', {oldest: len(socks)})
        volleys = collections.Counter(map(self.since.__getitem__, socks))
        counts = collections.Counter()
        for volley, count in volleys.items():
            counts[volley.ms] += count
        self.record_delays(METRICS_TIMEOUT, b'', counts)

    def odd(self, sock, code, old):
        """Whatever becomes of the old target: was something sent to the new one?"""
        if not old:
            self.leave(sock)                # what it waited for before has long ended
        if old and code == errno.EINVAL or code == EISCONN:
            return                          # nothing was sent, nor was it refused
        if code in LOCAL or code in CLASH:
            self.metrics.add(METRICS_SENT, self.ms, METRICS_FAILED)
            return
        self.metrics.add(METRICS_SENT, self.ms, METRICS_REFUSED if code else sock.fileno())
        if code not in OPEN and code != errno.ETIMEDOUT:
            self.metrics.add(METRICS_ANSWER, self.ms, 0, METRICS_AT_ONCE)

    # ---- connects that end ----

    def part(self, volleys):
        """Their sockets go different ways; nothing of them is kept but the time."""
        for volley in volleys:
            if volley and volley.socks:
                del self.volleys[volley.socks[0]]
                volley.socks, volley.records = (), None

    def leave(self, sock):
        """The connect of a socket has ended -> its ms; None: there was none."""
        volley = self.since.pop(sock, None)
        if not volley:
            return None
        if volley.socks:
            self.part((volley,))
        return volley.ms

    def leave_idle(self, attempts):
        for sock in set(self.since).difference(attempts):
            self.leave(sock)

    def ended(self, free, before):
        """What is not open makes its socket free: those, together, a tenth of one by one."""
        socks = free[before:]
        if not socks:
            return
        volley = self.since.get(socks[0])
        if volley and volley.socks == socks:
            self.idle.append(volley)
            self.record_closed({volley.ms: len(socks)})
        else:
            self.record_parted(collections.Counter(map(self.since.get, socks)))

    def record_parted(self, volleys):
        """{Volley: how many are not open}; since keeps them: to pop() each costs 0.04 us."""
        self.part(volleys)
        counts = collections.Counter()
        for volley, count in volleys.items():
            counts[volley.ms if volley else None] += count
        self.record_closed(counts)

    def closed(self, sock):
        self.record_closed({self.leave(sock): 1})

    def opened(self, socks, results=True):
        for sock in socks:
            since = self.leave(sock)
            kind = (METRICS_OPEN if results else 0) | (METRICS_AT_ONCE if since is None else 0)
            self.metrics.add(METRICS_ANSWER, self.ms, 0 if since is None else self.ms - since,
                             kind)

    def no_answer(self, sock):
        """One that ended at once was never under way."""
        since = self.leave(sock)
        self.unrecorded.append(self.ms if since is None else since)

    def taken_back(self, socks, taken):
        if len(taken) < len(socks):         # answered just before, and not open
            self.record_closed(collections.Counter(map(self.leave, set(socks).difference(taken))))
        self.lap(self.expiry, len(socks))

    def record_closed(self, counts):
        """{ms of connect(): how many are not open}; None: new sockets, they waited for nothing."""
        counts.pop(None, None)
        self.record_delays(METRICS_ANSWER, b'\0', counts)

    def record_delays(self, tag, kind, counts):
        """{ms of connect(): how many} -> a record for each."""
        self.metrics.add_later(pack_delays, self.HEAD.pack(tag, self.ms), self.ms, kind, counts)

    # ---- state ----

    def mark(self):
        """What a snapshot counts is in the file; so the file may have more, but never less."""
        self.settle()
        self.metrics.flush()
        return {'metrics': self.metrics.mark(self.ms)}

    def sync(self):
        self.metrics.sync()


def many(count: int, noun: str) -> str:
    """(2, 'address') -> '2 addresses'."""
    return '%d %s%s' % (count, noun, '' if count == 1 else 'es' if noun.endswith('s') else 's')


def duration_text(seconds: float) -> str:
    """4000 -> '1 h 6 min'."""
    if seconds < 10:
        return '%.1f s' % seconds
    whole = int(seconds)
    units = [('y', 31557600), ('d', 86400), ('h', 3600), ('min', 60), ('s', 1)]
    for index, (name, size) in enumerate(units):
        if whole >= size:
            text = '%d %s' % (whole // size, name)
            rest = units[index + 1:index + 2]
            if rest and whole % size >= rest[0][1]:
                text += ' %d %s' % (whole % size // rest[0][1], rest[0][0])
            return text
    return '0 s'


Limits = collections.namedtuple('Limits', [
    'max_open_files',       # RLIMIT_NOFILE, hard
    'conntrack_max',        # entries; 0 = not loaded
    'conntrack_span',       # s that the entry of an unanswered SYN stays
    'max_user_watches',     # epoll, for this user
    'local_port_range',     # (low, high)
    'linear',               # tcp_syn_linear_timeouts
    'open_now'])            # descriptors already in use


def read_limits() -> Limits:
    """The limits of this machine; 0 where they are unknown."""
    sysctl = '/proc/sys/'
    try:
        with open(sysctl + 'net/ipv4/ip_local_port_range') as file:
            ports = tuple(int(word) for word in file.read().split())
    except (OSError, ValueError):
        ports = (32768, 60999)
    try:
        open_now = len(os.listdir('/proc/self/fd'))
    except OSError:
        open_now = 16
    return Limits(
        resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        read_sysctl(sysctl + 'net/netfilter/nf_conntrack_max'),
        read_sysctl(sysctl + 'net/netfilter/nf_conntrack_tcp_timeout_syn_sent'),
        read_sysctl(sysctl + 'fs/epoll/max_user_watches'),
        ports, read_sysctl(sysctl + 'net/ipv4/tcp_syn_linear_timeouts'), open_now)


def raise_descriptors():
    """RLIMIT_NOFILE: soft to hard."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass                        # then the soft limit stays; EMFILE will be reported


def fit_pace(pace: Pace, limits: Limits, reserve: int, warn) -> Pace:
    """Make the window fit the machine, and warn of what cannot carry the rate asked."""
    hard = limits.max_open_files
    reserve = min(reserve, hard // 4)
    room = max(1, hard - reserve - limits.open_now) if hard >= 0 else pace.window
    if pace.window > room:
        warn('%d pending connects do not fit into %d descriptors: %d are used; raise the limit '
             'with ulimit -n %d' % (pace.window, hard, room,
                                    pace.window + reserve + limits.open_now))
    watches = limits.max_user_watches or pace.window
    if min(pace.window, room) > watches:
        warn('%d pending connects: sysctl fs.epoll.max_user_watches allows %d'
             % (pace.window, watches))
    return pace._replace(window=min(pace.window, room, watches))


def warn_pace(pace: Pace, limits: Limits, port: int, pairs: int, total, once: bool, warn):
    """Warn of limits that a scan may meet on its way."""
    rate = pace.rate or pace.window / pace.timeout_s
    if limits.conntrack_max and limits.conntrack_span:
        most = limits.conntrack_max / limits.conntrack_span
        if rate > most and (total is None or total > limits.conntrack_max):
            warn('if connections are tracked here, nf_conntrack_max %d / tcp_timeout_syn_sent '
                 '%d s carries %d/s at most: raise sysctl net.netfilter.nf_conntrack_max to %d'
                 % (limits.conntrack_max, limits.conntrack_span, most,
                    rate * limits.conntrack_span + 1))
    low, high = limits.local_port_range
    if not port and not once and pace.window / pairs > high - low + 1:
        warn('with -b 0 up to %d connects to one address and port are pending: sysctl '
             'net.ipv4.ip_local_port_range has %d ports'
             % (-(-pace.window // pairs), high - low + 1))


# ==== 9 Command line ==================================================================

EXAMPLES = '''\
examples:
  cscan.py -f 192.0.2.0/24 -p 22,80,443 --once          every port of every address, once
  cscan.py -f targets.txt -xf never.txt -p 443 --once -r 2000 -o scan.cba
  cscan.py -f 10.0.0.0/8 -p 1-1024 -n 100000            a random sample
  cscan.py -f private -p 80:2,8080 -l -n 10             list targets, send nothing
  cscan.py -f 192.0.2.0/24 -p 1-1024 --once -mod banner  what speaks there?
  cscan.py -x -mod ./mine.py < open.txt                 results from elsewhere to a module
  cscan.py -f 192.0.2.0/24 -p 22 --once --format xml    for what reads masscan -oX
  cscan.py -f default -p 443 -o world.cba -d            in the background, for ever
'''


# What users of other scanners type -> what says the same here
HABITS = {
    '-oX': '--format xml or nmap-xml, or cba_reader.py FILE --to xml',
    '-oJ': '--format masscan-json, or cba_reader.py FILE --to masscan-json',
    '-oG': '--format grepable, or cba_reader.py FILE --to grepable',
    '-oL': '--format list, or cba_reader.py FILE --to list',
    '-oN': 'text is the default: > FILE',
    '-oA': '-o FILE, then cba_reader.py FILE --to NAME for each format',
    '-iL': '-f FILE', '--rate': '-r PPS', '--ports': '-p SPEC', '--excludefile': '-xf FILE',
    '-sT': 'every scan is a connect() scan', '-sS': 'every scan is a connect() scan',
    '-sV': '-mod banner', '-Pn': 'no target is pinged first', '--banners': '-mod banner'}
GLUED = '-p', '-r', '-t', '-n', '-m', '-w', '-b', '-e'      # a digit may follow at once


class Parser(argparse.ArgumentParser):
    """One line for a mistake; formats, limits and modules below the options."""

    def error(self, message):
        complain('cscan: %s (see -h)\n' % message)
        sys.exit(2)

    def parse_known_args(self, args=None, namespace=None):
        return super().parse_known_args(
            self.whole_words(sys.argv[1:] if args is None else args), namespace)

    def whole_words(self, args) -> 'list[str]':
        """Words of a command line -> options and values, so that no typo is an option glued."""
        words, rest = [], list(args)
        while rest:
            word = rest.pop(0)
            option = word.partition('=')[0]
            if option in self._option_string_actions:
                words.append(word)
                if word == option and self.takes_value(option) and rest:
                    words.append(self.value_of(option, rest.pop(0)))
            elif word == '-p-' or (word[:2] in GLUED and '0' <= word[2:3] <= '9'):
                words += [word[:2], word[2:]]
            elif word.startswith('-'):
                self.error('%r: no such option%s' % (word, self.suggestion(word)))
            else:
                words.append(word)
        return words

    def takes_value(self, option) -> bool:
        return self._option_string_actions[option].nargs != 0

    def value_of(self, option, word) -> str:
        """The word behind an option, if it can be its value."""
        if word.startswith('-') and word != '-':
            self.error('argument %s: a value was expected before %r; one that begins with - is '
                       'written as %s=%s' % (option, word, option, word))
        return word

    def suggestion(self, word) -> str:
        """For a word that is no option: '; did you mean ...?', or ''."""
        options = self._option_string_actions
        option, equals, value = word.partition('=')
        if option in HABITS:
            return ': ' + HABITS[option]
        for each in '-' + option, option[1:]:
            if each in options:
                return '; did you mean %s?' % (each + equals + value)
        near = [each for each in options
                if (option.startswith('--') and len(option) > 3 and each.startswith(option))
                or (len(each) > 3 and sorted(each) == sorted(option))]
        if near:
            return '; did you mean %s?' % (near[0] + equals + value)
        glued = [each for each in options if word.startswith(each) and self.takes_value(each) and (
            not options[each].type or word[len(each):len(each) + 1].isdigit())]
        if glued and not word.startswith('--'):
            option = max(glued, key=len)
            return '; did you mean %s %s?' % (option, word[len(option):])
        return ''

    def format_help(self):
        return '\n'.join(filter(None, (super().format_help(), baked_text(), formats_text(),
                                       limits_text(), modules_text())))


def baked_text() -> str:
    """What compile_targets.py -c has built into this copy, for -h; '' in the project's."""
    if not BAKED:
        return ''
    addresses = count_addresses(load_ranges('default', '-f'))
    return 'built into this copy:\n  targets %s\n  ports   %s\n  modules %s\n' % (
        many(addresses, 'address'), BUILTIN_PORTS, BUILTIN_MODULES)


def limits_text() -> str:
    """The machine's limits, for -h."""
    limits = read_limits()
    return 'limits of this machine:\n' + ''.join('  %-26s%s\n' % row for row in (
        ('max_open_files (hard)', limits.max_open_files),
        ('conntrack_max', limits.conntrack_max or 'not loaded'),
        ('conntrack_span (s)', limits.conntrack_span or '-'),
        ('max_user_watches', limits.max_user_watches),
        ('local_port_range', '%d-%d' % limits.local_port_range)))


def modules_text() -> str:
    """The modules and their options, for -h."""
    lines = ['modules:']
    for each in MODULES.values():
        lines.append('  %-30s%s' % (each.name, each.help))
        lines += ['    %-28s%s (default: %s)' % (each.name + '.' + name, option[1], option[0])
                  for name, option in each.options.items()]
        words = ', '.join('%d=%s' % code for code in each.codes.items())
        lines += textwrap.wrap(words, 79, initial_indent='    codes in a CBA file: ',
                               subsequent_indent='      ')
    return '\n'.join(lines) + '\n'


def number(kind, low, high=math.inf):
    """argparse type: a number from low to high."""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError('%r: a %s from %s%s was expected' % (
                text, 'whole number' if kind is int else 'number', low,
                '' if high == math.inf else ' to %s' % high))
        return value
    return parse


def ip_argument(text):
    """argparse type: an IPv4 address."""
    if not re.fullmatch(QUAD, text):
        raise argparse.ArgumentTypeError('%r: an IPv4 address was expected' % text)
    return text


class AutoRate(float):
    """The rate that -r auto does not go beyond."""


def rate_argument(text):
    """argparse type: a rate, auto, or auto/N."""
    auto = re.fullmatch('auto(?:/(.+))?', text)
    try:
        rate = number(float, 0.001, 1e7)(auto.group(1) or str(AUTO_MAX) if auto else text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            '%r: a number from 0.001 to 10000000, auto or auto/N was expected' % text) from None
    return AutoRate(rate) if auto else rate


def team_argument(text):
    """argparse type: a number of processes, or auto."""
    return min(processors(), TEAM_MAX) if text == 'auto' else number(int, 1, TEAM_MAX)(text)


def shard_argument(text):
    """argparse type: 'i/n' -> (i - 1, n); 'auto' stays."""
    match = re.fullmatch(r'([0-9]+)/([0-9]+)', text)
    if text == 'auto':
        return text
    if not match or not 1 <= int(match.group(1)) <= int(match.group(2)):
        raise argparse.ArgumentTypeError('%r: I/N was expected, 1/N to N/N, or auto' % text)
    return int(match.group(1)) - 1, int(match.group(2))


def show_argument(text):
    """argparse type: 'refused,silent' -> these words."""
    words = [word for word in re.split(r'[,\s]+', text) if word]
    strange = [word for word in words if word != 'open' and word not in STATES]
    if strange or not words:
        raise argparse.ArgumentTypeError('%r: open, %s with commas between were expected' % (
            strange[0] if strange else text, ', '.join(STATES)))
    return sorted(set(words))


def make_parser() -> argparse.ArgumentParser:
    """The options, in the groups that -h shows."""
    parser = Parser(
        prog='cscan.py', usage='cscan.py -f TARGETS [-p PORTS] [--once] [options]',
        description='Scan IPv4 addresses for open TCP ports, without privilege.',
        epilog=EXAMPLES, allow_abbrev=False, add_help=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=28, width=99))
    natural, count = number(int, 0, sys.maxsize), number(int, 1, sys.maxsize)
    group = parser.add_argument_group('targets').add_argument
    group('-f', metavar='FILE|RANGES', action='append', default=[],
          help='ranges: .csw or text file, -, 10.0.0.0/8,192.0.2.1-192.0.2.9,name:HOST, or one '
               'of %s, default (the built-in targets)' % ', '.join(sorted(PRESETS)))
    group('-xf', '--exclude', metavar='FILE|RANGES', action='append', default=[],
          help='never probe these; taken like -f')
    group('--skip-unresolved', action='store_true',
          help='names of -f that do not resolve are skipped, not an error')
    group('--resolve', action='store_true', help='hosts by name need no name: before them')
    group('--pairs', metavar='FILE',
          help='targets are these ip:port lines, or what else -x reads; instead of -f and -p')
    group('--skip-bad', action='store_true',
          help='lines of -f and --pairs that are no targets are counted and left out')
    group('-p', metavar='SPEC', help='ports with weights: 80:2,ssh,8000-8010, - is all '
          '(default: %s)'
          % (BUILTIN_PORTS if len(BUILTIN_PORTS) < 40 else 'built-in'))
    group('-pf', '-fp', metavar='FILE', dest='pf',
          help='ports from a .csp file, or from text as -p has it, on lines')
    group('--top-ports', metavar='N', type=number(int, 1, len(TOP_PORTS)),
          help='the first N, of %d, ports of an order by judgement' % len(TOP_PORTS))
    group = parser.add_argument_group('order and end').add_argument
    group('--once', action='store_true', help='each address and port once, then stop')
    group('--seed', metavar='N', type=natural, help='repeat an order')
    group('--shard', metavar='I/N', type=shard_argument,
          help='with --once: part I of N, 1/N to N/N; the same command everywhere else; auto: '
               'as Slurm, Kubernetes or GNU parallel number their jobs')
    group('--shards', metavar='N', type=count, help='how many parts --shard auto means')
    group('-n', metavar='N', type=count, help='stop after N probes')
    group('--max-results', metavar='N', type=count, help='stop after N results')
    group('--max-runtime', metavar='S', type=number(float, 0.001, 1e9),
          help='send for S seconds at most')
    group('--state', metavar='FILE', help='with --once: keep in FILE what --resume needs')
    group('--resume', metavar='FILE', help='go on with the scan of --state FILE, however it ended')
    group('--retries', metavar='N', type=natural, default=0,
          help='try a target that did not answer N times more (default: 0)')
    group = parser.add_argument_group('pace').add_argument
    group('-r', metavar='PPS', type=rate_argument, default=520.0,
          help='SYNs per second; auto: as many as come through, up to %d, or auto/N: up to N '
               '(default: 520)' % AUTO_MAX)
    group('-t', metavar='MS', type=number(float, 1, 3600000), default=800.0,
          help='time to answer, ms (default: 800)')
    group('-m', metavar='N', type=number(int, 1, 1 << 20),
          help='pending sockets at most; overrides -r')
    group('-a', metavar='PCT', type=number(float, 0.001, 1e6), default=90.0,
          help='a window of packets takes at least this %% of -t (default: 90)')
    group('-ct', metavar='US', type=number(float, 0, 1e9),
          help='microseconds between packets; overrides -r and -a; 0: as the window allows')
    group('-w', metavar='N', type=team_argument, default=1,
          help='processes, each with its share of rate and window; auto: as many as there are '
               'processors (default: 1)')
    group('-pr', metavar='N', type=count, default=50,
          help='results waiting for modules at most (default: 50)')
    group = parser.add_argument_group('source').add_argument
    group('-b', metavar='PORT', type=number(int, 0, PORT_MAX), default=32005,
          help='source port of all connects; 0: the kernel chooses (default: 32005)')
    group('-bi', metavar='IP', type=ip_argument,
          help="source address (default: the kernel's choice)")
    group('-bt', metavar='N', type=natural, default=5,
          help='try so many ports more if it is taken (default: 5)')
    group('-e', metavar='N', type=natural, default=1000,
          help='descriptors kept free for modules (default: 1000)')
    group = parser.add_argument_group('modules').add_argument
    group('-mod', metavar='LIST', default=BUILTIN_MODULES,
          help='enabled modules, ./file.py among them (default: %s)' % BUILTIN_MODULES)
    group('-mcfg', metavar='STR', default='', help='module.option=value,...')
    group('-mt', metavar='N', type=number(int, 1, 255), default=4,
          help='threads of modules that are no coroutines (default: 4)')
    group('--talks', metavar='N', type=count,
          help='conversations at once of those that are (default: what -e keeps free)')
    group = parser.add_argument_group('output').add_argument
    group('-o', metavar='FILE', help='append to a CBA file, instead of lines on standard output')
    group('--format', metavar='NAME', choices=['text'] + list(FORMATS),
          help='what stands on standard output: text (the default) or one of the formats below')
    group('--group', action='store_true',
          help='with --format text, json and csv: one line a host, at the end (nmap-xml: always)')
    group('--show', metavar='LIST', type=show_argument,
          help='ports to show besides open ones: refused, unreachable, silent; with -o, or a '
               'format that has states')
    group('--no-header', action='store_true', help='with --format csv and zmap: rows only')
    group('-of', metavar='DIR', default='cba_files',
          help="where modules' files go without -o (default: cba_files)")
    group('-st', metavar='N', type=count,
          help='statistics every N packets (default: 1000; 10000 with -o)')
    group('-mf', metavar='FILE',
          help='write metrics for metrics.py to FILE; --resume appends to it')
    group('--status', metavar='FILE|FD',
          help='append a JSON object a second to FILE, or to a descriptor by its number')
    group('-q', action='store_true', help='no progress; warnings and errors only')
    group('-d', action='store_true', help='run in the background; needs -o or --log')
    group('--log', metavar='FILE', help='append messages to FILE; with -d results as well')
    group = parser.add_argument_group('canary').add_argument
    group('-c', metavar='IP', type=ip_argument, help='report if a connect to this host fails')
    group('-cp', metavar='PORT', type=number(int, 1, PORT_MAX), default=80,
          help='its port (default: 80)')
    group('-ca', metavar='N', type=count, default=5600,
          help='after so many packets (default: 5600)')
    group('-ce', metavar='N', type=count, default=0,
          help='and again every N packets (default: once only)')
    group = parser.add_argument_group('no scan').add_argument
    group('-l', action='store_true', help='list targets instead of probing them')
    group('-x', action='store_true',
          help='read results from standard input: ip:port lines, or those of masscan -oL -oJ -oG, '
               'nmap -oG, naabu -json, cscan --format json, csv')
    group('-h', '--help', action='help', help='show this')
    group('--version', action='version', version='cscan %s' % __version__)
    return parser


GUARDED = 'mod', 'o', 'log', 'mf', 'status'     # what runs code, or writes where it says


def check_resumed(parser, args):
    """--resume takes everything from its file, but how to show it; GUARDED may be repeated."""
    for name, value in vars(args).items():
        if name not in ('resume', 'q', 'd', 'of') + GUARDED and value != parser.get_default(name):
            parser.error('--resume: takes all options from its file, but -q, -d and --status; '
                         '%s was given'
                         % option_text(parser, name))


def option_text(parser, name):
    """Attribute -> the option as users know it."""
    return next(each.option_strings[0] for each in parser._actions if each.dest == name)


Rule = collections.namedtuple('Rule', [
    'option',       # with a metavar: the message shows its value; with a word: only that value
    'needs',        # of these options one, if there are any
    'without',      # none of these
    'message'])     # what follows the option; {}: the one of `without` that was given

SCAN_ONLY = '{} goes with a scan only'
RULES = [Rule(*row) for row in (
    ('-l', '', '-x', 'goes without -x'),
    ('-pf FILE', '', '-p', 'goes without -p'),
    ('--pairs FILE', '', '-f -p -pf --top-ports',
     'goes without -f, -p, -pf and --top-ports: it names addresses and ports'),
    ('--top-ports N', '', '-p -pf', 'goes without -p and -pf'),
    ('--state', '--once', '-l -x', 'goes with a scan of --once: random targets have no position'),
    ('-r auto', '', '-m -a -ct', 'goes without -m, -a and -ct'),
    ('-w N', '', '-l -x', 'goes with a scan only'),
    ('--shard', '--once', '', 'goes with --once: random targets have no parts'),
    ('--shards N', '--shard=auto', '', 'goes with --shard auto'),
    ('-ce N', '-c', '', 'repeats the canary: name its host with -c'),
    ('-d', '-o --log', '', 'the results would be lost: name a file with -o or --log'),
    ('-d', '', '-l -x', 'goes with a scan only'),
    ('--format NAME', '', '-o', 'goes without -o: cba_reader.py --to makes it from the file'),
    ('-x', '', '-f --pairs --skip-unresolved --skip-bad --top-ports -n --once --shard --retries '
               '--max-runtime -mf -ce --status', SCAN_ONLY),
    ('-l', '', '-o --format --retries --max-runtime --max-results -mf -ce --status', SCAN_ONLY))]


def is_given(parser, args, word) -> bool:
    """Whether an option was given; `-o=value` or `-o value`: with this value."""
    option, _, wanted = word.replace('=', ' ').partition(' ')
    name = parser._option_string_actions[option].dest
    value = getattr(args, name)
    if wanted.islower():
        return value == wanted or isinstance(value, AutoRate)
    return value != parser.get_default(name)


def check_rules(parser, args):
    """RULES, in their order."""
    for rule in RULES:
        if not is_given(parser, args, rule.option):
            continue
        needed = rule.needs.split()
        wrong = [word for word in rule.without.split() if is_given(parser, args, word)]
        if wrong or needed and not any(is_given(parser, args, word) for word in needed):
            option, _, shown = rule.option.partition(' ')
            if shown.isupper():
                shown = getattr(args, parser._option_string_actions[option].dest)
            parser.error('%s: %s' % ('%s %s' % (option, shown) if shown else option,
                                     rule.message.format(*wrong)))


def check_args(parser, args, extra):
    """What single options cannot say; extra: words that belong to no option."""
    if extra:
        parser.error('%r: belongs to no option; targets are named with -f' % extra[0])
    check_group(parser, args)
    if args.resume:
        return check_resumed(parser, args)
    check_rules(parser, args)
    check_format(parser, args)
    check_input(parser, args)
    if not (args.f or args.pairs or args.l or args.x or BAKED):
        refuse_without_targets(args)


def check_input(parser, args):
    """Standard input can be read once."""
    read = args.f + args.exclude + [args.pairs]
    if args.state and '-' in read:
        parser.error('--state: standard input could not be read again: use a file')
    if args.x and '-' in args.exclude:
        parser.error('-x reads results from standard input: -xf - cannot')
    if read.count('-') > 1:
        parser.error('-: standard input can be read once')


def refuse_without_targets(args):
    """No accident scans the Internet; how it is done on purpose."""
    ranges = subtract_ranges(load_ranges('default', '-f'), [MULTICAST])
    complain(
        'cscan: no targets named, nothing was sent; name them with -f (see -h)\n'
        'cscan: the built-in targets are `public`: %d addresses, port %s; to scan them:\n'
        'cscan:   %s %s -f default\n' % (
            count_addresses(ranges), args.p or args.pf or BUILTIN_PORTS,
            os.path.basename(sys.executable or 'python3'),
            ' '.join(shlex.quote(word) for word in sys.argv)))
    sys.exit(2)


def check_group(parser, args):
    """What goes with hosts that are held until the end."""
    option = '--group' if args.group else '--format nmap-xml' if args.format == 'nmap-xml' else ''
    if not option:
        return
    endless = not (args.once or args.n or args.max_results or args.max_runtime or args.x)
    wrong = ('--state' if args.state else '--resume' if args.resume else
             'a scan that never ends' if endless and not args.l else '')
    if wrong:
        parser.error(
            '%s: goes without %s: it holds hosts until the end, and a kill loses them: use '
            '-o FILE, and cba_reader.py FILE --to nmap-xml afterwards' % (option, wrong))
    if args.group and (args.format or 'text') not in GROUPED:
        parser.error('--group: goes with --format %s; %s has a record for each port' % (
            ', '.join(GROUPED), args.format))
    if args.group and (args.o or args.d or args.l):
        parser.error('--group: goes without %s; cba_reader.py --group makes it from a file' % (
            '-o' if args.o else '-d' if args.d else '-l'))


def check_show(parser, args):
    """What goes with --show."""
    if not set(args.show or ()) - {'open'}:
        return
    wrong = '-x' if args.x else '-l' if args.l else ''
    if isinstance(args.r, AutoRate) and 'silent' in args.show:
        wrong = '-r auto: it asks silent targets again, and may find them open'
    name = args.format or 'text'
    if not (wrong or args.o) and not (GROUPED if args.group else FORMATS).get(
            name, GROUPED['text']).states:
        wrong = '--format %s, which has open ports only: use -o FILE, or --format csv' % name
    if wrong:
        parser.error('--show %s: goes without %s' % (','.join(args.show), wrong))


def check_format(parser, args):
    """What goes with --format."""
    check_show(parser, args)
    if args.format not in (None, 'text') and args.d:
        parser.error('--format %s: -d without -o would mix it with messages: use -o, and '
                     'cba_reader.py --to afterwards' % args.format)
    columns = [each.name for each in FORMATS.values() if each.columns]
    if args.no_header and args.format not in columns:
        parser.error('--no-header: goes with --format ' + ' or '.join(columns))


@contextlib.contextmanager
def no_collections():
    """The garbage collector rests: a million ranges are no garbage, and it would go through them.

    Without it a list of a million single addresses takes a third less time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def load_space(args, exclusions, names, console) -> 'tuple[Space, dict]':
    """-f -xf -p -pf -> what may be probed, {option: [digest of what it named, how much]}.

    The digests are for a state file, and there are none without one.
    """
    ranges = load_all(args.f or ['default'], '-f', names)
    named = count_addresses(ranges)
    lists = {}
    if args.state:
        lists['-f'] = digest_list(ranges, named, 'address')
    if not named:
        raise UserError('argument -f: %s: no ranges in there' % ', '.join(map(repr, args.f)))
    if args.exclude:
        ranges = subtract_ranges(ranges, exclusions.first)
        console.progress('%d of %d addresses excluded' % (named - count_addresses(ranges), named))
    multicast = subtract_ranges(ranges, invert_ranges([MULTICAST]))
    if multicast:
        ranges = subtract_ranges(ranges, [MULTICAST])
        console.progress('%d multicast addresses skipped' % count_addresses(multicast))
    if not ranges:
        raise UserError('no addresses are left to scan')
    exclusions.scanned = ranges
    ports = load_ports(args, console)
    if args.state:
        barred = exclusions.now
        lists['-xf'] = digest_list(barred, count_addresses(barred), 'address')
        lists['-p'] = digest_list(ports, len(ports), 'port')
    if args.once and len({weight for _, weight in ports}) > 1:
        console.progress('--once: weights of ports do not apply')
    return Space(ranges, ports), lists


def load_pairs(args, exclusions, console) -> 'tuple[PairSpace, dict]':
    """--pairs -xf -> as load_space()."""
    keys = read_pairs(args.pairs, args.skip_bad, console)
    if not keys:
        raise UserError('argument --pairs: %r: no ip:port in there' % args.pairs)
    octets = array.array('Q', keys)
    lists = {}
    if args.state:
        barred = exclusions.now
        lists['--pairs'] = [hashlib.sha256(octets.tobytes()).hexdigest(), many(len(keys), 'pair')]
        lists['-xf'] = digest_list(barred, count_addresses(barred), 'address')
    never = merge_ranges(exclusions.first + [MULTICAST])
    left = [key for key in keys if not is_in(key >> 16, never)]
    if len(left) < len(keys):
        console.progress('%d of %s excluded or multicast' % (
            len(keys) - len(left), many(len(keys), 'pair')))
    if not left:
        raise UserError('no addresses are left to scan')
    ips = array.array('I', [key >> 16 for key in left])
    packed = ips[:]
    if sys.byteorder == 'little':
        packed.byteswap()
    exclusions.scanned = single_ranges(packed.tobytes())
    return PairSpace(ips, array.array('H', [key & PORT_MAX for key in left])), lists


def load_ports(args, console) -> 'list[tuple[int, int]]':
    """-p, -pf or --top-ports -> (port, weight) pairs."""
    if args.top_ports:
        return [(port, 1) for port in TOP_PORTS[:args.top_ports]]
    notes = []
    if args.pf:
        ports = read_ports(args.pf, 'argument -pf', notes)
    else:
        ports = parse_portspec(BUILTIN_PORTS if args.p is None else args.p, notes=notes)
    for note in notes:
        console.progress(note)
    return ports


def digest_list(values, count, noun) -> 'list[str]':
    """Pairs -> 64 hexadecimal digits that change with them, and how many they are."""
    octets = array.array('Q', itertools.chain.from_iterable(values)).tobytes()
    return [hashlib.sha256(octets).hexdigest(), many(count, noun)]


# Variable that numbers a job among --shards of them -> the first number
JOB_NUMBERS = {'JOB_COMPLETION_INDEX': 0,       # Kubernetes, a Job of completionMode: Indexed
               'PARALLEL_SEQ': 1}               # GNU parallel


def find_shard(args, environ) -> 'tuple[int, int]':
    """--shard and --shards -> (shard from 0 on, how many)."""
    if args.shard != 'auto':
        return args.shard or (0, 1)
    if not args.shards:
        return slurm_shard(environ)
    named = [name for name in JOB_NUMBERS if name in environ]
    if len(named) != 1:
        raise UserError('--shard auto --shards %d: %s' % (args.shards, (
            'both %s and %s are set: name the shard yourself, as I/N' if named else
            'neither %s nor %s is set') % tuple(JOB_NUMBERS)))
    name = named[0]
    return check_shard(environ_number(environ, name) - JOB_NUMBERS[name], args.shards,
                       '%s=%s with --shards %d' % (name, environ[name], args.shards))


def slurm_shard(environ):
    """The task of a job array (sbatch(1): SLURM_ARRAY_TASK_...) -> (shard, how many)."""
    if 'SLURM_ARRAY_TASK_ID' not in environ:
        raise UserError('--shard auto: SLURM_ARRAY_TASK_ID is not set; with Kubernetes or GNU '
                        'parallel say how many there are with --shards N')
    task, low, count = (environ_number(environ, 'SLURM_ARRAY_TASK_' + name)
                        for name in ('ID', 'MIN', 'COUNT'))
    step = environ_number(environ, 'SLURM_ARRAY_TASK_STEP', '1')
    index, rest = divmod(task - low, max(step, 1))
    return check_shard(-1 if rest else index, count,
                       'SLURM_ARRAY_TASK_ID=%d, the array has %d tasks from %d on by steps of %d'
                       % (task, count, low, step))


def check_shard(index, count, what):
    """(shard, how many), if there is such a shard; what: the option or variable, for messages."""
    if not 0 <= index < count:
        raise UserError('--shard auto: %s: no shard has this number' % what)
    return index, count


def environ_number(environ, name, default=''):
    """The whole number in a variable."""
    text = environ.get(name, default)
    if not re.fullmatch('[0-9]+', text):
        raise UserError('--shard auto: %s=%r: a whole number was expected' % (name, text))
    return int(text)


class Interrupted(BaseException):
    """A signal came, and there is no scan to wind up; args[0] is its number."""


class Signals:
    """SIGINT and SIGTERM: the first winds up, the second ends at once.  SIGHUP: see hang_up.

    came    number of the first that ends the scan, 0 = none yet
    begun   targets are probed, listed or passed on: errors are no usage errors any more
    hup     SIGHUP came that does not end it, before there was an engine
    """

    def __init__(self):
        self.came, self.wind_up, self.last_words = 0, None, None
        self.hup, self.engine, self.console = False, None, None
        self.begun = False
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.handle)
                           for number in SIGNALS}

    def handle(self, number, frame):
        if self.came:
            if self.last_words:
                self.last_words()
            if self.console and self.console.shown:     # no lock: another thread may have it
                complain('\r\x1b[K')
            os._exit(128 + self.came)
        self.came = number
        if not self.wind_up:
            raise Interrupted(number)
        self.wind_up(HUNG_UP if number == signal.SIGHUP else 'interrupted')

    def take_hangup(self, args, console):
        """Heed SIGHUP; nohup keeps it ignored, unless it has something to do."""
        self.console = console
        if threading.current_thread() is not threading.main_thread():
            return
        scans = not (args.l or args.x)
        before = signal.getsignal(signal.SIGHUP)
        if before == signal.SIG_IGN and not (scans and (args.exclude or args.log or args.status)):
            return
        self.before[signal.SIGHUP] = before
        signal.signal(signal.SIGHUP, lambda number, frame: self.hang_up(
            number, frame, not scans or console.hung_up()))

    def hang_up(self, number, frame, ends):
        """ends: as SIGTERM, but kernel and shell both send one; else: files are read again."""
        if ends and not self.came:
            self.handle(number, frame)
        elif not ends:
            self.hup = True
            if self.engine:
                self.engine.hup = True

    def give(self, engine):
        """The scan begins: signals are for its engine, also one that came before."""
        self.engine, self.wind_up = engine, engine.stop
        self.begun = True
        engine.hup = self.hup

    def restore(self):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def main(argv=None) -> int:
    """Command line -> exit status.

    0       done
    1       an error later than 2
    2       nothing was sent: the command line, or a file that it names, cannot be used
    128 + N signal N ended it
    """
    fill_standard_descriptors()
    parser = make_parser()
    args, extra = parser.parse_known_args(argv)
    console = Console(args.q)
    signals = Signals()
    try:
        check_args(parser, args, extra)
        return run(args, console, signals)
    except UserError as error:
        for line in str(error).split('\n'):
            console.note(line)
        return 1 if signals.begun else 2
    except MemoryError:
        console.note(NO_MEMORY)
        return 1
    except RuntimeError as error:
        if 'new thread' not in str(error):      # for which there is no exception of its own
            raise
        console.note('no thread can be started: ' + NO_MEMORY)
        return 1
    except Interrupted as error:
        return 128 + error.args[0]
    finally:
        console.clear()
        signals.restore()


def run(args, console, signals) -> int:
    """Scan, list (-l) or pass results (-x) -> exit status."""
    state, status = None, args.status and StatusFile(args.status, console)
    if args.resume:
        state = StateFile(args.resume, '--resume')
        args = resumed_args(args, state)
        status = status or args.status and StatusFile(args.status, console)
    else:
        args.names = {}             # as Names has them, kept for --resume
    signals.take_hangup(args, console)
    modules = load_modules(args.mod)
    options = module_options(modules, args.mcfg)
    if all(each.filter for each in modules) and not (args.l or keeps_ports(args)):
        console.note('warning: -mod %s: filters only, nothing shows what they let pass: add print'
                     % ','.join(each.name for each in modules))
    args.talks, args.e = plan_talks(args, modules, options, console)
    if args.x:
        raise_descriptors()
        return pass_results(args, console, signals, modules, options)
    args.shard = find_shard(args, os.environ)
    names = Names(args.names, args.skip_unresolved, console, args.resolve, args.skip_bad)
    for option, paths in (('-xf', args.exclude), ('-f', args.f)):
        if '-' in paths:
            note_terminal('%s -: reading ranges' % option, console)
    with no_collections():
        exclusions = Exclusions(args.exclude, names, state and state.excluded)
        if args.pairs:
            space, lists = load_pairs(args, exclusions, console)
        else:
            space, lists = load_space(args, exclusions, names, console)
    args.told = names.told
    if state:
        check_lists(args.state, args.lists, lists)
        state.check_positions(args, space, exclusions.scanned)
    args.lists = lists
    if args.once and args.seed is None:         # shards must agree on it
        args.seed = (random.SystemRandom().getrandbits(32) if args.shard == (0, 1) else
                     int(space.digest()[:8], 16))
    if args.once and not space.share(args.shard):
        console.progress('shard %d/%d is empty: the scan has %s' % (
            args.shard[0] + 1, args.shard[1], many(space.size, 'target')))
    if args.l:
        signals.begun = True
        return list_targets(make_source(args, space, 0, None), args.n or math.inf, console)
    scan = Scan(args, state, status, console, signals)
    scan.open(space, exclusions)
    scan.begin()
    scan.run(modules, options)
    return scan.end()


def resumed_args(given, state):
    """The arguments of the scan in a state file; -q, -d and --status as given now."""
    config = state.load()
    kept = config['args']
    if set(kept) - {'names'} | set(PASSING_OPTIONS) != set(vars(given)):
        raise state.refusal('another version of cscan.py wrote it')
    args = rebuilt_args(kept, state)
    if args.w != len(state.snapshots):
        raise state.refusal('cut: it has %d workers of %d' % (len(state.snapshots), args.w))
    args.lists, args.names = config['lists'], kept['names']
    args.resume = args.state
    check_given(given, args, state)
    args.q, args.d, args.status = given.q, given.d, given.status or args.status
    if args.d and not (args.o or args.log):
        raise UserError('-d: the results would be lost: that scan has neither -o nor --log')
    if state.passed() >= (args.max_results or math.inf) or all(
            each and each['done'] for each in state.snapshots):
        raise state.refusal('that scan is complete')
    return args


def rebuilt_args(kept, state):
    """Arguments in a state file -> the same, by way of the words of a command line.

    So each value is checked as one that is typed, and what goes with what.
    """
    def refuse(message):
        raise state.refusal('damaged: %s: remove it to begin anew' % message)
    parser = make_parser()
    parser.error = refuse
    words, shard = [], kept['shard']
    if not is_rows(is_count, is_count)([shard]):
        refuse('shard %.60r' % (shard,))
    values = dict(kept, shard='%d/%d' % (shard[0] + 1, shard[1]), shards=None)
    for action in parser._actions:
        if action.dest in values:
            words += option_words(action, values[action.dest], refuse)
    args = parser.parse_args(words)
    args.state = state.path
    if not (args.f or args.pairs or BAKED):
        refuse('no targets')
    check_args(parser, args, [])
    return args


def option_words(action, value, refuse) -> 'list[str]':
    """An option of the parser and the value kept for it -> words."""
    option = action.option_strings[0]
    if value == action.default and type(value) is type(action.default):
        return []
    if action.nargs == 0:
        return [option] if value is True else refuse('%s: %.60r' % (option, value))
    values = value if isinstance(action.default, list) else [value]
    if not isinstance(values, list):
        refuse('%s: %.60r' % (option, value))
    for each in values:
        if type(each) not in (str, int, float) or '\0' in str(each):
            refuse('%s: %.60r' % (option, each))
    return ['%s=%s' % (option, each) for each in values]


def check_given(given, args, state):
    """Raises UserError if what the scan runs and writes is not what the user may mean.

    From a file that others may have written only targets and position are taken; where that scan
    writes must be given again, and what it runs.
    """
    parser, missing = make_parser(), []
    wanted = dict(vars(args), mod=args.mod if any(
        map(is_module_file, module_words(args.mod))) else parser.get_default('mod'))
    now = lasting_args(argparse.Namespace(**dict(
        vars(given), names={}, told=[], lists={})))
    for name in GUARDED:
        named = getattr(given, name) != parser.get_default(name)
        if named and name != 'status' and now[name] != vars(args)[name]:
            raise UserError('argument %s: %r: that scan has %r' % (
                option_text(parser, name), now[name], vars(args)[name]))
        if not named and wanted[name] != parser.get_default(name):
            missing += [option_text(parser, name), shlex.quote(wanted[name])]
    if state.distrust:
        args.of = now['of']
        if missing:
            raise state.refusal(printable(
                '%s: what it names to run or to write must be given again: cscan.py --resume %s %s'
                % (state.distrust, shlex.quote(state.path), ' '.join(missing))))


def check_lists(path, before, now):
    """Raises UserError if the lists of targets are not those that the scan began with."""
    for option, (digest, count) in before.items():
        if now[option][0] != digest:
            raise UserError('argument --resume: %r: what %s names has changed since the scan '
                            'began: %s then, %s now' % (path, option, count, now[option][1]))


FILE_OPTIONS = 'pairs', 'pf', 'o', 'of', 'mf', 'log', 'status'
PASSING_OPTIONS = 'resume', 'state', 'q', 'd'       # what --resume does not keep


def state_config(args, exclusions) -> dict:
    """What a state file keeps of a scan's beginning, and of the exclude list as it is now."""
    config = {'args': lasting_args(args), 'boot_id': read_boot_id(), 'lists': dict(
        args.lists, **{'-xf': digest_list(exclusions.now, count_addresses(exclusions.now),
                                          'address')})}
    if exclusions.barred or exclusions.now != exclusions.first:
        config['excluded'] = exclusions.pack()
    return config


def lasting_args(args) -> dict:
    """The arguments as they can be used again, from anywhere: paths are absolute."""
    lasting = dict(vars(args))
    for name in PASSING_OPTIONS + ('lists', 'told'):
        lasting.pop(name)
    lasting['r'] = 'auto/%r' % float(args.r) if isinstance(args.r, AutoRate) else repr(args.r)
    if is_descriptor(args.status):
        lasting['status'] = None                # another process has others
    for name in FILE_OPTIONS:
        if lasting.get(name):
            lasting[name] = os.path.abspath(lasting[name])
    for name in 'f', 'exclude':
        lasting[name] = [os.path.abspath(spec) if os.path.exists(spec) and spec not in PRESETS
                         else spec for spec in lasting[name]]
    lasting['mod'] = ','.join(os.path.abspath(word) if is_module_file(word) else word
                              for word in module_words(args.mod))
    return lasting


def list_targets(source, left, console) -> int:
    """-l: targets as ip:port lines, until they, their number or the reader end."""
    while left and not console.gone:
        hosts, ports = source.take(min(left, TEXT_BLOCK))
        if not hosts:
            break
        console.lines(list(map('%s:%d'.__mod__, zip(hosts, ports))))
        if console.failed:
            raise UserError(console.failed)
        left -= len(hosts)
    return 0


def find_hostnames(args) -> 'dict[str, str]':
    """{ip: names that -f gave it, with spaces between}."""
    found = collections.defaultdict(list)
    for name, hosts in getattr(args, 'names', {}).items():
        for host in hosts:
            found[host].append(name)
    return {host: ' '.join(names) for host, names in found.items()}


def make_sink(args, console):
    """Where entries go, opened last: a failed start leaves no trace."""
    if args.group or args.format not in (None, 'text'):
        command = ' '.join(shlex.quote(word) for word in ['cscan.py'] + sys.argv[1:])
        writer = FormatWriter(args.format or 'text', 'cscan ' + __version__, command, code_names,
                              not args.no_header, args.group)
        writer.hostnames = find_hostnames(args)
        return (GroupSink if writer.held else RecordSink)(writer, console, args.of)
    if not args.o:
        return TextSink(console.lines, args.of, console.look_for_reader)
    rescue = TextSink(lambda lines: console.err(''.join(line + '\n' for line in lines)), args.of)
    return CbaSink(args.o, rescue, console)


def keeps_ports(args) -> bool:
    """Whether each open port has an entry of its own, also without print among -mod."""
    return bool(args.o or args.group or args.format not in (None, 'text'))


NO_MEMORY = 'out of memory: lower -mt, -w or -m, or raise the limit (ulimit -v)'
STACK_DEFAULT = 1 << 23             # octets, where the limit of the stack does not say
MEMORY_SPARE = 1 << 22              # octets: a thread that finds no memory for its first steps
                                    # never reports that it runs: Thread.start() waits for ever


def check_memory(args):
    """Raises UserError if there is no address space for the stacks of our threads."""
    stack = threading.stack_size() or resource.getrlimit(resource.RLIMIT_STACK)[0]
    if stack == resource.RLIM_INFINITY:
        stack = STACK_DEFAULT
    threads = args.mt + bool(args.o) + bool(args.state and args.w == 1)
    need = threads * stack + MEMORY_SPARE
    try:
        mmap.mmap(-1, need, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        raise UserError('argument -mt: %d threads need %d MB of address space: lower -mt, or '
                        'raise the limit (ulimit -v)' % (threads, need >> 20)) from None


def plan_talks(args, modules, options, console) -> 'tuple[int, int]':
    """-> how many talks at once, how many descriptors are kept free for them (-e)."""
    each = max(each.sockets(options[each.name]) for each in modules)
    each += each > 1                        # and the connection of the scan
    asked = args.talks and args.talks * each + TALKS_SPARE
    reserve = max(args.e, asked or 0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    room = reserve if hard < 0 else min(reserve, hard - TALKS_KEPT if args.x else hard // 4)
    talks = max(1, (room - TALKS_SPARE) // each)
    if args.talks and talks < args.talks:
        console.note('warning: argument --talks: %d do not fit into %d descriptors: %d are used; '
                     'raise the limit with ulimit -n %d' % (
                         args.talks, hard, talks, asked + TALKS_KEPT if args.x else 4 * asked))
    return min(talks, args.talks or talks), reserve


def make_crew(args, console, sink, modules, options) -> Crew:
    """What passes results to the modules."""
    common = (modules, options, sink, console, args.mt, args.pr, args.max_results, args.bi or '')
    if any(map(is_coroutine, modules)) and not any(
            each.waits and not is_coroutine(each) for each in modules):
        crew = TalkCrew(*common, talks=args.talks)
    else:
        crew = Crew(*common)
    crew.ports = type(sink) is not TextSink
    return crew


def note_terminal(what, console):
    """Whoever typed a command without input learns what it waits for."""
    if sys.stdin and sys.stdin.isatty():
        console.note(what + ' from the terminal; Ctrl-D ends them')


def pass_results(args, console, signals, modules, options) -> int:
    """-x: lines of results, as line_results() has them -> modules."""
    if not sys.stdin:
        raise UserError('-x: standard input is closed: ip:port lines were expected')
    check_memory(args)
    excluded = load_all(args.exclude, '-xf', Names({}, False, console, args.resolve))
    note_terminal('-x: reading ip:port lines', console)
    sink = make_sink(args, console)
    sink.start()
    crew = make_crew(args, console, sink, modules, options)
    signals.last_words = sink.hurry
    strange = barred = empty = 0
    signals.begun = True
    try:
        for number, text in enumerate(result_lines(sys.stdin.buffer), 1):
            results = None if text is None else line_results(text)
            for host, port in results or ():
                if is_in(ip_number(host), excluded):
                    barred += 1
                else:
                    crew.put_wait(host, port)
            if results is None:
                strange += 1
                if strange <= BAD_SHOWN:
                    console.note('standard input:%d: %s: ip:port was expected' % (
                        number, 'a line of more than %d octets' % RESULT_LINE_MAX
                        if text is None else quote(text)))
            elif not results and text not in EMPTY_LINES and not text.startswith('#'):
                empty += 1
            if crew.enough or console.gone or console.failed or sink.failed:
                break
    finally:
        signals.wind_up = lambda reason: None
        crew.close()
        sink.close()
        print_end(console, crew, '')
    if barred:
        console.progress('%s excluded' % many(barred, 'result'))
    if empty:
        console.progress('standard input: %s without an open TCP port passed over'
                         % many(empty, 'line'))
    if strange > BAD_SHOWN:
        console.note('standard input: %d lines were not understood' % strange)
    if console.failed or sink.failed:
        raise UserError(console.failed or sink.failed)
    return 1 if strange else 0


def make_engines(args, space, ranges, snapshots, total, console) -> 'list[Engine]':
    """Pace, limits, canary and the first socket, for each worker a share of all."""
    def warn(text):
        console.note('warning: ' + text)
    raise_descriptors()
    limits = read_limits()
    check_team(args.w, limits)
    pace = plan_pace(args.r, args.t, args.m, args.a, args.ct, limits.linear)
    if args.b or args.once:                     # each target at most once at a time
        pace = pace._replace(window=min(pace.window, max(len(space.share(args.shard)), 1)))
    pace = fit_pace(share_pace(pace, args.w), limits, args.e,
                    warn if not isinstance(args.r, AutoRate) else bool)
    canary = args.c and Canary(                 # the first worker's: it counts its own packets
        args.c, args.cp, -(-args.ca // args.w), args.bi or '', -(-args.ce // args.w))
    if canary and total and total < args.ca:
        warn('the canary is due after %d packets (-ca), the scan has %d' % (args.ca, total))
    home = SourceAddress(ranges) if args.b and not args.bi else None    # -b 0: it has no weight
    engines = []
    for number, snapshot in enumerate(snapshots):
        engines.append(Engine(
            make_source(args, space, number, snapshot), pace, args.bi or '', args.b, args.once,
            share_count(args.n, number, args.w), args.retries, args.max_runtime or math.inf,
            None if number else canary, FileMeter() if args.mf else None))
        if isinstance(args.r, AutoRate):
            engines[-1].adapt(pace.rate, 1 / args.w)
        engines[-1].home, engines[-1].show = home, frozenset(args.show or ()) - {'open'}
        engines[-1].pool.bind_first(args.bt)
        if snapshot:
            engines[-1].resume(snapshot)
    if engines[0].pool.port != args.b:
        console.note('source port %d is taken: using %d' % (args.b, engines[0].pool.port))
    if not isinstance(args.r, AutoRate):
        warn_pace(pace, limits, args.b, space.size, total, args.once, warn)
    return engines


def check_team(workers, limits):
    """Raises UserError if the first process has no descriptors for so many workers."""
    needed = limits.open_now + TEAM_OPEN * workers
    if workers > 1 and 0 <= limits.max_open_files < needed:
        raise UserError('argument -w: %d: %d descriptors are too few for so many processes: lower '
                        '-w, or raise the limit with ulimit -n %d'
                        % (workers, limits.max_open_files, needed))


def share_pace(pace: Pace, workers: int) -> Pace:
    """The pace of one of several workers."""
    return pace._replace(window=-(-pace.window // workers),
                         rate=pace.rate and pace.rate / workers)


def share_count(count, number, workers):
    """What worker `number` has of a count; None stays."""
    return None if count is None else len(range(number, count, workers))


def make_source(args, space, number, snapshot):
    """The targets of a worker: its shard of the shard from the snapshot on, or own draws."""
    if not args.once:
        return space.draws(args.seed if args.seed is None else args.seed * args.w + number)
    index, count = args.shard
    shard = index + count * number, count * args.w
    return space.once(args.seed, space.share(shard, snapshot['position'] if snapshot else 0))


def start_text(pace: Pace, args, space: Space, total) -> str:
    """The start line: sockets, timeout, rate, bytes, targets, time; pace: of one worker."""
    pace = pace._replace(window=pace.window * args.w, rate=pace.rate and pace.rate * args.w)
    parts = [many(args.w, 'worker')] * (args.w > 1)
    parts += [many(pace.window, 'socket'), '%g ms timeout' % args.t] + pace_parts(pace, args)
    parts.append(space.text())
    if args.once:
        parts.append('seed %d' % args.seed)
    if args.shard != (0, 1):
        parts.append('shard %d/%d' % (args.shard[0] + 1, args.shard[1]))
    if total:
        parts.append(many(total, 'probe') + time_text(pace, args, total))
    elif not args.max_results and not args.max_runtime:
        parts.append('without end: --once, -n, --max-results or --max-runtime would end it')
    return ', '.join(parts)


def silent_rate(pace: Pace) -> float:
    """SYNs a second while nothing answers."""
    return pace.window / pace.timeout_s * pace.syns


def pace_parts(pace: Pace, args) -> 'list[str]':
    """What the start line says of the rate."""
    if isinstance(args.r, AutoRate):
        return ['from %.6g packets/s up to %.6g/s while answers hold' % (pace.rate, args.r)]
    silent = silent_rate(pace)
    parts = ['%.6g packets/s, %d bytes/s%s' % (
        pace.rate or silent, SYN_BYTES * (pace.rate or silent),
        '' if pace.rate else ' while nothing answers, else as fast as it can')]
    rate = min(pace.rate or silent, silent)
    if pace.rate and rate < pace.rate - 1:
        parts.append('%.3g/s while nothing answers' % rate)
    if pace.syns > 1:
        parts.append('up to %d SYNs a target in that time, so %.3g targets/s'
                     % (pace.syns, rate / pace.syns))
    return parts


def time_text(pace: Pace, args, total) -> str:
    """' in at most 3 min': how long so many probes take, if that can be said."""
    if isinstance(args.r, AutoRate):
        return ''
    rate, tries = min(pace.rate or math.inf, silent_rate(pace)), 1 + args.retries
    seconds = tries * (total * pace.syns / rate + pace.timeout_s)
    seconds += retry_wait(pace, 1) * tries * args.retries / 2      # 1 + 2 + ... + retries
    sure = rate == pace.rate and tries == 1
    return ' in %s%s' % ('' if sure else 'at most ', duration_text(seconds))


def daemonize():
    """Go on in the background: double fork, so that no terminal can come back (daemon(7))."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    redirect(os.open('/dev/null', os.O_RDWR), 0)


def redirect(fd: int, *streams: int):
    """Make standard streams go to fd."""
    for stream in streams:
        os.dup2(fd, stream)


class Log:
    """The file of --log, or /dev/null.

    path    absolute; SIGHUP opens it again
    streams descriptors that go there, () at first
    """
    option = '--log'

    def __init__(self, path):
        self.path, self.streams = os.path.abspath(path or '/dev/null'), ()
        self.fd = self.open()

    def open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UserError('argument --log: %r: %s' % (self.path, why(error))) from None

    def take(self, *streams):
        """Standard streams go there from now on."""
        self.streams = streams
        redirect(self.fd, *streams)
        os.close(self.fd)               # a file that is renamed and removed gives its place back

    def reopen(self) -> bool:
        """What has its name now."""
        self.fd = self.open()
        self.take(*self.streams)
        return True


class Scan:
    """A scan from its command line to its last word: open, begin, run, end, in this order.

    state       StateFile of --resume or --state, or None; status: StatusFile or None
    engine      what sends: the Engine, or with -w a Team
    """

    def __init__(self, args, state, status, console, signals):
        self.args, self.state, self.status = args, state, status
        self.console, self.signals = console, signals

    def open(self, space, exclusions):
        """Whatever can fail is checked and opened before the first packet; raises UserError."""
        args, console = self.args, self.console
        check_memory(args)
        self.space, self.exclusions, self.log = space, exclusions, Log(args.log)
        share = len(space.share(args.shard))
        self.total = min(args.n or share, share) if args.once else args.n
        self.snapshots = self.state.snapshots if self.state else [None] * args.w
        self.engines = make_engines(args, space, exclusions.scanned, self.snapshots, self.total,
                                    console)
        metrics = args.mf and Metrics(args.mf, args.t, console, last_mark(self.snapshots))
        if self.status:
            self.status.open()
        self.sink = make_sink(args, console)
        if args.state:
            self.state = self.state or StateFile(args.state, '--state', args.w)
            self.state.begin(state_config(args, exclusions))
        if metrics:
            give_metrics(self.engines, metrics)
        self.start = start_text(self.engines[0].pace, args, space, self.total)

    def begin(self):
        """Into the background, messages to the log, and one process for each worker."""
        args, console, log = self.args, self.console, self.log
        console.progress(self.start)
        if args.d:
            daemonize()
        if args.d or args.log:
            log.take(*((1, 2) if args.d else (2,)))
        if args.log:
            console.follow(log)
            console.progress(self.start)
        for each in self.engines if args.exclude else ():
            each.exclusions = self.exclusions
        self.engine = self.engines[0]
        if args.w > 1:                      # forks: before there is a thread
            self.engine = Team(self.engines, self.state, self.sink, console.log, self.status)
            self.signals.last_words = self.engine.kill
        else:
            self.signals.last_words = self.sink.hurry
        self.sink.start()

    def run(self, modules, options):
        """Send, and pass on what is found, until nothing more is to be sent or waited for."""
        self.progress = self.make_progress()
        crew = make_crew(self.args, self.console, self.sink, modules, options)
        crew.exclusions = self.engine.exclusions
        if self.state:
            crew.passed = self.state.passed()
            self.progress.keep_config = lambda: self.state.config.write(
                state_config(self.args, self.exclusions))
        desk = Desk(crew, self.sink, self.console, self.progress)
        if self.state and self.args.w == 1:
            self.engine.keep(Keeper(*self.state.workers[0], desk))
        if any(self.snapshots):
            self.progress.resume(self.engine.totals())
        self.signals.give(self.engine)
        if crew.talks:
            crew.talks.join(self.engine)
        self.engine.run(desk)
        crew.close(lambda: linger(self.engine))

    def make_progress(self) -> Progress:
        """What the user sees, and the scanner's own entry in the CBA."""
        args = self.args
        if args.o:
            begin_scope(Out(self.sink, 0), args, self.space, self.exclusions, self.total,
                        any(self.snapshots))
            self.sink.flush()
        progress = Progress(self.console, args.st or (10000 if args.o else 1000),
                            Out(self.sink, 0) if args.o else None, self.total,
                            0 if args.st else STATISTICS_S)
        progress.status_file = self.status
        for line in args.told if args.o else ():
            progress.out.str(line[:1000], CSCAN_EVENT)
        return progress

    def end(self) -> int:
        """Everything is written, and the last words are said -> exit status."""
        came = self.signals.came
        if self.args.o:
            self.end_scope()
        self.sink.close()
        self.engine.finish()
        error = self.progress.error(self.engine)
        if came == signal.SIGHUP and error == self.console.failed:
            error = ''                      # that terminal took no results, either
        self.progress.final(self.engine, 'stopped' if came else 'done')
        print_end(self.console, self.engine.desk.crew, error)
        if error:
            return 1
        return 128 + came if came else 0

    def end_scope(self):
        """The scope at the end: what keeps a scan from asking all of its targets."""
        engine, totals = self.engine, self.engine.totals()
        enough = '--max-results' if engine.desk.crew.enough else 'done'
        ended = self.progress.error(engine) or engine.stopping or enough
        asked = totals.drawn - totals.unsent
        end_scope(Out(self.sink, 0), self.exclusions, ended, asked,
                  ended == 'done' and self.args.once
                  and asked >= len(self.space.share(self.args.shard)))


def last_mark(snapshots):
    """Where the metrics file ended, as the worker saw it that wrote last; None: not at all."""
    return max((each['metrics'] for each in snapshots if each and 'metrics' in each),
               default=None)


def give_metrics(engines, metrics):
    """-mf: all write to one file."""
    metrics.begin()
    for number, engine in enumerate(engines):
        engine.meter.metrics = metrics.twin() if number else metrics


def linger(engine):
    """Nothing is sent any more, and modules are still at work."""
    if engine.hup:
        engine.reread()
    engine.desk.show(engine)


WORDS_SHOWN = 10                    # of each kind that modules return


def words_text(words) -> str:
    """Counter -> its ten most frequent, and how many others: ssh 12, http 3, 2 others."""
    often = sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))
    others = sum(count for _, count in often[WORDS_SHOWN:])
    return ', '.join(['%s %d' % pair for pair in often[:WORDS_SHOWN]]
                     + ([many(others, 'other')] if others else []))


def print_end(console, crew, error):
    """What the user must know at the end, -q or not."""
    for name, count in crew.bugs.items():
        console.note('module %s: raised %s' % (name, many(count, 'time')))
    if crew.talks and crew.talks.scan and crew.first:
        console.progress('talks: %s of the scan went on, %d were new' % (
            many(crew.talks.taken, 'connection'), crew.talks.opened))
    for name, count in crew.drops.items():
        console.progress('%s: dropped %s' % (
            'excluded meanwhile (-xf)' if name == '-xf' else 'module ' + name,
            many(count, 'result')))
    for (name, kind), words in sorted(crew.words.items()):
        console.progress('module %s: %s: %s' % (name, kind, words_text(words)))
    for (name, reason), count in crew.failures.most_common():
        console.progress('module %s: %s: %s' % (name, reason, many(count, 'target')))
    if error:
        console.note(error)


if __name__ == '__main__':
    sys.exit(main())
