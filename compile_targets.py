#!/usr/bin/env python3
"""compile_targets - range text -> target tables for cscan: .csw, .csp, or a baked cscan.

    python3 compile_targets.py -p 80,443 -i ranges.txt lab      writes lab.csw and lab.csp
    python3 compile_targets.py poland --country-db BLOCKS.csv LOCATIONS.csv --country PL

One file, standard library only, CPython 3.6 or newer and PyPy.

Contents
    1 Formats           range text, .csw, .csp
    2 Databases         networks by AS or country, in files of several makers
    3 Output            blocks, tables, files, a baked copy of cscan.py
    4 Command line

Input is text with ranges on lines: a.b.c.d, a.b.c.d/length (host bits are cleared),
a.b.c.d-e.f.g.h or a.b.*.c-d; `#` and `;` start comments.  Ranges may overlap and come in any
order.  The JSON lists of some clouds and a .csw are read as well.

What is chosen from databases narrows the input, or all addresses if there is none: each of the
choices by AS and by country is an intersection.  Rows become ints at once, and only those chosen
are kept (for --as-ignore also the unions of the others), so a million rows take little memory.
"""

import argparse
import array
import collections
import errno
import itertools
import json
import os
import re
import socket
import struct
import sys
import tempfile
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


# ==== 2 Databases =====================================================================

# ---- same in compile_targets.py and masscanned.py ----

# GeoLite2-ASN-Blocks-IPv4.csv        network,autonomous_system_number,...organization
# GeoLite2-Country-Blocks-IPv4.csv    network,geoname_id,registered_country_geoname_id,...
# GeoLite2-Country-Locations-en.csv   geoname_id,...,country_iso_code,country_name,...
# iptoasn ip2asn-v4.tsv               first, last, AS number (0 = not routed), country, name
# iptoasn ip2country-v4.tsv           first, last, country
# DB-IP dbip-country-lite-*.csv       first, last, country; -asn-: first, last, AS number, name;
#                                     -city-: first, last, continent, country, region, ...
# IP2Location IP2LOCATION-LITE-DB1.CSV     first, last as numbers, country, name of it, ...;
#                                     -ASN: first, last as numbers, network, AS number, name
# RIR delegated-NAME-extended-latest  registry|country|ipv4|first|how many|date|status, among rows
#                                     of other types, a head and sums

REMARKS_MAX = 10000                 # lines with # at the beginning
LINE_MAX = 1 << 16                  # characters; a longer line is no row of any of these
GZIP_MAGIC, ZIP_MAGIC = b'\x1f\x8b', b'PK\x03\x04'
HOSTS = {str(length): (1 << 32 - length) - 1 for length in range(33)}       # '24': 255
AS_MAX = (1 << 32) - 1              # RFC 6793
AS_NUMBER, AS_NAME = 'autonomous_system_number', 'autonomous_system_organization'
AS_COLUMNS = (AS_NUMBER, 'asn', 'as_number'), (AS_NAME, 'name', 'as_name')
NO_COUNTRY = '', '-', 'NONE', 'UNKNOWN', 'ZZ'


def parse_block(row: 'list[str]') -> 'tuple[int, int]':
    """Row of a CSV, network first -> (first, last); host bits are cleared."""
    address, _, length = row[0].partition('/')
    hosts = HOSTS[length]
    first = int.from_bytes(socket.inet_pton(socket.AF_INET, address), 'big')
    return first & ~hosts, first | hosts


def parse_ends(row: 'list[str]') -> 'tuple[int, int]':
    """Row of a TSV, first and last address first -> (first, last)."""
    first = int.from_bytes(socket.inet_pton(socket.AF_INET, row[0]), 'big')
    last = int.from_bytes(socket.inet_pton(socket.AF_INET, row[1]), 'big')
    if last < first:
        raise ValueError
    return first, last


def parse_numbered(row: 'list[str]') -> 'tuple[int, int]':
    """Row of IP2Location, first and last address as numbers first -> (first, last)."""
    first, last = int(row[0]), int(row[1])
    if not 0 <= first <= last < ADDRESSES_MAX:
        raise ValueError
    return first, last


def parse_delegated(row: 'list[str]') -> 'tuple[int, int]':
    """Row of an RIR's file -> (first, last)."""
    if row[2] != 'ipv4':
        raise ValueError
    first = int.from_bytes(socket.inet_pton(socket.AF_INET, row[3]), 'big')
    last = first + int(row[4]) - 1
    if not first <= last < ADDRESSES_MAX:
        raise ValueError
    return first, last


def has_ipv6(row: 'list[str]', count: int) -> bool:
    """Are the first fields addresses or networks of IPv6?"""
    return len(row) >= count and all(is_ipv6(text) and '-' not in text and '%' not in text
                                     for text in row[:count])


def is_wide_number(row: 'list[str]') -> bool:
    """Does IP2Location's row have an address beyond those of IPv4?"""
    return (len(row) > 1 and all(re.fullmatch('[0-9]{1,39}', text) for text in row[:2])
            and int(row[1]) >= ADDRESSES_MAX)


