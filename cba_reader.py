#!/usr/bin/env python3
"""cba_reader - read the CBA files that cscan writes: as a library and on the command line.

    python3 cba_reader.py scan.cba          statistics and results
    python3 cba_reader.py *.cba --json      every entry as one line of JSON

    with open('scan.cba', 'rb') as file:
        for entry in cba_reader.CBA(file).entries('rfb'):
            print(entry.dict[0], entry.events)

One file, standard library only, CPython 3.6 or newer and PyPy.

Contents
    1 Formats           packets of a CBA file, names that strangers chose
    2 Entries           the reader's API
    3 Reports           statistics, results, entries as text or JSON
    4 Page              results to look at in a browser
    5 Differences       what has changed from one scan to another
    6 Command line
"""

import argparse
import array
import base64
import bisect
import collections
import contextlib
import hashlib
import heapq
import itertools
import json
import marshal
import os
import re
import shlex
import shutil
import struct
import sys
import tempfile
import time

__version__: 'str' = '2.1'          # Python 3.6 or newer is needed: older ones stop at this line


# ==== 1 Formats =======================================================================

# ---- same in cba_reader.py and compile_targets.py and cscan.py and masscanned.py ----

class UserError(Exception):
    """What the user can mend, in one line: what, the value as repr, what was expected."""


def why(error: Exception) -> str:
    """OSError -> the kernel's words, without number and path; others -> their text."""
    return getattr(error, 'strerror', None) or str(error)

# ---- end of same in cba_reader.py and compile_targets.py and cscan.py and masscanned.py ----


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


# ==== 2 Entries =======================================================================

STATS_EVERY, STAT_TIME, EVENT = 10, 11, 20          # codes of the entry `cscan`
CANARY_FAIL, CANARY_FAIL_RESPONSE = 21, 22
EVENT_MAX = 1000                    # characters of an EVENT, which is cut there
OF_SCAN = 'cscan', SCOPE_MODULE     # modules of entries about the scan, not about a target
TIMES = {('cscan', STAT_TIME), (SCOPE_MODULE, 1)}       # module, code: what time it is
RESOLVED = re.compile(r'name:(\S{1,253}) = ([0-9.]+(?:, [0-9.]*)*)')


EVENTS_MAX = 1 << 18                # of an entry; what has more comes in pieces


class Entry:
    """What a module wrote about one result.

    module  its name, '' = print
    events  [(kind, code, value)] in order; value: STR str, DATA bytes, FILE its name as str,
            INT32 and INT64 int, BIT True
    dict    {code: last value}
    time    Unix seconds of the last statistics before it, 0 = there were none
    """
    __slots__ = 'module', 'events', 'dict', 'time'

    def __init__(self, module, time=0):
        self.module, self.events, self.dict, self.time = module, [], {}, time

    def add(self, kind, code, value):
        self.events.append((kind, code, value))
        self.dict[code] = value

    def may_end(self, kind) -> bool:
        """May it be parted before an event of this kind?  Statistics are an INT64, two INT32."""
        return kind != CBA_INT32 or len(self.events) >= 2 * EVENTS_MAX


class CBA:
    """A CBA file.

    fileobj      binary, seekable if entries() is to be called twice
    extract_dir  where FILEs go, of modules in extract_for; '*' in it = all modules
    overwrite    replace files that are there already; otherwise new ones get .1, .2 ...
    cut          after entries() came to its end: '' or what ended it before the file did
    torn         True if that is just the end of the file, as a kill or a full disk leaves it
    time         Unix seconds of the scanner's last statistics, or of its start, 0 = none yet
    hostnames    {ip: names that the scan found it by, with spaces between}, as far as was read
    extracted    paths below extract_dir of the FILEs written
    fresh        those of them that nobody has taken out of here, in order
    taken        the same for create_below()
    refused      (name, reason) of FILEs that could not be written
    """

    def __init__(self, fileobj, extract_dir='cba_files', extract_for=(), overwrite=False):
        self.file, self.extract_dir = fileobj, extract_dir
        self.extract_for, self.overwrite = extract_for, overwrite
        self.started, self.cut, self.torn, self.time = False, '', False, 0
        self.extracted, self.fresh, self.refused = set(), [], []
        self.taken, self.hostnames = {}, {}

    def entries(self, module=None):
        """Yield the entries of a module, None = of all, in the order in which they end.

        One of more than 262,144 events, as a scan of weeks has for its statistics, is yielded
        in pieces, so that memory is bounded.
        """
        if self.started:
            self.file.seek(0)
        self.started, self.time = True, 0
        packets = CbaPackets(self.file)
        entries, streams = {}, {}       # thread -> Entry, thread -> CbaStream
        for thread, kind, code, value in packets:
            if kind == CBA_HEAD:
                yield from self.whole(entries.pop(thread, None), module)
                entries[thread] = Entry(value.decode('latin-1'), self.time)
                continue
            entry = entries.setdefault(thread, Entry('', self.time))
            if kind == CBA_CHUNK:
                if not streams[thread].feed(value):
                    entry.add(*streams.pop(thread).event())
            elif kind in (CBA_FILE, CBA_DATA):
                streams[thread] = self.stream(kind, code, value, entry, module)
            else:
                if len(entry.events) >= EVENTS_MAX and entry.may_end(kind):
                    yield from self.whole(entry, module)
                    entry = entries[thread] = Entry(entry.module, self.time)
                entry.add(kind, code, value.decode('latin-1') if kind == CBA_STR else value)
                if entry.module in OF_SCAN:
                    self.note_time(entry.module, kind, code, value)
                    self.note_names(*entry.events[-1])
        for stream in streams.values():
            if stream.kind == CBA_FILE and stream.place:
                self.refused.append((stream.name, 'cut short: %d bytes written'
                                     % stream.place.tell()))
            stream.close()
        for thread in sorted(entries):
            yield from self.whole(entries[thread], module)
        self.cut = packets.cut or (
            'the file ends inside %d streams' % len(streams) if streams else '')
        self.torn = packets.torn or not packets.cut and bool(streams)

    def note_time(self, module, kind, code, value):
        """An event of the scanner may say what time it is; a damaged one says nothing."""
        if kind == CBA_INT64 and (module, code) in TIMES and 0 < value < 1 << 33:
            self.time = value

    def note_names(self, kind, code, value):
        """Or what a name of -f stood for; the last address of a list that was cut may be cut."""
        match = RESOLVED.fullmatch(value) if (kind, code) == (CBA_STR, EVENT) else None
        if not match:
            return
        name, hosts = match.group(1), match.group(2).split(', ')
        for host in hosts[:-1] if len(value) >= EVENT_MAX else hosts:
            known = self.hostnames.get(host, '').split()
            if name not in known:
                self.hostnames[host] = ' '.join(known + [name])

    def whole(self, entry, module):
        """An entry that has come to its end, if it is wanted and not empty."""
        if entry and entry.events and module in (None, entry.module):
            yield entry

    def stream(self, kind, code, value, entry, module):
        """Where the chunks of a FILE or DATA go."""
        if kind == CBA_DATA:
            return CbaStream(kind, code, None, [])
        name = value.decode('latin-1')
        wanted = module in (None, entry.module) and (
            '*' in self.extract_for or entry.module in self.extract_for)
        return CbaStream(kind, code, name, self.create(name) if wanted else None)

    def create(self, name):
        """A new file for a FILE, or None and a refusal."""
        try:
            file, path = create_below(self.extract_dir, name, self.taken, self.overwrite)
            self.extracted.add(path)
            self.fresh.append(path)
            return file
        except OSError as error:
            self.refused.append((name, why(error)))
            return None


class CbaStream:
    """A FILE or DATA whose chunks are coming; place: list of chunks, file, or None (skip)."""

    def __init__(self, kind, code, name, place):
        self.kind, self.code, self.name, self.place = kind, code, name, place

    def feed(self, chunk):
        """Keep a chunk -> False if it was the last one."""
        if not chunk:
            self.close()
        elif isinstance(self.place, list):
            self.place.append(chunk)
        elif self.place:
            self.place.write(chunk)
        return bool(chunk)

    def event(self):
        """The event, now that the stream is whole."""
        return self.kind, self.code, self.name if self.kind == CBA_FILE else b''.join(self.place)

    def close(self):
        if self.kind == CBA_FILE and self.place:
            self.place.close()


# ==== 3 Reports =======================================================================

CSW_HEAD = 12                       # octets of a .csw before its ranges
SCOPE_KINDS = {'TARGETS': CBA_DATA, 'PAIRS': CBA_DATA, 'EXCLUDED': CBA_DATA, 'PORTS': CBA_STR,
               'SHARD': CBA_STR, 'ENDED': CBA_STR}      # those whose value is looked at
SAME_SCOPE = 'TARGETS', 'TARGETS_DIGEST', 'PAIRS', 'PAIRS_DIGEST', 'PORTS', 'EXCLUDED', 'SEED'
STAT_ROW = [(CBA_INT64, STAT_TIME), (CBA_INT32, 0), (CBA_INT32, 0)]     # time, events, results
CODES = {                           # module: {code: name}, to select with --module NAME:CODE
    'cscan': {STATS_EVERY: 'STATS_EVERY', STAT_TIME: 'STAT_TIME', EVENT: 'EVENT',
              CANARY_FAIL: 'CANARY_FAIL', CANARY_FAIL_RESPONSE: 'CANARY_FAIL_RESPONSE'},
    'rfb': {1: 'CONN_FAIL', 2: 'BANNER_FAIL', 3: 'READ_FAIL', 4: 'WRITE_FAIL', 5: 'REASON',
            6: 'WIN', 7: 'ONLY_TLS', 8: 'TLS_FAIL', 9: 'HAS_VENCRYPT'},
    'x11': {1: 'CONN_FAIL', 2: 'READ_FAIL', 3: 'WRITE_FAIL', 4: 'GOOD', 5: 'KINDA_GOOD'},
    'banner': {1: 'CONN_FAIL', 2: 'BANNER', 3: 'SILENT', 4: 'CLOSED', 5: 'PROBE',
               6: 'TLS_VERSION', 7: 'CERTIFICATE', 8: 'TLS_FAIL', 9: 'SERVICE', 10: 'PRODUCT',
               11: 'VERSION', 12: 'DETAILS', 13: 'TITLE', 14: 'LOCATION', 15: 'HTTP_STATUS',
               16: 'HOST_KEY', 17: 'FAVICON'},
    STATE_MODULE: STATE_CODES,
    SCOPE_MODULE: SCOPE_CODES,
}


