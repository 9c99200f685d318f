#!/usr/bin/env python3
"""masscanned - userland network responder: it answers whoever knocks, on every port.

    sudo python3 masscanned.py --tap 10.11.12.0/24      # then: curl 10.11.12.13
    sudo python3 masscanned.py --iface eth1 --self-ip-list 192.0.2.0/28

One file, standard library only, Linux, CPython 3.6 or newer and PyPy.  What it hears and says
is logged on standard output.  `-h` lists the options, `--protocols` what it talks.

Contents
    1 Wire formats      headers as tables, code points
    2 Toolkit           checksum, addresses
    3 Registry          the contract of answerers, signatures, streams
    4 Stack             frame in, frames out: cookies, connections, budgets
    5 Events and journals  what is written down of it
    6 Engine            AF_PACKET rings, TAP, privileges, files, the loop
    7 Command line
    8 TLS               keys and certificates of our own
    9 Protocols         one block each: the catalogue, by family

Theory of operation
    No state is made by a SYN: our sequence number is a keyed hash of the addresses and ports, to
    which the client's number is added (a cookie).  An acknowledgement of it proves that its sender
    heard us, and shows where his segment stands in his stream.  The first data make a connection
    in a table of fixed size.  Where we speak first, a completed handshake waits for a while.
    What is due without a frame (greetings, repetitions, ends, the announcement of our addresses)
    is asked for by the loop: Stack.tick().
    The path of a frame: link.receive -> Stack.answer_frame -> answer_ipv4 -> answer_tcp ->
    Stream.feed (which protocol is this? the registry) -> an answerer -> octets, and back the same
    way as frames to link.send.  A datagram takes answer_datagram instead of a Stream.  Between
    the link and the answerer nothing does I/O.
    What is asked first, and has been asked before, is answered again without any of these (Store).
    What a plain frame is stands in one table (PLAIN).  A plain frame takes a short cut past the
    layers; many of one shape are answered in columns (Openings).  Both patch models of what the
    layers say, and what we look like is known to the Face alone.
    What happens is shown to observers: frames with their fate, frames that nobody asked for, and
    Events that answerers note.  A packet log is an observer: a Format says how a line reads, a
    Journal has the descriptor.
"""

import argparse
import binascii
import bisect
import codecs
import collections
import ctypes
import errno
import fcntl
import functools
import hashlib
import ipaddress
import itertools
import math
import mmap
import operator
import os
import pwd
import re
import select
import signal
import socket
import stat
import struct
import sys
import time
import zlib

__version__: 'str' = '2.1'          # Python 3.6 or newer is needed: older ones stop at this line


# ==== 1 Wire formats ==================================================================

ETHER = struct.Struct('!6s6sH')         # IEEE 802.3 s3.1.1: dst src type
TAG = struct.Struct('!HH')              # IEEE 802.1Q s9.6: tci type
ARP = struct.Struct('!HHBBH6s4s6s4s')   # RFC 826: htype ptype hlen plen op sha spa tha tpa
IPV4 = struct.Struct('!BxHxxHxBxx4s4s')     # RFC 791 s3.1: vihl total frag proto src dst
IPV4_ANSWER = struct.Struct('!IIBBH4s4s')   # the same: vihl-tos-total id-frag ttl proto sum s d
IPV6 = struct.Struct('!IHBB16s16s')     # RFC 8200 s3: version-class-flow size next hops src dst
EXTENSION = struct.Struct('!BB')        # RFC 8200 s4: next size (8-octet units after the first)
FRAGMENT = struct.Struct('!BxH4x')      # RFC 8200 s4.5: next offset-and-more
ICMP = struct.Struct('!BBH')            # RFC 792: type code sum
ICMP_TIMES = struct.Struct('!4s4sII')   # RFC 792: id-and-number originate receive transmit
SOLICITATION = struct.Struct('!BBHI16s')    # RFC 4861 s4.3, s4.4: type code sum flags target
ND_OPTION = struct.Struct('!BB6s')      # RFC 4861 s4.6.1: type size (8-octet units) address
TCP_HEADER = struct.Struct('!HHIIHHHH') # RFC 9293 s3.1: sport dport seq ack off-flags win sum urg
TCP_MSS_OPTION = struct.Struct('!BBH')  # RFC 9293 s3.7.1: kind size mss
TCP_STAMPS = struct.Struct('!II')       # RFC 7323 s3.2, behind kind and size: value echo
TCP_STAMP_OPTION = struct.Struct('!4sII')   # the same behind STAMP_BEGIN
UDP_HEADER = struct.Struct('!HHHH')     # RFC 768: sport dport size sum

# What the short cuts read of a plain frame, Ethernet, IPv4 and TCP at once:
# src total proto src dst sport dport seq ack off-flags win; of UDP size-sum stands where seq does
PLAIN4 = struct.Struct('!6x6s4xH5xB2xIIHHIIHH4x')
# and what they write into a model of an answer, whose octets are in between:
# dst (src type vihl-tos) total (id-frag ttl-proto) sum src dst, then of TCP: sport dport
# seq ack off-flags win sum; of UDP: sport dport size sum; of a SYN+ACK, whose size is known, too:
# dst (all from src to proto) sum src dst sport dport seq ack (off-flags win) sum
PATCH_TCP4 = struct.Struct('!6s10sH6sHIIHHIIHHH2x')
PATCH_IPV4 = struct.Struct('!6s10sH6sHII')
PATCH_SYN_ACK4 = struct.Struct('!6s18sHIIHHIIIH2x')
PATCH_UDP4 = struct.Struct('!6s10sH6sHIIHHHH')
PROTO4_AT = 23                          # where a plain frame has its protocol,
UDP_OCTET, TCP_OCTET = b'\x11', b'\x06'
MESSAGE4_AT = 42                        # where a datagram's message begins
FLOW4_AT = 26                           # where addresses and ports are:
FLOW4 = struct.Struct('!4s4sHH')
FLOW6 = struct.Struct('!16s16sHH')

ETHERTYPE_IPV4, ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0800, 0x0806, 0x86dd  # IEEE 802 numbers
ETHERTYPE_VLAN, ETHERTYPE_QINQ = 0x8100, 0x88a8
ETHERTYPES_TAG = (ETHERTYPE_VLAN, ETHERTYPE_QINQ, 0x9100)
MAC_BROADCAST = b'\xff' * 6
MAC_ALL_NODES = b'\x33\x33\0\0\0\1'     # RFC 2464 s7
MAC_MULTICAST4 = b'\x01\0\x5e'          # RFC 1112 s6.4: then 23 bits of the address
MAC_SOLICITED = b'\x33\x33\xff'         # RFC 2464 s7 and RFC 4291 s2.7.1: then 24 bits
ARP_REQUEST, ARP_REPLY = 1, 2
ARP_HARDWARE = (1, 6)                   # Ethernet, IEEE 802
IP_ICMP, IP_TCP, IP_UDP, IP_ICMPV6 = 1, 6, 17, 58
IP_HOPOPT, IP_ROUTING, IP_FRAGMENT, IP_DSTOPTS = 0, 43, 44, 60
IPV4_MORE_OR_OFFSET = 0x3fff            # fragment field without DF
IPV4_DF = 0x4000
IPV4_BROADCAST = 0xffffffff
IPV4_ALL_HOSTS = 0xe0000001             # RFC 1112 s4
IPV4_GROUP_BITS, IPV6_SOLICITED_BITS = 23, 24   # of an address that its multicast MAC has
IPV6_LOOPBACK = 1
IPV6_ALL_NODES = b'\xff\x02' + bytes(13) + b'\1'
IPV6_ALL_NODES_HERE = b'\xff\x01' + bytes(13) + b'\1'      # RFC 4291 s2.7.1: interface-local
IPV6_SOLICITED = b'\xff\x02' + bytes(9) + b'\1\xff'
EXTENSIONS_MAX = 8                      # headers walked; more is nobody's real packet
ICMP_ECHO_REPLY, ICMP_UNREACHABLE, ICMP_ECHO = 0, 3, 8
ICMP_PORT = 3                           # code of ICMP_UNREACHABLE; RFC 4443 s3.1: 4 of IPv6
ICMPV6_UNREACHABLE, ICMPV6_PORT = 1, 4
ICMP_QUOTES, ICMPV6_QUOTES = 576 - 28, 1280 - 48    # RFC 1812 s4.3.2.3, RFC 4443 s2.4 (c)
TOS_CONTROL = 0xc0                      # RFC 1812 s4.3.2.5: internetwork control
ICMP_TIMESTAMP, ICMP_TIMESTAMP_REPLY = 13, 14
ECHO = bytes((ICMP_ECHO, 0))            # type and code
ICMPV6_ECHO, ICMPV6_ECHO_REPLY = 128, 129
ND_SOLICITATION, ND_ADVERTISEMENT = 135, 136
ND_HOPS = 255                           # RFC 4861 s7.1.1: proof of being on the link
ND_SOURCE_LINK, ND_TARGET_LINK = 1, 2
ND_SOLICITED, ND_OVERRIDE = 0x40000000, 0x20000000
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
FLAGS = 0x1ff                           # with AE (once NS)
TCP_OPTION_END, TCP_OPTION_NOP, TCP_OPTION_MSS = 0, 1, 2
TCP_OPTION_SCALE, TCP_OPTION_SACK, TCP_OPTION_STAMP = 3, 4, 8   # RFC 7323 s2.2, RFC 2018 s2
TCP_OPTION_SACKS = 5            # RFC 2018 s3
STAMP_BEGIN = bytes((TCP_OPTION_NOP, TCP_OPTION_NOP, TCP_OPTION_STAMP, 10))     # appendix A
MASK32 = 0xffffffff

# What a plain frame over IPv4 is, as nearly all are that knock on a sensor: rows (offset,
# size, mask, value).  The test of one frame and the columns of a round are made of them.  Whatever
# is otherwise is no mistake: the layers read it.
PLAIN = (
    (0, 6, 0xffffffffffff, None),               # to our MAC
    (6, 1, 0x01, 0),                            # from no group
    (12, 2, 0xffff, ETHERTYPE_IPV4),
    (14, 1, 0xff, 0x45),                        # version 4, no options
    (20, 2, IPV4_MORE_OR_OFFSET, 0))            # no fragment
# What the frames of a group have in common that is answered in columns: rows (offset, size).
ALIKE = (
    (0, 12),                                    # both MACs, first of all
    (16, 2),                                    # octets of the packet
    (23, 1),                                    # TCP
    (46, 2))                                    # TCP offset and flags
ALIKE_OPTION = (54, 2)                          # and, if there are options: the first is an MSS
ALIKE_PORT = (36, 4)                            # and of datagrams: the port that is asked, size
ALIKE_DPORT = ALIKE_PORT[0], 2                  # of segments: the port


# ==== 2 Toolkit =======================================================================

# ---- same in cba_reader.py and compile_targets.py and cscan.py and masscanned.py ----

class UserError(Exception):
    """What the user can mend, in one line: what, the value as repr, what was expected."""


def why(error: Exception) -> str:
    """OSError -> the kernel's words, without number and path; others -> their text."""
    return getattr(error, 'strerror', None) or str(error)

# ---- end of same in cba_reader.py and compile_targets.py and cscan.py and masscanned.py ----


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


def say(text):
    """One line on standard error; if nobody can read it, there is nowhere left to say it."""
    try:
        write_all(2, ('masscanned: %s\n' % printable(text)).encode('utf-8', 'backslashreplace'))
    except OSError:
        pass


def print_text(text):
    """What was asked for, on standard output; a reader that has seen enough may go."""
    try:
        write_all(1, text.encode('utf-8', 'backslashreplace'))
    except BrokenPipeError:
        pass
    except OSError as error:
        raise UserError('standard output: %s' % why(error)) from None


class Malformed(ValueError):
    """A deep parser found what cannot be; the dispatcher takes it for silence."""


from_octets = int.from_bytes            # found once: 20 ns less in each of two checksums


def checksum(data: bytes, start: int = 0) -> int:
    """Internet checksum of data; 0xffff only where every octet is 0 (RFC 1624 s3).

    start   sum to begin with, e.g. of a pseudo-header; any size
    source  RFC 1071 s1: one's-complement addition is addition modulo 65535, 16 times as fast
            by one big integer as by a loop (1460 octets)
    """
    if len(data) & 1:
        data += b'\0'
    total = start + int.from_bytes(data, 'big')
    return -total % 0xffff if total else 0xffff


@functools.lru_cache(maxsize=64)
def answer_sum(data: bytes) -> int:
    """Octets we say -> their sum modulo 65535; 400 said before: 0.1 us instead of 0.8."""
    return from_octets(data + bytes(len(data) & 1), 'big') % 0xffff


def is_intact(data: bytes, start: int = 0) -> bool:
    """Whether data, its checksum in it, sums up to zero."""
    if len(data) & 1:
        data += b'\0'
    return (start + int.from_bytes(data, 'big')) % 0xffff == 0


def mac_text(mac: bytes) -> str:
    """6 octets -> '02:00:00:00:00:01'."""
    return '%02x:%02x:%02x:%02x:%02x:%02x' % tuple(mac)


def parse_mac(text: str) -> bytes:
    """'2:0:0:0:0:1' -> 6 octets."""
    if not re.fullmatch(r'[0-9A-Fa-f]{1,2}(:[0-9A-Fa-f]{1,2}){5}', text):
        raise UserError('%r: not a MAC address, six hexadecimal octets as in 02:00:00:00:00:01'
                        % text)
    mac = bytes(int(octet, 16) for octet in text.split(':'))
    if mac[0] & 1:
        raise UserError('%r: a multicast MAC address cannot be ours' % text)
    return mac


# ---- addresses ----

WORKERS_MAX = 256
EXPANDED_MAX = 1 << 17          # addresses kept one by one: 10 MB, and the quickest look-up


class Ranges:
    """Addresses as ascending, disjoint ranges, for `in`: too many to be kept one by one."""
    __slots__ = 'firsts', 'lasts'

    def __init__(self, ranges):
        self.firsts = [first for first, _ in ranges]
        self.lasts = [last for _, last in ranges]

    def __contains__(self, ip):
        at = bisect.bisect_right(self.firsts, ip) - 1
        return at >= 0 and ip <= self.lasts[at]


class Addresses:
    """A list of addresses of one family, as numbers.

    ranges  [(first, last)], in the order given, for the first of them and for display
    members frozenset, or Ranges where they are many; False when empty
    count   how many
    """
    __slots__ = 'ranges', 'members', 'count'

    def __init__(self, ranges):
        self.ranges = ranges
        merged = merge_ranges(ranges)
        self.count = sum(last - first + 1 for first, last in merged)
        self.members = Ranges(merged) if self.count > EXPANDED_MAX else frozenset(
            itertools.chain.from_iterable(range(first, last + 1) for first, last in merged))

    def without(self, numbers) -> 'Addresses':
        """The list less some addresses."""
        ranges = self.ranges
        for number in numbers:
            cut = [((first, min(last, number - 1)), (max(first, number + 1), last))
                   for first, last in ranges]
            ranges = [(first, last) for first, last in itertools.chain.from_iterable(cut)
                      if first <= last]
        return Addresses(ranges) if ranges != self.ranges else self

    def lowest_bits(self, bits) -> 'list[tuple[int, int]]':
        """What the lowest bits of the addresses can be: ascending, disjoint ranges."""
        size, found = 1 << bits, []
        for first, last in self.ranges:
            low = first & size - 1
            end = low + min(last - first, size - 1)
            found.append((low, min(end, size - 1)))
            if end >= size:                     # round once: the rest begins at 0
                found.append((0, end - size))
        return merge_ranges(found)


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


def parse_addresses(text: str, where: str) -> 'tuple[int, int, int]':
    """Address, CIDR (host bits are cleared) or a-b -> (version, first, last)."""
    first, dash, last = (part.strip() for part in text.partition('-'))
    try:
        if not dash:
            network = ipaddress.ip_network(text, strict=False)
            return network.version, int(network[0]), int(network[-1])
        low, high = ipaddress.ip_address(first), ipaddress.ip_address(last)
    except ValueError:
        raise UserError('%s: %r: not an address, address/length or address-address'
                        % (where, text)) from None
    if low.version != high.version:
        raise UserError('%s: %r: one end is IPv4, the other IPv6' % (where, text))
    if high < low:
        raise UserError('%s: %r: the last address is below the first' % (where, text))
    return low.version, int(low), int(high)


def load_addresses(path, inline, option, opener=None) -> 'list[tuple[int, int, int]]':
    """Lists of an option pair -> [(version, first, last)], as they stand there.

    opener      of open(); None: as usual
    """
    found = []
    if path is not None:
        for number, line in enumerate(read_lines(path, opener), 1):
            text = line.partition('#')[0].strip().partition('\t')[0].strip()
            if text:
                found.append(parse_addresses(text, '%s:%d' % (path, number)))
    if inline is not None:
        found += [parse_addresses(item.strip(), option) for item in inline.split(',')
                  if item.strip()]
    return found


def read_lines(path, opener=None) -> 'list[str]':
    """A text file -> its lines."""
    try:
        with open(path, encoding='utf-8-sig', errors='surrogateescape', opener=opener) as file:
            return file.read().split('\n')
    except OSError as error:
        raise UserError('%s: %s' % (path, why(error))) from None


# ---- framing ----
#
# Where the first message of a stream ends.  A helper makes a function of the stream's octets:
# it gives the octets of the first message, None where they do not tell yet, -1 where they never
# will.

def fix(count: int):
    """Messages of a fixed number of octets."""
    return lambda data: count


def be(at: int, width: int, add: int):
    """A big-endian length of `width` octets at `at`; add: the octets that it does not count."""
    return lengthwise('big', at, width, add)


def le(at: int, width: int, add: int):
    """The same, little-endian."""
    return lengthwise('little', at, width, add)


def lengthwise(order, at, width, add):
    """What be() and le() make."""
    end = at + width

    def size(data):
        if len(data) < end:
            return None
        return int.from_bytes(data[at:end], order) + add
    return size


def till(mark: bytes):
    """Messages that end with a mark."""
    def size(data):
        at = data.find(mark)
        return None if at < 0 else at + len(mark)
    return size


line = till(b'\n')                      # CR is optional; whoever uses it strips both

HEAD_END = re.compile(br'\r?\n\r?\n')
HEAD_LENGTH = re.compile(br'\n(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,9})[ \t]*\r?\n', re.I)


def headed(data: bytes) -> 'int | None':
    """Lines, an empty one, a body as long as the field Content-Length says (RFC 3261 s18.3)."""
    end = HEAD_END.search(data)
    if not end:
        return None
    length = HEAD_LENGTH.search(data, 0, end.end())
    return end.end() + (int(length.group(1)) if length else 0)


def parse_fields(head: bytes) -> 'list[tuple[bytes, bytes]]':
    """Lines of 'Name: value', the first line left out -> [(name in lower case, value)]."""
    rows = [row.partition(b':') for row in head.split(b'\n')[1:65]]
    return [(name.strip().lower(), value.strip()) for name, _, value in rows if value]


def varint(at: int):
    """A length in groups of 7 bits at `at`, the lowest first, then so many octets.

    source  MQTT 5.0 s1.5.5: at most four octets
    """
    def size(data):
        number = 0
        for index, octet in enumerate(data[at:at + 4]):
            number |= (octet & 0x7f) << 7 * index
            if octet < 0x80:
                return at + index + 1 + number
        return -1 if len(data) >= at + 4 else None
    return size


BER_PARTS_MAX = 32


def ber(data: bytes) -> 'int | None':
    """One BER element of definite length and one octet of tag (X.690 s8.1)."""
    if len(data) < 2:
        return None
    count = data[1] & 0x7f
    if data[1] < 0x80:
        return 2 + data[1]
    if not 0 < count <= 4:
        return -1
    if len(data) < 2 + count:
        return None
    return 2 + count + int.from_bytes(data[2:2 + count], 'big')


def sized(octets: bytes, width: int = 2, order='big', extra: int = 0) -> bytes:
    """Octets -> their number in `width` octets, then themselves; extra: what it counts besides."""
    return (len(octets) + extra).to_bytes(width, order) + octets


def read_sized(data: bytes, at: int, width: int = 2, order='big') -> 'tuple[bytes, int]':
    """What sized() made, at `at` -> the octets, where they end.

    raises  Malformed if it is not whole
    """
    start = at + width
    end = start + int.from_bytes(data[at:start], order)
    if at < 0 or len(data) < end:
        raise Malformed('string at %d' % at)
    return data[start:end], end


def parse_ber(data: bytes, at: int = 0) -> 'tuple[int, int, int]':
    """An element at `at` -> its tag, where its contents begin, where they end.

    raises  Malformed if it is not whole
    """
    size = ber(data[at:at + 6])
    if not size or size < 0 or at + size > len(data):
        raise Malformed('element at %d' % at)
    start = at + 2 + (data[at + 1] & 0x7f if data[at + 1] > 0x7f else 0)
    return data[at], start, at + size


def ber_parts(data: bytes) -> 'list[tuple[int, bytes, bytes]]':
    """Elements side by side -> [(tag, the element, its contents)].

    raises  Malformed if one is not whole, or if there are more than BER_PARTS_MAX
    """
    parts, at = [], 0
    while at < len(data):
        begin = at
        tag, start, at = parse_ber(data, begin)
        parts.append((tag, data[begin:at], data[start:at]))
        if len(parts) > BER_PARTS_MAX:
            raise Malformed('more than %d elements' % BER_PARTS_MAX)
    return parts


def pack_der(tag: int, *parts) -> bytes:
    """Tag and contents -> one DER element of definite length (X.690 s8.1.3, s10.1)."""
    body = b''.join(parts)
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8, 'big')
    return bytes((tag, 0x80 | len(octets))) + octets + body


def pack_integer(number: int, tag: int = 2) -> bytes:
    """A number of 0 or more -> INTEGER, or of the type of a tag (X.690 s8.3)."""
    return pack_der(tag, number.to_bytes(number.bit_length() // 8 + 1, 'big'))


# ==== 3 Registry ======================================================================
#
# A protocol is one block of section 9: constants, Structs, helpers, and one function under a
# decorator.  Nothing else in the file names it.  There are three ways to write one, the shortest
# first:
#
#     lines('finger', 'A name -> nobody of that name.', port=79, ref='RFC 1288 s2.3',
#           other=b'finger: no such user\r\n')
#
#     @talk('daytime', sig=(b'day',), port=13, ref='RFC 867 s2', size=line)
#     def answer_daytime(message, peer):
#         """A line -> the time."""
#
#     @protocol('echo', sig=(b'echo',), port=7, ref='RFC 862')
#     def answer_echo(data, peer):
#         """Octets -> the same."""
#
# lines() is a table of verbs, for protocols whose messages are lines of text.  A talk is given
# one whole message; framing, pieces and limits are done for it.  datagram() is a talk over UDP
# only.  A protocol is given octets as they come.  The contract of an answerer, for both
# transports:
#
#   data    octets of the client, from the first that no answer has used yet.  UDP: the
#           datagram.  TCP: a piece of the stream, of any size up to 2 * KEPT_MAX, whole
#           requests or parts of them.  The signature and `check` held when the conversation
#           began; nothing else may be trusted.
#   peer    a Peer: addresses, ports, transport, clock, host, and `state`, which is the
#           answerer's own from one call to the next on a connection: None at first (and for
#           each datagram).  What it keeps there is counted: octets, and numbers, tuples and
#           lists of them; any other object says by cost() how many octets it keeps.
#
# It returns one of
#   MORE    the request is cut short: keep the octets, call again with more of them.  On UDP,
#           where no more can come, this is silence.
#   None    not mine, or nothing to say to it: silence.  TCP: the stream is acknowledged from
#           here on and never parsed again.
#   octets  the answer, to all of `data`.
#   Reply(out, used, skip, close, port, again, wait, limit, tls, session), whose fields all have
#   defaults
#           out     octets to send, may be b''
#           used    octets of `data` this took; what remains is the next call's data at once
#                   (all of it unless given)
#           skip    octets after those that pass by without being kept (a body).  When the last
#                   of them has passed, the answerer is called again, with b'' if nothing
#                   follows yet
#           close   our side is done: FIN after `out`; later octets are acknowledged only
#           port    UDP: answer from this port of ours instead of the one asked
#           again   the registry looks at what follows as at the beginning of a conversation; a
#                   Protocol: it has just said its banner
#           wait    TCP: seconds; nothing is parsed until then, and the answerer is called again,
#                   with b'' if nothing has come.  WORK: when it is its turn, one connection a
#                   turn of the loop, for what takes milliseconds.  None: it need not be
#           limit   TCP: seconds after which the conversation ends with FIN, unless a later reply
#                   sets another limit; 0: no longer.  None: it stays as it is
#           tls     TCP, where peer.offers_tls: what follows is said inside of TLS.  Octets that
#                   we say first there, may be b''
#           session with tls: a kind of Session, where its handshake does not go bare
# What is worth telling - a request, a name, a password - it notes: peer.note(kind, key=value ...).
# It never raises anything but Malformed (which is None), never logs, sleeps or does I/O; time
# and randomness come from peer.now (peer.second, if whole seconds do) and peer.host, and what
# else it knows from its arguments: an answer may be given again to whoever asks the same, see
# Store.  One call does a bounded amount of work,
# however the octets are chosen.  TLS, and whatever else wraps a conversation, makes a Stream of
# its own for the inside and feeds it.
#
# The function of a talk is given one message and returns octets (b'': nothing to say), None,
# (octets, SHUT) to close after them, or a Reply.  It may also raise LookupError, ValueError or
# struct.error where a message is too short or makes no sense; that is None.

TCP, UDP = IP_TCP, IP_UDP
BOTH = (TCP, UDP)
KEPT_MAX = 1 << 16          # octets a stream keeps of an unfinished request
OUT_MAX = 1 << 14           # octets answered in one go; more waits for the client's ACK
STEPS_MAX = 24              # answers in one go; more waits for the next turn
WINDOW = 1 << 12            # octets of a stream shown to an answerer first; more if it asks
MESSAGE_MAX = 1 << 14       # octets of a talk's message, unless it says otherwise
TEXT_MAX = 1 << 11          # and of a line of text
COMMON_WORDS = b'HELP', b'NOOP', b'PASS', b'QUIT', b'USER'      # of many protocols of text
# TLS comes first here: who speaks first does so inside
SECURE_PORTS = frozenset((465, 563, 636, 853, 990, 992, 993, 994, 995, 5061, 5671, 6697, 8883))
LITERAL_MIN = 3             # octets of a signature that leaves none open and goes first
SIGNATURE_MAX = 1 << 10     # octets of any
LIST_MAX = 8                # signatures that are looked through one by one
SPLIT_AT = 4                # octet that tells those of a longer list apart
AMPLIFY_MAX = 3.0           # UDP: entries that may answer more times as much are off
PADDING_MAX = 18            # octets behind a datagram that pad its Ethernet frame
WORD_MAX = 16
MORE = b''
SHUT = True
WORK = 0

Reply = collections.namedtuple(             # see above
    'Reply', 'out used skip close port again wait limit tls session')
Reply.__new__.__defaults__ = b'', None, 0, False, None, False, None, None, None, None
# A row of the registry; `words` and `shared` are first words of text, in upper case.
Protocol = collections.namedtuple(
    'Protocol', 'name over sigs words shared ports ref check answer banner most echo everywhere')
Protocol.__new__.__defaults__ = None, False         # most have no id that is repeated
PROTOCOLS = {}              # name: Protocol, filled by the decorators
FAMILIES = []               # [(title, [names])], as they stand in the file

FIRST_WORD = re.compile(br'[A-Za-z][A-Za-z0-9_.-]{0,%d}' % (WORD_MAX - 1))


def family(title):
    """The protocols that follow are of this family, for the manual."""
    FAMILIES.append((title, []))


def protocol(name, sig=(), port=(), ref='', over=BOTH, check=None, banner=None, most=1.0,
             words=(), shared=(), echo=None, everywhere=False):
    """Register the function below as the answerer of a protocol.

    sig     signatures: bytes, or hex octets with '..' for any one ('00 01 .. .. 21 12 a4 42'),
            anchored at the first octet.  Of several that match, the one with most fixed octets
            wins, wherever it stands in the file; of equal ones that of the port's owner.  One
            without '..', of three octets or more, goes before all others.  One that is all '..'
            counts on the ports below only.
    words   the same for text: first words, in any case, on every port
    shared  first words that count on the ports below only
    port    usual port or ports.  Every port answers everything, unless the policy is strict
    ref     the specification, with section
    check   check(data, peer) -> bool: what a prefix cannot say; data is at least as long as
            the signature (UDP: the whole datagram)
    banner  octets, or banner(peer) -> octets: what we say first on these ports, if the client
            stays silent; (octets, SHUT) to close after them.  On SECURE_PORTS inside TLS only
    most    UDP: how many times as long as the request an answer may be.  Whoever raises it draws
            on the budget's share for growing answers; above AMPLIFY_MAX it is off by default
    echo    echo(message, transport) -> (at, size) of an id that the answer repeats at the same
            place, and that changes nothing else of it, nor of `check`: who asks the same with
            another id is given the same answer, without a call (see Store)
    everywhere  the strict policy has it on ports of others, too: it carries them
    """
    def register(answer):
        assert name not in PROTOCOLS, name
        PROTOCOLS[name] = Protocol(
            name, over, tuple(sig), tuple(each.upper() for each in words),
            tuple(each.upper() for each in shared), (port,) if isinstance(port, int) else port,
            ref, check, answer, banner, most, echo, everywhere)
        FAMILIES[-1][1].append(name)
        return answer
    return register


def talk(name, sig=(), port=(), ref='', size=None, over=(TCP,), check=None, limit=MESSAGE_MAX,
         **more):
    """Register the function below as the answerer to one whole message at a time.

    size    where a message of a stream ends, a helper of section 2; None: what has come is one
    limit   octets of a message; a longer one is not ours
    more    banner, most, words, shared, echo, as for protocol()
    """
    def register(answer):
        @functools.wraps(answer)
        def answer_message(data, peer):
            end = message_end(data, peer, size, limit)
            if not end:
                return end
            try:
                given = answer(data[:end], peer)
            except (LookupError, ValueError, struct.error):
                return None
            if isinstance(given, Reply):
                return given if given.used is not None else given._replace(used=end)
            if isinstance(given, tuple):
                return Reply(given[0], end, close=given[1])
            return given if given is None else Reply(given, end)
        protocol(name, sig, port, ref, over, check, **more)(answer_message)
        return answer
    return register


def datagram(name, sig=(), port=(), ref='', **more):
    """The same over UDP only, where a message is a datagram; Ethernet may have padded it."""
    return talk(name, sig, port, ref, over=(UDP,), **more)


def message_end(data, peer, size, limit) -> 'int | bytes | None':
    """Octets of the first message of data; MORE: it is not whole; None: it cannot be ours."""
    end = len(data)
    if peer.transport == TCP and size:
        end = size(data)
        if end is None and size is line and peer.hurried:
            end = len(data)
        if end is None or len(data) < end <= limit:
            return MORE if len(data) <= limit else None
    return end if 0 < end <= limit else None


def lines(name, about, sig=(), words=(), shared=(), port=(), ref='', replies=None, other=None,
          quits=(b'QUIT',), over=(TCP,), **more):
    """Register a protocol of text: a line begins with a verb, in any case.

    On its own ports it takes whatever line nobody else claims, and the COMMON_WORDS.
    about   what --protocols says of it
    replies {VERB: octets, or function(the rest of the line, peer) -> what a talk returns}.  One
            whose state is a tuple is prompting: the next line goes whole to replies[state[0]]
    other   the same for any other verb
    quits   verbs after whose reply the connection ends
    """
    replies = replies or {}

    def answer(message, peer):
        verb, _, rest = message.strip().partition(b' ')
        verb = verb.upper()
        if isinstance(peer.state, tuple):
            verb, rest = peer.state[0], message
        given = replies.get(verb, other)
        if callable(given):
            given = given(rest.strip(), peer)
        return (given, SHUT) if verb in quits and isinstance(given, bytes) else given
    answer.__doc__ = about
    shared = [*shared, *(each for each in COMMON_WORDS if each not in words)]
    talk(name, (*sig, '..'), port, ref, line, over, limit=TEXT_MAX, words=words, shared=shared,
         **more)(answer)


def start_tls(peer, agreed, refused, words=b''):
    """A client asks for TLS -> what a talk returns: TLS follows what agrees, where it can be had.

    words   what we say first inside
    """
    if not peer.offers_tls:
        return refused
    peer.state = None
    return Reply(agreed, tls=words)


def on_starttls(agreed, refused, words=b''):
    """The same as a reply of lines()."""
    return lambda rest, peer: start_tls(peer, agreed, refused, words)


def signature_octets(sig) -> list:
    """b'GET ' or '00 .. 21' -> its octets, None for any."""
    if isinstance(sig, bytes):
        return list(sig)
    return [None if octet == '..' else int(octet, 16) for octet in sig.split()]


def signature_runs(octets) -> 'list[tuple[int, bytes]]':
    """Octets with None for any -> [(at, the fixed octets that stand there)]."""
    runs = []
    for fixed, run in itertools.groupby(enumerate(octets), lambda pair: pair[1] is not None):
        run = list(run)
        if fixed:
            runs.append((run[0][0], bytes(octet for _, octet in run)))
    return runs


# ---- index ----

# A signature in an index: how many octets of it are fixed, octets of all, [(at, fixed octets)], a
# mask and what it leaves of all as one number, its Protocol, and the entries of other protocols
# beside it that are as strong.
Signature = collections.namedtuple('Signature', 'fixed least runs mask value each rivals')


def make_signature(octets, each) -> Signature:
    """Octets, None for any, of a Protocol -> Signature."""
    mask = bytes(0 if octet is None else 0xff for octet in octets)
    value = bytes(octet or 0 for octet in octets)
    return Signature(len(octets) - octets.count(None), len(octets), signature_runs(octets),
                     from_octets(mask, 'big'), from_octets(value, 'big'), each, ())


class Index:
    """Signatures and words of one transport.

    lists   {first two octets: [Signature]}, the strongest first; one octet: those that say nothing
            of the second.  In the place of a long list there is a dict, see split()
    begun   first octets of those that are longer
    words   {first word: {port: [Protocol], None: [those that have it on every port]}}
    parts   what these words begin with
    runs    [(at, {octet: [Signature]})] of those that say nothing of the first octet: where their
            first fixed run stands; b'' for data too short to reach it
    lasts   {port: [Signature]} of those that say nothing at all
    texts   ports of those that are content with one octet
    entries [(when it is asked, Signature)], words among them; spans: {(at, end): Span}
    """

    def __init__(self, protocols):
        entries = sorted((make_signature(octets, each)
                          for each in protocols for octets in map(signature_octets, each.sigs)),
                         key=strength)
        fronts = [entry for entry in entries if entry.runs and not entry.runs[0][0]]
        self.begun = frozenset(entry.runs[0][1][:1] for entry in fronts if entry.least > 1)
        heads = collections.defaultdict(list)
        for entry in fronts:
            heads[entry.runs[0][1][:2]].append(entry)
        self.lists = {key: with_rivals(sorted(here + heads.get(key[:1], []), key=strength)
                                       if key[1:] else here) for key, here in heads.items()}
        for key, long in self.lists.items():
            if len(long) > LIST_MAX:
                self.lists[key] = self.split(long)
        self.runs = self.make_runs([entry for entry in entries
                                    if entry.runs and entry.runs[0][0]])
        self.lasts, self.words = {}, {}
        for entry in entries:
            for port in () if entry.runs else entry.each.ports:
                self.lasts.setdefault(port, []).append(entry)
        self.texts = frozenset(port for port, each in self.lasts.items()
                               if any(entry.least == 1 for entry in each))
        for each in protocols:
            for word in each.words + each.shared:
                rows = self.words.setdefault(word, {})
                for port in (*each.ports, None) if word in each.words else each.ports:
                    rows.setdefault(port, []).append(each)
        self.parts = frozenset(word[:end] for word in self.words for end in range(len(word) + 1))
        self.entries = [(asking_order(entry), entry) for entry in entries]
        self.entries += [(WORD_ORDER, make_word(word, each)) for each in protocols
                         for word in each.words + each.shared]
        self.spans = {}

    def span(self, at, end):
        """-> the Span there."""
        if (at, end) not in self.spans:
            self.spans[at, end] = Span(self.entries, at, end)
        return self.spans[at, end]

    @staticmethod
    def split(entries):
        """A long list -> {the octet at SPLIT_AT: [Signature]}; b'' for data too short for it.

        None is for octets that no signature has there.  Most of what begins with a length of 4
        octets shares its zeros, and differs behind it: 9 us become 3 for SMB.
        """
        pairs = [(entry, octet_at(entry, SPLIT_AT)) for entry in entries]
        table = {octet: with_rivals(entry for entry, there in pairs if there in (b'', octet))
                 for _, octet in pairs}
        table[None] = with_rivals(entry for entry, there in pairs if not there)
        table[b''] = entries
        return table

    def places(self):
        """Each list that find() looks through."""
        for each in self.lists.values():
            yield from [each] if isinstance(each, list) else [
                entries for octet, entries in each.items() if octet != b'']
        yield from self.lasts.values()
        for _, table in self.runs:
            yield from table.values()

    @staticmethod
    def make_runs(entries):
        """Entries whose first octet is not fixed -> runs."""
        runs = []
        for at in sorted({entry.runs[0][0] for entry in entries}):
            here = [entry for entry in entries if entry.runs[0][0] == at]
            keys = {entry.runs[0][1][:1] for entry in here} | {b''}
            runs.append((at, {key: with_rivals(entry for entry in here
                                               if entry.runs[0][1].startswith(key))
                              for key in keys}))
        return runs


# When find() asks: (kind, first fixed octet, the strongest first)
FRONT_ORDER, WORD_ORDER, RUN_ORDER, LAST_ORDER = (0,), (1,), (2,), (3,)


def asking_order(entry) -> tuple:
    """A Signature -> when find() asks it: the smaller, the earlier."""
    if not entry.runs:
        return LAST_ORDER
    at = entry.runs[0][0]
    return (RUN_ORDER if at else FRONT_ORDER) + (at, -certainty(entry))


def make_word(word, each) -> Signature:
    """A first word, in any case -> the Signature that fits wherever it may be found."""
    mask = bytes(0xdf if octet in range(0x41, 0x5b) else 0xff for octet in word)
    return Signature(len(word), len(word), [(0, word)], from_octets(mask, 'big'),
                     from_octets(word, 'big'), each, ())


class Span:
    """A place in messages where anything may stand: which signatures fit what is around it?

    width   octets of the longest signature
    table   {octet behind it: [(order, octets, mask and value around it, of `width` octets, mask
            and value within it, Protocol)]}; None: for an octet that no signature has
    """

    def __init__(self, entries, at, end):
        self.at, self.end = at, end
        self.width = max([end] + [entry.least for _, entry in entries])
        rows = [(octet_at(entry, end), self.make_row(order, entry))
                for order, entry in entries if order != LAST_ORDER]     # who takes what is left
        self.table = {octet or None: [row for there, row in rows if there in (b'', octet)]
                      for octet in {b''}.union([octet for octet, _ in rows])}

    def make_row(self, order, entry):
        """A Signature and when it is asked -> a row of the table."""
        shift, behind = 8 * (self.width - entry.least), 8 * (self.width - self.end)
        mask, value = entry.mask << shift, entry.value << shift
        inside = ((1 << 8 * (self.end - self.at)) - 1) << behind
        return (order, entry.least, mask & ~inside, value & ~inside, (mask & inside) >> behind,
                (value & inside) >> behind, entry.each)

    def rivals(self, data, wait, found) -> 'tuple[tuple[int, frozenset], ...] | None':
        """A message of a Protocol -> what would make it another's, standing here.

        wait    whether a longer signature is waited for
        returns ((mask, values), ...) of what stands here; None: it may be another's anyway
        """
        size = len(data)
        octets = from_octets(data[:self.width].ljust(self.width, b'\0'), 'big')
        known = -1 << 8 * max(self.width - size, 0)
        rows = [row for row in self.table.get(data[self.end:self.end + 1]) or self.table[None]
                if (octets ^ row[3]) & row[2] & known == 0 and (wait or row[1] <= size)]
        certain = min((order for order, _, _, _, mask, _, each in rows
                       if each is found and not mask), default=None)
        if certain is None:
            return None
        others = collections.defaultdict(set)
        for order, _, _, _, mask, value, each in rows:
            if order <= certain and each is not found:
                others[mask].add(value)
        return None if 0 in others else tuple(
            (mask, frozenset(values)) for mask, values in others.items())


def octet_at(entry, at) -> bytes:
    """A Signature -> the octet that it has there; b'': any."""
    for start, octets in entry.runs:
        if start <= at < start + len(octets):
            return octets[at - start:at - start + 1]
    return b''


def certainty(entry) -> int:
    """A Signature -> how much it proves: its fixed octets; one without open ones beats all others.

    Otherwise PostgreSQL's 8 octets would wait for those of an ONC RPC call whose id they might be.
    """
    whole = entry.fixed == entry.least >= LITERAL_MIN
    return entry.fixed + (SIGNATURE_MAX if whole else 0)


def strength(entry) -> tuple:
    """A Signature -> its place in a list: the strongest first."""
    return -certainty(entry), entry.each.name


def with_rivals(entries) -> 'list[Signature]':
    """Entries that stand side by side -> the same, each knowing those as strong as itself."""
    entries = list(entries)
    return [entry._replace(rivals=[other for other in entries if other.fixed == entry.fixed
                                   and other.each is not entry.each])
            for entry in entries]


class Registry:
    """The protocols that are switched on, and which of them is meant.

    index       {transport: Index}
    owners      {(transport, port): names of its protocols} under the strict policy, where such a
                port speaks nothing else; empty otherwise
    greeters    {port: Protocol that speaks first}
    """

    def __init__(self, protocols, strict=False):
        protocols = list(protocols)
        self.index = {transport: Index([each for each in protocols if transport in each.over])
                      for transport in BOTH}
        self.owners, self.greeters = {}, {}
        for each in protocols:
            for port in each.ports:
                for transport in each.over if strict and not each.everywhere else ():
                    self.owners.setdefault((transport, port), set()).add(each.name)
                if each.banner:
                    self.greeters.setdefault(port, each)
        for names in self.owners.values():
            names.update(each.name for each in protocols if each.everywhere)

    def find(self, data, peer, final=False):
        """What a conversation begins with -> its Protocol; MORE: too short to tell; or None.

        The strongest signature that still fits decides, so that the verdict is the same
        however the octets were cut.  final: no more will come, so only what is whole counts.
        Those that begin with any octets are asked last; all of them have a NUL early, so that a
        line is not one of theirs on a port that takes any.  2 us, however many protocols there
        are.
        """
        index = self.index[peer.transport]
        wait = peer.transport == TCP and not final
        allowed = self.owners.get((peer.transport, peer.dport)) if self.owners else None
        if wait and len(data) == 1 and data in index.begun:
            return MORE
        entries = index.lists.get(data[:2]) or index.lists.get(data[:1])
        if type(entries) is dict:
            entries = entries.get(data[SPLIT_AT:SPLIT_AT + 1]) or entries[None]
        found = first_fit(entries, data, peer, wait, allowed) if entries else None
        if found is None and index.words and data[:1].isalpha():
            found = self.find_word(index, data, peer, wait, allowed)
        if found is not None:
            return found
        is_text = peer.dport in index.texts and is_line(data)
        for at, table in () if is_text else index.runs:
            entries = table.get(data[at:at + 1])
            found = first_fit(entries, data, peer, wait, allowed) if entries else None
            if found is not None:
                return found
        entries = index.lasts.get(peer.dport)
        return first_fit(entries, data, peer, wait, allowed) if entries else None

    @staticmethod
    def find_word(index, data, peer, wait, allowed):
        """The same for the first word of a text: the port's owner, or who has it everywhere."""
        match = FIRST_WORD.match(data)
        if not match:
            return None
        word = match.group().upper()
        if wait and match.end() == len(data):
            return MORE if word in index.parts else None
        rows = index.words.get(word)
        for port in (peer.dport, None) if rows else ():
            for each in rows.get(port, ()):
                if allowed and each.name not in allowed:
                    continue
                if each.check is None or each.check(data, peer):
                    return each
        return None


def is_line(data):
    """The first line is whole, and has no NUL."""
    end = data.find(b'\n')
    return end >= 0 and b'\0' not in data[:end]


def first_fit(entries, data, peer, wait, allowed):
    """Entries, the strongest first -> Protocol of the first that fits; MORE; or None.

    wait    one that is longer than the data, and fits so far, is waited for
    allowed names of the only protocols that may be; None: all
    """
    size = len(data)
    for _, least, runs, mask, value, each, rivals in entries:
        if size < least:
            if wait and begins_like(data, runs) and not (allowed and each.name not in allowed):
                return MORE
        elif from_octets(data[:least], 'big') & mask == value:
            if allowed and each.name not in allowed:
                continue
            if each.check is None or each.check(data, peer):
                if rivals and peer.dport not in each.ports:
                    nearer = [entry for entry in rivals if peer.dport in entry.each.ports]
                    return first_fit(nearer, data, peer, False, allowed) or each
                return each
    return None


def begins_like(data, runs) -> bool:
    """Whether data that is too short for a signature fits it so far."""
    for at, octets in runs:
        if not octets.startswith(data[at:at + len(octets)]):
            return False
    return True


# ---- user files ----

def load_protocols(path: str):
    """Run a user's file, which registers protocols.

    `import masscanned` in it gives this running program, whatever the program's file is called.
    """
    sys.modules.setdefault('masscanned', sys.modules[__name__])
    before = len(PROTOCOLS)
    family(os.path.basename(path))
    try:
        with open(path, 'rb') as file:
            source = file.read()
        space = {'__name__': os.path.splitext(os.path.basename(path))[0], '__file__': path}
        exec(compile(source, path, 'exec'), space)
    except OSError as error:
        raise UserError('--load: %r: %s' % (path, why(error))) from None
    except SyntaxError as error:
        raise UserError('--load: %r: line %s: %s' % (path, error.lineno, error.msg)) from None
    except AssertionError as error:         # of protocol(): the only one that names a protocol
        raise UserError('--load: %r: %s is the name of a protocol already'
                        % (path, error)) from None
    except (Exception, SystemExit, KeyboardInterrupt) as error:     # all the user's to mend
        raise UserError('--load: %r: %s: %s' % (path, type(error).__name__, error)) from None
    if len(PROTOCOLS) == before:
        raise UserError('--load: %r: registers no protocol' % path)


# ---- conversations ----

class Host:
    """What a machine would keep to itself, random for each process, and what it talks.

    random      random(n) -> n octets
    guid        16 octets
    name        NetBIOS name, 15 characters
    boot        Unix time of the start
    registry    the Registry
    original    whether to do as the original does, where its tests look
    tls         the Tls of section 8; None: it is not spoken
    http_401    whether every request over HTTP is answered by 401, as the original does
    events      [Event] noted since they were last taken; None: nobody listens
    shared      {protocol: what all its conversations share, with what it has to count in .counts}
    keep        octets to remember of what each client says; None: no conversation is recorded
    secretive   events have no passwords, but what hide_secrets() makes of them
    persona     the Persona; server: its Server of HTTP, octets
    """
    __slots__ = ('random', 'guid', 'name', 'boot', 'registry', 'original', 'http_401', 'tls',
                 'events', 'shared', 'keep', 'secretive', 'persona', 'server')
    # what is the same for every visitor, at all times: an answer made of it may be given again
    LASTING = frozenset(('guid', 'name', 'boot', 'registry', 'original', 'http_401',
                         'tls', 'keep', 'secretive', 'persona', 'server'))

    def __init__(self, random=os.urandom, boot=0.0, protocols=None, strict=False, original=False,
                 http_401=False):
        self.random, self.boot, self.original = random, boot, original
        self.http_401 = http_401 or original
        self.events = self.tls = None
        self.shared = {}
        self.keep, self.secretive = None, False
        self.wear(parse_persona('', ''), random)
        self.registry = Registry(PROTOCOLS.values() if protocols is None else protocols, strict)

    def wear(self, persona, random):
        """Be a Persona: the guid and the letters of the name are drawn."""
        self.guid, self.persona = random(16), persona
        begin, count = persona.name
        self.name = begin.upper() + ''.join(['ABCDEFGHIJKLMNOPQRSTUVWXYZ012345'[octet & 31]
                                             for octet in random(count)])
        self.server = persona.server.replace(b'{name}', self.host_name)

    @property
    def uuid(self) -> bytes:
        """The guid as text (RFC 9562 s4)."""
        text = self.guid.hex()
        return '-'.join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])).encode()

    @property
    def host_name(self) -> bytes:
        """What greetings of text call us."""
        return self.name.lower().encode()

    def share(self, name, make):
        """What the conversations of a protocol share; make(random) makes it, if need be."""
        if name not in self.shared:
            self.shared[name] = make(self.random)
        return self.shared[name]


# What an answerer noted, for whoever listens.  `peer` may go on to change: what an event says of
# itself stands in `fields`, by name; 'protocol' is the name of what was spoken then.
Event = collections.namedtuple('Event', 'kind peer fields')

RECORD_COST = 400           # octets of a Record beside its payload


class Record:
    """What is remembered of a conversation until it is over.

    flow        addresses and ports, the client's first, octets; proto: TCP or UDP
    start, last Unix times of its first and last frame
    most        octets kept of the payload
    payload     the first that the client said; length: how many it said in all
    inner       the payload is what was said inside of TLS
    came, went  [frames, octets] of the client, and of ours
    flags       [of the client's segments, of ours], all together
    spoken      names of the protocols, in order
    noted       those of which an answerer noted more than an answer
    secret      a password was offered
    greeted     we spoke first
    head        text of what all its events have in common; '': not needed yet
    vlan        tags; syn: the frame with which the client began, or one of his before, octets
    challenge   of a login, ours, the last one; octets
    over        it has ended, though not all of its events were handed on
    """
    __slots__ = ('flow', 'proto', 'start', 'last', 'most', 'payload', 'length', 'inner', 'came',
                 'went', 'flags', 'spoken', 'noted', 'secret', 'greeted', 'head', 'vlan', 'syn',
                 'challenge', 'over')

    def __init__(self, flow, proto, now, most):
        self.flow, self.proto = flow, proto
        self.start = self.last = now
        self.most, self.payload, self.length = most, b'', 0
        self.inner = self.secret = self.greeted = self.over = False
        self.came, self.went, self.flags = [0, 0], [0, 0], [0, 0]
        self.spoken, self.noted = [], set()
        self.head, self.challenge = '', b''
        self.vlan, self.syn = (), None

    def hear(self, octets):
        """The client says something."""
        self.length += len(octets)
        room = self.most - len(self.payload)
        if room > 0:
            self.payload += octets[:room]

    def go_inside(self):
        """From here on what is said inside of TLS counts, and nothing else."""
        if not self.inner:
            self.inner, self.payload, self.length = True, b'', 0

    def cost(self) -> int:
        """Octets of it."""
        return RECORD_COST + len(self.payload)


SECRET_FIELDS = 'password', 'hash', 'digest'
SECRET_HEADERS = re.compile(br'^((?:proxy-)?authorization|cookie)(:[ \t]*)[^\r\n]*', re.I | re.M)
SECRET_WORDS = re.compile(br'((?:auth|pass|secret|token)\S{0,32}[\s=:]{1,4})\S+', re.I)


def hide_secrets(event) -> Event:
    """An Event -> the same with a SHA-256 in place of passwords and hashes: --no-secrets.

    What may have them without being named so is left out: octets, bodies, some headers, and in
    commands the word after `password` and its like.
    """
    fields = dict(event.fields)
    for name in SECRET_FIELDS if event.kind == 'credentials' else ():
        if fields.get(name):
            value = fields[name]
            octets = value if isinstance(value, bytes) else str(value).encode(errors='replace')
            fields[name] = hashlib.sha256(octets).hexdigest()
    for name in 'data', 'body':
        if name in fields:
            fields[name] = b''
    if 'head' in fields:
        fields['head'] = SECRET_HEADERS.sub(br'\1\2-', fields['head'])
    if isinstance(fields.get('words'), bytes):
        fields['words'] = SECRET_WORDS.sub(br'\1-', fields['words'])
    return event._replace(fields=fields)


class Peer:
    """Whom an answerer talks to.

    transport       TCP or UDP
    src, dst        addresses of the client and ours, 4 or 16 octets
    sport, dport    their ports
    now             Unix time of the frame, float
    host            the Host we are
    protocol        what the conversation turned out to be; None until then
    state           the answerer's own; None at first
    hurried         the client has been silent for QUIET_S, or will send no more
    greeter         the Protocol that spoke first: it takes what nobody else claims; else None
    to_group        the datagram went to many: a broadcast or multicast address
    """
    __slots__ = ('transport', 'src', 'dst', 'sport', 'dport', 'now', 'host', 'protocol', 'state',
                 'hurried', 'greeter', 'to_group')
    before = ''
    record = secure = None
    # what a conversation begins with; all else may differ from one visitor to the next
    FRESH = frozenset(('transport', 'host', 'protocol', 'state', 'hurried', 'greeter',
                       'to_group', 'secure'))

    def __init__(self, transport, src, dst, sport, dport, now, host):
        self.transport = transport
        self.src, self.dst = src, dst
        self.sport, self.dport = sport, dport
        self.now, self.host = now, host
        self.protocol = self.state = self.greeter = None
        self.hurried = self.to_group = False

    @property
    def offers_tls(self) -> bool:
        """Whether the conversation may go on inside of TLS, and does not yet."""
        return self.host.tls is not None and self.secure is None

    def note(self, kind, **fields):
        """Tell whoever listens of a request, a name, a password: 0.1 us where nobody does.

        fields  octets, texts or numbers, by name
        """
        if self.host.events is not None:
            if 'protocol' not in fields:
                fields['protocol'] = self.protocol.name if self.protocol else self.before
            self.host.events.append(Event(kind, self, fields))

    @property
    def spoken(self) -> str:
        """Name of the protocol; '': none yet."""
        return self.protocol.name if self.protocol else self.before

    @property
    def second(self) -> int:
        """Unix time in whole seconds.  Who needs no more should read no more: see Store."""
        return int(self.now)


def answer_datagram(peer, data) -> 'tuple[bytes, int | None]':
    """A datagram -> octets to answer with, our port to answer from (None: the one asked)."""
    each = peer.protocol = peer.host.registry.find(data, peer) if data else None
    if not each:
        return b'', None
    try:
        given = each.answer(data, peer)
    except Malformed:
        return b'', None
    if isinstance(given, Reply):
        return given.out, given.port
    return given or b'', None


def kept_by(state) -> int:
    """An answerer's state -> octets that it keeps."""
    if not state or isinstance(state, (int, float)):
        return 0
    if isinstance(state, (bytes, str)):
        return len(state)
    if isinstance(state, (tuple, list)):
        return sum(map(kept_by, state))
    return state.cost()


class Stream(Peer):
    """One conversation over TCP, fed with what the client says.

    kept        octets no answer has used yet; while fed, those before `at` are
    skip        octets still to pass by unkept
    deaf        nothing is parsed any more
    closing     our side is done
    stalled     a limit ended the last feed: there may be more to answer
    before      name of the protocol that handed the conversation back; '': none did
    record      its Record; None: nobody wants one
    waits       Reply.wait of the last answer: whoever feeds us calls resume() then; None: none
    limit       Reply.limit that whoever feeds us has not seen yet; None: none
    resumed     the answerer is called whatever has come
    secure      the Session inside of which all is said; None: no TLS
    """
    __slots__ = ('kept', 'at', 'skip', 'deaf', 'closing', 'stalled', 'before', 'record', 'waits',
                 'limit', 'resumed', 'secure')

    def __init__(self, src, dst, sport, dport, now, host):
        Peer.__init__(self, TCP, src, dst, sport, dport, now, host)
        self.kept, self.at, self.skip = b'', 0, 0
        self.deaf = self.closing = self.stalled = self.resumed = False
        self.before, self.record = '', None
        self.waits = self.limit = self.secure = None

    def cost(self) -> int:
        """Octets that the conversation keeps, the answerer's state and TLS included."""
        size = len(self.kept) + (kept_by(self.state) if self.state else 0)
        return size + self.secure.cost() if self.secure else size

    def feed(self, octets: bytes) -> bytes:
        """Octets of the client, in order -> octets to answer."""
        if self.secure:
            return self.secure.feed(octets)
        out = self.hear(octets)
        if self.secure:                         # TLS begins with what is left
            octets, self.kept = self.kept, b''
            out += self.secure.feed(octets)
        return out

    def hear(self, octets: bytes) -> bytes:
        """What the client says -> what we answer, both without TLS."""
        inside = self.secure
        if self.record and octets:
            self.record.hear(octets)
        self.kept += octets
        self.at = size = 0
        answers = []
        while size < OUT_MAX and len(answers) < STEPS_MAX:
            answer = self.step()
            if answer is None:
                break
            answers.append(answer)
            size += len(answer)
            if self.at >= len(self.kept) and not self.skip or self.secure is not inside:
                break
        self.stalled = size >= OUT_MAX or self.at < len(self.kept) and len(answers) >= STEPS_MAX
        self.kept = self.kept[self.at:]
        if len(self.kept) > KEPT_MAX and not self.stalled and self.waits is None:
            self.turn_deaf()
        return b''.join(answers)

    def greet(self, greeter) -> bytes:
        """A Protocol that speaks first -> what it says."""
        self.greeter = greeter
        given = greeter.banner(self) if callable(greeter.banner) else greeter.banner
        if isinstance(given, tuple):
            given, self.closing = given
            self.turn_deaf()
        return self.secure.seal(given) if self.secure else given

    def farewell(self) -> bytes:
        """Our side is done -> the last octets before its FIN."""
        out = self.secure.end() if self.secure else b''
        self.closing, self.stalled = True, False
        self.turn_deaf()
        return out

    def hurry(self) -> bytes:
        """No more comes for now: the strongest whole signature decides, a line needs no end."""
        self.hurried = True
        out = self.feed(b'')
        self.hurried = False
        return out

    def resume(self) -> bytes:
        """What the answerer waited for is there -> octets to answer."""
        self.waits, self.resumed = None, True
        return self.feed(b'')

    def step(self):
        """One answer, may be b''; None: nothing more can be had of what is kept."""
        if self.deaf:
            return self.turn_deaf()
        if self.waits is not None:
            return None
        left = len(self.kept) - self.at
        if self.skip:
            passed = min(self.skip, left)
            self.at += passed
            self.skip -= passed
            if self.skip:
                return None
        elif not (left or self.resumed):
            return None
        self.resumed = False
        if not self.protocol and not self.choose():
            return None
        try:
            return self.take(*self.ask())
        except Malformed:
            return self.turn_deaf()

    def choose(self):
        """Which protocol is this? -> Protocol; None: not known yet, or nobody's."""
        found = self.host.registry.find(self.kept[self.at:], self, self.hurried)
        if found is None:
            found = self.greeter
            if not (found or self.hurried):
                self.turn_deaf()
        elif found and self.greeter and found is not self.greeter:
            self.state = None                   # what the greeter left there is another's
        self.protocol = found or None
        return self.protocol

    def ask(self):
        """-> (what the answerer returns, the octets it was given).

        It is given a part first, and more when it wants more: many small requests at once
        would cost a copy of all the rest each.
        """
        size = WINDOW
        while True:
            data = self.kept[self.at:self.at + size]
            given = self.protocol.answer(data, self)
            if given != MORE or self.at + size >= len(self.kept):
                return given, data
            size *= 4

    def take(self, given, data):
        """What an answerer returned -> octets to send; None: wait, or never mind."""
        if given is None:
            return self.turn_deaf()
        if isinstance(given, bytes):
            if given == MORE:
                return None
            given = Reply(given)
        out, used, skip, close, _, again, self.waits, limit, words, session = given
        if used is None:
            used = len(data)
        if limit is not None:
            self.limit = limit
        if not (used or out or skip or close or words is not None):
            return None                     # it took nothing and said nothing: as MORE
        self.at += used
        self.skip = skip
        if words is not None:
            greets = again and not self.greeter
            self.secure = self.host.tls.begin(self, words, greets, session)
        if again:
            self.before, self.protocol = self.protocol.name, None
            self.greeter = None if again is True else again
            if not self.greeter:                # who greeted has left what it needs
                self.state = None
        if close:
            self.closing = True
            self.turn_deaf()
        return out

    def turn_deaf(self):
        """Nothing is parsed from here on -> None."""
        self.deaf, self.state = True, None
        self.kept, self.at, self.skip = b'', 0, 0
        self.waits = None


# ==== 4 Stack =========================================================================
#
# Pure: what comes out depends on the frame, the state, self.now and self.host.random.

COOKIE_KEY = 32             # octets
COOKIE_PLAIN = 3, 20        # bits of a cookie that tell the step of the MSS, and that are no hash
COOKIE_SCALED = 5, 21       # the same where it tells the client's window scale, too
KEY_LIFE_S = 300            # a cookie is good for this long at least, twice at most
MSS_STEPS = (64, 256, 536, 1220, 1360, 1440, 1460, 8940)    # what 3 bits of a cookie stand for
MSS_STEP = b''.join(                    # MSS -> the largest step within it, or the smallest of all
    bytes((max(step, 0),)) * (end - first) for step, (first, end) in enumerate(
        zip((0,) + MSS_STEPS, MSS_STEPS + (65536,)), -1))
SCALES = 0, 0, 6, 8         # of a client's windows, as 2 bits of a cookie tell it; the first: none
SCALE_STEP = bytes((1,) * 6 + (2,) * 2 + (3,) * 248)    # scale -> the largest of these within it
SCALE_SACK = 2              # from this step on the client knows SACK
MSS_MAX = 65495
MSS_DEFAULT4, MSS_DEFAULT6 = 536, 1220      # RFC 9293 s3.7.1
CONNECTIONS_MAX = 65536
IDLE_S = 300
HELD_MAX = 1 << 25          # octets kept for all connections together
GREET_S = 0.2               # who speaks first does so within a round trip
QUIET_S = 1.0               # an unfinished request is taken for what it is
REPEAT_S = (1.0, 2.0, 4.0)  # what is not acknowledged is sent again; then RST
DUE_MAX = 512               # of one wait, in a turn
QUEUED = float('inf')       # when an answerer is called again: nobody knows, but it will be
FAREWELL_RATE = 1000        # ends of connections sent a second
REFUSALS = 16, 8, 1000      # RSTs to one network at once and a second, to all a second
UNREACHABLES = 6, 1, 1000   # ICMP errors to a client at once and a second, to all: as Linux does
REPEATED_ACKS = 3           # of one number: what follows it was lost
CHALLENGE_RATE = 100        # ACKs a second to what may be forged
WINDOW_MAX = 0xffff
ROOM = 1 << 18              # octets we take where windows are scaled, once the handshake is over
AHEAD_OCTETS = ROOM         # octets kept of a connection that came beyond a gap
AHEAD_BLOCKS, AHEAD_COST = 32, 200      # blocks of them, what one takes beside its octets
CROWD_MAX = 64              # clients of one network that have said nothing
PREFIXES_MAX = 65536        # UDP source prefixes remembered
FAULTS_KEPT = 8
BARE_FLAGS = FLAGS & ~FIN   # of which ACK alone is there in an ACK or a FIN
ENTER_EACH = 16             # of unknown messages, one: what is asked once costs next to nothing
STORED_MAX = 1500           # octets of a message whose answer is kept
STORED_OCTETS = 1 << 22     # of all answers; a full store is emptied
STORE_HEAD = 8              # octets of a message in which an id may stand
KEPT_COST = 1152            # octets that an answer takes which is kept, beside its own
STORED_COUNT = STORED_OCTETS // KEPT_COST


# ---- cookies ----

class Cookies:
    """Sequence numbers that prove, when acknowledged, that the client heard us.

    A cookie is a keyed hash of addresses and ports, to whose lower 20 bits 8 times the client's
    initial sequence number is added, its lowest 3 bits mixed with the step of his MSS.  So it
    shows, without state, where in the client's stream a segment stands.  Keys are derived from
    one secret and the time, so workers share them.  Where windows are scaled, 2 bits more are
    for the client's scale: they are taken from the hash and from the place.

    secret  for the life of the process
    epoch   now // KEY_LIFE_S of `key`; `before` is the key of the one before
    bits    that tell what the client offered; offers: the mask of them
    place   mask of what is added to; hash: of what is not
    """
    __slots__ = 'secret', 'epoch', 'key', 'before', 'bits', 'offers', 'place', 'hash'

    def __init__(self, random, layout=COOKIE_PLAIN):
        self.secret, self.epoch = random(COOKIE_KEY), None
        self.key = self.before = b''
        self.bits, low = layout
        self.offers, self.place = (1 << self.bits) - 1, (1 << low) - 1
        self.hash = MASK32 ^ self.place

    def tick(self, now):
        """Rotate the keys when it is time."""
        epoch = int(now // KEY_LIFE_S)
        if epoch != self.epoch:
            self.epoch = epoch
            self.key, self.before = (self.derive(number) for number in (epoch, epoch - 1))

    def derive(self, epoch):
        return hashlib.blake2s(struct.pack('!q', epoch), key=self.secret).digest()

    def make(self, flow, offer, initial):
        """Addresses and ports, what the client offers, his number -> (our initial one, draw).

        offer   step of the MSS, and of the window scale 8 times what SCALE_STEP says
        draw    the other half of the hash, for Face.offset()
        """
        known = flow_hash(self.key + flow)
        return (known & self.hash | known + (initial << self.bits) & self.place ^ offer,
                known >> 32)

    def read(self, flow, seq, ack):
        """Numbers of a segment -> (offer, octets of it beyond the client's first, draw).

        -1 octets: before it; draw: as of make().  None: no cookie of ours, or too far away.
        """
        cookie, bits, place = ack - 1 & MASK32, self.bits, self.place
        for key in (self.key, self.before):
            known = flow_hash(key + flow)
            if not (cookie ^ known) & self.hash:
                offer = (cookie ^ known) & self.offers
                initial = ((cookie ^ offer) - known & place) >> bits
                beyond = seq - initial & place >> bits          # 0 is the SYN's own number
                if beyond <= WINDOW_MAX + 1:
                    return offer, beyond - 1, known >> 32
        return None


def hash_slowly(octets: bytes) -> int:
    """Secret key and flow -> 64 bits, signed as those of hash()."""
    return int.from_bytes(hashlib.blake2s(octets).digest()[:8], 'big', signed=True)


# The interpreter's own hash of octets is SipHash (PEP 456), a keyed function made for such use,
# 50 ns instead of 270; our key in front makes it ours even where PYTHONHASHSEED is known.
IS_SIPHASH = sys.hash_info.algorithm.startswith('siphash') and sys.hash_info.width == 64
flow_hash = hash if IS_SIPHASH else hash_slowly


# ---- timers ----

class Timers:
    """What is looked after when: a first-in first-out list for each wait, as waits are few.

    lists   {wait in seconds: deque of (Unix time when due, flow)}
    """

    def __init__(self):
        self.lists = collections.defaultdict(collections.deque)

    def add(self, wait_s, flow, now) -> float:
        """-> when it will be due; nothing is taken back: who wakes compares it."""
        due = now + wait_s
        self.lists[wait_s].append((due, flow))
        return due

    def next_due(self) -> 'float | None':
        """When the next is due; None: there is none."""
        return min((waiting[0][0] for waiting in self.lists.values() if waiting), default=None)

    def shift(self, step):
        """The clock was set."""
        for waiting in self.lists.values():
            moved = [(due + step, flow) for due, flow in waiting]
            waiting.clear()
            waiting.extend(moved)

    def pop_due(self, now) -> 'list[tuple[float, bytes]]':
        """Those that are due, at most DUE_MAX of a wait."""
        found = []
        for waiting in self.lists.values():
            count = 0
            while waiting and waiting[0][0] <= now and count < DUE_MAX:
                found.append(waiting.popleft())
                count += 1
        return found


# ---- connections ----

class Ahead:
    """What came beyond a gap, until that is filled.

    blocks  [(number of the first octet, octets)], of which no two touch; what grew last is first,
            as RFC 2018 s4 wants them in an ACK
    size    octets of all
    """
    __slots__ = 'blocks', 'size'

    def __init__(self):
        self.blocks, self.size = [], 0

    def cost(self):
        """Octets that this takes."""
        return self.size + AHEAD_COST * len(self.blocks)

    def add(self, rcv, seq, data):
        """Octets at a number beyond the one expected; what is too much will come again."""
        start = seq - rcv & MASK32
        end = start + len(data)
        near, others = [(start, data)], []
        for first, octets in self.blocks:
            at = first - rcv & MASK32
            if at <= end and start <= at + len(octets):
                near.append((at, octets))
            else:
                others.append((first, octets))
        first = min([at for at, _ in near])
        size = max([at + len(octets) for at, octets in near]) - first
        grown = self.size + size - sum([len(octets) for _, octets in near[1:]])
        if grown > AHEAD_OCTETS or len(others) >= AHEAD_BLOCKS:
            return
        block = near[1][1] if len(near) == 2 and near[1][0] == first else bytearray()
        block += bytes(size - len(block))
        for at, octets in near:
            if octets is not block:
                block[at - first:at - first + len(octets)] = octets
        self.blocks, self.size = [(rcv + first & MASK32, block)] + others, grown

    def take(self, rcv):
        """-> octets that follow the number expected now; what is before it is forgotten."""
        found, left = b'', []
        for first, octets in self.blocks:
            known = rcv - first & MASK32
            if known >> 31:
                left.append((first, octets))
            else:
                found += octets[known:]
        self.blocks, self.size = left, sum([len(octets) for _, octets in left])
        return found

    def option(self, most):
        """-> the option of TCP that lists so many blocks (RFC 2018 s3)."""
        edges = [edge for first, octets in self.blocks[:most]
                 for edge in (first, first + len(octets) & MASK32)]
        return struct.pack('!BBBB%dI' % len(edges), TCP_OPTION_NOP, TCP_OPTION_NOP,
                           TCP_OPTION_SACKS, 2 + 4 * len(edges), *edges)


class Conn(Stream):
    """A connection whose client has proved itself.

    head        of the frames to it: MACs, VLAN tags, EtherType
    rcv         sequence number expected next
    ahead       Ahead of it; None: nothing
    una         ours, the oldest not acknowledged
    unacked     octets from una on: the first `sent` of them were sent, the others wait
    sent        for room in the client's window
    window      how much of them it takes
    repeats     how often it has acknowledged una once more
    fin         of ours: 0 not sent, 1 sent, 2 acknowledged
    ended       the client's FIN has come
    mss         octets of data a segment takes
    seen        when it last sent something valid, Unix time
    held        octets it was last counted with
    wake        when it is looked after, Unix time; None: it need not be
    moved       something was sent or acknowledged since `wake` was set
    tries       how often what is not acknowledged was sent again
    resumes     when the answerer is called again, Unix time; QUEUED: at its turn; None: never
    deadline    when the conversation ends, Unix time; None: it may go on
    terms       Terms of the handshake
    recent      the client's timestamp that is echoed (RFC 7323 s4.3); None: it sends none
    offset      what ours are ahead, as of Face.offset()
    """
    __slots__ = ('head', 'rcv', 'una', 'unacked', 'sent', 'window', 'repeats', 'fin', 'ended',
                 'mss', 'seen', 'held', 'wake', 'moved', 'tries', 'resumes', 'deadline', 'terms',
                 'recent', 'offset', 'ahead')

    def __init__(self, src, dst, sport, dport, now, host, head, rcv, una, mss):
        Stream.__init__(self, src, dst, sport, dport, now, host)
        self.head, self.mss, self.seen = head, mss, now
        self.rcv, self.una = rcv, una
        self.unacked, self.fin, self.ended = b'', 0, False
        self.sent = self.repeats = self.held = self.tries = 0
        self.window = 0
        self.wake, self.moved = None, False
        self.resumes = self.deadline = self.recent = self.ahead = None
        self.offset = 0

    def cost(self):
        """As Stream.cost(), and what is kept to be sent again."""
        size = len(self.kept) + len(self.unacked)
        if self.secure:
            size += self.secure.cost()
        if self.record:
            size += self.record.cost()
        if self.ahead:
            size += self.ahead.cost()
        return size + kept_by(self.state) if self.state else size

    def end_record(self, end):
        """The conversation is over, and why: fin, rst, idle, evicted or shutdown."""
        if self.record and not self.record.over:
            self.note('flow', record=self.record, end=end)
            self.record.over = True

    def outstanding(self):
        """Octets of sequence space sent and not acknowledged."""
        return self.sent + (self.fin == 1)

    def is_over(self):
        """Both sides have ended, and ours knows that it was heard."""
        return self.ended and self.fin == 2

    def acknowledge(self, ack, window, bare):
        """Take an acknowledgement number and a window -> whether they may be of this connection.

        bare    the segment has nothing else, and no number but the one expected
        source  RFC 9293 s3.10.7.4, RFC 5961 s5, RFC 5681 s2
        """
        acked = ack - self.una & MASK32
        if acked > self.sent + (self.fin == 1):
            return -acked & MASK32 <= WINDOW_MAX        # an old one says nothing
        if acked:
            if acked > self.sent:
                self.fin = 2
            self.unacked = self.unacked[acked:]
            self.sent -= min(acked, self.sent)
            self.una = ack
            self.moved = True
            self.tries = self.repeats = 0
        elif bare and window == self.window and self.sent:
            self.repeats += 1
        if not window:
            self.tries = 0                      # it is alive, and has no room
        elif not self.window and not self.fin:
            self.sent = 0                       # of a probe nothing is known
        self.window = window
        return True


class Waiting:
    """A completed handshake on a port where we speak first: the client may still do so.

    head, rcv, una, seen, wake, terms, recent, offset, mss      as of Conn
    agreed      as of Stack.make_conn()
    window      the client's, as he writes it
    """
    __slots__ = ('head', 'rcv', 'una', 'agreed', 'window', 'seen', 'wake', 'terms', 'recent',
                 'offset', 'mss')
    held, record = 0, None
    resumes = deadline = secure = None

    def __init__(self, head, rcv, una, window, seen, agreed):
        self.head, self.window, self.agreed = head, window, agreed
        self.rcv, self.una = rcv, una
        self.seen = seen
        self.wake = self.recent = None
        self.offset = self.mss = 0

    @staticmethod
    def outstanding():
        """As of Conn, like the next."""
        return 0

    @staticmethod
    def is_over():
        return False

    @staticmethod
    def end_record(end):
        return None


class Connections:
    """Conn, or Waiting, by flow (addresses and ports as octets), the longest unused first.

    maximum     how many at most
    silent      flows of those whose clients have said nothing: they are the first to go
    crowds      {network of a source: how many of it are silent}
    held        octets kept for all of them
    evicted     how many had to go before their time
    gone        the last of these, (flow, Conn), that nobody has heard of yet
    """

    def __init__(self, maximum=CONNECTIONS_MAX, idle_s=IDLE_S, held_max=HELD_MAX):
        self.maximum, self.idle_s, self.held_max = maximum, idle_s, held_max
        self.table, self.silent = collections.OrderedDict(), collections.OrderedDict()
        self.crowds = collections.Counter()
        self.gone = collections.deque(maxlen=FAREWELL_RATE)
        self.get = self.table.get
        self.held = self.evicted = 0

    def add(self, flow, conn):
        """A new connection, in the place of another if need be."""
        while len(self.table) >= self.maximum:
            self.evict()
        self.table[flow] = conn

    def add_silent(self, flow, waiting) -> bool:
        """Likewise, of who has said nothing; False: there are too many of its network."""
        network = source_network(flow)
        if self.crowds[network] >= CROWD_MAX:
            return False
        self.add(flow, waiting)
        self.silent[flow] = None
        self.crowds[network] += 1
        return True

    def has_spoken(self, flow):
        """It is one of the silent no more."""
        if flow in self.silent:
            del self.silent[flow]
            network = source_network(flow)
            self.crowds[network] -= 1
            if not self.crowds[network]:
                del self.crowds[network]

    def touch(self, flow, conn, now):
        """Something valid came, and what is kept may have changed."""
        conn.seen = now
        self.table.move_to_end(flow)
        held = conn.cost()
        if held != conn.held:
            self.held += held - conn.held
            conn.held = held
            while self.held > self.held_max:
                self.evict()

    def drop(self, flow, end='fin'):
        """Forget a connection, and why, as of Conn.end_record()."""
        conn = self.table.pop(flow, None)
        if conn:
            conn.end_record(end)
            self.held -= conn.held
            self.has_spoken(flow)
            if conn.secure:
                conn.secure.forget()

    def evict(self):
        flow = next(iter(self.silent or self.table))
        self.gone.append((flow, self.table[flow]))
        self.drop(flow, 'evicted')
        self.evicted += 1

    def next_idle(self):
        """When the longest unused has been idle for too long."""
        return next(iter(self.table.values())).seen + self.idle_s


def source_network(src: bytes) -> bytes:
    """Address, or flow, that begins with one of either family -> its /24 or /48."""
    return src[:3] if len(src) in (4, FLOW4.size) else src[:6]


# ---- budget ----

class Budget:
    """UDP answers: anybody can ask in anybody's name, so what goes to one network is bounded.

    A token bucket for each /24 or /48 and one for all.  While a bucket is empty it goes down to
    minus its size for answers no larger than the request, then it gives none.

    burst, rate     tokens a network has and gets a second
    total_rate      of all; the burst is as large
    prefixes        {network: [tokens, when]}, the longest unused first
    """

    def __init__(self, burst=64, rate=10, total_rate=20000):
        self.burst, self.rate, self.total_rate = burst, rate, total_rate
        self.total = [total_rate, 0.0]
        self.prefixes = collections.OrderedDict()

    def open(self, src, now):
        """Who asks -> its bucket, for take(); None: no answer of any size could go."""
        bucket = self.bucket(source_network(src), now)
        self.refill(self.total, self.total_rate, self.total_rate, now)
        self.refill(bucket, self.burst, self.rate, now)
        if bucket[0] < 1 - self.burst or self.total[0] < 1 - self.total_rate:
            return None
        return bucket

    def take(self, bucket, grows) -> bool:
        """Whether an answer may go, larger than the request if it grows; then it is charged."""
        if grows and (bucket[0] < 1 or self.total[0] < 1):
            return False
        bucket[0] -= 1
        self.total[0] -= 1
        return True

    def take_all(self, srcs, count, grows, now) -> bool:
        """Whether answers may go to all clients, as open() and take() say; then all are charged.

        srcs    their IPv4 addresses as numbers, so many; or one, which all of them have
        """
        least, total_least = (0, 0) if grows else (-self.burst, -self.total_rate)
        self.refill(self.total, self.total_rate, self.total_rate, now)
        if self.total[0] - count < total_least:
            return False
        wanted = collections.Counter([src >> 8 for src in srcs])
        each = count // len(srcs)
        buckets = [(self.bucket(prefix.to_bytes(3, 'big'), now), each * answers)
                   for prefix, answers in wanted.items()]
        for bucket, answers in buckets:
            self.refill(bucket, self.burst, self.rate, now)
            if bucket[0] - answers < least:
                return False
        for bucket, answers in buckets:
            bucket[0] -= answers
        self.total[0] -= count
        return True

    def bucket(self, prefix, now):
        bucket = self.prefixes.get(prefix)
        if bucket is None:
            if len(self.prefixes) >= PREFIXES_MAX:
                self.prefixes.popitem(last=False)
            bucket = self.prefixes[prefix] = [self.burst, now]
        else:
            self.prefixes.move_to_end(prefix)
        return bucket

    @staticmethod
    def refill(bucket, size, rate, now):
        bucket[0] = min(size, bucket[0] + max(0.0, now - bucket[1]) * rate)
        bucket[1] = now


class NoBudget:
    """--udp-budget off."""

    @staticmethod
    def open(src, now):
        return True

    @staticmethod
    def take(bucket, grows):
        return True

    @staticmethod
    def take_all(srcs, count, grows, now):
        return True


# ---- store ----

# What was answered to a message, to be answered again: by which Protocol, the answer (with an id:
# what stands before it and behind it); what it made of the Stream; our port to answer from, of a
# datagram; what was noted, [(kind, fields)]; ids that leave doubt, see Span; octets of all; where
# the id stands; whether the answer may depend on our address.
Kept = collections.namedtuple(
    'Kept', 'protocol head tail state deaf closing before port notes barred cost span by_dst')
# What a Stream may be after a whole message, and what no answer changes; all else is as at first.
STREAM_KEPT = frozenset(('src', 'dst', 'sport', 'dport', 'now', 'transport', 'host', 'protocol',
                         'state', 'at', 'deaf', 'closing', 'before', 'record'))
VARIES_BY = frozenset(('dst', 'dport', 'second', 'now'))    # what an answer that is kept may read


class Recorder:
    """Stands for the Host while an answer is made that may be kept: on what does it depend?

    host    the Host
    read    names of what was read, of Peer and Host, that is not the same for all at all times
    events  [Event] noted; afterwards, those of the Host
    """
    __slots__ = 'host', 'read', 'events'

    def __init__(self, host):
        self.host, self.read = host, set()

    def __getattr__(self, name):
        made = getattr(Host, name, None)
        if isinstance(made, property):          # then what it is made of counts
            return made.fget(self)
        if name not in Host.LASTING:
            self.read.add(name)
        return getattr(self.host, name)

    def call(self, peer, kind, function, *args):
        """function(*args), by which a Peer answers -> (what it returns, [Event]).

        kind    a class made by telling(): for as long it is the Peer's
        """
        usual, self.events = peer.__class__, []
        peer.__class__, peer.host = kind, self
        try:
            return function(*args), self.events
        finally:
            peer.__class__, peer.host = usual, self.host
            if self.host.events is not None:
                self.host.events += self.events
            del self.events                     # who has kept this Recorder for the Host goes on


def telling(base):
    """A class of Peers -> the same, but what is read of them their Recorder knows."""
    def make(name, read, write=None):
        def tell(self):
            self.host.read.add(name)
            return read(self)
        return property(tell, write)
    space = {'__slots__': (), 'second': make('second', lambda self: int(Peer.now.__get__(self)))}
    for name in set(Peer.__slots__ + base.__slots__) - Peer.FRESH:
        slot = getattr(base, name)
        space[name] = make(name, slot.__get__, slot.__set__)
    return type('Telling' + base.__name__, (base,), space)


TellingPeer, TellingConn = telling(Peer), telling(Conn)


def is_lasting(state) -> bool:
    """Whether an answerer's state is one that nobody can change."""
    if isinstance(state, tuple):
        return all(map(is_lasting, state))
    return state is None or isinstance(state, (bytes, str, int, float))


@functools.lru_cache(maxsize=STORED_COUNT)
def firsts_in_doubt(barred, shift) -> bytes:
    """Kept.barred and the bits behind the first octet of an id -> for each octet 1 if it may be.

    Nearly all ids show by it that they are nobody else's: 60 ns each instead of 300.
    """
    firsts = [(mask >> shift, {value >> shift for value in values}) for mask, values in barred]
    return bytes([any([octet & mask in values for mask, values in firsts])
                  for octet in range(256)])


def is_barred(octets, barred) -> bool:
    """The octets of an id and ((mask, values), ...) -> whether it is one of these."""
    number = from_octets(octets, 'big')
    for mask, values in barred:
        if number & mask in values:
            return True
    return False


class Answers:
    """Those to one message: by_dst, by_dport say whether they depend on our address and port.

    variants    {(our address, our port), where they matter: Kept}
    """
    __slots__ = 'by_dst', 'by_dport', 'variants'

    def __init__(self):
        self.by_dst = self.by_dport = False
        self.variants = {}


class Store:
    """Answers to whole first messages, for all who ask the same: a flood repeats itself.

    Of the messages that are not known, each ENTER_EACH-th is remarked; one that has been remarked
    before may enter.  It is found out whether it may be kept: it is answered by a Peer and a Host
    that remember what is read of them.  What depends on the client, on chance, or on
    anything unheard of, is not kept; what depends on our address or port is good for these; what
    depends on the time, for as long as it is the same.  A message with an id stands for those
    with other ids, but not for one that may be another protocol's.

    each        of so many unknown messages one is remarked
    seen        {hash of what follows the head of a message that was remarked}
    tables      {transport: {message from STORE_HEAD on: {(at, end) of the id: {the head without
                it: Answers}}}}
    moments     [(Answers, variant)] that depend on the time `now`; seconds: on whole seconds
    count, octets   of what is kept
    missed      messages that were not known
    """

    def __init__(self, each=ENTER_EACH):
        self.each, self.missed, self.now = each, 0, 0.0
        self.seen = set()
        self.clear()

    def clear(self):
        """Forget all."""
        self.tables = {transport: {} for transport in BOTH}
        self.moments, self.seconds = [], []
        self.count = self.octets = 0

    def tick(self, now):
        """Forget what depends on a time that is over."""
        if now != self.now:
            self.forget(self.moments)
            if int(now) != int(self.now):
                self.forget(self.seconds)
            self.now = now

    def forget(self, rows):
        """[(Answers, variant)] -> none of them is kept."""
        for answers, variant in rows:
            kept = answers.variants.pop(variant, None)
            if kept:
                self.count -= 1
                self.octets -= kept.cost
        rows.clear()

    def find(self, transport, data, dst, dport) -> 'tuple[Kept, bytes, bool] | None':
        """A message to an address and port of ours -> (Kept, the answer, doubt): 0.5 us.

        doubt   with its id it might be another protocol's: the registry has to say
        """
        shapes = self.tables[transport].get(data[STORE_HEAD:])
        if shapes is None:
            return None
        for (at, end), rows in shapes.items():
            answers = rows.get(data[:at] + data[end:STORE_HEAD])
            if answers is None:
                continue
            kept = answers.variants.get((answers.by_dst and dst, answers.by_dport and dport))
            if kept and not end:
                return kept, kept.head, False
            if kept:
                octets = data[at:end]
                return (kept, b''.join((kept.head, octets, kept.tail)),
                        bool(kept.barred) and is_barred(octets, kept.barred))
        return None

    def is_due(self, data) -> bool:
        """Whether a message that is not known may enter: 0.1 us where all differ."""
        self.missed += 1
        if self.missed % self.each or len(data) > STORED_MAX:
            return False
        mark = hash(data[STORE_HEAD:])
        if mark in self.seen:
            return True
        if len(self.seen) >= STORED_COUNT:
            self.seen.clear()
        self.seen.add(mark)
        return False

    def enter(self, peer, data, given, recorder):
        """Keep what a Recorder's call gave: ((octets, our port or None), [Event])."""
        (out, port), events = given
        read = recorder.read
        if not read <= VARIES_BY or any([event.peer is not peer for event in events]):
            return
        if peer.transport == TCP and not is_taken(peer):
            return
        at, end, barred = self.find_id(peer, data, out)
        notes = tuple([(event.kind, dict(event.fields)) for event in events])
        cost = KEPT_COST + len(data) + len(out) + sum(
            [sum(map(len, map(str, fields.values()))) for _, fields in notes])
        if self.octets + cost > STORED_OCTETS:
            self.clear()
        stream = (peer.state, peer.deaf, peer.closing) if peer.transport == TCP else (None,) * 3
        head, tail = (out[:at], out[end:]) if end else (out, b'')
        kept = Kept(peer.protocol, head, tail, *stream, peer.before, port, notes, barred, cost,
                    (at, end), 'dst' in read)
        self.put(peer, data, at, end, kept, read)

    def put(self, peer, data, at, end, kept, read):
        """Keep it where find() looks."""
        shapes = self.tables[peer.transport].setdefault(data[STORE_HEAD:], {})
        answers = shapes.setdefault((at, end), {}).setdefault(data[:at] + data[end:STORE_HEAD],
                                                              Answers())
        answers.by_dst = answers.by_dst or 'dst' in read
        answers.by_dport = answers.by_dport or 'dport' in read
        variant = answers.by_dst and peer.dst, answers.by_dport and peer.dport
        self.forget([(answers, variant)])
        answers.variants[variant] = kept
        self.count += 1
        self.octets += kept.cost
        if 'now' in read:
            self.moments.append((answers, variant))
        elif 'second' in read:
            self.seconds.append((answers, variant))

    @staticmethod
    def find_id(peer, data, out):
        """A message and its answer -> (at, end) of its id, what that must not be; 0, 0: none."""
        each, index = peer.protocol, peer.host.registry.index[peer.transport]
        at, size = each.echo(data, peer.transport) if each and each.echo else (0, 0)
        end = at + size
        if not size or end > STORE_HEAD or data[at:end] != out[at:end] or (
                peer.transport == TCP and peer.state is not None) or peer.dport in index.texts:
            return 0, 0, ()
        rivals = index.span(at, end).rivals(data, peer.transport == TCP, each)
        if rivals is None or is_barred(data[at:end], rivals):
            return 0, 0, ()             # its own id is such a one: good for itself alone
        return at, end, rivals


NOT_KEPT = None, b'', False
NO_COOKIE = 0, -1, 0            # as one that proves nothing of what comes next
FRESH_STREAM = Stream(b'', b'', 0, 0, 0.0, None)


def is_taken(stream) -> bool:
    """Whether a message was taken whole, and nothing of it is left but what STREAM_KEPT names."""
    return is_lasting(stream.state) and all([
        name in STREAM_KEPT or getattr(stream, name) == getattr(FRESH_STREAM, name)
        for name in Peer.__slots__ + Stream.__slots__])


# ---- headers ----

def skip_tags(frame: bytes, ethertype: int) -> 'tuple[int, int]':
    """Frame, its first EtherType -> the one behind up to two VLAN tags, offset of layer 3."""
    at = ETHER.size
    while ethertype in ETHERTYPES_TAG and at < ETHER.size + 2 * TAG.size <= len(frame):
        ethertype = int.from_bytes(frame[at + 2:at + 4], 'big')
        at += TAG.size
    return ethertype, at


def pseudo(src: bytes, dst: bytes, proto: int, size: int) -> int:
    """Sum of the pseudo-header of either IP version (RFC 9293 s3.1, RFC 8200 s8.1)."""
    return int.from_bytes(src + dst, 'big') + proto + size


def is_unicast4(ip: int) -> bool:
    """Neither 0/8, multicast nor broadcast (RFC 1122 s3.2.1.3)."""
    return 0x01000000 <= ip < 0xe0000000 or 0xf0000000 <= ip < IPV4_BROADCAST


def is_loopback4(ip: int) -> bool:
    """127/8: never seen outside a host (RFC 1122 s3.2.1.3)."""
    return ip >> 24 == 127


def pack_icmp(kind: int, code: int, rest: bytes) -> bytes:
    """Type, code, what follows the checksum -> message."""
    return ICMP.pack(kind, code, checksum(ICMP.pack(kind, code, 0) + rest)) + rest


def pack_icmpv6(kind: int, rest: bytes, src: bytes, dst: bytes, code=0) -> bytes:
    """The same of IPv6, whose checksum is over the addresses, too (RFC 4443 s2.3)."""
    size = ICMP.size + len(rest)
    return ICMP.pack(kind, code, checksum(ICMP.pack(kind, code, 0) + rest,
                                          pseudo(src, dst, IP_ICMPV6, size))) + rest


def find_udp_fault(data, src, dst, trusted) -> 'str | None':
    """A datagram -> why it is none, None: it is one (RFC 768, RFC 8200 s8.1)."""
    size, total = UDP_HEADER.unpack_from(data.ljust(UDP_HEADER.size))[2:]
    if not UDP_HEADER.size <= size <= len(data):
        return 'udp size'
    if trusted or len(src) == 4 and not total:
        return None
    intact = total and is_intact(data[:size], pseudo(src, dst, IP_UDP, size))
    return None if intact else 'udp checksum'


def pack_udp(src: bytes, dst: bytes, sport: int, dport: int, out: bytes) -> bytes:
    """Datagram from us to a client; no sum at all would be 0, so 0 is 0xffff (RFC 768)."""
    size = UDP_HEADER.size + len(out)
    total = checksum(UDP_HEADER.pack(sport, dport, size, 0) + out, pseudo(src, dst, IP_UDP, size))
    return UDP_HEADER.pack(sport, dport, size, total or 0xffff) + out


def find_mss(options: bytes, default: int) -> int:
    """TCP options -> the MSS in them, or the default (RFC 9293 s3.1, s3.7.1)."""
    at = 0
    while at + 4 <= len(options):
        kind, size = options[at], options[at + 1]
        if kind == TCP_OPTION_MSS:
            return int.from_bytes(options[at + 2:at + 4], 'big')
        if kind == TCP_OPTION_END:
            break
        at += 1 if kind == TCP_OPTION_NOP else size or len(options)
    return default


# What a SYN offers beside its MSS
#   bits    OFFER_...
#   scale   what SCALE_STEP says of its window scale, at most 1 without SACK; 0: it has none
#   at      where in the options the value of its timestamp stands; 0: it has none
Offer = collections.namedtuple('Offer', 'bits scale at')
OFFER_SACK, OFFER_STAMP, OFFER_SCALE = 1, 2, 4
OFFER_NONE, NO_STAMP = Offer(0, 0, 0), bytes(4)
OFFER_PARTS = {                         # kind, size -> bit
    (TCP_OPTION_SACK, 2): OFFER_SACK,
    (TCP_OPTION_STAMP, 10): OFFER_STAMP,
    (TCP_OPTION_SCALE, 3): OFFER_SCALE,
}
OFFER_LINUX = bytes((TCP_OPTION_SACK, 2, TCP_OPTION_STAMP, 10))     # as it follows their MSS


@functools.lru_cache(maxsize=1024)
def parse_offer(options: bytes) -> Offer:
    """TCP options -> what they offer; what is cut ends them."""
    bits = scale = stamp = at = 0
    while at + 2 <= len(options):
        kind, size = options[at], options[at + 1]
        if kind == TCP_OPTION_NOP:
            at += 1
            continue
        if kind == TCP_OPTION_END or not 2 <= size <= len(options) - at:
            break
        bit = OFFER_PARTS.get((kind, size), 0)
        bits |= bit
        if bit == OFFER_STAMP:
            stamp = at + 2
        elif bit == OFFER_SCALE:
            scale = SCALE_STEP[options[at + 2]]
        at += size
    return Offer(bits, scale if bits & OFFER_SACK else min(scale, SCALE_SACK - 1), stamp)


def read_offer(options: bytes) -> 'tuple[Offer, bytes]':
    """TCP options -> what they offer, the value of their timestamp."""
    if options[4:8] == OFFER_LINUX:             # nearly all: they differ in the timestamp alone
        return parse_offer(options[:8] + bytes(8) + options[16:]), options[8:12]
    if len(options) <= 12:
        offer = parse_offer(options)
    else:
        offer = parse_offer.__wrapped__(options)
    return offer, options[offer.at:offer.at + 4] if offer.at else NO_STAMP


def find_stamp(options: bytes) -> 'tuple[int, int] | None':
    """TCP options of a segment -> value and echo of its timestamp; None: there is none."""
    at = 4 if options.startswith(STAMP_BEGIN) else parse_offer.__wrapped__(options).at
    return TCP_STAMPS.unpack_from(options, at) if at and at + 8 <= len(options) else None


def walk_extensions(proto: int, data: bytes) -> 'tuple[int, bytes, str | None]':
    """IPv6 payload -> (protocol above the extension headers, its octets, why not)."""
    for count in range(EXTENSIONS_MAX + 1):
        if proto not in (IP_HOPOPT, IP_ROUTING, IP_FRAGMENT, IP_DSTOPTS):
            return proto, data, None
        if len(data) < FRAGMENT.size or proto == IP_HOPOPT and count:
            break
        following, size = EXTENSION.unpack_from(data)
        size = 8 if proto == IP_FRAGMENT else (size + 1) * 8
        if proto == IP_FRAGMENT and FRAGMENT.unpack_from(data)[1] & 0xfff9:
            return proto, data, 'ipv6 fragment'
        if proto == IP_ROUTING and data[3] or size > len(data):     # segments left: not for us
            break
        proto, data = following, data[size:]
    return proto, data, 'ipv6 extension'


def parse_nd_options(data: bytes) -> 'set | None':
    """Options of a neighbour solicitation -> their types; None: one is cut or empty."""
    kinds, at = set(), 0
    while at < len(data):
        size = data[at + 1] * 8 if at + 1 < len(data) else 0
        if not 0 < size <= len(data) - at:
            return None
        kinds.add(data[at])
        at += size
    return kinds


def ip_text(octets: bytes) -> str:
    """4 or 16 octets -> text (RFC 5952)."""
    return socket.inet_ntop(socket.AF_INET if len(octets) == 4 else socket.AF_INET6, octets)


def printable_octets(data: bytes) -> str:
    """The first octets of what a stranger said, safe on a terminal, quoted."""
    return repr(data[:60].partition(b'\n')[0].rstrip(b'\r'))[1:]


# ---- face ----

# What a SYN+ACK says that answers an offer, for a family and an MTU
#   options     octets, 32-bit words
#   window      as it stands there: it is never scaled
#   at          where in the options our timestamp stands; 0: there is none
Opening = collections.namedtuple('Opening', 'options window at')
# What holds for a connection, by the offer of its client
#   room        octets we take
#   window      how they stand in a segment
#   scale       of the client's windows
#   sacks       so many blocks of what came beyond a gap are in an ACK
Terms = collections.namedtuple('Terms', 'room window scale sacks')
TERMS_STAMP = 4                 # index of Terms: 2 bits of the scale, and this
# how the IPv4 identification of a packet is found
ID_ZERO, ID_COUNT, ID_FLOW = IDENTS = 'zero', 'count', 'flow'
OPENING, RESET, SEGMENT, DATAGRAM, MESSAGE = range(5)       # kinds of packets


class Face:
    """What we look like on the wire: it owns all of an answer that does not follow from a request.

    The layers pack headers by it; the short cuts patch models of what the layers packed.

    ttl         of IPv4, hop limit of IPv6 (neighbour discovery has its own)
    window      (octets, unit) of a SYN+ACK: that many, 'whole' segments within them, or 'mss'
    scale       of our windows, if the client scales his; None: we do not
    options     of a SYN+ACK in order: groups of names of OPTION_NAMES that fill words together,
                NOPs in front; all but the MSS stand there only if the client offers the same
    offers      OFFER_... bits of these
    idents      ID_... of each kind of packet, fragments: its fragment word of IPv4
    reset       the window of a RST to no connection
    ecn         a SYN that asks for ECN gets it
    odd         segments of odd flags to open ports get a RST, not silence
    code        an echo reply has the code of the request
    spread      mask of what our timestamps differ by from one connection to the next
    epoch       of them, in milliseconds
    mix         what makes identifications differ by address
    count       packets that were counted in an identification
    """
    __slots__ = ('ttl', 'window', 'scale', 'options', 'offers', 'idents', 'fragments', 'reset',
                 'ecn', 'odd', 'code', 'spread', 'epoch', 'mix', 'count')

    def __init__(self, ttl=64, window=(65535, ''), scale=None, options=(('mss',),),
                 idents=(ID_ZERO,) * 5, fragments=(IPV4_DF,) * 5, reset=WINDOW_MAX, ecn=False,
                 odd=False, code=True, spread=MASK32, secret=b''):
        self.ttl, self.window, self.scale = ttl, window, scale
        self.options, self.idents, self.fragments = options, idents, fragments
        self.reset, self.ecn = reset, ecn
        self.odd, self.code, self.spread = odd, code, spread
        self.offers = sum([OPTION_NAMES[name] for group in options for name in group])
        key = hashlib.blake2s(b'face', key=secret).digest()
        self.epoch, mix, self.count = struct.unpack_from('!IIH', key)
        self.mix = mix | 1

    def mss(self, mtu, header) -> int:
        """What fits into a packet behind the IP header of a family."""
        return min(max(mtu - header - TCP_HEADER.size, 1), MSS_MAX)

    def take_offer(self, options) -> 'tuple[Offer, bytes]':
        """As read_offer(), without a scale where our windows have none."""
        offer, stamp = read_offer(options)
        return (offer if self.scale is not None else offer._replace(scale=0)), stamp

    def opening(self, bits, mss) -> Opening:
        """OFFER_... bits and our MSS -> what the SYN+ACK says."""
        known = {'mss': TCP_MSS_OPTION.pack(TCP_OPTION_MSS, TCP_MSS_OPTION.size, mss),
                 'sok': bytes((TCP_OPTION_SACK, 2)),
                 'ts': STAMP_BEGIN[2:] + bytes(TCP_STAMPS.size),
                 'ws': bytes((TCP_OPTION_SCALE, 3, self.scale or 0))}
        options, at = b'', 0
        for group in self.options:
            names = [name for name in group if name == 'mss' or OPTION_NAMES[name] & bits]
            octets = b''.join([known[name] for name in names])
            options += bytes((TCP_OPTION_NOP,)) * (-len(octets) % 4)
            if 'ts' in names:
                at = len(options) + octets.index(known['ts']) + 2
            options += octets
        size, unit = self.window
        segment = max(mss - (len(STAMP_BEGIN) + TCP_STAMPS.size if at else 0), 1)
        if unit:
            size = segment * (size if unit == 'mss' else size // segment)
        return Opening(options, min(size, WINDOW_MAX), at)

    def terms(self, index, mss) -> Terms:
        """Index of Terms and our MSS -> what holds for a connection."""
        step, stamped = index & TERMS_STAMP - 1, index & TERMS_STAMP
        if not step:
            room = self.opening(OFFER_STAMP if stamped else 0, mss).window
            return Terms(room, room, 0, 0)
        field = min(ROOM >> self.scale, WINDOW_MAX)
        sacks = (3 if stamped else 4) if step >= SCALE_SACK and self.offers & OFFER_SACK else 0
        return Terms(field << self.scale, field, SCALES[step], sacks)

    def offset(self, draw) -> int:
        """What Cookies have drawn for a connection -> what its timestamps are ahead."""
        return (draw & self.spread) + self.epoch

    def ident(self, kind, src, sport=0) -> int:
        """Kind of a packet to a client, as numbers -> its identification."""
        way = self.idents[kind]
        if way == ID_ZERO:
            return 0
        self.count += 1
        return self.count + (0 if way == ID_COUNT else (src * self.mix >> 20) + sport) & HALF

    def pack_ipv4(self, proto: int, src: bytes, dst: bytes, data: bytes, tos=0) -> bytes:
        """Packet without options around data."""
        word, rest = 0x45000000 | tos << 16 | 20 + len(data), self.ttl << 8 | proto
        kind = packet_kind(proto, data)
        fragment = self.fragments[kind]
        if self.idents[kind] != ID_ZERO:
            port = from_octets(data[2:4], 'big') if proto == IP_TCP else 0
            fragment |= self.ident(kind, from_octets(dst, 'big'), port) << 16
        total = -(word + fragment + rest + int.from_bytes(src + dst, 'big')) % 0xffff
        return IPV4_ANSWER.pack(word, fragment, self.ttl, proto, total, src, dst) + data

    def pack_ipv6(self, proto: int, src: bytes, dst: bytes, data: bytes, hops=0) -> bytes:
        """Packet around data; hops: another hop limit than ours."""
        return IPV6.pack(0x60000000, len(data), proto, hops or self.ttl, src, dst) + data

    @staticmethod
    def pack_tcp(ports, seq: int, ack: int, flags: int, data, option, window) -> bytes:
        """Segment that answers one of ports = (src, dst, sport, dport); option: 32-bit words."""
        src, dst, sport, dport = ports
        word = TCP_HEADER.size + len(option) << 10 | flags
        header = [dport, sport, seq & MASK32, ack & MASK32, word, window, 0, 0]
        rest = option + data
        header[6] = checksum(TCP_HEADER.pack(*header) + rest, pseudo(
            src, dst, IP_TCP, TCP_HEADER.size + len(rest)))
        return TCP_HEADER.pack(*header) + rest


# names of options in a Face: what the client has to offer for them
OPTION_NAMES = {'mss': 0, 'sok': OFFER_SACK, 'ts': OFFER_STAMP, 'ws': OFFER_SCALE}


def packet_kind(proto, data) -> int:
    """Protocol and payload of a packet of ours -> OPENING, RESET, SEGMENT, DATAGRAM or MESSAGE."""
    if proto == IP_TCP:
        flags = data[13]
        if flags & RST:
            return RESET
        return OPENING if flags & SYN else SEGMENT
    return DATAGRAM if proto == IP_UDP else MESSAGE


# ---- personas ----
#
# A persona says who we are, from the TTL to the name: a line for a key, # comments.  What is
# missing is as in `plain`.  --persona FILE takes such a text.

PERSONA_SECRET, PERSONA_FILE = 32, 'persona'        # octets, and the file of --state-dir
PERSONA_MAX = 1 << 16                               # octets of a file
PERSONAS = {
    'plain': '''
        name     WIN-{11}
        ssh      SSH-2.0-1
        ''',
    'linux': '''
        name     srv-{11}                   # number: so many letters of its own
        server   {name}                     # HTTP
        ssh      SSH-2.0-dropbear_2022.83
        smb      Unix, Samba 4.17.12        # system, software
        ntlm     6.1.0
        ports    T:22,80,443,U:123          # for --ports persona
        ttl      64
        window   65535 whole                # segments
        scale    7
        options  mss sok+ts ws              # + without NOPs between
        clock    connection                 # each has timestamps of its own
        ident    segment=flow icmp=flow     # else zero
        df       syn-ack reset segment udp
        reset    0
        ecn      yes
        odd      silent
        code     same
        ''',
    'windows': '''
        name     WIN-{11}
        ssh      SSH-2.0-OpenSSH_for_Windows_9.5
        ports    T:80,135,139,445,3389,5985,U:137
        ttl      128
        window   8192
        scale    8
        options  mss ws sok
        ident    syn-ack=count reset=count segment=count udp=count icmp=count
        df       syn-ack reset segment
        reset    0
        odd      reset
        code     zero
        ''',
    'router': '''
        name     router-{6}
        ssh      SSH-2.0-dropbear_2022.83
        smb      Unix, Samba 3.6.25
        ntlm     6.1.0
        ports    T:22,53,80,443,U:53
        ttl      64
        window   mss*20
        scale    5
        options  mss sok+ts ws
        clock    host
        ident    segment=flow icmp=flow
        df       syn-ack reset segment udp
        reset    0
        ecn      yes
        ''',
}
PERSONAS['linux3'] = PERSONAS['linux'].replace('65535 whole ', 'mss*10      ').replace(
    'connection                 # each has timestamps of its own', 'host')
PACKET_KINDS = 'syn-ack', 'reset', 'segment', 'udp', 'icmp'

# name of the host: a pattern; identification of SSH, Server of HTTP, both octets; native system
# and software of SMB; version of NTLM, three numbers; ports: {transport: open ones} for --ports
# persona; face: what a Face is made of
Persona = collections.namedtuple('Persona', 'name ssh server smb ntlm ports face')


def key_name(text):
    """The beginning of a NetBIOS name, {N} -> it, how many letters follow."""
    found = re.fullmatch(r'([A-Za-z][A-Za-z0-9-]{0,12})\{([0-9]{1,2})\}', text)
    if not found or not 1 <= int(found.group(2)) <= 15 - len(found.group(1)):
        raise ValueError('15 letters at most, of which {N} are drawn, as in srv-{6}')
    return found.group(1), int(found.group(2))


def key_ssh(text):
    """SSH-2.0-, a name without spaces -> octets."""
    if not re.fullmatch('SSH-2\\.0-[!-~]{1,60}', text):
        raise ValueError('SSH-2.0- and a name without spaces')
    return text.encode()


def key_words(text):
    """A few words of ASCII -> octets."""
    if not re.fullmatch('[ -~]{1,80}', text):
        raise ValueError('80 characters of ASCII at most')
    return text.encode()


def key_smb(text):
    """System, comma, software -> both."""
    found = re.fullmatch('([ -+./-~]{1,40}), ([ -~]{1,40})', text)
    if not found:
        raise ValueError('a system, a comma, a software')
    return found.groups()


def key_ntlm(text):
    """A version -> its three numbers."""
    found = re.fullmatch('([0-9]{1,2})\\.([0-9]{1,2})\\.([0-9]{1,5})', text)
    if not found or int(found.group(3)) > WINDOW_MAX:
        raise ValueError('three numbers, as in 10.0.19041')
    return tuple(map(int, found.groups()))


def key_window(text):
    """As of Face.window."""
    found = re.fullmatch('([0-9]{1,5})( whole)?|mss\\*([0-9]{1,2})', text)
    size = int(found.group(1) or found.group(3)) if found else 0
    if not 0 < size <= WINDOW_MAX:
        raise ValueError('octets up to %d, octets whole, or mss*N' % WINDOW_MAX)
    return size, 'mss' if found.group(3) else (found.group(2) or '').strip()


def key_number(text, least, most):
    """A number within bounds -> it."""
    if not re.fullmatch('[0-9]{1,5}', text) or not least <= int(text) <= most:
        raise ValueError('a number from %d to %d' % (least, most))
    return int(text)


def key_options(text):
    """As of Face.options."""
    groups = tuple([tuple(each.split('+')) for each in text.split()])
    names = [name for group in groups for name in group]
    if len(set(names)) < len(names) or not OPTION_NAMES.keys() >= set(names) or any(
            ['ts' in group[:-1] for group in groups]):
        raise ValueError('some of mss, sok, ts, ws, each once, + between those that fill words '
                         'together, where ts is the last')
    return groups


def key_idents(text):
    """kind=way of some kinds of packets -> the way of each."""
    rows = dict([each.partition('=')[::2] for each in text.split()])
    if not set(PACKET_KINDS) >= rows.keys() or not set(IDENTS) >= set(rows.values()):
        raise ValueError('words of %s, =, %s' % (', '.join(PACKET_KINDS), ', '.join(IDENTS)))
    return tuple([rows.get(kind, ID_ZERO) for kind in PACKET_KINDS])


def key_fragments(text):
    """Kinds of packets that must not be cut -> the fragment word of each."""
    words = set() if text == 'none' else set(text.split())
    if not set(PACKET_KINDS) >= words:
        raise ValueError('none, or some of %s' % ', '.join(PACKET_KINDS))
    return tuple([IPV4_DF if kind in words else 0 for kind in PACKET_KINDS])


def key_ports(text) -> 'dict[int, frozenset]':
    """Ports and ranges, T: and U: before those of one transport -> {transport: open ones}."""
    found, over = {transport: set() for transport in BOTH}, BOTH
    for word in text.split(','):
        parts = re.fullmatch('(?:([TU]):)?([0-9]{1,5})(?:-([0-9]{1,5}))?', word.strip())
        first = int(parts.group(2)) if parts else -1
        last = int(parts.group(3) or first) if parts else -1
        if not 0 <= first <= last <= WINDOW_MAX:
            raise ValueError('ports as in 22,80,8000-8100 or T:22,80,U:53')
        if parts.group(1):
            over = (TCP if parts.group(1) == 'T' else UDP),
        for transport in over:
            found[transport].update(range(first, last + 1))
    return {transport: frozenset(ports) for transport, ports in found.items()}


def key_choice(text, **words):
    """A word -> what it means."""
    if text not in words:
        raise ValueError(' or '.join(words))
    return words[text]


# key of a text -> what reads its value, and what holds where it is missing
PERSONA_KEYS = {
    'name': (key_name, ('WIN-', 11)),
    'ssh': (key_ssh, b'SSH-2.0-dropbear_2022.83'),
    'server': (key_words, b'{name}'),
    'smb': (key_smb, ('Windows 10 Pro 19041', 'Windows 10 Pro 6.3')),
    'ntlm': (key_ntlm, (10, 0, 19041)),
    'ports': (key_ports, {}),
}
FACE_KEYS = {                           # the same, of the name it has in a Face
    'ttl': ('ttl', functools.partial(key_number, least=1, most=255)),
    'window': ('window', key_window),
    'scale': ('scale', functools.partial(key_number, least=0, most=14)),
    'options': ('options', key_options),
    'clock': ('spread', functools.partial(key_choice, connection=MASK32, host=0)),
    'ident': ('idents', key_idents),
    'df': ('fragments', key_fragments),
    'reset': ('reset', functools.partial(key_number, least=0, most=WINDOW_MAX)),
    'ecn': ('ecn', functools.partial(key_choice, yes=True, no=False)),
    'odd': ('odd', functools.partial(key_choice, reset=True, silent=False)),
    'code': ('code', functools.partial(key_choice, same=True, zero=False)),
}


def parse_persona(text: str, path: str) -> Persona:
    """The text of a persona -> it; UserError: 'file:line: what'."""
    found, face = {key: value for key, (_, value) in PERSONA_KEYS.items()}, {}
    given = set()
    for number, line in enumerate(text.splitlines(), 1):
        key, _, value = re.sub(r'(^|\s)#.*', '', line).strip().partition(' ')
        if not key:
            continue
        if key in given or not (key in PERSONA_KEYS or key in FACE_KEYS):
            raise UserError('%s:%d: %r %s' % (path, number, key, (
                'stands there already' if key in given else 'is none of %s' % ', '.join(
                    sorted([*PERSONA_KEYS, *FACE_KEYS])))))
        given.add(key)
        try:
            if key in PERSONA_KEYS:
                found[key] = PERSONA_KEYS[key][0](value.strip())
            else:
                name, read = FACE_KEYS[key]
                face[name] = read(value.strip())
        except ValueError as error:
            raise UserError('%s:%d: %s: %r is not %s' % (
                path, number, key, value.strip(), error)) from None
    scales = any(['ws' in group for group in face.get('options', ())])
    if scales != ('scale' in face):
        raise UserError('%s: scale, and ws among the options: both or none' % path)
    return Persona(face=face, **found)


def load_persona(name: str) -> Persona:
    """A name of PERSONAS, or a file -> the persona."""
    if name in PERSONAS:
        return parse_persona(PERSONAS[name], name)
    try:
        with open(name, 'rb') as file:
            text = file.read(PERSONA_MAX + 1)
        if len(text) > PERSONA_MAX:
            raise UserError('%s: more than %d octets: this is no persona' % (name, PERSONA_MAX))
        return parse_persona(text.decode(), name)
    except OSError as error:
        raise UserError('--persona: %r is none of %s, and no file to be read: %s' % (
            name, ', '.join(sorted(PERSONAS)), why(error))) from None
    except UnicodeDecodeError:
        raise UserError('%s: not UTF-8: this is no persona' % name) from None


class Model:
    """An answer over IPv4 that the layers gave to a request of zeros, to be patched: 1 us a frame.

    face        the Face it has; varies: the kind of packet, if its identification does
    frame       the answer
    head        from our MAC to the type of service
    middle      from the identification to the protocol
    begin       all of that; word: offset, flags and window of TCP; rest: what follows its header
    stamp       where in `rest` our timestamp stands; 0: there is none
    sum4, sum   of the IPv4 header and of TCP, modulo 65535
    bare4, bare the same without sizes, offset, flags, window and what follows the header
    columns     of 8 octets, as of Openings; the checksums in them are 0
    """
    __slots__ = ('face', 'varies', 'frame', 'head', 'middle', 'begin', 'word', 'rest', 'stamp',
                 'sum4', 'sum', 'bare4', 'bare', 'columns')

    def __init__(self, frame, face, stamp=0):
        kind = packet_kind(frame[23], frame[34:])
        self.face, self.stamp = face, stamp
        self.varies = None if face.idents[kind] == ID_ZERO else kind
        if self.varies is not None:
            frame = spread_ident(frame)
        self.frame, self.head, self.middle = frame, frame[6:16], frame[18:24]
        self.begin, self.rest = frame[6:24], frame[PLAIN4.size:]
        self.word = from_octets(frame[46:50], 'big')
        self.sum4, self.sum = (-from_octets(frame[at:at + 2], 'big') % 0xffff for at in (24, 50))
        self.bare4 = (self.sum4 - (len(frame) - ETHER.size)) % 0xffff
        self.bare = IP_TCP if frame[23] == IP_TCP else IP_UDP
        blank = frame[:24] + bytes(2) + frame[26:50] + bytes(2) + frame[52:]
        size = max(len(frame) - ETHER.size + 7 & ~7, 48)
        self.columns = struct.unpack_from('!%dQ' % (size // 8), blank.ljust(
            ETHER.size + size, b'\0'), ETHER.size)

    def identify(self, src, sport=0) -> 'tuple[bytes, int]':
        """A client -> what stands for `middle` in a packet to him, sum of what is new in it."""
        ident = self.face.ident(self.varies, src, sport)
        return ident.to_bytes(2, 'big') + self.middle[2:], ident

    def pack_segment(self, client, src, our, sport, dport, seq, ack, flags, data, option, window):
        """What a segment is answered -> the frame."""
        rest = option + data
        size = TCP_HEADER.size + len(rest)
        word = TCP_HEADER.size + len(option) << 10 | flags
        seq, ack, total, addresses = seq & MASK32, ack & MASK32, 20 + size, src + our
        middle, more = self.middle, 0
        if self.varies is not None:
            middle, more = self.identify(src, sport)
        return PATCH_TCP4.pack(
            client, self.head, total, middle, -(addresses + total + self.bare4 + more) % 0xffff,
            our, src, dport, sport, seq, ack, word, window,
            -(addresses + size + sport + dport + seq + ack + word + window + self.bare
              + answer_sum(rest)) % 0xffff) + rest

    def pack_opening(self, client, src, our, sport, dport, seq, ack, stamps=None):
        """A SYN, of the model of a SYN+ACK -> the frame; half the price of pack_segment().

        stamps  our timestamp and the client's, if the model has any
        """
        addresses, begin, rest = src + our, self.begin, self.rest
        more = total = 0
        if self.varies is not None:
            middle, more = self.identify(src, sport)
            begin = begin[:12] + middle
        if stamps:
            value, echo = stamps
            at = self.stamp
            total = value + echo
            rest = rest[:at] + TCP_STAMPS.pack(value, echo) + rest[at + TCP_STAMPS.size:]
        return PATCH_SYN_ACK4.pack(
            client, begin, -(addresses + self.sum4 + more) % 0xffff, our, src, dport, sport, seq,
            ack, self.word,
            -(addresses + sport + dport + seq + ack + self.sum + total) % 0xffff) + rest

    def pack_packet(self, client, src, our, data):
        """Layer 4 -> the frame."""
        total, addresses = IPV4.size + len(data), src + our
        middle, more = self.middle, 0
        if self.varies is not None:
            middle, more = self.identify(src)
        return PATCH_IPV4.pack(client, self.head, total, middle,
                               -(addresses + total + self.bare4 + more) % 0xffff, our, src) + data

    def pack_datagram(self, client, src, our, sport, port, out):
        """Octets from a port of ours -> the frame."""
        size, addresses = UDP_HEADER.size + len(out), src + our
        total = size + 20
        middle, more = self.middle, 0
        if self.varies is not None:
            middle, more = self.identify(src)
        return PATCH_UDP4.pack(
            client, self.head, total, middle, -(addresses + total + self.bare4 + more) % 0xffff,
            our, src, port, sport, size,
            0xffff - (addresses + 2 * size + port + sport + self.bare + (
                from_octets(out, 'big') << 8 * (size & 1))) % 0xffff) + out


def spread_ident(frame: bytes) -> bytes:
    """A frame over IPv4 -> the same with the identification 0, and the checksum for it."""
    head = frame[:18] + bytes(2) + frame[20:24] + bytes(2) + frame[26:34]
    return head[:24] + checksum(head[ETHER.size:]).to_bytes(2, 'big') + head[26:] + frame[34:]


# ---- columns ----
#
# Floods, as scans send them, are answered in columns: 8 octets of the headers of all the frames of
# a group are one large number, with a lane of 64 bits for each frame.  To make it takes 12 ns a
# frame, an operation on it 0.5 to 2: 0.4 us a SYN instead of 2 (CPython 3.11, 512 frames; 24 cost
# much the same either way).  PyPy, whose large numbers are slow, does without.

HAS_QUICK_BIG_INTS = sys.implementation.name == 'cpython'
DATAGRAMS_MIN = 8                       # asking the same: so many are worth columns
SEGMENTS_MIN = 16 if HAS_QUICK_BIG_INTS else sys.maxsize    # the same of segments of connections
SOME_MESSAGES = 16                      # that all differ: those behind them will, too
OPENINGS_MIN = 32 if HAS_QUICK_BIG_INTS else sys.maxsize
HALF, ONE_LANE = 0xffff, struct.pack('!Q', 1)
PLAIN_WORDS = struct.Struct('!6I')
PLAIN_END = PLAIN_WORDS.size            # octets of a frame in which it shows that it is plain
FLAGS4_AT = FLOW4_AT + 8 + 13
MSS_OPTION_BEGIN = struct.pack('!BB', TCP_OPTION_MSS, TCP_MSS_OPTION.size)
# what the addresses of clients and of ours begin with; 127 is for the layers to judge
UNICAST_FIRSTS = bytes(first for first in range(1, 224) if first != 127)
IS_UNICAST_FIRST = bytes(first in UNICAST_FIRSTS for first in range(256))
# columns of 8 octets, after Ethernet: version length id fragment, ttl protocol sum src, dst ports,
# seq ack, offset flags window sum urgent, the option that comes first
COLUMN_LENGTH, COLUMN_SRC, COLUMN_DST, COLUMN_SEQ, COLUMN_FLAGS, COLUMN_OPTION = range(6)
FLAGS_ALIKE = bytes((SYN, RST, RST | ACK))    # of what goes in columns
DATAGRAM_DEEP = 54                      # octets of a datagram's frame that lanes are made of
SEGMENT_DEEP = {54: 54, 66: 70}         # the same of a segment, by where its data begins
SEGMENT_FLAGS = ACK, ACK | PSH, ACK | FIN       # in the order in which they are looked at
ACKS = bytes(SEGMENT_FLAGS)
SEGMENT_RANKS = {size << 10 | flags: rank for size in (20, 32)
                 for rank, flags in enumerate(SEGMENT_FLAGS)}     # by offset and flags
ID_END = 4                              # of a message: its id stands before, at one of these:
ALIKE_IDS = frozenset(((0, 0), (0, 2), (2, 4), (0, 4)))
proto4 = operator.itemgetter(PROTO4_AT)         # a frame -> its protocol, if it is plain
flags4 = operator.itemgetter(FLAGS4_AT)         # and its flags, if that is TCP
# the same of what a frame must have in common with others as a segment of a connection: the data
# as well, behind all options of those that have some
segment_octets = operator.itemgetter(slice(*ALIKE[0]), PROTO4_AT, 16, 17, 36, 37, 46, FLAGS4_AT,
                                     slice(max(SEGMENT_DEEP), None))
flow4 = operator.itemgetter(slice(FLOW4_AT, FLOW4_AT + FLOW4.size))     # and addresses and ports
# a frame -> what it must have in common with others: both MACs, octets of the others in ALIKE
alike_octets = operator.itemgetter(slice(*ALIKE[0]), *(
    each for at, size in ALIKE[1:] for each in range(at, at + size)))


def mask_octets(rows, end) -> bytes:
    """Rows (offset, size, mask) -> the mask of so many octets."""
    mask = bytearray(end)
    for at, size, bits in rows:
        for index, octet in enumerate(bits.to_bytes(size, 'big'), at):
            mask[index] |= octet
    return bytes(mask)


def plain_value(mac) -> int:
    """What PLAIN_MASK leaves of a plain frame to our MAC."""
    ours = int.from_bytes(mac, 'big')
    return int.from_bytes(mask_octets([(at, size, ours if value is None else value)
                                       for at, size, _, value in PLAIN], PLAIN_END), 'big')


def column_masks(*more) -> 'list[tuple[int, int]]':
    """What PLAIN, ALIKE and more say -> [(column behind Ethernet, mask)].

    The two columns of Ethernet have no mask: all of them is alike.
    """
    rows = [(at + 2, size, mask) for at, size, mask, _ in PLAIN]        # behind two of padding
    rows += [(at + 2, size, (1 << 8 * size) - 1) for at, size in ALIKE + more]
    words = struct.unpack('!2Q7Q', mask_octets(rows, 72))
    return [(at, mask) for at, mask in enumerate(words[2:]) if mask]


@functools.lru_cache(maxsize=None)
def datagram_masks(id_at, id_end) -> 'list[tuple[int, int]]':
    """Where an id stands in a message, see ALIKE_IDS -> column_masks() of datagrams."""
    at = MESSAGE4_AT + id_end
    return column_masks(ALIKE_PORT, (MESSAGE4_AT, id_at), (at, DATAGRAM_DEEP - at))


@functools.lru_cache(maxsize=None)
def segment_masks(at) -> 'list[tuple[int, int]]':
    """Where the data of segments begins -> column_masks() of them."""
    deep, stamped = SEGMENT_DEEP[at], (PLAIN4.size, at - PLAIN4.size and len(STAMP_BEGIN))
    return column_masks(ALIKE_DPORT, stamped, (at, deep - at))


PLAIN_OCTETS = mask_octets([row[:3] for row in PLAIN], PLAIN_END)
PLAIN_MASK, PLAIN_MASKS = int.from_bytes(PLAIN_OCTETS, 'big'), PLAIN_WORDS.unpack(PLAIN_OCTETS)
ALIKE_MASKS, ALIKE_OPTION_MASKS = column_masks(), column_masks(ALIKE_OPTION)


def has_segments(frames) -> bool:
    """Whether it may be worth it to look for segments of connections: 10 ns a frame."""
    return len(frames) >= SEGMENTS_MIN and any([
        frame[PROTO4_AT:PROTO4_AT + 1] == TCP_OCTET and frame[FLAGS4_AT:FLAGS4_AT + 1] in ACKS
        for frame in frames[::8]])


def group_connected(frames, flows) -> 'tuple[list, list]':
    """Frames of a round, their flows -> (places of alike segments, a list each, places of others).

    A client's segments stay in their order if the groups are looked at in theirs, then the others.
    """
    groups, alike, others = collections.defaultdict(list), [], []
    if min(map(len, frames)) <= FLAGS4_AT:
        frames = [frame.ljust(FLAGS4_AT + 1, b'\0') for frame in frames]
    for place, key in enumerate(map(segment_octets, frames)):
        groups[key].append(place)
    for key, places in groups.items():
        rank = SEGMENT_RANKS.get(key[-3] << 8 | key[-2])
        if rank is None or len(places) < SEGMENTS_MIN:
            others += places
        else:
            alike.append((rank, places))
    alike = [places for _, places in sorted(alike)]
    if alike and len(set(flows)) < len(flows):
        others += keep_order(alike, flows)
    return alike, others


def keep_order(groups, flows) -> 'list[int]':
    """Take from groups of places what would overtake others of its flow -> these places."""
    turns = [len(groups)] * len(flows)
    for turn, places in enumerate(groups):
        for place in places:
            turns[place] = turn
    last, late = {}, set()
    for flow, turn in zip(flows, turns):
        if turn < last.setdefault(flow, turn):
            late.add(flow)
        last[flow] = turn
    return take_late(groups, flows, late)


def take_late(groups, flows, late) -> 'list[int]':
    """Take the places of some flows from groups -> these places."""
    taken = []
    if late:
        for places in groups:
            taken += [place for place in places if flows[place] in late]
            places[:] = [place for place in places if flows[place] not in late]
    return taken


def least_alike(flags) -> int:
    """Of how many on it pays to answer them in columns: a drop packs nothing."""
    return OPENINGS_MIN if flags == SYN else OPENINGS_MIN // 2


def group_alike(frames) -> 'tuple[list, list]':
    """Frames of a round -> (places of those that are alike, a list each, places of the others).

    Alike are TCP segments of one shape; whether they are plain in all that PLAIN says shows in
    columns.  0.2 us a frame.
    """
    if min(map(len, frames)) <= FLAGS4_AT:
        frames = [frame.ljust(FLAGS4_AT + 1, b'\0') for frame in frames]
    protos = bytes(map(proto4, frames))
    if protos.count(IP_UDP) < DATAGRAMS_MIN:
        return group_segments(frames, range(len(frames)))
    datagrams = [place for place, proto in enumerate(protos) if proto == IP_UDP]
    some = {alike_message(frames[place]) for place in datagrams[:SOME_MESSAGES]}
    if len(some) == SOME_MESSAGES:              # each asks something else: 10 ns, not 300
        alike, others = group_segments(frames, [
            place for place, proto in enumerate(protos) if proto != IP_UDP])
        return alike, others + datagrams
    groups = collections.defaultdict(list)
    for place in datagrams:
        groups[alike_message(frames[place])].append(place)
    alike = [places for places in groups.values() if len(places) >= DATAGRAMS_MIN]
    others = [place for places in groups.values() if len(places) < DATAGRAMS_MIN
              for place in places]
    rest = group_segments(frames, [place for place, proto in enumerate(protos) if proto != IP_UDP])
    return alike + rest[0], others + rest[1]


def alike_message(frame) -> bytes:
    """A frame -> what it must have in common with others, if it is a plain datagram."""
    return frame[36:40] + frame[MESSAGE4_AT + STORE_HEAD:]


def group_segments(frames, places):
    """As group_alike(), of the TCP segments at some places."""
    if not any([frames[place][FLAGS4_AT] in FLAGS_ALIKE for place in places[::8]]):
        return [], list(places)                 # a flood of something else: 10 ns, not 200
    some = frames if len(places) == len(frames) else [frames[place] for place in places]
    flags = bytes(map(flags4, some))
    if not any([flags.count(each) >= least_alike(each) for each in FLAGS_ALIKE]):
        return [], list(places)                 # a few of everything: 50 ns, not 200
    groups = collections.defaultdict(list)
    for place, key in zip(places, map(alike_octets, some)):
        groups[key].append(place)
    alike, others = [], []
    for (*_, flags), places in groups.items():
        if flags in FLAGS_ALIKE and len(places) >= least_alike(flags):
            alike.append(places)
        else:
            others += places
    return alike, others


class Alike:
    """Plain frames over IPv4 that are alike (see ALIKE), in columns; a subclass knows layer 4.

    proto   of layer 4; deep: octets of a frame that lanes are made of; masks: of column_masks()
    count   of frames
    head    the first octets of the first frame, after two of padding
    total   octets of each packet
    block   the frames in rows of `row` octets, two of padding in front of each
    macs    the columns of Ethernet, octets; octets: the others
    lanes   these as numbers; ones: 1 in each lane
    src, dst, ports, sums   addresses, both ports in a word, sum of the addresses, in lanes
    behind  sum of what follows the lanes, the same of all
    """
    deep, behind = 1 << 16, 0

    def __init__(self, frames, total):
        size = len(frames[0])
        gap = bytes(2 + -(size + 2) % 8)
        self.block = block = b''.join((gap[:2], gap.join(frames), gap[2:]))
        self.count, self.row, self.total = len(frames), size + len(gap), total
        self.head, self.ones = block[:self.row], one_lanes(self.count)
        quads, step = memoryview(block).cast('Q'), self.row // 8
        end = 2 + min(ETHER.size + total, self.deep)
        columns = [quads[at::step].tobytes() for at in range((end + 7) // 8)]
        self.macs, self.octets = columns[:2], columns[2:]
        self.lanes = [from_octets(each, 'big') for each in self.octets]
        self.src, self.dst = self.second(COLUMN_SRC), self.first(COLUMN_DST)
        self.ports, self.sums = self.second(COLUMN_DST), self.src + self.dst

    def each(self, number):
        """A number -> it in each lane."""
        return fill_lanes(self.count, number)

    def first(self, at):
        """The first words of a column, in lanes; second(): the second ones."""
        return self.lanes[at] >> 32 & self.each(MASK32)

    def second(self, at):
        return self.lanes[at] & self.each(MASK32)

    def words(self, at):
        """Sum of both words of a column, in lanes."""
        return self.first(at) + self.second(at)

    def fold(self, sums, times=3):
        """Sums below 2^40, in lanes -> modulo 65535, from 1 on (RFC 1071 s1).

        times   2 leave a few above 65535, but none that 65535 divides
        """
        half, word = self.each(HALF), self.each(MASK32)
        for _ in range(times):
            sums = (sums & half) + (sums >> 16 & word)
        return sums

    def flows(self) -> 'list[bytes]':
        """Addresses and ports of each."""
        return cut_rows('%dx12s%dx' % (2 + FLOW4_AT, self.row - 14 - FLOW4_AT), self.block)

    def srcs(self) -> tuple:
        """The clients' addresses, of one frame if all are alike; ours(): those they ask for."""
        return self.distinct(self.src, '!4xI', COLUMN_SRC)

    def ours(self) -> tuple:
        return self.distinct(self.dst, '!I4x', COLUMN_DST)

    def distinct(self, lanes, layout, at) -> tuple:
        """Numbers in lanes and where they stand in a column -> one of each frame, or of all."""
        first = struct.unpack(layout, self.octets[at][:8])
        return first if lanes == self.ones * first[0] else unpack_rows(layout, self.octets[at])

    def numbers(self) -> 'list[tuple]':
        """Client's port and ours: of each frame, or of one if all are alike."""
        half = self.each(HALF)
        return [self.distinct(self.ports >> 16 & half, '!4xH2x', COLUMN_DST),
                self.distinct(self.ports & half, '!6xH', COLUMN_DST)]

    def is_plain(self) -> bool:
        """Whether all are as plain as the first one is, and alike, also behind the lanes."""
        count, head, behind = self.count, self.head, self.head[16:]
        quads, step = memoryview(self.block).cast('Q'), self.row // 8
        if any(column != head[8 * at:8 * at + 8] * count for at, column in enumerate(self.macs)):
            return False
        for at, mask in self.masks:
            first = int.from_bytes(behind[8 * at:8 * at + 8], 'big')
            if self.lanes[at] & self.each(mask) != self.each(first & mask):
                return False
        return all(quads[at::step].tobytes() == head[8 * at:8 * at + 8] * count
                   for at in range((2 + self.deep) // 8, step))

    def is_intact(self, trusted) -> bool:
        """Whether the sums of layer 3 hold, and unless trusted those of layer 4."""
        right, sums = self.each(HALF), self.sums
        if self.fold(sums + self.words(COLUMN_LENGTH) + self.first(COLUMN_SRC), 2) != right:
            return False
        sums += self.ports + self.each(self.proto + self.total - IPV4.size + self.behind)
        return trusted or right == self.fold(
            sum([self.words(at) for at in range(COLUMN_SEQ, len(self.lanes))], sums), 2)

    def is_unicast(self) -> bool:
        """Whether all addresses can be those of hosts."""
        firsts = self.octets[COLUMN_SRC][4::8] + self.octets[COLUMN_DST][::8]
        return not firsts.translate(None, UNICAST_FIRSTS)

    def is_between_two(self) -> bool:
        """Whether nobody's address is the one that is asked for."""
        carry = self.each(MASK32 + 1)
        return (self.src ^ self.dst) + self.each(MASK32) & carry == carry

    def pack(self, kind, numbers):
        """A number for each frame, 64 bits -> lanes."""
        return from_octets(struct.pack('!%d%s' % (self.count, kind), *numbers), 'big')

    def octets_of(self, columns) -> 'list[tuple[int, bytes]]':
        """{column: its lanes} -> as of Replies."""
        return [(at, lanes.to_bytes(8 * self.count, 'big')) for at, lanes in columns.items()]

    def idents(self, model, taken=0):
        """The identification of each answer, in lanes: Face.ident(), one after the other.

        taken   of so many it was asked for before
        """
        face, half = model.face, self.each(HALF)
        start = face.count + 1 - taken
        face.count += self.count - taken
        idents = count_lanes(self.count) + self.each(start & HALF)
        if face.idents[model.varies] == ID_FLOW:
            idents += self.src * face.mix >> 20 & half
            if self.proto == IP_TCP:
                idents += self.ports >> 16 & half
        return idents & half


class Openings(Alike):
    """TCP segments, SYNs above all.

    offer   what all of them offer, as far as we take it
    replies the column of the answers' numbers, octets as COLUMN_SEQ; None before
    """
    proto, replies, offer = IP_TCP, None, OFFER_NONE

    def __init__(self, frames, total):
        Alike.__init__(self, frames, total)
        self.masks = ALIKE_OPTION_MASKS if total > IPV4.size + TCP_HEADER.size else ALIKE_MASKS
        if total & 4:                           # the last word of the last column is padding
            self.lanes[-1] &= self.each(MASK32 << 32)

    def numbers(self) -> 'list[tuple]':
        """The same, then seq and ack."""
        return Alike.numbers(self) + [
            self.distinct(self.first(COLUMN_SEQ), '!I4x', COLUMN_SEQ),
            self.distinct(self.second(COLUMN_SEQ), '!4xI', COLUMN_SEQ)]

    def is_one_offer(self, face) -> bool:
        """Whether all offer a Face the same behind their MSS; their timestamps may differ."""
        at = ETHER.size + IPV4.size + TCP_HEADER.size + 2
        options = self.head[at:at + self.total + ETHER.size + 2 - at]
        self.offer = offer = face.take_offer(options)[0]
        if offer.at % 4:
            return False
        for at, mask in enumerate(offer_masks(self.total, offer.at), COLUMN_OPTION):
            first = from_octets(self.head[16 + 8 * at:24 + 8 * at].ljust(8, b'\0'), 'big')
            if self.lanes[at] & self.each(mask) != self.each(first & mask):
                return False
        return True

    def steps(self):
        """What each client offers, as it stands in a cookie, in lanes."""
        scale = self.offer.scale << COOKIE_PLAIN[0]
        if len(self.lanes) == COLUMN_OPTION:
            return self.each(MSS_STEP[MSS_DEFAULT4] | scale)
        sizes = self.distinct(self.first(COLUMN_OPTION) & self.each(HALF), '!2xH4x', COLUMN_OPTION)
        if len(sizes) == 1:
            return self.each(MSS_STEP[sizes[0]] | scale)
        return self.pack('Q', [MSS_STEP[size] | scale for size in sizes])

    def draw(self, key):
        """The keyed hash of each flow, in lanes: 0.1 us each.

        As Cookies.make() has it, without any Python between one hash and the next.
        """
        block = bytearray((key + bytes(12)) * self.count)
        words, at, step = memoryview(block).cast('I'), len(key) // 4, len(key) // 4 + 3
        src, dst = (memoryview(self.octets[each]).cast('I') for each in (COLUMN_SRC, COLUMN_DST))
        words[at::step], words[at + 1::step], words[at + 2::step] = src[1::2], dst[::2], dst[1::2]
        return self.pack('q', map(flow_hash, cut_rows('%ds' % (4 * step), block)))

    def cookies(self, make, known):
        """The sequence number of each flow, of its hash, not yet mixed with an offer, in lanes."""
        place = known + (self.first(COLUMN_SEQ) << make.bits) & self.each(make.place)
        return known & self.each(make.hash) | place

    def stamps(self, stack, known):
        """Our timestamp for each, of its hash as of Face.offset(), and its own, in lanes."""
        face, (at, half) = stack.face, divmod(self.offer.at, 8)
        clock = stack.ticks + face.epoch & MASK32
        ours = (known >> 32 & self.each(face.spread)) + self.each(clock)
        at += COLUMN_OPTION
        return ours & self.each(MASK32), self.second(at) if half else self.first(at)

    def answers(self, stack) -> 'Replies':
        """-> the SYN+ACK to each, as Stack.answer_frame() would pack it.

        A checksum is what is missing of 65535, so that 0 comes out where 0 is due.
        """
        each, ports, half = self.each, self.ports, self.each(HALF)
        model = stack.syn_acks[self.offer.bits]
        known = self.draw(stack.cookies.key)
        cookies = self.cookies(stack.cookies, known) ^ self.steps()
        acks = self.first(COLUMN_SEQ) + self.ones & each(MASK32)
        total4, total = self.sums + each(model.sum4), self.sums + ports + cookies + acks
        more = {}
        if model.stamp:
            ours, theirs = self.stamps(stack, known)
            total += ours + theirs
            more = self.stamp_columns(model, ours, theirs)
        if model.varies is not None:
            idents = self.idents(model)
            total4 += idents
            more[COLUMN_LENGTH] = idents << 16 | each(model.columns[COLUMN_LENGTH])
        columns = {
            COLUMN_SRC: half ^ self.fold(total4), COLUMN_DST: self.src << 32 | ports >> 16 & half,
            COLUMN_SEQ: cookies << 32 | acks,
            COLUMN_FLAGS: (half ^ self.fold(total + each(model.sum))) << 16}
        columns[COLUMN_SRC] <<= 32
        columns[COLUMN_SRC] |= self.dst | each(model.columns[COLUMN_SRC])
        columns[COLUMN_DST] |= (ports & half) << 16
        columns[COLUMN_FLAGS] |= each(model.columns[COLUMN_FLAGS])
        columns.update(more)
        octets = self.octets_of(columns)
        self.replies = octets[2][1]
        return Replies(self.head[8:14] + model.frame[6:], octets, self.count)

    def stamp_columns(self, model, ours, theirs):
        """Our timestamps and the clients', in lanes -> {column: its lanes}."""
        at, half = divmod(model.stamp, 8)
        at += COLUMN_OPTION
        if not half:
            return {at: ours << 32 | theirs}
        return {at: ours | self.each(model.columns[at]),
                at + 1: theirs << 32 | self.each(model.columns[at + 1])}

    def segments(self, rows) -> 'tuple[Segment, Segment]':
        """What the log shows of what came and of the answers, once these are made."""
        sport, dport, seq, ack, seq2, ack2 = map(rows.number, self.numbers() + [
            unpack_rows('!I4x', self.replies), unpack_rows('!4xI', self.replies)])
        segment = Segment('tcp', SYN, (sport, dport), (seq, ack))
        return segment, segment._replace(what=SYN | ACK, numbers=(seq2, ack2))


class Datagrams(Alike):
    """Datagrams to one port with one message, but for an id: COLUMN_SEQ has it behind the sizes.

    id_at, id_end   where it stands among the first ID_END octets of the message; 0, 0: nowhere
    port            ours that answers, after answers()
    """
    proto, deep, port = IP_UDP, DATAGRAM_DEEP, None

    def __init__(self, frames, total, id_at, id_end):
        Alike.__init__(self, frames, total)
        self.id_at, self.id_end = id_at, id_end
        self.masks = datagram_masks(id_at, id_end)
        self.behind = from_octets(self.head[2 + self.deep:], 'big') % HALF

    def has_sums(self) -> bool:
        """Whether any has a checksum (RFC 768: it need not)."""
        return self.lanes[COLUMN_SEQ] & self.each(HALF << 32) != 0

    def ids(self) -> tuple:
        """The id of each, a number."""
        layout = '!%dx%s%dx' % (4 + self.id_at, 'H' if self.id_end - self.id_at == 2 else 'I',
                                ID_END - self.id_end)
        return unpack_rows(layout, self.octets[COLUMN_SEQ])

    def in_doubt(self, barred) -> 'list[int]':
        """What Kept.barred says -> places of those whose id may be another protocol's."""
        if not barred:
            return []
        firsts = self.octets[COLUMN_SEQ][4 + self.id_at::8]
        table = firsts_in_doubt(barred, 8 * (self.id_end - self.id_at - 1))
        ids = self.ids()
        return [place for place in itertools.compress(range(self.count), firsts.translate(table))
                if any([ids[place] & mask in values for mask, values in barred])]

    def answers(self, model, first, port) -> 'Replies':
        """The Model, the answer to the first as a frame, our port in it -> that to each.

        As Model.pack_datagram() would pack it; a checksum that comes out as 0 is sent as 65535.
        """
        each, half, self.port = self.each, self.each(HALF), port
        total, size = len(first) - ETHER.size, len(first) - ETHER.size - IPV4.size
        shift = 8 * (ID_END - self.id_end)
        mask = (1 << 8 * (self.id_end - self.id_at)) - 1 << shift
        out = first[MESSAGE4_AT:]
        out = out[:self.id_at] + bytes(self.id_end - self.id_at) + out[self.id_end:]
        word = from_octets(out[:ID_END].ljust(ID_END, b'\0'), 'big')
        rest = (from_octets(out, 'big') << 8 * (size & 1)) + 2 * size + port + model.bare
        ids, sports = self.lanes[COLUMN_SEQ] & each(mask), self.ports >> 16 & half
        total4, more = self.sums + each((total + model.bare4) % HALF), {}
        if model.varies is not None:
            idents = self.idents(model, 1)
            total4 += idents
            more[COLUMN_LENGTH] = each(from_octets(first[14:18] + first[20:22].rjust(4, b'\0'),
                                                   'big')) | idents << 16
        sums4 = half ^ self.fold(total4)
        sums = self.fold(each(HALF << 20) - (self.sums + sports + ids + each(rest % HALF)))
        columns = {COLUMN_SRC: sums4 << 32 | self.dst | each(model.columns[COLUMN_SRC]),
                   COLUMN_DST: self.src << 32 | each(port << 16) | sports,
                   COLUMN_SEQ: each(size << 48 | word) | sums << 32 | ids}
        columns.update(more)
        return Replies(first, self.octets_of(columns), self.count)

    def segments(self, rows):
        """As of Openings."""
        sport, dport = map(rows.number, self.numbers())
        segment = Segment('udp', None, (sport, dport), None)
        return segment, segment._replace(ports=(sport, self.port))


class Segments(Alike):
    """TCP segments to one port, all with the same flags, data, and with or without a timestamp.

    at      octets of a frame before the data; data: these, empty in a bare ACK or FIN
    flags   all of them
    """
    proto = IP_TCP

    def __init__(self, frames, total, at):
        self.deep, self.at = SEGMENT_DEEP[at], at
        Alike.__init__(self, frames, total)
        self.masks = segment_masks(at)
        self.behind = from_octets(self.head[2 + self.deep:], 'big') % HALF
        self.data, self.flags = frames[0][at:], frames[0][FLAGS4_AT]

    def rows(self):
        """-> (flow, seq, ack, window, its timestamp and its echo of ours, or None) of each."""
        numbers = self.octets[COLUMN_SEQ]
        stamps = (itertools.repeat(None),) * 2
        if self.at > PLAIN4.size:
            stamps = (unpack_rows('!4xI', self.octets[COLUMN_OPTION]),
                      unpack_rows('!I4x', self.octets[COLUMN_OPTION + 1]))
        return zip(self.flows(), unpack_rows('!I4x', numbers), unpack_rows('!4xI', numbers),
                   unpack_rows('!2xH4x', self.octets[COLUMN_FLAGS]), *stamps)

    def answers(self, model, flags, out, window, clocks) -> 'Replies':
        """Flags, data and window of all answers -> them, as Model.pack_segment() would pack them.

        Each says in turn what its client says: his acknowledgement, and that all has come.

        clocks  our timestamp for each, if they have one
        """
        each, half, word = self.each, self.each(HALF), self.each(MASK32)
        option = STAMP_BEGIN + bytes(8) if self.at > PLAIN4.size else b''
        count = model.face.count
        first = model.pack_segment(self.head[8:14], 0, 0, 0, 0, 0, 0, flags, out, option, window)
        model.face.count = count                # it is the first once more
        seq, sport, dport = self.second(COLUMN_SEQ), self.ports & half, self.ports >> 16 & half
        ack = self.first(COLUMN_SEQ) + each(len(self.data) + (self.flags & FIN)) & word
        rest = from_octets(first[46:50], 'big') + len(first) - 34 + model.bare + (
            from_octets(option + out, 'big') << 8 * (len(out) & 1)) % HALF
        total4 = self.sums + each(model.bare4 + len(first) - ETHER.size)
        total = self.sums + sport + dport + seq + ack + each(rest)
        blank = first[:24] + bytes(10) + first[34:50] + bytes(2) + first[52:]
        columns, more = {}, {}
        if option:
            ours, theirs = self.pack('Q', clocks), self.second(COLUMN_OPTION)
            total += ours + theirs
            behind = from_octets(first[66:70].ljust(4, b'\0'), 'big')
            more = {COLUMN_OPTION: each(from_octets(STAMP_BEGIN, 'big') << 32) | ours,
                    COLUMN_OPTION + 1: theirs << 32 | each(behind)}
        if model.varies is not None:
            idents = self.idents(model)
            total4 += idents
            columns[COLUMN_LENGTH] = idents << 16 | each(
                from_octets(first[14:18] + bytes(2) + first[20:22], 'big'))
        columns[COLUMN_SRC] = (each(from_octets(first[22:24], 'big') << 48)
                               | (half ^ self.fold(total4)) << 32 | self.dst)
        columns[COLUMN_DST] = self.src << 32 | sport << 16 | dport
        columns[COLUMN_SEQ] = seq << 32 | ack
        columns[COLUMN_FLAGS] = (each(from_octets(first[46:50], 'big') << 32)
                                 | (half ^ self.fold(total)) << 16)
        columns.update(more)
        return Replies(blank, self.octets_of(columns), self.count)


class Replies:
    """Frames that differ in columns, to be iterated over or, uncut, to be copied into a ring.

    pattern one of them, of whatever octets where they differ
    columns [(which of 8 octets, their octets)], those that differ
    count   of frames
    """

    def __init__(self, pattern, columns, count):
        self.pattern, self.columns, self.count = pattern, columns, count

    def __len__(self):
        return self.count

    def __iter__(self):
        size = len(self.pattern)
        gap = -(2 + size) % 8
        return iter(cut_rows('2x%ds%dx' % (size, gap), self.rows(bytes(2), 2 + size + gap)))

    def __getitem__(self, part):
        """A slice of them."""
        start, end, _ = part.indices(self.count)
        return Replies(self.pattern, [(at, octets[8 * start:8 * end])
                                      for at, octets in self.columns], end - start)

    def rows(self, head, size):
        """A head, of 2 octets more than a multiple of 8 -> rows of a size: it and a frame."""
        block = bytearray((head + self.pattern).ljust(size, b'\0') * self.count)
        quads, first = memoryview(block).cast('Q'), (len(head) + ETHER.size) // 8
        for at, octets in self.columns:
            quads[first + at::size // 8] = memoryview(octets).cast('Q')
        return block


@functools.lru_cache(maxsize=256)
def one_lanes(count):
    """1 in each lane of so many."""
    return from_octets(ONE_LANE * count, 'big')


@functools.lru_cache(maxsize=256)
def fill_lanes(count, number):
    """A number in each lane of so many."""
    return one_lanes(count) * number


@functools.lru_cache(maxsize=256)
def count_lanes(count):
    """0, 1, 2 ... in so many lanes."""
    return from_octets(struct.pack('!%dQ' % count, *range(count)), 'big')


@functools.lru_cache(maxsize=256)
def offer_masks(total, at) -> 'list[int]':
    """Octets of the packet of a SYN, where its timestamp stands -> masks of the option columns.

    They leave out what may differ: the MSS, value and echo of the timestamp.
    """
    size = total - IPV4.size - TCP_HEADER.size
    mask = bytearray(b'\xff' * size + bytes(-size % 8))
    mask[2:4] = bytes(2)
    if at:
        mask[at:at + TCP_STAMPS.size] = bytes(TCP_STAMPS.size)
    return [from_octets(mask[at:at + 8], 'big') for at in range(0, len(mask), 8)]


@functools.lru_cache(maxsize=256)
def row_struct(layout, count):
    """The layout of a row -> that of so many."""
    return struct.Struct(layout[:1] + layout[1:] * count)


def unpack_rows(layout, block) -> tuple:
    """Rows of a layout with its byte order, one behind the other -> all their values.

    One Struct for all rows: 16 ns for a value of octets where iter_unpack() takes 57.
    """
    return row_struct(layout, len(block) // struct.calcsize(layout)).unpack(block)


def cut_rows(layout, block) -> 'list[bytes]':
    """Rows of a layout without byte order -> the piece of octets of each."""
    if sys.implementation.name != 'cpython':    # 240 ns each with PyPy, 690 by one Struct
        return [piece for piece, in struct.iter_unpack('=' + layout, block)]
    return list(unpack_rows('=' + layout, block))


def is_any_in(members, numbers) -> bool:
    """Whether any of the numbers is a member; 11 ns each of a frozenset, not 25."""
    if isinstance(members, frozenset):
        return not members.isdisjoint(numbers)
    return any(map(members.__contains__, numbers))


# ---- layers ----

# TCP offset and flags of a plain SYN, or of whatever can go in columns: octets of the IPv4 packet
SYN_TOTALS = {size << 10 | SYN: IPV4.size + size for size in range(20, 64, 4)}
ALIKE_TOTALS = dict(SYN_TOTALS)
ALIKE_TOTALS.update({TCP_HEADER.size << 10 | flags: IPV4.size + TCP_HEADER.size
                     for flags in (RST, RST | ACK)})


def first_unicast(ranges, size) -> 'bytes | None':
    """The first address of a list that can be a source, 4 or 16 octets."""
    least, end = (1 << 24, 0xe0000000) if size == 4 else (1, 0xff << 120)
    for first, last in ranges:
        if max(first, least) <= min(last, end - 1):
            return max(first, least).to_bytes(size, 'big')
    return None


# Where the responder stands: what it must know of the interface and its host.
#   hosts       the host's own addresses, as objects of ipaddress
#   broadcasts  network and broadcast addresses of the interface's own networks, numbers of IPv4
#   gateways    the host's default routers, as objects of ipaddress
#   loopback    whether it is a loopback interface: only there do clients have such addresses
#   ethernet    whether there are MACs, and neighbours to be asked for them
Place = collections.namedtuple('Place', 'hosts broadcasts gateways loopback ethernet')
NO_PLACE = Place(frozenset(), frozenset(), frozenset(), False, True)


class Family:
    """What the stack must know of IPv4 or IPv6.

    own     addresses answered for, as numbers; None: every one
    shared  those of the list that the host itself has, too: its kernel answers for them as well
    barred  sources that no client has: addresses of ours, and broadcasts
    groups  IPv4: broadcast and multicast addresses at which we listen
    lows    lowest bits, as multicast MACs have them, of the addresses we are called by
    source  the unicast address that answers multicast requests, octets; None: silence
    deny    clients never answered, False when there are none
    header  octets of the IP header; mss: our MSS
    openings    Opening by OFFER_... bits; terms: Terms by their index
    """
    __slots__ = ('own', 'shared', 'barred', 'groups', 'lows', 'source', 'deny', 'header', 'mss',
                 'openings', 'terms')

    def __init__(self, own, deny, version, place, mtu, face):
        four = version == 4
        size = 4 if four else 16
        bits = IPV4_GROUP_BITS if four else IPV6_SOLICITED_BITS
        broadcasts = place.broadcasts if four else frozenset()
        own = own and own.without(broadcasts)
        self.own = own.members if own else None
        self.shared = frozenset(int(each) for each in place.hosts if own
                                and each.version == version and int(each) in own.members)
        self.groups = broadcasts | {IPV4_ALL_HOSTS, IPV4_BROADCAST} if four else frozenset()
        self.lows = Ranges(own.lowest_bits(bits) if own else [])
        self.source = first_unicast(own.ranges, size) if own else None
        self.deny = deny.members if deny else False
        self.barred = broadcasts
        if own and broadcasts:
            self.barred = Addresses(own.ranges + [(each, each) for each in broadcasts]).members
        elif own:
            self.barred = self.own
        self.header = IPV4.size if four else IPV6.size
        self.fit(mtu, face)

    def fit(self, mtu, face):
        """The MTU decides our MSS."""
        self.mss = face.mss(mtu, self.header)
        self.openings = [face.opening(bits, self.mss) for bits in range(8)]
        self.terms = [face.terms(index if face.scale is not None else index & TERMS_STAMP,
                                 self.mss) for index in range(8)]


class Stack:
    """Layers 2 to 4: frame in, frames out.

    own4, own6      Addresses or None: every address
    deny4, deny6    Addresses or None: nobody
    lists, place    these four, and the Place we are at
    claims          Claims: hears when somebody else has an address of ours; or None
    now             Unix time, set by tick()
    answer_tail     what the Ethernet header of each answer over IPv4 has behind the client's MAC
    face            the Face we show
    plain           what PLAIN_MASK leaves of a plain frame to us; plain_words: in words
    segment, datagram, echo     Models of answers over IPv4; syn_acks: by OFFER_... bits
    by_flags        Models of segments, by RST, SYN and FIN as a number
    ticks           of our timestamps now; skew: what the clock was set by, in milliseconds
    unclaimed       {(our port, datagram)} of this round that no protocol claims
    store           the Store
    fate            why the last frame was dropped: 'layer reason'; None: it was answered
    counts          {fate: how often}
    spoken          {name of a protocol: its answers}
    faults          the first [(exception, frame)] that were our bugs
    received, sent  frames; unasked: frames sent that nobody asked for
    openings        the Openings answered last, for the log; None
    greet_s         how long a client may speak before we do; None: we never speak first
    greeting        the ports where we do, as octets
    timers          connections to be looked after
    work            (flow, Conn) of those whose answerers wait for their turn, the first first
    refusals        Budget of RSTs to segments of no connection; None: they get silence
    ports           {transport: set of the ports that are open}; what is not there: all of them
    silent          ports that are closed say nothing
    unreachables    Budget of ICMP errors, by client
    challenges      [challenge ACKs that may still go, when that was so]; farewells: FIN and RST
            that end connections
    """

    def __init__(self, mac, own4=None, own6=None, deny4=None, deny6=None, mtu=1500, host=None,
                 budget=None, verify=True, connections=None, greet_s=GREET_S, face=None,
                 place=NO_PLACE, refusals=None, store=None, ports=None, silent=False):
        self.mac, self.verify = mac, verify
        self.ports, self.silent = ports or {}, silent
        self.unreachables = Budget(*UNREACHABLES)
        self.face = face or Face()
        self.ticks = self.skew = 0
        self.claims = None
        self.host = host or Host()
        rude = self.host.original               # which greets nobody and refuses nobody
        self.refusals = None if rude else refusals
        self.greet_s = None if rude else greet_s
        self.greeting = frozenset(
            port.to_bytes(2, 'big') for port in
            (self.host.registry.greeters if self.greet_s is not None else ())
            if port not in SECURE_PORTS)
        self.timers, self.work = Timers(), collections.deque()
        self.challenges = [CHALLENGE_RATE, 0.0]
        self.farewells = [FAREWELL_RATE, 0.0]
        self.macs = frozenset((mac, MAC_BROADCAST, MAC_ALL_NODES))
        self.answer_tail = mac + ETHERTYPE_IPV4.to_bytes(2, 'big')
        self.plain = plain_value(mac)
        self.plain_words = PLAIN_WORDS.unpack(self.plain.to_bytes(PLAIN_END, 'big'))
        self.mtu = mtu
        self.store = Store() if store is None else store
        self.set_addresses(own4, own6, deny4, deny6, place)
        self.make_models()
        self.budget = budget or Budget()
        self.cookies = Cookies(self.host.random, COOKIE_PLAIN if self.face.scale is None
                               else COOKIE_SCALED)
        self.connections = connections or Connections()
        self.counts, self.spoken = collections.Counter(), collections.Counter()
        self.faults = []
        self.fate = None
        self.received, self.sent, self.openings = 0, 0, None
        self.unasked = 0
        self.handlers = {ETHERTYPE_ARP: self.answer_arp, ETHERTYPE_IPV4: self.answer_ipv4,
                         ETHERTYPE_IPV6: self.answer_ipv6}
        self.unclaimed = set()
        self.tick(time.time())

    def set_addresses(self, own4, own6, deny4, deny6, place):
        """Lists and surroundings, at the start and whenever they change."""
        self.lists, self.place = (own4, own6, deny4, deny6), place
        self.store.clear()
        self.four = Family(own4, deny4, 4, place, self.mtu, self.face)
        self.six = Family(own6, deny6, 6, place, self.mtu, self.face)
        if own4 or own6:                        # a list of one family is none of the other
            self.four.own = self.four.own or frozenset()
            self.six.own = self.six.own or frozenset()
        else:
            self.six.lows = Ranges([(0, (1 << IPV6_SOLICITED_BITS) - 1)])

    def set_mtu(self, mtu):
        """The MTU has changed."""
        self.mtu = mtu
        self.four.fit(mtu, self.face)
        self.six.fit(mtu, self.face)
        self.make_models()

    def make_models(self):
        """What the layers answer to requests of zeros, for the short cuts to patch."""
        zero, ports = bytes(4), (bytes(4), bytes(4), 0, 0)
        head = bytes(6) + self.mac + ETHERTYPE_IPV4.to_bytes(2, 'big')
        def model(proto, data, at=0):
            return Model(head + self.face.pack_ipv4(proto, zero, zero, data), self.face, at)
        self.syn_acks = [
            model(IP_TCP, self.face.pack_tcp(ports, 0, 0, SYN | ACK, b'', options, window), at)
            for options, window, at in self.four.openings]
        self.segment = model(IP_TCP, self.face.pack_tcp(ports, 0, 0, ACK, b'', b'', 0))
        reset = model(IP_TCP, self.face.pack_tcp(ports, 0, 0, RST, b'', b'', 0))
        self.by_flags = (self.segment,) * 2 + (self.syn_acks[0],) * 2 + (reset,) * 4
        self.datagram = model(IP_UDP, pack_udp(zero, zero, 0, 0, b''))
        self.echo = model(IP_ICMP, pack_icmp(ICMP_ECHO_REPLY, 0, b''))

    def set_place(self, place):
        """The surroundings have changed, the lists and the MTU have not."""
        if place != self.place:
            self.set_addresses(*self.lists, place)

    def is_group(self, mac) -> bool:
        """Whether a multicast MAC is one by which an address of ours is called."""
        kind, low = mac[:3], int.from_bytes(mac[3:], 'big')
        if kind == MAC_MULTICAST4:
            return low in self.four.lows or low == 1 and bool(self.four.own)
        return kind == MAC_SOLICITED and low in self.six.lows

    def tick(self, now) -> list:
        """The time of the frames that follow -> frames that are due without any."""
        self.now = now
        self.ticks = int(now * 1000) + self.skew
        self.unclaimed.clear()
        self.store.tick(now)
        self.cookies.tick(now)
        frames = self.end_idle() + self.tell_evicted()
        if self.host.tls:
            frames += self.end_displaced(self.host.tls.displaced)
        for due, flow in self.timers.pop_due(now):
            conn = self.connections.get(flow)
            if not conn:
                continue
            if conn.wake == due:
                frames += self.look_after(flow, conn)
            if conn.resumes == due:
                frames += self.resume(flow, conn)
            if conn.secure and conn.secure.greets == due:
                frames += self.go_on(flow, conn, conn.greet(conn.secure.greeter))
            if conn.deadline == due:
                frames += self.end(flow, conn)
        return frames + self.do_work() if self.work else frames

    def next_due(self) -> 'float | None':
        """When tick() has something to do; None: only frames will tell."""
        if self.connections.gone or self.work or (self.host.tls and self.host.tls.displaced):
            return self.now
        known = [self.timers.next_due()]
        if self.connections.table:              # who is idle now waits for a farewell's token
            known.append(max(self.connections.next_idle(), self.now + 1 / FAREWELL_RATE))
        return min((each for each in known if each is not None), default=None)

    def drop(self, fate):
        """Count a frame that gets no answer -> no frames."""
        self.fate = fate
        self.counts[fate] += 1
        return ()

    def fault(self, error, frame):
        """A bug of ours: keep the first frames for the report, go on."""
        self.drop('eth fault')
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append((error, frame))
        return ()

    def answer_frame(self, frame: bytes, trusted=False):
        """Frame -> frames to send, in order.

        trusted     the kernel vouches for the checksums of layer 4, or has not filled them in

        Plain TCP and UDP over IPv4, nearly all that knocks on a sensor, is read here as the
        layers below would do it, in one step, and packed in another: 1.2 us for a SYN, 1.3 for a
        bare ACK instead of 4 and 3 (CPython 3.11).  Whatever is special is left to them.  Sums
        of 32-bit numbers serve modulo 65535, too.
        """
        if len(frame) < PLAIN4.size:
            return self.answer_ether(frame, trusted)
        if (from_octets(frame[:PLAIN_END], 'big') & PLAIN_MASK != self.plain if HAS_QUICK_BIG_INTS
                else self.is_special(frame)):
            return self.answer_ether(frame, trusted)
        (client, total, proto, src, our, sport, dport, seq, ack, word,
         window) = PLAIN4.unpack_from(frame)
        four = self.four
        own, barred = four.own, four.barred
        deny = four.deny
        if (not IS_UNICAST_FIRST[src >> 24] or not IS_UNICAST_FIRST[our >> 24]
                or client == self.mac or deny and src in deny or src in barred
                or (src == our or our in barred if own is None else our not in own)):
            return self.answer_ether(frame, trusted)
        end = ETHER.size + total
        if end > len(frame) or self.verify and from_octets(frame[14:34], 'big') % 0xffff:
            return self.answer_ether(frame, trusted)
        trusted = trusted or not self.verify
        if proto == IP_UDP:
            return self.answer_datagram4(frame, end, trusted, client, src, our, sport, dport, seq)
        if proto != IP_TCP:
            return self.answer_echo4(frame, end, trusted, client, src, our)
        if self.ports and self.is_closed(TCP, dport):
            return self.answer_ether(frame, trusted)
        if not trusted and ((from_octets(frame[26:end], 'big') << 8 * (total & 1))
                            + total - 14) % 0xffff:
            return self.answer_ether(frame, trusted)
        flow, out = frame[FLOW4_AT:38], None
        conn = self.connections.get(flow)
        if conn is None and total == SYN_TOTALS.get(word):
            return self.answer_opening4(flow, client, src, our, sport, dport, seq,
                                        frame[PLAIN4.size:end]),
        at = FLOW4_AT + 8 + (word >> 12) * 4
        if not PLAIN4.size <= at <= end:
            return self.answer_ether(frame, trusted)
        if at == end and word & BARE_FLAGS == ACK:
            if conn is None and not word & FIN:
                out = self.answer_first(flow, seq, ack, ACK, window, frame[PLAIN4.size:at], b'',
                                        client)
            elif conn.__class__ is Conn and (conn.recent is None or self.is_in_time(
                    conn, seq, frame[PLAIN4.size:at])):
                out = self.answer_bare(flow, conn, seq, ack, word & FIN, window)
        if out is None:
            out = self.take_segment(flow, seq, ack, word & FLAGS, window, frame[PLAIN4.size:at],
                                    frame[at:end], client)
        return out and [self.by_flags[each[2] & 7].pack_segment(client, src, our, sport, dport,
                                                                *each) for each in out]

    def is_special(self, frame) -> bool:
        """Whether PLAIN does not hold: by words, 20 ns with PyPy where one mask takes 110."""
        one, two, three, four, five, six = PLAIN_WORDS.unpack_from(frame)
        mask = PLAIN_MASKS
        return (one & mask[0], two & mask[1], three & mask[2], four & mask[3], five & mask[4],
                six & mask[5]) != self.plain_words

    def answer_opening4(self, flow, client, src, our, sport, dport, seq, options):
        """Plain SYN over IPv4, of no connection -> SYN+ACK; 1.8 us, by the layers 3.4."""
        mss = find_mss(options, MSS_DEFAULT4) if options else MSS_DEFAULT4
        if not self.face.offers:
            cookie, _ = self.cookies.make(flow, MSS_STEP[mss], seq)
            return self.syn_acks[0].pack_opening(client, src, our, sport, dport, cookie,
                                                 seq + 1 & MASK32)
        offer, stamp = self.face.take_offer(options)
        model, stamps = self.syn_acks[offer.bits], None
        cookie, draw = self.cookies.make(flow, MSS_STEP[mss] | offer.scale << COOKIE_PLAIN[0], seq)
        if model.stamp:
            stamps = self.ticks + self.face.offset(draw) & MASK32, from_octets(stamp, 'big')
        return model.pack_opening(client, src, our, sport, dport, cookie, seq + 1 & MASK32, stamps)

    def answer_echo4(self, frame, end, trusted, client, src, our):
        """Plain echo request over IPv4 -> echo reply; anything else is for the layers."""
        data = frame[FLOW4_AT + 8:end]
        if frame[23] != IP_ICMP or not data.startswith(ECHO) or len(data) < ICMP.size or not (
                trusted or is_intact(data)):
            return self.answer_ether(frame, trusted)
        answer = pack_icmp(ICMP_ECHO_REPLY, 0, data[ICMP.size:])
        return self.echo.pack_packet(client, src, our, answer),

    def answer_datagram4(self, frame, end, trusted, client, src, our, sport, dport, word):
        """Plain UDP over IPv4 -> the frame that answers it; word: its size and sum."""
        size, total = word >> 16, word & HALF
        ends = FLOW4_AT + 8 + size
        if not UDP_HEADER.size <= size <= end - FLOW4_AT - 8 or total and not trusted and (
                (from_octets(frame[26:ends], 'big') << 8 * (size & 1)) + IP_UDP + size) % 0xffff:
            return self.answer_ether(frame, trusted)
        if self.ports and self.is_closed(UDP, dport):
            return self.answer_ether(frame, trusted)
        said = self.take_datagram(frame[26:30], frame[30:34], sport, dport, frame[42:ends])
        if not said:
            return ()
        port, out = said
        return self.datagram.pack_datagram(client, src, our, sport, port, out),

    def answer_alike(self, frames, trusted=False) -> 'Replies | tuple | None':
        """Plain SYNs or RSTs over IPv4, alike and of no connection -> the answer to each, or none.

        Datagrams, too, if the Store knows what they ask.
        None if any of them is something else; then nothing is answered, and nothing counted.
        """
        if frames[0][PROTO4_AT:PROTO4_AT + 1] == UDP_OCTET:
            return self.answer_datagrams(frames, trusted)
        columns = self.line_up(frames, trusted)
        if columns is None:
            return None
        if frames[0][FLAGS4_AT] != SYN:
            self.fate = 'tcp reset'
            self.counts[self.fate] += len(frames)
            return ()
        self.openings = columns
        return columns.answers(self)

    def answer_datagrams(self, frames, trusted) -> 'Replies | None':
        """Plain datagrams over IPv4 that ask one thing, which is known -> the answer to each.

        As take_datagram() of each, where nobody listens; or None, as answer_alike().
        """
        first = frames[0]
        if self.host.events is not None or len(first) < DATAGRAM_DEEP or self.is_odd(first):
            return None
        client, total, _, src, our, sport, dport, word, _, _, _ = PLAIN4.unpack_from(first)
        if self.is_closed(UDP, dport):
            return None
        end = ETHER.size + total
        data = first[MESSAGE4_AT:end]
        kept, out, _ = self.store.find(UDP, data, first[30:34], dport) or NOT_KEPT
        if not (kept and kept.span in ALIKE_IDS and DATAGRAM_DEEP <= end <= min(map(len, frames))
                and word >> 16 == total - IPV4.size and client != self.mac
                and not self.judge_answer(kept.protocol, data, out, IPV4.size)):
            return None
        alike = first[30:34] if kept.by_dst else b''    # a few are asked before all are: 3 ns
        if any([frame[36:40] != first[36:40] or not frame.startswith(alike, 30)
                for frame in frames[::16]]):
            return None
        columns = Datagrams([frame[:end] for frame in frames], total, *kept.span)
        if not (columns.is_plain() and not (alike and len(columns.ours()) > 1)
                and self.are_served(columns) and (not self.verify or columns.is_intact(
                    trusted or not columns.has_sums()))):
            return None
        if not self.are_known(columns, kept) or not self.budget.take_all(
                columns.srcs(), len(frames), len(out) > len(data), self.now):
            return None
        self.spoken[kept.protocol.name] += len(frames)
        self.openings, port = columns, dport if kept.port is None else kept.port
        return columns.answers(self.datagram, self.datagram.pack_datagram(
            client, src, our, sport, port, out), port)

    def answer_segments(self, frames, trusted=False) -> 'tuple[list, Replies | tuple] | None':
        """Plain TCP segments over IPv4, alike -> (places of those taken, their answers or ()).

        As answer_frame() takes each that is as simple as most are.  None: none is, and nothing is
        counted.
        """
        columns, self.openings = self.line_up_segments(frames, trusted), None
        if columns is None:
            return None
        if not (columns.data or columns.flags & FIN):
            self.fate = 'tcp bare ack'
            return self.take_acks(columns), ()
        found = self.say_known(columns) if columns.data else self.end_all_too(columns)
        if not found:
            return None
        places, clocks, flags, out, window = found
        if len(places) < len(frames):
            frames = [frames[place][:ETHER.size + columns.total] for place in places]
            columns = Segments(frames, columns.total, columns.at)
        return places, columns.answers(self.segment, flags, out, window, clocks)

    def line_up_segments(self, frames, trusted) -> 'Segments | None':
        """Frames -> their columns, if all are plain, alike, intact and served."""
        first = frames[0]
        if len(first) < PLAIN4.size or self.is_odd(first):
            return None
        client, total, proto, _, _, _, dport, _, _, word, _ = PLAIN4.unpack_from(first)
        end, at = ETHER.size + total, PLAIN4.size - TCP_HEADER.size + (word >> 12) * 4
        if (proto != IP_TCP or word not in SEGMENT_RANKS or client == self.mac
                or self.is_closed(TCP, dport) or not at <= end <= min(map(len, frames))
                or (end > at) != bool(word & PSH)
                or (at > PLAIN4.size and not first.startswith(STAMP_BEGIN, PLAIN4.size))):
            return None
        columns = Segments([frame[:end] for frame in frames], total, at)
        if not (columns.is_plain() and self.are_served(columns)
                and (not self.verify or columns.is_intact(trusted))):
            return None
        return columns

    def take_acks(self, columns) -> 'list[int]':
        """Bare ACKs -> places of those that were taken as take_segment() would take them."""
        places, get, greeting, shakes = [], self.connections.get, self.greeting, 0
        for place, (flow, seq, ack, window, value, echo) in enumerate(columns.rows()):
            conn = get(flow)
            if conn is None:
                if flow[-2:] not in greeting and self.read_agreed(flow, seq, ack, value, echo):
                    shakes += 1
                    places.append(place)
            elif conn.__class__ is Conn and self.is_next(conn, seq, value) and (
                    self.answer_bare(flow, conn, seq, ack, 0, window) is not None):
                places.append(place)
        self.counts['tcp bare ack'] += shakes
        return places

    def read_agreed(self, flow, seq, ack, value, echo):
        """The first segment of a connection -> as of make_conn(); None: it is none, or special."""
        offer, beyond, draw = self.cookies.read(flow, seq, ack) or NO_COOKIE
        if beyond:
            return None
        if value is None or not self.face.offers & OFFER_STAMP:
            return offer, None, draw
        return (offer, value, draw) if self.is_echo(draw, echo) else None

    def end_all_too(self, columns) -> tuple:
        """FINs -> (places of those that are answered, as of Segments.answers()), or ()."""
        places, clocks, alike = [], [], None
        for place, (flow, seq, ack, window, value, _) in enumerate(columns.rows()):
            conn = self.connections.get(flow)
            if conn.__class__ is not Conn or (conn.recent is None) != (value is None):
                continue
            look = bool(conn.fin), conn.terms.window
            if (alike or look) != look or not self.is_next(conn, seq, value) or (
                    self.answer_bare(flow, conn, seq, ack, FIN, window) is None):
                continue
            alike = look
            places.append(place)
            clocks.append(self.ticks + conn.offset & MASK32)
        if not places:
            return ()
        return places, clocks, ACK if alike[0] else ACK | FIN, b'', alike[1]

    def say_known(self, columns) -> tuple:
        """What the Store knows, said first on connections -> as end_all_too()."""
        head, size = columns.head, len(columns.data)
        dport, connections = from_octets(head[38:40], 'big'), self.connections
        kept, out, doubt = self.store.find(TCP, columns.data, head[32:36], dport) or NOT_KEPT
        if not kept or doubt or not out or kept.by_dst or kept.state is not None or (
                self.host.events is not None or self.host.keep is not None or
                columns.at > PLAIN4.size and not self.face.offers & OFFER_STAMP):
            return ()
        places, clocks, shown = [], [], None
        for place, (flow, seq, ack, window, value, echo) in enumerate(columns.rows()):
            if connections.get(flow):
                continue
            agreed = self.read_agreed(flow, seq, ack, value, echo)
            if not agreed:
                continue
            conn = self.make_conn(flow, seq + size & MASK32, ack, head[8:14], agreed)
            conn.window, window = window << conn.terms.scale, conn.terms.window
            if shown not in (None, window) or len(out) > min(conn.window, conn.mss):
                continue
            shown = window
            connections.add(flow, conn)
            self.say_again(flow, conn, kept, out)
            places.append(place)
            clocks.append(self.ticks + conn.offset & MASK32)
        return places and (places, clocks, ACK | PSH | (FIN if kept.closing else 0), out, shown)

    def are_known(self, columns, kept) -> bool:
        """Whether no id makes a datagram another protocol's, see Kept.barred."""
        for place in columns.in_doubt(kept.barred):
            at = place * columns.row + 2
            frame = columns.block[at:at + ETHER.size + columns.total]
            _, _, _, _, _, sport, dport, _, _, _, _ = PLAIN4.unpack_from(frame)
            peer = Peer(UDP, frame[26:30], frame[30:34], sport, dport, self.now, self.host)
            if self.host.registry.find(frame[MESSAGE4_AT:], peer) is not kept.protocol:
                return False
        return True

    def is_odd(self, frame) -> bool:
        """Whether PLAIN does not hold for a frame; by its mask."""
        return from_octets(frame[:PLAIN_END], 'big') & PLAIN_MASK != self.plain

    def line_up(self, frames, trusted) -> 'Openings | None':
        """Frames -> their columns, if all are plain, alike, intact, served, of no connection."""
        sizes = list(map(len, frames))
        if min(sizes) < PLAIN4.size:
            return None
        total, flags = self.alike_size(frames[0]), frames[0][FLAGS4_AT]
        # a few are asked before all are: where a scanner's RSTs are among its SYNs, 3 ns, not 80
        if not total or any([frame[FLAGS4_AT] != flags for frame in frames[::16]]):
            return None
        if sizes.count(sizes[0]) != len(sizes):         # real cards pad to 60 octets
            end = ETHER.size + total
            if min(sizes) < end:
                return None
            frames = [frame[:end] for frame in frames]
        columns = Openings(frames, total)
        if not (columns.is_plain() and self.are_served(columns)
                and (not self.verify or columns.is_intact(trusted))):
            return None
        if self.face.offers and len(columns.lanes) > COLUMN_OPTION and not (
                columns.is_one_offer(self.face)):
            return None
        table = self.connections.table
        if table and any(map(table.__contains__, columns.flows())):
            return None                         # what comes on a connection, the layers take
        if TCP in self.ports and not self.ports[TCP].issuperset(columns.numbers()[1]):
            return None
        return columns

    def alike_size(self, frame):
        """Octets of the IPv4 packet, if a frame is plain and can go in columns; 0: it is not."""
        if self.is_odd(frame):
            return 0
        client, total, proto, _, _, _, _, _, _, word, _ = PLAIN4.unpack_from(frame)
        if (proto != IP_TCP or client == self.mac or total != ALIKE_TOTALS.get(word)
                or ETHER.size + total > len(frame)):
            return 0
        at = PLAIN4.size
        if total > at - ETHER.size and not frame.startswith(MSS_OPTION_BEGIN, at):
            return 0
        return total

    def are_served(self, openings) -> bool:
        """Whether all clients are served, and all addresses they ask for are ours."""
        four = self.four
        own, barred = four.own, four.barred
        deny = four.deny
        if not openings.is_unicast() or deny and is_any_in(deny, openings.srcs()):
            return False
        if barred and is_any_in(barred, openings.srcs()):
            return False
        if own is not None:
            return all(map(own.__contains__, openings.ours()))
        return openings.is_between_two() and not (barred and is_any_in(barred, openings.ours()))

    def answer_ether(self, frame, trusted):
        """IEEE 802.3, with up to two VLAN tags: the answer carries the same."""
        if len(frame) < ETHER.size:
            return self.drop('eth short')
        mac, client, ethertype = ETHER.unpack_from(frame)
        ethertype, at = skip_tags(frame, ethertype)
        if mac not in self.macs and not self.is_group(mac):
            return self.drop('eth address')
        if client[0] & 1 or client == self.mac and any(client):     # all zero: loopback
            return self.drop('eth source')
        handler = self.handlers.get(ethertype)
        if not handler:
            return self.drop('eth type')
        return handler(frame, at, client + self.mac + frame[12:at], trusted)

    # ARP

    def answer_arp(self, frame, at, head, trusted):
        """RFC 826: a request for an address of ours -> reply of 28 octets."""
        if len(frame) < at + ARP.size:
            return self.drop('eth short')
        hardware, ptype, hlen, plen, op, sha, spa, _, tpa = ARP.unpack_from(frame, at)
        if hardware not in ARP_HARDWARE or (ptype, hlen, plen) != (ETHERTYPE_IPV4, 6, 4):
            return self.drop('arp hardware')
        if self.claims:                        # RFC 5227 s2.1.1: theirs, or they try it out
            self.hear_claim(self.four, spa if any(spa) else tpa, sha)
        if op != ARP_REQUEST:
            return self.drop('arp operation')
        own, target = self.four.own, int.from_bytes(tpa, 'big')
        if own is not None and target not in own:
            return self.drop('arp target')
        if spa == tpa or own is None and not any(spa):      # RFC 5227 s2.1.1, s2.3
            return self.drop('arp announcement')
        if sha[0] & 1 or not self.is_host4(target):
            return self.drop('arp source')
        return head + ARP.pack(1, ETHERTYPE_IPV4, 6, 4, ARP_REPLY, self.mac, tpa, sha, spa),

    def hear_claim(self, family, ip, mac):
        """A neighbour claims an address, 4 or 16 octets, or is about to take it."""
        if mac != self.mac and family.own and int.from_bytes(ip, 'big') in family.own:
            self.claims.note(ip, mac)

    # IPv4 and ICMP

    def is_host4(self, ip) -> bool:
        """Whether a number can be the address of a host that we meet here."""
        if is_loopback4(ip):
            return self.place.loopback
        return is_unicast4(ip) and ip not in self.place.broadcasts

    def answer_ipv4(self, frame, at, head, trusted):
        """RFC 791; fragments are not put together."""
        if len(frame) < at + 20:
            return self.drop('eth short')
        vihl, total, frag, proto, src, dst = IPV4.unpack_from(frame, at)
        size = (vihl & 15) * 4
        if vihl >> 4 != 4 or size < 20 or not size <= total <= len(frame) - at:
            return self.drop('ipv4 header')
        if self.verify and not is_intact(frame[at:at + size]):
            return self.drop('ipv4 checksum')
        fate, ours = self.judge4(int.from_bytes(src, 'big'), int.from_bytes(dst, 'big'), proto,
                                 frame[0] & 1)
        if fate:
            return self.drop(fate)
        if frag & IPV4_MORE_OR_OFFSET:
            return self.drop('ipv4 fragment')
        handler = IPV4_HANDLERS.get(proto)
        if not handler:
            return self.drop('ipv4 protocol')
        data = frame[at + size:at + total]
        if proto == IP_UDP and self.is_closed(UDP, from_octets(data[2:4], 'big')):
            return self.refuse_datagram(frame[at:at + total], data, src, dst, ours is not None,
                                        trusted or not self.verify, head)
        return [head + self.face.pack_ipv4(proto, ours or dst, src, answer)
                for answer in handler(self, data, src, dst, ours or dst,
                                      trusted or not self.verify, head)]

    def judge4(self, src, dst, proto, to_many):
        """Addresses -> (why not, None) or (None, address of ours that stands in for dst).

        to_many     the frame went to a broadcast or multicast MAC
        """
        four, ours = self.four, None
        if not self.is_host4(dst):
            listens = dst in four.groups or four.own and dst in four.own
            # TCP: RFC 9293 s3.9.2.3, MUST-57; echo: RFC 1122 s3.2.2.6, as Linux does
            if not four.source or not listens or proto != IP_UDP or is_loopback4(dst):
                return 'ipv4 multicast', None
            ours = four.source
        elif four.own is not None and dst not in four.own:
            return 'ipv4 address', None
        elif to_many and proto == IP_TCP:
            return 'ipv4 multicast', None
        if four.deny and src in four.deny:
            return 'ipv4 denied', None
        if not self.is_host4(src) or src == dst or src in four.barred:
            return 'ipv4 source', None
        return None, ours

    def answer_icmp(self, data, src, dst, ours, trusted, _):
        """RFC 792: echo, of any code, and timestamp -> their replies, as Linux gives them."""
        if len(data) < ICMP.size:
            return self.drop('ipv4 short')
        kind, code, _ = ICMP.unpack_from(data)
        if not trusted and not is_intact(data):
            return self.drop('icmpv4 checksum')
        rest = data[ICMP.size:]
        if kind == ICMP_ECHO:
            return pack_icmp(ICMP_ECHO_REPLY, code if self.face.code else 0, rest),
        if kind != ICMP_TIMESTAMP:
            return self.drop('icmpv4 type')
        if len(rest) < ICMP_TIMES.size:
            return self.drop('ipv4 short')
        ident, asked, _, _ = ICMP_TIMES.unpack_from(rest)
        midnight_ms = int(self.now % 86400 * 1000)
        return pack_icmp(ICMP_TIMESTAMP_REPLY, 0, ICMP_TIMES.pack(
            ident, asked, midnight_ms, midnight_ms)),

    # IPv6 and ICMPv6

    def answer_ipv6(self, frame, at, head, trusted):
        """RFC 8200; extension headers are walked, atomic fragments (RFC 6946) taken."""
        if len(frame) < at + IPV6.size:
            return self.drop('eth short')
        word, size, proto, hops, src, dst = IPV6.unpack_from(frame, at)
        at += IPV6.size
        if word >> 28 != 6 or not 0 < size <= len(frame) - at:
            return self.drop('ipv6 header')
        proto, data, fate = walk_extensions(proto, frame[at:at + size])
        if fate:
            return self.drop(fate)
        if proto == IP_ICMPV6 and data[:1] == bytes((ND_SOLICITATION,)):
            return self.answer_solicitation(data, src, dst, hops, head, trusted)
        if self.claims and proto == IP_ICMPV6 and data[:1] == bytes((ND_ADVERTISEMENT,)):
            self.hear_advertisement(data, src, dst, hops, head[:6],
                                    trusted or not self.verify)
        fate, ours = self.judge6(src, dst, proto, frame[0] & 1)
        if fate:
            return self.drop(fate)
        handler = IPV6_HANDLERS.get(proto)
        if not handler:
            return self.drop('ipv6 protocol')
        if proto == IP_UDP and self.is_closed(UDP, from_octets(data[2:4], 'big')):
            return self.refuse_datagram(frame[at - IPV6.size:at + size], data, src, dst,
                                        ours is not None, trusted or not self.verify, head)
        return [head + self.face.pack_ipv6(proto, ours or dst, src, answer)
                for answer in handler(self, data, src, dst, ours or dst,
                                      trusted or not self.verify, head)]

    def judge6(self, src, dst, proto, to_many):
        """As judge4, of octets."""
        six, ours, number = self.six, None, int.from_bytes(src, 'big')
        if dst[0] == 0xff:
            if not six.source or proto == IP_TCP or not self.listens6(dst):
                return 'ipv6 multicast', None
            ours = six.source
        elif not any(dst) or six.own is not None and int.from_bytes(dst, 'big') not in six.own:
            return 'ipv6 address', None
        elif to_many and proto == IP_TCP:
            return 'ipv6 multicast', None
        if six.deny and number in six.deny:
            return 'ipv6 denied', None
        if (src[0] == 0xff or not number or src == dst or number in six.barred
                or number == IPV6_LOOPBACK and not self.place.loopback):
            return 'ipv6 source', None
        return None, ours

    def listens6(self, group) -> bool:
        """Whether we are in a multicast group, octets: all nodes, solicited node, or listed."""
        if group in (IPV6_ALL_NODES, IPV6_ALL_NODES_HERE):
            return True
        if group.startswith(IPV6_SOLICITED):
            return int.from_bytes(group[13:], 'big') in self.six.lows
        return bool(self.six.own) and int.from_bytes(group, 'big') in self.six.own

    def answer_icmpv6(self, data, src, dst, ours, trusted, _):
        """RFC 4443: echo, of any code -> echo reply."""
        if len(data) < ICMP.size:
            return self.drop('ipv6 short')
        kind, code, _ = ICMP.unpack_from(data)
        if not trusted and not is_intact(data, pseudo(src, dst, IP_ICMPV6, len(data))):
            return self.drop('icmpv6 checksum')
        if kind != ICMPV6_ECHO:
            return self.drop('icmpv6 type')
        return pack_icmpv6(ICMPV6_ECHO_REPLY, data[ICMP.size:], ours, src, code),

    def hear_advertisement(self, data, src, dst, hops, client, trusted):
        """RFC 4861 s7.1.2: advertisement of a neighbour -> what it has; never answered."""
        if len(data) < SOLICITATION.size or hops != ND_HOPS or data[1]:
            return
        if trusted or is_intact(data, pseudo(src, dst, IP_ICMPV6, len(data))):
            self.hear_claim(self.six, SOLICITATION.unpack_from(data)[4], client)

    def answer_solicitation(self, data, src, dst, hops, head, trusted):
        """RFC 4861 s7.1.1, s7.2.4, RFC 4862 s5.4: solicitation of an address of ours -> frame."""
        six = self.six
        number = int.from_bytes(src, 'big')
        if len(data) < ICMP.size:
            return self.drop('ipv6 short')
        if (len(data) < SOLICITATION.size or hops != ND_HOPS or data[1]
                or not self.place.ethernet):
            return self.drop('icmpv6 solicitation')
        if self.verify and not trusted and not is_intact(
                data, pseudo(src, dst, IP_ICMPV6, len(data))):
            return self.drop('icmpv6 checksum')
        target = SOLICITATION.unpack_from(data)[4]
        if six.own is not None and int.from_bytes(target, 'big') not in six.own:
            return self.drop('icmpv6 target')
        if six.deny and number in six.deny:
            return self.drop('ipv6 denied')
        options = parse_nd_options(data[SOLICITATION.size:])
        if options is None or target[0] == 0xff or src[0] == 0xff or src == target:
            return self.drop('icmpv6 solicitation')
        flags = ND_SOLICITED | ND_OVERRIDE
        if not number:                                      # somebody tries the address out
            if six.own is None or dst[:13] != IPV6_SOLICITED or ND_SOURCE_LINK in options:
                return self.drop('icmpv6 duplicate address')
            if self.claims:                                # RFC 4862 s5.4.3: they want it, too
                self.hear_claim(six, target, head[:6])
            head, src, flags = MAC_ALL_NODES + head[6:], IPV6_ALL_NODES, ND_OVERRIDE
        elif number in six.barred:
            return self.drop('ipv6 source')
        answer = pack_icmpv6(ND_ADVERTISEMENT, flags.to_bytes(4, 'big') + target
                             + ND_OPTION.pack(ND_TARGET_LINK, 1, self.mac), target, src)
        return head + self.face.pack_ipv6(IP_ICMPV6, target, src, answer, ND_HOPS),

    # TCP

    def answer_tcp(self, data, src, dst, _, trusted, head):
        """RFC 9293: segment -> segments."""
        if len(data) < TCP_HEADER.size:
            return self.drop('ipv%d short' % (4 if len(src) == 4 else 6))
        sport, dport, seq, ack, word, window, _, _ = TCP_HEADER.unpack_from(data)
        at, flags = (word >> 12) * 4, word & FLAGS
        if not TCP_HEADER.size <= at <= len(data):
            return self.drop('tcp offset')
        if not trusted and not is_intact(data, pseudo(src, dst, IP_TCP, len(data))):
            return self.drop('tcp checksum')
        ports = src, dst, sport, dport
        if self.is_closed(TCP, dport):
            said = self.answer_closed(src + dst + data[:4], seq, ack, flags, len(data) - at)
        else:
            said = self.take_segment(src + dst + data[:4], seq, ack, flags, window,
                                     data[TCP_HEADER.size:at], data[at:], head)
        return [self.face.pack_tcp(ports, *each) for each in said]

    def is_closed(self, transport, port) -> bool:
        """Whether a port of ours is not open."""
        return transport in self.ports and port not in self.ports[transport]

    def is_ours_alone(self, ours) -> bool:
        """Whether we may speak for all ports of an address, octets: for none that others have.

        Only listed addresses that the host itself does not have: an error or a RST from another's
        would end his conversations.
        """
        family = self.four if len(ours) == 4 else self.six
        return family.own is not None and from_octets(ours, 'big') not in family.shared

    def answer_closed(self, flow, seq, ack, flags, size):
        """A segment with so much data to a port that is closed -> RST, as any host's.

        source  RFC 9293 s3.10.7.1
        """
        four = len(flow) == FLOW4.size
        if flags & RST:
            return self.drop('tcp reset')
        if self.silent or not self.is_ours_alone(flow[4:8] if four else flow[16:32]):
            return self.drop('tcp closed')
        if flags & ACK:
            return (ack, 0, RST, b'', b'', self.face.reset),
        size += bool(flags & SYN) + bool(flags & FIN)
        return (0, seq + size, RST | ACK, b'', b'', self.face.reset),

    def take_segment(self, flow, seq, ack, flags, window, options, data, head):
        """A segment -> what is said to it: [(seq, ack, flags, data, option, window)], not packed.

        head    link-layer head of frames to its sender; of IPv4 in plain Ethernet his MAC
        """
        if flags & (RST | SYN):
            if flags & RST:
                return self.reset(flow, seq)
            return self.answer_opening(flow, seq, flags, options, data)
        if not flags & ACK:
            return self.answer_odd(flow, seq, flags, data)
        conn = self.connections.get(flow)
        if conn is None:
            return self.answer_first(flow, seq, ack, flags, window, options, data, head)
        if isinstance(conn, Waiting):
            return self.answer_waiting(flow, conn, seq, ack, flags, window, options, data, head)
        if conn.recent is not None and not self.is_in_time(conn, seq, options):
            return self.challenge(conn, 'tcp timestamp')
        return self.answer_next(flow, conn, seq, ack, flags, window, data)

    def is_in_time(self, conn, seq, options) -> bool:
        """As is_next(), of the options of a segment."""
        stamp = find_stamp(options)
        return self.is_next(conn, seq, stamp and stamp[0])

    @staticmethod
    def is_next(conn, seq, value) -> bool:
        """Whether a segment is not from before the last one; its timestamp is remembered.

        value   None: it has none, and is taken, as Linux takes it
        source  RFC 7323 s4.3, s5.3
        """
        recent = conn.recent
        if value is None or recent is None:
            return True
        if (value - recent & MASK32) >> 31:
            return False
        if not (conn.rcv - seq & MASK32) >> 31:
            conn.recent = value
        return True

    def is_echo(self, draw, echo) -> bool:
        """Whether a timestamp is one of ours, of a handshake not long ago; draw: of its cookie."""
        age = self.ticks + self.face.offset(draw) - echo & MASK32
        return age <= 2 * KEY_LIFE_S * 1000

    def stamp(self, conn) -> bytes:
        """The option of a segment to a connection."""
        if conn.recent is None:
            return b''
        return TCP_STAMP_OPTION.pack(STAMP_BEGIN, self.ticks + conn.offset & MASK32, conn.recent)

    def read_stamp(self, draw, options) -> 'int | None':
        """The first segment of a connection -> its timestamp; None: it has none; -1: an echo of
        none of ours.

        draw    as of Cookies.read()
        """
        stamp = find_stamp(options) if options and self.face.offers & OFFER_STAMP else None
        if stamp is None:
            return None
        return stamp[0] if self.is_echo(draw, stamp[1]) else -1

    def challenge(self, conn, fate):
        """What may be forged changes nothing and gets an ACK, if not too often (RFC 5961 s3-5)."""
        if not self.may_send(self.challenges, CHALLENGE_RATE):
            return self.drop(fate)
        return (conn.una + conn.outstanding(), conn.rcv, ACK, b'', self.stamp(conn),
                conn.terms.window),

    def reset(self, flow, seq):
        """RST: forget the connection, if it is exactly at the number expected."""
        conn = self.connections.get(flow)
        if conn and seq == conn.rcv:
            self.connections.drop(flow, 'rst')
        elif conn and seq - conn.rcv & MASK32 < conn.terms.room:
            return self.challenge(conn, 'tcp reset')
        return self.drop('tcp reset')

    def answer_opening(self, flow, seq, flags, options, data):
        """SYN -> SYN+ACK with a cookie; on a connection it changes nothing."""
        if flags & (ACK | FIN) or flags & (ECE | CWR) == ECE | CWR and flags & (PSH | URG):
            return self.answer_odd(flow, seq, flags, data)
        if flow in self.connections.table:
            return self.challenge(self.connections.table[flow], 'tcp second syn')
        four = len(flow) == FLOW4.size
        step = MSS_STEP[find_mss(options, MSS_DEFAULT4 if four else MSS_DEFAULT6)]
        offer, stamp = self.face.take_offer(options)
        known, window, at = (self.four if four else self.six).openings[offer.bits]
        cookie, draw = self.cookies.make(flow, step | offer.scale << COOKIE_PLAIN[0], seq)
        if at:
            known = (known[:at] + TCP_STAMPS.pack(self.ticks + self.face.offset(draw) & MASK32,
                                                  from_octets(stamp, 'big'))
                     + known[at + TCP_STAMPS.size:])
        agreed = ECE if self.face.ecn and flags & (ECE | CWR) == ECE | CWR else 0
        return (cookie, seq + 1, SYN | ACK | agreed, b'', known, window),

    def answer_first(self, flow, seq, ack, flags, window, options, data, head):
        """A segment of no connection: the cookie decides, and shows where it stands.

        What came before it may be lost, or late: nothing is acknowledged that did not come.
        """
        bare = not (data or flags & (PSH | FIN))
        found = self.cookies.read(flow, seq, ack)
        step, beyond, draw = found or (0, 0, 0)
        recent = self.read_stamp(draw, options) if found else None
        if found is None or recent == -1:
            return self.refuse(flow, ack, 0, RST, 'tcp bare ack' if bare else 'tcp cookie')
        agreed = step, recent, draw
        closing = flags & FIN
        if bare and beyond >= 0:
            if not beyond and flow[-2:] in self.greeting:
                return self.await_greeting(flow, seq, ack, window, head, agreed)
            return self.drop('tcp bare ack')
        if not data or (beyond and not self.host.original):     # an end, a gap, or a keep-alive
            conn = Waiting(head, 0, ack, window, self.now, agreed)
            self.settle(conn, flow, agreed)
            closing = 0 if beyond else closing
            return (ack, seq + closing - beyond, ACK | closing, b'', self.stamp(conn),
                    conn.terms.window),
        conn = self.make_conn(flow, seq + len(data) + closing & MASK32, ack, head, agreed)
        self.connections.add(flow, conn)
        conn.window, conn.ended = window << conn.terms.scale, bool(closing)
        known = self.store.find(TCP, data, conn.dst, conn.dport) or NOT_KEPT
        kept, out, doubt = known
        if kept and not (doubt or kept.state is not None or self.host.events is not None):
            if 0 < len(out) <= conn.window and len(out) <= conn.mss:
                return self.say_again(flow, conn, kept, out),
        out = self.converse_first(conn, data, known)
        if conn.ended and conn.kept and not conn.stalled:
            out += self.converse(conn, None)
        out = self.send(conn, out)
        self.connections.touch(flow, conn, self.now)
        self.set_timer(flow, conn)
        return out

    def answer_odd(self, flow, seq, flags, data):
        """Flags that mean nothing -> silence, or RST."""
        if not self.face.odd or flags & ACK:
            return self.drop('tcp flags')
        size = len(data) + bool(flags & SYN) + bool(flags & FIN)
        return self.refuse(flow, 0, seq + size, RST | ACK, 'tcp flags')

    def refuse(self, flow, seq, ack, flags, fate):
        """A segment of no connection -> RST (RFC 9293 s3.10.7.1), where it is ours alone."""
        four = len(flow) == FLOW4.size
        if not self.refusals or not self.is_ours_alone(flow[4:8] if four else flow[16:32]):
            return self.drop(fate)
        bucket = self.refusals.open(flow[:4] if four else flow[:16], self.now)
        if not (bucket and self.refusals.take(bucket, True)):
            return self.drop(fate)
        return (seq, ack, flags, b'', b'', self.face.reset),

    def make_conn(self, flow, rcv, una, head, agreed):
        """A client that has proved itself -> Conn.

        agreed  what his cookie says, and his timestamp or None: (offer, timestamp, draw)
        """
        layout, family = (FLOW4, self.four) if len(flow) == FLOW4.size else (FLOW6, self.six)
        conn = Conn(*layout.unpack(flow), self.now, self.host, head, rcv, una,
                    min(MSS_STEPS[agreed[0] & 7], family.mss))
        self.settle(conn, flow, agreed)
        if self.host.keep is not None:
            conn.record = Record(flow, TCP, self.now, self.host.keep)
        return conn

    def settle(self, conn, flow, agreed):
        """What the handshake has agreed on, as of make_conn()."""
        step, recent, draw = agreed
        terms = (self.four if len(flow) == FLOW4.size else self.six).terms
        if recent is None:
            conn.terms = terms[step >> 3]
            return
        conn.terms, conn.recent = terms[step >> 3 | TERMS_STAMP], recent
        conn.offset = self.face.offset(draw)
        conn.mss = max(conn.mss - TCP_STAMP_OPTION.size, 1)     # RFC 6691 s2

    def answer_next(self, flow, conn, seq, ack, flags, window, data):
        """A segment of a connection: what is new in it is fed, what is old answered again."""
        known = conn.rcv - seq & MASK32         # octets of it that came before
        if known >> 31 and self.host.original:
            known = 0                           # which looks at no sequence numbers
        closing = flags & FIN
        size = len(data) + closing
        if not conn.acknowledge(ack, window << conn.terms.scale, not (known or size)):
            return self.challenge(conn, 'tcp ack number')
        if not size:
            if conn.is_over():                  # LAST-ACK (RFC 9293 s3.10.7.4)
                self.connections.drop(flow, 'fin')
                return self.drop('tcp bare ack')
            out = self.answer_acknowledgement(conn, known, flags)
        elif known >> 31:                       # beyond what we expect: a gap
            out = self.keep_ahead(conn, seq, data)
        elif known >= size:
            out = self.repeat(conn)
        elif conn.stalled and not conn.unacked and len(conn.kept) > KEPT_MAX:
            out = self.send(conn, self.converse(conn, b''))     # first what it asked before
        elif len(conn.unacked) > OUT_MAX or len(conn.kept) > KEPT_MAX:
            out = self.drop('tcp window')       # it asks and asks, and acknowledges nothing
        else:
            conn.rcv = seq + size & MASK32
            conn.ended = conn.ended or bool(closing)
            if conn.greeter and data:
                self.connections.has_spoken(flow)
            out = self.hear(conn, data[known:])
            if conn.ahead and not closing:
                out += self.hear_ahead(conn)
            out = self.send(conn, out)
            if conn.is_over():
                conn.end_record('fin')
        self.connections.touch(flow, conn, self.now)
        if conn.wake is None or conn.stalled or conn.waits is not None or conn.limit is not None:
            self.set_timer(flow, conn)
        return out

    def keep_ahead(self, conn, seq, data):
        """Data beyond a gap, or a FIN, which is to come again -> an ACK that says what is kept."""
        if data and len(data) + (seq - conn.rcv & MASK32) <= conn.terms.room and (
                self.connections.held <= self.connections.held_max // 2):
            conn.ahead = conn.ahead or Ahead()
            conn.ahead.add(conn.rcv, seq, data)
        return self.send(conn)

    def hear_ahead(self, conn):
        """A gap is filled, or smaller -> octets to answer to what follows now."""
        found, out = conn.ahead.take(conn.rcv), b''
        if not conn.ahead.blocks:
            conn.ahead = None
        for at in range(0, len(found), KEPT_MAX):
            if len(conn.unacked) + len(out) > OUT_MAX or len(conn.kept) > KEPT_MAX:
                break                           # it comes again (RFC 2018 s8)
            piece = found[at:at + KEPT_MAX]
            conn.rcv = conn.rcv + len(piece) & MASK32
            out += self.hear(conn, piece)
        return out

    def answer_bare(self, flow, conn, seq, ack, closing, window):
        """ACK or FIN, no data, to who owes nothing else -> as take_segment(); None: not so simple.

        As answer_next() would do it, by what is left of it: 1 us instead of 2.
        """
        sent, fin = conn.sent, conn.fin
        if (seq != conn.rcv or conn.kept or conn.stalled or conn.waits is not None
                or sent != len(conn.unacked) or ack - conn.una & MASK32 != sent + (fin == 1)):
            return None
        if sent or fin == 1:
            conn.unacked, conn.una = b'', ack
            conn.sent = conn.tries = conn.repeats = 0
            conn.fin = fin = 2 if fin else 0
            conn.moved = True
        elif not window:
            conn.tries = 0
        conn.window = window << conn.terms.scale
        if closing:
            out = self.end_too(conn, fin)
        else:
            self.fate, out = 'tcp bare ack', ()
            self.counts['tcp bare ack'] += 1
            if fin == 2 and conn.ended:
                self.connections.drop(flow, 'fin')
                return out
        self.connections.touch(flow, conn, self.now)
        if conn.wake is None:
            self.set_timer(flow, conn)
        return out

    def end_too(self, conn, fin):
        """The client's FIN, to whom all is said; fin: ours -> the segments."""
        conn.rcv, conn.ended = conn.rcv + 1 & MASK32, True
        if fin:
            conn.end_record('fin')
            return (conn.una, conn.rcv, ACK, b'', self.stamp(conn), conn.terms.window),
        conn.fin, conn.moved = FIN, True
        return (conn.una, conn.rcv, ACK | FIN, b'', self.stamp(conn), conn.terms.window),

    def hear(self, conn, data):
        """What is new of a client, at the end perhaps nothing -> octets to answer."""
        if not (data or conn.kept or conn.stalled):
            return b''
        out = self.converse(conn, data)
        if conn.ended and conn.kept and not conn.stalled:
            out += self.converse(conn, None)
        return out

    def answer_acknowledgement(self, conn, known, flags):
        """No data: what was held back may follow; an empty push or keep-alive gets an ACK."""
        out = self.transmit(conn) if conn.sent < len(conn.unacked) else ()
        if not out and conn.stalled and not conn.unacked:
            out = self.send(conn, self.converse(conn, b''))
        if not out and conn.repeats == REPEATED_ACKS:       # RFC 5681 s3.2
            conn.repeats += 1                               # once
            out = self.segments(conn, conn.una, conn.unacked[:min(conn.sent, conn.mss)], 0)
        if not out and (flags & PSH or known == 1):
            out = self.send(conn)
        return out or self.drop('tcp bare ack')

    def converse(self, conn, data):
        """Feed a conversation, None: no more comes for now -> octets to answer."""
        conn.now = self.now
        inside = conn.secure                    # which notes what it hears
        out = conn.hurry() if data is None else conn.feed(data)
        return self.tell(conn, out, data, inside is None)

    def say_again(self, flow, conn, kept, out):
        """What is kept, to whoever can take it at once -> the segment; nobody listens.

        As converse_first(), send() and touch() would do it, 2 us instead of 5.
        """
        conn.protocol, conn.before = kept.protocol, kept.before
        conn.deaf, conn.closing = kept.deaf, kept.closing
        self.spoken[kept.protocol.name if kept.protocol else kept.before] += 1
        conn.unacked, conn.sent = out, len(out)
        closing = FIN if kept.closing or conn.ended else 0
        conn.fin = closing
        connections = self.connections
        conn.held = conn.sent
        connections.held += conn.held
        while connections.held > connections.held_max:
            connections.evict()
        conn.wake = self.timers.add(REPEAT_S[0], flow, self.now)
        return (conn.una, conn.rcv, ACK | PSH | closing, out, self.stamp(conn),
                conn.terms.window)

    def converse_first(self, conn, data, known):
        """The first octets of a conversation, and what Store.find() knows -> octets to answer."""
        kept, out, doubt = known
        if doubt and self.host.registry.find(data, conn) is not kept.protocol:
            kept = None
        if kept:
            conn.protocol, conn.state, conn.before = kept.protocol, kept.state, kept.before
            conn.deaf, conn.closing = kept.deaf, kept.closing
            if conn.record:
                conn.record.hear(data)
            self.note_again(conn, kept)
        elif self.store.is_due(data):
            recorder = Recorder(self.host)
            out, events = recorder.call(conn, TellingConn, conn.feed, data)
            self.store.enter(conn, data, ((out, None), events), recorder)
        else:
            out = conn.feed(data)
        return self.tell(conn, out, data)

    def tell(self, conn, out, data, loud=True):
        """Count what a conversation answered to its client's words, None: to silence -> that."""
        if out:
            self.note_answer(conn, out, data or b'', loud)
        elif data and conn.deaf and not (conn.protocol or conn.before):
            self.counts['tcp unknown protocol'] += 1        # though it gets an ACK
            conn.note('unknown', octets=len(data), data=data)
        return out

    @staticmethod
    def note_again(peer, kept):
        """What was noted when an answer was made."""
        for kind, fields in kept.notes:
            peer.note(kind, **fields)

    def note_answer(self, peer, out, data, loud=True):
        """Count an answer by its protocol, tell whoever listens."""
        self.spoken[peer.spoken] += 1
        if self.host.events is not None and loud:   # asked here: 0.2 us less where nobody listens
            peer.note('answer', octets=len(out), data=data)

    def shift(self, step):
        """Somebody has set the clock: what is due stays as far away as it was."""
        self.timers.shift(step)
        self.skew -= math.floor(step * 1000)    # timestamps go on
        for conn in self.connections.table.values():
            conn.seen += step
            if conn.wake is not None:
                conn.wake += step
            if conn.resumes is not None:
                conn.resumes += step
            if conn.deadline is not None:
                conn.deadline += step
            if conn.secure and conn.secure.greets is not None:
                conn.secure.greets += step

    def take_events(self):
        """What was noted since the last call -> [Event], in order."""
        events = self.host.events
        if events:
            self.host.events = []
            if self.host.secretive:
                events = list(map(hide_secrets, events))
        return events or ()

    def send(self, conn, out=b''):
        """Octets, as far as the client's window goes, or a bare ACK."""
        conn.unacked += out
        return self.transmit(conn) or self.segments(conn, conn.una + conn.outstanding(), b'', 0)

    def transmit(self, conn):
        """What was not sent yet and fits into the window -> segments; with FIN when that is all.

        A piece shorter than a segment waits while something is under way (RFC 9293 s3.8.6.2.1).
        """
        at, closing = conn.sent, 0
        rest = conn.unacked[at:]
        room = conn.window - at
        whole = len(rest) <= room
        if not whole:
            rest = rest[:max(room, 0)]
            if at and len(rest) < conn.mss:
                rest = b''
        more = conn.stalled or conn.waits is not None
        if whole and (conn.closing or conn.ended) and not (conn.fin or more):
            closing = FIN
        if not (rest or closing):
            return ()
        conn.sent = at + len(rest)
        conn.fin = conn.fin or closing
        conn.moved = True
        return self.segments(conn, conn.una + at, rest, closing)

    def repeat(self, conn):
        """What the client has not acknowledged once more, or a bare ACK; a probe of no window."""
        out = conn.unacked[:min(conn.sent, max(conn.window, 1))]
        whole = len(out) == len(conn.unacked)
        return self.segments(conn, conn.una, out, FIN if conn.fin == 1 and whole else 0)

    def segments(self, conn, seq, out, closing):
        """-> segments from seq on, at least one; as take_segment() gives them."""
        option, window = self.stamp(conn), conn.terms.window
        if conn.ahead and not out and conn.terms.sacks:
            option += conn.ahead.option(conn.terms.sacks)
        if len(out) <= conn.mss:
            return (seq, conn.rcv, ACK | closing | (PSH if out else 0), out, option, window),
        segments = []
        for at in range(0, len(out) or 1, conn.mss):
            piece = out[at:at + conn.mss]
            flags = ACK | (PSH if piece else 0) | (closing if at + conn.mss >= len(out) else 0)
            segments.append((seq + at, conn.rcv, flags, piece, option, window))
        return segments

    # what is due without a frame

    def await_greeting(self, flow, seq, ack, window, head, agreed):
        """A handshake is complete where we speak first: the client has a while to do so."""
        waiting = Waiting(head, seq, ack, window, self.now, agreed)
        self.settle(waiting, flow, agreed)
        if not self.connections.add_silent(flow, waiting):
            return self.drop('tcp crowd')
        waiting.wake = self.timers.add(self.greet_s, flow, self.now)
        return self.drop('tcp bare ack')

    def answer_waiting(self, flow, conn, seq, ack, flags, window, options, data, head):
        """A segment of who should be greeted: if it says anything, it has spoken first."""
        if seq == conn.rcv and (data or flags & (PSH | FIN)):
            self.connections.drop(flow, 'fin')
        elif seq == conn.rcv:
            return self.drop('tcp bare ack')
        return self.answer_first(flow, seq, ack, flags, window, options, data, head)

    def set_timer(self, flow, conn):
        """Have the connection looked after when that may be needed."""
        if conn.waits is not None or conn.limit is not None:
            self.arrange(flow, conn)
        if conn.stalled and not conn.unacked:
            wait_s = 0
        elif conn.wake is not None:             # it will be seen then what is needed
            return
        elif conn.unacked or conn.fin == 1:
            wait_s = REPEAT_S[0]
        elif conn.kept:
            wait_s = QUIET_S
        else:
            return
        conn.moved = False
        conn.wake = self.timers.add(wait_s, flow, self.now)

    def look_after(self, flow, conn) -> 'list[bytes]':
        """A connection that is due -> frames."""
        if isinstance(conn, Waiting):
            return self.greet(flow, conn)
        conn.wake, out = None, b''
        if conn.outstanding():
            if not conn.moved:
                return self.insist(flow, conn)
        elif conn.unacked:                      # its window is closed: a probe
            conn.sent = 1
            return self.insist(flow, conn)
        elif conn.stalled:
            out = self.converse(conn, b'')
        elif conn.kept and self.now - conn.seen >= QUIET_S:
            out = self.converse(conn, None)
        segments = self.send(conn, out) if out or conn.closing and not conn.fin else ()
        self.set_timer(flow, conn)
        return self.frames_to(flow, conn, segments)

    def arrange(self, flow, conn):
        """What an answerer asked for: to be called again, or an end."""
        if conn.limit is not None:
            conn.deadline = self.timers.add(conn.limit, flow, self.now) if conn.limit else None
            conn.limit = None
        secure = conn.secure
        if secure and secure.done and secure.greeter and secure.greets is None:
            secure.greets = self.timers.add(self.greet_s, flow, self.now)
        if conn.waits is None or conn.resumes is not None:
            return
        if conn.waits == WORK:
            conn.resumes = QUEUED
            self.work.append((flow, conn))
        else:
            conn.resumes = self.timers.add(conn.waits, flow, self.now)

    def do_work(self) -> 'list[bytes]':
        """The first that waits for its turn and is still there -> frames."""
        while self.work:
            flow, conn = self.work.popleft()
            if self.connections.get(flow) is conn and conn.waits is not None:
                return self.resume(flow, conn)
        return []

    def resume(self, flow, conn) -> 'list[bytes]':
        """What an answerer waited for is there -> frames."""
        conn.resumes, conn.now = None, self.now
        out = conn.resume()
        if out:
            self.note_answer(conn, out, b'')
        return self.go_on(flow, conn, out)

    def end(self, flow, conn) -> 'list[bytes]':
        """The time for a conversation is over -> frames."""
        conn.deadline = None
        return self.go_on(flow, conn, conn.farewell())

    def go_on(self, flow, conn, out) -> 'list[bytes]':
        """Octets of an answer that no frame asked for -> frames."""
        segments = self.send(conn, out) if out or conn.closing and not conn.fin else ()
        self.connections.touch(flow, conn, self.now)
        self.set_timer(flow, conn)
        return self.frames_to(flow, conn, segments)

    def greet(self, flow, waiting):
        """Nothing has come: we speak first."""
        conn = self.make_conn(flow, waiting.rcv, waiting.una, waiting.head, waiting.agreed)
        conn.window = waiting.window << conn.terms.scale
        self.connections.table[flow] = conn
        if conn.record:
            conn.record.greeted = True
        segments = self.send(conn, conn.greet(self.host.registry.greeters[conn.dport]))
        self.connections.touch(flow, conn, self.now)
        self.set_timer(flow, conn)
        return self.frames_to(flow, conn, segments)

    def may_send(self, bucket, rate) -> bool:
        """Take a token of a bucket that holds those of a second, if there is one."""
        Budget.refill(bucket, rate, rate, self.now)
        if bucket[0] < 1:
            return False
        bucket[0] -= 1
        return True

    def end_idle(self):
        """Those that were idle for too long -> a FIN to each, or RST to who had one."""
        connections, frames = self.connections, []
        while connections.table and connections.next_idle() < self.now:
            flow, conn = next(iter(connections.table.items()))
            if conn.is_over():
                connections.drop(flow, 'fin')
                continue
            if not self.may_send(self.farewells, FAREWELL_RATE):
                break
            if isinstance(conn, Waiting) or conn.fin or conn.unacked:
                connections.drop(flow, 'idle')
                frames += self.frames_to(flow, conn, self.reset_of(conn))
            else:
                conn.end_record('idle')
                frames += self.go_on(flow, conn, conn.farewell())
        return frames

    def end_displaced(self, displaced):
        """Those whose TLS had to make room -> their last octets, and FIN."""
        frames = []
        while displaced:
            conn, out = displaced.popleft()
            layout = FLOW4 if len(conn.src) == 4 else FLOW6
            flow = layout.pack(conn.src, conn.dst, conn.sport, conn.dport)
            if self.connections.get(flow) is conn:
                conn.end_record('evicted')
                frames += self.go_on(flow, conn, out)
        return frames

    def tell_evicted(self):
        """Those that had to make room -> a RST to each, as far as the rate goes."""
        frames, gone = [], self.connections.gone
        while gone:
            flow, conn = gone.popleft()
            if self.may_send(self.farewells, FAREWELL_RATE):
                frames += self.frames_to(flow, conn, self.reset_of(conn))
        return frames

    def end_all(self):
        """The end: a RST for each connection, in batches of those that a second may have."""
        connections = self.connections
        while connections.table:
            flows = list(itertools.islice(connections.table, FAREWELL_RATE))
            frames = []
            for flow in flows:
                conn = connections.table[flow]
                connections.drop(flow, 'shutdown')
                frames += self.frames_to(flow, conn, self.reset_of(conn))
            yield frames

    def reset_of(self, conn):
        """-> the segment that ends a connection at once."""
        return (conn.una + conn.outstanding(), conn.rcv, RST | ACK, b'', self.stamp(conn),
                conn.terms.window),

    def insist(self, flow, conn):
        """What is not acknowledged once more; after the last time, the end."""
        if conn.tries == len(REPEAT_S):
            self.connections.drop(flow, 'idle')
            segments = self.reset_of(conn)
        else:
            conn.wake = self.timers.add((REPEAT_S + REPEAT_S[-1:])[conn.tries + 1], flow, self.now)
            conn.tries += 1
            segments = self.repeat(conn)
        return self.frames_to(flow, conn, segments)

    def frames_to(self, flow, conn, segments):
        """Segments as take_segment() gives them -> frames."""
        face = self.face
        head = conn.head if len(conn.head) >= ETHER.size else conn.head + self.answer_tail
        layout, pack = ((FLOW4, face.pack_ipv4) if len(flow) == FLOW4.size
                        else (FLOW6, face.pack_ipv6))
        ports = layout.unpack(flow)
        packed = [face.pack_tcp(ports, *each) for each in segments]
        return [head + pack(IP_TCP, ports[1], ports[0], each) for each in packed]

    # UDP

    def answer_udp(self, data, src, dst, ours, trusted, _):
        """RFC 768: datagram -> datagram."""
        four = len(src) == 4
        if len(data) < UDP_HEADER.size:
            return self.drop('ipv4 short' if four else 'ipv6 short')
        fault = find_udp_fault(data, src, dst, trusted)
        if fault:
            return self.drop(fault)
        sport, dport, size, _ = UDP_HEADER.unpack_from(data)
        said = self.take_datagram(src, ours, sport, dport, data[UDP_HEADER.size:size], ours != dst)
        if not said:
            return ()
        port, out = said
        return pack_udp(ours, src, port, sport, out),

    def refuse_datagram(self, packet, data, src, dst, to_group, trusted, head):
        """A datagram to a port that is closed -> the frame of an ICMP error (RFC 1122 s4.1.3.1).

        packet  all of it from layer 3 on, which is quoted
        """
        four = len(src) == 4
        fault = find_udp_fault(data, src, dst, trusted)
        if fault:
            return self.drop(fault)
        bucket = self.unreachables.bucket(src, self.now)
        self.unreachables.refill(bucket, *UNREACHABLES[:2], self.now)
        self.unreachables.refill(self.unreachables.total, *UNREACHABLES[2:] * 2, self.now)
        if self.silent or to_group or not self.is_ours_alone(dst) or not (
                self.unreachables.take(bucket, True)):
            return self.drop('udp closed')
        if four:
            error = pack_icmp(ICMP_UNREACHABLE, ICMP_PORT, bytes(4) + packet[:ICMP_QUOTES])
            return head + self.face.pack_ipv4(IP_ICMP, dst, src, error, TOS_CONTROL),
        error = pack_icmpv6(ICMPV6_UNREACHABLE, bytes(4) + packet[:ICMPV6_QUOTES], dst, src,
                            ICMPV6_PORT)
        return head + self.face.pack_ipv6(IP_ICMPV6, dst, src, error),

    def take_datagram(self, src, ours, sport, dport, data, to_group=False):
        """Octets to a port of ours -> (our port, octets) of the answer, or ()."""
        bucket = self.budget.open(src, self.now)
        if not bucket:
            return self.drop('udp budget')
        if self.unclaimed and (dport, data) in self.unclaimed:  # a scanner's probes are alike
            self.budget.take(bucket, False)
            return self.drop('udp silence')
        known = not to_group and self.store.find(UDP, data, ours, dport) or NOT_KEPT
        kept, out, doubt = known
        if kept and self.host.events is None and not doubt:     # nobody listens: no Peer is needed
            each, port = kept.protocol, kept.port
            if out:
                self.spoken[each.name] += 1
        else:
            peer = Peer(UDP, src, ours, sport, dport, self.now, self.host)
            peer.to_group = to_group
            out, port = self.converse_once(peer, data, known)
            each = peer.protocol
        grows = len(out) > len(data)
        fate = self.judge_answer(each, data, out, 20 if len(src) == 4 else IPV6.size)
        if not self.budget.take(bucket, grows and not fate):    # to be silent is work, too
            self.budget.take(bucket, False)
            fate = 'udp budget'
        return self.drop(fate) if fate else (dport if port is None else port, out)

    def judge_answer(self, each, data, out, header) -> 'str | None':
        """A Protocol, a datagram and its answer, octets of the IP header -> why it may not go."""
        if not out:
            return 'udp silence'
        if len(out) > each.most * len(data):
            return 'udp ratio'
        return 'udp mtu' if header + UDP_HEADER.size + len(out) > self.mtu else None

    def converse_once(self, peer, data, known):
        """A datagram, and what Store.find() knows of it -> (octets, port or None) to answer."""
        kept, out, doubt = known
        if doubt and self.host.registry.find(data, peer) is not kept.protocol:
            kept = None
        if kept:
            peer.protocol, port = kept.protocol, kept.port
            self.note_again(peer, kept)
        elif not peer.to_group and self.store.is_due(data):
            recorder = Recorder(self.host)
            given = recorder.call(peer, TellingPeer, answer_datagram, peer, data)
            self.store.enter(peer, data, given, recorder)
            (out, port), _ = given
        else:
            out, port = answer_datagram(peer, data)
        if not peer.protocol:
            self.unclaimed.add((peer.dport, data))
        if out:
            self.note_answer(peer, out, data)
        return out, port


IPV4_HANDLERS = {IP_ICMP: Stack.answer_icmp, IP_TCP: Stack.answer_tcp, IP_UDP: Stack.answer_udp}
IPV6_HANDLERS = {IP_ICMPV6: Stack.answer_icmpv6, IP_TCP: Stack.answer_tcp,
                 IP_UDP: Stack.answer_udp}


# ==== 5 Events and journals ===========================================================

BLOCK_EVENTS = 256              # frames whose lines are written together
FLUSH_S = 0.2                   # lines wait no longer than this
LAST_FLUSH_S = 1                # at the end, a reader has so long
LOCK_POLL_S = 0.01
RETRY_S = 1.0                   # a full disk is tried again after so long
TURN_RETRY_S = 60.0             # a file that cannot be put aside, likewise
KEPT_FILES = 20                 # and so many stay, unless --rotate says otherwise
NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
WAITING_MAX = 1 << 24           # octets of log that wait for a reader that stalls, or for room
SPOKEN = 'answer '              # of a protocol, in the names of counters
VALUE_MAX = 60                  # characters of a stranger's words on a terminal
MACS_MAX = 4096
IPV4_PLAIN = b'\x08\0\x45'       # EtherType, version and header length without options
SEGMENT4 = struct.Struct('!34xHHIIH')   # of a frame: sport dport seq ack off-flags
PORTS4 = struct.Struct('!34xHH')
MARK, MARKS = 10 ** 20, re.compile('10{18}([0-9]{2})')
OCTET_TEXTS = [[b'%d%b' % (octet, end) for octet in range(256)] for end in (b'.', b'')]

ETHERTYPE_NAMES = {             # IEEE 802 numbers; the names are the log's
    0x0800: 'Ipv4', 0x0806: 'Arp', 0x0842: 'WakeOnLan', 0x22f3: 'Trill', 0x6003: 'DECnet',
    0x8035: 'Rarp', 0x809b: 'AppleTalk', 0x80f3: 'Aarp', 0x8100: 'Vlan', 0x8137: 'Ipx',
    0x8204: 'Qnx', 0x86dd: 'Ipv6', 0x8808: 'FlowControl', 0x8819: 'CobraNet', 0x8847: 'Mpls',
    0x8848: 'MplsMcast', 0x8863: 'PppoeDiscovery', 0x8864: 'PppoeSession', 0x88a8: 'PBridge',
    0x88cc: 'Lldp', 0x88f7: 'Ptp', 0x8902: 'Cfm', 0x9100: 'QinQ'}
IP_NAMES = dict(enumerate('''
    Hopopt Icmp Igmp Ggp Ipv4 St Tcp Cbt Egp Igp BbnRccMon NvpII Pup Argus Emcon Xnet Chaos Udp
    Mux DcnMeas Hmp Prm XnsIdp Trunk1 Trunk2 Leaf1 Leaf2 Rdp Irtp IsoTp4 Netblt MfeNsp MeritInp
    Dccp ThreePc Idpr Xtp Ddp IdprCmtp TpPlusPlus Il Ipv6 Sdrp Ipv6Route Ipv6Frag Idrp Rsvp Gre
    Dsr Bna Esp Ah INlsp Swipe Narp Mobile Tlsp Skip Icmpv6 Ipv6NoNxt Ipv6Opts HostInternal Cftp
    LocalNetwork SatExpak Kryptolan Rvd Ippc DistributedFs SatMon Visa Ipcv Cpnx Cphb Wsn Pvp
    BrSatMon SunNd WbMon WbExpak IsoIp Vmtp SecureVmtp Vines TtpOrIptm NsfnetIgp Dgp Tcf Eigrp
    OspfigP SpriteRpc Larp Mtp Ax25 IpIp Micp SccSp Etherip Encap PrivEncryption Gmtp Ifmp Pnni
    Pim Aris Scps Qnx AN IpComp Snp CompaqPeer IpxInIp Vrrp Pgm ZeroHop L2tp Ddx Iatp Stp Srp
    Uti Smp Sm Ptp IsisOverIpv4 Fire Crtp Crudp Sscopmce Iplt Sps Pipe Sctp Fc RsvpE2eIgnore
    MobilityHeader UdpLite MplsInIp Manet Hip Shim6 Wesp Rohc'''.split()))
IP_NAMES.update({253: 'Test1', 254: 'Test2', 255: 'Reserved'})
LAYERS = 'arp', 'eth', 'ipv4', 'ipv6', 'icmpv4', 'icmpv6', 'tcp', 'udp'
DEPTHS = {'eth': 0, 'arp': 1, 'ipv4': 1, 'ipv6': 1, 'icmpv4': 2, 'icmpv6': 2, 'tcp': 2, 'udp': 2}
TRANSPORTS = {IP_ICMP: 'icmpv4', IP_ICMPV6: 'icmpv6', IP_TCP: 'tcp', IP_UDP: 'udp'}

# Layers 2 and 3 of a frame as the log shows them, the client's side first whoever sent it.
#   ethertype   number, tags skipped
#   macs        (client's, ours) of layer 2 as text
#   hosts, ips  the same of layer 3, where ARP tells MACs of its own; None: it was not read
#   name, what  of layer 3: 'arp' and operation, 'ipv4' or 'ipv6' and the next protocol
#   proto, at   layer 4 behind extension headers and its offset
#   answer_at   its offset in an answer
View = collections.namedtuple('View', 'ethertype macs hosts ips name what proto at answer_at')
# Layer 4: name, what = flags, (type, code) or None, (client's port, ours), (seq, ack) or None
Segment = collections.namedtuple('Segment', 'name what ports numbers')


def view_frame(frame: bytes, answer=False) -> View:
    """A frame from a client, or one of ours -> what layers 2 and 3 say."""
    dst, src, ethertype = ETHER.unpack_from(frame)
    (ethertype, at), end = skip_tags(frame, ethertype), len(frame)
    turn = -1 if answer else 1              # the client's side stands first
    macs = (mac_text(src), mac_text(dst))[::turn]
    if ethertype == ETHERTYPE_IPV4 and end >= at + 20:
        vihl, _, _, proto, src, dst = IPV4.unpack_from(frame, at)
        return View(ethertype, macs, macs, (socket.inet_ntoa(src), socket.inet_ntoa(dst))[::turn],
                    'ipv4', proto, proto, at + (vihl & 15) * 4, at + 20)
    if ethertype == ETHERTYPE_IPV6 and end >= at + IPV6.size:
        _, size, above, _, src, dst = IPV6.unpack_from(frame, at)
        at += IPV6.size
        proto, data, _ = walk_extensions(above, frame[at:at + size])
        return View(ethertype, macs, macs, (ip_text(src), ip_text(dst))[::turn], 'ipv6', above,
                    proto, min(at + size, end) - len(data), at)
    if ethertype == ETHERTYPE_ARP and end >= at + ARP.size:
        _, _, _, _, op, sha, spa, tha, tpa = ARP.unpack_from(frame, at)
        return View(ethertype, macs, (mac_text(sha), mac_text(tha))[::turn],
                    (ip_text(spa), ip_text(tpa))[::turn], 'arp', op, None, at, at)
    return View(ethertype, macs, None, None, '', None, None, at, at)


def view_segment(frame: bytes, proto: int, at: int, answer=False) -> Segment:
    """Layer 4 of a frame: known to be whole."""
    name = TRANSPORTS[proto]
    if proto == IP_TCP:
        sport, dport, seq, ack, word, _, _, _ = TCP_HEADER.unpack_from(frame, at)
        return Segment(name, word & FLAGS, (dport, sport) if answer else (sport, dport),
                       (seq, ack))
    if proto == IP_UDP:
        sport, dport, _, _ = UDP_HEADER.unpack_from(frame, at)
        return Segment(name, None, (dport, sport) if answer else (sport, dport), None)
    return Segment(name, ICMP.unpack_from(frame, at)[:2], None, None)


# ---- observers ----

class Observer:
    """Who is shown what happens; a subclass says what it does about it.

    due         Unix time when flush() must be called; None: nothing waits
    missed      frames that it could not take down; counters() has it, and what else is counted
    on_frames   whether it is shown frames; on_events: whether Events
    """
    due, missed = None, 0
    on_frames, on_events = True, False

    def frame(self, now, frame, fate, answers):
        """One frame, its fate ('layer reason', None: answered), the frames that answer it."""

    def openings(self, now, frames, answers, columns):
        """Plain SYNs from one MAC, all of one size, the SYN+ACK to each, the Openings they were.

        A subclass may have a quicker way.
        """
        for frame, answer in zip(frames, answers):
            self.frame(now, frame, None, (answer,))

    def unasked(self, now, frames):
        """Frames of ours that no frame has caused: greetings, repeats."""

    def event(self, now, event):
        """An Event."""

    def counters(self) -> dict:
        """-> {name: count}."""
        return {'missed': self.missed}

    def flush(self, now):
        """What waits is to be written, as far as there is room."""

    def reopen(self):
        """Somebody has moved the file away: go on in a new one of its name."""

    def shift(self, step):
        """The clock was set by so many seconds: what is due stays as far away."""

    def close(self, now):
        """The same as flush(), for the last time."""


# ---- journal ----

class Journal:
    """Lines on a descriptor, always whole ones; who reads them never holds the answers up.

    Without room on the disk it waits, and goes on by itself.

    name, what      of the descriptor and of what is written, for messages
    fd      where to
    texts   not written yet, the last ones; blocks are the octets of those before
    count   frames in them
    due     when they must be written, Unix time; None: there are none
    waiting octets the reader, or the disk, has had no room for
    begun   the first octets of `waiting` in front: the part of a line that is written
    full    too many wait
    missed  frames that were not logged because of that
    stuck   missed when the disk was found full; None: it is not
    failed  why nothing can be written; None
    lock    file of which the octet at `place` is locked while writing, where workers write
            together
    held    whether it is ours: until a line is whole
    files   NamedFiles that open and rotate the file of that name; None: it has none
    limit   octets after which a new file begins; None: never
    turn    Unix time before which that is not tried again
    """

    def __init__(self, fd, name='standard output', what='packet log', lock=None, files=None,
                 limit=None, place=0):
        self.name, self.what, self.place = name, what, place
        self.files, self.limit = files, limit
        self.turn = 0.0
        self.lock, self.held = lock, False
        self.texts, self.blocks = [], []
        self.count, self.due = 0, None
        self.waiting, self.begun = b'', b''
        self.full, self.missed = False, 0
        self.stuck = self.failed = None
        self.open(fd)

    def open(self, fd):
        """Write to this descriptor from here on; every process appends to a file."""
        self.fd, self.poll = fd, select.poll()
        self.poll.register(fd, select.POLLOUT)
        self.piece = select.PIPE_BUF if is_stream(fd) else 1 << 20
        self.regular = stat.S_ISREG(os.fstat(fd).st_mode)
        if self.regular:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_APPEND)

    def takes(self, now, count) -> bool:
        """Whether lines about so many frames may be added to texts, at this time."""
        if self.failed:
            return False
        if self.full:
            self.missed += count
            return False
        self.count += count
        if self.due is None:
            self.due = now + FLUSH_S
        if self.count > BLOCK_EVENTS and self.stuck is None:
            self.due = now
        return True

    def encode(self):
        """Texts so far -> a block; what comes stands behind it."""
        if self.texts:
            self.blocks.append(''.join(self.texts).encode('utf-8', 'backslashreplace'))
            self.texts = []

    def flush(self, now, wait_s=0):
        """Write what there is room for; a reader that has gone away ends it, not the program."""
        self.encode()
        if self.blocks:
            self.waiting += b''.join(self.blocks)
            self.count, self.blocks = 0, []
        self.due = None
        if self.failed or not self.waiting:
            return
        try:
            if self.seize(wait_s):
                if self.limit and self.regular and not self.begun:
                    self.turn_over(now)
                self.begin()
                self.write(wait_s)
                self.go_on()
        except OSError as error:
            self.give_up(error)
        self.release()
        if self.waiting:
            self.due = now + (FLUSH_S if self.stuck is None else RETRY_S)
        self.full = len(self.waiting) > WAITING_MAX

    def begin(self):
        """What a new file begins with goes before what waits; it is ours to write now."""

    def turn_over(self, now):
        """A file that is large enough is put aside: by the worker that sees it first.

        To the others that file looks as large, so they ask as well, and get the new one.
        """
        found = os.fstat(self.fd)
        if found.st_size < self.limit or now < self.turn:
            return
        self.end()
        try:
            self.take_over(self.files.rotate(self.name, found.st_dev, found.st_ino))
        except OSError as error:
            self.turn = now + TURN_RETRY_S
            say('%s: cannot be rotated: %s' % (self.name, why(error)))

    def end(self):
        """What a file ends with that is put aside."""

    def reopen(self):
        """Go on in the file that has the name now."""
        if self.files:
            try:
                self.take_over(self.files.open(self.name))
            except OSError as error:
                say('%s: %s: the %s goes on in the file that was open'
                    % (self.name, why(error), self.what))

    def shift(self, step):
        """As Observer.shift()."""
        self.turn += step
        if self.due is not None:
            self.due += step

    def take_over(self, fd):
        """What waits goes to another descriptor; a line that was half written, from its start."""
        os.dup2(fd, self.fd, False)
        os.close(fd)
        self.waiting, self.begun = self.begun + self.waiting, b''
        self.failed = None
        self.open(self.fd)

    def seize(self, wait_s) -> bool:
        """Take the lock; False: another worker has it, perhaps one that was stopped."""
        until = time.monotonic() + wait_s
        while self.lock and not self.held:
            try:
                fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self.place)
                self.held = True
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= until:
                    return False
                time.sleep(LOCK_POLL_S)
        return True

    def release(self):
        """Give the lock back, unless a line is half written."""
        if self.held and not self.begun:
            fcntl.lockf(self.lock, fcntl.LOCK_UN, 1, self.place)
            self.held = False

    def write(self, wait_s):
        """Write as long as it does not block, whole lines where they are not too long."""
        data, at = self.waiting, 0
        view = memoryview(data)
        try:
            while at < len(data) and self.poll.poll(wait_s * 1000):
                end = self.last_whole(data, at, at + self.piece)
                at += os.write(self.fd, view[at:end or at + self.piece])
        except BlockingIOError:
            pass                                # somebody made it non-blocking
        finally:
            line = self.last_whole(data, 0, at)
            self.begun = data[line:at] if line else self.begun + data[:at]
            self.waiting = data[at:]

    def last_whole(self, data, at, end) -> int:
        """Where the last line that ends between two places does so; 0: none does."""
        return data.rfind(b'\n', at, end) + 1

    def go_on(self):
        """Something could be written again."""
        if self.stuck is not None:
            say('%s: there is room again: the %s goes on, %d frames are missing'
                % (self.name, self.what, self.missed - self.stuck))
            self.stuck = None

    def give_up(self, error):
        """It could not be written: wait for room, or for ever."""
        if error.errno not in NO_ROOM:
            self.failed, self.begun = why(error), b''
            say('%s: %s: no %s from here on' % (self.name, self.failed, self.what))
            return
        self.take_back()
        if self.stuck is None:
            self.stuck = self.missed
            say('%s: %s: the %s waits for room' % (self.name, why(error), self.what))

    def take_back(self):
        """What was written of a line is cut off again: the file ends with a whole line."""
        try:
            if self.regular and self.begun:
                os.ftruncate(self.fd, os.fstat(self.fd).st_size - len(self.begun))
                self.waiting, self.begun = self.begun + self.waiting, b''
        except OSError:                         # it may only be appended to: the rest follows
            pass


class JournalObserver(Observer):
    """Who writes what it is shown to a Journal."""

    def __init__(self, journal):
        self.journal = journal

    @property
    def due(self):
        return self.journal.due

    @property
    def missed(self):
        return self.journal.missed

    def flush(self, now):
        self.journal.flush(now)

    def reopen(self):
        self.journal.reopen()

    def shift(self, step):
        self.journal.shift(step)

    def close(self, now):
        self.journal.flush(now, LAST_FLUSH_S)


# ---- packet log ----

class Format:
    """How the lines of a packet log read; a subclass says inwards() and outwards().

    They write what stands in a View and a Segment as it is and compute nothing with it: it may be
    a mark (class Rows), a text or a number, that stands for what differs among many frames.

    line    of the first lines: time, layer, verb, rest; '': there are none
    quick   {protocol: a quicker PacketLog.layers()} for plain IPv4 of which layer 4 was read,
            which is most of all: with an answer or none
    """
    line, quick = '', {}

    @staticmethod
    def stamp(now) -> str:
        """Unix time -> seconds, '.', three digits of milliseconds."""
        return '%.3f' % now

    def inwards(self, stamp, view, segment, depth) -> str:
        """The lines of a frame that comes in, down to a depth of 0 to 2."""
        raise NotImplementedError

    def outwards(self, stamp, verb, view, segment, depth, fate) -> str:
        """The lines of the way back; verb: 'send' or 'drop'."""
        raise NotImplementedError


class PacketLog(JournalObserver):
    """Who knocked, layer by layer, and what became of it: lines of a Format in a Journal.

    now     Unix time of the frame before; stamp is its text
    """

    def __init__(self, journal, form, now):
        JournalObserver.__init__(self, journal)
        self.form, self.now, self.stamp = form, now, form.stamp(now)

    def begin(self):
        """The first lines: what is logged."""
        if self.form.line and self.takes(self.now, len(LAYERS)):
            self.journal.texts += [self.form.line.format(self.stamp, layer, 'init', '').rstrip()
                                   + '\n' for layer in LAYERS]

    def frame(self, now, frame, fate, answers):
        """One frame, its fate ('layer reason', None: answered), the frames that answer it."""
        if not self.takes(now, 1):
            return
        if frame[12:15] == IPV4_PLAIN and (
                len(answers) == 1 if answers else fate.startswith(('tcp ', 'udp '))):
            quick = self.form.quick.get(frame[23], self.layers)
        else:
            quick = self.layers
        self.journal.texts += quick(self.stamp, frame, fate, answers)

    def takes(self, now, count) -> bool:
        """Whether so many frames are logged, at this time."""
        if not self.journal.takes(now, count):
            return False
        if now != self.now:
            self.now, self.stamp = now, self.form.stamp(now)
        return True

    def layers(self, stamp, frame, fate, answers):
        """-> the lines of a frame of any kind, inwards and out again."""
        view = view_frame(frame)
        layer = fate.partition(' ')[0] if fate else view.name
        segment = None
        if view.proto in TRANSPORTS and (DEPTHS[layer] == 2 or not fate):
            segment = view_segment(frame, view.proto, view.at)
        depth = 2 if segment else DEPTHS[layer]
        yield self.form.inwards(stamp, view, segment, depth)
        if fate:
            yield self.form.outwards(stamp, 'drop', view, segment, depth, fate)
        for answer in answers:
            if segment:
                segment = view_segment(answer, view.proto, view.answer_at, True)
            else:
                view = view_frame(answer, True)
            yield self.form.outwards(stamp, 'send', view, segment, depth, fate)

    def openings(self, now, frames, answers, columns):
        """As frame() would say it of each, in columns: 0.5 us for each (CPython 3.11, 512 frames).

        What differs is filled into the lines of one, in which marks stand for it.
        """
        if not self.takes(now, len(frames)):
            return
        rows = Rows(len(frames))
        segment, back = columns.segments(rows)
        view = view_frame(frames[0])._replace(ips=(rows.address(columns.octets[COLUMN_SRC], 4),
                                                   rows.address(columns.octets[COLUMN_DST], 0)))
        self.journal.encode()
        self.journal.blocks.append(rows.fill(
            self.form.inwards(self.stamp, view, segment, 2)
            + self.form.outwards(self.stamp, 'send', view, back, 2, None)))

    def unasked(self, now, frames):
        """Answers of their own: the lines of the way out."""
        if not self.takes(now, len(frames)):
            return
        for frame in frames:
            view, segment = view_frame(frame, True), None
            if view.proto in TRANSPORTS:
                segment = view_segment(frame, view.proto, view.at, True)
            depth = 2 if segment else DEPTHS[view.name or 'eth']
            self.journal.texts.append(self.form.outwards(self.stamp, 'send', view, segment, depth,
                                                         None))


class ConsoleFormat(Format):
    """TAB-separated: time, layer, verb, what, then the client's addresses and ours."""
    line = '{}\t{}\t{}\t{}'

    def __init__(self):
        self.macs = {}                  # texts of MACs by their octets; at most MACS_MAX
        self.quick = {IP_TCP: self.segment, IP_UDP: self.datagram}

    def segment(self, stamp, frame, fate, answers):
        """As the layers say it, in one step: 1.3 us instead of 5.6 (CPython 3.11)."""
        near, far, ether = self.sides(frame)
        sport, dport, seq, ack, word = SEGMENT4.unpack_from(frame)
        verb, back = ('send', answers[0]) if answers else ('drop', frame)
        _, _, seq2, ack2, word2 = SEGMENT4.unpack_from(back)
        network, transport = f'{near}{far}\n{stamp}\t', f'{near}{sport}\t{far}\t{dport}\t'
        return (f'{stamp}\teth\trecv\tIpv4\t{ether}'
                f'{stamp}\tipv4\trecv\tTcp\t{network}'
                f'tcp\trecv\t{word & FLAGS}\t{transport}{seq}\t{ack}\n'
                f'{stamp}\ttcp\t{verb}\t{word2 & FLAGS}\t{transport}{seq2}\t{ack2}\n'
                f'{stamp}\tipv4\t{verb}\tTcp\t{network}eth\t{verb}\tIpv4\t{ether}'),

    def datagram(self, stamp, frame, fate, answers):
        """The same for UDP; an answer may come from another port than was asked (STUN)."""
        near, far, ether = self.sides(frame)
        sport, dport = PORTS4.unpack_from(frame)
        verb, port = 'drop', dport
        if answers:
            verb, (port, _) = 'send', PORTS4.unpack_from(answers[0])
        network, transport = f'{near}{far}\n{stamp}\t', f'\t\t{near}{sport}\t{far}\t'
        return (f'{stamp}\teth\trecv\tIpv4\t{ether}'
                f'{stamp}\tipv4\trecv\tUdp\t{network}'
                f'udp\trecv{transport}{dport}\n'
                f'{stamp}\tudp\t{verb}{transport}{port}\n'
                f'{stamp}\tipv4\t{verb}\tUdp\t{network}eth\t{verb}\tIpv4\t{ether}'),

    def sides(self, frame):
        """-> MAC and address of the client, and of ours; both MACs as a line ends with them."""
        known = self.macs.get(frame[:12])
        if known is None:
            if len(self.macs) >= MACS_MAX:
                self.macs.clear()
            macs = mac_text(frame[6:12]), mac_text(frame[:6])
            known = self.macs[frame[:12]] = macs + ('%s\t%s\n' % macs,)
        client, ours, ether = known
        return (f'{client}\t{socket.inet_ntoa(frame[26:30])}\t',
                f'{ours}\t{socket.inet_ntoa(frame[30:34])}', ether)

    def inwards(self, stamp, view, segment, depth):
        """The lines of a frame that comes in, down to a depth of 0 to 2."""
        text = self.ether(stamp, 'recv', view)
        if depth:
            text += self.network(stamp, 'recv', view)
        return text + self.transport(stamp, 'recv', view, segment) if segment else text

    def outwards(self, stamp, verb, view, segment, depth, fate):
        """The lines of the way back."""
        text = self.transport(stamp, verb, view, segment) if segment else ''
        if depth:
            text += self.network(stamp, verb, view)
        return text + self.ether(stamp, verb, view)

    @staticmethod
    def ether(stamp, verb, view):
        client, ours = view.macs
        return (f'{stamp}\teth\t{verb}\t{ETHERTYPE_NAMES.get(view.ethertype, "unknown")}\t'
                f'{client}\t{ours}\n')

    @staticmethod
    def network(stamp, verb, view):
        (client, ours), (client_ip, our_ip), what = view.hosts, view.ips, view.what
        what = f'ArpOperation({what})' if view.name == 'arp' else IP_NAMES.get(what, 'unknown')
        return f'{stamp}\t{view.name}\t{verb}\t{what}\t{client}\t{client_ip}\t{ours}\t{our_ip}\n'

    @staticmethod
    def transport(stamp, verb, view, segment):
        (client, ours), (client_ip, our_ip) = view.macs, view.ips
        name, what, ports, numbers = segment
        if numbers:
            return (f'{stamp}\ttcp\t{verb}\t{what}\t{client}\t{client_ip}\t{ports[0]}\t'
                    f'{ours}\t{our_ip}\t{ports[1]}\t{numbers[0]}\t{numbers[1]}\n')
        what = f'{what[0]}/{what[1]}' if what else ''
        sport, dport = ports or ('', '')
        return (f'{stamp}\t{name}\t{verb}\t{what}\t{client}\t{client_ip}\t{sport}\t'
                f'{ours}\t{our_ip}\t{dport}\n')


class LogfmtFormat(Format):
    """key=value; on the way back the outer layers add what was found inside."""
    line = 'ts={} proto={} verb={} {}'

    def inwards(self, stamp, view, segment, depth):
        """The lines of a frame that comes in, down to a depth of 0 to 2."""
        lines = [('eth', macs_pairs(view) + ether_pair(view))]
        if depth:
            lines.append((view.name, network_pairs(view)))
        if segment:
            lines.append((segment.name, transport_pairs(view, segment)))
        return ''.join([self.line.format(stamp, name, 'recv', pairs) + '\n'
                        for name, pairs in lines])

    def outwards(self, stamp, verb, view, segment, depth, fate):
        """The lines of the way back."""
        known, lines = macs_pairs(view), []
        if depth and view.name == 'arp':
            lines.append(('arp', network_pairs(view, swapped=verb == 'send')))
        elif depth:
            known += 'ip_src=%s ip_dst=%s ' % view.ips
            if segment:
                lines.append((segment.name, transport_pairs(view, segment)))
            if segment or fate in BEYOND_FILTERS:
                known += 'transport=%s ' % IP_NAMES.get(view.proto, 'unknown')
            if segment and segment.ports:
                known += 'port_src=%s port_dst=%s ' % segment.ports
            lines.append((view.name, known + 'next_proto=%s' % IP_NAMES.get(view.what, 'unknown')))
        lines.append(('eth', known + ether_pair(view)))
        return ''.join([self.line.format(stamp, name, verb, pairs) + '\n'
                        for name, pairs in lines])


BEYOND_FILTERS = 'ipv4 protocol', 'ipv6 protocol', 'ipv4 short', 'ipv6 short'


def macs_pairs(view):
    """-> 'mac_src=... mac_dst=... '."""
    return 'mac_src=%s mac_dst=%s ' % view.macs


def ether_pair(view):
    """-> 'eth_type=Ipv4'."""
    return 'eth_type=%s' % ETHERTYPE_NAMES.get(view.ethertype, 'unknown')


def network_pairs(view, swapped=False):
    """Layer 3 on its way in; swapped: an ARP answer, whose source is ours."""
    if view.name != 'arp':
        return macs_pairs(view) + 'ip_src=%s ip_dst=%s next_proto=%s' % (
            view.ips + (IP_NAMES.get(view.what, 'unknown'),))
    pairs = 'mac_%s=%%s mac_%s=%%s ip_%s=%%s ip_%s=%%s op=ArpOperation(%%d)' % (
        ('dst', 'src') * 2 if swapped else ('src', 'dst') * 2)
    return pairs % (view.hosts + view.ips + (view.what,))


def transport_pairs(view, segment):
    """Layer 4, with all that lies below."""
    name, what, ports, numbers = segment
    pairs = macs_pairs(view) + 'ip_src=%s ip_dst=%s transport=%s' % (
        view.ips + (IP_NAMES[view.proto],))
    if ports:
        pairs += ' port_src=%s port_dst=%s' % ports
    if numbers:
        pairs += ' flags=%s seq=%s ack=%s' % ((what,) + numbers)
    elif what:
        pairs += ' {0}_type={1}Type({2}) {0}_code={1}Code({3})'.format(
            name[:4] + name[4:].replace('v4', ''), IP_NAMES[view.proto], *what)
    return pairs


FORMATS = {'console': ConsoleFormat, 'logfmt': LogfmtFormat}


def is_stream(fd) -> bool:
    """Whether who reads may stall: not a file, not a device such as /dev/null."""
    mode = os.fstat(fd).st_mode
    return not stat.S_ISREG(mode) and not (stat.S_ISCHR(mode) and not os.isatty(fd))


class Rows:
    """The lines of many frames from a pattern for all, where marks stand for what differs.

    bytes % tuple fills in all of a round at once and makes no object of a number: 40 ns for each,
    where repr() and join() take 80 (CPython 3.11).  What all have in common costs next to nothing.
    A mark is a number longer than any of a frame, or its digits as text, so that every format
    writes it as it writes what it stands for: also JSON, where numbers and texts differ.

    count  of frames
    marks  [(format, column)]: what is filled in, one for each frame
    """
    def __init__(self, count):
        self.count, self.marks = count, []

    def mark(self, layout, column) -> int:
        """What stands for a column."""
        self.marks.append((layout, column))
        return MARK + len(self.marks) - 1

    def address(self, octets, at) -> str:
        """A column, IPv4 addresses at 0 or 4 of it -> pattern: what is alike, what differs."""
        pattern, texts = '', []
        for number in range(4):
            column, table = octets[at + number::8], OCTET_TEXTS[number == 3]
            if texts or column != column[:1] * self.count:
                texts.append(operator.itemgetter(*column)(table))
            else:
                pattern += table[column[0]].decode()
        if not texts:
            return pattern
        column = list(map(b''.join, zip(*texts)))                           # 95 ns, + 130
        return pattern + str(self.mark('%b', column))

    def number(self, values) -> int:
        """A number of each frame, or one of all -> what to write."""
        if len(values) == 1 or values == values[:1] * self.count:
            return values[0]
        return self.mark('%d', values)

    def fill(self, pattern) -> bytes:
        """Pattern of the lines of a frame -> the lines of all."""
        parts = MARKS.split(pattern.replace('%', '%%'))
        used = [self.marks[int(number)] for number in parts[1::2]]
        parts[1::2] = [layout for layout, _ in used]
        values = [None] * len(used) * self.count
        for at, (_, column) in enumerate(used):
            values[at::len(used)] = column
        return ''.join(parts).encode() * self.count % tuple(values)


class Watch(Observer):
    """-vv, -vvv: frames as hexadecimal text on standard error."""

    def __init__(self, verbose):
        self.all = verbose > 2

    def frame(self, now, frame, fate, answers):
        """As Observer.frame."""
        if fate:
            say('not answered (%s): %s' % (fate, frame.hex()))
        elif self.all:
            say('answered: %s' % frame.hex())
            for answer in answers:
                say('    with: %s' % answer.hex())

    def unasked(self, now, frames):
        for frame in frames if self.all else ():
            say('unasked: %s' % frame.hex())


class Teller(Observer):
    """-v: each answer of a protocol, and what else answerers note, on standard error."""
    on_frames, on_events = False, True

    def event(self, now, event):
        kind, peer, fields = event
        if kind == 'flow':
            return
        host = ip_text(peer.src)
        name = fields['protocol'] or TRANSPORTS[peer.transport]
        if kind == 'answer':
            say('%s to %s port %d, from our port %d: %d octets for %s' % (
                name, host, peer.sport, peer.dport, fields['octets'],
                printable_octets(fields['data'])))
            return
        pairs = ''.join(' %s=%s' % (key, value_text(value)) for key, value in fields.items()
                        if key != 'protocol')
        say('%s %s%s from %s port %d to port %d' % (name, kind, pairs, host, peer.sport,
                                                    peer.dport))


# ---- captures ----

# draft-ietf-opsawg-pcapng s4: each block has its type, its size, and its size again at the end
PCAPNG_BLOCK = struct.Struct('<II')
PCAPNG_SECTION = struct.Struct('<IHHq')         # s4.1: byte order, version, size of the section
PCAPNG_INTERFACE = struct.Struct('<HHI')        # s4.2: link type, reserved, snap length
PCAPNG_PACKET = struct.Struct('<IIIIIII')       # s4.3, type and size in front: interface, time
#                                                 (high, low), octets kept, octets
PCAPNG_STATISTICS = struct.Struct('<III')       # s4.6: interface, time
PCAPNG_SECRETS = struct.Struct('<II')           # s4.7: kind, octets
PCAPNG_OPTION = struct.Struct('<HH')            # s3.5: code, octets
PCAPNG_SHB, PCAPNG_IDB, PCAPNG_ISB = 0x0a0d0d0a, 1, 5
PCAPNG_EPB, PCAPNG_DSB = 6, 10
PCAPNG_ORDER, PCAPNG_TLS_KEYS = 0x1a2b3c4d, 0x544c534b
PCAPNG_COMMENT, PCAPNG_PROGRAM, PCAPNG_NAME, PCAPNG_FLAGS = 1, 4, 2, 2
PCAPNG_DESCRIPTION, PCAPNG_RESOLUTION = 3, 9
PCAPNG_START, PCAPNG_END, PCAPNG_RECEIVED, PCAPNG_DROPPED = 2, 3, 4, 5
PCAPNG_IN, PCAPNG_OUT = 1, 2                    # s4.3.1
LINKTYPE_ETHERNET = 1
SNAPLEN = 1 << 16
CAPTURE_ROTATE = 100 << 20, KEPT_FILES
KEYS_MAX = 1 << 20                              # octets of TLS secrets of one frame


def pack_block(kind, body) -> bytes:
    """A block of pcapng; body: octets, filled up to 4."""
    size = len(body) + -len(body) % 4 + 12
    return (PCAPNG_BLOCK.pack(kind, size) + body.ljust(size - 12, b'\0')
            + size.to_bytes(4, 'little'))


def pack_pcapng_options(*options) -> bytes:
    """(code, octets or text) -> the options of a block, with their end."""
    out = b''
    for code, value in options:
        octets = value.encode() if isinstance(value, str) else value
        out += PCAPNG_OPTION.pack(code, len(octets)) + octets + bytes(-len(octets) % 4)
    return out + PCAPNG_OPTION.pack(0, 0)


def pcapng_time(now) -> 'tuple[int, int]':
    """Unix time -> upper and lower half of its microseconds."""
    micros = int(now * 1000000)
    return micros >> 32, micros & MASK32


class BlockJournal(Journal):
    """The same of blocks of pcapng: each file begins with the description of the interface.

    head        octets of that
    statistics  statistics() -> the block with which a file ends
    headed      a stream has it already
    """

    def __init__(self, fd, name, what, head, statistics=bytes, **more):
        self.head, self.statistics, self.headed = head, statistics, False
        Journal.__init__(self, fd, name, what, **more)

    def begin(self):
        """As Journal.begin()."""
        new = os.fstat(self.fd).st_size == 0 if self.regular else not self.headed
        if new and not self.begun:
            self.waiting, self.headed = self.head + self.waiting, True

    def end(self):
        """As Journal.end()."""
        os.write(self.fd, self.statistics())

    def last_whole(self, data, at, end):
        """Where a block ends: it is only known from the first one on."""
        if at:
            return 0
        at, head = -len(self.begun), self.begun[:8] + data[:8]
        last, end = 0, min(end, len(data))
        while True:
            block = head if at < 0 else data[at:at + PCAPNG_BLOCK.size]
            at += max(from_octets(block[4:8], 'little'), 12)
            if at > end:
                return last
            last = at


class Capture(JournalObserver):
    """Frames in both directions, as pcapng; each one of a client has a comment: its fate.

    journal     a BlockJournal
    stack       whose frames they are
    snaplen     octets kept of each
    keys        descriptor of the file to which TLS secrets are written; None: there are none
    count       count() -> Counter of all that is counted
    begun       Unix time of the start
    events      the Host's list when it was last looked at, of which `seen` were known
    tails       {text of a comment, '' for a frame of ours: (options, their size)}
    """
    on_events = True

    def __init__(self, journal, stack, now, snaplen=SNAPLEN, keys=None,
                 count=collections.Counter):
        JournalObserver.__init__(self, journal)
        self.stack, self.snaplen = stack, snaplen
        self.keys, self.count, self.begun = keys, count, now
        self.events, self.seen, self.tails = None, 0, {}
        journal.statistics = self.pack_statistics

    def tail(self, comment):
        """-> options of a frame."""
        known = self.tails.get(comment)
        if known is None:
            if len(self.tails) >= ITEMS_MAX:
                self.tails.clear()
            flags = PCAPNG_IN if comment else PCAPNG_OUT
            options = [(PCAPNG_COMMENT, comment)] if comment else []
            known = self.tails[comment] = pack_pcapng_options(
                *options, (PCAPNG_FLAGS, flags.to_bytes(4, 'little')))
        return known

    def around(self, now, size, comment) -> 'tuple[bytes, bytes]':
        """What stands before and behind a frame of a size."""
        kept, tail = min(size, self.snaplen), self.tail(comment)
        whole = PCAPNG_PACKET.size + kept + -kept % 4 + len(tail) + 4
        return (PCAPNG_PACKET.pack(PCAPNG_EPB, whole, 0, *pcapng_time(now), kept, size),
                bytes(-kept % 4) + tail + whole.to_bytes(4, 'little'))

    def pack(self, now, frame, comment) -> bytes:
        """A frame, ours if there is no comment -> its block."""
        before, behind = self.around(now, len(frame), comment)
        return before + frame[:self.snaplen] + behind

    def frame(self, now, frame, fate, answers):
        """As Observer.frame."""
        if not self.journal.takes(now, 1):
            return
        blocks = self.journal.blocks
        if self.keys is not None and answers:
            blocks.append(self.take_keys())     # a reader needs them before the frame
        comment = 'not answered: ' + fate if fate else self.describe(answers)
        blocks.append(self.pack(now, frame, comment))
        for each in answers:
            blocks.append(self.pack(now, each, ''))

    def describe(self, answers):
        """Which protocols have answered the frame just now."""
        events = self.stack.host.events
        if events is not self.events:
            self.events, self.seen = events, 0
        new, self.seen = events[self.seen:], len(events)
        names = [each.fields['protocol'] for each in new if each.kind == 'answer']
        return 'answered: ' + ', '.join(dict.fromkeys(names)) if names else 'answered'

    def openings(self, now, frames, answers, columns):
        """As Observer.openings: 0.2 us for each."""
        size, other = len(frames[0]), len(answers.pattern)
        if list(map(len, frames)).count(size) < len(frames):
            Observer.openings(self, now, frames, answers, columns)
            return
        if self.journal.takes(now, len(frames)):
            before, between = self.around(now, size, 'answered')
            head, behind = self.around(now, other, '')
            if self.snaplen < max(size, other):
                frames = [frame[:self.snaplen] for frame in frames]
                answers = [answer[:self.snaplen] for answer in answers]
            self.journal.blocks.append(b''.join(itertools.chain.from_iterable(zip(
                itertools.repeat(before), frames, itertools.repeat(between + head), answers,
                itertools.repeat(behind)))))

    def unasked(self, now, frames):
        """As Observer.unasked."""
        if self.journal.takes(now, len(frames)):
            self.journal.blocks += [self.pack(now, frame, '') for frame in frames]

    def take_keys(self) -> bytes:
        """What the frame has yielded of TLS secrets -> their block, or nothing."""
        keys = os.pread(self.keys, KEYS_MAX, 0)
        if not keys:
            return b''
        os.ftruncate(self.keys, 0)
        return pack_block(PCAPNG_DSB, PCAPNG_SECRETS.pack(PCAPNG_TLS_KEYS, len(keys)) + keys)

    def pack_statistics(self) -> bytes:
        """-> the block of statistics: how many frames there were, and how many were lost."""
        counts, now = self.count(), time.time()
        return pack_block(PCAPNG_ISB, PCAPNG_STATISTICS.pack(0, *pcapng_time(now))
                          + pack_pcapng_options(*(
                              [(code, struct.pack('<II', *pcapng_time(when)))
                               for code, when in ((PCAPNG_START, self.begun), (PCAPNG_END, now))]
                              + [(PCAPNG_RECEIVED, counts['frames'].to_bytes(8, 'little')),
                                 (PCAPNG_DROPPED, counts['lost'].to_bytes(8, 'little'))])))

    def shift(self, step):
        super().shift(step)
        self.begun += step

    def close(self, now):
        """As Observer.close; the last block has the counters."""
        if self.journal.takes(now, 0):
            self.journal.blocks.append(self.pack_statistics())
        super().close(now)


def capture_head(name, sensor, snaplen) -> bytes:
    """Interface, sensor, snap length -> what a capture begins with."""
    return pack_block(PCAPNG_SHB, PCAPNG_SECTION.pack(PCAPNG_ORDER, 1, 0, -1)
                      + pack_pcapng_options((PCAPNG_PROGRAM, 'masscanned ' + __version__))
                      ) + pack_block(
        PCAPNG_IDB, PCAPNG_INTERFACE.pack(LINKTYPE_ETHERNET, 0, snaplen) + pack_pcapng_options(
            (PCAPNG_NAME, name), (PCAPNG_DESCRIPTION, sensor), (PCAPNG_RESOLUTION, b'\6')))


def open_keys(context) -> 'int | None':
    """A TLS context -> descriptor of a file in memory that gets its secrets; None: it has none.

    Below CPython 3.8, and with PyPy, there is no way to them.
    """
    if context is None:
        return None
    try:
        keys = os.memfd_create('keys')
        context.keylog_filename = '/proc/self/fd/%d' % keys
    except (AttributeError, OSError) as error:
        say('--pcap: what is said inside of TLS stays secret: %s' % (
            why(error) if isinstance(error, OSError) else 'CPython 3.8 or newer is needed'))
        return None
    return keys


# ---- fingerprints ----

P0F_TTLS = 32, 64, 128, 255
P0F_HOPS_MAX = 35               # more hops than that nobody believes
P0F_MSS_MIN = 100               # below it a window is no multiple of anything
ETHERNET_MTU = 1500
WSCALE_MAX = 14                 # RFC 7323 s2.3
TCP_OPTION_WSCALE, TCP_OPTION_SACK_OK, TCP_OPTION_TS = 3, 4, 8  # RFC 7323, RFC 2018
P0F_OPTIONS = {TCP_OPTION_NOP: 'nop', TCP_OPTION_MSS: 'mss', TCP_OPTION_WSCALE: 'ws',
               TCP_OPTION_SACK_OK: 'sok', 5: 'sack', TCP_OPTION_TS: 'ts'}
MSS_THEN_STAMP = bytes((TCP_OPTION_SACK_OK, 2, TCP_OPTION_TS, 10))
OPTION_SIZES = {TCP_OPTION_MSS: 4, TCP_OPTION_WSCALE: 3, TCP_OPTION_SACK_OK: 2,
                TCP_OPTION_TS: 10}
P0F_QUIRKS = ('df', 'id+', 'id-', 'ecn', '0+', 'flow', 'seq-', 'ack+', 'ack-', 'uptr+', 'urgf+',
              'pushf+', 'ts1-', 'ts2+', 'opt+', 'exws', 'bad')
IPV4_WHOLE = struct.Struct('!BBHHHBBH4s4s')     # RFC 791 s3.1: vihl tos total id frag ttl proto
#                                                 sum src dst
# What the first packet of a client says.
#   version     4 or 6; ttl, window, mss, wscale, seq, ident: numbers; mss, wscale: 0 if missing
#   dst, dport, sport   of it
#   kinds       of the options, in order; layout: of the same, as p0f writes it
#   size4       octets of options of IP; above: octets of both headers
#   stamped     there is a time stamp, not 0; quirks: set of P0F_QUIRKS; data: there is some
Syn = collections.namedtuple(
    'Syn', 'version ttl window mss wscale seq ident dst dport sport kinds layout size4 above '
    'stamped quirks data')


def parse_syn(frame) -> 'Syn | None':
    """Frame of a TCP segment -> what it says; None: it is none."""
    proto, addresses, at = find_layer4(frame)
    if proto != IP_TCP or len(frame) < at + TCP_HEADER.size:
        return None
    start = skip_tags(frame, from_octets(frame[12:14], 'big'))[1]
    sport, dport, seq, ack, word, window, _, urgent = TCP_HEADER.unpack_from(frame, at)
    end, ident = at + (word >> 12) * 4, 0
    if len(addresses) == 8:
        vihl, tos, total, ident, frag, ttl, _, _, _, dst = IPV4_WHOLE.unpack_from(frame, start)
        version, size4, ends = 4, (vihl & 15) * 4 - IPV4.size, start + total
        quirks = quirks_of_ipv4(tos, ident, frag)
    else:
        word6, size, _, ttl, _, dst = IPV6.unpack_from(frame, start)
        version, size4, ends = 6, 0, start + IPV6.size + size
        quirks = {'ecn'} if word6 >> 20 & 3 else set()
        if word6 & 0xfffff:
            quirks.add('flow')
    quirks |= quirks_of_tcp(seq, ack, word, urgent)
    kinds, layout, values, odd = walk_options(frame[at + TCP_HEADER.size:end])
    mss, wscale = (from_octets(values.get(kind, b''), 'big')
                   for kind in (TCP_OPTION_MSS, TCP_OPTION_WSCALE))
    return Syn(version, ttl, window, mss, wscale, seq, ident, dst, dport, sport, kinds, layout,
               size4, end - start, any(values.get(TCP_OPTION_TS, b'')[:4]), quirks | odd,
               ends > end)


def quirks_of_ipv4(tos, ident, frag) -> set:
    """What of P0F_QUIRKS a header has."""
    quirks = set()
    if tos & 3:
        quirks.add('ecn')
    if frag & 0x8000:
        quirks.add('0+')
    if frag & IPV4_DF:
        quirks.update(('df', 'id+') if ident else ('df',))
    elif not ident:
        quirks.add('id-')
    return quirks


@functools.lru_cache(maxsize=64)
def quirks_of_flags(flags) -> frozenset:
    """The same of flags."""
    return frozenset(name for name, bits in (('ecn', ECE | CWR), ('urgf+', URG), ('pushf+', PSH))
                     if flags & bits)


def quirks_of_tcp(seq, ack, word, urgent) -> set:
    """The same of a segment."""
    quirks = set(quirks_of_flags(word & FLAGS))
    if not seq:
        quirks.add('seq-')
    if word & ACK and not ack:
        quirks.add('ack-')
    if ack >> 24 & 1 and not word & ACK:        # p0f 3.09b looks at this bit only
        quirks.add('ack+')
    if urgent and not word & URG:
        quirks.add('uptr+')
    return quirks


def walk_options(options) -> 'tuple[list, list, dict, set]':
    """Options of TCP -> kinds, their layout for p0f, {kind: its value}, quirks; RFC 9293 s3.2.

    Linux's stand in few shapes once its time stamp is only 0 or 1.
    """
    if options[4:8] == MSS_THEN_STAMP and options[0] == TCP_OPTION_MSS and len(options) >= 16:
        options = b'%b%c\0\0\0%c\0\0\0%b' % (options[:8], any(options[8:12]),
                                              any(options[12:16]), options[16:])
    return walk_shape(options)


@functools.lru_cache(maxsize=1024)
def walk_shape(options) -> 'tuple[list, list, dict, set]':
    """The same; nothing of it may be changed."""
    kinds, layout, values, odd, at = [], [], {}, set(), 0
    while at < len(options):
        kind = options[at]
        kinds.append(kind)
        if kind == TCP_OPTION_END:
            rest = options[at + 1:]
            layout.append('eol+%d' % len(rest))
            return kinds, layout, values, odd | ({'opt+'} if any(rest[:-1]) else set())
        layout.append(P0F_OPTIONS.get(kind) or '?%d' % kind)
        if kind == TCP_OPTION_NOP:
            at += 1
            continue
        told = options[at + 1] if at + 1 < len(options) else 0
        size = OPTION_SIZES.get(kind, told)     # as p0f: a wrong one changes nothing
        if told != size:
            odd.add('bad')
        if size < 2 or at + size > len(options):
            return kinds, layout, values, odd | {'bad'}
        value = values[kind] = options[at + 2:at + size]
        if kind == TCP_OPTION_WSCALE and value[0] > WSCALE_MAX:
            odd.add('exws')
        elif kind == TCP_OPTION_TS:
            odd.update([] if any(value[:4]) else ['ts1-'], ['ts2+'] if any(value[4:]) else [])
        at += size
    return kinds, layout, values, odd


@functools.lru_cache(maxsize=1024)
def window_text(window, mss, version, stamped, above) -> str:
    """The window of a Syn, as a multiple of what p0f tries in this order, or as it is."""
    if not window or mss < P0F_MSS_MIN:
        return str(window)
    heads = [40] if version == 4 else [40, 60]
    tries = [(mss, 'mss')] + ([(mss - 12, 'mss')] if stamped else [])
    for size in heads:
        tries += [(ETHERNET_MTU - size, 'mss'), (ETHERNET_MTU - size - 12, 'mss')]
    tries += [(mss + size, 'mtu') for size in heads + [above]] + [(ETHERNET_MTU, 'mtu')]
    for size, name in tries:
        if window % size == 0:
            return '%s*%d' % (name, window // size)
    return str(window)


def pack_signature(syn) -> str:
    """A Syn -> raw signature of p0f 3; source: its README, 'Fingerprint database', TCP."""
    hops = P0F_TTLS[bisect.bisect_left(P0F_TTLS, syn.ttl)] - syn.ttl
    return '%d:%d+%s:%d:%d:%s,%d:%s:%s:%s' % (
        syn.version, syn.ttl, hops if hops <= P0F_HOPS_MAX else '?', syn.size4, syn.mss,
        window_text(syn.window, syn.mss, syn.version, syn.stamped, syn.above), syn.wscale,
        ','.join(syn.layout),
        ','.join(each for each in P0F_QUIRKS if each in syn.quirks), '+' if syn.data else '0')


def syn_text(syn) -> str:
    """A Syn -> masscanned.syn of an event, in JSON."""
    return (f'{{"sig":"{pack_signature(syn)}","ttl":{syn.ttl},"window":{syn.window},'
            f'"mss":{syn.mss},"wscale":{syn.wscale},"options":{syn.kinds},"id":{syn.ident},'
            f'"seq":{syn.seq}}}')


def masscan_ident(syn) -> int:
    """The IP ID that masscan gives such a SYN."""
    return (from_octets(syn.dst[-4:], 'big') ^ syn.dport ^ syn.seq) & HALF


# Who it is, from facts of the first packet, the surest first: (name, by, whether the shape of a
# Syn has them, whether the rest has: ident, seq, dst, dport, sport, which shape() leaves out).
SYN_TOOLS = (
    # Zakir Durumeric et al., 'An Internet-Wide View of Internet-Wide Scanning', 2014, s3.2
    ('zmap', 'ip.id', lambda syn: True, lambda syn: syn.ident == 54321),
    # Antonakakis et al., 'Understanding the Mirai Botnet', 2017, s3.1
    ('mirai', 'tcp.seq', lambda syn: syn.version == 4,
     lambda syn: syn.seq == from_octets(syn.dst, 'big')),
    # Durumeric, as above; what masscan 1.3 sends, seen on the wire
    ('masscan', 'ip.id', lambda syn: syn.version == 4 and syn.window == 1024,
     lambda syn: syn.ident == masscan_ident(syn)),
    # nmap.org/book/man-port-scanning-techniques.html, and nmap 7.93 -sS on the wire
    ('nmap', 'tcp.window', lambda syn: syn.window in (1024, 2048, 3072, 4096)
     and syn.kinds == [TCP_OPTION_MSS] and syn.mss == 1460, lambda syn: True),
    # hping3(8): --win, 64 by default in version 2, 512 in 3; no options
    ('hping', 'tcp.window', lambda syn: syn.window == 512 and not syn.kinds, lambda syn: True),
    # scapy.readthedocs.io: defaults of IP() and TCP()
    ('scapy', 'tcp.window', lambda syn: syn.window == 8192 and not syn.kinds,
     lambda syn: syn.ident in (0, 1)),
    # cscan.py beside this file
    ('cscan', 'ip.ttl', lambda syn: syn.ttl > 255 - P0F_HOPS_MAX,
     lambda syn: syn.sport == 32005))
# And from what it says: parts, in lower case, of a User-Agent, and of an SSH identification, as
# these programs write them themselves.
AGENT_TOOLS = (
    (b'zgrab', 'zgrab'), (b'censys', 'censys'), (b'shodan', 'shodan'), (b'leakix', 'leakix'),
    (b'l9explore', 'leakix'), (b'l9tcpid', 'leakix'), (b'shadowserver', 'shadowserver'),
    (b'expanse', 'expanse'), (b'paloalto', 'expanse'), (b'internet-measurement', 'driftnet'),
    (b'netsystemsresearch', 'netsystems'), (b'onyphe', 'onyphe'), (b'binaryedge', 'binaryedge'),
    (b'modat', 'modat'), (b'masscan', 'masscan'), (b'nmap', 'nmap'), (b'nuclei', 'nuclei'),
    (b'sqlmap', 'sqlmap'), (b'nikto', 'nikto'), (b'gobuster', 'gobuster'), (b'ffuf', 'ffuf'),
    (b'wpscan', 'wpscan'), (b'metasploit', 'metasploit'), (b'hydra', 'hydra'),
    (b'httpx', 'httpx'), (b'fasthttp', 'fasthttp'), (b'go-http-client', 'go-http'),
    (b'python-requests', 'python-requests'), (b'python-urllib', 'python-urllib'),
    (b'aiohttp', 'aiohttp'), (b'okhttp', 'okhttp'), (b'curl/', 'curl'), (b'wget', 'wget'),
    (b'libwww-perl', 'libwww-perl'), (b'java/', 'java'))
SSH_TOOLS = (
    (b'zgrab', 'zgrab'), (b'nmap', 'nmap'), (b'medusa', 'medusa'), (b'hydra', 'hydra'),
    (b'libssh2', 'libssh2'), (b'libssh', 'libssh'), (b'paramiko', 'paramiko'),
    (b'asyncssh', 'asyncssh'), (b'jsch', 'jsch'), (b'-go', 'go-ssh'), (b'putty', 'putty'),
    (b'winscp', 'winscp'), (b'dropbear', 'dropbear'), (b'openssh', 'openssh'),
    (b'metasploit', 'metasploit'))
# Probes with a text of their own, as nmap 7.93 -sV sends them, seen on the wire.
PROBE_TEXTS = (
    (b'/nice%20ports%2C/Tri%6Eity.txt%2ebak', 'nmap'), (b'sip:nm SIP/2.0', 'nmap'),
    (b'mstshash=nmap', 'nmap'))
USER_AGENT = re.compile(br'\r\n[Uu]ser-[Aa]gent:[ \t]*([^\r\n]{1,256})')


def tool_of_syn(syn) -> 'tuple[str, str] | None':
    """Who sent such a Syn -> (name, what it rests on)."""
    for name, by, shape, rest in SYN_TOOLS:
        if shape(syn) and rest(syn):
            return name, by
    return None


# What differs among the SYNs of a program: ident, both addresses, ports, seq
SYN_REST = struct.Struct('!18xH6x4s4sHHI')
SynRest = collections.namedtuple('SynRest', 'ident src dst sport dport seq')


def describe_syn(frame) -> 'tuple[str, tuple | None]':
    """Frame of a TCP segment -> its text for an event, tool_of_syn(); '', None: it is none.

    Over plain IPv4, a shape is described once: 3 us instead of 16.
    """
    if frame[12:15] != IPV4_PLAIN or frame[23] != IP_TCP or len(frame) < SEGMENT4.size:
        syn = parse_syn(frame)
        return (syn_text(syn), tool_of_syn(syn)) if syn else ('', None)
    rest = SynRest._make(SYN_REST.unpack_from(frame))
    options = frame[54:from_octets(frame[16:18], 'big') + 14]
    if options[4:8] == MSS_THEN_STAMP:
        options = b'%b%c\0\0\0%b' % (options[:8], any(options[8:12]), options[12:])
    head, rows = describe_shape(b'%b\0%c%b%b%b%c%b%b' % (
        frame[12:18], rest.ident > 0, frame[20:24], bytes(14), b'\0\0\0', rest.seq > 0,
        frame[42:54], options))
    tool = None
    for name, by, holds in rows:
        if holds(rest):
            tool = name, by
            break
    return f'{head}"id":{rest.ident},"seq":{rest.seq}}}', tool


@functools.lru_cache(maxsize=1024)
def describe_shape(frame) -> 'tuple[str, list]':
    """What SYNs have in common, from the EtherType on -> its text, rows of SYN_TOOLS that fit."""
    syn = parse_syn(bytes(12) + frame)
    return syn_text(syn).partition('"id":')[0], [
        (name, by, rest) for name, by, shape, rest in SYN_TOOLS if shape(syn)]


@functools.lru_cache(maxsize=1024)
def tool_of_text(text, which) -> 'str | None':
    """A User-Agent or identification in lower case, a table -> name."""
    return next((name for part, name in which if part in text), None)


@functools.lru_cache(maxsize=256)
def tool_of_payload(payload) -> 'tuple[str, str] | None':
    """What a client said first -> who it is, what that rests on."""
    for part, name in PROBE_TEXTS:
        if part in payload:
            return name, 'payload'
    if payload.startswith(b'SSH-'):
        name = tool_of_text(payload.partition(b'\n')[0][:256].lower(), SSH_TOOLS)
        return name and (name, 'ssh.software')
    match = USER_AGENT.search(payload)
    name = match and tool_of_text(match.group(1).lower(), AGENT_TOOLS)
    return name and (name, 'http.user_agent')


def tool_text(found) -> str:
    """-> masscanned.tool of an event, in JSON, and a comma; '': nothing is known."""
    return '"tool":{"name":"%s","by":"%s"},' % found if found else ''


# What a ClientHello says (RFC 8446 s4.1.2): numbers; extensions: [(type, octets)]
Hello = collections.namedtuple('Hello', 'version ciphers extensions')
TLS_SNI, TLS_GROUPS, TLS_POINTS, TLS_SIGNATURES = 0, 10, 11, 13     # IANA, ExtensionType Values
TLS_ALPN, TLS_VERSIONS = 16, 43
TLS_NAMES = {0x0304: 'TLS 1.3', 0x0303: 'TLS 1.2', 0x0302: 'TLS 1.1', 0x0301: 'TLSv1',
             0x0300: 'SSLv3'}
JA4_VERSIONS = {0x0304: '13', 0x0303: '12', 0x0302: '11', 0x0301: '10', 0x0300: 's3',
                0x0002: 's2', 0xfeff: 'd1', 0xfefd: 'd2', 0xfefc: 'd3'}
JA4_HASH = 12                   # digits


def is_grease(number) -> bool:
    """Whether a number stands for nothing (RFC 8701 s2)."""
    return number & 0x0f0f == 0x0a0a and number >> 8 == number & 0xff


def read_words(octets) -> 'list[int]':
    """Numbers of two octets, as many as are whole, without GREASE."""
    words = struct.unpack('!%dH' % (len(octets) // 2), octets[:len(octets) & ~1])
    return [word for word in words if not is_grease(word)]


def parse_hello(message) -> 'Hello | None':
    """Handshake message of a ClientHello, type and length in front -> Hello; None: it is none."""
    if len(message) < 39 or message[0] != 1:
        return None
    at = 39 + message[38]
    size = from_octets(message[at:at + 2], 'big')
    ciphers = read_words(message[at + 2:at + 2 + size])
    at += 2 + size
    at += 1 + (message[at] if at < len(message) else 0)
    end = min(at + 2 + from_octets(message[at:at + 2], 'big'), len(message))
    at, extensions = at + 2, []
    while at + 4 <= end:
        kind, size = TAG.unpack_from(message, at)
        extensions.append((kind, message[at + 4:min(at + 4 + size, end)]))
        at += 4 + size
    return Hello(from_octets(message[4:6], 'big'), ciphers,
                 [each for each in extensions if not is_grease(each[0])])


def ja3_text(hello) -> str:
    """What JA3 is the MD5 of; source: https://github.com/salesforce/ja3, README."""
    found = dict(hello.extensions)
    groups, points = found.get(TLS_GROUPS, b''), found.get(TLS_POINTS, b'')
    return ','.join([str(hello.version)] + ['-'.join(map(str, each)) for each in (
        hello.ciphers, [kind for kind, _ in hello.extensions], read_words(groups[2:]),
        points[1:])])


def read_alpn(hello) -> 'list[bytes]':
    """-> the names of RFC 7301 s3.1."""
    data, at, names = dict(hello.extensions).get(TLS_ALPN, b''), 2, []
    while at < len(data) and len(names) < ITEMS_MAX:
        names.append(data[at + 1:at + 1 + data[at]])
        at += 1 + data[at]
    return names


def read_sni(hello) -> bytes:
    """-> the name of RFC 6066 s3; b'': none."""
    data = dict(hello.extensions).get(TLS_SNI, b'')
    return data[5:5 + from_octets(data[3:5], 'big')]


def highest_version(hello) -> int:
    """-> the best one it offers."""
    return max(read_words(dict(hello.extensions).get(TLS_VERSIONS, b'')[1:]),
               default=hello.version)


def ja4_text(hello, transport='t') -> str:
    """The fingerprint JA4; source: https://github.com/FoxIO-LLC/ja4, technical_details/JA4.md.

    transport   t: TCP, q: QUIC
    """
    found = dict(hello.extensions)
    name = (read_alpn(hello) + [b''])[0]
    ends = '00'
    if name:
        ends = (name[:1] + name[-1:]).decode('latin-1')
        if not re.fullmatch('[0-9A-Za-z]{2}', ends):
            ends = name.hex()[0] + name.hex()[-1]
    kinds = [kind for kind, _ in hello.extensions]
    head = '%s%s%s%02d%02d%s' % (
        transport, JA4_VERSIONS.get(highest_version(hello), '00'),
        'd' if TLS_SNI in found else 'i', min(len(hello.ciphers), 99), min(len(kinds), 99), ends)
    rest = ja4_list(sorted(each for each in kinds if each not in (TLS_SNI, TLS_ALPN)))
    signatures = ja4_list(read_words(found.get(TLS_SIGNATURES, b'')[2:]))
    return '%s_%s_%s' % (head, ja4_hash(ja4_list(sorted(hello.ciphers))),
                         ja4_hash('_'.join(each for each in (rest, signatures) if each)))


def ja4_list(numbers) -> str:
    """Numbers -> four digits each."""
    return ','.join('%04x' % each for each in numbers)


def ja4_hash(text) -> str:
    """-> 12 digits of SHA-256, zeros for nothing."""
    return hashlib.sha256(text.encode()).hexdigest()[:JA4_HASH] if text else '0' * JA4_HASH


def md5_text(text) -> str:
    """MD5 of a text or of octets: a name here, no protection."""
    octets = text if isinstance(text, bytes) else text.encode()
    try:
        return hashlib.md5(octets).hexdigest()
    except ValueError:                          # FIPS
        return hashlib.new('md5', octets, usedforsecurity=False).hexdigest()


def tls_object(message) -> dict:
    """ClientHello -> the object `tls` of an event; {}: it is none."""
    hello = parse_hello(message)
    if not hello:
        return {}
    text, name, version = ja3_text(hello), read_sni(hello), highest_version(hello)
    found = {'version': TLS_NAMES.get(version, '%04x' % version)}
    if name:
        found['sni'] = plain(name)
    alpns = read_alpn(hello)
    if alpns:
        found['client_alpns'] = plain(alpns)
    found['client_handshake'] = {
        'version': TLS_NAMES.get(hello.version, '%04x' % hello.version),
        'ciphers': hello.ciphers, 'exts': [kind for kind, _ in hello.extensions],
        'sig_algs': read_words(dict(hello.extensions).get(TLS_SIGNATURES, b'')[2:])}
    found['ja3'] = {'hash': md5_text(text), 'string': text}
    found['ja4'] = ja4_text(hello)
    return found


HTTP_HEADER = re.compile(br'^([^:\r\n]{1,256}):[ \t]*([^\r\n]*)', re.M)
HTTP_HEADERS_MAX = 100


def http_headers(head) -> 'tuple[str, list]':
    """Head of a request -> version of the protocol, [{name, value}] in the client's order."""
    line, _, rest = head.partition(b'\n')
    rows = itertools.islice(HTTP_HEADER.finditer(rest), HTTP_HEADERS_MAX)
    return plain(line.split()[-1][:16] if line.split() else b''), [
        {'name': plain(row.group(1)), 'value': plain(row.group(2))} for row in rows]


@functools.lru_cache(maxsize=256)
def http_text(noted, text) -> str:
    """What was noted of a request, [(name, value)] -> the object `http` of an event, in JSON.

    text    text() of make_encoder(); what is known costs 1 us instead of 20
    """
    fields = dict(noted)
    known = {'method': 'http_method', 'path': 'url', 'host': 'hostname',
             'agent': 'http_user_agent'}
    found = {known.get(key, key): plain(value) for key, value in fields.items()
             if key not in ('protocol', 'head', 'body') and value != b''}
    if fields.get('head'):
        found['protocol'], found['request_headers'] = http_headers(fields['head'])
    if fields.get('body'):
        found['http_request_body_printable'] = fields['body'].translate(AS_PRINTABLE).decode()
    return '"http":%s,' % text(found)


def hassh_text(kexinit) -> str:
    """Payload of a client's KEXINIT -> what HASSH is the MD5 of.

    source  RFC 4253 s7.1, https://github.com/salesforce/hassh, README
    """
    at, lists = 17, []
    for _ in range(8):
        names, at = read_sized(kexinit, at, 4)
        lists.append(names.decode('latin-1'))
    return ';'.join(lists[place] for place in (0, 2, 4, 6))


def ssh_object(version, kexinit=b'') -> dict:
    """What begins with the identification line, KEXINIT -> the object `ssh` of an event."""
    proto, _, software = version.partition(b'\n')[0].partition(b'-')[2].partition(b'-')
    client = {'proto_version': plain(proto), 'software_version': plain(software.strip())}
    if kexinit:
        text = hassh_text(kexinit)
        client['hassh'] = {'hash': md5_text(text), 'string': text}
    return {'client': client}


# ---- events ----

SCHEMA = 1
EVENTS_BUDGET = 2000            # lines a second; beyond it conversations are only counted
EVENTS_ROTATE = 100 << 20, KEPT_FILES
PAYLOAD = 1024                  # octets of what a client says, unless --payload says otherwise
SWEEP_S = 1.0                   # what is over is looked for so often
DATAGRAMS_S = 30                # datagrams between the same ports are one flow for so long
SOURCE_QUIET_S, SOURCE_MOST_S = 60, 600         # a scan is over; it is reported before
SCANS_RATE = 50                 # a second
STATS_S = 60
SOURCES_MAX = 16384
DATAGRAMS_MAX = 16384
MEMBERS_MAX = 1 << 18           # ports and addresses remembered of all sources together
PORTS_SHOWN = 64
TCP_FLAGS_AT = 13               # RFC 9293 s3.1
SHAPES_MAX = 4
SOURCE_FRAME = 128              # octets kept of a source's frame: all headers
TEXT_LIMIT = 4096               # characters of a field, of which there are so many:
ITEMS_MAX, NESTED_MAX = 256, 4
ICMP_ASKS = {IP_ICMP: (ICMP_ECHO, ICMP_TIMESTAMP, 15, 17),      # RFC 792, RFC 950
             IP_ICMPV6: (ICMPV6_ECHO,)}
ICMP_REPLIES = {ICMP_ECHO: ICMP_ECHO_REPLY, ICMP_TIMESTAMP: ICMP_TIMESTAMP_REPLY, 15: 16, 17: 18,
                ICMPV6_ECHO: ICMPV6_ECHO_REPLY}
COMMUNITY_END = struct.Struct('!BxHH')  # of what is hashed: protocol, ports
EVE_PROTO = {IP_TCP: 'TCP', IP_UDP: 'UDP', IP_ICMP: 'ICMP', IP_ICMPV6: 'IPv6-ICMP'}
# Names of ours that EVE JSON, as Suricata documents it, has otherwise
EVE_NAMES = {'dht': 'bittorrent_dht', 'dns-tcp': 'dns', 'ethernet-ip': 'enip',
             'kerberos': 'krb5', 'kerberos-tcp': 'krb5', 'msrpc': 'dcerpc',
             'postgresql': 'pgsql', 'socks4': 'socks', 'socks5': 'socks'}
FLAG_LETTERS = 'FSRPAUEC'
TCP_FLAG_NAMES = 'fin', 'syn', 'rst', 'psh', 'ack', 'urg', 'ecn', 'cwr'
FLOW_REASONS = {'evicted': 'forced', 'shutdown': 'shutdown'}    # of EVE; all else: timeout


class Source:
    """Somebody who knocks over one protocol.

    first, last     Unix times
    packets         that belong to no conversation
    ports, addresses    of ours, dicts as ordered sets
    flags           {flags of TCP, or type of ICMP: packets}
    frame           the last SYN, or the first of any kind; octets
    shapes          {offset, flags and window of SYNs: [how many, one of them]}; at most SHAPES_MAX
    flows           conversations it has begun
    suppressed      events of it that the budget left out
    more            some ports and addresses are not remembered
    """
    __slots__ = ('first', 'last', 'packets', 'ports', 'addresses', 'flags', 'frame', 'shapes',
                 'flows', 'suppressed', 'more')

    def __init__(self, now, frame):
        self.first = self.last = now
        self.packets = self.flows = self.suppressed = 0
        self.ports, self.addresses, self.flags = {}, {}, {}
        self.frame, self.more = frame[:SOURCE_FRAME], False
        self.shapes = {}

    def take_syn(self, frame, shape, count=1):
        """A SYN, the last of so many alike."""
        self.frame = frame[:SOURCE_FRAME]
        known = self.shapes.get(shape)
        if known:
            known[0] += count
        elif len(self.shapes) < SHAPES_MAX:
            self.shapes[shape] = [count, self.frame]

    def typical(self):
        """-> the frame that stands for most of its SYNs."""
        return max(self.shapes.values())[1] if self.shapes else self.frame

    def members(self):
        """How many ports and addresses it remembers."""
        return len(self.ports) + len(self.addresses)

    def has_only_knocked(self):
        """Whether there is more to report than its conversations."""
        return self.packets and (len(self.ports) or 1) * (len(self.addresses) or 1) > self.flows


def make_knocker(now, frame) -> Source:
    """Who has knocked once, at a time -> Source."""
    source = Source(now, frame)
    proto, addresses, at = find_layer4(frame)
    if proto:
        flags = 0 if proto == IP_UDP else frame[at + (TCP_FLAGS_AT if proto == IP_TCP else 0)]
        source.packets, source.flags[flags] = 1, 1
        source.addresses[addresses[len(addresses) // 2:]] = None
        if proto not in ICMP_ASKS:
            source.ports[from_octets(frame[at + 2:at + 4], 'big')] = None
        if proto == IP_TCP and flags == SYN:
            source.take_syn(frame, frame[at + 12:at + 16])
    return source


class EventLog(JournalObserver):
    """What is said, by whom, and who only knocks: lines of JSON in a Journal.

    stack       whose connections they are
    where       text of both, as it stands in each line
    sensor      the end of each line: schema, number of the worker
    count       count() -> Counter of all that is counted
    text        text(object) -> its text in JSON, as of make_encoder()
    budget      [lines that may still be written, when that was so]; rate: a second
    suppressed  lines that it left out
    sources     {IPv4 address as a number (TCP), or address and protocol as octets: Source, or
                (Unix time, frame) of who has knocked once: a flood of them costs 0.2 us each}
    members     ports and addresses that these remember
    strangers   packets of those for whom there was no room among the sources
    datagrams   {addresses and ports: Record} of UDP, the longest silent first
    begun       Unix time of the start; sweep_at, stats_at: when these are due
    """
    on_events = True

    def __init__(self, journal, stack, iface, name, now, encode, worker=None,
                 rate=EVENTS_BUDGET, count=collections.Counter):
        JournalObserver.__init__(self, journal)
        self.stack, self.count = stack, count
        self.sensor = '"schema":%d%s}}\n' % (
            SCHEMA, '' if worker is None else ',"worker":%d' % worker)
        self.rate, self.budget = rate, [rate, now]
        self.suppressed = self.members = self.strangers = 0
        self.sources, self.datagrams = {}, collections.OrderedDict()
        self.begun, self.sweep_at, self.stats_at = now, now + SWEEP_S, now + STATS_S
        self.knocks = {None: True}              # fate: whether a frame of it counts
        self.text = encode
        self.where = self.text({'host': name, 'in_iface': iface})[1:-1] + ','

    @property
    def due(self):
        due = min(self.sweep_at, self.stats_at)
        return due if self.journal.due is None else min(due, self.journal.due)

    # frames

    def frame(self, now, frame, fate, answers):
        """As Observer.frame."""
        known = self.knocks.get(fate)
        if known is None:
            known = self.knocks[fate] = is_knock(fate)
        if not known:
            return
        if frame[12:15] != IPV4_PLAIN:
            proto, addresses, at = find_layer4(frame)
        elif frame[23] == IP_TCP:               # most of all
            self.segment(now, frame, frame[26:38], 34, answers)
            return
        else:
            proto, addresses, at = frame[23], frame[26:34], 34
        if proto == IP_TCP:
            self.segment(now, frame, addresses + frame[at:at + 4], at, answers)
        elif proto == IP_UDP:
            size = UDP_HEADER.unpack_from(frame, at)[2]
            self.datagram(now, frame, addresses + frame[at:at + 4],
                          frame[at + UDP_HEADER.size:at + size], answers)
        elif proto in ICMP_ASKS and frame[at] in ICMP_ASKS[proto]:
            half = len(addresses) // 2
            self.knock(now, addresses[:half] + bytes((proto,)), frame, None, addresses[half:],
                       frame[at])

    def segment(self, now, frame, flow, at, answers):
        """A segment: of a conversation, or a knock."""
        conn = self.stack.connections.get(flow)
        record = conn.record if conn else self.just_ended(flow)
        if record is None:
            self.knock_tcp(now, frame, flow, frame[at + TCP_FLAGS_AT])
            return
        record.last = now
        came, flags = record.came, record.flags
        came[0] += 1
        came[1] += len(frame)
        flags[0] |= frame[at + TCP_FLAGS_AT]
        for each in answers:
            record.went[0] += 1
            record.went[1] += len(each)
            flags[1] |= each[FLAGS4_AT if each[12:15] == IPV4_PLAIN else
                             find_layer4(each)[2] + TCP_FLAGS_AT]
        if record.syn is None:
            record.vlan = find_tags(frame)
            record.syn = self.join(source_key(flow), now)

    def knock_tcp(self, now, frame, flow, flags):
        """A segment of no conversation."""
        half = len(flow) // 2 - 2
        source = self.knock(now, source_key(flow), frame, from_octets(flow[-2:], 'big'),
                            flow[half:-4], flags)
        if flags == SYN and source:
            at = find_layer4(frame)[2]
            source.take_syn(frame, frame[at + 12:at + 16])

    def just_ended(self, flow):
        """The Record of a conversation that the frame before our eyes has ended, or None."""
        events = self.stack.host.events
        if events and events[-1].kind == 'flow':
            record = events[-1].fields['record']
            return record if record.flow == flow else None
        return None

    def join(self, key, now):
        """A source begins a conversation -> the frame that we remember of it, or b''."""
        source = self.find_source(key)
        if source is None:
            return b''
        source.flows += 1
        source.last = now
        return source.frame

    def find_source(self, key):
        """-> Source or None."""
        source = self.sources.get(key)
        if isinstance(source, tuple):
            source = self.sources[key] = make_knocker(*source)
            if self.members >= MEMBERS_MAX:
                source.ports, source.addresses, source.more = {}, {}, True
            self.members += source.members()
        return source

    def datagram(self, now, frame, flow, data, answers):
        """A datagram: the first or another of a flow; an empty one only knocks."""
        half = len(flow) // 2 - 2
        if not data:
            self.knock(now, flow[:half] + b'\x11', frame, from_octets(flow[-2:], 'big'),
                       flow[half:-4], 0)
            return
        record = self.datagrams.get(flow)
        if record and (now - record.last >= DATAGRAMS_S or now - record.start >= SOURCE_MOST_S):
            del self.datagrams[flow]
            self.end_flow(now, record, 'idle')
            record = None
        if record is None:
            if len(self.datagrams) >= DATAGRAMS_MAX:
                self.end_flow(now, self.datagrams.popitem(False)[1], 'evicted')
            record = self.datagrams[flow] = Record(flow, UDP, now, self.stack.host.keep)
            record.syn, record.vlan = frame[:SOURCE_FRAME], find_tags(frame)
        else:
            self.datagrams.move_to_end(flow)
        record.last = now
        record.hear(data)
        record.came[0] += 1
        record.came[1] += len(frame)
        record.went[0] += len(answers)
        record.went[1] += sum(map(len, answers))

    def knock(self, now, key, frame, port, address, flags):
        """A packet that belongs to no conversation -> its Source; None: it is the first one.

        port    None for ICMP
        """
        source = self.find_source(key)
        if source is None:
            self.welcome(now, key, frame)
            return None
        source.last = now
        source.packets += 1
        source.flags[flags] = source.flags.get(flags, 0) + 1
        if address not in source.addresses or not (port is None or port in source.ports):
            self.remember(source, () if port is None else (port,), (address,))
        return source

    def welcome(self, now, key, frame):
        """Somebody knocks for the first time."""
        if len(self.sources) >= SOURCES_MAX:
            self.strangers += 1
        else:
            self.sources[key] = now, frame[:SOURCE_FRAME]

    def remember(self, source, ports, addresses):
        """Ports and addresses of ours that a source asked for, as far as there is room."""
        if self.members >= MEMBERS_MAX:
            source.more = True
            return
        before = source.members()
        for known, new in (source.ports, ports), (source.addresses, addresses):
            if len(new) == 1:
                known[new[0]] = None
            else:
                known.update(dict.fromkeys(new))
        self.members += source.members() - before

    def openings(self, now, frames, answers, columns):
        """As Observer.openings: 0.1 us for each where there is no room for its source."""
        srcs = columns.srcs()
        distinct = set(srcs)
        known = self.sources.keys() & distinct
        if len(distinct) == len(frames) and not known:
            self.welcome_all(now, srcs, frames)
            return
        ports = columns.distinct(columns.ports & columns.each(HALF), '!6xH', COLUMN_DST)
        ours = [each.to_bytes(4, 'big') for each in columns.ours()]
        if len(srcs) == 1:
            self.many_knocks(now, srcs[0], frames, ports, ours)
            return
        if len(distinct) == len(frames):
            new = [place for place, src in enumerate(srcs) if src not in known]
            self.welcome_all(now, [srcs[each] for each in new], [frames[each] for each in new])
        else:
            known = distinct
        places, count = collections.defaultdict(list), len(frames)
        for place, src in enumerate(srcs):
            if src in known:
                places[src].append(place)
        ports, ours = (each * count if len(each) == 1 else each for each in (ports, ours))
        for src, mine in places.items():
            self.many_knocks(now, src, [frames[each] for each in mine],
                             [ports[each] for each in mine], [ours[each] for each in mine])

    def welcome_all(self, now, keys, frames):
        """As welcome() of many, in C."""
        room = max(SOURCES_MAX - len(self.sources), 0)
        self.strangers += max(len(frames) - room, 0)
        if room:
            self.sources.update(zip(keys[:room], zip(itertools.repeat(now), frames)))

    def many_knocks(self, now, key, frames, ports, ours):
        """SYNs over IPv4 of one source."""
        source = self.find_source(key)
        if source is None:
            if len(self.sources) >= SOURCES_MAX:
                self.strangers += len(frames)
                return
            source = self.sources[key] = Source(now, frames[-1])
        source.last = now
        source.packets += len(frames)
        source.flags[SYN] = source.flags.get(SYN, 0) + len(frames)
        source.take_syn(frames[-1], frames[-1][46:50], len(frames))
        self.remember(source, ports, ours)

    def unasked(self, now, frames):
        """Frames of ours that belong to conversations are counted."""
        for frame in frames:
            proto, addresses, at = find_layer4(frame)
            if proto != IP_TCP:
                continue
            half = len(addresses) // 2
            conn = self.stack.connections.get(addresses[half:] + addresses[:half]
                                              + frame[at + 2:at + 4] + frame[at:at + 2])
            record = conn.record if conn else None
            if record:
                record.went[0] += 1
                record.went[1] += len(frame)
                record.flags[1] |= frame[at + TCP_FLAGS_AT]

    # events

    def event(self, now, event):
        """What an answerer noted, or the end of a conversation."""
        kind, peer, fields = event
        record = peer.record
        if kind == 'flow':
            self.end_flow(now, record, fields['end'])
            peer.record = None
            return
        if record is None and peer.transport == UDP:
            record = self.datagrams.get((FLOW4 if len(peer.src) == 4 else FLOW6).pack(
                peer.src, peer.dst, peer.sport, peer.dport))
        name = fields['protocol']
        if record is None or not name:
            return
        if not record.spoken or record.spoken[-1] != name and len(record.spoken) < ITEMS_MAX:
            record.spoken.append(name)
        if kind == 'credentials':
            record.secret = True
            self.credentials(now, record, fields)
        elif kind != 'answer' or fields['data'] and name not in record.noted:
            record.noted.add(name)
            self.request(now, record, name, kind, fields)

    def credentials(self, now, record, fields):
        """A name, a password or a hash was offered."""
        found = {key: plain(value) for key, value in fields.items()}
        form = HASH_FORMS.get(fields['protocol'])
        if form and 'digest' in found and not self.stack.host.secretive:
            found['hash'] = form % (found.get('salt', ''), found['digest'])
        self.write(now, record, 'credentials', {}, {'credentials': found})

    def request(self, now, record, name, kind, fields):
        """A request was understood: an object of the protocol's name."""
        name = eve_name(name)
        if kind == 'request' and name == 'http' and 'head' in fields:
            if not self.may_write(now):
                self.suppress(record)
                return
            record.head = record.head or flow_head(record)
            self.put_text(now, name, record.head,
                          http_text(tuple(fields.items()), self.text), '')
            return
        if kind in NOTES:
            make, names = NOTES[kind]
            about = make(*map(fields.get, names))
        elif kind == 'answer' and name in ANSWERED:
            about = ANSWERED[name](fields['data'])
        elif kind == 'answer':
            about = {'request': plain(fields['data'][:PAYLOAD])}
        else:
            about = {key: plain(value) for key, value in fields.items() if key != 'protocol'}
        self.write(now, record, name, {name: about}, {})

    def end_flow(self, now, record, end):
        """A conversation is over: report it."""
        if not self.may_write(now):
            self.suppress(record)
            return
        spoken = tuple(record.spoken)
        if record.greeted and not record.length:        # nobody else spoke
            spoken = self.stack.host.registry.greeters[from_octets(record.flow[-2:], 'big')].name,
        app, names = spoken_texts(spoken, record.length > 0, self.text)
        payload, digest = self.payload_texts(record)
        syn, tool = describe_syn(record.syn) if record.syn else ('', None)
        tool = tool_of_payload(record.payload) or tool
        syn = syn and f'"syn":{syn},'
        ours = (f'"end":"{end}",{names}"greeted":{BOOL_TEXTS[record.greeted]},{digest}{syn}'
                f'{tool_text(tool)}')
        self.put_text(now, 'flow', record.head or flow_head(record),
                      app + flow_text(record, end)
                      + (tcp_text(*record.flags, end) if record.proto == TCP else '') + payload,
                      ours)

    def payload_texts(self, record) -> 'tuple[str, str]':
        """What the client said, as far as it was kept -> keys of an event, and of masscanned."""
        if not record.length:
            return '', ''
        if not record.payload or record.secret and self.stack.host.secretive:
            return f'"payload_length":{record.length},', ''
        keys, digest = payload_texts(record.payload, self.text)
        return f'"payload_length":{record.length},{keys}', digest

    # lines

    def may_write(self, now) -> bool:
        """Take one line of the budget, if there is one."""
        budget = self.budget
        if now != budget[1]:
            Budget.refill(budget, self.rate, self.rate, now)
        if budget[0] < 1:
            return False
        budget[0] -= 1
        return True

    def suppress(self, record):
        """A line of a conversation is left out: its source has the number."""
        self.suppressed += 1
        key = source_key(record.flow, record.proto)
        source = self.find_source(key)
        if source is None and len(self.sources) < SOURCES_MAX:
            source = self.sources[key] = Source(record.last, record.syn or b'')
        if source:
            source.suppressed += 1

    def write(self, now, record, kind, body, ours):
        """An event of a conversation, if the budget has it."""
        if self.may_write(now):
            self.put(now, record, kind, body, ours)
        else:
            self.suppress(record)

    def put(self, now, record, kind, body, ours):
        """A line about a conversation."""
        if not record.head:
            record.head = flow_head(record)
        self.put_line(now, kind, record.head, body, ours)

    def put_line(self, now, kind, head, body, ours):
        """A line; head: the text of what stands before the body."""
        self.put_text(now, kind, head, self.text(body)[1:-1] + ',' if body else '',
                      self.text(ours)[1:-1] + ',' if ours else '')

    def put_text(self, now, kind, head, body, ours):
        """The same of texts in JSON, each key with a comma behind it."""
        if self.journal.takes(now, 1):
            text = f'{body}"masscanned":{{{ours}{self.sensor}'
            self.journal.texts.append(f'{{"timestamp":"{iso_text(now)}","event_type":"{kind}",'
                                      f'{self.where}{head}' + text.replace('\x7f', '\\u007f'))

    # what is due

    def counters(self):
        return {'missed': self.missed, 'suppressed': self.suppressed,
                'strangers': self.strangers}

    def flush(self, now):
        if now >= self.sweep_at:
            self.sweep_at = now + SWEEP_S
            self.sweep(now)
        if now >= self.stats_at:
            self.stats_at = now + STATS_S
            self.stats(now)
        super().flush(now)

    def sweep(self, now, all=False):
        """Report datagrams and scans that are over; all: these are the last."""
        while self.datagrams:
            record = next(iter(self.datagrams.values()))
            if not all and now - record.last < DATAGRAMS_S:
                break
            del self.datagrams[record.flow]
            self.end_flow(now, record, 'shutdown' if all else 'idle')
        over, once = [], []
        for key, source in self.sources.items():
            if isinstance(source, tuple):
                if all or now - source[0] >= SOURCE_QUIET_S:
                    once.append((key, source))
            elif (all or now - source.last >= SOURCE_QUIET_S
                    or now - source.first >= SOURCE_MOST_S):
                over.append((key, source))
        for key, source in over:
            self.members -= source.members()
        for key, _ in over + once:
            del self.sources[key]
        self.tell_scans(now, [each for each in over
                              if each[1].has_only_knocked() or each[1].suppressed], once)

    def tell_scans(self, now, over, once):
        """Sources that are over: the largest, then the number of the others.

        once    those that knocked once
        """
        over.sort(key=lambda each: -each[1].packets)
        shown, rest = over[:SCANS_RATE], [source for _, source in over[SCANS_RATE:]]
        room = SCANS_RATE - len(shown)
        shown += [(key, make_knocker(*source)) for key, source in once[:room]]
        for key, source in shown:
            self.scan(now, key, source)
        more = max(len(once) - room, 0)
        if rest or more:
            self.put_line(now, 'scan', '', {}, {'scan': {
                'sources': len(rest) + more, 'packets': sum(each.packets for each in rest) + more,
                'suppressed': sum(each.suppressed for each in rest)}})

    def scan(self, now, key, source):
        """A source that only knocked."""
        number = isinstance(key, int)
        proto, src = (IP_TCP, key.to_bytes(4, 'big')) if number else (key[-1], key[:-1])
        head = {}
        frame = source.typical()
        tags = find_tags(frame)
        if tags:
            head['vlan'] = tags
        head.update(src_ip=ip_text(src), proto=EVE_PROTO[proto])
        _, addresses, at = find_layer4(frame)
        if addresses:
            half, icmp = len(addresses) // 2, proto in ICMP_ASKS
            ports = (frame[at] << 16 if icmp else
                     from_octets(frame[at:at + 4], 'big'))
            flow = addresses + ports.to_bytes(4, 'big')
            head['flow_id'] = flow_number(flow, proto, source.first)
            head['community_id'] = community_id(proto, addresses[:half], addresses[half:],
                                                ports >> 16, ports & HALF)
            if icmp:
                head['icmp_type'], head['icmp_code'] = frame[at], frame[at + 1]
        about = {'first': iso_text(source.first), 'last': iso_text(source.last),
                 'packets': source.packets, 'addresses': len(source.addresses)}
        if source.ports:
            about['ports'] = {'count': len(source.ports),
                              'first': list(itertools.islice(source.ports, PORTS_SHOWN))}
        if proto == IP_TCP:
            about['flags'] = {flags_text(flags): count for flags, count in source.flags.items()}
        syn, tool = describe_syn(frame)
        tool = tool_text(tool)
        if syn:
            tool += f'"syn":{syn},'
        elif frame[12:14] == b'\x08\0' and frame[18:20] == ZMAP_IDENT:
            tool = tool_text(('zmap', 'ip.id'))
        if source.more:
            about['more'] = True                # than these numbers say
        if source.suppressed:
            about['suppressed'] = source.suppressed
        self.put_text(now, 'scan', self.text(head)[1:-1] + ',', '',
                      f'"scan":{{{tool}{self.text(about)[1:]},')

    def stats(self, now):
        """What was counted since the start."""
        whole, spoken, drops = sort_counts(self.count())
        ours = {name: whole[name] for name in (
            'frames', 'answers', 'unasked', 'lost', 'evicted', 'missed')}
        ours.update(
            suppressed=self.suppressed, strangers=self.strangers, sources=len(self.sources),
            connections=len(self.stack.connections.table), memory_kb=resident_kb(),
            protocols=spoken, not_answered=drops)
        self.put_line(now, 'stats', '', {'stats': {
            'uptime': int(now - self.begun),
            'capture': {'kernel_packets': ours['frames'] + ours['lost'],
                        'kernel_drops': ours['lost']}}}, {'stats': ours})

    def shift(self, step):
        super().shift(step)
        self.begun += step
        self.sweep_at += step
        self.stats_at += step
        self.budget[1] += step
        records = [conn.record for conn in self.stack.connections.table.values() if conn.record]
        for each in records + list(self.datagrams.values()):
            each.start += step
            each.last += step
        for key, each in self.sources.items():
            if isinstance(each, tuple):
                self.sources[key] = each[0] + step, each[1]
            else:
                each.first += step
                each.last += step

    def close(self, now):
        """What is not over is over now."""
        self.sweep(now, True)
        self.stats(now)
        super().close(now)


def make_encoder():
    """-> encode(object), its text in JSON: ASCII only, on one line."""
    import json                                 # late: 5 ms of every start
    return json.JSONEncoder(separators=(',', ':')).encode


DNS_TYPE_NAMES = {1: 'A', 2: 'NS', 5: 'CNAME', 6: 'SOA', 12: 'PTR', 13: 'HINFO', 15: 'MX',
                  16: 'TXT', 28: 'AAAA', 33: 'SRV', 43: 'DS', 46: 'RRSIG', 48: 'DNSKEY',
                  64: 'SVCB', 65: 'HTTPS', 251: 'IXFR', 252: 'AXFR', 255: 'ANY'}
DNS_SHOWN_MAX = 16
SMB_SHOWN_MAX = 16
SHOWN_FIELDS = {'http': ('http_method', 'url'), 'dns': ('rrtype', 'rrname')}     # of a request
# As John the Ripper and hashcat read it: what was sent to the client, what came back
HASH_FORMS = {'mysql': '$mysqlna$%s*%s', 'rfb': '$vnc$*%s*%s'}
ZMAP_IDENT = (54321).to_bytes(2, 'big')


def dns_object(data) -> dict:
    """A query, over TCP with its length in front -> the object `dns` of an event."""
    if len(data) > 2 and from_octets(data[:2], 'big') == len(data) - 2:
        data = data[2:]
    at, queries = 12, []
    for _ in range(min(from_octets(data[4:6], 'big'), DNS_SHOWN_MAX)):
        labels = []
        while at < len(data) and 0 < data[at] < 64:
            labels.append(data[at + 1:at + 1 + data[at]])
            at += 1 + data[at]
        at += 2 if at < len(data) and data[at] >= 192 else 1
        kind = from_octets(data[at:at + 2], 'big')
        at += 4
        queries.append({'rrname': plain(b'.'.join(labels)),
                        'rrtype': DNS_TYPE_NAMES.get(kind, 'TYPE%d' % kind)})
    found = {'version': 3, 'type': 'request', 'id': from_octets(data[:2], 'big'),
             'queries': queries}
    return dict(found, **queries[0]) if queries else found


def redis_object(data) -> dict:
    """A command, as array or line -> the object `redis` of an event."""
    words, _ = parse_redis(data)
    return {'words': plain(b' '.join(words))} if words else {'request': plain(data[:PAYLOAD])}


def smb_object(data) -> dict:
    """A first message, with its length in front -> the object `smb` of an event."""
    message = data[NBSS.size:]
    magic, body = message[:4], message[SMB1_HEAD.size:]
    if magic == SMB2_MAGIC and not from_octets(message[12:14], 'little'):
        at = SMB2_HEAD.size + SMB2_NEGOTIATE_REQUEST.size
        size = 2 * from_octets(message[66:68], 'little')
        codes = message[at:at + min(size, 2 * SMB_SHOWN_MAX)]
        names = ['%x.%02x' % (major, minor) for minor, major in zip(codes[::2], codes[1::2])]
        return {'command': 'SMB2_COMMAND_NEGOTIATE_PROTOCOL', 'client_dialects': names}
    if magic == SMB1_MAGIC and message[4:5] == bytes((SMB1_NEGOTIATE,)) and body[:1] == b'\0':
        names = [plain(name[1:]) for name in body[3:-1].split(b'\0')[:SMB_SHOWN_MAX]]
        return {'command': 'SMB1_COMMAND_NEGOTIATE_PROTOCOL', 'client_dialects': names}
    return {'request': plain(data[:PAYLOAD])}


def ntlmssp_object(domain, user, host, version) -> dict:
    """Who somebody says that he is -> the object `smb`, or of another protocol, of an event."""
    about = {'domain': domain, 'user': user, 'host': host, 'version': version}
    return {'ntlmssp': {key: plain(value) for key, value in about.items() if value}}


# Who makes the object of a protocol: by the kind of what was noted, from these fields of it; by
# the protocol, as events name it, from what a client said first.
NOTES = {'ntlmssp': (ntlmssp_object, ('domain', 'user', 'host', 'version')),
         'tls_hello': (tls_object, ('hello',)),
         'ssh_kexinit': (ssh_object, ('version', 'kexinit'))}
ANSWERED = {'dns': dns_object, 'redis': redis_object, 'smb': smb_object, 'ssh': ssh_object}


def source_key(flow, proto=IP_TCP):
    """Addresses and ports, the client's first -> its key among the sources, see EventLog."""
    if proto == IP_TCP and len(flow) == FLOW4.size:
        return from_octets(flow[:4], 'big')
    return flow[:len(flow) // 2 - 2] + bytes((proto,))


def is_knock(fate) -> bool:
    """Whether a frame of such a fate was well-formed, and for us."""
    return fate.startswith(('tcp ', 'udp ', 'icmpv4 type', 'icmpv6 type')) and not fate.endswith(
        ('checksum', 'offset', 'size'))


def find_layer4(frame) -> 'tuple[int, bytes, int]':
    """A frame of any kind -> protocol, both addresses, offset of layer 4; 0, b'', 0 if none."""
    if len(frame) < ETHER.size:
        return 0, b'', 0
    ethertype, at = skip_tags(frame, from_octets(frame[12:14], 'big'))
    end = len(frame)
    if ethertype == ETHERTYPE_IPV4 and end >= at + IPV4.size:
        return frame[at + 9], frame[at + 12:at + 20], at + (frame[at] & 15) * 4
    if ethertype == ETHERTYPE_IPV6 and end >= at + IPV6.size:
        _, size, above, _, src, dst = IPV6.unpack_from(frame, at)
        at += IPV6.size
        proto, data, _ = walk_extensions(above, frame[at:at + size])
        return proto, src + dst, min(at + size, end) - len(data)
    return 0, b'', 0


def find_tags(frame) -> 'list[int]':
    """Frame -> VLAN numbers, the outer first."""
    if frame[12:14] == b'\x08\0' or len(frame) < ETHER.size:
        return []
    _, at = skip_tags(frame, from_octets(frame[12:14], 'big'))
    return [from_octets(frame[each:each + 2], 'big') & 0xfff
            for each in range(ETHER.size, at, TAG.size)]


def flow_head(record) -> str:
    """What names the conversation, in JSON."""
    flow, proto = record.flow, record.proto
    src, dst, sport, dport = (FLOW4 if len(flow) == FLOW4.size else FLOW6).unpack(flow)
    vlan = f'"vlan":{record.vlan},' if record.vlan else ''
    return (f'{vlan}"src_ip":"{ip_text(src)}","src_port":{sport},"dest_ip":"{ip_text(dst)}",'
            f'"dest_port":{dport},"proto":"{EVE_PROTO[proto]}",'
            f'"flow_id":{flow_number(flow, proto, record.start)},'
            f'"community_id":"{community_id(proto, src, dst, sport, dport)}",')


def community_id(proto, src, dst, sport, dport) -> str:
    """Community ID version 1, seed 0: the same for both directions.

    sport, dport    of ICMP: the type asked with, and 0; the type of the answer takes its place
    source  https://github.com/corelight/community-id-spec
    """
    if proto in ICMP_ASKS:
        dport = ICMP_REPLIES.get(sport, dport)
    if (src, sport) > (dst, dport):
        src, dst, sport, dport = dst, src, dport, sport
    octets = b'\0\0%b%b%b' % (src, dst, COMMUNITY_END.pack(proto, sport, dport))
    return '1:' + binascii.b2a_base64(hashlib.sha1(octets).digest(), newline=False).decode()


def flow_number(flow, proto, start) -> int:
    """A number below 2^53, which every reader of JSON can hold, for a conversation."""
    return hash((flow, proto, start)) & (1 << 53) - 1


def plain(value, depth=0):
    """A field of an Event -> what JSON can say; octets that are no text stand as \\xNN."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value[:TEXT_LIMIT]).decode('utf-8', 'backslashreplace')
    if isinstance(value, str):
        return value[:TEXT_LIMIT].encode('utf-8', 'backslashreplace').decode()
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if -1e300 < value < 1e300 else str(value)
    if depth >= NESTED_MAX:
        return plain(str(value))
    if isinstance(value, dict):
        return {str(plain(key)): plain(each, depth + 1)
                for key, each in itertools.islice(value.items(), ITEMS_MAX)}
    return [plain(each, depth + 1) for each in itertools.islice(value, ITEMS_MAX)]


def eve_name(name) -> str:
    """A protocol of ours -> its name in events, which is also a key."""
    return EVE_NAMES.get(name) or name.replace('-', '_')


def flags_text(flags) -> str:
    """Flags of TCP -> letters, 'SA'; '0': none."""
    return ''.join(letter for bit, letter in enumerate(FLAG_LETTERS) if flags >> bit & 1) or '0'


@functools.lru_cache(maxsize=256)
def payload_texts(octets, text) -> 'tuple[str, str]':
    """What a client said, text() of make_encoder() -> keys of an event, and of masscanned.

    Who scans says the same to everyone: what is known costs 0.2 us instead of 8.
    """
    printable = text(octets.translate(AS_PRINTABLE).decode())
    coded = binascii.b2a_base64(octets, newline=False).decode()
    return (f'"payload":"{coded}","payload_printable":{printable},',
            f'"payload_sha256":"{hashlib.sha256(octets).hexdigest()}",')


def flow_text(record, end) -> str:
    """The object `flow` of an event, in JSON."""
    if record.proto == UDP:
        state = 'established' if record.went[0] else 'new'
    else:
        state = 'closed' if end in ('fin', 'rst') else 'established'
    (came, octets), (went, more) = record.came, record.went
    return (f'"flow":{{"pkts_toserver":{came},"pkts_toclient":{went},"bytes_toserver":{octets},'
            f'"bytes_toclient":{more},"start":"{iso_text(record.start)}",'
            f'"end":"{iso_text(record.last)}","age":{int(record.last - record.start)},'
            f'"state":"{state}","reason":"{FLOW_REASONS.get(end, "timeout")}"}},')


@functools.lru_cache(maxsize=256)
def spoken_texts(names, said, text) -> 'tuple[str, str]':
    """Protocols in order, whether the client said something -> app_proto, protocols in JSON."""
    last = eve_name(names[-1]) if names else said and 'failed'      # EVE's word
    return f'"app_proto":{text(last)},' if last else '', f'"protocols":{text(names)},'


@functools.lru_cache(maxsize=256)
def tcp_text(came, went, end) -> str:
    """The object `tcp`, likewise; flags of the client, ours."""
    flags = ''.join('"%s":true,' % name for bit, name in enumerate(TCP_FLAG_NAMES)
                    if (came | went) >> bit & 1)
    return '"tcp":{"tcp_flags":"%02x","tcp_flags_ts":"%02x","tcp_flags_tc":"%02x",%s' % (
        came | went, came, went, flags) + '"state":"%s"},' % (
            'closed' if end in ('fin', 'rst') else 'established')


BOOL_TEXTS = 'false', 'true'
AS_PRINTABLE = bytes(octet if 32 <= octet < 127 or octet in b'\r\n\t' else 46
                     for octet in range(256))


@functools.lru_cache(maxsize=8)
def second_text(second) -> str:
    """Unix time in whole seconds -> 'YYYY-MM-DDTHH:MM:SS'."""
    return time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))


@functools.lru_cache(maxsize=64)
def iso_text(now) -> str:
    """Unix time -> ISO 8601 with microseconds, UTC; frames of a round have the same."""
    micros = int(now * 1000000)
    return '%s.%06d+0000' % (second_text(micros // 1000000), micros % 1000000)


def resident_kb() -> int:
    """Resident memory of this process; 0: not known."""
    try:
        with open('/proc/self/statm', 'rb') as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE >> 10
    except OSError:
        return 0


def value_text(value) -> str:
    """A field of an Event, on a terminal: strangers' words are quoted where they are not plain."""
    if isinstance(value, bytes):
        return printable_octets(value)
    text = str(value)[:VALUE_MAX]
    return text if re.fullmatch('[!#-&(-~]+', text) else repr(text)


def summary_text(counts) -> str:
    """Counters -> one line that leaves nothing out."""
    whole, spoken, drops = sort_counts(counts)
    text = '%d frames, %d answers' % (whole['frames'], whole['answers'])
    for name, what in (('lost', 'lost by the kernel'), ('evicted', 'connections evicted'),
                       ('missed', 'not logged'), ('suppressed', 'events suppressed'),
                       ('strangers', 'knocks of strangers'), ('unasked', 'sent unasked')):
        if whole[name]:
            text += ', %d %s' % (whole[name], what)
    for title, found in ('; answers of: ', spoken), ('; not answered: ', drops):
        rows = sorted((-count, name) for name, count in found.items())
        if rows:
            text += title + ', '.join('%d %s' % (-count, name) for count, name in rows)
    return text


# ---- metrics ----

METRICS_S = 15                  # so often a file of --metrics is replaced
METRICS_TOTALS = (              # name in counts, name of the metric, help
    ('frames', 'frames', 'Frames received.'),
    ('answers', 'answers', 'Frames sent as answers.'),
    ('unasked', 'unasked', 'Frames sent without a request: greetings, repeats, announcements.'),
    ('lost', 'lost_frames', 'Frames that the kernel dropped.'),
    ('evicted', 'evicted_connections', 'Connections that gave way to newer ones.'),
    ('missed', 'unlogged_frames', 'Frames that no log, event file or capture had room for.'),
    ('suppressed', 'suppressed_events', 'Events beyond the budget of --events-budget.'),
    ('strangers', 'stranger_knocks', 'Knocks of sources that the full table did not take.'))
METRICS_GAUGES = (
    ('connections', 'connections', 'TCP connections remembered.'),
    ('resident', 'resident_memory_bytes', 'Resident memory of all processes.'))
METRICS_LABELS = str.maketrans({'\\': '\\\\', '"': '\\"', '\n': '\\n'})
WHOLE_COUNTS = frozenset(row[0] for row in METRICS_TOTALS + METRICS_GAUGES)
BOARD_SLOT = 1 << 18            # octets for the counters of a worker
BOARD_HEAD = struct.Struct('=II')       # octets of text, CRC-32 of it


def pack_counts(counts) -> bytes:
    """Counters -> a line for each."""
    return ''.join('%d %s\n' % (count, name) for name, count in counts.items()).encode()


def add_counts(counts, text):
    """Lines of pack_counts() are added to a Counter."""
    for line in text.splitlines():
        count, _, name = line.partition(' ')
        counts[name] += int(count)


def sort_counts(counts) -> 'tuple[collections.Counter, dict, dict]':
    """Counters -> those of the whole, {protocol: answers}, {fate: frames not answered}."""
    whole, spoken, drops = collections.Counter(), {}, {}
    for name, count in counts.items():
        if name in WHOLE_COUNTS:
            whole[name] = count
        elif count and name.startswith(SPOKEN):
            spoken[name[len(SPOKEN):]] = count
        elif count:
            drops[name] = count
    return whole, spoken, drops


class Board:
    """The counters of all workers, in memory that they share.

    begun   Unix time of the start
    texts   of each worker, as it was last read whole
    """

    def __init__(self, workers, now):
        self.memory, self.begun = mmap.mmap(-1, workers * BOARD_SLOT), now
        self.texts = [''] * workers

    def put(self, number, counts):
        """What a worker has counted so far."""
        text, at = pack_counts(counts), number * BOARD_SLOT
        end = text.rfind(b'\n', 0, BOARD_SLOT - BOARD_HEAD.size) + 1
        octets = BOARD_HEAD.pack(end, zlib.crc32(text[:end])) + text[:end]
        self.memory[at:at + len(octets)] = octets

    def total(self) -> 'collections.Counter':
        """-> the sum; who is just writing counts as before."""
        counts = collections.Counter()
        for number in range(len(self.texts)):
            at = number * BOARD_SLOT
            size, digest = BOARD_HEAD.unpack_from(self.memory, at)
            text = self.memory[at + BOARD_HEAD.size:at + BOARD_HEAD.size + size]
            if zlib.crc32(text) == digest:
                self.texts[number] = text.decode()
            add_counts(counts, self.texts[number])
        return counts


class MetricsFile(Observer):
    """--metrics: counters as a text for Prometheus, from all workers, replaced from time to time.

    path, files     where, and who opens it
    board, number   where the counters of all are; which worker this is: the first one writes
    count           count() -> Counter of this one
    failed          it could not be written the last time
    """
    on_frames = False

    def __init__(self, path, files, board, number, count, now):
        self.path, self.files = path, files
        self.board, self.number, self.count = board, number, count
        self.due, self.failed = now, False

    def flush(self, now):
        self.due = now + METRICS_S
        self.board.put(self.number, self.count())
        if not self.number:
            self.failed = not replace_metrics(self.files, self.path, self.board, self.failed)

    def shift(self, step):
        self.due += step
        if not self.number:
            self.board.begun += step

    def close(self, now):
        """As Observer.close; the last file is written when all have come to this."""
        self.board.put(self.number, self.count())


def replace_metrics(files, path, board, quiet=False) -> bool:
    """Write the file anew, as a whole -> whether that was possible."""
    octets = metrics_text(board.total(), board.begun).encode()
    try:
        fd = files.begin(path)
        try:
            if os.write(fd, octets) < len(octets):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)
        files.finish(path)
    except OSError as error:
        if not quiet:
            say('%s: %s: the metrics there grow old' % (path, why(error)))
        return False
    return True


def metrics_text(counts, begun) -> str:
    """Counters, time of the start -> the text format of Prometheus.

    source  https://prometheus.io/docs/instrumenting/exposition_formats/, Text format details
    """
    whole, spoken, drops = sort_counts(counts)
    rows = [('%s_total' % name, 'counter', text, [('', whole[key])])
            for key, name, text in METRICS_TOTALS]
    rows += [(name, 'gauge', text, [('', whole[key])]) for key, name, text in METRICS_GAUGES]
    rows += [('start_time_seconds', 'gauge', 'Unix time of the start.', [('', '%.3f' % begun)]),
             ('build_info', 'gauge', 'Always 1.', [(metrics_label('version', __version__), 1)])]
    for name, label, text, found in (
            ('protocol_answers_total', 'protocol', 'Answers of a protocol.', spoken),
            ('unanswered_frames_total', 'fate', 'Frames without an answer, by reason.', drops)):
        rows.append((name, 'counter', text, [(metrics_label(label, each), count)
                                             for each, count in sorted(found.items())]))
    return ''.join(
        '# HELP masscanned_%s %s\n# TYPE masscanned_%s %s\n' % (name, text, name, kind)
        + ''.join('masscanned_%s%s %s\n' % (name, label, value) for label, value in values)
        for name, kind, text, values in rows)


def metrics_label(name, value) -> str:
    """-> {name="value"}."""
    return '{%s="%s"}' % (name, value.translate(METRICS_LABELS))
# ---- databases ----

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


class Origins:
    """Databases -> country and AS of an address of IPv4.

    places      ranges of --country-db, sorted ints as of add_span(): the number is one of codes
    networks    ranges of --as-db, likewise: that of the AS; names: {AS number: name}
    found       {address: what find() said}: summary, page and tables ask again for the same
    """

    def __init__(self, countries, networks):
        self.places, self.codes = [], []
        self.networks, self.names = [], {}
        self.found = {}
        if countries:
            self.read_countries(countries)
        for path in networks:
            self.read_networks(path)
        self.places.sort()
        self.networks.sort()

    def read_countries(self, paths):
        """Files of --country-db."""
        numbers = {}
        for first, last, code in country_rows(*open_countries(paths), paths[-1]):
            if code not in NO_COUNTRY:
                add_span(self.places, first, last, numbers.setdefault(code, len(numbers)))
        self.codes = list(numbers)

    def read_networks(self, path):
        """A file of --as-db."""
        for first, last, number, name in as_rows(Database(path)):
            if number:
                add_span(self.networks, first, last, number)
                self.names.setdefault(number, name)

    def find(self, address) -> 'tuple[str, str]':
        """Text of an address -> code of its country, number and name of its AS; '': unknown."""
        known = self.found.get(address)
        if known is None:
            known = self.found[address] = self.look_up(address)
        return known

    def look_up(self, address) -> 'tuple[str, str]':
        """As find(), in the databases."""
        try:
            ip = from_octets(socket.inet_pton(socket.AF_INET, address), 'big')
        except (OSError, ValueError):
            return '', ''
        place, network = find_span(self.places, ip), find_span(self.networks, ip)
        return ('' if place is None else self.codes[place],
                '' if network is None else 'AS%d %s' % (network, self.names[network]))


def find_span(spans, ip) -> 'int | None':
    """Sorted ints as of add_span(), an address -> the number of its range; None: it has none."""
    at = bisect.bisect(spans, (ip + 1 << 64) - 1)
    if at and spans[at - 1] >> 32 & AS_MAX >= ip:
        return spans[at - 1] & AS_MAX
    return None



# ---- report ----

TALLY_MAX = 10000               # names of a table that are counted
TABLE_ROWS = 25                 # of the page; files have CSV_ROWS
CSV_ROWS = 10000
SHOWN_MAX = 160                 # characters of a stranger's words in a table
REPORT_LINE_MAX = 1 << 22
REPORT_READ = 1 << 16           # octets: some 60 lines, which JSON reads at once
SOURCE_BITS = 20                # so many sources can be counted, roughly
BARS_MAX = 120
HOUR_S, DAY_S = 3600, 86400
SUMMARY_ROWS = 3


class Frequent:
    """Counts by name, of the most frequent ones: bounded, however many names there are.

    counts      {name: how often}
    others      of those that were forgotten: the rarest half, whenever there are too many
    """

    def __init__(self, maximum=TALLY_MAX):
        self.maximum, self.others = maximum, 0
        self.counts = collections.defaultdict(int)

    def add(self, name, count=1):
        """One more."""
        self.counts[name] += count
        self.trim()

    def trim(self):
        """Forget what is too many."""
        if len(self.counts) > self.maximum:
            for each, number in self.most()[self.maximum // 2:]:
                del self.counts[each]
                self.others += number

    def most(self, most=None) -> list:
        """-> [(name, count)], the most frequent first."""
        return sorted(self.counts.items(), key=lambda each: (-each[1], str(each[0])))[:most]


class Visitor:
    """A source: visits, packets, first and last time, and a few of its tools, ports, protocols."""
    __slots__ = 'visits', 'packets', 'first', 'last', 'tools', 'ports', 'protocols'

    def __init__(self, stamp):
        self.visits = self.packets = 0
        self.first = self.last = stamp
        self.tools, self.ports, self.protocols = Frequent(16), Frequent(64), Frequent(16)

    def take(self, stamp, packets, tool, ports, protocol):
        """A visit; tool, protocol: None = not known."""
        self.visits += 1
        self.packets += packets
        if stamp < self.first:
            self.first = stamp
        elif stamp > self.last:
            self.last = stamp
        for port in ports:
            self.ports.add(port)
        if tool:
            self.tools.add(tool)
        if protocol:
            self.protocols.add(protocol)

    def row(self) -> tuple:
        """-> what its table has of it."""
        return (self.packets, self.first, self.last) + tuple(
            ' '.join(str(name) for name, _ in each.most(5))
            for each in (self.tools, self.ports, self.protocols))


class Report:
    """Event files -> tables, in bounded memory.

    tables      {title: Frequent}; names of several columns are tuples
    counts      {title: {name: how often}} of these; read() forgets what is too many
    visitors    {address: Visitor, or what it takes of the one visit so far}: most come once
    hours       {'YYYY-MM-DDTHH': visits}
    met         a bit for the hash of each source; unnamed: how many other sources
    payloads    {digest: [printable beginning, ports]}
    origins     Origins; None: no database is given
    gone        {country: visits}, {AS: visits} of visitors that were forgotten
    """
    # Title, columns in front of the number
    TABLES = (
        ('Ports', ('port',)), ('Protocols', ('protocol',)), ('Tools', ('tool', 'by')),
        ('Credentials', ('protocol', 'user', 'password')), ('Passwords', ('password',)),
        ('Users', ('user',)), ('Requests', ('protocol', 'request')),
        ('User agents', ('user agent',)), ('Payloads', ('sha256', 'begins with', 'ports')),
        ('TLS fingerprints', ('ja3', 'ja4')), ('SSH fingerprints', ('hassh', 'software')),
        ('SYN signatures', ('signature',)), ('Sensors', ('sensor',)))

    def __init__(self, origins=None):
        self.origins = origins
        self.tables = {title: Frequent() for title, _ in self.TABLES}
        self.counts = {title: table.counts for title, table in self.tables.items()}
        self.visitors, self.hours, self.payloads = {}, Frequent(), {}
        self.gone = collections.Counter(), collections.Counter()
        self.events = self.damaged = self.visits = self.unnamed = 0
        self.first = self.last = ''
        self.met = bytearray(1 << SOURCE_BITS - 3)

    def add(self, title, name):
        """One more of a table."""
        self.counts[title][name] += 1

    def read(self, file, parse):
        """Lines of an event file, octets; what is no event is counted."""
        rest, data = b'', b'more'
        while data:
            data = file.read(REPORT_READ)
            lines = (rest + data).split(b'\n')
            rest = lines.pop()
            if rest and (not data or len(rest) > REPORT_LINE_MAX):
                lines.append(rest)
                rest = b''
            for event in parse_lines(lines, parse):
                try:
                    self.take(event)
                except (ValueError, TypeError, LookupError, AttributeError):
                    self.damaged += 1
            self.trim()

    def trim(self):
        """Forget what is too many."""
        self.hours.trim()
        for table in self.tables.values():
            table.trim()
        counted = self.counts['Payloads']
        if len(self.payloads) > len(counted):
            for digest in self.payloads.keys() - counted.keys():
                del self.payloads[digest]

    def take(self, event):
        """One event, an object of JSON."""
        kind, stamp, ours = event['event_type'], event['timestamp'][:19], event['masscanned']
        if kind == 'flow':
            self.take_flow(event, ours, stamp)
        elif kind == 'scan':
            self.take_scan(event, ours['scan'], stamp)
        elif kind == 'credentials':
            self.take_credentials(ours['credentials'])
        elif kind != 'stats':
            self.take_request(kind, event[kind])
        self.events += 1
        self.add('Sensors', event['host'])
        if not self.first or stamp < self.first:
            self.first = stamp
        if stamp > self.last:
            self.last = stamp

    def visit(self, source, stamp, packets, tool, ports, protocol):
        """A visit; tool: {name, by}, None = not known, as the protocol."""
        self.visits += 1
        self.hours.counts[stamp[:13]] += 1
        name = tool and tool['name']
        if tool:
            self.counts['Tools'][name, tool['by']] += 1
        for port in ports:
            self.counts['Ports'][port] += 1
        if protocol:
            self.counts['Protocols'][protocol] += 1
        known = self.visitors.get(source)
        if known is None:
            self.welcome(source, (stamp, packets, name, ports, protocol))
            return
        if isinstance(known, tuple):
            known = self.visitors[source] = visitor_of(known)
        known.take(stamp, packets, name, ports, protocol)

    def welcome(self, source, about):
        """The first visit of a source."""
        if len(self.visitors) >= TALLY_MAX:
            self.forget_visitors()
        bit = zlib.crc32(source.encode()) >> 32 - SOURCE_BITS
        self.met[bit >> 3] |= 1 << (bit & 7)
        self.visitors[source] = about

    def forget_visitors(self):
        """Too many: the half with the fewest visits goes."""
        order = sorted(self.visitors, key=self.visits_of, reverse=True)
        for source in order[TALLY_MAX // 2:]:
            if self.origins:
                for counts, name in zip(self.gone, self.origins.look_up(source)):
                    counts[name or 'unknown'] += self.visits_of(source)
            del self.visitors[source]

    def visits_of(self, source) -> int:
        """How often a source came."""
        known = self.visitors[source]
        return 1 if isinstance(known, tuple) else known.visits

    def sources(self) -> int:
        """How many sources there were: by the bits that are set, as some of them share one."""
        bits = 1 << SOURCE_BITS
        clear = bits - bin(from_octets(self.met, 'big')).count('1')
        return round(bits * math.log(bits / max(clear, 1))) + self.unnamed

    def take_flow(self, event, ours, stamp):
        """A conversation."""
        port = '%d/%s' % (event['dest_port'], event['proto'].lower())
        self.visit(event['src_ip'], stamp, event['flow']['pkts_toserver'], ours.get('tool'),
                   (port,), event.get('app_proto'))
        if 'syn' in ours:
            self.counts['SYN signatures'][ours['syn']['sig']] += 1
        digest = ours.get('payload_sha256')
        if digest:
            known = self.payloads.get(digest)
            if known is None:
                known = self.payloads[digest] = [event['payload_printable'][:SHOWN_MAX], set()]
            if len(known[1]) < 8:
                known[1].add(port)
            self.counts['Payloads'][digest] += 1

    def take_scan(self, event, scan, stamp):
        """A source that only knocked, or a number of them."""
        if 'sources' in scan:
            self.visits += scan['sources']
            self.unnamed += scan['sources']
            self.hours.add(stamp[:13], scan['sources'])
            return
        form = '%d/' + event['proto'].lower()
        self.visit(event['src_ip'], stamp, scan['packets'], scan.get('tool'),
                   tuple(form % number for number in scan.get('ports', {}).get('first', ())), None)
        if 'syn' in scan:
            self.add('SYN signatures', scan['syn']['sig'])

    def take_credentials(self, offered):
        """A name, a password."""
        name, user = offered['protocol'], str(offered.get('user', ''))[:SHOWN_MAX]
        password = str(offered.get('password', offered.get('hash', offered.get('digest', ''))))
        password = password[:SHOWN_MAX]
        self.add('Credentials', (name, user, password))
        self.add('Users', user)
        if 'password' in offered:
            self.add('Passwords', password)

    def take_request(self, kind, about):
        """A request of a protocol."""
        if kind == 'tls' and 'ja3' in about:
            self.add('TLS fingerprints', (about['ja3']['hash'], about['ja4']))
        elif kind == 'ssh' and 'hassh' in about.get('client', {}):
            client = about['client']
            self.add('SSH fingerprints', (client['hassh']['hash'],
                                          client['software_version'][:SHOWN_MAX]))
        elif kind not in ('tls', 'ssh'):
            values = ' '.join(str(about.get(name, '')) for name in SHOWN_FIELDS.get(kind, about))
            self.add('Requests', (kind, values[:SHOWN_MAX]))
            if kind == 'http' and 'http_user_agent' in about:
                self.add('User agents', about['http_user_agent'][:SHOWN_MAX])

    def rows(self, title, most) -> 'list[tuple]':
        """-> rows of a table: names, then how often."""
        rows = []
        for name, count in self.tables[title].most(most):
            if title == 'Payloads':
                begin, ports = self.payloads.get(name, ('', ()))
                name = name, begin, ' '.join(sorted(ports))
            rows.append((name if isinstance(name, tuple) else (name,)) + (count,))
        return rows

    def visitor_rows(self, most) -> 'list[tuple]':
        """-> the same of the sources."""
        order = sorted(self.visitors, key=lambda each: (-self.visits_of(each), each))[:most]
        found = [(source, self.visitors[source]) for source in order]
        return [(source,) + (visitor_of(each) if isinstance(each, tuple) else each).row()
                + (self.visits_of(source),) for source, each in found]

    def origin_rows(self, place, most) -> 'list[tuple]':
        """-> how many visits came from each country, or AS: 0 or 1."""
        counts = self.gone[place].copy()
        for source in self.visitors:
            counts[self.origins.find(source)[place] or 'unknown'] += self.visits_of(source)
        return sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:most]

    def all_tables(self, most):
        """Yield (title, columns, rows)."""
        columns = 'packets', 'first', 'last', 'tools', 'ports', 'protocols', 'visits'
        rows = self.visitor_rows(most)
        if self.origins:
            columns = ('country', 'AS') + columns
            rows = [row[:1] + self.origins.find(row[0]) + row[1:] for row in rows]
        yield 'Sources', ('source',) + columns, rows
        if self.origins:
            yield 'Countries', ('country', 'visits'), self.origin_rows(0, most)
            yield 'Networks', ('AS', 'visits'), self.origin_rows(1, most)
        for title, columns in self.TABLES:
            yield title, columns + ('count',), self.rows(title, most)


def visitor_of(visit) -> Visitor:
    """What the first visit was -> Visitor."""
    visitor = Visitor(visit[0])
    visitor.take(*visit)
    return visitor


def parse_lines(lines, parse) -> list:
    """Lines of JSON -> their values, None for what is none: all at once if nothing is wrong."""
    try:
        values = parse('[%s]' % b','.join(lines).decode('utf-8', 'replace'))
        if len(values) == len(lines):
            return values
    except (ValueError, RecursionError):
        pass                                # which of them is it?
    values = []
    for line in lines:
        try:
            values.append(parse(line.decode('utf-8', 'replace')))
        except (ValueError, RecursionError):
            values.append(None)
    return values


def bars_of(hours) -> 'list[tuple[str, int]]':
    """{'YYYY-MM-DDTHH': count} -> [(begin of a bar, count)], none left out, at most BARS_MAX."""
    import calendar
    counts = {}
    for hour, count in hours.items():
        try:
            counts[calendar.timegm(time.strptime(hour, '%Y-%m-%dT%H')) // HOUR_S] = count
        except ValueError:
            continue                        # no time of ours
    if not counts:
        return []
    first, last = min(counts), max(counts)
    step = 1 if last - first < BARS_MAX else 24
    while (last - first) // step >= BARS_MAX:
        step *= 2
    first -= first % step
    bars = [0] * ((last - first) // step + 1)
    for hour, count in counts.items():
        bars[(hour - first) // step] += count
    form = '%Y-%m-%d %H:00' if step == 1 else '%Y-%m-%d'
    return [(time.strftime(form, time.gmtime((first + place * step) * HOUR_S)), count)
            for place, count in enumerate(bars)]


def report_summary(report) -> str:
    """What fits a screen."""
    lines = ['events: %d, visits: %d, sources: %d; from %s to %s' % (
        report.events, report.visits, report.sources(),
        report.first or '-', report.last or '-')]
    if report.damaged:
        lines.append('%d lines are no events' % report.damaged)
    for title in ('Sensors', 'Ports', 'Protocols', 'Tools', 'Credentials', 'Requests',
                  'User agents'):
        rows = report.rows(title, SUMMARY_ROWS)
        for place, row in enumerate(rows):
            text = printable(' '.join(map(str, row[:-1])))
            lines.append('%-12s %9d  %.56s' % (title if not place else '', row[-1], text))
    for place, row in enumerate(report.visitor_rows(SUMMARY_ROWS)):
        lines.append('%-12s %9d  %.56s' % ('Sources' if not place else '', row[-1], printable(
            ' '.join((row[0], row[4]) + (report.origins.find(row[0]) if report.origins else ())))))
    return '\n'.join(lines) + '\n'


REPORT_STYLE = '''
:root{color-scheme:light dark;--fg:#1c2430;--dim:#5d6b7c;--bg:#f6f7f9;--card:#fff;--line:#dde2e8;
--bar:#2f6fb3;--head:#eef1f5}
@media(prefers-color-scheme:dark){:root{--fg:#dfe6ee;--dim:#93a1b1;--bg:#12161b;--card:#1a2027;
--line:#2c353f;--bar:#5b9be0;--head:#212932}}
*{box-sizing:border-box}
body{margin:0;padding:1rem;background:var(--bg);color:var(--fg);
font:15px/1.45 system-ui,sans-serif}
main{max-width:1600px;margin:auto;display:grid;gap:1rem;
grid-template-columns:repeat(auto-fit,minmax(min(100%,34rem),1fr))}
section,header{background:var(--card);border:1px solid var(--line);border-radius:6px;
padding:.8rem 1rem;min-width:0}
header,.wide{grid-column:1/-1}
h1{font-size:1.3rem;margin:0 0 .3rem}h2{font-size:1rem;margin:0 0 .5rem}
p{margin:.2rem 0;color:var(--dim)}
dl{display:flex;flex-wrap:wrap;gap:.3rem 2rem;margin:.5rem 0 0}dt{color:var(--dim);font-size:.8rem}
dd{margin:0;font-size:1.25rem;font-variant-numeric:tabular-nums}
.table{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.85rem}
th,td{text-align:left;vertical-align:top;padding:.25rem .5rem;border-bottom:1px solid var(--line)}
th{background:var(--head);white-space:nowrap}
td{font-family:ui-monospace,monospace;overflow-wrap:anywhere;min-width:5rem}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;min-width:3rem}
td.t{white-space:nowrap}
svg{display:block;width:100%;height:10rem}svg rect{fill:var(--bar)}
.axis{display:flex;flex-wrap:wrap;gap:0 1rem;justify-content:space-between;
color:var(--dim);font-size:.8rem}
'''.replace('\n', '')


def report_page(report) -> str:
    """-> one HTML page that loads nothing; what strangers said is escaped."""
    import html

    def text(value):
        return '<bdi>%s</bdi>' % html.escape(printable(str(value))[:SHOWN_MAX])

    def cell(value, column):
        if isinstance(value, int):
            return '<td class="n">%s</td>' % format(value, ',')
        short = column in ('first', 'last', 'source', 'country', 'port', 'ports', 'tools',
                           'protocols')
        return '<td%s>%s</td>' % (' class="t"' if short else '', text(value))

    def table(title, columns, rows):
        heads = ''.join('<th%s>%s</th>' % (
            ' class="n"' if column in ('count', 'visits', 'packets') else '', column)
            for column in columns)
        body = ''.join('<tr>%s</tr>' % ''.join(map(cell, row, columns)) for row in rows)
        return ('<section%s><h2>%s</h2><div class="table"><table><thead><tr>%s</tr></thead><tbody>'
                '%s</tbody></table></div></section>' % (
                    ' class="wide"' if title in ('Sources', 'Payloads') else '', title, heads,
                    body))
    facts = (('visits', report.visits), ('sources', report.sources()),
             ('events', report.events), ('damaged lines', report.damaged))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width,initial-scale=1"><meta http-equiv="Content-Security-Policy" '
        'content="default-src \'none\'; style-src \'unsafe-inline\'"><title>Visits</title><style>'
        + REPORT_STYLE + '</style></head><body><main><header><h1>Visits</h1><p>%s to %s UTC</p>'
        '<dl>%s</dl></header>' % (text(report.first), text(report.last), ''.join(
            '<div><dt>%s</dt><dd>%s</dd></div>' % (name, format(count, ','))
            for name, count in facts))
        + report_chart(bars_of(report.hours.counts))
        + '\n'.join(table(*each) for each in report.all_tables(TABLE_ROWS) if each[2])
        + '</main></body></html>\n')


def report_chart(bars) -> str:
    """[(begin, visits)] -> bars over time, as SVG."""
    if not bars:
        return ''
    top = max(count for _, count in bars) or 1
    rects = ''.join('<rect x="%.2f" y="%.2f" width="0.8" height="%.2f"><title>%s: %d</title>'
                    '</rect>' % (place + .1, 100 - 100 * count / top, 100 * count / top, begin,
                                 count) for place, (begin, count) in enumerate(bars))
    return ('<section class="wide"><h2>Visits over time</h2><svg viewBox="0 0 %d 100" '
            'preserveAspectRatio="none" role="img" aria-label="visits over time">%s</svg>'
            '<div class="axis"><span>%s</span><span>up to %s</span><span>%s</span></div></section>'
            % (len(bars), rects, bars[0][0], format(top, ','), bars[-1][0]))


def write_csv(report, directory):
    """The same tables as CSV files; no spreadsheet takes a stranger's words for a formula."""
    import csv
    for title, columns, rows in report.all_tables(CSV_ROWS):
        path = os.path.join(directory, title.lower().replace(' ', '-') + '.csv')
        with open_private(path) as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([csv_value(each) for each in row] for row in rows)


FORMULAS = tuple('=+-@\t\r')


def csv_value(value):
    """A number as it is; a text without control characters: some versions of csv refuse NUL."""
    if not isinstance(value, str):
        return value
    return ("'" if value[:1] in FORMULAS else '') + printable(value)


def open_private(path):
    """-> a text file to write: it has other people's passwords."""
    return open(path, 'w', newline='', encoding='utf-8', errors='backslashreplace',
                opener=lambda name, flags: os.open(name, flags, 0o600))


def make_report(args) -> int:
    """--report -> exit status: read the files, print the summary, write what is asked for."""
    import json
    wanted = args.country_db or args.as_db
    report = Report(Origins(args.country_db, args.as_db) if wanted else None)
    for path in args.report:
        try:
            with open_events(path) as file:
                report.read(file, json.loads)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError('%s: %s' % (path, why(error) if isinstance(error, OSError)
                                        else error)) from None
    print_text(report_summary(report))
    path = args.output
    try:
        if path is not None:
            with open_private(path) as file:
                file.write(report_page(report))
        if args.csv is not None:
            path = args.csv
            os.makedirs(path, exist_ok=True)
            write_csv(report, path)
    except OSError as error:
        raise UserError('%s: %s' % (path, why(error))) from None
    return 0


def open_events(path):
    """An event file, perhaps compressed; - is standard input -> to be read as octets."""
    if path == '-':
        return os.fdopen(os.dup(0), 'rb')
    if path.endswith('.gz'):
        import gzip
        return gzip.open(path, 'rb')
    return open(path, 'rb')


# ==== 6 Engine ========================================================================

SOL_PACKET = 263                # linux/if_packet.h, and all to PACKET_...
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_STATISTICS, PACKET_COPY_THRESH = 1, 5, 6, 7
PACKET_AUXDATA, PACKET_VERSION, PACKET_TX_RING, PACKET_VNET_HDR = 8, 10, 13, 15
PACKET_FANOUT, PACKET_IGNORE_OUTGOING = 18, 23
PACKET_MR_PROMISC, PACKET_MR_ALLMULTI = 1, 2
PACKET_OUTGOING = 4
PACKET_FANOUT_HASH, PACKET_FANOUT_FLAG_UNIQUEID = 0, 0x2000
TPACKET_V2 = 1
TPACKET2 = struct.Struct('=8xIH')       # (status size) kept mac (net sec nsec)
TPACKET2_VLAN = struct.Struct('=24xHH')     # vlan_tci vlan_tpid
TPACKET2_SEND = struct.Struct('=III20x')    # of a frame to send: status size size
VNET_HEADER = struct.Struct('=2xH6x')   # linux/virtio_net.h: hdr_len; the frame follows
AUXDATA = struct.Struct('=IIIHHHH')     # status size kept mac net vlan_tci vlan_tpid
TPACKET_REQ = struct.Struct('=IIII')    # block_size blocks frame_size frames
PACKET_MREQ = struct.Struct('=IHH8s')   # index type alen address
TP_STATUS_SEND_REQUEST = 1
TP_STATUS_USER, TP_STATUS_COPY = 1, 2
TP_STATUS_CSUMNOTREADY, TP_STATUS_VLAN_VALID = 8, 16
TP_STATUS_VLAN_TPID_VALID, TP_STATUS_CSUM_VALID = 64, 128
TP_TRUSTED = TP_STATUS_CSUMNOTREADY | TP_STATUS_CSUM_VALID
TP_SPECIAL = TP_STATUS_COPY | TP_STATUS_VLAN_VALID
ETH_P_ALL = 3
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772  # linux/if_arp.h
# without Ethernet: PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE (tun, WireGuard)
ARPHRDS_IP = (512, 519, 768, 769, 776, 778, 823, 0xfffe)
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
SOCK_FILTER = struct.Struct('=HBBI')    # linux/filter.h: code, jump if true, if false, k
BPF_LD_W, BPF_LD_H, BPF_LD_B, BPF_JEQ, BPF_JSET, BPF_RET = 0x20, 0x28, 0x30, 0x15, 0x45, 6
SKF_AD_PROTOCOL, SKF_AD_PKTTYPE = 0xfffff000, 0xfffff004    # SKF_AD_OFF, and + 4
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCGIFMTU, SIOCGIFHWADDR = 0x8913, 0x8914, 0x8921, 0x8927
SIOCSIFADDR, SIOCSIFNETMASK, SIOCGIFINDEX = 0x8916, 0x891c, 0x8933
IFF_UP, IFF_RUNNING = 1, 0x40
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454ca, 2, 0x1000    # linux/if_tun.h
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CAPABILITY_HEAD, CAPABILITY_VERSION = struct.Struct('=Ii'), 0x20080522  # linux/capability.h

STOP_SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGCHLD
RELOAD_SIGNALS = signal.SIGHUP, signal.SIGUSR1
STEP_S = 0.5                    # a clock that jumps so far was set
FAREWELL_S = 2                  # the end of connections is sent for so long
END_S = 5                       # workers have so long to end
OPENER_S = 2                    # and the opener for a file
OUT_FLAGS = (os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
             | os.O_CLOEXEC)
BESIDE = '.new'                 # end of the name of what replaces a file
LATE_CODECS = 'ascii', 'base64', 'cp037', 'latin-1', 'utf-8', 'utf-16-le', 'unicode_escape'
LOOK_S = 1                      # the interface is looked at so often
LAYER3_MAC = b'\2' + bytes(5)   # what stands for ours where there is no Ethernet
TAP_MAC = b'\xc0\xff\xee\xc0\xff\xee'
FRAME_MAX = 1 << 17             # GRO makes frames of up to 64 KiB, and no more than this
FEW_FRAMES = 32                 # the ring is looked at so far, or as far as a round may go
BATCH_FRAMES = 512              # frames received before their answers are sent; 256: 5 % slower
QUEUE_SIZE = 1 << 22            # octets of frames too large for a slot
RING_BLOCK = 1 << 16
RING_SLOT, RING_SLOTS = 1 << 9, 1 << 13     # 4 MiB; larger frames come by recv
SLOTS_FREE = memoryview(bytes(4 * BATCH_FRAMES)).cast('I')      # TP_STATUS_KERNEL, for a round
SEND_SLOTS = 1 << 10
SEND_RUN = 4                    # so many of a size are worth the ring
SEND_SLOT = 1 << 8
SEND_MAX = SEND_SLOT - TPACKET2_SEND.size - VNET_HEADER.size    # most answers are this short
STATUS_AT = 0 if sys.byteorder == 'little' else 3       # the octet of a slot's status that counts
POLL_MS = 1000
DOWN_POLL_S = 0.25


# ---- interface ----

def interface_request(request, name, payload=b''):
    """One of the SIOC requests about an interface -> what stands behind its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, request, struct.pack('16s24s', os.fsencode(name), payload))
    return answer[16:]


def interface_index(name) -> int:
    """Number of an interface; OSError: it is not there."""
    return struct.unpack_from('=i', interface_request(SIOCGIFINDEX, name))[0]


def interface_flags(name) -> int:
    """IFF_... of an interface; OSError: it is not there."""
    return struct.unpack_from('=H', interface_request(SIOCGIFFLAGS, name))[0]


def interface_mtu(name) -> int:
    """Octets of layer 3 that a frame takes; OSError: the interface is not there."""
    return struct.unpack_from('=i', interface_request(SIOCGIFMTU, name))[0]


def interface_hardware(name) -> 'tuple[int, bytes]':
    """ARPHRD_... and MAC of an interface; OSError: it is not there."""
    return struct.unpack_from('=H6s', interface_request(SIOCGIFHWADDR, name))


def is_up(name) -> bool:
    """Whether an interface is up; OSError: it is not there."""
    return bool(interface_flags(name) & IFF_UP)


def host_addresses() -> 'set':
    """The host's own addresses, as text of ipaddress."""
    found = set()
    for path, pattern in (('/proc/net/fib_trie', r'-- ([0-9.]+)\n +/32 host LOCAL'),
                          ('/proc/net/if_inet6', r'^([0-9a-f]{32}) ')):
        try:
            with open(path) as file:
                found.update(re.findall(pattern, file.read(), re.M))
        except OSError:                 # no IPv6 here
            pass
    return {ipaddress.IPv6Address(int(each, 16)) if len(each) == 32 else
            ipaddress.IPv4Address(each) for each in found}


def read_table(path) -> 'list[list[str]]':
    """A table of /proc/net -> its rows as words; none where there is no such table."""
    try:
        with open(path) as file:
            return [line.split() for line in file]
    except OSError:                     # no IPv6 here
        return []


def route_word(text) -> int:
    """A word of /proc/net/route, as this machine writes numbers -> IPv4 address."""
    return int.from_bytes(struct.pack('=I', int(text, 16)), 'big')


def look_around(link) -> 'Place':
    """What a link's interface and the host have now: at the start, after link-up, at SIGHUP.

    Networks are those with a route of their own through the interface (/proc/net/route: interface
    destination gateway flags counts metric mask); of /31 and /32 no address is special (RFC 3021).
    /proc/net/ipv6_route: destination length source length gateway.
    """
    broadcasts, gateways = set(), set()
    for row in read_table('/proc/net/route')[1:]:
        first = route_word(row[1])
        gateway = route_word(row[2])
        mask = route_word(row[7])
        if gateway and not mask:
            gateways.add(ipaddress.IPv4Address(gateway))
        elif row[0] == link.name and not gateway and 0 < mask < IPV4_BROADCAST - 1:
            broadcasts.update((first, first | ~mask & MASK32))
    for row in read_table('/proc/net/ipv6_route'):
        if row[1] == '00' and int(row[4], 16):
            gateways.add(ipaddress.IPv6Address(int(row[4], 16)))
    return Place(frozenset(host_addresses()), frozenset(broadcasts), frozenset(gateways),
                 link.loopback, link.ethernet)


# ---- packet filter ----

FILTER_DROP, FILTER_ACCEPT = -1, -2     # where to jump; or the number of an instruction


def packet_filter(mac: bytes) -> bytes:
    """BPF that lets in what could be answered: not our own, a MAC of ours or many's, our types."""
    types = (ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP) + ETHERTYPES_TAG
    return pack_filter([
        (BPF_LD_W, SKF_AD_PKTTYPE, None, None),
        (BPF_JEQ, PACKET_OUTGOING, FILTER_DROP, None),
        (BPF_LD_B, 0, None, None),
        (BPF_JSET, 1, 8, None),
        (BPF_LD_W, 0, None, None),
        (BPF_JEQ, int.from_bytes(mac[:4], 'big'), None, FILTER_DROP),
        (BPF_LD_H, 4, None, None),
        (BPF_JEQ, int.from_bytes(mac[4:], 'big'), None, FILTER_DROP),
        (BPF_LD_H, 12, None, None)] + [(BPF_JEQ, each, FILTER_ACCEPT, None) for each in types])


def layer3_filter() -> bytes:
    """The same where there is no Ethernet: IPv4 and IPv6 of others."""
    return pack_filter([
        (BPF_LD_W, SKF_AD_PKTTYPE, None, None),
        (BPF_JEQ, PACKET_OUTGOING, FILTER_DROP, None),
        (BPF_LD_W, SKF_AD_PROTOCOL, None, None),
        (BPF_JEQ, ETHERTYPE_IPV4, FILTER_ACCEPT, None),
        (BPF_JEQ, ETHERTYPE_IPV6, FILTER_ACCEPT, None)])


def pack_filter(program) -> bytes:
    """[(code, k, jump if true, if false)] -> octets; None goes on, and whoever ends is dropped."""
    ends = {FILTER_DROP: len(program), FILTER_ACCEPT: len(program) + 1}
    program = program + [(BPF_RET, 0, None, None), (BPF_RET, FRAME_MAX << 1, None, None)]

    def jump(at, target):
        return 0 if target is None else ends.get(target, target) - at - 1
    return b''.join(SOCK_FILTER.pack(code, jump(at, true), jump(at, false), k)
                    for at, (code, k, true, false) in enumerate(program))


def attach_filter(sock, code: bytes):
    """SO_ATTACH_FILTER of a packed program."""
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack(
        'HP', len(code) // SOCK_FILTER.size, ctypes.addressof(buffer)))


# ---- links ----

class PacketLink:
    """An AF_PACKET socket on an interface, read by recvmsg: where the kernel refuses rings.

    name, index     of the interface
    mac, mtu        ours
    ethernet, loopback      what kind of interface it is
    has_neighbours  whether there can be others who should hear of us
    falls           how often it was seen to be set down
    unsent          {reason: frames the kernel did not take}
    herald          whether its worker describes the interface: the first one does
    """
    herald = ethernet = True
    kind = socket.SOCK_RAW

    def __init__(self, name, mac=None, group=None):
        """group: of workers that share the interface, 0 for a new one; None: it is ours alone."""
        self.name, self.unsent, self.falls = name, collections.Counter(), 0
        self.sock = socket.socket(socket.AF_PACKET, self.kind | socket.SOCK_NONBLOCK, 0)
        self.index = interface_index(name)
        self.mtu = interface_mtu(name)
        hatype, hwaddr = interface_hardware(name)
        self.loopback = hatype == ARPHRD_LOOPBACK
        self.has_neighbours = self.ethernet and not self.loopback
        self.mac = mac or hwaddr
        attach_filter(self.sock, self.filter())
        self.is_recent = True
        try:
            self.sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        except OSError:                 # before Linux 4.20: the filter does it, at 0.2 us a frame
            self.is_recent = False
        self.prepare()
        self.sock.bind((name, ETH_P_ALL))
        kinds = [PACKET_MR_ALLMULTI, PACKET_MR_PROMISC] if self.mac != hwaddr else [
            PACKET_MR_ALLMULTI]
        for kind in kinds:
            self.sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP,
                                 PACKET_MREQ.pack(self.index, kind, 0, b''))
        self.group = group if group is None else self.join(group)
        self.poll = select.poll()
        self.poll.register(self.sock, select.POLLIN)

    def join(self, group):
        """Share the interface with the sockets of a group, 0 for a new one -> its number."""
        flags = PACKET_FANOUT_HASH | (0 if group else PACKET_FANOUT_FLAG_UNIQUEID)
        self.sock.setsockopt(SOL_PACKET, PACKET_FANOUT, group | flags << 16)
        return self.sock.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xffff

    def settle(self):
        """Nothing is left unsent behind the back of who goes to sleep."""

    def filter(self):
        """-> the BPF for our MAC."""
        return packet_filter(self.mac)

    def set_mtu(self, mtu):
        """The interface's MTU has changed."""
        self.mtu = mtu

    def prepare(self):
        """Options that must stand before frames come."""
        self.make_room()
        self.sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)

    def make_room(self):
        """A long queue, beyond rmem_max where we may."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_SIZE)
        except PermissionError:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_SIZE)

    def receive(self):
        """What has come -> (frames, at most BATCH_FRAMES, whether their sums of layer 4 hold).

        Frames of different trust come in different batches.
        """
        status = 0
        try:
            frame, extra, _, _ = self.sock.recvmsg(FRAME_MAX, 256)
        except BlockingIOError:
            return [], 0
        except OSError as error:
            if error.errno != errno.ENETDOWN:
                raise
            self.falls += 1
            return [], 0
        for _, kind, data in extra:
            if kind == PACKET_AUXDATA:
                status, _, _, _, _, tci, tpid = AUXDATA.unpack(data)
                frame = restore_tag(frame, status, tci, tpid)
        return [frame], status & TP_TRUSTED

    def send(self, frames):
        """Send frames, in order; what cannot be sent is counted."""
        send = self.sock.send
        for frame in frames:
            try:
                send(frame)
            except OSError as error:        # no buffers, larger than the MTU, interface down
                self.unsent[why(error)] += 1

    def wait(self, timeout_ms):
        """Sleep until there is something to do -> whether the interface may be the matter."""
        events = self.poll.poll(timeout_ms)
        return not events or any(event & select.POLLERR for _, event in events)

    def trouble(self):
        """What is wrong with the interface: 'gone', 'down' or ''."""
        if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.falls += 1
        try:
            if interface_index(self.name) != self.index:
                return 'gone'
            return '' if is_up(self.name) else 'down'
        except OSError:
            return 'gone'

    def lost(self):
        """Frames the kernel had no room for since the last call."""
        return struct.unpack_from('=II', self.sock.getsockopt(
            SOL_PACKET, PACKET_STATISTICS, 8))[1]


def restore_tag(frame, status, tci, tpid):
    """Put the VLAN tag back that the kernel took out."""
    if not status & TP_STATUS_VLAN_VALID:
        return frame
    tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else ETHERTYPE_VLAN
    return frame[:12] + TAG.pack(tpid, tci) + frame[12:]


def count_ready(statuses):
    """How many slots in front hold frames, all of the same trust in their checksums."""
    first = statuses[0]
    if statuses.count(first) == len(statuses):
        return len(statuses) if first else 0
    for count, status in enumerate(statuses):
        if not status or (status ^ first) & TP_TRUSTED:
            return count
    return len(statuses)


class RingLink(PacketLink):
    """The same, read from a ring of slots that the kernel fills in our memory.

    TPACKET_V2: V3 saves some work under load but wakes up a millisecond late.  A frame larger than
    its slot lies in the socket's queue as a whole (TP_STATUS_COPY).

    Short answers leave by a ring, too: one system call for many (0.45 us each instead of 0.6).  A
    header in front of each (PACKET_VNET_HDR) has the kernel take it out of its slot at once: else
    it keeps a reference, and on a veth pair makes a page for it (0.08 us).

    at      number of the next slot
    view    of the ring; words and quads: the same as numbers of 32 and 64 bits
    out     the socket of the other ring; out_at its next slot, out_last the offset of the last
            one filled, out_max the octets it takes
    """

    def __init__(self, name, mac=None, group=None):
        PacketLink.__init__(self, name, mac, group)
        try:
            self.open_out(name)
        except OSError:
            self.sock.close()
            raise

    def open_out(self, name):
        self.out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self.out.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        self.out.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self.out.setsockopt(SOL_PACKET, PACKET_TX_RING, TPACKET_REQ.pack(
            RING_BLOCK, SEND_SLOTS * SEND_SLOT // RING_BLOCK, SEND_SLOT, SEND_SLOTS))
        self.out_ring = mmap.mmap(self.out.fileno(), SEND_SLOTS * SEND_SLOT)
        self.out_at, self.out_last = 0, 0
        self.set_mtu(self.mtu)
        self.out.bind((name, 0))

    def set_mtu(self, mtu):
        self.mtu = mtu
        # before Linux 4.5 the header would be sent as part of the frame
        self.out_max = min(SEND_MAX, mtu + ETHER.size) if self.is_recent else 0

    def prepare(self):
        sock = self.sock
        sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        sock.setsockopt(SOL_PACKET, PACKET_COPY_THRESH, 1)
        self.make_room()
        sock.setsockopt(SOL_PACKET, PACKET_RX_RING, TPACKET_REQ.pack(
            RING_BLOCK, RING_SLOTS * RING_SLOT // RING_BLOCK, RING_SLOT, RING_SLOTS))
        self.ring = mmap.mmap(sock.fileno(), RING_SLOTS * RING_SLOT)
        self.view, self.at = memoryview(self.ring), 0
        self.words, self.quads = self.view.cast('I'), self.view.cast('Q')

    def receive(self):
        at, step = self.at, RING_SLOT // self.words.itemsize
        if not self.words[at * step]:
            return [], 0
        last = min(at + BATCH_FRAMES, RING_SLOTS)
        few = at + FEW_FRAMES
        if few < last and not self.words[few * step]:       # 3 us instead of 15 where few come
            last = few
        octets = self.words[at * step:last * step:step].tobytes()       # 6 ns each, 20 as numbers
        first, alike = octets[:4], octets == octets[:4] * (last - at)
        first = int.from_bytes(first, sys.byteorder)
        statuses = [first] * (last - at) if alike else memoryview(octets).cast('I').tolist()
        end = at + count_ready(statuses)
        if end == at:
            return [], 0
        frames = self.cut(at, end)
        if not alike or first & TP_SPECIAL:
            for index, status in enumerate(statuses[:end - at]):
                if status & TP_SPECIAL:
                    frames[index] = self.mend(frames[index], status, (at + index) * RING_SLOT)
        self.words[at * step:end * step:step] = SLOTS_FREE[:end - at]
        self.at = end % RING_SLOTS
        return frames, statuses[0] & TP_TRUSTED

    def cut(self, at, end) -> 'list[bytes]':
        """The frames of slots that are ready: 30 ns each if all are of a size, otherwise 180."""
        step = RING_SLOT // self.quads.itemsize
        sizes = self.quads[at * step + 1:end * step:step].tobytes()     # kept mac net
        at, end, ring = at * RING_SLOT, end * RING_SLOT, self.ring
        if sizes == sizes[:8] * (len(sizes) // 8):
            kept, start = TPACKET2.unpack_from(ring, at)
            return cut_rows('%dx%ds%dx' % (start, kept, RING_SLOT - start - kept),
                            self.view[at:end])
        frames = []
        for at in range(at, end, RING_SLOT):
            kept, start = TPACKET2.unpack_from(ring, at)
            frames.append(ring[at + start:at + start + kept])
        return frames

    def send(self, frames):
        if isinstance(frames, Replies):
            return self.send_run(len(frames.pattern), frames)
        sizes = list(map(len, frames))
        if not frames or sizes.count(sizes[0]) == len(sizes):       # 15 ns a frame to see it
            return self.send_run(sizes[0], frames) if frames else None
        changes = sum(map(operator.ne, sizes, sizes[1:]))           # 30; groupby 300
        if changes * SEND_RUN > len(frames):
            return PacketLink.send(self, frames)
        for size, run in itertools.groupby(frames, len):
            self.send_run(size, list(run))

    def send_run(self, size, frames):
        """Frames of one size: by the ring when there are enough of them and they fit."""
        if len(frames) < SEND_RUN or size > self.out_max:
            return PacketLink.send(self, frames)
        while frames:
            taken = frames[:SEND_SLOTS - self.out_at]
            if not self.fill(size, taken):
                break
            frames = frames[len(taken):]
        self.kick()
        PacketLink.send(self, frames)           # what found no room

    def kick(self):
        """Let the kernel look at the ring; what it has no buffers for stays there, not unsent."""
        try:
            self.out.send(b'', socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                self.unsent[why(error)] += 1

    def settle(self):
        if self.out_ring[self.out_last + STATUS_AT] == TP_STATUS_SEND_REQUEST:
            self.kick()

    def fill(self, size, frames):
        """Frames of one size -> slots in a row, by one copy; False: some are still under way."""
        start = self.out_at * SEND_SLOT
        end = start + len(frames) * SEND_SLOT
        ring = self.out_ring
        if ring[start + STATUS_AT:end:SEND_SLOT].strip(b'\0'):      # 3 ns a frame; interfaces with
            return False                        # many queues do not free slots in order
        head = TPACKET2_SEND.pack(*(TP_STATUS_SEND_REQUEST,) + (VNET_HEADER.size + size,) * 2)
        head += VNET_HEADER.pack(size)
        if isinstance(frames, Replies):
            ring[start:end] = frames.rows(head, SEND_SLOT)
        else:
            gap = bytes(SEND_SLOT - len(head) - size)
            ring[start:start + len(head)] = head
            ring[start + len(head):end - len(gap)] = (gap + head).join(frames)
        self.out_at = (self.out_at + len(frames)) % SEND_SLOTS
        self.out_last = end - SEND_SLOT
        return True

    def mend(self, frame, status, at):
        """A frame that was cut to its slot, or has lost its tag -> the whole."""
        for _ in range(2 if status & TP_STATUS_COPY else 0):
            try:
                frame = self.sock.recv(FRAME_MAX)
                break
            except BlockingIOError:         # no room in the queue: cut, layer 3 will see it
                break
            except OSError:                 # that the link was down, reported once: now the frame
                pass
        return restore_tag(frame, status, *TPACKET2_VLAN.unpack_from(self.ring, at))


class Layer3Link(PacketLink):
    """An interface without Ethernet: tun, PPP, WireGuard, GRE and other tunnels.

    The kernel gives and takes packets (SOCK_DGRAM, so that it also makes what head there is).
    Above this class they have an Ethernet header all the same, made up here and taken off here.
    """
    ethernet = False
    kind = socket.SOCK_DGRAM

    def __init__(self, name, mac=None, group=None):
        if mac:
            raise UserError('--mac-addr: %r has no MAC addresses' % name)
        PacketLink.__init__(self, name, LAYER3_MAC, group)
        self.heads = {4: ETHER.pack(self.mac, bytes(6), ETHERTYPE_IPV4),
                      6: ETHER.pack(self.mac, bytes(6), ETHERTYPE_IPV6)}

    def filter(self):
        return layer3_filter()

    def receive(self):
        packets, trusted = PacketLink.receive(self)
        return [self.heads.get(packet[:1] and packet[0] >> 4, self.heads[4]) + packet
                for packet in packets], trusted

    def send(self, frames):
        for frame in frames:
            address = self.name, int.from_bytes(frame[12:ETHER.size], 'big')
            try:
                self.sock.sendto(frame[ETHER.size:], address)
            except OSError as error:
                self.unsent[why(error)] += 1


class TapLink:
    """A TAP device of our own: the host's end has its addresses, ours is behind the descriptor."""

    herald = ethernet = True
    loopback = has_neighbours = False
    falls = 0                   # what its other end does is the host's affair

    def __init__(self, networks, mac):
        """networks: [ipaddress network]; the first usable address of each is the host's."""
        try:
            self.fd = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
            answer = fcntl.ioctl(self.fd, TUNSETIFF, struct.pack(
                '16sH22x', b'masscanned%d', IFF_TAP | IFF_NO_PI))
        except OSError as error:
            raise UserError('--tap: /dev/net/tun: %s: run as root (sudo)' % why(error)) from None
        self.name = os.fsdecode(answer[:16].rstrip(b'\0'))
        self.mac, self.mtu, self.unsent = mac or TAP_MAC, 1500, collections.Counter()
        skip_duplicate_detection(self.name)
        interface_request(SIOCSIFFLAGS, self.name, struct.pack('=H', IFF_UP))
        for label, network in enumerate(sorted(networks, key=lambda each: each.version)):
            try:
                set_address(self.name, network, label)
            except OSError as error:
                raise UserError('--tap: %s: %s' % (network, why(error))) from None
        self.poll = select.poll()
        self.poll.register(self.fd, select.POLLIN)

    def receive(self):
        frames = []
        try:
            while len(frames) < BATCH_FRAMES:
                frames.append(os.read(self.fd, FRAME_MAX))
        except OSError:                     # nothing more, or the device was set down
            pass
        return frames, 0

    def send(self, frames):
        for frame in frames:
            try:
                os.write(self.fd, frame)
            except OSError as error:
                self.unsent[why(error)] += 1

    wait, settle, set_mtu = PacketLink.wait, PacketLink.settle, PacketLink.set_mtu

    def trouble(self):
        try:
            return '' if is_up(self.name) else 'down'
        except OSError:
            return 'gone'

    def lost(self):
        return 0


def set_address(name, network, label):
    """Give the host its end of a TAP network; label: 0 for the first IPv4 network, 1, ..."""
    host = network[1].packed
    if network.version == 6:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, SIOCSIFADDR, struct.pack(
                '=16sIi', host, network.prefixlen, interface_index(name)))
        return
    alias = '%s:%d' % (name, label) if label else name
    for request, address in ((SIOCSIFADDR, host), (SIOCSIFNETMASK, network.netmask.packed)):
        interface_request(request, alias, struct.pack('=HH4s', socket.AF_INET, 0, address))


def skip_duplicate_detection(name):
    """The host's IPv6 end is usable at once: nobody else can be on this link."""
    try:
        with open('/proc/sys/net/ipv6/conf/%s/accept_dad' % name, 'w') as file:
            file.write('0')
    except OSError:                     # read-only /proc: it takes a second then
        pass


def open_links(args, mac):
    """-> a link for each worker; UserError when there can be none."""
    if args.tap:
        return [TapLink(args.tap, mac)]
    links, group = [], 0 if args.workers > 1 else None
    try:
        if not is_up(args.iface):
            raise UserError('%r is down: ip link set %s up' % (args.iface, args.iface))
        while len(links) < args.workers:
            links.append(open_packet_link(args.iface, mac, group))
            group = links[0].group
        return links
    except PermissionError:
        raise UserError('%r: raw packets are not permitted: run as root (sudo), or with '
                        'CAP_NET_RAW' % args.iface) from None
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise UserError('%r: %s' % (args.iface, why(error))) from None
        names = ', '.join(sorted(os.listdir('/sys/class/net')))
        raise UserError('%r: no such interface; there are %s' % (args.iface, names)) from None


def open_packet_link(name, mac, group):
    """A RingLink, or its plain form where there is no memory or right for rings."""
    hatype, _ = interface_hardware(name)
    if hatype in ARPHRDS_IP:
        return Layer3Link(name, mac, group)
    if hatype not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
        raise UserError('%r: neither an Ethernet interface nor one of IP packets' % name)
    try:
        return RingLink(name, mac, group)
    except PermissionError:
        raise
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOMEM, errno.ENOPROTOOPT):
            raise
        return PacketLink(name, mac, group)


# ---- privileges ----

def prctl(option, value):
    """prctl(2) of one argument."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def find_user(name):
    """Name of a user -> its entry."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise UserError('--user: %r: no such user' % name) from None


def drop_privileges(entry):
    """Become a user for good.

    The interpreter may lie where that user cannot read: what it would load late is loaded now.
    """
    for codec in LATE_CODECS:
        codecs.lookup(codec)
    try:
        if is_single_user():
            give_up_capabilities()
        else:
            os.setgroups([])
            os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
            os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise UserError('--user: cannot become %r: %s' % (entry.pw_name, why(error))) from None


# ---- announcements ----
#
# A link's neighbours remember MACs, and its switches what was joined where.  At the start and
# whenever the link comes up we announce ourselves to them.
# What is done by time has tick(now) -> frames to send, and next_due() -> Unix time or None.

ANNOUNCED_MAX = 1024
ANNOUNCE_S = 0.02               # between two frames
# A frame for each stage of an address; the next address begins after one round of stages, that is
# every 0.1 s, which makes 20 announcements a second.  A stage comes so many addresses later: 0,
# 1.02, 2.04, 4.06, 6.08 s after the first (RFC 5227 s1.1: three probes 1 to 2 s apart, 2 s of
# waiting, two announcements 2 s apart).
PROBE_LAGS, ANNOUNCE_LAGS = (0, 10, 20), (40, 60)
ANNOUNCE_GAP_S = 2.1            # no two frames are farther apart
CLAIMS_TOLD = 8
CLAIM = struct.Struct('=B16s6s')        # size of the address, address, MAC
CLAIMS_READ = 256
GROUPS_MAX, GROUPS_A_SOCKET = 4096, 2000


class Claims:
    """Addresses of ours that somebody else has, as any worker heard: a pipe to the first one."""

    def __init__(self):
        self.pipe, self.end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def note(self, ip, mac):
        try:
            os.write(self.end, CLAIM.pack(len(ip), ip, mac))
        except BlockingIOError:         # a flood of them: those before are enough
            pass

    def take(self) -> 'list[tuple[bytes, bytes]]':
        """-> [(address, MAC)], some of what is there."""
        try:
            block = os.read(self.pipe, CLAIM.size * CLAIMS_READ)
        except BlockingIOError:
            return []
        return [(ip[:size], mac) for size, ip, mac in CLAIM.iter_unpack(block)]


class Announcer:
    """Tries our addresses out and tells the neighbours of those that nobody else has.

    mac         ours
    addresses   addresses() -> [4 or 16 octets]
    take        take() -> [(address, MAC)]: who else has one, since the last call
    tell        tell(text), a warning
    plan        deque of (number of the step, stage, address)
    taken       {address: MAC} of those that somebody else has
    due         when the next step is, Unix time; None: all is said
    """

    def __init__(self, mac, addresses, take, tell):
        self.mac, self.addresses, self.take, self.tell = mac, addresses, take, tell
        self.plan, self.taken, self.due = collections.deque(), {}, None

    def begin(self, now):
        """The link is up."""
        lags = PROBE_LAGS + ANNOUNCE_LAGS
        self.plan = collections.deque(sorted(
            (len(lags) * (number + lag) + stage, stage, address)
            for number, address in enumerate(self.addresses()) for stage, lag in enumerate(lags)))
        self.taken, self.due = {}, now
        while self.take():              # of before
            pass

    def next_due(self):
        return self.due

    def tick(self, now):
        """The time -> frames to send, at most one."""
        if self.due is None or self.due - ANNOUNCE_GAP_S <= now < self.due:
            return ()                   # further away is a clock that was set back
        for address, mac in self.take():
            self.hear(address, mac)
        while self.plan and self.plan[0][2] in self.taken:
            self.plan.popleft()
        if not self.plan:
            self.end()
            return ()
        step, stage, address = self.plan.popleft()
        following = self.plan[0][0] if self.plan else step + 1
        self.due = now + min((following - step) * ANNOUNCE_S, ANNOUNCE_GAP_S)
        probe = stage < len(PROBE_LAGS)
        return (pack_arp_news if len(address) == 4 else pack_nd_news)(self.mac, address, probe),

    def hear(self, address, mac):
        """Somebody else has an address: this is reported once, and we do not announce it."""
        if address in self.taken:
            return
        self.taken[address] = mac
        if len(self.taken) <= CLAIMS_TOLD:
            self.tell('%s: %s has it, too: not announced' % (ip_text(address), mac_text(mac)))

    def end(self):
        self.due = None
        if len(self.taken) > CLAIMS_TOLD:
            self.tell('%d addresses more are those of others, too: not announced'
                      % (len(self.taken) - CLAIMS_TOLD))


def pack_arp_news(mac, address, probe) -> bytes:
    """RFC 5227 s1.1: a request for an address of ours, from nobody or from itself -> frame."""
    return ETHER.pack(MAC_BROADCAST, mac, ETHERTYPE_ARP) + ARP.pack(
        1, ETHERTYPE_IPV4, 6, 4, ARP_REQUEST, mac, bytes(4) if probe else address, bytes(6),
        address)


def pack_nd_news(mac, address, probe) -> bytes:
    """RFC 4862 s5.4.2, RFC 4861 s7.2.6: solicitation from ::, unsolicited advertisement."""
    if probe:
        to, src, dst = MAC_SOLICITED + address[13:], bytes(16), IPV6_SOLICITED + address[13:]
        message = pack_icmpv6(ND_SOLICITATION, bytes(4) + address, src, dst)
    else:
        to, src, dst = MAC_ALL_NODES, address, IPV6_ALL_NODES
        message = pack_icmpv6(ND_ADVERTISEMENT, ND_OVERRIDE.to_bytes(4, 'big') + address
                              + ND_OPTION.pack(ND_TARGET_LINK, 1, mac), src, dst)
    return (ETHER.pack(to, mac, ETHERTYPE_IPV6)
            + IPV6.pack(0x60000000, len(message), IP_ICMPV6, ND_HOPS, src, dst) + message)


def announced_addresses(stack) -> 'list[bytes]':
    """The first of both lists, by turns: of hosts, and not what this host tells of itself."""
    def each(own, family, size):
        ranges = own.ranges if own else ()
        for number in itertools.chain.from_iterable(range(a, b + 1) for a, b in ranges):
            is_host = stack.is_host4(number) if size == 4 else 0 < number >> 120 < 0xff
            if is_host and number not in family.shared:
                yield number.to_bytes(size, 'big')
    own4, own6 = stack.lists[:2]
    turns = itertools.zip_longest(each(own4, stack.four, 4), each(own6, stack.six, 16))
    return list(itertools.islice(filter(None, itertools.chain.from_iterable(turns)),
                                 ANNOUNCED_MAX))


class Groups:
    """Solicited-node groups, joined by the kernel: a switch that snoops MLD lets them pass to us.

    It reports them at once, and again when it is asked for; our own answers do not depend on it.

    name, index     of the interface
    ranges          ranges() -> [(first, last)] of the lowest 24 bits of our addresses
    socks           that hold the groups; they receive nothing
    told            whether the fault has been reported
    """

    def __init__(self, name, index, ranges):
        self.name, self.index, self.ranges = name, index, ranges
        self.socks, self.told = [], False

    def begin(self, now):
        """The link is up: join, once more if need be."""
        for sock in self.socks:
            sock.close()
        self.socks = []
        ranges = self.ranges()
        trouble = self.join(ranges) if ranges else ''
        if trouble and not self.told:
            self.told = True
            say('%s: %s: behind a bridge or switch that snoops MLD, neighbours may not find our '
                'IPv6 addresses' % (self.name, trouble))

    def join(self, ranges) -> str:
        """-> what is wrong; '': nothing."""
        if is_ipv6_off(self.name):
            return 'IPv6 is off there (disable_ipv6), so that multicast groups are not reported'
        total = sum(last - first + 1 for first, last in ranges)
        every = itertools.chain.from_iterable(range(first, last + 1) for first, last in ranges)
        try:
            for count, low in enumerate(itertools.islice(every, GROUPS_MAX)):
                self.join_one(struct.pack('=16sI', IPV6_SOLICITED + low.to_bytes(3, 'big'),
                                          self.index), not count % GROUPS_A_SOCKET)
        except OSError as error:
            return 'multicast groups cannot be joined: %s' % why(error)
        return '' if total <= GROUPS_MAX else '%d of %d multicast groups are joined' % (
            GROUPS_MAX, total)

    def join_one(self, request, fresh):
        """One group more; where a socket holds no more (net.core.optmem_max), by the next."""
        if fresh:
            self.open()
        try:
            self.socks[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.ENOBUFS):
                raise
            self.open()
            self.socks[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)

    def open(self):
        self.socks.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))


def is_ipv6_off(name) -> bool:
    """Whether the kernel has IPv6, but not on this interface: joining there works in vain."""
    try:
        with open('/proc/sys/net/ipv6/conf/%s/disable_ipv6' % name) as file:
            return file.read().strip() != '0'
    except OSError:                     # no IPv6 at all: joining reports it
        return False


class Attendant:
    """Looks at the interface each second: its MTU, and whether it has come up.

    link, stack     of this worker
    tellers         begin(now) of each is called when the link is up
    running         whether the link was up when last seen, falls: its falls until then
    due             when it is looked at next, Unix time
    """

    def __init__(self, link, stack, tellers=()):
        self.link, self.stack, self.tellers = link, stack, tellers
        self.running, self.falls, self.due = False, 0, 0.0

    def next_due(self):
        return self.due

    def tick(self, now):
        if not self.due - LOOK_S <= now < self.due:     # also when the clock was set back
            self.due = now + LOOK_S
            try:
                self.look(now)
            except OSError:             # it is gone: rest() says so
                pass
        return ()

    def look(self, now):
        link, stack = self.link, self.stack
        mtu = interface_mtu(link.name)
        if mtu != link.mtu:
            link.set_mtu(mtu)
            stack.set_mtu(mtu)
            if link.herald:
                say('%s: MTU %d' % (link.name, mtu))
        running = bool(interface_flags(link.name) & IFF_RUNNING)
        if running and (not self.running or self.falls != link.falls):
            self.come_up(now)
        self.running, self.falls = running, link.falls

    def come_up(self, now):
        """The link is up, or the lists are others: look around, announce ourselves."""
        self.stack.set_place(look_around(self.link))
        for each in self.tellers:
            each.begin(now)


def attend(link, stack) -> list:
    """What this worker does by time; the neighbours hear of us from the first one."""
    def solicited():
        own6 = stack.lists[1]
        return own6.lowest_bits(IPV6_SOLICITED_BITS) if own6 else []
    if not link.herald or not link.has_neighbours:
        return [Attendant(link, stack)]
    groups = Groups(link.name, link.index, solicited)
    if not stack.claims:
        return [Attendant(link, stack, [groups])]
    announcer = Announcer(stack.mac, lambda: announced_addresses(stack), stack.claims.take, say)
    return [Attendant(link, stack, [groups, announcer]), announcer]


def is_single_user(path='/proc/self/uid_map') -> bool:
    """Whether there is nobody else to become: a user namespace made by an ordinary user."""
    try:
        with open(path) as file:
            return sum(int(line.split()[2]) for line in file) == 1
    except OSError:                     # a kernel without user namespaces
        return False


def give_up_capabilities():
    """capset(2): none are left."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(CAPABILITY_HEAD.pack(CAPABILITY_VERSION, 0), bytes(24)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def go_background():
    """The caller gets its terminal back, a child goes on without one."""
    pid = os.fork()
    if pid:
        say('in the background: process %d' % pid)
        os._exit(0)
    os.setsid()
    null = os.open('/dev/null', os.O_RDWR)
    for fd in range(3):
        if os.isatty(fd):
            os.dup2(null, fd)
    os.close(null)


class Notify:
    """Tells systemd that we are ready, and alive, where it has asked (sd_notify(3)).

    wait_s  from one sign of life to the next; None: none is wanted
    due     of the next, Unix time
    """

    def __init__(self, environ):
        path = environ.get('NOTIFY_SOCKET', '')
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.path = '\0' + path[1:] if path.startswith('@') else path
        asked = environ.get('WATCHDOG_USEC', '')
        is_ours = environ.get('WATCHDOG_PID', str(os.getpid())) == str(os.getpid())
        self.wait_s = int(asked) / 2e6 if asked.isdigit() and int(asked) and is_ours else None
        self.due, self.word = 0.0, b'READY=1'

    def next_due(self):
        return self.due

    def tick(self, now):
        wait_s = self.wait_s or 0
        if self.due is not None and not self.due - wait_s <= now < self.due:
            self.tell(self.word)
            self.word = b'WATCHDOG=1'
            self.due = now + wait_s if wait_s else None
        return ()

    def tell(self, word):
        try:
            self.sock.sendto(word, self.path)
        except OSError:                 # who does not listen does not miss it
            pass


# ---- files ----

class NamedFiles:
    """The files that the command line names, opened by this process.

    outs, lists     names of those that are written, and read
    count           how many old ones --rotate keeps
    owner           entry of the user with whose rights they are written; None: with ours
    """

    def __init__(self, outs, lists, count=KEPT_FILES, owner=None):
        self.outs, self.lists = outs, lists
        self.count, self.owner = count, owner

    def open(self, path):
        """-> descriptor to write to; they hold what strangers sent: nobody else may read it."""
        return self.as_owner(os.open, path, OUT_FLAGS, 0o600)

    def as_owner(self, act, *about):
        """act(*about) with the rights of the owner -> what it returns."""
        if not self.owner:
            return act(*about)
        uid, gid = os.geteuid(), os.getegid()
        os.setegid(self.owner.pw_gid)           # root would follow a link of that user's anywhere
        os.seteuid(self.owner.pw_uid)
        try:
            return act(*about)
        finally:
            os.seteuid(uid)
            os.setegid(gid)

    def begin(self, path):
        """-> descriptor of what takes the place of a file at finish(); all may read it."""
        return self.as_owner(open_beside, path)

    def finish(self, path):
        """What was begun has the name now, at once."""
        self.as_owner(os.replace, path + BESIDE, path)

    def rotate(self, path, device, inode):
        """The same, of a new file, unless the known one was put aside already.

        path.1 is the newest of the old ones.
        """
        try:
            found = os.stat(path)
            if (found.st_dev, found.st_ino) == (device, inode):
                names = [path] + ['%s.%d' % (path, number + 1) for number in range(self.count)]
                for name, older in reversed(list(zip(names, names[1:]))):
                    if os.path.lexists(name):
                        os.replace(name, older)
        except FileNotFoundError:               # somebody else moves them, too
            pass
        return self.open(path)

    def read(self, path, flags=0):
        """-> descriptor to read from; an opener of open()."""
        return os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)

    def serve(self, request):
        """b'open 0', b'rotate 0 DEVICE INODE', b'begin 0', b'read 0' -> descriptor.

        b'finish 0' -> None
        """
        verb, place, *numbers = request.decode().split()
        if verb == 'read':
            return self.read(self.lists[int(place)])
        ask = {'open': self.open, 'rotate': self.rotate, 'begin': self.begin,
               'finish': self.finish}[verb]
        return ask(self.outs[int(place)], *map(int, numbers))


def open_beside(path):
    """-> descriptor of a new file beside that of a name."""
    try:
        os.unlink(path + BESIDE)
    except FileNotFoundError:
        pass                                    # as it should be
    return os.open(path + BESIDE, OUT_FLAGS | os.O_EXCL, 0o644)


class Opener:
    """The same, asked of a process that has kept the rights which we gave up.

    A descriptor of a directory gives no right after the drop, and one of a list reads the old file
    once an editor has renamed a new one over it.

    sock    of one worker
    """

    def __init__(self, files, sock):
        self.files, self.sock = files, sock
        sock.settimeout(OPENER_S)

    def open(self, path):
        return self.ask('open', self.files.outs.index(path))

    def rotate(self, path, device, inode):
        return self.ask('rotate', self.files.outs.index(path), device, inode)

    def begin(self, path):
        return self.ask('begin', self.files.outs.index(path))

    def finish(self, path):
        self.ask('finish', self.files.outs.index(path))

    def read(self, path, flags=0):
        return self.ask('read', self.files.lists.index(path))

    def ask(self, *words):
        """A request -> the descriptor that answers it, or None."""
        try:
            self.sock.send(' '.join(map(str, words)).encode())
            data, extra, _, _ = self.sock.recvmsg(256, socket.CMSG_SPACE(4))
        except OSError:
            self.sock.close()                   # a late answer would be another's
            data, extra = b'', []
        for _, _, fd in extra:
            os.set_inheritable(struct.unpack('=i', fd)[0], False)
            return struct.unpack('=i', fd)[0]
        number, _, text = data.decode().partition(' ')
        if number == '0':
            return None
        raise OSError(int(number or errno.ESRCH), text or 'the opener is gone')


def fork_opener(files, count) -> 'list[Opener]':
    """Keep the rights of now in a process that does nothing else -> an Opener for each worker.

    It knows the names of the command line only, and ends with the last worker.
    """
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)]
    if not os.fork():
        try:
            for number in STOP_SIGNALS[:2] + RELOAD_SIGNALS:
                signal.signal(number, signal.SIG_IGN)       # its end is that of its sockets
            for ours, _ in pairs:
                ours.close()
            null = os.open('/dev/null', os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
            os.close(null)
            be_opener(files, {each.fileno(): each for _, each in pairs})
        finally:
            os._exit(0)
    for _, theirs in pairs:
        theirs.close()
    return [Opener(files, ours) for ours, _ in pairs]


def be_opener(files, socks):
    """Answer requests until nobody is left; socks: {descriptor: socket}."""
    poll = select.poll()
    for fd in socks:
        poll.register(fd, select.POLLIN)
    while socks:
        for fd, _ in poll.poll():
            request = socks[fd].recv(256)
            if not request:
                poll.unregister(fd)
                socks.pop(fd).close()
                continue
            try:
                found = files.serve(request)
                if found is None:
                    socks[fd].send(b'0')
                    continue
                socks[fd].sendmsg([b'0'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                            struct.pack('=i', found))])
                os.close(found)
            except OSError as error:
                socks[fd].send(('%d %s' % (error.errno, why(error))).encode())
            except (ValueError, LookupError, TypeError):    # a worker that was taken over
                socks[fd].send(b'%d no such request' % errno.EINVAL)


class Lists:
    """Our addresses and those we deny, read at the start and whenever somebody asks.

    args, files     as of the command line; files: NamedFiles or an Opener
    shared          a file in which the first worker leaves them for the others; None: it is alone
    """

    def __init__(self, args, files, shared=None):
        self.args, self.files = args, files
        self.shared = shared

    def read(self):
        """-> (own4, own6, deny4, deny6) of Addresses or None."""
        deny = load_addresses(self.args.remote_ip_deny_file, self.args.remote_ip_deny_list,
                              '--remote-ip-deny-list', self.files.read)
        return own_addresses(self.args, self.files.read) + by_family(deny)

    def read_again(self, before):
        """Lists now in use -> those to be used from here on, whole; says what has changed."""
        try:
            found = self.read()
            if any(before[:2]) and not any(found[:2]):
                raise UserError('our own list is empty, which would be every address')
        except UserError as error:
            say('%s: the lists stay as they were' % error)
            return before
        if self.shared:
            self.leave(found)
        changes = [list_changes(what, old, new) for what, old, new in (
            ('ours', before[:2], found[:2]), ('denied', before[2:], found[2:]))]
        say('lists were read again: %s' % ', '.join(changes))
        return found

    def leave(self, lists):
        """Write them down for the other workers."""
        text = ''.join('%d %d %d\n' % (place, first, last) for place, each in enumerate(lists)
                       if each for first, last in each.ranges)
        fcntl.lockf(self.shared, fcntl.LOCK_EX)
        self.shared.truncate(0)
        os.pwrite(self.shared.fileno(), text.encode(), 0)
        fcntl.lockf(self.shared, fcntl.LOCK_UN)

    def find(self, before):
        """What the first worker has left; nothing: the lists stay."""
        fcntl.lockf(self.shared, fcntl.LOCK_EX)
        size = os.fstat(self.shared.fileno()).st_size
        text = os.pread(self.shared.fileno(), size, 0).decode()
        fcntl.lockf(self.shared, fcntl.LOCK_UN)
        ranges = [[], [], [], []]
        for line in text.splitlines():
            place, first, last = map(int, line.split())
            ranges[place].append((first, last))
        return tuple(Addresses(each) if each else None for each in ranges) if text else before


def list_changes(what, old, new) -> str:
    """'ours: 3 more, 1 less', from (Addresses or None of IPv4, of IPv6), both times."""
    def size(ranges):
        return sum(last - first + 1 for first, last in merge_ranges(ranges))
    more = less = 0
    for one, other in zip(old, new):
        one, other = (each.ranges if each else [] for each in (one, other))
        union = size(one + other)
        more += union - size(one)
        less += union - size(other)
    return '%s: %d more, %d less' % (what, more, less) if more or less else what + ': unchanged'


def is_hung_up() -> bool:
    """Whether standard output or error is a terminal that has gone."""
    poll = select.poll()
    for fd in (1, 2):
        if stat.S_ISCHR(os.fstat(fd).st_mode):
            poll.register(fd, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def keep_secret(directory, name: str, make) -> bytes:
    """What make() gives, or gave when it was first asked: a file that is ours alone keeps it.

    directory   None: nothing is kept
    """
    if directory is None:
        return make()
    path = os.path.join(directory, name)
    part = '%s.%d' % (path, os.getpid())        # nobody reads half of it
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        if not os.path.exists(path):
            octets = make()
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                write_all(fd, octets)
            finally:
                os.close(fd)
            os.rename(part, path)
        with open(path, 'rb') as file:
            return file.read()
    except OSError as error:
        raise UserError('%s: %s' % (error.filename or path, why(error))) from None


# ---- loop ----

class Stop:
    """SIGINT, SIGTERM and the end of another worker end the loop, also out of its sleep.

    SIGHUP and SIGUSR1 ask for files to be opened anew; a SIGHUP that was ignored at the start
    stays so, and one from a terminal that has hung up is an end.

    came        number of the signal that ends, 0 = none yet
    asked       whether files and lists are to be read anew
    wake        readable when a signal came
    children    process numbers of the other workers
    """

    def __init__(self):
        self.came, self.asked = 0, False
        self.children = []
        self.wake, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup)
        self.before = {number: signal.signal(number, self.handle)
                       for number in STOP_SIGNALS + RELOAD_SIGNALS
                       if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}

    def drain(self):
        """What came was seen; a wake that stays readable would keep us from sleeping."""
        try:
            os.read(self.wake, 4096)
        except BlockingIOError:
            pass

    def handle(self, number, frame):
        if number in RELOAD_SIGNALS and not (number == signal.SIGHUP and is_hung_up()):
            self.asked = True
            return
        if number == signal.SIGCHLD:            # a container's first process gets others', too
            ended = [pid for pid in self.children if os.waitpid(pid, os.WNOHANG)[0]]
            self.children = [pid for pid in self.children if pid not in ended]
            if not ended:
                return
        self.came = self.came or number

    def sleep(self, seconds):
        """-> whether a signal ended it."""
        came = bool(select.select((self.wake,), (), (), seconds)[0])
        self.drain()
        return came

    def restore(self):
        signal.set_wakeup_fd(-1)
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Clock:
    """The time of day, by which all is due; the monotonic one serves to see its steps.

    offset      of the one from the other
    """

    def __init__(self):
        self.offset = time.time() - time.monotonic()

    def step(self, now) -> float:
        """Seconds by which somebody has set it since the last call; 0: it was only slewed."""
        offset = now - time.monotonic()
        step, self.offset = offset - self.offset, offset
        return step if abs(step) >= STEP_S else 0.0


def serve(link, stack, stop, observers, timers=(), reload=None):
    """Answer frames until told to stop; one bad frame never ends the program.

    observers   [Observer]
    timers      what is done by time beside the stack's connections
    reload      reload(now), when somebody asks for it
    """
    receive = link.receive
    link.poll.register(stop.wake, select.POLLIN)
    watching = [each for each in observers if each.on_frames]
    listening = [each for each in observers if each.on_events]
    alone, clock = [stack], Clock()
    if listening:
        stack.host.events = []
    while not stop.came:
        frames, trusted = receive()
        now = time.time()
        step = clock.step(now)
        if step:
            for each in [stack] + list(observers):
                each.shift(step)
        send_due(link, stack, alone, watching, now)
        if frames:
            answers = answer_round(stack, frames, trusted, watching)
            link.send(answers)
            stack.received += len(frames)
            stack.sent += len(answers)
        if listening:
            hand_events(stack, listening, now)
        send_due(link, stack, timers, watching, now)        # behind the answers, which are urgent
        flush_due(observers, now)
        if stop.asked:
            stop.asked = False
            for each in observers:
                each.reopen()
            reload(now)
        if not frames:
            rest(link, stop, alone + list(timers), observers, now)


def send_due(link, stack, timers, watching, now):
    """Send, count and show what is due without a frame that asks for it."""
    for each in timers:
        try:
            frames = each.tick(now)
        except Exception as error:              # our bug
            frames = stack.fault(error, b'')
        if frames:
            send_unasked(link, stack, watching, now, frames)


def end_connections(link, stack, stop, observers):
    """Each client hears that it is over: those of a second, then the next, for FAREWELL_S.

    Another signal cuts it short.
    """
    until = time.monotonic() + FAREWELL_S
    watching = [each for each in observers if each.on_frames]
    stop.drain()
    for frames in stack.end_all():
        send_unasked(link, stack, watching, time.time(), frames)
        link.settle()
        if time.monotonic() >= until or (stack.connections.table and stop.sleep(1)):
            break


def send_unasked(link, stack, watching, now, frames):
    """Frames that no frame has caused."""
    link.send(frames)
    stack.unasked += len(frames)
    for each in watching:
        each.unasked(now, frames)


def hand_events(stack, listening, now):
    """What was noted in this turn, in order, to those who listen."""
    for event in stack.take_events():
        for each in listening:
            try:
                each.event(now, event)
            except Exception as error:          # our bug, or of an answerer's fields
                stack.fault(error, b'')


def flush_due(observers, now):
    """Have written what has waited long enough."""
    for each in observers:
        due = each.due
        if due is not None and due <= now:
            each.flush(now)


def answer_round(stack, frames, trusted, observers):
    """Frames -> answers; each observer hears of each frame.

    What goes in columns comes first, all else in order of arrival.
    """
    answers = []
    for part, quick in split_round(stack, frames, trusted):
        if quick is None:
            answers += (answer_watched if observers else answer_all)(stack, part, trusted,
                                                                     observers)
            continue
        for each in observers:
            tell_columns(stack, part, quick, each)
        if len(part) == len(frames):
            return quick
        answers += quick
    return answers


def tell_columns(stack, frames, quick, observer):
    """Pass what was answered, or dropped, to an observer, in columns."""
    if quick and stack.openings:
        observer.openings(stack.now, frames, quick, stack.openings)
        return
    for frame, answer in zip(frames, quick):
        observer.frame(stack.now, frame, None, (answer,))
    if quick:
        return
    for frame in frames:
        observer.frame(stack.now, frame, stack.fate, ())


def split_round(stack, frames, trusted):
    """Frames -> (part of them, its answers) for what goes in columns, then (the others, None)."""
    if len(frames) < OPENINGS_MIN:
        yield frames, None
        return
    quick = try_columns(stack, stack.answer_alike, frames, trusted)
    if quick is not None:                       # a flood: all are alike
        yield frames, quick
        return
    groups, others = group_alike(frames)
    while groups:
        places = groups.pop()
        part = [frames[place] for place in places]
        quick = None if len(part) == len(frames) else try_columns(
            stack, stack.answer_alike, part, trusted)
        half, is_udp = len(places) // 2, part[0][PROTO4_AT] == IP_UDP
        if quick is not None:
            yield part, quick
        elif half >= (DATAGRAMS_MIN if is_udp else OPENINGS_MIN):
            # something in it is special: in which half?
            groups += places[:half], places[half:]
        else:
            others += places
    if others:
        yield from split_segments(stack, [frames[place] for place in sorted(others)], trusted)


def split_segments(stack, frames, trusted):
    """The same of what has no columns yet: segments of connections, then all else."""
    flows = list(map(flow4, frames)) if has_segments(frames) else []
    groups, others = group_connected(frames, flows) if flows else ([], frames)
    for number, group in enumerate(groups, 1):
        part = [frames[place] for place in group]
        found = part and try_columns(stack, stack.answer_segments, part, trusted)
        done, answers = found or ((), ())
        if done:
            yield [part[each] for each in done], answers
        if len(done) == len(part):
            continue
        left = set(range(len(part))).difference(done)
        others += [group[each] for each in left]
        others += take_late(groups[number:], flows, {flows[group[each]] for each in left})
    if others:
        yield frames if not groups else [frames[place] for place in sorted(others)], None


def try_columns(stack, answer, frames, trusted):
    """What a method of the Stack answers; after a bug of ours None: it goes on one by one."""
    try:
        return answer(frames, trusted)
    except Exception as error:
        stack.fault(error, frames[0])
        return None


def answer_all(stack, frames, trusted, _):
    """Frames, one by one -> answers; map() keeps the loop in C, 50 ns a frame less."""
    answers = []
    while True:
        source = iter(frames)
        try:
            answers.extend(itertools.chain.from_iterable(
                map(stack.answer_frame, source, itertools.repeat(trusted))))
            return answers
        except Exception as error:              # our bug: keep the frame for the report, go on
            left = list(source)
            stack.fault(error, frames[-1 - len(left)])
            frames = left


def answer_watched(stack, frames, trusted, observers):
    """The same, and each observer hears of each frame."""
    answers = []
    for frame in frames:
        try:
            got = stack.answer_frame(frame, trusted)
            for each in observers:
                each.frame(stack.now, frame, None if got else stack.fate, got)
        except Exception as error:
            got = stack.fault(error, frame)
        answers += got
    return answers


def rest(link, stop, timers, observers, now):
    """Nothing to do: sleep until something comes or is due, look after the interface."""
    link.settle()
    stop.drain()
    if stop.came or stop.asked:
        return
    dues = [each.next_due() for each in timers] + [each.due for each in observers]
    if link.wait(left_ms(dues, now)) and link.trouble():
        for each in observers:
            each.flush(now)
        await_interface(link, stop, [each for each in timers if isinstance(each, Notify)])


def left_ms(dues, now) -> int:
    """When something is due, Unix times or None -> until the first, 0..POLL_MS milliseconds."""
    left = min((due - now for due in dues if due is not None), default=POLL_MS / 1000)
    return min(int(left * 1000) + 1, POLL_MS) if left > 0 else 0


def await_interface(link, stop, notifies=()):
    """Sleep while the interface is down; UserError when it is gone.

    Who deletes an interface sets it down first: that is no news until it is seen twice.

    notifies    [Notify]: who waits is alive, and systemd must not end it
    """
    looks = 0
    while not stop.came:
        trouble = link.trouble()
        if trouble == 'gone':
            raise UserError('%s is gone' % link.name)
        if not trouble:
            break
        looks += 1
        if looks == 2 and link.herald:
            say('%s is down: waiting for it' % link.name)
        for each in notifies:
            each.tick(time.time())
        stop.sleep(DOWN_POLL_S)
    if looks > 1 and link.herald and not stop.came:
        say('%s is up again' % link.name)


# ---- memory ----

# What the interpreter runs in a second life: the descriptor has the code of this file.
SECOND_LIFE = ("import marshal, sys; file = open(%d, 'rb'); "
               "code, sys.path[:], sys.argv[:] = marshal.load(file); file.close(); exec(code)")


def begin_again(code):
    """The code of this script -> its second life, without the syntax tree; or nothing happens.

    CPython keeps the tree of a script for as long as it runs, 45 MB; of code that is loaded there
    is none.  Process, arguments and options of the interpreter stay the same.
    """
    names = globals()
    if ('__file__' not in names or names.get('__spec__', code)      # this is it; or no script
            or type(names.get('__loader__')).__name__ == 'SourcelessFileLoader'     # compiled
            or sys.implementation.name != 'cpython'
            or not hasattr(os, 'memfd_create')):                    # before Python 3.8
        return
    import marshal
    words = read_command()
    at = len(words) - len(sys.argv)
    if words[at:] != list(map(os.fsencode, sys.argv)) or not all(
            word.startswith(b'-') for word in words[1:at]):         # by a debugger, a profiler
        return
    try:
        with open(os.memfd_create('masscanned', 0), 'wb') as file:      # which is inherited
            marshal.dump((code, sys.path, sys.argv), file)
            file.seek(0)
            os.execv(sys.executable or '',
                     words[:at] + [b'-c', os.fsencode(SECOND_LIFE % file.fileno())] + words[at:])
    except OSError:
        pass                                    # no memory, no executable: then with the tree


def read_command() -> 'list[bytes]':
    """The words by which this process was started; none: nobody knows."""
    try:
        with open('/proc/self/cmdline', 'rb') as file:
            return file.read().split(b'\0')[:-1]
    except OSError:
        return []


def trim_memory():
    """Give back what compiling this file took: 20 MB, where the C library can (glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass                                    # another one: it stays


# ---- workers ----

# What the workers have in common: the options, the lock, what opens files for each, a file for
# lists, the Board or None.
Plan = collections.namedtuple('Plan', 'args lock openers shared board')


def work(link, stack, stop, plan, number=0) -> 'collections.Counter':
    """One worker's life -> its counters; number: 0 is the first."""
    files = plan.openers[number]
    lists = Lists(plan.args, files, plan.shared)
    observers, timers = make_observers(plan, files, link, stack, number), attend(link, stack)
    if not number and os.environ.get('NOTIFY_SOCKET'):
        timers.append(Notify(os.environ))

    def reload(now):
        found = lists.find(stack.lists) if number else lists.read_again(stack.lists)
        if found != stack.lists:
            stack.set_addresses(*found, stack.place)
            timers[0].come_up(now)
        for pid in stop.children:
            os.kill(pid, signal.SIGUSR1)
    try:
        serve(link, stack, stop, observers, timers, reload)
        end_connections(link, stack, stop, observers)
        hand_events(stack, [each for each in observers if each.on_events], time.time())
    finally:
        for each in observers:
            each.close(time.time())
    return count_up(link, stack, observers)


def make_observers(plan, files, link, stack, number=0) -> 'list[Observer]':
    """Who is shown what happens, as the options say; number: of the worker, 0 is the first."""
    args, observers = plan.args, []
    stack.host.secretive = args.no_secrets
    if not args.quiet:
        journal = Journal(1, lock=plan.lock)
        if args.output is not None:
            journal = Journal(args.fds[args.output], args.output, 'packet log', plan.lock, files,
                              args.rotate and args.rotate[0])
        observers.append(PacketLog(journal, FORMATS[args.format](), time.time()))
        if link.herald:
            observers[0].begin()
    if args.events is not None:
        observers.append(make_event_log(plan, files, link, stack, number))
    if args.pcap is not None:
        observers.append(make_capture(plan, files, link, stack))
    if args.metrics is not None:
        observers.append(MetricsFile(args.metrics, files, plan.board, number,
                                 lambda: count_all(link, stack, observers), time.time()))
    if args.verbose:
        observers.append(Teller())
    if args.verbose > 1:
        observers.append(Watch(args.verbose))
    return observers


def make_event_log(plan, files, link, stack, number) -> EventLog:
    """--events; number: of the worker."""
    args = plan.args
    journal = Journal(1, 'standard output', 'event log', plan.lock, place=1)
    if args.events != '-':
        journal = Journal(args.fds[args.events], args.events, 'event log', plan.lock, files,
                          (args.rotate or EVENTS_ROTATE)[0], 1)
    share = max(args.events_budget // args.workers, 1)
    log = EventLog(journal, stack, link.name, args.name or socket.gethostname(), time.time(),
                   args.encode, number if args.workers > 1 else None, share,
                   lambda: count_frames(link, stack, [log]))
    stack.host.keep = args.payload
    return log


def make_capture(plan, files, link, stack) -> Capture:
    """--pcap."""
    args = plan.args
    journal = BlockJournal(
        args.fds[args.pcap], args.pcap, 'capture',
        capture_head(link.name, args.name or socket.gethostname(), args.snaplen),
        lock=plan.lock, files=files, limit=(args.rotate or CAPTURE_ROTATE)[0], place=2)
    tls = getattr(stack.host, 'tls', None)
    capture = Capture(journal, stack, time.time(), args.snaplen,
                      open_keys(tls.context if tls else None),
                      lambda: count_frames(link, stack, [capture]))
    return capture


def count_up(link, stack, observers) -> 'collections.Counter':
    """What a worker has seen, by name; it says which bugs there were."""
    for error, frame in stack.faults:
        say('fault: %r at frame %s' % (error, frame[:256].hex()))
    return count_frames(link, stack, observers)


def count_frames(link, stack, observers) -> 'collections.Counter':
    """The same, without a word."""
    counts = collections.Counter(stack.counts)
    counts.update({'frames': stack.received, 'answers': stack.sent, 'unasked': stack.unasked,
                   'lost': link.lost(), 'evicted': stack.connections.evicted})
    for each in observers:
        counts.update(each.counters())
    counts.update(stack.host.tls.counts if stack.host.tls else ())
    counts.update({'unsent ' + reason: count for reason, count in link.unsent.items()})
    counts.update({SPOKEN + name: count for name, count in stack.spoken.items()})
    for each in stack.host.shared.values():
        counts.update(each.counts)
    return counts


def count_all(link, stack, observers) -> 'collections.Counter':
    """The same, with what there is just now."""
    counts = count_frames(link, stack, observers)
    counts.update(connections=len(stack.connections.table), resident=resident_kb() << 10)
    return counts


def work_together(links, stack, stop, plan) -> 'collections.Counter':
    """A process for each link -> the counters of all; the first link's is this one."""
    pipes = []
    for number, link in enumerate(links[1:], 1):
        pipe, end = os.pipe2(os.O_CLOEXEC)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        pid = os.fork()
        if not pid:                             # which unblocks them when it can hear them
            be_child(link, stack, plan, number, end)
        stop.children.append(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        os.close(end)
        pipes.append(pipe)
    try:
        counts = work(links[0], stack, stop, plan)
        if stop.came == signal.SIGCHLD:
            raise UserError('%s is gone' % links[0].name if links[0].trouble() == 'gone' else
                            'a worker has ended by itself')
    finally:
        children, stop.children = stop.children, []
        told = end_children(children, pipes)
    add_counts(counts, ''.join(told))
    if plan.board:
        replace_metrics(plan.openers[0], plan.args.metrics, plan.board)
    return counts


def end_children(children, pipes) -> 'list[str]':
    """End the other workers -> what they said at last; who was stopped is woken, then killed."""
    for pid in children:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
    until = time.monotonic() + END_S
    told = [read_until(pipe, until) for pipe in pipes]
    for pid in children:
        if time.monotonic() >= until:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return told


def read_until(pipe, until) -> str:
    """What comes from a pipe to its end, or to a time of the monotonic clock."""
    data, more = b'', b' '
    while more and select.select((pipe,), (), (), max(until - time.monotonic(), 0))[0]:
        more = os.read(pipe, 1 << 16)
        data += more
    os.close(pipe)
    return data.decode()


def be_child(link, stack, plan, number, end):
    """A worker's process, from its birth to its exit."""
    status = 1
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        link.herald, stop = False, Stop()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        counts = work(link, stack, stop, plan, number)
        os.write(end, pack_counts(counts))
        status = 0
    except UserError:                   # the parent says it
        pass
    finally:
        os._exit(status)


def open_shared():
    """A file for the workers only: to lock while they write the log, to leave lists in."""
    import tempfile                     # late: 7 ms of every start
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise UserError('--workers: no temporary file: %s' % why(error)) from None


# ==== 7 Command line ==================================================================

EXAMPLES = '''\
examples:
  sudo python3 masscanned.py --tap 10.11.12.0/24        then: curl 10.11.12.13
  sudo python3 masscanned.py --tap 10.11.12.0/24 --tap fd00:11::/64
  sudo python3 masscanned.py -i eth1 --self-ip-list 192.0.2.0/28,2001:db8::/64
  sudo python3 masscanned.py -i eth1 -f own.txt --remote-ip-deny-file friends.txt > log.tsv
  sudo python3 masscanned.py -i eth1 -f own.txt -q --workers auto --user sensor
  python3 masscanned.py --protocols
'''
SSH_SHARE = 0.2         # of a core, for what strangers have computed


class Parser(argparse.ArgumentParser):
    """One line for a mistake."""

    def error(self, message):
        say('%s (see -h)' % message)
        sys.exit(2)

    def _print_message(self, message, file=None):
        print_text(message)

    def _get_option_tuples(self, option_string):
        """No abbreviations; allow_abbrev=False took -vv away as well before 3.8."""
        if option_string.startswith('--'):
            return []
        return super()._get_option_tuples(option_string)


class Once(argparse.Action):
    """An option that may be given once."""

    def __call__(self, parser, namespace, value, option_string=None):
        given = namespace.__dict__.setdefault('given', set())
        if self.dest in given:
            parser.error('%s: given more than once' % option_string)
        given.add(self.dest)
        setattr(namespace, self.dest, value)


def make_parser() -> argparse.ArgumentParser:
    """The options, in the groups that -h shows."""
    parser = Parser(
        prog='masscanned.py', usage='masscanned.py (--iface NAME | --tap CIDR) [options]',
        description='Answer ARP, ICMP, TCP and UDP on every port, in userland.',
        epilog=EXAMPLES, add_help=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=32, width=99))
    group = parser.add_argument_group('where').add_argument
    group('-i', '--iface', metavar='NAME', action=Once, help='interface to answer on')
    group('--tap', metavar='CIDR', action='append', default=[], type=tap_network,
          help='make a TAP device instead: the first address is the host, all others answer')
    group('-m', '-a', '--mac-addr', metavar='MAC', action=Once, type=mac_argument,
          help="our MAC (default: the interface's)")
    group = parser.add_argument_group(
        'addresses', 'An address, CIDR or a-b each; files: one a line, # comments.').add_argument
    group('-f', '--self-ip-file', metavar='FILE', action=Once, help='answer for these')
    group('--self-ip-list', metavar='LIST', action=Once,
          help='the same, separated by commas (default: every address)')
    group('--remote-ip-deny-file', metavar='FILE', action=Once, help='never answer these')
    group('--remote-ip-deny-list', metavar='LIST', action=Once, help='the same')
    group('--no-announce', action='store_true',
          help='do not try out and announce own addresses at the start and after link-up')
    group = parser.add_argument_group('appearance').add_argument
    group('--persona', metavar='NAME', action=Once,
          help='who we look like on the wire and by name: %s, or a file that says so '
               '(default: linux)' % ', '.join(sorted(PERSONAS)))
    group('--ports', metavar='SPEC', action=Once, type=ports_argument, default={},
          help='open ports, as in 22,80,8000-8100 or T:22,80,U:53, or persona for those that it '
               'has; the others refuse, where nobody else has the address (default: all)')
    group('--closed', choices=('rst', 'drop'), action=Once, default='rst',
          help='what the others do: RST and ICMP port unreachable, or nothing (default: rst)')
    group = parser.add_argument_group('protocols').add_argument
    group('--only', metavar='NAME,...', action=Once, help='these application protocols only')
    group('--no-protocol', metavar='NAME', action='append', default=[],
          help='without this one; may be repeated')
    group('--with', metavar='NAME,...', action=Once,
          help='these too, which are off because they answer more than %d times as much as is '
               'asked over UDP; --protocols marks them' % AMPLIFY_MAX)
    group('--load', metavar='FILE', action='append', default=[],
          help='a Python file that registers protocols of your own; may be repeated')
    group('--policy', choices=('any', 'strict'), action=Once, default='any',
          help='any: every port answers everything; strict: a port that a protocol owns speaks '
               'only that (default: any)')
    group('--tls-max', metavar='N', action=Once, type=positive, default=SESSIONS_MAX,
          help='conversations inside of TLS at once, of one /24 or /48 %d; beyond, the longest '
               'idle one ends (default: %d)' % (SESSIONS_CROWD_MAX, SESSIONS_MAX))
    group('--tls-budget', metavar='N', action=Once, type=positive, default=TLS_RATE,
          help='TLS handshakes a second (default: %d)' % TLS_RATE)
    group('--state-dir', metavar='DIR', action=Once,
          help='keep our keys and certificates there (default: new ones at each start)')
    group('--greet', metavar='MS', action=Once, type=greet_argument, default=GREET_S,
          help='where we speak first, do so when the client has been silent for so long, or off '
               '(default: %d)' % (GREET_S * 1000))
    group('--http', choices=('pages', '401'), action=Once, default='pages',
          help='what a request over HTTP is answered with: pages of ours, or 401 whatever it asks '
               'for (default: pages)')
    group('--like-original', action='store_true',
          help='what the original answers where its tests look; as --greet off --http 401 '
               '--policy any --persona plain')
    group('--protocols', metavar='NAME', nargs='?', const='',
          help='list them, or describe the one of this name, and exit')
    group('--udp-budget', metavar='BURST,RATE[,GLOBAL]', action=Once, type=budget_argument,
          default=(64.0, 10.0, 20000.0),
          help='UDP answers: at once and a second to one /24 or /48, a second to all; or off '
               '(default: 64,10,20000)')
    group('--ssh-budget', metavar='SHARE', action=Once, type=share_argument, default=SSH_SHARE,
          help='CPU for key exchanges of SSH, of one core; the rest ends after KEXINIT '
               '(default: %s)' % SSH_SHARE)
    group('--no-checksum', action='store_true', help='do not verify checksums')
    group = parser.add_argument_group('output').add_argument
    group('-q', '--quiet', action='store_true', help='no packet log')
    group('-o', '--output', metavar='FILE', action=Once,
          help='the packet log goes there, behind what there is (default: standard output)')
    group('--rotate', metavar='SIZE[,COUNT]', action=Once, type=rotate_argument,
          help='put FILE aside as FILE.1 when it has so many octets (K, M, G), and keep COUNT '
               '(%d) of them' % KEPT_FILES)
    group('--pcap', metavar='FILE', action=Once,
          help='all frames, as pcapng: each has a comment why it was answered or not, what is '
               'inside of TLS can be read; a file that is there is put aside')
    group('--snaplen', metavar='N', action=Once, type=snaplen_argument, default=SNAPLEN,
          help='octets of each frame that are kept there (default: %d)' % SNAPLEN)
    group('--events', metavar='FILE', action=Once,
          help='what is said, by whom, and who only knocks, as JSON in the shape of EVE, one '
               'object a line; - is standard output')
    group('--events-budget', metavar='N', action=Once, type=positive, default=EVENTS_BUDGET,
          help='lines of it a second, the rest is counted (default: %d)' % EVENTS_BUDGET)
    group('--payload', metavar='N', action=Once, type=payload_argument, default=PAYLOAD,
          help='octets of what each client sends that stand there (default: %d)' % PAYLOAD)
    group('--no-secrets', action='store_true',
          help='a SHA-256 in place of passwords and hashes, there and for -v')
    group('--name', metavar='NAME', action=Once,
          help="of this sensor, there (default: the host's)")
    group('--metrics', metavar='FILE', action=Once,
          help="counters for the textfile collector of Prometheus's node_exporter, as *.prom; "
               'replaced every %d s' % METRICS_S)
    group('--format', choices=sorted(FORMATS), action=Once, default='console',
          help='of the packet log (default: console)')
    group('-v', dest='verbose', action='count', default=0,
          help='print each answer of a protocol on standard error; -vv: each frame not answered; '
               '-vvv: each frame')
    group = parser.add_argument_group('report').add_argument
    group('--report', metavar='FILE', nargs='+',
          help='read files of --events, also .gz, - is standard input; print a summary and exit; '
               'with -o FILE write a page of HTML as well')
    group('--csv', metavar='DIR', action=Once, help='write its tables there')
    group('--country-db', metavar=('BLOCKS', 'LOCATIONS'), nargs='+', action=Once,
          help="with the countries of the sources: both CSV files of GeoLite2, or one file of "
               "another maker, as compile_targets.py reads them")
    group('--as-db', metavar='FILE', action='append', default=[],
          help='and with their AS; may be repeated')
    group = parser.add_argument_group('process').add_argument
    group('--workers', metavar='N', action=Once, type=workers_argument, default=1,
          help='processes that share the interface, or auto (default: 1)')
    group('-d', dest='background', action='store_true',
          help='go to the background once all is open; with -o or -q')
    group('--check', action='store_true', help='read options, lists and files, and exit')
    group('--user', metavar='NAME', action=Once,
          help='become this user once all is open (default: nobody, when started as root)')
    group('--max-connections', metavar='N', action=Once, type=positive, default=CONNECTIONS_MAX,
          help='TCP connections remembered (default: %d)' % CONNECTIONS_MAX)
    group('--idle-timeout', metavar='S', action=Once, type=positive, default=IDLE_S,
          help='forget a TCP connection after so long (default: %d)' % IDLE_S)
    group('-h', '--help', action='help', help='show this')
    group('-V', '--version', action='version', version='masscanned %s' % __version__)
    return parser


def positive(text):
    """argparse type: a number of 1 or more."""
    if not re.fullmatch('[0-9]{1,9}', text) or not int(text):
        raise argparse.ArgumentTypeError('%r: not a number from 1 on' % text)
    return int(text)


def workers_argument(text):
    """argparse type: a number, or auto."""
    if text == 'auto':
        return processors()
    if positive(text) > WORKERS_MAX:
        raise argparse.ArgumentTypeError('%r: at most %d' % (text, WORKERS_MAX))
    return int(text)


def mac_argument(text):
    """argparse type: a MAC."""
    try:
        return parse_mac(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def tap_network(text):
    """argparse type: a network with room for the host and one more."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError('%r: not a network, as in 10.11.12.0/24'
                                         % text) from None
    if network.num_addresses < 4 or network.is_multicast or network.is_loopback:
        raise argparse.ArgumentTypeError('%r: no room for two hosts, or not for hosts at all'
                                         % text)
    return network


def budget_argument(text):
    """argparse type: BURST,RATE[,GLOBAL] -> numbers; off -> None."""
    if text == 'off':
        return None
    if not re.fullmatch(r'[0-9]{1,9}(\.[0-9]{1,9})?(,[0-9]{1,9}(\.[0-9]{1,9})?){1,2}', text):
        raise argparse.ArgumentTypeError('%r: not BURST,RATE, BURST,RATE,GLOBAL or off' % text)
    numbers = [float(each) for each in text.split(',')]
    return tuple(numbers if len(numbers) == 3 else numbers + [20000.0])


def ports_argument(text):
    """argparse type: what --ports names -> {transport: open ones}, or persona."""
    try:
        return text if text == 'persona' else key_ports(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError('%r: not persona, nor %s' % (text, error)) from None


def share_argument(text):
    """argparse type: a share of one core, 0 to 1."""
    if not re.fullmatch(r'[01]|[01]?\.[0-9]{1,6}', text) or float(text) > 1:
        raise argparse.ArgumentTypeError('%r: not a share of one core, as in 0.2' % text)
    return float(text)


def rotate_argument(text):
    """argparse type: SIZE[,COUNT] -> (octets, how many files stay)."""
    found = re.fullmatch('([0-9]{1,12})([KMG]?)(,[0-9]{1,4})?', text)
    size = int(found.group(1)) << ' KMG'.index(found.group(2) or ' ') * 10 if found else 0
    count = int(found.group(3)[1:]) if found and found.group(3) else KEPT_FILES
    if not size or not count:
        raise argparse.ArgumentTypeError('%r: not SIZE or SIZE,COUNT, as in 100M,20' % text)
    return size, count


def snaplen_argument(text):
    """argparse type: 14..65536 octets."""
    if not re.fullmatch('[0-9]{1,5}', text) or not ETHER.size <= int(text) <= SNAPLEN:
        raise argparse.ArgumentTypeError('%r: not a number of octets from %d to %d'
                                         % (text, ETHER.size, SNAPLEN))
    return int(text)


def payload_argument(text):
    """argparse type: 0..65536 octets."""
    if not re.fullmatch('[0-9]{1,5}', text) or int(text) > KEPT_MAX:
        raise argparse.ArgumentTypeError('%r: not a number of octets up to %d' % (text, KEPT_MAX))
    return int(text)


def greet_argument(text):
    """argparse type: milliseconds -> seconds; off -> None."""
    if text == 'off':
        return None
    if not re.fullmatch('[0-9]{1,5}', text):
        raise argparse.ArgumentTypeError('%r: not milliseconds (0 to 99999), or off' % text)
    return int(text) / 1000


def share_budget(burst, rate, total, workers):
    """--udp-budget -> a worker's part of it: not less than one answer, if there is any."""
    return max(burst / workers, min(burst, 1)), rate / workers, total / workers


def check_options(parser, args):
    """What argparse cannot say."""
    if args.csv is not None and not args.report:
        parser.error('--csv is for --report')
    if (args.country_db or args.as_db) and not args.report:
        parser.error('--country-db and --as-db are for --report')
    if len(args.country_db or ()) > 2:
        parser.error('--country-db %s: two files at most' % ' '.join(args.country_db))
    if args.report and (args.iface or args.tap):
        parser.error('--report and %s: one of them' % ('--iface' if args.iface else '--tap'))
    if args.protocols is not None or args.report:
        return
    args.tap = list(dict.fromkeys(args.tap))
    if bool(args.iface) == bool(args.tap):
        parser.error('--iface NAME or --tap CIDR is needed' if not args.iface else
                     '--iface and --tap: one of them')
    if args.tap and args.workers > 1:
        parser.error('--tap has one worker only')
    if args.quiet and args.output is not None:
        parser.error('-q and -o: one of them')
    if args.background and not (args.quiet or args.output is not None):
        parser.error('-d: -o FILE or -q is needed')
    if args.rotate and set(named_outs(args)) <= {args.metrics}:
        parser.error('--rotate is for the files of -o, --events and --pcap')
    check_outs(parser, args)
    if args.only is not None and args.no_protocol:
        parser.error('--only and --no-protocol: one of them')
    if args.only is not None and getattr(args, 'with') is not None:
        parser.error('--only and --with: one of them')
    if 'closed' in getattr(args, 'given', set()) and not args.ports:
        parser.error('--closed is for --ports')
    if args.like_original and {'greet', 'http', 'policy', 'persona'} & getattr(
            args, 'given', set()):
        parser.error('--like-original has --greet off, --http 401, --policy any and '
                     '--persona plain already')


def check_outs(parser, args):
    """Options about what is written that do not go together."""
    if args.events == '-' and not (args.quiet or args.output is not None):
        parser.error('--events -: -o FILE or -q is needed, the packet log is on standard output')
    if args.events == '-' and args.background:
        parser.error('--events - and -d: one of them')
    for option in ('events_budget', 'payload', 'name'):
        if option in getattr(args, 'given', ()) and args.events is None:
            parser.error('--%s is for --events' % option.replace('_', '-'))
    if 'snaplen' in getattr(args, 'given', ()) and args.pcap is None:
        parser.error('--snaplen is for --pcap')
    outs = [os.path.abspath(path) for path in named_outs(args)]
    if len(set(outs)) < len(outs):
        parser.error('two of these cannot share a file: %s'
                     % ', '.join(map(repr, named_outs(args))))


def named_outs(args) -> 'list[str]':
    """The files that are written."""
    paths = [args.output, args.pcap, args.metrics]
    paths += [] if args.events == '-' else [args.events]
    return [path for path in paths if path is not None]


def choose_protocols(only, without, more=None):
    """--only, --no-protocol, --with -> the Protocols that are switched on.

    Those that amplify speak TCP only, if at all, unless they are named.
    """
    chosen = [name.strip() for name in only.split(',')] if only is not None else list(without)
    wanted = [name.strip() for name in more.split(',')] if more is not None else []
    for name in chosen + wanted:
        if name not in PROTOCOLS:
            raise UserError('%r: no such protocol; there are %s'
                            % (name, ', '.join(sorted(PROTOCOLS))))
    if only is not None:
        return [each for name, each in PROTOCOLS.items() if name in chosen]
    return [each if name in wanted or not is_amplifier(each) else each._replace(over=(TCP,))
            for name, each in PROTOCOLS.items() if name not in chosen
            if TCP in each.over or name in wanted or not is_amplifier(each)]


def is_amplifier(each) -> bool:
    """Whether a Protocol's answers over UDP may be so much longer that --with has to name it."""
    return UDP in each.over and each.most > AMPLIFY_MAX


SAMPLES_MAX = 8                 # of what a protocol's conversations begin with


def protocols_text() -> str:
    """--protocols: what is talked, from the registry."""
    text = ''
    titles = [('PROTOCOL', 'OVER', 'PORT', 'ANSWER', 'REFERENCE')]
    rows = {name: (name, ' '.join({TCP: 'tcp', UDP: 'udp'}[over] for over in each.over)
                   + (' *' if is_amplifier(each) else ''),
                   ' '.join(map(str, each.ports)), each.answer.__doc__.partition('\n')[0],
                   each.ref)
            for name, each in PROTOCOLS.items()}
    widths = [max(len(row[column]) for row in [*rows.values(), *titles]) + 2
              for column in range(4)] + [0]
    for title, names in FAMILIES:
        text += title + '\n' if names else ''
        for row in [rows[name] for name in sorted(names)]:
            text += '  ' + ''.join(map(str.ljust, row, widths)) + '\n'
    text += '* over UDP with --only NAME or --with NAME: up to more than %d times as much is ' \
            'answered as is asked\n' % AMPLIFY_MAX
    return '  ' + ''.join(map(str.ljust, titles[0], widths)) + '\n' + text


def protocol_text(name: str) -> str:
    """--protocols NAME: one entry whole, with samples of what its conversations begin with."""
    if name not in PROTOCOLS:
        raise UserError('--protocols: %r is the name of no protocol; --protocols alone lists them'
                        % name)
    each = PROTOCOLS[name]
    words = ' '.join(word.decode() for word in each.words + each.shared)
    begins = [sig if isinstance(sig, str) else ascii(sig)[1:] for sig in each.sigs[:SAMPLES_MAX]]
    if len(each.sigs) > SAMPLES_MAX:
        begins.append('and %d more' % (len(each.sigs) - SAMPLES_MAX))
    rows = [('family', [title for title, names in FAMILIES if name in names]),
            ('over', [' '.join({TCP: 'tcp', UDP: 'udp'}[over] for over in each.over)]),
            ('ports', [' '.join(map(str, each.ports))]), ('begins with', begins),
            ('words', [words] if words else []),
            ('speaks first', ['yes' if each.banner else 'no']), ('reference', [each.ref])]
    about = each.answer.__doc__.partition('\n')[0]
    return '%s: %s\n' % (name, about) + ''.join(
        '  %-13s %s\n' % (key, value) for key, values in rows for value in values)


def own_addresses(args, opener=None):
    """--tap and the self lists -> (Addresses of IPv4, of IPv6), None where there are none."""
    found = load_addresses(args.self_ip_file, args.self_ip_list, '--self-ip-list', opener)
    for network in args.tap:
        first, last = int(network[0]), int(network[-1])
        found.append((network.version, first + 2, last - (network.version == 4)))
    return by_family(found)


def by_family(found):
    """[(version, first, last)] -> (Addresses of IPv4, of IPv6), None where there are none."""
    families = [[(first, last) for version, first, last in found if version == family]
                for family in (4, 6)]
    return tuple(Addresses(ranges) if ranges else None for ranges in families)


def announce(link, own4, own6, args, place):
    """Say for whom we answer, and what may be wrong with it."""
    own = [each for each in (own4, own6) if each]
    what = ', '.join(addresses_text(first, last, family) for each, family in (
        (own4, ipaddress.IPv4Address), (own6, ipaddress.IPv6Address)) if each
        for first, last in each.ranges[:4])
    more = sum(len(each.ranges[4:]) for each in own)
    say('answering on %s (%s) for %s%s' % (
        link.name, mac_text(link.mac) if link.ethernet else 'no Ethernet',
        what or 'every address: no list is given, or it is empty',
        ' and %d ranges more' % more if more else ''))
    if link.loopback:
        say('%s is a loopback: its host answers there itself, and first; '
            'to try things out: --tap 10.11.12.0/24' % link.name)
    elif not own and link.ethernet:
        say('every ARP request and neighbour solicitation on this link is answered: '
            'other hosts may lose their addresses; --self-ip-list limits it')
    for network in args.tap:
        say('this host is %s; try: ping %s' % (network[1], network[2]))
    warn_of_addresses(link, own4, own6, args, place)


def warn_of_addresses(link, own4, own6, args, place):
    """Say which addresses of the list are better not there, and why."""
    broadcasts = [ipaddress.IPv4Address(each) for each in place.broadcasts]
    ends = [network[1] for network in args.tap]
    hosts = () if args.tap else place.hosts
    for addresses, words in (
            (hosts, "an address of this host: its own stack answers, too, and resets what it does "
             "not know; use an address of its own, or see README, 'Next to a live host'"),
            (ends, "this host's end of the TAP device: what it asks will not be answered; "
             'take it off the list'),
            (broadcasts, 'network or broadcast address of %s: not answered for' % link.name),
            (place.gateways, "a default router of this host: its neighbours may take us for it; "
             'take it off the list')):
        found = [str(each) for each in sorted(addresses, key=str)
                 if is_listed(each, own4 if each.version == 4 else own6)]
        if found:
            say('%s: %s' % (', '.join(found[:4]), words))


def is_listed(address, own) -> bool:
    """Whether an object of ipaddress stands in a list; None: there is no list."""
    return own is not None and int(address) in own.members


def addresses_text(first, last, family):
    """First and last number -> 'a', a CIDR or 'a-b'."""
    networks = list(itertools.islice(
        ipaddress.summarize_address_range(family(first), family(last)), 2))
    if first == last:
        return str(family(first))
    return str(networks[0]) if len(networks) == 1 else '%s-%s' % (family(first), family(last))


def main(argv=None, code=None) -> int:
    """Command line -> exit status: 0 ended by a signal, 1 error, 2 usage.

    code    of the script that we are, see begin_again(); None: we are a module
    """
    fill_standard_descriptors()
    parser = make_parser()
    try:
        args = parser.parse_args(argv)
        check_options(parser, args)
        if code and not (args.report or args.check or args.protocols is not None):
            begin_again(code)
        for path in args.load:
            load_protocols(path)
        if args.protocols is not None:
            print_text(protocol_text(args.protocols) if args.protocols else protocols_text())
            return 0
        return make_report(args) if args.report else run(args)
    except UserError as error:
        say(str(error))
        return 1


def make_files(args, user):
    """The files of the command line -> NamedFiles; user: whose rights we have later, or None."""
    lists = [each for each in (args.self_ip_file, args.remote_ip_deny_file) if each is not None]
    outs, owner = named_outs(args), None
    if user and os.getuid() == 0 and all(is_owned(path, user.pw_uid) for path in outs):
        owner = user
    return NamedFiles(outs, lists, args.rotate[1] if args.rotate else KEPT_FILES, owner)


def is_owned(path, uid) -> bool:
    """Whether the directory of a file belongs to a user."""
    try:
        return os.stat(os.path.dirname(path) or '.').st_uid == uid
    except OSError:
        return False


def open_files(args, files, user) -> list:
    """Open what is written, before any right is given up -> who opens files for each worker.

    args.fds    afterwards {path: descriptor}
    args.encode of make_encoder(): nobody may not read the library of root's own Python
    """
    args.fds = {}
    if args.events is not None:
        args.encode = make_encoder()
    for path in files.outs:
        try:
            if path == args.metrics:
                try_beside(files, path)
            else:
                args.fds[path] = (open_anew if path == args.pcap else NamedFiles.open)(files, path)
        except OSError as error:
            raise UserError('%s: %s' % (path, why(error))) from None
    names = files.outs + files.lists
    if user and user.pw_uid != os.getuid() and not all(is_owned(each, user.pw_uid)
                                                       for each in names):
        return fork_opener(files, args.workers)
    return [files] * args.workers


def try_beside(files, path):
    """A file that is replaced as a whole can be; OSError, UserError: it cannot."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError('--metrics %r: not a regular file, and it would be replaced' % path)
    os.close(files.begin(path))


def open_anew(files, path):
    """As files.open(), but what is there is put aside: a capture may have ended in a block."""
    try:
        found = os.stat(path)
    except OSError:
        return files.open(path)
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return files.open(path)
    return files.rotate(path, found.st_dev, found.st_ino)


def draw_from(secret, name):
    """A secret and what it is for -> random(n) that gives the same each time."""
    key = hashlib.blake2s(name, key=secret).digest()
    count = itertools.count()
    return lambda size: b''.join([
        hashlib.blake2s(b'%d' % next(count), key=key).digest()
        for _ in range(0, size, len(key))])[:size]


def make_host(args, protocols, persona, secret) -> Host:
    """Who we are, with keys and certificates."""
    host = Host(os.urandom, time.time(), protocols, args.policy == 'strict', args.like_original,
                args.http == '401')
    host.wear(persona, draw_from(secret, b'host'))
    names = {each.name for each in protocols}
    chains = make_chains(host, args.state_dir) if names & {'ssh', 'tls'} else {}
    if 'ssh' in names:                          # now, so that workers show the same keys
        host.shared['ssh'] = make_ssh(args, chains[RsaKey])
    if 'tls' in names:
        try:
            context = make_context(host, args.state_dir, chains)
        except ImportError as error:            # a Python without OpenSSL
            say('TLS: this Python has none: %s' % error)
            return host
        greets = args.greet is not None and not args.like_original
        host.tls = Tls(context, greets, max(args.tls_max // args.workers, 1),
                       max(args.tls_budget / args.workers, 1))
    return host


def make_ssh(args, text):
    """Options, RSA key in PEM -> SshHost; --state-dir keeps its other keys, too."""
    secret = keep_secret(args.state_dir, SSH_FILE, lambda: os.urandom(SSH_SECRET))
    try:
        rsa = RsaKey.parse(parse_pem(RsaKey.label, text))
        if len(secret) != SSH_SECRET:
            raise Malformed('octets')
    except Malformed:
        raise UserError('SSH: %s or %s in %s is not as it was kept there' % (
            KEY_FILES[0][1], SSH_FILE, args.state_dir)) from None
    return SshHost(lambda size: secret, args.ssh_budget / args.workers, rsa)


def run(args) -> int:
    """Look at what is asked for, then answer until a signal comes -> exit status."""
    protocols = choose_protocols(args.only, args.no_protocol, getattr(args, 'with'))
    user = find_user(args.user or 'nobody') if args.user or os.getuid() == 0 else None
    other = None if is_single_user() else user              # who owns the files afterwards
    files = make_files(args, other)
    own4, own6, deny4, deny6 = Lists(args, files).read()
    persona = load_persona(args.persona or ('plain' if args.like_original else 'linux'))
    if args.check:
        say('lists and files are as they must be')
        return 0
    openers = open_files(args, files, other)
    secret = keep_secret(args.state_dir, PERSONA_FILE, lambda: os.urandom(PERSONA_SECRET))
    secret = secret[:PERSONA_SECRET]
    stop = Stop()
    try:
        links = open_links(args, args.mac_addr)
        budget = args.udp_budget and Budget(*share_budget(*args.udp_budget, args.workers))
        lock = open_shared() if args.workers > 1 else None
        shared = open_shared() if args.workers > 1 else None
        place = look_around(links[0])
        stack = Stack(
            links[0].mac, own4, own6, deny4, deny6, links[0].mtu,
            make_host(args, protocols, persona, secret),
            budget or NoBudget(), not args.no_checksum,
            Connections(args.max_connections, args.idle_timeout),
            args.greet, Face(secret=secret, **persona.face), place,
            Budget(*REFUSALS), ports=persona.ports if args.ports == 'persona' else args.ports,
            silent=args.closed == 'drop')
        stack.claims = None if args.no_announce or not links[0].has_neighbours else Claims()
        announce(links[0], own4, own6, args, place)
        if user:
            drop_privileges(user)
        if args.background:
            go_background()
        trim_memory()
        board = None if args.metrics is None else Board(args.workers, time.time())
        plan = Plan(args, lock, openers, shared, board)
        say(summary_text(work_together(links, stack, stop, plan)))
    finally:
        stop.restore()
    return 0


# ==== 8 TLS ===========================================================================
#
# Keys and certificates are made here, as the standard library makes none.

# ---- curves ----

COMB_TEETH = 8
HAS_QUICK_INVERSE = sys.version_info >= (3, 8)


def invert(number: int, modulus: int) -> int:
    """-> its inverse, 0 of 0; the two have no common divisor.  pow() is quicker from 3.8 on."""
    if HAS_QUICK_INVERSE and number % modulus:
        return pow(number, -1, modulus)
    last, rest = modulus, number % modulus
    before, factor = 0, 1
    while rest:
        times = last // rest
        last, rest = rest, last - times * rest
        before, factor = factor, before - times * factor
    return before % modulus


def invert_all(numbers, modulus) -> 'list[int]':
    """Numbers -> their inverses modulo a prime, for the price of one and three products each."""
    products, product = [], 1
    for number in numbers:
        products.append(product)
        product = product * number % modulus
    inverse, found = invert(product, modulus), []
    for number, before in zip(reversed(numbers), reversed(products)):
        found.append(inverse * before % modulus)
        inverse = inverse * number % modulus
    return found[::-1]


class Comb:
    """Multiples of a point, whose multiples by 2**gap, 2**(2 * gap) ... and their sums are known.

    A comb of COMB_TEETH bits, `gap` apart, moves over the number, one doubling and one addition a
    place (Lim and Lee, CRYPTO '94).

    group   bits, neutral, double(*point), add(*point, known), know(points) -> known
    """

    def __init__(self, group, base):
        self.group, self.gap = group, -(-group.bits // COMB_TEETH)
        point, teeth, sums = base, [], [group.neutral]
        for _ in range(COMB_TEETH):
            teeth.append(point)
            for _ in range(self.gap):
                point = group.double(*point)
        for tooth in group.know(teeth):
            sums += [group.add(*each, tooth) for each in sums]
        self.sums = [None] + group.know(sums[1:])

    def times(self, number):
        """A number of at most `bits` bits -> so many times the point."""
        double, add = self.group.double, self.group.add
        digits = format(number, '0%db' % (COMB_TEETH * self.gap))
        rows = [digits[at:at + self.gap] for at in range(0, len(digits), self.gap)]
        total = self.group.neutral
        for column in zip(*rows):
            total = double(*total)
            index = int(''.join(column), 2)
            if index:
                total = add(*total, self.sums[index])
        return total


class Curve:
    """y**2 = x**3 - 3 * x + b modulo p (SEC 1 s2.2.1), a group as Comb needs it.

    A point (x, y, z) has the coordinates x / z**2 and y / z**3; z is 0 at infinity.  What is added
    is known by its coordinates.

    name, digest    of the curve, and of the hash that goes with it (RFC 5656 s6.2.1)
    comb            of the base point; None: not needed yet
    """
    neutral = 0, 1, 0

    def __init__(self, name, digest, bits, p, b, order, x, y):
        self.name, self.digest, self.bits = name, digest, bits
        self.p, self.b, self.order = p, b, order
        self.base, self.comb = (x, y, 1), None
        self.size = (bits + 7) // 8

    def double(self, x, y, z):
        p, square = self.p, y * y % self.p
        fourth = z * z % p
        slope = 3 * (x - fourth) * (x + fourth) % p
        cross = 4 * x * square % p
        new_x = (slope * slope - 2 * cross) % p
        return new_x, (slope * (cross - new_x) - 8 * square * square) % p, 2 * y * z % p

    def add(self, x, y, z, known):
        if not z:
            return known[0], known[1], 1
        p, square = self.p, z * z % self.p
        run = (known[0] * square - x) % p
        rise = (known[1] * (square * z % p) - y) % p
        if not run:
            return self.neutral if rise else self.double(x, y, z)
        twice = run * run % p
        cube = twice * run % p
        cross = x * twice % p
        new_x = (rise * rise - cube - 2 * cross) % p
        return new_x, (rise * (cross - new_x) - y * cube) % p, z * run % p

    def know(self, points):
        p, known = self.p, []
        for (x, y, _), inverse in zip(points, invert_all([each[2] for each in points], p)):
            square = inverse * inverse % p
            known.append((x * square % p, y * square * inverse % p))
        return known

    def times_base(self, number) -> 'tuple[int, int]':
        """So many times the base point -> its coordinates; its Comb takes 2 to 8 ms at first."""
        if not self.comb:
            self.comb = Comb(self, self.base)
        return self.know([self.comb.times(number)])[0]

    def times(self, number, known) -> 'tuple[int, int]':
        """So many times a point of the curve, 1 to order - 1 -> its coordinates."""
        points = [self.neutral, known + (1,)]
        for _ in range(14):
            points.append(self.add(*points[-1], known))
        multiples, total = [None] + self.know(points[1:]), self.neutral
        for digit in '%x' % number:
            for _ in range(4):
                total = self.double(*total)
            if digit != '0':
                total = self.add(*total, multiples[int(digit, 16)])
        return self.know([total])[0]

    def draw(self, random) -> int:
        """-> a secret number, 1 to order - 1 (FIPS 186-5 sA.2.1)."""
        return from_octets(random(self.size + 8), 'big') % (self.order - 1) + 1

    def pack(self, known) -> bytes:
        """SEC 1 s2.3.3, uncompressed."""
        return b'\4' + b''.join([each.to_bytes(self.size, 'big') for each in known])

    def parse(self, octets) -> 'tuple[int, int]':
        """Octets of a stranger -> the point; raises Malformed unless it is on the curve."""
        x = from_octets(octets[1:1 + self.size], 'big')
        y = from_octets(octets[1 + self.size:], 'big')
        if (len(octets) != 1 + 2 * self.size or octets[0] != 4 or max(x, y) >= self.p
                or (x * x * x - 3 * x + self.b - y * y) % self.p):
            raise Malformed('no point of the curve')
        return x, y


@functools.lru_cache(None)
def find_curve(name) -> Curve:
    """Name of a curve -> Curve; SP 800-186 s3.2.1: bits, p, b, order, coordinates of the base."""
    digest, bits, p, numbers = CURVES[name]
    return Curve(name, digest, bits, p, *[int(each, 16) for each in numbers.split()])


CURVES = {
    'nistp256': ('sha256', 256, (1 << 256) - (1 << 224) + (1 << 192) + (1 << 96) - 1, '''
        5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b
        ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551
        6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296
        4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5'''),
    'nistp384': ('sha384', 384, (1 << 384) - (1 << 128) - (1 << 96) + (1 << 32) - 1, '''
b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef
ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973
aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7
3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f
'''),
    'nistp521': ('sha512', 521, (1 << 521) - 1,
        '51953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109'
        'e156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00 '
        '1fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff'
        'a51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409 '
        'c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3d'
        'baa14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66 '
        '11839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e6'
        '62c97ee72995ef42640c550b9013fad0761353c7086a272c24088be94769fd16650'),
}


# ---- keys ----

RSA_BITS, RSA_EXPONENT = 2048, 65537
PRIME_ROUNDS = 5            # of Miller and Rabin: FIPS 186-5 table B.1, for 1,024 bits
SIEVE = 1 << 12             # odd numbers that are sieved at once
SIEVED = 1 << 13            # by the primes below this

DER_BITS, DER_OCTETS = 3, 4             # X.680 s8.4
DER_UTF8, DER_SEQUENCE, DER_SET, DER_UTC, DER_TIME = 12, 0x30, 0x31, 23, 24
DER_NULL = b'\5\0'
OID_RSA = bytes.fromhex('06092a864886f70d010101')           # RFC 8017 sC
OID_RSA_SHA256 = bytes.fromhex('06092a864886f70d01010b')
OID_EC = bytes.fromhex('06072a8648ce3d0201')                # RFC 5480 s2.1.1
OID_P256 = bytes.fromhex('06082a8648ce3d030107')
OID_ECDSA_SHA256 = bytes.fromhex('06082a8648ce3d040302')    # RFC 5758 s3.2
OID_NAME = bytes.fromhex('0603550403')                      # RFC 5280 sA.1
OID_ALTERNATIVE = bytes.fromhex('0603551d11')               # RFC 5280 s4.2.1.6
OID_CONSTRAINTS = bytes.fromhex('0603551d13')               # RFC 5280 s4.2.1.9
DIGEST_HEADS = {                                            # RFC 8017 s9.2, note 1
    'sha1': bytes.fromhex('3021300906052b0e03021a05000414'),
    'sha256': bytes.fromhex('3031300d060960864801650304020105000420'),
    'sha512': bytes.fromhex('3051300d060960864801650304020305000440')}


def find_prime(bits: int, random) -> int:
    """-> a random prime of so many bits, the two highest of them set; 0.15 s for 1,024."""
    while True:
        start = from_octets(random(bits // 8), 'big') | 3 << bits - 2 | 1
        alive = bytearray(b'\1') * SIEVE
        for prime in small_primes():
            first = -start * (prime + 1 >> 1) % prime       # it divides start + 2 * first
            alive[first::prime] = bytes(len(range(first, SIEVE, prime)))
        for place in range(SIEVE):
            number = start + 2 * place
            if alive[place] and number % RSA_EXPONENT != 1 and is_prime(number, random):
                return number


def small_primes() -> 'list[int]':
    """The odd ones below SIEVED."""
    alive = bytearray(b'\1') * SIEVED
    for number in range(3, int(SIEVED ** 0.5) + 1, 2):
        alive[number * number::number] = bytes(len(range(number * number, SIEVED, number)))
    return [number for number in range(3, SIEVED, 2) if alive[number]]


def is_prime(number: int, random) -> bool:
    """Whether an odd number, drawn at random, is prime (FIPS 186-5 sB.3.1)."""
    size = number.bit_length() // 8
    return not any(is_composite(number, from_octets(random(size), 'big') % (number - 3) + 2)
                   for _ in range(PRIME_ROUNDS))


def is_composite(number: int, base: int) -> bool:
    """Whether the base proves that an odd number is no prime."""
    twos = ((number - 1) & (1 - number)).bit_length() - 1
    power = pow(base, number >> twos, number)
    if power == 1:
        return False
    for _ in range(twos):
        if power == number - 1:
            return False
        power = power * power % number
    return True


class RsaKey:
    """An RSA key of RSA_BITS; making one takes 0.3 s.

    n, e, d, p, q   numbers, named as in RFC 8017 s3
    """
    algorithm = pack_der(DER_SEQUENCE, OID_RSA_SHA256, DER_NULL)    # of its signatures
    label = 'RSA PRIVATE KEY'

    def __init__(self, n, e, d, p, q):
        self.n, self.e = n, e
        self.p, self.q = p, q
        self.d = d

    @classmethod
    def make(cls, random):
        p = find_prime(RSA_BITS // 2, random)
        q = find_prime(RSA_BITS // 2, random)
        return cls(p * q, RSA_EXPONENT, invert(RSA_EXPONENT, (p - 1) * (q - 1)), p, q)

    @classmethod
    def parse(cls, data: bytes):
        """What private() gives -> the key; raises Malformed."""
        _, at, _ = parse_ber(data)
        numbers = []
        for _ in range(6):                      # the first is the version
            _, start, at = parse_ber(data, at)
            numbers.append(from_octets(data[start:at], 'big'))
        return cls(*numbers[1:])

    def private(self) -> bytes:
        """RSAPrivateKey (RFC 8017 sA.1.2)."""
        numbers = (0, self.n, self.e, self.d, self.p, self.q, self.d % (self.p - 1),
                   self.d % (self.q - 1), invert(self.q, self.p))
        return pack_der(DER_SEQUENCE, *map(pack_integer, numbers))

    def public(self) -> bytes:
        """SubjectPublicKeyInfo (RFC 3279 s2.3.1)."""
        key = pack_der(DER_SEQUENCE, pack_integer(self.n), pack_integer(self.e))
        return pack_der(DER_SEQUENCE, pack_der(DER_SEQUENCE, OID_RSA, DER_NULL),
                        pack_der(DER_BITS, b'\0', key))

    def sign(self, message: bytes, random=None, digest='sha256') -> bytes:
        """RSASSA-PKCS1-v1_5 (RFC 8017 s8.2.1) -> octets; 8 ms: by p and q, a quarter of by n."""
        size = (self.n.bit_length() + 7) // 8
        info = DIGEST_HEADS[digest] + hashlib.new(digest, message).digest()
        padded = b'\0\1' + b'\xff' * (size - 3 - len(info)) + b'\0' + info
        number = from_octets(padded, 'big')
        first = pow(number, self.d % (self.p - 1), self.p)
        second = pow(number, self.d % (self.q - 1), self.q)
        factor = (first - second) * invert(self.q, self.p) % self.p
        return (second + factor * self.q).to_bytes(size, 'big')


class EcKey:
    """A key on P-256.

    secret      1 to the curve's order - 1
    point       its public octets (SEC 1 s2.3.3, uncompressed)
    """
    algorithm = pack_der(DER_SEQUENCE, OID_ECDSA_SHA256)            # of its signatures
    label = 'EC PRIVATE KEY'

    def __init__(self, secret):
        self.secret = secret
        curve = find_curve('nistp256')
        self.point = curve.pack(curve.times_base(secret))

    @classmethod
    def make(cls, random):
        return cls(find_curve('nistp256').draw(random))

    @classmethod
    def parse(cls, data: bytes):
        """What private() gives -> the key; raises Malformed."""
        _, at, _ = parse_ber(data)
        _, _, at = parse_ber(data, at)
        _, start, end = parse_ber(data, at)
        return cls(from_octets(data[start:end], 'big'))

    def private(self) -> bytes:
        """ECPrivateKey (RFC 5915 s3)."""
        return pack_der(DER_SEQUENCE, pack_integer(1),
                        pack_der(DER_OCTETS, self.secret.to_bytes(32, 'big')),
                        pack_der(0xa0, OID_P256),
                        pack_der(0xa1, pack_der(DER_BITS, b'\0', self.point)))

    def public(self) -> bytes:
        """SubjectPublicKeyInfo (RFC 5480 s2)."""
        return pack_der(DER_SEQUENCE, pack_der(DER_SEQUENCE, OID_EC, OID_P256),
                        pack_der(DER_BITS, b'\0', self.point))

    def sign(self, message: bytes, random) -> bytes:
        """-> DER of the numbers of a signature."""
        return pack_der(DER_SEQUENCE, *map(pack_integer, self.sign_numbers(message, random)))

    def sign_numbers(self, message: bytes, random) -> 'tuple[int, int]':
        """ECDSA with SHA-256 (SEC 1 s4.1.3) -> r and s; 0.6 ms."""
        curve = find_curve('nistp256')
        digest = from_octets(hashlib.sha256(message).digest(), 'big')
        once = curve.draw(random)
        r = curve.times_base(once)[0] % curve.order
        return r, invert(once, curve.order) * (digest + r * self.secret) % curve.order


# ---- certificates ----

CERTIFICATE_DAYS = 3650
DAY_S = 86400


def pack_x509_time(second: float) -> bytes:
    """Unix time -> a Time of DER (RFC 5280 s4.1.2.5)."""
    moment = time.gmtime(second)
    text = time.strftime('%Y%m%d%H%M%SZ', moment).encode()
    if 1950 <= moment.tm_year < 2050:
        return pack_der(DER_UTC, text[2:])
    return pack_der(DER_TIME, text)


def pack_certificate(key, name: bytes, start: float, random) -> bytes:
    """A key and the name of a host -> a certificate (RFC 5280 s4.1) signed by itself, DER.

    start   Unix time of the day whose midnight it is good from
    """
    start -= start % DAY_S
    names = pack_der(DER_SEQUENCE, pack_der(DER_SET, pack_der(
        DER_SEQUENCE, OID_NAME, pack_der(DER_UTF8, name))))
    alternative = pack_der(DER_SEQUENCE, pack_der(0x82, name))      # dNSName
    extensions = pack_der(
        DER_SEQUENCE,
        pack_der(DER_SEQUENCE, OID_CONSTRAINTS, pack_der(DER_OCTETS, pack_der(DER_SEQUENCE))),
        pack_der(DER_SEQUENCE, OID_ALTERNATIVE, pack_der(DER_OCTETS, alternative)))
    body = pack_der(
        DER_SEQUENCE,
        pack_der(0xa0, pack_integer(2)),                            # version 3
        pack_integer(from_octets(random(16), 'big') | 1),           # serial number
        key.algorithm,
        names,                                                      # of its issuer
        pack_der(DER_SEQUENCE, pack_x509_time(start),
                 pack_x509_time(start + CERTIFICATE_DAYS * DAY_S)),
        names,
        key.public(),
        pack_der(0xa3, extensions))
    return pack_der(DER_SEQUENCE, body, key.algorithm,
                    pack_der(DER_BITS, b'\0', key.sign(body, random)))


def pack_pem(label: str, octets: bytes) -> bytes:
    """DER -> text (RFC 7468 s2)."""
    text = codecs.encode(octets, 'base64').replace(b'\n', b'')
    rows = [text[at:at + 64] for at in range(0, len(text), 64)]
    mark = label.encode()
    return b'\n'.join([b'-----BEGIN %s-----' % mark, *rows, b'-----END %s-----' % mark, b''])


def parse_pem(label: str, text: bytes) -> bytes:
    """The first of such texts -> DER; raises Malformed if there is none."""
    mark = re.escape(label.encode())
    found = re.search(b'-----BEGIN %s-----([A-Za-z0-9+/=\\s]+)-----END ' % mark, text)
    if not found:
        raise Malformed(label)
    try:
        return codecs.decode(found.group(1), 'base64')
    except ValueError:
        raise Malformed(label) from None


# ---- contexts ----

TLS_SUITES = 'ALL:@SECLEVEL=0'         # whatever a client can, it shall find here
TLS_INSIDE = ['http/1.1']               # what we talk of what has a name in ALPN
NO_RENEGOTIATION = 1 << 30              # ssl.OP_NO_RENEGOTIATION; 3.6 has no name for it
KEY_FILES = ((RsaKey, 'tls-rsa.pem'), (EcKey, 'tls-p256.pem'))


def make_chain(kind, host) -> bytes:
    """RsaKey or EcKey -> a new key and a certificate for it, PEM."""
    key = kind.make(host.random)
    octets = pack_certificate(key, host.host_name, host.boot, host.random)
    return pack_pem(kind.label, key.private()) + pack_pem('CERTIFICATE', octets)


def make_chains(host, directory) -> 'dict':
    """RsaKey and EcKey -> each its key and certificate, PEM; --state-dir keeps them."""
    return {kind: keep_secret(directory, name, lambda: make_chain(kind, host))
            for kind, name in KEY_FILES}


def make_context(host, directory, chains=None):
    """-> the SSLContext of a server that is content with any client.

    directory   --state-dir: its keys and certificates are taken, or kept there
    chains      of make_chains(), if they are made already
    raises      UserError if a file there is none of these
    """
    import ssl
    import warnings
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')         # TLS 1.0 is old: that is why we want it
        for what, step in (
                ('weak ciphers', lambda: context.set_ciphers(TLS_SUITES)),
                ('TLS 1.0', lambda: allow_old_versions(ssl, context)),
                ('ALPN', lambda: context.set_alpn_protocols(TLS_INSIDE))):
            try:
                step()
            except (ValueError, NotImplementedError, ssl.SSLError) as error:
                say('TLS: %s refuses %s: %s' % (ssl.OPENSSL_VERSION, what, error))
    chains = chains or make_chains(host, directory)
    for kind, name in KEY_FILES:
        try:
            load_chain(context, chains[kind])
        except (ValueError, ssl.SSLError) as error:
            raise UserError('TLS: %s refuses the certificate%s: %s' % (
                ssl.OPENSSL_VERSION, ' of ' + os.path.join(directory, name) if directory else '',
                error)) from None
    return context


def allow_old_versions(ssl, context):
    """TLS 1.0 to 1.3, and nothing that costs more than a handshake: no tickets, no second one."""
    context.options &= ~(ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1)
    context.options |= ssl.OP_NO_TICKET | NO_RENEGOTIATION
    if hasattr(context, 'minimum_version'):     # 3.7
        context.minimum_version = ssl.TLSVersion.TLSv1
    if hasattr(context, 'num_tickets'):         # 3.8
        context.num_tickets = 0


def load_chain(context, text: bytes):
    """A key and its certificate, PEM; the library wants a file, which is never on a disk."""
    if hasattr(os, 'memfd_create'):             # 3.8
        fd = os.memfd_create('tls')
    else:
        fd = os.open('/tmp', os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        write_all(fd, text)
        context.load_cert_chain('/proc/self/fd/%d' % fd)
    finally:
        os.close(fd)


# ---- sessions ----

RECORD_HEAD = struct.Struct('!BHH')     # RFC 8446 s5.1: type version length
RECORD_MAX = (1 << 14) + 2048           # RFC 5246 s6.2.3
TLS_ALERT, TLS_HANDSHAKE = 21, 22
TLS_INTERNAL_ERROR = 80                 # RFC 8446 s6.2
HELLO_RECORDS = 32                      # that a ClientHello may be cut into
HELLO_MAX = 1 << 14                     # octets of one
SHAKING_COST, SHAKEN_COST = 48 << 10, 20 << 10      # octets that OpenSSL keeps of a connection
SESSIONS_MAX = 1024
HANDSHAKE_S = 10.0
SESSIONS_CROWD_MAX = 64                      # of one network
TLS_RATE = 300                          # handshakes a second


def read_hello(data: bytes) -> 'bytes | None':
    """Records that a client begins with -> the handshake message in them, which may be in several.

    None: it is not whole; b'': there is none, or only OpenSSL can say what it is
    """
    message, at = b'', 0
    if data[:1] == b'\x80' and len(data) < 2 + data[1:2].ljust(1)[0]:   # SSLv2
        return None
    for _ in range(HELLO_RECORDS):
        if len(data) < at + RECORD_HEAD.size:
            return None if data[at:at + 1] in (b'', b'\x16') else b''
        kind, _, size = RECORD_HEAD.unpack_from(data, at)
        if kind != TLS_HANDSHAKE or not 0 < size <= RECORD_MAX:
            break
        at += RECORD_HEAD.size + size
        if len(data) < at:
            return None
        message += data[at - size:at]
        end = 4 + from_octets(message[1:4], 'big')
        if end > HELLO_MAX:
            break
        if 4 <= end <= len(message):
            return message[:end]
    return b''


class Tls:
    """All conversations inside of TLS.

    context     the SSLContext
    greets      whether we speak first inside, where we do
    maximum     Sessions at once; crowd: of one network
    rate        handshakes a second; bucket: [those that may still be, when that was so]
    sessions    {Session: None}, the longest idle first
    crowds      {network of the client: the same of its own}
    displaced   (Stream, its last octets) of those that had to make room
    counts      of these, and of those over the rate
    """

    def __init__(self, context, greets=True, maximum=SESSIONS_MAX, rate=TLS_RATE,
                 crowd=SESSIONS_CROWD_MAX):
        self.context, self.greets = context, greets
        self.maximum, self.crowd = maximum, crowd
        self.rate, self.bucket = rate, [rate, 0.0]
        self.sessions, self.crowds = collections.OrderedDict(), {}
        self.displaced, self.counts = collections.deque(), collections.Counter()

    def begin(self, stream, words, greets, kind=None):
        """A conversation goes on inside -> its Session, as of there."""
        stream.limit = HANDSHAKE_S
        return (kind or Session)(self, stream, words, greets and self.greets)

    def admit(self, session) -> bool:
        """Whether a handshake may begin; then there is room for it."""
        Budget.refill(self.bucket, self.rate, self.rate, session.stream.now)
        if self.bucket[0] < 1:
            self.counts['tls over budget'] += 1
            return False
        self.bucket[0] -= 1
        crowd = self.crowds.setdefault(session.network, collections.OrderedDict())
        if len(crowd) >= self.crowd:
            self.displace(crowd)
        elif len(self.sessions) >= self.maximum:
            self.displace(self.sessions)
        self.sessions[session] = self.crowds.setdefault(session.network, crowd)[session] = None
        return True

    def displace(self, sessions):
        """The one that was idle for longest ends."""
        stream = next(iter(sessions)).stream
        self.counts['tls displaced'] += 1
        self.displaced.append((stream, stream.farewell()))

    def touch(self, session):
        """It was not idle."""
        self.sessions.move_to_end(session)
        self.crowds[session.network].move_to_end(session)

    def forget(self, session):
        """It is over."""
        if session in self.sessions:
            del self.sessions[session], self.crowds[session.network][session]
            if not self.crowds[session.network]:
                del self.crowds[session.network]


class Session:
    """TLS around one conversation: octets of records on one side, what is said on the other.

    server      the Tls
    stream      the Stream whose octets these are
    network     of its client
    kept        records of a ClientHello that is not whole
    incoming, outgoing  MemoryBIOs of records; inner: the SSLObject; None until the hello is whole
    done        the handshake is over
    words       what we say first inside
    greeter     the Protocol that does so if the client stays silent; None: none, or no more
    greets      when it does, Unix time; None: not known yet, or never
    """
    __slots__ = ('server', 'stream', 'network', 'kept', 'incoming', 'outgoing', 'inner', 'done',
                 'words', 'greeter', 'greets')

    def __init__(self, server, stream, words, greets):
        self.server, self.stream = server, stream
        self.network = source_network(stream.src)
        self.kept, self.words = b'', words
        self.incoming = self.outgoing = self.inner = None
        self.done, self.greets = False, None
        self.greeter = stream.host.registry.greeters.get(stream.dport) if greets else None

    def cost(self) -> int:
        """Octets that are kept for it."""
        if self.inner is None:
            return len(self.kept)
        return SHAKEN_COST if self.done else SHAKING_COST

    def feed(self, octets: bytes) -> bytes:
        """Records of the client -> ours, with what the conversation inside answers."""
        stream, shaken = self.stream, self.done
        if self.inner is None:
            self.kept += octets
            hello = read_hello(self.kept)
            if hello is None:
                return b''
            octets, self.kept = self.kept, b''
            if not self.start(hello):
                stream.farewell()
                return pack_alert(max(octets[1:3], b'\3\1') if hello else b'\3\1')
        plain, over = self.open(octets)
        out = b'' if shaken or not self.done else self.words
        if self.done and (plain or over or not octets):
            out += self.talk(plain, over)
        if over and not (stream.stalled or stream.waits is not None):
            stream.closing = True
            stream.turn_deaf()
        return self.seal(out)

    def start(self, hello) -> bool:
        """A ClientHello is whole, octets -> whether we go on with it."""
        import ssl
        stream = self.stream
        parsed = parse_hello(hello) if stream.host.events is not None else None
        if parsed:
            stream.note('tls_hello', protocol='tls', hello=hello, server_name=read_sni(parsed),
                        alpn=b','.join(read_alpn(parsed)))
        if not self.server.admit(self):
            stream.note('tls', protocol='tls', error='too many handshakes')
            return False
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.inner = self.server.context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        return True

    def open(self, octets) -> 'tuple[bytes, bool]':
        """Records -> what the client says in them, whether no more will come."""
        import ssl
        self.incoming.write(octets)
        pieces = []
        try:
            if not self.done:
                self.inner.do_handshake()
                self.finish()
            pieces.append(self.inner.read(RECORD_MAX))
            while pieces[-1]:
                pieces.append(self.inner.read(RECORD_MAX))
            over = True
        except ssl.SSLWantReadError:
            over = False
        except ssl.SSLError as error:           # the alert, if there is one, is in `outgoing`
            over = True
            if not self.done:
                self.stream.note('tls', protocol='tls', error=error.reason or str(error))
        return b''.join(pieces), over

    def finish(self):
        """The handshake is over."""
        self.done, self.stream.limit = True, 0
        if self.stream.record:
            self.stream.record.go_inside()
        cipher, _, _ = self.inner.cipher()
        version = self.inner.version().replace('v1.', ' 1.')    # as EVE has it
        self.stream.note('tls', protocol='tls', version=version, cipher=cipher,
                         alpn=self.inner.selected_alpn_protocol() or '')

    def talk(self, plain, over) -> bytes:
        """What the client says inside -> what we answer; whoever listens hears both.

        over    no more will come
        """
        stream = self.stream
        self.server.touch(self)
        if plain:
            self.greeter = self.greets = None
        hurried = stream.hurried
        stream.hurried = hurried or over
        out = stream.hear(plain)
        stream.hurried = hurried
        if out:
            stream.note('answer', octets=len(out), data=plain)
        elif plain and stream.deaf and not stream.protocol:
            stream.note('unknown', octets=len(plain), data=plain)
        return out

    def seal(self, out: bytes) -> bytes:
        """What we say -> records."""
        try:
            if out:
                self.inner.write(out)
        except OSError:                         # SSLError: the client has broken it off
            pass
        octets = self.outgoing.read()
        return octets + self.end() if self.stream.closing else octets

    def end(self) -> bytes:
        """Our side is done -> close_notify, unless the handshake is not over."""
        octets = b''
        if self.inner is not None:
            try:
                self.inner.unwrap()
            except OSError:                     # SSLError: it waits for the client's own
                pass
            octets = self.outgoing.read()
        self.forget()
        return octets

    def forget(self):
        """Nothing is said inside any more."""
        self.server.forget(self)
        self.stream.secure = None


def pack_alert(version: bytes) -> bytes:
    """Octets of a version -> the record of a fatal internal_error (RFC 8446 s6)."""
    return bytes((TLS_ALERT,)) + version + b'\0\2\2' + bytes((TLS_INTERNAL_ERROR,))


# ==== 9 Protocols =====================================================================
#
# By family, the names in alphabetical order.  family() gives those that follow their heading in
# the manual.

family('Names and addresses')


# ---- dns -----------------------------------------------------------------------------

DNS_HEAD = struct.Struct('!HHHHHH')     # RFC 1035 s4.1.1: id flags qdcount ancount nscount arcount
DNS_QUESTION = struct.Struct('!HH')     # RFC 1035 s4.1.2, after the name: type class
DNS_RECORD = struct.Struct('!HHIH')     # RFC 1035 s4.1.3, after the name: type class ttl rdlength
DNS_OPT = struct.Struct('!xHHBBHxx')    # RFC 6891 s6.1.2-3: type size rcode version flags
DNS_SIZE = struct.Struct('!H')          # RFC 1035 s4.2.2: length of the message that follows
DNS_POINTER = struct.Struct('!H')       # RFC 1035 s4.1.4: 11 and the offset of a name

DNS_QR = 0x8000
DNS_OPCODE = 0x7800
DNS_AA = 0x0400
DNS_TC = 0x0200
DNS_RD = 0x0100
DNS_Z = 0x0040
DNS_DO = 0x8000                         # of the flags of OPT, RFC 3225 s3
DNS_FORMERR, DNS_NOTIMP, DNS_BADVERS = 1, 4, 16
DNS_REFUSED = 5
DNS_A, DNS_HINFO, DNS_AAAA, DNS_TYPE_OPT, DNS_ANY = 1, 13, 28, 41, 255
DNS_TXT = 16
DNS_TRANSFERS = 251, 252                # IXFR, AXFR
DNS_SIZES = {DNS_A: 4, DNS_AAAA: 16}    # octets of the address in a record
DNS_IN, DNS_CH = 1, 3
DNS_VERSIONS = b'\7version\4bind\0', b'\7version\6server\0'      # names of class CH, by custom
DNS_HOST_NAMES = b'\x08hostname\4bind\0', b'\2id\6server\0'      # RFC 4892 s3
DNS_VERSION = b'unknown'
DNS_NEVER = b'\4wpad', b'\6isatap'      # whose bearer would draw the traffic of others
DNS_HINFO_ANY = b'\7RFC8482\0'          # RFC 8482 s4.2: CPU 'RFC8482', OS ''

NETBIOS_NAME = re.compile(br'\x20[A-P]{32}')    # RFC 1001 s14.1: the first label of its queries
DNS_PORTS = 53, 5353, 5355
DNS_SIG = '.. .. .. .. 00 .. 00 .. 00 .. 00 ..'     # counts below 256: any number of questions
DNS_MDNS = 5353
DNS_TTL_S = 43200
DNS_QUESTIONS_MAX = 64
DNS_RECORDS_MAX = 64
# RFC 6895 s3.1: those that resolvers and scanners ask for
DNS_TYPES = frozenset([*range(1, 66), *range(99, 110), *range(249, 259), 32768, 32769])
DNS_CLASSES = 1, 3, 4, 254, 255         # RFC 6895 s3.2: IN CH HS NONE ANY
DNS_UDP_MOST = 3                        # an answer over UDP is so many times as long as the query
DNS_QUESTION_MIN = 1 + DNS_QUESTION.size
DNS_RECORD_MIN = 1 + DNS_RECORD.size
DNS_UDP_MIN, DNS_UDP_MAX = 512, 1232    # RFC 1035 s2.3.4; what passes every path unfragmented
DNS_TCP_MAX = 4096                      # octets of a query; padded ones have 128 n (RFC 8467 s4.1)


def is_dns_head(data, at, size, port):
    """Header at `at` of a message of `size` octets -> may it be a query to this port?"""
    _, flags, questions, answers, authority, additional = DNS_HEAD.unpack_from(data, at)
    if flags & DNS_QR:                  # never an answer to an answer
        return False
    if port in DNS_PORTS:
        return True
    room = (size - DNS_HEAD.size - questions * DNS_QUESTION_MIN
            - (answers + authority + additional) * DNS_RECORD_MIN)
    return 0 < questions <= DNS_QUESTIONS_MAX and room >= 0 and not flags & DNS_Z


def parse_dns(message):
    """Message -> ([questions], where they end, OPT or None, where all ends); Malformed."""
    _, _, count, answers, authority, additional = DNS_HEAD.unpack_from(message)
    questions, end = parse_dns_questions(message, count)
    first = answers + authority
    opt, at = None, end
    if first or additional:
        opt, at = parse_dns_opt(message, end, first, first + additional)
    return questions, end, opt, at


def is_dns_query(message, parsed):
    """Message -> is it a query, whatever port it came to, and nothing else?

    Known classes and types, labels that parse, and an end where the records end; behind it at
    most what pads an Ethernet frame.
    """
    questions, _, _, at = parsed
    if NETBIOS_NAME.match(message, DNS_HEAD.size) or len(message) - at > PADDING_MAX:
        return False
    return all(
        kind in DNS_TYPES and family & 0x7fff in DNS_CLASSES for _, kind, family in questions)


def check_dns(data, peer):
    """Datagram -> is it a query?  What was read of it stays in the state."""
    if peer.dport in DNS_PORTS:
        return not data[2] << 8 & DNS_QR        # as is_dns_head() would say
    if not is_dns_head(data, 0, len(data), peer.dport):
        return False
    try:
        peer.state = parse_dns(data)
    except Malformed:
        return False
    return is_dns_query(data, peer.state)


def check_dns_tcp(data, peer):
    """Length and header -> is this a query?  Stricter: a stream taken wrongly is lost."""
    size, = DNS_SIZE.unpack_from(data)
    _, _, questions, _, _, _ = DNS_HEAD.unpack_from(data, DNS_SIZE.size)
    if not is_dns_head(data, DNS_SIZE.size, size, peer.dport) or size > DNS_TCP_MAX:
        return False
    if peer.dport in DNS_PORTS:
        least = DNS_HEAD.size + (DNS_QUESTION_MIN if questions else 0)
        return size >= least and (questions > 0 or size == least)
    return questions == 1


def unpack_dns(layout, message, at):
    """Fields at `at` -> the fields; raises Malformed if they are cut short."""
    if at + layout.size > len(message):
        raise Malformed('message cut short at %d' % at)
    return layout.unpack_from(message, at)


def parse_dns_name(message, at):
    """Labels to the root or to a pointer -> (labels, pointer, next).

    labels   their offsets
    pointer  offset it leads to, not followed; None if it ends in the root
    raises   Malformed
    source   RFC 1035 s4.1.4
    """
    begin, labels, end = at, [], len(message)
    while at < end:
        size = message[at]
        if size >= 0xc0:
            pointer, = unpack_dns(DNS_POINTER, message, at)
            return labels, pointer & 0x3fff, at + DNS_POINTER.size
        if size > 63 or at - begin > 254:       # RFC 1035 s2.3.4: label 63, name 255
            raise Malformed('name at %d' % begin)
        labels.append(at)
        at += 1 + size
        if not size:
            return labels, None, at
    raise Malformed('name cut short at %d' % begin)


def parse_dns_questions(message, count):
    """Question section -> ([(offset of the name, type, class)], next)."""
    if not 0 < count <= DNS_QUESTIONS_MAX:
        raise Malformed('%d questions' % count)
    questions, at, known = [], DNS_HEAD.size, ()
    for _ in range(count):
        labels, pointer, after = parse_dns_name(message, at)
        if pointer is not None and pointer not in known or after > 0x3fff:
            # Only to labels of earlier questions, so that no name can loop; and each name
            # must lie where a pointer of ours reaches.
            raise Malformed('pointer to %d' % pointer)
        if count > 1:                           # nearly all ask one thing
            known = {*known, *labels}
        kind, family = unpack_dns(DNS_QUESTION, message, after)
        questions.append((at, kind, family))
        at = after + DNS_QUESTION.size
    return questions, at


def parse_dns_opt(message, at, first, records):
    """Records at `at` -> (OPT as (UDP size, version, flags), or None; where they end).

    first    number of those before the additional section, where OPT counts
    records  number of all
    raises   Malformed, also for two OPT or one with a name (RFC 6891 s6.1.1-2)
    """
    opt = None
    if records > DNS_RECORDS_MAX:
        raise Malformed('%d records' % records)
    for index in range(records):
        after = parse_dns_name(message, at)[2]
        kind, size, ttl, length = unpack_dns(DNS_RECORD, message, after)
        end = after + DNS_RECORD.size + length
        if end > len(message):
            raise Malformed('record cut short at %d' % at)
        if kind == DNS_TYPE_OPT and index >= first:
            if opt or message[at]:
                raise Malformed('OPT at %d' % at)
            opt = size, ttl >> 16 & 0xff, ttl & 0xffff
        at = end
    return opt, at


def pack_dns_head(message, rcode=0, questions=0, answers=0, additional=0, truncated=0):
    """Header of a query and counts -> header of its answer.

    source  RFC 1035 s4.1.1; id, opcode and RD are the client's, AA only where there is no error
    """
    ident, flags = DNS_HEAD.unpack_from(message)[:2]
    flags = (DNS_QR | flags & (DNS_OPCODE | DNS_RD) | truncated | rcode & 0xf
             | (0 if rcode else DNS_AA))
    return DNS_HEAD.pack(ident, flags, questions, answers, 0, additional)


def pack_dns_record(message, at, kind, family, peer):
    """A question, its name at `at` -> the record that answers it, b'' if there is none."""
    ttl, rdata = DNS_TTL_S, None
    if family == DNS_IN and kind == DNS_ANY:
        kind, rdata = DNS_HINFO, DNS_HINFO_ANY
    elif family == DNS_IN and len(peer.dst) == DNS_SIZES.get(kind):
        rdata = peer.dst
    elif (kind, family) == (DNS_TXT, DNS_CH):
        name = message[at:at + 16].lower()
        if name.startswith(DNS_VERSIONS):
            ttl, rdata = 0, sized(DNS_VERSION, 1)
        elif name.startswith(DNS_HOST_NAMES):
            ttl, rdata = 0, sized(peer.host.host_name, 1)
    if rdata is None:
        return b''
    return ((DNS_POINTER.pack(0xc000 | at) if message[at] else b'\0')     # the root is shorter
            + DNS_RECORD.pack(kind, family, ttl, len(rdata)) + rdata)


def is_dns_for_us(message, questions, peer):
    """Whether these names may be answered where neighbours are asked for them, not at port 53.

    Who was asked among many answers for its own name only; and nobody finds a proxy or a router
    in us (RFC 6762 s6, RFC 4795 s2).
    """
    names = [message[at:at + 32].lower() for at, _, _ in questions]
    if not peer.to_group:
        return not any(name.startswith(DNS_NEVER) for name in names)
    ours = sized(peer.host.host_name, 1)
    return all(name.startswith((ours + b'\0', ours + b'\5local\0')) for name in names)


def pack_dns_answer(message, peer, questions, end, opt):
    """A query, parsed -> its answer, within the size the client takes.

    source  RFC 1035 s4.1, RFC 2181 s9 (cut: TC and no records), RFC 6891 s7
    """
    room, tail, rcode = DNS_UDP_MIN, b'', 0
    if opt:
        size, version, flags = opt
        room = min(max(size, DNS_UDP_MIN), DNS_UDP_MAX)
        rcode = DNS_BADVERS if version else 0
        tail = DNS_OPT.pack(DNS_TYPE_OPT, DNS_UDP_MAX, rcode >> 4, 0, flags & DNS_DO)
    for _, kind, _ in () if rcode else questions:
        if kind in DNS_TRANSFERS:
            rcode = DNS_REFUSED
    room = 0xffff if peer.transport == TCP else min(room, DNS_UDP_MOST * len(message))
    # RFC 6762 s5.4: on the mDNS port the top bit asks for what we do anyway, unicast
    mask = 0x7fff if peer.dport == DNS_MDNS else 0xffff
    records = []
    for at, kind, family in () if rcode else questions:
        record = pack_dns_record(message, at, kind, family & mask, peer)
        if record:
            records.append(record)
    asked, found, count = message[DNS_HEAD.size:end], b''.join(records), len(questions)
    additional = 1 if opt else 0
    if DNS_HEAD.size + len(asked + found + tail) <= room:
        head = pack_dns_head(message, rcode, count, len(records), additional)
        return head + asked + found + tail
    if DNS_HEAD.size + len(asked + tail) > room:
        asked, count = b'', 0
    return pack_dns_head(message, rcode, count, 0, additional, DNS_TC) + asked + tail


def answer_dns_message(message, peer):
    """A message of at least a header -> the answer, None for silence.

    Only what is plainly DNS, or came to a port of DNS, is answered with an error.
    """
    _, flags, count, _, _, _ = DNS_HEAD.unpack_from(message)
    if flags & DNS_QR:
        return None
    label = message[DNS_HEAD.size:DNS_HEAD.size + 64]
    plain = peer.dport in DNS_PORTS or (
        count == 1 and not flags & DNS_Z and 0 < len(label) > label[0] <= 63)
    if flags & DNS_OPCODE:
        return pack_dns_head(message, DNS_NOTIMP) if plain and not peer.to_group else None
    try:
        questions, end, opt, _ = peer.state or parse_dns(message)
    except Malformed:
        return pack_dns_head(message, DNS_FORMERR) if plain and not peer.to_group else None
    if (peer.to_group or peer.dport != 53) and not is_dns_for_us(message, questions, peer):
        return None
    return pack_dns_answer(message, peer, questions, end, opt)


@protocol('dns', sig=('.. ' * DNS_HEAD.size, DNS_SIG), port=DNS_PORTS,
          ref='RFC 1035 s4.1, RFC 6891 s6', over=(UDP,), check=check_dns, most=DNS_UDP_MOST,
          echo=lambda message, transport: (0, 2))
def answer_dns(data, peer):
    """Query -> our own address, whatever the name.

    A and AAAA get the address the query came to, where it is of that family; ANY gets HINFO;
    version.bind and hostname.bind a text; transfers are refused; anything else no record.
    """
    return answer_dns_message(data, peer)


@protocol('dns-tcp', sig=('.. ' * (DNS_SIZE.size + DNS_HEAD.size), '.. .. ' + DNS_SIG), port=53,
          ref='RFC 1035 s4.2.2, RFC 7766 s8', over=(TCP,), check=check_dns_tcp,
          echo=lambda message, transport: (DNS_SIZE.size, 2))
def answer_dns_tcp(data, peer):
    """The same with its length before it, never cut."""
    if len(data) < DNS_SIZE.size:
        return MORE
    size, = DNS_SIZE.unpack_from(data)
    if not DNS_HEAD.size <= size <= DNS_TCP_MAX:
        return None
    end = DNS_SIZE.size + size
    if len(data) < end:
        return MORE
    answer = answer_dns_message(data[DNS_SIZE.size:end], peer)
    if answer is None:
        return None
    return Reply(DNS_SIZE.pack(len(answer)) + answer, end)


# ---- nbns ----------------------------------------------------------------------------

NBNS_STATUS, NBNS_NAME = 0x21, 0x20     # RFC 1002 s4.2.1.3: types of questions
NBNS_ANSWER = 0x8400                    # RFC 1002 s4.2.1.1: response, authoritative
NBNS_TTL_S = 300
NBNS_ACTIVE, NBNS_GROUP = b'\4\0', b'\x84\0'      # RFC 1002 s4.2.18: flags of a name
NBNS_DOMAIN = b'WORKGROUP'.ljust(15) + b'\0'
NBNS_STATISTICS = bytes(46)


def is_nbns(data, peer):
    """A question for one name, RFC 1002 s4.2.12, s4.2.17; no answer, no registration."""
    return (not data[2] & 0xf8 and NETBIOS_NAME.match(data, 12)
            and data[45:50] in (b'\0\0\x20\0\1', b'\0\0\x21\0\1'))


def netbios_label(name):
    """16 octets -> the label that stands for them (RFC 1001 s14.1)."""
    return b'\x20' + bytes(65 + nibble for octet in name for nibble in (octet >> 4, octet & 15))


@datagram('nbns', sig=('.. .. .. .. 00 01 00 00 00 00 00 .. 20' + ' ..' * 37,), port=137,
          ref='RFC 1002 s4.2', check=is_nbns, most=2.8)
def answer_nbns(message, peer):
    """Status -> our name; our name -> our address; of no other name a word."""
    name = peer.host.name.encode().ljust(15)
    asked = netbios_label(name)
    head = DNS_HEAD.pack(int.from_bytes(message[:2], 'big'), NBNS_ANSWER, 0, 1, 0, 0)
    if message[47] == NBNS_STATUS:
        if peer.to_group or message[12:45] not in (netbios_label(b'*' + bytes(15)), asked):
            return None
        names = b'\2' + name + b'\0' + NBNS_ACTIVE + NBNS_DOMAIN + NBNS_GROUP
        return head + message[12:50] + bytes(4) + sized(names + NBNS_STATISTICS)
    if message[12:43] != asked[:31] or len(peer.dst) != 4:
        return None
    return head + message[12:50] + NBNS_TTL_S.to_bytes(4, 'big') + sized(bytes(2) + peer.dst)


# ---- stun ----------------------------------------------------------------------------

STUN_HEAD = struct.Struct('!HH16s')     # RFC 8489 s5: type length, cookie and transaction id
STUN_ATTRIBUTE = struct.Struct('!HH')   # RFC 8489 s14: type length
STUN_ADDRESS = struct.Struct('!BBH')    # RFC 8489 s14.1: zero family port
STUN_FLAGS = struct.Struct('!I')        # RFC 5780 s7.2
STUN_ERROR = struct.Struct('!HBB')      # RFC 8489 s14.8: zero class number
STUN_CRC = struct.Struct('!I')          # RFC 8489 s14.7

STUN_COOKIE = b'\x21\x12\xa4\x42'
STUN_BINDING, STUN_BINDING_OK, STUN_BINDING_ERROR = 0x0001, 0x0101, 0x0111
STUN_MAPPED_ADDRESS = 0x0001
STUN_CHANGE_REQUEST = 0x0003
STUN_ERROR_CODE = 0x0009
STUN_UNKNOWN_ATTRIBUTES = 0x000a
STUN_XOR_MAPPED_ADDRESS = 0x0020
STUN_FINGERPRINT = 0x8028
STUN_OPTIONAL = 0x8000                  # RFC 8489 s14: from here on they may be passed over
STUN_CHANGE_PORT = 0x2
STUN_CRC_XOR = 0x5354554e
STUN_UNKNOWN_MAX = 16
STUN_UDP_MOST = 2.6                     # 20 octets ask for an address of 24, over IPv6, and a sum
# Those below 0x8000 that change nothing in our answer.  RESPONSE-ADDRESS, RESPONSE-PORT and
# PADDING (RFC 5780 s7) are unknown on purpose: they would send answers where no one asked.
STUN_KNOWN = frozenset((
    STUN_MAPPED_ADDRESS, STUN_CHANGE_REQUEST, STUN_ERROR_CODE, STUN_UNKNOWN_ATTRIBUTES,
    STUN_XOR_MAPPED_ADDRESS,
    0x0004, 0x0005, 0x0007, 0x000b,     # RFC 3489 s11.2: SOURCE-, CHANGED-, PASSWORD, REFLECTED-
    0x0006, 0x0008, 0x0014, 0x0015,     # RFC 8489 s18.3.1: USERNAME, INTEGRITY, REALM, NONCE
    0x001c, 0x001d, 0x001e,             # the same: INTEGRITY-SHA256, ALGORITHM, USERHASH
    0x0024, 0x0025))                    # RFC 8445 s16.1: PRIORITY, USE-CANDIDATE


def parse_stun_attributes(data, end):
    """Attributes from the header to `end` -> (change port?, fingerprint?, unknown types).

    raises  Malformed
    source  RFC 8489 s14
    """
    change, fingerprint, unknown, at = False, False, [], STUN_HEAD.size
    while at < end:                     # both are multiples of 4: a header always fits
        kind, size = STUN_ATTRIBUTE.unpack_from(data, at)
        at += STUN_ATTRIBUTE.size
        if at + size > end or kind == STUN_CHANGE_REQUEST and size != STUN_FLAGS.size:
            raise Malformed('attribute 0x%04x of %d' % (kind, size))
        if kind == STUN_CHANGE_REQUEST:
            change = bool(STUN_FLAGS.unpack_from(data, at)[0] & STUN_CHANGE_PORT)
        elif kind == STUN_FINGERPRINT:
            fingerprint = True
        elif kind < STUN_OPTIONAL and kind not in STUN_KNOWN and len(unknown) < STUN_UNKNOWN_MAX:
            if kind not in unknown:
                unknown.append(kind)
        at += size + -size % 4
    return change, fingerprint, unknown


def pack_stun_attribute(kind, value):
    """Attribute of a value that is a multiple of 4, as all of ours are."""
    return STUN_ATTRIBUTE.pack(kind, len(value)) + value


def pack_stun_address(kind, ip, port, mask=bytes(16)):
    """Address -> MAPPED-ADDRESS; XOR-MAPPED-ADDRESS with cookie and transaction id as mask."""
    value = STUN_ADDRESS.pack(0, 1 if len(ip) == 4 else 2, port ^ int.from_bytes(mask[:2], 'big'))
    return pack_stun_attribute(kind, value + bytes(a ^ b for a, b in zip(ip, mask)))


def pack_stun_unknown(unknown):
    """Types of attributes -> ERROR-CODE 420 and UNKNOWN-ATTRIBUTES.

    Blanks and a type said twice fill up to 4 octets, as RFC 3489 s11.2.9-10 wants it and
    RFC 8489 s14.8, s14.13 takes it.
    """
    if len(unknown) % 2:
        unknown = unknown + unknown[-1:]
    types = struct.pack('!%dH' % len(unknown), *unknown)
    reason = STUN_ERROR.pack(0, 4, 20) + b'Unknown Attribute   '
    return (pack_stun_attribute(STUN_ERROR_CODE, reason)
            + pack_stun_attribute(STUN_UNKNOWN_ATTRIBUTES, types))


def pack_stun(kind, ident, attributes, fingerprint):
    """Message, with FINGERPRINT at its end if wanted (RFC 8489 s14.7)."""
    size = len(attributes)
    if not fingerprint:
        return STUN_HEAD.pack(kind, size, ident) + attributes
    size += STUN_ATTRIBUTE.size + STUN_CRC.size     # the sum is over a length that counts it
    message = STUN_HEAD.pack(kind, size, ident) + attributes
    crc = zlib.crc32(message) & 0xffffffff ^ STUN_CRC_XOR
    return message + pack_stun_attribute(STUN_FINGERPRINT, STUN_CRC.pack(crc))


def check_stun_classic(data, peer):
    """Datagram -> is it as long as it says, and no DNS query of id 1?"""
    size = STUN_HEAD.unpack_from(data)[1]
    return len(data) == STUN_HEAD.size + size and data[4:11] != b'\0\1\0\0\0\0\0'


@protocol('stun', sig=('00 01 .. .. 21 12 a4 42',), port=3478, ref='RFC 8489 s6.3',
          most=STUN_UDP_MOST)
@protocol('stun-classic', sig=('00 01 00 .. ' + '.. ' * 16,), port=3478, ref='RFC 3489 s8.1',
          over=(UDP,), check=check_stun_classic, most=STUN_UDP_MOST)
def answer_stun(data, peer):
    """Binding request -> the address it came from.

    CHANGE-REQUEST for another port is answered from the next one; another address we have not.
    """
    if len(data) < STUN_HEAD.size:
        return MORE
    kind, size, ident = STUN_HEAD.unpack_from(data)
    end = STUN_HEAD.size + size
    if kind != STUN_BINDING or size % 4 or end > KEPT_MAX:
        return None
    if len(data) < end:
        return MORE
    change, fingerprint, unknown = parse_stun_attributes(data, end)
    used = end if peer.transport == TCP else None
    if unknown:
        error = pack_stun_unknown(unknown)
        return Reply(pack_stun(STUN_BINDING_ERROR, ident, error, fingerprint), used)
    attributes = pack_stun_address(STUN_MAPPED_ADDRESS, peer.src, peer.sport)
    if ident.startswith(STUN_COOKIE) and not peer.host.original:
        if peer.transport == UDP and len(peer.src) == 16:
            attributes = b''            # RFC 8489 s6.3.1.1 wants the other only; both are long
        attributes += pack_stun_address(STUN_XOR_MAPPED_ADDRESS, peer.src, peer.sport, ident)
    port = None
    if change and peer.transport == UDP:
        port = peer.dport % 0xffff + 1                  # 65535: 1
        if peer.host.original:
            port = peer.dport + 1 & 0xffff
    return Reply(pack_stun(STUN_BINDING_OK, ident, attributes, fingerprint), used, port=port)


# ---- turn ----------------------------------------------------------------------------

TURN_ALLOCATE, TURN_REFUSED = 0x0003, 0x0113            # RFC 8656 s17: method 3, request and error
TURN_USER, TURN_REALM, TURN_NONCE = 0x0006, 0x0014, 0x0015      # RFC 8489 s18.3.1


@talk('turn', sig=('00 03 .. .. 21 12 a4 42',), port=3478, size=be(2, 2, STUN_HEAD.size),
      over=BOTH, most=2.2, check=lambda data, peer: not data[3] & 3,
      ref='RFC 8656 s7.2, RFC 8489 s9.2.4')
def answer_turn(message, peer):
    """Allocate -> who are you?; with a name -> forbidden."""
    _, size, ident = STUN_HEAD.unpack_from(message)
    at, number = STUN_HEAD.size, 1
    for _ in range(STUN_UNKNOWN_MAX):
        if at + STUN_ATTRIBUTE.size > STUN_HEAD.size + size:
            break
        kind, long = STUN_ATTRIBUTE.unpack_from(message, at)
        if kind == TURN_USER:
            peer.note('credentials', user=message[at + 4:at + 4 + long])
            number = 3                  # 403; 401 without a name
        at += STUN_ATTRIBUTE.size + long + -long % 4
    error = pack_stun_attribute(STUN_ERROR_CODE, STUN_ERROR.pack(0, 4, number))
    if number == 1:
        error += pack_stun_attribute(TURN_REALM, b'turn') + pack_stun_attribute(
            TURN_NONCE, peer.host.random(4).hex().encode())
    return pack_stun(TURN_REFUSED, ident, error, False)


family('Management')


# ---- ipmi ----------------------------------------------------------------------------

IPMI_ENTERPRISE = b'\0\0\x11\xbe'       # of the ASF (DSP0136 s3.2.2.3)
IPMI_ASF, IPMI_PONG = 6, 0x40           # class of RMCP; type of message
IPMI_PLUS = 6                           # kind of authentication: the format of RMCP+
IPMI_CHALLENGE, IPMI_NO_COMMAND = 0x39, 0xc1
# Command: (code, data).  s22.13: channel 1; MD5, passwords, those of 2.0; named users only; both
# versions.  s22.15: cipher suite 3, of SHA-1 and AES.  s22.16: no such user
IPMI_COMMANDS = {0x38: (0, b'\1\x94\4\3\0\0\0\0'), 0x54: (0, b'\1\xc0\3\1\x41\x81'),
                 IPMI_CHALLENGE: (0x81, b'')}
IPMI_PLAIN = 0                          # s13.27.3: payloads: a message
IPMI_OPEN, IPMI_HELLO = 0x10, 0x12      # s13.17, s13.20: open session, RAKP message 1
IPMI_NAMELESS = 0x0d                    # s13.24: unauthorized name


def ipmi_sum(octets):
    """Octets -> what makes their sum zero (s13.8)."""
    return bytes((-sum(octets) & 0xff,))


def answer_ipmi_command(request, peer):
    """Message of the LAN -> response (s13.8); None if it is one itself."""
    address, function, _, source, number, command = request[:6]
    if function & 4:
        return None
    code, data = IPMI_COMMANDS.get(command, (IPMI_NO_COMMAND, b''))
    if command == IPMI_CHALLENGE:
        peer.note('credentials', user=request[7:23].rstrip(b'\0'))
    head = bytes((source, function + 4 & 0xff))
    body = bytes((address, number, command, code)) + data
    return head + ipmi_sum(head) + body + ipmi_sum(body)


def answer_ipmi_plus(message, peer):
    """RMCP+: a session -> opened, under the number that the client gave; its user -> unknown."""
    size = int.from_bytes(message[14:16], 'little')
    kind, body = message[5] & 0x3f, message[16:16 + size]
    if kind == IPMI_PLAIN and not any(message[6:14]):
        answer = answer_ipmi_command(body, peer)
        return answer and message[:14] + sized(answer, 2, 'little')
    if kind == IPMI_OPEN and size == 32:
        body = body[:1] + b'\0' + bytes((body[1] or 4,)) + b'\0' + body[4:8] * 2 + body[8:]
    elif kind == IPMI_HELLO and size >= 28:
        peer.note('credentials', user=body[28:28 + body[27]])
        body = body[:1] + bytes((IPMI_NAMELESS, 0, 0)) + body[4:8]
    else:
        return None
    return message[:5] + bytes((kind + 1,)) + bytes(8) + sized(body, 2, 'little')


@datagram('ipmi', sig=('06 00 .. 06 00 00 11 be 80', '06 00 .. 07 00', '06 00 .. 07 06'),
          port=(623, 664), most=2.4,
          ref='https://www.intel.com/content/www/us/en/products/docs/servers/ipmi/ipmi-home.html')
def answer_ipmi(message, peer):
    """Presence ping -> pong; capabilities -> those of 2.0; a login -> no such user."""
    if message[3] == IPMI_ASF:
        return message[:8] + bytes((IPMI_PONG, message[9], 0, 16)) + (
            IPMI_ENTERPRISE + bytes(4) + b'\x81' + bytes(7))
    if message[4] == IPMI_PLUS:
        return answer_ipmi_plus(message, peer)
    answer = answer_ipmi_command(message[14:14 + message[13]], peer)
    return answer and message[:4] + bytes(9) + sized(answer, 1)


# ---- ntp -----------------------------------------------------------------------------

# RFC 5905 s7.3: leap, version and mode, stratum, poll, precision, root delay and dispersion,
# reference, times of reference, origin, receipt, departure
NTP = struct.Struct('!BBBbIIIQ8sQQ')
NTP_CONTROL = struct.Struct('!BBHHHHH')     # RFC 9327 s2: mode opcode number status id at count
NTP_CLIENT, NTP_SERVER, NTP_CONTROL_MODE, NTP_PRIVATE = 3, 4, 6, 7
NTP_LOCAL = 0x7f7f0100                  # reference: a clock of its own
NTP_READ, NTP_VARIABLES = 1, 2          # RFC 9327 s2: opcodes
NTP_NO_OPCODE, NTP_NO_ASSOCIATION = 3, 4        # RFC 9327 s3.3
NTP_NO_DATA = 4                         # of mode 7, in the upper 4 bits
NTP_SYNCHRONIZED = 0x0600               # RFC 9327 s3.1: system status: by NTP
NTP_TEXT = b'version="4"'


def is_ntp(data, peer):
    """On a port of others only the shape of a simple client: all zeros but its own time."""
    mode = data[0] & 7
    if mode in (NTP_CONTROL_MODE, NTP_PRIVATE):         # and no answer
        return not data[0 if mode == NTP_PRIVATE else 1] & 0x80
    return mode == NTP_CLIENT and len(data) >= NTP.size and (
        peer.dport == 123 or not any(data[1:2] + data[4:40]))


def answer_ntp_control(message):
    """Mode 6: variables of the system -> the version; another command -> error (RFC 9327 s3)."""
    mode, code, number, _, association, _, _ = NTP_CONTROL.unpack_from(message)
    text = NTP_TEXT if code == NTP_VARIABLES else b''
    status, error = NTP_SYNCHRONIZED, 0
    if code not in (NTP_READ, NTP_VARIABLES) or association:
        status = (NTP_NO_ASSOCIATION if association else NTP_NO_OPCODE) << 8
        text, error = b'', 0x40
    return NTP_CONTROL.pack(mode, code | 0x80 | error, number, status, association, 0,
                            len(text)) + text + bytes(-len(text) % 4)


@datagram('ntp', port=123, ref='RFC 5905 s7.3, RFC 9327 s2', check=is_ntp, most=2.0,
          sig=['%02x' % (leap << 6 | version << 3 | NTP_CLIENT) + ' ..' * 47 for leap in (0, 3)
               for version in (1, 2, 3, 4)] + ['.. .. .. .. .. .. .. ..'])
def answer_ntp(message, peer):
    """Client -> the time; variables -> the version; mode 7 (monlist) -> no data."""
    mode = message[0] & 7
    if mode == NTP_CONTROL_MODE:
        return answer_ntp_control(message)
    if mode == NTP_PRIVATE:
        return bytes((message[0] | 0x80, 0)) + message[2:4] + bytes((NTP_NO_DATA << 4, 0, 0, 0))
    _, _, poll, _, _, _, _, _, _, _, sent = NTP.unpack_from(message)
    now = int((peer.now + TIME_EPOCH) * 4294967296) & 0xffffffffffffffff
    return NTP.pack(message[0] & 0x38 | NTP_SERVER, 2, poll, -20, 0, 1 << 8, NTP_LOCAL,
                    now - (16 << 32), sent.to_bytes(8, 'big'), now, now)


# ---- pcanywhere ----------------------------------------------------------------------

PCANYWHERE = {b'NQ': b'NR', b'ST': b'ST\1'}     # who is there; status


@datagram('pcanywhere', sig=('.. ..',), port=5632, most=1.5,
          ref='https://github.com/zmap/zmap/tree/main/examples/udp-probes')
def answer_pcanywhere(message, peer):
    """Who is there, status -> the shortest that says we are."""
    return PCANYWHERE[message.rstrip(b'\0')]


# ---- radius --------------------------------------------------------------------------

RADIUS = struct.Struct('!BBH16s')       # RFC 2865 s3: code id size authenticator
RADIUS_PORTS = 1812, 1813, 1645, 1646
RADIUS_ANSWERS = {1: 3, 4: 5, 12: 3}    # Access-Request, Accounting-Request, Status-Server
RADIUS_USER = 1


def is_radius(data, peer):
    """On its own ports, as long as it says, with whole attributes."""
    size = int.from_bytes(data[2:4], 'big')
    return peer.dport in RADIUS_PORTS and RADIUS.size <= size <= len(data)


@datagram('radius', sig=['%02x .. 0%d' % (code, high) + ' ..' * 17
                         for code in RADIUS_ANSWERS for high in range(4)],
          port=RADIUS_PORTS, check=is_radius, ref='RFC 2865 s3, s4, RFC 2866 s4, RFC 5997 s4')
def answer_radius(message, peer):
    """Access -> reject; accounting -> response; both as without a secret."""
    code, ident, size, authenticator = RADIUS.unpack_from(message)
    at = RADIUS.size
    for _ in range(64):
        if at + 2 > size or message[at + 1] < 2:
            break
        if message[at] == RADIUS_USER:
            peer.note('credentials', user=message[at + 2:at + message[at + 1]])
        at += message[at + 1]
    head = RADIUS.pack(RADIUS_ANSWERS[code], ident, RADIUS.size, authenticator)
    return head[:4] + hashlib.md5(head).digest()


# ---- rip -----------------------------------------------------------------------------

RIP_INFINITY = b'\0\0\0\x10'            # RFC 2453 s3.6: unreachable


@datagram('rip', sig=('01 01 00 00 00 00' + ' ..' * 18, '01 01 00 00 00 02' + ' ..' * 18,
                      '01 02 00 00 00 00' + ' ..' * 18, '01 02 00 00 00 02' + ' ..' * 18),
          port=520, check=lambda data, peer: len(data) <= 24 + PADDING_MAX,
          ref='RFC 1058 s3.4.1, RFC 2453 s3.9.1')
def answer_rip(message, peer):
    """Request for the table, or for a route -> there is none."""
    return b'\2' + message[1:4] + b'\0\2' + message[6:20] + RIP_INFINITY


# ---- snmp ----------------------------------------------------------------------------

SNMP_GET, SNMP_NEXT = 0xa0, 0xa1        # RFC 3416 s3: PDUs
SNMP_RESPONSE, SNMP_SET = 0xa2, 0xa3
SNMP_BULK, SNMP_REPORT = 0xa5, 0xa8
SNMP_NO_NAME, SNMP_NO_ACCESS = 2, 6     # errors
SNMP_NO_OBJECT, SNMP_END = b'\x80\0', b'\x82\0'         # in the place of a value
SNMP_SYSTEM = b'\x2b\6\1\2\1\1'         # RFC 3418 s2
SNMP_USM_ENGINES = b'\x2b\6\1\6\3\x0f\1\1\4\0'          # RFC 3414 s5: usmStatsUnknownEngineIDs
SNMP_USM_NAMES = b'\x2b\6\1\6\3\x0f\1\1\3\0'            # usmStatsUnknownUserNames
SNMP_REPORTABLE = 4                     # RFC 3412 s6.4


def snmp_objects(peer):
    """-> [(name, value in BER)] of the system group, in order (RFC 3418 s2)."""
    ticks = int((peer.now - peer.host.boot) * 100) & 0xffffffff
    values = (pack_der(4, b'Linux'), pack_der(6, b'\0'), pack_integer(ticks, 0x43),
              pack_der(4), pack_der(4, peer.host.host_name), pack_der(4), pack_integer(72))
    return [(SNMP_SYSTEM + bytes((number, 0)), value) for number, value in enumerate(values, 1)]


def snmp_find(objects, name, after):
    """Name -> (name, value) of the object, or of the first after it; (name, None)."""
    for each, value in objects:
        if (each > name) if after else (each == name):
            return each, value
    return name, None


def answer_snmp_pdu(kind, pdu, old, peer):
    """PDU -> response, b'' if it is no request.

    old     SNMPv1, which has errors where its successors have exceptions
    """
    if kind not in (SNMP_GET, SNMP_NEXT, SNMP_SET, SNMP_BULK):
        return b''
    (_, ident, _), _, _, (_, asked, binds) = ber_parts(pdu)
    names = [ber_parts(bind)[0][2] for _, _, bind in ber_parts(binds)]
    objects, found, error, index = snmp_objects(peer), [], 0, 0
    for at, name in enumerate(names, 1):
        name, value = snmp_find(objects, name, kind != SNMP_GET)
        if kind == SNMP_SET or value is None and old:
            error, index = SNMP_NO_NAME if old else SNMP_NO_ACCESS, at
            break
        if value is None:
            value = SNMP_NO_OBJECT if kind == SNMP_GET else SNMP_END
        found.append(pack_der(0x30, pack_der(6, name), value))
    return pack_der(SNMP_RESPONSE, ident, pack_integer(error), pack_integer(index),
                    asked if error else pack_der(0x30, *found))


def answer_snmp_v3(parts, peer):
    """Message of version 3 -> report: our engine, or that we do not know the user.

    source  RFC 3412 s6, RFC 3414 s2.4, s3.2
    """
    (_, version, _), (_, _, head), (_, _, security), (kind, _, scoped) = parts
    (_, ident, _), (_, size, _), (_, _, flags), model = ber_parts(head)
    if not flags[0] & SNMP_REPORTABLE:
        return None
    engine, _, _, user, _, _ = ber_parts(ber_parts(security)[0][2])
    ours = b'\x80\0\0\0\5' + peer.host.guid[:8]         # RFC 3411 s5: octets
    known = engine[2] == ours
    if known:
        peer.note('credentials', user=user[2])
    request = ber_parts(ber_parts(scoped)[2][2])[0][1] if kind == 0x30 else pack_integer(0)
    usm = pack_der(0x30, pack_der(4, ours), pack_integer(1), pack_integer(
        int(peer.now - peer.host.boot) & 0x7fffffff), user[1], pack_der(4), pack_der(4))
    count = pack_der(0x30, pack_der(6, SNMP_USM_NAMES if known else SNMP_USM_ENGINES),
                     pack_integer(1, 0x41))
    report = pack_der(SNMP_REPORT, request, pack_integer(0), pack_integer(0),
                      pack_der(0x30, count))
    return pack_der(0x30, version, pack_der(0x30, ident, size, pack_der(4, b'\0'), model[1]),
                    pack_der(4, usm), pack_der(0x30, pack_der(4, ours), pack_der(4), report))


@datagram('snmp', port=161, ref='RFC 1157 s4.1, RFC 3416 s4.2, RFC 3414 s3.2', most=2.0,
          sig=['30 %s 02 01 %s' % (size, version)
               for size in ('..', '81 ..', '82 .. ..', '84 .. .. .. ..')
               for version in ('00 04', '01 04', '03 30')])
def answer_snmp(message, peer):
    """Get, next, bulk -> the system group; set -> refused; version 3 -> report."""
    _, start, end = parse_ber(message)
    parts = ber_parts(message[start:end])
    if parts[0][2] == b'\3':
        return answer_snmp_v3(parts, peer)
    (_, version, old), (_, community, name), (kind, _, pdu) = parts
    response = answer_snmp_pdu(kind, pdu, old == b'\0', peer)
    if not response:
        return None
    peer.note('credentials', password=name)
    return pack_der(0x30, version, community, response)


# ---- xdmcp ---------------------------------------------------------------------------

XDMCP_UNWILLING = b'\0\1\0\6'           # XDMCP 1.1: version, opcode; then host name and status


@datagram('xdmcp', sig=('00 01 00 01 00 ..', '00 01 00 02 00 ..', '00 01 00 03 00 ..'), port=177,
          check=lambda data, peer: len(data) >= 6 + data[5] and (
              peer.dport == 177 or data[5] == 1 and data[6:7] == b'\0'), most=2.6,
          ref='https://www.x.org/releases/current/doc/libXdmcp/xdmcp.html')
def answer_xdmcp(message, peer):
    """Query -> unwilling."""
    return XDMCP_UNWILLING + sized(sized(b'server') + sized(b'no'))


family('Discovery')


# ---- bacnet --------------------------------------------------------------------------

BACNET_ERROR_ACK, BACNET_ACK, BACNET_REJECT = 0x50, 0x30, 0x60      # clause 20.1: kinds
BACNET_WHO_IS, BACNET_READ, BACNET_WRITE = 8, 12, 15
BACNET_DEVICE = b'\2\0\0\1'             # object identifier: device, number 1
BACNET_ANY = b'\2\x3f\xff\xff'          # clause 12.11: whichever device it is
# what of that object may be read, clause 12.11: texts, other values with their tag
BACNET_PROPERTIES = {12: '1.0', 28: '', 44: '1.0', 58: '', 70: 'device',
                     75: b'\xc4' + BACNET_DEVICE, 77: 'device', 112: b'\x91\0',
                     120: b'\x21\0', 121: ''}
BACNET_I_AM = b'\x10\0\xc4' + BACNET_DEVICE + b'\x22\5\xc4\x91\3\x21\0'     # clause 16.10


def bacnet_message(data):
    """Datagram -> message of the application (clause 6.2.2: addresses are passed over)."""
    size, control, at = int.from_bytes(data[2:4], 'big'), data[5], 6
    if control & 0x80 or not 8 <= size <= len(data):
        raise Malformed('no message of an application')
    for bit in 0x20, 0x08:              # destination, source: network, length, address
        if control & bit:
            at += 3 + data[at + 2]
    return data[at + (control >> 5 & 1):size]


def answer_bacnet_read(message):
    """ReadProperty -> the value, in its tag; None if there is none (clause 15.5)."""
    if message[4:9] not in (b'\x0c' + BACNET_DEVICE, b'\x0c' + BACNET_ANY):
        return None
    value = BACNET_PROPERTIES.get(int.from_bytes(message[10:10 + (message[9] & 7)], 'big'))
    if isinstance(value, str):
        text = b'\0' + value.encode()
        value = bytes((0x70 | len(text),)) + text if len(text) < 5 else b'\x75' + sized(text, 1)
    return value


def answer_bacnet_message(message, peer):
    """Who is there -> we; a read -> value or error; a write -> denied; other calls -> rejected."""
    if message[0] == 0x10 and message[1] == BACNET_WHO_IS:
        least = message[3:3 + (message[2] & 7)] if len(message) > 3 else b''
        return BACNET_I_AM if int.from_bytes(least, 'big') <= 1 else None
    if message[0] & 0xf0:
        return None
    invoked, service = message[2:4]
    peer.note('request', command=message[3:])
    if service not in (BACNET_READ, BACNET_WRITE):
        return bytes((BACNET_REJECT, invoked, 9))       # clause 18.9: unrecognized service
    value = answer_bacnet_read(message) if service == BACNET_READ else None
    if value is None:                   # class property: unknown, or write access denied
        return bytes((BACNET_ERROR_ACK, invoked, service, 0x91, 2, 0x91,
                      32 if service == BACNET_READ else 40))
    return (bytes((BACNET_ACK, invoked, service, 0x0c)) + BACNET_DEVICE
            + message[9:10 + (message[9] & 7)] + b'\x3e' + value + b'\x3f')


@datagram('bacnet', sig=('81 0a .. .. 01', '81 0b .. .. 01'), port=47808, most=2.5,
          ref='https://www.ashrae.org/technical-resources/bookstore/bacnet')
def answer_bacnet(data, peer):
    """Who is there -> a device; reads of it -> values; writes -> denied."""
    answer = answer_bacnet_message(bacnet_message(data), peer)
    return answer and b'\x81\x0a' + sized(b'\1\0' + answer, 2, extra=4)


# ---- citrix --------------------------------------------------------------------------

CITRIX_MAGIC = b'\2\xfd\xa8\xe3'


@datagram('citrix', sig=('1e 00 01 30 02 fd a8 e3', '20 00 01 30 02 fd a8 e3',
                         '2a 00 01 32 02 fd a8 e3'), port=1604, most=1.6,
          check=lambda data, peer: len(data) >= data[0],
          ref='https://github.com/zmap/zmap/tree/main/examples/udp-probes')
def answer_citrix(message, peer):
    """Browser of ICA: who is the master, which applications -> we, none."""
    if message[3] == 0x32:
        return b'\x10\0\2\x33' + CITRIX_MAGIC + bytes(8)
    return (b'\x30\0\2\x31' + CITRIX_MAGIC + b'\2\0\6\x44').ljust(48, b'\0')


# ---- coap ----------------------------------------------------------------------------

COAP_PORTS = 5683, 5684
COAP_CORE = b'\xbb.well-known\4core'    # RFC 7252 s3.1: Uri-Path, twice
COAP_CONTENT, COAP_NOT_FOUND, COAP_NOT_ALLOWED = 0x45, 0x84, 0x85       # RFC 7252 s5.9
COAP_LINKS = b'\xc1\x28\xff</>'         # Content-Format 40 and links (RFC 6690 s2)


def is_coap(data, peer):
    """Options that parse up to the payload; on a port of others the name of the directory."""
    at = 4 + (data[0] & 15)
    for _ in range(32):
        if data[at:at + 1] in (b'', b'\xff'):
            return len(data) >= at and (peer.dport in COAP_PORTS or COAP_CORE in data)
        delta, size = data[at] >> 4, data[at] & 15
        if size == 15 or delta == 15:
            return False
        at += 1
        for nibble in delta, size:
            at += nibble - 12 if nibble > 12 else 0
        size += int.from_bytes(data[at - max(0, size - 12):at], 'big') if size > 12 else 0
        at += size
    return False


@datagram('coap', port=COAP_PORTS, ref='RFC 7252 s3, s4.3, s5.9', check=is_coap,
          sig=['%x%x %02x .. ..' % (kind, token, code) for kind in (4, 5) for token in range(9)
               for code in (0, 1, 2, 3, 4) if code or kind == 4 and not token])
def answer_coap(message, peer):
    """Get of the directory -> one link; of others -> 4.04; ping -> reset."""
    token = message[0] & 15
    number, code = message[2:4 + token], message[1]
    if not code:
        return b'\x70\0' + number
    kind = 0x60 if message[0] < 0x50 else 0x50          # acknowledgement, non-confirmable
    if code > 1:
        peer.note('request', command=message[4 + token:])
        return bytes((kind | token, COAP_NOT_ALLOWED)) + number
    if COAP_CORE in message:
        return bytes((kind | token, COAP_CONTENT)) + number + COAP_LINKS
    return bytes((kind | token, COAP_NOT_FOUND)) + number


# ---- db2 das -------------------------------------------------------------------------

@datagram('db2-das', sig=(b'DB2GETADDR\0SQL',), port=523, most=2.0,
          ref='https://www.ibm.com/docs/en/db2/11.5?topic=commands-db2admin')
def answer_db2_das(message, peer):
    """Where is Db2 -> here."""
    return b'DB2RETADDR\0SQL09010\0' + peer.host.host_name + b'\0'


# ---- digi ----------------------------------------------------------------------------

@datagram('digi', sig=(b'DIGI\0\1\0\6', b'DVKT\0\1\0\6', b'DGDP\0\1\0\6'), port=2362, most=1.9,
          check=lambda data, peer: len(data) >= 14,
          ref='https://www.digi.com/resources/documentation/digidocs/pdfs/90001141.pdf')
def answer_digi(message, peer):
    """Discovery of ADDP -> a device: hardware address, name, result."""
    return message[:4] + b'\0\2' + sized(b'\1\6\2' + peer.host.guid[:5] + b'\x0d' + sized(
        b'device', 1) + b'\2\0')


# ---- hid -----------------------------------------------------------------------------

@datagram('hid', sig=(b'discover;013;',), port=4070, most=6.5,
          ref='https://github.com/zmap/zmap/tree/main/examples/udp-probes')
def answer_hid(message, peer):
    """Discovery of door controllers -> a device."""
    text = b';02:00:00:00:00:01;device;%s;0;device;1.0;01/01/2020;' % url_host(peer.dst)
    return b'discovered;%03d' % (len(text) + 14) + text


# ---- kasa ----------------------------------------------------------------------------

KASA_KEY = 171                          # each octet is masked with what was sent before it
KASA_ANSWER = b'{"system":{"get_sysinfo":{"err_code":0}}}'


def kasa_mask(text, begin=KASA_KEY):
    """Text -> as it is sent."""
    sent = []
    for octet in text:
        begin ^= octet
        sent.append(begin)
    return bytes(sent)


@datagram('kasa', sig=('d0 f2 81 f8 8b ff 9a f7 d5',), port=9999, most=1.5,
          check=lambda data, peer: kasa_mask(KASA_ANSWER[:27]) != data[:27],
          ref='https://github.com/softScheck/tplink-smartplug')
def answer_kasa(message, peer):
    """Which plug -> one without a word to say."""
    return kasa_mask(KASA_ANSWER)


# ---- knx -----------------------------------------------------------------------------

# ISO 22510, 03_08_02 s7.5.4: device, twisted pair; its group 224.0.23.12; core services
KNX_DEVICE = struct.Struct('!BBBBHH6s4s6s30s')
KNX_SERVICES, KNX_GROUP = b'\4\2\2\1', b'\xe0\0\x17\x0c'


@datagram('knx', sig=('06 10 02 01 00 0e 08 01', '06 10 02 03 00 0e 08 01'), port=3671, most=5.6,
          ref='https://support.knx.org/hc/en-us/sections/115000350544')
def answer_knx(message, peer):
    """Search, description -> a device."""
    mac = b'\2' + peer.host.guid[:5]
    body = KNX_DEVICE.pack(KNX_DEVICE.size, 1, 2, 0, 0, 0, mac, KNX_GROUP, mac, b'device')
    body += KNX_SERVICES
    if message[3] == 1:
        body = b'\x08\1' + (peer.dst if len(peer.dst) == 4 else bytes(4)) + (
            peer.dport.to_bytes(2, 'big')) + body
    return b'\6\x10\2' + bytes((message[3] + 1,)) + sized(body, extra=6)


# ---- lantronix -----------------------------------------------------------------------

@datagram('lantronix', sig=('.. .. .. ..',), port=30718,
          check=lambda data, peer: data.rstrip(b'\0') in (b'\0\0\0\xf6', b'\0\0\0\xf8'),
          ref='https://github.com/zmap/zmap/tree/main/examples/udp-probes')
def answer_lantronix(message, peer):
    """Which firmware, which set-up -> an answer with nothing in it."""
    return b'\0\0\0' + bytes((message[3] + 1,))


# ---- lifx ----------------------------------------------------------------------------

# 36 octets: size, flags, source, target, reserved and sequence, reserved, type
LIFX = struct.Struct('<HH4s8s6s2s8xHxx')
LIFX_SERVICE, LIFX_STATE = 2, 3


@datagram('lifx', sig=('24 00 00 34' + ' ..' * 28 + ' 02 00 00 00',), port=56700, most=1.2,
          ref='https://lan.developer.lifx.com/docs/packet-contents')
def answer_lifx(message, peer):
    """Get service -> one over UDP, on our port."""
    _, _, source, _, reserved, sequence, _ = LIFX.unpack_from(message)
    mac = b'\2' + peer.host.guid[:5] + b'\0\0'
    return LIFX.pack(LIFX.size + 5, 0x1400, source, mac, reserved, sequence, LIFX_STATE) + (
        b'\1' + peer.dport.to_bytes(4, 'little'))


# ---- memcached over udp --------------------------------------------------------------

MEMCACHED_UDP = {b'version': b'VERSION 1.6.0\r\n', b'stats': b'STAT pid 1\r\nEND\r\n',
                 b'get': b'END\r\n', b'gets': b'END\r\n'}


@datagram('memcached-udp', sig=('.. .. 00 00 00 01 00 00 ..',), port=11211, most=2.0,
          check=lambda data, peer: MEMCACHED_VERB.match(data, 8),
          ref='https://raw.githubusercontent.com/memcached/memcached/master/doc/protocol.txt')
def answer_memcached_udp(message, peer):
    """A command in one datagram -> an empty cache; nothing is stored."""
    words = message[8:].split(None, 2)
    text = MEMCACHED_UDP.get(words[0], b'ERROR\r\n')
    if words[0] == b'stats' and len(words) > 1 and words[1].strip(b'\0'):
        text = b'END\r\n'
    return message[:8] + text


# ---- mqtt-sn -------------------------------------------------------------------------

MQTTSN_REFUSED = b'\3\5\3'              # MQTT-SN 1.2 s5.4.5: CONNACK, not supported


@datagram('mqtt-sn', sig=('.. .. ..',), port=(1884, 10000),
          check=lambda data, peer: ((data[:2] == b'\3\1' or data[1] == 4 and data[3:4] == b'\1')
                                    and 0 <= len(data) - data[0] <= PADDING_MAX),
          ref='https://groups.oasis-open.org/higherlogic/ws/public/document?document_id=66091')
def answer_mqtt_sn(message, peer):
    """Search for a gateway -> one; connect -> refused."""
    if message[1] == 1:
        return b'\3\2\1'
    peer.note('request', client=message[6:message[0]])
    return MQTTSN_REFUSED


# ---- mssql browser -------------------------------------------------------------------

MSSQL_INSTANCE = (b'ServerName;%s;InstanceName;MSSQLSERVER;IsClustered;No;Version;15.0.2000.5;'
                  b'tcp;1433;;')


@datagram('mssql-browser', sig=('..',), port=1434, most=100.0,
          check=lambda data, peer: data[0] in (2, 3, 4), ref='MS-SQLR s2.2.1, s2.2.2, s2.2.5')
def answer_mssql_browser(message, peer):
    """Which instances -> one, on the usual port."""
    return b'\5' + sized(MSSQL_INSTANCE % peer.host.host_name, 2, 'little')


# ---- netis ---------------------------------------------------------------------------

NETIS_ANSWER = b'\xd0\xa5Login:'


@datagram('netis', sig=('..',), port=53413,
          check=lambda data, peer: (is_small_request(data, peer)
                                    and not NETIS_ANSWER.startswith(data[:len(NETIS_ANSWER)])),
          ref='https://www.shadowserver.org/what-we-do/network-reporting/netis-router-report/')
def answer_netis(message, peer):
    """Anything to the back door of routers -> a login is wanted; no longer than the question."""
    peer.note('request', command=message[:512])
    return NETIS_ANSWER[:len(message)]


# ---- sentinel ------------------------------------------------------------------------

@datagram('sentinel', sig=('7a 00 00 00 00 00',), port=5093,
          ref='https://github.com/zmap/zmap/tree/main/examples/udp-probes')
def answer_sentinel(message, peer):
    """Is there a server of licences -> yes."""
    return b'\x7b\0\0\0\0\0'


# ---- slp -----------------------------------------------------------------------------

SLP_ANSWERS = {1: (2, 4), 6: (7, 5), 9: (10, 4)}        # RFC 2608 s8: answer, octets of nothing
SLP_FIXED = 14                          # octets before the language: its length is the last two


def is_slp(data, peer):
    """As long as it says, and more than its language."""
    size = int.from_bytes(data[2:5], 'big')
    return SLP_FIXED + data[13] < size <= len(data) <= size + PADDING_MAX


@datagram('slp', sig=['02 %02x 00' % kind + ' ..' * 9 + ' 00 ..' for kind in SLP_ANSWERS],
          port=427, check=is_slp, ref='RFC 2608 s8.1, s8.2, s10.1, s10.3')
def answer_slp(message, peer):
    """Request for services, their types, attributes -> none."""
    if peer.to_group:                   # RFC 2608 s7: to many nobody says that it has nothing
        return None
    peer.note('request', command=message[SLP_FIXED + message[13]:])
    kind, zeros = SLP_ANSWERS[message[1]]
    tail = bytes(5) + message[10:14 + message[13]] + bytes(zeros)
    return bytes((2, kind)) + sized(tail, 3, extra=5)


# ---- squeezecenter -------------------------------------------------------------------

@datagram('squeezecenter', sig=(b'eIPAD\0', b'eNAME\0'), port=3483, most=2.0,
          ref='https://wiki.slimdevices.com/index.php/SLIMP3ClientProtocol')
def answer_squeezecenter(message, peer):
    """Which server of music -> its name."""
    return b'ENAME' + sized(peer.host.host_name, 1)


# ---- ssdp ----------------------------------------------------------------------------

SSDP_ANSWER = (b'HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nEXT:\r\n'
               b'LOCATION: http://%s/\r\nST: %s\r\nUSN: uuid:%s\r\n\r\n')


def url_host(address):
    """Address -> as URLs have it."""
    text = ip_text(address)
    return (text if len(address) == 4 else '[%s]' % text).encode()


@datagram('ssdp', sig=(b'M-SEARCH * HTTP/1.1\r\n',), port=1900, most=2.0,
          ref='https://openconnectivity.org/upnp-specs/UPnP-arch-DeviceArchitecture-v2.0.pdf')
def answer_ssdp(message, peer):
    """Search -> one device, whatever kind is sought."""
    fields = dict(parse_fields(message.rstrip(b'\0')))
    kind = fields.get(b'st', b'')[:256]
    if not kind:
        return None
    kind = b'upnp:rootdevice' if kind == b'ssdp:all' else kind
    return SSDP_ANSWER % (url_host(peer.dst), kind, peer.host.uuid)


# ---- ubiquiti ------------------------------------------------------------------------

def ubiquiti_field(kind, value):
    """A field: type, length, value."""
    return bytes((kind,)) + sized(value)


@datagram('ubiquiti', sig=('01 00 00 00', '02 08 00 00', '02 0a 00 04'), port=10001, most=12.0,
          check=lambda data, peer: peer.dport == 10001,
          ref='https://github.com/zmap/zmap/tree/main/examples/udp-probes')
def answer_ubiquiti(message, peer):
    """Discovery -> a device: addresses, version, name, model."""
    mac = b'\2' + peer.host.guid[:5]
    fields = ((1, mac), (2, mac + peer.dst[:4]), (3, b'1.0'), (11, b'device'), (12, b'AP'))
    return (b'\1\0' if message[0] == 1 else b'\2\6') + sized(
        b''.join(ubiquiti_field(*each) for each in fields))


# ---- ws-discovery --------------------------------------------------------------------

WSD_ID = re.compile(br'MessageID[^>]{0,64}>\s*([^<>\s]{1,128})\s*<')
WSD_SCHEMAS = b'http://schemas.xmlsoap.org/ws/'
WSD_ANSWER = (b'<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="'
              + WSD_SCHEMAS + b'2004/08/addressing"><s:Header><a:Action>' + WSD_SCHEMAS
              + b'2005/04/discovery/ProbeMatches</a:Action><a:RelatesTo>%s</a:RelatesTo>'
              b'</s:Header><s:Body><d:ProbeMatches xmlns:d="' + WSD_SCHEMAS
              + b'2005/04/discovery"/></s:Body></s:Envelope>')


@datagram('ws-discovery', sig=(b'<?xml', b'<soap', b'<s:E', b'<SOAP', b'<env', b'<e:E', b'<Env'),
          port=3702, check=lambda data, peer: b'/discovery/Probe<' in data,
          ref='https://docs.oasis-open.org/ws-dd/discovery/1.1/wsdd-discovery-1.1-spec.html')
def answer_ws_discovery(message, peer):
    """Probe -> nothing that matches."""
    ident = WSD_ID.search(message)
    return WSD_ANSWER % ident.group(1) if ident else None


family('Keys and tunnels')


# ---- dtls ----------------------------------------------------------------------------

DTLS_RECORD = struct.Struct('!BHH6sH')  # RFC 6347 s4.1: type version epoch number size
DTLS_1_0 = 0xfeff
DTLS_ALERT = b'\2\x28'                  # RFC 5246 s7.2: fatal, handshake failure


def is_dtls(data, peer):
    """A record as long as it says, with a ClientHello."""
    size = DTLS_RECORD.unpack_from(data)[4]
    return 46 < size <= len(data) - DTLS_RECORD.size


@datagram('dtls', sig=['16 fe %s 00 00 .. .. .. .. .. .. .. .. 01' % minor
                       for minor in ('ff', 'fd', 'fc')],
          port=(443, 4433, 5684), check=is_dtls, ref='RFC 6347 s4.2.1, RFC 9147 s5.1')
def answer_dtls(message, peer):
    """Hello -> a cookie to be sent back; hello with it -> failure."""
    number = message[5:11]
    _, at = read_sized(message, 59, 1)          # behind version and 32 octets: the session
    cookie, _ = read_sized(message, at, 1)
    ours = hashlib.sha256(peer.host.guid + peer.src + b'%d' % peer.sport).digest()[:8]
    if cookie == ours:
        return DTLS_RECORD.pack(21, DTLS_1_0, 0, number, len(DTLS_ALERT)) + DTLS_ALERT
    body = DTLS_1_0.to_bytes(2, 'big') + sized(ours, 1)
    size = sized(body, 3)[:3]
    body = b'\3' + size + message[17:19] + bytes(3) + size + body
    return DTLS_RECORD.pack(22, DTLS_1_0, 0, number, len(body)) + body


# ---- gtp -----------------------------------------------------------------------------

GTP_RESTARTS = b'\x0e\0'                # TS 29.060 s7.7.11: Recovery, of no restart
GTP_2_RESTARTS = b'\3\0\1\0\0'          # TS 29.274 s8.5: the same


@datagram('gtp', sig=('32 01 00 04' + ' ..' * 8, '30 01 00 00 .. .. .. ..',
                      '40 01 00 04 .. .. .. ..', '40 01 00 09 .. .. .. ..'),
          port=(2123, 2152, 3386), most=1.8, ref='https://www.3gpp.org/dynareport/29060.htm')
def answer_gtp(message, peer):
    """Echo request, of version 1 or 2 -> echo response."""
    if message[0] == 0x40:
        return b'\x40\2' + sized(message[4:8] + GTP_2_RESTARTS)
    number = message[8:10] if message[0] & 2 else b'\0\0'
    return b'\x32\2\0\6' + bytes(4) + number + b'\0\0' + GTP_RESTARTS


# ---- ike -----------------------------------------------------------------------------

# RFC 2408 s3.1, RFC 7296 s3.1: cookies or SPIs, next payload, version, exchange, flags, id, size
IKE = struct.Struct('!8s8sBBBB4sI')
IKE_NOTIFY = struct.Struct('!BxHIBBH')          # RFC 2408 s3.14: next size DOI protocol SPI type
IKE_NOTIFY_2 = struct.Struct('!BxHBBH')         # RFC 7296 s3.10: without the DOI
IKE_NONE_CHOSEN = 14                            # the same in RFC 7296 s3.10.1
IKE_NATT = bytes(4)                             # RFC 3948 s2.2: before IKE on its port
IKE_SIGS = ['.. ' * 8 + '00 ' * 8 + tail for tail in (
    '01 10 02 00' + ' ..' * 8, '01 10 04 00' + ' ..' * 8,       # main, aggressive mode
    '.. 20 22 08 00 00 00 00' + ' ..' * 4)]                     # IKE_SA_INIT of an initiator


def is_ike(data, peer):
    """A cookie, and a message no longer than the datagram; one that is on a port of others."""
    at = len(IKE_NATT) if data.startswith(IKE_NATT) else 0
    if len(data) < at + IKE.size:
        return False
    cookie, _, _, _, _, _, _, size = IKE.unpack_from(data, at)
    spare = len(data) - at - size
    return any(cookie) and size >= IKE.size and 0 <= spare <= PADDING_MAX


@datagram('ike', port=(500, 4500), ref='RFC 2408 s3.14, RFC 7296 s3.10, RFC 3948 s2.2',
          sig=[mark + sig for mark in ('', '00 00 00 00 ') for sig in IKE_SIGS], check=is_ike)
def answer_ike(message, peer):
    """A proposal, of either version -> none is chosen."""
    at = len(IKE_NATT) if message.startswith(IKE_NATT) else 0
    cookie, _, _, version, _, _, number, _ = IKE.unpack_from(message, at)
    ours = peer.host.random(8)
    if version == 0x20:
        notify = IKE_NOTIFY_2.pack(0, IKE_NOTIFY_2.size, 0, 0, IKE_NONE_CHOSEN)
        return message[:at] + IKE.pack(cookie, ours, 41, version, 34, 0x20, number,
                                       IKE.size + len(notify)) + notify
    notify = IKE_NOTIFY.pack(0, IKE_NOTIFY.size, 1, 1, 0, IKE_NONE_CHOSEN)
    return message[:at] + IKE.pack(cookie, ours, 11, version, 5, 0, ours[:4],
                                   IKE.size + len(notify)) + notify


# ---- l2tp ----------------------------------------------------------------------------

L2TP_HEAD = struct.Struct('!HHHHHH')    # RFC 2661 s3.1: flags size tunnel session sent received
L2TP_AVP = struct.Struct('!HHH')        # RFC 2661 s4.1: flags and size, vendor, type
L2TP_TUNNEL, L2TP_HOST = 9, 7           # types: Assigned Tunnel ID, Host Name
# RFC 2661 s4.4.2: StopCCN; our tunnel; result: general error 4, no resources
L2TP_STOP = bytes.fromhex('8008000000000004 8008000000090001 800a0000000100020004')


def l2tp_values(message):
    """Control message -> {type: value} of its AVPs."""
    values, at = {}, L2TP_HEAD.size
    end = int.from_bytes(message[2:4], 'big')
    for _ in range(24):
        if at + L2TP_AVP.size > min(end, len(message)):
            break
        size, _, kind = L2TP_AVP.unpack_from(message, at)
        values[kind] = message[at + L2TP_AVP.size:at + (size & 0x3ff)]
        at += max(size & 0x3ff, L2TP_AVP.size)
    return values


@datagram('l2tp', sig=('c8 02 .. .. 00 00 00 00 00 00 00 00 80 08 00 00 00 00 00 01',), port=1701,
          ref='RFC 2661 s4.4.2, s6.1, s6.4')
def answer_l2tp(message, peer):
    """Start of a control connection -> stop: no resources."""
    values = l2tp_values(message)
    if len(values.get(L2TP_TUNNEL, b'')) != 2:
        return None
    peer.note('request', host=values.get(L2TP_HOST, b''))
    tunnel = int.from_bytes(values[L2TP_TUNNEL], 'big')
    return L2TP_HEAD.pack(0xc802, L2TP_HEAD.size + len(L2TP_STOP), tunnel, 0, 0, 1) + L2TP_STOP


# ---- nat-pmp -------------------------------------------------------------------------

NATPMP_VERSION, NATPMP_REFUSED = 1, 2           # RFC 6886 s3.5: unsupported; not authorized


@datagram('nat-pmp', sig=('.. ..',), port=5351, most=4.0,
          check=lambda data, peer: data[0] < 2 and data[1] < 3, ref='RFC 6886 s3.2, s3.3, s3.5')
def answer_nat_pmp(message, peer):
    """Which address, a mapping -> not authorized."""
    result = NATPMP_VERSION if message[0] else NATPMP_REFUSED
    second = int(peer.now - peer.host.boot) & 0xffffffff
    return bytes((0, message[1] | 0x80, 0, result)) + second.to_bytes(4, 'big')


# ---- openvpn over udp ----------------------------------------------------------------

@datagram('openvpn', sig=('38 .. .. .. .. .. .. .. .. 00 00 00 00 00',), port=1194, most=1.9,
          check=lambda data, peer: not any(data[9:]),
          ref='https://openvpn.net/community-resources/openvpn-protocol/')
def answer_openvpn_udp(message, peer):
    """Reset of a client -> reset of a server."""
    _, session = OPENVPN_HEAD.unpack_from(message)
    return (OPENVPN_HEAD.pack(OPENVPN_RESET, peer.host.random(8)) + b'\1' + bytes(4) + session
            + bytes(4))


# ---- pcp -----------------------------------------------------------------------------

@datagram('pcp', sig=('02 .. 00 00' + ' ..' * 20,), port=5351, ref='RFC 6887 s7.2, s7.4',
          check=lambda data, peer: peer.dport == 5351 and data[1] < 0x80)
def answer_pcp(message, peer):
    """A mapping -> not authorized."""
    second = int(peer.now - peer.host.boot) & 0xffffffff
    return (bytes((2, message[1] | 0x80, 0, 2)) + message[4:8] + second.to_bytes(4, 'big')
            + bytes(12) + message[24:1100])


# ---- pfcp ----------------------------------------------------------------------------

@datagram('pfcp', sig=('20 01 00 .. .. .. .. 00 00 60 00 04 .. .. .. ..',), port=8805,
          ref='https://www.3gpp.org/dynareport/29244.htm')
def answer_pfcp(message, peer):
    """Heartbeat request -> response with the time of our start."""
    start = int(peer.host.boot + TIME_EPOCH) & 0xffffffff
    return b'\x20\2\0\x0c' + message[4:8] + b'\0\x60\0\4' + start.to_bytes(4, 'big')


# ---- quic ----------------------------------------------------------------------------

QUIC_1 = b'\0\0\0\1'
QUIC_NONE = b'\x0a\x0a\x0a\x0a'         # RFC 9000 s15: reserved, so that no client can take it
QUIC_LEAST = 1200                       # RFC 9000 s14.1


def is_quic(data, peer):
    """A long head with a version, and connection ids of 20 octets at most.

    The type of the packet is known of version 1 alone: others number it anew (RFC 9369 s3.2).
    """
    size = data[5]
    return (len(data) >= QUIC_LEAST and data[1:5] != bytes(4) and size <= 20
            and data[6 + size] <= 20 and (data[0] < 0xd0 or data[1:5] != QUIC_1))


@datagram('quic', port=443, check=is_quic,
          sig=['%02x' % first + ' ..' * 255 for first in range(0xc0, 0x100)],
          ref='RFC 8999 s6, RFC 9000 s6.1')
def answer_quic(message, peer):
    """Initial packet -> negotiation of versions: version 1; to that one: no version."""
    theirs, at = read_sized(message, 5, 1)
    ours, _ = read_sized(message, at, 1)
    version = QUIC_NONE if message[1:5] == QUIC_1 else QUIC_1
    return (bytes((0x80 | peer.host.random(1)[0], 0, 0, 0, 0)) + sized(ours, 1) + sized(theirs, 1)
            + version)


# ---- wireguard -----------------------------------------------------------------------

@datagram('wireguard', sig=('01 00 00 00' + ' ..' * 144,), port=51820,
          check=lambda data, peer: len(data) <= 148 + PADDING_MAX,
          ref='https://www.wireguard.com/protocol/')
def answer_wireguard(message, peer):
    """Initiation -> silence, as from all whose key the client has not."""
    peer.note('request', sender=message[4:8].hex())


family('Games and peers')


# ---- a2s -----------------------------------------------------------------------------

A2S = b'\xff\xff\xff\xff'
# Valve's server queries: protocol 17; name, map, folder, game; application 0; nobody of 16; a
# dedicated server on Linux, open, without VAC; version
A2S_INFO = A2S + b'I\x11server\0map\0game\0game\0\0\0\0\x10\0dl\0\0\x31\0'
A2S_NONE = {0x55: A2S + b'D\0', 0x56: A2S + b'E\0\0', 0x54: A2S_INFO}       # players, rules


@datagram('a2s', sig=['ff ff ff ff %02x' % kind for kind in (0x54, 0x55, 0x56, 0x57)], port=27015,
          most=1.9, ref='https://developer.valvesoftware.com/wiki/Server_queries')
def answer_a2s(message, peer):
    """Query -> a challenge to be sent back; with it the answer."""
    kind, challenge = message[4], hashlib.sha256(peer.host.guid + peer.src).digest()[:4]
    text, mark, said = message[5:].partition(b'Source Engine Query\0')
    if kind == 0x54 and (text or not mark):
        return None
    if kind != 0x57 and (said if mark else text)[:4] == challenge:
        return A2S_NONE[kind]
    return A2S + b'A' + challenge


# ---- afs -----------------------------------------------------------------------------

@datagram('afs', sig=('.. ' * 12 + '00 00 00 .. 00 00 00 .. 0d' + ' ..' * 8,), port=7001, most=1.5,
          check=lambda data, peer: peer.dport == 7001 and data[21] & 1,
          ref='https://docs.openafs.org/rx-spec/')
def answer_afs(message, peer):
    """Which version -> one, for whoever speaks as a client."""
    return message[:21] + bytes((message[21] & 0xfe,)) + message[22:28] + b'generic 1.0\0'


# ---- bitcoin -------------------------------------------------------------------------

BITCOIN_HEAD = struct.Struct('<4s12sI4s')       # magic command size checksum
BITCOIN_MAGIC = b'\xf9\xbe\xb4\xd9'
BITCOIN_VERSION = 70015
BITCOIN_SAYS = {b'getaddr': (b'addr', b'\0'), b'getheaders': (b'headers', b'\0')}


def pack_bitcoin(command, body):
    """Command, body -> message; its checksum is the begin of a double SHA-256."""
    digest = hashlib.sha256(hashlib.sha256(body).digest()).digest()
    return BITCOIN_HEAD.pack(BITCOIN_MAGIC, command, len(body), digest[:4]) + body


@talk('bitcoin', sig=(BITCOIN_MAGIC + b'version\0\0\0\0\0',), port=8333,
      size=le(16, 4, BITCOIN_HEAD.size),
      ref='https://developer.bitcoin.org/reference/p2p_networking.html')
def answer_bitcoin(message, peer):
    """Version, ping -> the same; addresses, headers -> none."""
    magic, command, _, _ = BITCOIN_HEAD.unpack_from(message)
    command, body = command.rstrip(b'\0'), message[BITCOIN_HEAD.size:]
    if magic != BITCOIN_MAGIC:
        return None
    if command == b'version':
        if peer.state:
            return None
        peer.state = 'greeted'
        # services, time, two addresses, nonce, agent, height, relays
        ours = struct.pack('<IQQ52x8s6x', BITCOIN_VERSION, 0, int(peer.now), peer.host.random(8))
        return pack_bitcoin(command, ours) + pack_bitcoin(b'verack', b'')
    if command == b'ping':
        return pack_bitcoin(b'pong', body)
    return pack_bitcoin(*BITCOIN_SAYS[command]) if command in BITCOIN_SAYS else b''


# ---- bittorrent ----------------------------------------------------------------------

BITTORRENT_TAG = re.compile(br'1:t([1-8]):')


@datagram('dht', sig=(b'd1:ad2:id20:',), port=6881, most=1.2,
          check=lambda data, peer: b'1:y1:q' in data[32:],
          ref='https://www.bittorrent.org/beps/bep_0005.html')
def answer_dht(message, peer):
    """Ping -> our id; find node, get peers -> none."""
    tag = BITTORRENT_TAG.search(message, 32)
    if not tag:
        return None
    text = message[tag.end():tag.end() + int(tag.group(1))]
    nodes = b'' if b'1:q4:ping' in message else b'5:nodes0:'
    return b'd1:rd2:id20:%s%se1:t%d:%s1:y1:re' % (
        hashlib.sha1(peer.host.guid).digest(), nodes, len(text), text)


@datagram('tracker', sig=('00 00 04 17 27 10 19 80 00 00 00 00' + ' ..' * 4,),
          port=(6969, 1337), ref='https://www.bittorrent.org/beps/bep_0015.html')
def answer_tracker(message, peer):
    """Connect -> a connection."""
    return bytes(4) + message[12:16] + hashlib.sha1(peer.host.guid + peer.src).digest()[:8]


@datagram('utp', sig=('41 00' + ' ..' * 18,), port=6881,
          check=lambda data, peer: not any(data[8:12]) and len(data) <= 20 + PADDING_MAX,
          ref='https://www.bittorrent.org/beps/bep_0029.html')
def answer_utp(message, peer):
    """SYN -> state: acknowledged."""
    micros = int(peer.now * 1000000)
    delay = micros - int.from_bytes(message[4:8], 'big') & 0xffffffff
    return b'\x21\0' + message[2:4] + (micros & 0xffffffff).to_bytes(4, 'big') + (
        delay.to_bytes(4, 'big') + b'\0\x10\0\0\0\1' + message[16:18])


# ---- bittorrent ----------------------------------------------------------------------

BITTORRENT_HELLO = b'\x13BitTorrent protocol'


@talk('bittorrent', sig=(BITTORRENT_HELLO,), port=(6881, 51413), size=fix(68),
      ref='https://www.bittorrent.org/beps/bep_0003.html')
def answer_bittorrent(message, peer):
    """Handshake -> the same with our id; what follows is not read."""
    if peer.state:
        return None
    peer.state = 'greeted'
    peer.note('request', target=message[28:48].hex(), client=message[48:68])
    return BITTORRENT_HELLO + bytes(8) + message[28:48] + b'-XX0001-' + peer.host.random(12)


# ---- minecraft -----------------------------------------------------------------------

MINECRAFT_STATUS = (b'{"version":{"name":"1.20.4","protocol":765},"players":{"max":20,"online":0},'
                    b'"description":{"text":"server"}}')
MINECRAFT_REFUSAL = b'{"text":"You are not white-listed on this server!"}'
MINECRAFT_OLD = '\xa71\x00127\x001.20.4\x00server\x000\x0020'
MINECRAFT_ASK, MINECRAFT_LOGIN = 1, 2   # what a handshake is followed by
MINECRAFT_HELLO = re.compile(           # size, 0, version, size of a name
    br'[\x0a-\x7f]\0[\x80-\xff]{0,4}[\0-\x7f]([\x01-\x7f])(?=[\x20-\x7e])')


def pack_minecraft(text):
    """A text of less than 16 kB as packet 0; both sizes in groups of 7 bits."""
    size = len(text)
    sizes = bytes((size & 0x7f | 0x80, size >> 7))
    whole = size + 3
    return bytes((whole & 0x7f | 0x80, whole >> 7, 0)) + sizes + text


def size_minecraft(data):
    """Two octets before 1.7; else a size in groups of 7 bits."""
    return 2 if data[:1] == b'\xfe' else varint(0)(data)


def is_minecraft(data, peer):
    """A handshake: packet 0, whose size fits its version and name; a port, what follows."""
    match = MINECRAFT_HELLO.match(data)
    return bool(match) and data[0] == match.end() - 1 + match.group(1)[0] + 3


@talk('minecraft', port=25565, size=size_minecraft, limit=1024,
      sig=['fe 01'] + ['%02x 00' % size + ' ..' * 14 for size in range(15, 96)],
      check=lambda data, peer: data[:1] == b'\xfe' or is_minecraft(data, peer),
      ref='https://minecraft.wiki/w/Java_Edition_protocol/Server_List_Ping')
def answer_minecraft(message, peer):
    """Status, ping -> a server of nobody; login -> refusal.

    state   what the handshake is followed by
    """
    if message[:1] == b'\xfe':
        return b'\xff' + struct.pack('!H', len(MINECRAFT_OLD)) + MINECRAFT_OLD.encode(
            'utf-16-be'), SHUT
    if peer.state is None:
        peer.state = message[-1]
        return b''
    if message[1] == 0 and peer.state == MINECRAFT_ASK:
        return pack_minecraft(MINECRAFT_STATUS)
    if message[1] == 0 and peer.state == MINECRAFT_LOGIN:
        peer.note('credentials', user=read_sized(message, 2, 1)[0][:16])
        return pack_minecraft(MINECRAFT_REFUSAL), SHUT
    return (message, SHUT) if message[1] == 1 else None


# ---- mumble --------------------------------------------------------------------------

MUMBLE = struct.Struct('!I8sIII')       # version ident users most bandwidth


@datagram('mumble', sig=('00 00 00 00' + ' ..' * 8,), port=64738, most=2.0,
          check=lambda data, peer: peer.dport == 64738 and len(data) <= 12 + PADDING_MAX,
          ref='https://www.mumble.info/documentation/developer/protocol/')
def answer_mumble(message, peer):
    """Ping -> an empty server."""
    return MUMBLE.pack(0x10500, message[4:12], 0, 100, 72000)


# ---- quake ---------------------------------------------------------------------------

QUAKE_ANSWERS = {
    b'getstatus': b'statusResponse\n\\mapname\\q\n', b'status': b'print\n\\hostname\\s\n',
    b'getinfo': b'infoResponse\n\\hostname\\s', b'info': b'info\nserver'}
QUAKE_WORD = re.compile(br'\xff{4}(getstatus|getinfo|status|info)(?![A-Za-z])')


@datagram('quake', sig=['ff ff ff ff %02x %02x' % (ord(word[0]), ord(word[1]))
                        for word in ('ge', 'st', 'in')], port=(27960, 27910, 28960), most=2.6,
          check=lambda data, peer: QUAKE_WORD.match(data) and not data.startswith(b'info\n', 4),
          ref='https://github.com/id-Software/Quake-III-Arena')
def answer_quake(message, peer):
    """Status, information -> an empty server."""
    return A2S + QUAKE_ANSWERS[QUAKE_WORD.match(message).group(1)]


@datagram('quake1', sig=('80 00 00 0c 02 51 55 41 4b 45 00 03',), port=26000, most=2.9,
          ref='https://github.com/id-Software/Quake')
def answer_quake1(message, peer):
    """Which server -> an empty one."""
    where = b'%s:%d\0' % (url_host(peer.dst), peer.dport)
    return b'\x80\0' + sized(b'\x83' + where + b's\0m\0' + b'\0\x08\3', extra=4)


# ---- raknet --------------------------------------------------------------------------

RAKNET_MAGIC = '00 ff ff 00 fe fe fe fe fd fd fd fd 12 34 56 78'


@datagram('raknet', sig=['%02x' % kind + ' ..' * 8 + ' ' + RAKNET_MAGIC for kind in (1, 2)],
          port=19132, most=2.4, ref='https://minecraft.wiki/w/RakNet')
def answer_raknet(message, peer):
    """Unconnected ping -> pong of an empty server."""
    return (b'\x1c' + message[1:9] + peer.host.guid[:8] + message[9:25]
            + sized(b'MCPE;server;0;1.0;0;10;0'))


# ---- rcon ----------------------------------------------------------------------------

RCON_HEAD = struct.Struct('<III')       # size id kind; then two texts that end in NUL
RCON_LOGIN, RCON_ANSWER = 3, 2


@talk('rcon', port=(27015, 25575), size=le(0, 4, 4), limit=1024,
      sig=['%02x 00 00 00 .. .. .. .. 03 00 00 00' % size     # an empty line is not the begin
           for size in range(10, 80) if size not in b'\r\n'],
      ref='https://developer.valvesoftware.com/wiki/Source_RCON_Protocol')
def answer_rcon(message, peer):
    """Password -> refusal."""
    _, ident, kind = RCON_HEAD.unpack_from(message)
    if kind != RCON_LOGIN:
        return None
    peer.note('credentials', user=b'', password=message[RCON_HEAD.size:].split(b'\0')[0])
    return RCON_HEAD.pack(10, ident, 0) + b'\0\0' + RCON_HEAD.pack(
        10, 0xffffffff, RCON_ANSWER) + b'\0\0'


family('Databases and queues')


# ---- aerospike -----------------------------------------------------------------------

AEROSPIKE_SAYS = {b'build': b'6.0.0.0', b'node': b'BB9000000000000', b'status': b'ok',
                  b'partition-generation': b'0', b'peers-clear-std': b'1,3000,[]',
                  b'peers-generation': b'1'}
# Message 2.3 of no fields: its head's size, flags, result 80 (not authenticated)
AEROSPIKE_REFUSAL = b'\2\3' + sized(bytes((22, 0, 0, 0, 0, 80)) + bytes(16), 6)


@talk('aerospike', sig=('02 01 00 00 00 00 .. ..', '02 03 00 00 00 00 .. .. 16'), port=3000,
      size=be(2, 6, 8), ref='https://github.com/aerospike/aerospike-client-c')
def answer_aerospike(message, peer):
    """Names of facts -> facts; all else is refused; what has results is an answer."""
    if b'\t' in message if message[1] == 1 else message[13]:
        return None
    if message[1] != 1:
        peer.note('request', function=message[1], data=message[8:])
        return AEROSPIKE_REFUSAL
    names = message[8:].split(b'\n', 64)[:-1] or sorted(AEROSPIKE_SAYS)
    return b'\2\1' + sized(b''.join(
        b'%s\t%s\n' % (name, AEROSPIKE_SAYS.get(name, b'')) for name in names), 6)


# ---- clickhouse ----------------------------------------------------------------------

CLICKHOUSE_VERSION = re.compile(br'(?:[\x80-\xff]{0,9}[\0-\x7f]){3}')     # three numbers
CLICKHOUSE_REFUSED = 516                # AUTHENTICATION_FAILED
# Exception: code, its name, what happened, where; no other in it
CLICKHOUSE_REFUSAL = (b'\2' + struct.pack('<I', CLICKHOUSE_REFUSED) + sized(b'DB::Exception', 1)
                      + sized(b'Authentication failed', 1) + sized(b'', 1) + b'\0')


def read_clickhouse(data):
    """Hello -> [client, database, user, password], where it ends."""
    client, at = read_sized(data, 1, 1)
    version = CLICKHOUSE_VERSION.match(data, at)
    if not version:
        raise Malformed('version at %d' % at)
    texts, at = [client], version.end()
    while len(texts) < 4:
        text, at = read_sized(data, at, 1)
        texts.append(text)
    return texts, at


def size_clickhouse(data):
    """Where the hello ends, if it is whole."""
    try:
        return read_clickhouse(data)[1]
    except Malformed:
        return None


@talk('clickhouse', sig=('00 .. 43 6c 69 63 6b 48 6f 75 73 65',), port=9000, limit=1024,
      size=size_clickhouse, ref='https://clickhouse.com/docs/native-protocol/server')
def answer_clickhouse(message, peer):
    """Hello -> authentication failed."""
    client, _, user, password = read_clickhouse(message)[0]
    peer.note('credentials', user=user, password=password, client=client)
    return CLICKHOUSE_REFUSAL, SHUT


# ---- openwire ------------------------------------------------------------------------

# Map of one entry: "TightEncodingEnabled", boolean, no
OPENWIRE_MAP = struct.pack('!I', 1) + sized(b'TightEncodingEnabled') + b'\1\0'
OPENWIRE_HELLO = sized(b'\1ActiveMQ' + struct.pack('!I', 12) + b'\1' + sized(OPENWIRE_MAP, 4), 4)


@talk('openwire', sig=('00 00 .. .. 01' + ' %02x' * 8 % tuple(b'ActiveMQ'),), port=61616,
      size=be(0, 4, 4), banner=OPENWIRE_HELLO,
      ref='https://activemq.apache.org/components/classic/documentation/'
          'openwire-version-2-specification')
def answer_openwire(message, peer):
    """Format of the wire -> ours, if we have not said it yet; what follows ends it.

    state   'greeted'
    """
    if message[4:13] != OPENWIRE_HELLO[4:13]:
        peer.note('request', function=message[4], data=message[5:])
        return b'', SHUT
    given = b'' if peer.greeter or peer.state else OPENWIRE_HELLO
    peer.state = 'greeted'
    return given


# ---- pulsar --------------------------------------------------------------------------

PULSAR_CONNECT, PULSAR_PING = b'\x08\2', b'\x08\x12'    # PulsarApi.proto: type of a command
PULSAR_CONNECTED = b'\x08\3\x1a' + sized(b'\x0a' + sized(b'Broker 2.10', 1) + b'\x10\x13', 1)
PULSAR_PONG = b'\x08\x13\x9a\1\0'
# ERROR of no request: authorization
PULSAR_REFUSAL = b'\x08\x0e\x72' + sized(
    b'\x08' + b'\xff' * 9 + b'\1\x10\4\x1a' + sized(b'not authorized', 1), 1)


@talk('pulsar', sig=('00 00 .. .. 00 00 .. .. 08 02 12',), port=6650, size=be(0, 4, 4),
      ref='https://pulsar.apache.org/docs/next/developing-binary-protocol/')
def answer_pulsar(message, peer):
    """Connect, ping -> the same; all else -> refusal."""
    kind = message[8:10]
    says = {PULSAR_CONNECT: PULSAR_CONNECTED, PULSAR_PING: PULSAR_PONG}.get(kind, PULSAR_REFUSAL)
    return sized(sized(says, 4), 4), says is PULSAR_REFUSAL


# ---- rethinkdb -----------------------------------------------------------------------

RETHINK_HELLO = (b'{"success":true,"min_protocol_version":0,"max_protocol_version":0,'
                 b'"server_version":"2.4.0"}\0')
RETHINK_REFUSAL = b'{"success":false,"error":"Wrong password","error_code":12}\0'
RETHINK_USER = re.compile(br'n=([^,"]{0,64}),r=')


def size_rethink(data):
    """The magic, alone or with a key before it was 1.0; then text that ends in NUL."""
    if data[:1] == b'{':
        return till(b'\0')(data)
    if data[:4] == b'\xc3\xbd\xc2\x34':
        return 4
    return le(4, 4, 12)(data)


@talk('rethinkdb', sig=('c3 bd c2 34', '20 2d 0c 40', '2d 4b 08 5f'), port=28015, limit=4096,
      size=size_rethink, ref='https://rethinkdb.com/docs/writing-drivers/')
def answer_rethink(message, peer):
    """Version -> ours; login -> refusal.

    state   'greeted'
    """
    if peer.state is None and message[:1] != b'{':
        peer.state = 'greeted'
        if len(message) == 4:
            return RETHINK_HELLO
        peer.note('credentials', user=b'', password=message[8:-4])
        return b'ERROR: Incorrect authorization key.\n\0', SHUT
    match = RETHINK_USER.search(message)
    peer.note('credentials', user=match.group(1) if match else b'')
    return RETHINK_REFUSAL, SHUT


# ---- sasl plain ----------------------------------------------------------------------

def note_plain(peer, response):
    """Response of SASL PLAIN -> its name and password are noted."""
    user, password = parse_plain(response)
    peer.note('credentials', user=user, password=password)


# ---- amqp ----------------------------------------------------------------------------

AMQP_FRAME = struct.Struct('!BHI')      # 0-9-1 s2.3.5: type channel size; then as many, and 0xce
AMQP_METHOD = struct.Struct('!HH')      # 0-9-1 s2.3.5.1: class method
AMQP_ASK = struct.Struct('!IBBH')       # 1.0 s2.3.1: size offset-of-body type channel
AMQP_START, AMQP_START_OK, AMQP_CLOSE = 10, 11, 50      # 0-9-1 s1.4.2: methods of class 10
AMQP_REFUSED = 403
AMQP_OURS, AMQP_SASL = b'AMQP\0\0\x09\1', b'AMQP\3\1\0\0'
AMQP_TLS = b'AMQP\2\1\0\0'              # 1.0 s5.2
# 1.0 s5.3.3.1: a list of an array of one symbol; s5.3.3.6: code 1, not authenticated
AMQP_MECHANISMS = bytes.fromhex('005340 c00b01 e0080170 a305') + b'PLAIN'
AMQP_OUTCOME = bytes.fromhex('005344 c0030150 01')


def pack_amqp(method, arguments):
    """Method of a connection -> its frame on channel 0."""
    body = AMQP_METHOD.pack(10, method) + arguments
    return AMQP_FRAME.pack(1, 0, len(body)) + body + b'\xce'


def pack_amqp_sasl(body):
    """Body -> the frame of SASL that AMQP 1.0 has."""
    return AMQP_ASK.pack(AMQP_ASK.size + len(body), 2, 1, 0) + body


def size_amqp(data):
    """A protocol header of 8 octets, a frame of 1.0, or one of 0-9-1, which begins with 1."""
    if data[:1] == b'A':
        return len(AMQP_OURS)
    return (be(0, 4, 0) if data[:1] == b'\0' else be(3, 4, AMQP_FRAME.size + 1))(data)


AMQP_WELCOME = pack_amqp(AMQP_START, b'\0\x09' + sized(b'', 4) + sized(b'PLAIN', 4)
                         + sized(b'en_US', 4))
AMQP_REFUSAL = pack_amqp(AMQP_CLOSE, struct.pack('!H', AMQP_REFUSED)
                         + sized(b'ACCESS_REFUSED', 1)
                         + AMQP_METHOD.pack(10, AMQP_START_OK))


@talk('amqp', sig=(b'AMQP',), port=(5672, 5671), size=size_amqp,
      ref='https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf')
def answer_amqp(message, peer):
    """Protocol header -> mechanisms; login -> refusal.

    state   what was agreed on: our protocol header
    """
    if message == AMQP_TLS and peer.state is None:
        return start_tls(peer, AMQP_TLS, (AMQP_SASL, SHUT))
    if peer.state is None:
        peer.state = message
        if message == AMQP_OURS:
            return AMQP_WELCOME
        if message == AMQP_SASL:
            return AMQP_SASL + pack_amqp_sasl(AMQP_MECHANISMS)
        return AMQP_SASL if message[4:6] == b'\0\1' else AMQP_OURS, SHUT
    if peer.state == AMQP_SASL:
        at = message.index(b'\0SA', AMQP_ASK.size) + 6      # descriptor 0x41, list8, its two sizes
        _, at = read_sized(message, at + 1, 1)            # the mechanism's symbol
        note_plain(peer, read_sized(message, at + 1, 1)[0])
        return pack_amqp_sasl(AMQP_OUTCOME), SHUT
    if AMQP_METHOD.unpack_from(message, AMQP_FRAME.size) != (10, AMQP_START_OK):
        return None
    _, at = read_sized(message, AMQP_FRAME.size + AMQP_METHOD.size, 4)    # properties
    mechanism, at = read_sized(message, at, 1)
    if mechanism == b'PLAIN':
        note_plain(peer, read_sized(message, at, 4)[0])
    return AMQP_REFUSAL, SHUT


# ---- cassandra -----------------------------------------------------------------------

CQL_HEAD = struct.Struct('!BBHBI')      # v4 s2: version flags stream opcode size
CQL_VERSIONS = 3, 4
CQL_ERROR, CQL_STARTUP, CQL_AUTHENTICATE, CQL_OPTIONS, CQL_SUPPORTED = 0, 1, 3, 5, 6    # s2.4
CQL_RESPONSE = 0x0f
CQL_PROTOCOL_ERROR, CQL_BAD_CREDENTIALS = 0x000a, 0x0100        # s9
CQL_OFFER = struct.pack('!H', 2) + b''.join((           # s4.2.4: {option: [values]}
    sized(b'CQL_VERSION'), struct.pack('!H', 1), sized(b'3.4.5'),
    sized(b'COMPRESSION'), struct.pack('!H', 0)))
CQL_AUTHENTICATOR = sized(b'org.apache.cassandra.auth.PasswordAuthenticator')


def pack_cql_error(code, text):
    """Code and words -> the body of an ERROR."""
    return struct.pack('!I', code) + sized(text)


@talk('cassandra', port=9042, size=be(5, 4, CQL_HEAD.size),
      sig=['%02x %s .. .. %s' % each for version in (3, 4, 5, 6, 0x41, 0x42) for each in (
          (version, '00', '05 00 00 00 00'), (version, '10', '05 00 00 00 00'),
          (version, '00', '01 00 00'), (version, '10', '01 00 00'))],
      ref='https://github.com/apache/cassandra/blob/trunk/doc/native_protocol_v4.spec')
def answer_cassandra(message, peer):
    """Options, startup -> ours; login -> refusal."""
    version, _, stream, opcode, _ = CQL_HEAD.unpack_from(message)
    close = False
    if version not in CQL_VERSIONS:
        version, kind = CQL_VERSIONS[-1], CQL_ERROR
        body = pack_cql_error(CQL_PROTOCOL_ERROR, b'unsupported protocol version; try 4')
    elif opcode == CQL_OPTIONS:
        kind, body = CQL_SUPPORTED, CQL_OFFER
    elif opcode == CQL_STARTUP:
        kind, body = CQL_AUTHENTICATE, CQL_AUTHENTICATOR
    elif opcode == CQL_RESPONSE:
        note_plain(peer, message[CQL_HEAD.size + 4:])
        kind, body = CQL_ERROR, pack_cql_error(CQL_BAD_CREDENTIALS, b'wrong name or password')
        close = True
    else:
        kind, body = CQL_ERROR, pack_cql_error(CQL_PROTOCOL_ERROR, b'not logged in')
    return CQL_HEAD.pack(0x80 | version, 0, stream, kind, len(body)) + body, close


# ---- couchbase -----------------------------------------------------------------------

# magic opcode key-size extras-size type status body-size opaque cas
COUCHBASE_HEAD = struct.Struct('!BBHBBHIIQ')
COUCHBASE_QUIT, COUCHBASE_NOOP, COUCHBASE_VERSION, COUCHBASE_STAT = 0x07, 0x0a, 0x0b, 0x10
COUCHBASE_LIST, COUCHBASE_AUTH = 0x20, 0x21
COUCHBASE_SAYS = {COUCHBASE_NOOP: b'', COUCHBASE_VERSION: b'1.6.0', COUCHBASE_STAT: b'',
                  COUCHBASE_LIST: b'PLAIN', COUCHBASE_QUIT: b''}
COUCHBASE_REFUSED = 0x20                # status: authentication failed, or is needed


def is_couchbase(data, peer):
    """The parts of the body fit into it, and nothing is in a bucket we have not."""
    _, _, key, extras, _, _, size, _, _ = COUCHBASE_HEAD.unpack_from(data)
    return key + extras <= size <= MESSAGE_MAX - COUCHBASE_HEAD.size


@talk('couchbase', sig=('80 .. .. .. .. 00 00 00' + ' ..' * 16,), port=(11210, 11211),
      check=is_couchbase, size=be(8, 4, COUCHBASE_HEAD.size),
      ref='https://github.com/memcached/memcached/wiki/BinaryProtocolRevamped')
def answer_couchbase(message, peer):
    """Version, mechanisms -> ours; login -> refusal."""
    magic, opcode, key, extras, _, _, _, opaque, _ = COUCHBASE_HEAD.unpack_from(message)
    if magic != 0x80:
        return None
    if opcode == COUCHBASE_AUTH:
        note_plain(peer, message[COUCHBASE_HEAD.size + extras + key:])
    body = COUCHBASE_SAYS.get(opcode, b'')
    status = 0 if opcode in COUCHBASE_SAYS else COUCHBASE_REFUSED
    return (COUCHBASE_HEAD.pack(0x81, opcode, 0, 0, 0, status, len(body), opaque, 0) + body,
            opcode == COUCHBASE_QUIT)


# ---- drda ----------------------------------------------------------------------------

DRDA_HEAD = struct.Struct('!HBBHHH')    # DSS: size magic format correlation; size-of-object code
DRDA_FIELD = struct.Struct('!HH')       # size code
DRDA_MAGIC, DRDA_REPLY, DRDA_CHAINED = 0xd0, 2, 0x40
DRDA_EXCSAT, DRDA_ACCSEC, DRDA_SECCHK = 0x1041, 0x106d, 0x106e
DRDA_EXCSATRD, DRDA_ACCSECRD, DRDA_SECCHKRM = 0x1443, 0x14ac, 0x1219
DRDA_EXTNAM, DRDA_SRVCLSNM, DRDA_SRVRLSLV, DRDA_SRVNAM = 0x115e, 0x1147, 0x115a, 0x116d
DRDA_SECMEC, DRDA_USER, DRDA_PASSWORD = 0x11a2, 0x11a0, 0x11a1
DRDA_SVRCOD, DRDA_SECCHKCD = 0x1149, 0x11a4
DRDA_CODE_PAGE = 'cp037'                # names are in EBCDIC until both have agreed
DRDA_ANSWERS = {                        # request: reply, [(code, value)]
    DRDA_EXCSAT: (DRDA_EXCSATRD, (
        (DRDA_EXTNAM, 'server'), (DRDA_SRVCLSNM, 'DB2'), (DRDA_SRVNAM, 'server'),
        (DRDA_SRVRLSLV, '11.0'))),
    DRDA_ACCSEC: (DRDA_ACCSECRD, ((DRDA_SECMEC, b'\0\3'),)),                # name and password
    DRDA_SECCHK: (DRDA_SECCHKRM, ((DRDA_SVRCOD, b'\0\x08'), (DRDA_SECCHKCD, b'\x0f'))),
}


def drda_fields(message):
    """Object of a DSS -> {code: value}."""
    found, at = {}, DRDA_HEAD.size
    while at < len(message):
        size, code = DRDA_FIELD.unpack_from(message, at)
        found[code] = message[at + DRDA_FIELD.size:at + size]
        at += max(size, DRDA_FIELD.size)
    return found


@talk('drda', sig=('.. .. d0 .. .. .. .. .. 10 41',), port=(50000, 446), size=be(0, 2, 0),
      ref='https://www.opengroup.org/dbiop/')
def answer_drda(message, peer):
    """Attributes, access -> ours; security check -> refusal."""
    _, magic, _, correlation, _, request = DRDA_HEAD.unpack_from(message)
    if magic != DRDA_MAGIC or request not in DRDA_ANSWERS:
        return None
    if request == DRDA_SECCHK:
        said = drda_fields(message)
        user, password = (said.get(code, b'').decode(DRDA_CODE_PAGE)
                          for code in (DRDA_USER, DRDA_PASSWORD))
        peer.note('credentials', user=user, password=password)
    reply, fields = DRDA_ANSWERS[request]
    body = b''
    for code, value in fields:
        value = value if isinstance(value, bytes) else value.encode(DRDA_CODE_PAGE)
        body += DRDA_FIELD.pack(DRDA_FIELD.size + len(value), code) + value
    size = DRDA_HEAD.size + len(body)
    return (DRDA_HEAD.pack(size, DRDA_MAGIC, DRDA_REPLY, correlation, size - 6, reply) + body,
            request == DRDA_SECCHK)


# ---- epmd ----------------------------------------------------------------------------

@talk('epmd', sig=('00 01 6e', '00 .. 7a ..'), port=4369, size=be(0, 2, 2), limit=260,
      ref='https://www.erlang.org/doc/apps/erts/erl_dist_protocol.html')
def answer_epmd(message, peer):
    """Which nodes -> none; where is one -> nowhere."""
    if message[2:3] == b'n':
        return struct.pack('!I', peer.dport), SHUT
    return b'w\1', SHUT


# ---- erlang --------------------------------------------------------------------------

@talk('erlang', sig=('00 .. 6e 00 05', '00 .. 4e 00 00 00'), port=25672,
      size=be(0, 2, 2), limit=514,
      ref='https://www.erlang.org/doc/apps/erts/erl_dist_protocol.html')
def answer_erlang(message, peer):
    """A node's name -> it is not allowed here."""
    peer.note('credentials', user=message[9 if message[2:3] == b'n' else 17:])
    return sized(b'snot_allowed'), SHUT


# ---- firebird ------------------------------------------------------------------------

FIREBIRD_WORD = struct.Struct('!I')
FIREBIRD_ACCEPT = struct.pack('!IIII', 3, 10, 1, 3)     # op_accept: protocol 10, any, batch send
FIREBIRD_ATTACH, FIREBIRD_CREATE = 19, 20
FIREBIRD_USER, FIREBIRD_PASSWORDS = 28, (29, 30)        # isc_dpb_user_name, _password, _enc
# op_response: object, blob, no data; status: isc_arg_gds isc_login, end
FIREBIRD_REFUSAL = struct.pack('!IIQIIII', 9, 0, 0, 0, 1, 335544472, 0)


def read_firebird(data, at):
    """String in XDR at `at` -> the string, where the next begins (RFC 4506 s4.11)."""
    value, end = read_sized(data, at, FIREBIRD_WORD.size)
    return value, end + -len(value) % 4


def size_firebird(data):
    """op_connect has a path, a count, a name, and 20 octets each time; op_attach two strings."""
    try:
        if data[3:4] != b'\1':
            return read_firebird(data, read_firebird(data, 8)[1])[1]
        _, at = read_firebird(data, 16)
        count, = FIREBIRD_WORD.unpack_from(data, at)
        return read_firebird(data, at + FIREBIRD_WORD.size)[1] + 20 * count
    except (Malformed, struct.error):
        return None


@talk('firebird', sig=('00 00 00 01 00 00 00 13 00 00 00 ..',), port=3050, size=size_firebird,
      ref='https://firebirdsql.org/file/documentation/html/en/firebirddocs/wireprotocol/'
          'firebird-wire-protocol.html')
def answer_firebird(message, peer):
    """Connect -> protocol 10; attach -> refusal."""
    request, = FIREBIRD_WORD.unpack_from(message)
    if peer.state is None:
        peer.state = 'connected'
        return FIREBIRD_ACCEPT
    if request not in (FIREBIRD_ATTACH, FIREBIRD_CREATE):
        return None
    parameters, _ = read_firebird(message, read_firebird(message, 8)[1])
    said, at = {}, 1
    while at < len(parameters):
        kind = parameters[at]
        said[kind], at = read_sized(parameters, at + 1, 1)
    password = next((said[kind] for kind in FIREBIRD_PASSWORDS if kind in said), b'')
    peer.note('credentials', user=said.get(FIREBIRD_USER, b''), password=password)
    return FIREBIRD_REFUSAL, SHUT


# ---- ibm mq --------------------------------------------------------------------------

MQ_HEAD = struct.Struct('!4sIBBB9xIHxx')        # TSH: mark size order type flags encoding charset
MQ_INITIAL, MQ_STATUS = 1, 5            # segment types
MQ_NO_CHANNEL = 1                       # status: the remote channel is not found
MQ_CHANNEL_AT, MQ_CHANNEL_SIZE = 24, 20         # behind the head, in initial data


@talk('ibm-mq', sig=('54 53 48 20 00 00 .. .. 01', '54 53 48 20 00 00 .. .. 02'), port=1414,
      size=be(4, 4, 0), ref='https://www.wireshark.org/docs/dfref/m/mq.html')
def answer_ibm_mq(message, peer):
    """Name of a channel -> there is none of that name."""
    mark, _, _, kind, _, _, _ = MQ_HEAD.unpack_from(message)
    if kind != MQ_INITIAL:
        return b'', SHUT
    at = MQ_HEAD.size + MQ_CHANNEL_AT
    peer.note('request', channel=message[at:at + MQ_CHANNEL_SIZE].rstrip(b' \0'))
    status = struct.pack('!II', 8, MQ_NO_CHANNEL)
    head = MQ_HEAD.pack(mark, MQ_HEAD.size + len(status), 1, MQ_STATUS, 0x0a, 273, 819)
    return head + status, SHUT


# ---- kafka ---------------------------------------------------------------------------

KAFKA_HEAD = struct.Struct('!IHHI')     # size key version correlation; then the client's name
KAFKA_METADATA, KAFKA_HANDSHAKE, KAFKA_VERSIONS, KAFKA_LOGIN = 3, 17, 18, 36
KAFKA_MOST = {KAFKA_METADATA: 1, KAFKA_HANDSHAKE: 1, KAFKA_VERSIONS: 3, KAFKA_LOGIN: 0}
KAFKA_UNSUPPORTED, KAFKA_LOGIN_FAILED = 35, 58          # error codes


def is_kafka(data, peer):
    """It is a request that we know; the name of the client fits into it, or there is none."""
    size, key, _, _ = KAFKA_HEAD.unpack_from(data)
    name, = struct.unpack_from('!h', data, KAFKA_HEAD.size)
    return key in KAFKA_MOST and -1 <= name <= size - 10


def pack_kafka_versions(version):
    """Version of the request -> what we understand; of a later one only this: it is too new."""
    if version > KAFKA_MOST[KAFKA_VERSIONS]:
        return struct.pack('!HIHHH', KAFKA_UNSUPPORTED, 1, KAFKA_VERSIONS, 0, 3)
    tag = b'\0' if version == 3 else b''
    rows = b''.join(struct.pack('!HHH', key, 0, most) + tag for key, most in KAFKA_MOST.items())
    count = len(KAFKA_MOST)
    head = b'\0\0' + (bytes((count + 1,)) if version == 3 else struct.pack('!I', count))
    return head + rows + (bytes(4) if version else b'') + tag


def pack_kafka_metadata(version, peer):
    """Version of the request -> one broker, which is ourselves, and no topic."""
    broker = struct.pack('!II', 1, 0) + sized(ip_text(peer.dst).encode()) + struct.pack(
        '!I', peer.dport)
    return broker + (b'\xff\xff' + struct.pack('!I', 0) if version else b'') + struct.pack('!I', 0)


@talk('kafka', sig=('00 00 .. .. 00 .. 00 .. .. .. .. .. .. ..',),
      port=9092, size=be(0, 4, 4), check=is_kafka, ref='https://kafka.apache.org/protocol')
def answer_kafka(message, peer):
    """Versions, metadata -> ours; login -> refusal."""
    _, key, version, correlation = KAFKA_HEAD.unpack_from(message)
    name, = struct.unpack_from('!h', message, KAFKA_HEAD.size)
    if key not in KAFKA_MOST:
        return b'', SHUT
    if key == KAFKA_VERSIONS:
        body = pack_kafka_versions(version)
    elif version > KAFKA_MOST[key]:
        return b'', SHUT
    elif key == KAFKA_METADATA:
        body = pack_kafka_metadata(version, peer)
    elif key == KAFKA_HANDSHAKE:
        body = struct.pack('!HI', 0, 1) + sized(b'PLAIN')
    else:
        note_plain(peer, read_sized(message, KAFKA_HEAD.size + 2 + max(name, 0), 4)[0])
        body = struct.pack('!H', KAFKA_LOGIN_FAILED) + sized(b'login failed') + bytes(4)
    return sized(struct.pack('!I', correlation) + body, 4), key == KAFKA_LOGIN


# ---- mongodb -------------------------------------------------------------------------

MONGO_HEAD = struct.Struct('<iiii')     # MsgHeader: size id answers opcode
MONGO_QUERY, MONGO_REPLY, MONGO_MESSAGE = 2004, 1, 2013
MONGO_REPLY_HEAD = struct.Struct('<iqii')               # flags cursor from count
MONGO_MORE_TO_COME = 2                                  # flag of OP_MSG: no answer is wanted
MONGO_SIZES = {0x01: 8, 0x07: 12, 0x08: 1, 0x09: 8, 0x0a: 0, 0x10: 4, 0x11: 8, 0x12: 8}
MONGO_FIELDS_MAX = 32
MONGO_HELLO = {'ismaster': True, 'isWritablePrimary': True, 'maxBsonObjectSize': 1 << 24,
               'maxMessageSizeBytes': 48000000, 'maxWriteBatchSize': 100000, 'minWireVersion': 0,
               'maxWireVersion': 17, 'readOnly': False, 'ok': 1.0}
MONGO_SAYS = {b'hello': MONGO_HELLO, b'ismaster': MONGO_HELLO, b'ping': {'ok': 1.0},
              b'buildinfo': {'version': '6.0.0', 'maxBsonObjectSize': 1 << 24, 'ok': 1.0}}
MONGO_UNAUTHORIZED = {'ok': 0.0, 'errmsg': 'not authorized', 'code': 13,
                      'codeName': 'Unauthorized'}
MONGO_REFUSAL = {'ok': 0.0, 'errmsg': 'authentication failed', 'code': 18,
                 'codeName': 'AuthenticationFailed'}


def pack_bson(document):
    """{name: bool, int, float or str} -> BSON document (bsonspec.org 1.1)."""
    body = b''
    for name, value in document.items():
        name = name.encode() + b'\0'
        if isinstance(value, bool):
            body += b'\x08' + name + bytes((value,))
        elif isinstance(value, int):
            body += b'\x10' + name + struct.pack('<i', value)
        elif isinstance(value, float):
            body += b'\1' + name + struct.pack('<d', value)
        else:
            body += b'\2' + name + sized(value.encode() + b'\0', 4, 'little')
    return struct.pack('<i', len(body) + 5) + body + b'\0'


def read_bson(data, at):
    """A document at `at` -> [(name, the octets of the value)] of its first elements."""
    found, at = [], at + 4
    while data[at] and len(found) < MONGO_FIELDS_MAX:
        kind, begin = data[at], data.index(b'\0', at) + 1
        size = MONGO_SIZES.get(kind)
        if size is None:
            size = int.from_bytes(data[begin:begin + 4], 'little')
            size += {0x02: 4, 0x05: 5, 0x0d: 4, 0x0e: 4}.get(kind, 0)   # 3 and 4 count themselves
        found.append((data[at + 1:begin - 1], data[begin:begin + size]))
        at = begin + max(size, 0)
    return found


def note_scram(peer, payload):
    """First message of SCRAM, `n,,n=name,r=nonce` -> the name is noted (RFC 5802 s7)."""
    match = re.search(br'n=([^,]*),r=', payload)
    if match:
        peer.note('credentials', user=match.group(1))


@talk('mongodb', port=27017, size=le(0, 4, 0), limit=48000,
      sig=['.. .. 00 00 .. .. .. .. 00 00 00 00 %s 07 00 00' % code for code in ('d4', 'dd')],
      ref='https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/')
def answer_mongodb(message, peer):
    """Hello, ping, buildInfo -> ours; all else -> refusal."""
    _, ident, _, opcode = MONGO_HEAD.unpack_from(message)
    query = opcode == MONGO_QUERY
    if not query and opcode != MONGO_MESSAGE:
        return None
    at = message.index(b'\0', MONGO_HEAD.size + 4) + 9 if query else MONGO_HEAD.size + 5
    fields = read_bson(message, at)
    command = fields[0][0].lower()
    if command == b'saslstart':
        note_scram(peer, dict(fields).get(b'payload', b''))
    document = pack_bson(MONGO_SAYS.get(
        command, MONGO_REFUSAL if command == b'saslstart' else MONGO_UNAUTHORIZED))
    if not query and message[MONGO_HEAD.size] & MONGO_MORE_TO_COME:
        return b''
    body = (MONGO_REPLY_HEAD.pack(8, 0, 0, 1) if query else bytes(5)) + document
    return MONGO_HEAD.pack(MONGO_HEAD.size + len(body), ident & 0x7fffffff, ident,
                           MONGO_REPLY if query else MONGO_MESSAGE) + body


# ---- mqtt ----------------------------------------------------------------------------

MQTT_LEVELS = 3, 4, 5                   # 3.1, 3.1.1, 5.0
MQTT_USER, MQTT_PASSWORD, MQTT_WILL = 0x80, 0x40, 0x04          # s3.1.2.3: connect flags
# Reason codes of CONNACK: (3.1.1 s3.2.2.3, 5.0 s3.2.2.2)
MQTT_BAD_VERSION, MQTT_BAD_LOGIN, MQTT_REFUSED = (1, 0x84), (4, 0x86), (5, 0x87)


def read_mqtt(data, at, properties):
    """Where properties may stand -> after them; a place that is none if they are cut short."""
    return (varint(at)(data) or -1) if properties else at


@talk('mqtt', port=(1883, 8883), size=varint(1), ref='https://docs.oasis-open.org/mqtt/mqtt/v5.0/'
      'mqtt-v5.0.html', sig=[each for size in ('..', '.. ..') for each in (
          '10 %s 00 04 4d 51 54 54' % size, '10 %s 00 06 4d 51 49 73 64 70' % size)])
def answer_mqtt(message, peer):
    """Connect, of 3.1 to 5.0 -> refusal."""
    body = message[2 if message[1] < 0x80 else 3:]
    _, at = read_sized(body, 0)
    level, flags = body[at], body[at + 1]
    later = level >= 5
    reason = MQTT_BAD_VERSION
    if level in MQTT_LEVELS:
        reason = MQTT_BAD_LOGIN if flags & MQTT_USER else MQTT_REFUSED
        at = read_mqtt(body, at + 4, later)
        client, at = read_sized(body, at)
        if flags & MQTT_WILL:
            _, at = read_sized(body, read_mqtt(body, at, later))
            _, at = read_sized(body, at)
        user, at = read_sized(body, at) if flags & MQTT_USER else (b'', at)
        password, at = read_sized(body, at) if flags & MQTT_PASSWORD else (b'', at)
        peer.note('credentials', user=user, password=password, client=client)
    return b' ' + sized(bytes((0, reason[later])) + bytes(later), 1), SHUT


# ---- mssql ---------------------------------------------------------------------------

TDS_HEAD = struct.Struct('!BBHHBx')     # MS-TDS s2.2.3.1: type status size spid packet window
TDS_OPTION = struct.Struct('!BHH')      # MS-TDS s2.2.6.5: token at size
TDS_LOGIN, TDS_PRELOGIN, TDS_RESULT, TDS_LAST = 0x10, 0x12, 0x04, 1     # s2.2.3.1.1-2
# MS-TDS s2.2.6.5: our version, encryption, the instance is right, a thread's id, no MARS: the
# token is the index
TDS_OPTIONS = b'\x0f\0\x10\0\0\0', None, b'\0', b'', b'\0'
TDS_OPTIONS_MAX = 16
TDS_ENCRYPTION, TDS_ON, TDS_NONE = 1, 1, 2      # of the login alone, 0, is refused as well
TDS_NAME_AT, TDS_PASSWORD_AT = 40, 44   # MS-TDS s2.2.6.4: offset and characters of each
TDS_VERSION_AT = 4
TDS_ERROR, TDS_DONE = 0xaa, 0xfd        # MS-TDS s2.2.7
TDS_FAILED = 18456                      # the number that clients know a failed login by


def is_tds(data, peer):
    """A login as long as the packet, or the table of options begins with our version's place."""
    kind, _, size, _, _ = TDS_HEAD.unpack_from(data)
    if kind == TDS_LOGIN:
        return struct.unpack_from('<I', data, TDS_HEAD.size)[0] == size - TDS_HEAD.size
    token, at, length = TDS_OPTION.unpack_from(data, TDS_HEAD.size)
    return not token and length == 6 and at + length + TDS_HEAD.size <= size


def pack_tds(body, kind=TDS_RESULT):
    """What to say -> the packet that says it."""
    return TDS_HEAD.pack(kind, TDS_LAST, TDS_HEAD.size + len(body), 0, 1) + body


def wants_tds_encryption(options):
    """Whether a prelogin insists on TLS: who does not says his password almost bare."""
    for at in range(0, len(options) - TDS_OPTION.size, TDS_OPTION.size)[:TDS_OPTIONS_MAX]:
        token, start, _ = TDS_OPTION.unpack_from(options, at)
        if token == TDS_ENCRYPTION:
            return options[start:start + 1] in (b'\1', b'\3')
    return False


def pack_tds_options(encryption):
    """What we do about encryption -> answer to a prelogin."""
    table, values = b'', b''
    start = TDS_OPTION.size * len(TDS_OPTIONS) + 1
    for token, value in enumerate(TDS_OPTIONS):
        value = bytes((encryption,)) if token == TDS_ENCRYPTION else value
        table += TDS_OPTION.pack(token, start + len(values), len(value))
        values += value
    return pack_tds(table + b'\xff' + values)


class TdsSession(Session):
    """TLS whose handshake goes in packets of a prelogin; what follows goes bare (s2.2.6.5).

    packets     a packet of his that is not whole
    """
    __slots__ = ('packets',)

    def __init__(self, *words):
        Session.__init__(self, *words)
        self.packets = b''

    def cost(self):
        return Session.cost(self) + len(self.packets)

    def start(self, hello):
        """TLS 1.2 at most: 1.3 came with TDS 8.0, bare; some clients fail with it in packets."""
        import ssl
        context = self.server.context
        if hasattr(context, 'maximum_version'):
            name, value = 'maximum_version', ssl.TLSVersion.TLSv1_2
        else:                                               # before 3.7
            name, value = 'options', context.options | getattr(ssl, 'OP_NO_TLSv1_3', 0)
        before = getattr(context, name)
        setattr(context, name, value)
        try:
            return Session.start(self, hello)
        finally:
            setattr(context, name, before)

    def feed(self, octets):
        """Packets, or bare records -> the same of ours."""
        if self.done:
            return Session.feed(self, octets)
        self.packets += octets
        out = Session.feed(self, self.unpack())
        if out:
            out = pack_tds(out, TDS_PRELOGIN)
        if self.stream.secure and self.packets[:1] not in (b'', b'\x12'):
            octets, self.packets = self.packets, b''
            out += Session.feed(self, octets)
        return out

    def unpack(self):
        """-> records of the packets that are whole."""
        records, at = [], 0
        while self.packets[at:at + 1] == b'\x12':
            end = at + max(from_octets(self.packets[at + 2:at + 4], 'big'), TDS_HEAD.size)
            if len(self.packets) < end:
                break
            records.append(self.packets[at + TDS_HEAD.size:end])
            at = end
        self.packets = self.packets[at:]
        return b''.join(records)


def read_tds(login, at):
    """Login, where offset and characters stand -> the octets there, in UTF-16."""
    start, count = struct.unpack_from('<HH', login, at)
    return login[start:start + 2 * count]


def pack_tds_refusal(server, modern):
    """Our name, whether it is TDS 7.2 or later -> an error, and that this was all."""
    text = 'Login failed.'
    body = struct.pack('<IBBH', TDS_FAILED, 1, 14, len(text)) + text.encode('utf-16-le')
    body += bytes((len(server),)) + server.encode('utf-16-le') + b'\0'
    body += struct.pack('<I' if modern else '<H', 1)
    done = struct.pack('<BHHQ' if modern else '<BHHI', TDS_DONE, 2, 0, 0)
    return pack_tds(bytes((TDS_ERROR,)) + sized(body, 2, 'little') + done)


@talk('mssql', sig=('10 01 .. .. 00 00 .. 00' + ' ..' * 86,
                  '12 01 .. .. 00 00 .. 00 00' + ' ..' * 4),
      port=1433, check=is_tds, size=be(2, 2, 0), ref='MS-TDS s2.2.6.4, s2.2.6.5, s2.2.7.10')
def answer_mssql(message, peer):
    """Prelogin -> TLS for whoever insists on it; login -> refusal."""
    kind = message[0]
    if kind == TDS_PRELOGIN:
        if peer.offers_tls and wants_tds_encryption(message[TDS_HEAD.size:]):
            return Reply(pack_tds_options(TDS_ON), tls=b'', session=TdsSession)
        return pack_tds_options(TDS_NONE)
    if kind != TDS_LOGIN:
        return None
    login = message[TDS_HEAD.size:]
    password = bytes((octet ^ 0xa5) >> 4 | (octet ^ 0xa5) << 4 & 0xf0
                     for octet in read_tds(login, TDS_PASSWORD_AT))
    peer.note('credentials', user=read_tds(login, TDS_NAME_AT).decode('utf-16-le', 'replace'),
              password=password.decode('utf-16-le', 'replace'))
    return pack_tds_refusal(peer.host.name, login[TDS_VERSION_AT + 3] >= 0x72), SHUT


# ---- mysql ---------------------------------------------------------------------------

MYSQL_GREETING = struct.Struct('<I8sxHBHHB10x')         # thread salt flags charset status flags
MYSQL_LOGIN = struct.Struct('<IIB23x')                  # flags max-packet charset
MYSQL_FLAGS = 0x000ff7df & ~0x0820      # all of the 5.7 documentation, but TLS and compression
MYSQL_41, MYSQL_SSL, MYSQL_LENGTH, MYSQL_SECURE = 0x0200, 0x0800, 0x200000, 0x8000
MYSQL_SALT = 20
MYSQL_DENIED = b'\xff\x15\x04#28000'    # ERR_Packet: 1045, SQLSTATE 28000


def pack_mysql(number, body):
    """Sequence number, payload -> packet."""
    return struct.pack('<I', len(body) | number << 24) + body


def greet_mysql(peer):
    """-> the handshake of protocol 10; its salt, without NUL, is the state."""
    peer.state = salt = bytes(octet % 94 + 33 for octet in peer.host.random(MYSQL_SALT))
    flags = MYSQL_FLAGS | (MYSQL_SSL if peer.offers_tls else 0)
    return pack_mysql(0, b'\x0a8.0.0\0' + MYSQL_GREETING.pack(
        1, salt[:8], flags & 0xffff, 33, 2, flags >> 16, MYSQL_SALT + 1)
        + salt[8:] + b'\0mysql_native_password\0')


@talk('mysql', sig=('.. .. 00 01 .. .. .. .. ..',), port=3306, size=le(0, 3, 4), limit=4096,
      banner=greet_mysql, check=lambda data, peer: peer.dport == 3306 and data[5] & 2,
      ref='https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html')
def answer_mysql(message, peer):
    """Login -> refusal; we speak first.

    state   the salt that the client's hash is made with
    """
    flags, _, _ = MYSQL_LOGIN.unpack_from(message, 4)
    if not flags & MYSQL_41:
        return None
    if flags & MYSQL_SSL and len(message) == 4 + MYSQL_LOGIN.size:      # of a login its head
        return Reply(tls=b'') if peer.offers_tls else None
    user, _, rest = message[4 + MYSQL_LOGIN.size:].partition(b'\0')
    hashed = rest[1:1 + rest[0]] if flags & (MYSQL_LENGTH | MYSQL_SECURE) and rest else b''
    peer.note('credentials', user=user, digest=hashed.hex(), salt=(peer.state or b'').hex())
    return pack_mysql(message[3] + 1 & 0xff, MYSQL_DENIED + (
        "Access denied for user '%s'@'%s'" % (user[:32].decode('latin-1'), ip_text(peer.src))
    ).encode('latin-1')), SHUT


# ---- mysqlx --------------------------------------------------------------------------

MYSQLX_GET, MYSQLX_SET, MYSQLX_LOGIN, MYSQLX_CLOSE = 1, 2, 4, 3         # of the client
MYSQLX_ERROR, MYSQLX_CAPABILITIES, MYSQLX_NOTICE = 1, 2, 0x0b           # of ours


def pack_mysqlx(kind, body=b''):
    """Type, message in protocol buffers -> frame."""
    return sized(bytes((kind,)) + body, 4, 'little')


def pack_mysqlx_error(code, state, text):
    """Numbers and words -> the fatal error that ends a session; an int of two groups of 7 bits."""
    return pack_mysqlx(MYSQLX_ERROR, bytes((0x08, 1, 0x10, code & 0x7f | 0x80, code >> 7, 0x22))
                       + sized(state, 1) + b'\x1a' + sized(text, 1))


@talk('mysqlx', sig=('01 00 00 00 01', '.. .. 00 00 ..'), port=33060, size=le(0, 4, 4),
      check=lambda data, peer: peer.dport == 33060,
      banner=pack_mysqlx(MYSQLX_NOTICE, b'\x08\5\x1a\0'),
      ref='https://dev.mysql.com/doc/dev/mysql-server/latest/page_mysqlx_protocol.html')
def answer_mysqlx(message, peer):
    """Capabilities -> none; a login -> refusal; we speak first."""
    kind = message[4]
    if kind == MYSQLX_GET:
        return pack_mysqlx(MYSQLX_CAPABILITIES)
    if kind == MYSQLX_SET:
        return pack_mysqlx_error(5001, b'HY000', b'capability not supported')
    if kind != MYSQLX_LOGIN:
        return None
    mechanism, at = read_sized(message, 6, 1)
    data, _ = read_sized(message, at + 1, 1)
    if mechanism == b'PLAIN':
        note_plain(peer, data)
    return pack_mysqlx_error(1045, b'28000', b'Access denied'), SHUT


# ---- neo4j ---------------------------------------------------------------------------

NEO4J_MAGIC = bytes.fromhex('6060b017')
NEO4J_CHOICES = {4: 4, 3: 0}            # major version: the highest minor one of ours
NEO4J_CODE, NEO4J_TEXT = b'Neo.ClientError.Security.Unauthorized', b'wrong name or password'


def choose_neo4j(offers):
    """Four times range, minor, major -> the first version that is ours, or zeros."""
    for _, width, minor, major in struct.iter_unpack('BBBB', offers):
        if major in NEO4J_CHOICES and minor - width <= NEO4J_CHOICES[major]:
            return bytes((0, 0, min(minor, NEO4J_CHOICES[major]), major))
    return bytes(4)


def pack_packstream(text):
    """Octets -> a string of PackStream."""
    return bytes((0x80 | len(text),)) + text if len(text) < 16 else b'\xd0' + sized(text, 1)


def find_packstream(data, key):
    """A key of a map in data -> the string that follows it."""
    at = data.index(pack_packstream(key)) + 1 + len(key)
    if data[at] & 0xf0 == 0x80:
        return data[at + 1:at + 1 + (data[at] & 0x0f)]
    return read_sized(data, at + 1, 1)[0]


def size_neo4j(data):
    """The handshake, or the chunks of a message, which two zeros end."""
    if data.startswith(NEO4J_MAGIC):
        return 20
    at = 0
    while at < len(data) and data[at:at + 2] != b'\0\0':
        at += 2 + int.from_bytes(data[at:at + 2], 'big')
    return at + 2


NEO4J_FAILURE = b'\xb1\x7f\xa2' + b''.join(map(pack_packstream, (
    b'code', NEO4J_CODE, b'message', NEO4J_TEXT)))


@talk('neo4j', sig=('60 60 b0 17' + ' ..' * 16,), port=7687, size=size_neo4j,
      ref='https://neo4j.com/docs/bolt/current/bolt/handshake/')
def answer_neo4j(message, peer):
    """Handshake of Bolt -> the version; hello -> refusal."""
    if peer.state is None:
        peer.state = message[:4]
        chosen = choose_neo4j(message[4:])
        return chosen if any(chosen) else (chosen, SHUT)
    if b'principal' in message:
        peer.note('credentials', user=find_packstream(message, b'principal'),
                  password=find_packstream(message, b'credentials'))
    return sized(NEO4J_FAILURE) + b'\0\0', SHUT


# ---- oracle --------------------------------------------------------------------------

ORACLE_HEAD = struct.Struct('!HHBBH')   # size checksum type flags checksum
ORACLE_CONNECT = struct.Struct('!HH12xHH')      # version lowest ... size at
ORACLE_REFUSE = 4
ORACLE_TEXT = ('(DESCRIPTION=(TMP=)(VSNNUM=%d)(ERR=%d)(ERROR_STACK=(ERROR=(CODE=%d)(EMFI=4))))')
ORACLE_VERSION = 0x13000000
ORACLE_NO_SERVICE, ORACLE_NO_NAME, ORACLE_COMMAND = 12514, 12504, 1189


@talk('oracle', sig=('.. .. 00 00 01 .. 00 00 01 .. 01 ..',), port=1521, size=be(0, 2, 0),
      ref='https://docs.oracle.com/en/database/oracle/oracle-database/19/netag/')
def answer_oracle(message, peer):
    """Connect -> refusal: no such service, or none is named."""
    _, _, size, at = ORACLE_CONNECT.unpack_from(message, ORACLE_HEAD.size)
    wanted = message[at:at + size].upper()
    peer.note('request', target=wanted[:256])
    error = ORACLE_NO_NAME
    if b'(COMMAND=' in wanted:
        error = ORACLE_COMMAND
    elif b'SERVICE_NAME=' in wanted or b'SID=' in wanted:
        error = ORACLE_NO_SERVICE
    text = (ORACLE_TEXT % (ORACLE_VERSION, error, error)).encode()
    body = b'\x22\0' + sized(text)
    return ORACLE_HEAD.pack(ORACLE_HEAD.size + len(body), 0, ORACLE_REFUSE, 0, 0) + body, SHUT


# ---- postgresql ----------------------------------------------------------------------

POSTGRESQL_SSL, POSTGRESQL_GSS, POSTGRESQL_CANCEL = 80877103, 80877104, 80877102
POSTGRESQL_PASSWORD = b'R' + struct.pack('!II', 8, 3)   # AuthenticationCleartextPassword
POSTGRESQL_MAX = 10000


def pack_postgresql_error(code, text):
    """SQLSTATE and words -> ErrorResponse."""
    body = b'SFATAL\0VFATAL\0C' + code + b'\0M' + text + b'\0\0'
    return b'E' + sized(body, 4, extra=4)


def is_postgresql(data, peer):
    """A request of its own, or the name of a parameter: a Kafka request has a number there."""
    return data[4] or data[5] < 3 or data[8:9].isalpha() or data[:4] == b'\0\0\0\x09'


def size_postgresql(data):
    """Length first; later it stands behind the type."""
    return (be(0, 4, 0) if data[:1] == b'\0' else be(1, 4, 1))(data)


@talk('postgresql', port=5432, size=size_postgresql, limit=POSTGRESQL_MAX,
      sig=('00 00 00 08 04 d2 16 2f', '00 00 00 08 04 d2 16 30', '00 00 00 10 04 d2 16 2e',
           '00 00 .. .. 00 02 00 00 ..', '00 00 .. .. 00 03 00 00 ..',
           '00 00 .. .. 00 03 00 02 ..'),
      check=is_postgresql,
      ref='https://www.postgresql.org/docs/current/protocol-message-formats.html')
def answer_postgresql(message, peer):
    """Startup -> a password is wanted; password -> refusal.

    state   the name of the user
    """
    if peer.state is not None:
        if message[:1] != b'p':
            return None
        peer.note('credentials', user=peer.state, password=message[5:].rstrip(b'\0'))
        return pack_postgresql_error(b'28P01', b'password authentication failed'), SHUT
    code, = struct.unpack_from('!I', message, 4)
    if code == POSTGRESQL_SSL:
        return start_tls(peer, b'S', b'N')
    if code == POSTGRESQL_GSS:
        return b'N'
    if code == POSTGRESQL_CANCEL:
        return b'', SHUT
    if code >> 16 != 3:
        return pack_postgresql_error(b'0A000', b'unsupported protocol: 3.0 is ours'), SHUT
    words = message[8:].split(b'\0')
    peer.state = dict(zip(words[::2], words[1::2])).get(b'user', b'')
    return POSTGRESQL_PASSWORD


# ---- redis ---------------------------------------------------------------------------

REDIS_DIGITS = 9                        # octets of a line that says how many
REDIS_MAX = 256                         # arguments of a command
REDIS_INFO = (b'# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\ntcp_port:%d\r\n'
              b'# Replication\r\nrole:master\r\nconnected_slaves:0\r\n# Keyspace\r\n')
REDIS_SAYS = {
    b'': b'', b'PING': b'+PONG\r\n', b'COMMAND': b'*0\r\n', b'KEYS': b'*0\r\n', b'GET': b'$-1\r\n',
    b'DBSIZE': b':0\r\n', b'HELLO': b'-NOPROTO unsupported protocol version\r\n',
    b'AUTH': b'-WRONGPASS invalid username-password pair or user is disabled.\r\n'}
REDIS_SAYS.update(dict.fromkeys(
    (b'SET', b'SELECT', b'SAVE', b'BGSAVE', b'SLAVEOF', b'REPLICAOF', b'FLUSHALL', b'FLUSHDB',
     b'CONFIG', b'CLIENT'), b'+OK\r\n'))


def parse_redis(data):
    """A command -> (its words, its octets; None: it is cut short; -1: it is none)."""
    if data[:1] != b'*':
        return data[:line(data)].split(None, REDIS_MAX), line(data)
    words, left = [], 1
    at, mark = 0, 0x2a                  # an array first, then bulk strings
    while left:
        end = data.find(b'\r\n', at, at + REDIS_DIGITS)
        if end < 0:
            return words, -1 if len(data) >= at + REDIS_DIGITS else None
        try:
            number = int(data[at + 1:end])
        except ValueError:
            number = -1
        if number < 0 or data[at] != mark:
            return words, -1
        at = end + 2
        if mark == 0x24:
            words += [data[at:at + number]]
            at += number + 2
            left -= 1
        elif number > REDIS_MAX:
            return words, -1
        else:
            left, mark = number, 0x24
    return words, at


def size_redis(data):
    """An array of bulk strings, or a line -> its octets."""
    return parse_redis(data)[1]


def pack_redis(octets):
    """Octets -> a bulk string."""
    return b'$%d\r\n%s\r\n' % (len(octets), octets)


@talk('redis', sig=['2a %02x' % octet for octet in b'123456789'], port=6379, size=size_redis,
      words=(b'PING', b'INFO', b'CONFIG', b'SLAVEOF', b'REPLICAOF', b'FLUSHALL', b'DBSIZE'),
      shared=(b'AUTH', b'COMMAND', b'GET', b'HELLO', b'KEYS', b'QUIT', b'SELECT', b'SET'),
      ref='https://redis.io/docs/latest/develop/reference/protocol-spec/')
def answer_redis(message, peer):
    """Command -> an empty store; login -> refusal."""
    words, _ = parse_redis(message)
    verb = words[0].upper() if words else b''
    if verb == b'AUTH':
        peer.note('credentials', user=words[1] if len(words) > 2 else b'', password=words[-1])
    elif verb not in (b'', b'PING', b'INFO', b'COMMAND'):
        peer.note('command', words=b' '.join(words)[:1024])
    if verb == b'INFO':
        return pack_redis(REDIS_INFO % peer.dport)
    if verb == b'CONFIG' and len(words) > 2 and words[1].upper() == b'GET':
        return b'*2\r\n' + pack_redis(words[2][:64]) + pack_redis(b'')
    if verb == b'QUIT':
        return b'+OK\r\n', SHUT
    return REDIS_SAYS.get(verb, b'-ERR unknown command\r\n')


# ---- riak ----------------------------------------------------------------------------

RIAK_SAYS = {                           # request: answer, after its length
    1: b'\2',                           # ping: pong
    7: b'\x08\x0a' + sized(b'riak@127.0.0.1', 1) + b'\x12' + sized(b'3.0', 1)}
RIAK_LOGIN = 253
RIAK_REFUSAL = b'\0\x0a' + sized(b'not authorized', 1) + b'\x10\0'


@talk('riak', sig=('00 00 00 01 01', '00 00 00 01 07', '00 00 00 .. fd 0a'), port=8087,
      size=be(0, 4, 4),
      ref='https://docs.riak.com/riak/kv/latest/developing/api/protocol-buffers/')
def answer_riak(message, peer):
    """Ping, server -> pong, a node; all else -> refusal."""
    if message[4] == RIAK_LOGIN:
        user, at = read_sized(message, 6, 1)
        peer.note('credentials', user=user, password=read_sized(message, at + 1, 1)[0])
    return sized(RIAK_SAYS.get(message[4], RIAK_REFUSAL), 4)


# ---- sybase --------------------------------------------------------------------------

SYBASE_NAME, SYBASE_PASSWORD = 39, 70           # TDS 5.0: fields of 30 octets, then their size
SYBASE_ERROR = (struct.pack('<IBB', 4002, 1, 14) + sized(b'ZZZZZ', 1) + b'\0\1\0'
                + sized(b'Login failed.\n', 2, 'little') + sized(b'server', 1) + b'\0\0\0')
# LOGINACK: failed; EED; DONE: error
SYBASE_TOKENS = (b'\xad' + sized(b'\6\5\0\0\0' + sized(b'server', 1) + b'\x0f\0\0\0', 2, 'little')
                 + b'\xe5' + sized(SYBASE_ERROR, 2, 'little') + b'\xfd\2\0\0\0\0\0\0\0')


def read_sybase(message, at):
    """A field of the login."""
    return message[at:at + min(message[at + 30], 30)]


def size_sybase(data):
    """Packets up to the last one: its status says so."""
    at = 0
    while len(data) >= at + 8:
        size = int.from_bytes(data[at + 2:at + 4], 'big')
        if size < 8:
            return -1
        if data[at + 1] & 1:
            return at + size
        at += size
    return None


@talk('sybase', sig=('02 00 02 00 00 00 00 00', '02 01 02 00 00 00 00 00'), port=5000, limit=2048,
      size=size_sybase, ref='https://www.freetds.org/tds.html')
def answer_sybase(message, peer):
    """Login -> refusal."""
    peer.note('credentials', user=read_sybase(message, SYBASE_NAME),
              password=read_sybase(message, SYBASE_PASSWORD))
    return b'\4\1' + sized(b'\0\0\0\0' + SYBASE_TOKENS, extra=4), SHUT


# ---- tarantool -----------------------------------------------------------------------

TARANTOOL_HEAD = re.compile(            # MessagePack: size {0: type, 1: sync}
    br'(?:\xce....|\xcd..|\xcc.|.)[\x82-\x84]\0(\xcc?.)\x01'
    br'(\xcf.{8}|\xce.{4}|\xcd..|\xcc.|.)', re.S)
TARANTOOL_PING, TARANTOOL_AUTH = b'\x40', b'\7'
TARANTOOL_REFUSED, TARANTOOL_UNKNOWN = 0x802f, 0x8030
TARANTOOL_USER = re.compile(br'\x23(?:\xd9(.)|([\xa0-\xbf]))', re.S)   # {0x23: name}: its size
TARANTOOL_SAYS = {TARANTOOL_REFUSED: b'access is denied', TARANTOOL_UNKNOWN: b'not supported'}


def size_tarantool(data):
    """A number of MessagePack, then so many octets."""
    width = {0xcc: 1, 0xcd: 2, 0xce: 4}.get(data[0])
    if width:
        return be(1, width, 1 + width)(data)
    return 1 + data[0] if data[0] < 0x80 else -1


def tarantool_hello(peer):
    """Version, instance; salt."""
    salt = codecs.encode(peer.host.random(32), 'base64').strip()
    return b''.join(text.ljust(63) + b'\n' for text in (
        b'Tarantool 2.6.0 (Binary) ' + peer.host.guid.hex().encode(), salt))


def read_tarantool_user(message):
    """Login -> its name, b'' if there is none."""
    match = TARANTOOL_USER.search(message)
    if not match:
        return b''
    long, short = match.groups()
    size = ord(long) if long else ord(short) & 0x1f
    return message[match.end():match.end() + size]


@talk('tarantool', port=3301, banner=tarantool_hello, size=size_tarantool,
      sig=('ce .. .. .. .. 82 00 .. 01', 'ce .. .. .. .. 83 00 .. 01'),
      ref='https://www.tarantool.io/en/doc/latest/reference/internals/box_protocol/')
def answer_tarantool(message, peer):
    """Ping -> pong; login, all else -> refusal."""
    match = TARANTOOL_HEAD.match(message)
    if not match:
        return None
    kind, sync = match.groups()
    code = 0 if kind == TARANTOOL_PING else TARANTOOL_UNKNOWN
    if kind == TARANTOOL_AUTH:
        peer.note('credentials', user=read_tarantool_user(message))
        code = TARANTOOL_REFUSED
    text = TARANTOOL_SAYS.get(code)
    body = b'\x81\x31\xd9' + sized(text, 1) if text else b'\x80'
    return b'\xce' + sized(b'\x82\0\xcd' + struct.pack('!H', code) + b'\1' + sync + body, 4), (
        code == TARANTOOL_REFUSED)


# ---- thrift --------------------------------------------------------------------------

THRIFT_CALL, THRIFT_EXCEPTION = b'\x80\1\0\1', b'\x80\1\0\3'    # version 1 and kind
# Struct: 1, text; 2, i32: unknown method; end
THRIFT_REFUSAL = b'\x0b\0\1' + sized(b'unknown method', 4) + b'\x08\0\2\0\0\0\1\0'


def size_thrift(data):
    """In a frame all of it; else the name and number of a call."""
    return (be(4, 4, 12) if data[:1] == b'\x80' else be(0, 4, 4))(data)


@talk('thrift', port=(9090, 9083), size=size_thrift,
      sig=('80 01 00 01 00 00 00 ..', '00 00 .. .. 80 01 00 01 00 00 00 ..'),
      ref='https://github.com/apache/thrift/blob/master/doc/specs/'
          'thrift-binary-protocol.md')
def answer_thrift(message, peer):
    """Call -> exception: unknown method; without a frame it has no end, so that we end it."""
    framed = message[:1] != b'\x80'
    at = message.index(THRIFT_CALL) + 4
    name, end = read_sized(message, at, 4)
    peer.note('request', method=name[:256])
    says = THRIFT_EXCEPTION + sized(name, 4) + message[end:end + 4] + THRIFT_REFUSAL
    return sized(says, 4) if framed else says, not framed


# ---- zeromq --------------------------------------------------------------------------

ZMTP_SIGNATURE = b'\xff' + bytes(7) + b'\1\x7f'         # RFC 23/ZMTP s3.0: greeting
ZMTP_REST = 22                          # version, mechanism; as server and filler make 64
ZMTP_REFUSAL = b'\4' + sized(sized(b'ERROR', 1) + sized(b'400', 1), 1)


def size_zmtp(data):
    """The signature, the rest of the greeting, commands: the state is not seen here."""
    if data[:1] == b'\xff':
        return 10
    if data[:1] == b'\3':
        return 54
    return (be(1, 8, 9) if data[:1] == b'\6' else be(1, 1, 2))(data)


@talk('zeromq', sig=('ff .. .. .. .. .. .. .. .. 7f',), port=5556, size=size_zmtp, limit=1024,
      ref='https://rfc.zeromq.org/spec/23/')
def answer_zmtp(message, peer):
    """Greeting -> ours, of the mechanism asked for; a command -> an error.

    state   'signed', then 'greeted'
    """
    if peer.state is None:
        peer.state = 'signed'
        return ZMTP_SIGNATURE + b'\3\0'
    if peer.state == 'signed' and message[:1] == b'\3':
        peer.state = 'greeted'
        mechanism = message[2:ZMTP_REST].rstrip(b'\0')
        return (mechanism if mechanism == b'PLAIN' else b'NULL').ljust(20, b'\0') + bytes(32)
    if b'\5HELLO' in message[:9]:
        user, at = read_sized(message, message.index(b'HELLO') + 5, 1)
        peer.note('credentials', user=user, password=read_sized(message, at, 1)[0])
    return ZMTP_REFUSAL, SHUT


# ---- zookeeper-jute ------------------------------------------------------------------

JUTE_CONNECT = struct.Struct('!IIQIQI16s')      # size protocol zxid timeout session password
JUTE_REQUEST = struct.Struct('!IiI')            # size xid type
JUTE_REPLY = struct.Struct('!IiQi')             # size xid zxid error
JUTE_PING, JUTE_CLOSE, JUTE_AUTH = -2, 0xfffffff5, 100
JUTE_AUTH_FAILED, JUTE_NO_AUTH = -115, -102


@talk('zookeeper-jute', size=be(0, 4, 4), port=2181,
      sig=['00 00 00 %s 00 00 00 00%s 00 00 00 10' % (size, ' ..' * 20) for size in ('2c', '2d')],
      ref='https://github.com/apache/zookeeper/blob/master/zookeeper-jute/src/main/resources/'
          'zookeeper.jute')
def answer_jute(message, peer):
    """Connect, ping, close -> the same; all else -> refusal."""
    if peer.state is None:
        peer.state = 'connected'
        _, protocol, _, timeout, _, _, _ = JUTE_CONNECT.unpack_from(message)
        session = int.from_bytes(peer.host.random(7), 'big')
        answer = struct.pack('!IIQI16s', protocol, timeout, session, 16, peer.host.random(16))
        return sized(answer + bytes(len(message) - JUTE_CONNECT.size), 4)
    _, xid, kind = JUTE_REQUEST.unpack_from(message)
    error = JUTE_NO_AUTH
    if xid == JUTE_PING or kind == JUTE_CLOSE:
        error = 0
    elif kind == JUTE_AUTH:
        scheme, at = read_sized(message, JUTE_REQUEST.size + 4, 4)
        user, _, password = read_sized(message, at, 4)[0].partition(b':')
        peer.note('credentials', user=user, password=password, scheme=scheme)
        error = JUTE_AUTH_FAILED
    return JUTE_REPLY.pack(JUTE_REPLY.size - 4, xid, 0, error), (
        kind == JUTE_CLOSE or error == JUTE_AUTH_FAILED)


family('Directories')


# ---- kerberos ------------------------------------------------------------------------

KERBEROS_AS, KERBEROS_TGS, KERBEROS_ERROR = 0x6a, 0x6c, 0x7e    # RFC 4120 s5.10: application tags
KERBEROS_UNKNOWN = 6                    # RFC 4120 s7.5.9: the client is not in the database
KERBEROS_BODY, KERBEROS_CNAME, KERBEROS_REALM, KERBEROS_SNAME = 0xa4, 0xa1, 0xa2, 0xa3
KERBEROS_FIELDS_MAX = 16


def ber_fields(data, at, end):
    """Elements of a SEQUENCE from `at` to `end` -> {tag: (start, end) of the contents}."""
    found = {}
    while at < end and len(found) < KERBEROS_FIELDS_MAX:
        tag, start, at = parse_ber(data, at)
        found[tag] = start, at
    return found


def pack_kerberos_time(second):
    """Unix time -> KerberosTime (RFC 4120 s5.2.3)."""
    return pack_der(0x18, time.strftime('%Y%m%d%H%M%SZ', time.gmtime(second)).encode())


@talk('kerberos-tcp', port=88, size=be(0, 4, 4), ref='RFC 4120 s5.9.1, s7.2.2',
      sig=['00 00 .. .. %s' % begin for begin in ('6a 82', '6a 81', '6c 82', '6c 81')])
def answer_kerberos_tcp(message, peer):
    """The same with its length before it."""
    error = answer_kerberos(message[4:], peer)
    return error and sized(error, 4)


@datagram('kerberos', port=88, ref='RFC 4120 s5.9.1, s7.2.1',
          sig=['%s %s' % (tag, size) for tag in ('6a', '6c')
               for size in ('..', '81 ..', '82 .. ..')],
          check=lambda data, peer: b'\xa1\3\2\1\5' in data[:20])
def answer_kerberos(message, peer):
    """Request for a ticket -> error: nobody of that name."""
    tag, at, _ = parse_ber(message)
    _, at, end = parse_ber(message, at)
    fields = ber_fields(message, *parse_ber(message, ber_fields(message, at, end)[
        KERBEROS_BODY][0])[1:])
    name, realm, server = (message[slice(*fields.get(key, (0, 0)))] for key in (
        KERBEROS_CNAME, KERBEROS_REALM, KERBEROS_SNAME))
    if not realm or tag not in (KERBEROS_AS, KERBEROS_TGS):
        return None
    peer.note('credentials', user=b'/'.join(re.findall(br'\x1b.([^\x1b]*)', name, re.S)),
              realm=realm[2:])
    return pack_der(KERBEROS_ERROR, pack_der(
        0x30, pack_der(0xa0, pack_der(2, b'\5')), pack_der(0xa1, pack_der(2, b'\x1e')),
        pack_der(0xa4, pack_kerberos_time(peer.now)), pack_der(0xa5, pack_der(2, b'\0')),
        pack_der(0xa6, pack_der(2, bytes((KERBEROS_UNKNOWN,)))),
        pack_der(0xa9, realm), pack_der(0xaa, server)))


# ---- ldap ----------------------------------------------------------------------------

LDAP_BIND, LDAP_UNBIND, LDAP_SEARCH, LDAP_EXTENDED = 0x60, 0x42, 0x63, 0x77     # RFC 4511 s4.2-12
LDAP_BOUND, LDAP_ENTRY, LDAP_FOUND = 0x61, 0x64, 0x65
# Other requests, and what answers them: modify, add, delete, rename, compare
LDAP_ANSWERS = {0x66: 0x67, 0x68: 0x69, 0x4a: 0x6b, 0x6c: 0x6d, 0x6e: 0x6f, LDAP_EXTENDED: 0x78}
LDAP_SUCCESS, LDAP_OPERATIONS_ERROR, LDAP_PROTOCOL_ERROR = 0, 1, 2              # s4.1.9
LDAP_METHOD_NOT_SUPPORTED, LDAP_BAD_CREDENTIALS, LDAP_NO_RIGHTS = 7, 49, 50
LDAP_START_TLS = pack_der(0x80, b'1.3.6.1.4.1.1466.20037')                      # s4.14.1
LDAP_ROOT = {b'objectClass': (b'top',), b'namingContexts': (b'dc=example',),
             b'supportedLDAPVersion': (b'3',)}          # RFC 4512 s5.1


def is_ldap(data, peer):
    """Behind the number of the message stands a request."""
    at = data.index(b'\2\1', 2) + 3
    return data[at] in LDAP_ANSWERS or data[at] in (LDAP_BIND, LDAP_UNBIND, LDAP_SEARCH)


def pack_ldap(ident, tag, code=LDAP_SUCCESS):
    """Number of the request in BER, kind of result, code -> message (RFC 4511 s4.1.9)."""
    return pack_der(0x30, ident, pack_der(tag, b'\x0a\1', bytes((code,)), b'\4\0\4\0'))


def pack_ldap_root(ident):
    """-> the entry that has no name, which says what server this is."""
    attributes = [pack_der(0x30, pack_der(4, name), pack_der(0x31, *(
        pack_der(4, value) for value in values))) for name, values in LDAP_ROOT.items()]
    return pack_der(0x30, ident, pack_der(LDAP_ENTRY, pack_der(4), pack_der(0x30, *attributes)))


def answer_ldap_bind(ident, request, peer):
    """Bind: version, name, method -> success for nobody, refusal for anyone else."""
    _, _, at = parse_ber(request)
    _, start, at = parse_ber(request, at)
    method, begin, end = parse_ber(request, at)
    name, password = request[start:at], request[begin:end]
    if method != 0x80:
        return pack_ldap(ident, LDAP_BOUND, LDAP_METHOD_NOT_SUPPORTED)
    if name or password:
        peer.note('credentials', user=name, password=password)
        return pack_ldap(ident, LDAP_BOUND, LDAP_BAD_CREDENTIALS)
    return pack_ldap(ident, LDAP_BOUND)


@talk('ldap', port=(389, 636, 3268), size=ber, check=is_ldap, ref='RFC 4511 s4.2, s4.5, s4.14',
      sig=['30 %s 02 01 .. .. ..' % size
           for size in ('..', '81 ..', '82 .. ..', '84 .. .. .. ..')])
def answer_ldap(message, peer):
    """Search -> our root; a bind, all else -> refusal."""
    _, first, end = parse_ber(message)
    _, _, at = parse_ber(message, first)
    ident = message[first:at]
    tag, start, end = parse_ber(message, at)
    request = message[start:end]
    if tag == LDAP_BIND:
        return answer_ldap_bind(ident, request, peer)
    if tag == LDAP_SEARCH:
        peer.note('request', command=request[:512])
        if request.startswith(b'\4\0\x0a\1\0'):         # no name, that object only
            return pack_ldap_root(ident) + pack_ldap(ident, LDAP_FOUND)
        return pack_ldap(ident, LDAP_FOUND, LDAP_OPERATIONS_ERROR)
    if tag == LDAP_EXTENDED:
        refused = pack_ldap(ident, LDAP_ANSWERS[tag], LDAP_PROTOCOL_ERROR)
        if request != LDAP_START_TLS:
            return refused
        return start_tls(peer, pack_ldap(ident, LDAP_ANSWERS[tag]), refused)
    if tag in LDAP_ANSWERS:
        return pack_ldap(ident, LDAP_ANSWERS[tag], LDAP_NO_RIGHTS)
    return (b'', SHUT) if tag == LDAP_UNBIND else None


@datagram('cldap', port=389, ref='RFC 1798 s4, MS-ADTS s6.3.3',
          sig=['30 %s 02 01 .. .. ..' % size
               for size in ('..', '81 ..', '82 .. ..', '84 .. .. .. ..')])
def answer_cldap(message, peer):
    """Search -> nothing found, however much there might be."""
    _, start, _ = parse_ber(message)
    _, _, at = parse_ber(message, start)
    if message[at] != LDAP_SEARCH:
        return None
    peer.note('request', command=message[at:at + 512])
    return pack_ldap(message[start:at], LDAP_FOUND)


# ---- msrpc ---------------------------------------------------------------------------

# C706 s12.6.3.1: version minor type flags representation size of-authentication call
MSRPC_HEAD = struct.Struct('<BBBB4sHHI')
MSRPC_BIND = struct.Struct('<16xHHIB3x')        # C706 s12.6.4.3: transmit receive group contexts
MSRPC_REQUEST, MSRPC_FAULT, MSRPC_BIND_TYPE, MSRPC_BOUND, MSRPC_ALTER = 0, 3, 11, 12, 14
MSRPC_WHOLE = 3                                 # flags: the first fragment and the last
MSRPC_LITTLE = b'\x10\0\0\0'
MSRPC_DENIED = 5                                # status of a fault: access is denied
MSRPC_NDR = bytes.fromhex('045d888aeb1cc9119fe808002b104860') + struct.pack('<I', 2)
MSRPC_CONTEXTS_MAX = 16


def pack_msrpc(kind, call, body):
    """Type, number of the call, body -> PDU."""
    return MSRPC_HEAD.pack(5, 0, kind, MSRPC_WHOLE, MSRPC_LITTLE, MSRPC_HEAD.size + len(body), 0,
                           call) + body


def pack_msrpc_bound(message, kind, call, peer):
    """Bind -> acknowledgement: each context that offers NDR is taken.

    source  C706 s12.6.4.4: maxima, group, our port as text, results
    """
    transmit, receive, group, count = MSRPC_BIND.unpack_from(message)
    at, results = MSRPC_BIND.size, b''
    count = min(count, MSRPC_CONTEXTS_MAX)
    for _ in range(count):
        syntaxes = message[at + 2]
        at += 24
        offered = [message[at + 20 * index:at + 20 * index + 20] for index in range(syntaxes)]
        at += 20 * syntaxes
        fits = MSRPC_NDR in offered
        results += struct.pack('<HH', 0, 0) + MSRPC_NDR if fits else struct.pack('<HH20x', 2, 2)
    address = sized(b'%d\0' % peer.dport, 2, 'little')
    head = struct.pack('<HHI', receive, transmit, group or 1) + address
    return pack_msrpc(kind, call, head + bytes(-len(head) % 4)
                      + struct.pack('<Bxxx', count) + results)


@talk('msrpc', sig=('05 00 0b 03 10 00 00 00', '05 00 0b 07 10 00 00 00'), port=135,
      size=le(8, 2, 0), ref='https://pubs.opengroup.org/onlinepubs/9629399/chap12.htm')
def answer_msrpc(message, peer):
    """Bind -> accepted; request -> access is denied."""
    _, _, kind, _, _, _, _, call = MSRPC_HEAD.unpack_from(message)
    if kind in (MSRPC_BIND_TYPE, MSRPC_ALTER):
        return pack_msrpc_bound(message, kind + 1, call, peer)
    if kind != MSRPC_REQUEST:
        return b''
    return pack_msrpc(MSRPC_FAULT, call, struct.pack('<IHBxIxxxx', 32, 0, 0, MSRPC_DENIED))


# ---- tacacs --------------------------------------------------------------------------

TACACS_HEAD = struct.Struct('!BBBBII')  # RFC 8907 s4.1: version kind sequence flags session size
TACACS_PLAIN = 1                        # flag: the body is not obfuscated
TACACS_SAYS = {                         # s5.2, s6.2, s7.2: error, no texts
    1: b'\7\0\0\0\0\0', 2: b'\x11\0\0\0\0\0', 3: b'\0\0\0\0\2'}
TACACS_FAILED = b'\2\0\0\0\0\0'
TACACS_FIXED = 8                        # octets of a start before its texts


@talk('tacacs', sig=['%s %02x 01 %s .. .. .. .. 00 00 .. ..' % (version, kind, flags)
                     for version in ('c0', 'c1') for kind in TACACS_SAYS
                     for flags in ('00', '01', '04', '05')], port=49,
      size=be(8, 4, TACACS_HEAD.size), ref='RFC 8907 s4.1, s5.2, s6.2, s7.2')
def answer_tacacs(message, peer):
    """Login -> failed if it is readable, else an error, unobfuscated: we share no secret."""
    version, kind, sequence, flags, session, _ = TACACS_HEAD.unpack_from(message)
    body = message[TACACS_HEAD.size:]
    says = TACACS_SAYS[kind]
    if kind == 1 and flags & TACACS_PLAIN:
        size = body[4]
        secret = TACACS_FIXED + sum(body[4:7])
        peer.note('credentials', user=body[TACACS_FIXED:TACACS_FIXED + size],
                  password=body[secret:])
        says = TACACS_FAILED
    return TACACS_HEAD.pack(version, kind, sequence + 1, TACACS_PLAIN, session,
                            len(says)) + says, SHUT


family('Remote access')


# ---- adb -----------------------------------------------------------------------------

ADB_HEAD = struct.Struct('<4sIIIII')    # command, two arguments, size, sum, magic
ADB_VERSION, ADB_DATA_MAX = 0x01000000, 4096
ADB_BANNER = b'device::ro.product.name=device;ro.product.model=device;ro.product.device=device;\0'


def pack_adb(command, first, second, data=b''):
    """Command, its arguments, data -> message; its magic is the command's complement."""
    return ADB_HEAD.pack(command, first, second, len(data), sum(data),
                         int.from_bytes(command, 'little') ^ 0xffffffff) + data


@talk('adb', sig=(b'CNXN',), port=5555, size=le(12, 4, ADB_HEAD.size),
      ref='https://android.googlesource.com/platform/packages/modules/adb/+/refs/heads/main/'
          'protocol.txt')
def answer_adb(message, peer):
    """Connect -> a device; open -> close."""
    command, first, _, _, _, _ = ADB_HEAD.unpack_from(message)
    data = message[ADB_HEAD.size:]
    if command == b'CNXN' and not peer.state:
        peer.state = 'connected'
        return pack_adb(command, ADB_VERSION, ADB_DATA_MAX, ADB_BANNER)
    if command == b'OPEN':
        peer.note('command', words=data.rstrip(b'\0')[:1024])
        return pack_adb(b'CLSE', 0, first)
    return b'' if command in (b'OKAY', b'WRTE', b'CLSE', b'AUTH') else None


# ---- ica -----------------------------------------------------------------------------

ICA_MAGIC = b'\x7f\x7fICA\0'


@talk('ica', sig=(ICA_MAGIC,), port=1494, size=fix(len(ICA_MAGIC)), banner=ICA_MAGIC,
      ref='https://github.com/praetorian-inc/nerva/tree/main/pkg/plugins/services/citrixica')
def answer_ica(message, peer):
    """Magic -> the same, once."""
    given = None if peer.state or peer.greeter else ICA_MAGIC
    peer.state = 'greeted'
    return given


# ---- radmin --------------------------------------------------------------------------

RADMIN_HEAD = struct.Struct('!BIIB')    # version size sum type; the type counts
RADMIN_VERSION, RADMIN_LOGIN = 8, 0x1b
RADMIN_ASKS = [b'\1\0\0\0\1\0\0\0' + bytes((kind, kind)) for kind in (8, 0x1b)]
RADMIN_SETTINGS = bytes.fromhex('01000008').ljust(36, b'\0')    # a password of its own


def pack_radmin(kind, data):
    """Type and data -> the message; its sum is that of words of 32 bits, little-endian."""
    words = bytes((kind,)) + data
    words += bytes(-len(words) % 4)
    total = sum(struct.unpack('<%dI' % (len(words) // 4), words)) & 0xffffffff
    return RADMIN_HEAD.pack(1, 1 + len(data), total, kind) + data


@talk('radmin', sig=('.. ' * 10,), port=4899, size=be(1, 4, 9), limit=256,
      check=lambda data, peer: data[:10] in RADMIN_ASKS, ref='https://www.shadowserver.org'
      '/what-we-do/network-reporting/accessible-radmin-report/')
def answer_radmin(message, peer):
    """Version, wish for a login -> ours, a challenge; the answer to it is wrong.

    state   the challenge
    """
    kind = message[9]
    if peer.state:
        peer.note('credentials', user=b'', digest=message[10:].hex(), salt=peer.state.hex())
        return b'', SHUT
    if kind == RADMIN_VERSION:
        return pack_radmin(kind, RADMIN_SETTINGS)
    if kind != RADMIN_LOGIN:
        return None
    peer.state = peer.host.random(32)
    return pack_radmin(kind, peer.state)


# ---- rdp -----------------------------------------------------------------------------

RDP_CONFIRM = bytes.fromhex('0300000b06d00000123400')           # X.224 s13.4: no negotiation
RDP_CHOSEN = bytes.fromhex('030000130ed00000123400')            # with what is chosen behind it
RDP_ASKED = struct.Struct('<BBHI')      # MS-RDPBCGR s2.2.1.1.1: type flags size protocols
RDP_PLAIN, RDP_TLS, RDP_HYBRID = 0, 1, 2
RDP_COOKIE = re.compile(br'Cookie: mstshash=([^\r]{1,64})\r\n')
RDP_CONNECT = b'\x02\xf0\x80\x7f\x65'   # X.224 data, MCS Connect Initial
RDP_GCC = b'Duca'                       # T.124 s8.7: before the client's data
RDP_CLIENT = b'\1\xc0'                  # MS-RDPBCGR s2.2.1.3.2: header of the core data
RDP_CLIENT_AT, RDP_CLIENT_SIZE = 24, 32         # its name in UTF-16
RDP_GOODBYE = bytes.fromhex('0300000902f0802180')       # T.125 s7: DisconnectProviderUltimatum
# T.125 s7: Connect-Response: rt-user-rejected, id 0, domain parameters, no data
RDP_REJECTED = bytes.fromhex('0300002d02f080 7f6622 0a010f 020100'
                             '3018 020122 020103 020100 020101 020100 020101 020200ff 020102 0400')
CREDSSP_VERSION = 6         # MS-CSSP s2.2.1
CREDSSP_TELLS = 3, 4, 6     # versions that have an error code
CREDSSP_ERROR = pack_der(2, bytes.fromhex('c000006d'))          # STATUS_LOGON_FAILURE


def size_rdp(data):
    """A packet of TPKT, or one of CredSSP, which is DER."""
    return (ber if data[:1] == b'\x30' else be(2, 2, 0))(data)


def pack_credssp(version, tag, body):
    """A field and its tag -> TSRequest (MS-CSSP s2.2.1)."""
    return pack_der(0x30, pack_der(0xa0, pack_integer(version)), pack_der(tag, body))


def answer_credssp(request, peer):
    """A TSRequest, inside of TLS: hello of NTLM -> a challenge; its answer -> refusal."""
    fields = {tag: body for tag, _, body in ber_parts(ber_parts(request)[0][2])}
    version = min(from_octets(ber_parts(fields[0xa0])[0][2], 'big'), CREDSSP_VERSION)
    token = fields[0xa1]
    for _ in range(4):                      # a list of sequences of [0] OCTET STRING
        token = ber_parts(token)[0][2]
    answer = pack_logon_step(token, peer)
    if answer:
        token = pack_der(0xa0, pack_der(4, answer))
        return pack_credssp(version, 0xa1, pack_der(0x30, pack_der(0x30, token)))
    if version not in CREDSSP_TELLS:
        return b'', SHUT
    return pack_credssp(version, 0xa4, CREDSSP_ERROR), SHUT


def confirm_rdp(message, peer):
    """Connection request -> what is chosen of the protocols asked for."""
    match = RDP_COOKIE.search(message)
    if match:
        peer.note('credentials', user=match.group(1))
    asked = message[-RDP_ASKED.size:]
    if len(message) < 19 or asked[:1] + asked[2:4] != b'\1\x08\0':
        return RDP_CONFIRM
    chosen = RDP_PLAIN
    if peer.offers_tls:
        chosen = RDP_HYBRID if asked[4] & RDP_HYBRID else asked[4] & RDP_TLS
    peer.state = chosen
    answer = RDP_CHOSEN + RDP_ASKED.pack(2, 0, 8, chosen)
    return Reply(answer, tls=b'') if chosen else answer


@talk('rdp', sig=('03 00 .. .. .. e0 00 00 .. .. 00', '03 00 00 0b 06 e0 00 00 .. .. 00'),
      port=3389, size=size_rdp,
      ref='MS-RDPBCGR s2.2.1.1, s2.2.1.2, s2.2.1.3, MS-CSSP s3.1.5')
def answer_rdp(message, peer):
    """Connection request -> confirmed; login with NTLM -> refusal; connect -> goodbye.

    state  the security that was agreed on
    """
    if peer.state is None:
        peer.state = RDP_PLAIN
        return confirm_rdp(message, peer)
    if message[0] == 0x30:
        return answer_credssp(message, peer) if peer.state == RDP_HYBRID else None
    if message[4:9] == RDP_CONNECT:
        at = message.index(RDP_CLIENT, message.index(RDP_GCC)) + RDP_CLIENT_AT
        name = message[at:at + RDP_CLIENT_SIZE].decode('utf-16-le', 'replace')
        peer.note('request', client=name.partition('\0')[0])
        return RDP_REJECTED, SHUT
    return RDP_GOODBYE, SHUT


# ---- rdp over udp --------------------------------------------------------------------

# MS-RDPEUDP s2.2.2.1, s2.2.2.5: acknowledged, window, flags, first number, units up and down
RDP_UDP = struct.Struct('!IHHIHH')
RDP_UDP_SYN, RDP_UDP_ACK = 1, 4


@datagram('rdp-udp', sig=('ff ff ff ff .. .. .. 01 .. .. .. .. .. .. .. ..',), port=3389,
          ref='MS-RDPEUDP s2.2.2, s3.1.5.1')
def answer_rdp_udp(message, peer):
    """SYN -> SYN and ACK, then silence."""
    _, window, _, first, up, down = RDP_UDP.unpack_from(message)
    ours = int.from_bytes(peer.host.random(4), 'big')
    return RDP_UDP.pack(first, window, RDP_UDP_SYN | RDP_UDP_ACK, ours, up, down)


# ---- rexec ---------------------------------------------------------------------------

def size_rexec(data):
    """Port of standard error, user, password, command: each ends in NUL."""
    parts = data.split(b'\0', 4)
    return len(data) - len(parts[4]) if len(parts) == 5 else None


@talk('rexec', sig=('..',), port=512, size=size_rexec, limit=TEXT_MAX,
      ref='https://man.freebsd.org/cgi/man.cgi?query=rexecd&sektion=8')
def answer_rexec(message, peer):
    """Login and a command -> login incorrect."""
    _, user, password, command, _ = message.split(b'\0')
    peer.note('credentials', user=user, password=password, command=command)
    return b'\1Login incorrect.\n', SHUT


# ---- rfb -----------------------------------------------------------------------------

RFB_GREETING = b'RFB 003.008\n'          # RFC 6143 s7.1.1
RFB_LINE = re.compile(br'RFB 00([0-9])\.([0-9]{3})\n')
RFB_VNC = b'\2'                         # RFC 6143 s7.1.2: security type
RFB_FAILED = struct.pack('!I', 1)       # RFC 6143 s7.1.3
RFB_RESPONSE = 16


def start_rfb(data, peer):
    """The client's version -> security types, or the challenge at once for 3.3."""
    match = RFB_LINE.match(data)
    if not match:
        return None
    hello = b'' if peer.greeter else RFB_GREETING
    if int(match.group(1)) == 3 and int(match.group(2)) < 7:
        challenge = peer.host.random(RFB_RESPONSE)
        peer.state = challenge, False
        return Reply(hello + struct.pack('!I', 2) + challenge, match.end())
    peer.state = b'', int(match.group(2)) > 7
    return Reply(hello + b'\1' + RFB_VNC, match.end())


@protocol('rfb', sig=('52 46 42 20 30 30 .. 2e .. .. .. 0a',), over=(TCP,), banner=RFB_GREETING,
          port=(5900, 5901, 5902, 5903), ref='RFC 6143 s7.1')
def answer_rfb(data, peer):
    """Version -> a password is wanted; response -> refusal.

    state   (the challenge; b'' before the type is chosen, whether it is 3.8, which has reasons)
    """
    if len(data) < len(RFB_GREETING) and peer.state is None:
        return MORE if RFB_GREETING[:6].startswith(data[:6]) else None
    if peer.state is None:
        return start_rfb(data, peer)
    challenge, reasons = peer.state
    failure = RFB_FAILED + (sized(b'Authentication failure', 4) if reasons else b'')
    if not challenge:
        if data[:1] != RFB_VNC:
            return Reply(failure, 1, close=True)
        challenge = peer.host.random(RFB_RESPONSE)
        peer.state = challenge, reasons
        return Reply(challenge, 1)
    if len(data) < RFB_RESPONSE:
        return MORE
    peer.note('credentials', user=b'', digest=data[:RFB_RESPONSE].hex(), salt=challenge.hex())
    return Reply(failure, RFB_RESPONSE, close=True)


# ---- rlogin --------------------------------------------------------------------------

RLOGIN_END = re.compile(br'\r\n?|\n')


def size_rlogin(data):
    """A NUL, then our user's name, theirs, terminal and speed, each with a NUL; later a line."""
    if data[:1] != b'\0':
        end = RLOGIN_END.search(data)
        return end and end.end()
    parts = data.split(b'\0', 4)
    return len(data) - len(parts[4]) if len(parts) == 5 else None


@talk('rlogin', sig=('..',), port=513, size=size_rlogin, limit=TEXT_MAX, ref='RFC 1282 s2')
def answer_rlogin(message, peer):
    """Start -> a password is wanted; password -> login incorrect.

    state   the user
    """
    if peer.state is None:
        _, _, user, _, _ = message.split(b'\0')
        peer.state = user
        return b'\0Password: '
    peer.note('credentials', user=peer.state, password=message.rstrip(b'\r\n'))
    return b'\r\nLogin incorrect\r\n', SHUT


# ---- routeros ------------------------------------------------------------------------

ROUTEROS_REFUSAL = b''.join(sized(word, 1) for word in (
    b'!trap', b'=message=invalid user name or password (6)', b'', b'!done', b''))
ROUTEROS_CHALLENGE = b''.join(sized(word, 1) for word in (b'!done', b'=ret=' + b'00' * 16, b''))


def size_routeros(data):
    """Words with their size in one octet, up to an empty one; longer ones are not for a login."""
    at = 0
    while at < len(data):
        if not data[at]:
            return at + 1
        if data[at] > 0x7f:
            return -1
        at += 1 + data[at]
    return None


@talk('routeros', sig=(b'\6/login',), port=8728, size=size_routeros, limit=TEXT_MAX,
      ref='https://help.mikrotik.com/docs/spaces/ROS/pages/47579160/API')
def answer_routeros(message, peer):
    """Login -> a challenge where it has no name, else refusal."""
    words, at = {}, 0
    while message[at]:
        word, at = read_sized(message, at, 1)
        _, name, value = (word.split(b'=', 2) + [b'', b''])[:3]
        words[name] = value
    if b'name' not in words:
        return ROUTEROS_CHALLENGE
    peer.note('credentials', user=words[b'name'],
              password=words.get(b'password', words.get(b'response', b'')))
    return ROUTEROS_REFUSAL


# ---- rsh -----------------------------------------------------------------------------

@talk('rsh', sig=('..',), port=514, size=size_rexec, limit=TEXT_MAX,
      ref='https://man.freebsd.org/cgi/man.cgi?query=rshd&sektion=8')
def answer_rsh(message, peer):
    """Users and a command -> permission denied."""
    _, client, user, command, _ = message.split(b'\0')
    peer.note('credentials', user=user, client=client, command=command)
    return b'\1Permission denied.\n', SHUT


# ---- rustdesk ------------------------------------------------------------------------

# rendezvous.proto: fields of a message, which has one; their tags in protobuf are 8 * field + 2
RUSTDESK_HOLE, RUSTDESK_NAT = b'\x42', b'\xa2\1'
RUSTDESK_PORT = b'\xaa\1'               # the answer to RUSTDESK_NAT
RUSTDESK_NO_KEY = b'\x5a\2\x18\3'       # punch_hole_response: the licence's key does not match


def size_rustdesk(data):
    """The two lowest bits say in how many octets the size is, the others are the size."""
    count = 1 + (data[0] & 3)
    if len(data) < count:
        return None
    return count + (from_octets(data[:count], 'little') >> 2)


def pack_rustdesk(message):
    """Up to 63 octets -> the same with their size."""
    return bytes((len(message) << 2,)) + message


@talk('rustdesk', sig=('0c a2 01 00', '14 a2 01 02 08', '.. .. .. ..'), limit=512,
      port=(21115, 21116, 21117), size=size_rustdesk,
      check=lambda data, peer: not data[0] & 3 and data[1:2] in (RUSTDESK_HOLE, b'\xa2'),
      ref='https://github.com/rustdesk/hbb_common/blob/main/protos/rendezvous.proto')
def answer_rustdesk(message, peer):
    """Which port do you see -> it; a way to somebody -> the key is wrong."""
    body = message[1:]
    if body[:2] == RUSTDESK_NAT:
        seven, high = peer.sport & 0x7f, peer.sport >> 7
        port = bytes((0x80 | seven, 0x80 | high & 0x7f, high >> 7))
        return pack_rustdesk(RUSTDESK_PORT + sized(b'\x08' + port, 1)), SHUT
    if body[:1] != RUSTDESK_HOLE or body[2:3] != b'\n':
        return None
    peer.note('request', target=read_sized(body, 3, 1)[0])
    return pack_rustdesk(RUSTDESK_NO_KEY), SHUT


@datagram('rustdesk-udp', sig=('.. .. .. ..',), port=21116,
          check=lambda data, peer: data[:1] + data[2:3] == b'\x32\n' and data[1] >= data[3] + 2,
          ref='https://github.com/rustdesk/hbb_common/blob/main/protos/rendezvous.proto')
def answer_rustdesk_udp(message, peer):
    """A computer registers -> its key is not needed."""
    peer.note('request', target=read_sized(message, 3, 1)[0])
    return b'\x3a\0'                        # register_peer_response, all by default


# ---- spice ---------------------------------------------------------------------------

SPICE_DENIED = 7                        # SPICE_LINK_ERR_PERMISSION_DENIED


@talk('spice', sig=(b'REDQ',), port=5930, size=le(12, 4, 16), limit=4096,
      ref='https://www.spice-space.org/spice-protocol.html')
def answer_spice(message, peer):
    """Link -> permission denied."""
    reply = struct.pack('<I162sIII', SPICE_DENIED, b'', 0, 0, 178)
    return b'REDQ' + struct.pack('<II', 2, 2) + sized(reply, 4, 'little'), SHUT


# ---- teamviewer ----------------------------------------------------------------------

@talk('teamviewer', sig=('17 24 10 04 00',), port=5938, size=le(3, 2, 5), limit=64,
      ref='https://github.com/praetorian-inc/nerva/tree/main/pkg/plugins/services/teamviewer')
def answer_teamviewer(message, peer):
    """Ping -> pong."""
    return b'\x17\x24\x11' + message[3:] if message[2] == 0x10 else None


# ---- winbox --------------------------------------------------------------------------

WINBOX_PATH = re.compile(br'/[\x20-\x7e]{2,255}')


@talk('winbox', sig=('.. .. .. .. .. ..',), port=8291, size=be(0, 1, 2),
      check=lambda data, peer: data[1] == 6 or data[4:6] == b'M2',
      ref='https://github.com/MarginResearch/mikrotik_authentication')
def answer_winbox(message, peer):
    """Login of version 6.45 or later, a file without one -> noted, then the end."""
    if message[1] == 6:                     # name, NUL, a point of Curve25519, its parity
        name, mark, rest = message[2:].partition(b'\0')
        if mark and len(rest) == 33:
            peer.note('credentials', user=name)
    else:
        peer.note('request', target=max(WINBOX_PATH.findall(message[6:]) or [b''], key=len))
    return b'', SHUT


# ---- x11 -----------------------------------------------------------------------------

X11_REASON = b'Not authorized.\n'       # a multiple of 4
X11_REQUEST = {b'l': struct.Struct('<BxHHHHxx'), b'B': struct.Struct('!BxHHHHxx')}    # s8
X11_FAILED = {b'l': struct.Struct('<BBHHH'), b'B': struct.Struct('!BBHHH')}


def size_x11(data):
    """Octets of the setup with its two strings, each filled up to 4."""
    if len(data) < 12:
        return None
    _, _, _, name, secret = X11_REQUEST[data[:1]].unpack_from(data)
    return 12 + name + -name % 4 + secret + -secret % 4


@talk('x11', sig=('6c 00 0b 00 00 00 .. .. .. .. 00 00', '42 00 00 0b 00 00 .. .. .. .. 00 00'),
      port=(6000, 6001), size=size_x11,
      ref='https://www.x.org/releases/current/doc/xproto/x11protocol.html')
def answer_x11(message, peer):
    """Setup of a connection -> refusal."""
    _, _, _, name, secret = X11_REQUEST[message[:1]].unpack_from(message)
    at = 12 + name + -name % 4
    if name:
        peer.note('credentials', user=message[12:12 + name],
                  password=message[at:at + secret].hex())
    return X11_FAILED[message[:1]].pack(0, len(X11_REASON), 11, 0, len(X11_REASON) // 4) + (
        X11_REASON), SHUT


family('Secure shell')


# ---- ssh: curve25519 -----------------------------------------------------------------
#
# RFC 7748 s4.1, RFC 8032 s5.1: a point of the Montgomery curve is its u, one of the Edwards curve
# (X, Y, Z, T) with x = X / Z, y = Y / Z, x * y = T / Z.  One that is added often is known as
# (y + x, y - x, 2 * d * x * y).

P25519 = (1 << 255) - 19
A24 = 121665                            # RFC 7748 s5
ED25519_D = 37095705934669439343138083508754565189542113879843219016388785533085940283555
ED25519_ORDER = (1 << 252) + 27742317777372353535851937790883648493
ED25519_BASE = (15112221349535400772501151409588531511454012693041857206046113283949847762202,
                46316835694926478169428394003475163141307993866256225615783033603165251855960)


class Edwards25519:
    """The group of RFC 8032 s5.1.4."""
    bits, neutral = 256, (0, 1, 1, 0)

    @staticmethod
    def double(x, y, z, _):
        a = x * x
        b = y * y
        h = a + b
        e = h - (x + y) * (x + y)
        g = a - b
        f = 2 * z * z + g
        return e * f % P25519, g * h % P25519, f * g % P25519, e * h % P25519

    @staticmethod
    def add(x, y, z, t, known):
        a = (y - x) * known[1] % P25519
        b = (y + x) * known[0] % P25519
        c = t * known[2] % P25519
        e = b - a
        f = 2 * z - c
        g = 2 * z + c
        h = b + a
        return e * f % P25519, g * h % P25519, f * g % P25519, e * h % P25519

    @staticmethod
    def know(points):
        known = []
        for (x, y, _, _), inverse in zip(points, invert_all([each[2] for each in points], P25519)):
            x = x * inverse % P25519
            y = y * inverse % P25519
            known.append((y + x, y - x, 2 * ED25519_D * x * y % P25519))
        return known


@functools.lru_cache(None)
def ed25519_comb():
    """The base point's Comb: 3 ms and 60 kB, once it is needed."""
    x, y = ED25519_BASE
    return Comb(Edwards25519, (x, y, 1, x * y % P25519))


def clamp(octets) -> int:
    """32 octets -> a secret number (RFC 7748 s5, RFC 8032 s5.1.5)."""
    return from_octets(octets, 'little') & (1 << 255) - 8 | 1 << 254


def x25519(secret: int, u: int) -> int:
    """A clamped number and a point -> the point so many times; the ladder of RFC 7748 s5."""
    p, x2, z2 = P25519, 1, 0
    x3, z3 = u, 1
    last = '0'
    for bit in format(secret, '0255b'):
        if bit != last:
            x2, x3 = x3, x2
            z2, z3 = z3, z2
        last = bit
        a = x2 + z2
        b = x2 - z2
        aa = a * a % p
        bb = b * b % p
        e = aa - bb
        da = (x3 - z3) * a % p
        cb = (x3 + z3) * b % p
        x3 = (da + cb) ** 2 % p
        z3 = u * (da - cb) ** 2 % p
        x2 = aa * bb % p
        z2 = e * (aa + A24 * e) % p
    if last == '1':
        x2, z2 = x3, z3
    return x2 * invert(z2, p) % p


def x25519_base(secret: int) -> int:
    """The same of the base point, by way of the Edwards curve (RFC 7748 s4.1)."""
    _, y, z, _ = ed25519_comb().times(secret)
    return (z + y) * invert(z - y, P25519) % P25519


class Ed25519Key:
    """A key of RFC 8032 s5.1.5, from 32 random octets.

    public      32 octets
    """

    def __init__(self, seed):
        digest = hashlib.sha512(seed).digest()
        self.secret, self.prefix = clamp(digest[:32]), digest[32:]
        self.public = self.pack(self.secret)

    @staticmethod
    def pack(number) -> bytes:
        """So many times the base point -> 32 octets."""
        x, y, z, _ = ed25519_comb().times(number)
        inverse = invert(z, P25519)
        sign = (x * inverse % P25519 & 1) << 255
        return (y * inverse % P25519 | sign).to_bytes(32, 'little')

    def sign(self, message) -> bytes:
        """RFC 8032 s5.1.6 -> 64 octets."""
        once = self.reduce(self.prefix + message)
        point = self.pack(once)
        factor = self.reduce(point + self.public + message)
        return point + ((once + factor * self.secret) % ED25519_ORDER).to_bytes(32, 'little')

    @staticmethod
    def reduce(octets) -> int:
        return from_octets(hashlib.sha512(octets).digest(), 'little') % ED25519_ORDER


# ---- ssh: ciphers --------------------------------------------------------------------

AES_MIX = struct.Struct('!IIII')
MASK128 = (1 << 128) - 1


@functools.lru_cache(None)
def aes_tables():
    """FIPS 197 -> (S-box, four tables that do SubBytes and MixColumns of a column's octets).

    0.7 ms and 45 kB, once they are needed.
    """
    powers, box = [1], bytearray(256)
    for _ in range(254):                        # of 3, modulo x^8 + x^4 + x^3 + x + 1
        last = powers[-1]
        powers.append(last ^ last << 1 ^ (0x11b if last & 0x80 else 0))
    logs = {power: index for index, power in enumerate(powers)}
    for number in range(256):
        inverse = powers[-logs[number] % 255] if number else 0
        spread = inverse ^ inverse << 1 ^ inverse << 2 ^ inverse << 3 ^ inverse << 4    # s5.1.1
        box[number] = (spread ^ spread >> 8) & 0xff ^ 0x63
    tables = [[], [], [], []]
    for octet in box:
        twice = octet << 1 ^ (0x11b if octet & 0x80 else 0)
        column = bytes((twice, octet, octet, twice ^ octet))
        for shift, table in enumerate(tables):
            at = 4 - shift
            table.append(from_octets(column[at:] + column[:at], 'big'))
    return bytes(box), tables


def expand_aes(key) -> 'list[tuple[int, int, int, int]]':
    """16 or 32 octets -> the keys of the rounds (FIPS 197 s5.2)."""
    box, count, once = aes_tables()[0], len(key) // 4, 1
    words = [from_octets(key[at:at + 4], 'big') for at in range(0, len(key), 4)]
    for index in range(count, 4 * (count + 7)):
        word = words[-1]
        if index % count == 0:
            word = (word << 8 | word >> 24) & MASK32
        if index % count == 0 or count > 6 and index % count == 4:
            word = from_octets(word.to_bytes(4, 'big').translate(box), 'big')
        if index % count == 0:
            word ^= once << 24
            once = once << 1 ^ (0x11b if once & 0x80 else 0)
        words.append(words[-count] ^ word)
    return [tuple(words[at:at + 4]) for at in range(0, len(words), 4)]


class AesCtr:
    """AES in counter mode (RFC 4344 s4): what encrypts also decrypts; 11 us a block.

    counter     the next block's number
    """
    __slots__ = 'first', 'pairs', 'last', 'final', 'counter'

    def __init__(self, key, start):
        keys = expand_aes(key)
        self.first, self.last = keys[0], keys[-2]
        self.final = AES_MIX.pack(*keys[-1])
        self.pairs = [keys[at] + keys[at + 1] for at in range(1, len(keys) - 2, 2)]
        self.counter = from_octets(start, 'big')

    def crypt(self, data):
        """Whole blocks -> as many octets (FIPS 197 s5.1)."""
        box, tables = aes_tables()
        count = len(data) // 16
        states = [self.mix_rounds(self.counter + index & MASK128, *tables)
                  for index in range(count)]
        self.counter += count
        stream = mix(b''.join(states).translate(box), self.final * count)
        return mix(data, stream)

    def mix_rounds(self, number, t0, t1, t2, t3):
        """A number of 128 bits -> 16 octets, before the last SubBytes and the last key."""
        k0, k1, k2, k3 = self.first
        a = number >> 96 ^ k0
        b = number >> 64 & MASK32 ^ k1
        c = number >> 32 & MASK32 ^ k2
        d = number & MASK32 ^ k3
        for k0, k1, k2, k3, k4, k5, k6, k7 in self.pairs:
            e = t0[a >> 24] ^ t1[b >> 16 & 255] ^ t2[c >> 8 & 255] ^ t3[d & 255] ^ k0
            f = t0[b >> 24] ^ t1[c >> 16 & 255] ^ t2[d >> 8 & 255] ^ t3[a & 255] ^ k1
            g = t0[c >> 24] ^ t1[d >> 16 & 255] ^ t2[a >> 8 & 255] ^ t3[b & 255] ^ k2
            h = t0[d >> 24] ^ t1[a >> 16 & 255] ^ t2[b >> 8 & 255] ^ t3[c & 255] ^ k3
            a = t0[e >> 24] ^ t1[f >> 16 & 255] ^ t2[g >> 8 & 255] ^ t3[h & 255] ^ k4
            b = t0[f >> 24] ^ t1[g >> 16 & 255] ^ t2[h >> 8 & 255] ^ t3[e & 255] ^ k5
            c = t0[g >> 24] ^ t1[h >> 16 & 255] ^ t2[e >> 8 & 255] ^ t3[f & 255] ^ k6
            d = t0[h >> 24] ^ t1[e >> 16 & 255] ^ t2[f >> 8 & 255] ^ t3[g & 255] ^ k7
        k0, k1, k2, k3 = self.last
        e = t0[a >> 24] ^ t1[b >> 16 & 255] ^ t2[c >> 8 & 255] ^ t3[d & 255] ^ k0
        f = t0[b >> 24] ^ t1[c >> 16 & 255] ^ t2[d >> 8 & 255] ^ t3[a & 255] ^ k1
        g = t0[c >> 24] ^ t1[d >> 16 & 255] ^ t2[a >> 8 & 255] ^ t3[b & 255] ^ k2
        h = t0[d >> 24] ^ t1[a >> 16 & 255] ^ t2[b >> 8 & 255] ^ t3[c & 255] ^ k3
        a = e & 0xff000000 | f & 0xff0000 | g & 0xff00 | h & 0xff       # ShiftRows
        b = f & 0xff000000 | g & 0xff0000 | h & 0xff00 | e & 0xff
        c = g & 0xff000000 | h & 0xff0000 | e & 0xff00 | f & 0xff
        d = h & 0xff000000 | e & 0xff0000 | f & 0xff00 | g & 0xff
        return AES_MIX.pack(a, b, c, d)


def mix(data, stream) -> bytes:
    """Octets XOR octets, as many."""
    return (from_octets(data, 'big') ^ from_octets(stream, 'big')).to_bytes(len(data), 'big')


CHACHA_WORDS = from_octets(b'expand 32-byte k', 'little')      # RFC 8439 s2.3
POLY_PRIME = (1 << 130) - 5
POLY_CLAMP = 0x0ffffffc0ffffffc0ffffffc0fffffff                # s2.5


def spread_row(number) -> int:
    """Four words of 32 bits -> the same, 64 bits apart, so that sums have room."""
    return (number & MASK32 | (number >> 32 & MASK32) << 64 | (number >> 64 & MASK32) << 128
            | number >> 96 << 192)


def chacha20(key, number, first, count) -> bytes:
    """Key of 32 octets, nonce (a packet's number), the first block's -> octets of `count` blocks.

    The four rows of the state, of all blocks at once, are four big integers: 0.05 ms for one
    block, 0.2 for twenty (RFC 8439 s2.3; nonce and counter of 64 bits each, as Bernstein has it).
    """
    ones = sum([1 << 256 * index for index in range(count)])
    low = ones * spread_row(MASK128)
    lanes = [ones * (((1 << 64 * kept) - 1) << 64 * (4 - kept)) for kept in (1, 2, 3)]
    nonce = from_octets(number.to_bytes(8, 'big'), 'little')
    rows = [ones * spread_row(each) for each in (
        CHACHA_WORDS, from_octets(key[:16], 'little'), from_octets(key[16:], 'little'),
        first | nonce << 64)]
    rows[3] += sum([index << 256 * index for index in range(count)])
    a, b, c, d = rows
    for turn in range(20):
        a = a + b & low
        d ^= a
        d = (d << 16 | d >> 16) & low
        c = c + d & low
        b ^= c
        b = (b << 12 | b >> 20) & low
        a = a + b & low
        d ^= a
        d = (d << 8 | d >> 24) & low
        c = c + d & low
        b ^= c
        b = (b << 7 | b >> 25) & low
        if turn & 1:                            # the words of a diagonal back to their columns
            b, d = d, b
        b = b >> 64 & ~lanes[0] & low | b << 192 & lanes[0]
        c = c >> 128 & ~lanes[1] & low | c << 128 & lanes[1]
        d = d >> 192 & ~lanes[2] & low | d << 64 & lanes[2]
        if turn & 1:
            b, d = d, b
    words = [memoryview((each + row & low).to_bytes(32 * count, 'little')).cast('I')[::2].tobytes()
             for each, row in zip((a, b, c, d), rows)]
    return b''.join([row[at:at + 16] for at in range(0, 16 * count, 16) for row in words])


def poly1305(key, data) -> bytes:
    """RFC 8439 s2.5: 32 octets and a message -> 16 octets."""
    factor = from_octets(key[:16], 'little') & POLY_CLAMP
    total = 0
    for at in range(0, len(data), 16):
        total = (total + from_octets(data[at:at + 16] + b'\1', 'little')) * factor % POLY_PRIME
    return (total + from_octets(key[16:], 'little') & MASK128).to_bytes(16, 'little')


# ---- ssh: packets --------------------------------------------------------------------
#
# RFC 4253 s6.  A way is one direction's cipher and MAC:
#   block       octets of which a packet has a multiple
#   counted     whether packet_length itself counts for that: 4, or 0 octets
#   first       octets that hold a packet's length
#   tag         octets of the MAC
#   read_size   number of the packet, its first octets -> packet_length
#   open, seal  number of the packet, the whole of it -> padding_length and what follows; and back

SSH_MSG_DISCONNECT = 1          # RFC 4250 s4.1.2
SSH_MSG_IGNORE = 2
SSH_MSG_UNIMPLEMENTED = 3
SSH_MSG_DEBUG = 4
SSH_MSG_SERVICE_REQUEST = 5
SSH_MSG_SERVICE_ACCEPT = 6
SSH_MSG_EXT_INFO = 7            # RFC 8308 s2.3
SSH_MSG_KEXINIT = 20
SSH_MSG_NEWKEYS = 21
SSH_MSG_KEXDH_INIT = 30         # of whatever exchange
SSH_MSG_KEXDH_REPLY = 31
SSH_MSG_USERAUTH_REQUEST = 50
SSH_MSG_USERAUTH_FAILURE = 51
SSH_MSG_USERAUTH_INFO_REQUEST = 60      # RFC 4256 s5
SSH_MSG_USERAUTH_INFO_RESPONSE = 61
SSH_PACKET_MIN, SSH_PACKET_MAX = 12, 1 << 14    # packet_length; s6.1 has 35,000 octets
SSH_PADDING_MIN = 4             # s6
SSH_MAC_BLOCK = 64              # of SHA-1 and SHA-256 (RFC 2104 s2)


class SshPlain:
    """A way before NEWKEYS."""
    block, counted, first, tag = 8, 4, 8, 0

    @staticmethod
    def read_size(number, data):
        return from_octets(data[:4], 'big')

    @staticmethod
    def open(number, data):
        return data[4:]

    @staticmethod
    def seal(number, packet):
        return packet


SSH_PLAIN = SshPlain()


class SshCtr:
    """AES in counter mode and HMAC of what is in it (RFC 4344 s4, RFC 6668).

    cipher          AesCtr
    inner, outer    hashes that have taken the key (RFC 2104 s2)
    head            what the first block of the packet that comes says
    """
    __slots__ = 'cipher', 'inner', 'outer', 'head', 'tag'
    block, counted, first = 16, 4, 16

    def __init__(self, key, start, digest, secret):
        self.cipher, self.head = AesCtr(key, start), b''
        padded = secret.ljust(SSH_MAC_BLOCK, b'\0')
        self.inner = hashlib.new(digest, bytes([octet ^ 0x36 for octet in padded]))
        self.outer = hashlib.new(digest, bytes([octet ^ 0x5c for octet in padded]))
        self.tag = self.inner.digest_size

    @staticmethod
    def cost():
        return 3000

    def sign(self, number, packet):
        """Number of a packet, the packet -> its MAC."""
        inner, outer = self.inner.copy(), self.outer.copy()
        inner.update(number.to_bytes(4, 'big') + packet)
        outer.update(inner.digest())
        return outer.digest()

    def read_size(self, number, data):
        self.head = self.cipher.crypt(data)
        return from_octets(self.head[:4], 'big')

    def open(self, number, data):
        packet = self.head + self.cipher.crypt(data[self.first:-self.tag])
        if self.sign(number, packet) != data[-self.tag:]:
            raise Malformed('MAC')
        return packet[4:]

    def seal(self, number, packet):
        return self.cipher.crypt(packet) + self.sign(number, packet)


class SshChacha:
    """chacha20-poly1305@openssh.com (OpenSSH's PROTOCOL.chacha20poly1305).

    key, lengths    of packets, and of their lengths alone
    """
    __slots__ = 'key', 'lengths'
    block, counted, first, tag = 8, 0, 4, 16

    def __init__(self, keys):
        self.key, self.lengths = keys[:32], keys[32:]

    @staticmethod
    def cost():
        return 300

    def streams(self, number, size):
        """-> (the key of Poly1305, octets for so many of a packet)."""
        stream = chacha20(self.key, number, 0, 2 + size // 64)
        return stream[:32], stream[64:64 + size]

    def crypt_size(self, number, octets):
        return mix(octets, chacha20(self.lengths, number, 0, 1)[:4])

    def read_size(self, number, data):
        return from_octets(self.crypt_size(number, data), 'big')

    def open(self, number, data):
        once, stream = self.streams(number, len(data) - self.first - self.tag)
        if poly1305(once, data[:-self.tag]) != data[-self.tag:]:
            raise Malformed('tag')
        return mix(data[self.first:-self.tag], stream)

    def seal(self, number, packet):
        once, stream = self.streams(number, len(packet) - self.first)
        sealed = self.crypt_size(number, packet[:4]) + mix(packet[4:], stream)
        return sealed + poly1305(once, sealed)


def pack_ssh(way, number, payload, random) -> bytes:
    """A payload -> the packet that goes out as the number-th of a way."""
    padding = way.block - (way.counted + 1 + len(payload)) % way.block
    if padding < SSH_PADDING_MIN:
        padding += way.block
    packet = bytes((padding,)) + payload + random(padding)
    return way.seal(number, sized(packet, 4))


def pack_mpint(number) -> bytes:
    """A number above 0 -> with the sign's octet (RFC 4251 s5)."""
    return sized(number.to_bytes(number.bit_length() // 8 + 1, 'big'), 4)


# ---- ssh: exchange -------------------------------------------------------------------
#
# An exchange has
#   read        octets of the client -> its public value, or Malformed
#   agree       that value, random -> (our value as it stands in the reply, the secret number)
#   cost        in units of the ladder of X25519

SSH_KEXINIT_MAX = 1 << 13       # octets of a client's; OpenSSH 9's has 1,500
SSH_KEXINIT_COST = 0.15         # of a connection up to there, in units of the ladder of X25519
SSH_EARLY_MAX = 1 << 14         # octets of a connection before its first login
SSH_TAKEN_MAX = 1 << 16         # and of all of it
SSH_KEYED_MAX = 1024            # conversations with keys, at once
SSH_CROWD_MAX = 64              # those of one network
SSH_TRIALS = 3                  # measurements of an exchange: the shortest counts
SSH_DIVISOR = 4                 # of the CPU that is given, one is for a network at most
SSH_APART_S = 0.01      # our KEXINIT has a segment of its own: some wait for the line alone
SSH_LOGIN_S = 30                # a client that tries no login in so long is ended
SSH_DH_OCTETS = 40              # of a secret exponent: RFC 3526 s8 has 320 bits for group 14
SSH_IGNORED = SSH_MSG_IGNORE, SSH_MSG_UNIMPLEMENTED, SSH_MSG_DEBUG
# Out of their place they end the connection, before NEWKEYS and after it, as with dropbear
SSH_FATAL = (
    frozenset((0, SSH_MSG_DISCONNECT, SSH_MSG_SERVICE_REQUEST, SSH_MSG_SERVICE_ACCEPT,
               SSH_MSG_KEXINIT, *range(SSH_MSG_USERAUTH_REQUEST, 256))),
    frozenset((SSH_MSG_DISCONNECT, SSH_MSG_KEXINIT, SSH_MSG_NEWKEYS, SSH_MSG_KEXDH_INIT,
               *range(SSH_MSG_USERAUTH_INFO_RESPONSE, 256))))
SSH_LOGINS = SSH_MSG_SERVICE_REQUEST, SSH_MSG_USERAUTH_REQUEST
SSH_GUESS = b'kexguess2@matt.ucc.asn.au'
SSH_STRICT = b'kex-strict-c-v00@openssh.com', b'kex-strict-s-v00@openssh.com'
SSH_EXT_INFO = b'ext-info-c'
SSH_NO_KEX = SSH_GUESS, SSH_STRICT[1]     # names that stand among the exchanges and are none
# RFC 8308 s3.1, as dropbear 2022.83 says it
SSH_SIGNATURE_NAMES = (
    b'ssh-ed25519,sk-ssh-ed25519@openssh.com,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,'
    b'ecdsa-sha2-nistp521,sk-ecdsa-sha2-nistp256@openssh.com,rsa-sha2-256,ssh-rsa,ssh-dss')
GROUP14 = int('''
    ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a0879
    8e3404ddef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b
    0bff5cb6f406b7edee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da4836
    1c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804
    f1746c08ca18217c32905e462e36ce3be39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6
    955817183995497cea956ae515d2261898fa051015728e5a8aacaa68ffffffffffffffff
    '''.replace('\n', '').replace(' ', ''), 16)     # RFC 3526 s3


class SshX25519:
    """RFC 8731 s3."""
    cost = 1.4

    @staticmethod
    def read(octets):
        if len(octets) != 32:
            raise Malformed('point of %d octets' % len(octets))
        return octets, from_octets(octets, 'little') & (1 << 255) - 1

    @staticmethod
    def agree(value, random):
        secret = clamp(random(32))
        shared = x25519(secret, value)
        if not shared:
            raise Malformed('low order')
        ours = x25519_base(secret).to_bytes(32, 'little')
        return sized(ours, 4), from_octets(shared.to_bytes(32, 'little'), 'big')


class SshEcdh:
    """RFC 5656 s4, on a curve of NIST."""

    def __init__(self, name, cost):
        self.name, self.cost = name, cost

    def read(self, octets):
        return octets, find_curve(self.name).parse(octets)

    def agree(self, value, random):
        curve = find_curve(self.name)
        secret = curve.draw(random)
        return sized(curve.pack(curve.times_base(secret)), 4), curve.times(secret, value)[0]


class SshDh:
    """RFC 4253 s8, RFC 8268, with group 14."""
    cost = 6.0

    @staticmethod
    def read(octets):
        """A zero too many is let pass: nmap always sends 257 octets, against RFC 4251 s5."""
        number = from_octets(octets, 'big')
        if not 1 < number < GROUP14 - 1 or octets[0] > 127:
            raise Malformed('e')
        return pack_mpint(number)[4:], number

    @staticmethod
    def agree(value, random):
        secret = from_octets(random(SSH_DH_OCTETS), 'big') | 1
        return pack_mpint(pow(2, secret, GROUP14)), pow(value, secret, GROUP14)


class SshHostKeys:
    """The keys that we show.

    seeds   octets that the keys of the curves are made of, when they are needed
    made    {kind: key}
    """

    def __init__(self, secret, rsa):
        self.seeds = {'ed25519': secret[:32], 'p256': secret[32:]}
        self.made = {'rsa': rsa} if rsa else {}

    def names(self) -> 'list[bytes]':
        """What KEXINIT offers of them."""
        return [name for name, (kind, _, _) in SSH_HOST_KEYS.items()
                if kind in self.seeds or kind in self.made]

    def find(self, kind):
        """ed25519, p256 or rsa -> the key."""
        if kind not in self.made:
            seed = self.seeds[kind]
            self.made[kind] = (Ed25519Key(seed) if kind == 'ed25519'
                               else EcKey.make(lambda size: seed[:size]))
        return self.made[kind]

    def blob(self, kind) -> bytes:
        """The public key (RFC 4253 s6.6, RFC 5656 s3.1, RFC 8709 s4)."""
        key = self.find(kind)
        if kind == 'ed25519':
            return sized(b'ssh-ed25519', 4) + sized(key.public, 4)
        if kind == 'p256':
            return sized(b'ecdsa-sha2-nistp256', 4) + sized(b'nistp256', 4) + sized(key.point, 4)
        return sized(b'ssh-rsa', 4) + pack_mpint(key.e) + pack_mpint(key.n)

    def sign(self, name, message, random) -> bytes:
        """Algorithm, octets -> the signature (RFC 8332 s3, RFC 5656 s3.1.2, RFC 8709 s6)."""
        kind, digest, _ = SSH_HOST_KEYS[name]
        key = self.find(kind)
        if kind == 'ed25519':
            octets = key.sign(message)
        elif kind == 'rsa':
            octets = key.sign(message, random, digest)
        else:
            octets = b''.join(map(pack_mpint, key.sign_numbers(message, random)))
        return sized(name, 4) + sized(octets, 4)


# What we offer (RFC 4253 s7.1): what dropbear 2022.83 offers, which is short, and not ours alone.
# Exchanges with their hashes; host keys with their kind, hash and cost; ciphers with the octets of
# their keys; MACs with their hashes.
SSH_KEX = {
    b'curve25519-sha256': (SshX25519, 'sha256'),
    b'curve25519-sha256@libssh.org': (SshX25519, 'sha256'),
    b'ecdh-sha2-nistp521': (SshEcdh('nistp521', 12.0), 'sha512'),
    b'ecdh-sha2-nistp384': (SshEcdh('nistp384', 6.0), 'sha384'),
    b'ecdh-sha2-nistp256': (SshEcdh('nistp256', 2.5), 'sha256'),
    b'diffie-hellman-group14-sha256': (SshDh, 'sha256'),
    b'diffie-hellman-group14-sha1': (SshDh, 'sha1')}
SSH_HOST_KEYS = {
    b'ssh-ed25519': ('ed25519', '', 0.4), b'ecdsa-sha2-nistp256': ('p256', 'sha256', 0.6),
    b'rsa-sha2-256': ('rsa', 'sha256', 6.0), b'ssh-rsa': ('rsa', 'sha1', 6.0)}
SSH_CIPHERS = {b'chacha20-poly1305@openssh.com': 64, b'aes128-ctr': 16, b'aes256-ctr': 32}
SSH_MACS = {b'hmac-sha1': 'sha1', b'hmac-sha2-256': 'sha256'}
SSH_COMPRESSIONS = b'zlib@openssh.com', b'none'     # the former begins after a login: never
SSH_LISTS = 10
SSH_NAMES_MAX = 50      # of a list that is read; dropbear takes no more
SSH_SECRET = 32 + 40    # octets of which the keys of the curves are made
SSH_FILE = 'ssh-keys'   # of --state-dir, that keeps them


def ssh_lists(host_keys) -> 'list[list[bytes]]':
    """Names of the host keys' algorithms -> the lists of our KEXINIT, but the languages'."""
    ways = [SSH_CIPHERS] * 2 + [SSH_MACS] * 2 + [SSH_COMPRESSIONS] * 2
    return [[*SSH_KEX, SSH_GUESS, SSH_STRICT[1]], list(host_keys), *map(list, ways)]


def pack_kexinit(lists, cookie) -> bytes:
    """Lists, 16 random octets -> the payload of our KEXINIT; no guess follows."""
    packed = b''.join([sized(b','.join(names), 4) for names in lists])
    return bytes((SSH_MSG_KEXINIT,)) + cookie + packed + bytes(4 + 4) + bytes(1 + 4)


def parse_kexinit(payload) -> 'tuple[list[list[bytes]], bool]':
    """Payload of a KEXINIT -> its ten lists of names, whether a guess follows."""
    at, lists = 17, []
    for _ in range(SSH_LISTS):
        names, at = read_sized(payload, at, 4)
        lists.append(names.split(b','))
    if len(payload) < at + 5:
        raise Malformed('KEXINIT')
    return lists, payload[at] != 0


def choose_algorithms(theirs, ours) -> 'list[bytes]':
    """A client's lists, ours -> the first of each that we know, too."""
    chosen = []
    for names, known in zip(theirs, ours):
        if len(names) > SSH_NAMES_MAX or any(b'\0' in name for name in names):
            raise Malformed('names')
        found = [name for name in names if name in known and name not in SSH_NO_KEX]
        if not found:
            raise Malformed('no common algorithm')
        chosen.append(found[0])
    return chosen


def exchange_seconds() -> float:
    """-> CPU seconds of an exchange of cost 1."""
    begin = time.process_time()
    x25519(1 << 254, 9)
    return max(time.process_time() - begin, 1e-5)


class SshBudget:
    """The CPU that strangers may cause: seconds of a share of one core.

    share       of one core; a network has one of SSH_DIVISOR of it
    unit_s      what an exchange of cost 1 takes here; 0: not measured yet
    total       [seconds left, when]; networks: the same of each, in a Budget
    """

    def __init__(self, share):
        self.share, self.unit_s = share, 0.0
        self.total = [share, 0.0]
        self.networks = Budget(share / SSH_DIVISOR, share / SSH_DIVISOR)

    def fill(self, peer) -> 'list[float]':
        """What has come in the meantime -> the network's bucket."""
        if not self.unit_s:
            self.unit_s = min(exchange_seconds() for _ in range(SSH_TRIALS))
        bucket = self.networks.bucket(source_network(peer.src), peer.now)
        Budget.refill(bucket, self.share / SSH_DIVISOR, self.share / SSH_DIVISOR, peer.now)
        Budget.refill(self.total, self.share, self.share, peer.now)
        return bucket

    def allows(self, peer, cost) -> bool:
        """Whether so much work may be done for a peer; then it is charged."""
        bucket = self.fill(peer)
        if bucket[0] <= 0 or self.total[0] <= 0:
            return False
        bucket[0] -= cost * self.unit_s
        self.total[0] -= cost * self.unit_s
        return True

    def charge(self, peer, cost):
        """What had to be done anyway: a network that has had its part is charged no more."""
        bucket = self.fill(peer)
        if bucket[0] > -self.share / SSH_DIVISOR:
            bucket[0] -= cost * self.unit_s
            self.total[0] = max(self.total[0] - cost * self.unit_s, -self.share)


class SshHost:
    """What all conversations of SSH share.

    keys        SshHostKeys
    lists       of our KEXINIT; packed: it, without its cookie
    budget      SshBudget
    keyed       how many conversations have keys; crowds: {network: how many of it}
    counts      {why: exchanges that were refused}
    """

    def __init__(self, random, share=SSH_SHARE, rsa=None):
        self.keys = SshHostKeys(random(SSH_SECRET), rsa)
        self.budget = SshBudget(share)
        self.lists = ssh_lists(self.keys.names())
        self.packed = pack_kexinit(self.lists, b'')
        self.keyed, self.crowds = 0, collections.Counter()
        self.counts = collections.Counter()

    def kexinit(self, cookie) -> bytes:
        """16 octets -> the payload of our KEXINIT."""
        return self.packed[:1] + cookie + self.packed[1:]

    def admit(self, peer, cost) -> 'bytes | None':
        """Whether so much may be computed for a peer -> its network, which leave() takes."""
        network = source_network(peer.src)
        if self.keyed >= SSH_KEYED_MAX or self.crowds[network] >= SSH_CROWD_MAX:
            self.counts['ssh crowd'] += 1
        elif not self.budget.allows(peer, cost):
            self.counts['ssh over budget'] += 1
        else:
            self.keyed += 1
            self.crowds[network] += 1
            return network
        return None

    def leave(self, network):
        """A conversation with keys is over."""
        self.keyed -= 1
        self.crowds[network] -= 1
        if not self.crowds[network]:
            del self.crowds[network]


class Ssh:
    """A conversation after the client's identification.

    ssh         the SshHost
    version     the client's identification, without the end of the line
    cookie      of our KEXINIT
    theirs      payload of the client's; b'' when it is needed no more
    hassh       its HASSH; '' if nobody listens
    chosen      names of the algorithms
    value       the client's public value, while it waits for its turn
    network     of the client, from then on; None before
    expects     kinds of messages that may come now
    strict      both sides keep to strict key exchange; skips: a wrong guess comes
    extends     the client takes EXT_INFO
    inward, outward     the ways; coming: the way in after the client's NEWKEYS
    received, sent      packets that went so far
    size        packet_length of the packet that is coming; 0: not known yet
    taken       octets of the client so far; limit: and how many there may be
    later       later(self, peer) -> Reply, when what is waited for is there; None: nothing is
    user        of the logins, which has to stay the same; None: there were none
    tries       logins so far; failures: those of them that count
    """
    __slots__ = ('ssh', 'version', 'cookie', 'theirs', 'hassh', 'chosen', 'value', 'network',
                 'expects', 'strict', 'skips', 'extends', 'inward', 'outward', 'coming',
                 'received', 'sent', 'size', 'taken', 'limit', 'later', 'user', 'tries',
                 'failures')

    def __init__(self, ssh, version):
        self.ssh, self.version = ssh, version
        self.cookie = self.theirs = b''
        self.hassh = ''
        self.user = None
        self.chosen, self.value = (), None
        self.network = None
        self.expects = SSH_MSG_KEXINIT,
        self.strict = self.skips = self.extends = False
        self.inward = self.outward = SSH_PLAIN
        self.coming = self.later = None
        self.received = self.sent = self.size = self.taken = 0
        self.limit = SSH_EARLY_MAX
        self.tries = self.failures = 0

    def __del__(self):
        if self.network:
            self.ssh.leave(self.network)

    def cost(self):
        """Octets that it keeps."""
        size = 900 + len(self.version) + len(self.theirs) + len(self.user or b'')
        return size + (2 * self.outward.cost() if self.outward is not SSH_PLAIN else 0)

    def answer(self, data, peer):
        """Octets behind the identification -> Reply, to a packet; or MORE."""
        if self.later:
            later, self.later = self.later, None
            return later(self, peer)
        payload, used = self.read(data)
        if not used:
            return MORE
        self.taken += used
        if self.taken > self.limit:
            raise Malformed('too much')
        return self.take(payload, peer)._replace(used=used)

    def read(self, data) -> 'tuple[bytes, int]':
        """Octets -> (payload of the first packet, octets of it); 0 octets: it is not whole."""
        way = self.inward
        if not self.size:
            if len(data) < way.first:
                return b'', 0
            size = way.read_size(self.received, data[:way.first])
            if not SSH_PACKET_MIN <= size <= SSH_PACKET_MAX or (size + way.counted) % way.block:
                raise Malformed('packet of %d' % size)
            self.size = size
        end = 4 + self.size + way.tag
        if len(data) < end:
            return b'', 0
        packet = way.open(self.received, data[:end])
        self.received = self.received + 1 & MASK32
        self.size = 0
        payload = packet[1:len(packet) - packet[0]]
        if not payload:
            raise Malformed('padding')
        return payload, end

    def say(self, payload, peer) -> bytes:
        """A payload -> its packet."""
        self.sent += 1
        return pack_ssh(self.outward, self.sent - 1, payload, peer.host.random)

    def take(self, payload, peer):
        """A message -> Reply; what does not belong here is refused, or ends the connection."""
        kind = payload[0]
        if kind in self.expects:
            if self.skips and kind == SSH_MSG_KEXDH_INIT:
                self.skips = False
                return Reply()
            return SSH_TAKES[kind](self, payload, peer)
        if self.strict and self.outward is SSH_PLAIN:       # dropbear looks for no longer
            raise Malformed('message %d in a strict exchange' % kind)
        if kind in SSH_IGNORED:
            return Reply()
        if kind in SSH_FATAL[self.inward is not SSH_PLAIN]:
            raise Malformed('message %d' % kind)
        number = self.received - 1 & MASK32
        unknown = bytes((SSH_MSG_UNIMPLEMENTED,)) + number.to_bytes(4, 'big')
        return Reply(self.say(unknown, peer))

    def note(self, peer, method, **fields):
        """A login, and by whom."""
        if self.hassh:
            fields['hassh'] = self.hassh
        peer.note('credentials', user=self.user, method=method, tries=self.tries,
                  version=self.version, **fields)

    def send_kexinit(self, peer):
        """Our KEXINIT; later, as it has a segment of its own."""
        self.cookie = peer.host.random(16)
        return Reply(self.say(self.ssh.kexinit(self.cookie), peer), 0, limit=SSH_LOGIN_S)

    def take_kexinit(self, payload, peer):
        """The client's KEXINIT is noted, and what both know is chosen."""
        if len(payload) > SSH_KEXINIT_MAX:
            raise Malformed('KEXINIT of %d' % len(payload))
        lists, follows = parse_kexinit(payload)
        peer.note('ssh_kexinit', kexinit=payload, version=self.version)
        if peer.host.events is not None:
            self.hassh = md5_text(hassh_text(payload))
        self.ssh.budget.charge(peer, SSH_KEXINIT_COST)
        self.chosen = choose_algorithms(lists, self.ssh.lists)
        self.strict, self.extends = SSH_STRICT[0] in lists[0], SSH_EXT_INFO in lists[0]
        if self.strict and self.received > 1:
            raise Malformed('KEXINIT is not the first')
        self.theirs, self.expects = payload, (SSH_MSG_KEXDH_INIT,)
        right = [names[0] == chosen for names, chosen in zip(lists[:2], self.chosen)]
        if SSH_GUESS not in lists[0]:           # RFC 4253 s7: the first of both sides
            right += [names[0] == ours[0] for names, ours in zip(lists[:2], self.ssh.lists)]
        self.skips = follows and not all(right)
        return Reply()

    def take_value(self, payload, peer):
        """The client's public value: it is looked at, paid for, and waits for its turn."""
        octets, end = read_sized(payload, 1, 4)
        exchange, _ = SSH_KEX[self.chosen[0]]
        self.value = exchange.read(octets)
        if end != len(payload):
            raise Malformed('behind the value')
        _, _, cost = SSH_HOST_KEYS[self.chosen[1]]
        self.network = self.ssh.admit(peer, exchange.cost + cost)
        if not self.network:
            return Reply(close=True)
        self.later = Ssh.exchange
        return Reply(wait=WORK)

    def exchange(self, peer):
        """Key exchange and signature -> our value, NEWKEYS; both ways have keys then."""
        octets, value = self.value
        exchange, digest = SSH_KEX[self.chosen[0]]
        ours, shared = exchange.agree(value, peer.host.random)
        blob = self.ssh.keys.blob(SSH_HOST_KEYS[self.chosen[1]][0])
        secret = pack_mpint(shared)
        parts = (self.version, peer.host.persona.ssh, self.theirs, self.ssh.kexinit(self.cookie),
                 blob, octets)
        session = hashlib.new(digest, b''.join([sized(each, 4) for each in parts]) + ours
                              + secret).digest()                # RFC 4253 s8
        signature = self.ssh.keys.sign(self.chosen[1], session, peer.host.random)
        reply = bytes((SSH_MSG_KEXDH_REPLY,)) + sized(blob, 4) + ours + sized(signature, 4)
        out = self.say(reply, peer) + self.say(bytes((SSH_MSG_NEWKEYS,)), peer)
        self.coming, self.outward = [self.make_way(digest, secret, session, way) for way in (0, 1)]
        if self.strict:
            self.sent = 0
        self.theirs = b''
        self.value, self.expects = None, (SSH_MSG_NEWKEYS,)
        if self.extends:
            out += self.say(bytes((SSH_MSG_EXT_INFO,)) + (1).to_bytes(4, 'big')
                            + sized(b'server-sig-algs', 4) + sized(SSH_SIGNATURE_NAMES, 4), peer)
        return Reply(out, 0)

    def make_way(self, digest, secret, session, way):
        """0: from the client, 1: to it -> the way with its keys (RFC 4253 s7.2)."""
        def derive(letter, size):
            octets = hashlib.new(digest, secret + session + letter + session).digest()
            while len(octets) < size:
                octets += hashlib.new(digest, secret + session + octets).digest()
            return octets[:size]
        cipher, mac = self.chosen[2 + way], self.chosen[4 + way]
        start, key, sign = [letters[way:way + 1] for letters in (b'AB', b'CD', b'EF')]
        size = SSH_CIPHERS[cipher]
        if cipher.startswith(b'chacha'):
            return SshChacha(derive(key, size))
        secret_size = hashlib.new(SSH_MACS[mac]).digest_size
        return SshCtr(derive(key, size), derive(start, 16), SSH_MACS[mac],
                      derive(sign, secret_size))

    def take_newkeys(self, payload, peer):
        """From here on the client's packets are encrypted."""
        self.inward, self.coming = self.coming, None
        if self.strict:
            self.received = 0
        self.expects = SSH_LOGINS
        return Reply()


# ---- ssh: authentication -------------------------------------------------------------

SSH_TRIES = 10                  # failures that end the connection, as dropbear's MaxAuthTries
SSH_DELAYS = 25, 36             # hundredths of a second before a failure is sent
SSH_METHODS = b'publickey,password'


def take_ssh_service(self, payload, peer):
    """RFC 4253 s10: the service of RFC 4252 is accepted."""
    name, _ = read_sized(payload, 1, 4)
    if name != b'ssh-userauth':
        raise Malformed('service')
    return Reply(self.say(bytes((SSH_MSG_SERVICE_ACCEPT,)) + sized(name, 4), peer))


def take_ssh_login(self, payload, peer):
    """RFC 4252 s5: a login, by whatever method -> it is noted, and fails."""
    user, at = read_sized(payload, 1, 4)
    service, at = read_sized(payload, at, 4)
    method, at = read_sized(payload, at, 4)
    if service != b'ssh-connection' or self.user not in (None, user):
        raise Malformed('another service, or another user')
    self.limit, self.user = SSH_TAKEN_MAX, user
    self.tries += method != b'none'
    note = functools.partial(self.note, peer, method)
    if method == b'none':                       # s5.2: a question, no failure
        note()
        return Reply(fail_ssh(self, peer), limit=0)
    if method == b'publickey':                  # s7: a boolean, algorithm, the key
        algorithm, at = read_sized(payload, at + 1, 4)
        key, _ = read_sized(payload, at, 4)
        note(algorithm=algorithm, fingerprint=ssh_fingerprint(key))
        return Reply(fail_ssh(self, peer), limit=0)
    if method == b'keyboard-interactive':
        self.expects = SSH_LOGINS + (SSH_MSG_USERAUTH_INFO_RESPONSE,)
        return Reply(self.say(SSH_QUESTION, peer), limit=0)
    if method == b'password':                   # s8: a boolean, the password
        note(password=read_sized(payload, at + 1, 4)[0])
    else:
        note()
    return refuse_ssh(self, peer)


def take_ssh_response(self, payload, peer):
    """RFC 4256 s3.4: the answer to our question."""
    self.expects = SSH_LOGINS
    password, _ = read_sized(payload, 5, 4) if payload[1:5] != bytes(4) else (b'', 0)
    self.note(peer, b'keyboard-interactive', password=password)
    return refuse_ssh(self, peer)


def refuse_ssh(self, peer):
    """A failure that counts -> it is sent after a while; the last one ends the connection."""
    first, end = SSH_DELAYS
    self.failures += 1
    self.later = send_ssh_failure
    return Reply(wait=(first + peer.host.random(1)[0] % (end - first)) / 100, limit=0)


def send_ssh_failure(self, peer):
    """-> Reply, after the wait; the last one is not sent any more."""
    if self.failures >= SSH_TRIES:
        return Reply(used=0, close=True)
    return Reply(fail_ssh(self, peer), 0)


def fail_ssh(self, peer) -> bytes:
    """RFC 4252 s5.1: what may be tried; no part of it has succeeded."""
    return self.say(bytes((SSH_MSG_USERAUTH_FAILURE,)) + sized(SSH_METHODS, 4) + b'\0', peer)


def ssh_fingerprint(key) -> str:
    """A public key -> as ssh-keygen -l shows it."""
    digest = codecs.encode(hashlib.sha256(key).digest(), 'base64').decode('ascii')
    return 'SHA256:' + digest.rstrip('=\n')


# Name, instruction, language; one question, whose answer is not shown (RFC 4256 s3.2)
SSH_QUESTION = (bytes((SSH_MSG_USERAUTH_INFO_REQUEST,)) + bytes(12) + (1).to_bytes(4, 'big')
                + sized(b'Password: ', 4) + b'\0')
SSH_TAKES = {
    SSH_MSG_KEXINIT: Ssh.take_kexinit, SSH_MSG_KEXDH_INIT: Ssh.take_value,
    SSH_MSG_NEWKEYS: Ssh.take_newkeys, SSH_MSG_SERVICE_REQUEST: take_ssh_service,
    SSH_MSG_USERAUTH_REQUEST: take_ssh_login, SSH_MSG_USERAUTH_INFO_RESPONSE: take_ssh_response}


# ---- ssh -----------------------------------------------------------------------------

SSH_SIGNATURES = b'SSH-2.', b'SSH-1.'
SSH_LINE_MAX = 1 << 10      # s4.2 says 255; some clients brag
SSH_TALKS = b'SSH-2.', b'SSH-1.99-'                     # RFC 4253 s5.1, as dropbear reads it
SSH_ID = re.compile(br'SSH-(?:2\.0|1\.99)[0-9.]*-')     # as the original reads it
SSH_SHORT = b'SSH-2.0-1'
SSH_UDP_MOST = 1.25


def is_ssh_start(data):
    """Data begins like an identification line, or may yet do."""
    return any(data.startswith(sig) or sig.startswith(data) for sig in SSH_SIGNATURES)


def identify_ssh(peer):
    """Our identification line; the short one where nothing more is said."""
    talks = peer.transport == TCP and not peer.host.original
    return (peer.host.persona.ssh if talks else SSH_SHORT) + b'\r\n'


@protocol('ssh', sig=SSH_SIGNATURES, port=(22, 2222), ref='RFC 4253 s4.2, RFC 4252 s5',
          banner=identify_ssh, most=SSH_UDP_MOST)
def answer_ssh(data, peer):
    """Identification line -> ours, key exchange; every login is refused.

    data     SSH-, version, -, software, perhaps a comment, CR LF or LF alone; then packets
    returns  over UDP, and as the original did, the line alone, for each further line; none for
             our own: two of us would loop.  Who was greeted has the line already; his end comes
             for what is no such line
    """
    if isinstance(peer.state, Ssh):
        try:
            return peer.state.answer(data, peer)
        except Malformed:                       # as dropbear and OpenSSH: they say nothing
            return Reply(close=True)
    begins = is_ssh_start(data)
    end = data.find(b'\n', 0, SSH_LINE_MAX) + 1
    if begins and not end and len(data) < SSH_LINE_MAX:
        if not peer.hurried:
            return MORE
        end = len(data)
    if not (begins and end):
        return Reply(close=True) if peer.greeter else None
    reply = take_identification(data[:end].rstrip(b'\n').replace(b'\r', b''), peer)
    return reply and reply._replace(used=end)


def take_identification(version, peer):
    """The client's -> Reply, or None; KEXINIT waits, if our own line goes first."""
    line, greeted = identify_ssh(peer), bool(peer.greeter)
    peer.greeter = None
    if line == SSH_SHORT + b'\r\n':
        return Reply(line) if SSH_ID.match(version) and version != SSH_SHORT else None
    if not version.startswith(SSH_TALKS):
        return Reply(b'' if greeted else line, close=True)
    session = peer.state = Ssh(peer.host.share('ssh', SshHost), version)
    if greeted:
        return session.send_kexinit(peer)
    session.later = Ssh.send_kexinit
    return Reply(line, wait=SSH_APART_S)


family('Proxies and tunnels')


# ---- openvpn -------------------------------------------------------------------------

OPENVPN_HEAD = struct.Struct('!B8s')    # opcode and key id, session
OPENVPN_RESET = 0x40                    # P_CONTROL_HARD_RESET_SERVER_V2


@talk('openvpn-tcp', sig=('00 0e 38 .. .. .. .. .. .. .. .. 00 00 00 00 00',), port=1194,
      size=be(0, 2, 2), ref='https://openvpn.net/community-resources/openvpn-protocol/')
def answer_openvpn(message, peer):
    """Reset of a client -> reset of a server, then silence."""
    if peer.state:
        return None
    peer.state = 'reset'
    _, session = OPENVPN_HEAD.unpack_from(message, 2)
    return sized(OPENVPN_HEAD.pack(OPENVPN_RESET, peer.host.random(8)) + b'\1' + bytes(4)
                   + session + bytes(4))


# ---- pptp ----------------------------------------------------------------------------

PPTP_HEAD = struct.Struct('!HHIHH')     # RFC 2637 s2: size type cookie control zero
PPTP_COOKIE = 0x1a2b3c4d
PPTP_START, PPTP_STOP, PPTP_ECHO, PPTP_CALL = 1, 3, 5, 7        # RFC 2637 s2.1-7; answers: + 1
PPTP_NAME = 64


def pack_pptp(kind, body):
    """Kind of control message, its body -> message."""
    return PPTP_HEAD.pack(PPTP_HEAD.size + len(body), 1, PPTP_COOKIE, kind, 0) + body


@talk('pptp', sig=('00 9c 00 01 1a 2b 3c 4d',), port=1723, size=be(0, 2, 0), limit=256,
      ref='RFC 2637 s2')
def answer_pptp(message, peer):
    """Start, echo, stop -> success; a call -> busy."""
    _, _, cookie, kind, _ = PPTP_HEAD.unpack_from(message)
    body = message[PPTP_HEAD.size:]
    if cookie != PPTP_COOKIE:
        return None
    if kind == PPTP_START:              # s2.2: version 1.0, success, framing, bearers, no channel
        names = [each.encode().ljust(PPTP_NAME, b'\0') for each in (peer.host.name, '')]
        return pack_pptp(2, struct.pack('!HBBIIHH', 0x100, 1, 0, 1, 1, 0, 1) + b''.join(names))
    if kind == PPTP_CALL:               # s2.8: its id, result 4
        return pack_pptp(8, struct.pack('!HHBBHIHHI', 1, *struct.unpack_from('!H', body), 4, 0, 0,
                                        0, 0, 0, 0))
    if kind == PPTP_ECHO:
        return pack_pptp(6, body[:4] + b'\1\0\0\0')
    return (pack_pptp(4, b'\1\0\0\0'), SHUT) if kind == PPTP_STOP else None


# ---- ways to elsewhere ---------------------------------------------------------------

def grant_way(peer, out, used, port):
    """What grants a connection to a port elsewhere -> Reply: all that comes of it is ours.

    Who speaks first there does so at once: many come for mail, and wait for its greeting.
    """
    greeter = peer.host.registry.greeters.get(port)
    if not greeter or port in SECURE_PORTS or peer.transport != TCP:
        return Reply(out, used, again=True)
    given = greeter.banner(peer) if callable(greeter.banner) else greeter.banner
    if isinstance(given, tuple):
        return Reply(out + given[0], used, close=True)
    return Reply(out + given, used, again=greeter)


# ---- socks4 --------------------------------------------------------------------------

SOCKS4 = struct.Struct('!BBH4s')        # version command port address; then the user, a name
SOCKS4_GRANTED = b'\0\x5a'


def is_socks4(data, peer):
    """There is a port, and an address or the mark of a name: TDS and CQL begin like it."""
    return any(data[2:4]) and (data[4] or not any(data[4:7]) and data[7])


def size_socks4(data):
    """Up to the NUL behind the user; 4A: the address 0.0.0.x is followed by a name."""
    end = data.find(b'\0', SOCKS4.size) + 1
    if end and data[4:7] == bytes(3) and data[7]:
        end = data.find(b'\0', end) + 1
    return end or None


@talk('socks4', sig=('04 01 .. .. .. .. .. .. ..', '04 02 .. .. .. .. .. .. ..'), port=1080,
      size=size_socks4, limit=512, check=is_socks4,
      ref='https://www.openssh.com/txt/socks4.protocol')
def answer_socks4(message, peer):
    """Connect -> granted; what follows we answer ourselves."""
    _, _, port, address = SOCKS4.unpack_from(message)
    user, _, name = message[SOCKS4.size:].rstrip(b'\0').partition(b'\0')
    if user:
        peer.note('credentials', user=user)
    peer.note('request', target=name or ip_text(address), port=port)
    return grant_way(peer, SOCKS4_GRANTED + message[2:8], None, port)


# ---- socks5 --------------------------------------------------------------------------

SOCKS5_NONE, SOCKS5_PASSWORD = 0, 2     # RFC 1928 s3: methods
SOCKS5_METHODS = frozenset((SOCKS5_NONE, 1, SOCKS5_PASSWORD, 3, 5, 6, 7, 8, 9, 0x80))   # IANA's
SOCKS5_METHODS_MAX = 8
SOCKS5_ADDRESSES = {1: 4, 4: 16}        # RFC 1928 s5: kind of address: octets
SOCKS5_NAME = 3
SOCKS5_KINDS = b'', b'\1', b'\3', b'\4'
SOCKS5_CONNECT = 1
SOCKS5_GRANTED = b'\5\0\0\1' + bytes(6)
SOCKS5_REFUSED = b'\5\7\0\1' + bytes(6)         # RFC 1928 s6: the command is not supported


def is_socks5(data, peer):
    """The methods are known ones, each said once."""
    methods = data[2:2 + data[1]]
    return len(set(methods)) == data[1] and SOCKS5_METHODS.issuperset(methods)


def read_socks5(data, peer):
    """A name and password, or a request -> Reply.

    raises  Malformed, IndexError, struct.error if it is not whole
    """
    if peer.state == 'login':           # RFC 1929 s2
        user, at = read_sized(data, 1, 1)
        password, at = read_sized(data, at, 1)
        peer.note('credentials', user=user, password=password)
        peer.state = 'granted'
        return Reply(b'\1\0', at)
    command, kind = data[1], data[3]
    if kind == SOCKS5_NAME:
        name, at = read_sized(data, 4, 1)
    else:
        at = 4 + SOCKS5_ADDRESSES[kind]
        name = ip_text(data[4:at].ljust(SOCKS5_ADDRESSES[kind], b'\0'))
    port, = struct.unpack_from('!H', data, at)
    peer.note('request', target=name, port=port)
    if command != SOCKS5_CONNECT:
        return Reply(SOCKS5_REFUSED, at + 2, close=True)
    return grant_way(peer, SOCKS5_GRANTED, at + 2, port)


@protocol('socks5', sig=['05 %02x%s' % (count, ' ..' * count)
                         for count in range(1, SOCKS5_METHODS_MAX + 1)],
          port=(1080, 9050), over=(TCP,), check=is_socks5, ref='RFC 1928 s3, RFC 1929 s2')
def answer_socks5(data, peer):
    """Connect -> granted; what follows we answer ourselves.

    state   None; 'login' once a password is wanted; 'granted' once the method is agreed on
    """
    if peer.state is None:
        methods = data[2:2 + data[1]]
        if SOCKS5_NONE in methods or SOCKS5_PASSWORD not in methods:
            peer.state = 'granted'
            return Reply(b'\5\0', 2 + data[1])
        peer.state = 'login'
        return Reply(b'\5\2', 2 + data[1])
    if data[0] != (1 if peer.state == 'login' else 5):
        return None
    if peer.state == 'granted' and data[3:4] not in SOCKS5_KINDS:
        return None
    try:
        return read_socks5(data, peer)
    except (IndexError, Malformed, struct.error):
        return MORE


# ---- tor -----------------------------------------------------------------------------

@talk('tor-or', sig=('00 00 07 00 .. 00 .. 00 ..',), port=9001, size=be(3, 2, 5), limit=64,
      ref='https://spec.torproject.org/tor-spec/negotiating-channels.html')
def answer_tor(message, peer):
    """Versions of a link -> ours; then the end."""
    return bytes.fromhex('0000070006 0003 0004 0005'), SHUT


# ---- tls -----------------------------------------------------------------------------

def is_hello(data, peer):
    """Whether the lengths of a ClientHello, or of one of SSLv2, are what they may be."""
    if data[0] == TLS_HANDSHAKE:
        return 4 <= from_octets(data[3:5], 'big') <= RECORD_MAX
    specs, name, challenge = struct.unpack('!HHH', data[5:11])          # SSLv2 draft s2.5
    return data[1] == 9 + specs + name + challenge and specs % 3 == 0 < specs


@protocol('tls', sig=('16 03 00 .. .. 01', '16 03 01 .. .. 01', '16 03 02 .. .. 01',
                      '16 03 03 .. .. 01', '80 .. 01 00 02 00 .. 00 .. 00 ..',
                      '80 .. 01 03 .. 00 .. 00 .. 00 ..'),
          port=(443, 8443), ref='RFC 8446 s5.1, s4.1.2', over=(TCP,), check=is_hello,
          everywhere=True)
def answer_tls(data, peer):
    """ClientHello -> TLS 1.0 to 1.3; inside, everything is answered as without it."""
    return Reply(b'', 0, again=True, tls=b'') if peer.offers_tls else None


family('Files and remote procedures')


# ---- afp -----------------------------------------------------------------------------

DSI_HEAD = struct.Struct('!BBHIII')     # flags command id error-or-offset size reserved
DSI_CLOSE, DSI_COMMAND, DSI_STATUS, DSI_OPEN, DSI_TICKLE = 1, 2, 3, 4, 5
AFP_NOT_AUTHORIZED = 0xffffec61         # -5023
AFP_VERSIONS = b'\2' + sized(b'AFP3.3', 1) + sized(b'AFP3.4', 1)
AFP_METHODS = b'\1' + sized(b'DHCAST128', 1)
AFP_OPENED = b'\0' + sized(b'\0\x10\0\0', 1)            # option: octets of a request


def pack_afp_status(name):
    """Name -> FPGetSrvrInfo: five offsets, flags, name; machine, versions, methods; no icon."""
    head = 10 + len(name) + 1
    machine = sized(b'Server', 1)
    at = head + len(machine)
    return struct.pack('!HHHHH', head, at, at + len(AFP_VERSIONS), 0, 0) + sized(
        name, 1) + machine + AFP_VERSIONS + AFP_METHODS


@talk('afp', sig=('00 03 .. .. 00 00 00 00 00 00 00 00 00 00 00 00',
                  '00 04 .. .. 00 00 00 00 00 00 00 .. 00 00 00 00'), port=548,
      size=be(8, 4, DSI_HEAD.size), limit=2048,
      ref='https://developer.apple.com/library/archive/documentation/Networking/Conceptual/AFP/')
def answer_afp(message, peer):
    """Status, session -> ours; a login is refused."""
    flags, command, ident, _, _, _ = DSI_HEAD.unpack_from(message)
    body, error, says = message[DSI_HEAD.size:], 0, b''
    if flags or command not in (DSI_CLOSE, DSI_COMMAND, DSI_STATUS, DSI_OPEN):
        return b'' if command == DSI_TICKLE else None
    if command == DSI_STATUS:
        says = pack_afp_status(peer.host.host_name)
    elif command == DSI_OPEN:
        says = AFP_OPENED
    elif command == DSI_COMMAND:
        error = AFP_NOT_AUTHORIZED
        peer.note('request', function=body[0], data=body[1:])
    return (DSI_HEAD.pack(1, command, ident, error, len(says), 0) + says, command == DSI_CLOSE)


# ---- giop ----------------------------------------------------------------------------

GIOP_HEAD = struct.Struct('!4sBBBB')    # CORBA 3.3 part 2 s9.4.1: magic version flags kind; size
GIOP_REQUEST, GIOP_REPLY, GIOP_LOCATE, GIOP_LOCATED, GIOP_ERROR = 0, 1, 3, 4, 6
GIOP_EXCEPTION = b'IDL:omg.org/CORBA/OBJECT_NOT_EXIST:1.0\0'


def size_giop(data):
    """Its order is that of the sender: bit 0 of the flags."""
    if len(data) < 7:
        return None
    return (le if data[6] & 1 else be)(8, 4, 12)(data)


@talk('giop', sig=['47 49 4f 50 01 %02x .. %02x' % (minor, kind)
                   for minor in (0, 1, 2) for kind in (GIOP_REQUEST, GIOP_LOCATE)],
      port=(683, 2481, 3700, 3528), size=size_giop, ref='https://www.omg.org/spec/CORBA/3.3/')
def answer_giop(message, peer):
    """Where is an object, call of one -> there is none."""
    magic, major, minor, flags, kind = GIOP_HEAD.unpack_from(message)
    order = '<' if flags & 1 else '>'
    # 1.0 and 1.1 have a list of contexts before the number of a request
    at = 16 if kind == GIOP_REQUEST and minor < 2 else 12
    ident, = struct.unpack_from(order + 'I', message, at)
    if kind == GIOP_LOCATE:
        kind, body = GIOP_LOCATED, struct.pack(order + 'II', ident, 0)
    elif kind == GIOP_REQUEST:
        peer.note('request', data=message[at + 4:][:512])
        numbers = (ident, 2, 0) if minor > 1 else (0, ident, 2)
        size = len(GIOP_EXCEPTION)
        kind, body = GIOP_REPLY, struct.pack(order + 'III', *numbers) + struct.pack(
            order + 'I%dsxII' % size, size, GIOP_EXCEPTION, 0, 1)
    else:
        return None
    return GIOP_HEAD.pack(magic, major, minor, flags & 1, kind) + struct.pack(
        order + 'I', len(body)) + body


# ---- iscsi ---------------------------------------------------------------------------

# RFC 7143 s11.12: opcode flags version-max version-min AHS-and-size ISID-and-TSIH task id ...
ISCSI_ASKED = struct.Struct('!BBBBI8sIIII')             # ... of a command, of a status
ISCSI_ANSWER = struct.Struct('!BBBBI8sIIIII12s')        # s11.13: tag, three ids, status
ISCSI_LOGIN, ISCSI_TEXT, ISCSI_LOGOUT = 3, 4, 6         # an answer has 0x20 besides
ISCSI_IMMEDIATE, ISCSI_SECURITY = 0x40, 0x0c            # of an opcode; of flags: 0 is that stage
ISCSI_NAME = b'iqn.2000-01.org.example:store'
ISCSI_REFUSED = b'\2\1'                 # s11.13.5: authentication failure


def size_iscsi(data):
    """Head, further heads in words, data padded to words."""
    if len(data) < 8:
        return None
    return 48 + 4 * data[4] + (int.from_bytes(data[5:8], 'big') + 3 & ~3)


def answer_iscsi_login(text, flags, peer):
    """Text of a login -> keys, status: to ask which targets there are nobody needs a name."""
    says = dict(pair.partition(b'=')[::2] for pair in text.split(b'\0')[:64])
    if peer.state or says.get(b'SessionType') == b'Discovery':
        peer.state = 'discovers'
        return b'' if flags & ISCSI_SECURITY else b'AuthMethod=None\0', b''
    peer.note('credentials', user=says.get(b'InitiatorName', b''),
              target=says.get(b'TargetName', b''))
    return b'', ISCSI_REFUSED


@talk('iscsi', sig=['43 %s 00 00 00 00' % flags for flags in ('81', '83', '87')], port=3260,
      size=size_iscsi, ref='RFC 7143 s11.10, s11.12, s11.13')
def answer_iscsi(message, peer):
    """Which targets are there -> one; a login to it is refused."""
    opcode, flags, _, _, _, isid, task, _, command, status = ISCSI_ASKED.unpack_from(message)
    kind, text, tag, result = opcode & 0x3f, b'', 0, b''
    if kind == ISCSI_LOGIN:
        text, result = answer_iscsi_login(message[48:], flags, peer)
        flags &= 0x8f if not result else 0x0f
    elif kind == ISCSI_TEXT:
        flags, isid, tag = 0x80, bytes(8), 0xffffffff
        text = b'TargetName=%s\0TargetAddress=%s:%d,1\0' % (
            ISCSI_NAME, ip_text(peer.dst).encode(), peer.dport)
    elif kind == ISCSI_LOGOUT:
        flags, isid = 0x80, bytes(8)
    else:
        return None
    command += not opcode & ISCSI_IMMEDIATE
    return ISCSI_ANSWER.pack(kind | 0x20, flags, 0, 0, len(text), isid, task, tag, status, command,
                             command, result) + text + bytes(-len(text) % 4), (
                                 kind == ISCSI_LOGOUT or bool(result))


# ---- msmq ----------------------------------------------------------------------------

MSMQ_SIZE = 572                         # MS-MQQB s2.2.3: octets of EstablishConnection
MSMQ_REFUSED = 0x10                     # s2.2.20.1: of the flags of the internal header


@talk('msmq', sig=('10 .. .. .. 4c 49 4f 52 3c 02 00 00',), port=1801,
      size=fix(MSMQ_SIZE), ref='MS-MQQB s2.2.3')
def answer_msmq(message, peer):
    """Wish for a connection -> the same, refused."""
    peer.note('request', client=message[20:36].hex())
    out = bytearray(message)
    out[18] |= MSMQ_REFUSED
    return bytes(out), SHUT


# ---- nbd -----------------------------------------------------------------------------

NBD_HELLO = b'NBDMAGICIHAVEOPT\0\3'     # proto.md: fixed newstyle, no zeroes
NBD_OPTION = struct.Struct('!8sII')     # magic option size
NBD_REPLY = struct.Struct('!QIII')      # magic option kind size
NBD_REPLY_MAGIC = 0x3e889045565a9
NBD_EXPORT, NBD_ABORT, NBD_LIST, NBD_INFO, NBD_GO = 1, 2, 3, 6, 7
NBD_ACK, NBD_UNSUPPORTED, NBD_UNKNOWN = 1, 0x80000001, 0x80000006


def size_nbd(data):
    """The client's flags come before its first option."""
    return (be(12, 4, 16) if data[:1] == b'I' else fix(4))(data)


@talk('nbd', sig=[bytes((0, 0, 0, flags)) + b'IHAVEOPT' for flags in range(4)], port=10809,
      size=size_nbd, banner=NBD_HELLO, limit=4096,
      ref='https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md')
def answer_nbd(message, peer):
    """List of exports -> none; one of them -> unknown."""
    if len(message) == 4:
        return b'' if peer.greeter else NBD_HELLO
    _, option, _ = NBD_OPTION.unpack_from(message)
    if option == NBD_EXPORT:
        peer.note('request', target=message[NBD_OPTION.size:][:256])
        return b'', SHUT
    kind = {NBD_ABORT: NBD_ACK, NBD_LIST: NBD_ACK, NBD_INFO: NBD_UNKNOWN,
            NBD_GO: NBD_UNKNOWN}.get(option, NBD_UNSUPPORTED)
    if kind == NBD_UNKNOWN:
        peer.note('request', target=read_sized(message, NBD_OPTION.size, 4)[0][:256])
    return NBD_REPLY.pack(NBD_REPLY_MAGIC, option, kind, 0), option == NBD_ABORT


# ---- ndmp ----------------------------------------------------------------------------

NDMP_HEAD = struct.Struct('!IIIIII')    # sequence time kind message answers-to error
NDMP_CONNECTED, NDMP_OPEN, NDMP_CLOSE, NDMP_LOGIN = 0x502, 0x900, 0x902, 0x901
NDMP_NOT_AUTHORIZED = 4


def pack_ndmp(message, answers, body, error=0, kind=1):
    """What is said -> one fragment, the last (RFC 5531 s11)."""
    out = NDMP_HEAD.pack(1, 0, kind, message, answers, error) + body
    return struct.pack('!I', 0x80000000 | len(out)) + out


@talk('ndmp', sig=('80 00 00 .. 00 00 00 .. .. .. .. .. 00 00 00 00 00 00 09 00',), port=10000,
      size=be(1, 3, 4), limit=2048, ref='https://www.snia.org/ndmp',
      banner=pack_ndmp(NDMP_CONNECTED, 0, struct.pack('!III', 0, 4, 0), kind=0))
def answer_ndmp(message, peer):
    """Open -> done; a login, all else -> not authorized."""
    sequence, _, kind, asked, _, _ = NDMP_HEAD.unpack_from(message, 4)
    if kind:
        return None
    if asked == NDMP_CLOSE:
        return b'', SHUT
    if asked == NDMP_OPEN:
        return pack_ndmp(asked, sequence, struct.pack('!I', 0))
    if asked == NDMP_LOGIN:
        method, = struct.unpack_from('!I', message, 28)
        user, at = read_sized(message, 32, 4)
        secret, _ = read_sized(message, at + -len(user) % 4, 4 if method == 1 else 0)
        peer.note('credentials', user=user, password=secret)
    return pack_ndmp(asked, sequence, struct.pack('!I', NDMP_NOT_AUTHORIZED)), asked == NDMP_LOGIN


# ---- rpc -----------------------------------------------------------------------------

RPC_MARK = struct.Struct('!I')          # RFC 5531 s11: last-fragment bit, length of the fragment
RPC_CALL = struct.Struct('!IIIIII')     # RFC 5531 s9: xid mtype rpcvers prog vers proc
RPC_AUTH = struct.Struct('!II')         # RFC 5531 s8.2: flavor length
RPC_PMAP = struct.Struct('!IIII')       # RFC 1833 s3.1: prog vers prot port
RPC_RPCB = struct.Struct('!II')         # RFC 1833 s2.1, before three strings: prog vers

RPC_LAST = 0x80000000
RPC_VERSION = 2
RPC_REPLY = 1                           # mtype
RPC_ACCEPTED, RPC_DENIED = 0, 1         # reply_stat
RPC_SUCCESS, RPC_PROG_UNAVAIL, RPC_PROG_MISMATCH, RPC_PROC_UNAVAIL, RPC_GARBAGE_ARGS = range(5)
RPC_MISMATCH, RPC_AUTH_ERROR = 0, 1     # reject_stat
RPC_BADCRED, RPC_BADVERF = 1, 3         # auth_stat
RPC_AUTH_MAX = 400                      # RFC 5531 s8.2
RPC_STRING_MAX = 1024                   # of each in the arguments; real ones are far shorter
RPC_RECORD_MAX = 1 << 14
RPC_FRAGMENTS_MAX = 16
RPC_UDP_MOST = 2.8                      # 40 octets ask for a list, over IPv6
RPC_PORTMAPPER = 100000                 # RFC 1833 s2.1
RPC_PORTMAPPER_LOW, RPC_PORTMAPPER_HIGH = 2, 4

# Programs with procedures that we have: {program: {procedure: result}}.  NFS and its mounts
# answer a ping (RFC 1813 s3.3.0, s5.2.0); what is exported is an empty list (s5.2.5).
RPC_FILES = {100003: {0: b''}, 100005: {0: b'', 5: bytes(4)}}

# mtype CALL, rpcvers 0..255, prog 99840..100095, any vers, proc 0..255.  The mark is of a record
# below 64 KiB, so that few other streams are held up.
RPC_SIG = '.. .. .. .. 00 00 00 00 00 00 00 .. 00 01 86 .. .. .. .. .. 00 00 00 ..'
RPC_SIGS = ('80 00 .. .. ' + RPC_SIG, '00 00 .. .. ' + RPC_SIG, RPC_SIG)


def pack_rpc_words(*words):
    """Numbers -> 4 octets each."""
    return struct.pack('!%dI' % len(words), *words)


def pack_rpc_string(text):
    """String -> length, octets, padding to 4 (RFC 4506 s4.11)."""
    return pack_rpc_words(len(text)) + text + bytes(-len(text) % 4)


def parse_rpc_record(data):
    """Fragments up to the last -> (the call, next); MORE; None if too long.

    source  RFC 5531 s11
    """
    at, parts = 0, []
    for _ in range(RPC_FRAGMENTS_MAX):
        if len(data) < at + RPC_MARK.size:
            return MORE
        mark, = RPC_MARK.unpack_from(data, at)
        end = at + RPC_MARK.size + mark % RPC_LAST
        if end > RPC_RECORD_MAX:
            return None
        if len(data) < end:
            return MORE
        parts.append((at + RPC_MARK.size, end))
        at = end
        if mark & RPC_LAST:
            return b''.join(data[start:stop] for start, stop in parts), at
    return None


def rpc_arguments_end(call, at, version):
    """Arguments of GETPORT or GETADDR at `at` -> offset after them.

    returns  beyond the end of call if they are cut short
    raises   Malformed for a string longer than any can be
    """
    if version == 2:
        return at + RPC_PMAP.size
    at += RPC_RPCB.size
    for _ in range(3):                  # netid, address, owner
        if len(call) < at + RPC_MARK.size:
            return at + RPC_MARK.size
        size, = RPC_MARK.unpack_from(call, at)
        if size > RPC_STRING_MAX:
            raise Malformed('string of %d' % size)
        at += RPC_MARK.size + size + -size % 4
    return at


def pack_rpc_address(address, port):
    """Our address and port -> universal address, IP.high.low (RFC 5665 s5.2.3)."""
    return pack_rpc_string(('%s.%d.%d' % (ip_text(address), port >> 8, port & 0xff)).encode())


@functools.lru_cache(maxsize=64)
def pack_rpc_dump(transport, address, port, version):
    """The portmapper itself, versions 2 to 4 -> list in the form of `version`.

    source  RFC 1833 s2.1, s3.1; protocol numbers are those of IANA, as ours are
    """
    if version == 2:
        entry = pack_rpc_words(transport, port)
    else:
        netid = b'tcp' if transport == TCP else b'udp'
        entry = (pack_rpc_string(netid if len(address) == 4 else netid + b'6')
                 + pack_rpc_address(address, port) + pack_rpc_string(b'superuser'))
    versions = range(RPC_PORTMAPPER_LOW, RPC_PORTMAPPER_HIGH + 1)
    if version > 2 and transport == UDP:        # the rest would be an amplifier
        versions = version,
    return b''.join(pack_rpc_words(1, RPC_PORTMAPPER, each) + entry
                    for each in versions) + pack_rpc_words(0)


def pack_rpc_result(call, at, peer, version, procedure, whole):
    """Call of the portmapper -> accept_stat and result; MORE if its arguments are cut short."""
    if procedure == 3 or (procedure, version) == (9, 4):    # GETPORT, GETADDR, GETVERSADDR
        try:
            short = rpc_arguments_end(call, at, version) > len(call)
        except Malformed:
            short, whole = True, True
        if short:
            return pack_rpc_words(RPC_GARBAGE_ARGS) if whole else MORE
        result = (pack_rpc_words(peer.dport) if version == 2
                  else pack_rpc_address(peer.dst, peer.dport))
    elif procedure == 0:                                    # NULL
        result = b''
    elif procedure == 4:                                    # DUMP
        result = pack_rpc_dump(peer.transport, peer.dst, peer.dport, version)
    elif procedure == 6 and version > 2:                    # GETTIME
        result = pack_rpc_words(peer.second & 0xffffffff)
    else:
        return pack_rpc_words(RPC_PROC_UNAVAIL)
    return pack_rpc_words(RPC_SUCCESS) + result


def answer_rpc_call(call, peer, whole):
    """A call -> the reply; MORE if cut short; None if it is none.

    whole   no more of it can come
    source  RFC 5531 s9
    """
    if len(call) < RPC_CALL.size:
        return MORE
    xid, kind, rpc_version, program, version, procedure = RPC_CALL.unpack_from(call)
    if kind:
        return None
    if rpc_version != RPC_VERSION:
        return pack_rpc_words(xid, RPC_REPLY, RPC_DENIED, RPC_MISMATCH, RPC_VERSION, RPC_VERSION)
    at = RPC_CALL.size
    for error in (RPC_BADCRED, RPC_BADVERF):
        if len(call) < at + RPC_AUTH.size:
            return MORE
        _, size = RPC_AUTH.unpack_from(call, at)
        if size > RPC_AUTH_MAX:
            return pack_rpc_words(xid, RPC_REPLY, RPC_DENIED, RPC_AUTH_ERROR, error)
        at += RPC_AUTH.size + size + -size % 4
    if len(call) < at:
        return MORE
    if program in RPC_FILES and procedure in RPC_FILES[program]:
        result = pack_rpc_words(RPC_SUCCESS) + RPC_FILES[program][procedure]
    elif program != RPC_PORTMAPPER:
        result = pack_rpc_words(RPC_PROC_UNAVAIL if program in RPC_FILES else RPC_PROG_UNAVAIL)
    elif not RPC_PORTMAPPER_LOW <= version <= RPC_PORTMAPPER_HIGH:
        result = pack_rpc_words(RPC_PROG_MISMATCH, RPC_PORTMAPPER_LOW, RPC_PORTMAPPER_HIGH)
    else:
        result = pack_rpc_result(call, at, peer, version, procedure, whole)
    # the zeros: verifier AUTH_NONE, empty
    return result and pack_rpc_words(xid, RPC_REPLY, RPC_ACCEPTED, 0, 0) + result


def answer_rpc_bare(data, peer):
    """A call without record mark -> the reply, likewise; on a stream only the first.

    Without a mark nothing says where the arguments of an unknown call end.
    """
    answer = answer_rpc_call(data, peer, peer.transport == UDP)
    if answer:
        peer.state = 'over'
    return answer


def echo_rpc(message, transport):
    """-> where the xid stands: behind a record mark, where there is one."""
    return (0 if message[12:15] == b'\0\1\x86' else RPC_MARK.size), 4


@protocol('rpc', sig=RPC_SIGS, port=111, ref='RFC 5531 s9, RFC 1833 s2, s3', most=RPC_UDP_MOST,
          echo=echo_rpc)
def answer_rpc(data, peer):
    """Call -> reply of a portmapper that knows itself.

    state  None; 'marked'; 'over' once a call without record mark is answered
    """
    if peer.state == 'over':
        return None
    if peer.state is None and data[12:15] == b'\0\1\x86':     # zeros where there is a mark
        return answer_rpc_bare(data, peer)
    peer.state = 'marked'
    record = parse_rpc_record(data)
    if not record:
        return record
    call, end = record
    answer = answer_rpc_call(call, peer, True)
    if not answer:
        return None
    answer = RPC_MARK.pack(RPC_LAST | len(answer)) + answer
    return answer if peer.transport == UDP else Reply(answer, end)


@datagram('rpc-any', sig=('.. .. .. .. 00 00 00 00 00 00 00 02' + ' ..' * 28,), port=(17185, 2049),
          check=lambda data, peer: data[16:18] == data[24:26] == b'\0\0', ref='RFC 5531 s9')
def answer_rpc_any(message, peer):
    """Call of any other program (VxWorks has one for debuggers) -> it is not here."""
    return answer_rpc_call(message, peer, True)


# ---- smb: spnego and ntlmssp ---------------------------------------------------------
#
# What smb logs on with: NTLMSSP messages, bare or in the DER of SPNEGO.  We know no password and
# no user, so one challenge and one refusal are the whole of it.

NTLM_MAGIC = b'NTLMSSP\0'
NTLM_START = struct.Struct('<8sII')     # MS-NLMP s2.2.1.1: magic type flags
# MS-NLMP s2.2.1.2: magic type name-size name-max name-at flags challenge info-size info-max
# info-at version
NTLM_CHALLENGE = struct.Struct('<8sIHHII8s8xHHI8s')
NTLM_AV = struct.Struct('<HH')          # MS-NLMP s2.2.2.1: id size
NTLM_VERSION = struct.Struct('<BBH3xB')     # MS-NLMP s2.2.2.10: major minor build revision
NTLM_REVISION = 15
# MS-NLMP s2.2.1.3: magic type; of responses (LM, NT), domain, user, workstation, session key their
# size, max, at; flags
NTLM_AUTHENTICATE = struct.Struct('<8sIHxxIHxxIHxxIHxxIHxxI8xI')
NTLM_RESPONSE, NTLM_PROOF = 24, 16      # MS-NLMP s2.2.2.6: of version 1; s2.2.2.8: of 2, the first
NTLM_NEGOTIATE, NTLM_CHALLENGED, NTLM_AUTHENTICATED = 1, 2, 3   # MS-NLMP s2.2.1: message types
NTLM_SCHEMES = b'ntlm', b'negotiate'    # RFC 4559 s4: over HTTP
NTLM_UNICODE, NTLM_OEM = 0x1, 0x2       # MS-NLMP s2.2.2.5: names in UTF-16, in ASCII
NTLM_ASKED = 0xe0088035     # s2.2.2.5, ours if asked for: keys, session security, sign, seal
NTLM_GIVEN = 0x02820204     # s2.2.2.5: version, target info, type server, NTLM, target name
NTLM_VERSIONED = 0x02000000             # s2.2.2.5: there is a version
NTLM_NAMES = 2, 1, 4, 3     # MS-NLMP s2.2.2.1: domain, computer, DNS domain, DNS computer
NTLM_TIMESTAMP = 7
FILETIME = struct.Struct('<Q')          # MS-DTYP s2.3.3: 100 ns since 1601

SPNEGO_OID = b'\x06\x06\x2b\x06\x01\x05\x05\x02'                    # 1.3.6.1.5.5.2
NTLM_OID = b'\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x02\x02\x0a'      # 1.3.6.1.4.1.311.2.2.10
SPNEGO_INCOMPLETE, SPNEGO_REQUEST_MIC = b'\1', b'\3'                # RFC 4178 s4.2.2


def pack_spnego_init():
    """NegTokenInit2, the server's first word: NTLMSSP is all we take.

    source  MS-SPNG s2.2.1; RFC 2743 s3.1 for the frame
    """
    hint = pack_der(0x1b, b'not_defined_in_RFC4178@please_ignore')
    mechanisms = pack_der(0xa0, pack_der(0x30, NTLM_OID))
    hints = pack_der(0xa3, pack_der(0x30, pack_der(0xa0, hint)))
    return pack_der(0x60, SPNEGO_OID, pack_der(0xa0, pack_der(0x30, mechanisms, hints)))


SPNEGO_INIT = pack_spnego_init()


def pack_spnego_answer(state, token=b''):
    """NegTokenResp: NTLMSSP is chosen, token is its message.

    source  RFC 4178 s4.2.2
    """
    chosen = pack_der(0xa0, pack_der(0x0a, state)) + pack_der(0xa1, NTLM_OID)
    if token:
        chosen += pack_der(0xa2, pack_der(0x04, token))
    return pack_der(0xa1, pack_der(0x30, chosen))


def filetime(now_s):
    """Unix time -> Windows time, 100 ns since 1601."""
    return int((now_s + 11644473600) * 10000000)


def pack_ntlm_challenge(asked, peer):
    """Flags the client asked for -> CHALLENGE_MESSAGE with a new random challenge.

    source  MS-NLMP s3.2.5.1.1
    """
    wide = peer.host.name.encode('utf-16-le')
    name = wide if asked & NTLM_UNICODE else peer.host.name.encode('ascii')
    pairs = [(kind, wide) for kind in NTLM_NAMES]
    pairs += (NTLM_TIMESTAMP, FILETIME.pack(filetime(peer.now))), (0, b'')
    info = b''.join(NTLM_AV.pack(kind, len(value)) + value for kind, value in pairs)
    flags = asked & NTLM_ASKED | NTLM_GIVEN | (0 if asked & NTLM_UNICODE else NTLM_OEM)
    at, challenge = NTLM_CHALLENGE.size, peer.host.random(8)
    if peer.record:
        peer.record.challenge = challenge
    return NTLM_CHALLENGE.pack(
        NTLM_MAGIC, NTLM_CHALLENGED, len(name), len(name), at, flags, challenge,
        len(info), len(info), at + len(name),
        NTLM_VERSION.pack(*peer.host.persona.ntlm, NTLM_REVISION)) + name + info


def note_ntlm(token, peer):
    """Note who an AUTHENTICATE_MESSAGE says that he is (MS-NLMP s2.2.1.3)."""
    if len(token) < NTLM_AUTHENTICATE.size:
        return
    *numbers, flags = NTLM_AUTHENTICATE.unpack_from(token)[2:]
    old, response, *names = [token[at:at + size] for size, at in zip(numbers[::2], numbers[1::2])]
    coding = 'utf-16-le' if flags & NTLM_UNICODE else 'latin-1'
    domain, user, computer = [each.decode(coding, 'replace') for each in names]
    version = ''
    if flags & NTLM_VERSIONED and len(token) >= NTLM_AUTHENTICATE.size + 8:
        version = '%d.%d build %d rev %d' % NTLM_VERSION.unpack_from(token, NTLM_AUTHENTICATE.size)
    peer.note('ntlmssp', user=user, domain=domain, host=computer, version=version)
    found = ntlm_hash(user, domain, peer.record.challenge if peer.record else b'', old, response)
    peer.note('credentials', user=user, domain=domain, client=computer, digest=response.hex(),
              **{'hash': found} if found else {})


def ntlm_hash(user, domain, challenge, old, response) -> str:
    """A login as John the Ripper and hashcat read it; '': nothing that could be tried.

    old, response   to the challenge: LM, NT; octets
    """
    if not challenge or len(response) < NTLM_RESPONSE:
        return ''
    parts = challenge, response[:NTLM_PROOF], response[NTLM_PROOF:]
    if len(response) == NTLM_RESPONSE:          # version 1
        parts = old, response, challenge
    return '%s::%s:%s' % (user, domain, ':'.join(each.hex() for each in parts))


def pack_logon_step(token, peer):
    """Security token of the client -> ours; None where the logon has failed.

    token   NTLMSSP message, bare or anywhere in SPNEGO: its magic is mark enough
    """
    at = token.find(NTLM_MAGIC)
    if at < 0:
        # A first token of a mechanism we do not have (RFC 4178 s3.2 c): ask for ours
        if token[:1] == b'\x60' and NTLM_OID in token:
            return pack_spnego_answer(SPNEGO_REQUEST_MIC)
        return None
    if len(token) - at < NTLM_START.size:
        return None
    _, kind, asked = NTLM_START.unpack_from(token, at)
    if kind == NTLM_AUTHENTICATED:
        note_ntlm(token[at:], peer)
    if kind != NTLM_NEGOTIATE:
        return None
    challenge = pack_ntlm_challenge(asked, peer)
    return pack_spnego_answer(SPNEGO_INCOMPLETE, challenge) if at else challenge


# ---- smb -----------------------------------------------------------------------------

NBSS = struct.Struct('!I')              # RFC 1002 s4.3.1, MS-SMB2 s2.1: type (8 bits) size
NBSS_MESSAGE, NBSS_REQUEST, NBSS_KEEPALIVE = 0x00, 0x81, 0x85   # RFC 1002 s4.3.1: types
NBSS_POSITIVE = NBSS.pack(0x82000000)
NBSS_NAMES = 2 * (1 + 32 + 1)           # RFC 1002 s4.3.2: two encoded names without a scope

STATUS_SUCCESS = 0                      # MS-ERREF s2.3.1
STATUS_INVALID_SMB = 0x00010002         # as ERRSRV/ERRerror, so for SMB1 clients of any age
STATUS_SMB_BAD_UID = 0x005b0002         # as ERRSRV/ERRbaduid
STATUS_INVALID_PARAMETER = 0xc000000d
STATUS_MORE_PROCESSING_REQUIRED = 0xc0000016
STATUS_LOGON_FAILURE = 0xc000006d
STATUS_NOT_SUPPORTED = 0xc00000bb
STATUS_USER_SESSION_DELETED = 0xc0000203
STATUS_NO_HASH_OVERLAP = 0xc05d0000     # ..._SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP in full
DOS_ERRORS = {                          # MS-CIFS s2.2.2.4, for clients without 32-bit status
    STATUS_MORE_PROCESSING_REQUIRED: 0x00ea0001,    # ERRDOS/ERRmoredata
    STATUS_LOGON_FAILURE: 0x00020002,               # ERRSRV/ERRbadpw
}

SMB1_HEAD = struct.Struct('<4sBIBHH10xHHHH')    # MS-CIFS s2.2.3.1: the fields of Smb1
# MS-SMB s2.2.4.5.2.1: dialect security mpx vcs buffer raw key capabilities time zone
# challenge-size
SMB1_WORDS = struct.Struct('<HBHHIIIIQhB')
SMB1_SETUP = struct.Struct('<14xH8x')           # MS-SMB s2.2.4.6.1: blob-size
SMB1_SETUP_ANSWER = struct.Struct('<B3xHH')     # MS-SMB s2.2.4.6.2: andx action blob-size
SMB1_SIZE = struct.Struct('<H')                 # MS-CIFS s2.2.3.3: byte count
SMB1_REPLY = 0x80                               # MS-CIFS s2.2.3.1: Flags
SMB1_UNICODE, SMB1_STATUS32, SMB1_EXTENDED = 0x8000, 0x4000, 0x0800     # and Flags2
SMB1_CAPABILITIES = 0x0001e3fc                  # MS-SMB s2.2.4.5.2.1
SMB1_CAP_EXTENDED = 0x80000000
SMB1_NEGOTIATE, SMB1_SESSION_SETUP, SMB1_NT_CANCEL = 0x72, 0x73, 0xa4   # MS-CIFS s2.2.2.1
SMB1_NT, SMB1_NO_DIALECT = b'NT LM 0.12', 0xffff
SMB1_UPGRADES = (b'SMB 2.???', 0x02ff), (b'SMB 2.002', 0x0202)  # MS-SMB2 s3.3.5.3.1, .2

SMB2_HEAD = struct.Struct('<4sHHIHHIIQ8sQ16s')  # MS-SMB2 s2.2.1.2: the fields of Smb2
# MS-SMB2 s2.2.3: size dialects contexts-at contexts
SMB2_NEGOTIATE_REQUEST = struct.Struct('<HH24xIHxx')
# MS-SMB2 s2.2.4: size security dialect contexts guid capabilities transact read write time
# boot blob-at blob-size contexts-at
SMB2_NEGOTIATE_ANSWER = struct.Struct('<HHHH16sIIIIQQHHI')
SMB2_SETUP = struct.Struct('<H10xHHQ')          # MS-SMB2 s2.2.5: size blob-at blob-size old
SMB2_SETUP_ANSWER = struct.Struct('<HHHH')      # MS-SMB2 s2.2.6: size flags blob-at blob-size
SMB2_ERROR = struct.pack('<HBBIB', 9, 0, 0, 0, 0)       # MS-SMB2 s2.2.2: no error data
SMB2_CONTEXT = struct.Struct('<HHxxxx')         # MS-SMB2 s2.2.3.1: type size
SMB2_PREAUTH = struct.Struct('<HH2s')           # MS-SMB2 s2.2.3.1.1: hashes salt-size hash
SMB2_PREAUTH_TYPE, SMB2_SHA512, SMB2_SALT = 1, b'\1\0', 32
SMB2_REPLY = 1                                  # MS-SMB2 s2.2.1.2: Flags
SMB2_NEGOTIATE, SMB2_SESSION_SETUP, SMB2_CANCEL = 0, 1, 12      # MS-SMB2 s2.2.1.2
SMB2_DIALECTS = 0x0202, 0x0210, 0x0300, 0x0302, 0x0311          # MS-SMB2 s2.2.3
SMB2_COMPOUND_MAX = 8                           # requests answered of one chain
SMB_UDP_MOST = 5

Smb1 = collections.namedtuple(
    'Smb1', 'magic command status flags flags2 pid_high tid pid uid mid')
Smb2 = collections.namedtuple(
    'Smb2', 'magic size charge status command credits flags next mid ids session signature')
SMB1_MAGIC, SMB2_MAGIC = b'\xffSMB', b'\xfeSMB'
SMB2_FIRST = Smb2(SMB2_MAGIC, 64, 0, 0, SMB2_NEGOTIATE, 0, 0, 0, 0, bytes(8), 0, bytes(16))


def pack_smb1(head, status, words=b'', body=b'', uid=None):
    """Head of the request, what to say -> framed answer."""
    if not head.flags2 & SMB1_STATUS32:
        status = DOS_ERRORS.get(status, status)
    flags2 = 0x0007 | head.flags2 & (SMB1_UNICODE | SMB1_STATUS32 | SMB1_EXTENDED)
    data = SMB1_HEAD.pack(SMB1_MAGIC, head.command, status, 0x98, flags2, head.pid_high,
                          head.tid, head.pid, head.uid if uid is None else uid, head.mid)
    data += bytes((len(words) // 2,)) + words + SMB1_SIZE.pack(len(body)) + body
    return NBSS.pack(len(data)) + data


def pack_smb1_nt(head, index, peer):
    """Answer to a negotiate that offers NT LM 0.12 as its index-th dialect.

    source  MS-SMB s2.2.4.5.2.1 with extended security, MS-CIFS s2.2.4.52.2 without; there the
            names are UTF-16, never aligned, whatever Flags2 says: nmap and Windows expect it
    """
    host, capabilities = peer.host, SMB1_CAPABILITIES
    if head.flags2 & SMB1_EXTENDED:
        capabilities |= SMB1_CAP_EXTENDED
        challenge, rest = b'', host.guid + SPNEGO_INIT
    else:
        names = 'WORKGROUP\0%s\0' % host.name
        challenge, rest = host.random(8), names.encode('utf-16-le')
    words = SMB1_WORDS.pack(index, 3, 50, 50, 0x10000, 0x10000, 0, capabilities,
                            filetime(peer.now), 60, len(challenge))
    return pack_smb1(head, STATUS_SUCCESS, words, challenge + rest)


def answer_smb1_negotiate(head, words, body, peer):
    """Dialects of SMB1 -> NT LM 0.12, or SMB2 for a client that speaks no other of ours.

    body    (0x02, name, NUL) for each dialect, MS-CIFS s2.2.4.52.1
    """
    if words or not body or body[-1]:
        return pack_smb1(head, STATUS_INVALID_SMB)
    names = [name[1:] for name in body[:-1].split(b'\0')]
    if SMB1_NT in names:
        return pack_smb1_nt(head, names.index(SMB1_NT), peer)
    for name, dialect in SMB1_UPGRADES:
        if name in names:
            return pack_smb2_negotiate(SMB2_FIRST, dialect, peer)
    return pack_smb1(head, STATUS_SUCCESS, SMB1_SIZE.pack(SMB1_NO_DIALECT))


def answer_smb1_setup(head, words, body, peer):
    """Session setup of SMB1 -> challenge, then refusal; refusal at once without NTLMSSP.

    words   12 of them with extended security, else 13 (10 in LANMAN)
    source  MS-SMB s2.2.4.6, MS-CIFS s2.2.4.53
    """
    if len(words) in (20, 26):
        return pack_smb1(head, STATUS_LOGON_FAILURE)
    if len(words) != SMB1_SETUP.size:
        return pack_smb1(head, STATUS_INVALID_SMB)
    size, = SMB1_SETUP.unpack(words)
    if size > len(body):
        return pack_smb1(head, STATUS_INVALID_SMB)
    token = pack_logon_step(body[:size], peer)
    if token is None:
        known, peer.state = head.uid in (0, peer.state), None
        return pack_smb1(head, STATUS_LOGON_FAILURE if known else STATUS_SMB_BAD_UID)
    if head.uid != peer.state:          # new; 0 and 0xffff mean no user, MS-CIFS s2.2.1.6.8
        peer.state = 0x0800 | int.from_bytes(peer.host.random(2), 'big') >> 1
    answer = SMB1_SETUP_ANSWER.pack(0xff, 0, len(token))
    names = '%s\0%s\0' % peer.host.persona.smb             # NativeOS, NativeLanMan
    system = names.encode('ascii')
    if head.flags2 & SMB1_UNICODE:      # which begins at an even octet of the message
        start = SMB1_HEAD.size + 1 + len(answer) + SMB1_SIZE.size + len(token)
        system = bytes(start & 1) + names.encode('utf-16-le')
    return pack_smb1(head, STATUS_MORE_PROCESSING_REQUIRED, answer, token + system, peer.state)


SMB1_ANSWERS = {SMB1_NEGOTIATE: answer_smb1_negotiate, SMB1_SESSION_SETUP: answer_smb1_setup}


def answer_smb1(message, peer):
    """Message of SMB1 -> framed answer; b'' if it wants none, None if it is no request.

    Nobody is ever logged on, so other commands come from no user we know.
    """
    at = SMB1_HEAD.size
    if len(message) < at + 1 + SMB1_SIZE.size:
        return None
    head = Smb1._make(SMB1_HEAD.unpack_from(message))
    if head.flags & SMB1_REPLY:
        return None
    if head.command == SMB1_NT_CANCEL:  # never answered itself, MS-CIFS s2.2.4.65
        return b''
    if head.command not in SMB1_ANSWERS:
        return pack_smb1(head, STATUS_SMB_BAD_UID)
    words = message[at + 1:at + 1 + 2 * message[at]]
    at += 1 + 2 * message[at]
    if len(message) < at + SMB1_SIZE.size:
        return pack_smb1(head, STATUS_INVALID_SMB)
    size, = SMB1_SIZE.unpack_from(message, at)
    body = message[at + SMB1_SIZE.size:at + SMB1_SIZE.size + size]
    if len(body) < size:
        return pack_smb1(head, STATUS_INVALID_SMB)
    return SMB1_ANSWERS[head.command](head, words, body, peer)


def pack_smb2(head, status, body=SMB2_ERROR, session=None):
    """Head of the request, what to say -> framed answer."""
    data = SMB2_HEAD.pack(
        SMB2_MAGIC, SMB2_HEAD.size, head.charge, status, head.command, 1, SMB2_REPLY, 0,
        head.mid, head.ids, head.session if session is None else session, bytes(16)) + body
    return NBSS.pack(len(data)) + data


def pack_smb2_negotiate(head, dialect, peer):
    """Negotiate response: dialect, who we are, NTLMSSP.

    Boot time is 0, as in every Windows that has 3.1.1; only 3.1.1 has a context, and must
    have one (MS-SMB2 s3.2.5.2): the hash of what was negotiated.
    """
    at = SMB2_HEAD.size + SMB2_NEGOTIATE_ANSWER.size
    context = pad = b''
    if dialect == 0x0311:
        preauth = SMB2_PREAUTH.pack(1, SMB2_SALT, SMB2_SHA512) + peer.host.random(SMB2_SALT)
        context = SMB2_CONTEXT.pack(SMB2_PREAUTH_TYPE, len(preauth)) + preauth
        pad = bytes(-(at + len(SPNEGO_INIT)) % 8)       # MS-SMB2 s2.2.4: 8-octet boundary
    end = at + len(SPNEGO_INIT) + len(pad)
    body = SMB2_NEGOTIATE_ANSWER.pack(
        65, 1, dialect, 1 if context else 0, peer.host.guid, 1, 0x10000, 0x10000, 0x10000,
        filetime(peer.now), 0, at, len(SPNEGO_INIT), end if context else 0)
    return pack_smb2(head, STATUS_SUCCESS, body + SPNEGO_INIT + pad + context)


def check_smb2_contexts(message, at, count):
    """Status for the contexts of a 3.1.1 negotiate: is there SHA-512 for the preauth hash?

    source  MS-SMB2 s3.3.5.4
    """
    for _ in range(count):
        if len(message) < at + SMB2_CONTEXT.size:
            break
        kind, size = SMB2_CONTEXT.unpack_from(message, at)
        at += SMB2_CONTEXT.size
        data = message[at:at + size]
        if kind == SMB2_PREAUTH_TYPE and len(data) == size >= SMB2_PREAUTH.size:
            end = 4 + 2 * int.from_bytes(data[:2], 'little')
            hashes = {data[place:place + 2] for place in range(4, min(end, size), 2)}
            return STATUS_SUCCESS if SMB2_SHA512 in hashes else STATUS_NO_HASH_OVERLAP
        at += size + -size % 8
    return STATUS_INVALID_PARAMETER


def answer_smb2_negotiate(head, message, peer):
    """Negotiate of SMB2 -> the lowest dialect offered.

    source  MS-SMB2 s3.3.5.4
    """
    at = SMB2_HEAD.size + SMB2_NEGOTIATE_REQUEST.size
    if len(message) < at:
        return pack_smb2(head, STATUS_INVALID_PARAMETER)
    size, count, contexts_at, contexts = SMB2_NEGOTIATE_REQUEST.unpack_from(
        message, SMB2_HEAD.size)
    if size != 36 or not count or len(message) < at + 2 * count:
        return pack_smb2(head, STATUS_INVALID_PARAMETER)
    offered = set(struct.unpack_from('<%dH' % count, message, at)).intersection(SMB2_DIALECTS)
    if not offered:
        return pack_smb2(head, STATUS_NOT_SUPPORTED)
    status = STATUS_SUCCESS
    if min(offered) == 0x0311:
        status = check_smb2_contexts(message, contexts_at, contexts)
    if status:
        return pack_smb2(head, status)
    return pack_smb2_negotiate(head, min(offered), peer)


def answer_smb2_setup(head, message, peer):
    """Session setup of SMB2 -> challenge and a session id, then refusal.

    source  MS-SMB2 s3.3.5.5
    """
    least = SMB2_HEAD.size + SMB2_SETUP.size
    if len(message) < least:
        return pack_smb2(head, STATUS_INVALID_PARAMETER)
    size, at, count, _ = SMB2_SETUP.unpack_from(message, SMB2_HEAD.size)
    if size != 25 or at < least or at + count > len(message):
        return pack_smb2(head, STATUS_INVALID_PARAMETER)
    if head.session not in (0, peer.state):
        return pack_smb2(head, STATUS_USER_SESSION_DELETED)
    token = pack_logon_step(message[at:at + count], peer)
    if token is None:
        peer.state = None
        return pack_smb2(head, STATUS_LOGON_FAILURE)
    if not head.session:                # new; 0 and all ones mean none, MS-SMB2 s3.3.5.5.1
        peer.state = 1 + (int.from_bytes(peer.host.random(8), 'big') >> 1)
    answer = SMB2_SETUP_ANSWER.pack(
        9, 0, SMB2_HEAD.size + SMB2_SETUP_ANSWER.size, len(token))
    return pack_smb2(head, STATUS_MORE_PROCESSING_REQUIRED, answer + token, peer.state)


SMB2_ANSWERS = {SMB2_NEGOTIATE: answer_smb2_negotiate, SMB2_SESSION_SETUP: answer_smb2_setup}


def answer_smb2(message, peer):
    """Message of SMB2 -> framed answers, one for each request of a chain; None if it is none.

    Requests that need a session learn that they have none (MS-SMB2 s3.3.5.2.9): clients
    leave at once, where silence would cost them a timeout.
    """
    out, at = None, 0
    for _ in range(SMB2_COMPOUND_MAX):
        if len(message) - at < SMB2_HEAD.size:
            return out
        head = Smb2._make(SMB2_HEAD.unpack_from(message, at))
        if head.magic != SMB2_MAGIC or head.size != SMB2_HEAD.size or head.flags & SMB2_REPLY:
            return out
        end = at + head.next if head.next else len(message)
        if head.next % 8 or end < at + SMB2_HEAD.size or end > len(message):
            return (out or b'') + pack_smb2(head, STATUS_INVALID_PARAMETER)
        if head.command in SMB2_ANSWERS:
            answer = SMB2_ANSWERS[head.command](head, message[at:end], peer)
        elif head.command == SMB2_CANCEL:       # never answered itself, s3.3.5.16
            answer = b''
        else:
            answer = pack_smb2(head, STATUS_USER_SESSION_DELETED)
        out, at = (out or b'') + answer, end
    return out


@protocol('smb', sig=('00 00 .. .. ff 53 4d 42', '00 00 .. .. fe 53 4d 42', '81 00 00 .. 20'),
          port=445, ref='MS-SMB2 s3.3.5, MS-SMB s3.3.5', most=SMB_UDP_MOST)
def answer_smb(data, peer):
    """Negotiate, session setup -> challenge, refusal.

    data        one NetBIOS session packet or more: type, 24 bits of size, contents
    peer.state  id of the logon under way (SMB1: UID), None without
    returns     one answer a call; what is no request is never answered but ends the connection
                (MS-SMB2 s3.3.5.2): nmap, which sends such, would wait 10 s for us
    """
    if len(data) < NBSS.size:
        return MORE
    size, = NBSS.unpack_from(data)
    kind, size = size >> 24, size & 0xffffff
    end = NBSS.size + size
    if end > KEPT_MAX or kind not in (NBSS_MESSAGE, NBSS_REQUEST, NBSS_KEEPALIVE):
        return Reply(close=True)
    if len(data) < end:
        return MORE
    if kind == NBSS_KEEPALIVE:
        return Reply(used=end)
    if kind == NBSS_REQUEST:
        return Reply(NBSS_POSITIVE, end) if size >= NBSS_NAMES else Reply(close=True)
    message = data[NBSS.size:end]
    magic = message[:4]
    if magic == SMB1_MAGIC:
        out = answer_smb1(message, peer)
    else:
        out = answer_smb2(message, peer)        # which looks at the magic itself
    return Reply(close=True) if out is None else Reply(out, end)


family('Web')


# ---- http ----------------------------------------------------------------------------

HTTP_HEAD_MAX = 1 << 14     # octets of request line and fields, or of the trailer fields
HTTP_LINES_MAX = 256        # and lines of it
HTTP_BODY_MAX = 1 << 14     # octets of a body that are kept; the rest passes by
HTTP_FRAMING_MAX = 16       # fields of the framing, more is nobody's request
HTTP_VALUE_MAX = 256        # octets of such a field
HTTP_NOTED_MAX = 1 << 10    # octets of a field, a path or a body that are noted
HTTP_CHUNK_MAX = 1 << 12    # octets of a chunk-size line
HTTP_CHUNK_LINES = 6        # lines of a chunked body read at once
HTTP_KNOWN, HTTP_KNOWN_MAX = 256, 1 << 10       # requests kept by their text, octets of one
HTTP_UDP_MOST = 2           # an answer over UDP is so many times as long as the request

HTTP_OWN = 80, 443, 8080    # where any line is answered
HTTP_READS = b'GET', b'HEAD', b'POST'
HTTP_DATAGRAMS = HTTP_READS + (b'PUT', b'DELETE', b'CONNECT', b'OPTIONS', b'TRACE', b'PATCH')
# RFC 9110 s9.3; WebDAV: RFC 4918 s9, RFC 3253 s3.6, RFC 5323 s2; UPnP Device Architecture 2.0
# s4.1; MS-RPCH s2.1.2.1; MS-SSTP s3.2.4.1
HTTP_VERBS = HTTP_DATAGRAMS + (
    b'PROPFIND', b'PROPPATCH', b'MKCOL', b'COPY', b'MOVE', b'LOCK', b'UNLOCK', b'SEARCH',
    b'REPORT', b'BPROPFIND', b'SOURCE', b'DEBUG', b'TRACK', b'PURGE', b'RPC_IN_DATA',
    b'RPC_OUT_DATA', b'SSTP_DUPLEX_POST', b'CCM_POST', b'SUBSCRIBE', b'UNSUBSCRIBE', b'NOTIFY')
# of these SIP has some, too
HTTP_SIGNATURES = tuple(verb + b' /' if verb in (b'SUBSCRIBE', b'NOTIFY') else verb + b' '
                        for verb in HTTP_VERBS)

HTTP_ENDS = b'\n\r\n', b'\n\n'
HTTP_TEXT = re.compile(br'(?:\r*\n)*(?!HTTP/)[\t -~]*\r?(?:\n|\Z)')        # a line, so far
HTTP_BLANK = re.compile(br'(?:\r*\n)*')             # RFC 9112 s2.2: before a request line
HTTP_END = re.compile(br'\n\r*\n')                  # of a head
HTTP_START = re.compile(                # RFC 9112 s3
    br'(?P<verb>[A-Z][A-Z_-]{0,31}) (?P<target>'
    br'/[^ \r]*'                        # s3.2.1 origin-form
    br'|[A-Za-z][A-Za-z0-9+.-]*://[^ \r]*'              # s3.2.2 absolute-form
    br'|(?<=CONNECT )[^ \r]+:[0-9]+'    # s3.2.3 authority-form
    br'|(?<=OPTIONS )\*)'               # s3.2.4 asterisk-form
    br' HTTP/(?P<major>[0-9]*)\.(?P<minor>[0-9]*)\Z')
# a request line with a fault, or one of HTTP/0.9 (RFC 1945 s4.1)
HTTP_FAULTY = re.compile(br'[A-Z][A-Z_-]{0,31} (?:[^\n]* HTTP/|(?:/|https?://)[^ ]*\Z)')
HTTP_FIELDS = re.compile(br'(?:[^\r\n][^:\r\n]*:[^\n]*\n)*\Z')      # s5; names as lax as can be
HTTP_WANTED = re.compile(               # fields that are looked at
    br'^(authorization|connection|content-length|content-type|expect|host|proxy-authorization'
    br'|sec-websocket-key|soapaction|transfer-encoding|upgrade|user-agent)[ \t]*:([^\n]*)',
    re.I | re.M)
# s6, s9.3: those of them that say where a request ends
HTTP_FRAMING = frozenset((b'connection', b'content-length', b'expect', b'transfer-encoding'))
HTTP_LENGTH = re.compile(br'0*(0|[1-9][0-9]{0,17})\Z')         # RFC 9110 s8.6
HTTP_SIZE = re.compile(br'0*(0|[1-9A-Fa-f][0-9A-Fa-f]{0,14})[ \t]*(?:;|\Z)')   # RFC 9112 s7.1
HTTP_USER = re.compile(                 # of a form: names that mean one
    br'[&{,\s]"?[\w.-]{0,16}(?:user|login|log|mail|account)[\w.-]{0,16}"?\s{0,9}[=:]\s{0,9}"?'
    br'([^&",\r\n]{1,256})', re.I)
HTTP_PASSWORD = re.compile(
    br'[?&{,\s]"?[\w.-]{0,16}(?:pass|pwd|psw|psd)[\w.-]{0,16}"?\s{0,9}[=:]\s{0,9}"?'
    br'([^&",\r\n]{1,256})', re.I)
HTTP_ESCAPED = re.compile(br'%([0-9A-Fa-f]{2})')
HTTP_AUTHORITY = re.compile(br'[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*')

HTTP_DAYS = 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'
HTTP_MONTHS = ('Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov',
               'Dec')

HTTP_CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'
HTTP_HEAD = (                           # all but date and Connection
    b'HTTP/1.1 %d %s\r\n'
    b'Server: %s\r\n'
    b'Date: %%s\r\n'
    b'%s'
    b'Connection: %%s\r\n'
    b'\r\n'
)
HTTP_401_PAGE = (
    b'<html>\n'
    b'<head><title>401 Authorization Required</title></head>\n'
    b'<body bgcolor="white">\n'
    b'<center><h1>401 Authorization Required</h1></center>\n'
    b'<hr><center>nginx/1.14.2</center>\n'
    b'</body>\n'
    b'</html>\n'
)
HTTP_401_HEAD = (
    b'HTTP/1.1 401 Unauthorized\r\n'
    b'Server: nginx/1.14.2\r\n'
    b'Date: %%s\r\n'
    b'Content-Type: text/html\r\n'
    b'Content-Length: %d\r\n'
    b'Connection: %%s\r\n'
    b'WWW-Authenticate: Basic realm="Access to admin page"\r\n'
    b'\r\n'
) % len(HTTP_401_PAGE)

# A head that has been read.
#   verb    in capitals
#   target  as it stands in the request line
#   modern  HTTP/1.1 or later
#   close   the connection ends with the answer
#   eager   100-continue is expected
#   length  octets of the body; -1: it comes in chunks
#   fields  {name in lower case: value} of HTTP_WANTED
#   fault   status that refuses it; 0: it is as it must be
HttpRequest = collections.namedtuple(
    'HttpRequest', 'verb target modern close eager length fields fault head')
HttpRequest.__new__.__defaults__ = b'',


def refuse_http(fault):
    """Status -> HttpRequest that cannot be read: behind it nothing is."""
    return HttpRequest(b'', b'', True, True, False, 0, {}, fault)


@functools.lru_cache(maxsize=HTTP_KNOWN)
def read_http(head):
    """Octets from the request line to the empty line -> HttpRequest; None: that line is none.

    Who scans says the same to everyone: a head that is known costs 0.1 us instead of 8.
    source  RFC 9112 s3, s5, s6.3
    """
    begin, _, fields = head.partition(b'\n')
    end = HTTP_END.search(head)
    if not end or end.end() < len(head):
        return None
    match = HTTP_START.match(begin.rstrip(b'\r'))
    if not match:
        return None
    fields = fields[:end.start() - len(begin)]
    if head.count(b'\n') > HTTP_LINES_MAX:
        return refuse_http(431)
    # Digits are compared as text: int() of thousands of them is slow, or an error
    major = match.group('major').lstrip(b'0')
    if major not in (b'', b'1'):
        return refuse_http(505)
    if not HTTP_FIELDS.match(fields):
        return refuse_http(400)
    modern = bool(major and match.group('minor').lstrip(b'0'))
    rows = HTTP_WANTED.findall(fields)
    wanted = {name.lower(): value.strip() for name, value in rows}
    request = HttpRequest(match.group('verb'), match.group('target'), modern, not modern, False, 0,
                          wanted, 0, head)
    if HTTP_FRAMING.isdisjoint(wanted):
        return request
    return frame_http(request, [(name.lower(), value) for name, value in rows
                                if name.lower() in HTTP_FRAMING])


def frame_http(request, fields):
    """HttpRequest and [(name, value)] of the framing -> HttpRequest.

    Where there is no telling where the next request begins, this one is answered and the
    connection closed.
    source  RFC 9112 s6.3, s9.3
    """
    said = {b'connection': [], b'content-length': [], b'expect': [], b'transfer-encoding': []}
    lost = len(fields) > HTTP_FRAMING_MAX
    for name, value in fields[:HTTP_FRAMING_MAX]:
        lost = lost or len(value) > HTTP_VALUE_MAX
        said[name] += [part.strip() for part in value[:HTTP_VALUE_MAX].lower().split(b',')]
    matches = [HTTP_LENGTH.match(each) for each in said[b'content-length']]
    lengths = {int(match.group(1)) if match else -1 for match in matches}
    modern = request.modern
    close = b'close' in said[b'connection'] or not (modern or b'keep-alive' in said[b'connection'])
    length = 0
    if said[b'transfer-encoding']:
        # With a length beside it, or from HTTP/1.0, the body is read and the connection
        # not trusted any further (RFC 9112 s6.1)
        close = close or bool(lengths) or not modern
        length = -1
        lost = lost or said[b'transfer-encoding'][-1] != b'chunked'
    elif lengths:
        length = lengths.pop()
        lost = lost or bool(lengths) or length < 0
    if lost or request.verb == b'CONNECT':          # whose body is another's (RFC 9110 s9.3.6)
        length = 0
    return request._replace(close=close or lost, eager=b'100-continue' in said[b'expect'],
                            length=length)


@functools.lru_cache(maxsize=8)
def pack_http_date(second):
    """Unix time -> IMF-fixdate, English whatever the locale; source RFC 9110 s5.6.7."""
    year, month, day, hour, minute, sec, weekday = time.gmtime(second)[:7]
    return ('%s, %02d %s %04d %02d:%02d:%02d GMT' % (
        HTTP_DAYS[weekday], day, HTTP_MONTHS[month - 1], year, hour, minute, sec)).encode()


def pack_http(page, request, second, host):
    """What a HttpRequest of that second is answered with -> octets; to HEAD without the body."""
    head, body = fill_page(None if host.http_401 else page, host)
    head %= pack_http_date(second), b'close' if request.close else b'keep-alive'
    return head if request.verb == b'HEAD' else head + body


@functools.lru_cache(maxsize=HTTP_KNOWN)
def fill_page(page, host):
    """Page of a Host, None: the 401 -> head that lacks the date and what Connection says, body."""
    if not page:                            # lines of the original end with LF
        return HTTP_401_HEAD.replace(b'\r', b'' if host.original else b'\r'), HTTP_401_PAGE
    body = page.body.replace(b'$name', host.host_name).replace(b'$uuid', host.uuid)
    rows = page.fields.replace(b'$name', host.host_name)
    if page.status not in HTTP_BODILESS:
        rows += b'Content-Type: %s\r\nContent-Length: %d\r\n' % (page.type, len(body))
    return HTTP_HEAD % (page.status, HTTP_STATUSES[page.status], host.server.replace(b'%', b'%%'),
                        rows.replace(b'%', b'%%')), body


def is_http(data, peer):
    """The request line, or what there is of it, may be HTTP's: SIP and RTSP have verbs of it."""
    begin, ended, _ = data[:HTTP_HEAD_MAX].partition(b'\n')
    begin = begin.rstrip(b'\r')
    if peer.transport == UDP:
        match = HTTP_START.match(begin) if ended else None
        return match is not None and match.group('verb') in HTTP_DATAGRAMS
    if not data.startswith(HTTP_SIGNATURES):        # a port of ours; nobody has greeted
        return peer.greeter is None and HTTP_TEXT.match(data) is not None
    return not ended or HTTP_START.match(begin) is not None or is_fault(begin, peer)


def is_fault(begin, peer) -> bool:
    """Whether a line that is no request line was meant for one: on a port of HTTP any is."""
    if peer.dport in HTTP_OWN:
        return begin.startswith(HTTP_SIGNATURES) or HTTP_TEXT.match(begin) is not None
    return HTTP_FAULTY.match(begin) is not None


@protocol('http', sig=HTTP_SIGNATURES + ('..',), port=HTTP_OWN, ref='RFC 9112 s2.1', check=is_http,
          most=HTTP_UDP_MOST)
def answer_http(data, peer):
    """Request of any kind -> a page of ours, or why there is none.

    data     lines, which end in CR LF or LF alone, and a body
    state    None between requests; HttpBody
    returns  head and page; before them 100 Continue to who expects it and has a body, even
             if that is here already: the answers shall not depend on how the pieces fall
    """
    if peer.state:
        return peer.state.read(data, peer)
    if data.endswith(HTTP_ENDS) and len(data) <= HTTP_KNOWN_MAX and peer.transport == TCP:
        port = peer.dport if peer.dport in HTTP_PAGED_PORTS else 0
        known = reply_known(data, peer.second, peer.host, port)
        if known:
            if peer.host.events is not None:
                peer.note('request', **known[1])
            return known[0]
    at = HTTP_BLANK.match(data).end()
    if not data.startswith(HTTP_SIGNATURES, at) and not HTTP_TEXT.match(data, at):
        return None
    found = HTTP_END.search(data, at, at + HTTP_HEAD_MAX)
    if not found:
        return wait_http(data[at:], at, peer)
    head = data[at:found.end()]
    request = (read_http if len(head) <= HTTP_KNOWN_MAX else read_http.__wrapped__)(head)
    if not request:
        if not is_fault(head.partition(b'\n')[0].rstrip(b'\r'), peer):
            return None
        request = refuse_http(400)
    return answer_http_head(request, found.end(), data, peer)


def wait_http(data, at, peer):
    """What there is of a head, after `at` octets of empty lines -> MORE, or why it cannot be one.
    """
    begin, ended, _ = data[:HTTP_HEAD_MAX].partition(b'\n')
    begin = begin.rstrip(b'\r')
    fault = 0
    if ended and not HTTP_START.match(begin):       # before its length, as in pieces
        if not is_fault(begin, peer):
            return None
        fault = 400
    elif len(data) >= HTTP_HEAD_MAX:
        fault = 431 if ended else 414
    if fault and peer.transport == TCP:
        return answer_http_head(refuse_http(fault), at + len(data), data, peer)
    return Reply(used=at) if at else MORE


def answer_http_head(request, end, data, peer):
    """A head that ends at `end` -> the answer, or what there is to say before the body."""
    if peer.transport == UDP:           # one datagram, one answer: there is no handshake
        if request.fault:
            return None
        page = make_page(request, data[end:end + HTTP_BODY_MAX], peer)
        if isinstance(page, Reply):
            page = make_status(405)
        note_http(request, data[end:], page, peer)
        return shorten_http(pack_http(page, request, peer.second, peer.host),
                            HTTP_UDP_MOST * len(data))
    if not request.length:
        return finish_http(request, b'', end, peer)
    peer.state = HttpBody(request)
    return Reply(HTTP_CONTINUE if request.eager and request.modern else b'', end)


def finish_http(request, body, used, peer):
    """A request that is whole, as much of its body as is kept -> Reply."""
    page = make_page(request, body, peer)
    note_http(request, body, page, peer)
    if isinstance(page, Reply):
        return page._replace(used=used)
    return Reply(pack_http(page, request, peer.second, peer.host), used, 0, request.close)


@functools.lru_cache(maxsize=HTTP_KNOWN)
def reply_known(data, second, host, port):
    """Octets that are one whole request -> Reply in that second, what is noted; None: it depends.

    So it is where there is a body, or a login, or what is more than a page, or an odd method.
    """
    request = read_http(data) if data.startswith(HTTP_SIGNATURES) else None
    if not request or request.length or request.fault or HTTP_PASSWORD.search(request.target):
        return None
    if b'authorization' in request.fields or b'proxy-authorization' in request.fields:
        return None
    page = find_page(request, port)
    if callable(page) and not host.http_401:
        return None
    return (Reply(pack_http(page, request, second, host), len(data), 0, request.close),
            describe_http(request, page, host))


def describe_http(request, page, host):
    """HttpRequest, Page that answers it, None: the 401, or a Reply -> the fields of its note."""
    noted = {'method': request.verb, 'path': request.target[:HTTP_NOTED_MAX],
             'host': request.fields.get(b'host', b''),
             'agent': request.fields.get(b'user-agent', b''), 'head': request.head}
    if not isinstance(page, Reply):
        noted['status'] = 401 if host.http_401 or not page else page.status
        noted['length'] = 0 if request.verb == b'HEAD' else len(
            fill_page(None if host.http_401 else page, host)[1])
    return noted


def note_http(request, body, page, peer):
    """Note a request with the Page that answers it, and what it offers to log in with."""
    if peer.host.events is None or request.fault:
        return
    noted = describe_http(request, page, peer.host)
    if body:
        noted['body'] = body[:HTTP_NOTED_MAX]
    peer.note('request', **noted)
    for name in b'authorization', b'proxy-authorization':
        scheme = request.fields.get(name, b'').partition(b' ')[0].lower()
        if scheme and scheme not in NTLM_SCHEMES:           # which take more than one message
            note_authorization(peer, request.fields[name])
    note_form(request.target.partition(b'?')[2], body[:HTTP_NOTED_MAX], peer)


def note_form(query, body, peer):
    """Note what fields of a form, or of JSON, offer to log in with."""
    text = b'&%s&%s' % (query, body)
    user, password = HTTP_USER.search(text), HTTP_PASSWORD.search(text)
    if user and password:
        user, password = (HTTP_ESCAPED.sub(lambda found: bytes((int(found.group(1), 16),)),
                                           each.group(1)) for each in (user, password))
        peer.note('credentials', user=user, password=password)


def shorten_http(answer, most):
    """An answer -> as much of it as fits: all, the head, the status line, or nothing."""
    head, empty, _ = answer.partition(b'\n\n' if b'\r' not in answer else b'\r\n\r\n')
    for part in answer, head + empty, answer[:answer.index(b'\n') + 1]:
        if len(part) <= most:
            return part
    return None


class HttpBody:
    """What is read between a head and its answer: a body, of a length or in chunks.

    request HttpRequest
    parse   function(self, line) -> octets of the chunk after it; None: all lines are read
    left    octets the lines may still take
    due     octets of the body, or the chunk, that come next
    body    what is kept of it
    close   the framing leaves no choice
    """
    __slots__ = 'request', 'parse', 'left', 'due', 'body', 'close'

    def __init__(self, request):
        self.request, self.close = request, request.close
        self.parse = HttpBody.parse_size if request.length < 0 else None
        self.left, self.due, self.body = HTTP_CHUNK_MAX, max(request.length, 0), b''

    def cost(self):
        """Octets that it keeps: itself, what it points to, the body."""
        return 1500 + len(self.body)

    def read(self, data, peer):
        """More of the body, at most HTTP_CHUNK_LINES lines of a chunked one -> Reply, or MORE."""
        at = count = 0
        while (self.parse or self.due) and count < HTTP_CHUNK_LINES:
            if self.due:
                part = data[at:at + min(self.due, HTTP_BODY_MAX - len(self.body))]
                if not part:
                    break
                self.body += part
                at += len(part)
                self.due -= len(part)
                if self.due and len(self.body) >= HTTP_BODY_MAX:
                    return self.skip(at)
                continue
            count += 1
            end = data.find(b'\n', at) + 1
            if (end or len(data)) - at > self.left:
                self.spoil()
            elif not end:
                break
            else:
                self.left -= end - at
                self.due = self.parse(self, data[at:end].rstrip(b'\r\n'))
                at = end
                if len(self.body) >= HTTP_BODY_MAX and self.due:
                    return self.skip(at)
        if self.parse or self.due:
            return Reply(used=at) if at else MORE
        peer.state = None
        return finish_http(self.request._replace(close=self.close), self.body, at, peer)

    def skip(self, used):
        """Enough is kept: what is due passes by -> Reply."""
        due, self.due = self.due, 0
        return Reply(used=used, skip=due)

    def spoil(self):
        """No telling where the next request begins: answer this one, then close."""
        self.parse, self.close = None, True
        return 0

    def parse_size(self, text):
        """Chunk size, extensions -> octets of the chunk; 0 ends the body (RFC 9112 s7.1)."""
        match = HTTP_SIZE.match(text)
        if not match:
            return self.spoil()
        size = int(match.group(1), 16)
        if size:
            self.parse, self.left = HttpBody.parse_gap, HTTP_CHUNK_MAX
        else:
            self.parse, self.left = HttpBody.parse_trailer, HTTP_HEAD_MAX
        return size

    def parse_gap(self, text):
        """The line end after a chunk -> nothing."""
        if text:
            return self.spoil()
        self.parse = HttpBody.parse_size
        return 0

    def parse_trailer(self, text):
        """Trailer field -> nothing; the empty line ends the request."""
        if not text:
            self.parse = None
        return 0


# ---- http: pages ---------------------------------------------------------------------
#
# Paths and forms of answers are those that clients of many products ask for
# and take; the words are ours, and nobody is let in anywhere.

HTTP_STATUSES = {                       # RFC 9110 s15, RFC 4918 s11.1, RFC 6585 s5
    101: b'Switching Protocols', 200: b'OK', 201: b'Created', 204: b'No Content',
    207: b'Multi-Status', 302: b'Found', 400: b'Bad Request', 401: b'Unauthorized',
    403: b'Forbidden', 404: b'Not Found', 405: b'Method Not Allowed', 414: b'URI Too Long',
    431: b'Request Header Fields Too Large', 500: b'Internal Server Error',
    501: b'Not Implemented', 505: b'HTTP Version Not Supported'}
HTTP_BODILESS = 204, 304                # RFC 9110 s6.4.1
HTTP_DEPTH = 6                          # folders of a path that are looked for
HTML, TEXT, JSON, XML = b'text/html', b'text/plain', b'application/json', b'text/xml'

# An answer: number, Content-Type, body, further fields.  $name in the last two is our name, $uuid
# in the body a number of our own.
Page = collections.namedtuple('Page', 'status type body fields')
Page.__new__.__defaults__ = b'',

HTTP_ALLOW = b'Allow: GET, HEAD, POST, OPTIONS, PROPFIND\r\n'
HTTP_BASIC = b'WWW-Authenticate: Basic realm="$name"\r\n'
HTTP_FORM = (
    b'<!DOCTYPE html>\n<html><head><title>$name</title></head>\n<body><h1>$name</h1>%s\n'
    b'<form method="post" action="/login">\n<p>User <input name="username">\n'
    b'<p>Password <input type="password" name="password">\n'
    b'<p><input type="submit" value="Log in">\n</form></body></html>\n')
HTTP_LOGIN, HTTP_FAILED = HTTP_FORM % b'', HTTP_FORM % b'<p>Login incorrect'
HTTP_DAV = (                            # RFC 4918 s14
    b'<?xml version="1.0"?>\n<D:multistatus xmlns:D="DAV:"><D:response><D:href>/</D:href>'
    b'<D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop>'
    b'<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>\n')
HTTP_DEVICE = (                         # UPnP Device Architecture 2.0 s2.3
    b'<?xml version="1.0"?>\n<root xmlns="urn:schemas-upnp-org:device-1-0">'
    b'<specVersion><major>1</major><minor>0</minor></specVersion><device>'
    b'<deviceType>urn:schemas-upnp-org:device:Basic:1</deviceType>'
    b'<friendlyName>$name</friendlyName><manufacturer>$name</manufacturer>'
    b'<modelName>$name</modelName><UDN>uuid:$uuid</UDN></device></root>\n')
KUBE_NO = (b'{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",'
           b'"message":"%s","reason":"%s","code":%d}')


def make_status(status):
    """A number -> the Page that says no more than it."""
    text = b'%d %s' % (status, HTTP_STATUSES[status])
    return Page(status, HTML, b'<html><head><title>%s</title></head><body>%s</body></html>\n'
                % (text, text), HTTP_ALLOW if status == 405 else b'')


# ---- http: answers -------------------------------------------------------------------
#
# Functions (request, body, peer) -> Page or Reply, for what is more than a page.

HTTP_GRANTED = b'HTTP/1.1 200 Connection established\r\n\r\n'
HTTP_SOURCES = (b'SOURCETABLE 200 OK\r\nServer: %s\r\nContent-Type: text/plain\r\n'
                b'Content-Length: 16\r\n\r\nENDSOURCETABLE\r\n')
HTTP_SOAP = b'<?xml version="1.0"?>\n<s:Envelope xmlns:s="%s"><s:Body>%s</s:Body></s:Envelope>\n'
SOAP11 = b'http://schemas.xmlsoap.org/soap/envelope/'
SOAP12 = b'http://www.w3.org/2003/05/soap-envelope'
SOAP_USER = re.compile(br'<[a-z:]*Username[^<>]{0,64}>([^<]{0,256})<', re.I)
SOAP_PASSWORD = re.compile(br'<[a-z:]*Password[^<>]{0,256}>([^<]{0,256})<', re.I)
# UPnP Device Architecture 2.0 s3.2.5: an action that we do not have
SOAP_INVALID = (
    b'<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>'
    b'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>401</errorCode>'
    b'<errorDescription>Invalid Action</errorDescription></UPnPError></detail></s:Fault>')
# ONVIF Core Specification s5.9.3: of a stranger
SOAP_STRANGER = (
    b'<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode>'
    b'<s:Value xmlns:ter="http://www.onvif.org/ver10/error">ter:NotAuthorized</s:Value>'
    b'</s:Subcode></s:Code>'
    b'<s:Reason><s:Text xml:lang="en">Sender not authorized</s:Text></s:Reason></s:Fault>')
# DSP0226 s11: what Identify asks for
SOAP_IDENTITY = (
    b'<w:IdentifyResponse '
    b'xmlns:w="http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd">'
    b'<w:ProtocolVersion>http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd</w:ProtocolVersion>'
    b'<w:ProductVendor>$name</w:ProductVendor><w:ProductVersion>1.0</w:ProductVersion>'
    b'</w:IdentifyResponse>')
CWMP_ID = re.compile(br'<cwmp:ID[^<>]{0,128}>([\w.:-]{1,64})</')
# TR-069 A.5.1: 9003, invalid arguments
CWMP_FAULT = (
    b'<?xml version="1.0"?>\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
    b'xmlns:cwmp="urn:dslforum-org:cwmp-1-0"><s:Header><cwmp:ID s:mustUnderstand="1">%s</cwmp:ID>'
    b'</s:Header><s:Body><s:Fault><faultcode>Client</faultcode><faultstring>CWMP fault'
    b'</faultstring><detail><cwmp:Fault><FaultCode>9003</FaultCode><FaultString>Invalid arguments'
    b'</FaultString></cwmp:Fault></detail></s:Fault></s:Body></s:Envelope>\n')
XML_RPC_FAULT = (                       # XML-RPC specification, fault example
    b'<?xml version="1.0"?>\n<methodResponse><fault><value><struct><member><name>faultCode</name>'
    b'<value><int>403</int></value></member><member><name>faultString</name><value><string>'
    b'Login incorrect</string></value></member></struct></value></fault></methodResponse>\n')
XML_RPC_STRING = re.compile(br'<string>([^<]{1,256})</string>')

# JSON-RPC 2.0 s4; no parser of JSON is as quick to stop
JSON_METHOD = re.compile(br'"method"\s*:\s*"([\w./-]{1,64})"')
JSON_ID = re.compile(br'"id"\s*:\s*("[\w.:-]{0,64}"|-?[0-9]{1,18}|null)')
JSON_RESULTS = {
    b'eth_accounts': b'[]', b'eth_blockNumber': b'"0x0"', b'eth_chainId': b'"0x1"',
    b'eth_gasPrice': b'"0x0"', b'eth_syncing': b'false', b'net_listening': b'true',
    b'net_peerCount': b'"0x0"', b'net_version': b'"1"', b'personal_listAccounts': b'[]',
    b'web3_clientVersion': b'"$name"', b'getblockcount': b'0',
    b'getblockchaininfo': b'{"blocks":0}',
    b'get_block_count': b'{"count":0,"status":"OK"}', b'get_info': b'{"height":0,"status":"OK"}',
    b'initialize': b'{"protocolVersion":"2025-03-26","capabilities":{},'
                   b'"serverInfo":{"name":"$name","version":"1.0"}}',
    b'ping': b'{}', b'tools/list': b'{"tools":[]}', b'resources/list': b'{"resources":[]}',
    b'prompts/list': b'{"prompts":[]}'}

IPP = b'application/ipp'
IPP_HEAD = struct.Struct('!2sHI')       # RFC 8010 s3.1.1: version operation request-id
IPP_ATTRIBUTES = 0x000b                 # RFC 8011 s5.4.15: Get-Printer-Attributes
IPP_READS = 0x0009, 0x000a, IPP_ATTRIBUTES, 0x4001, 0x4002     # Get-...; CUPS has two more
IPP_OK, IPP_FORBIDDEN = 0, 0x0401       # RFC 8011 appendix B
IPP_CHARSET, IPP_LANGUAGE = 0x47, 0x48  # RFC 8010 s3.5.2: tags of values
IPP_NAME, IPP_ENUM, IPP_BOOLEAN, IPP_KEYWORD = 0x42, 0x23, 0x22, 0x44

WEBSOCKET_GUID = b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11'        # RFC 6455 s1.3
WEBSOCKET_SWITCH = (b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n'
                    b'Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n')
WEBSOCKET_WIDE = {126: 2, 127: 8}       # s5.2: where the length is longer, octets of it
WEBSOCKET_PAYLOAD = 125                 # octets of a control frame
WEBSOCKET_EMPTY = b'\x81\0'             # a text of ours that is empty
WEBSOCKET_PROTEST = b'\x88\2\x03\xea'   # s7.4.1: 1002, protocol error

SSTP_GRANTED = b'HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\nServer: %s\r\n\r\n'


def connect_http(request, body, peer):
    """CONNECT -> granted; what follows we answer ourselves."""
    port = request.target.rpartition(b':')[2][:6]
    return grant_way(peer, HTTP_GRANTED, None, int(port) if port.isdigit() else 0)


def begin_sstp(request, body, peer):
    """The longest body there is, both ways (MS-SSTP s3.2.4.1) -> what follows is no more HTTP."""
    return Reply(SSTP_GRANTED % peer.host.server, again=True)


def list_sources(request, body, peer):
    """A client of NTRIP 1.0 -> no streams."""
    return Reply(HTTP_SOURCES % peer.host.server, close=True)


def ask_ntlm(request, body, peer):
    """A path of those that log on with NTLM -> a challenge; its answer -> 401 again."""
    scheme, _, token = request.fields.get(b'authorization', b'').partition(b' ')
    given = None
    if scheme.lower() in NTLM_SCHEMES:
        given = pack_logon_step(read_base64(token), peer)
    fields = b'WWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\n' + HTTP_BASIC
    if given:
        fields = b'WWW-Authenticate: %s %s\r\n' % (
            scheme, codecs.encode(given, 'base64').replace(b'\n', b''))
    return make_status(401)._replace(fields=fields)


def ask_digest(request, body, peer):
    """A path of a camera -> a challenge of Digest (RFC 7616 s3.3)."""
    return make_status(401)._replace(
        fields=b'WWW-Authenticate: Digest realm="$name", qop="auth", nonce="%s"\r\n'
        % peer.host.random(16).hex().encode())


def manage_container(request, body, peer):
    """An order about containers -> it is done, so that the next one comes."""
    order = request.target.partition(b'?')[0].rpartition(b'/')[2]
    if request.verb != b'POST':
        return make_status(404)
    if order in (b'create', b'exec'):
        number = peer.host.random(32).hex().encode()
        return Page(201, JSON, b'{"Id":"%s","Warnings":[]}' % number)
    return Page(204, JSON, b'')


def answer_json_rpc(request, body, peer):
    """A call -> a result without anything in it, or that there is no such method."""
    method, ident = JSON_METHOD.search(body), JSON_ID.search(body)
    result = JSON_RESULTS.get(method.group(1)) if method else None
    said = b'"result":%s' % result if result else b'"error":{"code":-32601,"message":"not found"}'
    return Page(200, JSON, b'{"jsonrpc":"2.0","id":%s,%s}' % (
        ident.group(1) if ident else b'null', said))


def answer_soap(request, body, peer):
    """A call -> the fault of its kind; Identify -> who we are."""
    if b'urn:dslforum-org:cwmp' in body:
        ident = CWMP_ID.search(body)
        return Page(200, XML, CWMP_FAULT % (ident.group(1) if ident else b'1'))
    if b'wsmanidentity' in body:
        return Page(200, b'application/soap+xml', HTTP_SOAP % (SOAP12, SOAP_IDENTITY))
    user, password = SOAP_USER.search(body), SOAP_PASSWORD.search(body)
    if user:
        peer.note('credentials', user=user.group(1),
                  password=password.group(1) if password else b'')
    if b'onvif.org' in body:
        return Page(400, b'application/soap+xml', HTTP_SOAP % (SOAP12, SOAP_STRANGER))
    return Page(500, XML, HTTP_SOAP % (SOAP11, SOAP_INVALID))


def answer_xml_rpc(request, body, peer):
    """A call -> its login is incorrect."""
    login = XML_RPC_STRING.findall(body, 0, HTTP_NOTED_MAX)
    if len(login) > 1:
        peer.note('credentials', user=login[0], password=login[1])
    return Page(200, XML, XML_RPC_FAULT)


def pack_ipp(tag, name, value):
    """An attribute of one value (RFC 8010 s3.1.4)."""
    return bytes((tag,)) + sized(name) + sized(value)


def answer_ipp(request, body, peer):
    """A question -> a printer that is idle; a job -> forbidden."""
    if len(body) < IPP_HEAD.size:
        return make_status(400)
    version, operation, number = IPP_HEAD.unpack_from(body)
    out = IPP_HEAD.pack(version, IPP_OK if operation in IPP_READS else IPP_FORBIDDEN, number)
    out += (b'\1' + pack_ipp(IPP_CHARSET, b'attributes-charset', b'utf-8')
            + pack_ipp(IPP_LANGUAGE, b'attributes-natural-language', b'en'))
    if operation == IPP_ATTRIBUTES:
        out += (b'\4' + pack_ipp(IPP_NAME, b'printer-name', peer.host.host_name)
                + pack_ipp(IPP_ENUM, b'printer-state', b'\0\0\0\3')
                + pack_ipp(IPP_KEYWORD, b'printer-state-reasons', b'none')
                + pack_ipp(IPP_BOOLEAN, b'printer-is-accepting-jobs', b'\1'))
    return Page(200, IPP, out + b'\3')


def accept_websocket(request, body, peer):
    """Upgrade with a key -> the connection speaks in frames (RFC 6455 s4.2.2)."""
    accepted = hashlib.sha1(request.fields[b'sec-websocket-key'] + WEBSOCKET_GUID).digest()
    peer.state = WebSocket()
    return Reply(WEBSOCKET_SWITCH % codecs.encode(accepted, 'base64').strip())


class WebSocket:
    """What is read behind an upgrade: frames."""
    __slots__ = ()

    @staticmethod
    def cost():
        """Octets that it keeps."""
        return 16

    @staticmethod
    def read(data, peer):
        """A frame -> an empty text to a message, its kind of answer to ping and close.

        source  RFC 6455 s5.2, s5.5
        """
        if len(data) < 2:
            return MORE
        code, size = data[0] & 15, data[1] & 0x7f
        at = 2 + WEBSOCKET_WIDE.get(size, 0)
        if not data[1] & 0x80 or (code & 8 and size > WEBSOCKET_PAYLOAD):
            return Reply(WEBSOCKET_PROTEST, close=True)
        if size > WEBSOCKET_PAYLOAD and len(data) >= at:
            size = int.from_bytes(data[2:at], 'big')
        begin = at + 4
        end = begin + min(size, HTTP_NOTED_MAX)
        if len(data) < end:
            return MORE
        text = unmask(data[begin:end], data[at:begin])
        if code & 8:
            out = bytes((0x88 if code == 8 else 0x8a, len(text))) + text
            return Reply(out if code < 10 else b'', end, close=code == 8)
        peer.note('command', words=text)
        return Reply(WEBSOCKET_EMPTY if data[0] & 0x80 else b'', end, size - len(text))


def unmask(data, key):
    """Octets of a client's frame -> what they are (RFC 6455 s5.3)."""
    keys = (key * (len(data) // 4 + 1))[:len(data)]
    return (from_octets(data, 'big') ^ from_octets(keys, 'big')).to_bytes(len(data), 'big')


# ---- http: paths ---------------------------------------------------------------------

# What is found where.  Paths in lower case; /* at the end stands for all below, a port in front
# for ours.
HTTP_TABLE = [
    (b'/ /index.html /index.htm /index.php /index.jsp /login /login/* /login.html /login.php'
     b' /signin /admin /admin/* /administrator/* /wp-login.php /wp-admin/* /user/login /auth/*'
     b' /remote/login /dana-na/* /vpn/* /+cscoe+/* /global-protect/* /sslvpn/* /portal/*',
     200, HTML, HTTP_LOGIN),
    (b'/robots.txt', 200, TEXT, b'User-agent: *\nDisallow: /\n'),
    (b'/owa /owa/* /ecp /ecp/*', 302, TEXT, b'', b'Location: /auth/logon\r\n'),
    (b'/phpmyadmin /phpmyadmin/* /pma /pma/* /manager/* /host-manager/* /solr/* /actuator/* /env'
     b' /nagios/* /stats /server-status', 401, TEXT, b'', HTTP_BASIC),
    (b'/boaform/* /gponform/* /cgi-bin/* /goform/* /setup.cgi /shell /vendor/* /tmui/*', 200, TEXT,
     b''),
    (b'/actuator', 200, JSON, b'{"_links":{"self":{"href":"/actuator"}}}'),
    (b'/actuator/health /health', 200, JSON, b'{"status":"UP"}'),
    (b'/healthz /livez /readyz', 200, TEXT, b'ok'),
    (b'/solr/admin/info/system', 200, JSON, b'{"responseHeader":{"status":0,"QTime":0}}'),
    # search engines
    (b'9200/', 200, JSON, b'{"name":"$name","cluster_name":"$name","cluster_uuid":"_na_",'
     b'"version":{"number":"8.11.0"}}'),
    (b'/_cat/*', 200, TEXT, b''),
    (b'/_search /_all/_search', 200, JSON,
     b'{"took":0,"timed_out":false,"hits":{"total":{"value":0,"relation":"eq"},"hits":[]}}'),
    (b'/_cluster/health', 200, JSON, b'{"cluster_name":"$name","status":"green","timed_out":false,'
     b'"number_of_nodes":1,"number_of_data_nodes":1,"active_shards":0}'),
    (b'/_nodes /_nodes/*', 200, JSON, b'{"cluster_name":"$name","nodes":{}}'),
    # containers: Docker Engine API 1.43, OCI Distribution Specification 1.1
    (b'/_ping', 200, TEXT, b'OK', b'Api-Version: 1.43\r\nOSType: linux\r\n'),
    (b'/version', 200, JSON, b'{"Version":"24.0.7","ApiVersion":"1.43","MinAPIVersion":"1.12",'
     b'"Os":"linux","Arch":"amd64"}'),
    (b'/info', 200, JSON, b'{"ID":"$name","Name":"$name","Containers":0,"Images":0,'
     b'"OSType":"linux","Architecture":"x86_64","ServerVersion":"24.0.7"}'),
    (b'/containers/json /images/json /networks /plugins', 200, JSON, b'[]'),
    (b'/volumes', 200, JSON, b'{"Volumes":[],"Warnings":[]}'),
    (b'/v2/', 200, JSON, b'{}', b'Docker-Distribution-Api-Version: registry/2.0\r\n'),
    (b'/v2/_catalog', 200, JSON, b'{"repositories":[]}'),
    (b'/v2/*', 404, JSON, b'{"errors":[{"code":"NAME_UNKNOWN","message":"unknown"}]}'),
    # Kubernetes: what a stranger gets
    (b'/api /api/v1/* /apis /apis/*', 403, JSON, KUBE_NO % (b'forbidden', b'Forbidden', 403)),
    (b'/pods /runningpods/* /metrics', 401, JSON,
     KUBE_NO % (b'Unauthorized', b'Unauthorized', 401)),
    (b'6443/version 10250/version', 200, JSON, b'{"major":"1","minor":"28","gitVersion":"v1.28.4",'
     b'"platform":"linux/amd64"}'),
    # stores of keys
    (b'2379/version', 200, JSON, b'{"etcdserver":"3.5.9","etcdcluster":"3.5.0"}'),
    (b'/v2/keys /v2/keys/*', 200, JSON, b'{"action":"get","node":{"dir":true}}'),
    (b'/v3/kv/range /v3beta/kv/range', 200, JSON, b'{"header":{"revision":"1"}}'),
    (b'/v1/agent/* /v1/catalog/* /v1/kv/*', 403, TEXT, b'Permission denied\n'),
    (b'/v1/sys/health', 200, JSON, b'{"initialized":true,"sealed":false,"standby":false}'),
    # language models
    (b'/api/tags /api/ps', 200, JSON, b'{"models":[]}'),
    (b'/api/version', 200, JSON, b'{"version":"0.5.0"}'),
    (b'/v1/models', 200, JSON, b'{"object":"list","data":[]}'),
    (b'/api/generate /api/chat /api/show', 404, JSON, b'{"error":"model not found"}'),
    (b'/v1/chat/* /v1/completions /v1/embeddings', 401, JSON,
     b'{"error":{"message":"no such key","type":"invalid_request_error"}}'),
    # devices
    (b'/rootdesc.xml /picsdesc.xml /wanipcn.xml /gatedesc.xml /igd.xml /igddesc.xml'
     b' /description.xml /devicedesc.xml /desc.xml', 200, XML, HTTP_DEVICE),
    (b'/hnap1 /hnap1/*', 200, XML, HTTP_SOAP % (SOAP11, b'')),
    (b'7547/ 30005/', 204, TEXT, b''),
    # more than pages
    (b'/autodiscover/* /ews/* /rpc/* /mapi/* /oab/* /powershell/* /wsman'
     b' /microsoft-server-activesync /microsoft-server-activesync/*', ask_ntlm),
    (b'/isapi/* /onvif-http/*', ask_digest),
    (b'/containers/* /exec/* /images/*', manage_container),
]
HTTP_PAGES = {path: row[1] if callable(row[1]) else Page(*row[1:])
              for row in HTTP_TABLE for path in row[0].split()}
HTTP_BODIES = [                         # what a body says of itself goes before a path's page
    (re.compile(br'\s*[\[{].{0,4096}"jsonrpc"', re.S), answer_json_rpc),
    (re.compile(br'.{0,1024}<[\w.-]{0,16}:?Envelope[\s>]', re.S | re.I), answer_soap),
    (re.compile(br'.{0,1024}<methodCall>', re.S), answer_xml_rpc)]
HTTP_PAGED_PORTS = frozenset(int(path.partition(b'/')[0])
                             for path in HTTP_PAGES if path[:1].isdigit())
HTTP_VERSIONED = re.compile(br'/v1\.[0-9]{1,3}(?=/)')           # Docker Engine API: of a path
HTTP_UPWARDS = re.compile(br'/cgi-bin/.*(?:\.\.|%2e|%%32|%c0)', re.S)   # out of a folder
HTTP_RUN = re.compile(br'invokefunction|eval-stdin|call_user_func')     # code to run

HTTP_UNKNOWN = make_status(404)
HTTP_METHODS = {                        # what is answered without a look at the path
    b'CONNECT': connect_http, b'SSTP_DUPLEX_POST': begin_sstp, b'RPC_IN_DATA': ask_ntlm,
    b'RPC_OUT_DATA': ask_ntlm,
    b'OPTIONS': Page(200, TEXT, b'', HTTP_ALLOW + b'DAV: 1\r\n'),
    **dict.fromkeys((b'PUT', b'PATCH', b'DELETE', b'MKCOL', b'COPY', b'MOVE', b'LOCK', b'UNLOCK',
                     b'PROPPATCH'), make_status(403)),
    **dict.fromkeys((b'TRACE', b'TRACK', b'DEBUG', b'SEARCH', b'REPORT', b'BPROPFIND', b'SOURCE',
                     b'PURGE', b'CCM_POST', b'SUBSCRIBE', b'UNSUBSCRIBE', b'NOTIFY'),
                    make_status(405))}


def find_page(request, port):
    """HttpRequest, our port -> Page, or function(request, body, peer) that makes it."""
    if request.fault:
        return make_status(request.fault)
    if request.verb not in HTTP_READS and request.verb != b'PROPFIND':
        return HTTP_METHODS.get(request.verb) or make_status(501)
    if b'sec-websocket-key' in request.fields and request.verb == b'GET':
        return accept_websocket
    if request.fields.get(b'user-agent', b'').startswith(b'NTRIP'):
        return list_sources
    path = request.target.lower()
    if path[:1] != b'/':
        path = HTTP_AUTHORITY.sub(b'', path, 1) or b'/'
    path, _, query = path.partition(b'?')
    if request.verb == b'PROPFIND':
        return Page(207, XML, HTTP_DAV) if path == b'/' else HTTP_UNKNOWN
    if b'/cgi-bin/' in path and HTTP_UPWARDS.match(path):
        return make_status(403)
    if query and HTTP_RUN.search(query):
        return Page(200, TEXT, b'')
    if port in HTTP_PAGED_PORTS and b'%d%s' % (port, path) in HTTP_PAGES:
        return HTTP_PAGES[b'%d%s' % (port, path)]
    return find_path(path)


def find_path(path):
    """Path in lower case -> what the table has for it, or for the nearest folder around it."""
    if path.startswith(b'/v1.'):
        path = HTTP_VERSIONED.sub(b'', path, 1)
    page = HTTP_PAGES.get(path)
    end = len(path)
    for _ in range(HTTP_DEPTH):
        end = path.rfind(b'/', 0, end)
        if page or end <= 0:
            break
        page = HTTP_PAGES.get(path[:end] + b'/*')
    return page or HTTP_UNKNOWN


def make_page(request, body, peer):
    """HttpRequest, what is kept of its body -> Page, or a Reply that is more than one."""
    if peer.host.http_401:
        return None
    page = find_page(request, peer.dport)
    if callable(page):
        return page(request, body, peer)
    if not body or request.verb != b'POST' or page.type == XML:
        return page
    answer = find_answer(request.fields.get(b'content-type', b'').lower(), body)
    if answer:
        return answer(request, body, peer)
    if page.body is HTTP_LOGIN and request.target != b'/':
        return page._replace(body=HTTP_FAILED)
    return page


def find_answer(kind, body):
    """Content-Type, body of a POST -> the function that its form asks for, or None."""
    if kind.startswith(IPP):
        return answer_ipp
    for form, answer in HTTP_BODIES:
        if form.match(body):
            return answer
    return None


# ---- http2 ---------------------------------------------------------------------------

HTTP2_PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'             # RFC 9113 s3.4
HTTP2_HEAD = struct.Struct('!HBBBI')    # s4.1: length (24 bits in two) type flags stream
HTTP2_HEADERS, HTTP2_SETTINGS, HTTP2_PING, HTTP2_GOAWAY = 1, 4, 6, 7        # s6
HTTP2_ACK, HTTP2_WHOLE = 1, 5           # s6.2: the fields and the stream end with this frame
# RFC 7541 s6.2.2, appendix A: names of its table, 8 and its value, 54 without
HTTP2_STATUS, HTTP2_SERVER = b'\x08\x03505', b'\x0f\x27'


def pack_http2(kind, flags, stream, payload=b''):
    """One frame."""
    return HTTP2_HEAD.pack(0, len(payload), kind, flags, stream) + payload


def size_http2(data):
    """The preface, then frames."""
    if data[:3] == HTTP2_PREFACE[:3]:
        return len(HTTP2_PREFACE)
    return HTTP2_HEAD.size + int.from_bytes(data[:3], 'big') if len(data) > 2 else None


@talk('http2', sig=(HTTP2_PREFACE,), port=(80, 443), size=size_http2,
      ref='RFC 9113 s3.4, s6, RFC 9110 s15.6.6')
def answer_http2(message, peer):
    """Preface -> settings; a request -> 505, this version is not supported."""
    if message == HTTP2_PREFACE:
        return pack_http2(HTTP2_SETTINGS, 0, 0)
    _, _, kind, flags, stream = HTTP2_HEAD.unpack_from(message)
    if kind in (HTTP2_SETTINGS, HTTP2_PING) and not flags & HTTP2_ACK:
        return pack_http2(kind, HTTP2_ACK, 0, message[9:17] if kind == HTTP2_PING else b'')
    if kind == HTTP2_HEADERS:
        fields = HTTP2_STATUS + HTTP2_SERVER + sized(peer.host.server, 1)
        return pack_http2(HTTP2_HEADERS, HTTP2_WHOLE, stream, fields)
    return (b'', SHUT) if kind == HTTP2_GOAWAY else b''


# ---- sstp ----------------------------------------------------------------------------

# MS-SSTP s2.2.11, s2.2.7: a NAK with one attribute: the protocol inside is not supported
SSTP_REFUSED = struct.pack('!HHHHHHBBBBI', 0x1001, 20, 3, 1, 2, 12, 0, 0, 0, 1, 4)


@talk('sstp', sig=('10 01 00 0e 00 01 00 01',), port=443, size=be(2, 2, 0),
      ref='MS-SSTP s2.2.9, s2.2.11')
def answer_sstp(message, peer):
    """A call, behind the head of HTTP -> refusal."""
    return SSTP_REFUSED, SHUT


family('Mail and news')


# ---- logins of text ------------------------------------------------------------------

SASL_USER, SASL_PASSWORD = b'VXNlcm5hbWU6', b'UGFzc3dvcmQ6'     # base64 of Username:, Password:
SASL_MECHANISMS = b'PLAIN', b'LOGIN'
DIGEST_USER = re.compile(br'username="([^"]{0,255})"')          # RFC 7616 s3.4


def refuse_login(peer, user, password, refusal):
    """Note what was offered -> the refusal."""
    peer.note('credentials', user=user, password=password)
    return refusal


def user_pass(prompt, refusal):
    """Replies of lines() to USER and to PASS, the login of RFC 959 and RFC 1939."""
    def take_user(rest, peer):
        peer.state = rest
        return prompt

    def take_password(rest, peer):
        return refuse_login(peer, peer.state or b'', rest, refusal)
    return {b'USER': take_user, b'PASS': take_password}


def read_base64(text):
    """Base64, as lax as can be -> octets; b'' if it is none."""
    try:
        return codecs.decode(text, 'base64')
    except ValueError:
        return b''


def parse_plain(text):
    """Response of the mechanism PLAIN -> user, password (RFC 4616 s2)."""
    parts = text.split(b'\0') + [b'', b'']
    return parts[1], parts[2]


def begin_sasl(rest, peer, prompt, key=b'sasl'):
    """Mechanism, perhaps a first response -> what to say next; b'' when it is over.

    prompt  a form for what we say in base64
    state   key, mechanism, user; the next line is for go_on_sasl()
    source  RFC 4422 s3; LOGIN: draft-murchison-sasl-login-00
    """
    mechanism, _, first = rest.partition(b' ')
    mechanism = mechanism.strip(b'"').upper()
    if mechanism not in SASL_MECHANISMS:
        return b''
    peer.state = key, mechanism, b''
    if first:
        return go_on_sasl(first, peer, prompt)
    return prompt % (SASL_USER if mechanism == b'LOGIN' else b'')


def go_on_sasl(line, peer, prompt):
    """A response in base64 -> the same."""
    key, mechanism, user = peer.state
    text = read_base64(line)
    if mechanism == b'LOGIN' and text and not user:
        peer.state = key, mechanism, text
        return prompt % SASL_PASSWORD
    peer.state = None
    if mechanism == b'PLAIN':
        user, text = parse_plain(text)
    if user or text:
        peer.note('credentials', user=user, password=text)
    return b''


def sasl_replies(verb, prompt, refusal):
    """Replies of lines() to a verb that begins a SASL exchange, and to what follows it."""
    return {verb: lambda rest, peer: begin_sasl(rest, peer, prompt) or refusal,
            b'sasl': lambda text, peer: go_on_sasl(text, peer, prompt) or refusal}


def note_authorization(peer, value):
    """Note what a field Authorization offers; source RFC 7617 s2, RFC 7616 s3.4."""
    scheme, _, rest = value.partition(b' ')
    if scheme.lower() == b'basic':
        user, _, password = read_base64(rest).partition(b':')
        peer.note('credentials', user=user, password=password)
    else:
        user = DIGEST_USER.search(rest)
        peer.note('credentials', user=user.group(1) if user else b'', digest=rest)


# ---- imap ----------------------------------------------------------------------------

IMAP_LINE = re.compile(br'([^\s(){%*"\\+]{1,32}) +([A-Za-z]+) *(.*)', re.S)     # RFC 9051 s9
IMAP_LITERAL = re.compile(br'\{[0-9]{1,4}(\+?)\}\Z')            # s4.3: the next line is its text
IMAP_CAPABILITY = b'CAPABILITY IMAP4rev1 LITERAL+ ID AUTH=PLAIN AUTH=LOGIN'
IMAP_REPLIES = {b'ID': b'* ID NIL\r\n', b'NOOP': b'', b'LOGOUT': b'* BYE Logging out\r\n'}
IMAP_REFUSAL = b' NO [AUTHENTICATIONFAILED] Authentication failed\r\n'


def imap_capability(peer):
    """-> what we can."""
    return IMAP_CAPABILITY + (b' STARTTLS' if peer.offers_tls else b'')


@talk('imap', sig=('..',), words=(b'A1', b'A01', b'A001', b'A0001'), port=(143, 993),
      ref='RFC 9051 s4.3, s6', size=line, limit=TEXT_MAX,
      banner=lambda peer: b'* OK [%s] Server ready\r\n' % imap_capability(peer))
def answer_imap(message, peer):
    """Tagged command -> its completion; NO to a login.

    state   a line that ended in a literal; of a login under way what begin_sasl() says
    """
    text = message.strip()
    if isinstance(peer.state, tuple):
        tag = peer.state[0]
        return go_on_sasl(text, peer, b'+ %s\r\n') or tag + IMAP_REFUSAL
    text = (peer.state or b'') + text
    literal = IMAP_LITERAL.search(text)
    peer.state = text[:literal.start()] if literal else None
    if literal:
        if len(text) > TEXT_MAX:
            return None
        return b'' if literal.group(1) else b'+ Go ahead\r\n'
    match = IMAP_LINE.match(text)
    return answer_imap_command(*match.groups(), peer) if match else b'* BAD No command\r\n'


def answer_imap_command(tag, verb, rest, peer):
    """A command that is whole -> what answers it."""
    verb = verb.upper()
    if verb == b'AUTHENTICATE':
        return begin_sasl(rest, peer, b'+ %s\r\n', tag) or tag + IMAP_REFUSAL
    if verb == b'LOGIN':
        user, _, password = rest.partition(b' ')
        return refuse_login(peer, user.strip(b'"'), password.strip(b'"'), tag + IMAP_REFUSAL)
    if verb == b'CAPABILITY':
        return b'* %s\r\n%s OK CAPABILITY completed\r\n' % (imap_capability(peer), tag)
    if verb == b'STARTTLS':
        return start_tls(peer, tag + b' OK Begin TLS\r\n', tag + b' BAD No TLS\r\n')
    if verb not in IMAP_REPLIES:
        return tag + b' BAD Unknown command, or not before a login\r\n'
    return IMAP_REPLIES[verb] + b'%s OK %s completed\r\n' % (tag, verb), verb == b'LOGOUT'


# ---- nntp ----------------------------------------------------------------------------

NNTP_REFUSED = b'480 Authentication required\r\n'


def answer_nntp_authinfo(rest, peer):
    """USER or PASS, and which -> the password, please; no (RFC 4643 s2.3)."""
    kind, _, value = rest.partition(b' ')
    if kind.upper() == b'PASS':
        return refuse_login(peer, peer.state or b'', value, b'481 Authentication failed\r\n')
    peer.state = value
    return b'381 Password required\r\n'


def answer_nntp_date(rest, peer):
    """-> the time (RFC 3977 s7.1)."""
    return time.strftime('111 %Y%m%d%H%M%S\r\n', time.gmtime(peer.now)).encode()


def answer_nntp_capabilities(rest, peer):
    """-> what we can (RFC 3977 s5.2)."""
    return b'101 Capabilities\r\nVERSION 2\r\nREADER\r\nAUTHINFO USER\r\n%s.\r\n' % (
        b'STARTTLS\r\n' if peer.offers_tls else b'')


lines('nntp', 'Command -> a reader\'s welcome; no article without a login.', port=(119, 563),
      sig=(b'MODE READER', b'mode reader'),
      words=(b'CAPABILITIES', b'GROUP', b'LISTGROUP', b'ARTICLE', b'AUTHINFO', b'XOVER',
             b'NEWNEWS'),
      shared=(b'MODE', b'LIST', b'DATE', b'STAT', b'HEAD', b'BODY', b'POST', b'IHAVE',
              b'STARTTLS'),
      ref='RFC 3977 s5, RFC 4643 s2.3, RFC 4642 s2.2',
      banner=lambda peer: b'200 %s NNTP service ready\r\n' % peer.host.host_name, replies={
          b'CAPABILITIES': answer_nntp_capabilities,
          b'STARTTLS': on_starttls(b'382 Begin TLS\r\n', b'502 No TLS\r\n'),
          b'MODE': b'200 Reader mode\r\n', b'AUTHINFO': answer_nntp_authinfo,
          b'DATE': answer_nntp_date, b'HELP': b'100 Help follows\r\n.\r\n',
          b'QUIT': b'205 Bye\r\n',
          **dict.fromkeys((b'GROUP', b'LISTGROUP', b'ARTICLE', b'HEAD', b'BODY', b'STAT', b'LIST',
                           b'XOVER', b'NEWNEWS', b'POST', b'IHAVE'), NNTP_REFUSED)},
      other=b'500 Unknown command\r\n')


# ---- pop3 ----------------------------------------------------------------------------

POP3_REFUSAL = b'-ERR [AUTH] Authentication failed\r\n'


def answer_pop3_apop(rest, peer):
    """User and digest -> no (RFC 1939 s7)."""
    user, _, digest = rest.partition(b' ')
    peer.note('credentials', user=user, digest=digest)
    return POP3_REFUSAL


def answer_pop3_capa(rest, peer):
    """-> what we can (RFC 2449 s5)."""
    return b'+OK\r\nUSER\r\nSASL PLAIN LOGIN\r\nRESP-CODES\r\n%s.\r\n' % (
        b'STLS\r\n' if peer.offers_tls else b'')


lines('pop3', 'Command -> a mailbox that opens to nobody.', port=(110, 995),
      words=(b'CAPA', b'STLS', b'APOP', b'UIDL', b'RETR'),
      shared=(b'AUTH', b'STAT', b'LIST', b'DELE', b'RSET', b'TOP'),
      ref='RFC 1939 s3, RFC 2449 s5, RFC 5034 s4, RFC 2595 s4',
      banner=b'+OK POP3 server ready\r\n', replies={
          b'CAPA': answer_pop3_capa,
          b'STLS': on_starttls(b'+OK Begin TLS\r\n', b'-ERR No TLS\r\n'),
          b'APOP': answer_pop3_apop, b'QUIT': b'+OK Bye\r\n',
          **user_pass(b'+OK\r\n', POP3_REFUSAL),
          **sasl_replies(b'AUTH', b'+ %s\r\n', POP3_REFUSAL)},
      other=b'-ERR Unknown command, or not before a login\r\n')


# ---- sieve ---------------------------------------------------------------------------

SIEVE_CAPABILITY = (b'"IMPLEMENTATION" "sieve"\r\n"SASL" "PLAIN LOGIN"\r\n"SIEVE" "fileinto"\r\n'
                    b'"VERSION" "1.0"\r\nOK\r\n')
SIEVE_REFUSAL = b'NO "Authentication failed"\r\n'


def sieve_capability(peer):
    """-> what we can."""
    return (b'"STARTTLS"\r\n' if peer.offers_tls else b'') + SIEVE_CAPABILITY


def begin_sieve_login(rest, peer):
    """Mechanism, perhaps a first response, quoted or a literal -> what to say next."""
    mechanism, _, first = rest.partition(b' ')
    if not IMAP_LITERAL.match(first):
        return begin_sasl(rest, peer, b'"%s"\r\n') or SIEVE_REFUSAL
    peer.state = b'sasl', mechanism.strip(b'"').upper(), b''
    return b''


def go_on_sieve_login(text, peer):
    """A response, or the length of one -> the same."""
    if IMAP_LITERAL.match(text):
        return b''
    return go_on_sasl(text, peer, b'"%s"\r\n') or SIEVE_REFUSAL


lines('sieve', 'Command -> capabilities; no script without a login.', port=4190,
      words=(b'LISTSCRIPTS', b'PUTSCRIPT', b'HAVESPACE', b'GETSCRIPT', b'SETACTIVE',
             b'CHECKSCRIPT'),
      shared=(b'AUTHENTICATE', b'CAPABILITY', b'LOGOUT', b'STARTTLS'),
      ref='RFC 5804 s1.7, s2', banner=sieve_capability, quits=(b'LOGOUT',), replies={
          b'AUTHENTICATE': begin_sieve_login, b'sasl': go_on_sieve_login, b'NOOP': b'OK\r\n',
          b'CAPABILITY': lambda rest, peer: sieve_capability(peer), b'LOGOUT': b'OK\r\n',
          b'STARTTLS': on_starttls(b'OK\r\n', b'NO "No TLS"\r\n', SIEVE_CAPABILITY)},
      other=b'NO "Unknown command, or not before a login"\r\n')


# ---- smtp ----------------------------------------------------------------------------

SMTP_REFUSAL = b'535 5.7.8 Authentication failed\r\n'
SMTP_UNKNOWN = b'502 5.5.1 Not implemented\r\n'


def answer_smtp_ehlo(rest, peer):
    """Who is there -> what we can (RFC 5321 s4.1.1.1)."""
    secure = b'250-STARTTLS\r\n' if peer.offers_tls else b''
    return (b'250-%s\r\n250-PIPELINING\r\n250-SIZE 10485760\r\n%s250-AUTH PLAIN LOGIN\r\n'
            b'250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n' % (peer.host.host_name, secure))


lines('smtp', 'Command -> its reply; no recipient is taken.', port=(25, 465, 587, 2525),
      words=(b'EHLO', b'HELO', b'LHLO', b'MAIL', b'RCPT', b'VRFY', b'EXPN', b'ETRN', b'STARTTLS'),
      shared=(b'AUTH', b'DATA', b'RSET'), ref='RFC 5321 s4.1, s4.2, RFC 4954 s4, s6, RFC 3207 s4',
      banner=lambda peer: b'220 %s ESMTP\r\n' % peer.host.host_name, replies={
          b'EHLO': answer_smtp_ehlo, b'LHLO': answer_smtp_ehlo,
          b'HELO': lambda rest, peer: b'250 %s\r\n' % peer.host.host_name,
          b'MAIL': b'250 2.1.0 Ok\r\n', b'RCPT': b'554 5.7.1 Relay access denied\r\n',
          b'DATA': b'503 5.5.1 No valid recipients\r\n', b'RSET': b'250 2.0.0 Ok\r\n',
          b'VRFY': b'252 2.0.0 Cannot verify\r\n', b'NOOP': b'250 2.0.0 Ok\r\n',
          b'HELP': b'214 2.0.0 EHLO HELO MAIL RCPT DATA RSET VRFY AUTH NOOP QUIT\r\n',
          b'QUIT': b'221 2.0.0 Bye\r\n',
          b'STARTTLS': on_starttls(b'220 2.0.0 Ready to start TLS\r\n', SMTP_UNKNOWN),
          **dict.fromkeys((b'EXPN', b'ETRN'), SMTP_UNKNOWN),
          **sasl_replies(b'AUTH', b'334 %s\r\n', SMTP_REFUSAL)},
      other=b'500 5.5.2 Unknown command\r\n')


family('Files and versions')


# ---- distcc --------------------------------------------------------------------------

DISTCC_TOKEN = re.compile(br'([A-Z]{4})([0-9a-f]{8})')
DISTCC_SIZE = 12            # octets of a token
DISTCC_TOKENS = 256         # of a job
DISTCC_ANSWER = b'DONE%08xSTAT%08xSERR%08xSOUT%08xDOTO%08x' % (1, 0x100, 0, 0, 0)


@protocol('distcc', sig=(b'DIST00000001', b'DIST00000002', b'DIST00000003'), port=3632,
          over=(TCP,), ref='https://www.distcc.org/doc/protocol-1.txt')
def answer_distcc(data, peer):
    """Compile job -> it failed.

    data     tokens of 4 letters and 8 hex digits: DIST version, ARGC words, for each ARGV and its
             octets, DOTI and the octets of the source, which pass by
    state    True while they do
    returns  status 1 as wait() gives it, no output
    """
    if peer.state:
        return Reply(DISTCC_ANSWER, 0, close=True)
    at = 0
    words = []
    for _ in range(DISTCC_TOKENS):
        match = DISTCC_TOKEN.match(data, at)
        if not match:
            return MORE if len(data) < at + DISTCC_SIZE else None
        size = int(match.group(2), 16)
        at = match.end()
        if match.group(1) == b'DOTI':
            peer.note('command', words=b' '.join(words))
            peer.state = size > 0
            return Reply(b'', at, size) if size else Reply(DISTCC_ANSWER, at, close=True)
        if match.group(1) == b'ARGV':
            words.append(data[at:at + size])
            at += size
    return None


# ---- ftp -----------------------------------------------------------------------------

FTP_REFUSAL = b'530 Login incorrect\r\n'
FTP_SECURE = b' AUTH TLS\r\n PBSZ\r\n PROT\r\n'


def answer_ftp_auth(rest, peer):
    """A mechanism -> TLS, if it is that (RFC 4217 s4)."""
    if rest.upper() not in (b'TLS', b'TLS-C', b'TLS-P', b'SSL'):
        return b'504 Unknown mechanism\r\n'
    return start_tls(peer, b'234 Begin TLS\r\n', b'502 Not implemented\r\n')


lines('ftp', 'Command -> its reply; every login is incorrect.', port=(21, 990, 2121),
      words=(b'FEAT', b'SYST', b'PASV', b'EPSV', b'EPRT', b'PORT', b'TYPE', b'OPTS', b'MLSD',
             b'SITE', b'CWD', b'PWD', b'STOR', *COMMON_WORDS),
      shared=(b'AUTH', b'LIST', b'STAT', b'MODE', b'ACCT'),
      ref='RFC 959 s4.2, RFC 2389 s3, RFC 4217 s4',
      banner=b'220 FTP server ready\r\n', replies={
          b'FEAT': lambda rest, peer: b'211-Features:\r\n UTF8\r\n%s211 End\r\n' % (
              FTP_SECURE if peer.offers_tls else b''),
          b'SYST': b'215 UNIX Type: L8\r\n',
          b'HELP': b'214 USER PASS QUIT SYST FEAT NOOP\r\n', b'NOOP': b'200 OK\r\n',
          b'AUTH': answer_ftp_auth, b'PBSZ': b'200 PBSZ=0\r\n', b'PROT': b'200 OK\r\n',
          b'QUIT': b'221 Goodbye\r\n',
          **user_pass(b'331 Password required\r\n', FTP_REFUSAL),
          **dict.fromkeys((b'PASV', b'EPSV', b'EPRT', b'PORT', b'TYPE', b'OPTS', b'MLSD', b'SITE',
                           b'CWD', b'PWD', b'LIST', b'STAT', b'STOR', b'MODE', b'ACCT'),
                          b'530 Log in first\r\n')},
      other=b'500 Unknown command\r\n')


# ---- git -----------------------------------------------------------------------------

@talk('git', sig=('30 30 .. .. 67 69 74 2d',), port=9418,
      ref='https://git-scm.com/docs/gitprotocol-pack',
      size=lambda data: int(data[:4], 16) if re.match(br'00[0-9a-f]{2}', data) else -1)
def answer_git(message, peer):
    """Request for a repository, in a pkt-line -> access denied."""
    text = b'ERR access denied'
    return b'%04x%s' % (4 + len(text), text), SHUT


# ---- gopher --------------------------------------------------------------------------

lines('gopher', 'A selector -> there is none.', port=70, ref='RFC 1436 s3.6, s3.8', quits=(),
      replies={b'': (b'iNothing here\t\terror.host\t1\r\n.\r\n', SHUT)},
      other=(b'3No such selector\t\terror.host\t1\r\n.\r\n', SHUT))


# ---- rsync ---------------------------------------------------------------------------

RSYNC_HELLO = b'@RSYNCD: 31.0\n'
RSYNC_MD5 = re.compile(br'@RSYNCD: [3-9][0-9]\b')       # versions before 30 have MD4
RSYNC_DIGEST = 16


@talk('rsync', sig=(b'@RSYNCD: ', '..'), port=873, size=line, limit=TEXT_MAX, banner=RSYNC_HELLO,
      ref='https://download.samba.org/pub/rsync/rsyncd.conf.5')
def answer_rsync(message, peer):
    """Version -> ours; #list -> a module; that -> no login.

    returns  to the name of the module a challenge, then an error
    state   their version; (module, challenge, version) while a login is under way
    """
    text = message.strip()
    if not peer.state:
        if message == RSYNC_HELLO and peer.dport != 873:
            return None                         # perhaps one of us
        peer.state = text
        return b'' if peer.greeter else RSYNC_HELLO
    if isinstance(peer.state, tuple):
        module, challenge, version = peer.state
        user, _, digest = text.partition(b' ')
        peer.note('credentials', user=user, digest=digest, salt=challenge,
                  **rsync_hash(version, challenge, digest))
        return b'@ERROR: auth failed on module %s\n' % module, SHUT
    if text in (b'', b'#list'):
        return b'files          \t\n@RSYNCD: EXIT\n', SHUT
    if text != b'files':
        return b"@ERROR: Unknown module '%s'\n" % text[:64], SHUT
    challenge = codecs.encode(peer.host.random(16), 'base64').rstrip(b'=\n')
    peer.state = text, challenge, peer.state
    return b'@RSYNCD: AUTHREQD %s\n' % challenge


def rsync_hash(version, challenge, digest) -> dict:
    """Answer to a challenge -> {'hash': as hashcat reads it}; {}: nothing that could be tried.

    version     as the client said it: from 30 on MD5 of password and challenge, MD4 before
    source      rsync(5) s"auth users"; https://hashcat.net/wiki/doku.php?id=example_hashes: 10
    """
    proof = read_base64(digest + b'==')
    if not RSYNC_MD5.match(version) or len(proof) != RSYNC_DIGEST:
        return {}
    return {'hash': '%s:%s' % (proof.hex(), challenge.decode())}


# ---- svn -----------------------------------------------------------------------------

SVN_HELLO = b'( success ( 2 2 ( ) ( edit-pipeline svndiff1 ) ) ) '
SVN_TOKEN = re.compile(br'\s*(?:([()])|([0-9]{1,4}):|[A-Za-z0-9-]+(?=\s))')
SVN_TOKENS = 64


def svn_size(data):
    """Octets of a list in parentheses; its strings are counted (ra_svn protocol s1)."""
    at = depth = 0
    for _ in range(SVN_TOKENS):
        match = SVN_TOKEN.match(data, at)
        if not match:
            return None
        at = match.end() + int(match.group(2) or 0)
        if match.group(1):
            depth += 1 if match.group(1) == b'(' else -1
        if not depth:
            return at + 1
    return -1


@talk('svn', sig=(b'( 2 (',), port=3690, size=svn_size, limit=TEXT_MAX, banner=SVN_HELLO,
      ref='https://svn.apache.org/repos/asf/subversion/trunk/subversion/libsvn_ra_svn/protocol')
def answer_svn(message, peer):
    """Greeting -> a login, please; login -> no.

    state   what is expected: None a greeting, 1 a mechanism, our challenge: a digest
    """
    if peer.state is None:
        peer.state = 1
        hello = b'' if peer.greeter else SVN_HELLO
        name = peer.host.host_name
        return hello + b'( success ( ( CRAM-MD5 ) %d:%s ) ) ' % (len(name), name)
    if peer.state == 1:
        challenge = b'<%s@%s>' % (peer.host.random(8).hex().encode(), peer.host.host_name)
        peer.state = challenge
        return b'( step ( %d:%s ) ) ' % (len(challenge), challenge)
    answer = message.partition(b':')[2].strip()
    user, _, digest = answer.partition(b' ')
    coded = (binascii.b2a_base64(each, newline=False).decode() for each in (peer.state, answer))
    peer.note('credentials', user=user, digest=digest, salt=peer.state,
              hash='$cram_md5$%s$%s' % tuple(coded))    # hashcat's example_hashes: 10200
    peer.state = 1                              # whoever has another login may try that
    return b'( failure ( 20:Authorization failed ) ) '


# ---- tftp ----------------------------------------------------------------------------

TFTP_REQUEST = re.compile(br'\0[\1\2]([^\0]{1,255})\0(?:netascii|octet|mail)\0', re.I)
TFTP_NOT_FOUND, TFTP_DENIED = 1, 2      # RFC 1350 s5: codes of errors


@datagram('tftp', sig=('00 01', '00 02'), port=69, ref='RFC 1350 s5',
          check=lambda data, peer: TFTP_REQUEST.match(data))
def answer_tftp(message, peer):
    """A read -> no such file; a write -> denied.

    returns  with the reason if the request is long enough
    """
    name = TFTP_REQUEST.match(message).group(1)
    peer.note('request', verb=message[1], path=name)
    code, text = (TFTP_NOT_FOUND, b'not found') if message[1] == 1 else (TFTP_DENIED, b'denied')
    text = text if len(message) >= 5 + len(text) else b''
    return bytes((0, 5, 0, code)) + text + b'\0'


family('Calls and chat')


# ---- asterisk ------------------------------------------------------------------------

@talk('asterisk', words=(b'ACTION',), port=5038, size=headed, limit=TEXT_MAX,
      ref='https://docs.asterisk.org/Configuration/Interfaces/Asterisk-Manager-Interface-AMI/',
      banner=b'Asterisk Call Manager/5.0.2\r\n')
def answer_asterisk(message, peer):
    """Action -> a refusal that carries its ActionID."""
    fields = dict(parse_fields(b'\n' + message))
    number = fields.get(b'actionid')
    tail = (b'ActionID: %s\r\n' % number if number else b'') + b'Message: %s\r\n\r\n'
    action = fields.get(b'action', b'').lower()
    if action == b'logoff':
        return b'Response: Goodbye\r\n' + tail % b'Goodbye', SHUT
    if action == b'login':
        return refuse_login(peer, fields.get(b'username', b''), fields.get(b'secret', b''),
                            b'Response: Error\r\n' + tail % b'Authentication failed'), SHUT
    return b'Response: Error\r\n' + tail % b'Permission denied'


# ---- h323 ----------------------------------------------------------------------------

Q931_SETUP, Q931_RELEASED = 0x05, 0x5a
Q931_REJECTED = b'\x08\2\x80\x95'       # Q.931 s4.5.12: cause: call rejected


@talk('h323', sig=('03 00 .. .. 08 02 .. .. 05',), port=1720, size=be(2, 2, 0), limit=4096,
      ref='https://www.itu.int/rec/T-REC-H.225.0')
def answer_h323(message, peer):
    """Setup of a call -> release complete: rejected."""
    peer.note('request', data=message[9:][:512])
    says = b'\x08\2' + bytes((message[6] ^ 0x80, message[7], Q931_RELEASED)) + Q931_REJECTED
    return b'\3\0' + sized(says, 2, extra=4), SHUT


# ---- irc -----------------------------------------------------------------------------

def register_irc(peer, place, value):
    """What a client says of itself -> nothing until it has given NICK and USER; then no.

    state   [nick, user, password]
    source  RFC 2812 s3.1
    """
    peer.state = peer.state or [b'', b'', b'']
    peer.state[place] = value.strip(b':')[:64]
    nick, user, password = peer.state
    if not (nick and user):
        return b''
    peer.note('credentials', user=nick, password=password)
    return (b':%s 464 %s :Password incorrect\r\nERROR :Closing link\r\n'
            % (peer.host.host_name, nick)), SHUT


def answer_irc_cap(rest, peer):
    """CAP LS or REQ -> TLS or nothing; source ircv3.net, capability negotiation, tls."""
    verb, _, asked = rest.partition(b' ')
    ours = b'tls' if peer.offers_tls else b''
    row = {b'LS': (b'LS', ours), b'REQ': (b'NAK', asked.lstrip(b':'))}.get(verb.upper())
    return b':%s CAP * %s :%s\r\n' % (peer.host.host_name, *row) if row else b''


def answer_irc_starttls(rest, peer):
    """-> TLS; source ircv3.net, tls capability."""
    name = peer.host.host_name
    return start_tls(peer, b':%s 670 * :Begin TLS\r\n' % name, b':%s 691 * :No TLS\r\n' % name)


lines('irc', 'Registration -> password incorrect.', port=(6667, 194, 6697),
      words=(b'NICK', b'CAP', b'JOIN', b'PRIVMSG'),
      shared=(b'PING', b'PONG', b'MODE', b'LIST', b'STARTTLS'),
      ref='RFC 2812 s3, s5',
      banner=lambda peer: b':%s NOTICE * :*** Looking up your hostname\r\n' % peer.host.host_name,
      replies={
          b'NICK': lambda rest, peer: register_irc(peer, 0, rest),
          b'USER': lambda rest, peer: register_irc(peer, 1, rest),
          b'PASS': lambda rest, peer: register_irc(peer, 2, rest),
          b'CAP': answer_irc_cap, b'STARTTLS': answer_irc_starttls, b'PONG': b'', b'': b'',
          b'QUIT': b'ERROR :Closing link\r\n',
          b'PING': lambda rest, peer: b':%s PONG %s %s\r\n' % (
              peer.host.host_name, peer.host.host_name, rest)},
      other=lambda rest, peer: b':%s 451 * :You have not registered\r\n' % peer.host.host_name)


# ---- megaco --------------------------------------------------------------------------

MEGACO_ASKS = re.compile(br'\S+\s+\S+\s+(Transaction|T)\s*=', re.I)


@datagram('megaco', sig=(b'MEGACO/1 ', b'!/1 '), port=(2944, 2945),
          check=lambda data, peer: MEGACO_ASKS.match(data), ref='RFC 3525 s7.3, s8.2')
def answer_megaco(message, peer):
    """Transaction of a gateway -> it is not authorized."""
    peer.note('request', command=message[:TEXT_MAX])
    return b'!/1 [0.0.0.0] ER=402{}'


# ---- mgcp ----------------------------------------------------------------------------

MGCP_LINE = re.compile(br'[A-Za-z]{4} ([0-9]{1,9}) \S{1,255} MGCP 1\.0', re.I)


@datagram('mgcp', words=(b'AUEP', b'AUCX', b'CRCX', b'DLCX', b'EPCF', b'MDCX', b'NTFY', b'RQNT',
                         b'RSIP'), port=(2427, 2727),
          check=lambda data, peer: MGCP_LINE.match(data), ref='RFC 3435 s3.2.1, s3.4')
def answer_mgcp(message, peer):
    """Command to an endpoint -> it is unknown."""
    peer.note('request', command=message.partition(b'\n')[0].rstrip(b'\r'))
    return b'500 %s unknown\r\n' % MGCP_LINE.match(message).group(1)


# ---- rtmp ----------------------------------------------------------------------------

RTMP_HANDSHAKE = 1536                   # RTMP 1.0 s5.2.3
RTMP_COMMAND = 20                       # s7.1.1: in AMF0
RTMP_CHUNK = 128                        # s5.4.1: octets between one-octet heads
RTMP_WORDS = (b'level', b'error'), (b'code', b'NetConnection.Connect.Rejected')
# s7.2.1.1: _error, 1, null, object
RTMP_REFUSAL = (b'\2' + sized(b'_error') + b'\0\x3f\xf0' + bytes(6) + b'\5\3' + b''.join(
    sized(name) + b'\2' + sized(text) for name, text in RTMP_WORDS) + b'\0\0\x09')
RTMP_TARGET = re.compile(br'tcUrl\x02..([\x20-\x7e]{1,256})', re.S)


def size_rtmp(data):
    """C0 and C1; then C2 and the first message, of a full head, in chunks."""
    if data[:1] == b'\3' and not data[5:9].strip(b'\0'):
        return 1 + RTMP_HANDSHAKE
    if len(data) < RTMP_HANDSHAKE + 7:
        return None
    size = int.from_bytes(data[RTMP_HANDSHAKE + 4:RTMP_HANDSHAKE + 7], 'big')
    return RTMP_HANDSHAKE + 12 + size + max(size - 1, 0) // RTMP_CHUNK


@talk('rtmp', sig=('03 .. .. .. .. 00 00 00 00' + ' ..' * 3,), port=1935, size=size_rtmp,
      ref='https://rtmp.veriskope.com/docs/spec/')
def answer_rtmp(message, peer):
    """Handshake -> ours; connect -> rejected.

    state   'greeted'
    """
    if peer.state is None:
        peer.state = 'greeted'
        return b'\3' + bytes(8) + peer.host.random(RTMP_HANDSHAKE - 8) + message[1:]
    if message[RTMP_HANDSHAKE + 7] != RTMP_COMMAND:
        return None
    body = b''.join(message[at:at + RTMP_CHUNK] for at in range(
        RTMP_HANDSHAKE + 12, len(message), RTMP_CHUNK + 1))
    match = RTMP_TARGET.search(body)
    peer.note('request', target=match.group(1) if match else b'')
    return b'\3\0\0\0' + len(RTMP_REFUSAL).to_bytes(3, 'big') + bytes((
        RTMP_COMMAND, 0, 0, 0, 0)) + RTMP_REFUSAL, SHUT


# ---- rtsp ----------------------------------------------------------------------------

RTSP_VERBS = (b'OPTIONS', b'DESCRIBE', b'SETUP', b'PLAY', b'PAUSE', b'TEARDOWN', b'ANNOUNCE',
              b'RECORD', b'GET_PARAMETER', b'SET_PARAMETER')
RTSP_START = re.compile(br'[^\n]* RTSP/[12]\.0\r?(?:\n|\Z)')


@talk('rtsp', sig=(b'OPTIONS rtsp://', b'OPTIONS * RTSP/', b'OPTIONS / RTSP/'),
      words=RTSP_VERBS[1:], port=(554, 8554), size=headed, ref='RFC 2326 s10, RFC 7826 s13')
def answer_rtsp(message, peer):
    """Request -> what we can; for all else a challenge.

    returns  CSeq as they said; 401 again to whoever answers the challenge
    """
    head = HEAD_END.split(message, 1)[0]
    if not RTSP_START.match(head):
        return None
    fields = dict(parse_fields(head))
    number = b'CSeq: %s\r\n' % fields[b'cseq'] if b'cseq' in fields else b''
    if message.startswith(b'OPTIONS '):
        return b'RTSP/1.0 200 OK\r\n%sPublic: %s\r\n\r\n' % (number, b', '.join(RTSP_VERBS))
    if b'authorization' in fields:
        note_authorization(peer, fields[b'authorization'])
    return (b'RTSP/1.0 401 Unauthorized\r\n%sWWW-Authenticate: Digest realm="%s", nonce="%s"\r\n'
            b'WWW-Authenticate: Basic realm="%s"\r\n\r\n' % (
                number, peer.host.host_name, peer.host.random(16).hex().encode(),
                peer.host.host_name))


# ---- sip -----------------------------------------------------------------------------

SIP_COPIED = {b'via': b'Via', b'v': b'Via', b'from': b'From', b'f': b'From', b'to': b'To',
              b't': b'To', b'call-id': b'Call-ID', b'i': b'Call-ID', b'cseq': b'CSeq'}  # s8.2.6.2
SIP_NEEDED = 5              # of these names
SIP_START = re.compile(br'[^\n]* SIP/2\.0\r?(?:\n|\Z)')
SIP_KNOWN = {b'OPTIONS': b'200 OK', b'BYE': b'481 Call/Transaction Does Not Exist',
             b'CANCEL': b'481 Call/Transaction Does Not Exist'}


@talk('sip', sig=(b'OPTIONS sip', b'ACK sip', b'BYE sip', b'INFO sip', b'MESSAGE sip',
                  b'NOTIFY sip', b'PRACK sip', b'REFER sip', b'UPDATE sip'),
      words=(b'REGISTER', b'INVITE', b'SUBSCRIBE', b'PUBLISH', b'CANCEL'), port=(5060, 5061),
      size=headed, over=BOTH, most=1.75, ref='RFC 3261 s8.2.6, s11, s22.1')
def answer_sip(message, peer):
    """OPTIONS -> 200; a call or a login -> challenge, then no.

    returns  403 to whoever answers the challenge; their Via, From, To, Call-ID and CSeq; to ACK
             nothing.  Over UDP a challenge makes a short request's answer longer than it
    """
    head = HEAD_END.split(message, 1)[0]
    verb = head.partition(b' ')[0]
    fields = parse_fields(head)
    copied = [(SIP_COPIED[name], value) for name, value in fields if name in SIP_COPIED]
    if len({name for name, _ in copied}) < SIP_NEEDED or not SIP_START.match(head):
        return None
    if verb == b'ACK':
        return b''
    status = SIP_KNOWN.get(verb, b'401 Unauthorized')
    login = dict(fields).get(b'authorization')
    rows = [b'%s: %s%s\r\n' % (name, value, sip_tag(name, value, peer)) for name, value in copied]
    if status[:3] == b'401' and login:
        note_authorization(peer, login)
        status = b'403 Forbidden'
    elif status[:3] == b'401':
        rows.append(b'WWW-Authenticate: Digest realm="%s", nonce="%s"\r\n' % (
            peer.host.host_name, peer.host.random(8).hex().encode()))
    return b'SIP/2.0 %s\r\n%sContent-Length: 0\r\n\r\n' % (status, b''.join(rows))


def sip_tag(name, value, peer):
    """A field -> the parameter that names our side of a dialogue, where it lacks (s19.3)."""
    if name != b'To' or b'tag=' in value:
        return b''
    return b';tag=' + peer.host.random(4).hex().encode()


# ---- skinny --------------------------------------------------------------------------

SKINNY_REGISTER, SKINNY_REJECT = 0x01, 0x9d             # numbers of messages
SKINNY_HEAD = struct.Struct('<III')     # size of what follows the next word; reserved; message


@talk('skinny', port=2000, size=le(0, 4, 8), limit=1024,
      sig=['%02x 00 00 00 .. 00 00 00 01 00 00 00 53 45 50' % size for size in range(40, 256, 4)],
      ref='https://wiki.wireshark.org/SKINNY')
def answer_skinny(message, peer):
    """Register -> rejected."""
    _, _, number = SKINNY_HEAD.unpack_from(message)
    if number != SKINNY_REGISTER:
        return None
    peer.note('credentials', user=message[SKINNY_HEAD.size:SKINNY_HEAD.size + 16].rstrip(b'\0'))
    return SKINNY_HEAD.pack(36, 0, SKINNY_REJECT) + b'Not authorized'.ljust(32, b'\0'), SHUT


# ---- teamspeak -----------------------------------------------------------------------

TEAMSPEAK_OK = b'error id=0 msg=ok\n\r'

lines('teamspeak', 'Query -> an error; nobody may log in.', port=10011,
      words=(b'SERVERINFO', b'CLIENTLIST', b'CHANNELLIST', b'SERVERLIST'),
      shared=(b'LOGIN', b'USE', b'VERSION', b'WHOAMI'),
      ref='https://github.com/teamspeak/ts3client-pluginsdk',
      banner=b'TS3\n\rWelcome to the query interface.\n\r', replies={
          b'': b'', b'QUIT': TEAMSPEAK_OK, b'USE': TEAMSPEAK_OK,
          b'VERSION': b'version=3.13 build=0 platform=Linux\n\r' + TEAMSPEAK_OK,
          b'LOGIN': lambda rest, peer: refuse_login(
              peer, *rest.partition(b' ')[::2],
              b'error id=520 msg=invalid\\sloginname\\sor\\spassword\n\r'),
          **dict.fromkeys((b'SERVERINFO', b'CLIENTLIST', b'CHANNELLIST', b'SERVERLIST', b'WHOAMI'),
                          b'error id=2568 msg=insufficient\\sclient\\spermissions\n\r')},
      other=b'error id=256 msg=command\\snot\\sfound\n\r')


# ---- xmpp ----------------------------------------------------------------------------

XMPP_PIECE = re.compile(br'\s*(?:<\?[^>]*>\s*)?(?!<\?)[^>]*>')
XMPP_TO = re.compile(br'''\sto=['"]([^'"<>&]{1,255})['"]''')
XMPP_OURS = re.compile(br'\sid=')           # RFC 6120 s4.7.3: whoever initiates gives none
XMPP_HEAD = (b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
             b"xmlns:stream='http://etherx.jabber.org/streams' id='%s' from='%s' version='1.0'>"
             b"<stream:features>%s<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>"
             b"<mechanism>PLAIN</mechanism></mechanisms></stream:features>")
XMPP_REFUSAL = b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"
XMPP_TLS = b"<%s xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
XMPP_NO_TLS = b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>"
XMPP_ERROR = (b"<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
              b"</stream:error></stream:stream>")


def xmpp_size(data):
    """Octets up to the end of a tag, the declaration of XML before it included."""
    match = XMPP_PIECE.match(data)
    return match.end() if match else None


@talk('xmpp', sig=(b'<?xml', b'<stream:stream'), port=(5222, 5269), size=xmpp_size, limit=TEXT_MAX,
      ref='RFC 6120 s4.7, s5.4, s6.4')
def answer_xmpp(message, peer):
    """Head of a stream -> ours; a login -> not authorized.

    state   'open'; 'auth' between the tag of a login and its text
    """
    if b'<stream:stream' in message and not XMPP_OURS.search(message):
        peer.state = 'open'
        to = XMPP_TO.search(message)
        return XMPP_HEAD % (peer.host.random(8).hex().encode(),
                            to.group(1) if to else peer.host.host_name,
                            XMPP_TLS % b'starttls' if peer.offers_tls else b'')
    if not peer.state or b'</stream' in message:
        return (b'</stream:stream>', SHUT) if peer.state else None
    if peer.state == 'auth':
        peer.state = 'open'
        user, password = parse_plain(read_base64(message.partition(b'<')[0]))
        return refuse_login(peer, user, password, XMPP_REFUSAL)
    if b'<auth' in message:
        peer.state = 'open' if message.endswith(b'/>') else 'auth'
        return XMPP_REFUSAL if peer.state == 'open' else b''
    if b'<starttls' in message:
        return start_tls(peer, XMPP_TLS % b'proceed', (XMPP_NO_TLS, SHUT))
    return XMPP_ERROR, SHUT


family('Small services')


# ---- bandwidth-test ------------------------------------------------------------------

BTEST_HELLO = b'\1\0\0\0'
BTEST_LOGIN = b'\2\0\0\0'
BTEST_REFUSAL = b'\0\0\0\0'
BTEST_COMMAND, BTEST_DIGEST = 16, 48        # octets: of a command, of a digest and a user


@protocol('bandwidth-test', sig=('..',), port=2000, over=(TCP,), banner=BTEST_HELLO,
          check=lambda data, peer: data[0] < 2, ref='https://github.com/samm-git/btest-opensource')
def answer_bandwidth_test(data, peer):
    """Command of a speed test -> a login, please; login -> no.

    state   True once we have asked
    """
    if len(data) < (BTEST_DIGEST if peer.state else BTEST_COMMAND):
        return MORE
    if peer.state:
        user = data[BTEST_COMMAND:BTEST_DIGEST].rstrip(b'\0')
        peer.note('credentials', user=user, digest=data[:BTEST_COMMAND].hex())
        return Reply(BTEST_REFUSAL, BTEST_DIGEST, close=True)
    peer.state = True
    return Reply(BTEST_LOGIN + peer.host.random(16), BTEST_COMMAND)


# ---- chargen -------------------------------------------------------------------------

CHARGEN_RING = bytes(range(32, 127))
CHARGEN_TEXT = b''.join((CHARGEN_RING * 2)[at:at + 72] + b'\r\n' for at in range(95))
# UDP from these ports may be the answer of such a service to us, or of another that has a word for
# everything: no loop begins
SMALL_PORTS = frozenset((7, 13, 17, 19, 37, 53, 123, 161, 5353, 5355, 53413))


def is_small_request(data, peer):
    """A datagram that may be a request for one of the small services."""
    return peer.transport == TCP or peer.sport not in SMALL_PORTS


def shorten(text, message, peer):
    """What a small service says to a message: over UDP no more than it, else all and no more."""
    return text[:len(message)] if peer.transport == UDP else (text, SHUT)


@talk('chargen', sig=('..',), port=19, over=BOTH, ref='RFC 864 s1', check=is_small_request,
      banner=(CHARGEN_TEXT, SHUT))
def answer_chargen(message, peer):
    """Anything -> lines of the printing characters.

    returns  95 of them, then the end; UDP: as many octets as the request has
    """
    return shorten(CHARGEN_TEXT, message, peer)


# ---- daytime -------------------------------------------------------------------------

def pack_daytime(peer):
    """-> the time as text."""
    return time.strftime('%Y-%m-%d %H:%M:%S UTC\r\n', time.gmtime(peer.now)).encode()


@talk('daytime', sig=('..',), port=13, over=BOTH, ref='RFC 867 s1', check=is_small_request,
      banner=lambda peer: (pack_daytime(peer), SHUT))
def answer_daytime(message, peer):
    """Anything -> the time as text; UDP: no longer than that."""
    return shorten(pack_daytime(peer), message, peer)


# ---- echo ----------------------------------------------------------------------------

@protocol('echo', sig=('..',), port=7, ref='RFC 862 s1', check=is_small_request)
def answer_echo(data, peer):
    """Anything -> the same."""
    return data


# ---- finger --------------------------------------------------------------------------

lines('finger', 'A name -> nobody of that name.', port=79, ref='RFC 1288 s2.3', quits=(),
      replies={b'': (b'No one logged on\r\n', SHUT)}, other=(b'No such user\r\n', SHUT))


# ---- ident ---------------------------------------------------------------------------

IDENT_PAIR = re.compile(br'\s*([0-9]{1,5})\s*,\s*([0-9]{1,5})\s*\Z')


@talk('ident', sig=('..',), port=113, ref='RFC 1413 s4', size=line, limit=TEXT_MAX)
def answer_ident(message, peer):
    """Two ports -> no such user."""
    match = IDENT_PAIR.match(message)
    pair = match.groups() if match else (b'0', b'0')
    return b'%s, %s : ERROR : %s\r\n' % (*pair, b'NO-USER' if match else b'INVALID-PORT'), SHUT


# ---- qotd ----------------------------------------------------------------------------

QOTD_TEXT = b'Whoever listens first learns most.\r\n'


@talk('qotd', sig=('..',), port=17, over=BOTH, ref='RFC 865 s1', check=is_small_request,
      banner=(QOTD_TEXT, SHUT))
def answer_qotd(message, peer):
    """Anything -> a quote; UDP: no longer than that."""
    return shorten(QOTD_TEXT, message, peer)


# ---- tcpmux --------------------------------------------------------------------------

lines('tcpmux', 'Name of a service -> not here.', port=1, ref='RFC 1078 s1', quits=(),
      replies={b'HELP': (b'tcpmux\r\n', SHUT)}, other=(b'-Service not available\r\n', SHUT))


# ---- time ----------------------------------------------------------------------------

TIME_EPOCH = 2208988800     # RFC 868: seconds from 1900 to 1970


def pack_time(peer):
    """-> seconds since 1900, 4 octets."""
    return (peer.second + TIME_EPOCH & 0xffffffff).to_bytes(4, 'big')


@talk('time', sig=('..',), port=37, over=BOTH, ref='RFC 868 s1', check=is_small_request,
      banner=lambda peer: (pack_time(peer), SHUT))
def answer_time(message, peer):
    """Anything -> seconds since 1900; UDP: no longer than that."""
    return shorten(pack_time(peer), message, peer)


# ---- whois ---------------------------------------------------------------------------

lines('whois', 'A name -> no match.', port=(43, 4321), ref='RFC 3912 s2', quits=(),
      other=(b'No match.\r\n', SHUT))


family('Text services')


# ---- beanstalkd ----------------------------------------------------------------------

def pack_beanstalkd(text):
    """Lines of YAML -> an answer that carries them."""
    return b'OK %d\r\n%s\r\n' % (len(text), text)


def answer_beanstalkd_put(rest, peer):
    """Priority, delay, time, octets; these follow -> no job is taken."""
    size = int(rest.split()[3])
    if not 0 <= size < KEPT_MAX:
        return b'JOB_TOO_BIG\r\n', SHUT
    return Reply(b'DRAINING\r\n', None, size + 2)


lines('beanstalkd', 'Command -> an empty queue that takes no job.', port=11300,
      words=(b'LIST-TUBES', b'LIST-TUBE-USED', b'STATS-TUBE', b'STATS-JOB', b'PEEK-READY',
             b'RESERVE'),
      shared=(b'PUT', b'USE', b'WATCH', b'STATS', b'PEEK', b'DELETE', b'KICK'),
      ref='https://raw.githubusercontent.com/beanstalkd/beanstalkd/master/doc/protocol.txt',
      replies={
          b'LIST-TUBES': pack_beanstalkd(b'---\n- default\n'),
          b'LIST-TUBE-USED': b'USING default\r\n',
          b'PUT': answer_beanstalkd_put, b'USE': lambda rest, peer: b'USING %s\r\n' % rest[:200],
          b'WATCH': b'WATCHING 1\r\n', b'RESERVE': b'TIMED_OUT\r\n', b'KICK': b'KICKED 0\r\n',
          b'STATS': pack_beanstalkd(b'---\ncurrent-jobs-ready: 0\n'), b'QUIT': b'',
          **dict.fromkeys((b'STATS-TUBE', b'STATS-JOB', b'PEEK-READY', b'PEEK', b'DELETE'),
                          b'NOT_FOUND\r\n')},
      other=b'UNKNOWN_COMMAND\r\n')


# ---- clamd ---------------------------------------------------------------------------

CLAMD_VERBS = b'PING', b'VERSION', b'STATS', b'SCAN', b'RELOAD', b'INSTREAM', b'VERSIONCOMMANDS'
CLAMD_REPLIES = {b'PING': b'PONG', b'VERSION': b'Scanner 1.0'}


@talk('clamd', port=3310, limit=TEXT_MAX, shared=CLAMD_REPLIES,
      ref='https://docs.clamav.net/manual/Usage/Scanning.html',
      sig=(*(form % verb for verb in CLAMD_VERBS for form in (b'z%s\0', b'n%s\n')), '..'),
      size=lambda data: (till(b'\0') if data[:1] == b'z' else line)(data))
def answer_clamd(message, peer):
    """Command -> PONG, a version, unknown; then the end.

    returns  NUL at the end if the command had z before it and NUL after, else LF
    """
    end = message[-1:] if message[:1] == b'z' else b'\n'
    verb = message.strip(b'\0\r\n')
    verb = verb[1:] if verb[:1] in (b'z', b'n') else verb
    return CLAMD_REPLIES.get(verb, b'UNKNOWN COMMAND') + end, SHUT


# ---- dict ----------------------------------------------------------------------------

DICT_NONE = b'554 No databases present\r\n'

def greet_dict(peer):
    """-> what we say first."""
    name = peer.host.host_name
    number = peer.host.random(4).hex().encode()
    return b'220 %s dictd <auth.mime> <%s@%s>\r\n' % (name, number, name)


def answer_dict_client(rest, peer):
    """A client's name -> ok; clients that do not wait for the greeting want it all the same."""
    hello = b'' if peer.greeter or peer.state else greet_dict(peer)
    peer.state = True
    return hello + b'250 ok\r\n'


lines('dict', 'Query -> no databases.', port=2628, words=(b'DEFINE', b'MATCH'),
      shared=(b'SHOW', b'CLIENT', b'STATUS', b'OPTION', b'AUTH'), ref='RFC 2229 s2.4, s3',
      banner=greet_dict, replies={
          b'DEFINE': DICT_NONE, b'MATCH': DICT_NONE, b'SHOW': DICT_NONE,
          b'CLIENT': answer_dict_client,
          b'STATUS': b'210 up\r\n', b'QUIT': b'221 bye\r\n',
          b'HELP': b'113 help\r\n.\r\n250 ok\r\n',
          b'OPTION': b'250 ok\r\n', b'AUTH': lambda rest, peer: refuse_login(
              peer, *rest.partition(b' ')[::2], b'531 Access denied\r\n')},
      other=b'500 Unknown command\r\n')


# ---- gearman -------------------------------------------------------------------------

lines('gearman', 'Command of an administrator -> nothing to report.', port=4730,
      words=(b'WORKERS', b'MAXQUEUE'), shared=(b'STATUS', b'VERSION', b'SHUTDOWN', b'GETPID'),
      ref='https://gearman.org/protocol/', replies={
          b'WORKERS': b'.\n', b'STATUS': b'.\n', b'VERSION': b'OK 1.1\n', b'MAXQUEUE': b'OK\n'},
      other=b'ERR unknown_command Unknown+command\n')


GEARMAN_REPLY = struct.Struct('!4sII')      # gearman.org/protocol: magic type size
GEARMAN_ECHO, GEARMAN_ECHOED, GEARMAN_ERROR = 16, 17, 19


@talk('gearman-job', sig=('00 52 45 51 00 00 00 ..',), port=4730, size=be(8, 4, 12),
      ref='https://gearman.org/protocol/')
def answer_gearman_job(message, peer):
    """Request in a packet -> an error; an echo its own octets."""
    kind = GEARMAN_ERROR
    body = b'ERR_PERMISSION\0Not allowed'
    if message[7] == GEARMAN_ECHO:
        kind = GEARMAN_ECHOED
        body = message[12:]
    return GEARMAN_REPLY.pack(b'\0RES', kind, len(body)) + body


# ---- gpsd ----------------------------------------------------------------------------

GPSD_VERSION = (b'{"class":"VERSION","release":"3.25","rev":"3.25","proto_major":3,'
                b'"proto_minor":15}\r\n')
GPSD_DEVICES = b'{"class":"DEVICES","devices":[]}\r\n'

lines('gpsd', 'Query -> no devices.', port=2947,
      sig=(b'?WATCH', b'?VERSION', b'?DEVICES', b'?POLL'),
      ref='https://gpsd.gitlab.io/gpsd/gpsd_json.html', banner=GPSD_VERSION,
      other=GPSD_DEVICES, replies={b'?VERSION;': GPSD_VERSION})


# ---- hddtemp -------------------------------------------------------------------------

@talk('hddtemp', sig=('..',), port=7634,
      ref='https://manpages.debian.org/bullseye/hddtemp/hddtemp.8.en.html',
      banner=(b'|/dev/sda|DISK|30|C|', SHUT))
def answer_hddtemp(message, peer):
    """Anything -> the temperature of a disk, then the end."""
    return b'|/dev/sda|DISK|30|C|', SHUT


# ---- icap ----------------------------------------------------------------------------

@talk('icap', sig=(b'OPTIONS icap://',), words=(b'REQMOD', b'RESPMOD'), port=1344, size=headed,
      ref='RFC 3507 s4.3.3, s4.10.2')
def answer_icap(message, peer):
    """OPTIONS -> methods; all else -> no such service."""
    tag = b'ISTag: "%s"\r\nEncapsulated: null-body=0\r\n\r\n' % peer.host.guid[:4].hex().encode()
    if message.startswith(b'OPTIONS'):
        return b'ICAP/1.0 200 OK\r\nMethods: RESPMOD, REQMOD\r\n' + tag
    return b'ICAP/1.0 404 ICAP Service not found\r\n' + tag, SHUT


# ---- lpd -----------------------------------------------------------------------------

LPD_LINE = re.compile(br'[\1-\5][\x20-\x7e]*\n')
LPD_FILE = re.compile(br'[\2\3]([0-9]{1,9}) ')


def is_lpd(data, peer):
    """A command, or what there is of one: an octet, then printing characters."""
    return data[0] in (1, 2, 3, 4, 5) and (LPD_LINE.match(data) or b'\n' not in data)


@talk('lpd', sig=('..',), port=515, ref='RFC 1179 s5, s6', check=is_lpd, size=line, limit=TEXT_MAX)
def answer_lpd(message, peer):
    """Job -> acknowledged; state of a queue -> no entries.

    state   True while a job comes
    returns  to a file of a job both acknowledgements at once: the second is read after the file
    """
    kind = message[0]
    if peer.state:
        match = LPD_FILE.match(message)
        return Reply(b'\0\0', None, int(match.group(1)) + 1) if match else b'\0'
    if not LPD_LINE.match(message):
        return None
    peer.state = kind == 2
    return b'\0' if kind < 3 else (b'no entries\n' if kind < 5 else b'\0', SHUT)


# ---- lscp ----------------------------------------------------------------------------

@talk('lscp', sig=(b'GET SERVER INFO',), port=8888, size=line, limit=TEXT_MAX,
      ref='https://doc.linuxsampler.org/Linuxsampler_Control_Protocol/')
def answer_lscp(message, peer):
    """GET SERVER INFO -> a sampler."""
    if message.strip() != b'GET SERVER INFO':
        return b'ERR:0:Unknown command\r\n'
    return b'DESCRIPTION: sampler\r\nVERSION: 1.0\r\nPROTOCOL_VERSION: 1.7\r\n.\r\n'


# ---- memcached -----------------------------------------------------------------------

MEMCACHED_MAX = 1 << 20     # octets of a value
MEMCACHED_VERB = re.compile(br'[a-z_]+(?:[ \r\n]|\Z)')


def answer_memcached_store(rest, peer):
    """Key, flags, time, octets; these follow -> stored, we say."""
    words = rest.split()
    size = int(words[3])
    if not 0 <= size <= MEMCACHED_MAX:
        return b'SERVER_ERROR object too large for cache\r\n', SHUT
    return Reply(b'' if words[-1] == b'noreply' else b'STORED\r\n', None, size + 2)


def answer_memcached_stats(rest, peer):
    """STATS -> a few of them; of a kind -> none."""
    if rest:
        return b'END\r\n'
    return (b'STAT pid 1\r\nSTAT uptime %d\r\nSTAT time %d\r\nSTAT version 1.6.0\r\n'
            b'STAT curr_items 0\r\nEND\r\n' % (peer.now - peer.host.boot, peer.now))


lines('memcached', 'Command in lower case -> an empty cache.', port=11211,
      words=(b'GET', b'GETS', b'STATS', b'VERSION', b'SET', b'ADD', b'REPLACE', b'CAS',
             b'FLUSH_ALL'),
      shared=(b'DELETE', b'INCR', b'DECR', b'TOUCH', b'APPEND', b'PREPEND', b'MN'),
      check=lambda data, peer: peer.dport == 11211 or MEMCACHED_VERB.match(data),
      ref='https://raw.githubusercontent.com/memcached/memcached/master/doc/protocol.txt',
      replies={
          b'GET': b'END\r\n', b'GETS': b'END\r\n', b'STATS': answer_memcached_stats,
          b'VERSION': b'VERSION 1.6.0\r\n', b'FLUSH_ALL': b'OK\r\n', b'MN': b'MN\r\n',
          b'QUIT': b'',
          **dict.fromkeys((b'SET', b'ADD', b'REPLACE', b'CAS', b'APPEND', b'PREPEND'),
                          answer_memcached_store),
          **dict.fromkeys((b'DELETE', b'INCR', b'DECR', b'TOUCH'), b'NOT_FOUND\r\n')},
      other=b'ERROR\r\n')


# ---- mpd -----------------------------------------------------------------------------

@talk('mpd', words=(b'CURRENTSONG', b'LISTALLINFO'), sig=('..',),
      shared=(b'PASSWORD', b'PING', b'CLOSE', b'STATUS', b'STATS', *COMMON_WORDS), port=6600,
      size=line, limit=TEXT_MAX, ref='https://mpd.readthedocs.io/en/latest/protocol.html',
      banner=b'OK MPD 0.23.5\n')
def answer_mpd(message, peer):
    """Command -> OK to a ping; no permission."""
    verb, _, rest = message.strip().partition(b' ')
    if verb == b'ping':
        return b'OK\n'
    if verb == b'close':
        return b'', SHUT
    if verb == b'password':
        return refuse_login(peer, b'', rest.strip(b'"'),
                            b'ACK [3@0] {password} incorrect password\n')
    return b'ACK [4@0] {%s} you don\'t have permission for "%s"\n' % (verb[:32], verb[:32])


# ---- munin ---------------------------------------------------------------------------

lines('munin', 'Command -> a node without plugins.', port=4949,
      shared=(b'LIST', b'NODES', b'CONFIG', b'FETCH', b'VERSION', b'CAP'),
      ref='https://guide.munin-monitoring.org/en/latest/master/network-protocol.html',
      banner=lambda peer: b'# munin node at %s\n' % peer.host.host_name, replies={
          b'LIST': b'\n', b'CAP': b'cap\n', b'QUIT': b'',
          b'NODES': lambda rest, peer: b'%s\n.\n' % peer.host.host_name,
          b'VERSION': lambda rest, peer: b'munin node on %s version: 2.0\n' % peer.host.host_name,
          b'CONFIG': b'# Unknown service\n.\n', b'FETCH': b'# Unknown service\n.\n'},
      other=b'# Unknown command. Try cap, list, nodes, config, fetch, version or quit\n')


# ---- nats ----------------------------------------------------------------------------

NATS_REFUSAL = b"-ERR 'Authorization Violation'\r\n"
NATS_FIELD = re.compile(br'"(user|pass|auth_token)"\s*:\s*"([^"]{0,255})"')


def nats_info(peer):
    """-> the line that a server says first."""
    return (b'INFO {"server_id":"%s","version":"2.10.0","proto":1,"host":"0.0.0.0","port":4222,'
            b'"headers":true,"max_payload":1048576,"auth_required":true}\r\n'
            % peer.host.guid.hex().upper().encode())


def answer_nats_connect(rest, peer):
    """Options of a client in JSON -> an authorization violation."""
    fields = dict(NATS_FIELD.findall(rest))
    password = fields.get(b'pass', fields.get(b'auth_token', b''))
    return refuse_login(peer, fields.get(b'user', b''), password, NATS_REFUSAL), SHUT


lines('nats', 'CONNECT -> an authorization violation.', port=4222,
      sig=(b'CONNECT {', b'SUB ', b'PUB '),
      shared=(b'CONNECT', b'PING', b'PONG'), banner=nats_info,
      ref='https://docs.nats.io/reference/reference-protocols/nats-protocol', replies={
          b'CONNECT': answer_nats_connect, b'PING': b'PONG\r\n', b'PONG': b'',
          b'SUB': (NATS_REFUSAL, SHUT), b'PUB': (NATS_REFUSAL, SHUT)},
      other=(b"-ERR 'Unknown Protocol Operation'\r\n", SHUT))


# ---- pjl -----------------------------------------------------------------------------

PJL_START = b'\x1b%-12345X'
PJL_REPLIES = {
    b'INFO ID': b'@PJL INFO ID\r\n"Printer"\r\n\f',
    b'INFO STATUS': b'@PJL INFO STATUS\r\nCODE=10001\r\nDISPLAY="Ready"\r\nONLINE=TRUE\r\n\f',
}


@talk('pjl', sig=(PJL_START + b'@PJL', '..'), port=9100, size=line, limit=TEXT_MAX,
      ref='https://developers.hp.com/hp-printer-command-languages-pcl')
def answer_pjl(message, peer):
    """Question to a printer -> its name, its state.

    returns  nothing to what should be printed
    """
    text = message.replace(PJL_START, b'').strip().upper()
    if not text.startswith(b'@PJL'):
        return b''
    command = b' '.join(text.split()[1:])
    if command.startswith(b'ECHO'):
        return b'@PJL %s\r\n\f' % command
    return PJL_REPLIES.get(command, b'')


# ---- rotctl --------------------------------------------------------------------------

lines('rotctl', 'Question to an antenna rotator -> where it points.', port=4533,
      sig=(b'\\get_info',),
      ref='https://hamlib.sourceforge.net/html/rotctld.1.html', replies={
          b'\\GET_INFO': b'None\n', b'_': b'None\n', b'P': b'0.000000\n0.000000\n',
          b'\\GET_POS': b'0.000000\n0.000000\n', b'Q': (b'', SHUT)},
      other=b'RPRT -4\n')


# ---- scpi ----------------------------------------------------------------------------

lines('scpi', 'Question to an instrument -> who it is.', port=5025, sig=(b'*IDN?', b'*idn?'),
      ref='https://www.ivifoundation.org/downloads/SCPI/scpi-99.pdf', replies={
          b'*IDN?': b'Instrument,M1,0,1.0\n', b'*OPC?': b'1\n', b'*STB?': b'0\n'},
      other=b'')


# ---- stomp ---------------------------------------------------------------------------

@talk('stomp', sig=(b'CONNECT\n', b'CONNECT\r\n', b'STOMP\n', b'STOMP\r\n'), port=61613,
      limit=TEXT_MAX, size=till(b'\0'), ref='https://stomp.github.io/stomp-specification-1.2.html')
def answer_stomp(message, peer):
    """CONNECT -> an error, then the end."""
    fields = dict(parse_fields(HEAD_END.split(message, 1)[0]))
    return refuse_login(peer, fields.get(b'login', b''), fields.get(b'passcode', b''),
                        b'ERROR\nversion:1.2\nmessage:Bad credentials\n\n\0'), SHUT


# ---- telnet --------------------------------------------------------------------------

TELNET_IAC = 0xff
TELNET_WILL = 0xfb                              # RFC 854 s1
TELNET_WONT = 0xfc
TELNET_DO = 0xfd
TELNET_DONT = 0xfe
TELNET_OURS = b'\1\3'                           # RFC 857 echo, RFC 858 no go-ahead: what we do
TELNET_OFFER = b'\xff\xfb\1\xff\xfb\3'          # IAC WILL each of them
TELNET_TRIES = 3
TELNET_PIECE = re.compile(
    br'\xff(?:[\xfb-\xfe].|\xfa.*?\xff\xf0|[^\xfa-\xfe])'               # a command, or
    br'|(?!\xff)[^\r\n]*(?:\n|\r[\n\0]|\r(?=[^\n\0]))', re.S)           # a line


def telnet_size(data):
    """Octets of a command or a line."""
    match = TELNET_PIECE.match(data)
    return match.end() if match else None


def answer_telnet_option(message):
    """IAC, verb, option -> no to whatever we do not do, and to whatever they would (RFC 1143)."""
    if message[1] == TELNET_DO and message[2] not in TELNET_OURS:
        return bytes((TELNET_IAC, TELNET_WONT, message[2]))
    if message[1] == TELNET_WILL:
        return bytes((TELNET_IAC, TELNET_DONT, message[2]))
    return b''


@talk('telnet', sig=('ff fb ..', 'ff fd ..', '..'), port=(23, 992, 2323), limit=TEXT_MAX,
      size=telnet_size, ref='RFC 854 s1, RFC 1143 s7', banner=TELNET_OFFER + b'\r\nlogin: ',
      check=lambda data, peer: not data.startswith(TELNET_OFFER[:3]))
def answer_telnet(message, peer):
    """Options -> refused; name, password -> incorrect, thrice.

    state   [tries, user], user None before it is given
    """
    first = peer.state is None
    peer.state = peer.state or [0, None]
    tries, user = peer.state
    if message[0] == TELNET_IAC:
        offer = TELNET_OFFER if first and not peer.greeter else b''
        prompt = b'\r\nlogin: ' if offer else b''
        return offer + answer_telnet_option(message) + prompt
    text = message.rstrip(b'\r\n\0')
    if user is None:
        peer.state = [tries, text] if text else [tries, None]
        return b'Password: ' if text else b'login: '
    peer.state = [tries + 1, None]
    refuse_login(peer, user, text, None)
    if tries + 1 >= TELNET_TRIES:
        return b'\r\nLogin incorrect\r\n', SHUT
    return b'\r\nLogin incorrect\r\nlogin: '


# ---- tor-control ---------------------------------------------------------------------

lines('tor-control', 'Command -> a password, please.', port=(9051, 9151),
      words=(b'PROTOCOLINFO', b'AUTHENTICATE', b'GETINFO'), shared=(b'SIGNAL', b'GETCONF'),
      ref='https://spec.torproject.org/control-spec/commands.html', replies={
          b'PROTOCOLINFO': b'250-PROTOCOLINFO 1\r\n250-AUTH METHODS=HASHEDPASSWORD\r\n'
                           b'250-VERSION Tor="0.4.8.0"\r\n250 OK\r\n',
          b'AUTHENTICATE': lambda rest, peer: (refuse_login(
              peer, b'', rest.strip(b'"'), b'515 Authentication failed\r\n'), SHUT),
          b'QUIT': b'250 closing connection\r\n'},
      other=(b'514 Authentication required\r\n', SHUT))


# ---- zookeeper -----------------------------------------------------------------------

ZOOKEEPER_VERSION = b'Zookeeper version: 3.8.0\n'
ZOOKEEPER_WORDS = {
    b'ruok': b'imok', b'isro': b'rw',
    b'wchs': b'0 connections watching 0 paths\nTotal watches:0\n',
    b'srvr': ZOOKEEPER_VERSION + b'Connections: 1\nMode: standalone\nNode count: 4\n',
    b'mntr': b'zk_version\t3.8.0\nzk_server_state\tstandalone\nzk_znode_count\t4\n',
    b'envi': b'Environment:\nzookeeper.version=3.8.0\n',
}
ZOOKEEPER_SHARED = b'stat', b'conf', b'cons', b'dump', b'wchc', b'wchp', b'crst', b'srst'


@talk('zookeeper', sig=(*ZOOKEEPER_WORDS, *ZOOKEEPER_SHARED), port=2181, size=fix(4),
      check=lambda data, peer: data[:4] in ZOOKEEPER_WORDS or peer.dport == 2181,
      ref='https://zookeeper.apache.org/doc/current/zookeeperAdmin.html')
def answer_zookeeper(message, peer):
    """A word of four letters -> what it asks for, then the end."""
    refusal = b'%s is not executed because it is not in the whitelist.\n' % message
    return ZOOKEEPER_WORDS.get(message, refusal), SHUT


family('Applications')


# ---- ajp13 ---------------------------------------------------------------------------

AJP_HEAD = struct.Struct('!2sHB')       # from the web server: magic size kind
AJP_FORWARD, AJP_PING = 2, 10
AJP_PONG = b'AB\0\1\x09'
# Packets to it: send headers, 401, no fields; end, the connection may be used again
AJP_REFUSAL = (b'AB' + sized(b'\4\1\x91' + sized(b'Unauthorized') + b'\0\0\0')
               + b'AB' + sized(b'\5\1'))


@talk('ajp13', sig=('12 34 .. .. 02', '12 34 .. .. 0a'), port=8009, size=be(2, 2, 4), limit=8192,
      ref='https://tomcat.apache.org/connectors-doc/ajp/ajpv13a.html')
def answer_ajp13(message, peer):
    """Ping -> pong; a request -> 401."""
    _, _, kind = AJP_HEAD.unpack_from(message)
    if kind == AJP_PING:
        return AJP_PONG
    return AJP_REFUSAL if kind == AJP_FORWARD else None


# ---- apcupsd -------------------------------------------------------------------------

@talk('apcupsd', sig=(b'\0\6status', b'\0\6events'), port=3551, size=be(0, 2, 2), limit=64,
      ref='https://www.apcupsd.org/manual/')
def answer_apcupsd(message, peer):
    """State of a power supply, its events -> a line, none."""
    rows = (b'STATUS   : ONLINE\n',) if message[2:] == b'status' else ()
    return b''.join(map(sized, rows)) + b'\0\0'


# ---- bgp -----------------------------------------------------------------------------

BGP_HEAD = struct.Struct('!16sHB')      # RFC 4271 s4.1: marker size type
BGP_MARKER = b'\xff' * 16
BGP_OPEN, BGP_NOTIFICATION, BGP_KEEPALIVE = 1, 3, 4
BGP_REJECTED = b'\6\5'                  # RFC 4486 s4: cease, connection rejected


def pack_bgp(kind, body):
    """Type, body -> message."""
    return BGP_HEAD.pack(BGP_MARKER, BGP_HEAD.size + len(body), kind) + body


@talk('bgp', sig=('ff ' * 16 + '.. .. 01 04',), port=179, size=be(16, 2, 0), limit=4096,
      ref='RFC 4271 s4.2, s4.5, RFC 4486 s4')
def answer_bgp(message, peer):
    """Open -> ours, and a notification that the connection is rejected."""
    hold, = struct.unpack_from('!H', message, 22)
    ours = struct.pack('!BHH4sB', 4, 23456, hold, peer.dst[-4:], 0)     # RFC 6793 s9: AS_TRANS
    return pack_bgp(BGP_OPEN, ours) + pack_bgp(BGP_NOTIFICATION, BGP_REJECTED), SHUT


# ---- cgminer -------------------------------------------------------------------------

@talk('cgminer', sig=(b'{"command":', b'{"command" :'), port=4028, size=till(b'}'), limit=TEXT_MAX,
      ref='https://github.com/ckolivas/cgminer/blob/master/API-README')
def answer_cgminer(message, peer):
    """Command to a miner -> access denied."""
    peer.note('command', words=message)
    return (b'{"STATUS":[{"STATUS":"E","When":%d,"Code":45,"Msg":"Access denied"}],"id":1}\0'
            % peer.now), SHUT


# ---- checkpoint ----------------------------------------------------------------------

CHECKPOINT_NAME = b'securemote\0'


@talk('checkpoint', sig=('51 00 00 00 00 00 00 21',), port=264, limit=64,
      size=lambda data: 8 if data[:1] == b'Q' else be(0, 4, 4)(data),
      ref='https://github.com/praetorian-inc/nerva/tree/main/pkg/plugins/services')
def answer_checkpoint(message, peer):
    """Opening -> ours; name of the service -> our name."""
    if message[:1] == b'Q':
        return b'Y\0\0\0'
    if message[4:] != CHECKPOINT_NAME:
        return None
    return sized(b'CN=%s,O=%s\0' % (peer.host.host_name, peer.host.host_name), 4) + bytes(4), SHUT


# ---- dahua ---------------------------------------------------------------------------

DAHUA_HEAD = struct.Struct('<I4sIIIIII')        # 32, magic, session, id, size, 0, size, 0
DAHUA_FIELD = re.compile(br'"(userName|password)" ?: ?"([^"]{0,128})"')
DAHUA_REFUSED = 268632085


@talk('dahua', sig=(b'\x20\0\0\0DHIP',), port=37777, size=le(16, 4, DAHUA_HEAD.size),
      ref='https://github.com/mcw0/DahuaConsole')
def answer_dahua(message, peer):
    """Login to a camera -> not valid."""
    _, _, session, ident, _, _, _, _ = DAHUA_HEAD.unpack_from(message)
    if b'"method"' not in message:
        return None
    fields = dict(DAHUA_FIELD.findall(message))
    peer.note('credentials', user=fields.get(b'userName', b''),
              password=fields.get(b'password', b''))
    text = b'{"error":{"code":%d},"id":%d,"result":false}\n' % (DAHUA_REFUSED, ident)
    return DAHUA_HEAD.pack(32, b'DHIP', session, ident, len(text), 0, len(text), 0) + text


# ---- diameter ------------------------------------------------------------------------

# RFC 6733 s3: version and size, flags and command, application, two ids
DIAMETER_HEAD = struct.Struct('!IIIII')
DIAMETER_AVP = struct.Struct('!II')     # s4.1: code, flags-size; no vendor
DIAMETER_EXCHANGE = 257                 # s5.3
DIAMETER_HOST, DIAMETER_REALM, DIAMETER_RESULT = 264, 296, 268
DIAMETER_ADDRESS, DIAMETER_VENDOR, DIAMETER_PRODUCT = 257, 266, 269
DIAMETER_UNKNOWN_PEER = 3010            # s7.1.3


def pack_avp(code, data):
    """A mandatory AVP."""
    return DIAMETER_AVP.pack(code, 0x40 << 24 | DIAMETER_AVP.size + len(data)) + data + bytes(
        -len(data) % 4)


def diameter_host(message):
    """Who says it is there; b'': nobody."""
    at = DIAMETER_HEAD.size
    while at + DIAMETER_AVP.size <= len(message):
        code, size = DIAMETER_AVP.unpack_from(message, at)
        size &= 0xffffff
        if code == DIAMETER_HOST:
            return message[at + DIAMETER_AVP.size:at + size]
        at += max(size + 3 & ~3, DIAMETER_AVP.size)
    return b''


@talk('diameter', sig=('01 00 .. .. 80 00 01 01 00 00 00 00',), port=3868,
      size=be(1, 3, 0), limit=4096, ref='RFC 6733 s5.3, s7.1.3')
def answer_diameter(message, peer):
    """Exchange of capabilities -> the peer is not known."""
    _, _, _, hop, end = DIAMETER_HEAD.unpack_from(message)
    peer.note('credentials', user=diameter_host(message))
    family = b'\0\1' if len(peer.dst) == 4 else b'\0\2'
    body = b''.join(pack_avp(code, data) for code, data in (
        (DIAMETER_RESULT, struct.pack('!I', DIAMETER_UNKNOWN_PEER)),
        (DIAMETER_HOST, peer.host.host_name), (DIAMETER_REALM, b'example.org'),
        (DIAMETER_ADDRESS, family + peer.dst), (DIAMETER_VENDOR, bytes(4)),
        (DIAMETER_PRODUCT, b'server')))
    return DIAMETER_HEAD.pack(1 << 24 | DIAMETER_HEAD.size + len(body), DIAMETER_EXCHANGE, 0, hop,
                              end) + body, SHUT


# ---- dicom ---------------------------------------------------------------------------

DICOM_ASSOCIATE = struct.Struct('!BxIHxx16s16s')        # PS3.8 s9.3.2: type size version names
DICOM_REJECTED = b'\3\0\0\0\0\4\0\1\1\3'             # PS3.8 s9.3.4: for good, unknown caller


@talk('dicom', sig=('01 00 00 00 .. .. 00 01 00 00',), port=(104, 11112), size=be(2, 4, 6),
      ref='https://dicom.nema.org/medical/dicom/current/output/chtml/part08/sect_9.3.html')
def answer_dicom(message, peer):
    """Wish for an association -> rejection: the calling title is not known."""
    _, _, _, called, calling = DICOM_ASSOCIATE.unpack_from(message)
    peer.note('credentials', user=calling.strip(), target=called.strip())
    return DICOM_REJECTED, SHUT


# ---- dvrip ---------------------------------------------------------------------------

# 0xff version reserved session sequence, two zeros, message size
DVRIP_HEAD = struct.Struct('<BBHIIBBHI')
DVRIP_LOGIN, DVRIP_REFUSED = 1000, 203          # the answer's number is one more
DVRIP_FIELD = re.compile(br'"(UserName|PassWord)" ?: ?"([^"]{0,128})"')


@talk('dvrip', sig=['ff %s 00 00%s e8 03' % (version, ' ..' * 10) for version in ('00', '01')],
      port=34567, size=le(16, 4, DVRIP_HEAD.size), ref='https://github.com/OpenIPC/python-dvr')
def answer_dvrip(message, peer):
    """Login to a recorder -> the password is incorrect."""
    _, version, _, _, sequence, _, _, number, _ = DVRIP_HEAD.unpack_from(message)
    if number != DVRIP_LOGIN:
        return None
    fields = dict(DVRIP_FIELD.findall(message))
    peer.note('credentials', user=fields.get(b'UserName', b''),
              digest=fields.get(b'PassWord', b''))
    text = b'{ "Ret" : %d, "SessionID" : "0x00000000" }\n\0' % DVRIP_REFUSED
    return DVRIP_HEAD.pack(0xff, version, 0, 0, sequence, 0, 0, number + 1, len(text)) + text


# ---- flash-policy --------------------------------------------------------------------

@talk('flash-policy', sig=(b'<policy-file-request/>\0',), port=843, size=till(b'\0'), limit=64,
      ref='https://www.adobe.com/devnet/articles/crossdomain_policy_file_spec.html')
def answer_flash_policy(message, peer):
    """Which domains may connect -> none."""
    return b'<?xml version="1.0"?><cross-domain-policy></cross-domain-policy>\0', SHUT


# ---- hl7 -----------------------------------------------------------------------------

@talk('hl7', sig=(b'\x0bMSH|',), port=2575, size=till(b'\x1c\r'),
      ref='https://www.hl7.org/implement/standards/product_brief.cfm?product_id=55')
def answer_hl7(message, peer):
    """Message of MLLP -> its acknowledgement: application reject."""
    fields = message[1:].split(b'\r', 1)[0].split(b'|', 12)
    if fields[8].startswith(b'ACK'):
        return b''
    ident = fields[9][:199]             # HL7 v2: MSH-10
    return b'\x0bMSH|%s|||||%s||ACK|%s|P|2.5\rMSA|AR|%s\r\x1c\r' % (
        fields[1], time.strftime('%Y%m%d%H%M%S', time.gmtime(peer.now)).encode(), ident, ident)


# ---- java-rmi ------------------------------------------------------------------------

RMI_CALL, RMI_PING = 0x50, 0x52


def size_rmi(data):
    """The head; after it the client's end point, a call, which has no length, or a ping."""
    if b'JRMI'.startswith(data[:4]):
        return 7
    return len(data) if data[:1] == b'P' else 1 if data[:1] == b'R' else be(0, 2, 6)(data)


@talk('java-rmi', sig=('4a 52 4d 49 00 02 4b',), port=1099, size=size_rmi,
      ref='https://docs.oracle.com/javase/8/docs/platform/rmi/spec/rmi-protocol3.html')
def answer_rmi(message, peer):
    """Head -> its end point; a ping -> the same; a call is noted and ends it.

    state   'greeted'
    """
    if peer.state is None:
        peer.state = 'greeted'
        return b'N' + sized(ip_text(peer.src).encode()) + struct.pack('!I', peer.sport)
    if message[0] == RMI_CALL:
        peer.note('command', words=message[:1024])
        return b'', SHUT
    return b'S' if message[0] == RMI_PING else b''


# ---- jdwp ----------------------------------------------------------------------------

JDWP_HELLO = b'JDWP-Handshake'
JDWP_HEAD = struct.Struct('!IIBBB')     # size id flags set command; in a reply the error
JDWP_VERSION, JDWP_SIZES = (1, 1), (1, 7)
JDWP_NOT_IMPLEMENTED = 99
JDWP_SAYS = {
    JDWP_VERSION: sized(b'JDWP 1.8', 4) + struct.pack('!II', 1, 8) + sized(b'1.8', 4) * 2,
    JDWP_SIZES: struct.pack('!5I', 8, 8, 8, 8, 8)}


@talk('jdwp', sig=(JDWP_HELLO,), port=(8000, 5005),
      size=lambda data: (fix(14) if data[:1] == b'J' else be(0, 4, 0))(data),
      ref='https://docs.oracle.com/javase/8/docs/technotes/guides/jpda/jdwp-spec.html')
def answer_jdwp(message, peer):
    """Handshake -> the same, once; version, sizes -> ours; any other command -> error."""
    if message == JDWP_HELLO:
        given = None if peer.state else JDWP_HELLO
        peer.state = 'greeted'
        return given
    _, ident, flags, *command = JDWP_HEAD.unpack_from(message)
    if flags & 0x80:
        return None
    body = JDWP_SAYS.get(tuple(command), b'')
    error = 0 if body else JDWP_NOT_IMPLEMENTED
    return struct.pack('!IIBH', JDWP_HEAD.size + len(body), ident, 0x80, error) + body


# ---- nje -----------------------------------------------------------------------------

NJE_RECORD = struct.Struct('!8s8s4s8s4sB')      # kind, remote node and address, ours, reason
NJE_OPEN = 'OPEN    '.encode('cp037')
NJE_REFUSED = 'NAK     '.encode('cp037')


@talk('nje', sig=(NJE_OPEN,), port=175, size=fix(NJE_RECORD.size),
      ref='https://www.ibm.com/docs/en/zos/2.5.0?topic=connections-nje-over-tcpip')
def answer_nje(message, peer):
    """Open between two nodes -> no such node."""
    _, their, their_ip, our, our_ip, _ = NJE_RECORD.unpack(message)
    peer.note('credentials', user=our.decode('cp037').strip(),
              target=their.decode('cp037').strip())
    return NJE_RECORD.pack(NJE_REFUSED, our, our_ip, their, their_ip, 1), SHUT


# ---- nrpe ----------------------------------------------------------------------------

# Octets of a packet without its text: version kind crc result, from version 3 on alignment, size
NRPE_HEADS = {2: 10, 3: 16, 4: 16}
NRPE_PADDING = {2: 2, 3: 3, 4: 0}       # behind it; of version 2 it has 1,024 octets
NRPE_CHECK, NRPE_UNKNOWN = b'_NRPE_CHECK', 3


def size_nrpe(data):
    """1,036 octets, or what the head says."""
    version = data[1]
    return 1036 if version == 2 else be(12, 4, 16 + NRPE_PADDING[version])(data)


@talk('nrpe', sig=('00 02 00 01 .. .. .. .. .. .. ..', '00 03 00 01 .. .. .. .. .. .. 00 00 00 00',
                   '00 04 00 01 .. .. .. .. .. .. 00 00 00 00'), port=5666, size=size_nrpe,
      limit=4096,
      check=lambda data, peer: data[1] > 2 or 0x20 < data[10] < 0x7f,
      ref='https://github.com/NagiosEnterprises/nrpe/blob/master/docs/NRPE.odt')
def answer_nrpe(message, peer):
    """Check of a service -> not defined; of us -> our version."""
    version = message[1]
    command = message[NRPE_HEADS[version]:].split(b'\0')[0]
    peer.note('command', words=command)
    text, result = b"NRPE: Command '%s' not defined" % command[:64], NRPE_UNKNOWN
    if command == NRPE_CHECK:
        text, result = b'NRPE v4.1.0', 0
    text = text.ljust(1024 if version == 2 else len(text) + 1, b'\0')
    size = b'' if version == 2 else struct.pack('!HI', 0, len(text))
    out = message[:2] + b'\0\2' + bytes(4) + struct.pack('!H', result) + size + text + bytes(
        NRPE_PADDING[version])
    return out[:4] + struct.pack('!I', zlib.crc32(out)) + out[8:], SHUT


# ---- nut -----------------------------------------------------------------------------

def answer_nut_user(rest, peer):
    """Name -> go on."""
    peer.state = rest
    return b'OK\n'


def answer_nut_password(rest, peer):
    """Password -> go on: the login itself is refused."""
    peer.note('credentials', user=peer.state or b'', password=rest)
    return b'OK\n'


lines('nut', 'Question about a power supply -> there is none; a login is refused.', port=3493,
      ref='RFC 9271 s4', shared=(b'VER', b'NETVER', b'PROTVER', b'LIST', b'GET', b'LOGIN'),
      quits=(b'LOGOUT', b'QUIT'), other=b'ERR UNKNOWN-COMMAND\n', replies={
          b'VER': b'Network UPS server\n', b'NETVER': b'1.3\n', b'PROTVER': b'1.3\n',
          b'LIST': lambda rest, peer: (b'BEGIN LIST UPS\nEND LIST UPS\n' if rest.upper() == b'UPS'
                                       else b'ERR UNKNOWN-UPS\n'),
          b'GET': b'ERR UNKNOWN-UPS\n', b'USERNAME': answer_nut_user,
          b'PASSWORD': answer_nut_password, b'LOGIN': b'ERR ACCESS-DENIED\n',
          b'LOGOUT': b'OK Goodbye\n', b'QUIT': b'OK Goodbye\n'})


# ---- smart-install -------------------------------------------------------------------

@talk('smart-install', sig=('00 00 00 01 00 00 00 01 00 00 00 04 00 00 00 08' + ' ..' * 8,),
      port=4786, size=fix(24), ref='https://github.com/Cisco-Talos/smi_check')
def answer_smart_install(message, peer):
    """The question of Talos' check -> a director's answer."""
    return struct.pack('!6I', 4, 0, 3, 8, 1, 0), SHUT


# ---- smpp ----------------------------------------------------------------------------

SMPP_HEAD = struct.Struct('!IIII')      # SMPP 3.4 s3.2: size command status sequence
SMPP_BINDS = 1, 2, 9                    # receiver, transmitter, transceiver
SMPP_LINK, SMPP_UNBIND, SMPP_NACK, SMPP_RESPONSE = 0x15, 6, 0x80000000, 0x80000000
SMPP_BIND_FAILED, SMPP_UNKNOWN = 0x0e, 3        # SMPP 3.4 s5.1.3: status


@talk('smpp', sig=('00 00 00 .. 00 00 00 .. 00 00 00 00',), port=2775,
      check=lambda data, peer: data[3] >= SMPP_HEAD.size and data[7] in (*SMPP_BINDS, SMPP_LINK),
      size=be(0, 4, 0), ref='https://smpp.org/SMPP_v3_4_Issue1_2.pdf')
def answer_smpp(message, peer):
    """Bind -> refusal; is the link alive -> it is; all else -> unknown."""
    _, command, _, sequence = SMPP_HEAD.unpack_from(message)
    if command & SMPP_RESPONSE:
        return b''
    kind, status, name = command | SMPP_RESPONSE, 0, b''
    if command in SMPP_BINDS:
        user, password = message[SMPP_HEAD.size:].split(b'\0')[:2]
        peer.note('credentials', user=user, password=password)
        status, name = SMPP_BIND_FAILED, b'\0'
    elif command not in (SMPP_LINK, SMPP_UNBIND):
        kind, status = SMPP_NACK, SMPP_UNKNOWN
    return (SMPP_HEAD.pack(SMPP_HEAD.size + len(name), kind, status, sequence) + name,
            status == SMPP_BIND_FAILED or command == SMPP_UNBIND)


# ---- stratum -------------------------------------------------------------------------

STRATUM_FIELD = re.compile(br'"(id|method|login|pass)" ?: ?"?([^",}\]]{0,128})')
STRATUM_WORKER = re.compile(br'"params" ?: ?\[ ?"([^"]{0,128})" ?(?:, ?"([^"]{0,128})")?')
STRATUM_REFUSED = (b'{"id":%s,"jsonrpc":"2.0","result":null,'
                   b'"error":{"code":24,"message":"Unauthorized worker"}}\n')


@talk('stratum', sig=(b'{"id":', b'{"method":', b'{"jsonrpc":', b'{"params":', b'{"id" :'),
      port=(3333, 4444, 14444), size=line, limit=4096,
      ref='https://en.bitcoin.it/wiki/Stratum_mining_protocol')
def answer_stratum(message, peer):
    """Call of a miner -> it is not authorized."""
    if b'"result"' in message or b'"error"' in message:     # an answer
        return None
    fields = dict(STRATUM_FIELD.findall(message))
    ident = fields.get(b'id', b'null')
    worker = STRATUM_WORKER.search(message)
    user, password = worker.groups() if worker else (fields.get(b'login'), fields.get(b'pass'))
    if user is None:
        peer.note('request', method=fields.get(b'method', b''))
    else:
        peer.note('credentials', user=user, password=password or b'')
    return STRATUM_REFUSED % (ident if ident.isdigit() else b'null')


# ---- weblogic-t3 ---------------------------------------------------------------------

@talk('weblogic-t3', sig=(b't3 ', b't3s '), port=7001, size=till(b'\n\n'), limit=1024,
      ref='https://docs.oracle.com/en/middleware/fusion-middleware/weblogic-server/12.2.1.4/')
def answer_t3(message, peer):
    """Version and options -> ours; what follows is not read."""
    if peer.state:
        return None
    peer.state = 'greeted'
    return b'HELO:12.2.1.4.0.false\nAS:2048\nHL:19\n\n'


# ---- zabbix --------------------------------------------------------------------------

ZABBIX_HEAD = struct.Struct('<4sBII')   # magic flags size reserved


@talk('zabbix', sig=('5a 42 58 44 01 .. .. 00 00 00 00 00 00',), port=(10050, 10051),
      size=le(5, 4, ZABBIX_HEAD.size),
      ref='https://www.zabbix.com/documentation/current/en/manual/appendix/protocols')
def answer_zabbix(message, peer):
    """Key of an agent -> not supported; a request of JSON -> failed."""
    body = message[ZABBIX_HEAD.size:]
    says = b'{"response":"failed","info":"unknown host"}'
    if body[:1] != b'{':
        says = b'1' if body.strip() == b'agent.ping' else b'ZBX_NOTSUPPORTED\0unknown key'
    return ZABBIX_HEAD.pack(b'ZBXD', 1, len(says), 0) + says, SHUT


family('Single products')

# ---- amanda --------------------------------------------------------------------------
AMANDA_ASK = re.compile(br'(Amanda 2\.\d{1,2} )REQ( HANDLE \S{1,32} SEQ \d{1,10}\n)')


@datagram('amanda', sig=(b'Amanda 2.',), port=10080,
          check=lambda data, peer: AMANDA_ASK.match(data),
          ref='https://wiki.zmanda.com/index.php/Amanda_protocol')
def answer_amanda(message, peer):
    """Request for a service -> refusal, no longer than that."""
    peer.note('request', command=message[:TEXT_MAX])
    return AMANDA_ASK.sub(br'\1NAK\2ERROR\n', message, 1)[:AMANDA_ASK.match(message).end() + 6]


# ---- check-mk ------------------------------------------------------------------------

def report_check_mk(peer):
    """-> all that an agent says to a stranger."""
    name = peer.host.host_name
    return b'<<<check_mk>>>\nVersion: 2.0\nAgentOS: linux\nHostname: %s\n' % name, SHUT


@talk('check-mk', sig=('..',), port=6556, banner=report_check_mk,
      ref='https://docs.checkmk.com/latest/en/agent_linux.html')
def answer_check_mk(message, peer):
    """Anything -> who we are, then the end."""
    return report_check_mk(peer)


# ---- gdb -----------------------------------------------------------------------------

@talk('gdb', sig=(b'$qSupported', b'+$qSupported'), port=(1234, 2159, 2345), limit=1024,
      size=lambda data: till(b'#')(data) and till(b'#')(data) + 2,
      ref='https://sourceware.org/gdb/current/onlinedocs/gdb.html/Packets.html')
def answer_gdb(message, peer):
    """A packet of a debugger -> an empty one: this is not supported."""
    peer.note('request', command=message[:TEXT_MAX])
    return b'+$#00'


# ---- nsca ----------------------------------------------------------------------------

@talk('nsca', sig=('..',), port=5667, size=fix(720),
      ref='https://github.com/NagiosEnterprises/nsca',
      banner=lambda peer: peer.host.random(128) + struct.pack('!I', peer.second))
def answer_nsca(message, peer):
    """Result of a check, encrypted -> noted, and nothing is said."""
    peer.note('request', data=message)


# ---- pjlink --------------------------------------------------------------------------

@talk('pjlink', sig=(b'%1', b'%2'), port=4352, size=till(b'\r'), limit=256,
      ref='https://pjlink.jbmia.or.jp/english/data_cl2/PJLink_5-1.pdf',
      banner=lambda peer: b'PJLINK 1 %s\r' % peer.host.random(4).hex().encode())
def answer_pjlink(message, peer):
    """Question to a projector -> a password is wanted."""
    peer.note('request', command=message)
    return b'PJLINK ERRA\r'


# ---- sane ----------------------------------------------------------------------------

SANE_INIT, SANE_LIST, SANE_EXIT = 0, 1, 10
SANE_DENIED = 11                        # SANE_STATUS_ACCESS_DENIED


def size_sane(data):
    """A request to open a session ends with a name, one for a list is alone; of others all."""
    if len(data) < 4:
        return None
    if data[:4] == bytes(4):
        return be(8, 4, 12)(data)
    return 4 if data[:4] == b'\0\0\0\1' else len(data)


@talk('sane', sig=('00 00 00 00 01 00 00 .. 00 00 00 .. ..',), port=6566, size=size_sane,
      limit=512, check=lambda data, peer: data[11] and data[12] > 0x20,
      ref='https://sane-project.gitlab.io/standard/net.html')
def answer_sane(message, peer):
    """Start of a session, list of scanners -> yes, none; all else is denied."""
    kind = from_octets(message[:4], 'big')
    if kind == SANE_INIT:
        peer.note('credentials', user=read_sized(message, 8, 4)[0].rstrip(b'\0'))
        return bytes(4) + message[4:8]
    if kind == SANE_LIST:
        return bytes.fromhex('00000000 00000001 00000001')      # a list of a null pointer
    return struct.pack('!I', SANE_DENIED), SHUT


# ---- lines of single products --------------------------------------------------------

def refuse_password(answer):
    """-> what refuses a line with a password, and ends it."""
    return lambda rest, peer: (refuse_login(peer, b'', rest, answer), SHUT)


def ask_openvpn(peer):
    """-> the question for a password, which is the next line."""
    peer.state = (b'PASS',)
    return b'ENTER PASSWORD:'


SPAMD_VERBS = [b'%s SPAMC/' % verb for verb in (
    b'CHECK', b'HEADERS', b'PING', b'PROCESS', b'REPORT', b'SYMBOLS', b'TELL')]
# name, what --protocols says, port, first octets, banner, {VERB: answer}, other, specification
ODDITIES = (
    ('freeswitch', 'Password of the event socket -> it is wrong.', 8021, (),
     b'Content-Type: auth/request\n\n', {b'AUTH': refuse_password(
         b'Content-Type: command/reply\nReply-Text: -ERR invalid\n\n')},
     b'Content-Type: command/reply\nReply-Text: -ERR command not found\n\n',
     'https://developer.signalwire.com/freeswitch/FreeSWITCH-Explained/Modules/'
     'mod_event_socket_1048924/'),
    ('lcdproc', 'Hello of a display -> its size; all else is unknown.', 13666, (), None,
     {b'HELLO': b'connect LCDproc 0.5.9 protocol 0.4 lcd wid 20 hgt 4 cellwid 5 cellhgt 8\n',
      b'BYE': b''}, b'huh? Invalid command\n', 'https://lcdproc.sourceforge.net/docs/'),
    ('nsclient', 'Password and a question -> the password is wrong.', 12489, (b'None&',), None, {},
     b'ERROR: Invalid password.', 'https://nsclient.org/docs/reference/windows/NSClientServer/'),
    ('openvpn-control', 'Password of the management interface -> it is wrong.', 7505, (),
     ask_openvpn, {b'PASS': refuse_password(b'ERROR: bad password\r\n')}, b'ENTER PASSWORD:',
     'https://openvpn.net/community-docs/management-interface.html'),
    ('spamd', 'PING -> PONG; a mail -> there is no service.', 783, SPAMD_VERBS, None,
     {b'PING': b'SPAMD/1.5 0 PONG\r\n'}, (b'SPAMD/1.0 69 Unavailable\r\n', SHUT),
     'https://github.com/apache/spamassassin/blob/trunk/spamd/PROTOCOL'),
    ('svdrp', 'Command to a video recorder -> access is denied.', 6419, (),
     lambda peer: b'220 %s SVDRP VideoDiskRecorder 2.6; UTF-8\r\n' % peer.host.host_name,
     {b'QUIT': b'221 closing connection\r\n'}, (b'554 Access denied\r\n', SHUT),
     'https://www.tvdr.de/svdrp.htm'),
    ('varnish', 'Command, login with a digest -> it is wanted.', 6082, (),
     lambda peer: b'107 59      \n%s\n\nAuthentication required.\n\n' % (
         peer.host.random(16).hex().translate(str.maketrans('0123456789', 'ghijklmnop')).encode()),
     {b'AUTH': refuse_password(b'107 25      \nAuthentication required.\n\n')},
     b'107 25      \nAuthentication required.\n\n',
     'https://varnish-cache.org/docs/trunk/reference/varnish-cli.html'),
)
for oddity, about, port, sigs, banner, replies, other, ref in ODDITIES:
    lines(oddity, about, sig=sigs, port=port, banner=banner, replies=replies, other=other, ref=ref,
          quits=(b'QUIT', b'BYE', b'PING'))


family('Industrial')


# ---- atg -----------------------------------------------------------------------------

ATG_ASKED = re.compile(br'[\1^]A?([IS][0-9]{5})')      # function and tank; S sets something
ATG_REPORT = (b'\1\r\nI20100\r\n%s\r\n\r\nSTATION\r\n\r\nIN-TANK INVENTORY\r\n\r\n'
              b'TANK PRODUCT             VOLUME TC VOLUME   ULLAGE   HEIGHT    WATER     TEMP\r\n'
              b'  1  UNLEADED              4012      3987     5988    41.20     0.00    61.30\r\n'
              b'\r\n\3')
ATG_UNKNOWN = b'\x019999FF1B\3'


@talk('atg', sig=('01 49 .. .. .. .. ..', '01 53 .. .. .. .. ..', b'^AI20100'), port=10001,
      check=lambda data, peer: bool(ATG_ASKED.match(data)),
      size=lambda data: 8 if data[:1] == b'^' else 1 if data[:1] in b'\r\n' else 7,
      ref='https://cdn.chipkin.com/files/liz/576013-635.pdf')
def answer_atg(message, peer):
    """What is in the tanks -> a tank; all else is refused."""
    match = ATG_ASKED.match(message)
    if not match:
        return b'' if message in b'\r\n' else None
    if match.group(1) == b'I20100':
        return ATG_REPORT % time.strftime('%b %d, %Y %I:%M %p',
                                          time.gmtime(peer.now)).upper().encode()
    peer.note('request', function=match.group(1))
    return ATG_UNKNOWN


# ---- codesys -------------------------------------------------------------------------

# The identification that version 2 gives: texts at fixed places
CODESYS_IDENT = (bytes(59) + b'Linux'.ljust(32, b'\0') + b'generic'.ljust(32, b'\0')
                 + b'PLC runtime 2.3'.ljust(32, b'\0'))


@talk('codesys', sig=('bb bb 01 00 00 00 01', 'bb bb 01 00 00 01 01'), port=(2455, 1200),
      size=fix(7), ref='https://github.com/praetorian-inc/nerva/blob/main/pkg/plugins/services/'
                       'codesys/codesys.go')
def answer_codesys(message, peer):
    """Login of either byte order -> what runs here."""
    size = len(CODESYS_IDENT)
    return b'\xbb\xbb' + size.to_bytes(4, 'big' if message[5] else 'little') + CODESYS_IDENT


# ---- crimson -------------------------------------------------------------------------

CRIMSON_TEXTS = {0x012b: b'Vendor', 0x012a: b'HMI'}     # registers


@talk('crimson', sig=('00 04 01 2b 1b 00', '00 04 01 2a 1a 00'), port=789, size=be(0, 2, 2),
      limit=1024, ref='https://github.com/praetorian-inc/nerva/blob/main/pkg/plugins/services/'
                      'crimsonv3/crimsonv3.go')
def answer_crimson(message, peer):
    """Register of a text -> the text; all else -> silence."""
    register, kind = struct.unpack_from('!HH', message, 2)
    text = CRIMSON_TEXTS.get(register)
    return text and sized(struct.pack('!HH', register, kind) + text + b'\0')


# ---- dnp3 ----------------------------------------------------------------------------

DNP3_HEAD = struct.Struct('<HBBHHH')    # IEEE 1815 s9.2.4: start size control to from crc
DNP3_RESET, DNP3_TEST, DNP3_CONFIRMED, DNP3_UNCONFIRMED, DNP3_STATUS = 0, 2, 3, 4, 9
DNP3_ACK, DNP3_SUPPORTED, DNP3_NOT_SUPPORTED = 0, 11, 15
DNP3_READ, DNP3_CONFIRM, DNP3_RESPONSE = 1, 0, 129
DNP3_NOTHING, DNP3_NO_FUNCTION = b'\0\0', b'\0\1'       # internal indications
DNP3_BLOCK = 16                         # octets of data before each further CRC


def dnp3_crc(octets):
    """CRC-16 of IEEE 1815 s9.2.4.3, lowest octet first."""
    crc = 0
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0xa6bc if crc & 1 else 0)
    return struct.pack('<H', crc ^ 0xffff)


def size_dnp3(data):
    """Head, then data in blocks, each with its CRC."""
    if len(data) < 3:
        return None
    count = data[2] - 5
    return DNP3_HEAD.size + count - 2 * (-count // DNP3_BLOCK) if count >= 0 else -1


def pack_dnp3(control, to, source, data=b''):
    """A frame of up to one block."""
    head = DNP3_HEAD.pack(0x6405, 5 + len(data), control, to, source, 0)[:-2]
    return head + dnp3_crc(head) + (data + dnp3_crc(data) if data else b'')


@talk('dnp3', sig=('05 64 .. c0', '05 64 .. c4', '05 64 .. c9'), port=20000, size=size_dnp3,
      limit=292, ref='https://standards.ieee.org/ieee/1815/5414/')
def answer_dnp3(message, peer):
    """Status of the link, read -> it is there, nothing new; all else is refused.

    state  the address that was asked first: others are not ours
    """
    _, _, control, to, source, _ = DNP3_HEAD.unpack_from(message)
    if peer.state is None:
        peer.state = to
    if dnp3_crc(message[:8]) != message[8:10] or to != peer.state or not control & 0x40:
        return b''
    function, data = control & 15, message[DNP3_HEAD.size:]
    if function in (DNP3_CONFIRMED, DNP3_UNCONFIRMED):
        out = pack_dnp3(DNP3_ACK, source, to) if function == DNP3_CONFIRMED else b''
        _, order, asked = data[:3]
        if asked == DNP3_CONFIRM:
            return out
        if asked != DNP3_READ:
            peer.note('request', function=asked, data=data[3:])
        says = bytes((0xc0, 0xc0 | order & 15, DNP3_RESPONSE))
        return out + pack_dnp3(0x44, source, to, says + (
            DNP3_NOTHING if asked == DNP3_READ else DNP3_NO_FUNCTION))
    return pack_dnp3({DNP3_STATUS: DNP3_SUPPORTED, DNP3_RESET: DNP3_ACK, DNP3_TEST: DNP3_ACK}.get(
        function, DNP3_NOT_SUPPORTED), source, to)


# ---- ethernet-ip ---------------------------------------------------------------------

# CIP vol. 2 s2-3.1: command size session status context options
ENIP_HEAD = struct.Struct('<HHIIQI')
ENIP_SERVICES, ENIP_IDENTITY, ENIP_INTERFACES = 0x04, 0x63, 0x64
ENIP_OPEN, ENIP_CLOSE, ENIP_DATA = 0x65, 0x66, 0x6f
ENIP_INVALID = 1                        # vol. 2 s2-3.4: status
CIP_ALL_OF_IDENTITY = b'\1\2\x20\1\x24\1'       # vol. 1: get all attributes; class 1, instance 1
CIP_NOT_SUPPORTED = 8
# vol. 1 s5A-2: vendor type product major minor status serial, name
CIP_IDENTITY = struct.pack('<HHHBBHI', 0, 0x0e, 1, 1, 0, 0x30, 1) + sized(b'PLC', 1)
ENIP_SAYS = {
    ENIP_SERVICES: b'\1\0\0\1' + sized(struct.pack('<HH16s', 1, 0x20, b'Communications'), 2,
                                       'little'),
    ENIP_INTERFACES: b'\0\0', ENIP_OPEN: b'\1\0\0\0'}


def answer_cip(request):
    """Request to an object -> its answer: who we are, or that the service is not known."""
    if request == CIP_ALL_OF_IDENTITY:
        return b'\x81\0\0\0' + CIP_IDENTITY
    return bytes((request[0] | 0x80, 0, CIP_NOT_SUPPORTED, 0))


def read_enip_data(message, peer):
    """SendRRData -> the same with the answer; vol. 2 s2-6.1: two items, no address, data."""
    begin, at = ENIP_HEAD.size + 12, ENIP_HEAD.size + 14
    request, _ = read_sized(message, at, 2, 'little')
    if not request or message[begin:at] != b'\xb2\0':
        return None
    if request != CIP_ALL_OF_IDENTITY:
        peer.note('request', service=request[0], data=request[1:])
    return message[ENIP_HEAD.size:at] + sized(answer_cip(request), 2, 'little')


@talk('ethernet-ip', port=44818, size=le(2, 2, ENIP_HEAD.size), limit=1024,
      sig=['%s 00 00 00 00 00 00 00 00%s 00 00 00 00' % (command, ' ..' * 8)
           for command in ('04 00 00 00', '63 00 00 00', '64 00 00 00', '65 00 04 00')],
      ref='https://www.odva.org/technology-standards/key-technologies/ethernet-ip/')
def answer_enip(message, peer):
    """Identity, services, session -> ours; of objects the identity alone."""
    command, _, session, _, context, _ = ENIP_HEAD.unpack_from(message)
    if command == ENIP_CLOSE:
        return b'', SHUT
    status, says = 0, ENIP_SAYS.get(command)
    if command == ENIP_OPEN:
        session = int.from_bytes(peer.host.random(4), 'big') | 1
    elif command == ENIP_IDENTITY:
        address = struct.pack('!HH4sQ', 2, peer.dport, peer.dst[-4:], 0)
        says = b'\1\0\x0c\0' + sized(b'\1\0' + address + CIP_IDENTITY + b'\xff', 2, 'little')
    elif command == ENIP_DATA:
        says = read_enip_data(message, peer)
    if says is None:
        status, says = ENIP_INVALID, b''
    return ENIP_HEAD.pack(command, len(says), session, status, context, 0) + says


# ---- fins ----------------------------------------------------------------------------

FINS_HEAD = struct.Struct('!4sIII')     # magic, octets that follow, command, error
FINS_NODES, FINS_FRAME = 0, 2           # commands; the answer to the first is 1
# icf rsv gateways, to: net node unit, from: net node unit, service id, command
FINS_ASKED = struct.Struct('!BBB3s3sBH')
FINS_READ, FINS_UNIT = 0x0101, 0x0501
FINS_MOST = 999                         # words of a read
FINS_TEXTS = b'PLC'.ljust(20) + b'1.0'.ljust(20) + bytes(52)
FINS_DONE, FINS_TOO_LONG, FINS_UNKNOWN = 0x0000, 0x110b, 0x0401      # end codes


def answer_fins_frame(frame, peer):
    """A command -> its answer: a read gives zeros, who are you a name; all else is refused."""
    _, _, gateways, to, source, service, command = FINS_ASKED.unpack_from(frame)
    code, data = FINS_DONE, b''
    if command == FINS_READ:
        count, = struct.unpack_from('!H', frame, FINS_ASKED.size + 4)
        code = FINS_DONE if count <= FINS_MOST else FINS_TOO_LONG
        data = bytes(2 * count) if code == FINS_DONE else b''
    elif command == FINS_UNIT:
        data = FINS_TEXTS
    else:
        code = FINS_UNKNOWN
        peer.note('request', command=command, data=frame[FINS_ASKED.size:])
    return FINS_ASKED.pack(0xc0, 0, gateways, source, to, service, command) + struct.pack(
        '!H', code) + data


@talk('fins', sig=(b'FINS\0\0\0\x0c\0\0\0\0',), port=9600, size=be(4, 4, 8), limit=2048,
      ref='https://www.myomron.com/downloads/1.Manuals/Networks/W421E104.pdf')
def answer_fins(message, peer):
    """Wish for an address -> addresses; read -> zeros; all else is refused."""
    _, _, command, _ = FINS_HEAD.unpack_from(message)
    if command == FINS_NODES:
        body = struct.pack('!II', int.from_bytes(message[16:20], 'big') or 239, peer.dst[-1])
        return FINS_HEAD.pack(b'FINS', 8 + len(body), 1, 0) + body
    if command != FINS_FRAME:
        return None
    body = answer_fins_frame(message[FINS_HEAD.size:], peer)
    return FINS_HEAD.pack(b'FINS', 8 + len(body), FINS_FRAME, 0) + body


# ---- fox -----------------------------------------------------------------------------

FOX_HELLO = (b'fox a 0 -1 fox hello\n{\nfox.version=s:1.0\nid=i:1\nhostName=s:%s\n'
             b'hostAddress=s:%s\napp.name=s:Station\napp.version=s:4.0\nvm.name=s:VM\n};;\n')


@talk('fox', sig=(b'fox a ',), port=1911, size=till(b'};;'),
      ref='https://github.com/zmap/zgrab2/tree/master/modules/fox')
def answer_fox(message, peer):
    """Hello -> ours, once; what follows is a login, which gets no answer."""
    if peer.state or b' fox hello' not in message:
        peer.note('request', words=message.strip()[:512])
        return b'', SHUT
    peer.state = 'greeted'
    return FOX_HELLO % (peer.host.host_name, ip_text(peer.dst).encode())


# ---- ge-srtp -------------------------------------------------------------------------

SRTP_HEAD = 56                          # octets of every mailbox message
SRTP_SIZE_AT, SRTP_KIND_AT, SRTP_SERVICE_AT = 4, 31, 42
SRTP_HELLO = b'\1' + bytes(7) + b'\x0f' + bytes(47)
SRTP_TYPE, SRTP_ENABLE = 0x43, 0x4f     # services
SRTP_DONE, SRTP_DATA, SRTP_ERROR = 0xd4, 0x94, 0xd1     # kinds of an answer
SRTP_NAME = bytes(8) + bytes((SRTP_TYPE, 0, 0, 0)) + b'PLC'.ljust(28, b'\0')


@talk('ge-srtp', sig=('00 ' * 55 + '00',), port=18245, size=le(SRTP_SIZE_AT, 2, SRTP_HEAD),
      limit=2048, ref='https://doi.org/10.1016/j.diin.2017.06.004')
def answer_srtp(message, peer):
    """Opening -> ours; type of the controller -> its name; all else -> an error.

    state  'open'
    """
    if peer.state is None:
        peer.state = 'open'
        return SRTP_HELLO
    service, body = message[SRTP_SERVICE_AT], b''
    kind = SRTP_DONE if service == SRTP_ENABLE else SRTP_ERROR
    if service == SRTP_TYPE:
        kind, body = SRTP_DATA, SRTP_NAME
    if kind == SRTP_ERROR:
        peer.note('request', service=service, data=message[SRTP_SERVICE_AT + 1:])
    head = struct.pack('<B1x2sH', 3, message[2:4], len(body))
    return head.ljust(SRTP_KIND_AT, b'\0') + bytes((kind,)).ljust(25, b'\0') + body


# ---- hart-ip -------------------------------------------------------------------------

HART_HEAD = struct.Struct('!BBBBHH')    # version kind message status sequence size
HART_START, HART_CLOSE, HART_ALIVE, HART_PASS = range(4)
HART_IDENTITY = 0                       # command; all else is not implemented: 64
# expanded type 254, type, 5 preambles, revisions 7 1 1 1, flags, number
HART_IDENT = b'\0\0\xfe\0\0\5\7\1\1\x08\0\0\0\1'


def answer_hart(frame, peer):
    """A frame of the wired bus -> its answer; the long form has an address of 5 octets."""
    at = 6 if frame[0] & 0x80 else 2
    command = frame[at]
    if command != HART_IDENTITY:
        peer.note('request', function=command, data=frame[at + 2:-1])
    data = HART_IDENT if command == HART_IDENTITY else b'\x40\0'
    out = bytes((frame[0] & 0x80 | 6,)) + frame[1:at + 1] + sized(data, 1)
    return out + bytes((functools.reduce(operator.xor, out),))


@talk('hart-ip', sig=('01 00 00 00 .. .. 00 0d 01',), port=5094, size=be(6, 2, 0), limit=512,
      ref='https://www.fieldcommgroup.org/technologies/hart/hart-ip')
def answer_hart_ip(message, peer):
    """Session, life sign, identity -> the same, a device; all else is refused."""
    version, kind, ident, _, sequence, _ = HART_HEAD.unpack_from(message)
    body = message[HART_HEAD.size:]
    if kind or ident > HART_PASS:
        return None
    if ident == HART_PASS:
        body = answer_hart(body, peer)
    return (HART_HEAD.pack(version, 1, ident, 0, sequence, HART_HEAD.size + len(body)) + body,
            ident == HART_CLOSE)


# ---- iec104 --------------------------------------------------------------------------

IEC104_ACTS = {0x07: 0x0b, 0x13: 0x23, 0x43: 0x83}      # IEC 60870-5-104 s5.3: act: con
IEC104_ASDU = struct.Struct('<BBBBH')   # IEC 60870-5-101 s7.2: type count cause origin address
IEC104_INTERROGATION = 100
IEC104_DONE, IEC104_ENDED = 7, 10       # causes
IEC104_REFUSED, IEC104_UNKNOWN = 0x47, 0x6c     # 7, 44: type is not known; negative


def answer_asdu(asdu, peer):
    """A unit of data -> those that answer it: no points; commands are refused."""
    kind, count, _, origin, address = IEC104_ASDU.unpack_from(asdu)
    causes = IEC104_REFUSED,
    if kind == IEC104_INTERROGATION:
        causes = IEC104_DONE, IEC104_ENDED
    elif not 45 <= kind <= 107:
        causes = IEC104_UNKNOWN,
    if causes[0] == IEC104_REFUSED:
        peer.note('request', function=kind, data=asdu[IEC104_ASDU.size:])
    return [IEC104_ASDU.pack(kind, count, cause, origin, address) + asdu[IEC104_ASDU.size:]
            for cause in causes]


@talk('iec104', sig=['68 04 %02x 00 00 00' % act for act in IEC104_ACTS], port=2404,
      size=be(1, 1, 2), ref='https://webstore.iec.ch/publication/25035')
def answer_iec104(message, peer):
    """Start, test, stop -> confirmed; a question -> no points; commands are refused.

    state  how many of our units have gone
    """
    if message[0] != 0x68 or message[1] < 4:
        return None
    if message[2] & 3 == 3:                     # U format
        return b'\x68\4' + bytes((IEC104_ACTS.get(message[2], 0), 0, 0, 0)) if (
            message[2] in IEC104_ACTS) else b''
    if message[2] & 1:                          # S format
        return b''
    theirs, = struct.unpack_from('<H', message, 2)
    out = b''
    for asdu in answer_asdu(message[6:], peer):
        ours = peer.state or 0
        out += b'\x68' + sized(struct.pack('<HH', ours, theirs + 2 & 0xfffe) + asdu, 1)
        peer.state = ours + 2 & 0xfffe
    return out


# ---- melsec --------------------------------------------------------------------------

# MELSEC communication protocol, frame 3E: subheader, where to; size timer command subcommand
SLMP_HEAD = struct.Struct('<2s5sHHHH')
SLMP_READ, SLMP_NAME = 0x0401, 0x0101
SLMP_MOST = 960                         # words of a read
SLMP_REFUSED = 0xc059                   # end code: the command is not known


@talk('melsec', sig=('50 00 00 ff ff 03 00 .. .. .. .. .. .. .. ..',), port=(5006, 5007),
      size=le(7, 2, 9), limit=4096,
      ref='https://dl.mitsubishielectric.com/dl/fa/document/manual/plc/sh080008/sh080008ab.pdf')
def answer_melsec(message, peer):
    """Name of the type -> ours; read -> zeros; all else is refused."""
    start, route, _, _, command, sub = SLMP_HEAD.unpack_from(message)
    if start != b'\x50\0':
        return None
    code, data = 0, b''
    if command == SLMP_NAME:
        data = b'PLC'.ljust(16) + b'\0\0'
    elif command == SLMP_READ:
        count = min(int.from_bytes(message[SLMP_HEAD.size + 4:][:2], 'little'), SLMP_MOST)
        data = bytes((count + 1) // 2 if sub & 1 else 2 * count)
    else:
        code = SLMP_REFUSED
        peer.note('request', command=command, data=message[SLMP_HEAD.size:])
    return b'\xd0\0' + route + sized(struct.pack('<H', code) + data, 2, 'little')


# ---- modbus --------------------------------------------------------------------------

MODBUS_HEAD = struct.Struct('!HHHBB')   # on TCP/IP s3.1.3: id protocol size unit; function
MODBUS_MOST = {1: 2000, 2: 2000, 3: 125, 4: 125}        # s6: how many bits, words of a read
MODBUS_SERVER_ID, MODBUS_MEI = 0x11, 0x2b
MODBUS_BAD_FUNCTION, MODBUS_BAD_ADDRESS, MODBUS_BAD_VALUE = 1, 2, 3
MODBUS_OBJECTS = b'Vendor', b'PLC', b'1.0'      # s6.21: vendor, product, revision


def is_modbus(data, peer):
    """The size is that of a request, and so is the function."""
    return 2 <= data[5] <= 254 and 0 < data[7] < 0x80


def read_modbus_objects(body):
    """Code of what is asked, first object -> a response, or an error (s6.21)."""
    kind, code, first = body
    if kind != 0x0e or not 1 <= code <= 4:
        return MODBUS_BAD_VALUE
    if code == 4 and first >= len(MODBUS_OBJECTS):
        return MODBUS_BAD_ADDRESS
    end = first + 1 if code == 4 else len(MODBUS_OBJECTS)
    objects = [bytes((number,)) + sized(MODBUS_OBJECTS[number], 1)
               for number in range(first if first < end else 0, end)]
    return bytes((kind, code, 0x81, 0, 0, len(objects))) + b''.join(objects)


def answer_modbus_function(function, body):
    """Function, the rest of the request -> the rest of the response, or an error."""
    if function in MODBUS_MOST:
        _, count = struct.unpack('!HH', body)
        if not 1 <= count <= MODBUS_MOST[function]:
            return MODBUS_BAD_VALUE
        return sized(bytes((count + 7) // 8 if function < 3 else 2 * count), 1)
    if function == MODBUS_MEI:
        return read_modbus_objects(body)
    return sized(b'\1\xffPLC', 1) if function == MODBUS_SERVER_ID else MODBUS_BAD_FUNCTION


@talk('modbus', sig=('.. .. 00 00 00 .. .. ..',), port=502, check=is_modbus, size=be(4, 2, 6),
      limit=260, ref='https://modbus.org/docs/Modbus_Application_Protocol_V1_1b3.pdf')
def answer_modbus(message, peer):
    """Reads -> zeros, who we are; all else is refused."""
    ident, protocol, _, unit, function = MODBUS_HEAD.unpack_from(message)
    body = message[MODBUS_HEAD.size:]
    if protocol or function > 0x7f:
        return None
    says = answer_modbus_function(function, body)
    if isinstance(says, int):
        if says == MODBUS_BAD_FUNCTION:
            peer.note('request', function=function, data=body)
        function, says = function | 0x80, bytes((says,))
    return MODBUS_HEAD.pack(ident, 0, 2 + len(says), unit, function) + says


# ---- opcua ---------------------------------------------------------------------------
#
# Whoever asks finds one end point without security, whose login is a name and a password.

OPCUA_HELLO = struct.Struct('<8sIIIII')     # OPC 10000-6 s7.1.2.3: head version sizes, counts
OPCUA_REJECTED = 0x80550000             # Bad_SecurityPolicyRejected
OPCUA_DENIED, OPCUA_UNSUPPORTED = 0x801f0000, 0x800b0000    # Bad_UserAccessDenied, _Service...
OPCUA_NONE = b'http://opcfoundation.org/UA/SecurityPolicy#None'
OPCUA_BINARY = b'http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary'
OPCUA_NULL = b'\xff' * 4                # no string, no list
OPCUA_NODES = {0: 2, 1: 4, 2: 7}        # octets of a NodeId with a number (OPC 10000-6 s5.2.2.9)
OPCUA_OPEN, OPCUA_FAULT = 446, 397      # OPC 10000-6 sA.3: NodeIds of encodings
OPCUA_CREATE, OPCUA_ACTIVATE, OPCUA_NAME = 461, 467, 324
OPCUA_LIFE_MS = 60000


def pack_opcua_text(text):
    """A string, octets."""
    return sized(text, 4, 'little')


def read_opcua_text(body, at):
    """-> the string at `at`, where it ends; one that is none is empty."""
    if body[at:at + 4] == OPCUA_NULL:
        return b'', at + 4
    return read_sized(body, at, 4, 'little')


def pack_opcua_server(url, peer):
    """-> ApplicationDescription (OPC 10000-4 s7.2)."""
    name = peer.host.host_name
    return b''.join((
        pack_opcua_text(b'urn:%s' % name), pack_opcua_text(b'urn:server'),
        b'\2' + pack_opcua_text(name), bytes(4), OPCUA_NULL * 2,
        b'\1\0\0\0', pack_opcua_text(url)))


def pack_opcua_point(url, peer):
    """-> EndpointDescription without a certificate (OPC 10000-4 s7.14)."""
    return b''.join((
        pack_opcua_text(url), pack_opcua_server(url, peer), OPCUA_NULL,
        b'\1\0\0\0', pack_opcua_text(OPCUA_NONE), b'\1\0\0\0', pack_opcua_text(b'user'),
        b'\1\0\0\0', OPCUA_NULL * 2, pack_opcua_text(OPCUA_NONE), pack_opcua_text(OPCUA_BINARY),
        b'\0'))


def pack_opcua_session(url, peer):
    """-> what CreateSessionResponse has of its own (OPC 10000-4 s5.7.2)."""
    return b''.join((
        b'\1\0\1\0\1\0\2\0', struct.pack('<d', OPCUA_LIFE_MS),
        pack_opcua_text(peer.host.random(32)), OPCUA_NULL,
        b'\1\0\0\0', pack_opcua_point(url, peer), OPCUA_NULL * 3, bytes(4)))


# NodeId of a request: of its response, what that has of its own
OPCUA_SERVICES = {
    422: (425, lambda url, peer: b'\1\0\0\0' + pack_opcua_server(url, peer)),   # FindServers
    428: (431, lambda url, peer: b'\1\0\0\0' + pack_opcua_point(url, peer)),    # GetEndpoints
    OPCUA_OPEN: (449, lambda url, peer: struct.pack(
        '<IIIqI', 0, 1, 1, filetime(peer.now), OPCUA_LIFE_MS) + pack_opcua_text(b'\0')),
    OPCUA_CREATE: (464, pack_opcua_session)}


def note_opcua_login(body, at, peer):
    """ActivateSession, behind its head -> name and password are noted (OPC 10000-4 s5.7.3)."""
    _, at = read_opcua_text(body, at)           # signature: algorithm, octets
    _, at = read_opcua_text(body, at)
    at += 4                                     # certificates: none
    count = max(struct.unpack_from('<i', body, at)[0], 0)
    at += 4
    for _ in range(min(count, LIST_MAX)):       # locales
        _, at = read_opcua_text(body, at)
    if body[at:at + 4] != b'\1\0' + struct.pack('<H', OPCUA_NAME):
        return
    _, at = read_opcua_text(body, at + 9)       # policy
    user, at = read_opcua_text(body, at)
    password, _ = read_opcua_text(body, at)
    peer.note('credentials', user=user, password=password)


def answer_opcua_request(body, peer):
    """Request, type first -> response; what nobody offers -> a fault (OPC 10000-4 s7.29)."""
    kind = int.from_bytes(body[2:4], 'little')
    at = 4 + OPCUA_NODES.get(body[4], len(body))
    handle = body[at + 8:at + 12]
    _, at = read_opcua_text(body, at + 16)      # audit entry; then time-out, no additional head
    answer, own = OPCUA_SERVICES.get(kind, (OPCUA_FAULT, None))
    status = 0 if own else OPCUA_UNSUPPORTED
    if kind == OPCUA_ACTIVATE:
        note_opcua_login(body, at + 7, peer)
        status = OPCUA_DENIED
    head = struct.pack('<BBHq', 1, 0, answer, filetime(peer.now)) + handle
    head += struct.pack('<IB', status, 0) + OPCUA_NULL + bytes(3)
    return head + own(peer.state, peer) if own else head


def read_opcua_head(message):
    """Message on a channel -> what ours has before its numbers, where his stand; None: refused."""
    if message[:4] == b'MSGF':
        return struct.pack('<II', 1, 1), 16     # channel, token
    policy, at = read_opcua_text(message, 12)
    if message[:4] != b'OPNF' or policy != OPCUA_NONE:
        return None
    for _ in range(2):                          # certificate, thumbprint
        _, at = read_opcua_text(message, at)
    return struct.pack('<I', 1) + pack_opcua_text(OPCUA_NONE) + OPCUA_NULL * 2, at


@talk('opcua', sig=(b'HELF',), port=4840, size=le(4, 4, 0), limit=8192,
      ref='https://reference.opcfoundation.org/Core/Part6/v105/docs/7.1')
def answer_opcua(message, peer):
    """Hello, end points, session -> ours; a login, all else -> refusal.

    state   the URL that was asked for
    """
    if message[:4] == b'HELF':
        _, _, receives, sends, _, _ = OPCUA_HELLO.unpack_from(message)
        peer.state, _ = read_opcua_text(message, OPCUA_HELLO.size)
        peer.note('request', target=peer.state)
        return b'ACKF' + struct.pack('<6I', 28, 0, min(sends, 65535), min(receives, 65535), 0, 0)
    if message[:4] == b'CLOF':
        return b'', SHUT
    found = read_opcua_head(message)
    if not found:
        return b'ERRF' + struct.pack('<III', 16, OPCUA_REJECTED, 0xffffffff), SHUT
    head, at = found
    answer = head + message[at:at + 8] + answer_opcua_request(message[at + 8:], peer)
    return message[:4] + sized(answer, 4, 'little', 8)


# ---- pcom ----------------------------------------------------------------------------

PCOM_ASKED = re.compile(br'/([0-9A-F]{2})([A-Z]{2,3})(.*)\r', re.S)
PCOM_IDENT = b'A%sID000000A001000000'   # unit; model 6, hardware 1, system 3 3 2


@talk('pcom', sig=('.. .. 65 00 .. .. 2f .. .. 49 44',), port=20256, size=le(4, 2, 6), limit=1024,
      ref='https://unitronicsplc.com/Download/SoftwareUtilities/Unitronics%20PCOM%20Protocol.pdf')
def answer_pcom(message, peer):
    """Identity of a unit -> ours; all else is not answered."""
    match = PCOM_ASKED.fullmatch(message, 6)
    if not match:
        return None
    unit, verb, rest = match.groups()
    if verb != b'ID' and not verb.startswith(b'IDE'):
        peer.note('request', command=verb, data=rest)
        return b''
    says = PCOM_IDENT % unit
    return message[:4] + sized(b'/%s%02X\r' % (says, sum(says) & 0xff), 2, 'little')


# ---- pcworx --------------------------------------------------------------------------

PCWORX_SESSION = 1
# texts of the answer to the third question, where they stand
PCWORX_TEXTS = (30, b'PLC'), (66, b'1.0'), (79, b'01/01/20'), (91, b'00:00:00'), (152, b'1')


@talk('pcworx', sig=(b'\1\1\0\x1a\0\0\0\0\x78\x80\0\3\0\x0cIBETH01N0_M\0',), port=1962,
      size=be(2, 2, 0), limit=256,
      ref='https://github.com/praetorian-inc/nerva/blob/main/pkg/plugins/services/pcworx/'
          'pcworx.go')
def answer_pcworx(message, peer):
    """Opening, session, identity -> ours; all else is not answered."""
    kind, = struct.unpack_from('!H', message)
    if kind == 0x0101:
        return b'\x81\1\0\x14' + bytes(13) + bytes((PCWORX_SESSION, 0, 0))
    if kind == 0x0105:
        return b'\x81\5\0\x08' + bytes(4)
    if kind != 0x0106:
        return None
    out = bytearray(b'\x81\6\0\xa0' + bytes(156))
    for at, text in PCWORX_TEXTS:
        out[at:at + len(text)] = text
    return bytes(out)


# ---- proconos ------------------------------------------------------------------------

PROCONOS_IDENT = (b'\xcc\1\0\x54\x40\x42' + bytes(7) + b'Runtime 1.0'.ljust(32, b'\0')
                  + b'PLC'.ljust(33, b'\0') + b'project\0\0\0')


@talk('proconos', sig=('cc 01 00 0b 40 02 00 00 47 ee',), port=20547, size=fix(10),
      ref='https://github.com/praetorian-inc/nerva/blob/main/pkg/plugins/services/proconos/'
          'proconos.go')
def answer_proconos(message, peer):
    """Who are you -> a runtime, a project."""
    return PROCONOS_IDENT


# ---- s7 ------------------------------------------------------------------------------

S7_HEAD = struct.Struct('!BBHHHH')      # id kind reserved reference parameters data
S7_JOB, S7_ACK, S7_USER = 1, 3, 7
S7_SETUP, S7_READ, S7_WRITE = 0xf0, 0x04, 0x05
S7_UNITS = {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 4, 8: 4}    # type of an item: octets
S7_MOST = 440                           # octets of a read; the largest message has 480
S7_NO_SERVICE = 0x8104
S7_GOODBYE = bytes.fromhex('0300000b0680 0000 0001 00')        # X.224 s13.5: disconnect
S7_LISTS = {                            # number of a list: (octets of a row, rows)
    0x0011: (28, [(1, b'PLC'.ljust(20) + b'\0\xc0\0\1\0\1'),
                  (7, b'PLC'.ljust(20) + b'\0\xc0V\1\0\0')]),
    0x001c: (34, [(1, b'station'.ljust(32, b'\0')), (2, b'PLC'.ljust(32, b'\0'))])}


def pack_s7(kind, reference, parameters, data=b''):
    """Answer -> in COTP data, in TPKT; an acknowledgement has an error, which is 0."""
    error = b'\0\0' if kind == S7_ACK else b''
    body = b'\x02\xf0\x80' + S7_HEAD.pack(0x32, kind, 0, reference, len(parameters),
                                          len(data)) + error + parameters + data
    return b'\3\0' + sized(body, 2, extra=4)


def read_s7_list(asked, data):
    """Userdata: list of the system's state -> parameters, data; other functions are refused."""
    asked = asked.ljust(8, b'\0')
    wanted, index = struct.unpack_from('!HH', data.ljust(8, b'\0'), 4)
    head = b'\0\1\x12\x08\x12' + bytes((asked[5] & 0x0f | 0x80, asked[6], asked[7], 0, 0))
    if asked[5:7] != b'\x44\1' or wanted not in S7_LISTS:
        return head + b'\xd4\1', b'\x0a\0\0\0'
    size, rows = S7_LISTS[wanted]
    body = struct.pack('!HHHH', wanted, index, size, len(rows)) + b''.join(
        struct.pack('!H', number) + text for number, text in rows)
    return head + b'\0\0', b'\xff\x09' + sized(body)


def read_s7_items(asked):
    """Read of variables -> zeros for each; RFC 1006's data, s7's items of 12 octets."""
    out, left = b'', S7_MOST
    for at in range(2, 2 + 12 * asked[1], 12):
        unit, count = struct.unpack_from('!BH', asked, at + 3)
        size = S7_UNITS.get(unit, 0) * count
        if not 0 < size <= left:
            out += b'\x0a\0\0\0'
            continue
        left -= size + 4
        out += (b'\xff\3\0\1' if unit == 1 else b'\xff\4' + struct.pack('!H', size * 8)) + bytes(
            size + (size & 1))
    return out


def answer_s7_job(message, peer):
    """A message within COTP -> its answer."""
    _, kind, _, reference, parameters, _ = S7_HEAD.unpack_from(message)
    at = S7_HEAD.size + parameters
    asked, data = message[S7_HEAD.size:at], message[at:]
    if kind == S7_USER:
        return pack_s7(S7_USER, reference, *read_s7_list(asked, data))
    if asked[0] == S7_SETUP:
        return pack_s7(S7_ACK, reference, b'\xf0\0\0\1\0\1\1\xe0')
    if asked[0] == S7_READ and len(asked) > 1:
        return pack_s7(S7_ACK, reference, asked[:2], read_s7_items(asked))
    peer.note('request', function=asked[0], data=message[S7_HEAD.size + 1:])
    if asked[0] == S7_WRITE and len(asked) > 1:
        return pack_s7(S7_ACK, reference, asked[:2], b'\3' * asked[1])     # access is not allowed
    return b'\3\0' + sized(b'\x02\xf0\x80' + S7_HEAD.pack(
        0x32, S7_ACK, 0, reference, 0, 0) + struct.pack('!H', S7_NO_SERVICE), 2, extra=4)


@talk('s7', sig=['03 00 .. .. .. e0 00 00 .. .. 00 %s' % kind for kind in ('c0', 'c1', 'c2')],
      port=102, size=be(2, 2, 0), limit=1024, ref='https://wiki.wireshark.org/S7comm')
def answer_s7(message, peer):
    """Connect, setup, reads, lists -> ours; writes, all else are refused.

    state  'connected'
    """
    if peer.state is None:
        peer.state = 'connected'
        return message[:5] + b'\xd0' + message[8:10] + b'\0\1' + message[10:]
    if message[4:7] != b'\x02\xf0\x80' or message[7:8] != b'\x32':
        return S7_GOODBYE, SHUT
    return answer_s7_job(message[7:], peer)


family('Trojans and worms')


# ---- darkcomet -----------------------------------------------------------------------

@talk('darkcomet', port=1604, limit=64, ref='https://attack.mitre.org/software/S0334/', sig=(
    b'A57DAD495BEC', b'8F45CA529B52', b'0F5DAB3EB308', b'3B78863F8A61', b'0B65865397F9'))
def answer_darkcomet(message, peer):
    """A victim's answer, under a usual key -> noted, and nothing is said."""
    peer.note('request', data=message)


# ---- gh0st ---------------------------------------------------------------------------

GH0ST_MAGIC = b'Gh0st'
GH0ST_TOTAL = struct.Struct('<I')       # after the magic: octets of the packet, magic and all
GH0ST_HEAD = 13                         # magic, total, inflated length
GH0ST_MAX = 1 << 24                     # a larger total is no length
GH0ST_ANSWER = (
    b'Gh0st'
    b'\x16\0\0\0'                       # total
    b'\x01\0\0\0'                       # inflated length
    b'\x78\x9c\x63\0\0\0\x01\0\x01'     # zlib of one NUL
)
GH0ST_REST = GH0ST_ANSWER[len(GH0ST_MAGIC):]


def parse_gh0st(data):
    """Packet after its magic -> its octets still to come; 0 if that is no length.

    returns  MORE if cut short; None if the packet is our own answer
    """
    if data.startswith(GH0ST_REST):
        return None
    if len(data) < GH0ST_TOTAL.size or GH0ST_REST.startswith(data):
        return MORE
    total, = GH0ST_TOTAL.unpack_from(data)
    return total - len(GH0ST_MAGIC) if GH0ST_HEAD <= total <= GH0ST_MAX else 0


@protocol('gh0st', sig=(GH0ST_MAGIC,), port=8000, most=len(GH0ST_ANSWER) / len(GH0ST_MAGIC),
          ref='https://attack.mitre.org/software/S0032/')
def answer_gh0st(data, peer):
    """Packet of the Gh0st trojan -> empty packet.

    data     Gh0st, total, inflated length, zlib stream; the magic alone gets the answer, as
             who probes may send no more
    state    True between the magic and the total; a packet with an implausible total ends there
    returns  22 octets.  Our own answer gets none on UDP; on TCP its first five octets do, as
             they may be all, but the rest makes us deaf: two of us exchange one each
    """
    if peer.transport == UDP:
        return None if data == GH0ST_ANSWER else GH0ST_ANSWER
    if peer.state:
        size = parse_gh0st(data)
        if not isinstance(size, int):
            return size
        peer.state = False
        if size:
            return Reply(used=0, skip=size)
    if len(data) < len(GH0ST_MAGIC):
        return MORE if GH0ST_MAGIC.startswith(data) else None
    if not data.startswith(GH0ST_MAGIC):
        return None
    peer.state = True
    return Reply(GH0ST_ANSWER, used=len(GH0ST_MAGIC))


# ---- mydoom --------------------------------------------------------------------------

@talk('mydoom', sig=(b'\x85\x13\x3c\x9e\xa2',), port=3127, size=fix(5),
      ref='https://www.f-secure.com/v-descs/novarg.shtml')
def answer_mydoom(message, peer):
    """Program for its backdoor -> noted, and nothing is said."""
    peer.note('request', data=message)


# ---- njrat ---------------------------------------------------------------------------

NJRAT_HELLO = ' 00 6c 6c 7c 27 7c 27 7c'        # after its size in digits; |'| parts fields


def size_njrat(data):
    """Digits, a NUL, so many octets."""
    digits = data.partition(b'\0')[0]
    return len(digits) + 1 + int(digits) if digits.isdigit() else -1


@talk('njrat', port=5552, sig=['3%d %s%s' % (digit, more, NJRAT_HELLO)
                               for digit in range(1, 10) for more in ('..', '.. ..')],
      size=size_njrat, ref='https://attack.mitre.org/software/S0385/')
def answer_njrat(message, peer):
    """What a victim says of itself -> noted, and nothing is said."""
    peer.note('request', data=message[:1024])


# ---- poison ivy ----------------------------------------------------------------------

@talk('poison-ivy', port=3460, sig=('.. ' * 256,), size=fix(256),
      ref='https://attack.mitre.org/software/S0012/')
def answer_poison_ivy(message, peer):
    """A victim's challenge, 256 octets -> noted, and nothing is said."""
    peer.note('request', data=message)


# ---- xiongmai ------------------------------------------------------------------------

XIONGMAI_SAYS = {b'OpenTelnet': b'randNum:00000000', b'randNum': b'verify:ERROR'}


@talk('xiongmai', sig=(b'\x13OpenTelnet:OpenOnce',), port=9530, size=be(0, 1, 1), limit=256,
      ref='https://github.com/Snawoot/hisilicon-dvr-telnet')
def answer_xiongmai(message, peer):
    """Knock of a recorder's backdoor -> a challenge; the answer to it is wrong."""
    says = XIONGMAI_SAYS.get(message[1:].partition(b':')[0])
    peer.note('command', words=message[1:])
    return says and sized(says, 1)


if __name__ == '__main__':
    sys.exit(main(code=sys._getframe().f_code))