def is_no_delegation(row: 'list[str]') -> bool:
    """Is a row of an RIR's file its head, a sum, or of another type than ipv4?"""
    return len(row) > 5 and (bool(re.fullmatch(r'[0-9.]+', row[0])) or row[1] == '*'
                             or row[2] in ('ipv6', 'asn'))


Form = collections.namedtuple('Form', [
    'kind',         # what such a file is, for messages
    'parse',        # row -> (first, last)
    'other',        # row -> True if it is well-formed and not of IPv4
    'expected',     # what a row is to be, for messages
    'number', 'name', 'code'])      # columns: AS number, its name, country; None: not there

BLOCK_ROWS = (parse_block, lambda row: has_ipv6(row, 1), 'a network, a.b.c.d/length')
TSV_ROWS = (parse_ends, lambda row: has_ipv6(row, 2), 'first and last address, a tab between')
DBIP_ROWS = (parse_ends, lambda row: has_ipv6(row, 2), 'first and last address, a comma between')
NUMBER_ROWS = (parse_numbered, is_wide_number, 'first and last address as numbers')
RIR_ROWS = (parse_delegated, is_no_delegation, 'registry|country|ipv4|first address|how many|...')
GEOLITE = Form('networks by AS', *BLOCK_ROWS, 1, 2, None)
IPTOASN = Form("iptoasn's networks by AS and country", *TSV_ROWS, 2, 4, 3)
IPTOCOUNTRY = Form("iptoasn's networks by country", *TSV_ROWS, None, None, 2)
DBIP_AS = Form("DB-IP's networks by AS", *DBIP_ROWS, 2, 3, None)
DBIP_COUNTRY = Form("DB-IP's networks by country", *DBIP_ROWS, None, None, 2)
DBIP_CITY = Form("DB-IP's networks by city", *DBIP_ROWS, None, None, 3)
IP2LOCATION_AS = Form("IP2Location's networks by AS", *NUMBER_ROWS, 3, 4, None)
IP2LOCATION = Form("IP2Location's networks by country", *NUMBER_ROWS, None, None, 2)
DELEGATED = Form("an RIR's delegated file, networks by country", *RIR_ROWS, None, None, 1)
CONTINENTS = 'AF', 'AN', 'AS', 'EU', 'NA', 'OC', 'SA', 'ZZ'


def find_form(row: 'list[str]', delimiter: str) -> Form:
    """First row of a database without a header -> its form."""
    if delimiter == '|':
        return DELEGATED
    if delimiter == '\t':
        return IPTOASN if len(row) > 3 else IPTOCOUNTRY
    if len(row) > 2 and re.fullmatch('[0-9]+', row[0]) and re.fullmatch('[0-9]+', row[1]):
        return IP2LOCATION_AS if '/' in row[2] else IP2LOCATION
    if len(row) > 2 and (has_ipv6(row, 2) or all(re.fullmatch(QUAD, text) for text in row[:2])):
        if re.fullmatch('[0-9]*', row[2]):
            return DBIP_AS
        return DBIP_CITY if len(row) > 5 and row[2] in CONTINENTS else DBIP_COUNTRY
    return GEOLITE


def open_text(file, path: str):
    """A binary file, gzipped or not -> its text; raises OSError, UserError."""
    import gzip                                 # late, likewise
    import io
    magic = file.peek(len(ZIP_MAGIC))
    if magic.startswith(ZIP_MAGIC):
        raise UserError('%r: a zip archive: unpack it, the files in it are wanted' % path)
    if magic.startswith(GZIP_MAGIC):
        file = io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 17)      # type: ignore
    return io.TextIOWrapper(file, 'utf-8-sig', 'replace', newline='')