def stat_text(stat) -> str:
    """(unix seconds, new events, new results) -> the line for it."""
    try:
        when = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(stat[0]))
    except (OverflowError, OSError, ValueError):    # a damaged file's year 292277026596
        when = str(stat[0])
    return '%s: %d new events, %d new results' % (when, stat[1], stat[2])


def report_stats(entry: Entry):
    """Lines for an entry of the scanner itself: what happened, then least and most events."""
    stats = []
    if CANARY_FAIL in entry.dict:
        yield 'canary fail - timeout'
    if CANARY_FAIL_RESPONSE in entry.dict:
        yield 'canary fail - invalid response'
    for at, (_, code, value) in enumerate(entry.events):
        if code == EVENT:
            yield 'Event: ' + printable(str(value))
        elif code == STAT_TIME:
            row = entry.events[at:at + 3]
            if [event[:2] for event in row] == STAT_ROW:
                stats.append(tuple(number for _, _, number in row))
                yield stat_text(stats[-1])
    if stats:
        yield 'Min events: ' + stat_text(min(stats, key=lambda stat: stat[1]))
        yield 'Max events: ' + stat_text(max(stats, key=lambda stat: stat[1]))


def entry_text(entry: Entry, code: 'int | None') -> str:
    """An entry -> what it holds; the bare target, as cscan.py -x takes it, if a code was asked."""
    if code is None:
        names = CODES.get(entry.module, {})
        return ' '.join(event_text(kind, code, value, names) for kind, code, value in entry.events)
    text = str(entry.dict.get(0, ''))
    return printable(text.partition('://')[2] or text)


class Unique:
    """--unique: which entries were there before; those of the scanner itself never were.

    code    of --module NAME:CODE: entries are the same if their targets are; None: if all is
    again   how many were
    """

    def __init__(self, code):
        self.code, self.again = code, 0
        self.seen = set()           # digests of 16 octets: some 90 octets of memory each

    def first(self, entry) -> bool:
        """True the first time."""
        if entry.module in OF_SCAN:
            return True
        what = entry.module, entry.events if self.code is None else entry_text(entry, self.code)
        digest = hashlib.blake2b(repr(what).encode(), digest_size=16).digest()
        if digest in self.seen:
            self.again += 1
            return False
        self.seen.add(digest)
        return True


def parse_module(text: str) -> 'tuple[str, int | None]':
    """NAME or NAME:CODE, a number or a name -> (name, code or None)."""
    module, colon, code = text.partition(':')
    if not colon:
        return module, None
    names = {name: number for number, name in CODES.get(module, {}).items()}
    if code.upper() in names:
        return module, names[code.upper()]
    if re.fullmatch('[0-9]{1,10}', code):
        return module, int(code)
    raise UserError('argument --module: %r: a code of %s is a number%s' % (
        text, module, ' or one of ' + ', '.join(names) if names else ''))


# ---- scope ----
#
# What a scan asked, by its own word: entries of `scope`, see there in cscan.py.

SCOPES_MAX = 1000           # different ones of the files given: more are not kept
UNSURE = 'not all targets were asked'       # reasons why a port may not have been asked
NO_ADDRESS, NO_PORT, BARRED = 'address not asked', 'port not asked', 'excluded'


def covered(ranges, others=()) -> 'list[tuple[int, int]]':
    """(first, last) in any order -> merged, in order, without the addresses of others."""
    edges = []
    for first, last in ranges:
        edges += [(first, 1, 0), (last + 1, -1, 0)]
    for first, last in others:
        edges += [(first, 0, 1), (last + 1, 0, -1)]
    found: 'list[tuple[int, int]]' = []
    within = without = begin = 0
    for place, step, other_step in sorted(edges):
        if within and not without and place > begin:
            if found and found[-1][1] == begin - 1:
                begin = found.pop()[0]
            found.append((begin, place - 1))
        within += step
        without += other_step
        begin = place
    return found


def is_within(number: int, ranges) -> bool:
    """Whether one of these merged ranges has it."""
    at = bisect.bisect_right(ranges, (number, 1 << 32))
    return at > 0 and number <= ranges[at - 1][1]


def unpack_ranges(octets: bytes) -> 'list[tuple[int, int]]':
    """A .csw -> its ranges as far as they make sense: a file of strangers may hold anything."""
    words = array.array('I')
    words.frombytes(octets[CSW_HEAD:len(octets) - (len(octets) - CSW_HEAD) % 8])
    if sys.byteorder == 'big':
        words.byteswap()
    ranges, before = [], -1
    for last, total in zip(words[::2], words[1::2]):
        if total > before and last >= total - before - 1:
            ranges.append((last - (total - before) + 1, last))
        before = max(before, total)
    return covered(ranges)


def parse_port_ranges(text: str) -> 'list[tuple[int, int]]':
    """22,80-90 -> [(22, 22), (80, 90)]; what is no port is passed over."""
    parts = [part.partition('-') for part in text.split(',')]
    return [(int(low), int(high or low)) for low, _, high in parts
            if re.fullmatch('[0-9]{1,5}', low) and re.fullmatch('[0-9]{0,5}', high)]


class Scope:
    """What one scan was to ask, all its shards and parts together.

    ranges      merged, without what was excluded; None: a digest is all there is
    excluded    merged; also what came later
    ports       merged ranges
    pairs       {address << 16 | port} of --pairs; None: each port of each address, or unknown
    known       False: pairs of which there is a digest only
    shards      how many there are; done: those of which each target was asked
    ended       how each part ended; '' = it was cut
    """

    def __init__(self, values):
        self.ranges = unpack_ranges(values['TARGETS'][0]) if 'TARGETS' in values else None
        self.excluded = self.unpack_excluded(values)
        self.ports = covered(parse_port_ranges(','.join(values.get('PORTS', []))))
        self.pairs, self.known = None, 'PAIRS_DIGEST' not in values
        if 'PAIRS' in values:
            octets = values['PAIRS'][0]
            self.pairs = {key for key, in struct.iter_unpack('<Q', octets[:len(octets) & ~7])}
        match = re.fullmatch('([0-9]{1,9})/([0-9]{1,9})', values.get('SHARD', ['1/1'])[0])
        self.shard, self.shards = map(int, match.groups()) if match else (1, 1)
        self.once, self.done, self.ended = 'ONCE' in values, set(), ['']

    @staticmethod
    def unpack_excluded(values):
        """Ranges of EXCLUDED."""
        return covered([each for octets in values.get('EXCLUDED', [])
                        for each in unpack_ranges(octets)])

    def end(self, values):
        """The entry at the end."""
        self.ended[-1] = values['ENDED'][0]
        self.excluded = covered(self.excluded + self.unpack_excluded(values))
        if 'COMPLETE' in values:
            self.done.add(self.shard)

    def left(self) -> 'list[tuple[int, int]]':
        """Ranges that were asked, or were to be; none if they are not known."""
        return covered(self.ranges or (), self.excluded)

    def doubt(self, ip, port) -> str:
        """'' if a target was asked, else why it may not have been."""
        if is_within(ip, self.excluded):
            return BARRED
        if self.ranges is not None and not is_within(ip, self.ranges):
            return NO_ADDRESS
        if not is_within(port, self.ports):
            return NO_PORT
        if self.pairs is not None and ip << 16 | port not in self.pairs:
            return NO_PORT
        sure = self.ranges is not None and self.known and len(self.done) >= self.shards
        return '' if sure else UNSURE

    def text(self) -> str:
        """What was asked, and how that ended."""
        what = 'addresses of which the file has a digest only'
        if self.ranges is not None:
            what = '{:,} addresses'.format(sum(last - first + 1 for first, last in self.left()))
        count = sum(last - first + 1 for first, last in self.ports)
        ports = ','.join('%d' % low if low == high else '%d-%d' % (low, high)
                         for low, high in self.ports)
        if self.pairs is not None or not self.known:
            what, ports = 'pairs of ' + what, ''
        shards = '' if self.shards == 1 else ', %d of %d shards' % (len(self.done), self.shards)
        ends = dict.fromkeys(each or 'cut, or still running' for each in self.ended)
        return '%s, %s%s%s%s: %s' % (
            what, 'port' if count == 1 else '{:,} ports'.format(count),
            ' ' + ports if len(ports) < 200 and ports else '', shards,
            '' if self.once else ', drawn at random', '; '.join(list(ends)[-5:]))