class Database:
    """A database of networks: iterate for (first, last, row) of its IPv4 networks.

    path    '-' = standard input
    name    of the file in messages
    delimiter  of fields, as the first line that is no comment has it
    header  {name of a column, lower case: its index}; empty if a network is in the first row
    form    Form, told by the first row
    line    on which the row read last ends
    rows    of IPv4 networks, so far
    ipv6    rows passed over, so far
    unrouted  rows of IPv4 networks of no AS, so far
    """

    def __init__(self, path):
        self.path, self.name = path, 'standard input' if path == '-' else path
        self.line, self.rows, self.ipv6, self.unrouted = 0, 0, 0, 0
        lines = self.read_lines()
        head = [next(lines, '')]
        while head[-1].startswith('#') and len(head) < REMARKS_MAX:
            head.append(next(lines, ''))
        first_line = head[-1]
        self.check_kind(first_line)
        found = re.search('[\t|]', first_line)
        self.delimiter = found.group() if found else ','
        rows = self.read_rows(itertools.chain(head, lines))
        first_rows = list(itertools.islice(rows, 1))
        self.header = {}
        self.form = find_form(first_rows[0] if first_rows else [], self.delimiter)
        if self.delimiter != '|' and first_rows and not re.search('[0-9]', first_rows[0][0]):
            self.header = {name.strip().lower(): at for at, name in enumerate(first_rows.pop())}
        self.all_rows = itertools.chain(first_rows, rows)

    def where(self):
        return '%s:%d' % (self.name, self.line)

    def read_lines(self):
        """Lines of the file; whatever goes wrong with it names it."""
        try:
            with open('/dev/stdin' if self.path == '-' else self.path, 'rb') as file:
                with open_text(file, self.path) as text:
                    yield from iter(lambda: text.readline(LINE_MAX), '')
        except (OSError, EOFError, zlib.error) as error:
            raise UserError('%r: %s' % (self.name, why(error))) from None

    def check_kind(self, line):
        """Raises UserError for what is no text of rows, by its first line."""
        kind = ''
        if '\0' in line:
            kind = 'binary, such as .mmdb or .csw'
            if 'ustar' in line:
                kind = 'a tar archive: unpack it'
        elif line.lstrip()[:1] in ('{', '['):
            kind = 'JSON'
        elif line.lstrip()[:1] == '<':
            kind = 'HTML or XML'
        if kind:
            raise UserError('%r: %s; CSV, TSV or an RIR\'s delegated file was expected'
                            % (self.name, kind))

    def read_rows(self, lines):
        """Rows that hold anything; a quote that does not end is told where it begins."""
        import csv                              # late: few runs need it
        style = {'strict': True} if self.delimiter == ',' else {
            'delimiter': self.delimiter, 'quoting': csv.QUOTE_NONE}
        reader = csv.reader(lines, **style)
        try:
            for row in reader:
                self.line = reader.line_num
                if row and not row[0].startswith('#'):
                    yield row
        except csv.Error as error:
            raise UserError('%s:%d: %s' % (self.name, self.line + 1, error)) from None

    def columns(self, *choices):
        """Indexes of columns, each by the first of its names that the header has."""
        found = [[self.header[name] for name in names if name in self.header] for names in choices]
        for names, indexes in zip(choices, found):
            if not indexes:
                raise UserError('%s:1: %r: a header with the column %s was expected' % (
                    self.name, ','.join(self.header)[:80], names[0]))
        return [indexes[0] for indexes in found]

    def as_columns(self):
        """Indexes of the columns with number and name of the AS; raises UserError without."""
        if self.header:
            if 'geoname_id' in self.header:
                raise UserError('%s:1: GeoLite2\'s %s: it has no AS; --country-db takes it' % (
                    self.name, 'locations' if 'country_iso_code' in self.header else
                    'networks by country'))
            return self.columns(*AS_COLUMNS)
        if self.form.number is None:
            raise UserError('%s: %s: it has no AS; --country-db takes it'
                            % (self.name, self.form.kind))
        return self.form.number, self.form.name

    def __iter__(self):
        parse = self.form.parse
        for row in self.all_rows:
            try:
                first, last = parse(row)
            except (IndexError, KeyError, OSError, ValueError):
                self.pass_over(row)
                continue
            self.rows += 1
            yield first, last, row
        if not self.rows:
            raise UserError('%r: no networks of IPv4, %d of IPv6' % (self.name, self.ipv6))

    def pass_over(self, row):
        """Count a row of IPv6, pass over what else has a place there; raises UserError."""
        if not self.form.other(row):
            raise UserError('%s: %r: not %s' % (
                self.where(), self.delimiter.join(row)[:60], self.form.expected)) from None
        if self.form is not DELEGATED or (row[2] == 'ipv6' and row[1] != '*'):
            self.ipv6 += 1

    def short(self):
        """The error for a row that ends before a column that is needed."""
        return UserError('%s: the row ends too early' % self.where())

    def summary(self):
        """What was read, in words."""
        parts = (self.rows, 'networks'), (self.unrouted, 'not routed'), (
            self.ipv6, 'of IPv6 passed over')
        return '%s: %s' % (self.name, ', '.join('%d %s' % part for part in parts if part[0]))


# Ranges of a database are kept as one int each, of 48 bytes where a tuple of ints takes 136:
# first address << 64 | last << 32 | number (of the AS, or 0).  So sorting is by first address.

def add_span(spans: 'list[int]', first: int, last: int, number: int):
    """Append a range, or let the one before grow if it is of the same number and touches."""
    if spans:
        before = spans[-1]
        if before & AS_MAX == number and (before >> 32 & AS_MAX) + 1 == first:
            spans[-1] = before + (last - first + 1 << 32)
            return
    spans.append(first << 64 | last << 32 | number)


def parse_as(text: str, database: Database) -> int:
    """AS number of a row, '' and '-' = 0 -> int."""
    try:
        number = int('0' if text in ('', '-') else text) if len(text) <= 10 else -1
    except ValueError:
        number = -1
    if not 0 <= number <= AS_MAX:
        raise UserError('%s: %r: an AS number was expected' % (database.where(), text[:40]))
    return number


def read_locations(path: str) -> 'dict[str, str]':
    """GeoLite2's locations -> {geoname_id: country code, '' = none}."""
    database, codes = Database(path), {}
    id_at, code_at = database.columns(('geoname_id',), ('country_iso_code',))
    try:
        for row in database.all_rows:
            codes[row[id_at]] = row[code_at].upper()
    except IndexError:
        raise database.short() from None
    return codes