class Scopes:
    """The scopes of some files, in which entries of parts of one scan are put together.

    beyond  how many were not kept
    """

    def __init__(self):
        self.by_key, self.last, self.beyond = {}, None, 0

    def add(self, events):
        """The events of an entry of `scope`."""
        values = collections.defaultdict(list)      # type: dict
        for kind, code, value in events:
            name = SCOPE_CODES.get(code)
            if name and kind == SCOPE_KINDS.get(name, kind):
                values[name].append(value)
        if 'ENDED' in values:
            if self.last:
                self.last.end(values)
            self.last = None
        elif 'PORTS' in values:
            self.begin(values)

    def begin(self, values):
        """A scan's start: that of a scan before, if it asks the same in the same order."""
        shard = values.get('SHARD', ['1/1'])[0]
        key = hashlib.sha256(repr([values.get(name) for name in SAME_SCOPE]
                                  + [shard.partition('/')[2]]).encode()).digest()
        if key not in self.by_key and len(self.by_key) >= SCOPES_MAX:
            self.beyond += 1
            self.last = None
            return
        made = Scope(values)
        self.last = self.by_key.setdefault(key, made)
        if self.last is not made:
            self.last.shard = made.shard
            self.last.ended.append('')

    def doubt(self, ip, port) -> 'str | None':
        """'' if one of the scans asked a target, else why none may have; None: nobody knows."""
        reasons = [scope.doubt(ip, port) for scope in self.by_key.values()]
        if self.beyond:
            reasons.append(UNSURE)
        for reason in '', UNSURE, BARRED, NO_PORT, NO_ADDRESS:
            if reason in reasons:
                return reason
        return None

    def ranges(self) -> 'list[tuple[int, int]]':
        """All addresses that were asked, or were to be."""
        return covered([each for scope in self.by_key.values() for each in scope.left()])


# ==== 4 Page ==========================================================================
#
# One file that loads nothing: the head, a line of JSON for each host, then what can be said only
# at the end.  Words, charts and a map of the /16s are there without script; the table,
# the map that zooms and the search are made by script, of which rows exist only where one looks.

PAGE_ROWS = 500000          # ports a page shows
PAGE_TEXT = 200             # octets of what a port said
PAGE_WORDS = 12500000       # characters for all these together: 100,000 ports make 20 MB at most
PAGE_RANGES = 1 << 16       # asked ranges that a page has; if there are more, of whole networks
CHART_ROWS = 12
SCOPE_LINES = 10
REVERSE_MAX = 10000         # addresses whose names are asked for, in so many seconds
REVERSE_S = 60
REVERSE_THREADS = 32
SOON_S = 30 * 86400         # a certificate that ends before that is worth a line
STATE_NUMBERS = {'open': 0, 'refused': 1, 'unreachable': 2, 'silent': 3}
UNPLAIN = re.compile(r'[^\n -~]+')

PAGE_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --card: #f6f7f9; --ink: #1b1f27; --soft: #5d6675;
  --grid: #dfe3e9; --bar: #2563eb; --hot: #0d8f6f; --asked: #d3dae6; --warn: #c81e1e; }
@media (prefers-color-scheme: dark) { :root { --paper: #12151b; --card: #1b2029; --ink: #e6e9ef;
  --soft: #9aa4b5; --grid: #2b323e; --bar: #6ea2ff; --hot: #3ecfa5; --asked: #2f3a4c;
  --warn: #ff7b72; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0 auto; padding: 24px 16px 40px; max-width: 1240px; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
h1 { margin: 0; font-size: 25px; overflow-wrap: anywhere; }
h2 { margin: 0 0 8px; font-size: 17px; }
p { margin: 4px 0; color: var(--soft); }
p.lead { color: var(--ink); font-size: 16px; }
code, #table { font: 13px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; }
code { overflow-wrap: anywhere; }
section { margin: 14px 0; padding: 14px 16px; background: var(--card); border-radius: 10px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr));
  gap: 14px; margin: 14px 0; }
.charts section { margin: 0; min-width: 0; }
.bar { display: grid; grid-template-columns: 116px 1fr 72px; gap: 10px; align-items: center;
  width: 100%; padding: 2px 0; border: 0; background: none; color: inherit; font: inherit;
  text-align: left; cursor: pointer; }
.bar.as { grid-template-columns: minmax(0, 3fr) minmax(0, 2fr) 72px; }
.bar span { overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
.bar i { height: 12px; min-width: 2px; border-radius: 3px; background: var(--bar); }
.bar b { font-weight: 400; text-align: right; font-variant-numeric: tabular-nums; }
canvas, svg { display: block; width: 100%; max-width: 512px; aspect-ratio: 1; cursor: zoom-in;
  background: var(--paper); image-rendering: pixelated; border: 1px solid var(--grid); }
svg { cursor: default; }
.found, .asked { display: inline-block; width: 11px; height: 11px; border-radius: 2px; }
.found, svg .found { background: var(--hot); fill: var(--hot); }
.asked, svg .asked { background: var(--asked); fill: var(--asked); }
.line { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; margin: 6px 0; }
button.plain, input[type=search] { font: inherit; color: inherit; background: var(--paper);
  border: 1px solid var(--grid); border-radius: 6px; padding: 5px 10px; }
#search { width: 100%; }
#scroll { height: 72vh; margin-top: 10px; overflow: auto; border: 1px solid var(--grid);
  background: var(--paper); }
#table { position: relative; min-width: 1020px; }
.row, .names { display: grid; gap: 10px; padding: 0 10px; align-items: center;
  grid-template-columns: 125px 52px 100px 160px 84px minmax(120px, 1fr) minmax(200px, 3fr); }
.row { position: absolute; left: 0; right: 0; height: 26px; }
.row.first { border-top: 1px solid var(--grid); }
.row span, .names button { overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
.names { position: sticky; top: 0; z-index: 1; height: 26px; background: var(--card); }
.names button { padding: 0; border: 0; background: none; color: inherit; font: inherit;
  font-weight: 650; text-align: left; cursor: pointer; }
.again { color: transparent; } .warn { color: var(--warn); }
.new { color: var(--hot); } .gone { color: var(--warn); } .changed { color: var(--bar); }
table { border-collapse: collapse; width: 100%; }
td { padding: 3px 12px 3px 0; border-top: 1px solid var(--grid); overflow-wrap: anywhere; }
@media (min-width: 900px) {
  #map { display: grid; grid-template-columns: 512px 1fr; grid-template-rows: repeat(5, auto) 1fr;
    gap: 0 24px; }
  #map h2 { grid-column: 1 / -1; }
  #map canvas { grid-row: 2 / -1; }
  #map p { grid-column: 2; }
}
@media (max-width: 700px) {
  #table { min-width: 0; }
  .names { display: flex; gap: 4px 14px; height: auto; padding: 6px 10px; overflow-x: auto; }
  .names button { flex: none; }
  .row { height: 66px; gap: 0 10px; grid-template-columns: auto auto auto 1fr; }
  .row { align-content: center; }
  .row span:nth-child(4), .row span:empty { display: none; }
  .row span:nth-child(n+6) { grid-column: 1 / -1; }
  .again { color: var(--soft); }
}
"""

PAGE_TABLE = """
<section id="map" hidden><h2>Map</h2>
<p>Addresses along a Hilbert curve: neighbours in number are neighbours here.
<span class="asked"></span> was asked, <span class="found"></span> has open ports. A click zooms
in; at last it searches.</p>
<p class="line"><button class="plain" id="out" type="button">Zoom out</button>
<label>Network <input id="prefix" type="search" size="18" placeholder="192.0.2.0/24"></label></p>
<canvas id="canvas" width="256" height="256"></canvas>
<p id="where"></p><p id="point">&nbsp;</p></section>
<section id="results" hidden><h2>Ports</h2>
<p><label>Search: words, <code>port:443</code>, <code>service:ssh</code>, <code>state:open</code>,
<code>net:192.0.2.0/24</code> <input id="search" type="search"></label></p>
<p class="line"><span id="count"></span>
<label><input id="group" type="checkbox" checked> hosts together</label></p>
<div id="scroll" tabindex="0"><div id="table"><div class="names" id="names"></div></div></div>
</section>
"""

PAGE_SCRIPT = r"""
'use strict';
const STATES = ['open', 'refused', 'unreachable', 'silent'], rows = [];
const at = id => document.getElementById(id);
const dotted = ip => [24, 16, 8, 0].map(bits => ip >>> bits & 255).join('.');
const many = count => count.toLocaleString('en');
const about = JSON.parse(at('about').textContent), narrow = matchMedia('(max-width: 700px)');
for (const [ip, names, network, ports] of JSON.parse(at('data').textContent))
  for (const [port, state, time, service, text, change] of ports)
    rows.push({ip, names, network, port, state, time, service, text, change, lower: ''});
const when = time => new Date((about.start + time) * 1000).toISOString().slice(0, 19)
  .replace('T', ' ');
const order = (a, b) => a < b ? -1 : a > b ? 1 : 0;
const status = row => row.change || STATES[row.state];
const host = row => [row.names, row.network].filter(Boolean).join(' | ');
const COLUMNS = [
  ['address', row => dotted(row.ip), (a, b) => a.ip - b.ip || a.port - b.port],
  ['port', row => row.port, (a, b) => a.port - b.port || a.ip - b.ip],
  ['service', row => row.service, (a, b) => order(a.service, b.service)],
  ['found', row => when(row.time), (a, b) => a.time - b.time],
  [about.diff ? 'change' : 'state', status, (a, b) => order(status(a), status(b))],
  ['host', host, (a, b) => order(host(a), host(b))],
  ['words', row => row.text, (a, b) => order(a.text, b.text)]];
let shown = rows, sorted = 0, down = false;

function element(kind, text, name) {
  const made = document.createElement(kind);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}
function network(text) {            // a.b.c.d/n -> [first address, size], or null
  const found = /^(\d+)\.(\d+)\.(\d+)\.(\d+)(?:\/(\d+))?$/.exec(text);
  if (!found || found[5] > 32 || found.slice(1, 5).some(octet => octet > 255)) return null;
  const size = 2 ** (32 - (found[5] === undefined ? 32 : found[5]));
  const ip = found.slice(1, 5).reduce((number, octet) => number * 256 + Number(octet), 0);
  return [ip - ip % size, size];
}
const TESTS = {
  port: value => row => String(row.port) === value,
  service: value => row => (row.service || 'unknown') === value,
  state: value => row => status(row).startsWith(value),
  country: value => row => row.network.toLowerCase().startsWith(value + ' '),
  as: value => {
    const wanted = ' as' + value.replace(/^as/, '') + ' ';
    return row => (' ' + row.network.toLowerCase() + ' ').includes(wanted);
  },
  net: value => {
    const range = network(value);
    if (!range) return row => dotted(row.ip).startsWith(value);
    return row => row.ip >= range[0] && row.ip < range[0] + range[1];
  },
};
function test(word) {
  const colon = word.indexOf(':'), make = TESTS[word.slice(0, Math.max(colon, 0))];
  if (make && colon < word.length - 1) return make(word.slice(colon + 1));
  return row => lower(row).includes(word);
}
function lower(row) {               // all that a word may be found in
  row.lower = row.lower || [dotted(row.ip) + ':' + row.port, row.names, row.network,
    row.service, status(row), row.text].join(' ').toLowerCase();
  return row.lower;
}
function prepare(next) {            // in pieces, so that the first search does not wait for all
  rows.slice(next, next + 2000).forEach(lower);
  if (next < rows.length) setTimeout(prepare, 10, next + 2000);
}
function arrange(found) {
  const compare = COLUMNS[sorted][2], turned = down ? (a, b) => compare(b, a) : compare;
  if (!sorted && !down) return found;       // as the data stands
  if (!at('group').checked) return found.sort(turned);
  const hosts = new Map();
  for (const row of found)
    if (hosts.has(row.ip)) hosts.get(row.ip).push(row); else hosts.set(row.ip, [row]);
  const groups = [...hosts.values()];
  for (const group of groups) group.sort(turned);
  return groups.sort((a, b) => turned(a[0], b[0])).flat();
}
function choose() {
  const tests = at('search').value.toLowerCase().split(/\s+/).filter(Boolean).map(test);
  shown = arrange(rows.filter(row => tests.every(matches => matches(row))));
  const hosts = new Set();
  for (const row of shown) hosts.add(row.ip);
  at('count').textContent = many(shown.length) + ' ports on ' + many(hosts.size) + ' hosts';
  at('scroll').scrollTop = 0;
  draw();
}
function draw() {
  const box = at('scroll'), table = at('table'), high = narrow.matches ? 66 : 26;
  const head = at('names').offsetHeight;
  const first = Math.max(0, Math.floor(box.scrollTop / high) - 5);
  const last = Math.min(shown.length, first + Math.ceil(box.clientHeight / high) + 12);
  table.style.height = shown.length * high + head + 'px';
  for (const old of table.querySelectorAll('.row')) old.remove();
  for (let n = first; n < last; n++) {
    const again = n > 0 && shown[n - 1].ip === shown[n].ip;
    const line = element('div', '', again ? 'row' : 'row first');
    line.style.top = n * high + head + 'px';
    COLUMNS.forEach(([, text], column) => {
      const repeated = again && (!column || column === 5);
      const cell = element('span', text(shown[n]), repeated && n > first ? 'again' : '');
      if (column === 4 && shown[n].change) cell.className = shown[n].change.split(' ')[0];
      cell.title = cell.textContent;
      line.append(cell);
    });
    table.append(line);
  }
}
function search(text) {
  at('search').value = text;
  at('results').scrollIntoView();
  choose();
}
COLUMNS.forEach(([name], column) => {
  const button = element('button', name);
  button.type = 'button';
  button.onclick = () => { down = column === sorted && !down; sorted = column; choose(); };
  at('names').append(button);
});
at('search').oninput = at('group').onchange = choose;
at('scroll').onscroll = narrow.onchange = window.onresize = () => requestAnimationFrame(draw);
for (const bar of document.querySelectorAll('.bar'))
  bar.onclick = () => search(bar.dataset.search);

let base = 0, bits = 0, side, step, spots, cells, counts, were;
const curves = new Map();                   // depth -> places of all cells, row * side + column
function place(number, levels) {
  let x = 0, y = 0;
  for (let level = 0, half = 1; level < levels; level++, half *= 2) {
    const digit = number % 4, right = digit >> 1, up = (digit ^ right) & 1;
    if (!up) {
      if (right) { x = half - 1 - x; y = half - 1 - y; }
      [x, y] = [y, x];
    }
    x += half * right;
    y += half * up;
    number = number >> 2;
  }
  return y * 2 ** levels + x;
}
function curve(depth) {
  if (!curves.has(depth))
    curves.set(depth, Uint32Array.from({length: 4 ** depth}, (_, n) => place(n, depth)));
  return curves.get(depth);
}
function survey() {                         // what is within base/bits, cell by cell
  const depth = Math.min(8, (32 - bits) / 2), size = 2 ** (32 - bits), places = curve(depth);
  let flip = 0, swap = 0, above = base / size;      // how the curve lies here, by digits above
  for (let level = 0; level < bits / 2; level++) {
    flip ^= above % 4 === 3;
    swap ^= above % 4 % 3 === 0;
    above = Math.floor(above / 4);
  }
  side = 2 ** depth;
  step = size / side / side;
  spots = new Uint32Array(side * side);     // number of a cell -> its place on the canvas
  cells = new Uint32Array(side * side);     // and back
  counts = new Uint32Array(side * side);
  were = new Uint8Array(side * side);
  for (let n = 0; n < side * side; n++) {
    let x = places[n] % side, y = Math.floor(places[n] / side);
    if (flip) { x = side - 1 - x; y = side - 1 - y; }
    spots[n] = swap ? x * side + y : y * side + x;
    cells[spots[n]] = n;
  }
  for (const [first, last] of about.asked)
    if (last >= base && first < base + size)
      were.fill(1, Math.floor((Math.max(first, base) - base) / step),
        Math.floor((Math.min(last, base + size - 1) - base) / step) + 1);
  for (const row of rows)
    if (!row.state && row.ip >= base && row.ip < base + size)
      counts[Math.floor((row.ip - base) / step)]++;
}
function paint() {
  const canvas = at('canvas'), pen = canvas.getContext('2d');
  const style = getComputedStyle(document.documentElement);
  const colour = name => parseInt(style.getPropertyValue(name).trim().slice(1), 16);
  const most = Math.log(counts.reduce((a, b) => Math.max(a, b), 1) + 1);
  const asked = colour('--asked'), hot = colour('--hot');
  canvas.width = canvas.height = side;
  const picture = pen.createImageData(side, side);
  let found = 0;
  for (let n = 0; n < side * side; n++) {
    if (!counts[n] && !were[n]) continue;
    const share = counts[n] ? 0.4 + 0.6 * Math.log(counts[n] + 1) / most : 1;
    const ink = counts[n] ? hot : asked;
    picture.data.set([ink >> 16, ink >> 8 & 255, ink & 255, 255 * share], 4 * spots[n]);
    found += counts[n] > 0;
  }
  pen.putImageData(picture, 0, 0);
  at('where').textContent = dotted(base) + '/' + bits + ': a point is ' + (step === 1 ?
    'an address' : 'a /' + (32 - Math.log2(step))) + '; ' + many(found) + ' have open ports';
  at('out').disabled = !bits;
}
function map() { survey(); paint(); }
function pointed(event) {                   // -> number of the cell
  const scale = side / at('canvas').clientWidth;
  const [x, y] = [event.offsetX, event.offsetY].map(each =>
    Math.min(side - 1, Math.max(0, Math.floor(each * scale))));
  return cells[y * side + x];
}
function go(ip, length) {
  bits = Math.min(24, Math.max(0, length - length % 2));
  base = Math.floor(ip / 2 ** (32 - bits)) * 2 ** (32 - bits);
  map();
}
at('canvas').onclick = event => {
  const ip = base + pointed(event) * step;
  if (bits === 24) search('net:' + dotted(ip) + '/32'); else go(ip, bits + 4);
};
at('canvas').onmousemove = event => {
  const n = pointed(event);
  at('point').textContent = dotted(base + n * step) + (step === 1 ? '' : '/' +
    (32 - Math.log2(step))) + ': ' + (counts[n] ? many(counts[n]) + ' open' : were[n] ?
    'asked' : about.asked.length ? 'not asked' : 'nothing found');
};
at('out').onclick = () => go(base, bits - 4);
at('prefix').onchange = () => {
  const range = network(at('prefix').value.trim());
  if (range) go(range[0], 32 - Math.log2(range[1]));
};
function begin() {                          // the smallest network that has everything
  let first = Infinity, last = 0, length = 24;
  const widen = (low, high) => { first = Math.min(first, low); last = Math.max(last, high); };
  for (const [low, high] of about.asked) widen(low, high);
  for (const row of rows) widen(row.ip, row.ip);
  if (first > last) return [0, 0];
  const start = ip => Math.floor(ip / 2 ** (32 - length));
  while (start(first) !== start(last)) length -= 2;
  return [first, length];
}
matchMedia('(prefers-color-scheme: dark)').onchange = paint;
at('map').hidden = at('results').hidden = false;
at('search').value = decodeURIComponent(location.hash.slice(1));
choose();
setTimeout(prepare, 100, 0);
go(...begin());
"""

PAGE_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; base-uri 'none'; \
form-action 'none'; style-src 'unsafe-inline'; script-src 'sha256-%s'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Scan report</title>
<style>%s</style>
</head>
<body>
<h1>Scan report</h1>
<script type="application/json" id="data">[""" % (base64.b64encode(hashlib.sha256(
    PAGE_SCRIPT.encode()).digest()).decode(), PAGE_STYLE)


PAGE_JSON = json.JSONEncoder(separators=(',', ':'))     # dumps() would make one each time


def script_text(value) -> str:
    """A value as JSON that may stand in a script element: no < begins anything there."""
    return PAGE_JSON.encode(value).replace('<', '\\u003c')