def open_countries(paths: 'list[str]', hint: str = ''):
    """Files of --country-db -> (Database, {geoname_id: country code} for country_rows()).

    paths  BLOCKS and LOCATIONS of GeoLite2, or one file of another maker
    hint   what to do about a second file where one is enough
    """
    database = Database(paths[0])
    check_has_countries(database)
    if (database.form.code is None) != (len(paths) == 2):
        raise UserError('argument --country-db: %r: %s' % (
            paths[0], 'LOCATIONS was expected as well, the CSV with country_iso_code'
            if database.form.code is None else
            '%s needs no second file%s' % (database.form.kind, hint)))
    return database, read_locations(paths[1]) if paths[1:] else {}


def country_rows(database: Database, codes: 'dict[str, str]', locations: str):
    """Yield (first, last, country code, or one of NO_COUNTRY) of a database's networks.

    codes  {geoname_id: country code} of a GeoLite2 database, from the file locations; a network
           is where it is used (geoname_id), or else where it is registered
    """
    code_at = database.form.code
    try:
        if code_at is not None:
            for first, last, row in database:
                yield first, last, row[code_at].upper()
            return
        used_at, registered_at = database.columns(
            ('geoname_id',), ('registered_country_geoname_id',))
        for first, last, row in database:
            place = row[used_at] or row[registered_at]
            if place and place not in codes:
                raise UserError('%s: geoname_id %r: not in %s'
                                % (database.where(), place, locations))
            yield first, last, codes[place] if place else ''
    except IndexError:
        raise database.short() from None


def as_rows(database: Database):
    """Yield (first, last, AS number, its name) of a database's networks; 0: not routed."""
    number_at, name_at = database.as_columns()
    try:
        for first, last, row in database:
            yield first, last, parse_as(row[number_at], database), row[name_at]
    except IndexError:
        raise database.short() from None


def check_has_countries(database: Database):
    """Raises UserError for a file of networks without countries, naming it as what it is."""
    kind = ''
    if 'country_iso_code' in database.header:
        kind = "GeoLite2's locations: BLOCKS was expected first"
    elif AS_NUMBER in database.header or (not database.header and database.form.code is None
                                          and database.form.number is not None):
        kind = '%s: it has no countries; --as-db takes it' % database.form.kind
    if kind:
        raise UserError('%s: %s' % (database.name, kind))

# ---- end of same in compile_targets.py and masscanned.py ----

GAP_SIZE, ISLAND_SIZE = 1 << 17, 256        # what the original's tool takes for them
NAMES_KEPT = 1 << 16                # verdicts on names remembered, so that memory is bounded
OUTPUT_FIRST = 'OUTPUT stands before these options'         # else they would take it


def span_ranges(spans):
    """Yield (first, last)."""
    for span in spans:
        yield span >> 64, span >> 32 & AS_MAX


def merge_spans(spans: 'list[int]') -> 'list[tuple[int, int]]':
    """Spans, which are used up -> merged ranges; a million take 160 MB, not 250, by that."""
    spans.sort(reverse=True)
    return merge_ranges(span_ranges(spans.pop() for _ in range(len(spans))))


class Networks:
    """The choice of networks by name and number of their AS.

    patterns  regular expressions; an AS is chosen if one is found in its name
    numbers   AS numbers that are chosen as well
    choose_all  True: every AS is chosen
    chosen    spans of these
    others    spans of all others, as number 0; None if they are not needed
    names     {AS number: name} of those chosen
    missing   patterns and numbers that were not found yet
    """

    def __init__(self, patterns, numbers, choose_all, keep_others):
        self.patterns, self.numbers, self.choose_all = patterns, numbers, choose_all
        self.chosen, self.names = [], {}
        self.others = [] if keep_others else None
        self.missing = set(patterns) | set(numbers)

    def read(self, database):
        """Add the networks of a database."""
        chosen, others, verdicts = self.chosen, self.others, {}
        for first, last, number, name in as_rows(database):
            if not number:
                database.unrouted += 1
                continue
            if name not in verdicts:
                if len(verdicts) >= NAMES_KEPT:
                    verdicts.clear()
                verdicts[name] = self.is_chosen(name)
            if verdicts[name] or number in self.numbers:
                add_span(chosen, first, last, number)
                self.names.setdefault(number, name)
            elif others is not None:
                add_span(others, first, last, 0)
        self.missing.difference_update(self.names)

    def is_chosen(self, name):
        """Is an AS of this name?  All patterns that match are found, not just the first."""
        found = [pattern for pattern in self.missing & self.patterns if pattern.search(name)]
        self.missing.difference_update(found)
        return self.choose_all or any(
            pattern.search(name) for pattern in self.patterns - self.missing)

    def totals(self):
        """{AS number: addresses}, each counted once."""
        totals, ends = dict.fromkeys(self.names, 0), dict.fromkeys(self.names, -1)
        self.chosen.sort()
        for span in self.chosen:
            number, last = span & AS_MAX, span >> 32 & AS_MAX
            first = max(span >> 64, ends[number] + 1)
            if last >= first:
                totals[number] += last - first + 1
                ends[number] = last
        return totals

    def keep_largest(self, count):
        """Choose only so many AS, those with most addresses; of equals, the lowest numbers."""
        totals = self.totals()
        largest = set(sorted(totals, key=lambda number: (-totals[number], number))[:count])
        if self.others is not None:
            for span in self.chosen:
                if span & AS_MAX not in largest:
                    add_span(self.others, span >> 64, span >> 32 & AS_MAX, 0)
        self.chosen = [span for span in self.chosen if span & AS_MAX in largest]
        self.names = {number: self.names[number] for number in largest}


def find_ignored(spans: 'list[int]', gap_size: int):
    """Sorted spans, 0 = not chosen -> (first, last, is it a gap) of what is ignored, ascending.

    A gap between two networks that stay is only ignored if it is large: what a database leaves
    out there may be in use all the same.
    """
    end, chosen_end, gap = -1, -2, None         # gap: the last one, if it is not ignored so far
    for span in itertools.chain(spans, [ADDRESSES_MAX << 64]):
        first, last, number = span >> 64, span >> 32 & AS_MAX, span & AS_MAX
        if first > end + 1:
            gap = end + 1, first - 1, True
            if first - end > gap_size or chosen_end == end:
                yield gap
                gap = None
        if number:
            if gap and gap[1] == first - 1:
                yield gap
                gap = None
            yield first, last, False
            chosen_end = max(chosen_end, last)
        end = max(end, last)


def ignore_networks(networks: Networks, gap_size: int, island_size: int):
    """Networks, which are used up -> (the other addresses, a line about what is left out)."""
    spans = networks.chosen + networks.others
    del networks.chosen[:], networks.others[:]
    spans.sort()
    kept, at = [], 0                            # at: behind all that is ignored so far
    counts = {'gaps': [0, 0], 'AS': [0, len(networks.names)], 'islands': [0, 0]}
    for first, last, is_gap in itertools.chain(
            find_ignored(spans, gap_size), [(ADDRESSES_MAX, ADDRESSES_MAX - 1, False)]):
        if first - at > island_size:
            kept.append((at, first - 1))
        elif first > at:
            counts['islands'][0] += first - at
            counts['islands'][1] += 1
        if is_gap:
            counts['gaps'][1] += 1
        counts['gaps' if is_gap else 'AS'][0] += max(last + 1 - max(first, at), 0)
        at = max(at, last + 1)
    return kept, 'ignored: %d addresses of %d AS, %d in %d gaps, %d in %d islands' % tuple(
        counts['AS'] + counts['gaps'] + counts['islands'])


def choose_countries(paths: 'list[str]', wanted: 'set[str]', negated: bool):
    """Blocks and locations, or one file -> (merged ranges of these countries, what was read)."""
    database, codes = open_countries(paths, '; ' + OUTPUT_FIRST)
    spans = []                      # type: list[int]
    seen, unknown = set(codes.values()), 0
    for first, last, code in country_rows(database, codes, paths[-1]):
        if code in NO_COUNTRY:
            unknown += 1
            continue
        if not codes:
            seen.add(code)
        if (code in wanted) != negated:
            add_span(spans, first, last, 0)
    missing = sorted(wanted - seen)
    if missing:
        raise UserError('argument %s: %s: not in %s, which has codes such as %s' % (
            '--not-country' if negated else '--country', ', '.join(map(repr, missing)),
            paths[-1], ', '.join(sorted(seen.difference(NO_COUNTRY))[:3]) or 'none'))
    ranges = merge_spans(spans)
    return ranges, '%s, %d of no country; taken: %d addresses' % (
        database.summary(), unknown, count_addresses(ranges))


def intersect_ranges(ranges: 'list[tuple[int, int]]', others: 'list[tuple[int, int]]'):
    """Merged ranges -> what they have in common."""
    common, at = [], 0
    for first, last in ranges:
        while at < len(others) and others[at][1] < first:
            at += 1
        while at < len(others) and others[at][0] <= last:
            common.append((max(first, others[at][0]), min(last, others[at][1])))
            if others[at][1] > last:
                break
            at += 1
    return common


# ==== 3 Output ========================================================================

BAKED_BEGIN, BAKED_END = '# ---- built-in targets ----\n', '# ---- end of built-in targets ----\n'


def range_text(first: int, last: int) -> str:
    """A range -> a.b.c.d-e.f.g.h, or a.b.c.d if it is one address."""
    return ip_text(first) if first == last else '%s-%s' % (ip_text(first), ip_text(last))


def range_blocks(first: int, last: int):
    """A range -> the fewest a.b.c.d/length blocks that make it up, ascending."""
    while first <= last:
        size = min(first & -first or ADDRESSES_MAX, 1 << (last - first + 1).bit_length() - 1)
        yield '%s/%d' % (ip_text(first), 32 - (size.bit_length() - 1))
        first += size


def as_table(networks: Networks):
    """Yield lines: the AS chosen, most addresses first."""
    totals = networks.totals()
    yield '%10s %11s  %s' % ('AS', 'ADDRESSES', 'NAME')
    for number in sorted(totals, key=lambda number: (-totals[number], number)):
        name = repr(networks.names[number])[1:-1]       # strangers chose it: no control characters
        yield '%10d %11d  %s' % (number, totals[number], name)