def page_text(said: str) -> str:
    """Octets as Latin-1 -> what a page shows: UTF-8 where it is, \\x1b for control characters."""
    said = said[:PAGE_TEXT].replace('\r\n', '\n')
    if not UNPLAIN.search(said):
        return said
    octets = said.encode('latin-1', 'replace')
    try:
        said = octets.decode()
    except UnicodeDecodeError as error:
        if error.start >= len(octets) - 3 and error.start:      # it may have been cut
            return page_text(said[:error.start])
    return UNPLAIN.sub(lambda match: printable(match.group()), said)


def curve_cell(number: int) -> 'tuple[int, int]':
    """A number of 16 bits -> column and row on a Hilbert curve of 256 x 256."""
    x = y = 0
    side = 1
    while side < 256:
        right = number >> 1 & 1
        up = (number ^ right) & 1
        if not up:
            if right:
                x, y = side - 1 - x, side - 1 - y
            x, y = y, x
        x += side * right
        y += side * up
        number >>= 2
        side <<= 1
    return x, y


def curve_squares(first: int, last: int):
    """Numbers of 16 bits -> (column, row, side) of the largest squares that have just these."""
    while first <= last:
        side = 1
        while (side < 256 and first % (4 * side * side) == 0
               and first + 4 * side * side <= last + 1):
            side *= 2
        x, y = curve_cell(first)
        yield x & -side, y & -side, side
        first += side * side


def svg_path(name: str, ranges) -> str:
    """A class, ranges of addresses -> all their /16s as one path."""
    squares = [square for first, last in covered(
        (first >> 16, last >> 16) for first, last in ranges)
        for square in curve_squares(first, last)]
    return '<path class="%s" d="%s"/>' % (name, ''.join(
        'M%d %dh%dv%dh-%dz' % (x, y, side, side, side) for x, y, side in squares))


def few_ranges(ranges):
    """The ranges; if they are too many, those of whole networks around them."""
    for bits in 8, 12, 16:
        if len(ranges) <= PAGE_RANGES:
            break
        low = (1 << bits) - 1
        ranges = covered((first & ~low, last | low) for first, last in ranges)
    return ranges


@output_format('html', 'a page to look at, by host: search, charts, map',
               PAGE_HEAD.replace('%', '%%'), grouped=True)
def html_host(number, names, network, ports):
    """Address as number, names, where it is, ports -> all this as JSON.

    ports   [[number, state, seconds after the start, service, words]], behind it the kind of a
            Change
    """
    return script_text([number, names, network, ports])


def ip_number(text: str) -> int:
    """'1.2.3.4' -> 16909060."""
    return int.from_bytes(bytes(map(int, text.split('.'))), 'big')


def dotted(number: int) -> str:
    """16909060 -> '1.2.3.4'."""
    return '.'.join(map(str, number.to_bytes(4, 'big')))


def port_facts(records) -> 'dict[str, str]':
    """service_facts() of all records of a port; of two, what the last says."""
    facts = {}
    for record in records:
        facts.update(service_facts(record))
    return facts


FORMATS['html'] = GROUPED['html']


class Annotations:
    """What databases and the resolver say of addresses.

    names, countries    {address as number: host name}, {...: code of a country}
    systems             {...: AS5617 and its name}
    """

    def __init__(self, country_db=(), as_db=(), reverse=False):
        self.country_db, self.as_db, self.reverse = country_db, as_db, reverse
        self.names, self.countries, self.systems = {}, {}, {}

    def prepare(self, ips):
        """Look up addresses, the first PAGE_ROWS of them; raises UserError."""
        if not (self.country_db or self.as_db or self.reverse):
            return
        numbers = sorted(set(ips))[:PAGE_ROWS]
        if self.country_db or self.as_db:
            self.read(numbers)
        if self.reverse:
            self.names = reverse_names(numbers)

    def read(self, numbers):
        """The databases, in all forms that compile_targets.py knows."""
        try:
            import compile_targets as targets       # late: nothing else needs it
        except ImportError:
            raise UserError('argument --%s: compile_targets.py reads it, and is not beside '
                            'cba_reader.py' % ('as-db' if self.as_db else 'country-db')) from None
        try:
            for path in self.as_db:
                self.fill(numbers, self.systems, system_rows(targets, path))
            if self.country_db:
                self.fill(numbers, self.countries, country_rows(targets, self.country_db))
        except targets.UserError as error:
            raise UserError(str(error)) from None

    @staticmethod
    def fill(numbers, found, rows):
        """(first, last, text) of networks -> {number: text}; numbers are in order."""
        for first, last, text in rows:
            at = bisect.bisect_left(numbers, first)
            while text and at < len(numbers) and numbers[at] <= last:
                found[numbers[at]] = text
                at += 1

    def place(self, number):
        """Address -> its country and its AS, '' = not known."""
        return self.countries.get(number, ''), self.systems.get(number, '')

    def network(self, number) -> str:
        """Both of them."""
        return ' '.join(filter(None, self.place(number)))


def system_rows(targets, path):
    """Yield (first, last, AS5617 and its name) of a file of --as-db."""
    for first, last, number, name in targets.as_rows(targets.Database(path)):
        if number:
            yield first, last, printable('AS%d %s' % (number, name[:60]))


def country_rows(targets, paths):
    """Yield (first, last, code or '') of --country-db."""
    for first, last, code in targets.country_rows(*targets.open_countries(paths), paths[-1]):
        yield first, last, '' if code in targets.NO_COUNTRY else printable(code[:2])