def bake(source: str, ranges, ports: 'str | None', modules: 'str | None', path: str) -> str:
    """Text of a cscan.py -> the same with these built-in targets, ports and modules."""
    head, begin, rest = source.partition(BAKED_BEGIN)
    old, end, tail = rest.partition(BAKED_END)
    if not end:
        raise UserError('argument -c: %r: no cscan.py: its built-in targets are missing' % path)
    kept = dict(re.findall(r'^(BUILTIN_PORTS|BUILTIN_MODULES) = (.+)$', old, re.M))
    if len(kept) != 2:
        raise UserError('argument -c: %r: no cscan.py: its built-in ports or modules are missing'
                        % path)
    lines = ['BAKED = True', "BUILTIN_RANGES = '''\\"]
    lines += [range_text(*pair) for pair in ranges]
    lines += ["'''", 'BUILTIN_PORTS = %s' % (repr(ports) if ports else kept['BUILTIN_PORTS']),
              'BUILTIN_MODULES = %s' % (repr(modules) if modules else kept['BUILTIN_MODULES'])]
    return head + begin + '\n'.join(lines) + '\n' + end + tail


def check_modules(source: str, modules: str, path: str):
    """Raises UserError if that cscan.py has not all of these modules."""
    known = re.findall(r"^@module\('(\w+)'", source, re.M)
    for name in re.split(r'[,\s]+', modules.strip(', ')):
        if name not in known and '/' not in name and not name.endswith('.py'):
            raise UserError('argument --modules: %r: %s has %s' % (name, path, ', '.join(known)))


def write_file(path: str, data: bytes, mode: int = 0o666):
    """Write a whole file or leave the old one: to a neighbour first, then renamed."""
    folder = os.path.dirname(path) or '.'
    temporary = None
    try:
        fd, temporary = tempfile.mkstemp(dir=folder, prefix=os.path.basename(path) + '.')
        with os.fdopen(fd, 'wb') as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, mode & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise UserError('%r: %s' % (path, why(error))) from None


# ==== 4 Command line ==================================================================

EXAMPLES = '''\
examples:
  compile_targets.py -i ranges.txt lab                 lab.csw
  echo 10.0.0.0/8 | compile_targets.py -p 80:2,8080 lab    lab.csw and lab.csp
  compile_targets.py -b -i never.txt rest              all but these
  compile_targets.py -i a.txt -i b.txt --list          merged, as blocks, on standard output
  compile_targets.py -i lab.csw --list-ranges          what a .csw holds
  compile_targets.py -i lab.txt -p 5900 -c cscan.py --modules print labscan    labscan.py
  compile_targets.py poland --country-db BLOCKS.csv LOCATIONS.csv --country PL
  compile_targets.py --as-db ip2asn-v4.tsv.gz --as-name amazon 'google|^gcp' --list-as
  compile_targets.py rest -i presets/public.csw --as-db ASN.csv --as-ignore --as-name amazon google
'''


class Parser(argparse.ArgumentParser):
    """One line for a mistake."""

    def error(self, message):
        sys.stderr.write('compile_targets: %s (see -h)\n' % message)
        sys.exit(2)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(
        prog='compile_targets.py', allow_abbrev=False, epilog=EXAMPLES,
        description='Compile target ranges and ports for cscan.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('output', metavar='OUTPUT', nargs='?', default='builtin',
        help='names of the files, without .csw, .csp, .py (default: builtin)')
    add('-b', action='store_true', help='invert: everything but these ranges')
    add('-p', metavar='SPEC', help='ports with weights: 80:2,443,8000-8010; writes OUTPUT.csp')
    add('-i', metavar='FILE', action='append', default=[],
        help='read ranges from FILE, text or .csw; may be repeated (default: standard input; '
             'with a database: all addresses)')
    add('--skip-bad', action='store_true',
        help='lines of -i that are no ranges are counted and left out, not an error')
    add('-c', metavar='CSCAN.PY',
        help='also write OUTPUT.py: a copy of this cscan.py with these built-in targets')
    add('--modules', metavar='LIST', help='with -c: the modules it enables')
    add('--list', action='store_true', help='print blocks (CIDR) and write nothing')
    add('--list-ranges', action='store_true', help='print a-b ranges and write nothing')
    add('--version', action='version', version='compile_targets %s' % __version__)
    add_database_options(parser.add_argument_group(
        'networks by AS or country', 'CSV of GeoLite2, DB-IP or IP2Location, TSV of iptoasn, for '
        'countries also the delegated\nfiles of RIRs, .gz or not: their contents tell which; - is '
        'standard input. The choice by AS\nand that by country narrow the ranges of -i, or all '
        'addresses without -i.\n%s.' % OUTPUT_FIRST).add_argument)
    return parser


def add_database_options(add):
    """The options that choose from databases."""
    add('--as-db', metavar='FILE', action='append', default=[],
        help='GeoLite2-ASN-Blocks-IPv4.csv, ip2asn-v4.tsv, ...; may be repeated')
    add('--as-name', metavar='REGEX', nargs='+', action='append', default=[],
        help='AS in whose name one of these is found; upper and lower case are alike '
             '(unless (?-i:Written) so)')
    add('--as-number', metavar='N', nargs='+', action='append', default=[],
        help='AS of these numbers, besides: 5617 AS12912')
    add('--largest', metavar='N', type=parse_count,
        help='of these, or of all, only the N with most addresses')
    add('--as-ignore', action='store_true',
        help='all but: the AS chosen, large gaps that no AS has, and small islands that would be '
             'left between them')
    add('--gap-size', metavar='N', type=parse_count,
        help='with --as-ignore: a gap is large from N addresses on (default: %d); a smaller one '
             'goes if it is next to an AS chosen' % GAP_SIZE)
    add('--island-size', metavar='N', type=parse_size,
        help='with --as-ignore: an island is small up to N addresses (default: %d)' % ISLAND_SIZE)
    add('--list-as', action='store_true',
        help='print number, addresses and name of the AS chosen, and write nothing')
    add('--country-db', metavar=('BLOCKS', 'LOCATIONS'), nargs='+',
        help='GeoLite2-Country-Blocks-IPv4.csv and GeoLite2-Country-Locations-en.csv; or one '
             'file of another maker, such as ip2country-v4.tsv')
    add('--country', metavar='CC', nargs='+', action='append', default=[],
        help='networks in these countries: PL DE')
    add('--not-country', metavar='CC', nargs='+', action='append', default=[],
        help='networks in all other countries; not those of no known country')


def parse_size(text: str) -> int:
    """'0' or more -> int, for argparse."""
    if not re.fullmatch('[0-9]{1,10}', text):
        raise argparse.ArgumentTypeError('%r: a number of addresses was expected' % text)
    return int(text)


def parse_count(text: str) -> int:
    """'1' or more -> int, for argparse."""
    if not re.fullmatch('0*[1-9][0-9]{0,9}', text):
        raise argparse.ArgumentTypeError('%r: a number from 1 was expected' % text)
    return int(text)


def check_usage(parser, args):
    """Options that do not go together, or not alone, are usage errors."""
    choices = args.as_name or args.as_number or args.largest is not None or args.list_as
    for name, given, needs, there in (
            ('--modules', args.modules, '-c', args.c),
            ('--as-name', args.as_name, '--as-db', args.as_db),
            ('--as-number', args.as_number, '--as-db', args.as_db),
            ('--largest', args.largest is not None, '--as-db', args.as_db),
            ('--list-as', args.list_as, '--as-db', args.as_db),
            ('--as-ignore', args.as_ignore, '--as-db', args.as_db),
            ('--gap-size', args.gap_size is not None, '--as-ignore', args.as_ignore),
            ('--island-size', args.island_size is not None, '--as-ignore', args.as_ignore),
            ('--as-db', args.as_db, '--as-name, --as-number, --largest, --list-as or --as-ignore',
             choices or args.as_ignore),
            ('--country', args.country, '--country-db', args.country_db),
            ('--not-country', args.not_country, '--country-db', args.country_db),
            ('--country-db', args.country_db, '--country or --not-country',
             args.country or args.not_country)):
        if given and not there:
            parser.error('%s: goes with %s' % (name, needs))
    if args.country and args.not_country:
        parser.error('--not-country: goes without --country')
    if len(args.country_db or ()) > 2:
        parser.error('--country-db %s: two files at most; %s'
                     % (' '.join(args.country_db), OUTPUT_FIRST))
    if args.list_as and (args.i or args.country_db or args.list or args.list_ranges):
        parser.error('--list-as: goes without -i, --country-db, --list and --list-ranges')
    if args.b and not args.i and (args.as_db or args.country_db):
        parser.error('-b: goes with -i, whose ranges it inverts; for the rest of a database there '
                     'are --as-ignore and --not-country')


def main(argv=None) -> int:
    """Command line -> exit status: 0 done, 1 error, 2 usage."""
    parser = make_parser()
    args = parser.parse_args(argv)
    check_usage(parser, args)
    try:
        return run(args)
    except UserError as error:
        for line in str(error).split('\n'):
            say(line)
        return 1
    except KeyboardInterrupt:
        return 130


def run(args) -> int:
    """Read, then list or write -> exit status."""
    ports = parse_portspec(args.p) if args.p is not None else None
    if args.list_as:
        networks, lines = choose_networks(args)
        say('; '.join(lines))
        return print_lines(as_table(networks))
    ranges = read_input(args)
    for chosen, line in choose_from_databases(args):
        say(line)
        ranges = chosen if ranges is None else intersect_ranges(ranges, chosen)
    if not ranges:
        raise UserError('no addresses: at least one range was expected')
    if args.as_db or args.country_db:
        say('in all: %d addresses in %d ranges' % (count_addresses(ranges), len(ranges)))
    if args.list or args.list_ranges:
        return print_lines(range_lines(ranges, args.list_ranges))
    write_tables(args, ranges, ports)
    return 0


def say(text: str):
    """A line on stderr."""
    sys.stderr.write('compile_targets: %s\n' % text)