def reverse_names(numbers) -> 'dict[int, str]':
    """Addresses as numbers -> {those that the resolver has a name for: it}."""
    import socket                       # late: few need them
    import threading
    found, asked, waiting = [], [], iter(numbers[:REVERSE_MAX])
    deadline = time.monotonic() + REVERSE_S

    def work():
        for number in waiting:
            if time.monotonic() > deadline:
                return
            asked.append(number)
            with contextlib.suppress(OSError):
                found.append((number, printable(socket.gethostbyaddr(dotted(number))[0][:253])))
    threads = [threading.Thread(target=work, daemon=True) for _ in range(REVERSE_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    if len(asked) < len(numbers):
        say('--reverse: %d of %d addresses were asked for their names: %d s and %d addresses are '
            'the limits' % (len(asked), len(numbers), REVERSE_S, REVERSE_MAX))
    return dict(found[:])               # a thread may still wait for the resolver


class PageWriter(FormatWriter):
    """The page: what it says in words and draws without script is counted while hosts go by.

    ports, services, countries, systems     how often they were open; systems: {AS: its name}
    networks            /16s with open ports
    scopes              Scopes of what was asked
    ending              [(when a certificate ends, ip:port, its name)]
    beyond              ports that found no room
    known               Annotations
    diff                True: rows are Changes
    """
    diff = False

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.ports, self.services = collections.Counter(), collections.Counter()
        self.countries, self.systems = collections.Counter(), collections.Counter()
        self.networks, self.ending, self.rows, self.beyond = set(), [], 0, 0
        self.scopes, self.known, self.room = Scopes(), Annotations(), 0

    def record(self, record):
        """A record is held until the end; a scope is kept apart."""
        if record.module == SCOPE_MODULE:
            self.scopes.add(record.events)
        return super().record(record)

    def hosts(self):
        """Yield each Host, now that all are known."""
        texts = len(self.held.places) - self.held.places.count(0)
        self.room = max(60, min(PAGE_TEXT * 5 // 4, PAGE_WORDS // max(texts, 1)))
        self.known.prepare(self.held.ips)
        return super().hosts()

    def host(self, host):
        """A Host -> its line."""
        number, ports = ip_number(host.ip), []
        self.count(host, 1)
        for port in host.ports():
            records = list(host.records(port))
            facts = port_facts(records)
            if port.state == 'open':
                self.note(number, port, records, facts)
            if not self.beyond:
                ports.append([port.number, STATE_NUMBERS[port.state], port.time - self.start,
                              facts.get('service', ''), self.words_of(records, facts)])
            else:
                self.beyond += 1
        return [line + '\n' for line in self.row(number, host.hostname, ports)]

    def row(self, number, hostname, ports):
        """A host and its ports as html_host() has them -> its line, none if there is no room."""
        if self.beyond or self.rows + len(ports) > PAGE_ROWS:
            self.beyond += len(ports)
            return []
        comma = ',' if self.rows else ''
        self.rows += len(ports)
        names = ' '.join(filter(None, [hostname, self.known.names.get(number)]))
        return [comma + self.format.line(number, names, self.known.network(number), ports)]

    def words_of(self, records, facts):
        """Product, title and what a port said, no longer in JSON than there is room for."""
        known = [product_text(facts), facts.get('title', '')]
        known += ['favicon ' + facts['favicon']] if 'favicon' in facts else []
        words = ' | '.join(filter(None, [printable(each[:PAGE_TEXT]) for each in known]
                                  + [page_text(said_text(each, str)) for each in records]))
        if 6 * len(words) <= self.room:     # a character has six in JSON, if it is \\u1234
            return words
        size = len(script_text(words))
        return words if size <= self.room else words[:max(len(words) * self.room // size, 1)]

    def note(self, number, port, records, facts):
        """Count an open port of an address, and keep its certificate's end."""
        self.ports[str(port.number)] += 1
        self.services[facts.get('service', 'unknown')] += 1
        self.networks.add(number >> 16)
        country, system = self.known.place(number)
        if country:
            self.countries[country] += 1
        if system:
            self.systems[system] += 1
        for record in records:
            certificate = certificate_of(record)
            if certificate:
                self.ending.append((certificate.ends, '%s:%d' % (dotted(number), port.number),
                                    common_name(certificate)))

    def end(self, end):
        """Unix seconds -> all that comes after the hosts."""
        about = {'start': self.start, 'diff': self.diff,
                 'asked': few_ranges(self.scopes.ranges())}
        return self.begin(end) + [
            ']</script>', '<script type="application/json" id="about">%s</script>'
            % script_text(about), self.words(end), '<div class="charts">'] + self.charts() + [
            '</div>', self.certificates(end), PAGE_TABLE, '<noscript><section><h2>Map</h2>',
            '<p>Networks of 65,536 addresses along a Hilbert curve: <span class="asked"></span> '
            'was asked, <span class="found"></span> has open ports.</p>',
            self.drawing(), '</section></noscript>', '<script>%s</script>' % PAGE_SCRIPT,
            '</body>', '</html>']

    def charts(self):
        """The most frequent of each kind."""
        charts = [chart('Ports', 'port', self.ports), chart('Services', 'service', self.services)]
        if self.countries:
            charts.append(chart('Countries', 'country', self.countries))
        if self.systems:
            charts.append(chart('Networks', 'as', self.systems))
        return charts

    def words(self, end):
        """The summary, then what the page leaves out, and what made it."""
        lines = self.summary(end)
        if self.beyond:
            lines.append('<p class="warn">The page shows the first {:,} ports by address; '
                         '{:,} more are left out.</p>'.format(self.rows, self.beyond))
        return '\n'.join(lines) + '<p><code>%s</code></p>' % xml_text(self.command)

    def summary(self, end):
        """What was found, what was asked."""
        up, count = self.shown - self.down, sum(self.ports.values())
        lines = ['<p class="lead">Open ports: {:,}, on {:,} of {:,} hosts; /16 networks: {:,}. '
                 'From {} to {} UTC.</p>'.format(count, up, self.shown, len(self.networks),
                                                 utc_text(self.start), utc_text(end))]
        for name, counts in (('port', self.ports), ('service', self.services)):
            most = [each for each in counts.most_common(4) if each[0] != 'unknown'][:3]
            if most:
                lines.append('<p>Most frequent %ss: %s.</p>' % (name, ', '.join(
                    '{} ({:,})'.format(xml_text(each), number) for each, number in most)))
        lines += ['<p>Asked: %s.</p>' % xml_text(scope.text())
                  for scope in list(self.scopes.by_key.values())[:SCOPE_LINES]]
        more = len(self.scopes.by_key) + self.scopes.beyond - SCOPE_LINES
        if more > 0:
            lines.append('<p>{:,} more scans are not listed.</p>'.format(more))
        return lines

    def certificates(self, now):
        """Those that end soon, or have ended."""
        found = sorted(each for each in self.ending if each[0] < now + SOON_S)
        rows = ''.join('<tr><td%s>%s</td><td>%s</td><td>%s</td></tr>' % (
            ' class="warn"' if ends < now else '', utc_text(ends, '%Y-%m-%d'), where,
            xml_text(printable(name))) for ends, where, name in found[:100])
        if not found:
            return ''
        return ('<section><h2>Certificates that end within 30 days, or have ended</h2>'
                '<p>%d of %d; the first are shown</p><table>%s</table></section>'
                % (len(found), len(self.ending), rows))

    def drawing(self):
        """The /16s that were asked, and those that have open ports."""
        found = [(number << 16, number << 16) for number in self.networks]
        return '<svg viewBox="0 0 256 256">%s%s</svg>' % (
            svg_path('asked', self.scopes.ranges()), svg_path('found', found))


def chart(title, key, counts, without='') -> str:
    """Counter -> the most frequent as bars, which are buttons that search for the first word."""
    most = [each for each in counts.most_common(CHART_ROWS + 1) if each[0] != without][:CHART_ROWS]
    rows = ''.join(
        '<button class="bar {0}" type="button" data-search="{0}:{1}"><span title="{2}">{2}</span>'
        '<i style="width:{3:.1f}%"></i><b>{4:,}</b></button>'.format(
            key, xml_text(name.partition(' ')[0]), xml_text(name), 100 * count / most[0][1],
            count) for name, count in most)
    return '<section><h2>%s</h2>%s</section>' % (title, rows or '<p>There are none.</p>')


# ==== 5 Differences ===================================================================
#
# Hosts of two files go by side by side, in order of addresses.  A port that is in the old file
# only is gone if the new scan asked for it, by its entries of `scope`.

NEW, GONE, NOT_ASKED, CHANGED = 'new', 'gone', 'not asked', 'changed'
COMPARED = ('service', 'product', 'version', 'title', 'http_status', 'host_key',
            'tls_version')          # of service_facts(); others may differ each time
VOLATILE = re.compile(              # of a first line of text: times, challenges, identifiers
    r'<[^<>]*>|[0-9]+:[0-9]{2}(?::[0-9]{2})?|[0-9a-fA-F]{12,}|'
    r'(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? [ -~]*')

Change = collections.namedtuple('Change', [
    'kind',         # NEW, GONE, NOT_ASKED, CHANGED
    'number', 'hostname', 'port',
    'time',         # Unix seconds at which it was found: in the new file, if it is there
    'reason',       # why it was not asked, or was not before; its state if it is not open now
    'old', 'new',   # facts of a port that is open, None = it is not
    'names',        # of facts that differ
    'records'])     # those that speak for it, of the new file if it is there


class Side:
    """One of the two files.

    path    of it; files: Files, for complaints
    writer  FormatWriter that holds its results; scopes: Scopes of what it asked
    begin, end  Unix seconds
    """

    def __init__(self, path):
        self.path, self.files, self.scopes = path, Files([path]), Scopes()
        self.writer = FormatWriter('json', 'cscan', '', lambda name: CODES.get(name, {}),
                                   group=True)
        self.writer.hostnames = self.files.hostnames
        self.begin = self.files.begin(path)
        self.end = self.begin

    def read(self):
        """All of it; raises UserError if it is no CBA file, or too large."""
        for record in self.files.records(None, None, True):
            self.end = max(self.end, record.time)
            if record.module == SCOPE_MODULE:
                self.scopes.add(record.events)
            self.writer.record(record)
            reason = self.writer.held.full()
            if reason:
                raise UserError('%r: %s' % (self.path, reason))
        if not self.files.has_any():        # nothing of it would be `gone`
            raise UserError(self.files.complaints[self.path])
        return self

    def hosts(self):
        """Yield (address as number, Host), in order."""
        return ((ip_number(host.ip), host) for host in self.writer.hosts())


def side_by_side(old, new):
    """Two iterators of (number, Host) -> yield (number, Host or None, Host or None)."""
    rows = heapq.merge(((number, 0, host) for number, host in old),
                       ((number, 1, host) for number, host in new), key=lambda row: row[:2])
    for number, both in itertools.groupby(rows, key=lambda row: row[0]):
        hosts = {side: host for _, side, host in both}
        yield number, hosts.get(0), hosts.get(1)


def ports_of(host):
    """Host or None -> {number: HostPort}."""
    return {port.number: port for port in host.ports()} if host else {}


def compared_facts(records) -> 'dict[str, str]':
    """Records of a port -> what two scans should find alike, the certificate and words, too."""
    facts, more = port_facts(records), {}
    for record in records:
        said = first_line(record)
        if said:
            more['banner'] = said
        certificate = certificate_of(record)
        if certificate:
            more['certificate'] = '%s, ends %s' % (common_name(certificate),
                                                   utc_text(certificate.ends))
    return dict({name: facts[name] for name in COMPARED if name in facts}, **more)


def first_line(record) -> str:
    """What a server said first, without what differs each time; '' if that is no text."""
    line = page_text(banner_of(record) or '').strip().partition('\n')[0]
    return '' if '\\x' in line else VOLATILE.sub('*', line)


def is_recognised(records) -> bool:
    """Whether the scan looked for the service, so that a fact that is missing means something."""
    return any(record.names.get(code) == 'SERVICE' for record in records
               for _, code, _ in record.events)


def differing(old, new, both_recognised) -> 'list[str]':
    """Names of the facts that differ; the words only where no product is known."""
    names = [name for name in COMPARED + ('certificate', 'banner') if name in old or name in new]
    if 'product' in old and 'product' in new and 'banner' in names:
        names.remove('banner')
    if not both_recognised:
        names = [name for name in names if name in old and name in new]
    return [name for name in names if old.get(name) != new.get(name)]


def changes(old, new, counts):
    """Two Sides -> yield each Change, in order of addresses and ports; counts: of their kinds."""
    for number, old_host, new_host in side_by_side(old.hosts(), new.hosts()):
        before, after = ports_of(old_host), ports_of(new_host)
        for port in sorted(set(before) | set(after)):
            change = compare_port(old, new, number, (old_host, before.get(port)),
                                  (new_host, after.get(port)))
            counts[change.kind if change else 'same'] += 1
            if change:
                yield change


def compare_port(old, new, number, before, after) -> 'Change | None':
    """(Host, HostPort) of both Sides, None = not there -> a Change; None: it is the same."""
    was, now = [place[1] and place[1].state == 'open' for place in (before, after)]
    if not (was or now):
        return None
    spoken = [list(host.records(port)) if is_open else []
              for is_open, (host, port) in ((was, before), (now, after))]
    facts = [compared_facts(records) for records in spoken]
    host, port = after if now else before
    names = []                      # type: list[str]
    if was and now:
        kind, reason = CHANGED, ''
        names = differing(facts[0], facts[1], all(map(is_recognised, spoken)))
        if not names:
            return None
    elif now:
        kind = NEW
        reason = '' if before[1] else old.scopes.doubt(number, port.number) or ''
    else:
        reason = after[1].state if after[1] else new.scopes.doubt(number, port.number) or ''
        kind = NOT_ASKED if reason and not after[1] else GONE
    return Change(kind, number, host.hostname, port.number, port.time, reason,
                  facts[0] if was else None, facts[1] if now else None, names,
                  spoken[1 if now else 0])


def change_text(change) -> str:
    """A Change in words: what differs, or what speaks there."""
    if change.kind != CHANGED:
        facts = change.new or change.old or {}
        words = [facts.get('service', ''), product_text(facts), facts.get('title', '')]
        if not words[1]:
            words.append(facts.get('banner', ''))
        return ' | '.join(printable(word[:PAGE_TEXT]) for word in words if word)
    return '; '.join('%s: %s' % (name, ' -> '.join(
        printable(facts[name][:PAGE_TEXT]) if name in facts else 'none'
        for facts in (change.old, change.new))) for name in change.names)


def change_line(change) -> str:
    """A Change as a line of text: new 192.0.2.1:80 http | nginx 1.24"""
    line = '%s %s:%d %s' % (change.kind, dotted(change.number), change.port, change_text(change))
    return line.rstrip() + (' (%s)' % reason_text(change) if change.reason else '')


def reason_text(change) -> str:
    """The reason in words."""
    return 'before: ' + change.reason if change.kind == NEW else change.reason


def change_json(change) -> str:
    """A Change as an object."""
    line = {'change': change.kind, 'ip': dotted(change.number), 'port': change.port,
            'time': change.time}
    if change.hostname:
        line['hostname'] = change.hostname
    if change.reason:
        line['reason'] = reason_text(change)
    if change.names:
        line['differs'] = change.names
    return json_text(dict(line, old=change.old, new=change.new))


class DiffPage(PageWriter):
    """The page of differences: its rows are Changes.

    sides   the two Sides; counts: of kinds, known when all have gone by
    kinds   of open ports on the page, for the chart
    """
    diff = True

    def __init__(self, command, sides, counts):
        super().__init__('html', 'cscan', command, lambda name: CODES.get(name, {}))
        self.sides, self.counts = sides, counts
        self.room, self.scopes = PAGE_TEXT * 5 // 4, sides[1].scopes

    def lines(self, found):
        """Changes -> the document."""
        old, new = self.sides
        self.known.prepare(old.writer.held.ips + new.writer.held.ips)
        yield from self.begin(new.begin)
        for number, group in itertools.groupby(found, key=lambda change: change.number):
            yield from self.change_host(number, list(group))
        yield from self.end(new.end)

    def change_host(self, number, group):
        """The Changes of a host -> its line."""
        rows = []
        for change in group:
            facts = change.new or change.old
            self.ports[str(change.port)] += 1
            self.services[facts.get('service', 'unknown')] += 1
            self.networks.add(number >> 16)
            words = change_text(change) if change.kind == CHANGED else (
                self.words_of(change.records, port_facts(change.records)))
            words = ' | '.join(filter(None, [reason_text(change) if change.reason else '', words]))
            rows.append([change.port, STATE_NUMBERS['open' if change.new else 'silent'],
                         change.time - self.start, facts.get('service', ''), words, change.kind])
        return self.row(number, group[0].hostname, rows)

    def charts(self):
        """Kinds come first."""
        return [chart('Changes', 'state', +self.counts, 'same')] + super().charts()

    def summary(self, end):
        """What has changed, from when to when."""
        old, new = self.sides
        return ['<p class="lead">From %s to %s UTC: %s.</p>' % (
            utc_text(old.begin), utc_text(new.begin), counts_text(self.counts))] + [
            '<p>%s asked: %s.</p>' % (name, xml_text(scope.text()))
            for name, side in (('The old scan', old), ('The new scan', new))
            for scope in list(side.scopes.by_key.values())[:SCOPE_LINES]]


def counts_text(counts) -> str:
    """Counts of kinds -> 3 new, 1 gone ..."""
    return ', '.join('{:,} {}'.format(counts[kind], kind)
                     for kind in (NEW, GONE, NOT_ASKED, CHANGED, 'same'))


def report_changes(args) -> int:
    """--diff -> exit status."""
    sides = [Side(path).read() for path in args.files]
    counts: 'dict[str, int]' = collections.Counter()
    found = changes(sides[0], sides[1], counts)
    if args.to == 'html':
        page = DiffPage(command_line(), sides, counts)
        page.known = Annotations(args.country_db, args.as_db, args.reverse)
        emit(page.lines(found))
    else:
        emit(map(change_json if args.to else change_line, found))
    say('%s -> %s: %s' % (printable(sides[0].path), printable(sides[1].path),
                          counts_text(counts)))
    if counts[GONE] and not sides[1].scopes.by_key:
        say("%s: it does not say what its scan asked: `gone` may be `not asked`"
            % printable(sides[1].path))
    complaints = [line for side in sides for line in side.files.complaints.values()]
    for complaint in dict.fromkeys(complaints):
        say(complaint)
    return 1 if any(side.files.broken for side in sides) else 0


# ==== 6 Command line ==================================================================

EXAMPLES = '''\
examples:
  cba_reader.py scan.cba                    statistics, then results
  cba_reader.py scan.cba -r | sort -u       open ports only
  cba_reader.py *.cba --module rfb          all entries of a module, in words
  cba_reader.py scan.cba --module rfb:WIN   targets whose entry has this code
  cba_reader.py scan.cba --json | jq -r 'select(.module == "rfb") | .ip'
  cba_reader.py scan.cba --extract files    write the files that modules kept
  cba_reader.py *.cba --unique --to xml     for what reads masscan -oX
  cba_reader.py *.cba --to html > report.html
  cba_reader.py --diff monday.cba sunday.cba
'''


class Parser(argparse.ArgumentParser):
    """One line for a mistake; formats below the options."""

    def error(self, message):
        sys.stderr.write('cba_reader: %s (see -h)\n' % message)
        sys.exit(2)

    def format_help(self):
        return super().format_help() + '\n' + formats_text()


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(
        prog='cba_reader.py', description='Read CBA files, the output of cscan.', epilog=EXAMPLES,
        allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('files', metavar='FILE', nargs='+', help='CBA files, read as one; - is standard input')
    add('-s', action='store_true', help='statistics only')
    add('-r', action='store_true', help='results only')
    add('--module', metavar='NAME[:CODE]',
        help='entries of this module; with CODE (number or name) the targets that have it')
    add('--json', action='store_true',
        help='one JSON object a line for each entry, or those of -s, -r, --module')
    add('--to', metavar='FORMAT', choices=list(FORMATS),
        help='the same in a format of below, for other programs; --to json is --json')
    add('--group', action='store_true',
        help='one line a host: text, or with --to json or csv; nmap-xml is always so')
    add('--no-header', action='store_true', help='with --to csv and zmap: rows only')
    add('--unique', action='store_true',
        help='each result, or entry of a module, once: a resumed scan may have written some twice')
    add('--diff', action='store_true',
        help='two files, OLD NEW: ports that are new, gone, changed, or were not asked again; '
             'text, or with --to json or html')
    add('--country-db', metavar='FILE', nargs='+', default=[],
        help='with --to html: countries of hosts, from a database of networks as '
             'compile_targets.py takes it (GeoLite2: BLOCKS LOCATIONS)')
    add('--as-db', metavar='FILE', action='append', default=[],
        help='with --to html: AS of hosts, likewise; may be repeated')
    add('--reverse', action='store_true',
        help="with --to html: names of hosts, by the system's resolver, for %d s at most"
             % REVERSE_S)
    add('--extract', metavar='DIR', help='write the files of all modules (or --module) below DIR')
    add('--overwrite', action='store_true', help='let --extract replace files that are there')
    add('--version', action='version', version='cba_reader %s' % __version__)
    return parser


def main(argv=None) -> int:
    """Command line -> exit status: 0 read (also files cut at the end), 1 error, 2 usage."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.overwrite and not args.extract:
        parser.error('--overwrite: goes with --extract')
    if args.module is not None and (args.s or args.r):
        parser.error('--module %s: goes without -s and -r' % args.module)
    check_to(parser, args)
    try:
        status = read_all(args)
        flush()
        return status
    except OutputError as error:
        drop_output()
        if error.args[0]:
            sys.stderr.write('cba_reader: standard output: %s\n' % error)
        return 1 if error.args[0] else 0
    except KeyboardInterrupt:
        return 130


def check_to(parser, args):
    """What goes with --to, --json and --unique; --json becomes --to json."""
    if args.json and args.to:
        parser.error('--json and --to %s: one of them' % args.to)
    option = '--json' if args.json else '--to ' + args.to if args.to else ''
    if args.json:
        args.to = 'json'
    for given, wrong in ((option, '--extract' if args.extract else ''),
                         (option, '-s' if args.s and not args.r and args.to != 'json' else ''),
                         ('--unique' if args.unique else '', '--extract' if args.extract else
                          '-s' if args.s and not args.r else '')):
        if given and wrong:
            parser.error('%s: goes without %s' % (given, wrong))
    if args.diff:
        check_diff(parser, args)
    if args.group and (args.s or args.extract):
        parser.error('--group: goes without ' + ('-s' if args.s else '--extract'))
    if args.group:
        args.to = args.to or 'text'
        if args.to not in GROUPED:
            parser.error('--group: goes with --to %s; %s has a record for each port' % (
                ', '.join(each for each in GROUPED if each != 'text'), args.to))
    for option, given in (('--country-db', args.country_db), ('--as-db', args.as_db),
                          ('--reverse', args.reverse)):
        if given and args.to != 'html':
            parser.error('%s: goes with --to html' % option)
    if args.no_header and not (args.to and FORMATS[args.to].columns):
        parser.error('--no-header: goes with --to ' + ' or '.join(
            each.name for each in FORMATS.values() if each.columns))


def check_diff(parser, args):
    """What goes with --diff."""
    if len(args.files) != 2:
        parser.error('--diff: two files were expected, OLD NEW, not %d' % len(args.files))
    wrong = [option for option, given in (
        ('-s', args.s), ('-r', args.r), ('--module', args.module is not None),
        ('--extract', args.extract), ('--unique', args.unique), ('--group', args.group),
        ('--to ' + str(args.to), args.to not in (None, 'json', 'html'))) if given]
    if wrong:
        parser.error('--diff: goes without %s' % wrong[0])


def read_all(args) -> int:
    """Report on all files, then what is wrong with which -> exit status."""
    try:
        module, code = (None, None) if args.module is None else parse_module(args.module)
    except UserError as error:
        say(str(error))
        return 1
    files = Files(args.files, args.extract, '*' if module is None else [module], args.overwrite)
    unique = files.unique = Unique(code) if args.unique else None
    try:
        if args.diff:
            return report_changes(args)
        report(files, args, module, code)
    except UserError as error:
        say(str(error))
        return 1
    if unique and unique.again:
        say('--unique: %d left out that had been there before' % unique.again)
    for complaint in files.complaints.values():
        say(complaint)
    return 1 if files.broken else 0


class OutputError(Exception):
    """Standard output cannot be written: args[0] is why, '' if its reader has seen enough."""


# ---- same in cba_reader.py and compile_targets.py ----

def drop_output():
    """Send what Python would flush at exit to nowhere."""
    if sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

# ---- end of same in cba_reader.py and compile_targets.py ----


def output(call, *args):
    """Write to or flush standard output; raises OutputError."""
    try:
        call(*args)
    except BrokenPipeError:
        raise OutputError('') from None
    except OSError as error:
        raise OutputError(why(error)) from None


def flush():
    """What was printed is out."""
    if not sys.stdout:
        raise OutputError('closed')
    output(sys.stdout.flush)


def say(text: str):
    """A line on stderr, below what was printed before."""
    flush()
    sys.stderr.write('cba_reader: %s\n' % text)


def emit(lines, end='\n'):
    """Print lines; characters that the terminal's encoding lacks are escaped."""
    flush()
    encoding = sys.stdout.encoding or 'ascii'
    for line in lines:
        output(sys.stdout.write, line.encode(encoding, 'backslashreplace').decode(encoding) + end)


def seekable_copy(pipe):
    """A temporary file with all that comes out of a pipe."""
    copy = tempfile.TemporaryFile()
    shutil.copyfileobj(pipe, copy)
    copy.flush()
    return copy


class Files:
    """The files of the command line, read as one, as often as is needed.

    folder, modules, overwrite  of --extract, as CBA takes them; folder None = nothing is extracted
    complaints  {path: line about it}, printed at the end
    broken      paths of those that cannot be read, are no CBA files, or are damaged
    extracted, fresh, taken  paths below folder, of all files, as CBA has them
    refused     (name, reason) of FILEs that could not be written
    hostnames   as a CBA has them, of all files
    modules     {of the entries last read: how many}
    unique      of --unique, None without
    """

    def __init__(self, paths, folder=None, wanted=(), overwrite=False):
        self.paths, self.overwrite = paths, overwrite
        self.folder, self.wanted = folder, wanted if folder else ()
        self.copies = {}                # path: seekable copy of what came out of a pipe
        self.complaints, self.broken = {}, set()
        self.extracted, self.fresh, self.refused = set(), [], []
        self.taken, self.hostnames = {}, {}
        self.modules = collections.Counter()
        self.unique = None

    def entries(self, module=None, code=None):
        """Yield (path, entry) of the entries of a module, None = all, that have a code."""
        self.modules.clear()
        for path in self.paths:
            try:
                with self.open(path) as file:
                    cba = CBA(file, self.folder, self.wanted, self.overwrite)
                    cba.extracted, cba.refused = self.extracted, self.refused
                    cba.hostnames = self.hostnames
                    cba.fresh, cba.taken = self.fresh, self.taken
                    for entry in cba.entries():
                        self.modules[entry.module] += 1
                        if self.wants(entry, module, code):
                            yield path, entry
                    self.judge(path, cba)
            except OSError as error:
                self.complain(path, '%r: %s' % (path, why(error)))

    def wants(self, entry, module, code):
        """Is it of this module (None = all), has it this code, is it the first of its kind?"""
        return (module in (None, entry.module) and (code is None or code in entry.dict)
                and (self.unique is None or self.unique.first(entry)))

    def begin(self, path) -> int:
        """Unix seconds of a file's first statistics; without any, of its last change; or 0."""
        try:
            with self.open(path) as file:
                cba = CBA(file)
                for _ in cba.entries():
                    if cba.time:
                        return cba.time
                return cba.time or int(os.fstat(file.fileno()).st_mtime)
        except OSError:
            return 0                # entries() gives the reason

    def records(self, module, code, timed):
        """Yield the Record of each entry; if they must be timed, as near as the file has it."""
        begin = {} if timed else dict.fromkeys(self.paths, 0)
        for path, entry in self.entries(module, code):
            if not entry.time and path not in begin:
                begin[path] = self.begin(path)
            yield Record(path, entry.module, entry.events, CODES.get(entry.module, {}),
                         entry.time or begin[path])

    def open(self, path):
        """A file at its beginning, or a copy of the pipe that it is."""
        if path not in self.copies:
            file = open('/dev/stdin' if path == '-' else path, 'rb')
            if file.seekable():
                return file
            with file:
                self.copies[path] = seekable_copy(file)
        copy = os.fdopen(os.dup(self.copies[path].fileno()), 'rb')
        copy.seek(0)
        return copy

    def has_any(self) -> bool:
        """Is one of them a CBA file, or empty, so that headings have something below them?"""
        for path in self.paths:
            try:
                with self.open(path) as file:
                    if file.read(1) in (b'', b'L', b'B'):
                        return True
            except OSError:
                continue            # entries() gives the reason
        return False

    def judge(self, path, cba):
        """What there is to say of a file that has been read."""
        if cba.cut.startswith('first octet'):
            self.complain(path, '%r: not a CBA file: %s' % (path, cba.cut))
        elif cba.cut:
            self.complain(path, '%s: %s; everything before it was read'
                          % (printable(path), cba.cut), not cba.torn)

    def complain(self, path, line, broken=True):
        self.complaints[path] = line
        if broken:
            self.broken.add(path)


def report(files, args, module, code):
    """--extract, entries one by one, or statistics and results."""
    if args.extract:
        extract(files, module)
    elif args.to:
        convert(files, args, module if args.s == args.r else 'cscan' if args.s else '', code)
    elif args.module is not None:
        emit(entry_text(entry, code) for _, entry in files.entries(module, code))
    else:
        headed = files.has_any()
        if args.s or not args.r:
            emit(['Stats:'] * headed)
            emit(line for _, entry in files.entries('cscan') for line in report_stats(entry))
        if args.s == args.r and headed:
            emit([''])
            say_results()
        if args.r or not args.s:
            emit(printable(str(entry.dict.get(0, ''))) for _, entry in files.entries(''))
    if args.module is None and not args.extract and (args.r or not args.s):
        hint_modules(files)
    if module not in files.modules and args.module is not None and files.modules:
        say('no entry of module %r: there are %s'
            % (module, ', '.join(repr(name) for name in sorted(files.modules))))


def hint_modules(files):
    """Open ports were asked for, and the files have none, but entries of modules."""
    others = sorted(set(files.modules).difference(('',) + OF_SCAN))
    if others and '' not in files.modules:
        say('no entry for an open port itself; there are entries of %s: --module NAME or --json '
            'shows them' % ', '.join('%r (%d)' % (name, files.modules[name]) for name in others))


def command_line() -> str:
    """What was typed."""
    return ' '.join(shlex.quote(word) for word in ['cba_reader.py'] + sys.argv[1:])


def convert(files, args, module, code):
    """--to: entries as records; the document begins and ends with their times."""
    command = command_line()
    make = PageWriter if args.to == 'html' else FormatWriter
    writer = make(args.to, 'cscan', command, lambda name: CODES.get(name, {}),
                  not args.no_header, args.group)
    writer.hostnames = files.hostnames
    if args.to == 'html':
        writer.known = Annotations(args.country_db, args.as_db, args.reverse)
    strange = collections.Counter()     # modules whose entries have no place
    timed = args.to != 'json' or args.group
    emit(document(files.records(module, code, timed), writer, strange), '')
    strange.subtract({name: strange[name] for name in OF_SCAN})     # they name no target
    strange = +strange
    if strange:
        say('--to %s has no place for the entries of %s; --json shows them' % (args.to, ', '.join(
            '%r (%d)' % (name, count) for name, count in sorted(strange.items()))))


def document(records, writer, strange):
    """Yield the text of records in a format; strange counts modules of those it cannot hold."""
    last = 0
    for record in records:
        last = max(last, record.time)
        left_out = writer.left_out
        for line in writer.begin(record.time) + writer.record(record):
            yield line + '\n'
        strange[record.module] += writer.left_out - left_out
        reason = writer.held and writer.held.full()
        if reason:
            say('warning: %s: they are written now, and hosts may come again' % reason)
            yield from hosts_text(writer)
    last = last or int(time.time())
    for line in writer.begin(last):
        yield line + '\n'
    yield from hosts_text(writer)
    for line in writer.end(last):
        yield line + '\n'


def hosts_text(writer):
    """Yield the text of the hosts that are held, and forget them."""
    for host in writer.hosts():
        yield from writer.host(host)
    if writer.held:
        writer.held.clear()


def say_results():
    """The original prints this heading on stderr, so that stdout holds results only."""
    flush()
    sys.stderr.write('Results:\n')


def extract(files, module):
    """--extract: write files, print their paths, and report those that could not be written."""
    for _ in itertools.chain(files.entries(module), [None]):
        emit(sorted(files.fresh))
        del files.fresh[:]
    for name, reason in files.refused:
        say('%s: not extracted: %s' % (printable(name), reason))


if __name__ == '__main__':
    sys.exit(main())