def read_input(args):
    """-i, else standard input -> merged ranges, -b applied; None = all, with databases only."""
    if not args.i and (args.as_db or args.country_db):
        return None
    if not args.i and sys.stdin and sys.stdin.isatty():
        say('reading ranges from the terminal, Ctrl-D ends')
    reader = RangeReader()
    for path in args.i or ['-']:
        reader.read(path, 'argument -i')
    reader.check(args.skip_bad)
    for note in reader.notes:
        say(note)
    ranges = reader.merged()
    return invert_ranges(ranges) if args.b else ranges


def choose_from_databases(args):
    """Yield (merged ranges, line about them) of each choice."""
    if args.as_db:
        networks, lines = choose_networks(args)
        if args.as_ignore:
            ranges, line = ignore_networks(
                networks, GAP_SIZE if args.gap_size is None else args.gap_size,
                ISLAND_SIZE if args.island_size is None else args.island_size)
        else:
            ranges = merge_spans(networks.chosen)
            line = 'taken: %d addresses of %d AS' % (count_addresses(ranges), len(networks.names))
        yield ranges, '; '.join(lines + [line])
        if args.as_ignore and not args.i:
            say('without -i some reserved addresses are left: -i presets/public.csw')
    if args.country_db:
        codes = parse_countries(sum(args.country + args.not_country, []))
        yield choose_countries(args.country_db, codes, bool(args.not_country))


def choose_networks(args) -> 'tuple[Networks, list[str]]':
    """--as- options -> the networks chosen, and lines about the databases."""
    patterns = {parse_regex(text) for text in sum(args.as_name, [])}
    numbers = parse_numbers(sum(args.as_number, []))
    choose_all = not patterns and not numbers and (args.list_as or args.largest is not None)
    networks = Networks(patterns, numbers, choose_all, args.as_ignore)
    lines = []
    for path in args.as_db:
        database = Database(path)
        networks.read(database)
        lines.append(database.summary())
    missing = sorted(repr(getattr(thing, 'pattern', thing)) for thing in networks.missing)
    if missing:
        raise UserError('argument %s: %s: no such AS in %s; %s' % (
            '--as-name' if networks.missing & patterns else '--as-number', ', '.join(missing),
            ', '.join(args.as_db), OUTPUT_FIRST))
    if args.largest is not None:
        networks.keep_largest(args.largest)
    return networks, lines


def parse_regex(text: str):
    """--as-name -> compiled, upper and lower case alike."""
    try:
        return re.compile(text, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError('argument --as-name: %r: no regular expression: %s'
                        % (text, error)) from None


def parse_numbers(texts: 'list[str]') -> 'set[int]':
    """['5617,AS12912'] -> {5617, 12912}."""
    numbers = set()
    for text in ','.join(texts).split(',') if texts else ():
        match = re.fullmatch('(?:AS)?([0-9]{1,10})', text.strip(), re.IGNORECASE)
        if not match or not 1 <= int(match.group(1)) <= AS_MAX:
            raise UserError('argument --as-number: %r: an AS number such as 5617 was expected; %s'
                            % (text, OUTPUT_FIRST))
        numbers.add(int(match.group(1)))
    return numbers


def parse_countries(texts: 'list[str]') -> 'set[str]':
    """['pl,DE'] -> {'PL', 'DE'}."""
    texts = ','.join(texts).split(',')
    for text in texts:
        if not re.fullmatch('[A-Za-z]{2}', text.strip()):
            raise UserError('argument --country, --not-country: %r: a code of two letters, such '
                            'as PL, was expected; %s' % (text, OUTPUT_FIRST))
    return {text.strip().upper() for text in texts}


# ---- same in cba_reader.py and compile_targets.py ----

def drop_output():
    """Send what Python would flush at exit to nowhere."""
    if sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

# ---- end of same in cba_reader.py and compile_targets.py ----


def range_lines(ranges, as_ranges):
    """Yield lines: blocks, or ranges."""
    for first, last in ranges:
        yield from [range_text(first, last)] if as_ranges else range_blocks(first, last)


def print_lines(lines) -> int:
    """--list, --list-ranges, --list-as -> exit status."""
    if not sys.stdout:
        raise UserError('standard output: closed')
    encoding = sys.stdout.encoding or 'ascii'
    try:
        for line in lines:
            line = line.encode(encoding, 'backslashreplace').decode(encoding)
            sys.stdout.write(line + '\n')
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()                       # the reader has seen enough
    except OSError as error:
        drop_output()
        raise UserError('standard output: %s' % why(error)) from None
    return 0


def write_tables(args, ranges, ports):
    """OUTPUT.csw, .csp and .py; everything is made before anything is written."""
    files = [('.csw', pack_csw(ranges, 'ranges'))]
    if ports:
        files.append(('.csp', pack_csp(ports, 'argument -p')))
    if args.c:
        source = read_file(args.c, 'argument -c').decode('utf-8', 'replace')
        if args.modules is not None:
            check_modules(source, args.modules, args.c)
        files.append(('.py', bake(source, ranges, args.p, args.modules, args.c).encode()))
    for ending, data in files:
        write_file(args.output + ending, data, 0o777 if ending == '.py' else 0o666)


if __name__ == '__main__':
    sys.exit(main())
